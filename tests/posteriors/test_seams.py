# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The bundled weights at the borders of tiles: stars are neither lost nor doubled there.

A small version of ``benchmarks/seams.py``, with limits that hold for any sound
weights and that tiles which know nothing of each other would break.
"""

import copy
import dataclasses
import types

import pytest
import torch

from bliss_astro import CoaddSimulator
from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.posteriors import TilePosterior, find_sources
from bliss_astro.posteriors._borders import each_once
from bliss_astro.priors import StarPrior

SIZE = 4  # px, side of a tile
SHAPE = (32, 32)
N_IMAGES = 80
# The same images through two grids: most stars at borders of one are far from
# borders of the other, so that much of the noise drops out of the comparison.
VIEWS = (0, 2)


class OneStar:
    """
    A prior that puts one star anywhere into the middle 2 x 2 tiles.
    """

    density, flux_min = 3 / 1600, 622.0

    def __init__(self, flux):
        self.flux = flux

    def sample_batch(self, n_images, shape, *, generator, **keywords):
        unit = torch.rand(2, n_images, 1, generator=generator)
        x, y = 11.5 + 2 * SIZE * unit
        ones = torch.ones(n_images, 1)
        return x, y, self.flux * ones, ones[:, 0].long()


def simulate(depth, magnitude):
    flux = 987.31 * 10 ** (0.4 * (22.5 - magnitude))
    size = SHAPE[0] + VIEWS[-1]
    simulator = CoaddSimulator(depth, OneStar(flux), shape=(size, size), margin=0)
    return simulator.sample_batch(
        N_IMAGES, generator=torch.Generator().manual_seed(depth)
    )


def region_of(batch, *edges):
    return torch.tensor([edges]).expand(len(batch), 4)


def crop(batch, shift, shape=SHAPE):
    ny, nx = shape
    part = (slice(None), slice(shift, shift + ny), slice(shift, shift + nx))
    return dataclasses.replace(
        batch,
        data=batch.data[part],
        mask=batch.mask[part],
        x=batch.x - shift,
        y=batch.y - shift,
        region=region_of(batch, -0.5, nx - 0.5, -0.5, ny - 0.5),
    )


@torch.no_grad()
def posterior_of(encoder, batch):
    return encoder(EncoderInputs.from_batch(batch))


@pytest.fixture(scope='module')
def encoder():
    """
    Give the bundled weights.
    """
    return Encoder.from_pretrained('stars')


class Seen:
    """
    What was found around the one star of each image, in both views.
    """

    def __init__(self, encoder, depth, magnitude):
        batch = simulate(depth, magnitude)
        parts = [self.look(encoder, crop(batch, shift)) for shift in VIEWS]
        values = (torch.stack(part, 1) for part in zip(*parts, strict=True))
        self.inside, self.probability, self.n_sure, self.n_drawn = values

    def look(self, encoder, batch):
        posterior = posterior_of(encoder, batch)
        sources = find_sources(posterior)
        true_x, true_y = batch.x[:, 0], batch.y[:, 0]
        image = sources.image
        x, y = sources.place()
        apart = torch.hypot(x - true_x[image], y - true_y[image])
        chance = torch.zeros(N_IMAGES)
        best = torch.where(apart < 1, sources.probability, 0.0)
        chance.scatter_reduce_(0, image, best, 'amax')
        sure = (apart < 3) & (sources.probability > 0.5)
        n_sure = torch.bincount(image[sure], minlength=N_IMAGES)
        place = torch.stack([true_x, true_y]).add(0.5) % SIZE
        inside = torch.minimum(place, SIZE - place).amin(0)
        return inside, chance, n_sure, self.draws(posterior, true_x, true_y)

    def draws(self, posterior, true_x, true_y, n=4):
        """
        Count the sources within 3 px of the star in each of n draws.
        """
        generator = torch.Generator().manual_seed(1)
        out = []
        for _ in range(n):
            drawn = posterior.sample(generator=generator)
            used = torch.arange(2) < drawn.count[..., None]
            image, row, column, place = used.nonzero(as_tuple=True)
            at = (image, row, column, place)
            x, y = posterior.grid.to_pixels(drawn.x[at], drawn.y[at], row, column)
            apart = torch.hypot(x - true_x[image], y - true_y[image])
            out.append(torch.bincount(image[apart < 3], minlength=N_IMAGES))
        return torch.stack(out, 1)


@pytest.fixture(scope='module')
def faint(encoder):
    """
    Give what was seen of a star of signal-to-noise ratio 9 in coadds.
    """
    return Seen(encoder, 5, 22.75)


def test_as_probable_at_borders_as_in_the_middle(faint):
    border, middle = faint.inside < 0.5, faint.inside > 1
    assert border.sum() > 40
    assert middle.sum() > 30
    a, b = faint.probability[border].mean(), faint.probability[middle].mean()
    assert b > 0.8
    # Errors of the two means as if they were independent, which is too much.
    error = (faint.probability.var() * (1 / border.sum() + 1 / middle.sum())).sqrt()
    assert abs(a - b) < 3 * error + 0.03


def test_found_once(faint):
    # Less than 0.3 % of 160 views: more than 3 in one of 600 tries.
    assert (faint.n_sure > 1).sum() <= 3


def test_drawn_once(faint):
    """
    Whole catalogues hold the star once, at borders as elsewhere.
    """
    border = faint.n_drawn[faint.inside < 0.5].float()
    # A draw may hold a second source that belongs to nothing, but rarely; tiles
    # that do not know of each other would put two there in up to a quarter.
    assert (border > 1).float().mean() < 0.04
    # And none as often as the table says that there is none, which may be off
    # by three binomial errors of 300 draws or so and what weights lack.
    chance = faint.probability[faint.inside < 0.5].mean()
    assert abs((border > 0).float().mean() - chance) < 0.06


def test_tiles_that_know_nothing_of_each_other(encoder, faint):
    """
    Show that these tests can fail: without the neighbours stars are doubled.
    """
    ignorant = copy.deepcopy(encoder)
    with torch.no_grad():
        ignorant.head.from_neighbours.weight.zero_()
    alone = Seen(ignorant, 5, 22.75)
    border = alone.n_drawn[alone.inside < 0.5].float()
    told = faint.n_drawn[faint.inside < 0.5].float()
    assert (border > 1).float().mean() > (told > 1).float().mean() + 0.05


def test_beside_tiles_that_cannot_hold_a_star(encoder):
    """
    Where the prior allows none the probability is nil, in single precision.
    """
    batch = crop(simulate(5, 22.75), 0)
    batch = dataclasses.replace(batch, region=region_of(batch, 11.5, 19.5, 11.5, 19.5))
    posterior = posterior_of(encoder, batch)
    catalog, factor = posterior.decided()
    assert (factor.presence == 0).any()
    sources = find_sources(posterior)
    seen = torch.zeros(N_IMAGES, dtype=torch.bool)
    seen[sources.image[sources.probability > 0.5]] = True
    # What the sweep accepted has a row, but for two that lie anywhere.
    accepted = catalog.count.sum((1, 2)) > 0
    assert accepted.sum() > 66
    assert (accepted & ~seen).sum() <= 2


def test_shifted_field(encoder):
    """
    Detections that are sure stay so when the grid of tiles moves.
    """
    simulator = CoaddSimulator(5, shape=(59, 59), margin=0)
    batch = simulator.sample_batch(12, generator=torch.Generator().manual_seed(3))
    views = [
        find_sources(posterior_of(encoder, crop(batch, k, (56, 56)))) for k in range(4)
    ]
    first = views[0].select(views[0].probability > 0.9)
    x, y = first.place()
    inner = (torch.minimum(x, y) > 15) & (torch.maximum(x, y) < 43)
    first, x, y = first.select(inner), x[inner], y[inner]
    assert len(first) > 10
    stays = []
    for shift, view in enumerate(views[1:], 1):
        there = view.select(view.probability > 0.8)
        other_x, other_y = there.place()
        apart = torch.hypot(x[:, None] - shift - other_x, y[:, None] - shift - other_y)
        same = first.image[:, None] == there.image
        stays.append(((apart < 1) & same).any(1))
    # 1 % may be lost, of some tens of detections in three views two at most.
    assert (~torch.stack(stays)).sum() <= 2


def test_tiles_beyond_borders_are_described_once(monkeypatch):
    generator = torch.Generator().manual_seed(7)
    prior = StarPrior(density=0.08, flux_min=622.0)
    simulator = CoaddSimulator(1, prior, shape=(64, 64), margin=0)
    encoder = Encoder.from_pretrained('stars-crowded')
    inputs = EncoderInputs.from_batch(
        simulator.sample_batch(1, generator=generator), tile_size=2
    )
    described, original = [], TilePosterior.source_chain

    def recorded(posterior, place, tiles, hidden, *rest, **options):
        described.append(torch.cat([torch.stack(tiles, 1), hidden], 1))
        return original(posterior, place, tiles, hidden, *rest, **options)

    with torch.no_grad():
        posterior = encoder(inputs)
        posterior.decided()
        monkeypatch.setattr(TilePosterior, 'source_chain', recorded)
        find_sources(posterior)
    # The first pieces are tiles of candidates, the others those beyond their borders.
    assert len(described) > 1
    for rows in described:
        assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize('places', [[], [3], [3, 4]])
def test_pairs_of_tiles_without_sources(places):
    """
    Tiles may see light of a source beside them that no tile holds.
    """
    catalog = types.SimpleNamespace(count=torch.zeros(1, 3, 3, dtype=torch.long))
    numbers = torch.tensor(places, dtype=torch.long)
    tiles = 0 * numbers, numbers // 3, numbers % 3
    probability = torch.tensor([0.4, 0.3])[: len(places)]
    pairs = [(torch.tensor([3]), torch.tensor([4]), torch.tensor([0.5]))]
    found = each_once(
        types.SimpleNamespace(catalog=catalog),
        tiles,
        probability,
        torch.zeros(len(places), dtype=torch.bool),
        pairs,
    )
    expected = [0.4, 0.15] if len(places) == 2 else probability.tolist()
    assert found.tolist() == pytest.approx(expected)
