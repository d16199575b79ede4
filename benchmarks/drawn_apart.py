# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Two galaxies drawn apart: who is found, and where the light goes.

The case study of the slides on blends (Mendoza), in the PSF and sky of run 94, camcol
1, field 12: two exponential galaxies with half-light radii of 1.2 and 0.8 arcsec and
fluxes 2 to 1, the fainter one at a signal-to-noise ratio of 30, at random angles, axis
ratios and places within a pixel. The same galaxies under the same noise are seen at
all separations.
"""

import time

import numpy as np
import torch
from _blends_asking import ask, draw_totals, labels_of_encoders, load
from _blends_figures import figure_path, plot_apart
from _blends_model import chi_square, reconstruct
from _blends_pairs import draw_pairs, place_pairs, tellings
from _blends_scenes import SEED, generator_of
from _common import Report, make_parser, share_with_error
from _isolated import run_tasks

__all__ = ['COLUMNS', 'SEPARATIONS', 'judge', 'main']

SEPARATIONS = (*np.arange(0, 7.01, 0.5), *np.arange(8, 16.1))
_MATCH = 1.0  # px
_BATCH = 50
COLUMNS = (
    'found_bright',
    'found_faint',
    'found_both',
    'flux_bright',
    'flux_faint',
    'n_found',
    'total_catalog',
    'total_posterior',
    'total_rank',
    'chi2',
    'chi2_truth',
)


# -- answers -------------------------------------------------------------------------


def judge(found, scenes):
    """
    Who is found in each image.

    Each detection belongs to the nearer galaxy, and finds it if it is the closest of
    those within a pixel of it.

    Parameters
    ----------
    found : dict of array
        From `ask`, of probability above 0.5.

    scenes : SimulatedImages
        B images of two galaxies.

    Returns
    -------
    is_found : array of bool ``(B, 2)``
        Which galaxies are found.

    flux : array ``(B, 2)``
        Median fluxes over the true ones; NaN where not found.
    """
    image = found['image']
    dx = found['x'][:, None] - scenes.x.double().numpy()[image]
    dy = found['y'][:, None] - scenes.y.double().numpy()[image]
    apart = np.hypot(dx, dy)
    # At equal distances, of two galaxies at one place, the first is the brighter.
    nearest = apart.argmin(1) if len(image) else np.empty(0, int)
    distance = apart[np.arange(len(image)), nearest]
    truth = (scenes.flux / scenes.electrons_per_nmgy[:, None]).double().numpy()
    is_found = np.zeros(truth.shape, dtype=bool)
    flux = np.full(truth.shape, np.nan)
    # The closest is written last.
    for k in np.argsort(-distance, kind='stable'):
        if distance[k] <= _MATCH:
            is_found[image[k], nearest[k]] = True
            flux[image[k], nearest[k]] = found['flux_median'][k]
    return is_found, flux / truth


def _one_batch(task):
    """
    What one encoder says of some pairs at all separations.

    Returns an array ``(separations, n, columns)`` in the order of ``COLUMNS``.
    """
    name, told, index, n, n_draws = task
    encoder = load(name)
    pairs = draw_pairs(n, generator=generator_of(SEED, 2, index))
    out = np.full((len(SEPARATIONS), n, len(COLUMNS)), np.nan)
    for k, separation in enumerate(SEPARATIONS):
        # The same noise at all separations.
        generator = generator_of(SEED, 3, index)
        scenes, signal = place_pairs(
            pairs, float(separation), generator=generator, told=told
        )
        columns = _ask_pairs(encoder, scenes, signal, n_draws, generator)
        for j, column in enumerate(COLUMNS):
            if column in columns:
                out[k, :, j] = columns[column]
    return out


def _ask_pairs(encoder, scenes, signal, n_draws, generator):
    found, (posterior, sources), _ = ask(encoder, scenes)
    sure = found['probability'] > 0.5
    chosen = {k: v[sure] for k, v in found.items()}
    is_found, flux = judge(chosen, scenes)
    n = len(scenes)
    true = (scenes.flux.sum(1) / scenes.electrons_per_nmgy).double().numpy()
    columns = {
        'found_bright': is_found[:, 0],
        'found_faint': is_found[:, 1],
        'found_both': is_found.all(1),
        'flux_bright': flux[:, 0],
        'flux_faint': flux[:, 1],
        'n_found': np.bincount(chosen['image'], minlength=n),
        'total_catalog': np.bincount(chosen['image'], chosen['flux_median'], n) / true,
        'chi2_truth': chi_square(scenes, signal, signal).numpy(),
    }
    if n_draws:
        totals = draw_totals(posterior, scenes, generator=generator, n_draws=n_draws)
        columns['total_posterior'] = np.median(totals, 0) / true
        columns['total_rank'] = (totals < true).mean(0)
    model = reconstruct(scenes, sources, torch.as_tensor(sure))
    if model is not None:
        columns['chi2'] = chi_square(scenes, model, signal).numpy()
    return columns


# -- numbers -------------------------------------------------------------------------


def _median_error(values):
    """Median and its standard error from order statistics."""
    values = np.sort(values[np.isfinite(values)])
    if len(values) < 10:
        return np.nan, np.nan
    half = 0.5 * np.sqrt(len(values)) / len(values)
    low, high = np.quantile(values, [0.5 - half, 0.5 + half])
    return float(np.median(values)), 0.5 * float(high - low)


def summarize(answers):
    """
    Curves against the separation.

    Parameters
    ----------
    answers : array ``(separations, n, columns)``
        Of all pairs.

    Returns
    -------
    curves : dict of list
        By column, (value, error) at each separation: shares for ``found_...``, else
        medians; ``flux_..._scatter`` are the 16 and 84 % quantiles.
    """
    curves = {'separation': [float(s) for s in SEPARATIONS]}
    for j, name in enumerate(COLUMNS):
        own = answers[..., j]
        if name.startswith('found'):
            curves[name] = [share_with_error(int(v.sum()), len(v)) for v in own]
        elif name in ('n_found', 'chi2', 'chi2_truth'):
            good = [v[np.isfinite(v)] for v in own]
            curves[name] = [
                (v.mean(), v.std() / np.sqrt(len(v))) if len(v) else (np.nan, np.nan)
                for v in good
            ]
        else:
            curves[name] = [_median_error(v) for v in own]
            if name != 'total_rank':
                curves[f'{name}_scatter'] = [_ends(v) for v in own]
    rank = answers[..., COLUMNS.index('total_rank')]
    covered = [v[np.isfinite(v)] for v in rank]
    curves['total_coverage'] = [
        share_with_error(int(((v > 0.16) & (v < 0.84)).sum()), len(v)) for v in covered
    ]
    return curves


def _ends(values):
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    return tuple(np.quantile(values, [0.16, 0.84]))


def crossing(curves, level):
    """Smallest separation beyond which the fainter one is found in that share."""
    x = np.array(curves['separation'])
    y = np.array([v for v, _ in curves['found_faint']])
    below = np.flatnonzero(y < level)
    if not len(below):
        return float(x[0])
    k = below[-1]
    if k == len(x) - 1:
        return np.nan
    return float(np.interp(level, y[k : k + 2], x[k : k + 2]))


def add_rows(report, label, curves):
    """Rows of one encoder."""
    where = {s: k for k, s in enumerate(curves['separation'])}
    for separation, share in ((3.5, 0.5), (6.0, 0.95)):
        report.add(
            f'{label}fainter galaxy found at {separation:g} px',
            *curves['found_faint'][where[separation]],
            target=f'>= {share:g}',
            low=share,
        )
    for share in (0.5, 0.95):
        report.add(
            f'{label}separation (px) from which it is found in {100 * share:g} %',
            crossing(curves, share),
        )
    for separation in (3.5, 6.0):
        report.add(
            f'{label}both galaxies found at {separation:g} px',
            *curves['found_both'][where[separation]],
        )
    report.add(
        f'{label}brighter galaxy found, least of all separations',
        *min(curves['found_bright']),
    )
    for name, words in (
        ('total_posterior', 'total flux, posterior of the sum'),
        ('total_catalog', 'total flux, sum of the catalogue'),
    ):
        values = [v for v in curves[name] if np.isfinite(v[0])]
        if not values:
            continue
        worst = max(values, key=lambda v: abs(v[0] - 1))
        report.add(
            f'{label}{words} over the truth, median, worst separation',
            *worst,
            target='0.97 to 1.03',
            low=0.97,
            high=1.03,
        )
    for name in ('chi2', 'chi2_truth'):
        values = [v for v in curves[name] if np.isfinite(v[0])]
        if values:
            words = 'true scene' if name == 'chi2_truth' else 'reconstruction'
            report.add(
                f'{label}chi-square per pixel of the {words}, worst separation',
                *max(values),
            )


# -- the command ---------------------------------------------------------------------


def _parser():
    parser = make_parser(__doc__.strip().splitlines()[0])
    parser.add_argument(
        '--encoder', nargs='+', default=['stars-galaxies'], help='names or files'
    )
    parser.add_argument('--draws', type=int, default=2000, help='pairs a step')
    parser.add_argument(
        '--posterior-draws',
        type=int,
        default=16,
        help='draws of whole catalogues for the total flux (0: none)',
    )
    parser.add_argument(
        '--posterior-pairs', type=int, default=400, help='pairs with these draws'
    )
    parser.add_argument(
        '--told', choices=list(tellings()), default='blends', help='which prior'
    )
    parser.add_argument(
        '--figure', help='picture to draw (after a full run by default)'
    )
    return parser


def main(args=None):
    arguments = _parser().parse_args(args)
    n = 2 * _BATCH if arguments.quick else arguments.draws
    told = tellings()[arguments.told]
    report = Report('drawn_apart', __doc__.strip().splitlines()[0], arguments)
    start, all_curves = time.perf_counter(), {}
    labels = labels_of_encoders(arguments.encoder)
    for name in arguments.encoder:
        tasks = [
            (
                name,
                told,
                k,
                min(_BATCH, n - first),
                arguments.posterior_draws * (first < arguments.posterior_pairs),
            )
            for k, first in enumerate(range(0, n, _BATCH))
        ]
        answers = run_tasks(
            _one_batch, tasks, processes=arguments.threads, description=name
        )
        curves = summarize(np.concatenate(answers, 1))
        label = labels[name]
        all_curves[label] = curves
        prefix = f'{label}: ' if len(arguments.encoder) > 1 else ''
        add_rows(report, prefix, curves)
    report.details = {
        'encoders': list(all_curves),
        'n': n,
        'told': {'name': arguments.told, **told},
        'curves': all_curves,
        'seconds': time.perf_counter() - start,
    }
    figure = figure_path('blends_apart', arguments)
    if figure:
        plot_apart(all_curves, figure)
    report.finish()


if __name__ == '__main__':
    main()
