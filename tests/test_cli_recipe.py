# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of ``bliss-astro recipe``, as a shell user meets it.
"""

import numpy as np
import pytest
from astropy.io import fits

from bliss_astro import CoaddSimulator, PSFModel
from bliss_astro.cli import main
from bliss_astro.coadds import Coadd
from bliss_astro.priors import StarPrior
from bliss_astro.training import load_config


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """
    Give a folder with a simulated image, a foreign one and one without stars.
    """
    folder = tmp_path_factory.mktemp('recipe')
    words = ['--shape', '96x96', '--density', '0.003', '--seed', '4', '--quiet']
    path = str(folder / 'usual.fits')
    assert main(['simulate', '-d', '5', *words, '-o', path]) == 0
    fits.writeto(folder / 'bright.fits', _bright_sky())
    noise = np.random.default_rng(1).normal(500.0, 9.0, (96, 96))
    fits.writeto(folder / 'empty.fits', noise.astype('f4'))
    (folder / 'text.fits').write_text('no image at all')
    return folder


def _bright_sky():
    # Bright stars, for a fit of the PSF, on a sky of an infrared camera.
    prior = StarPrior(density=0.0008, flux_min=3e5, flux_max=3e6)
    simulator = CoaddSimulator(1, prior, background=1e6, shape=(160, 160), margin=10)
    return simulator.sample(rng=3)[0].data.astype('f4')


def _run(capsys, *words):
    code = main(['recipe', *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


class TestCovered:
    def test_says_so_and_writes_nothing(self, folder, capsys):
        path = folder / 'needless.toml'
        image = folder / 'usual.fits'
        code, out, err = _run(capsys, image, image, '--stack', '-o', path)
        assert code == 0
        assert "The bundled encoder 'stars' covers this." in out
        assert "'stars-crowded' does not cover this:" in out
        assert 'exposures' in out
        assert not path.exists()
        assert '--always writes it anyway' in err

    def test_unless_asked_to(self, folder, capsys):
        path = folder / 'wanted.toml'
        path.write_text('mine')
        words = (folder / 'usual.fits', '--no-timing', '-q', '--always', '-o', path)
        code, _, err = _run(capsys, *words)
        assert code == 1
        assert '--overwrite to replace it' in err
        assert path.read_text() == 'mine'
        code, out, err = _run(capsys, *words, '--overwrite', '--n-steps', '7')
        assert code == 0
        assert err == ''
        assert f'bliss-astro train {path}' in out
        _, simulation, training = load_config(path)
        # Five exposures, 3.6 to 7 with the margin.
        assert simulation.n_exposures == (3, 7)
        assert training.n_steps == 7

    def test_a_stack_of_it(self, folder, capsys):
        image = folder / 'usual.fits'
        path = folder / 'stack.toml'
        words = (image, image, '--stack', '--always', '--no-timing', '-o', path)
        code, out, _ = _run(capsys, *words)
        assert code == 0
        assert 'coadd of 2 exposures' in out
        assert load_config(path)[1].n_exposures == (2, 3)


class TestForeign:
    def test_prints_a_recipe(self, folder, capsys, tmp_path):
        # The default weights cover it.
        words = ('--gain', '1', '--no-timing', '--always')
        code, out, _ = _run(capsys, folder / 'bright.fits', *words)
        assert code == 0
        _, _, reasons = out.partition("'stars' does not cover this:")
        assert reasons.lstrip().startswith('noise of the sky')
        path = tmp_path / 'printed.toml'
        path.write_text(out[out.index('# An encoder for') :])
        _, simulation, _ = load_config(path)
        # The noise is measured to a few per cent, its square to twice that.
        assert np.prod(simulation.background) ** 0.5 == pytest.approx(1e6, rel=0.15)
        width = np.prod(simulation.fwhm) ** 0.5
        assert width == pytest.approx(PSFModel().fwhm, rel=0.1)

    def test_range_over_several_images(self, folder, capsys):
        path = folder / 'both.toml'
        images = folder / 'bright.fits', folder / 'usual.fits'
        code, out, _ = _run(capsys, *images, '--no-timing', '--always', '-o', path)
        assert code == 0
        assert out.count('5 sigma at') == 2
        # Only one of them is the reason.
        assert f'{images[0]}: noise of the sky' in out
        about = out.partition("'stars' does")[2].partition('The bundled encoder')[0]
        assert f'{images[1]}: noise of the sky' not in about
        _, simulation, _ = load_config(path)
        assert simulation.background[0] < 865 < 1e6 < simulation.background[1]
        assert simulation.n_exposures == (1, 7)
        assert simulation.single_fraction == 0.5

    def test_depth_in_the_header(self, folder, capsys):
        path = folder / 'deep.fits'
        fits.writeto(path, _bright_sky(), fits.Header({'NCOMBINE': 12}))
        code, out, _ = _run(capsys, path, '--no-timing')
        assert code == 0
        assert 'n_exposures of the image' in out


class TestCoaddFiles:
    def test_the_maps_are_read(self, folder, capsys):
        exposure, _ = CoaddSimulator(4, StarPrior(0.002)).sample(rng=2)
        counts = np.full(exposure.shape, 4)
        counts[:, :20] = 3
        along = np.array([0.25, 1, 0.25])
        coadd = Coadd(
            exposure.data,
            background=exposure.background,
            bkg_error=exposure.bkg_error,
            effective_gain=exposure.effective_gain,
            psf=exposure.psf,
            n_exposures=counts,
            noise_kernel=np.outer(along, along),
        )
        coadd.write(folder / 'coadd.fits')
        code, out, _ = _run(capsys, folder / 'coadd.fits')
        assert code == 0
        assert 'map of the coadd' in out
        (row,) = [
            line
            for line in out.splitlines()
            if line.strip().startswith('exposures') and 'map' not in line
        ]
        assert '3 to 4' in row
        assert 'up to 0.25' in out


class TestBadInput:
    @pytest.mark.parametrize(
        ('words', 'code', 'message'),
        [
            (['empty.fits'], 1, 'no PSF and too few bright, isolated stars'),
            (['text.fits'], 1, 'cannot be read as FITS'),
            (['absent.fits'], 1, 'there is no file'),
            (['usual.fits', 'absent.fits'], 1, 'there is no file'),
            (['usual.fits', '-o', 'x.yaml'], 2, 'the ending must be .toml'),
            (['usual.fits', '--stack'], 2, '--stack needs two images or more'),
            (['usual.fits', '-o', 'absent/x.toml'], 1, 'does not exist'),
            (['usual.fits', '--device', 'abacus'], 1, "--device must be 'auto' or"),
            (['usual.fits', '--gain', '2'], 2, 'does not go with'),
        ],
    )
    def test_one_line(self, folder, capsys, monkeypatch, words, code, message):
        monkeypatch.chdir(folder)
        got, out, err = _run(capsys, *words, '-q')
        assert (got, out) == (code, '')
        assert err.startswith('bliss-astro: error: ')
        assert len(err.splitlines()) == 1
        assert message in err

    def test_stack_and_depth(self, folder, capsys):
        image = folder / 'usual.fits'
        with pytest.raises(SystemExit, match='2'):
            _run(capsys, image, image, '--stack', '-d', '3')
        assert '-d/--n-exposures: not allowed with' in capsys.readouterr().err


class TestRealImages:
    def test_a_bad_seeing_of_sdss(self, shared_data, capsys):
        files = shared_data / 'sdss' / '1000' / '1' / '100'
        frame = files / 'frame-r-001000-1-0100.fits.bz2'
        psf = files / 'psField-001000-1-0100.fit'
        code, out, _ = _run(capsys, frame, '--psf', psf, '--no-timing', '--always')
        assert code == 0
        # Three arcseconds are beyond the seeing that the encoders know.
        assert "'stars' does not cover this:\n  PSF FWHM about" in out
        assert 'fwhm = [5.4' in out

    def test_a_deep_field_of_galaxies(self, shared_data, capsys):
        code, out, _ = _run(capsys, shared_data / 'sep' / 'image.fits', '--no-timing')
        assert code == 0
        assert 'stars of the image' in out

    def test_another_format(self, shared_data, capsys):
        code, _, err = _run(capsys, shared_data / 'hsc_blends' / 'hsc_cosmos_35.npz')
        assert code == 1
        assert 'cannot be read as FITS' in err.splitlines()[-1]
