# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The findings of a calibration report in plain words.
"""

import numpy as np

__all__ = []

_TWO_SIDED = 1.96  # limits hold 95 times in 100, each


def _sigmas(finding):
    sigmas = finding.sigmas
    return 'over 30 sigma' if sigmas > 30 else f'{sigmas:.2g} sigma'


def _percent(value):
    value = 100 * abs(value)
    return f'{value:.0f} %' if value >= 9.5 else f'{value:.2g} %'


def _points(value):
    value = 100 * value
    number = f'{value:.0f}' if value >= 9.5 else f'{value:.2g}'
    return f'{number} point' if number == '1' else f'{number} points'


def _up(value):
    """
    Round a limit up to two digits: it must not promise too much.
    """
    if not np.isfinite(value) or value <= 0:
        return value
    unit = 10 ** np.floor(np.log10(value) - 1)
    return float(np.ceil(value / unit * (1 - 1e-9)) * unit)


def _of(group):
    """
    A group as it stands after "errors".
    """
    if group == 'all':
        return ''
    return f' of {"the " if group[:1].isalpha() else "group "}{group}'


def _in(group):
    return _of(group).replace(' of ', ' in ', 1)


def _scale_words(finding):
    value = finding.value
    side = 'wide' if value > 1 else 'narrow'
    # Errors that are half of the right ones are 50 % too narrow.
    amount = abs(value - 1)
    if value > 2:
        return (
            f'errors{_of(finding.group)} are {value:.1f} times too {side} '
            f'({_sigmas(finding)})'
        )
    return (
        f'errors{_of(finding.group)} are {_percent(amount)} too {side} '
        f'({_sigmas(finding)})'
    )


def _bias_words(finding):
    side = 'high' if finding.value > 0 else 'low'
    return (
        f'values{_of(finding.group)} are too {side} by {abs(finding.value):.2g} of '
        f'their error ({_sigmas(finding)})'
    )


def _shape_words(finding, uniformity, k):
    """
    Say where the distribution function leaves its band.
    """
    band = (uniformity.ecdf_high[k] - uniformity.ecdf_low[k]) / 2
    difference = uniformity.ecdf[k] - uniformity.points
    worst = np.argmax(np.abs(difference) / np.maximum(band, 1e-12))
    place = uniformity.points[worst]
    more = 'more' if difference[worst] > 0 else 'fewer'
    return (
        f'the shape{_of(finding.group)} is wrong: {more} truths than stated lie below '
        f'the {100 * place:.0f} % point of their posterior '
        f'({100 * uniformity.ecdf[k][worst]:.1f} %, {_sigmas(finding)})'
    )


def rank_words(findings, uniformity, pooled):
    """
    Words for the alarms of the ranks of one quantity.

    A fault that all groups share is told once, one that differs between groups
    group by group.

    Parameters
    ----------
    findings : list of `Finding`
        Those of the quantity.

    uniformity, pooled : `RankUniformity`
        By group, and of all rows.

    Returns
    -------
    words : list of str
        Empty without an alarm.
    """
    words, explained = [], set()
    for test, describe in (('bias', _bias_words), ('scale', _scale_words)):
        own = [f for f in findings if f.test == test]
        whole = [f for f in own if f.group == 'all']
        parts = [f for f in own if f.group != 'all']
        alarms = [f for f in parts if f.alarm]
        together = any(f.alarm for f in whole)
        if together and (not alarms or not _differ(parts)):
            words += [describe(f) for f in whole]
            explained |= {f.group for f in own}
        elif alarms:
            words += [describe(f) for f in alarms]
            explained |= {'all', *(f.group for f in alarms)}
    for finding in findings:
        if finding.test != 'shape' or not finding.alarm or finding.group in explained:
            continue
        result = pooled if finding.group == 'all' else uniformity
        k = [str(label) for label in result.labels].index(finding.group)
        words.append(_shape_words(finding, result, k))
        if finding.group == 'all':
            break
    return words


def _differ(findings):
    """
    Whether measurements of groups contradict one another (chi squared, 1 %).
    """
    from scipy.special import chdtrc

    values = np.array([f.value for f in findings])
    weights = 1 / np.maximum([f.error for f in findings], 1e-12) ** 2
    if len(values) < 2:
        return False
    mean = (values * weights).sum() / weights.sum()
    return chdtrc(len(values) - 1, ((values - mean) ** 2 * weights).sum()) < 0.01


def worst_coverage(coverage, weight=1.0):
    """
    The largest offset from the nominal level, and the largest that is not excluded.

    Parameters
    ----------
    coverage : `Coverage`
        One group or more; those without rows are left out.

    weight : (n_groups,) array_like, optional
        Independent rows for each row.

    Returns
    -------
    offset, limit : float
        The offset with its sign, and the 95 % limit of its size.
    """
    filled = coverage.n > 0
    levels = coverage.levels
    offset = coverage.coverage[filled] - levels
    n = (coverage.n * np.broadcast_to(weight, coverage.n.shape))[filled]
    n = n[:, np.newaxis]
    # Wilson's centre and width: the limit is honest for few sources too.
    z = _TWO_SIDED
    share = offset + levels
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    limit = np.maximum(np.abs(centre + half - levels), np.abs(centre - half - levels))
    if not offset.size:
        return np.nan, np.nan
    return float(offset.ravel()[np.abs(offset).argmax()]), float(limit.max())


def holds_words(n, limit, group_limit, tolerance, fault):
    """
    Words for ranks without an alarm, with what the sample cannot tell.

    Parameters
    ----------
    n : int
        The number of sources.

    limit, group_limit : float
        The largest offset that is not excluded, over all rows and in any group.

    tolerance : float
        The offset that matters.

    fault : float
        The relative fault of the width that would have been found.

    Returns
    -------
    words : str
        One sentence.
    """
    words = f'holds within {_points(_up(limit))}'
    if group_limit > limit:
        words += f' ({_points(_up(group_limit))} in each group)'
    words += f', as far as {n:,} sources can tell'
    words += f' (errors {_percent(fault)} too wide would show)'
    if group_limit > tolerance:
        # Limits shrink with the square root, down to what chance adds.
        needed = n * (group_limit / tolerance) ** 2
        needed = float(f'{needed:.1g}')
        words += f'; to {_points(tolerance)} it takes some {needed:,.0f}'
    return words


def share_below_median(findings, uniformity, pooled):
    """
    The largest departure from 1/2 of truths below the median, where bias is certain.
    """
    largest = 0.0
    for finding in findings:
        if finding.test == 'bias' and finding.alarm:
            result = pooled if finding.group == 'all' else uniformity
            k = [str(label) for label in result.labels].index(finding.group)
            middle = np.interp(0.5, result.points, result.ecdf[k])
            largest = max(largest, abs(middle - 0.5))
    return float(largest)


def coverage_words(offset, tolerance, *, small):
    """
    What the alarms of a quantity mean for its intervals.
    """
    verb = 'cover too often' if offset > 0 else 'cover too seldom'
    words = f'intervals {verb}, by up to {_points(abs(offset))}'
    if small:
        words += f', which is less than the {_points(tolerance)} that matter'
    return words


def interval_words(findings):
    """
    Words for the alarms of stated intervals.
    """
    words = []
    for finding in findings:
        if not finding.alarm:
            continue
        often = 'often' if finding.value > 0 else 'seldom'
        words.append(
            f'intervals{_of(finding.group)} hold the truth too {often}, by '
            f'{_points(abs(finding.value))} ({_sigmas(finding)})'
        )
    return words


def limit_words(n, limit):
    """
    Words for intervals without an alarm.
    """
    return f'holds within {_points(_up(limit))}, as far as {n:,} sources can tell'


def count_offsets(findings):
    """
    The alarms of true minus expected that are to be told: of all, or bin by bin.
    """
    offsets = [f for f in findings if f.test == 'offset' and f.alarm]
    whole = [f for f in offsets if f.group == 'all']
    bins = [f for f in findings if f.test == 'offset' and f.group != 'all']
    return whole if whole and not _differ(bins) else offsets


def count_words(findings, counts, tolerance):
    """
    Words for the counts.

    Parameters
    ----------
    findings : list of `Finding`
        Those of the counts.

    counts : `CountCalibration`
        The counts.

    tolerance : float
        The relative offset that matters.

    Returns
    -------
    words : list of str
        At least one sentence.
    """
    words = []
    offsets = count_offsets(findings)
    for finding in offsets:
        more = 'more' if finding.value > 0 else 'fewer'
        where = '' if finding.group == 'all' else f' where {finding.group} are expected'
        words.append(
            f'{_percent(finding.value)} {more} sources than expected{where} '
            f'({_sigmas(finding)})'
        )
    for finding in findings:
        if not finding.alarm or finding.test == 'offset':
            continue
        if finding.test in ('scale', 'spread'):
            side = 'wide' if finding.value > 1 else 'narrow'
            text = f'the posterior of the count is too {side} ({_sigmas(finding)})'
            if finding.test == 'spread':
                text = text.replace(' too ', f' {_percent(finding.value - 1)} too ')
            elif any('posterior of the count' in word for word in words):
                continue
            words.append(text)
        elif finding.test == 'bias' and not offsets:
            side = 'high' if finding.value > 0 else 'low'
            words.append(
                f'the posterior of the count is too {side} ({_sigmas(finding)})'
            )
        elif finding.test == 'shape' and not words:
            words.append(_shape_words(finding, counts.ranks, 0))
    if words:
        return words
    limit = abs(counts.total_relative) + _TWO_SIDED * counts.total_relative_err
    n = int(counts.n.sum())
    text = f'true and expected numbers agree within {_percent(_up(limit))}'
    text += f', as far as {n:,} regions can tell'
    if counts.ranks is not None:
        text += f' (randomised PIT: KS p = {counts.ks_p_value:.2g})'
    if limit > tolerance:
        needed = float(f'{n * (limit / tolerance) ** 2:.1g}')
        text += f'; to {_percent(tolerance)} it takes some {needed:,.0f}'
    return [text]


def detection_words(findings, result, tolerance):
    """
    Words for the probabilities of detection.
    """
    alarms = {f.test: f for f in findings if f.alarm}
    n = int(result.n.sum())
    if not alarms:
        text = (
            f'probabilities hold: their calibration error is {_points(result.error)}, '
            f'and perfect ones have {_points(result.error_floor)} (below '
            f'{_points(result.error_limit)} 95 times in 100) with {n:,} candidates'
        )
        return [text]
    words = []
    if finding := alarms.get('excess'):
        side = 'low' if finding.value > 0 else 'high'
        expected = np.nansum(result.n * result.probability)
        words.append(
            f'probabilities are too {side}: they sum to {expected:,.0f}, and '
            f'{result.n_real.sum():,} candidates are real ({_sigmas(finding)})'
        )
    if finding := alarms.get('sureness'):
        manner = 'too sure' if result.too_sure else 'not sure enough'
        words.append(f'probabilities are {manner} ({_sigmas(finding)})')
    if not words:
        words.append(f'probabilities do not hold ({_sigmas(alarms["error"])})')
    k = np.nanargmin(result.p_value)
    words[-1] += (
        f'; of {result.n[k]:,} candidates said to be {result.probability[k]:.2f} '
        f'probable {result.fraction[k]:.2f} are real'
    )
    return words


def _with_error(value, error):
    # Stated errors that are all alike have no scatter worth printing.
    return f'{value:.3f} +- {error:.3f}' if error >= 5e-4 else f'{value:.3f}'


def sharpness_words(result):
    """
    What is stated about sharpness, which has no verdict.
    """
    words = []
    for name, text in (
        ('width', 'errors are {} of the Cramer-Rao bound'),
        ('scatter', 'residuals scatter by {} of the Cramer-Rao bound'),
        ('log_score', 'mean log score {} nats'),
    ):
        values, errors = getattr(result, name), getattr(result, f'{name}_err')
        good = np.flatnonzero(~np.isnan(values))
        if not len(good):
            continue
        numbers = [_with_error(values[k], errors[k]) for k in good]
        if len(values) > 1:
            numbers = [
                f'{number} ({result.labels[k]})'
                for number, k in zip(numbers, good, strict=True)
            ]
        words.append(text.format(', '.join(numbers)))
    return words
