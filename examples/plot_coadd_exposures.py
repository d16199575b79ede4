# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadd exposures of different pointing and seeing
================================================

One star field in three exposures, shifted and turned against each other, in different
seeing, with cosmic rays. They are aligned by their WCS (with reproject), averaged
with clipping, and the coadd states its noise and PSF.
"""

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.wcs import WCS

from bliss_astro import Exposure, PSFModel, coadd_exposures, detect_sources
from bliss_astro.exposures import measure_noise
from bliss_astro.units import SDSS_PIXEL_SCALE

SHAPE = (240, 260)
SKY, GAIN = 0.9, 980.0  # nmgy per pixel, electrons per nmgy
# Shift in pixels, angle in degrees, and width of the PSF of each exposure.
POINTINGS = [(0.0, 0.0, 0.0, 1.3), (3.4, -2.2, 4.0, 1.5), (-1.7, 5.6, -11.0, 1.7)]
rng = np.random.default_rng(4)
x, y = (rng.uniform(15, n - 15, 60) for n in SHAPE[::-1])
flux = 10 ** rng.uniform(0.0, 1.7, 60)  # 22.5 to 18.2 mag


def make_wcs(dx, dy, angle):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval = 150.0, 2.0
    wcs.wcs.crpix = SHAPE[1] / 2 + dx, SHAPE[0] / 2 + dy
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = SDSS_PIXEL_SCALE / 3600 * np.array([[-c, s], [s, c]])
    wcs.array_shape = SHAPE
    return wcs


sky = make_wcs(0, 0, 0).pixel_to_world(x, y)
exposures = []
for *place, sigma in POINTINGS:
    wcs = make_wcs(*place)
    psf = PSFModel(sigma1=sigma, sigma2=2 * sigma, sigmap=1.9 * sigma)
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    stars = zip(*wcs.world_to_pixel(sky), flux, strict=True)
    signal = sum(f * psf(xx - a, yy - b) for a, b, f in stars)
    data = signal + rng.normal(0, np.sqrt((SKY + signal) / GAIN))
    for row, column in rng.integers(20, 220, (10, 2)):
        data[row, column : column + 6] += rng.uniform(0.5, 5)
    noise = np.sqrt(SKY / GAIN) * u.nmgy
    exposures.append(
        Exposure(data * u.nmgy, bkg_error=noise, effective_gain=GAIN, psf=psf, wcs=wcs)
    )

# %%
# The first exposure gives the grid of the coadd.

first = exposures[0]
coadd = coadd_exposures(
    exposures, sigma_clip=5, wcs_out=first.wcs, shape_out=first.shape
)
print(coadd)
print('pixels of cosmic rays left out:', coadd.meta['n_clipped'])

fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout='constrained')
for ax, image, title in zip(
    axes, (first, coadd), ('one exposure', 'coadd'), strict=True
):
    ax.imshow(image.data, origin='lower', cmap='gray_r', vmin=-0.1, vmax=0.4)
    ax.set(title=title, xticks=[], yticks=[])
plt.show()

# %%
# Blank sky has the noise and the correlation that the coadd states.

measured = measure_noise(coadd.data, coadd.mask)
ratio = np.std((coadd.data / coadd.bkg_error)[measured.blank])
print(f'noise of blank sky over the stated one: {ratio:.3f}')
print('stated correlation:', np.round(coadd.noise_correlation, 2))
print('measured:', np.round(measured.noise_correlation, 2))

# %%
# More stars are found, with smaller errors.

for name, image in (('one exposure', first), ('coadd', coadd)):
    catalog = detect_sources(image, encoder='stars')
    error = np.median(catalog['flux_err'] / catalog['flux'])
    print(f'{name}: {len(catalog)} sources, median flux error {error:.1%}')
