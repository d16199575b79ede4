# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Joint fit of one PSF shape to many stars, by Levenberg and Marquardt, and robust.

Each star has its own flux, position and background, so the normal equations are an
arrow: eight shape parameters that all stars share, and a block of three or four for
each star. The blocks are eliminated first, which makes a hundred stars as cheap as a
hundred fits of one. Pixels lose weight where the model does not hold, and stars that do
not fit like the others are left out. Leading axes ``...`` are those of several fits.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._profile import (
    half_maximum_radius,
    integral,
    profile,
    psf_derivatives,
    unit_profile,
)
from ._wing_prior import (
    LOOSE_MEAN,
    LOOSE_WIDTH,
    PRIOR_MEAN,
    PRIOR_WIDTH,
    THETA_STEP,
    shape_jacobian,
    to_shape,
    to_theta,
    wing_pull,
)

# Levenberg-Marquardt damping of the first step, and the largest and smallest one.
_DAMPING, _MAX_DAMPING, _MIN_DAMPING = 1e-3, 1e10, 1e-12
# Last axes of stamps: stars, rows, columns.
_STAMPS = (-3, -2, -1)
# Largest step in an entry of theta, the step at which a fit has converged, and the
# relative decrease of chi2 at which a long fit ends.
_LARGEST_STEP, _CONVERGED_STEP, _TOLERANCE = 1.0, 1e-5, 1e-9
# Entries of theta that are estimated for each star: log size and ellipticity.
_OWN_ENTRIES = [0, 6, 7]

# Variance of a pixel of a PSF image of unknown noise, in units of that of its peak, the
# photons' share being proportional to the image; the largest residual raises it.
_PEAK_VARIANCE, _MISFIT_SHARE = 1e-3, 2.0
# Residuals beyond so many sigma lose weight, as Cauchy's likelihood has it; largest
# distance in pixels by which a fit may move a star.
_CAUCHY_SIGMA, _MAX_MOVE = 3.0, 3.0
# A star whose core has more than this times the usual squared residual is left out:
# the factor on its weights.
_MAX_SCORE, _REJECTED_WEIGHT = 6.0, 1e-3
# Relative error of the model in the first rounds.
_FIRST_MODEL_ERROR = 0.1
# Rings, between these radii in FWHM, whose mean residuals show a misfit; where its
# share begins; and the factor on its variance.
_MISFIT_FROM, _MISFIT_TO, _N_RINGS, _MISFIT_INNER = 0.75, 2.5, 7, 0.45
_MISFIT_VARIANCE = 4.0
# Rounds of reweighting, steps of one before the last, steps of the last, and the
# relative decrease of chi2 at which one on stars ends.
_N_ROUNDS, _ROUND_STEPS, _LAST_STEPS, _ROUND_TOLERANCE = 6, 5, 40, 1e-5


@dataclass
class StampFit:
    """
    State of a joint fit: the shared shape, and each of n stars' own parameters.

    ``theta`` (..., 8) is the shape, ``local`` (..., n, 4) flux, x, y (from the stamp's
    first pixel) and background. The prior of theta is Gaussian, an infinite width none;
    with ``wings`` the profile has that of real telescopes too, and ``background_width``
    is the width of a prior about zero of the backgrounds. ``covariance`` is that of
    theta, all else marginalised, where the fit ended.
    """

    theta: np.ndarray
    local: np.ndarray
    prior_mean: np.ndarray = field(default_factory=PRIOR_MEAN.copy)
    prior_width: np.ndarray = field(default_factory=PRIOR_WIDTH.copy)
    radius: float = DEFAULT_NORMALIZATION_RADIUS
    wings: bool = False
    background_width: float = np.inf
    chi2: float = np.inf
    converged: bool = False
    covariance: np.ndarray | None = None

    @classmethod
    def of_star(cls, shape, local, **options):
        """Begin with a shape vector and the prior of stars in any image."""
        prior = {'prior_mean': LOOSE_MEAN, 'prior_width': LOOSE_WIDTH, 'wings': True}
        return cls(to_theta(shape), local, **(prior | options))

    @property
    def shape(self):
        """The shape vector, (..., 8)."""
        return to_shape(self.theta)

    @property
    def entries(self):
        """Entries of the shape vector that broadcast against stamps, (8, ...)."""
        return np.moveaxis(self.shape, -1, 0)[..., None, None, None]

    def pull(self, theta):
        """Distances of fitted vectors (..., 8) from the priors in sigma, (..., m)."""
        pull = (theta - self.prior_mean) / self.prior_width
        return np.concatenate([pull, wing_pull(theta)], -1) if self.wings else pull

    def offsets(self, size):
        """Distances from each star, dx of (..., n, 1, columns) and dy of (..., 1)."""
        x, y = np.moveaxis(self.local[..., 1:3], -1, 0)[..., None, None]
        return np.arange(size[1]) - x, np.arange(size[0])[:, None] - y

    def model(self, size):
        """All stars with their backgrounds, (..., n, rows, columns)."""
        unit = unit_profile(*self.offsets(size), self.entries, self.radius)
        return self.local[..., :1, None] * unit + self.local[..., 3:, None]


def _linearise(fit, stamps, weights, n_local):
    """Residuals (..., n, P), derivatives by theta (..., n, P, 8) and the local ones."""
    flux, level = fit.local[..., :1, None], fit.local[..., 3:, None]
    offsets = fit.offsets(stamps.shape[-2:])
    values, d_x, d_y, d_shape = psf_derivatives(*offsets, fit.entries, fit.radius)
    residual = (stamps - flux * values - level) * weights
    scale = flux * weights
    local = [values * weights, scale * d_x, scale * d_y, weights][:n_local]
    shared, local = (
        np.stack([each.reshape(*each.shape[:-2], -1) for each in parts], axis=-1)
        for parts in ([scale * d for d in d_shape], local)
    )
    jacobian = shape_jacobian(fit.theta, fit.shape)[..., None, :, :]
    return residual.reshape(*residual.shape[:-2], -1), shared @ jacobian, local


def _terms(fit, stamps, weights, n_local):
    """Chi2 (...), and residuals and distances from the priors with derivatives."""
    residual, shared, local = _linearise(fit, stamps, weights, n_local)
    steps = np.vstack([np.zeros(8), THETA_STEP * np.eye(8)])
    pull = fit.pull(fit.theta[..., None, :] + steps)
    slopes = (pull[..., 1:, :] - pull[..., :1, :]) / THETA_STEP
    pull, level = pull[..., 0, :], fit.local[..., 3] / fit.background_width
    chi2 = sum(np.square(distance).sum(-1) for distance in (pull, level))
    chi2 = chi2 + np.square(residual).sum((-2, -1))
    return chi2, (residual, shared, local, pull, slopes)


def _equations(fit, terms):
    """Normal equations of a joint fit, priors included."""
    r, shared, local, pull, slopes = terms
    flat = shared.reshape(*fit.theta.shape[:-1], -1, 8)
    flat_t, local_t = flat.swapaxes(-1, -2), local.swapaxes(-1, -2)
    C, h = local_t @ local, _times(local_t, r)
    if C.shape[-1] > 3:
        C[..., 3, 3] += fit.background_width**-2.0
        h[..., 3] -= fit.background_width**-2.0 * fit.local[..., 3]
    A = flat_t @ flat + slopes @ slopes.swapaxes(-1, -2)
    g = _times(flat_t, r.reshape(flat.shape[:-1])) - _times(slopes, pull)
    return A, g, local_t @ shared, C, h


def _times(matrix, vector):
    """Products of matrices and vectors along leading axes."""
    return (matrix @ vector[..., None])[..., 0]


def _solve(equations, damping):
    """Steps of theta and of the stars' own parameters, and the reduced matrix."""
    A, g, B, C, h = equations
    damping = np.asarray(damping)[..., None, None]
    A = A + damping * np.eye(8) * (A + 1e-12)
    C = C + np.eye(C.shape[-1]) * (damping[..., None] * C + 1e-300)
    solved = np.linalg.solve(C, np.concatenate([B, h[..., None]], -1))
    reduced = A - np.einsum('...kli,...klj->...ij', B, solved[..., :-1])
    right = g - np.einsum('...kli,...kl->...i', B, solved[..., -1])
    step = np.linalg.solve(reduced, right[..., None])[..., 0]
    return step, solved[..., -1] - _times(solved[..., :-1], step[..., None, :]), reduced


# Trial steps may overflow; they are not taken.
@np.errstate(over='ignore', invalid='ignore', divide='ignore', under='ignore')
def minimise(
    fit, stamps, weights, *, with_background, max_steps=40, tolerance=_TOLERANCE
):
    """
    Run Levenberg-Marquardt on joint fits, which are changed in place.

    ``stamps`` (..., n, rows, columns) hold one star each and are finite, ``weights``
    are inverse standard deviations, zero where a pixel is not to count; ``tolerance``
    is the relative decrease of chi2 below which a step counts as negligible.
    """
    data = stamps, weights, 4 if with_background else 3
    (fit.chi2, terms), equations = _terms(fit, *data), None
    damping = np.full(fit.chi2.shape, _DAMPING)
    done, long = np.zeros(fit.chi2.shape, dtype=bool), tolerance <= _TOLERANCE
    for _ in range(max_steps):
        equations = _equations(fit, _terms(fit, *data)[1] if terms is None else terms)
        left, terms = ~done, None
        while left.any():
            d_theta, d_local, _ = _solve(equations, damping)
            d_theta = d_theta.clip(-_LARGEST_STEP, _LARGEST_STEP)
            d_local = np.concatenate([d_local, 0 * fit.local[..., data[2] :]], -1)
            trial = replace(fit, theta=fit.theta + d_theta, local=fit.local + d_local)
            chi2, terms = _terms(trial, *data)
            better = left & (chi2 <= fit.chi2)
            ended = better & (fit.chi2 - chi2 <= tolerance * fit.chi2)
            if long:
                ended &= np.abs(d_theta).max(-1) < _CONVERGED_STEP
            factor = np.where(better, 0.1, np.where(left, 10.0, 1.0))
            damping = np.maximum(damping * factor, _MIN_DAMPING)
            done |= ended | (left & (damping >= _MAX_DAMPING))
            left &= ~better & ~done
            fit.theta = np.where(better[..., None], trial.theta, fit.theta)
            fit.local = np.where(better[..., None, None], trial.local, fit.local)
            fit.chi2 = np.where(better, chi2, fit.chi2)
            # Those of the next step, unless it is not the trial's for all fits.
            terms = terms if better.all() else None
        if done.all():
            break
    fit.converged = done[()]
    if equations is not None:
        fit.covariance = np.linalg.pinv(_solve(equations, 0.0)[2], hermitian=True)


def own_shapes(fit, stamps, weights):
    """
    Log size, e1 and e2 of each star relative to the joint fit, and errors, (n, 3).

    One linear step from the joint fit, with flux, position and background of
    the star free; an error is infinite where nothing is known.
    """
    residual, shared, local = _linearise(fit, stamps, weights, 4)
    slopes = np.concatenate([shared[..., _OWN_ENTRIES], local], -1)
    matrix = slopes.transpose(0, 2, 1) @ slopes
    right = (slopes.transpose(0, 2, 1) @ residual[..., None])[..., 0]
    matrix[:, 6, 6] += fit.background_width**-2.0
    right[:, 6] -= fit.background_width**-2.0 * fit.local[:, 3]
    size = np.einsum('kii->ki', matrix)
    known = (size[:, :3] > 1e-12 * max(float(size[:, :3].max()), 1e-300)).all(1)
    root = np.sqrt(np.where(known[:, None], size + 1e-300, 1.0))
    even = matrix / root[:, :, None] / root[:, None, :] + 1e-6 * np.eye(7)
    inverse = np.linalg.inv(np.where(known[:, None, None], even, np.eye(7)))
    offsets = ((inverse @ (right / root)[..., None])[..., 0] / root)[:, :3]
    errors = (np.sqrt(np.einsum('kii->ki', inverse)) / root)[:, :3]
    offsets[~known], errors[~known] = 0.0, np.inf
    return offsets, errors


# -- robust fit ------------------------------------------------------------------------


def fit_image(fit, stamps, bad, error=None, *, background=False, near=False):
    """
    Fit images of PSFs, reweighting their pixels; return the rms over the peak.

    Fits that begin ``near`` their end take few steps in all rounds but the last.
    """
    for turn in range(_N_ROUNDS):
        model = fit.model(stamps.shape[-2:])
        if error is None:
            variance = _variance_from_scatter(stamps, model, bad, turn)
        else:
            variance = _variance(fit, stamps, model, error, None, 0.0, turn)
        options = _steps_of(turn if near else _N_ROUNDS - 1, _TOLERANCE)
        options['with_background'] = background
        minimise(fit, stamps, _weights(variance, bad), **options)
    return rms(fit, stamps, ~bad)


def _steps_of(turn, tolerance):
    """Options of `minimise` in a round; the tolerance of the last."""
    # Weights change from round to round: only the last is worth a long fit.
    if turn < _N_ROUNDS - 1:
        return {'max_steps': _ROUND_STEPS, 'tolerance': _ROUND_TOLERANCE}
    return {'max_steps': _LAST_STEPS, 'tolerance': tolerance}


def fit_stars(
    fit, stamps, bad, error, alive, *, background, model_error, gain=None, accept=None
):
    """
    Fit stars robustly: fit, reweight, leave out those that do not fit, fit again.

    ``accept`` chooses in the last two rounds among the stars that fit, given weights.
    Returns which stars (n,) the fit rests on, and the weights of the last round.
    """
    begun, used = fit.local[:, 1:3].copy(), alive.copy()
    for turn in range(_N_ROUNDS):
        model = fit.model(stamps.shape[1:])
        variance = _variance(fit, stamps, model, error, gain, model_error, turn)
        if turn:
            variance = variance + _misfit(fit, stamps - model, bad, used, variance)
        weights = _weights(variance, bad)
        if turn:
            moved = np.hypot(*(fit.local[:, 1:3] - begun).T)
            measurable = alive & (fit.local[:, 0] > 0) & (moved < _MAX_MOVE)
            pull = (stamps - model) * weights
            used, share = _belongs(fit, pull, weights > 0, alive, measurable)
            weights = weights * share
        if accept is not None and turn >= _N_ROUNDS - 2:
            used = accept(weights, used)
        # Rejected stars fit themselves alone; a better shape may bring them back.
        weights[~used] *= _REJECTED_WEIGHT
        weights[~alive] = 0.0
        options = _steps_of(turn, _ROUND_TOLERANCE) | {'with_background': background}
        minimise(fit, stamps, weights, **options)
    return used, weights


def _weights(variance, bad):
    return np.where(bad, 0.0, 1 / np.sqrt(np.broadcast_to(variance, bad.shape)))


def rms(fit, stamps, use):
    """Rms residuals of stamps in units of the peaks, (...)."""
    off = np.where(use, stamps - fit.model(stamps.shape[-2:]), 0)
    off /= peaks(stamps, ~use)[..., None, None]
    return np.sqrt(np.mean(np.square(off), _STAMPS, where=use))


def peaks(stamps, bad):
    """Brightest usable pixel of each cut-out, at least a tiny number."""
    return np.where(bad, 0.0, stamps).max((-2, -1)).clip(1e-300)


def _variance_from_scatter(stamps, model, bad, turn):
    """Photon-like noise scaled so that the residuals are what it predicts."""
    height = peaks(stamps, bad)[..., None, None]
    # What the model cannot follow, as diffraction rings, is no photon noise:
    # from its size down all pixels count alike, so that the area comes out right.
    whole, floor, scale = {'axis': _STAMPS, 'keepdims': True}, _PEAK_VARIANCE, 1e-4
    if turn:
        off = np.where(bad, 0.0, np.abs(stamps - model)) / height
        floor = np.maximum(floor, _MISFIT_SHARE * off.max(**whole))
    form = (np.maximum(stamps, 0) / height + floor) * height**2
    if turn:
        scale = np.mean(np.square(stamps - model) / form, where=~bad, **whole)
    return np.maximum(scale, 1e-20) * form


def _variance(fit, stamps, model, error, gain, model_error, turn):
    """Predicted variance of the pixels of cut-outs, (n, rows, columns)."""
    level = fit.local[..., 3, None, None]
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
    fwhm = 2 * half_maximum_radius(fit.shape)
    radius = np.hypot(*fit.offsets(residual.shape[1:])) / fwhm
    peak = profile(0.0, fit.shape) / integral(fit.shape, fit.radius)
    peak = peak * fit.local[:, :1, None]
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


def _belongs(fit, pull, usable, alive, measurable):
    """
    Stars that fit like the others (n,), and factors on pixels' weights.

    The core decides: a neighbour in the wing is dealt with pixel by pixel.
    """
    reach = 1.5 * half_maximum_radius(fit.shape)
    core = (np.hypot(*fit.offsets(pull.shape[1:])) < reach) & usable
    score = (pull**2 * core).sum((1, 2)) / np.maximum(core.sum((1, 2)), 1)
    used = measurable & core.any((1, 2))
    if not used.any():
        used = alive.copy()
    usual = max(np.median(score[used]), 1.0)
    used &= score <= _MAX_SCORE * usual
    score = np.minimum(score, _MAX_SCORE * usual)[:, None, None]
    share = 1 / np.sqrt(1 + pull**2 / (_CAUCHY_SIGMA**2 * usual))
    return used, share / np.sqrt(1 + score / (2 * usual))
