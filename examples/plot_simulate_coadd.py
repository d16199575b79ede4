# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulate a coadd with its truth
===============================

`~bliss_astro.simulation.CoaddSimulator` draws stars and galaxies from a prior,
renders dithered exposures, adds their noise, aligns and stacks them.
"""

import matplotlib.pyplot as plt
import numpy as np

from bliss_astro import CoaddSimulator
from bliss_astro.priors import CatalogPrior, StarPrior

prior = CatalogPrior.sky()
fig, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout='constrained')
for ax, depth in zip(axes, (1, 5, 25), strict=True):
    simulator = CoaddSimulator(depth, prior, shape=(96, 96), margin=-8)
    coadd, truth = simulator.sample(rng=3)
    signal = (coadd.data - coadd.background) / coadd.bkg_error
    ax.imshow(np.arcsinh(signal / 2), origin='lower', cmap='gray_r', vmin=-1, vmax=4)
    ax.set(title=f'{depth} exposures', xticks=[], yticks=[])
plt.show()

# %%
# The truth is a table, brightest first. Shapes of stars are NaN.

truth[:5].pprint()

# %%
# Neighbouring pixels of a coadd share noise. The coadd states its noise, the
# correlation, and its PSF; `~bliss_astro.detection.detect_sources` reads all of them.

print(coadd)
print('correlation of neighbours in x and y:', coadd.noise_correlation)

# %%
# A `~bliss_astro.priors.StarPrior` makes star fields, with fluxes in electrons.

coadd, stars = CoaddSimulator(10, StarPrior(density=0.004)).sample(rng=1)
print(len(stars), 'stars')
