# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posterior of one image: tables at a threshold, counts, intervals, whole catalogues.
"""

import functools

import numpy as np
import torch

from bliss_astro._arguments import (
    check_fraction,
    check_integer,
    check_rng,
    check_threshold,
    must,
    torch_generator,
)
from bliss_astro._threads import use_threads
from bliss_astro.psf._profile import half_maximum_radius

from . import _fits
from ._catalog import ProbabilisticCatalog
from ._columns import pixel_scale
from ._rows import SourceRows, tabulate_draw
from ._shared_light import candidates_of, to_array


class CatalogPosterior:
    """
    Posterior over whole catalogues of one image.

    It belongs to the image, not to rows: `sample` draws catalogues, `expected_counts`
    integrates over a region, `at_threshold` makes a table.

    Parameters
    ----------
    tile_posterior : `~bliss_astro.posteriors.TilePosterior`
        Posterior over the tiles of the image.

    flux_floor : float or 2D array_like ``(rows, columns)``
        Smallest flux of the prior in data units, by tile.

    unit : unit-like or None, optional
        Unit of the fluxes.

    wcs : WCS object or None, optional
        Celestial WCS of the image.

    flags : 2D int array ``(ny, nx)`` or None, optional
        Sums of `~bliss_astro.flags.CatalogFlag` bits for a source at each pixel.

    meta : dict, optional
        Metadata of the tables.

    exposure : `~bliss_astro.exposures.Exposure` or None, optional
        The image as it was measured; no copy. Files do not keep it.

    binning : int, optional
        Side in pixels of the squares that were joined to one before detection. Tables
        and ``wcs`` are in pixels of the image, tiles and ``flags`` in the larger ones.

    image_shape : tuple of int, optional
        Shape of the image, where that is not the one of the joined pixels.

    Notes
    -----
    A posterior keeps features and inputs of the encoder, some 60 bytes a pixel
    (`nbytes`), and the exposure. `to` copies it to another device,
    `ProbabilisticCatalog.drop_posterior
    <bliss_astro.catalog.ProbabilisticCatalog.drop_posterior>` frees it.
    """

    def __init__(
        self,
        tile_posterior,
        flux_floor,
        *,
        unit=None,
        wcs=None,
        flags=None,
        meta=None,
        exposure=None,
        binning=1,
        image_shape=None,
    ):
        self.exposure = exposure
        self.binning = int(binning)
        self._image_shape = image_shape
        self.tile_posterior = tile_posterior
        shape = tile_posterior.grid.shape
        self.flux_floor = np.broadcast_to(np.asarray(flux_floor, float), shape)
        self.unit, self.wcs, self.flags = unit, wcs, flags
        self.meta = dict(meta or {})
        self._found = None

    def __repr__(self):
        size = ' x '.join(map(str, self.shape))
        return f'<CatalogPosterior of {size} px, {self.n_tiles} tiles>'

    @property
    def shape(self):
        """Shape ``(ny, nx)`` of the image."""
        return self._image_shape or self.tile_posterior.grid.image_shape

    @property
    def n_tiles(self):
        """Number of tiles."""
        return int(np.prod(self.tile_posterior.grid.shape))

    @functools.cached_property
    def fwhm(self):
        """Full width at half maximum of the PSF in the middle, in pixels."""
        inputs = self.tile_posterior.inputs
        _, rows, columns = inputs.psf[0].shape
        vector = inputs.psf[0, :, rows // 2, columns // 2].double().cpu().numpy()
        return self.binning * float(2 * half_maximum_radius(vector))

    @functools.cached_property
    def pixel_scale(self):
        """Arcsec per pixel, the mean over both axes; `None` without a WCS."""
        return None if self.wcs is None else pixel_scale(self.wcs)

    def to_image(self, place):
        """Pixel coordinates of the image from those of joined pixels."""
        return (place + 0.5) * self.binning - 0.5 if self.binning > 1 else place

    @property
    def sources(self):
        """Marginals of all candidate sources."""
        return candidates_of(self, 0.0).sources

    @functools.cached_property
    def _tile_moments(self):
        """Chance of a source, and mean and variance of the count, by tile."""
        with torch.no_grad(), use_threads():
            _, hidden = self.tile_posterior.decided()
            factor = self.tile_posterior.head.count_factor(hidden)
            number = torch.arange(factor.probs.shape[-1]).to(factor.probs)
            mean = factor.mean
            variance = (factor.probs * number**2).sum(-1) - mean**2
        return [to_array(value[0]) for value in (factor.presence, mean, variance)]

    @property
    def probability_map(self):
        """
        Probability that a tile holds a source, 2D array ``(rows, columns)``.

        Given the decisions of the greedy sweep in earlier tiles, so
        that a source on a border counts once.
        """
        return self._tile_moments[0]

    def at_threshold(self, threshold=0.5, *, n_samples=0, rng=None):
        """
        Table of the sources whose probability exceeds a threshold.

        Parameters
        ----------
        threshold : float, optional
            Probability between 0 and 1.

        n_samples : int, optional
            Number of draws in columns of position and flux, and where inferred of the
            type and each number of the shape, the latter as if all were galaxies.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness of the draws.

        Returns
        -------
        catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
            A row a source, brightest first.
        """
        threshold = check_threshold(threshold)
        n_samples = check_integer('n_samples', n_samples, error=ValueError)
        rng = check_rng(rng)
        candidates = candidates_of(self, threshold)
        chosen = (candidates.sources.probability >= threshold).cpu().numpy()
        rows = SourceRows(self, candidates, np.flatnonzero(chosen))
        columns = rows.columns()
        if n_samples:
            drawn = rows.draw(n_samples, rng)
            columns |= {f'{name}_samples': values for name, values in drawn.items()}
        meta = {**self.meta, 'threshold': threshold}
        if 'disk_radius' in columns and self.pixel_scale is not None:
            meta['image'] = {'pixel_scale': self.pixel_scale}
        return ProbabilisticCatalog.from_columns(
            columns,
            wcs=self.wcs,
            unit=self.unit,
            posterior=self,
            meta=meta,
            image_shape=self.shape,
            expected_count=(self.expected_counts(), self.expected_counts_error()),
        )

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
        n = check_integer('n', n, error=ValueError)
        generator = torch_generator(rng, device=self.tile_posterior.device)
        with use_threads():
            return [
                tabulate_draw(self, self.tile_posterior.sample(generator=generator))
                for _ in range(n)
            ]

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
            If a row is of another posterior, or if ``column`` or ``level`` is not
            allowed.
        """
        check_fraction('level', level)
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
        n_samples = check_integer('n_samples', n_samples, error=ValueError)
        return rows_of(self, rows).draw_column(column, n_samples, check_rng(rng))

    to_arrays = _fits.to_arrays
    from_arrays = classmethod(_fits.from_arrays)

    def to(self, device):
        """
        Copy the posterior to another device, without what was computed of it.

        Parameters
        ----------
        device : str or `torch.device`
            The device.

        Returns
        -------
        posterior : `CatalogPosterior`
            The same posterior there.
        """
        made = type(self).from_arrays(*self.to_arrays(), device=device)
        # Files keep no exposure, and not every WCS.
        made.unit, made.wcs, made.exposure = self.unit, self.wcs, self.exposure
        return made

    @property
    def nbytes(self):
        """Memory of features, context, inputs and padded image, in bytes."""
        tiles = self.tile_posterior
        held = [*vars(tiles).values(), *vars(tiles.inputs).values()]
        held += vars(tiles.pixels).values()
        tensors = {id(v): v.nbytes for v in held if isinstance(v, torch.Tensor)}
        return sum(tensors.values())


def rows_of(posterior, table):
    """Sources of the rows of a table."""
    least = 0.0
    if 'probability' in table.colnames:
        # Rounded down, as probabilities of rows are rounded.
        least = float(np.min(table['probability'], initial=1.0)) * (1 - 1e-6)
    found = candidates_of(posterior, least)
    return SourceRows(posterior, found, found.index_of(table, posterior.to_image))


def _coverage(posterior, region):
    """Share of each tile that lies in a region."""
    ny, nx = posterior.shape
    size = posterior.tile_posterior.grid.size * posterior.binning
    rows, columns = posterior.tile_posterior.grid.shape
    # Pixels that are too few to be joined at the far edges belong to no tile.
    inside = np.zeros((max(rows * size, ny), max(columns * size, nx)))
    part = (slice(None),) * 2 if region is None else region
    if not isinstance(part, tuple) or [type(v) for v in part] != [slice] * 2:
        part = np.asarray(part)
    if isinstance(part, tuple) or (part.shape == (ny, nx) and part.dtype == bool):
        inside[:ny, :nx][part] = 1
    else:
        allowed = 'be a pair of slices (rows, columns) or a boolean array of shape'
        msg = must('region', f'{allowed} {(ny, nx)}', f'{region!r:.80}')
        raise ValueError(msg)
    inside = inside[: rows * size, : columns * size]
    return inside.reshape(rows, size, columns, size).mean((1, 3))
