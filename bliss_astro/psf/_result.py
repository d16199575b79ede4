# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Result of the estimation of a PSF: PSF, errors, stars, figure.
"""

import dataclasses

import numpy as np

from ._profile import profile, squared_radius, unit_profile
from ._stars import TO_FWHM


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
        if len(axes) != 3:
            msg = f'axes must be three Axes, got {len(axes)}'
            raise ValueError(msg)
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


def star_table(stars, noise, unit):
    """Make the table of all compact sources; fluxes are in units of the noise."""
    from astropy import units as u
    from astropy.table import QTable

    sources, chosen = stars.sources, stars.chosen

    def spread(values, others):
        others = np.array(np.broadcast_to(others, len(sources)))
        others[chosen] = values
        return others

    used = spread(stars.used, False)
    reasons = np.where(stars.locus.reasons == '', 'not needed', stars.locus.reasons)
    own = reasons[chosen]
    reasons[chosen] = np.where(own == 'not needed', 'fits badly', own)
    x, y = stars.places.T
    flux = spread(stars.fit.local[:, 0] * noise, np.nan)
    table = QTable(
        {
            'x_centroid': spread(x, sources.x) * u.pix,
            'y_centroid': spread(y, sources.y) * u.pix,
            'flux': flux * (u.dimensionless_unscaled if unit is None else unit),
            'snr': sources.snr.astype(float),
            'fwhm': TO_FWHM * sources.width.astype(float) * u.pix,
            'ellipticity': np.hypot(sources.e1, sources.e2).astype(float),
            'width_offset': spread(stars.offsets[:, 0], np.nan),
            'width_offset_err': spread(stars.errors[:, 0], np.nan),
            'used': used,
            'reason': np.where(used, '', reasons),
        }
    )
    for name in table.colnames[:-2]:
        table[name].info.format = '.2f' if name.endswith('centroid') else '.3g'
    return table
