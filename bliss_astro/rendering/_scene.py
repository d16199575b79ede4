# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The image that a catalogue stands for, drawn piece by piece.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from bliss_astro._threads import map_threads
from bliss_astro.psf import GaussianPSF
from bliss_astro.units import typical

from ._batches import (
    add_galaxies,
    add_stamps,
    expand_for_stars,
    render_galaxies,
    render_stars,
)
from ._profiles import BULGE_SLOPE, DISK_RADIUS

# Side in pixels of the cells that share a PSF, of one that varies and of one
# that does not.
_CELL_VARYING, _CELL = 128, 256
# Sources are drawn at least out to the first of these radii at which they are
# fainter than this share of the sky's noise; beyond the last one, to the image's
# ends. Galaxies end where their stamps do, see `RenderingAccuracy`.
_RADII = (24.0, 72.0, 216.0, math.inf)
_NEGLIGIBLE = 0.005
# Sides in pixels of the squares in cells whose stars are drawn together, by how far
# these are seen; the number of stars of one image, and the pixels of images at once.
_SQUARES, _STARS, _PIXELS = (32, 32, 64), 8, 2**19
# Pieces of them that wait to be added up.
_PIECES = 8
# Images that are larger than so many squares are drawn by squares.
_MANY = 4


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

    galaxy : float `~numpy.ndarray`, shape (N, 6)
        Shapes of galaxies, in the order and units of
        `bliss_astro.rendering.render_galaxies`; rows of stars are not read. By
        default of no meaning.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    is_galaxy: np.ndarray
    galaxy: np.ndarray | None = None

    def __post_init__(self):
        if self.galaxy is None:
            self.galaxy = np.full((len(self.x), 6), 0.5)

    @classmethod
    def joined(cls, catalogs):
        """Those of several catalogues."""
        return cls(
            *map(np.concatenate, zip(*(own._parts for own in catalogs), strict=True))
        )

    @property
    def _parts(self):
        return self.x, self.y, self.flux, self.is_galaxy, self.galaxy

    @classmethod
    def of(cls, table, band=None):
        """
        Those of a table, all of them stars where it says nothing else.

        With the column ``flux``, or that of a band; fluxes that are not finite are 0.
        """
        names = 'x_centroid', 'y_centroid', 'flux' if band is None else f'flux_{band}'
        x, y, flux = (
            np.asarray(getattr(table[name], 'value', table[name]), dtype=float)
            for name in names
        )
        flux = np.where(np.isfinite(flux), flux, 0.0)
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
        return Sources(*(part[index] for part in self._parts))

    def copied(self):
        """A copy whose arrays may be changed."""
        return Sources(*map(np.copy, self._parts))

    def brightest(self, shape, n_most):
        """Rows of the brightest sources within an image, the brightest first."""
        ny, nx = shape
        inside = (self.x > -0.5) & (self.x < nx - 0.5) & (self.flux > 0)
        inside &= (self.y > -0.5) & (self.y < ny - 0.5)
        index = np.nonzero(inside)[0]
        return index[np.argsort(-self.flux[index], kind='stable')][:n_most]

    def joined_by(self, others, *, distance):
        """These sources, and those of others that lie farther than ``distance`` px."""
        from scipy.spatial import cKDTree

        points, others_points = (np.stack([v.x, v.y], 1) for v in (self, others))
        missing = cKDTree(points).query(others_points)[0] > distance
        return Sources.joined([self, others.select(missing)])


def psf_grid(shape, access):
    """
    Look up the PSF of an image, cell by cell.

    Returns the side of a cell in pixels, and the PSFs ``(rows, columns)`` in their
    middles, in single precision.
    """
    ny, nx = shape
    side = cell_side(varies=access.varies)
    places = [cell_middles(side, n) for n in (nx, ny)]
    shapes = np.ascontiguousarray(access.shapes(*places), dtype=np.float32)
    radius = float(access.at(nx // 2, ny // 2).normalization_radius)
    return side, GaussianPSF.from_shape(
        torch.from_numpy(shapes), normalization_radius=radius
    )


def cell_side(*, varies):
    """Side of cells that share a PSF, in pixels."""
    return _CELL_VARYING if varies else _CELL


def cell_middles(side, n):
    """Middles of the cells along an axis of ``n`` pixels."""
    return np.minimum((np.arange(-(-n // side)) + 0.5) * side - 0.5, n - 1)


def _brightness(galaxy, radius):
    """
    Surface brightness of galaxies of unit flux on their major axes, ``(N,)``.

    That of disk and bulge, each without PSF; nothing on their axes is brighter.
    """
    fraction, _, disk_ratio, bulge_ratio, disk, bulge = galaxy.T
    length = disk / DISK_RADIUS
    in_disk = np.exp(-radius / length) / (2 * np.pi * disk_ratio * length**2)
    norm = 8 * np.pi * math.gamma(8) / BULGE_SLOPE**8
    in_bulge = np.exp(-BULGE_SLOPE * (radius / bulge) ** 0.25)
    in_bulge = in_bulge / (norm * bulge_ratio * bulge**2)
    return fraction * in_disk + (1 - fraction) * in_bulge


class ModelRenderer:
    """
    Draws whole catalogues on the grid of an exposure.

    A source has the PSF of the cell that it lies in, and is drawn on a part of that
    cell and as far around it as it can be seen, so that memory is bounded and no
    source is cut.

    Parameters
    ----------
    shape : tuple of int
        ``(ny, nx)`` of the image, or of each of several.

    grid : tuple
        Side and PSFs of cells, as of `psf_grid`; of several images along a first axis.

    noise : float
        Noise of the sky in the unit of fluxes. With 0 all sources are drawn to the ends
        of the image.

    accuracy : `~bliss_astro.rendering.RenderingAccuracy`, optional
        Accuracy of galaxies; the defaults if `None`.

    tolerance : float, optional
        Error allowed in stars relative to their peaks.
    """

    def __init__(self, shape, grid, noise, *, accuracy=None, tolerance=1e-6):
        self.shape, self.noise = shape, noise
        self.accuracy, self.tolerance = accuracy, tolerance
        self.side, psf = grid
        self.cells = expand_for_stars(psf, tolerance).height.shape[-3:-1]
        self._n_cells = math.prod(self.cells)
        # All cells in a row, those of an image one after the other.
        self.psf = psf._each(lambda part: part.flatten(0, -2))
        self._expanded = expand_for_stars(self.psf, tolerance)
        middle = self.cells[0] // 2 * self.cells[1] + self.cells[1] // 2
        middle = self.psf[middle :: self._n_cells, None]
        distance = torch.tensor(_RADII[:-1], dtype=torch.float32)
        self._heights = middle(distance, torch.zeros_like(distance)).double().numpy()

    @classmethod
    def of(cls, exposure):
        """That of an exposure with a PSF."""
        grid = psf_grid(exposure.shape, exposure._psf_access)
        return cls(exposure.shape, grid, typical(exposure.bkg_error))

    def cell_of(self, x, y):
        """Index of the cell that each place lies in."""
        rows, columns = self.cells
        row = np.clip((np.asarray(y) + 0.5) // self.side, 0, rows - 1).astype(int)
        column = np.clip((np.asarray(x) + 0.5) // self.side, 0, columns - 1).astype(int)
        return row * columns + column

    def psf_at(self, x, y):
        """PSF of each place, `GaussianPSF` of the batch ``(N,)``."""
        return self.psf[torch.from_numpy(self.cell_of(x, y))]

    def reach_of(self, sources, image=0):
        """Index into the radii of the least distance to which sources are drawn."""
        flux, reach = np.abs(sources.flux), np.zeros(len(sources), dtype=int)
        some = np.nonzero(sources.is_galaxy)[0]
        for radius, height in zip(_RADII[:-1], self._heights[image].T, strict=True):
            bright = flux * height
            if len(some):
                bright[some] += flux[some] * _brightness(sources.galaxy[some], radius)
            reach += bright > _NEGLIGIBLE * self.noise
        return reach

    def halo_of(self, sources):
        """The same in pixels: float array ``(N,)``, infinite for the whole image."""
        return np.take(_RADII, self.reach_of(sources))

    def __call__(self, sources, *, window=None):
        """
        Draw a catalogue.

        Parameters
        ----------
        sources : `Sources`
            The sources; galaxies have their shapes.

        window : pair of slice, optional
            Rows and columns that are drawn, with explicit bounds within the image;
            by default all.

        Returns
        -------
        image : float32 `~numpy.ndarray`, shape (ny, nx) or that of the window
            Their light, without sky and noise.
        """
        return self.draw([sources], window=window)[0]

    def draw(self, catalogs, *, window=None):
        """Images ``(B, ny, nx)`` of the `Sources` of each image, as of one."""
        window = tuple(slice(0, n) for n in self.shape) if window is None else window
        size = [part.stop - part.start for part in window]
        images, sources = torch.zeros(len(catalogs), *size), Sources.joined(catalogs)
        index = np.repeat(np.arange(len(catalogs)), [len(own) for own in catalogs])
        cell = index * self._n_cells + self.cell_of(sources.x, sources.y)
        reach = self.reach_of(sources, index)
        if sources.is_galaxy.any():
            self._add_galaxies(images, window, sources, cell, reach)
        sides = [side + 2 * r for side, r in zip(_SQUARES, _RADII, strict=False)]
        area = math.prod(self.shape)
        reach[reach >= sum(_MANY * side**2 < area for side in sides)] = len(sides)
        for k in np.unique(reach):
            some = np.flatnonzero((reach == k) & ~sources.is_galaxy)
            self._add_stars(images, window, sources.select(some), cell[some], k)
        return images.numpy()

    def _add_galaxies(self, images, window, sources, cell, reach):
        """Add the galaxies that can be seen in a window."""
        halo = np.take(_RADII, reach)
        near = sources.is_galaxy.copy()
        for place, part in zip((sources.y, sources.x), window, strict=True):
            near &= (place > part.start - halo - 1) & (place < part.stop + halo)
        chosen = np.flatnonzero(near)
        chosen = chosen[np.argsort(cell[chosen], kind='stable')]
        own = sources.select(chosen)
        numbers = [own.x - window[1].start, own.y - window[0].start, own.flux]
        parts = [
            torch.from_numpy(np.asarray(v, dtype=np.float32))
            for v in (*numbers, own.galaxy)
        ]
        cell = torch.from_numpy(cell[chosen])
        cells, cell = torch.unique_consecutive(cell, return_inverse=True)
        parts = images, cells[cell] // self._n_cells, self.psf[cells], cell, *parts
        add_galaxies(*parts, accuracy=self.accuracy)

    def _add_stars(self, images, window, stars, cell, reach):
        """Add stars of one reach: on squares around which they are seen, or on all."""
        starts = np.array([[part.start] for part in window])
        square, low, size, most = cell, starts + 0 * cell, images.shape[1:], len(stars)
        if reach < len(_SQUARES):
            # Each of them lies in one cell.
            side, halo = min(_SQUARES[reach], self.side), int(_RADII[reach])
            rows, columns = ((n - 1) // side for n in self.shape)
            place = (np.stack([stars.y, stars.x]) + 0.5) // side
            place = place.clip(0, [[rows], [columns]]).astype(int)
            image = cell // self._n_cells
            square = (image * (rows + 1) + place[0]) * (columns + 1) + place[1]
            low = place * side - halo
            size, most = (side + 2 * halo,) * 2, _STARS
        at = low - starts
        ends = np.reshape([size, images.shape[1:]], (2, 2, 1))
        order = np.flatnonzero(((at + ends[0] > 0) & (at < ends[1])).all(0))
        order = order[np.argsort(square[order], kind='stable')]
        if len(order) == 0:
            return
        # A row for each image with the index of its stars, as many in turn.
        rank = np.arange(len(order))
        rank -= np.maximum.accumulate(rank * (np.diff(square[order], prepend=-1) != 0))
        rank %= most
        group = np.cumsum(rank == 0) - 1
        table = np.full((group[-1] + 1, rank.max() + 1), -1)
        table[group, rank] = order
        table = table[np.argsort((table >= 0).sum(1), kind='stable')]

        def draw(index):
            own = index[:, :1]
            flux = np.where(index < 0, 0, stars.flux[index])
            parts = stars.x[index] - low[1][own], stars.y[index] - low[0][own], flux
            parts = (torch.from_numpy(v.astype(np.float32)) for v in parts)
            psf = self._expanded[torch.from_numpy(cell[own[:, 0]])]
            options = {'size': size, 'tolerance': self.tolerance}
            return own[:, 0], render_stars(psf, *parts, **options)

        step = max(1, _PIXELS // math.prod(size))
        pieces = [table[k : k + step] for k in range(0, len(table), step)]
        for k in range(0, len(pieces), _PIECES):
            for own, drawn in map_threads(draw, pieces[k : k + _PIECES]):
                places = np.stack([cell[own] // self._n_cells, *at[::-1, own]])
                add_stamps(images, *torch.from_numpy(places), drawn)


def draw_together(exposures, catalogs, *, noise, **options):
    """
    Draw catalogues (`Sources`) on the grids of exposures, as a `ModelRenderer` does.

    Those of small images of one shape are drawn at once. The ``noise`` of the sky is
    that by which sources are cut off.
    """
    images, kinds = [None] * len(exposures), {}
    for k, (exposure, sources) in enumerate(zip(exposures, catalogs, strict=True)):
        side, psf = psf_grid(exposure.shape, exposure._psf_access)
        alone = k if max(exposure.shape) > side else None
        kind = exposure.shape, side, psf.normalization_radius, alone
        kinds.setdefault(kind, []).append((k, psf, sources))
    for (shape, side, *_), some in kinds.items():
        places, (psf, *others), sources = zip(*some, strict=True)
        grid = side, psf[None].followed_by(*(other[None] for other in others))
        renderer = ModelRenderer(shape, grid, noise, **options)
        for k, image in zip(places, renderer.draw(sources), strict=True):
            images[k] = image
    return images


def render_alone(psf, x, y, flux, is_galaxy, galaxy, *, size, accuracy=None):
    """Render images ``(n, ny, nx)`` of single sources in double precision."""
    places = psf, x[:, None], y[:, None]
    images = render_stars(*places, (flux * ~is_galaxy)[:, None], size=size).double()
    parts = (flux * is_galaxy)[:, None], galaxy[:, None]
    drawn = render_galaxies(*places, *parts, size=size, accuracy=accuracy)
    # Fourier sums leave tiny negative values far out.
    return (images + drawn.clamp(min=0)).numpy()
