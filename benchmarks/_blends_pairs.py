# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pairs of galaxies of the slides' case study, and what is told of them.
"""

import math

import torch
from _blends_scenes import (
    DENSITY,
    FLOOR,
    RADIUS,
    SHAPE,
    expose,
    fluxes_at,
    signal_of,
)

from bliss_astro.priors import CatalogPrior, FieldPrior

__all__ = ['draw_pairs', 'place_pairs', 'tellings']

RADII = (1.2, 0.8)  # arcsec, half-light
FLUX_RATIO, SNR = 2.0, 30.0
_PIXEL_SCALE = 0.396
# Thinner disks than this have no half-light radius to speak of.
_AXIS_RATIO_MIN = 0.05


def draw_pairs(n, *, generator):
    """
    Draw pairs of galaxies, wherever they will lie.

    Parameters
    ----------
    n : int
        How many.

    generator : `torch.Generator`
        For everything.

    Returns
    -------
    fields : `~bliss_astro.priors.FieldBatch`
        The one field, n times.

    flux : tensor ``(n, 2)``
        Electrons, the brighter one first.

    galaxy : tensor ``(n, 2, 6)``
        Shapes, radii in pixels.

    place : tuple of tensor
        Middle of the pair ``(n, 2)`` and direction ``(n,)`` in which it is drawn apart.
    """
    fields = FieldPrior.single().sample_batch(n)
    unit = torch.rand(7, n, generator=generator)
    galaxy = torch.full((n, 2, 6), 0.5)
    galaxy[..., 0] = 1.0
    galaxy[..., 1] = math.pi * unit[:2].T
    galaxy[..., 2] = _AXIS_RATIO_MIN + (1 - _AXIS_RATIO_MIN) * unit[2:4].T
    galaxy[..., 4] = torch.tensor(RADII) / _PIXEL_SCALE
    middle = torch.tensor([0.5 * (s - 1) for s in SHAPE]) + unit[4:6].T - 0.5
    alone = middle[:, None]
    drawn = signal_of(
        fields.psf,
        alone[..., 0],
        alone[..., 1],
        torch.ones(n, 1),
        torch.ones(n, 1, dtype=torch.bool),
        galaxy[:, 1:],
    )
    faint = fluxes_at(SNR, drawn, fields.background + fields.read_noise**2)
    flux = torch.stack([FLUX_RATIO * faint, faint], -1)
    return fields, flux, galaxy, (middle, 2 * math.pi * unit[6])


def place_pairs(pairs, separation, *, generator, told):
    """
    Photograph pairs at one separation.

    Parameters
    ----------
    pairs : tuple
        From `draw_pairs`.

    separation : float
        Pixels.

    generator : `torch.Generator`
        For the noise.

    told : dict
        Keywords of `expose`.

    Returns
    -------
    scenes, signal
        As `expose` returns.
    """
    fields, flux, galaxy, (middle, direction) = pairs
    half = 0.5 * separation * torch.stack([direction.cos(), direction.sin()], -1)
    # The middle stays where it is: both galaxies go through all phases.
    position = torch.stack([middle - half, middle + half], 1)
    sources = (
        position[..., 0],
        position[..., 1],
        flux,
        torch.ones_like(flux, dtype=torch.bool),
        galaxy,
    )
    return expose(fields, sources, generator=generator, **told)


def tellings():
    """
    What an encoder may be told of the pairs, one of them for all separations.

    ``blends``: as of the blend set, four sources on average in a circle of 12 px, of
    the NPE paper's prior above 1 nmgy. ``field``: that prior as it is, anywhere.
    """
    centre = tuple(0.5 * (s - 1) for s in reversed(SHAPE))
    prior = CatalogPrior()
    density = float(prior.star_density() + prior.galaxy_density())
    return {
        'blends': {'density': DENSITY, 'floor': FLOOR, 'circle': (*centre, RADIUS)},
        'field': {'density': density, 'floor': prior.flux_min},
    }
