# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sources put into an image, and found again or not.
"""

from dataclasses import dataclass

import numpy as np
import torch

from bliss_astro._random import torch_generator
from bliss_astro._warnings import (
    NoDetectionsWarning,
    OutOfDomainWarning,
    mute_warnings,
)
from bliss_astro.coadds._noise_kernel import correlated_noise, input_kernel
from bliss_astro.detection._detect import detect_sources
from bliss_astro.rendering._scene import ModelRenderer, Sources

__all__ = ['Injector', 'draw_positions', 'galaxy_shapes']

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


@dataclass
class Injector:
    """
    Puts sources into one image and looks for them.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, with its PSF.

    encoder : `~bliss_astro.encoders.Encoder`
        Finds the sources.

    threshold : float
        Smallest probability of a detection.

    reference : `~bliss_astro.catalog.ProbabilisticCatalog`
        What the encoder finds in the image as it is.

    radius : float
        Distance in pixels within which a detection is the source.

    fwhm : float
        Of the PSF in pixels.

    keywords : dict
        For `detect_sources`.
    """

    exposure: object
    encoder: object
    threshold: float
    reference: object
    radius: float
    fwhm: float
    keywords: dict

    def __post_init__(self):
        self.renderer = ModelRenderer(self.exposure)
        self.kernel = np.asarray(input_kernel(self.exposure), dtype=float)
        self._known = Sources.of(self.reference)

    def run(self, sources, rng):
        """
        Put sources in, detect, and match.

        Parameters
        ----------
        sources : `~bliss_astro.rendering._scene.Sources`
            What to put in.

        rng : `numpy.random.Generator`
            For the noise of their photons.

        Returns
        -------
        rows : dict of str to `~numpy.ndarray`
            ``x``, ``y``, ``flux``, ``is_galaxy``, ``found``, ``masked``, ``blended``,
            and what was measured: ``estimate``, ``error``,
            ``galaxy_probability``, ``offset``; NaN where nothing was.
        """
        catalog = self._detect(self._with(sources, rng))
        rows = self._match(sources, catalog)
        rows['masked'] = self.exposure.mask[
            np.clip(np.rint(sources.y).astype(int), 0, self.exposure.shape[0] - 1),
            np.clip(np.rint(sources.x).astype(int), 0, self.exposure.shape[1] - 1),
        ]
        return rows

    def _with(self, sources, rng):
        """The exposure with sources in it, and the noise of their photons."""
        exposure = self.exposure
        signal = self.renderer(sources)
        noise = correlated_noise(exposure.shape, self.kernel, rng)
        noise *= np.sqrt(np.maximum(signal, 0) / exposure.effective_gain)
        return exposure.replace(data=exposure.data + signal + noise)

    def _detect(self, exposure):
        # The image as it is has told already what there is to tell.
        with mute_warnings(NoDetectionsWarning, OutOfDomainWarning):
            return detect_sources(
                exposure,
                self.threshold,
                encoder=self.encoder,
                check=False,
                progress_bar=False,
                **self.keywords,
            )

    def _match(self, sources, catalog):
        n = len(sources)
        rows = {
            'x': sources.x,
            'y': sources.y,
            'flux': sources.flux,
            'is_galaxy': sources.is_galaxy,
            'found': np.zeros(n, dtype=bool),
            'blended': np.zeros(n, dtype=bool),
        }
        for name in ('estimate', 'error', 'galaxy_probability', 'offset'):
            rows[name] = np.full(n, np.nan)
        new = Sources.of(catalog)
        error = np.asarray(getattr(catalog['flux_err'], 'value', catalog['flux_err']))
        share = None
        if 'galaxy_probability' in catalog.colnames:
            share = np.asarray(catalog['galaxy_probability'], dtype=float)
        for k in range(n):
            place = sources.x[k], sources.y[k], sources.flux[k]
            found, rows['blended'][k] = self._find(new, *place)
            if found is None:
                continue
            rows['found'][k] = True
            rows['estimate'][k], rows['error'][k] = new.flux[found], error[found]
            rows['offset'][k] = np.hypot(
                new.x[found] - place[0], new.y[found] - place[1]
            )
            if share is not None:
                rows['galaxy_probability'][k] = share[found]
        return rows

    def _find(self, new, x, y, flux):
        """Row of a source that was put in, or `None`; and whether it is a blend."""
        known = self._known
        apart = np.hypot(known.x - x, known.y - y)
        blended = bool(
            np.any(
                (apart < _BLEND_REACH * self.fwhm) & (known.flux > _BLEND_FLUX * flux)
            )
        )
        before = apart < self.radius
        distance = np.hypot(new.x - x, new.y - y)
        near = np.nonzero(distance < self.radius)[0]
        if len(near) == 0:
            return None, blended
        found = int(near[np.argmin(distance[near])])
        # A source that was there before is no detection of this one, unless
        # there is one more, or most of the light there is this one's.
        if len(near) <= before.sum() and flux <= known.flux[before].sum():
            return None, blended
        return found, blended


def galaxy_shapes(prior, flux_nmgy, pixel_scale, rng):
    """
    Draw shapes of galaxies of given fluxes.

    Parameters
    ----------
    prior : `~bliss_astro.priors.CatalogPrior` or `~bliss_astro.priors.GalaxyPrior`
        How galaxies are.

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
