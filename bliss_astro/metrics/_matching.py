# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Optimal one-to-one matching of two catalogues.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord, angular_separation
from astropy.table import Table

from ._assignment import assign
from ._inputs import as_vector, check_finite, strip_unit

__all__ = ['CatalogMatch', 'match_catalogs']

_METRICS = {'euclidean': 2.0, 'chebyshev': np.inf}

_MAX_PAIRS = 200_000_000


@dataclass(frozen=True, eq=False)
class CatalogMatch:
    """
    The one-to-one pairs of two catalogues, and what is left over.

    Attributes
    ----------
    estimated_index, truth_index : 1D int `~numpy.ndarray`
        Row numbers of the pairs: row ``estimated_index[k]`` of the estimated
        catalogue is matched with row ``truth_index[k]`` of the true one. Sorted by
        ``estimated_index``.

    distance : 1D `~numpy.ndarray` or `~astropy.units.Quantity`
        The distance of each pair, in pixels or as an angle.

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
        return (
            f'<CatalogMatch: {len(self)} pairs, {len(self.unmatched_estimated)} '
            f'estimated and {len(self.unmatched_truth)} true rows unmatched>'
        )

    @property
    def n_estimated(self):
        """The number of rows of the estimated catalogue."""
        return len(self) + len(self.unmatched_estimated)

    @property
    def n_truth(self):
        """The number of rows of the true catalogue."""
        return len(self) + len(self.unmatched_truth)

    @property
    def is_matched_estimated(self):
        """Boolean array: which estimated rows have a partner."""
        matched = np.zeros(self.n_estimated, dtype=bool)
        matched[self.estimated_index] = True
        return matched

    @property
    def is_matched_truth(self):
        """Boolean array: which true rows have a partner."""
        matched = np.zeros(self.n_truth, dtype=bool)
        matched[self.truth_index] = True
        return matched

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

    Among all ways to pair rows that lie within ``radius`` of each other, each row at
    most once, this finds those with the largest number of pairs, and among these the
    one with the smallest sum of distances. A k-d tree finds the candidates, which fall
    into connected groups; each group is solved exactly as an assignment problem. The
    time grows about linearly with the number of rows.

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
        The distance in pixels: straight-line, or the larger of the offsets in x and
        y. On the sky it is the great-circle distance.

    magnitude_tolerance : float or `None`, optional
        If given, a pair must also agree in magnitude within this (inclusive); rows
        whose magnitude is NaN then never match.

    magnitudes : tuple of two 1D array_like or `None`, optional
        The magnitudes (estimated, true) for ``magnitude_tolerance``. By default the
        column ``mag`` of the tables.

    images : tuple of two 1D int array_like, str or `None`, optional
        For catalogues of many images: the image of each (estimated, true) row, or
        the name of a column of both tables. Only rows of the same image match.

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
    if metric not in _METRICS:
        msg = f'metric must be one of {sorted(_METRICS)}, got {metric!r}'
        raise ValueError(msg)
    radius, on_sky = _parse_radius(radius)
    if on_sky and metric != 'euclidean':
        msg = f'metric must be "euclidean" for matching on the sky, got {metric!r}'
        raise ValueError(msg)
    if on_sky:
        points, pair_distance, search = _sky_points(estimated, truth, radius)
    else:
        points, pair_distance = _pixel_points(estimated, truth, metric)
        search = radius
    n_rows = (len(points[0]), len(points[1]))
    points = _add_images(points, images, (estimated, truth), n_rows, search)
    mags = _parse_magnitudes(
        magnitude_tolerance, magnitudes, (estimated, truth), n_rows
    )

    row, col = _candidates(*points, search, _METRICS[metric])
    distance = pair_distance(row, col)
    keep = distance <= radius
    if mags is not None:
        keep &= np.abs(mags[0][row] - mags[1][col]) <= magnitude_tolerance
    row, col, distance = row[keep], col[keep], distance[keep]

    chosen = assign(row, col, distance, n_rows, radius)
    chosen = chosen[np.argsort(row[chosen], kind='stable')]
    row, col, distance = row[chosen], col[chosen], distance[chosen]
    return CatalogMatch(
        estimated_index=row,
        truth_index=col,
        distance=np.rad2deg(distance) * 3600 * u.arcsec if on_sky else distance,
        unmatched_estimated=_complement(row, n_rows[0]),
        unmatched_truth=_complement(col, n_rows[1]),
    )


def _complement(index, n):
    free = np.ones(n, dtype=bool)
    free[index] = False
    return np.flatnonzero(free)


def _parse_radius(radius):
    """
    The radius in pixels or radians, and whether it is an angle.
    """
    unit = getattr(radius, 'unit', u.pix)
    if unit is not u.pix and not unit.is_equivalent(u.rad):
        msg = f'radius must be a number of pixels or an angle, got {radius!r}'
        raise u.UnitTypeError(msg)
    on_sky = unit is not u.pix
    value = radius.to_value(u.rad) if on_sky else getattr(radius, 'value', radius)
    value = np.asarray(value, dtype=float)
    if value.ndim != 0 or not np.isfinite(value) or value <= 0:
        msg = f'radius must be one positive finite number or angle, got {radius!r}'
        raise ValueError(msg)
    return float(value), on_sky


def _positions(catalog, name):
    """
    Pixel positions of a catalogue as an (n, 2) array.
    """
    if isinstance(catalog, SkyCoord):
        msg = f'{name} is a SkyCoord: give radius as an angle to match on the sky'
        raise TypeError(msg)
    if isinstance(catalog, Table):
        missing = {'x_centroid', 'y_centroid'} - set(catalog.colnames)
        if missing:
            msg = (
                f'{name} lacks the columns {sorted(missing)}; it has {catalog.colnames}'
            )
            raise ValueError(msg)
        catalog = (catalog['x_centroid'], catalog['y_centroid'])
    if isinstance(catalog, tuple) and len(catalog) == 2:
        x = as_vector(catalog[0], f'x of {name}')
        y = as_vector(catalog[1], f'y of {name}', n=len(x), n_name=f'x of {name}')
        points = np.stack([x, y], axis=1)
    else:
        points, _ = strip_unit(catalog, name)
        if points.size == 0:
            points = points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        msg = f'{name} must have the shape (n, 2), got {points.shape}'
        raise ValueError(msg)
    check_finite(points, f'the positions of {name}')
    return points


def _pixel_points(estimated, truth, metric):
    a = _positions(estimated, 'estimated')
    b = _positions(truth, 'truth')

    def pair_distance(row, col):
        delta = np.abs(a[row] - b[col])
        return delta.max(axis=1) if metric == 'chebyshev' else np.hypot(*delta.T)

    return (a, b), pair_distance


def _sky_points(estimated, truth, radius):
    """
    Unit vectors of the sky positions; chords stand in for angles in the k-d tree.
    """
    coords = []
    for catalog, name in ((estimated, 'estimated'), (truth, 'truth')):
        coord = catalog
        if isinstance(catalog, Table):
            if 'sky_centroid' not in catalog.colnames:
                msg = (
                    f'radius is an angle, but {name} has no column "sky_centroid"; '
                    f'it has {catalog.colnames}'
                )
                raise ValueError(msg)
            coord = catalog['sky_centroid']
        if not isinstance(coord, SkyCoord):
            msg = (
                f'radius is an angle, so {name} must be a SkyCoord or a table with '
                f'the column "sky_centroid", got {type(coord).__name__}'
            )
            raise TypeError(msg)
        coords.append(coord.reshape(-1))
    coords[1] = coords[1].transform_to(coords[0].frame)
    lonlat = [
        (c.spherical.lon.to_value(u.rad), c.spherical.lat.to_value(u.rad))
        for c in coords
    ]
    for (lon, lat), name in zip(lonlat, ('estimated', 'truth'), strict=True):
        check_finite(np.stack([lon, lat], axis=1), f'the sky positions of {name}')
    points = tuple(
        np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], axis=1)
        for a, b in lonlat
    )

    def pair_distance(row, col):
        (lon1, lat1), (lon2, lat2) = lonlat
        return angular_separation(lon1[row], lat1[row], lon2[col], lat2[col])

    return points, pair_distance, 2 * np.sin(min(radius, np.pi) / 2) + 1e-14


def _add_images(points, images, catalogs, n_rows, search):
    """
    Give each image its own plane, too far from the others to match.
    """
    if images is None:
        return points
    if isinstance(images, str):
        for catalog, name in zip(catalogs, ('estimated', 'truth'), strict=True):
            if not isinstance(catalog, Table) or images not in catalog.colnames:
                msg = f'images names the column {images!r}, which {name} does not have'
                raise ValueError(msg)
        images = (catalogs[0][images], catalogs[1][images])
    if len(images) != 2:
        msg = f'images must be a pair (estimated, true), got {len(images)} items'
        raise ValueError(msg)
    images = [np.atleast_1d(np.asarray(im)) for im in images]
    for image, n, name in zip(images, n_rows, ('estimated', 'truth'), strict=True):
        if image.shape != (n,):
            msg = f'images of {name} must have the shape ({n},), got {image.shape}'
            raise ValueError(msg)
        if n and image.dtype.kind not in 'iuSU':
            msg = f'images of {name} must be integers or strings, got {image.dtype}'
            raise TypeError(msg)
    if not min(n_rows):
        return points
    _, plane = np.unique(np.concatenate(images), return_inverse=True)
    planes = np.split(plane * (4.0 * search), [n_rows[0]])
    return tuple(
        np.concatenate([p, z[:, np.newaxis]], axis=1)
        for p, z in zip(points, planes, strict=True)
    )


def _parse_magnitudes(tolerance, magnitudes, catalogs, n_rows):
    if tolerance is None:
        if magnitudes is not None:
            msg = 'magnitudes are only used together with magnitude_tolerance'
            raise ValueError(msg)
        return None
    if not np.isscalar(tolerance) or not tolerance >= 0:
        msg = f'magnitude_tolerance must be a number >= 0, got {tolerance!r}'
        raise ValueError(msg)
    if magnitudes is None:
        for catalog, name in zip(catalogs, ('estimated', 'truth'), strict=True):
            if not isinstance(catalog, Table) or 'mag' not in catalog.colnames:
                msg = (
                    f'magnitude_tolerance needs the column "mag" in {name}, '
                    'or the argument magnitudes'
                )
                raise ValueError(msg)
        magnitudes = (catalogs[0]['mag'], catalogs[1]['mag'])
    return tuple(
        as_vector(mag, f'magnitudes of {name}', n=n, n_name=name)
        for mag, n, name in zip(magnitudes, n_rows, ('estimated', 'truth'), strict=True)
    )


def _candidates(a, b, search, order):
    """
    All pairs of rows within the search radius, as two index arrays.
    """
    from scipy.spatial import KDTree

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
