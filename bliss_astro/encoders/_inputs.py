# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Inputs of an encoder: the image and what describes it, as channels.
"""

import dataclasses
import math

import torch

from bliss_astro._arguments import must
from bliss_astro.exposures._exposure import USUAL_BACKGROUND_ERROR, USUAL_PSF_ERROR
from bliss_astro.posteriors import TileCatalog
from bliss_astro.posteriors._grid import Rows
from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, LOG_AREA

from ._config import (
    EXACT_PSF_ERROR,
    FEATURES,
    LEAST_NOISE_EXCESS,
    REFERENCE_NOISE,
    REFERENCE_PSF,
)
from ._layers import clip_features, joined_channels

# Number of conditions of a band, and of uncertainties among the inputs.
N_CONDITIONS, N_UNCERTAINTIES = 14, 6
# Names of the arrays of pixels, and of all that each band has its own of.
PIXELS = ('image', 'mask')
OF_BANDS = (*PIXELS, 'log_noise', 'correlation', 'psf', 'description')
OF_BANDS += ('psf_error', 'background_error', 'asymmetry', 'band', 'log_scale')


@dataclasses.dataclass
class EncoderInputs(Rows):
    """
    Inputs of an encoder: one list of channels, whatever the survey.

    Everything is dimensionless: pixels and fluxes in units of the noise of
    empty sky, so only the product of noise and gain, the noise in electrons,
    matters.  B images have F bands each, the first of which is the reference band,
    whose fluxes are inferred.  Constants of an image have spatial size 1 x 1, maps
    that of the tiles.

    Attributes
    ----------
    image : tensor ``(B, F, ny, nx)``
        ``(data - background) / bkg_error``; 0 at bad pixels.

    mask : tensor ``(B, F, ny, nx)`` of bool
        `True` for bad pixels.

    log_noise : tensor ``(B, F, 1, h, w)``
        Logarithm of ``bkg_error * effective_gain``: the noise in electrons.

    correlation : tensor ``(B, F, 2, h, w)``
        Correlation of the noise of neighbouring pixels in x and y.

    psf : tensor ``(B, F, 8, h, w)``
        Shape parameters of the effective PSF.

    log_density : tensor ``(B, 1, h, w)``
        Logarithm of the prior density of sources per pixel.

    log_flux_floor : tensor ``(B, 1, h, w)``
        Logarithm of the prior's smallest flux in the reference band, in units of its
        noise.

    normalization_radius : float
        Normalisation radius of the PSF in pixels.

    description : tensor ``(B, F, 8, h, w)`` or None
        ``GaussianPSF.describe`` of ``psf``, where it was computed
        before; a large map is described on a coarser grid.

    population : tensor ``(B, 1, 1, 1)`` or None
        Which prior of stars and galaxies holds: 0 the sky's, 1 that of the
        NPE paper; `None` where there are only stars.

    psf_error : tensor ``(B, F, 1, h, w)`` or None
        Stated relative error of the PSF's width; `None` for 1 %.

    background_error : tensor ``(B, F, 1, h, w)`` or None
        Stated error of the background in units of the noise; `None` for 0.05.

    asymmetry : tensor ``(B, F, 4, h, w)`` or None
        Coma and trefoil of the PSF, ``asymmetry_of_image``; `None`
        for a symmetric PSF.

    present : tensor ``(B, F)`` of bool or None
        Bands that exist, by default all; the others are left out, and what they have
        but ``band`` is replaced. The reference band always exists.

    band : tensor ``(B, F, 2, 1, 1)`` or None
        Natural logarithms of the effective wavelengths and widths of the bands over
        those of r of SDSS; `None` for 0.

    log_scale : tensor ``(B, F, 1, h, w)`` or None
        Logarithm of the noise of a pixel in a unit of flux density that all bands
        share, over that in the reference band; `None` for 0.

    log_nmgy : tensor ``(B, 1, h, w)`` or None
        Logarithm of the noise of a pixel in the reference band in nmgy, from which
        magnitudes follow; NaN or `None` where unknown.

    sound : bool
        Whether bands that are absent have sound numbers already; else they get some.

    Raises
    ------
    ValueError
        If the images lack the axis of bands.
    """

    image: torch.Tensor
    mask: torch.Tensor
    log_noise: torch.Tensor
    correlation: torch.Tensor
    psf: torch.Tensor
    log_density: torch.Tensor
    log_flux_floor: torch.Tensor
    normalization_radius: float = DEFAULT_NORMALIZATION_RADIUS
    description: torch.Tensor | None = None
    population: torch.Tensor | None = None
    psf_error: torch.Tensor | None = None
    background_error: torch.Tensor | None = None
    asymmetry: torch.Tensor | None = None
    present: torch.Tensor | None = None
    band: torch.Tensor | None = None
    log_scale: torch.Tensor | None = None
    log_nmgy: torch.Tensor | None = None
    sound: bool = False

    def __post_init__(self):
        if self.image.dim() != 4:
            found = tuple(self.image.shape)
            raise ValueError(must('image', 'have the axes (B, F, ny, nx)', found))
        if self.present is None:
            self.present = torch.ones_like(self.mask[..., 0, 0])
        zeros = self.image.new_zeros(*self.present.shape, 2, 1, 1)
        self.band = zeros if self.band is None else self.band
        self.log_scale = zeros[:, :, :1] if self.log_scale is None else self.log_scale
        if self.present.shape[1] > 1 and not self.sound:
            self._replace_absent()
            self.sound = True

    def _replace_absent(self):
        # Sound numbers of a band that exists, and no pixels: what is masked later must
        # be finite, or its gradient is not.
        at = range(len(self.present)), self.present.long().argmax(1)
        blank = {'image': 0.0, 'mask': True}
        for name in OF_BANDS:
            value = getattr(self, name)
            if value is None or name == 'band':
                continue
            sound = value[at][:, None]
            sound = torch.full_like(sound, blank[name]) if name in blank else sound
            exists = self.present.view(*self.present.shape, *(value.dim() - 2) * [1])
            setattr(self, name, torch.where(exists, value, sound))

    @property
    def gaussians(self) -> GaussianPSF:
        """The PSF, `~bliss_astro.psf.GaussianPSF` of the batch ``(B, F, h, w)``."""
        shape, radius = self.psf.movedim(2, -1), self.normalization_radius
        return GaussianPSF.from_shape(shape, normalization_radius=radius)

    @classmethod
    def of_band(cls, **values) -> 'EncoderInputs':
        """
        Return the inputs of one band.

        Parameters
        ----------
        **values
            Attributes without the axis of bands: images ``(B, ny, nx)``, all else
            ``(B, C, h, w)``.
        """
        own = [n for n in OF_BANDS if values.get(n) is not None]
        return cls(**values | {name: values[name][:, None] for name in own})

    @classmethod
    def from_batch(cls, batch, *, tile_size=4, normalization_radius=None):
        """
        Return the inputs of simulated images.

        Parameters
        ----------
        batch : `~bliss_astro.simulation.SimulatedImages`
            Simulated images.

        tile_size : int, optional
            Side of a tile in pixels.

        normalization_radius : float, optional
            Normalisation radius of the PSF in pixels.

        Returns
        -------
        inputs : `EncoderInputs`
            One band, with a map of the density where a region or a cluster confines
            sources.
        """
        noise = batch.bkg_error
        image = (batch.data - batch.background[:, None, None]) / noise[:, None, None]

        names = ('correlation', 'psf', 'population')
        names += ('psf_error', 'background_error', 'asymmetry')
        constants = {name: getattr(batch, name) for name in names} | {
            'log_noise': torch.log(noise * batch.effective_gain),
            'log_flux_floor': torch.log(batch.flux_min / noise),
        }
        return cls.of_band(
            image=image.masked_fill(batch.mask, 0.0),
            mask=batch.mask,
            log_density=batch.density_map(tile_size).log()[:, None],
            normalization_radius=normalization_radius or DEFAULT_NORMALIZATION_RADIUS,
            **{
                name: None if value is None else value.reshape(len(value), -1, 1, 1)
                for name, value in constants.items()
            },
        )

    @classmethod
    def from_bands(cls, bands, *, tile_size=4, normalization_radius=None):
        """
        Return the inputs of images simulated in several bands.

        Parameters
        ----------
        bands : `~bliss_astro.simulation.SimulatedBands`
            Simulated images, the reference band first.

        tile_size, normalization_radius : optional
            As for `from_batch`.

        Returns
        -------
        inputs : `EncoderInputs`
            All bands; density, flux floor and population are those of the first.
        """
        kind = {'tile_size': tile_size, 'normalization_radius': normalization_radius}
        parts = [cls.from_batch(own, **kind) for own in bands.images]
        values = {n: [getattr(part, n) for part in parts] for n in OF_BANDS}
        values = {n: torch.cat(v, 1) for n, v in values.items() if v[0] is not None}
        noise = [own.bkg_error / own.electrons_per_nmgy for own in bands.images]
        log_noise = torch.stack(noise, 1).log()[..., None, None, None]
        values['log_scale'] = log_noise - log_noise[:, :1]
        values |= {'band': bands.bands[..., None, None], 'present': bands.present}
        values['log_nmgy'] = log_noise[:, 0]
        return dataclasses.replace(parts[0], sound=False, **values)

    def in_band(self, index, images=slice(None)) -> 'EncoderInputs':
        """Return the inputs of one band, by its place, and of some of the images."""
        if self.image.shape[1] == 1:
            return self
        names = (n for n in (*OF_BANDS, 'present') if getattr(self, n) is not None)
        own = {name: getattr(self, name)[:, index : index + 1] for name in names}
        return dataclasses.replace(self, **own).select(images)

    @classmethod
    def concatenate(cls, parts, *, tile_size=4) -> 'EncoderInputs':
        """
        Inputs of images of one size as one batch.

        Parameters
        ----------
        parts : list of `EncoderInputs`
            To be joined along the batch.

        tile_size : int, optional
            Side of a tile in pixels.
        """
        full = [-(-n // tile_size) for n in parts[0].image.shape[2:]]

        def join(name):
            own = [getattr(part, name) for part in parts]
            if len({v.shape[2:] for v in own}) > 1:
                own = [v.expand(*v.shape[:-2], *full) for v in own]
            return torch.cat(own)

        return parts[0].with_tensors(join)

    def to(self, device) -> 'EncoderInputs':
        """Return the same inputs on another device."""
        return self.with_tensors(lambda name: getattr(self, name).to(device))

    def conditions(self, *, psf_range=None) -> torch.Tensor:
        """
        Conditions of the bands, scaled to about unit size: ``(B, F, 14, h, w)``.

        Among them is the signal-to-noise ratio at the flux floor, which
        sets how hard the faintest sources are.

        Parameters
        ----------
        psf_range : pair of sequences of 8 floats, optional
            Lowest and highest values of the PSF's features, to which they are
            clipped; by default those of wings are kept above ``WING_FLOOR``.
        """
        return joined_channels(*self.condition_parts(psf_range=psf_range))

    def condition_parts(self, *, psf_range=None):
        """Parts of the conditions, constants as they are."""
        described = self.described()
        log_flux_floor = self.log_flux_floor[:, None]
        log_snr = log_flux_floor - self.log_error(described)
        return [
            FEATURES['log_noise'](self.log_noise),
            FEATURES['correlation'](self.correlation),
            clip_features(described, psf_range),
            FEATURES['log_density'](self.log_density[:, None]),
            FEATURES['log_flux_floor'](log_flux_floor),
            FEATURES['log_snr'](log_snr),
        ]

    def described(self):
        """The PSF's ``description``, computed where there is none."""
        if self.description is not None:
            return self.description
        return self.gaussians.describe().movedim(-1, 2)

    def log_error(self, described):
        """Logarithm of the error of a faint star's flux over the noise of a pixel."""
        log_area = described[:, :, 1:2] + LOG_AREA
        return 0.5 * (log_area + torch.log(self.noise_excess()))

    def stated(self):
        """Errors of PSF and background, and asymmetries, usual ones by default."""

        def stated(value, usual):
            shape = (*self.present.shape, 1, 1, 1)
            return self.log_noise.new_full(shape, usual) if value is None else value

        return (
            stated(self.psf_error, USUAL_PSF_ERROR),
            stated(self.background_error, USUAL_BACKGROUND_ERROR),
            stated(self.asymmetry, 0.0).expand(-1, -1, 4, -1, -1),
        )

    def uncertainties(self) -> torch.Tensor:
        """
        Errors of PSF and background, 0 at their usual values, and the PSF's asymmetry.

        Scaled to about unit size: tensor ``(B, F, 6, h, w)``.
        """
        psf_error, background_error, asymmetry = self.stated()
        ratio = psf_error.clamp(min=EXACT_PSF_ERROR) / USUAL_PSF_ERROR
        return joined_channels(
            torch.where(
                psf_error < USUAL_PSF_ERROR,
                FEATURES['log_psf_error'](torch.log(ratio)),
                FEATURES['psf_error'](psf_error - USUAL_PSF_ERROR),
            ),
            FEATURES['background_error'](background_error - USUAL_BACKGROUND_ERROR),
            FEATURES['asymmetry'](asymmetry),
        )

    def masked(self, conditioning) -> 'EncoderInputs':
        """
        Return the inputs with a reference PSF and noise in place of their own.

        The image is then in units of the reference noise.

        Parameters
        ----------
        conditioning : {'all', 'image+background', 'image'}
            Inputs that stay: all; all but the PSF; neither PSF nor noise.
        """
        if conditioning == 'all':
            return self
        psf = self.psf.new_tensor(REFERENCE_PSF)[:, None, None]
        psf = psf.expand(*self.present.shape, 8, 1, 1)
        changed = {'psf': psf, 'description': None}
        if conditioning == 'image':
            log_noise = math.log(REFERENCE_NOISE)
            log_ratio = self.log_noise.mean((3, 4), keepdim=True) - log_noise
            changed['image'] = self.image * log_ratio.exp()[:, :, 0]
            changed['log_noise'] = torch.full_like(log_ratio, log_noise)
            changed['log_flux_floor'] = self.log_flux_floor + log_ratio[:, 0]
        return dataclasses.replace(self, **changed)

    def noise_excess(self) -> torch.Tensor:
        """Return the sum of the noise's correlation over lags, ``(B, F, 1, h, w)``."""
        both = 1 + 2 * self.correlation
        return both.prod(2, keepdim=True).clamp(min=LEAST_NOISE_EXCESS)

    def at_tiles(self, value, images, rows, columns):
        """Return values ``(N, ...)`` of a constant or map at given tiles."""
        rows = rows if value.shape[-2] > 1 else torch.zeros_like(rows)
        columns = columns if value.shape[-1] > 1 else torch.zeros_like(columns)
        return value[images, ..., rows, columns]


def training_pair(images, *, tile_size=4, n_most=2):
    """Return the inputs of simulated images and their truth by tile."""
    several = hasattr(images, 'reference')  # without an import of simulations
    make = EncoderInputs.from_bands if several else EncoderInputs.from_batch
    inputs = make(images, tile_size=tile_size)
    return inputs, TileCatalog.from_batch(images, tile_size=tile_size, n_most=n_most)
