# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images that are hard or hopeless: a clear error or a flagged result, never a crash.
"""

import os
import time
import warnings

import numpy as np
import pytest
import torch

from bliss_astro import (
    CatalogCheckWarning,
    Exposure,
    NoDetectionsWarning,
    detect_sources,
)
from bliss_astro._warnings import OutOfDomainWarning
from bliss_astro.flags import CatalogFlag
from bliss_astro.psf import PSFModel
from bliss_astro.rendering import render_galaxies, render_stars

_SKY = 800.0
_NOISE = np.sqrt(_SKY)
_KNOWN = {
    'background': _SKY,
    'bkg_error': _NOISE,
    'effective_gain': 1.0,
    'psf': PSFModel(),
}


def _detect(data, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', OutOfDomainWarning)
        warnings.simplefilter('ignore', NoDetectionsWarning)
        return detect_sources(data, **(_KNOWN | kwargs))


def _shape():
    return torch.as_tensor(PSFModel().shape_vector, dtype=torch.float32)[None]


def _stars(x, y, flux, shape, rng):
    """Noisy image of stars; those far apart are drawn apart, to save time."""
    image = np.full(shape, _SKY)
    reach = 20
    order = np.argsort(x)
    x, y, flux = x[order], y[order], np.broadcast_to(flux, x.shape)[order]
    step = 64
    for y0 in range(0, shape[0], step):
        for x0 in range(0, shape[1], step):
            ny, nx = min(step, shape[0] - y0), min(step, shape[1] - x0)
            near = np.abs(x - x0 - nx / 2) < nx / 2 + reach
            near &= np.abs(y - y0 - ny / 2) < ny / 2 + reach
            place = [
                torch.as_tensor(v[near], dtype=torch.float32)[None]
                for v in (x - x0, y - y0, flux)
            ]
            part = render_stars(_shape(), *place, size=(ny, nx))
            image[y0 : y0 + ny, x0 : x0 + nx] += part[0].double().numpy()
    return image + rng.normal(size=shape) * np.sqrt(image)


def _is_sound(catalog, shape):
    for name in ('x_centroid', 'y_centroid', 'flux', 'flux_err', 'probability'):
        assert np.all(np.isfinite(catalog[name])), name
    assert np.all(catalog['flux_err'] > 0)
    assert np.all((catalog['x_centroid'] >= -0.5) & (catalog['y_centroid'] >= -0.5))
    assert np.all(catalog['x_centroid'] <= shape[1] - 0.5)
    assert np.all(catalog['y_centroid'] <= shape[0] - 0.5)


# -- one huge source ---------------------------------------------------------------


@pytest.mark.parametrize('encoder', ['stars', None])
def test_giant_galaxy(rng, encoder):
    shape = (96, 96)
    galaxy = torch.tensor([[0.7, 0.6, 0.8, 0.8, 25.0, 12.0]])
    place = [torch.full((1, 1), v) for v in (47.3, 48.6, 2e6)]
    image = render_galaxies(_shape(), *place, galaxy[None], size=shape)
    image = image[0].double().numpy() + _SKY
    image += rng.normal(size=shape) * np.sqrt(image)
    # Its light is in few rows only, and the warning says so: as one object, or by the
    # peaks that no row has.
    said = 'one object around .* larger than|a large galaxy'
    with pytest.warns(CatalogCheckWarning, match=said):
        catalog = _detect(image, encoder=encoder)
    _is_sound(catalog, shape)
    # Not one source a pixel: what there is of it is in few rows, most of them told.
    assert len(catalog) < image.size / 16
    assert (
        np.hypot(catalog['x_centroid'] - 47.3, catalog['y_centroid'] - 48.6).min() < 6
    )


def test_giant_galaxy_with_everything_estimated(rng):
    yy, xx = np.mgrid[:128, :128]
    image = 5e3 * np.exp(-np.hypot(xx - 63, yy - 63) / 30) + _SKY
    image += rng.normal(size=image.shape) * np.sqrt(image)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        catalog = detect_sources(image, encoder='stars')
    _is_sound(catalog, image.shape)


@pytest.mark.parametrize('stated', [True, False])
def test_saturated_core(rng, encoder, stated):
    shape = (64, 64)
    x, y, flux = np.array([[31.4, 10.0], [32.2, 50.0], [3e7, 8e3]])
    image = np.minimum(_stars(x, y, flux, shape, rng), 50_000.0)
    exposure = Exposure(image, **_KNOWN, saturation=49_000.0 if stated else None)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', OutOfDomainWarning)
        # The wings of 3e7 electrons are not drawn to a tenth of the sky's noise.
        warnings.simplefilter('ignore', CatalogCheckWarning)
        catalog = detect_sources(exposure, encoder=encoder, density=0.002)
    _is_sound(catalog, shape)
    if stated:
        core = np.hypot(catalog['x_centroid'] - 31.4, catalog['y_centroid'] - 32.2) < 2
        assert np.all(catalog['flags'][core] & CatalogFlag.SATURATED)
    # The star far from it, on its wing alone, is there.
    apart = np.hypot(catalog['x_centroid'] - 10, catalog['y_centroid'] - 50)
    assert apart.min() < 1


# -- nothing there -----------------------------------------------------------------


def test_empty_frame(rng, encoder):
    image = _SKY + _NOISE * rng.normal(size=(200, 200))
    catalog = _detect(image, encoder=encoder)
    _is_sound(catalog, image.shape)
    # 2500 tiles, a floor of 3.4 sigma: hardly any by chance.
    assert len(catalog) <= 5
    assert catalog.posterior.expected_counts() < 15


def test_empty_frame_says_so(rng, encoder):
    image = _SKY + _NOISE * rng.normal(size=(48, 48))
    with pytest.warns(NoDetectionsWarning, match='no source has a probability'):
        catalog = detect_sources(image, 0.99, encoder=encoder, density=1e-4, **_KNOWN)
    assert len(catalog) == 0
    assert 'flux' in catalog.colnames


@pytest.mark.parametrize('value', [0, 0.0, np.float32(0)])
def test_all_zero(value):
    with pytest.raises(ValueError, match='bkg_error cannot be estimated'):
        detect_sources(np.full((64, 64), value), encoder='stars')


def test_all_zero_with_everything_known(encoder):
    # Not an array: of one, how noise correlates would still have to be measured.
    exposure = Exposure(np.zeros((64, 64)), **(_KNOWN | {'background': 0.0}))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', OutOfDomainWarning)
        warnings.simplefilter('ignore', NoDetectionsWarning)
        catalog = detect_sources(exposure, encoder=encoder)
    assert len(catalog) == 0


@pytest.mark.parametrize('known', [{}, _KNOWN])
def test_nothing_but_nan_or_masked(rng, known):
    image = _SKY + _NOISE * rng.normal(size=(40, 40))
    with pytest.raises(ValueError, match='data must have good pixels'):
        detect_sources(image, mask=np.ones(image.shape, bool), **known)
    with pytest.raises(ValueError, match='all are NaN'):
        detect_sources(np.full((40, 40), np.nan), **known)


def test_one_good_pixel(rng, encoder):
    image = np.full((40, 40), np.nan)
    image[20, 20] = _SKY
    catalog = _detect(image, encoder=encoder, density=0.002)
    _is_sound(catalog, image.shape)
    assert np.all(catalog['flags'] & CatalogFlag.NEAR_MASKED)


# -- too many ----------------------------------------------------------------------


def _crowd(n, side, rng):
    x, y = rng.uniform(-0.5, side - 0.5, (2, n))
    flux = 700 * (1 - rng.random(n) * (1 - 300**-0.47)) ** (-1 / 0.47)
    return x, y, flux


def test_crowd(rng, encoder):
    side, n = 128, 393
    x, y, flux = _crowd(n, side, rng)
    image = _stars(x, y, flux, (side, side), rng)
    start = time.process_time()
    with pytest.warns(OutOfDomainWarning, match='density of sources'):
        catalog = detect_sources(image, encoder=encoder, **_KNOWN)
    assert time.process_time() - start < 8
    _is_sound(catalog, image.shape)
    assert n / 4 < len(catalog) < n
    flagged = catalog['flags'] & CatalogFlag.DENSITY_OUT_OF_DOMAIN
    assert np.mean(flagged > 0) > 0.5
    # Blends take the light of those that are not found, and no more.
    total = np.sum(catalog['flux']) / flux.sum()
    assert 0.85 < total < 1.05


@pytest.mark.slow
@pytest.mark.skipif(
    'BLISS_ASTRO_RUN_SLOW' not in os.environ,
    reason='takes minutes; set BLISS_ASTRO_RUN_SLOW to run it',
)
def test_hundred_thousand_stars(rng, encoder):
    side = 2000
    x, y, flux = _crowd(100_000, side, rng)
    image = _stars(x, y, flux, (side, side), rng)
    start = time.process_time()
    catalog = _detect(image, encoder=encoder)
    assert time.process_time() - start < 600
    _is_sound(catalog, image.shape)
    assert 25_000 < len(catalog) < 100_000


# All within the tile of columns and rows 24 to 27, 1.4 px and more apart.
_X, _Y = np.array([[24.3, 26.8, 25.0, 26.6], [24.2, 24.9, 26.9, 26.8]])


def _blend(n, flux, encoder, rng, *, n_images=2):
    """Rows' flags and total flux, and that of draws, over the true one."""
    rows, draws = [], []
    for _ in range(n_images):
        image = _stars(_X[:n], _Y[:n], np.full(n, flux), (48, 48), rng)
        catalog = _detect(image, encoder=encoder, density=0.005)
        _is_sound(catalog, image.shape)

        def near(table):
            x, y = table['x_centroid'] - 25.5, table['y_centroid'] - 25.5
            return np.hypot(x, y) < 6

        own = catalog[near(catalog)]
        assert len(own) >= 2
        full = own['flags'] & CatalogFlag.FULL_TILE
        assert np.sum(full > 0) >= 2
        assert np.all(own['flags'] & CatalogFlag.BLENDED)
        rows.append(own['flux'].sum() / (n * flux))
        drawn = catalog.posterior.sample(8, rng=1)
        draws += [draw['flux'][near(draw)].sum() / (n * flux) for draw in drawn]
    return np.array(rows), np.array(draws)


def test_more_sources_than_a_tile_holds(rng, encoder):
    """
    A tile of 4 x 4 px holds two: more are flagged, draws keep their light.
    """
    assert encoder.config.n_most == 2
    _, draws = _blend(3, 2e3, encoder, rng)
    # Two images with 5 % of noise each, and the posterior's own width.
    assert abs(draws.mean() - 1) < 0.15
    assert abs(draws.mean() - 1) < 2 * draws.std()


def test_bright_blend_keeps_its_light_in_rows(rng, encoder):
    rows, _ = _blend(4, 2e4, encoder, rng)
    assert abs(np.median(rows) - 1) < 0.1


# -- what was never learned ----------------------------------------------------------


def test_shapes_of_an_encoder_without(catalog):
    with pytest.raises(KeyError, match=r"disk_radius.*'stars'"):
        catalog['disk_radius']
    with pytest.raises((KeyError, ValueError), match='e1'):
        catalog.credible_interval('e1')
