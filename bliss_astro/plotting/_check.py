# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of checks: what a catalogue leaves of its image, and what it misses.
"""

import numpy as np

from ._axes import COLORS, MARKERS, label_pixels

__all__ = ['plot_check', 'plot_completeness']


def _two_axes(ax, figsize):
    """
    Two axes beside each other: those given, or those of a new figure.
    """
    if ax is None:
        from matplotlib import pyplot as plt

        return plt.figure(figsize=figsize, layout='constrained').subplots(1, 2)
    axes = np.ravel(ax)
    if len(axes) != 2 or not all(hasattr(part, 'plot') for part in axes):
        msg = f'ax must be a pair of axes, got {ax!r}'
        raise ValueError(msg)
    return axes


def plot_check(check, *, ax=None, limit=5.0, cmap='RdBu_r', n_marked=30, colorbar=True):
    """
    Draw what a catalogue leaves of its image.

    On the left the residual map with the places of findings, on the right
    by how many standard deviations the chi-square of each region is off.

    Parameters
    ----------
    check : `~bliss_astro.checks.CatalogCheck`
        What `ProbabilisticCatalog.check
        <bliss_astro.catalog.ProbabilisticCatalog.check>` returned.

    ax : pair of `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    limit : float, optional
        The ends of both scales, in standard deviations.

    cmap : str or `~matplotlib.colors.Colormap`, optional
        The colours, with the middle for nothing.

    n_marked : int, optional
        The largest number of places that are marked.

    colorbar : bool, optional
        Whether to draw the scales.

    Returns
    -------
    axes : tuple of `~matplotlib.axes.Axes`
        The axes.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Colormap

    if not limit > 0:
        msg = f'limit must be positive, got {limit!r}'
        raise ValueError(msg)
    cmap = cmap if isinstance(cmap, Colormap) else colormaps[cmap]
    cmap = cmap.with_extremes(bad='0.8')
    ny, nx = check.shape
    aspect = min(max(ny / nx, 0.4), 2.0)
    left, right = _two_axes(ax, (11.5, 4.6 * aspect + 0.8))
    pull = np.full(int(check.labels.max()) + 1, np.nan)
    cells = check.cells
    pull[np.asarray(cells['region'])] = (
        cells['chi2'] - cells['chi2_expected']
    ) / cells['chi2_err']
    regions = np.where(check.labels >= 0, pull[check.labels], np.nan)
    parts = (
        (left, check.residual, 'Image - catalogue (sigma)'),
        (right, regions, 'Chi-square of the region - expected (sigma)'),
    )
    for axes, values, title in parts:
        image = axes.imshow(
            np.ma.masked_invalid(values),
            origin='lower',
            cmap=cmap,
            vmin=-limit,
            vmax=limit,
            interpolation='nearest',
        )
        if colorbar:
            bar = axes.figure.colorbar(
                image, ax=axes, shrink=0.85, pad=0.02, extend='both'
            )
            bar.set_label(title)
        axes.set_xlim(-0.5, nx - 0.5)
        axes.set_ylim(-0.5, ny - 0.5)
        label_pixels(axes, None)
    places = [f for f in check.findings if np.isfinite(f.x)][:n_marked]
    if places:
        x, y = [place.x for place in places], [place.y for place in places]
        left.plot(x, y, 'o', ms=11, mfc='none', mec='black', mew=1.3, ls='none')
    return left, right


def plot_completeness(result, *, ax=None, types=None):
    """
    Draw which sources are found, and how right their fluxes are.

    Parameters
    ----------
    result : `~bliss_astro.checks.Completeness`
        What `~bliss_astro.checks.completeness` returned.

    ax : pair of `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on. By default those of a new figure.

    types : sequence of {'star', 'galaxy'} or `None`, optional
        Which to draw. By default all that were put in.

    Returns
    -------
    axes : tuple of `~matplotlib.axes.Axes`
        Recall (open symbols: share of right types, of an encoder that tells them),
        and bias with the band of the scatter.
    """
    table = result.table
    known = list(dict.fromkeys(table['type']))
    types = known if types is None else [types] if isinstance(types, str) else types
    unknown = sorted(set(types) - set(known))
    if unknown:
        msg = f'types must be among {known}, got {unknown[0]!r}'
        raise ValueError(msg)
    by_magnitude = 'mag_low' in table.colnames
    left, right = _two_axes(ax, (11.0, 4.2))
    right.axhline(0, color='0.3', lw=0.9, zorder=1)
    for k, name in enumerate(types):
        rows = table[table['type'] == name]
        x = _centres(rows, by_magnitude)
        _draw_type(left, right, rows, x, name, COLORS[k], MARKERS[k])
    xlabel = 'Magnitude (AB)' if by_magnitude else _flux_label(table)
    for axes in (left, right):
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.25, lw=0.6)
        if not by_magnitude:
            axes.set_xscale('log')
    left.set_ylim(0, 1.03)
    left.set_ylabel('Fraction')
    right.set_ylabel('(estimated - true flux) / flux_err')
    reach = np.nanmax(np.abs(np.append(table['bias'], table['scatter'])), initial=1.0)
    right.set_ylim(-2 * reach, 2 * reach)
    left.legend(loc='best', framealpha=0.9)
    return left, right


def _values(column):
    return np.asarray(getattr(column, 'value', column), dtype=float)


def _centres(rows, by_magnitude):
    if by_magnitude:
        return 0.5 * (_values(rows['mag_low']) + _values(rows['mag_high']))
    return np.sqrt(_values(rows['flux_low']) * _values(rows['flux_high']))


def _flux_label(table):
    unit = getattr(table['flux_low'], 'unit', None)
    return 'Flux' if unit is None else f'Flux ({unit})'


def _draw_type(left, right, rows, x, name, color, marker):
    """
    Recall, accuracy and bias of one type.
    """
    recall = _values(rows['recall'])
    ends = _values(rows['recall_low']), _values(rows['recall_high'])
    left.errorbar(
        x,
        recall,
        yerr=np.maximum([recall - ends[0], ends[1] - recall], 0),
        fmt=marker,
        ls='-',
        color=color,
        ms=5,
        label=f'{name}: recall',
    )
    accuracy = _values(rows['accuracy'])
    if np.isfinite(accuracy).any():
        ends = _values(rows['accuracy_low']), _values(rows['accuracy_high'])
        left.errorbar(
            x,
            accuracy,
            yerr=np.maximum([accuracy - ends[0], ends[1] - accuracy], 0),
            fmt=marker,
            ls=':',
            color=color,
            mfc='white',
            ms=5,
            label=f'{name}: right type',
        )
    bias, scatter = _values(rows['bias']), _values(rows['scatter'])
    good = np.isfinite(bias)
    right.fill_between(
        x, bias - scatter, bias + scatter, where=good, color=color, alpha=0.15, lw=0
    )
    right.errorbar(
        x[good], bias[good], _values(rows['bias_err'])[good], fmt=marker, color=color
    )
