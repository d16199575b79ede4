# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Renderers of one field of stars or galaxies: GalSim as the reference, torch for speed.
"""

import numpy as np
import torch

from bliss_astro._arguments import (
    check_image_shape,
    check_integer,
    choose_device,
    require,
)

from ._accuracy import RenderingAccuracy, check_galaxies
from ._batches import render_galaxies, render_stars

# Settings of the reference: GalSim's own are right to about 1e-4 of the peak.
_REFERENCE = {
    'maxk_threshold': 1e-4,
    'kvalue_accuracy': 1e-6,
    'maximum_fft_size': 16384,
}
_REFERENCE_PERIOD = 512


class TorchRenderer:
    """
    Fast renderer of stars and of bulge + disk galaxies, by torch.

    Parameters
    ----------
    device : str or `torch.device`, optional
        Where to draw.

    dtype : `torch.dtype`, optional
        Single precision by default.

    accuracy : `RenderingAccuracy`, optional
        Accuracy of galaxies.

    See Also
    --------
    GalSimRenderer : The reference with the same ``render`` method.
    render_stars, render_galaxies : Batches of fields.
    """

    def __init__(self, *, device='cpu', dtype=torch.float32, accuracy=None):
        self.device = choose_device(device)
        self.dtype = dtype
        self.accuracy = RenderingAccuracy() if accuracy is None else accuracy

    def __repr__(self):
        return (
            f'TorchRenderer(device={str(self.device)!r}, dtype={self.dtype}, '
            f'accuracy={self.accuracy!r})'
        )

    def render(self, psf, x, y, flux, shape, *, galaxy=None):
        """
        Draw one field of stars, or of galaxies.

        Parameters
        ----------
        psf : `~bliss_astro.psf.PSFModel` or PSF with a method ``gaussians(xs, ys)``
            The PSF, which already contains the pixel; that of pixel (0, 0). Its own
            flux and position play no part.

        x, y : array_like ``(n,)``
            Centres in 0-based pixels; sources may lie outside the image.

        flux : array_like ``(n,)``
            Total fluxes of galaxies for a PSF of unit flux within its normalisation
            radius, and those of stars within it.

        shape : tuple of int
            ``(ny, nx)`` of the image.

        galaxy : array_like ``(n, 6)``, optional
            Shapes in the order of ``GALAXY_SHAPE_NAMES``; radii in pixels.

        Returns
        -------
        image : 2D `~numpy.ndarray`
            The image in the unit of ``flux``.

        Raises
        ------
        ValueError
            If the lists do not have one length, hold something that is not
            finite or out of its range, if ``shape`` is not two positive
            integers, if a galaxy is larger than the largest stamp, or if the
            PSF is too narrow for the grid.
        """
        psf = psf.gaussians([0], [0])[0]
        check = {'psf': psf, 'accuracy': self.accuracy}
        parts, shape = _check_sources(x, y, flux, shape, galaxy, **check)
        options = {'size': shape}
        psf, *parts = (
            v.to(self.device, self.dtype)
            for v in (psf, *(torch.as_tensor(part)[None] for part in parts))
        )
        if galaxy is None:
            image = render_stars(psf, *parts, **options)
        else:
            image = render_galaxies(psf, *parts, accuracy=self.accuracy, **options)
        return image[0].cpu().numpy()


class GalSimRenderer:
    """
    Reference renderer of stars and of bulge + disk galaxies, by GalSim.

    Parameters
    ----------
    interpolated : bool, optional
        Whether to draw stars from a pixel image of the PSF instead of from its
        formula. That is what the codes behind the papers do (with GalSim's
        default quintic interpolation), and what their speed compares to; it
        loses whatever lies outside of the PSF's image, and is off by up to
        0.7 % of the peak between the pixels of an SDSS image.

    psf_size : int, optional
        Side in pixels of the PSF's image, an odd number; used only with
        ``interpolated=True``.

    period : int, optional
        Smallest side in pixels of the grid on which GalSim makes its Fourier
        transform of galaxies, which repeats the picture with that period. By default,
        GalSim chooses.

    gsparams : `galsim.GSParams`, optional
        Accuracy settings; GalSim's own defaults if `None`.

    See Also
    --------
    TorchRenderer : The fast twin with the same ``render`` method.

    Notes
    -----
    The PSF already contains the pixel: it was measured on pixels. Profiles
    are therefore drawn with ``method='no_pixel'``, which samples them at the
    centres of the pixels. The disk of a galaxy is an exponential and the bulge a
    de Vaucouleurs profile without truncation, both sheared to their axis ratio along
    one common angle, as in Patel et al. (2025).

    Examples
    --------
    >>> from bliss_astro.psf import PSFModel
    >>> from bliss_astro.rendering import GalSimRenderer
    >>> image = GalSimRenderer().render(PSFModel(), [20], [10], [100], (21, 41))
    >>> image.shape
    (21, 41)
    >>> [int(i) for i in divmod(image.argmax(), 41)]
    [10, 20]
    """

    def __init__(self, *, interpolated=False, psf_size=51, period=None, gsparams=None):
        sound = psf_size >= 3 and psf_size % 2 == 1
        require(sound, 'psf_size', 'be an odd number of at least 3', psf_size)
        if period is not None:
            check_integer('period', period, 1, error=ValueError)
        self.interpolated = bool(interpolated)
        self.psf_size, self.period = int(psf_size), period
        self.gsparams = gsparams

    @classmethod
    def reference(cls):
        """
        Settings of the reference for other renderers of galaxies.

        The transform is made on 512 x 512 pixels at least, with a
        ``maxk_threshold`` of 1e-4 and a ``kvalue_accuracy`` of 1e-6. Half of
        that grid changes stamps of 53 pixels by less than 1e-6 of their
        peaks; GalSim's defaults are off by up to 1e-4.
        """
        import galsim

        return cls(period=_REFERENCE_PERIOD, gsparams=galsim.GSParams(**_REFERENCE))

    def __repr__(self):
        return (
            f'GalSimRenderer(interpolated={self.interpolated}, '
            f'psf_size={self.psf_size}, period={self.period}, '
            f'gsparams={self.gsparams!r})'
        )

    def render(self, psf, x, y, flux, shape, *, galaxy=None, stamp_size=None):
        """
        Draw one field of stars, or of galaxies.

        Parameters
        ----------
        psf, x, y, flux, shape, galaxy
            As for `TorchRenderer.render`.

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
            If the lists do not have one length, hold something that is not
            finite or out of its range, or if ``shape`` or ``stamp_size`` are not
            positive integers.
        """
        import galsim

        (x, y, flux, *shapes), (ny, nx) = _check_sources(x, y, flux, shape, galaxy)
        if stamp_size is not None:
            check_integer('stamp_size', stamp_size, 1, error=ValueError)
        elif self.interpolated:
            stamp_size = self.psf_size
        # Pixels count from 0, as everywhere in this package.
        image = galsim.ImageD(galsim.BoundsI(0, nx - 1, 0, ny - 1), init_value=0)
        profile = self._psf(psf, interpolated=self.interpolated and galaxy is None)
        for k in np.flatnonzero(flux):
            bounds = image.bounds
            if galaxy is not None:
                pair = [flux[k] * galaxy_profile(shapes[0][k]), profile]
                own = galsim.Convolve(pair, gsparams=self.gsparams)
                bounds = self._grid(bounds, x[k], y[k])
            else:
                own = profile.withFlux(profile.flux * flux[k])
                if stamp_size is not None:
                    bounds &= _square(x[k], y[k], stamp_size)
                    if not bounds.isDefined():
                        continue
            center = galsim.PositionD(x[k], y[k])
            part = galsim.ImageD(bounds, init_value=0)
            own.drawImage(image=part, method='no_pixel', center=center, scale=1.0)
            bounds &= image.bounds
            image[bounds] += part[bounds]
        return image.array.copy()

    def _psf(self, psf, *, interpolated):
        """PSF of unit flux, centred on the origin, as a GalSim object."""
        import galsim

        unit = psf.from_shape(
            psf.shape_vector, normalization_radius=psf.normalization_radius
        )
        if not interpolated:
            profile = unit.to_galsim()
            return profile.withGSParams(self.gsparams) if self.gsparams else profile
        half = self.psf_size // 2
        rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
        # Not rescaled to a sum of one: a flux stays that within the
        # normalisation radius.
        pixels = galsim.Image(np.asarray(unit(columns, rows)), scale=1.0)
        return galsim.InterpolatedImage(pixels, gsparams=self.gsparams)

    def _grid(self, bounds, x, y):
        """Bounds of the image, or of a square around the galaxy that contains it."""
        if self.period is None:
            return bounds
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        half = max(
            (self.period + 1) // 2,
            *(abs(column - edge) for edge in (bounds.xmin, bounds.xmax)),
            *(abs(row - edge) for edge in (bounds.ymin, bounds.ymax)),
        )
        return _square(x, y, 2 * half + 1)


def galaxy_profile(galaxy):
    """Galaxy (6,) of unit flux as a GalSim object, before the PSF."""
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


def _square(x, y, size):
    """Square of ``size`` pixels around the pixel that holds (x, y)."""
    import galsim

    # An even square has one pixel more on the side of lower coordinates.
    left, bottom = (int(np.floor(v + 0.5)) - size // 2 for v in (x, y))
    return galsim.BoundsI(left, left + size - 1, bottom, bottom + size - 1)


def _check_sources(x, y, flux, shape, galaxy, **options):
    """Sources as float arrays of one length, and the shape of the image."""
    columns = {'x': x, 'y': y, 'flux': flux}
    for name, values in columns.items():
        columns[name] = values = np.atleast_1d(np.asarray(values, dtype=float))
        sound = values.ndim == 1 and np.isfinite(values).all()
        require(sound, name, 'be a list of finite numbers', values)
    lengths = {name: len(values) for name, values in columns.items()}
    sound = len({*lengths.values()}) == 1
    require(sound, 'x, y and flux', 'have the same length', lengths)
    columns, n = list(columns.values()), lengths['x']
    if galaxy is not None:
        galaxy = np.reshape(galaxy, (n, -1 if n else 6))
        columns.append(check_galaxies(galaxy, **options))
    return columns, check_image_shape('shape', shape)


# The order of arguments of the classes of galaxies alone, deprecated.
def _of_galaxies(renderer):
    class GalaxyRenderer(renderer):
        def render(self, psf, x, y, flux, galaxy, shape):
            return super().render(psf, x, y, flux, shape, galaxy=galaxy)

    return GalaxyRenderer


TorchGalaxyRenderer, GalSimGalaxyRenderer = map(
    _of_galaxies, (TorchRenderer, GalSimRenderer)
)
