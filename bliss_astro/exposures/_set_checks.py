# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of exposures in several bands: names, pixel grid, unit, reference band.
"""

from collections.abc import Iterable, Mapping

import astropy.units as u

from bliss_astro._arguments import check_number, require, require_type

from ._bands import BANDS, Band, as_band
from ._exposure import Exposure
from ._geometry import grid_offset
from ._read import scaled

# Pixels of two bands whose places differ by less (pixels) are one grid.
_ONE_GRID = 0.05
# Flux density by wavelength, whose ratios are no colours; and what nanomaggies are.
_PER_WAVELENGTH = u.erg / u.s / u.cm**2 / u.AA
_MAGGIES = u.zero_point_flux(1 * u.AB)
# Zero points that differ by less (mag) are one.
_ONE_ZERO_POINT = 1e-3


def by_band(exposures):
    """Exposures, or None, by band, each with its own band, as they were given."""
    if not isinstance(exposures, Mapping):
        allowed = 'be a mapping of names of bands to exposures'
        sound = isinstance(exposures, Iterable) and not isinstance(exposures, Exposure)
        require(sound, 'exposures', allowed, type(exposures).__name__, TypeError)
        pairs = [(getattr(each, 'band', None), each) for each in exposures]
    else:
        # A set with its missing bands.
        is_set = hasattr(exposures, '_found')
        pairs = list((exposures._found() if is_set else exposures).items())
    found = {}
    for k, (key, exposure) in enumerate(pairs):
        label = f'exposures[{str(key)!r}]' if key is not None else f'exposures[{k}]'
        if exposure is not None:
            require_type(label, exposure, Exposure)
        if key is None:
            raise ValueError(f'{label} has no band; give it one by replace(band=...).')
        band = band_of(key, exposure, label)
        if band.name in map(str, found):
            raise ValueError(f'exposures has the band {band.name!r} twice.')
        if exposure is not None and exposure.band != band:
            exposure = exposure.replace(band=band)
        found[band] = exposure
    return found


def band_of(key, exposure, label, word='band'):
    """Band of an exposure, or None, by the name under which it was given."""
    require_type('a band', key, str, Band)
    own = None if exposure is None else exposure.band
    named = key if isinstance(key, Band) else BANDS.get(key)
    names = {band.name for band in (own, named) if band is not None}
    # Names of the user may stand for anything.
    if len(names) > 1 and (key in BANDS or names <= BANDS.keys()):
        msg = f'{label} is in the band {own.name!r}; name it so, or replace its band.'
        raise ValueError(msg)
    if isinstance(key, Band):
        return key
    # A name of a survey says which band it is.
    if own is None or (named is not None and named.name != key):
        own = as_band(key, f'the name of {label}, or its {word},')
    return own if own.name == key else Band(key, own.wavelength, own.width)


def choose_reference(found, reference):
    """Band that is the reference, by name, of exposures by band."""
    there = {band.name: band for band in found if found[band]}
    require(there, 'exposures', 'have an exposure', list(map(str, found)))
    name = next(iter(there)) if reference is None else str(reference)
    require(name in there, 'reference', f'be one of {", ".join(there)}', repr(name))
    return there[name]


def check_factors(calibration, names):
    """Check factors to the unit of the reference band, by name of another band."""
    calibration = {} if calibration is None else calibration
    allowed, kind = 'be a dict of factors by name of the band', type(calibration)
    sound = isinstance(calibration, Mapping)
    require(sound, 'calibration', allowed, kind.__name__, TypeError)
    factors = {str(name): value for name, value in calibration.items()}
    allowed = f'be for bands other than the reference ({", ".join(names)})'
    require(set(factors) <= set(names), 'calibration', allowed, list(factors))
    return {
        name: check_number(f'calibration[{name!r}]', value, sign='positive')
        for name, value in factors.items()
    }


def check_grid(exposure, known, names):
    """Refuse a band that is not on the pixel grid of the reference band."""
    (name, other), reason = names, None
    if exposure.shape != known.shape:
        reason = f'{name} has the shape {exposure.shape} and {other} {known.shape}'
    elif exposure.wcs is not None and known.wcs is not None:
        offset = grid_offset(exposure.wcs, known.wcs, known.shape)
        if offset > _ONE_GRID:
            reason = f'pixels of {name} lie up to {offset:.3g} px from those of {other}'
    if reason is not None:
        both = None not in (exposure.wcs, known.wcs)
        how = 'use' if both else 'give both a wcs, for'
        raise ValueError(f'{reason}; {how} bliss_astro.coadds.align_bands.')


def in_unit(exposure, known, names, factor):
    """Bring the numbers of a band to the unit of the reference band."""
    own, unit, reason = exposure.unit, known.unit, None
    points = [one.meta.get('zero_point') for one in (exposure, known)]
    if factor is not None:
        meta = exposure.meta | {'calibration': factor}
        return scaled(exposure, factor, unit).replace(meta=meta)
    convertible = None not in (own, unit) and own.is_equivalent(unit, _MAGGIES)
    if convertible and _is_of(unit, _PER_WAVELENGTH):
        reason, points = '{} and {} are in {}, not by frequency as Jy is', (unit,)
    elif own != unit and convertible:
        return scaled(exposure, (1 * own).to_value(unit, _MAGGIES), unit)
    elif own != unit:
        reason, points = '{} and {} have units that do not fit: {} and {}', (own, unit)
    elif None in points or is_calibrated(unit):
        return exposure
    # Other numbers are fluxes of one unit only if a zero point is common to them.
    elif abs(points[0] - points[1]) > _ONE_ZERO_POINT:
        reason = 'zero points of {} and {} differ: {:g} and {:g}'
    if reason is None:
        return exposure
    how = 'give calibration, the factor between them, or bring them to one unit'
    reason = reason.format(*names, *points)
    raise ValueError(f'{reason}; {how} (zero_point makes nmgy of counts).')


def is_calibrated(unit):
    """Whether a unit is one of flux density by frequency, of a pixel or an area."""
    return unit is not None and _is_of(unit, u.Jy)


def _is_of(unit, wanted):
    """Whether a unit is such a one, of a pixel or an area of the sky."""
    per = (u.one, u.sr, u.pix, u.beam) if unit is not None else ()
    return any((unit * area).is_equivalent(wanted, _MAGGIES) for area in per)
