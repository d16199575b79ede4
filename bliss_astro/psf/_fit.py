# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fits of the PSF model: to an image of the PSF, and to the stars of a frame.
"""

import numpy as np
from astropy.modeling import Model

from ._engine import PRIOR_WIDTH, StampFit, minimise, to_theta
from ._inputs import image_of_model, positive_numbers, star_positions, take_apart
from ._mixture import DEFAULT_NORMALIZATION_RADIUS, DEFAULT_SHAPE
from ._profile import half_maximum_radius, integral, profile
from ._wings import LOOSE_MEAN, LOOSE_WIDTH

__all__ = ['fit_psf', 'fit_psf_to_stars']

# Variance of a pixel of a PSF image of unknown noise, in units of that of its
# peak: the photons' share is proportional to the image, and this is the rest.
_FLOOR = 1e-3
# The largest residual of an image of the PSF, in units of the peak, raises it.
_SHARE_OF_MISFIT = 2.0

# Residuals beyond this many sigma lose weight, as Cauchy's likelihood has it.
_ROBUST_SCALE = 3.0

# A star whose core has more than this times the usual squared residual is left out.
_MAX_SCORE = 6.0

# Factor on the weights of those that are left out.
_LEFT_OUT = 1e-3

# Relative error of the model: by default, and in the first rounds.
_MODEL_ERROR = 0.02
_FIRST_MODEL_ERROR = 0.1

# Rings, between these radii in FWHM, whose mean residuals show a misfit; where its
# share begins; and the factor on its variance.
_MISFIT_FROM, _MISFIT_TO, _N_MISFIT, _MISFIT_INNER = 0.75, 2.5, 7, 0.45
_MISFIT = 4.0

_MIN_SIDE = 5
_N_ROUNDS = 6
# Steps of a round on stars before the last one, and the relative decrease of chi2
# at which a round ends.
_BRIEF_STEPS, _BRIEF_TOLERANCE = 5, 1e-5


def fit_psf(
    image,
    *,
    error=None,
    mask=None,
    background=None,
    use_prior=True,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    model_class=None,
):
    """
    Fit `PSFModel` to an image of the PSF, or to cut-outs of stars.

    Parameters
    ----------
    image : 2D or 3D array, `~astropy.units.Quantity`, `~astropy.nddata.NDData` \
or `~astropy.modeling.Model`
        An image of the PSF (one star, any flux, anywhere on the image but
        brightest); or n cut-outs (n, rows, columns), each with a star near
        its centre; or another PSF model.

    error : float or array, optional
        Standard deviation of the pixels. By default it is taken from the
        scatter of the residuals.

    mask : bool array, optional
        `True` where a pixel is not to be used, as are those not finite.

    background : bool, optional
        Whether to fit a constant background, one for each star. The default
        is to do so for cut-outs, and not for an image of the PSF.

    use_prior : bool, optional
        Whether what the image leaves open (most often the wing) follows the
        usual: for an image of the PSF what SDSS found for its fields, for
        stars the range of real telescopes, from Gaussian and Airy to Moffat
        profiles of slope 2.

    normalization_radius : float, optional
        Radius in pixels within which the flux is counted.

    model_class : type, optional
        Subclass of `PSFModel` to return.

    Returns
    -------
    psf : `PSFModel`
        The fit. Its flux and position are those on the image; with cut-outs it
        has unit flux and lies at the origin. ``fit_info`` holds ``residual``
        (rms in units of the peak), ``converged``, and for cut-outs ``flux``,
        ``x``, ``y``, ``background`` and ``used`` of each.

    Raises
    ------
    ValueError
        If the image has another dimension, is smaller than 5 pixels, has no
        usable or no positive pixels, or its mask or error another shape; or if
        what fits is wider than the image.
    """
    if isinstance(image, Model):
        image = image_of_model(image)
    data, bad, error, unit = take_apart(image, error, mask, (2, 3))
    single = data.ndim == 2
    if background is None:
        background = not single
    stamps = data
    if single:
        stamps, bad = data[None], bad[None]
        error = error if np.ndim(error) == 0 else error[None]
    if min(stamps.shape[1:]) < _MIN_SIDE:
        msg = (
            f'image must be at least {_MIN_SIDE} pixels wide and high, got '
            f'{stamps.shape[2]} x {stamps.shape[1]}'
        )
        raise ValueError(msg)
    fit, used, residual, _ = fit_robustly(
        stamps,
        bad,
        error,
        background=background,
        use_prior=use_prior,
        radius=normalization_radius,
        near_center=not single,
        model_error=0.0 if single else _MODEL_ERROR,
    )
    psf = as_model(fit, model_class, residual, normalization_radius)
    if not psf.fwhm < max(stamps.shape[1:]):
        msg = (
            f'image shows no PSF: what fits it is {psf.fwhm:.3g} px wide, and it has '
            f'{stamps.shape[2]} x {stamps.shape[1]} px; a PSF falls towards the edges, '
            'with its background taken off'
        )
        raise ValueError(msg)
    if single:
        psf.flux = fit.local[0, 0] if unit is None else fit.local[0, 0] * unit
        psf.x_0, psf.y_0 = fit.local[0, 1:3]
    else:
        psf.fit_info.update(_star_info(fit, used, unit, 0.0, 0.0))
    return psf


def fit_psf_to_stars(
    data,
    positions,
    *,
    error=None,
    mask=None,
    size=25,
    effective_gain=None,
    model_error=_MODEL_ERROR,
    use_prior=True,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    model_class=None,
):
    """
    Fit one PSF shape to several stars of an image.

    Each star gets its own flux, sub-pixel position and background. Pixels that
    no star explains (neighbours, cosmic rays) lose their weight, and stars
    that fit much worse than the others (galaxies, blends) are left out.

    Parameters
    ----------
    data : 2D array, `~astropy.units.Quantity` or `~astropy.nddata.NDData`
        The image.

    positions : (n, 2) array or `~astropy.table.Table`
        Positions (x, y) in pixels, good to a pixel; or a table with columns
        ``x_centroid`` and ``y_centroid``, or ``x`` and ``y``.

    error : float or array, optional
        Standard deviation of the background per pixel, in the unit of the
        data. By default it is measured at the borders of the cut-outs.

    mask : bool array, optional
        `True` where a pixel is not to be used.

    size : int, optional
        Side of the cut-outs in pixels, odd.

    effective_gain : float or array, optional
        Electrons per unit of the data, for the stars' own photon noise.

    model_error : float, optional
        How far the true PSF may be from the model, relative to it. It keeps
        the brightest star from having all the say.

    use_prior, normalization_radius, model_class
        As in `fit_psf`.

    Returns
    -------
    psf : `PSFModel`
        The fit, of unit flux and at the origin. ``fit_info`` holds ``flux``,
        ``x``, ``y`` and ``background`` of the stars, which of them were
        ``used``, the ``residual`` and whether it ``converged``.

    Raises
    ------
    ValueError
        If the data are not 2D, no star lies on them, or an argument is
        out of its range.
    """
    data, bad, error, unit = take_apart(data, error, mask, (2,))
    size = int(size)
    if size < _MIN_SIDE or size % 2 == 0:
        msg = f'size must be odd and at least {_MIN_SIDE}, got {size}'
        raise ValueError(msg)
    if not model_error >= 0:
        msg = f'model_error must be >= 0, got {model_error}'
        raise ValueError(msg)
    x, y = star_positions(positions)
    reach = size // 2
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    height, width = data.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    if not inside.any():
        msg = f'positions must lie on the image of {width} x {height} pixels; none does'
        raise ValueError(msg)
    corner_x, corner_y = column[inside] - reach, row[inside] - reach

    stamps = cut_stamps(data, bad, corner_x, corner_y, size)
    gain = None
    if effective_gain is not None:
        effective_gain = positive_numbers(
            effective_gain, 'effective_gain', data.shape, None
        )
        gain = _cut(effective_gain, data.shape, corner_x, corner_y, size, 1.0)
    if np.ndim(error):
        error = _cut(error, data.shape, corner_x, corner_y, size, 1.0)
    fit, used, residual, _ = fit_robustly(
        *stamps,
        error,
        background=True,
        use_prior=use_prior,
        radius=normalization_radius,
        near_center=True,
        gain=gain,
        model_error=model_error,
    )
    psf = as_model(fit, model_class, residual, normalization_radius)
    info = _star_info(fit, used, unit, corner_x, corner_y)
    info['index'] = np.flatnonzero(inside)
    psf.fit_info.update(info)
    return psf


def cut_stamps(data, bad, corner_x, corner_y, size):
    """
    Cut stamps out of an image and its bad pixels; what lies outside is bad.
    """
    return (
        _cut(data, data.shape, corner_x, corner_y, size, 0.0),
        _cut(bad, data.shape, corner_x, corner_y, size, True),
    )


def _cut(array, shape, corner_x, corner_y, size, fill):
    """
    Cut stamps (n, size, size) that may reach beyond the image.
    """
    reach = size // 2
    padded = np.pad(np.broadcast_to(array, shape), reach, constant_values=fill)
    return np.stack(
        [
            padded[j + reach :, i + reach :][:size, :size]
            for i, j in zip(corner_x, corner_y, strict=True)
        ]
    )


def fit_robustly(
    stamps,
    bad,
    error,
    *,
    background,
    use_prior,
    radius,
    near_center,
    gain=None,
    model_error=0.0,
    start=None,
    rounds=range(_N_ROUNDS),
):
    """
    Fit, reweight, leave out what does not belong, and fit again.

    A joint fit to begin with may be given as ``start``; a good one needs the
    later rounds only.

    Returns
    -------
    fit : `StampFit`
        The joint fit.

    used : (n,) bool array
        Which stars it rests on.

    residual : float
        Weighted rms of the residuals in units of the peak.

    weights : (n, rows, columns) array
        Those of the last round.
    """
    fit, alive = _start(stamps, bad, radius, near_center, background)
    if near_center:
        fit.wings, fit.prior_mean, fit.prior_width = True, LOOSE_MEAN, LOOSE_WIDTH
    if start is not None:
        start.radius = radius
        fit = start
    if not use_prior:
        # Kept, but so weak that it only stops what nothing else determines.
        fit.wings, fit.prior_width = False, 1e3 * PRIOR_WIDTH
    begun, height = fit.local[:, 1:3].copy(), _peaks(stamps, bad)
    measurable = alive.copy()
    if error is None and near_center:
        error = _border_noise(stamps, bad)
    for turn in rounds:
        model = fit.model(stamps.shape[1:])
        if error is None:
            variance = _variance_from_scatter(stamps, model, bad, height, turn)
        else:
            variance = _variance(fit, stamps, model, error, gain, model_error, turn)
        if near_center and turn > min(rounds):
            variance = variance + _misfit(fit, stamps - model, bad, alive, variance)
        weights = np.where(bad, 0.0, 1 / np.sqrt(np.broadcast_to(variance, bad.shape)))
        if near_center and turn:
            pull = (stamps - model) * weights
            alive, share = _belongs(fit, pull, weights > 0, begun, measurable)
            weights = weights * share
        # Those left out keep a say in their own position and flux alone, so that
        # they can come back when the shape is better known.
        weights[~alive] *= _LEFT_OUT
        weights[~measurable] = 0.0
        # Weights change from round to round: only the last is worth a long fit.
        last = turn == _N_ROUNDS - 1
        brief = near_center and not last
        minimise(
            fit,
            stamps,
            weights,
            with_background=background,
            max_steps=_BRIEF_STEPS if brief else 40,
            tolerance=_BRIEF_TOLERANCE if near_center else 1e-9,
        )
    off = (stamps - fit.model(stamps.shape[1:])) / height[:, None, None]
    residual = float(np.sqrt(np.mean(off[~bad & alive[:, None, None]] ** 2)))
    return fit, alive, residual, weights


def _start(stamps, bad, radius, near_center, background):
    """
    Guess position, flux and size of each star from its pixels above half maximum.
    """
    usable = ~bad
    alive = usable.sum((1, 2)) >= 2 * _MIN_SIDE
    rows, columns = stamps.shape[1:]
    yy, xx = np.mgrid[:rows, :columns]
    middle = np.hypot(yy - (rows - 1) / 2, xx - (columns - 1) / 2)
    search = usable & ((middle <= 3.5) | (not near_center))
    local, sizes = np.zeros((len(stamps), 4)), np.ones(len(stamps))
    for k, stamp in enumerate(stamps):
        if not (alive[k] and search[k].any()):
            alive[k] = False
            continue
        level = np.median(stamp[usable[k]]) if background else 0.0
        peak = np.max(stamp[search[k]]) - level
        row, column = np.argwhere(search[k] & (stamp - level == peak))[0]
        if not peak > 0:
            alive[k] = False
            continue
        near = usable[k] & (np.hypot(yy - row, xx - column) < max(rows, columns) / 2.5)
        core = near & (stamp - level > 0.5 * peak)
        weight = (stamp - level)[core]
        x, y = (
            np.average(xx[core], weights=weight),
            np.average(yy[core], weights=weight),
        )
        sizes[k] = max(2 * np.sqrt(core.sum() / np.pi), 1.2)
        local[k] = peak, x, y, level
    if not alive.any():
        msg = 'no star to fit: no cut-out has usable, positive pixels at its centre'
        raise ValueError(msg)
    shape = np.array(DEFAULT_SHAPE)
    # Stars are the smallest sources; galaxies among them are larger.
    scale = np.percentile(sizes[alive], 25 if alive.sum() > 3 else 50) / (
        2 * half_maximum_radius(shape)
    )
    shape[[0, 1, 3]] *= scale
    local[:, 0] *= integral(shape, radius) / profile(0.0, shape)
    return StampFit(to_theta(shape), local, radius=radius), alive


def _variance_from_scatter(stamps, model, bad, height, turn):
    """
    Scale photon-like noise so that the residuals are what it predicts.
    """
    height = height[:, None, None]
    floor = _FLOOR
    if turn:
        # What the model cannot follow, as diffraction rings, is no photon noise:
        # from its size down all pixels count alike, so that the area comes out right.
        off = np.where(bad, 0.0, np.abs(stamps - model)) / height
        floor = max(floor, _SHARE_OF_MISFIT * float(off.max()))
    form = (np.maximum(stamps, 0) / height + floor) * height**2
    if turn == 0:
        return 1e-4 * form
    scale = np.mean((np.square(stamps - model) / form)[~bad])
    return max(scale, 1e-20) * form


def _peaks(stamps, bad):
    """
    Return the brightest usable pixel of each cut-out, at least a tiny number.
    """
    return np.maximum(np.max(np.where(bad, 0.0, stamps), axis=(1, 2)), 1e-300)


def _border_noise(stamps, bad):
    """
    Measure the noise on the outermost two pixels of the cut-outs.
    """
    border = np.ones(stamps.shape[1:], bool)
    border[2:-2, 2:-2] = False
    values = np.where(bad, np.nan, stamps)[:, border]
    values = values[np.isfinite(values).sum(1) > 3]
    if len(values) == 0:
        msg = 'error must be given: too few usable pixels to measure it'
        raise ValueError(msg)
    values = values - np.nanmedian(values, axis=1, keepdims=True)
    noise = 1.4826 * np.nanmedian(np.abs(values))
    # Noise-free simulations have no scatter, and still need a scale.
    return max(noise, 1e-6 * np.nanmax(np.abs(stamps)))


def _variance(fit, stamps, model, error, gain, model_error, turn):
    """
    Predict the variance of the pixels of cut-outs, (n, rows, columns).
    """
    level = fit.local[:, 3, None, None]
    signal = np.maximum(model - level, 0)
    if turn < _N_ROUNDS // 2:
        # A poor first model must not call bright pixels precise, nor may the
        # brightest source outvote all others.
        signal = np.maximum(signal, stamps - level)
        model_error = max(model_error, _FIRST_MODEL_ERROR)
    variance = np.square(error) + (model_error * signal) ** 2
    return variance if gain is None else variance + signal / gain


def _misfit(fit, residual, bad, alive, variance):
    """
    Variance that the model's own misfit around the core adds, as a map.

    Diffraction rings are beyond two Gaussians and a power law. Where the mean
    residual around the stars has them, they must not spoil the core: the misfit
    is an error that falls with the distance from the half-maximum radius.
    """
    flux, x, y, _ = fit.local.T[..., None, None]
    yy, xx = np.mgrid[: residual.shape[1], : residual.shape[2]]
    radius = np.hypot(xx - x, yy - y) / (2 * half_maximum_radius(fit.shape))
    peak = flux * profile(0.0, fit.shape) / integral(fit.shape, fit.radius)
    use = ~bad & alive[:, None, None] & (peak > 0)
    use &= (radius > _MISFIT_FROM) & (radius < _MISFIT_TO)
    weight = np.where(use, peak / variance, 0.0)
    step = (_MISFIT_TO - _MISFIT_FROM) / _N_MISFIT
    ring = ((radius - _MISFIT_FROM) / step).clip(0, _N_MISFIT - 1).astype(int).ravel()
    moment = np.bincount(ring, (weight * residual).ravel(), _N_MISFIT)
    power = np.bincount(ring, (weight * peak).ravel(), _N_MISFIT)
    known = power > 0
    if not known.any():
        return 0.0
    mean = moment[known] / power[known]
    size = np.mean(np.maximum(np.square(mean) - 1 / power[known], 0))
    form = np.clip((radius - _MISFIT_INNER) / (_MISFIT_FROM - _MISFIT_INNER), 0, 1)
    return _MISFIT * size * np.square(peak * form / np.maximum(radius, _MISFIT_FROM))


def _belongs(fit, pull, usable, start, measurable):
    """
    Tell the stars that fit like the others, and how much each pixel is to count.

    Returns
    -------
    alive : (n,) bool array
        Stars to keep.

    share : (n, rows, columns) array
        Factors below 1 on the pixels' weights.
    """
    # The core decides: a neighbour in the wing is dealt with pixel by pixel.
    flux, x, y, _ = fit.local.T[..., None, None]
    yy, xx = np.mgrid[: pull.shape[1], : pull.shape[2]]
    reach = 1.5 * half_maximum_radius(fit.shape)
    core = (np.hypot(xx - x, yy - y) < reach) & usable
    score = (pull**2 * core).sum((1, 2)) / np.maximum(core.sum((1, 2)), 1)
    moved = np.hypot(*(fit.local[:, 1:3] - start).T)
    alive = measurable & core.any((1, 2)) & (flux[:, 0, 0] > 0) & (moved < 3)
    if not alive.any():
        alive = measurable.copy()
    usual = max(np.median(score[alive]), 1.0)
    alive &= score <= _MAX_SCORE * usual
    score = np.minimum(score, _MAX_SCORE * usual)[:, None, None]
    share = 1 / np.sqrt(1 + pull**2 / (_ROBUST_SCALE**2 * usual))
    return alive, share / np.sqrt(1 + score / (2 * usual))


def as_model(fit, model_class, residual, radius):
    """
    Make the model of unit flux at the origin, and say how the fit went.
    """
    if model_class is None:
        from ._model import PSFModel as model_class  # noqa: N813
    psf = model_class.from_shape(fit.shape, normalization_radius=radius)
    psf.fit_info = {'residual': residual, 'converged': fit.converged}
    return psf


def _star_info(fit, used, unit, corner_x, corner_y):
    """
    Collect what the fit found of each star.
    """
    flux, x, y, background = fit.local.T.copy()
    if unit is not None:
        flux, background = flux * unit, background * unit
    return {
        'flux': flux,
        'x': x + corner_x,
        'y': y + corner_y,
        'background': background,
        'used': used,
    }
