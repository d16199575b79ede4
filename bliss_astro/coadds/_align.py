# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Alignment of exposures on a common grid, with their noise, masks and PSFs.
"""

import numpy as np

from bliss_astro._arguments import (
    check_choice,
    check_integer,
    check_rng,
    require,
    require_type,
)
from bliss_astro.exposures import Exposure

from ._coadd import Coadd
from ._grid import PixelMapping, check_any, output_grid
from ._noise import resample_bilinear, sampled_noise, value_scale
from ._psf import AlignedPSF

_METHODS = ('bilinear', 'adaptive', 'exact')
# A pixel of the output may be so many times as wide as one of the input.
_LARGEST_SCALE = 2.0
# An output pixel has data if this share of its area has, where it counts.
_COVERED = 0.999
# Keys under which the meta of an exposure may name its band.
_BAND_KEYS = ('band', 'BAND', 'filter', 'FILTER')


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

    Parameters
    ----------
    exposures : iterable of `~bliss_astro.exposures.Exposure`, or one
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
        first is the fastest, and its noise is known exactly; the others are those of
        the package ``reproject``, which has to be installed for them.

    parallel : bool, int or str, optional
        Passed to ``reproject`` by its methods: whether, or in how many threads,
        blocks are resampled in parallel, or ``'current-scheduler'`` for that of dask.

    block_size : tuple of int or 'auto', optional
        Passed to ``reproject`` too: the size of these blocks.

    n_noise : int, optional
        Realisations of the noise, at least, by which that of the methods
        other than bilinear is measured. Small images get more.

    rng : int, `numpy.random.Generator` or None, optional
        For these realisations.

    progress_bar : bool, optional
        Show progress.

    Returns
    -------
    aligned : list of `Coadd`
        The exposures on the grid, each a coadd of one, without its sky
        (``background`` is 0). A pixel holds the flux per pixel of the new grid, so that
        a source keeps its flux. It is bad if it lies outside the exposure, where
        ``n_exposures`` is 0, or if a bad pixel contributes to it with a weight of more
        than a thousandth.

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
        If ``reproject`` is not installed and the method is one of its own.

    See Also
    --------
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

    ``bkg_error`` is the noise of single pixels, which resampling reduces. The
    noise of a sum over many pixels is ``bkg_error * sqrt(noise_kernel.sum())``
    times the square root of their number, which it does not.

    With ``wcs_out`` exposures can be aligned one by one, with only one in memory.

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
    if isinstance(exposures, Exposure):
        exposures = [exposures]
    check_iterable(exposures)
    resample = Resampler(method, parallel, block_size, n_noise)
    exposures = list(exposures)
    check_any(exposures)
    band = None
    for k, exposure in enumerate(exposures):
        check_exposure(exposure, f'exposures[{k}]')
        band = common_band(exposure, k, band)
        if exposure.unit != exposures[0].unit:
            units = f'exposures[0] is in {exposures[0].unit} and exposures[{k}] in'
            raise ValueError(f'exposures must have one unit; {units} {exposure.unit}.')
    footprints = [(exposure.wcs, exposure.shape) for exposure in exposures]
    grid = output_grid(footprints, wcs_out, shape_out)
    rng, results = check_rng(rng), []
    for k, exposure in enumerate(with_progress(exposures, 'aligning', progress_bar)):
        aligned = resample(exposure, grid, rng=rng, name=f'exposures[{k}]')
        if aligned is None:
            msg = (
                f'exposures[{k}] does not overlap with the grid of {grid.shape} '
                'pixels, or has no good pixel there. Leave it out.'
            )
            raise ValueError(msg)
        results.append(aligned)
    return results


def check_iterable(exposures):
    """Check that exposures can be gone through."""
    iterable = hasattr(exposures, '__iter__') or hasattr(exposures, '__getitem__')
    sound = iterable and not isinstance(exposures, Exposure)
    allowed = 'be a list (or another iterable) of Exposure'
    require(sound, 'exposures', allowed, type(exposures).__name__, TypeError)


def check_exposure(exposure, name):
    """Check that an exposure can be aligned."""
    require_type(name, exposure, Exposure)
    if exposure.wcs is None:
        msg = f'{name} has no wcs; give it one with replace(wcs=...).'
        raise ValueError(msg)


def common_band(exposure, k, band):
    """Return the band, or its name, of exposures so far; refuse different ones."""
    named = (exposure.meta.get(key) for key in _BAND_KEYS)
    own = next((str(name).strip() for name in named if name is not None), band)
    own = exposure.band or own
    # Where one is a mere text, by name.
    same = own == band if type(own) is type(band) else str(own) == str(band)
    if band is not None and not same:
        if (names := (str(own), str(band)))[0] == names[1]:
            names = own, band
        bands = f'exposures[{k}] is in {names[0]!r}, those before it in {names[1]!r}'
        raise ValueError(f'exposures differ in band: {bands}; give lists by band.')
    return own if band is None else band


def with_progress(exposures, title, shown):
    """Iterate over exposures, with a progress bar if it is shown."""
    from tqdm.auto import tqdm

    return tqdm(exposures, desc=title, unit='exposure', disable=not shown)


class Resampler:
    """Resampling of exposures; see `align_exposures`."""

    def __init__(self, method, parallel, block_size, n_noise):
        check_choice('method', method, _METHODS)
        self.method = method
        self.n_noise = check_integer('n_noise', n_noise, 1, error=ValueError)
        self._options = {'parallel': parallel, 'block_size': block_size}

    def __call__(self, exposure, grid, *, rng, name):
        """Return an exposure on a grid, or `None` if it has no good pixel there."""
        box = grid.box(exposure.wcs, exposure.shape)
        if box is None:
            return None
        wcs = grid.cut(box)
        shape = tuple(part.stop - part.start for part in box)
        mapping = PixelMapping(wcs, exposure.wcs, shape)

        def resample(stack):
            return self.reproject(stack, exposure.wcs, wcs, shape)

        if self.method == 'bilinear':
            image, noise = resample_bilinear(exposure, mapping)
        else:
            planes, covered = _resample_maps(exposure, resample)
            image = planes.pop('image')
            how = {'n_noise': self.n_noise, 'rng': rng}
            noise = sampled_noise(exposure, mapping, planes, covered, resample, **how)
        good = noise.coverage & ~noise.bad
        if not good.any():
            return None
        _check_scale(noise.area[good], name)
        return _build(exposure, grid, box, image, noise, self.method)

    def reproject(self, stack, wcs_in, wcs_out, shape):
        """Resample the surface brightness of an image or of a stack of them."""
        import reproject

        images = np.ascontiguousarray(stack), wcs_in
        options = self._options | {'shape_out': (*stack.shape[:-2], *shape)}
        if self.method == 'exact':
            image, footprint = reproject.reproject_exact(images, wcs_out, **options)
            return np.where(footprint > _COVERED, image, np.nan)
        # The grid was cut to where the exposure is: nothing comes back from
        # the other side of the sky.
        options |= {'return_footprint': False, 'roundtrip_coords': False}
        return reproject.reproject_adaptive(images, wcs_out, **options)


def _resample_maps(exposure, resample):
    """Resample all maps of an exposure, in one go."""
    image = np.where(exposure.mask, 0.0, exposure.data - exposure.background)
    planes = {'image': image, 'bad': exposure.mask}
    if exposure.saturated.any():
        planes['saturated'] = exposure.saturated
    if np.ndim(exposure.bkg_error):
        planes['variance'] = np.square(exposure.bkg_error, dtype=float)
    if np.ndim(exposure.effective_gain):
        planes['gain'] = exposure.effective_gain
    stack = resample(np.stack([np.asarray(v, dtype=float) for v in planes.values()]))
    covered = np.isfinite(stack[0])
    stack[:, ~covered] = 0.0
    return dict(zip(planes, stack, strict=True)), covered


def _check_scale(area, name):
    """Check that the pixels of both grids have about one size."""
    scale = float(np.sqrt(np.median(area)))
    if not 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE:
        msg = (
            f'the pixels of the grid are {scale:.3g} times as wide as those of '
            f'{name}; allowed is {1 / _LARGEST_SCALE} to {_LARGEST_SCALE}. '
            'Bin the finer image first, or choose a grid in between.'
        )
        raise ValueError(msg)


def _build(exposure, grid, box, image, noise, method):
    """Put all that was computed for a part of the grid into a coadd of one."""
    covered, good = noise.coverage, noise.coverage & ~noise.bad
    scale = value_scale(exposure.unit, noise.area)

    def spread(values, rest, kind=exposure.data.dtype):
        whole = np.full(grid.shape, rest, dtype=kind)
        whole[box] = values
        return whole

    def known(values, where):
        return spread(np.where(where, values, np.nan), np.nan)

    psf = None
    if exposure.psf is not None:
        access = exposure._psf_access
        psf = AlignedPSF(access, grid.wcs, exposure.wcs, exposure.shape, method)
    # Error of the sky in units of the new noise, which resampling reduces.
    level = exposure.background_error * float(np.median(exposure.bkg_error))
    level *= float(np.median(scale[good] / np.sqrt(noise.variance[good])))
    return Coadd(
        known(image * scale, covered),
        bkg_error=known(np.sqrt(noise.variance), good),
        effective_gain=known(noise.gain, good),
        read_noise=float(np.median(exposure.read_noise)),
        mask=spread(~good, True, bool),
        saturated=spread(noise.saturated, False, bool),
        psf=psf,
        wcs=grid.wcs,
        unit=exposure.unit,
        noise_kernel=noise.kernel,
        psf_error=exposure.psf_error,
        background_error=level,
        band=exposure.band,
        n_exposures=spread(covered, 0, np.int32),
        meta=exposure.meta | {'align_method': method},
    )
