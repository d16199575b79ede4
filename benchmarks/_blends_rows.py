# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Rows of the report on the blend set.
"""

import numpy as np
from _blends_scores import (
    BINS,
    SHAPE_BINS,
    above,
    bound_ratio,
    compare_designs,
    labels_of,
    matched,
    precision_of,
    recalls,
    score_bins,
    threshold_at,
    total_scores,
)

from bliss_astro.metrics import bootstrap_bands, wilson_interval

__all__ = ['add_designs', 'add_ours', 'add_rivals']

_THRESHOLD = 0.5
_RECALLS = (0.97, 0.92, 0.75)
_PRECISION = 0.97
# Fewer sources have no median to speak of.
_FEWEST = 10


def _precision_with_error(truth, found):
    n = len(found['x'])
    if n == 0:
        return np.nan, np.nan
    hit = int((matched(truth, found) >= 0).sum())
    low, high = wilson_interval(hit, n)
    return hit / n, 0.5 * float(high - low)


def _range(low, high):
    return {'target': f'{low:g} to {high:g}', 'low': low, 'high': high}


def _at_least(low):
    return {'target': f'>= {low:g}', 'low': low}


def add_ours(report, label, truth, own, rivals, n_scenes):
    """
    All rows of one encoder.

    Parameters
    ----------
    report : Report
        To add to.

    label : str
        Its name before each row, or nothing.

    truth : dict of array
        All true sources.

    own : dict
        ``found``, ``seconds``, ``totals``, ``bounds``.

    rivals : dict
        The same of the rivals, by name.

    n_scenes : int
        Scenes.
    """
    found = own['found']
    sure = above(found, _THRESHOLD)
    value, error = _precision_with_error(truth, sure)
    report.add(
        f'{label}precision at threshold 0.5',
        value,
        error,
        n=len(sure['x']),
        **_at_least(_PRECISION),
    )
    _add_recalls(report, f'{label}at threshold 0.5: ', truth, sure, _RECALLS)
    _add_recall_at(report, label, truth, found, _PRECISION)
    for name, other in rivals.items():
        _add_against(report, label, truth, found, name, other['found'])
        _add_errors(report, label, truth, sure, name, other['found'])
    _add_classes(report, label, truth, sure)
    _add_fluxes(report, label, truth, sure)
    _add_ellipticities(report, label, truth, sure, own['bounds'])
    _add_totals(report, label, own['totals'])
    report.add(f'{label}time of a core per scene (ms)', 1e3 * own['seconds'] / n_scenes)


def _add_recalls(report, label, truth, found, targets=None):
    hit = matched(truth, found) >= 0
    bands, n = recalls(truth, [hit])
    for k, words in enumerate(labels_of(BINS)):
        target = {} if targets is None else _at_least(targets[k])
        report.add(
            f'{label}recall, SNR > 7, blendedness {words}',
            bands.estimate[0, 0, k],
            bands.std[0, 0, k],
            n=int(n[k]),
            **target,
        )


def _add_recall_at(report, label, truth, found, precision):
    threshold = threshold_at(truth, found, precision)
    report.add(f'{label}threshold for precision {precision:g}', threshold)
    if np.isfinite(threshold):
        words = f'{label}at precision {precision:g}: '
        _add_recalls(report, words, truth, above(found, threshold), _RECALLS)


def _add_against(report, label, truth, found, name, other):
    """Recalls at the rival's precision."""
    precision = precision_of(truth, other)
    threshold = threshold_at(truth, found, precision)
    # Where not even the highest probability is as pure, what is at the top.
    threshold = 0.999 if np.isnan(threshold) else threshold
    own = above(found, threshold)
    report.add(
        f"{label}precision at {name}'s, threshold {threshold:.3f}",
        *_precision_with_error(truth, own),
    )
    hits = [matched(truth, catalog) >= 0 for catalog in (own, other)]
    bands, n = recalls(truth, hits)
    for k, words in enumerate(labels_of(BINS)):
        report.add(
            f"{label}recall minus {name}'s at its precision, blendedness {words}",
            bands.estimate[1, 1, k],
            bands.std[1, 1, k],
            n=int(n[k]),
            target='> 0',
            low=0.0,
        )


def _add_errors(report, label, truth, sure, name, other):
    """Flux errors on the sources that both find, by the rival's better flux."""
    partners = [matched(truth, catalog) for catalog in (sure, other)]
    use = (partners[0] >= 0) & (partners[1] >= 0) & (truth['snr'] > 10)
    true = truth['flux'][use]
    if len(true) < _FEWEST:
        return

    def errors(catalog, partner, kind):
        return np.abs(catalog[kind][partner[use]] / true - 1)

    own = errors(sure, partners[0], 'flux')
    rival = [errors(other, partners[1], kind) for kind in ('flux', 'kron')]
    rival = min(rival, key=np.median)
    bands = bootstrap_bands(
        lambda rows: np.median(own[rows]) / np.median(rival[rows]),
        truth['scene'][use],
        n_resamples=300,
        rng=1,
    )
    report.add(
        f"{label}median absolute flux error over {name}'s, same sources, SNR > 10",
        bands.estimate,
        bands.std,
        n=len(true),
    )


def _add_classes(report, label, truth, sure):
    rows, _ = score_bins(truth, sure, snr=7.0, edges=(0.0, 1.0))
    report.add(
        f'{label}star/galaxy accuracy, SNR > 7',
        rows[0]['class_accuracy'],
        rows[0]['class_accuracy_err'],
        n=int(rows[0]['n_matched']),
        **_at_least(0.93),
    )
    rows, _ = score_bins(truth, sure, snr=7.0, edges=BINS)
    for row, words in zip(rows, labels_of(BINS), strict=True):
        report.add(
            f'{label}star/galaxy accuracy, SNR > 7, blendedness {words}',
            row['class_accuracy'],
            row['class_accuracy_err'],
            n=int(row['n_matched']),
        )


def _add_fluxes(report, label, truth, sure):
    rows, _ = score_bins(truth, sure, snr=10.0, edges=SHAPE_BINS)
    for row, words in zip(rows, labels_of(SHAPE_BINS), strict=True):
        n = int(row['n_matched'])
        report.add(
            f'{label}median flux residual, SNR > 10, blendedness {words}',
            row['flux_median'],
            row['flux_median_err'],
            n=n,
            **_range(-0.02, 0.02),
        )
        report.add(
            f'{label}coverage of 68 % of flux, SNR > 10, blendedness {words}',
            row['flux_coverage'],
            row['flux_coverage_err'],
            n=n,
            **_range(0.66, 0.70),
        )


def _add_ellipticities(report, label, truth, sure, bounds):
    if not np.isfinite(sure['e1']).any():
        return
    rows, _ = score_bins(truth, sure, snr=10.0, edges=SHAPE_BINS)
    ratios = [] if bounds is None else bound_ratio(bounds)
    for k, (row, words) in enumerate(zip(rows, labels_of(SHAPE_BINS), strict=True)):
        words = f'SNR > 10, blendedness {words}'
        n = int(row['n_ellipticity'])
        report.add(
            f'{label}slope of ellipticity, {words}',
            row['ellipticity_slope'],
            row['ellipticity_slope_err'],
            n=n,
            **_range(0.97, 1.03),
        )
        report.add(
            f'{label}slope of the true ellipticity on the estimate, {words}',
            row['ellipticity_trust'],
            row['ellipticity_trust_err'],
            n=n,
        )
        if k < len(ratios):
            value, error, number = ratios[k]
            report.add(
                f'{label}scatter of ellipticity over its bound, {words}',
                value,
                error,
                n=number,
                target='<= 1.3',
                high=1.3,
            )
        report.add(
            f'{label}coverage of 68 % of ellipticity, {words}',
            row['ellipticity_coverage'],
            row['ellipticity_coverage_err'],
            n=n,
            **_range(0.66, 0.70),
        )


def _add_totals(report, label, totals):
    if totals is None:
        return
    scores = total_scores(totals)
    n = len(totals['true'])
    words = {
        'posterior': 'total flux of a scene, posterior of the sum over the truth',
        'catalog': 'total flux of a scene, sum of the catalogue over the truth',
        'scatter': 'scatter of the total flux',
        'coverage': 'coverage of 68 % of the total flux',
    }
    for key, text in words.items():
        report.add(f'{label}{text}', *scores[key], n=n)


def add_designs(report, truth, answers):
    """
    Differences between encoders on the sources that all of them find.

    Returns
    -------
    scores : dict
        From `compare_designs`.
    """
    scores = compare_designs(truth, answers)
    first = next(iter(answers))
    for name, by_label in scores.items():
        for label, own in by_label.items():
            if label != first and np.isfinite(own['difference']):
                report.add(
                    f'{name}, SNR > 7, {label} minus {first}',
                    own['difference'],
                    own['difference_error'],
                )
    return scores


def add_rivals(report, name, truth, own, n_scenes):
    """Rows of SEP or photutils."""
    found = own['found']
    report.add(
        f'{name}: precision', *_precision_with_error(truth, found), n=len(found['x'])
    )
    _add_recalls(report, f'{name}: ', truth, found)
    for kind in ('flux', 'kron'):
        words = {'flux': 'of its pixels', 'kron': 'in the Kron aperture'}[kind]
        catalog = found | {'flux': found[kind]}
        rows, _ = score_bins(truth, catalog, snr=10.0, edges=(0.0, 1.0))
        report.add(
            f'{name}: median flux residual, SNR > 10, flux {words}',
            rows[0]['flux_median'],
            rows[0]['flux_median_err'],
        )
    rows, _ = score_bins(truth, found, snr=10.0, edges=SHAPE_BINS)
    for row, words in zip(rows, labels_of(SHAPE_BINS), strict=True):
        # Moments above the threshold: not what is asked of us, for orientation.
        report.add(
            f'{name}: slope of isophotal ellipticity, SNR > 10, blendedness {words}',
            row['ellipticity_slope'],
            row['ellipticity_slope_err'],
        )
    report.add(
        f'{name}: time of a core per scene (ms)', 1e3 * own['seconds'] / n_scenes
    )
