# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Numbers of a prior in a JSON file.
"""

import dataclasses
import json
from pathlib import Path

from bliss_astro._atomic import atomic_write

__all__ = ['from_numbers', 'read_numbers', 'write_numbers']


def from_numbers(kind, numbers, name):
    """
    Make a dataclass of a dict of its fields, lists becoming tuples.
    """
    if not isinstance(numbers, dict):
        msg = f'{name} must be a dict, got {numbers!r}'
        raise TypeError(msg)
    allowed = [field.name for field in dataclasses.fields(kind)]
    unknown = [key for key in numbers if key not in allowed]
    if unknown:
        msg = f'{name} must have no keys but {", ".join(allowed)}; got {unknown[0]!r}'
        raise ValueError(msg)
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.name not in numbers
    ]
    if required:
        msg = f'{name} lacks the key(s) {", ".join(required)}'
        raise ValueError(msg)
    return kind(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in numbers.items()}
    )


def write_numbers(numbers, path, *, overwrite=False):
    """
    Write a dict of numbers, lists and strings to a file.
    """
    text = json.dumps(numbers, indent=1, allow_nan=False)
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_text(text + '\n', encoding='utf-8')


def read_numbers(path):
    """
    Read the dict that `write_numbers` wrote.
    """
    try:
        numbers = json.loads(Path(path).read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f'path={str(path)!r} is not a JSON file with the numbers of a prior'
        raise ValueError(msg) from error
    return numbers
