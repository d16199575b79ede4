# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posterior of one image: counts, intervals and draws of rows, whole catalogues.

The functions are methods of `~bliss_astro.catalog.CatalogPosterior`.
"""

import numpy as np
import torch
from astropy.table import QTable

from bliss_astro._random import check_rng, torch_generator
from bliss_astro._threads import use_threads
from bliss_astro.priors import GALAXY_SHAPE_NAMES

from ._build import check_count
from ._columns import SHAPE_COLUMNS
from ._full_tiles import MIN_PROBABILITY, in_full_tile
from ._rows import (
    ELLIPTICITY,
    Candidates,
    SourceRows,
    in_range,
    latent_dim,
    plain,
    shape_quantity,
)


def candidates_of(posterior, least):
    """Sources down to a probability, or to a lower one, with their links."""
    # Those that share the light of full tiles are always described in full.
    least = min(least, MIN_PROBABILITY)
    found = posterior._found
    if found is None or found.least > least:
        with use_threads():
            fwhm = posterior.fwhm / posterior.binning
            found = Candidates(posterior.tile_posterior, fwhm, least)
        posterior._found = found
    return found


def rows_of(posterior, table):
    """Sources of the rows of a table."""
    least = 0.0
    if 'probability' in table.colnames:
        # Rounded down, as probabilities of rows are rounded.
        least = float(np.min(table['probability'], initial=1.0)) * (1 - 1e-6)
    found = candidates_of(posterior, least)
    return SourceRows(posterior, found, found.index_of(table, posterior.to_image))


# -- counts ----------------------------------------------------------------------


def tile_moments(self):
    """Chance of a source, and mean and variance of the count, by tile."""
    with torch.no_grad(), use_threads():
        _, hidden = self.tile_posterior.decided()
        factor = self.tile_posterior.head.count_factor(hidden)
        number = torch.arange(factor.probs.shape[-1]).to(factor.probs)
        mean = factor.mean
        variance = (factor.probs * number**2).sum(-1) - mean**2
    return [plain(value[0]) for value in (factor.presence, mean, variance)]


def expected_counts(self, region=None):
    """
    Expected number of sources above the flux floor.

    Parameters
    ----------
    region : tuple of slice or 2D bool array ``(ny, nx)``, optional
        Part of the image in pixels; by default all of it. Tiles partly inside count
        by the share of their area. Masked pixels count too: there the posterior
        equals the prior.

    Returns
    -------
    count : float
        Mean of the number.
    """
    return float((_coverage(self, region) * self._tile_moments[1]).sum())


def expected_counts_error(self, region=None):
    """
    Standard deviation of the number of sources above the flux floor.

    Tiles are taken as independent given the sweep's decisions.

    Parameters
    ----------
    region : tuple of slice or 2D bool array ``(ny, nx)``, optional
        As for `expected_counts`.

    Returns
    -------
    error : float
        One sigma.
    """
    return float(np.sqrt((_coverage(self, region) * self._tile_moments[2]).sum()))


def _coverage(posterior, region):
    """Share of each tile that lies in a region."""
    ny, nx = posterior.shape
    size = posterior.tile_posterior.grid.size * posterior.binning
    rows, columns = posterior.tile_posterior.grid.shape
    # Pixels that are too few to be joined at the far edges belong to no tile.
    inside = np.zeros((max(rows * size, ny), max(columns * size, nx)))
    part = inside[:ny, :nx]
    if region is None:
        part[:] = 1
    elif isinstance(region, tuple) and [type(v) for v in region] == [slice] * 2:
        part[region] = 1
    elif np.shape(region) == (ny, nx) and np.asarray(region).dtype == bool:
        part[:] = region
    else:
        msg = (
            'region must be a pair of slices (rows, columns) or a boolean array of '
            f'shape {(ny, nx)}, got {region!r:.80}'
        )
        raise ValueError(msg)
    inside = inside[: rows * size, : columns * size]
    return inside.reshape(rows, size, columns, size).mean((1, 3))


# -- rows and draws --------------------------------------------------------------


def sample(self, n=1, *, rng=None):
    """
    Draw whole catalogues.

    Parameters
    ----------
    n : int, optional
        Number of catalogues.

    rng : int, `numpy.random.Generator` or None, optional
        Source of randomness.

    Returns
    -------
    catalogs : list of `~astropy.table.QTable`
        Each with ``x_centroid``, ``y_centroid`` (0-based pixels), ``flux``, where
        the encoder infers types ``is_galaxy``, and where it infers shapes the six
        numbers of a galaxy (``disk_fraction``, ..., ``angle``; NaN for stars) or,
        of a learned model, its ``latent`` numbers; brightest first.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, detect_sources
    >>> coadd, truth = CoaddSimulator(10).sample(rng=1)
    >>> posterior = detect_sources(coadd, encoder='stars').posterior
    >>> draws = posterior.sample(20, rng=1)
    >>> len(draws), draws[0].colnames
    (20, ['x_centroid', 'y_centroid', 'flux'])
    """
    n = check_count('n', n)
    generator = torch_generator(rng, device=self.tile_posterior.device)
    with use_threads():
        return [
            _tabulate(self, self.tile_posterior.sample(generator=generator))
            for _ in range(n)
        ]


def _tabulate(posterior, catalog):
    """Table of a drawn `~bliss_astro.posteriors.TileCatalog`, brightest first."""
    tiles = posterior.tile_posterior
    grid, head = tiles.grid, tiles.head
    place = torch.arange(catalog.x.shape[-1], device=catalog.x.device)
    used = (place < catalog.count[0][..., None]).nonzero(as_tuple=True)
    row, column, _ = used
    x, y = grid.to_pixels(catalog.x[0][used], catalog.y[0][used], row, column)
    x, y, log_flux = (plain(v) for v in (x, y, catalog.log_flux[0][used]))
    tile = (row * grid.shape[1] + column).cpu().numpy()
    if np.any(in_full_tile(tiles, row, column)):
        light, fwhm = candidates_of(posterior, MIN_PROBABILITY).light, posterior.fwhm
        log_flux = light.of_drawn(
            tiles,
            np.column_stack([x, y]),
            log_flux,
            tile,
            fwhm=fwhm / posterior.binning,
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
            return table
        for name in [name for name in SHAPE_COLUMNS if name not in ELLIPTICITY]:
            own = shapes[:, GALAXY_SHAPE_NAMES.index(name)]
            own = np.where(galaxy, in_range(name, own, posterior.binning), np.nan)
            table[name] = shape_quantity(name, own, scale=posterior.pixel_scale)
    return table


def interval(self, rows, column, *, level):
    """
    Equal-tailed credible intervals of rows.

    Parameters
    ----------
    rows : `~bliss_astro.catalog.ProbabilisticCatalog`
        Rows of a table that this posterior made.

    column : str
        ``'flux'``, ``'x_centroid'`` or ``'y_centroid'``, or where the
        encoder infers shapes one of theirs (``'disk_fraction'``, ...,
        ``'e2'``), given that the source is a galaxy.

    level : float
        Probability between the limits.

    Returns
    -------
    lower, upper : 1D `~numpy.ndarray` or `~astropy.units.Quantity`
        Limits in the unit of the tables; for ``'angle'`` perhaps below 0 or above
        180 degrees.

    Raises
    ------
    ValueError
        If a row is none of this posterior's, or if ``column`` or
        ``level`` is not allowed.
    """
    if not 0 < level < 1:
        msg = f'level must be between 0 and 1 (exclusive), got {level!r}'
        raise ValueError(msg)
    tails = 0.5 * (1 - level), 0.5 * (1 + level)
    lower, upper = rows_of(self, rows).quantiles(column, tails)
    return lower, upper


def sample_rows(self, rows, column, *, n_samples, rng=None):
    """
    Draw one column for given rows.

    Parameters
    ----------
    rows : `~bliss_astro.catalog.ProbabilisticCatalog`
        Rows of a table that this posterior made.

    column : str
        ``'x_centroid'``, ``'y_centroid'``, ``'flux'``, ``'galaxy'`` (whether each
        draw is one), or one of the shapes, as if every draw were a galaxy.

    n_samples : int
        Number of draws.

    rng : int, `numpy.random.Generator` or None, optional
        Source of randomness.

    Returns
    -------
    draws : `~numpy.ndarray` or `~astropy.units.Quantity`
        Shape ``(len(rows), n_samples)``, in the unit of the tables.
    """
    n_samples = check_count('n_samples', n_samples)
    return rows_of(self, rows).draw_column(column, n_samples, check_rng(rng))
