# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Profile of the PSF for NumPy: two Gaussians and a power law, with all derivatives.

Everything here works on the *shape vector* of length 8 in the order of
`bliss_astro.psf.SHAPE_NAMES`; lengths are in pixels, nothing is checked and nothing has
a unit. `bliss_astro.psf.PSFModel` is the public face, and
`bliss_astro.psf._mixture` the same profile for tensors.
"""

import numpy as np

__all__ = []

# e1^2 + e2^2 is held below this while a fitter tries values, so that a step
# too far gives a large residual and not a NaN.
_MAX_E2 = 1 - 1e-9
# Indices of the lengths in a shape vector.
_LENGTHS = [0, 1, 3]
# |beta / 2 - 1| below which the power law's integral is expanded about beta = 2.
_NEAR_TWO = 1e-4


def scaled(shape, factor):
    """Return a shape vector with all lengths multiplied by a factor."""
    shape = np.array(shape, float)
    shape[_LENGTHS] *= factor
    return shape


def squared_radius(dx, dy, e1, e2):
    """Return the squared elliptical radius in px^2; the ellipse keeps its area."""
    D = np.sqrt(1 - np.minimum(e1 * e1 + e2 * e2, _MAX_E2))
    return ((1 - e1) * dx * dx - 2 * e2 * dx * dy + (1 + e1) * dy * dy) / D


def profile(u, shape):
    """Evaluate the unnormalised profile, 1 + b + p0 at ``u`` = 0, at squared radii."""
    s1, s2, b, sp, p0, beta = shape[:6]
    w = 1 + u / (beta * sp * sp)
    return (
        np.exp(-0.5 * u / (s1 * s1))
        + b * np.exp(-0.5 * u / (s2 * s2))
        + p0 * w ** (-0.5 * beta)
    )


def unit_profile(dx, dy, shape, R):
    """Evaluate the PSF, of unit flux within R, at offsets from its centre."""
    return profile(squared_radius(dx, dy, *shape[6:]), shape) / integral(shape, R)


def _profile_derivatives(u, shape):
    """Return the profile, its derivative by ``u``, and those by six parameters."""
    s1, s2, b, sp, p0, beta = shape[:6]
    w = 1 + u / (beta * sp * sp)
    g1 = np.exp(-0.5 * u / (s1 * s1))
    g2 = np.exp(-0.5 * u / (s2 * s2))
    wing = w ** (-0.5 * beta)
    steep = wing / w
    values = g1 + b * g2 + p0 * wing
    d_u = -0.5 * (g1 / s1**2 + b * g2 / s2**2 + p0 * steep / sp**2)
    d_shape = [
        g1 * u / s1**3,
        b * g2 * u / s2**3,
        g2,
        p0 * steep * u / sp**3,
        wing,
        p0 * (0.5 * steep * u / (beta * sp * sp) - 0.5 * wing * np.log(w)),
    ]
    return values, d_u, d_shape


def _wing_integral(beta, sp, R):
    """
    Integrate the power law alone within R, and differentiate by sp and beta.

    With q = beta/2 - 1 and L = ln(1 + R^2/(beta sp^2)) it is
    pi beta sp^2 (1 - exp(-q L))/q; beta = 2 is its smooth limit.
    """
    q = np.asarray(0.5 * beta - 1, float)
    if np.isinf(R):
        h, h_q, decay, L_sp, L_beta = 1 / q, -1 / q**2, 0.0, 0.0, 0.0
    else:
        x = R * R / (beta * sp * sp)
        L = np.log1p(x)
        decay = np.exp(-q * L)
        small = np.abs(q) < _NEAR_TWO
        safe = np.where(small, 1.0, q)
        h = np.where(small, L * (1 - q * L / 2), -np.expm1(-safe * L) / safe)
        h_q = np.where(
            small,
            -0.5 * L**2 + q * L**3 / 3,
            (L * safe * decay + np.expm1(-safe * L)) / safe**2,
        )
        L_sp = -2 * x / ((1 + x) * sp)
        L_beta = -x / ((1 + x) * beta)
    area = np.pi * beta * sp * sp
    d_sp = 2 * area * h / sp + area * decay * L_sp
    d_beta = area * h / beta + area * (0.5 * h_q + decay * L_beta)
    return area * h, d_sp, d_beta


def integral(shape, R):
    """Integrate the profile within the elliptical radius R in px (may be infinite)."""
    s1, s2, b, sp, p0, beta = shape[:6]
    gauss1 = -2 * np.pi * s1 * s1 * np.expm1(-0.5 * (R / s1) ** 2)
    gauss2 = -2 * np.pi * s2 * s2 * np.expm1(-0.5 * (R / s2) ** 2)
    return gauss1 + b * gauss2 + p0 * _wing_integral(beta, sp, R)[0]


def _integral_derivatives(shape, R):
    """
    Return `integral` and its derivatives by the first six shape parameters.

    Those by e1 and e2 vanish, as the ellipse keeps its area.
    """
    s1, s2, b, sp, p0, beta = shape[:6]
    parts = []
    for s in (s1, s2):
        lost = np.exp(-0.5 * (R / s) ** 2)
        edge = lost * R * (R / s) if np.isfinite(R) else 0.0
        area = 2 * np.pi * s * s * (1 - lost)
        parts += [area, 2 * area / s - 2 * np.pi * edge]
    first, d_first, second, d_second = parts
    wing, wing_sp, wing_beta = _wing_integral(beta, sp, R)
    value = first + b * second + p0 * wing
    return value, [d_first, b * d_second, second, p0 * wing_sp, wing, p0 * wing_beta]


def psf_derivatives(dx, dy, shape, R):
    """
    Evaluate the normalised PSF and all its derivatives.

    Parameters
    ----------
    dx, dy : array
        Offsets from the centre in pixels.

    shape : sequence of 8 float
        Shape vector.

    R : float
        Normalisation radius in pixels.

    Returns
    -------
    values : array
        The PSF, of unit flux within R.

    d_x, d_y : array
        Derivatives by the position of the *centre*.

    d_shape : list of 8 arrays
        Derivatives by the shape vector.
    """
    e1, e2 = shape[6], shape[7]
    D = np.sqrt(1 - np.minimum(e1 * e1 + e2 * e2, _MAX_E2))
    u = squared_radius(dx, dy, e1, e2)
    P, P_u, P_shape = _profile_derivatives(u, shape)
    total, total_shape = _integral_derivatives(shape, R)
    values = P / total
    slope = P_u / total
    d_x = slope * (-2 / D) * ((1 - e1) * dx - e2 * dy)
    d_y = slope * (-2 / D) * ((1 + e1) * dy - e2 * dx)
    d_shape = [
        (p - values * t) / total for p, t in zip(P_shape, total_shape, strict=True)
    ]
    d_shape.append(slope * ((dy * dy - dx * dx) / D + u * e1 / D**2))
    d_shape.append(slope * (-2 * dx * dy / D + u * e2 / D**2))
    return values, d_x, d_y, d_shape


def half_maximum_radius(shape, *, n_halvings=60):
    """
    Find the elliptical radius at which the profile is half its maximum, in px.

    The entries of ``shape`` may be arrays, for many profiles at once.
    """
    half = 0.5 * profile(0.0, shape)
    low = np.zeros_like(half)
    high = 3.0 * (shape[0] + shape[1] + shape[3])
    while np.any(profile(np.square(high), shape) > half):
        high = 2 * high
    for _ in range(n_halvings):
        middle = 0.5 * (low + high)
        above = profile(np.square(middle), shape) > half
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return 0.5 * (low + high)


def effective_pixels(shape, R):
    """
    Return 1 / (integral of the squared PSF), in px^2.

    The integral runs over ln(radius) with the trapezoidal rule, which
    converges exponentially for such a function.
    """
    smallest, largest = min(shape[_LENGTHS]), max(shape[_LENGTHS])
    t = np.linspace(np.log(1e-6 * smallest), np.log(1e4 * largest), 2001)
    u = np.exp(2 * t)
    squared = np.sum(profile(u, shape) ** 2 * u) * 2 * np.pi * (t[1] - t[0])
    return float(integral(shape, R) ** 2 / squared)
