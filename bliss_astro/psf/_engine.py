# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Least squares for one PSF shape shared by many stars.

Each star has its own flux, position and background, so the normal equations
are an arrow: eight shape parameters that all stars see, and a block of three
or four for each star. The blocks are eliminated first, which makes a hundred
stars as cheap as a hundred fits of one.

The shape is fitted as a vector ``theta`` without bounds: logarithms of the
lengths' ratios and heights, and an ellipticity that cannot reach one. SDSS's
own fits tell how these are distributed, which is the prior; a PSF that an
image determines well does not feel it.
"""

from dataclasses import dataclass, field

import numpy as np

from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._profile import integral, profile, psf_derivatives, squared_radius

__all__ = []

# Mean and width of theta over the fields of three SDSS runs, bands g, r, i and
# z, widened by about two; the size itself is left free. In words: sigma2/sigma1
# = 2.25, b = 0.035, sigmap/sigma1 = 1.8, p0 = 0.0105, beta = 3.2, e = 0.
PRIOR_MEAN = np.array(
    [0.3, np.log(2.25), np.log(0.035), np.log(1.8), np.log(0.0105), np.log(1.2), 0, 0]
)
PRIOR_WIDTH = np.array([np.inf, 0.2, 1.0, 0.4, 0.3, 0.6, 0.15, 0.15])

_SMALLEST = 1e-7
_MAX_DAMPING = 1e10


def to_theta(shape):
    """
    Map a shape vector to the unbounded vector that is fitted.
    """
    s1, s2, b, sp, p0, beta, e1, e2 = np.asarray(shape, float)
    stretch = 1 / np.sqrt(1 - e1 * e1 - e2 * e2)
    return np.array(
        [
            np.log(s1),
            np.log(s2 / s1),
            np.log(max(b, _SMALLEST)),
            np.log(sp / s1),
            np.log(max(p0, _SMALLEST)),
            np.log(max(beta - 2, _SMALLEST)),
            e1 * stretch,
            e2 * stretch,
        ]
    )


def to_shape(theta):
    """
    Map fitted vectors (..., 8) back to shape vectors (..., 8).
    """
    theta = np.asarray(theta, float)
    shape = np.exp(theta)
    shape[..., 1] *= shape[..., 0]
    shape[..., 3] *= shape[..., 0]
    shape[..., 5] += 2
    eta = theta[..., 6:]
    shape[..., 6:] = eta / np.sqrt(1 + np.sum(eta**2, axis=-1, keepdims=True))
    return shape


def _shape_jacobian(theta, shape):
    """
    Differentiate the shape vector with respect to theta, (8 shape, 8 theta).
    """
    jacobian = np.diag(np.append(shape[:6], [0.0, 0.0]))
    jacobian[1, 0], jacobian[3, 0] = shape[1], shape[3]
    jacobian[5, 5] = shape[5] - 2
    eta = theta[6:]
    size = 1 + eta @ eta
    jacobian[6:, 6:] = np.eye(2) / np.sqrt(size) - np.outer(eta, eta) / size**1.5
    return jacobian


@dataclass
class StampFit:
    """
    State of a joint fit: what is shared, and what each of n stars owns.

    Attributes
    ----------
    theta : (8,) array
        The shape, as `to_theta` gives it.

    local : (n, 4) array
        Flux, x, y (from the stamp's first pixel) and background of each star.

    chi2 : float
        Weighted sum of squared residuals, prior included.

    converged : bool
        Whether the last step was negligible.

    prior_mean, prior_width : (8,) array
        The Gaussian prior of theta; an infinite width is no prior.

    radius : float
        Normalisation radius of the fluxes in pixels.
    """

    theta: np.ndarray
    local: np.ndarray
    chi2: float = np.inf
    converged: bool = False
    prior_mean: np.ndarray = field(default_factory=PRIOR_MEAN.copy)
    prior_width: np.ndarray = field(default_factory=PRIOR_WIDTH.copy)
    radius: float = DEFAULT_NORMALIZATION_RADIUS

    @property
    def shape(self):
        """
        The shape vector, (8,).
        """
        return to_shape(self.theta)

    def model(self, size):
        """
        Render all stars: (n, rows, columns), backgrounds included.
        """
        flux, x, y, background = self.local.T[..., None, None]
        yy, xx = np.mgrid[: size[0], : size[1]]
        shape = self.shape
        values = profile(squared_radius(xx - x, yy - y, *shape[6:]), shape)
        return flux / integral(shape, self.radius) * values + background


def _linearise(fit, stamps, weights, with_background):
    """
    Return residuals (n, P), shape (n, P, 8) and local (n, P, 3 or 4) slopes.
    """
    n, rows, columns = stamps.shape
    flux, x, y, background = fit.local.T[..., None, None]
    yy, xx = np.mgrid[:rows, :columns]
    shape = fit.shape
    values, d_x, d_y, d_shape = psf_derivatives(xx - x, yy - y, shape, fit.radius)
    residual = (stamps - flux * values - background) * weights
    local = [values * weights, flux * d_x * weights, flux * d_y * weights]
    if with_background:
        local.append(np.broadcast_to(weights, values.shape))
    shared = np.stack([(flux * weights * d).reshape(n, -1) for d in d_shape], axis=-1)
    shared = shared @ _shape_jacobian(fit.theta, shape)
    local = np.stack([each.reshape(n, -1) for each in local], axis=-1)
    return residual.reshape(n, -1), shared, local


def _chi2(fit, stamps, weights):
    """
    Sum the squared residuals and the prior's penalty.
    """
    residual = (stamps - fit.model(stamps.shape[1:])) * weights
    pull = (fit.theta - fit.prior_mean) / fit.prior_width
    return float(np.sum(residual**2) + np.sum(pull**2))


def _step(equations, damping, free):
    """
    Solve the damped normal equations; returns the steps of theta and locals.
    """
    A, g, B, C, h = equations
    A = A + damping * np.diag(np.diag(A) + 1e-12)
    diagonal = np.einsum('kii->ki', C)
    C = C + np.eye(C.shape[1]) * (damping * diagonal + 1e-300)[:, None, :]
    solved = np.linalg.solve(
        C, np.concatenate([B.transpose(0, 2, 1), h[..., None]], -1)
    )
    reduced = A - np.einsum('kil,klj->ij', B, solved[..., :-1])
    rhs = g - np.einsum('kil,kl->i', B, solved[..., -1])
    d_theta = np.zeros(len(A))
    if free.any():
        d_theta[free] = np.linalg.solve(reduced[np.ix_(free, free)], rhs[free])
    d_local = solved[..., -1] - np.einsum('klj,j->kl', solved[..., :-1], d_theta)
    return d_theta, d_local


def minimise(fit, stamps, weights, *, with_background, free=None, max_steps=40):
    """
    Run Levenberg-Marquardt on a joint fit.

    Parameters
    ----------
    fit : `StampFit`
        Where to start; changed in place.

    stamps : (n, rows, columns) array
        One star in each; finite everywhere.

    weights : (n, rows, columns) array
        Inverse standard deviations, zero where a pixel is not to count.

    with_background : bool
        Whether each star has a constant background of its own.

    free : (8,) bool array, optional
        Which entries of theta may change; the default is all.

    max_steps : int, optional
        Number of steps after which to give up.

    Returns
    -------
    fit : `StampFit`
        The same object.
    """
    free = np.ones(8, bool) if free is None else np.asarray(free)
    n_local = 4 if with_background else 3
    damping, fit.converged = 1e-3, False
    fit.chi2 = _chi2(fit, stamps, weights)
    precision = 1 / fit.prior_width**2
    for _ in range(max_steps):
        r, shared, local = _linearise(fit, stamps, weights, with_background)
        local_t = local.transpose(0, 2, 1)
        flat = shared.reshape(-1, 8)
        equations = (
            flat.T @ flat + np.diag(precision),
            flat.T @ r.ravel() - precision * (fit.theta - fit.prior_mean),
            shared.transpose(0, 2, 1) @ local,
            local_t @ local,
            (local_t @ r[..., None])[..., 0],
        )
        before, theta, mine = fit.chi2, fit.theta, fit.local
        while damping < _MAX_DAMPING:
            d_theta, d_local = _step(equations, damping, free)
            fit.theta = theta + np.clip(d_theta, -1.0, 1.0)
            fit.local = mine.copy()
            fit.local[:, :n_local] += d_local
            fit.chi2 = _chi2(fit, stamps, weights)
            if fit.chi2 <= before:
                damping = max(damping / 10, 1e-12)
                break
            damping *= 10
        else:
            fit.theta, fit.local, fit.chi2 = theta, mine, before
            fit.converged = True
            break
        if before - fit.chi2 <= 1e-9 * before and np.abs(d_theta).max() < 1e-5:
            fit.converged = True
            break
    return fit
