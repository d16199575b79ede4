# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Scenes drawn again from what an encoder says of them.
"""

import torch
from _blends_asking import axial_median
from _blends_scenes import signal_of

__all__ = ['chi_square', 'reconstruct']

_ANGLE = 1  # place of the angle among the numbers of a shape


@torch.no_grad()
def reconstruct(scenes, sources, keep):
    """
    Model images from the point estimates of sources.

    A source is of the likelier type, at its place, with the median flux given that
    type and the medians of its shape.

    Parameters
    ----------
    scenes : SimulatedImages
        B images.

    sources : `~bliss_astro.posteriors.SourceMarginals`
        What was found in them.

    keep : tensor of bool ``(N,)``
        Which of these are drawn.

    Returns
    -------
    model : tensor ``(B, ny, nx)`` or None
        Electrons without background; `None` of an encoder without shapes.
    """
    if getattr(sources, 'shapes', None) is None:
        return None
    sources = sources.select(keep)
    n = len(scenes)
    is_galaxy = sources.galaxy > 0.5
    x, y = sources.place()
    ratio = sources.flux_given(is_galaxy).quantile(0.5).exp()
    flux = scenes.flux_min[sources.image] * ratio
    galaxy = sources.shapes.median(1).values
    galaxy[:, _ANGLE] = axial_median(sources.shapes[..., _ANGLE])
    count = torch.bincount(sources.image, minlength=n)
    order = torch.argsort(sources.image, stable=True)
    place = torch.arange(len(order)) - (count.cumsum(0) - count)[sources.image[order]]
    most = max(1, int(count.max()))

    def padded(value):
        out = value.new_zeros(n, most, *value.shape[1:])
        out[sources.image[order], place] = value[order]
        return out

    shapes = torch.full((n, most, galaxy.shape[1]), 0.5)
    shapes[sources.image[order], place] = galaxy[order]
    parts = (padded(x), padded(y), padded(flux), padded(is_galaxy), shapes)
    return signal_of(scenes.psf, *parts, size=tuple(scenes.data.shape[1:]))


def chi_square(scenes, model, signal, *, least=0.5):
    """
    Chi-square per pixel where sources are seen.

    Parameters
    ----------
    scenes : SimulatedImages
        B images.

    model : tensor ``(B, ny, nx)``
        Electrons without background.

    signal : tensor ``(B, ny, nx)``
        The true ones, which the noise is computed from.

    least : float, optional
        Pixels count from this signal, in units of the noise of the sky.

    Returns
    -------
    chi2 : tensor ``(B,)``
        1 on average for the truth.
    """
    variance = scenes.bkg_error[:, None, None] ** 2 + signal
    off = scenes.data - scenes.background[:, None, None] - model
    use = (signal > least * scenes.bkg_error[:, None, None]).to(signal)
    return (off**2 / variance * use).sum((1, 2)) / use.sum((1, 2)).clamp(min=1)
