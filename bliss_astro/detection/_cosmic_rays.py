# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cosmic rays and hot pixels: light that is sharper than the PSF allows.

Whatever lies on the sky, a pixel's neighbours on either side have together at least the
share of its light that they have for a star in its middle.  Cosmic rays
do not pass the optics and need not keep to that (van Dokkum 2001, PASP 113, 1420, uses
the same contrast without a PSF).
"""

import numpy as np
from scipy.ndimage import binary_dilation

__all__ = ['find_cosmic_rays']

# Pixels above so many sigma are looked at; their neighbours must be this many sigma
# too faint for half of what the PSF demands, those next to them so many.
_PEAK, _LACK, _LACK_BESIDE = 8.0, 6.0, 2.5
# Half of what the PSF demands; of narrow ones three quarters of what one a third
# narrower does (a Gaussian's shares go with its width by powers).
_MARGIN, _NARROW_MARGIN, _POWER = 0.5, 0.75, 1.7
# Pairs of neighbours: rows and columns.
_PAIRS = ((0, 1), (1, 0), (1, 1), (1, -1))
# More of the image cannot be cosmic rays: then the PSF is wrong.
_MOST = 0.01


def find_cosmic_rays(exposure, *, width=1.0):
    """
    Find pixels that are sharper than the PSF.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        With a PSF.

    width : float, optional
        Width of the image's stars over that of the PSF.

    Returns
    -------
    rays : bool `~numpy.ndarray`, shape (ny, nx)
        `True` in cosmic rays and hot pixels.
    """
    ny, nx = exposure.shape
    psf = exposure.psf_at(nx // 2, ny // 2)
    signal = np.asarray(exposure.data - exposure.background, dtype=float)
    sky = np.broadcast_to(np.asarray(exposure.bkg_error, dtype=float), exposure.shape)
    gain = np.broadcast_to(np.asarray(exposure.effective_gain, float), exposure.shape)
    bright = (signal > _PEAK * sky) & ~exposure.mask
    lack = _lack(signal, sky, gain, exposure.mask, bright, psf, width)
    rays = lack > _LACK
    if not rays.any():
        return rays
    # The fainter pixels of a track.
    beside = binary_dilation(rays, np.ones((3, 3))) & (signal > 3 * sky)
    beside &= ~exposure.mask & ~rays
    lack = _lack(signal, sky, gain, exposure.mask | rays, beside, psf, width)
    rays |= lack > _LACK_BESIDE
    if np.count_nonzero(rays) > _MOST * np.count_nonzero(~exposure.mask):
        return np.zeros_like(rays)
    return rays


def _lack(signal, sky, gain, mask, chosen, psf, width):
    """By how many sigma neighbours are too faint, 2D; 0 where not chosen."""
    result = np.zeros(signal.shape)
    rows, columns = np.nonzero(chosen)
    if len(rows) == 0:
        return result
    light = np.pad(np.where(mask, np.inf, signal), 1, constant_values=np.inf)
    own = signal[rows, columns]
    variance = sky[rows, columns] ** 2 + own.clip(0) / gain[rows, columns]
    x0, y0 = float(psf.x_0.value), float(psf.y_0.value)
    middle = float(psf(x0, y0))
    worst = np.zeros(len(rows))
    for dy, dx in _PAIRS:
        share = max(float(psf(x0 + dx / width, y0 + dy / width)) / middle, 0.0)
        share = min(_MARGIN * share, _NARROW_MARGIN * share**_POWER)
        pair = 0.5 * (
            light[rows + 1 + dy, columns + 1 + dx]
            + light[rows + 1 - dy, columns + 1 - dx]
        )
        # The neighbours' own photons, if they were as bright as demanded.
        noise = share**2 * variance + 0.5 * (
            sky[rows, columns] ** 2 + share * own.clip(0) / gain[rows, columns]
        )
        worst = np.maximum(worst, (share * own - pair) / np.sqrt(noise))
    result[rows, columns] = worst
    return result
