# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of drizzled images of HST.
"""

import re
from pathlib import Path

import astropy.units as u
import numpy as np

from bliss_astro._arguments import require
from bliss_astro._fits import card_number, file_name, image_plane, open_fits
from bliss_astro._warnings import warn
from bliss_astro.exposures import Band
from bliss_astro.exposures._fits_image import Location, find_plane
from bliss_astro.exposures._header import COUNTS
from bliss_astro.exposures._read import read_hdus, register_fits_format
from bliss_astro.exposures._validate import check_shape
from bliss_astro.surveys._bands import find_by_name, opener, scale_noise
from bliss_astro.units import magnitude_to_flux

_UNITS = (u.electron, *COUNTS)
KINDS = ('exposure time', 'inverse variance')
_FILTER = r'f\d{3,4}(?:w|m|n|x|lp)'
_FILTER_CARDS = ('FILTER', 'FILTER1', 'FILTER2', 'FILTNAM1', 'FILTNAM2')
# Largest weight over the exposure time if weights are seconds; noise by weights over
# that of empty sky, which resampling lowers, if they are inverse variances.
_SECONDS, _NOISE = (0.5, 1.05), (0.3, 1.25)
# Width of a rectangle over its standard deviation, which PHOTBW is.
_WIDTH = 12**0.5


def read_exposure(image, *, weight=None, **given):
    """
    Read a drizzled image of HST.

    Parameters
    ----------
    image : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        A file ``_drz.fits`` or ``_drc.fits`` with the HDUs SCI and WHT; or one, also
        ``_sci.fits``, with ``_wht.fits`` beside it.

    weight : {'exposure time', 'inverse variance'}, file or array, optional
        Kind of the weights in the file, which its header does not state. By default
        they are seconds if the largest is the exposure time, and inverse variances if
        empty sky has this noise. Or inverse variances up to a factor: a map, or its
        file.

    **given
        Other keywords of `Exposure.read <bliss_astro.exposures.ExposureRead>`, numbers
        in the unit of the file: ``zero_point``, by default that of PHOTFLAM and
        PHOTPLAM; ``psf``, or it is measured; ``unit`` if the file has none.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        Image in nmgy. The map of the noise follows the weights, scaled to the scatter
        of empty sky: neighbouring pixels are correlated, which is measured. The gain is
        the exposure time, of each pixel where weights are seconds.

    Raises
    ------
    OSError
        If a file is absent, truncated, damaged, or not FITS.

    ValueError
        If it has another layout, or its unit is not of electrons or counts.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If weights are of no known kind (they are taken as inverse variances up to a
        factor), or there is no zero point.

    References
    ----------
    .. [1] DrizzlePac handbook; ``outputimage`` of
       https://github.com/spacetelescope/drizzlepac

    .. [2] ACS data handbook, section "Photometric systems, units, and zeropoints"

    Examples
    --------
    >>> from bliss_astro.surveys import hst
    >>> hst.read_exposure(
    ...     'hst_10265_01_acs_wfc_f814w_j92c01_drc.fits', psf='f814w_psf.fits'
    ... )  # doctest: +SKIP
    """
    with open_fits(image, 'image') as hdus:
        name = file_name(hdus)
        science = hdus.index_of('SCI') if 'SCI' in hdus else None
        plane = find_plane(hdus, science, parameter='image')
        unit = u.Unit(given['unit']) if given.get('unit') else plane.unit
        rate = unit in [count / u.s for count in _UNITS]
        allowed = 'be electrons or counts, or these by second (give unit)'
        require(rate or unit in _UNITS, f'the unit of {name!r}', allowed, unit)
        cards = hdus[0].header.copy()
        cards.update(plane.header)
        time = card_number(cards, 'EXPTIME')
        stated, seconds = {'weight': weight}, False
        if given.get('band') is None:
            stated['band'] = _find_band(cards)
        if given.get('zero_point') is None:
            stated['zero_point'] = _zero_point(cards, 1.0 if rate else time, name)
        of_file = weight is None or (isinstance(weight, str) and weight in KINDS)
        weights = _weights(hdus, name, plane.data.shape, needed=of_file)
        if weights is not None:
            stated['mask'] = ~(weights > 0)
        if of_file:
            stated['weight'] = weights
            # A detector's pixel shares its weight among those of the image.
            exposed = weights * _pixel_area(cards)
            seconds = weight == KINDS[0] or _are_seconds(exposed, time, weight)
        exposed = exposed if seconds else time
        if given.get('effective_gain') is None:
            stated['effective_gain'] = _gain(cards, unit, exposed if rate else 1.0)
        if given.get('bkg_error') is not None:
            del stated['weight']
        location = Location(name, science)
        exposure, _ = read_hdus(hdus, location, 'fits', stated | given)
    if given.get('bkg_error') is not None:
        return exposure
    exposure = scale_noise(exposure)
    if weight is None and not seconds:
        _check_variances(exposure, weights, name)
    return exposure


open_field = opener(lambda path, _, /, **own: read_exposure(path, **own), read_exposure)


def find_fields(where):
    """
    Find drizzled images of HST among files, by their names.

    Parameters
    ----------
    where : str, `~os.PathLike` or list
        A folder with any folders in it, a glob or a list of files: names are such as
        ``hst_10265_01_acs_wfc_f814w_j92c01_drc.fits``, or end in ``_sci.fits``.

    Returns
    -------
    fields : list of dict
        Keywords of `~bliss_astro.runs.FieldRef`: bands are those in the names, which
        are otherwise alike. Detection images of all filters (``total``) are left out.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no such files, or two of one field and band.
    """
    return find_by_name(where, _parse_name, 'drizzled images (drz, drc) of HST')


def _parse_name(name):
    """Name without the filter, and band, of the name of a file, or None."""
    found = re.fullmatch(r'(.+)_(?:dr[zc](?:_sci)?|sci)\.fits.*', name, re.IGNORECASE)
    if found is None or '_total_' in name:
        return None
    filters = re.findall(rf'_({_FILTER})(?=[_-]|$)', found[1], re.IGNORECASE)
    band = filters[-1] if filters else ''
    return found[1].replace(f'_{band}', '') if band else found[1], band.upper()


def _weights(hdus, name, shape, needed):
    """Weights of the file, or of that beside it, 0 where there are no data."""
    if 'WHT' in hdus:
        weights = image_plane(hdus['WHT'])
    else:
        own = re.sub(r'_(sci|dr[zc])(?=\.fits)', '_wht', Path(name).name)
        beside = Path(name).with_name(own)
        is_there = beside.name != Path(name).name and beside.is_file()
        got = f'a file without WHT, and none ({beside.name}) beside it'
        require(is_there or not needed, 'weight', 'be given', got)
        if not is_there:
            return None
        with open_fits(beside, 'weight') as opened:
            weights = find_plane(opened, None, parameter='weight').data
    check_shape('weight', weights, shape)
    weights = np.nan_to_num(weights, posinf=0.0, neginf=0.0).astype(float)
    require(weights.max() > 0, f'weights of {name!r}', 'be positive', 'none')
    return np.maximum(weights, 0)


def _are_seconds(weights, time, kind):
    """Whether weights of no stated kind are seconds, up to the exposure time."""
    low, high = _SECONDS
    return kind is None and time is not None and low < weights.max() / time < high


def _pixel_area(cards):
    """Area of a pixel of the detector in those of the image, 1 if it is not stated."""
    sides = [card_number(cards, f'D001{key}', 0.0) for key in ('ISCL', 'SCAL')]
    return (sides[0] / sides[1]) ** 2 if min(sides) > 0 else 1.0


def _check_variances(exposure, weights, name):
    """Warn of weights that are neither seconds nor inverse variances."""
    zero_point = exposure.meta.get('zero_point')
    scale = 1.0 if zero_point is None else magnitude_to_flux(zero_point)
    good = ~exposure.mask
    noise = np.broadcast_to(exposure.bkg_error, exposure.shape)[good] / scale
    low, high = _NOISE
    if not low < np.median(noise * np.sqrt(weights[good])) < high:
        warn(
            f'weights of {name!r} are neither exposure times nor inverse variances of '
            'this noise; they were taken as inverse variances up to a factor. Give '
            f'weight ({" or ".join(map(repr, KINDS))}) or bkg_error.'
        )


def _gain(cards, unit, exposed):
    """Electrons per unit of the image, a number or a map; None if not known."""
    gain = 1.0
    if u.electron not in (unit, unit * u.s):
        numbers = (card_number(cards, key, 0.0) for key in ('CCDGAIN', 'ATODGAIN'))
        gain = next((number for number in numbers if number > 0), None)
    if gain is None or exposed is None:
        return None
    if np.ndim(exposed):
        # Any gain serves in pixels without data.
        exposed = np.where(exposed > 0, exposed, exposed.max())
    return exposed * gain


def _zero_point(cards, time, name):
    """AB magnitude of a unit of the image, of counts in a time; None if not known."""
    density, pivot = (card_number(cards, key, 0.0) for key in ('PHOTFLAM', 'PHOTPLAM'))
    if not (density > 0 and pivot > 0 and time):
        warn(f'{name!r} states no zero point; give zero_point to have magnitudes')
        return None
    flux = density * (u.erg / u.s / u.cm**2 / u.AA) * time**-1
    return float(flux.to_value(u.ABmag, u.spectral_density(pivot * u.AA)))


def _find_band(cards):
    """Band of the filter, by its pivot wavelength and width in Angstrom, or None."""
    texts = (str(cards.get(key)).strip().upper() for key in _FILTER_CARDS)
    name = next((t for t in texts if re.fullmatch(_FILTER, t, re.IGNORECASE)), None)
    pivot, deviation = (card_number(cards, f'PHOT{key}', 0.0) for key in ('PLAM', 'BW'))
    if name is None or not (pivot > 0 and deviation > 0):
        return None
    return Band(name, pivot / 10, _WIDTH * deviation / 10)


def _is_drizzled(hdus):
    """Whether HDUs are those of a drizzled image of HST."""
    planes = [image_plane(hdus[key]) for key in ('SCI', 'WHT') if key in hdus]
    is_hst = str(hdus[0].header.get('TELESCOP')).strip() == 'HST'
    return is_hst and len(planes) == 2 and all(one is not None for one in planes)


register_fits_format(
    'hst.drz', lambda hdus, given: read_exposure(hdus, **given), _is_drizzled
)
