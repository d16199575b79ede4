# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The coadd paper's experiment: encoders trained on coadds against single exposures.
"""

import dataclasses
from pathlib import Path

import numpy as np
from _coadds_figure import plot
from _coadds_numbers import SHARES, THRESHOLD, describe_group, snr_table
from _coadds_scoring import BUNDLED, cards, read_scores, score_all
from _coadds_tables import write_numbers, write_table
from _coadds_training import PRESETS, networks_of, train_all
from _common import Report, make_parser

_FAINT_RECALL, _FAINT_PRECISION, _BRIGHT_RECALL, _BRIGHT_PRECISION = SHARES
# Smallest allowed, by depth; what is said of every depth has the key None.
_GOALS = {
    (1, _FAINT_RECALL): 0.39,
    (5, _FAINT_RECALL): 0.92,
    (10, _FAINT_RECALL): 0.94,
    (25, _FAINT_RECALL): 0.955,
    (1, _FAINT_PRECISION): 0.74,
    (5, _FAINT_PRECISION): 0.965,
    (10, _FAINT_PRECISION): 0.975,
    (25, _FAINT_PRECISION): 0.98,
    (None, _BRIGHT_RECALL): 0.98,
    (None, _BRIGHT_PRECISION): 0.98,
}
_INTERRUPTED = 'interrupted: the same command goes on from here'


def _add_shares(report, label, depth, shares):
    for what, (share, error, _, n) in shares.items():
        goal = _GOALS.get((depth, what), _GOALS.get((None, what)))
        report.add(
            f'{label}: {what}',
            share,
            error,
            n=round(n),
            target='' if goal is None else f'>= {goal}',
            low=goal,
        )


def _add_residual(report, label, depth, curves):
    # The largest median of the bins, as far as the aim goes.
    limit, faintest = (0.05, 22.75) if depth == 1 else (0.015, 23.1)
    rows = curves['flux residual by estimated magnitude']
    rows = rows[np.isfinite(rows[:, 3]) & (rows[:, 1] <= faintest)]
    if not len(rows):
        return
    low, high, n, value, *_, error = rows[np.abs(rows[:, 3]).argmax()]
    report.add(
        f'{label}: largest median flux residual of the bins of estimated mag '
        f'({low:g} to {high:g})',
        abs(value),
        error,
        n=round(n),
        target=f'<= {limit}',
        high=limit,
    )


def add_rows(report, described):
    """
    The rows of the report.

    The claim comes last: shares of each depth minus those of d = 1. Their images
    differ, so that the errors add in squares.
    """
    for (order, depth), own in described.items():
        words = '' if depth == 1 else f', noise {order.replace("_", " ")}'
        for kind, label in (('own', 'trained for it'), ('bundled', BUNDLED)):
            if own[kind] is None:
                continue
            label = f'd = {depth}{words}, {label}'
            _add_shares(report, label, depth, own[kind]['shares'])
            _add_residual(report, label, depth, own[kind]['curves'])
    single = described.get(('before_alignment', 1))
    for (order, depth), own in described.items():
        if depth == 1 or single is None:
            continue
        for what in (_FAINT_RECALL, _FAINT_PRECISION):
            value, error, *_ = own['own']['shares'][what]
            first, first_error, *_ = single['own']['shares'][what]
            report.add(
                f'd = {depth} minus d = 1, noise {order.replace("_", " ")}: {what}',
                value - first,
                np.hypot(error, first_error),
                target='> 0',
                low=1e-6,
            )


def describe(scores):
    """What `describe_group` says of every group, by depth."""
    described = {}
    for group in sorted(scores, key=lambda g: (g[0] != 'before_alignment', g[1])):
        print(f'd = {group[1]}, noise {group[0]}: {len(scores[group]["seeds"])} seeds')
        described[group] = describe_group(scores[group])
    return described


def _details(arguments, preset, networks, described):
    return {
        'preset': arguments.preset,
        'threshold': THRESHOLD,
        'encoder': dataclasses.asdict(preset.encoder),
        'training': preset.training,
        'training_shape': preset.shape,
        'training_margin': preset.margin,
        'optimal_snr_of_ideal_stacks': snr_table((1, 5, 10, 25, 50, 100)),
        'networks': cards(networks, arguments.work),
        'groups': {
            f'{order}, d = {depth}': {
                'n_images': own['n_images'],
                'seeds': own['seeds'],
                **{k: own[k] for k in ('own', 'bundled')},
            }
            for (order, depth), own in described.items()
        },
    }


def _parser():
    parser = make_parser(__doc__.strip())
    parser.add_argument(
        '--preset',
        choices=PRESETS,
        default='reduced',
        help='quick: minutes; reduced: two cores, an hour; full: a GPU',
    )
    parser.add_argument(
        '--work',
        type=Path,
        default=Path('coadds-run'),
        help='folder for networks and scores, which a second run takes up',
    )
    parser.add_argument('--device', default='cpu', help="'cpu', 'cuda' ...")
    parser.add_argument('--depths', type=int, nargs='+', help='only these')
    parser.add_argument('--n-images', type=int, help='test images of a depth')
    parser.add_argument(
        '--no-training', action='store_true', help='score what is trained so far'
    )
    parser.add_argument(
        '--figure-only',
        action='store_true',
        help='remake figure, tables and page from the saved scores',
    )
    parser.add_argument(
        '--docs',
        type=Path,
        help="the documentation's folder, for the figure and the page's numbers "
        "(default: the repository's, or the work folder with --preset quick)",
    )
    return parser


def main(args=None):
    arguments = _parser().parse_args(args)
    if arguments.quick:
        arguments.preset = 'quick'
    arguments.quick = arguments.preset == 'quick'
    preset = PRESETS[arguments.preset]
    arguments.work = work = arguments.work / arguments.preset
    if arguments.docs is None:
        repository = Path(__file__).resolve().parent.parent
        arguments.docs = work if arguments.quick else repository / 'docs'
    networks = networks_of(preset, arguments.depths)
    how = {'device': arguments.device, 'processes': arguments.threads}
    try:
        if not (arguments.no_training or arguments.figure_only):
            train_all(networks, preset, work, **how)
        if not arguments.figure_only:
            n_images = arguments.n_images or preset.n_images
            score_all(networks, work, n_images, **how)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    scores = read_scores(networks, work)
    if not scores:
        raise SystemExit(f'no scores in {work}: run without --figure-only first')
    described = describe(scores)
    report = Report('coadds', __doc__.strip(), arguments)
    report.details = _details(arguments, preset, networks, described)
    add_rows(report, described)
    report.finish()
    write_table(described, arguments)
    write_numbers(described, report, arguments)
    plot(described, arguments.docs / '_static' / 'coadd_experiment.png')


if __name__ == '__main__':
    main()
