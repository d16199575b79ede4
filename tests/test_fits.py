# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the decompression of FITS files, block by block in threads.
"""

import bz2

import numpy as np
import pytest

from bliss_astro import _fits
from bliss_astro._threads import use_threads

ENDS_EARLY, IS_DAMAGED = 'ended before the end-of-stream', 'Invalid data stream'


@pytest.fixture(params=[1, 2])
def threads(request):
    with use_threads(request.param):
        yield request.param


@pytest.fixture
def noise(rng):
    """Bytes of several blocks of the smallest size."""
    return rng.integers(0, 30, size=1_000_000, dtype=np.uint8).tobytes()


def test_blocks(noise):
    content = bz2.compress(noise, 1)
    blocks = _fits._bz2_blocks(content)
    assert len(blocks) > 9
    parts = [_fits._decompress_block(content, block) for block in blocks]
    assert b''.join(parts) == noise


def test_streams(threads, noise):
    for content in (b'', b'a', b'abc' * 100_000, noise):
        for level in (1, 9):
            assert _fits._bunzip(bz2.compress(content, level)) == content
    two = bz2.compress(noise, 1) + bz2.compress(b'more')
    assert _fits._bunzip(two) == noise + b'more'


def test_damage(threads, noise):
    packed = bz2.compress(noise, 1)
    middle = len(packed) // 2
    for part in (packed[:-7], packed[:middle], packed[:6]):
        with pytest.raises(ValueError, match=ENDS_EARLY):
            _fits._bunzip(part)
    flipped = packed[:middle] + b'\0\0\0' + packed[middle + 3 :]
    with pytest.raises(OSError, match=IS_DAMAGED):
        _fits._bunzip(flipped)
    # The last four bytes are bits of the sum over all blocks.
    wrong = bytearray(packed)
    wrong[-3] ^= 1
    with pytest.raises(OSError, match=IS_DAMAGED):
        _fits._bunzip(bytes(wrong))
