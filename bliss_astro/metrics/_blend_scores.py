# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Scores of detections in blends, by SNR and blendedness.
"""

import numpy as np
from astropy.table import QTable

from ._bootstrap import bootstrap_bands
from ._inputs import as_edges, as_vector, bin_index, check_fraction, strip_unit
from ._matching import match_catalogs

__all__ = ['match_blends', 'score_blends']

_MAD_TO_SIGMA = 1.482602218505602

_SCORES = (
    'recall',
    'class_accuracy',
    'star_accuracy',
    'galaxy_accuracy',
    'flux_median',
    'flux_scatter',
    'flux_coverage',
    'ellipticity_slope',
    'ellipticity_trust',
    'ellipticity_scatter',
    'ellipticity_coverage',
)


def match_blends(truth, detections, *, match_radius=1.0):
    """
    Match detections with true sources, scene by scene.

    Parameters
    ----------
    truth, detections : table or mapping
        With the columns ``scene`` (int), ``x`` and ``y`` (pixels); truth for example
        from `scene_truth`.

    match_radius : float, optional
        Largest distance of a pair in pixels.

    Returns
    -------
    match : `CatalogMatch`
        Of `match_catalogs`: the most pairs, and of all such pairings that with the
        smallest sum of distances.

    Raises
    ------
    ValueError
        If a column is missing, positions are not finite or the radius is not
        positive.
    """
    positions, scenes = [], []
    for table, name in ((detections, 'detections'), (truth, 'truth')):
        columns = [_column(table, key, name)[0] for key in ('x', 'y')]
        positions.append(tuple(columns))
        scenes.append(_integers(table, 'scene', name))
    return match_catalogs(*positions, radius=match_radius, images=tuple(scenes))


def score_blends(
    truth,
    detections,
    *,
    snr_edges,
    blendedness_edges,
    match_radius=1.0,
    threshold=0.5,
    n_resamples=300,
    rng=None,
):
    """
    How well the sources of blends are found, classified and measured.

    Truth and detections are matched one to one within ``match_radius`` in their
    scene, and what is true of the pairs is scored in bins of the TRUE SNR and
    blendedness.

    Parameters
    ----------
    truth : table or mapping
        All true sources of the scenes, also faint ones, with the columns of
        `scene_truth` that are needed here: ``scene``, ``x``, ``y``, ``flux``,
        ``is_galaxy``, ``snr``, ``blendedness``, and ``e1`` and ``e2`` (NaN of
        stars).

    detections : table or mapping
        With ``scene``, ``x`` and ``y``, and as far as they are known:

        * ``is_galaxy`` (bool) or ``galaxy_probability``, cut at ``threshold``;
        * ``flux`` in the unit of the truth, ``flux_low`` and ``flux_high`` (the ends
          of its interval of 68 %) or ``flux_err``;
        * ``e1``, ``e2``, with ``e1_low``, ``e1_high``, ``e2_low``, ``e2_high`` or
          ``e1_err``, ``e2_err``; NaN where unknown.

        Scores that need an absent column are NaN.

    snr_edges, blendedness_edges : 1D array_like
        Increasing edges; bins are half-open, the last one closed.

    match_radius : float, optional
        Largest distance of a pair in pixels.

    threshold : float, optional
        Of ``galaxy_probability``.

    n_resamples : int, optional
        Number of bootstrap resamples of whole scenes.

    rng : int, `~numpy.random.Generator` or `None`, optional
        The source of their randomness.

    Returns
    -------
    scores : `~astropy.table.QTable`
        A row for each pair of bins: ``snr_low``, ``snr_high``, ``blendedness_low``,
        ``blendedness_high``, ``n_truth``, ``n_matched``, ``n_ellipticity`` and the
        scores, each followed by its error ``<score>_err``, the standard deviation of
        the resamples (NaN in empty bins):

        * ``recall``: share of the true sources that are matched;
        * ``class_accuracy``, ``star_accuracy``, ``galaxy_accuracy``: share of the
          matched sources, stars and galaxies that are called what they are;
        * ``flux_median``, ``flux_scatter``: median of (flux - true) / true of the
          matched, and 1.4826 times the median absolute deviation from it;
        * ``flux_coverage``: share of the matched whose interval holds the truth;
        * ``ellipticity_slope``: ``sum(e . e_true) / sum(e_true . e_true)`` of the
          matched true galaxies with an estimate, the slope of the estimate along
          the true direction; 1 of an unbiased one, less of a posterior mean or median;
        * ``ellipticity_trust``: ``sum(e . e_true) / sum(e . e)``, the slope of the
          truth along the estimate; 1 of a calibrated posterior mean, less of an
          unbiased but noisy one;
        * ``ellipticity_scatter``: 1.4826 times the median of the absolute differences
          of the components e1 and e2 from the truth;
        * ``ellipticity_coverage``: share of these components whose interval holds
          the truth.

        In ``meta``: ``precision`` and ``recall`` of all bins together, with errors,
        ``n_detections``, ``n_false``, ``match_radius``.

    Raises
    ------
    ValueError
        If a required column is missing, lengths differ or edges do not increase.

    Notes
    -----
    A detection without a partner is false. It has neither a true SNR nor a true
    blendedness, and enters nothing but ``meta['precision']``. A detection whose
    partner lies outside of all bins is neither right nor false and is not counted.
    Precision is matched / (matched + false). True sources without a partner enter
    the recall alone.

    Grouping by truth is what one asks of a detector, but even the exact posterior
    covers less or more than 68 % in narrow bins of the truth.
    """
    threshold = check_fraction(threshold, 'threshold')
    edges = as_edges(snr_edges), as_edges(blendedness_edges)
    match = match_blends(truth, detections, match_radius=match_radius)
    values, bins = _values(truth, detections, match, edges, threshold)
    n_bins = (len(edges[0]) - 1) * (len(edges[1]) - 1)
    scenes = _integers(truth, 'scene', 'truth')
    false = match.unmatched_estimated
    groups = scenes, _integers(detections, 'scene', 'detections')[false]

    def statistic(rows, false_rows):
        inside = bins[rows] >= 0
        own = {name: value[rows[inside]] for name, value in values.items()}
        found = own['recall'].sum()
        precision = _ratio(found, found + len(false_rows))
        total = _ratio(found, len(own['recall']))
        table = _statistics(own, bins[rows[inside]], n_bins)
        return np.append(table.ravel(), [precision, total])

    bands = bootstrap_bands(statistic, groups, n_resamples=n_resamples, rng=rng)
    found = values['recall'][bins >= 0].sum()
    table = _as_table(bands, edges, _counts(values, bins, n_bins))
    table.meta |= {
        'precision': float(bands.estimate[-2]),
        'precision_err': float(bands.std[-2]),
        'recall': float(bands.estimate[-1]),
        'recall_err': float(bands.std[-1]),
        'n_detections': int(found + len(false)),
        'n_false': len(false),
        'match_radius': match_radius,
    }
    return table


def _names(table):
    return table.colnames if hasattr(table, 'colnames') else list(table)


def _column(table, name, what, *, like=None):
    """
    A column as floats, and the unit that it had.
    """
    if name not in _names(table):
        msg = f'{what} lacks the column {name!r}; it has {_names(table)}'
        raise ValueError(msg)
    values, unit = strip_unit(table[name], f'{name} of {what}', like=like)
    return as_vector(values, f'{name} of {what}'), unit


def _integers(table, name, what):
    if name not in _names(table):
        msg = f'{what} lacks the column {name!r}; it has {_names(table)}'
        raise ValueError(msg)
    values = np.atleast_1d(np.asarray(table[name]))
    # Empty lists are floats to numpy.
    return values.astype(int) if values.size == 0 else values


def _ratio(a, b):
    return a / b if b else np.nan


class _Pairs:
    """
    Columns of both tables, a row for each true source.
    """

    def __init__(self, truth, detections, match):
        self.truth, self.detections, self.match = truth, detections, match
        self.n = match.n_truth

    def true(self, name):
        return _column(self.truth, name, 'truth')[0]

    def found(self, name, *, like=None):
        """
        Of the partners; NaN without one or without the column.
        """
        result = np.full(self.n, np.nan)
        if name in _names(self.detections):
            values = _column(self.detections, name, 'detections', like=like)[0]
            result[self.match.truth_index] = values[self.match.estimated_index]
        return result

    def covered(self, name, *, like=None):
        """
        Whether the interval holds the truth: 0, 1 or NaN.
        """
        low, high = (self.found(f'{name}_{end}', like=like) for end in ('low', 'high'))
        if np.isnan(low).all() or np.isnan(high).all():
            middle = self.found(name, like=like)
            error = self.found(f'{name}_err', like=like)
            low, high = middle - error, middle + error
        true = self.true(name)
        inside = (low <= true) & (true <= high)
        return np.where(np.isnan(low + high + true), np.nan, inside)


def _values(truth, detections, match, edges, threshold):
    """
    What is averaged, a row for each true source, and its bin.
    """
    pairs = _Pairs(truth, detections, match)
    index = [
        bin_index(pairs.true(name), edge)
        for name, edge in zip(('snr', 'blendedness'), edges, strict=True)
    ]
    bins = index[0] * (len(edges[1]) - 1) + index[1]
    bins = np.where((index[0] < 0) | (index[1] < 0), -1, bins)
    galaxy = pairs.true('is_galaxy') > 0
    called = pairs.found('is_galaxy')
    if np.isnan(called).all():
        called = pairs.found('galaxy_probability') - threshold
    right = np.where(np.isnan(called), np.nan, (called > 0) == galaxy)
    flux, unit = _column(truth, 'flux', 'truth')
    e_true = np.stack([pairs.true('e1'), pairs.true('e2')], 1)
    e = np.stack([pairs.found('e1'), pairs.found('e2')], 1)
    e[~galaxy | np.isnan(e + e_true).any(1)] = np.nan
    covered = np.stack([pairs.covered('e1'), pairs.covered('e2')], 1)
    values = {
        'recall': match.is_matched_truth.astype(float),
        'class_accuracy': right,
        'star_accuracy': np.where(galaxy, np.nan, right),
        'galaxy_accuracy': np.where(galaxy, right, np.nan),
        'flux': (pairs.found('flux', like=unit) - flux) / flux,
        'flux_coverage': pairs.covered('flux', like=unit),
        'projected': (e * e_true).sum(1),
        'power': (e_true**2).sum(1),
        'own_power': (e**2).sum(1),
        'difference': np.abs(e - e_true),
        'ellipticity_coverage': np.where(np.isnan(e), np.nan, covered),
    }
    return values, bins


def _counts(values, bins, n_bins):
    inside = bins >= 0

    def count(which):
        return np.bincount(bins[inside & which], minlength=n_bins)

    return {
        'n_truth': count(True),
        'n_matched': count(values['recall'] > 0),
        'n_ellipticity': count(np.isfinite(values['projected'])),
    }


def _mean(value, bins, n_bins):
    """
    Mean of the finite values of each bin; a row may have several.
    """
    good = np.isfinite(value)
    if value.ndim > 1:
        bins = np.broadcast_to(bins[:, None], value.shape)
    total = np.bincount(bins[good], weights=value[good], minlength=n_bins)
    number = np.bincount(bins[good], minlength=n_bins)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _median(value, bins, n_bins):
    """
    Median of the finite values of each bin.
    """
    good = np.isfinite(value)
    if value.ndim > 1:
        bins = np.broadcast_to(bins[:, None], value.shape)
    value, bins = value[good], bins[good]
    ordered = value[np.lexsort((value, bins))]
    number = np.bincount(bins, minlength=n_bins)
    start = np.cumsum(number) - number
    result = np.full(n_bins, np.nan)
    full = number > 0
    low = start[full] + (number[full] - 1) // 2
    high = start[full] + number[full] // 2
    result[full] = 0.5 * (ordered[low] + ordered[high])
    return result


def _statistics(values, bins, n_bins):
    """
    All scores ``(n_scores, n_bins)``.
    """
    result = {
        name: _mean(values[name], bins, n_bins) for name in _SCORES if name in values
    }
    result['flux_median'] = _median(values['flux'], bins, n_bins)
    apart = np.abs(values['flux'] - result['flux_median'][bins])
    result['flux_scatter'] = _MAD_TO_SIGMA * _median(apart, bins, n_bins)
    power = np.where(np.isfinite(values['projected']), values['power'], np.nan)
    slope = _mean(values['projected'], bins, n_bins)
    with np.errstate(invalid='ignore', divide='ignore'):
        trust = slope / _mean(values['own_power'], bins, n_bins)
        slope = slope / _mean(power, bins, n_bins)
    # All galaxies of a bin may be round.
    for name, value in (('slope', slope), ('trust', trust)):
        finite = np.isfinite(value)
        result[f'ellipticity_{name}'] = np.where(finite, value, np.nan)
    scatter = _median(values['difference'], bins, n_bins)
    result['ellipticity_scatter'] = _MAD_TO_SIGMA * scatter
    return np.stack([result[name] for name in _SCORES])


def _as_table(bands, edges, counts):
    n_snr, n_blend = len(edges[0]) - 1, len(edges[1]) - 1
    table = QTable()
    for name, edge, expand in (
        ('snr', edges[0], lambda v: np.repeat(v, n_blend)),
        ('blendedness', edges[1], lambda v: np.tile(v, n_snr)),
    ):
        table[f'{name}_low'], table[f'{name}_high'] = (
            expand(edge[:-1]),
            expand(edge[1:]),
        )
    for name, value in counts.items():
        table[name] = value
    estimate, error = (
        np.asarray(v)[:-2].reshape(len(_SCORES), -1)
        for v in (bands.estimate, bands.std)
    )
    for name, value, err in zip(_SCORES, estimate, error, strict=True):
        table[name] = value
        table[f'{name}_err'] = np.where(np.isfinite(value), err, np.nan)
        table[name].info.format = table[f'{name}_err'].info.format = '.4f'
    return table
