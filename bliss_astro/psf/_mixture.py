# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Closed form of the eight-parameter PSF for tensors, its Gaussians, and asymmetry.

`GaussianPSF` is the class in front of it. A PSF is eight numbers, in the order of
`SHAPE_NAMES`.  All functions take a tensor of shape ``(..., 8)`` and work on any
device.  `bliss_astro.psf._profile` is the same profile for NumPy, with all derivatives,
in a quarter of the time for one PSF.

The power law of the SDSS profile is a scale mixture of Gaussians,

.. math::

    (1 + r^2/c)^{-a} = \\frac{1}{\\Gamma(a)}
        \\int_{-\\infty}^{\\infty} \\exp(a s - e^s - e^s r^2 / c)\\, ds ,

and the trapezoidal rule in :math:`s` converges exponentially, so that 17
Gaussians replace it to about 1e-4 of its own height.  A circular (or
axis-aligned) Gaussian is a product of a function of x and one of y: the
whole image of a star field becomes one small matrix product.

Asymmetry, coma and trefoil, is what no ellipse has: where a PSF has a lobe on one
side, bright stars seem to have faint companions there.
"""

import copy
import functools
import math

import numpy as np
import torch

SHAPE_NAMES = ('sigma1', 'sigma2', 'b', 'sigmap', 'p0', 'beta', 'e1', 'e2')

# The 7.43 arcsec aperture to which SDSS ties its PSF magnitudes, in its pixels.
DEFAULT_NORMALIZATION_RADIUS = 18.76

# Typical logarithm of the effective area (px^2), subtracted in `GaussianPSF.describe`.
LOG_AREA = 3.3

# r band of run 94, camcol 1, field 12: the field of the coadd and BLISS papers.
DEFAULT_SHAPE = (1.48996, 2.99404, 0.049229, 2.89229, 0.010495, 3.26380, 0.0, 0.0)

# Least |beta / 2 - 1|: the integral of the power law is smooth there.
NEAR_TWO = 1e-9

# Range of s = log t outside of which the integrand is negligible within
# 100 pixels.  The trapezoidal error of the power law, relative, is
# 2 |Gamma(a + 2 pi i / h)| / Gamma(a): 2e-5 for a step h of 0.7, 1e-3 for 1.
_FIRST_NODE, _LAST_NODE = -8.4, 2.8

# Steps of Newton's method for the half-maximum radius.
_N_STEPS = 7

# Exponent of two in Gaussians below which nothing is left beside the peak even in
# double precision: 2^-50.5 = 6e-16.
_LEAST_EXPONENT = -50.5
# `torch.exp2` takes a fifth of the time of `torch.exp` on the processors that lack
# a vendor's own exponential, and `torch.log1p` two thirds of that of `torch.log`.
LOG2_E = 1 / math.log(2)

# The ring in which the harmonics of an asymmetry are measured, in FWHM.
_RING = (0.75, 2.5)


def quadratic_form(xx, yy, xy, dx, dy):
    """``xx dx^2 + yy dy^2 + xy dx dy``."""
    # Rows and columns apart as long as they can be: few operations see all pixels.
    return (xx * dx.square() + yy * dy.square()).addcmul(xy * dx, dy)


def stretch_of(e1, e2):
    """Factor of an elliptical radius by which areas are preserved."""
    return (-e1.square() - e2.square() + 1).rsqrt()


def gaussian(r2, variance):
    """
    Gaussian of height one at squared radii, nowhere below 6e-16.

    Values too small to be normal numbers, and squares of such, take processors 20 times
    as long, and the wings of narrow PSFs are full of them.
    """
    factor = variance.reciprocal() * (-0.5 * LOG2_E)
    return torch.exp2((r2 * factor).clamp(min=_LEAST_EXPONENT))


def asinh(value):
    """``asinh(value)`` to 2e-7, in an eighth of the time of `torch.asinh` on images."""
    size = value.abs().clamp(max=1e18)  # whose square is still a number
    return torch.log(size + (size.square() + 1).sqrt()).copysign(value)


class ClosedForm:
    """
    Closed form of PSFs of unit flux within a radius, and of those blurred a little.

    Three terms, the core, the wide Gaussian and the power law, come first in tensors
    ``(3, ...)``. A blur adds to the variance of each, which keeps its flux, and makes
    an ellipse rounder. What all blurs have in common is computed once.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels; the batch broadcasts against offsets.

    radius : float or None, optional
        The normalisation radius in pixels; None for cores of height one.
    """

    def __init__(self, shape, radius=DEFAULT_NORMALIZATION_RADIUS):
        s1, s2, b, sp, p0, beta, *self.tilt = shape.unbind(-1)
        one, half = torch.ones_like(b), torch.full_like(b, -0.5 * LOG2_E)
        slope = beta * -0.5 + 1
        self.slope = torch.where(slope == 0, -NEAR_TWO, slope)
        self.radius = radius
        self.variance = torch.stack([s1, s2, sp]).square()
        self.flux = torch.stack([one, b, p0]) * self.variance
        # Exponents of two, and of the power law its base less one, at a radius of one.
        self.rate = torch.stack([half, half, beta.reciprocal()])
        self.power = beta * (-0.5 * LOG2_E)
        # Areas at a height of one, but for the variance.
        law = (slope - 1) / self.slope
        self.area = torch.stack([one, one, law]) * self.flux * (-2 * math.pi)
        self._blur()

    def _blur(self, variance=0.0):
        self.inverse = (self.variance + variance).reciprocal()
        self.factor = self.rate * self.inverse
        self.height = self.flux * self.inverse
        if self.radius is not None:
            self.height = self.height / self.integral()

    def integral(self):
        """Flux within the radius, of PSFs whose core has height one unless blurred."""
        lost = torch.full_like(self.factor, -1.0)
        if not math.isinf(self.radius):
            lost = self.factor * self.radius**2
            lost[:2].mul_(1 / LOG2_E)
            lost[2].log1p_().mul_(self.slope)
            lost.expm1_()
        return (self.area * lost).sum(0)

    def blurred(self, variance, tilt=None):
        """The PSFs after J round Gaussians ``(J, ...)`` (px^2), or with (e1, e2)."""
        form = copy.copy(self)
        vars(form).pop('_ellipse', None)
        for name in ('variance', 'flux', 'rate', 'area'):
            setattr(form, name, _spread(getattr(self, name), variance))
        form._blur(variance)
        core = 1 if tilt else self.variance[0] * form.inverse[0]
        form.tilt = tilt or [e * core for e in self.tilt]
        return form

    def value(self, r2):
        """Flux per pixel at squared elliptical radii."""
        return self._sum(self._powers(_spread(self.factor, r2) * r2))

    def value_and_slope(self, r2, of=...):
        """`value`, and -2 times its derivative by the radius for a slice of blurs."""
        terms = _spread(self.factor, r2) * r2
        # The first axis of blurs, where there is one, is that of a slice.
        base = terms[2][of] + 1
        value = self._sum(self._powers(terms))
        height = _spread(self.height * self.inverse, r2)[:, of]
        core, wide, law = terms[:, of]
        slope = (core * height[0]).addcmul_(wide, height[1])
        return value, slope.addcmul_(law / base, height[2])

    def _powers(self, terms):
        # The power through a logarithm takes a third of the time of ``**``.
        terms[2].log1p_().mul_(self.power)
        terms[:2].clamp_(min=_LEAST_EXPONENT)
        return terms.exp2_()

    def _sum(self, terms):
        height = _spread(self.height, terms[0])
        value = terms[0] * height[0]
        return value.addcmul_(terms[1], height[1]).addcmul_(terms[2], height[2])

    @functools.cached_property
    def _ellipse(self):
        """Factors of x^2, y^2 and x y in squared radii, and of their derivatives."""
        (e1, e2), norm = self.tilt, stretch_of(*self.tilt)
        tilt, across = norm * e1, norm * e2
        return norm - tilt, norm + tilt, across * -2, across

    def radius_squared(self, dx, dy):
        """Squared elliptical radius (px^2), which preserves areas, at offsets."""
        return quadratic_form(*self._ellipse[:3], dx, dy)

    def profile(self, dx, dy):
        """Flux per pixel at offsets (px) from the centre."""
        return self.value(self.radius_squared(dx, dy))

    def gradient(self, dx, dy):
        """`profile` and its derivatives by x and y of the centre."""
        value, slope = self.value_and_slope(self.radius_squared(dx, dy))
        return value, *self.along(slope, dx, dy)

    def along(self, slope, dx, dy, of=...):
        """Derivatives by x and y of the centre from that by the radius."""
        xx, yy, _, xy = (part[of] for part in self._ellipse)
        return slope * (xx * dx - xy * dy), slope * (yy * dy - xy * dx)


def _spread(terms, like):
    """Terms ``(3, ...)`` with as many axes after the first as another tensor."""
    more = like.dim() + 1 - terms.dim()
    return terms.reshape(3, *more * [1], *terms.shape[1:]) if more > 0 else terms


def normalization_of_shape(shape, radius=DEFAULT_NORMALIZATION_RADIUS):
    """Integrate the profile whose core has height one within a radius (px), in px^2."""
    return ClosedForm(shape, radius).height[0].reciprocal()


def elliptical_radius_squared(shape, dx, dy):
    """Squared elliptical radius (px^2), which preserves areas, at offsets."""
    return ClosedForm(shape, None).radius_squared(dx, dy)


def profile_of_shape(shape, dx, dy, *, radius=DEFAULT_NORMALIZATION_RADIUS):
    """Compute the PSF, of unit flux within ``radius``, at offsets (px)."""
    return ClosedForm(shape, radius).profile(dx, dy)


def profile_with_gradient(shape, dx, dy, *, radius=DEFAULT_NORMALIZATION_RADIUS):
    """`profile_of_shape` and its derivatives by x and y of the centre."""
    return ClosedForm(shape, radius).gradient(dx, dy)


def _nodes(power, step):
    """Nodes of the quadrature of power laws of index ``power``, ``(..., K)``."""
    device = power.device
    nodes = torch.arange(_FIRST_NODE, _LAST_NODE + 1e-6, step, device=device).to(power)
    # Above an index of 2 the integrand narrows around s = log(a), with a width of
    # 1 / sqrt(a): the same number of nodes covers what is left of it.
    steep = power.clamp(min=2.0)
    low = (16.4 / steep + 0.9).clamp(max=0.6931 - _FIRST_NODE)
    high = (4.7 / steep.sqrt()).clamp(max=_LAST_NODE - 0.6931)
    unit = torch.linspace(0, 1, len(nodes), device=device).to(power)
    steep_nodes = steep.log() - low + unit * (low + high)
    return torch.where(power > 2, steep_nodes, nodes)


def mixture_of_shape(shape, *, radius=DEFAULT_NORMALIZATION_RADIUS, step=0.7):
    """
    Expand the PSF in a mixture of Gaussians of one common ellipticity.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels.

    radius : float, optional
        The normalisation radius in pixels.

    step : float, optional
        Step of the quadrature of the power law.

    Returns
    -------
    height, variance : tensor ``(..., K)``
        K is 19 for the default step.
        ``psf = sum(height * exp(-rho2 / (2 * variance)))`` with the elliptical
        radius of `elliptical_radius_squared`; agrees with
        `profile_of_shape` to 1e-4 of the power law's height within 100 pixels.
    """
    s1, s2, b, sp, p0, beta = (part[..., None] for part in shape[..., :6].unbind(-1))
    power = beta / 2
    nodes = _nodes(power, step)
    log_weight = power * nodes - nodes.exp() - torch.lgamma(power)
    # The trapezoidal sum is normalised, so that the centre is exact.
    weight = torch.softmax(log_weight, -1)
    height = torch.cat([torch.ones_like(b), b, p0 * weight], -1)
    scale = beta * sp**2 / (2 * nodes.exp())
    variance = torch.cat([s1**2, s2**2, scale], -1)
    norm = normalization_of_shape(shape, radius=radius)[..., None]
    return height / norm, variance


def broaden_shape(shape, variance):
    """
    Compute the shape ``(..., 8)`` of the PSF after a convolution with a small kernel.

    Second moments of the two Gaussians and of the power law's core grow by the
    ``variance`` of the kernel along an axis (px^2) while each keeps its flux.
    Bilinear interpolation at a distance u from the nearest pixel is such a kernel with
    variance ``u (1 - u)``, 1/6 square pixel on average over uniform dithers of half a
    pixel.
    """
    s1, s2, b, sp, p0, beta, e1, e2 = shape.unbind(-1)
    new1, new2, newp = (torch.sqrt(s.square() + variance) for s in (s1, s2, sp))
    core = (s1 / new1).square()  # the loss of height of the core, taken as one
    b = b * (s2 / new2).square() / core
    p0 = p0 * (sp / newp).square() / core
    # A round kernel makes an ellipse rounder.
    beta = beta.expand_as(core)
    return torch.stack([new1, new2, b, newp, p0, beta, e1 * core, e2 * core], -1)


def fwhm_of_shape(shape):
    """FWHM in pixels; of an ellipse, that of the circle of the same area."""
    r2, form = torch.zeros_like(shape[..., 0]), ClosedForm(shape, None)
    half = 0.5 * form.value(r2)
    # The logarithm of the profile is a convex function of r2, so that no step goes too
    # far, and nearly a straight line, so that few are needed.
    for _ in range(_N_STEPS):
        value, slope = form.value_and_slope(r2)
        r2 = r2 + 2 * value * torch.log(value / half) / slope
    return 2 * r2.clamp(min=0).sqrt()


def scale_to_fwhm(shape, fwhm):
    """Scale all lengths of shapes ``(..., 8)`` so that the FWHM is ``fwhm`` px."""
    factor = (fwhm / fwhm_of_shape(shape))[..., None]
    lengths = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0], device=shape.device).bool()
    return torch.where(lengths, shape * factor, shape)


def asymmetry_of_image(image, fwhm, x=None, y=None):
    """
    Compute the first and third harmonics of the light around a PSF's core.

    Parameters
    ----------
    image : tensor ``(B, n, n)``
        The PSFs, each of unit flux.

    fwhm : tensor ``(B,)``
        Full width at half maximum in pixels.

    x, y : tensor ``(B,)``, optional
        Position of the cores in pixels; by default the middle of the images.

    Returns
    -------
    asymmetry : tensor ``(B, 4)``
        Real and imaginary parts of the sums of flux times ``exp(i m theta)`` over
        0.75 to 2.5 FWHM, for m = 1 (coma) and m = 3 (trefoil): a lobe that holds 3 %
        of the flux at an angle theta gives 0.03 times the cosine and sine.
    """
    n = image.shape[-1]
    axis = torch.arange(n, device=image.device, dtype=image.dtype)
    middle = image.new_full((len(image),), (n - 1) / 2)
    dx = axis[None, None, :] - (middle if x is None else x)[:, None, None]
    dy = axis[None, :, None] - (middle if y is None else y)[:, None, None]
    r = torch.hypot(dx, dy) / fwhm[:, None, None]
    # Soft edges, a third of a pixel wide, so that no pixel jumps in or out.
    soft = 3 * fwhm[:, None, None]
    ring = torch.sigmoid(soft * (r - _RING[0])) * torch.sigmoid(soft * (_RING[1] - r))
    theta = torch.atan2(dy, dx)
    light = image * ring
    waves = [wave(m * theta) for m in (1, 3) for wave in (torch.cos, torch.sin)]
    return torch.stack([(light * wave).sum((-2, -1)) for wave in waves], -1)


def lobe_kernel(share, distance, angle, width, size):
    """
    Transfer function ``(B, 2 ny, nx + 1)`` that moves some light into Gaussian lobes.

    Each lobe has a share of the flux, a place (px, rad) and a standard deviation (px),
    tensors ``(B, L)``; images of ``size`` (ny, nx) are padded to twice their size.
    """
    ny, nx = size
    like = {'device': share.device, 'dtype': share.dtype}
    ky = 2 * math.pi * torch.fft.fftfreq(2 * ny, **like)
    kx = 2 * math.pi * torch.fft.rfftfreq(2 * nx, **like)
    angle = angle[..., None]
    # A function of kx times one of ky.
    along_x, along_y = (
        torch.exp(-0.5 * (width[..., None] * k) ** 2 - 1j * k * distance[..., None] * s)
        for k, s in ((kx, torch.cos(angle)), (ky, torch.sin(angle)))
    )
    lobes = (share[..., None] * along_y).mT @ along_x
    return 1 - share.sum(1)[:, None, None] + lobes


def core_centre(image, fwhm):
    """Centroid (x, y) of the core of an array, by a window that no lobe pulls."""
    y, x = (float(v) for v in np.unravel_index(np.argmax(image), image.shape))
    rows, columns = (np.arange(n, dtype=float) for n in image.shape)
    variance = (0.3 * fwhm) ** 2 + 0.1
    for _ in range(10):
        dx, dy = columns - x, rows - y
        in_x, in_y = (np.exp(-np.square(d) / (2 * variance)) for d in (dx, dy))
        by_x, by_y = in_y @ image * in_x, image @ in_x * in_y
        # For a core as wide as the window, the mean is half of the way there.
        x += 2 * float(by_x @ dx / by_x.sum())
        y += 2 * float(by_y @ dy / by_y.sum())
    return x, y


def asymmetry_of_psf(image, fwhm):
    """Asymmetry (4,) of an array around the core; see `asymmetry_of_image`."""
    square = np.zeros(2 * (max(image.shape),))
    square[: image.shape[0], : image.shape[1]] = image / image.sum()
    numbers = torch.tensor([fwhm, *core_centre(square, fwhm)]).double()[:, None]
    return asymmetry_of_image(torch.from_numpy(square)[None], *numbers)[0].numpy()
