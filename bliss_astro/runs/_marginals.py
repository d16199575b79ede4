# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Marginals of a field by cells of its image: expected counts, depth, masked pixels.

They take some 10 bytes a cell of 32 x 32 pixels, and are all that counts and draws over
any region of a survey need beside the rows.
"""

import numpy as np

from bliss_astro.exposures._psf import limiting_flux
from bliss_astro.units import unit_text

from ._sky import FieldSky

# Side of a cell in pixels, about, and signal-to-noise ratio of a star at the depth.
CELL, DEPTH_SNR = 32, 5.0


def marginals(catalog):
    """
    Marginals of a catalogue with its posterior: plain values and arrays by name.

    Parameters
    ----------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        Catalogue as `~bliss_astro.detection.detect_sources` returns it.

    Returns
    -------
    marginals : dict
        Plain values: ``unit`` of fluxes, ``flux_min`` of the prior, mean and variance
        of the number of sources (``n_mean``, ``n_variance``), the sum of the
        probabilities of the rows (``listed``), side of a ``cell`` in pixels, flux at a
        signal-to-noise ratio of 5 by band (``limits``), share of usable pixels
        (``share``), and ``sky``, `FieldSky` as a dict, None without a WCS.

        Arrays by cell ``(rows, columns)``: ``mean`` of the number, ``usable`` (percent
        of the pixels), and ``depth_BAND`` (magnitudes below the limit of the field).
    """
    posterior, exposure = catalog.posterior, catalog.exposure
    bands = catalog.exposures or {exposure.band or '': exposure}
    facts, shape = posterior.facts, posterior.shape
    side = facts.grid.size * posterior.binning
    n_tiles = -(-CELL // side)
    cell = side * n_tiles
    good, area = (_sums(v.astype(int), cell) for v in (~exposure.mask, np.ones(shape)))
    moments = np.zeros((2, *area.shape))
    inside = facts.grid_coverage(None, shape, posterior.binning)
    for cells, values in zip(moments, facts.moments[1:], strict=True):
        # Pixels that were too few to be joined at the far edges have no tiles.
        sums = _sums(values * inside, n_tiles)
        cells[: len(sums), : sums.shape[1]] = sums
    mean, variance = moments
    arrays = {
        'mean': mean.astype(np.float32),
        'usable': np.rint(100 * good / area).astype(np.uint8),
    }
    limits = {}
    for band, image in bands.items():
        limits[str(band)], arrays[f'depth_{band}'] = _depth(image, cell)
    sky = FieldSky.of(posterior.wcs, shape)
    return arrays | {
        'unit': unit_text(posterior.unit),
        'flux_min': float(np.median(posterior.flux_floor)),
        'n_mean': float(mean.sum()),
        'n_variance': float(variance.sum()),
        'listed': float(np.sum(catalog['probability'])),
        'cell': cell,
        'limits': limits,
        'band': str(exposure.band or ''),
        'share': float(good.sum() / area.sum()),
        'sky': None if sky is None else sky.to_dict(),
    }


def _sums(values, side):
    """Sums over squares of a map; the last ones may overhang."""
    edges = [np.arange(0, n, side) for n in np.shape(values)]
    return np.add.reduceat(np.add.reduceat(values, edges[0], 0), edges[1], 1)


def _depth(image, cell):
    """Flux of a star at the depth, and by cell how many magnitudes deeper."""
    good = ~image.mask
    noise = np.where(good, np.broadcast_to(image.bkg_error, good.shape), 0.0)
    with np.errstate(invalid='ignore'):
        noise = _sums(noise, cell) / _sums(good.astype(int), cell)
    # Of the PSF in nine places.
    places = [(np.arange(3) + 0.5) * n / 3 for n in good.shape]
    area = np.array([[image.psf_at(x, y).n_eff for x in places[1]] for y in places[0]])
    which = np.ix_(*(np.arange(n) * 3 // n for n in noise.shape))
    flux = limiting_flux(image, noise, 1.0, DEPTH_SNR) * np.sqrt(area[which])
    if np.isnan(flux).all():
        return None, np.full(noise.shape, np.nan, np.float16)
    middle = float(np.nanmedian(flux))
    return middle, (-2.5 * np.log10(flux / middle)).astype(np.float16)
