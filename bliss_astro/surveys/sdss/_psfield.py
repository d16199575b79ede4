# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSF and image parameters of one SDSS field (``psField`` files).
"""

import dataclasses

import numpy as np

from .._fits import file_name, open_fits, wrong_type
from ._bands import BANDS, band_index, default_psf_parameters
from ._numbers import field_numbers

__all__ = ['KLBasis', 'PsField', 'read_psfield']

_COLUMNS = (
    'sky',
    'gain',
    'dark_variance',
    'psf_width',
    'psf_sigma1',
    'psf_sigma2',
    'psf_b',
    'psf_p0',
    'psf_beta',
    'psf_sigmap',
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KLBasis:
    """
    Karhunen-Loeve decomposition of the PSF of one band.

    The PSF at (x, y) is the sum over the eigen-images k of
    ``rrows[k] * sum_ij coeff[k][i, j] * (0.001 row)**i * (0.001 col)**j``
    with SDSS's ``row = y + 0.5`` and ``col = x + 0.5``.

    Attributes
    ----------
    rrows : float `~numpy.ndarray`, shape (n, 51, 51)
        The eigen-images, not normalised.

    coeff : list of float `~numpy.ndarray`, shape (nrow_b[k], ncol_b[k])
        The polynomials' coefficients, in increasing powers of row and column.

    nrow_b, ncol_b : int `~numpy.ndarray`, shape (n,)
        The number of powers of each.
    """

    rrows: np.ndarray
    coeff: list
    nrow_b: np.ndarray
    ncol_b: np.ndarray

    def __repr__(self):
        n, ny, nx = self.rrows.shape
        return f'<KLBasis {n} eigen-images of {ny} x {nx} px>'


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PsField:
    """
    The PSF and the image parameters of one SDSS field in five bands.

    All arrays have shape (5,), in the order of `BANDS`.

    Attributes
    ----------
    run, camcol, field : int
        The field, -1 where the file does not say.

    kl : dict of str to `KLBasis`
        The PSF by band. A band without eigen-images is not in it.

    sky : float `~numpy.ndarray`
        Sky, counts per pixel. In crowded fields it is not to be trusted.

    gain : float `~numpy.ndarray`
        Electrons per count.

    dark_variance : float `~numpy.ndarray`
        Variance of a pixel without light, counts squared.

    psf_width : float `~numpy.ndarray`
        Effective FWHM of the PSF at the field's centre, arcsec.

    psf_sigma1, psf_sigma2, psf_b, psf_p0, psf_beta, psf_sigmap : `~numpy.ndarray`
        The analytic PSF (two Gaussians and a power law), lengths in pixels.

    status : int `~numpy.ndarray`
        Status of the PSF by band, 0 = all right.

    psp_status : int
        The worst of them.

    is_default : bool `~numpy.ndarray`
        Where the analytic parameters are placeholders instead of a fit.

    file : str
        The name of the file.
    """

    run: int
    camcol: int
    field: int
    kl: dict
    sky: np.ndarray
    gain: np.ndarray
    dark_variance: np.ndarray
    psf_width: np.ndarray
    psf_sigma1: np.ndarray
    psf_sigma2: np.ndarray
    psf_b: np.ndarray
    psf_p0: np.ndarray
    psf_beta: np.ndarray
    psf_sigmap: np.ndarray
    status: np.ndarray
    psp_status: int
    is_default: np.ndarray
    file: str

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
        basis : `KLBasis`
            Its eigen-images and coefficients.

        Raises
        ------
        ValueError
            If the file has no PSF in this band.
        """
        letter = BANDS[band_index(band)]
        if letter not in self.kl:
            msg = (
                f'{self.file!r} has no PSF in band {letter!r} '
                f'(status {self.status[band_index(band)]}); it has '
                f'{", ".join(self.kl) or "none"}.'
            )
            raise ValueError(msg)
        return self.kl[letter]


def read_psfield(psfield):
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
    with open_fits(psfield, 'psfield') as hdus:
        record = _parameter_row(hdus, psfield)
        values = {
            name: np.array(record[name], dtype=float).reshape(5) for name in _COLUMNS
        }
        kl = {}
        for index, band in enumerate(BANDS):
            basis = _read_basis(hdus[index + 1].data, psfield, band)
            if basis is not None:
                kl[band] = basis
        header = hdus[0].header
        shape = {
            name.removeprefix('psf_'): values[name]
            for name in _COLUMNS
            if name.startswith('psf_')
        }
        return PsField(
            **field_numbers(header, psfield, field=int(record['field'])),
            kl=kl,
            **values,
            status=np.array(record['status'], dtype=int),
            psp_status=int(record['psp_status']),
            is_default=default_psf_parameters(**shape),
            file=file_name(psfield),
        )


def _parameter_row(hdus, source):
    """
    Return the row of image parameters, checking the layout on the way.
    """
    columns = getattr(hdus[6], 'columns', None) if len(hdus) > 6 else None
    needed = {*_COLUMNS, 'status', 'psp_status', 'field'}
    if columns is None or not needed <= set(columns.names):
        missing = sorted(needed - set(columns.names)) if columns is not None else []
        found = (
            f'HDU 6 lacks {", ".join(missing[:3])}'
            if missing
            else f'it has {len(hdus)} HDUs instead of five PSFs and a table'
        )
        raise wrong_type(source, 'psfield', 'an SDSS psField file', found)
    if len(hdus[6].data) == 0:
        raise wrong_type(source, 'psfield', 'a filled SDSS psField file', 'no rows')
    return hdus[6].data[0]


def _read_basis(table, source, band):
    """
    Read one band's eigen-images and coefficients, or return `None`.
    """
    if table is None or len(table) == 0:
        return None
    try:
        sizes = list(zip(table['RNROW'], table['RNCOL'], strict=True))
        images = np.array(
            [
                np.asarray(row, dtype=float).reshape(size)
                for row, size in zip(table['RROWS'], sizes, strict=True)
            ]
        )
        nrow_b = np.array(table['nrow_b'], dtype=int)
        ncol_b = np.array(table['ncol_b'], dtype=int)
        # The file stores a 5 x 5 block, of which the leading part is used.
        coeff = [
            np.array(block, dtype=float).reshape(5, 5)[:n_row, :n_col].copy()
            for block, n_row, n_col in zip(table['c'], nrow_b, ncol_b, strict=True)
        ]
    except (KeyError, ValueError) as error:
        raise wrong_type(
            source, 'psfield', 'a sound SDSS psField file', f'band {band}: {error}'
        ) from error
    if not images.any() or not np.isfinite(images).all():
        return None
    return KLBasis(rrows=images, coeff=coeff, nrow_b=nrow_b, ncol_b=ncol_b)
