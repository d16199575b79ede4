# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is sharper than the PSF is masked, flagged and no source.
"""

import warnings

import numpy as np
import pytest

from bliss_astro import CoaddSimulator, Exposure, PSFModel, detect_sources
from bliss_astro.detection._estimates import find_cosmic_rays, psf_findings
from bliss_astro.flags import CatalogFlag
from bliss_astro.priors import StarPrior


def scaled(factor):
    shape = PSFModel().shape_vector.copy()
    shape[[0, 1, 3]] *= factor
    return PSFModel.from_shape(shape)


def field(factor=1.0, *, density=0.004, seed=1):
    """
    Stars of a PSF of 3.5 px times a factor, some of them very bright.
    """
    sky = StarPrior(density=density)
    simulator = CoaddSimulator(1, sky, psf=scaled(factor), shape=(160, 160))
    return simulator.sample(rng=seed)


# A single pixel, a pair, and a slanted track, in units of the noise.
RAYS = {
    'pixel': [(40, 41, 60.0)],
    'pair': [(80, 90, 70.0), (80, 91, 45.0)],
    'track': [(120 + k, 30 + k, 50.0) for k in range(6)],
}


def with_rays(exposure, rays):
    data = np.array(exposure.data)
    for row, column, sigmas in rays:
        data[row, column] += sigmas * float(np.median(exposure.bkg_error))
    return exposure.replace(data=data)


@pytest.mark.parametrize('kind', RAYS)
@pytest.mark.parametrize('factor', [0.6, 1.0, 2.0])
def test_rays_are_found(kind, factor):
    rays = RAYS[kind]
    if factor < 1:
        # A narrow PSF demands less of its neighbours.
        rays = [(y, x, 2 * sigmas) for y, x, sigmas in rays]
    exposure = with_rays(field(factor)[0], rays)
    found = find_cosmic_rays(exposure)
    for row, column, _ in rays:
        assert found[row, column]
    assert found.sum() <= len(rays) + 2


@pytest.mark.parametrize('factor', [0.4, 0.6, 1.0, 2.0])
@pytest.mark.parametrize('wrong', [1.0, 1.3])
def test_stars_are_no_rays(factor, wrong):
    for seed in range(3):
        exposure, _ = field(factor, seed=seed, density=0.01)
        exposure = exposure.replace(psf=scaled(factor * wrong))
        assert not find_cosmic_rays(exposure).any()


def test_a_psf_that_is_far_too_broad_makes_no_rays():
    exposure, _ = field(0.4, density=0.03)
    assert not find_cosmic_rays(exposure.replace(psf=scaled(4.0))).any()


def test_masked_neighbours_do_not_count():
    exposure, _ = field()
    y, x = np.unravel_index(np.argmax(exposure.data), exposure.shape)
    mask = np.zeros(exposure.shape, dtype=bool)
    mask[y - 1 : y + 2, x - 1 : x + 2] = True
    mask[y, x] = False
    assert not find_cosmic_rays(exposure.replace(mask=mask)).any()
    corner = with_rays(exposure, [(0, 0, 80.0)])
    assert find_cosmic_rays(corner).sum() <= 1


def test_catalogue_masks_and_flags_them(encoder):
    exposure, truth = field()
    x, y = (np.asarray(truth[name]) for name in ('x_centroid', 'y_centroid'))
    clear = [
        rays
        for rays in RAYS.values()
        if min(np.hypot(x - c, y - r).min() for r, c, _ in rays) > 4
    ]
    assert clear
    rays = [ray for some in clear for ray in some]
    catalog = detect_sources(with_rays(exposure, rays), encoder=encoder)
    for row, column, _ in rays:
        near = np.hypot(catalog['x_centroid'] - column, catalog['y_centroid'] - row)
        assert near.min() > 2
    record = catalog.meta['estimated']['mask']
    assert record['n_pixels'] >= len(rays)
    assert 'sharper than the PSF' in record['source']
    assert catalog.exposure.mask[rays[0][0], rays[0][1]]
    # A row beside one is flagged.
    star = np.argmax(truth['flux'])
    beside = (round(float(y[star])), round(float(x[star])) + 2, 600.0)
    catalog = detect_sources(with_rays(exposure, [beside]), encoder=encoder)
    row = np.hypot(catalog['x_centroid'] - x[star], catalog['y_centroid'] - y[star])
    assert catalog['flags'][np.argmin(row)] & CatalogFlag.COSMIC_RAY


def test_nothing_is_masked_in_a_clean_image(encoder):
    exposure, _ = field()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        catalog = detect_sources(exposure, encoder=encoder)
    assert catalog.exposure is exposure
    assert not np.any(catalog['flags'] & CatalogFlag.COSMIC_RAY)


def test_without_noise_in_the_way():
    # One ray on zeros, of a known PSF: that pixel and no other.
    data = np.zeros((32, 32))
    data[16, 15] = 1000.0
    exposure = Exposure(
        data, background=0.0, bkg_error=1.0, effective_gain=1.0, psf=PSFModel()
    )
    found = find_cosmic_rays(exposure)
    assert found[16, 15]
    assert found.sum() == 1


def test_stars_of_a_psf_stated_too_broad_are_no_rays():
    """
    Undersampled stars look like rays to a PSF of twice their width.
    """
    exposure = field(0.5)[0]
    wrong = exposure.replace(psf=scaled(1.0))
    _, messages, numbers = psf_findings(wrong, measured=False)
    assert 'narrower than the stated psf' in messages[0]
    assert find_cosmic_rays(wrong).sum() > 20
    assert find_cosmic_rays(wrong, width=numbers['ratio']).sum() <= 2
    ray = with_rays(wrong, [(40, 41, 200.0)])
    assert find_cosmic_rays(ray, width=numbers['ratio'])[40, 41]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = detect_sources(wrong, encoder='stars', density=0.004)
    assert np.count_nonzero(found.exposure.mask) <= 2


def test_rays_do_not_contradict_a_psf(rng):
    """
    Many more rays than stars: the stated PSF stays, and they are masked.
    """
    exposure = field(density=0.0005)[0]
    places = rng.integers(8, 152, size=(40, 2))
    exposure = with_rays(exposure, [(y, x, 100.0) for y, x in places])
    same, messages, _ = psf_findings(exposure, measured=False)
    assert messages == []
    assert same is exposure
    found = find_cosmic_rays(exposure)
    assert found[places[:, 0], places[:, 1]].mean() > 0.9
