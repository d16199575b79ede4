# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fixtures for all tests of checks.
"""

import pytest

from bliss_astro.encoders import Encoder


@pytest.fixture(scope='session')
def encoder():
    """
    The bundled encoder of stars, loaded once.
    """
    return Encoder.from_pretrained('stars')


@pytest.fixture(scope='session')
def default_encoder():
    """
    The bundled encoder of stars and galaxies, loaded once.
    """
    return Encoder.from_pretrained()
