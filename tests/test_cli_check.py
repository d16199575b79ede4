# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of ``bliss-astro check`` and ``bliss-astro completeness``.
"""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bliss_astro.cli import main


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    """
    A simulated field of stars on disk.
    """
    path = tmp_path_factory.mktemp('check') / 'field.fits'
    arguments = ['simulate', '--shape', '96x112', '--density', '0.001', '--seed', '4']
    assert main([*arguments, '-o', str(path), '--quiet']) in (0, None)
    return str(path)


def test_check_says_that_all_is_well(image, tmp_path, capsys):
    table, picture = tmp_path / 'tests.ecsv', tmp_path / 'check.png'
    arguments = ['check', image, '--encoder', 'stars', '--seed', '1']
    assert main([*arguments, '-o', str(table), '--plot', str(picture)]) in (0, None)
    assert capsys.readouterr().out.strip()
    assert len(Table.read(table)) > 3
    assert picture.stat().st_size > 10000
    # Existing files are kept.
    assert main([*arguments, '-o', str(table)]) not in (0, None)


def test_check_finds_a_wrong_background(image, tmp_path, capsys):
    # Half a sigma of sky that the file does not know of.
    other = tmp_path / 'other.fits'
    with fits.open(image) as file:
        hdu = next(h for h in file if h.data is not None and h.data.ndim == 2)
        hdu.data = hdu.data + 15
        file.writeto(other)
    main(['check', str(other), '--encoder', 'stars', '--seed', '1'])
    assert 'background' in capsys.readouterr().out


def test_completeness_falls_with_magnitude(image, tmp_path):
    path = tmp_path / 'completeness.ecsv'
    arguments = ['completeness', image, '--encoder', 'stars', '-n', '16']
    done = main([*arguments, '--types', 'star', '--seed', '2', '-o', str(path)])
    assert done in (0, None)
    table = Table.read(path)
    recall = np.asarray(table['recall'], dtype=float)
    recall = recall[np.isfinite(recall)]
    assert recall.max() > 0.9
    assert recall.min() < 0.7


@pytest.mark.parametrize('command', ['check', 'completeness'])
def test_a_missing_image_is_told(command, tmp_path, capsys):
    assert main([command, str(tmp_path / 'none.fits')]) not in (0, None)
    assert 'none.fits' in capsys.readouterr().err
