# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Types and ranges of the settings of a configuration.
"""

import math
import types
import typing

from bliss_astro.simulation._noise import NOISE_ORDERS

__all__ = ['check_settings']

# Names of settings, their range in words, and whether a value is within it.
_RANGES = (
    (
        'n_steps batch_size n_validation validate_every sources_every',
        'a positive integer',
        lambda x: x > 0,
    ),
    ('dataset_size size n_copies', 'a positive integer', lambda x: x > 0),
    ('learning_rate clip_norm slope flux_min', 'positive', lambda x: x > 0),
    (
        'checkpoint_minutes warmup_steps seed n_decoder_steps sky_error psf_error',
        'not negative',
        lambda x: x >= 0,
    ),
    ('average_decay softening', 'at least 0 and below 1', lambda x: 0 <= x < 1),
    (
        'single_fraction confined_fraction inclined_fraction',
        'between 0 and 1',
        lambda x: 0 <= x <= 1,
    ),
    ('dynamic_range', 'above 1', lambda x: x > 1),
    ('shape', 'two positive integers', lambda x: min(x) > 0),
    ('read_noise', 'two increasing numbers from 0', lambda x: 0 <= x[0] <= x[1]),
    (
        'typical_floor_snr',
        'two increasing positive numbers',
        lambda x: 0 < x[0] <= x[1],
    ),
    ('snr', 'two increasing positive numbers', lambda x: 0 < x[0] < x[1]),
    *(
        (name, f'one of {", ".join(map(repr, choices))}', choices.__contains__)
        for name, choices in (
            ('noise_order', NOISE_ORDERS),
            ('precision', ('float32', 'bfloat16')),
            ('stage', ('all', 'detection', 'sources', 'new')),
        )
    ),
)
_RULES = {
    name: (words, allowed)
    for names, words, allowed in _RANGES
    for name in names.split()
}


def check_settings(kind, values):
    """Check names, types (by the annotations of the dataclass) and ranges."""
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            msg = f'unknown setting {name!r}; known are {", ".join(sorted(hints))}'
            raise ValueError(msg)
        if not _is_of(value, hints[name]):
            msg = f'{name} must be {_describe(hints[name])}, got {value!r:.60}'
            raise ValueError(msg)
        words, allowed = _RULES.get(name, ('', None))
        if allowed and value is not None and not allowed(value):
            msg = f'{name} must be {words}, got {value!r:.60}'
            raise ValueError(msg)


# Names of types in messages, as a TOML file has them.
_NAMES = {
    int: 'an integer',
    float: 'a finite number',
    bool: 'true or false',
    str: 'a text in quotes',
    dict: 'a table',
}


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
