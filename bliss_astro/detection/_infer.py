# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The pass of the network over images of any size, block by block, and their densities.
"""

import contextlib
import itertools
import math

import numpy as np
import scipy
import torch

from bliss_astro._threads import map_threads, n_workers
from bliss_astro.encoders import EncoderInputs

from ._inputs import tile_mean

# Largest number of tiles of the blocks that a large image is worked through in, for
# the memory, and smallest side where an image is cut for several threads: halos cost.
_BLOCK, _BAND_MIN = 36_000, 64
# Images in one pass of the network: few enough for the caches of a processor.
_IMAGES = 8
# Side in tiles of the cells in which the density of sources is estimated.
_DENSITY_CELL = 32
# Large images are sampled for that by windows of half this side in tiles,
# so many at a time.
_SAMPLE_PERIOD, _SAMPLE_BATCH = 48, 16


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


def infer(encoder, inputs, grid, *, dtype=torch.float32):
    """
    Compute the posterior of B images of any size, block by block with a halo.

    The grid is that of the tiles of each; features are rounded to the type, or to that
    of the convolutions.
    """
    size, (n_rows, n_columns) = grid.size, grid.shape
    halo, n_images = -(-encoder.receptive_radius // size), len(inputs.image)
    shape = (n_images, encoder.config.width, n_rows, n_columns)
    # Channels last, in the precision of the convolutions.
    dtype = torch.bfloat16 if _has_half(encoder.device) else dtype
    kind = {'dtype': dtype, 'memory_format': torch.channels_last}
    out = torch.empty(shape, device=encoder.device, **kind)

    def fill(part):
        images, ((r, stop_r), (c, stop_c)) = part
        top, left = max(0, r - halo), max(0, c - halo)
        rows = slice(top, min(n_rows, stop_r + halo))
        columns = slice(left, min(n_columns, stop_c + halo))
        with _fast(encoder.device):
            some = _window(inputs.select(images), rows, columns, size)
            margins = r - top, rows.stop - stop_r, c - left, columns.stop - stop_c
            own = encoder.inner_features(some, margins)
        out[images, :, r:stop_r, c:stop_c] = own

    n_threads = n_workers() or 1
    step = min(_IMAGES, -(-n_images // n_threads))
    some = [slice(k, k + step) for k in range(0, n_images, step)]
    blocks = _blocks(grid.shape, -(-n_threads // len(some)))
    map_threads(fill, itertools.product(some, blocks))
    with torch.no_grad():
        out = out.float() if dtype == torch.float16 else out
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
    """Rows and columns of tiles of the blocks of an image, as many for each thread."""
    n_blocks = -(-shape[0] * shape[1] // _BLOCK)
    # Not narrower than what their halos cost.
    n_threads = max(1, min(n_threads, max(shape) // _BAND_MIN))
    n_blocks = -(-n_blocks // n_threads) * n_threads
    # Cut along the fewest tiles.
    spans = ((n, -(-n_blocks // n)) for n in range(1, n_blocks + 1))
    n_spans = min(spans, key=lambda n: n[0] * shape[1] + n[1] * shape[0])
    edges = [
        np.linspace(0, n, k + 1).round().astype(int).tolist()
        for n, k in zip(shape, n_spans, strict=True)
    ]
    return list(itertools.product(*map(itertools.pairwise, edges)))


# -- density ---------------------------------------------------------------------


def estimate_densities(encoder, inputs, grid):
    """
    Sources per pixel above the flux floor by a first pass, list of B arrays.

    Each is by tile or 1 x 1.
    """
    if min(grid.shape) >= 2 * _SAMPLE_PERIOD:
        images = [inputs.select([k]) for k in range(len(inputs.image))]
        counts = [_sample_counts(encoder, image, grid) for image in images]
    else:
        every = infer(encoder, inputs, grid).expected_counts().cpu().double().numpy()
        counts = [(expected, np.ones(grid.shape)) for expected in every]
    masks = inputs.mask.cpu().numpy()
    return [
        _density_of_counts(*own, ~mask, grid)
        for own, mask in zip(counts, masks, strict=True)
    ]


def _density_of_counts(expected, seen, good, grid):
    """Density of an image from the counts of those tiles that were seen."""
    good = good.astype(float)
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
