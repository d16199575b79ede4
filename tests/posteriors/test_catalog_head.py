# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the posterior over stars and galaxies.
"""

import dataclasses
import math

import pytest
import torch

from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.posteriors import (
    TileCatalog,
    TileGrid,
    find_sources,
    npe_loss,
)
from bliss_astro.posteriors._factors import TypeFactor
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.training._encoder import start_from

SMALL = {'width': 16, 'n_blocks': 1, 'stem_width': 8, 'head_width': 24}


@pytest.fixture(scope='module')
def batch():
    config = SimulationConfig(n_exposures=(1, 1), shape=(32, 32), density=(0.01, 0.01))
    config = dataclasses.replace(config, confined_fraction=0.0)
    stream = SimulationStream(config)
    generator = torch.Generator().manual_seed(2)
    inputs, catalog = training_pair(stream.sample_batch(6, generator=generator))
    generator = torch.Generator().manual_seed(3)
    coin = torch.rand(catalog.x.shape, generator=generator) < 0.5
    place = torch.arange(catalog.x.shape[-1])
    catalog.galaxy = (coin & (place < catalog.count[..., None])).float()
    return inputs, catalog


@pytest.fixture(scope='module')
def encoder():
    torch.manual_seed(5)
    made = Encoder(EncoderConfig(galaxies=True, **SMALL)).eval()
    with torch.no_grad():  # opinions, so that nothing is even by chance
        for block in made.head.source:
            block['is_galaxy'].weight.mul_(40)
            block['galaxy_flux'].weight.mul_(10)
    return made.requires_grad_(False)


def test_type_factor_is_a_distribution():
    factor = TypeFactor(torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0]))
    both = torch.stack([factor.log_prob(torch.full((5,), v)) for v in (0.0, 1.0)])
    torch.testing.assert_close(both.exp().sum(0), torch.ones(5))
    torch.testing.assert_close(both.T, factor.log_probs)
    torch.testing.assert_close(factor.log_prob(torch.ones(5)).exp(), factor.probability)
    assert factor.mode().tolist() == [0, 0, 0, 1, 1]


def test_type_factor_draws_what_it_says():
    n = 20000
    factor = TypeFactor(torch.full((n,), 0.7))
    share = factor.sample(generator=torch.Generator().manual_seed(1)).mean()
    p = 1 / (1 + math.exp(-0.7))
    assert abs(float(share) - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_tile_catalog_keeps_types():
    x = torch.tensor([[1.0, 1.5, 6.0]])
    catalog = TileCatalog.from_sources(
        x,
        x,
        torch.tensor([[0.5, 2.0, 1.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        grid=TileGrid((8, 8)),
        galaxy=torch.tensor([[True, False, True]]),
    )
    # The brighter of the first tile, a star, comes first.
    assert catalog.galaxy[0, 0, 0].tolist() == [0, 1]
    assert catalog.galaxy[0, 1, 1].tolist() == [1, 0]


def test_log_prob_counts_types_and_their_fluxes(encoder, batch):
    inputs, catalog = batch
    posterior = encoder(inputs)
    parts = posterior.log_prob_terms(catalog)
    assert len(parts['type']) == int(catalog.count.sum())
    total = posterior.log_prob(catalog)
    terms = parts['position'] + parts['type'] + parts['flux']
    expected = parts['count'].index_add(0, parts['image'], terms)
    torch.testing.assert_close(total, expected)
    _, said = npe_loss(posterior, catalog)
    torch.testing.assert_close(said['type'], -parts['type'].sum() / len(posterior))
    # Another type has another probability, and another flux.
    other = dataclasses.replace(catalog, galaxy=1 - catalog.galaxy)
    changed = posterior.log_prob_terms(other)
    assert (changed['type'] != parts['type']).all()
    assert not torch.equal(changed['flux'], parts['flux'])


def test_mixture_over_types_is_the_sum_of_both(encoder, batch):
    inputs, catalog = batch
    posterior = encoder(inputs)
    tiles = (catalog.count > 0).nonzero(as_tuple=True)
    hidden = posterior.hidden_given(catalog)[tiles[0], :, tiles[1], tiles[2]]
    chain = posterior.source_chain(0, tiles, hidden, catalog.count[tiles], catalog)
    mixture = chain.flux(chain.start)
    kind = chain.type
    half = mixture.mean.shape[-1] // 2
    share = mixture.log_weights[:, half:].exp().sum(-1)
    torch.testing.assert_close(share, kind.probability)
    star, galaxy = chain.star_flux(chain.start), chain.galaxy_flux
    value = torch.linspace(0.1, 6, len(share))
    parts = [star.log_prob(value).exp(), galaxy.log_prob(value).exp()]
    expected = (1 - share) * parts[0] + share * parts[1]
    torch.testing.assert_close(mixture.log_prob(value).exp(), expected)
    # A density: it integrates to one.
    grid = torch.linspace(0, 12, 24001)
    density = mixture.log_prob(grid[:, None].expand(-1, len(share))).exp()
    total = torch.trapezoid(density, grid, dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=2e-2, rtol=0)


def test_draws_have_types(encoder, batch):
    inputs, _ = batch
    posterior = encoder(inputs)
    generator = torch.Generator().manual_seed(8)
    draws = [posterior.sample(generator=generator) for _ in range(4)]
    n_sources = sum(int(draw.count.sum()) for draw in draws)
    n_galaxies = sum(float(draw.galaxy.sum()) for draw in draws)
    assert 0 < n_galaxies < n_sources
    for draw in draws:
        place = torch.arange(draw.x.shape[-1])
        assert not draw.galaxy[place >= draw.count[..., None]].any()


def test_marginals_know_types(encoder, batch):
    inputs, _ = batch
    sources = find_sources(encoder(inputs))
    assert sources.typed
    galaxy = sources.galaxy
    assert ((galaxy >= 0) & (galaxy <= 1)).all()
    assert galaxy.std() > 0.01
    given = [
        sources.flux_given(torch.full_like(galaxy, k, dtype=torch.bool)) for k in (0, 1)
    ]
    value = sources.quantile_flux(0.5)
    both = torch.stack([factor.cdf(value) for factor in given])
    # The median of the mixture lies between those of its two parts.
    assert ((both.min(0).values < 0.52) & (both.max(0).values > 0.48)).all()
    some = sources.select(galaxy > galaxy.median())
    assert some.typed
    torch.testing.assert_close(some.galaxy, galaxy[galaxy > galaxy.median()])


def test_an_encoder_of_stars_starts_one_of_both():
    config = SimulationConfig(n_exposures=(1, 1), shape=(32, 32))
    drawn = SimulationStream(config).sample_batch(
        4, generator=torch.Generator().manual_seed(4)
    )
    inputs, catalog = training_pair(drawn)
    stars = Encoder.from_pretrained('stars')
    made = Encoder(EncoderConfig(galaxies=True)).eval()
    start_from(made, 'stars')
    # Features of PSFs are clipped to the range of the card.
    made.card = stars.card
    with torch.no_grad():
        first = stars(inputs).log_prob_terms(catalog)
        second = made(inputs).log_prob_terms(catalog)
    # All sources are stars: what it says of them but for the type is the same.
    for name in ('count', 'position', 'flux'):
        torch.testing.assert_close(first[name], second[name], atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize('what', ['image', 'image+background'])
def test_an_encoder_that_is_told_less_does_not_know(what, batch):
    inputs, _ = batch
    torch.manual_seed(1)
    made = Encoder(EncoderConfig(galaxies=True, conditioning=what, **SMALL)).eval()
    wider = dataclasses.replace(inputs, psf=inputs.psf * 1.3)
    other = encoder_output(made, wider)
    torch.testing.assert_close(encoder_output(made, inputs), other)
    # The same pixels in electrons under another stated noise.
    stated = dataclasses.replace(
        inputs,
        image=inputs.image / 2,
        log_noise=inputs.log_noise + math.log(2),
        log_flux_floor=inputs.log_flux_floor - math.log(2),
    )
    same = torch.allclose(
        encoder_output(made, inputs), encoder_output(made, stated), atol=1e-4
    )
    assert same == (what == 'image')


def encoder_output(encoder, inputs):
    with torch.no_grad():
        return encoder(inputs).features


def test_unknown_conditioning_is_refused():
    with pytest.raises(ValueError, match='conditioning must be'):
        EncoderConfig(conditioning='nothing')
