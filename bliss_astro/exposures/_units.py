# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Units of images: spellings of FITS headers, and units that files can hold.
"""

import re

import astropy.units as u

__all__ = ['check_linear', 'parse_unit', 'portable_unit']

# How the world spells units that astropy spells otherwise, in lower case.
_SPELLINGS = {
    'nanomaggy': 'nmgy',
    'nanomaggies': 'nmgy',
    'counts': 'ct',
    'count': 'ct',
    'cts': 'ct',
    'dn': 'DN',
    'dns': 'DN',
    'adu': 'adu',
    'adus': 'adu',
    'electron': 'electron',
    'electrons': 'electron',
    'photoelectron': 'electron',
    'photoelectrons': 'electron',
    'photons': 'photon',
    'elec': 'electron',
    'e-': 'electron',
    'e': 'electron',
    'sec': 's',
    'secs': 's',
    'second': 's',
    'seconds': 's',
    'pixel': 'pix',
    'pixels': 'pix',
    'px': 'pix',
    'jy': 'Jy',
    'jansky': 'Jy',
    'ujy': 'uJy',
    'microjy': 'uJy',
    'njy': 'nJy',
    'kjy': 'kJy',
    'ang': 'Angstrom',
    'angstrom': 'Angstrom',
    'angstroms': 'Angstrom',
    'hz': 'Hz',
    's': 's',
    'sr': 'sr',
    'per': '/',
}
# Words, and electrons with their sign; not the exponent of a number.
_WORD = re.compile(r'(?<![\w.])(?:[eE]-(?!\d)|[A-Za-z\u00b5\u03bc]+)')
# What a text card carries along when a program pastes value and comment.
_COMMENT = re.compile(r'\s*/(?:\s|$).*')
_NOT_STATED = ('', 'none', 'unknown', 'n/a', 'na', 'uncalibrated', 'undefined')


def parse_unit(text):
    """
    Read the unit of an image as FITS headers spell it.

    Parameters
    ----------
    text : str
        The value of ``BUNIT``, such as ``'ADU'``, ``'ELECTRONS/S'`` or ``'e-'``; a
        comment after a slash is dropped.

    Returns
    -------
    unit : `~astropy.units.Unit` or None
        The unit of the flux that a pixel holds: "per pixel" is dropped. `None`
        if the text says that there is none.

    Raises
    ------
    ValueError
        If astropy knows no such unit.
    """
    text = str(text).strip().strip('\'"[]').strip()
    for candidate in (text, _COMMENT.sub('', text)):
        if candidate.lower() in _NOT_STATED:
            return None
        spelled = _WORD.sub(_spell, candidate)
        for form in (spelled, candidate):
            # Several slashes are understood by astropy, but not without a word.
            first, *others = form.split('/')
            try:
                unit = u.Unit(f'{first}/({"*".join(others)})' if others else first)
            except (ValueError, TypeError):
                continue
            return _of_a_pixel(unit)
    msg = f'{text!r} is no unit that astropy knows'
    raise ValueError(msg)


def _spell(found):
    """
    Spell a word as astropy does.
    """
    # Only the case tells mega from milli.
    return 'MJy' if found[0] == 'MJY' else _SPELLINGS.get(found[0].lower(), found[0])


def _of_a_pixel(unit):
    """
    Return the unit of what one pixel holds, `None` for a plain number.
    """
    if not isinstance(unit, u.UnitBase):
        return unit
    if u.pix in unit.bases and unit.powers[unit.bases.index(u.pix)] == -1:
        unit = unit * u.pix
    return None if unit == u.dimensionless_unscaled else unit


def check_linear(name, unit):
    """
    Refuse units in which light does not add up.

    Parameters
    ----------
    name : str
        The argument's name, for messages.

    unit : `~astropy.units.Unit` or None
        The unit.

    Raises
    ------
    ValueError
        If it is a magnitude or another logarithm.
    """
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
    """
    Replace units that only this program knows by what they stand for.

    Parameters
    ----------
    unit : `~astropy.units.Unit`
        The unit, perhaps made of some of `~astropy.units.def_unit`.

    Returns
    -------
    unit : `~astropy.units.Unit`
        An equal unit, whose text reads as that unit everywhere. A unit of one's
        own that stands for nothing else remains as it is.
    """
    if _reads_back(unit):
        return unit
    product = unit.scale
    for base, power in zip(unit.bases, unit.powers, strict=True):
        known = base if _reads_back(base) else base.represents
        product = product * known**power
    return u.Unit(product)


def _reads_back(unit):
    """
    Tell whether a unit's text stands for that unit.
    """
    try:
        return u.Unit(unit.to_string()) == unit
    except (ValueError, TypeError):
        return False
