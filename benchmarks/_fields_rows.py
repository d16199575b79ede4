# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The rows of the report on the experiment with stars and galaxies.
"""

import numpy as np
from _fields_figures import LABELS
from _fields_numbers import FAINTEST, LEVELS, difference

__all__ = ['OURS', 'add_claims', 'add_numbers', 'add_oracle']

OURS = 'ours'
_TOLERANCE = 0.02  # of coverages and counts
# Rows of the report: what, how it is measured, the allowed range for ours on the
# many-field images.
_ROWS = {
    'precision, r < 21.5': (lambda j: j.precision(-np.inf, 21.5), {'low': 0.978}),
    'precision, r < 21.5, fainter true sources count as real': (
        lambda j: j.precision(-np.inf, 21.5, faint_too=True),
        {},
    ),
    'recall, r < 21.2': (lambda j: j.recall(-np.inf, 21.2), {'low': 0.965}),
    'recall, r < 21.2, 4 px from the edges': (
        lambda j: j.recall_inner(-np.inf, 21.2),
        {},
    ),
    'accuracy, r < 22': (lambda j: j.accuracy(-np.inf, FAINTEST), {'low': 0.962}),
    'accuracy, r 21 to 22': (lambda j: j.accuracy(21.0, FAINTEST), {}),
    'AUC': (lambda j: j.roc()[1], {'low': 0.985}),
    'AUC, brightest tenth': (lambda j: j.roc(-np.inf, 17.777)[1], {}),
    'AUC, faintest tenth': (lambda j: j.roc(21.746, FAINTEST)[1], {'low': 0.94}),
    'MAPE in %, brightest tenth': (
        lambda j: j.mape(-np.inf, 17.777),
        {'high': 2.5},
    ),
    'MAPE in %, r 21.2 to 21.75': (lambda j: j.mape(21.2, 21.75), {'high': 15.0}),
    'MAPE in %, r 21.2 to 21.75, stars': (
        lambda j: j.mape(21.2, 21.75, kind='stars'),
        {'high': 8.0},
    ),
    'MAPE in %, r 21.2 to 21.75, galaxies': (
        lambda j: j.mape(21.2, 21.75, kind='galaxies'),
        {},
    ),
    'MAPE in %, r < 22': (lambda j: j.mape(-np.inf, FAINTEST), {}),
    'mean log score of the flux, r < 22': (lambda j: j.log_score('log_flux'), {}),
    'mean log score of the type, r < 22': (lambda j: j.log_score('log_type'), {}),
}
# Worst of the tenths brighter than a magnitude.
_WORST = {'precision': (21.5, 0.96), 'recall': (21.24, 0.94)}


def _goal(limits):
    words = [
        f'{sign} {limits[side]:g}'
        for side, sign in (('low', '>='), ('high', '<='))
        if side in limits
    ]
    return {'target': ', '.join(words), **limits}


def add_numbers(report, which, label, judged, own):
    aimed = which == 'many' and label == OURS
    begin = f'{which}, {LABELS[label]}: '
    own['ranges'] = {}
    for what, (measure, limits) in _ROWS.items():
        estimate = measure(judged)
        own['ranges'][_SHORT.get(what, what)] = estimate.row()
        goal = _goal(limits) if aimed and limits else {}
        report.add(begin + what, estimate.value, estimate.error, n=estimate.n, **goal)
    for name, (faintest, limit) in _WORST.items():
        rows = [r for r in own['tenths'][name] if r[1] <= faintest and r[2]]
        if not rows:
            continue
        _, high, n, value, error, *_ = min(rows, key=lambda row: row[3])
        goal = _goal({'low': limit}) if aimed else {}
        what = f'{name}, worst tenth brighter than {faintest:.1f} (to {high:.2f})'
        report.add(begin + what, value, error, n=n, **goal)
    _add_coverage(report, begin, own, aimed)
    _add_counts(report, begin, own, aimed)


_SHORT = {
    'MAPE in %, r 21.2 to 21.75': 'mape',
    'MAPE in %, r 21.2 to 21.75, stars': 'mape, stars',
    'MAPE in %, r 21.2 to 21.75, galaxies': 'mape, galaxies',
}


def _add_coverage(report, begin, own, aimed):
    for way, by_kind in own['coverage'].items():
        for kind in ('stars', 'galaxies'):
            table = by_kind[kind]
            overall = [
                (row[1] - level, row[2], row[0], level)
                for row, level in zip(table['overall'], LEVELS, strict=True)
            ]
            tenths = [
                (row[1] - level, row[2], row[0], f'{level:g}, tenth {k + 1}')
                for k, rows in enumerate(table['tenths'])
                for row, level in zip(rows, LEVELS, strict=True)
            ]
            for words, cells in (('levels', overall), ('levels and tenths', tenths)):
                if not any(cell[2] for cell in cells):
                    continue
                off, error, n, where = max(
                    (cell for cell in cells if cell[2]), key=lambda cell: abs(cell[0])
                )
                goal = {}
                # The cut by the truth spoils tenths near it for any posterior.
                spoilt = way == 'protocol' and cells is tenths
                if aimed and not spoilt:
                    goal = {'target': f'+- {_TOLERANCE}'}
                    goal |= {'low': -_TOLERANCE, 'high': _TOLERANCE}
                report.add(
                    f'{begin}flux coverage minus level, {kind}, {way}, worst of '
                    f'{words} ({where})',
                    off,
                    error,
                    n=n,
                    **goal,
                )


def _add_counts(report, begin, own, aimed):
    for which, rows in own['counts'].items():
        *bins, total = rows
        worst = max(bins, key=lambda row: abs(row[2]))
        for words, row in (('all images', total), ('worst fifth', worst)):
            goal = {}
            if aimed and which == 'of draws':
                goal = {'target': f'+- {_TOLERANCE}'}
                goal |= {'low': -_TOLERANCE, 'high': _TOLERANCE}
            report.add(
                f'{begin}true over expected count ({which}) - 1, {words}, expected '
                f'{row[0]:.2f}',
                row[2],
                row[3],
                n=row[4],
                **goal,
            )


# -- claims --------------------------------------------------------------------------

_CLAIMS = (
    # First, second, what, how it is measured, sign of what is better.
    ('many-fields-all', 'single-field', 'recall, r < 22', 'recall', 1),
    ('many-fields-all', 'single-field', 'star/galaxy accuracy, r < 22', 'accuracy', 1),
    ('many-fields-all', 'single-field', 'flux MAPE in %, r < 22', 'mape', -1),
    ('many-fields-image', 'single-field', 'recall, r < 22', 'recall', 1),
    (
        'many-fields-image',
        'single-field',
        'star/galaxy accuracy, r < 22',
        'accuracy',
        1,
    ),
    ('many-fields-image', 'single-field', 'flux MAPE in %, r < 22', 'mape', -1),
    (
        'many-fields-all',
        'many-fields-image',
        'star/galaxy accuracy, r 21 to 22',
        'accuracy faint',
        1,
    ),
    ('many-fields-all', 'many-fields-image', 'flux MAPE in %, r < 17.8', 'bright', -1),
    ('ours', 'many-fields-all', 'recall, r < 22', 'recall', 1),
    ('ours', 'many-fields-all', 'star/galaxy accuracy, r < 22', 'accuracy', 1),
    ('ours', 'many-fields-all', 'flux MAPE in %, r < 22', 'mape', -1),
)
_MEASURES = {
    'recall': lambda j: j.recall(),
    'accuracy': lambda j: j.accuracy(),
    'accuracy faint': lambda j: j.accuracy(21.0, FAINTEST),
    'mape': lambda j: j.mape(),
    'bright': lambda j: j.mape(-np.inf, 17.777),
}


def add_claims(report, which, judged):
    """Paired differences of encoders on the same images."""
    comparisons = {}
    for first, second, what, key, sign in _CLAIMS:
        if first not in judged or second not in judged:
            continue
        pair = [_MEASURES[key](judged[name]) for name in (first, second)]
        estimate = difference(*pair)
        words = f'{which}, {LABELS[first]} minus {LABELS[second]}: {what}'
        comparisons[words] = estimate
        goal = {}
        # Beyond the bootstrap's band of one sigma.
        if which == 'many' and first != OURS and np.isfinite(estimate.error):
            side = 'low' if sign > 0 else 'high'
            goal = {side: sign * estimate.error}
            goal['target'] = 'beyond its error'
        report.add(words, estimate.value, estimate.error, n=estimate.n, **goal)
    return comparisons


def add_oracle(report, oracle, described):
    if oracle is None:
        return
    for what, row in (
        ('accuracy, r < 22', oracle['ranges']['accuracy']['all']),
        ('expected accuracy, r < 22', oracle['ranges']['expected accuracy']['all']),
        ('AUC', oracle['roc']['all']['auc']),
        ('AUC, faintest tenth', oracle['roc']['faintest tenth']['auc']),
        ('MAPE in %, brightest tenth', oracle['tenths']['mape'][0][2:]),
        ('MAPE in %, r 21.2 to 21.75', oracle['ranges']['mape']['21.2 to 21.75']),
        (
            'MAPE in %, r 21.2 to 21.75, stars',
            oracle['ranges']['mape, stars']['21.2 to 21.75'],
        ),
    ):
        report.add(f'oracle: {what}', row[1], row[2], n=row[0])
    for kind in ('stars', 'galaxies'):
        cells = [
            (row[1] - level, row[2], row[0], level, k + 1)
            for k, rows in enumerate(oracle['coverage_tenths'][kind])
            for row, level in zip(rows, LEVELS, strict=True)
            if row[0]
        ]
        if cells:
            off, error, n, level, k = max(cells, key=lambda cell: abs(cell[0]))
            report.add(
                f'oracle: flux coverage minus level, {kind}, protocol, worst of levels '
                f'and tenths ({level:g}, tenth {k})',
                off,
                error,
                n=n,
            )
    ours = described.get('many', {}).get(OURS)
    if ours is not None:
        best = oracle['ranges']['expected accuracy']['all']
        own = ours['ranges']['accuracy, r < 22']
        report.add(
            'many, oracle minus ours: accuracy, r < 22',
            best[1] - own[1],
            np.hypot(best[2], own[2]),
            target='<= 0.01',
            high=0.01,
        )
