# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Work on one field of a run: its rows, its record, and the key of both.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import time
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

import bliss_astro
from bliss_astro._arguments import require
from bliss_astro._atomic import atomic_write
from bliss_astro._threads import use_threads
from bliss_astro._warnings import keep_warnings
from bliss_astro.catalog._columns import COLUMNS
from bliss_astro.detection._detect import KEYWORDS, DetectionOptions, detect
from bliss_astro.detection._many import check_names
from bliss_astro.encoders import Encoder
from bliss_astro.encoders._weights import DEFAULT_ENCODER
from bliss_astro.exposures._set import images_by_band
from bliss_astro.flags import decode_flags
from bliss_astro.units import unit_text

from ._fields import plain_value
from ._marginals import marginals
from ._worst import worst_place

# Options that change no result, but for rounding.
_HOW = ('device', 'n_threads', 'progress_bar')
# What a field says itself, and what belongs to one image.
_NOT_OPTIONS = ('data', 'rng', 'progress_bar')
# Options that are None by default.
_NONE = {keyword.name for keyword in KEYWORDS if keyword.default is None}
# Descriptors of columns of a run.
_UCDS = {'ra': 'pos.eq.ra', 'dec': 'pos.eq.dec', 'field': 'meta.id.part;obs'}


def check_packages():
    """Raise if packages of runs are missing, before any work."""
    names = ('distributed', 'fsspec', 'pyarrow', 'astropy_healpix')
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        msg = (
            f'runs need the packages {", ".join(missing)}: install the extra '
            'bliss_astro[survey]'
        )
        raise ModuleNotFoundError(msg)


@functools.lru_cache(maxsize=2)
def load_encoder(encoder, device='auto', _stamp=None):
    """An encoder on its device, which a process loads once."""
    return DetectionOptions(encoder=encoder, device=device).load_encoder()


@dataclasses.dataclass
class Job:
    """Encoder and options of detection that all fields of a run share."""

    encoder: object = DEFAULT_ENCODER
    options: dict = dataclasses.field(default_factory=dict)
    sha256: str = ''
    name: str = ''

    def __post_init__(self):
        check_names('run_survey', self.options, without=_NOT_OPTIONS)
        # One that is given as its default is the same as one that is not.
        default = {name for name in _NONE if self.options.get(name) is None}
        given = {n: v for n, v in self.options.items() if n not in default}
        self.options = {'threshold': 0.5} | given
        try:
            self.options = json.loads(json.dumps(self.options, default=plain_value))
        except TypeError as error:
            raise TypeError(f'options of a run are the same for all: {error}') from None
        DetectionOptions(**self.options)
        if isinstance(self.encoder, os.PathLike):
            self.encoder = os.fspath(self.encoder)
        if isinstance(self.encoder, str) and Path(self.encoder).is_file():
            # Workers may be in other folders.
            self.encoder = str(Path(self.encoder).absolute())
        loaded = self.load()
        self.sha256, self.name = loaded.card.get('sha256', ''), loaded.name
        require(self.sha256, 'encoder', 'be saved before a run', 'one without a hash')

    def load(self):
        """The encoder."""
        if isinstance(self.encoder, Encoder):
            return self.encoder
        is_file = Path(self.encoder).is_file()
        stamp = Path(self.encoder).stat().st_mtime_ns if is_file else None
        return load_encoder(self.encoder, self.options.get('device', 'auto'), stamp)

    @property
    def provenance(self):
        """Encoder and options, on which all results depend (dict)."""
        how = {name: v for name, v in self.options.items() if name not in _HOW}
        return {'encoder_sha256': self.sha256, 'options': how}

    def key(self, ref, checksums):
        """Hash of all that the results of a field depend on."""
        sums = {path: found and found[0] for path, found in checksums.items()}
        version = bliss_astro.__version__
        parts = [version, self.provenance, dataclasses.asdict(ref), sums]
        text = json.dumps(parts, sort_keys=True, default=plain_value)
        return hashlib.sha256(text.encode()).hexdigest()

    def done(self, ref, folder):
        """Record of a field that is done, if its key is that of today, or None."""
        record = read_record(folder, ref.id)
        if record is None or record['status'] != 'done':
            return None
        checksums = checksums_of(ref, record['checksums'])
        return record if record['key'] == self.key(ref, checksums) else None


def catalog_field(ref, folder, *, encoder=DEFAULT_ENCODER, **options):
    """
    Detect the sources of one field of a run, and write them with a record of it.

    The result depends on the arguments and the files alone; a field that is done
    already is not done again.

    Parameters
    ----------
    ref : `FieldRef`
        The field.

    folder : str or `~os.PathLike`
        Folder of the run, made if need be, with ``fields/ID.parquet`` (rows),
        ``fields/ID.npz`` (arrays of the marginals) and ``fields/ID.json`` (record),
        which is written last.

    encoder : `~bliss_astro.encoders.Encoder`, str or path, optional
        The encoder.

    **options
        Keywords of `~bliss_astro.detection.detect_sources` that all fields share:
        numbers and texts.

    Returns
    -------
    record : dict
        ``status`` is ``'done'``, or ``'failed'`` with a ``reason``; ``key``, hash of
        what the result depends on; ``seconds``, ``n_rows``, ``expected_count`` with
        its error, ``area`` (arcmin2), ``depth`` (AB magnitude, or flux, of a star of
        signal-to-noise ratio 5), ``fwhm`` (pixels), ``findings`` of the self-check,
        their ``worst`` place, ``warnings``, ``flags``, ``footprint`` and others.

    Raises
    ------
    OSError
        If the record cannot be written.

    TypeError, ValueError
        If an argument is not allowed.
    """
    return work_on(ref, folder, Job(encoder, options))


def work_on(ref, folder, job):
    """As `catalog_field`."""
    record = job.done(ref, folder)
    if record is not None:
        return record
    Path(folder, 'fields').mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    checksums = checksums_of(ref)
    key = job.key(ref, checksums)
    record = {'field': ref.id, 'key': key, 'status': 'failed', 'reason': ''}
    record |= {'checksums': checksums, 'seconds': {}, 'n_rows': 0}
    record |= {'owned': ref.owned, 'encoder_sha256': job.sha256}
    with keep_warnings(of_others=True) as kept:
        try:
            # Draws are those of the field, whatever was done before it.
            own = {'n_threads': 1, 'rng': int(key[:15], 16)}
            own |= ref.detection() | job.options
            own |= {'encoder': job.load(), 'progress_bar': False}
            with use_threads(own['n_threads']):
                image = ref.open()
            read = time.perf_counter()
            catalog = detect(image, DetectionOptions(**own))
            facts = _facts(catalog)
            infer = time.perf_counter()
            rows, parts = _rows(catalog, ref), marginals(catalog)
            worst = worst_place(catalog)
            both = (parts | worst).items()
            arrays = {k: v for k, v in both if isinstance(v, np.ndarray)}
            facts['marginals'] = {k: v for k, v in parts.items() if k not in arrays}
            facts['worst'] = {k: v for k, v in worst.items() if k not in arrays}
            record |= {'status': 'done'} | facts
        except Exception as error:  # noqa: BLE001 (the reason of the record)
            record['reason'] = _reason(error, ref)
    record['warnings'] = [f'{kind.__name__}: {text}' for _, text, kind in kept]
    record['footprint'] = ref.footprint or record.get('footprint')
    if record['status'] == 'done':
        _write(folder, f'{ref.id}.parquet', _write_rows, rows)
        _write(folder, f'{ref.id}.npz', _write_arrays, arrays)
        seconds = {'read': read - start, 'infer': infer - read}
        seconds['write'] = time.perf_counter() - infer
        record['seconds'] = {name: round(s, 4) for name, s in seconds.items()}
    write_record(folder, record)
    return record


def write_record(folder, record):
    """Write the record of a field; one that failed keeps no rows of an earlier try."""
    text = json.dumps(record, indent=1, default=plain_value)
    _write(folder, f'{record["field"]}.json', Path.write_text, text)
    if record['status'] != 'done':
        for ending in ('parquet', 'npz'):
            path = Path(folder, 'fields', f'{record["field"]}.{ending}')
            path.unlink(missing_ok=True)


def read_record(folder, name):
    """Record of a field, or None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(Path(folder, 'fields', f'{name}.json').read_text())
    return None


def checksums_of(ref, known=()):
    """
    SHA-256, size and time of change of the files of a field, None for absent ones.

    The known sum is taken where size and time are those of before.
    """
    found = {}
    for path in ref.paths():
        if '://' in path:
            import fsspec

            with contextlib.suppress(OSError, ValueError):
                system, _, (place,) = fsspec.get_fs_token_paths(path)
                found[path] = [system.ukey(place), None, None]
            found.setdefault(path, None)
            continue
        try:
            stat = Path(path).stat()
            own = [stat.st_size, stat.st_mtime_ns]
            old = dict(known).get(path)
            if old is None or old[1:] != own:
                old = [_sha256(path, *own), *own]
            found[path] = old
        except OSError:
            found[path] = None
    return found


# All chunks of a mosaic are in one file.
@functools.lru_cache(maxsize=64)
def _sha256(path, _size, _time):
    with Path(path).open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _facts(catalog):
    """Numbers of a catalogue for the record."""
    image, posterior = catalog.exposure, catalog.posterior
    estimated, check = posterior.meta['estimated'], catalog.meta.get('check') or {}
    scale, wcs, (ny, nx) = image.pixel_scale, image.wcs, image.shape
    footprint = None
    if wcs is not None:
        corners = [-0.5, nx - 0.5, nx - 0.5, -0.5], [-0.5, -0.5, ny - 0.5, ny - 0.5]
        sky = wcs.pixel_to_world(*corners).icrs
        footprint = np.stack([sky.ra.deg, sky.dec.deg], axis=-1).tolist()
    depth = estimated['depth']
    value, unit = depth['value'], depth['unit']
    with contextlib.suppress(u.UnitsError):
        value = u.Quantity(value, unit).to_value(u.ABmag, u.zero_point_flux(1 * u.AB))
        unit = 'mag(AB)'
    names = [name for flags in catalog['flags'] for name in decode_flags(int(flags))]
    return {
        'n_rows': len(catalog),
        'unit': unit_text(posterior.unit),
        'expected_count': posterior.expected_counts(),
        'expected_count_error': posterior.expected_counts_error(),
        'area': scale and float((~image.mask).sum()) * (scale / 60) ** 2,
        'depth': value,
        'depth_unit': unit,
        'fwhm': estimated['psf']['fwhm'],
        'findings': [check['text']] if check.get('text') else [],
        'flags': {name: names.count(name) for name in sorted(set(names))},
        'footprint': footprint,
        'shape': [ny, nx],
        'pixel_scale': scale,
        'bands': [
            getattr(one.band, 'name', None)
            for one in images_by_band(catalog.exposures or image).values()
        ],
    }


def _rows(catalog, ref):
    """Rows of a field, as a table of Arrow with units, descriptions and UCDs."""
    import pyarrow as pa

    columns = {'field': ref.id, 'owned': _is_owned(catalog, ref)}
    for name in catalog.colnames:
        column = catalog[name]
        if isinstance(column, SkyCoord):
            columns |= {'ra': column.ra, 'dec': column.dec}
        else:
            columns[name] = column
    arrays, fields = [], []
    for name, column in columns.items():
        values, info = np.asarray(column), getattr(column, 'info', None)
        if name == 'field':
            array = pa.array([ref.id] * len(catalog), pa.string())
        elif values.ndim > 1:
            kind = pa.FixedSizeListArray
            array = kind.from_arrays(values.ravel(), values.shape[1])
        else:
            array = pa.array(values)
        unit = getattr(column, 'unit', None)
        meta = {
            'unit': unit_text(unit) if unit else '',
            'ucd': COLUMNS[name].ucd if name in COLUMNS else _UCDS.get(name, ''),
            'description': (info and info.description) or '',
        }
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata=meta))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _is_owned(catalog, ref):
    """Which rows lie in the box of pixels that the field owns; all without one."""
    owned = np.ones(len(catalog), dtype=bool)
    for name, bounds in zip('xy', ref.owned or (), strict=False):
        values = np.asarray(catalog[f'{name}_centroid'])
        owned &= (values >= bounds[0] - 0.5) & (values < bounds[1] - 0.5)
    return owned


def _write_rows(path, rows):
    from pyarrow import parquet

    parquet.write_table(rows, path)


def _write_arrays(path, arrays):
    with path.open('wb') as file:
        np.savez_compressed(file, **arrays)


def _write(folder, name, write, content):
    with atomic_write(Path(folder, 'fields', name), overwrite=True) as temporary:
        write(temporary, content)


def _reason(error, ref):
    """Type and text of an error, with the files of the field."""
    text = ' '.join([str(error), *getattr(error, '__notes__', ())]).strip()
    paths = ref.paths()
    if paths and not any(Path(path).name in text for path in paths):
        text = f'{text} ({", ".join(paths)})'.strip()
    return f'{type(error).__name__}: {text}'
