# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Binned exposures: n x n pixels joined into one.
"""

import numpy as np

from bliss_astro.psf import PSFModel, VaryingPSF

from ._wcs import binned_wcs

__all__ = []

# Largest lag (pixels) at which the correlation of noise is counted.
_MAX_LAG = 24
# Side (binned pixels) of the image from which a PSF is fitted, and spacing of the
# places at which one that varies is fitted.
_STAMP, _SPACING = 25, 64


def binned(exposure, n):
    """
    Join n x n pixels into one, as a camera with larger pixels had.

    Rows and columns beyond a whole number of pixels are left out. Everything
    follows: a pixel is the sum of n x n, bad if one of them is; its noise contains
    their correlation, and with it that of neighbours that remains; the PSF is
    fitted to sums of pixels, and the WCS has the larger pixels.

    Parameters
    ----------
    n : int
        Pixels along each side, from 1.

    Returns
    -------
    exposure : `Exposure`
        Binned image, with ``meta['binned']``.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.exposures import Exposure
    >>> exposure = Exposure(np.ones((32, 48)), bkg_error=2.0, effective_gain=1.0)
    >>> binned = exposure.binned(2)
    >>> binned.shape, float(binned.data[0, 0]), binned.bkg_error
    ((16, 24), 4.0, 4.0)
    """
    from ._exposure import Exposure

    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        msg = f'n must be a whole number; got {n!r}.'
        raise TypeError(msg)
    if not 1 <= n <= min(exposure.shape):
        msg = f'n must be from 1 to the shorter side, {min(exposure.shape)}; got {n}.'
        raise ValueError(msg)
    if n == 1:
        return exposure
    n = int(n)
    ny, nx = (length // n for length in exposure.shape)
    part = exposure[: ny * n, : nx * n]

    def sums(values):
        return values.reshape(ny, n, nx, n).sum(axis=(1, 3), dtype=float)

    def joined(value, total):
        # One number for all pixels remains one.
        if np.ndim(value) == 0:
            return total(np.full((n, n), value, dtype=float).sum())
        return total(sums(np.asarray(value)))

    factors = [_joined_noise(r, n) for r in part.noise_correlation]
    share = factors[0][0] * factors[1][0]
    variance = np.square(part.bkg_error, dtype=float)
    noise = joined(variance, lambda total: np.sqrt(total * share))
    level = n * n * np.median(part.bkg_error) / np.median(noise)
    return Exposure(
        sums(np.where(part.mask, 0.0, part.data)),
        background=joined(part.background, lambda total: total),
        bkg_error=noise,
        effective_gain=joined(1 / part.effective_gain, lambda total: n * n / total),
        read_noise=joined(np.square(part.read_noise, dtype=float), np.sqrt),
        mask=sums(part.mask) > 0,
        saturated=sums(part.saturated) > 0,
        noise_correlation=(factors[0][1], factors[1][1]),
        psf_error=part.psf_error,
        # The error of the sky is common to the pixels that are joined.
        background_error=part.background_error * float(level),
        psf=_binned_psf(part._psf_access, n),
        wcs=None if part.wcs is None else binned_wcs(part.wcs, part.shape, n),
        unit=part.unit,
        meta=part.meta | {'binned': n * part.meta.get('binned', 1)},
    )


def _joined_noise(r, n):
    """
    Variance of a sum of n pixels over n, and correlation of neighbouring sums.

    The correlation at k pixels is that of noise that a kernel smoothed, r^(k^2).
    """
    lags = np.abs(np.arange(-_MAX_LAG - n, _MAX_LAG + n + 1))
    rho = np.sign(r) ** lags * np.abs(r) ** (lags**2.0)
    rho[lags > _MAX_LAG] = 0.0
    pairs = n - np.abs(np.arange(-n + 1, n))
    middle = _MAX_LAG + n

    def covariance(apart):
        first = middle + apart - n + 1
        return float(pairs @ np.resize(rho[first : first + 2 * n - 1], 2 * n - 1))

    return covariance(0) / n, covariance(n) / covariance(0)


def _binned_psf(access, n):
    """PSF of joined pixels: none, one model, or one that varies."""
    if access.psf is None:
        return None
    return _BinnedPSF(access, n) if access.varies else _binned_model(access.at(0, 0), n)


class _BinnedPSF(VaryingPSF):
    """
    PSF of joined pixels that varies, fitted where it is needed.

    Parameters
    ----------
    access : `PSFAccess`
        PSF of the exposure.

    n : int
        Pixels along each side of a binned one.
    """

    def __init__(self, access, n):
        self._access, self._n, self._fits = access, n, {}

    def at(self, x, y):
        """Return a fit to the sums of pixels at a place."""
        places = (float(x) + self.origin[0], float(y) + self.origin[1])
        key = tuple(round(place / _SPACING) for place in places)
        if key not in self._fits:
            middle = ((k * _SPACING + 0.5) * self._n - 0.5 for k in key)
            self._fits[key] = _binned_model(self._access.at(*middle), self._n)
        return self._fits[key]


def _binned_model(model, n):
    """Fit the PSF of joined pixels, in these."""
    model = model.copy()
    model.flux, model.x_0, model.y_0 = 1.0, 0.0, 0.0
    # Pixels whose sums have the star in the middle of a binned one.
    side = _STAMP * n
    offsets = np.arange(side) - (side - 1) / 2
    image = np.asarray(model(*np.meshgrid(offsets, offsets)), dtype=float)
    image = image.reshape(_STAMP, n, _STAMP, n).sum((1, 3))
    radius = max(float(model.normalization_radius) / n, _STAMP / 2)
    return PSFModel.fit(image / image.sum(), normalization_radius=radius)
