# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds in FITS files of other makers, with measured noise.
"""

import astropy.units as u
import numpy as np

from bliss_astro._warnings import warn

from .._fits import header_wcs, wrong_type
from ..exposures import measure_noise
from ..exposures._sky import estimate_background_error, measure_background

__all__ = ['read_foreign']

# Names of units that astropy spells otherwise.
_UNITS = {'nanomaggy': u.nmgy, 'nanomaggies': u.nmgy, 'counts': u.ct, 'dn': u.DN}
# Noise in electrons where the gain is unknown: that of the sky in one SDSS exposure
# in r, as `detect_sources` assumes.
_USUAL_NOISE = 29.0
# A sky of so many sigma was not subtracted.
_SKY_LEFT = 10.0
# The arguments in the unit of the image.
_IN_ITS_UNIT = ('background', 'bkg_error', 'saturation')


def read_foreign(cls, hdus, hdu, known, name):
    """Read an image, and measure what its file does not say."""
    image = _find_image(hdus, hdu, name)
    header = image.header
    data = np.squeeze(image.data)
    if data.dtype.kind in 'iu':
        data = data.astype(float)
    wcs = header_wcs(header, data.shape)
    arguments = {
        'unit': _unit(header.get('BUNIT')),
        'wcs': wcs if wcs.has_celestial else None,
        'meta': {'file': str(name)},
    }
    arguments |= {key: value for key, value in known.items() if value is not None}
    unit = None if arguments['unit'] is None else u.Unit(arguments['unit'])
    for key in _IN_ITS_UNIT:
        if isinstance(arguments.get(key), u.Quantity) and unit is not None:
            arguments[key] = arguments[key].to_value(unit)
    estimated = {}
    _estimate(data, arguments, header, estimated)
    if estimated:
        arguments['meta'] = dict(arguments['meta']) | {'estimated': estimated}
    if 'bkg_error' in estimated:
        msg = (
            f'path={name!r} has no noise map; noise and correlation were measured in '
            'the blank sky, one number for all pixels. Give bkg_error if you have a '
            'map, or if the depth varies.'
        )
        warn(msg)
    coadd = cls(data, **arguments)
    if 'background' not in estimated or 'background_error' in arguments:
        return coadd
    return coadd.replace(background_error=estimate_background_error(coadd))


def _find_image(hdus, which, name):
    """Return the HDU with the image."""
    if which is not None:
        try:
            found = [hdus[which]]
        except (KeyError, IndexError):
            msg = f'path={name!r} has no HDU {which!r}.'
            raise ValueError(msg) from None
    else:
        found = list(hdus)
    for hdu in found:
        data = hdu.data if hdu.is_image else None
        if data is not None and np.squeeze(data).ndim == 2:
            return hdu
    what = 'it has no two-dimensional image'
    if which is not None:
        what = f'HDU {which!r} is not a two-dimensional image'
    raise wrong_type(name, 'path', 'a coadd', what)


def _unit(text):
    """Return the unit of an image, or `None` if astropy has no such unit."""
    if text is None or not str(text).strip():
        return None
    text = str(text).strip()
    if text.lower() in _UNITS:
        return _UNITS[text.lower()]
    try:
        return u.Unit(text)
    except ValueError:
        return None


def _estimate(data, arguments, header, estimated):
    """Put what is lacking into the arguments, and say how it was found."""
    mask = np.ma.getmaskarray(data) | ~np.isfinite(data)
    if arguments.get('mask') is not None:
        mask |= np.asarray(arguments['mask'], dtype=bool)
    if 'background' not in arguments:
        arguments['background'] = measure_background(data, mask)
        estimated['background'] = 'mesh of the pixels without sources'
    if 'bkg_error' not in arguments or 'noise_kernel' not in arguments:
        noise = measure_noise(data, mask, background=arguments['background'])
        if 'bkg_error' not in arguments:
            arguments['bkg_error'] = noise.sigma
            estimated['bkg_error'] = 'scatter of blank sky'
        if 'noise_kernel' not in arguments:
            arguments['noise_kernel'] = noise.kernel
            estimated['noise_kernel'] = 'correlation of blank sky'
    if 'effective_gain' not in arguments:
        gain, how = _gain(arguments, header, mask)
        arguments['effective_gain'] = gain
        if how is not None:
            estimated['effective_gain'] = how


def _gain(arguments, header, mask):
    """Find the effective gain, and say how."""
    if 'EFFGAIN' in header:
        return float(header['EFFGAIN']), None
    noise, level = (
        float(np.median(np.broadcast_to(arguments[key], mask.shape)[~mask]))
        for key in ('bkg_error', 'background')
    )
    if level > _SKY_LEFT * noise:
        return level / noise**2, 'background over its variance (photon noise)'
    return _USUAL_NOISE / noise, f'sky noise taken as {_USUAL_NOISE:g} electrons'
