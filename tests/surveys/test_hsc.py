# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the reader of HSC and LSST images: generated files, and real pixels of HSC.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import detect_sources
from bliss_astro.exposures import BANDS, Exposure
from bliss_astro.runs import find_fields
from bliss_astro.surveys import hsc

# Bits of a file of its own, as only its cards state them.
PLANES = {'BAD': 0, 'SAT': 3, 'INTRP': 2, 'CR': 1, 'DETECTED': 5, 'NO_DATA': 9}
PLANES |= {'DETECTED_NEGATIVE': 6}
NMGY = 10 ** (0.4 * (31.4 - 22.5))
FROM_NJY = 10 ** (0.4 * (27 - 31.4))


def write(path, data, variance, mask=None, *, cards=None, header=None, more=()):
    """
    Write a file of the layout of calexp, in counts of the zero point 27.
    """
    mask = np.zeros(data.shape, np.int32) if mask is None else mask
    planes = data.astype('f4'), mask.astype('i4'), variance.astype('f4')
    hdus = [fits.PrimaryHDU()]
    hdus[0].header.update({'FLUXMAG0': 10 ** (0.4 * 27)} if cards is None else cards)
    for kind, values in zip(('IMAGE', 'MASK', 'VARIANCE'), planes, strict=True):
        hdus.append(fits.ImageHDU(values, header))
        hdus[-1].header['EXTTYPE'] = kind
    for name, bit in PLANES.items():
        hdus[2].header[f'HIERARCH MP_{name}'] = bit
    fits.HDUList([*hdus, *more]).writeto(path, overwrite=True)
    return path


@pytest.fixture
def planes(star_fields, rng):
    """
    Give image and variance of stars, 20 nJy of sky noise and 0.5 electrons per nJy.
    """
    light = star_fields.light()
    variance = 20.0**2 + light / 0.5
    data = light + rng.normal(size=light.shape) * np.sqrt(variance)
    # Pipelines have no other light than that of noisy pixels.
    variance = 20.0**2 + data / 0.5
    return data * FROM_NJY, variance * FROM_NJY**2


@pytest.fixture
def calexp(tmp_path, star_fields, planes):
    path = tmp_path / 'calexp-HSC-R-9813-4,4.fits'
    cards = {'FILTER': 'HSC-R2', 'FLUXMAG0': 10 ** (0.4 * 27)}
    mask = np.full(star_fields.SHAPE, 1 << 5)
    mask[3, 4:9] |= [1 << bit for bit in (0, 1, 2, 3, 9)]
    header = star_fields.wcs_cards(0.168, 20)
    return write(path, *planes, mask, cards=cards, header=header)


def test_numbers(calexp, star_fields):
    exposure = Exposure.read(calexp)
    assert exposure.unit == u.nmgy
    assert exposure.band is BANDS['HSC.r']
    assert exposure.pixel_scale == pytest.approx(0.168)
    truth = [mag for _, _, mag in star_fields.STARS]
    assert_allclose(star_fields.magnitudes(exposure), truth, rtol=0, atol=0.03)
    assert star_fields.sky_scatter(exposure) == pytest.approx(1, abs=0.03)
    # The light of sources is not in the noise of the sky.
    assert_allclose(np.median(exposure.bkg_error) * NMGY, 20, rtol=0.01)
    assert_allclose(exposure.effective_gain / NMGY, 0.5, rtol=0.02)
    sky = exposure.wcs.pixel_to_world(59.5, 47.5)
    assert_allclose((sky.ra.deg, sky.dec.deg), (150, 2))
    corner = exposure.wcs.pixel_to_world(59.5, 147.5)
    # The axis of rows is turned from north to east.
    assert sky.position_angle(corner).deg == pytest.approx(20, abs=0.1)


def test_catalogue(calexp, star_fields):
    """
    Magnitudes and positions of the catalogue, with the PSF as an image.
    """
    y, x = np.mgrid[-10:11, -10:11]
    psf = np.exp(-(x**2 + y**2) / 2 / star_fields.SIGMA**2)
    catalog = detect_sources(calexp, psf=psf / psf.sum())
    for x, y, mag in star_fields.STARS:
        apart = np.hypot(catalog['x_centroid'] - x, catalog['y_centroid'] - y)
        assert apart.min() < 0.1
        found = catalog['mag'][np.argmin(apart)].value
        assert found == pytest.approx(mag, abs=0.04)


def test_planes_by_name(calexp):
    exposure = hsc.read_exposure(calexp)
    # BAD, CR, SAT and NO_DATA, not INTRP or DETECTED.
    assert_array_equal(exposure.mask[3, 4:9], [True, True, False, True, True])
    assert exposure.mask.sum() == 4
    assert_array_equal(np.argwhere(exposure.saturated), [[3, 7]])
    exposure = hsc.read_exposure(calexp, bad_planes=['INTRP'])
    assert_array_equal(np.argwhere(exposure.mask), [[3, 6]])
    assert not exposure.saturated.any()
    allowed = r'bad_planes must be of BAD, CR, DETECTED, .*; got CLIPPED'
    with pytest.raises(ValueError, match=allowed):
        hsc.read_exposure(calexp, bad_planes=['SAT', 'CLIPPED'])


def test_sections(calexp):
    whole = Exposure.read(calexp)
    part = Exposure.read(f'{calexp}[3:40,2:50]', format='hsc.calexp')
    assert_array_equal(part.data, whole.data[1:50, 2:40])
    assert_array_equal(np.argwhere(part.saturated), [[2, 5]])


@pytest.mark.parametrize(
    'kind', ['table', 'inputs', 'unknown', 'nJy', 'first', 'given', 'none']
)
def test_zero_points(tmp_path, planes, star_fields, kind):
    truth = [mag for _, _, mag in star_fields.STARS]
    data, variance = planes
    path, given, more = tmp_path / 'image.fits', {}, []
    header = star_fields.wcs_cards(0.2)
    own, cards = 10 ** (0.4 * (31.4 - 27)), {}
    if kind in ('nJy', 'first'):
        data, variance = data / FROM_NJY, variance / FROM_NJY**2
        (header if kind == 'nJy' else cards)['BUNIT'] = 'nJy'
        own = 1.0
    if kind == 'given':
        given = {'zero_point': 27.0}
    elif kind != 'none':
        # The images of a coadd come first.
        means = [own] if kind == 'table' else [0.5 * own, 0.6 * own, own]
        index = Table({'id': [5, 3, 9], 'row0': [1, 2, 0], 'name': ['PhotoCalib'] * 3})
        cards |= {} if kind == 'unknown' else {'HIERARCH PHOTOCALIB_ID': 3}
        more = [fits.BinTableHDU(index)] if kind == 'inputs' else []
        more += [fits.BinTableHDU(Table({'calibrationMean': means}))]
    write(path, data, variance, cards=cards, header=header, more=more)
    if kind in ('unknown', 'none'):
        with pytest.warns(match='states no zero point; give zero_point'):
            assert hsc.read_exposure(path).unit is None
        return
    exposure = hsc.read_exposure(path, **given)
    assert exposure.unit == u.nmgy
    assert_allclose(star_fields.magnitudes(exposure), truth, rtol=0, atol=0.03)
    assert_allclose(np.median(exposure.bkg_error) * NMGY, 20, rtol=0.01)


def test_other_layouts(tmp_path, planes):
    path = write(tmp_path / 'image.fits', *planes)
    with fits.open(path) as hdus:
        hdus[:3].writeto(tmp_path / 'short.fits')
        # Variance and mask are taken for each other.
        hdus[2].header['EXTTYPE'], hdus[3].header['EXTTYPE'] = 'VARIANCE', 'MASK'
        hdus.writeto(tmp_path / 'swapped.fits')
    for name in ('short.fits', 'swapped.fits'):
        with pytest.raises(
            ValueError, match=f'{name}.* is not of the layout of calexp'
        ):
            hsc.read_exposure(tmp_path / name)
    with pytest.raises(FileNotFoundError, match='image'):
        hsc.read_exposure(tmp_path / 'absent.fits')


def test_patches(tmp_path, planes, star_fields):
    """
    Bands of patches of tracts; a coadd of LSST states neither band nor survey.
    """
    header = star_fields.wcs_cards(0.2)
    for band in 'RI':
        cards = {'FILTER': f'HSC-{band}', 'FLUXMAG0': 10 ** (0.4 * 27)}
        for patch in ('4,4', '4,5'):
            path = tmp_path / f'calexp-HSC-{band}-9813-{patch}.fits'
            write(path, *planes, cards=cards, header=header)
    for band in 'gr':
        for name in ('deepCoadd_calexp_2877_19_{}_DC2_u_run', 'calexp-HSC-{}-1-1,1'):
            name = name.format(band if name[0] == 'd' else band.upper())
            write(tmp_path / f'{name}.fits', *planes, header=header)
    fields = find_fields(tmp_path, 'hsc', background=0.0)
    assert fields.pop(0).open()['g'].band is BANDS['HSC.g']
    assert [field.id for field in fields] == ['9813-4_4', '9813-4_5', '2877-19']
    exposures = fields[0].open()
    assert set(exposures) == {'i', 'r'}
    assert exposures['i'].band is BANDS['HSC.i']
    exposures = fields[2].open()
    assert exposures['g'].band is BANDS['LSST.g']
    corners = exposures.wcs.calc_footprint()
    assert_allclose(fields[2].footprint, corners, atol=1e-9)
    with pytest.raises(FileNotFoundError, match='patches of HSC or LSST'):
        find_fields([tmp_path / 'other.fits'], 'hsc')


def test_real_pixels(shared_data, tmp_path):
    """
    Magnitudes of injected stars in real coadds of five bands, by their PSFs.
    """
    offsets, scatter = [], []
    folder = shared_data / 'hsc_blends'
    for number, path in enumerate(sorted(folder.glob('set[23]/*.npz'))):
        blend = np.load(path)
        files, psfs = {}, {}
        for k, band in enumerate('grizy'):
            name = tmp_path / f'calexp-HSC-{band.upper()}-{number}-0,0.fits'
            cards = {'FILTER': f'HSC-{band.upper()}', 'FLUXMAG0': 10 ** (0.4 * 27)}
            mask = np.broadcast_to(blend['mask'], blend['images'].shape)[k]
            mask = mask & ~(1 << PLANES['NO_DATA'])
            images = blend['images'][k], blend['variance'][k], mask
            files[band] = str(write(name, *images, cards=cards))
            psfs[band] = str(name.with_name(f'psf-{number}-{band}.fits'))
            fits.writeto(psfs[band], blend['psfs'][k])
        exposures = hsc.open_field(files, psf=psfs, bad_planes=['SAT'])
        for exposure in exposures.values():
            pull = exposure.data / exposure.bkg_error
            # Light only brightens pixels.
            scatter.append(1.4826 * np.median(-pull[(pull < 0) & ~exposure.mask]))
        for star in blend['matched']:
            if star['sourceType'].strip() != b'star':
                continue
            for band, exposure in exposures.items():
                flux = _psf_flux(exposure, star['x'], star['y'])
                offsets.append(22.5 - 2.5 * np.log10(flux) - star[f'{band}magVar'])
    assert len(offsets) >= 5
    assert np.median(scatter) == pytest.approx(1, abs=0.15)
    assert np.median(offsets) == pytest.approx(0, abs=0.05)
    assert np.abs(offsets).max() < 0.15


def _psf_flux(exposure, x, y):
    """
    Flux of a star by its PSF, within 3 pixels.
    """
    rows, columns = np.indices(exposure.shape)
    near = (np.abs(rows - y) <= 3) & (np.abs(columns - x) <= 3)
    model = exposure.psf_at(x, y).copy()
    model.x_0, model.y_0 = x, y
    shape = model(columns[near], rows[near])
    return (exposure.data[near] * shape).sum() / (shape**2).sum()
