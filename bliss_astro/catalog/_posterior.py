# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posterior of one image: counts, intervals and draws, whole catalogues, storage.

The functions are methods of `~bliss_astro.catalog.CatalogPosterior`.
"""

import dataclasses
import json

import astropy.units as u
import numpy as np
import torch
from torch.nn.utils import vector_to_parameters

from bliss_astro._arguments import check_rng, torch_generator
from bliss_astro._threads import use_threads
from bliss_astro.encoders import EncoderInputs
from bliss_astro.posteriors import TilePosterior
from bliss_astro.posteriors._head import CatalogHead, StarHead
from bliss_astro.posteriors._source_sequence import SourceEncoders
from bliss_astro.units import unit_text

from ._build import check_count
from ._candidates import candidates_of, plain
from ._meta import header_to_wcs, wcs_to_header
from ._rows import SourceRows, latent_dim, tabulate_draw


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
    part = (slice(None),) * 2 if region is None else region
    if not isinstance(part, tuple) or [type(v) for v in part] != [slice] * 2:
        part = np.asarray(part)
    if isinstance(part, tuple) or (part.shape == (ny, nx) and part.dtype == bool):
        inside[:ny, :nx][part] = 1
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


# -- storage ---------------------------------------------------------------------


def to_arrays(self):
    """
    Features, inputs and weights of the head as arrays, and plain values.

    Returns
    -------
    arrays : dict of str to `~numpy.ndarray`
        All that `from_arrays` needs.

    meta : dict
        Plain values for JSON.
    """
    tiles, head = self.tile_posterior, self.tile_posterior.head
    held = {f'IN_{name.upper()}': v for name, v in vars(tiles.inputs).items()}
    held |= {'FEATURES': tiles.features, 'WEIGHTS': _weights(head)}
    meta = {
        'scalars': {'normalization_radius': tiles.inputs.normalization_radius},
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
        'tile_size': tiles.grid.size,
        'patch_radius': tiles.patch_radius,
        'coarse': bool(tiles.coarse),
        'unit': unit_text(self.unit),
        'wcs': wcs_to_header(self.wcs, shape=self.shape),
        # Not every WCS can be kept, and radii are arcsec.
        'pixel_scale': self.pixel_scale,
        'meta': json.loads(json.dumps(self.meta)),
        'binning': self.binning,
        'image_shape': list(self.shape),
    }
    if head.shapes:
        meta['head'] |= {'shapes': True, 'latent_dim': latent_dim(head)}
    if (sequence := tiles.sequence) is not None:
        encoders = sequence.encoders
        held |= {'SEQUENCE': _weights(encoders), 'CONDITIONS': sequence.conditions}
        meta['half'] = bool(sequence.half)
        meta['sequence'] = {
            'n_conditions': sequence.conditions.shape[1],
            'n_features': sequence.features.shape[1],
            'width': encoders.width,
            'shapes_only': encoders.shapes_only,
            'n_components': encoders.n_components,
            'latent_dim': encoders.shape.latent_dim,
        }
    arrays = {'FLOOR': np.ascontiguousarray(self.flux_floor)}
    if self.flags is not None:
        arrays['FLAGS'] = self.flags.astype(np.int32)
    for name, value in held.items():
        if isinstance(value, torch.Tensor):
            value = value.to(torch.uint8) if value.dtype == torch.bool else value
            arrays[name] = value.cpu().numpy()
    return arrays, meta


def from_arrays(cls, arrays, meta, *, device='cpu'):
    """
    Make a posterior of what `to_arrays` returned.

    Parameters
    ----------
    arrays : dict of str to `~numpy.ndarray`
        See `to_arrays`.

    meta : dict
        See `to_arrays`.

    device : str or `torch.device`, optional
        Device of the posterior.

    Returns
    -------
    posterior : `CatalogPosterior`
        Same tables and, for the same ``rng``, same draws.
    """
    # Of any byte order.
    tensors = {
        name: torch.tensor(value.astype(value.dtype.newbyteorder('='))).to(device)
        for name, value in arrays.items()
        if name not in ('FLOOR', 'FLAGS')
    }
    # Layers draw first weights from torch's global generator: put it back.
    with torch.random.fork_rng(devices=[]):
        kind = CatalogHead if meta.get('galaxies', False) else StarHead
        head = kind(**meta['head'])
        encoders = SourceEncoders(**meta['sequence']) if 'sequence' in meta else None
    sources = None
    for module, name in ((head, 'WEIGHTS'), (encoders, 'SEQUENCE')):
        if module is not None:
            module.to(device).eval().requires_grad_(False)
            vector_to_parameters(tensors[name].float(), module.parameters())
            for weight in module.parameters():
                # Aligned in memory as new ones are: other sums round differently.
                weight.data = weight.data.clone()
            if meta.get('channels_last', True):
                module.to(memory_format=torch.channels_last)
    if encoders is not None:
        sources = encoders, tensors['CONDITIONS'].float(), meta['half']
    inputs = dict(meta['scalars'])
    for field in dataclasses.fields(EncoderInputs):
        if (value := tensors.get(f'IN_{field.name.upper()}')) is not None:
            inputs[field.name] = value.bool() if field.name == 'mask' else value
    tiles = TilePosterior(
        tensors['FEATURES'].float(),
        EncoderInputs(**inputs),
        head,
        tile_size=meta['tile_size'],
        patch_radius=meta['patch_radius'],
        sources=sources,
    )
    tiles.coarse = bool(meta.get('coarse', False))
    shape = tuple(meta.get('image_shape', tiles.grid.image_shape))
    made = cls(
        tiles,
        np.asarray(arrays['FLOOR'], float),
        unit=None if meta['unit'] is None else u.Unit(meta['unit']),
        wcs=header_to_wcs(meta['wcs'], shape=shape),
        flags=np.asarray(arrays['FLAGS']) if 'FLAGS' in arrays else None,
        meta=meta['meta'],
        binning=meta.get('binning', 1),
        image_shape=shape,
    )
    if meta.get('pixel_scale') is not None:
        made.pixel_scale = meta['pixel_scale']
    return made


def _weights(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


def move(self, device):
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


def nbytes(self):
    """Memory of features, context, inputs and padded image, in bytes."""
    tiles = self.tile_posterior
    held = [*vars(tiles).values(), *vars(tiles.inputs).values()]
    held += vars(tiles.pixels).values()
    tensors = {id(value): value for value in held if isinstance(value, torch.Tensor)}
    return sum(tensor.nbytes for tensor in tensors.values())
