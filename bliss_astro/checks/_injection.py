# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Injection of sources into an image, and their detection.
"""

import dataclasses

import numpy as np
import torch

from bliss_astro._random import torch_generator
from bliss_astro._warnings import (
    NoDetectionsWarning,
    OutOfDomainWarning,
    mute_warnings,
)
from bliss_astro.coadds._noise import correlated_noise, input_kernel
from bliss_astro.detection._detect import IMAGE_OPTIONS, detect
from bliss_astro.exposures._psf import central_psf
from bliss_astro.rendering._scene import ModelRenderer, Sources

__all__ = [
    'Injector',
    'draw_positions',
    'galaxy_shapes',
]

# Sources of the image within this many FWHM, with this share of the flux, make
# a place a blend.
_BLEND_REACH, _BLEND_FLUX = 1.5, 0.1


def draw_positions(shape, spacing, n_most, rng):
    """
    Draw places that are apart, all together uniform over an image.

    Parameters
    ----------
    shape : tuple of int
        ``(ny, nx)`` of the image.

    spacing : float
        Side in pixels of the cells of a grid that holds one place each; no two
        are closer than half of it.

    n_most : int
        Largest number of places.

    rng : `numpy.random.Generator`
        Source of randomness.

    Returns
    -------
    x, y : float `~numpy.ndarray`
        Pixels; in no order.
    """
    ny, nx = shape
    # The grid lies anywhere, so that no pixel is preferred.
    origin = rng.uniform(-spacing, 0, 2) - 0.5
    n_columns, n_rows = (int(n // spacing) + 2 for n in (nx, ny))
    column, row = (g.ravel() for g in np.meshgrid(range(n_columns), range(n_rows)))
    inner = rng.uniform(0.25, 0.75, (2, len(row)))
    x = origin[0] + (column + inner[0]) * spacing
    y = origin[1] + (row + inner[1]) * spacing
    inside = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    chosen = rng.permutation(np.nonzero(inside)[0])[:n_most]
    return x[chosen], y[chosen]


class Injector:
    """
    Injection of sources into one image, and their detection.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, with its PSF.

    encoder : `~bliss_astro.encoders.Encoder`
        The encoder.

    options : `~bliss_astro.detection._detect.DetectionOptions`
        Options of the detection; those that describe the image are not read.

    radius : float or None
        Distance in pixels within which a detection is the source; by default half
        the FWHM of the PSF.
    """

    def __init__(self, exposure, encoder, options, radius):
        self.exposure = exposure
        self.fwhm = float(central_psf(exposure).fwhm)
        self.radius = 0.5 * self.fwhm if radius is None else radius
        self.renderer = ModelRenderer(exposure)
        self.kernel = np.asarray(input_kernel(exposure), dtype=float)
        # The exposure holds all that describes it.
        own = {'encoder': encoder, 'device': encoder.device}
        options = dataclasses.replace(options, **dict.fromkeys(IMAGE_OPTIONS), **own)
        reference = detect(exposure, options)
        self.known = Sources.of(reference)
        # All images have the prior of the first: what is injected is no part of it.
        self.options = dataclasses.replace(
            options,
            density=_density_of(reference.posterior, exposure.shape),
            check=False,
            progress_bar=False,
        )

    def run(self, sources, rng):
        """
        Inject sources, detect, and match.

        Parameters
        ----------
        sources : `~bliss_astro.rendering._scene.Sources`
            Sources to inject.

        rng : `numpy.random.Generator`
            For the noise of their photons.

        Returns
        -------
        rows : dict of str to `~numpy.ndarray`
            ``x``, ``y``, ``flux``, ``is_galaxy``, ``found``, ``masked``, ``blended``,
            and what was measured: ``estimate``, ``error``,
            ``galaxy_probability``, ``offset``; NaN where nothing was.
        """
        signal = self.renderer(sources)
        noise = correlated_noise(self.exposure.shape, self.kernel, rng)
        noise *= np.sqrt(np.maximum(signal, 0) / self.exposure.effective_gain)
        image = self.exposure.replace(data=self.exposure.data + signal + noise)
        # The image as it is has warned of all that there is to warn of.
        with mute_warnings(NoDetectionsWarning, OutOfDomainWarning):
            catalog = detect(image, self.options)
        rows = self._match(sources, catalog)
        rows['masked'] = self.exposure.mask[
            tuple(
                np.clip(np.rint(place).astype(int), 0, n - 1)
                for place, n in zip(
                    (sources.y, sources.x), self.exposure.shape, strict=True
                )
            )
        ]
        return rows

    def _match(self, sources, catalog):
        n, new = len(sources), Sources.of(catalog)
        matches = [
            self._find(new, *source)
            for source in zip(sources.x, sources.y, sources.flux, strict=True)
        ]
        row = np.array([match[0] for match in matches], dtype=int)
        found = row >= 0

        def measured(values):
            out = np.full(n, np.nan)
            out[found] = np.asarray(getattr(values, 'value', values), float)[row[found]]
            return out

        share = np.full(len(catalog), np.nan)
        if 'galaxy_probability' in catalog.colnames:
            share = catalog['galaxy_probability']
        x, y = measured(new.x), measured(new.y)
        return {
            'x': sources.x,
            'y': sources.y,
            'flux': sources.flux,
            'is_galaxy': sources.is_galaxy,
            'found': found,
            'blended': np.array([match[1] for match in matches], dtype=bool),
            'estimate': measured(new.flux),
            'error': measured(catalog['flux_err']),
            'galaxy_probability': measured(share),
            'offset': np.hypot(x - sources.x, y - sources.y),
        }

    def _find(self, new, x, y, flux):
        """Row of an injected source, or -1; and whether it is a blend."""
        known = self.known
        apart = np.hypot(known.x - x, known.y - y)
        bright = known.flux > _BLEND_FLUX * flux
        blended = np.any((apart < _BLEND_REACH * self.fwhm) & bright)
        before = apart < self.radius
        distance = np.hypot(new.x - x, new.y - y)
        n_near = np.count_nonzero(distance < self.radius)
        # A source that was there before is no detection of this one, unless
        # there is one more, or most of the light there is this one's.
        old = n_near <= before.sum() and flux <= known.flux[before].sum()
        return -1 if n_near == 0 or old else int(np.argmin(distance)), blended


def _density_of(posterior, shape):
    """Prior density of a posterior, a number or a map by pixel."""
    tiles = posterior.tile_posterior
    density = np.exp(tiles.inputs.log_density[0, 0].double().cpu().numpy())
    if density.size == 1:
        return float(density[0, 0])
    size = tiles.grid.size
    return density.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]]


def galaxy_shapes(prior, flux_nmgy, pixel_scale, rng):
    """
    Draw shapes of galaxies of given fluxes.

    Parameters
    ----------
    prior : `~bliss_astro.priors.CatalogPrior` or `~bliss_astro.priors.GalaxyPrior`
        Prior of galaxies.

    flux_nmgy : float `~numpy.ndarray`, shape (N,)
        Their fluxes.

    pixel_scale : float
        Side of a pixel in arcsec.

    rng : `numpy.random.Generator`
        Source of randomness.

    Returns
    -------
    galaxy : float `~numpy.ndarray`, shape (N, 6)
        In the order of ``GALAXY_SHAPE_NAMES``, radii in pixels.
    """
    galaxies = getattr(prior, 'galaxies', prior)
    flux = torch.from_numpy(np.asarray(flux_nmgy, dtype=np.float32))
    drawn = galaxies.shapes.sample_batch(flux, generator=torch_generator(rng))
    galaxy = drawn.double().numpy()
    galaxy[:, 4:] /= pixel_scale
    return galaxy
