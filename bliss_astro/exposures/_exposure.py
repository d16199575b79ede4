# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
An image with all that a measurement needs.
"""

import astropy.units as u
import numpy as np

from bliss_astro._messages import first_wrong
from bliss_astro._plugins import survey

from ._cutout import cut_wcs, sky_wcs, two_slices
from ._describe import describe
from ._psf import PSFAccess, check_psf
from ._validate import (
    check_correlation,
    check_data,
    check_map,
    check_mask,
    check_positive,
    check_relative,
    image_unit,
    split_mask,
    strip_units,
)

__all__ = ['Exposure']


class Exposure:
    """
    An image, its background, noise, bad pixels, PSF, coordinates and unit.

    The numbers are kept without units; ``unit`` says which one they have. What
    applies to all pixels alike may be a single number, and is kept as one;
    `maps` spreads everything out. An exposure is not meant to be changed: use
    `replace` for a changed copy, and slicing for a cut-out.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The image. Integers are cast to floating point. Pixels that are not
        finite are added to ``mask``, and so are those that are masked in a
        masked array of NumPy's or astropy's, which any of the maps may be.

    background : float, 2D array_like or `~astropy.units.Quantity`, optional
        What of the sky is still in ``data``, in its unit: 0 for an image
        whose sky has been subtracted.

    bkg_error : float, 2D array_like or `~astropy.units.Quantity`
        Standard deviation of a pixel without sources, in the unit of
        ``data``: the noise of the whole sky (subtracted or not), read noise
        and all else. If it is `None`, it is taken to be
        ``sqrt(background * effective_gain + read_noise**2) / effective_gain``,
        which is right only if no sky has been subtracted.

    effective_gain : float, 2D array_like or `~astropy.units.Quantity`
        Electrons per unit of ``data``. It sets the noise that sources add: a
        pixel with signal s above the sky has the variance
        ``bkg_error**2 + max(s, 0) / effective_gain``. Give a large number if
        that noise shall be neglected.

    read_noise : float, 2D array_like or `~astropy.units.Quantity`, optional
        Standard deviation of the camera's own noise in electrons. It is a part of
        ``bkg_error`` already and is kept for information.

    mask : 2D bool array_like, optional
        `True` in bad pixels.

    psf : object, optional
        The PSF: a `~bliss_astro.psf.PSFModel`; one that varies, with a
        method ``at(x, y)`` that returns a `~bliss_astro.psf.PSFModel`, such
        as `~bliss_astro.surveys.sdss.SDSSPSF`; a PSF model of photutils or astropy; or
        an image of the PSF. The last two are described by a fit.

    wcs : object, optional
        The coordinates, an `~astropy.wcs.WCS` or another astropy WCS. One that
        gives no position on the sky is left out, with a warning.

    unit : unit-like, optional
        The unit of ``data``, if that is a plain array. A
        `~astropy.units.Quantity` is converted to it.

    saturation : float, 2D array_like or `~astropy.units.Quantity`, optional
        The level, in the unit of ``data``, at and above which a pixel is
        saturated. Such pixels are added to ``mask``.

    saturated : 2D bool array_like, optional
        Pixels that are known to be saturated, whatever their value. They are
        added to ``mask`` too.

    noise_correlation : pair of float, optional
        Correlation of the noise of pixels next to each other in x and in y: 0
        for an image as the camera took it, positive after resampling.

    psf_error : float, optional
        Relative error of the width of the PSF (standard deviation).

    background_error : float, optional
        Error of ``background`` (standard deviation), in units of ``bkg_error``.

    meta : dict, optional
        Whatever else is known.

    Attributes
    ----------
    data : float `~numpy.ndarray`, shape (ny, nx)
        The image, as given: bad pixels keep their values.

    background, bkg_error, effective_gain, read_noise : float or `~numpy.ndarray`
        See the parameters; values in bad pixels are sound.

    mask : bool `~numpy.ndarray`, shape (ny, nx)
        `True` in all bad pixels.

    saturated : bool `~numpy.ndarray`, shape (ny, nx)
        `True` in the bad pixels that are bad because they are saturated.

    saturation : float, `~numpy.ndarray` or None
        See the parameters.

    psf, wcs, noise_correlation, psf_error, background_error : object
        See the parameters.

    unit : `~astropy.units.Unit` or None
        The unit of ``data``, ``background``, ``bkg_error`` and ``saturation``.

    meta : dict
        See the parameters.

    Raises
    ------
    TypeError
        If ``data`` are complex, boolean, objects or an
        `~astropy.nddata.NDData` (see `from_nddata`), or another argument
        has an impossible type.

    ValueError
        If ``data`` are not two-dimensional, empty, or without a single good
        pixel; if anything has another shape than ``data``; if noise or gain
        is not positive and finite in every good pixel; if only some arguments
        have units, or wrong ones.

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

    # What the constructor takes after data; a subclass adds its own.
    _arguments = (
        'background',
        'bkg_error',
        'effective_gain',
        'read_noise',
        'mask',
        'psf',
        'wcs',
        'unit',
        'saturation',
        'saturated',
        'noise_correlation',
        'psf_error',
        'background_error',
        'meta',
    )

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
        psf_error=0.01,
        background_error=0.05,
        meta=None,
    ):
        shape = np.shape(data)
        data, hidden = split_mask('data', data, shape)
        numbers = {
            'background': background,
            'bkg_error': bkg_error,
            'saturation': saturation,
            'effective_gain': effective_gain,
            'read_noise': read_noise,
        }
        for name, value in numbers.items():
            numbers[name], unknown = split_mask(name, value, shape)
            if unknown is not None:
                hidden = unknown if hidden is None else hidden | unknown
        self.unit = image_unit(data, unit)
        with_units = getattr(data, 'unit', None) is not None
        if with_units:
            data = data.to_value(self.unit)
        plain, effective_gain, read_noise = strip_units(
            self.unit,
            with_units,
            {name: numbers[name] for name in ('background', 'bkg_error', 'saturation')},
            numbers['effective_gain'],
            numbers['read_noise'],
        )
        self.data, self.mask = check_data(data)
        if hidden is not None:
            self.mask |= hidden
        self._set_mask(mask, plain['saturation'], saturated)
        self._set_noise(
            plain['background'], plain['bkg_error'], effective_gain, read_noise
        )
        self.wcs = sky_wcs(wcs, self.data.shape)
        self.noise_correlation = check_correlation(noise_correlation)
        self.psf_error = check_relative('psf_error', psf_error)
        self.background_error = check_relative('background_error', background_error)
        self.meta = dict(meta or {})
        self._psf_access = psf if isinstance(psf, PSFAccess) else None
        if self._psf_access is None:
            self._psf_access = PSFAccess(check_psf(psf))

    def _set_mask(self, mask, saturation, saturated):
        """
        Join all that makes a pixel bad.
        """
        shape = self.data.shape
        given = check_mask('mask', mask, shape)
        if given is not None:
            self.mask |= given
        full = check_mask('saturated', saturated, shape)
        self.saturated = np.zeros(shape, dtype=bool) if full is None else full.copy()
        self.saturation = None
        if saturation is not None:
            self.saturation = check_map('saturation', saturation, shape)
            with np.errstate(invalid='ignore'):
                self.saturated |= self.data >= self.saturation
        self.mask |= self.saturated
        if self.mask.all():
            msg = 'data must have good pixels; all are masked, saturated or not finite.'
            if self.saturated.all() and self.saturation is not None:
                msg = (
                    'saturation must lie above some of the data; all pixels reach '
                    f'{np.max(self.saturation):.6g}.'
                )
            raise ValueError(msg)

    def _set_noise(self, background, bkg_error, effective_gain, read_noise):
        """
        Check the numbers that set the noise.
        """
        shape, good = self.data.shape, ~self.mask
        if effective_gain is None:
            msg = (
                'effective_gain must be given (electrons per data unit); a large '
                "number neglects the sources' own noise."
            )
            raise ValueError(msg)
        self.effective_gain = check_positive(
            'effective_gain', check_map('effective_gain', effective_gain, shape), good
        )
        self.read_noise = check_positive(
            'read_noise', check_map('read_noise', read_noise, shape), good, zero=True
        )
        self.background = _finite(
            'background', check_map('background', background, shape), good
        )
        if bkg_error is None:
            electrons = np.maximum(self.background * self.effective_gain, 0)
            bkg_error = np.sqrt(electrons + self.read_noise**2) / self.effective_gain
            if not np.all(bkg_error > 0):
                msg = (
                    'bkg_error must be given, because the background left in data '
                    'and read_noise do not account for any noise.'
                )
                raise ValueError(msg)
        self.bkg_error = check_positive(
            'bkg_error', check_map('bkg_error', bkg_error, shape), good
        )

    @classmethod
    def from_sdss(cls, frame, psfield=None, **options):
        """
        Read an image of the Sloan Digital Sky Survey.

        Parameters
        ----------
        frame : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
            A calibrated ``frame`` (DR8 on) or a corrected frame ``fpC`` (to DR7).

        psfield : str, `~os.PathLike` or `~astropy.io.fits.HDUList`, optional
            ``psField`` file of the field.

        **options
            Keywords ``band``, ``fpm``, ``tsfield``, ``photofield``, ``background``,
            ``noise`` and ``bad_planes`` of `bliss_astro.surveys.sdss.read_exposure`,
            of which this is the short form.

        Returns
        -------
        exposure : `Exposure`
            Image in nmgy per pixel.
        """
        return survey('sdss').read_exposure(frame, psfield, cls=cls, **options)

    @classmethod
    def from_nddata(cls, nddata, **kwargs):
        """
        Take the image, and all that it knows, from an NDData or CCDData.

        Parameters
        ----------
        nddata : `~astropy.nddata.NDData` or `~astropy.nddata.CCDData`
            The image. Its mask, WCS, unit and meta are taken; the ``psf`` of
            a CCDData, if it is an image; and its uncertainty, which is the
            TOTAL error of each pixel there.

        **kwargs
            Arguments of `Exposure`. ``effective_gain`` is needed, unless the
            meta hold ``EFFGAIN`` (as after `to_ccddata`). What the NDData has
            may not be given again.

        Returns
        -------
        exposure : `Exposure`
            The image.

        Raises
        ------
        TypeError
            If it is not an NDData.

        ValueError
            If something is given twice, or the uncertainty is smaller than
            the noise of the sources alone.

        Notes
        -----
        An exposure keeps the noise of the sky and that of the sources apart.
        The sources' share is therefore taken out of the uncertainty:
        ``bkg_error**2 = error**2 - max(data - background, 0) / effective_gain``.
        Where little is left (below a quarter of its median over the pixels in which
        the sky dominates), the difference says nothing and that median is
        taken instead.
        """
        from ._nddata import read_nddata

        data, arguments = read_nddata(nddata, kwargs)
        return cls(data, **arguments)

    @classmethod
    def from_ccddata(cls, ccddata, **kwargs):
        """
        Take the image from a CCDData; the same as `from_nddata`.

        Parameters
        ----------
        ccddata : `~astropy.nddata.CCDData`
            The image.

        **kwargs
            See `from_nddata`.

        Returns
        -------
        exposure : `Exposure`
            The image.
        """
        return cls.from_nddata(ccddata, **kwargs)

    def to_ccddata(self):
        """
        Turn the exposure into a CCDData.

        Returns
        -------
        ccddata : `~astropy.nddata.CCDData`
            Image, mask, WCS, unit (dimensionless if there is none), meta, an
            image of the PSF at the centre, and as its uncertainty the total
            error. What is one number for all pixels stands in its meta under
            ``EFFGAIN``, ``BKGLEVEL``, ``RDNOISE``, ``SATURATE``, ``PSFERR`` and
            ``BKGRELER``; maps of these are not kept, and `from_nddata` needs them
            again.
        """
        from ._nddata import write_ccddata

        return write_ccddata(self)

    @property
    def shape(self):
        """Shape (ny, nx) of the image."""
        return self.data.shape

    @property
    def psf(self):
        """The PSF as it was given, in the pixels of this image."""
        return self._psf_access.psf

    @property
    def pixel_scale(self):
        """Side of a pixel in arcsec, or `None` without a celestial WCS."""
        if self.wcs is None or not getattr(self.wcs, 'has_celestial', False):
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
        names = ('background', 'bkg_error', 'effective_gain', 'read_noise')
        return {
            name: np.broadcast_to(np.asarray(getattr(self, name)), self.shape)
            for name in names
        }

    def total_error(self, signal=None):
        """
        Return the standard deviation of each pixel, sources included.

        Parameters
        ----------
        signal : float or 2D array_like, optional
            The light of the sources in the unit of ``data``. By default it is
            what ``data`` have above ``background``.

        Returns
        -------
        error : float `~numpy.ndarray`, shape (ny, nx)
            ``sqrt(bkg_error**2 + max(signal, 0) / effective_gain)``; that of
            the background alone where the signal is not finite.
        """
        if signal is None:
            signal = self.data - self.background
        signal = np.asarray(
            signal.to_value(self.unit) if isinstance(signal, u.Quantity) else signal,
            dtype=float,
        )
        signal = np.nan_to_num(np.maximum(signal, 0), nan=0.0, posinf=0.0)
        variance = np.square(self.bkg_error, dtype=float) + signal / self.effective_gain
        return np.broadcast_to(np.sqrt(variance), self.shape)

    def psf_at(self, x, y):
        """
        Return the PSF at a place.

        Parameters
        ----------
        x, y : float
            The place in the pixels of this image.

        Returns
        -------
        psf : `~bliss_astro.psf.PSFModel`
            The PSF there; a fit, where the exposure's PSF is of another kind.

        Raises
        ------
        ValueError
            If the exposure has no PSF.
        """
        return self._psf_access.at(x, y)

    def psf_shapes(self, xs, ys):
        """
        Return the PSF's shape parameters on a grid of places.

        Parameters
        ----------
        xs, ys : float array_like
            Columns and rows in the pixels of this image.

        Returns
        -------
        shapes : float `~numpy.ndarray`, shape (len(ys), len(xs), 8)
            ``sigma1, sigma2, b, sigmap, p0, beta, e1, e2`` of each, lengths in
            pixels.

        Raises
        ------
        ValueError
            If the exposure has no PSF.
        """
        return self._psf_access.shapes(xs, ys)

    def replace(self, **changes):
        """
        Return a copy with some arguments changed.

        Parameters
        ----------
        **changes
            ``data`` or any argument of the constructor, without units if
            this exposure's numbers are kept. Bad pixels stay bad: a new
            ``mask`` is joined with the pixels of ``data`` that are not finite
            or saturated.

        Returns
        -------
        exposure : `Exposure`
            The changed copy.

        Raises
        ------
        TypeError
            If there is no such argument.
        """
        unknown = set(changes) - {'data', *self._arguments}
        if unknown:
            msg = (
                f'{type(self).__name__} has no argument {sorted(unknown)[0]!r}; it '
                f'has data, {", ".join(self._arguments)}.'
            )
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
            The binned image, with ``meta['binned']``.

        Raises
        ------
        TypeError
            If ``n`` is no whole number.

        ValueError
            If nothing would be left.

        Examples
        --------
        >>> import numpy as np
        >>> from bliss_astro.exposures import Exposure
        >>> exposure = Exposure(np.ones((32, 48)), bkg_error=2.0, effective_gain=1.0)
        >>> binned = exposure.binned(2)
        >>> binned.shape, float(binned.data[0, 0]), binned.bkg_error
        ((16, 24), 4.0, 4.0)
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer):
            msg = f'n must be a whole number; got {n!r}.'
            raise TypeError(msg)
        if not 1 <= n <= min(self.shape):
            msg = f'n must be from 1 to the shorter side, {min(self.shape)}; got {n}.'
            raise ValueError(msg)
        if n == 1:
            return self
        from ._binned import bin_exposure

        data, arguments = bin_exposure(self, int(n))
        return Exposure(data, **arguments)

    def _state(self):
        """
        Return the constructor's arguments after data, as they are now.
        """
        state = {name: getattr(self, name) for name in self._arguments}
        state['psf'] = self._psf_access
        return state

    def __getitem__(self, item):
        """
        Return a cut-out, in which everything follows.
        """
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


def _finite(name, value, good):
    """
    Check that a number or map is finite where pixels are good.
    """
    sound = np.isfinite(value)
    if not (sound if np.ndim(value) == 0 else sound[good].all()):
        wrong = first_wrong(value, sound | ~good if np.ndim(value) else sound)
        msg = f'{name} must be finite in every good pixel; got {wrong}.'
        raise ValueError(msg)
    if np.ndim(value) and not sound.all():
        value = np.where(sound, value, np.median(value[good])).astype(value.dtype)
    return value
