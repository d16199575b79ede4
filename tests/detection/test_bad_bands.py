# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bad input of several bands: a clear error or one warning, never a wrong table.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from bliss_astro import CoaddSimulator, Exposure, OutOfDomainWarning
from bliss_astro.detection import _band_checks, detect_many, detect_sources
from bliss_astro.exposures import BANDS, Band, ExposureSet
from bliss_astro.exposures._read import scaled
from bliss_astro.flags import CatalogFlag
from bliss_astro.priors import CatalogPrior

F606W = Band('F606W', 590.0, 220.0)


def _wcs(x=40.0, scale=1e-4):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ('RA---TAN', 'DEC--TAN'), (-scale, scale)
    wcs.wcs.crpix = (x, 30)
    return wcs


@pytest.fixture
def images(of_bands):
    """
    Arrays by band, and what is known of them.
    """
    names = 'psf', 'background', 'bkg_error', 'effective_gain'
    known = {key: {b: getattr(e, key) for b, e in of_bands.items()} for key in names}
    arrays = {band: np.array(each.data) for band, each in of_bands.items()}
    return arrays, known | {'density': 3e-3}


@pytest.mark.parametrize(
    ('change', 'given', 'error', 'words'),
    [
        # Names.
        ({'F606W': 'r'}, {}, ValueError, "^band 'F606W': .*bandpass, must be one.*'F6"),
        ({'R': 'r'}, {}, ValueError, r"must be one of u, g, .* a Band\(name.*got 'R'"),
        ({3: 'r'}, {}, TypeError, "band '3': a band must be str or Band; got int"),
        ({'g': 'r'}, {}, ValueError, "the bands 'g' and 'r' have one image"),
        ({}, {'reference': 'R'}, ValueError, r"reference must .*\(r, g, i\); got 'R'"),
        ({'r': None}, {'reference': 'r'}, ValueError, r'reference must .*\(g, i\)'),
        ({'r': None, 'g': None, 'i': None}, {}, ValueError, 'have an image in some'),
        ({}, {'bandpass': {'q': F606W}}, ValueError, "bandpass must name bands .*'q'"),
        ({}, {'bandpass': {'g': 7}}, TypeError, "^band 'g': bandpass must be str or B"),
        ({}, {'psf': {'R': None}}, ValueError, r"psf must name bands .*\['R'\]"),
        ({}, {'bands': 'rgi'}, ValueError, 'bands was given although the images have'),
        # Numbers.
        ({}, {'calibration': 2.0}, TypeError, 'calibration must be a dict .*got float'),
        ({}, {'calibration': {'r': 2}}, ValueError, r"calibration must .*\['r'\]"),
        ({}, {'calibration': {'g': 0}}, ValueError, r"calibration\['g'\] must be pos"),
        ({}, {'zero_point': {'g': 25}}, ValueError, 'None.*; give calibration.*zero_p'),
        ({}, {'mask': np.zeros((3, 72, 88), bool)}, ValueError, "^band 'r': mask must"),
        ({}, {'psf': ['a', 'b', 'c']}, TypeError, "^band 'r': psf must be"),
    ],
)  # fmt: skip
def test_by_name(tiny, images, change, given, error, words):
    arrays, known = images
    change = {key: arrays.get(value) for key, value in change.items()}
    if change.keys() - arrays.keys():
        arrays.pop('r')
        known = {'psf': known['psf']['r']}
    with pytest.raises(error, match=words):
        tiny.infer(arrays | change, **known | given)


@pytest.mark.parametrize(
    ('shape', 'bands', 'error', 'words'),
    [
        ((3, 40, 40), 'gr', ValueError, "bands must name the 3 planes .*got 'gr'"),
        ((3, 40, 40), 'r,g,i', ValueError, "name the 3 planes .*; got 'r,g,i'"),
        ((3, 40, 40), 3, TypeError, 'bands must be a list of names; got int'),
        ((3, 40, 40), 'grr', ValueError, 'bands must be different; got r twice'),
        ((40, 40, 3), 'gri', ValueError, r'as the last axis of \(40, 40, 3\) has; mov'),
        ((3, 40, 40), None, ValueError, r'data\[0, :, :\] \(.*takes all .* with bands'),
        ((40, 40), 'g', ValueError, 'bands was given although data has no bands'),
        ((2, 3, 40, 40), 'gri', ValueError, 'bands was given although data has no'),
    ],
)
def test_cubes(tiny, shape, bands, error, words):
    with pytest.raises(error, match=words):
        detect_sources(np.zeros(shape), encoder=tiny, bands=bands)


def test_cubes_of_files(tiny, images, tmp_path):
    arrays, known = images
    header = _wcs().to_header()
    header.update({'CTYPE3': 'BAND', 'CRVAL3': 1, 'BUNIT': 'nmgy'})
    hdu = fits.PrimaryHDU(np.stack(list(arrays.values())), header)
    hdu.writeto(tmp_path / 'cube.fits')
    path = tmp_path / 'cube.fits'
    found = [
        tiny.infer(cube, bands='rgi', **known)
        for cube in (path, f'{path}[0]', hdu, fits.HDUList([hdu]))
    ]
    counts = [each.expected_counts() for each in found]
    assert counts == [counts[0]] * 4
    assert found[0].exposure.unit == u.nmgy
    assert found[0].exposure.wcs.wcs.crpix[0] == 40
    assert found[0].meta['bands'] == ['r', 'g', 'i']
    with pytest.raises(ValueError, match='bands must name the 3 planes'):
        tiny.infer(path, bands='rg', **known)
    hdu = fits.PrimaryHDU(arrays['r'])
    with pytest.raises(ValueError, match=r'has no cube .* 0 PRIMARY: image 88 x 72'):
        tiny.infer(hdu, bands='rg', **known)


def test_bandpass(tiny, images, of_bands):
    arrays, known = images
    known |= {'zero_point': 22.5, 'reference': 'r'}

    def infer(names, **own):
        data = dict(zip(names, arrays.values(), strict=True))
        given = {
            key: dict(zip(names, v.values(), strict=True)) if isinstance(v, dict) else v
            for key, v in known.items()
        }
        return tiny.infer(data, **given | own)

    expected = infer(['r', F606W, 'i'])
    assert expected.meta['band_wavelengths'] == [616.8, 590.0, 748.7]
    found = infer(['r', 'F606W', 'i'], bandpass={'F606W': F606W})
    assert found.meta['bands'] == ['r', 'F606W', 'i']
    assert found.expected_counts() == expected.expected_counts()
    # Names of the user stay, whatever the name of the bandpass.
    found = infer('rgi', bandpass={'g': F606W, 'i': 'DECam.i'})
    assert found.meta['bands'] == ['r', 'g', 'i']
    assert found.meta['band_wavelengths'] == [616.8, 590.0, 780.3]
    # One image; what an image says itself may not be given again.
    data = of_bands['r'].replace(band=None)
    assert tiny.infer(data, bandpass=F606W).exposure.band is F606W
    with pytest.raises(ValueError, match='band was given although data is an'):
        tiny.infer(of_bands['r'], bandpass=F606W)


def test_reference_of_a_survey(tiny, images):
    arrays, known = images
    for key, value in known.items():
        if isinstance(value, dict):
            known[key] = {f'DECam.{band}': one for band, one in value.items()}
    # Not the first one.
    data = {f'DECam.{band}': arrays[band] for band in 'gri'}
    found = tiny.infer(data, zero_point=22.5, **known)
    assert found.meta['bands'] == ['DECam.r', 'DECam.g', 'DECam.i']


def test_other_grids(tiny, of_bands):
    r, g = of_bands['r'].replace(wcs=_wcs()), of_bands['g']
    for other, words in (
        (g[4:], r"^band 'g' has the shape .*; give both a wcs, for .*align_bands"),
        (g.replace(wcs=_wcs(400)), "'g'.* does not overlap with the reference band"),
        (g.replace(wcs=_wcs(40, 3e-4)), r'grid are 0.333 times as wide as .*Bin the'),
    ):
        with pytest.raises(ValueError, match=words):
            tiny.infer({'r': r, 'g': other})


@pytest.mark.parametrize('unit', [None, u.adu, u.electron / u.s, u.W / u.m**2])
def test_relative_colours(tiny, of_bands, unit):
    bands = {name: one.replace(unit=unit) for name, one in of_bands.items()}
    words = 'not calibrated: numbers of {} were taken to be in the unit of r'
    for data in (bands, ExposureSet(bands)):
        with pytest.warns(OutOfDomainWarning, match=words.format('g, i')) as found:
            tiny.infer(data, density=3e-3)
        assert len(found) == 1
    # One of two is calibrated.
    with pytest.warns(OutOfDomainWarning, match=words.format('i')):
        tiny.infer(bands, density=3e-3, calibration={'g': 1.0})
    tiny.infer(ExposureSet(bands, calibration={'g': 1, 'i': 1}), density=3e-3)


@pytest.mark.parametrize(
    ('band', 'words'),
    [
        (Band('Ks', 2150.0, 300.0), r'wavelength of the band \(2150 nm\) is outside'),
        (Band('FUV', 154.0, 90.0), r'wavelength of the band \(154 nm\) is outside'),
        (Band('NB921', 921.0, 13.5), r'width of the band \(13.5 nm\) is outside'),
    ],
)
def test_bands_unlike_those_of_the_training(tiny, of_bands, band, words):
    r, g = of_bands['r'], of_bands['g']
    with pytest.warns(OutOfDomainWarning, match=f"^band '{band}': the {words}"):
        found = tiny.infer({'r': r, band: g}, density=3e-3)
    assert len(found.meta['warnings']) == 1
    with pytest.warns(OutOfDomainWarning, match=f'^the {words}'):
        tiny.infer(g.replace(band=band), density=3e-3)
    with pytest.warns(OutOfDomainWarning, match=f"^band '{band}': the {words}"):
        tiny.infer({'r': r, 'g': g, band: None}, density=3e-3)


def test_sources_elsewhere():
    y, x = np.indices((160, 200))
    light = np.zeros(y.shape)
    rng = np.random.default_rng(1)
    for x_0, y_0, flux in rng.uniform((0, 0, 8), (200, 160, 60), (40, 3)):
        light += flux * np.exp(-((x - x_0) ** 2 + (y - y_0) ** 2) / 4.5)

    def image(light):
        noise = rng.normal(0, 1, light.shape)
        return Exposure(light + noise, bkg_error=1, effective_gain=4, unit=u.nmgy)

    def check(other):
        _band_checks.check_bands(ExposureSet({'r': image(light), 'g': image(other)}))

    for sound in (light, 3 * light, np.where(x < 150, light, 0)):
        check(sound)
    # An image of noise alone.
    with pytest.warns(OutOfDomainWarning, match="band 'g': its light is .* times"):
        check(0 * light)
    for wrong in (light[::-1], light[:, ::-1], np.roll(light, 40, 1), 5 * light[::-1]):
        with pytest.warns(OutOfDomainWarning, match="band 'g': its light lies at oth"):
            check(wrong)


@pytest.mark.parametrize(
    ('factor', 'words'),
    [(100.0, '68 times'), (0.01, '0.0068 times'), (3631.0, None), (1.5, ''), (0.7, '')],
)
def test_light_of_no_colour(of_bands, factor, words):
    """
    Units that are stated wrong: what the light of most sources cannot be.
    """
    wrong = scaled(of_bands['g'], factor, u.nmgy)
    bands = ExposureSet({**of_bands, 'g': wrong})
    if words == '':
        _band_checks.check_bands(bands)
        return
    text = f"'g': its light is {words or '.*'} .*in stars and galaxies.*: is the unit"
    with pytest.warns(OutOfDomainWarning, match=text):
        _band_checks.check_bands(bands)


@pytest.mark.parametrize('pair', [None, 'gz', 'gr'])
def test_swapped_bands(pair):
    """
    Bands with each other's light are noticed by the colours of all of them.
    """
    simulator = CoaddSimulator(
        1, CatalogPrior.sky(), bands='grz', shape=(300, 300), margin=0
    )
    bands = dict(simulator.sample(rng=2)[0].items())
    if pair is None:
        _band_checks.check_bands(ExposureSet(bands, reference='r'))
        return
    one, two = (bands[band] for band in pair)
    bands |= {pair[0]: two.replace(band=one.band), pair[1]: one.replace(band=two.band)}
    with pytest.warns(OutOfDomainWarning, match='the light of either .* swapped') as w:
        _band_checks.check_bands(ExposureSet(bands, reference='r'))
    assert {*pair} <= {*str(w[0].message).partition(':')[0].split("'")}


def test_many(tiny, of_bands):
    r, g, i = of_bands.values()
    images = [of_bands, {'g': g, 'i': i}, {'r': r, 'z': None}, {'i': i, 'r': r}]
    alone = [tiny.infer(image, density=3e-3).expected_counts() for image in images]
    found = [each.expected_counts() for each in tiny.infer(images, density=3e-3)]
    np.testing.assert_allclose(found, alone, rtol=1e-4)
    many = detect_many([{'r': r}, {'r': r, 'z': g}], encoder=tiny)
    with (
        pytest.warns(UserWarning, match='no source'),
        pytest.raises(ValueError, match=r"^image 1: band 'z': data is in the band 'g'"),
    ):
        list(many)


def test_order_and_units(tiny, of_bands):
    expected = tiny.infer(of_bands, density=3e-3)
    counts = expected.expected_counts()
    for names in ('gri', 'igr'):
        found = tiny.infer({b: of_bands[b] for b in names}, density=3e-3)
        assert found.meta['bands'] == expected.meta['bands']
        assert found.expected_counts() == counts
    factor = (1 * u.nmgy).to_value(u.uJy, u.zero_point_flux(1 * u.AB))
    g = scaled(of_bands['g'], factor, u.uJy)
    found = tiny.infer({**of_bands, 'g': g}, density=3e-3)
    assert found.unit == u.nmgy
    assert found.expected_counts() == pytest.approx(counts, rel=1e-5)
    assert BANDS['g'].name in found.meta['bands']


def test_where_the_reference_is_masked(tiny, of_bands):
    mask = np.zeros(of_bands.shape, dtype=bool)
    mask[:, 60:] = True
    cut = {**of_bands, 'r': of_bands['r'].replace(mask=mask)}
    flags = tiny.infer(cut, density=3e-3).flags & int(CatalogFlag.MISSING_BAND)
    np.testing.assert_array_equal(flags > 0, mask)
    alone = tiny.infer(cut['r'], density=3e-3)
    assert not np.any(alone.flags & int(CatalogFlag.MISSING_BAND))
