# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Parameters, values and derivatives of the PSF model for astropy's fitters.
"""

from functools import partial

import astropy.units as u
import numpy as np
from astropy.modeling import Fittable2DModel, InputParameterError, Parameter

from ._inputs import (
    check_beta,
    check_ellipticity,
    check_number,
    check_radius,
    plain,
)
from ._mixture import DEFAULT_NORMALIZATION_RADIUS, DEFAULT_SHAPE, SHAPE_NAMES
from ._profile import psf_derivatives, unit_profile

__all__ = ['ProfileModel']

# Lower bound of lengths for fitters, above zero.
_MIN_LENGTH = float(np.finfo(np.float32).tiny)


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
