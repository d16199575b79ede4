# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Properties of exposures, and of the arguments of ``detect_sources``, for any values.
"""

import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_equal

from bliss_astro import Exposure, PSFModel, detect_sources

SETTINGS = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
IMAGES = arrays(
    np.float64,
    st.tuples(st.integers(3, 9), st.integers(3, 9)),
    elements=st.floats(-1e6, 1e6),
)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@SETTINGS
@given(
    name=st.sampled_from(['background', 'bkg_error', 'effective_gain']), value=NUMBERS
)
def test_numbers_are_taken_or_refused_by_name(name, value):
    given_values = {'background': 0.0, 'bkg_error': 1.0, 'effective_gain': 1.0}
    given_values[name] = value
    valid = np.isfinite(value) and (name == 'background' or value > 0)
    if valid:
        exposure = Exposure(np.zeros((4, 4)), **given_values)
        assert_allclose(np.asarray(getattr(exposure, name)), value)
    else:
        with pytest.raises(ValueError, match=name):
            Exposure(np.zeros((4, 4)), **given_values)


@SETTINGS
@given(data=IMAGES, corner=st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_cut_outs_keep_pixels_and_sky(data, corner):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    exposure = Exposure(data, bkg_error=1.0, effective_gain=2.0, wcs=wcs)
    y, x = corner
    cut = exposure[y:, x:]
    assert_equal(cut.data, data[y:, x:])
    assert cut.shape == (data.shape[0] - y, data.shape[1] - x)
    sky = exposure.wcs.pixel_to_world(x + 1, y + 1)
    assert sky.separation(cut.wcs.pixel_to_world(1, 1)).arcsec < 1e-6


@SETTINGS
@given(data=IMAGES, scale=st.floats(1e-3, 1e3))
def test_total_error_follows_the_unit(data, scale):
    first = Exposure(data, bkg_error=3.0, effective_gain=2.0)
    second = Exposure(data * scale, bkg_error=3.0 * scale, effective_gain=2.0 / scale)
    assert_allclose(second.total_error(), first.total_error() * scale, rtol=1e-9)


@settings(SETTINGS, max_examples=15)
@given(
    argument=st.one_of(
        st.tuples(
            st.just('threshold'), NUMBERS.filter(lambda value: not 0 < value < 1)
        ),
        st.tuples(st.just('density'), NUMBERS.filter(lambda value: not value > 0)),
        st.tuples(st.just('flux_min'), NUMBERS.filter(lambda value: not value > 0)),
        st.tuples(st.just('n_samples'), st.integers(max_value=-1)),
        st.tuples(st.just('population'), st.text(max_size=3)),
    )
)
def test_detect_sources_refuses_by_name(argument):
    name, value = argument
    exposure = Exposure(np.zeros((8, 8)), bkg_error=1, effective_gain=1, psf=PSFModel())
    with pytest.raises((ValueError, TypeError), match=name):
        detect_sources(exposure, **{name: value})
