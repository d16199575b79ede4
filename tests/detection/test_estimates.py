# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is not given is measured in the image, and the table says so.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.table import vstack
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.metadata import MergeConflictWarning

from bliss_astro import (
    CoaddSimulator,
    NoDetectionsWarning,
    PosteriorDroppedWarning,
    ProbabilisticCatalog,
    PSFModel,
    detect_sources,
)
from bliss_astro.detection._estimates import as_exposure, image_line, psf_findings
from bliss_astro.encoders import Domain
from bliss_astro.priors import StarPrior
from bliss_astro.psf._estimate import _finding

EVERYTHING = {
    'background',
    'bkg_error',
    'effective_gain',
    'noise_correlation',
    'psf',
    'density',
}
ALWAYS = EVERYTHING | {'mask', 'depth'}


def kinds(catalog):
    """
    First words of the sources of a catalogue's record.
    """
    record = catalog.meta['estimated']
    return {name: entry['source'].partition(':')[0] for name, entry in record.items()}


@pytest.fixture(scope='module')
def scene():
    """
    A single exposure of 256 x 256 px with some 100 stars.
    """
    sky = StarPrior(density=0.0017)
    return CoaddSimulator(1, sky, shape=(256, 256), margin=4).sample(rng=11)


@pytest.fixture(scope='module')
def blind(scene, encoder):
    return detect_sources(np.array(scene[0].data), encoder=encoder)


def test_the_meta_says_what_was_estimated(blind, scene, encoder):
    found = kinds(blind)
    assert set(found) == ALWAYS
    guessed = {name for name, kind in found.items() if kind in ('estimated', 'assumed')}
    assert guessed == EVERYTHING
    told = detect_sources(scene[0][:96, :96], density=0.002, encoder=encoder)
    assert {name: kinds(told)[name] for name in EVERYTHING} == dict.fromkeys(
        EVERYTHING, 'given'
    )


def test_the_meta_holds_values_with_units(blind, scene, encoder):
    coadd = scene[0][:96, :96]
    record = blind.meta['estimated']
    exposure = blind.exposure
    assert record['psf']['fwhm'] == pytest.approx(exposure.psf.fwhm)
    assert record['psf']['effective_area'] == pytest.approx(exposure.psf.n_eff)
    assert record['psf']['n_stars'] == np.sum(exposure.psf.fit_info['used'])
    assert record['background']['value'] == pytest.approx(
        np.median(exposure.background), rel=1e-3
    )
    assert record['mask'] == {'n_pixels': 0, 'source': 'none'}
    unit = detect_sources(
        np.array(coadd.data) * u.adu,
        background=float(np.median(coadd.background)) * u.adu,
        bkg_error=float(np.median(coadd.bkg_error)) * u.adu,
        effective_gain=1.0,
        psf=coadd.psf,
        encoder=encoder,
    ).meta['estimated']
    assert unit['bkg_error'] == {
        'value': float(np.median(coadd.bkg_error)),
        'unit': 'adu',
        'source': 'given',
    }
    assert unit['effective_gain']['unit'] == 'electron / adu'
    # A star of SNR 5 in white noise: 5 sigma sqrt(area).
    area = unit['psf']['effective_area']
    white = 5 * unit['bkg_error']['value'] * area**0.5
    assert unit['depth']['value'] == pytest.approx(white)


@pytest.mark.parametrize('ending', ['fits', 'ecsv', 'parquet'])
def test_the_record_survives_files(blind, tmp_path, ending):
    path = tmp_path / f'catalog.{ending}'
    blind.write(path, posterior=False)
    again = ProbabilisticCatalog.read(path)
    assert again.meta['estimated'] == blind.meta['estimated']
    assert repr(again.meta['estimated']) == repr(blind.meta['estimated'])
    assert again.exposure is None
    for call in (again.check, again.reconstruct):
        with pytest.raises(ValueError, match='exposure must be given'):
            call()


def test_the_record_reads_as_lines(blind):
    lines = repr(blind.meta['estimated']).split('\n')
    assert len(lines) == len(ALWAYS)
    found = next(line for line in lines if line.startswith('psf'))
    assert ' pix, ' in found
    assert 'stars of the image)' in found


def test_stacking_keeps_what_is_the_same(blind, scene, encoder):
    other = detect_sources(scene[0].data[:96], density=0.002, encoder=encoder)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', PosteriorDroppedWarning)
        warnings.simplefilter('ignore', MergeConflictWarning)
        both = vstack([blind, other])
    assert both.meta['estimated']['mask'] == {'n_pixels': 0, 'source': 'none'}
    assert 'psf' not in both.meta['estimated']
    assert both.exposure is None


def test_the_catalogue_holds_its_exposure(blind, scene, encoder):
    part = scene[0][:96, :96]
    told = detect_sources(part, density=0.002, encoder=encoder)
    assert told.exposure is part
    assert told[:3].exposure is part
    result = blind.reconstruct()
    assert result.model.shape == blind.exposure.shape
    assert blind.check(n_draws=0, rng=1).shape == blind.exposure.shape


def test_image_line(blind):
    line = image_line(blind.meta['estimated'], (256, 256))
    assert line.startswith('256 x 256 px, FWHM ')
    assert line.count('(estimated)') == 4
    assert line.endswith('(SNR 5)')


@pytest.mark.parametrize('n_exposures', [1, 5])
def test_estimates_are_close(n_exposures):
    sky = StarPrior(density=0.0017)
    simulator = CoaddSimulator(n_exposures, sky, shape=(256, 256), margin=4)
    scene, _ = simulator.sample(rng=12)
    guess, _ = as_exposure(np.array(scene.data))
    # 16 cells of 64 px: the mean sky is good to a few hundredths of the noise,
    # plus what unseen stars add.
    off = np.median(guess.background) - scene.background
    assert abs(off) < 0.15 * scene.bkg_error
    assert abs(off) < 2 * guess.background_error * scene.bkg_error
    # Some 40,000 empty pixels: 0.5 % of statistics.
    assert guess.bkg_error == pytest.approx(scene.bkg_error, rel=0.03)
    assert guess.effective_gain == pytest.approx(scene.effective_gain, rel=0.07)
    np.testing.assert_allclose(
        guess.noise_correlation, scene.noise_correlation, atol=0.04
    )
    assert guess.psf.fwhm == pytest.approx(scene.psf.fwhm, rel=0.03)


def test_crowding_does_not_blow_up_the_noise():
    sky = StarPrior(density=0.008)
    scene, _ = CoaddSimulator(9, sky, shape=(160, 160), margin=2).sample(rng=1)
    guess, _ = as_exposure(np.array(scene.data))
    assert guess.bkg_error == pytest.approx(scene.bkg_error, rel=0.15)
    np.testing.assert_allclose(
        guess.noise_correlation, scene.noise_correlation, atol=0.08
    )


def test_subtracted_sky(scene):
    flat = np.array(scene[0].data - scene[0].background)
    guess, estimated = as_exposure(flat, background=0.0)
    assert guess.background == 0
    assert '29 electrons' in estimated['effective_gain']
    # Right by construction: the sky of this simulation has 29.4 electrons.
    assert guess.effective_gain == pytest.approx(1.0, rel=0.05)


def test_blind_detection_finds_the_bright_stars(blind, scene):
    _, truth = scene
    bright = truth[truth['flux'].value > 3000]
    n_found = 0
    for star in bright:
        apart = np.hypot(
            blind['x_centroid'] - star['x_centroid'],
            blind['y_centroid'] - star['y_centroid'],
        )
        n_found += apart.min() < 1
    # SNR 15 and more: only blends get lost.
    assert n_found >= 0.9 * len(bright)


def test_integers(scene):
    counts = np.rint(scene[0].data[:144, :144]).astype(np.uint16)
    guess, _ = as_exposure(counts)
    assert guess.bkg_error == pytest.approx(scene[0].bkg_error, rel=0.03)


def test_too_few_stars_for_a_psf(encoder, rng):
    image = rng.normal(size=(80, 80)) * 30 + 900
    psf = PSFModel(flux=3e4, x_0=40.2, y_0=39.7)
    yy, xx = np.mgrid[:80, :80]
    # The encoder may warn of so large an error of the PSF too.
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter('always')
        found = detect_sources(image + psf(xx, yy), encoder=encoder)
    told = [w for w in record if 'on 1 compact source' in str(w.message)]
    assert len(told) == 1
    assert told[0].filename == __file__
    # One star shows the width, if not whether it is a star.
    psf_record = found.meta['estimated']['psf']
    assert psf_record['fwhm'] == pytest.approx(psf.fwhm, rel=0.05)
    assert psf_record['n_stars'] == 1
    assert found.exposure.psf_error > 0.09
    assert len(found) >= 1


def test_no_star_for_a_psf(encoder, rng):
    image = rng.normal(size=(80, 80)) * 30 + 900
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter('always')
        found = detect_sources(image, encoder=encoder)
    told = [w for w in record if 'no compact source' in str(w.message)]
    assert len(told) == 1
    assert told[0].filename == __file__
    assert found.exposure.psf_error == 0.15
    assert found.meta['estimated']['psf']['source'].startswith('assumed')


@pytest.mark.parametrize(('factor', 'word'), [(1.1, 'narrower'), (1 / 1.3, 'broader')])
def test_a_wrong_psf_is_reported(scene, encoder, factor, word):
    exposure = scene[0]
    shape = exposure.psf.shape_vector
    shape[[0, 1, 3]] *= factor
    wrong = exposure.replace(psf=PSFModel.from_shape(shape))
    # The check of the catalogue may complain of what this PSF leaves.
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter('always')
        found = detect_sources(wrong, density=0.002, encoder=encoder)
    assert sum(f'{word} than the stated psf' in str(w.message) for w in record) == 1
    numbers = found.meta['psf_comparison']
    assert numbers['ratio'] == pytest.approx(1 / factor, rel=0.03)
    # The error goes with it, as far as the encoder knows any.
    assert numbers['psf_error'] == found.exposure.psf_error
    assert found.exposure.psf_error == Domain.of(encoder).psf_error
    assert exposure.psf_error == 0.01


@pytest.mark.parametrize('most', [0.15, 0.05])
def test_the_error_of_a_psf_that_stars_contradict(scene, most):
    exposure = scene[0]
    shape = exposure.psf.shape_vector
    shape[[0, 1, 3]] *= 1.1
    wrong = exposure.replace(psf=PSFModel.from_shape(shape))
    known, messages, numbers = psf_findings(wrong, measured=False, most=most)
    assert len(messages) == 1
    assert known.psf_error == pytest.approx(min(np.log(1.1), most), abs=0.02)
    assert numbers['psf_error'] == known.psf_error
    # One that is stated as uncertain as that stays.
    vague = wrong.replace(psf_error=0.14)
    assert psf_findings(vague, measured=False, most=most)[0] is vague
    # Where the noise hides the stars, nobody knows.
    noise = 120 * np.median(exposure.bkg_error)
    rng = np.random.default_rng(1)
    faint = wrong.replace(
        data=exposure.data + noise * rng.normal(size=exposure.shape),
        bkg_error=np.hypot(exposure.bkg_error, noise),
    )
    faint, messages, _ = psf_findings(faint, measured=False, most=most)
    assert messages == []
    assert faint.psf_error == 0.01
    # Nor do a few whose widths are uncertain.
    assert _finding(np.log(0.9), 0.05, 0.0, 4, 3.6) == ''
    assert 'narrower' in _finding(np.log(0.9), 0.01, 0.0, 4, 3.6)


def test_stars_that_cannot_be_measured(encoder, rng):
    # Blinking pixels are no stars: the fit fails or is refused, nothing aborts.
    image = rng.normal(size=(120, 120)) * 30 + 900
    image[20:110:15, 20:110:15] += 3000
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', AstropyUserWarning)
        # None of them is taken for a star either; those and no others are masked.
        warnings.simplefilter('ignore', NoDetectionsWarning)
        found = detect_sources(image, encoder=encoder)
    assert np.array_equal(found.exposure.mask, image > 2000)
    assert 'psf' in found.meta['estimated']
