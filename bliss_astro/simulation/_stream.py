# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stream of simulated images for training, drawn from a configuration.
"""

import dataclasses

import torch

from bliss_astro._devices import choose_device
from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.psf._mixture import fwhm_of_shape
from bliss_astro.rendering import RenderingAccuracy, render_galaxies

from . import _artifacts, _calibration
from ._camera import Camera, Fields, draw_dithers
from ._conditions import sample_conditions, sample_depth, sample_pixel_scale
from ._draws import uniform, unit
from ._images import SimulatedImages
from ._sources import Sources, sample_catalog, sample_expected, sample_stars

__all__ = ['SimulationStream']

# Distance in pixels from the edges up to which sources lie outside: the light of some
# comes in. The images of the NPE paper have none there.
_MARGINS = {'sky': 14, 'npe': 0}
# FWHM in pixels below which stars are as sharp as cosmic rays: no rays there.
_SHARPEST = 2.0


@dataclasses.dataclass
class _Scene:
    """A group of images before its pixels are drawn."""

    population: str
    fields: Fields
    sources: Sources


def _read_prior(kind, source):
    return kind.from_dict(source) if isinstance(source, dict) else kind.load(source)


class SimulationStream:
    """
    Batches of simulated images, reproducible from one generator.

    Parameters
    ----------
    config : `SimulationConfig`
        Distribution of the images.

    group_size : int, optional
        Number of images that share a depth and a population; a batch holds several
        groups.

    device : str or `torch.device`, optional
        Device of the generators to come.

    priors : dict, optional
        The `~bliss_astro.priors.CatalogPrior` of populations ``'npe'`` and ``'sky'``,
        in place of the bundled ones.

    field_prior : `~bliss_astro.priors.FieldPrior`, optional
        Prior of fields, in place of that of the configuration.

    galaxy_model : `~bliss_astro.galaxies.GalaxyAutoencoder`, optional
        Learned model of the galaxies, in place of bulges and disks; ``galaxy`` of
        the images are its latent vectors then.

    margins : dict, optional
        Distances in pixels from the edges up to which sources of populations lie
        outside; by default 14 on the sky, and 0 in images of the NPE paper.

    Examples
    --------
    >>> import torch
    >>> from bliss_astro.simulation import SimulationConfig, SimulationStream
    >>> config = SimulationConfig(population='npe', n_exposures=(1, 1))
    >>> stream = SimulationStream(config, device='cpu')
    >>> images = stream.sample_batch(4, generator=torch.Generator().manual_seed(1))
    >>> images.data.shape
    torch.Size([4, 64, 64])
    """

    def __init__(
        self,
        config,
        *,
        group_size=8,
        device='auto',
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
            self.priors['sky'] = _read_prior(CatalogPrior, config.catalog_prior)
        self.priors |= priors or {}
        if field_prior is None and config.field_prior is not None:
            field_prior = _read_prior(FieldPrior, config.field_prior)
        if field_prior is None:
            single = config.fields == 'single'
            field_prior = FieldPrior.single() if single else FieldPrior()
        self.field_prior = field_prior
        self.galaxy_model = galaxy_model
        self.margins = _MARGINS | (margins or {})
        self.camera = Camera(
            tuple(config.shape),
            noise_order=config.noise_order,
            bad_pixels=config.bad_pixel_prior(),
        )
        self.accuracy = RenderingAccuracy.training()

    @torch.no_grad()
    def sample_batch(self, n_images, *, generator) -> SimulatedImages:
        """
        Draw images with their truth.

        Parameters
        ----------
        n_images : int
            Number of images.

        generator : `torch.Generator`
            Source of randomness; its device is that of the images.

        Returns
        -------
        images : `SimulatedImages`
            Images and truth.
        """
        config, scenes = self.config, []
        coadd_depth = sample_depth(config.n_exposures, generator=generator)
        for start in range(0, n_images, self.group_size):
            population = self._population(generator)
            lowest = config.n_exposures[0]
            coin = float(unit((), generator=generator))
            # The paper's images are single exposures.
            single = lowest == 1 and coin < config.single_fraction
            depth = lowest if single or population == 'npe' else coadd_depth
            n = min(self.group_size, n_images - start)
            scenes.append(self._scene(n, population, depth, generator))
            if population == 'stars':
                # Stars are fast to render at any depth; see `_render_galaxies`.
                coadd_depth = sample_depth(config.n_exposures, generator=generator)
        extended = self._render_galaxies(scenes)
        return SimulatedImages.concatenate(
            [
                self._observe(scene, light, generator)
                for scene, light in zip(scenes, extended, strict=True)
            ]
        )

    def sample_fields(self, n, *, population='sky', depth=1, generator) -> Fields:
        """
        Draw observing conditions.

        Parameters
        ----------
        n : int
            Number of images.

        population : {'stars', 'sky', 'npe'}, optional
            Population of the sources: other cameras than SDSS's see the sky only.

        depth : int, optional
            Number of exposures in a coadd.

        generator : `torch.Generator`
            Source of randomness.
        """
        config = self.config
        conditions = sample_conditions(
            config, self.field_prior, n, population, depth, generator=generator
        )
        pixel_scale = sample_pixel_scale(config, population, generator=generator)
        largest = float(uniform(config.dither, 1, generator=generator))
        dither = draw_dithers(
            n, depth, largest, generator=generator, device=generator.device
        )
        return Fields(*conditions, dither, pixel_scale)

    def sample_densities(self, n, *, generator):
        """
        Draw numbers of stars and galaxies per pixel above the flux floor.

        Parameters
        ----------
        n : int
            Number of images.

        generator : `torch.Generator`
            Source of randomness.

        Returns
        -------
        density : tensor ``(n,)`` or ``(2 n,)``
            Densities of each population of the stream.
        """
        name = self.config.population
        parts = []
        for population in ('npe', 'sky') if name == 'both' else (name,):
            depth = 1 if population == 'npe' else self.config.n_exposures[1]
            fields = self.sample_fields(
                n, population=population, depth=depth, generator=generator
            )
            prior = self.priors[population]
            expected = sample_expected(
                self.config, prior, fields, population, generator=generator
            )
            parts.append(expected[-1])
        return torch.cat(parts)

    # -- what is on the sky ------------------------------------------------------

    def _population(self, generator):
        name = self.config.population
        if name != 'both':
            return name
        coin = float(unit((), generator=generator))
        return 'npe' if coin < self.config.npe_fraction else 'sky'

    def _scene(self, n, population, depth, generator):
        config, model = self.config, self.galaxy_model
        fields = self.sample_fields(
            n, population=population, depth=depth, generator=generator
        )
        if population == 'stars':
            sources = sample_stars(config, fields, generator=generator)
        else:
            sources = sample_catalog(
                config,
                self.priors[population],
                fields,
                population,
                -self.margins[population],
                latent_dim=None if model is None else model.latent_dim,
                generator=generator,
            )
        return _Scene(population, fields, sources)

    # -- images ------------------------------------------------------------------

    def _render_galaxies(self, scenes):
        """
        Light of the galaxies of groups; `None` for stars alone.

        Galaxies of all groups of one depth are rendered together: many small batches
        would cost several times as much.
        """
        light = [None] * len(scenes)
        if scenes[0].population == 'stars':
            return light
        for depth in {scene.fields.depth for scene in scenes}:
            index = [k for k, s in enumerate(scenes) if s.fields.depth == depth]
            sources = Sources.galaxies([scenes[k].sources for k in index])
            psf = torch.cat([scenes[k].fields.psf for k in index])
            if self.galaxy_model is not None:
                images = self.galaxy_model.render(psf, *sources, size=self.camera.shape)
            else:
                dither = torch.cat([scenes[k].fields.dither for k in index])
                images = render_galaxies(
                    psf,
                    *sources,
                    size=self.camera.shape,
                    dither=dither if depth > 1 else None,
                    accuracy=self.accuracy,
                )
            parts = images.split([len(scenes[k].fields) for k in index])
            for k, part in zip(index, parts, strict=True):
                light[k] = part
        return light

    def _observe(self, scene, extended, generator):
        """Images of a group, with artefacts and with errors of what is stated."""
        fields, sources, lobes = scene.fields, scene.sources, None
        if scene.population == 'sky':
            extended = self._add_artifacts(scene, extended, generator)
            if self.config.asymmetry > 0:
                lobes = _calibration.draw_lobes(
                    len(fields),
                    self.config.asymmetry,
                    fwhm_of_shape(fields.psf),
                    generator=generator,
                )
        x, y, flux = sources.stars
        if lobes is not None:
            # The stars join the extended light, so that one kernel moves all of it.
            psf = self.camera.effective_psf(fields, elongated=True)
            light = extended + self.camera.render(psf, x, y, flux)
            extended = _calibration.add_lobes(light, lobes).clamp(min=0)
            flux = torch.zeros_like(flux)
        images = self.camera.observe(
            fields,
            sources,
            stars=(x, y, flux),
            extended=extended,
            generator=generator,
        )
        _calibration.misstate(
            images,
            self.config,
            lobes,
            exact=scene.population == 'npe',
            generator=generator,
        )
        if scene.population == 'sky':
            self._add_to_pixels(images, fields, generator)
        return images

    def _add_artifacts(self, scene, extended, generator):
        """Add the light of bright stars, large galaxies and trails."""
        config, shape = self.config, self.camera.shape
        fields, sources = scene.fields, scene.sources
        n, fwhm = len(fields), fwhm_of_shape(fields.psf)
        noise = (fields.variance / fields.depth).sqrt()
        if config.bright_fraction > 0:
            star = _artifacts.draw_bright_stars(
                n, config.bright_fraction, shape, generator=generator
            )
            extended = extended + _artifacts.glare(*star, shape, generator=generator)
            sources.append(*star)
        if config.large_fraction > 0:
            galaxy = _artifacts.draw_large_galaxies(
                n, config.large_fraction, shape, noise, generator=generator
            )
            extended = extended + _artifacts.render_large_galaxies(*galaxy, shape, fwhm)
            sources.append(*galaxy)
        if config.trail_fraction > 0:
            trail = _artifacts.trails(
                n, config.trail_fraction, shape, fwhm, generator=generator
            )
            extended = extended + trail * noise[:, None, None]
        return extended

    def _add_to_pixels(self, images, fields, generator):
        """Add cosmic rays to single exposures, and saturate the brightest pixels."""
        config = self.config
        if config.ray_fraction > 0 and fields.depth == 1:
            rays = _artifacts.cosmic_rays(
                len(fields), config.ray_fraction, self.camera.shape, generator=generator
            )
            some = fwhm_of_shape(fields.psf) > _SHARPEST
            images.data = images.data + rays * (some * images.bkg_error)[:, None, None]
        if config.saturated_fraction > 0:
            sky = images.background[:, None, None]
            data, images.mask = _artifacts.saturate(
                images.data - sky,
                images.mask,
                images.bkg_error,
                config.saturated_fraction,
                generator=generator,
            )
            images.data = data + sky
