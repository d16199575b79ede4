# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit of a catalogue prior: counts and shapes of a photometric catalogue.
"""

import math

import numpy as np

from bliss_astro.units import MAD_TO_SIGMA

from ._catalog_columns import CatalogColumns
from ._counts import MagnitudeCounts
from ._galaxies import GalaxyPrior, MagnitudeShapes

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
    _check_range(magnitude_range, star_from, galaxy_from, complete_to, shapes_to)
    columns = CatalogColumns.from_table(table, area=area)
    counts = {}
    for name, which, start, slopes in (
        ('stars', ~columns.is_galaxy, star_from, star_slopes),
        ('galaxies', columns.is_galaxy, galaxy_from, galaxy_slopes),
    ):
        counts[name] = _fit_counts(
            columns.magnitude[which],
            columns.area,
            name=name,
            limits=(start, complete_to),
            ends=magnitude_range,
            slopes=slopes,
        )
    shapes = _fit_shapes(columns, complete_to, shapes_to, magnitude_range, radius_range)
    return counts['stars'], GalaxyPrior(counts['galaxies'], shapes)


def _check_range(ends, star_from, galaxy_from, complete_to, shapes_to):
    """Raise a ValueError for magnitudes in a wrong order."""
    for name, start in (('star_from', star_from), ('galaxy_from', galaxy_from)):
        if not ends[0] <= start <= complete_to - 1 <= ends[1] - 1:
            msg = (
                f'magnitude_range[0] <= {name} <= complete_to - 1 and complete_to <= '
                f'magnitude_range[1] must hold, got {name}={start}, '
                f'complete_to={complete_to} and magnitude_range={tuple(ends)}'
            )
            raise ValueError(msg)
    if not galaxy_from < shapes_to <= complete_to:
        msg = (
            'shapes_to must lie between galaxy_from and complete_to, '
            f'got {shapes_to}, {galaxy_from} and {complete_to}'
        )
        raise ValueError(msg)


def _hats(x, nodes):
    """Piecewise-linear basis functions ``(len(x), len(nodes))``."""
    return np.stack([np.interp(x, nodes, row) for row in np.eye(len(nodes))], -1)


def _roughness(n):
    """Matrix of the sum of squares of second differences."""
    second = np.diff(np.eye(n), 2, axis=0)
    return second.T @ second


def _fit_counts(mag, area, *, name, limits, ends, slopes):
    """Fit the counts of one class, and extrapolate them."""
    edges = np.arange(limits[0], limits[1] + 1e-9, _BIN_WIDTH)
    number, _ = np.histogram(mag, edges)
    if number.sum() < _N_MIN:
        msg = (
            f'table must hold at least {_N_MIN} {name} of magnitude {limits[0]} to '
            f'{limits[1]}, got {number.sum()}'
        )
        raise ValueError(msg)
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
    with np.errstate(invalid='ignore'):
        whole = columns.is_galaxy & np.isfinite(columns.radius)
        whole &= (columns.radius >= radius_range[0]) & (
            columns.radius <= radius_range[1]
        )
    measured = whole & (columns.magnitude <= shapes_to)
    if measured.sum() < _N_MIN:
        msg = (
            f'table must hold at least {_N_MIN} galaxies to magnitude {shapes_to} '
            f'with radii of {radius_range[0]} to {radius_range[1]} arcsec, '
            f'got {measured.sum()}'
        )
        raise ValueError(msg)
    magnitude, log_radius, scatter = _fit_radii(
        columns.magnitude, columns.radius, whole, complete_to, shapes_to, ends
    )
    shares = _fit_shares(columns, measured, magnitude)
    return MagnitudeShapes(
        magnitude=_rounded(magnitude),
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
    mag, fraction = columns.magnitude, columns.disk_fraction
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

    disk, bulge = columns.disk_axis_ratio, columns.bulge_axis_ratio
    use = measured & np.isfinite(disk) & np.isfinite(bulge)
    if use.sum() < _N_MIN:
        msg = (
            f'table must hold at least {_N_MIN} galaxies with axis ratios, '
            f'got {use.sum()}'
        )
        raise ValueError(msg)
    found = {}
    for name, values in (('disk', logits(disk[use])), ('bulge', logits(bulge[use]))):
        spread = max(values.std(), 0.05)
        found[f'{name}_axis_ratio'] = _rounded((values.mean(), spread))
    pair = np.corrcoef(logits(disk[use]), logits(bulge[use]))[0, 1]
    found['axis_correlation'] = round(float(np.nan_to_num(pair)), 4)
    fraction, ratio = columns.disk_fraction, columns.bulge_to_disk
    with np.errstate(invalid='ignore'):
        both = measured & (fraction > 0.1) & (fraction < 0.9) & (ratio > 0)
    if both.sum() < _N_MIN:
        # The catalogue gives one radius: that of the survey's own fits then.
        found['bulge_to_disk'] = (0.11, 0.11)
        return found
    log_ratio = np.log10(ratio[both])
    low, middle, high = np.percentile(log_ratio, [16, 50, 84])
    found['bulge_to_disk'] = _rounded((middle, max(0.5 * (high - low), 0.02)))
    return found
