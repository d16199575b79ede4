# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs of all kinds behind one interface: photutils' and astropy's models, images, users'.
"""

import numpy as np
import torch
from astropy.modeling import Model

from bliss_astro._arguments import must, require

from ._fit import (
    MIN_SIDE,
    PHASES,
    check_psf_pixels,
    draw_model,
    fit_phases,
    place_names,
)
from ._gaussians import GaussianPSF
from ._model import PSFModel
from ._varying import VaryingPSF

# Half the side of drawings of sums of Gaussians in pixels.
_HALF = 25


class UserPSF(VaryingPSF):
    """A user's object with a method ``at(x, y)`` that returns a `PSFModel`."""

    def __init__(self, psf):
        self._psf = psf

    def at(self, x, y):
        return self._psf.at(x + self.origin[0], y + self.origin[1])


class FittedPSF(VaryingPSF):
    """
    PSF that is fitted where it is needed, at the places of a grid.

    Drawings (n, side, side) at places within a pixel are ``_draw(x, y, phases)``.
    """

    spacing = 256

    def __init__(self):
        self._fits = {}

    def at(self, x, y):
        """Fit at the nearest of the places, ``_fit(x, y)``."""
        places = self._frame(x, y)
        key = tuple(round(float(place) / self.spacing) for place in places)
        key = key if self.varies else (0, 0)
        if key not in self._fits:
            self._fits[key] = self._fit(*(self.spacing * k for k in key))
        return self._fits[key]

    def _frame(self, x, y):
        return x + self.origin[0], y + self.origin[1]

    def _fit(self, x, y):
        near = next(reversed(self._fits.values()), None)
        start = None if near is None else near.shape_vector
        options = {'radius': self.normalization_radius, 'start': start}
        return PSFModel.from_fit(*fit_phases(self._draw(x, y, PHASES), **options))

    def image(self, x, y):
        """Image of the PSF, centred on the middle pixel."""
        return self._draw(*self._frame(x, y), PHASES[:1])[0]

    def _stamps(self, x, y):
        return self._draw(*self._frame(x, y), PHASES), PHASES


class ModelPSF(FittedPSF):
    """A PSF model of astropy or photutils, and fits to it."""

    def __init__(self, psf):
        super().__init__()
        from photutils.psf import GriddedPSFModel

        self._psf, self.varies = psf, isinstance(psf, GriddedPSFModel)
        place_names(psf)

    def _draw(self, x, y, phases):
        return np.stack([draw_model(self._psf, x, y, *phase) for phase in phases])


class GaussiansPSF(FittedPSF):
    """An object with a method ``gaussians(xs, ys)``, and fits to its drawings."""

    def __init__(self, psf):
        super().__init__()
        self._psf = psf
        self.varies = getattr(psf, 'varies', not isinstance(psf, GaussianPSF))

    def gaussians(self, xs, ys):
        """Return the sums of Gaussians as they are; see `VaryingPSF.gaussians`."""
        return self._sums(*self._frame(np.asarray(xs), np.asarray(ys)))

    def _sums(self, xs, ys):
        psf, batch = self._psf.gaussians(xs, ys), (len(ys), len(xs))
        sound = isinstance(psf, GaussianPSF) and psf.height.shape[:-1] == batch
        allowed = f'return a GaussianPSF of the batch {batch}'
        require(sound, 'psf.gaussians', allowed, f'{psf!r:.80}')
        return psf

    def _draw(self, x, y, phases):
        psf = self._sums(np.array([x]), np.array([y]))[0, 0]
        axis = torch.arange(-_HALF, _HALF + 1).double()
        drawn = [psf(axis - dx, axis[:, None] - dy) for dx, dy in phases]
        return torch.stack(drawn).detach().double().cpu().numpy()


class ImagePSF(FittedPSF):
    """An image of a PSF, and the fit to it."""

    varies = False

    def __init__(self, image):
        super().__init__()
        try:
            self._image = np.asarray(getattr(image, 'value', image), dtype=float)
        except (TypeError, ValueError):
            text = must('psf', 'be a model or an image of a PSF', f'{image!r:.60}')
            raise TypeError(text) from None
        check_psf_pixels(self._image, 'psf, as an image,')
        shape = self._image.shape
        allowed = f'have at least {MIN_SIDE} x {MIN_SIDE} px'
        require(min(shape) >= MIN_SIDE, 'psf: an image', allowed, shape)

    def image(self, x, y):
        """Return the image as it is."""
        return self._image

    def _stamps(self, x, y):
        # The largest square around the brightest pixel.
        peak = np.unravel_index(np.argmax(self._image), self._image.shape)
        half = min(*peak, *(np.array(self._image.shape) - 1 - peak))
        rows, columns = (slice(at - half, at + half + 1) for at in peak)
        return self._image[None, rows, columns], PHASES[:1]

    def _fit(self, x, y):
        try:
            return PSFModel.fit(self._image / self._image.sum())
        except ValueError as error:
            raise ValueError(f'psf: {error}') from error


# What a PSF may be beside a `PSFModel`: a test, and what makes a `VaryingPSF` of it.
# The first that is true counts.
KINDS = [
    (lambda psf: isinstance(psf, VaryingPSF), lambda psf: psf),
    (lambda psf: callable(getattr(psf, 'at', None)), UserPSF),
    (lambda psf: isinstance(psf, Model), ModelPSF),
    (lambda psf: isinstance(psf, np.ndarray | list), ImagePSF),
    (lambda psf: callable(getattr(psf, 'gaussians', None)), GaussiansPSF),
]


def kind_of(psf):
    """Return what makes a `VaryingPSF` of a PSF, or `None` where it is none."""
    return next((make for test, make in KINDS if test(psf)), None)


def varying_psf(psf):
    """Return a PSF of any kind but `PSFModel` as a `VaryingPSF`."""
    make = kind_of(psf)
    if make is None:
        is_number = isinstance(psf, int | float | np.number)
        got = f'{psf!r}; a width is given as fwhm={psf}'
        got = got if is_number else type(psf).__name__
        allowed = (
            'be a PSFModel, a PSF with a method at(x, y) or gaussians(xs, ys), a '
            'photutils or astropy model, or an image'
        )
        raise TypeError(must('psf', allowed, got))
    return make(psf)
