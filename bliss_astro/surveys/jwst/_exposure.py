# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of resampled images of JWST.
"""

import re

import astropy.units as u
import numpy as np

from bliss_astro._arguments import require
from bliss_astro._fits import card_number, file_name, image_plane, open_fits, wrong_type
from bliss_astro._warnings import warn
from bliss_astro.exposures import Band
from bliss_astro.exposures._fits_image import Location
from bliss_astro.exposures._read import read_hdus, register_fits_format, scaled
from bliss_astro.surveys._bands import (
    find_by_name,
    opener,
    scale_noise,
    split_variance,
)

# Pivot wavelengths and bandwidths in um of NIRCam, as NIRISS' within 2 %, and MIRI.
_FILTERS = """
F070W 0.704 0.128, F090W 0.901 0.194, F115W 1.154 0.225, F140M 1.404 0.142,
F150W 1.501 0.318, F150W2 1.671 1.227, F158M 1.582 0.196, F162M 1.626 0.168,
F164N 1.644 0.020, F182M 1.845 0.238, F187N 1.874 0.024, F200W 1.990 0.461,
F210M 2.093 0.205, F212N 2.120 0.027, F250M 2.503 0.181, F277W 2.786 0.672,
F300M 2.996 0.318, F322W2 3.247 1.339, F323N 3.237 0.038, F335M 3.365 0.347,
F356W 3.563 0.787, F360M 3.621 0.372, F380M 3.825 0.205, F405N 4.055 0.046,
F410M 4.092 0.436, F430M 4.280 0.228, F444W 4.421 1.024, F460M 4.624 0.228,
F466N 4.654 0.054, F470N 4.707 0.051, F480M 4.834 0.303, F560W 5.6 1.2,
F770W 7.7 2.2, F1000W 10.0 2.0, F1130W 11.3 0.7, F1280W 12.8 2.4, F1500W 15.0 3.0,
F1800W 18.0 3.0, F2100W 21.0 5.0, F2550W 25.5 4.0
"""
BANDS = {
    name: Band(name, *(1e3 * float(number) for number in numbers))
    for name, *numbers in map(str.split, _FILTERS.split(','))
}
_FILTER = re.compile(r'f\d{3,4}[wmn]2?(?![a-z\d])', re.IGNORECASE)
# Largest relative difference of the stated area of a pixel from that of the WCS.
_AREA_TOLERANCE = 0.03


def read_exposure(image, **given):
    """
    Read a resampled image of JWST.

    Parameters
    ----------
    image : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        A file ``_i2d.fits``, with the HDUs SCI (MJy/sr), ERR and WHT, and VAR_POISSON
        if it is there.

    **given
        Other keywords of `Exposure.read <bliss_astro.exposures.ExposureRead>`, numbers
        in the unit of the file: ``psf``, such as a file of STPSF, or it is measured;
        ``background``, by default measured, as the pipeline leaves the sky in; ``unit``
        if the file has none.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        Image in nmgy per pixel, by the area of its pixels. Pixels without data are bad.
        The map of the noise is ERR without the photons of sources, scaled to the
        scatter of empty sky (``meta['noise_ratio']``): neighbouring pixels are
        correlated, which is measured. The gain is how VAR_POISSON grows with sources.

    Raises
    ------
    OSError
        If the file is absent, truncated, damaged, or not FITS.

    ValueError
        If it has another layout, its unit is no surface brightness or flux density, or
        neither its cards nor its WCS have the area of a pixel.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If the area of a pixel by its card is not that of the WCS, which is taken.

    References
    ----------
    .. [1] JWST pipeline, "Science products: i2d",
       https://jwst-pipeline.readthedocs.io

    .. [2] JWST user documentation, "NIRCam filters", "MIRI filters and dispersers"

    Examples
    --------
    >>> from bliss_astro.surveys import jwst
    >>> jwst.read_exposure(
    ...     'jw02739-o001_t001_nircam_clear-f200w_i2d.fits', psf='stpsf_f200w.fits'
    ... )  # doctest: +SKIP
    """
    with open_fits(image, 'image') as hdus:
        name = file_name(image)
        if not _is_i2d(hdus):
            found = 'it lacks SCI, ERR and WHT of one shape'
            raise wrong_type(name, 'image', 'a resampled image (i2d) of JWST', found)
        data, error, weight = (_plane(hdus, key) for key in ('SCI', 'ERR', 'WHT'))
        good = np.isfinite(data) & (error > 0) & np.isfinite(error) & (weight > 0)
        require(good.any(), f'image={name!r}', 'have pixels with data', 'none')
        photons = _plane(hdus, 'VAR_POISSON')
        if photons is not None:
            good &= np.isfinite(photons)
        signal = data - np.median(data[good])
        error, gain = split_variance(signal, error**2, good, photons)
        stated = {'effective_gain': gain, 'mask': ~good}
        if not {'weight', 'bkg_error'} & set(given):
            # Scaled to the sky below.
            with np.errstate(invalid='ignore', divide='ignore'):
                stated['weight'] = np.where(good, error**-2.0, 0.0)
        if given.get('band') is None:
            stated['band'] = _find_band(hdus[0].header)
        header = hdus['SCI'].header
        exposure, _ = read_hdus(hdus, Location(name, 'SCI'), 'fits', stated | given)
    if 'bkg_error' not in given:
        exposure = scale_noise(exposure, stated.get('weight'))
    return _in_nanomaggies(exposure, header, name)


open_field = opener(lambda path, _, /, **own: read_exposure(path, **own), read_exposure)


def find_fields(where):
    """
    Find resampled images of JWST among files, by their names.

    Parameters
    ----------
    where : str, `~os.PathLike` or list
        A folder with any folders in it, a glob or a list of files: names are such as
        ``jw02739-o001_t001_nircam_clear-f200w_i2d.fits``.

    Returns
    -------
    fields : list of dict
        Keywords of `~bliss_astro.runs.FieldRef`: the bands of each target of an
        instrument.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no such files, or two of one field and band.
    """
    return find_by_name(where, _parse_name, 'resampled images (i2d) of JWST')


def _parse_name(name):
    """Program, target and instrument, and band, of the name of a file, or None."""
    parts = r'(.+_)([^_]*f\d{3,4}[wmn]2?[^_]*)(_v[^_]+)?_i2d\.fits.*'
    found = re.fullmatch(parts, name)
    if found is None:
        return None
    # Of two filters in the beam the pupil wheel's, the narrower one, is the last.
    name = found[1].rstrip('_') + (found[3] or '')
    return name, _FILTER.findall(found[2])[-1].upper()


def _is_i2d(hdus):
    """Whether HDUs are those of a resampled image of JWST."""
    planes = [_plane(hdus, key) for key in ('SCI', 'ERR', 'WHT')]
    sound = all(plane is not None for plane in planes)
    sound = sound and len({plane.shape for plane in planes}) == 1
    return sound and str(hdus[0].header.get('TELESCOP')).strip() == 'JWST'


def _plane(hdus, key):
    """Pixels of an extension, or None."""
    data = image_plane(hdus[key]) if key in hdus else None
    return None if data is None else data.astype(data.dtype.newbyteorder('='))


def _find_band(header):
    """Band of the filter, of that in the pupil wheel where there are two, or None."""
    texts = (str(header.get(key)).strip().upper() for key in ('PUPIL', 'FILTER'))
    return next((BANDS[text] for text in texts if text in BANDS), None)


def _in_nanomaggies(exposure, header, name):
    """Bring an exposure of surface brightness, or flux density, to nmgy per pixel."""
    unit, scale = exposure.unit, exposure.pixel_scale
    if unit is not None and (unit * u.sr).is_equivalent(u.Jy):
        stated = card_number(header, 'PIXAR_SR')
        area = None if scale is None else (scale * u.arcsec).to_value(u.rad) ** 2
        allowed, got = 'state PIXAR_SR, or have a WCS', 'neither'
        require(stated or area, f'image={name!r}', allowed, got)
        if area and (stated is None or abs(stated / area - 1) > _AREA_TOLERANCE):
            if stated is not None:
                warn(
                    f'PIXAR_SR of {name!r} is {stated / area:.3g} times the area of a '
                    'pixel by its WCS, which was taken'
                )
            stated = area
        unit = unit * (stated * u.sr)
    maggies = u.zero_point_flux(1 * u.AB)
    sound = unit is not None and (1 * unit).unit.is_equivalent(u.nmgy, maggies)
    allowed = 'be a surface brightness or flux density (give unit)'
    require(sound, f'the unit of {name!r}', allowed, exposure.unit)
    return scaled(exposure, (1 * unit).to_value(u.nmgy, maggies), u.nmgy)


register_fits_format(
    'jwst.i2d', lambda hdus, given: read_exposure(hdus, **given), _is_i2d
)
