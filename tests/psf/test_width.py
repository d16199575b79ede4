# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Widths of PSFs as tensors.
"""

import numpy as np
import torch

from bliss_astro import PSFModel
from bliss_astro.priors import SeeingPrior
from bliss_astro.psf._mixture import describe_shape, fwhm_of_shape, scale_to_fwhm


def test_agrees_with_the_model(generator):
    shapes = SeeingPrior().sample_batch(20, generator=generator).double()
    expected = [PSFModel.from_shape(shape.numpy()).fwhm for shape in shapes]
    # Both are roots found to rounding.
    np.testing.assert_allclose(fwhm_of_shape(shapes).numpy(), expected, rtol=1e-6)


def test_scaled_profiles_have_the_width_and_keep_their_form(generator):
    shapes = SeeingPrior().sample_batch(50, generator=generator).double()
    target = torch.linspace(1.2, 12, 50).double()
    scaled = scale_to_fwhm(shapes, target)
    np.testing.assert_allclose(fwhm_of_shape(scaled).numpy(), target, rtol=1e-6)
    # Heights, power and ellipticity have no dimension.
    same = [2, 4, 5, 6, 7]
    assert torch.equal(scaled[:, same], shapes[:, same])
    # Without a truncation, areas grow with the square of the lengths.
    area = [describe_shape(s, radius=float('inf'))[:, 1] for s in (shapes, scaled)]
    factor = torch.log(target / fwhm_of_shape(shapes))
    np.testing.assert_allclose((area[1] - area[0]).numpy(), 2 * factor, atol=2e-3)
