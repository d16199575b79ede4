# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Warnings of the package.

All of them subclass `~astropy.utils.exceptions.AstropyUserWarning`, so that
the filters that astronomers already have catch them.
"""

from astropy.utils.exceptions import AstropyUserWarning

__all__ = ['NoDetectionsWarning', 'OutOfDomainWarning', 'PosteriorDroppedWarning']


class OutOfDomainWarning(AstropyUserWarning):
    """
    An image lies outside the range that its encoder was trained on.

    The measurement is still made, and the rows concerned carry a flag, but
    nothing vouches for its probabilities or errors.
    """


class NoDetectionsWarning(AstropyUserWarning):
    """
    No source passed the threshold, so the catalogue has no rows.
    """


class PosteriorDroppedWarning(AstropyUserWarning):
    """
    An operation or a file format could not keep the posterior of a catalogue.

    The rows and their columns are unharmed; whatever needs the joint
    posterior (samples, expected counts) is no longer available.
    """
