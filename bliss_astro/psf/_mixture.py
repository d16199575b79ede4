# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Point-spread functions as tensors: profile, derivatives, Gaussian mixture, features.

A PSF is eight numbers, in the order of `SHAPE_NAMES`.  All functions take a tensor of
shape ``(..., 8)`` and work on any device, so that simulating, training and detecting
need neither GalSim nor astropy's models.  `bliss_astro.psf._profile` is the same
profile for NumPy.

The power law of the SDSS profile is a scale mixture of Gaussians,

.. math::

    (1 + r^2/c)^{-a} = \\frac{1}{\\Gamma(a)}
        \\int_{-\\infty}^{\\infty} \\exp(a s - e^s - e^s r^2 / c)\\, ds ,

and the trapezoidal rule in :math:`s` converges exponentially, so that 17
Gaussians replace it to about 1e-4 of its own height.  A circular (or
axis-aligned) Gaussian is a product of a function of x and one of y: the
whole image of a star field becomes one small matrix product.
"""

import math

import torch

__all__ = []

SHAPE_NAMES = ('sigma1', 'sigma2', 'b', 'sigmap', 'p0', 'beta', 'e1', 'e2')

# The 7.43 arcsec aperture to which SDSS ties its PSF magnitudes, in its pixels.
DEFAULT_NORMALIZATION_RADIUS = 18.76

# Typical logarithm of the effective area (px^2), subtracted in `describe_shape`.
LOG_AREA = 3.3

# r band of run 94, camcol 1, field 12: the field of the coadd and BLISS papers.
DEFAULT_SHAPE = (1.48996, 2.99404, 0.049229, 2.89229, 0.010495, 3.26380, 0.0, 0.0)

# Range of s = log t outside of which the integrand is negligible within
# 100 pixels.  The trapezoidal error of the power law, relative, is
# 2 |Gamma(a + 2 pi i / h)| / Gamma(a): 2e-5 for a step h of 0.7, 1e-3 for 1.
_FIRST_NODE, _LAST_NODE = -8.4, 2.8

# Halvings of the bracket of a FWHM: 2^-40 of it is beyond single precision.
_N_HALVINGS = 40

# Exponent of Gaussians below which nothing is left beside the peak even in double
# precision: exp(-35) = 6e-16.
_LEAST_EXPONENT = -35.0


def normalization_of_shape(
    shape: torch.Tensor, *, radius: float = DEFAULT_NORMALIZATION_RADIUS
) -> torch.Tensor:
    """
    Integrate the un-normalised profile within an elliptical radius.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels, in the order of `SHAPE_NAMES`.

    radius : float, optional
        The normalisation radius in pixels; may be infinite.

    Returns
    -------
    integral : tensor ``(...,)``
        In square pixels, for a profile whose Gaussian core has height one.
    """
    # Each operation on a few numbers costs the same, and operators with a number on
    # the left, or ``**``, twice as much: shapes are normalised thousands of times.
    s1, s2, b, sp, p0, beta = shape[..., :6].unbind(-1)
    core, wide, scale = s1.square(), s2.square(), beta * sp.square()
    tail = p0 * scale / (beta - 2)
    if not math.isinf(radius):
        r2 = radius**2
        slope = beta * -0.5 + 1
        core = -core * torch.expm1((core * (-2 / r2)).reciprocal())
        wide = -wide * torch.expm1((wide * (-2 / r2)).reciprocal())
        tail = -tail * torch.expm1(slope * torch.log1p((scale / r2).reciprocal()))
    return (core + b * wide + tail) * (2 * math.pi)


def elliptical_radius_squared(
    shape: torch.Tensor, dx: torch.Tensor, dy: torch.Tensor
) -> torch.Tensor:
    """
    Area-preserving elliptical radius squared, in square pixels.

    ``dx`` and ``dy`` broadcast against ``shape[..., 0]``.
    """
    e1, e2 = shape[..., 6], shape[..., 7]
    norm = _stretch(e1, e2)
    # Rows and columns apart as long as they can be: few operations see all pixels.
    tilt = norm * e1
    along_x, along_y = (norm - tilt) * dx.square(), (norm + tilt) * dy.square()
    return along_x + along_y - (norm * e2 * 2 * dx) * dy


def _stretch(e1, e2):
    """Factor of an elliptical radius by which areas are preserved."""
    return (-e1.square() - e2.square() + 1).rsqrt()


def _gaussian(r2, sigma):
    """
    Gaussian of height one at squared radii, nowhere below 6e-16.

    Values too small to be normal numbers, and squares of such, take processors 20 times
    as long, and the wings of narrow PSFs are full of them.
    """
    return torch.exp((r2 / (sigma.square() * -2)).clamp(min=_LEAST_EXPONENT))


def _components(shape, r2):
    """Core, wide Gaussian and power law at squared radii, and the base of the last."""
    s1, s2, b, sp, p0, beta = shape[..., :6].unbind(-1)
    base = r2 / (beta * sp.square()) + 1
    # The power through a logarithm takes half the time of ``**``.
    tail = p0 * torch.exp(torch.log(base) * -(beta / 2))
    return _gaussian(r2, s1), b * _gaussian(r2, s2), tail, base


def raw_profile(shape: torch.Tensor, r2: torch.Tensor) -> torch.Tensor:
    """Profile at squared elliptical radii whose Gaussian core has height one."""
    core, wide, tail, _ = _components(shape, r2)
    return core + wide + tail


def profile_slope(
    shape: torch.Tensor, r2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`raw_profile`, and -2 times its derivative by the squared radius."""
    s1, s2, _, sp = shape[..., :4].unbind(-1)
    core, wide, tail, base = _components(shape, r2)
    slope = core / s1.square() + wide / s2.square() + tail / (base * sp.square())
    return core + wide + tail, slope


def asinh(value: torch.Tensor) -> torch.Tensor:
    """``asinh(value)`` to 2e-7, in an eighth of the time of `torch.asinh` on images."""
    size = value.abs().clamp(max=1e18)  # whose square is still a number
    return torch.log(size + (size.square() + 1).sqrt()).copysign(value)


def profile_of_shape(
    shape: torch.Tensor,
    dx: torch.Tensor,
    dy: torch.Tensor,
    *,
    radius: float = DEFAULT_NORMALIZATION_RADIUS,
    integral: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Compute the PSF, of unit flux within ``radius``, at offsets from its centre.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters; ``shape[..., 0]`` broadcasts against ``dx``.

    dx, dy : tensor
        Offsets in pixels.

    radius : float, optional
        The normalisation radius in pixels.

    integral : tensor, optional
        From `normalization_of_shape` for that radius, where it is known.

    Returns
    -------
    value : tensor
        Per square pixel.
    """
    value = raw_profile(shape, elliptical_radius_squared(shape, dx, dy))
    if integral is None:
        integral = normalization_of_shape(shape, radius=radius)
    return value / integral


def profile_with_gradient(
    shape: torch.Tensor,
    dx: torch.Tensor,
    dy: torch.Tensor,
    *,
    radius: float = DEFAULT_NORMALIZATION_RADIUS,
    integral: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Compute the PSF and its derivatives by the position of its centre.

    Returns ``(p, dp/dx_0, dp/dy_0)``, each of the broadcast shape of
    ``shape[..., 0]`` and the offsets.  The arguments are those of
    `profile_of_shape`.
    """
    e1, e2 = shape[..., 6], shape[..., 7]
    value, slope = profile_slope(shape, elliptical_radius_squared(shape, dx, dy))
    if integral is None:
        integral = normalization_of_shape(shape, radius=radius)
    slope = slope * (_stretch(e1, e2) / integral)
    d_x0 = slope * ((-e1 + 1) * dx - e2 * dy)
    d_y0 = slope * ((e1 + 1) * dy - e2 * dx)
    return value / integral, d_x0, d_y0


def _nodes(power, step):
    """Nodes of the quadrature of power laws of index ``power``, ``(..., K)``."""
    nodes = torch.arange(_FIRST_NODE, _LAST_NODE + 1e-6, step).to(power)
    # Above an index of 2 the integrand narrows around s = log(a), with a width of
    # 1 / sqrt(a): the same number of nodes covers what is left of it.
    steep = power.clamp(min=2.0)
    low = (16.4 / steep + 0.9).clamp(max=0.6931 - _FIRST_NODE)
    high = (4.7 / steep.sqrt()).clamp(max=_LAST_NODE - 0.6931)
    unit = torch.linspace(0, 1, len(nodes)).to(power)
    steep_nodes = steep.log() - low + unit * (low + high)
    return torch.where(power > 2, steep_nodes, nodes)


def mixture_of_shape(
    shape: torch.Tensor,
    *,
    radius: float = DEFAULT_NORMALIZATION_RADIUS,
    step: float = 0.7,
) -> tuple[torch.Tensor, torch.Tensor]:
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
        `profile_of_shape` to 1e-6 of the peak within 100 pixels.
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


def broaden_shape(shape: torch.Tensor, variance) -> torch.Tensor:
    """
    Compute the shape of the PSF after a convolution with a small kernel.

    Second moments of the two Gaussians and of the power law's core grow by
    ``variance`` while each keeps its flux.  Bilinear interpolation at a
    distance u from the nearest pixel is such a kernel with variance
    ``u (1 - u)`` along the axis, 1/6 square pixel on average over uniform
    dithers of half a pixel.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels.

    variance : float or tensor ``(...,)``
        Variance of the kernel along an axis in square pixels.

    Returns
    -------
    shape : tensor ``(..., 8)``
        The broadened shape.
    """
    s1, s2, b, sp, p0, beta, e1, e2 = shape.unbind(-1)
    new1, new2, newp = (torch.sqrt(s.square() + variance) for s in (s1, s2, sp))
    core = (s1 / new1).square()  # the loss of height of the core, taken as one
    b = b * (s2 / new2).square() / core
    p0 = p0 * (sp / newp).square() / core
    # A round kernel makes an ellipse rounder.
    return torch.stack([new1, new2, b, newp, p0, beta, e1 * core, e2 * core], -1)


def describe_shape(
    shape: torch.Tensor, *, radius: float = DEFAULT_NORMALIZATION_RADIUS
) -> torch.Tensor:
    """
    Compute the features of a PSF for a network: functionals, not parameters.

    Quite different parameters give nearly the same PSF; the features are numbers on
    which any two descriptions of one PSF agree.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels.

    radius : float, optional
        The normalisation radius in pixels.

    Returns
    -------
    features : tensor ``(..., 8)``
        Logarithm of the central height, of the effective area
        ``1 / integral(p^2)``, of the profile at 1, 2, 4 and 8 pixels
        relative to the centre (scaled), and the two ellipticities.
    """
    height, variance = mixture_of_shape(shape, radius=radius)
    peak = height.sum(-1)
    pair = variance[..., :, None] * variance[..., None, :]
    pair = pair / (variance[..., :, None] + variance[..., None, :])
    power = (height[..., :, None] * height[..., None, :] * pair).sum((-2, -1))
    n_eff = 1 / (2 * math.pi * power)
    features = [torch.log(peak) + 2.7, torch.log(n_eff) - LOG_AREA]
    for r, offset in ((1.0, -0.25), (2.0, -0.9), (4.0, -2.9), (8.0, -5.5)):
        value = (height * torch.exp(-(r**2) / (2 * variance))).sum(-1) / peak
        features.append(torch.log(value) - offset)
    features += [10 * shape[..., 6], 10 * shape[..., 7]]
    return torch.stack(features, -1)


def fwhm_of_shape(shape: torch.Tensor) -> torch.Tensor:
    """
    Compute the full width at half maximum of the PSF.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels, in the order of `SHAPE_NAMES`.

    Returns
    -------
    fwhm : tensor ``(...,)``
        In pixels; of an elliptical PSF, that of the round one of the same area.
    """
    s1, s2, b, sp, p0, _ = shape[..., :6].unbind(-1)
    half = 0.5 * (1 + b + p0)
    low, high = torch.zeros_like(s1), 3 * (s1 + s2 + sp)
    for _ in range(_N_HALVINGS):
        middle = 0.5 * (low + high)
        above = raw_profile(shape, middle**2) > half
        low = torch.where(above, middle, low)
        high = torch.where(above, high, middle)
    return low + high


def scale_to_fwhm(shape: torch.Tensor, fwhm: torch.Tensor) -> torch.Tensor:
    """
    Scale PSFs, wings and all, to a given width.

    Parameters
    ----------
    shape : tensor ``(..., 8)``
        Shape parameters in pixels.

    fwhm : tensor ``(...,)``
        Full width at half maximum to reach, in pixels.

    Returns
    -------
    shape : tensor ``(..., 8)``
        The same profiles with all lengths scaled by one factor each.
    """
    factor = (fwhm / fwhm_of_shape(shape))[..., None]
    lengths = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0], device=shape.device).bool()
    return torch.where(lengths, shape * factor, shape)
