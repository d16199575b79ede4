# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Whether the pixels of an image are distributed as is said of them.
"""

import numpy as np

__all__ = ['PIXEL_LIMITS', 'brightest_flux', 'pixel_statistics']

# Side in pixels of the cells that are looked at one by one.
_CELL = 256
# A cell with fewer good pixels says nothing.
_FEWEST = 500
# Quantiles of the normal distribution: sources spare the darker half.
_LOW, _LOW_SIGMA = 2.275, 2.0
_FAR = -7.0

# What is taken for ordinary: simulations of every density that the bundled
# encoders know stay inside, and a noise that is wrong by a quarter does not.
# A level has no upper limit, because faint sources raise it.
PIXEL_LIMITS = {
    'pixel_scatter': (0.85, 1.2),
    'pixel_level': (-0.5, np.inf),
    'pixel_holes': (0.0, 1e-3),
}
# Where the median is above this, sources widen the distribution too.
_EMPTY_LEVEL = 0.4

# Pixels above so many sigma belong to a source, as in SExtractor by default,
# and a flux of that signal-to-noise ratio may be there whatever the pixels look like.
_SEGMENT, _FAINT_SNR = 1.5, 10.0


def brightest_flux(exposure):
    """
    Flux that no source of an image exceeds by much.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, with its PSF.

    Returns
    -------
    flux : float
        The largest sum of connected pixels above the sky, at least the flux of a
        faint star, in the unit of the image.
    """
    from scipy.ndimage import label, sum_labels

    light = np.where(exposure.mask, 0.0, exposure.data - exposure.background)
    above = light > _SEGMENT * exposure.bkg_error
    labels, n = label(above, structure=np.ones((3, 3)))
    sums = sum_labels(light, labels, np.arange(1, n + 1))
    ny, nx = exposure.shape
    area = exposure.psf_at(nx // 2, ny // 2).n_eff
    faint = _FAINT_SNR * np.median(exposure.bkg_error) * np.sqrt(area)
    return float(np.max(sums, initial=faint))


def pixel_statistics(image, good, *, shape):
    """
    Statistics of the pixels in units of the stated noise, by cells of 256 px.

    Parameters
    ----------
    image : 2D array
        Background-subtracted, in units of the noise.

    good : 2D bool array
        Pixels that count.

    shape : tuple of int
        Rows and columns of the maps to return (tiles).

    Returns
    -------
    facts : dict of str to 2D array
        ``pixel_scatter``, from the pixels darker than the median, over
        the stated noise (where sources are too many for it to mean noise, at
        most 1); ``pixel_level``, the median over the noise;
        ``pixel_holes``, the share of pixels 7 sigma too dark.  NaN
        where there are too few pixels.
    """
    ny, nx = image.shape
    n_rows, n_columns = -(-ny // _CELL), -(-nx // _CELL)
    maps = np.full((3, n_rows, n_columns), np.nan)
    for i, rows in enumerate(np.array_split(np.arange(ny), n_rows)):
        for j, columns in enumerate(np.array_split(np.arange(nx), n_columns)):
            cell = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            # Every fourth pixel of a large cell tells as much.
            step = 2 if image[cell].size > 20000 else 1
            values = image[cell][::step, ::step][good[cell][::step, ::step]]
            if len(values) >= _FEWEST:
                low, middle = np.percentile(values, (_LOW, 50))
                scatter = (middle - low) / _LOW_SIGMA
                if middle > _EMPTY_LEVEL:
                    scatter = min(scatter, 1.0)
                maps[:, i, j] = scatter, middle, np.mean(values < _FAR)
    row = np.minimum(np.arange(shape[0]) * n_rows // shape[0], n_rows - 1)
    column = np.minimum(np.arange(shape[1]) * n_columns // shape[1], n_columns - 1)
    return dict(zip(PIXEL_LIMITS, maps[:, row[:, None], column], strict=True))
