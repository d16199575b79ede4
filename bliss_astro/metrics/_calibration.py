# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From truths and answers to a calibration report.
"""

import dataclasses

import numpy as np

from . import _findings as tests
from . import _verdict as words
from ._counts import count_calibration
from ._coverage import rank_coverage
from ._inputs import check_fraction
from ._ranks import rank_uniformity
from ._reliability import reliability
from ._report import CalibrationReport
from ._sharpness import sharpness

__all__ = ['calibration_report']

_LEVELS = (0.5, 0.68, 0.9, 0.95)


def calibration_report(
    ranks=None,
    *,
    groups=None,
    group_names=None,
    images=None,
    intervals=None,
    true_counts=None,
    expected_counts=None,
    count_ranks=None,
    count_variance=None,
    count_bins=None,
    probability=None,
    is_real=None,
    log_prob=None,
    width=None,
    bound=None,
    residuals=None,
    levels=_LEVELS,
    false_alarm=0.05,
    tolerance=0.02,
):
    """
    Judge a posterior by the truth: ranks, counts, probabilities and sharpness.

    Every part is optional. Where it says "by quantity", give a dict such as
    ``{'flux': ..., 'x': ...}``, or one array for a single quantity.

    Parameters
    ----------
    ranks : 1D array_like or dict, optional
        By quantity, the posterior's distribution function at the truth
        (`posterior_ranks`; for Gaussian errors that of the truth's pull).

    groups : 1D array_like or dict, optional
        By quantity or one for all, a label per row. Group by DATA: the posterior
        median (`quantile_groups`), the estimated magnitude.

    group_names : sequence or dict, optional
        Names of the groups for the words, in the order of the sorted labels, or by
        label, such as ``['faintest third', 'middle third', 'brightest third']``.

    images : 1D array_like or dict, optional
        By quantity or one for all, the image of each row of ``ranks``; the tests then
        allow for faults that the sources of an image share.

    intervals : `Coverage` or dict, optional
        By quantity, from `interval_coverage`, where ranks are not known.

    true_counts, expected_counts, count_ranks, count_variance, count_bins : optional
        See `count_calibration`.

    probability, is_real : 1D array_like, optional
        See `reliability`.

    log_prob, width, bound, residuals : 1D array_like or dict, optional
        By quantity, see `sharpness`. Their groups are those of the same quantity.

    levels : array_like, optional
        The nominal levels of the intervals.

    false_alarm : float, optional
        The probability that a posterior without fault gets any alarm in the whole
        report.

    tolerance : float, optional
        The offset that matters, e.g. 0.02 for two points of coverage.

    Returns
    -------
    report : `CalibrationReport`
        Print it to read the verdict.

    Examples
    --------
    Errors of bright sources that are stated 20 % too large:

    >>> import numpy as np
    >>> from scipy import stats
    >>> from bliss_astro.metrics import calibration_report, quantile_groups
    >>> rng = np.random.default_rng(1)
    >>> flux = rng.uniform(100, 1000, 6000)           # the posterior medians
    >>> stated = np.where(flux > 700, 1.2, 1.0)       # the true errors are 1
    >>> ranks = stats.norm.cdf(rng.normal(size=6000) / stated)
    >>> report = calibration_report(
    ...     {'flux': ranks}, groups=quantile_groups(flux),
    ...     group_names=['faintest third', 'middle third', 'brightest third'])
    >>> print(report.verdict[0])
    flux: errors of the brightest third are 23 % too wide (11 sigma); intervals cover
    too often, by up to 10 points
    >>> report.status
    {'flux': 'fails'}
    """
    false_alarm = check_fraction(false_alarm, 'false_alarm')
    tolerance = check_fraction(tolerance, 'tolerance')
    parts = _judge_ranks(ranks, groups, group_names, images, levels)
    parts['intervals'] = {
        name: _rename(coverage, group_names)
        for name, coverage in _by_quantity(intervals, 'intervals', 'intervals').items()
    }
    parts['counts'] = _judge_counts(
        true_counts, expected_counts, count_ranks, count_variance, count_bins
    )
    parts['reliability'] = _judge_detection(probability, is_real)
    parts['sharpness'] = _judge_sharpness(
        {'log_prob': log_prob, 'width': width, 'bound': bound, 'residuals': residuals},
        groups,
        group_names,
    )
    findings = tests.adjust(_collect(parts), false_alarm)
    if not findings and not parts['sharpness']:
        msg = (
            'calibration_report has nothing to judge: give ranks, intervals, counts, '
            'probabilities or log scores, with at least 10 rows'
        )
        raise ValueError(msg)
    status, verdict = _describe(parts, findings, false_alarm, tolerance)
    return CalibrationReport(
        **parts,
        findings=findings,
        status=status,
        verdict=verdict,
        false_alarm=false_alarm,
        tolerance=tolerance,
    )


# -- input -----------------------------------------------------------------------


def _by_quantity(values, name, default):
    """
    Return a dict by quantity.
    """
    if values is None:
        return {}
    if isinstance(values, dict):
        return {str(key): value for key, value in values.items()}
    return {default: values}


def _of_quantity(values, name):
    """
    Return what belongs to one quantity; one array serves all.
    """
    return values.get(name) if isinstance(values, dict) else values


def _rename(result, names):
    """
    Give groups their names.
    """
    if names is None or list(result.labels) == ['all']:
        return result
    if isinstance(names, dict):
        labels = [str(names.get(label, label)) for label in result.labels.tolist()]
    else:
        labels = [str(name) for name in names]
        if len(labels) != len(result.labels):
            msg = (
                f'group_names must name {len(result.labels)} groups '
                f'({result.labels.tolist()}), got {labels}'
            )
            raise ValueError(msg)
    return dataclasses.replace(result, labels=np.array(labels))


def _judge_ranks(ranks, groups, group_names, images, levels):
    parts = {'ranks': {}, 'pooled': {}, 'coverage': {}, 'pooled_coverage': {}}
    for name, values in _by_quantity(ranks, 'ranks', 'ranks').items():
        own = _of_quantity(groups, name)
        options = {'images': _of_quantity(images, name)}
        by_group = rank_uniformity(values, groups=own, **options)
        coverage = rank_coverage(values, levels, groups=own)
        parts['ranks'][name] = _rename(by_group, group_names)
        parts['coverage'][name] = _rename(coverage, group_names)
        if own is not None:
            by_group = rank_uniformity(values, **options)
            coverage = rank_coverage(values, levels)
        parts['pooled'][name] = by_group
        parts['pooled_coverage'][name] = coverage
    return parts


def _judge_counts(true, expected, ranks, variance, bins):
    if true is None and expected is None:
        if any(value is not None for value in (ranks, variance, bins)):
            msg = 'true_counts and expected_counts must be given with the other counts'
            raise ValueError(msg)
        return None
    if true is None or expected is None:
        msg = 'true_counts and expected_counts must be given together'
        raise ValueError(msg)
    return count_calibration(true, expected, ranks=ranks, variance=variance, bins=bins)


def _judge_detection(probability, is_real):
    if probability is None and is_real is None:
        return None
    if probability is None or is_real is None:
        msg = 'probability and is_real must be given together'
        raise ValueError(msg)
    return reliability(probability, is_real)


def _judge_sharpness(values, groups, group_names):
    given = {
        kind: _by_quantity(own, kind, 'sharpness')
        for kind, own in values.items()
        if own is not None
    }
    names = list(dict.fromkeys(name for own in given.values() for name in own))
    parts = {}
    for name in names:
        own = {
            kind: by_name[name] for kind, by_name in given.items() if name in by_name
        }
        result = sharpness(**own, groups=_of_quantity(groups, name))
        parts[name] = _rename(result, group_names)
    return parts


# -- judgement -------------------------------------------------------------------


def _collect(parts):
    """
    All tests of all parts.
    """
    findings = []
    for name, uniformity in parts['ranks'].items():
        pooled = parts['pooled'][name]
        if pooled is not uniformity and len(uniformity.labels) > 1:
            findings += tests.rank_findings(name, pooled)
        findings += tests.rank_findings(name, uniformity)
    for name, coverage in parts['intervals'].items():
        findings += tests.interval_findings(name, coverage)
    if parts['counts'] is not None:
        findings += tests.count_findings('counts', parts['counts'])
    if parts['reliability'] is not None:
        findings += tests.detection_findings('detection', parts['reliability'])
    return findings


def _describe(parts, findings, false_alarm, tolerance):
    """
    Status and words of every part.
    """
    status, verdict = {}, []
    own = {}
    for finding in findings:
        own.setdefault(finding.part, []).append(finding)
    for name in parts['ranks']:
        status[name], text = _describe_ranks(
            name, parts, own.get(name), len(findings), false_alarm, tolerance
        )
        verdict.append(f'{name}: {text}')
    for name, coverage in parts['intervals'].items():
        offset, limit = words.worst_coverage(coverage)
        text = words.interval_words(own.get(name, []))
        n = int(coverage.n.sum())
        key = name if name not in status else f'{name} intervals'
        if text:
            status[key] = 'fails' if abs(offset) > tolerance else 'small'
        else:
            text = [words.limit_words(n, limit)]
            status[key] = 'holds' if limit <= tolerance else 'undecided'
        verdict.append(f'{key}: {"; ".join(text)}')
    for name, describe, state in (
        ('counts', words.count_words, _count_status),
        ('detection', words.detection_words, _detection_status),
    ):
        result = parts['counts' if name == 'counts' else 'reliability']
        if result is not None:
            text = describe(own.get(name, []), result, tolerance)
            status[name] = state(own.get(name, []), result, tolerance)
            verdict.append(f'{name}: {"; ".join(text)}')
    for name, result in parts['sharpness'].items():
        text = words.sharpness_words(result)
        verdict.append(f'{name}, sharpness: {"; ".join(text)}')
    return status, verdict


def _describe_ranks(name, parts, findings, n_tests, false_alarm, tolerance):
    """
    Status and words of the ranks of one quantity.
    """
    if not findings:
        return 'undecided', 'too few sources to judge'
    uniformity, pooled = parts['ranks'][name], parts['pooled'][name]
    offset, limit = words.worst_coverage(parts['coverage'][name], _weight(uniformity))
    text = words.rank_words(findings, uniformity, pooled)
    if text:
        shift = words.share_below_median(findings, uniformity, pooled)
        small = max(abs(offset), shift) <= tolerance
        text.append(words.coverage_words(offset, tolerance, small=small))
        return 'small' if small else 'fails', '; '.join(text)
    whole = words.worst_coverage(parts['pooled_coverage'][name], _weight(pooled))[1]
    fault = tests.detectable_scale(pooled.n_effective[0], n_tests, false_alarm)
    n = int(pooled.n[0])
    text = words.holds_words(n, whole, limit, tolerance, fault)
    return 'holds' if limit <= tolerance else 'undecided', text


def _weight(uniformity):
    return uniformity.n_effective / np.maximum(uniformity.n, 1)


def _count_status(findings, counts, tolerance):
    alarms = [f for f in findings if f.alarm]
    if not alarms:
        limit = abs(counts.total_relative) + 1.96 * counts.total_relative_err
        return 'holds' if limit <= tolerance else 'undecided'
    offsets = [abs(f.value) for f in words.count_offsets(findings)]
    # A count that is off moves its ranks too; without an offset they fail alone.
    spread = any(f.test in ('spread', 'scale') for f in alarms)
    if spread or not offsets:
        return 'fails'
    return 'fails' if max(offsets) > tolerance else 'small'


def _detection_status(findings, result, tolerance):
    if not any(f.alarm for f in findings):
        return 'holds' if result.error_limit <= tolerance else 'undecided'
    return 'fails' if result.error - result.error_floor > tolerance else 'small'
