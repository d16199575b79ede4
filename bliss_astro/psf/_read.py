# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reader of PSFs of every kind, and PSFEx's that vary as polynomials of the position.
"""

import os

import astropy.units as u
import numpy as np
from astropy.io.fits import ColDefs, HDUList

from bliss_astro._arguments import check_integer, first_wrong, must, require
from bliss_astro._fits import file_name, find_image, image_plane, open_fits
from bliss_astro._lazy import load_surveys

from ._fit import PHASES, check_psf_pixels, fit_phases
from ._kinds import kind_of
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._model import PSFModel
from ._profile import check_radius, value_of
from ._varying import NodeSplines, VaryingPSF
from ._wing_prior import to_shape

# Side of drawings of PSFEx's PSFs in pixels, and nodes along an axis of fits to them.
_DRAWING_SIDE, _N_NODES = 31, 3
_SPLINE_ORDER = 5  # of the interpolation of the samples; PSFEx's own is Lanczos-4
_FIRST_PIXEL = 1.0  # of PSFEx

# Cards that state the samples per pixel of an image of a PSF, the first one counts:
# STPSF (WebbPSF) and TinyTim-like files.
_OVERSAMPLING = ('DET_SAMP', 'OVERSAMP', 'OVERSAMPLE', 'OSAMP')
# More samples than that along a pixel are a mistake.
_MAX_OVERSAMPLING = 100


def read_psf(
    psf,
    *,
    oversampling=None,
    pixel_response=None,
    band=None,
    extension=None,
    normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
):
    """
    Read or make a PSF of a file, a width, an image or a model.

    Parameters
    ----------
    psf : str, path, `~astropy.io.fits.HDUList`, number, array, model or PSF
        A FITS file: a model of PSFEx, a ``psField`` of SDSS, or an image of the PSF.
        A number or length in pixels: a FWHM, see `PSFModel.from_fwhm`. A 2D array:
        an image of the PSF. A model of photutils (``ImagePSF``, ``GriddedPSFModel``
        and the like) or astropy, or a PSF of this package, is returned as it is.

    oversampling : int, optional
        Samples per pixel of an image, at most 100; of a file, by default that of its
        cards ``DET_SAMP`` or ``OVERSAMP``, of an array 1.

    pixel_response : bool, optional
        Whether the samples of an oversampled image contain the integration over a
        pixel, as effective PSFs of photutils do. By default only those of a file that
        states its oversampling, as of STPSF, do not, and are averaged over the pixel.

    band : {'u', 'g', 'r', 'i', 'z'}, optional
        The band of a ``psField``.

    extension : int or str, optional
        The extension of an image; by default the first one that holds one.

    normalization_radius : float, optional
        Radius in pixels within which a PSF that is made here has unit flux.

    Returns
    -------
    psf : object
        A ``psf`` of `~bliss_astro.exposures.Exposure`: a `PSFModel`, `PSFExPSF`,
        `~bliss_astro.surveys.sdss.SDSSPSF`, model of photutils or astropy, or an image.

    Raises
    ------
    OSError
        If the file is absent, damaged or no FITS file.

    TypeError, ValueError
        If it describes no PSF; the message lists what can be given.
    """
    radius = {'normalization_radius': normalization_radius}
    number = np.ndim(psf) == 0 and isinstance(psf, (int, float, np.number))
    if number or (isinstance(psf, u.Quantity) and not psf.ndim):
        return PSFModel.from_fwhm(psf, **radius)
    if not isinstance(psf, str | os.PathLike | HDUList):
        if isinstance(psf, np.ndarray | list | tuple):
            return _of_image(psf, oversampling, pixel_response is not False, 'psf')
        if kind_of(psf) is not None:
            if oversampling is not None:
                msg = 'oversampling belongs to an image of a PSF; a model has its own'
                raise ValueError(msg)
            return psf
        allowed = (
            'be a FITS file (of PSFEx, a psField or an image), a FWHM in pixels, an '
            'image, or a model of photutils or astropy'
        )
        raise TypeError(must('psf', allowed, type(psf).__name__))
    load_surveys()
    name = file_name(psf)
    try:
        with open_fits(psf, 'psf') as hdus:
            for read in READERS if extension is None else ():
                found = read(hdus, name, band=band, **radius)
                if found is not None:
                    return found
            wanted = 'image of a PSF, psField or PSFEx model'
            hdu = find_image(hdus, extension, 'psf', wanted)
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f'psf: {name} is no sound file of a PSF: {error}') from error
    stated = next((hdu.header[k] for k in _OVERSAMPLING if k in hdu.header), None)
    if pixel_response is None:
        pixel_response = oversampling is not None or stated is None
    oversampling = stated if oversampling is None else oversampling
    data = image_plane(hdu)
    return _of_image(data, oversampling, pixel_response, f'psf: the image of {name}')


def _of_image(image, oversampling, pixel_response, name):
    """Check an image; one that is oversampled becomes a model of photutils."""
    image = np.asarray(value_of(image), float)
    n = 1 if oversampling is None else oversampling
    n = check_integer('oversampling', n, 1, _MAX_OVERSAMPLING, error=ValueError)
    check_psf_pixels(image, name)
    if n == 1:
        return image
    from photutils.psf import ImagePSF
    from scipy.ndimage import convolve1d

    n = int(n)
    if not pixel_response:
        # The average of n samples, half at either end where n is even.
        kernel = np.ones(n + 1 - n % 2)
        kernel[[0, -1]] = 1.0 if n % 2 else 0.5
        for axis in (0, 1):
            image = convolve1d(image, kernel / kernel.sum(), axis=axis, mode='constant')
    # Each sample stands for a share of a pixel.
    return ImagePSF(image * (n**2 / image.sum()), oversampling=n)


# -- PSFEx -----------------------------------------------------------------------------


class PSFExPSF(VaryingPSF):
    """
    A PSF model of PSFEx: images whose weights are polynomials of the position.

    Beyond half a ``scale`` from ``zero``, the field that PSFEx fitted, the PSF is that
    of the nearest place within.

    Parameters
    ----------
    basis : (n, rows, columns) array
        Images of the polynomial's terms, in PSFEx's order: powers of x run fastest,
        and the sum of the powers is no more than the degree.

    sampling : float
        Step of the images in pixels (``PSF_SAMP``).

    zero, scale : pair of float
        Offset and scale of x and y in the polynomial, counted from 1.

    degree : int
        Degree of the polynomial.

    origin : (x, y), optional
        Position on the image that the model was made for of pixel (0, 0) of the
        image at hand.

    normalization_radius : float, optional
        Radius in pixels within which the PSF has unit flux.

    References
    ----------
    .. [1] Bertin, E. 2011, "Automated Morphometry with SExtractor and PSFEx",
       ASP Conf. Ser. 442, 435
    """

    def __init__(
        self,
        basis,
        sampling,
        zero,
        scale,
        degree,
        *,
        origin=(0.0, 0.0),
        normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
    ):
        self.basis = np.asarray(basis, float)
        self.sampling, self.degree = float(sampling), int(degree)
        self.zero = tuple(float(v) for v in zero)
        self.scale = tuple(float(v) for v in scale)
        self.origin = tuple(float(v) for v in origin)
        self.normalization_radius = check_radius(normalization_radius)
        n = self.degree + 1
        # Powers (of x, of y) of the terms in PSFEx's order.
        self._powers = [(i, j) for j in range(n) for i in range(n - j)]
        self._cache = {}
        good = self.basis.ndim == 3 and len(self.basis) == len(self._powers)
        allowed = f'hold {len(self._powers)} images for degree {self.degree}'
        require(good, 'basis', allowed, f'shape {self.basis.shape}')
        for name in ('basis', 'sampling', 'zero', 'scale'):
            values, finite = getattr(self, name), np.isfinite(getattr(self, name))
            require(np.all(finite), name, 'be finite', first_wrong(values, finite))
        least = min(self.sampling, *self.scale, self.basis[0].sum())
        name = 'sampling, scale and the flux of the first image'
        require(least > 0, name, 'be positive', f'{least:g}')

    def __repr__(self):
        return f'<PSFExPSF(degree={self.degree}, sampling={self.sampling:g})>'

    @property
    def middle(self):
        """Origin (x, y) of the polynomial in pixels of the image."""
        zero = zip(self.zero, self.origin, strict=True)
        return tuple(z - _FIRST_PIXEL - o for z, o in zero)

    def samples(self, x, y):
        """
        Return the samples of the PSF at a place, as the file has them.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image, from 0.

        Returns
        -------
        image : (rows, columns) array
            In steps of ``sampling`` pixels.
        """
        u, v = self._scaled(x, y)
        terms = [u**i * v**j for i, j in self._powers]
        return np.tensordot(terms, self.basis, 1)

    def image(self, x, y, *, offset=(0.0, 0.0), side=_DRAWING_SIDE):
        """
        Draw the PSF at a place on pixels.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image, from 0.

        offset : (dx, dy), optional
            Place of the centre relative to that of the middle pixel.

        side : int, optional
            Side of the drawing, odd.

        Returns
        -------
        image : (side, side) array
            The PSF, of unit sum.
        """
        from scipy.ndimage import map_coordinates

        samples = self.samples(x, y)
        half = side // 2
        places = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
        places -= np.array(offset, float)[::-1, None, None]
        middle = np.array(samples.shape)[:, None, None] // 2
        image = map_coordinates(
            samples,
            places / self.sampling + middle,
            order=_SPLINE_ORDER,
            mode='constant',
        )
        if not image.sum() > 0:
            msg = f'psf: the PSFEx model has no positive flux at x={x:.0f}, y={y:.0f}'
            raise ValueError(msg)
        return image / image.sum()

    def _stamps(self, x, y):
        return [self.image(x, y, offset=phase) for phase in PHASES], PHASES

    def at(self, x, y):
        """Return the model at a place; see `VaryingPSF.at`."""
        psf = super().at(x, y)
        psf.fit_info = {'residual': self._fits()['residual']}
        return psf

    def shape_grid(self, xs, ys):
        """Return the shapes on a grid, from fits at nodes; see `VaryingPSF`."""
        places = self._scaled(np.atleast_1d(xs), np.atleast_1d(ys))
        return to_shape(self._fits()['splines'](*places))

    def _fits(self):
        """``splines`` of fits at nodes, ``residual`` of that in the middle (dict)."""
        # Parts of the image share the dict, and so the fits.
        if not self._cache:
            # Each fit begins with that of the middle.
            fit, residual = self._fit_at(0.0, 0.0)
            theta = np.broadcast_to(fit.theta, (_N_NODES, _N_NODES, 8)).copy()
            nodes = np.linspace(-0.5, 0.5, _N_NODES)
            for j, i in np.ndindex(theta.shape[:2] if self.degree else (0, 0)):
                theta[j, i] = self._fit_at(nodes[i], nodes[j], fit.shape)[0].theta
            splines = NodeSplines(nodes, nodes, theta)
            self._cache.update(splines=splines, residual=residual)
        return self._cache

    def _scaled(self, x, y):
        """Map places of the image to the argument of the polynomial, within +-0.5."""
        return [
            np.clip((np.asarray(v, float) + o + _FIRST_PIXEL - zero) / scale, -0.5, 0.5)
            for v, o, zero, scale in zip(
                (x, y), self.origin, self.zero, self.scale, strict=True
            )
        ]

    def _fit_at(self, u, v, start=None):
        """Fit the model at an argument of the polynomial; the fit and its residual."""
        x, y = np.array(self.middle) + np.array(self.scale) * (u, v)
        stamps = np.stack([self.image(x, y, offset=phase) for phase in PHASES])
        return fit_phases(stamps, radius=self.normalization_radius, start=start)


def read_psfex(hdus, name, *, band=None, normalization_radius):
    """Read a PSF model of PSFEx, or return `None` where an open file is none."""
    for hdu in hdus:
        columns = {n.lower(): n for n in getattr(hdu, 'columns', ColDefs([])).names}
        if 'psf_mask' in columns:
            break
    else:
        return None

    # The Legacy Surveys write the cards as columns of a table of one row.
    def card(key, default=None):
        if key.lower() in columns:
            return hdu.data[columns[key.lower()]][0]
        value = hdu.header.get(key, default)
        if value is None:
            raise ValueError(f'{name} lacks the card {key} of a PSFEx model')
        return value

    basis = np.array(card('psf_mask'), float)
    # Tables that were copied by hand may have kept the terms, but not the sides.
    n_terms = int(card('PSFAXIS3', 0)) or (basis.shape[0] if basis.ndim == 3 else 1)
    n_axes = int(card('POLNAXIS', 0 if n_terms == 1 else 2))
    if n_axes not in (0, 2):
        msg = f'{name}: the PSF varies with {n_axes} quantities; x and y are known'
        raise ValueError(msg)
    rows = int(card('PSFAXIS2', round((basis.size / n_terms) ** 0.5)))
    unset = None if n_axes else 1.0
    zero, scale = (
        [float(card(f'{key}{k}', unset)) for k in (1, 2)]
        for key in ('POLZERO', 'POLSCAL')
    )
    try:
        return PSFExPSF(
            basis.reshape(n_terms, rows, -1),
            float(card('PSF_SAMP')),
            zero,
            scale,
            int(card('POLDEG1', 0)) if n_axes else 0,
            normalization_radius=normalization_radius,
        )
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error


# Formats of FITS files that are no image: functions of the open file, its name, band
# and normalization_radius that return a `VaryingPSF`, a photutils `GriddedPSFModel`
# (images at nodes) or an image, or `None` where the file is of another format. The
# first that returns a PSF wins. Plug-ins of surveys add theirs.
READERS = [read_psfex]
