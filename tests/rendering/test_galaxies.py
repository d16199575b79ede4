# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
One conformance list for every galaxy profile and both renderers.
"""

import math

import numpy as np
import pytest
import torch
from astropy.utils.exceptions import AstropyDeprecationWarning
from numpy.testing import assert_allclose
from scipy import special

from bliss_astro.psf import PSFModel
from bliss_astro.rendering import (
    GalSimRenderer,
    RenderingAccuracy,
    TorchRenderer,
)
from bliss_astro.rendering._profiles import BULGE_SLOPE, DISK_RADIUS

SIDE, CENTRE = 129, (64.3, 63.8)
SIGMA = 1.4

# disk_fraction, angle, disk_axis_ratio, bulge_axis_ratio, disk and bulge radius
PROFILES = {
    'disk': (1.0, 0.0, 1.0, 1.0, 5.0, 1.0),
    'inclined disk': (1.0, 2.1, 0.3, 1.0, 6.0, 1.0),
    'bulge': (0.0, 0.0, 1.0, 1.0, 1.0, 3.0),
    'inclined bulge': (0.0, 0.6, 1.0, 0.4, 1.0, 4.0),
    'bulge and disk': (0.6, 1.2, 0.5, 0.5, 5.0, 3.0),
}


@pytest.fixture(scope='module', params=['torch', 'galsim'])
def renderer(request):
    """
    Give each renderer in turn, at high accuracy.
    """
    if request.param == 'galsim':
        galsim = pytest.importorskip('galsim')
        gsparams = galsim.GSParams(maxk_threshold=1e-4, kvalue_accuracy=1e-6)
        return GalSimRenderer(period=512, gsparams=gsparams)
    return TorchRenderer(accuracy=RenderingAccuracy(period=8.0, psf_bits=7))


@pytest.fixture(scope='module', params=PROFILES.values(), ids=PROFILES.keys())
def profile(request):
    """
    Give each profile of the list in turn.
    """
    return np.array(request.param)


def gaussian_psf(sigma=SIGMA, **keywords):
    return PSFModel(
        sigma1=sigma, b=0.0, p0=0.0, normalization_radius=np.inf, **keywords
    )


@pytest.fixture(scope='module')
def image(renderer, profile):
    """
    Give the image of each profile by each renderer, which several tests measure.
    """
    return draw(renderer, profile)


def draw(renderer, profile, psf=None, centre=CENTRE, flux=7.0, side=SIDE):
    psf = gaussian_psf() if psf is None else psf
    x, y = ([v] for v in centre)
    return renderer.render(psf, x, y, [flux], (side, side), galaxy=[profile])


def turned(profile):
    """
    Coordinates along and across the major axis.
    """
    y, x = np.indices((SIDE, SIDE))
    x, y = x - CENTRE[0], y - CENTRE[1]
    c, s = math.cos(profile[1]), math.sin(profile[1])
    return c * x + s * y, c * y - s * x


def ratio_of(profile):
    return profile[2] if profile[0] > 0 else profile[3]


def ellipse(profile, limit=55.0):
    along, across = turned(profile)
    return np.hypot(along, across / ratio_of(profile)) < limit


def enclosed(profile, limit=55.0):
    """
    Flux and mean square along the major axis within an elliptical radius.
    """
    fraction, *_, disk, bulge = profile
    t_disk = limit * DISK_RADIUS / disk
    t_bulge = BULGE_SLOPE * (limit / bulge) ** 0.25
    flux = np.array([special.gammainc(2, t_disk), special.gammainc(8, t_bulge)])
    scale = np.array([disk / DISK_RADIUS, bulge / BULGE_SLOPE**4]) ** 2
    ratio = scale * [special.gamma(4), special.gamma(16) / special.gamma(8)]
    square = ratio * [special.gammainc(4, t_disk), special.gammainc(16, t_bulge)]
    share = np.array([fraction, 1 - fraction])
    return share @ flux, 0.5 * (share @ square) / (share @ flux)


def moments(image, profile, limit=55.0):
    along, across = turned(profile)
    weight = image * ellipse(profile, limit)
    total = weight.sum()
    return [
        float((weight * v).sum() / total)
        for v in (along, across, along**2, across**2, along * across)
    ]


def test_flux(image, profile):
    """
    The sum over pixels is the integral; the PSF moves little over a far edge.
    """
    expected, _ = enclosed(profile)
    assert_allclose(image[ellipse(profile)].sum(), 7 * expected, rtol=5e-4)


def test_centroid(image, profile):
    along, across, *_ = moments(image, profile)
    assert_allclose((along, across), 0, atol=3e-3)


def test_second_moments(image, profile):
    """
    Those of the profile plus those of the PSF, which are 7 to 40 %.
    """
    *_, along, across, both = moments(image, profile)
    _, square = enclosed(profile)
    q = ratio_of(profile)
    # Pixels on the edge of the ellipse, and the PSF across it.
    assert_allclose(along, square + SIGMA**2, rtol=5e-3)
    assert_allclose(across, square * q**2 + SIGMA**2, rtol=1e-2)
    assert_allclose(both, 0, atol=5e-3 * square)


def test_shear(image, profile):
    """
    The axis ratio without the PSF's part, and the angle.
    """
    *_, along, across, both = moments(image, profile)
    q = math.sqrt((across - SIGMA**2) / (along - SIGMA**2))
    assert_allclose(q, ratio_of(profile), rtol=0.02)
    if q < 0.9:
        off = 0.5 * math.atan2(2 * both, along - across)
        assert abs(off) < 2e-3
        # Within a circle nothing tells the angle but the image itself.
        y, x = np.indices(image.shape)
        x, y = x - CENTRE[0], y - CENTRE[1]
        part = image * (np.hypot(x, y) < 20)
        xx, yy, xy = ((part * v).sum() for v in (x * x, y * y, x * y))
        angle = 0.5 * math.atan2(2 * xy, xx - yy) % math.pi
        assert_allclose(angle, profile[1], atol=5e-3)


def test_psf_convolution_adds_moments_of_a_psf(renderer, profile):
    """
    A wider, elongated PSF: an exact Gaussian convolution of the narrower one.
    """
    y, x = np.indices((SIDE, SIDE))
    kernel = np.exp(-0.5 * ((x - 64) ** 2 + (y - 64) ** 2) / 4.0) / (8 * math.pi)
    narrow, wide = (draw(renderer, profile, gaussian_psf(s)) for s in (1.5, 2.5))
    if profile[0] == 0:
        # A bulge is as bright as its cusp is spread: compare the peak too.
        assert wide.max() < 0.7 * narrow.max()
    shape = (2 * SIDE, 2 * SIDE)
    both = np.fft.irfft2(
        np.fft.rfft2(narrow, shape) * np.fft.rfft2(kernel, shape), shape
    )
    inner = slice(20, -20)
    expected = both[64 : 64 + SIDE, 64 : 64 + SIDE][inner, inner]
    assert_allclose(wide[inner, inner], expected, atol=3e-4 * wide.max(), rtol=0)


@pytest.mark.parametrize('fraction', [0.0, 0.5, 1.0])
def test_a_tiny_galaxy_is_a_star(renderer, fraction):
    """
    All of an SDSS PSF comes through: two Gaussians, a power law, an ellipse.
    """
    psf = PSFModel(e1=0.06, e2=-0.04)
    point = (fraction, 0.3, 0.8, 0.7, 0.01, 0.003)
    image = draw(renderer, point, psf, flux=100.0, side=61, centre=(30.4, 29.7))
    star = TorchRenderer().render(psf, [30.4], [29.7], [100.0], (61, 61))
    assert_allclose(image, star, atol=3e-4 * star.max(), rtol=0)
    assert_allclose(image.sum(), star.sum(), rtol=1e-3)


def test_renderers_agree(profile):
    galsim = pytest.importorskip('galsim')
    gsparams = galsim.GSParams(maxk_threshold=1e-4, kvalue_accuracy=1e-6)
    psf = PSFModel(e1=-0.03, e2=0.05)
    exact = draw(GalSimRenderer(period=512, gsparams=gsparams), profile, psf)
    for accuracy, limit in ((None, 3e-4), (RenderingAccuracy.training(), 3e-3)):
        image = draw(TorchRenderer(accuracy=accuracy), profile, psf)
        assert_allclose(image, exact, atol=limit * exact.max(), rtol=0)


def test_grid_of_galsim():
    """
    Without a period GalSim's transform is that of its own choice.
    """
    pytest.importorskip('galsim')
    images = [draw(r, PROFILES['disk']) for r in (GalSimRenderer(), TorchRenderer())]
    assert_allclose(*images, atol=1e-3 * images[0].max(), rtol=0)


def test_repr_round_trip(renderer):
    galsim = pytest.importorskip('galsim')
    names = {'torch': torch, 'galsim': galsim}
    names |= {c.__name__: c for c in (GalSimRenderer, TorchRenderer, RenderingAccuracy)}
    again = eval(repr(renderer), names)
    assert repr(again) == repr(renderer)
    assert vars(again) == vars(renderer)
    for accuracy in (RenderingAccuracy(), RenderingAccuracy.training()):
        assert eval(repr(accuracy), names) == accuracy


@pytest.mark.parametrize(
    ('k', 'value', 'message'),
    [
        (0, 1.01, r'disk_fraction must be in \[0, 1\]; got 1.01'),
        (0, -0.1, 'disk_fraction'),
        (1, np.nan, 'angle must be finite'),
        (2, 0.0, r'disk_axis_ratio must be in \(0, 1\]; got 0'),
        (3, 1.5, 'bulge_axis_ratio'),
        (4, 0.0, 'disk_radius must be finite and positive; got 0'),
        (5, -2.0, 'bulge_radius'),
        (5, np.inf, 'bulge_radius'),
    ],
)
def test_impossible_galaxies(renderer, k, value, message):
    galaxy = np.array(PROFILES['bulge and disk'])
    galaxy[k] = value
    with pytest.raises(ValueError, match=message):
        draw(renderer, galaxy)


def test_bad_lists(renderer):
    psf, good = gaussian_psf(), [PROFILES['disk']]
    with pytest.raises(ValueError, match='galaxy must have 6 numbers'):
        renderer.render(psf, [1], [1], [1], (9, 9), galaxy=[good[0][:5]])
    with pytest.raises(ValueError, match='x, y and flux must have the same length'):
        renderer.render(psf, [1, 2], [1], [1], (9, 9), galaxy=good)
    with pytest.raises(ValueError, match='shape must be'):
        renderer.render(psf, [1], [1], [1], (9, 0), galaxy=good)
    assert renderer.render(psf, [], [], [], (4, 5), galaxy=[]).shape == (4, 5)
    assert not renderer.render(psf, [2], [2], [0], (4, 5), galaxy=good).any()


def test_what_the_grid_does_not_hold():
    renderer = TorchRenderer()
    with pytest.raises(ValueError, match='largest stamp of 1024 pixels'):
        draw(renderer, (1.0, 0.0, 0.5, 0.5, 150.0, 1.0))
    with pytest.raises(ValueError, match=r'sigma >= 0.31 pixels.*got 0.2'):
        draw(renderer, PROFILES['disk'], gaussian_psf(0.2))


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('sizes', (64, 100)),
        ('sizes', ()),
        ('sizes', (128, 64)),
        ('period', 0.0),
        ('disk_extent', np.nan),
        ('aliasing', 0.0),
        ('max_folds', 7),
        ('psf_bits', 0),
    ],
)
def test_bad_accuracy(name, value):
    with pytest.raises(ValueError, match=f'{name} must'):
        RenderingAccuracy(**{name: value})


def test_order_of_arguments_of_old_names():
    """
    The renderers of galaxies alone took the galaxies before the shape.
    """
    from bliss_astro import rendering

    with pytest.warns(AstropyDeprecationWarning, match='TorchGalaxyRenderer'):
        old = rendering.TorchGalaxyRenderer()
    source = gaussian_psf(), [4], [4], [1]
    galaxy = [PROFILES['disk']]
    image = TorchRenderer().render(*source, (9, 9), galaxy=galaxy)
    assert_allclose(old.render(*source, galaxy, (9, 9)), image)
