# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Storage of a posterior: named arrays and plain values, other devices, memory.

The functions are methods of `~bliss_astro.catalog.CatalogPosterior`.
"""

import dataclasses
import json

import astropy.units as u
import numpy as np
import torch
from torch.nn.utils import vector_to_parameters

from bliss_astro.encoders import EncoderInputs
from bliss_astro.posteriors import TilePosterior
from bliss_astro.posteriors._head import CatalogHead, StarHead
from bliss_astro.posteriors._source_encoders import SourceEncoders
from bliss_astro.units import unit_text

from ._meta import header_to_wcs, wcs_to_header
from ._rows import latent_dim


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
