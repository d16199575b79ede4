# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sums over exposures, which take the same memory for ten as for a thousand.
"""

import dataclasses

import numpy as np

from ._noise_kernel import input_kernel
from ._psf_mean import Cells, PSFMean

__all__ = []

# Pixels so many sigma above the sky belong to a source, as do those around them.
_BRIGHT, _AROUND = 3.5, 4


@dataclasses.dataclass
class Layer:
    """
    One aligned exposure, reduced to what a mean needs.

    Attributes
    ----------
    index : int
        Its number.

    exposure : `~bliss_astro.exposures.Exposure`
        The aligned exposure.

    data, variance, gain : float `~numpy.ndarray`, shape (ny, nx)
        Its light above the sky, the variance of its sky, its effective gain.

    weight : float `~numpy.ndarray`, shape (ny, nx)
        Its weight, not normalised; 0 where it does not count.

    n_masked, n_saturated : int
        Pixels under the image that do not count, by the reason.

    offset : list of float or None
        What was taken off its sky, see `bliss_astro.coadds._scale.fit_sky`.
    """

    index: int
    exposure: object
    data: np.ndarray
    variance: np.ndarray
    gain: np.ndarray
    weight: np.ndarray
    n_masked: int
    n_saturated: int
    offset: list | None = None

    @property
    def good(self):
        """Where it counts."""
        return self.weight > 0

    @classmethod
    def of(cls, exposure, index, weighting):
        """
        Make a layer of an aligned exposure.

        Parameters
        ----------
        exposure : `~bliss_astro.exposures.Exposure`
            An exposure on the grid of the coadd.

        index : int
            Its number.

        weighting : callable
            Gives its weights, from the exposure and the number.

        Returns
        -------
        layer : `Layer`
            The layer.
        """
        maps = exposure.maps()
        coverage = getattr(exposure, 'coverage', None)
        covered = np.ones(exposure.shape, bool) if coverage is None else coverage
        good = covered & ~exposure.mask
        full = covered & exposure.saturated
        weight = np.where(good, weighting(exposure, index), 0.0)
        return cls(
            index=index,
            exposure=exposure,
            data=np.where(good, exposure.data - exposure.background, 0.0),
            variance=np.square(maps['bkg_error'], dtype=float),
            gain=np.asarray(maps['effective_gain'], dtype=float),
            weight=weight,
            n_masked=int(np.count_nonzero(covered & exposure.mask & ~full)),
            n_saturated=int(np.count_nonzero(full)),
        )


def depth_weights(exposure, index):
    """
    Return the inverse variance of the sky's noise over areas, pixel by pixel.

    Interpolation moves variance from a pixel into its covariance with the next,
    and how much depends on where the new pixel lies between the old ones. The sum
    over all distances stays. It is this sum that says how deep an exposure is;
    weights by the variance alone would favour whatever was smoothed most, and
    the PSF of the coadd would change from pixel to pixel.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        An aligned exposure.

    index : int
        Not used.

    Returns
    -------
    weight : float or float `~numpy.ndarray`
        One over the variance that independent pixels of this depth would have.
    """
    variance = np.square(exposure.bkg_error, dtype=float)
    total = float(input_kernel(exposure).sum())
    if total <= 1:
        return 1 / variance
    # Smoothing changes variance and gain by opposite factors, so that their
    # product is that of the exposure before.
    product = variance * exposure.effective_gain
    if np.ndim(product) == 0:
        return 1 / (variance * total)
    good = ~exposure.mask
    gain = np.mean(product[good]) / (
        np.mean(np.broadcast_to(variance, exposure.shape)[good]) * total
    )
    return gain / product


def _pad(kernel, shape):
    """
    Put a kernel into the middle of a larger one of zeros.
    """
    return np.pad(kernel, (shape[0] - len(kernel)) // 2)


class CoaddSums:
    """
    Weighted sums over layers.

    Parameters
    ----------
    shape : tuple of int
        The shape of the coadd.

    psf_shapes : dict, optional
        What an earlier pass found of the PSFs.
    """

    def __init__(self, shape, psf_shapes=None):
        self.shape = tuple(shape)
        self.cells = Cells(shape)
        self.psf = PSFMean(self.cells, psf_shapes)
        zeros = {name: np.zeros(shape) for name in ('w', 'wd', 'wwv', 'wwg')}
        self.weight, self.total = zeros['w'], zeros['wd']
        self.variance, self.inverse_gain = zeros['wwv'], zeros['wwg']
        self.count = np.zeros(shape, dtype=np.int32)
        self.saturated = np.zeros(shape, dtype=bool)
        self._kernel = np.zeros((*self.cells.shape, 5, 5))
        self._psf_error = self._background_error = 0.0

    def add(self, layer, weight=None):
        """
        Add a layer.

        Parameters
        ----------
        layer : `Layer`
            The layer.

        weight : float `~numpy.ndarray`, optional
            Weights other than its own.
        """
        weight = layer.weight if weight is None else weight
        squared = weight**2
        share = squared * layer.variance
        self.weight += weight
        self.total += weight * layer.data
        self.variance += share
        self.inverse_gain += squared / layer.gain
        self.count += weight > 0
        self.saturated |= layer.exposure.saturated
        # Errors of the PSF are taken to be common to all, those of the sky not.
        self._psf_error += weight.sum() * layer.exposure.psf_error
        self._background_error += share.sum() * layer.exposure.background_error**2
        self._add_kernel(input_kernel(layer.exposure), self.cells.sum(share))
        self.psf.add(layer.exposure, self.cells.sum(weight), layer.index)

    def _add_kernel(self, kernel, share):
        shape = tuple(np.maximum(kernel.shape, self._kernel.shape[2:]))
        if shape != self._kernel.shape[2:]:
            old = self._kernel
            self._kernel = np.zeros((*self.cells.shape, *shape))
            for cell in np.ndindex(*self.cells.shape):
                self._kernel[cell] = _pad(old[cell], shape)
        self._kernel += share[..., None, None] * _pad(kernel, shape)

    @property
    def psf_error(self):
        """Relative error of the width of the PSF."""
        return float(self._psf_error / self.weight.sum())

    @property
    def background_error(self):
        """Error of the sky in units of the noise of the mean."""
        return float(np.sqrt(self._background_error / self.variance.sum()))

    @property
    def mean(self):
        """The weighted mean so far; 0 where nothing counts."""
        return self.total / np.where(self.weight > 0, self.weight, 1)

    def sources(self):
        """
        Find the pixels in or near sources, and those without exposures.
        """
        from scipy.ndimage import binary_dilation

        mean, empty = self.mean, self.count == 0
        level = np.median(mean[~empty])
        noise = np.sqrt(self.variance) / np.where(empty, 1, self.weight)
        bright = ~empty & (mean - level > _BRIGHT * noise)
        return empty | binary_dilation(bright, iterations=_AROUND)

    def kernel(self):
        """
        Return the correlation of the coadd's noise, the mean over its pixels.
        """
        middle = tuple(n // 2 for n in self._kernel.shape[2:])
        norm = self._kernel[(..., *middle)]
        covered = self.cells.sum(self.weight > 0)
        each = self._kernel / np.where(norm > 0, norm, 1)[..., None, None]
        kernel = np.tensordot(covered, each, axes=2) / covered[norm > 0].sum()
        # Rounding must not spoil what holds exactly.
        kernel = (kernel + kernel[::-1, ::-1]) / 2
        return kernel / kernel[middle]
