# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The posterior over tiles of a catalogue posterior: kept, or computed anew.

Numbers by tile, which tables, counts and pictures need, are always kept.
"""

import copy
import dataclasses
import zlib

import numpy as np
import torch

from bliss_astro._arguments import must
from bliss_astro._threads import use_threads
from bliss_astro.posteriors import TileGrid
from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._profile import half_maximum_radius
from bliss_astro.rendering._scene import cell_middles, cell_side

from ._draws import columns_after_flux

_LACKS_TILES = (
    'this posterior keeps no features, and no exposure to compute them from (files do '
    'not keep it): joint draws, densities and sources that it does not keep need '
    "keep='posterior' in the detection"
)


@dataclasses.dataclass
class TileFacts:
    """
    Numbers by tile, and the PSF, of one image; lengths are in pixels of the tiles.

    ``described`` are the columns of what follows the flux, ``log_density`` the prior's
    density of sources per pixel, ``(rows, columns)`` or ``(1, 1)``, ``moments``
    ``(3, rows, columns)`` the probability of a source and mean and variance of their
    number, ``psf`` shapes in the middles of square cells of ``psf_side``, ``fwhm`` that
    in the middle of the image, and ``noise`` the median by pixel, in the floor's unit.
    """

    grid: TileGrid
    described: dict
    log_density: np.ndarray
    moments: np.ndarray
    psf: np.ndarray
    psf_side: int
    psf_radius: float
    fwhm: float
    noise: float

    @classmethod
    def of(cls, tiles, flux_floor):
        """Facts of a `~bliss_astro.posteriors.TilePosterior` with its flux floor."""
        inputs, grid = tiles.inputs, tiles.grid
        psf = inputs.psf[0, 0].movedim(0, -1).float().cpu()
        vector = psf[psf.shape[0] // 2, psf.shape[1] // 2].double().numpy()
        side = cell_side(varies=psf.shape[0] * psf.shape[1] > 1)
        rows, columns = (
            ((cell_middles(side, n) + 0.5) // grid.size).astype(int).clip(max=most - 1)
            for n, most in zip(grid.image_shape, psf.shape, strict=False)
        )
        floor = np.asarray(flux_floor, dtype=float)
        log_floor = inputs.log_flux_floor[0, 0].double().cpu().numpy()
        return cls(
            grid,
            columns_after_flux(tiles.head.entries),
            inputs.log_density[0, 0].cpu().numpy(),
            _moments(tiles),
            psf.numpy()[np.ix_(rows, columns)],
            side,
            float(inputs.normalization_radius),
            float(2 * half_maximum_radius(vector)),
            float(np.median(floor / np.exp(log_floor))),
        )

    @property
    def psf_grid(self):
        """The PSF as `~bliss_astro.rendering._scene.psf_grid` returns it."""
        shapes, radius = torch.from_numpy(self.psf), self.psf_radius
        return self.psf_side, GaussianPSF.from_shape(
            shapes, normalization_radius=radius
        )

    def grid_coverage(self, region, shape, binning):
        """Share of each tile in a region of an image of joined pixels or others."""
        (ny, nx), (rows, columns) = shape, self.grid.shape
        size = self.grid.size * binning
        region = (slice(None),) * 2 if region is None else region
        if isinstance(region, tuple) and [type(part) for part in region] == [slice] * 2:
            pairs = zip((ny, nx), (rows, columns), region, strict=True)
            along_y, along_x = (_coverage_along(*pair, size) for pair in pairs)
            return along_y[:, None] * along_x
        part = np.asarray(region)
        if part.shape != (ny, nx) or part.dtype != bool:
            allowed = 'be a pair of slices (rows, columns) or a boolean array of shape'
            msg = must('region', f'{allowed} {(ny, nx)}', f'{region!r:.80}')
            raise ValueError(msg)
        inside = np.zeros((rows * size, columns * size), dtype=bool)
        part = part[: rows * size, : columns * size]
        inside[: part.shape[0], : part.shape[1]] = part
        return inside.reshape(rows, size, columns, size).mean((1, 3))


def _coverage_along(n, n_tiles, part, size):
    """Share of each tile along an axis of n pixels that lies in a slice."""
    # Pixels that are too few to be joined at the far edge belong to no tile.
    inside = np.zeros(max(n_tiles * size, n))
    inside[:n][part] = 1
    return inside[: n_tiles * size].reshape(n_tiles, size).mean(1)


@torch.no_grad()
def _moments(tiles):
    with use_threads():
        _, factor = tiles.decided()
        number = torch.arange(factor.probs.shape[-1]).to(factor.probs)
        mean = factor.mean
        variance = (factor.probs * number**2).sum(-1) - mean**2
    moments = factor.presence, mean, variance
    return torch.stack([value[0] for value in moments]).float().cpu().numpy()


class KeptTiles:
    """
    Posterior over the tiles of an image: itself, or a function that computes it anew.

    ``tiles`` is the posterior, or what is left of it, `TileFacts`; the ``flux_floor``
    is the prior's smallest flux by tile.
    """

    def __init__(self, tiles, flux_floor):
        self._floor, self._source = flux_floor, None
        self._tiles, self._facts = tiles, None
        if isinstance(tiles, TileFacts):
            self._tiles, self._facts = None, tiles

    @property
    def facts(self):
        """Numbers by tile, `TileFacts`."""
        if self._facts is None:
            self._facts = TileFacts.of(self._tiles, self._floor)
        return self._facts

    def tiles_of(self, posterior):
        """The posterior over tiles, computed anew for its owner if need be."""
        if self._tiles is None:
            lost = posterior.exposure is None and not self.is_whole
            if self._source is None or lost:
                raise ValueError(_LACKS_TILES)
            with use_threads():
                self._tiles = self._source(posterior)
        return self._tiles

    def drop(self, source):
        """Drop the posterior over tiles for a function that computes it anew."""
        self._facts, self._tiles, self._source = self.facts, None, source

    @property
    def can_remake(self):
        """Whether the posterior over tiles can be computed anew."""
        return self._source is not None

    @property
    def is_whole(self):
        """Whether features are kept, or the posterior itself."""
        source = self._source
        return self._tiles is not None if source is None else source.keeps_features

    def to(self, device):
        """The same on another device, where it can be computed anew."""
        made = copy.copy(self)
        made._tiles, made._source = None, self._source.to(device)
        return made

    @property
    def nbytes(self):
        """Memory in bytes."""
        held = [self.facts, self._tiles, self._source]
        for tiles in (self._tiles, self._source):
            held += [getattr(tiles, name, None) for name in ('inputs', 'pixels')]
        parts = [v for one in held for v in getattr(one, '__dict__', {}).values()]
        # Inputs are those of several.
        kinds = torch.Tensor | np.ndarray
        sizes = {id(v): v.nbytes for v in parts if isinstance(v, kinds)}
        return self._floor.nbytes + sum(sizes.values())


class PackedMap:
    """Map of small integers, most of them alike, in few bytes."""

    def __init__(self, values):
        small = np.max(values, initial=0) < 2**15
        values = np.ascontiguousarray(values, np.int16 if small else None)
        self._shape, self._dtype = values.shape, values.dtype
        self._packed = zlib.compress(values, 1)

    def array(self):
        """The values, read-only."""
        values = np.frombuffer(zlib.decompress(self._packed), self._dtype)
        return values.reshape(self._shape)

    @property
    def nbytes(self):
        """Memory in bytes."""
        return len(self._packed)
