# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The image that a catalogue stands for, drawn piece by piece.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from bliss_astro.psf import GaussianPSF
from bliss_astro.units import typical

from ._batches import add_galaxies, expand_for_stars, render_galaxies, render_stars
from ._profiles import BULGE_SLOPE, DISK_RADIUS

# Side in pixels of the cells that share a PSF, of one that varies and of one
# that does not; and the number of sources that are drawn at once at most.
_CELL_VARYING, _CELL = 128, 256
_PIECE = 48
# Sources are drawn at least out to the first of these radii at which they are
# fainter than this share of the sky's noise; beyond the last one, to the image's
# ends. Galaxies end where their stamps do, see `RenderingAccuracy`.
_RADII = (24.0, 72.0, 216.0, math.inf)
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

    def _each(self, change):
        """Apply a function to all columns."""
        parts = (self.x, self.y, self.flux, self.is_galaxy, self.galaxy)
        return Sources(*(None if part is None else change(part) for part in parts))

    def select(self, index):
        """The chosen sources."""
        return self._each(lambda part: part[index])

    def copied(self):
        """A copy whose arrays may be changed."""
        return self._each(np.copy)

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
        names = ('x', 'y', 'flux', 'is_galaxy')
        pairs = ((getattr(self, name), getattr(others, name)) for name in names)
        return Sources(*(np.concatenate([own, other[missing]]) for own, other in pairs))


def psf_grid(shape, access):
    """
    Look up the PSF of an image, cell by cell.

    Returns the side of a cell in pixels, and the PSFs ``(rows, columns)`` in their
    middles, in single precision.
    """
    side, shapes, radius = _psf_shapes(shape, access)
    return side, GaussianPSF.from_shape(shapes, normalization_radius=radius)


def _psf_shapes(shape, access):
    """Side of a cell, the PSF as shapes ``(rows, columns, 8)``, radius of its flux."""
    ny, nx = shape
    side = cell_side(varies=access.varies)
    places = [cell_middles(side, n) for n in (nx, ny)]
    shapes = np.ascontiguousarray(access.shapes(*places), dtype=np.float32)
    radius = float(access.at(nx // 2, ny // 2).normalization_radius)
    return side, torch.from_numpy(shapes), radius


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


def _pieces(sources, group):
    """Rows of a group of sources in pieces that lie close to each other."""
    x, y = sources.x[group], sources.y[group]
    if len(group) > _PIECE:
        along = x if np.ptp(x) > np.ptp(y) else y
        half = len(group) // 2
        order = np.argpartition(along, half)
        for part in (order[:half], order[half:]):
            yield from _pieces(sources, group[np.sort(part)])
    else:
        yield group


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

    accuracy : `~bliss_astro.rendering.RenderingAccuracy`, optional
        Accuracy of galaxies; the defaults if `None`.

    tolerance : float, optional
        Error allowed in stars relative to their peaks.
    """

    def __init__(self, exposure, *, accuracy=None, tolerance=1e-6):
        grid = psf_grid(exposure.shape, exposure._psf_access)
        noise = typical(exposure.bkg_error)
        self._set_up(exposure.shape, grid, noise, accuracy, tolerance)

    @classmethod
    def of_parts(cls, shape, grid, noise):
        """
        Make one without an exposure, of what `psf_grid` returns.

        With a ``noise`` of 0 all sources are drawn to the ends of the image.
        """
        renderer = cls.__new__(cls)
        renderer._set_up(shape, grid, noise)
        return renderer

    def _set_up(self, shape, grid, noise, accuracy=None, tolerance=1e-6):
        self.shape, self.noise = shape, noise
        self.accuracy, self.tolerance = accuracy, tolerance
        self.side, self.psf = grid
        self._expanded = expand_for_stars(self.psf, tolerance)
        self.cells = self._expanded.height.shape[:2]
        distance = torch.tensor(_RADII[:-1], dtype=torch.float32)
        middle = self.psf[tuple(n // 2 for n in self.cells)]
        height = middle(distance, torch.zeros_like(distance))
        self._heights = height.double().numpy()

    def cell_of(self, x, y):
        """Row and column of the cell that each place lies in."""
        rows, columns = self.cells
        row = np.clip((np.asarray(y) + 0.5) // self.side, 0, rows - 1).astype(int)
        column = np.clip((np.asarray(x) + 0.5) // self.side, 0, columns - 1).astype(int)
        return row, column

    def psf_at(self, x, y):
        """PSF of each place, `GaussianPSF` of the batch ``(N,)``."""
        row, column = self.cell_of(x, y)
        return self.psf[torch.from_numpy(row), torch.from_numpy(column)]

    def reach_of(self, sources):
        """
        How far sources are drawn around their cells at least.

        Parameters
        ----------
        sources : `Sources`
            The sources; galaxies have their shapes.

        Returns
        -------
        reach : int `~numpy.ndarray`, shape (N,)
            Index into the radii; the number of that for the whole image.
        """
        flux, reach = np.abs(sources.flux), np.zeros(len(sources), dtype=int)
        some = np.nonzero(sources.is_galaxy)[0]
        for radius, height in zip(_RADII[:-1], self._heights, strict=True):
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
        window = tuple(slice(0, n) for n in self.shape) if window is None else window
        image = torch.zeros([part.stop - part.start for part in window])
        if len(sources) == 0:
            return image.numpy()
        row, column = self.cell_of(sources.x, sources.y)
        reach = self.reach_of(sources)
        n_columns, n_reach = self.cells[1], len(_RADII)
        if self.cells == (1, 1) and len(sources) <= _PIECE:
            # On the one cell all are drawn anyway.
            reach = np.full_like(reach, n_reach - 1)
        cell = row * n_columns + column
        if sources.is_galaxy.any():
            self._add_galaxies(image, window, sources, cell, reach)
        key = cell * n_reach + reach
        order = np.argsort(key, kind='stable')
        order = order[~sources.is_galaxy[order]]
        for group in np.split(order, np.nonzero(np.diff(key[order]))[0] + 1):
            for piece in _pieces(sources, group) if len(group) else ():
                # A crowd is cut to pieces smaller than the cell.
                place = row[group[0]], column[group[0]]
                bounds = None if len(piece) < len(group) else place
                part = sources.select(piece)
                self._add_stars(image, window, part, place, bounds, reach[group[0]])
        return image.numpy()

    def _add_galaxies(self, image, window, sources, cell, reach):
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
        cells, cell = np.unique(cell[chosen], return_inverse=True)
        places = map(torch.from_numpy, divmod(cells, self.cells[1]))
        psf, cell = self.psf[tuple(places)], torch.from_numpy(cell)
        parts = image[None], 0 * cell, psf, cell, *parts
        add_galaxies(*parts, accuracy=self.accuracy)

    def _add_stars(self, image, window, sources, cell, bounds, reach):
        """Add stars of one cell (also their bounds, or None) and reach."""
        halo = _RADII[reach]
        ends = []
        for k, (place, part) in enumerate(
            zip((sources.y, sources.x), window, strict=True)
        ):
            low, high = place.min(), place.max() + 1
            if bounds is not None:
                # A source just outside of the image belongs to the cell at its edge.
                low = min(bounds[k] * self.side, low)
                high = max((bounds[k] + 1) * self.side, high)
            ends.append(
                (int(max(part.start, low - halo)), int(min(part.stop, high + halo)))
            )
        (y0, y1), (x0, x1) = ends
        if y1 <= y0 or x1 <= x0:
            return
        x, y, flux = (
            torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32))[None]
            for v in (sources.x - x0, sources.y - y0, sources.flux)
        )
        psf, options = self._expanded[cell][None], {'size': (y1 - y0, x1 - x0)}
        drawn = render_stars(psf, x, y, flux, tolerance=self.tolerance, **options)
        y, x = (part.start for part in window)
        image[y0 - y : y1 - y, x0 - x : x1 - x] += drawn[0]


def draw_together(exposures, catalogs, *, noise, accuracy=None, tolerance=1e-6):
    """
    Draw catalogues (`Sources`) on the grids of exposures, as a `ModelRenderer` does.

    Those of few sources on small images of one shape are drawn at once. The ``noise``
    of the sky is that by which others are cut off.
    """
    images, kinds = [None] * len(exposures), {}
    for k, (exposure, sources) in enumerate(zip(exposures, catalogs, strict=True)):
        side = cell_side(varies=exposure._psf_access.varies)
        if max(exposure.shape) <= side and len(sources) <= _PIECE:
            _, psf, radius = _psf_shapes(exposure.shape, exposure._psf_access)
            kinds.setdefault((exposure.shape, radius), []).append((k, psf[0], sources))
        else:
            own = {'accuracy': accuracy, 'tolerance': tolerance}
            renderer = ModelRenderer(exposure, **own)
            renderer.noise = noise
            images[k] = renderer(sources)
    for (size, radius), some in kinds.items():
        places, psf, sources = zip(*some, strict=True)
        psf = GaussianPSF.from_shape(torch.cat(psf), normalization_radius=radius)
        drawn = _draw_small(psf, sources, size, accuracy, tolerance)
        for k, image in zip(places, drawn.numpy(), strict=True):
            images[k] = image
    return images


def _draw_small(psf, catalogs, size, accuracy, tolerance):
    """Images ``(B, ny, nx)`` of B catalogues, each with a PSF."""
    lengths = [len(sources) for sources in catalogs]
    index = torch.arange(len(catalogs)).repeat_interleave(torch.tensor(lengths))
    x, y, flux, is_galaxy = (
        np.concatenate([getattr(sources, name) for sources in catalogs])
        for name in ('x', 'y', 'flux', 'is_galaxy')
    )
    x, y, flux = (torch.from_numpy(v.astype(np.float32)) for v in (x, y, flux))
    # Unused places have no flux.
    stars = x.new_zeros(3, len(catalogs), max(lengths))
    place = torch.cat([torch.arange(n) for n in lengths])
    stars[:, index, place] = torch.stack([x, y, flux * ~torch.from_numpy(is_galaxy)])
    images = render_stars(psf, *stars, size=size, tolerance=tolerance)
    chosen = np.flatnonzero(is_galaxy)
    if len(chosen):
        shapes = np.concatenate([s.galaxy[s.is_galaxy] for s in catalogs if len(s)])
        shapes = torch.from_numpy(shapes.astype(np.float32))
        own = (v[chosen] for v in (x, y, flux))
        index = index[chosen]
        add_galaxies(images, index, psf, index, *own, shapes, accuracy=accuracy)
    return images


def render_alone(psf, x, y, flux, is_galaxy, galaxy, *, size, accuracy=None):
    """Render images ``(n, ny, nx)`` of single sources in double precision."""
    images = np.zeros((len(x), *size))
    parts = [psf, *(v[:, None] for v in (x, y, flux, galaxy))]
    if not is_galaxy.all():
        drawn = render_stars(*(v[~is_galaxy] for v in parts[:4]), size=size)
        images[~is_galaxy.numpy()] = drawn.double().numpy()
    if is_galaxy.any():
        parts = (v[is_galaxy] for v in parts)
        drawn = render_galaxies(*parts, size=size, accuracy=accuracy)
        # Fourier sums leave tiny negative values far out.
        images[is_galaxy.numpy()] = drawn.clamp(min=0).double().numpy()
    return images
