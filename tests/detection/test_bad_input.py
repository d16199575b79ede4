# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bad input to detect_sources and BlissFinder: a clear error, never a wrong table.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty, UnknownUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked
from astropy.wcs import WCS

from bliss_astro import (
    BlissFinder,
    Exposure,
    NoDetectionsWarning,
    OutOfDomainWarning,
    ProbabilisticCatalog,
    PSFModel,
    detect_sources,
)


@pytest.fixture
def data(field):
    return np.array(field[0].data)


@pytest.mark.parametrize(
    ('bad', 'error', 'words'),
    [
        (np.zeros(30), ValueError, 'data must be two-dimensional'),
        (np.zeros((3, 30, 30)), ValueError, 'data must be two-dimensional'),
        (np.float64(3.0), ValueError, 'data must be two-dimensional'),
        (np.zeros((0, 30)), ValueError, 'data must have pixels'),
        (np.full((30, 30), np.nan), ValueError, 'all are NaN'),
        (np.full((30, 30), np.inf), ValueError, 'all are NaN or infinite'),
        (np.ones((30, 30), complex), TypeError, 'complex'),
        (np.ones((30, 30), bool), TypeError, 'bool'),
        (np.full((30, 30), None), TypeError, 'data must be real numbers'),
        (None, TypeError, 'data must be real numbers; got a NoneType'),
        ({'a': 1}, ValueError, r"^band 'a': data must be two-dimensional"),
        (fits.BinTableHDU(), TypeError, 'got a BinTableHDU'),
        ('no.fits', FileNotFoundError, r"data must be .* no file 'no\.fits'"),
        (np.full((30, 30), 'a'), TypeError, 'data must be real numbers'),
    ],
)
def test_data_that_are_no_image(bad, error, words):
    with pytest.raises(error, match=words):
        detect_sources(bad)


def test_data_of_the_finder_that_are_no_image():
    with pytest.raises(ValueError, match='data must be two-dimensional'):
        BlissFinder()(np.zeros(30))


@pytest.mark.parametrize(
    ('given', 'error', 'words'),
    [
        ({'density': -1}, ValueError, 'density must be .* got -1'),
        ({'density': np.inf}, ValueError, 'density must be .* got inf'),
        (
            {'density': [[1, np.nan]]},
            ValueError,
            r'density must be .* got \(1, 2',
        ),
        ({'rng': 'dice'}, TypeError, "rng must be a seed .*; got 'dice'"),
        ({'rng': -1}, ValueError, 'rng must be a seed .*; got -1'),
        ({'check': 'yes'}, TypeError, "check must be True or False; got 'yes'"),
        ({'device': 'abacus'}, ValueError, r"device must be .*'cpu'.*; got 'abacus'"),
        ({'device': 'meta'}, ValueError, "device must be .*; got 'meta'"),
        ({'device': 3.5}, ValueError, 'device must be .*; got 3.5'),
        (
            {'mask': 'MASK'},
            FileNotFoundError,
            'mask must be an array or a file; .*MASK',
        ),
        ({'weight': '.'}, IsADirectoryError, 'weight must be .* is a folder'),
        ({'psf': 3.0}, TypeError, r'psf must be .*a width is given as fwhm=3\.0'),
        (
            {'extension': 1},
            ValueError,
            'extension was given although data is of type nda',
        ),
        ({'psf': PSFModel()}, ValueError, 'psf and fwhm were both given; give one'),
        ({'weight': np.ones((96, 104))}, ValueError, 'bkg_error and weight were both'),
        ({'fwhm': 300.0}, ValueError, r'fwhm must be at most 37\.5 px; got 300'),
    ],
)
def test_what_came_is_said(data, known, given, error, words):
    known = {name: value for name, value in known.items() if name != 'psf'}
    if not isinstance(given.get('psf'), float):
        known['fwhm'] = 4.0
    if isinstance(given.get('weight'), str):
        del known['bkg_error']
    with pytest.raises(error, match=words):
        detect_sources(data, **known | given)


def test_cuda_where_there_is_none(data, known):
    import torch

    if torch.cuda.is_available():
        pytest.skip('there is a GPU here')
    with pytest.raises(ValueError, match=r"device must be .*; got 'cuda' \("):
        detect_sources(data, device='cuda', **known)


def test_folder_and_absent_extension(data, tmp_path):
    with pytest.raises(IsADirectoryError, match=r'data must be .* is a folder'):
        detect_sources(tmp_path)
    path = tmp_path / 'image.fits'
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, name='SCI')]).writeto(path)
    for given in (
        {'extension': 'BLA'},
        {'mask': 'BLA'},
        {'background': f'{path}[BLA]'},
    ):
        with pytest.raises(
            ValueError, match=r'no extension BLA; it has .* 1 SCI: image'
        ):
            detect_sources(path, **given)


def test_flux_floor_above_everything(field, data, known, encoder):
    brightest = field[1]['flux'].max().value
    with pytest.raises(ValueError, match='flux_min must be below the flux of') as error:
        detect_sources(data, flux_min=1e9, **known)
    stated = float(str(error.value).partition('about ')[2].partition(';')[0])
    assert 0.7 * brightest < stated < 1.5 * brightest
    # An image without sources may have any floor: one may be given for many images.
    noise = np.random.default_rng(1).normal(0, 1, (48, 48))
    known = {'background': 0.0, 'bkg_error': 1.0, 'fwhm': 3.0, 'encoder': encoder}
    with pytest.warns(NoDetectionsWarning):
        detect_sources(noise, flux_min=25.0, **known)
    with pytest.warns(NoDetectionsWarning), pytest.warns(OutOfDomainWarning):
        detect_sources(noise, flux_min=600.0, **known)


def test_all_masked(data, known):
    with pytest.raises(ValueError, match='data must have good pixels'):
        detect_sources(data, mask=np.ones(data.shape, bool), **known)
    hidden = np.ma.masked_all(data.shape)
    with pytest.raises(ValueError, match='data must have good pixels'):
        detect_sources(hidden, **known)


def test_constant_image_has_no_noise():
    with pytest.raises(ValueError, match='bkg_error cannot be estimated'):
        detect_sources(np.full((64, 64), 3.0))


@pytest.mark.parametrize('value', [0, 1, 0.0, 1.0, -0.1, 5, 100.0, np.nan, np.inf])
def test_threshold_is_a_probability(data, value):
    with pytest.raises(ValueError, match=r'threshold must be .*photutils'):
        detect_sources(data, value)
    with pytest.raises(ValueError, match='threshold'):
        BlissFinder(value)


@pytest.mark.parametrize(
    'value', [True, None, '0.5', np.bool_(True), [0.5], np.full(1, 0.5), 0.5j]
)
def test_threshold_is_one_number(data, value, catalog):
    with pytest.raises(TypeError, match='threshold must be one number'):
        detect_sources(data, value)
    with pytest.raises(TypeError, match='threshold must be one number'):
        BlissFinder(value)
    with pytest.raises(TypeError, match='threshold must be one number'):
        catalog.posterior.at_threshold(value)


@pytest.mark.parametrize('name', ['mask', 'bkg_error', 'background', 'effective_gain'])
def test_maps_of_another_shape(data, known, name):
    wrong = np.ones((data.shape[1], data.shape[0]))
    wrong = wrong.astype(bool) if name == 'mask' else wrong
    with pytest.raises(ValueError, match=f'{name} must'):
        detect_sources(data, **(known | {name: wrong}))


def test_density_of_another_shape(data, known):
    with pytest.raises(ValueError, match='density must be a number or have the shape'):
        detect_sources(data, **(known | {'density': np.full((24, 26), 0.002)}))


@pytest.mark.parametrize('name', ['bkg_error', 'effective_gain'])
@pytest.mark.parametrize('value', [0.0, -3.0, np.nan, np.inf])
def test_noise_and_gain_are_positive(data, known, name, value):
    with pytest.raises(ValueError, match=f'{name} must be positive and finite'):
        detect_sources(data, **(known | {name: value}))
    spotted = np.full(data.shape, 30.0)
    spotted[5, 7] = value
    with pytest.raises(ValueError, match=rf'{name} must be .* x=7, y=5'):
        detect_sources(data, **(known | {name: spotted}))


@pytest.mark.parametrize('name', ['background', 'bkg_error', 'effective_gain'])
@pytest.mark.parametrize('value', [1j, True, np.full((2, 2), None)])
def test_numbers_that_are_none(data, known, name, value):
    with pytest.raises(TypeError, match=f'{name} must be a real number'):
        detect_sources(data, **(known | {name: value}))


@pytest.mark.parametrize(
    ('value', 'error'),
    [
        (-1e-3, ValueError),
        (0.0, ValueError),
        (np.nan, ValueError),
        ('high', TypeError),
        (True, TypeError),
        (3 * u.arcsec**-2, ValueError),
    ],
)
def test_density_is_a_density(data, known, value, error):
    with pytest.raises(error, match='density must'):
        detect_sources(data, **(known | {'density': value}))


@pytest.mark.parametrize(
    ('value', 'error'),
    [(0, ValueError), (-5.0, ValueError), (np.nan, ValueError), ('low', TypeError)],
)
def test_flux_min_is_a_flux(data, known, value, error):
    with pytest.raises(error, match='flux_min must be'):
        detect_sources(data, flux_min=value, **known)


@pytest.mark.parametrize('value', [-1, 2.5, True, '3', np.nan, np.inf, None])
def test_n_samples_is_a_number(data, known, value):
    with pytest.raises(ValueError, match='n_samples must be an integer'):
        detect_sources(data, n_samples=value, **known)


# -- units -------------------------------------------------------------------


@pytest.mark.parametrize('name', ['background', 'bkg_error'])
def test_units_on_only_some(data, known, name):
    with pytest.raises(ValueError, match=r'has a unit and .* none'):
        detect_sources(data, **(known | {name: known[name] * u.adu}))
    values = {k: known[k] * u.adu for k in ('background', 'bkg_error')}
    with pytest.raises(ValueError, match=r'has a unit and .* none'):
        detect_sources(data * u.adu, **(known | values | {name: known[name]}))


@pytest.mark.parametrize('name', ['background', 'bkg_error'])
def test_wrong_units(data, known, name):
    values = {k: known[k] * u.adu for k in ('background', 'bkg_error')}
    values[name] = known[name] * u.m
    with pytest.raises(ValueError, match=f'{name} must have units of adu; got m'):
        detect_sources(data * u.adu, **(known | values))


def test_wrong_unit_of_gain_and_floor(data, known):
    values = {k: known[k] * u.adu for k in ('background', 'bkg_error')}
    with pytest.raises(ValueError, match='effective_gain must have units of'):
        detect_sources(data * u.adu, **(known | values | {'effective_gain': 2 * u.adu}))
    with pytest.raises(ValueError, match='flux_min must have units of adu'):
        detect_sources(data * u.adu, flux_min=3 * u.m, **(known | values))
    with pytest.raises(ValueError, match='data has a unit and flux_min has none'):
        detect_sources(data * u.adu, flux_min=600.0, **(known | values))
    with pytest.raises(ValueError, match='flux_min has a unit and data has none'):
        detect_sources(data, flux_min=600.0 * u.adu, **known)


# -- given twice -------------------------------------------------------------


@pytest.mark.parametrize('name', ['background', 'bkg_error', 'effective_gain', 'psf'])
def test_exposure_and_keyword(field, known, name):
    with pytest.raises(ValueError, match=f'{name} was given although data is an Expo'):
        detect_sources(field[0], **{name: known[name]})


def test_exposure_without_psf_takes_one(field, known, catalog, same_rows):
    exposure = field[0].replace(psf=None)
    again = detect_sources(exposure, encoder='stars', psf=known['psf'])
    same_rows(again, catalog)


def test_nddata_and_keyword(data, known, wcs):
    bad = np.zeros(data.shape, bool)
    bad[3, 4] = True
    error = StdDevUncertainty(np.full(data.shape, known['bkg_error']))
    ccd = CCDData(data, unit='electron', mask=bad, uncertainty=error, wcs=wcs)
    for name, value in (('mask', bad), ('wcs', wcs), ('bkg_error', 3.0)):
        with pytest.raises(ValueError, match=f'{name} was given although data is a CC'):
            detect_sources(ccd, **{name: value})
    psf = np.outer(*2 * [np.exp(-0.5 * (np.arange(-12, 13) / 1.5) ** 2)])
    with pytest.raises(ValueError, match='psf was given although data is an NDData'):
        detect_sources(NDData(data, psf=psf), psf=known['psf'])


def test_uncertainty_that_is_none(data):
    for array, words in (
        (np.full(data.shape, -1.0), 'uncertainty of data must be positive'),
        (np.zeros(data.shape), 'uncertainty of data must be positive'),
    ):
        with pytest.raises(ValueError, match=words):
            detect_sources(NDData(data, uncertainty=StdDevUncertainty(array)))
    with pytest.raises(ValueError, match='uncertainty of data must have the shape'):
        detect_sources(NDData(data, uncertainty=StdDevUncertainty(np.ones((4, 4)))))
    with pytest.raises(TypeError, match='uncertainty of data must be a standard'):
        detect_sources(
            NDData(data, uncertainty=UnknownUncertainty(np.ones(data.shape)))
        )


# -- encoder, device, psf ------------------------------------------------------


def test_unknown_encoder(data, known, tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown encoder 'galaxies': bundled are .*st"
    ):
        detect_sources(data, **known | {'encoder': 'galaxies'})
    with pytest.raises(FileNotFoundError, match=r'no such file of weights: .*w\.safe'):
        detect_sources(data, **known | {'encoder': tmp_path / 'w.safetensors'})
    with pytest.raises(TypeError, match='encoder must be an Encoder, the name'):
        detect_sources(data, **known | {'encoder': 3})


@pytest.mark.parametrize('name', ['background', 'bkg_error', 'mask', 'psf'])
def test_files_that_are_not_there(data, known, name):
    with pytest.raises(FileNotFoundError, match=rf"{name} must be .* file 'much'"):
        detect_sources(data, **(known | {name: 'much'}))


@pytest.mark.parametrize('psf', [3.0, np.zeros((11, 11)), np.ones(5)])
def test_psf_that_is_none(data, known, psf):
    with pytest.raises((TypeError, ValueError), match='psf'):
        detect_sources(data, **(known | {'psf': psf}))


def test_finder_refuses_what_it_cannot_use():
    with pytest.raises(TypeError, match='mask is given when the finder is called'):
        BlissFinder(mask=np.zeros((3, 3), bool))
    with pytest.raises(TypeError, match="no argument 'limit'; it has threshold, enc"):
        BlissFinder(limit=0.3)


def test_subtracted_sky_that_is_said_to_be_there(data, known):
    flat = data - known['background']
    with pytest.raises(ValueError, match='background and bkg_error do not fit data'):
        detect_sources(flat, **known)


# -- what must not abort anything, nor become a source -------------------------


@pytest.fixture
def quiet(encoder):
    def function(data, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            return detect_sources(data, **{'encoder': encoder} | kwargs)

    return function


def test_nan_regions_and_dead_columns(data, known, catalog, quiet):
    holes = data.copy()
    holes[20:44, 30:60] = np.nan
    holes[70, :] = np.inf
    holes[:, 90] = -np.inf
    found = quiet(holes, **known)
    x, y = found['x_centroid'], found['y_centroid']
    assert not np.any((x > 31.5) & (x < 57.5) & (y > 21.5) & (y < 41.5))
    assert np.all(np.isfinite(found['flux']))
    assert np.all(found['flux_err'] > 0)
    # Sources well away from the holes are the same.
    far = catalog['x_centroid'] < 28
    far &= (catalog['y_centroid'] < 60) & (catalog['probability'] > 0.95)
    for row in catalog[far]:
        apart = np.hypot(x - row['x_centroid'], y - row['y_centroid'])
        assert apart.min() < row['x_err'] + row['y_err']


def test_saturated_star(field, known, quiet):
    psf = field[0].psf.copy()
    psf.flux, psf.x_0, psf.y_0 = 3e7, 50.0, 50.0
    yy, xx = np.mgrid[:96, :104]
    data = field[0].data + psf(xx, yy)
    exposure = Exposure(
        np.minimum(data, 60000.0),
        **{name: known[name] for name in ('background', 'bkg_error', 'psf')},
        effective_gain=1.0,
        saturation=59000.0,
    )
    assert exposure.saturated.any()
    found = quiet(exposure, density=0.002)
    core = np.hypot(found['x_centroid'] - 50, found['y_centroid'] - 50) < 2
    flagged = np.array(['saturated' in names for names in found.decode_flags()], bool)
    assert np.all(flagged[core])
    assert np.all(np.isfinite(found['flux']))


def test_masked_cosmic_ray_is_no_source(field, known, quiet):
    data, mask = np.array(field[0].data), np.zeros(field[0].shape, bool)
    rows = np.arange(30, 48)
    columns = 2 * rows - 40
    data[rows, columns] += 2e4
    for step in (-1, 0, 1):
        mask[rows, columns + step] = True
    found = quiet(data, mask=mask, **known)
    along = np.min(
        np.hypot(
            found['x_centroid'][:, None] - columns, found['y_centroid'][:, None] - rows
        ),
        axis=1,
    )
    # A faint star under the mask can never be excluded, a bright or sure one can.
    near = along < 1.5
    assert not np.any(near & (found['probability'] > 0.9))
    assert not np.any(near & (found['flux'] > 3000))
    assert np.all(found['flags'][near] & 1)


def test_impossible_pixels_are_masked_and_reported(data, known, quiet):
    spoilt = data.copy()
    spoilt[10, 10] = 1e25
    spoilt[60, 70] = -1e6
    found = quiet(spoilt, **known)
    assert '2 pixels added' in found.meta['estimated']['mask']['source']
    for x, y in ((10, 10), (70, 60)):
        near = np.hypot(found['x_centroid'] - x, found['y_centroid'] - y) < 2
        assert np.all(found['flags'][near] & 1)
    assert np.all(np.isfinite(found['flux']))


def test_psf_model_of_another_package(data, known, quiet):
    from photutils.psf import CircularGaussianPSF

    width = PSFModel().fwhm
    psf = CircularGaussianPSF(fwhm=width, flux=1)
    assert len(quiet(data, **(known | {'psf': psf}))) > 5


# -- masks, scales, areas, coordinates -------------------------------------------


@pytest.mark.parametrize('kind', ['numpy', 'astropy', 'quantity'])
def test_masks_of_masked_arrays_are_kept(data, known, kind):
    hidden = np.zeros(data.shape, bool)
    hidden[30:34, 40:44] = True
    spoilt = np.where(hidden, 1e5, data)
    if kind == 'numpy':
        spoilt = np.ma.array(spoilt, mask=hidden)
    else:
        unit = u.adu if kind == 'quantity' else 1
        spoilt = Masked(spoilt * unit, mask=hidden)
        if kind == 'quantity':
            for name in ('background', 'bkg_error'):
                known = known | {name: known[name] * u.adu}
    found = detect_sources(spoilt, **known)
    assert found.exposure.mask.sum() == 16
    near = np.hypot(found['x_centroid'] - 41.5, found['y_centroid'] - 31.5) < 2
    assert not np.any(near & (np.asarray(found['probability']) > 0.9))
    if kind == 'numpy':
        noise = np.ma.masked_array(np.full(data.shape, 30.0), mask=hidden)
        found = detect_sources(data, **known | {'bkg_error': noise})
        assert found.exposure.mask.sum() == 16


@pytest.mark.parametrize('scale', [1e-46, 1e-12, 1e37])
def test_any_scale_gives_the_same_rows(
    data, known, encoder, reference, same_rows, scale
):
    given = {name: known[name] * scale for name in ('background', 'bkg_error')}
    given |= {'effective_gain': known['effective_gain'] / scale, 'psf': known['psf']}
    # Single precision would round or lose such numbers before anybody sees them.
    scaled = data.astype(float) * scale
    found = detect_sources(scaled, encoder=encoder, density=0.002, **given)
    names = ['x_centroid', 'y_centroid', 'probability']
    same_rows(found, reference, rtol=1e-4, columns=names)
    np.testing.assert_allclose(found['flux'] / scale, reference['flux'], rtol=1e-4)


def test_a_pedestal_gives_the_same_rows(data, known, reference):
    raised = known | {'background': known['background'] + 1e8}
    found = detect_sources(data.astype(float) + 1e8, **raised)
    assert len(found) == len(reference)
    np.testing.assert_allclose(found['flux'], reference['flux'], rtol=1e-3)


def test_too_few_pixels_for_a_sky(rng):
    image = np.full((64, 64), np.nan)
    image[20:35, 20:35] = rng.normal(100, 5, (15, 15))
    words = 'background cannot be measured: 225 of 4096 pixels are good.* give back'
    with pytest.raises(ValueError, match=words):
        detect_sources(image, psf=PSFModel(), encoder='stars')
    with pytest.warns(NoDetectionsWarning):
        found = detect_sources(image, psf=PSFModel(), encoder='stars', background=100.0)
    assert found.exposure.bkg_error == pytest.approx(5, rel=0.2)


def test_zeros_outside_of_the_field(data, known, encoder, catalog):
    shape = (data.shape[0] + 20, data.shape[1])
    framed = np.zeros(shape)
    framed[20:] = data
    with pytest.warns(AstropyUserWarning, match='areas of one exact value'):
        found = detect_sources(framed, encoder=encoder, psf=known['psf'])
    assert found.exposure.mask[:20].all()
    assert found.exposure.bkg_error == pytest.approx(known['bkg_error'], rel=0.05)
    assert not np.any(found['y_centroid'] < 18)
    assert len(found) == pytest.approx(len(catalog), abs=4)


def test_overscan(data, known, encoder):
    raw = data.copy()
    raw[:, :14] = np.random.default_rng(0).normal(0.3, 1, (len(data), 14)) * 30
    with pytest.warns(AstropyUserWarning, match='in areas far below the sky'):
        found = detect_sources(raw, encoder=encoder, psf=known['psf'])
    assert found.exposure.mask[:, :13].all()
    assert not np.any(found['x_centroid'] < 12)


@pytest.mark.parametrize('shape', [(80, 70), (96, 103), (96,)])
def test_mask_of_another_shape(field, encoder, shape):
    image = fits.PrimaryHDU(field[0].data)
    with pytest.raises(ValueError, match='mask must have the shape of data'):
        detect_sources(image, mask=np.zeros(shape, bool), encoder=encoder)


def test_hidden_pixels_of_a_mask_hide(field, encoder):
    # With an HDU as with an array; what a mask itself hides may be anything.
    mask = np.ma.zeros(field[0].shape, bool)
    mask[:30] = np.ma.masked
    image = fits.PrimaryHDU(field[0].data)
    found = detect_sources(image, mask=mask, psf=field[0].psf, encoder=encoder)
    assert found.exposure.mask[:30].all()
    assert not np.any(found['y_centroid'] < 25)


@pytest.mark.parametrize('kind', ['plain', 'linear', 'solar', 'singular', 'nan', 'inf'])
def test_wcs_without_a_sky(data, known, reference, same_rows, kind):
    wcs = WCS(naxis=2)
    ctype = {
        'plain': ('', ''),
        'linear': ('LINEAR',) * 2,
        'solar': ('HPLN-TAN', 'HPLT-TAN'),
    }
    wcs.wcs.ctype = ctype.get(kind, ('RA---TAN', 'DEC--TAN'))
    if kind == 'singular':
        wcs.wcs.cdelt = 0, 0
    elif kind in ('nan', 'inf'):
        wcs.wcs.crval = float(kind), 10.0
    with pytest.warns(AstropyUserWarning, match='wcs is left out'):
        assert Exposure(data, wcs=wcs, bkg_error=1.0, effective_gain=1.0).wcs is None
    if kind == 'plain':
        with pytest.warns(AstropyUserWarning, match='wcs is left out'):
            found = detect_sources(data, wcs=wcs, **known)
        assert 'sky_centroid' not in found.colnames
        same_rows(found, reference)


def test_a_sky_in_part_of_the_image(rng):
    """
    Beyond the edge of the whole sky there is none.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix, wcs.wcs.cdelt = (
        ('RA---AIT', 'DEC--AIT'),
        (32, 32),
        (-6, 6),
    )
    with pytest.warns(AstropyUserWarning, match='wcs gives no position on the sky in'):
        exposure = Exposure(
            rng.normal(size=(64, 64)), bkg_error=1.0, effective_gain=1.0, wcs=wcs
        )
    assert exposure.wcs is wcs


@pytest.mark.parametrize(
    ('card', 'value', 'ignored'),
    [
        ('SATURATE', 0.0, True),
        ('SATURATE', 'unknown', True),
        ('RDNOISE', -1, True),
        ('RDNOISE', float('nan'), True),
        ('RDNOISE', '6.5 / electrons', False),
        ('SATURATE', 65535.0, False),
    ],
)
def test_header_cards(encoder, card, value, ignored):
    psf = PSFModel(flux=2e6, x_0=30, y_0=32)
    yy, xx = np.mgrid[:64, :64]
    image = np.random.default_rng(0).poisson(400 + psf(xx, yy)).astype(float)
    ccd = CCDData(image, unit='electron', meta={card: value})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        found = detect_sources(ccd, psf=PSFModel(), encoder=encoder)
    assert len(found) == 1
    assert found['flux'][0].value == pytest.approx(2e6, rel=0.01)
    assert any(f'ignored: {card}' in str(w.message) for w in caught) == ignored
    if card == 'SATURATE' and not ignored:
        entry = found.meta['estimated']['saturation']
        assert (entry['value'], entry['source']) == (65535, 'header: SATURATE')
        assert 'saturated' in found.decode_flags()[0]


@pytest.mark.parametrize(
    'unit', [u.Unit('3.631e-6 Jy'), u.def_unit('hsc', 57.54 * u.nJy)]
)
def test_units_with_a_scale_are_stored(tmp_path, encoder, rng, unit):
    yy, xx = np.mgrid[:64, :64]
    star = PSFModel(flux=3000, x_0=31, y_0=31)
    image = rng.normal(100, 5, (64, 64)) + star(xx, yy)
    catalog = detect_sources(image * unit, psf=PSFModel(), encoder=encoder)
    for ending in ('fits', 'ecsv', 'parquet', 'vot'):
        whole = ending == 'fits' and str(unit) != 'hsc'
        catalog.write(tmp_path / f'cat.{ending}', posterior=whole)
        again = ProbabilisticCatalog.read(tmp_path / f'cat.{ending}')
        assert again['flux'].unit == unit
