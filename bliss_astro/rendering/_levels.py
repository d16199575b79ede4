# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Grids of wavenumbers for profiles that are peaked and far-reaching at once.

A Fourier sum over a grid of spacing ``2 pi / L`` repeats the picture with
period L.  Only low wavenumbers reach far, so a profile is split into levels:
level 0 has all wavenumbers up to that of the pixels at period ``base``, each
further level half the wavenumbers at twice the period, and smooth windows
that add up to one say what belongs to which.
"""

import functools
import math

import torch

__all__ = []

# Window of level 1 in pixels: at half the pixels' wavenumber 2e-5 of it is
# left, and its transform has died within five times this length.
_WINDOW = 3.3


@functools.cache
def axis_modes(base, level, folds, dtype, device):
    """
    Wavenumbers along x (not negative, then aliases) and y of a level.
    """
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
    """
    Share ``(ny, nx)`` of a level in each of its modes, `None` for all.
    """
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

    Returns
    -------
    along_y : tensor ``(2 * stamp, base)``
        Cosines, then sines.

    along_x : tensor ``(2 * (base // 2 + 1), stamp)``
        From the real and imaginary parts of a sum along y, one after the other,
        to the real part of the whole.
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

    Parameters
    ----------
    dither : tensor ``(U, d, 2)``
        Dithers in x and y in pixels.

    kx, ky : tensor
        Wavenumbers.

    Returns
    -------
    factor : complex tensor ``(U, ny, nx)``
        The mean over exposures of a factor along each axis.
    """

    def along(shift, k):
        # A source moved by u, then weights 1 - |u| here and |u| one pixel on,
        # on the side of u.
        size, side = shift.abs(), torch.sign(shift)
        here = torch.polar(1 - size + 0 * k, -shift * k)
        return here + torch.polar(size + 0 * k, (side - shift) * k)

    fx, fy = along(dither[..., :1], kx), along(dither[..., 1:], ky)
    return fy.transpose(1, 2) @ fx / dither.shape[1]
