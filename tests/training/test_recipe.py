# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Recipes: what images are like, who covers them, and settings that do.
"""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from bliss_astro import CoaddSimulator, EncoderInputs, PSFModel
from bliss_astro.detection._domain import domain_findings
from bliss_astro.encoders import Domain, Encoder
from bliss_astro.encoders._config import mean_interpolation
from bliss_astro.priors import CatalogPrior, FieldPrior, SeeingPrior, StarPrior
from bliss_astro.psf._mixture import fwhm_of_shape
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.training import (
    load_config,
    make_recipe,
    train_encoder,
)
from bliss_astro.training._domain import domain_of_simulation
from bliss_astro.training._facts import ImageFacts, dither_of, stack_facts
from bliss_astro.training._plan import choose_settings


def _scaled(factor):
    shape = PSFModel().shape_vector.copy()
    shape[[0, 1, 3]] *= factor
    return PSFModel.from_shape(shape)


@functools.cache
def _field(n_exposures=1, *, factor=1.0, background=865.0, seed=1, density=0.002):
    floor = 4 * math.sqrt(background * PSFModel().n_eff / n_exposures) * factor
    prior = StarPrior(density, floor, 1000 * floor)
    simulator = CoaddSimulator(
        n_exposures,
        prior,
        psf=_scaled(factor),
        background=background,
        shape=(128, 128),
        margin=0,
    )
    return simulator.sample(rng=seed)[0]


def _facts(**changes):
    """Facts of an exposure like those that the bundled encoder is for."""
    known = {
        'name': 'made up',
        'psf_shapes': PSFModel().shape_vector[None],
        'fwhm': (3.6, 3.6),
        'psf_area': (37.9, 37.9),
        'noise': (30.0, 30.0),
        'one_exposure_variance': (900.0, 900.0),
        'effective_gain': 1.0,
        'correlation': (0.0, 0.0),
        'excess': 1.0,
        'n_exposures': None,
        'density': (0.001, 0.002),
        'description': '',
        'sources': {},
    }
    known |= changes
    return ImageFacts(**known)


def _coadd_facts(correlation, depth, **changes):
    """Facts of a coadd of such exposures whose noise correlates."""
    _, kept = mean_interpolation(dither_of(correlation))
    noise = 30.0 * math.sqrt(depth) / kept
    return _facts(
        noise=(noise, noise),
        correlation=(correlation, correlation),
        n_exposures=(depth, depth),
        **{'excess': (1 + 2 * correlation) ** 2} | changes,
    )


@pytest.fixture(scope='module')
def foreign():
    """
    The recipe for two exposures of a bright sky with narrow PSFs.
    """
    images = [
        _field(factor=0.42, background=60_000.0),
        _field(factor=0.46, background=90_000.0, seed=2),
    ]
    return make_recipe(images)


def _is_covered(recipe):
    domain = domain_of_simulation(recipe.configs[1])
    return not any(domain_findings(domain, f.for_domain()) for f in recipe.facts)


def _tiny(recipe, **changes):
    """The same recipe for a training of two small batches."""
    encoder, simulation, training = recipe.configs
    few = {'n_steps': 2, 'batch_size': 4, 'n_validation': 4, 'validate_every': 2}
    training = dataclasses.replace(training, **few | changes)
    return dataclasses.replace(recipe, configs=(encoder, simulation, training))


class TestForeignImages:
    def test_those_for_any_telescope_cover_them(self, foreign):
        assert foreign.covered_by == ['stars-galaxies', 'stars-galaxies-sequence']
        text = '; '.join(foreign.coverage['stars'])
        assert 'image 1: PSF FWHM about' in text
        assert 'image 2: PSF FWHM about' in text
        # Up to 381 electrons are none too many for it.
        assert text.count('noise of the sky') == 0

    def test_ranges_hold_the_truth_by_the_stated_margins(self, foreign):
        _, simulation, _ = foreign.configs
        assert simulation.n_exposures == (1, 1)
        low, high = simulation.background
        # The noise is that stated by the exposures, and rounded outwards.
        assert low == pytest.approx(60_000 / 2, rel=0.01)
        assert low <= 60_000 / 2
        assert high == pytest.approx(90_000 * 2, rel=0.01)
        assert high >= 90_000 * 2
        widths = [_scaled(0.42).fwhm / 1.15, _scaled(0.46).fwhm * 1.15]
        np.testing.assert_allclose(simulation.fwhm, widths, rtol=0.01)
        assert simulation.density[0] < 0.002 < simulation.density[1]
        # Stars must not drown in saturation where the sky is brighter.
        assert simulation.saturation[0] > 10 * simulation.background[1]

    def test_its_own_domain_covers_them(self, foreign):
        assert _is_covered(foreign)

    def test_the_file_is_what_train_reads(self, foreign, tmp_path):
        path = tmp_path / 'mine.toml'
        foreign.write(path)
        assert load_config(path) == foreign.configs
        text = ' '.join(path.read_text().replace('#', ' ').split())
        assert 'widened by 2 both ways' in text
        assert 'Training time: not measured.' in text
        with pytest.raises(FileExistsError):
            foreign.write(path)
        foreign.write(path, overwrite=True)

    def test_priors_stand_in_the_file(self, foreign, tmp_path):
        encoder, simulation, training = foreign.configs
        priors = {
            'catalog_prior': CatalogPrior.sky().to_dict(),
            'field_prior': FieldPrior().to_dict(),
        }
        configs = (encoder, dataclasses.replace(simulation, **priors), training)
        dataclasses.replace(foreign, configs=configs).write(tmp_path / 'mine.toml')
        assert load_config(tmp_path / 'mine.toml') == configs

    def test_it_trains(self, foreign, tmp_path):
        path = tmp_path / 'mine.toml'
        _tiny(foreign).write(path)
        encoder = train_encoder(path, tmp_path / 'mine')
        assert encoder.card['training']['steps_done'] == 2
        assert encoder.card['training']['steps_skipped'] == 0
        assert math.isfinite(encoder.card['validation_loss'])
        assert encoder.config == foreign.configs[0]
        # Its card says that it is for such images.
        domain = Domain.of(encoder)
        assert all(not domain_findings(domain, f.for_domain()) for f in foreign.facts)

    def test_time_is_that_of_the_steps(self, foreign):
        small = _tiny(foreign, n_steps=1000, validate_every=100).timed(seconds=0.0)
        time = small.time
        assert time['n_timed'] == 4
        assert time['step_seconds'] > 0
        expected = 1000 * time['step_seconds'] + 10 * time['validation_seconds']
        assert time['seconds'] == pytest.approx(expected)
        text = small.toml.replace('#', '')
        assert 'from 4 steps of' in ' '.join(text.split())

    def test_the_table_tells_every_encoder(self, foreign):
        table = foreign.table()
        assert table.colnames[:2] == ['fact', 'images']
        assert {'stars', 'stars-crowded', 'recipe'} < set(table.colnames)
        assert len(table) == 6


class TestCoadds:
    def test_depth_and_sky_of_an_exposure(self):
        recipe = make_recipe(_field(10))
        assert 'stars' in recipe.covered_by
        _, simulation, _ = recipe.configs
        assert simulation.n_exposures == (7, 14)
        # From the noise, correlation and depth of the coadd: 865 electrons. The
        # correlation of ten dithers scatters by 0.03, and the noise with it.
        middle = math.sqrt(np.prod(simulation.background))
        assert middle == pytest.approx(865.0, rel=0.1)
        width = math.sqrt(np.prod(simulation.fwhm))
        assert width == pytest.approx(PSFModel().fwhm, rel=0.02)
        assert _is_covered(recipe)

    def test_depth_can_be_given_or_assumed(self):
        coadd = _field(10).replace(meta={})
        assert make_recipe(coadd, n_exposures=20).configs[1].n_exposures == (14, 28)
        assumed = make_recipe(coadd)
        assert assumed.configs[1].n_exposures == (5, 12)
        assert '8 assumed' in assumed.reasons['n_exposures']
        assert _is_covered(assumed)

    def test_a_deep_coadd_without_correlation_is_one_exposure(self):
        facts = _facts(noise=(300.0, 300.0), one_exposure_variance=(9e4, 9e4))
        facts = dataclasses.replace(facts, n_exposures=(100, 100))
        simulation = _settings(facts)[0][1]
        assert simulation.n_exposures == (1, 1)
        assert simulation.background == (45_000.0, 180_000.0)

    def test_prediction_for_a_stack(self):
        exposures = [_field(seed=k) for k in range(1, 7)]
        recipe = make_recipe(exposures, stack=True)
        (facts,) = recipe.facts
        # Of six random dithers, coadds differ in noise by some per cent: the
        # mean of 12 of them agrees to one.
        coadds = [_field(6, seed=k) for k in range(12)]
        noise = np.mean([c.bkg_error * c.effective_gain for c in coadds])
        assert facts.noise[0] == pytest.approx(noise, rel=0.03)
        area = np.mean([c.psf_at(0, 0).n_eff for c in coadds])
        assert facts.psf_area[0] == pytest.approx(area, rel=0.02)
        gain = np.mean([c.effective_gain for c in coadds])
        assert facts.effective_gain == pytest.approx(gain, rel=0.05)
        assert recipe.configs[1].n_exposures == (4, 9)
        assert _is_covered(recipe)

    def test_a_stack_needs_two(self):
        with pytest.raises(ValueError, match='stack needs two images or more, got 1'):
            make_recipe(_field(), stack=True)

    def test_fainter_sources_come_in(self):
        stacked = stack_facts([_facts()] * 16)
        # Noise a quarter, fluxes with an index of 0.47.
        assert stacked.density[1] == pytest.approx(0.002 * 4**0.47)


STARS = Encoder.from_pretrained('stars')


def _settings(*facts):
    """Configurations, reasons and limits."""
    return choose_settings(facts, STARS)


class TestWhatIsNotSimulated:
    def test_correlation_sets_the_dithers(self):
        configs, _, limits = _settings(_coadd_facts(0.13, 30))
        low, high = configs[1].dither
        assert low < 0.25 < high
        assert dither_of(0.07) == pytest.approx(low, abs=0.011)
        assert not limits

    def test_correlation_that_dithers_cannot_give(self):
        cases = {
            (0.45, 30): 'by 0.45; dithers and bilinear alignment give 0.3',
            (0.7, 2): 'by 0.70; dithers and bilinear alignment give 0.5',
            (-0.1, 5): 'negative correlations are not simulated',
        }
        *_, limits = _settings(
            *(_coadd_facts(*case, name=f'{case}') for case in cases),
            _coadd_facts(0.25, 9, excess=4.0, name='far'),
        )
        for case, words in cases.items():
            assert any(words in limit for limit in limits if f'{case}' in limit)
        (far,) = (limit for limit in limits if limit.startswith('far'))
        assert 'further away than the next' in far

    def test_wings(self):
        configs, _, limits = _settings(_facts(psf_area=(90.0, 90.0)))
        assert any('wings' in limit for limit in limits)
        domain = domain_of_simulation(configs[1])
        assert domain.psf_area[0] < 90 < domain.psf_area[1]

    def test_crowding_asks_for_more_sources_a_tile(self):
        (usual, _, training), *_ = _settings(_facts())
        assert usual == STARS.config
        assert training.start_from == 'stars'
        n_steps = training.n_steps
        (crowded, _, training), _, limits = _settings(_facts(density=(0.001, 0.02)))
        # 0.06 x 16 = 0.96 a tile: 7 % of tiles hold more than 2, 1.7 % than 3.
        assert crowded.n_most == 3
        # From scratch takes four times the steps of fine-tuning.
        assert training.start_from is None
        assert training.n_steps == pytest.approx(4 * n_steps, abs=2)
        assert not limits
        *_, limits = _settings(_facts(density=(0.001, 0.1)))
        assert any('of the tiles hold more' in limit for limit in limits)

    def test_a_very_broad_psf_should_be_binned(self):
        factor = 12 / 3.6
        facts = _facts(fwhm=(12.0, 12.0), psf_area=(37.9 * factor**2,) * 2)
        configs, _, limits = _settings(facts)
        assert any('binning the images 3 x 3' in limit for limit in limits)
        assert configs[1].shape == (112, 112)


class TestSettingsOfTheStream:
    def test_defaults_draw_the_seeing_of_sdss(self, generator):
        state = generator.get_state()
        drawn = SimulationConfig().sample_psf(16, generator=generator)
        after = generator.get_state()
        generator.set_state(state)
        assert torch.equal(drawn, SeeingPrior().sample_batch(16, generator=generator))
        assert torch.equal(after, generator.get_state())

    def test_fwhm_and_ellipticity(self, generator):
        config = SimulationConfig(fwhm=(5.0, 8.0), ellipticity=0.1)
        shape = config.sample_psf(4000, generator=generator)
        width = fwhm_of_shape(shape)
        assert width.min() >= 4.999
        assert width.max() <= 8.001
        # Log-uniform: the median is the geometric mean, to 1 % of 4000 draws.
        assert float(width.median()) == pytest.approx(math.sqrt(40), rel=0.02)
        # Truncated at 1.2 standard deviations, a normal has 0.66 of them left
        # if what lies beyond is put on the bounds: 0.078.
        assert float(shape[:, 6].std()) == pytest.approx(0.078, rel=0.05)

    @pytest.mark.parametrize('dither', [0.1, 0.25, 0.75])
    def test_dither_sets_the_correlation(self, dither, generator):
        config = SimulationConfig(
            n_exposures=(30, 30),
            dither=(dither, dither),
            shape=(32, 32),
            density=(1e-4, 1e-4),
        )
        drawn = SimulationStream(config).sample_batch(16, generator=generator)
        inputs = EncoderInputs.from_batch(drawn)
        kernel, kept = mean_interpolation(dither)
        # 32 correlations, each of 30 dithers, scatter by 0.03 or less.
        assert float(inputs.correlation.mean()) == pytest.approx(
            kernel / kept, abs=0.02
        )

    @pytest.mark.parametrize(
        ('setting', 'words'),
        [
            ({'fwhm': (3.0, 2.0)}, 'fwhm must be an increasing pair of'),
            ({'saturation': (0.0, 2.0)}, 'saturation must be an increasing pair'),
            ({'dither': (0.5, 1.5)}, 'dither must be an increasing pair from 0 to 1'),
            ({'ellipticity': 0.3}, 'ellipticity must be from 0 to 0.12'),
        ],
    )
    def test_bad_settings(self, setting, words):
        with pytest.raises(ValueError, match=words):
            SimulationConfig(**setting)


class TestDomains:
    def test_an_encoder_for_deep_coadds_is_none_for_exposures(self):
        simulation = {'n_exposures': (25, 25), 'background': (865.0, 865.0)}
        deep = domain_of_simulation(SimulationConfig(**simulation))
        noise = 1.5 * math.sqrt(865 * 25)
        assert deep.noise[0] < noise < deep.noise[1]
        assert deep.noise[0] > math.sqrt(865)

    def test_findings_do_not_warn(self, recwarn):
        facts = _facts(noise=(1e4, 1e4), psf_area=(3.0, 3.0)).for_domain()
        domain = domain_of_simulation(SimulationConfig())
        found = domain_findings(domain, facts)
        assert [f.name for f in found] == ['psf_area', 'noise']
        assert 'rows concerned are flagged' in found[0].message('x')
        assert not recwarn.list


class TestBadInput:
    def test_no_psf_and_no_stars(self, rng):
        image = rng.normal(1000.0, 20.0, (128, 128))
        with pytest.raises(
            ValueError, match='image 1: the image has no PSF and too few'
        ):
            make_recipe(image)

    def test_no_image(self):
        with pytest.raises(ValueError, match='n_exposures must be at least 1'):
            make_recipe([], n_exposures=0)
        with pytest.raises(ValueError, match='images must hold at least one image'):
            make_recipe([])

    def test_of_another_kind(self):
        with pytest.raises(FileNotFoundError, match='there is no file'):
            make_recipe('image.fits')

    def test_images_are_left_alone(self):
        exposure = _field()
        before, meta = exposure.data.copy(), dict(exposure.meta)
        assert not make_recipe(exposure).facts[0].remarks
        np.testing.assert_array_equal(exposure.data, before)
        assert exposure.meta == meta

    def test_a_noise_that_is_not_as_stated(self):
        exposure = _field()
        wrong = exposure.replace(bkg_error=2 * exposure.bkg_error)
        (facts,) = make_recipe(wrong).facts
        assert any('0.5' in remark and 'stated' in remark for remark in facts.remarks)


# -- several bands -------------------------------------------------------------------


@pytest.fixture(scope='module')
def in_bands():
    """
    Two scenes in r, g and i.
    """
    simulator = CoaddSimulator(1, CatalogPrior.sky(), bands='rgi', shape=(96, 96))
    return [simulator.sample(rng=seed)[0] for seed in (6, 7)]


def test_bands(in_bands, tmp_path):
    recipe = make_recipe(in_bands)
    names = [f'image {k}, {band}' for k in (1, 2) for band in 'rgi']
    assert [facts.name for facts in recipe.facts] == names
    assert [facts.band for facts in recipe.facts] == list('rgi') * 2
    # Each band is measured as one image is.
    alone = make_recipe(in_bands[0]['g']).facts[0]
    assert recipe.facts[1].fwhm == alone.fwhm
    assert recipe.facts[1].density == alone.density
    encoder, simulation, training = recipe.configs
    assert encoder.bands
    assert simulation.bands == ('r', 'g', 'i')
    assert training.start_from == 'stars'
    low, high = simulation.fwhm
    assert all(low < facts.fwhm[0] < high for facts in recipe.facts)
    assert 'bands r, g, i, it sees one band' in recipe.coverage['stars']
    assert 'stars' not in recipe.covered_by
    assert any('bands of one scene' in limit for limit in recipe.limits)
    recipe.write(tmp_path / 'bands.toml')
    assert load_config(tmp_path / 'bands.toml')[:2] == (encoder, simulation)


def test_training_in_bands(in_bands, tmp_path):
    encoder, simulation, training = make_recipe(in_bands[0], n_steps=2).configs
    training = dataclasses.replace(training, batch_size=4, n_validation=4)
    trained = train_encoder((encoder, simulation, training), tmp_path / 'run')
    assert trained.config.bands
    posterior = trained.infer(in_bands[0])
    assert posterior.meta['bands'] == ['r', 'g', 'i']


def test_stacks_of_bands(in_bands):
    recipe = make_recipe(in_bands, stack=True)
    names = [f'coadd of 2 exposures, {band}' for band in 'rgi']
    assert [facts.name for facts in recipe.facts] == names
    with pytest.raises(ValueError, match='stack needs two images or more, got 1'):
        make_recipe([in_bands[0], {'r': in_bands[1]['r']}], stack=True)


def test_one_band_by_name(in_bands):
    one = make_recipe({'r': in_bands[0]['r'], 'g': None}, names=[{'r': 'a.fits'}])
    assert one.facts[0].name == 'a.fits'
    assert not one.configs[0].bands
    assert one.configs[1].bands == ()
    assert one.covered_by == make_recipe(in_bands[0]['r']).covered_by
