# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of images and coadds of the LSST Science Pipelines.
"""

import contextlib
import re
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io.fits import ColDefs

from bliss_astro._arguments import require
from bliss_astro._fits import card_number, file_name, image_plane, open_fits, wrong_type
from bliss_astro._warnings import warn
from bliss_astro.exposures._fits_image import Location
from bliss_astro.exposures._header import parse_unit
from bliss_astro.exposures._read import read_hdus, register_fits_format, scaled
from bliss_astro.surveys._bands import (
    find_by_name,
    opener,
    split_variance,
)

BAD_PLANES = ('BAD', 'NO_DATA', 'SAT', 'CR')
# Patches of coadds by name, of HSC and of the Butler.
_NAMES = (
    r'calexp-(?:HSC-)?(?P<band>[A-Z])\d?-(?P<tract>\d+)-(?P<patch>\d+,\d+).*\.fits.*',
    r'deep_?[cC]oadd(?:_calexp)?_(?P<tract>\d+)_(?P<patch>\d+)_(?P<band>[a-z])_.*\.fits.*',
)
# AB magnitude of 1 nJy, in which the pipelines calibrate.
_NJY = 31.4


def read_exposure(image, *, bad_planes=None, **given):
    """
    Read an image or coadd of HSC or Rubin Observatory.

    Parameters
    ----------
    image : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        File of the layout of ``calexp``: after the primary HDU images of type
        (``EXTTYPE`` or ``EXTNAME``) IMAGE, MASK and VARIANCE.

    bad_planes : sequence of str, optional
        Mask planes whose pixels are bad, by default BAD, NO_DATA, SAT and CR, as far as
        the mask has them. Their bits are those of its cards ``MP_...``, which differ
        from file to file. Pixels of SAT are saturated.

    **given
        Other keywords of `Exposure.read <bliss_astro.exposures.ExposureRead>`:
        ``zero_point``, by default that of ``FLUXMAG0`` or of the photometric
        calibration in the file; ``psf``, an image or model, as coadds of PSFs in these
        files cannot be read; ``background``, by default 0, as the survey has taken the
        sky off.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        Image in nmgy, if its zero point is known. The light of sources is taken out of
        the variance; the gain is how it grows with them, if they are bright enough.

    Raises
    ------
    OSError
        If the file is absent, truncated, damaged, or not FITS.

    ValueError
        If it has another layout, or its mask does not have a plane.

    References
    ----------
    .. [1] ``ExposureFitsReader`` and ``PhotoCalib`` of https://github.com/lsst/afw

    Examples
    --------
    >>> from bliss_astro.surveys import hsc
    >>> hsc.read_exposure('calexp-HSC-R-9813-4,4.fits')  # doctest: +SKIP
    """
    with open_fits(image, 'image') as hdus:
        name = file_name(image)
        planes = _planes(hdus)
        if planes is None:
            found = 'it lacks IMAGE, MASK with cards MP_..., and VARIANCE of one shape'
            raise wrong_type(name, 'image', 'of the layout of calexp', found)
        (data, mask, variance), numbers = zip(*planes, strict=True)
        bits = _bits(hdus[numbers[1]].header)
        wanted = BAD_PLANES if bad_planes is None else tuple(bad_planes)
        missing = sorted(set(wanted) - set(bits))
        allowed, got = f'be of {", ".join(sorted(bits))}', ', '.join(missing)
        require(bad_planes is None or not missing, 'bad_planes', allowed, got)
        flagged = {key: (mask >> bits[key] & 1) > 0 for key in wanted if key in bits}
        saturated = flagged.pop('SAT', np.zeros(data.shape, bool))
        bad = np.logical_or.reduce(
            [~(variance > 0), ~np.isfinite(data), *flagged.values()]
        )
        given = {'background': 0.0, 'saturated': saturated} | given
        if 'mask' not in given:
            given['mask'] = bad
        if not {'bkg_error', 'weight'} & set(given):
            given |= _noise(data, variance, ~(bad | saturated), given)
        location = Location(name, numbers[0])
        if (unit := _flux_unit(hdus, numbers[0])) is not None:
            given = {'unit': unit} | given
        else:
            given.setdefault('zero_point', _zero_point(hdus))
        exposure, _ = read_hdus(hdus, location, 'fits', given)
    if exposure.unit == u.nJy:
        return scaled(exposure, 10 ** (0.4 * (22.5 - _NJY)), u.nmgy)
    if exposure.unit != u.nmgy:
        warn(f'{name!r} states no zero point; give zero_point to have magnitudes')
    return exposure


def _read_patch(path, band, /, **given):
    # Coadds of later pipelines do not state their band in a card.
    exposure = read_exposure(path, **given)
    if exposure.band is not None or band is None:
        return exposure
    survey = 'HSC' if '-HSC-' in Path(path).name else 'LSST'
    return exposure.replace(band=f'{survey}.{band}')


open_field = opener(_read_patch, read_exposure)


def find_fields(where):
    """
    Find patches of coadds among files, by their names.

    Parameters
    ----------
    where : str, `~os.PathLike` or list
        A folder with any folders in it, a glob or a list of files: names are such as
        ``calexp-HSC-R-9813-4,4.fits``, or of the Butler,
        ``deepCoadd_calexp_9813_40_r_SKYMAP_RUN.fits``.

    Returns
    -------
    fields : list of dict
        Keywords of `~bliss_astro.runs.FieldRef`: the bands of each patch of a tract.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no such files, or two of one patch and band.
    """
    return find_by_name(where, _parse_name, 'patches of HSC or LSST by name')


def _parse_name(name):
    """Tract and patch, and band, of the name of a file, or None."""
    for pattern in _NAMES:
        found = re.fullmatch(pattern, name)
        if found is not None:
            patch = found['patch'].replace(',', '_')
            return f'{found["tract"]}-{patch}', found['band'].lower()
    return None


def _planes(hdus):
    """Pixels and numbers of the HDUs of image, mask and variance, or None."""
    found = {}
    for number, hdu in enumerate(hdus):
        kind = str(hdu.header.get('EXTTYPE', hdu.name)).strip().upper()
        data = image_plane(hdu)
        if data is not None:
            found.setdefault(kind, (data, number))
    planes = [found.get(kind) for kind in ('IMAGE', 'MASK', 'VARIANCE')]
    if None in planes or len({data.shape for data, _ in planes}) > 1:
        return None
    mask, number = planes[1]
    return planes if mask.dtype.kind in 'iu' and _bits(hdus[number].header) else None


def _bits(header):
    """Bits of the planes of a mask by name."""
    cards = ((key, card_number(header, key)) for key in header if key[:3] == 'MP_')
    return {key[3:]: int(number) for key, number in cards if number is not None}


def _noise(data, variance, good, given):
    """Noise of the sky and the gain by a variance that has the light of sources."""
    level = given['background']
    level = np.median(data[good]) if isinstance(level, str) else level
    signal = data - getattr(level, 'value', level)
    error, gain = split_variance(signal, variance, good)
    own = given.get('effective_gain')
    return {'bkg_error': error, 'effective_gain': gain if own is None else own}


def _flux_unit(hdus, number):
    """Unit of a calibrated image, of its own header or the first, or None."""
    for header in (hdus[number].header, hdus[0].header):
        with contextlib.suppress(ValueError):
            unit = parse_unit(header.get('BUNIT', ''))
            if unit is not None and unit.is_equivalent(u.nJy):
                return unit
    return None


def _zero_point(hdus):
    """AB magnitude of a count, or None where it is not stated."""
    tables = {}
    for hdu in hdus:
        flux = card_number(hdu.header, 'FLUXMAG0', 0.0)
        if flux > 0:
            return 2.5 * np.log10(flux)
        names = getattr(hdu, 'columns', ColDefs([])).names
        keys = {'calibrationMean', 'row0'} & {*names}
        tables |= dict.fromkeys(keys, hdu.data)
    if 'calibrationMean' not in tables:
        return None
    means = tables['calibrationMean']['calibrationMean']
    # Those of the images of a coadd stand there too: the index has the row of its own.
    number = card_number(hdus[0].header, 'PHOTOCALIB_ID')
    if number is not None and 'row0' in tables:
        index = tables['row0']
        means = means[index['row0'][index['id'] == number]]
    return _NJY - 2.5 * np.log10(means[0]) if len({*means}) == 1 else None


register_fits_format(
    'hsc.calexp',
    lambda hdus, given: read_exposure(hdus, **given),
    lambda hdus: _planes(hdus) is not None,
)
