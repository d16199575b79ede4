# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sources and observing conditions of simulated images, drawn from priors and ranges.
"""

import dataclasses
import math

import torch

from bliss_astro.priors import StarPrior
from bliss_astro.priors._counts import FLOOR_SNR
from bliss_astro.psf import GaussianPSF
from bliss_astro.units import NANOMAGGY_ZERO_POINT, SDSS_PIXEL_SCALE

from ._camera import Fields, draw_dithers

# Distance in pixels that confined stars keep from the edges.
CONFINED_MARGIN = 12
# Share of the images of the sky that are not SDSS's, by the origin of the fields.
_OTHER_FRACTION = {'wide': 0.5, 'telescopes': 0.65}
# Electrons per nanomaggy of images that are not SDSS's, around its 943.
_ELECTRONS_PER_NMGY = (400.0, 2000.0)
# Largest read noise over the noise of the sky.
_READ_FRACTION = 0.7
# Depth up to which coadds may have inclined PSFs, which are slow to render.
_INCLINED_DEPTH = 8
# Margin in pixels, negative as the light of sources outside comes in, and smallest
# flux over the flux floor: fainter ones than are in the truth are in the images. Those
# of the NPE paper have none of these.
OUTSIDE = {'sky': (-14, 0.4), 'npe': (0, 1.0)}
# The same in the reference band over that in the band that shows a source best, for
# which a red star of i - z = 1.3 may count.
_REDDEST = 0.3


# -- observing conditions --------------------------------------------------------


def sample_depth(draw, n_exposures):
    """Draw the number of exposures of coadds, log-uniform and at least 2 of a range."""
    low, high = n_exposures
    place = draw.unit().item()
    if low == high:
        return low
    low = max(low, 2)
    ratio = math.log((high + 0.5) / (low - 0.5))
    return min(max(round((low - 0.5) * math.exp(place * ratio)), low), high)


def sample_fields(draw, config, prior, n, population, depth):
    """
    Draw `Fields` of stars alone, the sky or the NPE paper, which SDSS alone sees.

    Stars alone have no calibration, `None`.
    """
    inclined = draw.coin(config.inclined_fraction)
    if population == 'stars':
        inclined &= depth <= _INCLINED_DEPTH
        conditions = *_sample_ranges(draw, config, n, inclined), None
        is_other = torch.ones(n, dtype=torch.bool, device=draw.device)
    else:
        drawn = prior.sample_batch(n, generator=draw.generator, device=draw.device)
        conditions = drawn.psf, drawn.background, drawn.read_noise
        conditions += (drawn.electrons_per_nmgy,)
        is_other = torch.zeros(n, dtype=torch.bool, device=draw.device)
        if population == 'sky' and config.fields in _OTHER_FRACTION:
            inclined &= depth == 1
            mixed = _mix_others(draw, config, conditions, depth, inclined)
            conditions, is_other = mixed
        if depth > _INCLINED_DEPTH:
            upright = conditions[0].clone()
            upright[:, 7] = 0.0
            conditions = upright, *conditions[1:]
    pixel_scale = config.pixel_scale
    if config.fields == 'telescopes' and population == 'sky':
        coin = draw.coin(_OTHER_FRACTION['telescopes'])
        drawn = float(draw.log_uniform(config.pixel_scales, 1))
        pixel_scale = drawn if coin else pixel_scale
    largest = float(draw.uniform(config.dither, 1))
    dither = draw_dithers(draw, n, depth, largest)
    return Fields(*conditions, dither, pixel_scale, is_other=is_other)


def _sample_ranges(draw, config, n, inclined):
    """PSF, sky and read noise of the ranges of a configuration."""
    psf = config.sample_psf(n, inclined=inclined, generator=draw.generator)
    sky = draw.log_uniform(config.background, n)
    return psf, sky, draw.uniform(config.read_noise, n)


def _mix_others(draw, config, conditions, depth, inclined):
    """PSF, sky, read noise, calibration; and which images are of another camera."""
    n = len(conditions[0])
    if config.fields == 'wide':
        other = _sample_ranges(draw, config, n, inclined=False)
        other += (draw.log_uniform(_ELECTRONS_PER_NMGY, n),)
    else:
        other = _other_telescope(draw, config, n, depth, inclined)
    is_other = draw.unit(n) < _OTHER_FRACTION[config.fields]
    mixed = [
        torch.where(is_other[:, None] if new.dim() > 1 else is_other, new, old)
        for new, old in zip(other, conditions, strict=True)
    ]
    return mixed, is_other


def _other_telescope(draw, config, n, depth, inclined):
    """Conditions of any telescope, by the noise and the magnitude at the floor."""
    psf = config.sample_psf(n, inclined=inclined, generator=draw.generator)
    noise = draw.log_uniform(config.noise, n)
    read_noise = draw.uniform(config.read_noise, n)
    read_noise = read_noise.minimum(_READ_FRACTION * noise)
    limit = draw.uniform(config.limits, n)
    area = GaussianPSF.from_shape(psf).effective_area
    floor = FLOOR_SNR * noise * torch.sqrt(area / depth)
    scale = floor * 10 ** (0.4 * (limit - NANOMAGGY_ZERO_POINT))
    return psf, noise**2 - read_noise**2, read_noise, scale


# -- sources ---------------------------------------------------------------------


@dataclasses.dataclass
class Sources:
    """
    Sources of B images, named as in `SimulatedImages`.
    """

    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    density: torch.Tensor | None = None
    flux_min: torch.Tensor | None = None
    region: torch.Tensor | None = None
    is_galaxy: torch.Tensor | None = None
    galaxy: torch.Tensor | None = None
    population: torch.Tensor | None = None
    cluster: torch.Tensor | None = None
    further: torch.Tensor | None = None

    def append(self, x, y, flux, galaxy=None):
        """
        Add one source an image, tensors ``(B, 1)``; stars without a shape.

        Its further parameters are unknown (NaN).
        """
        is_galaxy = (flux > 0) & (galaxy is not None)
        # Stars have shapes too, which mean nothing.
        galaxy = self.galaxy[:, :1] if galaxy is None else galaxy
        added = {'x': x, 'y': y, 'flux': flux}
        added |= {'is_galaxy': is_galaxy, 'galaxy': galaxy}
        if self.further is not None:
            added['further'] = torch.full_like(self.further[:, :1], torch.nan)
        for name, value in added.items():
            setattr(self, name, torch.cat([getattr(self, name), value], 1))

    @property
    def stars(self):
        """Positions and fluxes of the stars; flux 0 in other places."""
        if self.is_galaxy is None:
            return self.x, self.y, self.flux
        return self.x, self.y, self.flux * ~self.is_galaxy

    @property
    def galaxies(self):
        """Positions, fluxes and shapes of the galaxies; flux 0 in other places."""
        return self.x, self.y, self.flux * self.is_galaxy, self.galaxy


def _rectangle(shape, margin, like):
    """Images less a margin, ``(B, 4)``, as a `region`."""
    ny, nx = shape
    edges = [margin - 0.5, nx - margin - 0.5, margin - 0.5, ny - margin - 0.5]
    return like.new_tensor(edges).expand(len(like), 4)


def draw_stars(draw, prior, shape, margin, *, density, flux_min):
    """Stars of a `~bliss_astro.priors.StarPrior` that keep a margin, as `Sources`."""
    ny, nx = shape
    x, y, flux, _ = prior.sample_batch(
        len(density),
        (ny - 2 * margin, nx - 2 * margin),
        density=density,
        flux_min=flux_min,
        generator=draw.generator,
        device=density.device,
    )
    region = _rectangle(shape, margin, density)
    return Sources(x + margin, y + margin, flux, density, flux_min, region)


def draw_catalog(draw, prior, fields, shape, margin, *, flux_min, scales=(1.0, 1.0)):
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
        generator=draw.generator,
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


def sample_stars(draw, config, fields, *, several=False):
    """
    Stars with fluxes of a power law, for images of a configuration.

    For several bands fainter ones are drawn, too.
    """
    unseen = config.unseen * (_REDDEST if several else 1.0)
    confined = draw.coin(config.confined_fraction)
    margin = CONFINED_MARGIN if confined else config.margin
    floor = _sample_floor(draw, config, fields)
    # One density a group: catalogues are padded to its fullest image.
    density = draw.log_uniform(config.density, 1).expand(len(floor))
    slope = config.slope
    if config.slopes is not None:
        slope = float(draw.uniform(config.slopes, 1))
    # Of the flux floor and the largest flux the ratio alone counts.
    largest = StarPrior.flux_min * config.dynamic_range
    stars = draw_stars(
        draw,
        StarPrior(flux_max=largest, slope=slope),
        config.shape,
        margin,
        # The number of stars of a power law down to the lower limit.
        density=unseen**-slope * density,
        flux_min=unseen * floor,
    )
    return dataclasses.replace(stars, density=density, flux_min=floor)


def sample_catalog(
    draw, config, prior, fields, population, latent_dim, *, several=False
):
    """
    Stars and galaxies of a prior, for images of a configuration.

    Galaxies have latent variables of a learned galaxy model in place of shapes where
    their number is not `None`. For several bands fainter sources are drawn, too.
    """
    expected = sample_expected(draw, config, prior, fields, population)
    floor, cluster, scales, density = expected
    margin, unseen = OUTSIDE[population]
    if several and population == 'sky':
        unseen *= _REDDEST
    sources = draw_catalog(
        draw,
        prior,
        fields,
        config.shape,
        margin,
        flux_min=floor * unseen,
        scales=scales,
    )
    if latent_dim is not None:
        sources.galaxy = draw.normal(*sources.x.shape, latent_dim)
    sources.density, sources.flux_min, sources.cluster = density, floor, cluster
    sources.population += population == 'npe'
    apart = torch.hypot(sources.x - cluster[:, :1], sources.y - cluster[:, 1:2])
    sources.flux = sources.flux * (apart < cluster[:, 2:])
    return sources


def sample_expected(draw, config, prior, fields, population):
    """
    Flux floors and expected numbers of sources of n images.

    Returns the floors in electrons ``(n,)``, centres and radii ``(n, 3)`` of the
    circles that hold all sources, factors ``(n,)`` on the prior's densities of stars
    and of galaxies, and the sources per pixel ``(n,)`` above the floor.
    """
    n, scale = len(fields), fields.electrons_per_nmgy
    ny, nx = config.shape
    middle = torch.tensor([nx / 2, ny / 2, math.inf], device=draw.device)
    cluster = middle.expand(n, 3)
    if population == 'npe':
        floor = _npe_floor(draw, config, prior.flux_min, scale)
        if config.cluster_fraction > 0:
            cluster = _sample_clusters(draw, config, n)
        factor = draw.log_uniform(config.crowding, n)
        if config.cluster_fraction > 0:
            inside = draw.log_uniform(config.cluster_crowding, n)
            factor = torch.where(cluster[:, 2].isinf(), factor, inside)
        scales = factor, factor
    else:
        floor = _sample_floor(draw, config, fields)
        ranges = config.star_scale, config.galaxy_scale
        scales = [draw.log_uniform(pair, n) for pair in ranges]
    density = _density(prior, floor / scale, scales, fields.pixel_scale)
    if config.fields == 'telescopes' and population == 'sky':
        # Half of the densities are log-uniform, the others those of the sky: neither
        # empty nor beyond what tiles can hold.
        coin = draw.unit(n) < 0.5
        drawn = draw.log_uniform(config.density, n)
        wanted = torch.where(coin, drawn, density.clamp(*config.density))
        scales = [factor * wanted / density for factor in scales]
        density = wanted
    return floor, cluster, scales, density


def _sample_floor(draw, config, fields):
    """Flux floors ``(n,)`` in electrons, from signal-to-noise ratios of coadds."""
    n = len(fields)
    if config.flux_min is not None:
        return torch.full_like(fields.background, float(config.flux_min))
    snr = draw.log_uniform(config.floor_snr, n)
    if config.typical_floor_snr is not None:
        typical = draw.log_uniform(config.typical_floor_snr, n)
        coin = draw.unit(n) < 0.5
        snr = torch.where(coin, typical, snr)
    area = GaussianPSF.from_shape(fields.psf).effective_area
    return snr * torch.sqrt(fields.variance * area / fields.depth)


def _npe_floor(draw, config, flux_min, scale):
    """Flux floors ``(n,)`` in electrons of the NPE paper's prior, whole or cut."""
    floor = torch.full_like(scale, flux_min)
    if config.npe_floor is not None:
        # Half of the images have the whole of the prior.
        cut = draw.log_uniform(config.npe_floor, len(scale))
        coin = draw.unit(len(scale)) < 0.5
        floor = torch.where(coin, torch.maximum(cut, floor), floor)
    return floor * scale


def _sample_clusters(draw, config, n):
    """Centre and radius ``(n, 3)`` of circles, infinite for images without one."""
    ny, nx = config.shape
    place = draw.unit(n, 3)
    radius = draw.log_uniform(config.cluster_radius, n)
    coin = place[:, 2] < config.cluster_fraction
    # Centres keep a fifth of the image from its edges.
    x, y = (0.2 + 0.6 * place[:, :2]).T
    return torch.stack([nx * x, ny * y, torch.where(coin, radius, math.inf)], -1)
