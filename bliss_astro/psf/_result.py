# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimate of a PSF with errors and figure, and the stars that it rests on.
"""

import dataclasses

import astropy.units as u
import numpy as np
from scipy.ndimage import label
from scipy.spatial import cKDTree

from bliss_astro._arguments import require
from bliss_astro.units import typical

from ._fit import cut_stamps
from ._joint_fit import StampFit, fit_stars, own_shapes, rms
from ._profile import (
    effective_pixels,
    half_maximum_radius,
    integral,
    profile,
    squared_radius,
    unit_profile,
)
from ._stars import TO_FWHM, places_of
from ._varying import excess_scatter, trend
from ._wing_prior import THETA_STEP, to_shape, typical_shape

# Stars of the fit at most, and pixels of all stamps together, which bound the time; but
# no fewer stars than that.
_MAX_STARS, _MAX_PIXELS, _MIN_STARS = 100, 60_000, 5
# Half sides of the stamps, in FWHM, and their limits in pixels. Radius of what is
# masked around other sources, in FWHM.
_HALF_SIDE, _HALF_SIDE_RANGE, _MASK_RADIUS = 3.2, (7, 24), 1.5
# Prior width of the stars' own backgrounds in units of the noise of the sky.
_BACKGROUND_WIDTH = 0.7
# Relative error of the model, so that the brightest star does not outvote the others.
_MODEL_ERROR = 0.01
# Error of widths added in fits of planes.
_PLANE_ERROR = 0.02
# Sigmas by which a left-out star is wider or narrower than the others; the sigma
# contains a scatter of the widths within these limits.
_MAX_WIDER, _MAX_NARROWER, _SCATTER_RANGE = 2.5, 3.5, (0.015, 0.1)
# Fewer stars cannot check each other.
MIN_REAL_STARS = 3
# Radius of the polynomial of the core's mean residual in half-maximum radii.
_CORE_RADIUS = 1.6
# Pixels that share the largest value where it is a plateau of saturation, and the share
# of its level from which stars are no longer linear.
_MIN_PLATEAU, _LINEAR_SHARE = 4, 0.9
# Width of the rings of mean residuals in half-maximum radii, and at least in pixels.
_RING_WIDTH, _MIN_RING_WIDTH = 0.3, 0.4


@dataclasses.dataclass(frozen=True)
class PSFEstimate:
    """
    PSF of an image as its own stars show it.

    Attributes
    ----------
    psf : `PSFModel` or `PolynomialPSF`
        The PSF; it varies where stars are many and show that it does.

    psf_error : float
        Relative standard error of its width, or half that of its effective area
        where this is larger, as fluxes depend on the area; the ``psf_error`` of an
        exposure.

    fwhm_error : float
        Standard error of the full width at half maximum in pixels.

    effective_area_error : float
        Standard error of the effective area ``1 / integral(psf**2)`` in square pixels.
        Both contain the noise, what the mean residual of the stars shows of a profile
        that the model cannot follow, and the scatter of the stars' widths where that
        is significant.

    width_scatter : float
        Scatter (1 sigma, relative) of the widths of the stars beyond their noise.

    stars : `~astropy.table.QTable`
        Every compact source: ``x_centroid``, ``y_centroid``, ``flux`` (within the
        normalisation radius; NaN of those that were not fitted), ``snr``, ``fwhm``
        (of a Gaussian with the moments of the source), ``ellipticity``,
        ``width_offset`` and its error (relative width against the fit; NaN of
        those not fitted), ``used``, and the ``reason`` of those that were not.

    stamps, residuals : (n, size, size) array
        Stamps of the fitted stars, and what the fit leaves of them, in the unit of
        the image; bad pixels are NaN in the residuals.

    findings : tuple of str
        Sentences on what limits the PSF.

    central : `PSFModel`
        One PSF for the whole image: the joint fit.
    """

    psf: object
    psf_error: float
    fwhm_error: float
    effective_area_error: float
    width_scatter: float
    stars: object
    stamps: np.ndarray
    residuals: np.ndarray
    findings: tuple
    central: object
    _fit: object = dataclasses.field(repr=False)

    @property
    def n_stars(self):
        """Number of stars that the PSF rests on."""
        return int(np.count_nonzero(self.stars['used']))

    @property
    def fwhm(self):
        """Full width at half maximum in pixels."""
        return self.psf.fwhm

    def __repr__(self):
        return (
            f'<PSFEstimate fwhm {self.fwhm:.3f} px, psf_error {self.psf_error:.3f}, '
            f'{self.n_stars} stars>'
        )

    def summary(self):
        """
        Return the estimate as a line of text.

        Returns
        -------
        text : str
            FWHM with its error, stars, and whether the PSF varies.
        """
        varies = ', varying over the image' if self.psf is not self.central else ''
        return (
            f'fit to {self.n_stars} star{"s"[: self.n_stars != 1]} of the image: FWHM '
            f'{self.fwhm:.3f} +- {self.fwhm_error:.3f} px{varies}'
        )

    def plot(self, *, axes=None):
        """
        Plot size against brightness, the profile, and the mean residual.

        Parameters
        ----------
        axes : sequence of 3 `~matplotlib.axes.Axes`, optional
            Axes of a figure; a new figure by default.

        Returns
        -------
        axes : array of 3 `~matplotlib.axes.Axes`
            Locus of the stars; radial profile of the stars used over the model; mean
            residual in units of the peak.
        """
        import matplotlib.pyplot as plt

        if axes is None:
            _, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout='constrained')
        axes = np.asarray(axes, dtype=object).ravel()
        require(len(axes) == 3, 'axes', 'be three Axes', len(axes))
        self._plot_locus(axes[0])
        self._plot_profile(axes[1])
        self._plot_residual(axes[2])
        return axes

    def _plot_locus(self, ax):
        for used, name, color in ((False, 'other', '0.7'), (True, 'used', 'C0')):
            own = self.stars[self.stars['used'] == used]
            ax.plot(own['snr'], own['fwhm'].value, '.', color=color, label=name)
        ax.set(xscale='log', xlabel='signal-to-noise ratio', ylabel='FWHM / px')
        ax.set_ylim(0, 3 * np.median(own['fwhm'].value))
        ax.legend()

    def _plot_profile(self, ax):
        psf, fit, good = self.central, self._fit, np.isfinite(self.residuals)
        shape = psf.shape_vector
        offsets = fit.offsets(good.shape[1:])
        radius = np.sqrt(squared_radius(*offsets, *shape[6:]))[good]
        flux, level = fit.local[:, :1, None], fit.local[:, 3:, None]
        peak = flux * unit_profile(0.0, 0.0, fit.shape, fit.radius)
        some = slice(None, None, max(1, len(radius) // 4000))
        value = ((self.stamps - level) / peak)[good]
        ax.plot(radius[some], value[some], ',', color='0.6')
        grid = np.linspace(0, radius.max(), 300)
        ax.plot(grid, profile(np.square(grid), shape) / profile(0, shape), color='C1')
        ax.set(yscale='log', ylim=(1e-4, 2), xlabel='radius / px', ylabel='flux / peak')
        ax.set_title(f'FWHM {psf.fwhm:.2f} px, area {psf.n_eff:.1f} px$^2$')

    def _plot_residual(self, ax):
        height = np.max(self.stamps, axis=(1, 2))[:, None, None]
        mean = 100 * np.nanmedian(self.residuals / height, axis=0)
        top = max(float(np.nanmax(np.abs(mean))), 1e-4)
        image = ax.imshow(mean, origin='lower', cmap='RdBu_r', vmin=-top, vmax=top)
        ax.figure.colorbar(image, ax=ax, label='median residual / % of peak')
        ax.set(xlabel='x / px', ylabel='y / px')


@dataclasses.dataclass
class StarImage:
    """
    An image over its noise: bad and (nearly) saturated pixels, noise, photons.

    ``noise`` is typical, in the unit of the image, ``photon`` the variance that a unit
    of pull adds.
    """

    pull: np.ndarray
    bad: np.ndarray
    full: np.ndarray
    noise: float
    photon: float

    @classmethod
    def of(cls, exposure):
        """Take an exposure without its sky."""
        data, sky = exposure.data, np.asarray(exposure.background, float)
        noise = typical(exposure.bkg_error)
        full = exposure.saturated.copy()
        pull = np.subtract(data, sky, dtype=float)
        pull /= exposure.bkg_error
        if exposure.saturation is not None:
            full |= data >= exposure.saturation
        bad = exposure.mask | ~np.isfinite(pull)
        top = np.where(bad, -np.inf, data).max()
        flat = ~bad & (data >= top - 1e-6 * abs(top))
        n_flat = np.count_nonzero(flat)
        # Several neighbouring pixels that share the largest value are a plateau.
        if n_flat >= _MIN_PLATEAU and n_flat >= 2 * label(flat)[1]:
            full |= ~bad & (data - sky >= _LINEAR_SHARE * (top - sky))
        gain = exposure.effective_gain
        photon = 0.0 if gain is None else 1 / (typical(gain) * noise)
        pull = pull.astype(np.float32)
        pull[bad] = 0
        return cls(pull, bad, full, noise, photon)

    def saturated_at(self, sources):
        """Whether a saturated pixel lies in the core of each source."""
        if not self.full.any():
            return np.zeros(len(sources), bool)
        tree = cKDTree(np.argwhere(self.full)[:, ::-1])
        return tree.query(places_of(sources))[0] < 1.5 * sources.width + 1.5


class PSFStars:
    """
    Stamps of the stars among sources, their joint fit, and who agrees with it.
    """

    def __init__(self, image, sources, locus, sample):
        half = int(np.clip(np.ceil(_HALF_SIDE * locus.fwhm), *_HALF_SIDE_RANGE))
        side = 2 * half + 1
        most = min(_MAX_STARS, max(_MIN_STARS, _MAX_PIXELS // side**2))
        self.image, self.sources, self.locus = image, sources, locus
        self._sample = sample
        most = most if locus.n_stars else 2
        self.chosen = np.flatnonzero(locus.reasons == '')[:most]
        self.corners = np.rint(places_of(sources[self.chosen])).astype(int) - half
        bad = cut_stamps(image.bad, self.corners, side, True)
        self.bad = bad | self._neighbours(half)
        stamps = cut_stamps(image.pull, self.corners, side, 0.0).astype(float)
        self.stamps = np.where(self.bad, 0.0, stamps)

    @property
    def places(self):
        """Positions (x, y) on the image, (n, 2)."""
        return self._sample.places(self.fit.local[:, 1:3] + self.corners)

    def _neighbours(self, half):
        """Pixels of stamps that belong to other sources rather than to the star."""
        places, fwhm = places_of(self.sources), 0.95 * self.locus.fwhm
        masks = np.zeros((len(self.chosen), *(2 * (2 * half + 1,))), bool)
        grid = np.moveaxis(np.indices(masks.shape[1:])[::-1], 0, -1)
        for mask, star, corner in zip(masks, self.chosen, self.corners, strict=True):
            off = np.abs(places - places[star])
            apart = np.hypot(*off.T)
            for k in np.flatnonzero((apart > fwhm) & (off.max(1) < 1.5 * half)):
                reach = _MASK_RADIUS * max(fwhm, TO_FWHM * self.sources.width[k])
                distance = np.linalg.norm(grid - (places[k] - corner), axis=-1)
                mask |= distance < min(reach, 0.6 * apart[k])
        return masks

    def fit_shape(self, radius):
        """Fit one shape robustly to all stars."""
        own, locus, photon = self.sources[self.chosen], self.locus, self.image.photon
        shape = typical_shape(0.95 * locus.fwhm)
        shape[6:] = locus.e1, locus.e2
        local = np.c_[own.flux * 1.1, places_of(own) - self.corners, 0 * own.flux]
        options = {'radius': radius, 'background_width': _BACKGROUND_WIDTH}
        self.fit = StampFit.of_star(shape, local, **options)
        self.used, self.weights = fit_stars(
            *(self.fit, self.stamps, self.bad, 1.0, ~self.bad.all((1, 2))),
            background=True,
            model_error=_MODEL_ERROR,
            gain=1 / photon if photon > 0 else None,
            accept=self._accept if len(own) >= MIN_REAL_STARS else None,
        )
        self.offsets, self.errors = own_shapes(self.fit, self.stamps, self.weights)
        self.residual = rms(self.fit, self.stamps, ~self.bad & self.used[:, None, None])

    def _accept(self, weights, used):
        """Stars that are neither wider nor narrower than the others."""
        offsets, errors = (v[:, 0] for v in own_shapes(self.fit, self.stamps, weights))
        sigma = np.where(used, np.hypot(errors, _PLANE_ERROR), np.inf)[:, None]
        off = offsets - trend(self.places, offsets[:, None], sigma)[:, 0]
        scatter, _ = excess_scatter(off[used], errors[used])
        sigma = np.hypot(errors, np.clip(scatter, *_SCATTER_RANGE))
        wide, narrow = off > _MAX_WIDER * sigma, off < -_MAX_NARROWER * sigma
        fine = used & ~wide & ~narrow
        if fine.sum() < MIN_REAL_STARS:
            return used
        reasons = np.where(wide, 'extended', 'fits badly')
        reasons = np.where(narrow, 'sharper than the stars', reasons)
        self.locus.reasons[self.chosen] = np.where(fine, '', reasons)
        return fine

    def relative_errors(self):
        """
        Relative errors of the width and of the effective area of the joint fit.

        The largest of the noise by the covariance of theta, what the mean residual of
        the stars would add to the profile, and the scatter of the stars' shares in
        that, as wings of neighbours make them.
        """
        fit, shape = self.fit, self.fit.shape
        radius = half_maximum_radius(shape)
        varied = to_shape(fit.theta + THETA_STEP * np.eye(8))
        total, pixels = integral(shape, fit.radius), effective_pixels(shape, fit.radius)
        widths = half_maximum_radius(varied.T) / radius
        areas = [effective_pixels(v, fit.radius) / pixels for v in varied]
        slopes = np.log([widths, areas]) / THETA_STEP
        noise = np.einsum('ki,ij,kj->k', slopes, fit.covariance, slopes).clip(0)

        size, flux = self.stamps.shape[1:], fit.local[:, :1, None]
        apart = np.sqrt(squared_radius(*fit.offsets(size), *shape[6:]))
        weights = self.weights * self.used[:, None, None]
        use = (weights > 0) & (apart < min(size) / 2)
        off = ((self.stamps - fit.model(size)) / flux)[use]
        share, apart, star = (
            np.square(weights * flux)[use],
            apart[use],
            np.nonzero(use)[0],
        )
        # At half maximum an even polynomial of the core, less half of what is at the
        # centre, over the slope there.
        design = np.square(apart / radius)[:, None] ** np.arange(3)
        weighted = design * (share * (apart < _CORE_RADIUS * radius))[:, None]
        inverse = np.linalg.pinv(design.T @ weighted, hermitian=True)
        ahead, behind = (profile(np.square(radius * v), shape) for v in (1.01, 0.99))
        in_width = weighted @ inverse @ [0.5, 1, 1] * 0.02 * total / (behind - ahead)
        # Mean residuals in rings, times their share in
        # ln(flux^2 / integral of the square).
        step = max(_RING_WIDTH * radius, _MIN_RING_WIDTH)
        ring = np.rint(apart / step).astype(int)
        area = np.pi * np.diff(
            np.square(step * np.append(0, np.arange(ring.max() + 1) + 0.5))
        )
        in_area = 2 * (area / np.bincount(ring, share))[ring] * share
        in_area *= 1 - profile(np.square(apart), shape) / total * pixels
        n, n_used = len(self.used), int(self.used.sum())
        changes = [np.bincount(star, v * off, n) for v in (in_width, in_area)]
        changes = np.array(changes)[:, self.used]
        scatter = changes.var(1) * n_used**2 / max(n_used - 1, 1)
        return np.sqrt(np.max([noise, np.square(changes.sum(1)), scatter], axis=0))

    def table(self, unit):
        """Make the table of all compact sources."""
        from astropy.table import QTable

        sources, reasons = self.sources, self.locus.reasons

        def spread(values, others):
            others = np.array(np.broadcast_to(others, len(sources)))
            others[self.chosen] = values
            return others

        used, x, y = spread(self.used, False), *self.places.T
        every_x, every_y = self._sample.places(places_of(sources)).T
        reasons = np.where(reasons == '', spread('fits badly', 'not needed'), reasons)
        flux = spread(self.fit.local[:, 0], np.nan)
        table = QTable(
            {
                'x_centroid': spread(x, every_x) * u.pix,
                'y_centroid': spread(y, every_y) * u.pix,
                'flux': flux * (u.dimensionless_unscaled if unit is None else unit),
                'snr': sources.snr.astype(float),
                'fwhm': TO_FWHM * sources.width.astype(float) * u.pix,
                'ellipticity': np.hypot(sources.e1, sources.e2).astype(float),
                'width_offset': spread(self.offsets[:, 0], np.nan),
                'width_offset_err': spread(self.errors[:, 0], np.nan),
                'used': used,
                'reason': np.where(used, '', reasons),
            }
        )
        for name in table.colnames[:-2]:
            table[name].info.format = '.2f' if name.endswith('centroid') else '.3g'
        return table
