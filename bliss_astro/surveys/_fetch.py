# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Downloads of images from surveys and archives, kept in astropy's cache.
"""

import json
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.utils import data as remote
from astropy.wcs import WCS

from bliss_astro._arguments import as_list, check_integer, check_number, require
from bliss_astro._fits import open_fits
from bliss_astro._warnings import warn
from bliss_astro.exposures import Exposure

_SDSS = 'https://data.sdss.org/sas/dr17/eboss'
_VIEWER = 'https://www.legacysurvey.org/viewer'
# Records of HiPS: https://wiki.ivoa.net/twiki/bin/view/IVOA/HiPS
_HIPS_RECORDS = 'https://alasky.cds.unistra.fr/MocServer/query'
# Pixels of the coadds of the Legacy Surveys (arcsec), and of the largest cut-out.
_LEGACY_PIXEL, _LARGEST = 0.262, 3000
# First bytes of FITS files, plain, of gzip and of bzip2.
_FITS = (b'SIMPLE', b'\x1f\x8b', b'BZh')
_NEEDS = 'needs the package {0}: pip install {0}, or the extra bliss_astro[fetch]'


def download(url, absent, **parameters):
    """
    Path of a file of a service, in astropy's cache.

    Parameters
    ----------
    url : str
        Address.

    absent : str
        Text of the error where the service does not have it.

    **parameters
        Query of the address.

    Returns
    -------
    path : str
        File.

    Raises
    ------
    ConnectionError
        If the service does not answer, or with an error.

    ValueError
        If it answers that it has no such file.
    """
    url += f'?{urlencode(parameters)}' if parameters else ''
    host = urlsplit(url).netloc
    try:
        return remote.download_file(url, cache=True, show_progress=False)
    except HTTPError as error:
        if error.code in (400, 404):
            raise ValueError(f'{absent}{_answer(error)} ({url})') from error
        msg = (
            f'{host} answered with an error ({error}); it may be down, or have no image'
        )
        raise ConnectionError(f'{msg} there. Try again later: {url}') from error
    except (URLError, TimeoutError) as error:
        reason = getattr(error, 'reason', error)
        msg = f'{host} does not answer ({reason}); check the internet access, or try'
        raise ConnectionError(f'{msg} again later: {url}') from error


def _answer(error):
    """Text that a service sends with an error, in JSON of the CDS."""
    try:
        return f': {json.loads(error.read())["description"]}'
    except (ValueError, KeyError, TypeError, AttributeError):
        return ''


def download_fits(url, absent, **parameters):
    """Path of a FITS file as `download`; pages of text are no such files."""
    path = download(url, absent, **parameters)
    with open(path, 'rb') as file:  # noqa: PTH123
        start = file.read(200)
    if start.startswith(_FITS):
        return path
    # Else it would be found in the cache for ever.
    url += f'?{urlencode(parameters)}' if parameters else ''
    remote.clear_download_cache(url)
    text = ' '.join(start.decode(errors='replace').split())
    raise ConnectionError(f'{url} is no FITS file; it says: {text!r}')


# -- SDSS ----------------------------------------------------------------------------


def sdss_files(run, camcol, field, bands):
    """Frames by band, psField and mask planes by band of a field, downloaded."""
    run, camcol, field = (
        check_integer(name, value, 1, high)
        for name, value, high in (
            ('run', run, 999999),
            ('camcol', camcol, 6),
            ('field', field, 9999),
        )
    )
    bands = [str(band) for band in as_list('bands', bands)]
    allowed = "be among 'u', 'g', 'r', 'i', 'z'"
    require(bands and {*bands} <= {*'ugriz'}, 'bands', allowed, bands)
    absent = f'SDSS (data release 17) has no field {run}-{camcol}-{field}'
    place, objects = f'{camcol}-{field:04d}', f'{_SDSS}/photo/redux/301/{run}/objcs'
    images = f'{_SDSS}/photoObj/frames/301/{run}/{camcol}'
    frames, masks = {}, {}
    for band in bands:
        url = f'{images}/frame-{band}-{run:06d}-{place}.fits.bz2'
        frames[band] = download_fits(url, absent)
        url = f'{objects}/{camcol}/fpM-{run:06d}-{band}{place}.fit.gz'
        masks[band] = download_fits(url, absent)
    url = f'{objects}/{camcol}/psField-{run:06d}-{place}.fit'
    return frames, download_fits(url, absent), masks


# -- Legacy Surveys ------------------------------------------------------------------


def read_legacysurvey(ra, dec, size, bands, given, *, layer, pixel_scale):
    """Exposures, or None, by band of a cut-out of the viewer of the Legacy Surveys."""
    bands = [str(band) for band in as_list('bands', bands)]
    sound = bands and {*bands} <= {*'griz'} and len({*bands}) == len(bands)
    require(sound, 'bands', "be different ones among 'g', 'r', 'i', 'z'", bands)
    # Digits of a conversion would be other addresses, and be downloaded anew.
    ra, dec = (round(_number(n, v, u.deg), 9) for n, v in (('ra', ra), ('dec', dec)))
    require(-90 <= dec <= 90, 'dec', 'be between -90 and 90 deg', dec)
    pixel = _number('pixel_scale', pixel_scale, u.arcsec, 'positive')
    side = _side(size, pixel)
    require(side <= _LARGEST, 'size', f'be at most {_LARGEST} pixels', side)
    where = {'ra': ra, 'dec': dec, 'layer': layer, 'bands': ''.join(bands)}
    absent = f'the Legacy Surveys ({layer}) have no image at ra={ra}, dec={dec}'
    query = where | {'size': side, 'pixscale': pixel, 'invvar': ''}
    path = download_fits(f'{_VIEWER}/fits-cutout', absent, **query)
    with open_fits(path, 'legacysurvey') as hdus:
        planes = {
            str(hdu.header.get('IMAGETYP', 'IMAGE')).strip().upper(): hdu
            for hdu in hdus
            if hdu.data is not None
        }
        require('IMAGE' in planes, 'ra, dec', f'be where {layer} has images', (ra, dec))
        shape = len(bands), side, side
        images, weights = (
            planes[kind].data.reshape(-1, *planes[kind].shape[-2:])
            if kind in planes
            else None
            for kind in ('IMAGE', 'INVVAR')
        )
        got = f'{images.shape} from {path!r}'
        require(images.shape == shape, 'answer', f'be of shape {shape}', got)
        header = WCS(planes['IMAGE'].header, naxis=2).to_header()
    psfs = {}
    if pixel == _LEGACY_PIXEL and not {'psf', 'fwhm'} & set(given):
        psfs = _legacy_psfs(bands, absent, where)
    exposures = {}
    for k, band in enumerate(bands):
        # Pixels without an observation are exactly nothing.
        good = images[k] != 0 if weights is None else weights[k] > 0
        stated = {'mask': ~good, 'unit': u.nmgy, 'band': f'DECam.{band}'}
        stated |= {
            'psf': psfs.get(band),
            'meta': {'survey': layer, 'ra': ra, 'dec': dec},
        }
        stated['weight'] = None if weights is None else weights[k]
        hdus = fits.HDUList([fits.PrimaryHDU(images[k], header)])
        exposures[band] = Exposure.read(hdus, **stated | given) if good.any() else None
    there = any(exposure is not None for exposure in exposures.values())
    require(there, 'ra, dec', f'be where {layer} has images', (ra, dec))
    return exposures


def _legacy_psfs(bands, absent, where):
    """Images of the PSF of the coadds by band; without them, a warning."""
    try:
        path = download_fits(f'{_VIEWER}/coadd-psf/', absent, **where)
    except (ConnectionError, ValueError) as error:
        warn(f'the PSF has to be estimated, as it cannot be downloaded: {error}')
        return {}
    with open_fits(path, 'psf') as hdus:
        found = [hdu for hdu in hdus if np.ndim(hdu.data) == 2]
        names = [str(hdu.header.get('BAND', '')).strip() for hdu in found]
        if {*names} == {''} and len(found) == len(bands):
            names = bands
        return {
            name: np.array(hdu.data) for name, hdu in zip(names, found, strict=True)
        }


# -- HiPS ----------------------------------------------------------------------------


def read_hips(hips, position, size, given, *, pixel_scale):
    """Exposure of a HiPS."""
    try:
        from astroquery.hips2fits import conf, hips2fits
    except ImportError as error:
        raise ImportError(f'from_hips {_NEEDS.format("astroquery")}') from error
    centre = _position(position)
    if pixel_scale is None:
        pixel = _hips_pixel(hips)
    else:
        pixel = _number('pixel_scale', pixel_scale, u.arcsec, 'positive')
    side = _side(size, pixel)
    query = hips2fits.query(
        hips,
        side,
        side,
        'TAN',
        centre.ra,
        centre.dec,
        side * pixel * u.arcsec,
        get_query_payload=True,
    )
    absent = f'hips2fits has no image of {hips!r}'
    path = download_fits(conf.server, absent, **query)
    with open_fits(path, 'hips') as hdus:
        data = hdus[0].data
        empty = data is None or not np.isfinite(data).any() or np.ptp(data) == 0
        allowed, got = f'be where {hips!r} has an image', centre.to_string('decimal')
        require(not empty, 'position', allowed, got)
        meta = {'meta': {'survey': hips}}
        return Exposure.read(hdus, **meta | given)


def _hips_pixel(hips):
    """Side of a pixel of a HiPS in arcsec, by its record at the CDS."""
    absent = f'the CDS has no HiPS {hips!r}'
    path = download(_HIPS_RECORDS, absent, ID=hips, get='record', fmt='json')
    with open(path, encoding='utf-8') as file:  # noqa: PTH123
        records = json.load(file)
    scales = [record['hips_pixel_scale'] for record in records if record['ID'] == hips]
    advice = 'name a HiPS of images that the CDS has; or give pixel_scale'
    require(scales, 'hips', advice, repr(hips))
    return float(scales[0]) * 3600


# -- Simple Image Access -------------------------------------------------------------


def read_sia(url, position, size, given, *, choose, version, search):
    """Exposure of an image that an archive finds."""
    try:
        from pyvo.dal import DALAccessError
    except ImportError as error:
        raise ImportError(f'from_sia {_NEEDS.format("pyvo")}') from error
    centre = _position(position)
    side = u.Quantity(_number('size', size, u.deg, 'positive', unit=True), u.deg)
    try:
        records = list(_search(url, centre, side, version, search))
        found = [one for one in records if _is_fits(_format(one))]
        require(found, 'position', f'be where {url} has FITS images', _listed(records))
        record = found[_choice(found, centre, choose)]
        link = getattr(record, 'access_url', None) or record.getdataurl()
        if 'datalink' in _format(record):
            link = next(record.getdatalink().bysemantics('#this')).access_url
    except DALAccessError as error:
        raise ConnectionError(f'{url} fails as a service of images: {error}') from error
    path = download_fits(link, f'{url} names a file that is not there')
    exposure = Exposure.read(path, **given)
    row = {key: str(record.get(key)) for key in record.keys()}  # noqa: SIM118
    sia = {'url': link, 'n_images': len(found), 'row': row}
    exposure = exposure.replace(meta=exposure.meta | {'sia': sia})
    return _cut(exposure, centre, side.to_value(u.arcsec))


def _search(url, centre, side, version, search):
    """Answers of a service to a query of either version."""
    from pyvo.dal import DALServiceError, SIA2Service, SIAService

    require(version in (None, 1, 2), 'version', 'be 1, 2 or None', version)
    if version != 1:
        try:
            service = SIA2Service(url)
        except (DALServiceError, ValueError) as error:  # or a page that is no XML
            if version == 2:
                raise DALServiceError(str(error)) from error
        else:
            circle = (centre.ra, centre.dec, side / 2)
            return service.search(pos=circle, **{'data_type': 'image'} | search)
    service = SIAService(url)
    return service.search(pos=centre, size=side, **{'format': 'image/fits'} | search)


def _format(record):
    """Format of a file of an answer of either version, in lower case."""
    value = getattr(record, 'access_format', None) or getattr(record, 'format', None)
    return str(value or '').lower()


def _is_fits(text):
    """Whether a format is FITS, not stated, or a link to files."""
    return not text or 'fits' in text or 'datalink' in text


def _listed(records):
    """Files that a service found, for a message."""
    formats = sorted({_format(one) for one in records})
    return f'{len(records)} files of format {", ".join(formats)}' if records else 'none'


def _choice(found, centre, choose):
    """Number of an image among those found."""
    if callable(choose):
        from astropy.table import Table

        choose = choose(Table([{key: one.get(key) for key in one} for one in found]))
    if choose is not None:
        return check_integer('choose', choose, 0, len(found) - 1)
    return int(np.argmin([_separation(one, centre) for one in found]))


def _separation(record, centre):
    """Distance of the centre of an image in deg, infinite where it is not stated."""
    try:
        place = getattr(record, 'pos', None)
        if place is None:
            place = SkyCoord(record.s_ra, record.s_dec, unit='deg')
        return centre.separation(place).deg
    except (AttributeError, TypeError, ValueError):
        return np.inf


def _cut(exposure, centre, side):
    """Square of a side (arcsec) about a position."""
    if exposure.wcs is None:
        warn('the image has no WCS and is not cut.')
        return exposure
    x, y = exposure.wcs.world_to_pixel(centre)
    n = max(1, round(side / exposure.pixel_scale))
    slices = []
    for place, length in ((y, exposure.shape[0]), (x, exposure.shape[1])):
        low = round(float(place) - (n - 1) / 2) if np.isfinite(place) else length
        allowed, got = 'be in the chosen image', f'pixel ({x:.1f}, {y:.1f})'
        require(-n < low < length, 'position', allowed, got)
        slices.append(slice(max(low, 0), min(low + n, length)))
    return exposure[tuple(slices)]


# -- arguments -----------------------------------------------------------------------


def _position(position):
    """Position in ICRS of a coordinate, a pair in deg, or a name."""
    if isinstance(position, str):
        return SkyCoord.from_name(position)
    if isinstance(position, SkyCoord):
        require(position.isscalar, 'position', 'be one position', position.shape)
        return position.icrs
    allowed = 'be a SkyCoord, a pair (ra, dec) in deg, or a name'
    try:
        ra, dec = position
        return SkyCoord(ra, dec, unit='deg')
    except (TypeError, ValueError) as error:
        raise type(error)(f'position must {allowed}; got {position!r:.60}') from None


def _number(name, value, default, sign=None, *, unit=False):
    """Number in a unit of one with that or no unit; one with, if it must have one."""
    has = hasattr(value, 'unit')
    if unit or has:
        sound = has and value.unit.is_equivalent(default)
        require(sound, name, f'be an angle, such as 5 * u.{default}', value, TypeError)
        value = value.to_value(default)
    return check_number(name, value, sign)


def _side(size, pixel):
    """Side in pixels of a number of them or an angle (pixels in arcsec)."""
    if hasattr(size, 'unit'):
        size = np.ceil(_number('size', size, u.arcsec, 'positive') / pixel)
    return check_integer('size', size, 1)
