# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tile borders: stars and galaxies in the same noise through shifted grids of tiles.

Half of the width of a tile apart, two grids have the border of one in the middle of the
tiles of the other.
"""

import numpy as np
import torch
from harness import Benchmark, share
from samples import run_encoder
from scenes import crop, expose, fluxes_at, generator_of

from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.units import SDSS_PIXEL_SCALE

SHAPE, TILE, BATCH = (48, 48), 4, 50
RATIO_TARGET, TWICE_TARGET = '0.98 to 1.02', '<= 0.003'
# Signal-to-noise ratio, and the magnitude whose galaxies have the shapes.
CASES = {
    'galaxy, SNR 10': (10.0, 22.0),
    'galaxy, SNR 30': (30.0, 21.0),
    'star, SNR 10': (10.0, None),
    'star, SNR 30': (30.0, None),
}


def draw_sources(case, n, generator):
    """Images with one source each, anywhere in a tile, with room for a shifted grid."""
    snr, magnitude = CASES[case]
    fields = FieldPrior.single().sample_batch(n)
    galaxy = torch.full((n, 1, 6), 0.5)
    if magnitude is not None:
        flux = torch.full((n, 1), 10 ** (0.4 * (22.5 - magnitude)))
        shapes = CatalogPrior.sky().galaxies.shapes
        galaxy = shapes.sample_batch(flux, generator=generator)
        galaxy[..., 4:] /= SDSS_PIXEL_SCALE
    is_galaxy = torch.full((n, 1), magnitude is not None)
    flux = fluxes_at(snr, fields, is_galaxy, galaxy, shape=SHAPE)[:, None]
    place = 24 - 0.5 + 2 * TILE * (torch.rand(2, n, 1, generator=generator) - 0.5)
    shape = (SHAPE[0] + TILE // 2, SHAPE[1] + TILE // 2)
    return expose(
        fields, *place, flux, is_galaxy, galaxy, generator, shape=shape, density=1e-3
    )


def look(encoder, images):
    """Number of detections within 3 px, found within 1 px, distance from a border."""
    rows = run_encoder(encoder, images, intervals=False)
    scene = np.asarray(rows['scene']).astype(int)
    x, y = (v[:, 0].double().numpy() for v in (images.x, images.y))
    apart = np.hypot(rows['x'] - x[scene], rows['y'] - y[scene])
    n = len(images)
    found = np.bincount(scene[apart <= 1], minlength=n) > 0
    number = np.bincount(scene[apart <= 3], minlength=n)
    inside = [np.minimum((v + 0.5) % TILE, TILE - (v + 0.5) % TILE) for v in (x, y)]
    return found, number, np.minimum(*inside)


def main(arguments=None):
    bench = Benchmark(
        'seams', __doc__.strip().splitlines()[0], n_images=500, weights='stars-galaxies'
    )
    arguments = bench.start(arguments)
    n_images = 6 if arguments.quick else arguments.n_images
    encoder = bench.encoder
    for k, case in enumerate(CASES):
        parts = []
        for first in range(0, n_images, BATCH):
            generator = generator_of(arguments.seed, k, first)
            images = draw_sources(case, min(BATCH, n_images - first), generator)
            parts += [
                look(encoder, crop(images, shift, shift, SHAPE))
                for shift in (0, TILE // 2)
            ]
        found, number, inside = (np.concatenate(v) for v in zip(*parts, strict=True))
        border, middle = found[inside < 0.5], found[inside > 1]
        bench.add(case, 'recall', share(found), n=len(found))
        if len(border) and len(middle):
            (a, a_error), (b, b_error) = share(border), share(middle)
            error = np.hypot(a_error, b_error * a / max(b, 1e-9)) / max(b, 1e-9)
            bench.add(
                case,
                'recall at borders over that in the middle',
                a / max(b, 1e-9),
                error,
                n=len(border),
                target=RATIO_TARGET,
            )
        twice = share(number > 1)
        bench.add(case, 'found twice', twice, n=len(number), target=TWICE_TARGET)
    bench.finish()


if __name__ == '__main__':
    main()
