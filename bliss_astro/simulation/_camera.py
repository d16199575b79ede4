# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of simulated skies: render, add noise, align, stack.
"""

import dataclasses

import torch

from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, broaden_shape
from bliss_astro.rendering._torch import render_stars, star_factors

from ._images import SimulatedImages
from ._noise import BadPixelPrior, add_noise, coadd_noise, correlate

__all__ = ['Camera', 'Fields', 'align_bilinear', 'draw_dithers', 'effective_psf']

# Pixels of exposures that are stacked at a time on a CPU: some megabytes, its cache.
_CACHE_PIXELS = 300_000


@dataclasses.dataclass
class Fields:
    """
    Observing conditions of B images, in electrons of one exposure.

    Attributes
    ----------
    psf : tensor ``(B, 8)``
        Shapes of the PSFs of the exposures.

    background, read_noise, electrons_per_nmgy : tensor ``(B,)``
        Sky, noise of the read-out, and calibration.

    dither : tensor ``(B, d, 2)``
        Dithers of the d exposures in x and y in pixels.

    pixel_scale : float
        Side of a pixel in arcsec.
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
    place = torch.rand(n_images, depth, 2, generator=generator, device=device)
    return (2 * place - 1) * largest


def _taps(dither):
    """Weights of the pixels before, at and after; one of the outer two is zero."""
    return torch.relu(-dither), 1 - dither.abs(), torch.relu(dither)


def interpolate_last(values, dither):
    """Values at ``k + dither`` of the last axis, for k from 1 to n - 2."""
    before, here, after = _taps(dither)
    out = values[..., 1:-1] * here
    return out.addcmul_(values[..., :-2], before).addcmul_(values[..., 2:], after)


def align_bilinear(images, dither):
    """
    Resample dithered exposures onto the undithered grid.

    Parameters
    ----------
    images : tensor ``(..., ny, nx)``
        Exposures; a source at ``(x, y)`` of the reference grid lies at
        ``(x + dither[..., 0], y + dither[..., 1])`` in the exposure.

    dither : tensor ``(..., 2)``
        Dithers in x and y, at most one pixel in size.

    Returns
    -------
    aligned : tensor ``(..., ny - 2, nx - 2)``
        Bilinear interpolation at the reference pixels; the outermost row
        and column, which an exposure may not cover, are cropped.
    """
    # Three multiplications a pixel and axis: half the time of two products
    # with banded matrices.
    across = interpolate_last(images, dither[..., 0, None, None])
    before, here, after = _taps(dither[..., 1, None, None])
    out = across[..., 1:-1, :] * here
    return out.addcmul_(across[..., :-2, :], before).addcmul_(across[..., 2:, :], after)


def effective_psf(psf, dither, kernel):
    """
    PSF of a coadd: broader, and longer along the axis of the larger dithers.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        Shapes of the PSFs of the exposures.

    dither : tensor ``(B, d, 2)``
        Dithers in pixels in x and y.

    kernel : tensor ``(B,)``
        Mean variance of the interpolation, from `coadd_noise`.

    Returns
    -------
    psf : tensor ``(B, 8)``
        Shapes of the PSFs of the coadds.
    """
    size = dither.abs()
    along = (size * (1 - size)).mean(-2)
    wide = broaden_shape(psf, kernel)
    stretch = (along[:, 0] - along[:, 1]) / (2 * psf[:, 0] ** 2 + along.sum(-1))
    # The ellipticities that the PSF's formula allows.
    wide[:, 6] = (wide[:, 6] + stretch).clamp(-0.3, 0.3)
    return wide


@dataclasses.dataclass(frozen=True)
class Camera:
    """
    Detector and reduction: how fields become images.

    Parameters
    ----------
    shape : tuple of int
        ``(ny, nx)`` of the images.

    noise_order : {'before_alignment', 'after_alignment'}
        Whether noise is added to the exposures or to the aligned ones.

    bad_pixels : `BadPixelPrior` or None
        Distribution of the bad pixels.

    normalization_radius : float
        Radius in pixels within which PSFs are normalised.

    tolerance : float
        Error of the renderer relative to a star's peak.
    """

    shape: tuple[int, int]
    noise_order: str = 'before_alignment'
    bad_pixels: BadPixelPrior | None = None
    normalization_radius: float = DEFAULT_NORMALIZATION_RADIUS
    tolerance: float = 1e-4

    def noise(self, fields):
        """`coadd_noise` of coadds."""
        interpolated = fields.depth > 1 and self.noise_order == 'before_alignment'
        return coadd_noise(fields.dither, interpolated=interpolated)

    def effective_psf(self, fields, *, elongated):
        """PSFs ``(B, 8)`` of images, with or without their elongation by dithers."""
        if fields.depth == 1:
            return fields.psf
        kernel = self.noise(fields)[-1]
        if elongated:
            return effective_psf(fields.psf, fields.dither, kernel)
        return broaden_shape(fields.psf, kernel)

    def render(self, psf, x, y, flux):
        """Noiseless images ``(B, ny, nx)`` of stars."""
        return render_stars(
            psf,
            x,
            y,
            flux,
            size=self.shape,
            radius=self.normalization_radius,
            tolerance=self.tolerance,
        )

    def observe(self, fields, sources, *, stars, extended=None, generator=None):
        """
        Expose, align and stack the images of sources.

        Parameters
        ----------
        fields : `Fields`
            Observing conditions.

        sources : `~bliss_astro.simulation._sources.Sources`
            Sources, the truth.

        stars : tuple of tensor ``(B, S)``
            Positions and fluxes of the stars to render; flux 0 in unused places.

        extended : tensor ``(B, ny, nx)``, optional
            Mean electrons of other light, as it lies on the coadd. Its photon noise
            gets the correlation that the alignment gives to noise on average.

        generator : `torch.Generator`, optional
            Source of randomness.

        Returns
        -------
        images : `SimulatedImages`
            Images that state what is true of them.
        """
        ratio, *correlation, _ = self.noise(fields)
        if fields.depth == 1:
            signal = self.render(fields.psf, *stars)
            data = add_noise(
                signal if extended is None else signal + extended,
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
        ny, nx = self.shape
        n_images, n_exposures = dither.shape[:2]

        def per_exposure(value):
            return value.repeat_interleave(n_exposures, 0)

        shifts = dither.flatten(0, 1)
        shift_x, shift_y = shifts[:, 0, None, None], shifts[:, 1, None, None]
        # Exposures carry one more pixel on each side.
        along_y, along_x = star_factors(
            per_exposure(psf),
            (x[:, None] + dither[..., :1] + 1).flatten(0, 1),
            (y[:, None] + dither[..., 1:] + 1).flatten(0, 1),
            per_exposure(flux),
            size=(ny + 2, nx + 2),
            radius=self.normalization_radius,
            tolerance=self.tolerance,
        )
        background = per_exposure(background)[:, None, None]
        read = per_exposure(read_noise)[:, None, None] if read_noise.any() else 0.0
        noise = {'read_noise': read, 'generator': generator}
        # The signal is aligned by its factors, which are small.
        aligned = interpolate_last(along_y, shift_y).transpose(1, 2) @ (
            interpolate_last(along_x, shift_x)
        )
        if self.noise_order == 'before_alignment':
            exposed = add_noise(along_y.transpose(1, 2) @ along_x, background, **noise)
            data = align_bilinear(exposed, shifts)
        else:
            data = add_noise(aligned, background, **noise)
        weight = aligned.add_(background + read**2).reciprocal_()
        stacked = (n_images, n_exposures, ny, nx)
        data = data.mul_(weight).view(stacked).sum(1)
        return data / weight.view(stacked).sum(1)
