# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Precision, recall and F1 in bins of magnitude, SNR or anything else.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from ._bootstrap import BootstrapBands, resample_sums, wilson_interval
from ._inputs import as_edges, as_vector, bin_index, check_count, check_fraction

__all__ = ['DetectionScores', 'detection_scores']

_SCORES = ('precision', 'recall', 'f1')


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """
    Detection scores in bins.

    Attributes
    ----------
    bins : (n + 1,) `~numpy.ndarray`
        The bin edges.

    quantity : str
        What the bins are bins of.

    n_estimated, n_estimated_matched : (n,) `~numpy.ndarray`
        Detections by their ESTIMATED value, and those of them with a true partner.

    n_truth, n_truth_matched : (n,) `~numpy.ndarray`
        True sources by their TRUE value, and those of them that were found.

    precision, recall, f1 : (n,) `~numpy.ndarray`
        The scores; NaN in empty bins.

    precision_low, precision_high : (n,) `~numpy.ndarray`
        The error band of the precision.

    recall_low, recall_high : (n,) `~numpy.ndarray`
        The error band of the recall.

    f1_low, f1_high : (n,) `~numpy.ndarray`
        The error band of F1.

    level : float
        The confidence level of the bands.

    errors : str
        How the bands were made.
    """

    bins: np.ndarray
    quantity: str
    n_estimated: np.ndarray
    n_estimated_matched: np.ndarray
    n_truth: np.ndarray
    n_truth_matched: np.ndarray
    precision: np.ndarray
    precision_low: np.ndarray
    precision_high: np.ndarray
    recall: np.ndarray
    recall_low: np.ndarray
    recall_high: np.ndarray
    f1: np.ndarray
    f1_low: np.ndarray
    f1_high: np.ndarray
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
        for name in ('n_estimated', 'n_estimated_matched', 'n_truth'):
            table[name] = getattr(self, name)
        table['n_truth_matched'] = self.n_truth_matched
        for score in _SCORES:
            for name in (score, f'{score}_low', f'{score}_high'):
                table[name] = getattr(self, name)
                table[name].info.format = '.4f'
        table.meta['quantity'] = self.quantity
        table.meta['level'] = self.level
        table.meta['errors'] = self.errors
        return table

    def __repr__(self):
        lines = self.to_table()['low', 'high', *_SCORES, 'n_truth'].pformat()
        return '\n'.join([f'<DetectionScores by {self.quantity}>', *lines])


def detection_scores(
    match,
    bins=None,
    *,
    estimated,
    truth,
    quantity='magnitude',
    errors='wilson',
    level=0.683,
    images=None,
    n_resamples=1000,
    rng=None,
):
    """
    Precision, recall and F1 in bins.

    Precision is binned by the ESTIMATED value, since a false detection has no other;
    recall by the TRUE value. F1 of a bin is the harmonic mean of the two.

    Parameters
    ----------
    match : `CatalogMatch`
        The matched catalogues.

    bins : 1D array_like or `None`, optional
        Increasing edges; bins are half-open, the last one closed. `None` is one bin
        of everything. Rows outside (or NaN, such as the magnitude of a negative
        flux) are not counted, unless there is no ``bins``.

    estimated, truth : 1D array_like
        The value (magnitude, SNR, ...) of each row of the estimated and of the true
        catalogue.

    quantity : str, optional
        The name of the value, for tables and plots.

    errors : {'wilson', 'bootstrap'}, optional
        Binomial (Wilson) intervals of precision and recall, propagated to F1 as if
        the two were independent; or a bootstrap over ``images``, which knows their
        correlation and that of the sources of an image.

    level : float, optional
        The confidence level of the bands.

    images : tuple of two 1D array_like or `None`, optional
        For the bootstrap: the image of each estimated and of each true row.

    n_resamples : int, optional
        The number of bootstrap resamples.

    rng : int, `~numpy.random.Generator` or `None`, optional
        The source of randomness of the bootstrap.

    Returns
    -------
    scores : `DetectionScores`
        Scores, counts and error bands per bin.

    Examples
    --------
    >>> from bliss_astro.metrics import detection_scores, match_catalogs
    >>> match = match_catalogs([(1, 1), (5, 5)], [(1, 1.2), (8, 8)])
    >>> scores = detection_scores(
    ...     match, [18, 20, 22], estimated=[19.1, 21.5], truth=[19.0, 21.0]
    ... )
    >>> scores.precision, scores.recall
    (array([1., 0.]), array([1., 0.]))
    """
    edges = as_edges(bins)
    level = check_fraction(level, 'level')
    if errors not in ('wilson', 'bootstrap'):
        msg = f'errors must be "wilson" or "bootstrap", got {errors!r}'
        raise ValueError(msg)
    values = (
        as_vector(estimated, 'estimated', n=match.n_estimated, n_name='match'),
        as_vector(truth, 'truth', n=match.n_truth, n_name='match'),
    )
    # Without bins even a NaN magnitude counts.
    index = [
        bin_index(v, edges) if bins is not None else np.zeros(len(v), dtype=int)
        for v in values
    ]
    matched = (match.is_matched_estimated, match.is_matched_truth)
    n_bins = len(edges) - 1
    counts = [
        np.bincount(i[use & (i >= 0)], minlength=n_bins)
        for i, flag in zip(index, matched, strict=True)
        for use in (np.ones_like(flag), flag)
    ]
    scores = dict(zip(_SCORES, _scores(*counts), strict=True))
    if errors == 'wilson':
        bands = _wilson_bands(counts, scores, level)
    else:
        n_resamples = check_count(n_resamples, 'n_resamples', minimum=2)
        table = _counts_per_image(index, matched, images, n_bins)
        samples = resample_sums(table, n_resamples, rng)
        samples = np.moveaxis(samples.reshape(n_resamples, 4, n_bins), 1, 0)
        bands = {}
        for name, values in zip(_SCORES, _scores(*samples), strict=True):
            band = BootstrapBands._from_samples(scores[name], values, level)
            bands[f'{name}_low'], bands[f'{name}_high'] = band.low, band.high
    return DetectionScores(
        bins=edges,
        quantity=quantity,
        n_estimated=counts[0],
        n_estimated_matched=counts[1],
        n_truth=counts[2],
        n_truth_matched=counts[3],
        **scores,
        **bands,
        level=level,
        errors=errors,
    )


def _scores(n_estimated, n_estimated_matched, n_truth, n_truth_matched):
    with np.errstate(invalid='ignore', divide='ignore'):
        precision = np.true_divide(n_estimated_matched, n_estimated)
        recall = np.true_divide(n_truth_matched, n_truth)
        f1 = 2 * precision * recall / (precision + recall)
    return precision, recall, np.where(precision + recall == 0, 0.0, f1)


def _wilson_bands(counts, scores, level):
    bands = {}
    for name, (n, k) in zip(_SCORES, (counts[:2], counts[2:]), strict=False):
        bands[f'{name}_low'], bands[f'{name}_high'] = wilson_interval(k, n, level=level)
    precision, recall = scores['precision'], scores['recall']
    with np.errstate(invalid='ignore', divide='ignore'):
        slope_p = 2 * recall**2 / (precision + recall) ** 2
        slope_r = 2 * precision**2 / (precision + recall) ** 2
    for side, sign in (('low', -1), ('high', 1)):
        width = np.hypot(
            slope_p * (bands[f'precision_{side}'] - precision),
            slope_r * (bands[f'recall_{side}'] - recall),
        )
        bands[f'f1_{side}'] = np.clip(scores['f1'] + sign * width, 0, 1)
    return bands


def _counts_per_image(index, matched, images, n_bins):
    """
    The four counts of every bin for every image, (n_images, 4 * n_bins).
    """
    if images is None or len(images) != 2:
        msg = 'errors="bootstrap" needs images, a pair (estimated, true)'
        raise ValueError(msg)
    images = [np.asarray(image) for image in images]
    for image, i, name in zip(images, index, ('estimated', 'truth'), strict=True):
        if image.shape != i.shape:
            msg = f'images of {name} must have the shape {i.shape}, got {image.shape}'
            raise ValueError(msg)
    labels, place = np.unique(np.concatenate(images), return_inverse=True)
    if not len(labels):
        msg = 'images is empty: there is nothing to resample'
        raise ValueError(msg)
    places = np.split(place, [len(images[0])])
    blocks = []
    for i, flag, image in zip(index, matched, places, strict=True):
        for use in (i >= 0, (i >= 0) & flag):
            cell = image[use] * n_bins + i[use]
            block = np.bincount(cell, minlength=len(labels) * n_bins)
            blocks.append(block.reshape(len(labels), n_bins))
    return np.concatenate(blocks, axis=1)
