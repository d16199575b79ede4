# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Observing conditions of fields: a table, or a multivariate normal of logarithms.
"""

import dataclasses
import math

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from bliss_astro.psf._mixture import SHAPE_NAMES, fwhm_of_shape, raw_profile

from ._catalog_columns import float_column, need_columns
from ._counts import check_tuples

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


_UNITS = {
    'sigma1': u.pix,
    'sigma2': u.pix,
    'sigmap': u.pix,
    'background': u.electron,
    'electrons_per_nmgy': u.electron / u.nmgy,
    'read_noise': u.electron,
}

_SCALARS = ('background', 'electrons_per_nmgy', 'read_noise')
_COLUMNS = SHAPE_NAMES + _SCALARS


@dataclasses.dataclass(frozen=True, eq=False)
class FieldTable:
    """
    Checked PSFs, backgrounds and calibrations of n fields.

    Attributes
    ----------
    psf : float array ``(n, 8)``
        In the order of ``SHAPE_NAMES``, pixels.

    background, electrons_per_nmgy, read_noise : float array ``(n,)``
        Sky in electrons per pixel, electrons that one nmgy gives, and
        Gaussian noise without light in electrons.
    """

    psf: np.ndarray
    background: np.ndarray
    electrons_per_nmgy: np.ndarray
    read_noise: np.ndarray

    def __post_init__(self):
        self._arrays()
        s1, s2, b, sp, p0, beta, e1, e2 = self.psf.T
        self._check('sigma1', s1, s1 > 0, 'positive')
        self._check('sigma2', s2, s2 > s1, 'larger than sigma1')
        self._check('b', b, b >= 0, 'not negative')
        self._check('sigmap', sp, sp > 0, 'positive')
        self._check('p0', p0, p0 >= 0, 'not negative')
        self._check('beta', beta, beta > 2, 'more than 2')
        e = np.hypot(e1, e2)
        self._check('e1 and e2', e, e < 1, 'an ellipse (e1**2 + e2**2 < 1)')
        self._check(
            'background', self.background, self.background > 0,
            'positive (the sky, in electrons per pixel)',
        )  # fmt: skip
        epn = self.electrons_per_nmgy
        self._check('electrons_per_nmgy', epn, epn > 0, 'positive')
        noise = self.read_noise
        self._check('read_noise', noise, noise >= 0, 'not negative')

    def _arrays(self):
        for name in ('psf', *_SCALARS):
            value = np.array(getattr(self, name), dtype=float)
            object.__setattr__(self, name, value)
        if self.psf.ndim != 2 or self.psf.shape[1] != len(SHAPE_NAMES):
            msg = f'psf must have the shape (n, 8), got {self.psf.shape}'
            raise ValueError(msg)
        if len(self.psf) == 0:
            msg = 'table must hold at least one good field, got none'
            raise ValueError(msg)

    @staticmethod
    def _check(name, value, good, allowed):
        good = good & np.isfinite(value)
        if not good.all():
            msg = (
                f'{name} must be {allowed} and finite, got {value[~good][0]} '
                f'(in {np.count_nonzero(~good)} of {len(good)} fields)'
            )
            raise ValueError(msg)

    def __len__(self):
        return len(self.psf)

    @classmethod
    def from_table(cls, table):
        """
        Take the columns of a table of good fields.

        Parameters
        ----------
        table : `~astropy.table.Table`
            With the columns ``sigma1, sigma2, b, sigmap, p0, beta`` (the PSF,
            lengths in pixels), ``background`` (electrons per pixel),
            ``electrons_per_nmgy`` and ``read_noise`` (electrons); ``e1, e2``
            are zero where absent. Units are converted where there are any.

        Returns
        -------
        fields : `FieldTable`
            The same.
        """
        optional = {'e1', 'e2'}
        need_columns(table, [name for name in _COLUMNS if name not in optional])
        absent = {name: np.zeros(len(table)) for name in optional - {*table.colnames}}
        value = absent | {
            name: float_column(table, name, _UNITS.get(name))
            for name in _COLUMNS
            if name not in absent
        }
        psf = np.stack([value[name] for name in SHAPE_NAMES], -1)
        return cls(psf, *(value[name] for name in _SCALARS))

    def to_table(self) -> QTable:
        """Return the fields as a `~astropy.table.QTable` with units."""
        columns = dict(zip(SHAPE_NAMES, self.psf.T, strict=True))
        columns |= {name: getattr(self, name) for name in _SCALARS}
        return QTable(
            {
                name: value * _UNITS[name] if name in _UNITS else value
                for name, value in columns.items()
            }
        )

    def sample_batch(self, n, *, generator=None, device='cpu'):
        """
        Draw fields, all with equal probability.

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
        rows = self._tensor(torch.device(device))
        if len(self) == 1:
            return rows.expand(n, -1)
        which = torch.randint(len(self), (n,), generator=generator, device=rows.device)
        return rows[which]

    def _tensor(self, device):
        """All rows on a device, moved there once."""
        cache = self.__dict__.setdefault('_on', {})
        if device not in cache:
            scalars = [getattr(self, name)[:, None] for name in _SCALARS]
            rows = np.concatenate([self.psf, *scalars], 1)
            cache[device] = torch.as_tensor(rows, dtype=torch.float32, device=device)
        return cache[device]


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
        e = draw_ellipticity(self.ellipticity, n, generator=generator, device=device)
        s1 = value[:, 0]
        columns = [s1, s1 * value[:, 1], value[:, 2], s1 * value[:, 3], value[:, 4]]
        columns += [2 + value[:, 5], e[0], e[1], *value[:, 6:].unbind(-1)]
        return torch.stack(columns, -1)

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
