# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The tables of the coadd experiment: ECSV, and what the documentation includes.
"""

import json
from pathlib import Path

import numpy as np
from _coadds_figure import PAPER
from _coadds_numbers import SHARES, snr_table
from make_docs import _list_table, _number, _provenance

__all__ = ['write_numbers', 'write_table']

_FAINT_RECALL, _FAINT_PRECISION, _BRIGHT_RECALL, _BRIGHT_PRECISION = SHARES
_COLUMNS = {
    'noise_order': 'where the noise enters; "none" for single exposures',
    'n_exposures': 'depth d of the coadds',
    'encoder': '"own": trained for this depth; "stars": the bundled one',
    'n_seeds': 'training seeds behind the numbers',
    'quantity': 'what is measured',
    'mag_low': 'lower edge of the bin',
    'mag_high': 'upper edge of the bin',
    'n': 'stars in the bin, mean over the seeds',
    'value': 'share, or median flux residual; mean over the seeds',
    'value_err': 'standard deviation of the resamples of seeds and images',
    'band_low': '25 % of the resamples',
    'band_high': '75 % of the resamples',
    'residual_25': '25 % of the residuals themselves',
    'residual_75': '75 % of the residuals themselves',
}


def _rows(described):
    for (order, depth), own in described.items():
        order = 'none' if depth == 1 else order
        for kind, encoder in (('own', 'own'), ('bundled', 'stars')):
            if own[kind] is None:
                continue
            n_seeds = len(own['seeds']) if kind == 'own' else 1
            for quantity, curve in own[kind]['curves'].items():
                for low, high, n, value, *rest, error in curve:
                    start = (order, depth, encoder, n_seeds, quantity)
                    yield (*start, low, high, n, value, error, *rest)


def write_table(described, arguments):
    """Write all curves as ECSV beside the JSON file of the report."""
    import astropy.units as u
    from astropy.table import QTable

    table = QTable(rows=list(_rows(described)), names=list(_COLUMNS))
    for name, description in _COLUMNS.items():
        if name.startswith('mag'):
            table[name] = np.round(table[name], 3) * u.mag
        elif table[name].dtype.kind == 'f':
            table[name] = [float(f'{value:.6g}') for value in table[name]]
        table[name].info.description = description
    table.meta = {
        'about': 'Curves of benchmarks/coadds.py: recall by true, precision by '
        'estimated magnitude, threshold 0.5, flux residual (estimated - true) / true',
        'preset': arguments.preset,
        'test_images': next(iter(described.values()))['n_images'],
    }
    path = table_path(arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write(path, format='ascii.ecsv', overwrite=True)
    print(f'written: {path.name}')


def table_path(arguments):
    """Where the table goes: beside the report."""
    if arguments.output is not None:
        output = Path(arguments.output)
        return output.with_name(f'{output.stem}_table.ecsv')
    suffix = '-quick' if arguments.quick else ''
    folder = Path(__file__).parent / 'results'
    return folder / f'coadds{suffix}_table.ecsv'


# -- for the documentation -----------------------------------------------------------

_INTRODUCTION = """\
.. This file is written by benchmarks/coadds.py.

"""


def _with_error(pair):
    value, error = pair[:2]
    if not np.isfinite(value):
        return ''
    if not np.isfinite(error):
        return _number(value)
    return f'{_number(value, error)} ± {error:.2g}'


def _paper_table(described):
    """The paper's printed values next to ours."""
    printed = {
        (_FAINT_RECALL, True): f'{PAPER["recall"]["single"]}',
        (_FAINT_RECALL, False): f'above {PAPER["recall"]["coadd"]:.2f}',
        (_FAINT_PRECISION, True): f'{PAPER["precision"]["single"]}',
        (_FAINT_PRECISION, False): '"nearly constant"',
    }
    rows = []
    for what in (_FAINT_RECALL, _FAINT_PRECISION, _BRIGHT_RECALL, _BRIGHT_PRECISION):
        for (order, depth), own in described.items():
            noise = '' if depth == 1 else order.split('_')[0]
            bundled = own['bundled']
            rows.append(
                [
                    what,
                    str(depth),
                    noise,
                    printed.get((what, depth == 1), '') if depth <= 25 else '',
                    _with_error(own['own']['shares'][what]),
                    str(len(own['seeds'])),
                    '' if bundled is None else _with_error(bundled['shares'][what]),
                ]
            )
    header = ['', 'd', 'Noise', 'Paper', 'Ours', 'Seeds', 'Bundled']
    return _list_table(header, rows, '30 6 10 14 18 8 18')


def _residual_table(described):
    # The faintest of the paper's bins.
    rows = []
    for (order, depth), own in described.items():
        paper = PAPER['flux residual by true magnitude']
        printed = f'over {paper["single"]:.0%}' if depth == 1 else ''
        if 1 < depth <= 25:
            printed = f'within {paper["coadd"]:.0%}'
        cells = []
        for by in ('true', 'estimated'):
            row = own['own']['curves'][f'flux residual by {by} magnitude'][-1]
            cells.append(_with_error((100 * row[3], 100 * row[-1])))
        noise = '' if depth == 1 else order.split('_')[0]
        rows.append([str(depth), noise, printed.replace('%', ' %'), *cells])
    header = ['d', 'Noise', 'Paper', 'By true magnitude', 'By estimated magnitude']
    return _list_table(header, rows, '8 14 18 30 30')


def _depth_table(described):
    rows = []
    for (order, depth), own in described.items():
        *_, spread, error, bound = own['own']['scatter'][-1]
        rows.append(
            [
                str(depth),
                '' if depth == 1 else order.split('_')[0],
                _with_error(own['own']['faint_isolated']),
                _with_error(own['own']['faint_blended']),
                _with_error((100 * spread, 100 * error)),
                f'{100 * bound:.2f}',
            ]
        )
    header = [
        'd',
        'Noise',
        'Recall, isolated',
        'Recall, blended',
        'Flux scatter, %',
        'Bound, %',
    ]
    return _list_table(header, rows, '8 12 22 22 20 16')


def _snr_rows():
    printed = {1: ('45', '3'), 25: ('100', '7.5')}
    rows = []
    for depth, bright, faint in snr_table((1, 5, 10, 25, 50, 100)):
        paper = printed.get(depth, ('', ''))
        rows.append([str(depth), f'{bright:.1f}', f'{faint:.2f}', *paper])
    header = ['d', 'Mag 20', 'Mag 23', 'Printed, mag 20', 'Printed, mag 23']
    return _list_table(header, rows, '12 20 20 24 24')


def _claim_table(described):
    single = described.get(('before_alignment', 1))
    if single is None:
        return ''
    rows = []
    for (order, depth), own in described.items():
        if depth == 1:
            continue
        cells = [str(depth), order.split('_')[0]]
        for what in (_FAINT_RECALL, _FAINT_PRECISION):
            value, error, *_ = own['own']['shares'][what]
            first, first_error, *_ = single['own']['shares'][what]
            cells.append(_with_error((value - first, np.hypot(error, first_error))))
        rows.append(cells)
    header = ['d', 'Noise', 'Recall, minus d = 1', 'Precision, minus d = 1']
    return _list_table(header, rows, '10 20 35 35')


def write_numbers(described, report, arguments):
    """
    Write the parts of the documentation's page that hold measured numbers.

    One file for each table, so that the page's text stands between them.
    """
    folder = arguments.docs / 'user_guide' / 'coadd_experiment'
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        'setting': _setting(report, arguments),
        'paper': _paper_table(described),
        'claim': _claim_table(described),
        'residuals': _residual_table(described),
        'depths': _depth_table(described),
        'snr': _snr_rows(),
    }
    for name, text in parts.items():
        (folder / f'{name}.inc.rst').write_text(_INTRODUCTION + text)
    print(f'written: {", ".join(parts)} of the page')


def _setting(report, arguments):
    own = json.loads(report_path(arguments).read_text())
    details = own['details']
    training, encoder = details['training'], details['encoder']
    n_images = {group['n_images'] for group in details['groups'].values()}
    minutes = sum(card['minutes'] for card in details['networks'].values())
    count = len(details['networks'])
    return (
        f'{_provenance(own)}\n'
        f'Preset ``{details["preset"]}``: {count} networks of width '
        f'{encoder["width"]} with {encoder["n_blocks"]} blocks, '
        f'{training["n_steps"]} steps of {training["batch_size"]} images each, '
        f'{minutes / 60:.1f} hours of training altogether; '
        f'{max(n_images)} test images of each depth.\n'
    )


def report_path(arguments):
    """Where the report was written."""
    if arguments.output is not None:
        return Path(arguments.output)
    suffix = '-quick' if arguments.quick else ''
    return Path(__file__).parent / 'results' / f'coadds{suffix}.json'
