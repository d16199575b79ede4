# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The light of tiles that hold more sources than they have room for.

Of three stars in a tile that has room for two, two become rows, and the
encoder, which was never shown a third, may give its light to nobody.  What such a
tile emits can be measured nevertheless, and the flux of its rows is made to add
up to it.
"""

import numpy as np
import torch
from scipy.spatial import cKDTree

from bliss_astro.psf._mixture import profile_of_shape

__all__ = ['SharedLight', 'share_light']

# Half-size of the cut-outs in units of the PSF's full width.
_REACH = 1.5
# Departures of the light from that of the rows below this many sigma are noise.
_LEAST_SIGMA = 3.0
# Outliers of a distribution are widened like its values at that many sigma.
_MOST_SIGMA = 4.0
# Pixels of all rows of all tiles that are drawn at once.
_MOST_PIXELS = 1_000_000


def share_light(posterior, place, flux, full, *, fwhm, floor):
    """
    Factors by which rows of full tiles are too faint.

    The rows of a tile, drawn as points, are scaled together to the sum of the pixels
    around them, from which all other rows have been taken off.

    Parameters
    ----------
    posterior : `~bliss_astro.posteriors.TilePosterior`
        Of the image.

    place : pair of array ``(N,)``
        Positions of all rows in pixels.

    flux : array ``(N,)``
        Their fluxes.

    full : array ``(N,)`` of bool
        Which rows lie in full tiles.

    fwhm : float
        Of the PSF in pixels.

    floor : array ``(N,)``
        Flux floors, in the unit of ``flux``.

    Returns
    -------
    factor : array ``(N,)``
        At least 1; 1 where the rows have all the light.
    """
    factor = np.ones(len(flux))
    if not full.any():
        return factor
    pixels, size = posterior.pixels, posterior.grid.size
    place = np.column_stack(place)
    # Of each row, in y and in x as tiles are counted.
    tiles = ((place[:, ::-1] + 0.5) // size).astype(int)
    tiles = np.clip(tiles, 0, np.array(posterior.grid.shape) - 1)
    chosen, member = np.unique(tiles[full], axis=0, return_inverse=True)
    own = _lists(np.flatnonzero(full), member.ravel(), len(chosen))
    middle = np.array([place[rows].mean(0) for rows in own])
    radius = int(min(np.ceil(_REACH * fwhm), pixels.pad - 2 * size))
    near = cKDTree(place).query_ball_point(middle, 3 * radius)
    others = [np.setdiff1d(a, b) for a, b in zip(near, own, strict=True)]
    # Some tiles at once, as many as do not take much memory.
    most = max(len(rows) for rows in others) + 1
    step = max(1, _MOST_PIXELS // (most * (2 * radius + 1) ** 2))
    for first in range(0, len(chosen), step):
        some = slice(first, first + step)
        found = _factors(
            pixels,
            chosen[some],
            middle[some],
            place,
            flux / floor,
            own[some],
            others[some],
            radius,
        )
        for rows, value in zip(own[some], found, strict=True):
            factor[rows] = value
    return factor


def _lists(rows, member, n):
    """The rows of each of n groups."""
    order = np.argsort(member, kind='stable')
    return np.split(rows[order], np.cumsum(np.bincount(member, minlength=n))[:-1])


class SharedLight:
    """
    Distributions of fluxes, widened where a tile has more light than its rows.

    Whose the light is, is not known.  The median is multiplied by the factor, and
    the logarithm of the factor is added in quadrature to the width of the
    log-flux, so that the flux of a row is the median of what its samples and
    intervals describe.

    Parameters
    ----------
    factor : array ``(N,)``
        What `share_light` returns for all sources.

    middle, width : array ``(N,)``
        Median and half the width between the 16 and 84 % quantiles of their
        log-fluxes.
    """

    def __init__(self, factor, middle, width):
        # A width of 0 is that of a flux at the end of its range.
        width = np.maximum(width, np.finfo(np.float32).tiny)
        more = np.log(factor)
        self._parts = middle, width, more, np.hypot(width, more) - width

    def __call__(self, log_flux, index):
        """
        Change log-fluxes.

        Parameters
        ----------
        log_flux : array ``(n,)`` or ``(n, n_samples)``
            Quantiles or draws, over the flux floor.

        index : int array or tensor ``(n,)``
            Which sources they are of.

        Returns
        -------
        log_flux : array
            The same, bit by bit, where there is no light to share.
        """
        index = np.asarray(index.cpu() if hasattr(index, 'cpu') else index)
        shape = (-1,) + (1,) * (log_flux.ndim - 1)
        middle, width, more, wider = (v[index].reshape(shape) for v in self._parts)
        sigma = ((log_flux - middle) / width).clip(-_MOST_SIGMA, _MOST_SIGMA)
        return np.where(more > 0, log_flux + more + sigma * wider, log_flux)


def _factors(pixels, tiles, middle, place, ratio, own, others, radius):
    """Light of N tiles over that of their own rows, array ``(N,)``."""
    device = pixels.image.device

    def tensor(value, dtype=torch.float32):
        return torch.as_tensor(value, dtype=dtype, device=device)

    rows, columns = tensor(tiles, torch.long).unbind(1)
    where = (torch.zeros_like(rows), rows, columns)
    x, y = tensor(middle).unbind(1)
    patches = pixels.patches(where, x, y, radius)
    inputs = pixels.inputs
    unit = inputs.at_tiles(inputs.log_flux_floor, *where)[:, 0].exp()
    # As many rows of each tile, the missing ones without light.
    dx, dy = (v[:, None] for v in patches.offsets(x, y))
    shape = patches.shape[:, None]

    def drawn(lists):
        index = np.zeros((len(lists), max(len(rows) for rows in lists)), int)
        light = np.zeros(index.shape)
        for k, rows in enumerate(lists):
            index[k, : len(rows)], light[k, : len(rows)] = rows, ratio[rows]
        off = tensor(place[index] - middle[:, None])[..., None, None]
        p = profile_of_shape(
            shape, dx - off[:, :, 0], dy - off[:, :, 1], radius=patches.radius
        )
        flux = tensor(light) * unit[:, None]
        return (flux[..., None, None] * p).sum(1)

    # Plain sums over a circle: where the rows' light lies a little off, a
    # weighting by their profile would miss some of it.
    inside = (dx**2 + dy**2)[:, 0] < (radius + 0.5) ** 2
    inside = patches.good * inside
    model = (inside * drawn(own)).sum((1, 2))
    light = (inside * (patches.data - drawn(others))).sum((1, 2))
    variance = inside * patches.variance(patches.data)
    error = patches.covariance(inside, inside, variance).clamp(min=1).sqrt()
    more = (model > 0) & (light - model >= _LEAST_SIGMA * error)
    ones = torch.ones_like(model)
    return torch.where(more, light / torch.where(more, model, ones), ones).cpu().numpy()
