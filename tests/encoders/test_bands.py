# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of several bands: what others that exist add to the reference band.
"""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from bliss_astro.detection import _infer
from bliss_astro.encoders import Encoder, EncoderConfig, EncoderInputs
from bliss_astro.encoders._config import SPECTRA
from bliss_astro.encoders._filters import image_planes, matched_filter
from bliss_astro.encoders._inputs import OF_BANDS, training_pair
from bliss_astro.encoders._layers import band_conditions, log_depth
from bliss_astro.posteriors._candidates import find_sources
from bliss_astro.posteriors._loss import npe_loss
from bliss_astro.posteriors._star_fit import Pixels
from bliss_astro.simulation import SimulationStream
from bliss_astro.units import BAND_WAVELENGTHS


@pytest.fixture
def config(tiny_config):
    more = ('galaxies', 'uncertainties', 'shapes', 'sequence', 'bands')
    return dataclasses.replace(tiny_config, **dict.fromkeys(more, True))


@pytest.fixture
def new(config):
    """
    A network whose layers of bands are new.
    """
    torch.manual_seed(2)
    encoder = Encoder(config).eval().requires_grad_(False)
    encoder.head.count.bias.zero_()
    return encoder


@pytest.fixture
def encoder(new):
    for layer in new.bands.children():
        if not getattr(layer, 'weight', torch.ones(1)).any():
            torch.nn.init.normal_(layer.weight, std=0.2)
    return new


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
    changed['band'] = inputs.band + torch.tensor([0.3, -0.2])[:, None, None] * seed
    changed['log_scale'] = inputs.log_scale + 0.4 * seed
    return dataclasses.replace(inputs, **changed)


def blank(inputs):
    zeros = {n: torch.zeros_like(v) for n, v in vars(inputs).items() if n in OF_BANDS
             and v is not None}  # fmt: skip
    return dataclasses.replace(inputs, **zeros)


def without_bands(encoder):
    """
    The network without its weights for bands.
    """
    other = Encoder(dataclasses.replace(encoder.config, bands=False)).eval()
    own = other.state_dict()
    for name, value in encoder.state_dict().items():
        if name in own and not name.startswith('sources.'):
            # Inputs for bands are the last ones.
            size = own[name].shape[1:2]
            own[name] = value[:, : size[0]] if size else value
    other.load_state_dict(own)
    return other.requires_grad_(False)


def test_new_layers_change_nothing(new, one):
    two = with_bands(one, one, other_band(one, 1))
    assert_close(new.features(two), new.features(one), atol=1e-6, rtol=1e-6)
    # Nor do encoders without them see more than the reference band.
    before = without_bands(new)
    assert_close(before.features(two), before.features(one), atol=0, rtol=0)
    assert_close(new.features(one), before.features(one), atol=1e-5, rtol=1e-5)
    # One band of another wavelength may have another answer.
    other = dataclasses.replace(one, band=one.band + 0.3)
    assert (new.features(other) - new.features(one)).abs().max() > 1e-4


def test_other_bands_learn_from_the_first_step(new, one):
    new.requires_grad_(True)
    new.features(with_bands(one, one, other_band(one, 1))).square().sum().backward()
    layers = new.bands.to_tiles, new.bands.conditions
    assert all(layer.weight.grad.abs().max() > 0 for layer in layers)


def test_settings(tiny_config):
    with pytest.raises(ValueError, match='bands needs matched_filter'):
        EncoderConfig(bands=True, matched_filter=False)
    with pytest.raises(ValueError, match="conditioning must be 'all' where bands"):
        EncoderConfig(bands=True, conditioning='image')


def test_file_of_weights(encoder, one, tmp_path):
    encoder.save(tmp_path / 'bands.safetensors')
    loaded = Encoder.from_pretrained(tmp_path / 'bands.safetensors')
    assert loaded.config.bands
    two = with_bands(one, one, other_band(one, 1))
    with torch.no_grad():
        assert_close(loaded.features(two), encoder.features(two))


def test_absent_bands_are_left_out(encoder, one):
    two = with_bands(one, one, blank(one), present=[True, False])
    assert_close(encoder.features(two), encoder.features(one), atol=1e-5, rtol=1e-5)
    nothing = dataclasses.replace(one, image=one.image * math.nan, psf=one.psf * 9)
    three = with_bands(one, one, nothing, blank(one), present=[True, False, False])
    assert_close(encoder.features(three), encoder.features(one), atol=1e-5, rtol=1e-5)
    both = with_bands(one, one, other_band(one, 1))
    apart = encoder.features(both) - encoder.features(one)
    assert apart.abs().max() > 1e-3
    # Some images may lack a band that others have.
    some = dataclasses.replace(
        both, present=torch.tensor([[True, True], [True, False]]), sound=False
    )
    expected = torch.stack([encoder.features(both)[0], encoder.features(one)[1]])
    assert_close(encoder.features(some), expected, atol=1e-5, rtol=1e-5)


def test_absent_bands_are_replaced_once(one):
    two = with_bands(one, one, blank(one), present=[True, False])
    assert two.sound
    assert two.image[:, 1].eq(0).all()
    # No pixel is looked at again.
    again = dataclasses.replace(two.select(slice(None)), normalization_radius=9.0)
    assert again.image.data_ptr() == two.image.data_ptr()
    assert again.sound


def test_order_of_bands_does_not_matter(encoder, one):
    others = other_band(one, 1), other_band(one, 2)
    features = encoder.features(with_bands(one, one, *others))
    turned = encoder.features(with_bands(one, one, *others[::-1]))
    assert_close(features, turned, atol=1e-5, rtol=1e-5)


def test_fits_of_bands_that_are_absent(encoder, one):
    """
    With bands that do not exist the posterior is that of the first alone.
    """
    nothing = dataclasses.replace(
        one, image=one.image * math.nan, psf=one.psf * math.nan
    )
    bands = one, other_band(one, 1), nothing
    two = with_bands(one, *bands, present=[True, False, False])
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


def test_fits_are_made_in_all_bands(encoder, one):
    """
    In any order of the others; each source has a flux and an error in each band.
    """
    others, order = (other_band(one, 1), other_band(one, 2)), [0, 2, 1]
    parts = [with_bands(one, one, *some) for some in (others, others[::-1])]
    for k, part in enumerate(parts):
        present = part.present.clone()
        present[1, 1 + k] = False
        parts[k] = dataclasses.replace(part, present=present, sound=False)
    first, second = (encoder(part) for part in parts)
    catalog = first.sample(generator=torch.Generator().manual_seed(4))
    assert (catalog.count > 1).sum() > 3
    turned = dataclasses.replace(catalog, colour=catalog.colour[..., order])
    density = first.log_prob(catalog)
    assert_close(second.log_prob(turned), density, atol=1e-2, rtol=1e-4)
    alone = encoder(one).log_prob(catalog)
    assert not torch.allclose(alone, density, atol=1.0)
    # Encoders without bands have no others.
    before = without_bands(encoder)
    alone = before(one).log_prob(catalog)
    assert_close(before(parts[0]).log_prob(catalog), alone)
    tiles = (catalog.count > 1).nonzero(as_tuple=True)
    hidden, two = first.hidden_given(catalog), torch.full_like(tiles[0], 2)
    hidden = hidden[tiles[0], :, tiles[1], tiles[2]]
    for place in (0, 1):
        given = place, tiles, hidden, two, catalog
        fit, turned = (part.source_chain(*given).fit for part in (first, second))
        for name in ('band_flux', 'band_error'):
            for kind in (name, f'{name}_extended'):
                assert fit[kind].shape == (len(two), 3)
                assert_close(fit[kind][:, order], turned[kind], atol=1e-2, rtol=1e-3)
        missing = fit['band_error'].isinf()
        assert torch.equal(missing[:, 1], tiles[0] == 1)
        assert not missing[:, [0, 2]].any()
        flux = fit['band_flux'] / fit['log_floor'].exp()[:, None]
        assert_close(flux[:, 0].clamp(min=0.2).log(), fit['log_flux'])


@pytest.mark.parametrize('shapes_only', [False, True])
def test_sources_and_draws_of_all_bands(encoder, one, shapes_only):
    others = other_band(one, 1), other_band(one, 2)
    design = encoder.with_design(sequence=True, shapes_only=shapes_only)
    parts = [with_bands(one, one, *some) for some in (others, others[::-1])]
    found, turned = (find_sources(design(part), n_draws=32) for part in parts)
    assert len(found) == len(turned) > 10
    assert found.shapes.isfinite().all()
    for name in ('probability', 'x', 'y'):
        first, second = (getattr(part, name) for part in (found, turned))
        assert_close(first, second, atol=1e-3, rtol=1e-3)
    drawn, same = (
        design(part).sample(generator=torch.Generator().manual_seed(4))
        for part in parts
    )
    assert torch.equal(drawn.galaxy, same.galaxy)
    assert drawn.galaxy.sum() > 3
    assert_close(drawn.shape, same.shape, atol=1e-2, rtol=1e-2)


def test_cut_outs_of_all_bands(encoder, one):
    parts = one, other_band(one, 1), other_band(one, 2)
    grid = encoder(one).grid
    tiles = tuple(torch.tensor(v) for v in ([0, 1, 1], [2, 0, 5], [1, 3, 8]))
    x, y = torch.tensor([6.2, 14.0, 32.9]), torch.tensor([9.1, 0.3, 22.0])
    together = Pixels(with_bands(one, *parts), grid, 6)
    together = together.patches(tiles, x, y, 4)
    assert together.data.shape == together.good.shape == (3, 3, 9, 9)
    for band, part in enumerate(parts):
        alone = Pixels(part, grid, 6).patches(tiles, x, y, 4)
        for name in ('data', 'good', 'gain', 'correlation'):
            own = getattr(together, name)[:, band : band + 1]
            assert torch.equal(own, getattr(alone, name))
        own = together.profile(x, y)[:, band : band + 1]
        assert torch.equal(own, alone.profile(x, y))


@pytest.mark.parametrize('one', [(122, 140)], indirect=True)
def test_blocks_and_windows(encoder, one, monkeypatch):
    """
    Large images of several bands pass block by block, and are sampled for densities.
    """
    both = with_bands(one, one, other_band(one, 1))
    present = torch.tensor([[True, True], [True, False]])
    two = dataclasses.replace(both, present=present, sound=False)
    encoder.head.count.weight *= 30
    grid, whole = encoder(two).grid, encoder.features(two)
    for name, value in (('_BLOCK', 300), ('_SAMPLED_MIN', 20), ('SAMPLE_SIDE', 8)):
        monkeypatch.setattr(_infer, name, value)
    found = _infer.infer(encoder, two, grid).features
    assert_close(found.float(), whole, atol=0.05, rtol=0.05)
    densities = [_infer.estimate_densities(encoder, some, grid) for some in (two, one)]
    # Samples are of the reference band.
    for own in zip(*densities, strict=True):
        assert_close(*own, atol=1e-6, rtol=1e-5)


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


def test_pixels_of_other_bands_are_weighted_by_their_description(encoder):
    layers, generator = encoder.bands, torch.Generator().manual_seed(1)
    reference, first, second = torch.randn(3, 1, 8, 6, 10, generator=generator)
    conditions = torch.randn(1, 3, 14, 3, 5, generator=generator)
    planes = torch.zeros(1, 2 * len(SPECTRA), 12, 20)

    def add(*others, given=conditions):
        others = [(place, [0], own) for place, own in others]
        return layers(reference, others, given, planes)

    assert add((1, first), (2, second)).shape == (1, 8, 3, 5)
    assert_close(add((1, first), (2, second)), add((2, second), (1, first)))
    alone, other = add((1, first)), add((1, second))
    assert (alone - other).abs().max() > 1e-3
    # The same pixels in another band, and maps of conditions in place of constants.
    assert (alone - add((2, first))).abs().max() > 1e-3
    constant = conditions[..., :1, :1]
    whole = constant.expand_as(conditions)
    assert_close(add((1, first), given=constant), add((1, first), given=whole))


# -- matched filters of several bands ------------------------------------------------


@pytest.fixture
def star(draw):
    """
    Give a function: inputs of a star in bands, and of each of them alone.
    """
    empty, _ = draw(1, shape=(64, 64), confined_fraction=0.0)
    empty.mask[:] = False
    step = torch.arange(64.0)

    def function(flux, magnitudes, log_scale, noise=0.0):
        waves, bands = BAND_WAVELENGTHS.values(), []
        pairs = zip(waves, magnitudes, log_scale, strict=False)
        for k, (wavelength, magnitude, scale) in enumerate(pairs):
            psf = empty.psf * torch.ones(8)[:, None, None]
            psf[:, :, [0, 1, 3]] *= 1 + 0.1 * k
            ratio = 10 ** (-0.4 * magnitude) / math.exp(scale - log_scale[0])
            profile = dataclasses.replace(empty, psf=psf).gaussians[0, 0, 0, 0]
            image = flux * ratio * profile(step - 30.3, step[:, None] - 33.6)
            generator = torch.Generator().manual_seed(k)
            image = image + noise * torch.randn(64, 64, generator=generator)
            logs = torch.tensor([math.log(wavelength / 616.8), 0.0])
            changed = {'image': image[None, None], 'psf': psf}
            changed['band'] = logs.reshape(1, 1, 2, 1, 1)
            changed['log_scale'] = torch.full((1, 1, 1, 1, 1), scale - log_scale[0])
            bands.append(dataclasses.replace(empty, **changed))
        return with_bands(bands[0], *bands), bands

    return function


def filtered(inputs):
    return matched_filter(inputs.image[:, 0], inputs, 4)


def joint_filters(inputs, config):
    """
    Signal-to-noise ratios of the K spectra, from the first of their two scales.
    """
    _, planes = image_planes(inputs, config)
    alone = filtered(inputs.in_band(0))
    return torch.sinh(planes[:, ::2] + torch.asinh(alone)[:, None])[0]


@pytest.mark.parametrize('spectrum', range(len(SPECTRA)))
def test_ratios_add_up_in_quadrature(star, config, spectrum):
    magnitudes = [m - SPECTRA[spectrum][0] for m in SPECTRA[spectrum]]
    depths = [0.4, -0.3, 0.0, -1.0, 0.7, 1.0]
    inputs, bands = star(20.0, magnitudes, depths)
    expected = torch.stack([filtered(band).max() for band in bands]).norm()
    found = joint_filters(inputs, config).amax((1, 2))
    assert_close(found[spectrum], expected, rtol=0.02, atol=0)
    assert found.argmax() == spectrum


def test_two_bands_of_one_depth(star, config):
    inputs, bands = star(20.0, [0, 0], [0, 0])
    inputs.psf[:, 1] = inputs.psf[:, 0]
    inputs.image[:, 1] = inputs.image[:, 0]
    found = joint_filters(inputs, config)[2]
    assert_close(found.max(), 2**0.5 * filtered(bands[0]).max(), rtol=0.01, atol=0)
    noise, _ = star(0.0, [0, 0, 0], [0.3, 0.0, -0.4], noise=1.0)
    std = joint_filters(noise, config)[:, 8:-8, 8:-8].std((1, 2))
    assert ((std > 0.85) & (std < 1.15)).all()


def test_a_band_that_is_masked_in_places(star, config):
    inputs, bands = star(30.0, [0, 0, 0], [0, 0, 0], noise=1.0)
    inputs.mask[:, 1:, :, 24:] = True
    inputs.image[:, 1:, :, 24:] = 0
    _, planes = image_planes(inputs, config)
    assert planes[..., 24:].abs().max() < 0.01
    _, whole = image_planes(with_bands(bands[0], *bands), config)
    assert_close(planes[..., :12], whole[..., :12])
    # Nor has one that is absent any part in them.
    two = EncoderInputs.concatenate([inputs, inputs])
    two.present[1, 1:] = False
    planes, spectral = image_planes(two, config)
    assert [part[:2] for part in planes] == [(0, [0, 1]), (1, [0]), (2, [0])]
    assert spectral[0].any()
    assert not spectral[1].any()
    assert image_planes(two.select([1]), config)[1] is None
    assert image_planes(bands[0], config)[1] is None


def test_depth_and_description(star):
    inputs, _ = star(1.0, [0, 0], [0.2, 1.2])
    area = torch.stack([psf.effective_area for psf in inputs.gaussians[0, :, 0, 0]])
    expected = 1.0 + 0.5 * torch.log(area[1] / area[0])
    depth = log_depth(inputs)
    assert_close(depth.flatten(), torch.stack([expected * 0, expected]))
    described = band_conditions(inputs)
    assert described.shape == (1, 2, 3, 1, 1)
    inputs.band[:] = 0
    assert not band_conditions(inputs)[:, 0].any()


# -- simulated bands --------------------------------------------------------------


@pytest.fixture
def simulated(tiny_simulation):
    settings = {'bands': tuple('gri'), 'band_shares': (0.5, 0.0, 0.5)}
    config = dataclasses.replace(tiny_simulation, **settings)
    stream = SimulationStream(config, group_size=1)
    return stream.sample_batch(6, generator=torch.Generator().manual_seed(1))


def test_inputs_of_simulated_bands(simulated):
    inputs, catalog = training_pair(simulated)
    assert inputs.image.shape == (6, 3, 16, 16)
    assert torch.equal(inputs.present, simulated.present)
    assert inputs.present.any(0).all()
    assert not inputs.present.all()
    assert torch.equal(inputs.band[..., 0, 0], simulated.bands)
    for k, images in enumerate(simulated.images):
        own = EncoderInputs.from_batch(images)
        for name in ('image', 'mask', 'psf', 'log_noise', 'correlation'):
            assert torch.equal(getattr(inputs, name)[:, k], getattr(own, name)[:, 0])
        noise = torch.log(images.bkg_error / images.electrons_per_nmgy)
        first = simulated.reference
        noise -= torch.log(first.bkg_error / first.electrons_per_nmgy)
        assert_close(inputs.log_scale[:, k].flatten(), noise)
    alone, same = training_pair(simulated.reference)
    assert torch.equal(inputs.log_flux_floor, alone.log_flux_floor)
    assert torch.equal(catalog.x, same.x)
    # A band alone has the values of its own.
    reference = inputs.in_band(0)
    assert reference.present.shape == (6, 1)
    for name in {*OF_BANDS} - {'band'}:
        own = getattr(alone, name)
        assert own is None or torch.equal(getattr(reference, name), own)
    assert alone.in_band(0) is alone


def test_a_loss_of_simulated_bands(simulated, tiny_config):
    torch.manual_seed(1)
    encoder = Encoder(dataclasses.replace(tiny_config, bands=True))
    inputs, catalog = training_pair(simulated)
    loss, first = npe_loss(encoder(inputs), catalog)
    loss.backward()
    grads = [p.grad for p in encoder.bands.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert encoder.bands.to_tiles.weight.grad.abs().max() > 0
    # That of the reference band, where there is no other.
    alone, _ = npe_loss(encoder(inputs.in_band(0)), catalog)
    present = inputs.present.clone()
    present[:, 1:] = False
    inputs = dataclasses.replace(inputs, present=present, sound=False)
    without, terms = npe_loss(encoder(inputs), catalog)
    # Colours are inferred all the same, by their prior.
    assert_close(without - terms['colour'], alone)
    assert abs(terms['colour'] - first['colour']) > 0.1
    assert abs(loss - first['colour'] - alone) > 0.1
