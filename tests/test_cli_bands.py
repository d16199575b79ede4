# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Commands of images in several bands.
"""

import importlib.util

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from matplotlib.image import imread

from bliss_astro import CoaddSimulator, ProbabilisticCatalog
from bliss_astro.cli import main
from bliss_astro.priors import CatalogPrior
from bliss_astro.simulation._images import write_simulated
from bliss_astro.training import load_config

# More of each test than what it is about would be noise here.
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def images(tmp_path_factory, encoder_of_bands):
    """
    Words of a command: an image for each of three bands, and the encoder.
    """
    folder = tmp_path_factory.mktemp('bands')
    simulator = CoaddSimulator(4, CatalogPrior.sky(), bands='rgi', shape=(128, 144))
    exposures, truth = simulator.sample(rng=26)
    truth['mag'] = np.zeros(len(truth)) * u.mag
    paths = {band: folder / f'{band}.fits' for band in exposures}
    for band, path in paths.items():
        write_simulated(exposures[band], truth, path, overwrite=False)
    encoder_of_bands.save(folder / 'bands.safetensors')
    words = [f'{band}={path}' for band, path in paths.items()]
    return [*words, '--encoder', str(folder / 'bands.safetensors')]


def test_detect(images, tmp_path, capsys):
    path, picture = tmp_path / 'catalog.fits', tmp_path / 'catalog.png'
    assert main(['detect', *images, '-o', str(path), '--plot', str(picture)]) == 0
    assert 'in r, g, i' in capsys.readouterr().err
    catalog = ProbabilisticCatalog.read(path)
    assert {'flux_r', 'flux_g', 'flux_i'} <= {*catalog.colnames}
    # A picture of three bands has colours.
    pixels = imread(picture)[:, :700, :3]
    assert np.mean(np.ptp(pixels, axis=2) > 0.2) > 0.01
    if importlib.util.find_spec('regions'):
        regions = tmp_path / 'catalog.reg'
        assert main(['detect', *images, '-o', str(regions)]) == 0
        assert regions.read_text().count('circle(') == len(catalog)


def test_check(images, tmp_path, capsys):
    path, picture = tmp_path / 'tests.ecsv', tmp_path / 'check.png'
    words = ['check', *images, '--seed', '1', '-o', str(path), '--plot', str(picture)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith('Band')] == [
        'Band r:',
        'Band g:',
        'Band i:',
    ]
    table = Table.read(path)
    assert list(dict.fromkeys(table['band'])) == list('rgi')
    height, width, _ = imread(picture).shape
    assert height > width


def test_reconstruct(images, tmp_path, capsys):
    path, picture = tmp_path / 'all.fits', tmp_path / 'all.png'
    words = ['reconstruct', *images, '--draws', '1', '--seed', '1', '-o', str(path)]
    assert main([*words, '--plot', str(picture)]) == 0
    assert 'model flux in g' in capsys.readouterr().out
    with fits.open(path) as hdus:
        for band in 'RGI':
            assert hdus[f'MODEL_{band}'].data.shape == (128, 144)
            assert 0.9 < np.nanmean(hdus[f'CHI_{band}'].data.astype(float) ** 2) < 1.1
            assert hdus[f'DRAWS_{band}'].data.shape == (1, 128, 144)
    assert len(ProbabilisticCatalog.read(path)) > 3
    assert picture.stat().st_size > 10000


def test_completeness(images, tmp_path):
    path = tmp_path / 'completeness.ecsv'
    words = ['completeness', *images, '-n', '4', '--magnitudes', '18,19', '--seed', '2']
    assert main([*words, '--types', 'star', '-o', str(path)]) == 0
    table = Table.read(path)
    assert table['n_found'][0] >= 3
    assert {'bias', 'bias_g', 'bias_i'} <= {*table.colnames}


def test_recipe(images, tmp_path, capsys):
    words = ['recipe', *images[:3], '--no-timing', '-o', str(tmp_path / 'none.toml')]
    assert main(words) == 0
    assert "'stars-galaxies' covers" in capsys.readouterr().out
    assert list(tmp_path.glob('*.toml')) == []
    path = tmp_path / 'mine.toml'
    words = ['recipe', *images[:3], images[0], '--no-timing', '--always']
    words += ['-o', str(path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert 'bands r, g, i, it sees one band' in printed
    # A file a line, those of the first image first.
    files = [word.partition('=')[2] for word in images]
    names = [line.split(': <')[0] for line in printed.splitlines() if ': <' in line]
    assert names == [*files[:3], files[0]]
    encoder, simulation, _ = load_config(path)
    assert encoder.bands
    assert simulation.bands == ('r', 'g', 'i')
    words = ['recipe', images[0], images[1], '--stack', '--no-timing']
    assert main(words) == 2
    assert '--stack needs two images or more' in capsys.readouterr().err
