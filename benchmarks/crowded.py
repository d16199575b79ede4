# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A crowded field: the globular cluster M2 on an SDSS frame against Hubble rows.
"""

from pathlib import Path

import numpy as np
import torch
from _common import Report, make_parser, share_with_error
from _crowded_figures import draw_field, draw_scores
from _crowded_methods import find_ours, find_sep, find_stars, iterative_grid
from _crowded_scores import FAINTEST, bootstrap, f1_of, score, score_bins
from _crowded_truth import Cells, align, read_hubble, reference_completeness

from bliss_astro.exposures import Exposure

OURS = 'bliss_astro'
RIVAL = 'DAOStarFinder + IterativePSFPhotometry, best of the grid'
_GOAL = 2.0
# Pixels around the cells that are looked at, and that the rivals may use.
_MARGIN, _REACH = 24, 10
_OTHER_MAGNITUDE = {'MagAuto': 'MagAper2', 'MagAper2': 'MagAuto'}
_SHIFTS = np.arange(-0.5, 0.501, 0.05)


def _moved(rows, fit):
    """Rows where they lie on the frame, in SDSS magnitudes."""
    dx, dy = fit['shift']
    return {
        'x': rows['x'] + dx,
        'y': rows['y'] + dy,
        'mag': rows['mag'] + fit['zero_point'],
    }


def _own_zero_point(found, truth, cells):
    """The best F1 with a zero point of the method's own, and that shift."""
    best = max(
        (
            f1_of(score({**found, 'mag': found['mag'] + d}, truth, cells).sum(1))[2],
            -abs(d),
            d,
        )
        for d in _SHIFTS
    )
    return float(best[0]), float(best[2])


def _away(shape, cells, origin):
    """Pixels so far from all cells that no method's score depends on them."""
    from scipy.ndimage import binary_dilation

    near = binary_dilation(
        cells.mask(shape, origin), np.ones((3, 3), bool), iterations=_REACH
    )
    return ~near


def find_all(cutout, origin, truth, cells, options):
    """
    Everyone's catalogue of the same pixels.

    Parameters
    ----------
    cutout : `~bliss_astro.exposures.Exposure`
        The surroundings of the cells.

    origin : (x, y) pair of int
        Where they are on the frame.

    truth : dict of array
        Decides which settings of the grid are the best.

    cells : `~_crowded_truth.Cells`
        Where to score.

    options : `argparse.Namespace`
        From the command line.

    Returns
    -------
    found : dict of dict
        By method.

    details : dict
        The grid's scores, seconds and background levels.
    """
    found, details = {}, {}
    found[OURS], info = find_ours(
        cutout,
        origin,
        encoder=options.encoder,
        threshold=options.threshold,
        flux_min=options.flux_min,
        n_rounds=options.rounds,
    )
    details['ours'] = {
        'seconds': info['seconds'],
        'background_levels': info['levels'],
        'density': info['catalog'].meta.get('density'),
        'flux_min': info['catalog'].meta.get('flux_min'),
        'n': len(info['catalog']),
    }
    grid, best = [], (-1.0, None, None)
    small = {'thresholds': (10.0,), 'factors': (1.0,)} if options.quick else {}
    mask = _away(cutout.shape, cells, origin)
    for name, own, seconds in iterative_grid(cutout, origin, mask=mask, **small):
        precision, recall, f1 = f1_of(score(own, truth, cells).sum(1))
        grid.append(
            {
                'setting': name,
                'precision': precision,
                'recall': recall,
                'f1': f1,
                'seconds': seconds,
            }
        )
        print(f'{name}: F1 {f1:.3f} ({seconds:.0f} s)', flush=True)
        if f1 > best[0]:
            best = (f1, name, own)
    found[RIVAL] = best[2]
    details |= {'grid': grid, 'best_setting': best[1]}
    found['DAOStarFinder alone'] = find_stars(cutout, origin)
    sep = find_sep(cutout, origin)
    if sep is not None:
        found['SEP'] = sep
    return found, details


def _add_rows(report, found, truth, cells):
    counts = {name: score(own, truth, cells) for name, own in found.items()}
    for name, own in counts.items():
        total = own.sum(1)
        values = f1_of(total)
        errors, _ = bootstrap(own)
        for k, word in enumerate(('precision', 'recall', 'F1')):
            n = total[0] if k == 0 else total[2]
            report.add(f'{name}: {word}', values[k], errors[k], n=int(n))
    ratio, error = bootstrap(counts[OURS], counts[RIVAL])[1][0]
    report.add(
        f'F1 of {OURS} over that of {RIVAL}',
        ratio,
        error,
        target=f'>= {_GOAL}',
        low=_GOAL,
        n=len(cells),
    )
    return counts


def _add_checks(report, found, truth, cells, options, exposure):
    """The same with other decisions: each is open to doubt."""
    for name in (OURS, RIVAL):
        value, shift = _own_zero_point(found[name], truth, cells)
        report.add(f'{name}: F1, zero point of its own ({shift:+.2f} mag)', value)
    name = _OTHER_MAGNITUDE[options.magnitude]
    rows = read_hubble(options.truth, exposure.wcs, magnitude=name)
    place = cells.bounds(_MARGIN, exposure.shape)
    origin = (place[1].start, place[0].start)
    fit = align(exposure[place], rows, origin)
    other = _moved(rows, fit)
    scored = [score(found[who], other, cells) for who in (OURS, RIVAL)]
    for who, own in zip((OURS, RIVAL), scored, strict=True):
        report.add(
            f'{who}: F1 against {name}', f1_of(own.sum(1))[2], bootstrap(own)[0][2]
        )
    ratio, error = bootstrap(scored[0], scored[1])[1][0]
    report.add(f'ratio of F1 against {name}', ratio, error)
    n_found, n = reference_completeness(options.truth, exposure.wcs)
    report.add(
        'completeness of the reference, r < 21 (F438W rows that have one; at most)',
        *share_with_error(n_found, n),
        n=n,
    )
    return {'other_magnitude': name, 'other_fit': fit}


def _parser():
    parser = make_parser(__doc__.strip())
    parser.add_argument('frame', help='frame-r-*.fits of the field')
    parser.add_argument('psfield', help='psField of the same field')
    parser.add_argument('truth', help='CSV file of the Hubble Source Catalog')
    parser.add_argument('--fpm', help='mask planes of the field in this band')
    parser.add_argument('--photofield', help='photoField of the run')
    parser.add_argument('--encoder', default='stars-crowded')
    parser.add_argument('--threshold', type=float, default=0.5)
    parser.add_argument(
        '--flux-min', type=float, help='flux floor in nmgy; default: 3.4 sigma'
    )
    parser.add_argument(
        '--rounds',
        type=int,
        default=3,
        help="how often the background is measured; 0: the survey's (default: 3)",
    )
    parser.add_argument(
        '--magnitude', choices=sorted(_OTHER_MAGNITUDE), default='MagAuto'
    )
    parser.add_argument('--figures', help='folder to write figures to')
    return parser


def main(args=None):
    options = _parser().parse_args(args)
    torch.set_num_threads(options.threads)
    exposure = Exposure.from_sdss(
        options.frame, options.psfield, fpm=options.fpm, photofield=options.photofield
    )
    rows = read_hubble(options.truth, exposure.wcs, magnitude=options.magnitude)
    cells = Cells(rows['x'], rows['y'])
    place = cells.bounds(_MARGIN, exposure.shape)
    origin = (place[1].start, place[0].start)
    cutout = exposure[place]
    fit = align(cutout, rows, origin)
    truth = _moved(rows, fit)
    print(
        f'{len(cells)} cells, {len(rows["x"])} rows; shift {fit["shift"][0]:.3f}, '
        f'{fit["shift"][1]:.3f} px, zero point {fit["zero_point"]:.3f}'
    )
    found, details = find_all(cutout, origin, truth, cells, options)
    report = Report('crowded', __doc__.strip(), options)
    counts = _add_rows(report, found, truth, cells)
    n_true = int(counts[OURS].sum(1)[2])
    area = int(cells.mask(cutout.shape, origin).sum())
    report.add('true stars r < 21 per pixel', n_true / area, n=n_true)
    details |= _add_checks(report, found, truth, cells, options, exposure)
    names = [name for name in (OURS, RIVAL) if len(found[name]['x'])]
    scores = {name: score_bins(found[name], truth, cells) for name in names}
    report.details = details | {
        'fit': fit,
        'magnitude': options.magnitude,
        'n_cells': len(cells),
        'area_px': area,
        'rules': {
            'radius_px': 0.5,
            'tolerance_mag': 0.5,
            'faintest_r': FAINTEST,
            'withheld': cells.withheld,
        },
        'bins': scores,
    }
    if options.figures:
        short = {OURS: OURS, RIVAL: 'photutils, best of grid'}
        folder = Path(options.figures)
        window = ((280, 350), (690, 760))
        (x0, x1), (y0, y1) = window
        part = exposure[y0:y1, x0:x1]
        image = np.asarray((part.data - part.background) / part.bkg_error)
        panels = {'Hubble, r < 21': truth} | {short[n]: found[n] for n in names}
        draw_field(image, cells, panels, folder / 'crowded_field.png', window=window)
        draw_scores(
            {short[n]: rows for n, rows in scores.items()},
            folder / 'crowded_scores.png',
        )
    report.finish()
    return report


if __name__ == '__main__':
    main()
