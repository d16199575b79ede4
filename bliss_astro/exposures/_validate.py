# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of the parts of an `Exposure`: numbers, maps, masks and their units.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import NDData
from astropy.utils.masked import Masked

from bliss_astro.units import is_text_exact, unit_text

__all__ = []

# Signs of numbers, in the words of messages.
_SIGNS = {None: None, 'positive': np.greater, 'not negative': np.greater_equal}


class GivenTwiceError(ValueError):
    """Argument ``name`` that an image of a kind states itself."""

    def __init__(self, name, kind):
        super().__init__(
            f'{name} was given although data is {kind}, which carries its own; change '
            'it there'
        )
        self.name, self.kind = name, kind


def refuse(given, kind, *, allowed=()):
    """Refuse arguments, except for allowed ones, that a kind of image states itself."""
    twice = sorted(set(given) - set(allowed))
    if twice:
        raise GivenTwiceError(twice[0], kind)


def refuse_both(given, first, second):
    """Refuse two arguments of one meaning."""
    if first in given and second in given:
        msg = f'{first} and {second} were both given; give one of them'
        raise ValueError(msg)


def split_mask(name, value, shape):
    """
    Take the mask off a masked array of NumPy's or astropy's.

    Returns the value without it, and the mask or `None` if nothing is hidden.
    """
    if hasattr(value, 'detach'):
        # A tensor of torch's that records gradients does not become an array.
        value = value.detach().cpu()
    if isinstance(value, np.ma.MaskedArray):
        mask, value = np.ma.getmask(value), np.ma.getdata(value)
    elif isinstance(value, Masked):
        mask, value = value.mask, value.unmasked
    else:
        return value, None
    if not np.any(mask):
        return value, None
    if np.shape(value) != shape:
        msg = f'{name} has masked values and not the shape of data, {shape}.'
        raise ValueError(msg)
    return value, np.asarray(mask, dtype=bool)


def check_data(data):
    """
    Turn image data into a 2-D float array, and find its bad pixels.

    Parameters
    ----------
    data : array_like
        The image without its unit. Integers are cast to floating point.

    Returns
    -------
    data : float `~numpy.ndarray`, shape (ny, nx)
        The image in float32 or float64, in the machine's byte order. Floats
        of these two types are not copied.

    bad : bool `~numpy.ndarray`, shape (ny, nx)
        `True` where the data are not finite, or masked in a masked array.
    """
    data, hidden = split_mask('data', data, np.shape(data))
    array = np.asarray(data)
    kind = array.dtype.kind
    if kind not in 'fiu':
        kinds = {'c': 'complex', 'b': 'boolean'}
        got = f'an array that is {kinds.get(kind, f"of type {array.dtype}")}'
        if kind not in kinds and not isinstance(data, np.ndarray):
            got = f'a {type(data).__name__}'
        msg = f'data must be real numbers; got {got}.'
        raise TypeError(msg)
    if array.ndim != 2:
        msg = f'data must be two-dimensional; got shape {array.shape}.'
        if array.ndim > 2:
            # The shortest axis counts planes or colours.
            axes = [':'] * array.ndim
            for axis in np.argsort(array.shape, kind='stable')[:-2]:
                axes[axis] = '0'
            msg += f' Choose one plane, such as data[{", ".join(axes)}].'
        raise ValueError(msg)
    if array.size == 0:
        msg = f'data must have pixels; got shape {array.shape}.'
        raise ValueError(msg)
    # float32 holds integers of up to 24 bits without loss.
    wide = array.dtype.itemsize > (4 if kind == 'f' else 2)
    array = np.asarray(array, dtype=np.float64 if wide else np.float32)
    bad = ~np.isfinite(array)
    if bad.all():
        msg = 'data must have finite pixels; all are NaN or infinite.'
        raise ValueError(msg)
    return array, bad if hidden is None else bad | hidden


def check_mask(name, mask, shape):
    """Turn a mask of booleans, or zeros and ones, into a boolean array or None."""
    if mask is None or mask is np.ma.nomask:
        return None
    mask, hidden = split_mask(name, mask, shape)
    array = np.asarray(mask)
    if hidden is not None:
        # What a mask itself hides may be anything.
        array = np.where(hidden, True, array)
    if array.shape != shape:
        msg = f'{name} must have the shape of data, {shape}; got {array.shape}.'
        raise ValueError(msg)
    if array.dtype.kind == 'b':
        return array
    if array.dtype.kind not in 'iu' or not np.isin(array, (0, 1)).all():
        msg = (
            f'{name} must be boolean (True = bad); got {array.dtype}. Bit masks '
            'have to be turned into booleans first.'
        )
        raise TypeError(msg)
    return array.astype(bool)


def join_masks(shape, *masks):
    """Union of masks, of which some may be None; a new array."""
    joined = np.zeros(shape, dtype=bool)
    for mask in masks:
        if mask is not None:
            joined |= mask
    return joined


def check_map(name, value, shape):
    """Turn a number or a map of the image's shape into a float or a float array."""
    array = np.asarray(value)
    if array.dtype.kind not in 'fiu':
        msg = f'{name} must be a real number or a map; got {value!r:.60}.'
        raise TypeError(msg)
    if array.ndim == 0:
        return float(array)
    if array.shape != shape:
        msg = (
            f'{name} must be a number or have the shape of data, {shape}; got '
            f'{array.shape}.'
        )
        raise ValueError(msg)
    wide = array.dtype.kind != 'f' or array.dtype.itemsize > 4
    return np.asarray(array, dtype=np.float64 if wide else np.float32)


def check_sound(name, value, good, *, sign=None):
    """
    Check that a number or a map is finite and of a sign where pixels are good.

    Parameters
    ----------
    name : str
        Name of the argument, for messages.

    value : float or float `~numpy.ndarray`, shape (ny, nx)
        As `check_map` returns it.

    good : bool `~numpy.ndarray`, shape (ny, nx)
        Good pixels.

    sign : {None, 'positive', 'not negative'}, optional
        Sign that the values must have.

    Returns
    -------
    value : float or float `~numpy.ndarray`, shape (ny, nx)
        The same with the median of the good pixels in bad ones that would not
        pass, so that nobody downstream meets a NaN.
    """
    sound = np.isfinite(value)
    if sign is not None:
        with np.errstate(invalid='ignore'):
            sound &= _SIGNS[sign](value, 0)
    allowed = 'finite' if sign is None else f'finite and {sign}'
    if np.ndim(value) == 0:
        if not sound:
            msg = f'{name} must be {allowed}; got {value}.'
            raise ValueError(msg)
        return value
    broken = good & ~sound
    if broken.any():
        y, x = np.argwhere(broken)[0]
        msg = (
            f'{name} must be {allowed} in every good pixel; it is not '
            f'in {np.count_nonzero(broken)} of them, the first at x={x}, y={y} with '
            f'{value[y, x]}. Mask these pixels if they are bad.'
        )
        raise ValueError(msg)
    if not sound.all():
        value = np.where(sound, value, np.median(value[good])).astype(value.dtype)
    return value


def check_number(name, value, *, sign=None):
    """Turn one real number without a unit into a float."""
    if isinstance(value, u.Quantity):
        if not value.unit.is_equivalent(u.dimensionless_unscaled):
            msg = f'{name} must be without a unit; got {value.unit}.'
            raise ValueError(msg)
        value = value.to_value(u.dimensionless_unscaled)
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in 'fiu':
        msg = f'{name} must be one real number; got {value!r:.60}.'
        raise TypeError(msg)
    return check_sound(name, float(array), True, sign=sign)


def check_correlation(noise_correlation):
    """Check the correlation of the noise of neighbouring pixels in x and in y."""
    try:
        along_x, along_y = (float(value) for value in noise_correlation)
    except (TypeError, ValueError):
        msg = (
            'noise_correlation must be a pair (in x, in y) of numbers; got '
            f'{noise_correlation!r}.'
        )
        raise ValueError(msg) from None
    if not (-1 < along_x < 1 and -1 < along_y < 1):
        msg = (
            f'noise_correlation must lie between -1 and 1; got ({along_x}, {along_y}).'
        )
        raise ValueError(msg)
    return along_x, along_y


# -- units -----------------------------------------------------------------------


def check_linear(name, unit):
    """Refuse units in which light does not add up: magnitudes, other logarithms."""
    if unit is None:
        return
    # Magnitudes per area are no fluxes either, nor is what is defined by magnitudes.
    bases = unit.decompose().bases if isinstance(unit, u.UnitBase) else [u.mag]
    if not {u.mag, u.dex, u.dB}.isdisjoint(bases):
        msg = (
            f'{name} must have a unit that is linear in flux; got {unit}. Convert '
            'magnitudes to fluxes first.'
        )
        raise ValueError(msg)


def portable_unit(unit):
    """Replace units unknown to astropy by their definitions, where they have one."""
    if is_text_exact(unit):
        return unit
    try:
        return u.Unit(unit_text(unit))
    except ValueError:
        return unit


def image_unit(data, unit):
    """Unit of the numbers of an image, its own or the one to which it is converted."""
    if isinstance(data, NDData):
        msg = (
            'data is an NDData; use Exposure.from_nddata, which also takes its '
            'mask, uncertainty, wcs and unit.'
        )
        raise TypeError(msg)
    own = getattr(data, 'unit', None)
    unit = own if unit is None else u.Unit(unit)
    if unit is None:
        return None
    check_linear('data', unit)
    if own is not None and not own.is_equivalent(unit):
        msg = f'unit={unit} does not fit data, which is in {own}.'
        raise ValueError(msg)
    return portable_unit(unit)


def strip_units(unit, with_units, arguments):
    """
    Take the units off all arguments, once, checking that they agree.

    Parameters
    ----------
    unit : `~astropy.units.Unit` or None
        Unit of the image.

    with_units : bool
        Whether the image itself came as a `~astropy.units.Quantity`.

    arguments : dict
        Numbers and maps by name; `None` and plain zeros have any unit.

    Returns
    -------
    arguments : dict
        The same without units: ``effective_gain`` in electrons per unit of the image,
        ``read_noise`` in electrons, the others in the unit of the image.
    """
    own_units = {'effective_gain': u.electron / (unit or 1), 'read_noise': u.electron}
    stripped = {}
    for name, value in arguments.items():
        own = getattr(value, 'unit', None)
        in_unit = name not in own_units and not _has_any_unit(value)
        if in_unit and (own is not None) != with_units:
            having, lacking = ('data', name) if with_units else (name, 'data')
            others = ', '.join(key for key in arguments if key not in own_units)
            msg = (
                f'{having} has a unit and {lacking} has none; give units to all of '
                f'data, {others}, or to none of them.'
            )
            raise ValueError(msg)
        if own is not None:
            value = _convert(name, value, own_units.get(name, unit))
        stripped[name] = value
    return stripped


def _has_any_unit(value):
    """Whether a value is None or a plain zero, which is nothing in any unit."""
    if value is None:
        return True
    if np.ndim(value) or getattr(value, 'unit', None) is not None:
        return False
    try:
        return float(value) == 0
    except (TypeError, ValueError):
        return False


def _convert(name, value, unit):
    """Take the unit off a Quantity after converting it."""
    try:
        return value.to_value(unit)
    except u.UnitConversionError:
        msg = f'{name} must have units of {unit}; got {value.unit}.'
        raise ValueError(msg) from None


def two_slices(item, shape):
    """Turn an index of a cut-out into two slices (rows, columns) with bounds."""
    if not isinstance(item, tuple):
        item = (item, slice(None))
    if len(item) != 2 or not all(isinstance(part, slice) for part in item):
        msg = (
            'an exposure is cut by two slices, exposure[y0:y1, x0:x1]; got '
            f'{item!r}. Index exposure.data for single pixels.'
        )
        raise TypeError(msg)
    bounds = []
    for part, length, axis in zip(item, shape, 'yx', strict=True):
        start, stop, step = part.indices(length)
        if step != 1:
            msg = f'a cut-out must take every pixel; got step {step} in {axis}.'
            raise ValueError(msg)
        if stop <= start:
            msg = (
                f'a cut-out must have pixels; {part.start}:{part.stop} in {axis} has '
                f'none within 0:{length}.'
            )
            raise ValueError(msg)
        bounds.append(slice(start, stop))
    return bounds
