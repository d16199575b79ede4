# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Shapes of galaxies: units, directions without a sign, draws as columns.

Inside, radii are pixels and angles radians; in tables radii are arcsec where there is
a celestial WCS and else pixels, and angles degrees. Every number is given that the
source is a galaxy.
"""

import astropy.units as u
import numpy as np
from astropy.wcs import WCS

from bliss_astro.priors import GALAXY_SHAPE_NAMES

from ._columns import COLUMNS, SHAPE_COLUMNS

__all__ = [
    'angle_quantiles',
    'convert_shape',
    'explain_no_shapes',
    'inferred_shapes',
    'latent_dim',
    'pixel_scale',
    'shape_quantity',
    'shape_values',
    'summarize_shape',
    'tabulate_shapes',
]

_ELLIPTICITY = ('e1', 'e2')
# Quantiles of a normal distribution at -1, 0 and 1 sigma.
SIGMA_QUANTILES = (0.15865525, 0.5, 0.84134475)


def pixel_scale(wcs):
    """
    Arcsec per pixel of a celestial WCS of two pixel axes, the mean over both.

    For a FITS WCS at its reference pixel, for another kind at the middle of its array
    (or at the first pixel where it has none).
    """
    if isinstance(wcs, WCS):
        scales = wcs.proj_plane_pixel_scales()
        return float(np.mean([scale.to_value(u.arcsec) for scale in scales]))
    ny, nx = getattr(wcs, 'array_shape', None) or (1, 1)
    x, y = 0.5 * (nx - 1), 0.5 * (ny - 1)
    places = wcs.pixel_to_world([x, x + 1, x], [y, y, y + 1])
    return float(places[1:].separation(places[0]).to_value(u.arcsec).mean())


def convert_shape(name, values, *, scale):
    """
    Convert a column of shapes to the unit of the table.

    Parameters
    ----------
    name : str
        One of ``SHAPE_NAMES``.

    values : array_like or `~astropy.units.Quantity`
        Radii in pixels (plain numbers too) or in an angular unit, angles in an
        angular unit or in degrees as plain numbers, others plain.

    scale : float or `None`
        Arcsec per pixel; `None` without a WCS.

    Returns
    -------
    values : `~numpy.ndarray`
        Plain numbers.

    unit : `~astropy.units.Unit` or `None`
        Their unit. Radii that came in an angular unit keep one, in arcsec.

    Raises
    ------
    UnitsError
        If the unit cannot be that of such a column.
    """
    rule, own = COLUMNS[name].unit, getattr(values, 'unit', None)
    plain = np.asarray(getattr(values, 'value', values))
    allowed = 'plain numbers'
    if rule is None:
        if own is None or own == u.dimensionless_unscaled:
            return plain, None
    else:
        own = {'length': u.pix, 'deg': u.deg}[rule] if own is None else own
        allowed = 'an angular unit' if rule == 'deg' else 'pixels or an angular unit'
        if own.is_equivalent(u.deg):
            unit = u.deg if rule == 'deg' else u.arcsec
            return plain * own.to(unit), unit
        if rule == 'length' and own.is_equivalent(u.pix):
            factor = own.to(u.pix) * (1.0 if scale is None else scale)
            return plain * factor, u.pix if scale is None else u.arcsec
    msg = f'columns[{name!r}] must be in {allowed}, got {own}'
    raise u.UnitsError(msg)


def shape_quantity(name, values, *, scale):
    """Plain values, radii in pixels and angles in degrees, in the table's unit."""
    values, unit = convert_shape(name, values, scale=scale)
    return values if unit is None else u.Quantity(values, unit)


# -- directions without a sign ---------------------------------------------------


def mean_angle(angle):
    """
    Mean of directions without a sign over the last axis, in degrees in [0, 180).

    Half the argument of the mean of ``exp(2 i angle)``; 0 and 180 are the same.
    """
    phase = np.exp(2j * np.deg2rad(np.asarray(angle, dtype=float))).mean(-1)
    return _half_turn(0.5 * np.rad2deg(np.angle(phase)))


def angle_quantiles(angle, q):
    """
    Quantiles ``(..., N)`` of directions ``(N, P)`` in degrees, around their means.

    Those of the differences from `mean_angle`, which lie within 90 degrees, added to
    it: they may be below 0 or above 180, so that the lower one of two is the smaller.
    """
    angle = np.asarray(angle, dtype=float)
    mean = mean_angle(angle)
    apart = (angle - mean[:, None] + 90.0) % 180.0 - 90.0
    return mean + np.quantile(apart, q, axis=1)


def _half_turn(angle):
    """Angles in [0, 180), whatever rounding does."""
    angle = np.mod(angle, 180.0)
    return np.where(angle >= 180.0, 0.0, angle)


# -- draws and summaries ---------------------------------------------------------


def latent_dim(head):
    """Dimension of a learned model of galaxies; 0 for bulge and disk or no shapes."""
    return head.source[0]['shape'].latent_dim if head.shapes else 0


def inferred_shapes(sources, head):
    """
    Names of the columns of shapes that sources have.

    For a learned model only the ellipticity; its latent numbers mean nothing by
    themselves.
    """
    if sources.shapes is None:
        return ()
    return _ELLIPTICITY if latent_dim(head) else SHAPE_COLUMNS


def shape_values(sources, name, *, binning=1):
    """Draws ``(N, P)`` of one of ``SHAPE_COLUMNS``, radii in pixels of the image."""
    if name in _ELLIPTICITY:
        part = sources.ellipticity[..., _ELLIPTICITY.index(name)]
    else:
        part = sources.shapes[..., GALAXY_SHAPE_NAMES.index(name)]
    return _clean(name, part, binning)


def _clean(name, values, binning):
    """Degrees for radians, pixels for joined ones, and no ratio above 1 by rounding."""
    values = values.double().cpu().numpy()
    if name == 'angle':
        return _half_turn(np.rad2deg(values))
    limits = COLUMNS[name].limits
    values = np.clip(values, limits.low, limits.high)
    return values * binning if COLUMNS[name].unit == 'length' else values


def summarize_shape(name, draws):
    """
    Medians, for the angle mean directions, and half widths of the 68 % intervals.

    A direction that the data leave open has an error of 61.4 degrees.
    """
    if name == 'angle':
        middle = mean_angle(draws)
        low, high = angle_quantiles(draws, SIGMA_QUANTILES[::2])
    else:
        low, middle, high = np.quantile(draws, SIGMA_QUANTILES, axis=1)
    return middle, 0.5 * (high - low)


def tabulate_shapes(shapes, is_galaxy, *, scale, binning=1):
    """
    Columns of the shapes of one drawn catalogue, NaN where sources are no galaxies.

    The shapes are a tensor ``(N, 6)`` in the order of ``GALAXY_SHAPE_NAMES``.
    """
    columns = {}
    for name in SHAPE_COLUMNS:
        if name not in _ELLIPTICITY:
            own = _clean(name, shapes[:, GALAXY_SHAPE_NAMES.index(name)], binning)
            own = np.where(is_galaxy, own, np.nan)
            columns[name] = shape_quantity(name, own, scale=scale)
    return columns


# -- messages where there are none -------------------------------------------------


def explain_no_shapes(name, encoder, *, others=False):
    """
    Reason why a table has no column of shapes, and the encoders that infer them.

    Parameters
    ----------
    name : str
        Name of the column.

    encoder : str, dict or `None`
        Encoder of the table as its meta names it.

    others : bool, optional
        Whether there are other columns of shapes.
    """
    encoder = encoder.get('name') if isinstance(encoder, dict) else encoder
    text = f'there is no column {name!r} in this table'
    if others:
        return (
            f'{text}: it was removed, or its encoder {encoder!r} describes galaxies '
            'by a learned model, of which only e1 and e2 are columns'
        )
    able = _able_encoders()
    if encoder in able:
        return (
            f'{text}, although its encoder {encoder!r} infers shapes of galaxies: it '
            'was left out or removed'
        )
    which = ' and '.join(repr(other) for other in able) or 'none'
    reason = 'it comes from no encoder that infers shapes of galaxies'
    if encoder is not None:
        reason = f'its encoder {encoder!r} infers no shapes of galaxies'
    return (
        f'{text}: {reason}; of the bundled encoders these do: {which} (see '
        'available_encoders)'
    )


def _able_encoders():
    """Names of the bundled encoders that infer shapes, by their cards."""
    from bliss_astro.encoders._weights import ENCODERS

    cards = {name: ENCODERS.read_card(name) for name in ENCODERS.available()}
    return [name for name, card in cards.items() if card['encoder'].get('shapes')]
