# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Alignment of exposures on a common grid, with their noise, masks and PSFs.
"""

from types import SimpleNamespace

import numpy as np

from bliss_astro._random import check_rng

from ..exposures import Exposure
from ._grid import check_celestial, common_grid, parse_grid
from ._resampling import align_one

__all__ = ['align_exposures', 'iter_aligned']

_METHODS = ('bilinear', 'adaptive', 'exact')


def align_exposures(
    exposures,
    wcs_out=None,
    shape_out=None,
    method='bilinear',
    *,
    parallel=False,
    block_size=None,
    n_noise=8,
    rng=None,
    progress_bar=False,
):
    """
    Resample exposures to a common grid, with their noise, masks and PSFs.

    The pixels are resampled by the package ``reproject``, which has to be
    installed.

    Parameters
    ----------
    exposures : iterable of `~bliss_astro.exposures.Exposure`
        The exposures, each with a celestial WCS, in one unit and one band. They
        may be rotated, flipped, distorted and of another pixel scale.

    wcs_out : `~astropy.wcs.WCS` or `~astropy.io.fits.Header`, optional
        The grid. By default that of the first exposure, extended by whole
        pixels to cover all.

    shape_out : tuple of int, optional
        The shape (ny, nx) of the grid. By default what ``wcs_out`` says.

    method : {'bilinear', 'adaptive', 'exact'}, optional
        Bilinear interpolation; averages over a Gaussian of 0.65 pixels of the
        coarser of both grids; or averages over the area of each output pixel. The
        first is the fastest, and its noise is known exactly.

    parallel : bool, int or str, optional
        Passed to ``reproject``: whether, or in how many threads, blocks are
        resampled in parallel, or ``'current-scheduler'`` for that of dask.

    block_size : tuple of int or 'auto', optional
        Passed to ``reproject``: the size of these blocks.

    n_noise : int, optional
        Realisations of the noise, at least, by which that of the methods
        other than bilinear is measured. Small images get more.

    rng : int, `numpy.random.Generator` or None, optional
        For these realisations.

    progress_bar : bool, optional
        Show progress.

    Returns
    -------
    aligned : list of `AlignedExposure`
        The exposures on the grid. A pixel is bad if it lies outside the exposure,
        or if a bad pixel contributes to it with a weight of more than a
        thousandth.

    Raises
    ------
    TypeError
        If ``exposures`` holds something else, or ``wcs_out`` is no WCS.

    ValueError
        If there are no exposures; if one has no WCS or none of the sky, another
        unit or band than the first, no good pixel on the grid, or pixels more than
        twice as wide, or less than half as wide, as those of the grid; or if
        another argument has an impossible value.

    ImportError
        If ``reproject`` is not installed.

    See Also
    --------
    iter_aligned : The same, one after the other.
    coadd_exposures : Also takes their mean.

    Notes
    -----
    An output pixel is :math:`J \\sum_a w_a x_a` with weights of sum one and the
    number J of input pixels that fit into it, from the derivatives of the
    mapping: surface brightness is interpolated, flux conserved. In a unit of surface
    brightness (per solid angle or per beam) J is 1. The
    variance is :math:`J^2 \\sum_a w_a^2 \\sigma_a^2` (for bilinear weights; the
    covariances of a correlated input are added), and the effective gain
    such that the noise of sources is reduced as that of the sky.

    For 'adaptive' and 'exact' the reduction of the variance is averaged over
    25 x 25 pixels, as few realisations say nothing about a single one.

    Pixel scales that differ by more than a factor of two are refused: with
    coarser pixels, interpolation would leave out part of the data; with
    finer ones, noise would be correlated beyond the two pixels that are kept.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.wcs import WCS
    >>> from bliss_astro import Exposure
    >>> from bliss_astro.coadds import align_exposures
    >>> def coordinates(x, y):
    ...     return WCS({'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CDELT1': -1e-4,
    ...                 'CDELT2': 1e-4, 'CRPIX1': x, 'CRPIX2': y})
    >>> rng = np.random.default_rng(1)
    >>> exposures = [
    ...     Exposure(rng.normal(0, 2, (32, 32)), bkg_error=2, effective_gain=5,
    ...              wcs=coordinates(*crpix))
    ...     for crpix in ((16, 16), (16.5, 16))
    ... ]
    >>> one, two = align_exposures(exposures)
    >>> two.shape, round(float(two.bkg_error[10, 10]), 3)
    ((32, 32), 1.414)
    >>> [round(float(c), 3) + 0 for c in two.noise_correlation]
    [0.5, 0.0]
    """
    aligned = iter_aligned(
        exposures,
        wcs_out,
        shape_out,
        method,
        parallel=parallel,
        block_size=block_size,
        n_noise=n_noise,
        rng=rng,
        progress_bar=progress_bar,
    )
    return list(aligned)


def iter_aligned(
    exposures,
    wcs_out=None,
    shape_out=None,
    method='bilinear',
    *,
    parallel=False,
    block_size=None,
    n_noise=8,
    rng=None,
    progress_bar=False,
):
    """
    Resample exposures to a common grid, one after the other.

    With ``wcs_out``, ``exposures`` may be a generator that reads them when they
    are needed, so that only one is in memory.

    Parameters
    ----------
    exposures, wcs_out, shape_out, method : object
        See `align_exposures`.

    parallel, block_size, n_noise, rng, progress_bar : object
        See `align_exposures`.

    Returns
    -------
    aligned : iterator of `AlignedExposure`
        The exposures on the grid.

    Raises
    ------
    TypeError
        See `align_exposures`.

    ValueError
        See `align_exposures`. What is wrong with an exposure of a generator
        is found when its turn comes.

    See Also
    --------
    align_exposures : The same as a list.
    """
    check_method(method, n_noise)
    if isinstance(exposures, Exposure):
        exposures = [exposures]
    try:
        exposures = iter(exposures) if wcs_out is not None else list(exposures)
    except TypeError:
        msg = (
            'exposures must be a list (or another iterable) of Exposure; got '
            f'{type(exposures).__name__}.'
        )
        raise TypeError(msg) from None
    if wcs_out is None:
        if not exposures:
            msg = 'exposures must not be empty.'
            raise ValueError(msg)
        for k, exposure in enumerate(exposures):
            _check_exposure(exposure, k, exposures[0])
        footprints = [(exposure.wcs, exposure.shape) for exposure in exposures]
        grid = common_grid(footprints, shape_out)
    else:
        grid = parse_grid(wcs_out, shape_out)
    options = {
        'method': method,
        'parallel': parallel,
        'block_size': block_size,
        'n_noise': n_noise,
        'rng': check_rng(rng),
    }
    return _generate(exposures, grid, options, progress_bar)


def _generate(exposures, grid, options, progress_bar):
    """Align one exposure after the other."""
    if progress_bar:
        from tqdm.auto import tqdm

        exposures = tqdm(exposures, desc='aligning', unit='exposure')
    first = None
    for k, exposure in enumerate(exposures):
        _check_exposure(exposure, k, exposure if first is None else first)
        if first is None:
            # Without its pixels, as only one exposure shall be in memory.
            first = SimpleNamespace(unit=exposure.unit, meta=exposure.meta)
        aligned = align_one(exposure, *grid, index=k, **options)
        if aligned is None:
            msg = (
                f'exposures[{k}] does not overlap with the grid of wcs_out and '
                f'shape_out={grid.shape}, or has no good pixel there. Leave it out.'
            )
            raise ValueError(msg)
        yield aligned
    if first is None:
        msg = 'exposures must not be empty.'
        raise ValueError(msg)


def check_method(method, n_noise):
    """Check the arguments that say how exposures are resampled."""
    if method not in _METHODS:
        msg = f'method must be one of {", ".join(map(repr, _METHODS))}; got {method!r}.'
        raise ValueError(msg)
    whole = isinstance(n_noise, (int, np.integer)) and not isinstance(n_noise, bool)
    if not (whole and n_noise >= 1):
        msg = f'n_noise must be an integer of at least 1; got {n_noise!r}.'
        raise ValueError(msg)


def _check_exposure(exposure, index, first):
    """Check that an exposure can be aligned with the first."""
    if not isinstance(exposure, Exposure):
        msg = f'exposures[{index}] must be an Exposure; got {type(exposure).__name__}.'
        raise TypeError(msg)
    check_celestial(exposure.wcs, index)
    if exposure.unit != first.unit:
        msg = (
            f'exposures must have one unit; exposures[0] is in {first.unit} and '
            f'exposures[{index}] in {exposure.unit}.'
        )
        raise ValueError(msg)
    for key in ('band', 'filter'):
        one, two = first.meta.get(key), exposure.meta.get(key)
        if one is not None and two is not None and one != two:
            msg = (
                f'exposures must be of one band; meta[{key!r}] is {one!r} in '
                f'exposures[0] and {two!r} in exposures[{index}].'
            )
            raise ValueError(msg)
