# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The blend set: two to six stars and galaxies within 12 px, beside SEP and photutils.

Scenes of 48 x 48 px in the PSFs and skies of many fields, with sources of the NPE
paper's prior brighter than r = 22.5.
"""

import time

import numpy as np
from _blends_asking import (
    ask,
    draw_totals,
    join,
    labels_of_encoders,
    load,
    score_fluxes,
)
from _blends_figures import figure_path, plot_blends
from _blends_rivals import GRIDS, find_rival, tune
from _blends_rows import add_designs, add_ours, add_rivals
from _blends_scenes import RADIUS, SEED, SHAPE, draw_blends, generator_of
from _blends_scores import above, full_table, matched
from _common import Report, make_parser
from _isolated import run_tasks

from bliss_astro.metrics import ellipticity_bound, scene_truth
from bliss_astro.priors import FieldPrior

__all__ = ['main', 'read_truth']

_BATCH = 50
_TRUTH = ('scene', 'x', 'y', 'is_galaxy', 'snr', 'blendedness', 'e1', 'e2')
_THRESHOLD = 0.5
# Which set a scene belongs to is part of its seed.
_TEST, _TUNING = 5, 6
# Sources whose ellipticity is held against the bound.
_BOUND_SNR, _BOUND_BLENDEDNESS = 10.0, 0.8


def _draw(which, index, n, told):
    generator = generator_of(SEED, which, index)
    scenes, _ = draw_blends(n, FieldPrior(), generator=generator, told=told)
    truth = read_truth(scenes, index * _BATCH)
    return scenes, truth, generator


def read_truth(scenes, first):
    """
    The truth of scenes as arrays, fluxes in nmgy.

    Parameters
    ----------
    scenes : SimulatedImages
        B scenes.

    first : int
        Number of the first one.
    """
    table = scene_truth(scenes, index=first + np.arange(len(scenes)))
    truth = {
        name: np.asarray(getattr(table[name], 'value', table[name])) for name in _TRUTH
    }
    scale = scenes.electrons_per_nmgy.double().numpy()
    truth['flux'] = table['flux'].value / scale[truth['scene'] - first]
    return truth


def keep(x, y):
    """Whether detections are near enough to the middle to be of a source."""
    middle = [0.5 * (s - 1) for s in reversed(SHAPE)]
    return np.hypot(x - middle[0], y - middle[1]) <= RADIUS + 1


def _kept(found):
    near = keep(found['x'], found['y'])
    found = {k: v[near] for k, v in found.items()}
    found['scene'] = found.pop('image')
    return found


# -- one batch -------------------------------------------------------------------------


def _one_batch(task):
    """Truth of some scenes, and what everyone says of them."""
    index, n, setting = task
    scenes, truth, generator = _draw(_TEST, index, n, setting['told'])
    first = index * _BATCH
    seed = generator.initial_seed()
    out = {'truth': truth, 'ours': {}, 'rivals': {}}
    for name in setting['encoders']:
        # The same draws for every encoder, whoever else is asked.
        generator.manual_seed(seed + 1)
        with_totals = first < setting['n_totals']
        with_bound = first < setting['n_bound']
        out['ours'][name] = _ask_one(
            load(name), scenes, truth, first, generator, with_totals, with_bound
        )
    for name, best in setting['rivals'].items():
        start = time.process_time()
        found = _kept(find_rival(name, scenes, best, first=first))
        out['rivals'][name] = found, time.process_time() - start
    return out


def _ask_one(encoder, scenes, truth, first, generator, with_totals, with_bound):
    found, (posterior, sources), seconds = ask(encoder, scenes, first=first)
    found['row'] = np.arange(len(sources))
    found = _kept(found)
    for name in ('flux', 'e1', 'e2'):
        found[name] = found.pop(f'{name}_median')
    found['galaxy_probability'] = found.pop('galaxy')
    _add_log_scores(found, sources, scenes, truth, first)
    answer = {'found': found, 'seconds': seconds, 'totals': None, 'bounds': None}
    if with_totals:
        answer['totals'] = _totals(posterior, scenes, truth, found, first, generator)
    if with_bound and np.isfinite(found['e1']).any():
        answer['bounds'] = _bounds(scenes, truth, found, first)
    return answer


def _sure_rows(found, truth):
    """Rows of detections above the threshold, and of their true sources."""
    sure = np.flatnonzero(found['probability'] >= _THRESHOLD)
    partner = matched(truth, above(found, _THRESHOLD))
    true = np.flatnonzero(partner >= 0)
    return sure[partner[true]], true


def _add_log_scores(found, sources, scenes, truth, first):
    rows, true = _sure_rows(found, truth)
    unit = (scenes.flux_min / scenes.electrons_per_nmgy).double().numpy()
    scores = score_fluxes(
        sources,
        found.pop('row')[rows],
        truth['flux'][true],
        truth['is_galaxy'][true],
        unit[truth['scene'][true] - first],
    )
    for name, value in scores.items():
        found[name] = np.full(len(found['x']), np.nan)
        found[name][rows] = value


def _totals(posterior, scenes, truth, found, first, generator):
    n = len(scenes)
    draws = draw_totals(posterior, scenes, generator=generator)
    low, median, high = np.quantile(draws, (0.15865525, 0.5, 0.84134475), axis=0)
    sure = above(found, _THRESHOLD)
    return {
        'scene': first + np.arange(n),
        'true': np.bincount(truth['scene'] - first, truth['flux'], minlength=n),
        'catalog': np.bincount(sure['scene'] - first, sure['flux'], minlength=n),
        'low': low,
        'median': median,
        'high': high,
    }


def _bounds(scenes, truth, found, first):
    """Ellipticities of found galaxies over their Cramer-Rao bound."""
    rows, true = _sure_rows(found, truth)
    use = truth['is_galaxy'][true] & (truth['snr'][true] > _BOUND_SNR)
    use &= truth['blendedness'][true] < _BOUND_BLENDEDNESS
    pulls = []
    for row, k in zip(rows[use], true[use], strict=True):
        sigma = np.sqrt(np.diag(_bound(scenes, truth, first, k)))
        off = [found[e][row] - truth[e][k] for e in ('e1', 'e2')]
        pulls.append(np.array(off) / sigma)
    return {
        'scene': truth['scene'][true[use]],
        'blendedness': truth['blendedness'][true[use]],
        'pull': np.array(pulls).reshape(-1, 2),
    }


def _bound(scenes, truth, first, k):
    b = int(truth['scene'][k]) - first
    used = scenes.flux[b] > 0
    x, y, flux, kind, galaxy = (
        getattr(scenes, name)[b][used].double().numpy()
        for name in ('x', 'y', 'flux', 'is_galaxy', 'galaxy')
    )
    apart = np.hypot(x - truth['x'][k], y - truth['y'][k])
    return ellipticity_bound(
        scenes.psf[b].double().numpy(),
        x,
        y,
        flux,
        kind > 0,
        galaxy,
        source=int(apart.argmin()),
        bkg_error=float(scenes.bkg_error[b]),
        size=SHAPE,
    )


# -- all -------------------------------------------------------------------------------


def _tune_one(task):
    name, n, told = task
    batches = []
    for index, start in enumerate(range(0, n, _BATCH)):
        scenes, truth, _ = _draw(_TUNING, index, min(_BATCH, n - start), told)
        batches.append((scenes, truth | {'image': truth['scene'] - index * _BATCH}))
    return tune(name, batches, keep=keep)


def _gather(parts, encoders, rivals):
    truth = join([part['truth'] for part in parts])
    ours = {}
    for name in encoders:
        own = [part['ours'][name] for part in parts]
        ours[name] = {
            'found': join([answer['found'] for answer in own]),
            'seconds': sum(answer['seconds'] for answer in own),
        }
        for key in ('totals', 'bounds'):
            some = [answer[key] for answer in own if answer[key] is not None]
            ours[name][key] = join(some) if some else None
    found = {}
    for name in rivals:
        own = [part['rivals'][name] for part in parts]
        found[name] = {
            'found': join([f for f, _ in own]),
            'seconds': sum(seconds for _, seconds in own),
        }
    return truth, ours, found


def _parser():
    parser = make_parser(__doc__.strip().splitlines()[0])
    parser.add_argument(
        '--encoder', nargs='+', default=['stars-galaxies'], help='names or files'
    )
    parser.add_argument('--scenes', type=int, default=10000)
    parser.add_argument(
        '--tuning', type=int, default=200, help="scenes for the rivals' settings"
    )
    parser.add_argument(
        '--totals', type=int, default=1000, help='scenes whose total flux is drawn'
    )
    parser.add_argument(
        '--bound', type=int, default=300, help='scenes for the Cramer-Rao bound'
    )
    parser.add_argument(
        '--told',
        choices=('blends', 'field'),
        default='blends',
        help='the circle and mean number of the blends, or the density of a field',
    )
    parser.add_argument('--no-rivals', action='store_true')
    parser.add_argument(
        '--figure', help='picture to draw (after a full run by default)'
    )
    return parser


def main(args=None):
    arguments = _parser().parse_args(args)
    if arguments.quick:
        for name, most in (
            ('scenes', 200),
            ('tuning', 20),
            ('totals', 50),
            ('bound', 50),
        ):
            setattr(arguments, name, min(most, getattr(arguments, name)))
    start, n = time.perf_counter(), arguments.scenes
    rivals, tables = {}, {}
    names = [] if arguments.no_rivals else list(GRIDS)
    tasks = [(name, arguments.tuning, arguments.told) for name in names]
    results = run_tasks(
        _tune_one, tasks, processes=arguments.threads, description='tuning'
    )
    for name, (best, table) in zip(names, results, strict=True):
        rivals[name], tables[name] = best, table
    setting = {
        'encoders': arguments.encoder,
        'rivals': rivals,
        'told': arguments.told,
        'n_totals': arguments.totals,
        'n_bound': arguments.bound,
    }
    tasks = [
        (k, min(_BATCH, n - first), setting)
        for k, first in enumerate(range(0, n, _BATCH))
    ]
    parts = run_tasks(
        _one_batch, tasks, processes=arguments.threads, description='scenes'
    )
    truth, ours, found = _gather(parts, arguments.encoder, rivals)
    report = Report('blends', __doc__.strip().splitlines()[0], arguments)
    details = _evaluate(report, truth, ours, found, n)
    report.details = {
        'n_scenes': n,
        'n_sources': len(truth['x']),
        'told': arguments.told,
        'settings': rivals,
        'grids': {
            k: sorted(v, key=lambda row: -row['f1'])[:8] for k, v in tables.items()
        },
        'seconds': time.perf_counter() - start,
        **details,
    }
    figure = figure_path('blends_set', arguments)
    if figure:
        plot_blends(report.details, figure)
    report.finish()


def _evaluate(report, truth, ours, found, n_scenes):
    """All rows, and the full tables for the report."""
    details = {'scores': {}, 'rivals': {}, 'designs': None}
    labels = labels_of_encoders(list(ours))
    several = len(ours) > 1
    for name, own in ours.items():
        label = labels[name]
        prefix = f'{label}: ' if several else ''
        add_ours(report, prefix, truth, own, found, n_scenes)
        sure = above(own['found'], _THRESHOLD)
        details['scores'][label] = full_table(truth, sure)
    if several:
        sure = {labels[k]: above(own['found'], _THRESHOLD) for k, own in ours.items()}
        details['designs'] = add_designs(report, truth, sure)
    for name, own in found.items():
        add_rivals(report, name, truth, own, n_scenes)
        details['rivals'][name] = full_table(truth, own['found'])
    return details


if __name__ == '__main__':
    main()
