# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Result of the estimation of a PSF: PSF, errors, stars, figure.
"""

import dataclasses

import numpy as np

from ._compact_sources import TO_FWHM
from ._joint_fit import StampFit
from ._profile import profile, squared_radius, unit_profile

__all__ = ['PSFEstimate', 'StarFit', 'star_table']


@dataclasses.dataclass
class StarFit:
    """
    Joint fit of n stars with all that it rests on.

    ``chosen`` are the indices of the stars among the sources (n,), ``used`` which of
    them fit like the others (n,), ``corner`` the position (x, y) of the first pixel of
    the stamps (n, 2), and ``residual`` the rms residual in units of the peak.
    """

    fit: StampFit
    chosen: np.ndarray
    used: np.ndarray
    stamps: np.ndarray
    bad: np.ndarray
    weights: np.ndarray
    corner: np.ndarray
    residual: float

    @property
    def residuals(self):
        """Residuals of the stamps in units of the noise, (n, rows, columns)."""
        return self.stamps - self.fit.model(self.stamps.shape[1:])

    @property
    def places(self):
        """Positions (x, y) on the image, (n, 2)."""
        return self.fit.local[:, 1:3] + self.corner


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
    _fit: StarFit = dataclasses.field(repr=False)

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
        if len(axes) != 3:
            msg = f'axes must be three Axes, got {len(axes)}'
            raise ValueError(msg)
        _plot_locus(axes[0], self.stars)
        _plot_profile(axes[1], self.central, self._fit)
        _plot_residual(axes[2], self)
        return axes


def star_table(sources, locus, stars, offsets, errors, image):
    """Make the table of all compact sources."""
    from astropy import units as u
    from astropy.table import QTable

    n, chosen = len(sources), stars.chosen
    flux, own, own_error = (np.full(n, np.nan) for _ in range(3))
    x, y = sources.x.astype(float), sources.y.astype(float)
    reasons = locus.reasons.copy()
    reasons[reasons == ''] = 'not needed'
    dropped = chosen[~stars.used]
    reasons[dropped[reasons[dropped] == 'not needed']] = 'fits badly'
    is_used = np.zeros(n, bool)
    is_used[chosen[stars.used]] = True
    reasons[is_used] = ''
    flux[chosen] = stars.fit.local[:, 0] * image.noise
    x[chosen], y[chosen] = stars.places.T
    own[chosen], own_error[chosen] = offsets[:, 0], errors[:, 0]
    unit = u.dimensionless_unscaled if image.unit is None else image.unit
    table = QTable(
        {
            'x_centroid': x * u.pix,
            'y_centroid': y * u.pix,
            'flux': flux * unit,
            'snr': sources.snr.astype(float),
            'fwhm': TO_FWHM * sources.width.astype(float) * u.pix,
            'ellipticity': np.hypot(sources.e1, sources.e2).astype(float),
            'width_offset': own,
            'width_offset_err': own_error,
            'used': is_used,
            'reason': reasons,
        }
    )
    for name in ('x_centroid', 'y_centroid'):
        table[name].info.format = '.2f'
    for name in ('snr', 'fwhm', 'ellipticity', 'width_offset', 'width_offset_err'):
        table[name].info.format = '.3g'
    return table


def _plot_locus(ax, stars):
    """Draw size against brightness."""
    for used, name, color in ((False, 'other', '0.7'), (True, 'used', 'C0')):
        own = stars[stars['used'] == used]
        ax.plot(own['snr'], own['fwhm'].value, '.', color=color, label=name)
    ax.set(xscale='log', xlabel='signal-to-noise ratio', ylabel='FWHM of moments / px')
    top = np.median(stars['fwhm'][stars['used']].value)
    ax.set_ylim(0, 3 * top)
    ax.legend()


def _plot_profile(ax, psf, stars):
    """Draw the pixels of the stars over the model."""
    fit, shape, good = stars.fit, psf.shape_vector, ~stars.bad
    flux, x, y, level = fit.local.T[..., None, None]
    yy, xx = np.mgrid[: good.shape[1], : good.shape[2]]
    radius = np.sqrt(squared_radius(xx - x, yy - y, *shape[6:]))[good]
    peak = flux * unit_profile(0.0, 0.0, fit.shape, fit.radius)
    value = ((stars.stamps - level) / peak)[good]
    some = slice(None, None, max(1, len(radius) // 4000))
    ax.plot(radius[some], value[some], ',', color='0.6')
    grid = np.linspace(0, radius.max(), 300)
    ax.plot(grid, profile(np.square(grid), shape) / profile(0, shape), color='C1')
    ax.set(yscale='log', ylim=(1e-4, 2), xlabel='radius / px', ylabel='flux / peak')
    ax.set_title(f'FWHM {psf.fwhm:.2f} px, area {psf.n_eff:.1f} px$^2$')


def _plot_residual(ax, estimate):
    """Draw the mean of the residuals in units of the peak."""
    height = np.max(estimate.stamps, axis=(1, 2))
    mean = np.nanmedian(estimate.residuals / height[:, None, None], axis=0)
    top = max(float(np.nanmax(np.abs(mean))), 1e-6)
    image = ax.imshow(
        100 * mean, origin='lower', cmap='RdBu_r', vmin=-100 * top, vmax=100 * top
    )
    ax.figure.colorbar(image, ax=ax, label='median residual / % of peak')
    ax.set(xlabel='x / px', ylabel='y / px')
