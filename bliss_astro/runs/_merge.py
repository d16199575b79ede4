# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Duplicates in overlaps: the field that owns a position, and the rows that are primary.

Each position belongs to one of the fields that see it: in mosaics to the chunk whose
box has it, else to the field whose border is farthest, which no measurement and no
order of the fields decides. Rows of different fields that are mutual nearest
neighbours are one source. Of them the row of the owner is primary; where each field
places the source on the side of another, or each on its own, the most probable one.
"""

import contextlib
import functools
import hashlib
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from ._sky import FieldSky, chord, to_vectors

# Rows at most so many errors apart, and in any case those within one pixel and none
# beyond three, may be one source.
_N_SIGMA, _LEAST_REACH, _MOST_REACH = 3.0, 1.0, 3.0
# Factor of the rank of a field that has less than half of its pixels at a place.
_MASKED = 1e-6
# Pixels around a region from which rows may be the same as those inside.
MARGIN = 20
# Unlikely differences of probabilities, which are rounding.
_DIGITS = 3


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
        return _read_arrays(self.folder / 'fields' / f'{self.id}.npz')

    def read(self, columns=None):
        """Rows, a table of Arrow; an `OSError` that names a damaged file."""
        from pyarrow import parquet

        with self._file() as file:
            rows = parquet.read_table(file, columns=columns)
            place = [rows[name].to_numpy() for name in ('ra', 'dec')]
            if not np.isfinite(place).all():
                msg = 'rows have no place on the sky'
                raise ValueError(msg)
        return rows

    def schema(self):
        """Columns of the rows."""
        from pyarrow import parquet

        with self._file() as file:
            return parquet.read_schema(file)

    @contextlib.contextmanager
    def _file(self):
        from pyarrow import ArrowException

        path = self.folder / 'fields' / f'{self.id}.parquet'
        try:
            with path.open('rb') as file:
                yield file
        except (ArrowException, KeyError, OSError, ValueError) as error:
            raise _damaged(path, error) from error

    def border(self, vectors):
        """Distance of unit vectors from the border in arcsec; 0 where another owns."""
        x, y = self.sky.pixels(vectors)
        ny, nx = self.sky.shape
        apart = np.min([x + 0.5, nx - 0.5 - x, y + 0.5, ny - 0.5 - y], axis=0)
        rank = np.nan_to_num(apart.clip(min=0) * self.sky.scale)
        if self.owned is not None:
            for values, (low, high) in zip((x, y), self.owned, strict=True):
                rank = np.where((values >= low - 0.5) & (values < high - 0.5), rank, 0)
        if self.numbers['share'] < 1 and (inside := rank > 0).any():
            usable = self.arrays['usable'][self.cells(x[inside], y[inside])]
            rank[inside] *= np.where(usable >= 50, 1.0, _MASKED)
        return rank

    def cells(self, x, y):
        """Rows and columns of the cells of pixels."""
        cell, shape = self.numbers['cell'], self.sky.shape
        return tuple(
            np.floor((v + 0.5).clip(0, n - 1) / cell).astype(int)
            for v, n in zip((y, x), shape, strict=True)
        )


@functools.lru_cache(maxsize=64)
def _read_arrays(path):
    try:
        with path.open('rb') as file, np.load(file) as arrays:
            return dict(arrays)
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
        self.margin = MARGIN * max((f.sky.scale for f in self.all), default=1.0)

    @property
    def state(self):
        """Hash of what is done: the same for the same results."""
        text = ' '.join(f'{field.id} {field.key}' for field in self.all)
        return hashlib.sha256(text.encode()).hexdigest()

    def touching(self, region):
        """Those that may have pixels in a region."""
        if region.middle is None:
            return self.all
        reach = chord(region.radius + np.max(self._radii, initial=0) + 2)
        near = np.array(sorted(self._tree.query_ball_point(region.middle, reach)), int)
        use = region.may_touch(self._middles[near], self._radii[near])
        return [self.all[k] for k in near[use]]


def owners(fields, vectors):
    """
    Index of the field that owns each of some unit vectors; -1 where none has pixels.
    """
    best, owner = np.zeros(len(vectors)), np.full(len(vectors), -1)
    tree = cKDTree(vectors)
    for k, field in enumerate(fields):
        reach = chord(field.sky.radius * 1.001 + 1)
        near = np.array(tree.query_ball_point(field.sky.middle, reach), int)
        rank = field.border(vectors[near])
        # The first of equal ones.
        better = rank > best[near]
        best[near[better]], owner[near[better]] = rank[better], k
    return owner


def match(vectors, index, error, pixel):
    """
    Pairs of rows of different fields that are one source.

    Parameters
    ----------
    vectors : array ``(N, 3)``
        Unit vectors of the rows.

    index : int array ``(N,)``
        Index of their field.

    error, pixel : array ``(N,)``
        Errors of positions, and sides of pixels, in arcsec.

    Returns
    -------
    pairs : int array ``(P, 2)``
        Mutual nearest neighbours among the rows of two fields, in both orders.
    """
    reach = chord(_MOST_REACH * np.max(pixel, initial=0))
    pairs = cKDTree(vectors).query_pairs(reach, output_type='ndarray')
    pairs = pairs[index[pairs[:, 0]] != index[pairs[:, 1]]]
    a, b = pairs.T
    apart = np.linalg.norm(vectors[a] - vectors[b], axis=-1)
    side = np.maximum(pixel[a], pixel[b])
    allowed = _N_SIGMA * np.hypot(error[a], error[b])
    allowed = allowed.clip(_LEAST_REACH * side, _MOST_REACH * side)
    use = apart <= chord(allowed)
    pairs, apart = np.concatenate([pairs[use], pairs[use][:, ::-1]]), apart[use]
    pairs = pairs[np.argsort(np.tile(apart, 2), kind='stable')]
    # The nearest row of the other field, for either of the two.
    nearest = [
        _first(pairs[:, one] * (index.max(initial=0) + 1) + index[pairs[:, two]])
        for one, two in ((0, 1), (1, 0))
    ]
    return pairs[np.logical_and(*nearest)]


def _first(keys):
    """Which of some numbers are the first of their value."""
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def primary_rows(fields, vectors, index, probability, error):
    """
    Find the primary rows among those of several fields.

    Parameters
    ----------
    fields : list of `Field`
        Fields in the order of their ids.

    vectors, index, probability, error : array
        Unit vectors of the rows, index of their field, probabilities, and errors of
        their positions in arcsec.

    Returns
    -------
    primary : bool array ``(N,)``
        Rows that count.

    pairs : int array ``(P, 2)``
        As `match` returns them.
    """
    pixel = np.array([field.sky.scale for field in fields])[index]
    error = np.where(np.isfinite(error), error, pixel)
    owner = owners(fields, vectors)
    owned = (owner == index) | (owner < 0)
    pairs = match(vectors, index, error, pixel)
    a, b = pairs.T
    # Of partners the most probable is better, of equal ones the owner's.
    order = np.lexsort([-index, owned, np.round(probability, _DIGITS)])
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    worse = place[a] < place[b]
    doubled, beaten, settled, seen = np.zeros((4, len(index)), bool)
    doubled[a[owned[a] & owned[b] & worse]] = True
    settled[a[owned[b]]] = True
    beaten[a[worse & ~owned[b]]] = True
    # The owner lists the source too, and places it elsewhere.
    seen[a[owner[a] == index[b]]] = True
    left = ~owned & ~settled & ~beaten
    primary = owned & ~doubled | left & seen
    lone = np.flatnonzero(left & ~seen)
    reach = np.minimum(error, _LEAST_REACH * pixel)[lone]
    primary[lone] = _is_near(fields, vectors[lone], index[lone], reach)
    return primary, pairs


def _is_near(fields, vectors, index, reach):
    """Whether rows are within their error of what their field owns."""
    axis = np.where(np.abs(vectors[:, 2:]) < 0.9, [[0.0, 0, 1]], [[1.0, 0, 0]])
    east = np.cross(axis, vectors)
    east /= np.linalg.norm(east, axis=-1, keepdims=True)
    near, step = np.zeros(len(vectors), bool), chord(reach)[:, None]
    for way in (east, -east, north := np.cross(vectors, east), -north):
        near |= owners(fields, vectors + step * way) == index
    return near


def merged(fields, region, schema=None):
    """
    Primary rows of a survey in a region.

    Parameters
    ----------
    fields : `Fields`
        The fields.

    region : `~bliss_astro.runs._sky.Region`
        The region.

    schema : `pyarrow.Schema`, optional
        Columns of the result, for fields that lack some.

    Returns
    -------
    rows : `pyarrow.Table`
        Rows with ``n_fields``, the number of fields that list the source, and
        ``other_rows``, the others as ``FIELD:ID``, separated by spaces.
    """
    import pyarrow as pa

    wide = region.around(fields.margin)
    found = fields.touching(wide) or fields.all[:1]
    tables, vectors, index = [], [], []
    for k, field in enumerate(found):
        rows = field.read()
        own = to_vectors(rows['ra'].to_numpy(), rows['dec'].to_numpy())
        near = np.flatnonzero(wide.contains(own))
        tables.append(rows.take(near))
        vectors.append(own[near])
        index.append(np.full(len(near), k))
    rows = join(tables, schema)
    vectors, index = np.concatenate(vectors), np.concatenate(index)
    error = np.maximum(*(rows[name].to_numpy() for name in ('x_err', 'y_err')))
    error = error * np.array([field.sky.scale for field in found])[index]
    keys = vectors, index, rows['probability'].to_numpy(), error
    primary, pairs = primary_rows(found, *keys)
    chosen = np.flatnonzero(primary & region.contains(vectors))
    names = rows['field'].to_pylist(), rows['id'].to_pylist()
    others = {}
    for one, other in pairs[np.isin(pairs[:, 0], chosen)].tolist():
        others.setdefault(one, []).append(f'{names[0][other]}:{names[1][other]}')
    others = [sorted(others.get(k, ())) for k in chosen.tolist()]
    rows = rows.take(chosen).drop_columns(['owned'])
    added = {
        'n_fields': (
            pa.array([1 + len(own) for own in others], pa.int16()),
            {'ucd': 'meta.number', 'description': 'Number of fields with the source'},
        ),
        'other_rows': (
            pa.array([' '.join(own) for own in others], pa.string()),
            {'ucd': 'meta.id.cross', 'description': 'FIELD:ID of its other rows'},
        ),
    }
    for name, (values, meta) in added.items():
        rows = rows.append_column(pa.field(name, values.type, metadata=meta), values)
    return rows


def join(tables, schema=None):
    """Join tables of Arrow; columns that some lack are null there."""
    import pyarrow as pa

    schema = unify([table.schema for table in tables]) if schema is None else schema
    tables = [table.replace_schema_metadata() for table in tables]
    joined = pa.concat_tables(tables, promote_options='default')
    for column in schema:
        if column.name not in joined.column_names:
            nulls = pa.nulls(len(joined), column.type)
            joined = joined.append_column(column, nulls)
    return joined.select(schema.names).cast(schema)


def unify(schemas, names=None):
    """
    One schema of several; a `ValueError` names columns with two units or types.

    ``names`` are those of the fields, for the message.
    """
    import pyarrow as pa

    kinds = {}
    for k, schema in enumerate(schemas):
        for column in schema:
            unit = (column.metadata or {}).get(b'unit', b'').decode()
            own = column.type, unit
            known, first = kinds.setdefault(column.name, (own, k))
            if own != known:
                which = f'fields {names[first]} and {names[k]}' if names else 'fields'
                msg = (
                    f'{which} have the column {column.name!r} in two units or types '
                    f'({known[1] or known[0]}, {unit or own[0]}); one catalogue '
                    'needs one unit, such as by the option zero_point'
                )
                raise ValueError(msg)
    return pa.unify_schemas([schema.remove_metadata() for schema in schemas])


def read_records(folder):
    """Records of all fields of a run, dicts; of those that are damaged the reason."""
    for path in sorted(Path(folder, 'fields').glob('*.json')):
        try:
            yield json.loads(path.read_text())
        except ValueError as error:
            yield {'field': path.stem, 'status': 'damaged', 'reason': str(error)}
