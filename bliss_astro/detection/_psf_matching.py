# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
PSF matching: images as a PSF of the analytic form would give them.

The fits of sources, and the networks trained with them, describe a PSF by ellipses.
Where an image of the PSF is known (eigen-images of SDSS, photutils' models, arrays),
it has coma, spikes and ghosts beside. A small kernel K with

    P - K * P = P_analytic

takes them off all sources at once, stars and galaxies alike, by ``image - K * image``;
only bright pixels need it, and of them alone it is done, so that the noise stays
what it was.
"""

import numpy as np

__all__ = ['match_psf', 'matching_kernel']

# Residuals of the PSF below this share of its peak are left alone.
_LEAST = 3e-3
# Half the side of a kernel in pixels, and the regularisation of the division by the
# PSF's transform, as a share of its power at zero wavenumber.
_REACH, _REGULARISATION = 25, 1e-4
# Cells in which one kernel holds, in pixels, and how many along an axis at most.
_CELL, _MOST_CELLS = 400, 4
# Signal over noise at which pixels begin to count, and from which on they do wholly.
_FAINT, _BRIGHT = 4.0, 10.0


def matching_kernel(image, model):
    """
    Kernel that takes from a PSF what its analytic form does not have.

    Parameters
    ----------
    image, model : 2D array
        The PSF and its analytic form on one grid of odd sides.

    Returns
    -------
    kernel : 2D array
        K of ``image - K * image = model``, of 51 px at most, to be centred.
    """
    shape = tuple(2 * n for n in image.shape)
    ny, nx = image.shape
    # With its middle at the origin.
    psf = np.fft.rfft2(np.roll(_padded(image, shape), (-(ny // 2), -(nx // 2)), (0, 1)))
    rest = np.fft.rfft2(_padded(image - model, shape))
    power = np.abs(psf) ** 2
    ratio = rest * np.conj(psf) / (power + _REGULARISATION * power[0, 0])
    kernel = np.fft.irfft2(ratio, shape)[:ny, :nx]
    half = (min(ny, nx) - 1) // 2
    reach = min(_REACH, half)
    rows, columns = slice(ny // 2 - reach, None), slice(nx // 2 - reach, None)
    kernel = kernel[rows, columns][: 2 * reach + 1, : 2 * reach + 1]
    # The edge fades, so that no step is drawn around bright stars.
    axis = np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
    window = np.cos(0.5 * np.pi * np.clip(4 * axis - 3, 0, 1)) ** 2
    return kernel * window[:, None] * window


def _padded(image, shape):
    out = np.zeros(shape)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def match_psf(image, exposure):
    """
    Take off an image what its PSF has beside the analytic form.

    Parameters
    ----------
    image : 2D float array
        Background-subtracted pixels over their noise, 0 where bad.

    exposure : `~bliss_astro.exposures.Exposure`
        Whose PSF it has.

    Returns
    -------
    image : 2D float array
        The same array where nothing had to be done.

    asymmetry : array ``(rows, columns, 4)`` or None
        Of the PSF that is left, by cell; `None` where no image of it is known.
    """
    access = exposure._psf_access
    edges = [_edges(n, access.varies) for n in image.shape]
    signal = _bright_part(image)
    out, left = image, np.zeros((len(edges[0]) - 1, len(edges[1]) - 1, 4))
    for row, (bottom, top) in enumerate(zip(edges[0], edges[0][1:], strict=False)):
        for column, (low, high) in enumerate(zip(edges[1], edges[1][1:], strict=False)):
            place = ((low + high) / 2, (bottom + top) / 2)
            pair = access.drawn_with_model(*place)
            if pair is None:
                return image, None
            kernel, left[row, column] = _cell_kernel(*pair)
            cell = signal[bottom:top, low:high]
            if kernel is None or not cell.any():
                continue
            if out is image:
                out = image.copy()
            _subtract(out, cell, kernel, bottom, low)
    return out, left


def _edges(n, varies):
    """Edges of the cells along an axis of n pixels."""
    n_cells = min(_MOST_CELLS, 1 + n // _CELL) if varies else 1
    return np.linspace(0, n, n_cells + 1).round().astype(int)


def _bright_part(image):
    """Of each pixel what belongs to bright sources."""
    from scipy.ndimage import uniform_filter

    # The mean of nine pixels has a third of the noise: wings of stars are in it.
    level = 3 * uniform_filter(image, 3)
    share = np.clip((level - _FAINT) / (_BRIGHT - _FAINT), 0, 1)
    return image * share


def _cell_kernel(image, model):
    """The kernel of a PSF, or None, and the asymmetry that is left."""
    from bliss_astro.psf._asymmetry import asymmetry_of_psf

    fwhm = 2 * np.sqrt((model > 0.5 * model.max()).sum() / np.pi)
    if np.abs(image - model).max() < _LEAST * image.max():
        return None, asymmetry_of_psf(image, fwhm)
    from scipy.signal import fftconvolve

    kernel = matching_kernel(image, model)
    matched = image - fftconvolve(image, kernel, mode='same')
    return kernel, asymmetry_of_psf(matched, fwhm)


def _subtract(out, cell, kernel, bottom, low):
    """Subtract the convolved light of a cell, also where it reaches beyond."""
    from scipy.signal import oaconvolve

    light = oaconvolve(cell, kernel.astype(cell.dtype), mode='full')
    reach = kernel.shape[0] // 2
    ny, nx = out.shape
    first, start = bottom - reach, low - reach
    rows = slice(max(first, 0), min(first + light.shape[0], ny))
    columns = slice(max(start, 0), min(start + light.shape[1], nx))
    part = light[rows.start - first : rows.stop - first]
    out[rows, columns] -= part[:, columns.start - start : columns.stop - start]
