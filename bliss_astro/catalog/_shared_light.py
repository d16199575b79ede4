# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Shared light of full tiles, and the links of rows to candidate sources.

Where a tile has room for two, three stars become two rows, and the encoder, which was
trained on two at most, may assign the third one's light to neither. The sum of the
light of such a tile can be measured nevertheless, and the posterior of the fluxes of
its sources, samples and intervals included, is shifted and widened to add up to it.
"""

import functools

import numpy as np
import torch
from scipy.spatial import cKDTree

from bliss_astro._threads import use_threads
from bliss_astro.posteriors import find_sources

# Distance in pixels within which rows without an index are at the place of a source.
_SAME_POSITION = 0.01

# Quantiles of a normal distribution at -1, 0 and 1 sigma.
SIGMA_QUANTILES = (0.15865525, 0.5, 0.84134475)
# Sources of at least this probability share the light: those of a table by default.
MIN_PROBABILITY = 0.5
# Half-size of the cut-outs in units of the PSF's full width at half maximum.
_CUTOUT_RADIUS = 1.5
# Least excess of the measured light over that of the rows, in sigma.
_MIN_EXCESS = 3.0
# Values further from the median than so many sigma are widened like those there.
_MAX_DEVIATION = 4.0
# Pixels of all rows of all tiles that are rendered at once, which bounds the memory.
_BATCH_PIXELS = 1_000_000


def to_array(tensor):
    """Array of a tensor, in double precision."""
    return tensor.double().cpu().numpy()


def in_full_tile(posterior, row, column):
    """Whether tiles hold as many sources as they have room for, bool array ``(N,)``."""
    room = posterior.head.n_most
    if room == 1:
        # Every tile with a source is full then, which says nothing.
        return np.zeros(len(row), dtype=bool)
    count = posterior.decided()[0].count[0]
    return (count[row, column] >= room).cpu().numpy()


class Candidates:
    """
    All sources of a posterior down to a probability, with what links rows to them.

    Parameters
    ----------
    tile_posterior : `~bliss_astro.posteriors.TilePosterior`
        Posterior of one image.

    fwhm : float
        Full width at half maximum of the PSF in pixels.

    sources : `~bliss_astro.posteriors.SourceMarginals`
        The N sources.

    least : float
        Sources of lesser probability are left out or lack shapes.

    Attributes
    ----------
    keys : int array ``(N,)``
        The number of the tile times the number of sources that it may hold, plus the
        place in the tile: the same whatever ``least`` is.
    """

    def __init__(self, tile_posterior, fwhm, sources, least):
        self.sources, self.least = sources, least
        self._tile_posterior, self._fwhm = tile_posterior, fwhm
        row, column = (v.cpu().numpy() for v in (sources.row, sources.column))
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
        if 'source_index' in table.colnames:
            order, given = np.argsort(self.keys), np.asarray(table['source_index'])
            place = np.searchsorted(self.keys, given, sorter=order)
            index = order[place.clip(max=len(order) - 1)]
            found, name = self.keys[index] == given, 'the source_index'
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


def candidates_of(posterior, least):
    """
    Candidates of a `~bliss_astro.catalog.CatalogPosterior` down to a probability.

    They are kept; perhaps there are some of lesser probability among them.
    """
    found = posterior._found
    if found is None or found.least > min(least, MIN_PROBABILITY):
        with use_threads():
            find_candidates([posterior], posterior.tile_posterior, least)
    return posterior._found


def find_candidates(posteriors, tile_posterior, least):
    """
    Find the candidates of one or more posteriors at once, and keep them there.

    The posterior over tiles is that of all of their images together.
    """
    # Those that share the light of full tiles are always described in full.
    least = min(least, MIN_PROBABILITY)
    found = find_sources(tile_posterior, least=least)
    # Of all images at once: many operations, each of which takes its time.
    use = (found.probability >= least).nonzero()[:, 0]
    found.sigma = found.x.new_full((len(found), len(SIGMA_QUANTILES)), torch.nan)
    levels = found.x.new_tensor(SIGMA_QUANTILES)[:, None]
    found.sigma[use] = found.select(use).quantile_flux(levels).T
    parts = found.by_image(len(posteriors))
    for posterior, sources in zip(posteriors, parts, strict=True):
        fwhm = posterior.fwhm / posterior.binning
        tiles = posterior.tile_posterior
        posterior._found = Candidates(tiles, fwhm, sources, least)


class SharedLight:
    """
    Log-fluxes of sources, widened where a tile has more light than its rows.

    The assignment of the excess is ambiguous. The median is multiplied by the ratio of
    the light of the tile to that of its rows, and the logarithm of the ratio is added
    in quadrature to the width of the log-flux.

    Parameters
    ----------
    ratio : array ``(N,)``
        Light of the tile over that of its rows, at least 1, of all sources.

    middle, width : array ``(N,)``
        Median and half the width between the 16 and 84 % quantiles of their
        log-fluxes.

    tile : int array ``(N,)``, optional
        Numbers of their tiles, for `of_drawn`.
    """

    def __init__(self, ratio, middle, width, tile=None):
        self.ratio = ratio
        # A width of 0 is that of a flux at the end of its range.
        width = np.maximum(width, np.finfo(np.float32).tiny)
        more = np.log(ratio)
        self._parts = middle, width, more, np.hypot(width, more) - width
        self._tiles = () if tile is None else np.unique(tile[ratio > 1])

    @classmethod
    def of(cls, posterior, sources, *, fwhm):
        """
        Measure the light of the full tiles of an image.

        Parameters
        ----------
        posterior : `~bliss_astro.posteriors.TilePosterior`
            Posterior of one image.

        sources : `~bliss_astro.posteriors.SourceMarginals`
            All of its N sources.

        fwhm : float
            Full width at half maximum of the PSF in pixels.
        """
        ratio = np.ones(len(sources))
        middle, width = np.zeros((2, len(sources)))
        full = in_full_tile(posterior, sources.row, sources.column)
        x, y = (to_array(v) for v in sources.place())
        row, column = sources.row.cpu().numpy(), sources.column.cpu().numpy()
        likely = sources.probability >= MIN_PROBABILITY
        chosen = np.flatnonzero(likely.cpu().numpy())
        if full[chosen].any():
            flux = np.exp(to_array(sources.sigma[:, 1])[chosen])
            place = np.column_stack([x, y])[chosen]
            light = _measure_ratios(posterior, place, flux, full[chosen], fwhm=fwhm)
            ratio[chosen] = light
        changed = np.flatnonzero(ratio > 1)
        if len(changed):
            low, middle[changed], high = to_array(sources.sigma)[changed].T
            width[changed] = 0.5 * (high - low)
        return cls(ratio, middle, width, row * posterior.grid.shape[1] + column)

    def __call__(self, log_flux, index):
        """
        Shift and widen quantiles or draws of log-fluxes over the flux floor.

        Parameters
        ----------
        log_flux : array ``(n,)`` or ``(n, n_samples)``
            Quantiles or draws.

        index : int array ``(n,)``
            Their sources.

        Returns
        -------
        log_flux : array
            The same, bit by bit, where there is no light to share.
        """
        shape = (-1,) + (1,) * (log_flux.ndim - 1)
        middle, width, more, wider = (v[index].reshape(shape) for v in self._parts)
        limit = _MAX_DEVIATION
        sigma = ((log_flux - middle) / width).clip(-limit, limit)
        return np.where(more > 0, log_flux + more + sigma * wider, log_flux)

    def of_drawn(self, posterior, place, log_flux, tile, *, fwhm):
        """
        Scale the log-fluxes of a drawn catalogue in those tiles to their light.

        Parameters
        ----------
        posterior : `~bliss_astro.posteriors.TilePosterior`
            Posterior of the image.

        place, log_flux, tile : array ``(N, 2)``, ``(N,)``, ``(N,)``
            Positions in pixels, log-fluxes over the flux floor and numbers of the
            tiles of the drawn sources.

        fwhm : float
            Full width at half maximum of the PSF in pixels.
        """
        full = np.isin(tile, self._tiles)
        if not full.any():
            return log_flux
        ratio = _measure_ratios(posterior, place, np.exp(log_flux), full, fwhm=fwhm)
        return log_flux + np.log(ratio)


def _measure_ratios(posterior, place, flux, full, *, fwhm):
    """
    Light of full tiles over that of their rows, ``(N,)``, 1 for other rows.

    Rows are points at ``place`` ``(N, 2)``; fluxes are over the flux floor. Those of a
    tile are scaled together to the sum of the pixels around them, from which all other
    rows have been subtracted.
    """
    ratio = np.ones(len(flux))
    pixels, size = posterior.pixels, posterior.grid.size
    # Tiles of the rows, in y and in x.
    tiles = ((place[:, ::-1] + 0.5) // size).astype(int)
    tiles = np.clip(tiles, 0, np.array(posterior.grid.shape) - 1)
    chosen, member = np.unique(tiles[full], axis=0, return_inverse=True)
    rows = np.flatnonzero(full)
    own = [rows[member.ravel() == k] for k in range(len(chosen))]
    middle = np.array([place[rows].mean(0) for rows in own])
    radius = int(min(np.ceil(_CUTOUT_RADIUS * fwhm), pixels.pad - 2 * size))
    near = cKDTree(place).query_ball_point(middle, 3 * radius)
    others = [np.setdiff1d(a, b) for a, b in zip(near, own, strict=True)]
    most = max(len(rows) for rows in others) + 1
    step = max(1, _BATCH_PIXELS // (most * (2 * radius + 1) ** 2))
    for first in range(0, len(chosen), step):
        some = slice(first, first + step)
        found = _ratios(
            pixels,
            chosen[some],
            middle[some],
            radius,
            (place, flux),
            (own[some], others[some]),
        )
        for rows, value in zip(own[some], found, strict=True):
            ratio[rows] = value
    return ratio


def _ratios(pixels, tiles, middle, radius, stars, lists):
    """
    Light of tiles in cut-outs around their middles over that of their own rows.

    The two lists hold each tile's own rows and the others, of ``stars`` at places
    ``(N, 2)`` with fluxes over the flux floor.
    """

    def tensor(value, dtype=torch.float32):
        return torch.as_tensor(value, dtype=dtype, device=pixels.image.device)

    rows, columns = tensor(tiles, torch.long).unbind(1)
    where = (torch.zeros_like(rows), rows, columns)
    x, y = tensor(middle).unbind(1)
    patches = pixels.patches(where, x, y, radius)
    floor = pixels.inputs.log_flux_floor
    unit = pixels.inputs.at_tiles(floor, *where)[:, 0].exp()
    dx, dy = (v[:, None] for v in patches.offsets(x, y))
    # Plain sums over a circle: where the rows' light lies a little off, a
    # weighting by their profile would miss some of it.
    inside = patches.good * ((dx**2 + dy**2)[:, 0] < (radius + 0.5) ** 2)
    images = []
    for members in lists:
        # Padded by rows without light.
        index = np.zeros((len(members), max(len(rows) for rows in members)), int)
        light = np.zeros(index.shape)
        for k, rows in enumerate(members):
            index[k, : len(rows)], light[k, : len(rows)] = rows, stars[1][rows]
        off = tensor(stars[0][index] - middle[:, None])[..., None, None]
        profile = patches.psf[:, None](dx - off[:, :, 0], dy - off[:, :, 1])
        light = tensor(light) * unit[:, None]
        images.append((light[..., None, None] * profile).sum(1))
    model = (inside * images[0]).sum((1, 2))
    light = (inside * (patches.data - images[1])).sum((1, 2))
    error = patches.covariance(inside, inside, inside * patches.variance(patches.data))
    least = _MIN_EXCESS * error.clamp(min=1).sqrt()
    more = (model > 0) & (light - model >= least)
    ratio = torch.where(more, light / torch.where(more, model, 1.0), 1.0)
    return ratio.cpu().numpy()
