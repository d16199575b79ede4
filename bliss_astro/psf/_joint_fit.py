# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Levenberg-Marquardt fit of one PSF shape shared by many stars.

Each star has its own flux, position and background, so the normal equations
are an arrow: eight shape parameters that all stars share, and a block of three
or four for each star. The blocks are eliminated first, which makes a hundred
stars as cheap as a hundred fits of one.

The shape is fitted as a vector ``theta`` without bounds: logarithms of the
lengths' ratios and heights, and an ellipticity that cannot reach one. The
prior of stars in any image is that of `_wing_prior`; that of SDSS's images is the
distribution of theta in SDSS's own fits. A PSF that an image determines well
depends on neither.
"""

from dataclasses import dataclass, field

import numpy as np

from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._profile import psf_derivatives, unit_profile
from ._wing_prior import (
    LOOSE_MEAN,
    LOOSE_WIDTH,
    to_shape,
    to_theta,
    wing_pull,
    wing_pull_slopes,
)

__all__ = ['PRIOR_MEAN', 'PRIOR_WIDTH', 'StampFit', 'minimise', 'own_shapes']

# Mean and width of theta over the fields of three SDSS runs, bands g, r, i and
# z, widened by about two; the size itself is left free. In words: sigma2/sigma1
# = 2.25, b = 0.035, sigmap/sigma1 = 1.8, p0 = 0.0105, beta = 3.2, e = 0.
PRIOR_MEAN = np.array(
    [0.3, np.log(2.25), np.log(0.035), np.log(1.8), np.log(0.0105), np.log(1.2), 0, 0]
)
PRIOR_WIDTH = np.array([np.inf, 0.2, 1.0, 0.4, 0.3, 0.6, 0.15, 0.15])

# Levenberg-Marquardt damping of the first step, and the largest and smallest one.
_DAMPING, _MAX_DAMPING, _MIN_DAMPING = 1e-3, 1e10, 1e-12
# Largest step in an entry of theta, and the step at which a fit has converged.
_LARGEST_STEP, _CONVERGED_STEP = 1.0, 1e-5
# Relative decrease of chi2 at which a long fit ends.
_TOLERANCE = 1e-9
# Entries of theta that are estimated for each star: log size and ellipticity.
_OWN_ENTRIES = [0, 6, 7]


def _shape_jacobian(theta, shape):
    """Differentiate the shape vector with respect to theta, (8 shape, 8 theta)."""
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
    State of a joint fit: the shared shape, and each of n stars' own parameters.

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

    wings : bool
        Whether the profile has the prior `wing_prior` of wings too.

    background_width : float or (n,) array
        Width of the prior about zero of each star's background.

    covariance : (8, 8) array or None
        Covariance of theta, with all else marginalised, where the fit ended.
    """

    theta: np.ndarray
    local: np.ndarray
    chi2: float = np.inf
    converged: bool = False
    prior_mean: np.ndarray = field(default_factory=PRIOR_MEAN.copy)
    prior_width: np.ndarray = field(default_factory=PRIOR_WIDTH.copy)
    radius: float = DEFAULT_NORMALIZATION_RADIUS
    wings: bool = False
    background_width: np.ndarray | float = np.inf
    covariance: np.ndarray | None = None

    @classmethod
    def of_star(cls, shape, local, **options):
        """Begin with a shape vector and the prior of stars in any image."""
        prior = {'prior_mean': LOOSE_MEAN, 'prior_width': LOOSE_WIDTH, 'wings': True}
        return cls(to_theta(shape), local, **(prior | options))

    def penalty(self):
        """Sum the squared distances from the priors."""
        total = np.sum(((self.theta - self.prior_mean) / self.prior_width) ** 2)
        total += np.sum((self.local[:, 3] / self.background_width) ** 2)
        if self.wings:
            total += np.sum(wing_pull(self.theta) ** 2)
        return total

    def add_priors(self, equations, *, with_background):
        """Add the priors' share to the normal equations."""
        A, g, B, C, h = equations
        precision = 1 / np.square(self.prior_width)
        A = A + np.diag(precision)
        g = g - precision * (self.theta - self.prior_mean)
        if self.wings:
            pull, slopes = wing_pull_slopes(self.theta)
            A, g = A + slopes.T @ slopes, g - slopes.T @ pull
        if with_background:
            precision = 1 / np.square(self.background_width)
            C[:, 3, 3] += precision
            h[:, 3] -= precision * self.local[:, 3]
        return A, g, B, C, h

    @property
    def shape(self):
        """The shape vector, (8,)."""
        return to_shape(self.theta)

    def model(self, size):
        """Render all stars: (n, rows, columns), backgrounds included."""
        flux, x, y, background = self.local.T[..., None, None]
        yy, xx = np.mgrid[: size[0], : size[1]]
        return flux * unit_profile(xx - x, yy - y, self.shape, self.radius) + background

    def chi2_of(self, stamps, weights):
        """Sum the squared residuals and the prior's penalty."""
        residual = (stamps - self.model(stamps.shape[1:])) * weights
        return float(np.sum(residual**2) + self.penalty())


def _linearise(fit, stamps, weights, with_background):
    """Return residuals (n, P), shape (n, P, 8) and local (n, P, 3 or 4) slopes."""
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


def _equations(fit, stamps, weights, with_background):
    """Build the normal equations of a joint fit, priors included."""
    r, shared, local = _linearise(fit, stamps, weights, with_background)
    local_t = local.transpose(0, 2, 1)
    flat = shared.reshape(-1, 8)
    equations = (
        flat.T @ flat,
        flat.T @ r.ravel(),
        shared.transpose(0, 2, 1) @ local,
        local_t @ local,
        (local_t @ r[..., None])[..., 0],
    )
    return fit.add_priors(equations, with_background=with_background)


def _reduce(equations, damping):
    """Eliminate the stars' own parameters: matrix, right side and what was solved."""
    A, g, B, C, h = equations
    A = A + damping * np.diag(np.diag(A) + 1e-12)
    diagonal = np.einsum('kii->ki', C)
    C = C + np.eye(C.shape[1]) * (damping * diagonal + 1e-300)[:, None, :]
    solved = np.linalg.solve(
        C, np.concatenate([B.transpose(0, 2, 1), h[..., None]], -1)
    )
    reduced = A - np.einsum('kil,klj->ij', B, solved[..., :-1])
    rhs = g - np.einsum('kil,kl->i', B, solved[..., -1])
    return reduced, rhs, solved


def minimise(
    fit, stamps, weights, *, with_background, max_steps=40, tolerance=_TOLERANCE
):
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
        Whether each star has a constant background.

    max_steps : int, optional
        Number of steps after which to give up.

    tolerance : float, optional
        Relative decrease of chi2 below which a step counts as negligible.

    Returns
    -------
    fit : `StampFit`
        The same object.
    """
    n_local = 4 if with_background else 3
    damping, fit.converged = _DAMPING, False
    fit.chi2 = fit.chi2_of(stamps, weights)
    equations = None
    for _ in range(max_steps):
        equations = _equations(fit, stamps, weights, with_background)
        before, theta, mine = fit.chi2, fit.theta, fit.local
        while damping < _MAX_DAMPING:
            reduced, rhs, solved = _reduce(equations, damping)
            d_theta = np.linalg.solve(reduced, rhs)
            d_local = solved[..., -1] - solved[..., :-1] @ d_theta
            fit.theta = theta + np.clip(d_theta, -_LARGEST_STEP, _LARGEST_STEP)
            fit.local = mine.copy()
            fit.local[:, :n_local] += d_local
            fit.chi2 = fit.chi2_of(stamps, weights)
            if fit.chi2 <= before:
                damping = max(damping / 10, _MIN_DAMPING)
                break
            damping *= 10
        else:
            fit.theta, fit.local, fit.chi2 = theta, mine, before
            fit.converged = True
            break
        small = np.abs(d_theta).max() < _CONVERGED_STEP or tolerance > _TOLERANCE
        if before - fit.chi2 <= tolerance * before and small:
            fit.converged = True
            break
    if equations is not None:
        fit.covariance = np.linalg.pinv(_reduce(equations, 0.0)[0], hermitian=True)
    return fit


def own_shapes(fit, stamps, weights):
    """
    Estimate log size and ellipticity of each star relative to the joint fit.

    One linear step from the joint fit, with flux, position and background of
    the star free.

    Returns
    -------
    offsets, errors : (n, 3) array
        Log size, e1 and e2 of each star; an error is infinite where nothing is known.
    """
    residual, shared, local = _linearise(fit, stamps, weights, with_background=True)
    own = shared[..., _OWN_ENTRIES]
    own_t, local_t = own.transpose(0, 2, 1), local.transpose(0, 2, 1)
    cross, square = own_t @ local, local_t @ local
    width = np.square(np.broadcast_to(fit.background_width, len(stamps)))
    square[:, 3, 3] += 1 / width
    scale = np.sqrt(np.einsum('kii->ki', square)) + 1e-300
    square = square / scale[:, :, None] / scale[:, None, :]
    square += 1e-9 * np.eye(4)
    cross = cross / scale[:, None, :]
    pull = (local_t @ residual[..., None])[..., 0]
    pull[:, 3] -= fit.local[:, 3] / width
    solved = np.linalg.solve(square, cross.transpose(0, 2, 1))
    matrix = own_t @ own - cross @ solved
    right = (own_t @ residual[..., None])[..., 0]
    right -= np.einsum('kli,kl->ki', solved, pull / scale)
    size = np.einsum('kii->ki', matrix)
    known = size > 1e-12 * max(float(size.max()), 1e-300)
    root = np.sqrt(np.where(known, size, 1.0))
    even = matrix / root[:, :, None] / root[:, None, :] + 1e-6 * np.eye(3)
    inverse = np.linalg.inv(np.where(known.all(1)[:, None, None], even, np.eye(3)))
    offsets = np.einsum('kij,kj->ki', inverse, right / root) / root
    errors = np.sqrt(np.einsum('kii->ki', inverse)) / root
    bad = ~known.all(1)
    offsets[bad], errors[bad] = 0.0, np.inf
    return offsets, errors
