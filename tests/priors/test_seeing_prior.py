# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the prior of the seeing.
"""

import numpy as np
import torch

from bliss_astro.priors import SeeingPrior
from bliss_astro.psf import PSFModel


def test_widths(generator):
    prior = SeeingPrior()
    shapes = prior.sample_batch(4000, generator=generator)
    assert shapes.shape == (4000, 8)
    sigma = shapes[:, 0]
    low, high = prior.sigma_range
    assert low * 0.999 <= sigma.min()
    assert sigma.max() <= high * 1.001
    # Truncation moves the median of a log-normal with scatter 0.25 little;
    # the standard error of the median is 1.25 * 0.25 / sqrt(4000) = 0.005.
    assert abs(torch.log(sigma.median() / prior.median_sigma)) < 0.03
    assert abs(torch.log(sigma).std() - prior.scatter) < 0.02


def test_all_are_valid_psfs(generator):
    shapes = SeeingPrior().sample_batch(300, generator=generator).double().numpy()
    models = [PSFModel.from_shape(shape) for shape in shapes]
    fwhm = np.array([model.fwhm for model in models[:60]])
    # SDSS r: 0.74 to 2.35 arcsec with a median of 1.18, in pixels of 0.396.
    assert fwhm.min() > 1.7
    assert fwhm.max() < 6.6
    assert 2.8 < np.median(fwhm) < 3.6
    assert (shapes[:, 1] > shapes[:, 0]).all()
    assert (shapes[:, 5] > 2).all()


def test_ellipticity(generator):
    prior = SeeingPrior(ellipticity=0.05)
    shapes = prior.sample_batch(3000, generator=generator)
    assert shapes[:, 6:].abs().max() <= 0.12
    assert (shapes[:, 6:].std(0) - 0.05).abs().max() < 0.005
    upright = prior.sample_batch(100, inclined=False, generator=generator)
    assert not upright[:, 7].any()
    assert upright[:, 6].any()


def test_reproducible():
    one, same, other = (
        SeeingPrior().sample_batch(4, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
