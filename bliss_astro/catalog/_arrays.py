# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posteriors as arrays and plain values, which files hold: of marginals, or with features.
"""

import dataclasses
import json

import astropy.units as u
import numpy as np
import torch
from torch.nn.utils import vector_to_parameters

from bliss_astro.encoders import EncoderInputs
from bliss_astro.posteriors import TileGrid, TilePosterior
from bliss_astro.posteriors._head import TileHead
from bliss_astro.posteriors._source_encoders import SourceEncoders
from bliss_astro.posteriors._source_parameters import further
from bliss_astro.units import unit_text

from ._candidates import Candidates
from ._kept_tiles import TileFacts
from ._meta import header_to_wcs, wcs_to_header


def to_arrays(self, least=1.0):
    """
    Arrays and plain values of all that the posterior keeps.

    Parameters
    ----------
    least : float, optional
        Probability down to which sources are wanted, of those that were described.

    Returns
    -------
    arrays : dict of str to `~numpy.ndarray`
        Marginals and numbers by tile, or features, inputs and weights of the head:
        all that `from_arrays` needs.

    meta : dict
        Plain values for JSON.
    """
    whole = self.kept.is_whole
    held, meta = _held_tiles(self) if whole else _held_marginals(self, least)
    meta |= {
        'unit': unit_text(self.unit),
        'wcs': wcs_to_header(self.wcs, shape=self.shape),
        # Not every WCS can be kept, and radii are arcsec.
        'pixel_scale': self.pixel_scale,
        'meta': json.loads(json.dumps(self.meta)),
        'binning': self.binning,
        'image_shape': list(self.shape),
    }
    arrays = {'FLOOR': np.atleast_2d(self._floor)}
    if self.flags is not None:
        arrays['FLAGS'] = self.flags
    for name, value in held.items():
        if isinstance(value, torch.Tensor | np.ndarray):
            value = torch.as_tensor(value)
            value = value.to(torch.uint8) if value.dtype == torch.bool else value
            arrays[name] = value.cpu().numpy()
    return arrays, meta


def _held_tiles(posterior):
    """Features in half precision, inputs and weights of a posterior over tiles."""
    tiles = posterior.tile_posterior
    head, sequence = tiles.head, tiles.sequence
    held = {f'IN_{name.upper()}': v for name, v in vars(tiles.inputs).items()}
    features = tiles.features
    exact = features.dtype == torch.bfloat16
    features = features.view(torch.int16) if exact else features.half()
    held |= {'FEATURES': features, 'WEIGHTS': _weights(head)}
    meta = {
        'bfloat16': exact,
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
    }
    if names := [entry.name for entry in further(head.entries)]:
        meta['head']['parameters'] = names
    if any(entry.name == 'colour' for entry in head.entries):
        meta['head']['bands'] = True
    if head.shapes:
        latent_dim = head.source[0]['shape'].latent_dim
        meta['head'] |= {'shapes': True, 'latent_dim': latent_dim}
    if sequence is not None:
        encoders = sequence.encoders
        parts = sequence.conditions
        sides = [max(part.shape[axis] for part in parts) for axis in (2, 3)]
        parts = torch.cat([part.expand(-1, -1, *sides) for part in parts], 1)
        held |= {'SEQUENCE': _weights(encoders), 'CONDITIONS': parts}
        meta['half'] = bool(sequence.half)
        meta['sequence'] = {
            'n_conditions': parts.shape[1],
            'n_features': sequence.features.shape[1],
            'width': encoders.width,
            'shapes_only': encoders.shapes_only,
            'n_components': encoders.n_components,
            'latent_dim': encoders.shape.latent_dim,
            'parameters': names,
        }
    return held, meta


def _held_marginals(posterior, least):
    """Numbers by tile, and the first candidates that reach down to a probability."""
    facts = dict(vars(posterior.facts))
    grid = facts.pop('grid')
    names = [name for name, v in facts.items() if isinstance(v, np.ndarray)]
    held = {f'TILE_{name.upper()}': facts.pop(name) for name in names}
    meta = {'tiles': facts | {'shape': list(grid.image_shape), 'size': grid.size}}
    if found := posterior._found:
        found = next((some for some in found if some.least <= least), found[-1])
        arrays, meta['sources'] = found.to_arrays()
        held |= arrays
    return held, meta


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
        Same tables and, where it is not one of marginals, for the same ``rng`` same
        draws.
    """
    # Of any byte order.
    tensors = {
        name: torch.tensor(value.astype(value.dtype.newbyteorder('='))).to(device)
        for name, value in arrays.items()
        if name not in ('FLOOR', 'FLAGS')
    }
    make = _facts_of if 'tiles' in meta else _tiles_of
    tiles = make(tensors, meta, device)
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
    if 'sources' in meta:
        made._found.append(Candidates.from_arrays(tensors, meta['sources']))
    return made


def _facts_of(tensors, meta, device):
    """`TileFacts` of a posterior of marginals."""
    values, start = dict(meta['tiles']), 'TILE_'
    grid = TileGrid(tuple(values.pop('shape')), values.pop('size'))
    arrays = {
        name.removeprefix(start).lower(): value.cpu().numpy()
        for name, value in tensors.items()
        if name.startswith(start)
    }
    return TileFacts(grid, **values, **arrays)


def _tiles_of(tensors, meta, device):
    """`TilePosterior` of features."""
    # Layers draw first weights from torch's global generator: put it back.
    with torch.random.fork_rng(devices=[]):
        head = TileHead(galaxies=meta.get('galaxies', False), **meta['head'])
        encoders = SourceEncoders(**meta['sequence']) if 'sequence' in meta else None
    sources = None
    for module, name in ((head, 'WEIGHTS'), (encoders, 'SEQUENCE')):
        if module is not None:
            module.to(device).eval().requires_grad_(False)
            vector_to_parameters(tensors[name].float(), _tensors(module))
            for weight in module.parameters():
                # Aligned in memory as new ones are: other sums round differently.
                weight.data = weight.data.clone()
            if meta.get('channels_last', True):
                module.to(memory_format=torch.channels_last)
    if encoders is not None:
        sources = encoders, [tensors['CONDITIONS'].float()], meta['half']
    inputs = dict(meta['scalars'])
    for field in dataclasses.fields(EncoderInputs):
        if (value := tensors.get(f'IN_{field.name.upper()}')) is not None:
            is_bool = field.name in ('mask', 'present')
            inputs[field.name] = value.bool() if is_bool else value
    # Files of earlier versions have no axis of bands.
    old = inputs['image'].dim() == 3
    features = tensors['FEATURES']
    if meta.get('bfloat16', False):
        features = features.view(torch.bfloat16)
    else:
        features = features.float()
    tiles = TilePosterior(
        features,
        EncoderInputs.of_band(**inputs) if old else EncoderInputs(**inputs),
        head,
        tile_size=meta['tile_size'],
        patch_radius=meta['patch_radius'],
        sources=sources,
    )
    tiles.coarse = bool(meta.get('coarse', False))
    return tiles


def _weights(module):
    return torch.cat([weight.detach().flatten() for weight in _tensors(module)])


def _tensors(module):
    """Weights, and what goes with them, in their order."""
    return [*module.parameters(), *module.buffers()]
