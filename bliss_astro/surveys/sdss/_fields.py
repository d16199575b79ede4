# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calibration and image parameters of SDSS fields: tsField and photoField files.
"""

import dataclasses
import os

import numpy as np

from bliss_astro._fits import card_number, file_name, open_fits, wrong_type
from bliss_astro.priors import FieldPrior, FieldTable
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._camera import band_index, default_psf_parameters, field_numbers

__all__ = []

# Columns of the analytic PSF in the files, and those that every file has.
PSF_COLUMNS = tuple(
    f'psf_{name}' for name in ('sigma1', 'sigma2', 'b', 'sigmap', 'p0', 'beta')
)
CCD_COLUMNS = ('gain', 'dark_variance', 'psf_width')
# sigma1 of a PSF in pixels; fits of narrower or wider ones failed.
_CORE_RANGE = (0.5, 6.0)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FieldRecord:
    """Numbers of one field, or of one field a row, that all files have."""

    run: int
    camcol: int
    field: int
    sky: np.ndarray
    gain: np.ndarray
    dark_variance: np.ndarray
    psf_width: np.ndarray
    file: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PSFRecord(FieldRecord):
    """Numbers of fields with the analytic PSF."""

    psf_sigma1: np.ndarray
    psf_sigma2: np.ndarray
    psf_b: np.ndarray
    psf_sigmap: np.ndarray
    psf_p0: np.ndarray
    psf_beta: np.ndarray
    is_default: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TsField(FieldRecord):
    """
    Photometric calibration of one field of DR7 and before.

    All arrays have shape (5,), in the order of `BANDS`.

    Attributes
    ----------
    run, camcol, field : int
        The field.

    aa, kk, airmass : float `~numpy.ndarray`
        Zero point (mag), extinction (mag per airmass) and airmass.

    gain, dark_variance : float `~numpy.ndarray`
        Electrons per count, and variance of a pixel without light, counts squared.

    sky, saturation_level : float `~numpy.ndarray`
        Sky, and level at which a pixel saturates, sky included, counts.

    psf_width : float `~numpy.ndarray`
        Effective FWHM of the PSF, arcsec.

    exposure_time : float
        Seconds.

    file : str
        The name of the file.
    """

    aa: np.ndarray
    kk: np.ndarray
    airmass: np.ndarray
    saturation_level: np.ndarray
    exposure_time: float

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
        zero_point = self.aa + self.kk * self.airmass
        return 1e9 * 10 ** (0.4 * zero_point) / self.exposure_time

    @classmethod
    def read(cls, tsfield):
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
        names = (
            'aa',
            'kk',
            'airmass',
            *CCD_COLUMNS,
            'saturation_level',
            'sky',
            'field',
        )
        with open_fits(tsfield, 'tsfield') as hdus:
            table = read_table(hdus, 1, names, tsfield, 'tsfield', 'tsField')
            header, record = hdus[0].header, table[0]
            values = {name: np.array(record[name], dtype=float) for name in names}
            field = cls(
                **field_numbers(header, tsfield, field=int(values.pop('field'))),
                **values,
                # Each pixel is exposed for 2048 lines of C_OBS microseconds.
                exposure_time=2048 * card_number(header, 'C_OBS', 26322.0) * 1e-6,
                file=file_name(tsfield),
            )
        # The file has the sky in maggies per square arcsec.
        sky = field.sky * 1e9 * SDSS_PIXEL_SCALE**2 / field.nmgy_per_count
        return dataclasses.replace(field, sky=sky)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PhotoField(PSFRecord):
    """
    Parameters of many fields, one row per field.

    The arrays of parameters have shape (n, 5), with the bands in the order of
    `BANDS`; the others have shape (n,).

    Attributes
    ----------
    run, camcol, field : int `~numpy.ndarray`
        The fields.

    sky, sky_nmgy : float `~numpy.ndarray`
        Sky per pixel in counts and in nmgy.

    gain, dark_variance : float `~numpy.ndarray`
        Electrons per count, and variance of a pixel without light, counts squared.

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

    sky_nmgy: np.ndarray
    nmgy_per_count: np.ndarray
    saturation_level: np.ndarray
    airmass: np.ndarray

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

    @classmethod
    def read(cls, photofield):
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
        plain = (*CCD_COLUMNS, 'saturation_level', 'airmass', *PSF_COLUMNS)
        numbers = ('run', 'camcol', 'field')
        others = ('sky', 'pixscale', 'nmgypercount')
        needed = [name.upper() for name in (*plain, *numbers, *others)]
        with open_fits(photofield, 'photofield') as hdus:
            table = read_table(hdus, 1, needed, photofield, 'photofield', 'photoField')
            values = {
                name: np.array(table[name.upper()], dtype=float)
                for name in (*plain, *others)
            }
            sky_nmgy = values.pop('sky') * values.pop('pixscale') ** 2
            scale = values.pop('nmgypercount')
            with np.errstate(divide='ignore', invalid='ignore'):
                sky = np.where(scale > 0, sky_nmgy / scale, np.nan)
            return cls(
                **{name: np.array(table[name.upper()], dtype=int) for name in numbers},
                **values,
                sky=sky,
                sky_nmgy=sky_nmgy,
                nmgy_per_count=scale,
                is_default=default_psf_parameters(values),
                file=file_name(photofield),
            )


def read_table(hdus, number, needed, source, parameter, kind):
    """Return the table of an HDU after checking its columns and rows."""
    expected = f'an SDSS {kind} file'
    columns = getattr(hdus[number], 'columns', None) if len(hdus) > number else None
    if columns is None:
        found = f'HDU {number} is not a table'
        raise wrong_type(source, parameter, expected, found)
    missing = sorted(set(needed) - set(columns.names))
    if missing:
        found = f'its table lacks {", ".join(missing[:3])}'
        raise wrong_type(source, parameter, expected, found)
    if len(hdus[number].data) == 0:
        raise wrong_type(source, parameter, f'{expected} with rows', 'it has none')
    return hdus[number].data


def field_prior(paths, band, *, ellipticity=None):
    """Make the prior of good fields; see `FieldPrior.from_photofield`."""
    index = band_index(band)
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    parts = [_good_fields(PhotoField.read(path), index, band) for path in paths]
    if sum(len(part) for part in parts) == 0:
        names = ', '.join(str(path) for path in paths) or 'no file at all'
        msg = (
            f'paths must hold at least one good field in band {band!r} (a measured '
            f'PSF, and positive sky and calibration); there is none in {names}'
        )
        raise ValueError(msg)
    rows = np.concatenate(parts)
    return FieldPrior(FieldTable(rows[:, :8], *rows[:, 8:].T), ellipticity)


def _good_fields(fields, index, band):
    """Rows (n, 11) of a `FieldTable` of the good fields of one file."""
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
    return rows[good & np.isfinite(rows).all(-1)]
