# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posterior of one image: tables at a threshold, counts, intervals, whole catalogues.
"""

import copy
import functools
from collections.abc import Mapping

import numpy as np
import torch

from bliss_astro._arguments import (
    check_fraction,
    check_integer,
    check_rng,
    check_threshold,
    torch_generator,
)
from bliss_astro._threads import map_threads, use_threads

from . import _arrays
from ._bands import split_facts
from ._candidates import candidates_of
from ._catalog import ProbabilisticCatalog
from ._columns import pixel_scale
from ._kept_tiles import KeptTiles, PackedMap
from ._rows import SourceRows, rows_of, tabulate_draws

# Tiles of joint draws that are computed at once in a thread, which bounds the memory,
# and the number of draws from which on they are computed together.
_DRAWN_TILES, _MIN_BATCH = 2**17, 4


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

    exposure : `~bliss_astro.exposures.Exposure` or `~bliss_astro.exposures.ExposureSet`
        The image as it was measured; no copy. Files do not keep it. Of several bands
        ``exposures`` has all, ``exposure`` the reference band.

    binning : int, optional
        Side in pixels of the squares that were joined to one before detection. Tables
        and ``wcs`` are in pixels of the image, tiles and ``flags`` in the larger ones.

    image_shape : tuple of int, optional
        Shape of the image, where that is not the one of the joined pixels.

    Notes
    -----
    By default a posterior of `~bliss_astro.detection.detect_sources` keeps the
    marginals of sources, some 2 kB each, and a few numbers a tile (`nbytes`). Joint
    draws and sources of lower probability need `tile_posterior`, which is computed
    anew from the exposure then, once, in the time of a detection; ``keep='posterior'``
    keeps it, at some 30 bytes a pixel. An exposure that was changed is a `ValueError`.
    `to` copies it to another device, `ProbabilisticCatalog.drop_posterior
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
        several = isinstance(exposure, Mapping)
        self.exposures = exposure if several else None
        self.exposure = next(iter(exposure.values())) if several else exposure
        self.binning, self._image_shape = int(binning), image_shape
        self.grid, self._floor = tile_posterior.grid, np.asarray(flux_floor, float)
        self.kept = KeptTiles(tile_posterior, self._floor)
        self.unit, self.wcs, self.flags = unit, wcs, flags
        self.meta = dict(meta or {})
        # Candidates of sources, down to less and less probability.
        self._found = []

    def __repr__(self):
        size = ' x '.join(map(str, self.shape))
        return f'<CatalogPosterior of {size} px, {self.n_tiles} tiles>'

    @property
    def flux_floor(self):
        """Smallest flux of the prior in data units, array ``(rows, columns)``."""
        return np.broadcast_to(self._floor, self.grid.shape)

    @property
    def shape(self):
        """Shape ``(ny, nx)`` of the image."""
        return self._image_shape or self.grid.image_shape

    @property
    def n_tiles(self):
        """Number of tiles."""
        return int(np.prod(self.grid.shape))

    @property
    def tile_posterior(self):
        """
        Posterior over the tiles, a `~bliss_astro.posteriors.TilePosterior`.

        Computed anew where it is not kept; a `ValueError` where that is not possible.
        """
        return self.kept.tiles_of(self)

    @property
    def facts(self):
        """Numbers by tile that are always kept, ``TileFacts``."""
        return self.kept.facts

    @property
    def flags(self):
        """Flags of a source at each pixel, 2D int array ``(ny, nx)`` or `None`."""
        return None if self._flags is None else self._flags.array()

    @flags.setter
    def flags(self, value):
        self._flags = None if value is None else PackedMap(value)

    @property
    def fwhm(self):
        """Full width at half maximum of the PSF in the middle, in pixels."""
        return self.binning * self.facts.fwhm

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

    @property
    def probability_map(self):
        """
        Probability that a tile holds a source, 2D array ``(rows, columns)``.

        Given the sweep's decisions in earlier tiles: a source on a border counts once.
        """
        return self.facts.moments[0]

    def at_threshold(self, threshold=0.5, *, n_samples=0, rng=None):
        """
        Table of the sources whose probability exceeds a threshold.

        Parameters
        ----------
        threshold : float, optional
            Probability between 0 and 1.

        n_samples : int, optional
            Number of draws in columns of position and flux, and where inferred of type,
            fluxes in bands and shape, as if all were galaxies.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
            A row a source, brightest first.
        """
        threshold, rng = check_threshold(threshold), check_rng(rng)
        n_samples = check_integer('n_samples', n_samples, error=ValueError)
        candidates = candidates_of(self, threshold)
        chosen = candidates.probability >= np.float32(threshold)
        rows = SourceRows(self, candidates, np.flatnonzero(chosen))
        columns = rows.columns()
        if n_samples:
            drawn = rows.draw(n_samples, rng)
            columns |= {f'{name}_samples': values for name, values in drawn.items()}
        meta, image = split_facts(self.meta)
        if 'disk_radius' in columns and self.pixel_scale is not None:
            image['pixel_scale'] = self.pixel_scale
        return ProbabilisticCatalog.from_columns(
            columns,
            wcs=self.wcs,
            unit=self.unit,
            posterior=self,
            meta={**meta, 'threshold': threshold, 'image': image},
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
        return float((self._coverage(region) * self.facts.moments[1]).sum())

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
        return float(np.sqrt((self._coverage(region) * self.facts.moments[2]).sum()))

    def _coverage(self, region):
        return self.facts.grid_coverage(region, self.shape, self.binning)

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
            the encoder infers them fluxes in bands (``flux_g``), types ``is_galaxy``,
            and shapes: six numbers of a galaxy (``disk_fraction``, ..., ``angle``; NaN
            for stars) or ``latent`` ones of a learned model; brightest first.

        Examples
        --------
        >>> from bliss_astro import CoaddSimulator, detect_sources
        >>> coadd, truth = CoaddSimulator(10).sample(rng=1)
        >>> posterior = detect_sources(coadd, encoder='stars').posterior
        >>> draws = posterior.sample(20, rng=1)
        >>> len(draws), draws[0].colnames
        (20, ['x_centroid', 'y_centroid', 'flux'])
        """
        n, tiles = check_integer('n', n, error=ValueError), self.tile_posterior
        generator = torch_generator(rng, device=tiles.device)

        def draw(size, own=generator):
            return tabulate_draws(self, tiles.sample(n_draws=size, generator=own))

        with use_threads():
            # Few ones one by one, which takes no random numbers in another order.
            if n < _MIN_BATCH:
                return [table for _ in range(n) for table in draw(1)]
            n_parts = min(n, -(-n * self.n_tiles // _DRAWN_TILES))
            sizes = map(len, np.array_split(range(n), n_parts))
            own = {'generator': generator, 'device': tiles.device}
            seeds = torch.randint(2**63 - 1, (n_parts,), **own).tolist()
            own = (torch.Generator(tiles.device).manual_seed(seed) for seed in seeds)
            parts = zip(sizes, own, strict=True)
            # The first one computes what all have in common.
            parts = draw(*next(parts)), *map_threads(lambda part: draw(*part), parts)
        return [table for part in parts for table in part]

    def interval(self, rows, column, *, level):
        """
        Equal-tailed credible intervals of rows.

        Parameters
        ----------
        rows : `~bliss_astro.catalog.ProbabilisticCatalog`
            Rows of a table that this posterior made.

        column : str
            ``'flux'``, ``'x_centroid'`` or ``'y_centroid'``, the flux in a band
            (``'flux_g'``), or a shape (``'disk_radius'``), given that it is a galaxy.

        level : float
            Probability between the limits.

        Returns
        -------
        lower, upper : 1D `~numpy.ndarray` or `~astropy.units.Quantity`
            Limits in the unit of the tables; those of ``'angle'`` may leave 0 to 180.

        Raises
        ------
        ValueError
            If a row is of another posterior, or if ``column`` or ``level`` is not
            allowed.
        """
        check_fraction('level', level)
        tails = 0.5 * (1 - level), 0.5 * (1 + level)
        return tuple(rows_of(self, rows).quantiles(column, tails))

    def sample_rows(self, rows, column, *, n_samples, rng=None):
        """
        Draw one or more columns for given rows.

        Parameters
        ----------
        rows : `~bliss_astro.catalog.ProbabilisticCatalog`
            Rows of a table that this posterior made.

        column : str or list of str
            As for `interval`, or ``'galaxy'``: whether each draw is one.

        n_samples : int
            Number of draws.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        draws : `~numpy.ndarray`, `~astropy.units.Quantity` or dict of them
            Shape ``(len(rows), n_samples)``; joint ones by name of several columns.
        """
        n_samples = check_integer('n_samples', n_samples, error=ValueError)
        names = [column] if isinstance(column, str) else list(column)
        drawn = rows_of(self, rows).draw_columns(names, n_samples, check_rng(rng))
        return drawn[column] if isinstance(column, str) else drawn

    to_arrays = _arrays.to_arrays
    from_arrays = classmethod(_arrays.from_arrays)

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
        if self.kept.can_remake:
            made = copy.copy(self)
            made.kept = self.kept.to(device)
            made._found = [found.to(device) for found in self._found[:1]]
            return made
        made = type(self).from_arrays(*self.to_arrays(), device=device)
        # Files keep no exposure, and not every WCS.
        made.unit, made.wcs = self.unit, self.wcs
        made.exposure, made.exposures = self.exposure, self.exposures
        return made

    @property
    def nbytes(self):
        """Memory of all but the exposure, in bytes."""
        flags = 0 if self._flags is None else self._flags.nbytes
        return flags + self.kept.nbytes + sum(found.nbytes for found in self._found)
