# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures in nanomaggies of the images of the DESI Legacy Imaging Surveys.
"""

import os
import re
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from bliss_astro._arguments import require
from bliss_astro._fits import (
    card_number,
    check_file,
    find_image,
    image_plane,
    open_fits,
)
from bliss_astro.exposures._fits_image import find_plane, parse_location
from bliss_astro.exposures._read import read_hdus
from bliss_astro.psf import read_psf

# Images of the Community Pipeline by name.
_IMAGE = re.compile(r'_(ooi|oki)_')
# Codes of bad pixels of the Community Pipeline: none, and a difference from other
# epochs, which is no defect; saturated, and a bleed trail.
_GOOD_CODES, _SATURATED_CODES = (0, 7), (3, 4)
# Cameras whose zero points are of counts per second, and images of counts.
_PER_SECOND = ('decam',)


def read_exposure(
    image,
    *,
    ccds=None,
    psf=None,
    sky=None,
    weight=None,
    flags=None,
    extension=None,
    **given,
):
    """
    Read an image of one detector of the Legacy Surveys.

    Parameters
    ----------
    image : str or `~os.PathLike`
        File of the image, whole or a cut-out: the first image in it, or
        ``file.fits[N11]``.

    ccds : str, `~os.PathLike` or `~astropy.table.Table`, optional
        Table ``survey-ccds`` with a row of the image, by which it is calibrated to
        nanomaggies, and its WCS matched to the survey's reference stars:
        ``image_filename``, ``ccdname``, ``camera``, ``exptime``, ``ccdzpt``,
        ``ccdraoff`` and ``ccddecoff``. Without it fluxes are in the counts of the file,
        unless a ``zero_point`` is given.

    psf : optional
        Model of PSFEx, or any other PSF that `~bliss_astro.psf.read_psf` reads. In a
        file of all detectors of an image (``ccdname``) it is that of the image.

    sky : str or `~os.PathLike`, optional
        The file ``splinesky`` of the sky, of the image or of all its detectors; or of
        a constant sky. By default ``background``, which is measured.

    weight, flags : str or `~os.PathLike`, optional
        Files of inverse variances, and of codes of bad pixels; by default those beside
        the image by their names, if they are there.

    **given
        Other keywords of `Exposure.read <bliss_astro.exposures.ExposureRead>`.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        Image, its sky left in as in the file, with its band.

    Raises
    ------
    OSError
        If a file is absent, truncated, damaged, or not FITS.

    ValueError
        If ``ccds`` has no row of the image, or several; if a file of the PSF or the
        sky is of another image.

    References
    ----------
    .. [1] https://www.legacysurvey.org/dr10/files, "Calibration products";
       ``SplineSky`` of https://github.com/dstndstn/tractor

    Examples
    --------
    >>> from bliss_astro.surveys import legacysurvey
    >>> exposure = legacysurvey.read_exposure(
    ...     'c4d_150329_083320_ooi_r_ls9.N11.fits',
    ...     ccds='survey-ccds.fits.gz',
    ...     psf='c4d_150329_083320_ooi_r_ls9-N11-psfex.fits',
    ... )  # doctest: +SKIP
    """
    location = parse_location(image, extension)
    path, place = Path(location.path), os.fspath(image)[len(location.path) :]
    place = place if extension is None else f'[{extension}]{place}'
    weight = _beside(path, place, 'oow', '.wht.fits') if weight is None else weight
    flags = _beside(path, place, 'ood', None) if flags is None else flags
    if flags is not None:
        codes = _read_plane(flags, 'flags')
        stated = {'mask': ~np.isin(codes, _GOOD_CODES)}
        given = stated | {'saturated': np.isin(codes, _SATURATED_CODES)} | given
    if isinstance(weight, str | os.PathLike):
        weight = _read_plane(weight, 'weight')
    row = None if ccds is None else _row_of(path.name, place, ccds)
    if row is not None:
        given = {'zero_point': _zero_point(row)} | given
    with open_fits(path, 'image', location.extension) as hdus:
        hdu = find_image(hdus, location.extension, 'image')
        if isinstance(psf, str | os.PathLike) and Path(psf).is_file():
            found = _own_row(psf, 'psf', hdus, hdu)
            psf = psf if found is None else read_psf(fits.HDUList([found]))
        if sky is not None:
            given = {'background': _read_sky(sky, hdus, hdu)} | given
        given |= {'psf': psf, 'weight': weight}
        exposure, _ = read_hdus(hdus, location, 'fits', given)
    if row is None or 'wcs' in given or exposure.wcs is None:
        return exposure
    return exposure.replace(wcs=_matched_wcs(exposure.wcs, row))


def _own_row(path, parameter, hdus, hdu):
    """Table of one row, that of an image, of a file of some of its detectors."""
    check_file(path, parameter, 'a file')
    with open_fits(path, parameter) as opened:
        names = (getattr(one, 'columns', fits.ColDefs([])).names for one in opened)
        number = next((k for k, own in enumerate(names) if 'ccdname' in own), None)
        if number is None:
            return None
        table = opened[number]
        is_it = np.char.strip(table.data['ccdname']) == hdu.name
        expnum = card_number(hdus[0].header, 'EXPNUM')
        if expnum is not None and 'expnum' in table.columns.names:
            is_it &= table.data['expnum'] == expnum
        allowed = f'have one row of {hdu.name} of exposure {expnum or 0:.0f}'
        name = f'{parameter}={str(path)!r}'
        require(is_it.sum() == 1, name, allowed, int(is_it.sum()))
        return fits.BinTableHDU(table.data[is_it], table.header)


def _read_sky(path, hdus, hdu):
    """Sky of an image (ny, nx), of a file of splines or of a constant."""
    from scipy.interpolate import RectBivariateSpline

    table, shape = _own_row(path, 'sky', hdus, hdu), image_plane(hdu).shape
    if table is None:
        with open_fits(path, 'sky') as opened:
            level = card_number(opened[0].header, 'SKY_P0')
        allowed = 'be a splinesky table, or have the card SKY_P0'
        require(level is not None, f'sky={str(path)!r}', allowed, 'neither')
        return np.full(shape, level)
    row = table.data[0]
    grids = row['ygrid'][: row['gridh']], row['xgrid'][: row['gridw']]
    order = int(row['order'])
    values = row['gridvals'].reshape(len(row['ygrid']), -1)
    values = values[: row['gridh'], : row['gridw']]
    spline = RectBivariateSpline(*grids, values, kx=order, ky=order)
    # Of a part of an image, the place of its first pixel.
    y, x = (np.arange(n) for n in shape)
    return spline(y + row['y0'], x + row['x0'])


def _beside(path, place, kind, ending):
    """File of a kind beside an image, by the names of one of the pipelines, or None."""
    name = _IMAGE.sub(f'_{kind}_', path.name)
    if name == path.name and ending is not None:
        name = name.removesuffix('.fits') + ending
    found = path.with_name(name)
    return f'{found}{place}' if name != path.name and found.is_file() else None


def _read_plane(source, parameter):
    """Read a map of one detector, by extension and section if its name has them."""
    location = parse_location(source)
    check_file(location.path, parameter, 'a file')
    with open_fits(location.path, parameter, location.extension) as hdus:
        data = find_plane(hdus, location.extension, parameter=parameter).data
    return data[location.cut(data.shape)]


def _row_of(name, place, ccds):
    """Row of an image in a table of detectors."""
    ccds = ccds if isinstance(ccds, Table) else Table.read(ccds, hdu=1)
    files, detectors = (
        [str(value).strip() for value in ccds[key]]
        for key in ('image_filename', 'ccdname')
    )
    is_it = np.array([Path(file).name == name for file in files])
    if is_it.sum() > 1:
        # A file with all detectors of the camera.
        is_it &= [f'[{detector}]'.lower() in place.lower() for detector in detectors]
    require(is_it.sum() == 1, 'ccds', f'have one row of {name}{place}', is_it.sum())
    return ccds[is_it][0]


def _zero_point(row):
    """Magnitude of one count of an image."""
    per_second = str(row['camera']).strip().lower() in _PER_SECOND
    time = float(row['exptime']) if per_second else 1.0
    return float(row['ccdzpt']) + 2.5 * np.log10(time)


def _matched_wcs(wcs, row):
    """WCS with the offset to the survey's reference stars (arcsec)."""
    wcs, shift = wcs.deepcopy(), [row['ccdraoff'], row['ccddecoff']]
    cosine = np.cos(np.deg2rad(wcs.wcs.crval[1]))
    wcs.wcs.crval += np.divide(shift, (3600 * cosine, 3600))
    return wcs
