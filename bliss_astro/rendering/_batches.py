# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars, drawn in batches by matrix products, and galaxies, in Fourier space.
"""

import dataclasses
import math

import torch

from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, LOG2_E

from ._accuracy import RenderingAccuracy, plans_of
from ._profiles import (
    NEGLIGIBLE,
    axis_modes,
    bilinear_factor,
    galaxy_modes,
    level_window,
    psf_transform,
    synthesis_matrices,
)

# Numbers of a processor's cache, some megabytes of single precision.
_CACHE_ELEMENTS = 4_000_000
# Modes that are worked on at once, some megabytes of single precision, and how many
# times more of them suit a graphics card.
_CACHE_MODES, _CUDA_FACTOR = 300_000, 64
# Stars of an image that are few: other images are drawn with it.
_FEW = 8


def as_gaussians(psf, radius=DEFAULT_NORMALIZATION_RADIUS):
    """A `GaussianPSF` as it is, or one of a tensor of shapes."""
    if isinstance(psf, GaussianPSF):
        return psf
    return GaussianPSF.from_shape(psf, normalization_radius=radius)


def expand_for_stars(psf, tolerance):
    """PSFs without a closed form, good to a tolerance of their peaks."""
    if psf.shape is None:
        return psf
    psf = psf.with_shape(psf.shape, step=0.7 if tolerance < 1e-5 else 1.0)
    return psf._with(psf.components)


def render_stars(
    shape, x, y, flux, *, size, radius=DEFAULT_NORMALIZATION_RADIUS, tolerance=1e-6
):
    """
    Draw batches of star fields, without stamps and without truncation.

    Each Gaussian of the PSF's mixture is a product of a function of x and a
    function of y, so an image is ``(ny, S K) @ (S K, nx)``.  An inclined
    ellipse adds the factor ``exp(c x y / v)``, whose power series keeps
    that form.

    Parameters
    ----------
    shape : tensor ``(B, 8)`` or `~bliss_astro.psf.GaussianPSF`
        PSF of each image, see `bliss_astro.psf.SHAPE_NAMES` for tensors.

    x, y : tensor ``(B, S)``
        Centres of the stars in pixels; stars may lie outside the image.

    flux : tensor ``(B, S)``
        Fluxes within the normalisation radius; zero for unused places.

    size : tuple of int
        ``(ny, nx)`` of the images.

    radius : float, optional
        The normalisation radius of shapes in pixels.

    tolerance : float, optional
        Error allowed relative to the peak; looser is faster.

    Returns
    -------
    images : tensor ``(B, ny, nx)``
        In the unit of ``flux``.  No star is cut off at any radius; the error against
        the exact profile is below 1e-5 of the peak, 1e-4 for a power law alone.
    """
    psf = expand_for_stars(as_gaussians(shape, radius), tolerance)
    options = {'size': size, 'tolerance': tolerance}
    *stars, count = _without_unused(x, y, flux)
    images, per_star = x.new_zeros(len(x), *size), psf.height.shape[-1] * sum(size)
    most = 1 + _CACHE_ELEMENTS * (_CUDA_FACTOR if x.is_cuda else 1) // per_star
    for index, n in _alike(count, most):
        image, own = 0.0, psf[index]
        pieces = (value[index, :n].split(most, 1) for value in stars)
        for parts in zip(*pieces, strict=True):
            fy, fx = star_factors(own, *parts, **options)
            image = image + fy.transpose(1, 2) @ fx
        images[index] = image
    return images


def _without_unused(x, y, flux):
    """Places ``(B, S)`` with those in use first, and their number in each image."""
    used = (flux != 0) | flux.requires_grad
    order = used.byte().argsort(dim=1, descending=True, stable=True)
    return *(value.gather(1, order) for value in (x, y, flux)), used.sum(1)


def _alike(count, most):
    """
    Images that are drawn together, and the largest number of their stars.

    They have about as many stars, of which few places are unused, and in all no more
    than suit the processor's cache.
    """
    order = count.argsort(descending=True)
    numbers, first = count[order].tolist(), 0
    while first < len(numbers) and (n := numbers[first]):
        alike = sum(2 * (number + _FEW) > n for number in numbers[first:])
        stop = first + min(alike, max(1, most // n))
        yield order[first:stop], n
        first = stop


def star_factors(psf, x, y, flux, *, size, tolerance):
    """
    Matrices along y ``(B, M, ny)`` and x ``(B, M, nx)`` of star fields.

    ``along_y.transpose(1, 2) @ along_x`` are the images of `render_stars`. What is
    linear and acts along one axis, such as an interpolation, may be applied to these.
    """
    # All (B, K), or (B, 1) for what all Gaussians have in common.
    height, variance, *centre, e1, e2 = expand_for_stars(psf, tolerance).components
    inclination = e2 / torch.sqrt((1 - e1) * (1 + e1))
    order = _series_order(float(inclination.abs().max()), tolerance)
    norm = torch.rsqrt(1 - e1**2 - e2**2)
    full = (*x.shape, height.shape[-1])
    weight = (flux[..., None] * height[:, None])[..., None]  # (B, S, K, 1)
    if order:
        # exp(c x y) with x, y in units of the axis' sigma.
        # 21! and more are no integers of torch's.
        double = inclination.double()
        terms = [double**n / float(math.factorial(n)) for n in range(order + 1)]
        terms = [term.to(weight.dtype) for term in terms]
        weight = weight * torch.stack(terms, -1)[:, None]
    factors = []
    axes = zip(size, (y, x), centre[::-1], (1 + e1, 1 - e1), strict=True)
    for n, place, shift, stretch in axes:
        grid = torch.arange(n, device=x.device, dtype=x.dtype)
        own = (variance / (stretch * norm))[:, None].expand(full)
        place = (place[..., None] + shift[:, None])[..., None]
        factors.append(_factors(grid - place, own, order))
    along_y, along_x = factors
    return (along_y * weight[..., None]).flatten(1, 3), along_x.flatten(1, 3)


def _series_order(inclination, tolerance):
    # The remainder of exp(c t) exp(-t) after the n-th term peaks at
    # t = n + 1, where it is about c^(n+1) / sqrt(2 pi (n+1)).
    for n in range(1, 41):
        if inclination**n / math.sqrt(2 * math.pi * n) < tolerance:
            return n - 1
    return 40


def _factors(offset, variance, order):
    # offset (B, S, 1 or K, N), variance (B, S, K) -> (B, S, K, order + 1, N)
    # To the base of two: `torch.exp2` takes a fifth of the time of `torch.exp`.
    log_gauss = offset**2 * (-0.5 * LOG2_E / variance[..., None])
    # Denormal numbers, here or in products, are a hundred times slower.
    log_gauss = torch.nn.functional.threshold(
        log_gauss, NEGLIGIBLE * LOG2_E, -math.inf, inplace=True
    )
    gauss = torch.exp2(log_gauss)
    if order == 0:
        return gauss[..., None, :]
    scaled = offset * torch.rsqrt(variance)[..., None]
    powers = gauss.new_empty((*gauss.shape[:-1], order + 1, gauss.shape[-1]))
    powers[..., 0, :] = gauss
    for n in range(order):
        torch.mul(powers[..., n, :], scaled, out=powers[..., n + 1, :])
    return powers


def render_galaxies(
    psf,
    x,
    y,
    flux,
    galaxy,
    *,
    size,
    radius=DEFAULT_NORMALIZATION_RADIUS,
    dither=None,
    accuracy=None,
):
    """
    Draw batches of bulge + disk galaxies seen through the PSF of each image.

    Parameters
    ----------
    psf : tensor ``(B, 8)`` or `~bliss_astro.psf.GaussianPSF`
        PSF of each image, see `bliss_astro.psf.SHAPE_NAMES` for tensors.

    x, y : tensor ``(B, S)``
        Centres in pixels; galaxies may lie outside the image.

    flux : tensor ``(B, S)``
        Total fluxes, for a PSF of unit flux within the normalisation
        radius; zero for unused places, which cost nothing.

    galaxy : tensor ``(B, S, 6)``
        Shapes in the order of ``GALAXY_SHAPE_NAMES``; radii in pixels, semi-major
        axes. They are not checked, as `TorchRenderer` does.

    size : tuple of int
        ``(ny, nx)`` of the images.

    radius : float, optional
        The normalisation radius of shapes in pixels.

    dither : tensor ``(B, d, 2)``, optional
        Dithers in x and y of d exposures, at most one pixel in size. The images
        then are their mean after ``align_bilinear``.

    accuracy : `RenderingAccuracy`, optional
        Where to stop; the defaults if `None`.

    Returns
    -------
    images : tensor ``(B, ny, nx)``
        In the unit of ``flux``. A galaxy is cut off at the edges of its stamp,
        which is at most ``accuracy.sizes[-1]`` pixels wide.

    Notes
    -----
    The same arguments give the same numbers, bit by bit, on one machine and
    number of threads.
    """
    images = x.new_zeros((len(x), *size))
    image, place = torch.nonzero(flux, as_tuple=True)
    own = (v[image, place] for v in (x, y, flux, galaxy))
    psf, options = as_gaussians(psf, radius), {'dither': dither, 'accuracy': accuracy}
    return add_galaxies(images, image, psf, image, *own, **options)


def add_galaxies(
    images, image, psf, cell, x, y, flux, galaxy, *, dither=None, accuracy=None
):
    """
    Add G galaxies to the images they are on, each with the PSF of its cell.

    The tensors ``(G,)`` ascend by ``cell``, the row of ``psf`` (and ``dither``).
    """
    accuracy = RenderingAccuracy() if accuracy is None else accuracy
    if len(image) == 0:
        return images
    size = images.shape[1:]
    plans = plans_of(galaxy, psf[cell], size, accuracy)
    side = torch.tensor(accuracy.sizes, device=x.device)[plans[:, 0]]
    left = torch.floor(x + 0.5).long() - side // 2
    bottom = torch.floor(y + 0.5).long() - side // 2
    inside = (left < size[1]) & (left + side > 0)
    inside &= (bottom < size[0]) & (bottom + side > 0)
    transform = psf_transform(psf, accuracy.psf_bits)
    parts = (image, cell, x, y, flux, galaxy, left, bottom)
    for row in torch.unique(plans[inside], dim=0):
        stamp, base, n_levels, folds = row.tolist()
        sides = accuracy.sizes[stamp], accuracy.sizes[base]
        plan = _Plan(*sides, n_levels, folds, accuracy)
        chosen = torch.nonzero((plans == row).all(1) & inside)[:, 0]
        for piece in chosen.split(plan.piece(x.is_cuda)):
            index, *some, low_x, low_y = (part[piece] for part in parts)
            drawn = plan.draw(transform, *some, dither)
            add_stamps(images, index, low_x, low_y, drawn)
    return images


def add_stamps(images, image, left, bottom, stamps):
    """Add each stamp to its image, in the order given."""
    (ny, nx), (height, width) = images.shape[1:], stamps.shape[1:]
    # A loop over galaxies suits processors, and images that hold many stamps.
    if images.is_cuda and ny * nx <= 4 * height * width:
        _gather_stamps(images, image, left, bottom, stamps)
        return
    where = zip(image.tolist(), left.tolist(), bottom.tolist(), strict=True)
    if not (images.is_cuda or images.requires_grad or stamps.requires_grad):
        # Views of numpy take a tenth of the time of torch's.
        images, stamps = images.numpy(), stamps.numpy()
    for stamp, (k, x, y) in zip(stamps, where, strict=True):
        x0, x1 = max(x, 0), min(x + width, nx)
        y0, y1 = max(y, 0), min(y + height, ny)
        images[k, y0:y1, x0:x1] += stamp[y0 - y : y1 - y, x0 - x : x1 - x]


def _gather_stamps(images, image, left, bottom, stamps):
    """
    The same, all first galaxies of the images at once, then all second ones.

    No two of them write to one pixel, so that the sum has one order only.
    """
    side = stamps.shape[-1]
    _, count = torch.unique_consecutive(image, return_counts=True)
    first = torch.repeat_interleave(count.cumsum(0) - count, count)
    rank = torch.arange(len(image), device=image.device) - first

    def along(low, n):
        place = torch.arange(n, device=low.device) - low[:, None]
        inside = (place >= 0) & (place < side)
        return place.clamp(0, side - 1), inside

    column, in_x = along(left, images.shape[2])
    row, in_y = along(bottom, images.shape[1])
    for turn in range(int(count.max())):
        own = torch.nonzero(rank == turn)[:, 0]
        part = stamps[own[:, None, None], row[own][:, :, None], column[own][:, None]]
        part = part * (in_y[own][:, :, None] & in_x[own][:, None])
        images[image[own]] += part


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How galaxies of about one extent are drawn."""

    stamp: int
    base: int
    n_levels: int
    folds: int
    accuracy: RenderingAccuracy

    def piece(self, is_cuda):
        modes = self.base**2 // 2 * self.folds**2 + self.stamp**2 // 4
        return max(1, (_CUDA_FACTOR if is_cuda else 1) * _CACHE_MODES // modes)

    def draw(self, transform, cell, x, y, flux, galaxy, dither):
        """Stamps ``(G, stamp, stamp)`` centred on the galaxies' pixels."""
        rest_x, rest_y = (v - torch.floor(v + 0.5) for v in (x, y))
        own, row = torch.unique_consecutive(cell, return_inverse=True)
        shift = None if dither is None else dither[own]
        base, stamp = self.base, self.stamp
        out = None
        for level in reversed(range(self.n_levels)):
            folds = self.folds if level == 0 else 1
            kx, ky = axis_modes(base, level, folds, x.dtype, x.device)
            modes = transform(own, kx, ky)
            window = level_window(base, level, self.n_levels, folds, x.dtype, x.device)
            modes = modes if window is None else modes * window
            if shift is not None:
                modes = modes * bilinear_factor(shift, kx, ky)
            modes = modes if len(own) == len(cell) else modes[row]
            modes = modes * galaxy_modes(galaxy, flux, kx, ky[:, None])
            centre = base // 2 if level == 0 else 0
            modes = _with_phases(modes, kx, ky, rest_x + centre, rest_y + centre)
            # A level repeats itself beyond its period: it ends there.
            width = min(stamp, base * 2**level)
            if level == 0:
                part = _fold(torch.complex(*modes), folds)
                part = torch.fft.irfft2(part, s=(base, base))
            else:
                part = _synthesize(modes, base, level, width)
            if out is None and width == stamp:
                out = part
                continue
            if out is None:
                out = part.new_zeros(len(part), stamp, stamp)
            edge = (stamp - width) // 2
            out[:, edge : edge + width, edge : edge + width] += part
        return out


def _with_phases(modes, kx, ky, x, y):
    """Real and imaginary part after a shift to ``(x, y)``."""
    angle_x, angle_y = x[:, None, None] * -kx, y[:, None, None] * -ky[:, None]
    cx, sx = torch.cos(angle_x), torch.sin(angle_x)
    cy, sy = torch.cos(angle_y), torch.sin(angle_y)
    real = torch.addcmul(cy * cx, sy, sx, value=-1)
    imaginary = torch.addcmul(sy * cx, cy, sx)
    if modes.is_complex():
        return torch.view_as_real(modes * torch.complex(real, imaginary)).unbind(-1)
    return real.mul_(modes), imaginary.mul_(modes)


def _fold(modes, folds):
    if folds == 1:
        return modes
    count, ny, nx = modes.shape
    parts = modes.view(count, folds, ny // folds, folds, nx // folds)
    # Slice by slice: a sum over two axes at once takes ten times as long.
    return sum(parts[:, i, :, j] for i in range(folds) for j in range(folds))


def _synthesize(modes, base, level, stamp):
    """Values at the pixels of a stamp of modes that no FFT of its size has."""
    along_y, along_x = synthesis_matrices(
        base, level, stamp, modes[0].dtype, modes[0].device
    )
    half = modes[0].shape[-1]
    cos, sin = (along_y @ torch.cat(modes, -1)).split(stamp, 1)
    real = cos[..., :half] - sin[..., half:]
    imaginary = cos[..., half:] + sin[..., :half]
    return torch.cat([real, imaginary], -1) @ along_x
