# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fits of the PSF model: to images of the PSF, and to the stars of a frame.
"""

import numpy as np
from astropy.modeling import Model

from ._inputs import image_of_model, positive_numbers, star_positions, take_apart
from ._joint_fit import PRIOR_WIDTH, StampFit, minimise
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._profile import integral, profile
from ._robust_fit import fit_image, fit_stamps, start_fit
from ._wing_prior import typical_shape

__all__ = []

# Relative error of the model, so that the brightest star does not outvote the others.
_MODEL_ERROR = 0.02
# Side of the smallest image that can be fitted.
_MIN_SIDE = 5

PHASES = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
"""Places within a pixel at which a PSF is drawn: one leaves a narrow core open."""
# Uniform error of such drawings in units of the peak: rings are beyond the model and
# must not spoil the core. Steps of the first fit, and of those near another one, and
# the relative decrease of chi2 at which they end.
_DRAWING_ERROR, _FIRST_STEPS, _NEXT_STEPS, _TOLERANCE = 1e-3, 30, 6, 1e-5


def fit_psf(
    image,
    *,
    error=None,
    mask=None,
    background=None,
    use_prior=True,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    model_class=None,
):
    """
    Fit `PSFModel` to an image of the PSF, or to cut-outs of stars.

    Parameters
    ----------
    image : 2D or 3D array, `~astropy.units.Quantity`, `~astropy.nddata.NDData` \
or `~astropy.modeling.Model`
        An image of the PSF (one star, any flux, anywhere on the image but
        brightest); or n cut-outs (n, rows, columns), each with a star near
        its centre; or another PSF model.

    error : float or array, optional
        Standard deviation of the pixels. By default it is taken from the
        scatter of the residuals.

    mask : bool array, optional
        `True` where a pixel is not to be used, as are those not finite.

    background : bool, optional
        Whether to fit a constant background, one for each star. The default
        is to do so for cut-outs, and not for an image of the PSF.

    use_prior : bool, optional
        Whether what the image leaves open (most often the wing) follows the
        usual: for an image of the PSF SDSS's fits of its fields, for
        stars the range of real telescopes, from Gaussian and Airy to Moffat
        profiles of slope 2.

    normalization_radius : float, optional
        Radius in pixels within which the flux is counted.

    model_class : type, optional
        Subclass of `PSFModel` to return.

    Returns
    -------
    psf : `PSFModel`
        The fit. Its flux and position are those on the image; with cut-outs it
        has unit flux and lies at the origin. ``fit_info`` holds ``residual``
        (rms in units of the peak), ``converged``, and for cut-outs ``flux``,
        ``x``, ``y``, ``background`` and ``used`` of each.

    Raises
    ------
    ValueError
        If the image has another dimension, is smaller than 5 pixels, has no
        usable or no positive pixels, or its mask or error another shape; or if
        the fit is wider than the image.
    """
    if isinstance(image, Model):
        image = image_of_model(image)
    data, bad, error, unit = take_apart(image, error, mask, (2, 3))
    single = data.ndim == 2
    if background is None:
        background = not single
    stamps = data
    if single:
        stamps, bad = data[None], bad[None]
        error = error if np.ndim(error) == 0 else error[None]
    if min(stamps.shape[1:]) < _MIN_SIDE:
        msg = (
            f'image must be at least {_MIN_SIDE} pixels wide and high, got '
            f'{stamps.shape[2]} x {stamps.shape[1]}'
        )
        raise ValueError(msg)
    radius = normalization_radius
    if single:
        fit, _ = start_fit(stamps, bad, radius, background, stars=False)
        if not use_prior:
            fit.prior_width = 1e3 * PRIOR_WIDTH
        used, residual = None, fit_image(fit, stamps, bad, error, background)
    else:
        options = {
            'radius': radius,
            'model_error': _MODEL_ERROR,
            'use_prior': use_prior,
        }
        fit, used, residual, _ = fit_stamps(
            stamps, bad, error, background=background, **options
        )
    psf = as_model(fit, residual, model_class)
    if not psf.fwhm < max(stamps.shape[1:]):
        msg = (
            f'image shows no PSF: what fits it is {psf.fwhm:.3g} px wide, and it has '
            f'{stamps.shape[2]} x {stamps.shape[1]} px; a PSF falls towards the edges, '
            'with its background taken off'
        )
        raise ValueError(msg)
    if single:
        psf.flux = fit.local[0, 0] if unit is None else fit.local[0, 0] * unit
        psf.x_0, psf.y_0 = fit.local[0, 1:3]
    else:
        psf.fit_info.update(_star_info(fit, used, unit, 0.0, 0.0))
    return psf


def fit_psf_to_stars(
    data,
    positions,
    *,
    error=None,
    mask=None,
    size=25,
    effective_gain=None,
    model_error=_MODEL_ERROR,
    use_prior=True,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    model_class=None,
):
    """Fit one PSF shape to several stars of an image; see `PSFModel.fit_stars`."""
    data, bad, error, unit = take_apart(data, error, mask, (2,))
    size = int(size)
    if size < _MIN_SIDE or size % 2 == 0:
        msg = f'size must be odd and at least {_MIN_SIDE}, got {size}'
        raise ValueError(msg)
    if not model_error >= 0:
        msg = f'model_error must be >= 0, got {model_error}'
        raise ValueError(msg)
    x, y = star_positions(positions)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    height, width = data.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    if not inside.any():
        msg = f'positions must lie on the image of {width} x {height} pixels; none does'
        raise ValueError(msg)
    corner_x, corner_y = column[inside] - size // 2, row[inside] - size // 2

    def cut(values, fill):
        if np.ndim(values) == 0:
            return values
        return cut_stamps(values, corner_x, corner_y, size, fill)

    gain = effective_gain
    if gain is not None:
        gain = positive_numbers(gain, 'effective_gain', data.shape, None)
    fit, used, residual, _ = fit_stamps(
        cut(data, 0.0),
        cut(bad, True),
        cut(error, 1.0),
        background=True,
        use_prior=use_prior,
        radius=normalization_radius,
        gain=cut(gain, 1.0),
        model_error=model_error,
    )
    psf = as_model(fit, residual, model_class)
    psf.fit_info.update(_star_info(fit, used, unit, corner_x, corner_y))
    psf.fit_info['index'] = np.flatnonzero(inside)
    return psf


def cut_stamps(array, corner_x, corner_y, size, fill):
    """Cut stamps (n, size, size) that may reach beyond the image."""
    reach = size // 2
    padded = np.pad(array, reach, constant_values=fill)
    corners = zip(corner_x, corner_y, strict=True)
    return np.stack(
        [padded[j + reach :, i + reach :][:size, :size] for i, j in corners]
    )


def fit_phases(stamps, *, radius, start=None):
    """
    Fit one shape to drawings of one PSF at the places of `PHASES`.

    Parameters
    ----------
    stamps : (n, side, side) array
        The drawings, of the same flux; their centre plus the phase is the place.

    radius : float
        Normalisation radius in pixels.

    start : (8,) array, optional
        Shape vector to begin with, such as that of a place nearby.

    Returns
    -------
    fit : `StampFit`
        The fit.

    residual : float
        Rms residual in units of the peak.
    """
    stamps = np.asarray(stamps, float) / np.max(stamps)
    half = (stamps.shape[1] - 1) / 2
    if start is None:
        # From the area above half of the maximum.
        fwhm = 2 * np.sqrt(np.mean((stamps > 0.5).sum((1, 2))) / np.pi)
        start, max_steps = typical_shape(max(fwhm, 1.2)), _FIRST_STEPS
    else:
        max_steps = _NEXT_STEPS
    fit = StampFit.of_star(start, np.zeros((len(stamps), 4)), radius=radius)
    fit.local[:, 0] = integral(start, radius) / profile(0.0, start)
    fit.local[:, 1:3] = half + np.array(PHASES[: len(stamps)])
    minimise(
        fit,
        stamps,
        np.full(stamps.shape, 1 / _DRAWING_ERROR),
        with_background=False,
        max_steps=max_steps,
        tolerance=_TOLERANCE,
    )
    off = stamps - fit.model(stamps.shape[1:])
    return fit, float(np.sqrt(np.mean(np.square(off))))


def as_model(fit, residual, model_class=None):
    """Make the model of unit flux at the origin, with ``fit_info``."""
    if model_class is None:
        from ._model import PSFModel as model_class  # noqa: N813
    psf = model_class.from_shape(fit.shape, normalization_radius=fit.radius)
    psf.fit_info = {'residual': residual, 'converged': fit.converged}
    return psf


def _star_info(fit, used, unit, corner_x, corner_y):
    """Collect flux, position and background of each star."""
    flux, x, y, background = fit.local.T.copy()
    if unit is not None:
        flux, background = flux * unit, background * unit
    return {
        'flux': flux,
        'x': x + corner_x,
        'y': y + corner_y,
        'background': background,
        'used': used,
    }
