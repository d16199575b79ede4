# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Words of messages about values.
"""

import numpy as np


def first_wrong(values, sound):
    """
    Name the first value that is not sound.

    The text has the value; of an array its place as well, and the number of such
    values.
    """
    values, sound = np.broadcast_arrays(values, sound)
    wrong = np.argwhere(~sound)
    if values.ndim == 0 or not len(wrong):
        return str(values) if values.ndim == 0 else f'an array of {values.shape}'
    place = tuple(int(index) for index in wrong[0])
    where = ', '.join(map(str, place))
    count = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
    return f'{values[place]} at [{where}]{count}'


def counted(number, noun):
    """Say how many: 1 pixel, 2 pixels."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def two_digits(value):
    """Write a factor with two digits and without a power of ten: 0.77, 1.6, 160."""
    return np.format_float_positional(
        value, precision=2, fractional=False, unique=False, trim='-'
    )
