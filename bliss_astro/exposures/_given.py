# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a person knows of an image, brought to arguments of `Exposure`.
"""

import os

import astropy.units as u
import numpy as np

from .._fits import check_file, open_fits
from ._fits_image import parse_location, read_map
from ._validate import check_positive

__all__ = [
    'GivenTwiceError',
    'apply_zero_point',
    'check_zero_point',
    'psf_of_file',
    'psf_of_fwhm',
    'read_maps',
    'refuse',
    'refuse_both',
]

# Magnitudes beyond are none.
_LARGEST_ZERO_POINT = 100
# In the unit of the image; electrons per it; its inverse square.
_IN_UNIT = ('background', 'bkg_error', 'saturation')
_MAPS = (*_IN_UNIT, 'effective_gain', 'read_noise', 'weight')
_NMGY = 22.5
_COUNTS = (u.electron, u.adu, u.DN, u.ct)


class GivenTwiceError(ValueError):
    """
    An argument that the image states itself.

    Parameters
    ----------
    name : str
        The argument.

    kind : str
        What the image is.
    """

    def __init__(self, name, kind):
        super().__init__(
            f'{name} was given although data is {kind}, which carries its own; change '
            'it there'
        )
        self.name, self.kind = name, kind


def refuse(given, kind, *, allowed=()):
    """
    Refuse arguments that an image states itself.

    Parameters
    ----------
    given : iterable of str
        The arguments.

    kind : str
        What the image is.

    allowed : iterable of str, optional
        Those that it may be given all the same.
    """
    twice = sorted(set(given) - set(allowed))
    if twice:
        raise GivenTwiceError(twice[0], kind)


def refuse_both(given, first, second):
    """
    Refuse two arguments that say the same of an image.

    Parameters
    ----------
    given : iterable of str
        The arguments that came.

    first, second : str
        The two.
    """
    if first in given and second in given:
        msg = f'{first} and {second} were both given; give one of them'
        raise ValueError(msg)


def read_maps(given, *, shape, unit=None, cut=None, hdus=None):
    """
    Read the maps that were given as files, and take units off where needed.

    Parameters
    ----------
    given : dict
        Arguments by name; those of files are strings or paths.

    shape : tuple of int
        The shape (ny, nx) of the image.

    unit : `~astropy.units.Unit`, optional
        The unit of an image that is itself plain numbers in a file.

    cut : tuple of slice, optional
        The part of its file that the image is.

    hdus : `~astropy.io.fits.HDUList`, optional
        The file of the image.

    Returns
    -------
    given : dict
        The same as arrays and numbers.
    """
    given = dict(given)
    if isinstance(given.get('background'), str):
        if given['background'] == 'header':
            msg = "background='header' needs a FITS file with a card of the sky"
            raise ValueError(msg)
        if given['background'] == 'measure':
            del given['background']
    for name in _MAPS:
        value, own = given.get(name), None
        if isinstance(value, str | os.PathLike):
            value, own = read_map(value, name, shape=shape, cut=cut, hdus=hdus)
            value = value if own is None else value * own
        elif hdus is not None and cut is not None and np.ndim(value) == 2:
            value = value[cut] if np.shape(value) != shape else value
        if name in given:
            given[name] = value
        if name in _IN_UNIT and isinstance(value, u.Quantity) and hdus is not None:
            given[name] = _plain(name, value, unit, stated=own is None)
    mask = given.get('mask')
    if isinstance(mask, str | os.PathLike):
        values, _ = read_map(mask, 'mask', shape=shape, cut=cut, hdus=hdus)
        # Bit masks of files: whatever is marked is bad.
        given['mask'] = ~(np.asarray(values) == 0)
    elif cut is not None and np.ndim(mask) == 2 and np.shape(mask) != shape:
        given['mask'] = np.asanyarray(mask)[cut]
    return given


def _plain(name, value, unit, *, stated):
    """
    Take the unit off a number that goes with an image of a file.
    """
    if unit is None and not stated:
        return value.value
    try:
        return value.to_value(u.dimensionless_unscaled if unit is None else unit)
    except u.UnitConversionError:
        has = 'no unit' if unit is None else f'the unit {unit}'
        msg = f'{name} is in {value.unit} and data has {has}.'
        raise ValueError(msg) from None


def psf_of_file(source, *, band=None):
    """
    Read the PSF of a file.

    Parameters
    ----------
    source : str or `~os.PathLike`
        The file, perhaps with an extension: ``file.fits[EXT]``.

    band : str, optional
        Of a psField, which holds five.

    Returns
    -------
    psf : object
        See `~bliss_astro.psf.read_psf`.
    """
    from ..psf import read_psf

    location = parse_location(source)
    check_file(location.path, 'psf', 'a PSF, an image of one, or a file')
    with open_fits(location.path, 'psf') as hdus:
        return read_psf(hdus, band=band, extension=location.extension)


def psf_of_fwhm(fwhm, exposure):
    """
    Make a PSF of a width.

    Parameters
    ----------
    fwhm : float or `~astropy.units.Quantity`
        Full width at half maximum in pixels, or as an angle.

    exposure : `~bliss_astro.exposures.Exposure`
        The image, whose WCS turns angles into pixels.

    Returns
    -------
    psf : `~bliss_astro.psf.PSFModel`
        The PSF.
    """
    from ..psf import PSFModel
    from ..psf._mixture import DEFAULT_NORMALIZATION_RADIUS

    if isinstance(fwhm, u.Quantity):
        if fwhm.unit.is_equivalent(u.pix):
            fwhm = fwhm.to_value(u.pix)
        elif not fwhm.unit.is_equivalent(u.arcsec):
            msg = f'fwhm must be in pixels or an angle; got {fwhm.unit}.'
            raise ValueError(msg)
        elif exposure.pixel_scale is None:
            msg = 'fwhm is an angle and data has no celestial wcs; give it in pixels.'
            raise ValueError(msg)
        else:
            fwhm = fwhm.to_value(u.arcsec) / exposure.pixel_scale
    value = np.asarray(fwhm)
    if value.ndim or value.dtype.kind not in 'fiu':
        msg = f'fwhm must be one real number; got {fwhm!r:.60}.'
        raise TypeError(msg)
    value = check_positive('fwhm', float(value), True)
    widest = 2 * DEFAULT_NORMALIZATION_RADIUS
    if value > widest:
        msg = (
            f'fwhm must be at most {widest:.1f} px; got {value:g}. Join pixels of the '
            'image first.'
        )
        raise ValueError(msg)
    return PSFModel.from_fwhm(value)


def check_zero_point(zero_point, unit):
    """
    Check an AB magnitude zero point.

    Parameters
    ----------
    zero_point : float or `~astropy.units.Quantity`
        AB magnitude of a flux of 1.

    unit : `~astropy.units.Unit` or None
        The unit of the image.

    Returns
    -------
    zero_point : float
        The magnitude.
    """
    if isinstance(zero_point, u.Quantity | u.Magnitude):
        zero_point = zero_point.value
    value = np.asarray(zero_point)
    if value.ndim or value.dtype.kind not in 'fiu':
        msg = f'zero_point must be one AB magnitude; got {zero_point!r:.60}.'
        raise TypeError(msg)
    if not abs(value) <= _LARGEST_ZERO_POINT:
        msg = f'zero_point must be finite and within +-100; got {zero_point}.'
        raise ValueError(msg)
    counts = unit is None or any(
        unit.is_equivalent(count) or unit.is_equivalent(count / u.s)
        for count in _COUNTS
    )
    if not counts:
        msg = (
            f'zero_point was given although data is in {unit}, which is a flux itself; '
            'leave it out'
        )
        raise ValueError(msg)
    return float(value)


def apply_zero_point(exposure, zero_point):
    """
    Bring an exposure in counts to nanomaggies.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    zero_point : float
        AB magnitude of a flux of 1.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The same in nmgy.
    """
    factor = 10 ** (0.4 * (_NMGY - zero_point))
    names = ('data', 'background', 'bkg_error')
    changes = {name: getattr(exposure, name) * factor for name in names}
    if exposure.saturation is not None:
        changes['saturation'] = exposure.saturation * factor
    return exposure.replace(
        **changes,
        effective_gain=exposure.effective_gain / factor,
        unit=u.nmgy,
        meta=exposure.meta | {'zero_point': zero_point},
    )
