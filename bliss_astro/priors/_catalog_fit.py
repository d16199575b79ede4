# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit of a catalogue prior: counts and shapes of a photometric catalogue.
"""

import math

import astropy.units as u
import numpy as np
from astropy.table import vstack

from bliss_astro._arguments import must, require
from bliss_astro._lazy import load_surveys
from bliss_astro.units import MAD_TO_SIGMA, flux_to_magnitude

from ._counts import MagnitudeCounts
from ._galaxies import GalaxyPrior, MagnitudeShapes
from ._numbers import float_column, need_columns

# Converters of the tables of surveys, which their plug-ins add: the columns by which
# a table is recognised, and the function that makes the columns of the fit of them.
SURVEY_CONVERTERS = []

# Magnitudes outside of these are codes for missing ones.
MAGNITUDE_RANGE = (5.0, 35.0)

# Width of the bins of the counts in magnitudes; narrow beside the nodes'.
_BIN_WIDTH = 0.25

# Prior standard deviation of the change of slope from node to node, of ln(counts)
# and of log10(radius).
_COUNTS_ROUGHNESS, _RADIUS_ROUGHNESS = 0.3, 0.05

# Beyond the magnitudes where sizes are measured their slope goes on, but not
# steeper than constant surface brightness nor upwards.
_RADIUS_SLOPES = (-0.2, 0.0)

# Fewest galaxies with shapes, and sources of a class, for a fit.
_N_MIN = 20


def read_columns(table, area):
    """
    Check the columns of a catalogue, one table or several, and its area.

    Returns
    -------
    columns : dict of array
        ``magnitude`` (AB), ``is_galaxy``, ``radius`` (of half the light of the whole
        galaxy along its major axis, arcsec), ``bulge_to_disk`` (ratio of the radii),
        ``disk_axis_ratio, bulge_axis_ratio, disk_fraction``; NaN where unknown.

    area : float
        Square degrees.
    """
    many = isinstance(table, (list, tuple)) and table
    first = table[0] if many else table
    need_columns(first, ())
    load_surveys()
    for names, convert in SURVEY_CONVERTERS:
        if set(names) <= set(first.colnames):
            table, many = convert(table), False
    if many:
        table = vstack(list(table), metadata_conflicts='silent')
    columns = {'magnitude': _magnitude(table), 'is_galaxy': _class(table)}
    columns |= _shapes(table, columns['is_galaxy'])
    known = np.isfinite(columns['magnitude'])
    columns = {name: value[known] for name, value in columns.items()}
    return columns, _area(table.meta.get('area') if area is None else area)


def _area(area):
    """Area as square degrees."""
    if area is None:
        msg = 'area must be given, in square degrees (or as table.meta["area"])'
        raise ValueError(msg)
    try:
        number = u.Quantity(area, u.deg**2).value
    except u.UnitsError:
        raise ValueError(must('area', 'be a solid angle', area)) from None
    good = np.ndim(number) == 0 and 0 < number < np.inf
    require(good, 'area', 'be positive, in square degrees', area)
    return float(number)


def _magnitude(table):
    """AB magnitudes from ``magnitude`` or ``flux``."""
    has = [name for name in ('magnitude', 'flux') if name in table.colnames]
    allowed = "be a table with either 'magnitude' or 'flux', one of the two"
    require(len(has) == 1, 'table', allowed, ', '.join(table.colnames))
    if has == ['flux']:
        flux = float_column(table, 'flux', u.nmgy)
        good = not (flux <= 0).any()
        require(good, "table['flux']", 'be positive', np.nanmin(flux, initial=np.inf))
        return flux_to_magnitude(flux)
    unit = getattr(table['magnitude'], 'unit', None)
    allowed = "be in mag (AB; fluxes belong in a column 'flux')"
    good = unit in (None, u.mag, u.ABmag)
    require(good, "table['magnitude']", allowed, unit)
    magnitude = float_column(table, 'magnitude')
    low, high = MAGNITUDE_RANGE
    allowed = f'be between {low} and {high} (mask or drop missing ones)'
    return _within(magnitude, "table['magnitude']", (low, high), allowed)


def _within(value, name, limits, allowed):
    """Check the finite ones of values."""
    with np.errstate(invalid='ignore'):
        wrong = value[np.isfinite(value) & ((value < limits[0]) | (value > limits[1]))]
    require(len(wrong) == 0, name, allowed, wrong[0] if len(wrong) else None)
    return value


def _class(table):
    """Whether each row is a galaxy."""
    if 'is_galaxy' in table.colnames or 'probpsf' not in table.colnames:
        need_columns(table, ['is_galaxy'])
        value = float_column(table, 'is_galaxy')
    else:
        value = 1 - float_column(table, 'probpsf')
    wrong = value[~np.isin(value, (0, 1))]
    name = "table['is_galaxy'] (or 'probpsf')"
    require(len(wrong) == 0, name, 'be 0 or 1', wrong[0] if len(wrong) else None)
    return value == 1


def _shapes(table, is_galaxy):
    """Checked shape columns; those of stars are NaN."""

    def read(name, limits, allowed, unit=None):
        value = np.where(is_galaxy, float_column(table, name, unit), np.nan)
        allowed = f'be {allowed} (mask failed fits, or make them NaN)'
        return _within(value, f'table[{name!r}] of galaxies', limits, allowed)

    tiny = np.nextafter(0, 1)
    names = {}
    for quantity in ('radius', 'axis_ratio'):
        pair = (f'disk_{quantity}', f'bulge_{quantity}')
        both = set(pair) <= set(table.colnames)
        names[quantity] = pair if both else (quantity, quantity)
    needed = (*names['radius'], *names['axis_ratio'], 'disk_fraction')
    need_columns(table, [*dict.fromkeys(needed)])
    fraction = read('disk_fraction', (0, 1), 'in [0, 1]')
    disk, bulge = (
        read(name, (tiny, np.inf), 'positive', u.arcsec) for name in names['radius']
    )
    ratios = [read(name, (tiny, 1), 'in (0, 1]') for name in names['axis_ratio']]
    with np.errstate(invalid='ignore', divide='ignore'):
        # A component without light says nothing.
        log_disk = np.where(fraction > 0, np.log(disk), 0.0)
        log_bulge = np.where(fraction < 1, np.log(bulge), 0.0)
        one = names['radius'][0] == 'radius'
        return {
            'radius': np.exp(fraction * log_disk + (1 - fraction) * log_bulge),
            'bulge_to_disk': np.full(len(disk), np.nan) if one else bulge / disk,
            'disk_axis_ratio': ratios[0],
            'bulge_axis_ratio': ratios[1],
            'disk_fraction': fraction,
        }


def fit_populations(
    table,
    *,
    area=None,
    complete_to=22.0,
    shapes_to=21.5,
    magnitude_range=(14.0, 25.0),
    star_from=15.0,
    galaxy_from=17.5,
    star_slopes=(0.2, 0.1),
    galaxy_slopes=(0.6, 0.36),
    radius_range=(0.1, 15.0),
):
    """Counts of stars and the prior of galaxies, see `CatalogPrior.fit`."""
    first, last = magnitude_range
    for name, start in (('star_from', star_from), ('galaxy_from', galaxy_from)):
        good = first <= start <= complete_to - 1 <= last - 1
        allowed = f'be in [{first}, complete_to - 1], and complete_to at most {last}'
        require(good, name, allowed, f'{start} and complete_to={complete_to}')
    good = galaxy_from < shapes_to <= complete_to
    require(good, 'shapes_to', 'be between galaxy_from and complete_to', shapes_to)
    columns, area = read_columns(table, area)
    mag, galaxy = columns['magnitude'], columns['is_galaxy']
    fixed = complete_to, magnitude_range, area
    stars = _fit_counts(mag[~galaxy], 'stars', star_from, star_slopes, fixed)
    counts = _fit_counts(mag[galaxy], 'galaxies', galaxy_from, galaxy_slopes, fixed)
    shapes = _fit_shapes(columns, complete_to, shapes_to, magnitude_range, radius_range)
    return stars, GalaxyPrior(counts, shapes)


def _need(number, kind):
    require(number >= _N_MIN, 'table', f'be of at least {_N_MIN} {kind}', number)


def _hats(x, nodes):
    """Piecewise-linear basis functions ``(len(x), len(nodes))``."""
    return np.stack([np.interp(x, nodes, row) for row in np.eye(len(nodes))], -1)


def _roughness(n):
    """Matrix of the sum of squares of second differences."""
    second = np.diff(np.eye(n), 2, axis=0)
    return second.T @ second


def _fit_counts(mag, name, start, slopes, fixed):
    """Fit the counts of one class, and extrapolate them."""
    complete_to, ends, area = fixed
    edges = np.arange(start, complete_to + 1e-9, _BIN_WIDTH)
    number, _ = np.histogram(mag, edges)
    _need(number.sum(), f'{name} of magnitude {start} to {complete_to}')
    n_nodes = max(2, round(edges[-1] - edges[0]) + 1)
    nodes = np.linspace(edges[0], edges[-1], n_nodes)
    basis = _hats(0.5 * (edges[1:] + edges[:-1]), nodes)
    penalty = _roughness(n_nodes) / _COUNTS_ROUGHNESS**2
    # Newton's method from a flat start; the problem is convex.
    value = np.full(n_nodes, math.log(number.sum() / len(number)))
    for _ in range(50):
        mean = np.exp(basis @ value)
        slope = basis.T @ (number - mean) - penalty @ value
        step = np.linalg.solve((basis.T * mean) @ basis + penalty, slope)
        value = value + np.clip(step, -1, 1)
    log_density = (value - math.log(area * _BIN_WIDTH)) / math.log(10)
    magnitude, log_density = _extrapolated(nodes, log_density, ends, slopes)
    return MagnitudeCounts(_rounded(magnitude), _rounded(log_density))


def _extrapolated(nodes, values, ends, slopes):
    """Nodes and values of a piecewise-linear function, continued to the ends."""
    nodes, values = list(nodes), list(values)
    if ends[0] < nodes[0]:
        values.insert(0, values[0] - slopes[0] * (nodes[0] - ends[0]))
        nodes.insert(0, ends[0])
    if ends[1] > nodes[-1]:
        values.append(values[-1] + slopes[-1] * (ends[1] - nodes[-1]))
        nodes.append(ends[1])
    return nodes, values


def _rounded(values, digits=4):
    return tuple(round(float(v), digits) for v in values)


def _fit_shapes(columns, complete_to, shapes_to, ends, radius_range):
    """Fit sizes, axis ratios and disk fractions."""
    radius, magnitude = columns['radius'], columns['magnitude']
    # Not true for NaN.
    whole = (radius >= radius_range[0]) & (radius <= radius_range[1])
    measured = whole & (magnitude <= shapes_to)
    limits = f'with radii of {radius_range[0]} to {radius_range[1]} arcsec'
    _need(measured.sum(), f'galaxies to magnitude {shapes_to} {limits}')
    nodes, log_radius, scatter = _fit_radii(
        magnitude, radius, whole, complete_to, shapes_to, ends
    )
    shares = _fit_shares(columns, measured, nodes)
    return MagnitudeShapes(
        magnitude=_rounded(nodes),
        log_radius=_rounded(log_radius),
        radius_scatter=_rounded(scatter),
        disk_share=_rounded(shares[0]),
        bulge_share=_rounded(shares[1]),
        radius_range=tuple(radius_range),
        **_fit_ratios(columns, measured),
    )


def _fit_radii(mag, radius, whole, complete_to, shapes_to, ends):
    """Mean and scatter of log10 of the radius, at nodes, extrapolated."""
    use = whole & (mag <= complete_to)
    x, y = mag[use], np.log10(radius[use])
    start = max(np.percentile(x, 1), ends[0])
    nodes = np.linspace(
        start, complete_to, max(2, round((complete_to - start) / 2) + 1)
    )
    basis = _hats(x, nodes)
    keep = np.ones(len(x), dtype=bool)
    for _ in range(10):
        variance = np.var(y[keep]) or 1.0
        matrix = basis[keep].T @ basis[keep] / variance
        matrix += _roughness(len(nodes)) / _RADIUS_ROUGHNESS**2
        matrix += 1e-9 * np.eye(len(nodes))
        value = np.linalg.solve(matrix, basis[keep].T @ y[keep] / variance)
        residual = y - basis @ value
        sigma = MAD_TO_SIGMA * np.median(np.abs(residual[keep]))
        # Failed fits are far in the wings.
        keep = np.abs(residual) < 3 * max(sigma, 1e-3)
    wings = np.abs(residual[x <= shapes_to])
    scatter = max(MAD_TO_SIGMA * np.median(wings), 0.02)
    slopes = np.clip(np.diff(value) / np.diff(nodes), *_RADIUS_SLOPES)
    magnitude, log_radius = _extrapolated(nodes, value, ends, slopes)
    return magnitude, log_radius, [scatter] * len(magnitude)


def _fit_shares(columns, measured, magnitude):
    """Share of pure disks and of pure bulges at the nodes."""
    mag, fraction = columns['magnitude'], columns['disk_fraction']
    use = measured & np.isfinite(fraction)
    shares = []
    for pure in (fraction > 0.98, fraction < 0.02):
        values = []
        for node in magnitude:
            # As wide a window as it takes to hold enough galaxies; beyond the
            # measured magnitudes that is the nearest ones.
            order = np.argsort(np.abs(mag[use] - node))[: max(60, use.sum() // 4)]
            values.append(np.mean(pure[use][order]) if len(order) else 1 / 3)
        shares.append(np.array(values))
    total = np.maximum(shares[0] + shares[1], 1)
    # Rounding must not take their sum beyond one.
    return [np.floor(1e4 * share / total) / 1e4 for share in shares]


def _fit_ratios(columns, measured):
    """Axis ratios, and the size of the bulge beside the disk's."""

    def logits(ratio):
        ratio = np.clip(ratio, 0.06, 0.98)
        return np.log(ratio / (1 - ratio))

    ratios = columns['disk_axis_ratio'], columns['bulge_axis_ratio']
    use = measured & np.isfinite(ratios[0]) & np.isfinite(ratios[1])
    _need(use.sum(), 'galaxies with axis ratios')
    disk, bulge = (logits(ratio[use]) for ratio in ratios)
    found = {
        f'{name}_axis_ratio': _rounded((values.mean(), max(values.std(), 0.05)))
        for name, values in (('disk', disk), ('bulge', bulge))
    }
    pair = np.corrcoef(disk, bulge)[0, 1]
    found['axis_correlation'] = round(float(np.nan_to_num(pair)), 4)
    fraction, ratio = columns['disk_fraction'], columns['bulge_to_disk']
    with np.errstate(invalid='ignore'):
        both = measured & (fraction > 0.1) & (fraction < 0.9) & (ratio > 0)
    if both.sum() < _N_MIN:
        # The catalogue gives one radius: that of the survey's own fits then.
        return found | {'bulge_to_disk': (0.11, 0.11)}
    low, middle, high = np.percentile(np.log10(ratio[both]), [16, 50, 84])
    spread = max(0.5 * (high - low), 0.02)
    return found | {'bulge_to_disk': _rounded((middle, spread))}
