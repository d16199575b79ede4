# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The pass of the network over images of any size, block by block, and their densities.
"""

import itertools
import math

import numpy as np
import scipy
import torch
from torch.nn import functional as F

from bliss_astro._filters import spans
from bliss_astro._threads import map_threads, n_workers
from bliss_astro.encoders import EncoderInputs
from bliss_astro.encoders._filters import CELL
from bliss_astro.encoders._inputs import PIXELS
from bliss_astro.posteriors import TileGrid

from ._inputs import block_mean, tile_mean

# Largest number of tiles of the blocks that a large image is worked through in, for
# the memory, and smallest side where an image is cut for several threads: halos cost.
_BLOCK, _BAND_MIN = 36_000, 64
# Tiles of the images of one pass of the network: few enough for a processor's caches.
_PASS = 16_000
# Times as many for a GPU, of which a pass takes 1 GB then: few launches count there.
_MORE_ON_GPU = 16
# Scale in tiles on which the density of sources is estimated, and the side of the cells
# of sampled images.
_DENSITY_SCALE, DENSITY_CELL = 32, 4
# Images of at least so many tiles a side are sampled for that: the distance and the
# side in tiles of the windows, and the least number of them along an axis.
_SAMPLED_MIN, _SAMPLE_PERIOD, SAMPLE_SIDE, _SAMPLES_MIN = 96, 40, 16, 3
# Share of its good pixels that windows must see of an image, over that of all pixels.
_LEAST_SHARE = 0.5


def _has_half(device):
    """Whether a processor computes with half precision."""
    names = ('_is_amx_tile_supported', '_is_avx512_bf16_supported')
    probes = (getattr(torch.cpu, name, None) for name in names)
    return device.type != 'cpu' or any(probe and probe() for probe in probes)


# -- blocks ----------------------------------------------------------------------


def infer(encoder, inputs, grid, *, dtype=torch.float32, stems=None):
    """
    Compute the posterior of B images of any size, block by block with a halo.

    The grid is that of the tiles of each; features are rounded to the type, or to that
    of the convolutions. What does not depend on the density goes to and comes from the
    dict ``stems``.
    """
    size, device, n_images = grid.size, encoder.device, len(inputs.image)
    halo, half = -(-encoder.receptive_radius // size), _has_half(device)
    shape = (n_images, encoder.config.width, *grid.shape)
    # Channels last, in the precision of the convolutions.
    dtype = torch.bfloat16 if half else dtype
    kind = {'dtype': dtype, 'memory_format': torch.channels_last}
    # The filter has means of the PSF over cells, which are those of the whole image.
    cell = CELL if max(inputs.psf.shape[-2:]) > 1 else 1
    out = torch.empty(shape, device=device, **kind)

    def fill(numbered):
        number, (images, own) = numbered
        wide, margins = [], []
        for span, n in zip(own, grid.shape, strict=True):
            stop = -(-(span.stop + halo) // cell) * cell
            wide.append(slice(max(0, (span.start - halo) // cell * cell), min(n, stop)))
            margins += [span.start - wide[-1].start, wide[-1].stop - span.stop]
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, half):
            some = _window(inputs.select(images), *wide, size)
            stem = None if stems is None else stems.pop(number, None)
            if stem is None and stems is not None:
                stem = stems[number] = encoder.stem(some, margins)
            out[images, :, *own] = encoder.inner_features(some, margins, stem=stem)

    n_threads = n_workers() or 1
    more = 1 if device.type == 'cpu' else _MORE_ON_GPU
    # As many pixels of all bands. Blocks are no smaller for them, as halos cost more
    # then, and most of the memory is that of layers which bands share.
    step = max(1, more * _PASS // math.prod(grid.shape) // inputs.image.shape[1])
    step = min(step, -(-n_images // n_threads))
    some = [slice(k, k + step) for k in range(0, n_images, step)]
    blocks = _blocks(grid.shape, -(-n_threads // len(some)), more * _BLOCK)
    map_threads(fill, enumerate(itertools.product(some, blocks)))
    with torch.no_grad():
        out = out.float() if dtype == torch.float16 else out
        return encoder.posterior(out, inputs, half=half)


def _window(inputs, rows, columns, size):
    """Inputs of some rows and columns of tiles."""
    pixels = [slice(part.start * size, part.stop * size) for part in (rows, columns)]

    def cut(name):
        value = getattr(inputs, name)
        by_row, by_column = pixels if name in PIXELS else (rows, columns)
        if name == 'present':
            return value
        # Constants are maps of one tile.
        value = value[..., by_row, :] if value.shape[-2] > 1 else value
        return value[..., by_column] if value.shape[-1] > 1 else value

    return inputs.with_tensors(cut)


def _blocks(shape, n_threads, most):
    """
    Rows and columns of tiles of the blocks of an image, as many for each thread.

    A block has about ``most`` tiles at most.
    """
    n_blocks = -(-shape[0] * shape[1] // most)
    # Not narrower than what their halos cost.
    n_threads = max(1, min(n_threads, max(shape) // _BAND_MIN))
    n_blocks = -(-n_blocks // n_threads) * n_threads
    # Cut along the fewest tiles.
    cuts = ((n, -(-n_blocks // n)) for n in range(1, n_blocks + 1))
    n_cuts = min(cuts, key=lambda n: n[0] * shape[1] + n[1] * shape[0])
    return list(itertools.product(*map(spans, shape, n_cuts)))


# -- density ---------------------------------------------------------------------


def estimate_densities(encoder, inputs, grid, *, stems=None):
    """
    Sources per pixel above the flux floor by a first pass, list of B arrays.

    Each is by tile or 1 x 1. A pass over all of the images leaves its ``stems``.
    """
    good = [tile_mean(own, grid) for own in (~inputs.mask[:, 0]).cpu().numpy()]
    windows, seen = sampled_windows(grid)
    # Unless those have too few of the good pixels of a masked image.
    shares = [(own * seen).sum() / max(own.sum(), 1.0) for own in good]
    if min(shares) >= _LEAST_SHARE * seen.mean() and is_sampled(grid.shape):
        counts = sample_counts(encoder, inputs, grid, windows)
    else:
        counts = infer(encoder, inputs, grid, stems=stems).expected_counts()
        counts, seen = counts.cpu().double().numpy(), np.ones(grid.shape)
    # Tiles without a good pixel hold what the prior holds.
    return [
        _density_of_counts(expected * seen * (own > 0), seen * own, grid)
        for expected, own in zip(counts, good, strict=True)
    ]


def _density_of_counts(expected, seen, grid):
    """Density of an image from the counts of tiles and the shares that were seen."""
    area, n = seen * grid.size**2, DENSITY_CELL if is_sampled(grid.shape) else 1
    if min(grid.shape) < 2 * _DENSITY_SCALE:
        return np.full((1, 1), _overall_density(expected, area))
    density = density_of_cells(_block_sum(expected, n), _block_sum(area, n), n)
    return stretch_density(density, n, grid.shape)


def _overall_density(expected, area):
    return (expected.sum() + 0.5) / max(area.sum(), 1.0)


def density_of_cells(expected, area, n):
    """Density by cells of n x n tiles from their counts and areas in pixels."""
    # The cells' own counts, drawn towards the mean by the weight of 3 sources.
    sigma, overall = _DENSITY_SCALE / 2 / n, _overall_density(expected, area)
    count, area = (
        scipy.ndimage.gaussian_filter(value, sigma, mode='nearest')
        * (4 * math.pi * sigma**2)
        for value in (expected, area)
    )
    return (count + 3.0) / (area + 3.0 / overall)


def stretch_density(density, n, shape):
    """Density by tile, of a shape, of that by cells of n x n tiles."""
    density = torch.from_numpy(density)[None, None]
    density = F.interpolate(density, scale_factor=n, mode='bilinear')[0, 0].numpy()
    return density[: shape[0], : shape[1]]


def _block_sum(value, n):
    padded = np.pad(value, [(0, -side % n) for side in value.shape])
    return block_mean(padded, n) * n**2


def is_sampled(shape):
    """Whether an image of so many tiles is large enough for windows."""
    return min(shape) >= _SAMPLED_MIN


def sampled_places(n):
    """First tiles along an axis of n tiles of whole windows, evenly spread."""
    n_windows = max(n // _SAMPLE_PERIOD, _SAMPLES_MIN)
    middles = (np.arange(n_windows) + 0.5) * (n / n_windows)
    return (middles - SAMPLE_SIDE / 2).round().astype(int)


def sampled_windows(grid):
    """
    Rows and columns of tiles of windows spread over large images, and where they are.

    A seventh of an image determines the density as well as it needs to be known.
    """
    ends = [windows_at(sampled_places(n)) for n in grid.shape]
    windows, seen = list(itertools.product(*ends)), np.zeros(grid.shape)
    for window in windows:
        seen[window] = 1
    return windows, seen


def windows_at(places):
    """Slices of tiles of windows that begin at some places along an axis."""
    return [slice(place, place + SAMPLE_SIDE) for place in places.tolist()]


def sample_counts(encoder, inputs, grid, windows):
    """
    Expected counts in windows of `sampled_windows`, and 0 elsewhere.

    Windows have no halo: stars just outside are what training images have too. They
    are of the reference band, whose flux floor the sources are above.
    """
    inputs = inputs.in_band(0)
    size, expected = grid.size, np.zeros((len(inputs.image), *grid.shape))
    parts = [_window(inputs, *window, size) for window in windows]
    parts = EncoderInputs.concatenate(parts, tile_size=size)
    found = infer(encoder, parts, TileGrid((SAMPLE_SIDE * size,) * 2, size))
    counts = found.expected_counts().cpu().double().unflatten(0, (-1, len(expected)))
    for window, own in zip(windows, counts.numpy(), strict=True):
        expected[:, *window] = own
    return expected
