# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Findings of a calibration report: its tests in numbers and in words.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ._ranks import SCALE_ERROR
from ._statistics import make_table

__all__ = []

# Power of the test that defines the smallest detectable fault.
_POWER = 0.9


@dataclass(frozen=True)
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
        from scipy.special import ndtri

        sigmas = float(-ndtri(max(self.p_value, 1e-300) / 2))
        sigmas = 'over 30 sigma' if sigmas > 30 else f'{sigmas:.2g} sigma'
        return f'{self.text} ({sigmas})'


# -- numbers in words ------------------------------------------------------------


def percent(value):
    """Write a fraction in percent."""
    value = 100 * abs(value)
    return f'{value:.0f} %' if value >= 9.5 else f'{value:.2g} %'


def points(value):
    """Write a difference of fractions in points."""
    value = 100 * abs(value)
    number = f'{value:.0f}' if value >= 9.5 else f'{value:.2g}'
    return f'{number} point' if number == '1' else f'{number} points'


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


def _side(value, limit, above, below):
    return above if value > limit else below


def _amount(scale):
    """Write by how much errors are too wide; half of the right ones are 50 %."""
    return f'{scale:.1f} times' if scale > 2 else percent(scale - 1)


# -- tests -----------------------------------------------------------------------


def rank_findings(part, ranks):
    """Tests of the ranks of a quantity."""
    findings = []
    grid = ranks.meta['points']
    for row in ranks:
        group = str(row['group'])
        scale, bias = float(row['scale']), float(row['bias'])
        side = _side(scale, 1, 'wide', 'narrow')
        height = _side(bias, 0, 'high', 'low')
        size = f'{abs(bias):.2g} of their error'
        texts = {
            'scale': f'errors{_of(group)} are {_amount(scale)} too {side}',
            'bias': f'values{_of(group)} are too {height} by {size}',
        }
        if part == 'counts':
            text = 'the posterior of the count is too '
            texts = {'scale': text + side, 'bias': text + height}
        difference = row['ecdf'] - grid
        band = np.maximum((row['ecdf_high'] - row['ecdf_low']) / 2, 1e-12)
        worst = np.argmax(np.abs(difference) / band)
        more = _side(difference[worst], 0, 'more', 'fewer')
        shape = (
            f'the shape{_of(group)} is wrong: {more} truths than stated lie below the '
            f'{100 * grid[worst]:.0f} % point of their posterior, '
            f'{100 * row["ecdf"][worst]:.1f} %'
        )
        for test, text in texts.items():
            error, p_value = row[f'{test}_err'], row[f'{test}_p_value']
            findings.append((group, test, row['n'], row[test], error, p_value, text))
        distance, p_value = np.abs(difference).max(), row['ecdf_p_value']
        findings.append((group, 'shape', row['n'], distance, np.nan, p_value, shape))
    return _make(part, findings)


def interval_findings(part, coverage):
    """Binomial tests of the intervals of a quantity."""
    from scipy.stats import binomtest

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
            f'{_side(offset, 0, "often", "seldom")}, by {points(offset)}'
        )
        findings.append((row['group'], 'coverage', n, offset, error, p_value, text))
    return _make(part, findings)


def count_findings(counts):
    """Tests of counts."""
    meta, n = counts.meta, counts['n'].sum()
    names = ('relative', 'relative_err', 'p_value')
    rows = [('all', n, *(meta[f'total_{name}'] for name in names))]
    rows += [
        (f'{row["low"]:.3g} to {row["high"]:.3g}', row['n'], *row[names])
        for row in counts
        if len(counts) > 1
    ]
    findings = []
    for group, number, value, error, p_value in rows:
        more = _side(value, 0, 'more', 'fewer')
        where = '' if group == 'all' else f' where {group} are expected'
        text = f'{percent(value)} {more} sources than expected{where}'
        findings.append((group, 'offset', number, value, error, p_value, text))
    spread = meta['spread']
    text = f'the posterior of the count is {percent(spread - 1)} too '
    text += _side(spread, 1, 'wide', 'narrow')
    spread = (spread, meta['spread_err'], meta['spread_p_value'], text)
    return _make('counts', [*findings, ('all', 'spread', n, *spread)])


def probability_findings(result):
    """Tests of detection probabilities."""
    meta, n = result.meta, int(result['n'].sum())
    expected = np.nansum(result['n'] * result['probability'])
    excess = (
        f'probabilities are too {_side(meta["excess"], 0, "low", "high")}: they sum to '
        f'{expected:,.0f}, and {result["n_real"].sum():,} candidates are real'
    )
    manner = 'overconfident' if meta['is_overconfident'] else 'underconfident'
    rows = [
        ('excess', meta['excess'], meta['excess_err'], excess),
        ('sharpness', np.nan, np.nan, f'probabilities are {manner}'),
        ('error', meta['error'], np.nan, 'probabilities are not calibrated'),
    ]
    findings = [
        ('all', test, n, value, error, meta[f'{test}_p_value'], text)
        for test, value, error, text in rows
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
    p_values = np.array([finding.p_value for finding in findings])
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    stepped = p_values[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.maximum.accumulate(np.minimum(stepped, 1.0))
    return [
        dataclasses.replace(f, adjusted=float(p), alarm=bool(p < false_alarm))
        for f, p in zip(findings, adjusted, strict=True)
    ]


def as_table(findings, **meta):
    """Return findings as a table of scores."""
    kinds = {'n': int, 'alarm': bool} | dict.fromkeys(
        ('part', 'group', 'test', 'text'), str
    )
    columns = {
        field.name: np.array(
            [getattr(f, field.name) for f in findings], kinds.get(field.name, float)
        )
        for field in dataclasses.fields(Finding)
    }
    return make_table('findings', columns, **meta)


def detectable_scale(n, n_tests, false_alarm):
    """Return the relative fault of the width of errors that is found 9 times in 10."""
    from scipy.special import ndtri

    reach = ndtri(1 - false_alarm / (2 * n_tests)) + ndtri(_POWER)
    return float(np.expm1(reach * SCALE_ERROR / np.sqrt(n)))


def select(findings, test):
    """Return the alarms to state: of all rows, or by group where groups differ."""
    own = [f for f in findings if f.test == test]
    whole = [f for f in own if f.group == 'all']
    parts = [f for f in own if f.group != 'all']
    alarms = [f for f in parts if f.alarm]
    if any(f.alarm for f in whole) and not (alarms and _differ(parts)):
        return whole
    return alarms


def _differ(findings):
    """Test whether measurements of groups contradict one another (chi squared, 1 %)."""
    from scipy.special import chdtrc

    if len(findings) < 2:
        return False
    values = np.array([f.value for f in findings])
    weights = 1 / np.maximum([f.error for f in findings], 1e-12) ** 2
    mean = (values * weights).sum() / weights.sum()
    return chdtrc(len(values) - 1, ((values - mean) ** 2 * weights).sum()) < 0.01


def shape_alarms(findings, stated):
    """Return alarms of the shape in groups whose bias and scale do not explain it."""
    explained = {f.group for f in stated}
    if 'all' in explained:
        return []
    alarms = [f for f in findings if f.test == 'shape' and f.alarm]
    whole = [f for f in alarms if f.group == 'all' and not explained]
    return whole or [f for f in alarms if f.group not in explained | {'all'}]
