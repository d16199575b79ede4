# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues of several kinds, and a posterior that is small enough to read.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.wcs import WCS

from bliss_astro.catalog import ProbabilisticCatalog, _posterior


class FakePosterior:
    """
    The parts of a posterior that a catalogue uses, with uniform distributions.
    """

    def __init__(self, half_width=0.5):
        self.half_width = half_width

    def interval(self, rows, column, *, level):
        if column not in ('x_centroid', 'y_centroid', 'flux'):
            msg = f'column must be a position or flux, got {column!r}'
            raise ValueError(msg)
        unit = rows.image.get('unit') if column == 'flux' else None
        centre = np.asarray(rows[column])
        half = np.full(len(rows), level * self.half_width)
        limits = centre - half, centre + half
        return limits if unit is None else tuple(v * u.Unit(unit) for v in limits)

    def sample_rows(self, rows, column, *, n_samples, rng=None):
        low, high = self.interval(rows, column, level=1.0)
        share = rng.uniform(size=(len(rows), n_samples))
        return low[:, None] + (high - low)[:, None] * share

    def to_arrays(self, least=1.0):
        arrays = {
            'half_width': np.array([self.half_width], dtype='f4'),
            'features': np.arange(24, dtype='f4').reshape(2, 3, 4),
            'empty': np.empty((0, 5)),
            'mask': np.array([[1, 0]], dtype='u1'),
            'flags': np.array([-128, 127], dtype='i4'),
        }
        return arrays, {'grid': {'tile': 4, 'origin': [0, 0]}, 'name': 'fäke'}

    @classmethod
    def from_arrays(cls, arrays, meta):
        made = cls(float(arrays['half_width'][0]))
        made.arrays, made.meta = arrays, meta
        return made


@pytest.fixture
def reads_fakes(monkeypatch):
    """
    Make files give the small posterior.
    """
    monkeypatch.setattr(_posterior, 'CatalogPosterior', FakePosterior)


@pytest.fixture
def celestial_wcs():
    """
    Give a tangential WCS, rotated, in FK5.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crpix = 41.0, 33.0
    wcs.wcs.crval = 323.4, -0.8
    wcs.wcs.cd = 1.1e-4 * np.array([[-0.8, 0.6], [0.6, 0.8]])
    wcs.wcs.radesys = 'FK5'
    wcs.wcs.set()
    return wcs


def make_columns(n, *, seed=7):
    """
    Draw arrays of n plausible rows, in no order.
    """
    rng = np.random.default_rng(seed)
    return {
        'probability': rng.uniform(0.5, 1, n),
        'x_centroid': rng.uniform(0, 80, n),
        'y_centroid': rng.uniform(0, 60, n),
        'x_err': rng.uniform(0.01, 0.2, n),
        'y_err': rng.uniform(0.01, 0.2, n),
        'x_y_cov': rng.normal(0, 1e-4, n),
        'flux': rng.pareto(1.0, n) + 0.5,
        'flux_err': rng.uniform(0.05, 0.2, n),
        'flags': rng.integers(0, 256, n),
    }


@pytest.fixture
def columns():
    """
    Give the arrays of eight rows.
    """
    return make_columns(8)


@pytest.fixture
def make_catalog(celestial_wcs):
    """
    Give a function that makes a catalogue of one of the kinds.
    """

    def make(kind='ordinary', *, seed=7, **kwargs):
        settings = {
            'unit': None if kind == 'unitless' else u.nmgy,
            'wcs': None if kind in ('ordinary', 'unitless') else celestial_wcs,
            'posterior': FakePosterior(),
            'meta': {'threshold': 0.5, 'encoder': 'stars', 'encoder_hash': 'b6f0'},
            'image_shape': (60, 80),
            'expected_count': (8.4, 0.8),
        }
        n = 0 if kind.startswith('empty') else 8
        columns = make_columns(n, seed=seed)
        if kind == 'samples':
            draws = np.random.default_rng(seed).normal(0, 0.1, (n, 6))
            columns['flux_samples'] = columns['flux'][:, None] + draws
            columns['name'] = np.array([f'star {i}' for i in range(n)])
            columns['x_centroid_samples'] = columns['x_centroid'][:, None] + draws
        return ProbabilisticCatalog.from_columns(columns, **{**settings, **kwargs})

    return make


@pytest.fixture(params=['unitless', 'empty_wcs', 'samples'])
def catalog(request, make_catalog):
    """
    Give a catalogue of each kind.
    """
    return make_catalog(request.param)
