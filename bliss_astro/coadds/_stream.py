# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures as layers on the grid of a coadd, one at a time.
"""

import numpy as np

from bliss_astro._random import check_rng
from bliss_astro._warnings import warn
from bliss_astro.exposures import Exposure

from ._align_one import align_one
from ._resampled_grid import check_celestial, common_grid, parse_grid
from ._sums import Layer, depth_weights

__all__ = []

# Grids whose corners agree to this many pixels are one grid.
_SAME_GRID = 1e-6


class Stream:
    """
    The exposures as layers on the grid of the coadd, again for each pass.

    Parameters
    ----------
    exposures : iterable of `~bliss_astro.exposures.Exposure`
        The exposures.

    weighting : `Weighting`
        Their weights.

    scale : `bliss_astro.coadds._scale.FluxScale`
        Their scale of flux.

    align : dict
        What alignment is told.

    rng : int, `numpy.random.Generator` or None
        For the simulations of the alignment.

    progress_bar : bool
        Whether to show progress.

    Attributes
    ----------
    wcs, shape : object
        The grid, once `set_grid` was called.

    reports : dict of int to tuple of int
        Numbers of masked and saturated pixels of each exposure on the grid.

    count : int
        How many exposures there are.

    dtype : `~numpy.dtype`
        The widest type of their data.
    """

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
        """
        Settle the grid of the coadd, if need be by looking at all exposures.

        Parameters
        ----------
        wcs_out, shape_out : object
            What was asked for, or `None`.

        n_passes : int
            How often the exposures will be gone through.
        """
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
        """
        Take the grid that all share, or one that covers all.
        """
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
        """
        Give the layers of all exposures that lie on the grid.

        Parameters
        ----------
        first : bool
            Whether this is the first pass, in which warnings are given.

        Yields
        ------
        layer : `bliss_astro.coadds._sums.Layer`
            The exposures, one by one.
        """
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
        """
        Go through the exposures, with a bar if it was asked for.
        """
        if not self.progress_bar:
            return self.exposures
        from tqdm.auto import tqdm

        return tqdm(
            self.exposures, desc='adding' if first else 'clipping', unit='exposure'
        )

    def _aligned(self, exposure, k):
        """
        Align one exposure, or return `None` if it is elsewhere.
        """
        if exposure.shape == self.shape and same_grid(
            exposure.wcs, self.wcs, self.shape
        ):
            return exposure
        rng = np.random.default_rng([self.seed, k])
        return align_one(exposure, self.wcs, self.shape, index=k, rng=rng, **self.align)


def _check_exposure(exposure, k):
    """
    Refuse what cannot be put on a grid.
    """
    if not isinstance(exposure, Exposure):
        msg = f'exposures[{k}] must be an Exposure; got {type(exposure).__name__}.'
        raise TypeError(msg)
    check_celestial(exposure.wcs, k)


def same_grid(one, other, shape):
    """
    Tell whether the pixels of two WCS lie on each other.

    Parameters
    ----------
    one, other : WCS
        The coordinates.

    shape : tuple of int
        The shape of the image.

    Returns
    -------
    same : bool
        Whether corners, centre and edges of an image agree.
    """
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
    """
    Gives the weights of an exposure.

    Parameters
    ----------
    numbers : 1D array or None
        A number for each exposure.

    name : str or list
        What was asked for, for the record.
    """

    def __init__(self, name, numbers=None):
        self.name = name
        self.numbers = numbers

    def __call__(self, exposure, index):
        """
        Return the weight of an aligned exposure, a number or a map.
        """
        if self.name == 'inverse_variance':
            return depth_weights(exposure, index)
        if self.numbers is None:
            return 1.0
        if index >= len(self.numbers):
            self.check_length(index + 1)
        return self.numbers[index]

    def check_length(self, count):
        """
        Check that there is a number for each exposure.
        """
        if self.numbers is not None and len(self.numbers) != count:
            more = 'at least ' if count > len(self.numbers) else ''
            msg = (
                f'weights must have a number for each of {more}{count} exposures; got '
                f'{len(self.numbers)}.'
            )
            raise ValueError(msg)


def check_weights(weights):
    """
    Check weights.

    Parameters
    ----------
    weights : str or 1D array_like
        What was given.

    Returns
    -------
    weighting : `Weighting`
        The weights.
    """
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
