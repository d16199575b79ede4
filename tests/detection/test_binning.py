# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of images whose pixels are joined before they are looked at.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_equal

from bliss_astro import OutOfDomainWarning, ProbabilisticCatalog, PSFModel
from bliss_astro.detection import detect_sources
from bliss_astro.psf import DEFAULT_SHAPE

_SIDE = 130


@pytest.fixture(scope='module')
def broad():
    """
    Stars of 10 px FWHM: (image, keywords, true positions, true fluxes).
    """
    rng = np.random.default_rng(5)
    vector = np.array(DEFAULT_SHAPE, float)
    vector[[0, 1, 3]] *= 2.9
    psf = PSFModel.from_shape(vector)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    image = rng.normal(0, 1, (_SIDE, _SIDE))
    place = np.array([[25.3, 30.1], [90.7, 28.4], [60.2, 99.6], [104.5, 95.5]])
    flux = np.array([8000.0, 3000.0, 12000.0, 5000.0])
    for (at_x, at_y), f in zip(place, flux, strict=True):
        image += f * psf(x - at_x, y - at_y)
    known = {'psf': psf, 'background': 0.0, 'bkg_error': 1.0, 'effective_gain': 20.0}
    return (
        image,
        known | {'density': 3e-4, 'encoder': 'stars', 'check': False},
        place,
        flux,
    )


def _nearest(catalog, place):
    x, y = (np.asarray(catalog[name]) for name in ('x_centroid', 'y_centroid'))
    apart = np.hypot(place[:, 0, None] - x, place[:, 1, None] - y)
    return apart.argmin(1), apart.min(1)


def test_rows_are_in_the_pixels_of_the_image(broad):
    image, known, place, flux = broad
    catalog = detect_sources(image, bin='auto', **known)
    binning = catalog.meta['binning']
    assert binning >= 2
    assert len(catalog) == len(place)
    index, apart = _nearest(catalog, place)
    assert apart.max() < 0.5
    offset = np.asarray(catalog['x_centroid'])[index] - place[:, 0]
    assert np.abs(offset / catalog['x_err'][index]).max() < 4
    assert_allclose(catalog['flux'][index], flux, rtol=0.06)
    assert_allclose(catalog.posterior.fwhm, known['psf'].fwhm, rtol=0.1)
    assert_allclose(catalog.meta['density'], known['density'], rtol=1e-6)


def test_posterior_answers_in_the_pixels_of_the_image(broad, tmp_path):
    image, known, place, _ = broad
    catalog = detect_sources(image, bin=2, **known)
    posterior = catalog.posterior
    assert posterior.shape == image.shape
    low, high = posterior.interval(catalog, 'x_centroid', level=0.99)
    index, _ = _nearest(catalog, place)
    assert np.all((low[index] < place[:, 0]) & (place[:, 0] < high[index]))
    assert_allclose(
        posterior.sample_rows(catalog, 'y_centroid', n_samples=300, rng=1).mean(1),
        catalog['y_centroid'],
        atol=0.3,
    )
    drawn = posterior.sample(1, rng=1)[0]
    assert _nearest(drawn, place)[1].max() < 1
    # Halves of the image, in its own pixels, and an odd share of a tile.
    below = posterior.expected_counts((slice(0, 65), slice(None)))
    assert_allclose(below, 2, atol=0.3)
    inside = np.zeros(image.shape, bool)
    inside[65:] = True
    assert_allclose(below + posterior.expected_counts(inside), 4, atol=0.3)
    catalog.write(tmp_path / 'binned.fits')
    again = ProbabilisticCatalog.read(tmp_path / 'binned.fits')
    # Rows are drawn with the PSF of the image, not with that of joined pixels.
    assert_allclose(catalog.render(), catalog.render(psf=known['psf']), atol=1e-3)
    with pytest.raises(ValueError, match='of joined pixels'):
        again.render()
    again = again.posterior
    assert again.shape == image.shape
    assert_equal(
        np.asarray(again.at_threshold(0.5)['x_centroid']),
        np.asarray(catalog['x_centroid']),
    )


def test_sky_is_that_of_the_image(broad):
    image, known, _, _ = broad
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cdelt = [60, 70], [30, 10], [-1e-4, 1e-4]
    catalog = detect_sources(image, bin=2, wcs=wcs, **known)
    sky = wcs.pixel_to_world(catalog['x_centroid'], catalog['y_centroid'])
    assert sky.separation(catalog['sky_centroid']).max() < 1e-6 * u.arcsec


def test_binning_is_proposed_where_the_psf_is_broad(broad):
    image, known, _, _ = broad
    with pytest.warns(OutOfDomainWarning, match="bin='auto' joins"):
        detect_sources(image, **known)


def test_binning_is_not_needed(field, encoder):
    exposure, _ = field
    known = {'encoder': encoder, 'density': 0.002, 'check': False}
    plain = detect_sources(exposure, **known)
    auto = detect_sources(exposure, bin='auto', **known)
    assert 'binning' not in auto.meta
    assert_equal(np.asarray(auto['flux']), np.asarray(plain['flux']))
    for bad, error in ((0, ValueError), (50, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match='bin must be'):
            detect_sources(exposure, bin=bad, **known)
    with pytest.raises(TypeError, match='bin must be'):
        detect_sources(exposure, bin='most', **known)
