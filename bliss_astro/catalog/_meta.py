# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The meta of a catalogue: plain values that every file format can hold.
"""

import datetime as dt
import importlib.metadata
import platform
import uuid
from collections.abc import Mapping
from pathlib import PurePath

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from .._warnings import collect_warnings
from ..units import unit_text
from ._record import DateText, ImageRecord

__all__ = [
    'default_meta',
    'header_to_wcs',
    'make_record',
    'plain_value',
    'wcs_to_header',
]

# How far (in pixels) a WCS rebuilt from its header may be off to be kept.
_WCS_TOLERANCE = 1e-3


def default_meta():
    """
    Date a catalogue and name the versions that made it.

    Returns
    -------
    meta : dict
        ``'date'`` (UTC) and ``'version'``, a dict of package to version, as
        photutils gives its tables.
    """
    from bliss_astro import __version__

    version = {'Python': platform.python_version(), 'bliss_astro': __version__}
    for package in ('astropy', 'numpy', 'torch'):
        try:
            version[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # pragma: no cover
            continue
    now = dt.datetime.now(tz=dt.UTC)
    return {'date': DateText(now.strftime('%Y-%m-%d %H:%M:%S UTC')), 'version': version}


def make_record(n_sources, *, posterior, wcs, unit, image_shape, expected_count, extra):
    """
    Collect what belongs to the image.

    Parameters
    ----------
    n_sources : int
        Number of rows of the whole catalogue.

    posterior, wcs, unit, image_shape, expected_count
        As for `ProbabilisticCatalog.from_columns`.

    extra : mapping
        More facts about the image.

    Returns
    -------
    record : `ImageRecord`
        The record, with a fresh uid.
    """
    values = {'uid': uuid.uuid4().hex, 'n_sources': n_sources}
    if unit is not None:
        values['unit'] = unit_text(unit)
    if image_shape is not None:
        shape = [int(n) for n in image_shape]
        if len(shape) != 2 or min(shape) < 1:
            msg = f'image_shape must be two positive integers, got {image_shape!r}'
            raise ValueError(msg)
        values['shape'] = shape
    if expected_count is not None:
        count = np.atleast_1d(np.asarray(expected_count, dtype=float))
        if count.shape not in [(1,), (2,)]:
            msg = f'expected_count must be mean or (mean, std), got {expected_count!r}'
            raise ValueError(msg)
        values['expected_count'] = count.tolist()
    if wcs is not None:
        values['wcs'] = wcs_to_header(wcs, shape=image_shape)
    values.update(plain_value(dict(extra), name="meta['image']"))
    return ImageRecord(values, posterior=posterior)


def wcs_to_header(wcs, *, shape=None):
    """
    Turn a WCS into a header string, if a header can hold it.

    Parameters
    ----------
    wcs : WCS object
        The WCS.

    shape : tuple of int or `None`, optional
        Shape of the image, in which the result is checked.

    Returns
    -------
    text : str or `None`
        The header, 80 characters per card; `None` for a WCS that is not FITS
        or that depends on lookup tables, which no header string can hold.
    """
    if not isinstance(wcs, WCS):
        return None
    text = wcs.to_header_string(relax=True).strip()
    ny, nx = (1000, 1000) if shape is None else shape
    x, y = (corner.ravel() for corner in np.meshgrid([0, nx / 3, nx], [0, ny / 2, ny]))
    original = wcs.pixel_to_world(x, y)
    rebuilt = header_to_wcs(text).pixel_to_world(x, y)
    scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * u.deg
    off = original.separation(rebuilt)
    # Where both have no answer (NaN), they agree.
    return text if not np.any(off > _WCS_TOLERANCE * scale) else None


def header_to_wcs(text, *, shape=None):
    """
    Rebuild a WCS from its header string.

    Parameters
    ----------
    text : str
        The header.

    shape : tuple of int or `None`, optional
        Shape of the image.

    Returns
    -------
    wcs : `~astropy.wcs.WCS`
        The WCS.
    """
    with collect_warnings(FITSFixedWarning):
        wcs = WCS(fits.Header.fromstring(text), relax=True)
    if shape is not None:
        wcs.array_shape = tuple(shape)
    return wcs


def plain_value(value, *, name='meta'):
    """
    Reduce a value to what every file format can store.

    Parameters
    ----------
    value : object
        A number, string, path, unit, date, quantity or array, or a mapping
        or sequence of those.

    name : str, optional
        What to call it in an error.

    Returns
    -------
    plain : `None`, bool, int, float, str, list or dict
        The same in plain Python types.
    """
    if value is None or isinstance(value, bool | int | float):
        return _plain_scalar(value)
    if isinstance(value, str | PurePath | u.UnitBase):
        return str(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, u.Quantity):
        return {'value': plain_value(value.value), 'unit': unit_text(value.unit)}
    if isinstance(value, np.generic | np.ndarray):
        return plain_value(value.tolist(), name=name)
    if isinstance(value, Mapping):
        return {
            str(key): plain_value(item, name=f'{name}[{key!r}]')
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_value(item, name=f'{name}[{i}]') for i, item in enumerate(value)]
    msg = (
        f'{name} is of {type(value)!r}, which files cannot store; allowed are '
        'numbers, strings, units, dates, arrays, and mappings or lists of these'
    )
    raise TypeError(msg)


def _plain_scalar(value):
    """
    Strip subclasses of Python's scalars (enumerations, NumPy's float64).
    """
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value
