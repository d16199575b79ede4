# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the calibration report with exact, wide, narrow and biased posteriors.
"""

import json

import numpy as np
import pytest
from scipy import special, stats

from bliss_astro.metrics import CalibrationReport, interval_coverage
from bliss_astro.metrics._findings import detectable_scale

THIRDS = ['faintest third', 'middle third', 'brightest third']
SIGMA = np.sqrt(0.5)


def posterior(n, rng, *, scale=1.0, bias=0.0, only=None):
    """
    Ranks and groups for truth ~ N(0, 1) and data = truth + N(0, 1).

    The exact posterior is N(data / 2, 1 / 2); ``scale`` and ``bias`` (in right
    errors) spoil it, of one third of the medians if ``only`` names it.
    """
    truth = rng.normal(size=n)
    median = (truth + rng.normal(size=n)) / 2
    groups = np.digitize(median, np.quantile(median, [1 / 3, 2 / 3]))
    spoilt = np.full(n, True) if only is None else groups == only
    sigma = np.where(spoilt, scale * SIGMA, SIGMA)
    centre = median + np.where(spoilt, bias * SIGMA, 0.0)
    return stats.norm.cdf(truth, centre, sigma), groups


def counts(n, rng, *, factor=1.0):
    rate = rng.gamma(3.0, 1.0, n)
    true, expected = rng.poisson(rate), factor * rate
    below, at = stats.poisson.cdf(true - 1, expected), stats.poisson.cdf(true, expected)
    return {
        'true_counts': true,
        'expected_counts': expected,
        'count_ranks': rng.uniform(below, at),
        'count_variance': expected,
    }


def detections(n, rng, *, sure=1.0):
    logit = rng.normal(0, 2, n)
    real = rng.uniform(size=n) < 1 / (1 + np.exp(-logit))
    return {'probability': 1 / (1 + np.exp(-sure * logit)), 'is_real': real}


class TestVerdict:
    def test_exact(self):
        rng = np.random.default_rng(2)
        ranks, groups = posterior(60_000, rng)
        report = CalibrationReport(
            {'flux': ranks},
            groups=groups,
            group_names=THIRDS,
            **counts(40_000, rng),
            **detections(20_000, rng),
        )
        assert len(report.alarms) == 0
        assert report.status == dict.fromkeys(['flux', 'counts', 'detection'], 'holds')
        assert report.verdict[0].startswith('flux: holds within 0.')
        assert 'with 60,000 sources (errors' in report.verdict[0]
        assert 'it takes some' not in str(report)

    # 12,000 ranks know the scale to 0.811 / sqrt(12,000) = 0.7 % and the bias to 1 %.
    @pytest.mark.parametrize(
        ('spoilt', 'start', 'stop'),
        [
            ({'scale': 1.25}, 'flux: errors are 2', ' too wide'),
            ({'scale': 0.8}, 'flux: errors are 2', ' too narrow'),
            ({'scale': 2.5}, 'flux: errors are 2.5 times', ' too wide'),
            ({'bias': 0.2}, 'flux: values are too high by 0.', ' of their error'),
            ({'bias': -0.2}, 'flux: values are too low by 0.', ' of their error'),
        ],
    )
    def test_says_which(self, spoilt, start, stop):
        ranks, groups = posterior(12_000, np.random.default_rng(3), **spoilt)
        report = CalibrationReport({'flux': ranks}, groups=groups)
        assert report.status == {'flux': 'fails'}
        [line] = report.verdict
        assert line.startswith(start)
        assert stop in line.partition(';')[0]
        assert ('values are' in line) == ('bias' in spoilt)
        assert ('errors are' in line) == ('scale' in spoilt)
        # A fault that all groups share is told once.
        assert 'third' not in line
        assert 'group' not in line

    def test_both_faults(self):
        ranks, _ = posterior(12_000, np.random.default_rng(4), scale=0.7, bias=0.3)
        [line] = CalibrationReport({'x': ranks}).verdict
        assert 'values are too high by 0.4' in line  # 0.3 / 0.7 of the stated error
        assert 'errors are 29 % too narrow' in line or 'errors are 30 %' in line
        assert 'that matter' not in line

    def test_one_group(self):
        ranks, groups = posterior(12_000, np.random.default_rng(5), scale=1.3, only=2)
        report = CalibrationReport(
            {'flux': ranks}, groups=groups, group_names=dict(enumerate(THIRDS))
        )
        [line] = report.verdict
        assert line.startswith('flux: errors of the brightest third are ')
        assert 'too wide' in line
        assert 'faintest' not in line
        assert 'middle' not in line
        groups = CalibrationReport(ranks, groups=groups)
        assert groups.verdict[0].startswith('ranks: errors of group 2 are ')

    def test_small_fault(self):
        # 2 % too wide is 1 point of the 68 % interval, and 6 sigma of 60,000 ranks.
        ranks, _ = posterior(60_000, np.random.default_rng(6), scale=1.02)
        report = CalibrationReport({'flux': ranks})
        assert report.status == {'flux': 'small'}
        assert (
            'errors are 2' in report.verdict[0] or 'errors are 1.' in report.verdict[0]
        )
        assert 'less than the 2 points that matter' in report.verdict[0]

    def test_shape(self):
        # The Legendre polynomial of degree 4 leaves mean and variance of the ranks
        # alone. The distribution function is off by 0.02, which is 6 sigma of 20,000.
        rng = np.random.default_rng(7)
        ranks = rng.uniform(size=80_000)
        density = 1 + 0.5 * special.eval_legendre(4, 2 * ranks - 1)
        ranks = ranks[rng.uniform(0, 1.5, len(ranks)) < density][:20_000]
        report = CalibrationReport({'flux': ranks})
        assert set(report.alarms['test']) == {'shape'}
        assert report.verdict[0].startswith(
            'flux: the shape is wrong: more truths than stated lie below the '
        )

    def test_small_sample_is_undecided(self):
        ranks, groups = posterior(300, np.random.default_rng(8))
        report = CalibrationReport({'flux': ranks}, groups=groups)
        assert report.status == {'flux': 'undecided'}
        assert 'with 300 sources (errors' in report.verdict[0]
        assert 'to 2 points it takes some' in report.verdict[0]
        few = CalibrationReport({'flux': ranks, 'x': ranks[:5]})
        assert few.verdict[1] == 'x: too few sources to judge'

    def test_counts(self):
        rng = np.random.default_rng(9)
        report = CalibrationReport(**counts(5000, rng, factor=0.9))
        assert report.status == {'counts': 'fails'}
        # 1 / 0.9 = 11 % more, known to 1 %.
        assert report.verdict[0].startswith('counts: 1')
        assert '% more sources than expected (' in report.verdict[0]

    def test_narrow_counts(self):
        rng = np.random.default_rng(10)
        given = counts(5000, rng)
        given['count_variance'] = 0.5 * given['count_variance']
        del given['count_ranks']
        report = CalibrationReport(**given)
        assert '% too narrow' in report.verdict[0]
        [alarm] = report.alarms
        assert alarm['value'] == pytest.approx(np.sqrt(0.5), abs=4 * alarm['error'])

    @pytest.mark.parametrize(
        ('sure', 'words'), [(1.4, 'are overconfident'), (0.7, 'are underconfident')]
    )
    def test_detection(self, sure, words):
        rng = np.random.default_rng(11)
        report = CalibrationReport(**detections(10_000, rng, sure=sure))
        assert f'probabilities {words}' in report.verdict[0]
        assert report.status == {'detection': 'fails'}

    def test_too_many_detections(self):
        rng = np.random.default_rng(12)
        given = detections(4000, rng)
        given['is_real'] &= rng.uniform(size=4000) < 0.9
        assert 'probabilities are too high' in CalibrationReport(**given).verdict[0]

    def test_intervals(self):
        rng = np.random.default_rng(13)
        truth = rng.normal(size=5000)
        wide = interval_coverage(
            truth, np.full(5000, -1.3), np.full(5000, 1.3), level=0.68
        )
        report = CalibrationReport(intervals={'flux': wide})
        assert report.verdict[0].startswith('flux: intervals hold the truth too often')
        right = interval_coverage(
            truth, *np.full((2, 5000), stats.norm.ppf([[0.16], [0.84]])), level=0.68
        )
        report = CalibrationReport(intervals={'flux': right})
        assert report.verdict[0].startswith('flux: holds within')


class TestRates:
    def test_false_alarms(self):
        # 20 exact posteriors of the nominal rate 5 %: 1 +- 1 reports with an alarm.
        rng = np.random.default_rng(20)
        alarms = 0
        for _ in range(20):
            ranks, groups = posterior(400, rng)
            report = CalibrationReport(
                ranks, groups=groups, **counts(150, rng), **detections(80, rng)
            )
            alarms += len(report.alarms) > 0
        assert alarms <= 4

    @pytest.mark.parametrize('n', [300, 3000])
    def test_power(self, n):
        # A report on n ranks without groups has 3 tests; the fault that it says would
        # show is found by 9 of 10: 27 +- 1.6 of 30.
        fault = detectable_scale(n, 3, 0.05)
        rng = np.random.default_rng(n)
        found = 0
        for _ in range(30):
            truth = rng.normal(size=n)
            report = CalibrationReport(stats.norm.cdf(truth, scale=1 + fault))
            found += any(f['test'] == 'scale' and f['value'] > 1 for f in report.alarms)
        assert 22 <= found <= 29

    def test_images(self):
        # All sources of an image share an error of its sky: n_effective is what
        # 300 images with 10 sources each are worth.
        rng = np.random.default_rng(21)
        images = np.repeat(np.arange(300), 10)
        naive = by_image = 0
        for _ in range(15):
            sky = rng.normal(0, np.sqrt(0.5), 300)[images]
            ranks = stats.norm.cdf(sky + rng.normal(0, np.sqrt(0.5), 3000))
            naive += len(CalibrationReport(ranks).alarms) > 0
            report = CalibrationReport(ranks, images=images)
            by_image += len(report.alarms) > 0
        assert naive > 7
        assert by_image <= 4  # 0.75 +- 0.9
        # Variance of the mean of ranks with the correlation 1/2 within an image:
        # 1 + 9 x (6 / pi) arcsin(1/4) = 5.3 times that of independent ones.
        assert 450 < report.pooled['ranks']['n_effective'][0] < 720


class TestReport:
    @pytest.fixture(scope='class')
    @staticmethod
    def report():
        rng = np.random.default_rng(30)
        ranks, groups = posterior(900, rng)
        n = len(ranks)
        return CalibrationReport(
            {'flux': ranks, 'x': rng.uniform(size=n)},
            groups=groups,
            group_names=THIRDS,
            **counts(400, rng),
            **detections(500, rng),
            log_prob={'flux': rng.normal(size=n)},
            width={'flux': np.full(n, 1.1)},
            bound={'flux': np.ones(n)},
            residuals={'flux': rng.normal(size=n)},
        )

    def test_table(self, report):
        table = report.findings
        # 2 quantities x 4 groups x 3, counts 1 + 1 + 5 + 3, detection 3
        assert len(table) == 24 + 10 + 3
        assert set(table['part']) == {'flux', 'x', 'counts', 'detection'}
        assert (table['adjusted'] >= table['p_value']).all()

    def test_dict(self, report):
        text = json.dumps(report.to_dict(), allow_nan=False)
        back = json.loads(text)
        assert back['verdict'] == report.verdict
        assert back['coverage']['flux']['group'][::4] == THIRDS
        assert back['findings']['part'][0] == 'flux'
        # NaN has no place in JSON.
        k = back['findings']['test'].index('sharpness')
        assert back['findings']['value'][k] is None

    def test_words(self, report):
        assert repr(report).startswith('<CalibrationReport>\n- flux: ')
        assert str(report).count('\n- ') + 1 == len(report.verdict)
        line = next(v for v in report.verdict if v.startswith('flux, sharpness: '))
        assert 'errors are 1.100 (faintest third)' in line

    def test_levels_and_bins_may_be_given(self):
        rng = np.random.default_rng(3)
        report = CalibrationReport(
            rng.uniform(size=200),
            levels=(0.5, 0.8),
            count_bins=[0, 5, 20],
            **counts(50, rng),
        )
        (coverage,) = report.pooled_coverage.values()
        assert list(coverage['level']) == [0.5, 0.8]
        assert len(report.counts) <= 2

    def test_parts_are_optional(self):
        report = CalibrationReport(log_prob=[-1.0, -3.0])
        assert report.verdict == [
            'sharpness, sharpness: mean log score -2.000 +- 1.000 nats'
        ]
        assert len(report.findings) == 0

    def test_errors(self):
        with pytest.raises(ValueError, match='nothing to judge'):
            CalibrationReport()
        with pytest.raises(ValueError, match='true_counts and expected_counts'):
            CalibrationReport(true_counts=[1])
        with pytest.raises(ValueError, match='with the other counts'):
            CalibrationReport(count_ranks=[0.5])
        with pytest.raises(ValueError, match='probability and is_real'):
            CalibrationReport(probability=[0.5])
        with pytest.raises(ValueError, match=r'group_names must name 2 groups'):
            CalibrationReport([0.2, 0.3], groups=[1, 2], group_names=['a'])
        with pytest.raises(ValueError, match='false_alarm must be between'):
            CalibrationReport([0.5], false_alarm=5)
        with pytest.raises(ValueError, match='ranks must be between 0 and 1'):
            CalibrationReport([1.5])
        with pytest.raises(ValueError, match=r'groups must have the shape \(2,\)'):
            CalibrationReport([0.2, 0.3], groups=[1])
