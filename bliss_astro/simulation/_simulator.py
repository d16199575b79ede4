# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulator of coadds: dithered exposures of stars and galaxies, aligned and stacked.
"""

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from astropy.utils.decorators import deprecated

from bliss_astro._devices import choose_device
from bliss_astro._random import torch_generator
from bliss_astro.exposures import Exposure
from bliss_astro.priors import CatalogPrior, StarPrior
from bliss_astro.priors._galaxies import add_shape_columns
from bliss_astro.psf import PSFModel
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, DEFAULT_SHAPE
from bliss_astro.rendering import render_galaxies
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._camera import Camera, Fields, draw_dithers
from ._images import SimulatedImages
from ._noise import NOISE_ORDERS
from ._sources import Sources, draw_catalog, draw_stars

__all__ = ['ELECTRONS_PER_NMGY', 'CoaddSimulator']

ELECTRONS_PER_NMGY = 987.31
"""Calibration of the coadd paper's field: run 94, camcol 1, field 12 of SDSS in r."""
# Mean sky of an exposure there, in electrons per pixel.
_BACKGROUND = 865.0


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

    psf : `~bliss_astro.psf.PSFModel` or array_like ``(8,)``, optional
        PSF of every exposure, pixel included; by default that of run 94,
        camcol 1, field 12.

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
    """

    def __init__(
        self,
        n_exposures=1,
        prior=None,
        *,
        psf=None,
        background=_BACKGROUND,
        read_noise=0.0,
        electrons_per_nmgy=ELECTRONS_PER_NMGY,
        pixel_scale=SDSS_PIXEL_SCALE,
        shape=(88, 88),
        margin=24,
        dither=0.5,
        noise_order='before_alignment',
        bad_pixels=None,
        unit=None,
        tolerance=1e-6,
        device='auto',
    ):
        _check_arguments(
            n_exposures=n_exposures,
            noise_order=noise_order,
            dither=dither,
            read_noise=read_noise,
            shape=shape,
            margin=margin,
            unit=unit,
            background=background,
            electrons_per_nmgy=electrons_per_nmgy,
            pixel_scale=pixel_scale,
        )
        self.n_exposures = int(n_exposures)
        self.prior = StarPrior() if prior is None else prior
        self.background = float(background)
        self.read_noise = float(read_noise)
        self.electrons_per_nmgy = float(electrons_per_nmgy)
        self.pixel_scale = float(pixel_scale)
        self.margin = margin
        self.dither = float(dither)
        self._has_galaxies = isinstance(self.prior, CatalogPrior)
        self.unit = unit or ('nmgy' if self._has_galaxies else 'electron')
        self.device = choose_device(device)
        radius = getattr(psf, 'normalization_radius', DEFAULT_NORMALIZATION_RADIUS)
        self.camera = Camera(
            (int(shape[0]), int(shape[1])),
            noise_order=noise_order,
            bad_pixels=bad_pixels,
            normalization_radius=float(radius),
            tolerance=float(tolerance),
        )
        vector = DEFAULT_SHAPE if psf is None else getattr(psf, 'shape_vector', psf)
        vector = np.asarray(vector, float)
        _require(
            vector.shape == (8,),
            f'psf must be a PSFModel or 8 shape parameters, got {psf!r}',
        )
        self.psf_shape = torch.as_tensor(vector, dtype=torch.float32)

    def __repr__(self):
        return (
            f'CoaddSimulator({self.n_exposures}, shape={self.camera.shape}, '
            f'background={self.background:g}, '
            f'noise_order={self.camera.noise_order!r})'
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
            Image with background, noise, noise correlation and effective PSF.

        truth : `~astropy.table.QTable`
            ``x_centroid, y_centroid, flux``, brightest first; with galaxies also
            ``is_galaxy`` and the columns of ``GALAXY_SHAPE_NAMES`` (radii in arcsec,
            NaN for stars).
        """
        images = self.sample_batch(
            1, generator=torch_generator(rng, device=self.device)
        )
        scale = 1.0 if self.unit == 'electron' else self.electrons_per_nmgy
        unit = u.Unit(self.unit)
        exposure = Exposure(
            images.data[0].cpu().numpy() / scale * unit,
            background=float(images.background[0]) / scale * unit,
            bkg_error=float(images.bkg_error[0]) / scale * unit,
            effective_gain=float(images.effective_gain[0]) * scale,
            mask=images.mask[0].cpu().numpy(),
            psf=PSFModel.from_shape(
                images.psf[0].double().cpu().numpy(),
                normalization_radius=self.camera.normalization_radius,
            ),
            noise_correlation=tuple(images.correlation[0].tolist()),
            meta={
                'n_exposures': self.n_exposures,
                'noise_order': self.camera.noise_order,
            },
        )
        return exposure, self._table(images, scale, unit)

    @deprecated('0.1', alternative='CoaddSimulator.sample')
    def simulate(self, *, rng=None):
        """Draw one coadd with its truth: `sample`."""
        return self.sample(rng=rng)

    def _table(self, images, scale, unit):
        flux, order = torch.sort(images.flux[0].double(), descending=True)
        order = order[flux > 0]
        x, y = (v[0, order].double().cpu().numpy() for v in (images.x, images.y))
        truth = QTable({'x_centroid': x, 'y_centroid': y})
        truth['flux'] = flux[flux > 0].cpu().numpy() / scale * unit
        if self._has_galaxies:
            is_galaxy = images.is_galaxy[0, order]
            galaxy = images.galaxy[0, order].double()
            galaxy[:, 4:] *= self.pixel_scale
            galaxy[~is_galaxy] = np.nan
            truth['is_galaxy'] = is_galaxy.cpu().numpy()
            add_shape_columns(truth, galaxy.cpu())
        return truth

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
    ) -> SimulatedImages:
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
        images : `SimulatedImages`
            Images and truth, in electrons of one exposure.
        """
        device = self.device if generator is None else generator.device
        full = torch.ones(n_images, device=device)
        fields = Fields(
            psf=self.psf_shape.to(device).expand(n_images, 8) if psf is None else psf,
            background=full * self.background if background is None else background,
            read_noise=full * self.read_noise if read_noise is None else read_noise,
            electrons_per_nmgy=full * self.electrons_per_nmgy,
            dither=full.new_zeros(n_images, 1, 2),
            pixel_scale=self.pixel_scale,
        )
        sources = self._sample_sources(fields, density, flux_min, generator)
        fields.dither = draw_dithers(
            n_images,
            self.n_exposures,
            self.dither,
            generator=generator,
            device=device,
        )
        extended = None
        if self._has_galaxies:
            extended = render_galaxies(
                fields.psf,
                *Sources.galaxies([sources]),
                size=self.camera.shape,
                dither=fields.dither if self.n_exposures > 1 else None,
            )
        return self.camera.observe(
            fields,
            sources,
            stars=sources.stars,
            extended=extended,
            generator=generator,
        )

    def _sample_sources(self, fields, density, flux_min, generator):
        shape, margin = self.camera.shape, self.margin
        if self._has_galaxies:
            _require(
                density is None and flux_min is None,
                'density and flux_min are for a StarPrior, not for a CatalogPrior',
            )
            return draw_catalog(
                self.prior,
                fields,
                shape,
                margin,
                flux_min=self.prior.flux_min * fields.electrons_per_nmgy,
                generator=generator,
            )
        full = torch.ones_like(fields.background)
        return draw_stars(
            self.prior,
            shape,
            margin,
            density=full * self.prior.density if density is None else density,
            flux_min=full * self.prior.flux_min if flux_min is None else flux_min,
            generator=generator,
        )


def _check_arguments(
    *,
    n_exposures,
    noise_order,
    dither,
    read_noise,
    shape,
    margin,
    unit,
    **positive,
):
    """Raise a `ValueError` for an argument that is out of its range."""
    _require(
        int(n_exposures) == n_exposures and n_exposures >= 1,
        f'n_exposures must be a positive integer, got {n_exposures!r}',
    )
    _require(
        noise_order in NOISE_ORDERS,
        f'noise_order must be one of {NOISE_ORDERS}, got {noise_order!r}',
    )
    _require(0 <= dither <= 1, f'dither must lie between 0 and 1 pixel, got {dither}')
    _require(
        np.isfinite(read_noise) and read_noise >= 0,
        f'read_noise must be finite and not negative, got {read_noise}',
    )
    for name, value in positive.items():
        _require(
            np.isfinite(value) and value > 0,
            f'{name} must be positive and finite, got {value}',
        )
    _require(
        len(shape) == 2 and min(shape) >= 1,
        f'shape must be two positive integers (ny, nx), got {shape!r}',
    )
    _require(
        2 * margin < min(shape),
        f'margin {margin} leaves no room for stars in shape {shape}',
    )
    _require(
        unit in (None, 'electron', 'nmgy'),
        f"unit must be 'electron' or 'nmgy', got {unit!r}",
    )


def _require(condition, message):
    if not condition:
        raise ValueError(message)
