# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The noise and the blemishes of a camera, drawn on tensors.
"""

import dataclasses

import torch

__all__ = ['BadPixelPrior', 'add_noise']


def add_noise(
    signal: torch.Tensor,
    background,
    *,
    read_noise=0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
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
        On the device of ``signal``.

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


@dataclasses.dataclass(frozen=True)
class BadPixelPrior:
    """
    How bad pixels come about.

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

    def sample(
        self,
        n_images: int,
        size: tuple[int, int],
        *,
        generator: torch.Generator | None = None,
        device='cpu',
    ) -> torch.Tensor:
        """
        Draw masks (True = bad) of shape ``(n_images, ny, nx)``.

        Saturation depends on the signal and is left to the caller.
        """
        ny, nx = size

        def uniform(*shape):
            return torch.rand(*shape, generator=generator, device=device)

        has_any = uniform(n_images) < self.fraction_of_images
        grid_x = torch.arange(nx, device=device)
        grid_y = torch.arange(ny, device=device)
        mask = torch.zeros(n_images, ny, nx, dtype=torch.bool, device=device)

        column_rate = self.n_columns / nx
        mask |= (uniform(n_images, 1, nx) < column_rate).expand(-1, ny, -1)

        # Tracks start anywhere and run for a few pixels in one direction.
        start = uniform(n_images, ny, nx) < self.n_cosmic_rays / (ny * nx)
        step_x = (uniform(n_images, 1, 1) < 0.5).expand_as(start)
        track = start.clone()
        for length in range(1, 5):
            moved_x = torch.roll(start, length, 2)
            moved_y = torch.roll(start, (length, length // 2), (1, 2))
            track |= torch.where(step_x, moved_x, moved_y)
        mask |= track

        n_most = 2
        present = uniform(n_images, n_most) < self.n_blocks / n_most
        corner_x = uniform(n_images, n_most) * nx
        corner_y = uniform(n_images, n_most) * ny
        side_x = 1 + uniform(n_images, n_most) * self.block_size
        side_y = 1 + uniform(n_images, n_most) * self.block_size
        in_x = (grid_x >= corner_x[..., None]) & (
            grid_x < (corner_x + side_x)[..., None]
        )
        in_y = (grid_y >= corner_y[..., None]) & (
            grid_y < (corner_y + side_y)[..., None]
        )
        block = in_y[..., :, None] & in_x[..., None, :] & present[..., None, None]
        mask |= block.any(1)
        return mask & has_any[:, None, None]
