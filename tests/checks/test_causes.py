# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Each way in which an image is not what was said of it gets its own diagnosis.
"""

import re
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bliss_astro import PSFModel, detect_sources
from bliss_astro.checks._causes import (
    describe_cause,
    explain_residual,
    local_noise,
    sky_levels,
)
from bliss_astro.rendering import render_galaxies, render_stars

_SKY, _SIDE = 800.0, 128
_NOISE = _SKY**0.5
_WHITE = np.pad([[1.0]], 4)


def _light(kind, rng):
    """What of an image is neither stars nor noise, in electrons."""
    yy, xx = np.mgrid[:_SIDE, :_SIDE].astype(float)
    if kind == 'object':
        shape = torch.as_tensor(PSFModel.from_fwhm(3.0).shape_vector)[None].float()
        galaxy = torch.tensor([[[0.7, 0.6, 0.8, 0.8, 25.0, 12.0]]])
        place = [torch.full((1, 1), value) for value in (57.3, 68.6, 2e6)]
        drawn = render_galaxies(shape, *place, galaxy, size=(_SIDE, _SIDE))
        return drawn[0].double().numpy()
    if kind == 'structure':
        waves = gaussian_filter(rng.normal(size=(_SIDE, _SIDE)), 8, mode='wrap')
        return 200 * np.exp(0.7 * waves / waves.std())
    if kind == 'slope':
        return 400 * np.exp(-((xx - _SIDE) ** 2 + (yy + 20) ** 2) / (2 * 60**2))
    return np.zeros((_SIDE, _SIDE))


def _stripes(rng):
    """Noise whose power falls with frequency, the same along each row."""
    walk = np.cumsum(rng.normal(size=_SIDE))
    walk -= gaussian_filter(walk, 20)
    return np.repeat(2 * _NOISE * walk[:, None] / walk.std(), _SIDE, axis=1)


# What is wrong, what is stated otherwise, and what is said of it.
_SAID = {
    'object': 'one object around .* larger than those of the training',
    'structure': 'structure that is neither sky nor sources',
    'slope': 'the sky slopes towards',
    'rows': 'its rows of pixels differ by .* stripes of the detector',
    'columns': 'its columns of pixels differ by .* stripes of the detector',
    'half': 'the noise is not as stated or estimated: .* or effective_gain',
    'double': 'the noise is not as stated or estimated: .* or effective_gain',
    'broad': 'narrower than the stated psf',
    'narrow': 'broader than the stated psf',
    'low': 'above the background everywhere .* give background',
    'high': 'below the background everywhere .* give background',
}
_STATED = {
    'half': {'bkg_error': 0.5 * _NOISE},
    'double': {'bkg_error': 2 * _NOISE},
    'broad': {'psf': PSFModel.from_fwhm(3.9)},
    'narrow': {'psf': PSFModel.from_fwhm(2.3)},
    'low': {'background': _SKY - 1.5 * _NOISE},
    'high': {'background': _SKY + 1.5 * _NOISE},
}


def _noise(kind, light, rng):
    noise = rng.normal(size=light.shape) * np.sqrt(light)
    if kind in ('rows', 'columns'):
        stripes = _stripes(rng)
        noise += stripes if kind == 'rows' else stripes.T
    return noise


# Columns are found as rows are, see below.
@pytest.mark.parametrize('kind', [kind for kind in _SAID if kind != 'columns'])
def test_what_is_wrong_is_reported(kind, encoder):
    rng = np.random.default_rng(1)
    psf = PSFModel.from_fwhm(3.0)
    x, y = rng.uniform(8, _SIDE - 9, (2, 14))
    shape = torch.as_tensor(psf.shape_vector)[None].float()
    place = [
        torch.as_tensor(v)[None].float() for v in (x, y, 10 ** rng.uniform(3.3, 5, 14))
    ]
    stars = render_stars(shape, *place, size=(_SIDE, _SIDE))[0].double().numpy()
    image = stars + _SKY + _light(kind, rng)
    image += _noise(kind, image, rng)
    known = {'background': _SKY, 'bkg_error': _NOISE, 'psf': psf, 'effective_gain': 1.0}
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter('always')
        detect_sources(image, encoder=encoder, **(known | _STATED.get(kind, {})))
    said = '\n'.join(str(w.message) for w in record)
    for other, words in _SAID.items():
        with_it = _SAID[kind] == words
        assert bool(re.search(words, said)) == with_it, (other, said)


@pytest.mark.parametrize('kind', ['object', 'structure', 'slope', 'rows', 'columns'])
@pytest.mark.parametrize('seed', range(4))
def test_shapes_of_structure(kind, seed):
    rng = np.random.default_rng(seed)
    light = _SKY + _light(kind, rng)
    ratio = (light - _SKY + _noise(kind, light, rng)) / np.sqrt(light)
    good = rng.random(ratio.shape) > 0.1
    cause = explain_residual(ratio, good, _WHITE)
    assert cause['kind'] == kind
    assert cause['size'] > 1
    if kind == 'object':
        assert abs(cause['x'] - 57) < 12
        assert abs(cause['y'] - 69) < 12
    if kind == 'slope':
        assert cause['x'] > 96
        assert cause['y'] < 32


@pytest.mark.parametrize('factor', [0.5, 2.0])
def test_noise_of_a_part_is_noise(rng, factor):
    ratio = rng.normal(size=(256, 256))
    ratio[:128, :128] *= factor
    good, part = np.ones((2, 256, 256), dtype=bool)
    part[128:] = part[:, 128:] = False
    cause = explain_residual(ratio, good, _WHITE, where=part)
    assert cause['kind'] == 'noise'
    assert cause['size'] == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize('n', [1, 4])
def test_one_object_in_a_part_of_an_image(rng, n):
    """
    Correlated noise scatters cells of the rest; several objects are not one.
    """
    ratio = gaussian_filter(rng.normal(size=(320, 320)), 3, mode='wrap')
    ratio /= ratio.std()
    kernel = gaussian_filter(np.pad(_WHITE, 8), 3 * 2**0.5)
    yy, xx = np.mgrid[:320, :320]
    for x, y in [(170, 190), (60, 60), (250, 70), (50, 260)][:n]:
        apart = np.hypot((xx - x) / 1.5, yy - y)
        ratio += 6 * np.exp(-0.5 * (apart / 15) ** 2)
    good = np.ones(ratio.shape, dtype=bool)
    where = gaussian_filter(ratio, 8) > 1
    cause = explain_residual(ratio, good, kernel / kernel.max(), where=where)
    assert cause['kind'] == ('object' if n == 1 else 'structure')
    assert type(cause['x']) is type(cause['y']) is float
    if n == 1:
        assert np.hypot(cause['x'] - 170, cause['y'] - 190) < 16


def test_what_models_leave_of_sources_is_no_noise(rng):
    ratio = rng.normal(size=(128, 128))
    lit = gaussian_filter(rng.normal(size=ratio.shape), 1.5) > 0
    good = np.ones(ratio.shape, dtype=bool)
    cause = explain_residual(np.where(lit, 2.5 * ratio, ratio), good, _WHITE, lit=lit)
    assert cause['kind'] == 'sources'
    assert 'give psf' in describe_cause(cause)
    assert explain_residual(2 * ratio, good, _WHITE, lit=lit)['kind'] == 'noise'
    # All of it lit: nobody knows.
    cause = explain_residual(2 * ratio, good, _WHITE, lit=good)
    assert cause['kind'] == 'noise'


@pytest.mark.parametrize('sigma', [0.0, 0.8, 2.0])
def test_local_noise_of_correlated_pixels(rng, sigma):
    """
    It is the scatter of the pixels, and slopes do not change it.
    """
    ratio, kernel = rng.normal(size=(200, 200)), _WHITE
    if sigma:
        ratio = gaussian_filter(ratio, sigma, mode='wrap')
        kernel = gaussian_filter(np.pad(_WHITE, 4), sigma * 2**0.5)
        kernel = kernel / kernel.max()
    ratio = ratio / ratio.std()
    good = np.ones(ratio.shape, dtype=bool)
    assert local_noise(ratio, good, kernel) == pytest.approx(1, rel=0.05)
    sloping = ratio + np.linspace(0, 30, 200)
    assert local_noise(sloping, good, kernel) == pytest.approx(1, rel=0.05)


def test_levels_leave_bad_pixels_out(rng):
    ratio = rng.normal(size=(64, 96))
    ratio[:, 48:] += 5
    good = np.ones(ratio.shape, dtype=bool)
    good[:16, :16] = False
    good[20, 60:90] = False
    ratio[~good] = 1e6
    levels, side = sky_levels(ratio, good)
    assert side == 16
    assert np.isnan(levels[0, 0])
    assert np.isfinite(levels).sum() == levels.size - 1
    np.testing.assert_allclose(levels[1:, :3], 0, atol=0.4)
    np.testing.assert_allclose(levels[:, 3:], 5, atol=0.4)


def test_too_small_to_tell():
    small = np.zeros((20, 20))
    cause = explain_residual(small, np.ones((20, 20), dtype=bool), _WHITE)
    assert cause['kind'] == ''
    assert 'give background' in describe_cause(cause)
