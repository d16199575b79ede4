# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds of ten exposures: CoaddSimulator against GalSim, numpy and scipy.
"""

import multiprocessing
import time

import numpy as np
import torch
from _common import Report, make_parser, ratio_with_error

from bliss_astro import CoaddSimulator
from bliss_astro.priors import StarPrior
from bliss_astro.psf import PSFModel

_DEPTH, _SIDE, _STAMP, _SKY = 10, 90, 41, 865.0

# -- the usual way ---------------------------------------------------------------

_psf = {}


def _start_worker():
    import galsim

    torch.set_num_threads(1)
    half = _STAMP // 2
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    pixels = galsim.Image(np.asarray(PSFModel()(columns, rows)), scale=1.0)
    _psf['image'] = galsim.InterpolatedImage(pixels)
    _psf['grid'] = np.mgrid[1 : _SIDE - 1, 1 : _SIDE - 1].astype(float)


def _draw_exposure(x, y, flux):
    import galsim

    image = galsim.ImageF(galsim.BoundsI(0, _SIDE - 1, 0, _SIDE - 1), init_value=0)
    half = _STAMP // 2
    for x_star, y_star, flux_star in zip(x, y, flux, strict=True):
        left, bottom = round(x_star) - half, round(y_star) - half
        bounds = galsim.BoundsI(left, left + _STAMP - 1, bottom, bottom + _STAMP - 1)
        part = image[bounds & image.bounds]
        (_psf['image'] * flux_star).drawImage(
            image=part,
            method='no_pixel',
            center=galsim.PositionD(x_star, y_star),
            add_to_image=True,
        )
    return image.array


def _usual_coadd(rng, prior):
    from scipy.ndimage import map_coordinates

    n = rng.poisson(prior.density * 40 * 40)
    x, y = rng.uniform(24.5, 64.5, (2, n))
    flux = prior.flux_quantile(rng.random(n))
    total = weights = 0.0
    for _ in range(_DEPTH):
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        signal = _draw_exposure(x + dx, y + dy, flux)
        mean = signal + np.float32(_SKY)
        data = mean + np.sqrt(mean) * rng.standard_normal(mean.shape, np.float32)
        place = _psf['grid'] + np.array([dy, dx])[:, None, None]
        data, signal = (
            map_coordinates(v, place, order=1, output=np.float32)
            for v in (data, signal)
        )
        weight = 1 / (signal + np.float32(_SKY))
        total, weights = total + data * weight, weights + weight
    return total / weights


def _usual_way(task):
    seed, n_coadds = task
    rng, prior = np.random.default_rng(seed), StarPrior()
    out = np.empty((n_coadds, _SIDE - 2, _SIDE - 2), np.float32)
    for k in range(n_coadds):
        out[k] = _usual_coadd(rng, prior)
    return float(out.mean()), float(out.std(axis=0).mean()), float(np.median(out))


# -- ours ------------------------------------------------------------------------


def _our_way(task):
    seed, n_coadds, batch = task
    simulator = CoaddSimulator(_DEPTH, tolerance=1e-5, background=_SKY)
    generator = torch.Generator().manual_seed(1000 * seed[0] + seed[1])
    out = np.empty((n_coadds, _SIDE - 2, _SIDE - 2), np.float32)
    for start in range(0, n_coadds, batch):
        part = out[start : start + batch]
        part[...] = simulator.sample_batch(len(part), generator=generator).data
    return float(out.mean()), float(out.std(axis=0).mean()), float(np.median(out))


def main():
    parser = make_parser(__doc__.strip(), n_images=10000)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--rounds', type=int, default=10)
    arguments = parser.parse_args()
    n_images = 120 if arguments.quick else arguments.n_images
    rounds = 3 if arguments.quick else arguments.rounds
    report = Report('simulator_speed', __doc__.strip(), arguments)
    n_workers = arguments.threads
    share = n_images // rounds // n_workers
    ours, usual, means = [], [], []
    context = multiprocessing.get_context('spawn')
    # Both ways run in the same worker processes of one thread each.
    with context.Pool(n_workers, _start_worker) as pool:

        def timed(way, tasks):
            start = time.perf_counter()
            result = pool.map(way, tasks, chunksize=1)
            elapsed = (time.perf_counter() - start) / (share * n_workers)
            return elapsed, np.mean([r[0] for r in result])

        # The first calls import and allocate.
        pool.map(_usual_way, [([0, k], 2) for k in range(n_workers)], chunksize=1)
        pool.map(_our_way, [([0, k], 64, 32) for k in range(n_workers)], chunksize=1)
        for turn in range(rounds):
            workers = range(n_workers)
            tasks = [([turn, k], share, arguments.batch) for k in workers]
            mine = timed(_our_way, tasks)
            theirs = timed(_usual_way, [task[:2] for task in tasks])
            ours.append(mine[0])
            usual.append(theirs[0])
            means.append((mine[1], theirs[1]))
    ratio, error = ratio_with_error(usual, ours)
    report.add('times faster', ratio, error, target='>= 5', low=5, n=n_images)
    for what, values in (
        ('milliseconds a coadd, CoaddSimulator', ours),
        ('milliseconds a coadd, GalSim + numpy + scipy', usual),
    ):
        values = 1e3 * np.array(values)
        report.add(what, values.mean(), values.std() / np.sqrt(len(values)))
    report.details = {
        'n_coadds': n_images,
        'rounds': rounds,
        'batch': arguments.batch,
        'mean_pixel_of_both': np.mean(means, axis=0),
    }
    report.finish()


if __name__ == '__main__':
    main()
