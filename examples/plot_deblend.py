# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Deblend two galaxies and a star
===============================

The blend is simulated, so that the light of each source is known.
"""

import matplotlib.pyplot as plt
import numpy as np

from bliss_astro import Exposure, PSFModel, detect_sources
from bliss_astro.rendering import TorchRenderer

SHAPE, SKY = (64, 64), 865.0
psf = PSFModel()
# Positions and fluxes (electrons), and for galaxies disk fraction, angle, axis ratios
# and half-light radii (pixels) of disk and bulge.
renderer = TorchRenderer()
alone = {
    'galaxy 1': renderer.render(
        psf, [27.3], [33.8], [45e3], SHAPE, galaxy=[(0.8, 0.5, 0.45, 0.8, 4.5, 2.0)]
    ),
    'galaxy 2': renderer.render(
        psf, [37.9], [37.2], [22e3], SHAPE, galaxy=[(0.3, 2.2, 0.6, 0.7, 3.0, 2.0)]
    ),
    'star': renderer.render(psf, [33.6], [27.1], [9e3], SHAPE),
}
places = {'galaxy 1': (27.3, 33.8), 'galaxy 2': (37.9, 37.2), 'star': (33.6, 27.1)}
expected = SKY + sum(alone.values())
exposure = Exposure(
    np.random.default_rng(5).poisson(expected).astype(float),
    background=SKY,
    bkg_error=np.sqrt(SKY),
    effective_gain=1.0,
    psf=psf,
    unit='electron',
)
catalog = detect_sources(exposure)
catalog['probability', 'galaxy_probability', 'flux', 'flux_err'].pprint()

# %%
# The scene: data, model and residual.

scene = catalog.reconstruct()
scene.plot(n_draws=0)
plt.show()

# %%
# Each source without its neighbours: its share of the data, beside its true light.

fig, axes = plt.subplots(2, 3, figsize=(9, 6), layout='constrained')
for k, (name, light) in enumerate(alone.items()):
    apart = np.hypot(
        catalog['x_centroid'] - places[name][0], catalog['y_centroid'] - places[name][1]
    )
    share = scene.deblended(int(np.argmin(apart)), size=25)
    style = {'origin': 'lower', 'cmap': 'gray_r', 'vmin': -60, 'vmax': 400}
    axes[0, k].imshow(light[share.slices], **style)
    axes[1, k].imshow(share.data, **style)
    axes[0, k].set_title(f'{name}: true light')
    axes[1, k].set_title('its share of the data')
    print(f'{name}: {light[share.slices].sum():.0f} electrons, share {share.flux:.0f}')
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()
