# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Calibration errors: differences of the stated background and PSF from the true ones.

A survey's background and PSF are measurements.  An encoder that was trained
with errors of their size marginalises over them, as over every other nuisance.
"""

import math

import torch

from bliss_astro.psf._asymmetry import asymmetry_of_image, lobe_kernel
from bliss_astro.psf._mixture import fwhm_of_shape, profile_of_shape

from ._draws import unit

__all__ = [
    'USUAL_BACKGROUND_ERROR',
    'USUAL_PSF_ERROR',
    'add_lobes',
    'draw_lobes',
    'draw_stated_errors',
    'misstate',
    'misstate_psf',
    'sky_errors',
    'state_asymmetry',
]

# Errors that surveys state, and that an exposure assumes where none is stated:
# relative error of the PSF's width; error of the background in units of its noise.
USUAL_PSF_ERROR, USUAL_BACKGROUND_ERROR = 0.01, 0.05
# Errors of the logarithm of the weights of halo and wing over that of the width;
# and their largest size where the width's is large: not all is unknown.
_HALO, _WING, _WEIGHT_ERROR = 6, 12, 0.1
# Half the side in pixels of the images on which asymmetries are measured.
_HALF_SIZE = 18


def _sizes(*shape, generator):
    """Sizes of errors: most are small; the mean is 2 / 3."""
    return 2 * unit(*shape, generator=generator) ** 2


def draw_stated_errors(n, limits, usual, *, generator):
    """
    Errors ``(n,)`` to state: a quarter each the least, usual, uniform, log-uniform.
    """
    kind, place = unit(2, n, generator=generator)
    low, high = limits
    kinds = torch.stack(
        [
            torch.full_like(place, low),
            torch.full_like(place, usual),
            low + (high - low) * place,
            low * (high / low) ** place,
        ]
    )
    return kinds.gather(0, (4 * kind).long().clamp(max=3)[None])[0]


def sky_errors(n, shape, *, spread=True, generator):
    """
    Level, slope and curvature of errors of the sky ``(n, ny, nx)``, of unit level.

    With ``spread`` the size itself varies, with a mean of 2 / 3.
    """
    ny, nx = shape
    device = generator.device
    c = torch.randn(n, 6, 1, 1, generator=generator, device=device)
    v = torch.linspace(-1, 1, ny, device=device)[:, None]
    u = torch.linspace(-1, 1, nx, device=device)[None, :]
    error = c[:, 0] + 0.5 * (c[:, 1] * u + c[:, 2] * v)
    error = error + 0.4 * (
        c[:, 3] * (u**2 - 1 / 3) + c[:, 4] * (v**2 - 1 / 3) + c[:, 5] * u * v
    )
    return error * _sizes(n, 1, 1, generator=generator) if spread else error


def misstate_psf(psf, size, *, spread=True, generator):
    """
    PSFs ``(B, 8)`` with errors of a relative size of the width, float or ``(B,)``.

    Core and wings are wider or narrower together; the weights of halo and wing are
    the less certain the fainter they are. With ``spread`` the size itself varies.
    """
    n = len(psf)
    noise = torch.randn(n, 5, generator=generator, device=psf.device)
    size = torch.as_tensor(size, device=psf.device).reshape(-1, 1)
    if spread:
        size = size * _sizes(n, 1, generator=generator)
    noise = noise * size
    weights = noise[:, 1:3]
    if not spread:
        weights = weights.clamp(-_WEIGHT_ERROR, _WEIGHT_ERROR)
    out = psf.clone()
    out[:, [0, 1, 3]] *= torch.exp(noise[:, :1])
    out[:, 2] *= torch.exp(_HALO * weights[:, 0])
    # Where the power law is the core itself, it is not what is in doubt.
    out[:, 4] *= torch.where(out[:, 4] < 1, torch.exp(_WING * weights[:, 1]), 1.0)
    out[:, 6:] += 0.7 * noise[:, 3:] * (out[:, 6:] != 0)
    return out


def draw_lobes(n, largest, fwhm, *, generator):
    """
    Draw lobes of PSFs: one on one side (coma) and three at 120 degrees (trefoil).

    Parameters
    ----------
    n : int
        Number of images B.

    largest : float
        Largest share of the light in either.

    fwhm : tensor ``(B,)``
        Full widths at half maximum of the PSFs in pixels.

    generator : `torch.Generator`
        Source of randomness.

    Returns
    -------
    lobes : tuple of tensor ``(B, 4)``
        Share, distance in pixels, angle and width in pixels of each lobe; one image
        in two has none.
    """
    place = unit(9, n, generator=generator)
    # Faint lobes are the rule.
    coma, trefoil = largest * place[0] ** 2, largest * place[1] ** 3
    some = place[8] < 0.5
    third = 2 * math.pi / 3
    share = torch.stack([coma, *[trefoil / 3] * 3], -1) * some[:, None]
    distance = torch.stack([0.8 + 1.4 * place[2], *[0.8 + 1.2 * place[3]] * 3], -1)
    one, three = 2 * math.pi * place[4], 2 * math.pi * place[5]
    angle = torch.stack([one, three, three + third, three - third], -1)
    width = torch.stack([0.1 + 0.4 * place[6], *[0.1 + 0.4 * place[7]] * 3], -1)
    fwhm = fwhm[:, None]
    return share, distance * fwhm, angle, width * fwhm


def add_lobes(image, lobes):
    """Move light of noiseless images ``(B, ny, nx)`` into the lobes of their PSFs."""
    ny, nx = image.shape[1:]
    padded = torch.fft.rfft2(image, s=(2 * ny, 2 * nx))
    moved = padded * lobe_kernel(*lobes, (ny, nx))
    return torch.fft.irfft2(moved, s=(2 * ny, 2 * nx))[:, :ny, :nx]


def state_asymmetry(psf, fwhm, lobes, unknown=1.0, *, generator):
    """
    Asymmetries ``(B, 4)`` to state of PSFs with lobes, in part or with errors.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        PSFs without lobes.

    fwhm : tensor ``(B,)``
        Their full widths at half maximum in pixels.

    lobes : tuple of tensor
        Lobes from `draw_lobes`.

    unknown : float or tensor ``(B,)``, optional
        Factor, at most 1, on the part that is not stated and on the errors.

    generator : `torch.Generator`
        Source of randomness.

    Returns
    -------
    asymmetry : tensor ``(B, 4)``
        ``asymmetry_of_image`` of the PSF, in three of five images
        with small errors, else a part of it.
    """
    axis = torch.arange(-_HALF_SIZE, _HALF_SIZE + 1, device=psf.device, dtype=psf.dtype)
    image = profile_of_shape(psf[:, None, None], axis[None, None], axis[None, :, None])
    true = asymmetry_of_image(add_lobes(image, lobes), fwhm)
    place = unit(2, len(psf), 1, generator=generator)
    lost = torch.where(place[0] < 0.6, 0.0, 1 - place[1]) * true
    noise = torch.randn(len(psf), 4, generator=generator, device=psf.device)
    unknown = torch.as_tensor(unknown, device=psf.device).reshape(-1, 1)
    return true + unknown * (noise * (0.1 * true.abs() + 0.001) - lost)


def misstate(images, config, lobes, *, exact, generator):
    """
    Give simulated images the errors of the stated PSF and background.

    Parameters
    ----------
    images : `SimulatedImages`
        Images with exact PSF and background, which are changed.

    config : `SimulationConfig`
        Sizes of the errors.

    lobes : tuple of tensor or None
        Lobes of the PSFs.

    exact : bool
        Whether the errors are stated to be 0, and are.

    generator : `torch.Generator`
        Source of randomness.
    """
    n, nothing = len(images), images.psf.new_zeros
    if config.psf_errors is not None:
        images.psf_error = nothing(n)
    if config.background_errors is not None:
        images.background_error = nothing(n)
    if config.asymmetry > 0:
        images.asymmetry = nothing(n, 4)
    if exact:
        return
    psf_size, sky_size, unknown = config.psf_error, config.sky_error, 1.0
    ranged = config.psf_errors is not None
    if ranged:
        psf_size = draw_stated_errors(
            n, config.psf_errors, USUAL_PSF_ERROR, generator=generator
        )
        images.psf_error = psf_size
        # Where the PSF is stated to be exact, its lobes are known too.
        unknown = (psf_size / USUAL_PSF_ERROR).clamp(max=1)
    if lobes is not None:
        fwhm = fwhm_of_shape(images.psf)
        images.asymmetry = state_asymmetry(
            images.psf, fwhm, lobes, unknown, generator=generator
        )
    if ranged or psf_size > 0:
        images.psf = misstate_psf(
            images.psf, psf_size, spread=not ranged, generator=generator
        )
    ranged = config.background_errors is not None
    if ranged:
        sky_size = draw_stated_errors(
            n, config.background_errors, USUAL_BACKGROUND_ERROR, generator=generator
        )
        images.background_error = sky_size
    if ranged or sky_size > 0:
        off = sky_errors(
            n, images.data.shape[1:], spread=not ranged, generator=generator
        )
        images.data = images.data + off * (sky_size * images.bkg_error)[:, None, None]
