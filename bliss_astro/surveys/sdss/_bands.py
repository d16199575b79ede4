# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The bands of SDSS, and the order in which its files hold them.
"""

import numpy as np

__all__ = ['BANDS', 'PIXEL_SCALE', 'band_index', 'default_psf_parameters']

BANDS = ('u', 'g', 'r', 'i', 'z')
"""The bands, in the order of every array of five in an SDSS file."""

PIXEL_SCALE = 0.396
"""Side of a pixel of the SDSS imaging camera, in arcsec."""


def band_index(band):
    """
    Return the place of a band in SDSS's arrays of five.

    Parameters
    ----------
    band : {'u', 'g', 'r', 'i', 'z'} or int
        The band, by letter (of either case) or by index.

    Returns
    -------
    index : int
        0 to 4.

    Raises
    ------
    ValueError
        If there is no such band.

    Examples
    --------
    >>> from bliss_astro.surveys.sdss import band_index
    >>> band_index('r')
    2
    """
    if isinstance(band, str) and band.strip().lower() in BANDS:
        return BANDS.index(band.strip().lower())
    if (
        isinstance(band, (int, np.integer))
        and not isinstance(band, bool)
        and 0 <= band < len(BANDS)
    ):
        return int(band)
    msg = f'band must be one of {", ".join(BANDS)} (or 0 to 4); got {band!r}.'
    raise ValueError(msg)


def default_psf_parameters(*, width, sigma1, sigma2, b, p0, beta, sigmap):
    """
    Tell fitted PSF parameters from the placeholders that SDSS writes.

    Where a field has too few stars for the wings of its PSF, the survey's
    files carry limits or starting values of the fit instead: an exponent of
    exactly 3 with a ``sigmap`` of exactly 5 pixels, an exponent at its limit
    of 10, or a second Gaussian brighter than the first.

    Parameters
    ----------
    width, sigma1, sigma2, b, p0, beta, sigmap : `~numpy.ndarray`
        The columns of the same names, of any common shape.

    Returns
    -------
    is_default : bool `~numpy.ndarray`
        `True` where the parameters do not describe a PSF that was measured.
    """
    everything = np.stack([width, sigma1, sigma2, b, p0, beta, sigmap]).astype(float)
    with np.errstate(invalid='ignore'):
        unusable = ~np.isfinite(everything).all(axis=0)
        unusable |= (everything[[0, 1, 2, 5, 6]] <= 0).any(axis=0)
        unusable |= (everything[[3, 4]] < 0).any(axis=0)
        placeholder = (np.asarray(beta) == 3) & (np.asarray(sigmap) == 5)
        at_limit = (np.asarray(beta) >= 10) | (np.asarray(b) > 1)
    return unusable | placeholder | at_limit
