# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fits of the PSF model: to images of the PSF, and to the stars of a frame.
"""

import re

import astropy.units as u
import numpy as np
from astropy.modeling import Model
from astropy.nddata import Cutout2D, NDData, StdDevUncertainty

from bliss_astro._arguments import first_wrong, require
from bliss_astro.units import MAD_TO_SIGMA

from ._joint_fit import StampFit, fit_image, fit_stars, minimise, rms
from ._mixture import DEFAULT_NORMALIZATION_RADIUS, DEFAULT_SHAPE
from ._profile import half_maximum_radius, integral, profile, scaled, value_of
from ._wing_prior import PRIOR_WIDTH, typical_shape

# Relative error of the model, so that the brightest star does not outvote the others.
_MODEL_ERROR = 0.02
# Fewest pixels of a stamp, and largest distance in pixels of a star from its middle.
_MIN_PIXELS, _MAX_OFFSET = 10, 3.5
# Side of the smallest image that can be fitted.
MIN_SIDE = 5
# An image of a PSF has its sky left in where pixels as bright as its outermost ones
# would make more than this share of its sum, and these are more than this share of
# those an eighth of the side further in.
_MAX_SKY_SHARE, _MIN_EDGE_RATIO, _INNER_RING = 0.2, 0.8, 0.125
# Side of the drawing of a model in pixels.
_DRAWING_SIDE = 51
# Names that astropy's and photutils' models give to the position, in compound
# models with a number behind.
_PLACE = re.compile(r'([xy])_(?:0|mean)(?:_\d+)?')

PHASES = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
"""Places within a pixel at which a PSF is drawn: one leaves a narrow core open."""
# Uniform error of such drawings in units of the peak: rings are beyond the model and
# must not spoil the core. Steps of the first fit, and of those near another one, and
# the relative decrease of chi2 at which they end.
_DRAWING_ERROR, _FIRST_STEPS, _NEXT_STEPS, _TOLERANCE = 1e-3, 30, 6, 1e-5


def fit_psf(
    cls,
    image,
    *,
    error=None,
    mask=None,
    background=None,
    use_prior=True,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
):
    """Fit an image of the PSF, or cut-outs of stars; see `PSFModel.fit`."""
    if isinstance(image, Model):
        image = draw_model(image, _DRAWING_SIDE // 2, _DRAWING_SIDE // 2)
    data, bad, error, unit = _take_apart(image, error, mask, (2, 3))
    allowed = f'be at least {MIN_SIDE} pixels wide and high'
    require(min(data.shape[-2:]) >= MIN_SIDE, 'image', allowed, data.shape)
    radius = normalization_radius
    if data.ndim == 3:
        return _fit_stars(
            *(cls, data, bad, error, unit, (0.0, 0.0), radius),
            background=background is None or background,
            use_prior=use_prior,
        )
    stamps, bad = data[None], bad[None]
    fit, _ = _start_fit(stamps, bad, radius, background=background, stars=False)
    if not use_prior:
        fit.prior_width = 1e3 * PRIOR_WIDTH
    residual = fit_image(fit, stamps, bad, error, background=background)
    psf = cls.from_fit(fit, residual, stamps.shape)
    psf.flux = fit.local[0, 0] if unit is None else fit.local[0, 0] * unit
    psf.x_0, psf.y_0 = fit.local[0, 1:3]
    return psf


def fit_psf_to_stars(
    cls,
    data,
    positions,
    *,
    error=None,
    mask=None,
    size=25,
    effective_gain=None,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    **options,
):
    """Fit one PSF shape to several stars of an image; see `PSFModel.fit_stars`."""
    data, bad, error, unit = _take_apart(data, error, mask, (2,))
    size = int(size)
    good = size >= MIN_SIDE and size % 2 == 1
    require(good, 'size', f'be odd and at least {MIN_SIDE}', size)
    places = _star_positions(positions)
    height, width = data.shape
    pixels = np.rint(places).astype(int)
    inside = ((pixels >= 0) & (pixels < (width, height))).all(1)
    allowed = f'lie on the image of {width} x {height} pixels'
    require(inside.any(), 'positions', allowed, 'none that does')
    corners = pixels[inside] - size // 2
    if effective_gain is not None:
        effective_gain = _positive(effective_gain, 'effective_gain', data.shape, None)
    stamps, bad, error, gain = (
        cut_stamps(values, corners, size, fill) if np.ndim(values) else values
        for values, fill in zip(
            (data, bad, error, effective_gain), (0.0, True, 1.0, 1.0), strict=True
        )
    )
    psf = _fit_stars(
        *(cls, stamps, bad, error, unit, corners.T, normalization_radius),
        gain=gain,
        **options,
    )
    psf.fit_info['index'] = np.flatnonzero(inside)
    return psf


def _fit_stars(
    cls,
    stamps,
    bad,
    error,
    unit,
    corner,
    radius,
    *,
    gain=None,
    background=True,
    model_error=_MODEL_ERROR,
    use_prior=True,
):
    """Fit stamps of stars whose first pixels lie at ``corner`` (x, y)."""
    require(model_error >= 0, 'model_error', 'be >= 0', model_error)
    fit, alive = _start_fit(stamps, bad, radius, background=background, stars=True)
    if not use_prior:
        # Kept, but so weak that it only stops what nothing else determines.
        fit.wings, fit.prior_width = False, 1e3 * PRIOR_WIDTH
    if error is None:
        error = _border_noise(stamps, bad)
    used, _ = fit_stars(
        *(fit, stamps, bad, error, alive),
        background=background,
        model_error=model_error,
        gain=gain,
    )
    residual = rms(fit, stamps, ~bad & used[:, None, None])
    psf = cls.from_fit(fit, residual, stamps.shape)
    flux, x, y, level = fit.local.T.copy()
    if unit is not None:
        flux, level = flux * unit, level * unit
    psf.fit_info |= {'flux': flux, 'x': x + corner[0], 'y': y + corner[1]}
    psf.fit_info |= {'background': level, 'used': used}
    return psf


def _start_fit(stamps, bad, radius, *, background, stars):
    """
    Guess flux, position and size of stars from their pixels above half maximum.

    Stars are near the middle of their stamps, an image of a PSF is not. Returns the
    `StampFit` and which stamps (n,) have a star.
    """
    rows, columns = stamps.shape[1:]
    yy, xx = np.mgrid[:rows, :columns]
    middle = np.hypot(yy - (rows - 1) / 2, xx - (columns - 1) / 2)
    local, sizes = np.zeros((len(stamps), 4)), np.ones(len(stamps))
    for k, (stamp, usable) in enumerate(zip(stamps, ~bad, strict=True)):
        search = usable & ((middle <= _MAX_OFFSET) | (not stars))
        if usable.sum() < _MIN_PIXELS or not search.any():
            continue
        level = np.median(stamp[usable]) if background else 0.0
        light = np.where(usable, stamp - level, -np.inf)
        row, column = divmod(np.where(search, light, -np.inf).argmax(), columns)
        peak = light[row, column]
        near = np.hypot(yy - row, xx - column) < max(rows, columns) / 2.5
        core = near & (light > 0.5 * peak)
        if peak > 0:
            x, y = (np.average(v[core], weights=light[core]) for v in (xx, yy))
            sizes[k] = max(2 * np.sqrt(core.sum() / np.pi), 1.2)
            local[k] = peak, x, y, level
    alive = local[:, 0] > 0
    if not alive.any():
        msg = 'no star to fit: no cut-out has usable, positive pixels at its centre'
        raise ValueError(msg)
    # Stars are the smallest sources; galaxies among them are larger.
    size = np.percentile(sizes[alive], 25 if alive.sum() > 3 else 50)
    shape = scaled(DEFAULT_SHAPE, size / (2 * half_maximum_radius(DEFAULT_SHAPE)))
    local[:, 0] *= integral(shape, radius) / profile(0.0, shape)
    begin = StampFit.of_star(shape, local, radius=radius)
    return begin if stars else StampFit(begin.theta, local, radius=radius), alive


def _border_noise(stamps, bad):
    """Noise on the outermost two pixels of cut-outs."""
    border = np.ones(stamps.shape[1:], bool)
    border[2:-2, 2:-2] = False
    values = np.where(bad, np.nan, stamps)[:, border]
    values = values[np.isfinite(values).sum(1) > 3]
    allowed = 'be given, where few pixels are usable'
    require(len(values), 'error', allowed, 'too few to measure it')
    values = values - np.nanmedian(values, axis=1, keepdims=True)
    noise = MAD_TO_SIGMA * np.nanmedian(np.abs(values))
    # Noise-free simulations have no scatter, and still need a scale.
    return max(noise, 1e-6 * np.nanmax(np.abs(stamps)))


def cut_stamps(array, corners, size, fill):
    """Cut stamps (n, size, size) from corners (x, y) that may lie beyond the image."""
    ny, nx = array.shape
    columns, rows = np.asarray(corners).T[..., None] + np.arange(size)
    rows, columns = rows[:, :, None], columns[:, None, :]
    stamps = array[rows.clip(0, ny - 1), columns.clip(0, nx - 1)]
    stamps[(rows < 0) | (rows >= ny) | (columns < 0) | (columns >= nx)] = fill
    return stamps


def fit_phases(stamps, *, radius, start=None):
    """
    Fit one shape to drawings of one PSF at the places of `PHASES`.

    The drawings (n, side, side) are of the same flux, each at their centre plus the
    phase; ``start`` is a shape vector to begin with, such as that of a place nearby.
    Returns the `StampFit` and the rms residual in units of the peak.
    """
    stamps = np.asarray(stamps, float) / np.max(stamps)
    half = (stamps.shape[1] - 1) / 2
    max_steps = _FIRST_STEPS if start is None else _NEXT_STEPS
    if start is None:
        # From the area above half of the maximum.
        fwhm = 2 * np.sqrt(np.mean((stamps > 0.5).sum((1, 2))) / np.pi)
        start = typical_shape(max(fwhm, 1.2))
    fit = StampFit.of_star(start, np.zeros((len(stamps), 4)), radius=radius)
    fit.local[:, 0] = integral(start, radius) / profile(0.0, start)
    fit.local[:, 1:3] = half + np.array(PHASES[: len(stamps)])
    weights = np.full(stamps.shape, 1 / _DRAWING_ERROR)
    options = {'max_steps': max_steps, 'tolerance': _TOLERANCE}
    minimise(fit, stamps, weights, with_background=False, **options)
    off = stamps - fit.model(stamps.shape[1:])
    return fit, float(np.sqrt(np.mean(np.square(off))))


# -- arguments -------------------------------------------------------------------------


def place_names(model):
    """Names of the parameters that are the position of a model: those of x, of y."""
    found = [_PLACE.fullmatch(name) for name in model.param_names]
    names = [[m.string for m in found if m and m[1] == axis] for axis in 'xy']
    if not all(names):
        msg = f'psf: {type(model).__name__} has no position parameters (x_0, y_0).'
        raise TypeError(msg)
    return names


def draw_model(model, x, y, dx=0.0, dy=0.0):
    """Draw a model of any kind at (x, y), in the middle of a pixel there or off it."""
    model = model.copy()
    for names, to in zip(place_names(model), (x + dx, y + dy), strict=True):
        # Parts of a compound model keep their distances.
        move = float(to - np.atleast_1d(getattr(model, names[0]).value)[0])
        for name in names:
            parameter = getattr(model, name)
            parameter.value = parameter.value + move
    offsets = np.arange(-(_DRAWING_SIDE // 2), _DRAWING_SIDE // 2 + 1, dtype=float)
    image = np.asarray(value_of(model(*np.meshgrid(x + offsets, y + offsets))), float)
    if not np.isfinite(image).all() or image.sum() <= 0:
        raise ValueError(f'psf: {type(model).__name__} is not positive and finite.')
    return image


def _take_apart(data, error, mask, dimensions):
    """Split data of any kind into plain arrays: data, bad pixels, error, unit."""
    unit = None
    if isinstance(data, NDData):
        unit = data.unit
        if error is None and isinstance(data.uncertainty, StdDevUncertainty):
            error = data.uncertainty.array
        mask = data.mask if mask is None else mask
    if isinstance(data, NDData | Cutout2D):
        data = data.data
    unit = getattr(data, 'unit', unit)
    data = np.asarray(value_of(data))
    got = f'{data.dtype} (Exposure.read reads files)'
    require(data.dtype.kind in 'iuf', 'data', 'be real numbers', got)
    data, good = data.astype(float), data.ndim in dimensions and data.size > 0
    allowed = f'be {" or ".join(f"{n}D" for n in dimensions)} and not empty'
    require(good, 'data', allowed, f'shape {data.shape}')
    bad = ~np.isfinite(data)
    if mask is not None:
        mask = np.asarray(mask)
        good, got = mask.dtype == bool, f'{mask.dtype} of {mask.shape}'
        good &= mask.shape == data.shape
        require(good, 'mask', f'be a bool array of shape {data.shape}', got)
        bad |= mask
    allowed = 'have at least one pixel that is finite and not masked'
    require(not bad.all(), 'data', allowed, 'none')
    data[bad] = 0.0
    if error is not None:
        error = _positive(error, 'error', data.shape, unit)
    return data, bad, error, unit


def _positive(value, name, shape, unit):
    """Positive number or map in the unit of the data; a gain in whatever it has."""
    if isinstance(value, u.Quantity) and unit is None and name == 'error':
        raise ValueError(f'{name} has the unit {value.unit}, but the image has none')
    value = np.asarray(value_of(value, unit), float)
    allowed = f'be a number or have shape {shape}'
    require(value.shape in ((), shape), name, allowed, value.shape)
    got = f'a minimum of {np.min(value)}'
    require(np.all(value > 0), name, 'be > 0 everywhere', got)
    return value


def _star_positions(positions):
    """Positions (n, 2) in pixels from an array or a table."""
    names = getattr(positions, 'colnames', None)
    if names is not None:
        pairs = (('x_centroid', 'y_centroid'), ('x', 'y'))
        pair = next((pair for pair in pairs if set(pair) <= set(names)), None)
        allowed = 'have columns x_centroid and y_centroid'
        require(pair is not None, 'positions', allowed, names)
        positions = np.column_stack([value_of(positions[name]) for name in pair])
    positions = np.asarray(positions, float)
    good = positions.ndim == 2 and positions.shape[1] == 2 and len(positions) > 0
    require(good, 'positions', 'have shape (n, 2), n > 0', positions.shape)
    finite = np.isfinite(positions)
    got = first_wrong(positions, finite)
    require(finite.all(), 'positions', 'be finite', got)
    return positions


def check_psf_pixels(image, name):
    """Refuse an image that is no PSF: not 2D, not finite, or with its sky left in."""
    finite, total = np.isfinite(image), np.sum(image)
    problem = None
    if image.ndim != 2:
        problem = f'be two-dimensional; got shape {image.shape}.'
    elif not finite.all():
        problem = f'be finite; got {first_wrong(image, finite)}.'
    elif not total > 0:
        got = f'a sum of {total:.6g}' if image.any() else 'zeros only'
        problem = f'have a positive sum; got {got}.'
    elif min(image.shape) >= MIN_SIDE:
        # Wings fall outwards, a sky does not; a wholly flat image is no PSF at all.
        outer, inner = (_median_of_ring(image, share) for share in (0, _INNER_RING))
        share = outer * image.size / total
        flat = np.isclose(share, 1.0, rtol=2e-4)
        if share > _MAX_SKY_SHARE and not flat and outer > _MIN_EDGE_RATIO * inner:
            problem = (
                f'have its sky subtracted; got a level of {outer:.3g} at its edges '
                f'that does not fall outwards, {100 * share:.0f} % of its sum. '
                'Subtract the median of the edges.'
            )
    if problem:
        raise ValueError(f'{name} must {problem}')


def _median_of_ring(image, share):
    """Median of the pixels at one distance from the edge, a share of the side."""
    depth = round(share * min(image.shape))
    inside = image[depth : image.shape[0] - depth, depth : image.shape[1] - depth]
    edge = np.ones(inside.shape, bool)
    edge[1:-1, 1:-1] = False
    return np.median(inside[edge])
