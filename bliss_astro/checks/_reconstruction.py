# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reconstruction: an image as the sources of its catalogue, and the residual.
"""

import dataclasses
import functools
import numbers
from dataclasses import dataclass

import numpy as np

from bliss_astro.exposures._validate import two_slices

__all__ = ['Reconstruction', 'SourceImage']


@dataclass(frozen=True, eq=False)
class SourceImage:
    """
    The image of one source, cut out.

    Attributes
    ----------
    data : float32 `~numpy.ndarray`, shape (ny, nx)
        Its light, in the unit of the exposure.

    slices : tuple of slice
        Rows and columns of the image that the pixels belong to: with a
        `Reconstruction` ``r``, ``r.model[source.slices]`` has the same pixels.

    x, y : float
        Where the source is in ``data``, 0-based pixels.
    """

    data: np.ndarray
    slices: tuple[slice, slice]
    x: float
    y: float

    @property
    def shape(self):
        """Shape ``(ny, nx)``."""
        return self.data.shape

    @property
    def flux(self):
        """The sum of the pixels (float)."""
        return float(self.data.sum(dtype=float))


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """
    Model and residual of an image by its catalogue, source by source.

    Made by `~bliss_astro.checks.reconstruct`. A part of it is cut out by two slices,
    ``reconstruction[y0:y1, x0:x1]``, or with `cutout`.

    Attributes
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        All rows, of the whole image also where a part of it was cut out.

    model : float32 `~numpy.ndarray`, shape (ny, nx)
        The light of all rows, without the background, in the unit of the
        exposure.

    draws : float32 `~numpy.ndarray`, shape (n_draws, ny, nx)
        The same of catalogues that were drawn from the posterior.

    slices : tuple of slice
        Which part of the whole image it is.

    shape : tuple of int
        ``(ny, nx)``.

    unit : `~astropy.units.Unit` or None
        Unit of all images but ``chi``.

    residual : float32 `~numpy.ndarray`, shape (ny, nx)
        Data less background and model; NaN in bad pixels.

    chi : float32 `~numpy.ndarray`, shape (ny, nx)
        The residual in units of the noise: that of the sky and that of the
        model's light; NaN in bad pixels.
    """

    exposure: object
    catalog: object
    model: np.ndarray
    draws: np.ndarray
    slices: tuple[slice, slice]
    _renderer: object = dataclasses.field(repr=False)
    _sources: object = dataclasses.field(repr=False)

    @property
    def shape(self):
        """Shape ``(ny, nx)``."""
        return self.model.shape

    @property
    def unit(self):
        """Unit of model, residual and draws, or `None`."""
        return self.exposure.unit

    @functools.cached_property
    def _signal(self):
        """Data above the background, NaN in bad pixels."""
        signal = np.asarray(self.exposure.data - self.exposure.background)
        return np.where(self.exposure.mask, np.nan, signal).astype(np.float32)

    @functools.cached_property
    def residual(self):
        """Data less background and model, NaN in bad pixels."""
        return self._signal - self.model

    @functools.cached_property
    def chi(self):
        """The residual in units of the noise, NaN in bad pixels."""
        error = self.exposure.total_error(self.model)
        return (self.residual / error).astype(np.float32)

    # -- single sources ------------------------------------------------------------

    def source(self, row, *, size=None):
        """
        Draw one source alone.

        Parameters
        ----------
        row : int
            Row of the catalogue, from 0; negative numbers count from its end.

        size : int or tuple of int, optional
            Side, or ``(ny, nx)``, of the cut-out in pixels. By default it reaches
            to where the source is drawn at least: 24, 72 or 216 pixels from
            it, or over the whole image.

        Returns
        -------
        source : `SourceImage`
            Without noise, background and neighbours. What lies outside of the
            image is cut off.

        Raises
        ------
        TypeError, ValueError, IndexError
            If ``row`` is not a row or ``size`` not a size, or if the cut-out has no
            pixels of the image.
        """
        row = self._check_row(row)
        one = self._sources.select(np.array([row]))
        window = self._window(one, size)
        drawn = self._renderer(one, window=window)
        x, y = float(one.x[0]) - window[1].start, float(one.y[0]) - window[0].start
        return SourceImage(drawn, _shifted(window, self.slices, -1), x, y)

    def deblended(self, row, *, size=None, floor=1.0):
        """
        Take one source out of the data: its share of every pixel.

        Parameters
        ----------
        row, size
            As for `source`.

        floor : float, optional
            How bright the model has to be for the data to be shared out, in
            units of the noise of the sky.

        Returns
        -------
        source : `SourceImage`
            With the noise of the data, without background and neighbours.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for `source`, or if ``floor`` is not a number of 0 or more.

        Notes
        -----
        With the data d above the background, the source's own model m and the
        model M of all sources, a pixel of the cut-out is

        ``m + (d - M) m / M``, which is ``d m / M``, where ``M > floor * bkg_error``
        and the pixel is good, and ``m`` elsewhere.

        The shares of all sources in a pixel sum up to its data where the
        model is above the floor, and to the model where it is not: flux is neither
        lost nor counted twice.
        """
        number = isinstance(floor, numbers.Real) and not isinstance(floor, bool)
        if not number or not 0 <= floor < np.inf:
            msg = f'floor must be a number, 0 or more, got {floor!r:.60}'
            raise ValueError(msg)
        source = self.source(row, size=size)
        total = self.model[source.slices]
        noise = np.broadcast_to(self.exposure.bkg_error, self.shape)[source.slices]
        residual = self.residual[source.slices]
        shared = (total > floor * noise) & np.isfinite(residual)
        share = source.data / np.where(shared, total, 1)
        data = source.data + np.where(shared, residual, 0) * share
        return dataclasses.replace(source, data=data.astype(np.float32))

    def cutout(self, row, size=32):
        """
        Cut out the surroundings of one source.

        Parameters
        ----------
        row : int
            Row of the catalogue.

        size : int or tuple of int, optional
            Side, or ``(ny, nx)``, in pixels.

        Returns
        -------
        part : `Reconstruction`
            Its exposure, model, residual, chi and draws are those pixels; rows
            keep their numbers. What lies outside of the image is cut off.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for `source`.
        """
        one = self._sources.select(np.array([self._check_row(row)]))
        return self[_shifted(self._window(one, size), self.slices, -1)]

    def __getitem__(self, item):
        """
        Return a part, in which everything follows.
        """
        cut = tuple(two_slices(item, self.shape))
        return dataclasses.replace(
            self,
            exposure=self.exposure[cut],
            model=self.model[cut],
            draws=self.draws[:, *cut],
            slices=_shifted(cut, self.slices, 1),
        )

    def _check_row(self, row):
        """A row as a number from 0."""
        if not isinstance(row, numbers.Integral) or isinstance(row, bool):
            msg = f'row must be a whole number, got {row!r:.60}'
            raise TypeError(msg)
        n = len(self._sources)
        if not -n <= row < n:
            msg = f'row must be a row of the catalogue, which has {n}, got {row}'
            raise IndexError(msg)
        return int(row) % n

    def _window(self, source, size):
        """Rows and columns of the whole image around a source."""
        if size is None:
            halo = float(self._renderer.halo_of(source)[0])
            sides = (2 * halo + 1, 2 * halo + 1)
        else:
            sides = _check_size(size)
        out = []
        for place, side, whole in zip(
            (source.y, source.x), sides, self.slices, strict=True
        ):
            first, last = whole.start, whole.stop
            if np.isfinite(side):
                begin = int(np.floor(float(place[0]) - 0.5 * side + 1))
                first, last = max(first, begin), min(last, begin + int(side))
            if last <= first:
                msg = (
                    f'the source at x={source.x[0]:.1f}, y={source.y[0]:.1f} has no '
                    'pixels in this part of the image'
                )
                raise ValueError(msg)
            out.append(slice(first, last))
        return tuple(out)

    # -- out -------------------------------------------------------------------------

    def write(self, path, *, overwrite=False, posterior=False):
        """
        Write a FITS file, as a whole or not at all.

        Parameters
        ----------
        path : str or `~os.PathLike`
            The file, ending in .fits or .fits.gz.

        overwrite : bool, optional
            Whether an existing file may be replaced.

        posterior : bool, optional
            Whether to keep the posterior of the catalogue.

        Raises
        ------
        OSError
            If the file exists and ``overwrite`` is `False`, or if it cannot
            be written.

        ValueError
            If ``path`` does not end as a FITS file.

        Notes
        -----
        The extensions ``MODEL``, ``RESIDUAL``, ``CHI`` and, if there are any, ``DRAWS``
        are 32-bit images with the WCS of the exposure; ``BUNIT`` is its unit where it
        has one. The catalogue is in the same file:
        `ProbabilisticCatalog.read <bliss_astro.catalog.ProbabilisticCatalog.read>`
        reads it.
        """
        from ._reconstruct import write_reconstruction

        write_reconstruction(self, path, overwrite=overwrite, posterior=posterior)

    def plot(self, *, ax=None, **kwargs):
        """
        Draw image, model and residual; see `bliss_astro.plotting.plot_reconstruction`.

        Parameters
        ----------
        ax : sequence of `~matplotlib.axes.Axes` or None, optional
            Axes to draw on; by default a new figure.

        **kwargs
            For `~bliss_astro.plotting.plot_reconstruction`.

        Returns
        -------
        axes : tuple of `~matplotlib.axes.Axes`
            The axes.
        """
        from bliss_astro.plotting import plot_reconstruction

        return plot_reconstruction(self, ax=ax, **kwargs)

    def __repr__(self):
        ny, nx = self.shape
        n = len(self.catalog)
        good = self.chi[np.isfinite(self.chi)].astype(float)
        reduced = (
            f'chi2 / n = {np.mean(good**2):.3f}' if good.size else 'no good pixels'
        )
        return (
            f'<Reconstruction of {ny} x {nx} px: {n} source{"" if n == 1 else "s"}, '
            f'{reduced}, {len(self.draws)} draws>'
        )


def _shifted(slices, starts, sign):
    """Slices moved by the starts of others, forward or back."""
    return tuple(
        slice(part.start + sign * whole.start, part.stop + sign * whole.start)
        for part, whole in zip(slices, starts, strict=True)
    )


def _check_size(size):
    """Sides of a cut-out from one number or two."""
    values = np.asarray(size)
    if values.dtype.kind not in 'iu' or values.shape not in ((), (2,)):
        msg = f'size must be a whole number or two (ny, nx), got {size!r:.60}'
        raise TypeError(msg)
    if values.min() < 1:
        msg = f'size must be positive, got {size!r:.60}'
        raise ValueError(msg)
    return tuple(int(n) for n in np.broadcast_to(values, 2))
