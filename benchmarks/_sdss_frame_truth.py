# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The deeper catalogue that an SDSS frame is held against.
"""

import bz2
import gzip
import io
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

__all__ = ['read_truth']

# Bit of saturated objects in the survey's flags.
_SATURATED = 1 << 18
_UNPACK = {b'BZh': bz2.decompress, b'\x1f\x8b\x08': gzip.decompress}
# Magnitudes outside mean that a fit failed.
_MAG_RANGE = (5.0, 35.0)


def _first_table(path):
    """The first table of a FITS file, plain or compressed, or of a text file."""
    content = Path(path).read_bytes()
    unpack = _UNPACK.get(content[:3])
    name = Path(path).name
    try:
        content = content if unpack is None else unpack(content)
    except (OSError, EOFError, ValueError) as error:
        msg = f'truth={name!r} is damaged: {error}'
        raise OSError(msg) from error
    if not content.startswith(b'SIMPLE'):
        try:
            return Table.read(content.decode().splitlines() or [''], format='ascii')
        except (UnicodeDecodeError, ValueError, IndexError) as error:
            msg = f'truth={name!r} is neither a FITS file nor a table of text'
            raise ValueError(msg) from error
    try:
        with fits.open(io.BytesIO(content)) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                    return Table(hdu.data)
    except (OSError, TypeError, ValueError) as error:
        msg = f'truth={name!r} is damaged: {error}'
        raise OSError(msg) from error
    msg = f'truth={name!r} is a FITS file without a table'
    raise ValueError(msg)


def _column(table, names, path):
    """The first column of those names, in any case."""
    own = {name.lower(): name for name in table.colnames}
    for name in names:
        if name.lower() in own:
            return np.ma.filled(np.ma.asarray(table[own[name.lower()]]), 0)
    known = ', '.join(table.colnames[:40])
    msg = f'truth={Path(path).name!r} lacks the column {names[0]!r}; it has {known}'
    raise ValueError(msg)


def _has(table, name):
    return name.lower() in (own.lower() for own in table.colnames)


def read_truth(path, wcs, band='r'):
    """
    Read a catalogue and place it on a frame.

    Parameters
    ----------
    path : path_like
        A FITS table, plain, .gz or .bz2, with ``ra`` and ``dec`` (degrees),
        ``probpsf``, ``psfmag_r``, ``devmag_r``, ``expmag_r`` and ``fracdev_r`` (of
        the band), and ``is_saturated`` or ``flags``.

    wcs : `~astropy.wcs.WCS`
        Of the frame.

    band : str, optional
        The band of the frame.

    Returns
    -------
    truth : dict of array
        ``x``, ``y`` (0-based pixels), ``mag``, ``is_galaxy``, ``saturated``. The
        magnitude is that of the PSF for stars and of the sum of the two profiles,
        weighted by ``fracdev``, for galaxies; NaN where it makes no sense.

    Raises
    ------
    OSError
        If the file is absent or damaged.

    ValueError
        If it is no table, has no rows, or lacks a column.
    """
    table = _first_table(path)
    if not len(table):
        msg = f'truth={Path(path).name!r} has no rows'
        raise ValueError(msg)

    def column(*names):
        return np.asarray(_column(table, names, path))

    ra, dec = column('ra').astype(float), column('dec').astype(float)
    is_star = column('probpsf') > 0.5
    psf = column(f'psfmag_{band}').astype(float)
    profiles = [column(f'{kind}mag_{band}').astype(float) for kind in ('dev', 'exp')]
    share = column(f'fracdev_{band}', 'fracdev_r').astype(float).clip(0, 1)
    with np.errstate(divide='ignore', over='ignore', invalid='ignore'):
        dev, exp = (10 ** (-0.4 * mag) for mag in profiles)
        galaxy = -2.5 * np.log10(share * dev + (1 - share) * exp)
    mag = np.where(is_star, psf, galaxy)
    mag[~((mag > _MAG_RANGE[0]) & (mag < _MAG_RANGE[1]))] = np.nan
    good = np.isfinite(ra) & np.isfinite(dec)
    x, y = wcs.all_world2pix(ra[good], dec[good], 0, quiet=True)
    return {
        'x': np.asarray(x, dtype=float),
        'y': np.asarray(y, dtype=float),
        'mag': mag[good],
        'is_galaxy': ~is_star[good],
        'saturated': _saturated(table, path)[good],
    }


def _saturated(table, path):
    if _has(table, 'is_saturated'):
        return np.asarray(_column(table, ('is_saturated',), path)) != 0
    flags = np.asarray(_column(table, ('flags', 'is_saturated'), path))
    return (flags.astype(np.int64) & _SATURATED) != 0
