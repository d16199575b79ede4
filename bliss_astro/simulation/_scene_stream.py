# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The endless stream of simulated fields of stars and galaxies.
"""

import dataclasses
import math

import torch

from bliss_astro._devices import choose_device
from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.psf._mixture import LOG_AREA, describe_shape, fwhm_of_shape
from bliss_astro.rendering import RenderingAccuracy, render_galaxies, render_stars

from ._align import coadd_noise
from ._artifacts import (
    cosmic_rays,
    draw_bright_stars,
    draw_large_galaxies,
    glare,
    large_galaxies,
    saturate,
    trails,
)
from ._images import SimulatedImages, padded
from ._nuisances import (
    USUAL_BACKGROUND_ERROR,
    USUAL_PSF_ERROR,
    draw_lobes,
    draw_stated,
    effective_psf,
    in_lobes,
    misstated_psf,
    sky_error,
    stated_asymmetry,
)
from ._simulator import CoaddSimulator

__all__ = ['SceneStream']

# How far beyond the edges sources lie, in pixels: the light of some comes in.
# The paper's images have none out there.
_MARGINS = {'sky': 14, 'npe': 0}
# Sources down to this share of the flux floor are there but not asked for.
_UNSEEN = 0.4
# Of the prior of the sky, with fields of telescopes, so many are no fields of SDSS.
_OTHER_FRACTION = 0.65
# FWHM in pixels below which images have no cosmic rays.
_SHARPEST = 2.0
# Signal-to-noise ratio of a usual flux floor.
_USUAL_FLOOR = 3.4
# Calibrations of images that are none of SDSS's, in electrons per nanomaggy.
_ELECTRONS = (400.0, 2000.0)


@dataclasses.dataclass
class _Plan:
    # A group of images before its pixels are drawn.
    simulator: CoaddSimulator
    psf: torch.Tensor
    background: torch.Tensor
    read_noise: torch.Tensor
    scale: torch.Tensor
    floor: torch.Tensor
    density: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    is_galaxy: torch.Tensor
    galaxy: torch.Tensor
    dither: torch.Tensor
    population: str
    cluster: torch.Tensor
    pixel_scale: float
    glare: torch.Tensor | None = None
    lobes: tuple | None = None
    # Sources whose light is in the glare.
    drawn_apart: tuple | None = None

    def add_glare(self, image):
        self.glare = image if self.glare is None else self.glare + image

    def truth(self):
        """Positions, fluxes, types and shapes of all sources."""
        own = (self.x, self.y, self.flux, self.is_galaxy, self.galaxy)
        if self.drawn_apart is None:
            return own
        x, y, flux, galaxy = self.drawn_apart
        other = (x, y, flux, flux > 0, galaxy)
        return [torch.cat(pair, 1) for pair in zip(own, other, strict=True)]


def _area(psf):
    return torch.exp(describe_shape(psf)[:, 1] + LOG_AREA)


def _prior(kind, source):
    return kind.from_dict(source) if isinstance(source, dict) else kind.load(source)


class SceneStream:
    """
    Batches of simulated images of stars and galaxies.

    Parameters
    ----------
    config : `SimulationConfig`
        What to draw; its ``population`` is not ``'stars'``.

    group_size : int, optional
        Images that share a depth and a population.

    device : str or `torch.device`, optional
        Where to simulate.

    priors : dict, optional
        The `~bliss_astro.priors.CatalogPrior` of each population, instead of the
        bundled ones.

    field_prior : `~bliss_astro.priors.FieldPrior`, optional
        Instead of that which the configuration names.

    galaxy_model : `~bliss_astro.galaxies.GalaxyAutoencoder`, optional
        Draws galaxies instead of bulges and disks; the ``galaxy`` of scenes are its
        latents then.

    margins : dict, optional
        How many pixels beyond the edges sources of each population lie; by
        default 14 on the sky, and none in images of the NPE paper.
    """

    def __init__(
        self,
        config,
        *,
        group_size=8,
        device='cpu',
        priors=None,
        field_prior=None,
        galaxy_model=None,
        margins=None,
    ):
        self.config = config
        self.group_size = group_size
        self.device = choose_device(device)
        self.priors = {'npe': CatalogPrior(), 'sky': CatalogPrior.sky()}
        if config.catalog_prior is not None:
            self.priors['sky'] = _prior(CatalogPrior, config.catalog_prior)
        self.priors |= priors or {}
        if field_prior is None and config.field_prior is not None:
            field_prior = _prior(FieldPrior, config.field_prior)
        if field_prior is None:
            single = config.fields == 'single'
            field_prior = FieldPrior.single() if single else FieldPrior()
        self.field_prior = field_prior
        self.galaxy_model = galaxy_model
        self.margins = _MARGINS | (margins or {})
        self.accuracy = RenderingAccuracy.training()

    # -- numbers ---------------------------------------------------------------

    def _unit(self, *shape, generator):
        return torch.rand(*shape, generator=generator, device=self.device)

    def _log_uniform(self, pair, n, generator):
        low, high = (math.log(v) for v in pair)
        return torch.exp(low + (high - low) * self._unit(n, generator=generator))

    def _population(self, generator):
        name = self.config.population
        if name != 'both':
            return name
        coin = float(self._unit((), generator=generator))
        return 'npe' if coin < self.config.npe_fraction else 'sky'

    def _depth(self, generator):
        low, high = self.config.n_exposures
        place = float(self._unit((), generator=generator))
        if low == high:
            return low
        low = max(low, 2)
        ratio = math.log((high + 0.5) / (low - 0.5))
        return min(max(round((low - 0.5) * math.exp(place * ratio)), low), high)

    def _dither(self, generator):
        low, high = self.config.dither
        if low == high:
            return low
        return low + (high - low) * float(self._unit((), generator=generator))

    def draw_fields(self, n, *, population='sky', depth=1, generator):
        """
        Draw how images are seen.

        Parameters
        ----------
        n : int
            How many.

        population : {'sky', 'npe'}, optional
            Whose prior holds: other cameras than SDSS's see the sky only.

        depth : int, optional
            Exposures in a coadd.

        generator : `torch.Generator`
            On the stream's device.

        Returns
        -------
        psf : tensor ``(n, 8)``
            Of one exposure.

        background, read_noise, electrons_per_nmgy : tensor ``(n,)``
            Of one exposure, in electrons.
        """
        config = self.config
        given = self.field_prior.sample_batch(
            n, generator=generator, device=self.device
        )
        psf, background = given.psf, given.background
        read_noise, scale = given.read_noise, given.electrons_per_nmgy
        if config.fields == 'wide' and population == 'sky':
            # Half are of other cameras and skies.
            other = self._unit(n, generator=generator) < 0.5
            drawn = config.draw_psf(
                n, inclined=False, generator=generator, device=self.device
            )
            psf = torch.where(other[:, None], drawn, psf)
            sky = self._log_uniform(config.background, n, generator)
            background = torch.where(other, sky, background)
            low, high = config.read_noise
            noise = low + (high - low) * self._unit(n, generator=generator)
            read_noise = torch.where(other, noise, read_noise)
            electrons = self._log_uniform(_ELECTRONS, n, generator)
            scale = torch.where(other, electrons, scale)
        if config.fields == 'telescopes' and population == 'sky':
            other = self._telescopes(n, depth, generator)
            fields = (psf, background, read_noise, scale)
            coin = self._unit(n, generator=generator) < _OTHER_FRACTION
            psf, background, read_noise, scale = (
                torch.where(coin[:, None] if new.dim() > 1 else coin, new, old)
                for new, old in zip(other, fields, strict=True)
            )
        if depth > 8:
            # Inclined ellipses are slow to draw, the more so in deep coadds.
            psf = psf.clone()
            psf[:, 7] = 0.0
        return psf, background, read_noise, scale

    def _telescopes(self, n, depth, generator):
        """PSF, sky, read noise and calibration of any telescope."""
        config = self.config
        coin = float(self._unit((), generator=generator))
        psf = config.draw_psf(
            n,
            inclined=depth == 1 and coin < config.inclined_fraction,
            generator=generator,
            device=self.device,
        )
        noise = self._log_uniform(config.noise, n, generator)
        low, high = config.read_noise
        read_noise = low + (high - low) * self._unit(n, generator=generator)
        read_noise = read_noise.minimum(0.7 * noise)
        low, high = config.limits
        limit = low + (high - low) * self._unit(n, generator=generator)
        # The calibration for which a usual flux floor is of that magnitude.
        floor = _USUAL_FLOOR * noise * torch.sqrt(_area(psf) / depth)
        return (
            psf,
            noise**2 - read_noise**2,
            read_noise,
            floor * 10 ** (0.4 * (limit - 22.5)),
        )

    def _floor(self, population, psf, variance, scale, depth, generator):
        """Flux floor in electrons."""
        config, n = self.config, len(psf)
        if population == 'npe':
            floor = torch.full_like(scale, self.priors['npe'].flux_min)
            if config.npe_floor is not None:
                # Half of the images have the whole of the prior.
                cut = self._log_uniform(config.npe_floor, n, generator)
                coin = self._unit(n, generator=generator) < 0.5
                floor = torch.where(coin, torch.maximum(cut, floor), floor)
            return floor * scale
        snr = self._log_uniform(config.floor_snr, n, generator)
        if config.typical_floor_snr is not None:
            typical = self._log_uniform(config.typical_floor_snr, n, generator)
            coin = self._unit(n, generator=generator) < 0.5
            snr = torch.where(coin, typical, snr)
        return snr * torch.sqrt(variance * _area(psf) / depth)

    def _pixel_scale(self, population, generator):
        config = self.config
        if config.fields != 'telescopes' or population == 'npe':
            return config.pixel_scale
        coin = float(self._unit((), generator=generator))
        drawn = float(self._log_uniform(config.pixel_scales, 1, generator))
        return drawn if coin < _OTHER_FRACTION else config.pixel_scale

    # -- sources ---------------------------------------------------------------

    def _any_density(self, density, generator):
        """Densities for half of the images log-uniform, else that of the sky."""
        n = len(density)
        coin = self._unit(n, generator=generator) < 0.5
        drawn = self._log_uniform(self.config.density, n, generator)
        # Neither empty nor beyond what tiles can hold.
        return torch.where(coin, drawn, density.clamp(*self.config.density))

    def _sources(self, population, floor, scale, cluster, pixel_scale, generator):
        config, n = self.config, len(scale)
        prior = self.priors[population]
        lowest = (1.0 if population == 'npe' else _UNSEEN) * floor / scale
        factors = self._factors(population, cluster, generator)
        density = self._density(prior, floor / scale, factors, pixel_scale)
        if config.fields == 'telescopes' and population == 'sky':
            wanted = self._any_density(density, generator)
            factors = [factor * wanted / density for factor in factors]
            density = wanted
        ny, nx = config.shape
        margin = self.margins[population]
        drawn = prior.sample_batch(
            n,
            (ny + 2 * margin, nx + 2 * margin),
            flux_min=lowest,
            star_scale=factors[0],
            galaxy_scale=factors[1],
            pixel_scale=pixel_scale,
            generator=generator,
            device=self.device,
        )
        x, y = drawn.x - margin, drawn.y - margin
        apart = torch.hypot(x - cluster[:, :1], y - cluster[:, 1:2])
        flux = drawn.flux * (apart < cluster[:, 2:])
        shapes = drawn.galaxy
        if self.galaxy_model is not None:
            full = (*x.shape, self.galaxy_model.latent_dim)
            shapes = torch.randn(full, generator=generator, device=self.device)
        drawn = dataclasses.replace(drawn, x=x, y=y, flux=flux, galaxy=shapes)
        return drawn, density

    def _clusters(self, population, n, generator):
        """Centre and radius of the circles that hold all sources, ``(n, 3)``."""
        config = self.config
        ny, nx = config.shape
        if population != 'npe' or config.cluster_fraction == 0:
            middle = torch.tensor([nx / 2, ny / 2, math.inf], device=self.device)
            return middle.expand(n, 3)
        unit = self._unit(n, 3, generator=generator)
        radius = self._log_uniform(config.cluster_radius, n, generator)
        coin = unit[:, 2] < config.cluster_fraction
        return torch.stack(
            [
                nx * (0.2 + 0.6 * unit[:, 0]),
                ny * (0.2 + 0.6 * unit[:, 1]),
                torch.where(coin, radius, math.inf),
            ],
            -1,
        )

    def _density(self, prior, floor, factors, pixel_scale):
        # Priors count in SDSS's pixels.
        area = (pixel_scale / 0.396) ** 2
        stars = prior.star_density(floor) * factors[0]
        return area * (stars + prior.galaxy_density(floor) * factors[1])

    def draw_densities(self, n, *, generator):
        """
        Draw numbers of sources per pixel above the flux floor.

        Parameters
        ----------
        n : int
            How many.

        generator : `torch.Generator`
            On the stream's device.

        Returns
        -------
        density : tensor ``(n,)``
            Of the populations that the stream draws.
        """
        name = self.config.population
        names = ('npe', 'sky') if name == 'both' else (name,)
        out = []
        for population in names:
            depth = 1 if population == 'npe' else self.config.n_exposures[1]
            psf, background, read_noise, scale = self.draw_fields(
                n, population=population, depth=depth, generator=generator
            )
            variance = background + read_noise**2
            floor = self._floor(population, psf, variance, scale, depth, generator)
            cluster = self._clusters(population, n, generator)
            factors = self._factors(population, cluster, generator)
            pixel_scale = self._pixel_scale(population, generator)
            prior = self.priors[population]
            density = self._density(prior, floor / scale, factors, pixel_scale)
            if self.config.fields == 'telescopes' and population == 'sky':
                density = self._any_density(density, generator)
            out.append(density)
        return torch.cat(out)

    def _factors(self, population, cluster, generator):
        config, n = self.config, len(cluster)
        if population == 'npe':
            factor = self._log_uniform(config.crowding, n, generator)
            if config.cluster_fraction == 0:
                return [factor] * 2
            inside = self._log_uniform(config.cluster_crowding, n, generator)
            return [torch.where(cluster[:, 2].isinf(), factor, inside)] * 2
        pairs = (config.star_scale, config.galaxy_scale)
        return [self._log_uniform(pair, n, generator) for pair in pairs]

    # -- images ----------------------------------------------------------------

    def _plan(self, n, population, depth, generator):
        """Draw all of a group of images but its pixels."""
        config = self.config
        fields = self.draw_fields(
            n, population=population, depth=depth, generator=generator
        )
        psf, background, read_noise, scale = fields
        variance = background + read_noise**2
        floor = self._floor(population, psf, variance, scale, depth, generator)
        cluster = self._clusters(population, n, generator)
        pixel_scale = self._pixel_scale(population, generator)
        drawn, density = self._sources(
            population, floor, scale, cluster, pixel_scale, generator
        )
        simulator = CoaddSimulator(
            depth,
            shape=config.shape,
            margin=0,
            noise_order=config.noise_order,
            dither=self._dither(generator),
            bad_pixels=config.bad_pixel_prior(),
            tolerance=1e-4,
            device=self.device,
        )
        plan = _Plan(
            simulator=simulator,
            psf=psf,
            background=background,
            read_noise=read_noise,
            scale=scale,
            floor=floor,
            density=density,
            x=drawn.x,
            y=drawn.y,
            flux=drawn.flux * scale[:, None],
            is_galaxy=drawn.is_galaxy,
            galaxy=drawn.galaxy,
            dither=simulator.draw_dithers(n, generator=generator),
            population=population,
            cluster=cluster,
            pixel_scale=pixel_scale,
        )
        if population == 'sky':
            self._add_nuisances(plan, generator)
        return plan

    def _add_nuisances(self, plan, generator):
        config, n = self.config, len(plan.psf)
        if config.bright_fraction > 0:
            self._add_bright_stars(plan, generator)
        if config.large_fraction > 0:
            self._add_large_galaxies(plan, generator)
        fwhm = fwhm_of_shape(plan.psf)
        if config.trail_fraction > 0:
            image = trails(
                n, config.trail_fraction, config.shape, fwhm, generator=generator
            )
            noise = (plan.background + plan.read_noise**2).sqrt()
            depth = plan.dither.shape[1]
            plan.add_glare(image * (noise / depth**0.5)[:, None, None])
        if config.asymmetry > 0:
            plan.lobes = draw_lobes(n, config.asymmetry, fwhm, generator=generator)

    def _add_large_galaxies(self, plan, generator):
        config = self.config
        noise = (plan.background + plan.read_noise**2).sqrt()
        drawn = draw_large_galaxies(
            len(plan.psf),
            config.large_fraction,
            config.shape,
            noise / plan.dither.shape[1] ** 0.5,
            generator=generator,
        )
        image = large_galaxies(*drawn, config.shape, fwhm_of_shape(plan.psf))
        plan.add_glare(image)
        plan.drawn_apart = drawn

    def _add_bright_stars(self, plan, generator):
        config, n = self.config, len(plan.psf)
        star = draw_bright_stars(
            n,
            config.bright_fraction,
            config.shape,
            generator=generator,
            device=self.device,
        )
        plan.add_glare(glare(*star, config.shape, generator=generator))
        for name, value in zip(('x', 'y', 'flux'), star, strict=True):
            setattr(plan, name, torch.cat([getattr(plan, name), value], 1))
        none = torch.zeros_like(star[0], dtype=torch.bool)
        plan.is_galaxy = torch.cat([plan.is_galaxy, none], 1)
        # Stars have shapes too, which mean nothing.
        plan.galaxy = torch.cat([plan.galaxy, plan.galaxy[:, :1]], 1)

    def _extended(self, plans):
        """Galaxies of groups of one depth, drawn together, group by group."""
        most = max(plan.x.shape[1] for plan in plans)

        def joined(name):
            return torch.cat([padded(getattr(plan, name), most) for plan in plans])

        flux = joined('flux') * joined('is_galaxy')
        sources = (joined('x'), joined('y'), flux, joined('galaxy'))
        psf = torch.cat([plan.psf for plan in plans])
        if self.galaxy_model is not None:
            images = self.galaxy_model.render(psf, *sources, size=self.config.shape)
        else:
            dither = torch.cat([plan.dither for plan in plans])
            images = render_galaxies(
                psf,
                *sources,
                size=self.config.shape,
                dither=dither if dither.shape[1] > 1 else None,
                accuracy=self.accuracy,
            )
        return images.split([len(plan.psf) for plan in plans])

    def _scenes(self, plan, extended, generator):
        config, n = self.config, len(plan.psf)
        if plan.glare is not None:
            extended = extended + plan.glare
        flux = plan.flux * ~plan.is_galaxy
        deep = plan.dither.shape[1] > 1
        kernel = None
        if plan.lobes is not None:
            # The stars join what is extended, so that one kernel moves all light.
            psf = plan.psf
            if deep:
                kernel = coadd_noise(plan.dither, interpolated=self._interpolated)[-1]
                psf = effective_psf(psf, plan.dither, kernel)
            stars = render_stars(
                psf, plan.x, plan.y, flux, size=config.shape, tolerance=1e-4
            )
            extended = in_lobes(extended + stars, plan.lobes).clamp(min=0)
            flux = torch.zeros_like(flux)
        data = plan.simulator.expose_batch(
            plan.x,
            plan.y,
            flux,
            psf=plan.psf,
            background=plan.background,
            read_noise=plan.read_noise,
            dither=plan.dither,
            extended=extended,
            generator=generator,
        )
        ratio, *correlation, kernel = coadd_noise(
            plan.dither, interpolated=deep and self._interpolated
        )
        bkg_error = ((plan.background + plan.read_noise**2) * ratio).sqrt()
        mask = plan.simulator.draw_mask(
            data, background=plan.background, generator=generator
        )
        psf = effective_psf(plan.psf, plan.dither, kernel) if deep else plan.psf
        stated, unknown = {}, 1.0
        if config.psf_errors is not None:
            drawn = {'generator': generator, 'device': self.device}
            error = draw_stated(n, config.psf_errors, USUAL_PSF_ERROR, **drawn)
            stated['psf_error'] = error * (plan.population == 'sky')
            # Of a PSF that is said to be exact, its lobes are known too.
            unknown = (stated['psf_error'] / USUAL_PSF_ERROR).clamp(max=1)
        if plan.lobes is not None:
            stated['asymmetry'] = stated_asymmetry(
                psf, fwhm_of_shape(psf), plan.lobes, unknown, generator=generator
            )
        elif config.asymmetry > 0:
            stated['asymmetry'] = psf.new_zeros(n, 4)
        psf, data = self._misstated(plan, psf, data, bkg_error, stated, generator)
        if config.saturated_fraction > 0:
            sky = plan.background[:, None, None]
            some = config.saturated_fraction * (plan.population == 'sky')
            data, mask = saturate(
                data - sky, mask, bkg_error, some, generator=generator
            )
            data = data + sky
        x, y, flux, is_galaxy, galaxy = plan.truth()
        ny, nx = config.shape
        most = max(self.margins.values())
        region = (-most - 0.5, nx + most, -most - 0.5, ny + most)
        return SimulatedImages(
            data=data,
            background=plan.background,
            bkg_error=bkg_error,
            effective_gain=1 / ratio,
            correlation=torch.stack(correlation, -1),
            psf=psf,
            electrons_per_nmgy=plan.scale,
            density=plan.density,
            flux_min=plan.floor,
            mask=mask,
            x=x,
            y=y,
            flux=flux,
            is_galaxy=is_galaxy,
            galaxy=galaxy,
            population=torch.full_like(plan.scale, float(plan.population == 'npe')),
            region=psf.new_tensor(region).expand(n, 4),
            cluster=plan.cluster,
            **stated,
        )

    @property
    def _interpolated(self):
        return self.config.noise_order == 'before_alignment'

    def _misstated(self, plan, psf, data, bkg_error, stated, generator):
        """The PSF that is stated, and the image with what is not told of it."""
        config, n = self.config, len(psf)
        drawn = {'generator': generator, 'device': self.device}
        on_sky = plan.population == 'sky'
        if config.psf_errors is not None:
            error = stated['psf_error']
            psf = misstated_psf(psf, error, spread=False, generator=generator)
        elif on_sky and config.psf_error > 0:
            psf = misstated_psf(psf, config.psf_error, generator=generator)
        if config.background_errors is not None:
            error = draw_stated(
                n, config.background_errors, USUAL_BACKGROUND_ERROR, **drawn
            )
            stated['background_error'] = error = error * on_sky
            off = sky_error(n, config.shape, spread=False, **drawn)
            data = data + off * (error * bkg_error)[:, None, None]
        elif on_sky and config.sky_error > 0:
            off = sky_error(n, config.shape, **drawn)
            data = data + config.sky_error * off * bkg_error[:, None, None]
        if on_sky and config.ray_fraction > 0 and plan.dither.shape[1] == 1:
            rays = cosmic_rays(n, config.ray_fraction, config.shape, **drawn)
            # Where stars are as sharp as rays, nothing tells the two apart.
            told = fwhm_of_shape(plan.psf) > _SHARPEST
            data = data + rays * (told * bkg_error)[:, None, None]
        return psf, data

    # -- batches ---------------------------------------------------------------

    @torch.no_grad()
    def sample_batch(self, n_images, *, generator) -> SimulatedImages:
        """
        Draw images with their truth.

        Parameters
        ----------
        n_images : int
            How many.

        generator : `torch.Generator`
            On the stream's device.
        """
        plans = []
        coadds = self._depth(generator)
        for start in range(0, n_images, self.group_size):
            population = self._population(generator)
            coin = float(self._unit((), generator=generator))
            # The paper's images are single exposures.
            single = population == 'npe' or coin < self.config.single_fraction
            depth = self.config.n_exposures[0] if single else coadds
            n = min(self.group_size, n_images - start)
            plans.append(self._plan(n, population, depth, generator))
        # Galaxies of all groups of one depth are drawn together: many small
        # batches would cost several times as much.
        extended = {}
        for depth in sorted({plan.dither.shape[1] for plan in plans}):
            index = [k for k, p in enumerate(plans) if p.dither.shape[1] == depth]
            images = self._extended([plans[k] for k in index])
            extended |= dict(zip(index, images, strict=True))
        return SimulatedImages.concatenate(
            [self._scenes(p, extended[k], generator) for k, p in enumerate(plans)]
        )
