# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The calibration report: all that the truth says about a posterior, in one object.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from ._counts import CountCalibration
from ._coverage import Coverage
from ._findings import Finding
from ._ranks import RankUniformity
from ._reliability import Reliability
from ._sharpness import Sharpness

__all__ = ['CalibrationReport']


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """
    What the truth says about a posterior.

    Attributes
    ----------
    ranks, pooled : dict of `RankUniformity`
        Of each quantity, by group and over all rows.

    coverage, pooled_coverage : dict of `Coverage`
        Coverage of the intervals of each quantity, likewise.

    intervals : dict of `Coverage`
        The coverage of intervals that were given as such.

    counts : `CountCalibration` or `None`
        The numbers of sources.

    reliability : `Reliability` or `None`
        The probabilities of detection.

    sharpness : dict of `Sharpness`
        Log scores and widths of each quantity.

    findings : tuple of `Finding`
        All tests.

    status : dict of str
        For each part ``'holds'``; ``'undecided'`` if no fault was found, but the
        sample is too small to exclude one that matters; ``'small'`` for a fault that
        is certain, but smaller than ``tolerance``; ``'fails'`` for a larger one.

    verdict : list of str
        The report in plain words, part by part.

    false_alarm : float
        The probability that a calibrated posterior gets any alarm.

    tolerance : float
        The offset that matters: of a coverage or probability, or relative of a count.
    """

    ranks: dict[str, RankUniformity]
    pooled: dict[str, RankUniformity]
    coverage: dict[str, Coverage]
    pooled_coverage: dict[str, Coverage]
    intervals: dict[str, Coverage]
    counts: CountCalibration | None
    reliability: Reliability | None
    sharpness: dict[str, Sharpness]
    findings: tuple[Finding, ...]
    status: dict[str, str]
    verdict: list[str]
    false_alarm: float
    tolerance: float

    @property
    def alarms(self):
        """
        The findings that are alarms (list of `Finding`).
        """
        return [finding for finding in self.findings if finding.alarm]

    def to_table(self):
        """
        Return all tests as a table with a row per test.

        Returns
        -------
        table : `~astropy.table.QTable`
            The attributes of `Finding` as columns.
        """
        names = [field.name for field in dataclasses.fields(Finding)]
        kinds = dict.fromkeys(names, float)
        kinds |= {'part': str, 'group': str, 'test': str, 'n': int, 'alarm': bool}
        table = QTable(
            {
                name: np.array([getattr(f, name) for f in self.findings], kinds[name])
                for name in names
            }
        )
        for name in ('value', 'error'):
            table[name].info.format = '.4f'
        for name in ('p_value', 'adjusted'):
            table[name].info.format = '.3g'
        table.meta['false_alarm'] = self.false_alarm
        table.meta['tolerance'] = self.tolerance
        return table

    def to_dict(self):
        """
        Return the report as plain numbers, strings, lists and dicts.

        Returns
        -------
        report : dict
            Ready for ``json.dumps``; NaN and infinity are `None`.
        """
        return _plain(self)

    def summary(self):
        """
        Return the verdict as one text.

        Returns
        -------
        text : str
            A line per part.
        """
        lines = [f'- {line}' for line in self.verdict]
        n_alarms, n_tests = len(self.alarms), len(self.findings)
        if n_tests:
            lines.append(
                f'{n_alarms} of {n_tests} tests are alarms; a calibrated posterior '
                f'gets any in {100 * self.false_alarm:.2g} % of reports.'
            )
        return '\n'.join(lines)

    def __repr__(self):
        return f'<CalibrationReport>\n{self.summary()}'


def _plain(value):
    """
    Anything of a report as JSON knows it.
    """
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
