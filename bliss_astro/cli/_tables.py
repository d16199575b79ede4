# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tables of sources from files of many kinds.
"""

import numpy as np

from bliss_astro.exposures._simulated import is_simulated
from bliss_astro.units import NANOMAGGY_ZERO_POINT, flux_to_magnitude

from ._simulated import ELECTRONS_PER_NMGY, read_simulated

__all__ = ['read_sources']

# Names of the columns in other programs.
_ALIASES = {
    'x_centroid': ('xcentroid', 'x', 'x_fit', 'X_IMAGE'),
    'y_centroid': ('ycentroid', 'y', 'y_fit', 'Y_IMAGE'),
    'flux': ('flux_fit', 'FLUX_AUTO'),
    'mag': ('magnitude', 'MAG_AUTO'),
}
_FITS_ENDINGS = ('.fits', '.fit', '.fits.gz', '.fit.gz', '.fits.bz2', '.fit.bz2')


def read_sources(path, *, sky=False, truth=False):
    """
    Read a table of sources: a catalogue, any table, or for the truth a simulated image.

    It has ``x_centroid`` and ``y_centroid`` or ``sky_centroid``, and ``mag`` if the
    file has magnitudes or fluxes: AB for calibrated fluxes and for electrons
    (987.31 electrons per nanomaggy), else ``-2.5 log10(flux)``.
    """
    table = _read(path, truth=truth)
    for name, others in _ALIASES.items():
        for other in others:
            if name not in table.colnames and other in table.colnames:
                table.rename_column(other, name)
    _check_positions(table, path, sky=sky)
    if 'mag' not in table.colnames and 'flux' in table.colnames:
        table['mag'] = _magnitude(table['flux'])
    return table


def _read(path, *, truth):
    """Read a table of any kind."""
    from astropy.table import QTable

    from bliss_astro.catalog import ProbabilisticCatalog

    is_fits = str(path).lower().endswith(_FITS_ENDINGS)
    if is_fits and (simulated := _read_truth(path, truth=truth)) is not None:
        return simulated
    try:
        return QTable(ProbabilisticCatalog.read(path, posterior=False), copy=False)
    except (OSError, ValueError):
        # Not of this package; astropy reads many more.
        pass
    try:
        return _read_fits(path) if is_fits else QTable.read(path)
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        msg = f'{path} cannot be read as a table: {reason}'
        raise ValueError(msg) from error


def _read_truth(path, *, truth):
    """Read the stars of a simulated image; `None` of another file."""
    from bliss_astro._fits import open_fits

    with open_fits(path, 'TRUTH' if truth else 'CATALOG') as hdus:
        if not is_simulated(hdus):
            return None
        if truth:
            return read_simulated(hdus)[1]
        msg = (
            f'CATALOG {path} is a simulated image, which can only be the TRUTH: '
            'the detections come first'
        )
        raise ValueError(msg)


def _read_fits(path):
    """Read the first table of a FITS file."""
    from astropy.io import fits
    from astropy.table import QTable
    from astropy.units import UnitsWarning

    from bliss_astro._warnings import collect_warnings

    with fits.open(path) as hdus, collect_warnings(UnitsWarning):
        # Units beyond the FITS standard are dealt with by name.
        for hdu in hdus:
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                return QTable.read(hdu)
    msg = 'it holds no table'
    raise ValueError(msg)


def _check_positions(table, path, *, sky):
    """Check the columns that are matched, or make the sky positions."""
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    if not sky:
        missing = {'x_centroid', 'y_centroid'} - set(table.colnames)
        if missing:
            msg = (
                f'{path} has no columns {" and ".join(sorted(missing))}; it has '
                f'{", ".join(table.colnames)} (--sky matches on the sky)'
            )
            raise ValueError(msg)
        return
    if isinstance(table.columns.get('sky_centroid'), SkyCoord):
        return
    names = {name.lower(): name for name in table.colnames}
    if not {'ra', 'dec'} <= set(names):
        msg = (
            f'{path} has neither sky_centroid nor ra and dec; it has '
            f'{", ".join(table.colnames)}'
        )
        raise ValueError(msg)
    angles = (
        u.Quantity(np.asarray(getattr(c, 'value', c), float), getattr(c, 'unit', u.deg))
        for c in (table[names['ra']], table[names['dec']])
    )
    table['sky_centroid'] = SkyCoord(*(u.Quantity(a, u.deg) for a in angles))


def _magnitude(flux):
    """Convert fluxes to magnitudes; NaN where they are not positive."""
    import astropy.units as u

    unit = getattr(flux, 'unit', None)
    values = np.asarray(getattr(flux, 'value', flux), dtype=float)
    if isinstance(unit, u.UnrecognizedUnit):
        # Nanomaggies are no unit of FITS, but one of astropy.
        name = unit.to_string().replace('nanomaggy', 'nmgy')
        unit = u.Unit(name, parse_strict='silent')
    zero_point = 0.0
    if unit == u.electron:
        values, zero_point = values / ELECTRONS_PER_NMGY, NANOMAGGY_ZERO_POINT
    elif unit is not None and unit.is_equivalent(u.ABflux):
        values, zero_point = (values * unit).to_value(u.nmgy), NANOMAGGY_ZERO_POINT
    with np.errstate(invalid='ignore', divide='ignore'):
        mag = flux_to_magnitude(values, zero_point)
    return np.where(np.isfinite(mag), mag, np.nan)
