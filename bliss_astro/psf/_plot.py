# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figure of an estimated PSF.
"""

import numpy as np

from ._profile import profile, squared_radius

__all__ = []

_COLOURS = {'used': 'C0', 'other': '0.7'}


def plot_estimate(estimate, axes):
    """
    Plot locus, profile and mean residual of a `~bliss_astro.psf.PSFEstimate`.
    """
    import matplotlib.pyplot as plt

    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout='constrained')
    axes = np.asarray(axes, dtype=object).ravel()
    if len(axes) != 3:
        msg = f'axes must be three Axes, got {len(axes)}'
        raise ValueError(msg)
    _locus(axes[0], estimate)
    _profile(axes[1], estimate)
    _residual(axes[2], estimate)
    return axes


def _locus(ax, estimate):
    """Draw size against brightness."""
    stars = estimate.stars
    for used, name in ((False, 'other'), (True, 'used')):
        own = stars[stars['used'] == used]
        ax.plot(own['snr'], own['fwhm'].value, '.', color=_COLOURS[name], label=name)
    ax.set(xscale='log', xlabel='signal-to-noise ratio', ylabel='FWHM of moments / px')
    top = np.median(stars['fwhm'][stars['used']].value)
    ax.set_ylim(0, 3 * top)
    ax.legend()


def _profile(ax, estimate):
    """Draw the pixels of the stars over the model."""
    psf, stamps = estimate.central, estimate.stamps
    shape = psf.shape_vector
    values, radii = [], []
    yy, xx = np.mgrid[: stamps.shape[1], : stamps.shape[2]]
    model = stamps - estimate.residuals
    for stamp, own in zip(stamps, model, strict=True):
        # The place and height of each star are those of its model.
        row, column = np.unravel_index(np.nanargmax(own), own.shape)
        light = np.nan_to_num(own[row - 2 : row + 3, column - 2 : column + 3])
        y, x = np.mgrid[row - 2 : row + 3, column - 2 : column + 3]
        total = light.sum()
        x, y = (x * light).sum() / total, (y * light).sum() / total
        radius = np.sqrt(squared_radius(xx - x, yy - y, *shape[6:]))
        form = profile(np.square(radius), shape)
        good = np.isfinite(own)
        height = (own * form)[good].sum() / (form * form)[good].sum()
        values.append((stamp / height / profile(0, shape))[good])
        radii.append(radius[good])
    radius, value = np.concatenate(radii), np.concatenate(values)
    some = slice(None, None, max(1, len(radius) // 4000))
    ax.plot(radius[some], value[some], ',', color='0.6')
    grid = np.linspace(0, radius.max(), 300)
    ax.plot(grid, profile(np.square(grid), shape) / profile(0, shape), color='C1')
    ax.set(yscale='log', ylim=(1e-4, 2), xlabel='radius / px', ylabel='flux / peak')
    ax.set_title(f'FWHM {psf.fwhm:.2f} px, area {psf.n_eff:.1f} px$^2$')


def _residual(ax, estimate):
    """Draw the mean of the residuals in units of the peak."""
    height = np.max(estimate.stamps, axis=(1, 2))
    mean = np.nanmedian(estimate.residuals / height[:, None, None], axis=0)
    top = max(float(np.nanmax(np.abs(mean))), 1e-6)
    image = ax.imshow(
        100 * mean, origin='lower', cmap='RdBu_r', vmin=-100 * top, vmax=100 * top
    )
    ax.figure.colorbar(image, ax=ax, label='median residual / % of peak')
    ax.set(xlabel='x / px', ylabel='y / px')
