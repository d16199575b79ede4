# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fourier transforms of galaxies and PSFs: tables and grids of wavenumbers.

All transforms are functions of one squared wavenumber.  A table has its nodes
where the leading bits of a floating-point number change: evenly spaced within
each factor of two.  The bits of the argument then are the place in the table,
without a logarithm, and interpolation is linear.

A Fourier sum over a grid of spacing ``2 pi / L`` repeats the picture with
period L.  Only low wavenumbers reach far, so a profile is split into levels:
level 0 has all wavenumbers up to that of the pixels at period ``base``, each
further level half the wavenumbers at twice the period, with smooth windows
that add up to one.
"""

import functools
import math

import numpy as np
import torch
from scipy.special import loggamma

# Window of level 1 in pixels: at half the pixels' wavenumber 2e-5 of it is
# left, and its transform has died within five times this length.
_WINDOW = 3.3

# Half-light radius of an exponential disk in scale lengths.
DISK_RADIUS = 1.6783469900166605

# exp(-BULGE_SLOPE (r / r_e)^(1/4)) has half its light within r_e; the number
# solves P(8, b) = 1/2 for the regularised incomplete gamma function.
BULGE_SLOPE = 7.669249442500804

# Leading bits of a table of bulges; linear interpolation is good to 2e-5.
_BULGE_BITS = 7

# Squared wavenumbers, as powers of two, between which a table has nodes. The
# first is added to the argument, which makes zero the first node.
BULGE_RANGE = (-12, 30)
PSF_RANGE = (-10, 11)

# Logarithm of what is taken as zero: denormal numbers are slow.
NEGLIGIBLE = -40.0

# The integer of the same size, bits of the mantissa, bias of the exponent.
_LAYOUT = {
    torch.float32: (torch.int32, 23, 127),
    torch.float64: (torch.int64, 52, 1023),
}


def table_nodes(bits, octaves):
    """Nodes of a table, ``2**bits`` of them for each factor of two."""
    first, last = octaves
    steps = 1 + np.arange(2**bits) / 2**bits
    nodes = (2.0 ** np.arange(first, last)[:, None] * steps).ravel()
    return np.append(nodes, 2.0**last)


def line_segments(nodes, values):
    """Intercept and slope of the line between neighbouring nodes."""
    slope = values.diff(dim=-1) / nodes.diff(dim=-1)
    return values[..., :-1] - slope * nodes[:-1], slope


def look_up(z, segments, bits, octaves, row=None):
    """
    Interpolate in a table, or in one row of it for each leading element.

    ``z`` are arguments from the first node on, ``segments`` those of `line_segments`,
    ``(n,)`` or ``(rows, n)``, and ``row`` that of each element along the first axis.
    """
    kind, mantissa, bias = _LAYOUT[z.dtype]
    place = z.detach().view(kind) >> (mantissa - bits)
    place -= (octaves[0] + bias) << bits
    place.clamp_(0, segments[0].shape[-1] - 1)
    if row is not None:
        row = row.view(-1, *[1] * (z.dim() - 1)).to(kind)
        place += row * segments[0].shape[-1]
    place = place.flatten()
    intercept, slope = (part.flatten().index_select(0, place) for part in segments)
    return torch.addcmul(intercept, slope, z.flatten()).view(z.shape)


def bulge_transform(k):
    """
    Transform of a de Vaucouleurs profile of unit flux and half-light radius.

    ``k`` are wavenumbers times the radius; 1 at ``k = 0``, good to 1e-7.
    """
    log_k, log_value = _bulge_grid()
    k = np.asarray(k, float)
    safe = np.maximum(k, 1e-9)
    return np.exp(np.interp(np.log(safe), log_k, log_value))


@functools.cache
def _bulge_grid():
    # Hankel transform on a logarithmic grid (Hamilton 2000, MNRAS 312, 257),
    # without bias: the profile times r^2 dies at both ends.
    n, half_range = 2**14, 24.0
    step = 2 * half_range / n
    log_r = (np.arange(n) - n // 2) * step
    r = np.exp(log_r)
    profile = np.exp(-BULGE_SLOPE * np.exp(0.25 * log_r))
    norm = 2 * math.pi * 4 * math.gamma(8) / BULGE_SLOPE**8
    # Twice the argument of Gamma((1 + i w) / 2) is the phase of each mode.
    w = 2 * math.pi * np.fft.rfftfreq(n, step)
    phase = 2 * loggamma(0.5 + 0.5j * w).imag + w * math.log(2)
    modes = np.fft.rfft(profile * r) * np.exp(1j * phase)
    # The transform comes in order of falling wavenumber.
    product = np.fft.irfft(modes.conj(), n)
    log_k = log_r
    value = 2 * math.pi * product / r / norm
    keep = (log_k > -7) & (log_k < 14)
    value, log_k = value[keep], log_k[keep]
    low = np.log(1e-9)
    return np.append(low, log_k), np.append(0.0, np.log(value))


@functools.cache
def bulge_segments(dtype, device):
    """Segments of the table of bulges, for the squared wavenumber."""
    nodes = table_nodes(_BULGE_BITS, BULGE_RANGE)
    values = torch.from_numpy(bulge_transform(np.sqrt(nodes - nodes[0])))
    segments = line_segments(torch.from_numpy(nodes), values)
    return tuple(part.to(device, dtype) for part in segments)


def bulge_of_square(z):
    """Transform of a bulge at ``z = k**2 + 2**BULGE_RANGE[0]``, by table."""
    segments = bulge_segments(z.dtype, z.device)
    return look_up(z, segments, _BULGE_BITS, BULGE_RANGE)


def disk_of_square(z):
    """Transform of an exponential disk at ``z = 1 + (k r_0)**2``."""
    root = torch.rsqrt(z)
    return root * root * root


def quadratic_form(xx, xy, yy, kx, ky, offset):
    """``xx kx^2 + 2 xy kx ky + yy ky^2 + offset`` on a grid, for each ``(..., G)``."""
    xx, xy, yy = (value[..., None, None] for value in (xx, xy, yy))
    square = xx * kx.square() + offset + yy * ky.square()
    square.addcmul_(2 * xy * ky, kx)
    # Cancellation in very thin ellipses.
    return square.clamp_(min=offset)


@functools.cache
def _offsets(dtype, device):
    """Offsets of the squares in the transforms of a disk and of a bulge."""
    offsets = torch.tensor([1.0, 2.0 ** BULGE_RANGE[0]], dtype=dtype, device=device)
    return offsets[:, None, None, None]


def galaxy_modes(galaxy, flux, kx, ky):
    """Transforms ``(G, ny, nx)`` of bulges and disks; wavenumbers broadcast to that."""
    fraction, angle, disk_ratio, bulge_ratio, disk, bulge = galaxy.unbind(1)
    cos2, sin2 = torch.cos(2 * angle), torch.sin(2 * angle)
    # a^2 [(kx cos + ky sin)^2 + q^2 (ky cos - kx sin)^2] of disks and of bulges.
    size = 0.5 * torch.stack([disk / DISK_RADIUS, bulge]).square()
    thin = torch.stack([disk_ratio, bulge_ratio]).square()
    mean, half = size * (1 + thin), size * (1 - thin)
    form = mean + half * cos2, half * sin2, mean - half * cos2
    squares = quadratic_form(*form, kx, ky, _offsets(galaxy.dtype, galaxy.device))
    disk, bulge = disk_of_square(squares[0]), bulge_of_square(squares[1])
    disk *= (fraction * flux)[:, None, None]
    return disk.addcmul_(bulge, ((1 - fraction) * flux)[:, None, None])


def psf_transform(psf, bits):
    """
    Transforms of PSFs on grids of wavenumbers, as a function of rows, kx and ky.

    Those of the closed form, whose Gaussians are similar, are functions of one squared
    wavenumber: a table for each of them, with ``2**bits`` nodes for each factor of two.
    """
    if psf.shape is None:
        return lambda rows, kx, ky: psf[rows][:, None, None].transform(kx, ky[:, None])
    variance, flux = psf.components[1], psf.fluxes
    nodes = torch.from_numpy(table_nodes(bits, PSF_RANGE)).to(flux)
    square = nodes - nodes[0]
    log_part = -0.5 * variance[..., None] * square
    log_part = torch.nn.functional.threshold(log_part, NEGLIGIBLE, -math.inf)
    values = (flux[:, None] @ torch.exp(log_part))[:, 0]
    segments = line_segments(nodes, values)

    e1, e2 = psf.shape[:, 6:].unbind(1)
    norm = torch.rsqrt(1 - e1**2 - e2**2)
    form = norm * torch.stack([1 + e1, e2, 1 - e1])

    def transform(rows, kx, ky):
        z = quadratic_form(*form[:, rows], kx, ky[:, None], 2.0 ** PSF_RANGE[0])
        return look_up(z, segments, bits, PSF_RANGE, rows)

    return transform


@functools.cache
def axis_modes(base, level, folds, dtype, device):
    """Wavenumbers along x (not negative, then aliases) and y of a level."""
    step = 2 * math.pi / (base * 2**level)
    kx = step * torch.arange(base // 2 + 1, dtype=torch.float64)
    ky = step * base * torch.fft.fftfreq(base, dtype=torch.float64)
    period = step * base
    # The nearest aliases first: those on the other side of zero.
    order = [(n + 1) // 2 * (-1) ** n for n in range(folds)]
    all_x = torch.cat([kx + n * period for n in order])
    side = 1 - 2 * (ky < 0).to(ky)
    all_y = torch.cat([ky + n * period * side for n in order])
    return all_x.to(device, dtype), all_y.to(device, dtype)


def _low_pass(square, level):
    # Flat to fourth order, so that what is left of a smooth wing is small.
    half = 0.5 * square * (_WINDOW * 2 ** (level - 1)) ** 2
    value = (1 + half) * torch.exp(-half.clamp(max=40))
    return torch.where(value > 1e-9, value, 0.0)


@functools.cache
def level_window(base, level, n_levels, folds, dtype, device):
    """Share ``(ny, nx)`` of a level in each of its modes, `None` for all."""
    if n_levels == 1:
        return None
    kx, ky = axis_modes(base, level, folds, torch.float64, torch.device('cpu'))
    square = ky[:, None] ** 2 + kx**2
    window = _low_pass(square, level) if level else torch.ones_like(square)
    if level + 1 < n_levels:
        window = window - _low_pass(square, level + 1)
    return window.to(device, dtype)


@functools.cache
def synthesis_matrices(base, level, stamp, dtype, device):
    """
    Matrices that sum up the modes of a level at the pixels of a stamp.

    Along y, ``(2 * stamp, base)``, cosines, then sines; along x, ``(base + 2, stamp)``,
    from the real and imaginary parts of a sum along y, one after the other, to the real
    part of the whole.
    """
    kx, ky = axis_modes(base, level, 1, torch.float64, torch.device('cpu'))
    place = torch.arange(stamp, dtype=torch.float64) - stamp // 2
    # The modes of negative kx, which are not stored, are conjugates.
    weight = (1 + (kx > 0).to(kx))[:, None] / (base * 2**level) ** 2
    cos, sin = (weight * f(kx[:, None] * place) for f in (torch.cos, torch.sin))
    angle = place[:, None] * ky
    along_x, along_y = torch.cat([cos, -sin]), torch.cat([angle.cos(), angle.sin()])
    return along_y.to(device, dtype), along_x.to(device, dtype)


def bilinear_factor(dither, kx, ky):
    """
    Transform of a mean of dithered, bilinearly realigned exposures.

    For dithers ``(U, d, 2)`` in x and y in pixels ``(U, ny, nx)``, complex.
    """

    def along(shift, k):
        # A source moved by u, then weights 1 - |u| here and |u| one pixel on,
        # on the side of u.
        size, side = shift.abs(), torch.sign(shift)
        here = torch.polar(1 - size + 0 * k, -shift * k)
        return here + torch.polar(size + 0 * k, (side - shift) * k)

    fx, fy = along(dither[..., :1], kx), along(dither[..., 1:], ky)
    return fy.transpose(1, 2) @ fx / dither.shape[1]
