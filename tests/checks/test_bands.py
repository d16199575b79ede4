# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks, completeness and reconstructions of images in several bands.
"""

import dataclasses

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import (
    BlissFinder,
    CoaddSimulator,
    completeness,
    detect_sources,
    reconstruct,
)
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.checks._recall import Injector
from bliss_astro.checks._reconstruction import write_images
from bliss_astro.checks._self_check import self_check
from bliss_astro.detection._detect import DetectionOptions
from bliss_astro.exposures import ExposureSet
from bliss_astro.plotting import plot_check, plot_reconstruction
from bliss_astro.priors import CatalogPrior, ColourPrior
from bliss_astro.rendering._scene import Sources


@pytest.fixture(scope='module')
def exposures():
    """
    A field in r (the reference band), g and i.
    """
    sky = CatalogPrior.sky()
    return CoaddSimulator(4, sky, bands='rgi', shape=(128, 144)).sample(rng=26)[0]


@pytest.fixture(scope='module')
def catalog(exposures, encoder_of_bands):
    """
    Its catalogue.
    """
    return detect_sources(exposures, encoder=encoder_of_bands, keep='posterior')


@pytest.fixture(scope='module')
def checks(catalog):
    """
    Its checks, by band.
    """
    return catalog.check(rng=1)


def with_stars(exposure, x, y, flux):
    """
    An exposure with stars more.
    """
    stars = dict.fromkeys(('probability', 'x_err', 'y_err'), np.full(len(x), 0.9))
    stars |= {'x_centroid': x, 'y_centroid': y, 'flux': flux, 'flux_err': 0.1 * flux}
    made = ProbabilisticCatalog.from_columns(stars, image_shape=exposure.shape)
    return exposure.replace(data=exposure.data + made.render(psf=exposure.psf))


def test_every_band_is_checked(checks, catalog, exposures):
    assert len(catalog) > 3
    assert list(checks) == list('rgi')
    assert all(check.passed for check in checks.values())
    # That of the reference band is as of it alone, with the same draws.
    alone = catalog.check(exposures['r'], rng=1)
    assert_array_equal(checks['r'].residual, alone.residual)
    assert_array_equal(checks['r'].tests['value'], alone.tests['value'])


def test_fluxes_are_those_of_the_band(exposures):
    faint = 8 * float(exposures['g'].bkg_error)
    columns = {'flux': [0.2 * faint, np.nan], 'flux_g': [faint, 1.5 * faint]}
    columns['flux_r'] = columns['flux']
    columns |= {'x_centroid': [30.2, 90.0], 'y_centroid': [40.0, 80.4]}
    errors = 'probability', 'x_err', 'y_err', 'flux_err', 'flux_r_err', 'flux_g_err'
    columns |= {key: [0.9, 0.9] for key in errors}
    shape = exposures.shape
    made = ProbabilisticCatalog.from_columns(columns, unit='nmgy', image_shape=shape)
    image = exposures['g']
    expected = made.render(band='g', psf=image.psf).value
    assert expected.sum() > 2.4 * faint
    # Neither is bright enough to be fitted.
    for given in (image, {'g': image}):
        check = made.check(given, n_draws=0, rng=1)
        model = check['g'].model if isinstance(given, dict) else check.model
        assert_array_equal(model, expected)


def test_faults_of_one_band(catalog, exposures):
    wrong = exposures['g'].replace(data=exposures['g'].data + exposures['g'].bkg_error)
    some = {'r': exposures['r'], 'g': wrong, 'i': None}
    checks = catalog.check(some, rng=1, n_draws=1)
    assert list(checks) == ['r', 'g']
    assert checks['r'].passed
    assert 'background' in checks['g'].findings['kind']


def test_figure_of_checks(checks):
    axes = plot_check(checks)
    assert len(axes) == 6
    assert [ax.get_title('left') for ax in axes[::2]] == ['Band r', 'Band g', 'Band i']
    assert len(plot_check(checks['g'])) == 2
    with pytest.raises(ValueError, match='ax must be 6 axes'):
        plot_check(checks, ax=axes[:2])


def test_reconstruction(catalog, exposures, tmp_path):
    results = catalog.reconstruct(n_draws=2, rng=1)
    assert list(results) == list('rgi')
    for band, result in results.items():
        assert result.exposure.data is exposures[band].data
        assert_array_equal(
            result.model, catalog.render(band=band, psf=exposures[band].psf).value
        )
        # By default with the PSF of the band, from files with that of the posterior.
        assert_allclose(catalog.render(band=band).value, result.model, atol=1e-3)
        # By default with the PSF of the band, from files with that of the posterior.
        assert_allclose(catalog.render(band=band).value, result.model, atol=1e-3)
        assert 0.9 < np.nanmean(result.chi**2) < 1.1
        # Draws are the same catalogues in all bands.
        ratio = result.draws.sum((1, 2)) / results['r'].draws.sum((1, 2))
        tables = catalog.posterior.sample(2, rng=1)
        expected = [t[f'flux_{band}'].sum() / t['flux'].sum() for t in tables]
        assert_allclose(ratio, expected, rtol=0.03)
    assert len(plot_reconstruction(results)) == 5
    path = tmp_path / 'all.fits'
    write_images(results, path, overwrite=False, posterior=False)
    with fits.open(path) as hdus:
        assert_array_equal(hdus['MODEL_G'].data, results['g'].model)
        assert hdus['DRAWS_I'].data.shape == (2, 128, 144)
    assert len(ProbabilisticCatalog.read(path)) == len(catalog)


def test_reconstruction_with_detection(catalog, exposures, encoder_of_bands):
    some = {band: exposures[band] for band in 'gr'}
    results = reconstruct(some, finder=BlissFinder(encoder=encoder_of_bands))
    assert list(results) == ['r', 'g']
    assert_allclose(results['g'].model, catalog.reconstruct(some)['g'].model, atol=0.02)
    with pytest.warns(UserWarning, match='the bands g, i left out'):
        one = reconstruct(exposures, finder=BlissFinder(encoder='stars'))
    assert one.exposure.data is exposures['r'].data


def test_images_that_do_not_fit(catalog, exposures, encoder_of_bands):
    one = detect_sources(exposures['r'], encoder=encoder_of_bands)
    for method in (one.check, one.reconstruct):
        with pytest.raises(ValueError, match=r'exposure must be one Exposure.*r, g, i'):
            method(exposures)
    unknown = {'r': exposures['r'], 'u': exposures['g']}
    with pytest.raises(ValueError, match=r'be in bands of the catalogue \(g, r, i\)'):
        catalog.check(unknown)
    with pytest.raises(ValueError, match=r"band 'g': exposure has shape \(60, 144\)"):
        catalog.reconstruct({'r': exposures['r'], 'g': exposures['g'][:60]})
    with pytest.raises(ValueError, match="band 'g': exposure has no psf"):
        catalog.reconstruct({'g': exposures['g'].replace(psf=None)})
    with pytest.raises(TypeError, match='exposure must be an Exposure, got ndarray'):
        catalog.check({'r': exposures['r'].data})
    with pytest.raises(ValueError, match='exposure must be in bands'):
        catalog.check({'r': None})


def test_self_check_of_all_bands(catalog, exposures, encoder_of_bands):
    found = catalog.meta['check']
    assert found['passed']
    assert found['peaks_g'] == {'n': 0}
    assert {'peaks', 'peaks_i', 'flux_g', 'cosmic_rays_g'} <= set(found)
    assert 'empty_rows_g' not in found
    # Stars that are in one band alone, which this encoder does not detect.
    y, x = (v.ravel() for v in np.meshgrid([20, 60, 100], [30, 70, 110]))
    flux = np.full(9, 200 * float(exposures['g'].bkg_error))
    more = exposures['g'].replace(data=with_stars(exposures['g'], x, y, flux).data)
    both = ExposureSet({'r': exposures['r'], 'g': more})
    with pytest.warns(UserWarning, match=r"band 'g': \d+ peaks above 10 sigma have no"):
        again = detect_sources(both, encoder=encoder_of_bands)
    assert again.meta['check']['peaks'] == {'n': 0}
    assert again.meta['check']['peaks_g']['n'] > 4


def test_rows_without_light_in_any_band(catalog, exposures):
    dark = exposures['r'].replace(data=exposures['r'].data * 0, background=0.0)
    some = dict(exposures) | {'r': dark}
    sure = np.count_nonzero(catalog['probability'] > 0.9)
    assert self_check(dark, catalog)['empty_rows']['n'] == sure
    assert self_check(some, catalog)['empty_rows']['n'] < 0.5 * sure


def test_one_band_by_name(catalog, exposures):
    """
    A mapping of one band is as that band.
    """
    (found,) = catalog.check({'r': exposures['r']}, rng=1).values()
    alone = catalog.check(exposures['r'], rng=1)
    assert_array_equal(found.residual, alone.residual)
    assert dataclasses.asdict(found).keys() == dataclasses.asdict(alone).keys()


# -- completeness --------------------------------------------------------------------


@pytest.fixture(scope='module')
def finder(encoder_of_bands):
    return BlissFinder(encoder=encoder_of_bands)


@pytest.fixture(scope='module')
def injected(exposures, finder):
    """
    Bright sources and faint ones, injected in all bands.
    """
    known = {'magnitudes': [17, 19, 24.5, 25], 'n_sources': 24, 'spacing': 32}
    return completeness(exposures, finder, **known, rng=1)


def test_completeness_of_bands(injected):
    table, sources = injected.table, injected.sources
    assert np.all(table['recall'][[0, 3]] > 0.8)
    assert np.all(table['recall'][[2, 5]] < 0.5)
    for band in 'gi':
        end = f'_{band}'
        # Biases of bright stars are small in every band.
        assert abs(table[f'relative_bias{end}'][0]) < 0.05
        assert {f'bias{end}', f'bias{end}_err', f'scatter{end}'} <= {*table.colnames}
        names = f'flux{end}', f'flux{end}_estimate', f'flux{end}_err'
        assert all(sources[name].unit == u.nmgy for name in names)
        found = np.isfinite(sources[f'flux{end}_estimate'].value)
        assert_array_equal(found, sources['found'])
    bright = sources[sources['flux'] > 10 * u.nmgy]
    for band in 'gi':
        estimate = bright[f'flux_{band}_estimate'] / bright[f'flux_{band}']
        assert_allclose(np.nanmedian(estimate.value), 1, atol=0.03)
    # Colours of stars are those of the sky, and differ.
    color = -2.5 * np.log10((bright['flux_g'] / bright['flux_i']).value)
    assert 0.3 < np.median(color) < 3
    assert np.std(color) > 0.2
    assert 'relative_bias_r' not in table.colnames


def test_sources_are_in_all_bands(exposures, encoder_of_bands):
    options = DetectionOptions(encoder=encoder_of_bands)
    missing = ExposureSet(dict(exposures) | {'z': None})
    injector = Injector(missing, encoder_of_bands, options, None)
    assert list(injector.bands) == list('rgi')
    places = np.array([40.0, 90.0]), np.array([60.0, 70.0])
    own = {
        band: Sources(*places, np.array([1e3, 2e3]) * k, np.zeros(2, bool))
        for k, band in enumerate('rgi', 1)
    }
    made = injector._inject(own, np.random.default_rng(1))
    assert [band.name for band in made.bands] == list('rgiz')
    for k, band in enumerate('rgi', 1):
        light = made[band].data - exposures[band].data
        assert_allclose(light[40:90, 20:110].sum(), 3e3 * k, rtol=0.03)


def test_completeness_of_the_reference_band(exposures):
    finder = BlissFinder(encoder='stars')
    known = {'magnitudes': [19, 21, 23], 'n_sources': 8, 'spacing': 40, 'rng': 2}
    with pytest.warns(UserWarning, match='sees one band') as shown:
        found = completeness(exposures, finder, **known)
    assert sum('sees one band' in str(item.message) for item in shown) == 1
    alone = completeness(exposures['r'], finder, **known)
    assert found.table.colnames == alone.table.colnames
    assert_array_equal(found.sources['found'], alone.sources['found'])
    assert_array_equal(found.sources['flux_estimate'], alone.sources['flux_estimate'])


def test_completeness_of_other_kinds(exposures, encoder_of_bands, finder):
    known = {'n_sources': 4, 'types': 'star', 'rng': 1, 'fluxes': [20.0, 30.0]}
    names = 'background', 'bkg_error', 'effective_gain', 'psf'
    given = {name: {b: getattr(exposures[b], name) for b in 'rg'} for name in names}
    own = given | {'bands': 'rg', 'calibration': {'g': 1.0}}
    cube = BlissFinder(encoder=encoder_of_bands, **own)
    data = np.stack([exposures[band].data for band in 'rg'])
    with pytest.raises(ValueError, match='several bands need a zero_point'):
        completeness(data, cube, **known)
    found = completeness(data, cube, **known, zero_point=22.5)
    assert list(found.table['n_found']) == [4]
    assert 'bias_g' in found.table.colnames
    alone = {'r': exposures['r'], 'g': None}
    known['fluxes'] *= u.nmgy
    assert list(completeness(alone, finder, **known).table['n_found']) == [4]
    with pytest.raises(ValueError, match='colours must be left out'):
        completeness(alone, finder, **known, colours=ColourPrior.default())
    with pytest.raises(TypeError, match='colours must be ColourPrior'):
        completeness(exposures, finder, **known, colours='red')
