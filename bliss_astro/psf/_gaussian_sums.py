# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sums of Gaussians: fits to images by non-negative least squares, values, moments.
"""

import math

import numpy as np
import torch

from bliss_astro._arguments import require

from ._mixture import gaussian, quadratic_form, stretch_of

# Standard deviations of the Gaussians: the narrowest in FWHM (narrower ones fit the
# pixels and are lumpy between them) and in pixels (a PSF contains the pixel), and the
# ratio of neighbours. They lie on grids whose step is their width, within so many
# widths of the centre or so many FWHM.
_NARROWEST, _NARROWEST_PIXELS, _RATIO = 0.25, 0.5, 2**0.5
_REACH, _REACH_FWHM, _MIN_FWHM = 2.1, 1.2, 1.2
# Points per pixel between which widths are measured.
_FINE = 4
# Width in FWHM of the window in which the ellipticity is measured, its largest value,
# and a variance in square pixels against light that is all in one of them.
_WINDOW, _MOST, _TINY = 0.6, 0.6, 1e-3
# Ridge, relative; Gaussians lower than this share of the peak are left out.
_RIDGE, _LEAST_HEIGHT = 1e-6, 1e-7
# Rounds after which adaptive moments no longer change by more than 1e-4, and the window
# at first, relative to the second moments: wings outweigh the rest in these.
_ROUNDS, _FIRST_WINDOW = 40, 0.3

# Numbers that are worked on at once where Gaussians are evaluated.
_ELEMENTS = 4_000_000
# Directions in which profiles are averaged, radii of their integral, and steps of a
# bisection.
_N_DIRECTIONS, _N_RADII, _N_STEPS = 48, 64, 50


def fit_images(gaussians, images, phases):
    """
    Components of images, see `GaussianPSF.fit`, and the residuals as an array.

    ``gaussians`` is the class whose formula is fitted.
    """
    images = np.asarray(images, float)
    if phases is None:
        phases, images = ((0.0, 0.0),), np.atleast_2d(images)[..., None, :, :]
    n = len(phases)
    *batch, own, side, width = (0, 0, *images.shape)[-max(images.ndim, 3) :]
    sound = own == n and side == width and side % 2
    require(sound, 'images', 'have the shape (..., s, s), s odd', images.shape)
    pixels = images.reshape(-1, n * side**2)
    peaks = pixels.max(1, keepdims=True)
    sound = np.isfinite(pixels).all() and peaks.min() > 0
    require(sound, 'images', 'be finite with positive flux', 'some that are not')
    pixels = pixels / peaks
    mean = pixels.mean(0).reshape(n, side, side)
    sigma, x, y, tilt = _dictionary(mean, phases)
    axis = torch.arange(side).double() - side // 2
    shifts = torch.tensor(phases).double()[..., None]
    dx, dy = (axis - shifts[:, k : k + 1] for k in (0, 1))  # (n, 1, s)
    each = (torch.ones_like(sigma), sigma**2, x, y)
    basis = gaussians(*(part[:, None] for part in each), *tilt)[:, None, None, None]
    columns = basis(dx, dy.mT).flatten(1).numpy()
    heights = _non_negative(columns, pixels)
    residual = np.abs(heights @ columns - pixels).max(1)
    # As many as the one with most needs, the others of height zero.
    order = np.argsort(-heights, axis=1, kind='stable')
    order = order[:, : int((heights > _LEAST_HEIGHT).sum(1).max())]
    heights = torch.from_numpy(np.take_along_axis(heights, order, 1))
    parts = [heights, *(part[order] for part in each[1:])]
    parts = [part.reshape(*batch, order.shape[1]) for part in parts]
    return (*parts, *tilt), residual.reshape(batch)


def _dictionary(images, phases):
    """Sigma, x and y ``(n,)`` and the ellipticity of the Gaussians of a fit."""
    from scipy.ndimage import zoom

    half = images.shape[-1] // 2
    # The area above half of the maximum, between pixels.
    fine = np.array([zoom(image, _FINE) for image in images])
    area = (fine > 0.5 * fine.max()).mean() * (2 * half) ** 2
    fwhm = max(2 * math.sqrt(area / math.pi), _MIN_FWHM)
    places, sigma = [], max(_NARROWEST * fwhm, _NARROWEST_PIXELS)
    while sigma < half or not places:
        reach = max(_REACH, _REACH_FWHM * fwhm / sigma)
        step = np.arange(-int(reach), int(reach) + 1)
        x, y = np.meshgrid(step, step)
        inside = np.hypot(x, y) <= reach
        places.append(sigma * np.stack([np.ones(inside.sum()), x[inside], y[inside]]))
        sigma *= _RATIO
    # The light under a round window; the inverse covariances of Gaussians add up.
    x, y = np.arange(-half, half + 1) - np.array(phases, float).T[..., None]
    dx, dy, variance = x[:, None, :], y[:, :, None], (_WINDOW * fwhm) ** 2
    light = images * np.exp(-0.5 * (dx**2 + dy**2) / variance)
    xx, xy, yy = ((light * v).sum() / light.sum() for v in (dx**2, dx * dy, dy**2))
    inverse = np.linalg.inv([[xx + _TINY, xy], [xy, yy + _TINY]]) - np.eye(2) / variance
    (xx, xy), (_, yy) = inverse
    tilt = np.array([yy - xx, -2 * xy]) / abs(xx + yy)
    tilt *= min(1.0, _MOST / max(np.hypot(*tilt), 1e-9))
    parts = torch.from_numpy(np.concatenate(places, axis=1))
    return *parts, tuple(tilt)


def _non_negative(columns, images):
    """Heights ``(B, n)`` >= 0 of rows ``(n, P)`` whose sums are nearest to images."""
    from scipy.optimize import nnls

    q, r = np.linalg.qr(columns.T)
    n = len(columns)
    matrix = np.vstack([r, _RIDGE * np.abs(r).max() * np.eye(n)])
    right = np.pad(images @ q, ((0, 0), (0, n)))
    return np.array([nnls(matrix, value, maxiter=30 * n)[0] for value in right])


def check_components(height, *parts):
    """Heights, variances, x, y, e1 and e2 as tensors of one shape, of sound values."""
    height = torch.as_tensor(height)
    height = height if height.is_floating_point() else height.double()
    parts = [torch.as_tensor(v).to(height) for v in parts]
    try:
        found = torch.broadcast_tensors(height, *parts)
    except RuntimeError as error:
        msg = f'height, variance, x, y, e1 and e2 must broadcast: {error}'
        raise ValueError(msg) from error
    height, variance, _, _, e1, e2 = found
    sound, got = height.dim() > 0 and height.numel() > 0, tuple(height.shape)
    require(sound, 'height', 'have a last axis of Gaussians', f'the shape {got}')
    sound = bool(height.isfinite().all())
    require(sound, 'height', 'be finite', 'some that are not')
    least = float(variance.min())
    require(least > 0, 'variance', 'be positive', f'{least:g}')
    most = float((e1.square() + e2.square()).max())
    require(most < 1, 'e1 and e2', 'keep e1**2 + e2**2 below 1', f'{most:g}')
    return found


def in_pieces(function, components, *at):
    """Sum a function of components and places over as many as fit into memory."""
    shape = torch.broadcast_shapes(components[0].shape[:-1], *(v.shape for v in at))
    step, total = max(1, _ELEMENTS // max(1, shape.numel())), 0.0
    pieces = (part.expand_as(components[0]).split(step, -1) for part in components)
    for piece in zip(*pieces, strict=True):
        total = total + function(*piece, *(v[..., None] for v in at))
    return total


def profile(height, variance, x, y, e1, e2, dx, dy):
    """Values at offsets."""
    form = quadratic_form(1 - e1, 1 + e1, -2 * e2, dx - x, dy - y)
    return (height * gaussian(form, variance / stretch_of(e1, e2))).sum(-1)


def gradient(height, variance, x, y, e1, e2, dx, dy):
    """Values at offsets, and their derivatives by x and y of the star, ``(3, ...)``."""
    dx, dy, scale = dx - x, dy - y, variance / stretch_of(e1, e2)
    value = height * gaussian(quadratic_form(1 - e1, 1 + e1, -2 * e2, dx, dy), scale)
    slope = value / scale
    d_x, d_y = slope * ((1 - e1) * dx - e2 * dy), slope * ((1 + e1) * dy - e2 * dx)
    return torch.stack([part.sum(-1) for part in (value, d_x, d_y)])


def transform(flux, xx, xy, yy, *rest):
    """Fourier transforms of Gaussians, with centres or without, at wavenumbers."""
    *centre, kx, ky = rest
    modes = flux * torch.exp(-0.5 * quadratic_form(xx, yy, 2 * xy, kx, ky))
    if centre:
        modes = modes * torch.exp(-1j * (kx * centre[0] + ky * centre[1]))
    return modes.sum(-1)


def adaptive_moments(weight, covariance, place=None):
    """
    Adaptive moments of mixtures of Gaussians (Bernstein & Jarvis 2002, AJ 123, 583).

    Moments weighted by an elliptical Gaussian that matches them, found by iteration;
    between Gaussians all is known in closed form. Weights ``(..., K)``, covariances
    ``(..., K, 3)`` and centres ``(..., K, 2)``, if these are not all zero, give the
    centre ``(..., 2)``, e1, e2 and the size: the fourth root of the determinant.
    """
    total = weight.sum(-1)[..., None]
    centre = 0.0 if place is None else (weight[..., None] * place).sum(-2) / total
    window = (weight[..., None] * covariance).sum(-2) / total
    window = _FIRST_WINDOW * window[..., [0, 1, 1, 2]].unflatten(-1, (2, 2))
    for _ in range(_ROUNDS):
        own = covariance + window.flatten(-2)[..., None, [0, 1, 3]]
        xx, xy, yy = own.unbind(-1)
        det = xx * yy - xy.square()
        light = weight * torch.rsqrt(det)
        a, b, c = yy / det, -xy / det, xx / det
        if place is not None:
            dx, dy = (place - centre[..., None, :]).unbind(-1)
            px, py = a * dx + b * dy, b * dx + c * dy
            light = light * torch.exp(-0.5 * (px * dx + py * dy))
            a, b, c = a - px * px, b - px * py, c - py * py
        light = (light / light.sum(-1, keepdim=True))[..., None, :]
        if place is not None:
            pull = light @ torch.stack([px, py], -1)
            centre = centre + 2 * (pull @ window)[..., 0, :]
        # With S = C + W products have the covariance C S^-1 W = W - W S^-1 W, and lie
        # W S^-1 d from the window.
        mean = (light @ torch.stack([a, b, c], -1))[..., 0, [0, 1, 1, 2]]
        window = 2 * (window - window @ mean.unflatten(-1, (2, 2)) @ window)
    xx, xy, _, yy = window.flatten(-2).unbind(-1)
    size, trace = (xx * yy - xy**2).clamp(min=0) ** 0.25, xx + yy
    return centre, (xx - yy) / trace, 2 * xy / trace, size


def ellipse_points(radius, centre, e1, e2):
    """Points on ellipses of a radius around places, in the last axis."""
    x, y, e1, e2 = (part[..., None] for part in (*centre.unbind(-1), e1, e2))
    angle = torch.arange(_N_DIRECTIONS, device=x.device).to(x)
    angle *= 2 * math.pi / _N_DIRECTIONS
    # The root of the ellipse's matrix makes it of a circle.
    stretch = stretch_of(e1, e2)
    radius = radius / (2 * (stretch + 1)).sqrt()
    cos, sin, across = radius * angle.cos(), radius * angle.sin(), stretch * e2
    along_x, along_y = stretch * (1 + e1) + 1, stretch * (1 - e1) + 1
    return x + along_x * cos + across * sin, y + across * cos + along_y * sin


def integral_within(profile, radius):
    """Integral over a circle of a function of the radius, dense in the core."""
    nodes, weights = np.polynomial.legendre.leggauss(_N_RADII)
    nodes, weights = (nodes + 1) / 2, 2 * math.pi * radius**2 * weights
    rings = zip(weights * nodes**3, radius * nodes**2, strict=True)
    return sum(float(weight) * profile(float(r)) for weight, r in rings)


def half_radius(profile, low, high):
    """Radii where a falling function has half of its maximum, by bisection."""
    half, low, high = 0.5 * profile(0.0), 0.01 * low, 10 * high
    for _ in range(_N_STEPS):
        middle = (low * high).sqrt()
        above = profile(middle) > half
        low = torch.where(above, middle, low)
        high = torch.where(above, high, middle)
    return low


def overlaps(covariance, place):
    """Integrals ``(..., K, K)`` of products of Gaussians, but for a factor."""
    xx, xy, yy = (covariance[..., None, :] + covariance[..., None, :, :]).unbind(-1)
    dx, dy = (place[..., None, :] - place[..., None, :, :]).unbind(-1)
    det = xx * yy - xy.square()
    form = quadratic_form(yy, xx, -2 * xy, dx, dy) / det
    return det.rsqrt() * torch.exp(-0.5 * form)
