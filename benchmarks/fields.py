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
from _fields_describe import describe, describe_oracle
from _fields_figures import plot_all
from _fields_numbers import Judged, Resamples
from _fields_oracle import run_oracle
from _fields_rows import OURS, add_claims, add_numbers, add_oracle
from _fields_scoring import cards, read_scores, score_all
from _fields_tables import write_numbers
from _fields_training import NETWORKS, PRESETS, train_all, weights_of

_INTERRUPTED = 'interrupted: the same command goes on from here'


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
        paths[OURS] = arguments.ours
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
            add_numbers(report, which, label, own, described[which][label])
        comparisons |= add_claims(report, which, judged)
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
    add_oracle(report, oracle, described)
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
