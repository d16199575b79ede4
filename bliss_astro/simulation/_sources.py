# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sources of simulated images: draws from priors of stars and galaxies.
"""

import dataclasses
import math

import torch

from bliss_astro.priors import StarPrior
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._conditions import npe_floor, sample_floor
from ._config import CONFINED_MARGIN
from ._draws import log_uniform, uniform, unit
from ._images import padded

__all__ = [
    'Sources',
    'draw_catalog',
    'draw_stars',
    'sample_catalog',
    'sample_expected',
    'sample_stars',
]

# Flux floor and largest flux of a `StarPrior`, whose ratio alone counts here.
_STAR_FLUX = 622.0
# Smallest flux over the flux floor of sources of the sky: fainter ones than are in
# the truth are in the images.
_UNSEEN = 0.4


@dataclasses.dataclass
class Sources:
    """
    Sources of B images, named as in `SimulatedImages`.
    """

    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    density: torch.Tensor
    flux_min: torch.Tensor
    region: torch.Tensor
    is_galaxy: torch.Tensor | None = None
    galaxy: torch.Tensor | None = None
    population: torch.Tensor | None = None
    cluster: torch.Tensor | None = None

    def append(self, x, y, flux, galaxy=None):
        """Add one source an image, tensors ``(B, 1)``; stars without a shape."""
        is_galaxy = (flux > 0) & (galaxy is not None)
        # Stars have shapes too, which mean nothing.
        galaxy = self.galaxy[:, :1] if galaxy is None else galaxy
        added = {'x': x, 'y': y, 'flux': flux}
        added |= {'is_galaxy': is_galaxy, 'galaxy': galaxy}
        for name, value in added.items():
            setattr(self, name, torch.cat([getattr(self, name), value], 1))

    @property
    def stars(self):
        """Positions and fluxes of the stars; flux 0 in other places."""
        if self.is_galaxy is None:
            return self.x, self.y, self.flux
        return self.x, self.y, self.flux * ~self.is_galaxy

    @staticmethod
    def galaxies(several):
        """Positions, fluxes and shapes of the galaxies of several groups, padded."""
        most = max(sources.x.shape[1] for sources in several)
        x, y, flux, is_galaxy, galaxy = (
            torch.cat([padded(getattr(sources, name), most) for sources in several])
            for name in ('x', 'y', 'flux', 'is_galaxy', 'galaxy')
        )
        return x, y, flux * is_galaxy, galaxy


def _rectangle(shape, margin, like):
    """Images less a margin, ``(B, 4)``, as a `region`."""
    ny, nx = shape
    edges = [margin - 0.5, nx - margin - 0.5, margin - 0.5, ny - margin - 0.5]
    return like.new_tensor(edges).expand(len(like), 4)


def sample_stars(config, fields, *, generator):
    """
    Draw stars with fluxes of a power law, for images of a configuration.

    Parameters
    ----------
    config : `SimulationConfig`
        Density, flux floor, slopes, dynamic range, and margins.

    fields : `~bliss_astro.simulation._camera.Fields`
        Observing conditions.

    generator : `torch.Generator`
        Source of randomness.

    Returns
    -------
    sources : `Sources`
        The stars.
    """
    confined = float(unit((), generator=generator)) < config.confined_fraction
    margin = CONFINED_MARGIN if confined else config.margin
    floor = sample_floor(config, fields, generator=generator)
    # One density a group: catalogues are padded to its fullest image.
    density = log_uniform(config.density, 1, generator=generator).expand(len(floor))
    slope = config.slope
    if config.slopes is not None:
        slope = float(uniform(config.slopes, 1, generator=generator))
    largest = _STAR_FLUX * config.dynamic_range
    prior = StarPrior(flux_min=_STAR_FLUX, flux_max=largest, slope=slope)
    stars = draw_stars(
        prior,
        config.shape,
        margin,
        # The number of stars of a power law down to the lower limit.
        density=config.unseen**-slope * density,
        flux_min=config.unseen * floor,
        generator=generator,
    )
    return dataclasses.replace(stars, density=density, flux_min=floor)


def draw_stars(prior, shape, margin, *, density, flux_min, generator):
    """Stars of a `~bliss_astro.priors.StarPrior` that keep a margin, as `Sources`."""
    ny, nx = shape
    x, y, flux, _ = prior.sample_batch(
        len(density),
        (ny - 2 * margin, nx - 2 * margin),
        density=density,
        flux_min=flux_min,
        generator=generator,
        device=density.device,
    )
    region = _rectangle(shape, margin, density)
    return Sources(x + margin, y + margin, flux, density, flux_min, region)


def sample_catalog(
    config, prior, fields, population, margin, *, latent_dim=None, generator
):
    """
    Draw stars and galaxies of a prior, for images of a configuration.

    Parameters
    ----------
    config : `SimulationConfig`
        Flux floors, clusters and factors on the densities.

    prior : `~bliss_astro.priors.CatalogPrior`
        Prior of the population.

    fields : `~bliss_astro.simulation._camera.Fields`
        Observing conditions.

    population : {'npe', 'sky'}
        Name of the population.

    margin : int
        Distance in pixels that sources keep from the edges.

    latent_dim : int, optional
        Number of latent variables of a learned galaxy model, drawn for the galaxies
        in place of shapes.

    generator : `torch.Generator`
        Source of randomness.

    Returns
    -------
    sources : `Sources`
        Stars and galaxies.
    """
    floor, cluster, scales, density = sample_expected(
        config, prior, fields, population, generator=generator
    )
    lowest = floor * (_UNSEEN if population == 'sky' else 1.0)
    sources = draw_catalog(
        prior,
        fields,
        config.shape,
        margin,
        flux_min=lowest,
        scales=scales,
        generator=generator,
    )
    if latent_dim is not None:
        size = (*sources.x.shape, latent_dim)
        sources.galaxy = torch.randn(size, generator=generator, device=floor.device)
    sources.density, sources.flux_min, sources.cluster = density, floor, cluster
    sources.population += population == 'npe'
    apart = torch.hypot(sources.x - cluster[:, :1], sources.y - cluster[:, 1:2])
    sources.flux = sources.flux * (apart < cluster[:, 2:])
    return sources


def draw_catalog(
    prior, fields, shape, margin, *, flux_min, scales=(1.0, 1.0), generator
):
    """
    Sources of a `~bliss_astro.priors.CatalogPrior` that keep a margin, as `Sources`.
    """
    ny, nx = shape
    scale = fields.electrons_per_nmgy
    drawn = prior.sample_batch(
        len(fields),
        (ny - 2 * margin, nx - 2 * margin),
        flux_min=flux_min / scale,
        star_scale=scales[0],
        galaxy_scale=scales[1],
        pixel_scale=fields.pixel_scale,
        generator=generator,
        device=scale.device,
    )
    return Sources(
        x=drawn.x + margin,
        y=drawn.y + margin,
        flux=drawn.flux * scale[:, None],
        density=_density(prior, flux_min / scale, scales, fields.pixel_scale),
        flux_min=flux_min,
        region=_rectangle(shape, margin, scale),
        is_galaxy=drawn.is_galaxy,
        galaxy=drawn.galaxy,
        population=torch.zeros_like(scale),
    )


def _density(prior, flux_min, scales, pixel_scale):
    """Expected number of sources per pixel above fluxes ``(n,)`` in nmgy."""
    # Priors count in pixels of SDSS.
    area = (pixel_scale / SDSS_PIXEL_SCALE) ** 2
    stars = prior.star_density(flux_min) * scales[0]
    return area * (stars + prior.galaxy_density(flux_min) * scales[1])


def sample_expected(config, prior, fields, population, *, generator):
    """
    Draw flux floors and expected numbers of sources.

    Parameters
    ----------
    config : `SimulationConfig`
        Ranges.

    prior : `~bliss_astro.priors.CatalogPrior`
        Prior of the population.

    fields : `~bliss_astro.simulation._camera.Fields`
        Observing conditions of n images.

    population : {'npe', 'sky'}
        Name of the population.

    generator : `torch.Generator`
        Source of randomness.

    Returns
    -------
    floor : tensor ``(n,)``
        Flux floors in electrons.

    cluster : tensor ``(n, 3)``
        Centres and radii of the circles that hold all sources.

    scales : tuple of tensor ``(n,)``
        Factors on the prior's densities of stars and of galaxies.

    density : tensor ``(n,)``
        Sources per pixel above the floor.
    """
    scale = fields.electrons_per_nmgy
    if population == 'npe':
        floor = npe_floor(config, prior.flux_min, scale, generator=generator)
    else:
        floor = sample_floor(config, fields, generator=generator)
    cluster = _sample_clusters(config, len(fields), population, generator)
    scales = _sample_scales(config, population, cluster, generator)
    density = _density(prior, floor / scale, scales, fields.pixel_scale)
    if config.fields == 'telescopes' and population == 'sky':
        # Half of the densities are log-uniform, the others those of the sky: neither
        # empty nor beyond what tiles can hold.
        coin = unit(len(density), generator=generator) < 0.5
        drawn = log_uniform(config.density, len(density), generator=generator)
        wanted = torch.where(coin, drawn, density.clamp(*config.density))
        scales = [factor * wanted / density for factor in scales]
        density = wanted
    return floor, cluster, scales, density


def _sample_clusters(config, n, population, generator):
    """Centre and radius of the circles that hold all sources, ``(n, 3)``."""
    ny, nx = config.shape
    if population != 'npe' or config.cluster_fraction == 0:
        middle = torch.tensor([nx / 2, ny / 2, math.inf], device=generator.device)
        return middle.expand(n, 3)
    place = unit(n, 3, generator=generator)
    radius = log_uniform(config.cluster_radius, n, generator=generator)
    coin = place[:, 2] < config.cluster_fraction
    # Centres keep a fifth of the image from its edges.
    centre = 0.2 + 0.6 * place[:, :2]
    return torch.stack(
        [nx * centre[:, 0], ny * centre[:, 1], torch.where(coin, radius, math.inf)], -1
    )


def _sample_scales(config, population, cluster, generator):
    """Factors ``(n,)`` on the prior's densities of stars and of galaxies."""
    n = len(cluster)
    if population == 'npe':
        factor = log_uniform(config.crowding, n, generator=generator)
        if config.cluster_fraction > 0:
            inside = log_uniform(config.cluster_crowding, n, generator=generator)
            factor = torch.where(cluster[:, 2].isinf(), factor, inside)
        return factor, factor
    return (
        log_uniform(config.star_scale, n, generator=generator),
        log_uniform(config.galaxy_scale, n, generator=generator),
    )
