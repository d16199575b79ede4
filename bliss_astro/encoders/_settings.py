# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Types and ranges of the settings of a configuration.
"""

import dataclasses
import math
import types
import typing

__all__ = ['check_settings']

# Names of types in messages, as a TOML file has them.
_NAMES = {
    int: 'an integer',
    float: 'a finite number',
    bool: 'true or false',
    str: 'a text in quotes',
    dict: 'a table',
}


def check_settings(kind, values, *, rules=None):
    """
    Check settings against the annotations of their dataclass, and their ranges.

    Parameters
    ----------
    kind : type
        The dataclass.

    values : dict
        Some or all of its fields, as a TOML file or Python gives them.

    rules : dict of str to (callable, str), optional
        Whether the value of a setting is allowed, and in words what is.

    Raises
    ------
    ValueError
        If there is no such field, or if a value is of another type or out of its
        range.
    """
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for name, value in values.items():
        if name not in known:
            msg = f'unknown setting {name!r}; known are {", ".join(sorted(known))}'
            raise ValueError(msg)
        if not _is_of(value, hints[name]):
            msg = f'{name} must be {_describe(hints[name])}, got {value!r:.60}'
            raise ValueError(msg)
        if rules is None or name not in rules or value is None:
            continue
        allowed, words = rules[name]
        if not allowed(value):
            msg = f'{name} must be {words}, got {value!r:.60}'
            raise ValueError(msg)


def _parts(hint):
    """The types of which a value may have any."""
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
        return all(_is_of(v, k) for v, k in zip(value, kinds, strict=True))
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, hint)


def _describe(hint):
    """A type in words."""
    words = []
    for part in _parts(hint):
        if typing.get_origin(part) is tuple:
            kinds = typing.get_args(part)
            plural = 'integers' if kinds[0] is int else 'finite numbers'
            words.append(f'a list of {len(kinds)} {plural}')
        elif part is not types.NoneType:
            words.append(_NAMES[part])
    return ' or '.join(words)
