# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Rows of a table as sources of a posterior: summaries, intervals and draws, row by row.

Inside, radii are pixels and angles radians; in tables radii are arcsec where there is
a celestial WCS and else pixels, and angles degrees. Every number of a shape is given
that the source is a galaxy.
"""

import dataclasses
import functools
import itertools

import numpy as np
import torch
from astropy.table import QTable
from scipy.spatial import cKDTree

from bliss_astro._arguments import check_choice, torch_generator
from bliss_astro._threads import map_threads, split_pixels
from bliss_astro.flags import CatalogFlag
from bliss_astro.posteriors._source_parameters import after_flux, true_values

from ._bands import BandDraws
from ._candidates import candidates_of
from ._columns import COLUMNS, SHAPE_COLUMNS, explain_no_shapes
from ._draws import (
    columns_after_flux,
    draw_quantiles,
    in_range,
    quantity_of,
    summarize_draws,
)
from ._shared_light import MIN_PROBABILITY, SIGMA_QUANTILES, in_full_tile, to_array

# Detections closer than this many FWHM are flagged as blended.
_BLEND_REACH = 1.5
_POSITION = ('x_centroid', 'y_centroid')
# Quantiles of draws that share the probability evenly (Hazen): others have tails short.
_EVEN = 'hazen'
# Flags of all rows where the meta of a posterior names such bands.
_BAND_FLAGS = {
    'bands_missing': CatalogFlag.MISSING_BAND,
    'bands_resampled': CatalogFlag.RESAMPLED_BAND,
}


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
        # Places in tiles' pixels.
        self._place = [to_array(v) for v in self.sources.place()]

    def __len__(self):
        return len(self.sources)

    @functools.cached_property
    def _xy(self):
        """Draws ``(N, P)`` of x and of y in tiles' pixels."""
        return to_array(self.sources.x), to_array(self.sources.y)

    # -- summaries ---------------------------------------------------------------

    def _moments(self):
        """Second moments ``(N, 2, 2)`` about the places, in square pixels."""
        x, y = self.sources.x, self.sources.y
        place = torch.stack(self.sources.place(), 1)[..., None]

        def compute(index):
            apart = torch.stack([x[index], y[index]], 1) - place[index]
            return apart @ apart.mT

        pieces = split_pixels(len(x), 2 * x.shape[1], x.device)
        moments = to_array(torch.cat(map_threads(compute, pieces)))
        return self.posterior.binning**2 / x.shape[1] * moments

    def columns(self):
        """Values of the columns of a table, by name."""
        to_image, sources = self.posterior.to_image, self.sources
        (x_x, x_y), (_, y_y) = self._moments().transpose(1, 2, 0)
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
        for name in self._bands.names if self._bands else ():
            own = f'flux_{name}'
            low, columns[own], high = self.quantiles(own, SIGMA_QUANTILES)
            columns[f'{own}_err'] = 0.5 * (high - low)
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
        for key, flag in _BAND_FLAGS.items() if self._bands else ():
            if posterior.meta.get(key):
                flags |= int(flag)
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

    @functools.cached_property
    def _bands(self):
        """Draws of the fluxes in bands, `BandDraws` or None."""
        return BandDraws.of(self.sources.draws, self.posterior.meta)

    @functools.cached_property
    def _drawn_flux(self):
        """Fluxes ``(N, P)`` in the reference band of the draws of colours."""
        return self._flux(self._bands.log_flux)

    @property
    def _flux_names(self):
        """Bands by the name of the column of their flux."""
        return {f'flux_{name}': name for name in getattr(self._bands, 'names', ())}

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
        bands = self._flux_names
        self._check_column(column, ('flux', *bands, *_POSITION))
        # The flux in the reference band is the flux.
        if column in ('flux', *list(bands)[:1]):
            return self.flux_quantiles(q)
        if column in bands:
            ratio = np.exp(self._bands.log_ratio[bands[column]])
            flux = self._drawn_flux * ratio
            return list(np.quantile(flux, q, axis=1, method=_EVEN))
        if column in _POSITION:
            draws = self._xy[column == 'y_centroid']
            return list(np.quantile(self.posterior.to_image(draws), q, axis=1))
        limits = draw_quantiles(column, self._draws(column), q)
        return [self._in_table(column, limit) for limit in limits]

    def draw(self, n_samples, rng):
        """
        Draw positions, fluxes, types and shapes of the rows, each ``(N, n_samples)``.

        The numbers of one draw belong together, fluxes in bands among them; shapes, as
        if all were galaxies, do so among themselves.
        """
        sources, size = self.sources, (len(self), n_samples)
        # All positions at which the flux is described are alike, as in the quantiles;
        # each stands for those near it.
        rows, n_described = np.arange(len(self))[:, None], sources.flux.shape[1]
        x, y = self._xy
        at = rng.integers(min(n_described, x.shape[1]), size=size)
        pick = _pick_near(_nearest_described(x, y, n_described), at, rng)
        chosen = dataclasses.replace(sources, flux=sources.flux.cpu())
        chosen = chosen.at_positions(torch.as_tensor(at))
        generator = torch_generator(rng)
        galaxy = torch.zeros(at.size, dtype=torch.bool)
        if sources.typed:
            galaxy = torch.rand(at.size, generator=generator) < chosen.galaxy
        log_flux = chosen.flux_given(galaxy).sample(generator=generator)
        log_flux, galaxy = to_array(log_flux).reshape(size), galaxy.reshape(size)
        drawn = {
            'x_centroid': self.posterior.to_image(x[rows, pick]),
            'y_centroid': self.posterior.to_image(y[rows, pick]),
            'flux': self._flux(log_flux),
        }
        if sources.typed:
            drawn['galaxy'] = galaxy.numpy()
        if self._bands:
            for name, ratio in self._bands.given(log_flux, galaxy.numpy()).items():
                drawn[f'flux_{name}'] = drawn['flux'] * np.exp(ratio)
        if names := self.described:
            n_draws = next(iter(sources.draws.values())).shape[1]
            pick = rng.integers(n_draws, size=size)
            for name in names:
                values = np.take_along_axis(self._draws(name), pick, axis=1)
                drawn[name] = self._in_table(name, values)
        return drawn

    def draw_columns(self, columns, n_samples, rng):
        """Draws by column, which need not be inferred by every encoder."""
        for column in columns:
            self._check_column(
                column, (*_POSITION, 'flux', *self._flux_names, 'galaxy')
            )
        # Encoders of stars infer no types.
        no_galaxy = {'galaxy': np.zeros((len(self), n_samples), dtype=bool)}
        drawn = no_galaxy | self.draw(n_samples, rng)
        return {column: drawn[column] for column in columns}

    def color_quantiles(self, pair, q):
        """Quantiles of the colour of a pair of bands in magnitudes, ``(Q, N)``."""
        names = getattr(self._bands, 'names', ())
        for name in pair:
            check_choice('band', name, names)
        return np.quantile(self._bands.color(pair), q, axis=1, method=_EVEN)


def _fluxes_by_band(flux, colour, meta):
    """Columns of the fluxes of n drawn sources, of their colours ``(n, F)``."""
    draws = {'colour': colour[:, None], 'flux': torch.zeros(len(flux), 1, 1)}
    bands = BandDraws(draws, meta)
    return {f'flux_{b}': flux * np.exp(v[:, 0]) for b, v in bands.log_ratio.items()}


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
    entries = [entry for entry in tiles.entries if not entry.auxiliary]
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
        if entry.name == 'colour' and 'bands' in posterior.meta:
            columns |= _fluxes_by_band(columns['flux'], value, posterior.meta)
        elif not entry.columns:
            name = 'latent' if entry.name == 'shape' else entry.name
            columns[name] = drawn[entry.name]
    for name, (parameter, k) in columns_after_flux(entries).items():
        own = in_range(name, drawn[parameter][:, k], posterior.binning)
        columns[name] = quantity_of(name, own, scale=posterior.pixel_scale)
    table = QTable({name: value[order] for name, value in columns.items()})
    ends = np.searchsorted(draw[order], np.arange(n_draws + 1))
    return [table[start:end] for start, end in itertools.pairwise(ends)]
