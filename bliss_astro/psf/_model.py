# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The point-spread function of one place as an astropy model.
"""

from functools import partial

import astropy.units as u
import numpy as np
from astropy.modeling import Fittable2DModel, InputParameterError, Parameter

from .._plugins import survey
from ._checks import (
    check_beta,
    check_ellipticity,
    check_number,
    check_radius,
    plain,
)
from ._mixture import DEFAULT_NORMALIZATION_RADIUS, DEFAULT_SHAPE, SHAPE_NAMES
from ._profile import (
    effective_pixels,
    half_maximum_radius,
    integral,
    profile,
    psf_derivatives,
    squared_radius,
)

__all__ = ['PSFModel']

_TINY = float(np.finfo(np.float32).tiny)

# At a beta of 2 exactly the flux of a truncated Moffat is 0/0 in GalSim.
_GALSIM_BETA_STEP = 1e-6

# Widest PSF that is believed to be one, in pixels.
_MOST_FWHM = 1000

# GalSim refuses an untruncated Moffat below a beta of 1.1, which is half ours.
_GALSIM_MIN_BETA = 2.2


class PSFModel(Fittable2DModel):
    r"""
    SDSS's point-spread function: two Gaussians and a power law.

    The model gives the flux that a star leaves in each pixel: the integration
    over a pixel is already in the profile, so the model is evaluated at pixel
    centres, which are whole numbers.

    Parameters
    ----------
    flux : float or `~astropy.units.Quantity`, optional
        Flux of the star within ``normalization_radius``.

    x_0, y_0 : float, optional
        Position of the star in pixels.

    sigma1, sigma2 : float, optional
        Standard deviations of the two Gaussians in pixels.

    b : float, optional
        Height of the second Gaussian in units of the first one's.

    sigmap : float, optional
        Core radius of the power law in pixels.

    p0 : float, optional
        Height of the power law in units of the first Gaussian's.

    beta : float, optional
        Slope of the power law.

    e1, e2 : float, optional
        Ellipticity :math:`(a^2 - b^2)/(a^2 + b^2)` along the x axis and along
        the diagonal.

    normalization_radius : float, optional
        Radius in pixels within which ``flux`` is counted. The default is the
        7.43 arcsec aperture of SDSS's PSF magnitudes. Infinity is possible
        where ``beta > 2``.

    bbox_factor : float, optional
        Half the side of the bounding box, in units of the FWHM.

    **kwargs
        Passed to `~astropy.modeling.Fittable2DModel`.

    Raises
    ------
    ValueError
        If a length is not positive, a height negative, the ellipticity 1 or
        more, the slope not positive, or the slope 2 or less with an infinite
        normalisation radius.

    See Also
    --------
    bliss_astro.surveys.sdss.SDSSPSF : The PSF of a whole SDSS field.

    Notes
    -----
    With the elliptical radius, which keeps areas,

    .. math::

        \rho^2 = \frac{(1 - e_1)\,\Delta x^2 - 2 e_2\,\Delta x\,\Delta y
            + (1 + e_1)\,\Delta y^2}{\sqrt{1 - e_1^2 - e_2^2}} ,

    the profile is

    .. math::

        P(\rho) = e^{-\rho^2 / 2\sigma_1^2} + b\,e^{-\rho^2 / 2\sigma_2^2}
            + p_0 \left(1 + \frac{\rho^2}{\beta\sigma_p^2}\right)^{-\beta/2}

    and the model is :math:`F\,P(\rho)/I(R)`, where the integral :math:`I` of
    :math:`P` within :math:`\rho < R` is known in closed form.

    The shape parameters are fixed by default, as in the PSF models of
    photutils: a fit changes ``flux``, ``x_0`` and ``y_0`` unless told otherwise.

    References
    ----------
    .. [1] Lupton, R. et al. 2001, "The SDSS Imaging Pipelines",
       ASP Conf. Ser. 238, 269

    Examples
    --------
    >>> from bliss_astro.psf import PSFModel
    >>> star = PSFModel(flux=1000, x_0=10.3, y_0=12.1)
    >>> round(float(star(10, 12)), 2)
    58.02
    >>> round(star.fwhm, 3)
    3.61
    """

    flux = Parameter(default=1.0, description='Flux within normalization_radius')
    x_0 = Parameter(default=0.0, description='Position of the peak along the x axis')
    y_0 = Parameter(default=0.0, description='Position of the peak along the y axis')
    sigma1 = Parameter(
        default=DEFAULT_SHAPE[0],
        bounds=(_TINY, None),
        fixed=True,
        description='Standard deviation of the first Gaussian (pixels)',
    )
    sigma2 = Parameter(
        default=DEFAULT_SHAPE[1],
        bounds=(_TINY, None),
        fixed=True,
        description='Standard deviation of the second Gaussian (pixels)',
    )
    b = Parameter(
        default=DEFAULT_SHAPE[2],
        bounds=(0.0, None),
        fixed=True,
        description='Height of the second Gaussian relative to the first',
    )
    sigmap = Parameter(
        default=DEFAULT_SHAPE[3],
        bounds=(_TINY, None),
        fixed=True,
        description='Core radius of the power law (pixels)',
    )
    p0 = Parameter(
        default=DEFAULT_SHAPE[4],
        bounds=(0.0, None),
        fixed=True,
        description='Height of the power law relative to the first Gaussian',
    )
    beta = Parameter(
        default=DEFAULT_SHAPE[5],
        bounds=(_TINY, None),
        fixed=True,
        description='Slope of the power law',
    )
    e1 = Parameter(
        default=DEFAULT_SHAPE[6],
        bounds=(-0.7, 0.7),
        fixed=True,
        description='Ellipticity along the x axis',
    )
    e2 = Parameter(
        default=DEFAULT_SHAPE[7],
        bounds=(-0.7, 0.7),
        fixed=True,
        description='Ellipticity along the diagonal',
    )

    sigma1._validator = partial(check_number, 'sigma1', 0.0, False)
    sigma2._validator = partial(check_number, 'sigma2', 0.0, False)
    b._validator = partial(check_number, 'b', 0.0, True)
    sigmap._validator = partial(check_number, 'sigmap', 0.0, False)
    p0._validator = partial(check_number, 'p0', 0.0, True)
    beta._validator = check_beta
    e1._validator = partial(check_ellipticity, 'e1')
    e2._validator = partial(check_ellipticity, 'e2')

    def __init__(
        self,
        flux=flux.default,
        x_0=x_0.default,
        y_0=y_0.default,
        *,
        sigma1=sigma1.default,
        sigma2=sigma2.default,
        b=b.default,
        sigmap=sigmap.default,
        p0=p0.default,
        beta=beta.default,
        e1=e1.default,
        e2=e2.default,
        normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
        bbox_factor=10.0,
        **kwargs,
    ):
        self._normalization_radius = check_radius(normalization_radius)
        self.bbox_factor = bbox_factor
        self.fit_info = {}
        super().__init__(
            flux=flux,
            x_0=x_0,
            y_0=y_0,
            sigma1=sigma1,
            sigma2=sigma2,
            b=b,
            sigmap=sigmap,
            p0=p0,
            beta=beta,
            e1=e1,
            e2=e2,
            **kwargs,
        )

    @classmethod
    def from_shape(
        cls,
        shape,
        *,
        flux=1.0,
        x_0=0.0,
        y_0=0.0,
        normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    ):
        """
        Make a model from the eight numbers of its shape.

        Parameters
        ----------
        shape : sequence of 8 float
            The shape parameters in the order of ``SHAPE_NAMES``.

        flux : float or `~astropy.units.Quantity`, optional
            Flux within the normalisation radius.

        x_0, y_0 : float, optional
            Position in pixels.

        normalization_radius : float, optional
            Radius in pixels within which the flux is counted.

        Returns
        -------
        psf : `PSFModel`
            The model.

        Raises
        ------
        ValueError
            If ``shape`` has not eight entries, or one is out of its range.
        """
        shape = np.asarray(shape, float)
        if shape.shape != (len(SHAPE_NAMES),):
            msg = (
                f'shape must hold the {len(SHAPE_NAMES)} numbers '
                f'{", ".join(SHAPE_NAMES)}, got an array of shape {shape.shape}'
            )
            raise ValueError(msg)
        return cls(
            flux=flux,
            x_0=x_0,
            y_0=y_0,
            normalization_radius=normalization_radius,
            **dict(zip(SHAPE_NAMES, shape.tolist(), strict=True)),
        )

    @classmethod
    def from_fwhm(cls, fwhm, *, normalization_radius=DEFAULT_NORMALIZATION_RADIUS):
        """
        Make a model of a given width, with the wings of a typical telescope.

        Parameters
        ----------
        fwhm : float or `~astropy.units.Quantity`
            Full width at half maximum of stars on the image in pixels.

        normalization_radius : float, optional
            Radius in pixels within which the flux is counted.

        Returns
        -------
        psf : `PSFModel`
            The model, of unit flux, at the origin. Its profile is the mean of
            Gaussian and Airy patterns, Moffat profiles and SDSS's.

        Raises
        ------
        ValueError
            If ``fwhm`` is not a number of pixels from 1 to 1000: a PSF contains
            the pixel.

        Examples
        --------
        >>> from bliss_astro.psf import PSFModel
        >>> round(PSFModel.from_fwhm(2.5).fwhm, 3)
        2.5
        """
        from ._wings import typical_shape

        try:
            fwhm = fwhm.to_value(u.pix) if isinstance(fwhm, u.Quantity) else float(fwhm)
        except (TypeError, ValueError, u.UnitConversionError) as error:
            msg = f'fwhm must be a number of pixels, got {fwhm!r}'
            raise ValueError(msg) from error
        if not 1 <= fwhm <= _MOST_FWHM:
            msg = (
                f'fwhm must be a number of pixels from 1 to {_MOST_FWHM}, as a PSF '
                f'contains the pixel; got {fwhm}'
            )
            raise ValueError(msg)
        return cls.from_shape(
            typical_shape(fwhm), normalization_radius=normalization_radius
        )

    @classmethod
    def from_sdss(cls, psfield, band, **options):
        """
        Read the PSF of an SDSS field from its ``psField`` file.

        Parameters
        ----------
        psfield : str, path, `~astropy.io.fits.HDUList` or record
            The file, or what `bliss_astro.surveys.sdss.read_psfield` returned.

        band : {'u', 'g', 'r', 'i', 'z'}
            The band.

        **options
            ``x``, ``y``: position on the frame in pixels, where the PSF is
            reconstructed from its eigen-images and this model is fitted to it; by
            default the model is SDSS's own circular fit for the whole field.
            ``normalization_radius``: radius in pixels within which the flux is counted.

        Returns
        -------
        psf : `PSFModel`
            The model, of unit flux, at ``x_0 = x`` and ``y_0 = y``.

        Raises
        ------
        ValueError
            If the band is unknown, only one coordinate is given, or the field
            has no usable PSF.

        Warns
        -----
        bliss_astro.OutOfDomainWarning
            If SDSS could not fit the field and stored default values.
        """
        return survey('sdss').psf_model(psfield, band, **options)

    @classmethod
    def fit(cls, image, **kwargs):
        """
        Fit the model to an image of the PSF, or to cut-outs of stars.

        Parameters
        ----------
        image : 2D or 3D array, or `~astropy.modeling.Model`
            An image of the PSF; or several cut-outs of one size, each with a
            star near its centre, which share one shape while each has its own
            flux, position and background; or another PSF model of photutils or
            astropy, to be described by this one.

        **kwargs
            See `bliss_astro.psf.fit_psf`.

        Returns
        -------
        psf : `PSFModel`
            The fit. ``fit_info`` tells how it went.
        """
        from ._fit import fit_psf

        return fit_psf(image, model_class=cls, **kwargs)

    @classmethod
    def fit_stars(cls, data, positions, **kwargs):
        """
        Fit the model to stars of an image, all of one shape.

        Parameters
        ----------
        data : 2D array, `~astropy.units.Quantity` or `~astropy.nddata.NDData`
            The image.

        positions : (n, 2) array or `~astropy.table.Table`
            Positions (x, y) of the stars in pixels, or a table with columns
            ``x_centroid`` and ``y_centroid`` (or ``x`` and ``y``).

        **kwargs
            See `bliss_astro.psf.fit_psf_to_stars`.

        Returns
        -------
        psf : `PSFModel`
            The fit, of unit flux, at the origin. ``fit_info`` holds the stars.
        """
        from ._fit import fit_psf_to_stars

        return fit_psf_to_stars(data, positions, model_class=cls, **kwargs)

    @property
    def normalization_radius(self):
        """
        Radius in pixels within which the flux is counted.
        """
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
        """
        The eight shape parameters in the order of ``SHAPE_NAMES``, (8,) float.
        """
        return np.array([float(getattr(self, name).value) for name in SHAPE_NAMES])

    @property
    def encoding(self):
        """
        What a network is told of the PSF: its shape vector, (8,) float.
        """
        return self.shape_vector

    @property
    def fwhm(self):
        """
        Full width at half maximum in pixels.

        That of an elliptical PSF is the geometric mean of its two axes.
        """
        return 2 * half_maximum_radius(self.shape_vector)

    @property
    def n_eff(self):
        """
        Effective number of pixels, the inverse of the sum of the squared PSF.

        The sum is the mean over sub-pixel positions, hence an integral.
        """
        return effective_pixels(self.shape_vector, self._normalization_radius)

    def radial_profile(self, radius):
        """
        Evaluate the model at a distance from its centre.

        Parameters
        ----------
        radius : float or array
            Elliptical radius in pixels.

        Returns
        -------
        values : float, array or `~astropy.units.Quantity`
            Flux per pixel.
        """
        shape = self.shape_vector
        values = profile(np.square(np.asarray(radius, float)), shape)
        return self._flux() * (values / integral(shape, self._normalization_radius))

    def encircled_flux(self, radius):
        """
        Integrate the model out to a distance from its centre.

        Parameters
        ----------
        radius : float or array
            Elliptical radius in pixels.

        Returns
        -------
        flux : float, array or `~astropy.units.Quantity`
            The flux within it; ``flux`` at the normalisation radius.
        """
        shape = self.shape_vector
        total = integral(shape, self._normalization_radius)
        radius = np.asarray(radius, float)
        each = [integral(shape, r) if r > 0 else 0.0 for r in radius.ravel()]
        return self._flux() * (np.reshape(each, radius.shape)[()] / total)

    def to_galsim(self, *, pixel_scale=1.0):
        """
        Return the same profile as a GalSim object, centred on its origin.

        Parameters
        ----------
        pixel_scale : float, optional
            Size of a pixel in the units that GalSim is to use; 1 keeps pixels.

        Returns
        -------
        profile : `galsim.GSObject`
            The profile. Its whole flux is more than ``flux``, as part of the
            wing lies beyond the normalisation radius. The pixel is part of it:
            draw it with ``method='no_pixel'``.

        Notes
        -----
        The power law is a Moffat profile of slope beta/2 and scale radius
        sqrt(beta) sigmap. Where beta is 2.2 or less, GalSim needs it to end
        somewhere, which is at ten normalisation radii, or 1000 pixels.
        """
        import galsim

        s1, s2, b, sp, p0, beta, e1, e2 = self.shape_vector
        total = integral(self.shape_vector, self._normalization_radius)
        parts = [galsim.Gaussian(sigma=s1, flux=2 * np.pi * s1 * s1 / total)]
        if b > 0:
            parts.append(
                galsim.Gaussian(sigma=s2, flux=2 * np.pi * b * s2 * s2 / total)
            )
        if p0 > 0:
            end = np.inf
            if beta <= _GALSIM_MIN_BETA:
                R = self._normalization_radius
                end = 10 * R if np.isfinite(R) else 1000.0
                if abs(beta - 2) < _GALSIM_BETA_STEP:
                    beta = 2 + _GALSIM_BETA_STEP
            wing = integral((s1, s2, 0.0, sp, p0, beta), end)
            wing -= integral((s1, s2, 0.0, sp, 0.0, beta), end)
            moffat = galsim.Moffat(
                beta=beta / 2,
                scale_radius=np.sqrt(beta) * sp,
                trunc=end if np.isfinite(end) else 0.0,
                flux=wing / total,
            )
            parts.append(moffat)
        whole = galsim.Add(parts) * float(plain(self._flux()))
        return whole.shear(e1=e1, e2=e2).dilate(pixel_scale)

    def _flux(self):
        """
        Return the flux, with its unit where it has one.
        """
        return self.flux.value if self.flux.unit is None else self.flux.quantity

    @property
    def bounding_box(self):
        """
        The box ((y_min, y_max), (x_min, x_max)) that holds all but a faint wing.
        """
        reach = self.bbox_factor * self.fwhm
        x, y = float(plain(self.x_0.value)), float(plain(self.y_0.value))
        return ((y - reach, y + reach), (x - reach, x + reach))

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
        values = profile(squared_radius(dx, dy, shape[6], shape[7]), shape)
        return flux * (values / integral(shape, self._normalization_radius))

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
        """
        Unit of the positions, or `None` where they are plain numbers.
        """
        if self.x_0.input_unit is None and self.y_0.input_unit is None:
            return None
        return {
            self.inputs[0]: self.x_0.input_unit,
            self.inputs[1]: self.y_0.input_unit,
        }

    def _parameter_units_for_data_units(self, inputs_unit, outputs_unit):
        """
        Tell a fitter which units the parameters take from the data.
        """
        return {
            'x_0': inputs_unit[self.inputs[0]],
            'y_0': inputs_unit[self.inputs[1]],
            'flux': outputs_unit[self.outputs[0]],
        }

    def __repr__(self):
        """
        Name the parameters and, where it is not the default, the radius.
        """
        text = super().__repr__()
        if self._normalization_radius == DEFAULT_NORMALIZATION_RADIUS:
            return text
        return f'{text[:-2]}, normalization_radius={self._normalization_radius:g})>'


def _offset(x, x_0):
    """
    Return x - x_0 as plain numbers of pixels.
    """
    unit = x_0.unit if isinstance(x_0, u.Quantity) else None
    return plain(x, unit) - plain(x_0)
