# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The posterior of one image's catalogue, in the units of the image.
"""

import numpy as np
import torch

from bliss_astro._random import check_rng
from bliss_astro._threads import use_threads
from bliss_astro.posteriors import find_sources
from bliss_astro.posteriors._factors import of_type
from bliss_astro.priors import torch_generator

from ..flags import CatalogFlag
from ._checks import check_count, check_threshold
from ._columns import SHAPE_COLUMNS
from ._full_tiles import SharedLight, share_light
from ._shapes import (
    SHAPE_NAMES,
    angle_quantiles,
    convert_shape,
    explain_no_shapes,
    inferred_shapes,
    latent_dim,
    pixel_scale,
    shape_columns,
    shape_draws,
    tabulate_shapes,
)
from ._storage import posterior_from_arrays, posterior_to_arrays

__all__ = ['CatalogPosterior']

# Detections closer than this many FWHM are flagged as blended.
_BLEND_REACH = 1.5
# Sources that share the light of full tiles: those of a table by default.
_PROBABLE = 0.5
# Quantiles of a normal distribution at -1, 0 and 1 sigma.
_SIGMA_TAILS = (0.15865525, 0.5, 0.84134475)
# How far in pixels a row may be from the source that it was made of.
_SAME_POSITION = 0.01


class CatalogPosterior:
    """
    A posterior over whole catalogues of one image.

    It belongs to the image, not to the rows of a table: draw catalogues from
    it with `sample`, ask how many sources a region holds with
    `expected_counts`, or make a table with `at_threshold`.

    Parameters
    ----------
    tile_posterior : `~bliss_astro.posteriors.TilePosterior`
        For one image.

    flux_floor : float or 2D array_like ``(rows, columns)``
        Smallest flux of the prior in data units, by tile.

    unit : unit-like or None, optional
        Unit of the fluxes.

    wcs : WCS object or None, optional
        Celestial coordinates of the image.

    flags : 2D int array ``(ny, nx)`` or None, optional
        What holds for a source at each pixel, see
        `~bliss_astro.flags.CatalogFlag`.

    meta : dict, optional
        For the tables.

    exposure : `~bliss_astro.exposures.Exposure` or None, optional
        The image with all that was given and estimated.

    binning : int, optional
        Side in pixels of the squares that were joined to one pixel before the
        image was looked at. Tables and ``wcs`` are in the pixels of the image, tiles
        and ``flags`` in the larger ones.

    image_shape : tuple of int, optional
        Shape of the image, where that is not the one of the joined pixels.

    Attributes
    ----------
    exposure : `~bliss_astro.exposures.Exposure` or None
        The image, as it was measured; the same object and no copy.  Files do not
        keep it.
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
        self.unit = unit
        self.wcs = wcs
        self.flags = flags
        self.meta = dict(meta or {})
        self._sources, self._least = None, 0.0
        self._moments = None
        self._fwhm = None
        self._pixel_scale = None
        self._shared_light = None

    def __repr__(self):
        ny, nx = self.shape
        return f'<CatalogPosterior of {ny} x {nx} px, {self.n_tiles} tiles>'

    @property
    def shape(self):
        """Shape ``(ny, nx)`` of the image."""
        return self._image_shape or self.tile_posterior.grid.image_shape

    @property
    def n_tiles(self):
        """Number of tiles."""
        return int(np.prod(self.tile_posterior.grid.shape))

    @property
    def fwhm(self):
        """Full width at half maximum of the PSF in the middle, in pixels."""
        if self._fwhm is None:
            from bliss_astro.psf import PSFModel

            inputs = self.tile_posterior.inputs
            psf = inputs.psf[0]
            vector = psf[:, psf.shape[1] // 2, psf.shape[2] // 2]
            self._fwhm = PSFModel.from_shape(
                vector.double().cpu().numpy(),
                normalization_radius=inputs.normalization_radius,
            ).fwhm
        return self.binning * self._fwhm

    @property
    def pixel_scale(self):
        """Arcsec per pixel, the mean over both axes; `None` without a WCS."""
        if self._pixel_scale is None and self.wcs is not None:
            self._pixel_scale = pixel_scale(self.wcs)
        return self._pixel_scale

    @property
    def _radius_scale(self):
        """Arcsec per joined pixel; `None` without a WCS."""
        return None if self.pixel_scale is None else self.binning * self.pixel_scale

    def _radii(self, columns):
        """Columns with radii in pixels of the image rather than in joined ones."""
        if self.binning == 1 or self.pixel_scale is not None:
            return columns
        return {
            name: values * self.binning if 'radius' in name else values
            for name, values in columns.items()
        }

    def _to_image(self, place):
        """Pixel coordinates of the image from those of joined pixels."""
        return (place + 0.5) * self.binning - 0.5 if self.binning > 1 else place

    # -- marginals -----------------------------------------------------------

    @property
    def sources(self):
        """Marginals of all candidate sources (computed once)."""
        return self._sources_above(0.0)

    def _sources_above(self, least):
        """The same, those of lesser probability perhaps without shapes."""
        # Those that share the light of full tiles are always looked at in full.
        least = min(least, _PROBABLE)
        if self._sources is None or self._least > least:
            with use_threads():
                self._sources = find_sources(self.tile_posterior, least=least)
            self._least, self._shared_light = least, None
        return self._sources

    def _tile_moments(self):
        if self._moments is None:
            posterior = self.tile_posterior
            with torch.no_grad(), use_threads():
                _, hidden = posterior.decided()
                factor = posterior.head.count_factor(hidden)
                number = torch.arange(factor.probs.shape[-1]).to(factor.probs)
                mean = factor.mean[0]
                square = (factor.probs * number**2).sum(-1)[0]
            self._moments = (
                factor.presence[0].cpu().double().numpy(),
                mean.cpu().double().numpy(),
                (square - mean**2).cpu().double().numpy(),
            )
        return self._moments

    @property
    def probability_map(self):
        """
        Probability that a tile holds a source, 2D array ``(rows, columns)``.

        Given what the greedy sweep decided in earlier tiles, so
        that a source on a border counts once.
        """
        return self._tile_moments()[0]

    def expected_counts(self, region=None, *, return_error=False):
        """
        Expected number of sources above the flux floor.

        Parameters
        ----------
        region : tuple of slice or 2D bool array ``(ny, nx)``, optional
            Part of the image in pixels; by default all of it. Tiles
            partly inside count by the share of their area. Masked
            pixels count too: there the prior speaks.

        return_error : bool, optional
            Return the standard deviation too, taking tiles as independent
            given the sweep's decisions.

        Returns
        -------
        count : float
            The expected number.

        error : float
            Only with ``return_error``.
        """
        _, mean, variance = self._tile_moments()
        weight = self._coverage(region)
        count = float((weight * mean).sum())
        if not return_error:
            return count
        return count, float(np.sqrt((weight * variance).sum()))

    def _coverage(self, region):
        ny, nx = self.shape
        size = self.tile_posterior.grid.size * self.binning
        rows, columns = self.tile_posterior.grid.shape
        # Pixels that are too few to be joined at the far edges belong to no tile.
        inside = np.zeros((max(rows * size, ny), max(columns * size, nx)))
        if region is None:
            inside[:ny, :nx] = 1
        elif isinstance(region, tuple):
            if len(region) != 2 or not all(isinstance(part, slice) for part in region):
                msg = f'region must be a pair of slices (rows, columns), got {region}'
                raise ValueError(msg)
            inside[:ny, :nx][region] = 1
        else:
            region = np.asarray(region)
            if region.dtype != bool or region.shape != (ny, nx):
                msg = (
                    'region must be a pair of slices or a boolean array of shape '
                    f'{(ny, nx)}, got {region.dtype} of shape {region.shape}'
                )
                raise ValueError(msg)
            inside[:ny, :nx] = region
        inside = inside[: rows * size, : columns * size]
        blocks = inside.reshape(rows, size, columns, size)
        return blocks.mean((1, 3))

    # -- tables ----------------------------------------------------------------

    def at_threshold(self, threshold=0.5, *, n_samples=0, rng=None):
        """
        The sources whose probability exceeds a threshold.

        Parameters
        ----------
        threshold : float, optional
            Between 0 and 1.

        n_samples : int, optional
            Add columns with that many draws of position and flux, and where
            the encoder infers them of the type and of each number of the
            shape, the latter as if every draw were a galaxy.

        rng : int, `numpy.random.Generator` or None, optional
            For the draws.

        Returns
        -------
        catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
            A row a source, brightest first.
        """
        from ._catalog import ProbabilisticCatalog

        threshold = check_threshold(threshold)
        n_samples = check_count('n_samples', n_samples)
        rng = check_rng(rng)
        sources = self._sources_above(threshold)
        index = (sources.probability >= threshold).nonzero()[:, 0]
        sources = sources.select(index)
        columns = self._columns(sources, index)
        if n_samples:
            drawn = self._draw_rows(sources, index, n_samples, rng)
            if self.unit is not None:
                drawn['flux'] = drawn['flux'] * self.unit
            if not sources.typed:
                del drawn['galaxy']
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
            expected_count=self.expected_counts(return_error=True),
        )

    def _floor_of(self, sources):
        row, column = sources.row.cpu().numpy(), sources.column.cpu().numpy()
        return self.flux_floor[row, column]

    @property
    def _light(self):
        """Light of full tiles: how the log-fluxes of all sources are changed."""
        if self._shared_light is None:
            sources = self._sources_above(_PROBABLE)
            rows = (sources.probability >= _PROBABLE).nonzero()[:, 0]
            chosen, factor = sources.select(rows), np.ones(len(sources))
            floor = self._floor_of(chosen)
            factor[rows.cpu().numpy()] = share_light(
                self.tile_posterior,
                [v.double().cpu().numpy() for v in chosen.place()],
                floor * np.exp(_log_flux(chosen, 0.5)),
                self._in_full_tile(chosen),
                fwhm=self.fwhm / self.binning,
                floor=floor,
            )
            changed = np.flatnonzero(factor > 1)
            chosen = sources.select(torch.as_tensor(changed, device=rows.device))
            middle, width = np.zeros((2, len(sources)))
            low, middle[changed], high = (_log_flux(chosen, q) for q in _SIGMA_TAILS)
            width[changed] = 0.5 * (high - low)
            self._shared_light = SharedLight(factor, middle, width)
        return self._shared_light

    def _flux_quantile(self, sources, index, q):
        """Quantile of each source's flux: what tables and intervals are made of."""
        log_flux = self._light(_log_flux(sources, q), index)
        return self._floor_of(sources) * np.exp(log_flux)

    def _columns(self, sources, index):
        x, y = (v.double().cpu().numpy() for v in (sources.x, sources.y))
        low, flux, high = (self._flux_quantile(sources, index, q) for q in _SIGMA_TAILS)
        flux_err = 0.5 * (high - low)
        place = [v.double().cpu().numpy() for v in sources.place()]
        offsets = x - place[0][:, None], y - place[1][:, None]
        flags = self._flags_at(*place)
        flags[self._blended(*place)] |= int(CatalogFlag.BLENDED)
        flags[self._in_full_tile(sources)] |= int(CatalogFlag.FULL_TILE)
        names = inferred_shapes(sources, self.tile_posterior.head)
        types = {}
        if sources.typed:
            types['galaxy_probability'] = sources.galaxy.double().cpu().numpy()
        return {
            'probability': sources.probability.double().cpu().numpy().clip(0, 1),
            **types,
            'x_centroid': self._to_image(place[0]),
            'y_centroid': self._to_image(place[1]),
            'x_err': self.binning * np.sqrt((offsets[0] ** 2).mean(1)),
            'y_err': self.binning * np.sqrt((offsets[1] ** 2).mean(1)),
            'x_y_cov': self.binning**2 * (offsets[0] * offsets[1]).mean(1),
            'flux': flux if self.unit is None else flux * self.unit,
            'flux_err': flux_err if self.unit is None else flux_err * self.unit,
            **self._radii(shape_columns(sources, names, scale=self._radius_scale)),
            'flags': flags,
        }

    def _blended(self, x, y):
        """Indices of sources with another one within 1.5 FWHM."""
        if len(x) < 2:
            return np.empty(0, dtype=int)
        from scipy.spatial import cKDTree

        tree = cKDTree(np.column_stack([x, y]))
        pairs = tree.query_pairs(
            _BLEND_REACH * self.fwhm / self.binning, output_type='ndarray'
        )
        return np.unique(pairs)

    def _in_full_tile(self, sources):
        """Which sources are in a tile that has no room for another one."""
        n_most = self.tile_posterior.head.n_most
        if n_most == 1:
            # Every tile with a source is full then, which says nothing.
            return np.zeros(len(sources), dtype=bool)
        count = self.tile_posterior.decided()[0].count[0]
        return (count[sources.row, sources.column] >= n_most).cpu().numpy()

    def _flags_at(self, x, y):
        if self.flags is None:
            return np.zeros(len(x), dtype=np.int64)
        ny, nx = self.shape
        column = np.clip(np.rint(x).astype(int), 0, nx - 1)
        row = np.clip(np.rint(y).astype(int), 0, ny - 1)
        return self.flags[row, column].astype(np.int64)

    # -- draws -------------------------------------------------------------------

    def _draw_rows(self, sources, index, n_samples, rng):
        from bliss_astro.posteriors import LogFluxFactor

        rng = check_rng(rng)
        x, y = (v.double().cpu().numpy() for v in (sources.x, sources.y))
        n = len(sources)
        # All descriptions alike, as in the quantiles; each with positions near it.
        rows, n_described = np.arange(n)[:, None], sources.flux.shape[1]
        at = rng.integers(min(n_described, x.shape[1]), size=(n, n_samples))
        pick = _pick_near(_nearest_described(x, y, n_described), at, rng)
        parts = sources.flux.cpu()[torch.as_tensor(rows), torch.as_tensor(at)]
        high, mixture = parts[..., 0], parts[..., 1:].unflatten(-1, (3, -1))
        mixture = mixture.unbind(-2)
        generator = torch_generator(rng)
        galaxy = torch.zeros_like(high, dtype=torch.bool)
        if sources.typed:
            share = mixture[0].chunk(2, -1)[1].exp().sum(-1)
            galaxy = torch.rand(share.shape, generator=generator) < share
            mixture = of_type(mixture, galaxy)
        factor = LogFluxFactor(
            *mixture, torch.zeros_like(high), torch.ones_like(high) * high
        )
        log_flux = factor.sample(generator=generator).double().numpy()
        log_flux = self._light(log_flux, index)
        flux = self._floor_of(sources)[:, None] * np.exp(log_flux)
        # Positions of the same draws, so that they go with their fluxes.
        drawn = {
            'x_centroid': self._to_image(x[rows, pick]),
            'y_centroid': self._to_image(y[rows, pick]),
            'flux': flux,
            'galaxy': galaxy.numpy(),
        }
        return drawn | self._draw_shapes(sources, n_samples, rng)

    def _draw_shapes(self, sources, n_samples, rng):
        """Shapes with units; the numbers of one draw belong together."""
        if sources.shapes is None:
            return {}
        shape = (len(sources), n_samples)
        pick = rng.integers(sources.shapes.shape[1], size=shape)
        drawn = {}
        for name in inferred_shapes(sources, self.tile_posterior.head):
            values = np.take_along_axis(shape_draws(sources, name), pick, axis=1)
            values, unit = convert_shape(name, values, scale=self._radius_scale)
            drawn[name] = values if unit is None else values * unit
        return self._radii(drawn)

    def sample(self, n=1, *, rng=None):
        """
        Draw whole catalogues.

        Parameters
        ----------
        n : int, optional
            How many.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        catalogs : list of `~astropy.table.QTable`
            Each with ``x_centroid``, ``y_centroid`` (0-based pixels),
            ``flux``, where the encoder tells them apart ``is_galaxy``, and
            where it infers shapes the six numbers of a galaxy
            (``disk_fraction``, ..., ``angle``; NaN for stars) or, of a
            learned model, its ``latent`` numbers; brightest first.

        Examples
        --------
        >>> from bliss_astro import CoaddSimulator, detect_sources
        >>> coadd, truth = CoaddSimulator(10).simulate(rng=1)
        >>> posterior = detect_sources(coadd, encoder='stars').posterior
        >>> draws = posterior.sample(20, rng=1)
        >>> len(draws), draws[0].colnames
        (20, ['x_centroid', 'y_centroid', 'flux'])
        """
        n = check_count('n', n)
        generator = torch_generator(rng, device=self.tile_posterior.device)
        with use_threads():
            return [
                self._to_table(self.tile_posterior.sample(generator=generator))
                for _ in range(n)
            ]

    def _to_table(self, catalog):
        from astropy.table import QTable

        n_most = catalog.x.shape[-1]
        place = torch.arange(n_most, device=catalog.x.device)
        used = place < catalog.count[0][..., None]
        row, column, k = used.nonzero(as_tuple=True)
        grid = self.tile_posterior.grid
        x, y = grid.to_pixels(
            catalog.x[0, row, column, k], catalog.y[0, row, column, k], row, column
        )
        log_flux = catalog.log_flux[0, row, column, k].double().cpu().numpy()
        floor = self.flux_floor[row.cpu().numpy(), column.cpu().numpy()]
        flux = floor * np.exp(log_flux)
        order = np.argsort(-flux, kind='stable')
        x, y = x.double().cpu().numpy()[order], y.double().cpu().numpy()[order]
        flux = flux[order]
        table = QTable(
            [
                self._to_image(x),
                self._to_image(y),
                flux if self.unit is None else flux * self.unit,
            ],
            names=('x_centroid', 'y_centroid', 'flux'),
        )
        if self.tile_posterior.head.galaxies:
            galaxy = catalog.galaxy[0, row, column, k].cpu().numpy()
            table['is_galaxy'] = galaxy[order] > 0
        head = self.tile_posterior.head
        if head.shapes:
            shapes = catalog.shape[0, row, column, k].cpu()[torch.as_tensor(order)]
            galaxy = np.asarray(table['is_galaxy'])
            if latent_dim(head):
                table['latent'] = np.where(galaxy[:, None], shapes.numpy(), np.nan)
            else:
                values = tabulate_shapes(shapes, galaxy, scale=self._radius_scale)
                table.update(self._radii(values))
        return table

    def _match_rows(self, rows):
        """The sources of rows and their index among all."""
        # Rows came from this posterior, so their positions recur exactly.
        from scipy.spatial import cKDTree

        least = 0.0
        if 'probability' in rows.colnames:
            # Probabilities of rows are rounded.
            least = float(np.min(rows['probability'], initial=1.0)) * (1 - 1e-6)
        sources = self._sources_above(least)
        own = [self._to_image(v.double().cpu().numpy()) for v in sources.place()]
        asked = [np.asarray(rows[name], float) for name in ('x_centroid', 'y_centroid')]
        tree = cKDTree(np.column_stack(own))
        distance, index = tree.query(
            np.column_stack(asked), distance_upper_bound=_SAME_POSITION
        )
        if not np.all(np.isfinite(distance)):
            k = int(np.argmin(np.isfinite(distance)))
            msg = (
                f'rows must come from this posterior; row {k} at x={asked[0][k]:.3f}, '
                f'y={asked[1][k]:.3f} is none of its sources'
            )
            raise ValueError(msg)
        index = torch.as_tensor(index, device=sources.x.device)
        return sources.select(index), index

    def interval(self, rows, column, level):
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
        lower, upper : 1D `~numpy.ndarray`
            Plain numbers: of fluxes in the unit of the image, of shapes in
            that of the columns of this posterior's tables (arcsec or pix, deg).
            Those of ``'angle'`` may be below 0 or above 180.

        Raises
        ------
        ValueError
            If a row is none of this posterior's, or if ``column`` or
            ``level`` is not allowed.
        """
        if not 0 < level < 1:
            msg = f'level must be between 0 and 1 (exclusive), got {level!r}'
            raise ValueError(msg)
        sources, index = self._match_rows(rows)
        tails = (0.5 * (1 - level), 0.5 * (1 + level))
        if column == 'flux':
            return tuple(self._flux_quantile(sources, index, q) for q in tails)
        if column in SHAPE_NAMES:
            return self._shape_interval(sources, column, tails)
        if column not in ('x_centroid', 'y_centroid'):
            msg = (
                "column must be 'flux', 'x_centroid' or 'y_centroid', or one of the "
                f'shapes ({", ".join(SHAPE_COLUMNS)}), got {column!r}'
            )
            raise ValueError(msg)
        values = sources.x if column == 'x_centroid' else sources.y
        values = values.double().cpu().numpy()
        values = self._to_image(values)
        return tuple(np.quantile(values, q, axis=1) for q in tails)

    def _shape_interval(self, sources, column, tails):
        names = inferred_shapes(sources, self.tile_posterior.head)
        if column not in names:
            raise ValueError(self._no_shape(column, others=bool(names)))
        draws = shape_draws(sources, column)
        if column == 'angle':
            return tuple(angle_quantiles(draws, tails))
        limits = (np.quantile(draws, q, axis=1) for q in tails)
        return tuple(
            self._radii(
                {column: convert_shape(column, v, scale=self._radius_scale)[0]}
            )[column]
            for v in limits
        )

    def _no_shape(self, column, *, others):
        return explain_no_shapes(column, self.meta.get('encoder'), others=others)

    def sample_rows(self, rows, column, n_samples, *, rng=None):
        """
        Draws of one column for given rows, array ``(len(rows), n_samples)``.

        The column is ``'x_centroid'``, ``'y_centroid'``, ``'flux'``,
        ``'galaxy'``, whether each draw is one, or one of the shapes (in
        arcsec or pix, deg), as if it were one.
        """
        names = ('x_centroid', 'y_centroid', 'flux', 'galaxy')
        if column not in (*names, *SHAPE_COLUMNS):
            msg = (
                f'column must be one of {", ".join(names)} or of the shapes '
                f'({", ".join(SHAPE_COLUMNS)}), got {column!r}'
            )
            raise ValueError(msg)
        n_samples = check_count('n_samples', n_samples)
        drawn = self._draw_rows(*self._match_rows(rows), n_samples, rng)
        if column not in drawn:
            raise ValueError(self._no_shape(column, others='e1' in drawn))
        values = drawn[column]
        return getattr(values, 'value', values)

    # -- storage -------------------------------------------------------------------

    def to_arrays(self):
        """
        Everything needed to make this posterior again.

        Returns
        -------
        arrays : dict of str to `~numpy.ndarray`
            Features, inputs and the weights of the head.

        meta : dict
            Plain values for JSON.
        """
        return posterior_to_arrays(self)

    @classmethod
    def from_arrays(cls, arrays, meta):
        """
        Make a posterior of what `to_arrays` returned.

        Parameters
        ----------
        arrays : dict of str to `~numpy.ndarray`
            See `to_arrays`.

        meta : dict
            See `to_arrays`.

        Returns
        -------
        posterior : `CatalogPosterior`
            It gives the same tables and, for the same ``rng``, the same draws.
        """
        return posterior_from_arrays(cls, arrays, meta)


def _log_flux(sources, q):
    """Quantile of each source's log-flux over the floor, by its tile alone."""
    return sources.quantile_flux(q).double().cpu().numpy()


def _pick_near(nearest, at, rng):
    """Draw a member of ``nearest == at`` at random, for each of ``at``."""
    order = np.argsort(nearest, axis=1, kind='stable')
    counts = np.zeros((len(nearest), nearest.shape[1]), dtype=int)
    np.add.at(counts, (np.arange(len(nearest))[:, None], nearest), 1)
    first = np.take_along_axis(np.cumsum(counts, axis=1) - counts, at, axis=1)
    count = np.take_along_axis(counts, at, axis=1)
    # A description equal to another, which got all of its members, keeps itself.
    chosen = first + (rng.random(at.shape) * count).astype(int)
    chosen = np.take_along_axis(order, chosen.clip(max=nearest.shape[1] - 1), axis=1)
    return np.where(count > 0, chosen, at)


def _nearest_described(x, y, n_described):
    """Which of the first positions, where the flux is known, is nearest to each."""
    # In units of each source's own errors; equal positions have none.
    scale = np.maximum([x.std(1), y.std(1)], 1e-9)[..., None]
    x, y = x / scale[0], y / scale[1]
    nearest = np.zeros(x.shape, dtype=int)
    least = np.full(x.shape, np.inf)
    for k in range(min(n_described, x.shape[1])):
        distance = (x - x[:, k : k + 1]) ** 2 + (y - y[:, k : k + 1]) ** 2
        closer = distance < least
        nearest[closer], least[closer] = k, distance[closer]
    return nearest
