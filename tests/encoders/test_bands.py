# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of several bands: the mean over those that exist enters the network.
"""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from bliss_astro.detection import _infer
from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.encoders._inputs import OF_BANDS
from bliss_astro.posteriors._candidates import find_sources
from bliss_astro.posteriors._star_fit import Pixels


@pytest.fixture
def encoder(tiny_config):
    torch.manual_seed(2)
    more = ('galaxies', 'uncertainties', 'shapes', 'sequence')
    config = dataclasses.replace(tiny_config, **dict.fromkeys(more, True))
    encoder = Encoder(config).eval().requires_grad_(False)
    encoder.head.count.bias.zero_()
    return encoder


@pytest.fixture(params=[(24, 33)])
def one(draw, request):
    settings = {'confined_fraction': 0.0, 'psf_errors': (0.02, 0.1)}
    inputs, _ = draw(2, shape=request.param, **settings)
    tiles = [-(-n // 4) for n in request.param]
    psf = inputs.psf.expand(-1, -1, -1, *tiles).clone()
    psf[..., 4:] *= 1.1
    # Noise that is correlated in the second image, and a bad column.
    inputs.correlation[1] = 0.2
    inputs.image[..., 7], inputs.mask[..., 7] = 0, True
    return dataclasses.replace(inputs, psf=psf)


def with_bands(inputs, *bands, present=None):
    """
    Inputs with bands of several inputs of one.
    """
    values = {
        name: torch.cat([getattr(band, name) for band in bands], 1)
        for name in OF_BANDS
        if getattr(inputs, name) is not None
    }
    if present is None:
        present = [True] * len(bands)
    values['present'] = torch.tensor([present] * len(inputs.image))
    return dataclasses.replace(inputs, **values)


def other_band(inputs, seed):
    noise = torch.randn(
        inputs.image.shape, generator=torch.Generator().manual_seed(seed)
    )
    changed = {'image': inputs.image + noise, 'psf': inputs.psf * (1 + 0.1 * seed)}
    changed['log_noise'] = inputs.log_noise + 0.3 * seed
    return dataclasses.replace(inputs, **changed)


def blank(inputs):
    zeros = {n: torch.zeros_like(v) for n, v in vars(inputs).items() if n in OF_BANDS
             and v is not None}  # fmt: skip
    return dataclasses.replace(inputs, **zeros)


def test_equal_bands_are_as_one(encoder, one):
    two = with_bands(one, one, one)
    assert two.image.shape[:2] == two.present.shape == (2, 2)
    assert_close(encoder.features(two), encoder.features(one), atol=1e-5, rtol=1e-5)


def test_absent_bands_are_left_out(encoder, one):
    two = with_bands(one, one, blank(one), present=[True, False])
    assert_close(encoder.features(two), encoder.features(one), atol=1e-5, rtol=1e-5)
    both = with_bands(one, one, other_band(one, 1))
    apart = encoder.features(both) - encoder.features(one)
    assert apart.abs().max() > 1e-3
    # Some images may lack a band that others have.
    some = dataclasses.replace(
        both, present=torch.tensor([[True, True], [True, False]])
    )
    expected = torch.stack([encoder.features(both)[0], encoder.features(one)[1]])
    assert_close(encoder.features(some), expected, atol=1e-5, rtol=1e-5)


def test_order_of_bands_does_not_matter(encoder, one):
    others = other_band(one, 1), other_band(one, 2)
    features = encoder.features(with_bands(one, one, *others))
    turned = encoder.features(with_bands(one, one, *others[::-1]))
    assert_close(features, turned, atol=1e-5, rtol=1e-5)


def test_fits_are_made_in_the_reference_band(encoder, one):
    """
    With bands that the network leaves out the posterior is that of the first alone.
    """
    two = with_bands(one, one, other_band(one, 1), present=[True, False])
    alone, with_another = encoder(one), encoder(two)
    catalog = alone.mode()
    assert catalog.count.sum() > 3
    assert_close(
        with_another.expected_counts(), alone.expected_counts(), atol=1e-5, rtol=1e-5
    )
    # With the encoders in sequence.
    density = alone.log_prob(catalog)
    assert_close(with_another.log_prob(catalog), density, atol=1e-3, rtol=1e-4)
    found = [find_sources(part, n_draws=32) for part in (alone, with_another)]
    assert len(found[0]) == len(found[1]) > 10
    for name in ('probability', 'x', 'y'):
        first, second = (getattr(part, name) for part in found)
        assert_close(first, second, atol=1e-3, rtol=1e-3)


def test_cut_outs_of_all_bands(encoder, one):
    parts = one, other_band(one, 1), other_band(one, 2)
    grid = encoder(one).grid
    tiles = tuple(torch.tensor(v) for v in ([0, 1, 1], [2, 0, 5], [1, 3, 8]))
    x, y = torch.tensor([6.2, 14.0, 32.9]), torch.tensor([9.1, 0.3, 22.0])
    together = Pixels(with_bands(one, *parts), grid, 6)
    together = together.patches_of_bands(tiles, x, y, 4)
    assert together.data.shape == together.good.shape == (3, 3, 9, 9)
    for band, part in enumerate(parts):
        own, alone = together.band(band), Pixels(part, grid, 6).patches(tiles, x, y, 4)
        for name in ('data', 'good', 'gain', 'correlation', 'x', 'y'):
            assert torch.equal(getattr(own, name), getattr(alone, name))
        assert torch.equal(own.profile(x, y), alone.profile(x, y))


@pytest.mark.parametrize('one', [(122, 140)], indirect=True)
def test_blocks_and_windows(encoder, one, monkeypatch):
    """
    Large images of several bands pass block by block, and are sampled for densities.
    """
    both = with_bands(one, one, other_band(one, 1))
    two = dataclasses.replace(both, present=torch.tensor([[True, True], [True, False]]))
    encoder.head.count.weight *= 30
    grid, whole = encoder(two).grid, encoder.features(two)
    for name, value in (('_BLOCK', 300), ('_SAMPLED_MIN', 20), ('_SAMPLE_SIDE', 8)):
        monkeypatch.setattr(_infer, name, value)
    found = _infer.infer(encoder, two, grid).features
    assert_close(found.float(), whole, atol=0.05, rtol=0.05)
    densities = [_infer.estimate_densities(encoder, some, grid) for some in (two, one)]
    # The second image lacks the second band.
    apart = [abs(a - b).max() for a, b in zip(*densities, strict=True)]
    assert apart[1] < 0.1 * apart[0]


@pytest.mark.parametrize('conditioning', ['image', 'image+background'])
def test_masked_inputs(encoder, one, conditioning):
    two = with_bands(one, one, other_band(one, 1)).masked(conditioning)
    for index, part in enumerate((one, other_band(one, 1))):
        alone = part.masked(conditioning)
        for name in ('image', 'psf', 'log_noise'):
            own = getattr(two, name)[:, index : index + 1]
            assert_close(own, getattr(alone, name))
    # The flux floor is that of the first band.
    assert_close(two.log_flux_floor, one.masked(conditioning).log_flux_floor)


def test_the_axis_is_needed(one):
    values = {name: getattr(one, name) for name in ('log_density', 'log_flux_floor')}
    values |= {n: getattr(one, n)[:, 0] for n in ('log_noise', 'correlation', 'psf')}
    with pytest.raises(ValueError, match=r'image must have the axes \(B, F, ny, nx\)'):
        EncoderInputs(image=one.image[:, 0], mask=one.mask[:, 0], **values)
