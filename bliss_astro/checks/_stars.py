# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars against the PSF, and all sources against their own pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch

from bliss_astro.psf._mixture import profile_of_shape, profile_with_gradient

__all__ = ['SourceStatistics', 'combine', 'source_statistics']

# Sources with less than this signal-to-noise ratio tell nothing, and the
# number of the brightest others that are looked at.
_LEAST_SNR = 8.0
_N_MOST = 3000
# Relative step of the derivatives, and how many stars are worked on at once.
_STEP = 0.02
_PIECE = 256
# Error of a PSF's width that no survey avoids: no star counts for more.
_FLOOR = 0.01


@dataclass
class SourceStatistics:
    """
    What the pixels of N sources say of each of them.

    Attributes
    ----------
    index : int `~numpy.ndarray`, shape (N,)
        Which sources of the catalogue.

    snr : float `~numpy.ndarray`, shape (N,)
        Signal-to-noise ratio.

    distortion, distortion_err : float `~numpy.ndarray`, shape (3, N)
        By how much the source is broader than the PSF (relative), and its
        ellipticities e1, e2 less those of the PSF.

    chi2, n_pixels, chi2_err : float `~numpy.ndarray`, shape (N,)
        Of the pixels within a FWHM.
    """

    index: np.ndarray
    snr: np.ndarray
    distortion: np.ndarray
    distortion_err: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray
    chi2_err: np.ndarray

    def select(self, keep):
        """The chosen sources."""
        return SourceStatistics(
            *(
                value[..., keep]
                for value in (
                    self.index,
                    self.snr,
                    self.distortion,
                    self.distortion_err,
                    self.chi2,
                    self.n_pixels,
                    self.chi2_err,
                )
            )
        )


def _scaled(shape, factor):
    """PSF with all lengths multiplied by a factor."""
    lengths = torch.tensor([factor, factor, 1, factor, 1, 1, 1, 1])
    return shape * lengths


def _leaned(shape, component, step):
    """PSF with a more of one ellipticity."""
    change = torch.zeros(8)
    change[6 + component] = step
    return shape + change


def _templates(shape, dx, dy, radius):
    """
    Profile, its two shifts, and three distortions, ``(6, N, P, P)``.
    """
    profile, shift_x, shift_y = profile_with_gradient(shape, dx, dy, radius=radius)

    def slope(low, high):
        values = [profile_of_shape(s, dx, dy, radius=radius) for s in (low, high)]
        return (values[1] - values[0]) / (2 * _STEP)

    width = slope(_scaled(shape, 1 - _STEP), _scaled(shape, 1 + _STEP))
    lean = [slope(_leaned(shape, k, -_STEP), _leaned(shape, k, _STEP)) for k in (0, 1)]
    return torch.stack([profile, shift_x, shift_y, width, *lean])


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


def _stamp_index(x, y, half):
    step = np.arange(-half, half + 1)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    return (row[:, None] + step)[:, :, None], (column[:, None] + step)[:, None, :]


def source_statistics(residuals, sources, renderer, fwhm, *, index=None):
    """
    Compare sources with the PSF and with the noise.

    Parameters
    ----------
    residuals : `~bliss_astro.checks._statistics.Residuals`
        Of the catalogue that holds the sources.

    sources : `~bliss_astro.rendering._scene.Sources`
        The catalogue.

    renderer : `~bliss_astro.rendering._scene.ModelRenderer`
        Knows the PSF.

    fwhm : float
        Of the PSF in pixels.

    index : int `~numpy.ndarray`, optional
        Which sources; by default the brighter ones within the image.

    Returns
    -------
    statistics : `SourceStatistics`
        Of these sources.
    """
    chosen = index is not None
    if not chosen:
        ny, nx = residuals.ratio.shape
        inside = (sources.x > -0.5) & (sources.x < nx - 0.5)
        inside &= (sources.y > -0.5) & (sources.y < ny - 0.5)
        index = np.nonzero(inside & (sources.flux > 0))[0]
        index = index[np.argsort(-sources.flux[index], kind='stable')][:_N_MOST]
    half = int(np.clip(np.ceil(2.5 * fwhm), 6, 20))
    found = [
        _one_piece(residuals, sources.select(part), part, renderer, fwhm, half)
        for part in np.array_split(index, max(1, -(-len(index) // _PIECE)))
    ]
    joined = SourceStatistics(
        *(
            np.concatenate([getattr(piece, name) for piece in found], axis=-1)
            for name in SourceStatistics.__dataclass_fields__
        )
    )
    return joined if chosen else joined.select(joined.snr > _LEAST_SNR)


def _one_piece(residuals, sources, index, renderer, fwhm, half):
    """Statistics of a few hundred sources."""
    ny, nx = residuals.ratio.shape
    rows, columns = _stamp_index(sources.x, sources.y, half)
    seen = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    at = np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)
    good = torch.from_numpy((residuals.good[at] & seen).astype(np.float32))
    ratio = torch.from_numpy(residuals.ratio[at]) * good
    error = torch.from_numpy(residuals.error[at])
    dx = torch.from_numpy((columns - sources.x[:, None, None]).astype(np.float32))
    dy = torch.from_numpy((rows - sources.y[:, None, None]).astype(np.float32))
    shape = renderer.shape_at(sources.x, sources.y)[:, None, None]
    flux = torch.from_numpy(sources.flux.astype(np.float32))[:, None, None]
    templates = _templates(shape, *torch.broadcast_tensors(dx, dy), renderer.radius)
    templates = templates * (flux * good / error)
    snr = templates[0].square().sum((1, 2)).sqrt() / np.sqrt(residuals.excess)
    value, value_err = _solve(templates, ratio, residuals.kernel)
    near = good * (dx**2 + dy**2 <= max(fwhm, 2.0) ** 2)
    n_pixels = near.sum((1, 2))
    return SourceStatistics(
        index,
        snr.double().numpy(),
        value.double().numpy(),
        value_err.double().numpy(),
        (ratio**2 * near).sum((1, 2)).double().numpy(),
        n_pixels.double().numpy(),
        (2 * residuals.excess_of_squares * n_pixels).sqrt().double().numpy(),
    )


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
