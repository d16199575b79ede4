# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Result of the estimation of a PSF.
"""

import dataclasses

import numpy as np

from ._candidates import TO_FWHM

__all__ = ['PSFEstimate']


@dataclasses.dataclass(frozen=True)
class PSFEstimate:
    """
    PSF of an image as its own stars show it.

    Attributes
    ----------
    psf : `PSFModel` or `VaryingPSF`
        The PSF; it varies where stars are many and show that it does.

    psf_error : float
        Relative standard error of its width, or half that of its effective area
        where this is larger, as fluxes depend on the area; what an exposure takes.

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
        What a user of the PSF should know, a sentence each.

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
        Say in a line what was estimated.

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
            Where to plot; a new figure by default.

        Returns
        -------
        axes : array of 3 `~matplotlib.axes.Axes`
            Locus of the stars; radial profile of the stars used over the model; mean
            residual in units of the peak.
        """
        from ._plot import plot_estimate

        return plot_estimate(self, axes)


def star_table(sources, locus, chosen, used, fit, work, offsets, errors, image):
    """
    Make the table of all compact sources.
    """
    from astropy import units as u
    from astropy.table import QTable

    n = len(sources)
    flux, own, own_error = (np.full(n, np.nan) for _ in range(3))
    x, y = sources.x.astype(float), sources.y.astype(float)
    reasons = locus.reasons.copy()
    reasons[reasons == ''] = 'not needed'
    is_used = np.zeros(n, bool)
    is_used[chosen[used]] = True
    dropped = chosen[~used]
    reasons[dropped[reasons[dropped] == 'not needed']] = 'fits badly'
    reasons[is_used] = ''
    flux[chosen] = fit.local[:, 0] * image.noise
    x[chosen], y[chosen] = (fit.local[:, 1:3] + work['corner']).T
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
