# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of all parts of a calibration report, with one rate of false alarms.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ._ranks import SCALE_ERROR

__all__ = ['Finding']

# Power of the faults that a sample is said to show.
_POWER = 0.9


@dataclass(frozen=True)
class Finding:
    """
    One test of a calibration report.

    Attributes
    ----------
    part : str
        What was tested: a quantity such as ``'flux'``, ``'counts'``, ``'detection'``.

    group : str
        The group of rows, ``'all'`` for all of them.

    test : str
        ``'scale'`` (stated over right error), ``'bias'`` (in stated errors),
        ``'shape'`` (of the rank histogram), ``'coverage'`` (of intervals, minus
        nominal), ``'offset'`` (relative, of counts), ``'spread'`` (stated over actual
        scatter of counts), ``'excess'`` (of real sources, relative), ``'sureness'``
        or ``'error'`` (of probabilities).

    n : int
        The number of rows.

    value, error : float
        What was measured, and its standard error; NaN where a test has none.

    p_value : float
        Of this test alone.

    adjusted : float
        The p-value that makes allowance for all tests of the report (Holm).

    alarm : bool
        Whether ``adjusted`` is below the rate of false alarms of the report.
    """

    part: str
    group: str
    test: str
    n: int
    value: float
    error: float
    p_value: float
    adjusted: float = np.nan
    alarm: bool = False

    @property
    def sigmas(self):
        """
        The p-value in standard deviations of a Gaussian (float).
        """
        from scipy.special import ndtri

        return float(min(-ndtri(max(self.p_value, 1e-300) / 2), 37.0))


def adjust(findings, false_alarm):
    """
    Make allowance for the number of tests (Holm 1979).

    Parameters
    ----------
    findings : list of `Finding`
        All tests.

    false_alarm : float
        The probability of any alarm from a calibrated posterior.

    Returns
    -------
    findings : tuple of `Finding`
        With ``adjusted`` and ``alarm``.
    """
    p_values = np.array([finding.p_value for finding in findings])
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    m = len(p_values)
    stepped = np.minimum(p_values[order] * (m - np.arange(m)), 1.0)
    adjusted[order] = np.maximum.accumulate(stepped)
    return tuple(
        dataclasses.replace(f, adjusted=float(p), alarm=bool(p < false_alarm))
        for f, p in zip(findings, adjusted, strict=True)
    )


def detectable_scale(n, n_tests, false_alarm):
    """
    The relative fault in the width of errors that is found 9 times in 10.

    Parameters
    ----------
    n : float
        The number of independent ranks.

    n_tests : int
        The number of tests in the report.

    false_alarm : float
        The probability of any alarm from a calibrated posterior.

    Returns
    -------
    fault : float
        0.03 is 3 % too wide.
    """
    from scipy.special import ndtri

    reach = ndtri(1 - false_alarm / (2 * n_tests)) + ndtri(_POWER)
    return float(np.expm1(reach * SCALE_ERROR / np.sqrt(n)))


def rank_findings(part, uniformity):
    """
    Tests of the ranks of one quantity.
    """
    findings = []
    for k, group in enumerate(uniformity.labels):
        n = int(uniformity.n[k])
        rows = [
            (
                name,
                getattr(uniformity, name)[k],
                getattr(uniformity, f'{name}_err')[k],
                getattr(uniformity, f'{name}_p_value')[k],
            )
            for name in ('scale', 'bias')
        ]
        distance = _distance(uniformity, k)
        rows.append(('shape', distance, np.nan, uniformity.ecdf_p_value[k]))
        findings += _make(part, group, n, rows)
    return findings


def _distance(uniformity, k):
    difference = uniformity.ecdf[k] - uniformity.points
    return np.abs(difference).max()


def interval_findings(part, coverage):
    """
    Binomial tests of intervals of one quantity.
    """
    from scipy.stats import binomtest

    findings = []
    for k, group in enumerate(coverage.labels):
        n = int(coverage.n[k])
        for j, level in enumerate(coverage.levels):
            if not n or np.isnan(level):
                continue
            p_value = binomtest(int(coverage.n_covered[k, j]), n, level).pvalue
            error = np.sqrt(level * (1 - level) / n)
            offset = coverage.coverage[k, j] - level
            findings += _make(part, group, n, [('coverage', offset, error, p_value)])
    return findings


def count_findings(part, counts):
    """
    Tests of counts.
    """
    n = int(counts.n.sum())
    total = (counts.total_relative, counts.total_relative_err, counts.total_p_value)
    rows = [('offset', *total)]
    spread = (counts.spread, counts.spread_err, counts.spread_p_value)
    rows.append(('spread', *spread))
    findings = _make(part, 'all', n, rows)
    if len(counts.n) > 1:
        for k in range(len(counts.n)):
            row = (counts.relative[k], counts.relative_err[k], counts.p_value[k])
            group = f'{counts.bins[k]:.3g} to {counts.bins[k + 1]:.3g}'
            findings += _make(part, group, int(counts.n[k]), [('offset', *row)])
    if counts.ranks is not None:
        findings += rank_findings(part, counts.ranks)
    return findings


def detection_findings(part, result):
    """
    Tests of probabilities.
    """
    rows = [
        ('excess', result.excess, result.excess_err, result.excess_p_value),
        ('sureness', np.nan, np.nan, result.sureness_p_value),
        ('error', result.error, np.nan, result.error_p_value),
    ]
    return _make(part, 'all', int(result.n.sum()), rows)


def _make(part, group, n, rows):
    return [
        Finding(part, str(group), test, n, float(value), float(error), float(p_value))
        for test, value, error, p_value in rows
        if np.isfinite(p_value)
    ]
