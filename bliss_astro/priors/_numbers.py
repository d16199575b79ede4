# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Numbers of priors: checks, columns of tables, and JSON files.
"""

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable, Table

from bliss_astro._arguments import must, require
from bliss_astro._atomic import atomic_write

GALAXY_SHAPE_NAMES = (
    'disk_fraction',
    'angle',
    'disk_axis_ratio',
    'bulge_axis_ratio',
    'disk_radius',
    'bulge_radius',
)
"""The six numbers of a galaxy's shape, in the order of every tensor of them."""

_SHAPE_UNITS = (None, u.rad, None, None, u.arcsec, u.arcsec)
_BUNDLED = Path(__file__).parent.parent / 'data' / 'priors'


def check_tuples(thing, names, *, length=None):
    """
    Make tuples of floats of the fields of a frozen dataclass, all of one length.
    """
    for name in names:
        try:
            value = tuple(float(v) for v in getattr(thing, name))
        except TypeError:
            got = repr(getattr(thing, name))
            raise TypeError(must(name, 'be a sequence of numbers', got)) from None
        wanted = len(value) if length is None else length
        good = len(value) == wanted and all(map(math.isfinite, value))
        require(good, name, f'be {wanted} finite numbers', value)
        object.__setattr__(thing, name, value)


def check_nodes(thing, *names):
    """Check the nodes ``magnitude`` of an interpolation, and values at all of them."""
    check_tuples(thing, ('magnitude',))
    nodes = thing.magnitude
    good = len(nodes) > 1 and all(a < b for a, b in itertools.pairwise(nodes))
    require(good, 'magnitude', 'be at least two increasing numbers', nodes)
    check_tuples(thing, names, length=len(nodes))


def need_columns(table, names):
    """Raise an error for something that is no table or lacks columns."""
    allowed, got = 'be an astropy Table (or a list of them)', type(table).__name__
    require(isinstance(table, Table), 'table', allowed, got, TypeError)
    missing = ', '.join(name for name in names if name not in table.colnames)
    if missing:
        msg = f'table lacks the column(s) {missing}; it has {", ".join(table.colnames)}'
        raise ValueError(msg)


def float_column(table, name, unit=None):
    """Column as float array in a unit, masked values as NaN."""
    column = table[name]
    given = getattr(column, 'unit', None)
    if given is not None and unit is not None:
        try:
            column = u.Quantity(np.ma.filled(column, np.nan), given).to_value(
                unit, u.zero_point_flux(1 * u.AB)
            )
        except u.UnitConversionError:
            allowed = f'be in a unit like {unit}'
            raise ValueError(must(f'table[{name!r}]', allowed, given)) from None
    values = getattr(column, 'value', column)
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(float), np.nan)
    return np.array(values, dtype=float)


def shape_columns(galaxy):
    """Columns of a tensor of shapes ``(n, 6)``, with their units."""
    values = galaxy.double().cpu().numpy().T
    columns = zip(GALAXY_SHAPE_NAMES, values, _SHAPE_UNITS, strict=True)
    return {name: v if unit is None else v * unit for name, v, unit in columns}


def source_table(
    unit, x, y, flux, is_galaxy=None, galaxy=None, *, pixel_scale=1.0, fluxes=None
):
    """
    Table of the sources of an image, brightest first.

    The columns are tensors ``(1, S)``, shapes ``(1, S, 6)`` with radii in pixels. Those
    of stars are NaN in the table, and places of flux 0 are left out. Further columns
    are fluxes by name.
    """
    order = torch.argsort(flux[0], descending=True)[: int((flux > 0).sum())]
    x, y, flux = (v[0, order].double().cpu().numpy() for v in (x, y, flux))
    table = QTable({'x_centroid': x, 'y_centroid': y, 'flux': flux * unit})
    if is_galaxy is not None:
        is_galaxy, galaxy = is_galaxy[0, order], galaxy[0, order].double()
        galaxy[:, 4:] *= pixel_scale
        galaxy[~is_galaxy] = torch.nan
        table['is_galaxy'] = is_galaxy.cpu().numpy()
        table.update(shape_columns(galaxy))
    for name, value in (fluxes or {}).items():
        table[name] = value[0, order].double().cpu().numpy() * unit
    return table


def to_numbers(thing):
    """Fields of a dataclass of numbers, as JSON or TOML have them."""
    return json.loads(json.dumps(dataclasses.asdict(thing), default=list))


def from_numbers(kind, numbers, name):
    """Make a dataclass of a dict of its fields, lists becoming tuples."""
    require(isinstance(numbers, dict), name, 'be a dict', repr(numbers), TypeError)
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    for key in numbers:
        if key not in fields:
            allowed = f'have no keys but {", ".join(fields)}'
            raise ValueError(must(name, allowed, repr(key)))
    lacks = {k for k, v in fields.items() if v is dataclasses.MISSING} - {*numbers}
    if lacks:
        msg = f'{name} lacks the key(s) {", ".join(k for k in fields if k in lacks)}'
        raise ValueError(msg)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in numbers.items()}
    return kind(**values)


class SavedPrior:
    """Base class of priors whose numbers a JSON file or a card holds."""

    def to_dict(self) -> dict:
        """
        Return the numbers of the prior, for JSON or TOML.

        Returns
        -------
        numbers : dict
            With the keys ``stars``, ``galaxy_counts`` and ``galaxy_shapes`` of a
            `CatalogPrior`; either ``gaussian`` or ``table``, and perhaps
            ``ellipticity``, of a `FieldPrior`; the parameters of others.
        """
        return self._to_numbers()

    @classmethod
    def from_dict(cls, numbers: dict):
        """
        Make a prior of what `to_dict` returned.

        Parameters
        ----------
        numbers : dict
            With the keys that `to_dict` states.

        Returns
        -------
        prior : `CatalogPrior`, `FieldPrior`, ...
            The same prior.
        """
        return cls._from_numbers(numbers)

    def _to_numbers(self):
        return to_numbers(self)

    @classmethod
    def _from_numbers(cls, numbers):
        return from_numbers(cls, numbers, 'numbers')

    def save(self, path, *, overwrite=False):
        """Write the numbers of the prior to a JSON file."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        # Rows of numbers on a line each.
        text = re.sub(r'\[[^][{}]*\]', lambda m: ' '.join(m[0].split()), text)
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

    @classmethod
    def bundled(cls, name):
        """Load a prior that comes with the package."""
        return cls.load(_BUNDLED / f'{name}.json')
