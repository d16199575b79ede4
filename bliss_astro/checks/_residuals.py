# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Residuals of an image against a catalogue: pulls of pixels, matched filter, variance.

Everything here looks at ``ratio``, the residual of a pixel in units of its own
noise.  Given the catalogue that was taken off, these are normal numbers of
unit variance with the noise's correlation, whatever the catalogue is.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.special import gammaincc, ndtr, ndtri

from bliss_astro.coadds._noise import input_kernel

__all__ = [
    'LIMIT',
    'PSF_WIDTH',
    'MatchedFilter',
    'Residuals',
    'local_peaks',
    'noise_kernel',
    'normal_p_value',
    'offset',
    'sigmas_of',
    'variance_parts',
    'whole_p_value',
]

LIMIT = 0.01 / 8
"""Largest p-value of a fault: an image without any gets a finding in 1 % of the cases,
which eight kinds of tests share."""

PSF_WIDTH = 0.015
"""Relative error of the PSF's width that does no harm which errors would show."""

# Model errors of this share of the light make a pixel count less in
# `variance_parts`, and the fewest bright pixels that constrain model errors.
_MODEL_ERROR, _BRIGHT_PIXELS = 0.03, 40
# Pixels with a smaller share of sources in their variance are empty.
_NO_LIGHT = 1e-3


def normal_p_value(sigmas, *, two_sided=True):
    """P-value of a number of standard deviations."""
    sigmas = np.asarray(sigmas, dtype=float)
    return 2 * ndtr(-np.abs(sigmas)) if two_sided else ndtr(-sigmas)


def sigmas_of(p_value):
    """Standard deviations that a two-sided p-value stands for."""
    return float(min(-ndtri(max(float(p_value), 1e-300) / 2), 37.0))


def noise_kernel(exposure):
    """Correlation of an exposure's noise by lag, odd and square."""
    return np.asarray(input_kernel(exposure), dtype=float)


@dataclass
class Residuals:
    """
    Image less the light of a catalogue, in units of the noise.

    Attributes
    ----------
    ratio : float32 `~numpy.ndarray`, shape (ny, nx)
        Residual over the pixel's noise; 0 in bad pixels.

    error : float32 `~numpy.ndarray`, shape (ny, nx)
        That noise, sources included, in data units.

    sky_share : float32 `~numpy.ndarray`, shape (ny, nx)
        Share of the sky in the pixel's variance.

    good : bool `~numpy.ndarray`, shape (ny, nx)
        `False` in bad pixels.

    kernel : float `~numpy.ndarray`
        Correlation of the noise by lag, odd and square.
    """

    ratio: np.ndarray
    error: np.ndarray
    sky_share: np.ndarray
    good: np.ndarray
    kernel: np.ndarray

    @classmethod
    def of(cls, exposure, model, kernel, *, unit=1.0, smoothing=None):
        """
        Subtract a model from an exposure.

        Parameters
        ----------
        exposure : `~bliss_astro.exposures.Exposure`
            The image.

        model : float `~numpy.ndarray`, shape (ny, nx)
            The light of the sources, in ``unit``.

        kernel : float `~numpy.ndarray`
            Correlation of the noise.

        unit : float, optional
            Unit of model and error in data units.

        smoothing : float, optional
            Standard deviation in pixels of a Gaussian; the noise is then that of the
            image smoothed by it where this is brighter than the model.
        """
        signal = np.subtract(exposure.data, exposure.background, dtype=float) / unit
        signal = signal.astype(np.float32)
        good = ~exposure.mask
        signal[~good] = 0
        light = np.maximum(model, 0)
        if smoothing is not None:
            light = np.maximum(light, gaussian_filter(signal, smoothing))
        sky = np.square(np.asarray(exposure.bkg_error / unit, dtype=np.float32))
        variance = sky + light / np.asarray(exposure.effective_gain * unit, np.float32)
        error = np.sqrt(variance).astype(np.float32)
        ratio = np.where(good, (signal - model) / error, 0).astype(np.float32)
        return cls(ratio, error, sky / variance, good, kernel)

    def keep(self, pixels):
        """Leave out all but some pixels."""
        good = self.good & pixels
        return dataclasses.replace(self, ratio=self.ratio * good, good=good)

    def without_border(self, width):
        """Leave out the pixels close to the border, but of small images."""
        if min(self.ratio.shape) < 6 * width:
            return self
        inner = np.zeros(self.good.shape, dtype=bool)
        inner[width:-width, width:-width] = True
        return self.keep(inner)

    def of_sky(self, share):
        """Leave out the pixels where the sky has a smaller share of the variance."""
        return self.keep(self.sky_share > share)

    def without_discs(self, x, y, radius):
        """Leave out the pixels within a radius of some places."""
        good = self.good.copy()
        ny, nx = good.shape
        for place_x, place_y in zip(x, y, strict=True):
            rows = slice(max(0, int(place_y - radius)), int(place_y + radius) + 2)
            columns = slice(max(0, int(place_x - radius)), int(place_x + radius) + 2)
            dy = np.arange(ny)[rows, None] - place_y
            dx = np.arange(nx)[columns] - place_x
            good[rows, columns] &= dx**2 + dy**2 > radius**2
        return self.keep(good)

    @property
    def excess(self):
        """Variance of a smooth sum of pixels over that of independent ones."""
        return max(float(self.kernel.sum()), 0.05)

    @property
    def excess_of_squares(self):
        """The same of a sum of squared residuals."""
        return float(np.square(self.kernel).sum())

    def gaussian_excess(self, sigma):
        """The same of a sum that a Gaussian of that width in pixels weights."""
        half = len(self.kernel) // 2
        step = np.arange(-half, half + 1)
        overlap = np.exp(-(step[:, None] ** 2 + step**2) / (4 * sigma**2))
        return max(float((self.kernel * overlap).sum()), 0.05)


# -- peaks -----------------------------------------------------------------------


class MatchedFilter:
    """
    Flux of a Gaussian centred on each pixel, by weighted least squares.

    Parameters
    ----------
    residuals : `Residuals`
        Noise and good pixels.

    sigma : float
        Standard deviation of the Gaussian in pixels.

    scale : float or float `~numpy.ndarray`, optional
        Factor by which the noise is larger than stated.

    Attributes
    ----------
    error : float `~numpy.ndarray`, shape (ny, nx)
        Standard deviation of the flux.

    seen : bool `~numpy.ndarray`, shape (ny, nx)
        Whether half of the weight is on good pixels.
    """

    def __init__(self, residuals, sigma, scale=1.0):
        self.sigma, good = sigma, residuals.good
        self.inverse = np.where(good, residuals.error**-2.0, 0).astype(np.float32)
        # The square of a Gaussian is a narrower one of height 1 / (4 pi sigma^2).
        weight = gaussian_filter(self.inverse, sigma / np.sqrt(2), mode='constant')
        least = 1e-6 * max(float(weight.max()), 1e-30)
        self.weight = np.maximum(weight, least) / (4 * np.pi * sigma**2)
        self.error = scale * np.sqrt(residuals.gaussian_excess(sigma) / self.weight)
        share = gaussian_filter(good.astype(np.float32), sigma, mode='constant')
        self.seen = share > 0.5

    def __call__(self, image):
        """Flux at each pixel of an image, in its unit."""
        total = gaussian_filter(image * self.inverse, self.sigma, mode='constant')
        return total / self.weight


def local_peaks(snr, threshold, fwhm):
    """Rows and columns of the maxima within a FWHM that exceed a threshold."""
    high = snr > threshold
    if not high.any():
        return np.nonzero(high)
    return np.nonzero(high & (snr == maximum_filter(snr, 2 * int(np.ceil(fwhm)) + 1)))


# -- the whole image ---------------------------------------------------------------


def whole_p_value(residuals):
    """P-value of the chi-square of all pixels (float)."""
    n = np.count_nonzero(residuals.good)
    chi2 = float(np.sum(np.square(residuals.ratio), dtype=float))
    factor = residuals.excess_of_squares
    return float(gammaincc(n / factor / 2, chi2 / factor / 2))


def offset(residuals, where=...):
    """Offset of the sky in units of its noise in a part of the image, and its error."""
    share, good = residuals.sky_share[where], residuals.good[where]
    use = good & (share > 0.8)
    weight = float(share[use].sum(dtype=float))
    if weight <= 0:
        return np.nan, np.nan
    total = np.sum(np.sqrt(share[use]) * residuals.ratio[where][use], dtype=float)
    return total / weight, np.sqrt(residuals.excess / weight)


def variance_parts(residuals, model):
    """
    Split the variance of residuals into what sky, photons and model errors add.

    A pixel's squared residual has the mean ``a k + b (1 - k) + c s^2 / v`` with the
    sky's share k of the variance v and the signal s.  ``a`` and ``b`` are 1
    if the noise is as stated, and ``c`` is 0 if the model is right.

    Parameters
    ----------
    residuals : `Residuals`
        The residuals.

    model : float `~numpy.ndarray`, shape (ny, nx)
        The signal.

    Returns
    -------
    values, errors : float `~numpy.ndarray`, shape (3,)
        ``a``, ``b`` and ``c``; NaN where the data do not constrain it.

    p_value : float
        P-value of the pixels that constrain ``c``. They may be few, and their squares
        are not nearly normal.
    """
    # Pixels of empty sky, nearly all there are, are alike.
    empty = residuals.good & (residuals.sky_share > 1 - _NO_LIGHT)
    use = residuals.good & ~empty
    share = residuals.sky_share[use].astype(float)
    power = np.square(model[use].astype(float) / residuals.error[use])
    square = np.square(residuals.ratio[use].astype(float))
    number = np.ones(len(share) + 1)
    number[-1] = np.count_nonzero(empty)
    if number[-1]:
        mean = np.sum(np.square(residuals.ratio[empty]), dtype=float) / number[-1]
        share, power = np.append(share, 1.0), np.append(power, 0.0)
        square = np.append(square, mean)
    else:
        number = number[:-1]
    weight = number * (1 + _MODEL_ERROR**2 * power) ** -2
    parts = np.stack([share, 1 - share, power])
    known = np.array([True, True, True])
    known &= (parts**2 * weight).sum(1) > np.array([1, 20, 20])
    # A weighted sum of squares is nearly a scaled chi-square.
    weighted = weight * parts[2]
    freedom = weighted.sum() ** 2 / max(np.sum(weighted**2), 1e-30)
    freedom /= residuals.excess_of_squares
    known[2] &= freedom > _BRIGHT_PIXELS
    excess = residuals.excess_of_squares
    values, errors = _regression(parts, weight, square, known, excess, number)
    p_value = 1.0
    if known[2]:
        # Of the noise only what is beyond doubt is allowed for.
        stated = values[0] * share + np.nan_to_num(values[1], nan=1.0) * (1 - share)
        stated = max(np.sum(weighted * stated), weighted.sum())
        p_value = gammaincc(freedom / 2, freedom / 2 * (weighted @ square) / stated)
        if values[2] < 3 * errors[2]:
            # Photons are constrained far better by a model that is right.
            both = known & [True, True, False]
            found = _regression(parts, weight, square, both, excess, number)
            values[:2], errors[:2] = found[0][:2], found[1][:2]
    return values, errors, float(p_value)


def _regression(parts, weight, square, known, excess, number):
    """Coefficients of the known parts and their errors, NaN for the others."""
    values, errors = np.full(len(parts), np.nan), np.full(len(parts), np.nan)
    if known.any():
        parts = parts[known]
        inverse = np.linalg.pinv((parts * weight) @ parts.T)
        values[known] = inverse @ ((parts * weight) @ square)
        spread = 2 * excess * ((parts * (weight**2 / number)) @ parts.T)
        errors[known] = np.sqrt(np.diag(inverse @ spread @ inverse))
    return values, errors
