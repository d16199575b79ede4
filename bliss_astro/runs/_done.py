# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fields of a run that are done: their records, rows, marginals and place on the sky.
"""

import functools
import hashlib
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from ._sky import FieldSky, chord, pixels_of, to_degrees

# Step of depths in magnitudes, levels of depth in arcsec of distance to the border, and
# pixels from it in which they do not count.
_DEPTH_STEP, _LEVEL, _EDGE = 0.1, 1e6, 12
# Factor of the rank of a field that has less than half of its pixels at a place.
_MASKED = 1e-6
# What to do about fields that do not belong together.
LEFT_OUT = 'Of fields to be left out, remove ID.json in'
# Pixels around a region from which rows may be the same as those inside.
_MARGIN = 20
# Pixels of fields that are worked on together, some 100 bytes a cell of 32 x 32 each.
_BATCH = 3e7
# Order of the pixels of the sky (3.4 arcmin) by which neighbours are found.
_ORDER = 10


class Field:
    """
    Field of a survey that is done, as its record states it.

    Parameters
    ----------
    folder : `~pathlib.Path`
        Folder of the run.

    record : dict
        Its record.
    """

    __slots__ = ('folder', 'id', 'key', 'numbers', 'owned', 'sky')

    def __init__(self, folder, record):
        self.folder, self.id, self.owned = folder, record['field'], record.get('owned')
        self.key, self.numbers = record['key'], dict(record['marginals'])
        sky = self.numbers.pop('sky')
        self.sky = None if sky is None else FieldSky(**sky)

    @property
    def arrays(self):
        """Marginals by cell, dict of arrays."""
        return _read_arrays(self.folder / 'fields' / f'{self.id}.npz', self.key)

    def read(self, columns=None):
        """Rows, a table of Arrow; an `OSError` that names a damaged file."""
        return self.read_with_schema(columns)[0]

    def read_with_schema(self, columns):
        """Rows, and the schema of all columns."""
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        path = self.folder / 'fields' / f'{self.id}.parquet'
        try:
            with ParquetFile(path) as file:
                rows = file.read(columns, use_threads=False)
                place = [rows[name].to_numpy() for name in ('ra', 'dec')]
                if not np.isfinite(place).all():
                    msg = 'rows have no place on the sky'
                    raise ValueError(msg)
                return rows, file.schema_arrow
        except (ArrowException, KeyError, OSError, ValueError) as error:
            raise _damaged(path, error) from error

    def border(self, vectors, pixels=None):
        """Distance of unit vectors from the border in arcsec; 0 where another owns."""
        x, y = self.sky.pixels(vectors) if pixels is None else pixels
        ny, nx = self.sky.shape
        apart = np.minimum(x + 0.5, nx - 0.5 - x)
        apart = np.minimum(apart, np.minimum(y + 0.5, ny - 0.5 - y))
        # NaN is far.
        border = np.fmax(apart, 0) * self.sky.scale
        for values, (low, high) in zip((x, y), self.owned or (), strict=False):
            border[(values < low - 0.5) | (values >= high - 0.5)] = 0
        return border

    def rank(self, vectors):
        """Claim to unit vectors: the field's depth, then the border; 0 for none."""
        x, y = self.sky.pixels(vectors)
        border = self.border(vectors, (x, y))
        limit = next(iter(self.numbers['limits'].values()))
        level = 10_000 - round(2.5 * np.log10(limit) / _DEPTH_STEP) if limit else 0
        rank = border + _LEVEL * level * (border > _EDGE * self.sky.scale)
        if self.numbers['share'] < 1 and (inside := border > 0).any():
            usable = self.arrays['usable'][self.cells(x[inside], y[inside])]
            own = border[inside] * _MASKED
            rank[inside] = np.where(usable >= 50, rank[inside], own)
        return rank

    def cells(self, x, y):
        """Rows and columns of the cells of pixels."""
        cell, shape = self.numbers['cell'], self.sky.shape
        return tuple(
            np.floor((v + 0.5).clip(0, n - 1) / cell).astype(int)
            for v, n in zip((y, x), shape, strict=True)
        )


@functools.lru_cache(maxsize=256)
def _read_arrays(path, _key):
    try:
        with path.open('rb') as file, np.load(file) as arrays:
            return {name: arrays[name] for name in arrays if 'cutout' not in name}
    except (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def _damaged(path, error):
    """An `OSError` for a file of a field that cannot be read."""
    return OSError(
        f'field {path.stem}: {path} is lost or damaged ({error}); remove '
        f'{path.stem}.json beside it, and run the survey again'
    )


class Fields:
    """
    Fields of a survey that are done and have a place on the sky, by their id.

    Parameters
    ----------
    fields : list of `Field`
        The fields.
    """

    def __init__(self, fields):
        self.all = sorted(fields, key=lambda field: field.id)
        self._middles = np.array([f.sky.middle for f in self.all]).reshape(-1, 3)
        self._radii = np.array([f.sky.radius for f in self.all])
        self._tree = cKDTree(self._middles)
        self.margin = _MARGIN * max((f.sky.scale for f in self.all), default=1.0)

    @property
    def state(self):
        """Hash of what is done: the same for the same results."""
        text = ' '.join(f'{field.id} {field.key}' for field in self.all)
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self):
        """Raise if fields have fluxes in different units or bands."""
        first = {}
        for field in self.all:
            unit, band = (field.numbers.get(key) for key in ('unit', 'band'))
            if text := difference(first, field.id, unit, band):
                raise ValueError(f'{text} {LEFT_OUT} {field.folder}/fields.')

    def touching(self, region):
        """Indices of those that may have pixels in a region."""
        if region.middle is None:
            return np.arange(len(self.all))
        reach = chord(region.radius + np.max(self._radii, initial=0) + 2)
        near = np.array(sorted(self._tree.query_ball_point(region.middle, reach)), int)
        return near[region.may_touch(self._middles[near], self._radii[near])]

    def batches(self, region):
        """
        Fields that may touch a region, neighbours together.

        Yields fields, those that touch them too, and indices of the ones that are next.
        """
        near = self.touching(region)
        places = pixels_of(_ORDER, *to_degrees(self._middles[near]))
        near = near[np.argsort(places, kind='stable')]
        sizes = np.cumsum([np.prod(self.all[k].sky.shape) for k in near])
        cuts = np.flatnonzero(np.diff(sizes // _BATCH)) + 1
        for part in np.split(near, cuts) if len(near) else ():
            reach = chord(self._radii[part] + self._radii.max() + 2)
            found = self._tree.query_ball_point(self._middles[part], reach)
            found = np.unique(np.concatenate(found)).astype(int)
            homes = np.searchsorted(found, np.sort(part))
            yield [self.all[k] for k in found], homes


def difference(first, name, unit, band):
    """
    How a field differs from those before in unit or band, in words, or None.

    ``first`` has those of the first field, and is filled with them.
    """
    for what, value in (('units', unit or 'none'), ('bands', band)):
        if not value:
            continue
        known, other = first.setdefault(what, (value, name))
        if known != value:
            return (
                f'fields have fluxes in different {what} ({other} {known}, {name} '
                f'{value}), and a survey has one: give each a zero_point, or each band '
                'a run of its own.'
            )
    return None


def load_record(path):
    """Record of a field in a file; a ValueError if it holds none."""
    record = json.loads(path.read_text())
    if not (isinstance(record, dict) and {'field', 'status'} <= record.keys()):
        msg = 'it is no record of a field'
        raise ValueError(msg)
    return record


def read_records(folder, run=None):
    """
    Records of all fields of a run, dicts; of those that are damaged the reason.

    Those of another encoder than that of ``run``, of run.json, have a status of it.
    """
    for path in sorted(Path(folder, 'fields').glob('*.json')):
        try:
            record = load_record(path)
        except ValueError as error:
            record = {'field': path.stem, 'status': 'damaged', 'reason': str(error)}
        sha256 = (run or record).get('encoder_sha256')
        own = record.get('encoder_sha256', sha256)
        if record['status'] == 'done' and own != sha256:
            reason = 'its rows are of another encoder than the run'
            record |= {'status': 'other encoder', 'reason': reason}
        yield record
