# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Types of the options of the commands: numbers within limits, shapes, edges of bins.
"""

import argparse
import math

import numpy as np


def _number(kind, allowed, condition, words=()):
    """Make the type of an argument: a number that meets a condition, or a word."""

    def parse(text):
        if text in words:
            return text
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not condition(value):
            raise argparse.ArgumentTypeError(f'{text!r} is not {allowed}')
        return value

    return parse


positive_int = _number(int, 'a positive whole number', lambda v: v > 0)
seed = _number(int, 'a whole number, 0 or more', lambda v: v >= 0)
positive_float = _number(float, 'a positive number', lambda v: 0 < v < math.inf)
magnitude = _number(float, 'a magnitude', math.isfinite)
probability = _number(float, 'a probability between 0 and 1', lambda v: 0 < v < 1)
density = _number(
    float, 'a number of sources per pixel between 0 and 1', lambda v: 0 < v < 1
)
binning = _number(int, "a positive whole number or 'auto'", lambda v: v > 0, ['auto'])
_SKIES = ('header', 'measure')
background = _number(float, "'header', 'measure' or a number", math.isfinite, _SKIES)


def image_shape(text):
    """Parse ``NYxNX`` or one number for a square."""
    parts = text.lower().replace(',', 'x').split('x')
    sides = [int(part) if part.strip().isdigit() else 0 for part in parts]
    if len(sides) > 2 or min(sides) < 1:
        msg = f'{text!r} is not a shape such as 300x400 (rows x columns) or 300'
        raise argparse.ArgumentTypeError(msg)
    return sides[0], sides[-1]


def bin_edges(text):
    """Parse ``FROM:TO:STEP`` or edges separated by commas."""
    try:
        if ':' in text:
            first, last, step = map(float, text.split(':'))
            edges = np.arange(first, last + 0.5 * step, step)
        else:
            edges = np.array(list(map(float, text.split(','))))
    except (ValueError, ZeroDivisionError):
        edges = np.empty(0)
    if len(edges) < 2 or not np.all(np.diff(edges) > 0):
        msg = f'{text!r} is neither FROM:TO:STEP nor increasing edges such as 18,20,22'
        raise argparse.ArgumentTypeError(msg)
    return edges
