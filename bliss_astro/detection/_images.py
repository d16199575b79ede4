# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Inference: from prepared images of one size to the posteriors of their catalogues.
"""

import dataclasses
import math

import numpy as np
import scipy
import torch

from bliss_astro import catalog
from bliss_astro._arguments import must
from bliss_astro.catalog._candidates import candidates_of, find_candidates
from bliss_astro.encoders import EncoderInputs
from bliss_astro.exposures._psf import central_psf
from bliss_astro.flags import CatalogFlag
from bliss_astro.posteriors import TileGrid

from ._bands import PreparedBands, encoder_inputs_of_bands
from ._domain import band_messages, check_domain, check_fullness, domain_of
from ._estimates import estimate_record
from ._infer import estimate_densities, infer
from ._inputs import block_mean, tile_mean, tile_tensor
from ._prior import check_density, check_flux_min
from ._tiles import (
    TileDensity,
    TilesOfExposure,
    TilesOfFeatures,
    checksum,
    join_pixels,
    set_coarse,
)

# Smallest side in joined pixels of an image that is binned.
_BINNED_MIN = 16
# Side in pixels of the squares, and their share of bad pixels, from which on a band is
# missing in their middle.
_NEAR, _MISSING = 5, 0.5


@dataclasses.dataclass
class ImageInputs:
    """
    A prepared image, in its bands, with the encoder's inputs for it.

    Exposures are those of joined pixels, where there are such; facts are by band; the
    density is that given, or `None`; the source is what computes the posterior over
    tiles anew.
    """

    bands: PreparedBands
    exposures: list
    source: TilesOfExposure
    inputs: EncoderInputs
    floor: np.ndarray
    facts: list
    grid: TileGrid
    density: np.ndarray | None

    @property
    def image(self):
        """The prepared image in the reference band."""
        return self.bands.reference

    @property
    def binning(self):
        """Side in pixels of the squares that were joined."""
        return self.source.binning

    @property
    def kind(self):
        """Images that are alike in this may be computed together."""
        n_bands = self.inputs.image.shape[1]
        return self.grid, self.inputs.normalization_radius, n_bands

    @classmethod
    def of(cls, bands, encoder, options):
        """
        Compute the inputs of `PreparedBands`.

        Options that are read are ``density``, ``flux_min``, ``population`` and ``bin``.
        """
        whole = bands.reference.exposure
        flux_min = check_flux_min(options.flux_min, whole)
        by_tile = isinstance(options.density, TileDensity)
        density = None if by_tile else check_density(options.density, whole)
        binning = _choose_binning(options.bin, whole, encoder)
        exposures = join_pixels(bands.exposures, binning)
        prior = {'flux_min': flux_min, 'population': options.population}
        inputs, floor, facts, grid = encoder_inputs_of_bands(
            [*exposures, *bands.missing], encoder, **prior
        )
        if density is not None:
            density = tile_mean(block_mean(density, binning) * binning**2, grid)
        density = options.density.values if by_tile else density
        # Now: a user's array may be used again for the next image.
        source = TilesOfExposure(encoder, checksum(*bands.exposures), binning, **prior)
        return cls(bands, exposures, source, inputs, floor, facts, grid, density)

    def check(self, density):
        """Set the density; flags by tile, and texts of what is unlike the training."""
        encoder, flags, by_band = self.source.encoder, 0, []
        self.facts[0]['density'] = density
        for facts, image, own in zip(
            self.facts, self.bands.images, self.exposures, strict=True
        ):
            some, messages = check_domain(encoder, facts)
            # A PSF that is in doubt may be that of a galaxy, which fewer pixels do not
            # mend.
            if messages and not image.psf_messages:
                messages[0] += _binning_advice(own, encoder, self.binning)
            messages = messages + image.psf_messages
            by_band.append(messages + band_messages(own.band, encoder))
            flags = flags | some
        by_band += [band_messages(band, encoder) for band in self.bands.missing]
        # Maps that are needed no more.
        self.facts = None
        log_density = np.log(density.clip(1e-7, domain_of(encoder).density[1]))
        self.inputs.log_density = tile_tensor(log_density, encoder.device)
        return flags, self.bands.messages(by_band)

    def posterior(self, tiles, density, flags, messages):
        """`CatalogPosterior` of the image from that of its tiles."""
        whole, binning, encoder = self.image.exposure, self.binning, self.source.encoder
        cosmic_rays = self.image.cosmic_rays
        if binning > 1:
            cosmic_rays = block_mean(cosmic_rays, binning) > 0
        meta = {
            'encoder': encoder.name,
            'encoder_sha256': encoder.card.get('sha256', ''),
            'estimated': self._record(density / binning**2),
            'density': float(np.mean(density)) / binning**2,
            'flux_min': float(np.median(self.floor)),
        }
        optional = {
            'warnings': messages,
            'psf_comparison': self.image.psf_comparison,
            'binning': binning if binning > 1 else None,
        }
        return catalog.CatalogPosterior(
            tiles,
            self.floor,
            unit=whole.unit,
            wcs=whole.wcs,
            flags=_pixel_flags(self.exposures, self.grid, flags, cosmic_rays),
            meta=meta | self.bands.meta() | {k: v for k, v in optional.items() if v},
            exposure=self.bands.image,
            binning=binning,
            image_shape=whole.shape,
        )

    def _record(self, density):
        """Record of the numbers of all bands, other than the reference with a name."""
        own = {} if self.density is not None else {'density': 'first pass'}
        images = self.bands.images
        record = estimate_record(
            images[0].exposure, images[0].sources | own, density=density
        )
        for image in images[1:]:
            found = estimate_record(image.exposure, image.sources)
            band = image.exposure.band
            record |= {f'{name}_{band}': entry for name, entry in found.items()}
        return record


def infer_posteriors(images, *, least, keep):
    """
    Compute the `CatalogPosterior` of each of a list of `ImageInputs` of one kind.

    Candidates down to the probability ``least``, if any, are found for all of them at
    once; of the posterior over tiles is kept what the option ``keep`` says.
    """
    grid, encoder = images[0].grid, images[0].source.encoder
    densities, stems = _densities(images, encoder, grid)
    checks = [i.check(density) for i, density in zip(images, densities, strict=True)]
    # Features that are kept are those that all is computed from.
    dtype = torch.float16 if keep == 'posterior' else torch.float32
    together = infer(encoder, _joined(images), grid, dtype=dtype, stems=stems)
    for image in images:
        # The posterior has them.
        image.inputs = None
    posteriors, refined = [], []
    for k, image in enumerate(images):
        flags, messages = checks[k]
        full, message, mostly = check_fullness(encoder, together, k)
        if message is not None and not np.any(flags & full):
            messages.append(message)
        tiles = together if len(images) == 1 else together.select([k])
        # Nothing that is mostly full is worth the time of all that is refined.
        set_coarse(tiles, mostly)
        own = densities[k], flags | full, messages
        posteriors.append(image.posterior(tiles, *own))
        if not mostly:
            refined.append(k)
    if refined and least is not None:
        some = together if len(refined) == len(images) else together.select(refined)
        find_candidates([posteriors[k] for k in refined], some, least)
    for image, posterior in zip(images, posteriors, strict=True):
        if least is not None:
            candidates_of(posterior, least)
        tiles = posterior.tile_posterior
        source = dataclasses.replace(image.source, coarse=tiles.coarse)
        if keep == 'posterior':
            source = TilesOfFeatures.of(encoder, tiles)
        posterior.kept.drop(source)
    return posteriors


def _joined(images):
    parts = [image.inputs for image in images]
    size = images[0].grid.size
    return EncoderInputs.concatenate(parts, tile_size=size) if parts[1:] else parts[0]


def _densities(images, encoder, grid):
    """Densities that are given, or else of a first pass, and stems of that."""
    blind, stems = [image for image in images if image.density is None], {}
    if not blind:
        return [image.density for image in images], None
    found = iter(estimate_densities(encoder, _joined(blind), grid, stems=stems))
    found = [next(found) if own.density is None else own.density for own in images]
    return found, stems if stems and len(blind) == len(images) else None


def _choose_binning(value, exposure, encoder):
    """The number of pixels to join along each side that an argument stands for."""
    if value is None:
        return 1
    if isinstance(value, str) and value == 'auto':
        return _proposed_binning(exposure, encoder)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(must('bin', "be a positive integer or 'auto'", f'{value!r}'))
    most = max(min(exposure.shape) // _BINNED_MIN, 1)
    if not 1 <= value <= most:
        raise ValueError(must('bin', f'be from 1 to {most} for this image', value))
    return int(value)


def _proposed_binning(exposure, encoder):
    """Pixels to join so that the PSF is within the domain; 1 if it is."""
    fwhm = domain_of(encoder).fwhm
    if fwhm is None:
        return 1
    number = math.ceil(central_psf(exposure).fwhm / fwhm[1])
    return max(1, min(number, min(exposure.shape) // _BINNED_MIN))


def _binning_advice(exposure, encoder, binning):
    n = _proposed_binning(exposure, encoder)
    if n == 1:
        return ''
    pixels = f'{n * binning} x {n * binning} pixels'
    return f". The PSF is broader than those of the training: bin='auto' joins {pixels}"


def _pixel_flags(exposures, grid, by_tile, cosmic_rays):
    """Flags of a source at each pixel, int array ``(ny, nx)``."""
    exposure, *others = exposures
    ny, nx = exposure.shape
    size = grid.size
    by_tile = np.broadcast_to(by_tile, grid.shape).astype(np.int16)
    flags = by_tile.repeat(size, 0).repeat(size, 1)[:ny, :nx]
    for pixels, reach, flag in (
        (exposure.mask, 2, CatalogFlag.NEAR_MASKED),
        (exposure.saturated, 4, CatalogFlag.SATURATED),
        (cosmic_rays, 2, CatalogFlag.COSMIC_RAY),
    ):
        if pixels.any():
            flags[scipy.ndimage.binary_dilation(pixels, iterations=reach)] |= int(flag)
    for own in exposures if others else ():
        if own.mask.any():
            share = scipy.ndimage.uniform_filter(own.mask.astype(np.float32), _NEAR)
            flags[share > _MISSING] |= int(CatalogFlag.MISSING_BAND)
    for edge in (flags[:size], flags[-size:], flags[:, :size], flags[:, -size:]):
        edge |= int(CatalogFlag.NEAR_EDGE)
    flags[ny - ny % size :] |= int(CatalogFlag.PADDED)
    flags[:, nx - nx % size :] |= int(CatalogFlag.PADDED)
    return flags
