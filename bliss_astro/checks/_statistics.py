# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What residuals should be like, and what they are like.

Everything here looks at ``ratio``, the residual of a pixel in units of its own
noise.  Given the catalogue that was taken off, these are normal numbers of
unit variance with the noise's correlation, whatever the catalogue is.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincc, ndtr, ndtri

__all__ = [
    'LIMIT',
    'PSF_WIDTH',
    'Residuals',
    'cell_statistics',
    'cells_of',
    'normal_p_value',
    'offset',
    'sigmas_of',
    'variance_parts',
    'whole_p_value',
]

# The largest p-value of a fault: an image without any gets a finding in 1 % of the
# cases, which eight kinds of tests share.
LIMIT = 0.01 / 8
# Error of the PSF's width, relative, that does no harm which errors would show.
PSF_WIDTH = 0.015
# Model errors of this share of the light make a pixel count less in
# `variance_parts`.
_MODEL_ERROR = 0.03
# Fewer bright pixels than this do not tell model errors.
_FEW_PIXELS = 40
# Pixels with a smaller share of sources in their variance are empty.
_NO_LIGHT = 1e-3


def normal_p_value(sigmas, *, two_sided=True):
    """P-value of a number of standard deviations."""
    sigmas = np.asarray(sigmas, dtype=float)
    return 2 * ndtr(-np.abs(sigmas)) if two_sided else ndtr(-sigmas)


def sigmas_of(p_value):
    """Standard deviations that a two-sided p-value stands for."""
    return float(min(-ndtri(max(float(p_value), 1e-300) / 2), 37.0))


@dataclass
class Residuals:
    """
    An image less one catalogue.

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
    def of(cls, exposure, model, kernel):
        """
        Subtract a model from an exposure.

        Parameters
        ----------
        exposure : `~bliss_astro.exposures.Exposure`
            The image.

        model : float `~numpy.ndarray`, shape (ny, nx)
            The light of the sources.

        kernel : float `~numpy.ndarray`
            Correlation of the noise.

        Returns
        -------
        residuals : `Residuals`
            The residuals.
        """
        sky = np.square(np.asarray(exposure.bkg_error, dtype=np.float32))
        gain = np.asarray(exposure.effective_gain, dtype=np.float32)
        variance = sky + np.maximum(model, 0) / gain
        error = np.sqrt(variance)
        good = ~exposure.mask
        ratio = np.array(exposure.data, dtype=np.float32)
        ratio -= np.asarray(exposure.background, dtype=np.float32)
        ratio -= model
        ratio /= error
        ratio[~good] = 0
        return cls(ratio, error, sky / variance, good, kernel)

    def without_border(self, width):
        """
        Leave out the pixels close to the border.

        Parameters
        ----------
        width : int
            In pixels; of small images nothing is left out.

        Returns
        -------
        residuals : `Residuals`
            The others.
        """
        if min(self.ratio.shape) < 6 * width:
            return self
        inner = np.zeros(self.good.shape, dtype=bool)
        inner[width:-width, width:-width] = True
        good = self.good & inner
        return dataclasses.replace(self, ratio=self.ratio * good, good=good)

    def of_sky(self, share):
        """
        Leave out the pixels with light of sources.

        Parameters
        ----------
        share : float
            The least share of the sky in the variance.

        Returns
        -------
        residuals : `Residuals`
            The others.
        """
        good = self.good & (self.sky_share > share)
        return dataclasses.replace(self, ratio=self.ratio * good, good=good)

    def without_discs(self, x, y, radius):
        """
        Leave out the pixels around some places.

        Parameters
        ----------
        x, y : sequence of float
            Pixels.

        radius : float
            In pixels.

        Returns
        -------
        residuals : `Residuals`
            The others.
        """
        good = self.good.copy()
        ny, nx = good.shape
        for place_x, place_y in zip(x, y, strict=True):
            rows = slice(max(0, int(place_y - radius)), int(place_y + radius) + 2)
            columns = slice(max(0, int(place_x - radius)), int(place_x + radius) + 2)
            dy = np.arange(ny)[rows, None] - place_y
            dx = np.arange(nx)[columns] - place_x
            good[rows, columns] &= dx**2 + dy**2 > radius**2
        return dataclasses.replace(self, ratio=self.ratio * good, good=good)

    @property
    def excess(self):
        """Variance of a smooth sum of pixels over that of independent ones."""
        return max(float(self.kernel.sum()), 0.05)

    @property
    def excess_of_squares(self):
        """The same of a sum of squared residuals."""
        return float(np.square(self.kernel).sum())


# -- regions -----------------------------------------------------------------


def cells_of(regions, shape):
    """
    Turn what a person calls regions into labels of pixels.

    Parameters
    ----------
    regions : None, int, pair of int or 2D int array
        See `~bliss_astro.catalog.ProbabilisticCatalog.check`.

    shape : tuple of int
        ``(ny, nx)``.

    Returns
    -------
    labels : int `~numpy.ndarray`, shape (ny, nx)
        Number of each pixel's region; negative for none.

    grid : tuple of int or None
        Rows and columns of a grid of cells.

    Raises
    ------
    TypeError, ValueError
        If regions are none of these.
    """
    ny, nx = shape
    if isinstance(regions, np.ndarray) and regions.ndim == 2:
        if regions.shape != tuple(shape) or regions.dtype.kind not in 'iu':
            msg = (
                f'regions must be a map of whole numbers of shape {tuple(shape)}, got '
                f'{regions.dtype} of shape {regions.shape}'
            )
            raise ValueError(msg)
        if regions.max() < 0:
            msg = (
                'regions must hold a region, a number that is not negative, got '
                f'numbers up to {regions.max()}'
            )
            raise ValueError(msg)
        return regions.astype(np.int64), None
    if regions is None:
        regions = int(np.clip(min(shape) // 8, 24, 64))
    wrong = isinstance(regions, bool)
    if not wrong and isinstance(regions, int | np.integer):
        rows, columns = (
            max(1, round(n / regions)) if regions > 0 else 0 for n in shape
        )
    elif not wrong and isinstance(regions, tuple | list) and len(regions) == 2:
        rows, columns = regions
        wrong = not all(isinstance(n, int | np.integer) for n in regions)
    else:
        wrong = True
    if wrong:
        msg = (
            'regions must be the side of a cell in pixels, a pair (rows, columns) of '
            f'whole numbers or a 2D array of labels, got {regions!r:.80}'
        )
        raise TypeError(msg)
    if not (1 <= rows <= ny and 1 <= columns <= nx):
        msg = f'regions must have at least a pixel each, got {regions} for {ny} x {nx}'
        raise ValueError(msg)
    row = np.arange(ny) * int(rows) // ny
    column = np.arange(nx) * int(columns) // nx
    return row[:, None] * int(columns) + column, (int(rows), int(columns))


def _pairs(residuals, labels, n_labels):
    """Sum of squared correlations over all pairs of pixels in each region."""
    from bliss_astro.coadds._noise_kernel import lagged_views

    good = residuals.good & (labels >= 0)
    total = np.bincount(labels[good], minlength=n_labels).astype(float)
    half = len(residuals.kernel) // 2
    for dy in range(half + 1):
        for dx in range(-half, half + 1):
            value = residuals.kernel[half + dy, half + dx]
            if value == 0 or (dy == 0 and dx <= 0):
                continue
            one, two = lagged_views(labels.shape, dy, dx)
            both = good[one] & good[two] & (labels[one] == labels[two])
            number = np.bincount(labels[one][both], minlength=n_labels)
            total += 2 * value**2 * number
    return total


def cell_statistics(residuals, labels):
    """
    Chi-square and offset of each region.

    Parameters
    ----------
    residuals : `Residuals`
        The residuals.

    labels : int `~numpy.ndarray`, shape (ny, nx)
        From `cells_of`.

    Returns
    -------
    cells : dict of str to `~numpy.ndarray`
        ``n_pixels``, ``chi2``, ``chi2_err`` (of replicated noise, about
        ``n_pixels``), ``p_value`` (that replicated noise has a larger one),
        ``offset`` and ``offset_err`` (of the sky, in units of its noise), ``x``
        and ``y`` (mean position of the pixels).
    """
    use = residuals.good & (labels >= 0)
    label, n_labels = labels[use], int(labels.max()) + 1

    def total(values):
        return np.bincount(label, values, minlength=n_labels)

    ratio = residuals.ratio[use].astype(float)
    share = residuals.sky_share[use].astype(float)
    n, chi2 = total(None).astype(float), total(ratio**2)
    variance = 2 * _pairs(residuals, labels, n_labels)
    weight = total(share)
    with np.errstate(invalid='ignore', divide='ignore'):
        # A sum of correlated squares is nearly a scaled chi-square.
        scale, freedom = variance / (2 * n), 2 * n**2 / variance
        p_value = gammaincc(freedom / 2, chi2 / scale / 2)
        mean = total(np.sqrt(share) * ratio) / weight
        mean_err = np.sqrt(residuals.excess / weight)
        row, column = np.nonzero(use)
        x, y = total(column.astype(float)) / n, total(row.astype(float)) / n
    return {
        'x': x,
        'y': y,
        'n_pixels': n.astype(int),
        'chi2': chi2,
        'chi2_err': np.sqrt(variance),
        'p_value': p_value,
        'offset': mean,
        'offset_err': mean_err,
    }


# -- of all pixels ---------------------------------------------------------------


def whole_p_value(residuals):
    """
    Probability that replicated noise has a larger chi-square over the image.

    Parameters
    ----------
    residuals : `Residuals`
        The residuals.

    Returns
    -------
    p_value : float
        Without allowance for the few correlations that bad pixels cut.
    """
    n = np.count_nonzero(residuals.good)
    chi2 = float(np.sum(np.square(residuals.ratio), dtype=float))
    factor = residuals.excess_of_squares
    return float(gammaincc(n / factor / 2, chi2 / factor / 2))


def offset(residuals, where=None):
    """
    Offset of the sky in units of its noise, from pixels with little else.

    Parameters
    ----------
    residuals : `Residuals`
        The residuals.

    where : tuple of slice, optional
        Part of the image.

    Returns
    -------
    value, error : float
        The offset; NaN where there are no pixels.
    """
    where = (slice(None), slice(None)) if where is None else where
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
        ``a``, ``b`` and ``c``; NaN where nothing tells.

    p_value : float
        That the pixels which tell ``c`` are as far off by noise alone. They may
        be few, and their squares are not nearly normal.
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
    known[2] &= freedom > _FEW_PIXELS
    excess = residuals.excess_of_squares
    values, errors = _regression(parts, weight, square, known, excess, number)
    p_value = 1.0
    if known[2]:
        # Of the noise only what is beyond doubt is allowed for.
        stated = values[0] * share + np.nan_to_num(values[1], nan=1.0) * (1 - share)
        stated = max(np.sum(weighted * stated), weighted.sum())
        p_value = gammaincc(freedom / 2, freedom / 2 * (weighted @ square) / stated)
        if values[2] < 3 * errors[2]:
            # Photons are told far better by a model that is right.
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
