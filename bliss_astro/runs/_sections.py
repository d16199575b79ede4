# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sections of images of any size: FITS files and zarr stores, here or remote, and arrays.

Nothing but the section is read, with the header, coordinates and maps.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits

from bliss_astro._arguments import require
from bliss_astro._fits import absent, check_file, has_hdu, header_wcs
from bliss_astro._warnings import warn
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._fits_image import MAPS, parse_location, trim_section
from bliss_astro.exposures._geometry import cut_wcs
from bliss_astro.exposures._read import exposure_of_array
from bliss_astro.exposures._validate import is_word
from bliss_astro.units import sparse

# Files that can only be decompressed as a whole, and stores of zarr.
_PACKED = re.compile(r'.*\.(gz|bz2|xz|Z|zip)', re.IGNORECASE)
_STORE = re.compile(r'(.*\.zarr)(?:/(.*))?', re.IGNORECASE)
# Pixels around a section from which on its mesh of the background is that of the image:
# three cells.
_MARGIN = 192
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
    if array.shape != tuple(part.stop - part.start for part in cut):
        array = array[cut]
    if hasattr(array, 'dask'):
        array = array.compute(scheduler='synchronous')
    return array if isinstance(array, u.Quantity) else np.asanyarray(array)


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
    data = hdu.section[(*(0,) * (len(hdu.shape) - 2), *cut)]
    return np.asarray(data, dtype=data.dtype.newbyteorder('='))


def measures(options):
    """Whether the background is measured, in one band at least."""
    background = options.get('background')
    every = background.values() if isinstance(background, Mapping) else [background]
    return any(one is None or is_word(one, 'measure') for one in every)


def widened(cut, shape):
    """A section with more around it, and slices of it in that."""
    wide = tuple(
        slice(max(0, part.start - _MARGIN), min(n, part.stop + _MARGIN))
        for part, n in zip(cut, shape, strict=True)
    )
    return wide, tuple(
        slice(part.start - own.start, part.stop - own.start)
        for part, own in zip(cut, wide, strict=True)
    )


def read_section(source, cut, *, inner=None, extension=None, wcs=None, **given):
    """
    Read an exposure of a section of an image: as `Exposure.read` does of a whole one.

    ``cut`` are slices of rows and columns with explicit bounds, of which those of
    ``inner`` are returned, if given. Maps and PSFs among the arguments are those of the
    whole image; arrays have been cut.
    """
    with open_image(source, 'mosaic', extension) as (image, k):
        given = _cut_maps(given, cut, image, k)
        if k is None:
            data, estimated = as_pixels(image, cut), {}
            _check_some(data, given)
            wcs = None if wcs is None else cut_wcs(wcs, *cut)
            exposure = exposure_of_array(data, given | {'wcs': wcs}, estimated)
            meta = exposure.meta | {'estimated': estimated}
            exposure = exposure.replace(meta=meta) if estimated else exposure
        else:
            hdus = _cut_hdus(image, k, cut)
            _check_some(hdus[-1 if k else 0].data, given)
            wcs = _wcs_of(image, k) if wcs is None else wcs
            wcs = None if wcs is None else cut_wcs(wcs, *cut)
            own = {'format': 'fits', 'extension': 'SECTION' if k else 0, 'wcs': wcs}
            name = source if isinstance(source, str) else image.filename()
            exposure = Exposure.read(hdus, meta={'file': name}, **own, **given)
    if 'weight' in given:
        scale = sparse(exposure.bkg_error * np.sqrt(given['weight']))
        scale = float(np.median(scale[np.isfinite(scale) & (scale > 0)]))
        exposure = exposure.replace(meta=exposure.meta | {'weight_scale': scale})
    if exposure.psf is not None:
        x0, y0 = cut[1].start, cut[0].start
        exposure = exposure.replace(psf=exposure._psf_access.cutout(x0, y0))
    return exposure if inner is None else exposure[inner]


def _check_some(data, given):
    """Raise unless a section has a pixel that is no NaN, 0 or masked."""
    good = np.isfinite(np.asarray(data)) & (np.asarray(data) != 0)
    mask = given.get('mask')
    if not np.any(good if mask is None else good & (np.asarray(mask) == 0)):
        msg = 'data must have good pixels, got none in this section.'
        raise NoPixelsError(msg)


def _cut_hdus(hdus, k, cut):
    """HDU list in memory of a section of an image and of the maps in its file."""
    header, shape = hdus[k].header.copy(), _plane_shape(hdus[k])
    data = _pixels(hdus[k], cut)
    _, exposed = trim_section(header, shape)
    if exposed is not None:
        # Like pixels without a value.
        inside = [
            (own.start <= np.arange(part.start, part.stop))
            & (np.arange(part.start, part.stop) < own.stop)
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
        noise = np.sqrt(np.where(bad, 1, variance))
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
