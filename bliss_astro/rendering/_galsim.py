# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars drawn one by one by GalSim: slow, and right.
"""

import numbers

import numpy as np

__all__ = ['GalSimStarRenderer']


class GalSimStarRenderer:
    """
    The reference renderer, which leaves the drawing to GalSim.

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
        return _render(
            self._profile(psf), x, y, flux, shape=(ny, nx), stamp_size=stamp_size
        )

    def _profile(self, psf):
        """
        Return the PSF of unit flux, centred on the origin, as a GalSim object.
        """
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


def _render(profile, x, y, flux, *, shape, stamp_size):
    """
    Add up the stars; the arguments are known to be good.
    """
    import galsim

    ny, nx = shape
    # An origin of (0, 0) makes GalSim count pixels as this package does.
    image = galsim.ImageD(galsim.BoundsI(0, nx - 1, 0, ny - 1), init_value=0.0)
    for x_star, y_star, flux_star in zip(x, y, flux, strict=True):
        if flux_star == 0:
            continue
        part = image
        if stamp_size is not None:
            bounds = _stamp_bounds(x_star, y_star, stamp_size) & image.bounds
            if not bounds.isDefined():
                continue
            part = image[bounds]
        profile.withFlux(profile.flux * flux_star).drawImage(
            image=part,
            method='no_pixel',
            center=galsim.PositionD(x_star, y_star),
            scale=1.0,
            add_to_image=True,
        )
    return image.array.copy()


def _stamp_bounds(x, y, size):
    """
    Return the square of ``size`` pixels around the pixel that holds (x, y).
    """
    import galsim

    # An even square has one pixel more on the side of lower coordinates.
    left, bottom = (int(np.floor(v + 0.5)) - size // 2 for v in (x, y))
    return galsim.BoundsI(left, left + size - 1, bottom, bottom + size - 1)


def _check_stars(x, y, flux):
    """
    Return the three lists as 1D float arrays of one length.
    """
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
    """
    Return ``shape`` as two Python integers.
    """
    shape = tuple(shape)
    if len(shape) != 2:
        msg = f'shape must be (ny, nx); got {shape!r}'
        raise ValueError(msg)
    for size in shape:
        _check_positive_integer('shape', size)
    return int(shape[0]), int(shape[1])


def _check_positive_integer(name, value):
    """
    Refuse anything but a positive integer.
    """
    if not isinstance(value, numbers.Integral) or value < 1:
        msg = f'{name} must be made of positive integers; got {value!r}'
        raise ValueError(msg)
