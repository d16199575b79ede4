# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Storage of a posterior: named arrays and plain values, other devices, memory.
"""

import copy
import dataclasses
import json

import astropy.units as u
import numpy as np
import torch

from bliss_astro.encoders import EncoderInputs
from bliss_astro.posteriors import TilePosterior
from bliss_astro.posteriors._head import CatalogHead, StarHead
from bliss_astro.posteriors._source_encoders import SourceEncoders
from bliss_astro.units import unit_text

from ._meta import header_to_wcs, wcs_to_header
from ._shapes import latent_dim

__all__ = [
    'move_posterior',
    'posterior_from_arrays',
    'posterior_nbytes',
    'posterior_to_arrays',
]


def posterior_to_arrays(self):
    """
    Features, inputs and weights of the head as arrays, and plain values.

    Returns
    -------
    arrays : dict of str to `~numpy.ndarray`
        All that `from_arrays` needs.

    meta : dict
        Plain values for JSON.
    """
    posterior, head = self.tile_posterior, self.tile_posterior.head
    arrays = {'FEATURES': posterior.features.cpu().numpy()}
    scalars = {}
    for name, value in vars(posterior.inputs).items():
        if isinstance(value, torch.Tensor):
            value = value.cpu().numpy()
            value = value.astype(np.uint8) if value.dtype == bool else value
            arrays[f'IN_{name.upper()}'] = value
        else:
            scalars[name] = value
    arrays['WEIGHTS'] = _take_weights(head)
    arrays['FLOOR'] = np.ascontiguousarray(self.flux_floor)
    if self.flags is not None:
        arrays['FLAGS'] = self.flags.astype(np.int32)
    meta = {
        'scalars': scalars,
        'head': {
            'n_features': head.from_context.in_channels,
            'width': head.from_context.out_channels,
            'n_most': head.n_most,
            'n_components': head.n_components,
            # Parameters of heads with shapes only.
            **({'shapes': True, 'latent_dim': latent_dim(head)} if head.shapes else {}),
        },
        'galaxies': head.galaxies,
        # Sums in another order would round differently.
        'channels_last': head.from_neighbours.weight.is_contiguous(
            memory_format=torch.channels_last
        ),
        'tile_size': posterior.grid.size,
        'patch_radius': posterior.patch_radius,
        'unit': unit_text(self.unit),
        'wcs': wcs_to_header(self.wcs, shape=self.shape),
        # Not every WCS can be kept, and radii are arcsec.
        'pixel_scale': self.pixel_scale,
        'meta': json.loads(json.dumps(self.meta)),
    }
    if self.binning > 1:
        meta |= {'binning': self.binning, 'image_shape': list(self.shape)}
    if posterior.coarse:
        meta['coarse'] = True
    sequence = posterior.sequence
    if sequence is not None:
        arrays['SEQUENCE'] = _take_weights(sequence.encoders)
        arrays['CONDITIONS'] = sequence.conditions.cpu().numpy()
        meta['half'] = bool(sequence.half)
        meta['sequence'] = {
            'n_conditions': sequence.conditions.shape[1],
            'n_features': sequence.features.shape[1],
            'width': sequence.encoders.width,
            'shapes_only': sequence.encoders.shapes_only,
            'n_components': sequence.encoders.n_components,
            'latent_dim': sequence.encoders.shape.latent_dim,
        }
    return arrays, meta


def posterior_from_arrays(cls, arrays, meta):
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
        Same tables and, for the same ``rng``, same draws.
    """
    # Layers draw first weights from torch's global generator: put it back.
    with torch.random.fork_rng(devices=[]):
        kind = CatalogHead if meta.get('galaxies', False) else StarHead
        head = kind(**meta['head'])
        encoders = SourceEncoders(**meta['sequence']) if 'sequence' in meta else None
    channels_last = meta.get('channels_last', True)
    _put_weights(head, arrays['WEIGHTS'], channels_last=channels_last)
    sources = None
    if encoders is not None:
        _put_weights(encoders, arrays['SEQUENCE'], channels_last=channels_last)
        conditions = _tensor(arrays['CONDITIONS']).float()
        sources = encoders, conditions, meta['half']
    values = dict(meta['scalars'])
    for field in dataclasses.fields(EncoderInputs):
        key = f'IN_{field.name.upper()}'
        if key in arrays:
            values[field.name] = _tensor(arrays[key])
    values['mask'] = values['mask'].bool()
    posterior = TilePosterior(
        _tensor(arrays['FEATURES']).float(),
        EncoderInputs(**values),
        head,
        tile_size=meta['tile_size'],
        patch_radius=meta['patch_radius'],
        sources=sources,
    )
    posterior.coarse = bool(meta.get('coarse', False))
    binning = meta.get('binning', 1)
    shape = tuple(meta.get('image_shape', posterior.grid.image_shape))
    wcs = meta['wcs']
    made = cls(
        posterior,
        np.asarray(arrays['FLOOR'], float),
        unit=None if meta['unit'] is None else u.Unit(meta['unit']),
        wcs=None if wcs is None else header_to_wcs(wcs, shape=shape),
        flags=np.asarray(arrays['FLAGS']) if 'FLAGS' in arrays else None,
        meta=meta['meta'],
        binning=binning,
        image_shape=shape if binning > 1 else None,
    )
    if meta.get('pixel_scale') is not None:
        made.pixel_scale = meta['pixel_scale']
    return made


def move_posterior(self, device):
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
    old, sources = self.tile_posterior, None
    if old.sequence is not None:
        encoders = copy.deepcopy(old.sequence.encoders).to(device)
        conditions = old.sequence.conditions.to(device)
        sources = encoders, conditions, old.sequence.half
    posterior = TilePosterior(
        old.features.to(device),
        old.inputs.to(device),
        copy.deepcopy(old.head).to(device),
        tile_size=old.grid.size,
        patch_radius=old.patch_radius,
        sources=sources,
    )
    posterior.coarse = old.coarse
    return type(self)(
        posterior,
        self.flux_floor,
        unit=self.unit,
        wcs=self.wcs,
        flags=self.flags,
        meta=self.meta,
        exposure=self.exposure,
        binning=self.binning,
        image_shape=self._image_shape,
    )


def posterior_nbytes(self):
    """Memory of features, context, inputs and padded image, in bytes."""
    tiles = self.tile_posterior
    held = [*vars(tiles).values(), *vars(tiles.inputs).values()]
    held += vars(tiles.pixels).values()
    tensors = {id(value): value for value in held if isinstance(value, torch.Tensor)}
    return sum(tensor.nbytes for tensor in tensors.values())


def _tensor(value):
    """Make a tensor of an array of any byte order."""
    value = np.ascontiguousarray(value)
    native = value.astype(value.dtype.newbyteorder('='), copy=False)
    return torch.as_tensor(native.copy())


def _take_weights(module):
    """Put all weights of a module into one array."""
    values = module.state_dict().values()
    return np.concatenate([value.cpu().numpy().ravel() for value in values])


def _put_weights(module, weights, *, channels_last):
    """Give a module the weights of one array, and make it ready for use."""
    weights, start = _tensor(weights).float(), 0
    state = module.state_dict()
    for name, value in state.items():
        stop = start + value.numel()
        state[name] = weights[start:stop].reshape(value.shape)
        start = stop
    module.load_state_dict(state)
    if channels_last:
        module.to(memory_format=torch.channels_last)
    module.eval().requires_grad_(False)
