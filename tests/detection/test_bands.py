# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of several bands: what they may be, grids, missing bands, one band as before.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.wcs import WCS
from photutils.psf import PSFPhotometry

from bliss_astro import BlissFinder, CoaddSimulator, Exposure, OutOfDomainWarning
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.detection import _band_checks, _batches, detect_many, detect_sources
from bliss_astro.detection._bands import encoder_inputs_of_bands
from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.exposures import BANDS, ExposureSet
from bliss_astro.flags import CatalogFlag
from bliss_astro.priors import CatalogPrior
from bliss_astro.psf import estimate_psf

_M2 = Path(__file__).parents[3] / 'shared/data/sdss/2583/2/136'


@pytest.fixture(scope='module')
def encoder(encoder_of_bands):
    """
    One of bands that has the shipped weights; what bands add begins at nothing.
    """
    return encoder_of_bands


def _counts(tiny, data, **known):
    return tiny.infer(data, density=3e-3, **known).expected_counts()


def test_one_band_is_as_before(encoder, of_bands, same_rows):
    one = Encoder.from_pretrained('stars-galaxies-sequence')
    one = one.with_design(sequence=True, shapes_only=True)
    expected = detect_sources(of_bands['r'], encoder=one)
    assert len(expected) > 1
    same_rows(detect_sources(of_bands['r'], encoder=encoder), expected, rtol=1e-5)
    same_rows(
        detect_sources({'r': of_bands['r']}, encoder=encoder), expected, rtol=1e-5
    )
    # What other bands add to the network begins at nothing.
    counts = encoder.infer(of_bands).expected_counts()
    assert counts == pytest.approx(expected.posterior.expected_counts(), rel=1e-4)


def test_kinds_of_images(tiny, of_bands):
    names = list(of_bands)
    expected = _counts(tiny, of_bands)
    assert expected != pytest.approx(_counts(tiny, of_bands['r']), rel=1e-5)
    assert _counts(tiny, dict(of_bands)) == expected
    shuffled = {name: of_bands[name] for name in reversed(names)}
    assert _counts(tiny, shuffled) == pytest.approx(expected, rel=1e-5)
    cube = np.stack([of_bands[name].data for name in names])
    keys = 'background', 'bkg_error', 'effective_gain', 'psf'
    known = {key: {n: getattr(of_bands[n], key) for n in names} for key in keys}
    known |= {'psf_error': of_bands['r'].psf_error, 'background_error': 0.05}
    with pytest.warns(OutOfDomainWarning, match='without a unit and not calibrated'):
        found = _counts(tiny, cube, bands=names, **known)
    assert found == pytest.approx(expected, rel=0.02)
    known['calibration'] = {'g': 1.0, 'i': 1.0}
    assert _counts(tiny, cube, bands=names, **known) == found
    (many,) = tiny.infer(cube[None], bands=names, density=3e-3, **known)
    assert many.expected_counts() == found


def test_bands_are_prepared_in_threads(tiny, of_bands):
    images = {name: own.data[:40, :40] for name, own in of_bands.items()}
    images |= {name: np.random.default_rng(1).normal(size=(40, 40)) for name in 'uz'}
    images['z'] = images['z'][::-1]
    options = {'encoder': tiny, 'density': 3e-3, 'threshold': 0.01, 'check': False}

    def detect(n_threads):
        with pytest.warns(OutOfDomainWarning) as seen:
            found = detect_sources(images, n_threads=n_threads, **options)
        assert {own.filename for own in seen} == {__file__}
        return found, [str(own.message) for own in seen]

    (one, alone), (two, messages) = detect(1), detect(2)
    assert messages == alone
    missing = [text for text in messages if 'psf was not given' in text]
    assert [text.partition(':')[0] for text in missing] == ["band 'u'", "band 'z'"]
    assert one.meta['estimated'] == two.meta['estimated']
    assert np.array_equal(one['flux_g'], two['flux_g'])
    images['g'] = np.full((40, 40), np.nan)
    with pytest.raises(ValueError, match=r"^band 'g': data must have finite pixels"):
        detect_sources(images, n_threads=2, **options)


def test_inputs(tiny, of_bands):
    both = [of_bands['r'], of_bands['g'], BANDS['z']]
    inputs, floor, facts, _ = encoder_inputs_of_bands(both, tiny)
    assert inputs.image.shape == (1, 3, 72, 88)
    assert inputs.present.tolist() == [[True, True, False]]
    assert bool(inputs.mask[:, 2].all())
    description = inputs.band[0, :, :, 0, 0]
    expected = torch.tensor([own.description for own in map(BANDS.get, 'rgz')])
    torch.testing.assert_close(description, expected, atol=1e-3, rtol=0)
    noise = [float(exposure.bkg_error) for exposure in both[:2]]
    log_ratio = np.log(noise[1] / noise[0])
    assert inputs.log_scale.flatten().tolist() == pytest.approx([0, log_ratio, 0])
    assert len(facts) == 2
    assert float(inputs.log_nmgy) == pytest.approx(np.log(noise[0]))
    assert floor.shape == (1, 1)
    # One band that is known passes its description.
    alone, *_ = encoder_inputs_of_bands([of_bands['g']], tiny)
    assert alone.band.flatten().tolist() == pytest.approx(description[1].tolist())
    unknown, *_ = encoder_inputs_of_bands([of_bands['r'].replace(band=None)], tiny)
    assert not unknown.band.any()


def test_reference(tiny, of_bands):
    found = tiny.infer(of_bands, reference='g')
    assert found.exposure.data is of_bands['g'].data
    assert found.meta['bands'] == ['g', 'r', 'i']
    others = {name: of_bands[name] for name in 'gi'}
    assert tiny.infer(others).meta['bands'] == ['g', 'i']
    assert tiny.infer(dict(of_bands)).meta['bands'][0] == 'r'
    with pytest.raises(ValueError, match=r"reference must be one of the bands .*'z'"):
        tiny.infer(of_bands, reference='z')
    with pytest.raises(ValueError, match='reference was given although data has no'):
        tiny.infer(of_bands['r'], reference='r')
    with pytest.raises(ValueError, match='have an image in some band'):
        tiny.infer({'r': None})


def test_missing_bands(tiny, of_bands):
    some = {'r': of_bands['r'], 'g': of_bands['g'], 'z': None}
    found = tiny.infer(some, density=3e-3)
    assert found.meta['bands'] == ['r', 'g', 'z']
    assert found.meta['bands_missing'] == ['z']
    assert found.meta['band_wavelengths'] == pytest.approx([616.8, 468.5, 889.0])
    del some['z']
    assert found.expected_counts() == pytest.approx(_counts(tiny, some), rel=1e-5)


def test_places_without_a_band(tiny, of_bands):
    mask = np.zeros(of_bands.shape, dtype=bool)
    mask[:, 60:] = True
    cut = {'r': of_bands['r'], 'g': of_bands['g'].replace(mask=mask)}
    flags = tiny.infer(cut).flags & int(CatalogFlag.MISSING_BAND)
    np.testing.assert_array_equal(flags > 0, mask)


def test_other_grids(tiny, of_bands):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ('RA---TAN', 'DEC--TAN'), (-1e-4, 1e-4)
    wcs.wcs.crpix = (40, 30)
    shifted = wcs.deepcopy()
    shifted.wcs.crpix += 0.4
    both = {'g': of_bands['g'].replace(wcs=shifted)}
    both['r'] = of_bands['r'].replace(wcs=wcs)
    found = tiny.infer(both)
    assert found.meta['bands'] == ['r', 'g']
    assert found.meta['bands_resampled'] == ['g']
    assert found.exposure.data is of_bands['r'].data
    with pytest.raises(ValueError, match='align_bands'):
        tiny.infer({'r': of_bands['r'], 'g': of_bands['g'][:60]})


def test_encoder_of_one_band(field, of_bands, same_rows):
    with pytest.warns(UserWarning, match="'r' was taken, and the bands g, i left out"):
        found = detect_sources(of_bands, encoder='stars')
    assert 'bands' not in found.posterior.meta
    same_rows(found, detect_sources(of_bands['r'], encoder='stars'))


def test_messages_name_the_band(encoder, of_bands):
    wrong = of_bands['g'].replace(bkg_error=2 * of_bands['g'].bkg_error)
    both = {'r': of_bands['r'], 'g': wrong}
    with pytest.warns(OutOfDomainWarning, match="band 'g': the scatter of the pixels"):
        found = encoder.infer(both)
    assert all(text.startswith("band 'g'") for text in found.meta['warnings'])
    with pytest.raises(ValueError, match=r"^band 'g': bkg_error must"):
        encoder.infer({'r': of_bands['r'], 'g': np.ones((72, 88))}, bkg_error={'g': 0})
    many = detect_many([{'r': 'nowhere.fits'}], encoder=encoder)
    with pytest.raises(FileNotFoundError, match=r"^image 0: band 'r': "):
        next(many)
    with pytest.raises(TypeError, match='detect_sources takes one image'):
        detect_many(of_bands, encoder=encoder)


def test_shifted_bands_are_noticed(encoder):
    sky = CatalogPrior()
    made = CoaddSimulator(4, sky, bands='rg', shape=(160, 160)).sample(rng=2)[0]
    rolled = np.roll(made['g'].data, 3, 1)
    both = {'r': made['r'], 'g': made['g'].replace(data=rolled)}
    with pytest.warns(
        OutOfDomainWarning, match=r"band 'g': its sources lie (2.9|3\..) px"
    ):
        _band_checks.check_bands(ExposureSet(both))


@pytest.mark.filterwarnings('error')
def test_no_shift_of_aligned_bands():
    sky = CatalogPrior()
    for seed in range(8):
        made = CoaddSimulator(1, sky, bands='rg', shape=(96, 96)).sample(rng=seed)[0]
        _band_checks.check_bands(made)


def test_posterior_anew(tiny, of_bands, tmp_path):
    found = tiny.infer(of_bands, keep='marginals')
    kept = tiny.infer(of_bands, keep='posterior')
    anew = found.tile_posterior.expected_counts()
    expected = kept.tile_posterior.expected_counts()
    torch.testing.assert_close(anew, expected, atol=2e-3, rtol=0.02)
    again = pickle.loads(pickle.dumps(found))
    assert again.expected_counts() == found.expected_counts()
    changed = found.exposures['g']
    changed.data[3, 3] += 1
    try:
        found.kept._tiles = None
        with pytest.raises(ValueError, match='has been changed'):
            _ = found.tile_posterior
    finally:
        changed.data[3, 3] -= 1


@pytest.mark.parametrize('n_processes', [None, 2])
def test_many(tiny, of_bands, n_processes, monkeypatch):
    monkeypatch.setattr(_batches, '_PIXELS', 10_000)
    images = [of_bands, dict(of_bands), of_bands['r']]
    expected = [_counts(tiny, image) for image in images]
    known = {'density': 3e-3, 'n_processes': n_processes}
    found = list(tiny.infer(images, **known))
    counts = [posterior.expected_counts() for posterior in found]
    np.testing.assert_allclose(counts, expected, rtol=1e-4)
    assert [p.exposures and list(p.exposures) for p in found] == [list('rgi')] * 2 + [
        None
    ]


@pytest.mark.parametrize('keep', ['marginals', 'posterior', None])
def test_what_is_kept(encoder, of_bands, keep, tmp_path):
    missing = {'r': of_bands['r'], 'g': of_bands['g'], 'z': None}
    catalog = detect_sources(missing, encoder=encoder, keep=keep)
    assert list(catalog.exposures) == ['r', 'g']
    assert [band.name for band in catalog.exposures.bands] == ['r', 'g', 'z']
    assert catalog.exposure is catalog.exposures['r']
    names, options = ['flux_g', 'flux_r', 'flux_z'], {'n_samples': 5, 'rng': 1}
    drawn = catalog.posterior.sample_rows(catalog, names, **options)
    joint = catalog.posterior.sample(1, rng=1)[0]
    assert {'flux_r', 'flux_g', 'flux_z'} <= {*joint.colnames}
    copies = pickle.loads(pickle.dumps(catalog)), catalog.copy()
    for made in copies:
        again = made.posterior.sample_rows(made, names, **options)
        np.testing.assert_array_equal(again['flux_z'], drawn['flux_z'])
    moved = catalog.posterior.to('cpu')
    assert moved.exposures is catalog.exposures
    found = moved.sample(1, rng=1)[0]
    np.testing.assert_allclose(found['flux_g'], joint['flux_g'], rtol=0.02)
    path = tmp_path / 'catalog.fits'
    catalog.write(path, posterior=True)
    read = ProbabilisticCatalog.read(path)
    assert read.exposures is None
    assert read.image['bands_missing'] == ['z']
    if keep is not None:
        again = read.posterior.sample_rows(read, names, **options)
        np.testing.assert_allclose(again['flux_g'], drawn['flux_g'], rtol=1e-3)
    if keep == 'posterior':
        found = read.posterior.sample(1, rng=1)[0]
        np.testing.assert_allclose(found['flux_g'], joint['flux_g'], rtol=0.02)
    else:
        with pytest.raises(ValueError, match="keep='posterior' in the detection"):
            read.posterior.sample(1)


def test_binned(tiny, of_bands):
    found = tiny.infer(of_bands, bin=2)
    assert found.meta['binning'] == 2
    assert found.tile_posterior.inputs.image.shape[1:] == (3, 36, 44)


def test_blocks_are_as_the_whole(tiny, of_bands, monkeypatch):
    from bliss_astro.detection import _infer

    expected = _counts(tiny, of_bands)
    monkeypatch.setattr(_infer, '_BLOCK', 300)
    assert _counts(tiny, of_bands) == pytest.approx(expected, rel=1e-4)


def test_finder(tiny, of_bands):
    with pytest.warns(UserWarning, match='no source'):
        assert BlissFinder(0.999, encoder=tiny)(of_bands) is None


def test_finder_of_photometry_in_each_band(encoder, of_bands):
    found = BlissFinder(encoder=encoder)(of_bands)
    names = ['id', 'x_centroid', 'y_centroid', 'flux', 'probability']
    assert found.colnames == [*names, 'flux_g', 'flux_r', 'flux_i']
    image = of_bands['g']
    found['flux'] = found['flux_g']
    data = (image.data - image.background) * image.unit
    fitted = PSFPhotometry(image.psf, (5, 5))(data, init_params=found)
    np.testing.assert_array_equal(fitted['x_init'], found['x_centroid'])
    np.testing.assert_array_equal(fitted['flux_init'], found['flux_g'])
    with pytest.raises(TypeError, match=r'data must be one image, .*; got one by band'):
        estimate_psf(of_bands)


@pytest.mark.filterwarnings('ignore')
def test_frames_of_sdss(encoder):
    """
    Bands on the pixels of r; what the others add begins at nothing.
    """
    if not _M2.is_dir():
        pytest.skip('no frames of SDSS')
    psf, cut = _M2 / 'psField-002583-2-0136.fits', (slice(900, 996), slice(1000, 1096))
    paths = {band: _M2 / f'frame-{band}-002583-2-0136.fits.bz2' for band in 'gr'}
    images = {b: Exposure.read(path, psf=psf)[cut] for b, path in paths.items()}
    found = detect_sources(images, encoder=encoder)
    one = detect_sources(images['r'], encoder=encoder)
    assert found.posterior.meta['bands'] == ['r', 'g']
    assert found.posterior.meta['bands_resampled'] == ['g']
    assert abs(len(found) - len(one)) <= 0.1 * len(one)
    record = found.meta['estimated']
    assert record['bkg_error_g']['unit'] == 'nmgy'
    assert isinstance(found.posterior.tile_posterior.inputs, EncoderInputs)
