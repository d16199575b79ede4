# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of what a person asks of a posterior.
"""

import numbers

import numpy as np

__all__ = ['check_count', 'check_threshold', 'own_exposure']


def check_threshold(threshold):
    """
    Check that a threshold is a probability.

    Parameters
    ----------
    threshold : float
        What was given.

    Returns
    -------
    threshold : float
        The same as a plain number.

    Raises
    ------
    TypeError
        If it is not a number.

    ValueError
        If it is not between 0 and 1.
    """
    hint = "photutils' detect_sources takes a brightness here, bliss_astro's does not"
    if isinstance(threshold, np.ndarray) and threshold.ndim == 0:
        threshold = threshold[()]
    if not isinstance(threshold, numbers.Real) or isinstance(threshold, bool):
        msg = (
            'threshold must be one number, a probability between 0 and 1, got '
            f'{threshold!r:.60}; {hint}'
        )
        raise TypeError(msg)
    if not 0 < threshold < 1:
        msg = (
            f'threshold must be a probability between 0 and 1, got {threshold}; {hint}'
        )
        raise ValueError(msg)
    return float(threshold)


def check_count(name, value):
    """
    Check that a value is a whole number, 0 or more.

    Parameters
    ----------
    name : str
        The parameter's name, for the message.

    value : int
        What was given.

    Returns
    -------
    value : int
        The same as a plain number.

    Raises
    ------
    ValueError
        If it is something else.
    """
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not whole or value < 0 or not float(value).is_integer():
        msg = f'{name} must be a whole number, 0 or more, got {value!r:.60}'
        raise ValueError(msg)
    return int(value)


def own_exposure(catalog, exposure, *, name='exposure'):
    """
    Settle which exposure a catalogue is compared with.

    Parameters
    ----------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        The catalogue.

    exposure : `~bliss_astro.exposures.Exposure` or None
        What was given.

    name : str, optional
        Name of the argument, for the message.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        That, or the one that the catalogue was made of.

    Raises
    ------
    ValueError
        If there is neither.
    """
    exposure = catalog.exposure if exposure is None else exposure
    if exposure is None:
        msg = (
            f'{name} must be given: the catalogue does not hold the image that it was '
            'made of (files do not keep it, nor do stacked tables)'
        )
        raise ValueError(msg)
    return exposure
