# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Precision, recall and F1 of a crowded field, with errors from cells.
"""

import numpy as np

from bliss_astro.metrics import match_catalogs

__all__ = ['EDGES', 'FAINTEST', 'bootstrap', 'f1_of', 'score', 'score_bins']

FAINTEST = 21.0
EDGES = (15.0, 18.0, 19.0, 19.5, 20.0, 20.5, 21.0)
_RADIUS = 0.5
_TOLERANCE = 0.5


def _matched(found, truth):
    match = match_catalogs(
        (found['x'], found['y']),
        (truth['x'], truth['y']),
        radius=_RADIUS,
        magnitude_tolerance=_TOLERANCE,
        magnitudes=(found['mag'], truth['mag']),
    )
    return match.is_matched_estimated, match.is_matched_truth


def score(found, truth, cells, *, faintest=FAINTEST):
    """
    Count by cell what was found and what was there.

    A row of either catalogue is right if it has a partner in the other, of any
    magnitude, within 0.5 px and 0.5 mag: so that nothing is lost at the limit. Recall
    counts true sources brighter than it, precision estimated ones.

    Parameters
    ----------
    found, truth : dict of array
        ``x``, ``y`` (pixels of the frame) and ``mag``.

    cells : `~_crowded_truth.Cells`
        Where to score.

    faintest : float, optional
        The magnitude limit.

    Returns
    -------
    counts : int array, shape (4, n_cells)
        Found, found and right, true, true and found.
    """
    at = cells.of(found['x'], found['y'])
    use = (at >= 0) & np.isfinite(found['mag'])
    own = {key: found[key][use] for key in ('x', 'y', 'mag')}
    at = at[use]
    there = cells.of(truth['x'], truth['y'])
    is_right, is_found = _matched(own, truth)
    bright, true = own['mag'] < faintest, (truth['mag'] < faintest) & (there >= 0)
    n = len(cells)
    return np.array(
        [
            np.bincount(at[bright], minlength=n),
            np.bincount(at[bright & is_right], minlength=n),
            np.bincount(there[true], minlength=n),
            np.bincount(there[true & is_found], minlength=n),
        ]
    )


def f1_of(counts):
    """
    Precision, recall and F1 of counts summed over cells.

    Parameters
    ----------
    counts : array, shape (4, ...)
        As from `score`, already summed.

    Returns
    -------
    precision, recall, f1 : array
        F1 is their harmonic mean; 0 where nothing is right.
    """
    n_found, n_right, n_true, n_hit = np.asarray(counts, float)
    with np.errstate(invalid='ignore', divide='ignore'):
        precision, recall = n_right / n_found, n_hit / n_true
        f1 = 2 * precision * recall / (precision + recall)
    return precision, recall, np.where(np.isfinite(f1), f1, 0.0)


def bootstrap(counts, *others, n_draws=1000, seed=20261121):
    """
    Errors of scores, and of ratios of F1, from resampled cells.

    Parameters
    ----------
    counts : int array, shape (4, n_cells)
        From `score`.

    *others : int array
        Of other methods, in the same cells.

    n_draws, seed : int, optional
        Of the resampling; the same cells for all methods.

    Returns
    -------
    errors : (3,) array
        Of precision, recall and F1.

    ratios : list of (float, float)
        F1 over that of each of the others, with its error.
    """
    rng = np.random.default_rng(seed)
    n = counts.shape[1]
    weight = rng.multinomial(n, np.full(n, 1 / n), size=n_draws).T
    drawn = [np.stack(f1_of(c @ weight)) for c in (counts, *others)]
    errors = np.nanstd(drawn[0], axis=1)
    own = f1_of(counts.sum(1))[2]
    ratios = []
    for other, sample in zip(others, drawn[1:], strict=True):
        base = f1_of(other.sum(1))[2]
        with np.errstate(invalid='ignore', divide='ignore'):
            scatter = np.nanstd(
                drawn[0][2] / np.where(sample[2] > 0, sample[2], np.nan)
            )
        ratios.append((float(own / base) if base else np.inf, float(scatter)))
    return errors, ratios


def score_bins(found, truth, cells, *, edges=EDGES):
    """
    Precision by estimated and recall by true magnitude, and their F1.

    Parameters
    ----------
    found, truth, cells
        As for `score`.

    edges : tuple of float, optional
        Edges of the bins.

    Returns
    -------
    rows : list of dict
        With ``low``, ``high``, ``n``, ``precision``, ``recall``, ``f1``, ``f1_err``.
    """
    rows = []
    counts = [score(found, truth, cells, faintest=edge) for edge in edges]
    for k in range(len(edges) - 1):
        own = counts[k + 1] - counts[k]
        precision, recall, f1 = f1_of(own.sum(1))
        rows.append(
            {
                'low': edges[k],
                'high': edges[k + 1],
                'n': int(own[2].sum()),
                'precision': float(precision),
                'recall': float(recall),
                'f1': float(f1),
                'f1_err': float(bootstrap(own)[0][2]),
            }
        )
    return rows
