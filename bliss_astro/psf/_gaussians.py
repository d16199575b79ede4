# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
`GaussianPSF`: point-spread functions as sums of Gaussians, the form that tensors see.

Convolutions, linear mappings, Fourier transforms and integrals of squares are exact.
The eight-parameter profile keeps its closed form beside its expansion.
"""

import functools
import math
from types import MappingProxyType

import torch

from bliss_astro._arguments import require

from . import _gaussian_sums as sums
from . import _mixture as closed
from ._mixture import DEFAULT_NORMALIZATION_RADIUS, LOG_AREA

# Radii and offsets of the features that are the profile relative to its centre.
_FEATURES = ((1.0, -0.25), (2.0, -0.9), (4.0, -2.9), (8.0, -5.5))


def _component(k, text):
    def component(self):
        return self.components[k].expand_as(self.components[0])

    return property(component, doc=text)


class GaussianPSF:
    r"""
    Point-spread functions as sums of elliptical Gaussians, for all that is computed.

    Parameters
    ----------
    height, variance : tensor ``(..., K)``
        Heights of K Gaussians (flux per pixel for a star of unit flux), and the roots
        of the determinants of their covariance matrices in square pixels.

    x, y, e1, e2 : tensor ``(..., K)``, optional
        Centres in pixels, relative to the position of the star, and ellipticities
        :math:`(a^2 - b^2)/(a^2 + b^2)` along the x axis and along the diagonal.

    normalization_radius : float, optional
        Radius in pixels within which flux is counted; `normalized` makes it one.

    Raises
    ------
    ValueError
        If shapes do not broadcast to ``(..., K)``, a height is not finite, a variance
        or the radius not positive, or an ellipticity 1 or more.

    Notes
    -----
    The leading axes are a batch of images, places or stars. Each Gaussian is

    .. math::

        h \exp(-\rho^2 / 2 v) , \quad
        \rho^2 = \frac{(1 - e_1)\,x^2 - 2 e_2\,x y + (1 + e_1)\,y^2}
            {\sqrt{1 - e_1^2 - e_2^2}} .

    The profile of `PSFModel` is a sum of 19 to 1e-6 of its peak, or to 1e-4 where it is
    a power law alone, and its closed form is used where that is faster.

    Examples
    --------
    >>> from bliss_astro.psf import PSFModel
    >>> psf = PSFModel().gaussians([0, 100], [50])
    >>> psf
    <GaussianPSF, batch (1, 2), 19 Gaussians>
    >>> psf.fwhm.shape, round(float(psf[0, 0].broadened(1 / 6).fwhm), 2)
    (torch.Size([1, 2]), 3.75)
    """

    height = _component(0, 'Heights of the Gaussians, tensor ``(..., K)``.')
    variance = _component(1, 'Roots of the determinants of their covariances (px^2).')
    x = _component(2, 'Their centres along the x axis in pixels.')
    y = _component(3, 'Their centres along the y axis in pixels.')
    e1 = _component(4, 'Their ellipticities along the x axis.')
    e2 = _component(5, 'Their ellipticities along the diagonal.')

    # Shape parameters (..., 8) of the closed form, its step, and facts of a fit.
    shape, _step, fit_info = None, 0.7, MappingProxyType({})

    def __init__(
        self,
        height,
        variance,
        x=0.0,
        y=0.0,
        e1=0.0,
        e2=0.0,
        *,
        normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    ):
        self.components = sums.check_components(height, variance, x, y, e1, e2)
        name, radius = 'normalization_radius', normalization_radius
        require(radius > 0, name, 'be positive', radius)
        self.normalization_radius = radius

    @classmethod
    def from_shape(
        cls, shape, *, normalization_radius=DEFAULT_NORMALIZATION_RADIUS, step=0.7
    ):
        """
        Expand the eight-parameter profile, and keep its closed form.

        Shape parameters ``(..., 8)`` have the order of ``SHAPE_NAMES`` and stay the
        ``shape`` of the batch. A ``step`` of 0.7 in the quadrature of the power law is
        good to 1e-4 of that law's height, 1 to 4e-3, with fewer Gaussians.
        """
        psf = cls.__new__(cls)
        psf.shape, psf._step = torch.as_tensor(shape), step
        psf.normalization_radius = normalization_radius
        return psf

    @functools.cached_property
    def components(self):
        """Height, variance, x, y, e1 and e2 with last axes that broadcast."""
        options = {'radius': self.normalization_radius, 'step': self._step}
        height, variance = closed.mixture_of_shape(self.shape, **options)
        zero = torch.zeros_like(height[..., :1])
        return height, variance, zero, zero, self.shape[..., 6:7], self.shape[..., 7:8]

    @functools.cached_property
    def form(self):
        """Closed form of PSFs that have a shape."""
        return closed.ClosedForm(self.shape, self.normalization_radius)

    def with_shape(self, shape, *, step=None):
        """Return a PSF of other shape parameters; see `from_shape`."""
        radius, step = self.normalization_radius, step or self._step
        return self.from_shape(shape, normalization_radius=radius, step=step)

    def _with(self, parts, scale=1.0):
        """Return a PSF of other, sound components."""
        psf = type(self).__new__(type(self))
        psf.components = tuple(parts)
        psf.normalization_radius = self.normalization_radius * scale
        return psf

    def _each(self, change, *others):
        """Apply a function of the leading axes to all tensors, those of others too."""
        if self.shape is not None:
            return self.with_shape(change(self.shape, *(psf.shape for psf in others)))
        return self._with(map(change, self.components, *(p.components for p in others)))

    def followed_by(self, *others):
        """Return the batch and those of other PSFs of its kind along the first axis."""
        return self._each(lambda *parts: torch.cat(parts), *others)

    def __getitem__(self, index):
        """Return PSFs of the batch: an index of its axes, `None` for new ones."""
        return self._each(lambda part: part[index])

    def gaussians(self, xs, ys):
        """Return one PSF on a grid of places, ``(len(ys), len(xs))``."""
        return self.expand(len(ys), len(xs))

    def expand(self, *batch):
        """Return the same PSFs for another batch, as `torch.Tensor.expand`."""
        psf = self._each(lambda part: part.expand(*batch, part.shape[-1]))
        psf.fit_info = self.fit_info
        return psf

    def to(self, *args):
        """Return the same PSFs on a device or of a type, as `torch.Tensor.to`."""
        return self._each(lambda part: part.to(*args))

    def __repr__(self):
        *batch, n = self.height.shape
        return f'<GaussianPSF, batch {tuple(batch)}, {n} Gaussians>'

    def __call__(self, dx, dy, gradient=False):
        """
        Compute the flux per pixel of stars of unit flux.

        Parameters
        ----------
        dx, dy : tensor or array_like
            Offsets from the stars in pixels; they broadcast against the batch.

        gradient : bool, optional
            Whether to return values, and their derivatives by x and y of the *stars*.
        """
        dx, dy = torch.as_tensor(dx), torch.as_tensor(dy)
        if self.shape is not None:
            return (self.form.gradient if gradient else self.form.profile)(dx, dy)
        call = sums.gradient if gradient else sums.profile
        value = sums.in_pieces(call, self.components, dx, dy)
        return tuple(value) if gradient else value

    @property
    def covariance(self):
        """Elements xx, xy, yy of the covariances, tensor ``(..., K, 3)`` in px^2."""
        _, variance, *_, e1, e2 = self.components
        scale = variance * closed.stretch_of(e1, e2)
        return torch.stack([scale * (1 + e1), scale * e2, scale * (1 - e1)], -1)

    @property
    def place(self):
        """Centres of the Gaussians in pixels, tensor ``(..., K, 2)``."""
        return torch.stack([self.x, self.y], -1)

    @property
    def fluxes(self):
        """Whole flux of each Gaussian, tensor ``(..., K)``."""
        return 2 * math.pi * self.components[0] * self.components[1]

    def transform(self, kx, ky):
        """Fourier transform at wavenumbers in rad/px that broadcast; maybe complex."""
        parts = self.fluxes, *self.covariance.unbind(-1)
        if self.shape is None:
            parts = *parts, self.x, self.y
        return sums.in_pieces(sums.transform, parts, kx, ky)

    def normalized(self):
        """Return the same PSFs with unit flux within the normalisation radius."""
        return self._with((self.height / self.flux[..., None], *self.components[1:]))

    def centred(self):
        """Return the same PSFs with their cores on the stars' positions."""
        parts, place = self.components, self.place - self._core[0][..., None, :]
        psf = self._with((*parts[:2], *place.unbind(-1), *parts[4:]))
        psf.fit_info = self.fit_info
        return psf

    def _mapped(self, xx, xy, yy, place, scale=1.0):
        """Return the same fluxes with other covariances and centres."""
        variance, total = (xx * yy - xy.square()).sqrt(), xx + yy
        parts = self.fluxes / (2 * math.pi * variance), variance, *place.unbind(-1)
        return self._with((*parts, (xx - yy) / total, 2 * xy / total), scale)

    def broadened(self, variance, *, approximate=False):
        """
        Convolve the PSFs with round Gaussians.

        Parameters
        ----------
        variance : float or tensor ``(...)``
            Variances of the kernels along an axis in square pixels.

        approximate : bool, optional
            Whether a closed form is kept, as in the training of the bundled encoders,
            with unit flux within the radius: off by 1.7e-4 of the peak for 1/6 square
            pixel, by 2.9e-3 for 4. Else all of the light is kept, exactly.
        """
        if approximate and self.shape is not None:
            return self.with_shape(closed.broaden_shape(self.shape, variance))
        more = torch.as_tensor(variance).to(self.components[0])[..., None]
        xx, xy, yy = self.covariance.unbind(-1)
        return self._mapped(xx + more, xy, yy + more, self.place)

    def with_ellipticity(self, e1, e2):
        """Return the PSFs with other ellipticities ``(...)`` of all Gaussians."""
        if self.shape is None:
            return self._with((*self.components[:4], e1[..., None], e2[..., None]))
        tilt = torch.stack([e1, e2], -1).expand(*self.shape.shape[:-1], 2)
        return self.with_shape(torch.cat([self.shape[..., :6], tilt], -1))

    def transformed(self, jacobian):
        """
        Carry the PSFs to pixels of another grid.

        The ``jacobian`` ``(2, 2)`` has the derivatives of the new pixels (x, y) with
        respect to the old ones; a singular one is a `ValueError`. Values are fluxes per
        new pixel, and the normalisation radius is the same angle.
        """
        a = torch.as_tensor(jacobian).to(self.components[0])
        sound = a.shape == (2, 2) and bool(torch.linalg.det(a) != 0)
        require(sound, 'jacobian', 'be a regular 2 x 2 matrix', a.tolist())
        matrix = self.covariance[..., [0, 1, 1, 2]].unflatten(-1, (2, 2))
        xx, xy, _, yy = (a @ matrix @ a.mT).flatten(-2).unbind(-1)
        scale = math.sqrt(abs(float(torch.linalg.det(a))))
        return self._mapped(xx, xy, yy, self.place @ a.mT, scale)

    @property
    def flux(self):
        """Flux within the normalisation radius, of ellipses like the core ``(...)``."""
        radius, variance = self.normalization_radius, self.components[1]
        if self.shape is not None or math.isinf(radius):
            lost = torch.exp(-(radius**2) / (2 * variance))
            return (self.fluxes * (1 - lost)).sum(-1)
        return sums.integral_within(self.radial_profile, radius)

    @property
    def effective_area(self):
        """Effective area in square pixels, inverse integral of the square ``(...)``."""
        height, variance = self.components[:2]
        overlap = variance[..., :, None] * variance[..., None, :]
        if self.shape is not None:
            # Similar ellipses around one centre, which keep the area.
            overlap = overlap / (variance[..., :, None] + variance[..., None, :])
        else:
            overlap = overlap * sums.overlaps(self.covariance, self.place)
        power = height[..., :, None] * height[..., None, :] * overlap
        return 1 / (2 * math.pi * power.sum((-2, -1)))

    @functools.cached_property
    def _core(self):
        """Centre ``(..., 2)``, e1 and e2 of the core, by adaptive moments."""
        if self.shape is not None:
            return self.place[..., 0, :], self.shape[..., 6], self.shape[..., 7]
        return sums.adaptive_moments(self.fluxes, self.covariance, self.place)[:3]

    def radial_profile(self, radius):
        """Average the profile around the core at an elliptical radius in pixels."""
        radius = radius[..., None] if torch.is_tensor(radius) else radius
        if self.shape is not None:
            height, variance, *_ = self.components
            return (height * torch.exp(-(radius**2) / (2 * variance))).sum(-1)
        points = sums.ellipse_points(radius, *self._core)
        return self[..., None, :](*points).mean(-1)

    @property
    def fwhm(self):
        """Full width at half maximum of the radial profile in pixels, ``(...)``."""
        if self.shape is not None:
            return closed.fwhm_of_shape(self.shape)
        sigma = self.variance.sqrt()
        ends = sigma.amin(-1), sigma.amax(-1)
        return 2 * sums.half_radius(self.radial_profile, *ends)

    def describe(self, limits=None):
        """
        Compute the features of the PSFs for a network.

        They are functionals, on which any two descriptions of one PSF agree.

        Parameters
        ----------
        limits : pair of sequences of 8 floats, optional
            Lowest and highest values, to which features are clipped: the range of the
            training, in the card of an encoder.

        Returns
        -------
        features : tensor ``(..., 8)``
            Logarithms of central height, effective area and the profile at 1, 2, 4 and
            8 px over the centre, and ten times the two ellipticities of the core.
        """
        peak = self.radial_profile(0.0)
        features = [peak.log() + 2.7, self.effective_area.log() - LOG_AREA]
        for radius, offset in _FEATURES:
            features.append(torch.log(self.radial_profile(radius) / peak) - offset)
        features = torch.stack([*features, *(10 * e for e in self._core[1:])], -1)
        if limits is None:
            return features
        return features.clamp(*map(features.new_tensor, limits))

    @classmethod
    def fit(
        cls, images, *, phases=None, normalization_radius=DEFAULT_NORMALIZATION_RADIUS
    ):
        """
        Fit sums of Gaussians to images of PSFs by non-negative least squares.

        Parameters
        ----------
        images : array_like ``(..., s, s)`` or ``(..., n, s, s)``
            PSFs of any flux, s odd; the latter with ``phases``.

        phases : sequence of n pairs of float, optional
            Places (dx, dy) of the star relative to the middle pixel in n images of one
            PSF: a narrow core is determined by more than one.

        normalization_radius : float, optional
            Radius in pixels within which a star has unit flux.

        Returns
        -------
        psf : `GaussianPSF`
            The batch ``(...)`` in double precision. ``fit_info['residual']`` is the
            largest difference of a pixel from the image in units of its peak, array
            ``(...)``: 1e-5 for smooth profiles, 0.02 for the rings of an Airy pattern.

        Raises
        ------
        ValueError
            If the images are not square with an odd side, or hold no positive flux.
        """
        components, residual = sums.fit_images(cls, images, phases)
        psf = cls(*components, normalization_radius=normalization_radius).normalized()
        psf.fit_info = {'residual': residual}
        return psf
