# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The endless stream of centred single galaxies.
"""

import dataclasses
import math

import torch

from bliss_astro.priors import CatalogPrior, FieldPrior, GalaxyPrior
from bliss_astro.rendering import RenderingAccuracy, render_galaxies

__all__ = ['GalaxyBatch', 'GalaxyStream']

# Galaxies this faint, in nmgy, do not matter: none of them is above the noise.
_FAINTEST = 0.5

# Galaxies of the prior that are drawn at once.
_PIECE = 500


@dataclasses.dataclass(frozen=True, eq=False)
class GalaxyBatch:
    """
    B stamps of one centred galaxy each, with their truth.

    Attributes
    ----------
    data : tensor ``(B, ny, nx)``
        Electrons, with the background in them.

    noiseless : tensor ``(B, ny, nx)``
        The galaxy alone.

    psf : tensor ``(B, 8)``
        PSF of each stamp.

    background, read_noise : tensor ``(B,)``
        Sky in electrons per pixel; noise without light in electrons.

    flux : tensor ``(B,)``
        In electrons.

    galaxy : tensor ``(B, 6)``
        Shapes, see ``GALAXY_SHAPE_NAMES``; radii in pixels.

    snr : tensor ``(B,)``
        ``sqrt(sum(s^2 / (s + b)))`` of the noiseless galaxy s on the stamp, where
        b is the background with the square of the read noise.
    """

    data: torch.Tensor
    noiseless: torch.Tensor
    psf: torch.Tensor
    background: torch.Tensor
    read_noise: torch.Tensor
    flux: torch.Tensor
    galaxy: torch.Tensor
    snr: torch.Tensor

    def __len__(self):
        return len(self.data)

    @property
    def variance(self):
        """Variance ``(B,)`` of a pixel without galaxy."""
        return self.background + self.read_noise**2

    @classmethod
    def concatenate(cls, parts):
        """
        Join batches of stamps of one size.

        Parameters
        ----------
        parts : list of `GalaxyBatch`
            The batches.

        Returns
        -------
        batch : `GalaxyBatch`
            All of them.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(**{k: torch.cat([getattr(p, k) for p in parts]) for k in names})

    def select(self, chosen):
        """
        Keep some of the stamps.

        Parameters
        ----------
        chosen : tensor
            Indices or a boolean mask.

        Returns
        -------
        batch : `GalaxyBatch`
            Of these.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return GalaxyBatch(**{name: value[chosen] for name, value in values.items()})


def snr_of(noiseless, variance):
    """
    Signal-to-noise ratios ``(B,)`` of noiseless stamps.
    """
    signal = noiseless.clamp(min=0)
    return (signal**2 / (signal + variance[:, None, None])).sum((1, 2)).sqrt()


class GalaxyStream:
    """
    Draws centred galaxies as any PSF of SDSS sees them.

    Parameters
    ----------
    simulation : `GalaxySimulationConfig`
        What is drawn.

    pixel_scale : float, optional
        In arcsec.

    accuracy : `~bliss_astro.rendering.RenderingAccuracy`, optional
        Of the drawing; ``RenderingAccuracy.training()`` if `None`.
    """

    def __init__(self, simulation, *, pixel_scale=0.396, accuracy=None):
        self.simulation = simulation
        self.pixel_scale = pixel_scale
        self.accuracy = RenderingAccuracy.training() if accuracy is None else accuracy
        self.field_prior = FieldPrior()
        priors = {'npe': GalaxyPrior(), 'sky': CatalogPrior.sky().galaxies}
        names = ('npe', 'sky')
        if simulation.population != 'both':
            names = (simulation.population,)
        self.priors = [priors[name] for name in names]

    def draw_galaxies(self, n, *, generator):
        """
        Draw fluxes and shapes.

        Parameters
        ----------
        n : int
            How many.

        generator : `torch.Generator`
            On the CPU.

        Returns
        -------
        flux : tensor ``(n,)``
            In nmgy.

        galaxy : tensor ``(n, 6)``
            Shapes, radii in pixels.
        """
        parts, left = [], n
        for k, prior in enumerate(self.priors):
            count = left // (len(self.priors) - k)
            left -= count
            parts.append(
                prior.sample_batch((count,), flux_min=_FAINTEST, generator=generator)
            )
        flux, galaxy = (torch.cat(values) for values in zip(*parts, strict=True))
        scale = torch.ones(6)
        scale[4:] = 1 / self.pixel_scale
        return flux, galaxy * scale

    def draw_snr(self, n, *, generator):
        """
        Draw signal-to-noise ratios, uniform in the logarithm.

        Parameters
        ----------
        n : int
            How many.

        generator : `torch.Generator`
            On the CPU.

        Returns
        -------
        snr : tensor ``(n,)``
            The ratios.
        """
        low, high = (math.log(value) for value in self.simulation.snr)
        return torch.exp(low + (high - low) * torch.rand(n, generator=generator))

    def _stamps(self, psf, flux, galaxy, accuracy=None):
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

    def _observed(self, noiseless, fields, flux, galaxy, generator):
        variance = fields.background + fields.read_noise**2
        expected = noiseless + variance[:, None, None]
        noise = torch.randn(expected.shape, generator=generator)
        data = noiseless + fields.background[:, None, None] + noise * expected.sqrt()
        return GalaxyBatch(
            data=data,
            noiseless=noiseless,
            psf=fields.psf,
            background=fields.background,
            read_noise=fields.read_noise,
            flux=flux,
            galaxy=galaxy,
            snr=snr_of(noiseless, variance),
        )

    @torch.no_grad()
    def draw(self, n, *, generator):
        """
        Draw a batch for training, evenly bright and faint.

        Parameters
        ----------
        n : int
            How many stamps.

        generator : `torch.Generator`
            On the CPU.

        Returns
        -------
        batch : `GalaxyBatch`
            The stamps.
        """
        copies = self.simulation.n_copies
        count = -(-n // copies)
        fields = self.field_prior.sample_batch(count, generator=generator)
        _, galaxy = self.draw_galaxies(count, generator=generator)
        unit = self._stamps(fields.psf, torch.ones(count), galaxy)
        again = torch.arange(count).repeat(copies)[:n]
        fields = type(fields)(*(v[again] for v in vars(fields).values()))
        unit, galaxy = unit[again], galaxy[again]
        snr = self.draw_snr(n, generator=generator)
        flux = _flux_of_snr(unit, fields.background + fields.read_noise**2, snr)
        noiseless = unit * flux[:, None, None]
        return self._observed(noiseless, fields, flux, galaxy, generator)

    @torch.no_grad()
    def draw_prior(self, n, *, snr_range=(0.0, math.inf), generator):
        """
        Draw a batch with the fluxes of the prior.

        Parameters
        ----------
        n : int
            How many stamps.

        snr_range : tuple of float, optional
            Least and largest signal-to-noise ratio; others are drawn again.

        generator : `torch.Generator`
            On the CPU.

        Returns
        -------
        batch : `GalaxyBatch`
            The stamps; by the prior most galaxies are faint.
        """
        parts, count = [], 0
        while count < n:
            fields = self.field_prior.sample_batch(_PIECE, generator=generator)
            flux, galaxy = self.draw_galaxies(_PIECE, generator=generator)
            flux = flux * fields.electrons_per_nmgy
            batch = self._seen(fields, flux, galaxy, generator, snr_range)
            parts.append(batch)
            count += len(batch)
        return GalaxyBatch.concatenate(parts).select(slice(0, n))

    def _seen(self, fields, flux, galaxy, generator, snr_range):
        """The galaxies within a range of signal-to-noise ratios."""
        variance = fields.background + fields.read_noise**2

        def drawn(keep, accuracy):
            unit = self._stamps(fields.psf[keep], flux[keep], galaxy[keep], accuracy)
            snr = snr_of(unit, variance[keep])
            return unit, (snr >= snr_range[0]) & (snr < snr_range[1])

        keep = torch.arange(len(flux))
        if tuple(snr_range) != (0.0, math.inf):
            # A coarse look first, which keeps a few too many.
            low, high = 0.9 * snr_range[0], 1.1 * snr_range[1]
            unit = self._stamps(fields.psf, flux, galaxy, RenderingAccuracy.training())
            snr = snr_of(unit, variance)
            keep = torch.nonzero((snr >= low) & (snr < high))[:, 0]
        noiseless, good = drawn(keep, self.accuracy)
        keep = keep[good]
        fields = type(fields)(*(v[keep] for v in vars(fields).values()))
        return self._observed(
            noiseless[good], fields, flux[keep], galaxy[keep], generator
        )


def _flux_of_snr(unit, variance, snr):
    """
    Fluxes at which galaxies have signal-to-noise ratios.
    """
    # Few rounds of the fixed point f = snr / sqrt(sum(u^2 / (f u + v))).
    flux = snr / (unit**2).sum((1, 2)).sqrt() * variance.sqrt()
    for _ in range(8):
        expected = flux[:, None, None] * unit + variance[:, None, None]
        flux = snr / (unit**2 / expected).sum((1, 2)).sqrt()
    return flux
