# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The ellipse that a source looks like, as features for a network.

Elongation and size are to a galaxy what flux and position are to a star: a
few weighted sums over pixels that depend on the PSF, found exactly by least
squares.  The model is the PSF, blurred and stretched; real profiles are not
quite that, and what the difference means the network learns.
"""

import torch

from bliss_astro.psf._mixture import (
    broaden_shape,
    elliptical_radius_squared,
    gaussian,
    normalization_of_shape,
    power_law,
)

__all__ = [
    'ELLIPSE_NAMES',
    'N_ELLIPSE',
    'Ellipses',
    'ellipse_features',
    'fit_ellipses',
    'model_of',
]

# Names of what `ellipse_features` returns, and how many numbers the first holds.
ELLIPSE_NAMES = ('ellipse', 'ellipse_flux', 'ellipse_error', 'vector', 'vector_error')
N_ELLIPSE = 9
# Logarithm of the blur's variance in square pixels: start, prior's width, range.
_START, _SPREAD, _LEAST, _MOST = 0.5, 1.5, -4.0, 4.5
# Width of the prior of the distortion, and its largest length.
_ELONGATION, _LONGEST = 0.45, 0.9
# Step in the logarithm of the blur from which its derivative comes.
_STEP = 0.15


class Ellipses:
    """
    Blurred and stretched PSFs of N sources.

    Attributes
    ----------
    flux : tensor ``(N,)``
        In units of the noise.

    log_blur : tensor ``(N,)``
        Logarithm of the variance in square pixels of the kernel.

    e1, e2 : tensor ``(N,)``
        Distortion of the whole.

    information : tensor ``(N, 4, 4)``
        Of (flux, log_blur, e1, e2), priors included; None before a fit.
    """

    def __init__(self, flux, log_blur, e1, e2, information=None):
        self.flux, self.log_blur, self.e1, self.e2 = flux, log_blur, e1, e2
        self.information = information

    @classmethod
    def round(cls, flux):
        """Round and of typical size, from fluxes."""
        zero = torch.zeros_like(flux)
        return cls(flux, zero + _START, zero, zero.clone())

    def select(self, index):
        """The chosen ones."""
        names = ('flux', 'log_blur', 'e1', 'e2', 'information')
        values = [getattr(self, name) for name in names]
        return Ellipses(*(None if v is None else v[index] for v in values))


def _blurred(patches, ellipses, step=0.0):
    # The stretched shape, (N, 1, 1, 8); the PSF's own elongation is replaced.
    psf = patches.shape
    shape = broaden_shape(psf, (ellipses.log_blur + step).exp()[:, None, None])
    e1, e2 = ellipses.e1[:, None, None], ellipses.e2[:, None, None]
    return torch.cat([shape[..., :6], torch.stack([e1, e2], -1)], -1)


def _profile(shape, r2, radius, *, slope=False):
    s1, s2, b, sp, p0, beta = shape[..., :6].unbind(-1)
    core, wide = gaussian(r2, s1), b * gaussian(r2, s2)
    base = r2 / (beta * sp.square()) + 1
    tail = p0 * power_law(base, beta / 2)
    norm = normalization_of_shape(shape, radius=radius).reciprocal()
    value = norm * (core + wide + tail)
    if not slope:
        return value
    change = core / s1.square() + wide / s2.square() + tail / (base * sp.square())
    return value, -0.5 * norm * change


def model_of(patches, ellipses, x, y, *, point=None):
    """
    Images of the sources alone, of unit flux, ``(N, P, P)``.

    Parameters
    ----------
    patches : `StarPatches`
        Where, and with what PSF.

    ellipses : `Ellipses`
        What.

    x, y : tensor ``(N,)``
        Positions in pixels.

    point : tensor ``(N,)`` of bool, optional
        Which ones are the PSF as it is.
    """
    shape = _blurred(patches, ellipses)
    if point is not None:
        shape = torch.where(point[:, None, None, None], patches.shape, shape)
    r2 = elliptical_radius_squared(shape, *patches.offsets(x, y))
    return _profile(shape, r2, patches.radius)


def _slopes(patches, ellipses, x, y):
    # The model of unit flux and its derivatives by log_blur, e1 and e2.
    dx, dy = patches.offsets(x, y)
    shape = _blurred(patches, ellipses)
    e1, e2 = shape[..., 6], shape[..., 7]
    r2 = elliptical_radius_squared(shape, dx, dy)
    value, fall = _profile(shape, r2, patches.radius, slope=True)
    wider = _blurred(patches, ellipses, _STEP)
    by_blur = (_profile(wider, r2, patches.radius) - value) / _STEP
    square = (-e1.square() - e2.square() + 1).reciprocal()
    root = square.sqrt()
    by_e1 = fall * (e1 * square * r2 + root * (dy.square() - dx.square()))
    by_e2 = fall * (e2 * square * r2 - (root * 2 * dx) * dy)
    return value, by_blur, by_e1, by_e2


@torch.no_grad()
def fit_ellipses(patches, ellipses, x, y, floor, *, n_iterations=5):
    """
    Least-squares flux, blur and distortion at given positions.

    Gauss-Newton steps with weak priors that keep noise from running away.

    Parameters
    ----------
    patches : `StarPatches`
        Cut-outs.

    ellipses : `Ellipses`
        The start.

    x, y : tensor ``(N,)``
        Positions in pixels.

    floor : tensor ``(N,)``
        Smallest flux that steps in the other parameters assume, in units of the
        noise.

    n_iterations : int, optional
        Number of steps.

    Returns
    -------
    ellipses : `Ellipses`
        With their information matrix.
    """
    fit = ellipses.select(slice(None))
    prior = x.new_tensor([0.0, _SPREAD**-2, _ELONGATION**-2, _ELONGATION**-2])
    for _ in range(n_iterations):
        value, *slopes = _slopes(patches, fit, x, y)
        model = fit.flux[:, None, None] * value
        weight = patches.weight(model)
        size = torch.maximum(fit.flux, floor)[:, None, None]
        columns = torch.stack([value, *(size * s for s in slopes)], 1).flatten(2)
        weighted = columns * weight.flatten(1)[:, None]
        residual = (patches.data - model).flatten(1)
        information = weighted @ columns.mT + torch.diag(prior)
        information[:, 0, 0] += 1e-9
        start = torch.stack([fit.log_blur - _START, fit.e1, fit.e2], -1)
        score = (weighted @ residual[..., None])[..., 0]
        score = score - torch.nn.functional.pad(start, (1, 0)) * prior
        step = torch.linalg.solve(_scaled(information), score[..., None])[..., 0]
        fit = _moved(fit, step)
        fit.information = information
    return fit


def _scaled(information):
    # A little is added to the diagonal, so that it can always be inverted.
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    return information + torch.diag_embed(1e-5 * diagonal)


def _moved(fit, step):
    e1 = fit.e1 + step[:, 2].clamp(-0.3, 0.3)
    e2 = fit.e2 + step[:, 3].clamp(-0.3, 0.3)
    shrink = (_LONGEST / torch.hypot(e1, e2).clamp(min=1e-6)).clamp(max=1)
    blur = (fit.log_blur + step[:, 1].clamp(-1, 1)).clamp(_LEAST, _MOST)
    # A flux may fall below zero, but one that does so far has nothing to fit.
    flux = torch.maximum(fit.flux + step[:, 0], -fit.flux.abs())
    return Ellipses(flux, blur, e1 * shrink, e2 * shrink)


def ellipse_features(fit, floor):
    """
    What the network is told of a fit.

    Parameters
    ----------
    fit : `Ellipses`
        From `fit_ellipses`.

    floor : tensor ``(N,)``
        The flux floor in units of the noise.

    Returns
    -------
    told : tensor ``(N, 9)``
        Numbers of order one.

    log_flux, error : tensor ``(N,)``
        Logarithm of flux over the floor and its error.

    vector : tensor ``(N, 2)``
        Ellipticity as a vector of length ``-ln q``.

    vector_error : tensor ``(N,)``
        Its error.
    """
    from ._shapes import ellipticity_to_vector

    covariance = torch.linalg.inv(_scaled(fit.information))
    sigma = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).sqrt()
    safe = torch.maximum(fit.flux, 0.2 * floor)
    vector = ellipticity_to_vector(fit.e1, fit.e2)
    # Near |e| = 1 the vector moves faster than the distortion.
    stretch = 1 / (1 - fit.e1**2 - fit.e2**2)
    error = (0.5 * (sigma[:, 2] + sigma[:, 3]) * stretch).clamp(1e-3, 2)
    log_flux = torch.log(safe / floor)
    flux_error = (sigma[:, 0] / safe).clamp(1e-4, 5)
    told = torch.stack(
        [
            log_flux / 4,
            torch.log(flux_error),
            fit.log_blur / 2,
            torch.log(sigma[:, 1].clamp(1e-3, 3)),
            vector[:, 0],
            vector[:, 1],
            torch.log(error),
            vector.norm(dim=-1),
            (fit.flux / sigma[:, 0]).clamp(-3, 30) / 10,
        ],
        -1,
    )
    return told, log_flux, flux_error, vector, error
