# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tile grids and catalogues by tile.
"""

import dataclasses

import torch

from bliss_astro.psf import GaussianPSF

# Order of the sweep as offsets (row, column) in blocks of 2 x 2 tiles.
# Tiles of the first two colours touch each other at corners only.
COLOURS = ((0, 0), (1, 1), (0, 1), (1, 0))


@dataclasses.dataclass
class Rows:
    """Base class of dataclasses whose tensors have N rows: sources, or images."""

    def select(self, index):
        """Subset of the rows."""
        return self._map(lambda value: value[index])

    def _map(self, function, *others):
        """A copy with functions of tensors, of those in dicts too, of it and others."""

        def one(*values):
            if isinstance(values[0], dict):
                return {k: one(*(value[k] for value in values)) for k in values[0]}
            is_rows = isinstance(values[0], torch.Tensor | GaussianPSF)
            return function(*values) if is_rows else values[0]

        parts = self, *others
        made = {
            name: one(*(getattr(part, name) for part in parts))
            for name in self.__dataclass_fields__
        }
        return dataclasses.replace(self, **made)

    def with_tensors(self, make):
        """A copy with a function of the name in place of each tensor."""
        # Cached values are no fields.
        names = [
            name
            for name in self.__dataclass_fields__
            if isinstance(getattr(self, name), torch.Tensor)
        ]
        return dataclasses.replace(self, **{name: make(name) for name in names})

    @classmethod
    def concatenate(cls, parts):
        """All rows of several parts."""
        return parts[0]._map(_concatenated, *parts[1:])


def _concatenated(first, *others):
    if isinstance(first, GaussianPSF):
        return first.followed_by(*others)
    return torch.cat([first, *others])


def joined(parts):
    """Dicts of tensors as one dict."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def colour_of(rows, columns):
    """Index of the colour of tiles in the sweep."""
    i, j = rows % 2, columns % 2
    return sum(k * ((i == a) & (j == b)) for k, (a, b) in enumerate(COLOURS))


@dataclasses.dataclass(frozen=True)
class TileGrid:
    """
    An image cut into square tiles.

    Tile edges lie at ``-0.5 + size * k`` pixels (0-based, centres on
    integers), so a tile holds whole pixels.

    Parameters
    ----------
    image_shape : tuple of int
        ``(ny, nx)`` of the image.

    size : int, optional
        Side of a tile in pixels.

    Examples
    --------
    >>> from bliss_astro.posteriors import TileGrid
    >>> TileGrid((88, 90)).shape
    (22, 23)
    """

    image_shape: tuple[int, int]
    size: int = 4

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tiles ``(rows, columns)``; the last ones may overhang."""
        ny, nx = self.image_shape
        return (-(-ny // self.size), -(-nx // self.size))

    def colour(self, *, device='cpu') -> torch.Tensor:
        """Index of each tile's colour in the sweep, ``(rows, columns)``."""
        rows, columns = (torch.arange(n, device=device) for n in self.shape)
        return colour_of(rows[:, None], columns)

    def around(self, tiles):
        """
        Tiles and those around them, 9 of each.

        Returns their image, row and column, moved into the image, whether they are
        inside, and whether they are inside and of an earlier colour, each ``(N, 9)``.
        """
        step = torch.arange(-1, 2, device=tiles[1].device)
        rows = tiles[1][:, None] + step.repeat_interleave(3)
        columns = tiles[2][:, None] + step.repeat(3)
        own = colour_of(*tiles[1:])[:, None]
        n_rows, n_columns = self.shape
        near = rows.clamp(0, n_rows - 1), columns.clamp(0, n_columns - 1)
        inside = (near[0] == rows) & (near[1] == columns)
        earlier = inside & (colour_of(rows, columns) < own)
        return (tiles[0][:, None], *near), inside, earlier

    def to_pixels(self, x, y, rows, columns):
        """Pixel coordinates of positions given in units of their tiles."""
        return (columns + x) * self.size - 0.5, (rows + y) * self.size - 0.5


@dataclasses.dataclass
class TileCatalog(Rows):
    """
    Sources of B images by tile, brightest first within a tile.

    Attributes
    ----------
    count : tensor ``(B, rows, columns)`` of int
        Number of sources, at most K.

    x, y : tensor ``(B, rows, columns, K)``
        Positions within the tile in units of its side, in [0, 1].

    log_flux : tensor ``(B, rows, columns, K)``
        Natural logarithm of flux over the prior's flux floor.

    galaxy : tensor ``(B, rows, columns, K)``
        1 for galaxies, 0 for stars (the default).

    shape : tensor ``(B, rows, columns, K, 6)``
        Shapes of galaxies in the order of ``GALAXY_SHAPE_NAMES``, radii in pixels,
        or points in the latent space of a learned model;
        zeros for stars, and where they are not needed (the default).

    further : tensor ``(B, rows, columns, K, D)``
        Values of further parameters, one beside the other; by default there are none.

    ellipticity : tensor ``(B, rows, columns, K, 2)``
        Distortions of galaxies seen through the PSF; without numbers (the default)
        where they were not computed.

    colour : tensor ``(B, rows, columns, K, F)``
        Natural logarithms of fluxes in F bands over those in the first, NaN where
        unknown; by default there are no bands.
    """

    count: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    log_flux: torch.Tensor
    galaxy: torch.Tensor | None = None
    shape: torch.Tensor | None = None
    further: torch.Tensor | None = None
    ellipticity: torch.Tensor | None = None
    colour: torch.Tensor | None = None

    def __post_init__(self):
        if self.galaxy is None:
            self.galaxy = torch.zeros_like(self.x)
        for name in ('shape', 'further', 'ellipticity', 'colour'):
            if getattr(self, name) is None:
                dim = 6 if name == 'shape' else 0
                setattr(self, name, self.x.new_zeros(*self.x.shape, dim))

    @classmethod
    def empty(
        cls,
        n_images,
        shape,
        n_most,
        *,
        n_shape=6,
        n_further=0,
        n_colour=0,
        device='cpu',
    ):
        """No sources anywhere; unused places hold zeros."""
        full = (n_images, *shape, n_most)
        zeros = [torch.zeros(full, device=device) for _ in range(3)]
        count = torch.zeros(full[:-1], dtype=torch.long, device=device)
        sizes = {'shape': n_shape, 'further': n_further, 'colour': n_colour}
        more = {name: zeros[0].new_zeros(*full, n) for name, n in sizes.items()}
        return cls(count, *zeros, **more)

    def at_tiles(self, tiles, n_most) -> 'TileCatalog':
        """
        Sources of N tiles, each as an image of one tile.

        Parameters
        ----------
        tiles : tuple of tensor ``(N,)``
            Image, row and column of each tile.

        n_most : int
            Largest number of sources; fainter ones are left out of the count.

        Returns
        -------
        catalog : `TileCatalog`
            With ``count`` ``(N, 1, 1)``; shapes are left out.
        """
        names = ('x', 'y', 'log_flux', 'galaxy')
        values = (getattr(self, name)[tiles][:, None, None] for name in names)
        return TileCatalog(self.count[tiles].clamp(max=n_most)[:, None, None], *values)

    @torch.no_grad()
    def with_ellipticity(self, parameters, posterior) -> 'TileCatalog':
        """
        The same sources with ellipticities of galaxies, if these are among parameters.

        They are the distortions of adaptive moments; the posterior, or sequence, has
        the function that gives those, ``moments``, and the ``inputs`` with the PSF.
        """
        names = {entry.name for entry in parameters}
        if self.ellipticity.shape[-1] or 'ellipticity' not in names:
            return self
        place = torch.arange(self.x.shape[-1], device=self.x.device)
        is_galaxy = (self.galaxy > 0) & (place < self.count[..., None])
        at, inputs = is_galaxy.nonzero(as_tuple=True), posterior.inputs
        tiles = at[0] % len(inputs.image), *at[1:3]
        psf = inputs.at_tiles(inputs.psf, *tiles)[:, 0]
        ellipticity = self.x.new_zeros(*self.x.shape, 2)
        moments = posterior.moments(psf, self.shape[at])
        ellipticity[at] = torch.stack(moments[:2], -1)
        return dataclasses.replace(self, ellipticity=ellipticity)

    def brightest_first(self) -> 'TileCatalog':
        """The same sources, in each tile sorted by flux."""
        place = torch.arange(self.x.shape[-1], device=self.x.device)
        used = place < self.count[..., None]
        rank = torch.where(used, -self.log_flux, torch.inf).argsort(dim=-1, stable=True)

        def ranked(name):
            value = getattr(self, name)
            if name == 'count':
                return value
            index = rank if value.dim() == rank.dim() else rank[..., None]
            return torch.take_along_dim(value, index, rank.dim() - 1)

        return self.with_tensors(ranked)

    @classmethod
    def from_batch(cls, batch, *, tile_size=4, n_most=2):
        """
        Return the truth of simulated images above their flux floors, by tile.

        Parameters
        ----------
        batch : `~bliss_astro.simulation.SimulatedImages` or \
                `~bliss_astro.simulation.SimulatedBands`
            Simulated images.

        tile_size : int, optional
            Side of a tile in pixels.

        n_most : int, optional
            Largest number K of sources in a tile.

        Returns
        -------
        catalog : `TileCatalog`
            The sources by tile, with the fluxes of the reference band.
        """
        colour = getattr(batch, 'log_ratio', None)
        batch = batch if colour is None else batch.reference
        floor = batch.flux_min[:, None]
        # By rounding, the faintest of a prior may lie below its own floor.
        used = batch.flux >= floor * (1 - 1e-5)
        ratio = torch.where(used, batch.flux / floor, 1.0)
        return cls.from_sources(
            batch.x,
            batch.y,
            torch.log(ratio).clamp(min=0),
            used,
            grid=TileGrid(tuple(batch.data.shape[1:]), tile_size),
            n_most=n_most,
            galaxy=batch.is_galaxy,
            shape=batch.galaxy,
            further=batch.further,
            colour=colour,
        )

    @classmethod
    def from_sources(cls, x, y, log_flux, used, *, grid, n_most=2, **more):
        """
        Sort sources into tiles.

        Parameters
        ----------
        x, y, log_flux : tensor ``(B, S)``
            Pixel positions and log-fluxes.

        used : tensor ``(B, S)`` of bool
            Which places hold a source.

        grid : `TileGrid`
            The tiles; sources outside of them are left out.

        n_most : int, optional
            Largest number K of sources in a tile; fainter ones are left out.

        galaxy : tensor ``(B, S)``, optional
            1 for galaxies; by default all are stars.

        shape, further, colour : tensor ``(B, S, D)``, optional
            Shapes of the galaxies (six numbers, or as many as a learned model has),
            values of further parameters, and log flux ratios of bands.

        Returns
        -------
        catalog : `TileCatalog`
            The sources by tile.
        """
        rows, columns = grid.shape
        u, v = (x + 0.5) / grid.size, (y + 0.5) / grid.size
        column, row = u.floor().long(), v.floor().long()
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        used = used & inside
        tile = torch.where(used, row * columns + column, -1)
        # Equal fluxes: the one listed first counts as the brighter.
        by_flux = log_flux.argsort(dim=-1, descending=True, stable=True)
        by_tile = tile.gather(-1, by_flux).argsort(dim=-1, stable=True)
        order = by_flux.gather(-1, by_tile)
        ordered = tile.gather(-1, order)
        # Places behind the first one of the same tile.
        place = torch.arange(x.shape[-1], device=x.device)
        behind = place - torch.searchsorted(ordered, ordered)
        rank = torch.empty_like(tile).scatter_(-1, order, behind)
        keep = used & (rank < n_most)
        more = {name: value for name, value in more.items() if value is not None}
        sizes = {
            f'n_{name}': more[name].shape[-1]
            for name in ('shape', 'further', 'colour')
            if name in more
        }
        out = cls.empty(len(x), grid.shape, n_most, **sizes, device=x.device)
        image = torch.arange(len(x), device=x.device)[:, None].expand_as(tile)
        index = (image[keep], row[keep], column[keep])
        out.count.index_put_(index, torch.ones_like(index[0]), accumulate=True)
        where = (*index, rank[keep])
        values = {'x': u - column, 'y': v - row, 'log_flux': log_flux, **more}
        for name, value in values.items():
            getattr(out, name)[where] = value[keep].to(out.x)
        return out
