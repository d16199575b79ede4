# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise and bad pixels of simulated images, and random numbers of ranges.
"""

import dataclasses
import math

import torch

NOISE_ORDERS = ('before_alignment', 'after_alignment')


def unit(*shape, generator, device=None):
    """Uniform numbers from 0 to 1, by default on the generator's device."""
    device = generator.device if device is None else device
    return torch.rand(*shape, generator=generator, device=device)


def uniform(pair, *shape, generator):
    """Uniform numbers of a range."""
    low, high = pair
    return low + (high - low) * unit(*shape, generator=generator)


def between(pair, place):
    """Value at a place from 0 to 1 of the logarithm of a range."""
    low, high = (math.log(value) for value in pair)
    return torch.exp(low + (high - low) * place)


def log_uniform(pair, *shape, generator):
    """Numbers of a range whose logarithm is uniform."""
    return between(pair, unit(*shape, generator=generator))


def add_noise(signal, background, *, read_noise=0.0, generator=None):
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
    """Give white noise a correlation of neighbours, at the same variance."""
    for axis, rho in ((-1, correlation_x), (-2, correlation_y)):
        # Weights (a, b, a) with b^2 + 2 a^2 = 1 and 2 a b = rho.
        square = (1 - (1 - 2 * rho.clamp(max=0.7) ** 2).clamp(min=0).sqrt()) / 4
        side, middle = (v.sqrt()[:, None, None] for v in (square, 1 - 2 * square))
        around = torch.roll(noise, 1, axis) + torch.roll(noise, -1, axis)
        noise = middle * noise + side * around
    return noise


@dataclasses.dataclass(frozen=True)
class BadPixelPrior:
    """
    Distribution of the bad pixels of images.

    Parameters
    ----------
    fraction_of_images : float
        Share of the images that have any of the blemishes below; the
        others have saturated cores only.

    n_columns, n_cosmic_rays, n_blocks : float
        Mean numbers per image of bad columns, short cosmic-ray tracks and
        masked rectangles.

    block_size : int
        Largest side of a masked rectangle in pixels.

    saturation : tuple of float
        Range in electrons per exposure of the log-uniform full well;
        pixels above it are masked.
    """

    fraction_of_images: float = 0.3
    n_columns: float = 0.5
    n_cosmic_rays: float = 2.0
    n_blocks: float = 0.5
    block_size: int = 12
    saturation: tuple[float, float] = (3e4, 3e5)

    def sample_batch(self, data, *, background=None, generator=None):
        """
        Draw the masks of images.

        Parameters
        ----------
        data : tensor ``(B, ny, nx)``
            Images in electrons of one exposure.

        background : tensor ``(B,)``, optional
            Level of the sky in electrons; the full well is at least twice that.

        generator : `torch.Generator`, optional
            Source of randomness on the device of ``data``.

        Returns
        -------
        mask : tensor ``(B, ny, nx)`` of bool
            `True` for blemishes and for pixels above the full well.
        """
        mask = self._blemishes(data.shape, generator, data.device)
        draw = unit(len(data), 1, 1, generator=generator, device=data.device)
        level = between(self.saturation, draw)
        if background is not None:
            level = level.maximum(2 * background[:, None, None])
        return mask | (data > level)

    def _blemishes(self, shape, generator, device):
        n_images, ny, nx = shape

        def draw(*shape):
            return unit(*shape, generator=generator, device=device)

        has_any = draw(n_images) < self.fraction_of_images
        mask = (draw(n_images, 1, nx) < self.n_columns / nx).expand(-1, ny, -1)
        # Tracks start anywhere and run for a few pixels in one direction.
        start = draw(n_images, ny, nx) < self.n_cosmic_rays / (ny * nx)
        step_x = draw(n_images, 1, 1) < 0.5
        for length in range(5):
            moved_x = torch.roll(start, length, 2)
            moved_y = torch.roll(start, (length, length // 2), (1, 2))
            mask = mask | torch.where(step_x, moved_x, moved_y)
        # At most two rectangles.
        present = draw(n_images, 2) < self.n_blocks / 2
        low, side = draw(2, n_images, 2), draw(2, n_images, 2)
        inside = []
        for k, n in enumerate((nx, ny)):
            pixel = torch.arange(n, device=device)
            first = (low[k] * n)[..., None]
            last = first + (1 + side[k] * self.block_size)[..., None]
            inside.append((pixel >= first) & (pixel < last) & present[..., None])
        block = (inside[1][..., :, None] & inside[0][..., None, :]).any(1)
        return (mask | block) & has_any[:, None, None]
