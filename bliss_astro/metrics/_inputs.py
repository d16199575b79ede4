# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tables of scores, bootstrap over images, and validation of the arguments of metrics.
"""

from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.stats import binom_conf_interval, mad_std
from astropy.table import QTable

from bliss_astro._arguments import (
    check_fraction,
    check_integer,
    check_rng,
    first_wrong,
    must,
    require,
)

# Limits of a value that may be anything but NaN.
EVERYTHING = (-np.inf, np.inf)

# Unit of values that may have any or none.
ANY_UNIT = 'any'

# Standard error of the robust sigma of n Gaussian numbers, times sqrt(n) / sigma.
_ROBUST_ERROR = 1.1664


class ScoreTable(QTable):
    """
    Scores by bin or by group, with a figure.

    The results of all metrics are such tables: a row per bin or group, with numbers
    of the whole sample in ``meta``, where ``meta['kind']`` says which metric it is. A
    fraction ``recall`` comes with its interval ``recall_low`` and ``recall_high``, a
    mean ``bias`` with its standard error ``bias_err``; empty bins are NaN.
    """

    def plot(self, **options):
        """
        Draw the scores.

        Parameters
        ----------
        **options
            Those of the function of `bliss_astro.plotting` for this kind of scores:
            ``ax``, ``label``, for ranks ``kind`` (``'histogram'`` or ``'ecdf'``).

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            Axes of the figure.

        Raises
        ------
        ValueError
            If there is no figure of this kind of scores.
        """
        from bliss_astro.plotting._metrics import plot_table

        return plot_table(self, **options)


def make_table(kind, columns, **meta):
    """Make a table of scores with numbers of four decimals."""
    table = ScoreTable(columns, meta={'kind': kind, **meta})
    for name in table.colnames:
        if table[name].dtype.kind == 'f' and name not in ('low', 'high', 'level'):
            small = name.endswith('p_value') or name == 'adjusted'
            table[name].info.format = '.3g' if small else '.4f'
    return table


def wilson_interval(n_success, n_total, *, level=0.683):
    """Return the ends of Wilson's interval of a fraction; NaN where there is none."""
    n = np.asarray(n_total)
    ends = binom_conf_interval(
        n_success, np.maximum(n, 1), check_fraction('level', level), interval='wilson'
    )
    return np.where(n > 0, ends, np.nan)


def fraction_columns(name, n_success, n_total, level=0.683):
    """Return the columns of a fraction and of its Wilson interval."""
    low, high = wilson_interval(n_success, n_total, level=level)
    with np.errstate(invalid='ignore'):
        fraction = np.true_divide(n_success, n_total)
    return {name: fraction, f'{name}_low': low, f'{name}_high': high}


def robust_sigma(values, *, axis=None):
    """Return 1.4826 times the median absolute deviation, without NaN."""
    values, _ = strip_unit(values, 'values')
    return mad_std(values, axis=axis, ignore_nan=True) if values.size else np.nan


def mean_and_error(values, *, robust):
    """Return mean or robust sigma with its standard error; NaN of too few values."""
    n = len(values)
    if not n:
        return np.nan, np.nan
    if robust:
        sigma = robust_sigma(values)
        return sigma, _ROBUST_ERROR * sigma / np.sqrt(n)
    with np.errstate(invalid='ignore'):
        return values.mean(), values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan


class BootstrapBands(NamedTuple):
    """A statistic of all rows, its central band, standard deviation and resamples."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    std: np.ndarray
    samples: np.ndarray


def bootstrap_bands(statistic, images, *, n_resamples=1000, level=0.683, rng=None):
    """
    Bootstrap of any statistic over whole images.

    Sources of one image share its sky, its PSF and its blends, so it is images that
    are drawn with replacement, not rows.

    Parameters
    ----------
    statistic : callable
        Called as ``statistic(rows)`` with the row numbers of the drawn images
        (repeated as often as drawn); returns a float or an array of fixed shape.
        NaN entries (e.g. empty bins) are left out of the bands.

    images : 1D array_like, or tuple of them
        Image of each row. For a statistic of two tables, such as estimated and
        true rows, give a tuple of two; the statistic is then called as
        ``statistic(rows_0, rows_1)``.

    n_resamples : int, optional
        Number of resamples.

    level : float, optional
        Central fraction of the resamples inside the band: 0.683 is +-1 sigma,
        0.5 the 25-75 % band.

    rng : int, `~numpy.random.Generator` or `None`, optional
        Source of randomness. The images of the k-th resample depend on it and on
        the set of images only, so that statistics may be compared pair by pair.

    Returns
    -------
    bands : named tuple
        ``estimate`` of all rows, ``low`` and ``high`` of the band, ``std`` of the
        resamples, and ``samples``, the statistic of each resample along the first axis.

    Raises
    ------
    TypeError
        If ``statistic`` is not callable.

    ValueError
        If ``images`` is empty or not one-dimensional.

    Examples
    --------
    The error of a mean over 100 images with 3 equal rows each:

    >>> import numpy as np
    >>> from bliss_astro.metrics import bootstrap_bands
    >>> values = np.repeat(np.arange(100.0), 3)
    >>> images = np.repeat(np.arange(100), 3)
    >>> bands = bootstrap_bands(lambda rows: values[rows].mean(), images, rng=1)
    >>> float(bands.estimate)
    49.5
    >>> bool(2.5 < bands.std < 3.3)  # 28.9 / sqrt(100), not / sqrt(300)
    True
    """
    n_resamples = check_integer('n_resamples', n_resamples, 2)
    level = check_fraction('level', level)
    got = type(statistic).__name__
    require(callable(statistic), 'statistic', 'be callable', got, TypeError)
    tables = images if isinstance(images, tuple) else (images,)
    tables = list(map(np.asarray, tables))
    for table in tables:
        require(table.ndim == 1, 'images', 'be one-dimensional', table.shape)
    labels, index = np.unique(np.concatenate(tables), return_inverse=True)
    require(len(labels), 'images', 'not be empty', 'none to resample')
    tables = np.split(index, np.cumsum([len(table) for table in tables])[:-1])
    rows_of = [_rows_of_images(table, len(labels)) for table in tables]
    rng = check_rng(rng)
    drawn = (rng.integers(len(labels), size=len(labels)) for _ in range(n_resamples))
    samples = [statistic(*(rows(chosen) for rows in rows_of)) for chosen in drawn]
    samples = np.asarray(samples, dtype=float)
    estimate = np.asarray(statistic(*(np.arange(len(table)) for table in tables)))[()]
    # Resamples in which a bin is empty are NaN and must not spoil the band.
    empty = np.isnan(samples).all(axis=0)
    safe = np.where(empty, 0.0, samples)
    tails = [(1 - level) / 2, (1 + level) / 2]
    bands = (*np.nanquantile(safe, tails, axis=0), np.nanstd(safe, axis=0))
    bands = (np.where(empty, np.nan, band)[()] for band in bands)
    return BootstrapBands(estimate, *bands, samples)


def _rows_of_images(index, n_images):
    """Return the function that looks up the rows of drawn images."""
    order = np.argsort(index, kind='stable')
    counts = np.bincount(index, minlength=n_images)
    starts = np.cumsum(counts) - counts

    def rows(drawn):
        repeats = counts[drawn]
        ends = np.cumsum(repeats)
        first = starts[drawn] - ends + repeats
        return order[np.arange(ends[-1]) + np.repeat(first, repeats)]

    return rows


# -- arguments -------------------------------------------------------------------


def strip_unit(values, name, *, like=ANY_UNIT):
    """
    Return floats (NaN where masked) and their unit, converted to the unit ``like``.

    A unit of `None` is none: values must have no unit then.
    """
    unit = getattr(values, 'unit', None)
    unit = None if unit == u.one else unit
    if like is not ANY_UNIT and (unit is None) != (like is None):
        text = 'no unit' if unit is None else f'the unit {unit}'
        msg = f'{name} has {text}, but what it is compared with has {like or "none"}'
        raise u.UnitConversionError(msg)
    values = getattr(values, 'value', values)
    if hasattr(values, 'filled'):  # masked, by numpy or by astropy
        values = values.astype(float).filled(np.nan)
    try:
        values = np.asarray(values, dtype=float)
        if unit is not None and like is not ANY_UNIT:
            values, unit = unit.to(like, values), like
    except u.UnitConversionError:
        msg = f'{name} has the unit {unit}, which cannot be converted to {like}'
        raise u.UnitConversionError(msg) from None
    except (TypeError, ValueError):
        raise TypeError(must(name, 'be numeric', f'{values!r:.60}')) from None
    return values, unit


def as_vector(values, name, *, like=None, finite=False, within=None, unit=ANY_UNIT):
    """
    Return a 1D float array, converted to ``unit``.

    ``like = (name, vector)`` fixes its length, ``within`` its limits (inclusive, and
    no NaN); ``finite`` excludes infinities too.
    """
    values = np.atleast_1d(strip_unit(values, name, like=unit)[0])
    require(values.ndim == 1, name, 'be one-dimensional', f'shape {values.shape}')
    if like is not None and len(values) != len(like[1]):
        n = len(like[1])
        raise ValueError(f'{name} has {len(values)} values, but {like[0]} has {n}')
    if finite or within is not None:
        check_values(values, name, within or EVERYTHING, finite=finite)
    return values


def check_values(values, name, limits=EVERYTHING, *, finite=False):
    """Raise a ValueError that names the first value that is NaN or beyond limits."""
    sound = (values >= limits[0]) & (values <= limits[1])
    sound &= np.isfinite(values) if finite else True
    if not sound.all():
        allowed = 'be finite' if finite else 'not be NaN'
        if limits != EVERYTHING:
            allowed = f'be between {limits[0]:g} and {limits[1]:g}, and {allowed}'
        raise ValueError(must(name, allowed, first_wrong(values, sound)))


def check_maps(shape, **maps):
    """Raise a ValueError if one of some arrays is neither a number nor of a shape."""
    for name, values in maps.items():
        sound = np.shape(values) in ((), shape)
        require(sound, name, f'be a number or of shape {shape}', np.shape(values))


def as_booleans(values, name, *, like=None):
    """Return a 1D array of booleans, which may be given as 0 and 1."""
    values = as_vector(values, name, like=like)
    known = np.isin(values, (0, 1))
    require(known.all(), name, 'hold booleans', first_wrong(values, known))
    return values.astype(bool)


def as_edges(bins):
    """Return increasing bin edges; `None` is one bin over everything."""
    if bins is None:
        return np.array([-np.inf, np.inf])
    edges = as_vector(bins, 'bins')
    sound = len(edges) > 1 and (np.diff(edges) > 0).all()
    require(sound, 'bins', 'be two or more strictly increasing edges', bins)
    return edges


def bin_index(values, edges):
    """Return the bin of each value (half-open, the last closed); -1 outside or NaN."""
    index = np.searchsorted(edges, values, side='right') - 1
    index[values == edges[-1]] = len(edges) - 2
    index[(index >= len(edges) - 1) | np.isnan(values)] = -1
    return index


def bin_rows(values, name, bins, *, like):
    """Return edges, and the bin of each row: all are in one without ``bins``."""
    edges = as_edges(bins)
    require(bins is None or values is not None, name, 'be given with bins', values)
    if values is not None:
        values = as_vector(values, name, like=like)
    if bins is None:
        return edges, np.zeros(len(like[1]), dtype=int)
    return edges, bin_index(values, edges)


def as_groups(groups, n, name='groups'):
    """Return the sorted labels (``'all'`` without any) and the label of each row."""
    if groups is None:
        return np.array(['all']), np.zeros(n, dtype=int)
    groups = np.asarray(groups)
    require(groups.shape == (n,), name, f'have the shape ({n},)', groups.shape)
    return np.unique(groups, return_inverse=True)


def column_of(table, name, what):
    """Return a column of a table or mapping, which messages call ``what``."""
    names = list(table.keys()) if hasattr(table, 'keys') else []
    if name not in names:
        raise ValueError(f'{what} lacks the column {name!r}; it has {names or "none"}')
    return table[name]


def unit_psf(psf):
    """Return the PSF as a function of offsets for unit flux."""
    names = getattr(psf, 'param_names', ())
    if {'flux', 'x_0', 'y_0'} <= set(names):
        psf = psf.copy()
        psf.flux, psf.x_0, psf.y_0 = 1.0, 0.0, 0.0
    elif names or not callable(psf):
        allowed = (
            'be a model with the parameters flux, x_0 and y_0, or a function of the '
            'offsets (dx, dy)'
        )
        raise TypeError(must('psf', allowed, type(psf).__name__))
    return lambda dx, dy: np.asarray(psf(dx, dy), dtype=float)
