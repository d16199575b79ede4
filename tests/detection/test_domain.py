# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images unlike those an encoder was trained on: a warning and a flag.
"""

import warnings

import numpy as np
import pytest
from scipy.spatial import cKDTree

from bliss_astro import CoaddSimulator, OutOfDomainWarning, PSFModel, detect_sources
from bliss_astro.encoders import Domain
from bliss_astro.flags import CatalogFlag
from bliss_astro.priors import StarPrior


def _scaled(factor):
    shape = PSFModel().shape_vector.copy()
    shape[[0, 1, 3]] *= factor
    return PSFModel.from_shape(shape)


def _all_flagged(catalog, flag):
    return len(catalog) > 0 and np.all(catalog['flags'] & int(flag))


@pytest.mark.parametrize('factor', [0.4, 2.2])
def test_psf_broader_or_narrower(encoder, factor):
    psf = _scaled(factor)
    sky = StarPrior(density=0.002, flux_min=3000.0)
    exposure, _ = CoaddSimulator(1, sky, psf=psf, margin=8).sample(rng=2)
    with pytest.warns(OutOfDomainWarning, match='the PSF .* is outside') as record:
        found = detect_sources(exposure, density=0.002, encoder=encoder)
    assert {entry.filename for entry in record} == {__file__}
    assert _all_flagged(found, CatalogFlag.PSF_OUT_OF_DOMAIN)


def test_an_elongated_psf(field, encoder):
    exposure = field[0].replace(psf=PSFModel(e1=0.6))
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter('always')
        detect_sources(exposure, density=0.002, encoder=encoder, check=False)
    words = 'the ellipticity of the PSF (0.60)'
    assert any(words in str(entry.message) for entry in record)


@pytest.mark.parametrize('density', [None, 0.06])
def test_denser_field(encoder, density):
    sky = StarPrior(density=0.06)
    exposure, _ = CoaddSimulator(1, sky, shape=(64, 64), margin=2).sample(rng=2)
    with pytest.warns(OutOfDomainWarning, match='density of sources') as record:
        found = detect_sources(exposure, density=density, encoder=encoder)
    assert {entry.filename for entry in record} == {__file__}
    assert _all_flagged(found, CatalogFlag.DENSITY_OUT_OF_DOMAIN)


@pytest.mark.parametrize('background', [3.0, 3e5])
def test_darker_and_brighter_sky(encoder, background):
    sky = StarPrior(density=0.002, flux_min=30 * background**0.5)
    exposure, _ = CoaddSimulator(1, sky, background=background, margin=8).sample(rng=2)
    with pytest.warns(OutOfDomainWarning, match='noise of the sky'):
        found = detect_sources(exposure, density=0.002, encoder=encoder)
    assert _all_flagged(found, CatalogFlag.NOISE_OUT_OF_DOMAIN)


def test_correlation_near_the_limit(field, encoder):
    near = field[0].replace(noise_correlation=(0.53, 0.1))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter('always')
        detect_sources(near, density=0.002, encoder=encoder)
    assert not [entry for entry in shown if 'correlation' in str(entry.message)]


@pytest.mark.parametrize('correlation', [(0.7, 0.1), (-0.2, 0.0)])
def test_strange_correlation(field, encoder, correlation):
    exposure = field[0].replace(noise_correlation=correlation)
    text = rf'correlation \({correlation[0]:.2f}.* \(-0.15 to 0.51\)'
    with pytest.warns(OutOfDomainWarning, match=text):
        found = detect_sources(exposure, density=0.002, encoder=encoder)
    assert _all_flagged(found, CatalogFlag.NOISE_OUT_OF_DOMAIN)


def test_neighbours_that_anticorrelate_do_no_harm(encoder, recwarn):
    """
    As many stars as in white noise, and no others, down to the limit of the domain.
    """
    exposure, truth = CoaddSimulator(
        1, StarPrior(density=0.003), shape=(160, 160)
    ).sample(rng=3)
    rng = np.random.default_rng(3)
    white = 3 * rng.normal(size=exposure.shape) * np.asarray(exposure.bkg_error)
    # Neighbours correlate by 2 a / (1 + 4 a^2) = -0.15.
    a = -0.0789
    high = white + a * sum(np.roll(white, s, k) for s in (-1, 1) for k in (0, 1))
    high /= np.sqrt(1 + 4 * a**2)
    places = np.column_stack([truth['x_centroid'], truth['y_centroid']])
    shares = []
    for noise, correlation in ((white, 0.0), (high, -0.135)):
        image = exposure.replace(
            data=np.asarray(exposure.data) + noise,
            bkg_error=10**0.5 * np.asarray(exposure.bkg_error),
            noise_correlation=(correlation, correlation),
        )
        rows = detect_sources(image, density=0.003, encoder=encoder, check=False)
        own = np.column_stack([rows['x_centroid'], rows['y_centroid']])
        bright = np.asarray(truth['flux']) > 10 * 3.6 * float(
            np.median(image.bkg_error)
        )
        found = cKDTree(own).query(places[bright])[0] < 1.5
        shares.append((found.mean(), np.mean(cKDTree(places).query(own)[0] > 2)))
    assert len(found) > 10
    assert shares[1][0] >= shares[0][0] - 0.05
    assert shares[1][1] <= shares[0][1] + 0.05
    assert not [w for w in recwarn if 'correlation' in str(w.message)]


def test_coadds_of_any_depth_are_inside(encoder, recwarn):
    # Two exposures half a pixel apart correlate by up to 0.5.
    for depth, seed in ((2, 1), (2, 2), (3, 3), (25, 4)):
        coadd, _ = CoaddSimulator(depth, StarPrior(density=0.002)).sample(rng=seed)
        detect_sources(coadd, density=0.002, encoder=encoder)
    assert not [w for w in recwarn if issubclass(w.category, OutOfDomainWarning)]


def test_floor_outside(field, encoder):
    import astropy.units as u

    with pytest.warns(OutOfDomainWarning, match='flux_min stands for .* ratio of'):
        detect_sources(
            field[0], density=0.002, flux_min=60 * u.electron, encoder=encoder
        )


def test_only_the_tiles_concerned_are_flagged(encoder):
    class Varying:
        def at(self, x, y):
            return _scaled(2.2 if x > 64 else 1.0)

    sky = StarPrior(density=0.003, flux_min=3000.0)
    exposure, _ = CoaddSimulator(1, sky, shape=(64, 128), margin=4).sample(rng=5)
    with pytest.warns(OutOfDomainWarning, match='the PSF'):
        found = detect_sources(
            exposure.replace(psf=Varying()), density=0.003, encoder=encoder, check=False
        )
    flagged = (found['flags'] & int(CatalogFlag.PSF_OUT_OF_DOMAIN)) > 0
    assert np.all(flagged[found['x_centroid'] > 72])
    assert not np.any(flagged[found['x_centroid'] < 60])


def test_domain_comes_from_the_card(encoder):
    domain = Domain.of(encoder)
    assert domain.noise[0] < 9
    assert domain.noise[1] > 200
    assert domain.density[1] == encoder.card['simulation']['density'][1]
    # The range of seeing covers that of the coadd paper's field.
    assert domain.psf_area[0] < PSFModel().n_eff < domain.psf_area[1]
