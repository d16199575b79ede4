# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fixtures for all tests of coadds.
"""

import pytest


@pytest.fixture
def few_realisations(monkeypatch):
    """
    Noise by as few realisations as asked for, in small images too.
    """
    monkeypatch.setattr('bliss_astro.coadds._noise._N_VALUES', 1)
