# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sections of images of any size: FITS files and zarr stores, here or remote, and arrays.

Nothing but the section is read, with the header, coordinates and maps.
"""

import contextlib
import re
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.utils.masked import Masked

from bliss_astro._arguments import require
from bliss_astro._fits import absent, check_file, has_hdu, header_wcs
from bliss_astro._sample import indices, seam_of
from bliss_astro._warnings import warn
from bliss_astro.exposures._fits_image import MAPS, parse_location, trim_section
from bliss_astro.exposures._geometry import cut_wcs
from bliss_astro.exposures._read import exposure_of_array, read_hdus
from bliss_astro.exposures._validate import is_word
from bliss_astro.units import sparse

# Files that can only be decompressed as a whole, and stores of zarr.
_PACKED = re.compile(r'.*\.(gz|bz2|xz|Z|zip)', re.IGNORECASE)
_STORE = re.compile(r'(.*\.zarr)(?:/(.*))?', re.IGNORECASE)
# Extensions that go with an image.
_OWN = 'MASK', 'UNCERT'
# Cards of the numbers of a file, and of the whole image, that a section does not have.
_CARDS = 'BSCALE', 'BZERO', 'BLANK', 'TRIMSEC', 'DATASEC', 'CHECKSUM', 'DATASUM'
# Maps that may be given of an image.
MAPS = (*MAPS, 'variance')


class NoPixelsError(ValueError):
    """A section of a mosaic has no good pixel."""


def is_array(value):
    """Whether a value is an array of pixels, in memory or not."""
    return hasattr(value, 'shape') and len(value.shape) > 0


def is_zarr(value):
    """Whether a value is an array of zarr."""
    return type(value).__module__.startswith('zarr')


def as_pixels(array, cut):
    """Pixels of an array of dask, zarr or numpy, of the section or the whole."""
    if array.shape != tuple(len(indices(part)) for part in cut):
        return _blocks(lambda part: as_pixels(array[part], part), cut)
    if hasattr(array, 'dask'):
        array = array.compute(scheduler='synchronous')
    return array if isinstance(array, u.Quantity) else np.asanyarray(array)


def _blocks(read, cut):
    """Pixels of a section, or side by side of a `Sample`, with lists of slices."""
    rows, columns = ([part] if isinstance(part, slice) else part for part in cut)
    parts = [[read((y, x)) for x in columns] for y in rows]
    parts = [np.concatenate(line, axis=1) if line[1:] else line[0] for line in parts]
    return np.concatenate(parts) if parts[1:] else parts[0]


@contextlib.contextmanager
def open_image(source, parameter, extension=None):
    """
    Open an image of any size, of which nothing but the header is read.

    Yields the FITS file with the number of the HDU, or an array and None. Paths and
    URLs may name an extension; a file that is absent is an `OSError`.
    """
    if is_array(source):
        yield source, None
        return
    location = parse_location(source, extension)
    path, name = location.path, location.extension
    found = _STORE.fullmatch(path)
    remote = '://' in path
    if found is not None:
        yield _open_store(*found.groups(), name, parameter), None
        return
    allowed = 'be plain FITS or compressed by tiles (fpack), to be read in parts'
    require(not _PACKED.fullmatch(path), parameter, allowed, repr(path))
    if not remote:
        check_file(path, parameter, 'an image or a file')
    with contextlib.ExitStack() as stack:
        with _missing(parameter, path):
            file = stack.enter_context(_open_file(path, remote))
        try:
            options = {'memmap': False, 'lazy_load_hdus': True}
            hdus = stack.enter_context(fits.open(file, **options))
            k = _find_plane(hdus, name, parameter)
        except OSError as error:
            msg = f'{parameter}={path!r} cannot be read as FITS ({error})'
            raise OSError(msg) from error
        yield hdus, k


def _open_file(path, remote):
    if not remote:
        return Path(path).open('rb')
    import fsspec

    return fsspec.open(path, 'rb')


@contextlib.contextmanager
def _missing(parameter, path):
    """Name the argument whose file or store is not there."""
    try:
        yield
    except FileNotFoundError as error:
        msg = f'{parameter}: there is no file {path!r}'
        raise FileNotFoundError(msg) from error


def _open_store(path, inner, name, parameter):
    """Array of a store of zarr."""
    import zarr

    with _missing(parameter, path):
        found = zarr.open(path, mode='r')
        for part in (inner, name):
            found = found if part is None else found[str(part)]
    allowed = 'name an array of the store: path.zarr/NAME'
    require(is_array(found), parameter, allowed, repr(path))
    return found


def _find_plane(hdus, extension, parameter):
    """Number of the HDU of an image, by its header: of that named, or the first."""
    found = range(len(hdus))
    if extension is not None:
        there = has_hdu(hdus, extension)
        wanted = f'extension {extension}'
        found = [hdus.index_of(extension)] if there else []
    else:
        wanted = 'two-dimensional image'
    found = [k for k in found if _plane_shape(hdus[k]) is not None]
    if not found:
        raise ValueError(absent(hdus, parameter, wanted))
    return found[0]


def _plane_shape(hdu):
    """Shape of a two-dimensional image, whatever axes of one pixel it has before."""
    shape = tuple(hdu.shape) if hdu.is_image else ()
    plane = len(shape) >= 2 and all(n == 1 for n in shape[:-2]) and min(shape) > 0
    return shape[-2:] if plane else None


def shape_of(source, parameter, extension=None):
    """Shape (ny, nx) of an image, of an array as it is; and its WCS, or None."""
    with open_image(source, parameter, extension) as (image, k):
        if k is None:
            return tuple(image.shape), None
        return _plane_shape(image[k]), _wcs_of(image, k)


def _wcs_of(hdus, k):
    """WCS of a whole image of a file, or None; with a warning where it has errors."""
    header = hdus[k].header
    if not any(f'CTYPE{axis}' in header for axis in (1, 2, 3)):
        return None
    try:
        return header_wcs(header, _plane_shape(hdus[k]), hdus)
    except Exception as error:  # noqa: BLE001 - wcslib fails in many ways
        warn(
            f'wcs of {hdus.filename()!r} cannot be used: {" ".join(str(error).split())}'
        )
        return None


def _pixels(hdu, cut):
    """Pixels of a section of an HDU."""
    extra = (0,) * (len(hdu.shape) - 2)
    data = _blocks(lambda part: hdu.section[(*extra, *part)], cut)
    return np.asarray(data, dtype=data.dtype.newbyteorder('='))


def is_measured(value):
    """Whether a background, of one band, is to be measured."""
    return value is None or is_word(value, 'measure')


def read_section(source, cut, *, extension=None, wcs=None, estimated=None, **given):
    """
    Read an exposure of a section of an image: as `Exposure.read` does of a whole one.

    ``cut`` are slices of rows and columns with explicit bounds, or those of a `Sample`.
    Maps and PSFs among the arguments are those of the whole image; arrays have been
    cut. Sources of numbers that were estimated before are added to those of the others.
    """
    estimated = dict(estimated or {})
    with open_image(source, 'mosaic', extension) as (image, k):
        given = _cut_maps(given, cut, image, k)
        if k is None:
            data = _without_seams(as_pixels(image, cut), cut)
            _check_some(data, given)
            for name in {'background', 'bkg_error'} & set(given):
                # Those that were estimated before have none.
                value = given[name]
                if isinstance(data, u.Quantity) and not hasattr(value, 'unit'):
                    if isinstance(value, np.ma.MaskedArray):
                        # Whose products with a unit have no mask.
                        value = Masked(value.data, value.mask)
                    given[name] = value * data.unit
            given['wcs'] = None if wcs is None else cut_wcs(wcs, *_firsts(cut))
            exposure = exposure_of_array(data, given, estimated)
            meta = exposure.meta | {'estimated': estimated}
            exposure = exposure.replace(meta=meta) if estimated else exposure
        else:
            hdus = _cut_hdus(image, k, cut)
            _check_some(hdus[-1 if k else 0].data, given)
            wcs = _wcs_of(image, k) if wcs is None else wcs
            wcs = None if wcs is None else cut_wcs(wcs, *_firsts(cut))
            name = source if isinstance(source, str) else image.filename()
            given |= {'wcs': wcs, 'meta': {'file': name} | (given.get('meta') or {})}
            given = {key: v for key, v in given.items() if v is not None}
            location = parse_location('', 'SECTION' if k else 0)
            exposure, _ = read_hdus(hdus, location, 'fits', given, estimated)
    if 'weight' in given:
        scale = sparse(exposure.bkg_error * np.sqrt(given['weight']))
        scale = float(np.median(scale[np.isfinite(scale) & (scale > 0)]))
        exposure = exposure.replace(meta=exposure.meta | {'weight_scale': scale})
    if exposure.psf is not None:
        y0, x0 = (part.start for part in _firsts(cut))
        exposure = exposure.replace(psf=exposure._psf_access.cutout(x0, y0))
    return exposure


def _firsts(cut):
    """The first slices of rows and columns."""
    return [part if isinstance(part, slice) else part[0] for part in cut]


def _without_seams(data, cut):
    """Pixels of a `Sample` without those on borders between its windows."""
    seams = [seam_of(part) for part in cut if not isinstance(part, slice)]
    if not any(own.any() for own in seams):
        return data
    data = data.astype(np.result_type(data.dtype, np.float32))
    data[np.logical_or.outer(*seams)] = np.nan
    return data


def _check_some(data, given):
    """Raise unless a section has a pixel that is no NaN, 0, masked or unweighted."""
    good = np.isfinite(np.asarray(data)) & (np.asarray(data) != 0)
    good &= ~np.ma.getmaskarray(given.get('bkg_error', 0.0))
    if is_array(given.get('mask')):
        good &= np.asarray(given['mask']) == 0
    if is_array(given.get('weight')):
        good &= np.asarray(given['weight']) > 0
    if not good.any():
        msg = 'data must have good pixels, got none in this section.'
        raise NoPixelsError(msg)


def _cut_hdus(hdus, k, cut):
    """HDU list in memory of a section of an image and of the maps in its file."""
    header, shape = hdus[k].header.copy(), _plane_shape(hdus[k])
    data = _without_seams(_pixels(hdus[k], cut), cut)
    _, exposed = trim_section(header, shape)
    if exposed is not None:
        # Like pixels without a value.
        inside = [
            (own.start <= indices(part)) & (indices(part) < own.stop)
            for part, own in zip(cut, exposed, strict=True)
        ]
        data = np.where(np.logical_and.outer(*inside), data, np.float32(np.nan))
    for card in _CARDS:
        header.remove(card, ignore_missing=True, remove_all=True)
    parts = [fits.PrimaryHDU(data, header)]
    if k:
        cards = [c for c in hdus[0].header.cards if c.keyword not in _CARDS]
        parts = [fits.PrimaryHDU(header=fits.Header(cards))]
    for name in _OWN:
        number = hdus.index_of(name) if name in hdus else k
        if number != k and _plane_shape(hdus[number]) == shape:
            own = fits.ImageHDU(_pixels(hdus[number], cut), name=name)
            own.header['UTYPE'] = hdus[number].header.get('UTYPE', '')
            parts.append(own)
    if k:
        parts.append(fits.ImageHDU(data, header, name='SECTION'))
    return fits.HDUList(parts)


def _cut_maps(given, cut, image, k):
    """Cut the maps of a whole image that are files; variances become noise."""
    given = {name: value for name, value in given.items() if value is not None}
    for name in set(MAPS) & set(given):
        value = given[name]
        if any(is_word(value, word) for word in ('header', 'measure')):
            continue
        if isinstance(value, str):
            given[name] = _cut_map(value, name, cut, image, k)
        elif is_array(value):
            given[name] = as_pixels(value, cut)
        if name == 'mask':
            given[name] = np.asarray(given[name]) != 0
    scale = given.pop('weight_scale', None)
    if scale is not None:
        # No longer one that is estimated.
        with np.errstate(divide='ignore', invalid='ignore'):
            given['variance'] = scale**2 / np.asarray(given.pop('weight'), float)
    if 'variance' in given:
        variance = given.pop('variance')
        bad = ~((variance > 0) & np.isfinite(variance))
        noise = np.sqrt(np.where(bad, np.nan, variance))
        given['bkg_error'] = np.ma.MaskedArray(noise, bad)
    return given


def _cut_map(source, name, cut, image, k):
    """Section of a map in a file, or in an extension of the image's own."""
    own = '://' not in source and not Path(parse_location(source).path).exists()
    if own and k is not None and _STORE.fullmatch(source) is None:
        key = parse_location(f'own[{source}]').extension
        if has_hdu(image, key):
            return _pixels(image[key], cut)
    with open_image(source, name) as (found, number):
        if number is None:
            return as_pixels(found, cut)
        value = _pixels(found[number], cut)
        unit = found[number].header.get('BUNIT')
        if k is not None and unit and image[k].header.get('BUNIT') and name != 'mask':
            value = value << u.Unit(unit)
        return value
