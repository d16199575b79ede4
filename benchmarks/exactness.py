# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The encoder's posterior of one star at most, against brute-force integration.
"""

import itertools
import time
from pathlib import Path

import numpy as np
import torch
from _common import Report, make_parser
from _isolated import (
    FLUX_MIN,
    encode,
    find,
    generator_of,
    place_stars,
    run_tasks,
)

from bliss_astro.metrics import exact_star_posterior, optimal_snr
from bliss_astro.posteriors import PLACE_RADIUS, TileCatalog
from bliss_astro.priors import StarPrior
from bliss_astro.psf import PSFModel

# No training stream begins with this key.
_SEED = 20250918
_BACKGROUND = 865.0
# A star may be in the middle 2 x 2 tiles; 12 px around them hold none, and both the
# encoder (by its map of the density) and the integration know it.
_SHAPE = (32, 32)
_REGION = (11.5, 19.5, 11.5, 19.5)
_AREA = 64.0
_EMPTY = 1e-7  # density per pixel, what training says where no star may be
# Pixels that the integration sees: all that the encoder measures a star on.
_SEEN = (slice(4, 28), slice(4, 28))
_SNR = (3.0, 30.0)
_DENSITY = 1e-3
_COLUMNS = (
    'flux true',
    'joint',
    'exact',
    'row',
    'row exact',
    'flux',
    'flux error',
    'x error',
    'y error',
    'exact flux',
    'exact flux error',
    'exact x error',
    'exact y error',
)


def _flux_of_snr(snr):
    flux = np.geomspace(300, 1e5, 200)
    noise = {'bkg_error': np.sqrt(_BACKGROUND), 'effective_gain': 1.0}
    return np.interp(snr, optimal_snr(PSFModel(), flux, **noise), flux)


def draw_stars(kind, n, generator):
    """
    Positions and fluxes ``(n, 1)``, flux 0 for no star.

    ``kind`` is 'star' (one in each image, the prior's fluxes between two
    signal-to-noise ratios) or 'prior' (there or not as the prior says).
    """
    unit = torch.rand(4, n, 1, generator=generator, dtype=torch.float64)
    x = _REGION[0] + (_REGION[1] - _REGION[0]) * unit[0]
    y = _REGION[2] + (_REGION[3] - _REGION[2]) * unit[1]
    prior = StarPrior()
    if kind == 'prior':
        expected = _DENSITY * _AREA
        there = unit[3] < expected / (1 + expected)
        return x, y, prior.flux_quantile(unit[2]) * there
    low, high = (max(FLUX_MIN, _flux_of_snr(snr)) for snr in _SNR)
    # The Pareto distribution between two fluxes.
    ratio = (low / high) ** prior.slope
    flux = low * (1 - unit[2] * (1 - ratio)) ** (-1 / prior.slope)
    return x, y, flux


def compare(task):
    """
    Both posteriors of some images.

    Returns an array ``(n, columns)`` with the ``_COLUMNS``: the true flux; the
    probability of a star by the encoder's joint distribution, and exact; that of
    the most probable row of its catalogue, and the exact one of a star that
    near; and flux and errors by that row, and exact. What belongs to
    a row is NaN where there is none.
    """
    name, kind, index, n = task
    generator = generator_of(_SEED, int(kind == 'prior'), index)
    x, y, flux = draw_stars(kind, n, generator)
    batch = place_stars(1, x, y, flux, shape=_SHAPE, generator=generator)
    inside = torch.zeros(1, 1, 8, 8)
    inside[..., 3:5, 3:5] = 1
    density = torch.where(inside > 0, _DENSITY, _EMPTY)
    posterior = encode(batch, name, log_density=torch.log(density))
    joint = _probability(posterior)
    found = find(posterior)
    data = batch.data.double().numpy()
    rows = []
    for k in range(n):
        exact = _exact(data[k])
        answer = [exact.flux, exact.flux_err, exact.x_err, exact.y_err]
        row = _best_row(found, k, exact)
        rows.append([float(flux[k, 0]), joint[k], exact.probability, *row, *answer])
    return np.array(rows)


def _probability(posterior):
    """One minus the probability of an empty catalogue."""
    empty = TileCatalog.empty(
        len(posterior), posterior.grid.shape, posterior.head.n_most
    )
    with torch.no_grad():
        factor = posterior.head.count_factor(posterior.hidden_given(empty))
    return -torch.expm1(factor.log_probs[..., 0].double().sum((1, 2))).numpy()


def _exact(image):
    rows, columns = _SEEN
    left, bottom = columns.start, rows.start
    x_low, x_high, y_low, y_high = _REGION
    return exact_star_posterior(
        image[_SEEN],
        PSFModel(),
        prior=StarPrior(density=_DENSITY),
        background=_BACKGROUND,
        bkg_error=np.sqrt(_BACKGROUND),
        region=(x_low - left, x_high - left, y_low - bottom, y_high - bottom),
    )


def _best_row(found, image, exact):
    """Probability of a row, the exact one, and its flux, and errors."""
    own = np.flatnonzero(found['image'] == image)
    if not len(own):
        return [np.nan] * 6
    best = own[found['probability'][own].argmax()]
    row = {name: values[best] for name, values in found.items()}
    # The same question to both: is there a star that near to the place?
    x, y = row['x'] - _SEEN[1].start, row['y'] - _SEEN[0].start
    near = exact.probability_near(x, y, PLACE_RADIUS)
    error = 0.5 * (row['flux_high'] - row['flux_low'])
    return [
        row['probability'],
        near,
        row['flux_median'],
        error,
        row['x_err'],
        row['y_err'],
    ]


# -- numbers -------------------------------------------------------------------------


def _mean(values):
    return values.mean(), values.std() / np.sqrt(len(values))


def _median(values):
    # 1.25 times the error of a mean, from the robust width.
    low, middle, high = np.quantile(values, (0.16, 0.5, 0.84))
    return middle, 1.25 * 0.5 * (high - low) / np.sqrt(len(values))


def evaluate(report, tables):
    """Add the rows; returns the details."""
    star, prior = (
        dict(zip(_COLUMNS, tables[kind].T, strict=True)) for kind in ('star', 'prior')
    )
    goal = {'target': '<= 0.03', 'high': 0.03}
    for label, own in (('a star in each', star), ('as the prior says', prior)):
        off = np.abs(own['joint'] - own['exact'])
        report.add(
            f'presence probability, mean distance from the exact one, {label}',
            *_mean(off),
            n=len(off),
            **goal,
        )
    report.add(
        'presence probability minus the exact one, a star in each',
        *_mean(star['joint'] - star['exact']),
    )
    there = np.isfinite(star['row'])
    off = (star['row'] - star['row exact'])[there]
    report.add(
        'probability of the best row, mean distance from the exact one',
        *_mean(np.abs(off)),
        n=len(off),
        **goal,
    )
    sure = there & (star['exact'] > 0.5)
    ratio = (star['flux error'] / star['exact flux error'])[sure]
    report.add(
        'flux error over the exact one, median (exact probability > 0.5)',
        *_median(ratio),
        n=len(ratio),
        target='0.95 to 1.05',
        low=0.95,
        high=1.05,
    )
    for q in (0.16, 0.84):
        report.add(f'flux error over the exact one, {q:.0%} quantile', _q(ratio, q))
    pull = ((star['flux'] - star['exact flux']) / star['exact flux error'])[sure]
    report.add('flux minus exact, in units of its error, median', *_median(pull))
    width = 0.5 * (_q(pull, 0.84) - _q(pull, 0.16))
    report.add('flux minus exact, in units of its error, robust sigma', width)
    both = [(star[f'{v} error'] / star[f'exact {v} error'])[sure] for v in 'xy']
    report.add('position error over the exact one, median', *_median(np.ravel(both)))
    return {
        'by_exact_probability': _by_probability(star),
        'by_snr': _by_snr(star, sure, ratio, pull),
    }


def _q(values, q):
    return float(np.quantile(values, q))


def _by_probability(star):
    rows = []
    tenth = np.minimum((10 * star['exact']).astype(int), 9)
    for k in np.unique(tenth):
        own = {name: values[tenth == k] for name, values in star.items()}
        means = own['exact'].mean(), own['joint'].mean()
        distance = np.abs(own['exact'] - own['joint']).mean()
        rows.append([k / 10, (k + 1) / 10, int((tenth == k).sum()), *means, distance])
    return {'columns': ['low', 'high', 'n', 'exact', 'joint', 'distance'], 'rows': rows}


def _by_snr(star, sure, ratio, pull):
    rows = []
    off = star['joint'] - star['exact']
    for low, high in itertools.pairwise([3, 4, 5, 7, 10, 15, 30]):
        use = (star['flux true'] >= _flux_of_snr(low)) & (
            star['flux true'] < _flux_of_snr(high)
        )
        good = use[sure]
        if good.sum() < 5:
            continue
        row = [low, high, int(use.sum()), np.abs(off[use]).mean(), off[use].mean()]
        row += [*np.quantile(ratio[good], (0.16, 0.5, 0.84)), np.median(pull[good])]
        rows.append(row)
    columns = ['snr low', 'snr high', 'n', 'distance', 'difference']
    columns += ['flux error ratio 16 %', '50 %', '84 %', 'median flux pull']
    return {'columns': columns, 'rows': rows}


def main():
    parser = make_parser(__doc__.strip(), n_images=1000)
    parser.add_argument('--encoder', default='stars', help='name or file')
    parser.add_argument('--batch', type=int, default=25)
    arguments = parser.parse_args()
    n_images = 50 if arguments.quick else arguments.n_images
    report = Report('exactness', __doc__.strip(), arguments)
    start = time.perf_counter()
    tables = {}
    for kind in ('star', 'prior'):
        tasks = [
            (arguments.encoder, kind, k, min(arguments.batch, n_images - first))
            for k, first in enumerate(range(0, n_images, arguments.batch))
        ]
        parts = run_tasks(compare, tasks, processes=arguments.threads, description=kind)
        tables[kind] = np.concatenate(parts)
    report.details = {
        'encoder': Path(arguments.encoder).stem,
        'n_images': n_images,
        'density': _DENSITY,
        'region': _REGION,
        'snr': _SNR,
        'seconds': time.perf_counter() - start,
        **evaluate(report, tables),
    }
    report.finish()


if __name__ == '__main__':
    main()
