# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Residuals of an image against a catalogue: pulls of pixels, matched filter, regions.

Everything here looks at ``ratio``, the residual of a pixel in units of its own
noise.  Given the catalogue that was taken off, these are normal numbers of
unit variance with the noise's correlation, whatever the catalogue is.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaincc, ndtr, ndtri

from bliss_astro._arguments import must
from bliss_astro._filters import row_blocks, smooth
from bliss_astro._threads import map_threads

LIMIT = 0.01 / 8
"""Largest p-value of a fault: an image without any gets a finding in 1 % of the cases,
which eight kinds of tests share."""

PSF_WIDTH = 0.015
"""Relative error of the PSF's width that does no harm which errors would show."""

# Model errors of this share of the light make a pixel count less in
# `variance_parts`, and the fewest bright pixels that constrain model errors.
_MODEL_ERROR, _BRIGHT_PIXELS = 0.03, 40
_MAPS = 'background', 'bkg_error', 'effective_gain'
# Pixels with a smaller share of sources in their variance are empty.
_NO_LIGHT = 1e-3


def normal_p_value(sigmas):
    """Two-sided p-value of a number of standard deviations."""
    return 2 * ndtr(-np.abs(sigmas))


def sigmas_of(p_value):
    """Standard deviations that a two-sided p-value stands for."""
    return float(min(-ndtri(max(float(p_value), 1e-300) / 2), 37.0))


def half_width(values):
    """Half the 16-84 % width of values, the standard deviation of normal ones."""
    # Sorting takes a fifth of the time of `numpy.percentile`.
    values = np.sort(values, axis=None)
    places = np.array([0.15866, 0.84134]) * (len(values) - 1)
    low, high = np.interp(places, np.arange(len(values)), values)
    return 0.5 * float(high - low)


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

    good : bool `~numpy.ndarray`, shape (ny, nx)
        `False` in bad pixels.

    sky_error : float `~numpy.ndarray`, shape (ny, nx)
        The noise of the sky alone, in ``unit``.

    kernel : float `~numpy.ndarray`
        Correlation of the noise by lag, odd and square.

    unit : float
        Unit of the data.
    """

    ratio: np.ndarray
    error: np.ndarray
    good: np.ndarray
    sky_error: np.ndarray
    kernel: np.ndarray
    unit: float = 1.0

    @classmethod
    def of(cls, exposure, model, kernel, *, unit=1.0, smoothing=None):
        """
        Subtract a model, in ``unit`` of the data, from an exposure.

        With ``smoothing``, a standard deviation in pixels, the noise is that of the
        smoothed image where this is brighter than the model.
        """
        ratio, error = np.empty((2, *exposure.shape), dtype=np.float32)
        bad, maps = exposure.mask, exposure.maps()
        sky, noise, gain = (maps[name] for name in _MAPS)
        halo = 0 if smoothing is None else int(4 * smoothing + 1)

        def fill(block):
            wide, inner, own = block
            signal = np.subtract(exposure.data[wide], sky[wide], dtype=float) / unit
            signal = np.where(bad[wide], 0, signal).astype(np.float32)
            light = np.maximum(model[own], 0)
            if smoothing is not None:
                light = np.maximum(light, smooth(signal, smoothing)[inner])
            light /= (gain[own] * unit).astype(np.float32)
            light += np.square((noise[own] / unit).astype(np.float32))
            np.sqrt(light, out=error[own])
            np.divide(signal[inner] - model[own], error[own], out=ratio[own])
            ratio[own][bad[own]] = 0

        map_threads(fill, row_blocks(len(bad), halo))
        return cls(ratio, error, ~bad, noise, kernel, unit)

    @property
    def sky_share(self):
        """Share of the sky in the pixel's variance, float32 ``(ny, nx)``."""
        sky = (self.sky_error / self.unit).astype(np.float32)
        return np.square(sky / self.error)

    def select_rows(self, rows):
        """Some rows (slice) of the image."""
        names = 'ratio', 'error', 'good', 'sky_error'
        own = {name: getattr(self, name)[rows] for name in names}
        return dataclasses.replace(self, **own)

    @property
    def shape(self):
        return self.ratio.shape

    def keep(self, pixels):
        """Leave out all but some pixels."""
        if pixels.all():
            return self
        good = self.good & pixels
        return dataclasses.replace(self, ratio=self.ratio * good, good=good)

    def without_border(self, width):
        """Leave out the pixels close to the border, but of small images."""
        if min(self.shape) < 6 * width:
            return self
        inner = [n - 2 * width for n in self.shape]
        return self.keep(np.pad(np.ones(inner, dtype=bool), width))

    def without_discs(self, x, y, radius):
        """Leave out the pixels within a radius of some places."""
        good = self.good.copy()
        row, column = (np.arange(n) for n in self.shape)
        for centre_x, centre_y, reach in np.broadcast(x, y, radius):
            box = tuple(
                slice(max(0, int(place - reach)), int(place + reach) + 2)
                for place in (centre_y, centre_x)
            )
            dy, dx = row[box[0], None] - centre_y, column[box[1]] - centre_x
            good[box] &= dx**2 + dy**2 > reach**2
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

    def chi2_p_value(self, chi2, n):
        """P-value of the sum of ``n`` squared residuals, nearly a scaled chi-square."""
        factor = 2 * self.excess_of_squares
        return gammaincc(n / factor, chi2 / factor)


class Stamps:
    """
    Squares of pixels around N places: ``use`` where they are good pixels of the image.

    ``at`` are the rows and columns of the nearest pixels within the image, ``dx`` and
    ``dy`` offsets from the places, float32 tensors ``(N, P, P)``.
    """

    def __init__(self, residuals, x, y, half):
        ny, nx = residuals.shape
        step = np.arange(-half, half + 1)
        rows = (np.rint(y).astype(int)[:, None] + step)[:, :, None]
        columns = (np.rint(x).astype(int)[:, None] + step)[:, None, :]
        inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
        self.at = np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)
        self.use = residuals.good[self.at] & inside
        self.weight = self.use / residuals.error[self.at]
        self.dx, self.dy = torch.broadcast_tensors(
            torch.from_numpy((columns - x[:, None, None]).astype(np.float32)),
            torch.from_numpy((rows - y[:, None, None]).astype(np.float32)),
        )


def nearest_pixel(x, y, shape):
    """Rows and columns of the pixels of an image nearest to places."""
    return tuple(
        np.clip(np.rint(v).astype(int), 0, n - 1)
        for v, n in zip((y, x), shape, strict=True)
    )


def stamp_half(fwhm):
    """Half the side in pixels of the stamp of a star."""
    return int(np.clip(np.ceil(2.5 * fwhm), 6, 20))


# -- peaks -----------------------------------------------------------------------


class MatchedFilter:
    """
    Flux of a Gaussian centred on each pixel, by weighted least squares.

    ``error`` is the standard deviation of the flux at each pixel, where the noise is
    larger than stated by a factor ``scale``; ``seen`` where half of the weight is on
    good pixels.
    """

    def __init__(self, residuals, sigma, scale=1.0):
        self.sigma, good = sigma, residuals.good
        # The square of a Gaussian is a narrower one of height 1 / (4 pi sigma^2).
        self.inverse = good / np.square(residuals.error)
        weight = smooth(self.inverse, sigma / np.sqrt(2), reflect=False)
        least = 1e-6 * max(float(weight.max()), 1e-30)
        self.weight = np.maximum(weight, least, out=weight)
        self.weight /= 4 * np.pi * sigma**2
        self.error = np.sqrt(residuals.gaussian_excess(sigma) / self.weight)
        self.error *= scale
        self.seen = smooth(good, sigma, reflect=False) > 0.5

    def __call__(self, images):
        """Flux at each pixel of images ``(..., ny, nx)``, in their unit."""
        return smooth(images * self.inverse, self.sigma, reflect=False) / self.weight


# -- variance --------------------------------------------------------------------


def variance_parts(residuals, model):
    """
    Split the variance of residuals into what sky, photons and model errors add.

    A pixel's squared residual has the mean ``a k + b (1 - k) + c s^2 / v`` with the
    sky's share k of the variance v and the signal s.  ``a`` and ``b`` are 1
    if the noise is as stated, and ``c`` is 0 if the model is right. Returned are the
    three values and their errors (NaN where the data do not constrain one), and the
    p-value of the pixels that constrain ``c``: they may be few, and their squares are
    not nearly normal.
    """
    excess = residuals.excess_of_squares
    # Pixels of empty sky, nearly all there are, are alike: one row stands for them.
    share = residuals.sky_share
    empty = residuals.good & (share > 1 - _NO_LIGHT)
    use = residuals.good & ~empty
    n_empty = np.count_nonzero(empty)
    mean = np.sum(np.square(residuals.ratio[empty]), dtype=float) / max(n_empty, 1)
    share = np.append(share[use].astype(float), 1.0)
    power = np.append(np.square(model[use].astype(float) / residuals.error[use]), 0.0)
    square = np.append(np.square(residuals.ratio[use].astype(float)), mean)
    number = np.append(np.ones(len(share) - 1), n_empty)
    weight = number * (1 + _MODEL_ERROR**2 * power) ** -2
    parts = np.stack([share, 1 - share, power])
    weighted = weight * power
    freedom = weighted.sum() ** 2 / max(np.sum(weighted**2), 1e-30) / excess
    known = (parts**2 * weight).sum(1) > np.array([1, 20, 20])
    known[2] &= freedom > _BRIGHT_PIXELS

    def regression(known):
        values, errors = np.full((2, 3), np.nan)
        own = parts[known]
        inverse = np.linalg.pinv((own * weight) @ own.T)
        values[known] = inverse @ ((own * weight) @ square)
        spread = 2 * excess * ((own * (weight**2 / np.maximum(number, 1))) @ own.T)
        errors[known] = np.sqrt(np.diag(inverse @ spread @ inverse))
        return values, errors

    values, errors = regression(known)
    p_value = 1.0
    if known[2]:
        # Of the noise only what is beyond doubt is allowed for.
        stated = values[0] * share + np.nan_to_num(values[1], nan=1.0) * (1 - share)
        stated = max(np.sum(weighted * stated), weighted.sum())
        p_value = gammaincc(freedom / 2, freedom / 2 * (weighted @ square) / stated)
        if values[2] < 3 * errors[2]:
            # Photons are constrained far better by a model that is right.
            both = regression(known & [True, True, False])
            values[:2], errors[:2] = both[0][:2], both[1][:2]
    return values, errors, float(p_value)


# -- regions ---------------------------------------------------------------------


def cells_of(regions, shape):
    """Label of each pixel's region (negative for none), and the grid of cells or None.

    ``regions`` is as for `~bliss_astro.catalog.ProbabilisticCatalog.check`.
    """
    if isinstance(regions, np.ndarray) and regions.ndim == 2:
        if regions.shape != shape or regions.dtype.kind not in 'iu':
            allowed = f'be a map of whole numbers of shape {shape}'
            got = f'{regions.dtype} of shape {regions.shape}'
            raise ValueError(must('regions', allowed, got))
        if (most := regions.max()) < 0:
            raise ValueError(
                must('regions', 'hold a region from 0 on', f'up to {most}')
            )
        return regions.astype(np.int64), None
    if regions is None:
        regions = int(np.clip(min(shape) // 8, 24, 64))
    numbers = np.asarray(regions)
    if numbers.dtype.kind not in 'iu' or numbers.shape not in ((), (2,)):
        allowed = (
            'be the side of a cell in pixels, a pair (rows, columns) of whole numbers '
            'or a 2D array of labels'
        )
        raise TypeError(must('regions', allowed, f'{regions!r:.80}'))
    grid = tuple(map(int, np.broadcast_to(numbers, 2)))
    if numbers.ndim == 0 and regions > 0:
        grid = tuple(max(1, round(n / regions)) for n in shape)
    if not all(1 <= k <= n for k, n in zip(grid, shape, strict=True)):
        got = f'{regions} for {shape}'
        raise ValueError(must('regions', 'have at least a pixel each', got))
    row, column = (np.arange(n) * k // n for n, k in zip(shape, grid, strict=True))
    return row[:, None] * grid[1] + column, grid


def cell_statistics(residuals, labels):
    """Return the columns of `CatalogCheck.cells`, of all regions (dict)."""
    use = residuals.good & (labels >= 0)
    label, n_labels = labels[use], int(labels.max()) + 1

    def total(values):
        return np.bincount(label, values, minlength=n_labels)

    ratio = residuals.ratio[use].astype(float)
    share = residuals.sky_share[use].astype(float)
    n, chi2, weight = total(None).astype(float), total(ratio**2), total(share)
    row, column = (v.astype(float) for v in np.nonzero(use))
    with np.errstate(invalid='ignore', divide='ignore'):
        return {
            'x': total(column) / n,
            'y': total(row) / n,
            'n_pixels': n.astype(int),
            'chi2': chi2,
            'chi2_expected': n,
            'chi2_err': np.sqrt(2 * n * residuals.excess_of_squares),
            'p_value': residuals.chi2_p_value(chi2, n),
            'offset': total(np.sqrt(share) * ratio) / weight,
            'offset_err': np.sqrt(residuals.excess / weight),
        }
