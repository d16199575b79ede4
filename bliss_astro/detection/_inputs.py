# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From whatever a person has to an `Exposure`.
"""

import numpy as np

from bliss_astro._messages import counted
from bliss_astro.exposures._read import exposure_of

from ._psf import psf_of_stars

__all__ = ['as_exposure']

# Light only adds, so no sky is that many sigma below the background; and
# no star is that many above it.
_FAR_BELOW = -20.0
_FAR_ABOVE = 1e7


def as_exposure(data, **given):
    """
    Make an exposure of an image and what is known of it.

    Parameters
    ----------
    data : object
        A path, HDU, list of HDUs, Cutout2D, `~bliss_astro.exposures.Exposure`,
        NDData, Quantity or array.

    **given
        Keywords of `detect_sources` about the image; those that are `None` are
        estimated.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything that a measurement needs.

    estimated : dict of str to str
        What was not given, and where it comes from.
    """
    given = {name: value for name, value in given.items() if value is not None}
    error = given.get('psf_error')
    estimated = {}
    exposure = exposure_of(data, given, estimated)
    exposure = _without_impossible(exposure, estimated)
    if exposure.psf is None:
        psf, found = psf_of_stars(exposure, estimated)
        exposure = exposure.replace(
            psf=psf, psf_error=found if error is None else error
        )
    return exposure, estimated


def _without_impossible(exposure, estimated):
    """Mask pixels that no sky and no star can explain, and say so."""
    with np.errstate(over='ignore', invalid='ignore'):
        pull = (exposure.data - exposure.background) / exposure.bkg_error
        strange = ((pull < _FAR_BELOW) | (pull > _FAR_ABOVE)) & ~exposure.mask
    n_strange = np.count_nonzero(strange)
    if not n_strange:
        return exposure
    if n_strange > 0.5 * np.count_nonzero(~exposure.mask):
        msg = (
            f'background and bkg_error do not fit data: {n_strange} pixels are more '
            f'than {-_FAR_BELOW:g} sigma below the background. The background is '
            'what is still IN the data: 0 if the sky has been subtracted'
        )
        raise ValueError(msg)
    pixels = counted(n_strange, 'pixel')
    estimated['mask'] = f'{pixels} added that neither sky nor stars explain'
    return exposure.replace(mask=exposure.mask | strange)
