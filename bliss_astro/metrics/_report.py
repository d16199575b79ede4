# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calibration report: all tests of a posterior against the truth, and their verdict.
"""

import json

from astropy.table import Table

from bliss_astro._arguments import check_fraction, require

from . import _findings as tests
from ._coverage import LEVELS, rank_coverage, reliability, sharpness
from ._ranks import rank_uniformity
from ._residuals import count_calibration


class CalibrationReport:
    """
    Calibration report of a posterior: ranks, counts, probabilities and sharpness.

    Every part is optional. Where it says "by quantity", give a dict such as
    ``{'flux': ..., 'x': ...}``, or one array for a single quantity.

    Parameters
    ----------
    ranks : 1D array_like or dict, optional
        By quantity, the posterior's distribution function at the truth
        (`posterior_ranks`; for Gaussian errors that of the truth's pull).

    groups : 1D array_like or dict, optional
        By quantity or one for all, a label per row. Group by DATA: the posterior
        median, the estimated magnitude.

    group_names : sequence or dict, optional
        Names of the groups for the words, in the order of the sorted labels, or by
        label, such as ``['faintest third', 'middle third', 'brightest third']``.

    images : 1D array_like or dict, optional
        By quantity or one for all, the image of each row of ``ranks``; the tests then
        allow for faults that the sources of an image share.

    intervals : `ScoreTable` or dict, optional
        By quantity, from `interval_coverage`, where ranks are not known.

    true_counts, expected_counts, count_ranks, count_variance, count_bins : optional
        See `count_calibration`.

    probability, is_real : 1D array_like, optional
        See `reliability`.

    log_prob, width, bound, residuals : 1D array_like or dict, optional
        By quantity, see `sharpness`. Their groups are those of the same quantity.

    levels : array_like, optional
        Nominal levels of the intervals of ranks.

    false_alarm : float, optional
        Probability that a posterior without fault gets any alarm in the whole report.

    tolerance : float, optional
        Offset that matters, e.g. 0.02 for two points of coverage.

    Attributes
    ----------
    ranks, pooled : dict of `ScoreTable`
        Uniformity of the ranks of each quantity, by group and over all rows.

    coverage, pooled_coverage : dict of `ScoreTable`
        Coverage of the intervals of each quantity, likewise.

    intervals : dict of `ScoreTable`
        Coverage of intervals that were given as such.

    counts, count_ranks : `ScoreTable` or `None`
        Calibration of the numbers of sources and uniformity of their ranks.

    reliability : `ScoreTable` or `None`
        Reliability of the probabilities of detection.

    sharpness : dict of `ScoreTable`
        Log scores and widths of each quantity.

    findings : `ScoreTable`
        A row per test: the ``part`` (a quantity such as ``'flux'``, ``'counts'``,
        ``'detection'``), the ``group`` (``'all'`` for all rows), the ``test``, the
        number of rows ``n``, ``value`` and ``error`` (NaN where a test has none),
        ``p_value`` of this test alone, ``text`` for a reader, ``adjusted``, the p-value
        that makes allowance for all tests (Holm), and ``alarm``, whether that is below
        ``false_alarm``. Tests are ``'scale'`` (stated over right error), ``'bias'``
        (in stated errors), ``'shape'`` (of the rank histogram), ``'coverage'`` (of
        intervals, minus nominal), ``'offset'`` (relative, of counts), ``'spread'``
        (stated over actual scatter of counts), ``'excess'`` (of real sources,
        relative), ``'sharpness'`` and ``'error'`` (of probabilities).

    status : dict of str
        For each part ``'holds'``; ``'undecided'`` if no fault was found, but the
        sample is too small to exclude one that matters; ``'small'`` for a fault that
        is certain, but smaller than ``tolerance``; ``'fails'`` for a larger one.

    verdict : list of str
        Verdict on each part in tests.

    false_alarm : float
        Probability that a calibrated posterior gets any alarm.

    tolerance : float
        Offset that matters: of a coverage or probability, or relative of a count.

    Raises
    ------
    ValueError
        If there is nothing to test, or an argument lacks its partner.

    Examples
    --------
    Errors of bright sources that are stated 20 % too large:

    >>> import numpy as np
    >>> from scipy import stats
    >>> from bliss_astro.metrics import CalibrationReport
    >>> rng = np.random.default_rng(1)
    >>> flux = rng.uniform(100, 1000, 6000)           # the posterior medians
    >>> stated = np.where(flux > 700, 1.2, 1.0)       # the true errors are 1
    >>> ranks = stats.norm.cdf(rng.normal(size=6000) / stated)
    >>> thirds = np.digitize(flux, np.quantile(flux, [1 / 3, 2 / 3]))
    >>> report = CalibrationReport(
    ...     {'flux': ranks}, groups=thirds,
    ...     group_names=['faintest third', 'middle third', 'brightest third'])
    >>> print(report.verdict[0])
    flux: errors of the brightest third are 23 % too wide (11 sigma); intervals cover
    too often, by up to 10 points
    >>> report.status
    {'flux': 'fails'}
    """

    def __init__(
        self,
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
        levels=LEVELS,
        false_alarm=0.05,
        tolerance=0.02,
    ):
        self.false_alarm = check_fraction('false_alarm', false_alarm)
        self.tolerance = check_fraction('tolerance', tolerance)
        self.ranks, self.pooled, self.coverage, self.pooled_coverage = {}, {}, {}, {}
        for name, values in _by_quantity(ranks, 'ranks').items():
            own = {'groups': _of_quantity(groups, name), 'names': group_names}
            self.pooled[name], self.ranks[name] = _of_all_and_groups(
                rank_uniformity, values, images=_of_quantity(images, name), **own
            )
            self.pooled_coverage[name], self.coverage[name] = _of_all_and_groups(
                rank_coverage, values, levels=levels, **own
            )
        self.intervals = {
            name: _rename(coverage, group_names)
            for name, coverage in _by_quantity(intervals, 'intervals').items()
        }
        self.counts = self.count_ranks = self.reliability = None
        options = {'ranks': count_ranks, 'variance': count_variance}
        options |= {'bins': count_bins}
        counts = {'true_counts': true_counts, 'expected_counts': expected_counts}
        if _given_together(counts, options):
            self.counts = count_calibration(true_counts, expected_counts, **options)
            if count_ranks is not None:
                self.count_ranks = rank_uniformity(count_ranks)
        if _given_together({'probability': probability, 'is_real': is_real}):
            self.reliability = reliability(probability, is_real)
        values = {'log_prob': log_prob, 'width': width}
        values |= {'bound': bound, 'residuals': residuals}
        given = {kind: _by_quantity(own, 'sharpness') for kind, own in values.items()}
        self.sharpness = {}
        for name in dict.fromkeys(name for own in given.values() for name in own):
            own = {kind: v[name] for kind, v in given.items() if name in v}
            result = sharpness(**own, groups=_of_quantity(groups, name))
            self.sharpness[name] = _rename(result, group_names)
        self.status, self.verdict = {}, []
        self._judge()

    def _judge(self):
        """Run all tests, and set findings, status and verdict."""
        parts = []
        for name, ranks in self.ranks.items():
            own = tests.rank_findings(name, self.pooled[name]) if len(ranks) > 1 else []
            own += tests.rank_findings(name, ranks)
            parts.append((name, tests.ranks_words, own))
        for name, coverage in self.intervals.items():
            own = tests.interval_findings(name, coverage)
            parts.append((name, tests.intervals_words, own))
        if self.counts is not None:
            own = tests.count_findings(self.counts)
            if self.count_ranks is not None:
                own += tests.rank_findings('counts', self.count_ranks)
            parts.append(('counts', tests.counts_words, own))
        if self.reliability is not None:
            own = tests.probability_findings(self.reliability)
            parts.append(('detection', tests.probabilities_words, own))
        findings = [finding for *_, own in parts for finding in own]
        if not findings and not self.sharpness:
            msg = (
                'there is nothing to judge: give ranks, intervals, counts, '
                'probabilities or log scores, with at least 10 rows'
            )
            raise ValueError(msg)
        tests.adjust(findings, self.false_alarm)
        self.findings = tests.as_table(findings)
        for name, words_of, own in parts:
            stated, size, limit = words_of(own, self, name)
            key = f'{name} intervals' if name in self.status else name
            if any(f.alarm for f in own):
                self.status[key] = 'fails' if size > self.tolerance else 'small'
            else:
                self.status[key] = 'holds' if limit <= self.tolerance else 'undecided'
            self.verdict.append(f'{key}: {"; ".join(stated)}')
        for name, result in self.sharpness.items():
            self.verdict.append(
                f'{name}, sharpness: {"; ".join(tests.sharpness_words(result))}'
            )

    @property
    def alarms(self):
        """Findings that are alarms (`ScoreTable`)."""
        return self.findings[self.findings['alarm']]

    def to_dict(self):
        """
        Return the report as plain numbers, strings, lists and dicts.

        Returns
        -------
        report : dict
            Ready for ``json.dumps``; NaN and infinity are `None`.
        """
        text = json.dumps(vars(self), default=_plain)
        return json.loads(text, parse_constant=lambda _: None)

    def plot(self, **options):
        """
        Draw the report.

        Parameters
        ----------
        **options
            Those of `~bliss_astro.plotting.plot_calibration`.

        Returns
        -------
        axes : list of `~matplotlib.axes.Axes`
            Panels in the order in which they were drawn.
        """
        from bliss_astro.plotting import plot_calibration

        return plot_calibration(self, **options)

    def __str__(self):
        lines = [f'- {line}' for line in self.verdict]
        if len(self.findings):
            lines.append(
                f'{len(self.alarms)} of {len(self.findings)} tests are alarms; a '
                f'calibrated posterior gets any in {100 * self.false_alarm:.2g} % of '
                'reports.'
            )
        return '\n'.join(lines)

    def __repr__(self):
        return f'<CalibrationReport>\n{self}'


def _plain(value):
    """Convert a table or numbers of a report to what JSON holds."""
    if isinstance(value, Table):
        return value.meta | {name: value[name] for name in value.colnames}
    return value.tolist()


# -- parts -----------------------------------------------------------------------


def _by_quantity(values, default):
    """Return a dict by quantity."""
    if isinstance(values, dict):
        return {str(key): value for key, value in values.items()}
    return {} if values is None else {default: values}


def _of_quantity(values, name):
    """Return the values of one quantity; one array serves all."""
    return values.get(name) if isinstance(values, dict) else values


def _given_together(pair, others=None):
    """Test whether both of a pair are given, or neither of them nor of the others."""
    n_given = sum(value is not None for value in pair.values())
    alone = any(value is not None for value in (others or {}).values())
    if n_given == 1 or (alone and not n_given):
        msg = f'{" and ".join(pair)} must be given together'
        raise ValueError(msg + (' with the other counts' if alone else ''))
    return n_given == 2


def _of_all_and_groups(test, values, *, groups, names, **options):
    """Return a table of scores of all rows, and the one of their groups."""
    whole = test(values, **options)
    if groups is None:
        return whole, whole
    return whole, _rename(test(values, groups=groups, **options), names)


def _rename(result, names):
    """Give groups their names."""
    labels = list(dict.fromkeys(result['group'].tolist()))
    if names is None or labels == ['all']:
        return result
    if not isinstance(names, dict):
        allowed = f'name {len(labels)} groups ({labels})'
        require(len(names) == len(labels), 'group_names', allowed, names)
        names = dict(zip(labels, names, strict=True))
    result = result.copy()
    labels = result['group'].tolist()
    result['group'] = [str(names.get(label, label)) for label in labels]
    return result
