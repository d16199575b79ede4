# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Alignment of the bands of a field on the pixel grid of the reference band.
"""

from bliss_astro._arguments import check_rng
from bliss_astro._threads import map_threads, use_threads
from bliss_astro.exposures import ExposureSet
from bliss_astro.exposures._geometry import grid_offset
from bliss_astro.exposures._set import by_band, choose_reference

from ._align import Resampler, check_exposure
from ._grid import OutputGrid

# Bands whose pixels differ by less (pixels) than what positions are known to are not
# resampled.
_SAME_GRID = 0.005


def align_bands(
    exposures,
    reference=None,
    method='bilinear',
    *,
    calibration=None,
    parallel=False,
    block_size=None,
    n_noise=8,
    rng=None,
    progress_bar=False,
):
    """
    Resample the bands of a field to the pixel grid of the reference band.

    Noise, its correlation, masks and PSFs follow, as in `align_exposures`. The
    reference band, and bands on its grid already, are not resampled.

    Parameters
    ----------
    exposures : dict of str to `~bliss_astro.exposures.Exposure`, or iterable of them
        Exposures by name of their band, or with one, each with a celestial WCS, of any
        shape. A missing band is None.

    reference : str, optional
        Name of the reference band, by default the first that there is.

    method : {'bilinear', 'adaptive', 'exact'}, optional
        Kind of interpolation; see `align_exposures`.

    calibration : dict of str to float, optional
        Factors to the unit of the reference band; see
        `~bliss_astro.exposures.ExposureSet`.

    parallel, block_size, n_noise, rng, progress_bar : optional
        As for `align_exposures`.

    Returns
    -------
    exposures : `~bliss_astro.exposures.ExposureSet`
        Exposures on one grid. A band that was resampled is a `Coadd` of one exposure
        without its sky, with ``meta['resampled']``; pixels that it does not cover are
        bad.

    Raises
    ------
    TypeError, ValueError
        As for `~bliss_astro.exposures.ExposureSet` and `align_exposures`; if a band has
        no WCS, or no good pixel on the grid. The message names the band.

    ImportError
        If ``reproject`` is not installed and the method is one of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.wcs import WCS
    >>> from bliss_astro import Exposure, align_bands
    >>> def image(x):
    ...     wcs = WCS({'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CDELT1': -1e-4,
    ...                'CDELT2': 1e-4, 'CRPIX1': x, 'CRPIX2': 16})
    ...     noise = np.random.default_rng(1).normal(0, 2, (32, 32))
    ...     return Exposure(noise, bkg_error=2, effective_gain=5, wcs=wcs)
    >>> exposures = align_bands({'g': image(16.5), 'r': image(16)}, reference='r')
    >>> exposures
    <ExposureSet 32 x 32 px: r (reference), g>
    >>> resampled = exposures['g']
    >>> resampled.meta['resampled'], round(float(resampled.bkg_error[9, 9]), 3)
    (True, 1.414)
    """
    resample = Resampler(method, parallel, block_size, n_noise)
    rng, found = check_rng(rng), by_band(exposures)
    reference = choose_reference(found, reference)
    names = {band: f'band {band.name!r}' for band in found if found[band]}
    for band in names:
        check_exposure(found[band], f'exposures[{band.name!r}]')
    grid = OutputGrid(found[reference].wcs, found[reference].shape)

    def align(work):
        band, rng = work
        exposure, name = found[band], names[band]
        offset = grid_offset(exposure.wcs, *grid)
        if exposure.shape == grid.shape and offset < _SAME_GRID:
            return
        found[band] = resample(exposure, grid, rng=rng, name=name)
        if found[band] is None:
            msg = f'{name} does not overlap with the reference band {reference.name!r}'
            raise ValueError(f'{msg}, or has no good pixel there.')
        found[band].meta['resampled'] = True

    with use_threads(progress_bar=progress_bar, title='aligning'):
        map_threads(align, zip(names, rng.spawn(len(names)), strict=True))
    return ExposureSet(found, reference=reference.name, calibration=calibration)
