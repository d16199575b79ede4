# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Units as text that reads back as the same unit, and units of surface brightness.
"""

import astropy.units as u

__all__ = ['is_surface_brightness', 'is_text_exact', 'unit_text']


def is_surface_brightness(unit):
    """
    Say whether a unit is one of brightness over an area, not of flux in a pixel.

    Pixels of another size have other fluxes but the same surface brightness.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase` or None
        Unit of an image.

    Returns
    -------
    is_one : bool
        `True` for units per solid angle or per beam (MJy / sr, nmgy / arcsec2,
        Jy / beam) and for brightness temperatures (K).

    Examples
    --------
    >>> import astropy.units as u
    >>> from bliss_astro._units import is_surface_brightness
    >>> is_surface_brightness(u.MJy / u.sr), is_surface_brightness(u.nJy)
    (True, False)
    """
    if unit is None:
        return False
    bases = getattr(unit, 'physical_unit', unit).decompose()
    powers = dict(zip(bases.bases, bases.powers, strict=True))
    per_area = powers.get(u.rad, 0) <= -2 or powers.get(u.beam, 0) < 0
    return per_area or unit.is_equivalent(u.K)


def is_text_exact(unit):
    """
    Say whether astropy's own text of a unit reads back as that unit.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase` or None
        A unit.

    Returns
    -------
    exact : bool
        `False` for names that astropy does not know, which the user defined, and
        for scales of more digits than astropy writes.
    """
    return unit is None or u.Unit(unit.to_string(), parse_strict='silent') == unit


def unit_text(unit):
    """
    Write a unit so that `~astropy.units.Unit` makes the same unit of it.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase` or None
        A unit, perhaps one that the user defined.

    Returns
    -------
    text : str or None
        Names that astropy does not know are replaced by their definitions, and
        a scale has all its digits.  A unit without a definition is its name.

    Examples
    --------
    >>> import astropy.units as u
    >>> from bliss_astro._units import unit_text
    >>> unit_text(u.def_unit('hscflux', 57.54 * u.nJy) / u.s)
    '57.54 nJy / s'
    """
    if unit is None:
        return None
    if is_text_exact(unit):
        return unit.to_string()
    unit = _expand(unit)
    if unit.scale == 1:
        return unit.to_string()
    names = u.CompositeUnit(1.0, unit.bases, unit.powers).to_string()
    return f'{float(unit.scale)!r} {names}'.strip()


def _expand(unit):
    """Replace the names in a unit that astropy does not know."""
    if not isinstance(unit, u.CompositeUnit):
        known = is_text_exact(unit) or unit.represents is unit
        return u.CompositeUnit(1.0, [unit], [1]) if known else _expand(unit.represents)
    result = u.CompositeUnit(unit.scale, [], [])
    for base, power in zip(unit.bases, unit.powers, strict=True):
        result = result * _expand(base) ** power
    return u.CompositeUnit(result.scale, result.bases, result.powers)
