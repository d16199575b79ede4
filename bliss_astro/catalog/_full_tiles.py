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

from bliss_astro.psf._mixture import profile_of_shape

__all__ = ['SharedLight', 'share_light']

# Half-size of the cut-outs in units of the PSF's full width.
_REACH = 1.5
# Departures of the light from that of the rows below this many sigma are noise.
_LEAST_SIGMA = 3.0
# Outliers of a distribution are widened like its values at that many sigma.
_MOST_SIGMA = 4.0


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
    pixels, size = posterior._pixels, posterior.grid.size
    x, y = (torch.as_tensor(v, dtype=torch.float32) for v in place)
    tiles = torch.stack(
        [((v + 0.5) / size).floor().long().clamp(0) for v in (y, x)], -1
    )
    rows, columns = posterior.grid.shape
    tiles = torch.minimum(tiles, torch.tensor([rows - 1, columns - 1]))
    radius = int(min(np.ceil(_REACH * fwhm), pixels.pad - 2 * size))
    for tile in tiles[torch.as_tensor(full)].unique(dim=0):
        own = ((tiles == tile).all(1)).numpy() & full
        near = np.hypot(
            place[0] - place[0][own].mean(), place[1] - place[1][own].mean()
        )
        others = np.flatnonzero((near < 3 * radius) & ~own)
        factor[own] = _factor_of(
            pixels, tile, (x, y), flux / floor, np.flatnonzero(own), others, radius
        )
    return factor


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


def _factor_of(pixels, tile, place, ratio, own, others, radius):
    device = pixels.image.device
    x, y = (v.to(device) for v in place)
    ratio = torch.as_tensor(ratio, dtype=torch.float32, device=device)
    one = torch.zeros(1, dtype=torch.long, device=device)
    where = (one, one + int(tile[0]), one + int(tile[1]))
    middle = [v[own].mean()[None] for v in (x, y)]
    patches = pixels.patches(where, *middle, radius)
    inputs = pixels.inputs
    unit = inputs.at_tiles(inputs.log_flux_floor, *where)[0, 0].exp()

    def drawn(rows):
        rows = torch.as_tensor(rows, device=device)
        dx, dy = patches.offsets(x[rows], y[rows])
        p = profile_of_shape(patches.shape, dx, dy, radius=patches.radius)
        return (ratio[rows][:, None, None] * unit * p).sum(0, keepdim=True)

    # Plain sums over a circle: where the rows' light lies a little off, a
    # weighting by their profile would miss some of it.
    dx, dy = patches.offsets(*middle)
    inside = patches.good * (dx**2 + dy**2 < (radius + 0.5) ** 2)
    model = float((inside * drawn(own)).sum())
    light = float((inside * (patches.data - drawn(others))).sum())
    variance = inside * patches.variance(patches.data)
    error = (
        float(patches.covariance(inside, inside, variance).sum().clamp(min=1)) ** 0.5
    )
    if model <= 0 or light - model < _LEAST_SIGMA * error:
        return 1.0
    return light / model
