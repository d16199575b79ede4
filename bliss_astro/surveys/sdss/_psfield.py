# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSF and image parameters of one SDSS field: psField files.
"""

import dataclasses

import numpy as np

from bliss_astro._fits import file_name, open_fits, wrong_type

from ._camera import BANDS, band_index, default_psf_parameters, field_numbers
from ._fields import CCD_COLUMNS, PSF_COLUMNS, PSFRecord, read_table

__all__ = ['PsField']


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KLBasis:
    """
    Karhunen-Loeve decomposition of the PSF of one band.

    The PSF at (x, y) is the sum over the n eigen-images ``rrows[k]`` (51 x 51, not
    normalised) times ``sum_ij coeff[k][i, j] * (0.001 row)**i * (0.001 col)**j`` with
    SDSS's ``row = y + 0.5`` and ``col = x + 0.5``.
    """

    rrows: np.ndarray
    coeff: list

    def __repr__(self):
        n, ny, nx = self.rrows.shape
        return f'<KLBasis {n} eigen-images of {ny} x {nx} px>'


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PsField(PSFRecord):
    """
    The PSF and the image parameters of one SDSS field in five bands.

    All arrays have shape (5,), in the order of `BANDS`.

    Attributes
    ----------
    run, camcol, field : int
        The field, -1 where the file does not state it.

    kl : dict of str to record
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

    file : str
        The name of the file.
    """

    kl: dict
    status: np.ndarray
    psp_status: int

    def __repr__(self):
        widths = ' '.join(
            f'{band} {width:.2f}"'
            for band, width in zip(BANDS, self.psf_width, strict=True)
        )
        return f'<PsField {self.run}-{self.camcol}-{self.field}, FWHM {widths}>'

    def basis(self, band):
        """
        Return the decomposition of one band.

        Parameters
        ----------
        band : {'u', 'g', 'r', 'i', 'z'} or int
            The band.

        Returns
        -------
        basis : record
            Its eigen-images and coefficients, as in ``kl``.

        Raises
        ------
        ValueError
            If the file has no PSF in this band.
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
        OSError
            If the file is absent, truncated, damaged, or not FITS.

        ValueError
            If it is FITS but not an SDSS ``psField`` file.
        """
        names = ('sky', *CCD_COLUMNS, *PSF_COLUMNS)
        needed = (*names, 'status', 'psp_status', 'field')
        with open_fits(psfield, 'psfield') as hdus:
            record = read_table(hdus, 6, needed, psfield, 'psfield', 'psField')[0]
            values = {
                name: np.array(record[name], dtype=float).reshape(5) for name in names
            }
            bases = {
                band: _read_basis(hdu.data, psfield, band)
                for band, hdu in zip(BANDS, hdus[1:6], strict=True)
            }
            return cls(
                **field_numbers(hdus[0].header, psfield, field=int(record['field'])),
                **values,
                kl={band: basis for band, basis in bases.items() if basis is not None},
                status=np.array(record['status'], dtype=int),
                psp_status=int(record['psp_status']),
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
    return KLBasis(images, coeff)
