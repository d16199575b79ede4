# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images with their truth as tensors, and exposures: render, add noise, stack.
"""

import dataclasses

import torch

from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, broaden_shape
from bliss_astro.rendering._torch import render_stars, star_factors

from ._noise import BadPixelPrior, add_noise, coadd_noise, correlate, unit

# Attributes with an axis of sources.
_OF_SOURCES = ('x', 'y', 'flux', 'is_galaxy', 'galaxy')
# Pixels of exposures that are stacked at a time on a CPU: some megabytes, its cache.
_CACHE_PIXELS = 300_000
# Largest ellipticity that the PSF's formula allows.
_MAX_ELLIPTICITY = 0.3


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
        values = {
            name: [getattr(part, name) for part in parts]
            for name, value in vars(parts[0]).items()
            if value is not None
        }
        joined = {
            name: padded(tensors) if name in _OF_SOURCES else torch.cat(tensors)
            for name, tensors in values.items()
        }
        return cls(**joined)


def signal_to_noise(light, variance):
    """Signal-to-noise ratios ``(B,)`` of all light of images; see `SimulatedImages`."""
    signal = light.clamp(min=0)
    return (signal**2 / (signal + variance[:, None, None])).sum((1, 2)).sqrt()


def padded(tensors):
    """Joined tensors ``(B, S, ...)`` with zeros up to the largest number of places."""
    most = max(tensor.shape[1] for tensor in tensors)
    sizes = [len(tensor) for tensor in tensors]
    out = tensors[0].new_zeros(sum(sizes), most, *tensors[0].shape[2:])
    for place, tensor in zip(out.split(sizes), tensors, strict=True):
        place[:, : tensor.shape[1]] = tensor
    return out


def select(batch, chosen):
    """Some of the images or fields of a dataclass of tensors."""
    values = vars(batch).items()
    changes = {name: v if v is None else v[chosen] for name, v in values}
    return dataclasses.replace(batch, **changes)


@dataclasses.dataclass
class Fields:
    """
    Observing conditions of B images, in electrons of one exposure.

    PSFs ``(B, 8)`` of the exposures; sky, read noise and calibration ``(B,)``; dithers
    ``(B, d, 2)`` of the d exposures in x and y in pixels; side of a pixel in arcsec.
    """

    psf: torch.Tensor
    background: torch.Tensor
    read_noise: torch.Tensor
    electrons_per_nmgy: torch.Tensor
    dither: torch.Tensor
    pixel_scale: float

    def __len__(self):
        return len(self.psf)

    @property
    def depth(self):
        """Number d of exposures in a coadd."""
        return self.dither.shape[1]

    @property
    def variance(self):
        """Variance ``(B,)`` of a pixel of empty sky in one exposure."""
        return self.background + self.read_noise**2


def draw_dithers(n_images, depth, largest, *, generator, device):
    """Dithers ``(B, d, 2)``, uniform in a square; zeros for a single exposure."""
    if depth == 1:
        return torch.zeros(n_images, 1, 2, device=device)
    place = unit(n_images, depth, 2, generator=generator, device=device)
    return (2 * place - 1) * largest


def _interpolate(values, dither, axis):
    """Values at ``k + dither`` along an axis, for k from 1 to n - 2."""
    n = values.shape[axis] - 2
    before, here, after = (values.narrow(axis, k, n) for k in range(3))
    out = here * (1 - dither.abs())
    return out.addcmul_(before, torch.relu(-dither)).addcmul_(after, torch.relu(dither))


def align_bilinear(images, dither):
    """
    Resample dithered exposures ``(..., ny, nx)`` onto the undithered grid.

    A source at ``(x, y)`` of the reference grid lies at ``(x, y) + dither`` in the
    exposure, with dithers ``(..., 2)`` of at most a pixel. Of the aligned images the
    outermost rows and columns, which an exposure may not cover, are cropped.
    """
    # Three multiplications a pixel and axis: half the time of two products
    # with banded matrices.
    across = _interpolate(images, dither[..., 0, None, None], -1)
    return _interpolate(across, dither[..., 1, None, None], -2)


@dataclasses.dataclass(frozen=True)
class Camera:
    """
    Detector and reduction: how fields become images.

    PSFs are normalised within a radius in pixels; the tolerance is the error of the
    renderer relative to a star's peak.
    """

    shape: tuple[int, int]
    noise_order: str = 'before_alignment'
    bad_pixels: BadPixelPrior | None = None
    normalization_radius: float = DEFAULT_NORMALIZATION_RADIUS
    tolerance: float = 1e-4

    @property
    def _rendering(self):
        return {'radius': self.normalization_radius, 'tolerance': self.tolerance}

    def noise(self, fields):
        """`coadd_noise` of coadds."""
        interpolated = fields.depth > 1 and self.noise_order == 'before_alignment'
        return coadd_noise(fields.dither, interpolated=interpolated)

    def effective_psf(self, fields, *, elongated):
        """PSFs ``(B, 8)`` of images, with or without their elongation by dithers."""
        if fields.depth == 1:
            return fields.psf
        wide = broaden_shape(fields.psf, self.noise(fields)[-1])
        if elongated:
            size = fields.dither.abs()
            along = (size * (1 - size)).mean(-2)
            total = 2 * fields.psf[:, 0] ** 2 + along.sum(-1)
            wide[:, 6] += (along[:, 0] - along[:, 1]) / total
            wide[:, 6].clamp_(-_MAX_ELLIPTICITY, _MAX_ELLIPTICITY)
        return wide

    def render(self, psf, x, y, flux):
        """Noiseless images ``(B, ny, nx)`` of stars."""
        return render_stars(psf, x, y, flux, size=self.shape, **self._rendering)

    def observe(self, fields, sources, *, stars=None, extended=None, generator=None):
        """
        Expose, align and stack `Sources`: `SimulatedImages` that state what is true.

        Stars to render are positions and fluxes ``(B, S)``, 0 in unused places.
        Extended light ``(B, ny, nx)`` is as it lies on the coadd; its photon noise gets
        the correlation that the alignment gives to noise on average.
        """
        ratio, *correlation, _ = self.noise(fields)
        if fields.depth == 1:
            signal = 0 if extended is None else extended
            if stars is not None:
                signal = signal + self.render(fields.psf, *stars)
            data = add_noise(
                signal,
                fields.background[:, None, None],
                read_noise=fields.read_noise[:, None, None],
                generator=generator,
            )
        else:
            data = self._stack(fields, stars, generator)
            if extended is not None:
                noise = torch.empty_like(data).normal_(generator=generator)
                noise *= (extended.clamp(min=0) * ratio[:, None, None]).sqrt()
                data = data + extended + correlate(noise, *correlation)
        if self.bad_pixels is None:
            mask = torch.zeros_like(data, dtype=torch.bool)
        else:
            mask = self.bad_pixels.sample_batch(
                data, background=fields.background, generator=generator
            )
        return SimulatedImages(
            data=data,
            background=fields.background,
            bkg_error=(fields.variance * ratio).sqrt(),
            effective_gain=1 / ratio,
            correlation=torch.stack(correlation, -1),
            psf=self.effective_psf(fields, elongated=sources.is_galaxy is not None),
            mask=mask,
            electrons_per_nmgy=fields.electrons_per_nmgy,
            read_noise=fields.read_noise,
            **vars(sources),
        )

    def _stack(self, fields, stars, generator):
        """Coadds of stars alone, in pieces that fit into a CPU's cache."""
        ny, nx = self.shape
        out = torch.empty(len(fields), ny, nx, device=fields.psf.device)
        # Number of the last place that holds a star: bright stars follow galaxies.
        places = torch.arange(1, stars[2].shape[1] + 1, device=out.device)
        last = ((stars[2] > 0) * places).amax(1)
        piece = len(fields)
        if out.device.type == 'cpu':
            piece = max(1, _CACHE_PIXELS // (fields.depth * ny * nx))
        # Images of like numbers of stars together waste no places.
        for index in torch.argsort(last).split(piece):
            n_places = max(1, int(last[index].max()))
            parts = [value[index, :n_places] for value in stars]
            conditions = [
                getattr(fields, name)[index]
                for name in ('psf', 'background', 'read_noise', 'dither')
            ]
            out[index] = self._stack_piece(*parts, *conditions, generator)
        return out

    def _stack_piece(self, x, y, flux, psf, background, read_noise, dither, generator):
        (ny, nx), depth = self.shape, dither.shape[1]
        psf, flux, background, read_noise = (
            value.repeat_interleave(depth, 0)
            for value in (psf, flux, background, read_noise)
        )
        background, read_noise = background[:, None, None], read_noise[:, None, None]
        # Exposures carry one more pixel on each side.
        along_y, along_x = star_factors(
            psf,
            (x[:, None] + dither[..., :1] + 1).flatten(0, 1),
            (y[:, None] + dither[..., 1:] + 1).flatten(0, 1),
            flux,
            size=(ny + 2, nx + 2),
            **self._rendering,
        )
        shifts = dither.flatten(0, 1)
        noise = {'read_noise': read_noise, 'generator': generator}
        # The signal is aligned by its factors, which are small.
        aligned = _interpolate(along_y, shifts[:, 1, None, None], -1).mT @ _interpolate(
            along_x, shifts[:, 0, None, None], -1
        )
        if self.noise_order == 'before_alignment':
            exposed = add_noise(along_y.mT @ along_x, background, **noise)
            data = align_bilinear(exposed, shifts)
        else:
            data = add_noise(aligned, background, **noise)
        weight = aligned.add_(background + read_noise**2).reciprocal_()
        data = data.mul_(weight).unflatten(0, (-1, depth)).sum(1)
        return data / weight.unflatten(0, (-1, depth)).sum(1)
