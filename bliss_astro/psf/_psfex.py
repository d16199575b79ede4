# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSF models of PSFEx, which vary over the image as polynomials.
"""

import numpy as np

from bliss_astro._messages import first_wrong

from ._checks import check_radius
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._phases import PHASES, fit_phases, fit_residual
from ._varying import VariablePSF

__all__ = ['PSFExPSF', 'read_psfex']

# Side of the drawings, and nodes along an axis at which the model is fitted.
_SIDE, _NODES = 31, 3
# Order of the splines that interpolate the samples; PSFEx's own are Lanczos-4.
_ORDER = 5
# PSFEx counts pixels from 1.
_FIRST = 1.0


class PSFExPSF(VariablePSF):
    """
    A PSF model of PSFEx: images whose weights are polynomials of the position.

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
        Of the polynomial.

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
        _check_basis(self)
        self._cache = {}

    def __repr__(self):
        return f'<PSFExPSF(degree={self.degree}, sampling={self.sampling:g})>'

    @property
    def fwhm(self):
        """Full width at half maximum in pixels in the middle of the image."""
        x, y = (z - _FIRST - o for z, o in zip(self.zero, self.origin, strict=True))
        return self.at(x, y).fwhm

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
        u, v = self._scaled(x + self.origin[0], y + self.origin[1])
        terms = [u**i * v**j for i, j in _powers(self.degree)]
        return np.tensordot(terms, self.basis, 1)

    def image(self, x, y, *, offset=(0.0, 0.0), side=_SIDE):
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
            samples, places / self.sampling + middle, order=_ORDER, mode='constant'
        )
        if not image.sum() > 0:
            msg = f'psf: the PSFEx model has no positive flux at x={x:.0f}, y={y:.0f}'
            raise ValueError(msg)
        return image / image.sum()

    def at(self, x, y):
        """
        Return the model at a place, interpolated between fits on a grid.

        Parameters
        ----------
        x, y : float
            Position in pixels of the image, from 0.

        Returns
        -------
        psf : `PSFModel`
            The model, of unit flux, at ``x_0 = x`` and ``y_0 = y``; its
            ``fit_info['residual']`` is that of the fit in the middle.
        """
        psf = super().at(x, y)
        psf.fit_info = {'residual': self._cache['residual']}
        return psf

    def shape_grid(self, xs, ys):
        """
        Return the shapes on a grid of places.

        Parameters
        ----------
        xs, ys : 1D array
            Columns and rows in pixels of the image, from 0.

        Returns
        -------
        shapes : (len(ys), len(xs), 8) array
            Shape vectors.
        """
        from scipy.interpolate import RectBivariateSpline

        from ._engine import to_shape

        if 'theta' not in self._cache:
            self._fit_nodes()
        theta = self._cache['theta']
        u, v = self._scaled(
            np.atleast_1d(xs) + self.origin[0], np.atleast_1d(ys) + self.origin[1]
        )
        nodes, order = np.linspace(-0.5, 0.5, _NODES), _NODES - 1
        # Splines want their arguments sorted.
        u, order_u = np.unique(u, return_inverse=True)
        v, order_v = np.unique(v, return_inverse=True)
        values = [
            RectBivariateSpline(nodes, nodes, theta[..., k], kx=order, ky=order)(v, u)
            for k in range(8)
        ]
        return to_shape(np.stack(values, axis=-1))[order_v][:, order_u]

    def _scaled(self, x, y):
        """Map places to the argument of the polynomial, held to where it is known."""
        u = (np.asarray(x, float) + _FIRST - self.zero[0]) / self.scale[0]
        v = (np.asarray(y, float) + _FIRST - self.zero[1]) / self.scale[1]
        return np.clip(u, -0.5, 0.5), np.clip(v, -0.5, 0.5)

    def _fit_nodes(self):
        """Fit the model at the nodes, each beginning with the middle's fit."""
        middle = [z - _FIRST for z in self.zero]
        fit = self._fit_at(*middle)
        theta = np.empty((_NODES, _NODES, 8))
        nodes = np.linspace(-0.5, 0.5, _NODES)
        if self.degree == 0:
            theta[:] = fit.theta
            self._cache['theta'] = theta
            return
        for j, v in enumerate(nodes):
            for i, u in enumerate(nodes):
                x, y = middle[0] + u * self.scale[0], middle[1] + v * self.scale[1]
                theta[j, i] = self._fit_at(x, y, start=fit.shape).theta
        self._cache['theta'] = theta

    def _fit_at(self, x, y, start=None):
        """Fit the model at a place of the image that PSFEx saw, from 0."""
        x, y = x - self.origin[0], y - self.origin[1]
        stamps = np.stack([self.image(x, y, offset=phase) for phase in PHASES])
        fit = fit_phases(stamps, radius=self.normalization_radius, start=start)
        if start is None:
            self._cache['residual'] = fit_residual(fit, stamps)
        return fit


def read_psfex(path, *, normalization_radius=DEFAULT_NORMALIZATION_RADIUS):
    """
    Read a PSF model of PSFEx.

    Parameters
    ----------
    path : str, path or `~astropy.io.fits.HDUList`
        A ``.psf`` file, or a table of one row with the same numbers in columns, as
        the Legacy Surveys write them.

    normalization_radius : float, optional
        Radius in pixels within which the PSF has unit flux.

    Returns
    -------
    psf : `PSFExPSF`
        The PSF, which varies over the image. Positions are counted from 0.

    Raises
    ------
    OSError
        If the file is absent or no FITS file.

    ValueError
        If it holds no PSFEx model, or one that varies with more than x and y.
    """
    from astropy.io import fits

    if isinstance(path, fits.HDUList):
        return _of_hdus(path, 'the HDUList', normalization_radius)
    try:
        with fits.open(path) as hdus:
            return _of_hdus(hdus, path, normalization_radius)
    except (TypeError, KeyError, IndexError) as error:
        msg = f'{path} is no sound PSFEx file: {error}'
        raise ValueError(msg) from error


def has_psfex(hdus):
    """
    Whether one of the HDUs holds a PSFEx model.
    """
    return _table(hdus) is not None


def _table(hdus):
    for hdu in hdus:
        columns = getattr(hdu, 'columns', None)
        if columns is not None and 'psf_mask' in [n.lower() for n in columns.names]:
            return hdu
    return None


def _of_hdus(hdus, name, radius):
    """Make the PSF of the table in a file."""
    hdu = _table(hdus)
    if hdu is None:
        msg = f'{name} holds no PSFEx model: no table has a column PSF_MASK'
        raise ValueError(msg)
    columns = {n.lower(): n for n in hdu.columns.names}

    def card(key, default=None):
        if key.lower() in columns:
            return hdu.data[columns[key.lower()]][0]
        value = hdu.header.get(key, default)
        if value is None:
            msg = f'{name} lacks the card {key} of a PSFEx model'
            raise ValueError(msg)
        return value

    basis = np.array(hdu.data[columns['psf_mask']][0], float)
    # Tables that were copied by hand may have kept the terms, but not the sides.
    n_terms = int(card('PSFAXIS3', 0)) or (basis.shape[0] if basis.ndim == 3 else 1)
    n_axes = int(card('POLNAXIS', 0 if n_terms == 1 else 2))
    if n_axes not in (0, 2):
        msg = f'{name}: the PSF varies with {n_axes} quantities; x and y are known'
        raise ValueError(msg)
    side = round((basis.size / n_terms) ** 0.5)
    rows = int(card('PSFAXIS2', side))
    basis = basis.reshape(n_terms, rows, -1)
    degree = int(card('POLDEG1', 0)) if n_axes else 0
    zero = [float(card(f'POLZERO{k}', 1.0 if not n_axes else None)) for k in (1, 2)]
    scale = [float(card(f'POLSCAL{k}', 1.0 if not n_axes else None)) for k in (1, 2)]
    try:
        return PSFExPSF(
            basis,
            float(card('PSF_SAMP')),
            zero,
            scale,
            degree,
            normalization_radius=radius,
        )
    except ValueError as error:
        msg = f'{name}: {error}'
        raise ValueError(msg) from error


def _powers(degree):
    """Powers (of x, of y) of the terms in PSFEx's order."""
    return [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]


def _check_basis(psf):
    """Raise where the numbers of a model make no PSF."""
    n_terms = len(_powers(psf.degree))
    if psf.basis.ndim != 3 or len(psf.basis) != n_terms:
        msg = (
            f'basis must hold {n_terms} images for a polynomial of degree '
            f'{psf.degree}, got shape {psf.basis.shape}'
        )
        raise ValueError(msg)
    for name in ('basis', 'sampling', 'zero', 'scale'):
        values = np.asarray(getattr(psf, name), float)
        if not np.isfinite(values).all():
            wrong = first_wrong(values, np.isfinite(values))
            msg = f'{name} must be finite, got {wrong}'
            raise ValueError(msg)
    if not (psf.sampling > 0 and min(psf.scale) > 0 and psf.basis[0].sum() > 0):
        msg = (
            'sampling, scale and the flux of the first image must be positive, got '
            f'{psf.sampling:g}, {min(psf.scale):g} and {psf.basis[0].sum():g}'
        )
        raise ValueError(msg)
