# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Ranges of the parameters of the PSF model.
"""

import astropy.units as u
import numpy as np
from astropy.modeling import InputParameterError

__all__ = []


def plain(value, unit=None):
    """
    Return a value without its unit.
    """
    if isinstance(value, u.Quantity):
        return value.to_value(unit) if unit is not None else value.value
    return value


# Validators are module-level functions: a model with others does not pickle.
def check_number(name, low, closed, _model, value):
    """
    Raise unless a shape parameter is finite and above its lower limit.
    """
    number = np.asarray(plain(value), float)
    inside = number >= low if closed else number > low
    if not np.all(np.isfinite(number) & inside):
        relation = '>=' if closed else '>'
        msg = f'{name} must be finite and {relation} {low:g}, got {value}'
        raise InputParameterError(msg)


def check_beta(model, value):
    """
    Raise unless the wing's slope is positive, and its flux finite.
    """
    check_number('beta', 0.0, False, model, value)
    radius = getattr(model, '_normalization_radius', 0.0)
    if np.isinf(radius) and np.any(np.asarray(plain(value)) <= 2):
        msg = (
            f'beta must be > 2 where normalization_radius is infinite, got {value}: '
            'the flux of a flatter power law is infinite'
        )
        raise InputParameterError(msg)


def check_ellipticity(name, model, value):
    """
    Raise unless the two components of the ellipticity are below one together.
    """
    other = plain(getattr(model, 'e2' if name == 'e1' else 'e1').value)
    size = np.hypot(np.asarray(plain(value), float), other)
    if not np.all(size < 1):
        msg = (
            f'{name} must keep the ellipticity sqrt(e1**2 + e2**2) below 1, got '
            f'{name}={value}, which makes it {np.max(size):.6g}'
        )
        raise InputParameterError(msg)


def check_radius(radius):
    """
    Return the normalisation radius as a float, or raise.
    """
    if isinstance(radius, u.Quantity):
        radius = radius.to_value(u.pix)
    try:
        radius = float(radius)
    except (TypeError, ValueError):
        radius = np.nan
    if not radius > 0:
        msg = (
            'normalization_radius must be a number of pixels > 0, or infinite, '
            f'got {radius}'
        )
        raise ValueError(msg)
    return radius
