# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The point-spread function of a field of the Sloan Digital Sky Survey.

A ``psField`` file describes it twice: as one circular ``PSFModel`` for the
whole field, and as a sum of eigen-images (Karhunen-Loeve, KL) whose
coefficients are polynomials of the position on the frame. The second has the
shape of the core at each place, but ends 15 px from the centre and has lost its
faint wing to the sky subtraction before that; the first has the wing.
"""

import os

import numpy as np
from astropy.io.fits import HDUList

from bliss_astro._arguments import check_choice, require
from bliss_astro._warnings import OutOfDomainWarning, warn
from bliss_astro.psf import PSFModel, VaryingPSF
from bliss_astro.psf._joint_fit import StampFit, fit_image, peaks
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, SHAPE_NAMES
from bliss_astro.psf._profile import check_radius, integral, unit_profile
from bliss_astro.psf._read import READERS
from bliss_astro.psf._varying import NodeSplines
from bliss_astro.psf._wing_prior import PRIOR_MEAN, to_shape, to_theta

from ._camera import BANDS, FRAME_SHAPE
from ._fields import PsField

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


class SDSSPSF(VaryingPSF):
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
    bliss_astro.psf.PSFModel : The PSF of one place.

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

    @property
    def middle(self):
        """Middle (x, y) of the frame in pixels of the image."""
        rows, columns = FRAME_SHAPE
        return (columns - 1) / 2 - self.origin[0], (rows - 1) / 2 - self.origin[1]

    def shape_grid(self, xs, ys):
        """Return the shapes on a grid, from fits at nodes; see ``VaryingPSF``."""
        xs, ys = self._frame(np.atleast_1d(xs), np.atleast_1d(ys))
        return to_shape(self._splines(xs, ys)[..., :8])

    def shapes_at(self, x, y):
        """Return the shapes at n places; see ``VaryingPSF``."""
        return to_shape(self._splines.at(*self._frame(x, y))[..., :8])

    @property
    def _splines(self):
        """Fitted vectors and fluxes between the nodes."""
        if 'splines' not in self._cache:
            ys, xs = map(np.linspace, (0, 0), np.subtract(FRAME_SHAPE, 1), _NODES)
            fit, _ = self._fit_nodes(*np.meshgrid(xs, ys))
            values = np.concatenate([fit.theta, fit.local[..., 0, :1]], axis=-1)
            self._cache['splines'] = NodeSplines(xs, ys, values)
        return self._cache['splines']

    def fit_at(self, x, y):
        """
        Fit the model to the eigen-images' sum at a place.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image.

        Returns
        -------
        psf : `~bliss_astro.psf.PSFModel`
            The model, of unit flux, at ``x_0 = x`` and ``y_0 = y``. Its
            ``fit_info['residual']`` is the rms difference from the
            eigen-images' sum within 10 pixels, in units of the peak, and
            ``offset`` the sum's own centroid.
        """
        fit, residual = self._fit_nodes(*self._frame(x, y))
        psf = PSFModel.from_shape(
            fit.shape,
            x_0=float(x),
            y_0=float(y),
            normalization_radius=self.normalization_radius,
        )
        psf.fit_info = {
            'residual': float(residual),
            'converged': bool(fit.converged),
            'offset': tuple(fit.local[0, 1:3] - int(_KL_REACH)),
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

    def image(self, x, y):
        """
        Reconstruct an image of the PSF at a place.

        The sum of eigen-images is continued beyond 10 pixels with the wing of the
        model fitted to it, which the sum lacks.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image.

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
        *theta, flux = self._splines(*self._frame([x], [y]))[0, 0]
        model = flux * unit_profile(xx, yy, to_shape(theta), self.normalization_radius)
        share = np.clip((_KL_END - radius) / (_KL_END - _KL_REACH), 0, 1)
        image = share * total + (1 - share) * model
        # What the sum has more or less than the model is part of its flux.
        return image / (flux + np.sum(share * (total - model)))

    def _fit_nodes(self, frame_x, frame_y):
        """Fit the KL sum at places of the frame, near the fit of the middle."""
        if 'theta' not in self._cache:
            # The middle has psField's own wing, where that was fitted.
            mean = to_theta(self._analytic) if self._wing_is_known else PRIOR_MEAN
            middle = [(n - 1) / 2 for n in FRAME_SHAPE[::-1]]
            fit, _ = self._fit_frame(*middle, mean, _WING_WIDTH)
            self._cache['theta'] = fit.theta
        return self._fit_frame(frame_x, frame_y, self._cache['theta'], _NODE_WIDTH)

    def _fit_frame(self, frame_x, frame_y, mean, width):
        """Fit the KL sums of places (...) under a prior of theta; also residuals."""
        images, reach = self._kl_frame(frame_x, frame_y), int(_KL_REACH)
        cut = slice(images.shape[-1] // 2 - reach, images.shape[-1] // 2 + reach + 1)
        stamps, middle = images[..., None, cut, cut], float(reach)
        yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        bad = np.broadcast_to(np.hypot(xx, yy) > _KL_REACH, stamps.shape)
        fit = StampFit(
            np.tile(mean, (*stamps.shape[:-3], 1)),
            np.tile([0.0, middle, middle, 0.0], (*stamps.shape[:-2], 1)),
            prior_mean=mean,
            prior_width=width,
            radius=self.normalization_radius,
        )
        flux = integral(to_shape(mean), fit.radius) * peaks(stamps, bad)
        fit.local[..., 0] = flux
        return fit, fit_image(fit, stamps, bad, near=True)

    def _kl_frame(self, frame_x, frame_y):
        """Sum the eigen-images at places (...) of the frame."""
        column = (frame_x + _KL_ORIGIN) * _KL_SCALE
        row = (frame_y + _KL_ORIGIN) * _KL_SCALE
        terms = [
            np.polynomial.polynomial.polyval2d(row, column, c)
            for c in self._coefficients
        ]
        total = np.tensordot(terms, self._images, (0, 0))
        dark = ~(total.max((-2, -1)) > 0)
        if dark.any():
            x, y = (np.asarray(v)[dark] for v in (frame_x, frame_y))
            msg = (
                f'psfield has no PSF in band {self.band}: its eigen-images sum to '
                f'nothing positive at x={x[0]:.0f}, y={y[0]:.0f} of the frame'
            )
            raise ValueError(msg)
        return total

    def _frame(self, x, y):
        """Map places on the image to the nearest ones on the frame."""
        mapped = []
        for name, value, origin, n in zip(
            'xy', (x, y), self.origin, FRAME_SHAPE[::-1], strict=True
        ):
            require(np.all(np.isfinite(value)), name, 'be finite', value)
            mapped.append(np.clip(np.add(value, origin), 0, n - 1))
        return mapped


def _read(psfield, band):
    """Read a ``psField`` file where it is not read yet, and check the band."""
    check_choice('band', band, tuple(BANDS))
    if isinstance(psfield, str | os.PathLike | HDUList):
        return PsField.read(psfield)
    return psfield


def analytic_shape(psfield, band):
    """Read psField's own fit; returns its shape and whether its wing is a real one."""
    psfield = _read(psfield, band)
    k, names = BANDS.index(band), SHAPE_NAMES[:6]
    numbers = [np.asarray(getattr(psfield, f'psf_{name}'), float)[k] for name in names]
    shape = np.array([*numbers, 0.0, 0.0])
    s1, s2, b, sp, p0, beta = numbers
    values = ', '.join(map('{}={:g}'.format, names, numbers))
    good = np.all(np.isfinite(shape)) and min(s1, s2, sp, beta) > 0 and min(b, p0) >= 0
    if not good:
        raise ValueError(f'psfield has no usable PSF in band {band}: {values}')
    faults = {
        'its power-law wing was not fitted': beta == _DEFAULT_BETA or p0 <= _DEFAULT_P0,
        'the slope of its wing ran into its limit': beta >= _LARGEST_BETA,
        'its second Gaussian is higher than its first': b > 1,
    }
    trouble = ' and '.join(fault for fault, found in faults.items() if found)
    if trouble:
        msg = (
            f'the PSF of band {band} in psfield holds default or runaway values, as '
            f'{trouble} ({values})'
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
        raise ValueError(f'psfield has eigen-images that are not finite in band {band}')
    return images, record.coeff


def psf_model(
    psfield, band, *, x=None, y=None, normalization_radius=DEFAULT_NORMALIZATION_RADIUS
):
    """Return the PSF of a field or of a place; see `PSFModel.from_sdss`."""
    sound = (x is None) == (y is None)
    require(sound, 'x and y', 'be given together', f'x={x}, y={y}')
    if x is None:
        shape, _ = analytic_shape(psfield, band)
        return PSFModel.from_shape(shape, normalization_radius=normalization_radius)
    field = SDSSPSF(psfield, band, normalization_radius=normalization_radius)
    return field.fit_at(x, y)


def _read_open(hdus, name, *, band, normalization_radius):
    """Read the PSF of one band of an open ``psField`` file; of another file `None`."""
    # Five eigen-image tables and the table of parameters.
    if len(hdus) <= 6 or hdus[1].is_image:
        return None
    if band is None:
        raise ValueError(f'psf: {name} is a psField with five bands: give band')
    return SDSSPSF(hdus, band, normalization_radius=normalization_radius)


READERS.append(_read_open)
