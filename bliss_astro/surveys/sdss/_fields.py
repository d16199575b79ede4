# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Parameters of SDSS fields: tsField (calibration), photoField and psField (PSF) files.
"""

from typing import NamedTuple

import numpy as np

from bliss_astro._fits import card_number, file_name, open_fits, wrong_type
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._camera import (
    BANDS,
    Record,
    band_index,
    default_psf_parameters,
    field_numbers,
    read_columns,
)

# Columns of the analytic PSF in the files, and those that every file has.
PSF_COLUMNS = tuple(
    f'psf_{name}' for name in ('sigma1', 'sigma2', 'b', 'sigmap', 'p0', 'beta')
)
_CCD_COLUMNS = ('gain', 'dark_variance', 'psf_width')


class TsField(Record):
    """
    Photometric calibration of one field of DR7 and before.

    All arrays have shape (5,), in the order u, g, r, i, z.

    Attributes
    ----------
    run, camcol, field, file : int, int, int, str
        The field, and the name of the file.

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
    """

    @property
    def nmgy_per_count(self):
        """Flux of one count in nmgy, shape (5,)."""
        # Magnitude 0, of which c counts in t seconds are the share c / t times
        # 10**(0.4 (aa + kk airmass)), is 1e9 nmgy.
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
        OSError, ValueError
            If the file is absent, damaged, or no SDSS ``tsField`` file.
        """
        others = ('aa', 'kk', 'airmass', 'saturation_level', 'sky', 'field')
        names = (*_CCD_COLUMNS, *others)
        with open_fits(tsfield, 'tsfield') as hdus:
            header = hdus[0].header
            columns = read_columns(hdus, 1, names, tsfield, 'tsField')
            values = {name: column[0] for name, column in columns.items()}
            field = cls(
                **field_numbers(header, tsfield, field=int(values.pop('field'))),
                **values,
                # Each pixel is exposed for 2048 lines of C_OBS microseconds.
                exposure_time=2048 * card_number(header, 'C_OBS', 26322.0) * 1e-6,
                file=file_name(tsfield),
            )
        # The file has the sky in maggies per square arcsec.
        sky = field.sky * 1e9 * SDSS_PIXEL_SCALE**2 / field.nmgy_per_count
        return field.replace(sky=sky)


class PhotoField(Record):
    """
    Parameters of many fields, one row per field.

    The arrays of parameters have shape (n, 5), with the bands in the order
    u, g, r, i, z; the others have shape (n,).

    Attributes
    ----------
    run, camcol, field, file : int `~numpy.ndarray`, and str
        The fields, and the name of the file.

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
    """

    def __len__(self):
        return len(self.field)

    def __repr__(self):
        return f'<PhotoField {len(self)} fields of {self.file!r}>'

    def row(self, field):
        """
        Return the index in the arrays of the field of a number.

        Parameters
        ----------
        field : int
            Number of the field; an unknown one is a `ValueError`.

        Returns
        -------
        row : int
            Index.
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
        OSError, ValueError
            If the file is absent, damaged, or no SDSS ``photoField`` file.
        """
        plain = (*_CCD_COLUMNS, 'saturation_level', 'airmass', *PSF_COLUMNS)
        numbers = ('run', 'camcol', 'field')
        others = ('sky', 'pixscale', 'nmgypercount')
        names = (*plain, *numbers, *others)
        with open_fits(photofield, 'photofield') as hdus:
            values = read_columns(hdus, 1, names, photofield, 'photoField')
            sky_nmgy = values.pop('sky') * values.pop('pixscale') ** 2
            scale = values.pop('nmgypercount')
            with np.errstate(divide='ignore', invalid='ignore'):
                sky = np.where(scale > 0, sky_nmgy / scale, np.nan)
            return cls(
                **{name: values.pop(name).astype(int) for name in numbers},
                **values,
                sky=sky,
                sky_nmgy=sky_nmgy,
                nmgy_per_count=scale,
                is_default=default_psf_parameters(values),
                file=file_name(photofield),
            )


class _KLBasis(NamedTuple):
    """Karhunen-Loeve decomposition of the PSF of one band, see ``SDSSPSF``."""

    rrows: np.ndarray
    coeff: list


class PsField(Record):
    """
    The PSF and the image parameters of one SDSS field in five bands.

    All arrays have shape (5,), in the order u, g, r, i, z.

    Attributes
    ----------
    run, camcol, field, file : int, int, int, str
        The field, -1 where the file does not state it, and the name of the file.

    kl : dict of str to tuple
        Eigen-images ``rrows`` (n, 51, 51) of the PSF, and polynomials ``coeff`` of
        their coefficients, by band. A band without eigen-images is not in it.

    sky : float `~numpy.ndarray`
        Sky, counts per pixel; not reliable in crowded fields.

    gain, dark_variance : float `~numpy.ndarray`
        Electrons per count, and variance of a pixel without light, counts squared.

    psf_width : float `~numpy.ndarray`
        Effective FWHM of the PSF at the field's centre, arcsec.

    psf_sigma1, psf_sigma2, psf_b, psf_p0, psf_beta, psf_sigmap : `~numpy.ndarray`
        The analytic PSF (two Gaussians and a power law), lengths in pixels.

    status : int `~numpy.ndarray`
        Status of the PSF by band, 0 = all right; ``psp_status`` is the worst of them.

    is_default : bool `~numpy.ndarray`
        Where the analytic parameters are placeholders instead of a fit.
    """

    def __repr__(self):
        widths = ' '.join(
            f'{band} {width:.2f}"'
            for band, width in zip(BANDS, self.psf_width, strict=True)
        )
        return f'<{self._title}, FWHM {widths}>'

    def basis(self, band):
        """
        Return the decomposition of one band.

        Parameters
        ----------
        band : {'u', 'g', 'r', 'i', 'z'} or int
            Band; one without a PSF is a `ValueError`.

        Returns
        -------
        basis : tuple
            Eigen-images ``rrows`` and coefficients ``coeff``, as in ``kl``.
        """
        index = band_index(band)
        if BANDS[index] not in self.kl:
            msg = (
                f'{self.file!r} has no PSF in band {BANDS[index]!r} (status '
                f'{self.status[index]}); it has {", ".join(self.kl) or "none"}.'
            )
            raise ValueError(msg)
        return self.kl[BANDS[index]]

    @classmethod
    def read(cls, psfield):
        """
        Read an SDSS ``psField`` file.

        Parameters
        ----------
        psfield : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
            The file, plain or compressed.

        Returns
        -------
        psfield : `PsField`
            The PSF and the image parameters of the field in five bands.

        Raises
        ------
        OSError, ValueError
            If the file is absent, damaged, or no SDSS ``psField`` file.
        """
        whole = ('status', 'psp_status', 'field')
        names = ('sky', *_CCD_COLUMNS, *PSF_COLUMNS, *whole)
        with open_fits(psfield, 'psfield') as hdus:
            columns = read_columns(hdus, 6, names, psfield, 'psField')
            values = {name: column[0] for name, column in columns.items()}
            status, worst, field = (values.pop(name).astype(int) for name in whole)
            bases = {
                band: _read_basis(hdu.data, psfield, band)
                for band, hdu in zip(BANDS, hdus[1:6], strict=True)
            }
            return cls(
                **field_numbers(hdus[0].header, psfield, field=field),
                **values,
                kl={band: basis for band, basis in bases.items() if basis is not None},
                status=status,
                psp_status=int(worst),
                is_default=default_psf_parameters(values),
                file=file_name(psfield),
            )


def _read_basis(table, source, band):
    """Read one band's eigen-images and coefficients, or return `None`."""
    if table is None or len(table) == 0:
        return None
    try:
        sizes = zip(table['RROWS'], table['RNROW'], table['RNCOL'], strict=True)
        images = np.array(
            [np.asarray(row, dtype=float).reshape(n, m) for row, n, m in sizes]
        )
        # The file stores a 5 x 5 block, of which the leading part is used.
        blocks = zip(table['c'], table['nrow_b'], table['ncol_b'], strict=True)
        coeff = [
            np.array(block, dtype=float).reshape(5, 5)[: int(n), : int(m)].copy()
            for block, n, m in blocks
        ]
    except (KeyError, ValueError) as error:
        raise wrong_type(
            source, 'psfield', 'a sound SDSS psField file', f'band {band}: {error}'
        ) from error
    if not images.any() or not np.isfinite(images).all():
        return None
    return _KLBasis(images, coeff)
