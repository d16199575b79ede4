# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of simulated skies: render, add noise, align, stack.

`Draws` are the random numbers of all modules of simulations.
"""

import dataclasses
import math

import torch

from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS
from bliss_astro.rendering._batches import as_gaussians, render_stars, star_factors

from ._images import SimulatedImages, select

NOISE_ORDERS = ('before_alignment', 'after_alignment')
# Pixels of exposures that are stacked at a time on a CPU: some megabytes, its cache.
_CACHE_PIXELS = 300_000
# Largest correlation of neighbours that three weights give is the root of a half.
_MAX_CORRELATION = 0.7

# Largest |e1| of a coadd's PSF, which its exposures and the dithers of a few add up to;
# the formula would allow more.
_MAX_COADD_ELLIPTICITY = 0.3


class Draws:
    """Random numbers of a generator, on its device or another one."""

    def __init__(self, generator, device=None):
        self.generator = generator
        self.device = generator.device if device is None else device

    def unit(self, *shape):
        """Uniform numbers from 0 to 1."""
        return torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, *shape):
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def uniform(self, pair, *shape):
        """Uniform numbers of a range."""
        return along(pair, self.unit(*shape))

    def log_uniform(self, pair, *shape):
        """Numbers of a range whose logarithm is uniform."""
        return between(pair, self.unit(*shape))

    def coin(self, probability):
        """`True` with a probability."""
        return self.unit().item() < probability


def along(pair, place):
    """Value at a place from 0 to 1 of a range."""
    low, high = pair
    return low + (high - low) * place


def between(pair, place):
    """Value at a place from 0 to 1 of the logarithm of a range."""
    return torch.exp(along(map(math.log, pair), place))


def add_noise(signal, background, read_noise=0.0, *, generator=None):
    """
    Add the sky, its photon noise in the Gaussian approximation, and read noise.

    The likelihood of the coadd paper (Wang et al. 2022): the variance of a pixel is
    its mean, background plus signal, in electrons.
    """
    mean = signal + background
    noise = torch.empty_like(mean).normal_(generator=generator)
    return mean.addcmul_(noise, (mean + read_noise**2).sqrt_())


def coadd_noise(dither, *, interpolated=True):
    """
    Noise of equal-weight means of bilinearly aligned exposures.

    An exposure at dither u keeps ``(1 - |u|)**2 + u**2`` of its variance along each
    axis and acquires the covariance ``|u| (1 - |u|)`` with the next pixel: the sum over
    all lags is conserved. Of dithers ``(..., d, 2)``, returns the variance of a pixel
    over that in one exposure, the correlations with the next pixel in x and y, and the
    mean variance of the interpolation kernels in square pixels, by which the alignment
    broadens the PSF. Noise that is added after the alignment (not ``interpolated``) is
    independent.
    """
    size = dither.abs()
    n_exposures = dither.shape[-2]
    neighbour = size * (1 - size)  # lag-one covariance; also the kernel variance
    kernel_variance = neighbour.mean((-2, -1))
    if not interpolated:
        zero = torch.zeros_like(kernel_variance)
        return zero + 1 / n_exposures, zero, zero, kernel_variance
    own = 1 - 2 * neighbour
    total = own.prod(-1).sum(-1)
    correlation = (neighbour * own.flip(-1)).sum(-2) / total[..., None]
    return total / n_exposures**2, *correlation.unbind(-1), kernel_variance


def correlate(noise, correlation_x, correlation_y):
    """
    Give white noise ``(B, ny, nx)`` correlations of neighbours, at the same variance.

    The correlations ``(B,)`` in x and in y are from 0 to 0.7; larger ones count as
    that. Opposite edges of an image are neighbours, too: the kernel wraps round.
    """
    for axis, rho in ((-1, correlation_x), (-2, correlation_y)):
        # Weights (a, b, a) with b^2 + 2 a^2 = 1 and 2 a b = rho.
        rho = rho.clamp(max=_MAX_CORRELATION)
        square = (1 - (1 - 2 * rho**2).sqrt()) / 4
        side, middle = (v.sqrt()[:, None, None] for v in (square, 1 - 2 * square))
        around = torch.roll(noise, 1, axis) + torch.roll(noise, -1, axis)
        noise = middle * noise + side * around
    return noise


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
    # PSFs where they are not of the eight parameters; images (B,) that are not SDSS's.
    drawn: GaussianPSF | None = None
    is_other: torch.Tensor | None = None

    def __len__(self):
        return len(self.psf)

    @property
    def depth(self):
        """Number d of exposures in a coadd."""
        return self.dither.shape[1]

    @property
    def resampled(self):
        """Whether any image is a coadd, or an exposure brought to another grid."""
        return self.depth > 1 or bool(self.dither.any())

    def gaussians(self, radius=DEFAULT_NORMALIZATION_RADIUS):
        """PSFs that are drawn, a `GaussianPSF`, of unit flux within a radius."""
        return as_gaussians(self.psf, radius) if self.drawn is None else self.drawn

    @property
    def noise(self):
        """Sky and read noise ``(B, 1, 1)`` of one exposure."""
        return self.background[:, None, None], self.read_noise[:, None, None]

    @property
    def variance(self):
        """Variance ``(B,)`` of a pixel of empty sky in one exposure."""
        return self.background + self.read_noise**2


def draw_dithers(draw, n_images, depth, largest):
    """Dithers ``(B, d, 2)``, uniform in a square; zeros for a single exposure."""
    if depth == 1:
        return torch.zeros(n_images, 1, 2, device=draw.device)
    return (2 * draw.unit(n_images, depth, 2) - 1) * largest


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

    Parameters
    ----------
    shape : tuple of int
        ``(ny, nx)`` of the images in pixels.

    noise_order : {'before_alignment', 'after_alignment'}
        Whether the noise of coadds is resampled with the exposures.

    bad_pixels : BadPixelPrior or None
        Prior of the masks.

    normalization_radius : float
        Radius in pixels within which PSFs have unit flux.

    tolerance : float
        Error of the renderer relative to a star's peak.
    """

    shape: tuple[int, int]
    noise_order: str = 'before_alignment'
    bad_pixels: object = None
    normalization_radius: float = DEFAULT_NORMALIZATION_RADIUS
    tolerance: float = 1e-4

    def noise(self, fields):
        """`coadd_noise` of coadds."""
        interpolated = fields.resampled and self.noise_order == 'before_alignment'
        return coadd_noise(fields.dither, interpolated=interpolated)

    def effective_psf(self, fields, *, elongated):
        """PSFs ``(B, 8)`` of images, with or without their elongation by dithers."""
        if not fields.resampled:
            return fields.psf
        # The one dither of an exposure does not average to a round kernel.
        elongated |= fields.depth == 1
        wide = GaussianPSF.from_shape(fields.psf)
        wide = wide.broadened(self.noise(fields)[-1], approximate=True).shape
        if elongated:
            size = fields.dither.abs()
            along = (size * (1 - size)).mean(-2)
            total = 2 * fields.psf[:, 0] ** 2 + along.sum(-1)
            wide[:, 6] += (along[:, 0] - along[:, 1]) / total
            wide[:, 6].clamp_(-_MAX_COADD_ELLIPTICITY, _MAX_COADD_ELLIPTICITY)
        return wide

    def render(self, psf, x, y, flux):
        """Noiseless images ``(B, ny, nx)`` of stars."""
        options = {'radius': self.normalization_radius, 'tolerance': self.tolerance}
        return render_stars(psf, x, y, flux, size=self.shape, **options)

    def observe(self, draw, fields, sources, *, stars=None, extended=None):
        """
        Expose, align and stack `Sources`: `SimulatedImages` that state what is true.

        Stars to render are positions and fluxes ``(B, S)``, 0 in unused places.
        Extended light ``(B, ny, nx)`` is as it lies on the coadd; its photon noise gets
        the correlation that the alignment gives to noise on average.
        """
        ratio, *correlation, _ = self.noise(fields)
        if not fields.resampled:
            data = 0 if extended is None else extended
            if stars is not None:
                psf = fields.gaussians(self.normalization_radius)
                data = data + self.render(psf, *stars)
            data = add_noise(data, *fields.noise, generator=draw.generator)
        else:
            data = self._stack(draw, fields, stars)
            if extended is not None:
                noise = draw.normal(*data.shape)
                noise *= (extended.clamp(min=0) * ratio[:, None, None]).sqrt()
                data = data + extended + correlate(noise, *correlation)
        if self.bad_pixels is None:
            mask = torch.zeros_like(data, dtype=torch.bool)
        else:
            mask = self.bad_pixels.sample_batch(
                data, background=fields.background, generator=draw.generator
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

    def _stack(self, draw, fields, stars):
        """Coadds of stars alone, in pieces that fit into a CPU's cache."""
        ny, nx = self.shape
        out = torch.empty(len(fields), ny, nx, device=draw.device)
        # Number of the last place that holds a star: bright stars follow galaxies.
        places = torch.arange(1, stars[2].shape[1] + 1, device=draw.device)
        last = ((stars[2] > 0) * places).amax(1)
        piece = len(fields)
        if draw.device.type == 'cpu':
            piece = max(1, _CACHE_PIXELS // (fields.depth * ny * nx))
        # Images with about as many stars go together, to leave few places unused.
        for index in torch.argsort(last).split(piece):
            n_places = max(1, int(last[index].max()))
            parts = [value[index, :n_places] for value in stars]
            out[index] = self._stack_piece(draw, select(fields, index), *parts)
        return out

    def _stack_piece(self, draw, fields, x, y, flux):
        (ny, nx), depth, dither = self.shape, fields.depth, fields.dither
        rows = torch.arange(len(x), device=draw.device)
        fields = select(fields, rows.repeat_interleave(depth))
        # Exposures carry one more pixel on each side.
        along_y, along_x = star_factors(
            fields.gaussians(self.normalization_radius),
            (x[:, None] + dither[..., :1] + 1).flatten(0, 1),
            (y[:, None] + dither[..., 1:] + 1).flatten(0, 1),
            flux.repeat_interleave(depth, 0),
            size=(ny + 2, nx + 2),
            tolerance=self.tolerance,
        )
        shifts = dither.flatten(0, 1)
        # The signal is aligned by its factors, which are small.
        x, y = shifts[..., None, None].unbind(1)
        aligned = _interpolate(along_y, y, -1).mT @ _interpolate(along_x, x, -1)
        if self.noise_order == 'before_alignment':
            data = along_y.mT @ along_x
            data = add_noise(data, *fields.noise, generator=draw.generator)
            data = align_bilinear(data, shifts)
        else:
            data = add_noise(aligned, *fields.noise, generator=draw.generator)
        weight = aligned.add_(fields.variance[:, None, None]).reciprocal_()
        data = data.mul_(weight).unflatten(0, (-1, depth)).sum(1)
        return data / weight.unflatten(0, (-1, depth)).sum(1)
