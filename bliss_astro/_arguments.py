# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Arguments and settings: ``rng``, ``device``, types and ranges, words of messages.
"""

import collections.abc
import math
import numbers
import types
import typing

import astropy.units as u
import numpy as np


def check_rng(rng):
    """
    Return the `numpy.random.Generator` of an argument ``rng``.

    It is a seed, a generator, or None for a new one; see
    `SPEC 7 <https://scientific-python.org/specs/spec-0007/>`__.
    """
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        allowed = 'be a seed (an integer of at least 0), a numpy Generator or None'
        raise type(error)(must('rng', allowed, f'{rng!r:.60}')) from None


def torch_generator(rng=None, *, device='cpu'):
    """
    Make one seeded `torch.Generator` from anything that SPEC 7 accepts as ``rng``.

    A `torch.Generator` is passed through.
    """
    import torch

    if isinstance(rng, torch.Generator):
        return rng
    seed = int(check_rng(rng).integers(2**63 - 1))
    return torch.Generator(device=device).manual_seed(seed)


def choose_device(device):
    """
    Return the `torch.device` of an argument ``device``, after trying it.

    ``'auto'`` is a GPU of CUDA if there is one, else the CPU. A device that torch
    cannot use here raises a `ValueError`.
    """
    import torch

    if isinstance(device, str) and device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    reason = ''
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        pass
    else:
        try:
            # There and back: a 'meta' device takes numbers and returns none.
            torch.zeros(1, device=chosen).cpu()
        except (RuntimeError, AssertionError) as error:
            reason = f' ({str(error).partition(chr(10))[0].rstrip(".")})'
        else:
            return chosen
    given = str(device) if isinstance(device, torch.device) else device
    allowed = f"be 'auto' or a device that torch can use here ({', '.join(_usable())})"
    raise ValueError(must('device', allowed, f'{given!r}{reason}'))


def _usable():
    """Names of the devices that torch can use here."""
    import torch

    names = ["'cpu'"]
    if torch.cuda.is_available():
        names += [f"'cuda:{k}'" for k in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("'mps'")
    return names


def must(name, allowed, got):
    """Text of an error: what an argument must be or have, and what came."""
    return f'{name} must {allowed}; got {got}.'


def require(sound, name, allowed, got, error=ValueError):
    """Raise an error unless an argument is as it must be."""
    if not sound:
        raise error(must(name, allowed, got))


def require_type(name, value, *kinds):
    """Raise a TypeError unless an argument is of one of some classes."""
    allowed = f'be {" or ".join(kind.__name__ for kind in kinds)}'
    require(isinstance(value, kinds), name, allowed, type(value).__name__, TypeError)


def as_list(name, value, allowed='be a list of names'):
    """List of what an argument holds; a TypeError if it cannot be gone through."""
    sound = isinstance(value, collections.abc.Iterable)
    require(sound, name, allowed, type(value).__name__, TypeError)
    return list(value)


def check_choice(name, value, choices):
    """Raise a ValueError unless an argument is one of some words."""
    allowed = f'be one of {", ".join(map(repr, choices))}'
    require(value in choices, name, allowed, f'{value!r:.60}')


def check_integer(name, value, low=0, high=math.inf, *, error=TypeError):
    """
    Return an integer within limits; 2.0 is one, True is none.

    Anything that is no integer raises ``error``, one beyond the limits a ValueError.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    whole = number and float(value).is_integer()
    limits = f'of at least {low}' if high == math.inf else f'from {low} to {high}'
    kind = ValueError if whole else error
    sound = whole and low <= value <= high
    require(sound, name, f'be an integer {limits}', f'{value!r:.60}', kind)
    return int(value)


def check_number(name, value, sign=None, *, error=TypeError):
    """
    Return one real, finite number without a unit as a float.

    ``sign`` is 'positive' or 'not negative'. Anything else raises ``error``.
    """
    if isinstance(value, u.Quantity):
        plain = value.unit.is_equivalent(u.one)
        require(plain, name, 'be without a unit', value.unit)
        value = value.to_value(u.one)
    array = np.asarray(value)
    real = array.ndim == 0 and array.dtype.kind in 'fiu'
    require(real, name, 'be one real number', f'{value!r:.60}', error)
    require(has_sign(array, sign), name, f'be {sign_text(sign)}', value)
    return float(array)


def has_sign(values, sign=None):
    """Which values are finite, and 'positive' or 'not negative' if so demanded."""
    with np.errstate(invalid='ignore'):
        sound = np.isfinite(values)
        if sign is None:
            return sound
        return sound & (values > 0 if sign == 'positive' else values >= 0)


def sign_text(sign=None):
    """Say what `has_sign` demands."""
    words = {
        'positive': 'positive and finite',
        'not negative': 'finite and not negative',
    }
    return words.get(sign, 'finite')


def check_positive(**values):
    """Raise an error for a number that is given and not positive and finite."""
    for name, value in values.items():
        if value is not None:
            check_number(name, value, 'positive')


def check_fraction(name, value):
    """Return a float between 0 and 1, exclusive."""
    require(0 < float(value) < 1, name, 'be between 0 and 1 (exclusive)', value)
    return float(value)


def check_threshold(threshold):
    """Return a threshold as a plain number, if it is a probability between 0 and 1."""
    if isinstance(threshold, np.ndarray) and threshold.ndim == 0:
        threshold = threshold[()]
    real = isinstance(threshold, numbers.Real) and not isinstance(threshold, bool)
    allowed = 'be one number, a probability between 0 and 1'
    hint = "photutils' detect_sources takes a brightness here, bliss_astro's does not"
    got, error = f'{threshold!r:.60}; {hint}', ValueError if real else TypeError
    require(real and 0 < threshold < 1, 'threshold', allowed, got, error)
    return float(threshold)


def check_image_shape(name, value):
    """Return a shape ``(ny, nx)`` as plain numbers, if they are two, 1 or more."""
    sides = np.asarray(value)
    whole = sides.shape == (2,) and sides.dtype.kind in 'fiu' and (sides % 1 == 0).all()
    sound = whole and (sides > 0).all()
    require(sound, name, 'be two positive integers (ny, nx)', f'{value!r:.60}')
    return tuple(map(int, sides))


def first_wrong(values, sound):
    """
    Name the first value that is not sound.

    The text has the value; of an array its place as well, and the number of such
    values.
    """
    values, sound = np.broadcast_arrays(values, sound)
    wrong = np.argwhere(~sound)
    if values.ndim == 0 or not len(wrong):
        return str(values) if values.ndim == 0 else f'an array of {values.shape}'
    place = tuple(int(index) for index in wrong[0])
    where = ', '.join(map(str, place))
    count = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
    return f'{values[place]} at [{where}]{count}'


def counted(number, noun):
    """Say how many: 1 pixel, 2 pixels."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def two_digits(value):
    """Write a factor with two digits and without a power of ten: 0.77, 1.6, 160."""
    return np.format_float_positional(
        value, precision=2, fractional=False, unique=False, trim='-'
    )


# -- settings of configurations -------------------------------------------------------

# Names of types in messages, as a TOML file has them.
_NAMES = {
    int: 'an integer',
    float: 'a finite number',
    bool: 'true or false',
    str: 'a text in quotes',
    dict: 'a table',
}
POSITIVE_INTEGER = ('a positive integer', lambda x: x > 0)


def within(names, words, is_allowed):
    """Return the range of settings, in words and as a function of a value."""
    return dict.fromkeys(names.split(), (words, is_allowed))


def one_of(name, *choices):
    """Return the range of a setting that has one of a few values."""
    return within(name, f'one of {", ".join(map(repr, choices))}', choices.__contains__)


def check_settings(config, ranges):
    """Check types and ranges of all settings of a configuration."""
    check_types(type(config), vars(config))
    check_ranges(vars(config), ranges)


def check_ranges(values, ranges):
    """Check ranges of the values of settings or arguments; `None` is in range."""
    for name, (words, is_allowed) in ranges.items():
        value = values[name]
        sound = value is None or is_allowed(value)
        require(sound, name, f'be {words}', f'{value!r:.60}')


def check_types(kind, values):
    """Check names and types of settings against the fields of a dataclass."""
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            msg = f'unknown setting {name!r}; known are {", ".join(sorted(hints))}'
            raise ValueError(msg)
        sound = _is_of(value, hints[name])
        require(sound, name, f'be {_describe(hints[name])}', f'{value!r:.60}')


def _parts(hint):
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _is_of(value, hint):
    """Whether a value is of a type, where integers are numbers and lists tuples."""
    if len(parts := _parts(hint)) > 1:
        return any(_is_of(value, part) for part in parts)
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            return False
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return len(value) == len(kinds) and all(map(_is_of, value, kinds))
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, hint)


def _describe(hint):
    words = []
    for part in _parts(hint):
        if typing.get_origin(part) is tuple:
            kinds = typing.get_args(part)
            if kinds[-1] is Ellipsis:
                words.append(f'a list of {"names" if kinds[0] is str else "numbers"}')
                continue
            plural = 'integers' if kinds[0] is int else 'finite numbers'
            words.append(f'a list of {len(kinds)} {plural}')
        elif part is not types.NoneType:
            words.append(_NAMES[part])
    return ' or '.join(words)
