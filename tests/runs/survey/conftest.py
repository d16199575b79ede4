# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Folders of runs over simulated overlapping fields, without images.
"""

import json

import numpy as np
import pyarrow as pa
import pytest
from astropy.wcs import WCS
from pyarrow import parquet

from bliss_astro.runs._merge import owners
from bliss_astro.runs._sky import FieldSky, to_vectors

SCALE, SHAPE = 0.4, (200, 260)
LIMIT, FLOOR = 900.0, 600.0
# Expected number of sources a pixel that are too faint to be listed.
FAINT = 1e-4


def tan_wcs(ra, dec, shape=SHAPE, *, scale=SCALE, angle=20.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ['RA---TAN', 'DEC--TAN'], [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    return wcs


def write_survey(
    folder, places, *, centre=(0.0, 0.0), n=800, error=0.1, scale=SCALE, owned=None
):
    """
    Write fields around a centre, each of which sees all sources with errors of its own.

    Places are offsets of the fields in pixels. Returns the true unit vectors of
    sources, of which those outside of all fields have no row.
    """
    rng = np.random.default_rng(1)
    (folder / 'fields').mkdir(parents=True)
    run = {'encoder': 'stars', 'encoder_sha256': 'abc', 'version': '1.0'}
    run['options'] = {'threshold': 0.5}
    (folder / 'run.json').write_text(json.dumps(run))
    sky = tan_wcs(*centre, (1, 1), scale=scale, angle=0.0)
    half = np.abs(places).max() + max(SHAPE)
    ra, dec = sky.all_pix2world(*rng.uniform(-half, half, (2, n)), 0)
    flux = FLOOR * 2 * rng.pareto(1.0, n) + LIMIT
    for k, place in enumerate(places):
        own = sky.all_pix2world([place], 0)[0]
        wcs = tan_wcs(*own, scale=scale, angle=0.0 if owned else 15.0 * k)
        x, y = np.array(wcs.all_world2pix(ra, dec, 0))
        x, y = (v + error * rng.normal(size=n) for v in (x, y))
        use = (x > -0.5) & (x < SHAPE[1] - 0.5) & (y > -0.5) & (y < SHAPE[0] - 0.5)
        columns = {'x_centroid': x[use], 'y_centroid': y[use], 'flux': flux[use]}
        columns['probability'] = rng.uniform(0.9, 1.0, use.sum())
        columns |= {f'{name}_err': np.full(use.sum(), error) for name in 'xy'}
        columns['flux_err'] = np.full(use.sum(), 100.0)
        write_field(folder, f'f{k:02d}', wcs, columns, owned and owned[k])
    return to_vectors(ra, dec)


def write_field(folder, name, wcs, columns, owned=None, **record):
    """
    Write rows, marginals and record of a field.
    """
    n = len(columns['flux'])
    sky = None if wcs is None else FieldSky.of(wcs, SHAPE)
    columns = {'field': [name] * n, 'owned': np.ones(n, bool)} | columns
    columns |= {'id': np.arange(1, n + 1), 'flags': np.zeros(n, np.int32)}
    columns['x_y_cov'] = np.zeros(n)
    if wcs is not None:
        place = columns['x_centroid'], columns['y_centroid']
        columns |= dict(zip(('ra', 'dec'), wcs.all_pix2world(*place, 0), strict=True))
    meta = {
        name: {'unit': 'electron', 'ucd': 'phot.flux'} for name in ('flux', 'flux_err')
    }
    fields = []
    for column, values in columns.items():
        kind = pa.string() if column == 'field' else pa.array(values).type
        fields.append(pa.field(column, kind, metadata=meta.get(column)))
    path = folder / 'fields' / f'{name}.parquet'
    parquet.write_table(pa.table(columns, schema=pa.schema(fields)), path)
    cell = 32
    edges = [np.array([*range(0, k, cell), k]) for k in SHAPE]
    mean = FAINT * np.diff(edges[0])[:, None] * np.diff(edges[1])
    listed = float(columns['probability'].sum())
    bins = [edge - 0.5 for edge in edges]
    places = columns['y_centroid'], columns['x_centroid']
    mean += np.histogram2d(*places, bins, weights=columns['probability'])[0]
    arrays = {'mean': mean.astype('f4'), 'usable': np.full(mean.shape, 100, np.uint8)}
    arrays['depth_'] = np.zeros(mean.shape, np.float16)
    np.savez_compressed(folder / 'fields' / f'{name}.npz', **arrays)
    marginals = {'unit': 'electron', 'flux_min': FLOOR, 'n_mean': float(mean.sum())}
    marginals |= {'n_variance': 1.0, 'listed': listed, 'cell': cell, 'share': 1.0}
    marginals |= {'limits': {'': LIMIT}, 'sky': sky and sky.to_dict()}
    own = {'field': name, 'key': name, 'status': 'done', 'reason': '', 'n_rows': n}
    own |= {'encoder_sha256': 'abc', 'owned': owned, 'marginals': marginals}
    own |= {'seconds': {'infer': 1.0}, 'checksums': {'a.fits': ['1f', 3, 4]}}
    own |= {'area': 1.0, 'depth': LIMIT, 'fwhm': 3.0, 'pixel_scale': SCALE}
    record = own | {'expected_count': float(mean.sum())} | record
    (folder / 'fields' / f'{name}.json').write_text(json.dumps(record))


@pytest.fixture(scope='session')
def make_survey():
    """
    Give the function that writes surveys.
    """
    return write_survey


@pytest.fixture(scope='session')
def make_field():
    """
    Give the function that writes a field.
    """
    return write_field


@pytest.fixture(scope='session')
def make_wcs():
    """
    Give the function that makes a WCS.
    """
    return tan_wcs


def owner_of(fields, vectors):
    """
    Index of the field that owns each of some unit vectors, wherever they are.
    """
    index = np.argmax([field.border(vectors) > 0 for field in fields], axis=0)
    order, found = np.argsort(index), np.empty(len(index), int)
    found[order] = owners(fields, vectors[order], index[order])
    return found


@pytest.fixture(scope='session')
def owners_of():
    """
    Give the function that finds owners.
    """
    return owner_of
