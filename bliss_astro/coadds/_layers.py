# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Layers of a coadd: aligned exposures one at a time, their weights and sums.
"""

import dataclasses

import numpy as np

from bliss_astro._random import check_rng
from bliss_astro._warnings import warn
from bliss_astro.exposures import Exposure

from ._grid import check_celestial, common_grid, parse_grid
from ._noise import input_kernel
from ._psf import Cells, PSFMean
from ._resampling import align_one

__all__ = []

# Pixels so many sigma above the sky belong to a source, as do those around them.
_SOURCE_SIGMA, _SOURCE_MARGIN = 3.5, 4


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
        Coefficients of `~bliss_astro.coadds._matching.fit_sky` taken off its sky.
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

    Interpolation moves variance from a pixel into its covariance with the next, and
    how much depends on where the new pixel lies between the old ones. The sum over
    all distances stays. It is this sum that says how deep an exposure is; weights
    by the variance alone would favour whatever was smoothed most, and the PSF of
    the coadd would change from pixel to pixel.
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
    """Put a kernel into the middle of a larger one of zeros."""
    return np.pad(kernel, (shape[0] - len(kernel)) // 2)


class CoaddSums:
    """Weighted sums over layers."""

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
        """Find the pixels in or near sources, and those without exposures."""
        from scipy.ndimage import binary_dilation

        mean, empty = self.mean, self.count == 0
        level = np.median(mean[~empty])
        noise = np.sqrt(self.variance) / np.where(empty, 1, self.weight)
        bright = ~empty & (mean - level > _SOURCE_SIGMA * noise)
        return empty | binary_dilation(bright, iterations=_SOURCE_MARGIN)

    def kernel(self):
        """Return the correlation of the coadd's noise, the mean over its pixels."""
        middle = tuple(n // 2 for n in self._kernel.shape[2:])
        norm = self._kernel[(..., *middle)]
        covered = self.cells.sum(self.weight > 0)
        each = self._kernel / np.where(norm > 0, norm, 1)[..., None, None]
        kernel = np.tensordot(covered, each, axes=2) / covered[norm > 0].sum()
        # Rounding must not spoil what holds exactly.
        kernel = (kernel + kernel[::-1, ::-1]) / 2
        return kernel / kernel[middle]


# Grids whose corners agree to this many pixels are one grid.
_SAME_GRID = 1e-6


class Stream:
    """The exposures as layers on the grid of the coadd, again for each pass."""

    def __init__(self, exposures, *, weighting, scale, align, rng, progress_bar):
        iterable = hasattr(exposures, '__iter__') or hasattr(exposures, '__getitem__')
        if isinstance(exposures, Exposure) or not iterable:
            msg = (
                'exposures must be a list (or another iterable) of Exposure; got '
                f'{type(exposures).__name__}.'
            )
            raise TypeError(msg)
        self.exposures = exposures
        self.weighting = weighting
        self.scale = scale
        self.align = align
        self.progress_bar = progress_bar
        # The simulations of both passes have to agree.
        self.seed = int(check_rng(rng).integers(2**31))
        self.reports = {}
        self.count = 0
        self.dtype = np.dtype(np.float32)

    def set_grid(self, wcs_out, shape_out, *, n_passes):
        """Settle the grid of the coadd, if need be by looking at all exposures."""
        once = iter(self.exposures) is self.exposures
        if once and (n_passes > 1 or wcs_out is None):
            why = 'with sigma_clip' if n_passes > 1 else 'without wcs_out'
            msg = (
                'exposures must be a list, or another iterable that can be gone '
                f'through twice, {why}; got {type(self.exposures).__name__}.'
            )
            raise TypeError(msg)
        if wcs_out is None and shape_out is not None:
            msg = 'shape_out needs wcs_out, the coordinates of that image.'
            raise ValueError(msg)
        if wcs_out is None:
            self.wcs, self.shape = self._find_grid()
        else:
            self.wcs, self.shape = parse_grid(wcs_out, shape_out)

    def _find_grid(self):
        """Take the grid that all share, or one that covers all."""
        footprints = []
        for k, exposure in enumerate(self.exposures):
            _check_exposure(exposure, k)
            footprints.append((exposure.wcs, exposure.shape))
        if not footprints:
            msg = 'exposures must not be empty.'
            raise ValueError(msg)
        wcs, shape = footprints[0]
        if all(
            own_shape == shape and same_grid(own, wcs, shape)
            for own, own_shape in footprints
        ):
            return wcs, shape
        return common_grid(footprints, None)

    def layers(self, *, first):
        """Give the layers of all exposures that lie on the grid."""
        count = 0
        for k, exposure in enumerate(self._bar(first)):
            count = k + 1
            _check_exposure(exposure, k)
            aligned = self._aligned(self.scale.apply(exposure, k), k)
            if aligned is None:
                if first:
                    msg = f'exposure {k} does not lie on the grid and is left out.'
                    warn(msg)
                continue
            layer = Layer.of(aligned, k, self.weighting)
            self.reports[k] = (layer.n_masked, layer.n_saturated)
            self.dtype = np.result_type(self.dtype, exposure.data.dtype)
            yield layer
        self.count = count
        if count == 0:
            msg = 'exposures must not be empty.'
            raise ValueError(msg)
        self.weighting.check_length(count)
        self.scale.check_length(count)

    def _bar(self, first):
        """Iterate over the exposures, with a progress bar if wanted."""
        if not self.progress_bar:
            return self.exposures
        from tqdm.auto import tqdm

        return tqdm(
            self.exposures, desc='adding' if first else 'clipping', unit='exposure'
        )

    def _aligned(self, exposure, k):
        """Align one exposure, or return `None` if it is elsewhere."""
        if exposure.shape == self.shape and same_grid(
            exposure.wcs, self.wcs, self.shape
        ):
            return exposure
        rng = np.random.default_rng([self.seed, k])
        return align_one(exposure, self.wcs, self.shape, index=k, rng=rng, **self.align)


def _check_exposure(exposure, k):
    """Refuse what cannot be put on a grid."""
    if not isinstance(exposure, Exposure):
        msg = f'exposures[{k}] must be an Exposure; got {type(exposure).__name__}.'
        raise TypeError(msg)
    check_celestial(exposure.wcs, k)


def same_grid(one, other, shape):
    """Tell whether the pixels of two WCS lie on each other."""
    if one is other:
        return True
    ny, nx = shape
    x, y = (
        part.ravel().astype(float)
        for part in np.meshgrid([0, (nx - 1) / 2, nx - 1], [0, (ny - 1) / 2, ny - 1])
    )
    low, low_other = (getattr(w, 'low_level_wcs', w) for w in (one, other))
    try:
        back = low.world_to_pixel_values(*low_other.pixel_to_world_values(x, y))
    except Exception:  # noqa: BLE001 - places that one of them does not reach
        return False
    off = np.abs(np.array(back) - [x, y])
    return bool(np.all(off < _SAME_GRID))


class Weighting:
    """Gives the weights of an exposure."""

    def __init__(self, name, numbers=None):
        self.name = name
        self.numbers = numbers

    def __call__(self, exposure, index):
        """Return the weight of an aligned exposure, a number or a map."""
        if self.name == 'inverse_variance':
            return depth_weights(exposure, index)
        if self.numbers is None:
            return 1.0
        if index >= len(self.numbers):
            self.check_length(index + 1)
        return self.numbers[index]

    def check_length(self, count):
        """Check that there is a number for each exposure."""
        if self.numbers is not None and len(self.numbers) != count:
            more = 'at least ' if count > len(self.numbers) else ''
            msg = (
                f'weights must have a number for each of {more}{count} exposures; got '
                f'{len(self.numbers)}.'
            )
            raise ValueError(msg)


def check_weights(weights):
    """Check weights."""
    problem = None
    if isinstance(weights, str):
        if weights in ('inverse_variance', 'uniform'):
            return Weighting(weights)
        problem = f'got {weights!r}'
    else:
        try:
            numbers = np.array(weights, dtype=float)
        except (TypeError, ValueError):
            numbers = np.array(np.nan)
        if numbers.ndim != 1:
            problem = f'got {weights!r:.60}'
        elif not (np.isfinite(numbers).all() and (numbers >= 0).all()):
            problem = 'some are negative or not finite'
        elif not numbers.any():
            problem = 'all are 0'
    if problem is not None:
        msg = (
            "weights must be 'inverse_variance', 'uniform' or a number, not negative, "
            f'for each exposure; {problem}.'
        )
        raise ValueError(msg)
    return Weighting(numbers.tolist(), numbers)
