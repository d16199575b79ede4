# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Optimal one-to-one matching of two catalogues.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import (
    connected_components,
    min_weight_full_bipartite_matching,
)
from scipy.spatial import KDTree

from bliss_astro._arguments import check_choice, require

from ._inputs import as_vector, check_values, column_of, strip_unit

# Order of the norm that each metric is.
_METRICS = {'euclidean': 2.0, 'chebyshev': np.inf}

# Largest number of candidate pairs, which take 24 bytes each.
_MAX_PAIRS = 200_000_000

# Candidate pairs that are assigned in one call: its time grows with the square of the
# number of rows, and the overhead of a call is that of some hundred pairs.
_BLOCK_PAIRS = 400


@dataclass(frozen=True, eq=False)
class CatalogMatch:
    """
    One-to-one pairs of two catalogues, and the rows that are left over.

    Attributes
    ----------
    estimated_index, truth_index : 1D int `~numpy.ndarray`
        Row numbers of the pairs: row ``estimated_index[k]`` of the estimated
        catalogue is matched with row ``truth_index[k]`` of the true one. Sorted by
        ``estimated_index``.

    distance : 1D `~numpy.ndarray` or `~astropy.units.Quantity`
        Distance of each pair, in pixels or as an angle.

    unmatched_estimated, unmatched_truth : 1D int `~numpy.ndarray`
        Row numbers of the false detections and of the missed sources.
    """

    estimated_index: np.ndarray
    truth_index: np.ndarray
    distance: np.ndarray
    unmatched_estimated: np.ndarray
    unmatched_truth: np.ndarray

    def __len__(self):
        return len(self.estimated_index)

    def __repr__(self):
        n = len(self.unmatched_estimated), len(self.unmatched_truth)
        text = f'{n[0]} estimated and {n[1]} true rows unmatched'
        return f'<CatalogMatch: {len(self)} pairs, {text}>'

    @property
    def n_estimated(self):
        """Number of rows of the estimated catalogue."""
        return len(self) + len(self.unmatched_estimated)

    @property
    def n_truth(self):
        """Number of rows of the true catalogue."""
        return len(self) + len(self.unmatched_truth)

    @property
    def is_matched_estimated(self):
        """Boolean array: `True` for estimated rows with a partner."""
        return np.isin(np.arange(self.n_estimated), self.estimated_index)

    @property
    def is_matched_truth(self):
        """Boolean array: `True` for true rows with a partner."""
        return np.isin(np.arange(self.n_truth), self.truth_index)

    def pairs(self, estimated, truth):
        """
        Select the rows of two arrays that belong together.

        Parameters
        ----------
        estimated, truth : `~numpy.ndarray`, `~astropy.units.Quantity` or table
            Values with a row for each row of the catalogues.

        Returns
        -------
        pairs : tuple of two
            The same with a row for each pair.
        """
        sides = {'estimated': self.n_estimated, 'truth': self.n_truth}
        for values, (name, n) in zip((estimated, truth), sides.items(), strict=True):
            require(len(values) == n, name, f'have {n} rows as match', len(values))
        return estimated[self.estimated_index], truth[self.truth_index]

    @property
    def precision(self):
        """Pairs over estimated rows (NaN without any)."""
        return len(self) / self.n_estimated if self.n_estimated else np.nan

    @property
    def recall(self):
        """Pairs over true rows (NaN without any)."""
        return len(self) / self.n_truth if self.n_truth else np.nan

    @property
    def f1(self):
        """Harmonic mean of precision and recall (NaN if both catalogues are empty)."""
        total = self.n_estimated + self.n_truth
        return 2 * len(self) / total if total else np.nan


def match_catalogs(
    estimated,
    truth,
    *,
    radius=1.0,
    metric='euclidean',
    magnitude_tolerance=None,
    magnitudes=None,
    images=None,
):
    """
    Match two catalogues one to one, optimally.

    Among all ways to pair rows within ``radius`` of each other, each row at most once,
    this is the one with the largest number of pairs, and of these the smallest sum of
    distances: an assignment problem, solved exactly for each connected group of
    candidates from a k-d tree. The time grows about linearly with the number of rows.

    Parameters
    ----------
    estimated, truth : table, (n, 2) array_like, tuple (x, y) or sky coordinates
        The catalogues. A table gives ``x_centroid`` and ``y_centroid``, or
        ``sky_centroid`` if ``radius`` is an angle; an array has a row (x, y) per
        source; a tuple holds the two 1D arrays; sky coordinates are a
        `~astropy.coordinates.SkyCoord`.

    radius : float or `~astropy.units.Quantity`, optional
        The largest distance of a pair, inclusive. A number (or a Quantity in
        ``u.pix``) is in pixels, an angle matches on the sky.

    metric : {'euclidean', 'chebyshev'}, optional
        Distance in pixels, on the sky always the great-circle distance.

    magnitude_tolerance : float or `None`, optional
        Largest difference of magnitudes (inclusive), if given; NaN never match.

    magnitudes : tuple of two 1D array_like or `None`, optional
        Magnitudes (estimated, true), by default the column ``mag`` of the tables.

    images : tuple of two 1D array_like of int or str, str or `None`, optional
        Image of each (estimated, true) row, by number or name, or the name of a column
        of both tables. Only rows of the same image match.

    Returns
    -------
    match : `CatalogMatch`
        The pairs and the unmatched rows. Empty catalogues give no pairs.

    Raises
    ------
    ValueError
        If positions are not finite, lengths differ, ``radius`` is not positive, or
        so large that the candidate pairs would not fit in memory.

    Examples
    --------
    The nearest neighbour is not always the best partner:

    >>> from bliss_astro.metrics import match_catalogs
    >>> match = match_catalogs([(10.0, 5.0), (10.8, 5.0)], [(10.7, 5.0), (11.5, 5.0)])
    >>> match.estimated_index, match.truth_index
    (array([0, 1]), array([0, 1]))
    >>> match.distance
    array([0.7, 0.7])
    """
    check_choice('metric', metric, _METRICS)
    radius, on_sky = _parse_radius(radius)
    allowed = 'be "euclidean" for matching on the sky'
    require(not on_sky or metric == 'euclidean', 'metric', allowed, metric)
    catalogs = {'estimated': estimated, 'truth': truth}
    search, order = radius, _METRICS[metric]
    if on_sky:
        points = _sky_points(catalogs)
        # Chords order as angles do.
        search = 2 * np.sin(min(radius, np.pi) / 2) + 1e-14
    else:
        points = [as_positions(catalog, name) for name, catalog in catalogs.items()]
    planes = _add_images(points, images, catalogs, search)
    mags = _parse_magnitudes(magnitude_tolerance, magnitudes, catalogs, points)
    row, col = _candidates(*planes, search, order)
    distance = np.linalg.norm(points[0][row] - points[1][col], order, axis=1)
    if on_sky:
        distance = 2 * np.arcsin(np.minimum(distance / 2, 1))
    keep = distance <= radius
    if mags is not None:
        keep &= np.abs(mags[0][row] - mags[1][col]) <= magnitude_tolerance
    row, col, distance = row[keep], col[keep], distance[keep]

    chosen = _assign(row, col, distance, radius)
    chosen = chosen[np.argsort(row[chosen], kind='stable')]
    row, col, distance = row[chosen], col[chosen], distance[chosen]
    return CatalogMatch(
        estimated_index=row,
        truth_index=col,
        distance=np.rad2deg(distance) * 3600 * u.arcsec if on_sky else distance,
        unmatched_estimated=np.setdiff1d(np.arange(len(points[0])), row),
        unmatched_truth=np.setdiff1d(np.arange(len(points[1])), col),
    )


def as_positions(catalog, name):
    """Return pixel positions of a catalogue as an (n, 2) array."""
    if isinstance(catalog, SkyCoord):
        msg = f'{name} is a SkyCoord: give radius as an angle to match on the sky'
        raise TypeError(msg)
    if isinstance(catalog, Table):
        axes = 'x_centroid', 'y_centroid'
        catalog = tuple(column_of(catalog, axis, name) for axis in axes)
    if isinstance(catalog, tuple) and len(catalog) == 2:
        x = as_vector(catalog[0], f'x of {name}')
        y = as_vector(catalog[1], f'y of {name}', like=(f'x of {name}', x))
        points = np.stack([x, y], axis=1)
    else:
        points, _ = strip_unit(catalog, name)
        points = points if points.size else points.reshape(0, 2)
    sound = points.ndim == 2 and points.shape[1] == 2
    require(sound, name, 'have the shape (n, 2)', points.shape)
    check_values(points, f'the positions of {name}', finite=True)
    return points


def _parse_radius(radius):
    """Return the radius in pixels or radians, and whether it is an angle."""
    unit = getattr(radius, 'unit', u.pix)
    on_sky = unit != u.pix
    sound, allowed = not on_sky or unit.is_equivalent(u.rad), 'be pixels or an angle'
    require(sound, 'radius', allowed, radius, u.UnitTypeError)
    value = radius.to_value(u.rad) if on_sky else getattr(radius, 'value', radius)
    value = np.asarray(value, dtype=float)
    sound = value.ndim == 0 and 0 < value < np.inf
    require(sound, 'radius', 'be one positive finite number or angle', radius)
    return float(value), on_sky


def _sky_points(catalogs):
    """Return unit vectors."""
    coords = []
    for name, coord in catalogs.items():
        if isinstance(coord, Table):
            coord = column_of(coord, 'sky_centroid', name)
        sound, got = isinstance(coord, SkyCoord), type(coord).__name__
        allowed = "be a SkyCoord or a table with the column 'sky_centroid'"
        require(sound, f'radius is an angle, so {name}', allowed, got, TypeError)
        coord = coord.reshape(-1)
        coords.append(coord.transform_to(coords[0].frame) if coords else coord)
    points = [np.asarray(c.cartesian.xyz / c.cartesian.norm()).T for c in coords]
    for directions, name in zip(points, catalogs, strict=True):
        check_values(directions, f'the sky positions of {name}', finite=True)
    return points


def _add_images(points, images, catalogs, search):
    """Give each image a plane of its own, too far from the others to match."""
    if images is None:
        return points
    if isinstance(images, str):
        images = [column_of(table, images, name) for name, table in catalogs.items()]
    require(len(images) == 2, 'images', 'be a pair (estimated, true)', len(images))
    images = [np.atleast_1d(np.asarray(image)) for image in images]
    for image, rows, name in zip(images, points, catalogs, strict=True):
        n = len(rows)
        own = f'images of {name}'
        require(image.shape == (n,), own, f'have the shape ({n},)', image.shape)
        sound = not n or image.dtype.kind in 'iuSU'
        require(sound, own, 'be integers or strings', image.dtype, TypeError)
    if not all(map(len, points)):
        return points
    _, plane = np.unique(np.concatenate(images), return_inverse=True)
    planes = np.split(plane * (4.0 * search), [len(points[0])])
    return [np.column_stack(pair) for pair in zip(points, planes, strict=True)]


def _parse_magnitudes(tolerance, magnitudes, catalogs, points):
    """Return the magnitudes of both catalogues, or `None` without a tolerance."""
    if tolerance is None:
        if magnitudes is not None:
            msg = 'magnitudes are only used together with magnitude_tolerance'
            raise ValueError(msg)
        return None
    sound = np.isscalar(tolerance) and tolerance >= 0
    require(sound, 'magnitude_tolerance', 'be a number >= 0', tolerance)
    if magnitudes is None:
        magnitudes = [column_of(table, 'mag', name) for name, table in catalogs.items()]
    return [
        as_vector(mag, f'magnitudes of {name}', like=(name, rows))
        for mag, name, rows in zip(magnitudes, catalogs, points, strict=True)
    ]


def _candidates(a, b, search, order):
    """Return all pairs of rows within the search radius, as two index arrays."""
    if not len(a) or not len(b):
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    tree_a, tree_b = KDTree(a), KDTree(b)
    search *= 1 + 1e-9
    if len(a) * len(b) > _MAX_PAIRS:
        n_pairs = int(tree_a.count_neighbors(tree_b, search, p=order))
        if n_pairs > _MAX_PAIRS:
            msg = (
                f'radius is too large for these catalogues: {n_pairs} pairs of rows '
                f'lie within it (at most {_MAX_PAIRS} are handled)'
            )
            raise ValueError(msg)
    pairs = tree_a.sparse_distance_matrix(
        tree_b, search, p=order, output_type='ndarray'
    )
    return pairs['i'].astype(np.intp), pairs['j'].astype(np.intp)


def _assign(row, col, distance, radius):
    """Choose the most pairs, and of such choices the smallest summed distance."""
    if not len(row):
        return np.zeros(0, dtype=np.intp)
    alone = (np.bincount(row)[row] == 1) & (np.bincount(col)[col] == 1)
    rest = np.flatnonzero(~alone)
    n = row.max() + 1, col.max() + 1
    ends = row[rest], n[0] + col[rest]
    graph = coo_matrix((np.ones(len(rest)), ends), shape=(sum(n), sum(n)))
    label = connected_components(graph, directed=False)[1][row[rest]]
    order = np.argsort(label, kind='stable')
    rest, label = rest[order], label[order]
    starts = np.flatnonzero(np.diff(label, prepend=-1))
    # Blocks of whole connected groups.
    blocks = starts[np.flatnonzero(np.diff(starts // _BLOCK_PAIRS, prepend=-1))]
    solved = [
        block[_solve(row[block], col[block], distance[block], radius)]
        for block in np.split(rest, blocks[1:])
    ]
    return np.concatenate([np.flatnonzero(alone), *solved])


def _solve(row, col, distance, radius):
    """Return the pairs to keep of some candidates, as an assignment problem."""
    i, j = (np.unique(index, return_inverse=True)[1] for index in (row, col))
    if not len(i):
        return i
    n_i, n_j = i.max() + 1, j.max() + 1
    # A row may stay alone, at a cost that outweighs any change of the distances.
    alone = np.arange(n_i)
    cells = np.r_[i, alone], np.r_[j, n_j + alone]
    # All costs are positive, as a sparse matrix leaves out zeros.
    cost = np.r_[distance + radius, np.full(n_i, 4.0 * radius * (min(n_i, n_j) + 1))]
    best_i, best_j = min_weight_full_bipartite_matching(
        csr_matrix((cost, cells), shape=(n_i, n_j + n_i))
    )
    partner = np.full(n_i, -1)
    partner[best_i] = best_j
    return np.flatnonzero(partner[i] == j)
