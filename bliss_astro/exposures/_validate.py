# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Validation of the parts of an `Exposure`: numbers, maps, masks and their units.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import NDData
from astropy.utils.masked import Masked

from bliss_astro._arguments import check_number, has_sign, must, require, sign_text
from bliss_astro.units import is_text_exact, median_and_scatter, unit_text

# Sigma above the sky within which a saturation level is none.
_SATURATION_SIGMA = 2.0


class GivenTwiceError(ValueError):
    """Argument ``name`` that an image of a kind states itself."""

    def __init__(self, name, kind):
        text = f'{name} was given although data is {kind}, which carries its own'
        super().__init__(f'{text}; change it there')
        self.name, self.kind = name, kind


def refuse(given, kind, *, allowed=()):
    """Refuse arguments, except for allowed ones, that a kind of image states itself."""
    twice = sorted(set(given) - set(allowed))
    if twice:
        raise GivenTwiceError(twice[0], kind)


def refuse_both(given, first, second):
    """Refuse two arguments of one meaning."""
    if first in given and second in given:
        raise ValueError(f'{first} and {second} were both given; give one of them')


def is_word(value, word):
    """Whether an argument that may be an array is a word."""
    return isinstance(value, str) and value == word


# -- numbers, maps, masks --------------------------------------------------------


def split_mask(name, value, shape):
    """Value without the mask of a masked array, and that mask or `None`."""
    if hasattr(value, 'detach'):
        # A tensor of torch's that records gradients does not become an array.
        value = value.detach().cpu()
    mask = None
    if isinstance(value, np.ma.MaskedArray):
        mask, value = np.ma.getmask(value), np.ma.getdata(value)
    elif isinstance(value, Masked):
        mask, value = value.mask, value.unmasked
    if mask is None or not np.any(mask):
        return value, None
    check_shape(f'{name} with masked values', value, shape)
    return value, np.asarray(mask, dtype=bool)


def check_shape(name, value, shape, have='have'):
    """Refuse a map that is not of the shape of the image."""
    own = np.shape(value)
    require(own == shape, name, f'{have} the shape of data, {shape}', own)


def check_data(data):
    """
    Image as a 2-D float array of native byte order, and its bad pixels.

    Bad are pixels that are not finite, or masked in a masked array.
    """
    data, hidden = split_mask('data', data, np.shape(data))
    array = np.asarray(data)
    got = f'a {type(data).__name__} of type {array.dtype}'
    require(array.dtype.kind in 'fiu', 'data', 'be real numbers', got, TypeError)
    if array.ndim != 2:
        text = must('data', 'be two-dimensional', f'shape {array.shape}')
        if array.ndim > 2:
            # The shortest axis counts planes or colours.
            axes = np.full(array.ndim, ':')
            axes[np.argsort(array.shape, kind='stable')[:-2]] = '0'
            text += f' Choose one plane, such as data[{", ".join(axes)}]'
            text += ' (detect_sources takes all of them with bands, their names).'
        raise ValueError(text)
    require(array.size > 0, 'data', 'have pixels', f'shape {array.shape}')
    array = _floats(array)
    bad = ~np.isfinite(array)
    got = 'an image where all are NaN or infinite'
    require(not bad.all(), 'data', 'have finite pixels', got)
    return array, join_masks(array.shape, bad, hidden)


def _floats(array):
    """Array in float32, which holds integers of 24 bits without loss, or float64."""
    wide = array.dtype.itemsize > (4 if array.dtype.kind == 'f' else 2)
    return np.asarray(array, dtype=np.float64 if wide else np.float32)


def check_mask(name, mask, shape):
    """Turn a mask of booleans, or zeros and ones, into a boolean array or None."""
    if mask is None or mask is np.ma.nomask:
        return None
    mask, hidden = split_mask(name, mask, shape)
    array = np.asarray(mask)
    check_shape(name, array, shape)
    if hidden is not None:
        # Masked values of a mask may be anything.
        array = np.where(hidden, True, array)
    if array.dtype.kind == 'b':
        return array
    sound = array.dtype.kind in 'iu' and np.isin(array, (0, 1)).all()
    require(sound, name, 'be boolean (True = bad), no bits', array.dtype, TypeError)
    return array.astype(bool)


def join_masks(shape, *masks):
    """Union of masks, of which some may be None; a new array."""
    joined = np.zeros(shape, dtype=bool)
    for mask in masks:
        if mask is not None:
            joined |= mask
    return joined


def check_map(name, value, shape, *, good=None, sign=None):
    """
    Turn a number or a map of the image's shape into a float or a float array.

    Where pixels are ``good`` it must be finite and of the sign 'positive' or
    'not negative'; other values that are not become the median of the good ones.
    """
    array = np.asarray(value)
    if array.dtype.kind not in 'fiu':
        text = must(name, 'be a real number or a map', f'{value!r:.60}')
        raise TypeError(text)
    if array.ndim == 0:
        return float(array) if good is None else check_number(name, value, sign=sign)
    check_shape(name, array, shape, 'be a number or have')
    array = _floats(array)
    if good is None:
        return array
    sound = has_sign(array, sign)
    broken = good & ~sound
    if broken.any():
        y, x = np.argwhere(broken)[0]
        got = f'{np.count_nonzero(broken)} others, first at x={x}, y={y}: {array[y, x]}'
        raise ValueError(must(name, f'be {sign_text(sign)} in every good pixel', got))
    if sound.all():
        return array
    return np.where(sound, array, np.median(array[good])).astype(array.dtype)


def check_correlation(noise_correlation):
    """Check the correlation of the noise of neighbouring pixels in x and in y."""
    try:
        along_x, along_y = (float(value) for value in noise_correlation)
    except (TypeError, ValueError):
        allowed = 'be a pair (in x, in y) of numbers'
        text = must('noise_correlation', allowed, f'{noise_correlation!r}')
        raise ValueError(text) from None
    good, got = -1 < along_x < 1 and -1 < along_y < 1, (along_x, along_y)
    require(good, 'noise_correlation', 'lie between -1 and 1', got)
    return along_x, along_y


def check_some_good(exposure):
    """Refuse an image without a good pixel."""
    if not exposure.mask.all():
        return
    msg = 'data must have good pixels; all are masked, saturated or not finite.'
    if exposure.saturated.all() and exposure.saturation is not None:
        level = np.max(exposure.saturation)
        msg = f'saturation must lie above some of the data; all reach {level}.'
    raise ValueError(msg)


def check_saturation(exposure):
    """Refuse a saturation level that the sky reaches."""
    known = exposure.data[exposure.saturated | ~exposure.mask]
    sky, noise = median_and_scatter(known)
    level = np.median(exposure.saturation)
    n_full, n = np.count_nonzero(exposure.saturated), exposure.mask.size
    got = f'{n_full} of {n} pixels that reach {level:.6g} with a median of {sky:.6g}'
    above = level > sky + _SATURATION_SIGMA * noise
    require(above, 'saturation', 'lie above the sky', got)


# -- units -----------------------------------------------------------------------


def image_unit(data, unit):
    """Unit of the numbers of an image, its own or the one to which it is converted."""
    if isinstance(data, NDData):
        msg = (
            'data is an NDData; use Exposure.from_nddata, which takes all parts of it.'
        )
        raise TypeError(msg)
    own = getattr(data, 'unit', None)
    unit = own if unit is None else u.Unit(unit)
    if unit is None:
        return None
    # Magnitudes per area are no fluxes either, nor is what is defined by magnitudes.
    bases = unit.decompose().bases if isinstance(unit, u.UnitBase) else [u.mag]
    if not {u.mag, u.dex, u.dB}.isdisjoint(bases):
        text = must('data', 'have a unit that is linear in flux', unit)
        raise ValueError(f'{text} Convert magnitudes to fluxes.')
    if own is not None and not own.is_equivalent(unit):
        raise ValueError(f'unit={unit} does not fit data, which is in {own}.')
    return portable_unit(unit)


def portable_unit(unit):
    """Replace units unknown to astropy by their definitions, where they have one."""
    try:
        return unit if is_text_exact(unit) else u.Unit(unit_text(unit))
    except ValueError:
        return unit


def strip_unit(name, value, unit, with_units=None):
    """
    Value of an argument in a unit.

    If the image is ``with_units``, or without, so must be the argument, unless it is
    `None` or 0; by default it may have a unit.
    """
    own = getattr(value, 'unit', None)
    if with_units is not None and (own is not None) != with_units:
        if own is None and (value is None or np.array_equal(value, 0)):
            return value
        having, lacking = ('data', name) if with_units else (name, 'data')
        msg = f'{having} has a unit and {lacking} has none; give all units or none.'
        raise ValueError(msg)
    if own is None:
        return value
    unit = u.one if unit is None else unit
    require(own.is_equivalent(unit), name, f'have units of {unit}', own)
    return value.to_value(unit)


def two_slices(item, shape):
    """Turn an index of a cut-out into two slices (rows, columns) with bounds."""
    item = item if isinstance(item, tuple) else (item, slice(None))
    if len(item) != 2 or not all(isinstance(part, slice) for part in item):
        allowed = 'be cut by two slices, exposure[y0:y1, x0:x1]'
        raise TypeError(must('exposure', allowed, f'{item!r}'))
    bounds = []
    for part, length, axis in zip(item, shape, 'yx', strict=True):
        start, stop, step = part.indices(length)
        require(step == 1, 'a cut-out', 'have step 1', f'step {step} in {axis}')
        got = f'{part.start}:{part.stop} in {axis} has none within 0:{length}'
        require(stop > start, 'a cut-out', 'have pixels', got)
        bounds.append(slice(start, stop))
    return bounds
