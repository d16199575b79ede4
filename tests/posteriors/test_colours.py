# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the colours of sources, given their types and fluxes.
"""

import copy
import dataclasses
import math
import types

import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.encoders._inputs import OF_BANDS, training_pair
from bliss_astro.exposures import BANDS
from bliss_astro.posteriors import (
    TileCatalog,
    TileGrid,
    _colours,
    find_sources,
    npe_loss,
)
from bliss_astro.posteriors._colours import ColourLayers, colour_inputs
from bliss_astro.posteriors._source_parameters import after_flux
from bliss_astro.posteriors._star_fit import Pixels
from bliss_astro.posteriors._tile_chain import TileChain
from bliss_astro.priors import ColourPrior
from bliss_astro.simulation import SimulationConfig, SimulationStream

_NAMES = 'r', 'u', 'g', 'i', 'z'
# Noise of a pixel in nmgy in these bands, and of fluxes in units of it.
_NOISE, _ERROR = torch.tensor([0.1, 0.2, 0.09, 0.15, 0.3]), 3.0
_FLOOR = 0.4
_N_FEATURES = 4


@pytest.fixture(scope='module')
def prior():
    return ColourPrior.default()


@pytest.fixture
def layers():
    """New layers, for fluxes with no errors in common."""
    torch.manual_seed(1)
    layers = ColourLayers(_N_FEATURES, galaxies=True).requires_grad_(False)
    layers.of_band.weight.zero_()
    layers.common.zero_()
    layers.log_common.fill_(math.log(2e-3))
    layers.weights.bias.view(-1, 4)[-2:, 0] = -30.0
    return layers


def simulate(prior, n, *, magnitudes=(18.0, 22.5), seed=5, scale=1.0):
    """Types, log fluxes and colours, and the inputs of measured fluxes."""
    generator = torch.Generator().manual_seed(seed)
    low, high = magnitudes
    magnitude = low + (high - low) * torch.rand(n, generator=generator)
    kind = (torch.rand(n, generator=generator) < 0.5).float()
    bands = [BANDS[name] for name in _NAMES]
    colour = prior.sample(magnitude, kind > 0, bands, generator=generator)
    flux = 10 ** (0.4 * (22.5 - magnitude))
    error = _ERROR * scale
    noise = error * torch.randn(n, len(bands), generator=generator)
    measured = flux[:, None] * colour.exp() / _NOISE + noise
    numbers = torch.tensor([band.description for band in bands])
    inputs = {
        'band': numbers.expand(n, -1, -1),
        'log_scale': (_NOISE / _NOISE[0]).log().expand(n, -1),
        'log_floor': torch.full((n,), math.log(_FLOOR / _NOISE[0])),
        'log_flux': (measured[:, 0] * _NOISE[0] / _FLOOR).clamp(min=0.2).log(),
        'log_nmgy': torch.full((n,), float(_NOISE[0].log())),
        'band_flux': measured[:, None].expand(-1, 2, -1),
        'band_error': torch.full((n, 2, len(bands)), error),
    }
    truth = {'kind': kind, 'flux': (flux / _FLOOR).log(), 'colour': colour}
    return truth | {'magnitude': magnitude, 'bands': bands}, inputs


def without(inputs, *bands):
    """Inputs where some bands are not measured."""
    error = inputs['band_error'].clone()
    error[..., list(bands)] = torch.inf
    return inputs | {'band_error': error}


def colours(layers, inputs, truth, features=None):
    n = len(truth['flux'])
    features = torch.zeros(n, _N_FEATURES) if features is None else features
    return layers(features, inputs, truth['kind']).given(truth['flux'])


def trained(layers):
    """The same as if they had been trained."""
    generator = torch.Generator().manual_seed(4)
    for name in ('weights', 'of_band'):
        weight = getattr(layers, name).weight
        weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return layers


def test_prior_where_nothing_is_measured(layers, prior):
    truth, inputs = simulate(prior, 200)
    found = colours(layers, without(inputs, 0, 1, 2, 3, 4), truth)
    given = truth['colour'], truth['magnitude'], truth['kind'] > 0, truth['bands']
    expected = prior.log_prob(*given)
    assert_close(found.log_prob(truth['colour'][:, 1:]), expected, atol=1e-2, rtol=1e-3)
    # Of other surveys too, whose bands lie between.
    truth['bands'] = [BANDS[f'DECam.{name}'] for name in ('r', 'g', 'i', 'z')]
    inputs = {
        k: v[..., :4] if 'band_' in k or 'scale' in k else v for k, v in inputs.items()
    }
    numbers = torch.tensor([band.description for band in truth['bands']])
    inputs['band'] = numbers.expand(200, -1, -1)
    colour = prior.sample(truth['magnitude'], truth['kind'] > 0, truth['bands'])
    found = colours(layers, without(inputs, 0, 1, 2, 3), truth)
    expected = prior.log_prob(colour, *given[1:3], truth['bands'])
    assert_close(found.log_prob(colour[:, 1:]), expected, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize('missing', [(), (1,), (2, 4)])
def test_calibration(layers, prior, missing):
    truth, inputs = simulate(prior, 3000)
    found = layers(torch.zeros(3000, _N_FEATURES), without(inputs, *missing))
    n_draws = 200
    flux = truth['flux'][:, None].expand(-1, n_draws)
    kind = truth['kind'][:, None].expand(-1, n_draws).long()
    q = torch.rand(3000, n_draws, 5, generator=torch.Generator().manual_seed(2))
    draws = found.given(flux, kind).quantile_draw(q)
    below = (draws < truth['colour'][:, None, 1:]).float().mean(1)
    snr = (truth['flux'].exp() * _FLOOR)[:, None] * truth['colour'].exp()
    snr = (snr / _NOISE / _ERROR)[:, 1:]
    for band in range(4):
        for low, high in ((-1, 3), (3, 15), (15, 100)):
            some = (snr[:, band] > low) & (snr[:, band] < high)
            if some.sum() < 400:
                continue
            away = (below[some, band] - 0.5).abs()
            shares = torch.stack([(away < q / 2).float().mean() for q in _SHARES])
            # Three points, and as many errors of the share.
            error = 2 * (shares * (1 - shares) / some.sum()).sqrt()
            apart = shares - torch.tensor(_SHARES)
            assert (apart > -0.03 - error).all()
            assert (apart < 0.03 + error).all() or low < 3


_SHARES = 0.5, 0.68, 0.9, 0.95


def test_faint_sources_keep_the_prior(layers, prior):
    """Noise alone says nothing but that a band is not bright."""
    truth, inputs = simulate(prior, 300)
    noise = torch.randn(300, 1, 4, generator=torch.Generator().manual_seed(2))
    inputs['band_flux'] = inputs['band_flux'].clone()
    inputs['band_flux'][..., 1:], inputs['band_error'][..., 1:] = 1e6 * noise, 1e6
    found = colours(layers, inputs, truth).log_prob(truth['colour'][:, 1:])
    nothing = without(inputs, 1, 2, 3, 4)
    expected = colours(layers, nothing, truth).log_prob(truth['colour'][:, 1:])
    assert_allclose(found.mean(), expected.mean(), atol=0.1)


def test_missing_band(layers, prior):
    truth, inputs = simulate(prior, 100, magnitudes=(17, 19))
    found = colours(layers, without(inputs, 2), truth)
    q = torch.rand(100, 4000, 5, generator=torch.Generator().manual_seed(2))
    flux = truth['flux'][:, None].expand(-1, 4000)
    both = layers(torch.zeros(100, _N_FEATURES), without(inputs, 2), truth['kind'])
    drawn = both.given(flux).quantile_draw(q)[..., 1]
    fluxes = inputs['band_flux'][:, 0] * _NOISE
    ratio = (fluxes / (truth['flux'].exp() * _FLOOR)[:, None]).clamp(min=1e-3).log()
    error = _ERROR * _NOISE / fluxes
    measured = torch.tensor([False, True, False, True, True])
    bright = (fluxes > 10 * _ERROR * _NOISE).all(1)
    assert bright.sum() > 20
    mean, cov = prior.conditional(
        truth['magnitude'],
        truth['kind'] > 0,
        truth['bands'],
        log_ratio=ratio,
        error=error,
        measured=measured.expand(100, -1),
    )
    width = cov[:, 2, 2].sqrt()
    assert_close(drawn.std(1)[bright], width[bright], atol=0.01, rtol=0.15)
    assert ((drawn.mean(1) - mean[:, 2]) / width)[bright].abs().max() < 0.3
    # What is not asked for changes nothing, nor does what is not known.
    value = truth['colour'][:, 1:].clone()
    value[:, 1] = torch.nan
    fewer = [0, 1, 3, 4]
    of_bands = 'band', 'log_scale', 'band_flux', 'band_error'
    some = {
        k: v[:, fewer] if k in of_bands[:2] else v[..., fewer] if k in of_bands else v
        for k, v in inputs.items()
    }
    alone = colours(layers, some, truth).log_prob(truth['colour'][:, [1, 3, 4]])
    assert_close(found.log_prob(value), alone, atol=1e-2, rtol=1e-3)


def test_order_of_bands(layers, prior):
    trained(layers)
    truth, inputs = simulate(prior, 50)
    inputs = without(inputs, 3)
    features = torch.randn(50, _N_FEATURES)
    order = [0, 3, 1, 4, 2]
    turned = {
        k: v if v.dim() == 1 else v[:, order] if k == 'band' else v[..., order]
        for k, v in inputs.items()
    }
    first = colours(layers, inputs, truth, features).log_prob(truth['colour'][:, 1:])
    value = truth['colour'][:, order][:, 1:]
    second = colours(layers, turned, truth, features).log_prob(value)
    assert_close(first, second, atol=2e-2, rtol=2e-3)
    plain = colours(ColourLayers(_N_FEATURES, galaxies=True), inputs, truth, features)
    assert (first - plain.log_prob(truth['colour'][:, 1:])).abs().mean() > 0.1


def test_draws_have_the_density(layers, prior):
    """Of two bands, at a flux other than the measured one."""
    trained(layers)
    truth, inputs = simulate(prior, 3)
    inputs = {
        k: v[..., :2] if 'band_' in k or 'scale' in k else v for k, v in inputs.items()
    }
    inputs['band'] = inputs['band'][:, :2]
    found = layers(torch.randn(3, _N_FEATURES), inputs, truth['kind'])
    flux = truth['flux'][:, None] + 0.1
    q = torch.rand(3, 20000, 2, generator=torch.Generator().manual_seed(2))
    draws = found.given(flux.expand(-1, 20000)).quantile_draw(q)[..., 0]
    nodes = torch.linspace(-12, 6, 30001)
    density = found.given(flux.expand(-1, len(nodes)))
    density = density.log_prob(nodes.expand(3, -1)[..., None]).exp()
    below = density.cumsum(1) * (nodes[1] - nodes[0])
    assert_allclose(below[:, -1], 1, atol=2e-3)
    for share in (0.1, 0.5, 0.9):
        at = draws.quantile(share, 1)
        place = torch.searchsorted(nodes, at)
        assert_allclose(below.gather(1, place[:, None]), share, atol=0.015)


def test_brighter_sources_have_other_colours(layers, prior):
    """Given a brighter reference band, the other bands are what was measured."""
    truth, inputs = simulate(prior, 50, magnitudes=(18, 19))
    layers.log_common.fill_(-10.0)
    features = torch.zeros(50, _N_FEATURES)
    found = layers(features, without(inputs, 0), truth['kind'])
    medians = []
    for step in (0.0, 0.2):
        flux = (truth['flux'] + step)[:, None].expand(-1, 2000)
        q = torch.rand(50, 2000, 5, generator=torch.Generator().manual_seed(2))
        medians.append(found.given(flux).quantile_draw(q)[..., 2].median(1).values)
    # In i all are bright.
    assert_allclose(medians[1] - medians[0], -0.2, atol=0.05)


def test_common_factor(layers, prior):
    """Light that all bands miss changes no colours; its width is that of the source."""
    truth, inputs = simulate(prior, 200, magnitudes=(18, 19), scale=0.1)
    galaxies = truth['kind'] > 0
    value = truth['colour'][:, 1:]
    lost = torch.where(galaxies, math.exp(-0.13), 1.0)[:, None, None]
    fewer = inputs | {'band_flux': lost * inputs['band_flux']}
    whole = colours(layers, inputs, truth).log_prob(value)
    layers.log_common.fill_(math.log(5e-3))
    blind = colours(layers, fewer, truth).log_prob(value)
    layers.common[1] = -0.13
    found = colours(layers, fewer, truth).log_prob(value)
    assert_close(found[galaxies].mean(), whole[galaxies].mean(), atol=0.3, rtol=0)
    assert found[galaxies].mean() > blind[galaxies].mean() + 1
    assert_close(found[~galaxies], blind[~galaxies])
    # With a feature the fluxes of some sources are less sure.
    features = torch.zeros(200, _N_FEATURES)
    features[::2, 0] = 1.0
    layers.of_common.weight[:, 0] = 2.0
    wider = colours(layers, fewer, truth, features)
    flux = layers(features, fewer, truth['kind']).given(truth['flux'] + 0.05)
    assert_close(wider.log_prob(value)[1::2], found[1::2])
    shift = (flux.mean - wider.mean)[:, 0, 2].abs()
    assert shift[::2].mean() < 0.7 * shift[1::2].mean()


def test_what_went_wrong_is_weighed_by_its_evidence(layers, prior):
    """Colours that the prior explains are not drawn from the prior alone."""
    truth, inputs = simulate(prior, 200, magnitudes=(18, 19), scale=0.1)
    layers.weights.bias.view(-1, 4)[-2:, 0] = 0.0
    found = colours(layers, inputs, truth)
    odd = inputs['band_flux'].clone()
    odd[..., 3] *= 30
    strange = colours(layers, inputs | {'band_flux': odd}, truth)
    layers.by_evidence.zero_()
    before = colours(layers, inputs, truth).log_weights.exp()[:, -1]
    share, of_strange = (one.log_weights.exp()[:, -1] for one in (found, strange))
    assert (before > 0.008).all()
    assert share.median() < 1e-3
    assert of_strange.median() > 0.1


def test_without_a_zero_point(layers, prior):
    truth, inputs = simulate(prior, 300)
    inputs['log_nmgy'] = torch.full_like(inputs['log_nmgy'], torch.nan)
    found = colours(layers, inputs, truth).log_prob(truth['colour'][:, 1:])
    assert found.isfinite().all()
    before = colours(layers, without(inputs, 0, 1, 2, 3, 4), truth)
    assert found.mean() > before.log_prob(truth['colour'][:, 1:]).mean() + 2


def test_reference_behind_a_mask(layers, prior):
    truth, inputs = simulate(prior, 50)
    inputs['band_flux'] = inputs['band_flux'].clone()
    inputs['band_error'][..., 0] = 1e6
    inputs['band_flux'][..., 0] = -3e3
    inputs['band_flux'][..., 1:] -= 10 * inputs['band_error'][..., 1:]
    found = colours(layers, inputs, truth)
    assert found.log_prob(truth['colour'][:, 1:]).isfinite().all()


def test_pieces(layers, prior, monkeypatch):
    truth, inputs = simulate(prior, 40)
    features = torch.randn(40, _N_FEATURES)
    whole = colours(layers, inputs, truth, features).log_prob(truth['colour'][:, 1:])
    monkeypatch.setattr(_colours, '_PIECE', 16)
    with torch.no_grad():
        parts = colours(layers, inputs, truth, features)
    assert_close(parts.log_prob(truth['colour'][:, 1:]), whole)


def in_images(inputs, batch):
    """
    Inputs of colours, and their truth, of the sources of images that lie apart.
    """
    images = batch.reference
    used = (images.flux > images.flux_min[:, None]) & (
        (torch.stack([images.x, images.y]) - 31.5).abs().amax(0) < 22
    )
    x, y = images.x, images.y
    apart = torch.hypot(x[:, :, None] - x[:, None], y[:, :, None] - y[:, None])
    apart = torch.where((images.flux > 0)[:, None], apart, 99.0)
    apart.diagonal(dim1=1, dim2=2).fill_(99.0)
    at = (used & (apart.amin(-1) > 12)).nonzero(as_tuple=True)
    x, y = x[at], y[at]
    tiles = at[0], *(((v + 0.5) // 4).long() for v in (y, x))
    pixels = Pixels(inputs, TileGrid((64, 64), 4), 12)
    chain = object.__new__(TileChain)
    chain.grid = pixels.grid
    chain.posterior = types.SimpleNamespace(pixels=pixels, inputs=inputs)
    chain.head = types.SimpleNamespace(galaxies=True, shapes=True)
    log_floor = inputs.at_tiles(inputs.log_flux_floor, *tiles)[:, 0]
    patches = pixels.patches(tiles, x, y, 6)
    fit = chain._fit_piece(tiles, patches, x, y, log_floor.exp())
    flux = (images.flux[at] / images.bkg_error[at[0]]).log() - log_floor
    kind, colour = images.is_galaxy[at].float(), batch.log_ratio[at]
    truth = {'kind': kind, 'flux': flux, 'colour': colour}
    return colour_inputs(inputs, tiles, fit), truth


def test_calibration_of_new_layers_in_images():
    """
    Of bright sources, whose fluxes are as good as PSF and profile are known.
    """
    simulation = SimulationConfig(
        bands=('g', 'r', 'i'),
        band_shares=(0, 0, 1),
        population='sky',
        fields='telescopes',
        psf='telescopes',
        psf_errors=(0.001, 0.15),
        background_errors=(0.001, 0.3),
        asymmetry=0.08,
        floor_snr=(30.0, 60.0),
        typical_floor_snr=None,
        density=(1e-3, 1e-3),
        shape=(64, 64),
        n_exposures=(1, 1),
    )
    stream = SimulationStream(simulation, device='cpu')
    batch = stream.sample_batch(384, generator=torch.Generator().manual_seed(1))
    seen, truth = in_images(training_pair(batch)[0], batch)
    n = len(truth['flux'])
    torch.manual_seed(1)
    new = ColourLayers(_N_FEATURES, galaxies=True).requires_grad_(False)
    found = new(torch.zeros(n, _N_FEATURES), seen, truth['kind'])
    q = torch.rand(n, 400, 3)
    draws = found.given(truth['flux'][:, None].expand(-1, 400)).quantile_draw(q)
    low, middle, high = draws.quantile(torch.tensor([0.16, 0.5, 0.84]), 1)
    measured = seen['band_error'][:, 0].isfinite().all(1)
    z = (middle - truth['colour'][:, 1:]) / (0.5 * (high - low))
    for kind in (0, 1):
        some = z[measured & (truth['kind'] == kind)].flatten()
        assert len(some) > 100
        assert 0.8 < float(some.abs().quantile(0.68)) < 1.3
        assert float((some.abs() > 3).float().mean()) < 0.04


# -- in the chain ----------------------------------------------------------------


@pytest.fixture(scope='module')
def batch():
    simulation = SimulationConfig(
        bands=('u', 'g', 'r', 'i', 'z'),
        band_shares=(0, 0, 1, 1, 1),
        shape=(32, 32),
        n_exposures=(1, 1),
    )
    stream = SimulationStream(simulation, device='cpu')
    return stream.sample_batch(12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='module')
def encoder():
    sizes = dict.fromkeys(('width', 'stem_width', 'head_width'), 16)
    names = 'galaxies', 'shapes', 'sequence', 'shapes_only', 'bands'
    torch.manual_seed(0)
    config = EncoderConfig(**sizes, n_blocks=1, **dict.fromkeys(names, True))
    encoder = Encoder(config)
    torch.nn.init.zeros_(encoder.head.count.bias)
    return encoder.eval().requires_grad_(False)


def test_truth_by_tile(batch):
    truth = TileCatalog.from_batch(batch)
    assert truth.colour.shape == (*truth.x.shape, 5)
    place = torch.arange(truth.x.shape[-1])
    used = place < truth.count[..., None]
    assert not truth.colour[~used].any()
    found = truth.colour[used]
    assert not found[:, 0].any()
    assert found[:, 1:].abs().min() > 0
    first = truth.colour[0][used[0]].sum(0)
    images = batch.reference
    kept = images.flux[0] >= images.flux_min[0]
    inside = kept & (images.x[0].clamp(-0.5, 31.5) == images.x[0])
    inside &= images.y[0].clamp(-0.5, 31.5) == images.y[0]
    if int(inside.sum()) == int(truth.count[0].sum()):
        assert_close(first, batch.log_ratio[0, inside].sum(0), atol=1e-4, rtol=1e-4)


def test_training(encoder, batch):
    """The term of colours falls in some steps of the layers of colours."""
    inputs, truth = training_pair(batch)
    layers = [block['colour'] for block in encoder.head.source]
    first = [{k: v.clone() for k, v in part.state_dict().items()} for part in layers]
    weights = [w for part in layers for w in part.parameters()]
    features, losses = encoder.features(inputs), []
    optimiser = torch.optim.Adam(weights, lr=3e-3)
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for _ in range(15):
            posterior = encoder.posterior(features, inputs)
            loss, terms = npe_loss(posterior, truth)
            optimiser.zero_grad()
            loss.backward()
            assert all(w.grad.isfinite().all() for w in weights if w.grad is not None)
            optimiser.step()
            losses.append(float(terms['colour'].detach()))
    finally:
        for part, values in zip(layers, first, strict=True):
            part.load_state_dict(values)
            part.requires_grad_(False)
    n_sources = float(truth.count.sum()) / len(truth.count)
    assert losses[0] < 1.5 * n_sources
    assert losses[-1] < losses[0] - 0.1 * n_sources


@pytest.mark.parametrize('case', ['all bands', 'two absent', 'empty', 'all absent'])
def test_gradients_are_finite(encoder, batch, case):
    """Whatever a band that is absent has in place of numbers."""
    inputs, truth = training_pair(batch)
    present = torch.ones_like(inputs.present)
    present[:, {'two absent': 3, 'all absent': 1}.get(case, 5) :] = False
    names = (n for n in OF_BANDS if n != 'mask' and getattr(inputs, n) is not None)
    values = {name: getattr(inputs, name).clone() for name in names}
    for name, value in values.items():
        value[~present] = 0.0 if name == 'band' else torch.nan
    values['log_nmgy'] = inputs.log_nmgy * torch.nan
    inputs = dataclasses.replace(inputs, present=present, sound=False, **values)
    if case == 'empty':
        truth.count.zero_()
    trained = copy.deepcopy(encoder).requires_grad_(True)
    loss, _ = npe_loss(trained(inputs), truth)
    loss.backward()
    assert loss.isfinite()
    grads = [w.grad for w in trained.parameters() if w.grad is not None]
    assert len(grads) > 20
    assert all(grad.isfinite().all() for grad in grads)


def test_unknown_colours(encoder, batch):
    inputs, truth = training_pair(batch)
    posterior = encoder(inputs)
    terms = posterior.log_prob_terms(truth, one_pass=True)
    assert terms['colour'].isfinite().all()
    some = truth.colour.clone()
    some[..., 2] = torch.nan
    known = dataclasses.replace(truth, colour=some)
    fewer = posterior.log_prob_terms(known, one_pass=True)
    assert (fewer['colour'] != terms['colour']).all()
    some[..., 1:] = torch.nan
    nothing = posterior.log_prob_terms(known, one_pass=True)['colour']
    assert_close(nothing, torch.zeros_like(nothing), atol=1e-5, rtol=0)
    assert_close(fewer['flux'], terms['flux'])


def test_whole_catalogues(encoder, batch):
    inputs, _ = training_pair(batch)
    posterior = encoder(inputs)
    drawn = posterior.sample(n_draws=2, generator=torch.Generator().manual_seed(3))
    assert drawn.colour.shape == (*drawn.x.shape, 5)
    used = torch.arange(drawn.x.shape[-1]) < drawn.count[..., None]
    assert used.any()
    assert drawn.colour.isfinite().all()
    assert not drawn.colour[..., 0].any()
    assert (drawn.colour[used][:, 1:] != 0).all()
    terms = posterior.log_prob_terms(drawn.select(slice(12)), one_pass=True)
    assert terms['colour'].isfinite().all()


def test_marginals(encoder, batch):
    inputs, _ = training_pair(batch)
    found = find_sources(encoder(inputs), n_draws=32, least=0.05)
    n, n_draws = len(found), found.draws['colour'].shape[1]
    assert n > 10
    assert found.draws['colour'].shape == (n, n_draws, 5)
    for name in ('flux', 'type'):
        assert found.draws[name].shape == (n, n_draws, 1)
    known = found.probability >= 0.05
    colour = found.draws['colour'][known]
    assert colour.isfinite().all()
    assert not colour[..., 0].any()
    assert set(found.draws['type'][known].unique().tolist()) <= {0.0, 1.0}
    share = found.draws['type'][known].mean((1, 2))
    assert_allclose(share, found.galaxy[known], atol=0.08)
    # Fluxes of the draws are those of the mixtures.
    median = found.draws['flux'][known][..., 0].median(1).values
    expected = found.quantile_flux(0.5)[known]
    assert torch.corrcoef(torch.stack([median, expected]))[0, 1] > 0.9


def test_one_band_has_none(encoder, batch):
    inputs, _ = training_pair(batch.reference)
    posterior = encoder(inputs)
    assert 'colour' not in {entry.name for entry in after_flux(posterior.entries)}
    assert 'colour' not in find_sources(posterior, n_draws=32).draws
    drawn = posterior.sample(generator=torch.Generator().manual_seed(3))
    assert drawn.colour.shape[-1] == 0
    # Nor is there a change of anything else.
    plain = dataclasses.replace(encoder.config, bands=False)
    other = Encoder(plain).eval().requires_grad_(False)
    weights = {k: v for k, v in encoder.state_dict().items() if k in other.state_dict()}
    for name, value in other.state_dict().items():
        if value.shape != weights[name].shape and value.dim() > 1:
            weights[name] = weights[name][:, : value.shape[1]]
    other.load_state_dict(weights)
    features = encoder.features(inputs)
    both = [
        TileCatalog.from_batch(batch.reference),
        *(one.posterior(features, inputs) for one in (encoder, other)),
    ]
    first, second = (p.log_prob_terms(both[0], one_pass=True) for p in both[1:])
    for name in ('count', 'position', 'type', 'flux', 'shape'):
        assert torch.equal(first[name], second[name])


def test_evidence_of_types(layers, prior, monkeypatch):
    """Types are told apart as the densities of true colours tell them."""
    truth, inputs = simulate(prior, 400, magnitudes=(17.0, 18.0))
    whole = layers.evidence(inputs)
    monkeypatch.setattr(_colours, '_PIECE', 150)
    assert_close(layers.evidence(inputs), whole)
    found = whole.unflatten(1, (2, 2)).diff(dim=-1)[..., 0]
    assert torch.equal(found[:, 0], found[:, 1])
    given = truth['colour'], truth['magnitude']
    star, galaxy = (
        prior.log_prob(*given, torch.full((400,), kind), truth['bands'])
        for kind in (False, True)
    )
    odds, is_galaxy = (galaxy - star) / 3, truth['kind'] > 0
    within = odds.abs() < 1
    assert (found[within, 0] - odds[within]).abs().median() < 0.05
    assert ((found[:, 0] > 0) == is_galaxy).float().mean() > 0.8
    # Bands that are not there say nothing.
    nothing = layers.evidence(without(inputs, 1, 2, 3, 4))
    assert nothing.unflatten(1, (2, 2)).diff(dim=-1).abs().max() < 0.05


def test_evidence_is_an_input(encoder, batch):
    """Where the layer of types has learnt to see it, it changes them."""
    encoder, (inputs, catalog) = copy.deepcopy(encoder), training_pair(batch)
    found = []
    for weight in (0.0, 1.0):
        for block in encoder.head.source:
            block['is_galaxy'].weight.fill_(1.0)
            block['extended'][0].weight[:, -_colours.N_EVIDENCE :] = weight
        found.append(npe_loss(encoder(inputs), catalog)[1]['type'])
    assert found[0] != found[1]


@pytest.fixture(scope='module')
def in_sequence(encoder):
    """Encoders in sequence whose types and fluxes are not those of the one pass."""
    torch.manual_seed(2)
    other = Encoder(dataclasses.replace(encoder.config, shapes_only=False))
    torch.nn.init.zeros_(other.head.count.bias)
    torch.nn.init.constant_(other.sources.is_galaxy.bias, -3.0)
    return other.eval().requires_grad_(False)


def test_colours_given_the_fluxes_of_a_sequence(in_sequence, batch):
    inputs, _ = training_pair(batch)
    found = find_sources(in_sequence(inputs), n_draws=32, least=0.05)
    known = (found.probability > 0.2) & found.draws['colour'].isfinite().all((1, 2))
    assert known.sum() > 5
    share = found.draws['type'][known].mean((1, 2))
    assert_allclose(share, found.galaxy[known], atol=0.08)
    median = found.draws['flux'][known][..., 0].median(1).values
    assert_allclose(median, found.quantile_flux(0.5)[known], atol=0.35)


def test_draws_of_colours_given_a_sequence(in_sequence, batch):
    """Draws of colours have the density that draws of types and fluxes give them."""
    inputs, _ = training_pair(batch)
    posterior = in_sequence(inputs)
    generator = torch.Generator().manual_seed(3)
    drawn = posterior.sample(n_draws=2, generator=generator)
    terms = []
    for _ in range(2):
        part = drawn.select(slice(12, 24))
        terms.append(posterior.log_prob_terms(part, one_pass=True)['colour'])
        posterior._draw_colours(drawn, generator)
    first, second = terms
    assert (first != second).float().mean() > 0.9
    error = (first - second).std() / len(first) ** 0.5
    assert abs(float((first - second).mean())) < 4 * float(error)
