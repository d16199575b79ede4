# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of the report of a run, as PNG: fields on the sky, depth, counts, times.

They are drawn on figures of their own, without pyplot and its settings.
"""

import io

import numpy as np

# Colours of Okabe and Ito.
_BLUE, _ORANGE, _GRAY = '#0072B2', '#E69F00', '#777777'
# Label, colour and hatch of a field by kind.
KINDS = {
    'done': ('done', '#56B4E9', ''),
    'finding': ('done, with findings', '#E69F00', '//'),
    'failed': ('failed', '#D55E00', 'xx'),
}
# Fields that are further apart than this (deg) are drawn on the whole sky, as points.
_WIDE = 60.0
# Side of the smallest field in a map, as a share of the map, that has a visible area.
_VISIBLE = 0.004
_DPI = 130


def kind_of(record):
    """Kind of a field, a key of `KINDS`."""
    if record['status'] != 'done':
        return 'failed'
    return 'finding' if record.get('findings') else 'done'


def draw_sky(records):
    """Map of fields by kind, as PNG, or None where no position is known."""
    names, groups = [*KINDS], [kind_of(record) for record in records]

    def paint(ax, add):
        for name in names:
            label, color, hatch = KINDS[name]
            own = np.array([group == name for group in groups])
            if own.any():
                label = f'{label} ({own.sum()})'
                add(own, label=label, facecolor=color, hatch=hatch)
        ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8)

    return _draw_map(records, paint)


def draw_depth(records, unit):
    """Map of fields by depth, as PNG, or None where no position is known."""
    values = np.array([record['depth'] for record in records])

    def paint(ax, add):
        shown = add(np.ones(len(values), bool), array=values, cmap='viridis')
        ax.figure.colorbar(shown, ax=ax, shrink=0.85, label=f'depth ({unit})')

    return _draw_map(records, paint)


def _draw_map(records, paint):
    """Map of the footprints of fields on the sky."""
    keep = [bool(record.get('footprint')) for record in records]
    if not any(keep):
        return None
    corners = [np.asarray(r['footprint'], float) for r in records if r.get('footprint')]
    centres = np.array([_centre(one) for one in corners])
    middle = _centre(centres)
    # Right ascensions next to that of the middle, and where east is left.
    around = [_near(one, middle[0]) for one in corners]
    centres = _near(centres, middle[0])
    every = np.concatenate(around)
    wide = np.ptp(every[:, 0]) > _WIDE
    figure = _figure((6.4, 4.6))
    if wide:
        ax = figure.add_subplot(projection='mollweide')
        ax.grid(alpha=0.4, lw=0.5)
        ax.set_xticklabels([])
        ax.set_title(f'centre at right ascension {middle[0]:.0f} deg', fontsize=9)
    else:
        ax = figure.add_subplot()
        _set_limits(ax, every, middle)
    sizes = np.array([np.ptp(one, axis=0).max() for one in corners])
    small = wide or np.median(sizes) < _VISIBLE * np.ptp(every, axis=0).max()

    def add(own, **style):
        own = np.flatnonzero(np.asarray(own)[keep])
        array = style.pop('array', None)
        array = None if array is None else np.asarray(array)[keep][own]
        if small:
            return _add_points(ax, centres[own], array, style, middle[0], wide)
        from matplotlib.collections import PolyCollection

        style = {
            'edgecolor': '#333333',
            'linewidth': min(0.4, 100 / len(records)),
        } | style
        parts = PolyCollection([around[k] for k in own], alpha=0.85, **style)
        parts.set_array(array)
        return ax.add_collection(parts)

    paint(ax, add)
    return _png(figure)


def _add_points(ax, places, array, style, middle, wide):
    """Draw fields that are small in the map as points."""
    color = style.pop('facecolor', None)
    hatch = style.pop('hatch', '')
    marker = {'': 'o', '//': 's', 'xx': 'X'}[hatch]
    x, y = places.T
    if wide:
        x, y = np.deg2rad(middle - x), np.deg2rad(y)
    style |= {'c': color if array is None else array, 'marker': marker, 'lw': 0}
    return ax.scatter(x, y, s=max(3, min(30, 4000 / len(x))), **style)


def _set_limits(ax, places, middle):
    """Axes of a part of the sky, east to the left, distances true in the middle."""
    (left, low), (right, high) = places.min(axis=0), places.max(axis=0)
    cosine = max(np.cos(np.deg2rad(middle[1])), 0.01)
    pad = 0.05 * max((right - left) * cosine, high - low, 1e-6)
    ax.set_xlim(right + pad / cosine, left - pad / cosine)
    ax.set_ylim(low - pad, high + pad)
    ax.set_aspect(1 / cosine, adjustable='box')
    ax.set_xlabel('right ascension (deg)')
    ax.set_ylabel('declination (deg)')
    ax.ticklabel_format(useOffset=False)
    ax.xaxis.set_major_formatter(lambda value, _: f'{round(value % 360, 6):g}')
    ax.locator_params(nbins=6)
    ax.grid(alpha=0.3, lw=0.5)


def _centre(places):
    """Mean direction of places (ra, dec) in deg."""
    ra, dec = np.deg2rad(np.asarray(places, float)).T
    x, y, z = np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)
    lon = np.arctan2(y.mean(), x.mean())
    return np.rad2deg([lon % (2 * np.pi), np.arctan2(z.mean(), np.hypot(*_mean(x, y)))])


def _mean(*values):
    return [value.mean() for value in values]


def _near(places, ra):
    """Places whose right ascensions are within 180 deg of one."""
    x = (places[:, 0] - ra + 180) % 360 - 180 + ra
    return np.column_stack([x, places[:, 1]])


def draw_counts(records):
    """Rows against the expected number of sources of each field, as PNG."""
    found = np.array([record['n_rows'] for record in records])
    expected = np.array([record['expected_count'] for record in records])
    error = np.array([record['expected_count_error'] for record in records])
    figure = _figure((5.2, 4.2))
    ax = figure.add_subplot()
    style = {'ms': 4, 'lw': 0, 'elinewidth': 0.7, 'alpha': 0.7}
    marked = [kind_of(record) == 'finding' for record in records]
    for own, color, marker, label in (
        (~np.array(marked), _BLUE, 'o', 'no finding'),
        (np.array(marked), _ORANGE, 's', 'with findings'),
    ):
        if own.any():
            style |= {'fmt': marker, 'color': color, 'label': label}
            ax.errorbar(expected[own], found[own], xerr=error[own], **style)
    top = 1.08 * max(found.max(), (expected + error).max(), 1)
    ax.plot([0, top], [0, top], color=_GRAY, lw=1, ls='--', label='equal')
    ax.set(xlim=(0, top), ylim=(0, top))
    ax.set_xlabel('expected number of sources')
    ax.set_ylabel('rows above the threshold')
    ax.grid(alpha=0.3, lw=0.5)
    ax.legend(fontsize=8)
    return _png(figure)


def draw_histogram(values, label):
    """Histogram of a number of the fields, with the median, as PNG."""
    figure = _figure((5.2, 3.2))
    ax = figure.add_subplot()
    n_bins = int(np.clip(np.sqrt(len(values)) * 2, 5, 40))
    ax.hist(values, bins=n_bins, color=_BLUE, edgecolor='white', lw=0.5)
    middle = float(np.median(values))
    ax.axvline(middle, color='black', lw=1.2, label=f'median {middle:.4g}')
    ax.set_xlabel(label)
    ax.set_ylabel('fields')
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.3, lw=0.5, axis='y')
    ax.legend(fontsize=8)
    return _png(figure)


def draw_pixels(image, low, high, cmap):
    """Pixels of a cut-out, one each, as PNG; bad ones are light blue."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    colors = colormaps.get_cmap(cmap).with_extremes(bad='#9fd6f7')
    masked = np.ma.masked_invalid(np.asarray(image, float)[::-1])
    pixels = colors(Normalize(low, high, clip=True)(masked), bytes=True)
    from matplotlib.image import imsave

    stream = io.BytesIO()
    imsave(stream, pixels, format='png')
    return stream.getvalue()


def _figure(size):
    from matplotlib.figure import Figure

    return Figure(size, layout='constrained')


def _png(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format='png', dpi=_DPI, metadata={'Software': None})
    return stream.getvalue()
