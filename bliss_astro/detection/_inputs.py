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

import functools
import itertools
import math

import numpy as np
import scipy
import torch

from bliss_astro._filters import row_blocks, spans
from bliss_astro._threads import map_threads
from bliss_astro.encoders import EncoderInputs
from bliss_astro.exposures._psf import central_psf
from bliss_astro.posteriors import TileGrid
from bliss_astro.priors._counts import FLOOR_SNR
from bliss_astro.psf import GaussianPSF
from bliss_astro.psf._mixture import LOG_AREA, asymmetry_of_psf

from ._domain import pixel_statistics

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
# Share of a kernel's side along which its edges fade.
_FADE = 0.25
# Side in pixels of cells that share a kernel, and their largest number along an axis.
_CELL, _MAX_CELLS = 400, 4
# Sides in pixels of the tiles with bright pixels that are convolved, the one that takes
# less work, and their number at once.
_TILES, _BATCH = (16, 64), 64
# Signal over noise at which pixels begin to count, and from which on they do wholly.
_FAINT, _BRIGHT = 4.0, 10.0


def tile_mean(value, grid):
    """Means over tiles of a map, or the scalar itself as 1 x 1."""
    value = np.atleast_2d(value)
    if value.size == 1:
        return value.astype(float)
    sides = zip(grid.shape, value.shape, strict=True)
    beyond = [(0, n * grid.size - side) for n, side in sides]
    if np.any(beyond):
        value = np.pad(value, beyond, 'edge')
    return block_mean(value, grid.size)


def block_mean(value, n):
    """Means over n x n pixels of a map, or the scalar itself."""
    value = np.array(value, order='C')
    value = value if value.dtype == np.float32 else value.astype(float)
    if value.ndim == 0:
        return value
    means = torch.nn.functional.avg_pool2d(torch.from_numpy(value)[None], n)[0]
    return means.double().numpy()


def tile_tensor(value, device):
    """Constant or map by tile, perhaps with channels, as a batch of one in float32."""
    value = np.array(value, dtype=np.float32, order='C', ndmin=3)
    return torch.from_numpy(value)[None].to(device)


def encoder_inputs(exposure, encoder, *, flux_min=None, population='sky', radius=None):
    """
    Compute the encoder inputs of an exposure with a PSF.

    Returns `EncoderInputs` of one band with the density of a first pass; the flux floor
    by tile in the unit of the image, by default `FLOOR_SNR` times the error of the flux
    of a faint star; facts for `check_domain` but for the density; and the `TileGrid`.
    The PSF is normalised within its own radius, or a given one.
    """
    grid = TileGrid(exposure.shape, encoder.config.tile_size)
    device = encoder.device
    bkg_error, effective_gain = even_noise(exposure)
    noise = tile_mean(bkg_error, grid)
    gain = tile_mean(effective_gain, grid)
    middle = central_psf(exposure)
    radius = float(middle.normalization_radius) if radius is None else radius
    psf, description = _psf_maps(exposure, grid, radius)
    correlation = np.array(exposure.noise_correlation, float)
    image = _pulls(exposure, bkg_error)
    asymmetry = match_psf(image, exposure)
    area = np.exp(description[0, 1].double().numpy() + LOG_AREA)
    # The flux of signal-to-noise ratio 1, in the limit of faint sources.
    unit_flux = noise * np.sqrt(area * np.prod(1 + 2 * correlation))
    floor = FLOOR_SNR * unit_flux if flux_min is None else np.full((1, 1), flux_min)
    maps = {
        'log_noise': np.log(noise * gain),
        'correlation': correlation[:, None, None],
        'log_density': math.log(_FIRST_DENSITY),
        'log_flux_floor': np.log(floor / noise),
        'population': population == 'npe',
    }
    if encoder.config.uncertainties:
        maps['psf_error'] = exposure.psf_error
        maps['background_error'] = exposure.background_error
    if exposure.band is not None:
        maps['band'] = np.reshape(exposure.band.description, (2, 1, 1))
    maps = {name: tile_tensor(value, device) for name, value in maps.items()}
    if encoder.config.uncertainties:
        asymmetry = np.zeros((4, 1, 1)) if asymmetry is None else asymmetry
        maps['asymmetry'] = _stretched(tile_tensor(asymmetry, device), grid.shape)
    inputs = EncoderInputs.of_band(
        image=torch.from_numpy(image)[None].to(device),
        mask=torch.from_numpy(np.array(exposure.mask))[None].to(device),
        psf=psf.to(device),
        normalization_radius=radius,
        description=description.to(device),
        **maps,
    )
    facts = {
        'psf_area': area,
        'psf_features': description[0].double().numpy(),
        'psf_error': exposure.psf_error,
        'background_error': exposure.background_error,
        'noise': noise * gain,
        'bkg_error': noise,
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
    if not exposure._psf_access.varies:
        return _constant_psf(tuple(exposure.psf_shapes(0, 0)[0, 0]), radius)
    side = _PSF_CELL * grid.size
    xs, ys = ((np.arange(n) + 0.5) * side - 0.5 for n in (n_columns, n_rows))
    shape = np.ascontiguousarray(exposure.psf_shapes(xs, ys), dtype=np.float32)
    shape = torch.from_numpy(shape)[None]
    psf = GaussianPSF.from_shape(shape, normalization_radius=radius)
    maps = (shape, psf.describe())
    full = (n_rows * _PSF_CELL, n_columns * _PSF_CELL)
    maps = [_stretched(value.movedim(-1, 1), full) for value in maps]
    return [value[..., :rows, :columns].contiguous() for value in maps]


# That of many images is often the same.
@functools.lru_cache(64)
def _constant_psf(shape, radius):
    """Shape and description ``(1, 8, 1, 1)`` of a PSF."""
    shape = torch.tensor(shape, dtype=torch.float32)
    psf = GaussianPSF.from_shape(shape, normalization_radius=radius)
    return [value[None, :, None, None] for value in (shape, psf.describe())]


def _stretched(value, shape):
    """Map by cell interpolated to a shape; a constant as it is."""
    if max(value.shape[2:]) == 1:
        return value
    return torch.nn.functional.interpolate(value, shape, mode='bilinear')


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
    share, total = (
        scipy.ndimage.gaussian_filter(part, _RIPPLE_SCALE, mode='nearest')
        for part in (good, variance * good)
    )
    even = np.divide(total, share, out=variance.copy(), where=share > 1e-3)
    return np.sqrt(even) * scale, gain * variance / even


def _pulls(exposure, bkg_error):
    """
    The image above its background in units of its noise; 0 in bad pixels.

    Single precision must not be met before: sky and noise may lie beyond its range.
    """
    pulls = np.empty(exposure.shape, dtype=np.float32)
    parts = [exposure.data, exposure.background, bkg_error, exposure.mask]
    parts = [np.broadcast_to(part, exposure.shape) for part in parts]

    def fill(block):
        *_, rows = block
        data, background, noise, mask = (part[rows] for part in parts)
        with np.errstate(over='ignore', invalid='ignore'):
            value = np.subtract(data, background, dtype=np.float64) / noise
            pulls[rows] = np.where(mask, 0.0, value)

    map_threads(fill, row_blocks(len(pulls), 0))
    return pulls


# -- PSF matching ----------------------------------------------------------------


def matching_kernel(image, model):
    """
    Kernel K of ``image - K * image = model`` for a PSF and its analytic form.

    Both are on one grid of odd sides; the kernel has at most 51 px, to be centred.
    """
    from scipy.signal.windows import tukey

    shape = tuple(2 * n for n in image.shape)
    middle = [n // 2 for n in image.shape]
    # With its middle at the origin.
    psf = np.zeros(shape)
    psf[: image.shape[0], : image.shape[1]] = image
    psf = np.fft.rfft2(np.roll(psf, [-n for n in middle], (0, 1)))
    power = np.abs(psf) ** 2
    ratio = np.conj(psf) / (power + _REGULARISATION * power[0, 0])
    kernel = np.fft.irfft2(np.fft.rfft2(image - model, shape) * ratio, shape)
    reach = min(_REACH, (min(image.shape) - 1) // 2)
    rows, columns = (slice(n - reach, n + reach + 1) for n in middle)
    # The edge fades, so that no step is drawn around bright stars.
    window = tukey(2 * reach + 3, _FADE)[1:-1]
    return kernel[rows, columns] * np.outer(window, window)


def match_psf(image, exposure):
    """
    Take off an image, in place, what its PSF has beside the analytic form.

    Pixels are in units of their noise, 0 where bad. Returns the asymmetry of the PSF
    that is left, by cell ``(4, rows, columns)``, or `None` without an image of the PSF.
    """
    access = exposure._psf_access
    most = _MAX_CELLS if access.varies else 1
    ends = [spans(n, min(most, 1 + n // _CELL)) for n in image.shape]

    def find_kernel(cell):
        y, x = ((own.start + own.stop) / 2 for own in cell)
        pair = access.drawn_with_model(x, y)
        return pair and (cell, *_cell_kernel(*pair))

    cells = map_threads(find_kernel, itertools.product(*ends))
    if cells[0] is None:
        return None
    left = [asymmetry for _, _, asymmetry in cells]
    cells = [(cell, kernel) for cell, kernel, _ in cells if kernel is not None]
    # Before any is changed: the light of a cell reaches beyond it.
    bright = _bright_pixels(image) if cells else None
    lights = map_threads(lambda cell: _convolved(*bright, *cell), cells)
    for y, x, light in lights:
        y0, x0 = max(y, 0), max(x, 0)
        part = image[y0 : y + light.shape[0], x0 : x + light.shape[1]]
        y, x = y0 - y, x0 - x
        part -= light[y : y + part.shape[0], x : x + part.shape[1]]
    return np.reshape(left, [*map(len, ends), 4]).transpose(2, 0, 1)


def _bright_pixels(image):
    """Rows, columns and values of pixels that are bright by the mean of nine."""

    # That has a third of the noise: wings of stars are in it.
    def find(block):
        wide, inner, own = block
        padded = np.pad(image[wide], 1, 'edge')
        level = padded[:-2] + padded[1:-1] + padded[2:]
        level = level[inner, :-2] + level[inner, 1:-1] + level[inner, 2:]
        level /= 3
        y, x = np.divmod(np.flatnonzero(level > _FAINT), level.shape[1])
        share = np.minimum((level[y, x] - _FAINT) / (_BRIGHT - _FAINT), 1)
        y += own.start
        value = image[y, x] * share
        some = value != 0
        return y[some], x[some], value[some]

    found = map_threads(find, row_blocks(len(image), 1))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _convolved(rows, columns, values, cell, kernel):
    """Light of the bright pixels of a cell under a kernel: first row, column, image."""
    (bottom, top), (low, high) = ((own.start, own.stop) for own in cell)
    own = (rows >= bottom) & (rows < top) & (columns >= low) & (columns < high)
    rows, columns, values = rows[own] - bottom, columns[own] - low, values[own]
    reach, choices = len(kernel) // 2, []
    for side in _TILES:
        n_columns = -(-(high - low) // side)
        tile = rows // side * n_columns + columns // side
        used = np.bincount(tile) > 0
        cost = np.count_nonzero(used) * (side + 2 * reach) ** 2
        choices.append((cost, side, n_columns, tile, used))
    _, side, n_columns, tile, used = min(choices, key=lambda choice: choice[0])
    places = np.flatnonzero(used)
    tiles = np.zeros((len(places), side, side), dtype=values.dtype)
    tiles[(np.cumsum(used) - 1)[tile], rows % side, columns % side] = values
    wide = side + 2 * reach
    length = scipy.fft.next_fast_len(wide, real=True)
    shape = (length, length)
    power = torch.fft.rfft2(torch.from_numpy(kernel.astype(values.dtype)), shape)
    sides = [side * -(-n // side) + 2 * reach for n in (top - bottom, high - low)]
    out = np.zeros(sides, dtype=values.dtype)
    for first in range(0, len(places), _BATCH):
        light = torch.from_numpy(tiles[first : first + _BATCH])
        light = torch.fft.irfft2(torch.fft.rfft2(light, shape) * power, shape).numpy()
        some = np.array(divmod(places[first : first + _BATCH], n_columns)).T
        for (y, x), own in zip((side * some).tolist(), light, strict=True):
            out[y : y + wide, x : x + wide] += own[:wide, :wide]
    return bottom - reach, low - reach, out


def _cell_kernel(image, model):
    """The kernel of a PSF, or None, and the asymmetry that is left."""
    from scipy.signal import fftconvolve

    fwhm = 2 * np.sqrt((model > 0.5 * model.max()).sum() / np.pi)
    kernel, matched = None, image
    if np.abs(image - model).max() >= _PSF_RESIDUAL * image.max():
        kernel = matching_kernel(image, model)
        matched = image - fftconvolve(image, kernel, mode='same')
    return kernel, asymmetry_of_psf(matched, fwhm)
