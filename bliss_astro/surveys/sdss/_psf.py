# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The point-spread function of a field of the Sloan Digital Sky Survey.

A ``psField`` file describes it twice: as one circular `PSFModel` for the
whole field, and as a sum of eigen-images (Karhunen-Loeve, KL) whose
coefficients are polynomials of the position on the frame. The second has the
shape of the core at each place, but ends 15 px from the centre and has lost its
faint wing to the sky subtraction before that; the first has the wing.
"""

import os

import numpy as np
from astropy.io.fits import HDUList

from bliss_astro._warnings import OutOfDomainWarning, warn
from bliss_astro.psf import PSFModel, VariablePSF
from bliss_astro.psf._checks import check_radius
from bliss_astro.psf._engine import PRIOR_MEAN, StampFit, minimise, to_shape, to_theta
from bliss_astro.psf._fit import _N_ROUNDS, _peaks, _variance_from_scatter
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, SHAPE_NAMES
from bliss_astro.psf._profile import integral, profile, squared_radius
from bliss_astro.psf._read import SURVEY_READERS

from ._camera import BANDS, FRAME_SHAPE
from ._psfield import PsField

__all__ = ['SDSSPSF', 'psf_model']

# Unit of the polynomials' argument, and SDSS's pixels, whose edges are whole.
_KL_SCALE = 1e-3
_KL_ORIGIN = 0.5

# Nodes in y and x at which the model is fitted before it is interpolated: the
# polynomials are quadratic, so that cubic splines through these lose nothing.
_NODES = (4, 6)

# Pixels farther from the centre than this are the analytic wing's, not the KL
# sum's; between the two the one fades into the other.
_KL_REACH = 10.0
_KL_END = 13.0

# What SDSS writes where it could not fit the wing, and where the slope ends.
_DEFAULT_BETA = 3.0
_DEFAULT_P0 = 1e-6
_LARGEST_BETA = 9.9

# Prior widths of theta: at the field's centre about psField's own fit, or about
# the usual shape where it has none, and at the nodes about the centre. The wing
# is held tight, as the KL sum falls below it well before it ends.
_WING_WIDTH = np.array([np.inf, 0.3, 1.0, 0.05, 0.1, 0.05, 0.3, 0.3])
_NODE_WIDTH = np.array([np.inf, 0.1, 0.3, 0.02, 0.05, 0.02, 0.3, 0.3])


class SDSSPSF(VariablePSF):
    """
    The PSF of one band of an SDSS field, which varies from place to place.

    Parameters
    ----------
    psfield : str, path, `~astropy.io.fits.HDUList` or record
        A ``psField`` file, or what `PsField.read` made of it.

    band : {'u', 'g', 'r', 'i', 'z'}
        The band.

    origin : (x, y) pair of float, optional
        Position on the frame of pixel (0, 0) of the image at hand, for
        images that were cut out of the frame.

    normalization_radius : float, optional
        Radius in pixels within which the PSF has unit flux.

    Raises
    ------
    ValueError
        If the band is unknown, or the field has no usable PSF in it.

    Warns
    -----
    bliss_astro.OutOfDomainWarning
        If SDSS stored default values in place of a fit.

    See Also
    --------
    PSFModel : The PSF of one place.

    Notes
    -----
    With row = y + 0.5 and column = x + 0.5, as SDSS counts from the pixels'
    edges, the coefficient of each eigen-image is the sum over i and j of
    c[i, j] (0.001 row)^i (0.001 column)^j. Outside the frame the PSF is that of
    the nearest place on it.

    References
    ----------
    .. [1] Lupton, R. et al. 2001, "The SDSS Imaging Pipelines",
       ASP Conf. Ser. 238, 269
    """

    def __init__(
        self,
        psfield,
        band,
        *,
        origin=(0, 0),
        normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    ):
        psfield = _read(psfield, band)
        self.band = band
        self.normalization_radius = check_radius(normalization_radius)
        self.origin = (float(origin[0]), float(origin[1]))
        self._analytic, self._wing_is_known = analytic_shape(psfield, band)
        self._images, self._coefficients = _eigen_images(psfield, band)
        # Shared by cut-outs of one frame, so that it is fitted only once.
        self._cache = {}

    def __repr__(self):
        """Name the band and the place on the frame."""
        return f'<SDSSPSF(band={self.band!r}, origin={self.origin})>'

    def central(self):
        """
        Return SDSS's own circular fit for the whole field.

        Returns
        -------
        psf : `PSFModel`
            The model, of unit flux, at the origin.
        """
        return PSFModel.from_shape(
            self._analytic, normalization_radius=self.normalization_radius
        )

    def shape_grid(self, xs, ys):
        """
        Return the shapes on a grid of places.

        Parameters
        ----------
        xs, ys : 1D array
            Columns and rows of the grid in pixels of the image.

        Returns
        -------
        shapes : (len(ys), len(xs), 8) array
            Shape vectors.
        """
        xs, ys = self._frame(np.atleast_1d(xs), np.atleast_1d(ys))
        # Splines want their arguments sorted.
        xs, order_x = np.unique(xs, return_inverse=True)
        ys, order_y = np.unique(ys, return_inverse=True)
        theta = np.stack([spline(ys, xs) for spline in self._splines()], axis=-1)
        return to_shape(theta)[order_y][:, order_x]

    def fit_at(self, x, y):
        """
        Fit the model to the eigen-images' sum at a place.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image.

        Returns
        -------
        psf : `PSFModel`
            The model, of unit flux, at ``x_0 = x`` and ``y_0 = y``. Its
            ``fit_info['residual']`` is the rms difference from the
            eigen-images' sum within 10 pixels, in units of the peak, and
            ``offset`` the sum's own centroid.
        """
        fit = self._fit_here(x, y)
        psf = PSFModel.from_shape(
            fit.shape,
            x_0=float(x),
            y_0=float(y),
            normalization_radius=self.normalization_radius,
        )
        stamp, use = _core(self.kl_sum(x, y))
        off = (stamp - fit.model(stamp.shape[1:])) / stamp.max()
        psf.fit_info = {
            'residual': float(np.sqrt(np.mean(off[use] ** 2))),
            'converged': fit.converged,
            'offset': tuple(fit.local[0, 1:3] - (stamp.shape[2] - 1) / 2),
        }
        return psf

    def kl_sum(self, x, y):
        """
        Sum the eigen-images at a place, as the file has them.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image.

        Returns
        -------
        image : (51, 51) array
            The sum, centred on pixel (25, 25), of arbitrary flux.
        """
        return self._kl_frame(*self._frame(x, y))

    def image(self, x, y, *, wing=True):
        """
        Reconstruct an image of the PSF at a place.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image.

        wing : bool, optional
            Whether to continue the sum of eigen-images beyond 10 pixels with
            the wing of the model fitted to it, which the sum lacks.

        Returns
        -------
        image : (51, 51) array
            The PSF centred on pixel (25, 25), with unit flux within the
            normalisation radius.
        """
        total = self.kl_sum(x, y)
        side = total.shape[0]
        yy, xx = np.mgrid[:side, :side] - (side - 1) / 2
        radius = np.hypot(xx, yy)
        if not wing:
            inside = np.clip(self.normalization_radius + 0.5 - radius, 0, 1)
            return total / np.sum(total * inside)
        fit = self._fit_here(x, y)
        flux, shape = fit.local[0, 0], fit.shape
        model = profile(squared_radius(xx, yy, *shape[6:]), shape)
        model *= flux / integral(shape, self.normalization_radius)
        share = np.clip((_KL_END - radius) / (_KL_END - _KL_REACH), 0, 1)
        image = share * total + (1 - share) * model
        # What the sum has more or less than the model is part of its flux.
        return image / (flux + np.sum(share * (total - model)))

    @property
    def _central_fit(self):
        """Fit the middle of the frame, with psField's own wing where it has one."""
        if 'central' not in self._cache:
            mean, width = PRIOR_MEAN, _WING_WIDTH
            if self._wing_is_known:
                mean = to_theta(self._analytic)
            rows, columns = FRAME_SHAPE
            self._cache['central'] = self._fit_frame(
                (columns - 1) / 2, (rows - 1) / 2, mean, width
            )
        return self._cache['central']

    def _splines(self):
        """Return splines of (frame y, frame x), one for each entry of theta."""
        if 'splines' not in self._cache:
            from scipy.interpolate import RectBivariateSpline

            ys, xs = (
                np.linspace(0, size - 1, n)
                for size, n in zip(FRAME_SHAPE, _NODES, strict=True)
            )
            start = self._central_fit.theta
            theta = np.array(
                [
                    [self._fit_frame(x, y, start, _NODE_WIDTH).theta for x in xs]
                    for y in ys
                ]
            )
            self._cache['splines'] = [
                RectBivariateSpline(ys, xs, theta[..., k]) for k in range(8)
            ]
        return self._cache['splines']

    def _fit_frame(self, frame_x, frame_y, mean, width):
        """Fit the KL sum at a place of the frame, under a prior of theta."""
        stamp, use = _core(self._kl_frame(frame_x, frame_y))
        middle = (stamp.shape[2] - 1) / 2
        fit = StampFit(
            np.array(mean, float),
            np.array([[0.0, middle, middle, 0.0]]),
            prior_mean=mean,
            prior_width=width,
            radius=self.normalization_radius,
        )
        height = _peaks(stamp, ~use)
        fit.local[0, 0] = height[0] * integral(fit.shape, fit.radius)
        for turn in range(_N_ROUNDS):
            model = fit.model(stamp.shape[1:])
            variance = _variance_from_scatter(stamp, model, ~use, height, turn)
            weights = np.where(use, 1 / np.sqrt(variance), 0.0)
            minimise(fit, stamp, weights, with_background=False)
        return fit

    def _fit_here(self, x, y):
        """Fit the KL sum at a place of the image, starting from the centre's fit."""
        return self._fit_frame(*self._frame(x, y), self._central_fit.theta, _NODE_WIDTH)

    def _kl_frame(self, frame_x, frame_y):
        """Sum the eigen-images at a place of the frame."""
        column = (frame_x + _KL_ORIGIN) * _KL_SCALE
        row = (frame_y + _KL_ORIGIN) * _KL_SCALE
        total = np.zeros(self._images.shape[1:])
        for image, c in zip(self._images, self._coefficients, strict=True):
            total += np.polynomial.polynomial.polyval2d(row, column, c) * image
        if not total.max() > 0:
            msg = (
                f'psfield has no PSF in band {self.band}: its eigen-images sum to '
                f'nothing positive at x={frame_x:.0f}, y={frame_y:.0f} of the frame'
            )
            raise ValueError(msg)
        return total

    def _frame(self, x, y):
        """Map places on the image to the nearest ones on the frame."""
        mapped = []
        for name, value, origin, size in zip(
            'xy', (x, y), self.origin, FRAME_SHAPE[::-1], strict=True
        ):
            value = np.asarray(value, float)
            if not np.all(np.isfinite(value)):
                msg = f'{name} must be finite, got {value}'
                raise ValueError(msg)
            mapped.append(np.clip(value + origin, 0, size - 1))
        return mapped


def _read(psfield, band):
    """Read a ``psField`` file where it is not read yet, and check the band."""
    if not isinstance(band, str) or band not in BANDS:
        msg = f"band must be one of 'u', 'g', 'r', 'i', 'z', got {band!r}"
        raise ValueError(msg)
    if isinstance(psfield, str | os.PathLike | HDUList):
        return PsField.read(psfield)
    return psfield


def _core(image):
    """Cut out what of a KL sum is fitted: a stamp (1, n, n) and which pixels."""
    middle, reach = image.shape[0] // 2, int(_KL_REACH)
    cut = slice(middle - reach, middle + reach + 1)
    stamp = image[cut, cut]
    yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return stamp[None], (np.hypot(xx, yy) <= _KL_REACH)[None]


def analytic_shape(psfield, band):
    """Read psField's own fit; returns its shape and whether its wing is a real one."""
    psfield = _read(psfield, band)
    k = BANDS.index(band)
    shape = np.zeros(8)
    for j, name in enumerate(SHAPE_NAMES[:6]):
        shape[j] = np.asarray(getattr(psfield, f'psf_{name}'), float)[k]
    s1, s2, b, sp, p0, beta = shape[:6]
    values = ', '.join(
        f'{name}={value:g}' for name, value in zip(SHAPE_NAMES, shape[:6], strict=False)
    )
    good = np.all(np.isfinite(shape)) and min(s1, s2, sp, beta) > 0 and min(b, p0) >= 0
    if not good:
        msg = f'psfield has no usable PSF in band {band}: {values}'
        raise ValueError(msg)
    trouble = []
    if beta == _DEFAULT_BETA or p0 <= _DEFAULT_P0:
        trouble.append('its power-law wing was not fitted')
    if beta >= _LARGEST_BETA:
        trouble.append('the slope of its wing ran into its limit')
    if b > 1:
        trouble.append('its second Gaussian is higher than its first')
    if trouble:
        msg = (
            f'the PSF of band {band} in psfield holds default or runaway values, as '
            f'{" and ".join(trouble)} ({values})'
        )
        warn(msg, OutOfDomainWarning)
    return shape, not trouble


def _eigen_images(psfield, band):
    """Read the eigen-images (n, 51, 51) and the polynomials of their coefficients."""
    record = psfield.kl.get(band)
    images = np.asarray(() if record is None else record.rrows, float)
    if images.ndim != 3 or len(images) == 0 or images.shape[1] != images.shape[2]:
        msg = f'psfield has no eigen-images in band {band}, got shape {images.shape}'
        raise ValueError(msg)
    if not all(np.isfinite(each).all() for each in (images, *record.coeff)):
        msg = (
            f'psfield has eigen-images or coefficients that are not finite, band {band}'
        )
        raise ValueError(msg)
    return images, record.coeff


def psf_model(
    psfield,
    band,
    *,
    x=None,
    y=None,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
):
    """Return the PSF of a field or of a place; see `PSFModel.from_sdss`."""
    if (x is None) != (y is None):
        msg = f'x and y must be given together, got x={x}, y={y}'
        raise ValueError(msg)
    if x is None:
        shape, _ = analytic_shape(psfield, band)
        return PSFModel.from_shape(shape, normalization_radius=normalization_radius)
    field = SDSSPSF(psfield, band, normalization_radius=normalization_radius)
    return field.fit_at(x, y)


def _read_open(hdus, name, *, band, normalization_radius):
    """Read the PSF of one band of an open ``psField`` file."""
    if band is None:
        msg = f'psf: {name} is a psField with five bands: give band'
        raise ValueError(msg)
    return SDSSPSF(hdus, band, normalization_radius=normalization_radius)


# Five eigen-image tables and the table of parameters.
SURVEY_READERS.append((lambda hdus: len(hdus) > 6 and not hdus[1].is_image, _read_open))
