# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Scores of detections in blends, by SNR and blendedness.
"""

import numpy as np
from scipy.ndimage import median

from bliss_astro._arguments import check_fraction, require
from bliss_astro.units import MAD_TO_SIGMA

from ._inputs import (
    ANY_UNIT,
    as_edges,
    as_vector,
    bin_index,
    bootstrap_bands,
    column_of,
    make_table,
)
from ._matching import match_catalogs


def score_blends(
    truth,
    detections,
    *,
    snr_edges,
    blendedness_edges,
    match_radius=1.0,
    threshold=0.5,
    n_resamples=300,
    rng=None,
):
    """
    Scores of detections in blends: recall, classes, fluxes and ellipticities.

    Truth and detections are matched one to one within ``match_radius`` in their
    scene (`match_catalogs`), and the pairs are scored in bins of the TRUE SNR and
    blendedness.

    Parameters
    ----------
    truth : table or mapping
        All true sources of the scenes, also faint ones, with the columns of
        `scene_truth` that are needed here: ``scene``, ``x``, ``y``, ``flux``,
        ``is_galaxy``, ``snr``, ``blendedness``, and ``e1`` and ``e2`` (NaN of
        stars).

    detections : table or mapping
        With ``scene``, ``x`` and ``y``, and optionally:

        * ``is_galaxy`` (bool) or ``galaxy_probability``, cut at ``threshold``;
        * ``flux`` in the unit of the truth, ``flux_low`` and ``flux_high`` (the ends
          of its interval of 68 %) or ``flux_err``;
        * ``e1``, ``e2``, with ``e1_low``, ``e1_high``, ``e2_low``, ``e2_high`` or
          ``e1_err``, ``e2_err``; NaN where unknown.

        Scores that need an absent column are NaN.

    snr_edges, blendedness_edges : 1D array_like
        Increasing edges; bins are half-open, the last one closed.

    match_radius : float, optional
        Largest distance of a pair in pixels.

    threshold : float, optional
        Smallest ``galaxy_probability`` of a galaxy.

    n_resamples : int, optional
        Number of bootstrap resamples of whole scenes.

    rng : int, `~numpy.random.Generator` or `None`, optional
        Source of randomness of the bootstrap.

    Returns
    -------
    scores : `ScoreTable`
        A row for each pair of bins: ``snr_low``, ``snr_high``, ``blendedness_low``,
        ``blendedness_high``, ``n_truth``, ``n_matched``, ``n_ellipticity`` and the
        scores, each followed by its error ``<score>_err``, the standard deviation of
        the resamples (NaN in empty bins):

        * ``recall``: share of the true sources that are matched;
        * ``class_accuracy``, ``star_accuracy``, ``galaxy_accuracy``: share of the
          matched sources, stars and galaxies that are classified right;
        * ``flux_median``, ``flux_scatter``: median of (flux - true) / true of the
          matched, and 1.4826 times the median absolute deviation from it;
        * ``flux_coverage``: share of the matched whose interval holds the truth;
        * ``ellipticity_slope``: ``sum(e . e_true) / sum(e_true . e_true)`` of the
          matched true galaxies with an estimate, the slope of the estimate along
          the true direction; 1 of an unbiased one, less of a posterior mean or median;
        * ``ellipticity_trust``: ``sum(e . e_true) / sum(e . e)``, the slope of the
          truth along the estimate; 1 of a calibrated posterior mean, less of an
          unbiased but noisy one;
        * ``ellipticity_scatter``: 1.4826 times the median of the absolute differences
          of the components e1 and e2 from the truth;
        * ``ellipticity_coverage``: share of these components whose interval holds
          the truth.

        In ``meta``: ``precision`` and ``recall`` of all bins together, with errors,
        ``n_detections``, ``n_false``, ``match_radius``.

    Raises
    ------
    ValueError
        If a required column is missing, lengths differ or edges do not increase.

    Notes
    -----
    A detection without a partner is false. It has neither a true SNR nor a true
    blendedness, and enters nothing but ``meta['precision']``. A detection whose
    partner lies outside of all bins is neither right nor false and is not counted.
    Precision is matched / (matched + false). True sources without a partner enter
    the recall alone.

    Grouping by truth suits a detector, but even the exact posterior covers less or
    more than 68 % in narrow bins of the truth.
    """
    threshold = check_fraction('threshold', threshold)
    edges = as_edges(snr_edges), as_edges(blendedness_edges)
    scenes = tuple(
        np.atleast_1d(np.asarray(column_of(table, 'scene', name)))
        for table, name in ((detections, 'detections'), (truth, 'truth'))
    )
    # Empty lists are floats to numpy.
    scenes = tuple(v if v.size else v.astype(int) for v in scenes)
    match = match_catalogs(
        tuple(_floats(detections, axis, 'detections') for axis in 'xy'),
        tuple(_floats(truth, axis, 'truth') for axis in 'xy'),
        radius=match_radius,
        images=scenes,
    )
    values = _values(truth, detections, match, threshold)
    index = [
        bin_index(_floats(truth, name, 'truth'), edge)
        for name, edge in zip(('snr', 'blendedness'), edges, strict=True)
    ]
    bins = index[0] * (len(edges[1]) - 1) + index[1]
    bins = np.where((index[0] < 0) | (index[1] < 0), -1, bins)
    n_bins = (len(edges[0]) - 1) * (len(edges[1]) - 1)
    false = match.unmatched_estimated

    def statistic(rows, false_rows):
        rows = rows[bins[rows] >= 0]
        own = {name: value[rows] for name, value in values.items()}
        found = own['recall'].sum()
        ratios = (found, found + len(false_rows)), (found, len(rows))
        totals = [a / b if b else np.nan for a, b in ratios]
        scores = _scores(own, bins[rows], n_bins)
        return np.concatenate([*scores.values(), totals])

    groups = scenes[1], scenes[0][false]
    bands = bootstrap_bands(statistic, groups, n_resamples=n_resamples, rng=rng)
    columns = _columns(values, bins, n_bins, edges)
    names = list(_scores({name: v[:0] for name, v in values.items()}, bins[:0], n_bins))
    estimate, error = (v[:-2].reshape(-1, n_bins) for v in (bands.estimate, bands.std))
    for name, value, err in zip(names, estimate, error, strict=True):
        columns[name] = value
        columns[f'{name}_err'] = np.where(np.isfinite(value), err, np.nan)
    n_found = int(columns['n_matched'].sum())
    meta = {'n_detections': n_found + len(false), 'n_false': len(false)}
    for k, name in ((-2, 'precision'), (-1, 'recall')):
        meta |= {name: float(bands.estimate[k]), f'{name}_err': float(bands.std[k])}
    return make_table('blend scores', columns, match_radius=match_radius, **meta)


def _columns(values, bins, n_bins, edges):
    """Return limits of the bins and numbers of sources in them."""
    n_snr, n_blend = (len(edge) - 1 for edge in edges)
    columns = {
        'snr_low': np.repeat(edges[0][:-1], n_blend),
        'snr_high': np.repeat(edges[0][1:], n_blend),
        'blendedness_low': np.tile(edges[1][:-1], n_snr),
        'blendedness_high': np.tile(edges[1][1:], n_snr),
    }
    for name, flag in (
        ('n_truth', True),
        ('n_matched', values['recall'] > 0),
        ('n_ellipticity', np.isfinite(values['projected'])),
    ):
        columns[name] = np.bincount(bins[(bins >= 0) & flag], minlength=n_bins)
    return columns


def _floats(table, name, what, unit=ANY_UNIT):
    """Return a column as floats."""
    return as_vector(column_of(table, name, what), f'{name} of {what}', unit=unit)


def _values(truth, detections, match, threshold):
    """Return the values to average, a row for each true source; NaN where unknown."""
    unit = getattr(column_of(truth, 'flux', 'truth'), 'unit', None)

    def true(name):
        return _floats(truth, name, 'truth')

    def found(name):
        """Return a column of the partners."""
        result = np.full(match.n_truth, np.nan)
        if name in detections.keys():  # noqa: SIM118 (a table iterates its rows)
            like = unit if name.startswith('flux') else ANY_UNIT
            values = _floats(detections, name, 'detections', like)
            result[match.truth_index] = values[match.estimated_index]
        return result

    def covered(name):
        """Return 1 where the interval holds the truth, 0 where not."""
        low, high = found(f'{name}_low'), found(f'{name}_high')
        if np.isnan(low).all() or np.isnan(high).all():
            middle, error = found(name), found(f'{name}_err')
            low, high = middle - error, middle + error
        inside = (low <= true(name)) & (true(name) <= high)
        return np.where(np.isnan(low + high + true(name)), np.nan, inside)

    galaxy = true('is_galaxy') > 0
    called = found('is_galaxy')
    if np.isnan(called).all():
        called = found('galaxy_probability') - threshold
    right = np.where(np.isnan(called), np.nan, (called > 0) == galaxy)
    e_true = np.stack([true('e1'), true('e2')], 1)
    e = np.stack([found('e1'), found('e2')], 1)
    e[~galaxy | np.isnan(e + e_true).any(1)] = np.nan
    e_covered = np.stack([covered('e1'), covered('e2')], 1)
    projected = (e * e_true).sum(1)
    return {
        'recall': match.is_matched_truth.astype(float),
        'class_accuracy': right,
        'star_accuracy': np.where(galaxy, np.nan, right),
        'galaxy_accuracy': np.where(galaxy, right, np.nan),
        'flux': (found('flux') - true('flux')) / true('flux'),
        'flux_coverage': covered('flux'),
        'projected': projected,
        'true_power': np.where(np.isnan(projected), np.nan, (e_true**2).sum(1)),
        'power': (e**2).sum(1),
        'difference': np.abs(e - e_true),
        'ellipticity_coverage': np.where(np.isnan(e), np.nan, e_covered),
    }


def _scores(values, bins, n_bins):
    """Return all scores by bin."""

    def mean(name):
        value, own = _finite(values[name], bins)
        number = np.bincount(own, minlength=n_bins)
        total = np.bincount(own, weights=value, minlength=n_bins)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def ratio(over):
        # All galaxies of a bin may be round.
        with np.errstate(invalid='ignore', divide='ignore'):
            value = mean('projected') / mean(over)
        return np.where(np.isfinite(value), value, np.nan)

    names = ('recall', 'class_accuracy', 'star_accuracy', 'galaxy_accuracy')
    middle = _median(values['flux'], bins, n_bins)
    scatter = _median(np.abs(values['flux'] - middle[bins]), bins, n_bins)
    return {name: mean(name) for name in names} | {
        'flux_median': middle,
        'flux_scatter': MAD_TO_SIGMA * scatter,
        'flux_coverage': mean('flux_coverage'),
        'ellipticity_slope': ratio('true_power'),
        'ellipticity_trust': ratio('power'),
        'ellipticity_scatter': MAD_TO_SIGMA
        * _median(values['difference'], bins, n_bins),
        'ellipticity_coverage': mean('ellipticity_coverage'),
    }


def _finite(value, bins):
    """Return the finite values, of which a row may have several, and their bins."""
    good = np.isfinite(value)
    bins = np.broadcast_to(bins if value.ndim == 1 else bins[:, None], value.shape)
    return value[good], bins[good]


def _median(value, bins, n_bins):
    """Return the median of the finite values of each bin."""
    value, bins = _finite(value, bins)
    number = np.bincount(bins, minlength=n_bins)
    if not len(value):
        return np.full(n_bins, np.nan)
    return np.where(number > 0, median(value, bins, np.arange(n_bins)), np.nan)


def measure_ellipticity(images):
    """
    Ellipticities e1, e2 of images ``(S, ny, nx)`` by GalSim's adaptive moments (HSM).

    Distortion ``(1 - q^2) / (1 + q^2)`` times the cosine and sine of twice the angle
    from +x towards +y; NaN where HSM fails (Hirata & Seljak 2003, MNRAS 343, 459).
    """
    import galsim

    images = np.array([np.asarray(image, dtype=float) for image in images])
    require(images.ndim == 3, 'images', 'have the shape (S, ny, nx)', images.shape)
    result = np.full((2, len(images)), np.nan)
    for k, image in enumerate(images):
        if not np.isfinite(image).all() or image.max() <= 0:
            continue
        row, column = np.unravel_index(image.argmax(), image.shape)
        found = galsim.hsm.FindAdaptiveMom(
            galsim.Image(image, xmin=0, ymin=0),
            guess_centroid=galsim.PositionD(column, row),
            strict=False,
        )
        if not found.error_message and found.moments_sigma > 0:
            result[:, k] = found.observed_shape.e1, found.observed_shape.e2
    return result[0], result[1]
