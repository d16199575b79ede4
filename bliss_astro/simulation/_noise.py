# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise and bad pixels of simulated images.
"""

import dataclasses

import torch

from ._draws import between, unit

__all__ = ['NOISE_ORDERS', 'BadPixelPrior', 'add_noise', 'coadd_noise', 'correlate']

NOISE_ORDERS = ('before_alignment', 'after_alignment')


def add_noise(signal, background, *, read_noise=0.0, generator=None):
    """
    Add photon noise in its Gaussian approximation, and read noise.

    The likelihood of the coadd paper (Wang et al. 2022): the variance of a
    pixel is its mean, background plus signal, in electrons.

    Parameters
    ----------
    signal : tensor
        Electrons of the sources.

    background : float or tensor
        Electrons of the sky; broadcasts against ``signal``.

    read_noise : float or tensor, optional
        Standard deviation of the read-out in electrons.

    generator : `torch.Generator`, optional
        Source of randomness on the device of ``signal``.

    Returns
    -------
    data : tensor
        Electrons with the background still in them.
    """
    mean = signal + background
    if isinstance(read_noise, float) and read_noise == 0:
        error = mean.sqrt()
    else:
        error = (mean + read_noise**2).sqrt_()
    noise = torch.empty_like(mean).normal_(generator=generator)
    return mean.addcmul_(noise, error)


def coadd_noise(dither, *, interpolated=True):
    """
    Noise of an equal-weight mean of bilinearly aligned exposures.

    An exposure at dither u keeps ``(1 - |u|)**2 + u**2`` of its variance
    along each axis and acquires the covariance ``|u| (1 - |u|)`` with
    the next pixel: the sum over all lags is conserved.

    Parameters
    ----------
    dither : tensor ``(..., d, 2)``
        Dithers of the d exposures in x and y.

    interpolated : bool, optional
        If `False`, noise is added after the alignment and is independent.

    Returns
    -------
    variance : tensor ``(...,)``
        Variance of a pixel over that of a pixel of one exposure.

    correlation_x, correlation_y : tensor ``(...,)``
        Correlation with the next pixel along the axis.

    kernel_variance : tensor ``(...,)``
        Mean variance (square pixels, mean of x and y) of the interpolation
        kernels, by which the alignment broadens the PSF.
    """
    size = dither.abs()
    n_exposures = dither.shape[-2]
    neighbour = size * (1 - size)  # lag-one covariance; also the kernel variance
    kernel_variance = neighbour.mean((-2, -1))
    zero = torch.zeros_like(kernel_variance)
    if not interpolated:
        return zero + 1 / n_exposures, zero, zero, kernel_variance
    own = 1 - 2 * neighbour
    both = own.prod(-1)
    total = both.sum(-1)
    correlation_x = (neighbour[..., 0] * own[..., 1]).sum(-1) / total
    correlation_y = (neighbour[..., 1] * own[..., 0]).sum(-1) / total
    return total / n_exposures**2, correlation_x, correlation_y, kernel_variance


def correlate(noise, correlation_x, correlation_y):
    """Give white noise a correlation of neighbours, at the same variance."""
    for axis, rho in ((-1, correlation_x), (-2, correlation_y)):
        # Weights (a, b, a) with b^2 + 2 a^2 = 1 and 2 a b = rho.
        square = (1 - (1 - 2 * rho.clamp(max=0.7) ** 2).clamp(min=0).sqrt()) / 4
        side = square.sqrt()[:, None, None]
        middle = (1 - 2 * square).sqrt()[:, None, None]
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

        def uniform(*shape):
            return unit(*shape, generator=generator, device=device)

        has_any = uniform(n_images) < self.fraction_of_images
        mask = (uniform(n_images, 1, nx) < self.n_columns / nx).expand(-1, ny, -1)
        # Tracks start anywhere and run for a few pixels in one direction.
        start = uniform(n_images, ny, nx) < self.n_cosmic_rays / (ny * nx)
        step_x = (uniform(n_images, 1, 1) < 0.5).expand_as(start)
        track = start.clone()
        for length in range(1, 5):
            moved_x = torch.roll(start, length, 2)
            moved_y = torch.roll(start, (length, length // 2), (1, 2))
            track |= torch.where(step_x, moved_x, moved_y)
        most = 2
        present = uniform(n_images, most) < self.n_blocks / most
        low, side = uniform(2, n_images, most), uniform(2, n_images, most)
        inside = []
        for k, n in enumerate((nx, ny)):
            pixel = torch.arange(n, device=device)
            first = (low[k] * n)[..., None]
            last = first + (1 + side[k] * self.block_size)[..., None]
            inside.append((pixel >= first) & (pixel < last))
        block = inside[1][..., :, None] & inside[0][..., None, :]
        block = (block & present[..., None, None]).any(1)
        return (mask | track | block) & has_any[:, None, None]
