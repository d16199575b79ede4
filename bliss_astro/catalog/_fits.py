# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
FITS files of catalogues: the table, the card, and the arrays of the posterior.
"""

import dataclasses
import io
import json

import astropy.units as u
import numpy as np
import torch
from astropy.io import fits
from astropy.table import MaskedColumn, QTable
from astropy.utils.masked import Masked
from torch.nn.utils import vector_to_parameters

from bliss_astro._fits import CREATOR, open_fits
from bliss_astro._warnings import collect_warnings
from bliss_astro.encoders import EncoderInputs
from bliss_astro.posteriors import TilePosterior
from bliss_astro.posteriors._head import CatalogHead, StarHead
from bliss_astro.posteriors._source_chain import further
from bliss_astro.posteriors._source_sequence import SourceEncoders
from bliss_astro.units import unit_text

from ._columns import COLUMNS
from ._formats import (
    is_fits_unit,
    make_card,
    plain_table,
    read_card,
    relabel,
    restore_columns,
)
from ._meta import header_to_wcs, plain_value, wcs_to_header

_CARD_EXTENSION = 'BLISS_META'


def write_fits(catalog, path, posterior):
    """Write FITS: the table, the card, the arrays of the posterior (or `None`)."""
    table = plain_table(catalog)
    # The card has the meta; headers cannot hold what is nested.
    table.meta = {}
    for name in table.colnames:
        unit = getattr(table[name], 'unit', None)
        if isinstance(unit, u.UnitBase) and not is_fits_unit(unit):
            # Plain numbers; the card and the comment of the column have the unit.
            relabel(table, name, None)
        if isinstance(table[name], MaskedColumn | Masked):
            # The mask gets a column; a value that stands for "masked" might be real.
            table[name].info.serialize_method['fits'] = 'data_mask'
    stream = io.BytesIO()
    # Astropy warns of units that FITS lacks, and keeps them all the same.
    with collect_warnings():
        table.write(stream, format='fits')
    stream.seek(0)
    arrays, card = [], {}
    if posterior is not None:
        arrays, card['posterior'] = _write_arrays(*posterior.to_arrays())
    text = np.array([make_card(catalog, **card).encode('ascii')])
    # One row with one string: any FITS browser shows it.
    column = fits.Column('JSON', format=f'{text.itemsize}A', array=text)
    with fits.open(stream) as hdus:
        rows = hdus[1]
        rows.name = 'CATALOG'
        for i, name in enumerate(rows.columns.names, start=1):
            if name not in COLUMNS:
                continue
            # TOPCAT and others read UCDs and comments.
            rows.header[f'TUCD{i}'] = COLUMNS[name].ucd
            comment = COLUMNS[name].description
            unit = getattr(catalog[name], 'unit', None)
            # TUNIT would be refused by astropy's reader for units that are not in
            # the standard (nmgy); without it, it finds them in its own notes.
            if isinstance(unit, u.UnitBase) and f'TUNIT{i}' not in rows.header:
                comment = f'{comment} [{unit}]'
            rows.header[f'TCOMM{i}'] = comment
        card_hdu = fits.BinTableHDU.from_columns([column], name=_CARD_EXTENSION)
        primary = fits.PrimaryHDU()
        primary.header['CREATOR'] = CREATOR
        hdus = fits.HDUList([primary, rows, card_hdu, *arrays])
        hdus.writeto(path, overwrite=True, checksum=True)


def read_fits(path, posterior):
    """Read FITS: table, meta, and arrays and meta of the posterior (or `None`)."""
    with open_fits(path, 'path') as hdus:
        # NaN is a value here, such as the magnitude of no flux.
        table = QTable.read(
            hdus,
            format='fits',
            hdu='CATALOG' if 'CATALOG' in hdus else 1,
            mask_invalid=False,
            character_as_bytes=False,
            astropy_native=True,
        )
        if _CARD_EXTENSION not in hdus:
            # Tables of other programs have none; one of ours lost it.
            if hdus[0].header.get('CREATOR') == CREATOR:
                msg = f'extension {_CARD_EXTENSION} is missing'
                raise ValueError(msg)
            return table, {}, None
        card = read_card(str(hdus[_CARD_EXTENSION].data['JSON'][0]))
        arrays = None
        if posterior and card.get('posterior'):
            arrays = _read_arrays(hdus, card['posterior'])
        return restore_columns(table, card), card['meta'], arrays


def _write_arrays(arrays, meta):
    """Image extensions of arrays, and the description that `_read_arrays` needs."""
    described, hdus = {}, []
    for name, array in arrays.items():
        extension = f'BLISS_{name}'.upper()
        shape, dtype = list(array.shape), array.dtype.str[1:]
        described[name] = {'extension': extension, 'dtype': dtype, 'shape': shape}
        # FITS has no empty images.
        if array.size:
            hdus.append(fits.ImageHDU(array, name=extension))
    return hdus, {'arrays': described, 'meta': plain_value(dict(meta))}


def _read_arrays(hdus, description):
    """Arrays, in native byte order, and plain values of what `_write_arrays` made."""
    arrays = {}
    for name, entry in description['arrays'].items():
        extension, shape = entry['extension'], tuple(entry['shape'])
        data = np.empty(shape) if 0 in shape else None
        if data is None and extension in hdus:
            data = np.asarray(hdus[extension].data)
        if np.shape(data) != shape:
            msg = f'extension {extension} of shape {shape} is missing'
            raise ValueError(msg)
        arrays[name] = data.astype(entry['dtype'])
    return arrays, description['meta']


# -- posteriors -------------------------------------------------------------------


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
    held |= {'FEATURES': tiles.features.float(), 'WEIGHTS': _weights(head)}
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
    if names := [entry.name for entry in further(head.entries)]:
        meta['head']['parameters'] = names
    if head.shapes:
        latent_dim = head.source[0]['shape'].latent_dim
        meta['head'] |= {'shapes': True, 'latent_dim': latent_dim}
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
            'parameters': names,
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
