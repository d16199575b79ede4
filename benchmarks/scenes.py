# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images of the benchmarks: star fields, many fields, blends, single sources.

Each function returns `~bliss_astro.simulation.SimulatedImages`; `exposure_of` makes an
`~bliss_astro.exposures.Exposure` of one image, `truth_of` a table of all sources.
"""

import dataclasses
import math

import numpy as np
import torch
from astropy.table import Table

from bliss_astro import CoaddSimulator, PSFModel
from bliss_astro.metrics import scene_truth
from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.rendering import render_galaxies, render_stars
from bliss_astro.simulation import SimulatedImages, SimulationConfig, SimulationStream
from bliss_astro.units import SDSS_PIXEL_SCALE

# The coadd paper: electrons of one nanomaggy, faintest star, stars per pixel.
ELECTRONS_PER_NMGY, FLUX_MIN, STAR_DENSITY = 987.31, 622.0, 3 / 1600
# Blends: sources within this many pixels of the centre, brighter than 1 nmgy, r = 22.5.
BLEND_RADIUS, BLEND_FLOOR, BLEND_COUNT = 12.0, 1.0, (2, 6)
BLEND_DENSITY = 0.5 * sum(BLEND_COUNT) / (math.pi * BLEND_RADIUS**2)


def generator_of(*key):
    """Torch generator seeded by a tuple of integers."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(seed)


def draw_star_fields(n, depth, generator, *, shape=(88, 88)):
    """Coadds of stars as in Wang et al. (2022)."""
    simulator = CoaddSimulator(depth, shape=shape, tolerance=1e-5)
    return complete_stars(simulator.sample_batch(n, generator=generator))


def draw_fields(n, generator, *, single=False):
    """Images of 80 x 80 pixels as in Patel et al. (2025), of many fields or of one."""
    config = SimulationConfig(
        population='npe',
        fields='single' if single else 'sdss',
        n_exposures=(1, 1),
        shape=(80, 80),
        bad_pixels=False,
    )
    return SimulationStream(config).sample_batch(n, generator=generator)


def draw_blends(n, generator, *, shape=(48, 48)):
    """Two to six stars and galaxies within 12 pixels, in the skies of many fields."""
    prior, most = CatalogPrior(), BLEND_COUNT[1]
    count = torch.randint(BLEND_COUNT[0], most + 1, (n,), generator=generator)
    unit = torch.rand(4, n, most, generator=generator)
    used = torch.arange(most) < count[:, None]
    densities = prior.star_density(BLEND_FLOOR), prior.galaxy_density(BLEND_FLOOR)
    is_galaxy = used & (unit[2] < densities[1] / sum(densities))
    floor = torch.full((n, 1), BLEND_FLOOR)
    flux, galaxy = prior.galaxies.sample_batch(
        (n, most), flux_min=floor, generator=generator
    )
    flux = torch.where(is_galaxy, flux, prior.stars.flux_quantile(unit[3], floor))
    galaxy = galaxy * torch.tensor(
        [1, 1, 1, 1, 1 / SDSS_PIXEL_SCALE, 1 / SDSS_PIXEL_SCALE]
    )
    fields = FieldPrior().sample_batch(n, generator=generator)
    radius, angle = BLEND_RADIUS * unit[0].sqrt(), 2 * math.pi * unit[1]
    x = 0.5 * (shape[1] - 1) + radius * angle.cos()
    y = 0.5 * (shape[0] - 1) + radius * angle.sin()
    flux = flux * used * fields.electrons_per_nmgy[:, None]
    return expose(fields, x, y, flux, is_galaxy, galaxy, generator, shape=shape)


def expose(
    fields,
    x,
    y,
    flux,
    is_galaxy,
    galaxy,
    generator,
    *,
    shape=(48, 48),
    density=BLEND_DENSITY,
    flux_min=BLEND_FLOOR,
):
    """
    Single exposures of given sources.

    Parameters
    ----------
    fields : FieldBatch
        PSF, sky, calibration and read noise of B images.

    x, y, flux, is_galaxy : tensor ``(B, S)``
        Positions in pixels, fluxes in electrons and types; flux 0 for unused places.

    galaxy : tensor ``(B, S, 6)``
        Shapes, radii in pixels.

    generator : `torch.Generator`
        For the noise.

    shape : tuple of int
        ``(ny, nx)``.

    density, flux_min : float
        Sources per pixel of the prior, above a flux in nmgy.
    """
    n = len(x)
    signal = render_stars(fields.psf, x, y, flux * ~is_galaxy, size=shape)
    extended = render_galaxies(fields.psf, x, y, flux * is_galaxy, galaxy, size=shape)
    # Fourier sums leave tiny negative values far out.
    signal = signal + extended.clamp(min=0)
    variance = fields.background + fields.read_noise**2
    noise = torch.randn(signal.shape, generator=generator)
    data = signal + fields.background[:, None, None]
    data = data + noise * (variance[:, None, None] + signal).sqrt()
    ones = torch.ones(n)
    return SimulatedImages(
        data=data,
        background=fields.background,
        bkg_error=variance.sqrt(),
        effective_gain=ones,
        correlation=torch.zeros(n, 2),
        psf=fields.psf,
        density=density * ones,
        flux_min=flux_min * fields.electrons_per_nmgy,
        region=torch.tensor([-0.5, shape[1] - 0.5, -0.5, shape[0] - 0.5]).expand(n, 4),
        mask=torch.zeros(data.shape, dtype=torch.bool),
        x=x,
        y=y,
        flux=flux,
        is_galaxy=is_galaxy,
        galaxy=galaxy,
        population=ones,
        electrons_per_nmgy=fields.electrons_per_nmgy,
    )


def density_of(images, k):
    """Sources per pixel of image number k: a map where a region confines them."""
    ny, nx = images.data.shape[1:]
    x_low, x_high, y_low, y_high = images.region[k].tolist()
    x, y = np.arange(nx), np.arange(ny)[:, None]
    inside = (x > x_low) & (x < x_high) & (y > y_low) & (y < y_high)
    density = float(images.density[k])
    return density if inside.all() else np.where(inside, density, 0.0)


def exposure_of(images, k, *, psf=None, calibrated=False):
    """
    Image number k as an exposure in electrons, or in nanomaggies if calibrated.

    Parameters
    ----------
    images : `~bliss_astro.simulation.SimulatedImages`
        Simulated images.

    k : int
        Number of the image.

    psf : tensor ``(8,)``, optional
        Shape of another PSF than the true one.

    calibrated : bool
        Whether fluxes are in nanomaggies.
    """
    shape = images.psf[k] if psf is None else psf
    return images.exposure(
        k,
        unit='nmgy' if calibrated else 'electron',
        psf=PSFModel.from_shape(shape.double().numpy()),
        # The simulation misstates neither.
        psf_error=0.001,
        background_error=0.001,
    )


def truth_of(images, *, first=0):
    """
    Table of all sources: ``scene, x, y, flux, magnitude, is_galaxy, snr, ...``.

    Parameters
    ----------
    images : `~bliss_astro.simulation.SimulatedImages`
        Simulated images.

    first : int
        Number of the first scene.
    """
    table = scene_truth(images, index=first + np.arange(len(images)))
    # Plain arrays: all rows are in pixels and electrons.
    return Table({k: getattr(table[k], 'value', table[k]) for k in table.colnames})


def complete_stars(images):
    """Types, shapes and calibration of images of stars."""
    n, most = images.flux.shape
    return dataclasses.replace(
        images,
        is_galaxy=torch.zeros(n, most, dtype=torch.bool),
        galaxy=torch.ones(n, most, 6),
        electrons_per_nmgy=torch.full((n,), ELECTRONS_PER_NMGY),
    )


def crop(images, left, bottom, shape):
    """The same images without some of their first columns and rows."""
    ny, nx = shape
    rows, columns = slice(bottom, bottom + ny), slice(left, left + nx)
    region = torch.tensor([-0.5, nx - 0.5, -0.5, ny - 0.5]).expand(len(images), 4)
    return dataclasses.replace(
        images,
        data=images.data[:, rows, columns],
        mask=images.mask[:, rows, columns],
        region=region,
        x=images.x - left,
        y=images.y - bottom,
    )


def fluxes_at(snr, fields, is_galaxy, galaxy, *, shape=(48, 48)):
    """
    Electrons at which isolated sources reach a signal-to-noise ratio.

    Parameters
    ----------
    snr : float
        Root of the sum of ``s**2 / (s + b)``.

    fields : FieldBatch
        PSF and sky of B images.

    is_galaxy : tensor ``(B, 1)``
        Types.

    galaxy : tensor ``(B, 1, 6)``
        Shapes, radii in pixels.

    shape : tuple of int
        ``(ny, nx)``.
    """
    n = len(is_galaxy)
    ones = torch.ones(n, 1)
    place = shape[1] / 2 * ones, shape[0] / 2 * ones
    unit = render_stars(fields.psf, *place, ones * ~is_galaxy, size=shape)
    unit = unit + render_galaxies(
        fields.psf, *place, ones * is_galaxy, galaxy, size=shape
    )
    unit = unit.double().clamp(min=0)
    variance = (fields.background + fields.read_noise**2).double()[:, None, None]
    low, high = torch.zeros(n, dtype=torch.float64), torch.full((n,), 1e7).double()
    for _ in range(50):
        middle = 0.5 * (low + high)
        signal = unit * middle[:, None, None]
        above = (signal**2 / (signal + variance)).sum((1, 2)) > snr**2
        high, low = torch.where(above, middle, high), torch.where(above, low, middle)
    return high.float()
