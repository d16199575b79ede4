# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the benchmark on real blends of HSC.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import PSFModel, detect_sources
from bliss_astro.encoders import Encoder
from bliss_astro.exposures import Exposure
from bliss_astro.training import load_config

_FOLDER = Path(__file__).resolve().parent.parent / 'benchmarks'

pytestmark = pytest.mark.skipif(
    not (_FOLDER / 'hsc_blends.py').is_file(), reason='the benchmarks are not here'
)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(_FOLDER)


_SHAPE, _ERROR = (44, 52), 3.6e-4


@pytest.fixture
def blend(rng):
    """
    Give a blank one, with the PSF's image a third of a pixel off its middle.
    """
    from _hsc_data import GAIN, UNIT, Blend, psf_centroid

    psf = PSFModel.from_shape([1.24, 2.1, 0.35, 3.5, 0.06, 7.0, 0.0, 0.0])
    y, x = np.mgrid[:43, :43].astype(float)
    image = psf.evaluate(x, y, 1.0, 21.3, 20.8, *psf.shape_vector)
    image /= image.sum()
    exposure = Exposure(
        rng.normal(0, _ERROR, _SHAPE),
        bkg_error=_ERROR,
        effective_gain=GAIN / UNIT.value,
        psf=psf,
        unit='nmgy',
    )
    peaks = np.array([[10.0, 30.0]])
    return Blend('blank', exposure, image, psf_centroid(image), [], peaks)


def _galaxies():
    # One row of CatSim a magnitude, and one without a disk.
    return Table(
        {
            'i_ab': [22.0, 23.0, 24.0, 25.0, 26.0],
            'fluxnorm_disk': [1.0, 1.0, 1.0, 1.0, 0.0],
            'fluxnorm_bulge': [0.0, 1.0, 1.0, 0.0, 1.0],
            'a_d': [0.8, 0.6, 0.5, 0.3, 0.0],
            'b_d': [0.4, 0.3, 0.5, 0.2, 0.0],
            'pa_disk': [10.0, 20.0, 30.0, 40.0, 0.0],
            'a_b': [0.0, 0.3, 0.2, 0.0, 0.2],
            'b_b': [0.0, 0.2, 0.2, 0.0, 0.1],
            'pa_bulge': [0.0, 20.0, 30.0, 0.0, 5.0],
        }
    )


def _injection(**changes):
    from _hsc_injections import Injection

    values = {'blend': 0, 'x': 25.2, 'y': 21.7, 'magnitude': 23.0, 'seed': 3}
    values |= {'is_galaxy': False, 'blended': False} | changes
    return Injection(**values)


# -- sources put in ----------------------------------------------------------------


def test_psf_centroid(blend):
    assert_allclose(blend.psf_centre, (21.3, 20.8), atol=0.01)


def test_star_has_its_flux_and_place(blend):
    from _hsc_injections import draw

    pytest.importorskip('galsim')
    injection = _injection()
    image = draw(blend, injection)
    y, x = np.mgrid[: _SHAPE[0], : _SHAPE[1]]
    # The image of the PSF ends 21 px from its middle, the blend a little farther.
    assert_allclose(image.sum(), injection.flux, rtol=2e-3)
    centre = [(image * v).sum() / image.sum() for v in (x, y)]
    assert_allclose(centre, (25.2, 21.7), atol=0.02)


@pytest.mark.parametrize('fraction', [0.0, 0.4, 1.0])
def test_galaxy_is_larger_and_keeps_its_flux(blend, fraction):
    from _hsc_injections import draw

    pytest.importorskip('galsim')
    shape = (fraction, 0.5, 0.6, 30.0, 0.2, 0.8, 30.0)
    galaxy = draw(blend, _injection(is_galaxy=True, shape=shape))
    star = draw(blend, _injection())
    assert galaxy.max() < 0.95 * star.max()
    # A de Vaucouleurs profile reaches beyond the edges.
    assert_allclose(galaxy.sum(), star.sum(), rtol=0.01 + 0.08 * (1 - fraction))


def test_angle_is_from_x_towards_y(blend):
    from _hsc_injections import draw

    pytest.importorskip('galsim')
    shape = (1.0, 1.0, 0.2, 90.0, 0.0, 1.0, 0.0)
    image = draw(blend, _injection(is_galaxy=True, shape=shape))
    y, x = np.mgrid[: _SHAPE[0], : _SHAPE[1]]
    assert (image * (y - 21.7) ** 2).sum() > 2 * (image * (x - 25.2) ** 2).sum()


def test_noise_is_that_of_the_photons(blend):
    from _hsc_data import GAIN, UNIT
    from _hsc_injections import draw, put_in

    pytest.importorskip('galsim')
    # 300 stars of 19 mag: what is left after the model has photon noise alone.
    residuals, signal = [], draw(blend, _injection(magnitude=19.0))
    for seed in range(300):
        image = put_in(blend, _injection(magnitude=19.0, seed=seed))
        residuals.append(image.data - blend.exposure.data - signal)
    bright = signal > 0.1 * signal.max()
    ratio = np.var(residuals, axis=0)[bright] / (signal[bright] * UNIT.value / GAIN)
    n = ratio.size * 300
    assert_allclose(ratio.mean(), 1, atol=4 * np.sqrt(2 / n))


def test_catalogue_rows_without_a_component():
    from _hsc_injections import galaxy_rows

    magnitude, shape = galaxy_rows(_galaxies())
    assert_array_equal(magnitude, [22, 23, 24, 25, 26])
    assert_allclose(shape[:, 0], [1, 0.5, 0.5, 1, 0])
    assert_allclose(shape[1], [0.5, 0.6, 0.5, 20, 0.3, 2 / 3, 20])
    assert np.isfinite(shape).all()


def test_places_are_blank_or_beside_a_source(blend, rng):
    from _hsc_injections import MAGNITUDES, draw_injections, galaxy_rows

    rows = _galaxies()
    # As dense in magnitude as a real catalogue.
    table = Table(np.repeat(rows.as_array(), 4))
    table['i_ab'] = np.linspace(22.4, 26.3, 20)
    drawn = draw_injections([blend], [blend.peaks], galaxy_rows(table), 120, rng)
    assert len(drawn) == 120
    apart = np.array([np.hypot(d.x - 10, d.y - 30) for d in drawn])
    blended = np.array([d.blended for d in drawn])
    assert_array_equal(np.bincount(blended), [60, 60])
    assert (apart[blended] < 7).all()
    assert (apart[blended] > 2).all()
    assert (apart[~blended] > 9).all()
    assert min(d.x for d in drawn) >= 5
    assert max(d.x for d in drawn) <= _SHAPE[1] - 6
    magnitudes = [d.magnitude for d in drawn]
    assert MAGNITUDES[0] <= min(magnitudes) <= max(magnitudes) <= MAGNITUDES[1]
    # Half are galaxies, within 4 sigma.
    share = np.mean([d.is_galaxy for d in drawn])
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 120)
    assert all(len(d.shape) == (7 if d.is_galaxy else 0) for d in drawn)


# -- rivals --------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['find_sep', 'find_photutils'])
def test_rivals_measure_isolated_stars(blend, name):
    import _hsc_rivals
    from _hsc_injections import put_in

    for module in ('galsim', 'sep', 'photutils', 'skimage'):
        pytest.importorskip(module)
    injection = _injection(magnitude=22.0)
    found = getattr(_hsc_rivals, name)(put_in(blend, injection))
    near = np.argmin(np.hypot(found['x'] - 25.2, found['y'] - 21.7))
    assert np.hypot(found['x'][near] - 25.2, found['y'][near] - 21.7) < 0.2
    # Kron apertures lose some per cent of a star.
    assert_allclose(found['kron'][near], injection.flux, rtol=0.12)


@pytest.mark.parametrize('name', ['find_sep', 'find_photutils'])
def test_rivals_separate_two_stars(blend, name):
    import _hsc_rivals
    from _hsc_injections import draw

    for module in ('galsim', 'sep', 'photutils', 'skimage'):
        pytest.importorskip(module)
    two = sum(draw(blend, _injection(x=x, magnitude=21.5)) for x in (21.0, 28.0))
    found = getattr(_hsc_rivals, name)(
        blend.exposure.replace(data=blend.exposure.data + two), 1.5, 0.001
    )
    for x in (21.0, 28.0):
        assert np.hypot(found['x'] - x, found['y'] - 21.7).min() < 0.7


@pytest.mark.parametrize('name', ['find_sep', 'find_photutils'])
def test_rivals_find_nothing_in_nothing(blend, name):
    import _hsc_rivals

    for module in ('sep', 'photutils'):
        pytest.importorskip(module)
    empty = blend.exposure.replace(data=np.zeros(_SHAPE))
    found = getattr(_hsc_rivals, name)(empty)
    assert {len(values) for values in found.values()} == {0}


# -- ours ----------------------------------------------------------------------------


def test_many_is_the_same_as_one_at_a_time(blend):
    from _hsc_injections import draw
    from _hsc_ours import find_many

    pytest.importorskip('galsim')
    encoder = Encoder.from_pretrained('stars-galaxies')
    # Electrons as this encoder knows them.
    exposure = blend.exposure.replace(effective_gain=60 / _ERROR)
    images = [
        exposure.replace(data=exposure.data + draw(blend, _injection(x=x)))
        for x in (15.0, 30.0)
    ]
    for image, found in zip(images, find_many(images, encoder), strict=True):
        catalog = detect_sources(image, encoder=encoder)
        order = np.argsort(-found['flux'])
        assert len(catalog) == len(order)
        # Sums in another order, perhaps in half precision.
        x = np.asarray(catalog['x_centroid'])
        assert_allclose(found['x'][order], x, atol=0.05)
        assert_allclose(found['flux'][order], catalog['flux'].value, rtol=0.05)


# -- scores ----------------------------------------------------------------------------


def _found(*rows):
    x, y, flux = np.array(rows, dtype=float).reshape(-1, 3).T
    return {'x': x, 'y': y, 'flux': flux}


def test_match_within_a_pixel():
    from _hsc_scores import match_injection

    injection = _injection()
    found = _found((25.2, 22.6, 1.0), (25.3, 21.6, 2.0), (5, 5, 3.0))
    assert match_injection(found, _found(), injection, 'flux') == 1
    assert match_injection(_found((25.2, 22.8, 1)), _found(), injection, 'flux') is None
    assert match_injection(_found(), _found(), injection, 'flux') is None


def test_what_was_there_before_is_not_found():
    from _hsc_scores import match_injection

    injection = _injection()
    found = _found((25.2, 21.7, 1.0))
    half = 0.5 * injection.flux
    there = _found((25.0, 21.0, 1.1 * half))
    assert match_injection(found, there, injection, 'flux') is None
    faint = _found((25.0, 21.0, 0.9 * half))
    assert match_injection(found, faint, injection, 'flux') == 0


def test_choice_counts_what_is_missed():
    from _hsc_scores import choose

    missed = np.array([0.01, 0.01, np.nan, np.nan, np.nan])
    all_found = np.full(5, 0.2)
    assert choose({'a': missed, 'b': all_found}) == 'b'


def test_bootstrap_is_by_blend(rng):
    from _hsc_scores import bootstrap

    # 20 blends whose sources share one error: no more than 20 numbers.
    groups = np.repeat(np.arange(20), 30)
    values = rng.normal(0, 1, 20)[groups]
    mean, error = bootstrap(np.mean, (values,), groups, rng)
    assert_allclose(mean, values.mean())
    assert_allclose(error, values.std() / np.sqrt(20), rtol=0.15)


def test_comparison_is_on_common_sources(rng):
    from _hsc_scores import compare, recall

    groups = np.repeat(np.arange(4), 25)
    errors = {
        'ours': rng.normal(0, 0.1, 100),
        'other': rng.normal(0.05, 0.2, 100),
    }
    errors['other'][::2] = np.nan
    use = np.ones(100, dtype=bool)
    scores = compare(errors, groups, use, rng)
    assert scores['ours']['n'] == scores['other']['n'] == 50
    typical = np.median(np.abs(errors['ours'][1::2]))
    assert_allclose(scores['ours']['error'][0], typical)
    assert_allclose(scores['ours']['ratio'][0], 1)
    expected = typical / np.median(np.abs(errors['other'][1::2]))
    assert_allclose(scores['other']['ratio'][0], expected)
    shares = recall(errors, groups, use, rng)
    assert_allclose([shares[k][0] for k in errors], [1, 0.5])


# -- all of it -----------------------------------------------------------------------


def test_configuration_is_complete():
    encoder, simulation, training = load_config(_FOLDER / 'configs' / 'hsc.toml')
    assert encoder.galaxies
    assert simulation.population == 'sky'
    assert simulation.pixel_scale == 0.168
    assert isinstance(simulation.catalog_prior, dict)
    assert isinstance(simulation.field_prior, dict)
    assert training.start_from == 'stars-galaxies'


def test_configuration_draws_such_images(generator):
    import dataclasses

    from bliss_astro.simulation import SceneStream

    _, simulation, _ = load_config(_FOLDER / 'configs' / 'hsc.toml')
    few = dataclasses.replace(simulation, n_exposures=(3, 3))
    scenes = SceneStream(few).sample_batch(8, generator=generator)
    assert scenes.data.shape == (8, 48, 48)
    # SNR 1 in a pixel is about 31 mag of flux 1e-4 nmgy to a factor of two.
    noise = scenes.bkg_error / scenes.electrons_per_nmgy
    assert ((noise > 0.5 * _ERROR) & (noise < 2 * _ERROR)).all()
    assert (scenes.correlation > 0.02).all()
    assert (scenes.correlation < 0.25).all()


def test_data_is_asked_for(monkeypatch, tmp_path):
    from _hsc_data import shared_data

    with pytest.raises(FileNotFoundError, match='hsc_blends'):
        shared_data(tmp_path)


def test_reads_the_blends(shared_data):
    from _hsc_data import read_blends

    if not (shared_data / 'hsc_blends').is_dir():
        pytest.skip('no blends here')
    pytest.importorskip('galsim')
    blends = read_blends(shared_data)
    assert len(blends) == 19
    assert sum(len(each.truth) for each in blends) == 20
    widths = [each.exposure.psf.fwhm for each in blends]
    assert 3.2 < min(widths) < max(widths) < 3.5
    assert 0.05 < blends[0].exposure.noise_correlation[0] < 0.2
    # 21st magnitude stars are at their places with their fluxes.
    star = next(t for t in blends[18].truth if not t['is_galaxy'])
    data = blends[18].exposure.data
    y, x = round(star['y']), round(star['x'])
    peak = data[y, x] / blends[18].psf.max()
    assert abs(22.5 - 2.5 * np.log10(peak) - star['magnitude']) < 0.3


@pytest.mark.slow
def test_quick_run(shared_data, tmp_path):
    import hsc_blends

    for module in ('galsim', 'sep', 'photutils', 'skimage'):
        pytest.importorskip(module)
    options = argparse.Namespace(
        data=shared_data,
        encoder='stars-galaxies',
        n_injections=20,
        quick=True,
        threads=1,
        output=str(tmp_path / 'hsc.json'),
        figures=None,
    )
    report, drawn = hsc_blends.run(options)
    report.finish()
    content = json.loads((tmp_path / 'hsc.json').read_text())
    what = {row['what'] for row in content['rows']}
    assert 'median absolute flux error, blended, SEP' in what
    assert not any('|' in name for name in what)
    hsc_blends.draw_blends(drawn, tmp_path / 'a.png')
    hsc_blends.draw_injections_figure(drawn, tmp_path / 'b.png')
    assert (tmp_path / 'b.png').stat().st_size > 5000
