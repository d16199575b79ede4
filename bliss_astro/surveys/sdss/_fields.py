# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calibration and image parameters of SDSS fields: ``tsField``, ``photoField``.
"""

import dataclasses

import numpy as np

from .._fits import card_number, file_name, open_fits, wrong_type
from ._bands import PIXEL_SCALE, default_psf_parameters
from ._numbers import field_numbers

__all__ = ['PhotoField', 'TsField', 'read_photofield', 'read_tsfield']

_SHAPE = ('width', 'sigma1', 'sigma2', 'b', 'p0', 'beta', 'sigmap')


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TsField:
    """
    Photometric calibration of one field of DR7 and before.

    All arrays have shape (5,), in the order of `BANDS`.

    Attributes
    ----------
    run, camcol, field : int
        The field.

    aa : float `~numpy.ndarray`
        Zero point, mag.

    kk : float `~numpy.ndarray`
        Extinction, mag per airmass.

    airmass : float `~numpy.ndarray`
        Airmass.

    gain : float `~numpy.ndarray`
        Electrons per count.

    dark_variance : float `~numpy.ndarray`
        Variance of a pixel without light, counts squared.

    sky : float `~numpy.ndarray`
        Sky, counts per pixel.

    saturation_level : float `~numpy.ndarray`
        Counts at which a pixel saturates, sky included.

    psf_width : float `~numpy.ndarray`
        Effective FWHM of the PSF, arcsec.

    exposure_time : float
        Seconds.

    file : str
        The name of the file.
    """

    run: int
    camcol: int
    field: int
    aa: np.ndarray
    kk: np.ndarray
    airmass: np.ndarray
    gain: np.ndarray
    dark_variance: np.ndarray
    sky: np.ndarray
    saturation_level: np.ndarray
    psf_width: np.ndarray
    exposure_time: float
    file: str

    def __repr__(self):
        return f'<TsField {self.run}-{self.camcol}-{self.field}>'

    @property
    def nmgy_per_count(self):
        """
        Flux of one count in nmgy, shape (5,).

        By the definition of the zero point, a source of c counts in t seconds has
        ``c / t * 10**(0.4 * (aa + kk * airmass))`` times the flux of magnitude 0,
        which is 1e9 nmgy.
        """
        return _nmgy_per_count(self.aa, self.kk, self.airmass, self.exposure_time)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PhotoField:
    """
    Parameters of many fields, one row per field.

    The arrays of parameters have shape (n, 5), with the bands in the order of
    `BANDS`; the others have shape (n,).

    Attributes
    ----------
    run, camcol, field : int `~numpy.ndarray`
        The fields.

    sky : float `~numpy.ndarray`
        Sky, counts per pixel.

    sky_nmgy : float `~numpy.ndarray`
        Sky, nmgy per pixel.

    gain : float `~numpy.ndarray`
        Electrons per count.

    dark_variance : float `~numpy.ndarray`
        Variance of a pixel without light, counts squared.

    nmgy_per_count : float `~numpy.ndarray`
        Calibration.

    saturation_level : float `~numpy.ndarray`
        Counts at which a pixel saturates, sky included.

    airmass : float `~numpy.ndarray`
        Airmass.

    psf_width : float `~numpy.ndarray`
        Effective FWHM of the PSF, arcsec.

    psf_sigma1, psf_sigma2, psf_b, psf_p0, psf_beta, psf_sigmap : `~numpy.ndarray`
        The analytic PSF (two Gaussians and a power law), lengths in pixels.

    is_default : bool `~numpy.ndarray`
        Where the PSF's parameters are placeholders instead of a fit.

    file : str
        The name of the file.
    """

    run: np.ndarray
    camcol: np.ndarray
    field: np.ndarray
    sky: np.ndarray
    sky_nmgy: np.ndarray
    gain: np.ndarray
    dark_variance: np.ndarray
    nmgy_per_count: np.ndarray
    saturation_level: np.ndarray
    airmass: np.ndarray
    psf_width: np.ndarray
    psf_sigma1: np.ndarray
    psf_sigma2: np.ndarray
    psf_b: np.ndarray
    psf_p0: np.ndarray
    psf_beta: np.ndarray
    psf_sigmap: np.ndarray
    is_default: np.ndarray
    file: str

    def __len__(self):
        return len(self.field)

    def __repr__(self):
        return f'<PhotoField {len(self)} fields of {self.file!r}>'

    def row(self, field):
        """
        Find the row of a field.

        Parameters
        ----------
        field : int
            The number of the field.

        Returns
        -------
        row : int
            Its index in the arrays.

        Raises
        ------
        ValueError
            If there is no such field.
        """
        rows = np.flatnonzero(self.field == field)
        if len(rows) == 0:
            msg = (
                f'field {field} is not in {self.file!r}, which has the fields '
                f'{self.field.min()} to {self.field.max()}.'
            )
            raise ValueError(msg)
        return int(rows[0])


def read_tsfield(tsfield):
    """
    Read an SDSS ``tsField`` file.

    Parameters
    ----------
    tsfield : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file, plain or compressed.

    Returns
    -------
    tsfield : `TsField`
        The calibration of the field.

    Raises
    ------
    OSError
        If the file is absent, truncated, damaged, or not FITS.

    ValueError
        If it is FITS but not an SDSS ``tsField`` file.
    """
    needed = {'aa', 'kk', 'airmass', 'gain', 'dark_variance', 'sky', 'field'}
    with open_fits(tsfield, 'tsfield') as hdus:
        table = _table(hdus, needed, tsfield, 'tsfield', 'an SDSS tsField file')
        record = table[0]
        header = hdus[0].header
        values = {
            name: np.array(record[name], dtype=float)
            for name in ('aa', 'kk', 'airmass', 'gain', 'dark_variance', 'psf_width')
        }
        # The drift scan exposes each pixel for 2048 lines of C_OBS microseconds.
        exposure_time = 2048 * card_number(header, 'C_OBS', 26322.0) * 1e-6
        scale = _nmgy_per_count(
            values['aa'], values['kk'], values['airmass'], exposure_time
        )
        # The file gives the sky in maggies per square arcsec.
        sky = np.array(record['sky'], dtype=float) * 1e9 * PIXEL_SCALE**2 / scale
        return TsField(
            **field_numbers(header, tsfield, field=int(record['field'])),
            **values,
            sky=sky,
            saturation_level=np.array(record['saturation_level'], dtype=float),
            exposure_time=exposure_time,
            file=file_name(tsfield),
        )


def read_photofield(photofield):
    """
    Read an SDSS ``photoField`` file.

    Parameters
    ----------
    photofield : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file, plain or compressed.

    Returns
    -------
    photofield : `PhotoField`
        The parameters of its fields.

    Raises
    ------
    OSError
        If the file is absent, truncated, damaged, or not FITS.

    ValueError
        If it is FITS but not an SDSS ``photoField`` file, or has no rows.
    """
    shape = tuple(f'psf_{name}' for name in _SHAPE)
    plain = ('gain', 'dark_variance', 'saturation_level', 'airmass', *shape)
    needed = {name.upper() for name in plain}
    needed |= {'RUN', 'CAMCOL', 'FIELD', 'SKY', 'PIXSCALE', 'NMGYPERCOUNT'}
    with open_fits(photofield, 'photofield') as hdus:
        table = _table(
            hdus, needed, photofield, 'photofield', 'an SDSS photoField file'
        )
        values = {name: np.array(table[name.upper()], dtype=float) for name in plain}
        scale = np.array(table['NMGYPERCOUNT'], dtype=float)
        pixel = np.array(table['PIXSCALE'], dtype=float)
        sky_nmgy = np.array(table['SKY'], dtype=float) * pixel**2
        with np.errstate(divide='ignore', invalid='ignore'):
            sky = np.where(scale > 0, sky_nmgy / scale, np.nan)
        return PhotoField(
            run=np.array(table['RUN'], dtype=int),
            camcol=np.array(table['CAMCOL'], dtype=int),
            field=np.array(table['FIELD'], dtype=int),
            sky=sky,
            sky_nmgy=sky_nmgy,
            nmgy_per_count=scale,
            **values,
            is_default=default_psf_parameters(
                **{name: values[f'psf_{name}'] for name in _SHAPE}
            ),
            file=file_name(photofield),
        )


def _table(hdus, needed, source, parameter, expected):
    """
    Return the first table of a file after checking its columns and rows.
    """
    columns = getattr(hdus[1], 'columns', None) if len(hdus) > 1 else None
    if columns is None:
        raise wrong_type(source, parameter, expected, 'HDU 1 is not a table')
    missing = sorted(needed - set(columns.names))
    if missing:
        found = f'its table lacks {", ".join(missing[:3])}'
        raise wrong_type(source, parameter, expected, found)
    if len(hdus[1].data) == 0:
        raise wrong_type(source, parameter, f'{expected} with rows', 'it has none')
    return hdus[1].data


def _nmgy_per_count(aa, kk, airmass, exposure_time):
    """
    Return the flux of one count in nmgy.
    """
    return 1e9 * 10 ** (0.4 * (aa + kk * airmass)) / exposure_time
