# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposure: an image with its background, noise, mask, PSF, WCS and unit.
"""

import inspect

import astropy.units as u
import numpy as np
from astropy.utils import classproperty

from bliss_astro._arguments import check_integer, check_number, require

from . import _remote
from ._bands import as_band
from ._geometry import binned_arguments, cut_wcs, sky_wcs
from ._nddata import from_nddata, to_ccddata
from ._psf import PSFAccess, describe
from ._validate import (
    check_correlation,
    check_data,
    check_map,
    check_mask,
    check_some_good,
    image_unit,
    join_masks,
    split_mask,
    strip_unit,
    two_slices,
)

_MAPS = ('background', 'bkg_error', 'effective_gain', 'read_noise')
# Errors where none is stated: of the PSF's width (relative), of the background (sigma).
USUAL_PSF_ERROR, USUAL_BACKGROUND_ERROR = 0.01, 0.05


class Exposure:
    """
    An image, its background, noise, bad pixels, PSF, coordinates and unit.

    Numbers are kept without units; ``unit`` is theirs. One number for all pixels is
    kept as one. `replace` returns a changed copy, slicing a cut-out.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        Image. Integers are cast to floating point. Pixels that are not finite, or
        masked in a masked array (as which any of the maps may come too), are bad.

    background : float, 2D array_like or `~astropy.units.Quantity`, optional
        Sky that is still in ``data``, in its unit: 0 where it has been subtracted.

    bkg_error : float, 2D array_like or `~astropy.units.Quantity`
        Standard deviation of a pixel without sources in the unit of ``data``: noise
        of the whole sky (subtracted or not), read noise and all else. `None` stands
        for ``sqrt(background * effective_gain + read_noise**2) / effective_gain``,
        which is right only if no sky has been subtracted.

    effective_gain : float, 2D array_like or `~astropy.units.Quantity`
        Electrons per unit of ``data``. It sets the noise that sources add: a
        pixel with signal s above the sky has the variance
        ``bkg_error**2 + max(s, 0) / effective_gain``.

    read_noise : float, 2D array_like or `~astropy.units.Quantity`, optional
        Standard deviation of the camera's own noise in electrons: a part of
        ``bkg_error`` already, kept for information.

    mask : 2D bool array_like, optional
        `True` in bad pixels.

    psf : object, optional
        A `~bliss_astro.psf.PSFModel`; a PSF that varies, with a method ``at(x, y)``
        that returns one; a PSF with a method ``gaussians(xs, ys)``; a PSF model of
        photutils or astropy; or an image. The last three are described by a fit.

    wcs : object, optional
        `~astropy.wcs.WCS` or another astropy WCS. One that gives no position on the
        sky is left out, with a warning.

    unit : unit-like, optional
        Unit of ``data``; a `~astropy.units.Quantity` is converted to it.

    saturation : float, 2D array_like or `~astropy.units.Quantity`, optional
        Level in the unit of ``data`` at and above which a pixel is saturated, and bad.

    saturated : 2D bool array_like, optional
        Pixels known to be saturated, and bad, whatever their value.

    noise_correlation : pair of float, optional
        Correlation of the noise of pixels next to each other in x and in y: 0
        for an image as the camera took it, positive after resampling.

    psf_error : float, optional
        Relative error of the width of the PSF (standard deviation).

    background_error : float, optional
        Error of ``background`` (standard deviation), in units of ``bkg_error``.

    band : str or `Band`, optional
        Band: one, or its name in ``BANDS``. None is unknown, and treated as r.

    meta : dict, optional
        Anything else that is known.

    Attributes
    ----------
    data : float `~numpy.ndarray`, shape (ny, nx)
        Image; bad pixels keep their values, those of the other maps are sound.

    background, bkg_error, ... : object
        As the parameters; without units.

    mask, saturated : bool `~numpy.ndarray`, shape (ny, nx)
        All bad pixels, and those that are bad because they are saturated.

    Raises
    ------
    TypeError, ValueError
        If ``data`` are no image of real numbers (see `from_nddata` for an NDData) or
        without a good pixel; if anything has another shape; if noise or gain is not
        positive and finite in every good pixel; if only some arguments have units.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.exposures import Exposure
    >>> data = np.full((32, 48), 100.0)
    >>> exposure = Exposure(data, background=100.0, bkg_error=5.0, effective_gain=4.0)
    >>> exposure
    <Exposure 32 x 48 px, background 100, bkg_error 5>
    >>> exposure[4:20, 8:40].shape
    (16, 32)
    """

    @classproperty(lazy=True)
    def _arguments(cls):  # noqa: N805
        """Names of the arguments after data."""
        return tuple(inspect.signature(cls).parameters)[1:]

    def __init__(
        self,
        data,
        *,
        background=0.0,
        bkg_error,
        effective_gain,
        read_noise=0.0,
        mask=None,
        psf=None,
        wcs=None,
        unit=None,
        saturation=None,
        saturated=None,
        noise_correlation=(0.0, 0.0),
        psf_error=USUAL_PSF_ERROR,
        background_error=USUAL_BACKGROUND_ERROR,
        band=None,
        meta=None,
    ):
        self.unit = image_unit(data, unit)
        with_units = getattr(data, 'unit', None) is not None
        self.data, bad = check_data(strip_unit('data', data, self.unit))
        masks, numbers = [bad, check_mask('mask', mask, self.shape)], {}
        for name, value, *unit_of in (
            ('background', background, self.unit, with_units),
            ('bkg_error', bkg_error, self.unit, with_units),
            ('saturation', saturation, self.unit, with_units),
            ('effective_gain', effective_gain, u.electron / (self.unit or 1)),
            ('read_noise', read_noise, u.electron),
        ):
            value = strip_unit(name, value, *unit_of)
            numbers[name], hidden = split_mask(name, value, self.shape)
            masks.append(hidden)
        self._set_masks(masks, numbers.pop('saturation'), saturated)
        self._set_noise(**numbers)
        self.wcs = sky_wcs(wcs, self.shape)
        self.noise_correlation = check_correlation(noise_correlation)
        errors = {'psf_error': psf_error, 'background_error': background_error}
        for name, value in errors.items():
            setattr(self, name, check_number(name, value, sign='not negative'))
        self.band = as_band(band)
        self.meta = dict(meta or {})
        self._psf_access = psf if isinstance(psf, PSFAccess) else PSFAccess(psf)

    def _set_masks(self, masks, saturation, saturated):
        """Join all bad pixels, those that reach the saturation level among them."""
        shape = self.data.shape
        self.saturated = join_masks(shape, check_mask('saturated', saturated, shape))
        self.saturation = None
        if saturation is not None:
            self.saturation = check_map('saturation', saturation, shape)
            with np.errstate(invalid='ignore'):
                self.saturated |= self.data >= self.saturation
        self.mask = join_masks(shape, *masks, self.saturated)
        check_some_good(self)

    def _set_noise(self, background, bkg_error, effective_gain, read_noise):
        """Check the numbers that set the noise."""

        def checked(name, value, sign):
            return check_map(name, value, self.shape, good=~self.mask, sign=sign)

        allowed = 'be given (electrons per data unit)'
        require(effective_gain is not None, 'effective_gain', allowed, None)
        self.effective_gain = checked('effective_gain', effective_gain, 'positive')
        self.read_noise = checked('read_noise', read_noise, 'not negative')
        self.background = checked('background', background, None)
        if bkg_error is None:
            electrons = np.maximum(self.background * self.effective_gain, 0)
            bkg_error = np.sqrt(electrons + self.read_noise**2) / self.effective_gain
            got = 'background and read_noise without any'
            require(np.all(bkg_error > 0), 'bkg_error', 'be given', got)
        self.bkg_error = checked('bkg_error', bkg_error, 'positive')

    from_sdss = classmethod(_remote.from_sdss)
    from_legacysurvey = classmethod(_remote.from_legacysurvey)
    from_hips = classmethod(_remote.from_hips)
    from_sia = classmethod(_remote.from_sia)
    from_nddata = from_ccddata = classmethod(from_nddata)
    to_ccddata = to_ccddata

    @property
    def shape(self):
        """Shape (ny, nx) of the image."""
        return self.data.shape

    @property
    def psf(self):
        """PSF as it was given, in the pixels of this image."""
        return self._psf_access.psf

    @property
    def pixel_scale(self):
        """Side of a pixel in arcsec, or `None` without a celestial WCS."""
        if not getattr(self.wcs, 'has_celestial', False):
            return None
        from astropy.wcs.utils import proj_plane_pixel_area

        return float(np.sqrt(proj_plane_pixel_area(self.wcs.celestial)) * 3600)

    def maps(self):
        """
        Spread all numbers out over the pixels.

        Returns
        -------
        maps : dict of str to float `~numpy.ndarray`, shape (ny, nx)
            ``background``, ``bkg_error``, ``effective_gain`` and ``read_noise``. A
            single number becomes a read-only view that takes no memory.
        """
        return {
            name: np.broadcast_to(getattr(self, name), self.shape) for name in _MAPS
        }

    def total_error(self, signal=None):
        """
        Compute the standard deviation of each pixel, sources included.

        Parameters
        ----------
        signal : float or 2D array_like, optional
            Light of the sources in the unit of ``data``, by default the excess of
            ``data`` over ``background``.

        Returns
        -------
        error : float `~numpy.ndarray`, shape (ny, nx)
            ``sqrt(bkg_error**2 + max(signal, 0) / effective_gain)``; that of
            the background alone where the signal is not finite.
        """
        if signal is None:
            signal = self.data - self.background
        elif isinstance(signal, u.Quantity):
            signal = signal.to_value(self.unit)
        signal = np.maximum(np.asarray(signal, dtype=float), 0)
        signal = np.nan_to_num(signal, nan=0.0, posinf=0.0)
        variance = np.square(self.bkg_error, dtype=float) + signal / self.effective_gain
        return np.broadcast_to(np.sqrt(variance), self.shape)

    def psf_at(self, x, y):
        """
        Return the `~bliss_astro.psf.PSFModel` at a place (x, y) in pixels.

        For an exposure with a PSF of another kind it is a fit.
        """
        return self._psf_access.at(x, y)

    def psf_shapes(self, xs, ys):
        """
        Return the PSF's shape parameters on a grid of places.

        Parameters
        ----------
        xs, ys : float array_like
            Columns and rows in pixels of this image.

        Returns
        -------
        shapes : float `~numpy.ndarray`, shape (len(ys), len(xs), 8)
            ``sigma1, sigma2, b, sigmap, p0, beta, e1, e2``; lengths in pixels.
        """
        return self._psf_access.shapes(xs, ys)

    def psf_gaussians(self, xs, ys):
        """Return the PSF there as a batch of `~bliss_astro.psf.GaussianPSF`."""
        return self._psf_access.gaussians(xs, ys)

    def replace(self, **changes):
        """
        Return a copy with some arguments changed.

        Parameters
        ----------
        **changes
            ``data`` or any argument of the constructor, without units if this
            exposure's numbers are kept. A new ``mask`` is joined with the pixels of
            ``data`` that are not finite or saturated.

        Returns
        -------
        exposure : `Exposure`
            Changed copy.
        """
        unknown = set(changes) - {'data', *self._arguments}
        if unknown:
            names = ', '.join(self._arguments)
            msg = f'there is no argument {sorted(unknown)[0]!r}, only data, {names}.'
            raise TypeError(msg)
        arguments = {'data': self.data} | self._state() | changes
        return type(self)(arguments.pop('data'), **arguments)

    def binned(self, n):
        """
        Join n x n pixels into one, as a camera with larger pixels had.

        Rows and columns beyond a whole number of pixels are left out. Everything
        follows: a pixel is the sum of n x n, bad if one of them is; its noise contains
        their correlation, and with it that of neighbours that remains; the PSF is
        fitted to sums of pixels, and the WCS has the larger pixels.

        Parameters
        ----------
        n : int
            Pixels along each side, from 1.

        Returns
        -------
        exposure : `Exposure`
            Binned image, with ``meta['binned']``.

        Examples
        --------
        >>> import numpy as np
        >>> from bliss_astro.exposures import Exposure
        >>> exposure = Exposure(np.ones((32, 48)), bkg_error=2.0, effective_gain=1.0)
        >>> binned = exposure.binned(2)
        >>> binned.shape, float(binned.data[0, 0]), binned.bkg_error
        ((16, 24), 4.0, 4.0)
        """
        n = check_integer('n', n, 1, min(self.shape))
        return self if n == 1 else Exposure(**binned_arguments(self, n))

    def _state(self):
        """Arguments of the constructor after data, as they are now."""
        state = {name: getattr(self, name) for name in self._arguments}
        return state | {'psf': self._psf_access}

    def __getitem__(self, item):
        """Return a cut-out, in which everything follows."""
        rows, columns = two_slices(item, self.shape)
        arguments = {}
        for name, value in self._state().items():
            is_map = isinstance(value, np.ndarray) and value.shape == self.shape
            arguments[name] = value[rows, columns] if is_map else value
        if self.wcs is not None:
            arguments['wcs'] = cut_wcs(self.wcs, rows, columns)
        arguments['psf'] = self._psf_access.cutout(columns.start, rows.start)
        return type(self)(self.data[rows, columns], **arguments)

    def __repr__(self):
        return describe(self)
