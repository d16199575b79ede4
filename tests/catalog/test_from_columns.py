# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of making a catalogue of arrays.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io.votable.ucd import check_ucd
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.catalog._bands import WAVELENGTHS
from bliss_astro.catalog._columns import COLUMNS, SHAPE_NAMES, SKY_PARTS
from bliss_astro.posteriors import PLACE_RADIUS

# Types, shapes and fluxes in bands are there only where an encoder infers them.
OPTIONAL = {'galaxy_probability', 'source_index', *SHAPE_NAMES}
OPTIONAL |= {name for band in WAVELENGTHS for name, _ in COLUMNS.of(band)}
ALL = [name for name in COLUMNS if name not in OPTIONAL]


def test_every_column_is_typed_and_described(catalog):
    for name in catalog.colnames:
        if name not in COLUMNS:
            continue
        column, definition = catalog[name], COLUMNS[name]
        assert column.info.description == definition.description
        assert column.info.meta == {'ucd': definition.ucd}
        if name == 'sky_centroid':
            assert isinstance(column, SkyCoord)
            assert column.frame.name == 'icrs'
        else:
            assert column.dtype == np.dtype(definition.dtype)


def test_radius_of_the_probability_is_the_one_that_is_used():
    words = COLUMNS['probability'].description
    assert f'within {PLACE_RADIUS:g} pixels (of the joined ones' in words


@pytest.mark.parametrize(
    'ucd', [d.ucd for d in COLUMNS.values()] + [ucd for _, ucd in SKY_PARTS.values()]
)
def test_ucds_are_in_the_vocabulary(ucd):
    assert check_ucd(ucd, check_controlled_vocabulary=True)


def test_columns_and_units(make_catalog):
    with_wcs = make_catalog('wcs')
    assert with_wcs.colnames == ALL
    assert make_catalog('empty_wcs').colnames == ALL
    assert with_wcs['flux'].unit == u.nmgy
    assert with_wcs['flux_err'].unit == u.nmgy
    assert with_wcs['mag'].unit == u.mag
    # Plain numbers, as photutils wants positions.
    assert with_wcs['x_centroid'].unit is None
    unitless = make_catalog('unitless')
    assert not {'mag', 'mag_err', 'sky_centroid'} & set(unitless.colnames)
    assert unitless['flux'].unit is None


def test_sorted_by_flux_with_all_columns_along(columns):
    columns['tile'] = np.arange(8)
    cat = ProbabilisticCatalog.from_columns(columns)
    order = np.argsort(-columns['flux'])
    for name in columns:
        assert_array_equal(cat[name], columns[name][order])
    assert_array_equal(cat['id'], np.arange(1, 9))
    assert cat.colnames[-1] == 'tile'


def test_arrays_are_copied(columns):
    columns['tile'] = np.arange(8)
    cat = ProbabilisticCatalog.from_columns(columns)
    for values in columns.values():
        assert not any(np.shares_memory(values, cat[name]) for name in cat.colnames)


def test_defaults(columns):
    del columns['x_y_cov'], columns['flags']
    cat = ProbabilisticCatalog.from_columns(columns)
    assert_array_equal(cat['x_y_cov'], 0)
    assert_array_equal(cat['flags'], 0)
    assert cat.posterior is None
    assert cat.wcs is None


def test_magnitudes(columns):
    cat = ProbabilisticCatalog.from_columns(columns, unit=u.nmgy)
    assert_allclose(
        cat['mag'].value, 22.5 - 2.5 * np.log10(cat['flux'].value), rtol=1e-12
    )
    # Against a finite difference, far larger than rounding.
    step = 1e-6
    slope = 2.5 * np.log10(1 + step) / step
    assert_allclose(
        cat['mag_err'].value,
        slope * (cat['flux_err'] / cat['flux']).value,
        rtol=1e-5,
    )
    njy = ProbabilisticCatalog.from_columns(columns, unit=u.nJy)
    assert_allclose(njy['mag'].value, njy['flux'].to_value(u.ABmag), rtol=1e-12)


def test_no_magnitude_of_no_flux(columns):
    columns['flux'][:2] = 0.0, -1.0
    cat = ProbabilisticCatalog.from_columns(columns, unit=u.nmgy)
    assert_array_equal(np.isnan(cat['mag']), cat['flux'] <= 0)
    assert_array_equal(np.isnan(cat['mag_err']), cat['flux'] <= 0)


def test_quantities_are_converted(columns):
    plain = ProbabilisticCatalog.from_columns(columns, unit=u.uJy)
    columns['flux'] = columns['flux'] * u.uJy
    columns['flux_err'] = (columns['flux_err'] * u.uJy).to(u.nJy)
    own = ProbabilisticCatalog.from_columns(columns)
    assert own['flux_err'].unit == u.uJy
    assert_allclose(own['flux_err'].value, plain['flux_err'].value, rtol=1e-12)
    given = ProbabilisticCatalog.from_columns(columns, unit=u.nJy)
    assert_allclose(given['flux'].value, 1000 * plain['flux'].value, rtol=1e-12)


def test_dimensionless_is_no_unit(columns):
    columns['flux'] = columns['flux'] * u.dimensionless_unscaled
    columns['flux_err'] = columns['flux_err'] * u.dimensionless_unscaled
    cat = ProbabilisticCatalog.from_columns(columns)
    assert not isinstance(cat['flux'], u.Quantity)


def test_sky_positions(columns, celestial_wcs):
    cat = ProbabilisticCatalog.from_columns(columns, wcs=celestial_wcs)
    expected = celestial_wcs.pixel_to_world(cat['x_centroid'], cat['y_centroid'])
    assert cat['sky_centroid'].separation(expected.icrs).max() < 1e-9 * u.deg


def test_wcs_is_kept_as_a_header(make_catalog, celestial_wcs):
    cat = make_catalog('wcs')
    assert isinstance(cat.image['wcs'], str)
    assert cat.wcs.array_shape == (60, 80)
    sky = celestial_wcs.pixel_to_world(12.3, 45.6)
    assert_allclose(cat.wcs.world_to_pixel(sky), (12.3, 45.6), atol=1e-6)


def test_wcs_with_polynomial_distortion(columns, celestial_wcs):
    header = celestial_wcs.to_header()
    header['CTYPE1'], header['CTYPE2'] = 'RA---TAN-SIP', 'DEC--TAN-SIP'
    header.update(A_ORDER=2, B_ORDER=2, A_2_0=1e-4, B_0_2=-2e-4)
    wcs = WCS(header)
    cat = ProbabilisticCatalog.from_columns(columns, wcs=wcs)
    sky = wcs.pixel_to_world(60.0, 70.0)
    assert cat.wcs.pixel_to_world(60.0, 70.0).separation(sky) < 1e-6 * u.arcsec


def test_meta(make_catalog):
    cat = make_catalog('wcs')
    assert cat.meta['date'].endswith('UTC')
    assert {'bliss_astro', 'astropy', 'torch'} <= set(cat.meta['version'])
    assert cat.meta['threshold'] == 0.5
    assert cat.image['shape'] == [60, 80]
    assert cat.image['expected_count'] == [8.4, 0.8]
    assert cat.image['unit'] == 'nmgy'
    assert cat.image['n_sources'] == 8


def test_meta_is_made_plain(columns):
    meta = {
        'threshold': np.float64(0.5),
        'steps': np.arange(3),
        'unit': u.nmgy,
        'area': 2 * u.arcmin**2,
        'image': {'density': np.float32(0.5), 'estimated': ('psf', 'background')},
    }
    cat = ProbabilisticCatalog.from_columns(columns, meta=meta)
    assert type(cat.meta['threshold']) is float
    assert cat.meta['steps'] == [0, 1, 2]
    assert cat.meta['unit'] == 'nmgy'
    assert cat.meta['area'] == {'value': 2.0, 'unit': 'arcmin2'}
    assert cat.image['estimated'] == ['psf', 'background']
    with pytest.raises(TypeError, match=r"meta\['net'\] is of .*cannot store"):
        ProbabilisticCatalog.from_columns(columns, meta={'net': object()})


class TestBadInput:
    def test_missing(self, columns):
        del columns['flux'], columns['x_err']
        with pytest.raises(ValueError, match='columns lacks x_err, flux; it must'):
            ProbabilisticCatalog.from_columns(columns)

    def test_not_a_mapping(self):
        with pytest.raises(TypeError, match='must be Mapping'):
            ProbabilisticCatalog.from_columns([1, 2])

    def test_lengths(self, columns):
        columns['flux'] = columns['flux'][:3]
        with pytest.raises(ValueError, match=r'of one length.*flux: 3'):
            ProbabilisticCatalog.from_columns(columns)

    @pytest.mark.parametrize('name', ['flux', 'extra'])
    def test_scalar(self, columns, name):
        columns[name] = 1.0
        with pytest.raises(ValueError, match='must be 1-D'):
            ProbabilisticCatalog.from_columns(columns)

    def test_computed(self, columns):
        columns['mag'] = columns['flux']
        with pytest.raises(ValueError, match='must not hold mag'):
            ProbabilisticCatalog.from_columns(columns)

    @pytest.mark.parametrize('value', [-0.1, 1.1, np.nan])
    def test_probability(self, columns, value):
        columns['probability'][2] = value
        with pytest.raises(ValueError, match=r'within \[0, 1\]; got'):
            ProbabilisticCatalog.from_columns(columns)

    def test_positions_and_errors(self, columns):
        with pytest.raises(ValueError, match='must be 0 or more'):
            ProbabilisticCatalog.from_columns({**columns, 'x_err': np.full(8, -1.0)})
        with pytest.raises(ValueError, match='must be finite'):
            ProbabilisticCatalog.from_columns(
                {**columns, 'y_centroid': np.full(8, np.nan)}
            )

    def test_type(self, columns):
        columns['flux'] = np.array(list('abcdefgh'))
        with pytest.raises(TypeError, match='real numbers'):
            ProbabilisticCatalog.from_columns(columns)

    def test_units(self, columns):
        mixed = {**columns, 'flux': columns['flux'] * u.nmgy}
        with pytest.raises(ValueError, match='all of them or none'):
            ProbabilisticCatalog.from_columns(mixed)
        wrong = {**mixed, 'flux_err': columns['flux_err'] * u.s}
        with pytest.raises(u.UnitConversionError, match='must be in nmgy; got s'):
            ProbabilisticCatalog.from_columns(wrong)
        pixels = {**columns, 'x_centroid': columns['x_centroid'] * u.pix}
        with pytest.raises(u.UnitsError, match='must be in plain numbers; got pix'):
            ProbabilisticCatalog.from_columns(pixels)

    @pytest.mark.parametrize('n', [0, 8])
    def test_wcs(self, columns, n):
        columns = {name: values[:n] for name, values in columns.items()}
        for wcs in (WCS(naxis=2), WCS(naxis=3), 'wcs'):
            with pytest.raises(ValueError, match='must be a celestial WCS'):
                ProbabilisticCatalog.from_columns(columns, wcs=wcs)

    def test_image(self, columns):
        with pytest.raises(ValueError, match='two positive integers'):
            ProbabilisticCatalog.from_columns(columns, image_shape=(3, 0))
        with pytest.raises(ValueError, match='mean or'):
            ProbabilisticCatalog.from_columns(columns, expected_count=(1, 2, 3))
