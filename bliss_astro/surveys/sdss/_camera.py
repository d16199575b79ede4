# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The SDSS imaging camera: bands, gain and dark variance of its CCDs, field numbers.
"""

import re
from pathlib import Path

import numpy as np

from bliss_astro._fits import card_number, file_name

__all__ = []

BANDS = ('u', 'g', 'r', 'i', 'z')
"""The bands, in the order of every array of five in an SDSS file."""

FRAME_SHAPE = (1489, 2048)
"""Rows and columns of a frame."""

# frame-r-001000-1-0100, fpC-001000-r1-0100, tsField-001000-1-40-0100 and others.
_FILE_NAME = re.compile(
    r'-(?:(?P<band>[ugriz])-)?(?P<run>\d{6})-(?P<band_too>[ugriz]?)(?P<camcol>[1-6])'
    r'(?:-\d{1,3})?-(?P<field>\d{4})\b'
)

# Electrons per count, by camera column 1 to 6 and band u g r i z. Two CCDs
# changed their amplifiers during the survey; these are the values after that.
_GAIN = (
    (1.62, 3.32, 4.71, 5.165, 4.745),
    (1.825, 3.855, 4.6, 5.195, 5.155),
    (1.59, 3.845, 4.72, 4.86, 4.885),
    (1.6, 3.995, 4.76, 4.885, 4.775),
    (1.47, 4.05, 4.725, 4.64, 3.48),
    (2.17, 4.035, 4.895, 4.76, 4.69),
)
# (camcol, band): (last run of the old value, old value)
_OLD_GAIN = {(2, 'u'): (1100, 1.595), (2, 'i'): (1500, 6.565)}

# Variance of a pixel without light, counts squared (dark current, read noise).
_DARK_VARIANCE = (
    (9.61, 15.6025, 1.8225, 7.84, 0.81),
    (12.6025, 1.44, 1.0, 6.25, 1.0),
    (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    (12.6025, 1.96, 1.3225, 7.5625, 12.6025),
    (9.3025, 1.1025, 0.81, 7.84, 2.1025),
    (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
)
_OLD_DARK_VARIANCE = {
    (2, 'i'): (1500, 5.76),
    (4, 'i'): (1500, 6.25),
    (4, 'z'): (1500, 9.61),
    (5, 'z'): (1500, 1.8225),
}


def camera_gain(camcol, band, *, run=None):
    """
    Return the published gain of a CCD of the SDSS camera.

    Parameters
    ----------
    camcol : int
        Camera column, 1 to 6.

    band : {'u', 'g', 'r', 'i', 'z'} or int
        The band.

    run : int, optional
        The imaging run; two CCDs changed early in the survey. Without it the
        later value is taken.

    Returns
    -------
    gain : float
        Electrons per count, the mean of the CCD's two amplifiers.

    Raises
    ------
    ValueError
        If there is no such CCD.

    References
    ----------
    SDSS data model, page of the ``frame`` files, table of gains.

    Examples
    --------
    >>> from bliss_astro.surveys.sdss import camera_gain
    >>> camera_gain(1, 'r')
    4.71
    """
    return _look_up(_GAIN, _OLD_GAIN, camcol, band, run)


def camera_dark_variance(camcol, band, *, run=None):
    """
    Return the published dark variance of a CCD of the SDSS camera.

    Parameters
    ----------
    camcol : int
        Camera column, 1 to 6.

    band : {'u', 'g', 'r', 'i', 'z'} or int
        The band.

    run : int, optional
        The imaging run; four CCDs changed early in the survey. Without it
        the later value is taken.

    Returns
    -------
    dark_variance : float
        Variance of a pixel without light (dark current and read noise), in
        counts squared.

    Raises
    ------
    ValueError
        If there is no such CCD.

    References
    ----------
    SDSS data model, page of the ``frame`` files, table of dark variances.

    Notes
    -----
    The ``psField`` files of some DR7 reductions keep the early values for
    camera column 4 also in later runs. Numbers of a field's own file come
    first wherever this package has one.

    Examples
    --------
    >>> from bliss_astro.surveys.sdss import camera_dark_variance
    >>> camera_dark_variance(1, 'r')
    1.8225
    """
    return _look_up(_DARK_VARIANCE, _OLD_DARK_VARIANCE, camcol, band, run)


def _look_up(table, old, camcol, band, run):
    """Take one CCD's number from a table with early exceptions."""
    if isinstance(camcol, bool) or camcol not in range(1, 7):
        msg = f'camcol must be an integer from 1 to 6; got {camcol!r}.'
        raise ValueError(msg)
    index = band_index(band)
    last_run, value = old.get((int(camcol), BANDS[index]), (-1, None))
    if run is not None and run <= last_run:
        return value
    return table[int(camcol) - 1][index]


def band_index(band):
    """Return the place of a band (letter or index) in SDSS's arrays of five."""
    if isinstance(band, str) and band.strip().lower() in BANDS:
        return BANDS.index(band.strip().lower())
    whole = isinstance(band, (int, np.integer)) and not isinstance(band, bool)
    if whole and 0 <= band < len(BANDS):
        return int(band)
    msg = f'band must be one of {", ".join(BANDS)} (or 0 to 4); got {band!r}.'
    raise ValueError(msg)


def default_psf_parameters(record):
    """
    Tell the placeholders that SDSS writes from fitted PSF parameters.

    Where a field has too few stars for the wings of its PSF, the survey's files carry
    limits or starting values of the fit instead: an exponent of exactly 3 with a
    ``sigmap`` of exactly 5 pixels, an exponent at its limit of 10, or a second Gaussian
    brighter than the first.

    Parameters
    ----------
    record : dict of `~numpy.ndarray`
        Columns ``psf_width``, ``psf_sigma1`` and so on, of one common shape.

    Returns
    -------
    is_default : bool `~numpy.ndarray`
        `True` where the parameters describe no PSF that was measured.
    """
    positive = [
        record[f'psf_{n}'] for n in ('width', 'sigma1', 'sigma2', 'beta', 'sigmap')
    ]
    heights = [record['psf_b'], record['psf_p0']]
    beta, b = record['psf_beta'], record['psf_b']
    with np.errstate(invalid='ignore'):
        unusable = ~np.isfinite(np.stack(positive + heights)).all(axis=0)
        unusable |= (np.stack(positive) <= 0).any(axis=0)
        unusable |= (np.stack(heights) < 0).any(axis=0)
        placeholder = (beta == 3) & (record['psf_sigmap'] == 5)
        return unusable | placeholder | (beta >= 10) | (b > 1)


def field_numbers(header, source, *, field=None):
    """
    Return run, camcol and field of a file, of which no pixel depends on any.

    They come from the header, else from the name of the file; -1 where neither has
    them. ``field`` is the number of the field where it stands elsewhere in the file.
    """
    named = _FILE_NAME.search(Path(file_name(source)).name)
    numbers = {}
    for name in ('run', 'camcol', 'field'):
        value = card_number(header, name.upper())
        if name == 'field' and value is None:
            value = field
        if value is None:
            value = -1 if named is None else named[name]
        numbers[name] = int(value)
    return numbers


def name_band(source):
    """Return the band's letter in the name of a file, or an empty string."""
    named = _FILE_NAME.search(Path(file_name(source)).name)
    return '' if named is None else named['band'] or named['band_too'] or ''
