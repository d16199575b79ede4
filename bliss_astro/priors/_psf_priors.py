# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Priors of the PSF: the seeing of SDSS, and any telescope.
"""

import dataclasses
import math

import torch

from bliss_astro.psf._mixture import scale_to_fwhm


class _PSFPrior:
    """Base class of priors of PSFs, which draw tensors of shapes."""

    def sample_batch(
        self,
        n: int,
        *,
        inclined: bool = True,
        generator: torch.Generator | None = None,
        device='cpu',
    ) -> torch.Tensor:
        """
        Draw PSF shapes.

        Parameters
        ----------
        n : int
            How many.

        inclined : bool, optional
            If `False`, ``e2`` is zero, which renders several times faster.

        generator : `torch.Generator`, optional
            On ``device``.

        device : str or `torch.device`, optional
            Where to draw.

        Returns
        -------
        shape : tensor ``(n, 8)``
            In the order of ``SHAPE_NAMES``.
        """
        return self._draw(n, inclined, generator=generator, device=device)


@dataclasses.dataclass(frozen=True)
class SeeingPrior(_PSFPrior):
    """
    Distribution of the PSFs of SDSS in the r band.

    The seeing is log-normal and truncated; the other parameters follow it as
    they do in the good fields of SDSS (photoField tables of runs 94, 2583
    and 3900: 1,190 fields), with their scatter widened to cover the 102 runs
    of other headers, whose seeing runs from 0.74 to 2.35 arcsec with
    a median of 1.18.

    Parameters
    ----------
    median_sigma : float
        Median width ``sigma1`` of the core in pixels (1.24 px of 0.396
        arcsec is a FWHM of 1.18 arcsec with the wings).

    scatter : float
        Standard deviation of ``log(sigma1)``.

    sigma_range : tuple of float
        Truncation of ``sigma1`` in pixels.

    ellipticity : float
        Standard deviation of e1 and of e2 (truncated at 0.12).
    """

    median_sigma: float = 1.30
    scatter: float = 0.25
    sigma_range: tuple[float, float] = (0.75, 2.6)
    ellipticity: float = 0.025

    def _draw(self, n, inclined, **on):
        def normal(*shape):
            return torch.randn(*shape, **on)

        def uniform(low, high):
            return low + (high - low) * torch.rand(n, **on)

        low, high = (
            (math.log(s) - math.log(self.median_sigma)) / self.scatter
            for s in self.sigma_range
        )
        # Inverse of the truncated normal's distribution function.
        cdf = [0.5 * (1 + math.erf(v / math.sqrt(2))) for v in (low, high)]
        z = torch.special.ndtri(uniform(cdf[0], cdf[1]).clamp(1e-6, 1 - 1e-6))
        log_s1 = math.log(self.median_sigma) + self.scatter * z
        # Fits to the 1,190 good fields; scatter about twice theirs.
        delta = log_s1 - 0.307
        log_ratio = (0.824 - 0.5 * delta + 0.10 * normal(n)).clamp(0.45, 1.25)
        log_b = (-3.2 + 1.0 * delta + 0.6 * normal(n)).clamp(-5.3, -1.2)
        log_ratio_p = (0.578 + 0.15 * normal(n)).clamp(0.1, 1.1)
        log_p0 = (-4.7 + 0.4 * normal(n)).clamp(-6.9, -3.2)
        beta = uniform(2.85, 3.6)
        e = (self.ellipticity * normal(2, n)).clamp(-0.12, 0.12)
        e[1] *= inclined
        s1 = log_s1.exp()
        parts = [s1, s1 * log_ratio.exp(), log_b.exp(), s1 * log_ratio_p.exp()]
        return torch.stack([*parts, log_p0.exp(), beta, *e], -1)


@dataclasses.dataclass(frozen=True)
class TelescopePrior(_PSFPrior):
    """
    Distribution of the PSFs of any telescope and camera.

    One in three has the wings of SDSS, of whatever width; the others are Gaussians,
    Moffat profiles of index 1.9 to 20, and a core with a second Gaussian and faint
    power-law wings, as diffraction and scattered light give.

    Parameters
    ----------
    fwhm : tuple of float
        Range of the full width at half maximum in pixels, log-uniform.

    ellipticity : float
        Largest ellipticity; most PSFs are rounder than a fifth of it.
    """

    fwhm: tuple[float, float] = (1.2, 7.0)
    ellipticity: float = 0.25

    def _draw(self, n, inclined, **on):
        sdss = SeeingPrior().sample_batch(n, inclined=inclined, **on)
        unit = torch.rand(10, n, **on)

        def between(low, high, u):
            return low * (high / low) ** u

        one, zero = torch.ones_like(unit[0]), torch.zeros_like(unit[0])
        gaussian = [one, 2 * one, zero, one, zero, 4 * one]
        # A power law far above the core is a Moffat profile of half its index.
        index = between(1.9, 20.0, unit[1])
        moffat = [one, 2 * one, zero, one, 1e3 * one, 2 * index]
        wide = (between(1.5, 3.5, unit[2]), between(0.01, 0.3, unit[3]))
        wings = (between(1.0, 3.0, unit[4]), 0.03 * unit[5] ** 2, 2.9 + 1.3 * unit[6])
        double = [one, *wide, *wings]
        kinds = [sdss[:, :6]]
        kinds += [torch.stack(kind, -1) for kind in (gaussian, moffat, double)]
        choice = torch.bucketize(unit[0], unit.new_tensor([0.35, 0.50, 0.80]))
        profile = torch.stack(kinds, 1)[torch.arange(n, device=unit.device), choice]
        size = self.ellipticity * unit[7] ** 3
        angle = 2 * math.pi * unit[8]
        e = [size * torch.cos(angle), size * torch.sin(angle)]
        if not inclined:
            e = [size * torch.sign(e[0]), zero]
        shape = torch.cat([profile, torch.stack(e, -1)], -1)
        return scale_to_fwhm(shape, between(*self.fwhm, unit[9]))
