# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit the PSF of an image to its stars
====================================

The image is simulated, so that the answer is known: 40 stars and 5 galaxies.
"""

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from photutils.psf import PSFPhotometry

from bliss_astro import PSFModel

SKY = 200.0
true_psf = PSFModel(sigma1=1.25, sigma2=2.7, sigmap=2.5, e1=0.06, e2=-0.03)
rng = np.random.default_rng(1)
y, x = 24 + 45 * np.indices((7, 7)).reshape(2, -1)[:, :45]
positions = np.column_stack([x, y]) + rng.uniform(-2, 2, (45, 2))
fluxes = 10 ** rng.uniform(4, 5.5, 45)
yy, xx = np.mgrid[:320, :320]
image = np.zeros(xx.shape)
for k, ((x_0, y_0), flux) in enumerate(zip(positions, fluxes, strict=True)):
    source = true_psf.copy()
    source.x_0, source.y_0, source.flux = x_0, y_0, flux
    source.sigma1 *= 2 if k >= 40 else 1
    image += source(xx, yy)
image += rng.normal(size=image.shape) * np.sqrt(SKY + image)

# %%
# Give the places of candidates; galaxies and blends among them are rejected.

psf = PSFModel.fit_stars(
    image, np.rint(positions), error=np.sqrt(SKY), effective_gain=1
)
used = psf.fit_info['used']
print(f'{used[:40].sum()} of 40 stars and {used[40:].sum()} of 5 galaxies used')
print(f'FWHM {psf.fwhm:.3f} px, true {true_psf.fwhm:.3f}')
print(f'e1 {psf.e1.value:+.4f}, true {true_psf.e1.value:+.4f}')

# %%
# Radial profile and its relative error.

radius = np.linspace(0, 18, 200)
fig, (top, bottom) = plt.subplots(
    2, sharex=True, height_ratios=(3, 1), layout='constrained'
)
top.semilogy(radius, true_psf.radial_profile(radius), lw=4, alpha=0.4, label='truth')
top.semilogy(radius, psf.radial_profile(radius), 'k--', label='fit to the stars')
top.set_ylabel('flux per pixel')
top.legend()
ratio = psf.radial_profile(radius) / true_psf.radial_profile(radius)
bottom.axhline(0, color='0.7')
bottom.plot(radius, 100 * (ratio - 1), 'k')
bottom.axvline(12, color='0.7', ls=':')
bottom.set(xlabel='radius (pixels)', ylabel='error (%)')
plt.show()

# %%
# The model is one of photutils' PSF models.

start = Table(np.rint(positions[:40]), names=('x', 'y'))
result = PSFPhotometry(psf, (11, 11), aperture_radius=5)(
    image, error=np.sqrt(SKY + np.maximum(image, 0)), init_params=start
)
ratio = np.asarray(result['flux_fit']) / fluxes[:40]
print(f'flux over truth: median {np.median(ratio):.4f}, scatter {np.std(ratio):.4f}')
