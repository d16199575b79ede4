# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Work on one field of a run: its rows, its record, and the key of both.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

import bliss_astro
from bliss_astro._arguments import require
from bliss_astro._atomic import atomic_write
from bliss_astro.catalog._columns import COLUMNS
from bliss_astro.detection._detect import IMAGE_OPTIONS, KEYWORDS, DetectionOptions
from bliss_astro.detection._many import check_names
from bliss_astro.encoders import Encoder
from bliss_astro.encoders._weights import DEFAULT_ENCODER
from bliss_astro.exposures._set import images_by_band
from bliss_astro.flags import decode_flags
from bliss_astro.units import unit_text

from ._done import load_record
from ._fields import plain_value

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
        for name in set(given) & set(IMAGE_OPTIONS):
            require(False, name, 'be given to find_fields', 'an option of a run')
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


def write_record(folder, record):
    """Write the record of a field; one that failed keeps no rows of an earlier try."""
    text = json.dumps(record, indent=1, default=plain_value)
    with _file(folder, f'{record["field"]}.json') as path:
        path.write_text(text)
    if record['status'] != 'done':
        for ending in ('parquet', 'npz'):
            path = Path(folder, 'fields', f'{record["field"]}.{ending}')
            path.unlink(missing_ok=True)


def write_contents(folder, name, rows, arrays):
    """Write the rows and arrays of a field."""
    from pyarrow import parquet

    with _file(folder, f'{name}.parquet') as path:
        parquet.write_table(rows, path)
    with _file(folder, f'{name}.npz') as path, path.open('wb') as file:
        np.savez_compressed(file, **arrays)


def read_record(folder, name):
    """Record of a field, or None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return load_record(Path(folder, 'fields', f'{name}.json'))
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


def facts_of(catalog):
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
    flags = collections.Counter()
    for bits, n in zip(*np.unique(catalog['flags'], return_counts=True), strict=True):
        flags.update(dict.fromkeys(decode_flags(int(bits)), int(n)))
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
        'flags': dict(sorted(flags.items())),
        'footprint': footprint,
        'shape': [ny, nx],
        'pixel_scale': scale,
        'bands': [
            getattr(one.band, 'name', None)
            for one in images_by_band(catalog.exposures or image).values()
        ],
    }


def arrow_table(catalog, ref):
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


def _file(folder, name):
    """A file of a field that is written whole or not at all."""
    return atomic_write(Path(folder, 'fields', name), overwrite=True)
