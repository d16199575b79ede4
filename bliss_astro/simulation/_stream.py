# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Streams of simulated images for training, of fields and of single galaxies.
"""

import dataclasses

import numpy as np
import torch

from bliss_astro._arguments import (
    POSITIVE_INTEGER,
    check_settings,
    choose_device,
    one_of,
    within,
)
from bliss_astro.priors import CatalogPrior, ColourPrior, FieldPrior, GalaxyPrior
from bliss_astro.rendering import RenderingAccuracy, render_galaxies
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._bands import SimulatedBands, choose_bands
from ._camera import Camera, Draws, Fields, add_noise
from ._images import SimulatedImages, concatenate, select, signal_to_noise
from ._nuisances import BadPixelPrior, add_artifacts, mark_pixels, mask_part
from ._sources import Sources, sample_catalog, sample_depth, sample_fields, sample_stars
from ._stated import add_lobes, draw_lobes, misstate

# Side in pixels of the smallest stamps in images.
_SMALLEST = 32
# Smallest flux in nmgy of galaxies on stamps: no fainter one is above the noise.
_FLUX_MIN = 0.5
# Galaxies of the prior that are drawn at once.
_PIECE = 500
# Rounds of the fixed point in `_flux_of_snr`; eight converge to float precision.
_N_ROUNDS = 8


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
        groups, those that have both in common one after the other.

    device : str or `torch.device`, optional
        Device of the generators to come.

    galaxy_model : `~bliss_astro.galaxies.GalaxyAutoencoder`, optional
        Learned model of the galaxies, in place of bulges and disks; ``galaxy`` of
        the images are its latent vectors then.

    priors : list of callable, optional
        Priors of further parameters: functions of the sources of a group, ``Sources``,
        and the generator that return their values ``(B, S, D)``. They may change the
        sources, which are rendered after that.

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
        self, config, *, group_size=8, device='auto', galaxy_model=None, priors=()
    ):
        self.config = config
        self.further_priors = priors
        self.group_size = group_size
        self.device = choose_device(device)
        self.priors = {'npe': CatalogPrior(), 'sky': CatalogPrior.sky()}
        if config.catalog_prior is not None:
            self.priors['sky'] = _read_prior(CatalogPrior, config.catalog_prior)
        self.field_prior = FieldPrior()
        if config.field_prior is not None:
            self.field_prior = _read_prior(FieldPrior, config.field_prior)
        elif config.fields == 'single':
            self.field_prior = FieldPrior.single()
        self.colour_prior = ColourPrior.default() if config.bands else None
        self.galaxy_model = galaxy_model
        self.latent_dim = getattr(galaxy_model, 'latent_dim', None)
        bad = None
        if config.bad_pixels:
            saturation = config.saturation or BadPixelPrior.saturation
            bad = BadPixelPrior(saturation=tuple(saturation))
        shape, order = tuple(config.shape), config.noise_order
        self.camera = Camera(shape, noise_order=order, bad_pixels=bad)
        sizes = _SMALLEST, *RenderingAccuracy.training().sizes
        self.accuracy = dataclasses.replace(RenderingAccuracy.training(), sizes=sizes)

    @torch.no_grad()
    def sample_batch(self, n_images, *, generator) -> SimulatedImages | SimulatedBands:
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
        images : `SimulatedImages` or `SimulatedBands`
            Images and truth, in several bands where the configuration names any.
        """
        config, draw, groups = self.config, Draws(generator), {}
        lowest = config.n_exposures[0]
        coadd_depth = sample_depth(draw, config.n_exposures)
        for start in range(0, n_images, self.group_size):
            population = config.population
            if population == 'both':
                population = 'npe' if draw.coin(config.npe_fraction) else 'sky'
            # The paper's images are single exposures.
            single = draw.coin(config.single_fraction) and lowest == 1
            depth = lowest if single or population == 'npe' else coadd_depth
            n = min(self.group_size, n_images - start)
            fields = sample_fields(draw, config, self.field_prior, n, population, depth)
            given = population, self.colour_prior, self.latent_dim is None
            bands = choose_bands(draw, config, *given)
            fields, sources = self._sample_sources(draw, population, fields, bands)
            key = population, depth, bands.key
            groups.setdefault(key, []).append((fields, sources, bands))
            if population == 'stars':
                # Stars are fast to render at any depth; many small batches of galaxies
                # would cost several times as much as one.
                coadd_depth = sample_depth(draw, config.n_exposures)
        for key, parts in groups.items():
            groups[key] = [concatenate(part) for part in zip(*parts, strict=True)]
        light = self._render_galaxies(groups)
        images = [
            self._observe(draw, key[0], *group, light[key])
            for key, group in groups.items()
        ]
        return (SimulatedBands.concatenate if config.bands else concatenate)(images)

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
        draw = Draws(generator)
        return sample_fields(draw, self.config, self.field_prior, n, population, depth)

    def _sample_sources(self, draw, population, fields, bands):
        """Sources of a group, and its fields in each of the bands."""
        config = self.config
        if bands.own:
            largest = float(draw.uniform(config.dither, 1))
            fields = bands.draw_fields(draw, fields, largest)
        first = bands.of_scenes(fields)
        if population == 'stars':
            sources = sample_stars(draw, config, first, several=bands.n > 1)
        else:
            given = self.priors[population], first, population, self.latent_dim
            sources = sample_catalog(draw, config, *given, several=bands.n > 1)
        if self.further_priors:
            values = [prior(sources, draw.generator) for prior in self.further_priors]
            sources.further = torch.cat(values, -1)
        if bands.own:
            if population == 'stars':
                bands.calibrate(draw, config, fields, sources)
            bands.draw_colours(draw, sources, fields)
        sources = bands.without_faint(sources, fields, population, config.unseen)
        return fields, sources

    def _render_galaxies(self, groups):
        """Light of the galaxies of groups, by depth; `None` for stars alone."""
        light = dict.fromkeys(groups)
        for depth in {key[1] for key in groups if key[0] != 'stars'}:
            own = [key for key in groups if key[1] == depth]
            parts = [
                (fields, bands.spread(sources, fields))
                for fields, sources, bands in map(groups.get, own)
            ]
            fields, sources = map(concatenate, zip(*parts, strict=True))
            given, size = (fields.psf, *sources.galaxies), self.camera.shape
            if self.galaxy_model is not None:
                images = self.galaxy_model.render(*given, size=size)
            else:
                dither = fields.dither if fields.resampled else None
                options = {'dither': dither, 'accuracy': self.accuracy}
                images = render_galaxies(*given, size=size, **options)
            sizes = [len(groups[key][0]) for key in own]
            light |= zip(own, images.split(sizes), strict=True)
        return light

    def _observe(self, draw, population, fields, sources, bands, extended):
        """Images of a population, with artefacts and errors of what is stated."""
        config, lobes = self.config, None
        if population == 'sky':
            extended = add_artifacts(draw, config, fields, sources, bands, extended)
            if config.asymmetry > 0:
                lobes = draw_lobes(draw, fields.psf, config.asymmetry)
        seen = bands.spread(sources, fields)
        x, y, flux = seen.stars
        if lobes is not None:
            # The stars join the extended light, so that one kernel moves all of it.
            psf = self.camera.effective_psf(fields, elongated=True)
            light = extended + self.camera.render(psf, x, y, flux)
            extended = add_lobes(light, lobes).clamp(min=0)
            flux = torch.zeros_like(flux)
        images = self.camera.observe(
            draw, fields, seen, stars=(x, y, flux), extended=extended
        )
        misstate(draw, config, images, lobes, exact=population == 'npe')
        if population == 'sky':
            mark_pixels(draw, config, fields, images)
        if bands.n > 1:
            images.mask = mask_part(draw, images.mask)
        return bands.split(images, sources) if config.bands else images


# -- stamps of galaxies ----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GalaxySimulationConfig:
    """
    Settings of the simulated galaxies that a galaxy model is trained on.

    Parameters
    ----------
    population : {'npe', 'sky', 'both'}
        Prior of the shapes: that of the NPE paper (``GalaxyPrior()``), that of the
        real sky (``CatalogPrior.sky().galaxies``), or half of each.

    size : int
        Side of the stamps in pixels, odd: the galaxy is on the central pixel.

    snr : tuple of float
        Range of the signal-to-noise ratio, which has a uniform logarithm and sets
        the flux.

    n_copies : int
        Number of fluxes and noises with which each galaxy is drawn, which saves
        rendering time.
    """

    population: str = 'both'
    size: int = 53
    snr: tuple[float, float] = (4.0, 300.0)
    n_copies: int = 2

    def __post_init__(self):
        ranges = (
            one_of('population', 'npe', 'sky', 'both')
            | within('size', 'odd and at least 15', lambda x: x % 2 == 1 and x >= 15)
            | within('n_copies', *POSITIVE_INTEGER)
            | within(
                'snr', 'two increasing positive numbers', lambda x: 0 < x[0] < x[1]
            )
        )
        check_settings(self, ranges)


class GalaxyStream:
    """
    Stamps of single centred galaxies as seen with any PSF of SDSS.

    Stamps are `SimulatedImages` with one galaxy each, in electrons, and with their
    ``noiseless`` light. Generators are on the CPU.
    """

    def __init__(self, config, *, pixel_scale=SDSS_PIXEL_SCALE, accuracy=None):
        self.config = config
        self.pixel_scale = pixel_scale
        self.accuracy = RenderingAccuracy.training() if accuracy is None else accuracy
        self.camera = Camera((config.size, config.size))
        self.field_prior = FieldPrior()
        priors = {'npe': GalaxyPrior(), 'sky': CatalogPrior.sky().galaxies}
        name = config.population
        self.priors = list(priors.values()) if name == 'both' else [priors[name]]

    def sample_galaxies(self, n, *, generator):
        """Draw fluxes ``(n,)`` in nmgy and shapes ``(n, 6)``, radii in pixels."""
        parts, left = [], n
        for k, prior in enumerate(self.priors):
            count = left // (len(self.priors) - k)
            left -= count
            parts.append(
                prior.sample_batch((count,), flux_min=_FLUX_MIN, generator=generator)
            )
        flux, galaxy = (torch.cat(values) for values in zip(*parts, strict=True))
        scale = torch.ones(6)
        scale[4:] = 1 / self.pixel_scale
        return flux, galaxy * scale

    def sample_snr(self, n, *, generator):
        """Draw signal-to-noise ratios ``(n,)``, uniform in the logarithm."""
        return Draws(generator).log_uniform(self.config.snr, n)

    @torch.no_grad()
    def sample_batch(self, n, *, generator) -> SimulatedImages:
        """Draw stamps for training, evenly bright and faint."""
        count = -(-n // self.config.n_copies)
        fields = self.field_prior.sample_batch(count, generator=generator)
        _, galaxy = self.sample_galaxies(count, generator=generator)
        light = self._render(fields.psf, torch.ones(count), galaxy, self.accuracy)
        again = torch.arange(count).repeat(self.config.n_copies)[:n]
        fields, light = select(fields, again), light[again]
        snr = self.sample_snr(n, generator=generator)
        flux = _flux_of_snr(light, fields.background + fields.read_noise**2, snr)
        noiseless = light * flux[:, None, None]
        return self._expose(noiseless, fields, flux, galaxy[again], generator)

    @torch.no_grad()
    def sample_prior(self, n, *, snr_range, generator) -> SimulatedImages:
        """Draw stamps with fluxes of the prior, within signal-to-noise ratios."""
        low, high = snr_range
        # A coarse selection first, which keeps a few too many.
        rounds = [(0.9 * low, 1.1 * high, RenderingAccuracy.training())]
        rounds.append((low, high, self.accuracy))
        parts, count = [], 0
        while count < n:
            fields = self.field_prior.sample_batch(_PIECE, generator=generator)
            flux, galaxy = self.sample_galaxies(_PIECE, generator=generator)
            flux = flux * fields.electrons_per_nmgy
            for least, most, accuracy in rounds:
                light = self._render(fields.psf, flux, galaxy, accuracy)
                snr = signal_to_noise(light, fields.background + fields.read_noise**2)
                keep = (snr >= least) & (snr < most)
                fields = select(fields, keep)
                flux, galaxy, light = flux[keep], galaxy[keep], light[keep]
            parts.append(self._expose(light, fields, flux, galaxy, generator))
            count += len(light)
        return SimulatedImages.concatenate(parts).select(slice(0, n))

    def redraw(self, images, *, generator) -> SimulatedImages:
        """Draw the same galaxies by GalSim, with fresh noise."""
        from bliss_astro.psf import PSFModel
        from bliss_astro.rendering import GalSimRenderer

        renderer, size = GalSimRenderer(period=256), self.camera.shape
        x, y, drawn = [size[1] // 2], [size[0] // 2], []
        parts = (images.psf, images.flux, images.galaxy)
        for psf, flux, galaxy in zip(*(v.double() for v in parts), strict=True):
            source = PSFModel.from_shape(psf.numpy()), x, y, flux.tolist(), size
            drawn.append(renderer.render(*source, galaxy=galaxy.numpy()))
        light = torch.from_numpy(np.array(drawn)).float().clamp(min=0)
        noise = images.background[:, None, None], images.read_noise[:, None, None]
        data = add_noise(light, *noise, generator=generator)
        return dataclasses.replace(images, data=data, noiseless=light)

    def _render(self, psf, flux, galaxy, accuracy):
        x = torch.full((len(psf), 1), float(self.config.size // 2))
        sources, size = (x, x, flux[:, None], galaxy[:, None]), self.camera.shape
        light = render_galaxies(psf, *sources, size=size, accuracy=accuracy)
        return light.clamp_(min=0)

    def _expose(self, light, fields, flux, galaxy, generator):
        x = torch.full((len(light), 1), float(self.config.size // 2))
        sources = Sources(x, x, flux[:, None])
        sources.galaxy, sources.is_galaxy = galaxy[:, None], x > 0
        dither = x.new_zeros(len(light), 1, 2)
        fields = Fields(**vars(fields), dither=dither, pixel_scale=self.pixel_scale)
        images = self.camera.observe(Draws(generator), fields, sources, extended=light)
        images.noiseless = light
        return images


def _flux_of_snr(light, variance, snr):
    """Fluxes ``(B,)`` at which galaxies of unit flux have signal-to-noise ratios."""
    # The fixed point of f = snr / sqrt(sum(u^2 / (f u + v))).
    flux = snr / (light**2).sum((1, 2)).sqrt() * variance.sqrt()
    for _ in range(_N_ROUNDS):
        expected = flux[:, None, None] * light + variance[:, None, None]
        flux = snr / (light**2 / expected).sum((1, 2)).sqrt()
    return flux
