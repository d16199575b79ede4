# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Rows of a table as sources of a posterior: summaries, intervals and draws, row by row.

Inside, radii are pixels and angles radians; in tables radii are arcsec where there is
a celestial WCS and else pixels, and angles degrees. Every number of a shape is given
that the source is a galaxy.
"""

import dataclasses
import itertools

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from scipy.spatial import cKDTree

from bliss_astro._arguments import check_choice, torch_generator
from bliss_astro.flags import CatalogFlag
from bliss_astro.posteriors._source_chain import after_flux, true_values

from ._build import convert_column
from ._candidates import candidates_of
from ._columns import COLUMNS, SHAPE_COLUMNS, explain_no_shapes, is_direction
from ._shared_light import MIN_PROBABILITY, SIGMA_QUANTILES, in_full_tile, to_array

# Detections closer than this many FWHM are flagged as blended.
_BLEND_REACH = 1.5
_POSITION = ('x_centroid', 'y_centroid')
# Rows whose draws are sorted at once.
_PIECE = 1024


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
        self.posterior, self._candidates, self.index = posterior, candidates, index
        self.sources = candidates.select(index)
        # Draws ``(N, P)`` of the positions, and the places, in tiles' pixels.
        self._x, self._y = to_array(self.sources.x), to_array(self.sources.y)
        self._place = [to_array(v) for v in self.sources.place()]

    def __len__(self):
        return len(self.sources)

    # -- summaries ---------------------------------------------------------------

    def columns(self):
        """Values of the columns of a table, by name."""
        to_image, sources = self.posterior.to_image, self.sources
        x, y = self._x - self._place[0][:, None], self._y - self._place[1][:, None]
        # Second moments about the place, in square pixels.
        area = self.posterior.binning**2 / x.shape[1]
        x_x, y_y, x_y = (
            area * np.einsum('np,np->n', first, second)
            for first, second in ((x, x), (y, y), (x, y))
        )
        low, flux, high = self._flux(to_array(sources.sigma)).T
        columns = {
            'probability': to_array(sources.probability).clip(0, 1),
            'x_centroid': to_image(self._place[0]),
            'y_centroid': to_image(self._place[1]),
            'x_err': np.sqrt(x_x),
            'y_err': np.sqrt(y_y),
            'x_y_cov': x_y,
            'flux': flux,
            'flux_err': 0.5 * (high - low),
            'flags': self._flags(),
            'source_index': self._candidates.keys[self.index],
        }
        if sources.typed:
            columns['galaxy_probability'] = to_array(sources.galaxy)
        described = self.described
        draws = {name: self._draws(name, described) for name in described}
        for name, summary in summarize_draws(draws).items():
            summary = (self._in_table(name, values) for values in summary)
            columns[name], columns[f'{name}_err'] = summary
        return columns

    def _flags(self):
        """Sums of `~bliss_astro.flags.CatalogFlag` bits."""
        posterior, (x, y) = self.posterior, self._place
        flags = np.zeros(len(self), dtype=np.int64)
        by_pixel = posterior.flags
        if by_pixel is not None:
            ny, nx = by_pixel.shape
            column = np.clip(np.rint(x).astype(int), 0, nx - 1)
            row = np.clip(np.rint(y).astype(int), 0, ny - 1)
            flags = by_pixel[row, column].astype(np.int64)
        if len(self) > 1:
            reach = _BLEND_REACH * posterior.fwhm / posterior.binning
            tree = cKDTree(np.column_stack([x, y]))
            pairs = tree.query_pairs(reach, output_type='ndarray')
            flags[np.unique(pairs)] |= int(CatalogFlag.BLENDED)
        flags[self._candidates.full[self.index]] |= int(CatalogFlag.FULL_TILE)
        return flags

    def flux_quantiles(self, q):
        """Quantiles of the fluxes in the unit of the image, list of ``(N,)``."""
        levels = self.sources.x.new_tensor(q)[:, None]
        return list(self._flux(to_array(self.sources.quantile_flux(levels)).T).T)

    def _flux(self, log_flux):
        """Fluxes of log-fluxes over the floor, ``(N, ...)``, with the light shared."""
        log_flux = self._candidates.light(log_flux, self.index)
        row, column = (v.cpu().numpy() for v in (self.sources.row, self.sources.column))
        floor = self.posterior.flux_floor[row, column]
        flux = floor.reshape(-1, *[1] * (log_flux.ndim - 1)) * np.exp(log_flux)
        unit = self.posterior.unit
        return flux if unit is None else flux * unit

    @property
    def described(self):
        """Columns of what follows the flux, as of `columns_after_flux`."""
        described = self.posterior.facts.described
        # A file may hold parameters that are not known here.
        return {name: described[name] for name in described if name in COLUMNS}

    def _draws(self, name, described=None):
        """Draws ``(N, P)`` of such a column, lengths in pixels of the image."""
        parameter, k = (described or self.described)[name]
        values = self.sources.draws[parameter][..., k]
        return in_range(name, to_array(values), self.posterior.binning)

    def _in_table(self, name, values):
        return quantity_of(name, values, scale=self.posterior.pixel_scale)

    def _check_column(self, column, others):
        """Raise unless a column is one of ``others`` or follows the flux."""
        names = self.described
        if column in others or column in names:
            return
        if column in SHAPE_COLUMNS:
            encoder = self.posterior.meta.get('encoder')
            raise ValueError(explain_no_shapes(column, encoder, others=bool(names)))
        check_choice('column', column, (*others, *SHAPE_COLUMNS))

    # -- intervals and draws -----------------------------------------------------

    def quantiles(self, column, q):
        """Quantiles of a column at each of some probabilities, list of ``(N,)``."""
        self._check_column(column, ('flux', *_POSITION))
        if column == 'flux':
            return self.flux_quantiles(q)
        if column in _POSITION:
            draws = self._y if column == 'y_centroid' else self._x
            return list(np.quantile(self.posterior.to_image(draws), q, axis=1))
        limits = draw_quantiles(column, self._draws(column), q)
        return [self._in_table(column, limit) for limit in limits]

    def draw(self, n_samples, rng):
        """
        Draw positions, fluxes, types and shapes of the rows, each ``(N, n_samples)``.

        The numbers of one draw belong together; shapes, as if all were galaxies, do so
        among themselves.
        """
        sources, size = self.sources, (len(self), n_samples)
        # All positions at which the flux is described are alike, as in the quantiles;
        # each stands for those near it.
        rows, n_described = np.arange(len(self))[:, None], sources.flux.shape[1]
        at = rng.integers(min(n_described, self._x.shape[1]), size=size)
        pick = _pick_near(_nearest_described(self._x, self._y, n_described), at, rng)
        chosen = dataclasses.replace(sources, flux=sources.flux.cpu())
        chosen = chosen.at_positions(torch.as_tensor(at))
        generator = torch_generator(rng)
        galaxy = torch.zeros(at.size, dtype=torch.bool)
        if sources.typed:
            galaxy = torch.rand(at.size, generator=generator) < chosen.galaxy
        log_flux = chosen.flux_given(galaxy).sample(generator=generator)
        drawn = {
            'x_centroid': self.posterior.to_image(self._x[rows, pick]),
            'y_centroid': self.posterior.to_image(self._y[rows, pick]),
            'flux': self._flux(to_array(log_flux).reshape(size)),
        }
        if sources.typed:
            drawn['galaxy'] = galaxy.reshape(size).numpy()
        if names := self.described:
            n_draws = next(iter(sources.draws.values())).shape[1]
            pick = rng.integers(n_draws, size=size)
            for name in names:
                values = np.take_along_axis(self._draws(name), pick, axis=1)
                drawn[name] = self._in_table(name, values)
        return drawn

    def draw_column(self, column, n_samples, rng):
        """Draws of one column, which need not be inferred by every encoder."""
        self._check_column(column, (*_POSITION, 'flux', 'galaxy'))
        drawn = self.draw(n_samples, rng)
        # Encoders of stars infer no types.
        return drawn.get(column, np.zeros((len(self), n_samples), dtype=bool))


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


def columns_after_flux(entries):
    """
    Columns of what follows the flux, in the order of tables.

    Each has the name of its parameter and the index of its number there. The latent
    numbers of a learned model mean nothing by themselves, and have none.
    """
    places = {
        name: (entry.name, k)
        for entry in after_flux(entries)
        for k, name in enumerate(entry.column_names)
    }
    return {name: places[name] for name in COLUMNS if name in places}


def rows_of(posterior, table):
    """Sources of the rows of a table."""
    least = 0.0
    if 'probability' in table.colnames:
        # Rounded down, as probabilities of rows are rounded.
        least = float(np.min(table['probability'], initial=1.0)) * (1 - 1e-6)
    found, error = candidates_of(posterior, least), None
    # By rounding, what was computed anew may have a source more than at first.
    for some in [found, *(f for f in posterior._found if f.least < found.least)]:
        try:
            index = some.index_of(table, posterior.to_image)
        except ValueError as failure:
            error = error or failure
        else:
            return SourceRows(posterior, some, index)
    raise error


def tabulate_draws(posterior, catalog):
    """Tables of drawn `~bliss_astro.posteriors.TileCatalog`, brightest first."""
    tiles, n_draws = posterior.tile_posterior, len(catalog.count)
    grid = tiles.grid
    entries = [entry for entry in tiles.head.entries if not entry.auxiliary]
    place = torch.arange(catalog.x.shape[-1], device=catalog.x.device)
    used = (place < catalog.count[..., None]).nonzero(as_tuple=True)
    draw, row, column, _ = used
    values = true_values(entries, catalog, used)
    x, y = grid.to_pixels(*values['position'].unbind(-1), row, column)
    x, y, log_flux = (to_array(v) for v in (x, y, values['flux']))
    tile = (row * grid.shape[1] + column).cpu().numpy()
    full, draw = in_full_tile(tiles, row, column).any(), draw.cpu().numpy()
    if full:
        light, fwhm = candidates_of(posterior, MIN_PROBABILITY).light, posterior.fwhm
        log_flux = light.of_drawn(
            tiles,
            np.column_stack([x, y]),
            log_flux,
            tile,
            draw,
            fwhm=fwhm / posterior.binning,
        )
    flux = posterior.flux_floor.ravel()[tile] * np.exp(log_flux)
    # Of one draw after the other; stable.
    order = np.lexsort([-flux, draw])
    columns = {
        'x_centroid': posterior.to_image(x),
        'y_centroid': posterior.to_image(y),
        'flux': flux if posterior.unit is None else flux * posterior.unit,
    }
    if 'type' in values:
        columns['is_galaxy'] = to_array(values['type']) > 0
    drawn = {}
    for entry in after_flux(entries):
        own, value = entry.owners(values), values[entry.name]
        value = value if own is None else torch.where(own[:, None], value, torch.nan)
        drawn[entry.name] = to_array(value)
        if not entry.columns:
            name = 'latent' if entry.name == 'shape' else entry.name
            columns[name] = drawn[entry.name]
    for name, (parameter, k) in columns_after_flux(entries).items():
        own = in_range(name, drawn[parameter][:, k], posterior.binning)
        columns[name] = quantity_of(name, own, scale=posterior.pixel_scale)
    table = QTable({name: value[order] for name, value in columns.items()})
    ends = np.searchsorted(draw[order], np.arange(n_draws + 1))
    return [table[start:end] for start, end in itertools.pairwise(ends)]


# -- columns of draws --------------------------------------------------------------


def in_range(name, values, binning=1):
    """Degrees for radians, pixels for joined ones, and no ratio above 1 by rounding."""
    if is_direction(name):
        return _half_turn(np.rad2deg(values))
    if (limits := COLUMNS[name].limits) is not None:
        values = np.clip(values, limits.low, limits.high)
    return values * binning if COLUMNS[name].unit == 'length' else values


def quantity_of(name, values, *, scale):
    """Plain values, lengths in pixels and angles in degrees, in the table's unit."""
    values, unit = convert_column(name, values, scale=scale)
    return values if unit is None else u.Quantity(values, unit)


def summarize_draws(draws):
    """
    Medians, for directions the mean ones, and half widths of the 68 % intervals.

    Draws ``(N, P)`` by column. A direction that the data leave open has an error of
    61.4 degrees.
    """
    if not draws:
        return {}
    # Those of directions are differences from the mean.
    centred = [_centred(name, values) for name, values in draws.items()]
    pieces = (
        np.stack([values[first : first + _PIECE] for _, values in centred])
        for first in range(0, max(len(centred[0][1]), 1), _PIECE)
    )
    limits = [np.quantile(piece, SIGMA_QUANTILES, axis=-1) for piece in pieces]
    quantiles = np.concatenate(limits, axis=-1).swapaxes(0, 1)
    return {
        name: (mean if is_direction(name) else middle, 0.5 * (high - low))
        for name, (mean, _), (low, middle, high) in zip(
            draws, centred, quantiles, strict=True
        )
    }


def _centred(name, draws):
    """Mean and differences from it of draws of a direction; of others 0 and they."""
    if not is_direction(name):
        return 0.0, draws
    mean = mean_angle(draws)
    return mean, (np.asarray(draws) - mean[:, None] + 90.0) % 180.0 - 90.0


def mean_angle(angle):
    """
    Mean of directions without a sign over the last axis, in degrees in [0, 180).

    Half the argument of the mean of ``exp(2 i angle)``; 0 and 180 are the same.
    """
    phase = np.exp(2j * np.deg2rad(np.asarray(angle, dtype=float))).mean(-1)
    return _half_turn(0.5 * np.rad2deg(np.angle(phase)))


def draw_quantiles(name, draws, q):
    """
    Quantiles ``(..., N)`` of draws ``(N, P)`` of a column.

    Those of directions (``'angle'``, in degrees) are quantiles of the differences from
    `mean_angle`, which lie within 90 degrees, added to it: they may be below 0 or above
    180, so that the lower one of two is the smaller.
    """
    mean, apart = _centred(name, draws)
    return mean + np.quantile(apart, q, axis=1)


def _half_turn(angle):
    """Angles in [0, 180), whatever rounding does."""
    angle = np.mod(angle, 180.0)
    return np.where(angle >= 180.0, 0.0, angle)
