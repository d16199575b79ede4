# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
First pass over a mosaic: numbers that would differ from chunk to chunk, once for all.
"""

import hashlib
import itertools
import json
import math
from pathlib import Path

import numpy as np

from bliss_astro._arguments import require
from bliss_astro._atomic import atomic_write
from bliss_astro._threads import use_threads
from bliss_astro.detection._bands import prepare_bands
from bliss_astro.detection._detect import DetectionOptions
from bliss_astro.detection._estimates import as_exposure
from bliss_astro.detection._images import ImageInputs
from bliss_astro.detection._infer import (
    DENSITY_CELL,
    SAMPLE_SIDE,
    is_sampled,
    sample_counts,
    sampled_places,
    smooth_density,
    windows_at,
)
from bliss_astro.detection._inputs import tile_mean
from bliss_astro.exposures._psf import central_psf
from bliss_astro.exposures._set import images_by_band

from ._chunk import MosaicField, put_part
from ._sections import NoPixelsError, is_array

# Boxes, spread over the mosaic, of which numbers are medians, and their side in pixels:
# of a mosaic that is no larger they are those of one image.
_SAMPLES, _SAMPLE_SIDE = 9, 4096
# Numbers for all pixels of an image that are medians where they are estimated.
_NUMBERS = 'bkg_error', 'effective_gain', 'noise_correlation', 'background_error'
# Largest relative scatter of the PSF's width between boxes that have one PSF, beyond
# that of its errors.
_PSF_SCATTER = 0.02


def prepare_mosaic(fields, path=None, *, client=None, **options):
    """
    Determine once what would otherwise be estimated anew in each chunk of a mosaic.

    These are the prior density of sources, as one image has it; and of what is not
    given the noise, the gain and the correlation of the noise, medians of up to nine
    boxes of 4096 px (of arrays: of its chunks), and the PSF, that of the box of median
    width, unless widths differ by more than 2 % and their errors. A background that is
    not given is measured in each chunk. Chunks without a good pixel are left out.

    Parameters
    ----------
    fields : list of `FieldRef`
        Chunks of one mosaic, from `fields_of`.

    path : str or `~os.PathLike`, optional
        File ``.npz`` in which results are kept: the same call reads it and is done.

    client : `dask.distributed.Client`, optional
        Works on the chunks in parallel.

    **options
        Keywords of `~bliss_astro.detection.detect_sources` that the run has:
        ``encoder``, ``flux_min``, ``density`` (which is then taken as it is).

    Returns
    -------
    fields : list of `FieldRef`
        Those with good pixels, with the numbers.

    Raises
    ------
    ValueError
        If ``fields`` are not those of one mosaic, or none has a good pixel.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator
    >>> from bliss_astro.runs import fields_of, prepare_mosaic
    >>> coadd, truth = CoaddSimulator(10, shape=(320, 320)).sample(rng=3)
    >>> fields = fields_of(coadd.data, 256, 64, psf=coadd.psf, bkg_error=9.0,
    ...                    background=coadd.background, effective_gain=1.0)
    >>> len(prepare_mosaic(fields, encoder='stars'))
    4
    """
    fields, groups = list(fields), {field.group for field in fields}
    sound = len(groups) == 1 and all(isinstance(f, MosaicField) for f in fields)
    require(sound, 'fields', 'be chunks of one mosaic, from fields_of', sorted(groups))
    made = DetectionOptions(**options)
    if len(fields) == 1:
        return [fields[0].with_options({}, prepared=True)]
    key = _key(fields, made)
    found = None if path is None else _read(path, key)
    if found is None:
        found = _survey(fields, made, client)
        if path is not None:
            _write(path, key, found)
    numbers, density, cell, empty = found
    fields = [field for field in fields if field.id not in empty]
    require(len(fields) > 0, 'mosaic', 'have good pixels', 'none')
    return [_prepared(field, numbers, density, cell) for field in fields]


def prepare_all(fields, folder, connect, job):
    """Prepare the mosaics of a run that are not yet, with the options of its job."""
    every, groups = [], {}
    for field in fields:
        if isinstance(field, MosaicField) and 'prepared' not in field.options:
            groups.setdefault(field.group, []).append(field)
        else:
            every.append(field)
    for name, group in groups.items():
        folder.mkdir(exist_ok=True)
        options = {'n_threads': 1} | job.options | {'encoder': job.encoder}
        options |= {'client': connect()}
        every += prepare_mosaic(group, folder / f'{name}.npz', **options)
    return every


def _prepared(field, numbers, density, cell):
    """A chunk with the numbers of the mosaic, and its part of the density."""
    parts, own = {}, {'prepared': True, **numbers}
    if density.size:
        box, pieces, margins, tiles = field.options['box'], [], [], []
        for (first, last), n in zip(box[::-1], density.shape, strict=True):
            # With a cell around, as it is interpolated.
            start = max(first // cell - 1, 0)
            pieces.append(slice(start, min(-(-last // cell) + 1, n)))
            margins.append((first // cell - start) * DENSITY_CELL)
            tiles.append(-(-(last - first) * DENSITY_CELL // cell))
        name = put_part(density[tuple(pieces)], parts)
        own['density'] = {'cells': name, 'margins': margins, 'tiles': tiles}
    return field.with_options(parts, **own)


def _survey(fields, options, client):
    """Numbers, density by cells and their side in pixels, and ids of empty chunks."""

    def run(function, some):
        if client is None:
            return [function(*one) for one in some]
        futures = [client.submit(function, *one, pure=False) for one in some]
        return client.gather(futures)

    shape = fields[0].options['shape']
    seen = run(_measure, [(field, options) for field in _samples(fields, shape)])
    numbers = _medians([one for one in seen if one is not None])
    fields = [field.with_options({}, **numbers) for field in fields]
    if options.density is not None:
        return numbers, np.zeros((0, 0), np.float32), 1, []
    counted = run(_count, [(field, options) for field in fields])
    pairs = zip(fields, counted, strict=True)
    empty = [field.id for field, one in pairs if one is None]
    return numbers, *_density([one for one in counted if one], shape), empty


def _samples(fields, shape):
    """Boxes of the mosaic of which numbers are measured, or some of its chunks."""
    if any(is_array(value) for field in fields for value in field.parts.values()):
        order = np.linspace(0, len(fields) - 1, min(len(fields), _SAMPLES)).round()
        return [fields[int(k)] for k in order]
    boxes = []
    for n in shape:
        number = min(-(-n // _SAMPLE_SIDE), math.isqrt(_SAMPLES))
        starts = np.linspace(0, max(n - _SAMPLE_SIDE, 0), number).astype(int).tolist()
        boxes.append([[k, min(k + _SAMPLE_SIDE, n)] for k in starts])
    pairs = itertools.product(*boxes)
    return [fields[0].with_options({}, box=[x, y]) for y, x in pairs]


def _measure(field, options):
    """Numbers of a chunk that were not given, by band: None of an empty one."""
    with use_threads(options.n_threads):
        try:
            images = images_by_band(field.open())
        except Exception:  # noqa: BLE001 (the run says of which chunk and why)
            return None
        found = {}
        for band, exposure in images.items():
            estimated = exposure.meta.get('estimated') or {}
            own = found[band or ''] = {}
            for name in _NUMBERS:
                source = 'background' if name == 'background_error' else name
                value = getattr(exposure, name)
                if source in estimated and np.size(value) <= 2:
                    own[name] = np.atleast_1d(value).tolist()
            if 'weight_scale' in exposure.meta:
                own['weight_scale'] = [exposure.meta['weight_scale']]
            if exposure.psf is None:
                exposure, _ = as_exposure(exposure)
                psf = central_psf(exposure)
                shape = [*map(float, psf.shape_vector), float(psf.normalization_radius)]
                own['psf'] = [float(psf.fwhm), float(exposure.psf_error), *shape]
        return found


def _medians(found):
    """Options with the medians of numbers of chunks, by band if there are several."""
    options, bands = {}, list(found[0]) if found else []
    for band in bands:
        every = [one[band] for one in found]
        for name in {name for own in every for name in own}:
            values = np.array([own[name] for own in every if name in own])
            if name == 'psf':
                options.setdefault('psf_shape', {})[band] = _one_psf(values)
                continue
            middle = np.median(values, axis=0).tolist()
            middle = middle if name == 'noise_correlation' else middle[0]
            options.setdefault(name, {})[band] = middle
    if bands == ['']:
        return {name: own[''] for name, own in options.items()}
    return options


def _one_psf(values):
    """Error and shape of the PSF of median width, None where widths differ."""
    width = values[:, 0]
    scatter = np.std(width) / np.median(width)
    middle = values[np.argsort(width, kind='stable')[len(width) // 2]]
    error = float(np.median(values[:, 1]))
    if scatter > max(_PSF_SCATTER, 2 * error):
        return None
    return [max(error, float(scatter)), *middle[2:].tolist()]


def _count(field, options):
    """
    Expected counts of a chunk in the windows that begin in its box.

    Returns the side of tiles, and for each window its first tile in the mosaic, counts
    and shares of good pixels ``(2, 16, 16)``; None of an empty chunk. One that fails
    has no windows: the record of the run has the reason.
    """
    with use_threads(options.n_threads):
        encoder = options.load_encoder()
        try:
            bands = prepare_bands(field.open(), options, encoder)
            image = ImageInputs.of(bands, encoder, options)
        except NoPixelsError:
            return None
        except Exception:  # noqa: BLE001 (the run says of which chunk and why)
            return 0, [], []
        grid, tile = image.grid, image.grid.size * image.binning
        first = [part.start for part in field.cut]
        n_tiles = [-(-n // tile) for n in field.options['shape']]
        if any(n % tile for n in first) or not is_sampled(n_tiles):
            return tile, [], []
        places = []
        for n, (start, stop), before in zip(
            n_tiles, field.owned[::-1], first, strict=True
        ):
            every = sampled_places(n) - before // tile
            own = (every * tile >= start) & (every * tile < stop)
            places.append(every[own])
        windows = [(y, x) for y in windows_at(places[0]) for x in windows_at(places[1])]
        if not windows:
            return tile, [], []
        counts = sample_counts(encoder, image.inputs, grid, windows)[0]
        good = tile_mean(~image.inputs.mask[0, 0].cpu().numpy(), grid)
        at = [
            (y.start + first[0] // tile, x.start + first[1] // tile) for y, x in windows
        ]
        return tile, at, [np.float32([counts[w], good[w]]) for w in windows]


def _density(counted, shape):
    """Density by cells of the mosaic, and their side in pixels."""
    tile = max([tile for tile, *_ in counted], default=0) or 1
    cell, n = tile * DENSITY_CELL, [-(-side // tile) for side in shape]
    expected, area = np.zeros((2, *(-(-k // DENSITY_CELL) for k in n)))
    steps = np.arange(SAMPLE_SIDE)
    for _, places, windows in counted:
        for (y, x), (count, good) in zip(places, windows, strict=True):
            at = np.ix_((y + steps) // DENSITY_CELL, (x + steps) // DENSITY_CELL)
            np.add.at(expected, at, count * (good > 0))
            np.add.at(area, at, good.astype(float) * (tile**2))
    if not area.any():
        return np.zeros((0, 0), np.float32), 1
    overall = (expected.sum() + 0.5) / max(area.sum(), 1.0)
    found = smooth_density(expected, area, overall, DENSITY_CELL)
    return found.astype(np.float32), cell


# -- file --------------------------------------------------------------------------


def _key(fields, options):
    """Hash of all that the results depend on."""
    from bliss_astro import __version__

    encoder = options.load_encoder()
    facts = [
        __version__,
        encoder.name,
        encoder.card.get('sha256', ''),
        options.flux_min,
    ]
    facts += [options.population, options.bin, options.density, options.bands]
    for field in fields:
        facts += [field.id, field.files, field.options]
        for path in field.paths():
            if Path(path).is_file():
                state = Path(path).stat()
                facts += [state.st_size, state.st_mtime_ns]
    text = json.dumps(facts, default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path, key):
    """Results in a file, or None where it is absent or of other inputs."""
    try:
        with np.load(path) as file:
            meta = json.loads(str(file['meta']))
            if meta['key'] == key:
                return meta['numbers'], file['density'], meta['cell'], meta['empty']
    except (OSError, ValueError, KeyError):
        pass
    return None


def _write(path, key, found):
    numbers, density, cell, empty = found
    meta = {'key': key, 'numbers': numbers, 'cell': cell, 'empty': empty}
    with atomic_write(path, overwrite=True) as temporary:
        np.savez_compressed(temporary, meta=json.dumps(meta), density=density)
