# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the Cramer-Rao bound of ellipticities.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import least_squares

from bliss_astro.metrics import ellipticity_bound
from bliss_astro.psf import DEFAULT_SHAPE
from bliss_astro.rendering import adaptive_moments, render_galaxies

GAUSSIAN = (2.0, 4.0, 0.0, 3.0, 0.0, 3.3, 0.0, 0.0)
SIZE = (32, 32)


def bound_of_one(psf, flux, galaxy, **kwargs):
    scene = {'x': [15.6], 'y': [15.2], 'flux': [flux], 'is_galaxy': [True]}
    kwargs = {'source': 0, 'bkg_error': 30.0, 'size': SIZE} | kwargs
    return ellipticity_bound(psf, **scene, galaxy=[galaxy], **kwargs)


def draw(psf, x, y, flux, galaxy):
    tensors = [torch.tensor([[v]], dtype=torch.float64) for v in (x, y, flux, galaxy)]
    psf = torch.tensor([psf], dtype=torch.float64)
    return render_galaxies(psf, *tensors, size=SIZE)[0].numpy()


def test_of_a_gaussian():
    """
    For a round Gaussian in even noise, the errors of e1 and e2 are 2 / SNR.

    With e = (e1, 0), the image is a Gaussian of variances v (1 + e) and v (1 - e)
    along x and y, its derivative by e is I (x^2 - y^2) / 2 v, and the mean of
    (x^2 - y^2)^2 / 4 v^2 under I^2, of variances v / 2, is 1/4.
    """
    galaxy = [1.0, 0.0, 0.6, 0.5, 0.8, 1.0]
    widths = dict.fromkeys(
        ['log_disk_radius', 'logit_disk_axis_ratio', 'angle', 'log_flux'], 1e3
    )
    widths |= {'logit_disk_fraction': 1e-6}
    flux = 1e7
    cov = bound_of_one(GAUSSIAN, flux, galaxy, effective_gain=np.inf, widths=widths)
    image = draw(GAUSSIAN, 15.6, 15.2, flux, galaxy)
    snr = np.sqrt((image**2).sum()) / 30
    e = adaptive_moments(torch.tensor(GAUSSIAN), torch.tensor(galaxy))[0]
    assert 0.02 < e < 0.06
    # A small exponential disk is not quite a Gaussian.
    assert_allclose(np.sqrt(np.diag(cov)), 2 / snr, rtol=0.05)
    assert abs(cov[0, 1]) < 0.02 * cov[0, 0]


def test_scaling():
    galaxy = [0.6, 0.5, 0.5, 0.7, 4.0, 2.0]
    free = {'effective_gain': np.inf}
    one = bound_of_one(DEFAULT_SHAPE, 1e6, galaxy, **free)
    ten = bound_of_one(DEFAULT_SHAPE, 1e6, galaxy, bkg_error=15.0, **free)
    # Priors matter little at such an SNR, and errors follow the noise.
    ratio = np.diag(one) / np.diag(ten)
    assert ((ratio > 2.2) & (ratio < 4.05)).all()
    # Noise of its own costs; symmetric and positive.
    own = bound_of_one(DEFAULT_SHAPE, 1e6, galaxy)
    assert np.trace(own) > 1.2 * np.trace(one)
    assert_allclose(own, own.T, rtol=1e-6)
    assert (np.linalg.eigvalsh(own) > 0).all()
    # Without light, the prior alone remains.
    dark = bound_of_one(DEFAULT_SHAPE, 1e-3, galaxy)
    darker = bound_of_one(DEFAULT_SHAPE, 1e-4, galaxy)
    assert_allclose(dark, darker, rtol=1e-3)
    # To know more never hurts.
    known = bound_of_one(DEFAULT_SHAPE, 1e4, galaxy, widths={'log_disk_radius': 0.1})
    usual = bound_of_one(DEFAULT_SHAPE, 1e4, galaxy)
    assert (np.linalg.eigvalsh(usual - known) > -1e-9).all()


def test_neighbours():
    galaxy = [0.6, 0.5, 0.5, 0.7, 3.0, 2.0]
    options = {'bkg_error': 30.0, 'size': SIZE, 'effective_gain': np.inf}
    options |= {'y': [15.0, 15.0], 'galaxy': np.tile(galaxy, (2, 1))}

    def error(distance, kind, *, flux=5e3):
        scene = {'x': [14.0, 14.0 + distance], 'flux': [2e4, flux]}
        scene |= {'is_galaxy': [True, kind]}
        return np.trace(ellipticity_bound(DEFAULT_SHAPE, 0, **scene, **options))

    alone = error(3.0, False, flux=0.0)
    assert error(60.0, False) == pytest.approx(alone, rel=1e-3)
    star, near = error(5.0, False), error(3.0, False)
    assert alone * 1.001 < star < near
    # A galaxy can mimic more.
    assert error(3.0, True) > near


@pytest.mark.parametrize('seed', [1])
def test_scatter_of_fits(seed):
    """
    Fits scatter as the bound says, with a drawn prior as a measurement of each.
    """
    rng = np.random.default_rng(seed)
    truth = np.array([15.6, 15.2, 4e4, 0.7, 0.5, 0.5, 0.7, 4.0, 2.5])
    widths = {
        'x': 1.0,
        'y': 1.0,
        'log_flux': 0.3,
        'logit_disk_fraction': 0.3,
        'angle': 0.5,
        'logit_disk_axis_ratio': 0.3,
        'logit_bulge_axis_ratio': 0.3,
        'log_disk_radius': 0.2,
        'log_bulge_radius': 0.2,
    }
    width = np.array(list(widths.values()))
    noise = 30.0

    def numbers(c):
        odds = np.exp(c[[3, 5, 6]])
        p = odds / (1 + odds)
        return np.array(
            [c[0], c[1], np.exp(c[2]), p[0], c[4], p[1], p[2], *np.exp(c[7:])]
        )

    def coordinates(v):
        logit = np.log(v[[3, 5, 6]] / (1 - v[[3, 5, 6]]))
        return np.array(
            [v[0], v[1], np.log(v[2]), logit[0], v[4], *logit[1:], *np.log(v[7:])]
        )

    def images_at(rows):
        rows = torch.as_tensor(np.array([numbers(c) for c in rows]))
        x, y, flux = rows[:, :3, None].unbind(1)
        psf = torch.tensor([DEFAULT_SHAPE], dtype=torch.float64).expand(len(rows), 8)
        drawn = render_galaxies(psf, x, y, flux, rows[:, None, 3:], size=SIZE)
        return drawn.numpy().reshape(len(rows), -1)

    start = coordinates(truth)
    clean = images_at([start])[0]
    step = 1e-4

    def jacobian(c, data, centre):
        drawn = images_at(c + step * np.concatenate([np.eye(9), np.zeros((1, 9))]))
        slope = (drawn[:9] - drawn[9]) / (step * noise)
        return np.concatenate([slope.T, np.diag(1 / width)])

    def residual(c, data, centre):
        return np.concatenate(
            [(images_at([c])[0] - data) / noise, (c - centre) / width]
        )

    fits = []
    for _ in range(12):
        data = clean + noise * rng.normal(size=clean.shape)
        centre = start + width * rng.normal(size=9)
        fit = least_squares(residual, start, jacobian, args=(data, centre), xtol=1e-3)
        fits.append(numbers(fit.x)[3:])
    psf = torch.tensor(DEFAULT_SHAPE, dtype=torch.float64)
    found = torch.stack(adaptive_moments(psf, torch.as_tensor(np.array(fits)))[:2], -1)
    true = torch.stack(adaptive_moments(psf, torch.as_tensor(truth[3:]))[:2])
    cov = ellipticity_bound(
        DEFAULT_SHAPE,
        0,
        x=truth[:1],
        y=truth[1:2],
        flux=truth[2:3],
        is_galaxy=[True],
        galaxy=[truth[3:]],
        bkg_error=noise,
        size=SIZE,
        effective_gain=np.inf,
        widths=widths,
    )
    assert 0.005 < np.sqrt(cov[0, 0]) < 0.05
    error = (found - true).numpy()
    chi2 = np.einsum('ni,ij,nj->n', error, np.linalg.inv(cov), error)
    # 24 degrees of freedom: 1 +- 0.29, and a little for what is not linear.
    assert 0.4 < chi2.mean() / 2 < 1.7


def test_bad_arguments():
    galaxy = [0.6, 0.5, 0.5, 0.7, 3.0, 2.0]
    with pytest.raises(ValueError, match='source must'):
        bound_of_one(DEFAULT_SHAPE, 1e4, galaxy, source=1)
    with pytest.raises(ValueError, match='source must'):
        bound_of_one(DEFAULT_SHAPE, 0.0, galaxy)
    with pytest.raises(ValueError, match='widths must be positive numbers of'):
        bound_of_one(DEFAULT_SHAPE, 1e4, galaxy, widths={'radius': 1.0})
    with pytest.raises(ValueError, match='widths must be positive'):
        bound_of_one(DEFAULT_SHAPE, 1e4, galaxy, widths={'x': 0.0})
    with pytest.raises(ValueError, match='bkg_error'):
        bound_of_one(DEFAULT_SHAPE, 1e4, galaxy, bkg_error=0.0)
    with pytest.raises(ValueError, match='psf must have the shape'):
        bound_of_one(DEFAULT_SHAPE[:7], 1e4, galaxy)
    with pytest.raises(ValueError, match='galaxy must have the shape'):
        bound_of_one(DEFAULT_SHAPE, 1e4, galaxy[:5])
