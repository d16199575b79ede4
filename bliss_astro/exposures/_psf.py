# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs of all kinds that an `Exposure` may hold, behind one interface.
"""

import re
from copy import copy

import astropy.units as u
import numpy as np
from astropy.modeling import Model

from bliss_astro.psf import PSFModel
from bliss_astro.psf._asymmetry import core_centre
from bliss_astro.psf._fit import PHASES, fit_phases
from bliss_astro.psf._inputs import check_psf_pixels
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS
from bliss_astro.psf._varying import varying_psf

__all__ = []

# Side (pixels) of the image on which a foreign PSF is drawn before it is fitted, and
# spacing of the places at which one that varies is.
_STAMP, _SPACING = 51, 256
# Least side (pixels) of an image of a PSF that can be fitted.
_MIN_SIDE = 5
# Names that astropy's and photutils' models give to the position, in compound
# models with a number behind.
_PLACE = re.compile(r'([xy])_(?:0|mean)(?:_\d+)?')


def check_psf(psf):
    """Check that an object can serve as a PSF; an image becomes a float array."""
    if psf is None or isinstance(psf, PSFModel) or varying_psf(psf) is not None:
        return psf
    if isinstance(psf, Model):
        if all(_place_names(psf)):
            return psf
        msg = (
            f'psf: the model {type(psf).__name__} has no position parameters (x_0 or '
            'x_mean, y_0 or y_mean).'
        )
        raise TypeError(msg)
    if isinstance(psf, (np.ndarray, list)):
        image = np.asarray(psf.value if isinstance(psf, u.Quantity) else psf, float)
        check_psf_pixels(image, 'psf, as an image,')
        if min(image.shape) < _MIN_SIDE:
            msg = (
                f'psf: an image must have at least {_MIN_SIDE} x {_MIN_SIDE} px; '
                f'got shape {image.shape}.'
            )
            raise ValueError(msg)
        return image
    number = np.ndim(psf) == 0 and isinstance(psf, (int, float, np.number, u.Quantity))
    got = f'{psf!r}; a width is given as fwhm={psf}' if number else type(psf).__name__
    msg = (
        'psf must be a PSFModel, a PSF that varies (with a method at(x, y)), a '
        f'photutils or astropy PSF model, or an image; got {got}.'
    )
    raise TypeError(msg)


def _place_names(model):
    """Names of the parameters of a model that are its position: those of x, of y."""
    found = [_PLACE.fullmatch(name) for name in model.param_names]
    return tuple([m.string for m in found if m and m[1] == axis] for axis in 'xy')


class PSFAccess:
    """
    The PSF of an image at any of its pixels, of any kind.

    Parameters
    ----------
    psf : object
        PSF that `check_psf` accepts.

    origin : tuple of float, optional
        Pixel (x, y) of the psf's own frame on which pixel (0, 0) of the
        image lies, for models without a method ``shifted``.
    """

    def __init__(self, psf, origin=(0, 0)):
        self.psf, self.origin = psf, tuple(origin)
        self._varying = varying_psf(psf)
        self._fits = {}

    @property
    def varies(self):
        """Whether the PSF depends on the place."""
        if self._varying is not None:
            return True
        if isinstance(self.psf, PSFModel) or not isinstance(self.psf, Model):
            return False
        from photutils.psf import GriddedPSFModel

        return isinstance(self.psf, GriddedPSFModel)

    def cutout(self, x0, y0):
        """Return the access of a cut-out that begins at pixel (x0, y0)."""
        if self._varying is not None and (x0, y0) != (0, 0):
            return PSFAccess(self._varying.shifted(x0, y0), self.origin)
        moved = copy(self)
        if self.varies:
            moved.origin = (self.origin[0] + x0, self.origin[1] + y0)
        return moved

    def at(self, x, y):
        """Return the `PSFModel` at a place (pixels): a fit to a PSF of another kind."""
        psf = self.psf
        if psf is None:
            msg = 'this exposure has no psf; give it one with replace(psf=...).'
            raise ValueError(msg)
        x, y = float(x) + self.origin[0], float(y) + self.origin[1]
        if self._varying is not None:
            return self._varying.at(x, y)
        if isinstance(psf, PSFModel):
            return psf
        key = (round(x / _SPACING), round(y / _SPACING)) if self.varies else None
        if key not in self._fits:
            place = (x, y) if key is None else tuple(_SPACING * k for k in key)
            self._fits[key] = self._fit(*place)
        return self._fits[key]

    def shapes(self, xs, ys):
        """
        Return the PSF's shape parameters on a grid of places.

        Parameters
        ----------
        xs, ys : float `~numpy.ndarray`
            Columns and rows in pixels.

        Returns
        -------
        shapes : float `~numpy.ndarray`, shape (len(ys), len(xs), 8)
            Parameters in the order of ``SHAPE_NAMES``.
        """
        xs = np.atleast_1d(np.asarray(xs, dtype=float))
        ys = np.atleast_1d(np.asarray(ys, dtype=float))
        if not self.varies:
            one = np.asarray(self.at(0, 0).shape_vector, dtype=float)
            return np.broadcast_to(one, (len(ys), len(xs), len(one))).copy()
        if self._varying is not None:
            x0, y0 = self.origin
            return self._varying.shape_grid(xs + x0, ys + y0)
        return np.array([[self.at(x, y).shape_vector for x in xs] for y in ys])

    def drawn_with_model(self, x, y):
        """
        Return the PSF's image at a place beside its analytic form there.

        Two images on one grid and of equal sums, or `None` for a PSF that has the
        analytic form.
        """
        psf = self.psf
        if isinstance(psf, PSFModel):
            return None
        shape = self.at(x, y)
        x, y = x + self.origin[0], y + self.origin[1]
        if isinstance(psf, np.ndarray):
            image = psf
        elif self._varying is not None:
            image = self._varying.image(x, y)
            if image is None:
                return None
        else:
            image = self._draw(x, y)
        image = image / image.sum()
        x_0, y_0 = core_centre(image, shape.fwhm)
        grid_y, grid_x = np.indices(image.shape)
        model = type(shape).from_shape(shape.shape_vector)(grid_x - x_0, grid_y - y_0)
        return image, model / model.sum()

    def _fit(self, x, y):
        """Fit the analytic PSF to drawings of a foreign one."""
        if isinstance(self.psf, np.ndarray):
            try:
                return PSFModel.fit(self.psf / self.psf.sum())
            except ValueError as error:
                msg = f'psf: {error}'
                raise ValueError(msg) from error
        stamps = np.stack([self._draw(x, y, offset=phase) for phase in PHASES])
        near = next(reversed(self._fits.values()), None)
        fit, residual = fit_phases(
            stamps / stamps[0].sum(),
            radius=DEFAULT_NORMALIZATION_RADIUS,
            start=None if near is None else near.shape_vector,
        )
        psf = PSFModel.from_shape(fit.shape)
        psf.fit_info = {'residual': residual, 'converged': fit.converged}
        return psf

    def _draw(self, x, y, *, offset=(0.0, 0.0)):
        """Draw a model at (x, y), there in the middle of a pixel or offset from it."""
        model = self.psf.copy()
        for own, to in zip(
            _place_names(model), (x + offset[0], y + offset[1]), strict=True
        ):
            # Parts of a compound model keep their distances.
            move = float(to - np.atleast_1d(getattr(model, own[0]).value)[0])
            for name in own:
                parameter = getattr(model, name)
                parameter.value = parameter.value + move
        offsets = np.arange(-(_STAMP // 2), _STAMP // 2 + 1, dtype=float)
        image = model(*np.meshgrid(x + offsets, y + offsets))
        image = np.asarray(getattr(image, 'value', image), dtype=float)
        if not np.isfinite(image).all() or image.sum() <= 0:
            msg = f'psf: {type(self.psf).__name__} is not positive and finite.'
            raise ValueError(msg)
        return image


def central_psf(exposure):
    """Return the PSF in the middle of an exposure, as a `PSFModel`."""
    ny, nx = exposure.shape
    return exposure.psf_at(nx // 2, ny // 2)
