# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Display of a catalogue in a terminal, in a notebook, and as regions of DS9.

Formats are chosen when a table is shown and are not stored in its columns: they
depend on the errors of the rows, so stored ones would differ between catalogues
and make every `~astropy.table.vstack` warn, and writers of text files round to
stored ones.
"""

import textwrap

import astropy.units as u
import numpy as np
from astropy.table import QTable
from astropy.table.pprint import TableFormatter

from bliss_astro._atomic import atomic_write
from bliss_astro.flags import decode_flags
from bliss_astro.rendering._scene import Sources

from ._columns import (
    COLUMNS,
    REQUIRED_COLUMNS,
    SHAPE_COLUMNS,
    SHAPE_NAMES,
    plain_numbers,
)
from ._rendering import scale_of

_SHAPE_ERRORS = tuple(f'{name}_err' for name in SHAPE_COLUMNS)
# Columns that are displayed only where columns are selected.
_HIDDEN = ('source_index',)
# Columns to leave out where there is no room for all, in this order.
_EXPENDABLE = (
    *_SHAPE_ERRORS[::-1],
    *('bulge_axis_ratio', 'disk_axis_ratio', 'angle'),
    *('bulge_radius', 'disk_radius', 'disk_fraction'),
    *('x_y_cov', 'y_err', 'x_err', 'mag_err', 'sky_centroid', 'e2', 'e1', 'flags'),
)
# Least width of notes below a table, in characters.
_MIN_NOTE_WIDTH = 60
# Number of columns of shapes up to which those left out are named one by one.
_MAX_NAMED_SHAPES = 3
# Radius of a region in pixels where the PSF is not known.
_DEFAULT_RADIUS = 5.0
# Colours of regions in DS9: of stars, of galaxies.
_COLORS = ('cyan', 'orange')


class CatalogFormatter(TableFormatter):
    """
    Formatter of the columns of a catalogue, with digits by the errors of the rows.

    Columns to which a user gave a format keep it. On a narrow terminal columns are
    left out, shapes first, and named below the table.
    """

    def _pformat_table(self, table, max_lines=-1, max_width=-1, **kwargs):
        view = _shown(table)
        lines, outs = super()._pformat_table(view, max_lines, max_width, **kwargs)
        left_out = []
        # HTML has no width; on a terminal a table that is too wide is shortened.
        for name in _EXPENDABLE if max_width != -1 else ():
            whole, _ = super()._pformat_table(view, max_lines, -1, **kwargs)
            if len(whole[0]) <= len(lines[0]):
                break
            if name in view.colnames:
                view.remove_column(name)
                left_out.append(name)
                lines, outs = super()._pformat_table(
                    view, max_lines, max_width, **kwargs
                )
        if not kwargs.get('html'):
            lines.extend(_explain_flags(view, len(lines[0])))
        if left_out:
            ordered = [name for name in table.colnames if name in left_out]
            lines.append(f'Not shown: {_enumerate(ordered)}')
        return lines, outs


class CatalogColumns(QTable):
    """
    Selected columns of a catalogue: a `~astropy.table.QTable` that prints like it.

    Made by ``catalog['x_centroid', 'flux']`` where a column is left out that a
    `ProbabilisticCatalog` needs.  Digits are chosen for display alone, and are
    not stored in the columns: text files get all digits.
    """

    TableFormatter = CatalogFormatter


def _explain_flags(table, width):
    """Names of the bits that occur in a column of flags, as lines below a table."""
    if 'flags' not in table.colnames or not len(table):
        return []
    flags = np.ma.filled(table['flags'], 0)
    if flags.dtype.kind not in 'iu' or flags.min() < 0:
        return []
    bits = int(np.bitwise_or.reduce(flags, axis=None))
    values = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    names = map('{} {}'.format, values, decode_flags(bits))
    text = f'Flags: {", ".join(names)}'
    return textwrap.wrap(text, max(width, _MIN_NOTE_WIDTH)) if bits else []


def _enumerate(names):
    """List columns in one line, many columns of shapes by their number."""
    others = [name for name in names if name not in SHAPE_NAMES]
    if (n_shapes := len(names) - len(others)) > _MAX_NAMED_SHAPES:
        names = [*others, f'{n_shapes} columns of shapes']
    return ', '.join(names)


def _shown(table):
    """View of a table whose columns have formats, without hidden ones."""
    view = QTable(table[:], copy=False)
    if set(REQUIRED_COLUMNS) <= set(view.colnames):
        view.remove_columns([name for name in _HIDDEN if name in view.colnames])
    flux = flux_format(view)
    for name, column in view.columns.items():
        definition = COLUMNS.get(name)
        if definition is None or column.info.format is not None:
            continue
        display = flux if definition.unit == 'flux' else definition.display
        column.info.format = display or None
    return view


def flux_format(table):
    """
    Format of fluxes: two significant digits of the median error, if there is one.

    Without errors four of the median flux.
    """
    for name, digits in (('flux_err', 2), ('flux', 4)):
        if name not in table.colnames:
            continue
        values = np.abs(plain_numbers(table[name]))
        values = values[np.isfinite(values) & (values > 0)]
        if values.size == 0:
            return '.4g'
        decimals = digits - 1 - int(np.floor(np.log10(np.median(values))))
        in_range = digits - 7 < decimals < digits + 6
        return f'.{max(decimals, 0)}f' if in_range else '.4g'
    return '.4g'


def headline(catalog):
    """Line with number of sources, threshold, expected count, image and encoder."""
    meta, image = catalog.meta, catalog.image
    # Tables of one image at two thresholds, stacked, can exceed it.
    total = max(image.get('n_sources', 0), len(catalog))
    count = f'{len(catalog)}' if total == len(catalog) else f'{len(catalog)} of {total}'
    parts = [f'{count} {"source" if total == 1 else "sources"}']
    if (threshold := meta.get('threshold')) is not None:
        parts[0] += f' above p = {threshold}'
    if expected := image.get('expected_count'):
        parts.append(f'expected count {" ± ".join(f"{n:.1f}" for n in expected)}')
    if shape := image.get('shape'):
        parts.append(f'image {shape[1]} x {shape[0]} px')
    if uids := image.get('uids'):
        parts.append(f'from {len(uids)} images')
    encoder = meta.get('encoder')
    if isinstance(encoder, dict):
        encoder = encoder.get('name')
    if encoder is not None:
        parts.append(f'encoder "{encoder}"')
    return f'{type(catalog).__name__}: {", ".join(parts)}'


# -- regions of DS9 ----------------------------------------------------------------


def to_regions(self, path=None, *, sky=None, radius=None, overwrite=False):
    """
    Make a circle of each row, for DS9 and other viewers.

    Parameters
    ----------
    path : path_like, optional
        File in the format of DS9 to write, ``.reg`` as a rule.

    sky : bool, optional
        Whether circles lie on the sky or in pixels; by default on the sky where
        there are positions on the sky.

    radius : float or `~astropy.units.Quantity`, optional
        Radius in pixels or as an angle; by default the PSF's full width at half
        maximum, or 5 pixels where it is not known.

    overwrite : bool, optional
        Whether an existing file may be replaced.

    Returns
    -------
    regions : ``regions.Regions``
        The circles, with the row's ``id`` as text and its probability as a tag;
        stars are cyan, galaxies orange.

    Raises
    ------
    ImportError
        If the package ``regions`` is not installed.

    ValueError
        If ``sky`` is `True` and there is no WCS, or ``radius`` not positive or
        in a unit that needs a WCS.
    """
    try:
        from regions import CirclePixelRegion, CircleSkyRegion, PixCoord, Regions
    except ImportError as error:
        msg = 'to_regions needs the package regions: pip install regions'
        raise ImportError(msg) from error
    has_sky = 'sky_centroid' in self.colnames
    sky = has_sky if sky is None else sky
    if sky and not has_sky:
        msg = 'sky=True needs positions on the sky: the image had no WCS'
        raise ValueError(msg)
    radius = _region_radius(self, radius, sky=sky)
    regions = Regions([])
    for row, galaxy in zip(self, Sources.of(self).is_galaxy, strict=True):
        centre, circle = row['sky_centroid'] if sky else None, CircleSkyRegion
        if not sky:
            centre = PixCoord(row['x_centroid'], row['y_centroid'])
            circle = CirclePixelRegion
        meta = {'text': str(row['id']), 'tag': [f'p={row["probability"]:.3f}']}
        visual = {'color': _COLORS[int(galaxy)]}
        regions.append(circle(centre, radius, meta=meta, visual=visual))
    if path is not None:
        with atomic_write(path, overwrite=overwrite) as temporary:
            regions.write(temporary, format='ds9', overwrite=True)
    return regions


def _region_radius(catalog, radius, *, sky):
    """Radius of the circles: pixels, or an angle on the sky."""
    if radius is None:
        exposure, radius = catalog.exposure, _DEFAULT_RADIUS
        if exposure is not None and exposure.psf is not None:
            ny, nx = exposure.shape
            radius = float(exposure.psf_at(nx // 2, ny // 2).fwhm)
    scale = scale_of(catalog)
    scales = u.pixel_scale((scale or 1) * u.arcsec / u.pix)
    try:
        radius = u.Quantity(radius, getattr(radius, 'unit', u.pix))
        size = radius.to(u.arcsec if sky else u.pix, scales)
    except (TypeError, u.UnitsError):
        msg = f'radius must be a number of pixels or an angle, got {radius!r:.60}'
        raise TypeError(msg) from None
    if not 0 < size.value < np.inf:
        msg = f'radius must be positive, got {radius}'
        raise ValueError(msg)
    if scale is None and radius.unit.is_equivalent(u.arcsec) != sky:
        msg = (
            'the size of a pixel on the sky is not known; give radius as '
            f'{"an angle" if sky else "a number of pixels"}'
        )
        raise ValueError(msg)
    return size if sky else size.value
