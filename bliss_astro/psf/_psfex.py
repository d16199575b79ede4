# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFEx: PSFs that vary as polynomials of the position, and their files.
"""

import numpy as np
from astropy.io.fits import ColDefs

from .._arguments import first_wrong
from ._fit import PHASES, fit_phases
from ._mixture import DEFAULT_NORMALIZATION_RADIUS
from ._profile import check_radius
from ._varying import ShapeSplines, VaryingPSF

# Side of drawings in pixels, and nodes along an axis of fits to them.
_DRAWING_SIDE, _N_NODES = 31, 3
_SPLINE_ORDER = 5  # of the interpolation of the samples; PSFEx's own is Lanczos-4
_FIRST_PIXEL = 1.0  # of PSFEx


class PSFExPSF(VaryingPSF):
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
        self._check()
        self._cache = {}

    def _check(self):
        """Raise where the numbers of the model make no PSF."""
        n_terms = len(self._powers())
        if self.basis.ndim != 3 or len(self.basis) != n_terms:
            msg = (
                f'basis must hold {n_terms} images for a polynomial of degree '
                f'{self.degree}, got shape {self.basis.shape}'
            )
            raise ValueError(msg)
        for name in ('basis', 'sampling', 'zero', 'scale'):
            finite = np.isfinite(getattr(self, name))
            if not np.all(finite):
                wrong = first_wrong(getattr(self, name), finite)
                msg = f'{name} must be finite, got {wrong}'
                raise ValueError(msg)
        least = min(self.sampling, *self.scale, self.basis[0].sum())
        if not least > 0:
            msg = (
                'sampling, scale and the flux of the first image must be positive, '
                f'got {least:g}'
            )
            raise ValueError(msg)

    def _powers(self):
        """Powers (of x, of y) of the terms in PSFEx's order."""
        n = self.degree + 1
        return [(i, j) for j in range(n) for i in range(n - j)]

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
        terms = [u**i * v**j for i, j in self._powers()]
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

    def at(self, x, y):
        """Return the model at a place; see `VaryingPSF.at`."""
        psf = super().at(x, y)
        psf.fit_info = {'residual': self._cache['residual']}
        return psf

    def shape_grid(self, xs, ys):
        """Return the shapes on a grid, from fits at nodes; see `VaryingPSF`."""
        if 'splines' not in self._cache:
            nodes = np.linspace(-0.5, 0.5, _N_NODES)
            self._cache['splines'] = ShapeSplines(nodes, nodes, self._fit_nodes(nodes))
        return self._cache['splines'](
            *self._scaled(np.atleast_1d(xs), np.atleast_1d(ys))
        )

    def _scaled(self, x, y):
        """Map places of the image to the argument of the polynomial, within +-0.5."""
        return [
            np.clip((np.asarray(v, float) + o + _FIRST_PIXEL - zero) / scale, -0.5, 0.5)
            for v, o, zero, scale in zip(
                (x, y), self.origin, self.zero, self.scale, strict=True
            )
        ]

    def _fit_nodes(self, nodes):
        """Fit the model at nodes, each beginning with the middle's fit: thetas."""
        fit, self._cache['residual'] = self._fit_at(0.0, 0.0)
        theta = np.broadcast_to(fit.theta, (_N_NODES, _N_NODES, 8)).copy()
        if self.degree:
            for j, i in np.ndindex(theta.shape[:2]):
                theta[j, i] = self._fit_at(nodes[i], nodes[j], start=fit.shape)[0].theta
        return theta

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
            msg = f'{name} lacks the card {key} of a PSFEx model'
            raise ValueError(msg)
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
        msg = f'{name}: {error}'
        raise ValueError(msg) from error
