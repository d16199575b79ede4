# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Do probabilities of detection hold: the reliability diagram and its tests.
"""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable

from bliss_astro._messages import first_wrong

from ._bootstrap import wilson_interval
from ._inputs import as_edges, as_vector, bin_index, check_fraction

__all__ = ['Reliability', 'reliability']

_N_NULL = 2000  # simulated catalogues that are calibrated
_N_LEVELS = 250  # distinct probabilities in them, about
_LOGIT_MOST = 9.0  # logits beyond are cut, or a single row would decide


@dataclass(frozen=True, eq=False)
class Reliability:
    """
    Reliability diagram of a probability.

    Attributes
    ----------
    bins : (n_bins + 1,) `~numpy.ndarray`
        The edges of the bins of probability.

    n, n_real : (n_bins,) `~numpy.ndarray`
        The number of candidates, and of those that are real.

    probability : (n_bins,) `~numpy.ndarray`
        The mean probability; NaN in empty bins.

    fraction, low, high : (n_bins,) `~numpy.ndarray`
        The fraction that is real, and its Wilson interval.

    p_value : (n_bins,) `~numpy.ndarray`
        Of the number of real ones, given the probabilities.

    error : float
        The expected calibration error: the mean of abs(fraction - probability) over
        the candidates.

    error_floor, error_limit : float
        What that error is for calibrated probabilities, because the sample is
        finite: its mean and its 95th percentile.

    error_p_value : float
        How often calibrated probabilities have at least this error.

    excess, excess_err, excess_p_value : float
        The number of real candidates over the sum of probabilities, minus 1.

    sureness_p_value : float
        Of the test whether probabilities are too far from, or too near to, the mean
        (score test of the slope of a logistic regression).

    too_sure : bool
        Whether they are too far, i.e. near 0 and 1 too often.

    confidence : float
        The confidence level of ``low`` and ``high``.
    """

    bins: np.ndarray
    n: np.ndarray
    n_real: np.ndarray
    probability: np.ndarray
    fraction: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    error: float
    error_floor: float
    error_limit: float
    error_p_value: float
    excess: float
    excess_err: float
    excess_p_value: float
    sureness_p_value: float
    too_sure: bool
    confidence: float

    def to_table(self):
        """
        Return the diagram as a table with a row per bin.

        Returns
        -------
        table : `~astropy.table.QTable`
            The edges are ``bin_low`` and ``bin_high``.
        """
        table = QTable({'bin_low': self.bins[:-1], 'bin_high': self.bins[1:]})
        for name in ('n', 'n_real', 'probability', 'fraction', 'low', 'high'):
            table[name] = getattr(self, name)
        table['p_value'] = self.p_value
        for name in set(table.colnames) - {'n', 'n_real'}:
            table[name].info.format = '.3g' if name == 'p_value' else '.4f'
        table.meta['confidence'] = self.confidence
        for name in ('error', 'error_floor', 'error_limit', 'error_p_value'):
            table.meta[name] = getattr(self, name)
        return table

    def __repr__(self):
        head = (
            f'<Reliability: expected calibration error {self.error:.4f}, '
            f'{self.error_floor:.4f} if calibrated>'
        )
        return '\n'.join([head, *self.to_table().pformat()])


def reliability(probability, is_real, *, bins=None, confidence=0.683):
    """
    Hold probabilities of detection against how many detections are real.

    Give all candidates, not only those above a threshold: what is cut away cannot be
    judged.

    Parameters
    ----------
    probability : 1D array_like
        The probability of each candidate, in [0, 1].

    is_real : 1D array_like of bool
        Whether it is real.

    bins : 1D array_like or `None`, optional
        Edges of the bins of probability; by default ten of equal width.

    confidence : float, optional
        The confidence level of the binomial (Wilson) errors.

    Returns
    -------
    reliability : `Reliability`
        The diagram with its tests.

    Notes
    -----
    The expected calibration error of perfect probabilities is not 0 in a finite
    sample. Its floor is simulated: the probabilities stay, and which candidates are
    real is drawn again from them.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import reliability
    >>> rng = np.random.default_rng(1)
    >>> probability = rng.beta(0.5, 0.5, 5000)
    >>> result = reliability(probability, rng.uniform(size=5000) < probability)
    >>> bool(result.error < result.error_limit)
    True
    """
    probability = as_vector(probability, 'probability')
    sound = (probability >= 0) & (probability <= 1)
    if not sound.all():
        msg = (
            'probability must be between 0 and 1, and not NaN, got '
            f'{first_wrong(probability, sound)}'
        )
        raise ValueError(msg)
    real = as_vector(is_real, 'is_real', n=len(probability), n_name='probability')
    known = np.isin(real, (0, 1))
    if not known.all():
        msg = f'is_real must hold booleans, got {first_wrong(real, known)}'
        raise ValueError(msg)
    confidence = check_fraction(confidence, 'confidence')
    edges = as_edges(np.linspace(0, 1, 11) if bins is None else bins)
    index = bin_index(probability, edges)
    inside = index >= 0
    if not inside.all():
        index, probability, real = index[inside], probability[inside], real[inside]
    n_bins = len(edges) - 1
    n = np.bincount(index, minlength=n_bins)
    n_real = np.bincount(index, real, n_bins).astype(int)
    low, high = wilson_interval(n_real, n, level=confidence)
    with np.errstate(invalid='ignore'):
        mean = np.bincount(index, probability, n_bins) / n
        fraction = n_real / n
    return Reliability(
        bins=edges,
        n=n,
        n_real=n_real,
        probability=mean,
        fraction=fraction,
        low=low,
        high=high,
        p_value=_bin_pvalues(n_real, n, mean),
        confidence=confidence,
        **_tests(probability, real, index, n_bins),
    )


def _bin_pvalues(n_real, n, mean):
    """
    Two-sided binomial test of each bin; NaN in empty ones.
    """
    from scipy.special import bdtr, bdtrc

    p_value = np.full(len(n), np.nan)
    for k in np.flatnonzero(n):
        count, p = float(n_real[k]), min(max(mean[k], 0.0), 1.0)
        below = bdtr(count, n[k], p)
        above = bdtrc(count - 1, n[k], p) if count else 1.0
        p_value[k] = min(1.0, 2 * min(below, above))
    return p_value


def _logit(probability):
    from scipy.special import expit, logit

    edge = expit(-_LOGIT_MOST)
    return logit(np.clip(probability, edge, 1 - edge))


def _tests(probability, real, index, n_bins):
    """
    Tests of the whole sample, against simulations of a calibrated one.
    """
    n = len(probability)
    if not n:
        names = ('error', 'error_floor', 'error_limit', 'error_p_value', 'excess')
        names += ('excess_err', 'excess_p_value', 'sureness_p_value')
        return dict.fromkeys(names, np.nan) | {'too_sure': False}
    variance = probability * (1 - probability)
    total = variance.sum()
    logit = _logit(probability)
    # The slope is that at the best intercept: both are not the same fault.
    centre = (variance * logit).sum() / total if total > 0 else 0.0
    slope = logit - centre
    weights = np.stack([np.ones(n), slope])
    score = weights @ (real - probability)
    spread = np.sqrt((variance * weights**2).sum(axis=1))
    gaps = np.abs(np.bincount(index, real - probability, n_bins)).sum() / n

    null_gaps, null_scores = _simulate(probability, index, n_bins, weights)
    p_values = [
        _pvalue(value, error, null, total)
        for value, error, null in zip(score, spread, null_scores.T, strict=True)
    ]
    expected = probability.sum()
    safe = expected if expected > 0 else np.nan
    return {
        'error': float(gaps),
        'error_floor': float(null_gaps.mean()),
        'error_limit': float(np.quantile(null_gaps, 0.95)),
        'error_p_value': float((1 + (null_gaps >= gaps).sum()) / (1 + len(null_gaps))),
        'excess': float(score[0] / safe),
        'excess_err': float(spread[0] / safe),
        'excess_p_value': p_values[0],
        'sureness_p_value': p_values[1],
        'too_sure': bool(score[1] < 0),
    }


def _simulate(probability, index, n_bins, weights):
    """
    Calibration errors and scores of catalogues drawn from their probabilities.
    """
    rng = np.random.default_rng(len(probability))
    order = np.lexsort([probability, index])
    n = len(order)
    # Neighbours in probability are drawn together, or large samples would take long.
    size = -(-n // _N_LEVELS)
    change = np.flatnonzero(np.diff(index[order])) + 1
    starts = np.unique(np.concatenate([np.arange(0, n, size), change]))
    counts = np.diff(np.append(starts, n))
    mean = np.add.reduceat(probability[order], starts) / counts
    weight = np.add.reduceat(weights[:, order], starts, axis=1) / counts
    own_bin = index[order][starts]
    member = np.zeros((len(starts), n_bins))
    member[np.arange(len(starts)), own_bin] = 1.0
    matrix = np.concatenate([member, weight.T], axis=1)
    sums = np.empty((_N_NULL, n_bins + len(weights)))
    mean = np.clip(mean, 0.0, 1.0)
    for block in np.array_split(np.arange(_N_NULL), 40):
        drawn = rng.binomial(counts, mean, size=(len(block), len(counts)))
        sums[block] = (drawn - counts * mean) @ matrix
    return np.abs(sums[:, :n_bins]).sum(axis=1) / n, sums[:, n_bins:]


def _pvalue(value, error, null, total):
    """
    Two-sided p-value of a sum: simulated, Gaussian where the simulation ends.
    """
    from scipy.special import ndtr

    if error == 0:
        return 1.0 if abs(value) < 1e-9 else 0.0
    beyond = (np.abs(null) >= abs(value) * (1 - 1e-12)).sum()
    simulated = (1 + beyond) / (1 + len(null))
    if beyond >= 10 or total < 25:
        return float(simulated)
    return float(min(simulated, 2 * ndtr(-abs(value) / error)))
