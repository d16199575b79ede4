# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the joint distribution: the sweep, its density, its draws.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.encoders import Encoder, EncoderConfig, EncoderInputs
from bliss_astro.posteriors import (
    TileCatalog,
    TileGrid,
    TilePosterior,
    _sweep,
    _tile_chain,
    npe_loss,
)
from bliss_astro.posteriors._factors import LOG_FLUX_CEILING, _truncated_cdf
from bliss_astro.posteriors._star_fit import fit_star


def neighbourhood(posterior, catalog, image, row, column):
    """
    Code and knowledge of the 3 x 3 tiles around one, gathered one by one.
    """
    code = posterior.head.encode_sources(catalog)
    colour = posterior.grid.colour()
    rows, columns = posterior.grid.shape
    near = torch.zeros(1, 9, code.shape[1])
    known = torch.zeros(1, 9)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            r, c = row + dr, column + dc
            if not (0 <= r < rows and 0 <= c < columns):
                continue
            if colour[r, c] < colour[row, column]:
                k = 3 * dr + dc + 4
                near[0, k], known[0, k] = code[image, :, r, c], 1
    return near, known


def one_by_one(posterior, catalog, image, row, column):
    """
    The logarithm of one tile's conditional density, from its factors.
    """
    head = posterior.head
    tiles = tuple(torch.tensor([v]) for v in (image, row, column))
    near, known = neighbourhood(posterior, catalog, image, row, column)
    hidden = posterior.hidden_at(tiles, near, known)
    count = catalog.count[tiles]
    total = head.count_factor(hidden).log_prob(count)[0]
    for place in range(int(count)):
        chain = posterior.source_chain(place, tiles, hidden, count, catalog)
        x, y = catalog.x[(*tiles, place)], catalog.y[(*tiles, place)]
        value = catalog.log_flux[(*tiles, place)]
        position = torch.stack([x, y], -1)
        flux = chain.star_flux(position)
        total += chain.position.log_prob(position)[0] + flux.log_prob(value)[0]
    return total


class TestDensity:
    @torch.no_grad()
    def test_is_the_product_of_the_conditionals(self, tiny):
        posterior, catalog = tiny.posterior, tiny.catalog
        assert catalog.count.max() == 2
        whole = posterior.log_prob(catalog)
        rows, columns = posterior.grid.shape
        for image in range(2):
            by_hand = sum(
                one_by_one(posterior, catalog, image, row, column)
                for row in range(rows)
                for column in range(columns)
            )
            assert_allclose(whole[image], by_hand, rtol=1e-4)

    @torch.no_grad()
    def test_parts_add_up(self, tiny):
        parts = tiny.posterior.log_prob_terms(tiny.catalog)
        n = int(tiny.catalog.count.sum())
        for name in ('position', 'flux', 'start', 'image'):
            assert parts[name].shape == (n,)
        total = parts['count'].clone()
        total.index_add_(0, parts['image'], parts['position'] + parts['flux'])
        assert_allclose(tiny.posterior.log_prob(tiny.catalog), total, rtol=1e-5)

    @torch.no_grad()
    def test_hidden_layers_agree(self, tiny):
        posterior = tiny.posterior
        hidden = posterior.hidden_given(tiny.catalog)
        rows, columns = posterior.grid.shape
        for row in range(rows):
            for column in range(columns):
                tiles = tuple(torch.tensor([v]) for v in (1, row, column))
                near, known = neighbourhood(posterior, tiny.catalog, 1, row, column)
                single = posterior.hidden_at(tiles, near, known)
                assert_allclose(single[0], hidden[1, :, row, column], atol=2e-5)

    @torch.no_grad()
    def test_later_colours_are_not_seen(self, tiny):
        """
        A tile's factors do not change with sources of later colours.
        """
        posterior = tiny.posterior
        colour = posterior.grid.colour()
        before = posterior.hidden_given(tiny.catalog)
        changed = copy.deepcopy(tiny.catalog)
        last = colour == 3
        changed.count[:, last] = 1
        changed.x[:, last], changed.y[:, last] = 0.3, 0.8
        changed.log_flux[:, last] = 2.0
        assert torch.equal(posterior.hidden_given(changed), before)
        first = colour == 0
        changed.count[:, first] = 2 - tiny.catalog.count[:, first]
        after = posterior.hidden_given(changed)
        assert torch.equal(after[..., first], before[..., first])
        assert (after - before)[..., ~first].abs().amax((0, 1)).min() > 0

    @torch.no_grad()
    def test_unused_places_do_not_matter(self, tiny):
        catalog = tiny.catalog
        before = tiny.posterior.log_prob(catalog)
        unused = torch.arange(2) >= catalog.count[..., None]
        for name in ('x', 'y', 'log_flux'):
            getattr(catalog, name)[unused] = 0.77
        assert_allclose(tiny.posterior.log_prob(catalog), before, rtol=1e-5)

    @torch.no_grad()
    def test_an_empty_sky(self, tiny):
        posterior = tiny.posterior
        empty = TileCatalog.empty(3, posterior.grid.shape, 2)
        parts = posterior.log_prob_terms(empty)
        assert len(parts['flux']) == 0
        assert torch.equal(posterior.log_prob(empty), parts['count'])

    @torch.no_grad()
    def test_order_of_the_sources_is_free(self, tiny, generator):
        """
        The density is that of a set: the input may come in any order.
        """
        grid = tiny.posterior.grid
        x, y = 16 * torch.rand(2, 3, 9, generator=generator) - 0.5
        flux = 4 * torch.rand(3, 9, generator=generator)
        used = torch.ones(3, 9, dtype=torch.bool)
        values = []
        for order in (torch.arange(9), torch.randperm(9, generator=generator)):
            catalog = TileCatalog.from_sources(
                x[:, order], y[:, order], flux[:, order], used, grid=grid
            )
            values.append(tiny.posterior.log_prob(catalog))
        assert torch.equal(*values)


def legendre(n, low, high):
    node, weight = np.polynomial.legendre.leggauss(n)
    half = 0.5 * (high - low)
    return (
        torch.tensor(low + half * (node + 1), dtype=torch.float32),
        torch.tensor(half * weight, dtype=torch.float32),
    )


def source_grid(high, n_xy=18, n_flux=28):
    """
    Nodes (x, y, log flux) of a quadrature over one source, and weights.
    """
    xy, w_xy = legendre(n_xy, 0.0, 1.0)
    # Half of the nodes go where the star is.
    middle = min(4.0, 0.5 * high)
    parts = [legendre(n_flux // 2, 0.0, middle), legendre(n_flux // 2, middle, high)]
    flux, w_flux = (torch.cat(part) for part in zip(*parts, strict=True))
    nodes = torch.cartesian_prod(xy, xy, flux)
    weight = torch.cartesian_prod(w_xy, w_xy, w_flux).prod(-1)
    return nodes, weight


class TestNormalisation:
    """
    A tile with K = 2: all counts, positions and fluxes together make one.

    The integral over two sources is done one after the other: that over the
    fainter is one whatever the brighter, and that over the brighter is one.
    """

    @torch.no_grad()
    def test_one_source(self, one_tile):
        nodes, weight = source_grid(LOG_FLUX_CEILING)
        total = float(one_tile(1).log_prob(TileCatalog.empty(1, (1, 1), 2)).exp())
        assert 0.05 < total < 0.9
        mass = {}
        for count in (1, 2):
            catalog = TileCatalog.empty(len(nodes), (1, 1), 2)
            catalog.count[:] = count
            for name, value in zip(('x', 'y', 'log_flux'), nodes.T, strict=True):
                getattr(catalog, name)[:, 0, 0, 0] = value
            catalog.x[..., 1], catalog.y[..., 1] = 0.5, 0.5
            parts = one_tile(len(nodes)).log_prob_terms(catalog)
            brighter = slice(0, len(nodes))
            density = parts['position'][brighter] + parts['flux'][brighter]
            assert_allclose((weight * density.exp()).sum(), 1, atol=0.01)
            mass[count] = float((weight * (parts['count'] + density).exp()).sum())
        assert_allclose(total + mass[1] + mass[2], 1, atol=0.01)

    @pytest.mark.parametrize('brighter', [(0.4, 0.5, 2.0), (0.9, 0.1, 5.0)])
    @torch.no_grad()
    def test_the_second_source(self, one_tile, brighter):
        nodes, weight = source_grid(brighter[2])
        catalog = TileCatalog.empty(len(nodes), (1, 1), 2)
        catalog.count[:] = 2
        names = ('x', 'y', 'log_flux')
        for name, first, second in zip(names, brighter, nodes.T, strict=True):
            getattr(catalog, name)[:, 0, 0, 0] = first
            getattr(catalog, name)[:, 0, 0, 1] = second
        parts = one_tile(len(nodes)).log_prob_terms(catalog)
        density = (parts['position'] + parts['flux'])[len(nodes) :]
        assert_allclose((weight * density.exp()).sum(), 1, atol=0.01)


class TestDraws:
    def test_are_catalogues(self, tiny):
        draws = tiny.posterior.sample(generator=torch.Generator().manual_seed(2))
        assert draws.count.shape == (3, 4, 4)
        assert 0 < draws.count.sum() < 3 * 16 * 2
        present = torch.arange(2) < draws.count[..., None]
        for value in (draws.x, draws.y):
            assert (value >= 0).all()
            assert (value <= 1).all()
            assert not value[~present].any()
        both = draws.count == 2
        assert (draws.log_flux[both][:, 0] >= draws.log_flux[both][:, 1]).all()
        assert (draws.log_flux >= 0).all()

    @torch.no_grad()
    def test_their_density_is_finite(self, tiny):
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            draws = tiny.posterior.sample(generator=generator)
            assert torch.isfinite(tiny.posterior.log_prob(draws)).all()

    def test_reproducible(self, tiny):
        one, same, other = (
            tiny.posterior.sample(generator=torch.Generator().manual_seed(seed))
            for seed in (3, 3, 4)
        )
        assert torch.equal(one.log_flux, same.log_flux)
        assert not torch.equal(one.log_flux, other.log_flux)

    def test_many_at_once_are_as_one_by_one(self, tiny):
        """
        Means of counts by tile, of positions and of fluxes, of 600 draws and 60.
        """
        n, generator = 600, torch.Generator().manual_seed(6)
        together = tiny.posterior.sample(n_draws=n, generator=generator)
        some = [tiny.posterior.sample(generator=generator) for _ in range(n // 10)]
        assert together.count.shape == (3 * n, 4, 4)
        present = torch.arange(2) < together.count[..., None]
        for name in ('count', 'x', 'log_flux'):
            many = getattr(together, name).double().unflatten(0, (n, 3))
            few = torch.stack([getattr(part, name) for part in some]).double()
            error = (many.var(0) / n + many.var(0) / len(some)).sqrt()
            assert ((many.mean(0) - few.mean(0)).abs() < 5 * error + 1e-6).all()
        assert not together.x[~present].any()

    def test_sources_without_neighbours_are_fitted_once(self, tiny, monkeypatch):
        fitted = []

        def fit(patches, *args):
            fitted.append(len(patches.data))
            return fit_star(patches, *args)

        monkeypatch.setattr(_tile_chain, 'fit_star', fit)
        generator = torch.Generator().manual_seed(6)
        draws = tiny.posterior.sample(n_draws=200, generator=generator)
        alone = int((draws.count[:, ::2, ::2] > 0).sum())
        assert alone > 1000
        # Of the first colour, 4 tiles an image, each with one source or two.
        assert sum(fitted) < int(draws.count.sum()) - alone + 3 * 4 * 2

    def test_mode_is_deterministic(self, tiny):
        one, same = tiny.posterior.mode(), tiny.posterior.mode()
        for field in dataclasses.fields(TileCatalog):
            assert torch.equal(getattr(one, field.name), getattr(same, field.name))

    def test_mode_follows_its_threshold(self, tiny):
        # Of tiles of the first colour alone, as the others follow them.
        first = tiny.posterior.grid.colour() == 0
        counts = [tiny.posterior.mode(t).count[:, first] for t in (0.01, 0.5, 0.99)]
        assert (counts[0] >= counts[1]).all()
        assert (counts[1] >= counts[2]).all()
        assert counts[0].sum() > counts[2].sum()

    @torch.no_grad()
    def test_follow_the_density(self, one_tile):
        """
        Counts and fluxes of 4,000 draws have the distribution that is said.
        """
        stats = pytest.importorskip('scipy.stats')
        n = 4000
        posterior = one_tile(n)
        generator = torch.Generator().manual_seed(6)
        draws = posterior.sample(generator=generator)
        probs = posterior.head.count_factor(posterior.hidden_given(draws)).probs[
            0, 0, 0
        ]
        share = torch.bincount(draws.count.flatten(), minlength=3) / n
        assert ((share - probs).abs() < 4 * (probs * (1 - probs) / n).sqrt()).all()
        for place in range(2):
            tiles = (draws.count > place).nonzero(as_tuple=True)
            images, rows, columns = tiles
            hidden = posterior.hidden_given(draws)[images, :, rows, columns]
            count = draws.count[tiles]
            chain = posterior.source_chain(place, tiles, hidden, count, draws)
            x, y = draws.x[(*tiles, place)], draws.y[(*tiles, place)]
            flux = chain.star_flux(torch.stack([x, y], -1))
            value = draws.log_flux[(*tiles, place)]
            place = chain.position
            parts = _truncated_cdf(place.mean_x, place.scale_x, 0.0, 1.0)(x[..., None])
            uniform_x = (place.log_weights.exp() * parts).sum(-1)
            for uniform in (uniform_x, flux.cdf(value)):
                assert len(uniform) > 300
                assert stats.kstest(uniform.numpy(), 'uniform').pvalue > 0.01


class TestImagesOfAnySize:
    @pytest.mark.parametrize('shape', [(1, 1), (3, 17), (18, 4), (9, 14)])
    @pytest.mark.parametrize('tile_size', [2, 4])
    def test_all_of_it(self, shape, tile_size, generator):
        encoder = Encoder(
            EncoderConfig(
                tile_size=tile_size, width=8, n_blocks=1, stem_width=8,
                head_width=8, n_components=2, patch_radius=2,
            )
        )  # fmt: skip
        image = torch.randn(2, 1, *shape, generator=generator)

        def constant(*values):
            return torch.tensor(values).reshape(1, -1, 1, 1).expand(2, -1, 1, 1)

        inputs = EncoderInputs(
            image,
            torch.zeros_like(image, dtype=torch.bool),
            constant(4.0)[:, None],
            constant(0.0, 0.0)[:, None],
            constant(1.3, 2.6, 0.05, 2.5, 0.01, 3.2, 0.0, 0.0)[:, None],
            constant(-4.0),
            constant(3.0),
        )
        with torch.no_grad():
            encoder.head.count.bias.zero_()
        posterior = encoder(inputs)
        assert isinstance(posterior, TilePosterior)
        assert len(posterior) == 2
        draws = posterior.sample(generator=generator)
        assert draws.count.shape[1:] == posterior.grid.shape
        assert torch.isfinite(posterior.log_prob(draws)).all()
        posterior.mode()

    def test_bright_and_broken_images(self, tiny):
        """
        A saturated star, and an image that is masked all over.
        """
        inputs = tiny.inputs
        inputs.image[0, :, 4:9, 4:9] = 1e6
        inputs.image[1], inputs.mask[1] = 0.0, True
        posterior = tiny.encoder(inputs)
        draws = posterior.sample(generator=torch.Generator().manual_seed(1))
        assert torch.isfinite(posterior.log_prob(draws)).all()


class TestLoss:
    @torch.no_grad()
    def test_is_the_mean_of_minus_the_log_density(self, tiny):
        loss, terms = npe_loss(tiny.posterior, tiny.catalog, guidance=0.0)
        assert_allclose(
            loss.item(), -tiny.posterior.log_prob(tiny.catalog).mean().item(), rtol=1e-5
        )
        total = sum(float(terms[name]) for name in ('count', 'position', 'flux'))
        assert_allclose(loss.item(), total, rtol=1e-5)

    @torch.no_grad()
    def test_guidance(self, tiny):
        plain, terms = npe_loss(tiny.posterior, tiny.catalog, guidance=0.0)
        guided, _ = npe_loss(tiny.posterior, tiny.catalog, guidance=0.5)
        n = int(tiny.catalog.count.sum())
        expected = 0.5 * float(terms['start']) * n / 3
        assert_allclose((guided - plain).item(), expected, rtol=1e-3)

    @torch.no_grad()
    def test_no_sources_at_all(self, tiny):
        empty = TileCatalog.empty(3, tiny.posterior.grid.shape, 2)
        loss, terms = npe_loss(tiny.posterior, empty)
        assert torch.isfinite(loss)
        assert terms['flux'] == 0

    def test_gradients_reach_every_parameter(self, tiny):
        loss, _ = npe_loss(tiny.posterior, tiny.catalog)
        loss.backward()
        for name, value in tiny.encoder.named_parameters():
            assert value.grad is not None, name
            assert torch.isfinite(value.grad).all(), name
            assert value.grad.any(), name

    def test_decreases(self, tiny):
        optimizer = torch.optim.Adam(tiny.encoder.parameters(), lr=6e-3)
        losses = []
        for _ in range(6):
            loss, _ = npe_loss(tiny.encoder(tiny.inputs), tiny.catalog)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tiny.encoder.parameters(), 20.0)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]


@torch.no_grad()
@pytest.mark.parametrize('shape', [(5, 4), (6, 7), (1, 5), (4, 1), (9, 2)])
def test_sweep_by_bands(tiny, monkeypatch, shape):
    """
    Hidden layers and decisions do not depend on the bands of rows that bound memory.
    """
    ny, nx = (4 * n for n in shape)
    image, mask = (
        value.repeat(1, 1, 3, 3)[..., :ny, :nx]
        for value in (tiny.inputs.image, tiny.inputs.mask)
    )
    inputs = dataclasses.replace(tiny.inputs, image=image, mask=mask)
    found = []
    for band in (10**6, 1):
        monkeypatch.setattr(_sweep, '_BAND', band)
        posterior = tiny.encoder(inputs)
        catalog, factor = posterior.decided()
        hidden = posterior.hidden_given(catalog)
        found.append((hidden, factor.log_probs, catalog.log_flux))
        expected = posterior.head.count_factor(hidden).log_probs
        assert_allclose(factor.log_probs, expected, atol=1e-5)
        drawn = posterior.sample(generator=torch.Generator().manual_seed(1))
        assert drawn.count.shape == (3, *shape)
        assert torch.isfinite(posterior.log_prob(drawn)).all()
    for one, other in zip(*found, strict=True):
        assert_allclose(one, other, atol=1e-4)


@torch.no_grad()
def test_fits_before_the_sweep_change_nothing(tiny):
    """
    Decisions, fits and draws are those of a sweep that fits colour by colour.
    """
    inputs = dataclasses.replace(
        tiny.inputs,
        image=tiny.inputs.image.repeat(1, 1, 3, 3),
        mask=tiny.inputs.mask.repeat(1, 1, 3, 3),
    )
    posterior = tiny.encoder(inputs)
    # Some tiles have sources, with and without one beside them.
    alone = _sweep.Sweep(posterior).log_probs[..., 0]
    least = (1 - alone.exp()).quantile(0.85).item()
    (one, factor, kept), (same, expected, anew) = (
        _sweep.Sweep(posterior, least, least=first).decide() for first in (least, 1.0)
    )
    assert 0.1 < (one.count > 0).float().mean() < 0.5
    assert torch.equal(one.count, same.count)
    assert_allclose(factor.log_probs, expected.log_probs, atol=1e-5)
    for name in ('x', 'y', 'log_flux', 'galaxy'):
        assert_allclose(getattr(one, name), getattr(same, name), atol=1e-4)
    assert kept.keys() == anew.keys()
    for place, (fits, where) in anew.items():
        # Some that are not decided are fitted too.
        tiles = (one.count > place).nonzero(as_tuple=True)
        rows, other = kept[place][1][tiles], where[tiles]
        assert (rows >= 0).all()
        assert (other >= 0).all()
        for name, value in fits.items():
            assert_allclose(kept[place][0][name][rows], value[other], atol=1e-3)
    draws = [
        _sweep.Sweep(posterior, least=first).draw(
            2, generator=torch.Generator().manual_seed(2)
        )
        for first in (least, 1.0)
    ]
    assert torch.equal(draws[0].count, draws[1].count)
    for name in ('x', 'y', 'log_flux'):
        assert_allclose(getattr(draws[0], name), getattr(draws[1], name), atol=1e-3)


@pytest.mark.parametrize('n', range(1, 9))
def test_kinds_of_rows(n):
    """
    Which tiles around are known is that of the row and column that stand for a tile.
    """
    grid = TileGrid((n, n), 1)
    tiles = torch.cartesian_prod(*2 * [torch.arange(n)]).unbind(1)
    kinds, which = _sweep._kinds(n)
    same = tuple(kinds[which[part]] for part in tiles)
    known, expected = (grid.around((part[0], *part))[2] for part in (same, tiles))
    assert torch.equal(known, expected)
