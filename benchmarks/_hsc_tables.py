# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tables of the tutorial, from the benchmark's report.
"""

import json
from pathlib import Path

__all__ = ['write_tables']

_INTRODUCTION = """\
.. Written by benchmarks/hsc_blends.py --tables; not to be edited by hand.

"""
_METHODS = ('ours', 'SEP', 'photutils')
_ROWS = (
    ('flux error, blank', 'median absolute flux error, blank'),
    ('flux error, blended', 'median absolute flux error, blended'),
    ('flux error, all', 'median absolute flux error, all'),
    ('flux error, stars', 'median absolute flux error, stars'),
    ('flux error, galaxies', 'median absolute flux error, galaxies'),
    ('median of the error, blank', 'median flux error, blank'),
    ('median of the error, blended', 'median flux error, blended'),
    ('found, blank', 'recall, blank'),
    ('found, blended', 'recall, blended'),
)


def _table(header, rows):
    lines = ['.. list-table::', '    :header-rows: 1', '']
    for row in (header, *rows):
        first, *rest = row
        lines.append(f'    * - {first}')
        lines += [f'      - {cell}' for cell in rest]
    return '\n'.join(lines) + '\n'


def _injected(content):
    values = {row['what']: row for row in content['rows']}

    def cell(what, name):
        row = values[f'{what}, {name}']
        return f'{100 * row["measured"]:.1f} ± {100 * row["error"]:.1f} %'

    rows = [[title, *(cell(what, k) for k in _METHODS)] for title, what in _ROWS]
    for place in ('blank', 'blended', 'all'):
        row = [f'ours over theirs, {place}', '']
        for name in _METHODS[1:]:
            ratio = values[f"flux error, {place}, ours over {name}'s"]
            row.append(f'{ratio["measured"]:.2f} ± {ratio["error"]:.2f}')
        rows.append(row)
    return _table(['', *_METHODS], rows)


def _given(content):
    def cell(row, name):
        value = row[name]
        if value is None:
            return 'not found'
        error = f' ± {row["error"]:.2f}' if name == 'ours' else ''
        return f'{value:.2f}{error}'

    rows = []
    for row in sorted(content['details']['given'], key=lambda r: r['magnitude']):
        probability = row.get('galaxy_probability')
        rows.append(
            [
                row['blend'],
                'galaxy' if row['is_galaxy'] else 'star',
                '' if probability is None else f'{probability:.2f}',
                f'{row["magnitude"]:.2f}',
                *(cell(row, name) for name in _METHODS),
            ]
        )
    header = ['blend', 'truth', 'P(galaxy)', 'i', *_METHODS]
    return _table(header, rows)


def write_tables(content, folder):
    """
    Write both.

    Parameters
    ----------
    content : dict or path_like
        Of the JSON file, or that.

    folder : path_like
        Where to.
    """
    if not isinstance(content, dict):
        content = json.loads(Path(content).read_text())
    for name, text in (('injected', _injected), ('given', _given)):
        path = Path(folder) / f'another_survey_{name}.inc.rst'
        path.write_text(_INTRODUCTION + text(content))
