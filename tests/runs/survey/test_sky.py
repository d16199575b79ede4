# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of pixels on the sky, of regions, and of the marginals of a field.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import Latitude, Longitude, SkyCoord
from astropy.wcs import WCS

from bliss_astro import CoaddSimulator, Exposure, detect_sources
from bliss_astro.runs._marginals import marginals
from bliss_astro.runs._sky import FieldSky, Region, to_degrees, to_vectors

SHAPE = (512, 700)


def tan_wcs(ra, dec, shape=SHAPE, *, scale=0.4, angle=20.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ['RA---TAN', 'DEC--TAN'], [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    return wcs


@pytest.mark.parametrize('place', [(0.0, 0.0), (359.99, 89.97), (120.0, -90.0)])
def test_pixels_on_the_sky_and_back(place):
    wcs = tan_wcs(*place)
    sky = FieldSky.of(wcs, SHAPE)
    x, y = np.random.default_rng(1).uniform(-0.5, 511.5, (2, 200))
    vectors = sky.vectors(x, y)
    exact = wcs.pixel_to_world(x, y).icrs
    assert np.abs(vectors - to_vectors(exact.ra.deg, exact.dec.deg)).max() < 1e-12
    np.testing.assert_allclose(sky.pixels(vectors), [x, y], atol=1e-6)
    assert sky.scale == pytest.approx(0.4, rel=1e-6)
    assert sky.radius == pytest.approx(0.2 * np.hypot(*SHAPE), rel=1e-4)
    assert np.isnan(sky.pixels(-vectors)).all()
    np.testing.assert_allclose(to_vectors(*to_degrees(vectors)), vectors, atol=1e-15)


def test_distorted_wcs_and_one_that_is_not_smooth():
    wcs = tan_wcs(10.0, 40.0, (2048, 2048))
    wcs.wcs.ctype = ['RA---TAN-SIP', 'DEC--TAN-SIP']
    from astropy.wcs import Sip

    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], b[1, 1] = 2e-6, -3e-6
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    sky = FieldSky.of(wcs, (2048, 2048))
    x, y = np.random.default_rng(1).uniform(0, 2047, (2, 100))
    exact = wcs.all_pix2world(x, y, 0)
    np.testing.assert_allclose(sky.pixels(to_vectors(*exact)), [x, y], atol=0.02)
    a[2, 0] = 3e-3
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    assert FieldSky.of(wcs, (2048, 2048)) is None
    assert FieldSky.of(None, SHAPE) is None


def test_regions():
    regions = pytest.importorskip('regions')
    rng = np.random.default_rng(2)
    for ra, dec in [(359.999, 10.0), (40.0, 89.99)]:
        centre = SkyCoord(ra, dec, unit='deg')
        offsets = rng.uniform(0, 360, 400) * u.deg, rng.uniform(0, 120, 400) * u.arcsec
        points = centre.directional_offset_by(*offsets)
        vectors = to_vectors(points.ra.deg, points.dec.deg)
        near = points.separation(centre) < 1 * u.arcmin
        corners = centre.directional_offset_by(
            np.arange(0, 360, 5) * u.deg, 1 * u.arcmin
        )
        circle = regions.CircleSkyRegion(centre, 1 * u.arcmin)
        for given in (centre, 1 * u.arcmin), corners, circle:
            inside = Region.of(given).contains(vectors)
            # A polygon of 72 sides is a little smaller.
            assert np.mean(inside != near) < 0.01
            assert inside.any()
    assert Region.of(None).contains(vectors).all()
    sky = FieldSky.of(tan_wcs(40.0, 89.99), SHAPE)
    circle = [sky.middle], np.array([sky.radius])
    assert Region.of((centre, 1 * u.arcmin)).may_touch(*circle)
    far = SkyCoord(40, 80, unit='deg')
    assert not Region.of((far, 1 * u.arcmin)).may_touch(*circle)
    assert Region.of(None).may_touch(*circle)
    assert Region.of((far, 1 * u.arcmin)).around(36000).may_touch(*circle)


def test_region_of_a_moc():
    mocpy = pytest.importorskip('mocpy')
    place = Longitude(0 * u.deg), Latitude(5 * u.deg)
    moc = mocpy.MOC.from_cone(*place, radius=0.1 * u.deg, max_depth=14)
    ra, dec = np.random.default_rng(1).uniform(-0.2, 0.2, (2, 500))
    dec += 5
    inside = Region.of(moc).contains(to_vectors(ra, dec))
    near = np.hypot(ra * np.cos(np.radians(dec)), dec - 5) < 0.1
    assert np.mean(inside != near) < 0.02
    assert Region.of(moc).radius == pytest.approx(360, rel=0.05)


@pytest.mark.parametrize(
    ('region', 'error', 'text'),
    [
        ('M31', TypeError, 'region must be'),
        ((SkyCoord(0, 0, unit='deg'), 3), TypeError, 'region must be'),
        ((SkyCoord(0, 0, unit='deg'), -3 * u.deg), ValueError, 'radius must lie'),
        (SkyCoord([0, 120, 240], [0, 0, 0], unit='deg'), ValueError, '160 degrees'),
    ],
)
def test_what_is_no_region(region, error, text):
    with pytest.raises(error, match=text):
        Region.of(region)


def test_marginals_add_up_to_those_of_the_catalogue():
    exposure, _ = CoaddSimulator(shape=(150, 170)).sample(rng=1)
    exposure.mask = np.zeros(exposure.shape, bool)
    exposure.mask[:64, :32] = True
    exposure.bkg_error = np.full(exposure.shape, 29.4)
    exposure.bkg_error[:, 64:] *= 2
    noise = np.random.default_rng(1).normal(0, 29.4 * 3**0.5, (150, 106))
    exposure.data[:, 64:] += noise
    exposure.wcs = tan_wcs(10.0, 20.0, exposure.shape)
    catalog = detect_sources(exposure, encoder='stars')
    posterior, found = catalog.posterior, marginals(catalog)
    assert found['mean'].shape == (5, 6)
    assert found['n_mean'] == pytest.approx(posterior.expected_counts())
    spread = posterior.expected_counts_error()
    assert np.sqrt(found['n_variance']) == pytest.approx(spread)
    part = posterior.expected_counts((slice(64, 128), slice(32, 96)))
    assert found['mean'][2:4, 1:3].sum() == pytest.approx(part, rel=1e-6)
    assert found['usable'][:2, 0].tolist() == [0, 0]
    assert found['usable'].sum() == 100 * (found['mean'].size - 2)
    # Twice the noise is 0.75 mag.
    step = found['depth_'][3, 1] - found['depth_'][3, 3]
    assert step == pytest.approx(2.5 * np.log10(2), abs=2e-3)
    assert np.isnan(found['depth_'][0, 0])
    assert found['listed'] == pytest.approx(catalog['probability'].sum())
    assert tuple(found['sky']['shape']) == exposure.shape


def test_marginals_of_an_image_without_wcs_and_without_sources():
    noise = np.random.default_rng(1).normal(0, 5.0, (64, 64))
    psf = CoaddSimulator().sample(rng=1)[0].psf
    exposure = Exposure(
        noise,
        psf=psf,
        background=0.0,
        bkg_error=5.0,
        effective_gain=10.0,
        unit='electron',
    )
    with pytest.warns(Warning, match='no source'):
        catalog = detect_sources(exposure, encoder='stars')
    found = marginals(catalog)
    assert found['sky'] is None
    assert found['listed'] == 0
    assert found['unit'] == 'electron'
