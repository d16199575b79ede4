# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of `ExposureSet`.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from bliss_astro.coadds import Coadd
from bliss_astro.exposures import BANDS, Band, Exposure, ExposureSet
from bliss_astro.psf import PSFModel

SHAPE = (24, 32)
OWN = Band('V', 551.0, 88.0)


def make(data=None, **changes):
    """
    Make an exposure of plain numbers.
    """
    arguments = {'bkg_error': 2.0, 'effective_gain': 4.0} | changes
    return Exposure(np.zeros(SHAPE) if data is None else data, **arguments)


def make_wcs(x=16.0):
    """
    Give a TAN projection with that reference pixel.
    """
    cards = {'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CRVAL1': 30, 'CRVAL2': 10}
    return WCS(cards | {'CRPIX1': x, 'CRPIX2': 12, 'CDELT1': -1e-4, 'CDELT2': 1e-4})


def three(**changes):
    """
    Make a set of three bands, the last of which is the reference.
    """
    bands = {name: make(bkg_error=k + 1) for k, name in enumerate('gir')}
    return ExposureSet(bands, **{'reference': 'r'} | changes)


class TestMapping:
    def test_order(self):
        exposures = three()
        assert exposures.reference == 'r'
        assert list(exposures) == ['r', 'g', 'i']
        assert exposures.bands == tuple(BANDS[name] for name in 'rgi')
        assert_array_equal(exposures.present, True)
        assert len(exposures) == 3
        assert 'g' in exposures
        assert 'z' not in exposures
        assert exposures['g'].bkg_error == 1
        assert exposures['g'].band is BANDS['g']
        assert exposures[BANDS['g']] is exposures['g']
        assert dict(exposures.items())['r'].bkg_error == 3
        assert exposures.shape == SHAPE
        assert exposures.unit is exposures.wcs is None
        assert list(three(reference=None)) == ['g', 'i', 'r']

    def test_missing_band(self):
        exposures = ExposureSet({'g': None, 'r': make(), OWN: None, 'z': make()})
        assert exposures.reference == 'r'
        assert [band.name for band in exposures.bands] == ['r', 'g', 'V', 'z']
        assert_array_equal(exposures.present, [True, False, False, True])
        assert list(exposures) == ['r', 'z']
        assert exposures.bands[2] is OWN
        assert repr(exposures) == (
            '<ExposureSet 24 x 32 px: r (reference), g (missing), V (missing), z>'
        )
        with pytest.raises(KeyError, match="'g' is missing; there are r, z"):
            exposures['g']
        with pytest.raises(KeyError, match="'y' is not in the set"):
            exposures['y']
        # Made of a set, it is the same.
        assert ExposureSet(exposures, reference='z').bands[2] is BANDS['g']

    def test_list_of_exposures(self):
        exposures = ExposureSet([make(band='g'), make(band=OWN)], reference='V')
        assert list(exposures) == ['V', 'g']

    def test_names(self):
        # Two g of different surveys, by names of the user.
        g = make(band='DECam.g')
        exposures = ExposureSet({'g': make(), 'g_decam': g, 'DECam.r': make()})
        assert list(exposures) == ['g', 'g_decam', 'DECam.r']
        assert exposures['g_decam'].band == Band('g_decam', 479.0, 129.9)
        assert exposures['DECam.r'].band.wavelength == BANDS['DECam.r'].wavelength
        # A name of a survey says more than a header without one; spellings of headers.
        bands = {'DECam.g': make(band='g'), 'HSC-I': make(), 'SDSS_r': make()}
        found = [band.wavelength for band in ExposureSet(bands).bands]
        assert found == [BANDS[name].wavelength for name in ('DECam.g', 'HSC.i', 'r')]
        assert ExposureSet({'g': g})['g'].band is BANDS['DECam.g']
        assert ExposureSet({OWN: make()})['V'].band is OWN

    def test_select_and_reference(self):
        exposures = ExposureSet({**three(), 'z': None}, reference='r')
        assert list(exposures.select(['i', 'r'])) == ['r', 'i']
        chosen = exposures.select(['z', 'g', 'i'])
        assert (chosen.reference, list(chosen)) == ('g', ['g', 'i'])
        assert [band.name for band in chosen.bands] == ['g', 'z', 'i']
        other = exposures.with_reference('i')
        assert list(other) == ['i', 'r', 'g']
        assert exposures.reference == 'r'
        with pytest.raises(ValueError, match="bands must be among r, g, i, z; got 'y'"):
            exposures.select('ry')
        with pytest.raises(ValueError, match='bands must have an exposure'):
            exposures.select('z')
        with pytest.raises(TypeError, match='bands must be a list of names; got int'):
            exposures.select(3)
        with pytest.raises(ValueError, match=r"reference must be one of r.*got 'z'"):
            exposures.with_reference('z')

    def test_cut(self):
        mask = np.zeros(SHAPE, dtype=bool)
        mask[:, :16] = True
        psf, wcs = PSFModel(), make_wcs()
        bands = {
            'r': make(np.arange(24.0 * 32).reshape(SHAPE), psf=psf, wcs=wcs),
            'g': make(mask=mask, wcs=wcs),
            'u': None,
        }
        exposures = ExposureSet(bands)
        cut = exposures[4:20, 10:30]
        assert cut.shape == (16, 20)
        assert_array_equal(cut.present, [True, True, False])
        assert cut['r'].data[0, 0] == 4 * 32 + 10
        assert cut['r'].psf is psf
        assert cut['g'].mask[:, :6].all()
        assert not cut['g'].mask[:, 6:].any()
        # A band that is bad in all of a part is missing there.
        assert_array_equal(exposures[:, :16].present, [True, False, False])
        with pytest.raises(ValueError, match="reference band 'g' has no good pixel"):
            exposures.with_reference('g')[:, :16]
        with pytest.raises(TypeError, match='two slices'):
            exposures[3]


class TestUnits:
    def test_units_that_convert(self):
        data = np.full(SHAPE, 2.0)
        r = make(data, unit=u.nmgy)
        g = make(data, unit=u.nJy, background=1.0, saturation=9.0)
        exposures = ExposureSet({'r': r, 'g': g})
        # 1 nmgy is 3631 nJy.
        assert exposures['g'].unit == exposures.unit == u.nmgy
        factor = 1 / 3630.78
        assert_allclose(exposures['g'].data, 2 * factor, rtol=1e-5)
        assert_allclose(exposures['g'].background, factor, rtol=1e-5)
        assert_allclose(exposures['g'].saturation, 9 * factor, rtol=1e-5)
        assert_allclose(exposures['g'].bkg_error, 2 * factor, rtol=1e-5)
        assert_allclose(exposures['g'].effective_gain, 4 / factor, rtol=1e-5)

    def test_calibration(self):
        r, g = make(unit=u.nmgy), make(unit=u.adu)
        with pytest.raises(
            ValueError, match=r"'g' and band 'r' have units .* adu and nm"
        ):
            ExposureSet({'r': r, 'g': g})
        exposures = ExposureSet({'r': r, 'g': g}, calibration={'g': 0.5})
        assert exposures['g'].unit == u.nmgy
        assert exposures['g'].bkg_error == 1
        assert exposures['g'].effective_gain == 8
        with pytest.raises(ValueError, match=r"calibration must be for .*got \['r'\]"):
            ExposureSet({'r': r, 'g': g}, calibration={'r': 0.5})
        with pytest.raises(ValueError, match=r"calibration\['g'\] must be positive"):
            ExposureSet({'r': r, 'g': g}, calibration={'g': -1})
        with pytest.raises(TypeError, match=r'calibration must be a dict .*got float'):
            ExposureSet({'r': r, 'g': g}, calibration=2.0)

    def test_zero_points(self):
        points = {
            name: make(meta={'zero_point': zp})
            for name, zp in {'r': 25.0, 'g': 25.3, 'i': 25.0}.items()
        }
        assert len(ExposureSet({name: points[name] for name in 'ri'})) == 2
        with pytest.raises(
            ValueError, match=r"points of band 'g' and band 'r' differ: 25\.3"
        ):
            ExposureSet(points)
        assert len(ExposureSet(points, calibration={'g': 10**-0.12})) == 3
        fluxes = {name: one.replace(unit=u.nmgy) for name, one in points.items()}
        assert len(ExposureSet(fluxes)) == 3
        # Whatever is no flux density.
        for unit in (u.electron / u.s, u.adu, u.ct / u.arcsec**2, u.W / u.m**2):
            counts = {name: one.replace(unit=unit) for name, one in points.items()}
            with pytest.raises(ValueError, match=r'zero points .* differ: 25.3 and 25'):
                ExposureSet(counts)

    def test_fluxes_by_wavelength(self):
        units = (u.erg / u.s / u.cm**2 / u.AA, u.W / u.m**2 / u.um)
        for g in units:
            bands = {'r': make(unit=units[0]), 'g': make(unit=g)}
            with pytest.raises(ValueError, match=r'are in .*, not by frequency as Jy'):
                ExposureSet(bands)
            assert len(ExposureSet(bands, calibration={'g': 0.57})) == 2


@pytest.mark.parametrize(
    ('bands', 'error', 'match'),
    [
        ({}, ValueError, 'exposures must have an exposure'),
        ({'g': None}, ValueError, r"exposures must have an exposure; got \['g'\]"),
        ({'g': np.zeros(SHAPE)}, TypeError, r"exposures\['g'\] must be Exposure"),
        ({3: make()}, TypeError, 'a band must be str or Band; got int'),
        ({'V': make()}, ValueError, r"exposures\['V'\], or its band, must be one"),
        ({'g': make(band='r')}, ValueError, r"exposures\['g'\] is in the band 'r'"),
        ({BANDS['DECam.g']: make(band='r')}, ValueError, "'g'.* is in the band 'r'"),
        ({'DECam.g': make(band='r')}, ValueError, r"'DECam.g'.* is in the band 'r'"),
        ([make(band='g')] * 2, ValueError, "exposures has the band 'g' twice"),
        ([make()], ValueError, r'exposures\[0\] has no band'),
        (make(band='g'), TypeError, 'exposures must be a mapping'),
        (
            {'g': make(), 'r': make(np.zeros((24, 31)))},
            ValueError,
            r"band 'r' has the shape \(24, 31\) and band 'g' \(24, 32\); give both a w",
        ),
        (
            {'g': make(wcs=make_wcs()), 'r': make(wcs=make_wcs(17.5))},
            ValueError,
            "pixels of band 'r' lie up to 1.5 px from those of band 'g'; use .*align",
        ),
    ],
)
def test_bad_input(bands, error, match):
    with pytest.raises(error, match=match):
        ExposureSet(bands)


def test_one_grid():
    bands = {'g': make(wcs=make_wcs()), 'r': make(wcs=make_wcs(16.02)), 'i': make()}
    assert ExposureSet(bands).wcs is bands['g'].wcs
    with pytest.raises(ValueError, match="reference must be one of g, r, i; got 'z'"):
        ExposureSet(bands, reference='z')


def star_field(dx=0.0, dy=0.0, seed=1):
    """
    Draw stars of one sky, with noise, shifted by some pixels.
    """
    rng = np.random.default_rng(7)
    y, x = np.indices((128, 160))
    image = np.zeros(y.shape)
    for x_0, y_0, flux in rng.uniform((0, 0, 100), (160, 128, 2000), (40, 3)):
        image += flux / 14 * np.exp(-((x - x_0 - dx) ** 2 + (y - y_0 - dy) ** 2) / 4.5)
    return image + np.random.default_rng(seed).normal(0, 1, y.shape)


def test_shifts():
    images = {'r': star_field(), 'g': star_field(1.7, -3.2, 2), 'u': star_field() * 0}
    images['z'] = star_field(0.0, 0.2, 3)
    exposures = ExposureSet({b: make(d, bkg_error=1) for b, d in images.items()})
    shifts = exposures.shifts()
    assert list(shifts) == ['g', 'u', 'z']
    assert_allclose(shifts['g'], (1.7, -3.2), atol=0.1)
    assert_allclose(shifts['z'], (0, 0.2), atol=0.1)
    assert np.isnan(shifts['u']).all()


@pytest.mark.parametrize('width', [0.0, 0.7])
def test_noise_has_no_shift(width):
    rng = np.random.default_rng(4)
    for _ in range(3):
        images = gaussian_filter(rng.normal(size=(2, 96, 128)), (0, width, width))
        images /= 0.8 * images.std()
        pair = {'g': make(images[0], bkg_error=1), 'r': make(images[1], bkg_error=1)}
        assert np.isnan(list(ExposureSet(pair, reference='r').shifts()['g'])).all()


class TestFromImages:
    def test_cube(self):
        rng = np.random.default_rng(1)
        cube = rng.normal(100, (5, 6, 7), (64, 80, 3)).transpose(2, 0, 1)
        mask = np.zeros(cube.shape, dtype=bool)
        mask[1, 3] = True
        psf = {'g': PSFModel(sigma1=1.5)}
        exposures = ExposureSet.from_images(
            cube, bands=['g', OWN, 'r'], reference='r', mask=mask, psf=psf,
            effective_gain=4, meta={'night': 3},
        )  # fmt: skip
        assert list(exposures) == ['r', 'g', 'V']
        assert exposures['V'].band is OWN
        assert_allclose(exposures['V'].bkg_error, 6, rtol=0.05)
        assert exposures['V'].mask.sum() == 80
        assert not exposures['g'].mask.any()
        assert exposures['g'].psf is psf['g']
        assert exposures['r'].psf is None
        assert exposures['g'].meta['night'] == 3
        assert 'bkg_error' in exposures['g'].meta['estimated']
        with pytest.raises(ValueError, match=r"psf must name .* V, r; got \['z'\]"):
            ExposureSet.from_images(cube, bands=['g', OWN, 'r'], psf={'z': psf})

    def test_kinds(self, tmp_path):
        noise = np.random.default_rng(1).normal(100, 5, (64, 80))
        hdu = fits.PrimaryHDU(noise, fits.Header({'FILTER': 'i DECam c0003'}))
        hdu.writeto(tmp_path / 'i.fits')
        coadd = Coadd(noise, bkg_error=1, effective_gain=2)
        images = {
            'g': noise * u.adu,
            'i': tmp_path / 'i.fits',
            'r': CCDData(noise, unit='adu'),
            'z': coadd.replace(unit=u.adu),
            'u': None,
        }
        exposures = ExposureSet.from_images(images, calibration={'i': 1})
        assert list(exposures) == ['g', 'i', 'r', 'z']
        assert exposures['i'].band is BANDS['DECam.i']
        assert isinstance(exposures['z'], Coadd)
        with pytest.raises(ValueError, match=r"band 'r': .*two-dimensional"):
            ExposureSet.from_images({'g': noise, 'r': noise[0]})

    @pytest.mark.parametrize(
        ('images', 'bands', 'match'),
        [
            (np.zeros((3, 8, 8)), None, 'bands must name the 3 planes'),
            (np.zeros((3, 8, 8)), 'gr', 'bands must name the 3 planes'),
            (np.zeros((2, 8, 8)), 'gg', 'bands must be different; got g twice'),
            (np.zeros((8, 8)), 'g', r'or a cube \(F, ny, nx\); got shape'),
            ({'g': np.zeros((8, 8))}, 'g', 'the images have names'),
        ],
    )
    def test_bad_input(self, images, bands, match):
        with pytest.raises(ValueError, match=match):
            ExposureSet.from_images(images, bands=bands)
