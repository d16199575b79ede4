# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
How the sky is seen: seeing and background.
"""

import dataclasses
import math

import torch

__all__ = ['SeeingPrior']


@dataclasses.dataclass(frozen=True)
class SeeingPrior:
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

        def normal(*shape):
            return torch.randn(*shape, generator=generator, device=device)

        def uniform(low, high):
            unit = torch.rand(n, generator=generator, device=device)
            return low + (high - low) * unit

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
        return torch.stack(
            [
                s1,
                s1 * log_ratio.exp(),
                log_b.exp(),
                s1 * log_ratio_p.exp(),
                log_p0.exp(),
                beta,
                e[0],
                e[1],
            ],
            -1,
        )
