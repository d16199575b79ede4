# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The endless stream of simulated pairs that an encoder learns from.
"""

import dataclasses
import math

import torch

from bliss_astro._devices import choose_device
from bliss_astro.exposures._camera import BadPixelPrior
from bliss_astro.priors import SeeingPrior, StarPrior, TelescopePrior
from bliss_astro.psf._mixture import (
    DEFAULT_SHAPE,
    LOG_AREA,
    describe_shape,
    scale_to_fwhm,
)

from ._images import SimulatedImages
from ._nuisances import (
    USUAL_BACKGROUND_ERROR,
    USUAL_PSF_ERROR,
    draw_stated,
    misstated_psf,
    sky_error,
)
from ._simulator import CoaddSimulator

__all__ = ['SimulationConfig', 'SimulationStream']

POPULATIONS = ('stars', 'npe', 'sky', 'both')
FIELDS = ('sdss', 'single', 'wide', 'telescopes')
# Distance in pixels that confined stars keep from the edges.
_CONFINED_MARGIN = 12


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """
    What the simulated images look like.

    Pairs are ranges of log-uniform distributions; equal ends fix a value.

    Parameters
    ----------
    n_exposures : tuple of int
        Range of the depth d.

    single_fraction : float
        Share of the images that are single exposures (if d may be 1).

    background : tuple of float
        Sky of one exposure in electrons.

    read_noise : tuple of float
        Uniform range in electrons.

    density : tuple of float
        Stars per pixel.

    floor_snr : tuple of float
        Signal-to-noise ratio in the coadd of a star at the flux floor, in
        the limit of faint sources.

    typical_floor_snr : tuple of float
        A narrower range that half of the images are drawn from.

    flux_min : float or None
        A fixed flux floor in electrons of one exposure; if given,
        ``floor_snr`` is not used.

    slope : float
        Index of the Pareto distribution of the fluxes.

    slopes : tuple of float or None
        Range of that index, uniform; if given, ``slope`` is not used. From 0.4 to 1
        counts grow by 0.16 to 0.4 dex a magnitude, as in clusters and in the plane
        of the Galaxy.

    dynamic_range : float
        Largest over smallest flux.

    psf : {'sdss', 'paper', 'telescopes'}
        The seeing of SDSS, the one PSF of the coadd paper, or PSFs of any telescope
        (`~bliss_astro.priors.TelescopePrior`).

    fwhm : tuple of float or None
        Range of the full width at half maximum of one exposure's PSF in
        pixels; if given, the PSFs are those above, wings and all, scaled to
        widths in that range.

    ellipticity : float
        Standard deviation of e1 and of e2 (truncated at 0.12) of SDSS's PSFs.

    shape : tuple of int
        ``(ny, nx)`` of the images in pixels.

    margin : int
        Distance of stars from the edges; negative puts some outside.

    confined_fraction : float
        Share of the images whose stars keep 12 px from the edges, with a
        map of the density that says so.

    inclined_fraction : float
        Share of the images whose PSF may have an e2.

    bad_pixels : bool
        Whether images have masked pixels.

    noise_order : str
        See `~bliss_astro.simulation.CoaddSimulator`.

    dither : tuple of float
        Uniform range of the largest dither in pixels, at most 1. It sets how far
        the noise of neighbouring pixels correlates: 0.25 on average for 0.5,
        at most 0.3 (for 0.75), none for 0.

    saturation : tuple of float or None
        Full well in electrons of one exposure, by default 3e4 to 3e5.

    population : {'stars', 'npe', 'sky', 'both'}
        What the sources are: stars alone; or stars and galaxies of the
        prior of the NPE paper, of the prior of the sky (see
        `~bliss_astro.priors.CatalogPrior`), or of one or the other, image by
        image.  The settings below are for stars and galaxies.

    npe_fraction : float
        Share of the NPE paper's prior where there are both.

    fields : {'sdss', 'single', 'wide', 'telescopes'}
        Where PSF, background and calibration come from:
        `~bliss_astro.priors.FieldPrior`, its single field, or for
        half of the images ``background``, ``read_noise`` and ``psf`` above; or for
        two thirds of those of the sky any telescope's: ``noise``, ``psf``,
        ``pixel_scales`` and ``limits``.

    noise : tuple of float
        Noise of empty sky in electrons of one exposure.

    pixel_scales : tuple of float
        Sides of a pixel in arcsec.

    limits : tuple of float
        Uniform range of the magnitude at the flux floor.

    crowding : tuple of float
        Factor on the density of the NPE paper's prior.

    star_scale, galaxy_scale : tuple of float
        Factors on the densities of the prior of the sky.

    sky_error : float
        Typical error of the stated background, in units of its noise, in images
        of stars alone and of the prior of the sky.

    psf_error : float
        Typical relative error of the stated PSF's width, in the same images;
        errors of its shape go with it.

    psf_errors : tuple of float or None
        Range of the relative error of the PSF's width that is stated, and drawn with
        that standard deviation; a quarter of the images have 1 %, one none. In place of
        ``psf_error``.

    background_errors : tuple of float or None
        Likewise of the background's error in units of its noise; a quarter have 0.05.
        In place of ``sky_error``.

    asymmetry : float
        Largest share of a PSF's light that is in lobes on one side or three, in half
        of the images of the prior of the sky; stated in part.

    ray_fraction, trail_fraction, large_fraction : float
        Shares of the images of the prior of the sky that have cosmic rays (single
        exposures), a satellite's trail, and a galaxy of 8 to 60 px.

    saturated_fraction : float
        Share of the images of the prior of the sky of which the brightest pixels,
        30 times the noise and more, are a plateau or masked, with what bleeds.

    unseen : float
        Sources are drawn down to this share of the flux floor, of which those
        below it are there but not asked for (stars alone).

    npe_floor : tuple of float or None
        Range in nmgy of a cut in flux of the NPE paper's prior; by default it is
        whole.

    cluster_fraction : float
        Share of the images of the NPE paper's prior whose sources all lie within
        a circle, of which the density says so: blends.

    cluster_radius : tuple of float
        Range of its radius in pixels.

    cluster_crowding : tuple of float
        Factor on the density there.

    bright_fraction : float
        Share of the images of the prior of the sky that have a very bright star
        in them or near them, with spikes and a halo.

    catalog_prior, field_prior : str, dict or None
        Files that `~bliss_astro.priors.CatalogPrior.save` and
        `~bliss_astro.priors.FieldPrior.save` wrote, in place of the bundled
        prior of the sky and of ``fields``; or what their ``to_dict`` returns, as
        cards have it.

    galaxy_model : str or None
        A learned galaxy model, by name or path, whose galaxies take the place of
        bulges and disks; single exposures only.

    pixel_scale : float
        Side of a pixel in arcsec.
    """

    n_exposures: tuple[int, int] = (1, 25)
    single_fraction: float = 0.35
    background: tuple[float, float] = (80.0, 2200.0)
    read_noise: tuple[float, float] = (0.0, 8.0)
    density: tuple[float, float] = (3e-5, 0.013)
    floor_snr: tuple[float, float] = (2.8, 22.0)
    typical_floor_snr: tuple[float, float] | None = (3.1, 3.8)
    flux_min: float | None = None
    slope: float = 0.47
    slopes: tuple[float, float] | None = None
    dynamic_range: float = 1e6 / 622
    psf: str = 'sdss'
    fwhm: tuple[float, float] | None = None
    ellipticity: float = 0.025
    shape: tuple[int, int] = (64, 64)
    margin: int = -8
    confined_fraction: float = 0.25
    inclined_fraction: float = 0.125
    bad_pixels: bool = True
    noise_order: str = 'before_alignment'
    dither: tuple[float, float] = (0.5, 0.5)
    saturation: tuple[float, float] | None = None
    population: str = 'stars'
    npe_fraction: float = 0.5
    fields: str = 'sdss'
    crowding: tuple[float, float] = (1.0, 1.0)
    star_scale: tuple[float, float] = (1.0, 1.0)
    galaxy_scale: tuple[float, float] = (1.0, 1.0)
    noise: tuple[float, float] = (3.0, 3000.0)
    pixel_scales: tuple[float, float] = (0.05, 1.2)
    limits: tuple[float, float] = (18.0, 25.5)
    sky_error: float = 0.0
    psf_error: float = 0.0
    psf_errors: tuple[float, float] | None = None
    background_errors: tuple[float, float] | None = None
    asymmetry: float = 0.0
    ray_fraction: float = 0.0
    trail_fraction: float = 0.0
    large_fraction: float = 0.0
    bright_fraction: float = 0.0
    saturated_fraction: float = 0.0
    unseen: float = 1.0
    npe_floor: tuple[float, float] | None = None
    cluster_fraction: float = 0.0
    cluster_radius: tuple[float, float] = (6.0, 20.0)
    cluster_crowding: tuple[float, float] = (2.0, 40.0)
    catalog_prior: str | dict | None = None
    field_prior: str | dict | None = None
    galaxy_model: str | None = None
    pixel_scale: float = 0.396

    def __post_init__(self):
        for name, known in (('population', POPULATIONS), ('fields', FIELDS)):
            if getattr(self, name) not in known:
                msg = f'{name} must be one of {known}, got {getattr(self, name)!r}'
                raise ValueError(msg)
        shares = ['npe_fraction', 'bright_fraction', 'cluster_fraction']
        shares += ['ray_fraction', 'trail_fraction', 'large_fraction', 'asymmetry']
        shares += ['saturated_fraction']
        for name in shares:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                msg = f'{name} must lie between 0 and 1, got {value}'
                raise ValueError(msg)
        if not (math.isfinite(self.pixel_scale) and self.pixel_scale > 0):
            msg = f'pixel_scale must be positive, got {self.pixel_scale}'
            raise ValueError(msg)
        for name in ('sky_error', 'psf_error'):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                msg = f'{name} must not be negative, got {value}'
                raise ValueError(msg)
        if self.galaxy_model is not None and tuple(self.n_exposures) != (1, 1):
            msg = (
                'galaxy_model is for single exposures: n_exposures must be [1, 1], got '
                f'{tuple(self.n_exposures)}'
            )
            raise ValueError(msg)
        if not 0 < self.unseen <= 1:
            msg = f'unseen must lie above 0 and be at most 1, got {self.unseen}'
            raise ValueError(msg)
        if self.psf not in ('sdss', 'paper', 'telescopes'):
            msg = f"psf must be 'sdss', 'paper' or 'telescopes', got {self.psf!r}"
            raise ValueError(msg)
        pairs = ['n_exposures', 'background', 'density', 'floor_snr']
        pairs += ['crowding', 'star_scale', 'galaxy_scale']
        pairs += ['cluster_radius', 'cluster_crowding']
        pairs += ['noise', 'pixel_scales', 'limits']
        optional = ('fwhm', 'saturation', 'npe_floor', 'psf_errors')
        optional += ('background_errors', 'slopes')
        pairs += [n for n in optional if getattr(self, n) is not None]
        for name in pairs:
            pair = getattr(self, name)
            if not 0 < pair[0] <= pair[1]:
                msg = f'{name} must be an increasing positive pair, got {pair}'
                raise ValueError(msg)
        if not 0 <= self.dither[0] <= self.dither[1] <= 1:
            msg = f'dither must be an increasing pair from 0 to 1, got {self.dither}'
            raise ValueError(msg)
        if not 0 <= self.ellipticity <= 0.12:
            msg = f'ellipticity must lie between 0 and 0.12, got {self.ellipticity}'
            raise ValueError(msg)
        # Told now rather than by the first batch of confined stars.
        margin = max(self.margin, _CONFINED_MARGIN * (self.confined_fraction > 0))
        if 2 * margin >= min(self.shape):
            msg = (
                f'shape must be larger than {2 * margin} px, twice the distance that '
                f'stars keep from the edges, got {tuple(self.shape)}'
            )
            raise ValueError(msg)

    def bad_pixel_prior(self):
        """The blemishes to draw, or None."""
        if not self.bad_pixels:
            return None
        if self.saturation is None:
            return BadPixelPrior()
        return BadPixelPrior(saturation=tuple(self.saturation))

    def draw_psf(self, n, *, inclined=True, generator=None, device='cpu'):
        """
        Draw PSFs of exposures.

        Parameters
        ----------
        n : int
            How many.

        inclined : bool, optional
            Whether they may have an e2.

        generator : `torch.Generator`, optional
            On ``device``.

        device : str or `torch.device`, optional
            Where to draw.

        Returns
        -------
        shape : tensor ``(n, 8)``
            Shape parameters in pixels.
        """
        if self.psf == 'telescopes':
            return TelescopePrior(fwhm=self.fwhm or (1.2, 7.0)).sample_batch(
                n, inclined=inclined, generator=generator, device=device
            )
        if self.psf == 'paper':
            psf = torch.tensor([DEFAULT_SHAPE], device=device).expand(n, 8)
        else:
            psf = SeeingPrior(ellipticity=self.ellipticity).sample_batch(
                n, inclined=inclined, generator=generator, device=device
            )
        if self.fwhm is None:
            return psf
        unit = torch.rand(n, generator=generator, device=device)
        low, high = (math.log(v) for v in self.fwhm)
        return scale_to_fwhm(psf, torch.exp(low + (high - low) * unit))


class SimulationStream:
    """
    Batches of simulated images, reproducible from one generator.

    Parameters
    ----------
    config : `SimulationConfig`
        What to draw.

    group_size : int, optional
        Images that share depth and density; a batch holds several groups.

    device : str or `torch.device`, optional
        Where to simulate.
    """

    def __init__(self, config, *, group_size=8, device='cpu'):
        self.config = config
        self.group_size = group_size
        self.device = choose_device(device)

    def _log_uniform(self, pair, n, generator):
        unit = torch.rand(n, generator=generator, device=self.device)
        low, high = (math.log(v) for v in pair)
        return torch.exp(low + (high - low) * unit)

    def _depth(self, generator) -> int:
        low, high = self.config.n_exposures
        unit = torch.rand(2, generator=generator, device=self.device).tolist()
        if low == high:
            return low
        if low == 1 and unit[0] < self.config.single_fraction:
            return 1
        low = max(low, 2)
        value = math.exp(
            math.log(low - 0.5) + unit[1] * math.log((high + 0.5) / (low - 0.5))
        )
        return min(max(round(value), low), high)

    def _dither(self, generator) -> float:
        low, high = self.config.dither
        if low == high:
            return low
        unit = torch.rand((), generator=generator, device=self.device)
        return low + (high - low) * float(unit)

    def _floor(self, psf, background, read_noise, depth, generator):
        config, n = self.config, len(psf)
        if config.flux_min is not None:
            return torch.full((n,), float(config.flux_min), device=self.device)
        snr = self._log_uniform(config.floor_snr, n, generator)
        if config.typical_floor_snr is not None:
            typical = self._log_uniform(config.typical_floor_snr, n, generator)
            coin = torch.rand(n, generator=generator, device=self.device) < 0.5
            snr = torch.where(coin, typical, snr)
        area = torch.exp(describe_shape(psf)[:, 1] + LOG_AREA)
        return snr * torch.sqrt((background + read_noise**2) * area / depth)

    def _group(self, n, generator):
        config = self.config
        depth = self._depth(generator)
        coins = torch.rand(2, generator=generator, device=self.device).tolist()
        confined = coins[0] < config.confined_fraction
        margin = _CONFINED_MARGIN if confined else config.margin
        psf = config.draw_psf(
            n,
            # Inclined ellipses are slow to draw, the more so in deep coadds.
            inclined=depth <= 8 and coins[1] < config.inclined_fraction,
            generator=generator,
            device=self.device,
        )
        background = self._log_uniform(config.background, n, generator)
        low, high = config.read_noise
        unit = torch.rand(n, generator=generator, device=self.device)
        read_noise = low + (high - low) * unit
        # One density a group: catalogues are padded to its fullest image.
        density = self._log_uniform(config.density, 1, generator).expand(n)
        floor = self._floor(psf, background, read_noise, depth, generator)
        slope = config.slope
        if config.slopes is not None:
            low, high = config.slopes
            unit = torch.rand(1, generator=generator, device=self.device)
            slope = low + (high - low) * float(unit)
        # A power law's number of stars down to a lower limit.
        more = config.unseen**-slope
        simulator = CoaddSimulator(
            depth,
            StarPrior(
                flux_min=622.0,
                flux_max=622.0 * config.dynamic_range,
                slope=slope,
            ),
            shape=config.shape,
            margin=margin,
            noise_order=config.noise_order,
            dither=self._dither(generator),
            bad_pixels=config.bad_pixel_prior(),
            tolerance=1e-4,
            device=self.device,
        )
        batch = simulator.sample_batch(
            n,
            psf=psf,
            background=background,
            read_noise=read_noise,
            density=more * density,
            flux_min=config.unseen * floor,
            generator=generator,
        )
        batch = dataclasses.replace(batch, density=density, flux_min=floor)
        return self._misstated(batch, generator)

    def _misstated(self, batch, generator):
        config, n = self.config, len(batch)
        drawn = {'generator': generator, 'device': self.device}
        if config.psf_errors is not None:
            batch.psf_error = draw_stated(
                n, config.psf_errors, USUAL_PSF_ERROR, **drawn
            )
            batch.psf = misstated_psf(
                batch.psf, batch.psf_error, spread=False, generator=generator
            )
        elif config.psf_error > 0:
            batch.psf = misstated_psf(batch.psf, config.psf_error, generator=generator)
        if config.background_errors is not None:
            batch.background_error = draw_stated(
                n, config.background_errors, USUAL_BACKGROUND_ERROR, **drawn
            )
            off = sky_error(n, config.shape, spread=False, **drawn)
            size = (batch.background_error * batch.bkg_error)[:, None, None]
            batch.data = batch.data + size * off
        elif config.sky_error > 0:
            off = sky_error(n, config.shape, generator=generator, device=self.device)
            size = config.sky_error * batch.bkg_error[:, None, None]
            batch.data = batch.data + size * off
        return batch

    @torch.no_grad()
    def sample_batch(self, n_images, *, generator) -> SimulatedImages:
        """
        Draw images with their truth.

        Parameters
        ----------
        n_images : int
            Number of images.

        generator : `torch.Generator`
            Source of randomness on the stream's device.
        """
        return SimulatedImages.concatenate(
            [
                self._group(min(self.group_size, n_images - start), generator)
                for start in range(0, n_images, self.group_size)
            ]
        )
