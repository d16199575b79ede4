# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Rendering by torch in single precision against GalSim: accuracy and speed.

Stars and galaxies of the prior of Patel et al. (2025) under PSFs of many seeings, and
the simulator of coadds.
"""

import time

import galsim
import numpy as np
import torch
from harness import Benchmark, ratio_with_error, share

from bliss_astro import CoaddSimulator, PSFModel
from bliss_astro.priors import CatalogPrior, SeeingPrior
from bliss_astro.rendering import (
    GalSimRenderer,
    RenderingAccuracy,
    render_galaxies,
    render_stars,
)
from bliss_astro.units import SDSS_PIXEL_SCALE

STAR_SIDE, GALAXY_SIDE = 81, 53
ACCURACIES = {'default': RenderingAccuracy(), 'training': RenderingAccuracy.training()}
TOLERANCES = {'default': 1e-6, 'training': 1e-4}
TARGETS = {'residual / peak': 0.001, 'flux': 0.002, 'second moments': 0.005}
# Pixels of the reference's transform; twice as many change less than 1e-6 of the peak.
REFERENCE_PERIOD = 256


def draw_psfs(n, seed):
    """PSF shapes ``(n, 8)`` of the prior of seeing."""
    generator = torch.Generator().manual_seed(seed)
    return SeeingPrior().sample_batch(n, inclined=True, generator=generator)


def add_stars(bench, n_psfs, rng):
    """Largest errors of stars at random places within a pixel."""
    worst = {name: np.zeros(2) for name in TOLERANCES}
    for vector in draw_psfs(n_psfs, bench.arguments.seed):
        model = PSFModel.from_shape(vector.double().numpy())
        # Single precision holds positions to 4e-6 px here.
        place = np.float32(STAR_SIDE // 2 + rng.uniform(-0.5, 0.5, 2))
        image = galsim.ImageD(galsim.BoundsI(0, STAR_SIDE - 1, 0, STAR_SIDE - 1))
        centre = galsim.PositionD(*place.astype(float))
        model.to_galsim().drawImage(
            image=image, method='no_pixel', center=centre, scale=1.0
        )
        for name, tolerance in TOLERANCES.items():
            x, y, flux = (torch.tensor([[float(v)]]) for v in (*place, 1.0))
            size = (STAR_SIDE, STAR_SIDE)
            own = render_stars(vector[None], x, y, flux, size=size, tolerance=tolerance)
            own = own[0].double().numpy()
            largest = np.abs(own - image.array).max() / model(0.0, 0.0)
            errors = largest, abs(own.sum() / image.array.sum() - 1)
            worst[name] = np.maximum(worst[name], errors)
    for name, values in worst.items():
        names = 'largest difference / peak', 'relative difference of flux'
        for quantity, value in zip(names, values, strict=True):
            target = '< 0.0001' if name == 'default' else ''
            bench.add(f'stars, {name}', quantity, value, target=target)


def moments(image):
    """Flux and second moments about the centroid."""
    y, x = np.indices(image.shape)
    total = image.sum()
    dx, dy = (v - (image * v).sum() / total for v in (x, y))
    second = [(image * v).sum() / total for v in (dx * dx, dy * dy, dx * dy)]
    return total, np.array(second)


def errors_of(image, exact):
    """Errors of one stamp in the order of `TARGETS`."""
    (flux, second), (true_flux, true_second) = moments(image), moments(exact)
    return (
        np.abs(image - exact).max() / exact.max(),
        abs(flux / true_flux - 1),
        np.abs(second - true_second).max() / (0.5 * true_second[:2].sum()),
    )


def add_galaxies(bench, n, rng):
    """Errors of galaxies against GalSim's tight settings, and speeds."""
    generator = torch.Generator().manual_seed(bench.arguments.seed)
    _, galaxy = CatalogPrior().galaxies.sample_batch(
        (n, 1), flux_min=torch.full((n, 1), 1.0), generator=generator
    )
    galaxy = galaxy * torch.tensor([1, 1, 1, 1, *2 * [1 / SDSS_PIXEL_SCALE]])
    psfs = draw_psfs(n, bench.arguments.seed + 1)
    place = torch.as_tensor(GALAXY_SIDE // 2 + rng.uniform(-0.5, 0.5, (2, n, 1)))
    place, size = place.float(), (GALAXY_SIDE, GALAXY_SIDE)
    models = [PSFModel.from_shape(s.double().numpy()) for s in psfs]
    tight = GalSimRenderer.reference().gsparams
    renderers = {
        'reference': GalSimRenderer(period=REFERENCE_PERIOD, gsparams=tight),
        'GalSim': GalSimRenderer(),
    }
    images, seconds = {}, {}
    for name, renderer in renderers.items():
        start = time.perf_counter()
        images[name] = [
            renderer.render(
                models[k],
                *place[:, k].double().numpy(),
                [1.0],
                size,
                galaxy=galaxy[k].double().numpy(),
            )
            for k in range(n)
        ]
        seconds[name] = time.perf_counter() - start
    ones = torch.ones(n, 1)
    for name, accuracy in ACCURACIES.items():
        start = time.perf_counter()
        own = render_galaxies(psfs, *place, ones, galaxy, size=size, accuracy=accuracy)
        elapsed, case = time.perf_counter() - start, f'galaxies, {name}'
        bench.add(case, 'galaxies per second', n / elapsed, n=n)
        ratio = seconds['GalSim'] / elapsed
        bench.add(case, 'times faster than GalSim', ratio, n=n, target='>= 15')
        errors = np.array(
            [
                errors_of(image, exact)
                for image, exact in zip(
                    own.double().numpy(), images['reference'], strict=True
                )
            ]
        )
        for values, (quantity, limit) in zip(errors.T, TARGETS.items(), strict=True):
            target = f'< {limit:g}' if name == 'default' else ''
            value = np.quantile(values, 0.99)
            bench.add(case, f'{quantity}, 99 %', value, n=n, target=target)
            quantity = f'share with {quantity} within {limit:g}'
            bench.add(case, quantity, share(values < limit), n=n)
    bench.add(
        'galaxies, default',
        'galaxies per second',
        n / seconds['GalSim'],
        method='GalSim',
    )


def add_simulator(bench, n_coadds, rounds=3):
    """Time of a coadd of ten exposures."""
    simulator, seconds = CoaddSimulator(10, tolerance=1e-5), []
    generator = torch.Generator().manual_seed(bench.arguments.seed)
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(0, n_coadds, 128):
            simulator.sample_batch(min(128, n_coadds), generator=generator)
        seconds.append(1e3 * (time.perf_counter() - start))
    counts = [128 * -(-n_coadds // 128) if n_coadds > 128 else n_coadds] * rounds
    value = ratio_with_error(seconds, counts)
    bench.add('coadd of ten exposures', 'time per coadd', value, unit='ms')
    bench.rows[-1]['benchmark'] = 'speed'


def main(arguments=None):
    bench = Benchmark('rendering', __doc__.strip().splitlines()[0], n_images=500)
    arguments = bench.start(arguments)
    n, rng = 4 if arguments.quick else arguments.n_images, bench.rng
    add_stars(bench, n, rng)
    add_galaxies(bench, n, rng)
    add_simulator(bench, 4 * n)
    bench.finish()


if __name__ == '__main__':
    main()
