# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Inputs that say how exact the others are, and simulations of any telescope.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch

from bliss_astro.encoders import EncoderInputs
from bliss_astro.posteriors import TileCatalog
from bliss_astro.priors import TelescopePrior
from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._mixture import (
    fwhm_of_shape,
    normalization_of_shape,
)
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.simulation._camera import Draws
from bliss_astro.simulation._nuisances import (
    cosmic_rays,
    draw_large_galaxies,
    render_large_galaxies,
    saturate,
    trails,
)
from bliss_astro.simulation._stated import (
    add_lobes,
    draw_lobes,
    draw_stated_errors,
    state_asymmetry,
)

SMALL = {'width': 16, 'n_blocks': 1, 'stem_width': 8, 'head_width': 16}
TELESCOPES = {
    'population': 'sky',
    'fields': 'telescopes',
    'psf': 'telescopes',
    'density': (5e-4, 0.03),
    'psf_errors': (0.001, 0.15),
    'background_errors': (0.001, 0.3),
    'asymmetry': 0.08,
    'ray_fraction': 0.5,
    'trail_fraction': 0.2,
    'large_fraction': 0.3,
    'n_exposures': (1, 4),
}


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope='module')
def scenes():
    stream = SimulationStream(SimulationConfig(**TELESCOPES))
    return stream, stream.sample_batch(16, generator=seeded(5))


def test_telescope_prior_covers_widths_and_wings():
    psf = TelescopePrior(fwhm=(1.2, 7.0)).sample_batch(4000, generator=seeded())
    fwhm = fwhm_of_shape(psf)
    assert 1.2 * 0.999 < fwhm.min() < 1.25
    assert 6.8 < fwhm.max() < 7.0 * 1.001
    # Log-uniform: the median is the geometric mean; the error of a median of n is
    # sqrt(pi / 2 n) of the standard deviation of the logarithm.
    error = math.sqrt(math.pi / 2 / 4000) * math.log(7 / 1.2) / math.sqrt(12)
    assert abs(math.log(fwhm.median() / math.sqrt(1.2 * 7.0))) < 5 * error
    # Light beyond two FWHM: none for a Gaussian, some per cent for SDSS's.
    inner = torch.stack(
        [
            normalization_of_shape(one, radius=2 * float(f))
            for one, f in zip(psf[:200], fwhm[:200], strict=True)
        ]
    )
    outside = 1 - inner / normalization_of_shape(psf[:200], radius=1e3)
    assert (outside < 1e-4).float().mean() > 0.1
    assert (outside > 0.03).float().mean() > 0.2
    assert torch.hypot(psf[:, 6], psf[:, 7]).max() > 0.15
    straight = TelescopePrior().sample_batch(50, inclined=False, generator=seeded())
    assert not straight[:, 7].any()


def test_stated_errors_are_those_that_are_made(scenes):
    stream, _ = scenes
    config = dataclasses.replace(
        stream.config, asymmetry=0.0, large_fraction=0.0, n_exposures=(1, 1)
    )
    drawn = SimulationStream(config).sample_batch(16, generator=seeded(2))
    errors = drawn.psf_error
    assert errors.min() > 0
    assert errors.max() < 0.15
    # A quarter of the images, 4 +- 1.7 of 16.
    assert 0.0 < (errors == 0.01).float().mean() < 0.5
    assert drawn.background_error.max() < 0.3


def test_images_are_not_masked_where_the_sky_is_bright(scenes):
    _, drawn = scenes
    assert drawn.background.max() > 3e5
    assert drawn.mask.float().mean((1, 2)).max() < 0.5


@pytest.mark.parametrize('fraction', [0.0, 1.0])
def test_saturated_cores(fraction):
    n, size = 48, 41
    axis = torch.arange(size) - 20.0
    profile = torch.exp(-(axis[:, None] ** 2 + axis**2) / 18)
    peak = torch.full((n,), 1e4)
    # Too faint to be saturated.
    peak[-8:] = 20.0
    image = peak[:, None, None] * profile
    nothing = torch.zeros_like(image, dtype=torch.bool)
    data, mask = saturate(Draws(seeded(3)), image, nothing, torch.ones(n), fraction)
    changed = (data - image).abs().amax((1, 2)) > 1e-3 * peak
    if fraction == 0:
        assert not changed.any()
        assert not mask.any()
        return
    assert changed[:-8].all()
    assert not changed[-8:].any()
    assert torch.isfinite(data).all()
    # The level is 1.5 to 60 times below the peak, rounded where the response ends
    # softly; beyond the bleeding columns the wings are as they were.
    top = data[:-8].amax((1, 2))
    assert (top < 1e4 / 1.4).all()
    assert (top > 1e4 / 61).all()
    far = (axis.abs() > 14)[None, None, :]
    torch.testing.assert_close(data * far, image * far, rtol=0.01, atol=1e-3)
    hidden = mask.any(2).any(1)
    assert 0.15 < hidden[:-8].float().mean() < 0.55
    assert mask[hidden][:, 20, 20].all()


def test_asymmetry_is_stated_in_part(scenes):
    _, drawn = scenes
    size = drawn.asymmetry.abs().amax(1)
    assert size.max() > 0.02
    # Half of the images have lobes; of the others the stated value is noise.
    assert 0.2 < (size < 0.004).float().mean() < 0.8


def test_lobes_keep_the_light_and_are_known():
    n = 100
    psf = torch.tensor([1.27, 3, 0.0, 1, 0.0, 4, 0, 0]).expand(n, 8)
    lobes = draw_lobes(Draws(seeded(3)), psf, 0.08)
    share = lobes[0].sum(1)
    # A half: 50 +- 5.
    assert 0.3 < (share == 0).float().mean() < 0.7
    assert share.max() <= 0.16
    image = torch.zeros(n, 64, 64)
    image[:, 32, 32] = 100.0
    moved = add_lobes(image, lobes)
    torch.testing.assert_close(
        moved.sum((1, 2)), torch.full((n,), 100.0), rtol=1e-3, atol=0
    )
    assert torch.equal(moved[share == 0], image[share == 0])
    # Images of which none has any.
    assert torch.equal(add_lobes(image, (0 * lobes[0], *lobes[1:])), image)
    stated = state_asymmetry(Draws(seeded(4)), psf, lobes)
    assert stated[share == 0].abs().max() < 0.006
    # Along the lobe where there is one.
    coma = lobes[0][:, 0]
    strong = coma > 0.03
    along = stated[:, 0] * torch.cos(lobes[2][:, 0]) + stated[:, 1] * torch.sin(
        lobes[2][:, 0]
    )
    assert (along[strong] / coma[strong]).median() > 0.5
    # Nothing of them is unknown where the PSF is said to be exact.
    none, some = torch.zeros(n), torch.full((n,), 0.5)
    exact = state_asymmetry(Draws(seeded(4)), psf, lobes, none)
    assert exact[share == 0].abs().max() < 2e-4
    half = state_asymmetry(Draws(seeded(4)), psf, lobes, some)
    torch.testing.assert_close(half, (exact + stated) / 2)


def test_stated_errors_are_none_usual_even_and_small():
    error = draw_stated_errors(Draws(seeded()), 4000, (0.001, 0.15), 0.01)
    # A quarter each: hardly any, the usual one, uniform, and in the logarithm.
    for value in (0.001, 0.01):
        exactly = torch.isclose(error, torch.tensor(value)).float().mean()
        assert abs(exactly - 0.25) < 0.03
    small = (error < 0.005).float().mean()
    assert abs(small - 0.25 * (1 + 0.32 + 0.027)) < 0.03
    assert error.min() >= 0.001
    assert 0.14 < error.max() <= 0.15


def test_large_galaxies_have_their_flux():
    shape, n = (400, 400), 8
    x, y, flux, galaxy = draw_large_galaxies(
        Draws(seeded()), n, 1.0, shape, torch.ones(n)
    )
    x, y = torch.full_like(x, 200.0), torch.full_like(y, 200.0)
    galaxy[..., 4:] = galaxy[..., 4:].clamp(max=20)
    galaxy[..., 0] = 1.0
    image = render_large_galaxies(x, y, flux, galaxy, shape, torch.full((n,), 2.0))
    # The PSF's softening of the middle takes a little.
    torch.testing.assert_close(image.sum((1, 2)), flux[:, 0], rtol=0.03, atol=0)


def test_cosmic_rays_are_sharper_than_any_psf():
    image = cosmic_rays(Draws(seeded()), 200, 1.0, (64, 64))
    assert 0.5 < (image.amax((1, 2)) > 3).float().mean() <= 1
    peak = image.amax((1, 2))
    # Nearly all of a ray's light lies within a pixel of its track.
    share = (image > 0.02 * peak[:, None, None]).float().sum((1, 2))
    assert share.median() < 60
    assert not cosmic_rays(Draws(seeded()), 5, 0.0, (64, 64)).any()


def test_trails_cross_the_image():
    image = trails(Draws(seeded()), 100, 0.5, (64, 64), torch.full((100,), 3.0))
    some = image.amax((1, 2)) > 0.1
    assert 0.3 < some.float().mean() < 0.7


def test_uncertainties_are_zero_at_their_usual_values(scenes):
    _stream, drawn = scenes
    inputs = EncoderInputs.from_batch(drawn)
    assert inputs.uncertainties().shape == (16, 1, 6, 1, 1)
    plain = dataclasses.replace(
        inputs, psf_error=None, background_error=None, asymmetry=None
    )
    assert not plain.uncertainties().any()
    usual = drawn.psf_error == 0.01
    assert not inputs.uncertainties()[usual, :, 0].any()


def test_wings_are_clipped():
    # A Gaussian of 2 px has next to nothing at 8 px, and the network need not know.
    psf = torch.tensor([[0.85, 2.0, 0.0, 1.0, 0.0, 4.0, 0.0, 0.0]])
    assert GaussianPSF.from_shape(psf).describe()[0, 5] < -30

    def conditions(limits):
        inputs = EncoderInputs(
            image=torch.zeros(1, 1, 8, 8),
            mask=torch.zeros(1, 1, 8, 8, dtype=torch.bool),
            log_noise=torch.zeros(1, 1, 1, 1, 1),
            correlation=torch.zeros(1, 1, 2, 1, 1),
            psf=psf[:, None, :, None, None],
            log_density=torch.zeros(1, 1, 1, 1),
            log_flux_floor=torch.zeros(1, 1, 1, 1),
        )
        return inputs.conditions(psf_range=limits)[0, 0, 3:11, 0, 0]

    assert conditions(None)[2:6].min() == pytest.approx(-3.1)
    low, high = [-0.5] * 8, [0.5] * 8
    assert conditions((low, high)).min() == -0.5
    # What is within the range stays as it is.
    described = GaussianPSF.from_shape(psf).describe()[0]
    np.testing.assert_allclose(conditions(None)[:2], described[:2])


@pytest.mark.parametrize(('slope', 'share'), [(0.4, 0.4), (1.0, 0.1)])
def test_counts_of_stars_follow_the_slopes(slope, share):
    config = SimulationConfig(
        psf='sdss',
        n_exposures=(1, 1),
        density=(0.004, 0.004),
        dynamic_range=1e4,
        slopes=(slope, slope + 1e-6),
    )
    drawn = SimulationStream(config).sample_batch(64, generator=seeded())
    truth = TileCatalog.from_batch(drawn)
    present = torch.arange(truth.log_flux.shape[-1]) < truth.count[..., None]
    ratio = torch.exp(truth.log_flux[present])
    # Of a power law, ten times the floor is passed by 10^-slope.
    expected = 10.0**-slope
    assert expected == pytest.approx(share, abs=0.01)
    error = (expected * (1 - expected) / len(ratio)) ** 0.5
    assert float((ratio > 10).float().mean()) == pytest.approx(expected, abs=4 * error)
