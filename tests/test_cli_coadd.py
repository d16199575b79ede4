# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of ``bliss-astro coadd``.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.wcs import WCS

from bliss_astro.cli import main
from bliss_astro.coadds import Coadd
from bliss_astro.psf import PSFModel
from bliss_astro.rendering import render_stars

pytest.importorskip('reproject')

NOISE, GAIN, SHAPE = 5.0, 8.0, (96, 112)
# Positions in the first image, and fluxes.
STARS = np.array([[30.2, 40.7, 4000.0], [70.9, 25.1, 2500.0], [55.4, 70.3, 3000.0]])
SHIFTS = ((0.0, 0.0), (0.4, -2.3), (-3.2, 1.6))


@pytest.fixture
def files(tmp_path):
    """
    Three exposures of three stars, shifted, with a picture of their PSF.
    """
    rng = np.random.default_rng(3)
    psf = PSFModel()
    vector = torch.tensor(psf.shape_vector, dtype=torch.float32)[None]
    paths = []
    for k, (dx, dy) in enumerate(SHIFTS):
        x, y, flux = (torch.tensor(v, dtype=torch.float32)[None] for v in STARS.T)
        image = render_stars(vector, x + dx, y + dy, flux, size=SHAPE)[0].numpy()
        image = image + rng.normal(size=SHAPE) * np.sqrt(NOISE**2 + image / GAIN)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
        wcs.wcs.crval = 10, 20
        wcs.wcs.cdelt = -1.1e-4, 1.1e-4
        wcs.wcs.crpix = 50 + dx, 50 + dy
        path = tmp_path / f'exposure{k}.fits'
        fits.writeto(path, image.astype('f4'), wcs.to_header())
        paths.append(str(path))
    y, x = np.mgrid[:41, :41] - 20.0
    fits.writeto(tmp_path / 'psf.fits', psf(x, y).astype('f4'))
    return paths, str(tmp_path / 'psf.fits'), str(tmp_path / 'coadd.fits')


def known(psf):
    known = ['--psf', psf, '--background', '0', '--noise', str(NOISE)]
    return [*known, '--gain', str(GAIN)]


def test_coadd_and_detect(files, tmp_path, capsys):
    paths, psf, output = files
    assert main(['coadd', *paths, *known(psf), '-o', output]) == 0
    assert '3 exposures' in capsys.readouterr().out
    coadd = Coadd.read(output)
    assert coadd.n_exposures.max() == 3
    deep = coadd.n_exposures == 3
    # Where all three overlap: below the plain mean, as resampling smooths.
    assert np.median(coadd.bkg_error[deep]) < NOISE / np.sqrt(3)
    assert min(coadd.noise_correlation) > 0.05
    catalog = str(tmp_path / 'found.ecsv')
    assert main(['detect', output, '-o', catalog]) == 0
    from bliss_astro import ProbabilisticCatalog

    table = ProbabilisticCatalog.read(catalog)
    bright = table[table['flux'] > 1000]
    assert len(bright) == len(STARS)
    order = np.argsort(np.asarray(bright['flux']))
    expected = np.sort(STARS[:, 2])
    # Five times the error of the brightest, sky and its own photons.
    np.testing.assert_allclose(np.asarray(bright['flux'])[order], expected, atol=170)


def test_sigma_clip(files, capsys):
    paths, psf, output = files
    with fits.open(paths[1], mode='update') as hdus:
        hdus[0].data[60, 20] = 3000.0  # a cosmic ray
    arguments = ['coadd', *paths, *known(psf), '-o', output, '--sigma-clip', '5']
    assert main(arguments) == 0
    coadd = Coadd.read(output)
    assert np.nanmax(coadd.data[50:75, :30]) < 10 * NOISE


@pytest.mark.parametrize(
    ('extra', 'code', 'message'),
    [
        (['--zero-points', '22', '23'], 2, 'gives 2 numbers for 3 images'),
        (['--fpm', 'a', 'b'], 2, 'names 2 files for 3 images'),
        (['--sigma-clip', '-1'], 2, 'sigma-clip'),
    ],
)
def test_wrong_usage(files, capsys, extra, code, message):
    paths, psf, output = files
    try:
        found = main(['coadd', *paths, *known(psf), '-o', output, *extra])
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert message in capsys.readouterr().err


def test_nothing_is_overwritten(files, capsys):
    paths, psf, output = files
    fits.writeto(output, np.zeros((4, 4)))
    assert main(['coadd', *paths, *known(psf), '-o', output]) != 0
    assert fits.getdata(output).shape == (4, 4)
    assert 'overwrite' in capsys.readouterr().err


def test_no_wcs(files, capsys):
    paths, psf, output = files
    fits.writeto(paths[1], fits.getdata(paths[1]), overwrite=True)
    assert main(['coadd', *paths, *known(psf), '-o', output]) == 1
    assert 'WCS' in capsys.readouterr().err


def test_several_bands(files, tmp_path, capsys):
    paths, psf, _ = files
    for band in 'rg':
        Path(psf).with_name(f'psf-{band}.fits').write_bytes(Path(psf).read_bytes())
    words = ['coadd', f'r={paths[0]}', f'g={paths[1]}', f'r={paths[2]}']
    words += [*known(psf.replace('.fits', '-{band}.fits')), '--zero-points', '24']
    words[words.index('--noise') + 1] = f'r={NOISE},g={2 * NOISE}'
    output = str(tmp_path / 'coadd-{band}.fits')
    assert main([*words, '-o', output]) == 0
    assert [line[:8] for line in capsys.readouterr().out.splitlines()[::2]] == [
        'r: <Coad',
        'g: <Coad',
    ]
    r, g = (Coadd.read(tmp_path / f'coadd-{band}.fits') for band in 'rg')
    assert (r.meta['n_exposures'], g.meta['n_exposures']) == (2, 1)
    assert r.shape == g.shape
    assert g.band.name == 'g'
    assert np.median(g.bkg_error) > 1.8 * np.median(r.bkg_error)
    # They are as they are for detection.
    images = [f'{band}={tmp_path}/coadd-{band}.fits' for band in 'rg']
    assert main(['detect', *images, '--encoder', 'stars', '-q']) == 0


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['r={0}', 'g={1}', '-o', 'a.fits'], 'several bands need {band} in it'),
        (['r={0}', '{1}', '-o', 'a.fits'], 'all images are given as BAND=FILE, or'),
        (['{0}', 'q={1}', '-o', 'a.fits'], 'the band must be one of ugrizy'),
        (
            ['r={0}', 'r={1}', '--gain', 'r=1,g=2', '-o', 'a.fits'],
            '--gain must name bands of IMAGE (r',
        ),
    ],
)
def test_bands_that_do_not_fit(files, words, text, capsys):
    words = [word.replace('{0}', files[0][0]) for word in words]
    words = [word.replace('{1}', files[0][1]) for word in words]
    assert main(['coadd', *words]) == 2
    assert text in capsys.readouterr().err
