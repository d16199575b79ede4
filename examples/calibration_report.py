# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calibration report of a toy survey whose truth is known.

The posterior of a flux, of the number of stars in a field and of whether a candidate
is real is exact here; --errors 0.8 makes the errors of bright stars too small, and
--sure 1.5 the probabilities too sure. It runs in seconds:

    python calibration_report.py --errors 0.8 --plot report.png
"""

import argparse

import numpy as np
from scipy import stats

from bliss_astro.metrics import calibration_report


def fluxes(n, *, errors, rng):
    """
    Ranks, log scores and errors of fluxes with the prior N(100, 20^2) and noise of 10.
    """
    truth = rng.normal(100, 20, n)
    measured = truth + rng.normal(0, 10, n)
    sigma = 1 / np.hypot(1 / 20, 1 / 10)
    median = sigma**2 * (100 / 20**2 + measured / 10**2)
    # Thirds of the median, never of the truth.
    groups = np.digitize(median, np.quantile(median, [1 / 3, 2 / 3]))
    stated = np.where(groups == 2, errors * sigma, sigma)
    return {
        'ranks': {'flux': stats.norm.cdf(truth, median, stated)},
        'groups': {'flux': groups},
        'log_prob': {'flux': stats.norm.logpdf(truth, median, stated)},
        'width': {'flux': stated},
        # Without a prior nobody does better than the noise.
        'bound': {'flux': np.full(n, 10.0)},
        'residuals': {'flux': median - truth},
    }


def counts(n, *, rng):
    """
    Numbers of stars in fields, with a posterior of the right rate.
    """
    rate = rng.gamma(4, 1.5, n)
    true = rng.poisson(rate)
    below, at = stats.poisson.cdf(true - 1, rate), stats.poisson.cdf(true, rate)
    return {
        'true_counts': true,
        'expected_counts': rate,
        'count_variance': rate,
        'count_ranks': rng.uniform(below, at),
    }


def detections(n, *, sure, rng):
    """
    Candidates with probabilities whose logits are ``sure`` times the right ones.
    """
    logit = rng.normal(0, 2.5, n)
    is_real = rng.uniform(size=n) < 1 / (1 + np.exp(-logit))
    return {'probability': 1 / (1 + np.exp(-sure * logit)), 'is_real': is_real}


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('-n', type=int, default=12_000, help='number of sources')
    parser.add_argument('--errors', type=float, default=1.0, help='of bright stars')
    parser.add_argument('--sure', type=float, default=1.0, help='of probabilities')
    parser.add_argument('--plot', help='write a picture to this file')
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    report = calibration_report(
        **fluxes(arguments.n, errors=arguments.errors, rng=rng),
        group_names=['faintest third', 'middle third', 'brightest third'],
        **counts(arguments.n // 2, rng=rng),
        **detections(arguments.n, sure=arguments.sure, rng=rng),
    )
    print(report)
    print(report.status)
    if arguments.plot:
        import matplotlib as mpl

        mpl.use('agg')
        figure = report.plot()[0].figure
        figure.savefig(arguments.plot, dpi=110)
        print(f'wrote {arguments.plot}')


if __name__ == '__main__':
    main()
