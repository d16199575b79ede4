# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The posterior of one image's catalogue, in the units of the image.
"""

import dataclasses
import json

import numpy as np
import torch

from bliss_astro.posteriors import (
    CatalogHead,
    StarHead,
    TilePosterior,
    find_sources,
)
from bliss_astro.posteriors._catalog_head import of_type, split_types
from bliss_astro.priors import torch_generator

from ._checks import check_count, check_threshold
from ._flags import CatalogFlag
from ._meta import header_to_wcs, wcs_to_header

__all__ = ['CatalogPosterior']

# Detections closer than this many FWHM are flagged as blended.
_BLEND_REACH = 1.5
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
        `~bliss_astro.catalog.CatalogFlag`.

    meta : dict, optional
        For the tables.
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
    ):
        self.tile_posterior = tile_posterior
        shape = tile_posterior.grid.shape
        self.flux_floor = np.broadcast_to(np.asarray(flux_floor, float), shape)
        self.unit = unit
        self.wcs = wcs
        self.flags = flags
        self.meta = dict(meta or {})
        self._sources = None
        self._moments = None
        self._fwhm = None

    def __repr__(self):
        ny, nx = self.shape
        return f'<CatalogPosterior of {ny} x {nx} px, {self.n_tiles} tiles>'

    @property
    def shape(self):
        """Shape ``(ny, nx)`` of the image."""
        return self.tile_posterior.grid.image_shape

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
        return self._fwhm

    # -- marginals -----------------------------------------------------------

    @property
    def sources(self):
        """Marginals of all candidate sources (computed once)."""
        if self._sources is None:
            self._sources = find_sources(self.tile_posterior)
        return self._sources

    def _tile_moments(self):
        if self._moments is None:
            posterior = self.tile_posterior
            with torch.no_grad():
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
        size = self.tile_posterior.grid.size
        rows, columns = self.tile_posterior.grid.shape
        inside = np.zeros((rows * size, columns * size))
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
            Add columns with that many draws of position and flux.

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
        sources = self.sources.select(self.sources.probability >= threshold)
        columns = self._columns(sources)
        if n_samples:
            x, y, flux, galaxy = self._draw_rows(sources, n_samples, rng)
            columns['x_centroid_samples'] = x
            columns['y_centroid_samples'] = y
            columns['flux_samples'] = flux if self.unit is None else flux * self.unit
            if sources.typed:
                columns['galaxy_samples'] = galaxy
        return ProbabilisticCatalog.from_columns(
            columns,
            wcs=self.wcs,
            unit=self.unit,
            posterior=self,
            meta={**self.meta, 'threshold': threshold},
            image_shape=self.shape,
            expected_count=self.expected_counts(return_error=True),
        )

    def _floor_of(self, sources):
        row, column = sources.row.cpu().numpy(), sources.column.cpu().numpy()
        return self.flux_floor[row, column]

    def _columns(self, sources):
        x, y = (v.double().cpu().numpy() for v in (sources.x, sources.y))
        floor = self._floor_of(sources)
        quantiles = [
            floor * np.exp(sources.quantile_flux(q).double().cpu().numpy())
            for q in (0.15865525, 0.5, 0.84134475)
        ]
        place = [v.double().cpu().numpy() for v in sources.place()]
        offsets = x - place[0][:, None], y - place[1][:, None]
        flux, flux_err = quantiles[1], 0.5 * (quantiles[2] - quantiles[0])
        flags = self._flags_at(*place)
        flags[self._blended(*place)] |= int(CatalogFlag.BLENDED)
        types = {}
        if sources.typed:
            types['galaxy_probability'] = sources.galaxy.double().cpu().numpy()
        return {
            'probability': sources.probability.double().cpu().numpy().clip(0, 1),
            **types,
            'x_centroid': place[0],
            'y_centroid': place[1],
            'x_err': np.sqrt((offsets[0] ** 2).mean(1)),
            'y_err': np.sqrt((offsets[1] ** 2).mean(1)),
            'x_y_cov': (offsets[0] * offsets[1]).mean(1),
            'flux': flux if self.unit is None else flux * self.unit,
            'flux_err': flux_err if self.unit is None else flux_err * self.unit,
            'flags': flags,
        }

    def _blended(self, x, y):
        """Indices of sources with another one within 1.5 FWHM."""
        if len(x) < 2:
            return np.empty(0, dtype=int)
        from scipy.spatial import cKDTree

        tree = cKDTree(np.column_stack([x, y]))
        pairs = tree.query_pairs(_BLEND_REACH * self.fwhm, output_type='ndarray')
        return np.unique(pairs)

    def _flags_at(self, x, y):
        if self.flags is None:
            return np.zeros(len(x), dtype=np.int64)
        ny, nx = self.shape
        column = np.clip(np.rint(x).astype(int), 0, nx - 1)
        row = np.clip(np.rint(y).astype(int), 0, ny - 1)
        return self.flags[row, column].astype(np.int64)

    # -- draws -------------------------------------------------------------------

    def _draw_rows(self, sources, n_samples, rng):
        from bliss_astro.posteriors import LogFluxFactor

        rng = np.random.default_rng(rng)
        x, y = (v.double().cpu().numpy() for v in (sources.x, sources.y))
        n = len(sources)
        pick = rng.integers(x.shape[1], size=(n, n_samples))
        rows = np.arange(n)[:, None]
        at = _nearest_described(x, y, sources.flux.shape[1])[rows, pick]
        parts = sources.flux.cpu()[torch.as_tensor(rows), torch.as_tensor(at)]
        high, mixture = parts[..., 0], parts[..., 1:].unflatten(-1, (3, -1))
        mixture = mixture.unbind(-2)
        generator = torch_generator(rng)
        galaxy = torch.zeros_like(high, dtype=torch.bool)
        if sources.typed:
            share = split_types(mixture[0])[1].exp().sum(-1)
            galaxy = torch.rand(share.shape, generator=generator) < share
            mixture = of_type(mixture, galaxy)
        factor = LogFluxFactor(
            *mixture, torch.zeros_like(high), torch.ones_like(high) * high
        )
        log_flux = factor.sample(generator=generator).double().numpy()
        flux = self._floor_of(sources)[:, None] * np.exp(log_flux)
        # Positions of the same draws, so that they go with their fluxes.
        return x[rows, pick], y[rows, pick], flux, galaxy.numpy()

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
            ``flux`` and, where the encoder tells them apart, ``is_galaxy``,
            brightest first.

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
            [x, y, flux if self.unit is None else flux * self.unit],
            names=('x_centroid', 'y_centroid', 'flux'),
        )
        if self.tile_posterior.head.galaxies:
            galaxy = catalog.galaxy[0, row, column, k].cpu().numpy()
            table['is_galaxy'] = galaxy[order] > 0
        return table

    def _match_rows(self, rows):
        # Rows came from this posterior, so their positions recur exactly.
        from scipy.spatial import cKDTree

        sources = self.sources
        own = [v.double().cpu().numpy() for v in sources.place()]
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
        return sources.select(torch.as_tensor(index, device=sources.x.device))

    def interval(self, rows, column, level):
        """
        Equal-tailed credible intervals of rows.

        Parameters
        ----------
        rows : `~bliss_astro.catalog.ProbabilisticCatalog`
            Rows of a table that this posterior made.

        column : {'flux', 'x_centroid', 'y_centroid'}
            The quantity.

        level : float
            Probability between the limits.

        Returns
        -------
        lower, upper : 1D `~numpy.ndarray`
            In the unit of the image, as plain numbers.

        Raises
        ------
        ValueError
            If a row is none of this posterior's, or if ``column`` or
            ``level`` is not allowed.
        """
        if not 0 < level < 1:
            msg = f'level must be between 0 and 1 (exclusive), got {level!r}'
            raise ValueError(msg)
        sources = self._match_rows(rows)
        tails = (0.5 * (1 - level), 0.5 * (1 + level))
        if column == 'flux':
            floor = self._floor_of(sources)
            return tuple(
                floor * np.exp(sources.quantile_flux(q).double().cpu().numpy())
                for q in tails
            )
        if column not in ('x_centroid', 'y_centroid'):
            msg = f"column must be 'flux', 'x_centroid' or 'y_centroid', got {column!r}"
            raise ValueError(msg)
        values = sources.x if column == 'x_centroid' else sources.y
        values = values.double().cpu().numpy()
        return tuple(np.quantile(values, q, axis=1) for q in tails)

    def sample_rows(self, rows, column, n_samples, *, rng=None):
        """
        Draws of one column for given rows, array ``(len(rows), n_samples)``.

        The column is ``'x_centroid'``, ``'y_centroid'``, ``'flux'`` or
        ``'galaxy'``, whether each draw is one.
        """
        names = ('x_centroid', 'y_centroid', 'flux', 'galaxy')
        if column not in names:
            msg = f'column must be one of {", ".join(names)}, got {column!r}'
            raise ValueError(msg)
        n_samples = check_count('n_samples', n_samples)
        drawn = self._draw_rows(self._match_rows(rows), n_samples, rng)
        return drawn[names.index(column)]

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
        posterior = self.tile_posterior
        arrays = {'FEATURES': posterior.features.cpu().numpy()}
        scalars = {}
        for field in dataclasses.fields(posterior.inputs):
            value = getattr(posterior.inputs, field.name)
            if isinstance(value, torch.Tensor):
                value = value.cpu().numpy()
                value = value.astype(np.uint8) if value.dtype == bool else value
                arrays[f'IN_{field.name.upper()}'] = value
            else:
                scalars[field.name] = value
        weights = posterior.head.state_dict()
        arrays['WEIGHTS'] = np.concatenate(
            [v.cpu().numpy().ravel() for v in weights.values()]
        )
        arrays['FLOOR'] = np.ascontiguousarray(self.flux_floor)
        if self.flags is not None:
            arrays['FLAGS'] = self.flags.astype(np.int32)
        head = posterior.head
        meta = {
            'scalars': scalars,
            'head': {
                'n_features': head.from_context.in_channels,
                'width': head.from_context.out_channels,
                'n_most': head.n_most,
                'n_components': head.n_components,
            },
            'galaxies': head.galaxies,
            # Sums in another order would round differently.
            'channels_last': head.from_neighbours.weight.is_contiguous(
                memory_format=torch.channels_last
            ),
            'tile_size': posterior.grid.size,
            'patch_radius': posterior.patch_radius,
            'unit': None if self.unit is None else str(self.unit),
            'wcs': wcs_to_header(self.wcs, shape=self.shape),
            'meta': json.loads(json.dumps(self.meta)),
        }
        return arrays, meta

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
        import astropy.units as u

        from bliss_astro.encoders import EncoderInputs

        def tensor(name):
            value = np.ascontiguousarray(arrays[name])
            native = value.astype(value.dtype.newbyteorder('='), copy=False)
            return torch.as_tensor(native.copy())

        # Layers draw first weights from torch's global generator: put it back.
        with torch.random.fork_rng(devices=[]):
            kind = CatalogHead if meta.get('galaxies', False) else StarHead
            head = kind(**meta['head'])
        weights, start = tensor('WEIGHTS').float(), 0
        state = head.state_dict()
        for name, value in state.items():
            stop = start + value.numel()
            state[name] = weights[start:stop].reshape(value.shape)
            start = stop
        head.load_state_dict(state)
        if meta.get('channels_last', True):
            head = head.to(memory_format=torch.channels_last)
        head.eval().requires_grad_(False)
        values = dict(meta['scalars'])
        for field in dataclasses.fields(EncoderInputs):
            key = f'IN_{field.name.upper()}'
            if key in arrays:
                values[field.name] = tensor(key)
        values['mask'] = values['mask'].bool()
        posterior = TilePosterior(
            tensor('FEATURES').float(),
            EncoderInputs(**values),
            head,
            tile_size=meta['tile_size'],
            patch_radius=meta['patch_radius'],
        )
        wcs, shape = meta['wcs'], posterior.grid.image_shape
        return cls(
            posterior,
            np.asarray(arrays['FLOOR'], float),
            unit=None if meta['unit'] is None else u.Unit(meta['unit']),
            wcs=None if wcs is None else header_to_wcs(wcs, shape=shape),
            flags=np.asarray(arrays['FLAGS']) if 'FLAGS' in arrays else None,
            meta=meta['meta'],
        )


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
