# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of the prior that is given of an image: flux floor and density of sources.
"""

import astropy.units as u
import numpy as np
import scipy

from bliss_astro._arguments import check_number, must
from bliss_astro.exposures._psf import central_psf
from bliss_astro.exposures._validate import check_map, strip_unit

# Pixels above so many sigma belong to a source, as in SExtractor by default, and what
# has less than that signal-to-noise ratio may be noise.
_SEGMENT, _FAINT_SNR = 1.5, 10.0
# Largest flux of a source over what these pixels hold of it.
_MAX_LOSS = 2.0


def check_flux_min(flux_min, exposure):
    """Flux floor in the unit of an exposure (float), or `None`."""
    if flux_min is None:
        return None
    unit = exposure.unit
    flux_min = strip_unit('flux_min', flux_min, unit, unit is not None)
    flux_min = check_number('flux_min', flux_min, sign='positive')
    # That of a mosaic was checked against all of it.
    if 'part_of' not in exposure.meta:
        check_brightest(flux_min, *light_of(exposure))
    return flux_min


def light_of(exposure):
    """Flux of the brightest source of an exposure, about, and that of a faint one."""
    light = np.where(exposure.mask, 0.0, exposure.data - exposure.background)
    labels, n = scipy.ndimage.label(
        light > _SEGMENT * exposure.bkg_error, np.ones((3, 3))
    )
    sums = scipy.ndimage.sum_labels(light, labels, np.arange(1, n + 1))
    area = central_psf(exposure).n_eff
    faint = _FAINT_SNR * np.median(exposure.bkg_error) * np.sqrt(area)
    return float(np.max(sums, initial=0.0)), float(faint)


def check_brightest(flux_min, brightest, faint):
    """Refuse a flux floor above the brightest source."""
    # Above what is there it makes of every source a brighter one; an image without
    # sources may have any, and pixels above a threshold lack some of a source's light.
    if brightest > faint and flux_min > _MAX_LOSS * brightest:
        allowed = f'be below the flux of the brightest source, about {brightest:.3g}'
        raise ValueError(must('flux_min', allowed, f'{flux_min:g}'))


def check_density(density, exposure):
    """Prior density per pixel as a float array, 0D or of the exposure's shape."""
    if density is None:
        return None
    density = strip_unit('density', density, u.pix**-2)
    density = check_map(
        'density', density, exposure.shape, good=True, sign='not negative'
    )
    if not np.max(density) > 0:
        raise ValueError(must('density', 'be positive somewhere', 'zeros'))
    return np.asarray(density, dtype=float)
