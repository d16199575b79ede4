# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
GalSim renderers of stars and galaxies: the reference, source by source.
"""

import numbers

import numpy as np

from ._accuracy import check_galaxies

__all__ = ['GalSimGalaxyRenderer', 'GalSimStarRenderer']

# GalSim's own settings are right to about 1e-4 of the peak.
_REFERENCE = {
    'maxk_threshold': 1e-4,
    'kvalue_accuracy': 1e-6,
    'maximum_fft_size': 16384,
}
_REFERENCE_PERIOD = 512


class GalSimStarRenderer:
    """
    Reference renderer of stars, by GalSim.

    Parameters
    ----------
    interpolated : bool, optional
        Whether to draw from a pixel image of the PSF instead of from its
        formula. That is what the codes behind the papers do (with GalSim's
        default quintic interpolation), and what their speed compares to; it
        loses whatever lies outside of the PSF's image, and is off by up to
        0.7 % of the peak between the pixels of an SDSS image.

    psf_size : int, optional
        Side in pixels of the PSF's image, an odd number; used only with
        ``interpolated=True``.

    gsparams : `galsim.GSParams`, optional
        Accuracy settings; GalSim's own defaults if `None`.

    See Also
    --------
    TorchStarRenderer : The fast twin with the same ``render`` method.

    Notes
    -----
    The PSF already contains the pixel: it was measured on pixels. Profiles
    are therefore drawn with ``method='no_pixel'``, which samples them at the
    centres of the pixels.

    Examples
    --------
    >>> from bliss_astro.psf import PSFModel
    >>> from bliss_astro.rendering import GalSimStarRenderer
    >>> image = GalSimStarRenderer().render(PSFModel(), [20], [10], [100], (21, 41))
    >>> image.shape
    (21, 41)
    >>> [int(i) for i in divmod(image.argmax(), 41)]
    [10, 20]
    """

    def __init__(self, *, interpolated=False, psf_size=51, gsparams=None):
        if psf_size != int(psf_size) or psf_size < 3 or psf_size % 2 == 0:
            msg = f'psf_size must be an odd number of at least 3; got {psf_size!r}'
            raise ValueError(msg)
        self.interpolated = bool(interpolated)
        self.psf_size = int(psf_size)
        self.gsparams = gsparams

    def __repr__(self):
        return (
            f'GalSimStarRenderer(interpolated={self.interpolated}, '
            f'psf_size={self.psf_size}, gsparams={self.gsparams!r})'
        )

    def render(self, psf, x, y, flux, shape, *, stamp_size=None):
        """
        Draw one star field.

        Parameters
        ----------
        psf : `~bliss_astro.psf.PSFModel`
            The PSF, which already contains the pixel. Its own flux and
            position play no part.

        x, y : array_like ``(n,)``
            Centres in 0-based pixels; stars may lie outside the image.

        flux : array_like ``(n,)``
            Fluxes within the PSF's normalisation radius.

        shape : tuple of int
            ``(ny, nx)`` of the image.

        stamp_size : int, optional
            Side in pixels of the square around its central pixel on which
            each star is drawn. By default it is the whole image for the
            formula of the PSF, and ``psf_size`` for its pixel image.

        Returns
        -------
        image : 2D `~numpy.ndarray`
            The image in the unit of ``flux``, in double precision.

        Raises
        ------
        ValueError
            If ``x``, ``y`` and ``flux`` are not lists of finite numbers of one
            length, if ``shape`` is not two positive integers, or if
            ``stamp_size`` is not a positive integer.
        """
        x, y, flux = _check_stars(x, y, flux)
        ny, nx = _check_shape(shape)
        if stamp_size is not None:
            _check_positive_integer('stamp_size', stamp_size)
        elif self.interpolated:
            stamp_size = self.psf_size
        profile = self._profile(psf)
        image = _empty_image((ny, nx))
        for x_0, y_0, flux_0 in zip(x, y, flux, strict=True):
            part = image
            if stamp_size is not None:
                bounds = _stamp_bounds(x_0, y_0, stamp_size) & image.bounds
                if not bounds.isDefined():
                    continue
                part = image[bounds]
            if flux_0 != 0:
                _draw(profile.withFlux(profile.flux * flux_0), part, x_0, y_0)
        return image.array.copy()

    def _profile(self, psf):
        """PSF of unit flux, centred on the origin, as a GalSim object."""
        import galsim

        unit = psf.from_shape(
            psf.shape_vector, normalization_radius=psf.normalization_radius
        )
        if not self.interpolated:
            profile = unit.to_galsim()
            return profile.withGSParams(self.gsparams) if self.gsparams else profile
        half = self.psf_size // 2
        rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
        # Not rescaled to a sum of one: a flux stays that within the
        # normalisation radius.
        pixels = galsim.Image(np.asarray(unit(columns, rows)), scale=1.0)
        return galsim.InterpolatedImage(pixels, gsparams=self.gsparams)


class GalSimGalaxyRenderer:
    """
    Reference renderer of bulge + disk galaxies, by GalSim.

    Parameters
    ----------
    period : int, optional
        Smallest side in pixels of the grid on which GalSim makes its Fourier
        transform, which repeats the picture with that period. By default,
        GalSim chooses.

    gsparams : `galsim.GSParams`, optional
        Accuracy settings; GalSim's own defaults if `None`.

    See Also
    --------
    TorchGalaxyRenderer : The fast twin with the same ``render`` method.

    Notes
    -----
    The disk is an exponential and the bulge a de Vaucouleurs profile without
    truncation, both sheared to their axis ratio along one common angle, as in
    Patel et al. (2025). The PSF already contains the pixel.

    Examples
    --------
    >>> from bliss_astro.psf import PSFModel
    >>> from bliss_astro.rendering import GalSimGalaxyRenderer
    >>> galaxy = [[0.6, 0.3, 0.5, 0.8, 4.0, 2.0]]
    >>> image = GalSimGalaxyRenderer().render(
    ...     PSFModel(), [20], [10], [100], galaxy, (21, 41)
    ... )
    >>> [int(i) for i in divmod(image.argmax(), 41)]
    [10, 20]
    """

    def __init__(self, *, period=None, gsparams=None):
        if period is not None and not (
            isinstance(period, numbers.Integral) and period > 0
        ):
            msg = f'period must be a positive integer or None, got {period!r}'
            raise ValueError(msg)
        self.period = None if period is None else int(period)
        self.gsparams = gsparams

    @classmethod
    def reference(cls):
        """
        Settings of the reference for other renderers.

        The transform is made on 512 x 512 pixels at least, with a
        ``maxk_threshold`` of 1e-4 and a ``kvalue_accuracy`` of 1e-6. Half of
        that grid changes stamps of 53 pixels by less than 1e-6 of their
        peaks; GalSim's defaults are off by up to 1e-4.
        """
        import galsim

        return cls(period=_REFERENCE_PERIOD, gsparams=galsim.GSParams(**_REFERENCE))

    def __repr__(self):
        return f'GalSimGalaxyRenderer(period={self.period}, gsparams={self.gsparams!r})'

    def render(self, psf, x, y, flux, galaxy, shape):
        """
        Draw one field of galaxies.

        Parameters
        ----------
        psf : `~bliss_astro.psf.PSFModel`
            The PSF, which already contains the pixel. Its own flux and
            position play no part.

        x, y : array_like ``(n,)``
            Centres in 0-based pixels; galaxies may lie outside the image.

        flux : array_like ``(n,)``
            Total fluxes, for a PSF of unit flux within its normalisation
            radius.

        galaxy : array_like ``(n, 6)``
            Shapes in the order of ``GALAXY_SHAPE_NAMES``; radii in pixels.

        shape : tuple of int
            ``(ny, nx)`` of the image.

        Returns
        -------
        image : 2D `~numpy.ndarray`
            The image in the unit of ``flux``, in double precision.

        Raises
        ------
        ValueError
            If the lists do not have one length, hold something that is not
            finite or out of its range, or if ``shape`` is not two positive
            integers.
        """
        import galsim

        x, y, flux = _check_stars(x, y, flux)
        shape = _check_shape(shape)
        galaxy = check_galaxies(np.reshape(galaxy, (len(x), -1 if len(x) else 6)))
        unit = psf.from_shape(
            psf.shape_vector, normalization_radius=psf.normalization_radius
        ).to_galsim()
        image = _empty_image(shape)
        for x_0, y_0, flux_0, numbers_0 in zip(x, y, flux, galaxy, strict=True):
            if flux_0 == 0:
                continue
            parts = [flux_0 * galaxy_profile(numbers_0), unit]
            part = galsim.ImageD(self._grid(image.bounds, x_0, y_0), init_value=0.0)
            _draw(galsim.Convolve(parts, gsparams=self.gsparams), part, x_0, y_0)
            image += part[image.bounds]
        return image.array.copy()

    def _grid(self, bounds, x, y):
        """Bounds of the image, or of a square around the galaxy that contains it."""
        import galsim

        if self.period is None:
            return bounds
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        half = max(
            (self.period + 1) // 2,
            abs(column - bounds.xmin),
            abs(column - bounds.xmax),
            abs(row - bounds.ymin),
            abs(row - bounds.ymax),
        )
        return galsim.BoundsI(column - half, column + half, row - half, row + half)


def galaxy_profile(galaxy):
    """
    Return a galaxy of unit flux as a GalSim object, before the PSF.

    Parameters
    ----------
    galaxy : array_like ``(6,)``
        In the order of ``GALAXY_SHAPE_NAMES``.
    """
    import galsim

    fraction, angle, disk_ratio, bulge_ratio, disk_radius, bulge_radius = map(
        float, galaxy
    )
    components = []
    for share, kind, radius, ratio in (
        (fraction, galsim.Exponential, disk_radius, disk_ratio),
        (1 - fraction, galsim.DeVaucouleurs, bulge_radius, bulge_ratio),
    ):
        if share > 0:
            # GalSim's shear keeps the area, and with it the circular radius.
            profile = kind(half_light_radius=radius * np.sqrt(ratio), flux=share)
            components.append(profile.shear(q=ratio, beta=angle * galsim.radians))
    return galsim.Add(components)


def _empty_image(shape):
    """Image whose pixels count from 0, as everywhere in this package."""
    import galsim

    return galsim.ImageD(galsim.BoundsI(0, shape[1] - 1, 0, shape[0] - 1), init_value=0)


def _draw(profile, image, x, y):
    """Add a profile, sampled at the centres of pixels, to an image."""
    import galsim

    profile.drawImage(
        image=image,
        method='no_pixel',
        center=galsim.PositionD(x, y),
        scale=1.0,
        add_to_image=True,
    )


def _stamp_bounds(x, y, size):
    """Square of ``size`` pixels around the pixel that holds (x, y)."""
    import galsim

    # An even square has one pixel more on the side of lower coordinates.
    left, bottom = (int(np.floor(v + 0.5)) - size // 2 for v in (x, y))
    return galsim.BoundsI(left, left + size - 1, bottom, bottom + size - 1)


def _check_stars(x, y, flux):
    """The three lists as 1D float arrays of one length."""
    columns = {}
    for name, values in (('x', x), ('y', y), ('flux', flux)):
        values = np.atleast_1d(np.asarray(values, dtype=float))
        if values.ndim != 1 or not np.all(np.isfinite(values)):
            msg = f'{name} must be a list of finite numbers; got {values!r}'
            raise ValueError(msg)
        columns[name] = values
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        msg = f'x, y and flux must have the same length; got {lengths}'
        raise ValueError(msg)
    return tuple(columns.values())


def _check_shape(shape):
    """The shape as two Python integers."""
    shape = tuple(shape)
    if len(shape) != 2:
        msg = f'shape must be (ny, nx); got {shape!r}'
        raise ValueError(msg)
    for size in shape:
        _check_positive_integer('shape', size)
    return int(shape[0]), int(shape[1])


def _check_positive_integer(name, value):
    """Raise a ValueError for anything but a positive integer."""
    if not isinstance(value, numbers.Integral) or value < 1:
        msg = f'{name} must be made of positive integers; got {value!r}'
        raise ValueError(msg)
