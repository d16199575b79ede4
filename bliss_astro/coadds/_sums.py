# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sums of coadds: layers of aligned exposures, their weights, and weighted sums of them.
"""

import numpy as np

from bliss_astro._warnings import warn

from ._matching import number_of
from ._noise import input_kernel
from ._psf import Cells, PSFMean

_WEIGHTS = ('inverse_variance', 'uniform')
# Pixels so many sigma above the sky belong to a source, as do those around them.
_SOURCE_SIGMA, _SOURCE_MARGIN = 3.5, 4


class Weights:
    """Weights of an exposure, not normalised, by the argument ``weights``."""

    def __init__(self, weights):
        self.name, self.numbers = weights, None
        if isinstance(weights, str) and weights in _WEIGHTS:
            return
        try:
            numbers = np.array(weights, dtype=float)
        except (TypeError, ValueError):
            numbers = np.array(np.nan)
        sound = np.isfinite(numbers).all() and (numbers >= 0).all() and numbers.any()
        if numbers.ndim != 1 or not sound:
            msg = (
                "weights must be 'inverse_variance', 'uniform' or a number for each "
                f'exposure, none negative and not all 0; got {weights!r:.60}.'
            )
            raise ValueError(msg)
        self.name, self.numbers = numbers.tolist(), numbers

    def __call__(self, exposure, index):
        """Return the weight of an aligned exposure, a number or a map."""
        if self.name == 'inverse_variance':
            return _depth_weights(exposure)
        numbers = 1.0 if self.numbers is None else self.numbers
        return number_of('weights', numbers, index)


def _depth_weights(exposure):
    """
    Return the inverse variance of the sky's noise over areas, pixel by pixel.

    Interpolation moves variance from a pixel into its covariance with the next, and
    how much depends on where the new pixel lies between the old ones. The sum over
    all distances stays. This sum is the depth of an exposure; weights
    by the variance alone would favour whatever was smoothed most, and the PSF of
    the coadd would change from pixel to pixel.
    """
    variance = np.square(exposure.bkg_error, dtype=float)
    total = float(input_kernel(exposure).sum())
    # Smoothing changes variance and gain by opposite factors, so that their
    # product is that of the exposure before.
    product = variance * exposure.effective_gain
    if total <= 1 or np.ndim(product) == 0:
        return 1 / (variance * max(total, 1))
    good = ~exposure.mask
    mean = np.mean(np.broadcast_to(variance, exposure.shape)[good])
    return np.mean(product[good]) / (mean * total) / product


class Layer:
    """
    Aligned exposure on the grid of the coadd: light above the sky and weights.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        Aligned exposure.

    index : int
        Its number.

    weights : `Weights`
        Weights by exposure and number.
    """

    def __init__(self, exposure, index, weights):
        self.exposure, self.index = exposure, index
        counts = getattr(exposure, 'n_exposures', None)
        covered = np.ones(exposure.shape, bool) if counts is None else counts > 0
        saturated = covered & exposure.saturated
        maps = exposure.maps()
        self.good = covered & ~exposure.mask
        self.data = np.where(self.good, exposure.data - exposure.background, 0.0)
        self.variance = np.square(maps['bkg_error'], dtype=float)
        self.gain = np.asarray(maps['effective_gain'], dtype=float)
        self.weight = np.where(self.good, weights(exposure, index), 0.0)
        self.good = self.weight > 0
        self.n_masked = int(np.sum(covered & exposure.mask & ~saturated))
        self.n_saturated = int(np.sum(saturated))


class CoaddSums:
    """Weighted sums over layers."""

    def __init__(self, shape, psf_shapes=None):
        self.cells = Cells(shape)
        self.psf = PSFMean(self.cells, psf_shapes)
        self.weight, self.total = np.zeros((2, *shape))
        self.variance, self.inverse_gain = np.zeros((2, *shape))
        self.count = np.zeros(shape, dtype=np.int32)
        self.saturated = np.zeros(shape, dtype=bool)
        # By layer: its kernel, and the variance that it adds to each cell.
        self._kernels = []
        self._psf_error = self._background_error = 0.0

    def add(self, layer, weight=None):
        """Add a layer."""
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
        self._kernels.append((input_kernel(layer.exposure), self.cells.sum(share)))
        self.psf.add(layer.exposure, self.cells.sum(weight), layer.index)

    @property
    def mean(self):
        """Weighted mean so far; 0 where nothing counts."""
        return self.total / np.where(self.weight > 0, self.weight, 1)

    def sources(self):
        """Pixels in or near sources, and those without exposures."""
        from scipy.ndimage import binary_dilation

        mean, empty = self.mean, self.count == 0
        level = np.median(mean[~empty])
        noise = np.sqrt(self.variance) / np.where(empty, 1, self.weight)
        bright = ~empty & (mean - level > _SOURCE_SIGMA * noise)
        return empty | binary_dilation(bright, iterations=_SOURCE_MARGIN)

    def _kernel(self):
        """Correlation of the noise, the mean over the pixels."""
        half = max(2, *(len(kernel) // 2 for kernel, _ in self._kernels))
        sums = sum(
            share[..., None, None] * np.pad(kernel, half - len(kernel) // 2)
            for kernel, share in self._kernels
        )
        norm = sums[..., half, half]
        covered = self.cells.sum(self.weight > 0)
        each = sums / np.where(norm > 0, norm, 1)[..., None, None]
        kernel = np.tensordot(covered, each, axes=2) / covered[norm > 0].sum()
        # Rounding must not spoil what holds exactly.
        kernel = (kernel + kernel[::-1, ::-1]) / 2
        return kernel / kernel[half, half]

    def arguments(self, dtype):
        """Return the arguments of the coadd: data, noise and PSF."""
        good = self.count > 0
        if not good.any():
            msg = 'exposures must have good pixels on the grid; no pixel of it has any.'
            raise ValueError(msg)
        if self.psf.lacking:
            warn(
                f'exposures {self.psf.lacking} have no psf, so that the coadd has none '
                'either; give them one, or give the coadd one with replace(psf=...).'
            )
        psf, psf_image = self.psf.finish()
        weight = np.where(good, self.weight, 1.0)
        noise = np.sqrt(np.where(good, self.variance, 1.0)) / weight
        gain = weight**2 / np.where(good, self.inverse_gain, 1.0)
        noise, gain = (
            np.where(good, v, np.median(v[good])).astype(dtype) for v in (noise, gain)
        )
        return {
            'data': np.where(good, self.mean, np.nan).astype(dtype),
            'bkg_error': noise,
            'effective_gain': gain,
            'mask': ~good,
            'saturated': self.saturated & ~good,
            'psf': psf,
            'psf_image': psf_image,
            'noise_kernel': self._kernel(),
            'psf_error': float(self._psf_error / self.weight.sum()),
            'background_error': float(
                np.sqrt(self._background_error / self.variance.sum())
            ),
            'n_exposures': self.count,
        }
