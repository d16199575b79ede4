# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Arguments of catalogues and posteriors: thresholds and counts.
"""

import numbers

import numpy as np

__all__ = ['check_count', 'check_threshold']


def check_threshold(threshold):
    """Return a threshold as a plain number, if it is a probability between 0 and 1."""
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
    """Return a value as a plain number, if it is whole and 0 or more."""
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not whole or value < 0 or not float(value).is_integer():
        msg = f'{name} must be a whole number, 0 or more, got {value!r:.60}'
        raise ValueError(msg)
    return int(value)
