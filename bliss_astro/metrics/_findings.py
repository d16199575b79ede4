# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Findings of a calibration report: tests in numbers, and the verdict in words.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, ndtri
from scipy.stats import binomtest

from ._coverage import worst_coverage
from ._inputs import make_table
from ._ranks import SCALE_ERROR

# Power of the test that defines the smallest detectable fault.
_POWER = 0.9
_COUNT_TESTS = ('spread', 'scale', 'bias', 'shape')
# P-value below which measurements of groups contradict one another.
_CONTRADICTION = 0.01


@dataclass
class Finding:
    """One test of a calibration report; ``text`` states its value as a fault."""

    part: str
    group: str
    test: str
    n: int
    value: float
    error: float
    p_value: float
    text: str
    adjusted: float = np.nan
    alarm: bool = False

    @property
    def words(self):
        """The text with the p-value in standard deviations of a Gaussian."""
        sigmas = float(-ndtri(max(self.p_value, 1e-300) / 2))
        sigmas = 'over 30 sigma' if sigmas > 30 else f'{sigmas:.2g} sigma'
        return f'{self.text} ({sigmas})'


# -- numbers in words ------------------------------------------------------------


def _number(value):
    value = 100 * abs(value)
    return f'{value:.0f}' if value >= 9.5 else f'{value:.2g}'


def percent(value):
    """Write a fraction in percent."""
    return f'{_number(value)} %'


def points(value):
    """Write a difference of fractions in points."""
    return f'{_number(value)} point{"" if _number(value) == "1" else "s"}'


def round_up(value):
    """Round a limit up to two digits, so that it stays a limit."""
    if not np.isfinite(value) or value <= 0:
        return value
    unit = 10 ** np.floor(np.log10(value) - 1)
    return float(np.ceil(value / unit * (1 - 1e-9)) * unit)


def _of(group):
    """Return a group as it stands after "errors"."""
    if group == 'all':
        return ''
    return f' of {"the " if group[:1].isalpha() else "group "}{group}'


# -- tests -----------------------------------------------------------------------


def rank_findings(part, ranks):
    """Tests of the ranks of a quantity."""
    findings, grid = [], ranks.meta['points']
    for row in ranks:
        group, of = str(row['group']), _of(str(row['group']))
        scale, bias = float(row['scale']), float(row['bias'])
        side, height = ('narrow', 'wide')[scale > 1], ('low', 'high')[bias > 0]
        amount = f'{scale:.1f} times' if scale > 2 else percent(scale - 1)
        texts = {
            'scale': f'errors{of} are {amount} too {side}',
            'bias': f'values{of} are too {height} by {abs(bias):.2g} of their error',
        }
        if part == 'counts':
            text = 'the posterior of the count is too '
            texts = {'scale': text + side, 'bias': text + height}
        for test, text in texts.items():
            numbers = row[test], row[f'{test}_err'], row[f'{test}_p_value']
            findings.append((group, test, row['n'], *numbers, text))
        difference = row['ecdf'] - grid
        band = np.maximum((row['ecdf_high'] - row['ecdf_low']) / 2, 1e-12)
        worst = np.argmax(np.abs(difference) / band)
        text = (
            f'the shape{of} is wrong: {("fewer", "more")[int(difference[worst] > 0)]} '
            f'truths than stated lie below the {100 * grid[worst]:.0f} % point of '
            f'their posterior, {100 * row["ecdf"][worst]:.1f} %'
        )
        numbers = np.abs(difference).max(), np.nan, row['ecdf_p_value']
        findings.append((group, 'shape', row['n'], *numbers, text))
    return _make(part, findings)


def interval_findings(part, coverage):
    """Binomial tests of the intervals of a quantity."""
    findings = []
    for row in coverage:
        n, level = int(row['n']), row['level']
        if not n or np.isnan(level):
            continue
        p_value = binomtest(int(row['n_covered']), n, level).pvalue
        error = np.sqrt(level * (1 - level) / n)
        offset = row['coverage'] - level
        text = (
            f'intervals{_of(str(row["group"]))} hold the truth too '
            f'{"often" if offset > 0 else "seldom"}, by {points(offset)}'
        )
        findings.append((row['group'], 'coverage', n, offset, error, p_value, text))
    return _make(part, findings)


def count_findings(counts):
    """Tests of counts."""
    meta, n = counts.meta, counts['n'].sum()
    names = ('relative', 'relative_err', 'p_value')
    rows = [('all', '', n, *(meta[f'total_{name}'] for name in names))]
    for row in counts if len(counts) > 1 else ():
        group = f'{row["low"]:.3g} to {row["high"]:.3g}'
        rows.append((group, f' where {group} are expected', row['n'], *row[names]))
    findings = []
    for group, where, number, value, error, p_value in rows:
        more = 'more' if value > 0 else 'fewer'
        text = f'{percent(value)} {more} sources than expected{where}'
        findings.append((group, 'offset', number, value, error, p_value, text))
    spread = meta['spread']
    side = 'wide' if spread > 1 else 'narrow'
    text = f'the posterior of the count is {percent(spread - 1)} too {side}'
    numbers = spread, meta['spread_err'], meta['spread_p_value']
    return _make('counts', [*findings, ('all', 'spread', n, *numbers, text)])


def probability_findings(result):
    """Tests of detection probabilities."""
    meta, n = result.meta, int(result['n'].sum())
    expected = np.nansum(result['n'] * result['probability'])
    excess = (
        f'probabilities are too {"low" if meta["excess"] > 0 else "high"}: they sum to '
        f'{expected:,.0f}, and {result["n_real"].sum():,} candidates are real'
    )
    manner = 'overconfident' if meta['is_overconfident'] else 'underconfident'
    texts = {
        'excess': excess,
        'sharpness': f'probabilities are {manner}',
        'error': 'probabilities are not calibrated',
    }
    names = ('{}', '{}_err', '{}_p_value')
    findings = [
        ('all', test, n, *(meta.get(name.format(test), np.nan) for name in names), text)
        for test, text in texts.items()
    ]
    return _make('detection', findings)


def _make(part, rows):
    return [
        Finding(part, str(group), test, int(n), *map(float, numbers), text)
        for group, test, n, *numbers, text in rows
        if np.isfinite(numbers[-1])
    ]


# -- judgement -------------------------------------------------------------------


def adjust(findings, false_alarm):
    """
    Set adjusted p-values and alarms, with allowance for the number of tests.

    With the method of Holm (1979), ``false_alarm`` is the probability of any alarm
    from a calibrated posterior.
    """
    adjusted = 0.0
    for k, finding in enumerate(sorted(findings, key=lambda f: f.p_value)):
        adjusted = max(adjusted, min(finding.p_value * (len(findings) - k), 1.0))
        finding.adjusted, finding.alarm = adjusted, adjusted < false_alarm


def as_table(findings):
    """Return findings as a table of scores."""
    columns = {
        field.name: np.array([getattr(f, field.name) for f in findings], field.type)
        for field in dataclasses.fields(Finding)
    }
    return make_table('findings', columns)


def detectable_scale(n, n_tests, false_alarm):
    """Return the relative fault of the width of errors that is found 9 times in 10."""
    reach = ndtri(1 - false_alarm / (2 * n_tests)) + ndtri(_POWER)
    return float(np.expm1(reach * SCALE_ERROR / np.sqrt(n)))


def select(findings, test):
    """Return the alarms to state: of all rows, or by group where groups differ."""
    own = [f for f in findings if f.test == test]
    parts = [f for f in own if f.group != 'all']
    alarms = [f for f in parts if f.alarm]
    whole = [f for f in own if f.group == 'all']
    if not any(f.alarm for f in whole):
        return alarms
    if alarms and len(parts) > 1:
        values, errors = np.array([(f.value, f.error) for f in parts]).T
        weights = 1 / np.maximum(errors, 1e-12) ** 2
        chi2 = ((values - np.average(values, weights=weights)) ** 2 * weights).sum()
        if chdtrc(len(parts) - 1, chi2) < _CONTRADICTION:
            return alarms
    return whole


def shape_alarms(findings, stated):
    """Return alarms of the shape in groups whose bias and scale do not explain it."""
    explained = {f.group for f in stated}
    alarms = [f for f in findings if f.test == 'shape' and f.alarm]
    whole = [f for f in alarms if f.group == 'all' and not explained]
    if whole or 'all' in explained:
        return whole
    return [f for f in alarms if f.group not in explained | {'all'}]


# -- words -----------------------------------------------------------------------

# Functions of findings, report and name of a part return its words, the size of its
# fault, and the limit of the faults that the sample excludes.


def _needed(n, limit, tolerance, write):
    """State the sample that the tolerance takes: limits shrink with the square root."""
    if not limit > tolerance:
        return ''
    needed = float(f'{n * (limit / tolerance) ** 2:.1g}')
    return f'; to {write(tolerance)} it takes some {needed:,.0f}'


def ranks_words(findings, report, name):
    if not findings:
        return ['too few sources to judge'], np.nan, np.inf
    ranks, pooled = report.ranks[name], report.pooled[name]
    coverage, tolerance = report.coverage[name], report.tolerance
    weight = np.asarray(ranks['n_effective'] / np.maximum(ranks['n'], 1))
    weight = np.repeat(weight, len(coverage) // len(ranks))
    offset, limit = worst_coverage(coverage, weight)
    stated = select(findings, 'bias') + select(findings, 'scale')
    stated += shape_alarms(findings, stated)
    if not stated:
        n, n_effective = int(pooled['n'][0]), pooled['n_effective'][0]
        whole = worst_coverage(report.pooled_coverage[name], n_effective / n)[1]
        n_tests = len(report.findings)
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
        abs(np.interp(0.5, ranks.meta['points'], row['ecdf']) - 0.5)
        for row in rows
        if str(row['group']) in biased
    ]
    size = max([abs(offset), *middle])
    often = 'often' if offset > 0 else 'seldom'
    text = f'intervals cover too {often}, by up to {points(offset)}'
    if size <= tolerance:
        text += f', which is less than the {points(tolerance)} that matter'
    return [*(f.words for f in stated), text], size, limit


def intervals_words(findings, report, name):
    coverage = report.intervals[name]
    offset, limit = worst_coverage(coverage)
    stated = [f.words for f in findings if f.test == 'coverage' and f.alarm]
    n = coverage['n'].sum()
    text = f'holds within {points(round_up(limit))} with {n:,} sources'
    return stated or [text], abs(offset), limit


def counts_words(findings, report, _):
    counts, alarms = report.counts, [f for f in findings if f.alarm]
    offsets = select(findings, 'offset')
    # A count that is off moves its ranks too; without an offset they fail alone.
    of = {test: [f for f in alarms if f.test == test] for test in _COUNT_TESTS}
    stated = [*offsets, *(of['spread'] or of['scale'])]
    stated += [] if offsets else of['bias']
    stated = stated or of['shape']
    meta = counts.meta
    limit = abs(meta['total_relative']) + 1.96 * meta['total_relative_err']
    if stated:
        is_spread = of['spread'] or of['scale'] or not offsets
        size = np.inf if is_spread else max(abs(f.value) for f in offsets)
        return [f.words for f in stated], size, limit
    n = counts['n'].sum()
    text = f'true and expected numbers agree within {percent(round_up(limit))}'
    text += f' over {n:,} regions'
    if np.isfinite(meta['ks_p_value']):
        text += f' (ranks: KS p = {meta["ks_p_value"]:.2g})'
    return [text + _needed(n, limit, report.tolerance, percent)], 0.0, limit


def probabilities_words(findings, report, _):
    result = report.reliability
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


def sharpness_words(result):
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
