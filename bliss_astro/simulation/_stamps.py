# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stream of stamps of single centred galaxies, for the learned galaxy model.
"""

import dataclasses
import math

import torch

from bliss_astro.priors import CatalogPrior, FieldPrior, GalaxyPrior
from bliss_astro.rendering import RenderingAccuracy, render_galaxies
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._draws import log_uniform
from ._images import SimulatedImages
from ._noise import add_noise

__all__ = ['GalaxyStream']

# Smallest flux in nmgy: no fainter galaxy is above the noise.
_FLUX_MIN = 0.5
# Galaxies of the prior that are drawn at once.
_PIECE = 500
# Rounds of the fixed point in `_flux_of_snr`; eight converge to float precision.
_N_ROUNDS = 8


class GalaxyStream:
    """
    Stamps of centred galaxies as seen with any PSF of SDSS.

    Stamps are `SimulatedImages` with one galaxy each, in electrons, and with their
    ``noiseless`` light.

    Parameters
    ----------
    simulation : `~bliss_astro.training.GalaxySimulationConfig`
        Distribution of the galaxies.

    pixel_scale : float, optional
        Side of a pixel in arcsec.

    accuracy : `~bliss_astro.rendering.RenderingAccuracy`, optional
        Accuracy of the rendering; ``RenderingAccuracy.training()`` if `None`.
    """

    def __init__(self, simulation, *, pixel_scale=SDSS_PIXEL_SCALE, accuracy=None):
        self.simulation = simulation
        self.pixel_scale = pixel_scale
        self.accuracy = RenderingAccuracy.training() if accuracy is None else accuracy
        self.field_prior = FieldPrior()
        priors = {'npe': GalaxyPrior(), 'sky': CatalogPrior.sky().galaxies}
        name = simulation.population
        self.priors = list(priors.values()) if name == 'both' else [priors[name]]

    def sample_galaxies(self, n, *, generator):
        """
        Draw fluxes and shapes.

        Parameters
        ----------
        n : int
            Number of galaxies.

        generator : `torch.Generator`
            Source of randomness on the CPU.

        Returns
        -------
        flux : tensor ``(n,)``
            Fluxes in nmgy.

        galaxy : tensor ``(n, 6)``
            Shapes in the order of ``GALAXY_SHAPE_NAMES``, radii in pixels.
        """
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
        return log_uniform(self.simulation.snr, n, generator=generator)

    @torch.no_grad()
    def sample_batch(self, n, *, generator) -> SimulatedImages:
        """
        Draw stamps for training, evenly bright and faint.

        Parameters
        ----------
        n : int
            Number of stamps.

        generator : `torch.Generator`
            Source of randomness on the CPU.
        """
        count = -(-n // self.simulation.n_copies)
        fields = self.field_prior.sample_batch(count, generator=generator)
        _, galaxy = self.sample_galaxies(count, generator=generator)
        light = self._render(fields.psf, torch.ones(count), galaxy)
        again = torch.arange(count).repeat(self.simulation.n_copies)[:n]
        fields = _select(fields, again)
        light, galaxy = light[again], galaxy[again]
        snr = self.sample_snr(n, generator=generator)
        flux = _flux_of_snr(light, fields.background + fields.read_noise**2, snr)
        noiseless = light * flux[:, None, None]
        return self._expose(noiseless, fields, flux, galaxy, generator)

    @torch.no_grad()
    def sample_prior(
        self, n, *, snr_range=(0.0, math.inf), generator
    ) -> SimulatedImages:
        """
        Draw stamps with the fluxes of the prior, most of them faint.

        Parameters
        ----------
        n : int
            Number of stamps.

        snr_range : tuple of float, optional
            Least and largest signal-to-noise ratio; others are drawn again.

        generator : `torch.Generator`
            Source of randomness on the CPU.
        """
        parts, count = [], 0
        while count < n:
            fields = self.field_prior.sample_batch(_PIECE, generator=generator)
            flux, galaxy = self.sample_galaxies(_PIECE, generator=generator)
            flux = flux * fields.electrons_per_nmgy
            if tuple(snr_range) != (0.0, math.inf):
                # A coarse selection first, which keeps a few too many.
                wide = (0.9 * snr_range[0], 1.1 * snr_range[1])
                stamps = self._stamps(
                    fields, flux, galaxy, RenderingAccuracy.training()
                )
                keep = _is_within(stamps.snr, wide)
                fields, flux, galaxy = _select(fields, keep), flux[keep], galaxy[keep]
            stamps = self._stamps(fields, flux, galaxy, self.accuracy)
            keep = _is_within(stamps.snr, snr_range)
            parts.append(
                self._expose(
                    stamps.noiseless[keep],
                    _select(fields, keep),
                    flux[keep],
                    galaxy[keep],
                    generator,
                )
            )
            count += len(parts[-1])
        return SimulatedImages.concatenate(parts).select(slice(0, n))

    def _render(self, psf, flux, galaxy, accuracy=None):
        size = self.simulation.size
        centre = torch.full((len(psf), 1), float(size // 2))
        return render_galaxies(
            psf,
            centre,
            centre,
            flux[:, None],
            galaxy[:, None],
            size=(size, size),
            accuracy=self.accuracy if accuracy is None else accuracy,
        ).clamp_(min=0)

    def _stamps(self, fields, flux, galaxy, accuracy):
        """Stamps without noise, for their signal-to-noise ratios."""
        light = self._render(fields.psf, flux, galaxy, accuracy)
        return self._expose(light, fields, flux, galaxy, None)

    def _expose(self, noiseless, fields, flux, galaxy, generator):
        background, read_noise = fields.background, fields.read_noise
        data = noiseless
        if generator is not None:
            data = add_noise(
                noiseless,
                background[:, None, None],
                read_noise=read_noise[:, None, None],
                generator=generator,
            )
        centre = torch.full((len(data), 1), float(self.simulation.size // 2))
        return SimulatedImages(
            data=data,
            background=background,
            bkg_error=(background + read_noise**2).sqrt(),
            effective_gain=torch.ones_like(background),
            correlation=background.new_zeros(len(data), 2),
            psf=fields.psf,
            mask=torch.zeros_like(data, dtype=torch.bool),
            x=centre,
            y=centre,
            flux=flux[:, None],
            is_galaxy=torch.ones_like(centre, dtype=torch.bool),
            galaxy=galaxy[:, None],
            electrons_per_nmgy=fields.electrons_per_nmgy,
            read_noise=read_noise,
            noiseless=noiseless,
        )


def _select(fields, index):
    return dataclasses.replace(fields, **{k: v[index] for k, v in vars(fields).items()})


def _is_within(values, limits):
    return (values >= limits[0]) & (values < limits[1])


def _flux_of_snr(light, variance, snr):
    """Fluxes ``(B,)`` at which galaxies of unit flux have signal-to-noise ratios."""
    # The fixed point of f = snr / sqrt(sum(u^2 / (f u + v))).
    flux = snr / (light**2).sum((1, 2)).sqrt() * variance.sqrt()
    for _ in range(_N_ROUNDS):
        expected = flux[:, None, None] * light + variance[:, None, None]
        flux = snr / (light**2 / expected).sum((1, 2)).sqrt()
    return flux
