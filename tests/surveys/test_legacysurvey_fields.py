# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of coadds of bricks, of splines of the sky and of fields of the Legacy Surveys.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.exposures import BANDS, Exposure
from bliss_astro.psf import PSFModel
from bliss_astro.runs import find_fields
from bliss_astro.surveys import legacysurvey

NMGY = 10 ** (0.4 * (31.4 - 22.5))
BRICK, SIGMA, WIDTH = '3366m010', 20.0, 1.1


@pytest.fixture
def write(tmp_path, star_fields):
    """
    Give the writer of the files of a brick in one band, as the surveys compress them.
    """

    def write(band='r', **changes):
        shape = star_fields.SHAPE
        weight = np.full(shape, (SIGMA / NMGY) ** -2.0)
        weight[:, :3] = 0
        # Lanczos kernels take a little of the scatter.
        noise = 0.9 * SIGMA * star_fields.noise(5, 0.4)
        bits = np.zeros(shape, np.int16)
        bits[9, 10:16] = [1 << bit for bit in (0, 1, 3, 6, 7, 12)]
        width = np.full(shape, WIDTH)
        width[:, 60:], width[:, :3] = 1.3, 0
        maps = {
            'image': (star_fields.light() + noise) / NMGY,
            'invvar': weight,
            'psfsize': width,
            'nexp': np.full(shape, 4, np.int16),
            'maskbits': bits,
        }
        cards = {'BRICK': BRICK, 'INSTRUME': 'DECam', 'MAGZERO': 22.5}
        units = {'image': 'nanomaggy', 'invvar': '1/nanomaggy^2', 'psfsize': 'arcsec'}
        for kind, values in maps.items():
            header = star_fields.wcs_cards(0.262)
            header.update(cards | {'IMTYPE': kind, 'BUNIT': units.get(kind, '')})
            if kind != 'maskbits':
                header['FILTER'] = f'{band} DECam SDSS c0002 6415.0 1480.0'
                header['FILTERX'] = band
            header.update(changes.get(kind, {}))
            values = values if values.dtype.kind == 'i' else values.astype('f4')
            hdus = [
                fits.PrimaryHDU(),
                fits.CompImageHDU(values, header),
            ]
            end = '' if kind == 'maskbits' else f'-{band}'
            path = tmp_path / f'legacysurvey-{BRICK}-{kind}{end}.fits.fz'
            fits.HDUList(hdus).writeto(path, overwrite=True)
        return tmp_path / f'legacysurvey-{BRICK}-image-{band}.fits.fz'

    return write


def test_brick(write, star_fields):
    exposure = Exposure.read(write())
    assert exposure.unit == u.nmgy
    assert exposure.band is BANDS['DECam.r']
    assert exposure.pixel_scale == pytest.approx(0.262)
    assert exposure.meta['n_exposures'] == 4
    truth = [mag for _, _, mag in star_fields.STARS]
    assert_allclose(star_fields.magnitudes(exposure), truth, rtol=0, atol=0.03)
    assert star_fields.sky_scatter(exposure) == pytest.approx(1, abs=0.04)
    assert_allclose(np.median(exposure.bkg_error) * NMGY, 0.9 * SIGMA, rtol=0.04)
    assert exposure.meta['noise_ratio'] == pytest.approx(0.9, rel=0.04)
    # Saturated, and bad in all images of r; bad in z or a galaxy are not.
    assert_array_equal(exposure.mask[9, 10:16], [0, 0, 1, 1, 0, 0])
    assert_array_equal(np.argwhere(exposure.saturated), [[9, 12]])
    assert exposure.mask[:, :3].all()
    assert exposure.mask.sum() == 3 * 96 + 2


def test_effective_area_of_psf(write):
    """
    The width is that of a Gaussian of one effective area, by place.
    """
    exposure = Exposure.read(write())
    for x, arcsec in ((30, WIDTH), (1, 1.3), (90, 1.3)):
        psf = exposure.psf_at(x, 40)
        sigma = arcsec / 0.262 / 2.355
        assert_allclose(psf.n_eff, 4 * np.pi * sigma**2, rtol=0.01)
        assert psf.fwhm < 2.355 * sigma
    assert_allclose(exposure[:, 70:].psf_at(20, 40).fwhm, exposure.psf_at(90, 40).fwhm)
    given = legacysurvey.read_coadd(write(), psf=PSFModel.from_fwhm(5.0))
    assert given.psf_at(9, 9).fwhm == pytest.approx(5, rel=0.01)


def test_companions(write):
    path = write()
    for kind in ('invvar', 'psfsize'):
        path.with_name(path.name.replace('image', kind)).unlink()
    with pytest.warns(match='are not there: invvar, psfsize'):
        exposure = Exposure.read(path)
    assert exposure.psf is None
    assert exposure.meta['estimated']['bkg_error'] == 'scatter of empty sky'
    weight = np.full(exposure.shape, (SIGMA / NMGY) ** -2.0)
    with pytest.warns(match='are not there: psfsize'):
        exposure = Exposure.read(path, weight=weight)
    assert_allclose(exposure.bkg_error * NMGY, 0.9 * SIGMA, rtol=0.04)
    with pytest.raises(FileNotFoundError, match='psfsize must be a file'):
        legacysurvey.read_coadd(path, psfsize='absent.fits')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'invvar': {'IMTYPE': 'depth'}},
            r"weight=.*not invvar.*IMTYPE is 'depth'",
        ),
        ({'psfsize': {'FILTERX': 'g'}}, r"psfsize=.* FILTERX is 'g'"),
        ({'nexp': {'BRICK': '3364m010'}}, r"nexp=.* BRICK is '3364m010'"),
        ({'image': {'IMTYPE': 'model'}}, r'image=.*not the coadd of a brick'),
    ],
)
def test_swapped_files(write, changes, message):
    with pytest.raises(ValueError, match=message):
        legacysurvey.read_coadd(write(**changes))


def test_bricks(write, tmp_path):
    for band in 'gr':
        write(band)
    [field] = find_fields(tmp_path, 'legacysurvey')
    assert field.id == BRICK
    assert set(field.files) == {'g', 'r'}
    # All files are those of which check sums are taken.
    assert set(field.paths()) == {str(path) for path in tmp_path.iterdir()}
    exposures = field.open()
    assert exposures['g'].band is BANDS['DECam.g']
    assert_array_equal(np.argwhere(exposures['r'].saturated), [[9, 12]])
    assert not exposures['g'].saturated.any()
    assert_allclose(field.footprint, exposures.wcs.calc_footprint())
    with pytest.raises(FileNotFoundError, match='coadds of bricks, or images'):
        find_fields([tmp_path / 'other.fits'], 'legacysurvey')


def test_real_psfsize(shared_data, write, tmp_path):
    """
    A real map of widths, and its header, in place of the generated one.
    """
    name = 'legacysurvey-3366m010-psfsize-r.fits.fz'
    with fits.open(shared_data / 'psf' / name) as hdus:
        rows, columns = (slice(1800, 1800 + n) for n in (96, 120))
        data, header = hdus[1].data[rows, columns], hdus[1].header
        path = write()
        fits.CompImageHDU(data, header).writeto(tmp_path / name, overwrite=True)
    exposure = Exposure.read(path)
    sigma = data[50, 60] / 0.262 / 2.355
    assert exposure.psf_at(60, 50).n_eff == pytest.approx(
        4 * np.pi * sigma**2, rel=0.01
    )


@pytest.fixture
def detectors(tmp_path):
    """
    Give the files of an image of two detectors, cut out of larger ones.
    """
    y, x = np.mgrid[:40, :50]
    rng = np.random.default_rng(2)
    level = {'N11': 900 + 0.3 * x + 0.01 * y**2, 'N12': 800 - 0.2 * x}
    stem, rows = 'c4d_150329_083320_ooi_r_ls9', []
    hdus = [fits.PrimaryHDU(header=fits.Header({'EXPNUM': 425}))]
    hdus[0].header['FILTER'] = 'r DECam SDSS c0002 6415.0 1480.0'
    for name, sky in level.items():
        cards = {'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CRVAL1': 150.0}
        cards |= {'CDELT1': -7e-5, 'CDELT2': 7e-5, 'CRVAL2': float(name[1:])}
        data = (sky + rng.normal(0, 3, sky.shape)).astype('f4')
        hdus.append(fits.ImageHDU(data, fits.Header(cards), name=name))
        # Nodes of the whole detector, of which the image is a part.
        grids = np.arange(-100, 300, 40), np.arange(-200, 400, 50)
        nodes_y, nodes_x = np.meshgrid(*(grid.astype(float) for grid in grids))
        parts = nodes_x.T - 70, nodes_y.T - 30
        values = {
            'N11': 900 + 0.3 * parts[0] + 0.01 * parts[1] ** 2,
            'N12': 800 - 0.2 * parts[0],
        }[name]
        columns = {'gridw': [12], 'gridh': [10], 'gridvals': [values], 'x0': [70]}
        columns |= {'y0': [30], 'xgrid': [grids[1]], 'ygrid': [grids[0]], 'order': [3]}
        rows.append(Table(columns | {'expnum': [425], 'ccdname': [name]}))
    path = tmp_path / f'{stem}.fits'
    fits.HDUList(hdus).writeto(path)
    vstack(rows).write(tmp_path / f'{stem}-splinesky.fits')
    ccds = {'image_filename': [f'decam/{path.name}'] * 2, 'ccdname': ['N11', 'N12']}
    ccds |= {'camera': ['decam'] * 2, 'exptime': [90.0] * 2, 'ccdzpt': [25.0, 25.1]}
    zeros = {'ccdraoff': [0.0] * 2, 'ccddecoff': [0.0] * 2}
    Table(ccds | zeros).write(tmp_path / 'survey-ccds-1.fits')
    return path


def test_spline_sky(detectors):
    sky = detectors.with_name(f'{detectors.stem}-splinesky.fits')
    y, x = np.mgrid[:40, :50]
    exposure = legacysurvey.read_exposure(f'{detectors}[N11]', sky=sky)
    assert_allclose(exposure.background, 900 + 0.3 * x + 0.01 * y**2, rtol=1e-6)
    exposure = legacysurvey.read_exposure(f'{detectors}[N12][11:50,1:40]', sky=sky)
    assert_allclose(exposure.background, 800 - 0.2 * x[:, 10:], rtol=1e-6)
    constant = detectors.with_name('constant.fits')
    fits.PrimaryHDU(header=fits.Header({'SKY_P0': 930.0})).writeto(constant)
    exposure = legacysurvey.read_exposure(detectors, extension='N11', sky=constant)
    assert_allclose(exposure.background, 930)
    with pytest.raises(ValueError, match=r'sky=.* must be a splinesky table'):
        legacysurvey.read_exposure(detectors, extension='N11', sky=detectors)


def test_sky_of_another_image(detectors, tmp_path):
    sky = detectors.with_name(f'{detectors.stem}-splinesky.fits')
    for change in ({'expnum': [9, 9]}, {'ccdname': ['S1', 'S2']}):
        table = Table.read(sky)
        for key, values in change.items():
            table[key] = values
        table.write(tmp_path / 'other.fits', overwrite=True)
        message = r'sky=.*other.fits.* must have one row of N11 of exposure 425; got 0'
        with pytest.raises(ValueError, match=message):
            legacysurvey.read_exposure(
                detectors, extension='N11', sky=tmp_path / 'other.fits'
            )


def test_fields_of_detectors(detectors):
    fields = find_fields(detectors.parent, 'legacysurvey')
    stem = detectors.stem
    assert [field.id for field in fields] == [f'{stem}-N11', f'{stem}-N12']
    names = {path.name for path in detectors.parent.iterdir()}
    assert {path.rpartition('/')[2] for path in fields[1].paths()} == names
    exposure = fields[1].open()
    assert exposure.meta['zero_point'] == pytest.approx(25.1 + 2.5 * np.log10(90))
    assert exposure.band is BANDS['DECam.r']
    assert_allclose(fields[1].footprint[0], exposure.wcs.calc_footprint()[0])


def test_other_detectors_are_not_read(detectors):
    """
    Of a file of a whole camera the pixels of one detector are decompressed.
    """
    path = detectors.with_name('c4d_150329_083320_ooi_r_v1.fits')
    with fits.open(detectors) as hdus:
        for name in ('N11', 'N12'):
            number = hdus.index_of(name)
            hdu = hdus.pop(number)
            hdus.insert(number, fits.CompImageHDU(hdu.data, hdu.header, name=name))
        hdus.writeto(path)
    content = bytearray(path.read_bytes())
    # Damage the tiles of the second one.
    content[-2880:] = b'\xff' * 2880
    path.write_bytes(content)
    exposure = legacysurvey.read_exposure(path, extension='N11')
    assert_allclose(np.median(exposure.data), 912, atol=2)
    with pytest.raises(OSError, match=r'image=.* cannot be read as FITS'):
        legacysurvey.read_exposure(path, extension='N12')


def test_real_detectors(shared_data):
    """
    The sky of real splines is that of the survey's table; the rest is a galaxy.
    """
    folder = shared_data / 'legacysurvey_multi_exposure/testcase3'
    fields = find_fields(folder, 'legacysurvey')
    assert len(fields) == 8
    for field in fields:
        assert set(field.options) == {'ccds', 'psf', 'sky'}
        exposure = field.open()
        pull = (exposure.data - exposure.background) / exposure.bkg_error
        assert -2.0 < np.percentile(pull[~exposure.mask], 5) < 0
        table = Table.read(field.options['sky'])
        scale = 10 ** (0.4 * (22.5 - exposure.meta['zero_point']))
        level = np.median(exposure.background) / scale
        assert_allclose(level, table['sky_med'], rtol=0.02)
