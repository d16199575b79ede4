# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the matched filter that the network is given.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.ndimage import correlate1d

from bliss_astro.encoders import EncoderInputs
from bliss_astro.encoders._filters import (
    _gaussian_filters,
    filter_coefficients,
    matched_filter,
)
from bliss_astro.priors import SeeingPrior
from bliss_astro.psf import DEFAULT_SHAPE, GaussianPSF
from bliss_astro.psf._mixture import profile_of_shape

RADIUS = 18.76


@pytest.mark.parametrize('shape', [(2, 5, 40), (1, 100, 33), (3, 64, 96)])
def test_gaussian_filters(shape):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    for sigma, filtered in zip(
        (0.9, 3.0), _gaussian_filters(image, (0.9, 3.0), 8), strict=True
    ):
        kernel = np.exp(-0.5 * (np.arange(-8, 9) / sigma) ** 2)
        kernel /= sigma * np.sqrt(2 * np.pi)
        expected = image.double().numpy()
        for axis in (1, 2):
            expected = correlate1d(expected, kernel, axis, mode='constant')
        assert_allclose(filtered, expected, atol=2e-6)


def inputs_of(image, psf, *, rho=0.0):
    """
    Inputs of images with one PSF each, or with maps of it.
    """
    n = len(image)
    one = torch.zeros(n, 1, 1, 1)
    return EncoderInputs(
        image=image[:, None],
        mask=torch.zeros_like(image, dtype=torch.bool)[:, None],
        log_noise=one[:, None] + 3,
        correlation=torch.full((n, 1, 2, 1, 1), rho),
        psf=psf[:, None],
        log_density=one - 6,
        log_flux_floor=one + 3,
    )


def test_nearly_the_best_linear_filter():
    # Signal-to-noise ratio of the response over that of the PSF itself.
    shape = SeeingPrior().sample_batch(64, generator=torch.Generator().manual_seed(1))
    step = torch.arange(-20, 21.0)
    psf = profile_of_shape(shape[:, None, None], step, step[:, None])
    delta = torch.zeros(64, 41, 41)
    delta[:, 20, 20] = 1
    response = matched_filter(delta, inputs_of(delta, shape[..., None, None]), 4)
    noise = response.square().sum((1, 2)).sqrt()
    assert_allclose(noise, 1, atol=5e-3)
    best = psf.square().sum((1, 2)).sqrt()
    assert ((psf * response).sum((1, 2)) > 0.99 * noise * best).all()


def test_unit_variance_in_empty_sky():
    torch.manual_seed(2)
    image = torch.randn(16, 96, 96)
    psf = torch.tensor(DEFAULT_SHAPE).expand(16, 8)[..., None, None]
    inner = matched_filter(image, inputs_of(image, psf), 4)[:, 8:-8, 8:-8]
    # Independent samples: one in about the PSF's effective area of 35 px.
    n = inner.numel() / 35
    assert_allclose(inner.std(), 1, atol=4 / np.sqrt(2 * n))


def test_a_star_has_its_signal_to_noise_ratio():
    shape = torch.tensor(DEFAULT_SHAPE)
    step = torch.arange(64.0)
    psf = profile_of_shape(shape, step - 31.3, (step - 30.8)[:, None])[None]
    image = 60 * psf
    snr = matched_filter(image, inputs_of(image, shape[None, :, None, None]), 4)
    assert_allclose(snr[0, 31, 31], 60 * psf.square().sum().sqrt(), rtol=0.03)


def test_follows_a_psf_that_varies():
    narrow = torch.tensor(DEFAULT_SHAPE)
    wide = narrow.clone()
    wide[[0, 1, 3]] *= 1.5
    maps = torch.stack([narrow, wide], -1)[:, None, [0] * 8 + [1] * 8]
    image = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(3))
    both = matched_filter(image, inputs_of(image, maps[None].expand(1, 8, 4, 16)), 4)
    for shape, columns in ((narrow, slice(0, 32)), (wide, slice(32, 64))):
        alone = matched_filter(image, inputs_of(image, shape[None, :, None, None]), 4)
        assert_allclose(both[..., columns], alone[..., columns], atol=3e-5)


def test_coefficients_scale_with_the_noise_alone():
    # The filter of an interpolated image is the same one, of larger noise.
    image = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(4))
    psf = torch.tensor(DEFAULT_SHAPE)[None, :, None, None]
    white = matched_filter(image, inputs_of(image, psf), 4)
    smooth = matched_filter(image, inputs_of(image, psf, rho=0.25), 4)
    assert_allclose(smooth, white / 1.5, rtol=1e-4, atol=1e-5)
    assert filter_coefficients(GaussianPSF.from_shape(psf[..., 0, 0])).shape == (1, 4)
