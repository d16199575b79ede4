# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Candidate sources of a posterior as it keeps them: marginals, a number in 16 bits.

A row takes some 2 kB with types and shapes: draws of position and shape are rounded to
1e-5 of their range, and mixtures of the log-flux to half precision, with means relative
to the highest component.
"""

import copy
import math

import numpy as np
import torch
from scipy.spatial import cKDTree

from bliss_astro._threads import use_threads
from bliss_astro.posteriors import find_sources
from bliss_astro.posteriors._factors import flux_parts
from bliss_astro.posteriors._marginals import SourceMarginals

from ._shared_light import (
    MIN_PROBABILITY,
    SIGMA_QUANTILES,
    SharedLight,
    in_full_tile,
    to_array,
)

# Steps from the least to the largest draw, an even number in 16 bits.
_STEPS = 2**16 - 2
# Distance in pixels within which rows without an index are at the place of a source.
_SAME_POSITION = 0.01


class Candidates:
    """
    Sources of a posterior down to a probability, with what links rows to them.

    Parameters
    ----------
    packed : dict of tensor
        What `pack` returns for the N sources.

    least : float
        Sources of lesser probability are left out.

    n_most, n_columns : int
        Number of sources that a tile may hold, and of columns of tiles.

    typed : bool
        Whether sources are stars or galaxies; else all are stars.

    Attributes
    ----------
    keys : int array ``(N,)``
        The number of the tile times the number of sources that it may hold, plus the
        place in the tile: the same whatever ``least`` is.

    full : bool array ``(N,)``
        Whether the tile has no room for another source.

    light : `SharedLight`
        Light of full tiles.
    """

    def __init__(self, packed, least, n_most, n_columns, *, typed):
        self._packed, self.least, self.typed = packed, least, typed
        self._n_most, self._n_columns = n_most, n_columns
        self.keys = packed['keys'].cpu().numpy()
        self.full = packed['full'].cpu().numpy()
        light = packed['light'].double().cpu().numpy()
        self.light = SharedLight(*light, self.keys // n_most)

    def __len__(self):
        return len(self.keys)

    @property
    def probability(self):
        """Probabilities, float array ``(N,)``."""
        return self._packed['probability'].cpu().numpy()

    @property
    def nbytes(self):
        """Memory in bytes."""
        return sum(value.nbytes for value in self._packed.values())

    @property
    def sources(self):
        """All of them, as `~bliss_astro.posteriors.SourceMarginals`."""
        return self.select(np.arange(len(self)))

    def select(self, index):
        """Some of them, as `~bliss_astro.posteriors.SourceMarginals`."""
        index = torch.as_tensor(index, device=self._packed['keys'].device)
        packed = {
            name: value[index]
            for name, value in self._packed.items()
            if name not in ('light', 'full')
        }
        tile = packed['keys'] // self._n_most
        tiles = torch.zeros_like(tile), tile // self._n_columns, tile % self._n_columns
        return unpack(packed, tiles, typed=self.typed)

    def to(self, device):
        """The same on another device."""
        made = copy.copy(self)
        made._packed = {name: v.to(device) for name, v in self._packed.items()}
        return made

    def to_arrays(self):
        """Arrays by name, and plain values, of which `from_arrays` makes the same."""
        arrays = {f'SOURCE_{k.upper()}': v.cpu() for k, v in self._packed.items()}
        arrays['SOURCE_FULL'] = arrays['SOURCE_FULL'].to(torch.uint8)
        return arrays, {
            'least': self.least,
            'n_most': self._n_most,
            'n_columns': self._n_columns,
            'typed': self.typed,
        }

    @classmethod
    def from_arrays(cls, tensors, meta):
        """Sources of the tensors and values of `to_arrays`, or more of them."""
        start = 'SOURCE_'
        packed = {
            name.removeprefix(start).lower(): value
            for name, value in tensors.items()
            if name.startswith(start)
        }
        packed['full'] = packed['full'].bool()
        return cls(packed, **meta)

    def index_of(self, table, to_image):
        """Indices of the sources of the rows of a table, int array."""
        if 'source_index' in table.colnames:
            order, given = np.argsort(self.keys), np.asarray(table['source_index'])
            place = np.searchsorted(self.keys, given, sorter=order)
            index = order[place.clip(max=len(order) - 1)] if len(order) else place
            found, name = np.isin(given, self.keys), 'the source_index'
        else:
            # Files of version 0.1 lack that column; positions recur exactly.
            own = np.column_stack([to_image(to_array(v)) for v in self.sources.place()])
            given = np.column_stack(
                [np.asarray(table[v], float) for v in ('x_centroid', 'y_centroid')]
            )
            reach = {'distance_upper_bound': _SAME_POSITION}
            distance, index = cKDTree(own).query(given, **reach)
            found, name = np.isfinite(distance), 'the position'
        if not np.all(found):
            k = int(np.argmin(found))
            msg = (
                f'rows must come from this posterior; row {k} has {name} {given[k]}, '
                'unlike all of its sources'
            )
            raise ValueError(msg)
        return index


def pack(sources):
    """Marginals of sources with numbers in 16 bits, dict of tensors with N rows."""
    logits, mean, scale = flux_parts(sources.flux)
    # From the highest component, which may be narrow.
    best = logits.flatten(1).argmax(1, keepdim=True)
    packed = {
        'probability': sources.probability,
        'centre': torch.stack(sources.place(), 1),
        'high': sources.flux[..., 0].mean(1),
        'flux_mean': mean.flatten(1).gather(1, best),
    }
    apart = mean - packed['flux_mean'][..., None]
    packed['flux'] = torch.stack([logits, apart, scale], -2).half()
    draws = {f'draws_{name}': value for name, value in sources.draws.items()}
    for name, value in ({'x': sources.x, 'y': sources.y} | draws).items():
        packed |= pack_draws(name, value)
    return packed


def pack_draws(name, draws):
    """Draws in ``_STEPS`` from the least to the largest of each source."""
    least, step = draws.amin(1, keepdim=True), draws.amax(1, keepdim=True)
    step = (step - least) / _STEPS
    steps = (draws - least) / torch.where(step > 0, step, 1.0) - _STEPS // 2
    limits = {f'{name}_least': least, f'{name}_step': step}
    return limits | {name: steps.round().to(torch.int16)}


def unpack_flux(packed):
    """Distributions of the log-flux of what `pack` returned."""
    flux = packed['flux'].float()
    flux[..., 1, :] += packed['flux_mean'][..., None]
    high = packed['high'][:, None, None].expand(-1, flux.shape[1], 1)
    return torch.cat([high, flux.flatten(2)], -1)


def unpack(packed, tiles, *, typed):
    """`~bliss_astro.posteriors.SourceMarginals` of what `pack` returned."""
    drawn = {}
    for name, step in packed.items():
        if name.endswith('_step'):
            name = name.removesuffix('_step')
            steps = packed[name].float() + _STEPS // 2
            drawn[name] = packed[f'{name}_least'] + steps * step
    return SourceMarginals(
        packed['probability'],
        drawn.pop('x'),
        drawn.pop('y'),
        unpack_flux(packed),
        *tiles,
        typed=typed,
        draws={k.removeprefix('draws_'): v for k, v in drawn.items()},
        sigma=packed.get('sigma'),
        centre=packed['centre'],
    )


def candidates_of(posterior, least):
    """
    Candidates of a `~bliss_astro.catalog.CatalogPosterior` down to a probability.

    They are kept; perhaps there are some of lesser probability among them.
    """
    for found in posterior._found:
        if found.least <= min(least, MIN_PROBABILITY):
            return found
    tiles = posterior.tile_posterior
    with use_threads():
        find_candidates([posterior], tiles, least)
    return posterior._found[-1]


def find_candidates(posteriors, tile_posterior, least):
    """
    Find the candidates of one or more posteriors at once, and keep them there.

    The posterior over tiles is that of all of their images together.
    """
    # Those that share the light of full tiles are always described in full.
    least, grid = min(least, MIN_PROBABILITY), tile_posterior.grid
    found = find_sources(tile_posterior, least=least)
    # Of all images at once: many operations, each of which takes its time.
    use = (found.probability >= least).nonzero()[:, 0]
    tile = (found.image * grid.shape[0] + found.row) * grid.shape[1] + found.column
    order = tile.argsort(stable=True)
    place = torch.empty_like(tile)
    first = torch.searchsorted(tile[order], tile[order])
    place[order] = torch.arange(len(tile), device=tile.device) - first
    n_most = tile_posterior.head.n_most
    keys = ((tile % math.prod(grid.shape)) * n_most + place)[use]
    found = found.select(use)
    packed = pack(found)
    # Quantiles of what is kept.
    found.flux = unpack_flux(packed)
    levels = found.x.new_tensor(SIGMA_QUANTILES)[:, None]
    found.sigma = found.quantile_flux(levels).T
    packed |= {'sigma': found.sigma, 'keys': keys}
    for k, posterior in enumerate(posteriors):
        own = (found.image == k).nonzero()[:, 0]
        part = {name: value[own] for name, value in packed.items()}
        tiles, fwhm = posterior.tile_posterior, posterior.fwhm / posterior.binning
        sources = found.select(own)
        part['full'] = in_full_tile(tiles, sources.row, sources.column)
        light = SharedLight.of(tiles, sources, fwhm=fwhm)
        light = np.float32([light.ratio, light.middle, light.width])
        part['light'] = torch.from_numpy(light).to(keys.device)
        shape = n_most, grid.shape[1]
        candidates = Candidates(part, least, *shape, typed=found.typed)
        posterior._found.append(candidates)
