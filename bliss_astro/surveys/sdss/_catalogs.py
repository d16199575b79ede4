# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues and priors of SDSS: photoObj files, tables of stripe 82, good fields.
"""

import os

import astropy.units as u
import numpy as np
from astropy.table import Table, vstack

from bliss_astro._fits import card_number, file_name, open_fits, wrong_type
from bliss_astro._warnings import NoDetectionsWarning, warn
from bliss_astro.priors import FieldPrior, FieldTable
from bliss_astro.priors._catalog_fit import MAGNITUDE_RANGE, SURVEY_CONVERTERS
from bliss_astro.priors._numbers import float_column, need_columns
from bliss_astro.units import flux_to_magnitude, magnitude_to_flux

from ._camera import band_index
from ._fields import PSF_COLUMNS, PhotoField

# Columns of the empty table of a field without objects, by type.
_EMPTY = {
    'U19': ('OBJID',),
    'i2': ('RUN', 'FIELD', 'ID'),
    'u1': ('CAMCOL',),
    'i4': ('OBJC_TYPE', 'THING_ID'),
    'f8': ('RA', 'DEC'),
    '5f4': (
        *('ROWC', 'COLC', 'PSFFLUX', 'PSFFLUX_IVAR'),
        *('MODELFLUX', 'MODELFLUX_IVAR', 'CMODELFLUX'),
    ),
}
_NEEDED = {'OBJC_TYPE', 'RA', 'DEC', 'ROWC', 'COLC', 'PSFFLUX'}

_STRIPE82 = (
    *('ra', 'dec', 'probpsf', 'psfmag_r', 'devmag_r', 'expmag_r', 'fracdev_r'),
    *('devrad_r', 'exprad_r', 'devab_r', 'expab_r', 'is_saturated'),
)
# What survives of the survey's fits: radii in arcsec, the limit of the axis
# ratio, and how much brighter than the PSF magnitude a galaxy can be.
_RADII = (0.1, 15.0)
_LIMIT_OF_AXIS_RATIO = 0.0501
_LARGEST_EXCESS = 2.5
# sigma1 of a PSF in pixels; fits of narrower or wider ones failed.
_CORE_RANGE = (0.5, 6.0)


def read_photoobj(photoobj):
    """
    Read an SDSS ``photoObj`` file.

    Parameters
    ----------
    photoobj : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file, plain or compressed.

    Returns
    -------
    objects : `~astropy.table.Table`
        All columns of the file under their own names, and ``x`` and ``y``, of
        shape (n, 5): the positions in the frame of each band in this package's
        pixels (0-based, centres on integers), which are ``COLC`` and ``ROWC``
        less 0.5. Fluxes are in nmgy. The meta hold ``run``, ``camcol``,
        ``field`` and the header's keywords.

    Raises
    ------
    OSError
        If the file is absent, truncated, damaged, or not FITS.

    ValueError
        If it is FITS but not an SDSS ``photoObj`` file.

    Warns
    -----
    NoDetectionsWarning
        If the survey found nothing in the field, or gave up on it (as in the
        cores of globular clusters). The table then has no rows, and the
        columns that are used most.

    Notes
    -----
    Rows with ``THING_ID`` -1 are duplicates of the overlap with other
    fields, or parents of blends. Missing measurements are -9999, or have an
    inverse variance of 0.
    """
    with open_fits(photoobj, 'photoobj') as hdus:
        header = hdus[0].header
        columns = getattr(hdus[1], 'columns', None) if len(hdus) > 1 else None
        found = ''
        if columns is not None:
            missing = ', '.join(sorted(_NEEDED - set(columns.names))[:3])
            found = f'its table lacks {missing}' if missing else ''
        elif len(hdus) < 2 or hdus[1].data is not None or 'POBJ_VER' not in header:
            found = 'HDU 1 is not a table'
        if found:
            raise wrong_type(photoobj, 'photoobj', 'an SDSS photoObj file', found)
        # The survey writes an empty image where a field has no objects.
        objects = _empty_table() if columns is None else Table(hdus[1].data)
        objects['x'] = np.asarray(objects['COLC'], dtype=float) - 0.5
        objects['y'] = np.asarray(objects['ROWC'], dtype=float) - 0.5
        objects.meta = _meta(header)
    if len(objects) == 0:
        msg = (
            f'{file_name(photoobj)!r} has no objects: the survey found none in this '
            'field or did not finish it.'
        )
        warn(msg, NoDetectionsWarning)
    return objects


def _empty_table():
    """Make a typed table without rows."""
    return Table(
        {name: np.empty(0, dtype) for dtype, names in _EMPTY.items() for name in names}
    )


def _meta(header):
    """Keep the keywords that describe the field, and its numbers by name."""
    skip = {'SIMPLE', 'BITPIX', 'NAXIS', 'EXTEND', 'COMMENT', 'HISTORY', ''}
    meta = {key: header.get(key) for key in header if key not in skip}
    for key in ('RUN', 'CAMCOL', 'FIELD'):
        meta[key.lower()] = int(card_number(header, key, -1))
    return meta


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
        With the columns of `~bliss_astro.priors.CatalogPrior.fit`, and ``area``
        (square degrees, the sum of the tables' bounding boxes) in its ``meta``.
    """
    tables = table if isinstance(table, (list, tuple)) else [table]
    for each in tables:
        need_columns(each, _STRIPE82)
    area = sum(_footprint(each) for each in tables)
    table = vstack(list(tables), metadata_conflicts='silent')
    if 'objid' in table.colnames:
        _, first = np.unique(np.asarray(table['objid']), return_index=True)
        table = table[np.sort(first)]
    value = {name: float_column(table, name) for name in _STRIPE82}
    is_star = value['probpsf'] == 1
    bulge = np.clip(value['fracdev_r'], 0, 1)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        flux = [magnitude_to_flux(value[f'{kind}mag_r']) for kind in ('dev', 'exp')]
        model = flux_to_magnitude(bulge * flux[0] + (1 - bulge) * flux[1])
        mag = np.where(is_star, value['psfmag_r'], model)
        excess = value['psfmag_r'] - model
        keep = (mag > MAGNITUDE_RANGE[0]) & (mag < MAGNITUDE_RANGE[1])
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
    shapes = {
        'disk_fraction': 1 - bulge,
        'disk_radius': value['exprad_r'] * u.arcsec,
        'bulge_radius': value['devrad_r'] * u.arcsec,
        'disk_axis_ratio': value['expab_r'],
        'bulge_axis_ratio': value['devab_r'],
    }
    result = Table({'magnitude': mag, 'is_galaxy': ~is_star}, meta={'area': area})
    for name, shape in shapes.items():
        result[name] = np.where(failed, np.nan, shape)
    return result[keep]


def _footprint(table):
    """Bounding box of positions in square degrees."""
    ra, dec = float_column(table, 'ra'), float_column(table, 'dec')
    if len(ra) == 0:
        return 0.0
    # Across 0h the box would otherwise span the whole sky.
    ra = (ra - ra[0] + 180) % 360
    return float(np.ptp(ra) * np.ptp(dec) * np.cos(np.radians(dec.mean())))


SURVEY_CONVERTERS.append((_STRIPE82, stripe82_columns))


def field_prior(paths, band, *, ellipticity=None):
    """Make the prior of good fields; see `FieldPrior.from_photofield`."""
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    many = isinstance(band, (list, tuple))
    bands = list(band) if many else [band]
    files = [PhotoField.read(path) for path in paths]
    priors = {}
    rows = [[_fields_of(file, band_index(b), b) for b in bands] for file in files]
    # Fields that are good in all bands.
    good = [np.isfinite(np.concatenate(each, -1)).all(-1) for each in rows]
    if not any(part.any() for part in good):
        names = ', '.join(str(path) for path in paths) or 'no file at all'
        msg = (
            f'paths must hold at least one good field in band {band!r} (a measured '
            f'PSF, and positive sky and calibration); there is none in {names}'
        )
        raise ValueError(msg)
    for k, name in enumerate(bands):
        table = np.concatenate([r[k][g] for r, g in zip(rows, good, strict=True)])
        fields = FieldTable(table[:, :8], *table[:, 8:].T)
        priors[name] = FieldPrior(fields, ellipticity)
    return priors if many else priors[band]


def _fields_of(fields, index, band):
    """Rows (n, 11) of a `FieldTable` of the fields of one file; NaN for bad ones."""
    if fields.gain.ndim != 2 or fields.gain.shape[1] <= index:
        n = 1 if fields.gain.ndim == 1 else fields.gain.shape[1]
        msg = f'band {band!r} is not in {fields.file!r}, which holds {n} band(s)'
        raise ValueError(msg)
    psf = [getattr(fields, name)[:, index] for name in PSF_COLUMNS]
    sky, gain, scale, dark = (
        getattr(fields, name)[:, index]
        for name in ('sky', 'gain', 'nmgy_per_count', 'dark_variance')
    )
    with np.errstate(divide='ignore', invalid='ignore'):
        good = ~fields.is_default[:, index]
        good &= (sky > 0) & (gain > 0) & (scale > 0) & (dark >= 0)
        good &= (psf[1] > psf[0]) & (psf[5] > 2)
        good &= (psf[0] > _CORE_RANGE[0]) & (psf[0] < _CORE_RANGE[1])
        rows = np.stack(
            [*psf, 0 * sky, 0 * sky, sky * gain, gain / scale, np.sqrt(dark) * gain],
            -1,
        )
    return np.where(good[:, None], rows, np.nan)
