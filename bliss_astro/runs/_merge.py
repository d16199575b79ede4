# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Duplicates in overlaps: the field that owns a position, and the rows that are primary.

Each position belongs to one of the fields that see it: in mosaics to the chunk whose
box has it, else to the deepest field, of equally deep ones to that whose border is
farthest, which no source and no order of the fields decides. Rows of different fields
that are mutual nearest neighbours are one source. Of them the row of the owner is
primary; where each field places the source on the side of another, or each on its own,
the most probable one.
"""

import numpy as np
from scipy.spatial import cKDTree

from ._done import Fields
from ._sky import Region, axes_at, chord, to_vectors

# Rows at most so many errors apart, and in any case those within one pixel and none
# beyond three, may be one source.
_N_SIGMA, _LEAST_REACH, _MOST_REACH = 3.0, 1.0, 3.0
# Columns that merging adds: unit, UCD and description.
_ADDED = (
    ('ra_err', 'arcsec', 'stat.error;pos.eq.ra', 'Standard error to the east'),
    ('dec_err', 'arcsec', 'stat.error;pos.eq.dec', 'Standard error to the north'),
    ('ra_dec_cov', 'arcsec2', 'stat.covariance;pos.eq', 'Covariance of the two'),
    ('n_fields', '', 'meta.number', 'Number of fields that list the source'),
    ('other_rows', '', 'meta.id.cross', 'FIELD:ID of its rows in other fields'),
)
# Unlikely differences of probabilities, which are rounding.
_DIGITS = 3
# Vectors at a time, whose numbers fit into the cache of a processor.
_BLOCK = 8192


def owners(fields, vectors, index):
    """
    Index of the field that owns each of some unit vectors; -1 where none has pixels.

    ``fields`` are in the order of their ids, and vectors in that of ``index``, of a
    field whose image has them.
    """
    best, owner = np.zeros(len(vectors)), np.full(len(vectors), -1)
    for k, some, rank in _ranks(fields, vectors, index):
        # The first of equal ones.
        better = rank > best[some]
        best[some[better]], owner[some[better]] = rank[better], k
    return owner


def owned(fields, vectors, index):
    """
    Which unit vectors belong to their own field; arguments as of `owners`.

    Faster, as the first field that has a better claim decides.
    """
    parts = zip(fields, _slices(index, len(fields)), strict=True)
    own_rank = np.concatenate([field.rank(vectors[part]) for field, part in parts])
    own = own_rank > 0
    for k, some, rank in _ranks(fields, vectors, index, own):
        least = own_rank[some]
        # The first of equal ones.
        own[some[(rank > least) | (rank == least) & (k < index[some])]] = False
    return own


def _slices(index, n):
    """Slices of the values 0 to n - 1 in an ascending array."""
    first = np.searchsorted(index, np.arange(n + 1))
    return list(map(slice, first, first[1:]))


def _ranks(fields, vectors, index, left=None):
    """
    Yield fields, unit vectors that are near, and the field's claim to them.

    Those that are not ``left``, and the field's own ones, are passed over.
    """
    parts, fields = _slices(index, len(fields)), Fields(fields)
    order = np.arange(len(parts))
    if left is not None:
        # In whatever order fields are on the sky, a better one comes soon.
        np.random.default_rng(0).shuffle(order)
    for k in order:
        field = fields.all[k]
        middle, reach = field.sky.middle, field.sky.radius * 1.001 + 1
        others = fields.touching(Region(None, middle, reach + 5 * field.sky.scale))
        near, least = [], np.cos(np.radians(reach / 3600))
        for run in np.split(others, np.flatnonzero(np.diff(others) > 1) + 1):
            start, stop = parts[run[0]].start, parts[run[-1]].stop
            near.append(start + np.flatnonzero(vectors[start:stop] @ middle > least))
        near = np.concatenate(near)
        if left is not None:
            near = near[left[near] & (index[near] != k)]
        claim = field.rank if len(others) > 1 else field.border
        for some in np.array_split(near, len(near) // _BLOCK + 1):
            yield k, some, claim(vectors[some])


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
    # The nearest row of the other field, for either of the two.
    keys = pairs[:, 0] * (index.max(initial=0) + 1) + index[pairs[:, 1]]
    order = np.argsort(keys)
    start = np.flatnonzero(np.diff(keys[order], prepend=-1))
    apart = np.tile(apart, 2)[order]
    least = np.minimum.reduceat(apart, start) if len(start) else apart
    nearest = np.empty(len(keys), bool)
    nearest[order] = apart == np.repeat(least, np.diff(start, append=len(keys)))
    return pairs[nearest & np.roll(nearest, len(nearest) // 2)]


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
    owner = owners(fields, vectors, index)
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
    steps = chord(reach)[:, None, None] * axes_at(vectors).swapaxes(0, 1)
    ends = vectors[:, None] + np.concatenate([steps, -steps], 1)
    return owned(fields, ends.reshape(-1, 3), np.repeat(index, 4)).reshape(-1, 4).any(1)


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
        Rows with errors on the sky, ``n_fields``, the number of fields that list the
        source, and ``other_rows``, the others as ``FIELD:ID``, separated by spaces.
    """
    import pyarrow as pa

    wide = region.around(fields.margin)
    # Of none the columns.
    found = [fields.all[k] for k in fields.touching(wide)] or fields.all[:1]
    tables, vectors, index = [], [], []
    for k, field in enumerate(found):
        rows = field.read()
        own = to_vectors(rows['ra'].to_numpy(), rows['dec'].to_numpy())
        near = np.flatnonzero(wide.contains(own))
        tables.append(rows if len(near) == len(rows) else rows.take(near))
        vectors.append(own[near])
        index.append(np.full(len(near), k))
    rows = join(tables, schema)
    vectors, index = np.concatenate(vectors), np.concatenate(index)
    error = np.maximum(*(rows[name].to_numpy() for name in ('x_err', 'y_err')))
    error = error * np.array([field.sky.scale for field in found])[index]
    keys = vectors, index, rows['probability'].to_numpy(), error
    primary, pairs = primary_rows(found, *keys)
    chosen = np.flatnonzero(primary & region.contains(vectors))
    one, other = pairs[np.isin(pairs[:, 0], chosen)].T
    names, others = rows.select(['field', 'id']).take(other), {}
    for k, *name in zip(one.tolist(), *(c.to_pylist() for c in names), strict=True):
        others.setdefault(k, []).append('{}:{}'.format(*name))
    others = [sorted(others[k]) if k in others else () for k in chosen.tolist()]
    rows = rows.take(chosen).drop_columns(['owned'])
    sky = [field.sky for field in found]
    errors = _sky_errors(rows, sky, index[chosen], vectors[chosen])
    kinds = pa.float64(), pa.float64(), pa.float64(), pa.int16(), pa.string()
    values = *errors, [1 + len(own) for own in others], list(map(' '.join, others))
    for column, kind, own in zip(_ADDED, kinds, values, strict=True):
        name, *meta = column
        meta = dict(zip(('unit', 'ucd', 'description'), meta, strict=True))
        own = pa.array(own, kind)
        rows = rows.append_column(pa.field(name, kind, metadata=meta), own)
    return rows


def _sky_errors(rows, sky, index, vectors):
    """Errors to the east and north in arcsec, and their covariance."""
    x, y, *error, cov = (
        rows[name].to_numpy()
        for name in ('x_centroid', 'y_centroid', 'x_err', 'y_err', 'x_y_cov')
    )
    steps = np.zeros((2, len(x), 3))
    # Half a pixel to both sides along x, then y.
    shift = np.kron(np.eye(2), [0.5, -0.5])[..., None]
    for own, one in zip(_slices(index, len(sky)), sky, strict=True):
        ends = np.stack([x[own], y[own]])[:, None] + shift
        ends = one.vectors(*ends.reshape(2, -1)).reshape(4, -1, 3)
        steps[:, own] = ends[::2] - ends[1::2]
    axes = axes_at(vectors)
    jacobian = np.degrees(np.einsum('snk,ank->nas', steps, axes)) * 3600
    moments = np.array([[error[0] ** 2, cov], [cov, error[1] ** 2]]).transpose(2, 0, 1)
    moments = jacobian @ moments @ jacobian.transpose(0, 2, 1)
    east, north = moments[:, 0, 0], moments[:, 1, 1]
    return np.sqrt(east), np.sqrt(north), moments[:, 0, 1]


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
