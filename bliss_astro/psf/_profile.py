# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Profile of the PSF for NumPy and astropy's fitters, with all its derivatives.

The functions work on the *shape vector* of length 8 in the order of
`bliss_astro.psf.SHAPE_NAMES`; lengths are in pixels, nothing is checked and nothing has
a unit. `bliss_astro.psf.PSFModel` is the public face, and
`bliss_astro.psf._mixture` the same profile for tensors.
"""

from functools import partial

import astropy.units as u
import numpy as np
from astropy.modeling import Fittable2DModel, InputParameterError, Parameter

from ._inputs import check_beta, check_ellipticity, check_number, check_radius, plain
from ._mixture import DEFAULT_NORMALIZATION_RADIUS, DEFAULT_SHAPE, SHAPE_NAMES

__all__ = []

# e1^2 + e2^2 is held below this while a fitter tries values, so that a step
# too far gives a large residual and not a NaN.
_MAX_E2 = 1 - 1e-9
# Indices of the lengths in a shape vector.
_LENGTHS = [0, 1, 3]
# |beta / 2 - 1| below which the power law's integral is expanded about beta = 2.
_NEAR_TWO = 1e-4
# Lower bound of lengths for fitters, above zero.
_MIN_LENGTH = float(np.finfo(np.float32).tiny)


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


def _shape_parameter(name, description, *, closed=False, validator=None):
    """Parameter of the shape, above zero (or from zero on), fixed by default."""
    ellipticity = name in ('e1', 'e2')
    bounds = (-0.7, 0.7) if ellipticity else (0.0 if closed else _MIN_LENGTH, None)
    parameter = Parameter(
        default=DEFAULT_SHAPE[SHAPE_NAMES.index(name)],
        bounds=bounds,
        fixed=True,
        description=description,
    )
    parameter._validator = validator or partial(check_number, name, 0.0, closed)
    return parameter


class ProfileModel(Fittable2DModel):
    """Two Gaussians and a power law as an astropy model; see `PSFModel`."""

    flux = Parameter(default=1.0, description='Flux within normalization_radius')
    x_0 = Parameter(default=0.0, description='Position of the peak along the x axis')
    y_0 = Parameter(default=0.0, description='Position of the peak along the y axis')
    sigma1 = _shape_parameter('sigma1', 'Standard deviation of the first Gaussian (px)')
    sigma2 = _shape_parameter(
        'sigma2', 'Standard deviation of the second Gaussian (px)'
    )
    b = _shape_parameter(
        'b', 'Height of the second Gaussian relative to the first', closed=True
    )
    sigmap = _shape_parameter('sigmap', 'Core radius of the power law (px)')
    p0 = _shape_parameter(
        'p0', 'Height of the power law relative to the first Gaussian', closed=True
    )
    beta = _shape_parameter('beta', 'Slope of the power law', validator=check_beta)
    e1 = _shape_parameter(
        'e1', 'Ellipticity along the x axis', validator=partial(check_ellipticity, 'e1')
    )
    e2 = _shape_parameter(
        'e2',
        'Ellipticity along the diagonal',
        validator=partial(check_ellipticity, 'e2'),
    )

    def __init__(
        self,
        flux=flux.default,
        x_0=x_0.default,
        y_0=y_0.default,
        *,
        normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
        bbox_factor=10.0,
        **kwargs,
    ):
        self._normalization_radius = check_radius(normalization_radius)
        self.bbox_factor = bbox_factor
        self.fit_info = {}
        super().__init__(flux=flux, x_0=x_0, y_0=y_0, **kwargs)

    @property
    def normalization_radius(self):
        """Radius in pixels within which the flux is counted."""
        return self._normalization_radius

    @normalization_radius.setter
    def normalization_radius(self, radius):
        radius = check_radius(radius)
        before, self._normalization_radius = self._normalization_radius, radius
        try:
            check_beta(self, self.beta.value)
        except InputParameterError:
            self._normalization_radius = before
            raise

    @property
    def shape_vector(self):
        """The eight shape parameters in the order of ``SHAPE_NAMES``, (8,) float."""
        return np.array([float(getattr(self, name).value) for name in SHAPE_NAMES])

    def evaluate(self, x, y, flux, x_0, y_0, *shape):
        """
        Evaluate the model; astropy calls this with its parameters spelled out.

        Parameters
        ----------
        x, y : array
            Positions in pixels.

        flux, x_0, y_0 : float
            Flux and position of the star.

        *shape : float
            The eight shape parameters.

        Returns
        -------
        values : array
            Flux per pixel.
        """
        shape = [plain(value) for value in shape]
        dx, dy = _offset(x, x_0), _offset(y, y_0)
        return flux * unit_profile(dx, dy, shape, self._normalization_radius)

    def fit_deriv(self, x, y, flux, x_0, y_0, *shape):
        """
        Differentiate the model with respect to each of its parameters.

        Parameters
        ----------
        x, y, flux, x_0, y_0, *shape
            As in `evaluate`, without units.

        Returns
        -------
        derivatives : list of 11 arrays
            In the order of ``param_names``.
        """
        values, d_x, d_y, d_shape = psf_derivatives(
            x - x_0, y - y_0, shape, self._normalization_radius
        )
        return [values, flux * d_x, flux * d_y, *(flux * d for d in d_shape)]

    @property
    def input_units(self):
        """Unit of the positions, or `None` where they are plain numbers."""
        if self.x_0.input_unit is None and self.y_0.input_unit is None:
            return None
        return {
            self.inputs[0]: self.x_0.input_unit,
            self.inputs[1]: self.y_0.input_unit,
        }

    def _parameter_units_for_data_units(self, inputs_unit, outputs_unit):
        """Return the units that the parameters take from the data, for a fitter."""
        return {
            'x_0': inputs_unit[self.inputs[0]],
            'y_0': inputs_unit[self.inputs[1]],
            'flux': outputs_unit[self.outputs[0]],
        }

    def __repr__(self):
        """Name the parameters and, where it is not the default, the radius."""
        text = super().__repr__()
        if self._normalization_radius == DEFAULT_NORMALIZATION_RADIUS:
            return text
        return f'{text[:-2]}, normalization_radius={self._normalization_radius:g})>'


def _offset(x, x_0):
    """Return x - x_0 as plain numbers of pixels."""
    unit = x_0.unit if isinstance(x_0, u.Quantity) else None
    return plain(x, unit) - plain(x_0)
