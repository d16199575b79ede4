# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The image that a catalogue stands for, drawn piece by piece.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from bliss_astro.psf._mixture import profile_of_shape
from bliss_astro.rendering import render_stars

__all__ = ['ModelRenderer', 'Sources', 'psf_grid']

# Side in pixels of the cells that share a PSF, of one that varies and of one
# that does not; and the number of sources that are drawn at once.
_CELL_VARYING, _CELL = 128, 256
_PIECE = 256
# Sources are drawn out to the first of these radii at which they are fainter
# than this share of the sky's noise; beyond the last one, to the image's ends.
_RADII = (24, 72, 216)
_NEGLIGIBLE = 0.005


@dataclass
class Sources:
    """
    N sources of one catalogue, as plain numbers.

    Attributes
    ----------
    x, y, flux : float `~numpy.ndarray`, shape (N,)
        Pixels and data units.

    is_galaxy : bool `~numpy.ndarray`, shape (N,)
        Which of them are galaxies.

    galaxy : float `~numpy.ndarray`, shape (N, 6), or None
        Shapes of galaxies, in the order and units of
        `bliss_astro.rendering.render_galaxies`; rows of stars are not read.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    is_galaxy: np.ndarray
    galaxy: np.ndarray | None = None

    @classmethod
    def of(cls, table):
        """
        Take the sources out of a table.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            With ``x_centroid``, ``y_centroid``, ``flux`` and, where known,
            ``is_galaxy`` or ``galaxy_probability``.

        Returns
        -------
        sources : `Sources`
            All of them stars where the table says nothing else.
        """
        x, y, flux = (
            np.asarray(getattr(table[name], 'value', table[name]), dtype=float)
            for name in ('x_centroid', 'y_centroid', 'flux')
        )
        if 'is_galaxy' in table.colnames:
            is_galaxy = np.asarray(table['is_galaxy'], dtype=bool)
        elif 'galaxy_probability' in table.colnames:
            is_galaxy = np.asarray(table['galaxy_probability'], float) > 0.5
        else:
            is_galaxy = np.zeros(len(x), dtype=bool)
        return cls(x, y, flux, is_galaxy)

    def __len__(self):
        return len(self.x)

    def select(self, index):
        """The chosen sources."""
        galaxy = None if self.galaxy is None else self.galaxy[index]
        return Sources(
            self.x[index],
            self.y[index],
            self.flux[index],
            self.is_galaxy[index],
            galaxy,
        )

    def copied(self):
        """A copy whose arrays may be changed."""
        galaxy = None if self.galaxy is None else self.galaxy.copy()
        parts = (self.x, self.y, self.flux, self.is_galaxy)
        return Sources(*(part.copy() for part in parts), galaxy)

    def joined_by(self, others, *, distance):
        """
        Add those of other sources that these do not have.

        Parameters
        ----------
        others : `Sources`
            The others.

        distance : float
            A source within so many pixels is the same.

        Returns
        -------
        sources : `Sources`
            These, and the others that are missing.
        """
        if len(others) == 0:
            return self
        missing = np.ones(len(others), dtype=bool)
        if len(self):
            from scipy.spatial import cKDTree

            tree = cKDTree(np.column_stack([self.x, self.y]))
            apart, _ = tree.query(np.column_stack([others.x, others.y]))
            missing = apart > distance
        names = ('x', 'y', 'flux', 'is_galaxy')
        return Sources(
            *(
                np.concatenate([getattr(self, name), getattr(others, name)[missing]])
                for name in names
            )
        )


def psf_grid(exposure):
    """
    Look up the PSF of an exposure, cell by cell.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        With a PSF.

    Returns
    -------
    side : int
        Side of a cell in pixels.

    shapes : tensor, shape (rows, columns, 8)
        The PSF in the middle of each cell.

    radius : float
        Its normalisation radius.
    """
    ny, nx = exposure.shape
    side = _CELL_VARYING if exposure._psf_access.varies else _CELL
    places = [
        np.minimum((np.arange(-(-n // side)) + 0.5) * side - 0.5, n - 1)
        for n in (nx, ny)
    ]
    shapes = np.ascontiguousarray(exposure.psf_shapes(*places), dtype=np.float32)
    middle = exposure.psf_at(nx // 2, ny // 2)
    return side, torch.from_numpy(shapes), float(middle.normalization_radius)


class ModelRenderer:
    """
    Draws whole catalogues on the grid of an exposure.

    A source has the PSF of the cell that it lies in, and is drawn on that cell
    and as far around it as it can be seen, so that memory is bounded and no
    source is cut.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        With a PSF.
    """

    def __init__(self, exposure):
        self.shape = exposure.shape
        self.side, self.shapes, self.radius = psf_grid(exposure)
        noise = float(np.median(exposure.bkg_error))
        middle = self.shapes[self.shapes.shape[0] // 2, self.shapes.shape[1] // 2]
        distance = torch.tensor(_RADII, dtype=torch.float32)
        height = profile_of_shape(
            middle, distance, torch.zeros_like(distance), radius=self.radius
        )
        self._flux_limits = _NEGLIGIBLE * noise / height.double().numpy()

    def cell_of(self, x, y):
        """Row and column of the cell that each place lies in."""
        rows, columns = self.shapes.shape[:2]
        row = np.clip((np.asarray(y) + 0.5) // self.side, 0, rows - 1).astype(int)
        column = np.clip((np.asarray(x) + 0.5) // self.side, 0, columns - 1).astype(int)
        return row, column

    def shape_at(self, x, y):
        """PSF of each place, tensor of shape (N, 8)."""
        row, column = self.cell_of(x, y)
        return self.shapes[torch.from_numpy(row), torch.from_numpy(column)]

    def __call__(self, sources):
        """
        Draw a catalogue.

        Parameters
        ----------
        sources : `Sources`
            The sources; galaxies have their shapes.

        Returns
        -------
        image : float32 `~numpy.ndarray`, shape (ny, nx)
            Their light, without sky and noise.
        """
        image = torch.zeros(self.shape)
        if len(sources) == 0:
            return image.numpy()
        row, column = self.cell_of(sources.x, sources.y)
        reach = np.searchsorted(self._flux_limits, np.abs(sources.flux))
        n_columns, n_reach = self.shapes.shape[1], len(_RADII) + 1
        key = (row * n_columns + column) * n_reach + reach
        key = 2 * key + sources.is_galaxy
        order = np.argsort(key, kind='stable')
        for group in np.split(order, np.nonzero(np.diff(key[order]))[0] + 1):
            cell, rest = divmod(int(key[group[0]]), 2 * n_reach)
            for first in range(0, len(group), _PIECE):
                part = sources.select(group[first : first + _PIECE])
                self._add(image, part, divmod(cell, n_columns), *divmod(rest, 2))
        return image.numpy()

    def _add(self, image, sources, cell, reach, is_galaxy):
        """Add sources of one kind, cell and reach to the image."""
        halo = _RADII[reach] if reach < len(_RADII) else math.inf
        # A source just outside of the image belongs to the cell at its edge.
        ends = []
        for place, index, n in zip(
            (sources.y, sources.x), cell, self.shape, strict=True
        ):
            low = min(index * self.side, place.min()) - halo
            high = max((index + 1) * self.side, place.max() + 1) + halo
            ends.append((int(max(0, low)), int(min(n, high))))
        (y0, y1), (x0, x1) = ends
        if y1 <= y0 or x1 <= x0:
            return
        x, y, flux = (
            torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32))[None]
            for v in (sources.x - x0, sources.y - y0, sources.flux)
        )
        psf, size = self.shapes[cell][None], (y1 - y0, x1 - x0)
        if is_galaxy:
            from bliss_astro.rendering import render_galaxies

            shape = torch.from_numpy(sources.galaxy.astype(np.float32))[None]
            drawn = render_galaxies(
                psf, x, y, flux, shape, size=size, radius=self.radius
            )
        else:
            drawn = render_stars(psf, x, y, flux, size=size, radius=self.radius)
        image[y0:y1, x0:x1] += drawn[0]
