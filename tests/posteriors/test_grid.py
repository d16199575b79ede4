# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the tiles and of catalogues by tile.
"""

import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.posteriors import TileCatalog, TileGrid
from bliss_astro.posteriors._grid import COLOURS


def from_lists(x, y, log_flux, *, shape=(16, 16), size=4, **keywords):
    values = [torch.tensor([v], dtype=torch.float32) for v in (x, y, log_flux)]
    used = torch.ones(1, len(x), dtype=torch.bool)
    return TileCatalog.from_sources(
        *values, used, grid=TileGrid(shape, size), **keywords
    )


class TestGrid:
    @pytest.mark.parametrize(
        ('shape', 'size', 'expected'),
        [
            ((88, 90), 4, (22, 23)),
            ((88, 90), 2, (44, 45)),
            ((3, 5), 4, (1, 2)),
            ((1, 1), 4, (1, 1)),
        ],
    )
    def test_shape(self, shape, size, expected):
        assert TileGrid(shape, size).shape == expected

    def test_colours(self):
        grid = TileGrid((20, 24))
        colour = grid.colour()
        assert colour.shape == (5, 6)
        assert colour[:2, :2].tolist() == [[0, 2], [3, 1]]
        # No tile touches one of its own colour, not even at a corner.
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            a = colour[dy:, max(0, dx) : 6 + min(0, dx)]
            b = colour[: 5 - dy, max(0, -dx) : 6 - max(0, dx)]
            assert (a != b).all()
        assert sorted(COLOURS) == [(0, 0), (0, 1), (1, 0), (1, 1)]

    def test_pixels(self):
        x, y = TileGrid((16, 16)).to_pixels(0.5, 0.0, rows=1, columns=2)
        assert (x, y) == (9.5, 3.5)


class TestFromSources:
    def test_there_and_back(self, generator):
        grid = TileGrid((13, 18), 4)
        x = torch.rand(3, 12, generator=generator) * 18 - 0.5
        y = torch.rand(3, 12, generator=generator) * 13 - 0.5
        flux = torch.rand(3, 12, generator=generator) * 5
        used = torch.rand(3, 12, generator=generator) < 0.8
        catalog = TileCatalog.from_sources(x, y, flux, used, grid=grid, n_most=12)
        assert (catalog.count.sum((1, 2)) == used.sum(1)).all()
        for image in range(3):
            rows, columns, places = (
                torch.arange(12) < catalog.count[image][..., None]
            ).nonzero(as_tuple=True)
            where = (image, rows, columns, places)
            back = grid.to_pixels(catalog.x[where], catalog.y[where], rows, columns)
            values = (catalog.log_flux[where], *back)
            found = sorted(zip(*(v.tolist() for v in values), strict=True))
            mask = used[image]
            given = sorted(
                zip(*(v[image][mask].tolist() for v in (flux, x, y)), strict=True)
            )
            assert_allclose(found, given, atol=1e-5)

    def test_brightest_first(self):
        catalog = from_lists([5, 6, 5.5], [5, 6, 5.2], [1.0, 3.0, 2.0], n_most=3)
        assert catalog.count[0, 1, 1] == 3
        assert catalog.count.sum() == 3
        assert catalog.log_flux[0, 1, 1].tolist() == [3.0, 2.0, 1.0]
        assert_allclose(catalog.x[0, 1, 1], [0.625, 0.5, 0.375])

    def test_at_most_k(self):
        catalog = from_lists([5, 6, 5.5], [5, 6, 5.2], [1.0, 3.0, 2.0], n_most=2)
        assert catalog.count[0, 1, 1] == 2
        assert catalog.log_flux[0, 1, 1].tolist() == [3.0, 2.0]
        single = from_lists([5, 6], [5, 6], [1.0, 3.0], n_most=1)
        assert single.count.max() == 1
        assert single.x.shape[-1] == 1

    def test_order_of_the_input_is_free(self, generator):
        grid = TileGrid((16, 16))
        x, y = 16 * torch.rand(2, 2, 25, generator=generator) - 0.5
        flux = torch.rand(2, 25, generator=generator)
        used = torch.rand(2, 25, generator=generator) < 0.7
        one = TileCatalog.from_sources(x, y, flux, used, grid=grid)
        order = torch.randperm(25, generator=generator)
        other = TileCatalog.from_sources(
            *(v[:, order] for v in (x, y, flux, used)), grid=grid
        )
        for name in ('count', 'x', 'y', 'log_flux'):
            assert torch.equal(getattr(one, name), getattr(other, name))

    def test_equal_fluxes(self):
        catalog = from_lists([5, 6], [5, 6], [1.0, 1.0])
        assert catalog.count[0, 1, 1] == 2
        assert_allclose(catalog.x[0, 1, 1], [0.375, 0.625])

    @pytest.mark.parametrize(
        ('x', 'column', 'within'),
        [(-0.5, 0, 0.0), (3.5, 1, 0.0), (3.4999, 0, 0.999975), (15.4999, 3, 0.999975)],
    )
    def test_on_edges(self, x, column, within):
        catalog = from_lists([x], [7.5], [1.0])
        assert catalog.count[0, 2, column] == 1
        assert_allclose(catalog.x[0, 2, column, 0], within, atol=1e-6)
        assert catalog.y[0, 2, column, 0] == 0

    @pytest.mark.parametrize(
        ('x', 'y'), [(-0.51, 5), (5, -3), (15.5, 5), (5, 15.5), (400, 5)]
    )
    def test_outside(self, x, y):
        assert from_lists([x], [y], [1.0]).count.sum() == 0

    def test_in_the_overhang(self):
        """
        Tiles may reach past the image; a source there is in its tile.
        """
        catalog = from_lists([14.6], [3.0], [1.0], shape=(14, 14))
        assert catalog.count.shape == (1, 4, 4)
        assert catalog.count[0, 0, 3] == 1

    def test_unused_places(self):
        values = torch.full((1, 2), 5.0)
        used = torch.tensor([[False, True]])
        catalog = TileCatalog.from_sources(
            values, values, values, used, grid=TileGrid((16, 16))
        )
        assert catalog.count.sum() == 1

    def test_brightest_of_many(self, generator):
        """
        The number of sources is not bounded: a cluster has 10,000 in few tiles.
        """
        x, y, flux = 16 * torch.rand(3, 1, 10_000, generator=generator)
        used = torch.rand(1, 10_000, generator=generator) < 0.9
        grid = TileGrid((16, 16))
        catalog = TileCatalog.from_sources(x, y, flux, used, grid=grid, n_most=3)
        in_tile = used & (x >= 3.5) & (x < 7.5) & (y >= 7.5) & (y < 11.5)
        brightest = flux[in_tile].sort(descending=True).values[:3]
        assert torch.equal(catalog.log_flux[0, 2, 1], brightest)

    def test_empty(self):
        catalog = TileCatalog.empty(2, (3, 4), 2)
        assert catalog.count.shape == (2, 3, 4)
        assert catalog.x.shape == (2, 3, 4, 2)
        assert catalog.count.dtype == torch.long
