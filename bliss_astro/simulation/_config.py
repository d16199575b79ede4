# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Configuration of simulations for training: ranges of sources, fields and artefacts.
"""

import dataclasses

import torch

from bliss_astro._arguments import check_settings, one_of, require, within
from bliss_astro.exposures._bands import as_band
from bliss_astro.priors import SeeingPrior, StarPrior, TelescopePrior
from bliss_astro.priors._fields import ELLIPTICITY_MAX
from bliss_astro.psf._mixture import DEFAULT_SHAPE, scale_to_fwhm
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._camera import NOISE_ORDERS, Draws
from ._sources import CONFINED_MARGIN

# Widths in pixels of the PSFs of any telescope.
_TELESCOPE_FWHM = (1.2, 7.0)
_RANGES = (
    one_of('population', 'stars', 'npe', 'sky', 'both')
    | one_of('fields', 'sdss', 'single', 'wide', 'telescopes')
    | one_of('psf', 'sdss', 'paper', 'telescopes')
    | one_of('noise_order', *NOISE_ORDERS)
    | within(
        'single_fraction confined_fraction inclined_fraction npe_fraction '
        'bright_fraction cluster_fraction ray_fraction trail_fraction '
        'large_fraction saturated_fraction asymmetry',
        'a number from 0 to 1',
        lambda x: 0 <= x <= 1,
    )
    | within(
        'n_exposures background density floor_snr typical_floor_snr crowding '
        'star_scale galaxy_scale cluster_radius cluster_crowding noise pixel_scales '
        'limits fwhm saturation npe_floor psf_errors background_errors slopes',
        'an increasing pair of positive numbers',
        lambda x: 0 < x[0] <= x[1],
    )
    | within(
        'dither', 'an increasing pair from 0 to 1', lambda x: 0 <= x[0] <= x[1] <= 1
    )
    | within('read_noise', 'two increasing numbers from 0', lambda x: 0 <= x[0] <= x[1])
    | within('sky_error psf_error', 'finite, not negative', lambda x: x >= 0)
    | within('pixel_scale slope flux_min', 'positive', lambda x: x > 0)
    | within('dynamic_range', 'above 1', lambda x: x > 1)
    | within('unseen', 'above 0 and at most 1', lambda x: 0 < x <= 1)
    | within(
        'ellipticity',
        f'from 0 to {ELLIPTICITY_MAX}',
        lambda x: 0 <= x <= ELLIPTICITY_MAX,
    )
)


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """
    Distribution of simulated images for training.

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
        A fixed flux floor in electrons of one exposure, in place of ``floor_snr``.

    slope : float
        Index of the Pareto distribution of the fluxes.

    slopes : tuple of float or None
        Range of that index, uniform, in place of ``slope``. From 0.4 to 1
        counts grow by 0.16 to 0.4 dex a magnitude, as in clusters and in the plane
        of the Galaxy.

    dynamic_range : float
        Largest over smallest flux.

    psf : {'sdss', 'paper', 'telescopes'}
        The seeing of SDSS, the one PSF of the coadd paper, or PSFs of any telescope
        (`~bliss_astro.priors.TelescopePrior`).

    fwhm : tuple of float or None
        Range of the full width at half maximum of one exposure's PSF in
        pixels, to which the PSFs above are scaled, wings and all.

    ellipticity : float
        Standard deviation of e1 and of e2 (truncated at 0.12) of SDSS's PSFs.

    shape : tuple of int
        ``(ny, nx)`` of the images in pixels.

    margin : int
        Distance of stars from the edges; negative puts some outside.

    confined_fraction : float
        Share of the images whose stars keep 12 px from the edges, with a
        map of the density that states so.

    inclined_fraction : float
        Share of the images whose PSF may have an e2.

    bad_pixels : bool
        Whether images have masked pixels.

    noise_order : {'before_alignment', 'after_alignment'}
        See `~bliss_astro.simulation.CoaddSimulator`.

    dither : tuple of float
        Uniform range of the largest dither in pixels, at most 1. It sets how far
        the noise of neighbouring pixels correlates: 0.25 on average for 0.5,
        at most 0.3 (for 0.75), none for 0.

    saturation : tuple of float or None
        Full well in electrons of one exposure, by default 3e4 to 3e5.

    population : {'stars', 'npe', 'sky', 'both'}
        Stars alone; or stars and galaxies of the prior of the NPE paper, of the
        prior of the sky (see `~bliss_astro.priors.CatalogPrior`), or of one or the
        other, image by image.  The settings below are for stars and galaxies.

    npe_fraction : float
        Share of the NPE paper's prior where there are both.

    fields : {'sdss', 'single', 'wide', 'telescopes'}
        Origin of PSF, background and calibration:
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
        30 times the noise and more, are a plateau or masked, with bleeding columns.

    unseen : float
        Lowest flux over the flux floor: sources below the floor are in the images
        and not in the truth (stars alone).

    npe_floor : tuple of float or None
        Range in nmgy of a cut in flux of the NPE paper's prior; by default it is
        whole.

    cluster_fraction : float
        Share of the images of the NPE paper's prior whose sources all lie within
        a circle that the map of the density states: blends.

    cluster_radius : tuple of float
        Range of its radius in pixels.

    cluster_crowding : tuple of float
        Factor on the density there.

    bright_fraction : float
        Share of the images of the prior of the sky that have a very bright star
        in them or near them, with spikes and a halo.

    catalog_prior, field_prior : str, dict or None
        Files that ``CatalogPrior.save`` and
        ``FieldPrior.save`` wrote, in place of the bundled
        prior of the sky and of ``fields``; or their ``to_dict``, as in cards.

    galaxy_model : str or None
        A learned galaxy model, by name or path, whose galaxies take the place of
        bulges and disks; single exposures only.

    pixel_scale : float
        Side of a pixel in arcsec.

    bands : tuple of str
        Names of the bands of the images; none for one band, r.

    reference_shares : tuple of float or None
        Shares of the images by their reference band, in the order of ``bands``. By
        default r in six of ten, and g, i or z in the others.

    band_shares : tuple of float or None
        Shares of the images that have one band, two, and so on. By default four in ten
        have the reference alone, and all other numbers are equally frequent.

    Raises
    ------
    ValueError
        If a value is of another type or out of its range.
    """

    n_exposures: tuple[int, int] = (1, 25)
    single_fraction: float = 0.35
    background: tuple[float, float] = (80.0, 2200.0)
    read_noise: tuple[float, float] = (0.0, 8.0)
    density: tuple[float, float] = (3e-5, 0.013)
    floor_snr: tuple[float, float] = (2.8, 22.0)
    typical_floor_snr: tuple[float, float] | None = (3.1, 3.8)
    flux_min: float | None = None
    slope: float = StarPrior.slope
    slopes: tuple[float, float] | None = None
    dynamic_range: float = StarPrior.flux_max / StarPrior.flux_min
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
    pixel_scale: float = SDSS_PIXEL_SCALE
    bands: tuple[str, ...] = ()
    reference_shares: tuple[float, ...] | None = None
    band_shares: tuple[float, ...] | None = None

    def __post_init__(self):
        check_settings(self, _RANGES)
        # Raised now rather than by the first batch of confined stars.
        least = 2 * max(self.margin, CONFINED_MARGIN * (self.confined_fraction > 0), 0)
        words = f'more than {least} px, twice the distance of stars from the edges'
        rules = within('shape', words, lambda x: min(x) > least)
        if self.galaxy_model is not None:
            words = '[1, 1] with galaxy_model, which is for single exposures'
            rules |= within('n_exposures', words, lambda x: tuple(x) == (1, 1))
        check_settings(self, rules)
        self._check_bands()

    def _check_bands(self):
        for name in self.bands:
            as_band(name, 'bands')
        n, names = len(self.bands), 'reference_shares band_shares'
        sound = len(set(self.bands)) == n
        require(sound, 'bands', 'be different from each other', self.bands)
        words = f'{n} numbers from 0, one for each of the bands, not all 0'
        sound = within(
            names, words, lambda x: len(x) == n and min(x) >= 0 and sum(x) > 0
        )
        check_settings(self, sound)

    def sample_psf(self, n, *, inclined=True, generator):
        """
        Draw PSFs of exposures.

        Parameters
        ----------
        n : int
            Number of PSFs.

        inclined : bool, optional
            Whether they may have an e2.

        generator : `torch.Generator`
            Source of randomness; its device is that of the result.

        Returns
        -------
        shape : tensor ``(n, 8)``
            Shape parameters in pixels.
        """
        drawn = {'generator': generator, 'device': generator.device}
        if self.psf == 'telescopes':
            prior = TelescopePrior(fwhm=self.fwhm or _TELESCOPE_FWHM)
            return prior.sample_batch(n, inclined=inclined, **drawn)
        if self.psf == 'paper':
            psf = torch.tensor([DEFAULT_SHAPE], device=generator.device).expand(n, 8)
        else:
            prior = SeeingPrior(ellipticity=self.ellipticity)
            psf = prior.sample_batch(n, inclined=inclined, **drawn)
        if self.fwhm is None:
            return psf
        return scale_to_fwhm(psf, Draws(generator).log_uniform(self.fwhm, n))
