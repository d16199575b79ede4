# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
An SDSS frame against a deeper catalogue: the tables of the BLISS paper.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from _common import Report, make_parser
from _sdss_frame_rivals import find_ours, find_photo, find_photutils, find_sep
from _sdss_frame_scores import BORDER, PAPER, TOTAL, score_frame
from _sdss_frame_truth import read_truth

from bliss_astro.exposures import Exposure

OURS = 'bliss_astro'
# What ours should reach at r 17 to 22.
_GOALS = {
    'f1': 0.90,
    'recall': 0.92,
    'precision_vouched': 0.975,
    'accuracy_both': 0.93,
}
_WORDS = {
    'f1': 'F1',
    'precision': 'precision',
    'recall': 'recall',
    'precision_vouched': 'precision, the single-exposure catalogue vouching',
    'accuracy_both': 'star/galaxy accuracy',
    'accuracy_galaxies': 'galaxies called galaxies',
    'accuracy_stars': 'stars called stars',
}


def find_all(exposure, arguments):
    """
    Catalogues of the frame by everyone who is here.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The frame.

    arguments : `argparse.Namespace`
        With ``encoder``, ``threshold``, ``rivals`` and ``photoobj``.

    Returns
    -------
    found : dict
        By name, catalogue and seconds.
    """
    found = {}
    found[OURS] = find_ours(
        exposure, encoder=arguments.encoder, threshold=arguments.threshold
    )
    if 'sep' in arguments.rivals:
        if importlib.util.find_spec('sep') is None:
            print('SEP is not installed: left out')
        else:
            found['SEP'] = find_sep(exposure)
    if 'photutils' in arguments.rivals:
        found['photutils'] = find_photutils(exposure)
    if 'photutils-smoothed' in arguments.rivals:
        found['photutils, 1.5 sigma of the smoothed image'] = find_photutils(
            exposure, of_smoothed=True
        )
    if arguments.photoobj is not None:
        found['PHOTO'] = find_photo(arguments.photoobj, exposure)
    return found


# -- tables --------------------------------------------------------------------------


def _print_detection(scores, paper):
    print('\nDetection (true by true, false by estimated magnitude)')
    names = list(scores)
    bins = [own['low'] for own in scores[names[0]]['bins']]
    print(f'{"r":8}{"N":>6}  ' + '  '.join(f'{name[:21]:>21}' for name in names))
    print(f'{"":14}  ' + '  '.join(f'{"TP/FP  P    R    F1":>21}' for _ in names))
    for k in (*range(len(bins)), None):
        rows = [
            scores[name]['total'] if k is None else scores[name]['bins'][k]
            for name in names
        ]
        label = f'{rows[0]["low"]:g}-{rows[0]["high"]:g}'
        cells = [
            f'{row["true"]:4d}/{row["false"]:<4d} {row["precision"]:4.2f} '
            f'{row["recall"]:4.2f} {row["f1"]:5.3f}'
            for row in rows
        ]
        print(f'{label:8}{rows[0]["n"]:6d}  ' + '  '.join(f'{c:>21}' for c in cells))
    if paper:
        for name in ('BLISS', 'PHOTO'):
            row = _paper_total(name)
            print(
                f'{name} as printed, r 17-22: precision {row["precision"]:.3f}, recall '
                f'{row["recall"]:.3f}, F1 {row["f1"]:.3f}'
            )


def _paper_total(name):
    # The first five of the printed bins are r 17 to 22.
    n, true, false = (
        sum(values[:5])
        for values in (PAPER['n'], PAPER[name]['true'], PAPER[name]['false'])
    )
    return {
        'precision': true / (true + false),
        'recall': true / n,
        'f1': 2 * true / (n + true + false),
    }


def _print_classes(scores, paper):
    named = {k: v for k, v in scores.items() if 'accuracy_both' in v['total']}
    if not named:
        print('\nNo catalogue tells galaxies from stars.')
        return
    print('\nClassification of what was found: all, galaxies, stars')
    print(f'{"r":8}' + '  '.join(f'{name[:24]:>24}' for name in named))
    first = next(iter(named.values()))
    for k in (*range(len(first['bins'])), None):
        rows = [s['total'] if k is None else s['bins'][k] for s in named.values()]
        cells = [
            f'{row["accuracy_both"]:5.3f} {row["accuracy_galaxies"]:5.3f} '
            f'{row["accuracy_stars"]:5.3f} ({row["n_both"]})'
            for row in rows
        ]
        label = f'{rows[0]["low"]:g}-{rows[0]["high"]:g}'
        print(f'{label:8}' + '  '.join(f'{c:>24}' for c in cells))
    if paper:
        for name in ('BLISS', 'PHOTO'):
            values = '  '.join(
                f'{a:.2f} {g:.2f} {s:.2f}'
                for a, g, s in zip(
                    *(PAPER[name][k] for k in ('both', 'galaxies', 'stars')),
                    strict=True,
                )
            )
            print(f'{name} as printed, by bin: {values}')


def _add_rows(report, scores, vouched):
    for name, own in scores.items():
        total = own['total']
        for key, words in _WORDS.items():
            if key not in total or (key == 'precision_vouched' and not vouched):
                continue
            goal = _GOALS.get(key) if name == OURS else None
            report.add(
                f'{name}: {words}, r {TOTAL[0]:g} to {TOTAL[1]:g}',
                total[key],
                total[f'{key}_err'],
                n=total['n'],
                target='' if goal is None else f'>= {goal}',
                low=goal,
            )


def _parser():
    parser = make_parser(__doc__.strip())
    parser.add_argument('frame', help='frame-*.fits of DR8 or later, .bz2 and .gz too')
    parser.add_argument('psfield', help='psField of the same field')
    parser.add_argument('truth', help='deeper catalogue of the same sky')
    parser.add_argument(
        'photoobj', nargs='?', help="the survey's own catalogue of this exposure"
    )
    parser.add_argument('--band', help='a check: the frame says which band it is')
    parser.add_argument('--fpm', help='mask planes of the field in this band')
    parser.add_argument('--photofield', help='photoField of the run')
    parser.add_argument(
        '--background',
        choices=['header', 'measure'],
        default='header',
        help="the survey's sky (default), or measure what it left",
    )
    parser.add_argument('--encoder', help='name or file; the default one if not given')
    parser.add_argument('--threshold', type=float, default=0.5)
    parser.add_argument(
        '--rivals',
        nargs='*',
        default=['sep', 'photutils'],
        choices=['sep', 'photutils', 'photutils-smoothed'],
    )
    return parser


def main(args=None):
    arguments = _parser().parse_args(args)
    torch.set_num_threads(arguments.threads)
    exposure = Exposure.from_sdss(
        arguments.frame,
        arguments.psfield,
        band=arguments.band,
        fpm=arguments.fpm,
        photofield=arguments.photofield,
        background=arguments.background,
    )
    meta = exposure.meta
    truth = read_truth(arguments.truth, exposure.wcs, meta['band'])
    ny, nx = exposure.shape
    on_frame = (abs(truth['x'] - nx / 2) < nx / 2) & (abs(truth['y'] - ny / 2) < ny / 2)
    if not on_frame.any():
        msg = (
            f'truth={Path(arguments.truth).name!r} has no source on the frame: it is '
            'of another part of the sky'
        )
        raise ValueError(msg)
    found = find_all(exposure, arguments)
    voucher = found['PHOTO'][0] if 'PHOTO' in found else None
    scores = {
        name: score_frame(
            own, truth, exposure.shape, None if name == 'PHOTO' else voucher
        )
        for name, (own, _) in found.items()
    }
    field = (meta['run'], meta['camcol'], meta['field'], meta['band'])
    paper = field == PAPER['field']
    _print_detection(scores, paper)
    _print_classes(scores, paper)
    report = Report('sdss_frame', __doc__.strip(), arguments)
    _add_rows(report, scores, voucher is not None)
    for name, (own, seconds) in found.items():
        if np.isfinite(seconds):
            report.add(f'{name}: seconds', seconds, n=len(own['x']))
    report.details = {
        'field': field,
        'shape': exposure.shape,
        'truth': {
            'rows': len(truth['x']),
            'on_frame': int(on_frame.sum()),
            'saturated': int((on_frame & truth['saturated']).sum()),
            'without_magnitude': int((on_frame & ~np.isfinite(truth['mag'])).sum()),
        },
        'rules': {'border_px': BORDER, 'radius_px_chebyshev': 1.0},
        'scores': scores,
        'printed': PAPER if paper else None,
        'printed_total': {n: _paper_total(n) for n in ('BLISS', 'PHOTO')}
        if paper
        else None,
    }
    report.finish()
    return scores


if __name__ == '__main__':
    main()
