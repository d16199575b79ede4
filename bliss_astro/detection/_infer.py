# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Inference: from an exposure to the posterior of its catalogue, block by block.
"""

import contextlib
import itertools
import math

import astropy.units as u
import numpy as np
import scipy
import torch

from bliss_astro import catalog
from bliss_astro._arguments import check_number, must
from bliss_astro._threads import map_threads, n_workers
from bliss_astro.encoders import EncoderInputs
from bliss_astro.exposures._psf import central_psf
from bliss_astro.exposures._validate import check_map, strip_unit
from bliss_astro.flags import CatalogFlag

from ._domain import check_domain, check_fullness, domain_of
from ._estimates import estimate_record
from ._inputs import block_mean, encoder_inputs, tile_mean, tile_tensor

# Largest side in tiles of the blocks that a large image is worked through in, and
# smallest one where a small image is cut for several threads: halos cost more.
_BLOCK, _BAND_MIN = 160, 64
# Side in tiles of the cells in which the density of sources is estimated.
_DENSITY_CELL = 32
# Large images are sampled for that by windows of half this side in tiles,
# so many at a time.
_SAMPLE_PERIOD, _SAMPLE_BATCH = 48, 16
# Smallest side in joined pixels of an image that is binned.
_BINNED_MIN = 16
# Pixels above so many sigma belong to a source, as in SExtractor by default,
# and a flux of that signal-to-noise ratio may be there whatever the pixels look like.
_SEGMENT, _FAINT_SNR = 1.5, 10.0


def _has_half(device):
    """Whether a processor computes with half precision."""
    names = ('_is_amx_tile_supported', '_is_avx512_bf16_supported')
    probes = (getattr(torch.cpu, name, None) for name in names)
    return device.type != 'cpu' or any(probe and probe() for probe in probes)


@contextlib.contextmanager
def _fast(device):
    """Without gradients, and in half precision where that is fast."""
    half = {'dtype': torch.bfloat16, 'enabled': _has_half(device)}
    with torch.no_grad(), torch.autocast(device.type, **half):
        yield


# -- blocks ----------------------------------------------------------------------


def infer(encoder, inputs, grid):
    """
    Compute the posterior of an image of any size, block by block with a halo.

    Inputs are those of one image, the grid its tiles.
    """
    size, (n_rows, n_columns) = grid.size, grid.shape
    halo = -(-encoder.receptive_radius // size)
    out = torch.empty(1, encoder.config.width, n_rows, n_columns, device=encoder.device)

    def fill(block):
        (r, stop_r), (c, stop_c) = block
        top, left = max(0, r - halo), max(0, c - halo)
        rows = slice(top, min(n_rows, stop_r + halo))
        columns = slice(left, min(n_columns, stop_c + halo))
        with _fast(encoder.device):
            features = encoder.features(_window(inputs, rows, columns, size))
        own = features[..., r - top : stop_r - top, c - left : stop_c - left]
        out[..., r:stop_r, c:stop_c] = own

    map_threads(fill, _blocks(grid.shape, n_workers() or 1))
    with torch.no_grad():
        return encoder.posterior(out, inputs, half=_has_half(encoder.device))


def _window(inputs, rows, columns, size):
    """Inputs of some rows and columns of tiles."""
    pixels = [slice(part.start * size, part.stop * size) for part in (rows, columns)]

    def cut(name):
        value = getattr(inputs, name)
        by_row, by_column = pixels if value.dim() == 3 else (rows, columns)
        # Constants are maps of one tile.
        value = value[..., by_row, :] if value.shape[-2] > 1 else value
        return value[..., by_column] if value.shape[-1] > 1 else value

    return inputs.with_tensors(cut)


def _blocks(shape, n_threads):
    """Rows and columns of tiles of the blocks of an image, one a thread at least."""
    n_spans = [-(-n // _BLOCK) for n in shape]
    axis = int(shape[1] > shape[0])
    if n_spans[0] * n_spans[1] < n_threads:
        # Bands, but no narrower than what their halo costs.
        n_spans[axis] = max(n_spans[axis], min(n_threads, shape[axis] // _BAND_MIN))
    edges = [
        np.linspace(0, n, k + 1).round().astype(int).tolist()
        for n, k in zip(shape, n_spans, strict=True)
    ]
    return list(itertools.product(*map(itertools.pairwise, edges)))


# -- density ---------------------------------------------------------------------


def estimate_density(encoder, inputs, grid):
    """Sources per pixel above the flux floor by a first pass, by tile or 1 x 1."""
    if min(grid.shape) >= 2 * _SAMPLE_PERIOD:
        expected, seen = _sample_counts(encoder, inputs, grid)
    else:
        counts = infer(encoder, inputs, grid).expected_counts()
        expected, seen = counts[0].cpu().double().numpy(), np.ones(grid.shape)
    good = (~inputs.mask[0]).cpu().numpy().astype(float)
    area = seen * tile_mean(good, grid) * grid.size**2
    overall = (expected.sum() + 0.5) / max(area.sum(), 1.0)
    if min(grid.shape) < 2 * _DENSITY_CELL:
        return np.full((1, 1), overall)
    # The cells' own counts, drawn towards the mean by the weight of 3 sources.
    smooth = {'sigma': _DENSITY_CELL / 2, 'mode': 'nearest'}
    weight = 4 * math.pi * (_DENSITY_CELL / 2) ** 2
    count = scipy.ndimage.gaussian_filter(expected, **smooth) * weight
    seen = scipy.ndimage.gaussian_filter(area, **smooth) * weight
    return (count + 3.0) / (seen + 3.0 / overall)


def _sample_counts(encoder, inputs, grid):
    """
    Expected counts in windows spread over a large image.

    A quarter of the image determines the density as well as it needs to be known.
    Windows have no halo: stars just outside are what training images have too.
    """
    expected, seen = np.zeros(grid.shape), np.zeros(grid.shape)
    length = _SAMPLE_PERIOD // 2
    # Whole windows, evenly spread.
    sides = []
    for n in grid.shape:
        n_windows = n // _SAMPLE_PERIOD
        middles = (np.arange(n_windows) + 0.5) * n / n_windows
        starts = np.rint(middles - length / 2).astype(int).tolist()
        sides.append([slice(start, start + length) for start in starts])
    places = list(itertools.product(*sides))
    for first in range(0, len(places), _SAMPLE_BATCH):
        windows = places[first : first + _SAMPLE_BATCH]
        parts = [_window(inputs, *window, grid.size) for window in windows]
        joined = EncoderInputs.concatenate(parts, tile_size=grid.size)
        with _fast(encoder.device):
            counts = encoder(joined).expected_counts().cpu().double().numpy()
        for window, own in zip(windows, counts, strict=True):
            expected[window], seen[window] = own, 1
    return expected, seen


# -- images ----------------------------------------------------------------------


def image_posterior(image, encoder, options):
    """
    Compute the `CatalogPosterior` of a `PreparedImage`.

    Options that are read are ``density``, ``flux_min``, ``population`` and ``bin``.
    """
    whole, cosmic_rays, sources = image.exposure, image.cosmic_rays, image.sources
    flux_min = _check_flux_min(options.flux_min, whole)
    density = _check_density(options.density, whole)
    exposure, binning = whole, _choose_binning(options.bin, whole, encoder)
    if binning > 1:
        exposure = whole.binned(binning)
        cosmic_rays = block_mean(cosmic_rays, binning) > 0
    inputs, floor, facts, grid = encoder_inputs(
        exposure, encoder, flux_min=flux_min, population=options.population
    )
    if density is None:
        density = estimate_density(encoder, inputs, grid)
        sources = sources | {'density': 'first pass'}
    else:
        density = tile_mean(block_mean(density, binning) * binning**2, grid)
    flags, messages = check_domain(encoder, facts | {'density': density})
    # A PSF that is in doubt may be that of a galaxy, which fewer pixels do not mend.
    if messages and not image.psf_messages:
        messages[0] += _binning_advice(exposure, encoder, binning)
    messages += image.psf_messages
    log_density = np.log(density.clip(1e-7, domain_of(encoder).density[1]))
    inputs.log_density = tile_tensor(log_density, encoder.device)
    tiles = infer(encoder, inputs, grid)
    full, message, mostly = check_fullness(encoder, tiles)
    if message is not None and not np.any(flags & full):
        messages.append(message)
    if mostly:
        # Nothing there is worth the time of all that is refined.
        tiles.sequence, tiles.coarse = None, True
    meta = {
        'encoder': encoder.name,
        'encoder_sha256': encoder.card.get('sha256', ''),
        'estimated': estimate_record(whole, sources, density=density / binning**2),
        'density': float(np.mean(density)) / binning**2,
        'flux_min': float(np.median(floor)),
    }
    optional = {
        'warnings': messages,
        'psf_comparison': image.psf_comparison,
        'binning': binning if binning > 1 else None,
    }
    return catalog.CatalogPosterior(
        tiles,
        floor,
        unit=whole.unit,
        wcs=whole.wcs,
        flags=_pixel_flags(exposure, grid, flags | full, cosmic_rays),
        meta=meta | {name: value for name, value in optional.items() if value},
        exposure=whole,
        binning=binning,
        image_shape=whole.shape,
    )


def _choose_binning(value, exposure, encoder):
    """The number of pixels to join along each side that an argument stands for."""
    if value is None:
        return 1
    if isinstance(value, str) and value == 'auto':
        return _proposed_binning(exposure, encoder)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(must('bin', "be a positive integer or 'auto'", f'{value!r}'))
    most = max(min(exposure.shape) // _BINNED_MIN, 1)
    if not 1 <= value <= most:
        raise ValueError(must('bin', f'be from 1 to {most} for this image', value))
    return int(value)


def _proposed_binning(exposure, encoder):
    """Pixels to join so that the PSF is within the domain; 1 if it is."""
    fwhm = domain_of(encoder).fwhm
    if fwhm is None:
        return 1
    number = math.ceil(central_psf(exposure).fwhm / fwhm[1])
    return max(1, min(number, min(exposure.shape) // _BINNED_MIN))


def _binning_advice(exposure, encoder, binning):
    n = _proposed_binning(exposure, encoder)
    if n == 1:
        return ''
    pixels = f'{n * binning} x {n * binning} pixels'
    return f". The PSF is broader than those of the training: bin='auto' joins {pixels}"


def _pixel_flags(exposure, grid, by_tile, cosmic_rays):
    """Flags of a source at each pixel, int array ``(ny, nx)``."""
    ny, nx = exposure.shape
    size = grid.size
    flags = np.broadcast_to(by_tile, grid.shape).repeat(size, 0).repeat(size, 1)
    flags = flags[:ny, :nx].astype(np.int64)
    for pixels, reach, flag in (
        (exposure.mask, 2, CatalogFlag.NEAR_MASKED),
        (exposure.saturated, 4, CatalogFlag.SATURATED),
        (cosmic_rays, 2, CatalogFlag.COSMIC_RAY),
    ):
        if pixels.any():
            flags[scipy.ndimage.binary_dilation(pixels, iterations=reach)] |= int(flag)
    edge = np.ones((ny, nx), dtype=bool)
    edge[size : ny - size, size : nx - size] = False
    flags[edge] |= int(CatalogFlag.NEAR_EDGE)
    flags[ny - ny % size :] |= int(CatalogFlag.PADDED)
    flags[:, nx - nx % size :] |= int(CatalogFlag.PADDED)
    return flags


# -- arguments -------------------------------------------------------------------


def _check_flux_min(flux_min, exposure):
    """Flux floor in the unit of an exposure (float), or `None`."""
    if flux_min is None:
        return None
    unit = exposure.unit
    flux_min = strip_unit('flux_min', flux_min, unit, unit is not None)
    flux_min = check_number('flux_min', flux_min, sign='positive')
    light = np.where(exposure.mask, 0.0, exposure.data - exposure.background)
    labels, n = scipy.ndimage.label(
        light > _SEGMENT * exposure.bkg_error, np.ones((3, 3))
    )
    sums = scipy.ndimage.sum_labels(light, labels, np.arange(1, n + 1))
    area = central_psf(exposure).n_eff
    faint = _FAINT_SNR * np.median(exposure.bkg_error) * np.sqrt(area)
    brightest = float(np.max(sums, initial=faint))
    if flux_min > brightest:
        allowed = f'be below the flux of the brightest source, about {brightest:.3g}'
        raise ValueError(must('flux_min', allowed, f'{flux_min:g}'))
    return flux_min


def _check_density(density, exposure):
    """Prior density per pixel as a float array, 0D or of the exposure's shape."""
    if density is None:
        return None
    density = strip_unit('density', density, u.pix**-2)
    density = check_map(
        'density', density, exposure.shape, good=True, sign='not negative'
    )
    if not np.max(density) > 0:
        raise ValueError(must('density', 'be positive somewhere', 'zeros'))
    return np.asarray(density, dtype=float)
