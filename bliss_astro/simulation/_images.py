# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images with their truth, as tensors and as FITS files.
"""

import dataclasses

import astropy.units as u
import numpy as np
import torch
from astropy.io import fits
from astropy.table import QTable

from bliss_astro import __version__
from bliss_astro._arguments import require
from bliss_astro._atomic import atomic_write
from bliss_astro._fits import CREATOR, file_name
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._bands import band_cards, find_band
from bliss_astro.exposures._read import change_own_file, register_fits_format
from bliss_astro.psf import GaussianPSF, PSFModel

# Least density of sources per pixel, and that where there are none.
LEAST_DENSITY = 1e-7
# Attributes with an axis of sources.
OF_SOURCES = ('x', 'y', 'flux', 'is_galaxy', 'galaxy', 'further')
OF_SOURCES += ('log_ratio', 'disk_fraction')


@dataclasses.dataclass
class SimulatedImages:
    """
    B simulated images of one size with their truth, as tensors on one device.

    Pixels and fluxes are electrons of one exposure (coadds are means).

    Attributes
    ----------
    data : tensor ``(B, ny, nx)``
        Images, with the background in them.

    background, bkg_error, effective_gain : tensor ``(B,)``
        Stated level of the sky, noise of a pixel of empty sky, and electrons per
        unit of data in the noise of a source.

    correlation : tensor ``(B, 2)``
        Correlation of the noise of neighbouring pixels in x and y.

    psf : tensor ``(B, 8)``
        Stated shape of the effective PSF.

    mask : tensor ``(B, ny, nx)`` of bool
        `True` for bad pixels.

    x, y, flux : tensor ``(B, S)``
        Positions in pixels and fluxes of the sources; flux 0 in unused places. Some
        lie outside of the image or below the flux floor.

    is_galaxy : tensor ``(B, S)`` of bool or None
        Types; `None` for stars alone, as are the two next.

    galaxy : tensor ``(B, S, 6)`` or None
        Shapes in the order of ``GALAXY_SHAPE_NAMES``, radii in pixels, or latent
        vectors of a learned galaxy model; without meaning for stars.

    density, flux_min : tensor ``(B,)`` or None
        Expected number of sources per pixel above the flux floor, and that floor;
        `None` for stamps, as is the next.

    region : tensor ``(B, 4)`` or None
        ``x_low, x_high, y_low, y_high`` of the rectangle that holds all sources.

    population : tensor ``(B,)`` or None
        0 for the prior of the sky, 1 for that of the NPE paper.

    electrons_per_nmgy, read_noise : tensor ``(B,)`` or None
        Calibration and noise of the read-out of one exposure.

    cluster : tensor ``(B, 3)`` or None
        Centre in x and y and radius in pixels of the circle that holds all sources;
        an infinite radius where there is none.

    psf_error, background_error : tensor ``(B,)`` or None
        Stated relative error of the PSF's width, and error of the background in
        units of the noise.

    asymmetry : tensor ``(B, 4)`` or None
        Stated asymmetry of the PSF, ``asymmetry_of_image``.

    noiseless : tensor ``(B, ny, nx)`` or None
        Light of the sources alone, of stamps of galaxies.

    further : tensor ``(B, S, D)`` or None
        Values of further parameters of the sources, one beside the other.
    """

    data: torch.Tensor
    background: torch.Tensor
    bkg_error: torch.Tensor
    effective_gain: torch.Tensor
    correlation: torch.Tensor
    psf: torch.Tensor
    mask: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    is_galaxy: torch.Tensor | None = None
    galaxy: torch.Tensor | None = None
    density: torch.Tensor | None = None
    flux_min: torch.Tensor | None = None
    region: torch.Tensor | None = None
    population: torch.Tensor | None = None
    electrons_per_nmgy: torch.Tensor | None = None
    read_noise: torch.Tensor | None = None
    cluster: torch.Tensor | None = None
    psf_error: torch.Tensor | None = None
    background_error: torch.Tensor | None = None
    asymmetry: torch.Tensor | None = None
    noiseless: torch.Tensor | None = None
    further: torch.Tensor | None = None

    def __len__(self):
        return len(self.data)

    @property
    def count(self) -> torch.Tensor:
        """Number of sources of each image, ``(B,)``."""
        return (self.flux > 0).sum(1)

    @property
    def variance(self) -> torch.Tensor:
        """Variance of a pixel of empty sky, ``(B,)``."""
        return self.bkg_error**2

    @property
    def snr(self) -> torch.Tensor:
        """
        Signal-to-noise ratios of the sources of stamps, ``(B,)``.

        They are ``sqrt(sum(s**2 / (s + v)))`` with the noiseless light s of a pixel
        and the variance v of the sky.
        """
        return signal_to_noise(self.noiseless, self.variance)

    def density_map(self, tile_size):
        """
        Expected number of sources per pixel in the tiles.

        A tensor ``(B, 1, 1)``, or of maps ``(B, rows, columns)`` where a region or a
        cluster confines sources.
        """
        ny, nx = self.data.shape[1:]
        density = self.density.clamp(min=LEAST_DENSITY)[:, None, None]
        edges = self.region.new_tensor([0, nx - 1, 0, ny - 1])
        beyond = (self.region - edges) * edges.new_tensor([-1, 1, -1, 1])
        clustered = self.cluster is not None
        clustered = clustered and bool(self.cluster[:, 2].isfinite().any())
        if not clustered and bool((beyond >= 0).all()):
            return density
        x, y = (
            (torch.arange(-(-n // tile_size)).to(density) + 0.5) * tile_size - 0.5
            for n in (nx, ny)
        )
        y = y[:, None]
        x_low, x_high, y_low, y_high = self.region[:, :, None, None].unbind(1)
        inside = (x > x_low) & (x < x_high) & (y > y_low) & (y < y_high)
        if clustered:
            x_0, y_0, radius = self.cluster[:, :, None, None].unbind(1)
            inside = inside & (torch.hypot(x - x_0, y - y_0) < radius)
        return torch.where(inside, density, LEAST_DENSITY)

    def exposure(self, k=0, *, unit='electron', **given):
        """
        Return an image as an exposure.

        Parameters
        ----------
        k : int, optional
            Number of the image.

        unit : {'electron', 'nmgy'}, optional
            Unit of the exposure; nanomaggies need a calibration.

        **given
            Arguments of `~bliss_astro.exposures.Exposure` in place of those stated.

        Returns
        -------
        exposure : `~bliss_astro.exposures.Exposure`
            Image with background, noise, noise correlation, effective PSF and mask.

        Raises
        ------
        ValueError
            If ``unit`` is another one, or nmgy for images without calibration.
        """
        calibrated = self.electrons_per_nmgy is not None
        sound = unit in ('electron', 'nmgy')[: 1 + calibrated]
        allowed = "be 'electron', or 'nmgy' of calibrated images"
        require(sound, 'unit', allowed, f'{unit!r}')
        scale = 1.0 if unit == 'electron' else float(self.electrons_per_nmgy[k])
        unit = u.Unit(unit)
        known = {
            'background': float(self.background[k]) / scale * unit,
            'bkg_error': float(self.bkg_error[k]) / scale * unit,
            'effective_gain': float(self.effective_gain[k]) * scale,
            'mask': self.mask[k].cpu().numpy(),
            'psf': PSFModel.from_shape(self.psf[k].double().cpu().numpy()),
            'noise_correlation': tuple(self.correlation[k].tolist()),
        }
        for name in ('psf_error', 'background_error'):
            if getattr(self, name) is not None:
                known[name] = float(getattr(self, name)[k])
        return Exposure(self.data[k].cpu().numpy() / scale * unit, **known | given)

    def select(self, chosen) -> 'SimulatedImages':
        """
        Return some of the images.

        Parameters
        ----------
        chosen : slice or tensor
            Indices or a boolean mask.
        """
        return select(self, chosen)

    @classmethod
    def concatenate(cls, parts) -> 'SimulatedImages':
        """
        Join batches of images of one size.

        Parameters
        ----------
        parts : list of `SimulatedImages`
            Batches with the same attributes.

        Returns
        -------
        images : `SimulatedImages`
            One batch, places for sources padded to the largest number.
        """
        return concatenate(parts)


def signal_to_noise(light, variance):
    """Signal-to-noise ratios ``(B,)`` of all light of images; see `SimulatedImages`."""
    signal = light.clamp(min=0)
    return (signal**2 / (signal + variance[:, None, None])).sum((1, 2)).sqrt()


def concatenate(parts):
    """Several batches of images, fields or sources, dataclasses of tensors, as one."""
    joined = {}
    for name, value in vars(parts[0]).items():
        if isinstance(value, torch.Tensor):
            values = [getattr(part, name) for part in parts]
            joined[name] = (_padded if name in OF_SOURCES else torch.cat)(values)
    return dataclasses.replace(parts[0], **joined)


def _padded(tensors):
    """Joined tensors ``(B, S, ...)`` with zeros up to the largest number of places."""
    most = max(tensor.shape[1] for tensor in tensors)
    sizes = [len(tensor) for tensor in tensors]
    out = tensors[0].new_zeros(sum(sizes), most, *tensors[0].shape[2:])
    for place, tensor in zip(out.split(sizes), tensors, strict=True):
        place[:, : tensor.shape[1]] = tensor
    return out


def select(batch, chosen):
    """Some of the images or fields of a dataclass of tensors."""
    values, kinds = vars(batch).items(), torch.Tensor | GaussianPSF
    parts = {name: v[chosen] for name, v in values if isinstance(v, kinds)}
    return dataclasses.replace(batch, **parts)


# -- files -----------------------------------------------------------------------
# Pixels, cards, an extension MASK and a table TRUTH. The cards hold all numbers that
# describe the image, so that nothing is estimated when `Exposure.read` recognises it.

# Card of the version of the file format.
_FORMAT, _VERSION = 'BLISSIMG', 1
# Cards by attribute of an exposure; files of earlier versions lack the latter.
_NUMBERS = {
    'background': ('BKGLEVEL', 'sky that is in the image'),
    'bkg_error': ('BKGERROR', 'noise of a pixel of sky'),
    'effective_gain': ('EFFGAIN', 'electrons per unit'),
}
_ERRORS = {
    'psf_error': ('PSFERR', 'relative psf_error'),
    'background_error': ('BKGRELER', 'relative background_error'),
}
_META = {
    'n_exposures': 'NEXPOSE',
    'seed': 'SEED',
    'density': 'DENSITY',
    'flux_min': 'FLUXMIN',
}
_CORRELATION = ('NOISECX', 'NOISECY')
_PSF = ('PSFS1', 'PSFS2', 'PSFB', 'PSFSP', 'PSFP0', 'PSFBETA', 'PSFE1', 'PSFE2')


def is_simulated(hdus):
    """Whether an open HDU list is a file of `write_simulated`."""
    return _FORMAT in hdus[0].header


def write_simulated(exposure, truth, path, *, overwrite):
    """Write an exposure and the table of its sources, whole or not at all."""
    header = fits.Header()
    header[_FORMAT] = (_VERSION, 'image simulated by bliss-astro simulate')
    header['CREATOR'] = f'{CREATOR} {__version__}'
    header['BUNIT'] = exposure.unit.to_string()
    header.update(band_cards(exposure.band))
    for name, (card, comment) in (_NUMBERS | _ERRORS).items():
        header[card] = (float(getattr(exposure, name)), comment)
    for card, value in zip(_CORRELATION, exposure.noise_correlation, strict=True):
        header[card] = (float(value), 'noise correlation of neighbours')
    for card, value in zip(_PSF, exposure.psf.shape_vector, strict=True):
        header[card] = float(value)
    header['PSFRAD'] = (exposure.psf.normalization_radius, 'flux is within, pixels')
    for name, card in _META.items():
        if exposure.meta.get(name) is not None:
            header[card] = exposure.meta[name]
    units = {'x_centroid': 'pix', 'y_centroid': 'pix', 'mag': 'mag'}
    units['flux'] = header['BUNIT']
    columns = [
        fits.Column(name, 'D', unit=units[name], array=np.asarray(truth[name]))
        for name in ('x_centroid', 'y_centroid', 'flux', 'mag')
    ]
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(exposure.data.astype(np.float32), header),
            fits.ImageHDU(exposure.mask.astype(np.uint8), name='MASK'),
            fits.BinTableHDU.from_columns(columns, name='TRUTH'),
        ]
    )
    with atomic_write(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary, overwrite=True, checksum=True)


def read_simulated(hdus):
    """Read an open file of `write_simulated`: the exposure and its sources."""
    header = hdus[0].header
    try:
        known = {name: header[card] for name, (card, _) in _NUMBERS.items()}
        known |= {n: header[card] for n, (card, _) in _ERRORS.items() if card in header}
        exposure = Exposure(
            np.asarray(hdus[0].data, dtype=float),
            **known,
            unit=u.Unit(header['BUNIT']),
            band=find_band(header),
            mask=np.asarray(hdus['MASK'].data, dtype=bool),
            psf=PSFModel.from_shape(
                [header[card] for card in _PSF], normalization_radius=header['PSFRAD']
            ),
            noise_correlation=[header[card] for card in _CORRELATION],
            meta={name: header.get(_META[name]) for name in ('n_exposures', 'seed')},
        )
        rows = hdus['TRUTH'].data
        truth = QTable({name: np.asarray(rows[name], float) for name in rows.names})
        truth['flux'] = truth['flux'] * exposure.unit
        truth['mag'] = truth['mag'] * u.mag
    except KeyError as error:
        msg = f'{file_name(hdus)} is a simulated image, but incomplete: {error}'
        raise ValueError(msg) from error
    return exposure, truth


def _read_exposure(hdus, given):
    exposure, _ = read_simulated(hdus)
    return change_own_file(exposure, hdus, given, 'a simulated image')


register_fits_format('bliss_astro.simulated', _read_exposure, is_simulated)
