# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Resampling of one exposure by the package ``reproject``.
"""

import numpy as np

from bliss_astro._random import check_rng

from ._aligned import AlignedExposure, AlignedPSF
from ._grid import OutputGrid, PixelMapping, check_celestial
from ._noise import bilinear_noise, sampled_noise

__all__ = ['align_one']

# A pixel of the output may be so many times as wide as one of the input.
_LARGEST_SCALE = 2.0

# An output pixel has data if this share of its area has, where it counts.
_COVERED = 0.999


def align_one(
    exposure,
    wcs_out,
    shape_out,
    *,
    method='bilinear',
    parallel=False,
    block_size=None,
    n_noise=8,
    rng=None,
    index=0,
):
    """Resample one exposure; see `align_exposures`."""
    check_celestial(exposure.wcs, index)
    grid = OutputGrid(wcs_out, tuple(shape_out))
    box = grid.box(exposure.wcs, exposure.shape)
    if box is None:
        return None
    wcs_box = grid.cut(box)
    shape = tuple(part.stop - part.start for part in box)
    mapping = PixelMapping(wcs_box, exposure.wcs, shape)

    def resample(stack):
        return _reproject(
            stack, exposure.wcs, wcs_box, shape, method, parallel, block_size
        )

    sky_free = np.where(exposure.mask, 0.0, exposure.data - exposure.background)
    if method == 'bilinear':
        image = resample(sky_free)
        noise = bilinear_noise(exposure, mapping)
    else:
        planes, covered = _planes(exposure, sky_free, resample)
        image = planes.pop('image')
        noise = sampled_noise(
            exposure,
            mapping,
            planes,
            covered,
            resample,
            n_noise=int(n_noise),
            rng=check_rng(rng),
        )
    good = noise.coverage & ~noise.bad
    if not good.any():
        return None
    _check_scale(noise.area[good], index)
    return _build(exposure, grid, box, image, noise, method)


def _reproject(stack, wcs_in, wcs_out, shape, method, parallel, block_size):
    """Resample the surface brightness of an image or of a stack of them."""
    import reproject

    function = {
        'bilinear': reproject.reproject_interp,
        'adaptive': reproject.reproject_adaptive,
        'exact': reproject.reproject_exact,
    }[method]
    arguments = {
        'shape_out': (*stack.shape[:-2], *shape),
        'return_footprint': method == 'exact',
        'parallel': parallel,
        'block_size': block_size,
    }
    if method != 'exact':
        # The grid was cut to where the exposure is: nothing comes back from
        # the other side of the sky.
        arguments['roundtrip_coords'] = False
    result = function((np.ascontiguousarray(stack), wcs_in), wcs_out, **arguments)
    if method != 'exact':
        return result
    image, footprint = result
    return np.where(footprint > _COVERED, image, np.nan)


def _planes(exposure, sky_free, resample):
    """Resample all maps of an exposure, in one go."""
    planes = {'image': sky_free, 'bad': exposure.mask}
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


def _check_scale(area, index):
    """Check that the pixels of both grids have about one size."""
    scale = float(np.sqrt(np.median(area)))
    if not 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE:
        how = f'{scale:.3g} times as wide as'
        msg = (
            f'the pixels of the grid are {how} those of exposures[{index}]; allowed '
            f'is {1 / _LARGEST_SCALE} to {_LARGEST_SCALE}. Bin the finer image first, '
            'or give a wcs_out in between.'
        )
        raise ValueError(msg)


def _build(exposure, grid, box, image, noise, method):
    """Put all that was computed for a part of the grid into an exposure."""
    good = noise.coverage & ~noise.bad
    dtype = exposure.data.dtype

    def spread(values, rest, kind=dtype):
        whole = np.full(grid.shape, rest, dtype=kind)
        whole[box] = values
        return whole

    def sound(values):
        # Bad pixels and those without data have a value that harms nobody.
        usual = np.median(values[good])
        return spread(np.where(good, values, usual), usual)

    psf = None
    if exposure.psf is not None:
        psf = AlignedPSF(
            exposure._psf_access, grid.wcs, exposure.wcs, exposure.shape, method=method
        )
    coverage = spread(noise.coverage, False, bool)
    return AlignedExposure(
        spread(np.where(noise.coverage, image * noise.scale, np.nan), np.nan),
        bkg_error=sound(np.sqrt(noise.variance)),
        effective_gain=sound(noise.gain),
        read_noise=float(np.median(exposure.read_noise)),
        mask=~coverage | spread(noise.bad, False, bool),
        saturated=spread(noise.saturated, False, bool),
        psf=psf,
        wcs=grid.wcs,
        unit=exposure.unit,
        noise_kernel=noise.kernel,
        psf_error=exposure.psf_error,
        background_error=_background_error(exposure, noise, good),
        coverage=coverage,
        meta=exposure.meta | {'align_method': method},
    )


def _background_error(exposure, noise, good):
    """Error of the sky in units of the new noise, which resampling reduces."""
    level = exposure.background_error * float(np.median(exposure.bkg_error))
    scale = np.median(noise.scale[good] / np.sqrt(noise.variance[good]))
    return level * float(scale)
