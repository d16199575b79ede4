# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of what an `Exposure` is made of, and the door for units.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import NDData
from astropy.utils.masked import Masked

from ._units import check_linear, portable_unit

__all__ = [
    'check_correlation',
    'check_data',
    'check_map',
    'check_mask',
    'check_positive',
    'check_relative',
    'image_unit',
    'split_mask',
    'strip_units',
]


def split_mask(name, value, shape):
    """
    Take the mask off a masked array of NumPy's or astropy's.

    Parameters
    ----------
    name : str
        The argument's name, for messages.

    value : object
        Whatever was given.

    shape : tuple of int
        The shape of the image.

    Returns
    -------
    value : object
        The same without a mask.

    mask : bool `~numpy.ndarray` or None
        The mask, if there is one that hides something.

    Raises
    ------
    ValueError
        If a single number is masked.
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

    Raises
    ------
    TypeError
        If the data are complex, boolean, or not numbers.

    ValueError
        If they are not two-dimensional, or empty.
    """
    data, hidden = split_mask('data', data, np.shape(data))
    array = np.asarray(data)
    kind = array.dtype.kind
    if kind not in 'fiu':
        what = {'c': 'complex', 'b': 'boolean'}.get(kind, f'of type {array.dtype}')
        got = f'an array that is {what}'
        if kind not in 'cb' and not isinstance(data, np.ndarray):
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
    if hidden is not None:
        bad |= hidden
    return array, bad


def check_mask(name, mask, shape):
    """
    Turn a mask into a boolean array.

    Parameters
    ----------
    name : str
        The argument's name, for messages.

    mask : array_like or None
        The mask; zeros and ones are taken as booleans.

    shape : tuple of int
        The shape of the image.

    Returns
    -------
    mask : bool `~numpy.ndarray` or None
        The mask, or `None` if there is none.

    Raises
    ------
    TypeError
        If it holds other things than booleans, zeros and ones.

    ValueError
        If it has another shape.
    """
    if mask is None or mask is np.ma.nomask:
        return None
    mask, unknown = split_mask(name, mask, shape)
    array = np.asarray(mask)
    if unknown is not None:
        # What a mask itself hides may be anything.
        array = np.where(unknown, True, array)
    if array.shape != shape:
        msg = f'{name} must have the shape of data, {shape}; got {array.shape}.'
        raise ValueError(msg)
    if array.dtype.kind != 'b':
        if array.dtype.kind not in 'iu' or not np.isin(array, (0, 1)).all():
            msg = (
                f'{name} must be boolean (True = bad); got {array.dtype}. Bit masks '
                'have to be turned into booleans first.'
            )
            raise TypeError(msg)
        array = array.astype(bool)
    return array


def check_map(name, value, shape):
    """
    Turn a number or a map into a float or a float array.

    Parameters
    ----------
    name : str
        The argument's name, for messages.

    value : float or array_like
        One number for all pixels, or one for each.

    shape : tuple of int
        The shape of the image.

    Returns
    -------
    value : float or float `~numpy.ndarray`
        What was given, in floating point.

    Raises
    ------
    TypeError
        If it does not consist of real numbers.

    ValueError
        If it is a map of another shape.
    """
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


def check_positive(name, value, good, *, zero=False, finite=True):
    """
    Check the sign of a number or a map where pixels are good.

    Values in bad pixels that would not pass are replaced by the median of the
    good ones, so that nobody downstream meets a NaN.

    Parameters
    ----------
    name : str
        The argument's name, for messages.

    value : float or float `~numpy.ndarray`
        What `check_map` returned.

    good : bool `~numpy.ndarray`
        The good pixels.

    zero : bool, optional
        Whether 0 is allowed.

    finite : bool, optional
        Whether infinity is not.

    Returns
    -------
    value : float or float `~numpy.ndarray`
        The value, sound in every pixel.

    Raises
    ------
    ValueError
        If a good pixel has a value that is not allowed.
    """
    with np.errstate(invalid='ignore'):
        sound = (value >= 0) if zero else (value > 0)
    if finite:
        sound &= np.isfinite(value)
    if np.ndim(value) == 0:
        if not sound:
            msg = f'{name} must be {_allowed(zero, finite)}; got {value}.'
            raise ValueError(msg)
        return value
    broken = good & ~sound
    if broken.any():
        y, x = np.argwhere(broken)[0]
        msg = (
            f'{name} must be {_allowed(zero, finite)} in every good pixel; it is not '
            f'in {np.count_nonzero(broken)} of them, the first at x={x}, y={y} with '
            f'{value[y, x]}. Mask these pixels if they are bad.'
        )
        raise ValueError(msg)
    if not sound.all():
        value = np.where(sound, value, np.median(value[good])).astype(value.dtype)
    return value


def _allowed(zero, finite):
    """
    Say in words what `check_positive` allows.
    """
    words = 'finite and ' if finite else ''
    return words + ('not negative' if zero else 'positive')


def check_correlation(noise_correlation):
    """
    Check the correlation of the noise of neighbouring pixels.

    Parameters
    ----------
    noise_correlation : pair of float
        The correlation of pixels next to each other in x and in y.

    Returns
    -------
    noise_correlation : tuple of float
        The pair.

    Raises
    ------
    ValueError
        If it is not a pair of numbers between -1 and 1.
    """
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


def check_relative(name, value):
    """
    Check an error that is stated in units of another quantity.

    Parameters
    ----------
    name : str
        The argument's name, for messages.

    value : float
        The error.

    Returns
    -------
    value : float
        The same.

    Raises
    ------
    TypeError
        If it is not one real number.

    ValueError
        If it is negative, not finite, or has a unit.
    """
    if isinstance(value, u.Quantity):
        if not value.unit.is_equivalent(u.dimensionless_unscaled):
            msg = f'{name} must be without a unit; got {value.unit}.'
            raise ValueError(msg)
        value = value.to_value(u.dimensionless_unscaled)
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in 'fiu':
        msg = f'{name} must be one real number; got {value!r:.60}.'
        raise TypeError(msg)
    return check_positive(name, float(array), True, zero=True)


def image_unit(data, unit):
    """
    Settle the unit of an image.

    Parameters
    ----------
    data : array_like or `~astropy.units.Quantity`
        The image.

    unit : unit-like or None
        The unit that was asked for.

    Returns
    -------
    unit : `~astropy.units.Unit` or None
        The unit of the numbers that are kept.

    Raises
    ------
    TypeError
        If the data are an `~astropy.nddata.NDData`.

    ValueError
        If the data's unit cannot be converted to ``unit``, or light does not add
        up in it.
    """
    if isinstance(data, NDData):
        msg = (
            'data is an NDData; use Exposure.from_nddata, which also takes its '
            'mask, uncertainty, wcs and unit.'
        )
        raise TypeError(msg)
    unit = None if unit is None else u.Unit(unit)
    own = getattr(data, 'unit', None)
    if own is not None and unit is None:
        unit = own
    if unit is None:
        return None
    check_linear('data', unit)
    if own is not None and not own.is_equivalent(unit):
        msg = f'unit={unit} does not fit data, which is in {own}.'
        raise ValueError(msg)
    return portable_unit(unit)


def strip_units(unit, with_units, quantities, effective_gain, read_noise):
    """
    Take the units off all arguments, once, checking that they agree.

    Parameters
    ----------
    unit : `~astropy.units.Unit` or None
        The unit of the image.

    with_units : bool
        Whether the image itself came as a `~astropy.units.Quantity`.

    quantities : dict
        The arguments that share the image's unit; `None` and plain zeros have
        any unit.

    effective_gain, read_noise : float, array_like or `~astropy.units.Quantity`
        Electrons per data unit; electrons.

    Returns
    -------
    quantities : dict
        The same without units, in ``unit``.

    effective_gain, read_noise : float or array_like
        The same without units.

    Raises
    ------
    ValueError
        If only some have units, or one has a wrong unit.
    """
    stripped = {}
    for name, value in quantities.items():
        own = getattr(value, 'unit', None)
        if value is None or (np.ndim(value) == 0 and own is None and _is_zero(value)):
            stripped[name] = value
            continue
        if (own is not None) != with_units:
            having, lacking = ('data', name) if with_units else (name, 'data')
            msg = (
                f'{having} has a unit and {lacking} has none; give units to all of '
                f'data, {", ".join(quantities)}, or to none of them.'
            )
            raise ValueError(msg)
        stripped[name] = value if own is None else _convert(name, value, unit)
    gain_unit = u.electron if unit is None else u.electron / unit
    if getattr(effective_gain, 'unit', None) is not None:
        effective_gain = _convert('effective_gain', effective_gain, gain_unit)
    if getattr(read_noise, 'unit', None) is not None:
        read_noise = _convert('read_noise', read_noise, u.electron)
    return stripped, effective_gain, read_noise


def _is_zero(value):
    """
    Tell whether a scalar is the number 0.
    """
    try:
        return float(value) == 0
    except (TypeError, ValueError):
        return False


def _convert(name, value, unit):
    """
    Take the unit off a Quantity after converting it.
    """
    try:
        return value.to_value(unit)
    except u.UnitConversionError:
        msg = f'{name} must have units of {unit}; got {value.unit}.'
        raise ValueError(msg) from None
