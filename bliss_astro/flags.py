# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Flags: bits of the ``flags`` column of a catalogue and their decoder.
"""

import enum
import operator

from bliss_astro._arguments import must, require

__all__ = ['CatalogFlag', 'decode_flags']


class CatalogFlag(enum.IntFlag):
    """
    Bits of the ``flags`` column of a `~bliss_astro.catalog.ProbabilisticCatalog`.

    A row's flags are a sum of these; 0 means that nothing is known against it.
    """

    NEAR_MASKED = 1
    """A masked pixel lies within 2 pixels of the position."""

    NEAR_EDGE = 2
    """The position is within one tile of the border of the image."""

    SATURATED = 4
    """A saturated core is near."""

    PSF_OUT_OF_DOMAIN = 8
    """The PSF there is broader or narrower than the encoder was trained on."""

    DENSITY_OUT_OF_DOMAIN = 16
    """The field is denser than the encoder was trained on."""

    NOISE_OUT_OF_DOMAIN = 32
    """The noise there is outside what the encoder was trained on."""

    PADDED = 64
    """The tile lies partly outside the image."""

    BLENDED = 128
    """Another detection lies within 1.5 FWHM."""

    FULL_TILE = 256
    """
    The tile holds as many sources as the encoder can put there (2 in 4 x 4
    pixels, say), so there may be more, whose light the row may have. Never
    set for encoders of one source a tile.
    """

    COSMIC_RAY = 512
    """
    Pixels sharper than the PSF (a cosmic ray, a hot pixel) lie within 2 pixels
    of the position; they were masked.
    """

    MISSING_BAND = 1024
    """
    A band is missing there: the flux in it is predicted from the others by the
    prior of colours.
    """

    RESAMPLED_BAND = 2048
    """
    A band was resampled onto the pixels of the reference band; of all rows of such
    an image.
    """


def decode_flags(value):
    """
    Name the bits of a ``flags`` value.

    Parameters
    ----------
    value : int
        One value of the ``flags`` column. For all rows see
        `ProbabilisticCatalog.decode_flags
        <bliss_astro.catalog.ProbabilisticCatalog.decode_flags>`.

    Returns
    -------
    names : list of str
        The names of the bits that are set, in lower case and from the lowest
        bit up. An unknown bit is called ``'bit_<value>'``.

    Raises
    ------
    TypeError
        If ``value`` is not one integer.

    ValueError
        If ``value`` is negative.

    Examples
    --------
    >>> from bliss_astro import decode_flags
    >>> decode_flags(130)
    ['near_edge', 'blended']
    """
    try:
        value = operator.index(value)
    except TypeError:
        text = must('value', 'be one integer', f'{value!r:.60}')
        hint = 'catalog.decode_flags() names the flags of all rows.'
        raise TypeError(f'{text} {hint}') from None
    require(value >= 0, 'value', 'not be negative', value)
    known = {flag.value: flag.name.lower() for flag in CatalogFlag}
    bits = (1 << place for place in range(value.bit_length()) if value >> place & 1)
    return [known.get(bit, f'bit_{bit}') for bit in bits]
