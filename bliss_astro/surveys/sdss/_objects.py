# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogues of SDSS (``photoObj`` files).
"""

import numpy as np
from astropy.table import Table

from ..._warnings import NoDetectionsWarning, warn
from .._fits import card_number, file_name, open_fits, wrong_type

__all__ = ['read_photoobj']

# Columns of the empty table of a field without objects: name, dtype, shape.
_EMPTY = (
    ('OBJID', 'U19', ()),
    ('RUN', 'i2', ()),
    ('CAMCOL', 'u1', ()),
    ('FIELD', 'i2', ()),
    ('ID', 'i2', ()),
    ('OBJC_TYPE', 'i4', ()),
    ('RA', 'f8', ()),
    ('DEC', 'f8', ()),
    ('ROWC', 'f4', (5,)),
    ('COLC', 'f4', (5,)),
    ('PSFFLUX', 'f4', (5,)),
    ('PSFFLUX_IVAR', 'f4', (5,)),
    ('MODELFLUX', 'f4', (5,)),
    ('MODELFLUX_IVAR', 'f4', (5,)),
    ('CMODELFLUX', 'f4', (5,)),
    ('THING_ID', 'i4', ()),
)
_NEEDED = {'OBJC_TYPE', 'RA', 'DEC', 'ROWC', 'COLC', 'PSFFLUX'}


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
        if len(hdus) < 2:
            raise wrong_type(
                photoobj, 'photoobj', 'an SDSS photoObj file', 'it has no table'
            )
        columns = getattr(hdus[1], 'columns', None)
        if columns is None:
            # The survey writes an empty image where a field has no objects.
            if hdus[1].data is not None or 'POBJ_VER' not in header:
                raise wrong_type(
                    photoobj,
                    'photoobj',
                    'an SDSS photoObj file',
                    'HDU 1 is not a table',
                )
            objects = _empty_table()
        elif not set(columns.names) >= _NEEDED:
            missing = ', '.join(sorted(_NEEDED - set(columns.names))[:3])
            raise wrong_type(
                photoobj,
                'photoobj',
                'an SDSS photoObj file',
                f'its table lacks {missing}',
            )
        else:
            objects = Table(hdus[1].data)
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
    """
    Make a typed table without rows.
    """
    return Table(
        {name: np.empty((0, *shape), dtype=dtype) for name, dtype, shape in _EMPTY}
    )


def _meta(header):
    """
    Keep the keywords that describe the field, and its numbers by name.
    """
    skip = {'SIMPLE', 'BITPIX', 'NAXIS', 'EXTEND', 'COMMENT', 'HISTORY', ''}
    meta = {key: header.get(key) for key in header if key not in skip}
    for key in ('RUN', 'CAMCOL', 'FIELD'):
        meta[key.lower()] = int(card_number(header, key, -1))
    return meta
