# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pixels that one exposure has and the others have not: cosmic rays and the like.
"""

import numpy as np

__all__ = []

# Side in pixels of the window whose brightest pixel says how bright a star may
# be in another exposure.
_WINDOW = 5
# Allowances for stars: on top of what the PSFs say, as a factor and a share of
# the light, for PSF models and alignments that are not perfect.
_SAFETY, _FLOOR = 1.25, 0.1
# Share of the light allowed where PSFs are not known.
_WITHOUT_PSF = 0.5
# Parts of the PSF fainter than this, in units of the peak, do not count.
_FAINT = 1e-3
# Neighbours of clipped pixels are held to this share of the limit.
_NEIGHBOURS = 0.5


class Extremes:
    """
    The highest and the lowest value of each pixel among the exposures.

    An outlier would drag a mean along with it. A mean without the two does
    not follow it.

    Parameters
    ----------
    shape : tuple of int
        The shape of the coadd.
    """

    def __init__(self, shape):
        self.high = _Extreme(shape)
        self.low = _Extreme(shape)

    def add(self, layer):
        """
        Take in a layer.

        Parameters
        ----------
        layer : `bliss_astro.coadds._sums.Layer`
            The layer.
        """
        good = layer.good
        first = self.high.index < 0
        self.high.set(layer, good & (first | (layer.data > self.high.value)))
        self.low.set(layer, good & (first | (layer.data < self.low.value)))


class _Extreme:
    """
    A value of each pixel, with its weight and whose it is.
    """

    def __init__(self, shape):
        self.value = np.zeros(shape)
        self.weight = np.zeros(shape)
        self.index = np.full(shape, -1, dtype=np.int32)

    def set(self, layer, where):
        """
        Take the values of a layer at some pixels.
        """
        self.value[where] = layer.data[where]
        self.weight[where] = layer.weight[where]
        self.index[where] = layer.index


class Clipper:
    """
    Tells the outliers of each exposure from the sums of a first pass.

    Parameters
    ----------
    sums : `bliss_astro.coadds._sums.CoaddSums`
        The sums over all exposures.

    extremes : `Extremes`
        The highest values of them all.

    n_sigma : float
        The limit in units of the error.

    Notes
    -----
    An exposure is compared with the mean of the others, less the highest and the
    lowest of them, so that an outlier has no part in what it or others are compared
    with. (Of three, the middle one is kept; of two, only the higher one can be
    told to be an outlier, as most outliers are bright.)
    The limit is ``n_sigma`` times the error of the difference (sky and
    sources) and a share of the light near the pixel. That share, one for each
    exposure, is the largest difference between its PSF and that of the
    others: the core of a star is sharper in good seeing, and that is no outlier.
    It plays the part of the derivative in the test of the drizzle package,
    but as the PSFs are known it need not be guessed.

    What is too low is only looked for in the exposure with the lowest value, since
    two bright outliers in one pixel spoil the comparison for the others.
    """

    def __init__(self, sums, extremes, n_sigma):
        self.sums = sums
        self.extremes = extremes
        self.n_sigma = n_sigma
        self.shares = psf_shares(sums)

    def outliers(self, layer):
        """
        Find the outliers of a layer.

        Parameters
        ----------
        layer : `bliss_astro.coadds._sums.Layer`
            The layer, as it went into the sums.

        Returns
        -------
        outliers : bool `~numpy.ndarray`, shape (ny, nx)
            The pixels to leave out.
        """
        from scipy.ndimage import binary_dilation, maximum_filter

        sums = self.sums
        count, weight, total = self._others(layer)
        testable = layer.good & (count > 0) & (weight > 0)
        weight = np.where(testable, weight, 1.0)
        reference = np.where(testable, total / weight, sums.mean)
        signal = np.maximum(reference, 0)
        # Upper bounds, as they still hold the noise of the extremes.
        squared = layer.weight**2
        variance = (sums.variance - squared * layer.variance) / weight**2
        inverse_gain = (sums.inverse_gain - squared / layer.gain) / weight**2
        error = np.sqrt(
            layer.variance
            + np.maximum(variance, 0)
            + signal * (1 / layer.gain + np.maximum(inverse_gain, 0))
        )
        near = maximum_filter(reference, _WINDOW) - 3 * np.sqrt(np.maximum(variance, 0))
        limit = self.n_sigma * error + self.shares[layer.index] * np.maximum(near, 0)
        residual = layer.data - reference
        low = (self.extremes.low.index == layer.index) & (residual < -limit)
        outliers = testable & ((residual > limit) | low)
        around = binary_dilation(outliers, np.ones((3, 3)))
        return outliers | (around & testable & (np.abs(residual) > _NEIGHBOURS * limit))

    def _others(self, layer):
        """
        Sum the exposures other than one and the extremes.

        Returns number, weights, and weighted values of what is left.
        """
        sums, high, low = self.sums, self.extremes.high, self.extremes.low
        count = sums.count - layer.good
        weight = sums.weight - layer.weight
        total = sums.total - layer.weight * layer.data
        not_high = (high.index >= 0) & (high.index != layer.index)
        # Of two, the lower one is what the higher one is compared with.
        not_low = (low.index >= 0) & (low.index != layer.index) & (sums.count > 2)
        not_low &= low.index != high.index
        for extreme, leave_out in ((high, not_high), (low, not_low)):
            count = count - leave_out
            weight = weight - np.where(leave_out, extreme.weight, 0)
            total = total - np.where(leave_out, extreme.weight * extreme.value, 0)
        return count, weight, total


def psf_shares(sums):
    """
    Compare the PSF of each exposure with that of the others.

    Parameters
    ----------
    sums : `bliss_astro.coadds._sums.CoaddSums`
        The sums over all exposures.

    Returns
    -------
    shares : dict of int to float
        For each exposure the largest difference that two images of a star can
        have, in units of the light near the pixel.
    """
    psf = sums.psf
    if psf.lacking or len(psf.central) < 2:
        indices = [*psf.lacking, *(index for index, *_ in psf.central)]
        return dict.fromkeys(indices, _WITHOUT_PSF)
    indices, images, weights = zip(*psf.central, strict=True)
    images, weights = np.array(images), np.array(weights)
    total = np.tensordot(weights, images, axes=1)
    order = np.argsort(images.max(axis=(1, 2)))
    shares = {}
    for k, index in enumerate(indices):
        # The mean may also lack another, of which these matter most.
        extreme = [int(j) for j in (*order[:2], *order[-2:]) if j != k]
        lacking = [[], *([j] for j in dict.fromkeys(extreme) if len(images) > 2)]
        largest = max(
            _difference(images[k], total, images, weights, [k, *more])
            for more in lacking
        )
        shares[index] = _SAFETY * largest + _FLOOR
    return shares


def _difference(image, total, images, weights, without):
    """
    Return the largest difference from a mean PSF, in units of the light near.
    """
    from scipy.ndimage import maximum_filter

    rest = total - np.tensordot(weights[without], images[without], axes=1)
    rest = rest / (weights.sum() - weights[without].sum())
    near = maximum_filter(rest, _WINDOW)
    use = near > _FAINT * near.max()
    return float(np.max(np.abs(image - rest)[use] / near[use]))
