# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Expected counts and draws over regions of a survey, from the marginals of its fields.

Rows count with their probability where they are. What the cells of a field have beyond
its rows, sources too faint to be listed, counts by the share of the area of a cell that
is in the region and belongs to the field; their number is that of a Poisson process.
"""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from scipy.special import ndtr

from ._hats import table_of
from ._merge import merged, owned
from ._sky import chord, to_degrees, to_vectors

# Columns of rows that counts need.
COUNTED = ('ra', 'dec', 'x_centroid', 'y_centroid', 'probability')
# Points of a cell along each axis.
_N_POINTS = 4
# Fluxes of sources that are not listed: counts by log-flux fall as its inverse, and
# the share of those missed as a normal distribution of this width, in units of the
# flux at a signal-to-noise ratio of 5, falls through a half there.
_SLOPE, _WIDTH = 1.0, 0.2


def points_of(field):
    """Unit vectors ``(rows, n, columns, n, 3)`` of points of the cells of a field."""
    cell, axes = field.numbers['cell'], []
    for n in field.sky.shape:
        low = np.arange(0, n, cell)[:, None]
        step = (np.arange(_N_POINTS) + 0.5) / _N_POINTS
        axes.append((low - 0.5 + (np.minimum(low + cell, n) - low) * step).ravel())
    x, y = np.meshgrid(*axes[::-1])
    shape = [k for axis in axes for k in (len(axis) // _N_POINTS, _N_POINTS)]
    return field.sky.vectors(x.ravel(), y.ravel()).reshape(*shape, 3)


class Part:
    """
    Field with its rows and points of its cells, and which of them belong to it.

    Attributes
    ----------
    own_rows, own_points : bool array ``(N,)``, ``(rows, n, columns, n)``
        Those in a region that the field owns.

    places : array ``(N, 3)``
        Unit vectors of the former rows.

    points : array ``(P, 3)``
        Unit vectors of the former points.
    """

    def __init__(self, field, columns):
        self.field, self.rows = field, field.read(list(columns))
        rows = to_vectors(*(self.rows[name].to_numpy() for name in ('ra', 'dec')))
        points = points_of(field)
        self.shape = points.shape[:-1]
        self.vectors = np.concatenate([rows, points.reshape(-1, 3)])

    def keep(self, own):
        """Keep which of the vectors are its own."""
        n = len(self.rows)
        self.own_rows, self.own_points = own[:n], own[n:].reshape(self.shape)
        self.places, self.points = (
            self.vectors[part][own[part]] for part in (slice(n), slice(n, None))
        )

    def at_points(self, cells):
        """Values of cells at the points."""
        return np.broadcast_to(cells[:, None, :, None], self.shape)[self.own_points]


def parts_of(fields, region, columns=COUNTED):
    """Yield the parts of the fields of a region, with columns of the rows."""
    for found, index in fields.batches(region):
        parts = [Part(found[k], columns) for k in index]
        homes = np.repeat(index, [len(part.vectors) for part in parts])
        vectors = np.concatenate([part.vectors for part in parts])
        own = region.contains(vectors)
        own[own] = owned(found, vectors[own], homes[own])
        own = np.split(own, np.flatnonzero(np.diff(homes)) + 1)
        for part, which in zip(parts, own, strict=True):
            part.keep(which)
            yield part


def moments(fields, region):
    """Mean and variance of the number of sources in a region."""
    total = np.zeros(2)
    for part in parts_of(fields, region):
        p = part.rows['probability'].to_numpy()[part.own_rows]
        faint = (part.own_points.mean((1, 3)) * unlisted(part)).sum()
        total += p.sum() + faint, (p * (1 - p)).sum() + faint
    return total


def unlisted(part):
    """Expected number by cell of the sources of a field that are not listed."""
    field, rows = part.field, part.rows
    place = field.cells(rows['x_centroid'].to_numpy(), rows['y_centroid'].to_numpy())
    left = field.arrays['mean'].astype(float)
    np.subtract.at(left, place, rows['probability'].to_numpy())
    # A row may lie in the cell beside that of its tile.
    left = left.clip(min=0)
    total = max(field.numbers['n_mean'] - field.numbers['listed'], 0.0)
    return left * (total / left.sum()) if left.sum() > 0 else left


def faint_fluxes(numbers):
    """Fluxes, and the probability of each among sources that are not listed."""
    limit = next(iter(numbers['limits'].values())) or numbers['flux_min']
    log_flux = np.linspace(0, np.log(4 * max(limit / numbers['flux_min'], 1)), 400)
    flux = numbers['flux_min'] * np.exp(log_flux)
    share = flux**-_SLOPE * ndtr((1 - flux / limit) / _WIDTH)
    return flux, share / share.sum()


def draw(fields, region, n, rng):
    """
    Draw catalogues of a region.

    Parameters
    ----------
    fields : `~bliss_astro.runs._done.Fields`
        The fields.

    region : `Region`
        The region.

    n : int
        Number of catalogues.

    rng : `numpy.random.Generator`
        Source of randomness.

    Returns
    -------
    catalogs : list of `~astropy.table.QTable`
        ``sky_centroid``, ``flux``, ``is_galaxy`` where types are known, and
        ``listed``, whether it is one of the rows; brightest first.
    """
    rows = table_of(merged(fields, region))
    scale = {field.id: field.sky.scale for field in fields.all}
    scale = np.array([scale[name] for name in rows['field']])
    error = [np.nan_to_num(rows[name] * scale) for name in ('x_err', 'y_err')]
    typed = 'galaxy_probability' in rows.colnames
    faint = [_faint(part) for part in parts_of(fields, region)]
    found = []
    for _ in range(n):
        use = rng.uniform(size=len(rows)) < rows['probability']
        own = rows[use]
        place = _shifted(own, [v[use] for v in error], rng)
        # Log-normal: of the same median, and about the same width.
        width = np.log1p(np.nan_to_num(own['flux_err'] / own['flux']))
        flux = [own['flux'] * np.exp(width * rng.normal(size=len(own)))]
        galaxy = (
            rng.uniform(size=len(own)) < own['galaxy_probability'] if typed else None
        )
        places = [place]
        for points, mean, (fluxes, share) in faint:
            which = rng.poisson(mean)
            chosen = np.repeat(np.arange(len(mean)), which)
            places.append(points[chosen])
            flux.append(rng.choice(fluxes, len(chosen), p=share))
        found.append(_table(places, flux, galaxy, rows['flux'].unit, rng))
    return found


def _faint(part):
    """Points of a field in a region, expected numbers there, and fluxes."""
    mean = part.at_points(unlisted(part) / _N_POINTS**2)
    return part.points, mean, faint_fluxes(part.field.numbers)


def _shifted(rows, error, rng):
    """Unit vectors of rows, moved by normal errors in arcsec."""
    vectors = to_vectors(rows['ra'], rows['dec'])
    apart = rng.normal(size=(len(rows), 3)) * chord(np.hypot(*error) / 2**0.5)[:, None]
    vectors = vectors + apart - (apart * vectors).sum(-1, keepdims=True) * vectors
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _table(places, flux, galaxy, unit, rng):
    """A drawn catalogue of parts, the first of which is that of rows."""
    listed = np.arange(sum(map(len, flux))) < len(flux[0])
    places, flux = np.concatenate(places), np.concatenate(flux)
    order = np.argsort(-flux, kind='stable')
    table = QTable()
    table['sky_centroid'] = SkyCoord(*to_degrees(places[order]), unit='deg')
    table['flux'] = flux[order] * (unit or u.one) if unit else flux[order]
    if galaxy is not None:
        share = galaxy.mean() if len(galaxy) else 0.0
        more = rng.uniform(size=len(flux) - len(galaxy)) < share
        table['is_galaxy'] = np.concatenate([galaxy, more])[order]
    table['listed'] = listed[order]
    return table
