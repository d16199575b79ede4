# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of `Exposure.from_sdss`, on small files and on real ones.
"""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.exposures import Exposure
from bliss_astro.surveys import sdss


class TestFrame:
    def test_numbers(self, sdss_field, sdss_files):
        exposure = Exposure.from_sdss(
            sdss_field.frame(), photofield=sdss_field.photofield()
        )
        gain, dark = sdss_files.GAIN[2], sdss_files.DARK_VARIANCE[2]
        c = sdss_field.calibration
        assert exposure.unit == u.nmgy
        assert exposure.background == 0
        assert_allclose(exposure.effective_gain[7], gain / c, rtol=1e-5)
        expected = c * np.sqrt(sdss_field.sky() / gain + dark)
        assert_allclose(exposure.bkg_error, expected, rtol=1e-5)
        assert_allclose(exposure.read_noise, gain * np.sqrt(dark), rtol=1e-6)
        expected = c * (50000 - sdss_field.sky())
        assert_allclose(exposure.saturation, expected, rtol=1e-5)
        assert exposure.psf is None
        assert not exposure.mask.any()
        meta = exposure.meta
        assert (meta['run'], meta['camcol'], meta['field']) == (94, 1, 12)
        assert meta['gain_source'] == 'photofield'
        assert_allclose(exposure.wcs.wcs_pix2world(40, 30, 0), (336.5, -0.9))

    def test_noise_of_the_pixels(self, sdss_field):
        # 4800 pixels tell a standard deviation to 1 %; three of these.
        exposure = Exposure.from_sdss(sdss_field.frame())
        pull = (exposure.data - sdss_field.signal) / exposure.total_error(
            sdss_field.signal
        )
        assert_allclose(pull.std(), 1, atol=0.03)
        assert abs(pull.mean()) < 3 / np.sqrt(pull.size)

    def test_camera_table(self, sdss_field, sdss_files):
        exposure = Exposure.from_sdss(sdss_field.frame(), band='r')
        assert exposure.meta['gain_source'] == 'camera table'
        assert exposure.meta['saturation_source'] == 'converter limit'
        assert_allclose(exposure.meta['gain'], sdss_files.GAIN[2])

    def test_useless_gain_falls_back(self, sdss_field):
        exposure = Exposure.from_sdss(
            sdss_field.frame(), sdss_field.psfield(gain=-9999.0)
        )
        assert exposure.meta['gain_source'] == 'camera table'

    def test_mask(self, sdss_field):
        fpm = sdss_field.fpm(
            INTERP=[(0, 0, [(4, 7, 9)])],
            SATUR=[(0, 0, [(20, 29, 31)])],
            CR=[(0, 0, [(50, 60, 60)])],
            NOTCHECKED=[(0, 0, [(0, 0, 79)])],
        )
        exposure = Exposure.from_sdss(sdss_field.frame(), fpm=fpm)
        assert exposure.mask.sum() == 7
        assert_array_equal(np.argwhere(exposure.saturated)[:, 1], [29, 30, 31])
        exposure = Exposure.from_sdss(
            sdss_field.frame(), fpm=fpm, bad_planes=['NOTCHECKED']
        )
        # Saturated pixels are bad whatever the planes.
        assert exposure.mask.sum() == 83

    def test_dead_column(self, sdss_field):
        hdus = sdss_field.frame_hdus()
        hdus[1].data[3] = 0
        exposure = Exposure.from_sdss(sdss_field.write(hdus, 'dead.fits'))
        assert exposure.mask[:, 3].all()
        assert exposure.mask.sum() == 60
        assert np.isfinite(exposure.bkg_error).all()

    def test_backgrounds(self, sdss_field):
        frame = sdss_field.frame()
        plain = Exposure.from_sdss(frame)
        level = 0.3
        given = Exposure.from_sdss(frame, background=level)
        gain = plain.effective_gain
        assert given.background == level
        assert_allclose(
            given.bkg_error**2, plain.bkg_error**2 + level / gain, rtol=1e-5
        )
        same = Exposure.from_sdss(frame, background=np.full((60, 80), 0.3) * u.nmgy)
        assert_allclose(same.bkg_error, given.bkg_error, rtol=1e-6)
        measured = Exposure.from_sdss(frame, background='measure')
        assert np.abs(measured.background).max() < plain.bkg_error.mean()
        # More light than nothing cannot be taken away.
        assert (Exposure.from_sdss(frame, background=-1e3).bkg_error > 0).all()
        with pytest.raises(ValueError, match="must be 'header', 'measure', a number"):
            Exposure.from_sdss(frame, background='guess')
        with pytest.raises(ValueError, match='background must be in nmgy'):
            Exposure.from_sdss(frame, background=3 * u.Jy)
        with pytest.raises(ValueError, match='background must be a number or have'):
            Exposure.from_sdss(frame, background=np.zeros(80))

    def test_measured_noise(self, sdss_field):
        exposure = Exposure.from_sdss(sdss_field.frame(), noise='measure')
        model = Exposure.from_sdss(sdss_field.frame())
        ratio = exposure.meta['noise_ratio']
        assert_allclose(exposure.bkg_error, ratio * model.bkg_error, rtol=1e-6)
        # One cell of 60 x 60 pixels, sources left out: 1.2 %, three of these.
        assert_allclose(ratio, 1, atol=0.04)
        with pytest.raises(ValueError, match="noise must be one of 'model'"):
            Exposure.from_sdss(sdss_field.frame(), noise='guess')

    def test_cutout_follows(self, sdss_field):
        exposure = Exposure.from_sdss(sdss_field.frame(), sdss_field.psfield())
        part = exposure[10:50, 20:70]
        assert_allclose(part.effective_gain, exposure.effective_gain[10:50, 20:70])
        assert_allclose(part.wcs.wcs_pix2world(20, 20, 0), (336.5, -0.9))
        # What both places have in common; shapes follow (see test_sdss_psf.py).
        assert_allclose(part.psf.kl_sum(5, 6), exposure.psf.kl_sum(25, 16))
        assert part.meta['field'] == 12


class TestCorrectedFrame:
    def test_numbers(self, sdss_field, sdss_files):
        exposure = Exposure.from_sdss(
            sdss_field.fpc(), tsfield=sdss_field.tsfield(), background='header'
        )
        c, gain = sdss_files.NMGY, sdss_files.GAIN[2]
        assert exposure.meta['calibration_source'] == 'tsfield'
        assert_allclose(exposure.background, 150 * c, rtol=1e-5)
        assert_allclose(exposure.effective_gain, gain / c, rtol=1e-5)
        dark = sdss_files.DARK_VARIANCE[2]
        expected = c * np.sqrt(150 / gain + dark)
        assert_allclose(exposure.bkg_error, expected, rtol=1e-5)
        assert_allclose(exposure.data, sdss_field.counts * c, atol=0.51 * c)
        assert_allclose(exposure.saturation, 50000 * c, rtol=1e-5)

    def test_background_is_measured(self, sdss_field, sdss_files):
        exposure = Exposure.from_sdss(sdss_field.fpc())
        assert exposure.meta['calibration_source'] == 'FLUX20'
        assert exposure.meta['background_source'] == 'measured'
        # The mean of 4800 pixels, whole counts notwithstanding.
        truth = sdss_field.sky().mean() * sdss_files.NMGY
        error = exposure.bkg_error.mean() / np.sqrt(4800)
        assert abs(exposure.background.mean() - truth) < 5 * error

    def test_calibration_from_photofield(self, sdss_field, sdss_files):
        exposure = Exposure.from_sdss(
            sdss_field.fpc(FLUX20=-9999.0), photofield=sdss_field.photofield()
        )
        assert exposure.meta['calibration_source'] == 'photofield'
        assert_allclose(exposure.effective_gain, 4.71 / sdss_files.NMGY, rtol=1e-5)

    def test_nothing_known(self, sdss_field):
        path = sdss_field.fpc(FLUX20=-9999.0, SKY=-9999.0)
        with pytest.raises(ValueError, match='give its tsfield or photofield'):
            Exposure.from_sdss(path)
        path = sdss_field.fpc(SKY=-9999.0)
        with pytest.raises(ValueError, match='nor the other files have a sky'):
            Exposure.from_sdss(path, background='header')


class TestMismatch:
    def test_band(self, sdss_field):
        with pytest.raises(ValueError, match="band='g' was given"):
            Exposure.from_sdss(sdss_field.frame(), band='g')
        with pytest.raises(ValueError, match='band must be one of'):
            Exposure.from_sdss(sdss_field.frame(), band='V')

    @pytest.mark.parametrize('name', ['psfield', 'tsfield', 'fpm'])
    def test_field(self, sdss_field, sdss_files, name):
        other = sdss_files.Field(sdss_field.folder, field=13)
        path = getattr(other, name)()
        with pytest.raises(ValueError, match=f'{name}=.* is of .* 94-1-13, but'):
            Exposure.from_sdss(sdss_field.frame(), **{name: path})

    def test_photofield(self, sdss_field, sdss_files):
        other = sdss_files.Field(sdss_field.folder, field=13)
        with pytest.raises(ValueError, match='field 12 is not in'):
            Exposure.from_sdss(sdss_field.frame(), photofield=other.photofield())

    def test_files_in_the_wrong_place(self, sdss_field):
        with pytest.raises(ValueError, match=r'psfield=.* is not an SDSS psField'):
            Exposure.from_sdss(sdss_field.frame(), sdss_field.tsfield())
        with pytest.raises(ValueError, match='not an SDSS frame or fpC file'):
            Exposure.from_sdss(sdss_field.psfield())

    def test_band_without_psf(self, sdss_field):
        with pytest.raises(ValueError, match="no PSF in band 'r'"):
            Exposure.from_sdss(sdss_field.frame(), sdss_field.psfield(dark_bands='r'))

    def test_mask_of_another_shape(self, sdss_field):
        hdus = sdss_field.frame_hdus()
        hdus[0].data = hdus[0].data[:40].copy()
        path = sdss_field.write(hdus, 'part.fits')
        with pytest.raises(ValueError, match=r'shape \(60, 80\) and the image'):
            Exposure.from_sdss(path, fpm=sdss_field.fpm())

    def test_cutout_with_coordinates_of_the_whole(self, sdss_field):
        hdus = sdss_field.frame_hdus()
        hdus[0].header['CRPIX1'], hdus[0].header['CRPIX2'] = 1025.0, 745.0
        path = sdss_field.write(hdus, 'corner.fits')
        with pytest.warns(AstropyUserWarning, match='reference pixel of a whole'):
            Exposure.from_sdss(path)


def read_epoch(folder, run, field, **keywords):
    """
    Read one of the two real epochs.
    """
    path = folder / 'sdss_two_epoch' / f'{run}' / '4' / f'{field}'
    name = f'{run:06d}'
    with warnings.catch_warnings():
        # The analytic PSF of one of them is a placeholder; it is not used.
        warnings.simplefilter('ignore', AstropyUserWarning)
        return Exposure.from_sdss(
            path / f'fpC-{name}-r4-0{field}.fit.gz',
            path / f'psField-{name}-4-0{field}.fit',
            fpm=path / f'fpM-{name}-r4-0{field}.fit.gz',
            tsfield=path / f'tsField-{name}-4-40-0{field}.fit',
            **keywords,
        )


@pytest.fixture(scope='module')
def first_epoch(shared_data):
    return read_epoch(shared_data, 4192, 300, noise='measure')


class TestRealFiles:
    def test_noise_of_blank_sky(self, first_epoch):
        exposure = first_epoch
        assert_allclose(exposure.meta['noise_ratio'], 1, atol=0.05)
        part = exposure[200:700, 300:900]
        residual = ((part.data - part.background) / part.bkg_error)[~part.mask]
        assert abs(np.median(residual)) < 0.05

    def test_noise_of_the_cluster_frame(self, shared_data):
        folder = shared_data / 'sdss' / '2583' / '2' / '136'
        exposure = Exposure.from_sdss(
            folder / 'frame-g-002583-2-0136.fits.bz2',
            fpm=folder / 'fpM-002583-g2-0136.fits',
            background='measure',
            noise='measure',
        )
        assert_allclose(exposure.meta['noise_ratio'], 1, atol=0.05)
        # The survey's sky misses the light between the cluster's stars.
        assert exposure.background.max() > 50 * np.median(exposure.bkg_error)

    def test_two_epochs_agree(self, shared_data, first_epoch):
        aperture = pytest.importorskip('photutils.aperture')
        detection = pytest.importorskip('photutils.detection')
        second = read_epoch(shared_data, 6377, 399)
        fluxes, positions = [], []
        for exposure in (first_epoch, second):
            image = exposure.data - exposure.background
            threshold = 60 * float(np.median(exposure.bkg_error))
            finder = detection.DAOStarFinder(threshold, 2.5)
            stars = finder(image, mask=exposure.mask)
            x, y = np.array(stars['x_centroid']), np.array(stars['y_centroid'])
            inside = (x > 20) & (x < 2027) & (y > 20) & (y < 1468)
            x, y = x[inside], y[inside]
            circles = aperture.CircularAperture(np.transpose([x, y]), 10.0)
            table = aperture.aperture_photometry(image, circles)
            bad = aperture.aperture_photometry(exposure.mask.astype(float), circles)
            flux = np.array(table['aperture_sum'])
            flux[np.array(bad['aperture_sum']) > 0] = np.nan
            fluxes.append(flux)
            positions.append(exposure.wcs.pixel_to_world(x, y))
        index, distance, _ = positions[0].match_to_catalog_sky(positions[1])
        _, neighbour, _ = positions[0].match_to_catalog_sky(positions[0], nthneighbor=2)
        ratio = fluxes[1][index] / fluxes[0]
        good = (distance < 0.5 * u.arcsec) & (neighbour > 10 * u.arcsec)
        good &= np.isfinite(ratio)
        magnitude = 22.5 - 2.5 * np.log10(np.where(fluxes[0] > 0, fluxes[0], np.nan))
        good &= (magnitude > 15) & (magnitude < 19)
        assert good.sum() >= 20
        assert_allclose(np.median(ratio[good]), 1, atol=0.02)

    def test_stars_have_their_catalogued_flux_and_place(self, shared_data):
        aperture = pytest.importorskip('photutils.aperture')
        folder = shared_data / 'sdss' / '3900' / '6' / '269'
        exposure = Exposure.from_sdss(
            folder / 'frame-u-003900-6-0269.fits.bz2',
            fpm=folder / 'fpM-003900-u6-0269.fit.gz',
            background='measure',
        )
        stars = sdss.read_photoobj(folder / 'photoObj-003900-6-0269.fits')
        flux = stars['PSFFLUX'][:, 0]
        stars = stars[(stars['OBJC_TYPE'] == 6) & (flux > 20) & (flux < 3000)]
        x, y = np.array(stars['x'][:, 0]), np.array(stars['y'][:, 0])
        sky = exposure.wcs.all_world2pix(stars['RA'], stars['DEC'], 0)
        assert np.abs(np.median(sky - np.stack([x, y]), axis=1)).max() < 0.1
        inside = (x > 30) & (x < 2017) & (y > 30) & (y < 1458)
        # The radius of SDSS's own normalisation, 7.43 arcsec.
        circles = aperture.CircularAperture(np.transpose([x, y])[inside], 18.76)
        image = exposure.data - exposure.background
        table = aperture.aperture_photometry(image, circles)
        ratio = np.array(table['aperture_sum']) / stars['PSFFLUX'][inside, 0]
        assert len(ratio) >= 15
        assert_allclose(np.median(ratio), 1, atol=0.04)

    def test_every_file_opens_as_fits(self, shared_data):
        # No reader may take a sound file of the survey for a damaged one.
        for path in sorted((shared_data / 'sdss').rglob('psField*')):
            assert len(sdss.PsField.read(path).kl) == 5
        with fits.open(path) as hdus:
            assert sdss.PsField.read(hdus).file.endswith(path.name)
