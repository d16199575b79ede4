# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Robust fits of the PSF to stamps: noise, misfit of the model, and outliers.
"""

import numpy as np

from bliss_astro.units import MAD_TO_SIGMA

from ._joint_fit import PRIOR_WIDTH, StampFit, minimise
from ._mixture import DEFAULT_SHAPE
from ._profile import half_maximum_radius, integral, profile, scaled
from ._wing_prior import LOOSE_MEAN, LOOSE_WIDTH, to_theta

__all__ = ['fit_image', 'fit_stamps', 'peaks', 'start_fit']

# Variance of a pixel of a PSF image of unknown noise, in units of that of its
# peak: the photons' share is proportional to the image, and this is the rest.
_PEAK_VARIANCE = 1e-3
# The largest residual of an image of the PSF, in units of the peak, raises it.
_MISFIT_SHARE = 2.0
# Residuals beyond this many sigma lose weight, as Cauchy's likelihood has it.
_CAUCHY_SIGMA = 3.0
# A star whose core has more than this times the usual squared residual is left out:
# the factor on its weights.
_MAX_SCORE, _REJECTED_WEIGHT = 6.0, 1e-3
# Relative error of the model in the first rounds.
_FIRST_MODEL_ERROR = 0.1
# Rings, between these radii in FWHM, whose mean residuals show a misfit; where its
# share begins; and the factor on its variance.
_MISFIT_FROM, _MISFIT_TO, _N_RINGS, _MISFIT_INNER = 0.75, 2.5, 7, 0.45
_MISFIT_VARIANCE = 4.0
# Fewest pixels of a stamp, and rounds of reweighting.
_MIN_PIXELS, _N_ROUNDS = 10, 6
# Steps of a round on stars before the last one, and the relative decrease of chi2
# at which a round ends.
_ROUND_STEPS, _ROUND_TOLERANCE = 5, 1e-5
# Largest distance in pixels of a star from the middle of its stamp, and by which a fit
# may move it.
_MAX_OFFSET, _MAX_MOVE = 3.5, 3.0


def fit_image(fit, stamps, bad, error=None, background=False):
    """Fit images of PSFs, reweighting their pixels; return the rms over the peak."""
    height = peaks(stamps, bad)
    for turn in range(_N_ROUNDS):
        model = fit.model(stamps.shape[1:])
        if error is None:
            variance = _variance_from_scatter(stamps, model, bad, height, turn)
        else:
            variance = _variance(fit, stamps, model, error, None, 0.0, turn)
        minimise(fit, stamps, _weights(variance, bad), with_background=background)
    return _rms(fit, stamps, ~bad)


def fit_stamps(
    stamps,
    bad,
    error,
    *,
    background,
    use_prior,
    radius,
    model_error,
    gain=None,
    start=None,
    rounds=range(_N_ROUNDS),
):
    """
    Fit stars robustly: fit, reweight, leave out those that do not fit, fit again.

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
    fit, measurable = start_fit(stamps, bad, radius, background, stars=True)
    fit.wings, fit.prior_mean, fit.prior_width = True, LOOSE_MEAN, LOOSE_WIDTH
    if start is not None:
        fit = start
    if not use_prior:
        # Kept, but so weak that it only stops what nothing else determines.
        fit.wings, fit.prior_width = False, 1e3 * PRIOR_WIDTH
    begun, used = fit.local[:, 1:3].copy(), measurable.copy()
    if error is None:
        error = _border_noise(stamps, bad)
    for turn in rounds:
        model = fit.model(stamps.shape[1:])
        variance = _variance(fit, stamps, model, error, gain, model_error, turn)
        if turn > min(rounds):
            variance = variance + _misfit(fit, stamps - model, bad, used, variance)
        weights = _weights(variance, bad)
        if turn:
            pull = (stamps - model) * weights
            used, share = _belongs(fit, pull, weights > 0, begun, measurable)
            weights = weights * share
        # Rejected stars determine their own position and flux alone, so that they can
        # come back when the shape is better known.
        weights[~used] *= _REJECTED_WEIGHT
        weights[~measurable] = 0.0
        # Weights change from round to round: only the last is worth a long fit.
        minimise(
            fit,
            stamps,
            weights,
            with_background=background,
            max_steps=40 if turn == _N_ROUNDS - 1 else _ROUND_STEPS,
            tolerance=_ROUND_TOLERANCE,
        )
    return fit, used, _rms(fit, stamps, ~bad & used[:, None, None]), weights


def _weights(variance, bad):
    return np.where(bad, 0.0, 1 / np.sqrt(np.broadcast_to(variance, bad.shape)))


def _rms(fit, stamps, use):
    """Rms residual of stamps in units of the peak."""
    off = (stamps - fit.model(stamps.shape[1:])) / peaks(stamps, ~use)[:, None, None]
    return float(np.sqrt(np.mean(off[use] ** 2)))


def start_fit(stamps, bad, radius, background, *, stars):
    """
    Guess position, flux and size of each star from its pixels above half maximum.

    Stars are near the middle of their stamps, an image of a PSF is not.
    """
    usable = ~bad
    alive = usable.sum((1, 2)) >= _MIN_PIXELS
    rows, columns = stamps.shape[1:]
    yy, xx = np.mgrid[:rows, :columns]
    middle = np.hypot(yy - (rows - 1) / 2, xx - (columns - 1) / 2)
    search = usable & ((middle <= _MAX_OFFSET) | (not stars))
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
        x, y = (np.average(v[core], weights=(stamp - level)[core]) for v in (xx, yy))
        sizes[k] = max(2 * np.sqrt(core.sum() / np.pi), 1.2)
        local[k] = peak, x, y, level
    if not alive.any():
        msg = 'no star to fit: no cut-out has usable, positive pixels at its centre'
        raise ValueError(msg)
    # Stars are the smallest sources; galaxies among them are larger.
    size = np.percentile(sizes[alive], 25 if alive.sum() > 3 else 50)
    shape = scaled(DEFAULT_SHAPE, size / (2 * half_maximum_radius(DEFAULT_SHAPE)))
    local[:, 0] *= integral(shape, radius) / profile(0.0, shape)
    return StampFit(to_theta(shape), local, radius=radius), alive


def _variance_from_scatter(stamps, model, bad, height, turn):
    """Scale photon-like noise so that the residuals are what it predicts."""
    height = height[:, None, None]
    floor = _PEAK_VARIANCE
    if turn:
        # What the model cannot follow, as diffraction rings, is no photon noise:
        # from its size down all pixels count alike, so that the area comes out right.
        off = np.where(bad, 0.0, np.abs(stamps - model)) / height
        floor = max(floor, _MISFIT_SHARE * float(off.max()))
    form = (np.maximum(stamps, 0) / height + floor) * height**2
    if turn == 0:
        return 1e-4 * form
    scale = np.mean((np.square(stamps - model) / form)[~bad])
    return max(scale, 1e-20) * form


def peaks(stamps, bad):
    """Return the brightest usable pixel of each cut-out, at least a tiny number."""
    return np.maximum(np.max(np.where(bad, 0.0, stamps), axis=(1, 2)), 1e-300)


def _border_noise(stamps, bad):
    """Measure the noise on the outermost two pixels of the cut-outs."""
    border = np.ones(stamps.shape[1:], bool)
    border[2:-2, 2:-2] = False
    values = np.where(bad, np.nan, stamps)[:, border]
    values = values[np.isfinite(values).sum(1) > 3]
    if len(values) == 0:
        msg = 'error must be given: too few usable pixels to measure it'
        raise ValueError(msg)
    values = values - np.nanmedian(values, axis=1, keepdims=True)
    noise = MAD_TO_SIGMA * np.nanmedian(np.abs(values))
    # Noise-free simulations have no scatter, and still need a scale.
    return max(noise, 1e-6 * np.nanmax(np.abs(stamps)))


def _variance(fit, stamps, model, error, gain, model_error, turn):
    """Predict the variance of the pixels of cut-outs, (n, rows, columns)."""
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
    step = (_MISFIT_TO - _MISFIT_FROM) / _N_RINGS
    ring = ((radius - _MISFIT_FROM) / step).clip(0, _N_RINGS - 1).astype(int).ravel()
    moment = np.bincount(ring, (weight * residual).ravel(), _N_RINGS)
    power = np.bincount(ring, (weight * peak).ravel(), _N_RINGS)
    known = power > 0
    if not known.any():
        return 0.0
    mean = moment[known] / power[known]
    size = np.mean(np.maximum(np.square(mean) - 1 / power[known], 0))
    form = np.clip((radius - _MISFIT_INNER) / (_MISFIT_FROM - _MISFIT_INNER), 0, 1)
    share = np.square(peak * form / np.maximum(radius, _MISFIT_FROM))
    return _MISFIT_VARIANCE * size * share


def _belongs(fit, pull, usable, start, measurable):
    """
    Return the stars that fit like the others (n,), and factors on pixels' weights.

    The core decides: a neighbour in the wing is dealt with pixel by pixel.
    """
    flux, x, y, _ = fit.local.T[..., None, None]
    yy, xx = np.mgrid[: pull.shape[1], : pull.shape[2]]
    reach = 1.5 * half_maximum_radius(fit.shape)
    core = (np.hypot(xx - x, yy - y) < reach) & usable
    score = (pull**2 * core).sum((1, 2)) / np.maximum(core.sum((1, 2)), 1)
    moved = np.hypot(*(fit.local[:, 1:3] - start).T)
    alive = measurable & core.any((1, 2)) & (flux[:, 0, 0] > 0) & (moved < _MAX_MOVE)
    if not alive.any():
        alive = measurable.copy()
    usual = max(np.median(score[alive]), 1.0)
    alive &= score <= _MAX_SCORE * usual
    score = np.minimum(score, _MAX_SCORE * usual)[:, None, None]
    share = 1 / np.sqrt(1 + pull**2 / (_CAUCHY_SIGMA**2 * usual))
    return alive, share / np.sqrt(1 + score / (2 * usual))
