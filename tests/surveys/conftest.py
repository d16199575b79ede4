# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Small SDSS files in their true formats.
"""

import importlib.util
import sys
from pathlib import Path

import pytest


def _load_helper(stem):
    """
    Import a module beside this one, which is on no path.
    """
    name = f'bliss_astro_tests_{stem}'
    if name not in sys.modules:
        path = Path(__file__).with_name(f'{stem}.py')
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
    return _load_helper('sdss_files')


@pytest.fixture
def star_fields():
    """
    Give the module with images of a few stars of known magnitude.
    """
    return _load_helper('star_fields')


@pytest.fixture
def sdss_field(sdss_files, tmp_path):
    """
    Give the writer of a small field into a temporary folder.
    """
    return sdss_files.Field(tmp_path)
