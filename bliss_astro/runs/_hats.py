# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogue of a survey in the HATS layout: Parquet files by HEALPix pixel.

The layout is plain: files by pixel of a nested HEALPix grid that is finer where there
are more rows, a list of these in ``partition_info.csv``, and a file of properties.
`lsdb <https://docs.lsdb.io>`_ opens it, and so does whatever reads Parquet. Partitions
are made one after the other, which takes the memory of one.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.table import Column, QTable, Table
from astropy.table.meta import get_yaml_from_table
from scipy.spatial import cKDTree

from bliss_astro import __version__
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.catalog._formats import make_card
from bliss_astro.catalog._io import restore

from ._merge import merged, unify
from ._sky import Region, chord, pixels_of, to_degrees, to_vectors

# Order of the spatial index, and the finest one of partitions (3.4 arcmin).
_INDEX_ORDER, _MAX_ORDER = 29, 10
_INDEX = '_healpix_29'
# Provenance of a run that its catalogues have too.
_META = ('date', 'encoder', 'encoder_sha256')
# Property with the hash of the fields.
_STATE = 'bliss_astro_fields'
# Points of a side of a pixel.
_N_EDGE = 512
# Partitions of a folder.
_FOLDER_SIZE = 10_000


def table_of(rows):
    """Table of astropy of one of Arrow, with units, descriptions and UCDs."""
    table = Table()
    for column in rows.schema:
        values, shape = rows[column.name], ()
        if size := getattr(column.type, 'list_size', None):
            values, shape = values.combine_chunks().flatten(), (size,)
        values = values.to_numpy(zero_copy_only=False) if size else values.to_numpy()
        values = values.astype(str) if values.dtype == object else values
        meta = {k.decode(): v.decode() for k, v in (column.metadata or {}).items()}
        unit = u.Unit(meta['unit'], parse_strict='silent') if meta.get('unit') else None
        about = {'description': meta.get('description') or None, 'unit': unit}
        about['meta'] = {'ucd': meta['ucd']} if meta.get('ucd') else {}
        table[column.name] = Column(values.reshape(-1, *shape), **about)
    return table


def catalog_of(rows, run, **image):
    """Catalogue of a table of Arrow, with facts about what it is of."""
    meta = {'image': {'n_sources': len(rows)} | image, 'version': run.get('version')}
    meta |= {name: run[name] for name in _META if name in run}
    meta['threshold'] = run.get('options', {}).get('threshold')
    meta = {name: value for name, value in meta.items() if value is not None}
    return restore(ProbabilisticCatalog, QTable(table_of(rows)), meta)


def _described(schema, run):
    """Metadata of Parquet: provenance, and what astropy reads catalogues by."""
    table = table_of(schema.empty_table())
    shapes = {name: table[name].shape[1:] for name in table.colnames}
    empty = catalog_of(schema.empty_table(), run)
    card = make_card(Table(meta={**empty.meta, 'image': {}}), shapes=shapes)
    table.meta = {'bliss_astro': card}
    texts = {'bliss_astro_run': json.dumps(run), 'table_meta_yaml': ''}
    texts['table_meta_yaml'] = '\n'.join(get_yaml_from_table(table))
    return {name: text.encode() for name, text in texts.items()}


def pixel_region(order, pixel):
    """A HEALPix pixel as a `Region`."""
    from astropy_healpix import boundaries_lonlat, healpix_to_lonlat

    [middle] = to_vectors(
        *(v.deg for v in healpix_to_lonlat([pixel], 2**order, order='nested'))
    )
    edge = boundaries_lonlat([pixel], _N_EDGE, 2**order, order='nested')
    edge = to_vectors(*(v.deg.ravel() for v in edge))
    radius = np.degrees(np.arccos((edge @ middle).clip(-1, 1).min())) * 3600
    tree = cKDTree(edge)

    def test(vectors):
        return pixels_of(order, *to_degrees(vectors)) == pixel

    def near(vectors, reach):
        return test(vectors) | (tree.query(vectors)[0] < chord(reach + spacing))

    # Of points of the edge, at most.
    spacing = 4 * radius / _N_EDGE
    return Region(test, middle, float(1.01 * radius), near)


def write_hats(fields, folder, run, *, max_rows=200_000):
    """
    Write the primary rows of a survey in the HATS layout.

    Parameters
    ----------
    fields : `~bliss_astro.runs._done.Fields`
        Fields of the survey.

    folder : `~pathlib.Path`
        The catalogue's folder, which is replaced as a whole.

    run : dict
        Provenance of the run, as in its ``run.json``.

    max_rows : int, optional
        Rows from which on a pixel is split, duplicates included, down to 3.4 arcmin.

    Raises
    ------
    OSError
        If files of rows are damaged, which are named, or the folder cannot be written.

    ValueError
        If fields have columns in different units.
    """
    counts, schema = _survey_rows(fields)
    partitions = _partitions(*counts, max_rows)
    run = {'name': folder.parent.name} | run
    made = Path(tempfile.mkdtemp(prefix='.tmp-', dir=folder.parent)) / 'catalog'
    try:
        made.mkdir()
        _write_partitions(fields, made, partitions, schema, run)
        if folder.exists():
            folder.rename(made.with_name('old'))
        made.rename(folder)
    finally:
        shutil.rmtree(made.parent, ignore_errors=True)


def _survey_rows(fields):
    """Pixels of the finest order with their numbers of rows, and the schema of all."""
    counts = np.zeros(12 * 4**_MAX_ORDER, np.int32)
    schemas, names, damaged = [], [], []
    for field in fields.all:
        try:
            rows, schema = field.read_with_schema(['ra', 'dec'])
        except OSError as error:
            damaged.append(str(error))
            continue
        place = (column.to_numpy() for column in rows.columns)
        np.add.at(counts, pixels_of(_MAX_ORDER, *place), 1)
        if not any(schema.equals(one, check_metadata=True) for one in schemas):
            schemas.append(schema)
            names.append(field.id)
    if damaged:
        more = f' (and {len(damaged) - 3} more)' if len(damaged) > 3 else ''
        raise OSError('; '.join(damaged[:3]) + more)
    schema = unify(schemas, names)
    cells = np.flatnonzero(counts)
    return (cells, counts[cells]), schema


def _partitions(cells, counts, max_rows):
    """Orders and pixels of partitions, the coarsest with at most so many rows."""
    found, left = [], np.ones(len(cells), bool)
    for order in range(_MAX_ORDER + 1):
        pixels, inverse = np.unique(
            cells >> 2 * (_MAX_ORDER - order), return_inverse=True
        )
        few = np.bincount(inverse, counts, len(pixels)) <= max_rows
        few |= order == _MAX_ORDER
        whole = few[inverse] & left
        found += [(order, int(pixel)) for pixel in np.unique(pixels[inverse[whole]])]
        left &= ~whole
    return found


def _write_partitions(fields, folder, partitions, schema, run):
    """Write partitions, and what describes them, in a new folder."""
    import pyarrow as pa
    from pyarrow import parquet

    written, footers, final, n_rows = [], [], None, 0
    for order, pixel in partitions:
        rows = merged(fields, pixel_region(order, pixel), schema=schema)
        if not len(rows):
            continue
        index = pixels_of(_INDEX_ORDER, *(rows[k].to_numpy() for k in ('ra', 'dec')))
        order_of = np.argsort(index, kind='stable')
        meta = {'ucd': 'pos.healpix', 'description': 'Nested HEALPix pixel of order 29'}
        own = pa.field(_INDEX, pa.int64(), metadata=meta)
        rows = rows.take(order_of).add_column(0, own, pa.array(index[order_of]))
        if final is None:
            final = rows.schema.with_metadata(_described(rows.schema, run))
        first = pixel // _FOLDER_SIZE * _FOLDER_SIZE
        name = f'Norder={order}/Dir={first}/Npix={pixel}.parquet'
        path = folder / 'dataset' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(rows.cast(final), path, metadata_collector=footers)
        footers[-1].set_file_path(name)
        written.append((order, pixel))
        n_rows += len(rows)
    (folder / 'dataset').mkdir(exist_ok=True)
    if final is None:
        final = schema
    parquet.write_metadata(final, folder / 'dataset' / '_common_metadata')
    parquet.write_metadata(final, folder / 'dataset' / '_metadata', footers)
    lines = ['Norder,Npix', *(f'{order},{pixel}' for order, pixel in written)]
    _write_provenance(fields, folder / 'fields.parquet')
    (folder / 'partition_info.csv').write_text('\n'.join(lines) + '\n')
    share = sum(1 / (12 * 4**order) for order, _ in written)
    properties = {
        'obs_collection': run['name'],
        'dataproduct_type': 'object',
        'hats_nrows': n_rows,
        'hats_col_ra': 'ra',
        'hats_col_dec': 'dec',
        'hats_col_healpix': _INDEX,
        'hats_col_healpix_order': _INDEX_ORDER,
        'hats_npix_suffix': '.parquet',
        'hats_order': max((order for order, _ in written), default=0),
        'hats_builder': f'bliss_astro {__version__}',
        'hats_creation_date': time.strftime('%Y-%m-%dT%H:%MUTC', time.gmtime()),
        'moc_sky_fraction': f'{share:.6g}',
        _STATE: fields.state,
    }
    text = ''.join(f'{name}={value}\n' for name, value in properties.items())
    for name in ('hats.properties', 'properties'):
        (folder / name).write_text(f'#HATS catalog\n{text}')


def _write_provenance(fields, path):
    """Write keys and checksums of the inputs of the fields, some numbers, one a row."""
    import pyarrow as pa
    from pyarrow import parquet

    names = ('field', 'key', 'checksums', 'n_rows', 'expected_count', 'depth')
    kinds = [pa.string()] * 3 + [pa.int64(), pa.float64(), pa.float64()]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    with parquet.ParquetWriter(path, schema) as writer:
        for first in range(0, len(fields.all), _FOLDER_SIZE):
            lines = []
            for field in fields.all[first : first + _FOLDER_SIZE]:
                file = field.folder / 'fields' / f'{field.id}.json'
                line = json.loads(file.read_text())
                line['checksums'] = json.dumps(line.get('checksums'))
                lines.append({name: line.get(name) for name in names})
            writer.write_table(pa.Table.from_pylist(lines, schema))


def is_current(fields, folder):
    """Whether a catalogue is there and holds what is done of a survey."""
    try:
        text = (folder / 'hats.properties').read_text()
    except OSError:
        return False
    return f'{_STATE}={fields.state}' in text.split('\n')
