# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Weighted means of PSFs over the cells of an image.
"""

import numpy as np

from ._coadd_psf import EffectivePSF, draw_shape, fit_middle, image_half

__all__ = []

# Sides of the cells for which the PSF is averaged, pixels, and how many of them
# an image has at most along each axis.
_CELL, _MOST_CELLS = 64, 8
# Places within a cell, along each axis.
_PLACES = np.array([0.13, 0.52, 0.84])
# Images that differ by less than this share of the peak are one PSF.
_SAME = 1e-7


class Cells:
    """
    The cells of an image over which weights and PSFs are averaged.

    Parameters
    ----------
    shape : tuple of int
        The shape of the image.
    """

    def __init__(self, shape):
        counts = [min(max(1, round(n / _CELL)), _MOST_CELLS) for n in shape]
        self.edges = [
            np.linspace(0, n, k + 1).astype(int)
            for n, k in zip(shape, counts, strict=True)
        ]
        self.ys, self.xs = ((e[:-1] + e[1:] - 1) / 2 for e in self.edges)
        self.shape = (len(self.ys), len(self.xs))

    def places(self, row, column):
        """
        Return columns and rows of places that stand for a cell.

        What interpolation does to a PSF changes within a few pixels, if grids are
        rotated against each other; the places have irregular distances.
        """
        return [
            np.floor(edges[k] + _PLACES * (edges[k + 1] - edges[k]))
            for edges, k in zip(self.edges[::-1], (column, row), strict=True)
        ]

    def sum(self, values):
        """
        Sum a map over each cell, ``(n_y, n_x)``.
        """
        rows = np.add.reduceat(values, self.edges[0][:-1], axis=0, dtype=float)
        return np.add.reduceat(rows, self.edges[1][:-1], axis=1)


class PSFMean:
    """
    Weighted mean of PSFs by cells, gathered exposure by exposure.

    Parameters
    ----------
    cells : `Cells`
        The cells.

    shapes : dict, optional
        Shapes that were found in an earlier pass.
    """

    def __init__(self, cells, shapes=None):
        self.cells = cells
        self.lacking = []
        self.central = []
        self.half = None
        # By exposure and cell: they cost more than all else that is done here.
        self.shapes = {} if shapes is None else shapes
        self._weights = np.zeros(cells.shape)

    def add(self, exposure, weights, index):
        """
        Add the PSF of one aligned exposure.

        Parameters
        ----------
        exposure : `~bliss_astro.exposures.Exposure`
            The exposure; one without a PSF is remembered as lacking.

        weights : float `~numpy.ndarray`, shape (n_y, n_x)
            Its weight in each cell, not normalised.

        index : int
            Its number.
        """
        if exposure.psf is None:
            self.lacking.append(index)
            return
        # Its PSF where it matters most stands for it in comparisons.
        row, column = np.unravel_index(np.argmax(weights), weights.shape)
        model = exposure.psf_at(self.cells.xs[column], self.cells.ys[row])
        radius = float(model.normalization_radius)
        if self.half is None:
            self.radius, self.half = radius, image_half(radius)
            side = 2 * self.half + 1
            self._images = np.zeros((*self.cells.shape, side, side))
        image = draw_shape(model.shape_vector, radius, self.half)
        self.central.append((index, image, float(weights.sum())))
        varies = exposure._psf_access.varies
        for cell in map(tuple, np.argwhere(weights > 0)):
            if varies:
                shape = self._mean_shape(exposure, index, cell)
                image = draw_shape(shape, radius, self.half)
            self._images[cell] += weights[cell] * image
        self._weights += weights

    def _mean_shape(self, exposure, index, cell):
        """
        Average the shape of the PSF over a cell, once for all passes.
        """
        key = (index, *cell)
        if key not in self.shapes:
            shapes = exposure.psf_shapes(*self.cells.places(*cell))
            self.shapes[key] = shapes.mean(axis=(0, 1))
        return self.shapes[key]

    def finish(self):
        """
        Return the mean.

        Returns
        -------
        psf : `EffectivePSF`, `~bliss_astro.psf.PSFModel` or None
            A model if all cells have one PSF; `None` if an exposure lacked its own.

        image : float `~numpy.ndarray` or None
            Its image, if it is a model.
        """
        if self.lacking or self.half is None:
            return None, None
        images = (
            self._images
            / np.where(self._weights > 0, self._weights, 1)[..., None, None]
        )
        images = _fill_empty(images, self._weights > 0)
        first = images[0, 0]
        if np.abs(images - first).max() <= _SAME * first.max():
            return fit_middle(first, self.radius), first
        psf = EffectivePSF(
            images,
            xs=self.cells.xs,
            ys=self.cells.ys,
            normalization_radius=self.radius,
        )
        return psf, None


def _fill_empty(images, filled):
    """
    Give cells without exposures the PSF of the nearest one that has some.
    """
    if filled.all():
        return images
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(
        ~filled, return_distances=False, return_indices=True
    )
    return images[tuple(nearest)]
