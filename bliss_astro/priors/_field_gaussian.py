# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fields as a distribution: a multivariate normal one of logarithms.
"""

import dataclasses
import math

import numpy as np
import torch

from bliss_astro.psf._mixture import fwhm_of_shape, raw_profile

from ._counts import check_tuples

__all__ = ['GaussianFields']

VARIABLES = (
    'log(sigma1)',
    'log(sigma2/sigma1)',
    'log(b)',
    'log(sigmap/sigma1)',
    'log(p0)',
    'log(beta-2)',
    'log(background)',
    'log(electrons_per_nmgy)',
    'log(read_noise)',
)

# The two-sided truncation of e1 and of e2.
ELLIPTICITY_MAX = 0.12

# Full widths at half maximum from 0.7 to 2.5 arcsec, in pixels of 0.396.
_FWHM_RANGE = (0.7 / 0.396, 2.5 / 0.396)

# Of this many candidates the first valid one is taken: no draw has to wait
# for a look at the others. With 9 in 10 valid, all fail once in 1e8.
_N_CANDIDATES = 8

# Truncation in standard deviations.
_N_SIGMA = 3.5

# log(sigma2 / sigma1) is kept above this, so that the second is the wider.
_LEAST_RATIO = 0.05


@dataclasses.dataclass(frozen=True)
class GaussianFields:
    """
    A truncated multivariate normal distribution of nine logarithms.

    They are those of sigma1, sigma2/sigma1, b, sigmap/sigma1, p0, beta - 2,
    background, electrons per nmgy and read noise, with lengths in pixels.
    Truncated are each of them, and the full width at half maximum.

    Parameters
    ----------
    mean, low, high : tuple of float
        Mean and truncation of the nine.

    covariance : tuple of tuple of float
        Their covariance before truncation.

    ellipticity : float
        Standard deviation of e1 and of e2, truncated at 0.12.

    fwhm_range : tuple of float
        Truncation of the full width at half maximum in pixels.
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    ellipticity: float = 0.025
    fwhm_range: tuple[float, float] = _FWHM_RANGE

    def __post_init__(self):
        n = len(VARIABLES)
        check_tuples(self, ('mean', 'low', 'high'), length=n)
        check_tuples(self, ('fwhm_range',), length=2)
        cov = np.array(self.covariance, dtype=float)
        if cov.shape != (n, n) or not np.allclose(cov, cov.T):
            msg = f'covariance must be a symmetric {n} x {n} matrix, got {cov.shape}'
            raise ValueError(msg)
        if not np.linalg.eigvalsh(cov).min() > 0:
            msg = 'covariance must be positive definite'
            raise ValueError(msg)
        object.__setattr__(self, 'covariance', tuple(map(tuple, cov.tolist())))
        for name, low, mean, high in zip(
            VARIABLES, self.low, self.mean, self.high, strict=True
        ):
            if not low < mean < high:
                msg = f'low < mean < high must hold for {name}: {low}, {mean}, {high}'
                raise ValueError(msg)
        if not self.low[1] > 0:
            msg = f'low of log(sigma2/sigma1) must be positive, got {self.low[1]}'
            raise ValueError(msg)
        if not 0 <= self.ellipticity <= ELLIPTICITY_MAX:
            msg = (
                f'ellipticity must lie in [0, {ELLIPTICITY_MAX}], got '
                f'{self.ellipticity}'
            )
            raise ValueError(msg)
        logs, *_, low, high = self._constants(torch.device('cpu'))
        first, last = self.fwhm_range
        if not (0 < first < last and self._valid(logs, low, high)):
            msg = (
                'fwhm_range must be positive, increase, and hold the PSF of the mean, '
                f'got {self.fwhm_range}'
            )
            raise ValueError(msg)

    def _constants(self, device):
        """Mean, factor of the covariance and bounds on a device."""
        cache = self.__dict__.setdefault('_on', {})
        if device not in cache:
            factor = np.linalg.cholesky(np.array(self.covariance))
            cache[device] = [
                torch.as_tensor(np.array(v), dtype=torch.float32, device=device)
                for v in (self.mean, factor, self.low, self.high)
            ]
        return cache[device]

    def _valid(self, logs, low, high):
        """Whether candidates ``(..., 9)`` lie within the bounds."""
        inside = ((logs > low) & (logs < high)).all(-1)
        s1, ratio, b, spr, p0, beta = logs[..., :6].exp().unbind(-1)
        shape = torch.stack([s1, s1 * ratio, b, s1 * spr, p0, 2 + beta], -1)
        for k, fwhm in enumerate(self.fwhm_range):
            # The profile falls outwards: it is above half its peak at a
            # radius if and only if its FWHM is more than twice that.
            wider = raw_profile(shape, (0.5 * fwhm) ** 2) > 0.5 * (1 + b + p0)
            inside &= wider if k == 0 else ~wider
        return inside

    def sample_batch(self, n, *, generator=None, device='cpu'):
        """
        Draw fields.

        Parameters
        ----------
        n : int
            How many.

        generator : `torch.Generator`, optional
            On ``device``.

        device : str or `torch.device`, optional
            Where to draw.

        Returns
        -------
        rows : tensor ``(n, 11)``
            PSF, background, electrons per nmgy, read noise.
        """
        mean, factor, low, high = self._constants(torch.device(device))
        z = torch.randn(
            _N_CANDIDATES, n, len(VARIABLES), generator=generator, device=device
        )
        # The last candidate is the mean, in case no other is valid.
        logs = torch.cat([mean + z @ factor.T, mean.expand(1, n, -1)])
        valid = self._valid(logs, low, high)
        valid[-1] = True
        first = valid.to(torch.uint8).argmax(0)
        logs = logs.gather(0, first[None, :, None].expand(1, n, logs.shape[-1]))[0]
        value = logs.exp()
        e = self._ellipses(n, generator, device)
        s1 = value[:, 0]
        columns = [s1, s1 * value[:, 1], value[:, 2], s1 * value[:, 3], value[:, 4]]
        columns += [2 + value[:, 5], e[0], e[1], *value[:, 6:].unbind(-1)]
        return torch.stack(columns, -1)

    def _ellipses(self, n, generator, device):
        """Components e1 and e2 ``(2, n)``, truncated normal."""
        return draw_ellipticity(self.ellipticity, n, generator=generator, device=device)

    def to_dict(self) -> dict:
        """Return the numbers as lists and floats."""
        return {
            'mean': list(self.mean),
            'covariance': [list(row) for row in self.covariance],
            'low': list(self.low),
            'high': list(self.high),
            'ellipticity': self.ellipticity,
            'fwhm_range': list(self.fwhm_range),
        }

    @classmethod
    def from_table(cls, fields, *, widen=1.0, ellipticity=0.025):
        """
        Fit the distribution to the fields of a `FieldTable`.

        Parameters
        ----------
        fields : `FieldTable`
            At least 20 fields.

        widen : float, optional
            Factor of all standard deviations.

        ellipticity : float, optional
            That of the prior.

        Returns
        -------
        distribution : `GaussianFields`
            Truncated at 3.5 standard deviations, also in the full width.
        """
        if len(fields) < 20:
            msg = f'table must hold at least 20 fields for a fit, got {len(fields)}'
            raise ValueError(msg)
        if not (math.isfinite(widen) and widen > 0):
            msg = f'widen must be positive, got {widen}'
            raise ValueError(msg)
        s1, s2, b, sp, p0, beta = fields.psf[:, :6].T
        logs = np.log(
            np.stack(
                [
                    s1, s2 / s1, np.maximum(b, 1e-5), sp / s1, np.maximum(p0, 1e-7),
                    beta - 2, fields.background, fields.electrons_per_nmgy,
                    np.maximum(fields.read_noise, 1e-3),
                ],
                -1,
            )
        )  # fmt: skip
        mean = np.median(logs, 0)
        cov = widen**2 * np.cov(logs.T)
        # What does not vary in the table varies by half a percent.
        cov += np.diag(np.full(len(mean), 5e-3**2))
        reach = _N_SIGMA * np.sqrt(np.diag(cov))
        low, high = mean - reach, mean + reach
        low[1] = max(low[1], _LEAST_RATIO)
        mean[1] = max(mean[1], 2 * _LEAST_RATIO)
        width = fwhm_of_shape(torch.tensor(fields.psf)).log().numpy()
        reach = _N_SIGMA * max(widen * width.std(), 0.02)
        return cls(
            tuple(mean),
            tuple(map(tuple, cov)),
            tuple(low),
            tuple(high),
            ellipticity,
            tuple(np.exp(np.median(width) + np.array([-reach, reach]))),
        )


def draw_ellipticity(scatter, n, *, generator=None, device='cpu'):
    """
    Components e1 and e2 ``(2, n)`` of PSFs, normal and truncated at 0.12.
    """
    unit = torch.rand(2, n, generator=generator, device=device)
    if scatter == 0:
        return 0 * unit
    # Inverse of the truncated normal's distribution function.
    share = math.erf(ELLIPTICITY_MAX / scatter / math.sqrt(2))
    return scatter * math.sqrt(2) * torch.erfinv((2 * unit - 1) * share)
