# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Small SDSS files in their true formats.
"""

import importlib.util
import sys
from pathlib import Path

import pytest


def _load_helper():
    """
    Import the module that writes the files, which is on no path.
    """
    name = 'bliss_astro_tests_sdss_files'
    if name not in sys.modules:
        path = Path(__file__).parents[1] / 'surveys' / 'sdss_files.py'
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def sdss_files():
    """
    Give the module with the writers and the numbers that they write.
    """
    return _load_helper()


@pytest.fixture
def sdss_field(sdss_files, tmp_path):
    """
    Give the writer of a small field into a temporary folder.
    """
    return sdss_files.Field(tmp_path)
