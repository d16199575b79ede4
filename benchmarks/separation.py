# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Two galaxies by their separation: detection of both, and their total flux.

Exponential galaxies with half-light radii of 1.2 and 0.8 arcsec and fluxes 2 to 1, the
fainter one with a signal-to-noise ratio of 30, under the same noise at all separations.
"""

import math

import numpy as np
import torch
from harness import Benchmark, median_with_error, share
from samples import run_encoder
from scenes import expose, fluxes_at, generator_of

from bliss_astro.priors import FieldPrior
from bliss_astro.units import SDSS_PIXEL_SCALE

RADII_ARCSEC, FLUX_RATIO, SNR = (1.2, 0.8), 2.0, 30.0
SHAPE = (48, 48)
SEPARATIONS = (*np.arange(0, 7, 0.5), 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
TARGETS = {3.5: '>= 0.5', 6.0: '>= 0.95'}


def draw_pairs(n, generator):
    """Fields, fluxes, shapes, centres and directions of n pairs."""
    fields = FieldPrior.single().sample_batch(n)
    unit = torch.rand(7, n, generator=generator)
    galaxy = torch.full((n, 2, 6), 0.5)
    galaxy[..., 0] = 1.0
    galaxy[..., 1] = math.pi * unit[:2].T
    galaxy[..., 2] = 0.05 + 0.95 * unit[2:4].T
    galaxy[..., 4] = torch.tensor(RADII_ARCSEC) / SDSS_PIXEL_SCALE
    ones = torch.ones(n, 1, dtype=torch.bool)
    faint = fluxes_at(SNR, fields, ones, galaxy[:, 1:], shape=SHAPE)
    flux = torch.stack([FLUX_RATIO * faint, faint], -1)
    centre = 0.5 * (SHAPE[0] - 1) + unit[4:6].T - 0.5
    return fields, flux, galaxy, centre, 2 * math.pi * unit[6]


def find_pairs(encoder, pairs, separation, seed):
    """Galaxies found ``(n, 2)``, and catalogue and posterior totals over the truth."""
    fields, flux, galaxy, centre, direction = pairs
    half = 0.5 * separation * torch.stack([direction.cos(), direction.sin()], -1)
    place = torch.stack([centre - half, centre + half], 1)
    images = expose(
        fields,
        place[..., 0],
        place[..., 1],
        flux,
        torch.ones_like(flux, dtype=torch.bool),
        galaxy,
        generator_of(seed, 3),
        shape=SHAPE,
    )
    rows = run_encoder(encoder, images, intervals=False)
    scene = np.asarray(rows['scene']).astype(int)
    dx = np.asarray(rows['x'])[:, None] - images.x.numpy()[scene]
    dy = np.asarray(rows['y'])[:, None] - images.y.numpy()[scene]
    apart = np.hypot(dx, dy)
    # At equal distances the first is the brighter one.
    nearest = apart.argmin(1)
    near = apart[np.arange(len(scene)), nearest] <= 1
    found = np.zeros(flux.shape, dtype=bool)
    found[scene[near], nearest[near]] = True
    total = np.bincount(scene, np.asarray(rows['flux']), len(images))
    return found, total / flux.sum(1).double().numpy()


def first_separation(shares, level):
    """Smallest separation beyond which a share is reached."""
    x, y = np.array(SEPARATIONS[: len(shares)], float), np.array(shares)
    below = np.flatnonzero(y < level)
    if len(below) == 0 or below[-1] == len(x) - 1:
        return np.nan
    k = below[-1]
    return float(np.interp(level, y[k : k + 2], x[k : k + 2]))


def main(arguments=None):
    bench = Benchmark(
        'separation',
        __doc__.strip().splitlines()[0],
        n_images=400,
        weights='stars-galaxies',
    )
    arguments = bench.start(arguments)
    n = 3 if arguments.quick else arguments.n_images
    encoder, seed = bench.encoder, arguments.seed + 20251122
    pairs, shares = draw_pairs(n, generator_of(seed, 2)), []
    for separation in SEPARATIONS[:3] if arguments.quick else SEPARATIONS:
        found, total = find_pairs(encoder, pairs, separation, seed)
        case, target = f'separation {separation:g} px', TARGETS.get(separation, '')
        faint = share(found[:, 1])
        bench.add(case, 'fainter galaxy found', faint, n=n, target=target)
        bench.add(case, 'both galaxies found', share(found.all(1)), n=n)
        quantity = 'total flux over the truth, catalogue'
        bench.add(case, quantity, median_with_error(total), n=n)
        shares.append(faint[0])
    for level in (0.5, 0.95):
        quantity = f'separation from which the fainter galaxy is found in {level:.0%}'
        value = first_separation(shares, level)
        bench.add('all separations', quantity.replace('%', ' %'), value, unit='px')
    bench.finish()


if __name__ == '__main__':
    main()
