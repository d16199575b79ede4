# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The tables of the documentation's page on the experiment with stars and galaxies.
"""

import json

from _coadds_tables import _list_table, _with_error
from _fields_figures import LABELS
from make_docs import _provenance

__all__ = ['paper_rows', 'write_numbers']

_INTRODUCTION = '.. This file is written by benchmarks/fields.py.\n\n'


def _cumulative(own, name, edge):
    """Number brighter than one of the edges."""
    rows = own['cumulative'][name]
    return min(rows, key=lambda row: abs(row[0] - edge))[2:4]


def _roc(own, name):
    return own['roc'][name]['auc'][1:3]


def _coverage(own, level):
    table = own['coverage']['protocol']['all']
    return table['overall'][table['levels'].index(level)][1:3]


# What, the paper's words, ours, and the oracle's.
_ROWS = (
    (
        'Precision, estimated r < 21.5',
        'above 0.95',
        lambda own: own['ranges']['precision, r < 21.5'][1:3],
        None,
    ),
    (
        'Recall, r < 21.2',
        'above 0.90',
        lambda own: own['ranges']['recall, r < 21.2'][1:3],
        None,
    ),
    (
        'Star/galaxy accuracy, r < 22',
        'above 0.96',
        lambda own: _cumulative(own, 'accuracy', 22.0),
        lambda own: own['ranges']['expected accuracy']['all'][1:3],
    ),
    ('AUC', '', lambda own: _roc(own, 'all'), lambda own: _roc(own, 'all')),
    (
        'AUC, faintest tenth',
        '',
        lambda own: _roc(own, 'faintest tenth'),
        lambda own: _roc(own, 'faintest tenth'),
    ),
    (
        'MAPE in %, brightest tenth',
        '',
        lambda own: own['tenths']['mape'][0][3:5],
        lambda own: own['tenths']['mape'][0][3:5],
    ),
    (
        'MAPE in %, r 21.2 to 21.75',
        '',
        lambda own: own['ranges']['mape'][1:3],
        lambda own: own['ranges']['mape']['21.2 to 21.75'][1:3],
    ),
    (
        'MAPE in %, r 21.2 to 21.75, stars',
        '',
        lambda own: own['ranges']['mape, stars'][1:3],
        lambda own: own['ranges']['mape, stars']['21.2 to 21.75'][1:3],
    ),
    (
        'Coverage of 60 % intervals',
        '0.48 (single field), about 0.70 (told the PSF)',
        lambda own: _coverage(own, 0.6),
        lambda own: own['coverage']['all'][1][1:3],
    ),
    (
        'Coverage of 95 % intervals',
        'about 0.96',
        lambda own: _coverage(own, 0.95),
        lambda own: own['coverage']['all'][4][1:3],
    ),
)


def paper_rows(encoders, oracle):
    """
    The printed numbers beside ours.

    Parameters
    ----------
    encoders : dict
        By encoder what `describe` returns, with its ``ranges``.

    oracle : dict or None
        From `describe_oracle`.

    Returns
    -------
    rows : list of list of str
        What, the paper's, each encoder's, the oracle's.
    """
    rows = []
    for what, printed, ours, of_oracle in _ROWS:
        cells = [what, printed]
        cells += [_with_error(tuple(ours(own))) for own in encoders.values()]
        known = oracle is not None and of_oracle is not None
        cells.append(_with_error(tuple(of_oracle(oracle))) if known else '')
        rows.append(cells)
    return rows


def _tenths_table(own):
    names = ('precision', 'recall', 'accuracy', 'mape', 'mape, stars')
    names += ('mape, galaxies',)
    rows = []
    for k, row in enumerate(own['tenths']['recall']):
        cells = [f'to {row[1]:.2f}']
        cells += [_with_error(tuple(own['tenths'][name][k][3:5])) for name in names]
        rows.append(cells)
    header = ['r', 'Precision', 'Recall', 'Accuracy', 'MAPE', 'Stars', 'Galaxies']
    return _list_table(header, rows, '10 16 16 16 14 14 14')


def _comparison_table(comparisons):
    rows = [
        [words, _with_error((estimate.value, estimate.error))]
        for words, estimate in comparisons.items()
    ]
    return _list_table(['Same images', 'Difference'], rows, '76 24')


def write_numbers(described, oracle, comparisons, report_path, folder):
    """
    Write the parts of the documentation's page that hold measured numbers.

    Parameters
    ----------
    described : dict
        By kind of images and encoder.

    oracle : dict or None
        From `describe_oracle`.

    comparisons : dict
        Estimates of differences by what they say.

    report_path : `pathlib.Path`
        The JSON file, for the provenance.

    folder : `pathlib.Path`
        Documentation folder; the parts go to
        ``user_guide/fields_experiment``.
    """
    folder = folder / 'user_guide' / 'fields_experiment'
    folder.mkdir(parents=True, exist_ok=True)
    parts = {'setting': _provenance(json.loads(report_path.read_text()))}
    for which, encoders in described.items():
        names = [LABELS[label][0].upper() + LABELS[label][1:] for label in encoders]
        header = ['', 'Paper', *names, 'Oracle']
        own = oracle if which == 'many' else None
        widths = ' '.join(['26', '16', *['14'] * len(names), '12'])
        table = _list_table(header, paper_rows(encoders, own), widths)
        parts[f'paper_{which}'] = table
    for label, own in described.get('many', {}).items():
        parts[f'tenths_{label.replace("-", "_")}'] = _tenths_table(own)
    if comparisons:
        parts['comparisons'] = _comparison_table(comparisons)
    for name, text in parts.items():
        (folder / f'{name}.inc.rst').write_text(_INTRODUCTION + text)
    print(f'written: {", ".join(parts)} of the page')
