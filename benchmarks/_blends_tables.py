# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The tables of the documentation's page on blends, from the reports.
"""

import json

from make_docs import _list_table, _number, _provenance, _rows_table

__all__ = ['write_pages']

_INTRODUCTION = '.. This file is written by benchmarks/make_docs.py.\n\n'
_MISSING = 'Not measured yet.\n'
_BINS = ('< 0.2', '0.2 to 0.5', '> 0.5')
# Separations of the table, in pixels.
_APART = (0, 1, 2, 3, 3.5, 4, 5, 6, 8, 10, 12, 16)


def _cell(value, error=None):
    if value is None:
        return ''
    text = _number(value, error)
    return f'{text} ± {error:.2g}' if error else text


def _pair(pair):
    return _cell(*pair) if pair[0] is not None else ''


def _column(result, prefix):
    """Recalls by blendedness of the rows that begin so."""
    rows = {row['what']: row for row in result['rows']}
    cells = []
    for words in _BINS:
        row = rows.get(f'{prefix}recall, SNR > 7, blendedness {words}')
        cells.append('' if row is None else _cell(row['measured'], row['error']))
    return cells


def _value(result, what):
    for row in result['rows']:
        if row['what'] == what:
            return _cell(row['measured'], row['error'])
    return ''


def recall_table(result):
    """
    Recalls of all, and how pure their catalogues are.

    Parameters
    ----------
    result : dict
        The report of ``blends.py``.
    """
    labels = list(result['details']['scores'])
    prefixes = {k: f'{k}: ' if len(labels) > 1 else '' for k in labels}
    rows = []
    for label, prefix in prefixes.items():
        first = _value(result, f'{prefix}precision at threshold 0.5')
        cells = _column(result, f'{prefix}at threshold 0.5: ')
        rows.append([f'{label}, threshold 0.5', first, *cells])
        cells = _column(result, f'{prefix}at precision 0.97: ')
        rows.append([f'{label}, at that precision', '0.97', *cells])
    for name in result['details']['rivals']:
        first = _value(result, f'{name}: precision')
        rows.append([name, first, *_column(result, f'{name}: ')])
    rows.append(['aim', '0.97', '0.97', '0.92', '0.75'])
    header = ['Recall, SNR > 7', 'Precision', *(f'Blendedness {b}' for b in _BINS)]
    return _list_table(header, rows, '28 18 18 18 18')


def score_table(result):
    """All scores of the first encoder by SNR and blendedness."""
    scores = next(iter(result['details']['scores'].values()))
    names = ('recall', 'class_accuracy', 'flux_median', 'flux_coverage')
    names += ('ellipticity_slope', 'ellipticity_coverage')
    rows = []
    for k, n in enumerate(scores['n_truth']):
        if n < 20:
            continue
        low, high = scores['snr_low'][k], scores['snr_high'][k]
        first = f'> {low:g}' if high is None else f'{low:g} to {high:g}'
        low, high = (scores[f'blendedness_{end}'][k] for end in ('low', 'high'))
        cells = [first, f'{low:g} to {high:g}', str(n)]
        cells += [_cell(scores[name][k], scores[f'{name}_err'][k]) for name in names]
        rows.append(cells)
    header = ['SNR', 'Blendedness', 'Sources', 'Recall', 'Class', 'Flux', 'its 68 %']
    header += ['Slope of e', 'its 68 %']
    return _list_table(header, rows, '9 11 8 12 12 12 12 12 12')


def design_table(result):
    """The designs on the sources that both find."""
    designs = result['details']['designs']
    if not designs:
        return _MISSING
    labels = list(next(iter(designs.values())))
    rows = []
    for name, own in designs.items():
        cells = [name]
        cells += [_cell(own[k]['value'], own[k]['error']) for k in labels]
        last = own[labels[1]]
        cells.append(_cell(last['difference'], last['difference_error']))
        rows.append(cells)
    rows += [
        [what, *(_value(result, f'{k}: {what}') for k in labels), '']
        for what in (
            'total flux of a scene, posterior of the sum over the truth',
            'scatter of the total flux',
            'time of a core per scene (ms)',
        )
    ]
    header = ['SNR > 7, threshold 0.5', *labels, 'Difference']
    widths = ' '.join(['34', *['20'] * len(labels), '20'])
    return _list_table(header, rows, widths)


def apart_table(result):
    """The case study by separation, of the first encoder."""
    curves = next(iter(result['details']['curves'].values()))
    names = ('found_bright', 'found_faint', 'found_both', 'flux_bright', 'flux_faint')
    names += ('total_catalog', 'total_posterior', 'chi2')
    rows = []
    for k, separation in enumerate(curves['separation']):
        if separation in _APART:
            cells = [f'{separation:g}']
            rows.append(cells + [_pair(curves[name][k]) for name in names])
    header = ['px', 'Brighter found', 'Fainter found', 'Both', 'Flux, brighter']
    header += ['Flux, fainter', 'Total, catalogue', 'Total, posterior', 'Chi-square']
    return _list_table(header, rows, '6 12 12 12 12 12 12 12 12')


_FIGURES = {
    'blends_set': """\
    :alt: Recall, classes, fluxes and ellipticities by SNR and blendedness

    Scores of the first encoder by SNR, in bins of blendedness; recall of SEP and
    photutils in the same colours. Grey: where numbers should lie.
""",
    'blends_apart': """\
    :alt: Detection, fluxes, total flux and chi-square against the separation

    Two galaxies drawn apart. Crosses: half of the fainter ones by 3.5 px, 95 % by 6 px.
    Grey: 3 % about the true total flux.
""",
    'blends_seams': """\
    :alt: Detection probability by the place within a tile

    Share of sources that are found over its mean, by the distance from a border of
    tiles.
""",
}


def _figure(name, docs):
    if not (docs / '_static' / f'{name}.png').is_file():
        return ''
    start = f'.. figure:: ../_static/{name}.png\n    :width: 100%\n'
    return start + _FIGURES[name]


def _read(folder, name):
    for suffix in ('', '-quick'):
        path = folder / f'{name}{suffix}.json'
        if path.is_file():
            return json.loads(path.read_text())
    return None


def write_pages(results, docs):
    """
    Write the parts of the page that hold measured numbers.

    Parameters
    ----------
    results : `pathlib.Path`
        Folder of the reports.

    docs : `pathlib.Path`
        The documentation's folder; the parts go to
        ``user_guide/blends_experiment``.

    Returns
    -------
    written : list of str
        Names of the parts.
    """
    folder = docs / 'user_guide' / 'blends_experiment'
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        'blends': {
            'blends_setting': _provenance,
            'recalls': recall_table,
            'scores': score_table,
            'designs': design_table,
        },
        'drawn_apart': {
            'apart_setting': _provenance,
            'apart_rows': _rows_table,
            'apart': apart_table,
        },
        'galaxy_seams': {'seams_setting': _provenance, 'seams': _rows_table},
    }
    for benchmark, parts in pages.items():
        result = _read(results, benchmark)
        for name, write in parts.items():
            text = _MISSING if result is None else write(result)
            (folder / f'{name}.inc.rst').write_text(_INTRODUCTION + text)
    for name in _FIGURES:
        (folder / f'{name}.inc.rst').write_text(_INTRODUCTION + _figure(name, docs))
    return [*(name for parts in pages.values() for name in parts), *_FIGURES]
