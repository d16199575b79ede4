# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
ROC curve of the star/galaxy separation, and the area under it.
"""

from dataclasses import dataclass

import numpy as np

from bliss_astro._random import check_rng

from ._bootstrap import BootstrapBands
from ._classification import check_classes, image_numbers
from ._inputs import check_count, check_fraction

__all__ = ['RocCurve', 'roc_curve']


@dataclass(frozen=True, eq=False)
class RocCurve:
    """
    Receiver operating characteristic of the star/galaxy separation.

    Attributes
    ----------
    threshold : (n,) `~numpy.ndarray`
        Falling thresholds in the probability of a galaxy, from infinity; at each, what
        is at or above it is called a galaxy.

    false_positive_rate, true_positive_rate : (n,) `~numpy.ndarray`
        Share of the stars, and of the galaxies, that are called galaxies.

    auc : float
        The area under the curve: the probability that a random galaxy has a larger
        probability than a random star (ties count half). NaN without stars or
        without galaxies.

    auc_low, auc_high, auc_err : float
        Its bootstrap band at ``level`` and standard deviation; NaN if not asked for.

    auc_samples : 1D `~numpy.ndarray`
        The area in each resample, for differences of paired curves.

    n_galaxies, n_stars : int
        The numbers behind it.

    level : float
        The confidence level of the band.
    """

    threshold: np.ndarray
    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    auc: float
    auc_low: float
    auc_high: float
    auc_err: float
    auc_samples: np.ndarray
    n_galaxies: int
    n_stars: int
    level: float

    def __repr__(self):
        return (
            f'<RocCurve: area {self.auc:.4f}, {self.n_galaxies} galaxies, '
            f'{self.n_stars} stars>'
        )


def roc_curve(
    is_galaxy,
    galaxy_probability,
    *,
    images=None,
    n_resamples=200,
    level=0.683,
    rng=None,
):
    """
    ROC curve and the area under it, galaxies being the positives.

    Parameters
    ----------
    is_galaxy : 1D array_like of bool
        The truth of each source.

    galaxy_probability : 1D array_like
        The probability that it is a galaxy, in [0, 1].

    images : 1D array_like or `None`, optional
        The image of each source, over which the error of the area is bootstrapped;
        `None` leaves the error out. The k-th resample depends on ``rng`` and on the
        set of the images only, so that curves of the same sources may be compared
        pair by pair.

    n_resamples : int, optional
        The number of resamples.

    level : float, optional
        The confidence level of the band.

    rng : int, `~numpy.random.Generator` or `None`, optional
        The source of randomness.

    Returns
    -------
    curve : `RocCurve`
        A point for each distinct probability, and the area.

    Examples
    --------
    >>> from bliss_astro.metrics import roc_curve
    >>> float(roc_curve([1, 1, 0, 0], [0.9, 0.4, 0.4, 0.1]).auc)
    0.875
    """
    galaxy, probability = check_classes(is_galaxy, galaxy_probability)
    level = check_fraction(level, 'level')
    order = np.argsort(-probability, kind='stable')
    galaxy, probability = galaxy[order], probability[order]
    first = np.flatnonzero(np.diff(probability, prepend=np.inf))
    auc = float(weighted_areas(np.ones((1, len(order))), galaxy, first)[0])
    samples = np.empty(0)
    if images is not None:
        n_resamples = check_count(n_resamples, 'n_resamples', minimum=2)
        n_images, place = image_numbers(images, len(order))
        samples = _resampled_areas(
            galaxy, first, place[order], n_images, n_resamples, rng
        )
    spread = (np.nan, np.nan, np.nan)
    if len(samples):
        band = BootstrapBands._from_samples(auc, samples, level)
        spread = (float(band.low), float(band.high), float(band.std))
    last = np.append(first[1:], len(order)) - 1 if len(order) else first
    with np.errstate(invalid='ignore'):
        rates = [
            np.append(0.0, np.cumsum(kind)[last]) / kind.sum()
            for kind in (~galaxy, galaxy)
        ]
    return RocCurve(
        threshold=np.append(np.inf, probability[first]),
        false_positive_rate=rates[0],
        true_positive_rate=rates[1],
        auc=auc,
        auc_low=spread[0],
        auc_high=spread[1],
        auc_err=spread[2],
        auc_samples=samples,
        n_galaxies=int(galaxy.sum()),
        n_stars=int((~galaxy).sum()),
        level=level,
    )


def weighted_areas(weights, galaxy, first):
    """
    Areas for rows of weights; probabilities fall, ``first`` begins each tie.
    """
    if not len(first):
        return np.full(len(weights), np.nan)
    galaxies = np.add.reduceat(weights * galaxy, first, axis=1)
    stars = np.add.reduceat(weights * ~galaxy, first, axis=1)
    below = stars.sum(axis=1, keepdims=True) - np.cumsum(stars, axis=1)
    pairs = galaxies.sum(axis=1) * stars.sum(axis=1)
    with np.errstate(invalid='ignore', divide='ignore'):
        return (galaxies * (below + 0.5 * stars)).sum(axis=1) / pairs


def _resampled_areas(galaxy, first, place, n_images, n_resamples, rng):
    rng = check_rng(rng)
    areas = np.empty(n_resamples)
    for k in range(n_resamples):
        drawn = rng.integers(n_images, size=n_images)
        times = np.bincount(drawn, minlength=n_images)[place]
        areas[k] = weighted_areas(times[np.newaxis].astype(float), galaxy, first)[0]
    return areas
