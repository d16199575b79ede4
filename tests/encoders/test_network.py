# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the network: any size, local, equivariant under shifts by tiles.
"""

import dataclasses

import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.encoders import Encoder, EncoderConfig, EncoderInputs
from bliss_astro.posteriors import TilePosterior


def window(inputs, rows, columns):
    """
    The inputs of a part of an image; constants stay.
    """
    return dataclasses.replace(
        inputs,
        image=inputs.image[..., rows, columns],
        mask=inputs.mask[..., rows, columns],
    )


@pytest.fixture(params=[2, 4])
def encoder(request, tiny_config):
    torch.manual_seed(2)
    return Encoder(dataclasses.replace(tiny_config, tile_size=request.param)).eval()


@pytest.fixture
def scene(draw):
    def function(shape, n=1):
        inputs, _ = draw(n, shape=shape, confined_fraction=0.0)
        return inputs

    return function


class TestSizes:
    @pytest.mark.parametrize('shape', [(1, 1), (3, 2), (4, 4), (16, 16), (17, 30)])
    @torch.no_grad()
    def test_any(self, encoder, scene, shape):
        features = encoder.features(scene(shape, 2))
        size = encoder.config.tile_size
        rows, columns = (-(-n // size) for n in shape)
        assert features.shape == (2, 8, rows, columns)
        assert features.dtype == torch.float32
        assert torch.isfinite(features).all()

    def test_forward(self, encoder, scene):
        posterior = encoder(scene((9, 16), 2))
        assert isinstance(posterior, TilePosterior)
        assert posterior.grid.size == encoder.config.tile_size
        assert len(posterior) == 2
        assert posterior.device.type == 'cpu'

    @torch.no_grad()
    def test_the_overhang_is_bad_pixels(self, encoder, scene):
        """
        An image whose last pixels are masked looks like a smaller one.
        """
        inputs = scene((16, 16))
        masked = window(inputs, slice(None), slice(None))
        masked.image, masked.mask = inputs.image.clone(), inputs.mask.clone()
        masked.image[..., 15:, :], masked.mask[..., 15:, :] = 0, True
        small = window(inputs, slice(0, 15), slice(None))
        assert_allclose(encoder.features(masked), encoder.features(small), atol=1e-6)


class TestLocality:
    @torch.no_grad()
    def test_translation_by_whole_tiles(self, encoder, scene):
        size = encoder.config.tile_size
        inputs = scene((80, 80))
        reach = -(-encoder.receptive_radius // size)
        whole = encoder.features(inputs)
        moved = encoder.features(
            window(inputs, slice(2 * size, None), slice(3 * size, None))
        )
        inner = (slice(None), slice(None), slice(reach, -reach), slice(reach, -reach))
        expected = whole[..., 2:, 3:][inner]
        assert expected.numel() > 0
        assert_allclose(moved[inner], expected, atol=1e-5)

    @torch.no_grad()
    def test_nothing_from_beyond_the_receptive_radius(self, encoder, scene):
        size = encoder.config.tile_size
        inputs = scene((81, 81))
        before = encoder.features(inputs)
        changed = window(inputs, slice(None), slice(None))
        changed.image = inputs.image.clone()
        changed.image[..., 40, 40] += 1e4
        difference = (encoder.features(changed) - before).abs().amax((0, 1))
        rows, columns = difference.nonzero(as_tuple=True)
        assert len(rows) > 1
        for index in (rows, columns):
            low, high = index * size, index * size + size - 1
            apart = torch.maximum(low - 40, 40 - high)
            assert apart.max() <= encoder.receptive_radius
        # ... which is not much larger than it has to be.
        assert apart.max() > encoder.receptive_radius - 16

    @torch.no_grad()
    def test_blocks_equal_one_pass(self, encoder, scene):
        size = encoder.config.tile_size
        inputs = scene((96, 64))
        whole = encoder.features(inputs)
        halo = -(-encoder.receptive_radius // size) * size
        for start in range(0, 96, 32):
            low, high = max(0, start - halo), min(96, start + 32 + halo)
            part = encoder.features(window(inputs, slice(low, high), slice(None)))
            skip = (start - low) // size
            block = part[:, :, skip : skip + 32 // size]
            expected = whole[:, :, start // size : (start + 32) // size]
            assert_allclose(block, expected, atol=1e-5)

    @torch.no_grad()
    def test_margins_are_context(self, encoder, scene):
        size = encoder.config.tile_size
        inputs = scene((100, 120))
        density = torch.arange(100 // size * (120 // size)) / 300.0 - 7
        density = density.reshape(1, 1, 100 // size, 120 // size)
        inputs = dataclasses.replace(inputs, log_density=density)
        whole = encoder.features(inputs)
        halo = -(-encoder.receptive_radius // size)
        n = 16 // size
        rows, columns = slice(0, n + halo), slice(n, 3 * n + 2 * halo)
        part = window(
            inputs,
            *(slice(size * s.start, size * s.stop) for s in (rows, columns)),
        )
        part.log_density = density[..., rows, columns]
        margins = (0, halo, halo, columns.stop - 3 * n - halo)
        inner = encoder.inner_features(part, margins)
        expected = whole[..., :n, n + halo : 3 * n + halo]
        assert inner.shape == expected.shape
        assert_allclose(inner, expected, atol=1e-5)

    @torch.no_grad()
    def test_images_of_a_batch_do_not_meet(self, encoder, scene):
        inputs = scene((16, 20), 3)
        together = encoder.features(inputs)
        parts = {
            f.name: getattr(inputs, f.name) for f in dataclasses.fields(EncoderInputs)
        }
        alone = EncoderInputs(
            **{
                k: v[1:2] if isinstance(v, torch.Tensor) else v
                for k, v in parts.items()
            }
        )
        assert_allclose(together[1:2], encoder.features(alone), atol=1e-5)


class TestConditions:
    @pytest.mark.parametrize(
        'name', ['log_noise', 'correlation', 'psf', 'log_density', 'log_flux_floor']
    )
    @torch.no_grad()
    def test_every_channel_is_heard(self, tiny_encoder, scene, name):
        inputs = scene((16, 16))
        before = tiny_encoder.features(inputs)
        changed = dataclasses.replace(
            inputs, **{name: getattr(inputs, name) * 1.2 + 0.05}
        )
        assert (tiny_encoder.features(changed) - before).abs().max() > 1e-5

    @torch.no_grad()
    def test_maps_act_where_they_are(self, tiny_encoder, scene):
        inputs = scene((64, 64))
        before = tiny_encoder.features(inputs)
        density = inputs.log_density.expand(1, 1, 16, 16).clone()
        density[..., :2] += 2
        changed = dataclasses.replace(inputs, log_density=density)
        difference = (tiny_encoder.features(changed) - before).abs().amax((0, 1))
        assert (difference[:, :2] > 0).all()
        assert difference[:, 8:].max() < 1e-6

    @torch.no_grad()
    def test_the_mask_is_heard(self, tiny_encoder, scene):
        inputs = scene((16, 16))
        changed = dataclasses.replace(inputs, mask=~inputs.mask)
        difference = tiny_encoder.features(inputs) - tiny_encoder.features(changed)
        assert difference.abs().max() > 1e-4


class TestConfig:
    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'tile_size': 3}, 'tile_size must be one of 2, 4'),
            ({'width': 0}, 'width must be a positive integer'),
            ({'n_blocks': 1.5}, 'n_blocks must be an integer'),
            ({'n_most': '2'}, 'n_most must be an integer'),
        ],
    )
    def test_errors(self, settings, message):
        with pytest.raises(ValueError, match=message):
            EncoderConfig(**settings)

    def test_numbers(self, tiny_encoder):
        assert tiny_encoder.n_parameters == sum(
            value.numel() for value in tiny_encoder.state_dict().values()
        )
        assert tiny_encoder.name == 'untitled'

    @torch.no_grad()
    def test_bfloat16(self, tiny_encoder, scene):
        inputs = scene((16, 16))
        exact = tiny_encoder.features(inputs)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            posterior = tiny_encoder(inputs)
        assert posterior.features.dtype == torch.float32
        scale = exact.abs().max()
        assert (posterior.features - exact).abs().max() < 0.05 * scale
