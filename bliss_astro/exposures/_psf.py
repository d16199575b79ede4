# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSFs of all kinds that an `Exposure` may hold, behind one interface; limiting flux.
"""

from copy import copy

import astropy.units as u
import numpy as np

from bliss_astro._arguments import check_number, require
from bliss_astro.psf import PSFModel, VaryingPSF
from bliss_astro.psf._kinds import ImagePSF, ModelPSF, varying_psf
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, core_centre
from bliss_astro.psf._profile import (
    half_maximum_radius,
    profile,
    squared_radius,
    unit_profile,
)

# Signal-to-noise ratio of the star that is the depth of an exposure.
_DEPTH_SNR = 5
# Least factor of the variance of sums by correlated noise.
_MIN_EXCESS = 0.2


class PSFAccess:
    """The PSF of an image at any of its pixels: ``psf`` is as it was given."""

    def __init__(self, psf):
        self.psf = psf
        plain = psf is None or isinstance(psf, PSFModel)
        self._source = psf if plain else varying_psf(psf)

    @property
    def varies(self):
        """Whether the PSF depends on the place."""
        return isinstance(self._source, VaryingPSF) and self._source.varies

    def cutout(self, x0, y0):
        """Return the access of a cut-out that begins at pixel (x0, y0)."""
        if not isinstance(self._source, VaryingPSF) or (x0, y0) == (0, 0):
            return self
        other = copy(self)
        other._source = self._source.shifted(x0, y0)
        if not isinstance(self._source, ModelPSF | ImagePSF):
            other.psf = other._source
        return other

    def at(self, x, y):
        """Return the `PSFModel` at a place (pixels): a fit to a PSF of another kind."""
        source = self._known()
        is_model = isinstance(source, PSFModel)
        return source if is_model else source.at(float(x), float(y))

    def _known(self):
        if self._source is None:
            msg = 'this exposure has no psf; give it one with replace(psf=...).'
            raise ValueError(msg)
        return self._source

    def shapes(self, xs, ys):
        """Shape parameters on a grid of places (pixels), ``(len(ys), len(xs), 8)``."""
        xs, ys = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (xs, ys))
        if self.varies:
            return self._source.shape_grid(xs, ys)
        one = np.asarray(self.at(0, 0).shape_vector, dtype=float)
        return np.tile(one, (len(ys), len(xs), 1))

    def shapes_at(self, x, y):
        """Shape parameters at n places (pixels), ``(n, 8)``."""
        if self.varies:
            return self._source.shapes_at(x, y)
        return np.tile(self.shapes(0, 0)[0], (len(x), 1))

    def gaussians(self, xs, ys):
        """The PSF as `GaussianPSF` on a grid of places, ``(len(ys), len(xs))``."""
        xs, ys = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (xs, ys))
        return self._known().gaussians(xs, ys)

    def drawn_with_model(self, x, y):
        """
        Return the PSF's image at a place beside its analytic form there.

        Two images on one grid and of equal sums, or `None` for a PSF that has the
        analytic form.
        """
        is_model = isinstance(self.psf, PSFModel)
        image = None if is_model else self._source.image(x, y)
        if image is None:
            return None
        shape, image = self.shapes(x, y)[0, 0], image / image.sum()
        x_0, y_0 = core_centre(image, 2 * float(half_maximum_radius(shape)))
        grid_y, grid_x = np.indices(image.shape)
        model = profile(squared_radius(grid_x - x_0, grid_y - y_0, *shape[6:]), shape)
        return image, model / model.sum()


def central_psf(exposure):
    """Return the PSF in the middle of an exposure, as a `PSFModel`."""
    ny, nx = exposure.shape
    return exposure.psf_at(nx // 2, ny // 2)


def draw_psf_model(model, offsets):
    """Draw a PSF of unit flux on a square of pixels at those offsets from it."""
    grid, radius = np.meshgrid(offsets, offsets), model.normalization_radius
    return unit_profile(*grid, model.shape_vector, radius)


def limiting_flux(exposure, noise, area, snr):
    """Flux of a star of a signal-to-noise ratio, the noise's correlation included."""
    x, y = exposure.noise_correlation
    excess = max((1 + 2 * x) * (1 + 2 * y), _MIN_EXCESS)
    return snr * noise * float(np.sqrt(area * excess))


def describe(exposure):
    """Shape, unit, sky, noise, seeing and depth of an exposure in one line."""
    ny, nx = exposure.shape
    known = (part for part in (exposure.band, exposure.unit) if part is not None)
    parts = [f'{ny} x {nx} px', *map(str, known)]
    good = ~exposure.mask
    level, noise = (
        float(np.median(np.broadcast_to(value, exposure.shape)[good]))
        for value in (exposure.background, exposure.bkg_error)
    )
    parts += [f'background {level:.4g}' if level else '', f'bkg_error {noise:.4g}']
    if exposure.psf is not None:
        parts += _seeing_and_depth(exposure, noise)
    if exposure.mask.any():
        parts.append(f'{100 * exposure.mask.mean():.2g} % masked')
    return f'<{type(exposure).__name__} {", ".join(filter(None, parts))}>'


def _seeing_and_depth(exposure, noise):
    try:
        psf = central_psf(exposure)
        fwhm, area = float(psf.fwhm), float(psf.n_eff)
    except Exception:  # noqa: BLE001 - a repr must not fail
        return [f'psf {type(exposure.psf).__name__}']
    seeing, scale = f'FWHM {fwhm:.2f} px', exposure.pixel_scale
    if scale is not None:
        seeing += f' = {fwhm * scale:.2f}"'
    depth = limiting_flux(exposure, noise, area, _DEPTH_SNR)
    text = f'{_DEPTH_SNR} sigma at {depth:.3g}'
    flux, maggies = depth * (exposure.unit or u.one), u.zero_point_flux(1 * u.AB)
    if flux.unit.is_equivalent(u.AB, maggies):
        text += f' ({flux.to_value(u.ABmag, maggies):.2f} mag)'
    return [seeing, text]


def psf_of_fwhm(fwhm, exposure):
    """Make a PSF of a FWHM in pixels, or an angle by the WCS of the exposure."""
    if isinstance(fwhm, u.Quantity):
        angle = fwhm.unit.is_equivalent(u.arcsec)
        good = angle or fwhm.unit.is_equivalent(u.pix)
        require(good, 'fwhm', 'be in pixels or an angle', fwhm.unit)
        if angle and exposure.pixel_scale is None:
            msg = 'fwhm is an angle and data has no celestial wcs; give it in pixels.'
            raise ValueError(msg)
        pixel = exposure.pixel_scale * u.arcsec if angle else u.pix
        fwhm = (fwhm / pixel).to_value(u.one)
    value = check_number('fwhm', fwhm, sign='positive')
    widest = 2 * DEFAULT_NORMALIZATION_RADIUS
    require(value <= widest, 'fwhm', f'be at most {widest:.1f} px', f'{value:g}')
    return PSFModel.from_fwhm(value)
