# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The SDSS imaging camera: gain and dark variance of its thirty CCDs.
"""

from ._bands import band_index

__all__ = ['camera_dark_variance', 'camera_gain']

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
    camera column 4 also in later runs. What a field's own file says comes
    first wherever this package has one.

    Examples
    --------
    >>> from bliss_astro.surveys.sdss import camera_dark_variance
    >>> camera_dark_variance(1, 'r')
    1.8225
    """
    return _look_up(_DARK_VARIANCE, _OLD_DARK_VARIANCE, camcol, band, run)


def _look_up(table, old, camcol, band, run):
    """
    Take one CCD's number from a table with early exceptions.
    """
    if isinstance(camcol, bool) or camcol not in range(1, 7):
        msg = f'camcol must be an integer from 1 to 6; got {camcol!r}.'
        raise ValueError(msg)
    index = band_index(band)
    last_run, value = old.get((int(camcol), 'ugriz'[index]), (-1, None))
    if run is not None and run <= last_run:
        return value
    return table[int(camcol) - 1][index]
