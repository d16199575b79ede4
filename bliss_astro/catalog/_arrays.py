# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Named arrays to FITS extensions and back, bit by bit.
"""

import numpy as np
from astropy.io import fits

from ._meta import plain_value

__all__ = ['read_arrays', 'write_arrays']

# Types that a FITS image holds; others travel in one that has room for them.
_CARRIERS = {
    **dict.fromkeys(['u1', 'i2', 'i4', 'i8', 'f4', 'f8', 'u2', 'u4', 'u8']),
    'b1': 'u1',
    'i1': 'i2',
    'f2': 'f4',
    'c8': 'f4',
    'c16': 'f8',
}


def write_arrays(arrays, meta):
    """
    Make image extensions of named arrays.

    Parameters
    ----------
    arrays : mapping of str to `~numpy.ndarray`
        Numeric or boolean arrays of any shape. Names differ by more than
        their case.

    meta : mapping
        Plain values that belong to them.

    Returns
    -------
    hdus : list of `~astropy.io.fits.ImageHDU`
        One extension ``BLISS_<NAME>`` for each array that is not empty.

    description : dict
        What `read_arrays` needs besides, as plain values.
    """
    hdus, described = [], {}
    for name, array in arrays.items():
        array = np.asarray(array)
        extension = f'BLISS_{name}'.upper()
        taken = {entry['extension'] for entry in described.values()}
        if extension == 'BLISS_META' or extension in taken:
            msg = f'array names must be unique and not "meta", got {name!r}'
            raise ValueError(msg)
        kind = array.dtype.str[1:]
        if kind not in _CARRIERS:
            msg = f'array {name!r} has dtype {array.dtype}, which FITS cannot hold'
            raise TypeError(msg)
        described[name] = {
            'extension': extension,
            'dtype': kind,
            'shape': list(array.shape),
        }
        # FITS has no empty images and none without axes.
        if array.size:
            data = _carried(np.atleast_1d(array), kind)
            hdus.append(fits.ImageHDU(data, name=extension))
    return hdus, {'arrays': described, 'meta': plain_value(dict(meta))}


def _carried(array, kind):
    """
    Turn an array into one of a type that FITS has.
    """
    carrier = _CARRIERS[kind]
    if carrier is None:
        return array
    if array.dtype.kind == 'c':
        # Real and imaginary part next to each other.
        return np.ascontiguousarray(array).view(carrier)
    return array.astype(carrier)


def read_arrays(hdus, description):
    """
    Read back what `write_arrays` made.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.

    description : dict
        What `write_arrays` returned beside the extensions.

    Returns
    -------
    arrays : dict of str to `~numpy.ndarray`
        The arrays, in native byte order.

    meta : dict
        The plain values.

    Raises
    ------
    ValueError
        If an extension is missing or has another shape than described.
    """
    arrays = {}
    for name, entry in description['arrays'].items():
        dtype, shape = np.dtype(entry['dtype']), tuple(entry['shape'])
        if 0 in shape:
            arrays[name] = np.empty(shape, dtype)
            continue
        if entry['extension'] not in hdus:
            msg = f'extension {entry["extension"]} is missing'
            raise ValueError(msg)
        data = np.asarray(hdus[entry['extension']].data)
        data = data.astype(data.dtype.newbyteorder('='))
        data = data.view(dtype) if dtype.kind == 'c' else data.astype(dtype)
        if data.size != np.prod(shape):
            msg = f'{entry["extension"]} has shape {data.shape}, expected {shape}'
            raise ValueError(msg)
        arrays[name] = data.reshape(shape)
    return arrays, description['meta']
