# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the bits of the flags column.
"""

import numpy as np
import pytest

from bliss_astro.flags import CatalogFlag, decode_flags


def test_bits_are_the_documented_ones():
    """
    Files hold the numbers, so they never change.
    """
    assert {flag.name: flag.value for flag in CatalogFlag} == {
        'NEAR_MASKED': 1,
        'NEAR_EDGE': 2,
        'SATURATED': 4,
        'PSF_OUT_OF_DOMAIN': 8,
        'DENSITY_OUT_OF_DOMAIN': 16,
        'NOISE_OUT_OF_DOMAIN': 32,
        'PADDED': 64,
        'BLENDED': 128,
        'FULL_TILE': 256,
        'COSMIC_RAY': 512,
        'MISSING_BAND': 1024,
        'RESAMPLED_BAND': 2048,
    }


def test_decode_one():
    assert decode_flags(0) == []
    assert decode_flags(1) == ['near_masked']
    assert decode_flags(CatalogFlag.PADDED | CatalogFlag.SATURATED) == [
        'saturated',
        'padded',
    ]
    assert decode_flags(np.int32(128)) == ['blended']
    assert decode_flags(384) == ['blended', 'full_tile']
    assert decode_flags(3072) == ['missing_band', 'resampled_band']
    assert len(decode_flags(4095)) == 12


def test_bits_of_a_later_version_are_named_too():
    assert decode_flags(4096 + 2) == ['near_edge', 'bit_4096']


def test_bad_values():
    for value in (1.5, [0, 4], None):
        with pytest.raises(TypeError, match='must be one integer'):
            decode_flags(value)
    with pytest.raises(ValueError, match='must not be negative'):
        decode_flags(-1)
