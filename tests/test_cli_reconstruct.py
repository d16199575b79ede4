# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of ``bliss-astro reconstruct``.
"""

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose

from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.cli import main


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    """
    A simulated field of stars on disk.
    """
    path = tmp_path_factory.mktemp('reconstruct') / 'field.fits'
    arguments = ['simulate', '--shape', '72x80', '--density', '0.002', '--seed', '4']
    assert main([*arguments, '-o', str(path), '--quiet']) == 0
    return str(path)


def test_writes_everything_in_one_command(image, tmp_path, capsys):
    out, table, picture = (tmp_path / n for n in ('r.fits', 'c.ecsv', 'r.png'))
    out.write_text('mine')
    arguments = ['reconstruct', image, '--encoder', 'stars', '--seed', '1']
    arguments += ['--draws', '2', '--output', str(out), '--catalog', str(table)]
    arguments += ['--plot', str(picture), '--posterior']
    # Existing files are kept, unless they may be replaced.
    assert main(arguments) == 1
    assert 'exists' in capsys.readouterr().err
    assert out.read_text() == 'mine'
    assert main([*arguments, '--overwrite']) == 0
    printed = capsys.readouterr()
    assert 'chi2 / n' in printed.out
    assert 'wrote' in printed.err
    with fits.open(out) as hdus:
        images = {
            name: hdus[name].data.astype(float)
            for name in ('MODEL', 'RESIDUAL', 'CHI', 'DRAWS')
        }
    assert images['MODEL'].shape == (72, 80)
    assert images['DRAWS'].shape == (2, 72, 80)
    # 5760 pixels: what is left over is about noise.
    assert 0.9 < np.mean(images['CHI'] ** 2) < 1.3
    catalog = ProbabilisticCatalog.read(out)
    assert len(catalog) == len(ProbabilisticCatalog.read(table)) > 3
    drawn = catalog.render()
    atol = 1e-3 * images['MODEL'].max()
    assert_allclose(drawn.value, images['MODEL'], rtol=1e-3, atol=atol)
    assert picture.stat().st_size > 10000


def test_the_file_is_that_of_the_library(image, tmp_path):
    from bliss_astro import detect_sources, reconstruct
    from bliss_astro.simulation._images import read_simulated

    out = tmp_path / 'r.fits.gz'
    arguments = ['reconstruct', image, '--encoder', 'stars', '-o', str(out), '-q']
    assert main(arguments) == 0
    with fits.open(image) as hdus:
        exposure, _ = read_simulated(hdus)
    catalog = detect_sources(exposure, encoder='stars')
    assert_allclose(
        fits.getdata(out, 'RESIDUAL'),
        reconstruct(exposure, catalog).residual,
        rtol=1e-6,
    )
    assert ProbabilisticCatalog.read(out).posterior is None


@pytest.mark.parametrize(
    ('more', 'code', 'words'),
    [
        (['-o', 'r.ecsv'], 2, 'ending must be one of .fits'),
        (['-o', 'r.fits', '--catalog', 'c.png'], 2, '--catalog c.png: the ending'),
        (['-o', 'r.fits', '--plot', 'p.xyz'], 2, 'ending must be one of'),
        (['-o', 'r.fits', '--catalog', 'r.fits'], 2, 'named twice'),
        (['-o', 'no/r.fits'], 1, 'does not exist'),
        (['-o', 'r.fits', '--encoder', 'nobody'], 1, 'nobody'),
    ],
)
def test_bad_arguments_are_told(
    image, tmp_path, monkeypatch, capsys, more, code, words
):
    monkeypatch.chdir(tmp_path)
    assert main(['reconstruct', image, *more]) == code
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_parser_refuses(image, tmp_path, capsys):
    out = ['-o', str(tmp_path / 'r.fits')]
    for arguments in ([], [*out, '--draws', '-1'], [*out, '--threshold', '2']):
        with pytest.raises(SystemExit, match='2'):
            main(['reconstruct', image, *arguments])
    assert main(['reconstruct', str(tmp_path / 'none.fits'), *out]) == 1
    assert 'none.fits' in capsys.readouterr().err
