# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxies drawn one by one by GalSim: slow, and right if told so.
"""

import numbers

import numpy as np

from ._galaxy_checks import check_galaxies
from ._galsim import _check_shape, _check_stars

__all__ = ['GalSimGalaxyRenderer']

# GalSim's own settings are right to about 1e-4 of the peak.
_REFERENCE = {
    'maxk_threshold': 1e-4,
    'kvalue_accuracy': 1e-6,
    'maximum_fft_size': 16384,
}
_REFERENCE_PERIOD = 512


class GalSimGalaxyRenderer:
    """
    Bulge + disk galaxies, drawn by GalSim.

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
        Settings for what others are measured by.

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
        galaxy = check_galaxies(np.reshape(galaxy, (len(x), -1)) if len(x) else _none())
        unit = psf.from_shape(
            psf.shape_vector, normalization_radius=psf.normalization_radius
        ).to_galsim()
        bounds = galsim.BoundsI(0, shape[1] - 1, 0, shape[0] - 1)
        image = galsim.ImageD(bounds, init_value=0.0)
        for x_0, y_0, flux_0, numbers_0 in zip(x, y, flux, galaxy, strict=True):
            if flux_0 == 0:
                continue
            parts = [flux_0 * galaxy_profile(numbers_0), unit]
            seen = galsim.Convolve(parts, gsparams=self.gsparams)
            part = galsim.ImageD(self._grid(bounds, x_0, y_0))
            seen.drawImage(
                image=part,
                method='no_pixel',
                center=galsim.PositionD(x_0, y_0),
                scale=1.0,
            )
            image += part[bounds]
        return image.array.copy()

    def _grid(self, bounds, x, y):
        """
        The image, or a square around the galaxy that contains it.
        """
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


def _none():
    return np.empty((0, 6))


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
