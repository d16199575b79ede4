# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulator of coadds: dithered exposures of stars and galaxies, aligned and stacked.
"""

import dataclasses

import astropy.units as u
import numpy as np
import torch
from astropy.utils.decorators import deprecated

from bliss_astro._arguments import (
    as_list,
    check_ranges,
    choose_device,
    must,
    one_of,
    require,
    torch_generator,
    within,
)
from bliss_astro.exposures import BANDS
from bliss_astro.exposures._bands import as_band
from bliss_astro.exposures._psf import PSFAccess
from bliss_astro.priors import CatalogPrior, ColourPrior, StarPrior
from bliss_astro.priors._numbers import source_table
from bliss_astro.psf import SHAPE_NAMES, PSFModel
from bliss_astro.rendering import render_galaxies
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._bands import CONDITIONS, Bands, SimulatedBands
from ._camera import NOISE_ORDERS, Camera, Draws, Fields, draw_dithers
from ._images import SimulatedImages
from ._nuisances import BadPixelPrior
from ._sources import draw_catalog, draw_stars

# Calibration of the coadd paper's field, run 94, camcol 1, field 12 of SDSS in r, and
# the mean sky of an exposure there in electrons per pixel.
ELECTRONS_PER_NMGY, BACKGROUND = 987.31, 865.0


_RANGES = (
    within('n_exposures', 'a positive integer', lambda x: x >= 1 and int(x) == x)
    | within(
        'background electrons_per_nmgy pixel_scale',
        'positive and finite',
        lambda x: 0 < x < np.inf,
    )
    | within('read_noise', 'finite and not negative', lambda x: 0 <= x < np.inf)
    | within('dither', 'between 0 and 1 pixel', lambda x: 0 <= x <= 1)
    | within(
        'shape', 'two positive integers (ny, nx)', lambda x: len(x) == 2 and min(x) >= 1
    )
    | one_of('noise_order', *NOISE_ORDERS)
    | one_of('unit', 'electron', 'nmgy')
)


def _model_and_drawn(psf, shape):
    """`PSFModel` of a PSF of any kind, and the `GaussianPSF` if it is of another."""
    if psf is None or isinstance(psf, PSFModel):
        return psf or PSFModel(), None
    if np.ndim(psf) == 1:
        allowed = 'be a PSF, or its 8 shape parameters'
        require(len(psf) == len(SHAPE_NAMES), 'psf', allowed, psf)
        return PSFModel.from_shape(psf), None
    access, (ny, nx) = PSFAccess(psf), shape
    drawn = access.gaussians([nx // 2], [ny // 2])[0, 0]
    return access.at(nx // 2, ny // 2), None if drawn.shape is not None else drawn


@dataclasses.dataclass(eq=False, repr=False)
class CoaddSimulator:
    """
    Simulate coadds of d dithered exposures of stars and galaxies.

    The model of the coadd paper (Wang et al. 2022, section 2): every
    exposure has one dither, uniform within half a pixel; it is recorded
    with photon noise, resampled bilinearly onto the undithered grid, and
    averaged with weights ``1 / (background + signal)``.  A single exposure
    (d = 1) is neither dithered nor resampled.

    Parameters
    ----------
    n_exposures : int, optional
        Depth d.

    prior : `~bliss_astro.priors.StarPrior` or `~bliss_astro.priors.CatalogPrior`
        Distribution of the sources: stars with fluxes in electrons (the default), or
        stars and galaxies with fluxes in nanomaggies.

    psf : `~bliss_astro.psf.PSFModel`, array_like ``(8,)`` or PSF, optional
        PSF of every exposure, pixel included; by default that of run 94, camcol 1,
        field 12. Eight numbers are shape parameters. Any other PSF that an exposure may
        have is drawn as the `~bliss_astro.psf.GaussianPSF` in the middle of the coadd;
        of several exposures the result states a fit of the model.

    background : float, optional
        Sky of one exposure in electrons per pixel.

    read_noise : float, optional
        Read noise of one exposure in electrons.

    electrons_per_nmgy : float, optional
        Calibration of one exposure; by default that of the same field.

    pixel_scale : float, optional
        Side of a pixel in arcsec, for densities and sizes of
        a `~bliss_astro.priors.CatalogPrior`.

    shape : tuple of int, optional
        ``(ny, nx)`` of the coadd; exposures have a pixel more on each side.

    margin : float, optional
        Distance of the sources from the edges of the coadd in pixels; a
        negative margin puts some outside.

    dither : float, optional
        Largest dither in pixels along each axis, at most 1.

    noise_order : {'before_alignment', 'after_alignment'}, optional
        The paper's text adds noise to the exposures (default); its
        published code aligns noiseless images and adds independent noise
        to those.

    bad_pixels : `BadPixelPrior` or None, optional
        Distribution of the bad pixels of the coadds.

    unit : {'electron', 'nmgy'}, optional
        Unit of the exposures of `sample`; by default that of the prior's fluxes.

    bands : str, list or dict, optional
        Bands of each scene: names, such as ``'gri'``, or bands. The arguments above and
        the fluxes of the prior are of the reference band; conditions of the others are
        drawn with them, those of SDSS scaled, and colours are of a
        `~bliss_astro.priors.ColourPrior`. A dict has the conditions of each band that
        are fixed, a dict of ``psf``, ``background``, ``read_noise`` and
        ``electrons_per_nmgy``.

    reference : str, optional
        The reference band; r if it is among them, else the first.

    tolerance : float, optional
        Error of the renderer relative to a star's peak.

    device : str or `torch.device`, optional
        Device of the simulation.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator
    >>> coadd, truth = CoaddSimulator(5).sample(rng=0)
    >>> coadd.data.shape
    (88, 88)

    Stars and galaxies of the sky down to r = 25, in nanomaggies:

    >>> from bliss_astro.priors import CatalogPrior
    >>> simulator = CoaddSimulator(5, CatalogPrior.sky(), margin=-10)
    >>> coadd, truth = simulator.sample(rng=0)
    >>> coadd.unit, truth.colnames[:4]
    (Unit("nmgy"), ['x_centroid', 'y_centroid', 'flux', 'is_galaxy'])

    The same sky in three bands:

    >>> exposures, truth = CoaddSimulator(
    ...     1, CatalogPrior.sky(), bands='gri', margin=-10
    ... ).sample(rng=0)
    >>> list(exposures), truth.colnames[-3:]
    (['r', 'g', 'i'], ['flux_r', 'flux_g', 'flux_i'])
    """

    n_exposures: int = 1
    prior: StarPrior | CatalogPrior | None = None
    _: dataclasses.KW_ONLY
    psf: 'PSFModel | tuple | None' = None
    background: float = BACKGROUND
    read_noise: float = 0.0
    electrons_per_nmgy: float = ELECTRONS_PER_NMGY
    pixel_scale: float = SDSS_PIXEL_SCALE
    shape: tuple[int, int] = (88, 88)
    margin: float = 24
    dither: float = 0.5
    noise_order: str = 'before_alignment'
    bad_pixels: BadPixelPrior | None = None
    unit: str | None = None
    bands: 'str | list | dict' = ()
    reference: str | None = None
    tolerance: float = 1e-6
    device: str | torch.device = 'auto'

    def __post_init__(self):
        check_ranges(vars(self), _RANGES)
        self.shape = (int(self.shape[0]), int(self.shape[1]))
        if 2 * self.margin >= min(self.shape):
            allowed = f'be less than half of {self.shape}'
            raise ValueError(must('margin', allowed, self.margin))
        self.n_exposures = int(self.n_exposures)
        self.prior = StarPrior() if self.prior is None else self.prior
        self._has_galaxies = isinstance(self.prior, CatalogPrior)
        self.unit = self.unit or ('nmgy' if self._has_galaxies else 'electron')
        self.device = choose_device(self.device)
        model, self._drawn = _model_and_drawn(self.psf, self.shape)
        self._bands, self._given = _bands_of(self.bands, self.reference)
        # Other bands' PSFs follow that of the reference, a fit of the model.
        self._drawn = None if self._bands.own else self._drawn
        self.psf_shape = torch.tensor(model.shape_vector, dtype=torch.float32)
        self.camera = Camera(
            self.shape,
            noise_order=self.noise_order,
            bad_pixels=self.bad_pixels,
            normalization_radius=float(model.normalization_radius),
            tolerance=self.tolerance,
        )

    def __repr__(self):
        return (
            f'CoaddSimulator({self.n_exposures}, shape={self.shape}, '
            f'background={self.background:g}, noise_order={self.noise_order!r})'
        )

    def sample(self, *, rng=None):
        """
        Draw one coadd with its truth.

        Parameters
        ----------
        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        coadd : `~bliss_astro.exposures.Exposure`
            Image with background, noise, noise correlation and effective PSF. Of
            several bands an `~bliss_astro.exposures.ExposureSet`, the reference first.

        truth : `~astropy.table.QTable`
            ``x_centroid, y_centroid, flux``, brightest first; with galaxies also
            ``is_galaxy`` and the columns of ``GALAXY_SHAPE_NAMES`` (radii in arcsec,
            NaN for stars); with bands also their fluxes, ``flux_r`` and so on.
        """
        images = self.sample_batch(
            1, generator=torch_generator(rng, device=self.device)
        )
        radius = self.camera.normalization_radius
        meta = {'n_exposures': self.n_exposures, 'noise_order': self.noise_order}
        options, fluxes = {'unit': self.unit, 'meta': meta}, {}
        if self.bands:
            exposure = images.exposures(normalization_radius=radius, **options)
            ratios, images = images.log_ratio.double().exp(), images.reference
            fluxes = {f'flux_{name}': ratios[..., k] for k, name in enumerate(exposure)}
        else:
            psf = self._drawn
            if psf is None or self.n_exposures > 1:
                psf = images.psf[0].double().cpu().numpy()
                psf = PSFModel.from_shape(psf, normalization_radius=radius)
            exposure = images.exposure(psf=psf, **options)
        scale = 1.0 if self.unit == 'electron' else images.electrons_per_nmgy.double()
        columns = images.x, images.y, images.flux.double() / scale
        fluxes = {name: ratio * columns[2] for name, ratio in fluxes.items()}
        columns += images.is_galaxy, images.galaxy
        options = {'pixel_scale': self.pixel_scale, 'fluxes': fluxes}
        return exposure, source_table(u.Unit(self.unit), *columns, **options)

    @deprecated('0.1', alternative='CoaddSimulator.sample')
    def simulate(self, *, rng=None):
        """Draw one coadd with its truth: `sample`."""
        return self.sample(rng=rng)

    @torch.no_grad()
    def sample_batch(
        self,
        n_images,
        *,
        psf=None,
        background=None,
        read_noise=None,
        density=None,
        flux_min=None,
        generator=None,
    ) -> SimulatedImages | SimulatedBands:
        """
        Draw a batch of coadds.

        Parameters
        ----------
        n_images : int
            Number of coadds B.

        psf : tensor ``(B, 8)``, optional
            PSF shapes of the exposures, image by image.

        background, read_noise : tensor ``(B,)``, optional
            In electrons, image by image.

        density, flux_min : tensor ``(B,)``, optional
            Stars per pixel and smallest flux in electrons, image by image, of a
            `~bliss_astro.priors.StarPrior`.

        generator : `torch.Generator`, optional
            Source of randomness, whose device is that of the images.

        Returns
        -------
        images : `SimulatedImages` or `SimulatedBands`
            Images and truth, in electrons of one exposure; in several bands where
            ``bands`` are given.
        """
        if self._has_galaxies and (density is not None or flux_min is not None):
            msg = 'density and flux_min are for a StarPrior, not for a CatalogPrior'
            raise ValueError(msg)
        draw = Draws(generator, self.device if generator is None else None)
        full, depth = torch.ones(n_images, device=draw.device), self.n_exposures
        fields = Fields(
            psf=self.psf_shape.to(full).expand(n_images, 8) if psf is None else psf,
            background=full * self.background if background is None else background,
            read_noise=full * self.read_noise if read_noise is None else read_noise,
            electrons_per_nmgy=full * self.electrons_per_nmgy,
            dither=full.new_zeros(n_images, 1, 2),
            pixel_scale=self.pixel_scale,
        )
        if psf is None and self._drawn is not None:
            fields.drawn = self._drawn.to(full)[None].expand(n_images)
        shape, extended = self.shape, None
        if self._has_galaxies:
            floor = self.prior.flux_min * fields.electrons_per_nmgy
            sources = draw_catalog(
                draw, self.prior, fields, shape, self.margin, flux_min=floor
            )
        else:
            sources = draw_stars(
                draw,
                self.prior,
                shape,
                self.margin,
                density=full * self.prior.density if density is None else density,
                flux_min=full * self.prior.flux_min if flux_min is None else flux_min,
            )
        fields.dither = draw_dithers(draw, n_images, depth, self.dither)
        seen, bands = sources, dataclasses.replace(self._bands)
        if bands.own:
            given = {'band': bands.own[0], 'given': self._given}
            fields = bands.draw_fields(draw, fields, self.dither, **given)
            bands.draw_colours(draw, sources, fields)
            seen = bands.spread(sources, fields)
        if self._has_galaxies:
            extended = render_galaxies(
                fields.gaussians(self.camera.normalization_radius),
                *seen.galaxies,
                size=shape,
                dither=fields.dither if depth > 1 else None,
            )
        images = self.camera.observe(
            draw, fields, seen, stars=seen.stars, extended=extended
        )
        return bands.split(images, sources) if bands.own else images


def _bands_of(given, reference):
    """`Bands` of all names or bands, and a dict of what is given of each."""
    if not given:
        return Bands(), []
    if isinstance(given, str):
        given = [given] if given in BANDS else list(given)
    names = as_list('bands', given)
    given = given if isinstance(given, dict) else dict.fromkeys(names)
    bands = [as_band(name, 'bands') for name in names]
    own = {band.name: band for band in bands if band is not None}
    require(len(own) == len(names), 'bands', 'have a name each', f'{names}')
    first = reference or ('r' if 'r' in own else next(iter(own)))
    require(first in own, 'reference', f'be one of {", ".join(own)}', first)
    settings = dict(zip(own, given.values(), strict=True))
    names = sorted(own, key=lambda name: name != first)
    for name in names:
        wrong = ', '.join({*(settings[name] or {})} - {*CONDITIONS})
        allowed = f'have no keys but {", ".join(CONDITIONS)}'
        require(not wrong, f'bands[{name!r}]', allowed, wrong)
    bands, order = tuple(own[name] for name in names), tuple(range(len(names)))
    drawn = Bands(len(names), order, bands, tuple(names), ColourPrior.default())
    return drawn, [_numbers_of(settings[name] or {}) for name in names]


def _numbers_of(conditions):
    """Conditions of a band with the parameters of its PSF."""
    psf = conditions.get('psf')
    if psf is None:
        return conditions
    psf = psf if np.ndim(psf) == 1 else PSFAccess(psf).at(0, 0).shape_vector
    return conditions | {'psf': psf}
