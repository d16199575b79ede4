# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of catalogues of stars and galaxies, from image to file.
"""

import astropy.units as u
import numpy as np
import pytest
import torch

from bliss_astro import ProbabilisticCatalog, PSFModel, detect_sources
from bliss_astro.exposures import Exposure
from bliss_astro.simulation import SimulationConfig, SimulationStream


@pytest.fixture(scope='module')
def field():
    """
    An exposure of 160 x 160 px with its truth.
    """
    config = SimulationConfig(
        population='npe',
        n_exposures=(1, 1),
        shape=(160, 160),
        bad_pixels=False,
        crowding=(3.0, 3.0),
    )
    scenes = SimulationStream(config).sample_batch(
        1, generator=torch.Generator().manual_seed(6)
    )
    exposure = Exposure(
        scenes.data[0].double().numpy() * u.electron,
        background=float(scenes.background[0]) * u.electron,
        bkg_error=float(scenes.bkg_error[0]) * u.electron,
        effective_gain=1.0,
        psf=PSFModel.from_shape(scenes.psf[0].double().numpy()),
    )
    keep = (scenes.flux[0] > 0).numpy()
    names = ('x', 'y', 'flux', 'is_galaxy')
    truth = {name: getattr(scenes, name)[0].numpy()[keep] for name in names}
    truth['mag'] = 22.5 - 2.5 * np.log10(
        truth['flux'] / float(scenes.electrons_per_nmgy[0])
    )
    return exposure, truth


@pytest.fixture(scope='module')
def catalog(field):
    return detect_sources(field[0], n_samples=200, rng=1)


def test_bright_sources_are_found_and_classified(field, catalog):
    _, truth = field
    inside = (truth['x'] > 3) & (truth['x'] < 156)
    inside &= (truth['y'] > 3) & (truth['y'] < 156) & (truth['mag'] < 21)
    x, y = (np.asarray(catalog[name]) for name in ('x_centroid', 'y_centroid'))
    apart = np.hypot(truth['x'][inside, None] - x, truth['y'][inside, None] - y)
    nearest = apart.argmin(1)
    found = apart.min(1) < 1
    assert inside.sum() > 15
    assert found.mean() > 0.9
    galaxy = np.asarray(catalog['galaxy_probability'])[nearest[found]]
    right = (galaxy > 0.5) == truth['is_galaxy'][inside][found]
    assert right.mean() > 0.9


def test_column_follows_probability(catalog):
    names = catalog.colnames
    assert names[names.index('probability') + 1] == 'galaxy_probability'
    values = np.asarray(catalog['galaxy_probability'])
    assert ((values >= 0) & (values <= 1)).all()
    assert catalog['galaxy_probability'].info.description


def test_samples_respect_types(catalog):
    galaxy = np.asarray(catalog['galaxy_samples'])
    assert galaxy.shape == (len(catalog), 200)
    assert galaxy.dtype == bool
    p = np.asarray(catalog['galaxy_probability'])
    error = np.sqrt(np.maximum(p * (1 - p), 1e-3) / 200)
    # The share of types over positions varies a little from draw to draw.
    assert (np.abs(galaxy.mean(1) - p) < 4 * error + 0.05).all()
    # Where both are possible, galaxies are the brighter ones.
    unsure = (p > 0.3) & (p < 0.7)
    flux = np.asarray(catalog['flux_samples'].value)
    if unsure.sum() >= 3:
        ratio = [
            np.median(flux[k][galaxy[k]]) / np.median(flux[k][~galaxy[k]])
            for k in np.flatnonzero(unsure)
        ]
        assert np.median(ratio) > 1


def test_draws_of_catalogues_have_types(catalog):
    draw = catalog.posterior.sample(1, rng=2)[0]
    assert draw['is_galaxy'].dtype == bool
    assert 0 < draw['is_galaxy'].sum() < len(draw)


def test_fits_keeps_types_and_posterior(field, tmp_path):
    known = {'n_samples': 4, 'rng': 1, 'check': False, 'keep': 'posterior'}
    catalog = detect_sources(field[0], **known)
    catalog.write(tmp_path / 'typed.fits')
    again = ProbabilisticCatalog.read(tmp_path / 'typed.fits')
    for name in ('galaxy_probability', 'galaxy_samples'):
        np.testing.assert_array_equal(again[name], catalog[name])
    first = catalog.posterior.sample(1, rng=3)[0]
    second = again.posterior.sample(1, rng=3)[0]
    np.testing.assert_array_equal(first['is_galaxy'], second['is_galaxy'])
    np.testing.assert_allclose(first['flux'].value, second['flux'].value, rtol=1e-5)


def test_ecsv_keeps_types(catalog, tmp_path):
    catalog.write(tmp_path / 'typed.ecsv', posterior=False)
    again = ProbabilisticCatalog.read(tmp_path / 'typed.ecsv')
    np.testing.assert_allclose(
        again['galaxy_probability'], catalog['galaxy_probability']
    )


def test_the_population_matters(field):
    exposure = field[0][:48, :48]
    sky, npe = (
        detect_sources(exposure, population=name, check=False)
        for name in ('sky', 'npe')
    )
    # Small, faint galaxies are common on the sky and not in the paper's prior.
    mean = [np.mean(found['galaxy_probability']) for found in (sky, npe)]
    assert mean[0] != pytest.approx(mean[1], abs=1e-5)
    with pytest.raises(ValueError, match="population must be one of 'sky', 'npe'"):
        detect_sources(exposure, population='stars')


def test_an_encoder_of_stars_has_no_types(field):
    found = detect_sources(field[0][:64, :64], encoder='stars', check=False)
    assert 'galaxy_probability' not in found.colnames
    assert 'is_galaxy' not in found.posterior.sample(1, rng=1)[0].colnames
