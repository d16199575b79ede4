# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures with several pixels joined into one.
"""

import numpy as np

__all__ = ['BinnedPSF', 'bin_exposure']

# Distance in pixels up to which the correlation of noise is counted.
_MAX_LAG = 24
# Side in binned pixels of the image from which a PSF is fitted.
_STAMP = 25
# Spacing in binned pixels of the places at which a PSF that varies is fitted.
_SPACING = 64
# Points along each axis, and degree of distortions, where a WCS is fitted anew.
_N_POINTS, _DEGREE = 16, 3


def bin_exposure(exposure, n):
    """
    Join n x n pixels into one; the work behind `Exposure.binned`.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    n : int
        Pixels along each side.

    Returns
    -------
    data : float `~numpy.ndarray`, shape (ny // n, nx // n)
        Sums of pixels.

    arguments : dict
        Arguments of `~bliss_astro.exposures.Exposure`.
    """
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
    noise = joined(
        np.square(part.bkg_error, dtype=float), lambda total: np.sqrt(total * share)
    )
    read_noise = joined(np.square(part.read_noise, dtype=float), np.sqrt)
    gain = joined(1 / part.effective_gain, lambda total: n * n / total)
    level = n * n * np.median(part.bkg_error) / np.median(noise)
    return sums(np.where(part.mask, 0.0, part.data)), {
        'background': joined(part.background, lambda total: total),
        'bkg_error': noise,
        'effective_gain': gain,
        'read_noise': read_noise,
        'mask': sums(part.mask) > 0,
        'saturated': sums(part.saturated) > 0,
        'noise_correlation': (factors[0][1], factors[1][1]),
        'psf_error': part.psf_error,
        # The error of the sky is common to the pixels that are joined.
        'background_error': part.background_error * float(level),
        'psf': None if part.psf is None else _binned_psf(part, n),
        'wcs': None if part.wcs is None else _binned_wcs(part.wcs, part.shape, n),
        'unit': part.unit,
        'meta': part.meta | {'binned': n * part.meta.get('binned', 1)},
    }


def _joined_noise(r, n):
    """
    Variance of a sum of n pixels over n, and correlation of neighbouring sums.

    The correlation at k pixels is that of noise that a kernel smoothed, r^(k^2).
    """
    lags = np.abs(np.arange(-_MAX_LAG - n, _MAX_LAG + n + 1))
    rho = np.sign(r) ** lags * np.abs(r) ** (lags**2.0) if r else (lags == 0) * 1.0
    rho[lags > _MAX_LAG] = 0.0
    pairs = n - np.abs(np.arange(-n + 1, n))
    middle = _MAX_LAG + n

    def covariance(apart):
        first = middle + apart - n + 1
        return float(pairs @ np.resize(rho[first : first + 2 * n - 1], 2 * n - 1))

    return covariance(0) / n, covariance(n) / covariance(0)


class BinnedPSF:
    """
    The PSF of an exposure whose pixels were joined.

    Parameters
    ----------
    access : object
        Gives the PSF of the exposure at a place by ``at(x, y)``.

    n : int
        Pixels along each side of a binned one.

    origin : tuple of float, optional
        The place in binned pixels of the pixel (0, 0).
    """

    def __init__(self, access, n, origin=(0.0, 0.0)):
        self._access, self.n, self.origin = access, n, tuple(origin)
        self._fits = {}

    def at(self, x, y):
        """
        Return the PSF at a place.

        Parameters
        ----------
        x, y : float
            The place, binned pixels.

        Returns
        -------
        psf : `~bliss_astro.psf.PSFModel`
            A fit to the sums of pixels.
        """
        places = (float(x) + self.origin[0], float(y) + self.origin[1])
        key = tuple(round(place / _SPACING) for place in places)
        if key not in self._fits:
            middle = ((k * _SPACING + 0.5) * self.n - 0.5 for k in key)
            self._fits[key] = binned_model(self._access.at(*middle), self.n)
        return self._fits[key]

    def shifted(self, dx, dy):
        """
        Return the PSF of a cut-out.

        Parameters
        ----------
        dx, dy : float
            Its first pixel.

        Returns
        -------
        psf : `BinnedPSF`
            The same in its pixels.
        """
        origin = (self.origin[0] + dx, self.origin[1] + dy)
        moved = BinnedPSF(self._access, self.n, origin)
        moved._fits = self._fits
        return moved


def binned_model(model, n):
    """
    Fit the PSF of joined pixels.

    Parameters
    ----------
    model : `~bliss_astro.psf.PSFModel`
        The PSF.

    n : int
        Pixels along each side of a binned one.

    Returns
    -------
    psf : `~bliss_astro.psf.PSFModel`
        The PSF in binned pixels.
    """
    from ..psf import PSFModel

    model = model.copy()
    model.flux, model.x_0, model.y_0 = 1.0, 0.0, 0.0
    # Pixels whose sums have the star in the middle of a binned one.
    side = _STAMP * n
    offsets = np.arange(side) - (side - 1) / 2
    image = np.asarray(model(*np.meshgrid(offsets, offsets)), dtype=float)
    image = image.reshape(_STAMP, n, _STAMP, n).sum((1, 3))
    radius = max(float(model.normalization_radius) / n, _STAMP / 2)
    return PSFModel.fit(image / image.sum(), normalization_radius=radius)


def _binned_psf(exposure, n):
    """
    Return the PSF of joined pixels, one model or one that varies.
    """
    access = exposure._psf_access
    if access.varies:
        return BinnedPSF(access, n)
    return binned_model(access.at(0, 0), n)


def _binned_wcs(wcs, shape, n):
    """
    Return the WCS of joined pixels.
    """
    plain = getattr(wcs, 'sip', wcs) is None and not any(
        getattr(wcs, name, None) is not None
        for name in ('cpdis1', 'cpdis2', 'det2im1', 'det2im2')
    )
    if plain:
        # Not by slices: of a WCS with a CD matrix astropy scales CDELT.
        joined = wcs.deepcopy()
        joined.wcs.crpix = (wcs.wcs.crpix - 0.5) / n + 0.5
        if wcs.wcs.has_cd():
            joined.wcs.cd = wcs.wcs.cd * n
        else:
            joined.wcs.cdelt = wcs.wcs.cdelt * n
        joined.array_shape = tuple(length // n for length in shape)
        return joined
    # Distortions are polynomials in pixels, which are no longer the same.
    from astropy.wcs.utils import fit_wcs_from_points
    from astropy.wcs.wcsapi import HighLevelWCSWrapper

    high = wcs if hasattr(wcs, 'pixel_to_world') else HighLevelWCSWrapper(wcs)
    axes = (np.linspace(0, length - 1, _N_POINTS) for length in reversed(shape))
    x, y = (values.ravel() for values in np.meshgrid(*axes))
    binned = ((x + 0.5) / n - 0.5, (y + 0.5) / n - 0.5)
    return fit_wcs_from_points(binned, high.pixel_to_world(x, y), sip_degree=_DEGREE)
