# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Was a source that was put in found, and with which flux.
"""

import numpy as np

__all__ = [
    'MATCH',
    'bootstrap',
    'choose',
    'compare',
    'match_given',
    'match_injection',
    'recall',
]

# Pixels within which a detection is the source.
MATCH = 1.0
# The truth of the sources that came with the data is rounded to pixels.
_MATCH_GIVEN = 2.0
_N_BOOTSTRAP = 1000


def match_injection(found, before, injection, estimator):
    """
    Flux of the detection that is a source put in.

    Parameters
    ----------
    found, before : dict of array
        What was found with it and without it.

    injection : `~_hsc_injections.Injection`
        The source.

    estimator : str
        Name of the flux.

    Returns
    -------
    index : int or None
        Row of ``found``. `None` if nothing lies within 1 px, or if what does was
        there before with more than half of the source's flux.
    """
    there = _apart(before, injection) < MATCH
    if np.any(before[estimator][there] > 0.5 * injection.flux):
        return None
    apart = _apart(found, injection)
    if len(apart) == 0 or apart.min() >= MATCH:
        return None
    return int(apart.argmin())


def _apart(found, injection):
    """Distances of centroids or, where these are nearer, of peaks."""
    apart = np.hypot(found['x'] - injection.x, found['y'] - injection.y)
    if 'x_peak' not in found:
        return apart
    x, y = found['x_peak'] - injection.x, found['y_peak'] - injection.y
    return np.minimum(apart, np.hypot(x, y))


def match_given(found, source):
    """
    Row of the detection nearest to a source of the data's own truth, or None.
    """
    apart = np.hypot(found['x'] - source['x'], found['y'] - source['y'])
    if len(apart) == 0 or apart.min() >= _MATCH_GIVEN:
        return None
    return int(apart.argmin())


def choose(errors):
    """
    Choose the setting with the smallest typical error.

    Parameters
    ----------
    errors : dict of array
        Relative flux errors by setting, NaN for sources not found.

    Returns
    -------
    name : object
        That with the smallest mean absolute error, which is at most 1, as it is for
        sources that were not found.
    """
    return min(errors, key=lambda name: _mean(errors[name]))


def _mean(error):
    return float(np.mean(np.where(np.isfinite(error), np.minimum(np.abs(error), 1), 1)))


def bootstrap(statistic, values, groups, rng):
    """
    A statistic of sources and its error, blend by blend.

    Parameters
    ----------
    statistic : callable
        Takes as many arrays as there are values, returns a number.

    values : tuple of array ``(n,)``
        Of the sources.

    groups : int array ``(n,)``
        The blend of each: sources in one share its pixels.

    rng : `numpy.random.Generator`
        Source of randomness.

    Returns
    -------
    value, error : float
        The error is the standard deviation over draws of as many blends.
    """
    if len(groups) == 0:
        return np.nan, np.nan
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    draws = []
    for _ in range(_N_BOOTSTRAP):
        chosen = rng.integers(len(members), size=len(members))
        index = np.concatenate([members[k] for k in chosen])
        draws.append(statistic(*(value[index] for value in values)))
    return float(statistic(*values)), float(np.nanstd(draws))


def compare(errors, groups, use, rng):
    """
    Compare methods on the sources that all of them found.

    Parameters
    ----------
    errors : dict of array ``(n,)``
        Relative flux errors by method, ours first; NaN for sources not found.

    groups : int array ``(n,)``
        Blend of each source.

    use : bool array ``(n,)``
        Which sources are meant.

    rng : `numpy.random.Generator`
        Source of randomness.

    Returns
    -------
    scores : dict of dict
        By method: ``n``, and pairs of value and error: ``error`` (median absolute
        error), ``bias`` (median error) and ``ratio`` (ours over it).
    """
    ours = next(iter(errors))
    both = use & np.all([np.isfinite(e) for e in errors.values()], axis=0)
    own = errors[ours][both]
    return {
        name: {
            'n': int(both.sum()),
            'error': bootstrap(_spread, (error[both],), groups[both], rng),
            'bias': bootstrap(np.median, (error[both],), groups[both], rng),
            'ratio': bootstrap(_ratio, (own, error[both]), groups[both], rng),
        }
        for name, error in errors.items()
    }


def _spread(error):
    return np.median(np.abs(error))


def _ratio(one, two):
    return _spread(one) / _spread(two)


def recall(errors, groups, use, rng):
    """
    Share of sources that each method found.

    Parameters
    ----------
    errors, groups, use, rng
        As for `compare`.

    Returns
    -------
    shares : dict of tuple
        Value and error by method.
    """
    return {
        name: bootstrap(np.mean, (np.isfinite(error[use]),), groups[use], rng)
        for name, error in errors.items()
    }
