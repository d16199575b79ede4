# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The prior of single sources, and what the oracle draws galaxies from.
"""

import numpy as np
import torch
from _fields_common import FAINTEST_FLUX
from scipy import special, stats

__all__ = ['Fluxes', 'Proposal', 'Shapes']

_PIXEL = 0.396  # arcsec
_DEGREES = 4.0  # of Student's t


class Shapes:
    """Shapes from five normal scores and an angle in units of pi."""

    def __init__(self, shapes):
        self.shapes = shapes

    def to_galaxy(self, scores):
        """Galaxies ``(n, 6)`` with radii in pixels, from scores ``(n, 6)``."""
        unit = special.ndtr(scores[:, :5]).clip(1e-6, 1 - 1e-6)
        own = self.shapes
        disk, bulge = (
            loc + scale * special.gammaincinv(own.concentration, unit[:, k])
            for k, loc, scale in (
                (3, own.disk_loc, own.disk_scale),
                (4, own.bulge_loc, own.bulge_scale),
            )
        )
        angle = np.pi * (scores[:, 5] % 1)
        columns = [unit[:, 0], angle, unit[:, 1], unit[:, 2], disk, bulge]
        galaxy = np.stack(columns, 1)
        galaxy[:, 4:] /= _PIXEL
        return torch.from_numpy(galaxy).float()

    @staticmethod
    def draw(n, rng):
        scores = rng.normal(size=(n, 6))
        scores[:, 5] = rng.uniform(size=n)
        return scores

    @staticmethod
    def log_density(scores):
        return stats.norm.logpdf(scores[:, :5]).sum(1)


class Fluxes:
    """Truncated Pareto distribution of the flux in nmgy."""

    def __init__(self, counts):
        self.law = stats.truncpareto(
            counts.slope, counts.ratio, loc=counts.loc, scale=counts.scale
        )
        self.low, self.high = self.law.support()

    def log_density(self, flux):
        return self.law.logpdf(flux)

    def draw_bright(self, n, rng):
        """Fluxes above the cut at r = 22."""
        least = self.law.cdf(FAINTEST_FLUX)
        return self.law.ppf(least + (1 - least) * rng.uniform(size=n))

    @property
    def share_bright(self):
        """Share of the sources above the cut."""
        return self.law.sf(FAINTEST_FLUX)


class Proposal:
    """
    Student's t in the scores and the turned angle, mixed with the prior.
    """

    def __init__(self, scores, weights):
        # The angle is measured from its weighted mean direction.
        phase = np.exp(2j * np.pi * scores[:, 5])
        mean = (weights * phase).sum()
        self.turn = np.angle(mean) / (2 * np.pi)
        points = self._turned(scores)
        self.centre = weights @ points
        off = points - self.centre
        covariance = (weights[:, None] * off).T @ off
        covariance = 1.3 * covariance + np.diag([1e-4] * 5 + [1e-5])
        self.factor = np.linalg.cholesky(covariance)
        self.log_norm = np.log(np.diag(self.factor)).sum()

    def _turned(self, scores):
        points = scores.copy()
        points[:, 5] = (scores[:, 5] - self.turn + 0.5) % 1 - 0.5
        return points

    def draw(self, n, rng):
        normal = rng.normal(size=(n, 6)) @ self.factor.T
        scale = np.sqrt(_DEGREES / rng.chisquare(_DEGREES, size=n))
        scores = self.centre + normal * scale[:, None]
        # An angle beyond half a turn is kept within it, and so is its density.
        scores[:, 5] = (scores[:, 5] + 0.5) % 1 - 0.5 + self.turn
        prior = rng.uniform(size=n) < 0.1
        scores[prior] = Shapes.draw(int(prior.sum()), rng)
        return scores

    def log_density(self, scores):
        points = self._turned(scores)
        # The angle is periodic: images one turn off add up.
        total = []
        for shift in (-1.0, 0.0, 1.0):
            moved = points.copy()
            moved[:, 5] += shift
            total.append(self._log_t(moved))
        own = special.logsumexp(total, axis=0)
        parts = [own + np.log(0.9), Shapes.log_density(scores) + np.log(0.1)]
        return special.logsumexp(parts, axis=0)

    def _log_t(self, points):
        z = np.linalg.solve(self.factor, (points - self.centre).T)
        square = (z**2).sum(0)
        d = 6
        constant = special.gammaln((_DEGREES + d) / 2) - special.gammaln(_DEGREES / 2)
        constant -= 0.5 * d * np.log(_DEGREES * np.pi) + self.log_norm
        return constant - 0.5 * (_DEGREES + d) * np.log1p(square / _DEGREES)
