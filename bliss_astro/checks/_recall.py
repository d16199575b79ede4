# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Recall, bias and limits of injected sources: the tables of a completeness.
"""

import itertools
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.table import QTable

from bliss_astro.units import flux_to_magnitude

__all__ = [
    'Completeness',
    'binomial_interval',
    'limit_table',
    'recall_limits',
    'recall_table',
    'source_table',
]

_PLURALS = {'star': 'stars', 'galaxy': 'galaxies'}
# Recalls whose fluxes are fitted.
_LEVELS = (0.5, 0.9)
# Standard error of the median of normal numbers over that of their mean.
_MEDIAN_ERROR = 1.2533
# Resamplings that make the errors of limits, and the fewest sources of a curve.
_N_BOOTSTRAP, _CURVE_SOURCES = 100, 20


@dataclass(frozen=True, eq=False)
class Completeness:
    """
    Completeness of an image by injected sources, made by `completeness`.

    Attributes
    ----------
    table : `~astropy.table.QTable`
        A row for each type and bin of flux (or magnitude): ``n`` injected sources, of
        which ``n_found`` were found; ``recall`` with its 68 % interval
        (``recall_low``, ``recall_high``); ``recall_clear`` of those neither on
        masked pixels (``n_masked``) nor beside a source of the image
        (``n_blended``). Of the clear ones that were found: ``bias`` and
        ``scatter``, median and robust standard deviation of (estimated - true
        flux) / ``flux_err`` (0 and 1 if errors are calibrated), ``bias_err``,
        ``relative_bias``, the median of (estimated - true) / true. Of all that were
        found: ``accuracy``, the share with the right type, with its interval; NaN for
        an encoder without types.

    limits : `~astropy.table.QTable`
        For each type and share of 50 and 90 %: the flux (and magnitude) at which it
        is found, of all places, from a logistic curve with a plateau, and its
        error. NaN where the share lies outside the injected range.

    sources : `~astropy.table.QTable`
        A row for each injected source.

    threshold : float
        Smallest probability of a detection.

    encoder : str
        Name of the encoder.
    """

    table: QTable
    limits: QTable
    sources: QTable
    threshold: float
    encoder: str

    def __repr__(self):
        n = len(self.sources)
        what = f'{n} sources injected, encoder {self.encoder!r}, p > {self.threshold:g}'
        lines = [f'<Completeness: {what}>']
        for row in self.limits:
            name = 'mag_limit' if 'mag_limit' in self.limits.colnames else 'flux_limit'
            value, error = row[name], row[f'{name}_err']
            unit = getattr(value, 'unit', None)
            value, error = (getattr(v, 'value', v) for v in (value, error))
            what = f'{100 * row["recall"]:.0f} % of the {_PLURALS[row["type"]]}'
            if not np.isfinite(value):
                lines.append(f'- {what}: not within the injected range')
                continue
            text = f'{value:.4g} +- {error:.2g}'
            lines.append(f'- {what} at {text}{f" {unit}" if unit else ""}')
        return '\n'.join(lines)

    def plot(self, *, ax=None, **kwargs):
        """
        Draw recall and flux bias; see `bliss_astro.plotting.plot_completeness`.

        Parameters
        ----------
        ax : pair of `~matplotlib.axes.Axes` or None, optional
            Axes to draw on; by default a new figure.

        **kwargs
            For `~bliss_astro.plotting.plot_completeness`.

        Returns
        -------
        axes : tuple of `~matplotlib.axes.Axes`
            The axes.
        """
        from bliss_astro.plotting import plot_completeness

        return plot_completeness(self, ax=ax, **kwargs)


# -- tables ----------------------------------------------------------------------


def _bin_row(found, use):
    """Numbers of one bin."""
    clear = use & ~found['masked'] & ~found['blended']
    seen, seen_clear = use & found['found'], clear & found['found']
    n, n_found = int(use.sum()), int(seen.sum())
    low, high = binomial_interval(n_found, n)
    row = {
        'n': n,
        'n_found': n_found,
        'recall': n_found / n if n else np.nan,
        'recall_low': float(low),
        'recall_high': float(high),
        'n_masked': int((use & found['masked']).sum()),
        'n_blended': int((use & found['blended']).sum()),
        'recall_clear': seen_clear.sum() / clear.sum() if clear.any() else np.nan,
    }
    error = found['estimate'][seen_clear] - found['flux'][seen_clear]
    pull = error / found['error'][seen_clear]
    relative = error / found['flux'][seen_clear]
    row |= dict.fromkeys(('bias', 'bias_err', 'scatter', 'relative_bias'), np.nan)
    if len(pull):
        row['bias'], row['relative_bias'] = np.median(pull), np.median(relative)
        low, high = np.percentile(pull, [15.87, 84.13])
        row['scatter'] = 0.5 * (high - low) if len(pull) > 4 else np.nan
        row['bias_err'] = _MEDIAN_ERROR * row['scatter'] / np.sqrt(len(pull))
    share = found['galaxy_probability'][seen]
    typed = np.isfinite(share)
    right = (share > 0.5) == found['is_galaxy'][seen]
    n_right, n_typed = int((right & typed).sum()), int(typed.sum())
    row['accuracy'] = n_right / n_typed if n_typed else np.nan
    low, high = binomial_interval(n_right, n_typed)
    return row | {'accuracy_low': float(low), 'accuracy_high': float(high)}


def recall_table(found, edges, types, unit, zero_point, by_magnitude):
    rows = []
    bins = list(itertools.pairwise(edges))
    for kind in types:
        of_type = found['is_galaxy'] == (kind == 'galaxy')
        # From bright to faint, as magnitudes go.
        for low, high in bins[::-1] if by_magnitude else bins:
            use = of_type & (found['flux'] >= low) & (found['flux'] <= high)
            row = {'type': kind}
            if zero_point is not None:
                row['mag_low'] = flux_to_magnitude(high, zero_point)
                row['mag_high'] = flux_to_magnitude(low, zero_point)
            rows.append(
                row | {'flux_low': low, 'flux_high': high} | _bin_row(found, use)
            )
    table = _with_units(QTable(rows=rows), unit)
    for name in table.colnames[table.colnames.index('n') :]:
        if table[name].dtype.kind == 'f':
            table[name].info.format = '.3f'
    return table


def _with_units(table, unit):
    """Give columns of fluxes and magnitudes their units and formats."""
    for name in table.colnames:
        if name.startswith('flux'):
            own, table[name].info.format = unit, '.4g'
        elif name.startswith('mag'):
            own, table[name].info.format = u.mag, '.3f'
        else:
            continue
        if own is not None:
            table[name].unit = own
    return QTable(table)


def limit_table(found, types, unit, zero_point, rng):
    rows = []
    for kind in types:
        use = found['is_galaxy'] == (kind == 'galaxy')
        limits, errors = recall_limits(
            found['flux'][use], found['found'][use], _LEVELS, rng
        )
        for level, limit, error in zip(_LEVELS, limits, errors, strict=True):
            row = {'type': kind, 'recall': level, 'flux_limit': np.exp(limit)}
            row['flux_limit_err'] = np.exp(limit) * error
            if zero_point is not None:
                row['mag_limit'] = zero_point - 2.5 / np.log(10) * limit
                row['mag_limit_err'] = 2.5 / np.log(10) * error
            rows.append(row)
    return _with_units(QTable(rows=rows), unit)


def source_table(found, unit):
    table = QTable()
    table['x_centroid'], table['y_centroid'] = found['x'], found['y']
    for name in ('flux', 'is_galaxy', 'found', 'masked', 'blended'):
        table[name] = found[name]
    table['flux_estimate'], table['flux_err'] = found['estimate'], found['error']
    for name in ('galaxy_probability', 'offset'):
        table[name] = found[name]
    for name in ('flux', 'flux_estimate', 'flux_err'):
        table[name] = table[name] if unit is None else table[name] * unit
    return table


# -- limits ----------------------------------------------------------------------


def binomial_interval(n_success, n_total):
    """
    Confidence interval of 68.3 % of a binomial fraction (Wilson 1927).

    Parameters
    ----------
    n_success, n_total : int array_like
        Numbers.

    Returns
    -------
    low, high : float `~numpy.ndarray`
        Limits; NaN where there are none.
    """
    k, n = np.asarray(n_success, dtype=float), np.asarray(n_total, dtype=float)
    with np.errstate(invalid='ignore', divide='ignore'):
        share = k / n
        middle = (share + 0.5 / n) / (1 + 1 / n)
        half = np.sqrt(share * (1 - share) / n + 0.25 / n**2) / (1 + 1 / n)
    # At the ends they meet the share, but for rounding.
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)


def _fit(z, found, start):
    """Middle, log width and logit of the plateau of a logistic curve of recall."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(parameters):
        middle, log_width, plateau = parameters
        height = expit(plateau)
        scaled = (z - middle) * np.exp(-log_width)
        rise = expit(np.clip(scaled, -40, 40))
        share = np.clip(height * rise, 1e-9, 1 - 1e-9)
        value = -np.sum(np.where(found, np.log(share), np.log1p(-share)))
        # Derivatives by the share, then by the parameters.
        slope = np.where(found, -1 / share, 1 / (1 - share)) * height * rise
        fall = slope * (1 - rise)
        gradient = np.array(
            [
                -np.sum(fall) * np.exp(-log_width),
                -np.sum(fall * scaled),
                np.sum(slope) * (1 - height),
            ]
        )
        # A weak prior for widths and plateaus that the data do not constrain.
        away = np.array([0.0, 0.1 * (log_width + 1.5), 0.04 * (plateau - 4)])
        ridge = 0.05 * (log_width + 1.5) ** 2 + 0.02 * (plateau - 4) ** 2
        return value + ridge, gradient + away

    bounds = [(z.min() - 3, z.max() + 3), (-6.0, 3.0), (-4.0, 12.0)]
    return minimize(loss, start, jac=True, method='L-BFGS-B', bounds=bounds).x


def _crossing(parameters, level):
    """Logarithm of the flux at which a share is found; NaN if it never is."""
    middle, log_width, plateau = parameters
    height = 1 / (1 + np.exp(-plateau))
    if height <= level:
        return np.nan
    return middle - np.exp(log_width) * np.log(height / level - 1)


def recall_limits(flux, found, levels, rng):
    """
    Fit the fluxes at which given shares of the sources are found.

    Parameters
    ----------
    flux : float `~numpy.ndarray`, shape (N,)
        Fluxes of sources, positive.

    found : bool `~numpy.ndarray`, shape (N,)
        Which of them were found.

    levels : sequence of float
        Shares.

    rng : `numpy.random.Generator`
        For the errors, which are those of resampled sources.

    Returns
    -------
    limits, errors : float `~numpy.ndarray`, shape (len(levels),)
        Natural logarithms of the fluxes, and their standard errors; NaN where the
        share lies outside the injected range.
    """
    limits, errors = np.full(len(levels), np.nan), np.full(len(levels), np.nan)
    if len(flux) < _CURVE_SOURCES or found.all() or not found.any():
        return limits, errors
    z = np.log(flux)
    best = _fit(z, found, (np.median(z), -1.5, 4.0))
    picks = (rng.integers(len(z), size=len(z)) for _ in range(_N_BOOTSTRAP))
    drawn = [_fit(z[pick], found[pick], best) for pick in picks]
    for k, level in enumerate(levels):
        value = _crossing(best, level)
        if z.min() <= value <= z.max():
            others = np.array([_crossing(parameters, level) for parameters in drawn])
            limits[k] = value
            low, high = np.nanpercentile(others, [15.87, 84.13])
            errors[k] = 0.5 * (high - low)
    return limits, errors
