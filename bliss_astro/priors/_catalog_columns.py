# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Photometric catalogues as the columns that a prior is fitted to.
"""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.table import Table, vstack

from ._populations import ZERO_POINT

__all__ = ['stripe82_columns']

_STRIPE82 = (
    'ra',
    'dec',
    'probpsf',
    'psfmag_r',
    'devmag_r',
    'expmag_r',
    'fracdev_r',
    'devrad_r',
    'exprad_r',
    'devab_r',
    'expab_r',
    'is_saturated',
)

# What survives of the survey's fits: radii in arcsec, the limit of the axis
# ratio, and how much brighter than the PSF magnitude a galaxy can be.
_RADII = (0.1, 15.0)
_LIMIT_OF_AXIS_RATIO = 0.0501
_LARGEST_EXCESS = 2.5

# Magnitudes outside of these are codes for missing ones.
_MAGNITUDES = (5.0, 35.0)


def stripe82_columns(table):
    """
    Convert a catalogue of the SDSS stripe 82 coadd.

    Objects with ``probpsf`` of 1 are stars and have their PSF magnitude; the
    flux of a galaxy is that of its de Vaucouleurs and its exponential fit
    weighted by ``fracdev_r``. Rows without magnitude, duplicates (by ``objid``),
    saturated galaxies (pieces of bright stars), and galaxies whose fitted flux
    exceeds that within the PSF more than tenfold are dropped. Galaxies with
    radii at or beyond the limits of the fit (outside of 0.1 to 15 arcsec) or
    an axis ratio at its limit of 0.05 stay, without shape.

    Parameters
    ----------
    table : `~astropy.table.Table` or list of them
        The catalogue of each field.

    Returns
    -------
    table : `~astropy.table.Table`
        With the columns of `fit_catalog_prior`, and ``area`` (square degrees,
        the sum of the tables' bounding boxes) in its ``meta``.
    """
    tables = table if isinstance(table, (list, tuple)) else [table]
    for each in tables:
        _need(each, _STRIPE82)
    area = sum(_footprint(each) for each in tables)
    table = vstack(list(tables), metadata_conflicts='silent')
    if 'objid' in table.colnames:
        _, first = np.unique(np.asarray(table['objid']), return_index=True)
        table = table[np.sort(first)]
    value = {name: _float(table, name) for name in _STRIPE82}
    is_star = value['probpsf'] == 1
    bulge = np.clip(value['fracdev_r'], 0, 1)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        flux = [
            10 ** (-0.4 * (value[f'{kind}mag_r'] - ZERO_POINT))
            for kind in ('dev', 'exp')
        ]
        model = ZERO_POINT - 2.5 * np.log10(bulge * flux[0] + (1 - bulge) * flux[1])
        mag = np.where(is_star, value['psfmag_r'], model)
        excess = value['psfmag_r'] - model
        keep = (mag > _MAGNITUDES[0]) & (mag < _MAGNITUDES[1])
        keep &= is_star | ((value['is_saturated'] == 0) & (excess < _LARGEST_EXCESS))
        # A component without light may have any size.
        failed = ~keep | is_star
        for kind, share in (('dev', bulge), ('exp', 1 - bulge)):
            radius, ratio = value[f'{kind}rad_r'], value[f'{kind}ab_r']
            bad = ~((radius > _RADII[0]) & (radius < _RADII[1]))
            bad |= ~((ratio > _LIMIT_OF_AXIS_RATIO) & (ratio <= 1))
            failed |= bad & (share > 0)
            value[f'{kind}rad_r'] = np.where(bad, np.nan, radius)
            value[f'{kind}ab_r'] = np.where(bad, np.nan, ratio)
    result = Table(
        {
            'magnitude': mag,
            'is_galaxy': ~is_star,
            'disk_fraction': np.where(failed, np.nan, 1 - bulge),
            'disk_radius': np.where(failed, np.nan, value['exprad_r']) * u.arcsec,
            'bulge_radius': np.where(failed, np.nan, value['devrad_r']) * u.arcsec,
            'disk_axis_ratio': np.where(failed, np.nan, value['expab_r']),
            'bulge_axis_ratio': np.where(failed, np.nan, value['devab_r']),
        },
        meta={'area': area},
    )
    return result[keep]


def _footprint(table):
    """Bounding box of positions in square degrees."""
    ra, dec = _float(table, 'ra'), _float(table, 'dec')
    if len(ra) == 0:
        return 0.0
    # Across 0h the box would otherwise span the whole sky.
    ra = (ra - ra[0] + 180) % 360
    return float(np.ptp(ra) * np.ptp(dec) * np.cos(np.radians(dec.mean())))


def _need(table, names):
    """Complain of something that is no table or lacks columns."""
    if not isinstance(table, Table):
        msg = (
            f'table must be an astropy Table or a list of them, got '
            f'{type(table).__name__}'
        )
        raise TypeError(msg)
    missing = [name for name in names if name not in table.colnames]
    if missing:
        msg = (
            f'table lacks the column(s) {", ".join(missing)}; it has '
            f'{", ".join(table.colnames)}'
        )
        raise ValueError(msg)


def _float(table, name, unit=None):
    """
    Column as float array in a unit, masked values as NaN.
    """
    column = table[name]
    given = getattr(column, 'unit', None)
    if given is not None and unit is not None:
        try:
            column = u.Quantity(np.ma.filled(column, np.nan), given).to_value(
                unit, u.zero_point_flux(1 * u.AB)
            )
        except u.UnitConversionError:
            msg = f'table[{name!r}] must be in a unit like {unit}, got {given}'
            raise ValueError(msg) from None
    values = getattr(column, 'value', column)
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(float), np.nan)
    return np.array(values, dtype=float)


@dataclasses.dataclass(frozen=True, eq=False)
class CatalogColumns:
    """
    Checked columns of a catalogue.

    Attributes
    ----------
    magnitude : float array ``(n,)``
        AB.

    is_galaxy : bool array ``(n,)``
        The class.

    radius : float array ``(n,)``
        Half-light radius (semi-major axis) of the whole galaxy in arcsec.

    bulge_to_disk : float array ``(n,)``
        Ratio of the radii.

    disk_axis_ratio, bulge_axis_ratio, disk_fraction : float array ``(n,)``
        NaN where unknown.

    area : float
        Square degrees.
    """

    magnitude: np.ndarray
    is_galaxy: np.ndarray
    radius: np.ndarray
    bulge_to_disk: np.ndarray
    disk_axis_ratio: np.ndarray
    bulge_axis_ratio: np.ndarray
    disk_fraction: np.ndarray
    area: float

    @classmethod
    def from_table(cls, table, *, area=None):
        """
        Check a table and take its columns.

        Parameters
        ----------
        table : `~astropy.table.Table` or list of them
            See `fit_catalog_prior`.

        area : float, `~astropy.units.Quantity` or None, optional
            Square degrees.

        Returns
        -------
        columns : `CatalogColumns`
            What the fit needs.
        """
        first = table[0] if isinstance(table, (list, tuple)) and table else table
        _need(first, ())
        if set(_STRIPE82) <= set(first.colnames):
            table = stripe82_columns(table)
        elif isinstance(table, (list, tuple)):
            table = vstack(list(table), metadata_conflicts='silent')
        if area is None:
            area = table.meta.get('area')
        magnitude = _magnitude(table)
        is_galaxy = _class(table)
        known = np.isfinite(magnitude)
        shapes = _shapes(table, is_galaxy)
        return cls(
            magnitude=magnitude[known],
            is_galaxy=is_galaxy[known],
            **{name: value[known] for name, value in shapes.items()},
            area=_area(area),
        )


def _area(area):
    """Area as square degrees."""
    if area is None:
        msg = 'area must be given, in square degrees (or as table.meta["area"])'
        raise ValueError(msg)
    if isinstance(area, u.Quantity):
        try:
            area = area.to_value(u.deg**2)
        except u.UnitConversionError:
            msg = f'area must be a solid angle, got {area}'
            raise ValueError(msg) from None
    if not (np.isscalar(area) and np.isfinite(area) and area > 0):
        msg = f'area must be positive, in square degrees, got {area!r}'
        raise ValueError(msg)
    return float(area)


def _magnitude(table):
    """AB magnitudes from ``magnitude`` or ``flux``."""
    has = [name for name in ('magnitude', 'flux') if name in table.colnames]
    if len(has) != 1:
        msg = (
            "table must have either 'magnitude' or 'flux', one of the two; it has "
            f'{", ".join(table.colnames)}'
        )
        raise ValueError(msg)
    if has == ['flux']:
        flux = _float(table, 'flux', u.nmgy)
        if (flux <= 0).any():
            msg = f"table['flux'] must be positive, got {np.nanmin(flux)}"
            raise ValueError(msg)
        return ZERO_POINT - 2.5 * np.log10(flux)
    unit = getattr(table['magnitude'], 'unit', None)
    if unit not in (None, u.mag, u.ABmag):
        msg = (
            f"table['magnitude'] must be in mag (AB), got {unit}; fluxes belong in "
            "a column 'flux'"
        )
        raise ValueError(msg)
    magnitude = _float(table, 'magnitude')
    wrong = ~((magnitude > _MAGNITUDES[0]) & (magnitude < _MAGNITUDES[1]))
    wrong &= np.isfinite(magnitude)
    if wrong.any():
        msg = (
            f"table['magnitude'] must lie between {_MAGNITUDES[0]} and "
            f'{_MAGNITUDES[1]} (mask or drop missing ones), got {magnitude[wrong][0]}'
        )
        raise ValueError(msg)
    return magnitude


def _class(table):
    """Whether each row is a galaxy."""
    if 'is_galaxy' in table.colnames:
        value = _float(table, 'is_galaxy')
    else:
        if 'probpsf' not in table.colnames:
            _need(table, ['is_galaxy'])
        value = 1 - _float(table, 'probpsf')
    if not np.isin(value, (0, 1)).all():
        wrong = value[~np.isin(value, (0, 1))][0]
        msg = f"table['is_galaxy'] (or 'probpsf') must be 0 or 1, got {wrong}"
        raise ValueError(msg)
    return value == 1


def _shapes(table, is_galaxy):
    """Checked shape columns; those of stars are NaN."""

    def read(name, low, high, allowed, unit=None):
        value = np.where(is_galaxy, _float(table, name, unit), np.nan)
        wrong = np.isfinite(value) & ~((value >= low) & (value <= high))
        if wrong.any():
            msg = (
                f'table[{name!r}] of galaxies must be {allowed} (mask failed fits, '
                f'or make them NaN), got {value[wrong][0]}'
            )
            raise ValueError(msg)
        return value

    tiny = np.nextafter(0, 1)
    names = {}
    for what in ('radius', 'axis_ratio'):
        pair = (f'disk_{what}', f'bulge_{what}')
        both = all(name in table.colnames for name in pair)
        names[what] = pair if both else (what, what)
    _need(table, [*dict.fromkeys(names['radius'] + names['axis_ratio'])])
    _need(table, ['disk_fraction'])
    fraction = read('disk_fraction', 0, 1, 'in [0, 1]')
    disk, bulge = (
        read(name, tiny, np.inf, 'positive', u.arcsec) for name in names['radius']
    )
    ratios = [read(name, tiny, 1, 'in (0, 1]') for name in names['axis_ratio']]
    with np.errstate(invalid='ignore', divide='ignore'):
        # A component without light says nothing.
        log_disk = np.where(fraction > 0, np.log(disk), 0.0)
        log_bulge = np.where(fraction < 1, np.log(bulge), 0.0)
        radius = np.exp(fraction * log_disk + (1 - fraction) * log_bulge)
        one = names['radius'][0] == 'radius'
        ratio = np.full(len(radius), np.nan) if one else bulge / disk
    return {
        'radius': radius,
        'bulge_to_disk': ratio,
        'disk_axis_ratio': ratios[0],
        'bulge_axis_ratio': ratios[1],
        'disk_fraction': fraction,
    }
