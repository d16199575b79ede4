# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Rows of a table as sources of a posterior: summaries, intervals and draws, row by row.
"""

import dataclasses
import functools

import numpy as np
import torch
from astropy.table import QTable
from scipy.spatial import cKDTree

from bliss_astro._random import check_rng, torch_generator
from bliss_astro.flags import CatalogFlag
from bliss_astro.posteriors import find_sources

from ._columns import SHAPE_COLUMNS
from ._full_tiles import MIN_PROBABILITY, SharedLight, in_full_tile
from ._shapes import (
    SIGMA_QUANTILES,
    angle_quantiles,
    explain_no_shapes,
    inferred_shapes,
    latent_dim,
    shape_quantity,
    shape_values,
    summarize_shape,
    tabulate_shapes,
)

__all__ = ['Candidates', 'SourceRows', 'tabulate_draw']

# Detections closer than this many FWHM are flagged as blended.
_BLEND_REACH = 1.5
# Distance in pixels within which rows without an index are at the place of a source.
_SAME_POSITION = 0.01


class Candidates:
    """
    All sources of a posterior down to a probability, with what links rows to them.

    Parameters
    ----------
    tile_posterior : `~bliss_astro.posteriors.TilePosterior`
        Posterior of one image.

    fwhm : float
        Full width at half maximum of the PSF in pixels.

    least : float
        Sources of lesser probability are left out or lack shapes.

    Attributes
    ----------
    sources : `~bliss_astro.posteriors.SourceMarginals`
        The N sources.

    keys : int array ``(N,)``
        The number of the tile times the number of sources that it may hold, plus the
        place in the tile: the same whatever ``least`` is.
    """

    def __init__(self, tile_posterior, fwhm, least):
        self.least = least
        self._tile_posterior, self._fwhm = tile_posterior, fwhm
        self.sources = find_sources(tile_posterior, least=least)
        row, column = (v.cpu().numpy() for v in (self.sources.row, self.sources.column))
        tile = row * tile_posterior.grid.shape[1] + column
        order = np.argsort(tile, kind='stable')
        place = np.empty(len(tile), dtype=np.int64)
        place[order] = np.arange(len(tile)) - np.searchsorted(tile[order], tile[order])
        self.keys = tile * tile_posterior.head.n_most + place

    @functools.cached_property
    def light(self):
        """Light of full tiles."""
        return SharedLight.of(self._tile_posterior, self.sources, fwhm=self._fwhm)

    def index_of(self, table, to_image):
        """Indices of the sources of the rows of a table, int array."""
        if 'source_index' not in table.colnames:
            # Files of version 0.1 lack that column.
            return self._index_by_place(table, to_image)
        order, given = np.argsort(self.keys), np.asarray(table['source_index'])
        place = np.searchsorted(self.keys, given, sorter=order)
        index = order[place.clip(max=len(order) - 1)]
        _check_found(self.keys[index] == given, 'the source_index', given)
        return index

    def _index_by_place(self, table, to_image):
        """The same by the positions of rows, which recur exactly."""
        own = [to_image(_plain(v)) for v in self.sources.place()]
        given = [
            np.asarray(table[name], float) for name in ('x_centroid', 'y_centroid')
        ]
        given = np.column_stack(given)
        distance, index = cKDTree(np.column_stack(own)).query(
            given, distance_upper_bound=_SAME_POSITION
        )
        _check_found(np.isfinite(distance), 'the position', given)
        return index


def _check_found(found, what, given):
    if not np.all(found):
        k = int(np.argmin(found))
        msg = (
            f'rows must come from this posterior; row {k} has {what} {given[k]}, '
            'unlike all of its sources'
        )
        raise ValueError(msg)


class SourceRows:
    """
    Chosen sources of a posterior in the pixels and units of its image.

    Parameters
    ----------
    posterior : `~bliss_astro.catalog.CatalogPosterior`
        The posterior.

    candidates : `Candidates`
        All of its sources.

    index : int array ``(N,)``
        Indices of the chosen ones.
    """

    def __init__(self, posterior, candidates, index):
        self.posterior, self._candidates = posterior, candidates
        self.index, self.keys = index, candidates.keys[index]
        self.sources = candidates.sources.select(index)

    def __len__(self):
        return len(self.sources)

    # -- summaries ---------------------------------------------------------------

    @property
    def probability(self):
        """Probability that there is a source."""
        return _plain(self.sources.probability).clip(0, 1)

    @property
    def galaxy_probability(self):
        """Probability of a galaxy given the source; `None` for encoders of stars."""
        return _plain(self.sources.galaxy) if self.sources.typed else None

    @functools.cached_property
    def draws_of_place(self):
        """Draws of the positions in tiles' pixels, two arrays ``(N, P)``."""
        return _plain(self.sources.x), _plain(self.sources.y)

    @functools.cached_property
    def _joined_place(self):
        return [_plain(v) for v in self.sources.place()]

    @property
    def place(self):
        """Positions x and y in pixels of the image, two arrays ``(N,)``."""
        return [self.posterior.to_image(v) for v in self._joined_place]

    def covariance(self, i, j):
        """Second moments of the positions about `place`, in square pixels."""
        first, second = (
            self.draws_of_place[k] - self._joined_place[k][:, None] for k in (i, j)
        )
        return self.posterior.binning**2 * (first * second).mean(1)

    def flux_quantile(self, q):
        """Quantiles of the fluxes in the unit of the image, ``(N,)``."""
        return self._flux(_plain(self.sources.quantile_flux(q)))

    @functools.cached_property
    def flux_levels(self):
        """Fluxes at -1, 0 and 1 sigma."""
        return [self.flux_quantile(q) for q in SIGMA_QUANTILES]

    def _flux(self, log_flux):
        """Fluxes of log-fluxes over the floor, ``(N, ...)``, with the light shared."""
        log_flux = self._candidates.light(log_flux, self.index)
        row, column = (v.cpu().numpy() for v in (self.sources.row, self.sources.column))
        floor = self.posterior.flux_floor[row, column]
        flux = floor.reshape(-1, *[1] * (log_flux.ndim - 1)) * np.exp(log_flux)
        unit = self.posterior.unit
        return flux if unit is None else flux * unit

    @functools.cached_property
    def _shape_summaries(self):
        return {
            name: [
                self._with_unit(name, values)
                for values in summarize_shape(name, self._shape_draws(name))
            ]
            for name in self.shape_names
        }

    def shape_summary(self, name):
        """Median and error of a shape parameter; `None` for both if not inferred."""
        return self._shape_summaries.get(name, (None, None))

    @property
    def shape_names(self):
        """Names of the inferred shape parameters."""
        return inferred_shapes(self.sources, self.posterior.tile_posterior.head)

    def _shape_draws(self, name):
        return shape_values(self.sources, name, binning=self.posterior.binning)

    def _with_unit(self, name, values):
        return shape_quantity(name, values, scale=self.posterior.pixel_scale)

    @property
    def flags(self):
        """Sums of `~bliss_astro.flags.CatalogFlag` bits."""
        posterior, (x, y) = self.posterior, self._joined_place
        flags = np.zeros(len(self), dtype=np.int64)
        if posterior.flags is not None:
            ny, nx = posterior.flags.shape
            column = np.clip(np.rint(x).astype(int), 0, nx - 1)
            row = np.clip(np.rint(y).astype(int), 0, ny - 1)
            flags = posterior.flags[row, column].astype(np.int64)
        reach = _BLEND_REACH * posterior.fwhm / posterior.binning
        if len(self) > 1:
            pairs = cKDTree(np.column_stack([x, y])).query_pairs(
                reach, output_type='ndarray'
            )
            flags[np.unique(pairs)] |= int(CatalogFlag.BLENDED)
        full = in_full_tile(
            posterior.tile_posterior, self.sources.row, self.sources.column
        )
        flags[full] |= int(CatalogFlag.FULL_TILE)
        return flags

    # -- intervals ---------------------------------------------------------------

    def quantiles(self, column, q):
        """Quantiles of a column at each of some probabilities, list of ``(N,)``."""
        if column == 'flux':
            return [self.flux_quantile(level) for level in q]
        if column in SHAPE_COLUMNS:
            self._check_shape(column)
            draws = self._shape_draws(column)
            if column == 'angle':
                limits = angle_quantiles(draws, q)
            else:
                limits = np.quantile(draws, q, axis=1)
            return [self._with_unit(column, limit) for limit in limits]
        if column not in ('x_centroid', 'y_centroid'):
            msg = (
                "column must be 'flux', 'x_centroid' or 'y_centroid', or one of the "
                f'shapes ({", ".join(SHAPE_COLUMNS)}), got {column!r}'
            )
            raise ValueError(msg)
        draws = self.draws_of_place[column == 'y_centroid']
        return list(np.quantile(self.posterior.to_image(draws), q, axis=1))

    def _check_shape(self, column):
        names = self.shape_names
        if column not in names:
            encoder = self.posterior.meta.get('encoder')
            text = explain_no_shapes(column, encoder, others=bool(names))
            raise ValueError(text)

    # -- draws -------------------------------------------------------------------

    def draw(self, n_samples, rng):
        """
        Draw positions, fluxes, types and shapes of the rows, each ``(N, n_samples)``.

        The numbers of one draw belong together; shapes, as if all were galaxies, do so
        among themselves.
        """
        rng, sources = check_rng(rng), self.sources
        x, y = self.draws_of_place
        # All positions at which the flux is described are alike, as in the quantiles;
        # each stands for those near it.
        n_described = sources.flux.shape[1]
        rows = np.arange(len(self))[:, None]
        size = len(self), n_samples
        at = rng.integers(min(n_described, x.shape[1]), size=size)
        pick = _pick_near(_nearest_described(x, y, n_described), at, rng)
        flux = sources.flux.cpu()[torch.as_tensor(rows), torch.as_tensor(at)]
        chosen = dataclasses.replace(
            sources,
            probability=flux[..., 0].flatten(),
            flux=flux.flatten(0, 1)[:, None],
        )
        generator = torch_generator(rng)
        galaxy = torch.zeros(at.size, dtype=torch.bool)
        if sources.typed:
            galaxy = torch.rand(at.size, generator=generator) < chosen.galaxy
        log_flux = chosen.flux_given(galaxy).sample(generator=generator)
        drawn = {
            'x_centroid': self.posterior.to_image(x[rows, pick]),
            'y_centroid': self.posterior.to_image(y[rows, pick]),
            'flux': self._flux(_plain(log_flux).reshape(size)),
        }
        if sources.typed:
            drawn['galaxy'] = galaxy.reshape(size).numpy()
        if names := self.shape_names:
            pick = rng.integers(sources.shapes.shape[1], size=size)
            for name in names:
                values = np.take_along_axis(self._shape_draws(name), pick, axis=1)
                drawn[name] = self._with_unit(name, values)
        return drawn

    def draw_column(self, column, n_samples, rng):
        """Draws of one column, which need not be inferred by every encoder."""
        names = ('x_centroid', 'y_centroid', 'flux', 'galaxy')
        if column not in (*names, *SHAPE_COLUMNS):
            msg = (
                f'column must be one of {", ".join(names)} or of the shapes '
                f'({", ".join(SHAPE_COLUMNS)}), got {column!r}'
            )
            raise ValueError(msg)
        if column in SHAPE_COLUMNS:
            self._check_shape(column)
        drawn = self.draw(n_samples, rng)
        if column == 'galaxy' and column not in drawn:
            return np.zeros((len(self), n_samples), dtype=bool)
        return drawn[column]


def tabulate_draw(posterior, catalog):
    """Table of a drawn `~bliss_astro.posteriors.TileCatalog`, brightest first."""
    grid, head = posterior.tile_posterior.grid, posterior.tile_posterior.head
    place = torch.arange(catalog.x.shape[-1], device=catalog.x.device)
    used = (place < catalog.count[0][..., None]).nonzero(as_tuple=True)
    row, column, _ = used
    x, y = grid.to_pixels(catalog.x[0][used], catalog.y[0][used], row, column)
    x, y, log_flux = (
        v.double().cpu().numpy() for v in (x, y, catalog.log_flux[0][used])
    )
    tile = (row * grid.shape[1] + column).cpu().numpy()
    if np.any(in_full_tile(posterior.tile_posterior, row, column)):
        log_flux = posterior._candidates(MIN_PROBABILITY).light.of_drawn(
            posterior.tile_posterior,
            np.column_stack([x, y]),
            log_flux,
            tile,
            fwhm=posterior.fwhm / posterior.binning,
        )
    flux = posterior.flux_floor.ravel()[tile] * np.exp(log_flux)
    order = np.argsort(-flux, kind='stable')
    flux = flux[order]
    table = QTable(
        {
            'x_centroid': posterior.to_image(x[order]),
            'y_centroid': posterior.to_image(y[order]),
            'flux': flux if posterior.unit is None else flux * posterior.unit,
        }
    )
    if head.galaxies:
        galaxy = catalog.galaxy[0][used].cpu().numpy()[order] > 0
        table['is_galaxy'] = galaxy
    if head.shapes:
        shapes = catalog.shape[0][used].cpu()[torch.as_tensor(order)]
        if latent_dim(head):
            table['latent'] = np.where(galaxy[:, None], shapes.numpy(), np.nan)
        else:
            options = {'scale': posterior.pixel_scale, 'binning': posterior.binning}
            table.update(tabulate_shapes(shapes, galaxy, **options))
    return table


def _plain(tensor):
    return tensor.double().cpu().numpy()


def _pick_near(nearest, at, rng):
    """Draw a member of ``nearest == at`` at random, for each of ``at``."""
    order = np.argsort(nearest, axis=1, kind='stable')
    counts = np.zeros((len(nearest), nearest.shape[1]), dtype=int)
    np.add.at(counts, (np.arange(len(nearest))[:, None], nearest), 1)
    first = np.take_along_axis(np.cumsum(counts, axis=1) - counts, at, axis=1)
    count = np.take_along_axis(counts, at, axis=1)
    # A description equal to another, which got all of its members, keeps itself.
    chosen = first + (rng.random(at.shape) * count).astype(int)
    chosen = np.take_along_axis(order, chosen.clip(max=nearest.shape[1] - 1), axis=1)
    return np.where(count > 0, chosen, at)


def _nearest_described(x, y, n_described):
    """Which of the first positions, where the flux is described, is nearest to each."""
    # In units of each source's own errors; equal positions have none.
    scale = np.maximum([x.std(1), y.std(1)], 1e-9)[..., None]
    x, y = x / scale[0], y / scale[1]
    nearest = np.zeros(x.shape, dtype=int)
    least = np.full(x.shape, np.inf)
    for k in range(min(n_described, x.shape[1])):
        distance = (x - x[:, k : k + 1]) ** 2 + (y - y[:, k : k + 1]) ** 2
        closer = distance < least
        nearest[closer], least[closer] = k, distance[closer]
    return nearest
