# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tables from plain arrays: checks, units and order of ``from_columns``.
"""

import uuid
from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Column

from bliss_astro._arguments import check_image_shape, must, require, require_type
from bliss_astro.units import unit_text

from ._bands import learn_bands
from ._columns import (
    COLUMNS,
    REQUIRED_COLUMNS,
    SHAPE_NAMES,
    ab_magnitude,
    describe_column,
    filled,
    has_magnitude,
    pixel_scale,
    typed_column,
)
from ._meta import ImageRecord, default_meta, plain_value, restore_meta, wcs_to_header

# Columns that from_columns derives itself, beside magnitudes.
_DERIVED = ('sky_centroid',)
# Columns that are 0 or numbered where they are not given.
_OPTIONAL = ('id', 'x_y_cov', 'flags')
# By how much sums of float32 may exceed a probability of 1.
_ROUNDING = 1e-6
# Units that columns may have, in words, by the rule of their definition.
_ALLOWED = {
    '': 'plain numbers',
    'deg': 'an angular unit',
    'length': 'pixels or an angular unit',
}


def from_columns(
    cls,
    columns,
    *,
    wcs=None,
    unit=None,
    posterior=None,
    meta=None,
    image_shape=None,
    expected_count=None,
):
    """
    Make a catalogue from arrays, one element per source, in any order.

    Parameters
    ----------
    columns : mapping of str to array_like or `~astropy.units.Quantity`
        Must hold ``probability``, ``x_centroid``, ``y_centroid``,
        ``x_err``, ``y_err``, ``flux`` and ``flux_err``, each 1-D of one
        length (which may be 0). May hold ``x_y_cov`` (default 0),
        ``flags`` (default 0) and ``id`` (default: numbered from 1,
        brightest first), and the shapes of galaxies, see
        :ref:`shapes`: radii as quantities in pixels or an angular unit
        (plain numbers are pixels), which become arcsec with a ``wcs``,
        and angles (plain numbers are degrees); NaN where unknown. Further
        columns are appended as they are; one named ``<column>_samples`` of
        shape (n_sources, n_samples) is taken for posterior draws of
        that column. Fluxes are all quantities or all plain numbers,
        the others plain numbers.

    wcs : WCS object or `None`, optional
        Celestial WCS of the image; adds ``sky_centroid``.

    unit : unit-like or `None`, optional
        Unit of the fluxes. Fluxes that are quantities are converted to
        it. `None` takes the unit that ``columns['flux']`` has, if any.

    posterior : object or `None`, optional
        The posterior of the image.

    meta : mapping or `None`, optional
        Values to store in ``meta``, next to ``date`` and ``version``: plain
        values, which every file format can hold. ``meta['image']`` may
        be a mapping of further facts about the image. Prefer that for
        lists, which stacking would concatenate elsewhere.

    image_shape : tuple of int or `None`, optional
        Shape (ny, nx) of the image.

    expected_count : float or tuple of float, optional
        Number of sources in the image that the posterior expects, or its
        mean and standard deviation.

    Returns
    -------
    catalog : `ProbabilisticCatalog`
        The table, sorted by flux, brightest first.

    Raises
    ------
    TypeError
        If ``columns`` is no mapping, a column is not numeric or ``meta``
        holds what no file can store.

    ValueError
        If columns are missing, are of different length or hold values
        out of range, or if ``wcs`` is not celestial.
    """
    meta = dict(meta or {})
    image = meta.pop('image', {})
    learn_bands(image)
    made = make_columns(columns, wcs=wcs, unit=unit)
    values = {'uid': uuid.uuid4().hex, 'n_sources': len(made['flux'])}
    if (unit := getattr(made['flux'], 'unit', None)) is not None:
        values['unit'] = unit_text(unit)
    if image_shape is not None:
        values['shape'] = list(check_image_shape('image_shape', image_shape))
    if expected_count is not None:
        values['expected_count'] = np.ravel(np.asarray(expected_count, float)).tolist()
        sound = len(values['expected_count']) in (1, 2)
        require(sound, 'expected_count', 'be mean or (mean, std)', expected_count)
    if wcs is not None:
        values['wcs'] = wcs_to_header(wcs, shape=image_shape)
        if not SHAPE_NAMES.isdisjoint(made):
            # Not every WCS can be kept, and without it arcsec are not pixels.
            values['pixel_scale'] = pixel_scale(wcs)
    values |= plain_value(dict(image), name="meta['image']")
    catalog = cls(made, copy=False)
    for name, column in catalog.columns.items():
        describe_column(column, name)
    catalog.meta.update(default_meta())
    catalog.meta.update(restore_meta(plain_value(meta)))
    catalog.meta['image'] = ImageRecord(values, posterior=posterior)
    return catalog


def make_columns(columns, *, wcs, unit):
    """
    Make the columns of a catalogue, in the order of the table and brightest row first.

    The arguments and errors are those of `ProbabilisticCatalog.from_columns`.
    """
    _check_names(columns)
    sound = wcs is None or (
        getattr(wcs, 'pixel_n_dim', None) == 2 and getattr(wcs, 'has_celestial', 1)
    )
    require(sound, 'wcs', 'be a celestial WCS of two pixel axes', f'{wcs!r}')
    shaped = not SHAPE_NAMES.isdisjoint(columns)
    scale = pixel_scale(wcs) if shaped and wcs is not None else None
    unit = _flux_unit(columns, unit)
    values, units = {}, {}
    for name, column in columns.items():
        values[name], units[name] = convert_column(name, column, unit=unit, scale=scale)
        _check_array(name, values[name])
    lengths = {name: len(column) for name, column in values.items()}
    listing = ', '.join(f'{name}: {n}' for name, n in lengths.items())
    one = len(set(lengths.values())) <= 1
    require(one, 'columns', 'all be of one length', listing)
    values = {name: np.zeros(lengths['flux']) for name in _OPTIONAL[1:]} | values
    _check_limits(values)
    # Stable, so that equal fluxes keep their order; NaN goes to the end.
    order = np.argsort(-np.asarray(values['flux'], dtype=float), kind='stable')
    values = {name: column[order] for name, column in values.items()}
    values.setdefault('id', np.arange(1, len(order) + 1))
    made = {
        name: typed_column(name, column, unit=units.get(name))
        for name, column in values.items()
    }
    made |= _derive_columns(made, wcs=wcs, unit=unit)
    return {name: made[name] for name in {**COLUMNS, **made} if name in made}


def _check_names(columns):
    """Raise unless the needed columns are there and the derived ones are not."""
    require_type('columns', columns, Mapping)
    needed = [name for name in REQUIRED_COLUMNS if name not in _OPTIONAL]
    missing = [name for name in needed if name not in columns]
    if missing:
        msg = (
            f'columns lacks {", ".join(missing)}; it must hold '
            f'{", ".join(needed)}, got {", ".join(columns) or "nothing"}'
        )
        raise ValueError(msg)
    fluxes = [name for name in columns if name in COLUMNS and _is_flux(name)]
    derived = [*_DERIVED, *(_magnitude_of(name) for name in fluxes)]
    derived = [name for name in derived if name in columns]
    if derived:
        msg = (
            f'columns must not hold {", ".join(derived)}: these are computed '
            'from the fluxes and the wcs'
        )
        raise ValueError(msg)


def _flux_unit(columns, unit):
    """Unit of the fluxes of a table, `None` for none."""
    own = {name: _own_unit(columns[name]) for name in columns if _is_flux(name)}
    plain = [name for name in own if own[name] is None]
    if plain and len(plain) < len(own):
        have = ', '.join(name for name in own if name not in plain)
        msg = (
            f'columns: {have} have units and {", ".join(plain)} have none; all of them '
            'or none must have one'
        )
        raise ValueError(msg)
    unit = own['flux'] if unit is None else u.Unit(unit)
    # Whether units are equivalent is known in less time than whether they are equal.
    bare = unit is not None and unit.is_equivalent(u.one)
    return None if bare and unit == u.one else unit


def _is_flux(name):
    """Whether a column is in the unit of the image: fluxes, errors, and samples."""
    definition = COLUMNS.get(name.removesuffix('_samples'))
    return definition is not None and definition.unit == 'flux'


def _magnitude_of(name):
    """Name of the magnitude that belongs to a flux."""
    return f'mag{name.removeprefix("flux")}'


def _own_unit(values):
    return values.unit if isinstance(values, Column | u.Quantity) else None


def convert_column(name, values, *, unit=None, scale=None):
    """
    Convert a column to plain numbers in the unit that it has in a table.

    Parameters
    ----------
    name : str
        Name of the column; columns without a definition stay as they are.

    values : array_like or `~astropy.units.Quantity`
        Fluxes in ``unit`` (plain numbers too) or an equivalent one, radii in pixels
        (plain numbers too) or in an angular unit, angles in an angular unit or in
        degrees as plain numbers, others plain.

    unit : `~astropy.units.Unit` or None, optional
        Unit of the fluxes.

    scale : float or None, optional
        Arcsec per pixel; `None` without a WCS.

    Returns
    -------
    values : `~numpy.ndarray`
        Plain numbers, NaN where masked.

    unit : `~astropy.units.Unit` or None
        Their unit. Radii that came in an angular unit keep one, in arcsec.

    Raises
    ------
    UnitsError
        If the unit cannot be that of such a column.
    """
    if name not in COLUMNS and not _is_flux(name):
        return values if hasattr(values, 'shape') else np.asarray(values), None
    rule = 'flux' if _is_flux(name) else COLUMNS[name].unit
    own, values = _own_unit(values), filled(values)
    plain = np.asarray(getattr(values, 'value', values))
    target = {'': None, 'flux': unit, 'length': u.pix}.get(rule, rule)
    target = None if target is None else u.Unit(target)
    own = own or target
    scales = []
    if rule == 'length' and (scale is not None or own.is_equivalent(u.deg)):
        target, scales = u.arcsec, u.pixel_scale((scale or 1.0) * u.arcsec / u.pix)
    if own is None or own == target:
        return plain, target
    try:
        return u.Quantity(plain, own).to_value(target or '', scales), target
    except u.UnitConversionError:
        allowed = f'be in {(_ALLOWED | {"flux": unit}).get(rule, rule)}'
        text = must(f'columns[{name!r}]', allowed, own)
        raise u.UnitConversionError(text) from None


def _check_array(name, values):
    """Raise unless a column is 1-D, and one of a catalogue's own real numbers."""
    known = name in COLUMNS
    real = values.dtype.kind in 'iuf' or not values.size
    flat = values.ndim == 1 or (values.ndim and not known)
    if flat and (real or not known):
        return
    name, got = f'columns[{name!r}]', f'dtype {values.dtype}'
    require(real or not known, name, 'hold real numbers', got, TypeError)
    require(flat, name, 'be 1-D', f'shape {values.shape}')


def _check_limits(values):
    """Raise unless all values lie within the limits of their columns."""
    share = np.asarray(values['probability'], dtype=float)
    values['probability'] = np.where((share > 1) & (share <= 1 + _ROUNDING), 1.0, share)
    for name in COLUMNS.keys() & values.keys():
        limits = COLUMNS[name].limits
        if limits is None:
            continue
        own = np.asarray(values[name], dtype=float)
        bad = (own < limits.low) | (own > limits.high)
        if not limits.nan:
            bad |= np.isnan(own)
        if bad.any():
            raise ValueError(
                must(f'columns[{name!r}]', f'be {limits.text}', own[bad][0])
            )


def _derive_columns(made, *, wcs, unit):
    """Sky positions and magnitudes of the rows, where there are any."""
    derived = {}
    if wcs is not None:
        x, y = made['x_centroid'], made['y_centroid']
        # Nothing to transform, and not every WCS takes empty arrays.
        sky = wcs.pixel_to_world(x, y) if len(x) else SkyCoord([], [], unit='deg')
        derived['sky_centroid'] = SkyCoord(sky.icrs.ra, sky.icrs.dec)
    if has_magnitude(unit):
        for name in made:
            if not _is_flux(name) or name.endswith(('_err', '_samples')):
                continue
            flux, mag = made[name], _magnitude_of(name)
            derived[mag] = typed_column(mag, ab_magnitude(flux).value, unit=u.mag)
            if (error := made.get(f'{name}_err')) is not None:
                positive = np.where(flux.value > 0, flux.value, np.nan)
                # To first order.
                error = 2.5 / np.log(10.0) * error.value / positive
                derived[f'{mag}_err'] = typed_column(f'{mag}_err', error, unit=u.mag)
    return derived
