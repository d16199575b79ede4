# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Encoder inputs of an exposure: pulls, maps by tile, and PSF matching.

The fits of sources, and the networks trained with them, describe a PSF by ellipses.
Where an image of the PSF is known (eigen-images of SDSS, photutils' models, arrays),
it has coma, spikes and ghosts beside. A small kernel K with

    P - K * P = P_analytic

takes them off all sources at once, stars and galaxies alike, by ``image - K * image``;
only bright pixels need it, and of them alone it is done, so that the noise stays
what it was.
"""

import itertools
import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, uniform_filter

from bliss_astro.encoders import EncoderInputs
from bliss_astro.exposures._psf import central_psf
from bliss_astro.posteriors import TileGrid
from bliss_astro.psf._mixture import LOG_AREA, describe_shape

from ._domain import pixel_statistics

__all__ = [
    'FLOOR_SNR',
    'block_mean',
    'encoder_inputs',
    'even_noise',
    'match_psf',
    'matching_kernel',
    'tile_mean',
    'tile_tensor',
]

FLOOR_SNR = 3.4
"""Signal-to-noise ratio of the faintest source by default, as in training."""

# Density in sources per pixel of the first pass, within that of all encoders.
_FIRST_DENSITY = 1e-3
# Side in tiles of the cells in which the PSF is looked up.
_PSF_CELL = 8
# Rows of pixels that are worked on in double precision at once.
_ROWS = 512
# Scale in pixels over which the variance of resampled pixels is averaged.
_RIPPLE_SCALE = 6.0

# Residuals of the PSF below this share of its peak are left alone.
_PSF_RESIDUAL = 3e-3
# Half the side of a kernel in pixels, and the regularisation of the division by the
# PSF's transform, as a share of its power at zero wavenumber.
_REACH, _REGULARISATION = 25, 1e-4
# Side in pixels of cells that share a kernel, and their largest number along an axis.
_CELL, _MAX_CELLS = 400, 4
# Signal over noise at which pixels begin to count, and from which on they do wholly.
_FAINT, _BRIGHT = 4.0, 10.0


def tile_mean(value, grid):
    """Means over tiles of a map, or the scalar itself as 1 x 1."""
    value = np.asarray(value, float)
    if value.ndim == 0:
        return value.reshape(1, 1)
    size = grid.size
    rows, columns = grid.shape
    ny, nx = value.shape
    padded = np.pad(value, ((0, rows * size - ny), (0, columns * size - nx)), 'edge')
    return block_mean(padded, size)


def block_mean(value, n):
    """Means over n x n pixels of a map, or the scalar itself."""
    value = np.asarray(value, float)
    if value.ndim == 0 or n == 1:
        return value
    ny, nx = (length // n for length in value.shape)
    return value[: ny * n, : nx * n].reshape(ny, n, nx, n).mean((1, 3))


def tile_tensor(value, device):
    """Map by tile ``(channels, rows, columns)`` as a batch of one, in float32."""
    value = np.array(value, dtype=np.float32, order='C')
    return torch.from_numpy(value)[None].to(device)


def encoder_inputs(exposure, encoder, *, flux_min=None, population='sky'):
    """
    Compute the encoder inputs of an exposure.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, with its PSF.

    encoder : `~bliss_astro.encoders.Encoder`
        The encoder.

    flux_min : float or None, optional
        Flux floor in the unit of the image; by default `FLOOR_SNR` times the error
        of the flux of a faint star.

    population : {'sky', 'npe'}, optional
        Prior of stars and galaxies.

    Returns
    -------
    inputs : `~bliss_astro.encoders.EncoderInputs`
        With the density of a first pass.

    floor : float `~numpy.ndarray`, shape (rows, columns) or (1, 1)
        Flux floor by tile in the unit of the image.

    facts : dict
        Facts to be compared with the domain of the encoder, but for the density.

    grid : `~bliss_astro.posteriors.TileGrid`
        The tiles.
    """
    grid = TileGrid(exposure.shape, encoder.config.tile_size)
    device = encoder.device
    bkg_error, effective_gain = even_noise(exposure)
    noise = tile_mean(bkg_error, grid)
    gain = tile_mean(effective_gain, grid)
    middle = central_psf(exposure)
    radius = float(middle.normalization_radius)
    psf, description = _psf_maps(exposure, grid, radius)
    correlation = np.array(exposure.noise_correlation, float)
    image, asymmetry = match_psf(_pulls(exposure, bkg_error), exposure)
    area = np.exp(description[0, 1].double().numpy() + LOG_AREA)
    # The flux of signal-to-noise ratio 1, in the limit of faint sources.
    unit_flux = noise * np.sqrt(area * np.prod(1 + 2 * correlation))
    floor = FLOOR_SNR * unit_flux if flux_min is None else np.full((1, 1), flux_min)
    inputs = EncoderInputs(
        image=torch.from_numpy(image)[None].to(device),
        mask=torch.from_numpy(np.array(exposure.mask))[None].to(device),
        log_noise=tile_tensor(np.log(noise * gain)[None], device),
        correlation=tile_tensor(correlation[:, None, None], device),
        psf=psf.to(device),
        log_density=torch.full((1, 1, 1, 1), math.log(_FIRST_DENSITY), device=device),
        log_flux_floor=tile_tensor(np.log(floor / noise)[None], device),
        normalization_radius=radius,
        description=description.to(device),
        population=torch.full((1, 1, 1, 1), float(population == 'npe'), device=device),
        **_uncertainties(exposure, encoder, grid, asymmetry),
    )
    facts = {
        'psf_area': area,
        'psf_features': description[0].double().numpy(),
        'psf_error': exposure.psf_error,
        'background_error': exposure.background_error,
        'noise': noise * gain,
        'correlation': tuple(correlation),
        'floor_snr': None if flux_min is None else floor / unit_flux,
        **pixel_statistics(image, ~exposure.mask, shape=grid.shape),
    }
    return encoder.mask_inputs(inputs), floor, facts, grid


def _psf_maps(exposure, grid, radius):
    """
    Shape and description of the PSF, ``(1, 8, rows, columns)`` or 1 x 1.

    A PSF that varies is looked up on a coarse grid and interpolated.
    """
    rows, columns = grid.shape
    n_rows, n_columns = (-(-n // _PSF_CELL) for n in (rows, columns))
    varies = exposure._psf_access.varies
    xs = ys = [0]
    if varies:
        side = _PSF_CELL * grid.size
        xs, ys = ((np.arange(n) + 0.5) * side - 0.5 for n in (n_columns, n_rows))
    shape = np.ascontiguousarray(exposure.psf_shapes(xs, ys), dtype=np.float32)
    shape = torch.from_numpy(shape)[None]
    maps = (shape, describe_shape(shape, radius=radius))
    maps = [value.movedim(-1, 1) for value in maps]
    if not varies:
        return maps
    full = (n_rows * _PSF_CELL, n_columns * _PSF_CELL)
    maps = [torch.nn.functional.interpolate(v, full, mode='bilinear') for v in maps]
    return [value[..., :rows, :columns].contiguous() for value in maps]


def _uncertainties(exposure, encoder, grid, asymmetry):
    """Errors of PSF and background and asymmetry of the PSF, as inputs."""
    if not encoder.config.uncertainties:
        return {}
    device = encoder.device
    if asymmetry is None:
        asymmetry = np.zeros((1, 1, 4))
    asymmetry = torch.from_numpy(asymmetry.astype(np.float32))[None].movedim(-1, 1)
    if max(asymmetry.shape[2:]) > 1:
        asymmetry = torch.nn.functional.interpolate(
            asymmetry, grid.shape, mode='bilinear'
        )
    errors = {
        name: torch.full((1, 1, 1, 1), getattr(exposure, name), device=device)
        for name in ('psf_error', 'background_error')
    }
    return errors | {'asymmetry': asymmetry.to(device)}


def even_noise(exposure):
    """
    Noise and gain without the ripples of an interpolation.

    The variance of a resampled pixel follows its place between the pixels
    of the exposure, from one to the next by a factor of up to 4; what it lacks
    its covariances have.  A star has no such ripples, and in units of the noise
    of single pixels it would have.  So the variance is averaged over areas, and
    the gain follows, since sources' noise is interpolated likewise.
    """
    noise, gain = exposure.bkg_error, exposure.effective_gain
    if np.ndim(noise) == 0 or not any(exposure.noise_correlation):
        return noise, gain
    good = (~exposure.mask).astype(np.float32)
    # In units of the noise its squares fit into single precision in any unit.
    scale = np.median(noise[~exposure.mask])
    variance = np.square((noise / scale).astype(np.float32))
    share = gaussian_filter(good, _RIPPLE_SCALE, mode='nearest')
    total = gaussian_filter(variance * good, _RIPPLE_SCALE, mode='nearest')
    some = share > 1e-3
    even = np.where(some, total / np.where(some, share, 1.0), variance)
    return np.sqrt(even) * scale, gain * variance / even


def _pulls(exposure, bkg_error):
    """
    The image above its background in units of its noise; 0 in bad pixels.

    Single precision must not be met before: sky and noise may lie beyond its range.
    """
    pulls = np.empty(exposure.shape, dtype=np.float32)
    parts = [exposure.data, exposure.background, bkg_error, exposure.mask]
    parts = [np.broadcast_to(part, exposure.shape) for part in parts]
    for first in range(0, len(pulls), _ROWS):
        rows = slice(first, first + _ROWS)
        data, background, noise, mask = (part[rows] for part in parts)
        with np.errstate(over='ignore', invalid='ignore'):
            value = np.subtract(data, background, dtype=np.float64) / noise
            pulls[rows] = np.where(mask, 0.0, value)
    return pulls


# -- PSF matching ----------------------------------------------------------------


def matching_kernel(image, model):
    """
    Compute the kernel that takes from a PSF what its analytic form does not have.

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
    middle = np.array([ny // 2, nx // 2])
    # With its middle at the origin.
    psf = np.zeros(shape)
    psf[:ny, :nx] = image
    psf = np.fft.rfft2(np.roll(psf, -middle, (0, 1)))
    rest = np.fft.rfft2(image - model, shape)
    power = np.abs(psf) ** 2
    ratio = rest * np.conj(psf) / (power + _REGULARISATION * power[0, 0])
    kernel = np.fft.irfft2(ratio, shape)[:ny, :nx]
    reach = min(_REACH, (min(ny, nx) - 1) // 2)
    rows, columns = (slice(n - reach, n + reach + 1) for n in middle)
    # The edge fades, so that no step is drawn around bright stars.
    axis = np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
    window = np.cos(0.5 * np.pi * np.clip(4 * axis - 3, 0, 1)) ** 2
    return kernel[rows, columns] * window[:, None] * window


def match_psf(image, exposure):
    """
    Take off an image what its PSF has beside the analytic form.

    Parameters
    ----------
    image : 2D float array
        Background-subtracted pixels over their noise, 0 where bad.

    exposure : `~bliss_astro.exposures.Exposure`
        Its exposure, with the PSF.

    Returns
    -------
    image : 2D float array
        The same array where nothing had to be done.

    asymmetry : array ``(rows, columns, 4)`` or None
        Asymmetry of the PSF that is left, by cell; `None` without an image of it.
    """
    access = exposure._psf_access
    rows, columns = (_cells(n, access.varies) for n in image.shape)
    # The mean of nine pixels has a third of the noise: wings of stars are in it.
    level = 3 * uniform_filter(image, 3)
    bright = image * np.clip((level - _FAINT) / (_BRIGHT - _FAINT), 0, 1)
    out, left = image, np.zeros((len(rows), len(columns), 4))
    for i, (bottom, top) in enumerate(rows):
        for j, (low, high) in enumerate(columns):
            pair = access.drawn_with_model((low + high) / 2, (bottom + top) / 2)
            if pair is None:
                return image, None
            kernel, left[i, j] = _cell_kernel(*pair)
            cell = bright[bottom:top, low:high]
            if kernel is None or not cell.any():
                continue
            if out is image:
                out = image.copy()
            _subtract(out, cell, kernel, bottom, low)
    return out, left


def _cells(n, varies):
    """Ends of the cells along an axis of n pixels."""
    n_cells = min(_MAX_CELLS, 1 + n // _CELL) if varies else 1
    edges = np.linspace(0, n, n_cells + 1).round().astype(int)
    return list(itertools.pairwise(edges))


def _cell_kernel(image, model):
    """The kernel of a PSF, or None, and the asymmetry that is left."""
    from scipy.signal import fftconvolve

    from bliss_astro.psf._asymmetry import asymmetry_of_psf

    fwhm = 2 * np.sqrt((model > 0.5 * model.max()).sum() / np.pi)
    kernel, matched = None, image
    if np.abs(image - model).max() >= _PSF_RESIDUAL * image.max():
        kernel = matching_kernel(image, model)
        matched = image - fftconvolve(image, kernel, mode='same')
    return kernel, asymmetry_of_psf(matched, fwhm)


def _subtract(out, cell, kernel, bottom, low):
    """Subtract the convolved light of a cell, also where it reaches beyond."""
    from scipy.signal import oaconvolve

    light = oaconvolve(cell, kernel.astype(cell.dtype), mode='full')
    reach = kernel.shape[0] // 2
    first, start = bottom - reach, low - reach
    rows, columns = (
        slice(max(begin, 0), min(begin + n, most))
        for begin, n, most in zip((first, start), light.shape, out.shape, strict=True)
    )
    part = light[rows.start - first : rows.stop - first]
    out[rows, columns] -= part[:, columns.start - start : columns.stop - start]
