# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The point-spread function of one place as an astropy model.
"""

import functools

import numpy as np

from bliss_astro._arguments import require
from bliss_astro._lazy import survey

from ._mixture import DEFAULT_NORMALIZATION_RADIUS, SHAPE_NAMES
from ._profile import (
    ProfileModel,
    effective_pixels,
    half_maximum_radius,
    integral,
    pixels,
    profile,
    value_of,
)
from ._wing_prior import typical_shape

# Full widths at half maximum in px that a PSF may have: it contains the pixel.
_FWHM_RANGE = (1, 1000)
# GalSim refuses an untruncated Moffat below a beta of 1.1, which is half ours, and at
# a beta of 2 exactly the flux of a truncated one is 0/0.
_GALSIM_MIN_BETA, _GALSIM_BETA_STEP = 2.2, 1e-6

# Those of one PSF are needed again and again.
_fwhm = functools.lru_cache(64)(lambda shape: float(2 * half_maximum_radius(shape)))
_n_eff = functools.lru_cache(64)(effective_pixels)


class PSFModel(ProfileModel):
    r"""
    SDSS's point-spread function: two Gaussians and a power law.

    The values are the fluxes of a star in pixels: the profile contains the integration
    over a pixel, and is evaluated at pixel centres, which are whole numbers.

    Parameters
    ----------
    flux : float or `~astropy.units.Quantity`, optional
        Flux of the star within ``normalization_radius``.

    x_0, y_0 : float, optional
        Position of the star in pixels.

    sigma1, sigma2, sigmap : float, optional
        Standard deviations of the two Gaussians, and core radius of the power law (px).

    b, p0 : float, optional
        Heights of the second Gaussian and of the power law in units of the first's.

    beta : float, optional
        Slope of the power law.

    e1, e2 : float, optional
        Ellipticity :math:`(a^2 - b^2)/(a^2 + b^2)` along the x axis and the diagonal.

    normalization_radius : float, optional
        Radius in pixels within which ``flux`` is counted, by default the 7.43 arcsec
        of SDSS's PSF magnitudes. It may be infinite where ``beta > 2``.

    bbox_factor : float, optional
        Half the side of the bounding box, in units of the FWHM.

    **kwargs
        Keywords of `~astropy.modeling.Fittable2DModel`.

    Raises
    ------
    ValueError
        If a length is not positive, a height negative, the ellipticity 1 or
        more, the slope not positive, or the slope 2 or less with an infinite
        normalisation radius.

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

    The shape is fixed by default, as in photutils: fits change flux and position.

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

    @classmethod
    def from_shape(cls, shape, **options):
        """
        Make a model from the eight numbers of its shape.

        Parameters
        ----------
        shape : sequence of 8 float
            The shape parameters in the order of ``SHAPE_NAMES``.

        **options
            ``flux``, ``x_0``, ``y_0`` and ``normalization_radius``.

        Returns
        -------
        psf : `PSFModel`
            The model, by default of unit flux at the origin.

        Raises
        ------
        ValueError
            If ``shape`` has not eight entries, or one is out of its range.
        """
        shape = np.asarray(shape, float)
        good = shape.shape == (len(SHAPE_NAMES),)
        allowed = f'hold the {len(SHAPE_NAMES)} numbers {", ".join(SHAPE_NAMES)}'
        require(good, 'shape', allowed, f'an array of {shape.shape}')
        return cls(**dict(zip(SHAPE_NAMES, shape.tolist(), strict=True)), **options)

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
            If ``fwhm`` is not from 1 to 1000 pixels: a PSF contains the pixel.
        """
        value, (low, high) = pixels(fwhm), _FWHM_RANGE
        allowed = f'be a number of pixels from {low} to {high}'
        require(low <= value <= high, 'fwhm', allowed, f'{fwhm!r}')
        shape = typical_shape(value)
        return cls.from_shape(shape, normalization_radius=normalization_radius)

    @classmethod
    def from_sdss(cls, psfield, band, **options):
        """
        Read the PSF of an SDSS field from its ``psField`` file.

        Parameters
        ----------
        psfield : str, path, `~astropy.io.fits.HDUList` or record
            The file, or what `bliss_astro.surveys.sdss.PsField.read` returned.

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
            If the band is unknown or the field has no usable PSF.

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
        image : 2D or 3D array, `~astropy.units.Quantity`, `~astropy.nddata.NDData` \
or `~astropy.modeling.Model`
            An image of the PSF (one star, any flux, anywhere on the image but
            brightest); or n cut-outs (n, rows, columns), each with a star near
            its centre; or another PSF model of photutils or astropy.

        **kwargs
            ``error``: standard deviation of the pixels, number or array; by default
            from the scatter of the residuals. ``mask``: bool array, `True` where a
            pixel is not to be used, as are those not finite. ``background``: whether
            to fit a constant background to each star; by default to cut-outs only.
            ``use_prior``: whether what the image leaves open (most often the wing)
            follows the usual, `True` by default: for an image of the PSF SDSS's fits
            of its fields, for stars the range of real telescopes.
            ``normalization_radius``: radius in pixels within which the flux is counted.

        Returns
        -------
        psf : `PSFModel`
            The fit. Its flux and position are those on the image; with cut-outs it
            has unit flux and lies at the origin. ``fit_info`` holds ``residual``
            (rms in units of the peak), ``converged``, and for cut-outs ``flux``,
            ``x``, ``y``, ``background`` and ``used`` of each.

        Raises
        ------
        TypeError
            If another model has no parameters that are its position.

        ValueError
            If the image has another dimension, is smaller than 5 pixels, has no
            usable or no positive pixels, or its mask or error another shape; or if
            the fit is wider than the image.
        """
        from ._fit import fit_psf

        return fit_psf(cls, image, **kwargs)

    @classmethod
    def fit_stars(cls, data, positions, **kwargs):
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

        **kwargs
            ``error``: standard deviation of the background per pixel, number or map in
            the unit of the data; by default measured at the borders of the cut-outs.
            ``mask``: bool array, `True` where a pixel is not to be used. ``size``: side
            of the cut-outs in pixels, odd, 25 by default. ``effective_gain``: electrons
            per unit of the data, for the stars' own photon noise. ``model_error``:
            relative error of the model, 0.02 by default, so that the brightest star
            does not outvote the others. ``use_prior`` and ``normalization_radius`` as
            in `fit`.

        Returns
        -------
        psf : `PSFModel`
            The fit, of unit flux and at the origin. ``fit_info`` holds ``flux``,
            ``x``, ``y`` and ``background`` of the stars, which of them were
            ``used``, the ``residual`` and whether it ``converged``.

        Raises
        ------
        ValueError
            If the data are not 2D, no star lies on them, or an argument is not allowed.
        """
        from ._fit import fit_psf_to_stars

        return fit_psf_to_stars(cls, data, positions, **kwargs)

    @property
    def fwhm(self):
        """Full width at half maximum in pixels, geometric mean of the two axes."""
        return _fwhm(tuple(self.shape_vector))

    @property
    def n_eff(self):
        """Effective area in square pixels, inverse integral of the squared PSF."""
        return _n_eff(tuple(self.shape_vector), self._normalization_radius)

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
            Flux within it.
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
            draw it with ``method='no_pixel'``. Where beta is 2.2 or less, the power law
            ends at ten normalisation radii, or 1000 pixels.
        """
        import galsim

        s1, s2, b, sp, p0, beta, e1, e2 = self.shape_vector
        total, R = integral(self.shape_vector, self._normalization_radius), np.inf
        parts = [
            galsim.Gaussian(sigma=s, flux=2 * np.pi * height * s * s / total)
            for s, height in ((s1, 1.0), (s2, b))
            if height > 0
        ]
        if p0 > 0:
            if beta <= _GALSIM_MIN_BETA:
                R = self._normalization_radius
                R = 10 * R if np.isfinite(R) else 1000.0
                if abs(beta - 2) < _GALSIM_BETA_STEP:
                    beta = 2 + _GALSIM_BETA_STEP
            wing = [integral((s1, s2, 0.0, sp, p, beta), R) for p in (0.0, p0)]
            moffat = galsim.Moffat(
                beta=beta / 2,
                scale_radius=np.sqrt(beta) * sp,
                trunc=R if np.isfinite(R) else 0.0,
                flux=(wing[1] - wing[0]) / total,
            )
            parts.append(moffat)
        whole = galsim.Add(parts) * float(value_of(self._flux()))
        return whole.shear(e1=e1, e2=e2).dilate(pixel_scale)

    def _flux(self):
        return self.flux.value if self.flux.unit is None else self.flux.quantity

    @property
    def bounding_box(self):
        """The box ((y_min, y_max), (x_min, x_max)) that holds all but a faint wing."""
        reach = self.bbox_factor * self.fwhm
        x, y = float(value_of(self.x_0.value)), float(value_of(self.y_0.value))
        return ((y - reach, y + reach), (x - reach, x + reach))
