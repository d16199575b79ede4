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
import torch
from astropy.modeling import Fittable2DModel, InputParameterError, Parameter

from bliss_astro._arguments import must, require

from ._gaussians import GaussianPSF
from ._mixture import DEFAULT_NORMALIZATION_RADIUS, DEFAULT_SHAPE, NEAR_TWO, SHAPE_NAMES

# e1^2 + e2^2 is held below this while a fitter tries values, so that a step
# too far gives a large residual and not a NaN.
_MAX_E2 = 1 - 1e-9
# Indices of the lengths in a shape vector.
_LENGTHS = [0, 1, 3]
# Relative step of the derivatives of the integral.
_STEP = 1e-5
# Steps of Newton's method for the half-maximum radius at most, and the relative step
# that is rounding.
_N_STEPS, _ROUNDING = 25, 1e-14
# Lower bound of lengths for fitters, above zero.
_MIN_LENGTH = float(np.finfo(np.float32).tiny)


def scaled(shape, factor):
    """Shape vector with all lengths multiplied by a factor."""
    shape = np.array(shape, float)
    shape[_LENGTHS] *= factor
    return shape


def squared_radius(dx, dy, e1, e2):
    """Squared elliptical radius in px^2; the ellipse keeps its area."""
    D = np.sqrt(1 - np.minimum(e1 * e1 + e2 * e2, _MAX_E2))
    return ((1 - e1) * dx * dx - 2 * e2 * dx * dy + (1 + e1) * dy * dy) / D


def profile(r2, shape):
    """Profile at squared radii whose Gaussian core has height one."""
    s1, s2, b, sp, p0, beta = shape[:6]
    wing = (1 + r2 / (beta * sp * sp)) ** (-0.5 * beta)
    return np.exp(-0.5 * r2 / (s1 * s1)) + b * np.exp(-0.5 * r2 / (s2 * s2)) + p0 * wing


def _profile_and_slope(r2, shape):
    """Values of `profile`, and its derivative by the squared radius."""
    s1, s2, b, sp, p0, beta = shape[:6]
    w = 1 + r2 / (beta * sp * sp)
    first, second = np.exp(-0.5 * r2 / (s1 * s1)), b * np.exp(-0.5 * r2 / (s2 * s2))
    wing = p0 * w ** (-0.5 * beta)
    slope = first / (s1 * s1) + second / (s2 * s2) + wing / (w * sp * sp)
    return first + second + wing, -0.5 * slope


def unit_profile(dx, dy, shape, R):
    """PSF of unit flux within R at offsets from its centre."""
    return profile(squared_radius(dx, dy, *shape[6:]), shape) / integral(shape, R)


def integral(shape, R):
    """Integral of the profile within the elliptical radius R (px), maybe infinite."""
    s1, s2, b, sp, p0, beta = shape[:6]
    core, wide = (-2 * s * s * np.expm1(-0.5 * (R / s) ** 2) for s in (s1, s2))
    q = 0.5 * beta - 1
    q = np.where(np.abs(q) < NEAR_TWO, NEAR_TWO, q)
    scale = beta * sp * sp
    wing = -scale * np.expm1(-q * np.log1p(R * R / scale)) / q
    return np.pi * (core + b * wide + p0 * wing)


def psf_derivatives(dx, dy, shape, R):
    """
    Normalised PSF at offsets from its centre, and all its derivatives.

    Returns the values, the derivatives by x and by y of the *centre*, and a list of
    those by the eight entries of the shape vector.
    """
    s1, s2, b, sp, p0, beta, e1, e2 = shape
    D = np.sqrt(1 - np.minimum(e1 * e1 + e2 * e2, _MAX_E2))
    r2 = squared_radius(dx, dy, e1, e2)
    w = 1 + r2 / (beta * sp * sp)
    g1, g2 = (np.exp(-0.5 * r2 / (s * s)) for s in (s1, s2))
    log_w = np.log(w)
    wing = np.exp(-0.5 * beta * log_w)
    steep = p0 * wing / w
    d_shape = [
        g1 * r2 / s1**3,
        b * g2 * r2 / s2**3,
        g2,
        steep * r2 / sp**3,
        wing,
        0.5 * steep * r2 / (beta * sp * sp) - 0.5 * p0 * wing * log_w,
    ]
    total = integral(shape, R)
    # The integral is linear in b and p0, and e1 and e2 keep the area.
    step = _STEP * np.stack(np.broadcast_arrays(s1, s2, 1.0, sp, 1.0, beta))
    varied, each = np.array(shape[:6], float)[:, None], np.eye(6)
    each = each.reshape(*each.shape, *(1,) * (step.ndim - 1)) * step
    d_total = integral(varied + each, R) - integral(varied - each, R)
    values = (g1 + b * g2 + p0 * wing) / total
    slope = -0.5 * (g1 / s1**2 + b * g2 / s2**2 + steep / sp**2) / total
    d_shape = [
        (d - values * t) / total
        for d, t in zip(d_shape, d_total / (2 * step), strict=True)
    ]
    d_shape.append(slope * ((dy * dy - dx * dx) / D + r2 * e1 / D**2))
    d_shape.append(slope * (-2 * dx * dy / D + r2 * e2 / D**2))
    d_x = slope * (-2 / D) * ((1 - e1) * dx - e2 * dy)
    d_y = slope * (-2 / D) * ((1 + e1) * dy - e2 * dx)
    return values, d_x, d_y, d_shape


def half_maximum_radius(shape):
    """Elliptical radius in px of half the maximum; entries of shape may be arrays."""
    half = 0.5 * profile(0.0, shape)
    s1, s2, _, sp, _, beta = shape[:6]
    # No part of the profile falls to its half before the narrowest does.
    core = 2 * np.log(2) * np.square(np.minimum(s1, s2))
    r2 = np.minimum(core, beta * sp * sp * np.expm1(2 * np.log(2) / beta))
    # Its logarithm is a convex function of r2, so that no step goes too far.
    for _ in range(_N_STEPS):
        value, slope = _profile_and_slope(r2, shape)
        step = np.log(value / half) * value / slope
        r2 = r2 - step
        if np.all(np.abs(step) <= _ROUNDING * r2):
            break
    return np.sqrt(r2)


def effective_pixels(shape, R):
    """
    Inverse of the integral of the squared PSF, in px^2.

    The integral runs over ln(radius) with the trapezoidal rule, which
    converges exponentially for such a function.
    """
    lengths = np.take(shape, _LENGTHS)
    t = np.linspace(np.log(1e-6 * min(lengths)), np.log(1e4 * max(lengths)), 2001)
    r2 = np.exp(2 * t)
    squared = np.sum(profile(r2, shape) ** 2 * r2) * 2 * np.pi * (t[1] - t[0])
    return float(integral(shape, R) ** 2 / squared)


def describe_shape(shape, *, radius=DEFAULT_NORMALIZATION_RADIUS):
    """`GaussianPSF.describe` of shapes ``(..., 8)``, under its old name."""
    return GaussianPSF.from_shape(shape, normalization_radius=radius).describe()


def value_of(value, unit=None):
    """Value without its unit."""
    if isinstance(value, u.Quantity):
        return value.to_value(unit) if unit is not None else value.value
    return value


def pixels(length):
    """Length in pixels as a float, NaN where it is none."""
    try:
        return float(value_of(length, u.pix))
    except (TypeError, ValueError):
        return np.nan


def check_radius(radius):
    """Normalisation radius as a float, or an error."""
    value = pixels(radius)
    require(value > 0, 'normalization_radius', 'be a number of pixels > 0', radius)
    return value


# A module-level function: a model with other validators does not pickle.
def _check_parameter(name, model, value):
    """Raise unless a parameter of the shape is within its range."""
    number = np.asarray(value_of(value), float)
    if name in ('e1', 'e2'):
        other = value_of(getattr(model, 'e2' if name == 'e1' else 'e1').value)
        good, words = np.hypot(number, other) < 1, 'keep sqrt(e1**2 + e2**2) below 1'
    elif name in ('b', 'p0'):
        good, words = number >= 0, 'be finite and >= 0'
    else:
        good, words = number > 0, 'be finite and > 0'
        infinite = np.isinf(getattr(model, '_normalization_radius', 0.0))
        if name == 'beta' and infinite and np.all(good):
            good, words = number > 2, 'be > 2 where normalization_radius is infinite'
    if not np.all(good & np.isfinite(number)):
        raise InputParameterError(must(name, words, value))


def _shape_parameter(name, description):
    """Parameter of the shape, fixed by default."""
    low = -0.7 if name in ('e1', 'e2') else 0.0 if name in ('b', 'p0') else _MIN_LENGTH
    parameter = Parameter(
        default=DEFAULT_SHAPE[SHAPE_NAMES.index(name)],
        bounds=(low, 0.7 if low < 0 else None),
        fixed=True,
        description=description,
    )
    parameter._validator = partial(_check_parameter, name)
    return parameter


class ProfileModel(Fittable2DModel):
    """Two Gaussians and a power law as an astropy model; see `PSFModel`."""

    flux = Parameter(default=1.0, description='Flux within normalization_radius')
    x_0 = Parameter(default=0.0, description='Position of the peak along the x axis')
    y_0 = Parameter(default=0.0, description='Position of the peak along the y axis')
    sigma1 = _shape_parameter('sigma1', 'Standard deviation of the first Gaussian (px)')
    sigma2 = _shape_parameter('sigma2', 'Standard deviation of the second one (px)')
    b = _shape_parameter('b', 'Height of the second Gaussian relative to the first')
    sigmap = _shape_parameter('sigmap', 'Core radius of the power law (px)')
    p0 = _shape_parameter(
        'p0', 'Height of the power law relative to the first Gaussian'
    )
    beta = _shape_parameter('beta', 'Slope of the power law')
    e1 = _shape_parameter('e1', 'Ellipticity along the x axis')
    e2 = _shape_parameter('e2', 'Ellipticity along the diagonal')

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

    @classmethod
    def from_fit(cls, fit, residual, size=None):
        """Model of unit flux at the origin of a `StampFit` to images of a size."""
        psf = cls.from_shape(fit.shape, normalization_radius=fit.radius)
        psf.fit_info = {'residual': float(residual), 'converged': bool(fit.converged)}
        if size is not None and not psf.fwhm < max(size[-2:]):
            msg = (
                f'image shows no PSF: the fit is {psf.fwhm:.3g} px wide, the image '
                f'{size[-1]} x {size[-2]} px; a PSF falls towards the edges, with its '
                'background taken off'
            )
            raise ValueError(msg)
        return psf

    @property
    def normalization_radius(self):
        """Radius in pixels within which the flux is counted."""
        return self._normalization_radius

    @normalization_radius.setter
    def normalization_radius(self, radius):
        radius = check_radius(radius)
        before, self._normalization_radius = self._normalization_radius, radius
        try:
            _check_parameter('beta', self, self.beta.value)
        except InputParameterError:
            self._normalization_radius = before
            raise

    @property
    def shape_vector(self):
        """The eight shape parameters in the order of ``SHAPE_NAMES``, (8,) float."""
        return np.array([float(getattr(self, name).value) for name in SHAPE_NAMES])

    def gaussians(self, xs, ys):
        """
        Return the PSF as sums of Gaussians on a grid of places.

        Parameters
        ----------
        xs, ys : 1D array
            Columns and rows in pixels; the PSF is the same everywhere.

        Returns
        -------
        psf : `GaussianPSF`
            The batch ``(len(ys), len(xs))``, in double precision, with its closed form.
        """
        shape = torch.from_numpy(self.shape_vector).expand(len(ys), len(xs), 8)
        radius = self._normalization_radius
        return GaussianPSF.from_shape(shape, normalization_radius=radius)

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
        shape = [value_of(value) for value in shape]
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
    return value_of(x, unit) - value_of(x_0)
