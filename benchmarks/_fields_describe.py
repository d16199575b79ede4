# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
All curves of the experiment with stars and galaxies, and of its oracle.
"""

import itertools

import numpy as np
from _fields_common import magnitude
from _fields_numbers import (
    CURVE_LEVELS,
    DECILES,
    EDGES,
    FAINTEST,
    KINDS,
    LEVELS,
    SNR_EDGES,
    Estimate,
    Resamples,
    _of_kind,
    _within,
)

from bliss_astro.metrics import quantile_groups, roc_curve

__all__ = ['describe', 'describe_oracle']

# Points of a ROC curve that are kept for the figure.
_N_POINTS = 200


def _curve(function, edges, **options):
    return [
        [low, high, *function(low, high, **options).row()]
        for low, high in itertools.pairwise(edges)
    ]


def _cumulative(function, **options):
    return [[high, *function(-np.inf, high, **options).row()] for high in DECILES]


def describe(judged):
    """
    All curves of one encoder on one kind of images.

    Parameters
    ----------
    judged : `Judged`
        What it found.

    Returns
    -------
    described : dict
        Rows ``low, high, n, value, error, band`` by tenths of magnitude and by SNR,
        the same cumulative (``high, n, ...``), ROC curves, coverage, counts and
        log scores.
    """
    functions = {'precision': (judged.precision, {})}
    functions['precision, all true sources'] = (judged.precision, {'faint_too': True})
    for name in ('recall', 'accuracy', 'mape'):
        for kind in KINDS:
            label = name if kind == 'all' else f'{name}, {kind}'
            functions[label] = (getattr(judged, name), {'kind': kind})
    described = {
        'tenths': {k: _curve(f, EDGES, **o) for k, (f, o) in functions.items()},
        'cumulative': {k: _cumulative(f, **o) for k, (f, o) in functions.items()},
        'by_snr': {
            k: _curve(f, SNR_EDGES, by='snr', **o)
            for k, (f, o) in functions.items()
            if not k.startswith('precision')
        },
        'by_snr_footprint': {
            k: _curve(f, SNR_EDGES, by='snr_footprint', **o)
            for k, (f, o) in functions.items()
            if k in ('recall', 'accuracy', 'mape')
        },
    }
    described['roc'] = {
        name: _roc_points(*judged.roc(low, high))
        for name, (low, high) in _ROC_RANGES.items()
    }
    described['coverage'] = {
        way: {kind: _coverage_rows(judged, way, kind) for kind in KINDS}
        for way in ('protocol', 'given the cut', 'all sources')
    }
    described['counts'] = {
        'stated': judged.counts('expected'),
        'of draws': judged.counts('expected_of_draws'),
    }
    described['log_score'] = {
        what: {
            kind: {
                'r < 22': judged.log_score(what, kind).row(),
                'all': judged.log_score(what, kind, high=np.inf).row(),
            }
            for kind in KINDS
        }
        for what in ('log_flux', 'log_type', 'log_position')
    }
    return described


_ROC_RANGES = {
    'all': (-np.inf, FAINTEST),
    'brightest tenth': (-np.inf, DECILES[0]),
    'faintest tenth': (DECILES[-2], FAINTEST),
}


def _roc_points(curve, area):
    index = np.arange(len(curve.threshold))
    if len(index) > _N_POINTS:
        # Evenly along the curve, where its points crowd at the corner.
        length = curve.true_positive_rate + curve.false_positive_rate
        even = np.linspace(0, 2, _N_POINTS)
        index = np.unique(np.searchsorted(length, even).clip(0, len(length) - 1))
    return {
        'auc': area.row(),
        'n_galaxies': curve.n_galaxies,
        'n_stars': curve.n_stars,
        'false_positive_rate': curve.false_positive_rate[index],
        'true_positive_rate': curve.true_positive_rate[index],
    }


def _coverage_rows(judged, way, kind):
    table = judged.coverage(way, kind, LEVELS)
    curve = judged.coverage(way, kind, CURVE_LEVELS, n_groups=1)
    return {
        'levels': table['levels'],
        'overall': [e.row() for e in table['overall']],
        'tenths': [[e.row() for e in row] for row in table['tenths']],
        'median_mag': table['median_mag'],
        'curve_levels': list(CURVE_LEVELS),
        'curve': [e.row() for e in curve['overall']],
    }


def describe_oracle(rows):
    """
    Numbers of the template oracle, with bootstrap errors over its sources.

    Parameters
    ----------
    rows : dict of array
        From `run_oracle`.

    Returns
    -------
    described : dict
        As `describe`, as far as it goes; ``expected accuracy`` is the mean of the
        larger of both probabilities, which scatters less.
    """
    n = len(rows['flux'])
    resamples, index = Resamples(n), np.arange(n)
    mag = magnitude(rows['flux'])
    galaxy, chance = rows['is_galaxy'].astype(bool), rows['galaxy']
    miss = np.abs(rows['estimate'] - rows['flux']) / rows['flux']
    values = {
        'accuracy': ((chance > 0.5) == galaxy, 1.0, 'all'),
        'expected accuracy': (np.maximum(chance, 1 - chance), 1.0, 'all'),
    }
    for kind in KINDS:
        label = 'mape' if kind == 'all' else f'mape, {kind}'
        values[label] = (miss, 100.0, kind)

    def mean(name, low, high):
        value, scale, kind = values[name]
        use = _within(mag, low, high) & _of_kind(rows, kind)
        return resamples.mean(value[use], index[use], scale=scale)

    curves = {
        name: [
            [low, high, *mean(name, low, high).row()]
            for low, high in itertools.pairwise(EDGES)
        ]
        for name in values
    }
    ranges = {'21.2 to 21.75': (21.2, 21.75), 'all': (-np.inf, FAINTEST)}
    described = {
        'n': n,
        'tenths': curves,
        'ranges': {
            name: {k: mean(name, *v).row() for k, v in ranges.items()}
            for name in values
        },
        'roc': {},
        'effective_draws': np.quantile(rows['effective'], (0.05, 0.25, 0.5)),
        'coverage': {},
        'coverage_tenths': {},
    }
    off = np.abs(rows['rank'] - 0.5)
    for kind in KINDS:
        use = np.flatnonzero(_of_kind(rows, kind))
        groups = quantile_groups(rows['median'][use], 10)

        def shares(own):
            return [resamples.mean(off[own] <= q / 2, index[own]).row() for q in LEVELS]

        described['coverage'][kind] = shares(use)
        described['coverage_tenths'][kind] = [
            shares(use[groups == k]) for k in range(10)
        ]
    for name, (low, high) in _ROC_RANGES.items():
        use = _within(mag, low, high)
        curve = roc_curve(galaxy[use], chance[use], images=index[use], rng=1)
        area = Estimate(
            curve.auc, curve.auc_err, curve.auc_low, curve.auc_high, use.sum(), None
        )
        described['roc'][name] = _roc_points(curve, area)
    return described
