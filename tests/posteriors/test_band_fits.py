# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of fits in several bands: one position and one shape, a flux in each band.
"""

import dataclasses
import types

import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F
from torch.testing import assert_close

from bliss_astro.encoders import EncoderInputs
from bliss_astro.posteriors import TileGrid
from bliss_astro.posteriors._extended_fit import (
    Ellipses,
    band_fluxes,
    ellipse_features,
    fit_ellipses,
    fluxes_in_crowds,
    measure_sizes,
    model_of,
)
from bliss_astro.posteriors._scene_fit import SceneSources, cleaned, fit_scene
from bliss_astro.posteriors._star_fit import (
    Pixels,
    StarPatches,
    fit_star,
    flux_at,
    linear_fluxes,
)
from bliss_astro.posteriors._tile_chain import TileChain
from bliss_astro.psf import DEFAULT_SHAPE, GaussianPSF

# Fluxes relative to the first band, width of the PSF, electrons per unit of noise, and
# correlation of the noise in each of three bands.
RATIO, WIDTH, GAIN = (1.0, 0.6, 1.6), (1.0, 1.25, 0.9), (30.0, 12.0, 60.0)
N = 4000


def patches_of(half, n=N, rho=0.0):
    """
    Empty cut-outs of three bands around pixel (20, 30).
    """
    shape = torch.tensor(DEFAULT_SHAPE).repeat(3, 1)
    shape[:, [0, 1, 3]] *= torch.tensor(WIDTH)[:, None]
    side = 2 * half + 1
    return StarPatches(
        data=torch.zeros(n, 3, side, side),
        good=torch.ones(n, 3, side, side),
        psf=GaussianPSF.from_shape(shape.expand(n, 3, 8)[:, :, None, None]),
        gain=torch.tensor(GAIN).expand(n, 3)[..., None, None],
        correlation=torch.full((n, 3, 2), rho),
        x=torch.full((n,), 20.0),
        y=torch.full((n,), 30.0),
        correlated=rho > 0,
    )


def with_noise(patches, model, generator):
    noise = torch.randn(model.shape, generator=generator)
    if patches.correlated:
        # Means of neighbours, whose correlation is 1/2.
        noise = torch.randn(*model.shape[:2], *(s + 1 for s in model.shape[2:]))
        for axis in (-1, -2):
            n = noise.shape[axis] - 1
            noise = (noise.narrow(axis, 0, n) + noise.narrow(axis, 1, n)) * 0.5**0.5
    data = model + noise * patches.variance(model).sqrt()
    return dataclasses.replace(patches, data=data * patches.good)


def stars_of(generator, flux=150.0, rho=0.0):
    """
    Cut-outs of stars, their places and fluxes.
    """
    patches = patches_of(6, rho=rho)
    x, y = torch.rand(2, N, generator=generator) - 0.5
    x, y, flux = x + 20, y + 30, flux * torch.tensor(RATIO).expand(N, 3)
    # Stars lie a little off in bands other than the first.
    shift = 0.14 * torch.rand(2, N, 3, 1, 1, generator=generator) - 0.07
    shift[:, :, 0] = 0
    offsets = zip(patches.offsets(x, y), shift, strict=True)
    model = flux[..., None, None] * patches.psf(*(a - b for a, b in offsets))
    return with_noise(patches, model, generator), x, y, flux


def bands_of(patches, *order, absent=()):
    """
    Some bands in some order; those that are absent are empty and have no good pixel.
    """
    order = list(order)
    names = ('data', 'good', 'psf', 'gain', 'correlation')
    some = {name: getattr(patches, name)[:, order] for name in names}
    good = some['good'].clone()
    good[:, list(absent)] = 0
    data = some['data'] * good
    return dataclasses.replace(patches, **some | {'good': good, 'data': data})


def fit(patches, x, y):
    return torch.stack(fit_star(patches, x, y, torch.full_like(x, 5.0)))


@pytest.mark.parametrize(('bright', 'rho'), [(150.0, 0.0), (4000.0, 0.0), (150.0, 0.5)])
def test_positions_and_fluxes_are_as_good_as_all_bands(generator, bright, rho):
    torch.manual_seed(3)
    patches, x, y, flux = stars_of(generator, bright, rho)
    fx, fy, error_x, error_y, correlation = fit(patches, x, y)
    for value, error in ((fx - x, error_x), (fy - y, error_y)):
        z = value / error
        assert 0.97 < float(z.square().mean().sqrt()) < 1.03
        assert abs(float(z.mean())) < 4 / N**0.5
    assert correlation.abs().max() < 0.2
    # With the error of the shifts, the inverse variances of the bands add up but for
    # that of the weak prior, which each has.
    alone = torch.stack([fit(bands_of(patches, k), x, y)[2] for k in range(3)])
    alone = 1 / (alone**-2 - 1 / 0.5**2) + torch.tensor([[0], [0.04**2], [0.04**2]])
    total = (1 / alone).sum(0) + 1 / 0.5**2
    if not rho:
        assert_allclose((error_x.square() * total).mean(), 1, atol=0.01)
    found, errors, chi2 = flux_at(patches, x, y)
    z = (found - flux) / errors
    assert_allclose(z.square().mean(0).sqrt(), 1, atol=0.045)
    # A shift takes 0.1 % of a flux.
    assert_allclose(z.mean(0), 0, atol=4 / N**0.5 + 0.1 * (bright > 1000))
    assert chi2.shape == (N, 3)


def test_absent_bands_and_the_order_of_others_do_not_matter(generator):
    patches, x, y, _ = stars_of(generator)
    both = fit(bands_of(patches, 0, 1), x, y)
    assert_close(fit(bands_of(patches, 0, 2, 1, absent=[1]), x, y), both)
    turned = fit(bands_of(patches, 0, 2, 1), x, y)
    assert_close(turned, fit(patches, x, y), atol=1e-4, rtol=1e-4)
    # A missing reference leaves the position to the others.
    rest = fit(bands_of(patches, 0, 1, 2, absent=[0]), x, y)
    z = (rest[0] - x) / rest[2]
    assert_allclose(z.square().mean().sqrt(), 1, atol=0.045)


def galaxies_of(generator, flux):
    patches = patches_of(9, 600)
    x, y = torch.rand(2, 600, generator=generator) - 0.5 + torch.tensor([[20], [30]])
    e1, e2 = 0.6 * torch.rand(2, 600, generator=generator) - 0.3
    flux = flux * torch.tensor(RATIO).expand(600, 3)
    truth = Ellipses(flux, torch.full_like(x, 1.0), e1, e2)
    model = flux[..., None, None] * model_of(patches, truth, x, y)
    return with_noise(patches, model, generator), x, y, truth


def test_ellipses_are_as_good_as_all_bands(generator):
    patches, x, y, truth = galaxies_of(generator, 600.0)
    floor = torch.full_like(x, 20.0)

    def shapes(*bands, absent=()):
        some = bands_of(patches, *bands, absent=absent)
        start = Ellipses.round(truth.flux[:, list(bands)])
        return fit_ellipses(some, start, x, y, floor, n_iterations=8)

    found, (information, *_) = all_bands = shapes(0, 1, 2)
    sigma = torch.linalg.inv(information).diagonal(dim1=1, dim2=2).sqrt()
    names = ('log_blur', 'e1', 'e2')
    miss = torch.stack([getattr(found, n) - getattr(truth, n) for n in names], 1)
    # The weak priors hold the errors down a little.
    assert_allclose((miss / sigma).square().mean(0).sqrt(), 1, atol=0.1)
    alone, (own, *_) = shapes(0)
    worse = torch.stack([getattr(alone, n) - getattr(truth, n) for n in names], 1)
    expected = (own / information).diagonal(dim1=1, dim2=2).mean(0).sqrt()
    assert (expected < 0.75).all()
    assert_allclose(miss.std(0) / worse.std(0), expected, rtol=0.15)
    # Ratios of fluxes, which have no errors of the shape.
    seen = ellipse_features(all_bands, floor)
    flux, error = seen['band_flux_extended'], seen['band_error_extended']
    error = (error / flux).square()
    miss = (flux / truth.flux).log()
    z = (miss[:, 1:] - miss[:, :1]) / (error[:, 1:] + error[:, :1]).sqrt()
    assert_allclose(z.square().mean(0).sqrt(), 1, atol=0.08)
    assert_allclose(z.mean(0), 0, atol=0.15)
    # The shape is in the error of one flux.
    assert (error[:, 0] < seen['ellipse_error'].square()).all()
    # A band that is absent, and one band.
    two, three = shapes(0, 1), shapes(0, 1, 2, absent=[2])
    parts = [ellipse_features(part, floor) for part in (two, three)]
    assert_close(parts[0]['ellipse'], parts[1]['ellipse'], atol=1e-4, rtol=1e-4)
    assert parts[1]['band_error_extended'][:, 2].isinf().all()
    assert not any('band' in name for name in ellipse_features(shapes(0), floor))


def test_sizes_of_all_bands(generator):
    """
    Misfits of a point add up; an absent band adds nothing to any of the features.
    """
    patches, x, y, _ = galaxies_of(generator, 300.0)
    floor = torch.full_like(x, 20.0)

    def sizes(*bands, absent=()):
        some = bands_of(patches, *bands, absent=absent)
        flux, *_ = flux_at(some, x, y)
        return measure_sizes(some, some, x, y, flux, floor)

    one, three, less = sizes(0), sizes(0, 1, 2), sizes(0, 1, 2, absent=[1, 2])
    for name in one:
        assert one[name].shape == three[name].shape
        assert_close(one[name], less[name], atol=1e-4, rtol=1e-4)
    # The gain of one of the blurs over a point, see `measure_sizes`.
    gain, more = (torch.sinh(3 * part['sizes'][:, 7]).mean() for part in (one, three))
    assert float(more / gain) > 1.8
    # Ratios to the flux of a point scatter less.
    assert three['sizes'][:, 4].std() < 0.85 * one['sizes'][:, 4].std()


# A blend of two stars and one galaxy, with colours of their own.
PLACES = torch.tensor([[20.3, 23.4, 31.0], [22.1, 23.7, 18.4]])
FLUXES = torch.tensor([[900.0, 300, 2000], [400.0, 1500, 100], [1500.0, 1200, 800]])
TRUTH = Ellipses(FLUXES, *torch.tensor([[1.0] * 3, [0.3] * 3, [-0.2] * 3]))
SOURCES = SceneSources(
    *torch.tensor([[0, 0, 0], [5, 5, 4], [5, 5, 7]]),
    *PLACES,
    point=torch.tensor([True, True, False]),
)


def scene_of(*, present=(True, True, True), noise=0.0, bands=slice(None), n=3):
    """
    Pixels of the scene, or of its first sources.
    """
    stamps = patches_of(20, 3)
    light = [stamps.profile(*PLACES), model_of(stamps, TRUTH, *PLACES)]
    light = torch.where(SOURCES.point[:, None, None, None], *light)
    image = (FLUXES[..., None, None] * light)[:n].sum(0, keepdim=True)
    gain = torch.tensor(GAIN)[None, :, None, None]
    image = image + noise * torch.randn(image.shape) * (1 + image / gain).sqrt()
    # The middle of the stamps is pixel (20, 30) instead of (20, 20).
    image = F.pad(image, (0, 0, 10, 0))[..., :44, :]
    present = torch.tensor([present])
    image[~present] = torch.nan
    psf = stamps.psf.shape[:1].reshape(1, 3, 8, 1, 1).clone()
    psf[~present] = torch.nan
    constant = torch.zeros(1, 3, 1, 1, 1)
    inputs = EncoderInputs(
        image=image[:, bands],
        mask=torch.zeros_like(image[:, bands], dtype=torch.bool),
        log_noise=gain.log()[..., None][:, bands],
        correlation=constant.expand(1, 3, 2, 1, 1)[:, bands],
        psf=psf[:, bands],
        log_density=constant[:, 0],
        log_flux_floor=constant[:, 0] + 3,
        present=present[:, bands],
    )
    return Pixels(inputs, TileGrid(tuple(image.shape[2:]), 4), 12)


FLOOR = torch.full((3,), 20.0)


def test_scene_in_all_bands():
    """
    Without noise each source has its own flux in each band, to the weak priors.
    """
    fit = fit_scene(scene_of(), SOURCES, FLOOR, n_rounds=25)
    assert_close(fit.ellipses.flux, FLUXES, rtol=5e-3, atol=1.0)
    assert_close(fit.ellipses.e1[2:], TRUTH.e1[2:], atol=5e-3, rtol=0)
    # Without its neighbours the light of a stamp is its own, in every band.
    patches, others, _ = cleaned(scene_of(), fit, SOURCES, torch.arange(3))
    assert patches.data.shape == others.shape == (3, 3, 25, 25)
    flux, *_ = flux_at(patches, *PLACES)
    assert_close(flux[:2], FLUXES[:2], rtol=1e-2, atol=2.0)
    # Rounds that begin with fluxes of the reference alone.
    start = Ellipses.round(torch.cat([FLUXES[:, :1], torch.zeros(3, 2)], 1))
    again = fit_scene(scene_of(), SOURCES, FLOOR, start=start, n_rounds=25)
    assert_close(again.ellipses.flux, fit.ellipses.flux, rtol=1e-2, atol=2.0)


def test_absent_bands_of_scenes():
    torch.manual_seed(2)
    present = True, True, False
    parts = []
    for bands in (slice(None), slice(0, 2)):
        torch.manual_seed(2)
        pixels = scene_of(present=present, noise=1.0, bands=bands)
        parts.append(fit_scene(pixels, SOURCES, FLOOR).ellipses)
    for name in ('log_blur', 'e1', 'e2'):
        assert_close(*(getattr(part, name) for part in parts), atol=1e-4, rtol=1e-4)
    assert_close(parts[0].flux[:, :2], parts[1].flux, atol=0.1, rtol=1e-4)
    assert parts[0].flux.isfinite().all()


def test_images_of_different_bands_in_one_batch():
    """
    Each is fitted up to the last of its bands alone, as without the others.
    """
    sets = [(True,) * 3, (True, False, False), (True, False, True), (True, True, False)]
    alone, parts = [], []
    for present in sets:
        torch.manual_seed(3)
        pixels = scene_of(present=present, noise=1.0)
        alone.append(fit_scene(pixels, SOURCES, FLOOR).ellipses)
        parts.append(pixels.inputs)
    inputs = EncoderInputs.concatenate(parts)
    pixels = Pixels(inputs, pixels.grid, 12)
    assert pixels.last.tolist() == [3, 1, 3, 2]
    # Sources of one image are not one after the other.
    images, order = torch.arange(4).repeat(3), torch.arange(3).repeat_interleave(4)
    sources = dataclasses.replace(SOURCES.select(order), images=images)
    fit = fit_scene(pixels, sources, FLOOR.repeat(4))
    for k, own in enumerate(alone):
        found = fit.ellipses.select(images == k)
        for name, value in vars(own).items():
            assert_close(getattr(found, name), value, atol=1e-3, rtol=1e-4)
    seen = []

    def numbers(index):
        seen.append((pixels.last_of(images[index]), images[index].tolist()))
        patches, *_ = cleaned(pixels, fit, sources, index)
        assert patches.n_bands == seen[-1][0]
        flux, error, _ = flux_at(patches, *PLACES[:, order[index]])
        return band_fluxes(flux, error, patches.good.sum((-2, -1)), 3)

    found = pixels.map_alike(numbers, images, lambda n, _: [slice(n)])
    assert seen == [(1, [1] * 3), (2, [3] * 3), (3, [0, 2] * 3)]
    assert found['band_flux'].shape == (12, 3)
    known = torch.tensor(sets)[images]
    assert torch.equal(found['band_error'].isfinite(), known)
    stars = known & SOURCES.point[order, None]
    found = found['band_flux'][stars]
    assert_close(found, FLUXES[order][stars], atol=50, rtol=0.1)


def test_brighter_stars_are_subtracted_in_all_bands():
    """
    Given is the flux in the reference band; the others are fitted.
    """
    pixels = scene_of(n=2)
    tiles = SOURCES.select(slice(0, 1)).tiles
    places = ((PLACES[:, :2] + 0.5) / 4 - 5)[..., None]
    chain = object.__new__(TileChain)
    chain.tiles, chain.grid, chain.start = tiles, pixels.grid, places[:, 1].mT
    chain.posterior = types.SimpleNamespace(
        inputs=pixels.inputs, pixels=pixels, patch_radius=6
    )
    log_flux = FLUXES[:1, 0].log() - 3
    (_, patches, x, y), _ = chain._cut_out([(*places[:, 0], log_flux)])
    assert_close(torch.cat([x, y]), PLACES[:, 1])
    flux, _, chi2 = flux_at(patches, x, y)
    assert_close(flux, FLUXES[1:2], rtol=1e-3, atol=0.1)
    assert chi2.max() < 1e-3


def test_fluxes_of_overlapping_stars(generator):
    """
    Of two stars, one faint, and of one that is twice in a list.
    """
    patches = patches_of(6, 2)
    places = torch.tensor([[19.0, 20.0], [30.4, 31.0]]), torch.tensor([[20.6], [30.0]])
    profiles = torch.stack([patches.profile(*(p.expand(2) for p in place))
                            for place in places], 2)  # fmt: skip
    flux = torch.tensor([[100.0, 30], [20, 300], [400, 5]]).expand(2, 3, 2)
    patches.data = (flux[..., None, None] * profiles).sum(2)
    found = linear_fluxes(patches, profiles)
    assert_close(found, flux, atol=0.2, rtol=2e-3)
    # Twice the same star shares its light.
    same = torch.stack([profiles[:, :, 0]] * 2, 2)
    patches.data = 100 * profiles[:, :, 0]
    assert_close(
        linear_fluxes(patches, same).sum(-1),
        torch.full((2, 3), 100.0),
        atol=0.1,
        rtol=0,
    )


def test_fluxes_over_a_sky_that_is_not_as_stated():
    patches = patches_of(4)
    generator = torch.Generator().manual_seed(3)
    flux = 100.0 * torch.tensor(RATIO).expand(N, 3)
    model = flux[..., None, None] * patches.profile(patches.x, patches.y)
    patches = with_noise(patches, model, generator)
    patches.data += torch.tensor([2.0, -1.0, 3.0])[:, None, None]
    found, error = fluxes_in_crowds(patches, patches.x, patches.y, flux)
    pulls = (found - flux) / error
    assert_allclose(pulls.mean(0), 0, atol=0.08)
    assert_allclose(pulls.std(0), 1, atol=0.06)
    assert float(flux_at(patches, patches.x, patches.y)[0][:, 0].mean()) > 115


def test_errors_of_fluxes_in_crowds():
    patches = patches_of(4)
    generator = torch.Generator().manual_seed(4)
    x, y = 12 * torch.rand(2, 16, N, generator=generator) - 6
    bright = 10 ** torch.empty(16, N).uniform_(0.5, 2.2, generator=generator)
    model = 0.0
    for place, own in zip(zip(x, y, strict=True), bright, strict=True):
        light = patches.profile(patches.x + place[0], patches.y + place[1])
        model = model + own[:, None, None, None] * light
    patches = with_noise(patches, model, generator)
    found, error = fluxes_in_crowds(
        patches, patches.x, patches.y, 0 * patches.gain[..., 0, 0]
    )
    # There are no stars in the middle.
    pulls = found / error
    assert 0.6 < float(pulls.abs().median()) / 0.6745 < 1.6
    assert float(error.median()) > 2.5 * float(
        flux_at(patches, patches.x, patches.y)[1].median()
    )


def test_star_and_sky_in_few_pixels():
    patches = patches_of(4, n=3)
    patches.good[0] = 0.0
    patches.good[1] = 0.0
    patches.good[1, :, 4, 4] = 1.0
    patches.good[2, :, :2] = 0.0
    found, error = fluxes_in_crowds(patches, patches.x, patches.y, torch.ones(3, 3))
    assert found.isfinite().all()
    assert error[:2].isinf().all()
    assert error[2].isfinite().all()
