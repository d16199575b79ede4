# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Precision, recall and F1 of detections; accuracy and ROC curve of star/galaxy classes.
"""

import numpy as np
from scipy.stats import rankdata

from bliss_astro._arguments import check_choice, check_fraction, require

from ._inputs import (
    as_booleans,
    as_vector,
    bin_rows,
    bootstrap_bands,
    fraction_columns,
    make_table,
)


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
        Matched catalogues.

    bins : 1D array_like or `None`, optional
        Increasing edges; bins are half-open, the last one closed. `None` is one bin
        of everything. Rows outside (or NaN, such as the magnitude of a negative
        flux) are not counted, unless there is no ``bins``.

    estimated, truth : 1D array_like
        Value (magnitude, SNR, ...) of each row of the estimated and of the true
        catalogue.

    quantity : str, optional
        Name of the value, for tables and plots.

    errors : {'wilson', 'bootstrap'}, optional
        Binomial (Wilson) intervals of precision and recall, propagated to F1 as if
        the two were independent; or a bootstrap over ``images``, which contains their
        correlation and that of the sources of an image.

    level : float, optional
        Confidence level of the bands.

    images : tuple of two 1D array_like or `None`, optional
        For the bootstrap: the image of each estimated and of each true row.

    n_resamples : int, optional
        Number of bootstrap resamples.

    rng : int, `~numpy.random.Generator` or `None`, optional
        Source of randomness of the bootstrap.

    Returns
    -------
    scores : `ScoreTable`
        A row per bin ``low`` to ``high``: ``n_estimated`` and ``n_estimated_matched``
        in bins of the estimated value, ``n_truth`` and ``n_truth_matched`` in bins of
        the true one, and ``precision``, ``recall``, ``f1`` with their bands.

    Raises
    ------
    ValueError
        If lengths differ, edges do not increase or ``images`` are missing.

    Examples
    --------
    >>> from bliss_astro.metrics import detection_scores, match_catalogs
    >>> match = match_catalogs([(1, 1), (5, 5)], [(1, 1.2), (8, 8)])
    >>> scores = detection_scores(
    ...     match, [18, 20, 22], estimated=[19.1, 21.5], truth=[19.0, 21.0]
    ... )
    >>> print(scores['low', 'high', 'precision', 'recall', 'f1'])
    low  high precision recall   f1
    ---- ---- --------- ------ ------
    18.0 20.0    1.0000 1.0000 1.0000
    20.0 22.0    0.0000 0.0000 0.0000
    """
    matched = match.is_matched_estimated, match.is_matched_truth
    tables = []
    named = {'estimated': estimated, 'truth': truth}
    for (name, values), flag in zip(named.items(), matched, strict=True):
        edges, index = bin_rows(values, name, bins, like=('match', flag))
        flags = {f'n_{name}': np.ones_like(flag), f'n_{name}_matched': flag}
        tables.append((index, flags))
    fractions = {
        'precision': ('n_estimated_matched', 'n_estimated'),
        'recall': ('n_truth_matched', 'n_truth'),
    }
    return _score_bins(
        'detection scores',
        tables,
        edges,
        fractions,
        extra=_add_f1,
        errors=errors,
        level=level,
        bootstrap={'images': images, 'n_resamples': n_resamples, 'rng': rng},
        quantity=quantity,
    )


def class_scores(
    is_galaxy,
    galaxy_probability,
    *,
    bins=None,
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
    Accuracy of star/galaxy classes in bins.

    Parameters
    ----------
    is_galaxy : 1D array_like of bool
        True class of each source, usually of the matched ones only
        (`match_catalogs`).

    galaxy_probability : 1D array_like
        Probability that it is a galaxy, in [0, 1]; booleans will do.

    bins : 1D array_like or `None`, optional
        Increasing edges; bins are half-open, the last one closed. `None` is one bin
        of everything.

    values : 1D array_like or `None`, optional
        Binned value, such as the TRUE magnitude. Needed with ``bins``.

    threshold : float, optional
        A source is called a galaxy if its probability is above this.

    quantity : str, optional
        Name of ``values``, for tables and plots.

    errors, level, images, n_resamples, rng : optional
        As in `detection_scores`, with one image for each source.

    Returns
    -------
    scores : `ScoreTable`
        A row per bin ``low`` to ``high``: the confusion matrix ``n_galaxies``,
        ``n_galaxies_right``, ``n_stars``, ``n_stars_right``; ``accuracy``,
        ``galaxy_accuracy`` and ``star_accuracy``, shares of all sources, of the
        galaxies and of the stars that are called so; and ``galaxy_precision``,
        ``star_precision``, shares of the sources called a galaxy (a star) that are one;
        each with its band.

    Raises
    ------
    ValueError
        If a probability is outside [0, 1] or NaN, the truth is not boolean, or
        lengths differ.

    Examples
    --------
    >>> from bliss_astro.metrics import class_scores
    >>> scores = class_scores([True, True, False, False], [0.9, 0.4, 0.2, 0.1])
    >>> print(scores['accuracy', 'galaxy_accuracy', 'star_accuracy'])
    accuracy galaxy_accuracy star_accuracy
    -------- --------------- -------------
      0.7500          0.5000        1.0000
    """
    galaxy, probability = _parse_classes(is_galaxy, galaxy_probability)
    edges, index = bin_rows(values, 'values', bins, like=('is_galaxy', galaxy))
    called = probability > threshold
    right = called == galaxy
    flags = {
        'n': np.ones_like(galaxy),
        'n_right': right,
        'n_galaxies': galaxy,
        'n_galaxies_right': galaxy & right,
        'n_stars': ~galaxy,
        'n_stars_right': ~galaxy & right,
        'n_called_galaxies': called,
        'n_called_stars': ~called,
    }
    fractions = {
        'accuracy': ('n_right', 'n'),
        'galaxy_accuracy': ('n_galaxies_right', 'n_galaxies'),
        'star_accuracy': ('n_stars_right', 'n_stars'),
        'galaxy_precision': ('n_galaxies_right', 'n_called_galaxies'),
        'star_precision': ('n_stars_right', 'n_called_stars'),
    }
    return _score_bins(
        'class scores',
        [(index, flags)],
        edges,
        fractions,
        errors=errors,
        level=level,
        bootstrap={'images': images, 'n_resamples': n_resamples, 'rng': rng},
        quantity=quantity,
        threshold=float(threshold),
    )


def _score_bins(
    kind, tables, edges, fractions, *, extra=None, errors, level, bootstrap, **meta
):
    """
    Count rows in bins, and make the table of fractions of the counts with their bands.

    ``tables`` holds the bin of each row and the flags to count, by name, of one or
    two tables; ``fractions`` the names of the successes and trials of each fraction;
    ``extra`` adds columns that follow from the others.
    """
    level = check_fraction('level', level)
    n_bins = len(edges) - 1

    def count(*chosen):
        # Rows outside of all bins have the index -1.
        return {
            name: np.bincount(index[rows] + 1, flag[rows], n_bins + 1)[1:].astype(int)
            for (index, flags), rows in zip(tables, chosen, strict=True)
            for name, flag in flags.items()
        }

    def estimate(*chosen):
        counts = count(*chosen)
        with np.errstate(invalid='ignore', divide='ignore'):
            values = {name: counts[k] / counts[n] for name, (k, n) in fractions.items()}
        if extra is not None:
            extra(values)
        return np.stack(list(values.values()))

    counts = count(*(np.arange(len(index)) for index, _ in tables))
    columns = {'low': edges[:-1], 'high': edges[1:], **counts}
    check_choice('errors', errors, ('wilson', 'bootstrap'))
    if errors == 'wilson':
        for name, (k, n) in fractions.items():
            columns |= fraction_columns(name, counts[k], counts[n], level)
        if extra is not None:
            extra(columns)
    else:
        images = _parse_images(bootstrap.pop('images'), [index for index, _ in tables])
        bands = bootstrap_bands(estimate, images, level=level, **bootstrap)
        names = [*fractions, 'f1'][: len(bands.estimate)]
        for name, *ends in zip(names, *bands[:3], strict=True):
            columns |= zip((name, f'{name}_low', f'{name}_high'), ends, strict=True)
    return make_table(kind, columns, level=level, errors=errors, **meta)


def _add_f1(columns):
    """Add F1 and, where those of precision and recall are there, its interval."""
    precision, recall = columns['precision'], columns['recall']
    with np.errstate(invalid='ignore', divide='ignore'):
        total = precision + recall
        f1 = np.where(total == 0, 0.0, 2 * precision * recall / total)
        slopes = 2 * recall**2 / total**2, 2 * precision**2 / total**2
    columns['f1'] = f1
    if 'recall_low' not in columns:
        return
    for side, sign in (('low', -1), ('high', 1)):
        width = np.hypot(
            slopes[0] * (columns[f'precision_{side}'] - precision),
            slopes[1] * (columns[f'recall_{side}'] - recall),
        )
        columns[f'f1_{side}'] = np.clip(f1 + sign * width, 0, 1)


def _parse_images(images, tables):
    """Return the image of each row of one table or two."""
    if images is None:
        msg = 'errors="bootstrap" needs images, the image of each row'
        raise ValueError(msg)
    images = tuple(map(np.asarray, images if len(tables) > 1 else (images,)))
    for image, rows in zip(images, tables, strict=True):
        allowed = f'have the shape {rows.shape}'
        require(image.shape == rows.shape, 'images', allowed, image.shape)
    return images


def _parse_classes(is_galaxy, galaxy_probability):
    """Return the true classes as booleans and the probabilities."""
    galaxy = as_booleans(is_galaxy, 'is_galaxy')
    return galaxy, as_vector(
        galaxy_probability,
        'galaxy_probability',
        like=('is_galaxy', galaxy),
        within=(0, 1),
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
    ROC curve of the star/galaxy separation and the area under it.

    Parameters
    ----------
    is_galaxy : 1D array_like of bool
        True class of each source; galaxies are the positives.

    galaxy_probability : 1D array_like
        Probability that it is a galaxy, in [0, 1].

    images : 1D array_like or `None`, optional
        Image of each source, over which the error of the area is bootstrapped;
        `None` leaves the error out.

    n_resamples, level, rng : optional
        As in `bootstrap_bands`.

    Returns
    -------
    curve : `ScoreTable`
        A row for each distinct probability, falling from infinity: ``threshold`` at
        or above which a source is called a galaxy, and the shares of stars and
        galaxies called so, ``false_positive_rate`` and ``true_positive_rate``. In
        ``meta``: ``auc``, the area under the curve, which is the probability that a
        random galaxy has a larger probability than a random star (ties count
        half), ``auc_low``, ``auc_high``, ``auc_err`` and ``auc_samples`` of its
        bootstrap, ``n_galaxies`` and ``n_stars``.

    Raises
    ------
    ValueError
        As `class_scores`.

    Examples
    --------
    >>> from bliss_astro.metrics import roc_curve
    >>> roc_curve([1, 1, 0, 0], [0.9, 0.4, 0.4, 0.1]).meta['auc']
    0.875
    """
    galaxy, probability = _parse_classes(is_galaxy, galaxy_probability)

    def area(rows):
        own = galaxy[rows]
        n = own.sum()
        above = rankdata(probability[rows])[own].sum() - n * (n + 1) / 2
        with np.errstate(invalid='ignore', divide='ignore'):
            return np.float64(above) / (n * (len(own) - n))

    meta = {'auc': float(area(np.arange(len(galaxy)))), 'auc_samples': np.empty(0)}
    meta |= {'level': level} | dict.fromkeys(('auc_low', 'auc_high', 'auc_err'), np.nan)
    if images is not None:
        (images,) = _parse_images(images, [galaxy])
        bands = bootstrap_bands(
            area, images, n_resamples=n_resamples, level=level, rng=rng
        )
        meta |= {'auc_low': float(bands.low), 'auc_high': float(bands.high)}
        meta |= {'auc_err': float(bands.std), 'auc_samples': bands.samples}
    columns = {'threshold': np.append(np.inf, np.unique(probability)[::-1])}
    for name, kind in (('false', ~galaxy), ('true', galaxy)):
        own = np.sort(probability[kind])
        called = len(own) - np.searchsorted(own, columns['threshold'])
        with np.errstate(invalid='ignore'):
            columns[f'{name}_positive_rate'] = called / np.float64(len(own))
    meta |= {'n_galaxies': int(galaxy.sum()), 'n_stars': int((~galaxy).sum())}
    return make_table('roc curve', columns, **meta)
