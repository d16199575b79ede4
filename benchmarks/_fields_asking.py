# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Test images of stars and galaxies, and what encoders say of them.
"""

import contextlib

import numpy as np
import torch
from _fields_common import FAINTEST_FLUX, SETS, generator_of

from bliss_astro.detection._detect import _autocast
from bliss_astro.posteriors import SourceMarginals, TileGrid, find_sources
from bliss_astro.posteriors._marginals import _quasi_random
from bliss_astro.rendering import RenderingAccuracy, render_galaxies, render_stars

__all__ = ['SEED', 'ask', 'describe_truth', 'draw_scenes']

# No training stream begins with this key.
SEED = 20250301
# Sources below this probability are not kept.
_LEAST = 0.05
# Positions over which the flux posterior is averaged, and draws of the count.
_N_POSITIONS, _N_DRAWS = 16, 4
# A pixel that a source changed appreciably: by that many sigma of the sky.
_APPRECIABLE = 0.1
# Sources that lie no farther than that beyond the edges are told of too, as they may
# be found inside.
_BEYOND = 2.0
# Images with single sources that are drawn at once.
_PIECE = 512


def _numbers(tensor):
    return tensor.detach().double().cpu().numpy()


def draw_scenes(stream, which, index, n_images):
    """
    One batch of test images, the same whenever it is asked for.

    Parameters
    ----------
    stream : `~bliss_astro.simulation.SimulationStream`
        Of the paper's prior, 80 x 80 pixels, no sources outside.

    which : {'many', 'single'}
        The kind of images.

    index : int
        Number of the batch.

    n_images : int
        Its size; it belongs to the seed, too.

    Returns
    -------
    scenes : SimulatedImages
        Images and truth.

    generator : `torch.Generator`
        For whatever else is random about this batch.
    """
    generator = generator_of(SEED, SETS[which], index, device=stream.device)
    return stream.sample_batch(n_images, generator=generator), generator


# -- truth -------------------------------------------------------------------------


def _isolated(scenes, used):
    """Each source alone and without noise, ``(N, ny, nx)`` in electrons."""
    size = tuple(scenes.data.shape[1:])
    image, place = used.nonzero(as_tuple=True)
    parts = [scenes.psf[image]]
    parts += [v[image, place][:, None] for v in (scenes.x, scenes.y, scenes.flux)]
    galaxy = scenes.galaxy[image, place][:, None]
    is_galaxy = scenes.is_galaxy[image, place].bool()
    out = torch.zeros(len(image), *size, device=scenes.data.device)
    for kind in (False, True):
        for index in (is_galaxy == kind).nonzero()[:, 0].split(_PIECE):
            own = [part[index] for part in parts]
            if kind:
                # As the images themselves are drawn.
                drawn = render_galaxies(
                    *own,
                    galaxy[index],
                    size=size,
                    accuracy=RenderingAccuracy.training(),
                )
                out[index] = drawn.to(out)
            else:
                out[index] = render_stars(*own, size=size).to(out)
    return out.clamp(min=0), image


@torch.no_grad()
def describe_truth(scenes, first):
    """
    What is true of a batch.

    Parameters
    ----------
    scenes : SimulatedImages
        Images and truth.

    first : int
        Number of the first image.

    Returns
    -------
    truth : dict of array
        Of each source ``image``, ``x``, ``y``, ``inside`` (of the image, or just
        beyond its edges), ``flux`` (nmgy), ``is_galaxy``,
        ``snr`` (of an optimal measurement of the isolated source),
        ``snr_footprint`` (C / sqrt(C + B) over the pixels that it changed
        appreciably) and ``blendedness``.
    """
    used = (scenes.flux > 0) & _inside(scenes, _BEYOND)
    signal, image = _isolated(scenes, used)
    variance = scenes.bkg_error[image][:, None, None] ** 2
    snr = torch.sqrt((signal**2 / (signal + variance)).sum((1, 2)))
    # The brightest pixel always counts.
    peak = signal.amax((1, 2), keepdim=True)
    limit = torch.minimum(_APPRECIABLE * variance.sqrt(), peak)
    footprint = (signal >= limit).to(signal)
    counts = (signal * footprint).sum((1, 2))
    sky = (variance * footprint).sum((1, 2))
    total = torch.zeros_like(scenes.data).index_add_(0, image, signal)
    overlap = (signal * total[image]).sum((1, 2)).clamp(min=1e-9)
    scale = scenes.electrons_per_nmgy[image]
    return {
        'image': first + image.cpu().numpy(),
        'x': _numbers(scenes.x[used]),
        'y': _numbers(scenes.y[used]),
        'inside': _inside(scenes)[used].cpu().numpy(),
        'flux': _numbers(scenes.flux[used] / scale),
        'is_galaxy': scenes.is_galaxy[used].bool().cpu().numpy(),
        'snr': _numbers(snr),
        'snr_footprint': _numbers(counts / torch.sqrt(counts + sky)),
        'blendedness': _numbers(1 - (signal**2).sum((1, 2)) / overlap),
    }


def _inside(scenes, beyond=0.0):
    ny, nx = scenes.data.shape[1:]
    low = -0.5 - beyond
    inside = (scenes.x >= low) & (scenes.x < nx - 1 - low)
    return inside & (scenes.y >= low) & (scenes.y < ny - 1 - low)


# -- answers -------------------------------------------------------------------------


@torch.no_grad()
def ask(encoder, inputs, catalog, scenes, truth, first, generator):
    """
    What one encoder says of a batch.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Which tells galaxies from stars.

    inputs : `~bliss_astro.encoders.EncoderInputs`
        What it is told.

    catalog : `~bliss_astro.posteriors.TileCatalog`
        The truth by tile.

    scenes : SimulatedImages
        The same images.

    truth : dict of array
        From `describe_truth`.

    first : int
        Number of the first image.

    generator : `torch.Generator`
        For draws of the count.

    Returns
    -------
    answer : dict of dict of array
        ``found``: sources above a small probability, fluxes in nmgy; ``tiles``: of
        each true source in a tile, given the tile's count and the truth of the
        tiles that are visited before, the probability of a galaxy and rank, median and
        density of its flux given its true type; ``images``: true and
        expected counts.
    """
    device = inputs.image.device
    with _autocast(device) if device.type == 'cpu' else contextlib.nullcontext():
        posterior = encoder(inputs)
    unit = scenes.flux_min / scenes.electrons_per_nmgy  # nmgy at log flux 0
    found = _found(posterior, unit, first)
    tiles = _tiles(posterior, catalog, unit, truth, first)
    images = _images(posterior, catalog, first, generator)
    return {'found': found, 'tiles': tiles, 'images': images}


def _found(posterior, unit, first):
    sources = find_sources(posterior)
    sources = sources.select(sources.probability >= _LEAST)
    x, y = sources.place()
    unit = _numbers(unit[sources.image])
    return {
        'image': first + sources.image.cpu().numpy(),
        'probability': _numbers(sources.probability),
        'x': _numbers(x),
        'y': _numbers(y),
        'flux': unit * np.exp(_numbers(sources.quantile_flux(0.5))),
        'galaxy': _numbers(sources.galaxy),
    }


def _images(posterior, catalog, first, generator):
    def expected(hidden):
        return _numbers(posterior.head.count_factor(hidden).mean.sum((1, 2)))

    draws = 0.0
    for _ in range(_N_DRAWS):
        drawn = posterior.sample(generator=generator)
        draws = draws + expected(posterior.hidden_given(drawn)) / _N_DRAWS
    return {
        'image': first + np.arange(len(posterior)),
        'count': catalog.count.sum((1, 2)).cpu().numpy(),
        'expected': expected(posterior.decided()[1]),
        'expected_of_draws': draws,
    }


def _tiles(posterior, catalog, unit, truth, first):
    hidden = posterior.hidden_given(catalog)
    parts = []
    for place in range(posterior.head.n_most):
        tiles = (catalog.count > place).nonzero(as_tuple=True)
        if len(tiles[0]):
            parts.append(_tiles_of(posterior, catalog, hidden, place, tiles, unit))
    if not parts:
        return {}
    joined = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    joined['image'] += first
    joined['source'] = _rows_of(
        truth, joined.pop('x'), joined.pop('y'), joined['image']
    )
    return joined


def _rows_of(truth, x, y, image):
    """Rows of the truth at the same places."""
    from scipy.spatial import KDTree

    def points(image, x, y):
        return np.stack([image * 1e3, x, y], axis=1)

    tree = KDTree(points(truth['image'], truth['x'], truth['y']))
    apart, row = tree.query(points(image, x, y))
    if len(apart) and apart.max() > 0.01:
        msg = 'tiles hold sources that the truth does not'
        raise RuntimeError(msg)
    return row


def _marginal(posterior, place, source, tiles, factor, fit, high):
    """Type and flux averaged over the posterior of the position."""
    parts = []
    for q in _quasi_random(_N_POSITIONS, 3, posterior.device):
        position = torch.stack(factor.quantile_draw(q.expand(len(source), 3)), -1)
        flux = posterior.flux_mixture(place, source, tiles, position, fit, high)
        own = (high[:, None], flux.log_weights, flux.mean, flux.scale)
        parts.append(torch.cat(own, -1))
    nothing = torch.zeros_like(high)
    return SourceMarginals(
        nothing,
        nothing[:, None],
        nothing[:, None],
        torch.stack(parts, 1),
        *tiles,
        typed=posterior.head.galaxies,
    )


def _tiles_of(posterior, catalog, hidden, place, tiles, unit):
    # The terms of TilePosterior.log_prob, and distribution functions.
    images, rows, columns = tiles
    earlier = posterior.code_of(catalog, tiles, place)
    source = posterior.head.source_hidden(
        place, hidden[images, :, rows, columns], catalog.count[tiles], earlier
    )
    factor, _, fit = posterior.position_factor(place, source, tiles, catalog)
    x, y = catalog.x[(*tiles, place)], catalog.y[(*tiles, place)]
    value = catalog.log_flux[(*tiles, place)]
    high = posterior.ceiling(value)
    if place:
        high = catalog.log_flux[(*tiles, place - 1)].clamp(min=1e-3)
    value = torch.minimum(value, high - 1e-4 * high.clamp(min=1e-3))
    marginal = _marginal(posterior, place, source, tiles, factor, fit, high)
    is_galaxy = catalog.galaxy[(*tiles, place)] > 0.5
    flux = marginal.flux_given(is_galaxy)
    unit = unit[images]
    cut = torch.log(FAINTEST_FLUX / unit).clamp(min=0)
    rank, below = (flux.cdf(v).clamp(0, 1) for v in (value, torch.minimum(cut, high)))
    # Given that the true source is brighter than the cut.
    above = ((rank - below) / (1 - below).clamp(min=1e-6)).clamp(0, 1)
    chance = marginal.galaxy.clamp(1e-7, 1 - 1e-7)
    pixels = TileGrid(posterior.grid.image_shape, posterior.grid.size).to_pixels(
        x, y, rows, columns
    )
    found = {
        'image': images,
        'x': pixels[0],
        'y': pixels[1],
        'galaxy': chance,
        'rank': rank,
        'rank_above_cut': above,
        'median': unit * torch.exp(flux.quantile(0.5)),
        'log_flux': flux.log_prob(value),
        'log_type': torch.where(is_galaxy, chance, 1 - chance).log(),
        'log_position': factor.log_prob(x, y),
    }
    return {
        k: _numbers(v) if v.is_floating_point() else v.cpu().numpy()
        for k, v in found.items()
    }
