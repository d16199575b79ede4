# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
First pass over a mosaic: numbers that would differ from chunk to chunk, once for all.
"""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from bliss_astro._arguments import require
from bliss_astro._atomic import atomic_write
from bliss_astro._threads import use_threads
from bliss_astro._warnings import collect_warnings, warn
from bliss_astro.detection._bands import read_bands
from bliss_astro.detection._detect import DetectionOptions
from bliss_astro.detection._estimates import prepare_image
from bliss_astro.detection._images import ImageInputs
from bliss_astro.detection._infer import (
    DENSITY_CELL,
    SAMPLE_SIDE,
    density_of_cells,
    is_sampled,
    sample_counts,
    sampled_places,
    windows_at,
)
from bliss_astro.detection._inputs import tile_mean
from bliss_astro.detection._prior import check_brightest, check_flux_min, light_of

from ._chunk import MosaicField, put_part
from ._numbers import (
    measure_numbers,
    mesh_of_text,
    sample_of,
    text_of_mesh,
)
from ._sections import NoPixelsError


def prepare_mosaic(fields, path=None, *, client=None, **options):
    """
    Determine once what would otherwise be estimated anew in each chunk of a mosaic.

    These are the numbers that one pass over the mosaic would estimate, measured in the
    same way: of what is not given the background on a mesh; noise, gain, correlation of
    the noise, error of the background and PSF, of a sample of windows if the mosaic has
    more than 4096 x 4096 pixels; and the prior density of sources. A PSF about which
    stars scatter by more than 4 % is left to each chunk. Chunks without a good pixel
    are left out.

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
        If ``fields`` are not those of one mosaic, none has a good pixel, or
        ``flux_min`` is above the brightest source of all.

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
    numbers, meshes, density, cell, empty = found
    fields = [field for field in fields if field.id not in empty]
    require(len(fields) > 0, 'mosaic', 'have good pixels', 'none')
    return [_prepared(field, numbers, meshes, density, cell) for field in fields]


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


def _prepared(field, numbers, meshes, density=None, cell=1):
    """A chunk with the numbers of the mosaic, and its parts of sky and density."""
    parts, own = {}, {'prepared': True, **numbers}
    found = {b: put_part(mesh.part(field.cut), parts) for b, mesh in meshes.items()}
    if found:
        own['background'] = found.get('', found)
    if density is not None and density.size:
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
    """Numbers, meshes of the sky, density by cells of a side, ids of empty chunks."""

    def run(function, of):
        if client is None:
            return [function(field, *of(field)) for field in fields]
        futures = [client.submit(function, f, *of(f), pure=False) for f in fields]
        return client.gather(futures)

    numbers, meshes, sample = {}, {}, None
    for band in fields[0].files:
        try:
            with use_threads(options.n_threads):
                sample = sample or sample_of(fields)
                own, mesh = measure_numbers(*sample, band, run)
        except NoPixelsError:
            continue
        except Exception as error:  # noqa: BLE001 (the run says of chunks that fail)
            warn(
                f'numbers of the mosaic {fields[0].group!r} cannot be measured: '
                f'each chunk has its own ({" ".join(str(error).split())})'
            )
            continue
        meshes |= {} if mesh is None else {band: mesh}
        for name, value in own.items():
            numbers.setdefault(name, {})[band] = value
    if list(fields[0].files) == ['']:
        numbers = {name: own[''] for name, own in numbers.items()}
    if options.density is not None and options.flux_min is None:
        return numbers, meshes, np.zeros((0, 0)), 1, []
    fields = [_prepared(field, numbers, meshes) for field in fields]
    counted = run(_count, lambda _: (options,))
    empty = [f.id for f, one in zip(fields, counted, strict=True) if one is None]
    counted = [one for one in counted if one]
    if options.flux_min is not None and counted:
        check_brightest(*np.max([light for light, *_ in counted], axis=0).tolist())
    return numbers, meshes, *_density(counted, fields[0].options['shape']), empty


# -- density -----------------------------------------------------------------------


def _count(field, options):
    """
    Expected counts of a chunk in the windows that begin in its box.

    Returns the flux floor with a chunk's brightest and a faint flux, the side of tiles,
    and for each window its first tile in the mosaic, counts and shares of good pixels
    ``(2, 16, 16)``; None of an empty chunk. One that fails has no windows: the record
    of the run has the reason.
    """
    light = (0.0, 0.0, 0.0)
    with use_threads(options.n_threads):
        encoder = options.load_encoder()
        try:
            prepare = functools.partial(prepare_image, compare=False)
            with collect_warnings():
                image = field.open()
            bands = read_bands(image, options, encoder, prepare)
            image = ImageInputs.of(bands, encoder, options)
        except NoPixelsError:
            return None
        except Exception:  # noqa: BLE001 (the run says of which chunk and why)
            return light, 0, [], []
        whole = bands.reference.exposure
        if options.flux_min is not None:
            light = check_flux_min(options.flux_min, whole), *light_of(whole)
        if options.density is not None:
            return light, 0, [], []
        grid, tile = image.grid, image.grid.size * image.binning
        first = [part.start for part in field.cut]
        n_tiles = [-(-n // tile) for n in field.options['shape']]
        if any(n % tile for n in first) or not is_sampled(n_tiles):
            return light, tile, [], []
        places = []
        for n, (start, stop), before in zip(
            n_tiles, field.owned[::-1], first, strict=True
        ):
            every = sampled_places(n) - before // tile
            own = (every * tile >= start) & (every * tile < stop)
            places.append(every[own])
        windows = [(y, x) for y in windows_at(places[0]) for x in windows_at(places[1])]
        if not windows:
            return light, tile, [], []
        counts = sample_counts(encoder, image.inputs, grid, windows)[0]
        good = tile_mean(~image.inputs.mask[0, 0].cpu().numpy(), grid)
        at = [
            (y.start + first[0] // tile, x.start + first[1] // tile) for y, x in windows
        ]
        return light, tile, at, [np.float32([counts[w], good[w]]) for w in windows]


def _density(counted, shape):
    """Density by cells of the mosaic, and their side in pixels."""
    tile = max([tile for _, tile, *_ in counted], default=0) or 1
    cell, n = tile * DENSITY_CELL, [-(-side // tile) for side in shape]
    expected, area = np.zeros((2, *(-(-k // DENSITY_CELL) for k in n)))
    steps = np.arange(SAMPLE_SIDE)
    for *_, places, windows in counted:
        for (y, x), (count, good) in zip(places, windows, strict=True):
            at = np.ix_((y + steps) // DENSITY_CELL, (x + steps) // DENSITY_CELL)
            np.add.at(expected, at, count * (good > 0))
            np.add.at(area, at, good.astype(float) * (tile**2))
    if not area.any():
        return np.zeros((0, 0)), 1
    return density_of_cells(expected, area, DENSITY_CELL), cell


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
            if meta['key'] != key:
                return None
            meshes = {
                band: mesh_of_text(text, file[f'sky{k}'])
                for k, (band, text) in enumerate(meta['meshes'].items())
            }
            density = file['density']
            return meta['numbers'], meshes, density, meta['cell'], meta['empty']
    except (OSError, ValueError, KeyError):
        return None


def _write(path, key, found):
    numbers, meshes, density, cell, empty = found
    meta = {'key': key, 'numbers': numbers, 'cell': cell, 'empty': empty}
    meta['meshes'] = {band: text_of_mesh(mesh) for band, mesh in meshes.items()}
    arrays = {f'sky{k}': mesh.values for k, mesh in enumerate(meshes.values())}
    arrays |= {'density': density, 'meta': json.dumps(meta)}
    with atomic_write(path, overwrite=True) as temporary:
        np.savez_compressed(temporary, **arrays)
