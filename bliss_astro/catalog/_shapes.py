# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Shapes of galaxies: from draws in pixels to columns with units.

Inside, radii are pixels and angles radians; in tables radii are arcsec where
there is a celestial WCS and else pixels, and angles degrees. Every number is
given that the source is a galaxy.
"""

import json

import astropy.units as u
import numpy as np
from astropy.wcs import WCS

from bliss_astro.priors import GALAXY_SHAPE_NAMES

from ._columns import COLUMNS, SHAPE_COLUMNS

__all__ = [
    'SHAPE_NAMES',
    'angle_quantiles',
    'convert_shape',
    'explain_no_shapes',
    'inferred_shapes',
    'latent_dim',
    'mean_angle',
    'pixel_scale',
    'shape_columns',
    'shape_draws',
    'shape_unit',
    'tabulate_shapes',
]

SHAPE_NAMES = frozenset((*SHAPE_COLUMNS, *(f'{name}_err' for name in SHAPE_COLUMNS)))
"""All columns of shapes, errors included."""

_ELLIPTICITY = ('e1', 'e2')
# The quantiles of one standard deviation of a normal distribution.
_TAILS = (0.15865525, 0.84134475)


# -- units -------------------------------------------------------------------


def pixel_scale(wcs):
    """
    Measure the size of a pixel on the sky.

    Parameters
    ----------
    wcs : WCS object
        A celestial WCS of two pixel axes.

    Returns
    -------
    scale : float
        Arcsec per pixel, the mean over both axes: for a FITS WCS at its
        reference pixel, for another kind at the middle of its array (or at
        the first pixel where it has none).
    """
    if isinstance(wcs, WCS):
        scales = wcs.proj_plane_pixel_scales()
        return float(np.mean([scale.to_value(u.arcsec) for scale in scales]))
    ny, nx = getattr(wcs, 'array_shape', None) or (1, 1)
    x, y = 0.5 * (nx - 1), 0.5 * (ny - 1)
    places = wcs.pixel_to_world([x, x + 1, x], [y, y, y + 1])
    return float(places[1:].separation(places[0]).to_value(u.arcsec).mean())


def shape_unit(name, *, scale):
    """
    Choose the unit of a column of shapes.

    Parameters
    ----------
    name : str
        A name out of `SHAPE_NAMES`.

    scale : float or `None`
        Arcsec per pixel, if there is a WCS.

    Returns
    -------
    unit : `~astropy.units.Unit` or `None`
        Arcsec or pix for radii, degrees for angles, `None` for the others.
    """
    rule = COLUMNS[name].unit
    if rule == 'length':
        return u.pix if scale is None else u.arcsec
    return u.deg if rule == 'deg' else None


def convert_shape(name, values, *, scale):
    """
    Bring a column of shapes to the unit of the table.

    Parameters
    ----------
    name : str
        A name out of `SHAPE_NAMES`.

    values : array_like or `~astropy.units.Quantity`
        Radii in pixels (plain numbers too) or in an angular unit, angles in
        an angular unit or in degrees as plain numbers, others plain.

    scale : float or `None`
        Arcsec per pixel, if there is a WCS.

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
            return plain * factor, shape_unit(name, scale=scale)
    msg = f'columns[{name!r}] must be in {allowed}, got {own}'
    raise u.UnitsError(msg)


def _with_unit(name, values, scale):
    values, unit = convert_shape(name, values, scale=scale)
    return values if unit is None else u.Quantity(values, unit)


# -- angles --------------------------------------------------------------------


def mean_angle(angle):
    """
    Take the mean of directions without a sign.

    Parameters
    ----------
    angle : array_like ``(..., P)``
        Degrees; 0 and 180 are the same.

    Returns
    -------
    mean : `~numpy.ndarray` ``(...,)``
        Half the argument of the mean of ``exp(2 i angle)``, in [0, 180).
    """
    phase = np.exp(2j * np.deg2rad(np.asarray(angle, dtype=float))).mean(-1)
    return _half_turn(0.5 * np.rad2deg(np.angle(phase)))


def angle_quantiles(angle, q):
    """
    Take quantiles of directions without a sign, around their mean.

    Parameters
    ----------
    angle : array_like ``(N, P)``
        Degrees.

    q : float or sequence of float
        Probabilities.

    Returns
    -------
    quantiles : `~numpy.ndarray` ``(..., N)``
        Quantiles of the differences from `mean_angle`, which lie within 90
        degrees, added to it: they may be below 0 or above 180, so that the lower
        one of two is the smaller number.
    """
    angle = np.asarray(angle, dtype=float)
    mean = mean_angle(angle)
    apart = (angle - mean[:, None] + 90.0) % 180.0 - 90.0
    return mean + np.quantile(apart, q, axis=1)


def _half_turn(angle):
    """
    Bring angles into [0, 180), whatever rounding does.
    """
    angle = np.mod(angle, 180.0)
    return np.where(angle >= 180.0, 0.0, angle)


# -- what there is ------------------------------------------------------------------


def latent_dim(head):
    """
    Say how many numbers a learned model of galaxies has.

    Parameters
    ----------
    head : ``StarHead``
        The head of the encoder.

    Returns
    -------
    n : int
        0 where shapes are those of bulge and disk, or not inferred.
    """
    return head.source[0]['shape'].latent_dim if head.shapes else 0


def inferred_shapes(sources, head):
    """
    Name the columns of shapes that sources have.

    Parameters
    ----------
    sources : `~bliss_astro.posteriors.SourceMarginals`
        The sources.

    head : ``StarHead``
        The head of the encoder.

    Returns
    -------
    names : tuple of str
        Of a learned model only the ellipticity; its latent numbers mean nothing
        by themselves.
    """
    if sources.shapes is None:
        return ()
    return _ELLIPTICITY if latent_dim(head) else SHAPE_COLUMNS


# -- draws and summaries ---------------------------------------------------------


def shape_draws(sources, name):
    """
    Draws of one number, given that the sources are galaxies.

    Parameters
    ----------
    sources : `~bliss_astro.posteriors.SourceMarginals`
        N sources, with shapes.

    name : str
        A name out of `SHAPE_COLUMNS`.

    Returns
    -------
    values : `~numpy.ndarray` ``(N, P)``
        Radii in pixels, angles in degrees.
    """
    if name in _ELLIPTICITY:
        part = sources.ellipticity[..., _ELLIPTICITY.index(name)]
    else:
        part = sources.shapes[..., GALAXY_SHAPE_NAMES.index(name)]
    return _clean(name, part.double().cpu().numpy())


def _clean(name, values):
    """
    Degrees for radians, and no ratio above 1 by rounding of single precision.
    """
    if name == 'angle':
        return _half_turn(np.rad2deg(values))
    return np.clip(values, *COLUMNS[name].limits)


def shape_columns(sources, names=SHAPE_COLUMNS, *, scale):
    """
    Summarise the shapes of sources as columns.

    Parameters
    ----------
    sources : `~bliss_astro.posteriors.SourceMarginals`
        N sources; without shapes there are no columns.

    names : sequence of str, optional
        Which of `SHAPE_COLUMNS`.

    scale : float or `None`
        Arcsec per pixel, if there is a WCS.

    Returns
    -------
    columns : dict of str to array_like or `~astropy.units.Quantity`
        Medians, for the angle the mean direction, and half the widths between
        the 16 and 84 percent quantiles. A direction of which nothing is known
        has an error of 61.4 degrees.
    """
    columns = {}
    if sources.shapes is None:
        return columns
    for name in names:
        draws = shape_draws(sources, name)
        if name == 'angle':
            middle, (low, high) = mean_angle(draws), angle_quantiles(draws, _TAILS)
        else:
            low, middle, high = np.quantile(draws, (_TAILS[0], 0.5, _TAILS[1]), axis=1)
        columns[name] = _with_unit(name, middle, scale)
        error = f'{name}_err'
        columns[error] = _with_unit(error, 0.5 * (high - low), scale)
    return columns


def tabulate_shapes(shapes, is_galaxy, *, scale):
    """
    Turn the shapes of one drawn catalogue into columns.

    Parameters
    ----------
    shapes : tensor ``(N, 6)``
        In the order of ``GALAXY_SHAPE_NAMES``, radii in pixels, angles in radians.

    is_galaxy : 1D bool array
        The others get NaN.

    scale : float or `None`
        Arcsec per pixel, if there is a WCS.

    Returns
    -------
    columns : dict of str to `~numpy.ndarray` or `~astropy.units.Quantity`
        The six numbers, in the order of the tables.
    """
    values = shapes.double().cpu().numpy()
    columns = {}
    for name in SHAPE_COLUMNS:
        if name not in _ELLIPTICITY:
            own = _clean(name, values[:, GALAXY_SHAPE_NAMES.index(name)])
            columns[name] = _with_unit(name, np.where(is_galaxy, own, np.nan), scale)
    return columns


# -- what to say where there are none ----------------------------------------------


def explain_no_shapes(name, encoder, *, others=False):
    """
    Explain why a table has no column of shapes.

    Parameters
    ----------
    name : str
        The column that was asked for.

    encoder : str, dict or `None`
        The encoder that the table comes from as its meta names it, if known.

    others : bool, optional
        Whether there are other columns of shapes.

    Returns
    -------
    text : str
        With the bundled encoders that do infer shapes.
    """
    encoder = encoder.get('name') if isinstance(encoder, dict) else encoder
    if others:
        return (
            f'there is no column {name!r} in this table: it was removed, or its '
            f'encoder {encoder!r} describes galaxies by a learned model, of which '
            'only e1 and e2 are columns'
        )
    able = _able_encoders()
    if encoder in able:
        return (
            f'there is no column {name!r} in this table, although its encoder '
            f'{encoder!r} infers shapes of galaxies: it was left out or removed'
        )
    which = ' and '.join(repr(other) for other in able) or 'none'
    reason = 'it comes from no encoder that infers shapes of galaxies'
    if encoder is not None:
        reason = f'its encoder {encoder!r} infers no shapes of galaxies'
    return (
        f'there is no column {name!r} in this table: {reason}; of the bundled '
        f'encoders these do: {which} (see available_encoders)'
    )


def _able_encoders():
    """
    Names of the bundled encoders that infer shapes, by their cards.
    """
    from bliss_astro.encoders import available_encoders
    from bliss_astro.encoders._pretrained import find_encoder

    cards = {
        name: json.loads(find_encoder(name).with_suffix('.json').read_text())
        for name in available_encoders()
    }
    return [name for name, card in cards.items() if card['encoder'].get('shapes')]
