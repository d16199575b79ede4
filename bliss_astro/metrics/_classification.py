# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Are galaxies told from stars: accuracy in bins, and confusion.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from bliss_astro._messages import first_wrong

from ._bootstrap import BootstrapBands, resample_sums, wilson_interval
from ._inputs import as_edges, as_vector, bin_index, check_count, check_fraction

__all__ = ['ClassScores', 'class_scores']

_SCORES = ('accuracy', 'galaxy_accuracy', 'star_accuracy')


@dataclass(frozen=True, eq=False)
class ClassScores:
    """
    Star/galaxy scores in bins.

    Attributes
    ----------
    bins : (n + 1,) `~numpy.ndarray`
        The bin edges.

    quantity : str
        What the bins are bins of.

    n_galaxies, n_stars : (n,) `~numpy.ndarray`
        The numbers of true galaxies and stars.

    n_galaxies_right, n_stars_right : (n,) `~numpy.ndarray`
        How many of them are called by their name: with the numbers above, the
        whole table of confusion.

    accuracy, galaxy_accuracy, star_accuracy : (n,) `~numpy.ndarray`
        Shares of all sources, of the galaxies and of the stars that are right; NaN
        in empty bins.

    accuracy_low, accuracy_high : (n,) `~numpy.ndarray`
        The error band of the accuracy.

    galaxy_accuracy_low, galaxy_accuracy_high : (n,) `~numpy.ndarray`
        That of the galaxies.

    star_accuracy_low, star_accuracy_high : (n,) `~numpy.ndarray`
        That of the stars.

    galaxy_precision, star_precision : (n,) `~numpy.ndarray`
        Shares of what is called a galaxy (a star) that are right.

    threshold : float
        The smallest probability of a galaxy that is called one.

    level : float
        The confidence level of the bands.

    errors : str
        How the bands were made.
    """

    bins: np.ndarray
    quantity: str
    n_galaxies: np.ndarray
    n_stars: np.ndarray
    n_galaxies_right: np.ndarray
    n_stars_right: np.ndarray
    accuracy: np.ndarray
    accuracy_low: np.ndarray
    accuracy_high: np.ndarray
    galaxy_accuracy: np.ndarray
    galaxy_accuracy_low: np.ndarray
    galaxy_accuracy_high: np.ndarray
    star_accuracy: np.ndarray
    star_accuracy_low: np.ndarray
    star_accuracy_high: np.ndarray
    galaxy_precision: np.ndarray
    star_precision: np.ndarray
    threshold: float
    level: float
    errors: str

    def to_table(self):
        """
        Return the scores as a table with a row per bin.

        Returns
        -------
        table : `~astropy.table.QTable`
            ``low`` and ``high`` are the bin edges.
        """
        table = QTable({'low': self.bins[:-1], 'high': self.bins[1:]})
        for name in ('n_galaxies', 'n_galaxies_right', 'n_stars', 'n_stars_right'):
            table[name] = getattr(self, name)
        names = [f'{s}{side}' for s in _SCORES for side in ('', '_low', '_high')]
        for name in (*names, 'galaxy_precision', 'star_precision'):
            table[name] = getattr(self, name)
            table[name].info.format = '.4f'
        for name in ('quantity', 'threshold', 'level', 'errors'):
            table.meta[name] = getattr(self, name)
        return table

    def __repr__(self):
        names = ('low', 'high', *_SCORES, 'n_galaxies', 'n_stars')
        lines = self.to_table()[names].pformat()
        return '\n'.join([f'<ClassScores by {self.quantity}>', *lines])


def class_scores(
    is_galaxy,
    galaxy_probability,
    bins=None,
    *,
    values=None,
    threshold=0.5,
    quantity='magnitude',
    errors='wilson',
    level=0.683,
    images=None,
    n_resamples=1000,
    rng=None,
):
    """
    How many stars and galaxies are called by their name.

    Parameters
    ----------
    is_galaxy : 1D array_like of bool
        The truth of each source, usually of the matched ones only
        (`match_catalogs`).

    galaxy_probability : 1D array_like
        The probability that it is a galaxy, in [0, 1]; booleans will do.

    bins : 1D array_like or `None`, optional
        Increasing edges; bins are half-open, the last one closed. `None` is one bin
        of everything.

    values : 1D array_like or `None`, optional
        What is binned, such as the TRUE magnitude. Needed with ``bins``.

    threshold : float, optional
        A source is called a galaxy if its probability is above this.

    quantity : str, optional
        The name of ``values``, for tables and plots.

    errors : {'wilson', 'bootstrap'}, optional
        Binomial intervals, or a bootstrap over ``images``.

    level : float, optional
        The confidence level of the bands.

    images : 1D array_like or `None`, optional
        For the bootstrap: the image of each source.

    n_resamples : int, optional
        The number of bootstrap resamples.

    rng : int, `~numpy.random.Generator` or `None`, optional
        The source of randomness of the bootstrap.

    Returns
    -------
    scores : `ClassScores`
        Scores, counts and error bands per bin.

    Raises
    ------
    ValueError
        If a probability is outside [0, 1] or NaN, the truth is not boolean, or
        lengths differ.

    Examples
    --------
    >>> from bliss_astro.metrics import class_scores
    >>> scores = class_scores([True, True, False, False], [0.9, 0.4, 0.2, 0.1])
    >>> scores.accuracy, scores.galaxy_accuracy, scores.star_accuracy
    (array([0.75]), array([0.5]), array([1.]))
    """
    galaxy, probability = check_classes(is_galaxy, galaxy_probability)
    edges = as_edges(bins)
    level = check_fraction(level, 'level')
    if errors not in ('wilson', 'bootstrap'):
        msg = f'errors must be "wilson" or "bootstrap", got {errors!r}'
        raise ValueError(msg)
    index = np.zeros(len(galaxy), dtype=int)
    if bins is not None:
        if values is None:
            msg = 'bins need values: what is to be binned'
            raise ValueError(msg)
        values = as_vector(values, 'values', n=len(galaxy), n_name='is_galaxy')
        index = bin_index(values, edges)
    right = (probability > threshold) == galaxy
    kinds = [galaxy, ~galaxy, galaxy & right, ~galaxy & right]
    n_bins = len(edges) - 1
    counts = [np.bincount(index[k & (index >= 0)], minlength=n_bins) for k in kinds]
    scores = dict(zip(_SCORES, _shares(*counts), strict=True))
    if errors == 'wilson':
        bands = _wilson_bands(counts, level)
    else:
        n_resamples = check_count(n_resamples, 'n_resamples', minimum=2)
        table = _counts_per_image(index, kinds, images, n_bins)
        samples = resample_sums(table, n_resamples, rng)
        samples = np.moveaxis(samples.reshape(n_resamples, 4, n_bins), 1, 0)
        bands = {}
        for name, sample in zip(_SCORES, _shares(*samples), strict=True):
            band = BootstrapBands._from_samples(scores[name], sample, level)
            bands[f'{name}_low'], bands[f'{name}_high'] = band.low, band.high
    n_galaxies, n_stars, galaxies_right, stars_right = counts
    with np.errstate(invalid='ignore'):
        galaxy_precision = galaxies_right / (galaxies_right + n_stars - stars_right)
        star_precision = stars_right / (stars_right + n_galaxies - galaxies_right)
    return ClassScores(
        bins=edges,
        quantity=quantity,
        n_galaxies=n_galaxies,
        n_stars=n_stars,
        n_galaxies_right=galaxies_right,
        n_stars_right=stars_right,
        **scores,
        **bands,
        galaxy_precision=galaxy_precision,
        star_precision=star_precision,
        threshold=float(threshold),
        level=level,
        errors=errors,
    )


def check_classes(is_galaxy, galaxy_probability):
    """
    Return the truth as booleans and the probabilities, or raise.
    """
    galaxy = as_vector(is_galaxy, 'is_galaxy')
    known = np.isin(galaxy, (0, 1))
    if not known.all():
        msg = f'is_galaxy must hold booleans, got {first_wrong(galaxy, known)}'
        raise ValueError(msg)
    probability = as_vector(
        galaxy_probability, 'galaxy_probability', n=len(galaxy), n_name='is_galaxy'
    )
    sound = (probability >= 0) & (probability <= 1)
    if not sound.all():
        msg = (
            'galaxy_probability must be between 0 and 1, and not NaN, got '
            f'{first_wrong(probability, sound)}'
        )
        raise ValueError(msg)
    return galaxy.astype(bool), probability


def _shares(n_galaxies, n_stars, galaxies_right, stars_right):
    with np.errstate(invalid='ignore', divide='ignore'):
        return (
            (galaxies_right + stars_right) / (n_galaxies + n_stars),
            galaxies_right / n_galaxies,
            stars_right / n_stars,
        )


def _wilson_bands(counts, level):
    n_galaxies, n_stars, galaxies_right, stars_right = counts
    pairs = (
        (galaxies_right + stars_right, n_galaxies + n_stars),
        (galaxies_right, n_galaxies),
        (stars_right, n_stars),
    )
    bands = {}
    for name, (k, n) in zip(_SCORES, pairs, strict=True):
        bands[f'{name}_low'], bands[f'{name}_high'] = wilson_interval(k, n, level=level)
    return bands


def image_numbers(images, n):
    """
    The number of images and the place of each source's image among them.
    """
    if images is None:
        msg = 'errors="bootstrap" needs images, the image of each source'
        raise ValueError(msg)
    images = np.asarray(images)
    if images.shape != (n,):
        msg = f'images must have the shape ({n},), got {images.shape}'
        raise ValueError(msg)
    if not n:
        msg = 'images is empty: there is nothing to resample'
        raise ValueError(msg)
    labels, place = np.unique(images, return_inverse=True)
    return len(labels), place


def _counts_per_image(index, kinds, images, n_bins):
    n_images, place = image_numbers(images, len(index))
    blocks = []
    for kind in kinds:
        use = kind & (index >= 0)
        cell = place[use] * n_bins + index[use]
        block = np.bincount(cell, minlength=n_images * n_bins)
        blocks.append(block.reshape(n_images, n_bins))
    return np.concatenate(blocks, axis=1)
