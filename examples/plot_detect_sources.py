# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detect stars and galaxies
=========================

A simulated coadd stands for the image: its truth is known. Hand your own to
`~bliss_astro.detection.detect_sources` in the same way, as a file, an array, an
`~astropy.nddata.NDData` or an `~bliss_astro.exposures.Exposure`.
"""

import matplotlib.pyplot as plt
import numpy as np

from bliss_astro import CoaddSimulator, detect_sources
from bliss_astro.plotting import plot_catalog
from bliss_astro.priors import CatalogPrior

simulator = CoaddSimulator(25, CatalogPrior.sky(), shape=(120, 160), margin=-8)
exposure, truth = simulator.sample(rng=5)
catalog = detect_sources(exposure, threshold=0.5)
catalog['probability', 'x_centroid', 'y_centroid', 'flux', 'flux_err'].pprint()

# %%
# The picture has a circle for each row, coloured by its probability.

plot_catalog(exposure, catalog)
plt.show()

# %%
# Other thresholds need no other run: the posterior is there already.

for threshold in (0.1, 0.5, 0.9):
    print(threshold, len(catalog.posterior.at_threshold(threshold)), 'sources')

# %%
# Errors and intervals are of one source at a time. Draws of whole catalogues hold the
# rest: sources that are perhaps there, pairs that are perhaps one. Compute any
# quantity on each of them, and its spread is the error; here the number of sources
# brighter than 0.5 nmgy.

draws = catalog.posterior.sample(50, rng=1)
number = [np.sum(draw['flux'].value > 0.5) for draw in draws]
print(f'{np.mean(number):.1f} +- {np.std(number):.1f}')
print('true:', np.sum(truth['flux'].value > 0.5))
