# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the encoders that follow detection, and of what they are shown.
"""

import dataclasses

import pytest
import torch

from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.posteriors import (
    _candidates,
    _scene_fit,
    find_sources,
)
from bliss_astro.posteriors._extended_fit import (
    Ellipses,
    ellipse_features,
    fit_ellipses,
    model_of,
)
from bliss_astro.posteriors._loss import npe_loss, sequence_loss
from bliss_astro.posteriors._scene_fit import _Canvas, cleaned, split_scenes
from bliss_astro.posteriors._source_sequence import SourceSequence
from bliss_astro.simulation import SimulationConfig, SimulationStream

SMALL = EncoderConfig(
    width=16,
    n_blocks=1,
    stem_width=8,
    head_width=16,
    galaxies=True,
    shapes=True,
    sequence=True,
)
SCENES = SimulationConfig(
    population='npe',
    n_exposures=(1, 1),
    shape=(48, 48),
    cluster_fraction=1.0,
    cluster_radius=(9.0, 12.0),
    cluster_crowding=(12.0, 20.0),
    bad_pixels=False,
)


@pytest.fixture(scope='module')
def world():
    torch.manual_seed(3)
    encoder = Encoder(SMALL)
    stream = SimulationStream(SCENES)
    scenes = stream.sample_batch(24, generator=torch.Generator().manual_seed(2))
    return encoder, *training_pair(scenes), scenes


@pytest.fixture(scope='module')
def scene(world):
    encoder, inputs, catalog, _ = world
    sequence = encoder(inputs).sequence
    sources, where = sequence.sources_of(catalog)
    return sequence, sources, where


@pytest.fixture(scope='module')
def few(world):
    """
    Give the first scene and its truth: untrained, every tile is a candidate.
    """
    _, inputs, catalog, _ = world
    first = {name: value[:1] for name, value in vars(catalog).items()}
    return inputs.select(slice(0, 1)), dataclasses.replace(catalog, **first)


class TestSceneFit:
    @torch.no_grad()
    def test_neighbours_are_taken_off(self, world, scene):
        """
        In the cleaned stamp of a star its flux is what it is, in the raw one not.
        """
        _, _, catalog, _ = world
        sequence, sources, where = scene
        star = catalog.galaxy[where] == 0
        told = dataclasses.replace(sources, point=star)
        fit = sequence.fit(told)
        index = torch.arange(len(sources))
        seen = sequence.see(fit, told, index)
        bright = star & (catalog.log_flux[where] > 1)
        assert int(bright.sum()) > 20
        off = (seen['log_flux'] - catalog.log_flux[where])[bright]
        raw = sequence.pixels.patches(sources.tiles, sources.x, sources.y, 6)
        unit = raw.profile(sources.x, sources.y)
        flux = (unit * raw.data).sum((1, 2, 3)) / (unit**2).sum((1, 2, 3))
        floor = sequence.log_floor(sources)
        naive = torch.log(flux.clamp(min=1e-3)) - floor - catalog.log_flux[where]
        assert float(off.abs().median()) < 0.15
        off, naive = off.abs(), naive[bright].abs()
        # Those that have close neighbours make the upper quartile.
        assert float(off.quantile(0.75)) < 0.6 * float(naive.quantile(0.75))

    @torch.no_grad()
    def test_scene_is_data_less_residual(self, scene):
        """
        A cleaned stamp and what was taken off make up the image again.
        """
        sequence, sources, _ = scene
        fit = sequence.fit(sources)
        index = torch.arange(len(sources))
        patches, others, _ = cleaned(sequence.pixels, fit, sources, index)
        raw = sequence.pixels.patches(sources.tiles, sources.x, sources.y, 12)
        torch.testing.assert_close(
            (patches.data + others) * raw.good,
            raw.data * raw.good,
            atol=2e-3,
            rtol=1e-3,
        )

    @torch.no_grad()
    def test_inactive_sources_do_not_matter_to_others(self, scene):
        sequence, sources, _ = scene
        n = len(sources)
        # The same list, and once more with ghosts that are not part of the scene.
        ghosts = sources.select(torch.arange(n).repeat(2))
        ghosts.x = ghosts.x + torch.arange(2 * n) // n * 1.5
        ghosts.active = torch.arange(2 * n) < n
        one = sequence.fit(sources).ellipses.flux
        other = sequence.fit(ghosts).ellipses.flux[:n]
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)

    @torch.no_grad()
    def test_groups_are_fitted_apart(self, scene, monkeypatch):
        sequence, sources, _ = scene
        few = sources.select(torch.arange(0, len(sources), 2))
        together = sequence.fit(few).ellipses
        monkeypatch.setattr(_scene_fit, '_GROUP', 6)
        groups = split_scenes(sequence.pixels, few)
        assert len(groups) > 4
        assert torch.equal(torch.cat(groups).sort().values, torch.arange(len(few)))
        group = torch.cat([torch.full_like(k, n) for n, k in enumerate(groups)])
        group = group[torch.cat(groups).argsort()]
        same = few.scenes[:, None] == few.scenes
        for place in (few.x, few.y):
            place = place.round()
            same &= (place[:, None] - place).abs() < 25
        assert (same.sum(1) > 1).any()
        assert (group[:, None] == group)[same].all()
        apart = sequence.start(few)
        for name in ('flux', 'log_blur', 'e1'):
            one, other = (getattr(part, name) for part in (together, apart))
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_pixels_of_stamps_are_those_of_scenes(scene):
    """
    Stamps that overlap share pixels, in one scene alone, near borders too.
    """
    sequence, sources, _ = scene
    pixels, n = sequence.pixels, len(sources)
    twice = sources.select(torch.arange(n).repeat(2))
    twice.scenes = torch.cat([sources.images, sources.images + len(pixels.image)])
    canvas = _Canvas.of(pixels, twice)
    ny, nx = pixels.image.shape[2:]
    cx, cy = (v + pixels.pad for v in pixels.centres(twice.x, twice.y, 12))
    step = torch.arange(-12, 13)
    rows = (twice.scenes * ny + cy)[:, None] + step
    place = rows[..., None] * nx + (cx[:, None] + step)[:, None]
    # Either number tells pixels apart as the other one does.
    pairs = torch.stack([place.flatten(), canvas.index(slice(None)).flatten()])
    n_pixels = len(place.unique())
    assert len(pairs.unique(dim=1)[0]) == n_pixels == len(pairs[1].unique())
    assert 0 <= pairs[1].min() < pairs[1].max() < canvas.n_pixels
    assert canvas.n_pixels <= 4 * 25**2 * 2 * n


@torch.no_grad()
def test_ellipse_fit_finds_what_was_drawn(scene):
    """
    Without noise the blurred and stretched PSF is found exactly.
    """
    sequence, sources, _ = scene
    some = sources.select(torch.arange(20))
    generator = torch.Generator().manual_seed(1)
    patches = sequence.pixels.patches(some.tiles, some.x, some.y, 9)
    patches.good = torch.ones_like(patches.good)
    e = 1.1 * torch.rand(2, 20, generator=generator) - 0.55
    blur = 2 * torch.rand(20, generator=generator)
    truth = Ellipses(torch.full((20, 1), 3e4), blur, *e)
    patches.data = 3e4 * model_of(patches, truth, some.x, some.y)
    start = Ellipses.round(torch.full((20, 1), 2e4))
    floor = torch.full((20,), 100.0)
    found = fit_ellipses(patches, start, some.x, some.y, floor, n_iterations=12)
    fit, _ = found
    # Up to the weak priors.
    torch.testing.assert_close(fit.flux, truth.flux, rtol=2e-3, atol=0)
    torch.testing.assert_close(fit.e1, truth.e1, rtol=0, atol=3e-3)
    torch.testing.assert_close(fit.e2, truth.e2, rtol=0, atol=3e-3)
    torch.testing.assert_close(fit.log_blur, truth.log_blur, rtol=0, atol=2e-2)
    seen = ellipse_features(found, floor)
    assert torch.isfinite(seen['ellipse']).all()
    log_flux = torch.full((20,), 300.0).log()
    torch.testing.assert_close(seen['ellipse_flux'], log_flux, atol=3e-3, rtol=0)


class TestDensity:
    def test_sum_of_its_parts(self, world, few):
        encoder, (inputs, catalog) = world[0], few
        posterior = encoder(inputs)
        parts = posterior.log_prob_terms(catalog)
        terms = sum(parts[n] for n in ('position', 'type', 'flux', 'shape'))
        expected = parts['count'].index_add(0, parts['image'], terms)
        torch.testing.assert_close(posterior.log_prob(catalog), expected)
        # Types and fluxes are those of the second stage, not of the first.
        first = posterior.log_prob_terms(catalog, one_pass=True)
        assert torch.equal(first['position'], parts['position'])
        assert not torch.equal(first['flux'], parts['flux'])

    def test_losses_train_their_own_layers(self, world, few):
        encoder, (inputs, catalog) = world[0], few
        encoder.zero_grad()
        sequence_loss(encoder(inputs).sequence, catalog)[0].backward()
        touched = {n for n, p in encoder.named_parameters() if p.grad is not None}
        assert touched
        assert all(name.startswith('sources.') for name in touched)
        encoder.zero_grad()
        npe_loss(encoder(inputs), catalog)[0].backward()
        touched = {n for n, p in encoder.named_parameters() if p.grad is not None}
        assert touched
        assert not any(name.startswith('sources.') for name in touched)
        encoder.zero_grad()

    def test_measurements_may_be_known_before_the_weights(self, world, few):
        encoder, (inputs, catalog) = world[0], few
        own = encoder(inputs)
        unknown = torch.full_like(own.features, torch.nan)
        before = encoder.posterior(unknown, encoder.mask_inputs(inputs))
        measured = before.sequence.measure(catalog)
        loss, terms = sequence_loss(own.sequence, catalog)
        same, others = sequence_loss(own.sequence, catalog, measured)
        assert torch.equal(loss, same)
        assert terms.keys() == others.keys()

    def test_only_stamps_of_galaxies_have_shapes(self, world):
        encoder, inputs, catalog, _ = world
        design = encoder.with_design(sequence=True, shapes_only=True)
        ours = encoder(inputs).sequence.log_prob(catalog)
        sequence = design(inputs).sequence
        measured = sequence.measure(catalog)
        shapes = sequence.log_prob(catalog, measured)
        n_galaxies = int(catalog.galaxy.sum())
        assert 0 < n_galaxies < int(catalog.count.sum()) == len(shapes['shape'])
        assert len(measured[-1][0]['stamps']) == n_galaxies
        assert set(shapes) == {'shape', 'ellipticity'}
        for name, value in shapes.items():
            torch.testing.assert_close(value, ours[name], rtol=1e-4, atol=1e-4)
        # No galaxy at all.
        stars = dataclasses.replace(catalog, galaxy=torch.zeros_like(catalog.galaxy))
        loss, _ = sequence_loss(design.requires_grad_()(inputs).sequence, stars)
        loss.backward()
        assert loss == 0

    def test_shapes_of_stars_do_not_count(self, world, few):
        encoder, (inputs, catalog) = world[0], few
        posterior = encoder(inputs)
        shape = torch.where(catalog.galaxy[..., None] > 0, catalog.shape, 0.3)
        other = dataclasses.replace(catalog, shape=shape)
        assert torch.equal(posterior.log_prob(catalog), posterior.log_prob(other))
        moved = dataclasses.replace(catalog, shape=catalog.shape * 1.1)
        assert not torch.equal(posterior.log_prob(catalog), posterior.log_prob(moved))


class TestDraws:
    def test_order_shapes_and_types(self, world, few):
        encoder = world[0]
        drawn, same = (
            encoder(few[0]).sample(generator=torch.Generator().manual_seed(5))
            for _ in range(2)
        )
        for field in dataclasses.fields(drawn):
            assert torch.equal(getattr(drawn, field.name), getattr(same, field.name))
        place = torch.arange(drawn.x.shape[-1])
        used = place < drawn.count[..., None]
        assert int(used.sum()) > 0
        flux = torch.where(used, drawn.log_flux, -torch.inf)
        assert (flux[..., 0] >= flux[..., 1]).all()
        galaxy = drawn.galaxy > 0
        assert not (galaxy & ~used).any()
        assert (drawn.shape[galaxy & used][:, 4:] > 0).all()
        assert (drawn.shape[~galaxy] == 0).all()


class TestMarginals:
    def test_shapes_of_all_sources(self, world, few):
        encoder = world[0]
        for sequence in (True, False):
            own = encoder
            if not sequence:
                own = Encoder(dataclasses.replace(SMALL, sequence=False))
                own.load_state_dict(encoder.state_dict(), strict=False)
            sources = find_sources(own(few[0]))
            n = len(sources)
            assert n > 0
            assert sources.shapes.shape == (n, 64, 6)
            assert sources.ellipticity.shape == (n, 64, 2)
            assert (sources.ellipticity.norm(dim=-1) < 1 + 1e-5).all()
            assert ((sources.galaxy >= 0) & (sources.galaxy <= 1)).all()
            assert len(sources.select(torch.arange(2)).shapes) == 2

    def test_most_sources_in_sequence(self, world, few, monkeypatch):
        """
        Beyond a number the fainter ones keep the description of the one pass.
        """
        monkeypatch.setattr(_candidates, '_MAX_IN_SEQUENCE', (3, 0.0))
        designs = [world[0].with_design(sequence=k) for k in (True, False)]
        with torch.no_grad():  # so that there are probable sources
            for own in designs:
                own.head.count.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
        found, plain = (find_sources(own(few[0])) for own in designs)
        assert len(found) == len(plain) > 10
        changed = (found.flux != plain.flux).flatten(1).any(1)
        assert int(changed.sum()) == 3
        assert found.shapes.isfinite().all()

    def test_nothing_there(self, world, few):
        encoder = world[0]
        with torch.no_grad():
            bias = encoder.head.count.bias.clone()
            encoder.head.count.bias.copy_(torch.tensor([40.0, 0.0, 0.0]))
            sources = find_sources(encoder(few[0]))
            encoder.head.count.bias.copy_(bias)
        assert len(sources) == 0
        assert sources.shapes.shape == (0, 64, 6)

    def test_stars_only_have_no_shapes(self, few):
        encoder = Encoder(EncoderConfig(width=16, n_blocks=1, stem_width=8))
        sources = find_sources(encoder(few[0]))
        assert sources.shapes is None
        assert sources.ellipticity is None


class TestShapesOnly:
    @pytest.fixture
    def both(self, world, few):
        design = world[0].with_design(sequence=True, shapes_only=True)
        return world[0], design, *few

    @torch.no_grad()
    def test_types_and_fluxes_are_those_of_the_one_pass(self, both):
        encoder, design, inputs, catalog = both
        whole = encoder(inputs).log_prob_terms(catalog)
        first = encoder(inputs).log_prob_terms(catalog, one_pass=True)
        parts = design(inputs).log_prob_terms(catalog)
        for name in ('count', 'position', 'type', 'flux'):
            torch.testing.assert_close(parts[name], first[name])
        for name in ('shape', 'ellipticity'):
            torch.testing.assert_close(parts[name], whole[name])
            assert not torch.equal(parts[name], first[name])

    def test_rows_likewise(self, both):
        encoder, design, inputs, _ = both
        plain = encoder.with_design(sequence=False)
        with torch.no_grad():  # so that there are probable sources
            for own in (plain, design):
                own.head.count.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
        one, other = find_sources(plain(inputs)), find_sources(design(inputs))
        for name in ('probability', 'flux', 'x'):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert not torch.equal(one.ellipticity, other.ellipticity)

    def test_draws_likewise(self, both):
        encoder, design, inputs, _ = both
        plain = encoder.with_design(sequence=False)
        one, other = (
            e(inputs).sample(generator=torch.Generator().manual_seed(2))
            for e in (plain, design)
        )
        for name in ('count', 'x', 'log_flux', 'galaxy'):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert not torch.equal(one.shape, other.shape)

    def test_what_is_not_there_cannot_be_had(self, both):
        _, design, _, _ = both
        with pytest.raises(ValueError, match='no weights for sequence=True'):
            design.with_design(sequence=True)

    @torch.no_grad()
    def test_scenes_of_draws_are_as_good(self, both, world, monkeypatch):
        """
        Begun at the fluxes, a crowded scene ends as near to its best fit.

        Stars' ellipses, which are not fitted then, do not matter to galaxies.
        """
        design, (inputs, catalog) = both[1], world[1:3]
        sequence = design(inputs).sequence
        sources, where = sequence.sources_of(catalog)
        flux = (catalog.log_flux[where] + sequence.log_floor(sources)).exp()
        index = (catalog.galaxy[where] > 0).nonzero()[:, 0]
        typed = dataclasses.replace(sources, point=catalog.galaxy[where] == 0)
        blind = sequence.start(sources)

        def features(start, **options):
            fit = sequence.fit(typed, start, **options)
            return sequence.see(fit, typed, index)['ellipse']

        old, same = (features(blind, star_shapes=k) for k in (True, False))
        torch.testing.assert_close(old, same, rtol=1e-3, atol=1e-3)
        new = features(Ellipses.round(flux[:, None]), star_shapes=False, n_rounds=3)
        best = features(blind, n_rounds=40)
        away = [(part - best).abs().max(-1).values for part in (old, new)]
        middle, worse = (torch.stack([v.quantile(q) for v in away]) for q in (0.5, 0.8))
        assert (middle < 0.15).all()
        assert worse[1] < 1.2 * worse[0]

    @torch.no_grad()
    def test_only_galaxies_are_looked_at(self, both, monkeypatch):
        design, inputs = both[1:3]
        seen, see = [], SourceSequence.see
        monkeypatch.setattr(
            SourceSequence, 'see', lambda *a: seen.append(len(a[-1])) or see(*a)
        )
        generator = torch.Generator().manual_seed(2)
        drawn = design(inputs).sample(n_draws=20, generator=generator)
        assert sum(seen) == int(drawn.galaxy.sum()) < int(drawn.count.sum())
        assert (drawn.shape[drawn.galaxy > 0] != 0).all()


def test_config_says_what_needs_what():
    with pytest.raises(ValueError, match='shapes needs galaxies'):
        EncoderConfig(shapes=True)
    with pytest.raises(ValueError, match='shapes_only needs sequence'):
        EncoderConfig(galaxies=True, shapes=True, shapes_only=True)
    with pytest.raises(ValueError, match='sequence needs shapes'):
        EncoderConfig(galaxies=True, sequence=True)
