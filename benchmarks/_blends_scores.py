# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Scores of the blend set, with errors from scenes drawn with replacement.
"""

import itertools

import numpy as np

from bliss_astro.metrics import bootstrap_bands, match_blends, score_blends

__all__ = [
    'BINS',
    'SHAPE_BINS',
    'above',
    'bin_of',
    'bound_ratio',
    'compare_designs',
    'full_table',
    'labels_of',
    'matched',
    'precision_of',
    'recalls',
    'score_bins',
    'threshold_at',
    'total_scores',
]

# Bins of blendedness for detection, and for fluxes and shapes.
BINS = (0.0, 0.2, 0.5, 1.0)
SHAPE_BINS = (0.0, 0.2, 0.5, 0.8)
_SNR_EDGES = (0.0, 7.0, 15.0, 30.0, 100.0, np.inf)
_MAD_TO_SIGMA = 1.482602218505602
_FEWEST = 10


def labels_of(edges):
    """Words for bins of blendedness."""
    last = len(edges) - 2
    return [
        f'< {high:g}'
        if k == 0
        else (f'> {low:g}' if high == 1 and k == last else f'{low:g} to {high:g}')
        for k, (low, high) in enumerate(itertools.pairwise(edges))
    ]


def above(found, threshold):
    """Detections of at least some probability; all of those without one."""
    if 'probability' not in found:
        return found
    use = found['probability'] >= threshold
    return {k: v[use] for k, v in found.items()}


def bin_of(truth, edges, snr):
    """Bin of blendedness of each true source, -1 of those below the SNR."""
    index = np.searchsorted(edges, truth['blendedness'], side='right') - 1
    index = np.where(truth['blendedness'] == edges[-1], len(edges) - 2, index)
    outside = (index >= len(edges) - 1) | ~(truth['snr'] > snr)
    return np.where(outside, -1, index)


def matched(truth, found):
    """For each true source the row of its detection, or -1."""
    match = match_blends(truth, found)
    partner = np.full(len(truth['x']), -1)
    partner[match.truth_index] = match.estimated_index
    return partner


def precision_of(truth, found):
    """Share of detections that are matched with any true source."""
    n = len(found['x'])
    return (matched(truth, found) >= 0).sum() / n if n else np.nan


def threshold_at(truth, found, precision, *, n_steps=12):
    """
    Threshold of probability at which a precision is reached.

    Parameters
    ----------
    truth, found : dict of array
        All sources and detections.

    precision : float
        To reach.

    n_steps : int, optional
        Of bisection.

    Returns
    -------
    threshold : float
        The lowest probability of ``found`` if already that gives the precision,
        NaN if none does.
    """
    if not len(found['x']):
        return np.nan
    low, high = float(found['probability'].min()), 0.999
    if precision_of(truth, above(found, low)) >= precision:
        return low
    if not precision_of(truth, above(found, high)) >= precision:
        return np.nan
    for _ in range(n_steps):
        middle = 0.5 * (low + high)
        if precision_of(truth, above(found, middle)) >= precision:
            high = middle
        else:
            low = middle
    return high


def _means(values, bins, n_bins):
    good = np.isfinite(values) & (bins >= 0)
    count = np.bincount(bins[good], minlength=n_bins)
    total = np.bincount(bins[good], values[good], minlength=n_bins)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def recalls(truth, hits, *, snr=7.0, edges=BINS, n_resamples=300):
    """
    Recall by blendedness of several catalogues, and differences from the first.

    Parameters
    ----------
    truth : dict of array
        All true sources.

    hits : list of array of bool
        Which are matched, by catalogue.

    snr : float, optional
        Only brighter ones.

    edges : tuple of float, optional
        Of blendedness.

    n_resamples : int, optional
        Of scenes.

    Returns
    -------
    bands : `~bliss_astro.metrics.BootstrapBands`
        ``estimate`` and ``std`` ``(2, catalogues, bins)``: recalls, and those of the
        first minus each.

    n : array of int ``(bins,)``
        True sources.
    """
    bins, n_bins = bin_of(truth, edges, snr), len(edges) - 1
    hits = np.asarray(hits, dtype=float)

    def statistic(rows):
        own = np.stack([_means(hit[rows], bins[rows], n_bins) for hit in hits])
        return np.stack([own, own[:1] - own])

    bands = bootstrap_bands(statistic, truth['scene'], n_resamples=n_resamples, rng=1)
    return bands, np.bincount(bins[bins >= 0], minlength=n_bins)


def score_bins(truth, found, *, snr, edges, n_resamples=300):
    """
    `~bliss_astro.metrics.score_blends` above one SNR.

    Returns
    -------
    rows : list of `~astropy.table.Row`
        By bin of blendedness.

    meta : dict
        Of the table; its precision leaves out what is matched with fainter
        sources.
    """
    table = score_blends(
        truth,
        found,
        snr_edges=(snr, np.inf),
        blendedness_edges=edges,
        n_resamples=n_resamples,
        rng=1,
    )
    return list(table), table.meta


def full_table(truth, found, *, n_resamples=100):
    """All scores by SNR and blendedness, as a dict of lists for the report."""
    table = score_blends(
        truth,
        found,
        snr_edges=_SNR_EDGES,
        blendedness_edges=(*SHAPE_BINS, 1.0),
        n_resamples=n_resamples,
        rng=1,
    )
    return {name: np.asarray(table[name]).tolist() for name in table.colnames}


def bound_ratio(bounds, *, edges=SHAPE_BINS, n_resamples=300):
    """
    Scatter of ellipticities over their Cramer-Rao bound, by blendedness.

    Parameters
    ----------
    bounds : dict of array
        ``scene``, ``blendedness`` and ``pull`` ``(n, 2)``: differences from the truth
        over the bound.

    edges : tuple of float, optional
        Of blendedness.

    n_resamples : int, optional
        Of scenes.

    Returns
    -------
    values : list of (float, float, int)
        Scatter (1.4826 times the median of absolute values), error, number.
    """
    bins = np.digitize(bounds['blendedness'], edges) - 1

    def statistic(rows):
        out = np.full(len(edges) - 1, np.nan)
        for k in range(len(out)):
            own = bounds['pull'][rows[bins[rows] == k]]
            if len(own):
                out[k] = _MAD_TO_SIGMA * np.median(np.abs(own))
        return out

    if not len(bins):
        return []
    bands = bootstrap_bands(statistic, bounds['scene'], n_resamples=n_resamples, rng=1)
    count = [int((bins == k).sum()) for k in range(len(edges) - 1)]
    return list(zip(bands.estimate, bands.std, count, strict=True))


# -- designs ---------------------------------------------------------------------------


def _per_source(truth, found, partner):
    """Scores of each true source that is found; NaN of the others."""
    hit = partner >= 0
    row = np.where(hit, partner, 0)

    def of(name):
        return np.where(hit, found[name][row], np.nan)

    galaxy = truth['is_galaxy']
    off = np.hypot(of('e1') - truth['e1'], of('e2') - truth['e2'])
    right = (of('galaxy_probability') > 0.5) == galaxy
    return {
        'class accuracy': np.where(hit, right, np.nan),
        'median absolute flux error': np.abs(of('flux') / truth['flux'] - 1),
        'mean log score of the flux': of('log_score'),
        'mean log score of the type': of('log_type'),
        'median ellipticity error': off,
    }


def compare_designs(truth, answers, *, snr=7.0, n_resamples=300):
    """
    Scores of encoders on the same sources: those that all of them find.

    Parameters
    ----------
    truth : dict of array
        All true sources.

    answers : dict
        Detections above the threshold by encoder.

    snr : float, optional
        Only brighter ones.

    n_resamples : int, optional
        Of scenes.

    Returns
    -------
    scores : dict
        By score and encoder: value, error, and difference from the first encoder with
        its error; nothing if they have hardly a source in common.
    """
    partners = {k: matched(truth, found) for k, found in answers.items()}
    common = np.all([p >= 0 for p in partners.values()], 0) & (truth['snr'] > snr)
    if common.sum() < _FEWEST:
        return {}
    own = {k: _per_source(truth, answers[k], partners[k]) for k in answers}
    names = list(next(iter(own.values())))
    values = np.array([[own[k][name][common] for name in names] for k in answers])

    def statistic(rows):
        part = values[:, :, rows]
        out = np.full(part.shape[:2], np.nan)
        for j, name in enumerate(names):
            average = np.nanmedian if 'median' in name else np.nanmean
            for k, column in enumerate(part[:, j]):
                if np.isfinite(column).any():
                    out[k, j] = average(column)
        return np.stack([out, out - out[:1]])

    bands = bootstrap_bands(
        statistic, truth['scene'][common], n_resamples=n_resamples, rng=1
    )
    return {
        name: {
            label: {
                'value': bands.estimate[0, k, j],
                'error': bands.std[0, k, j],
                'difference': bands.estimate[1, k, j],
                'difference_error': bands.std[1, k, j],
            }
            for k, label in enumerate(answers)
        }
        for j, name in enumerate(names)
    }


def total_scores(totals, *, n_resamples=300):
    """
    Total flux of scenes: median of estimate over truth, and coverage of 68 %.

    Parameters
    ----------
    totals : dict of array
        ``scene``, ``true``, ``catalog``, and of draws ``low``, ``median``, ``high``.

    n_resamples : int, optional
        Of scenes.

    Returns
    -------
    scores : dict
        (value, error) of ``catalog``, ``posterior``, ``scatter`` and ``coverage``.
    """
    posterior, catalog = (totals[k] / totals['true'] for k in ('median', 'catalog'))
    inside = (totals['low'] <= totals['true']) & (totals['true'] <= totals['high'])

    def statistic(rows):
        middle = np.median(posterior[rows])
        return np.array(
            [
                np.median(catalog[rows]),
                middle,
                _MAD_TO_SIGMA * np.median(np.abs(posterior[rows] - middle)),
                inside[rows].mean(),
            ]
        )

    bands = bootstrap_bands(statistic, totals['scene'], n_resamples=n_resamples, rng=1)
    names = ('catalog', 'posterior', 'scatter', 'coverage')
    pairs = zip(bands.estimate, bands.std, strict=True)
    return dict(zip(names, pairs, strict=True))
