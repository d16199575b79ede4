# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What the fits of the PSF accept, turned into plain arrays.
"""

import os

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D, NDData, StdDevUncertainty

from bliss_astro._messages import first_wrong

__all__ = []

# What is read by classes that stand below this folder.
_IN_FILES = (
    str,
    os.PathLike,
    fits.HDUList,
    fits.PrimaryHDU,
    fits.ImageHDU,
    fits.CompImageHDU,
)


def image_of_model(model):
    """
    Evaluate another PSF model on 51 pixels around its centre.
    """
    model = model.copy()
    for name in ('x_0', 'y_0', 'flux'):
        if name not in model.param_names:
            msg = f'image, as a model, must have a parameter {name}, got {model!r}'
            raise ValueError(msg)
        setattr(model, name, 1.0 if name == 'flux' else 25.0)
    yy, xx = np.mgrid[:51, :51]
    return np.asarray(model(xx.astype(float), yy.astype(float)), float)


def take_apart(data, error, mask, dimensions, *, name='data'):
    """
    Split data of any kind into plain arrays: data, bad pixels, error, unit.
    """
    if isinstance(data, NDData):
        if error is None and isinstance(data.uncertainty, StdDevUncertainty):
            error = data.uncertainty.array
        if mask is None:
            mask = data.mask
        data = data.data if data.unit is None else data.data * data.unit
    elif isinstance(data, Cutout2D):
        data = data.data
    elif isinstance(data, _IN_FILES):
        got = repr(data) if isinstance(data, str) else type(data).__name__
        msg = (
            f'{name} must be an exposure, NDData, Quantity or array, got {got}; files '
            'are read by Exposure.read, whose result can be given'
        )
        raise TypeError(msg)
    unit = data.unit if isinstance(data, u.Quantity) else None
    if not isinstance(data, u.Quantity):
        data = np.asarray(data)
    if np.asarray(data).dtype.kind not in 'iuf':
        msg = f'{name} must be real numbers, got {np.asarray(data).dtype}'
        raise ValueError(msg)
    data = np.array(getattr(data, 'value', data), float)
    if data.ndim not in dimensions or data.size == 0:
        allowed = ' or '.join(f'{n}D' for n in dimensions)
        msg = f'{name} must be {allowed} and not empty, got shape {data.shape}'
        raise ValueError(msg)
    bad = ~np.isfinite(data)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != data.shape:
            msg = (
                f'mask must be a bool array of shape {data.shape}, got '
                f'{mask.dtype} of shape {mask.shape}'
            )
            raise ValueError(msg)
        bad |= mask
    if bad.all():
        msg = f'{name} must have at least one pixel that is finite and not masked'
        raise ValueError(msg)
    data[bad] = 0.0
    if error is not None:
        error = positive_numbers(error, 'error', data.shape, unit)
    return data, bad, error, unit


def positive_numbers(value, name, shape, unit):
    """
    Return a positive number or map without its unit, or raise.
    """
    if isinstance(value, u.Quantity):
        if unit is None and name == 'error':
            msg = f'{name} has the unit {value.unit}, but the data have none'
            raise ValueError(msg)
        value = value.to_value(unit) if unit is not None else value.value
    value = np.asarray(value, float)
    if value.shape not in ((), shape):
        msg = f'{name} must be a number or have shape {shape}, got {value.shape}'
        raise ValueError(msg)
    if not np.all(value > 0):
        msg = f'{name} must be > 0 everywhere, got a minimum of {np.min(value)}'
        raise ValueError(msg)
    return value


def star_positions(positions):
    """
    Read (x, y) from an array or from a table.
    """
    names = getattr(positions, 'colnames', None)
    if names is not None:
        for x_name, y_name in (('x_centroid', 'y_centroid'), ('x', 'y')):
            if x_name in names and y_name in names:
                x, y = positions[x_name], positions[y_name]
                break
        else:
            msg = f'positions must have columns x_centroid and y_centroid, got {names}'
            raise ValueError(msg)
        x = getattr(x, 'value', x)
        y = getattr(y, 'value', y)
        positions = np.column_stack([x, y])
    positions = np.asarray(positions, float)
    if positions.ndim != 2 or positions.shape[1] != 2 or len(positions) == 0:
        msg = f'positions must have shape (n, 2), n > 0, got {positions.shape}'
        raise ValueError(msg)
    if not np.all(np.isfinite(positions)):
        wrong = first_wrong(positions, np.isfinite(positions))
        msg = f'positions must be finite, got {wrong}'
        raise ValueError(msg)
    return positions.T
