# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of further parameters of a source: one entry, a training, columns of tables.
"""

import copy
import dataclasses
import importlib.util
import json
import math
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro import ProbabilisticCatalog, detect_sources
from bliss_astro.catalog._columns import COLUMNS
from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.posteriors import (
    PARAMETERS,
    LogFluxFactor,
    SourceColumn,
    SourceParameter,
    TileCatalog,
)
from bliss_astro.posteriors._marginals import quasi_random
from bliss_astro.posteriors._shape_layers import MixtureFactor
from bliss_astro.posteriors._source_chain import SourceChain
from bliss_astro.posteriors._source_parameters import (
    STARS_AND_GALAXIES,
    add_layers,
    n_uniform,
    parameters_of,
)
from bliss_astro.simulation import SimulationConfig, SimulationStream
from bliss_astro.training import TrainingConfig, train_encoder
from bliss_astro.training._encoder import start_from

_ENTRY = Path(__file__).parent / 'sersic_index.py'
# Natural logarithm of the range of the prior, in units of the vector.
_RANGE = 3 * math.log(4)


@pytest.fixture(scope='module')
def sersic():
    """The entry, known while the tests of this module run."""
    spec = importlib.util.spec_from_file_location('sersic_index', _ENTRY)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield PARAMETERS['sersic_index']
    del PARAMETERS['sersic_index']


@pytest.fixture
def colours():
    """Two colours of all sources, with a unit."""
    columns = [
        SourceColumn(name, 'phot.color', f'Colour {name}', unit='mag')
        for name in ('g_r', 'r_i')
    ]
    entry = SourceParameter('colours', dim=2, context=('flux',), columns=(*columns,))
    PARAMETERS['colours'] = entry
    yield entry
    del PARAMETERS['colours']


@pytest.fixture(scope='module')
def simulation():
    return SimulationConfig(
        population='npe',
        n_exposures=(1, 1),
        shape=(32, 32),
        crowding=(4.0, 4.0),
        npe_floor=(20.0, 20.0),
        bad_pixels=False,
    )


@pytest.fixture(scope='module')
def images(sersic, simulation):
    """Images with their truth that no training has seen."""
    stream = SimulationStream(simulation, device='cpu', priors=[sersic.prior])
    return stream.sample_batch(200, generator=torch.Generator().manual_seed(99))


@pytest.fixture(scope='module')
def path(sersic, simulation, tmp_path_factory):
    """An encoder of the default weights whose new layers were trained shortly."""
    plain = Encoder.from_pretrained('stars-galaxies').config
    changed = {'sequence': False, 'shapes_only': False, 'parameters': (sersic.name,)}
    training = TrainingConfig(
        n_steps=160,
        batch_size=16,
        n_validation=32,
        validate_every=160,
        warmup_steps=20,
        learning_rate=3e-3,
        average_decay=0.9,
        precision='float32',
        start_from='stars-galaxies',
        stage='new',
        seed=3,
    )
    configs = dataclasses.replace(plain, **changed), simulation, training
    folder = tmp_path_factory.mktemp('sersic')
    train_encoder(configs, folder, name='sersic', device='cpu')
    return folder / 'sersic.safetensors'


@pytest.fixture(scope='module')
def encoder(path):
    return Encoder.from_pretrained(path)


@pytest.fixture(scope='module')
def found(encoder, images):
    """A table with draws, of the image with the most galaxies."""
    most = int((images.is_galaxy & (images.flux > 0)).sum(1).argmax())
    exposure = images.exposure(most)
    options = {'encoder': encoder, 'population': 'npe', 'check': False}
    return detect_sources(exposure, 0.3, n_samples=40, rng=1, **options)


def terms_of(encoder, images, *, one_pass=False, **changes):
    inputs, truth = training_pair(images)
    with torch.no_grad():
        changed = dataclasses.replace(truth, **changes)
        terms = encoder(inputs).log_prob_terms(changed, one_pass=one_pass)
    return truth, terms


def untrained(**options):
    """A small encoder that finds sources."""
    sizes = dict.fromkeys(('width', 'stem_width', 'head_width'), 16)
    encoder = Encoder(EncoderConfig(**sizes, n_blocks=1, **options))
    torch.nn.init.zeros_(encoder.head.count.bias)
    return encoder.eval().requires_grad_(False)


def detected(encoder, images, **keep):
    options = {'encoder': encoder, 'density': 0.01, 'check': False, **keep}
    return detect_sources(images.exposure(0)[:16, :20], 0.05, **options)


def test_truth_by_tile(images):
    truth = TileCatalog.from_batch(images)
    galaxy = truth.galaxy > 0
    assert galaxy.sum() > 50
    index, disk = truth.further[..., 0][galaxy], truth.shape[..., 0][galaxy]
    torch.testing.assert_close(index, 4 - 3 * disk)


def test_better_than_the_prior(encoder, images):
    _, terms = terms_of(encoder, images)
    own = terms['sersic_index'] != 0
    assert own.sum() > 80
    # The prior is uniform in the vector.
    assert terms['sersic_index'][own].mean() > 0.08 - math.log(_RANGE)


def test_what_was_known_stays(encoder, images):
    plain, own = Encoder.from_pretrained('stars-galaxies'), copy.copy(encoder)
    # Features of PSFs are clipped to the range of the card.
    own.card = plain.card
    (_, first), (_, terms) = (terms_of(e, images, one_pass=True) for e in (plain, own))
    for name in ('count', 'position', 'type', 'flux', 'shape'):
        torch.testing.assert_close(terms[name], first[name], atol=1e-4, rtol=1e-4)


def test_unknown_values_count_for_nothing(encoder, images):
    truth, terms = terms_of(encoder, images)
    unknown = torch.full_like(truth.further, torch.nan)
    _, without = terms_of(encoder, images, further=unknown)
    assert (without['sersic_index'] == 0).all()
    torch.testing.assert_close(without['shape'], terms['shape'])


def test_columns(found):
    names = found.colnames
    assert names.index('e2_err') < names.index('sersic_index') < names.index('flags')
    assert len(found) > 1
    assert np.all((found['sersic_index'] > 0.5) & (found['sersic_index'] < 8))
    assert np.all(found['sersic_index_err'] > 0)
    info = found['sersic_index'].info
    assert info.description == 'Index of the Sersic profile, given a galaxy'
    assert info.meta['ucd'] == 'src.morph.param'
    error = COLUMNS['sersic_index_err']
    assert error.ucd == 'stat.error;src.morph.param'
    assert 'sersic_index' in error.description


def test_samples_and_intervals(found):
    drawn = found['sersic_index_samples']
    assert drawn.shape == (len(found), 40)
    low, high = found.credible_interval('sersic_index', 0.6826894921)
    assert_allclose(0.5 * (high - low), found['sersic_index_err'], rtol=1e-6)
    more = found.samples('sersic_index', n_samples=2000, rng=3).distribution
    assert_allclose(np.median(more, 1), found['sersic_index'], rtol=0.1)
    wide = found.credible_interval('sersic_index', 0.95, gaussian=True)
    assert np.all(wide[1] > high)


def test_drawn_catalogues(found):
    draws = found.posterior.sample(5, rng=2)
    index = np.concatenate([table['sersic_index'] for table in draws])
    galaxy = np.concatenate([table['is_galaxy'] for table in draws])
    assert galaxy.any()
    assert np.array_equal(np.isfinite(index), galaxy)


@pytest.mark.parametrize('ending', ['fits', 'ecsv'])
def test_files_of_tables(found, tmp_path, ending, monkeypatch):
    found.write(tmp_path / f'cat.{ending}', posterior=ending == 'fits')
    again = ProbabilisticCatalog.read(tmp_path / f'cat.{ending}')
    for name in ('sersic_index', 'sersic_index_err', 'sersic_index_samples'):
        assert_allclose(again[name], found[name])
        assert again[name].info.description == found[name].info.description
    if ending == 'fits':
        table = again.posterior.at_threshold(0.3)
        assert_allclose(table['sersic_index'], found['sersic_index'], rtol=1e-5)
        # Where the parameter is not known, the rest of the table is.
        monkeypatch.delitem(PARAMETERS, 'sersic_index')
        table = again.posterior.at_threshold(0.3, n_samples=2, rng=1)
        assert 'sersic_index' not in table.colnames
        assert_allclose(table['disk_fraction'], found['disk_fraction'], rtol=1e-5)


def test_files_of_encoders(path, encoder, sersic, monkeypatch, images):
    card = json.loads(path.with_suffix('.json').read_text())
    assert card['encoder']['parameters'] == ['sersic_index']
    assert encoder.config.parameters == ('sersic_index',)
    # One without the parameter may start from it.
    plain = Encoder(dataclasses.replace(encoder.config, parameters=()))
    start_from(plain, path)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name])
    # An encoder of a parameter that is not known cannot be read.
    monkeypatch.delitem(PARAMETERS, 'sersic_index')
    with pytest.raises(ValueError, match=r'parameters must be known ones \(none\)'):
        Encoder.from_pretrained(path)


@pytest.mark.parametrize('shapes_only', [True, False])
def test_encoders_in_sequence(sersic, images, tmp_path, shapes_only):
    options = dict.fromkeys(('galaxies', 'shapes', 'sequence'), True)
    options |= {'shapes_only': shapes_only, 'parameters': (sersic.name,)}
    encoder = untrained(**options)
    truth, terms = terms_of(encoder, images.select(slice(0, 4)))
    assert len(terms['sersic_index']) == truth.count.sum()
    assert (terms['sersic_index'] != 0).sum() == truth.galaxy.sum()
    found = detected(encoder, images, keep='posterior')
    assert np.isfinite(found['sersic_index']).all()
    draws = found.posterior.sample(2, rng=1)
    found.write(tmp_path / 'cat.fits')
    again = ProbabilisticCatalog.read(tmp_path / 'cat.fits').posterior
    for one, other in zip(draws, again.sample(2, rng=1), strict=True):
        assert_allclose(one['sersic_index'], other['sersic_index'], rtol=1e-5)


def test_all_sources_with_a_unit(colours, tiny, images):
    encoder = untrained(parameters=('colours',))
    drawn = encoder(tiny.inputs).sample(generator=torch.Generator().manual_seed(1))
    used = torch.arange(2) < drawn.count[..., None]
    assert (drawn.further[used] != 0).all()
    assert (drawn.further[~used] == 0).all()
    terms = encoder(tiny.inputs).log_prob_terms(drawn)
    total = sum(terms[name] for name in ('position', 'flux', 'colours'))
    expected = terms['count'].index_add(0, terms['image'], total)
    torch.testing.assert_close(encoder(tiny.inputs).log_prob(drawn), expected)
    found = detected(encoder, images)
    assert len(found) > 0
    assert found['g_r'].unit == found['r_i_err'].unit == u.mag
    low, high = found.posterior.interval(found, 'r_i', level=0.6826894921)
    assert_allclose(0.5 * (high - low), found['r_i_err'], rtol=1e-6)
    assert found.posterior.sample(1, rng=1)[0]['g_r'].unit == u.mag


class _Flux(torch.nn.Module):
    """The flux on which a parameter depends, with hardly any error."""

    def __init__(self, n_features, n_context, dim):
        super().__init__()
        self.sizes = n_features, n_context, dim

    def forward(self, features, context):
        mean = context[0][..., None, :]
        return MixtureFactor(mean[..., 0], mean, torch.full_like(mean, 1e5)[..., None])


def test_marginals_of_types(monkeypatch):
    """
    Draws are given the fluxes of those sources that have the parameter.
    """
    kinds = ('galaxy', 'star', 'all')
    for of in kinds:
        entry = SourceParameter(f'of_{of}', of=of, context=('flux',), layers=_Flux)
        monkeypatch.setitem(PARAMETERS, entry.name, entry)
    entries = parameters_of(STARS_AND_GALAXIES, names=[f'of_{of}' for of in kinds])
    add_layers(layers := {}, entries, 7)
    assert layers['of_star'].sizes == (7, 1, 1)
    one, zero = torch.ones(3), torch.zeros(3, 1)
    star, galaxy = (
        LogFluxFactor(zero, zero + mean, zero + 0.01, 0 * one, 12 * one)
        for mean in (2.0, 6.0)
    )
    log_types = torch.tensor([0.25, 0.75]).log().expand(3, 2)
    flux = LogFluxFactor.of_types(star, galaxy, log_types).packed()
    chain = SourceChain(entries, layers, {'features': torch.zeros(3, 7)})
    q = quasi_random(64, n_uniform(entries), 'cpu')
    draws = chain.quantile_draw(flux, q[None])
    assert draws['of_all'].shape == (3, 64, 1)
    for name, expected in (('of_star', 2.0), ('of_galaxy', 6.0), ('of_all', 5.0)):
        mean = draws[name].mean((1, 2))
        torch.testing.assert_close(mean, expected * one, atol=0.1, rtol=0)
    values = {'position': torch.zeros(3, 2), 'type': torch.tensor([0.0, 1.0, 1.0])}
    values |= {'flux': 4 * one} | {f'of_{of}': 4 * one[:, None] for of in kinds}
    chain.entries = entries[-3:]
    terms = chain.log_prob(values)
    assert (terms['of_star'] == 0).tolist() == [False, True, True]
    assert (terms['of_galaxy'] == 0).tolist() == [True, False, False]
    assert (terms['of_all'] != 0).all()


def test_parameters_that_cannot_be(sersic, monkeypatch):
    with pytest.raises(ValueError, match='be known ones'):
        Encoder(EncoderConfig(parameters=('redshift',)))
    monkeypatch.setitem(PARAMETERS, 'start', SourceParameter('start'))
    with pytest.raises(ValueError, match='of other names; got start'):
        Encoder(EncoderConfig(parameters=('start',)))
    later = SourceParameter('later', of='galaxy', context=('flux', 'sersic_index'))
    monkeypatch.setitem(PARAMETERS, 'later', later)
    options = {'galaxies': True, 'parameters': ('sersic_index', 'later')}
    head = Encoder(EncoderConfig(**options)).head
    sizes = [head.source[0][k].layers[0].in_features for k in options['parameters']]
    assert sizes[1] == sizes[0] + 1
    with pytest.raises(ValueError, match=r"context of later must be of \['flux'\]"):
        Encoder(EncoderConfig(**options | {'parameters': ('later', 'sersic_index')}))
    with pytest.raises(ValueError, match='stars without galaxies'):
        Encoder(EncoderConfig(parameters=('sersic_index',)))
    with pytest.raises(ValueError, match='parameters must be a list of names'):
        EncoderConfig(parameters='sersic_index')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'name': 'other'}, 'name of .* must be its key; got other'),
        ({'of': 'planet'}, 'must be one of .* got planet'),
        ({'dim': 0}, 'dim of .* must be 1 or more; got 0'),
        ({'dim': 1.5}, 'dim of .* got 1.5'),
        ({'dim': 2, 'columns': ('e1',)}, 'columns of .* must be none or 2; got 1'),
    ],
)
def test_entries_that_do_not_fit(change, words, monkeypatch):
    entry = SourceParameter(**{'name': 'depth'} | change)
    monkeypatch.setitem(PARAMETERS, 'depth', entry)
    with pytest.raises(ValueError, match=words):
        Encoder(EncoderConfig(parameters=('depth',)))


def test_the_same_parameter_twice(monkeypatch):
    monkeypatch.setitem(PARAMETERS, 'depth', SourceParameter('depth'))
    with pytest.raises(ValueError, match='of other names; got depth'):
        Encoder(EncoderConfig(parameters=('depth', 'depth')))


@pytest.mark.parametrize('shape', [(64, 6), (64, 8), (64, 9), (16, 8)])
def test_even_points(shape):
    points = quasi_random(*shape, 'cpu', even=True)
    ordered = points.sort(0).values
    middles = (torch.arange(shape[0]) + 0.5) / shape[0]
    assert_allclose(ordered, middles[:, None].expand(shape), rtol=1e-4)
    correlation = torch.corrcoef(torch.special.ndtri(points).T)
    apart = (correlation - torch.eye(shape[1])).abs().max()
    assert apart < (0.05 if shape[0] == 64 else 0.15)
