# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Validate a catalogue without a truth
====================================

Does the catalogue explain the image, and which sources would be missed? The encoder
gets a PSF that is 10 % too broad here, and the check finds it.
"""

import warnings

import matplotlib.pyplot as plt

from bliss_astro import (
    BlissFinder,
    CoaddSimulator,
    PSFModel,
    completeness,
    detect_sources,
)
from bliss_astro.priors import StarPrior

sky = StarPrior(density=0.002)
exposure, truth = CoaddSimulator(1, sky, shape=(160, 200), margin=8).sample(rng=5)
shape = exposure.psf.shape_vector.copy()
shape[[0, 1, 3]] *= 1.1
wrong = exposure.replace(psf=PSFModel.from_shape(shape))
with warnings.catch_warnings(action='ignore'):  # which say that it is too broad
    catalog = detect_sources(wrong, encoder='stars')
check = catalog.check(wrong, rng=1)
print(check)

# %%
# Residuals of a draw of the posterior, in units of the noise.

check.plot()
plt.show()

# %%
# With the right PSF there is nothing to report.

catalog = detect_sources(exposure, encoder='stars')
print(catalog.check(exposure, rng=1))

# %%
# Completeness by injection: sources are put into the image, a few at a time.

finder = BlissFinder(encoder='stars')
result = completeness(exposure, finder, n_sources=80, spacing=48, rng=2)
print(result)
result.plot()
plt.show()
