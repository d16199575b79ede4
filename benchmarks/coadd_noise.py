# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise of empty coadds: what bilinear alignment under random dithers does to it.
"""

import numpy as np
import torch
from _common import Report, make_parser

from bliss_astro import CoaddSimulator
from bliss_astro.priors import StarPrior

_LAGS = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]


def _covariances(noise):
    # Mean product at each lag, for each image: (B, len(_LAGS)).
    ny, nx = noise.shape[1:]
    inner = noise[:, 2 : ny - 2, 2 : nx - 2]
    return torch.stack(
        [
            (inner * noise[:, 2 + dy : ny - 2 + dy, 2 + dx : nx - 2 + dx]).mean((1, 2))
            for dy, dx in _LAGS
        ],
        1,
    )


def _measure(depth, n_images, seed):
    simulator = CoaddSimulator(depth, StarPrior(density=0.0))
    generator = torch.Generator().manual_seed(seed)
    sky = simulator.background
    parts = []
    for start in range(0, n_images, 64):
        n = min(64, n_images - start)
        batch = simulator.sample_batch(n, generator=generator)
        covariance = _covariances(batch.data - batch.background[:, None, None])
        stated = torch.stack(
            [
                batch.bkg_error**2,
                batch.correlation[:, 0],
                batch.correlation[:, 1],
                (1 + 2 * batch.correlation).prod(1) * batch.bkg_error**2,
            ],
            1,
        )
        parts.append(torch.cat([covariance, stated], 1).double().numpy())
    values = np.concatenate(parts)
    return values[:, : len(_LAGS)] * depth / sky, values[:, len(_LAGS) :], depth / sky


def _ratio(a, b):
    # Ratio of means over images, with its error.
    ratio = a.mean() / b.mean()
    return ratio, np.std(a - ratio * b, ddof=1) / np.sqrt(len(a)) / abs(b.mean())


def _add_rows(report, depth, n_images):
    covariance, stated, scale = _measure(depth, n_images, seed=100 + depth)
    at = {lag: covariance[:, k] for k, lag in enumerate(_LAGS)}
    variance = at[0, 0]
    one = np.ones_like(variance)
    side = np.mean([at[0, 1], at[0, -1], at[1, 0], at[-1, 0]], axis=0)
    corner = np.mean([at[1, 1], at[1, -1], at[-1, 1], at[-1, -1]], axis=0)
    tag = f'd = {depth}: '
    factor, lag, diagonal = (4 / 9, 0.25, 1 / 16) if depth > 1 else (1.0, 0.0, 0.0)
    shown = '4/9 +- 2 %' if depth > 1 else '1 +- 2 %'
    report.add(
        tag + 'variance x d / sky',
        *_ratio(variance, one),
        target=shown,
        low=0.98 * factor,
        high=1.02 * factor,
    )
    report.add(
        tag + 'correlation, next pixel',
        *_ratio(side, variance),
        target=f'{lag} +- 0.01',
        low=lag - 0.01,
        high=lag + 0.01,
    )
    report.add(
        tag + 'correlation, diagonal',
        *_ratio(corner, variance),
        target=f'{diagonal:.4g} +- 0.01',
        low=diagonal - 0.01,
        high=diagonal + 0.01,
    )
    report.add(
        tag + 'sum of covariances x d / sky',
        *_ratio(covariance.sum(1), one),
        target='1 +- 3 %',
        low=0.97,
        high=1.03,
    )
    report.add(tag + 'variance / stated', *_ratio(variance, stated[:, 0] * scale))
    own = np.mean([at[0, 1], at[0, -1]], axis=0) / variance
    report.add(
        tag + 'correlation in x - stated',
        (own - stated[:, 1]).mean(),
        (own - stated[:, 1]).std() / np.sqrt(len(own)),
    )
    report.add(
        tag + 'sum of covariances / stated',
        *_ratio(covariance.sum(1), stated[:, 3] * scale),
    )


def main():
    parser = make_parser(__doc__.strip(), n_images=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = Report('coadd_noise', 'noise of coadds, dithers of +-0.5 px', arguments)
    n_images = 150 if arguments.quick else arguments.n_images
    depths = (1, 2, 25) if arguments.quick else (1, 2, 3, 5, 10, 25)
    for depth in depths:
        # Shallow coadds scatter more because they have few dithers.
        _add_rows(report, depth, n_images * (4 if 1 < depth < 5 else 1))
    report.details = {'n_images': n_images, 'depths': depths, 'sky_electrons': 865}
    report.finish()


if __name__ == '__main__':
    main()
