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


def _our_way(simulator, n_coadds, batch, generator):
    mean = []
    for start in range(0, n_coadds, batch):
        n = min(batch, n_coadds - start)
        mean.append(simulator.sample_batch(n, generator=generator).data.mean())
    return float(torch.stack(mean).mean())


def main():
    parser = make_parser(__doc__.strip(), n_images=10000)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=10)
    arguments = parser.parse_args()
    n_images = 120 if arguments.quick else arguments.n_images
    rounds = 3 if arguments.quick else arguments.rounds
    report = Report('simulator_speed', __doc__.strip(), arguments)
    torch.set_num_threads(arguments.threads)
    simulator = CoaddSimulator(_DEPTH, tolerance=1e-5, background=_SKY)
    generator = torch.Generator().manual_seed(1)
    n = n_images // rounds
    share = n // arguments.threads
    ours, usual, means = [], [], []
    context = multiprocessing.get_context('spawn')
    with context.Pool(arguments.threads, _start_worker) as pool:
        # The first calls import and allocate.
        pool.map(_usual_way, [(k, 2) for k in range(arguments.threads)])
        _our_way(simulator, 2 * arguments.batch, arguments.batch, generator)
        for turn in range(rounds):
            start = time.perf_counter()
            mine = _our_way(simulator, n, arguments.batch, generator)
            ours.append((time.perf_counter() - start) / n)
            tasks = [([turn, k], share) for k in range(arguments.threads)]
            start = time.perf_counter()
            theirs = pool.map(_usual_way, tasks, chunksize=1)
            n_theirs = share * arguments.threads
            usual.append((time.perf_counter() - start) / n_theirs)
            means.append((mine, np.mean([t[0] for t in theirs])))
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
