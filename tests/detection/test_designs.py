# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the bundled encoders of galaxies: one pass and in sequence, by name.
"""

import astropy.units as u
import numpy as np
import pytest
import torch

from bliss_astro import Exposure, detect_sources
from bliss_astro.detection import _infer
from bliss_astro.psf import PSFModel
from bliss_astro.simulation import SimulationConfig, SimulationStream

DESIGNS = ('stars-galaxies', 'stars-galaxies-sequence')


def exposure_of(scenes, k=0):
    return Exposure(
        scenes.data[k].numpy(),
        psf=PSFModel.from_shape(scenes.psf[k].double().numpy()),
        background=float(scenes.background[k]),
        bkg_error=float(scenes.bkg_error[k]),
        effective_gain=1.0,
    )


@pytest.fixture(scope='module')
def sky():
    """
    A field of stars and galaxies of 136 x 136 px with its truth.
    """
    config = SimulationConfig(
        population='sky',
        fields='single',
        n_exposures=(1, 1),
        shape=(136, 136),
        floor_snr=(3.4, 3.4),
        typical_floor_snr=None,
        star_scale=(12.0, 12.0),
        galaxy_scale=(5.0, 5.0),
        bad_pixels=False,
    )
    stream = SimulationStream(config)
    return stream.sample_batch(1, generator=torch.Generator().manual_seed(12))


@pytest.fixture(scope='module', params=DESIGNS)
def found(request, sky):
    return detect_sources(exposure_of(sky), encoder=request.param, n_samples=50, rng=1)


def test_same_columns(found):
    for name in ('galaxy_probability', 'disk_fraction', 'disk_radius', 'e1', 'e2_err'):
        assert name in found.colnames
    assert found['angle'].unit == u.deg
    assert np.all(np.isfinite(found['flux_err']))
    drawn = found.posterior.sample(1, rng=2)
    assert {'is_galaxy', 'disk_radius'} <= set(drawn[0].colnames)


def test_bright_sources_are_what_they_are(found, sky):
    """
    Sources of five times the floor are found, and their types and fluxes hold.
    """
    truth = sky.flux[0] > 5 * sky.flux_min[0]
    x, y, flux = (v[0][truth].numpy() for v in (sky.x, sky.y, sky.flux))
    galaxy = sky.is_galaxy[0][truth].numpy()
    inside = (x > 4) & (x < 131) & (y > 4) & (y < 131)
    assert inside.sum() >= 8
    right, pulls, matched = 0, [], 0
    for k in np.flatnonzero(inside):
        apart = np.hypot(found['x_centroid'] - x[k], found['y_centroid'] - y[k])
        row = found[int(np.argmin(apart))]
        if apart.min() > 1.25:
            continue
        matched += 1
        right += (row['galaxy_probability'] > 0.5) == galaxy[k]
        pulls.append((row['flux'] - flux[k]) / row['flux_err'])
    n = int(inside.sum())
    assert matched >= n - max(1, n // 6)
    assert right >= matched - max(1, matched // 6)
    # Half of the pulls lie within 0.67, whatever the outliers do.
    assert np.median(np.abs(pulls)) < 1.5


def test_blocks_give_the_same(sky, monkeypatch):
    # The one-pass design is a part of this one, and so are its weights.
    design = 'stars-galaxies-sequence'
    exposure = exposure_of(sky)[:96, :96]
    whole = detect_sources(exposure, encoder=design, density=0.002)
    monkeypatch.setattr(_infer, '_BLOCK', 16)
    blocks = detect_sources(exposure, encoder=design, density=0.002)
    assert abs(len(whole) - len(blocks)) <= 2
    rows = whole[whole['probability'] > 0.9]
    assert len(rows) > 5
    failed = 0
    for row in rows:
        apart = np.hypot(
            blocks['x_centroid'] - row['x_centroid'],
            blocks['y_centroid'] - row['y_centroid'],
        )
        other = blocks[int(np.argmin(apart))]
        for name in ('flux', 'e1', 'disk_radius'):
            off = abs(other[name] - row[name]) / row[f'{name}_err']
            failed += bool(off > 0.1)
    # Features are computed in half precision: one in fifty may move.
    assert failed <= max(1, 3 * len(rows) // 50)
