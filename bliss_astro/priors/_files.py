# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Priors as JSON files: their numbers as dicts, written and read.
"""

import dataclasses
import json
from pathlib import Path

from bliss_astro._atomic import atomic_write

_BUNDLED = Path(__file__).parent.parent / 'data' / 'priors'


def to_numbers(thing):
    """Fields of a dataclass of numbers, as JSON or TOML have them."""
    return json.loads(json.dumps(dataclasses.asdict(thing), default=list))


def from_numbers(kind, numbers, name):
    """Make a dataclass of a dict of its fields, lists becoming tuples."""
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


class SavedPrior:
    """Base class of priors whose numbers (`to_dict`, `from_dict`) a JSON file holds."""

    def save(self, path, *, overwrite=False):
        """Write the numbers of the prior to a JSON file."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        with atomic_write(path, overwrite=overwrite) as temporary:
            temporary.write_text(text + '\n', encoding='utf-8')

    @classmethod
    def load(cls, path):
        """Read a prior that `save` wrote."""
        try:
            numbers = json.loads(Path(path).read_text(encoding='utf-8'))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            msg = f'path={str(path)!r} is not a JSON file with the numbers of a prior'
            raise ValueError(msg) from error
        return cls.from_dict(numbers)


def load_bundled(kind, name):
    """Load a prior that comes with the package."""
    return kind.load(_BUNDLED / f'{name}.json')
