# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Settings of configurations: types by the annotations of a dataclass, and ranges.
"""

import math
import types
import typing

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
        if value is not None and not is_allowed(value):
            msg = f'{name} must be {words}, got {value!r:.60}'
            raise ValueError(msg)


def check_types(kind, values):
    """Check names and types of settings against the fields of a dataclass."""
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            msg = f'unknown setting {name!r}; known are {", ".join(sorted(hints))}'
            raise ValueError(msg)
        if not _is_of(value, hints[name]):
            msg = f'{name} must be {_describe(hints[name])}, got {value!r:.60}'
            raise ValueError(msg)


def _parts(hint):
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _is_of(value, hint):
    """Whether a value is of a type, where integers are numbers and lists tuples."""
    if len(parts := _parts(hint)) > 1:
        return any(_is_of(value, part) for part in parts)
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            return False
        return all(map(_is_of, value, kinds))
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
            plural = 'integers' if kinds[0] is int else 'finite numbers'
            words.append(f'a list of {len(kinds)} {plural}')
        elif part is not types.NoneType:
            words.append(_NAMES[part])
    return ' or '.join(words)
