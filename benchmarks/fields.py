# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The NPE paper's experiment: stars and galaxies under varying skies and PSFs.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
from _common import Report, make_parser
from _fields_common import SETS
from _fields_figures import LABELS, plot_all
from _fields_numbers import (
    FAINTEST,
    LEVELS,
    Judged,
    Resamples,
    describe,
    describe_oracle,
    difference,
)
from _fields_oracle import run_oracle
from _fields_scoring import cards, read_scores, score_all
from _fields_tables import write_numbers
from _fields_training import NETWORKS, PRESETS, train_all, weights_of

_OURS = 'ours'
_INTERRUPTED = 'interrupted: the same command goes on from here'
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


def _add_numbers(report, which, label, judged, own):
    aimed = which == 'many' and label == _OURS
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


def _add_claims(report, which, judged):
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
        if which == 'many' and first != _OURS and np.isfinite(estimate.error):
            side = 'low' if sign > 0 else 'high'
            goal = {side: sign * estimate.error}
            goal['target'] = 'beyond its error'
        report.add(words, estimate.value, estimate.error, n=estimate.n, **goal)
    return comparisons


def _add_oracle(report, oracle, described):
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
    ours = described.get('many', {}).get(_OURS)
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


# -- the command -----------------------------------------------------------------------


def _parser():
    parser = make_parser(__doc__.strip())
    parser.add_argument(
        '--preset',
        choices=PRESETS,
        default='reduced',
        help='quick: minutes; reduced: two cores, an hour; full: as in the paper',
    )
    parser.add_argument(
        '--work',
        type=Path,
        default=Path('fields-run'),
        help='folder for networks, answers and the oracle, which a second run takes up',
    )
    parser.add_argument('--device', default='cpu', help="'cpu', 'cuda' ...")
    parser.add_argument(
        '--n-images', type=int, help='test images of each kind (of 80 x 80 pixels)'
    )
    parser.add_argument(
        '--ours',
        default='stars-galaxies',
        help="our encoder, a name or file, or 'none'",
    )
    parser.add_argument(
        '--no-training', action='store_true', help='score what is trained so far'
    )
    parser.add_argument('--no-oracle', action='store_true', help='leave it out')
    parser.add_argument(
        '--again',
        action='store_true',
        help='remake report, tables and figures from the saved answers',
    )
    parser.add_argument(
        '--continued',
        action='store_true',
        help='sources go on beyond the edges of the images, unlike in the paper',
    )
    parser.add_argument(
        '--docs',
        type=Path,
        help="the documentation's folder, for figures and the page's numbers "
        "(default: the repository's, or the work folder with --preset quick)",
    )
    return parser


def _encoders(arguments):
    """Encoders that there are, by label."""
    paths = {
        name: str(weights_of(name, arguments.work))
        for name in NETWORKS
        if weights_of(name, arguments.work).is_file()
    }
    if arguments.ours != 'none':
        paths[_OURS] = arguments.ours
    return paths


def _oracle(arguments, preset):
    if arguments.no_oracle:
        return None
    settings = dataclasses.asdict(preset.oracle)
    path = arguments.work / 'oracle.npz'
    if path.is_file():
        with np.load(path) as arrays:
            if str(arrays['settings']) == str(settings):
                return {k: arrays[k] for k in arrays if k != 'settings'}
    if arguments.again:
        return None
    rows = run_oracle(preset.oracle, processes=arguments.threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, settings=np.array(str(settings)), **rows)
    return rows


def _measure(arguments, preset):
    """Train, ask, and the oracle, as far as that was not done before."""
    if not (arguments.no_training or arguments.again):
        train_all(
            preset, arguments.work, device=arguments.device, threads=arguments.threads
        )
    paths = _encoders(arguments)
    if not paths:
        raise SystemExit(f'no encoders in {arguments.work}: run without --no-training')
    if not arguments.again:
        on_cpu = arguments.device == 'cpu'
        score_all(
            paths,
            arguments.work,
            arguments.n_images,
            device=arguments.device,
            processes=arguments.threads if on_cpu else 1,
            continued=arguments.continued,
        )
    return paths, _oracle(arguments, preset)


def evaluate(report, paths, arguments):
    """
    Judge all encoders on both kinds of images.

    Returns
    -------
    described : dict
        By kind of images and encoder what `describe` returns.

    comparisons : dict
        Estimates of paired differences.

    n_images : dict
        Images of each kind.
    """
    described, comparisons, n_images = {}, {}, {}
    for which in SETS:
        truth, answers, n = read_scores(
            list(paths), arguments.work, which, arguments.n_images
        )
        if not n:
            continue
        n_images[which] = n
        print(f'{which}: {n} images, {len(truth["flux"])} sources')
        resamples = Resamples(n)
        judged = {
            label: Judged(truth, answer, resamples) for label, answer in answers.items()
        }
        described[which] = {}
        for label, own in judged.items():
            described[which][label] = describe(own)
            _add_numbers(report, which, label, own, described[which][label])
        comparisons |= _add_claims(report, which, judged)
    return described, comparisons, n_images


def main(args=None):
    arguments = _parser().parse_args(args)
    if arguments.quick:
        arguments.preset = 'quick'
    arguments.quick = arguments.preset == 'quick'
    preset = PRESETS[arguments.preset]
    arguments.n_images = arguments.n_images or preset.n_images
    arguments.work = arguments.work / arguments.preset
    if arguments.docs is None:
        repository = Path(__file__).resolve().parent.parent
        arguments.docs = arguments.work if arguments.quick else repository / 'docs'
    try:
        paths, rows = _measure(arguments, preset)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    report = Report('fields', __doc__.strip(), arguments)
    described, comparisons, n_images = evaluate(report, paths, arguments)
    if not described:
        raise SystemExit(f'no answers in {arguments.work}: run without --again first')
    oracle = None if rows is None else describe_oracle(rows)
    _add_oracle(report, oracle, described)
    report.details = {
        'preset': arguments.preset,
        'n_images': n_images,
        'sources': 'beyond the edges too' if arguments.continued else 'inside only',
        'encoders': cards(paths),
        'oracle': oracle,
        'described': {k: _slim(v) for k, v in described.items()},
    }
    report.finish()
    _compact(report_path(arguments))
    plot_all(described, oracle, arguments.docs / '_static')
    write_numbers(
        described, oracle, comparisons, report_path(arguments), arguments.docs
    )


def _slim(encoders):
    """Without what can be had from the saved answers with ``--again``."""
    out = {}
    for label, own in encoders.items():
        roc = {
            name: {k: v for k, v in curve.items() if not k.endswith('rate')}
            for name, curve in own['roc'].items()
        }
        coverage = {
            way: {kind: _slim_coverage(table) for kind, table in by_kind.items()}
            for way, by_kind in own['coverage'].items()
        }
        shares = {k: v for k, v in own['cumulative'].items() if ',' not in k}
        kept = ('tenths', 'by_snr', 'counts', 'log_score', 'ranges')
        out[label] = {k: own[k] for k in kept}
        out[label] |= {'cumulative': shares, 'roc': roc, 'coverage': coverage}
    return out


def _slim_coverage(table):
    # Shares and errors; bands are about these.
    return {
        'levels': table['levels'],
        'overall': [row[:3] for row in table['overall']],
        'tenths': [[row[1:3] for row in rows] for rows in table['tenths']],
        'median_mag': table['median_mag'],
        'curve_levels': table['curve_levels'],
        'curve': [row[1] for row in table['curve']],
    }


def _compact(path):
    """Put rows of numbers on one line each."""

    def joined(match):
        return f'[{", ".join(match[1].split())}]'.replace(',,', ',')

    text = path.read_text()
    path.write_text(re.sub(r'\[\s+([-+.,\deNul\s]+?)\s+\]', joined, text))


def report_path(arguments):
    """Where the report was written."""
    if arguments.output is not None:
        return Path(arguments.output)
    suffix = '-quick' if arguments.quick else ''
    return Path(__file__).parent / 'results' / f'fields{suffix}.json'


if __name__ == '__main__':
    main()
