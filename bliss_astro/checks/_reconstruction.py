# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reconstruction: an image as the sources of its catalogue, the residual, and files.
"""

import dataclasses
import functools
import io
import math
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.nddata import NoOverlapError, overlap_slices

from bliss_astro._arguments import check_integer, check_number, must, require
from bliss_astro._atomic import atomic_write
from bliss_astro.catalog._io import FORMATS
from bliss_astro.coadds._io import wcs_header
from bliss_astro.exposures._set import images_by_band
from bliss_astro.exposures._validate import two_slices
from bliss_astro.units import unit_text

# Pixels that reach over any image.
_WHOLE = 1e7
# Images of a file, one extension each.
_IMAGES = ('model', 'residual', 'chi', 'draws')


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
    def residual(self):
        """Data less background and model, NaN in bad pixels."""
        signal = self.exposure.data - self.exposure.background
        signal = np.where(self.exposure.mask, np.nan, signal)
        return signal.astype(np.float32) - self.model

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
        one = self._select(row)
        window = self._window(one, size)
        rows, columns = whole = _shifted(window, self.slices)
        drawn = self._renderer(one, window=whole)
        x, y = float(one.x[0]) - columns.start, float(one.y[0]) - rows.start
        return SourceImage(drawn, window, x, y)

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
        check_number('floor', floor, 'not negative', error=ValueError)
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
        return self[self._window(self._select(row), size)]

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
            slices=_shifted(cut, self.slices),
        )

    def _select(self, row):
        """One of the sources."""
        row, n = check_integer('row', row, -math.inf), len(self._sources)
        allowed = f'be a row of the catalogue, which has {n}'
        require(-n <= row < n, 'row', allowed, row, IndexError)
        return self._sources.select(np.array([row]))

    def _window(self, source, size):
        """Rows and columns of this part of the image around a source."""
        if size is None:
            halo = min(float(self._renderer.halo_of(source)[0]), _WHOLE)
            sides = (2 * int(halo) + 1,) * 2
        else:
            sides = np.asarray(size)
            sound = sides.dtype.kind in 'iu' and sides.shape in ((), (2,))
            allowed, got = 'be an integer or two (ny, nx)', f'{size!r:.60}'
            require(sound, 'size', allowed, got, TypeError)
            require(sides.min() >= 1, 'size', 'be positive', got)
            sides = tuple(np.broadcast_to(sides, 2))
        rows, columns = self.slices
        x, y = float(source.x[0]), float(source.y[0])
        place = y - rows.start, x - columns.start
        try:
            return overlap_slices(self.shape, sides, place, mode='trim')[0]
        except NoOverlapError:
            msg = (
                f'the source at x={x:.1f}, y={y:.1f} has no pixels in this part of the '
                'image'
            )
            raise ValueError(msg) from None

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
        write_images(self, path, overwrite=overwrite, posterior=posterior)

    def _image_hdus(self, band):
        """Make an extension of each image, of several bands with the band's name."""
        header = wcs_header(self.exposure.wcs) or fits.Header()
        # Where the first pixel lies in the image that the rows' pixels belong to.
        for k, part in enumerate(self.slices[::-1], start=1):
            header[f'LTV{k}'] = (-part.start, 'pixel here less pixel of the catalogue')
        for name in _IMAGES:
            data = np.asarray(getattr(self, name), dtype=np.float32)
            if len(data) == 0:
                continue
            title = name if band is None else f'{name}_{band}'
            hdu = fits.ImageHDU(data, header, name=title)
            if self.unit is not None and name != 'chi':
                hdu.header['BUNIT'] = unit_text(self.unit)
            yield hdu

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


def write_images(result, path, *, overwrite, posterior):
    """Write a `Reconstruction`, or those of several bands, to one FITS file."""
    endings = FORMATS['fits'].endings
    if not str(path).lower().endswith(endings):
        allowed = f'end in one of {", ".join(endings)}'
        raise ValueError(must('path', allowed, f'{path!s:.200}'))
    parts, stream = images_by_band(result), io.BytesIO()
    catalog = next(iter(parts.values())).catalog
    FORMATS['fits'].write(catalog, stream, catalog.posterior if posterior else None)
    stream.seek(0)
    images = [hdu for band, own in parts.items() for hdu in own._image_hdus(band)]
    with (
        atomic_write(path, overwrite=overwrite) as temporary,
        fits.open(stream) as hdus,
    ):
        primary, *tables = list(hdus)
        whole = fits.HDUList([primary, *images, *tables])
        whole.writeto(temporary, overwrite=True, checksum=True)


def _shifted(slices, starts):
    """Slices moved by the starts of others."""
    return tuple(
        slice(part.start + whole.start, part.stop + whole.start)
        for part, whole in zip(slices, starts, strict=True)
    )
