# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Mosaics: images of any size as overlapping chunks, each of which owns a box of pixels.
"""

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.spatial import cKDTree

from bliss_astro._arguments import check_integer, must, require
from bliss_astro.exposures._fits_image import parse_location
from bliss_astro.exposures._geometry import check_wcs, sky_wcs

from ._chunk import MosaicField, put_part
from ._fields import check_options
from ._plug_ins import open_field
from ._sections import MAPS, is_array, is_zarr, shape_of

# Sides of chunks and overlaps are whole numbers of cells of the background's mesh and
# of the PSF, and of pairs of tiles, so that all of these are those of the mosaic.
CELL = 64
# Least side of a chunk. The least overlap is one cell: the network and the sweep see
# 60 px, beyond which nothing changes a probability.
_CHUNK_MIN = 256
# Rows of two chunks are one source up to this distance in pixels, which is also the
# largest distance from a border within which it matters that they are two.
_REACH = 1.0


def fields_of(
    mosaic, chunk=2048, overlap=128, *, name=None, extension=None, wcs=None, **given
):
    """
    Cut a mosaic into overlapping chunks that are read when they are opened.

    Each chunk owns a box of pixels, the boxes cover the mosaic once, and a chunk is
    read ``overlap`` pixels further, which is more than the network sees: rows in its
    box are those of the whole mosaic, see :ref:`mosaics`.

    Parameters
    ----------
    mosaic : str, `~os.PathLike`, 2D array or dict of them
        FITS file, plain or compressed by tiles (fpack); store of zarr,
        ``'store.zarr/NAME'``; either by path or by a URL of fsspec
        (``'s3://...'``). Or an array of dask, zarr or numpy. Several bands on one
        pixel grid are a dict by name of the band.

    chunk : int, optional
        Largest side of the boxes in pixels, a multiple of 64; they are about even.
        Memory goes with it, see :ref:`mosaics`.

    overlap : int, optional
        Pixels that chunks reach beyond their boxes, a multiple of 64, at least 64.

    name : str, optional
        Name of the mosaic: ids of its fields begin with it. By default that of the
        file.

    extension : int or str, optional
        HDU of the image, or array in a group of zarr; by default the first image.

    wcs : `~astropy.wcs.WCS`, optional
        Celestial coordinates of the whole mosaic, for arrays; files have theirs. A
        mosaic may have none: its rows then have no positions on the sky.

    **given
        Arguments of `Exposure.read <bliss_astro.exposures.ExposureRead>`: numbers,
        or maps of the whole mosaic as files, URLs, extensions of its file, or
        arrays: ``weight``, ``bkg_error``, ``mask``, ``background`` and others, and
        ``variance``, that of the sky. A ``psf`` is in pixels of the mosaic. Dicts have
        a value for each band; ``reference`` names the reference band.

    Returns
    -------
    fields : list of `FieldRef`
        Chunks, row by row, of one ``group``.

    Raises
    ------
    OSError
        If a file is not there or cannot be read in parts.

    TypeError, ValueError
        If an argument cannot be used, ``chunk`` or ``overlap`` are too small, or a
        map or band has another shape than the mosaic.

    See Also
    --------
    prepare_mosaic : Determines once what would differ from chunk to chunk.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.runs import fields_of
    >>> fields = fields_of(np.ones((600, 900)), 512, bkg_error=2.0, name='m31')
    >>> [field.id for field in fields]
    ['m31-x0-y0', 'm31-x1-y0', 'm31-x0-y1', 'm31-x1-y1']
    >>> fields[1].options['box'], fields[1].owned
    ([[384, 900], [0, 448]], ((128, 516), (0, 320)))
    """
    chunk = _check_side('chunk', chunk, _CHUNK_MIN)
    overlap = _check_side('overlap', overlap, CELL)
    bands = mosaic if isinstance(mosaic, Mapping) else {'': mosaic}
    require(len(bands) > 0, 'mosaic', 'have a band', 'none')
    known = open_field.keywords | {'reference', 'variance'}
    check_options(given, known, 'a mosaic has the options')
    sources = {str(b): _as_source('mosaic', v, extension) for b, v in bands.items()}
    given = {key: _of_bands(key, v, sources) for key, v in given.items()}
    given = {key: v for key, v in given.items() if v is not None}
    shape, found = _check_shapes(sources, given)
    # Files have their own, which is not stored with each chunk.
    given['wcs'] = check_wcs(wcs)
    wcs = found if wcs is None else wcs
    sky = None if wcs is None else sky_wcs(wcs, shape)
    name = _name_of(next(iter(sources.values()))) if name is None else name
    rows, columns = (enumerate(_spans(n, chunk)) for n in shape)
    fields = []
    for (j, own_y), (i, own_x) in itertools.product(rows, columns):
        own = own_x, own_y
        box = [
            [max(0, part.start - overlap), min(n, part.stop + overlap)]
            for part, n in zip(own, shape[::-1], strict=True)
        ]
        cut, parts = tuple(slice(*part) for part in reversed(box)), {}
        every = {'files': sources, 'options': given}
        every = {k: _plain(v, cut, shape, parts) for k, v in every.items()}
        every['options'] = {'box': box, 'shape': shape} | every['options']
        owned = tuple(
            (part.start - first, part.stop - first)
            for part, (first, _) in zip(own, box, strict=True)
        )
        place = {'owned': owned, 'footprint': sky and _corners(sky, box)}
        field = MosaicField.of(
            f'{name}-x{i}-y{j}', group=name, parts=parts, **every, **place
        )
        fields.append(field)
    return fields


def _check_side(name, value, least):
    """Side in pixels, a multiple of the cells."""
    value = check_integer(name, value, least)
    require(value % CELL == 0, name, f'be a multiple of {CELL}', value)
    return value


def _as_source(name, value, extension):
    """An image as text or array."""
    if is_array(value):
        require(extension is None, 'extension', 'be left out for arrays', extension)
        n_dim = len(value.shape)
        require(n_dim == 2, name, 'have two dimensions', f'{n_dim}')
        return _as_path(value)
    kinds = 'be a path, a URL, or an array of two dimensions'
    if isinstance(value, fits.HDUList) or not hasattr(value, '__fspath__') | isinstance(
        value, str
    ):
        raise TypeError(must(name, kinds, type(value).__name__))
    text = str(value)
    location = parse_location(text, extension)
    require(location.section is None, name, 'be a whole image', repr(text))
    if location.extension is None or extension is None:
        return text
    key = location.extension
    key = ','.join(map(str, key)) if isinstance(key, tuple) else key
    return f'{location.path}[{key}]'


def _as_path(array):
    """Path or URL of an array of zarr in a store of that ending, else what it is."""
    path = str(array.store_path) if is_zarr(array) else ''
    path = path.removeprefix('file://')
    return path if '.zarr' in path and not path.startswith('memory:') else array


def _of_bands(key, value, sources):
    """An argument, of which a dict has a value for each band."""
    if not isinstance(value, Mapping):
        return str(value) if hasattr(value, '__fspath__') else _as_path(value)
    names = {str(band): _of_bands(key, one, {}) for band, one in value.items()}
    allowed = f'name bands among {", ".join(sources)}'
    require(set(names) <= set(sources), key, allowed, list(names))
    return names


def _check_shapes(sources, given):
    """Shape and WCS of a mosaic whose bands and maps all have it."""
    (first, shape, wcs), *others = [
        (band, *shape_of(source, 'mosaic')) for band, source in sources.items()
    ]
    require(len(shape) == 2, 'mosaic', 'have two dimensions', f'{len(shape)}')
    others = [(f'mosaic: band {band!r}', other) for band, other, _ in others]
    for key in set(MAPS) & set(given):
        values = given[key] if isinstance(given[key], Mapping) else {first: given[key]}
        for band, value in values.items():
            found = _map_shape(key, value, sources[band])
            others += [] if found is None else [(key, found)]
    for key, other in others:
        require(other == shape, key, f'have the shape {shape} of the mosaic', other)
    return shape, wcs


def _map_shape(key, value, source):
    """Shape of a map, None of a number or a word."""
    if is_array(value):
        return tuple(value.shape)
    if not isinstance(value, str) or value in ('header', 'measure'):
        return None
    if '://' in value or Path(parse_location(value).path).exists():
        return shape_of(value, key)[0]
    # Of the image's own file.
    plain = isinstance(source, str) and not Path(value).suffix
    path = parse_location(source).path if plain else value
    extension = parse_location(f'own[{value}]').extension if plain else None
    return shape_of(path, key, extension)[0]


def _spans(n, most):
    """Nearly even slices of n pixels, of at most so many and of whole cells."""
    n_spans = math.ceil(n / most)
    side = math.ceil(n / n_spans / CELL) * CELL
    return [slice(k, min(k + side, n)) for k in range(0, n, side)]


def _plain(value, cut, shape, parts):
    """An argument as JSON holds it; what it cannot hold is cut and put into parts."""
    if isinstance(value, Mapping):
        return {key: _plain(one, cut, shape, parts) for key, one in value.items()}
    if value is None or isinstance(value, str | bool | int | float | list | tuple):
        return value
    if is_array(value) and tuple(value.shape) == tuple(shape):
        # Arrays of zarr are cut when they are read.
        value = value if is_zarr(value) else value[cut]
        if hasattr(value, 'dask'):
            import dask

            # Without the tasks of all other chunks.
            (value,) = dask.optimize(value)
    return put_part(value, parts)


def _name_of(source):
    """Name of a mosaic: that of its file."""
    path = parse_location(source).path if isinstance(source, str) else 'mosaic'
    stem = path.rstrip('/').rpartition('/')[2].partition('.')[0]
    return re.sub(r'[^A-Za-z0-9_+]+', '-', stem).strip('-_+') or 'mosaic'


def _corners(wcs, box):
    """Corners of a chunk in degrees, or None where they are not on the sky."""
    (x0, x1), (y0, y1) = np.array(box) - 0.5
    x, y = [x0, x1, x1, x0], [y0, y0, y1, y1]
    sky = wcs.pixel_to_world(x, y).icrs
    corners = np.column_stack([sky.ra.deg, sky.dec.deg])
    return tuple(map(tuple, corners.tolist())) if np.isfinite(corners).all() else None


def merge_chunks(fields, tables):
    """
    Find the rows of the chunks of one mosaic that are in its catalogue.

    A row counts where its chunk owns its position. Chunks see the same pixels around a
    border, but by rounding, or by numbers that were estimated in each, they may place
    a source on different sides of it. So rows of different chunks within 2 px of a
    border and 1 px of each other, the nearest first, are one source, of which the most
    probable row counts, of equal ones (to 1e-3) that of the owner. One that a single
    chunk lists counts there if its position is within its error, at most 1 px, of
    the chunk's box.

    Parameters
    ----------
    fields : list of `FieldRef`
        Chunks of one group.

    tables : list of `~astropy.table.Table` or dict
        All rows of each, in its own pixels: ``x_centroid``, ``y_centroid``,
        ``x_err``, ``y_err`` and ``probability``.

    Returns
    -------
    primary : list of bool `~numpy.ndarray`
        Rows of each chunk that count.
    """
    ends = np.cumsum([len(table['probability']) for table in tables])[:-1]
    parts = [_rows_of(*pair) for pair in zip(fields, tables, strict=True)]
    place, beyond, error, probability = map(np.concatenate, zip(*parts, strict=True))
    chunk = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    own = beyond < 0
    primary = beyond <= np.where(own, np.inf, error.clip(max=_REACH))
    near = np.flatnonzero(np.abs(beyond) <= 2 * _REACH)
    groups = _groups_of(place[near], chunk[near])
    for group in (near[group] for group in groups):
        best = max(group, key=lambda k: (round(probability[k], 3), own[k], -chunk[k]))
        primary[group], primary[best] = False, True
    return np.split(primary, ends)


def _rows_of(field, table):
    """Places of rows in the mosaic, how far beyond the box, errors, probabilities."""
    names = ('x_centroid', 'y_centroid', 'x_err', 'y_err', 'probability')
    x, y, *error, probability = (np.asarray(table[name], float) for name in names)
    place = np.column_stack([x, y])
    low, high = np.array(field.owned).T - 0.5
    # Half-open boxes: a place on the upper border is beyond it.
    beyond = np.maximum(low - place, np.nextafter(place - high, np.inf))
    beyond[place == low] = np.nextafter(0, -1)
    first = [part.start for part in field.cut[::-1]]
    return place + first, beyond.max(1, initial=-np.inf), np.max(error, 0), probability


def _groups_of(place, chunk):
    """Groups of rows of different chunks that are one source, lists of indices."""
    pairs = cKDTree(place).query_pairs(_REACH, output_type='ndarray')
    pairs = pairs[chunk[pairs[:, 0]] != chunk[pairs[:, 1]]]
    apart = np.hypot(*(place[pairs[:, 0]] - place[pairs[:, 1]]).T)
    group = {}
    for one, two in pairs[np.argsort(apart, kind='stable')].tolist():
        a, b = group.get(one, [one]), group.get(two, [two])
        if not {int(chunk[k]) for k in a} & {int(chunk[k]) for k in b}:
            group |= dict.fromkeys(joined := a + b, joined)
    return {id(members): members for members in group.values()}.values()
