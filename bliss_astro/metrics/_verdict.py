# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Verdict of a calibration report: status and words of each part.
"""

import numpy as np

from ._findings import detectable_scale, percent, points, round_up, select, shape_alarms
from ._statistics import wilson_interval

__all__ = []


def describe(report, findings):
    """Return status and verdict of all parts of a report."""
    status, verdict = {}, []
    parts = [(name, _ranks, (report, name, len(findings))) for name in report.ranks]
    parts += [(name, _intervals, (own,)) for name, own in report.intervals.items()]
    if report.counts is not None:
        parts.append(('counts', _counts, (report.counts, report.tolerance)))
    if report.reliability is not None:
        parts.append(('detection', _probabilities, (report.reliability,)))
    for name, words_of, arguments in parts:
        own = [finding for finding in findings if finding.part == name]
        stated, size, limit = words_of(own, *arguments)
        key = f'{name} intervals' if name in status else name
        if any(f.alarm for f in own):
            status[key] = 'fails' if size > report.tolerance else 'small'
        else:
            status[key] = 'holds' if limit <= report.tolerance else 'undecided'
        verdict.append(f'{key}: {"; ".join(stated)}')
    for name, result in report.sharpness.items():
        verdict.append(f'{name}, sharpness: {"; ".join(_sharpness(result))}')
    return status, verdict


# Each of these returns the words of a part, the size of its fault, and the limit of
# the faults that the sample excludes.


def _worst_coverage(coverage, weight=1.0):
    """Return the largest offset from nominal, and the 95 % limit of its size."""
    n = np.rint(coverage['n'] * weight).astype(int)
    filled = n > 0
    if not filled.any():
        return np.nan, np.nan
    n, share = n[filled], np.asarray(coverage['coverage'])[filled]
    level = np.asarray(coverage['level'])[filled]
    ends = wilson_interval(np.rint(share * n), n, level=0.95)
    offset = share - level
    return float(offset[np.abs(offset).argmax()]), float(np.abs(ends - level).max())


def _needed(n, limit, tolerance, write):
    """State the sample that the tolerance takes: limits shrink with the square root."""
    if not limit > tolerance:
        return ''
    needed = float(f'{n * (limit / tolerance) ** 2:.1g}')
    return f'; to {write(tolerance)} it takes some {needed:,.0f}'


def _ranks(findings, report, name, n_tests):
    if not findings:
        return ['too few sources to judge'], np.nan, np.inf
    ranks, pooled = report.ranks[name], report.pooled[name]
    coverage, tolerance = report.coverage[name], report.tolerance
    weight = np.asarray(ranks['n_effective'] / np.maximum(ranks['n'], 1))
    weight = np.repeat(weight, len(coverage) // len(ranks))
    offset, limit = _worst_coverage(coverage, weight)
    stated = select(findings, 'bias') + select(findings, 'scale')
    stated += shape_alarms(findings, stated)
    if not stated:
        n, n_effective = int(pooled['n'][0]), pooled['n_effective'][0]
        whole = _worst_coverage(report.pooled_coverage[name], n_effective / n)[1]
        fault = percent(detectable_scale(n_effective, n_tests, report.false_alarm))
        text = f'holds within {points(round_up(whole))}'
        if limit > whole:
            text += f' ({points(round_up(limit))} in each group)'
        text += f' with {n:,} sources (errors {fault} too wide would show)'
        return [text + _needed(n, limit, tolerance, points)], 0.0, limit
    # A bias moves truths to one side of the median before it changes the coverage.
    biased = {f.group for f in findings if f.test == 'bias' and f.alarm}
    rows = [row for table in (ranks, pooled) for row in table]
    middle = [
        np.interp(0.5, ranks.meta['points'], row['ecdf'])
        for row in rows
        if str(row['group']) in biased
    ]
    size = max([abs(offset), *np.abs(np.array(middle) - 0.5)])
    often = 'often' if offset > 0 else 'seldom'
    text = f'intervals cover too {often}, by up to {points(offset)}'
    if size <= tolerance:
        text += f', which is less than the {points(tolerance)} that matter'
    return [*(f.words for f in stated), text], size, limit


def _intervals(findings, coverage):
    offset, limit = _worst_coverage(coverage)
    stated = [f.words for f in findings if f.test == 'coverage' and f.alarm]
    n = coverage['n'].sum()
    text = f'holds within {points(round_up(limit))} with {n:,} sources'
    return stated or [text], abs(offset), limit


def _counts(findings, counts, tolerance):
    alarms = [f for f in findings if f.alarm]
    offsets = select(findings, 'offset')
    # A count that is off moves its ranks too; without an offset they fail alone.
    stated = [*offsets, *(f for f in alarms if f.test == 'spread')]
    if all(f.test == 'offset' for f in stated):
        stated += [f for f in alarms if f.test == 'scale']
    stated += [f for f in alarms if f.test == 'bias' and not offsets]
    stated = stated or [f for f in alarms if f.test == 'shape']
    meta = counts.meta
    limit = abs(meta['total_relative']) + 1.96 * meta['total_relative_err']
    if stated:
        is_spread = any(f.test in ('spread', 'scale') for f in alarms)
        sizes = [abs(f.value) for f in offsets]
        size = np.inf if is_spread or not sizes else max(sizes)
        return [f.words for f in stated], size, limit
    n = counts['n'].sum()
    text = f'true and expected numbers agree within {percent(round_up(limit))}'
    text += f' over {n:,} regions'
    if np.isfinite(meta['ks_p_value']):
        text += f' (ranks: KS p = {meta["ks_p_value"]:.2g})'
    return [text + _needed(n, limit, tolerance, percent)], 0.0, limit


def _probabilities(findings, result):
    meta, alarms = result.meta, {f.test: f.words for f in findings if f.alarm}
    size, largest = meta['error'] - meta['error_floor'], meta['error_limit']
    if not alarms:
        names = ('error', 'error_floor', 'error_limit')
        error, floor, limit = (points(meta[name]) for name in names)
        text = (
            f'probabilities hold with {result["n"].sum():,} candidates: their '
            f'calibration error is {error}, and perfect ones have {floor} (below '
            f'{limit} 95 times in 100)'
        )
        return [text], size, largest
    stated = [alarms[test] for test in ('excess', 'sharpness') if test in alarms]
    stated = stated or [alarms['error']]
    worst = result[int(np.nanargmin(result['p_value']))]
    stated[-1] += (
        f'; of {worst["n"]:,} candidates with a probability of '
        f'{worst["probability"]:.2f} a fraction of {worst["fraction"]:.2f} is real'
    )
    return stated, size, largest


def _sharpness(result):
    """State numbers of sharpness, which have no verdict."""
    stated = []
    for name, text in (
        ('width', 'errors are {} of the Cramer-Rao bound'),
        ('scatter', 'residuals scatter by {} of the Cramer-Rao bound'),
        ('log_score', 'mean log score {} nats'),
    ):
        numbers = []
        for row in result[~np.isnan(result[name])]:
            value, error = row[name], row[f'{name}_err']
            # Stated errors that are all alike have no scatter worth printing.
            number = f'{value:.3f} +- {error:.3f}' if error >= 5e-4 else f'{value:.3f}'
            numbers.append(number + (f' ({row["group"]})' if len(result) > 1 else ''))
        if numbers:
            stated.append(text.format(', '.join(numbers)))
    return stated
