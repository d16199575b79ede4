# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars against the PSF, and all sources against their own pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaincc

from bliss_astro.psf._mixture import profile_of_shape, profile_with_gradient

from ._places import Place
from ._residuals import LIMIT, PSF_WIDTH, normal_p_value, sigmas_of

__all__ = [
    'SourceStatistics',
    'combine',
    'source_statistics',
    'sources_off',
    'stamp_pixels',
]

# Smallest signal-to-noise ratio of the sources that are looked at, and the most of
# the brightest.
_SNR_MIN, _MAX_SOURCES = 8.0, 3000
# Relative step of the derivatives, and how many stars are worked on at once.
_STEP, _PIECE = 0.02, 256
# Error of a PSF's width that no survey avoids: no star counts for more.
_FLOOR = 0.01
# Excess of a source's width that matters, and the signal-to-noise ratio from
# which on it is looked at.
_SOURCE_WIDTH, _WIDTH_SNR = 0.03, 20.0
# Lengths among the parameters of a PSF's shape.
_LENGTHS = torch.tensor([True, True, False, True, False, False, False, False])


@dataclass
class SourceStatistics:
    """
    Signal, shape and chi-square of N sources by their pixels.

    Attributes
    ----------
    index : int `~numpy.ndarray`, shape (N,)
        Rows of the catalogue.

    snr : float `~numpy.ndarray`, shape (N,)
        Signal-to-noise ratio.

    distortion, distortion_err : float `~numpy.ndarray`, shape (3, N)
        Width of the source over that of the PSF less 1, and its ellipticities
        e1, e2 less those of the PSF, with their errors.

    chi2, n_pixels, chi2_err : float `~numpy.ndarray`, shape (N,)
        Chi-square of the pixels within a FWHM, their number, and its error.
    """

    index: np.ndarray
    snr: np.ndarray
    distortion: np.ndarray
    distortion_err: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray
    chi2_err: np.ndarray


def stamp_pixels(residuals, x, y, half):
    """
    Pixels of stamps around some places.

    Parameters
    ----------
    residuals : `~bliss_astro.checks._residuals.Residuals`
        The image.

    x, y : float `~numpy.ndarray`, shape (N,)
        The places.

    half : int
        Stamps have sides of ``2 half + 1`` pixels.

    Returns
    -------
    rows, columns : int `~numpy.ndarray`, shape (N, P, 1) and (N, 1, P)
        Positions of the pixels, within the image or not.

    at : tuple of int `~numpy.ndarray`
        The nearest ones that are within.

    use : bool `~numpy.ndarray`, shape (N, P, P)
        Which are good.
    """
    ny, nx = residuals.ratio.shape
    step = np.arange(-half, half + 1)
    rows = (np.rint(y).astype(int)[:, None] + step)[:, :, None]
    columns = (np.rint(x).astype(int)[:, None] + step)[:, None, :]
    seen = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    at = np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)
    return rows, columns, at, residuals.good[at] & seen


def _templates(shape, dx, dy, radius):
    """Profile, its two shifts, and three distortions, ``(6, N, P, P)``."""

    def slope(change):
        low, high = (
            profile_of_shape(change(step), dx, dy, radius=radius)
            for step in (-_STEP, _STEP)
        )
        return (high - low) / (2 * _STEP)

    width = slope(lambda step: shape * torch.where(_LENGTHS, 1 + step, 1.0))
    axes = torch.eye(8)[6:]
    lean = [slope(lambda step, axis=axis: shape + step * axis) for axis in axes]
    parts = profile_with_gradient(shape, dx, dy, radius=radius)
    return torch.stack([*parts, width, *lean])


def _correlated(values, kernel):
    """Convolve ``(M, N, P, P)`` with the noise's correlation."""
    if kernel.shape == (1, 1) or np.count_nonzero(kernel) == 1:
        return values
    weight = torch.from_numpy(kernel.astype(np.float32))[None, None]
    flat = values.reshape(-1, 1, *values.shape[-2:])
    out = torch.nn.functional.conv2d(flat, weight, padding=len(kernel) // 2)
    return out.reshape(values.shape)


def _solve(templates, ratio, kernel):
    """
    Distortions that least squares finds beside flux and position.

    Parameters
    ----------
    templates : tensor ``(6, N, P, P)``
        In units of the noise, 0 in bad pixels.

    ratio : tensor ``(N, P, P)``
        Residuals.

    kernel : float `~numpy.ndarray`
        Correlation of the noise.

    Returns
    -------
    value, error : tensor ``(3, N)``
        Each distortion by itself.
    """
    base = templates[:3].flatten(2).permute(1, 2, 0)  # (N, P P, 3)
    # Columns of unit length, so that the solution is well conditioned.
    base = base / base.norm(dim=1, keepdim=True).clamp(min=1e-12)
    gram = base.transpose(1, 2) @ base + 1e-6 * torch.eye(3)
    values, errors = [], []
    for template in templates[3:]:
        flat = template.flatten(1)[..., None]
        known = torch.linalg.solve(gram, base.transpose(1, 2) @ flat)
        own = (flat - base @ known)[..., 0]
        strength = (own * own).sum(-1).clamp(min=1e-12)
        spread = _correlated(own.view_as(template)[None], kernel)[0].flatten(1)
        variance = (own * spread).sum(-1).clamp(min=0.05 * strength)
        values.append((own * ratio.flatten(1)).sum(-1) / strength)
        errors.append(variance.sqrt() / strength)
    return torch.stack(values), torch.stack(errors)


def source_statistics(residuals, sources, renderer, fwhm, *, index=None):
    """
    Compare sources with the PSF and with the noise.

    Parameters
    ----------
    residuals : `~bliss_astro.checks._residuals.Residuals`
        Residuals of the catalogue that holds the sources.

    sources : `~bliss_astro.rendering._scene.Sources`
        The catalogue.

    renderer : `~bliss_astro.rendering._scene.ModelRenderer`
        Renderer, with the PSF.

    fwhm : float
        Full width at half maximum of the PSF in pixels.

    index : int `~numpy.ndarray`, optional
        Rows of the sources; by default the brighter ones within the image.

    Returns
    -------
    statistics : `SourceStatistics`
        Statistics of these sources.
    """
    chosen = index is not None
    if not chosen:
        index = sources.brightest(residuals.ratio.shape, _MAX_SOURCES)
    half = int(np.clip(np.ceil(2.5 * fwhm), 6, 20))
    found = [
        _one_piece(residuals, sources.select(part), part, renderer, fwhm, half)
        for part in np.array_split(index, max(1, -(-len(index) // _PIECE)))
    ]
    columns = zip(*(vars(piece).values() for piece in found), strict=True)
    columns = [np.concatenate(parts, axis=-1) for parts in columns]
    if not chosen:
        snr = columns[1]
        columns = [values[..., snr > _SNR_MIN] for values in columns]
    return SourceStatistics(*columns)


def _one_piece(residuals, sources, index, renderer, fwhm, half):
    """Statistics of a few hundred sources."""
    rows, columns, at, use = stamp_pixels(residuals, sources.x, sources.y, half)
    good = torch.from_numpy(use.astype(np.float32))
    ratio = torch.from_numpy(residuals.ratio[at]) * good
    error = torch.from_numpy(residuals.error[at])
    dx = torch.from_numpy((columns - sources.x[:, None, None]).astype(np.float32))
    dy = torch.from_numpy((rows - sources.y[:, None, None]).astype(np.float32))
    shape = renderer.shape_at(sources.x, sources.y)[:, None, None]
    flux = torch.from_numpy(sources.flux.astype(np.float32))[:, None, None]
    templates = _templates(shape, *torch.broadcast_tensors(dx, dy), renderer.radius)
    templates = templates * (flux * good / error)
    snr = templates[0].square().sum((1, 2)).sqrt() / np.sqrt(residuals.excess)
    near = good * (dx**2 + dy**2 <= max(fwhm, 2.0) ** 2)
    n_pixels = near.sum((1, 2))
    columns = (
        snr,
        *_solve(templates, ratio, residuals.kernel),
        (ratio**2 * near).sum((1, 2)),
        n_pixels,
        (2 * residuals.excess_of_squares * n_pixels).sqrt(),
    )
    return SourceStatistics(index, *(value.double().numpy() for value in columns))


def combine(values, errors):
    """
    Mean of what most sources agree on.

    Parameters
    ----------
    values, errors : float `~numpy.ndarray`, shape (N,)
        One quantity of each source.

    Returns
    -------
    mean, error : float
        The mean without outliers and its error; NaN without sources.

    pull : float
        The mean in units of its error, without the one source that makes it most
        significant: a fault of the PSF is seen in more than one.

    n_used : int
        How many were no outliers.
    """
    if len(values) == 0:
        return np.nan, np.nan, 0.0, 0
    spread = np.hypot(errors, _FLOOR)
    weight = spread**-2
    order = np.argsort(values)
    share = np.cumsum(weight[order])
    middle = values[order][np.searchsorted(share, 0.5 * share[-1])]
    for _ in range(5):
        keep = np.abs(values - middle) < 4 * spread
        if not keep.any():
            return np.nan, np.nan, 0.0, 0
        total = weight[keep].sum()
        middle = np.sum(weight[keep] * values[keep]) / total
    value, weight, noise = values[keep], weight[keep], (weight * errors)[keep] ** 2
    error = np.sqrt(noise.sum()) / total
    others = np.sum(weight * value) - weight * value
    left = np.sqrt(np.maximum(noise.sum() - noise, 1e-30))
    pull = np.abs(others / left).min() if len(value) > 1 else 0.0
    return float(middle), float(error), float(pull), int(keep.sum())


def sources_off(stars, also, sources, scale, shift, psf_is_wrong):
    """
    Find sources that are broader or narrower than stars, or otherwise not as stated.

    They must be so in the first draw and against the median of all, so that it is
    not one draw's misfortune.

    Parameters
    ----------
    stars, also : `SourceStatistics`
        Statistics by the residuals of the first draw, and of the median.

    sources : `~bliss_astro.rendering._scene.Sources`
        All sources of the first draw.

    scale : float
        Factor by which the noise is larger than stated.

    shift : float
        Width of the stars over that of the PSF, less 1.

    psf_is_wrong : bool
        Whether it was found to be.

    Returns
    -------
    places : list of `~bliss_astro.checks._places.Place`
        In no order.
    """
    x, y = sources.x[stars.index], sources.y[stars.index]
    n = max(len(stars.snr), 1)
    places, pulls = [], []
    for part in (stars, also):
        error = np.hypot(scale * part.distortion_err[0], _SOURCE_WIDTH / 3)
        pulls.append((part.distortion[0] - shift) / error)
    same = np.sign(pulls[0]) == np.sign(pulls[1])
    pull = np.where(same, np.min(np.abs(pulls), axis=0), 0)
    p_values = np.minimum(1, n * normal_p_value(pull))
    excess = stars.distortion[0] - shift
    wrong = (p_values < LIMIT) & (np.abs(excess) > _SOURCE_WIDTH)
    wrong &= (stars.snr > _WIDTH_SNR) & ~sources.is_galaxy[stars.index]
    for k in np.nonzero(wrong)[0]:
        kind = 'broad' if excess[k] > 0 else 'narrow'
        found = (pull[k], float(p_values[k]), float(excess[k]))
        places.append(Place(kind, x[k], y[k], *found))
    if psf_is_wrong:
        return places
    # A galaxy need not be a simple profile, so this is a test of stars only.
    both = [_misfit(part, scale) for part in (stars, also)]
    p_values = np.minimum(1, n * np.maximum(*both))
    p_values[sources.is_galaxy[stars.index]] = 1.0
    for k in np.nonzero(p_values < LIMIT)[0]:
        sigmas = sigmas_of(p_values[k] / n)
        places.append(Place('misfit', x[k], y[k], sigmas, float(p_values[k]), 0.0))
    return places


def _misfit(stars, scale):
    """P-values of the chi-square of sources' own pixels."""
    # What an error of the PSF that does not matter adds.
    slack = scale**2 + (PSF_WIDTH * stars.snr) ** 2 / np.maximum(stars.n_pixels, 1)
    with np.errstate(invalid='ignore', divide='ignore'):
        step = stars.chi2_err**2 / (2 * stars.n_pixels)
        freedom = 2 * stars.n_pixels**2 / stars.chi2_err**2
        p_values = gammaincc(freedom / 2, stars.chi2 / slack / step / 2)
    return np.nan_to_num(p_values, nan=1.0)
