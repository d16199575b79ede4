# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Scenes of blended stars and galaxies, and what an encoder is told of them.
"""

import math

import numpy as np
import torch

from bliss_astro.encoders import EncoderInputs
from bliss_astro.exposures._camera import add_noise
from bliss_astro.priors import CatalogPrior
from bliss_astro.rendering import render_galaxies, render_stars
from bliss_astro.simulation._images import SimulatedImages

__all__ = [
    'DENSITY',
    'FLOOR',
    'RADIUS',
    'SEED',
    'SHAPE',
    'draw_blends',
    'expose',
    'fluxes_at',
    'generator_of',
    'inputs_of',
    'signal_of',
]

# No training stream begins with this key.
SEED = 20251122
SHAPE = (48, 48)
# Sources lie within this distance in pixels of the centre, and are brighter
# than r = 22.5.
RADIUS, FLOOR = 12.0, 1.0
N_SOURCES = (2, 6)
# What an encoder is told: the mean number of sources over the circle's area.
DENSITY = 0.5 * sum(N_SOURCES) / (math.pi * RADIUS**2)


def generator_of(*key):
    """A generator seeded by a tuple of integers."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(seed)


def signal_of(psf, x, y, flux, is_galaxy, galaxy, *, size=SHAPE):
    """
    Noiseless electrons of stars and galaxies, at full accuracy.

    Parameters
    ----------
    psf : tensor ``(B, 8)``
        PSF of each image.

    x, y, flux, is_galaxy : tensor ``(B, S)``
        Sources; those of flux 0 are none.

    galaxy : tensor ``(B, S, 6)``
        Shapes, radii in pixels.

    size : tuple of int, optional
        ``(ny, nx)`` of the images.

    Returns
    -------
    signal : tensor ``(B, ny, nx)``
        Without background.
    """
    stars = render_stars(psf, x, y, flux * ~is_galaxy, size=size)
    # Fourier sums leave tiny negative values far out.
    extended = render_galaxies(psf, x, y, flux * is_galaxy, galaxy, size=size)
    return stars + extended.clamp(min=0)


def fluxes_at(snr, unit, variance):
    """
    Fluxes at which images reach a signal-to-noise ratio.

    Parameters
    ----------
    snr : float
        Of the sum of ``s**2 / (s + b)``.

    unit : tensor ``(n, ny, nx)``
        Images of unit flux.

    variance : tensor ``(n,)``
        Of the background.

    Returns
    -------
    flux : tensor ``(n,)``
        Electrons.
    """
    unit, variance = unit.double(), variance.double()[:, None, None]
    low = torch.zeros(len(unit), dtype=torch.float64)
    high = torch.full_like(low, 1e7)
    for _ in range(50):
        middle = 0.5 * (low + high)
        s = unit * middle[:, None, None]
        above = (s**2 / (s + variance)).sum((1, 2)) > snr**2
        high = torch.where(above, middle, high)
        low = torch.where(above, low, middle)
    return high.float()


def expose(
    fields,
    sources,
    *,
    generator,
    size=SHAPE,
    density=DENSITY,
    floor=FLOOR,
    circle=None,
    population='npe',
):
    """
    Photograph sources.

    Parameters
    ----------
    fields : `~bliss_astro.priors.FieldBatch`
        PSF, sky, calibration and read noise of the B images.

    sources : tuple of tensor
        ``x, y, flux, is_galaxy`` ``(B, S)`` and ``galaxy`` ``(B, S, 6)``; pixels and
        electrons.

    generator : `torch.Generator`
        For the noise.

    size : tuple of int, optional
        ``(ny, nx)``.

    density, floor : float, optional
        What is told: sources per pixel above a flux in nmgy.

    circle : tuple of float or None, optional
        ``(x, y, radius)``: what is told of where the sources are; `None` for
        anywhere.

    population : {'npe', 'sky'}, optional
        Whose prior is told.

    Returns
    -------
    scenes : SimulatedImages
        Single exposures with photon noise of sky and sources.

    signal : tensor ``(B, ny, nx)``
        Their noiseless sources.
    """
    x, y, flux, is_galaxy, galaxy = sources
    n, (ny, nx) = len(x), size
    signal = signal_of(fields.psf, x, y, flux, is_galaxy, galaxy, size=size)
    data = add_noise(
        signal,
        fields.background[:, None, None],
        read_noise=fields.read_noise[:, None, None],
        generator=generator,
    )
    ones = torch.ones(n)
    circle = (nx / 2, ny / 2, math.inf) if circle is None else circle
    scenes = SimulatedImages(
        data=data,
        background=fields.background,
        bkg_error=(fields.background + fields.read_noise**2).sqrt(),
        effective_gain=ones,
        correlation=torch.zeros(n, 2),
        psf=fields.psf,
        electrons_per_nmgy=fields.electrons_per_nmgy,
        density=density * ones,
        flux_min=floor * fields.electrons_per_nmgy,
        mask=torch.zeros(n, ny, nx, dtype=torch.bool),
        x=x,
        y=y,
        flux=flux,
        is_galaxy=is_galaxy,
        galaxy=galaxy,
        population=ones * (population == 'npe'),
        region=torch.tensor([[-0.5, nx - 0.5, -0.5, ny - 0.5]]).expand(n, 4),
        cluster=torch.tensor([circle]).expand(n, 3),
    )
    return scenes, signal


def draw_blends(n, field_prior, *, generator, told='blends'):
    """
    Draw scenes of the blend set.

    Parameters
    ----------
    n : int
        How many.

    field_prior : `~bliss_astro.priors.FieldPrior`
        How they are seen.

    generator : `torch.Generator`
        For everything.

    told : {'blends', 'field'}, optional
        Whether the encoder is told that all sources are in the circle, and how many on
        average, or the density of the NPE paper's prior everywhere.

    Returns
    -------
    scenes, signal
        As `expose` returns.
    """
    prior = CatalogPrior()
    low, high = N_SOURCES
    count = torch.randint(low, high + 1, (n,), generator=generator)
    unit = torch.rand(4, n, high, generator=generator)
    used = torch.arange(high) < count[:, None]
    radius, angle = RADIUS * unit[0].sqrt(), 2 * math.pi * unit[1]
    densities = prior.star_density(FLOOR), prior.galaxy_density(FLOOR)
    is_galaxy = used & (unit[2] < densities[1] / sum(densities))
    floor = torch.full((n, 1), FLOOR)
    flux, galaxy = prior.galaxies.sample_batch(
        (n, high), flux_min=floor, generator=generator
    )
    star = prior.stars.flux_quantile(unit[3], floor)
    flux = torch.where(is_galaxy, flux, star)
    galaxy = galaxy * torch.tensor([1, 1, 1, 1, 1 / 0.396, 1 / 0.396])
    fields = field_prior.sample_batch(n, generator=generator)
    centre = [0.5 * (s - 1) for s in SHAPE]
    sources = (
        (centre[1] + radius * angle.cos()) * used,
        (centre[0] + radius * angle.sin()) * used,
        flux * used * fields.electrons_per_nmgy[:, None],
        is_galaxy,
        galaxy,
    )
    telling = {'circle': (centre[1], centre[0], RADIUS)}
    if told == 'field':
        telling = {'density': float(sum(densities))}
    return expose(fields, sources, generator=generator, **telling)


def inputs_of(encoder, scenes):
    """What an encoder is told of scenes, as in training."""
    return EncoderInputs.from_batch(scenes, tile_size=encoder.config.tile_size)
