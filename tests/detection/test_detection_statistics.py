# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The bundled weights on simulated coadds: sane recall, precision and errors.

The measured numbers, with far more images, stand in the documentation; here
tolerances are what a perfect posterior reaches (0.955 of the faintest stars at
depth 5, more of the others) less a margin and three binomial errors.
"""

import astropy.units as u
import numpy as np
import pytest

from bliss_astro import CoaddSimulator, PSFModel, detect_sources
from bliss_astro.metrics import match_catalogs

# As many pixels as 20 of the papers' images, in a third of the time.
N_IMAGES, SIDE = 3, 224


@pytest.fixture(scope='module')
def matches(encoder):
    """
    Pairs of catalogue, truth and their match for coadds of 5 exposures.
    """
    simulator = CoaddSimulator(5, shape=(SIDE, SIDE), margin=8)
    out = []
    for seed in range(N_IMAGES):
        coadd, truth = simulator.sample(rng=1000 + seed)
        found = detect_sources(
            coadd, density=0.001875, flux_min=622 * u.electron, encoder=encoder
        )
        out.append((found, truth, match_catalogs(found, truth, radius=1.0)))
    return out


def test_recall_and_precision(matches):
    n_truth = sum(len(truth) for _, truth, _ in matches)
    n_found = sum(len(found) for found, _, _ in matches)
    n_both = sum(np.sum(match.is_matched_truth) for _, _, match in matches)
    assert n_truth > 175
    # 2.5 % of the stars have another one within 2 px, which may hide them.
    assert n_both / n_truth > 0.94 - 3 * np.sqrt(0.06 * 0.94 / n_truth)
    assert n_both / n_found > 0.96 - 3 * np.sqrt(0.04 * 0.96 / n_found)


def test_expected_counts_are_right(matches):
    expected = sum(found.posterior.expected_counts() for found, _, _ in matches)
    n_truth = sum(len(truth) for _, truth, _ in matches)
    # Given the images, the number is known to a few per cent.
    assert expected == pytest.approx(n_truth, rel=0.1)


def test_probabilities_are_right(matches):
    chance = np.concatenate([found['probability'] for found, _, _ in matches])
    real = np.concatenate([match.is_matched_estimated for _, _, match in matches])
    error = np.sqrt(np.sum(chance * (1 - chance)) + 1) / len(chance)
    # Blends that are found but off by more than 1 px count as false.
    assert real.mean() == pytest.approx(chance.mean(), abs=3 * error + 0.03)


def _pulls(matches, name):
    out = []
    for found, truth, match in matches:
        rows, other = match.estimated_index, match.truth_index
        alone = (found['flags'][rows] & 128) == 0
        a, b = found[rows[alone]], truth[other[alone]]
        error = a[f'{name[0]}_err' if name != 'flux' else 'flux_err']
        out.append(np.asarray((a[name] - b[name]) / error))
    return np.concatenate(out)


@pytest.mark.parametrize('name', ['flux', 'x_centroid', 'y_centroid'])
def test_errors_are_calibrated(matches, name):
    pull = _pulls(matches, name)
    n = len(pull)
    assert n > 150
    # The standard error of a median is 1.25 / sqrt(n), that of the robust
    # width 1.17 / sqrt(2 n) and more; the weights are not perfect.
    assert abs(np.median(pull)) < 3 * 1.25 / np.sqrt(n) + 0.1
    width = 0.5 * np.subtract(*np.percentile(pull, [84.13, 15.87]))
    assert width == pytest.approx(1, abs=0.2)


def test_intervals_cover(matches):
    inside, n = 0, 0
    for found, truth, match in matches:
        rows, other = match.estimated_index, match.truth_index
        lower, upper = found.credible_interval('flux', 0.9)
        value = truth['flux'][other]
        inside += np.sum((value > lower[rows]) & (value < upper[rows]))
        n += len(rows)
    assert inside / n == pytest.approx(0.9, abs=0.05 + 3 * np.sqrt(0.09 / n))


@pytest.mark.parametrize('snr', [12, 60])
def test_no_doubles_at_tile_borders(encoder, snr, rng):
    # 36 stars on edges and corners of tiles, 22 px apart.
    psf, size = PSFModel(), 144
    places = 10 + 22 * np.indices((6, 6)).reshape(2, -1)
    x, y = (places // 4 * 4).astype(float)
    x = x - 0.5 + rng.uniform(-0.05, 0.05, 36)
    y = y + np.where(np.arange(36) % 2, -0.5, 1.3)
    yy, xx = np.mgrid[:size, :size]
    signal = np.full((size, size), 865.0)
    flux = snr * np.sqrt(865 * psf.n_eff)
    for star_x, star_y in zip(x, y, strict=True):
        star = psf.copy()
        star.flux, star.x_0, star.y_0 = flux, star_x, star_y
        signal += star(xx, yy)
    data = signal + rng.normal(size=signal.shape) * np.sqrt(signal)
    found = detect_sources(
        data * u.electron,
        background=865 * u.electron,
        bkg_error=np.sqrt(865) * u.electron,
        psf=psf,
        density=0.002,
        encoder=encoder,
    )
    apart = np.hypot(found['x_centroid'][:, None] - x, found['y_centroid'][:, None] - y)
    n_near = np.sum(apart < 3, axis=0)
    assert np.sum(n_near >= 1) >= 35
    assert np.sum(n_near > 1) <= 1
    # Away from the stars nothing else is bright.
    far = apart.min(1) > 3
    assert np.sum(far & (found['flux'].value > 0.6 * flux)) == 0
