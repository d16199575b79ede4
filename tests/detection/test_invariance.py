# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What must not change a catalogue: blocks, cut-outs, shifts, flips, maps.

Tolerances allow for bfloat16, in which processors that can compute the
features: 8 bits of mantissa in 18 layers change a logit by a few hundredths.
"""

import numpy as np
import pytest

from bliss_astro import CoaddSimulator, Encoder, Exposure, detect_sources
from bliss_astro.detection import _infer
from bliss_astro.priors import StarPrior


def _assert_alike(found, other, *, sigma=0.5, sure=0.9):
    """
    Every sure source of one catalogue is in the other, with the same flux.

    Blends may be told apart differently, so one in twenty may fail.
    """
    failed, rows = 0, found[(found['probability'] > sure) & (found['flags'] < 128)]
    assert len(rows) > 5
    for row in rows:
        apart = np.hypot(
            other['x_centroid'] - row['x_centroid'],
            other['y_centroid'] - row['y_centroid'],
        )
        k = int(np.argmin(apart))
        error = np.hypot(row['x_err'], row['y_err'])
        flux_off = abs(other['flux'][k] - row['flux']) / row['flux_err']
        failed += bool(apart[k] > 3 * sigma * error + 0.02 or flux_off > sigma)
    assert failed <= max(1, len(rows) // 20)


@pytest.fixture(scope='module')
def large():
    """
    An exposure of 200 x 216 px, and its catalogue in one piece.
    """
    sky = StarPrior(density=0.002)
    exposure, _ = CoaddSimulator(1, sky, shape=(200, 216), margin=4).sample(rng=3)
    return exposure


@pytest.fixture(scope='module')
def whole(large, encoder):
    return detect_sources(large, density=0.002, encoder=encoder)


def test_blocks(large, whole, encoder, monkeypatch):
    monkeypatch.setattr(_infer, '_BLOCK', 256)
    blocks = detect_sources(large, density=0.002, encoder=encoder)
    assert abs(len(blocks) - len(whole)) <= 2
    _assert_alike(whole, blocks, sigma=0.1)
    _assert_alike(blocks, whole, sigma=0.1)


def test_density_of_windows(large, encoder, monkeypatch):
    # Of 72 stars windows over a quarter of the image hold 18 +- 4.
    whole = detect_sources(large, encoder=encoder, check=False).meta['density']
    sizes = {'_SAMPLED_MIN': 24, '_SAMPLE_PERIOD': 12, 'SAMPLE_SIDE': 6}
    for name, value in sizes.items():
        monkeypatch.setattr(_infer, name, value)
    windows = detect_sources(large, encoder=encoder, check=False).meta['density']
    assert windows != whole
    assert windows == pytest.approx(whole, rel=0.6)


def test_cut_out_agrees_inside(large, whole, encoder):
    cut = detect_sources(large[48:176, 40:200], density=0.002, encoder=encoder)
    cut['x_centroid'] += 40
    cut['y_centroid'] += 48
    # Nothing is seen further away than the receptive radius, and the sweep
    # carries decisions on by a few tiles.
    reach = encoder.receptive_radius + 16
    x, y = whole['x_centroid'], whole['y_centroid']
    inside = (x > 40 + reach) & (x < 200 - reach)
    inside &= (y > 48 + reach) & (y < 176 - reach)
    if inside.sum() > 5:
        _assert_alike(whole[inside], cut, sigma=0.1)
    # Up to the border only the context is missing.
    near = (x > 46) & (x < 194) & (y > 54) & (y < 170)
    _assert_alike(whole[near], cut, sigma=0.7)


@pytest.mark.parametrize('shift', [4, 1])
def test_shift(large, whole, encoder, shift):
    # By a tile the order of the sweep changes, by a pixel the tiles do.
    moved = detect_sources(large[shift:, shift:], density=0.002, encoder=encoder)
    moved['x_centroid'] += shift
    moved['y_centroid'] += shift
    x, y = whole['x_centroid'], whole['y_centroid']
    inside = (x > shift + 8) & (y > shift + 8)
    _assert_alike(whole[inside], moved, sigma={4: 0.5, 1: 0.7}[shift])


def test_flip(large, whole, encoder):
    data = np.flip(large.data)
    flipped = detect_sources(large.replace(data=data), density=0.002, encoder=encoder)
    for name, size in (('y_centroid', 200), ('x_centroid', 216)):
        flipped[name] = size - 1 - flipped[name]
    _assert_alike(whole, flipped, sigma=0.7)


def test_maps_and_scalars(field, catalog, encoder):
    exposure, _ = field
    maps = {name: np.array(value) for name, value in exposure.maps().items()}
    spread = exposure.replace(**maps)
    found = detect_sources(spread, encoder=encoder)
    assert len(found) == len(catalog)
    _assert_alike(catalog, found, sigma=0.1)


def test_a_map_of_the_noise_matters(field, encoder):
    # A region with three times the noise holds fewer of the same sources.
    exposure, _ = field
    rng = np.random.default_rng(1)
    noisy = np.array(exposure.data)
    error = np.full(noisy.shape, exposure.bkg_error)
    noisy[:, :52] += rng.normal(size=(96, 52)) * error[:, :52] * np.sqrt(8)
    error[:, :52] *= 3
    told = Exposure(
        noisy,
        background=exposure.background,
        bkg_error=error,
        effective_gain=1.0,
        psf=exposure.psf,
    )
    found = detect_sources(told, density=0.002, encoder=encoder)
    left = found['x_centroid'] < 46
    assert np.all(found['flux_err'][left] > 2 * 80)


def test_a_density_map_matters(field, encoder):
    exposure, _ = field
    density = np.full(exposure.shape, 0.002)
    density[:, :48] = 1e-5
    found = detect_sources(exposure, density=density, encoder=encoder)
    plain = detect_sources(exposure, density=0.002, encoder=encoder)
    left = (slice(0, 96), slice(0, 44))
    low = found.posterior.expected_counts(left)
    assert low < plain.posterior.expected_counts(left)
    right = plain[plain['x_centroid'] > 70]
    _assert_alike(right, found, sigma=0.2) if len(right) > 8 else None


# -- random numbers ------------------------------------------------------------


def test_draws_are_reproducible(field, encoder, same_rows):
    part = field[0][:52, :64]
    first, second = (
        detect_sources(part, n_samples=7, rng=5, encoder=encoder) for _ in range(2)
    )
    same_rows(first, second)
    assert first['flux_samples'].shape == (len(first), 7)
    third = detect_sources(part, n_samples=7, rng=6, encoder=encoder)
    assert np.any(third['flux_samples'] != first['flux_samples'])
    generator = np.random.default_rng(5)
    fourth = detect_sources(part, n_samples=7, rng=generator, encoder=encoder)
    same_rows(first, fourth)


def test_draws_do_not_change_the_rows(field, catalog, encoder, same_rows):
    drawn = detect_sources(field[0], n_samples=4, rng=1, encoder=encoder)
    same_rows(drawn, catalog, columns=catalog.colnames)


@pytest.mark.parametrize(
    ('shape', 'good'),
    [
        # Between the windows of the first pass, and in a tenth of a small image.
        ((400, 400), (slice(20, 50), slice(0, 400))),
        ((128, 128), (slice(0, 128), slice(40, 56))),
    ],
)
def test_density_of_what_is_not_masked(shape, good):
    sky = StarPrior(density=0.004)
    exposure = CoaddSimulator(1, sky, shape=shape, margin=6).sample(rng=2)[0]
    mask = np.ones(shape, dtype=bool)
    mask[good] = False
    masked = Encoder.from_pretrained('stars').infer(exposure.replace(mask=mask))
    assert 0.001 < masked.meta['density'] < 0.012
    assert 'warnings' not in masked.meta
