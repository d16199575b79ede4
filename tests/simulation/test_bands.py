# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of scenes simulated in several bands.
"""

import dataclasses

import astropy.units as u
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro import CoaddSimulator
from bliss_astro.exposures import BANDS, ExposureSet
from bliss_astro.priors import CatalogPrior, ColourPrior, StarPrior
from bliss_astro.psf import GaussianPSF
from bliss_astro.simulation import (
    SimulatedBands,
    SimulatedImages,
    SimulationConfig,
    SimulationStream,
)
from bliss_astro.simulation._camera import Camera

UGRIZ = tuple('ugriz')
SKY = SimulationConfig(
    population='sky',
    n_exposures=(1, 1),
    bad_pixels=False,
    star_scale=(3.0, 6.0),
    bands=UGRIZ,
    reference_shares=(0, 0, 1, 0, 0),
    band_shares=(0, 0, 0, 0, 1),
)
EMPTY = {'star_scale': (1e-6, 1e-6), 'galaxy_scale': (1e-6, 1e-6)}
# Stars of a signal-to-noise ratio of 10 to 50 in r, one on most images.
STARS = dataclasses.replace(
    SKY,
    population='stars',
    density=(3e-3, 3e-3),
    floor_snr=(10.0, 10.0),
    typical_floor_snr=None,
    dynamic_range=5.0,
    limits=(20.0, 21.0),
    margin=16,
    confined_fraction=0.0,
    shape=(50, 50),
)


def draw(config, n, *, seed=1, **changes):
    stream = SimulationStream(dataclasses.replace(config, **changes))
    return stream.sample_batch(n, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module')
def sky():
    return draw(SKY, 96)


@pytest.fixture(scope='module')
def subsets():
    config = {'reference_shares': None, 'band_shares': None, 'n_exposures': (1, 3)}
    return draw(
        SKY, 1600, shape=(17, 17), confined_fraction=0.0, bands=tuple('grizy'), **config
    )


def test_single_exposures_are_resampled_to_the_reference_band():
    empty = {**EMPTY, 'bright_fraction': 0.0, 'trail_fraction': 0.0}
    scenes = draw(SKY, 64, large_fraction=0.0, **empty)
    correlation = torch.stack([own.correlation for own in scenes.images], 1)
    assert not correlation[:, 0].any()
    resampled = (correlation[:, 1:] > 0).all(2)
    # All other bands of a scene, or none; each with a shift of its own.
    assert (resampled.all(1) == resampled.any(1)).all()
    assert 0.3 < float(resampled[:, 0].double().mean()) < 0.9
    assert float((correlation[:, 1] - correlation[:, 2]).abs().max()) > 0.2
    for k, own in enumerate(scenes.images[1:]):
        pulls = own.data - own.background[:, None, None]
        pulls = pulls / own.bkg_error[:, None, None]
        pulls -= pulls.flatten(1).median(1).values[:, None, None]
        chosen = pulls[resampled[:, k]]
        assert_allclose(float(chosen.abs().median()) / 0.6745, 1, atol=0.03)
        found = (chosen[:, 1:] * chosen[:, :-1]).flatten(1).median(1).values
        stated = own.correlation[resampled[:, k], 1]
        assert np.corrcoef(found, stated)[0, 1] > 0.8


def test_references_of_stars_are_resampled_too():
    given = {'bands': tuple('gri'), 'reference_shares': (0, 1, 0), 'psf': 'telescopes'}
    given['fwhm'] = (2.0, 2.2)
    for n in (1, 3):
        shares = tuple(float(k == n) for k in (1, 2, 3))
        stars = draw(STARS, 160, band_shares=shares, **given)
        images = stars.images[:n]
        correlation = torch.stack([own.correlation for own in images], 1)
        resampled = (correlation > 0).all(2)
        assert 0.05 < float(resampled[:, 0].double().mean()) < 0.45
    assert (resampled[:, 1] == resampled[:, 2]).all()
    assert (resampled[:, 1] >= resampled[:, 0]).all()
    assert 0.3 < float(resampled[:, 1].double().mean()) < 0.85
    # What one dither makes of a PSF is not round: narrow along y where x correlates.
    own, there = images[1], resampled[:, 1]
    along = (own.correlation[:, 0] - own.correlation[:, 1])[there]
    e1 = own.psf[there, 6]
    assert np.corrcoef(e1, along)[0, 1] > 0.5


def test_red_stars_below_the_floor_are_in_the_images():
    changes = {'bands': tuple('gi'), 'unseen': 0.3, 'density': (0.02, 0.02)}
    shares = {'reference_shares': (1, 0), 'band_shares': (0, 1)}
    first, second = draw(STARS, 48, **changes, **shares).images
    floor = 0.3 * first.flux_min[:, None]
    used = first.flux > 0
    faint = used & (first.flux < 0.999 * floor)
    assert faint.any()
    # They are as far above the noise in the other band as those in this one are.
    noise = [own.bkg_error * own.psf[:, 0] for own in (first, second)]
    snr = second.flux / noise[1][:, None]
    least = (floor / noise[0][:, None]).expand_as(used)
    assert float((snr / least)[faint].min()) > 0.999


def test_one_band_is_a_batch_of_images():
    images = draw(SKY, 2, bands=(), reference_shares=None, band_shares=None)
    assert isinstance(images, SimulatedImages)


def test_bands_show_one_scene(sky):
    assert isinstance(sky, SimulatedBands)
    assert len(sky) == 96
    first = sky.reference
    for k, images in enumerate(sky.images):
        for name in ('x', 'y', 'is_galaxy', 'galaxy', 'density', 'region'):
            assert torch.equal(getattr(images, name), getattr(first, name)), name
        scale = images.electrons_per_nmgy / first.electrons_per_nmgy
        ratio = images.flux / first.flux / scale[:, None]
        used = first.flux > 0
        expected = sky.log_ratio[..., k][used]
        torch.testing.assert_close(ratio[used].log(), expected, atol=1e-4, rtol=1e-4)
        assert (sky.log_ratio[..., k][~used] == 0).all()
        torch.testing.assert_close(images.flux_min, first.flux_min * scale)
    assert not sky.log_ratio[..., 0].any()
    assert sky.names(3) == ['r', 'u', 'g', 'i', 'z']
    expected = torch.tensor([BANDS[name].description for name in sky.names()])
    torch.testing.assert_close(sky.bands[7], expected)


@pytest.mark.parametrize('depth', [1, 5])
def test_noise_of_each_band_is_that_stated(depth):
    bands = draw(SKY, 64, n_exposures=(depth, depth), **EMPTY)
    for images in bands.images:
        good = ~images.mask
        away = images.data - images.background[:, None, None]
        noise = (away / images.bkg_error[:, None, None])[good]
        # A coadd's noise correlates: fewer pixels are independent.
        n = len(noise) / (1 if depth == 1 else 2.5)
        assert abs(float(noise.var()) - 1) < 5 * (2 / n) ** 0.5
        assert abs(float(noise.mean())) < 5 * n**-0.5
    white = torch.stack([part.data[:, 8:-8, 8:-8].flatten(1) for part in bands.images])
    white = (white - white.mean(-1, keepdim=True)) / white.std(-1, keepdim=True)
    between = torch.einsum('fbn,gbn->fg', white, white) / white[0].numel()
    # Noise of one band is not that of another.
    assert float((between - torch.eye(5)).abs().max()) < 0.02


def test_bands_differ_in_conditions(sky):
    for name in ('background', 'electrons_per_nmgy', 'bkg_error'):
        first, *others = (getattr(part, name) for part in sky.images)
        assert all((first != other).all() for other in others)
    wide = torch.stack([GaussianPSF.from_shape(part.psf).fwhm for part in sky.images])
    # Bands have the seeing in common, which is worse in the blue.
    assert np.corrcoef(wide.log().numpy()).min() > 0.5
    assert float((wide[1] / wide[4]).log().mean()) > 0


@pytest.mark.parametrize('is_galaxy', [False, True])
def test_colours_are_those_of_the_prior(sky, is_galaxy):
    first = sky.reference
    used = (first.flux > 0) & (first.is_galaxy == is_galaxy)
    nmgy = (first.flux / first.electrons_per_nmgy[:, None])[used]
    magnitude = 22.5 - 2.5 * torch.log10(nmgy)
    expected = ColourPrior.default().sample(
        magnitude.repeat(50, 1),
        torch.full((50, len(magnitude)), is_galaxy),
        [BANDS[name] for name in sky.names()],
        generator=torch.Generator().manual_seed(2),
    )
    expected = expected.flatten(0, 1)[:, 1:]
    found, n = sky.log_ratio[used][:, 1:], len(magnitude)
    assert n > 150
    spread = expected.std(0)
    assert (((found.mean(0) - expected.mean(0)) / spread).abs() < 4 * n**-0.5).all()
    # The tails are long: quantiles rather than moments.
    for share in (0.16, 0.5, 0.84):
        below = (found < expected.quantile(share, 0)).float().mean(0)
        error = (share * (1 - share) / n) ** 0.5
        assert ((below - share).abs() < 4.5 * error).all(), share


def test_red_sources_below_the_floor_are_in_the_images(sky):
    first, snr = sky.reference, []
    floor = first.flux_min / first.bkg_error
    used = first.flux > 0
    for images in sky.images:
        width = GaussianPSF.from_shape(images.psf).fwhm
        wider = width / GaussianPSF.from_shape(first.psf).fwhm
        noise = images.bkg_error * wider * floor
        snr.append(images.flux / noise[:, None])
    snr = torch.stack(snr)
    # Sources of a catalogue are those that some band shows to 0.4 of the floor.
    assert float(snr.amax(0)[used].min()) > 0.35
    below = used & (snr[0] < 0.35)
    assert 0.02 < float(below.sum() / used.sum()) < 0.6
    most = sky.log_ratio.amax(-1)
    assert float(most[below].median()) > float(most[used & ~below].median())


def fitted(images):
    """Fluxes and errors of stars by fits of the PSF at their true positions."""
    pixel = torch.arange(images.data.shape[-1])
    psf = GaussianPSF.from_shape(images.psf)[:, None, None]
    rows = []
    for k in range(images.x.shape[1]):
        dx = pixel - images.x[:, k, None, None]
        dy = pixel[:, None] - images.y[:, k, None, None]
        shape = psf(dx.expand(-1, len(pixel), -1), dy.expand(-1, -1, len(pixel)))
        light = images.data - images.background[:, None, None]
        expected = images.flux[:, k, None, None] * shape
        expected = expected / images.effective_gain[:, None, None]
        variance = images.bkg_error[:, None, None] ** 2 + expected
        weight = shape / variance
        power = (weight * shape).sum((1, 2))
        # The errors of resampled noise are those of sources broader than a pixel.
        excess = (1 + 2 * images.correlation).prod(1)
        error = (excess / power) ** 0.5
        rows.append(((weight * light).sum((1, 2)) / power, error))
    flux, error = (torch.stack(part, 1) for part in zip(*rows, strict=True))
    return flux, error


def test_psf_fits_return_the_fluxes_of_each_band():
    bands = draw(STARS, 1600, seed=3)
    alone = bands.reference.count == 1
    assert int(alone.sum()) > 400
    # A part of some images is masked.
    bands = bands.select(alone)
    for images in bands.images:
        flux, error = fitted(images)
        first = images.flux > 0
        away = ((flux - images.flux) / error)[first]
        away = away[(~images.mask).all((1, 2))]
        n = len(away)
        assert n > 250
        assert abs(float(away.square().mean()) ** 0.5 - 1) < 0.05 + 2 / (2 * n) ** 0.5
        assert abs(float(away.mean())) < 4 * n**-0.5


def test_bands_are_shifted_by_a_small_part_of_a_pixel():
    bright = dataclasses.replace(STARS, floor_snr=(3e3, 3e3), limits=(14.0, 14.1))
    bands = draw(bright, 160, seed=3, n_exposures=(1, 1))
    bands = bands.select(bands.reference.count == 1)
    offsets = []
    # Red stars are faint in u, the second.
    for images in bands.images[:1] + bands.images[2:]:
        light = (images.data - images.background[:, None, None]).clamp(min=0)
        place = images.flux.argmax(1, keepdim=True)
        x, y = (v.gather(1, place)[:, :, None] for v in (images.x, images.y))
        pixel = torch.arange(images.data.shape[-1])
        near = torch.exp(-((pixel - x) ** 2 + (pixel[:, None] - y) ** 2) / 8)
        light = light * near
        total = light.sum((1, 2))
        off = [
            (light * away).sum((1, 2)) / total
            for away in (pixel - x, pixel[:, None] - y)
        ]
        offsets.append(torch.stack(off, -1))
    away = torch.stack(offsets) - offsets[0]
    # The window takes a part of the offset.
    assert float(away.norm(dim=-1).max()) < 0.1
    assert float(away[1:].std(1).min()) > 0.005


def test_sets_of_bands_are_drawn_at_random(subsets):
    present, index = subsets.present, subsets.index
    n = present.sum(1)
    assert present[:, 0].all()
    # Those that an image has come first.
    assert (present == (torch.arange(5) < n[:, None])).all()
    assert (index.sort(1).values == torch.arange(5)).all()
    # 200 sets.
    groups = len(present) / 8
    for found, expected in (((n == 1), 0.4), ((n == 5), 0.15), (index[:, 0] == 1, 0.6)):
        share = float(found.float().mean())
        assert abs(share - expected) < 4 * (expected * (1 - expected) / groups) ** 0.5
    assert not (index[:, 0] == 4).any()
    for k, images in enumerate(subsets.images):
        absent = ~present[:, k]
        assert images.mask[absent].all()
        assert not images.data[absent].any()
        assert not images.mask[present[:, k]].all((1, 2)).any()
        values = [v for v in vars(images).values() if isinstance(v, torch.Tensor)]
        assert all(torch.isfinite(v).all() for v in values if v is not images.cluster)
    # The truth has colours in bands that are absent.
    used = subsets.reference.flux > 0
    assert (subsets.log_ratio[used][:, 1:] != 0).all()
    # Some images end at a line, those in several bands.
    part = torch.stack([images.mask.any((1, 2)) for images in subsets.images], 1)
    assert 0.04 < float(part[present & (n > 1)[:, None]].float().mean()) < 0.12
    assert not part[n == 1, 0].any()


def test_absent_bands_are_not_observed(monkeypatch):
    counts, observe = [], Camera.observe

    def counted(self, draw, fields, *args, **kwargs):
        counts.append(len(fields))
        return observe(self, draw, fields, *args, **kwargs)

    monkeypatch.setattr(Camera, 'observe', counted)
    bands = draw(SKY, 32, reference_shares=None, band_shares=(0.4, 0.2, 0.2, 0.2, 0))
    assert sum(counts) == int(bands.present.sum()) < 96


def test_batches_repeat_join_and_part(subsets):
    one, same = draw(SKY, 8, seed=4), draw(SKY, 8, seed=4)
    assert torch.equal(one.images[3].data, same.images[3].data)
    assert torch.equal(one.log_ratio, same.log_ratio)
    both = SimulatedBands.concatenate([one, draw(SKY, 4, seed=5)])
    assert len(both) == 12
    assert both.log_ratio.shape[:2] == both.images[2].flux.shape
    part = both.select(slice(8, 12))
    assert torch.equal(part.images[1].data, both.images[1].data[8:])


def test_exposures_of_an_image(subsets):
    k = int((subsets.present.sum(1) == 3).nonzero()[0])
    exposures = subsets.exposures(k)
    assert isinstance(exposures, ExposureSet)
    assert list(exposures) == subsets.names(k)
    assert len(exposures) == 3
    for name, exposure in exposures.items():
        assert exposure.unit == u.nmgy
        assert exposure.band.name == name
        assert_allclose(exposure.band.wavelength, BANDS[name].wavelength, rtol=1e-5)
    # Electrons of the reference in all bands.
    first, scale = exposures, float(subsets.reference.electrons_per_nmgy[k])
    for name, exposure in subsets.exposures(k, unit='electron').items():
        assert exposure.unit == u.electron
        assert_allclose(exposure.data, first[name].data * scale, rtol=1e-4)
        assert_allclose(exposure.bkg_error, first[name].bkg_error * scale, rtol=1e-4)


@pytest.mark.parametrize('kind', ['bright_fraction', 'large_fraction'])
def test_artefacts_of_the_sky_are_in_all_bands(kind):
    bands = draw(SKY, 40, **EMPTY, **{kind: 1.0})
    first = bands.reference
    place = first.flux.argmax(1, keepdim=True)
    x, y = (v.gather(1, place) for v in (first.x, first.y))
    ny, nx = first.data.shape[1:]
    inside = ((x > 4) & (x < nx - 4) & (y > 4) & (y < ny - 4))[:, 0]
    assert int(inside.sum()) > 2
    # Galaxies are faint in u, the second.
    for images in bands.images[:1] + bands.images[2:]:
        light = images.data - images.background[:, None, None]
        light = light / images.bkg_error[:, None, None]
        # Brighter about the source than elsewhere.
        away = torch.hypot(
            torch.arange(nx) - x[..., None], torch.arange(ny)[:, None] - y[..., None]
        )
        near = torch.where(away < 3, light, torch.nan).nanmean((1, 2))
        far = torch.where(away > 20, light, torch.nan).nanmean((1, 2))
        assert (near > far)[inside].float().mean() > 0.85
    assert bands.log_ratio.shape[1] == first.flux.shape[1]


def test_surveys_are_drawn_for_any_telescope():
    stream = SimulationStream(
        dataclasses.replace(SKY, fields='telescopes', shape=(33, 33)), group_size=2
    )
    bands = stream.sample_batch(96, generator=torch.Generator().manual_seed(1))
    seen = {round(v, 4) for v in bands.bands[:, 2, 0].tolist()}
    known = {
        round(BANDS[name].description[0], 4)
        for name in ('g', 'LSST.g', 'DECam.g', 'HSC.g')
    }
    assert len(seen) > 2
    assert seen <= known


def test_galaxies_keep_their_light_where_bulges_are_redder():
    config = dataclasses.replace(
        SKY, star_scale=(1e-6, 1e-6), noise_order='before_alignment'
    )
    stream = SimulationStream(config)
    bands = stream.sample_batch(48, generator=torch.Generator().manual_seed(2))
    for images in bands.images:
        ny, nx = images.data.shape[1:]
        inside = (images.x > 8) & (images.x < nx - 9)
        inside &= (images.y > 8) & (images.y < ny - 9)
        light = (images.data - images.background[:, None, None]).sum((1, 2))
        error = (ny * nx) ** 0.5 * images.bkg_error
        total = (images.flux * inside).sum(1)
        outside = (images.flux * ~inside).sum(1)
        assert (light > total * 0.9 - 5 * error).all()
        assert (light < 1.02 * (total + outside) + 5 * error).all()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'bands': ('g', 'x')}, 'bands must be one of'),
        ({'bands': ('g', 'g')}, 'bands must be different'),
        ({'bands': ('g', 'r'), 'band_shares': (1.0,)}, 'band_shares must be'),
        (
            {'bands': ('g', 'r'), 'reference_shares': (0.0, 0.0)},
            'reference_shares must',
        ),
        ({'band_shares': (1.0,)}, 'band_shares must be'),
        ({'band_shares': ('g',)}, 'band_shares must be a list of numbers'),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SimulationConfig(**changes)


class TestCoaddSimulator:
    def test_exposures_and_fluxes(self):
        simulator = CoaddSimulator(
            prior=CatalogPrior.sky(), bands='gri', margin=-8, shape=(64, 70)
        )
        exposures, truth = simulator.sample(rng=1)
        assert list(exposures) == ['r', 'g', 'i']
        assert exposures['g'].data.shape == (64, 70)
        assert exposures['g'].band == BANDS['g']
        assert truth.colnames[-3:] == ['flux_r', 'flux_g', 'flux_i']
        assert (truth['flux_r'] == truth['flux']).all()
        assert (truth['flux_g'] > 0).all()
        assert truth['flux_i'].unit == u.nmgy
        again, _ = simulator.sample(rng=1)
        assert np.array_equal(again['i'].data, exposures['i'].data)

    def test_conditions_of_bands(self):
        given = {'psf': [1.9, 4.0, 0.1, 2.0, 0.01, 3.0, 0.0, 0.0], 'background': 300.0}
        bands = {'g': given, 'DECam.z': None}
        simulator = CoaddSimulator(1, StarPrior(), bands=bands, reference='z')
        images = simulator.sample_batch(3, generator=torch.Generator().manual_seed(1))
        assert images.names() == ['z', 'g']
        assert (images.images[1].background == 300).all()
        assert_allclose(images.images[1].psf[:, 0], 1.9)
        assert (images.images[0].background == simulator.background).all()
        exposures, truth = simulator.sample(rng=1)
        assert exposures['z'].band.wavelength == pytest.approx(915.9)
        assert truth['flux_g'].unit == u.electron

    @pytest.mark.parametrize('depth', [1, 4])
    def test_light_is_that_of_the_truth(self, depth):
        simulator = CoaddSimulator(
            depth, CatalogPrior.sky(), bands='riz', shape=(160, 160), margin=16
        )
        exposures, truth = simulator.sample(rng=2)
        for name, exposure in exposures.items():
            light = (exposure.data - exposure.background).sum(dtype=float)
            error = 160 * exposure.bkg_error * (1.5 if depth > 1 else 1)
            total = truth[f'flux_{name}'].value.sum()
            assert abs(light - total) < 5 * error + 0.1 * total

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'bands': 'gx'}, 'bands must be one of'),
            ({'bands': ['g', 'DECam.g']}, 'bands must have a name each'),
            ({'bands': 'grg'}, 'bands must have a name each'),
            ({'bands': ['g', None]}, 'bands must have a name each'),
            ({'bands': 3}, 'bands must be a list of names; got int'),
            ({'bands': 'gr', 'reference': 'i'}, 'reference must be one of'),
            ({'bands': {'g': {'seeing': 1.0}}}, "bands\\['g'\\] must have no keys but"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises((TypeError, ValueError), match=message):
            CoaddSimulator(**arguments)
