# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Errors of the stated PSF and background of simulated images; asymmetric PSFs.

Background and PSF are measurements: an encoder that was trained with errors of their
size marginalises over them, as over every other nuisance.
"""

import math

import torch

from bliss_astro.exposures._exposure import USUAL_BACKGROUND_ERROR, USUAL_PSF_ERROR
from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._mixture import asymmetry_of_image, lobe_kernel

from ._camera import along

# Half the side in pixels of the images on which asymmetries are measured.
_HALF_SIZE = 18
# Prior of the lobes of asymmetric PSFs, chosen to be wide rather than measured: share
# of PSFs that have any; distances of coma's lobe and of trefoil's from the core, and
# widths of both, as ranges in FWHM.
_LOBED_SHARE = 0.5
_COMA_DISTANCE, _TREFOIL_DISTANCE, _LOBE_WIDTH = (0.8, 2.2), (0.8, 2.0), (0.1, 0.5)
# Share of PSFs whose asymmetry is stated whole, and errors of what is stated: relative
# to it, and at least.
_STATED_SHARE, _STATED_ERROR, _MIN_STATED_ERROR = 0.6, 0.1, 0.001
# Errors of the logarithm of the weights of halo and wing over that of the width;
# and their largest size where the width's is large: not all is unknown.
_HALO_ERROR, _WING_ERROR, _MAX_WEIGHT_ERROR = 6, 12, 0.1


def misstate(draw, config, images, lobes, *, exact):
    """
    Give simulated images the errors of the stated PSF and background.

    The PSF may have lobes; ``exact`` images state errors of 0, and have none.
    """
    n, nothing = len(images), images.psf.new_zeros
    of_psf, of_sky = config.psf_errors, config.background_errors
    images.psf_error = None if of_psf is None else nothing(n)
    images.background_error = None if of_sky is None else nothing(n)
    images.asymmetry = nothing(n, 4) if config.asymmetry > 0 else None
    if exact:
        return
    psf_size, sky_size, unknown = config.psf_error, config.sky_error, 1.0
    if of_psf is not None:
        psf_size = draw_stated_errors(draw, n, of_psf, USUAL_PSF_ERROR)
        images.psf_error = psf_size
        # Where the PSF is stated to be exact, its lobes are known too.
        unknown = (psf_size / USUAL_PSF_ERROR).clamp(max=1)
    if lobes is not None:
        images.asymmetry = state_asymmetry(draw, images.psf, lobes, unknown)
    if of_psf is not None or psf_size > 0:
        images.psf = misstate_psf(draw, images.psf, psf_size, spread=of_psf is None)
    if of_sky is not None:
        sky_size = draw_stated_errors(draw, n, of_sky, USUAL_BACKGROUND_ERROR)
        images.background_error = sky_size
    if of_sky is not None or sky_size > 0:
        off = _sky_errors(draw, n, images.data.shape[1:], spread=of_sky is None)
        images.data = images.data + off * (sky_size * images.bkg_error)[:, None, None]


def _sizes(draw, *shape):
    """Sizes of errors: most are small; the mean is 2 / 3."""
    return 2 * draw.unit(*shape) ** 2


def draw_stated_errors(draw, n, limits, usual):
    """
    Errors ``(n,)`` to state: a quarter each the least, usual, uniform, log-uniform.
    """
    kind, place = draw.unit(2, n)
    low, high = limits
    even, small = low + (high - low) * place, low * (high / low) ** place
    kinds = [torch.full_like(place, low), torch.full_like(place, usual), even, small]
    return torch.stack(kinds).gather(0, (4 * kind).long().clamp(max=3)[None])[0]


def _sky_errors(draw, n, shape, *, spread):
    """
    Level, slope and curvature of errors of the sky ``(n, ny, nx)``, of unit level.

    With ``spread`` the size itself varies, with a mean of 2 / 3.
    """
    c = draw.normal(n, 6, 1, 1)
    v, u = (torch.linspace(-1, 1, size, device=draw.device) for size in shape)
    v = v[:, None]
    error = c[:, 0] + 0.5 * (c[:, 1] * u + c[:, 2] * v)
    error = error + 0.4 * (
        c[:, 3] * (u**2 - 1 / 3) + c[:, 4] * (v**2 - 1 / 3) + c[:, 5] * u * v
    )
    return error * _sizes(draw, n, 1, 1) if spread else error


def misstate_psf(draw, psf, size, *, spread=True):
    """
    PSFs ``(B, 8)`` with errors of a relative size of the width, float or ``(B,)``.

    Core and wings are wider or narrower together; the weights of halo and wing are
    the less certain the fainter they are. With ``spread`` the size itself varies.
    """
    n = len(psf)
    noise = draw.normal(n, 5)
    size = torch.as_tensor(size, device=psf.device).reshape(-1, 1)
    if spread:
        size = size * _sizes(draw, n, 1)
    noise = noise * size
    weights = noise[:, 1:3]
    if not spread:
        weights = weights.clamp(-_MAX_WEIGHT_ERROR, _MAX_WEIGHT_ERROR)
    out = psf.clone()
    out[:, [0, 1, 3]] *= torch.exp(noise[:, :1])
    out[:, 2] *= torch.exp(_HALO_ERROR * weights[:, 0])
    # Where the power law is the core itself, it is not what is in doubt.
    out[:, 4] *= torch.where(out[:, 4] < 1, torch.exp(_WING_ERROR * weights[:, 1]), 1.0)
    out[:, 6:] += 0.7 * noise[:, 3:] * (out[:, 6:] != 0)
    return out


# -- asymmetric PSFs -------------------------------------------------------------


def draw_lobes(draw, psf, largest):
    """
    Draw lobes of PSFs: one on one side (coma) and three at 120 degrees (trefoil).

    Returns shares of the light (at most the largest in either), distances in pixels,
    angles and widths in pixels, each ``(n, 4)``; one image in two has none.
    """
    place = draw.unit(9, len(psf))
    # Powers of uniform numbers: faint lobes are the rule.
    coma, trefoil = largest * place[0] ** 2, largest * place[1] ** 3
    some = place[8] < _LOBED_SHARE
    share = _one_and_three(coma, trefoil / 3) * some[:, None]
    distances = along(_COMA_DISTANCE, place[2]), along(_TREFOIL_DISTANCE, place[3])
    angle = _one_and_three(2 * math.pi * place[4], 2 * math.pi * place[5])
    angle[:, 2:] += 2 * math.pi / 3 * torch.tensor([1.0, -1.0], device=angle.device)
    width = _one_and_three(*along(_LOBE_WIDTH, place[6:8]))
    fwhm = GaussianPSF.from_shape(psf).fwhm[:, None]
    return share, _one_and_three(*distances) * fwhm, angle, width * fwhm


def _one_and_three(one, three):
    return torch.stack([one, three, three, three], -1)


def add_lobes(image, lobes):
    """Move light of noiseless images ``(B, ny, nx)`` into the lobes of their PSFs."""
    (ny, nx), some = image.shape[1:], (lobes[0] > 0).any(1).nonzero()[:, 0]
    if len(some) == 0:  # of which there is no transform
        return image
    padded = torch.fft.rfft2(image[some], s=(2 * ny, 2 * nx))
    moved = padded * lobe_kernel(*(value[some] for value in lobes), (ny, nx))
    moved = torch.fft.irfft2(moved, s=(2 * ny, 2 * nx))[:, :ny, :nx]
    return image.index_copy(0, some, moved)


def state_asymmetry(draw, psf, lobes, unknown=1.0):
    """
    Asymmetries ``(B, 4)`` to state of PSFs with lobes, in part or with errors.

    They are those of `asymmetry_of_image` in three of five images, with small errors,
    else a part of them. A factor of at most 1 is on the rest and on the errors.
    """
    axis = torch.arange(-_HALF_SIZE, _HALF_SIZE + 1, device=psf.device, dtype=psf.dtype)
    psf = GaussianPSF.from_shape(psf)
    image = psf[:, None, None](axis, axis[:, None])
    true = asymmetry_of_image(add_lobes(image, lobes), psf.fwhm)
    place = draw.unit(2, len(image), 1)
    lost = torch.where(place[0] < _STATED_SHARE, 0.0, 1 - place[1]) * true
    noise = draw.normal(len(image), 4)
    unknown = torch.as_tensor(unknown, device=image.device).reshape(-1, 1)
    error = _STATED_ERROR * true.abs() + _MIN_STATED_ERROR
    return true + unknown * (noise * error - lost)
