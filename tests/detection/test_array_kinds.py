# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
All kinds of arrays that hold the same image give the same catalogue.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty

from bliss_astro import Exposure, NoDetectionsWarning, PSFModel, detect_sources
from bliss_astro.detection._estimates import as_exposure


@pytest.fixture
def data(field):
    return np.array(field[0].data, dtype=np.float32)


def _fortran(data):
    return np.asfortranarray(data)


def _big_endian(data):
    return data.astype('>f4')


def _strided(data):
    wide = np.zeros((data.shape[0] * 2, data.shape[1] * 3), data.dtype)
    wide[::2, ::3] = data
    return wide[::2, ::3]


def _reversed(data):
    return data[::-1, ::-1].copy()[::-1, ::-1]


def _read_only(data):
    data.flags.writeable = False
    return data


def _double(data):
    return data.astype(float)


def _masked_array(data):
    return np.ma.MaskedArray(data, np.zeros(data.shape, bool))


@pytest.mark.parametrize(
    'change',
    [_fortran, _big_endian, _strided, _reversed, _read_only, _double, _masked_array],
)
def test_same_numbers(data, known, reference, same_rows, change):
    given = change(data)
    before = np.array(given)
    names = ('background', 'bkg_error', 'effective_gain', 'psf')
    stated = {name: known[name] for name in names}
    exposure, _ = as_exposure(given, **stated)
    np.testing.assert_array_equal(exposure.data, data)
    np.testing.assert_array_equal(np.array(given), before)
    if change is _strided:
        same_rows(detect_sources(given, **known), reference)


def test_list_of_lists(data, known, reference, same_rows):
    same_rows(detect_sources(data.tolist(), **known), reference)


@pytest.mark.parametrize('kind', ['u2', '>i2', 'f2'])
def test_coarse_numbers(data, known, reference, kind):
    # Rounding to 1 electron (to 1 or more in half precision) is far below
    # the noise of 29.
    with np.errstate(over='ignore'):
        coarse = np.minimum(np.rint(data), 32000).astype(kind)
    found = detect_sources(coarse, **known)
    sure = reference[(reference['probability'] > 0.9) & (reference['flux'] < 1e5)]
    for row in sure:
        apart = np.hypot(
            found['x_centroid'] - row['x_centroid'],
            found['y_centroid'] - row['y_centroid'],
        )
        assert apart.min() < row['x_err'] + row['y_err']


def test_masked_array_is_a_mask(data, known, same_rows):
    bad = np.zeros(data.shape, bool)
    bad[40:43, 50:57] = True
    hidden = detect_sources(np.ma.MaskedArray(data, bad), **known)
    same_rows(detect_sources(data, mask=bad, **known), hidden)


def test_nothing_is_modified(field, known, encoder):
    data = np.array(field[0].data)
    data[3, 4] = np.nan
    mask = np.zeros(data.shape, bool)
    mask[7, 8] = True
    maps = {
        name: np.full(data.shape, known[name])
        for name in ('background', 'bkg_error', 'effective_gain')
    }
    given = {'data': data, 'mask': mask, **maps}
    copies = {name: value.copy() for name, value in given.items()}
    psf = known['psf'].copy()
    detect_sources(**given, psf=psf, encoder=encoder, density=0.002)
    for name, value in given.items():
        np.testing.assert_array_equal(value, copies[name])
    np.testing.assert_array_equal(psf.parameters, known['psf'].parameters)


def test_threads_and_generators_are_left_alone(data, known):
    state = torch.random.get_rng_state()
    n_threads = torch.get_num_threads()
    legacy = np.random.get_state()  # noqa: NPY002
    detect_sources(data, n_samples=3, rng=1, **known)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == n_threads
    np.testing.assert_array_equal(np.random.get_state()[1], legacy[1])  # noqa: NPY002


def test_same_input_same_table(data, known, reference, same_rows):
    torch.manual_seed(99)
    same_rows(detect_sources(data, **known), reference)
    same_rows(detect_sources(data, **known | {'encoder': 'stars'}), reference)


def test_encoder_is_left_where_and_as_it_was(data, known, encoder):
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    detect_sources(data, **known)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert encoder.device.type == 'cpu'


# -- units -------------------------------------------------------------------


def test_quantity_in_quantity_out(data, known, reference, same_rows):
    with_unit = {k: known[k] * u.electron for k in ('background', 'bkg_error')}
    found = detect_sources(data * u.electron, **(known | with_unit))
    assert found['flux'].unit == found['flux_err'].unit == u.electron
    same_rows(found, reference)
    assert getattr(reference['flux'], 'unit', None) is None


@pytest.mark.parametrize(('unit', 'scale'), [(u.nmgy, 1 / 987.31), (u.adu, 1 / 4.76)])
def test_the_unit_does_not_matter(data, known, encoder, reference, unit, scale):
    found = detect_sources(
        data * scale * unit,
        encoder=encoder,
        background=known['background'] * scale * unit,
        bkg_error=known['bkg_error'] * scale * unit,
        effective_gain=1 / scale * u.electron / unit,
        psf=known['psf'],
        density=known['density'],
    )
    assert ('mag' in found.colnames) == (unit == u.nmgy)
    assert found['flux'].unit == unit
    assert len(found) == len(reference)
    # Single precision, and bfloat16 where the processor has it, round.
    error = np.asarray(reference['flux_err'])
    np.testing.assert_allclose(
        found['flux'].value / scale / error, reference['flux'] / error, atol=0.1
    )
    np.testing.assert_allclose(
        found['probability'], reference['probability'], atol=0.02
    )


def test_units_are_converted(data, known, encoder, same_rows, reference):
    kilo = u.def_unit('kiloelectron', 1000 * u.electron)
    found = detect_sources(
        data * u.electron,
        encoder=encoder,
        background=known['background'] / 1000 * kilo,
        bkg_error=known['bkg_error'] / 1000 * kilo,
        psf=known['psf'],
        density=0.002,
        effective_gain=1.0,
    )
    same_rows(found, reference, rtol=1e-4, columns=['flux', 'x_centroid'])


# -- NDData ------------------------------------------------------------------


def test_ccddata_tells_all(field, known, wcs, encoder, reference):
    exposure, _ = field
    mask = np.zeros(exposure.shape, bool)
    mask[50:52, 50:52] = True
    whole = exposure.replace(wcs=wcs, mask=mask)
    ccd = whole.to_ccddata()
    found = detect_sources(
        CCDData(
            ccd.data,
            unit=ccd.unit,
            mask=ccd.mask,
            wcs=wcs,
            uncertainty=ccd.uncertainty,
            meta=ccd.meta,
        ),
        psf=known['psf'],
        density=0.002,
        encoder=encoder,
    )
    assert found.meta['estimated']['bkg_error']['source'] == 'given'
    assert found.meta['estimated']['background']['source'] == 'given'
    sky = wcs.pixel_to_world(found['x_centroid'], found['y_centroid'])
    assert np.all(found['sky_centroid'].separation(sky) < 1e-3 * u.arcsec)
    assert len(found) == pytest.approx(len(reference), abs=1)
    bright = slice(0, 5)
    np.testing.assert_allclose(
        found['flux'][bright].value,
        reference['flux'][bright],
        atol=0.5 * reference['flux_err'][bright].max(),
    )


def test_cut_ccddata_keeps_its_sky(field, known, wcs):
    ccd = CCDData(field[0].data, unit='electron', wcs=wcs)[12:92, 20:100]
    given = {k: known[k] * u.electron for k in ('background', 'bkg_error')}
    found = detect_sources(ccd, **(known | given))
    sky = wcs.pixel_to_world(found['x_centroid'] + 20, found['y_centroid'] + 12)
    assert np.all(found['sky_centroid'].separation(sky) < 1e-3 * u.arcsec)
    assert found.wcs is not None


def test_uncertainty_without_gain(field, known, encoder):
    exposure, _ = field
    error = StdDevUncertainty(exposure.total_error())
    found = detect_sources(
        NDData(exposure.data, uncertainty=error), psf=known['psf'], encoder=encoder
    )
    assert 'uncertainty' in found.meta['estimated']['bkg_error']['source']
    assert 'photon noise' in found.meta['estimated']['effective_gain']['source']


def test_background_is_measured_before_the_uncertainty_is_used(field, known, encoder):
    # The sky of 865 electrons must not count as light of sources.
    exposure, truth = field
    found = detect_sources(
        NDData(exposure.data, uncertainty=StdDevUncertainty(exposure.total_error())),
        effective_gain=1.0,
        psf=known['psf'],
        encoder=encoder,
    )
    assert 'photutils Background2D' in found.meta['estimated']['background']['source']
    assert len(found) <= 1.3 * len(truth)


def test_zero_inverse_variance_is_a_bad_pixel(field, known, encoder):
    weight = 1 / field[0].total_error() ** 2
    weight[:, :50] = 0
    found = detect_sources(
        NDData(field[0].data, uncertainty=InverseVariance(weight)),
        background=known['background'],
        psf=known['psf'],
        effective_gain=1.0,
        density=0.002,
        encoder=encoder,
    )
    assert len(found) > 3
    assert np.all(found['x_centroid'] > 47)


# -- sizes -------------------------------------------------------------------


def _one_star(shape, psf, background, rng):
    star = psf.copy()
    star.flux, star.x_0, star.y_0 = 5e4, (shape[1] - 1) / 2, (shape[0] - 1) / 2
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    signal = star(xx, yy) + background
    return signal + rng.normal(size=shape) * np.sqrt(signal)


@pytest.mark.parametrize('shape', [(9, 8), (33, 31), (8, 60)])
def test_sizes_that_are_no_multiple_of_a_tile(known, shape, rng):
    data = _one_star(shape, known['psf'], known['background'], rng)
    found = detect_sources(data, **known)
    assert len(found) >= 1
    brightest = found[0]
    assert abs(brightest['x_centroid'] - (shape[1] - 1) / 2) < 0.5
    assert abs(brightest['y_centroid'] - (shape[0] - 1) / 2) < 0.5


@pytest.mark.parametrize('shape', [(1, 1), (1, 40), (4, 4)])
def test_smaller_than_a_tile(known, shape, rng, catalog):
    # Too little to be sure of a star, but a table like any other.
    data = _one_star(shape, known['psf'], known['background'], rng)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NoDetectionsWarning)
        found = detect_sources(data, **known)
    assert set(found.colnames) == set(catalog.colnames)
    assert np.all(np.isfinite(found['flux']))
    assert found.posterior.probability_map.shape == (
        -(-shape[0] // 4),
        -(-shape[1] // 4),
    )
    assert np.all((found['flags'] & 2) > 0)


def test_rows_in_overhanging_tiles_are_flagged(field, encoder):
    found = detect_sources(field[0][:94, :102], density=0.002, encoder=encoder)
    below = found['y_centroid'] > 92
    right = found['x_centroid'] > 100
    padded = (found['flags'] & 64) > 0
    np.testing.assert_array_equal(padded, below | right)


def test_sources_stay_on_the_image(field, encoder):
    exposure = field[0][:93, :101]
    found = detect_sources(exposure, encoder=encoder)
    assert np.all(found['x_centroid'] < 101 + 2.5)
    assert np.all(found['y_centroid'] < 93 + 2.5)


@pytest.mark.parametrize('unit', [None, u.nmgy])
def test_empty_field(encoder, rng, wcs, unit, catalog):
    noise = rng.normal(size=(60, 70))
    exposure = Exposure(
        noise if unit is None else noise * unit,
        bkg_error=1.0 if unit is None else 1.0 * unit,
        effective_gain=29.0,
        psf=PSFModel(),
        wcs=wcs,
    )
    with pytest.warns(NoDetectionsWarning, match='probability above 0.9') as record:
        found = detect_sources(exposure, 0.9, encoder=encoder)
    assert record[0].filename == __file__
    assert len(found) == 0
    for name in catalog.colnames:
        assert found[name].dtype == catalog[name].dtype
    if unit is not None:
        assert found['flux'].unit == u.nmgy
        assert found['mag'].unit == u.mag
    assert len(found['sky_centroid']) == 0
    assert found.posterior.expected_counts() < 10
    lower, upper = found.credible_interval('flux')
    assert len(lower) == len(upper) == 0
