# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cut-outs of images, wherever sources are.
"""

import torch
from torch.nn import functional as F

from ._star_fit import StarPatches

__all__ = ['Pixels']


class Pixels:
    """
    The pixels of B images, with a border so that cut-outs may reach beyond.

    Parameters
    ----------
    inputs : `~bliss_astro.encoders.EncoderInputs`
        What an encoder was told.

    grid : `TileGrid`
        Its tiles.

    radius : int
        Largest half-size of a cut-out.
    """

    def __init__(self, inputs, grid, radius):
        self.inputs, self.grid = inputs, grid
        self.pad = pad = radius + 2 * grid.size
        bottom = grid.shape[0] * grid.size - inputs.image.shape[1]
        right = grid.shape[1] * grid.size - inputs.image.shape[2]
        border = (pad, pad + right, pad, pad + bottom)
        self.image = F.pad(inputs.image, border)
        self.good = F.pad((~inputs.mask).to(inputs.image), border)

    def _centres(self, x, y, radius):
        ny, nx = self.image.shape[1:]
        pad = self.pad
        cx = x.round().long().clamp(-pad + radius, nx - pad - radius - 1)
        cy = y.round().long().clamp(-pad + radius, ny - pad - radius - 1)
        return cx, cy

    def cut(self, image, images, cx, cy, radius):
        """
        Cut-outs ``(N, P, P)`` of anything on the padded grid around central pixels.

        The same as ``image[index]``, in a fifth of the time: squares are copied as
        squares.
        """
        side = 2 * radius + 1
        squares = image.unfold(1, side, 1).unfold(2, side, 1)
        return squares[images, cy + (self.pad - radius), cx + (self.pad - radius)]

    def index(self, images, x, y, radius):
        """
        Where cut-outs lie in the padded images.

        Parameters
        ----------
        images : tensor ``(N,)``
            Which images.

        x, y : tensor ``(N,)``
            Pixel positions that they are centred on, to the nearest pixel.

        radius : int
            Half-size.

        Returns
        -------
        index : tuple of tensor
            For ``(N, P, P)`` pixels.

        cx, cy : tensor ``(N,)``
            The central pixels.
        """
        cx, cy = self._centres(x, y, radius)
        step = torch.arange(-radius, radius + 1, device=x.device) + self.pad
        index = (
            images[:, None, None],
            (cy[:, None] + step)[:, :, None],
            (cx[:, None] + step)[:, None, :],
        )
        return index, cx, cy

    def patches(self, tiles, x, y, radius) -> StarPatches:
        """
        Cut-outs with what is known of their noise and PSF.

        Parameters
        ----------
        tiles : tuple of tensor ``(N,)``
            Image, row and column of the tile that each source belongs to.

        x, y, radius
            As for `index`.
        """
        images, rows, columns = tiles
        cx, cy = self._centres(x, y, radius)
        inputs = self.inputs

        def at(value):
            return inputs.at_tiles(value, images, rows, columns)

        return StarPatches(
            data=self.cut(self.image, images, cx, cy, radius),
            good=self.cut(self.good, images, cx, cy, radius),
            shape=at(inputs.psf)[:, None, None, :],
            gain=at(inputs.log_noise).exp()[:, :, None],
            correlation=at(inputs.correlation),
            x=cx.to(x),
            y=cy.to(y),
            radius=inputs.normalization_radius,
        )
