# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
BlissFinder and the catalogue itself in photutils' PSFPhotometry.
"""

import astropy.units as u
import numpy as np
import pytest
from photutils.psf import PSFPhotometry

from bliss_astro import BlissFinder, NoDetectionsWarning


@pytest.fixture(scope='module')
def image(field):
    """
    The field without its sky, as photutils likes it.
    """
    return np.array(field[0].data - field[0].background)


@pytest.fixture(scope='module')
def finder(known):
    return BlissFinder(**(known | {'background': 0.0}))


def test_table_of_the_finder(finder, image, catalog):
    found = finder(image)
    assert found.colnames == ['id', 'x_centroid', 'y_centroid', 'flux', 'probability']
    assert len(found) == pytest.approx(len(catalog), abs=2)
    np.testing.assert_array_equal(found['id'], np.arange(1, len(found) + 1))


def test_mask_is_passed_on(finder, image):
    mask = np.zeros(image.shape, bool)
    mask[:, :60] = True
    found = finder(image, mask=mask)
    assert np.sum(found['x_centroid'] < 57) == 0


def test_nothing_found_is_none(known, rng):
    finder = BlissFinder(0.99, **(known | {'background': 0.0}))
    empty = rng.normal(size=(48, 48)) * known['bkg_error']
    with pytest.warns(NoDetectionsWarning, match='probability above 0.99') as record:
        assert finder(empty) is None
    assert len(record) == 1
    assert record[0].filename == __file__


def test_repr(finder):
    assert repr(finder).startswith('BlissFinder(threshold=0.5, background=...')
    assert ', encoder=...' in repr(finder)


def _check_fit(result, truth, known):
    """
    Bright isolated stars: PSFPhotometry agrees with the truth.
    """
    n_checked = 0
    for star in truth:
        apart = np.hypot(
            truth['x_centroid'] - star['x_centroid'],
            truth['y_centroid'] - star['y_centroid'],
        )
        if star['flux'].value < 8000 or np.sum(apart < 12) > 1:
            continue
        k = int(
            np.argmin(
                np.hypot(
                    result['x_fit'] - star['x_centroid'],
                    result['y_fit'] - star['y_centroid'],
                )
            )
        )
        flux = getattr(result['flux_fit'][k], 'value', result['flux_fit'][k])
        # 4 sigma of the optimal photometry, doubled for the 9 x 9 px.
        error = np.sqrt(known['bkg_error'] ** 2 * 40 + star['flux'].value)
        assert abs(flux - star['flux'].value) < 8 * error
        n_checked += 1
    assert n_checked >= 3


@pytest.mark.parametrize('unit', [None, u.electron])
def test_finder_in_psf_photometry(field, known, encoder, image, unit):
    scale = 1 if unit is None else unit
    noise = known['bkg_error'] * scale
    finder = BlissFinder(
        encoder=encoder,
        psf=known['psf'],
        background=0.0,
        bkg_error=noise,
        effective_gain=1.0,
    )
    photometry = PSFPhotometry(
        known['psf'], fit_shape=(9, 9), finder=finder, aperture_radius=4
    )
    result = photometry(image * scale, error=np.ones(image.shape) * noise)
    _check_fit(result, field[1], known)


def test_catalogue_as_init_params(field, known, image, catalog):
    photometry = PSFPhotometry(known['psf'], fit_shape=(9, 9), aperture_radius=4)
    error = np.full(image.shape, known['bkg_error'])
    before = catalog.copy()
    result = photometry(
        image * u.electron, error=error * u.electron, init_params=catalog
    )
    _check_fit(result, field[1], known)
    assert len(result) == len(catalog)
    for name in catalog.colnames:
        assert np.all(catalog[name] == before[name])
