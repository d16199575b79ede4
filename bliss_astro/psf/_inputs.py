# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Arguments of PSFs and their fits: ranges, units, images as plain arrays.
"""

import os

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.modeling import InputParameterError
from astropy.nddata import Cutout2D, NDData, StdDevUncertainty

from bliss_astro._messages import first_wrong

__all__ = []

# Files and their parts, which `Exposure.read` opens.
_FILES = (
    str,
    os.PathLike,
    fits.HDUList,
    fits.PrimaryHDU,
    fits.ImageHDU,
    fits.CompImageHDU,
)

# An image of a PSF has its sky left in where pixels as bright as its outermost ones
# would make more than this share of its sum, and these are more than this share of
# those an eighth of the side further in.
_MAX_SKY_SHARE, _MIN_EDGE_RATIO, _INNER_RING, _MIN_SIDE = 0.2, 0.8, 0.125, 5
# Full widths at half maximum that a PSF may have: it contains the pixel.
_FWHM_RANGE = (1, 1000)
# Side and middle of the drawing of a model in pixels.
_DRAWING_SIDE, _DRAWING_MIDDLE = 51, 25.0


def image_of_model(model):
    """Evaluate another PSF model on 51 pixels around its centre."""
    model = model.copy()
    for name in ('x_0', 'y_0', 'flux'):
        if name not in model.param_names:
            msg = f'image, as a model, must have a parameter {name}, got {model!r}'
            raise ValueError(msg)
        setattr(model, name, 1.0 if name == 'flux' else _DRAWING_MIDDLE)
    yy, xx = np.mgrid[:_DRAWING_SIDE, :_DRAWING_SIDE]
    return np.asarray(model(xx.astype(float), yy.astype(float)), float)


def check_psf_pixels(image, name):
    """Refuse an image that is no PSF: not 2D, not finite, or with its sky left in."""
    if image.ndim != 2:
        msg = f'{name} must be two-dimensional; got shape {image.shape}.'
        raise ValueError(msg)
    finite = np.isfinite(image)
    if not finite.all():
        msg = f'{name} must be finite; got {first_wrong(image, finite)}.'
        raise ValueError(msg)
    total = image.sum()
    if not total > 0:
        got = f'a sum of {total:.6g}' if image.any() else 'zeros only'
        msg = f'{name} must have a positive sum; got {got}.'
        raise ValueError(msg)
    # Wings fall outwards, a sky does not; a wholly flat image is no PSF at all.
    outer, inner = (
        np.median(_ring(image, share)) if min(image.shape) >= _MIN_SIDE else 0.0
        for share in (0.0, _INNER_RING)
    )
    share = outer * image.size / total
    flat = np.isclose(share, 1.0, rtol=2e-4)
    if share > _MAX_SKY_SHARE and not flat and outer > _MIN_EDGE_RATIO * inner:
        msg = (
            f'{name} must have its sky subtracted; got a level of {outer:.3g} at its '
            f'edges that does not fall outwards, {100 * share:.0f} % of its sum. '
            'Subtract the median of the edges.'
        )
        raise ValueError(msg)


def _ring(image, share):
    """Pixels at one distance from the edge, that share of the shorter side."""
    depth = round(share * min(image.shape))
    edge = np.zeros(np.array(image.shape) - 2 * depth, dtype=bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    inside = image[depth : image.shape[0] - depth, depth : image.shape[1] - depth]
    return inside[edge]


def take_apart(data, error, mask, dimensions, *, name='data'):
    """Split data of any kind into plain arrays: data, bad pixels, error, unit."""
    if isinstance(data, NDData):
        if error is None and isinstance(data.uncertainty, StdDevUncertainty):
            error = data.uncertainty.array
        if mask is None:
            mask = data.mask
        data = data.data if data.unit is None else data.data * data.unit
    elif isinstance(data, Cutout2D):
        data = data.data
    elif isinstance(data, _FILES):
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


def without_unit(value, name, unit):
    """Return a value in the unit of the data; a gain in whatever unit it has."""
    own = getattr(value, 'unit', None)
    if value is None or own is None:
        return value
    if name == 'effective_gain':
        return value.value
    if unit is None:
        msg = f'{name} has the unit {own}, but the image has none'
        raise ValueError(msg)
    return value.to_value(unit)


def positive_numbers(value, name, shape, unit):
    """Return a positive number or map without its unit, or raise."""
    value = np.asarray(without_unit(value, name, unit), float)
    if value.shape not in ((), shape):
        msg = f'{name} must be a number or have shape {shape}, got {value.shape}'
        raise ValueError(msg)
    if not np.all(value > 0):
        msg = f'{name} must be > 0 everywhere, got a minimum of {np.min(value)}'
        raise ValueError(msg)
    return value


def star_positions(positions):
    """Read (x, y) from an array or from a table."""
    names = getattr(positions, 'colnames', None)
    if names is not None:
        pairs = (('x_centroid', 'y_centroid'), ('x', 'y'))
        pair = next((pair for pair in pairs if set(pair) <= set(names)), None)
        if pair is None:
            msg = f'positions must have columns x_centroid and y_centroid, got {names}'
            raise ValueError(msg)
        positions = np.column_stack([plain(positions[name]) for name in pair])
    positions = np.asarray(positions, float)
    if positions.ndim != 2 or positions.shape[1] != 2 or len(positions) == 0:
        msg = f'positions must have shape (n, 2), n > 0, got {positions.shape}'
        raise ValueError(msg)
    if not np.all(np.isfinite(positions)):
        wrong = first_wrong(positions, np.isfinite(positions))
        msg = f'positions must be finite, got {wrong}'
        raise ValueError(msg)
    return positions.T


def read_fwhm(fwhm):
    """Return a full width at half maximum as a number of pixels, or raise."""
    try:
        fwhm = fwhm.to_value(u.pix) if isinstance(fwhm, u.Quantity) else float(fwhm)
    except (TypeError, ValueError, u.UnitConversionError) as error:
        msg = f'fwhm must be a number of pixels, got {fwhm!r}'
        raise ValueError(msg) from error
    low, high = _FWHM_RANGE
    if not low <= fwhm <= high:
        msg = (
            f'fwhm must be a number of pixels from {low} to {high}, as a PSF contains '
            f'the pixel; got {fwhm}'
        )
        raise ValueError(msg)
    return fwhm


def plain(value, unit=None):
    """Return a value without its unit."""
    if isinstance(value, u.Quantity):
        return value.to_value(unit) if unit is not None else value.value
    return value


# Validators are module-level functions: a model with others does not pickle.
def check_number(name, low, closed, _model, value):
    """Raise unless a shape parameter is finite and above its lower limit."""
    number = np.asarray(plain(value), float)
    inside = number >= low if closed else number > low
    if not np.all(np.isfinite(number) & inside):
        relation = '>=' if closed else '>'
        msg = f'{name} must be finite and {relation} {low:g}, got {value}'
        raise InputParameterError(msg)


def check_beta(model, value):
    """Raise unless the wing's slope is positive, and its flux finite."""
    check_number('beta', 0.0, False, model, value)
    radius = getattr(model, '_normalization_radius', 0.0)
    if np.isinf(radius) and np.any(np.asarray(plain(value)) <= 2):
        msg = (
            f'beta must be > 2 where normalization_radius is infinite, got {value}: '
            'the flux of a flatter power law is infinite'
        )
        raise InputParameterError(msg)


def check_ellipticity(name, model, value):
    """Raise unless the two components of the ellipticity are below one together."""
    other = plain(getattr(model, 'e2' if name == 'e1' else 'e1').value)
    size = np.hypot(np.asarray(plain(value), float), other)
    if not np.all(size < 1):
        msg = (
            f'{name} must keep the ellipticity sqrt(e1**2 + e2**2) below 1, got '
            f'{name}={value}, which makes it {np.max(size):.6g}'
        )
        raise InputParameterError(msg)


def check_radius(radius):
    """Return the normalisation radius as a float, or raise."""
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
