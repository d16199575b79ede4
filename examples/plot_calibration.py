# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calibration report of a toy survey
==================================

The posteriors of a flux, of the number of stars in a field and of whether a candidate
is real are exact here, but for the errors of bright stars, which are 20 % too small.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from bliss_astro.metrics import CalibrationReport

rng = np.random.default_rng(1)
n = 12_000

# %%
# Fluxes with the prior N(100, 20^2) and noise of 10; groups are thirds of the
# estimate, never of the truth.

truth = rng.normal(100, 20, n)
measured = truth + rng.normal(0, 10, n)
sigma = 1 / np.hypot(1 / 20, 1 / 10)
median = sigma**2 * (100 / 20**2 + measured / 10**2)
group = np.digitize(median, np.quantile(median, [1 / 3, 2 / 3]))
stated = np.where(group == 2, 0.8 * sigma, sigma)

# %%
# Numbers of stars in fields, and candidates with the right probabilities.

rate = rng.gamma(4, 1.5, n // 2)
count = rng.poisson(rate)
rank = rng.uniform(stats.poisson.cdf(count - 1, rate), stats.poisson.cdf(count, rate))
probability = 1 / (1 + np.exp(-rng.normal(0, 2.5, n)))

report = CalibrationReport(
    ranks={'flux': stats.norm.cdf(truth, median, stated)},
    groups={'flux': group},
    log_prob={'flux': stats.norm.logpdf(truth, median, stated)},
    width={'flux': stated},
    bound={'flux': np.full(n, 10.0)},
    residuals={'flux': median - truth},
    group_names=['faintest third', 'middle third', 'brightest third'],
    true_counts=count,
    expected_counts=rate,
    count_variance=rate,
    count_ranks=rank,
    probability=probability,
    is_real=rng.uniform(size=n) < probability,
)
print(report)

# %%

report.plot()
plt.show()
