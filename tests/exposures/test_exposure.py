# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of `Exposure`.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.models import Gaussian2D, Polynomial2D
from astropy.nddata import CCDData, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.exposures import Exposure
from bliss_astro.psf import PSFModel

SHAPE = (24, 32)


@pytest.fixture
def simple_wcs():
    """
    Give a TAN projection with pixels of 0.396 arcsec.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [30.0, 10.0]
    wcs.wcs.crpix = [16.0, 12.0]
    wcs.wcs.cdelt = [-0.00011, 0.00011]
    return wcs


def make(data=None, **changes):
    """
    Make an exposure of plain numbers.
    """
    arguments = {'bkg_error': 2.0, 'effective_gain': 4.0} | changes
    return Exposure(np.zeros(SHAPE) if data is None else data, **arguments)


class TestData:
    @pytest.mark.parametrize(
        ('dtype', 'kept'),
        [
            ('f4', 'f4'),
            ('>f4', 'f4'),
            ('f8', 'f8'),
            ('f2', 'f4'),
            ('u2', 'f4'),
            ('i4', 'f8'),
        ],
    )
    def test_types(self, dtype, kept):
        exposure = make(np.arange(12).reshape(3, 4).astype(dtype))
        assert exposure.data.dtype == np.dtype(kept)
        assert exposure.data.dtype.isnative
        assert_array_equal(exposure.data.ravel(), np.arange(12))

    @pytest.mark.parametrize(
        ('data', 'error', 'match'),
        [
            (np.zeros((3, 4), complex), TypeError, 'complex'),
            (np.zeros((3, 4), bool), TypeError, 'bool'),
            (np.full((3, 4), None), TypeError, 'of type object'),
            (np.full((3, 4), 'a'), TypeError, 'of type <U1'),
            (np.zeros(4), ValueError, r'two-dimensional; got shape \(4,\)'),
            (np.zeros((2, 3, 4)), ValueError, 'two-dimensional'),
            (1.0, ValueError, 'two-dimensional'),
            (np.zeros((0, 4)), ValueError, 'must have pixels'),
            (np.full((3, 4), np.nan), ValueError, 'all are NaN'),
        ],
    )
    def test_bad_data(self, data, error, match):
        with pytest.raises(error, match=match):
            make(data)

    def test_nddata_is_sent_elsewhere(self):
        with pytest.raises(TypeError, match=r'use Exposure\.from_nddata'):
            make(NDData(np.zeros(SHAPE)))

    def test_bad_pixels_are_masked(self):
        data = np.zeros(SHAPE)
        data[1, 2], data[3, 4], data[5, 6] = np.nan, np.inf, -np.inf
        mask = np.zeros(SHAPE, bool)
        mask[0, 0] = True
        exposure = make(data, mask=mask)
        assert exposure.mask.sum() == 4
        assert exposure.mask[0, 0]
        assert mask.sum() == 1
        assert np.isnan(exposure.data[1, 2])

    def test_masked_array(self):
        data = np.ma.masked_equal(np.arange(768.0).reshape(SHAPE), 5)
        assert_array_equal(np.argwhere(make(data).mask), [[0, 5]])

    def test_saturation(self):
        data = np.zeros(SHAPE)
        data[2, 3], data[4, 5] = 100, 99
        flags = np.zeros(SHAPE, int)
        flags[7, 7] = 1
        exposure = make(data, saturation=100.0, saturated=flags)
        assert_array_equal(np.argwhere(exposure.saturated), [[2, 3], [7, 7]])
        assert_array_equal(exposure.mask, exposure.saturated)

    def test_all_masked(self):
        with pytest.raises(ValueError, match='all are masked'):
            make(mask=np.ones(SHAPE, bool))
        with pytest.raises(ValueError, match='saturation must lie above some'):
            make(saturation=0.0)

    def test_bad_masks(self):
        with pytest.raises(ValueError, match=r'mask must have the shape of data'):
            make(mask=np.zeros((3, 3), bool))
        with pytest.raises(TypeError, match='mask must be boolean'):
            make(mask=np.full(SHAPE, 4))
        with pytest.raises(TypeError, match='mask must be boolean'):
            make(mask=np.zeros(SHAPE))


class TestNumbers:
    @pytest.mark.parametrize('name', ['bkg_error', 'effective_gain'])
    @pytest.mark.parametrize('value', [0.0, -1.0, np.nan, np.inf])
    def test_not_positive(self, name, value):
        with pytest.raises(ValueError, match=f'{name} must be positive and finite'):
            make(**{name: value})
        values = np.ones(SHAPE)
        values[3, 2] = value
        with pytest.raises(ValueError, match=r'first at x=2, y=3'):
            make(**{name: values})
        # In a bad pixel anything goes, and comes out sound.
        mask = np.zeros(SHAPE, bool)
        mask[3, 2] = True
        assert_array_equal(getattr(make(mask=mask, **{name: values}), name), 1)

    @pytest.mark.parametrize(
        'name', ['background', 'bkg_error', 'effective_gain', 'read_noise']
    )
    def test_shapes_and_types(self, name):
        with pytest.raises(ValueError, match=f'{name} must be a number or have the'):
            make(**{name: np.ones((2, 2))})
        with pytest.raises(TypeError, match=f'{name} must be a real number'):
            make(**{name: 'many'})
        kept = getattr(make(**{name: np.ones(SHAPE, 'f4')}), name)
        assert kept.dtype == np.float32
        assert isinstance(getattr(make(**{name: 3}), name), float)

    @pytest.mark.parametrize('name', ['psf_error', 'background_error'])
    def test_errors_of_what_is_stated(self, name):
        default = {'psf_error': 0.01, 'background_error': 0.05}
        assert getattr(make(), name) == default[name]
        assert getattr(make(**{name: 0}), name) == 0.0
        exposure = make(**{name: 10 * u.percent})
        assert getattr(exposure, name) == pytest.approx(0.1)
        assert getattr(exposure.replace(meta={}), name) == pytest.approx(0.1)
        for value in (-0.1, np.nan, np.inf):
            with pytest.raises(ValueError, match=f'{name} must be finite and not neg'):
                make(**{name: value})
        with pytest.raises(ValueError, match=f'{name} must be without a unit; got pix'):
            make(**{name: 0.1 * u.pix})
        for value in ('large', True, None, [0.1], np.full(SHAPE, 0.1)):
            with pytest.raises(TypeError, match=f'{name} must be one real number'):
                make(**{name: value})

    def test_other_errors(self):
        with pytest.raises(ValueError, match='background must be finite'):
            make(background=np.nan)
        with pytest.raises(ValueError, match='read_noise must be finite and not neg'):
            make(read_noise=-1.0)
        with pytest.raises(ValueError, match='effective_gain must be given'):
            make(effective_gain=None)
        for pair in (0.2, (0.1, 0.2, 0.3), ('a', 'b')):
            with pytest.raises(ValueError, match='noise_correlation must be a pair'):
                make(noise_correlation=pair)
        with pytest.raises(ValueError, match='between -1 and 1'):
            make(noise_correlation=(0, 1))

    def test_noise_from_the_background(self):
        exposure = make(background=100.0, bkg_error=None, read_noise=6.0)
        assert_allclose(exposure.bkg_error, np.sqrt(400 + 36) / 4)
        with pytest.raises(ValueError, match='bkg_error must be given'):
            make(bkg_error=None)

    def test_maps(self):
        gain = np.arange(1.0, 769).reshape(SHAPE)
        maps = make(effective_gain=gain, background=3).maps()
        assert list(maps) == ['background', 'bkg_error', 'effective_gain', 'read_noise']
        assert all(value.shape == SHAPE for value in maps.values())
        assert_array_equal(maps['effective_gain'], gain)
        assert_array_equal(maps['background'], 3)

    def test_total_error(self):
        data = np.full(SHAPE, 50.0)
        data[0, 0], data[0, 1] = np.nan, 0
        error = make(data, background=10.0).total_error()
        assert_allclose(error[1, 1], np.sqrt(4 + 40 / 4))
        assert_allclose(error[0, :2], 2)
        assert_allclose(make().total_error(8.0), np.sqrt(4 + 8 / 4))
        exposure = make(unit=u.Jy)
        assert_allclose(exposure.total_error(8e3 * u.mJy), np.sqrt(4 + 8 / 4))


class TestUnits:
    def test_all_with_units(self):
        data = np.ones(SHAPE) * u.Jy
        exposure = Exposure(
            data,
            background=500 * u.mJy,
            bkg_error=np.full(SHAPE, 20) * u.mJy,
            effective_gain=4 * u.electron / u.mJy,
            read_noise=3 * u.electron,
            saturation=2000 * u.mJy,
        )
        assert exposure.unit == u.Jy
        assert_allclose(exposure.background, 0.5)
        assert_allclose(exposure.bkg_error, 0.02)
        assert_allclose(exposure.effective_gain, 4000)
        assert exposure.read_noise == 3
        assert_allclose(exposure.saturation, 2)
        assert not isinstance(exposure.data, u.Quantity)

    def test_unit_of_plain_numbers(self):
        exposure = make(unit='nmgy')
        assert exposure.unit == u.nmgy
        # A gain without a unit is in electrons per data unit.
        assert exposure.effective_gain == 4

    def test_conversion(self):
        data = np.ones(SHAPE) * u.Jy
        exposure = make(data, unit='mJy', bkg_error=0.1 * u.Jy)
        assert_allclose(exposure.data, 1000)
        assert_allclose(exposure.bkg_error, 100)

    def test_some_without(self):
        data = np.ones(SHAPE)
        with pytest.raises(ValueError, match='data has a unit and bkg_error has none'):
            make(data * u.Jy)
        with pytest.raises(ValueError, match='bkg_error has a unit and data has none'):
            make(data, bkg_error=2 * u.Jy)
        with pytest.raises(ValueError, match='background has none'):
            make(data * u.Jy, background=3.0, bkg_error=2 * u.Jy)
        # Nothing is nothing in any unit.
        assert make(data * u.Jy, background=0, bkg_error=2 * u.Jy).background == 0

    def test_wrong_units(self):
        data = np.ones(SHAPE) * u.Jy
        with pytest.raises(ValueError, match='bkg_error must have units of Jy'):
            make(data, bkg_error=2 * u.s)
        with pytest.raises(ValueError, match='effective_gain must have units of'):
            make(data, bkg_error=2 * u.Jy, effective_gain=4 * u.s)
        with pytest.raises(ValueError, match='unit=s does not fit data'):
            make(data, bkg_error=2 * u.Jy, unit='s')


class TestCutout:
    def test_everything_follows(self, simple_wcs, rng):
        data = rng.normal(size=SHAPE)
        saturated = np.zeros(SHAPE, bool)
        saturated[5, 6] = True
        exposure = make(
            data,
            background=rng.random(SHAPE),
            bkg_error=1 + rng.random(SHAPE),
            effective_gain=1 + rng.random(SHAPE),
            saturation=np.full(SHAPE, 50.0),
            saturated=saturated,
            wcs=simple_wcs,
            unit='nmgy',
            noise_correlation=(0.25, 0.2),
            psf_error=0.02,
            background_error=0.3,
            meta={'field': 12},
        )
        part = exposure[3:11, 6:30]
        assert part.shape == (8, 24)
        for name in ('data', 'background', 'bkg_error', 'effective_gain', 'mask'):
            expected = getattr(exposure, name)[3:11, 6:30]
            assert_array_equal(getattr(part, name), expected)
        assert part.saturated[2, 0]
        assert part.unit == u.nmgy
        assert part.noise_correlation == (0.25, 0.2)
        assert (part.psf_error, part.background_error) == (0.02, 0.3)
        assert part.meta == {'field': 12}
        assert_allclose(
            part.wcs.wcs_pix2world(2, 1, 0), simple_wcs.wcs_pix2world(8, 4, 0)
        )
        assert part.wcs.array_shape == (8, 24)
        # Cut twice = cut once.
        again = exposure[1:20, 2:][2:10, 4:28]
        assert_array_equal(again.data, part.data)
        assert_allclose(again.wcs.wcs.crpix, part.wcs.wcs.crpix)

    def test_open_and_negative_bounds(self):
        exposure = make(np.arange(768.0).reshape(SHAPE))
        assert exposure[-5:].shape == (5, 32)
        assert exposure[:, 30:99].shape == (24, 2)

    @pytest.mark.parametrize(
        ('item', 'error', 'match'),
        [
            (3, TypeError, 'cut by two slices'),
            ((3, slice(None)), TypeError, 'cut by two slices'),
            ((slice(None),) * 3, TypeError, 'cut by two slices'),
            ((slice(5, 5), slice(None)), ValueError, '5:5 in y has none'),
            ((slice(None), slice(40, 50)), ValueError, '40:50 in x has none'),
            ((slice(None, None, 2), slice(None)), ValueError, 'step 2 in y'),
        ],
    )
    def test_errors(self, item, error, match):
        with pytest.raises(error, match=match):
            make()[item]

    def test_replace(self):
        exposure = make(meta={'a': 1})
        changed = exposure.replace(bkg_error=3.0)
        assert (changed.bkg_error, exposure.bkg_error) == (3.0, 2.0)
        assert changed.meta == {'a': 1}
        assert changed.replace(data=np.ones(SHAPE)).data.sum() == 768
        with pytest.raises(TypeError, match="no argument 'gain'"):
            exposure.replace(gain=3)


class TestPSF:
    def test_one_psf(self):
        psf = PSFModel()
        exposure = make(psf=psf)
        assert exposure.psf is psf
        assert exposure.psf_at(3, 4) is psf
        shapes = exposure.psf_shapes([1, 2, 3], [5, 6])
        assert shapes.shape == (2, 3, 8)
        assert_allclose(shapes[1, 2], psf.shape_vector)
        assert exposure[2:9, 3:9].psf is psf

    def test_psf_that_varies(self):
        class Widening:
            def __init__(self, start=0.0):
                self.start = start

            def at(self, x, y):
                shape = PSFModel().shape_vector
                shape[0] = 1 + 0.1 * (x + self.start)
                return PSFModel.from_shape(shape)

        class Moving(Widening):
            def shifted(self, dx, dy):
                return type(self)(self.start + dx)

        for psf in (Widening(), Moving()):
            part = make(psf=psf)[4:, 5:][:, 1:]
            assert_allclose(part.psf_at(2, 3).sigma1, 1.8)
            assert_allclose(part.psf_shapes([0, 1], [0])[0, :, 0], [1.6, 1.7])

    def test_foreign_models(self):
        # A Gaussian is inside the family, so that its width is recovered.
        exposure = make(psf=Gaussian2D(3.0, 5.2, 7.9, 1.7, 1.7))
        assert_allclose(exposure.psf_at(9, 9).fwhm, 2.3548 * 1.7, rtol=0.01)
        y, x = np.mgrid[-15:16, -15:16]
        image = np.exp(-(x**2 + y**2) / (2 * 1.7**2))
        exposure = make(psf=image)
        assert_allclose(exposure.psf_at(9, 9).fwhm, 2.3548 * 1.7, rtol=0.01)
        assert exposure[2:, 3:].psf_at(0, 0) is exposure.psf_at(0, 0)

    def test_gridded_model(self):
        photutils_psf = pytest.importorskip('photutils.psf')
        y, x = np.mgrid[-12:13, -12:13]
        images = [
            np.exp(-(x**2 + y**2) / (2 * s**2)) / (2 * np.pi * s**2) for s in (1.4, 2.2)
        ]
        grid = NDData(
            np.array([images[0], images[1], images[0], images[1]]),
            meta={'grid_xypos': [(0, 0), (512, 0), (0, 512), (512, 512)]},
        )
        grid.meta['oversampling'] = 1
        exposure = make(np.zeros((600, 600)), psf=photutils_psf.GriddedPSFModel(grid))
        assert_allclose(exposure.psf_at(0, 0).fwhm, 2.3548 * 1.4, rtol=0.02)
        assert_allclose(exposure.psf_at(512, 512).fwhm, 2.3548 * 2.2, rtol=0.02)
        part = exposure[:, 500:]
        assert_allclose(part.psf_at(12, 5).fwhm, 2.3548 * 2.2, rtol=0.02)

    def test_errors(self):
        with pytest.raises(ValueError, match='has no psf'):
            make().psf_at(0, 0)
        with pytest.raises(TypeError, match='psf must be a PSFModel'):
            make(psf='sharp')
        with pytest.raises(TypeError, match='no position parameters'):
            make(psf=Polynomial2D(1))
        with pytest.raises(ValueError, match='positive sum'):
            make(psf=np.zeros((5, 5)))
        with pytest.raises(TypeError, match='wcs must be a two-dimensional'):
            make(wcs='TAN')
        with pytest.raises(TypeError, match='one of 3 dimensions'):
            make(wcs=WCS(naxis=3))


class TestNDData:
    def test_round_trip(self, simple_wcs, rng):
        data = rng.normal(scale=2, size=SHAPE)
        data[4, 5] = 300.0
        mask = np.zeros(SHAPE, bool)
        mask[0, 3] = True
        exposure = make(
            data,
            mask=mask,
            wcs=simple_wcs,
            unit='nmgy',
            psf_error=0.04,
            background_error=0.2,
            meta={'a': 1},
        )
        ccd = exposure.to_ccddata()
        assert ccd.unit == u.nmgy
        assert_allclose(ccd.uncertainty.array[4, 5], np.sqrt(4 + 300 / 4))
        back = Exposure.from_ccddata(ccd)
        assert_allclose(back.bkg_error, 2, rtol=1e-12)
        assert back.effective_gain == 4
        assert (back.psf_error, back.background_error) == (0.04, 0.2)
        assert_array_equal(back.mask, exposure.mask)
        assert back.unit == u.nmgy
        assert back.meta == {'a': 1}
        assert_allclose(back.wcs.wcs.crval, simple_wcs.wcs.crval)

    def test_uncertainty_is_the_total_error(self):
        data = np.full(SHAPE, 10.0)
        data[3:5, 3:5] = 5000.0
        variance = 4 + (data - 10) / 2.5
        ndd = NDData(data, uncertainty=VarianceUncertainty(variance))
        exposure = Exposure.from_nddata(ndd, effective_gain=2.5, background=10.0)
        assert_allclose(exposure.bkg_error, 2)
        assert exposure.unit is None

    def test_where_sources_leave_nothing(self):
        # A noisy estimate of the sources' share is larger than the total.
        data = np.zeros(SHAPE)
        data[3, 3] = 1000.0
        ndd = NDData(data, uncertainty=StdDevUncertainty(np.full(SHAPE, 2.0)))
        ndd.uncertainty.array[3, 3] = np.sqrt(4 + 0.999 * 500)
        exposure = Exposure.from_nddata(ndd, effective_gain=2.0)
        assert_allclose(exposure.bkg_error, 2)
        ndd.uncertainty.array[3, 3] = np.sqrt(500.5)
        exposure = Exposure.from_nddata(ndd, effective_gain=2.0)
        assert_allclose(exposure.bkg_error, 2)

    def test_noise_under_sources_is_that_beside_them(self):
        """
        Not what the light of noisy pixels, by an inexact gain, leaves of the total.
        """
        rng = np.random.default_rng(4)
        y, x = np.indices(SHAPE)
        light = 4000 * np.exp(-((x - 20) ** 2 + (y - 12) ** 2) / 8)
        variance = 30.0**2 + light / 0.5
        data = light + rng.normal(size=SHAPE) * np.sqrt(variance)
        ndd = NDData(data, uncertainty=StdDevUncertainty(np.sqrt(variance)))
        for gain in (0.45, 0.5, 0.55):
            noise = Exposure.from_nddata(ndd, effective_gain=gain).bkg_error
            assert_allclose(noise[light > 500], 30, rtol=0.12)

    def test_uncertainty_of_the_sky_alone(self):
        data = np.zeros(SHAPE)
        data[3:8, 3:8] = 1000.0
        ndd = NDData(data, uncertainty=StdDevUncertainty(np.full(SHAPE, 2.0)))
        with pytest.raises(ValueError, match='not the total error'):
            Exposure.from_nddata(ndd, effective_gain=2.0)

    def test_nothing_twice(self, simple_wcs):
        data = np.ones(SHAPE)
        ccd = CCDData(
            data,
            unit='nmgy',
            mask=np.eye(*SHAPE, dtype=bool),
            wcs=simple_wcs,
            uncertainty=StdDevUncertainty(data),
        )
        for name, value in (
            ('data', data),
            ('mask', ccd.mask),
            ('wcs', simple_wcs),
            ('unit', 'nmgy'),
            ('bkg_error', 1 * u.nmgy),
        ):
            with pytest.raises(ValueError, match=f'{name} was given although'):
                Exposure.from_nddata(ccd, effective_gain=3.0, **{name: value})
        with pytest.raises(ValueError, match='effective_gain must be given'):
            Exposure.from_nddata(ccd)
        with pytest.raises(TypeError, match='nddata must be NDData'):
            Exposure.from_nddata(data)

    def test_without_uncertainty(self):
        ccd = CCDData(np.ones(SHAPE), unit='adu')
        exposure = Exposure.from_ccddata(
            ccd, bkg_error=0.5 * u.adu, effective_gain=3 * u.electron / u.adu
        )
        assert exposure.bkg_error == 0.5
        with pytest.raises(ValueError, match='bkg_error must be given'):
            Exposure.from_ccddata(ccd, effective_gain=3)

    def test_psf_image(self):
        ccd = make(psf=PSFModel(), unit='nmgy').to_ccddata()
        assert ccd.psf.shape == (41, 41)
        back = Exposure.from_ccddata(ccd)
        assert_allclose(back.psf_at(0, 0).fwhm, PSFModel().fwhm, rtol=0.01)


class TestRepr:
    def test_short(self):
        assert repr(make()) == '<Exposure 24 x 32 px, bkg_error 2>'

    def test_full(self, simple_wcs):
        exposure = make(
            bkg_error=0.03,
            background=0.7,
            unit='nmgy',
            psf=PSFModel(),
            wcs=simple_wcs,
            mask=np.eye(*SHAPE, dtype=bool),
        )
        text = repr(exposure)
        assert text.startswith('<Exposure 24 x 32 px, nmgy, background 0.7')
        fwhm = float(exposure.psf.fwhm)
        assert f'FWHM {fwhm:.2f} px = {0.396 * fwhm:.2f}"' in text
        depth = 22.5 - 2.5 * np.log10(0.15 * np.sqrt(exposure.psf.n_eff))
        assert f'({depth:.2f} mag)' in text
        assert '3.1 % masked' in text

    def test_flux_density_has_a_magnitude(self):
        text = repr(make(bkg_error=1.0, unit='nJy', psf=PSFModel()))
        depth = 31.4 - 2.5 * np.log10(5 * np.sqrt(PSFModel().n_eff))
        assert f'({depth:.2f} mag)' in text

    def test_pixel_scale(self, simple_wcs):
        assert make().pixel_scale is None
        assert_allclose(make(wcs=simple_wcs).pixel_scale, 0.396, rtol=1e-6)
