# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Shared light of full tiles.

Where a tile has room for two, three stars become two rows, and the encoder, which was
trained on two at most, may assign the third one's light to neither. The sum of the
light of such a tile can be measured nevertheless, and the posterior of the fluxes of
its sources, samples and intervals included, is shifted and widened to add up to it.
"""

import numpy as np
import torch
from scipy.spatial import cKDTree

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
    """Whether tiles have no room for another source, bool tensor ``(N,)``."""
    room = posterior.head.n_most
    if room == 1:
        # Every tile with a source is full then, which says nothing.
        return torch.zeros_like(row, dtype=torch.bool)
    count = posterior.decided()[0].count[0]
    return count[row, column] >= room


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
        self.ratio, self.middle, self.width = ratio, middle, width
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
        full = in_full_tile(posterior, sources.row, sources.column).cpu().numpy()
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

    def of_drawn(self, posterior, place, log_flux, tile, draw, *, fwhm):
        """
        Scale the log-fluxes of drawn catalogues in those tiles to their light.

        Parameters
        ----------
        posterior : `~bliss_astro.posteriors.TilePosterior`
            Posterior of the image.

        place, log_flux, tile, draw : array ``(N, 2)``, ``(N,)``, ``(N,)``, ``(N,)``
            Positions in pixels, log-fluxes over the flux floor, and numbers of the
            tiles and of the catalogues of the drawn sources.

        fwhm : float
            Full width at half maximum of the PSF in pixels.
        """
        full = np.isin(tile, self._tiles)
        if not full.any():
            return log_flux
        given = place, np.exp(log_flux), full, draw
        return log_flux + np.log(_measure_ratios(posterior, *given, fwhm=fwhm))


def _measure_ratios(posterior, place, flux, full, draw=0, *, fwhm):
    """
    Light of full tiles over that of their rows, ``(N,)``, 1 for other rows.

    Rows are points at ``place`` ``(N, 2)``; fluxes are over the flux floor. Those of a
    tile are scaled together to the sum of the pixels around them, from which all other
    rows of the same draw have been subtracted.
    """
    ratio = np.ones(len(flux))
    pixels, size = posterior.pixels, posterior.grid.size
    # Tiles of the rows, in y and in x.
    tiles = ((place[:, ::-1] + 0.5) // size).astype(int)
    tiles = np.clip(tiles, 0, np.array(posterior.grid.shape) - 1)
    tiles = np.column_stack([np.broadcast_to(draw, len(tiles)), tiles])
    chosen, member = np.unique(tiles[full], axis=0, return_inverse=True)
    rows = np.flatnonzero(full)[np.argsort(member.ravel(), kind='stable')]
    own = np.split(rows, np.cumsum(np.bincount(member.ravel()))[:-1])
    middle = np.array([place[rows].mean(0) for rows in own])
    radius = int(min(np.ceil(_CUTOUT_RADIUS * fwhm), pixels.pad - 2 * size))
    # Draws lie in planes that are far apart.
    apart = 10.0 * radius
    tree = cKDTree(np.column_stack([place, apart * tiles[:, 0]]))
    points = np.column_stack([middle, apart * chosen[:, 0]])
    near, chosen = tree.query_ball_point(points, 3 * radius), chosen[:, 1:]
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
    patches = pixels.patches(where, x, y, radius).reference
    floor = pixels.inputs.log_flux_floor
    unit = pixels.inputs.at_tiles(floor, *where)[:, 0].exp()
    dx, dy = patches.offsets(x, y)
    # Plain sums over a circle: where the rows' light lies a little off, a
    # weighting by their profile would miss some of it.
    inside = patches.good * ((dx**2 + dy**2) < (radius + 0.5) ** 2)
    images = []
    for members in lists:
        # Padded by rows without light.
        index = np.zeros((len(members), max(len(rows) for rows in members)), int)
        light = np.zeros(index.shape)
        for k, rows in enumerate(members):
            index[k, : len(rows)], light[k, : len(rows)] = rows, stars[1][rows]
        off = tensor(stars[0][index] - middle[:, None])[..., None, None]
        profile = patches.psf(dx - off[:, :, 0], dy - off[:, :, 1])
        light = tensor(light) * unit[:, None]
        images.append((light[..., None, None] * profile).sum(1, keepdim=True))
    model = (inside * images[0]).sum((1, 2, 3))
    light = (inside * (patches.data - images[1])).sum((1, 2, 3))
    variance = inside * patches.variance(patches.data)
    error = patches.covariance(inside[:, None], variance)[:, 0, 0, 0]
    least = _MIN_EXCESS * error.clamp(min=1).sqrt()
    more = (model > 0) & (light - model >= least)
    ratio = torch.where(more, light / torch.where(more, model, 1.0), 1.0)
    return ratio.cpu().numpy()
