# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds to and from astropy's NDData and CCDData.
"""

import json
import re

import astropy.units as u
import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from bliss_astro.exposures._nddata import read_nddata

from ._coadd_io import plain_value

__all__ = ['read_coadd_nddata', 'write_coadd_ccddata']

# All meta that FITS has no cards for.
_META_KEY, _LONGEST_KEY = 'BLISSMET', 8
# The signal at which the sources' noise equals the sky's; entries of the kernel.
_SKY_KEY = 'NOISESKY'
_KERNEL_KEY = 'NK{}_{}'
_KERNEL_PATTERN = re.compile(r'NK(\d+)_(\d+)')


def write_coadd_ccddata(coadd, ccddata):
    """
    Add what is a coadd's own to its CCDData.

    Parameters
    ----------
    coadd : `~bliss_astro.coadds.Coadd`
        The coadd.

    ccddata : `~astropy.nddata.CCDData`
        What an exposure makes of it; changed in place.

    Returns
    -------
    ccddata : `~astropy.nddata.CCDData`
        The same.
    """
    _make_writable(ccddata)
    if np.ndim(coadd.effective_gain):
        level = np.square(coadd.bkg_error, dtype=float) * coadd.effective_gain
        ccddata.meta[_SKY_KEY] = float(np.median(level[~coadd.mask]))
    for (row, column), value in np.ndenumerate(coadd.noise_kernel):
        ccddata.meta[_KERNEL_KEY.format(row, column)] = float(value)
    if coadd.n_exposures is not None:
        ccddata.flags = np.array(coadd.n_exposures)
    image = coadd.psf_image
    ccddata.psf = None if image is None else image.copy()
    return ccddata


def read_coadd_nddata(nddata, keywords):
    """
    Collect a coadd's arguments from an NDData and from keywords.

    Parameters
    ----------
    nddata : `~astropy.nddata.NDData`
        The image.

    keywords : dict
        Arguments of `~bliss_astro.coadds.Coadd`.

    Returns
    -------
    data : `~numpy.ndarray` or `~astropy.units.Quantity`
        The image, with its unit.

    arguments : dict
        Arguments of `~bliss_astro.coadds.Coadd`.
    """
    if not isinstance(nddata, NDData):
        msg = f'nddata must be an NDData or CCDData; got {type(nddata).__name__}.'
        raise TypeError(msg)
    own = dict(nddata.meta or {})
    own |= json.loads(own.pop(_META_KEY, '{}'))
    kernel = _take_kernel(own)
    sky = own.pop(_SKY_KEY, None)
    plain = NDData(
        nddata.data,
        uncertainty=nddata.uncertainty,
        mask=nddata.mask,
        wcs=nddata.wcs,
        unit=nddata.unit,
        meta=own,
        psf=getattr(nddata, 'psf', None),
    )
    if sky is None or keywords.get('effective_gain') is not None:
        data, arguments = read_nddata(plain, keywords)
    else:
        noise, gain = _split_error(plain, float(sky), keywords)
        plain.uncertainty = None
        keywords = keywords | {'bkg_error': noise, 'effective_gain': gain}
        data, arguments = read_nddata(plain, keywords)
    if kernel is not None:
        arguments.setdefault('noise_kernel', kernel)
    if plain.psf is not None and _is_odd(plain.psf):
        arguments.setdefault('psf_image', plain.psf)
    counts = getattr(nddata, 'flags', None)
    if counts is not None and np.shape(counts) == np.shape(nddata.data):
        arguments.setdefault('n_exposures', counts)
    return data, arguments


def _make_writable(ccddata):
    """
    Gather the entries of the meta that are no header cards, as JSON in one.
    """
    others = {
        key: ccddata.meta.pop(key)
        for key, value in list(ccddata.meta.items())
        if len(key) > _LONGEST_KEY or not isinstance(value, str | int | float)
    }
    if others:
        ccddata.meta[_META_KEY] = json.dumps(others, default=plain_value)


def _take_kernel(meta):
    """
    Take the entries of the kernel out of the meta.
    """
    found = {}
    for key in list(meta):
        match = _KERNEL_PATTERN.fullmatch(str(key))
        if match:
            found[int(match[1]), int(match[2])] = float(meta.pop(key))
    if not found:
        return None
    kernel = np.full(np.max(list(found), axis=0) + 1, np.nan)
    for place, value in found.items():
        kernel[place] = value
    return kernel


def _split_error(nddata, sky, keywords):
    """
    Part a total error into the noise of the sky and the gain of the sources.
    """
    if nddata.uncertainty is None:
        msg = 'bkg_error must be given, as the NDData has no uncertainty.'
        raise ValueError(msg)
    error = nddata.uncertainty.represent_as(StdDevUncertainty).array
    level = keywords.get('background', nddata.meta.get('BKGLEVEL', 0.0))
    level = level.to_value(nddata.unit) if isinstance(level, u.Quantity) else level
    with np.errstate(invalid='ignore'):
        signal = np.maximum(nddata.data - level, 0)
    signal = np.nan_to_num(signal, nan=0.0, posinf=0.0)
    noise = error / np.sqrt(1 + signal / sky)
    unit = nddata.unit
    if unit is None or unit == u.dimensionless_unscaled:
        return noise, sky / noise**2
    return noise * unit, sky / noise**2 * (u.electron / unit)


def _is_odd(image):
    """
    Tell whether an image has a middle pixel.
    """
    return np.ndim(image) == 2 and all(n % 2 for n in np.shape(image))
