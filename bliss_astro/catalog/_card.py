# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Card of a file: metadata that its format cannot hold by itself, as JSON text.
"""

import json

import astropy.units as u
from astropy.table import Column, QTable
from astropy.time import TimeBase

from bliss_astro.units import is_text_exact, unit_text

from ._meta import plain_value

__all__ = [
    'CARD_KEY',
    'describe_columns',
    'make_card',
    'plain_table',
    'read_card',
    'restore_columns',
]

CARD_KEY = 'bliss_astro'
"""Key under which the card is found."""

_CARD_VERSION = 1


def plain_table(catalog):
    """
    Plain table of a catalogue, which astropy's writers store without loss.

    The columns share the catalogue's memory. Formats of display are left out, as they
    round the numbers of text files; the meta are plain values, the posterior is not
    among them.
    """
    # Of views, so that the catalogue's own columns keep their formats.
    table = QTable(catalog[:], copy=False)
    table.meta = plain_value(dict(catalog.meta))
    for name in table.colnames:
        if isinstance(table[name], Column | u.Quantity):
            table[name].info.format = None
        unit = getattr(table[name], 'unit', None)
        if isinstance(unit, u.UnitBase) and not is_text_exact(unit):
            _relabel(table, name, u.Unit(unit_text(unit), parse_strict='silent'))
    return table


def _relabel(table, name, unit):
    """Give a column another name of its unit; the numbers stay."""
    column = table[name]
    if isinstance(column, u.Quantity):
        info = column.info
        column = type(column)(column.value, unit, copy=False)
        column.info = info
        table.replace_column(name, column)
    else:
        column.unit = unit


def describe_columns(catalog):
    """
    Attributes of columns that formats lose, each a dict by the name of the column.

    They are ``'formats'`` of display, exact ``'units'`` and kinds of ``'times'``.
    """
    formats, units, times = {}, {}, {}
    for name, column in catalog.items():
        if isinstance(column, TimeBase):
            times[name] = column.format
            continue
        if isinstance(column.info.format, str):
            formats[name] = column.info.format
        unit = getattr(column, 'unit', None)
        if isinstance(unit, u.UnitBase) and not _is_readable(unit):
            units[name] = unit_text(unit)
    attributes = {'formats': formats, 'units': units, 'times': times}
    return {key: value for key, value in attributes.items() if value}


def _is_readable(unit):
    """Whether all formats, FITS among them, give a unit back by themselves."""
    if not is_text_exact(unit):
        return False
    try:
        unit.to_string('fits')
    except u.UnitScaleError:
        return False
    except ValueError:
        # A name that the standard lacks (nmgy), which astropy notes by itself.
        return True
    return True


def restore_columns(table, attributes):
    """Give columns back the attributes of `describe_columns`; return the table."""
    for name, text in attributes.get('units', {}).items():
        if name in table.colnames:
            column = table[name]
            unit = u.Unit(text, parse_strict='silent')
            if isinstance(column, u.Quantity):
                _relabel(table, name, unit)
            else:
                column.unit = unit
    for name, text in attributes.get('formats', {}).items():
        if name in table.colnames:
            table[name].info.format = text
    for name, text in attributes.get('times', {}).items():
        if name in table.colnames:
            table[name].format = text
    return table


def make_card(catalog, **more):
    """Card of a catalogue with further plain values, JSON text in ASCII."""
    return json.dumps(
        {
            'card_version': _CARD_VERSION,
            'meta': plain_value(dict(catalog.meta)),
            **describe_columns(catalog),
            **more,
        }
    )


def read_card(text):
    """Values of a card; raise if a newer version of the package wrote it."""
    card = json.loads(text)
    if card['card_version'] > _CARD_VERSION:
        msg = (
            f'it was written by a newer version (card {card["card_version"]}, this '
            f'version reads up to {_CARD_VERSION})'
        )
        raise ValueError(msg)
    return card
