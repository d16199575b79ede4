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

from bliss_astro._arguments import check_positive, must, require
from bliss_astro.psf._mixture import SHAPE_NAMES, ClosedForm, fwhm_of_shape
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._numbers import check_tuples, float_column, need_columns, to_numbers

# The logarithms of these.
VARIABLES = tuple(
    f'log({name})'
    for name in (
        *('sigma1', 'sigma2/sigma1', 'b', 'sigmap/sigma1', 'p0', 'beta-2'),
        *('background', 'electrons_per_nmgy', 'read_noise'),
    )
)

# Largest |e1| and |e2| of the PSF of a single exposure that is simulated.
ELLIPTICITY_MAX = 0.12

# Full widths at half maximum from 0.7 to 2.5 arcsec, in pixels.
_FWHM_RANGE = (0.7 / SDSS_PIXEL_SCALE, 2.5 / SDSS_PIXEL_SCALE)

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


@dataclasses.dataclass(frozen=True, eq=False)
class FieldBatch:
    """
    Observing conditions of n fields.

    Attributes
    ----------
    psf : tensor ``(n, 8)``
        In the order of ``SHAPE_NAMES``, pixels.

    background : tensor ``(n,)``
        Sky in electrons per pixel.

    electrons_per_nmgy : tensor ``(n,)``
        Electrons that a source of 1 nmgy gives.

    read_noise : tensor ``(n,)``
        Gaussian noise without light in electrons.
    """

    psf: torch.Tensor
    background: torch.Tensor
    electrons_per_nmgy: torch.Tensor
    read_noise: torch.Tensor


class _Fields:
    """Base class of distributions of fields, whose numbers are kept on devices."""

    def sample_batch(self, n, *, generator=None, device='cpu'):
        """
        Draw fields; those of a table with equal probability.

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
        device = torch.device(device)
        return self._draw(n, generator, device, *self._constants(device))

    def _constants(self, device):
        """Numbers of the distribution on a device, moved there once."""
        cache = self.__dict__.setdefault('_on', {})
        if device not in cache:
            cache[device] = [
                torch.as_tensor(np.array(v), dtype=torch.float32, device=device)
                for v in self._numbers()
            ]
        return cache[device]


@dataclasses.dataclass(frozen=True, eq=False)
class FieldTable(_Fields):
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
        for name in ('psf', *_SCALARS):
            value = np.array(getattr(self, name), dtype=float)
            object.__setattr__(self, name, value)
        shape = self.psf.shape
        good = len(shape) == 2 and shape[1] == len(SHAPE_NAMES)
        require(good, 'psf', 'be of the shape (n, 8)', shape)
        if len(self.psf) == 0:
            raise ValueError(must('table', 'hold at least one good field', 'none'))
        s1, s2, b, sp, p0, beta, e1, e2 = self.psf.T
        e, sky, noise = e1**2 + e2**2, self.background, self.read_noise
        scale = self.electrons_per_nmgy
        for name, value, good, allowed in (
            ('sigma1', s1, s1 > 0, 'positive'),
            ('sigma2', s2, s2 > s1, 'larger than sigma1'),
            ('b', b, b >= 0, 'not negative'),
            ('sigmap', sp, sp > 0, 'positive'),
            ('p0', p0, p0 >= 0, 'not negative'),
            ('beta', beta, beta > 2, 'more than 2'),
            ('e1**2 + e2**2', e, e < 1, 'less than 1'),
            ('background', sky, sky > 0, 'positive (the sky, in electrons per pixel)'),
            ('electrons_per_nmgy', scale, scale > 0, 'positive'),
            ('read_noise', noise, noise >= 0, 'not negative'),
        ):
            wrong = value[~(good & np.isfinite(value))]
            if len(wrong):
                found = f'{wrong[0]} (in {len(wrong)} of {len(self)} fields)'
                require(False, name, f'be {allowed} and finite', found)

    def _columns(self):
        columns = dict(zip(SHAPE_NAMES, self.psf.T, strict=True))
        return columns | {name: getattr(self, name) for name in _SCALARS}

    def _typical(self):
        """PSF, sky and calibration in the middle of the distribution."""
        parts = (self.psf, self.background, self.electrons_per_nmgy)
        return [np.median(part, 0) for part in parts]

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
        need_columns(table, [*SHAPE_NAMES[:6], *_SCALARS])
        psf, scalars = (
            [
                float_column(table, name, _UNITS.get(name))
                if name in table.colnames
                else np.zeros(len(table))
                for name in names
            ]
            for names in (SHAPE_NAMES, _SCALARS)
        )
        return cls(np.stack(psf, -1), *scalars)

    def to_table(self) -> QTable:
        """Return the fields as a `~astropy.table.QTable` with units."""
        return QTable(self._columns(), units=_UNITS)

    def _numbers(self):
        return (np.stack([*self._columns().values()], 1),)

    def _draw(self, n, generator, device, rows):
        if len(self) == 1:
            return rows.expand(n, -1)
        which = torch.randint(len(self), (n,), generator=generator, device=device)
        return rows[which]


@dataclasses.dataclass(frozen=True)
class GaussianFields(_Fields):
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
        good = cov.shape == (n, n) and np.allclose(cov, cov.T)
        require(good, 'covariance', f'be a symmetric {n} x {n} matrix', cov.shape)
        least = np.linalg.eigvalsh(cov).min()
        require(
            least > 0, 'covariance', 'be positive definite', f'the eigenvalue {least}'
        )
        object.__setattr__(self, 'covariance', tuple(map(tuple, cov.tolist())))
        ranges = zip(VARIABLES, self.low, self.mean, self.high, strict=True)
        for name, low, mean, high in ranges:
            ends = f'low={low} and high={high}'
            require(
                low < mean < high, f'mean of {name}', 'be between low and high', ends
            )
        check_positive(**{'low of log(sigma2/sigma1)': self.low[1]})
        e, most = self.ellipticity, ELLIPTICITY_MAX
        require(0 <= e <= most, 'ellipticity', f'be in [0, {most}]', e)
        logs, _, low, high = self._constants(torch.device('cpu'))
        ends = self.fwhm_range
        good = 0 < ends[0] < ends[1] and self._valid(logs, low, high)
        allowed = 'be positive, increasing, and hold the PSF of the mean'
        require(good, 'fwhm_range', allowed, ends)

    def to_dict(self) -> dict:
        """Return the parameters as lists and floats, for JSON or TOML."""
        return to_numbers(self)

    def _typical(self):
        """PSF, sky and calibration in the middle of the distribution."""
        value = np.exp(self.mean)
        return np.array([*_psf_of(value), 0, 0]), value[6], value[7]

    def _numbers(self):
        """Mean, factor of the covariance and bounds."""
        return self.mean, np.linalg.cholesky(self.covariance), self.low, self.high

    def _valid(self, logs, low, high):
        """Whether candidates ``(..., 9)`` lie within the bounds."""
        inside = ((logs > low) & (logs < high)).all(-1)
        shape = _psf_of(logs[..., :6].exp().unbind(-1))
        height, round_one = 1 + shape[2] + shape[4], 2 * [torch.zeros_like(shape[0])]
        form = ClosedForm(torch.stack([*shape, *round_one], -1), None)
        for k, fwhm in enumerate(self.fwhm_range):
            # The profile falls outwards: it is above half its peak at a
            # radius if and only if its FWHM is more than twice that.
            wider = form.value(logs.new_tensor(0.5 * fwhm) ** 2) > 0.5 * height
            inside &= wider if k == 0 else ~wider
        return inside

    def _draw(self, n, generator, device, mean, factor, low, high):
        shape = (_N_CANDIDATES, n, len(VARIABLES))
        z = torch.randn(shape, generator=generator, device=device)
        # The last candidate is the mean, in case no other is valid.
        logs = torch.cat([mean + z @ factor.T, mean.expand(1, n, -1)])
        valid = self._valid(logs, low, high)
        valid[-1] = True
        first = valid.to(torch.uint8).argmax(0)
        logs = logs.gather(0, first[None, :, None].expand(1, n, logs.shape[-1]))[0]
        value = logs.exp().unbind(-1)
        e = draw_ellipticity(self.ellipticity, n, generator, device)
        return torch.stack([*_psf_of(value), *e, *value[6:]], -1)

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
        if (n := len(fields)) < 20:
            raise ValueError(must('table', 'hold at least 20 fields for a fit', n))
        check_positive(widen=widen)
        logs = log_variables(fields)
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
        ends = np.exp(np.median(width) + np.array([-reach, reach]))
        return cls(mean, cov, low, high, ellipticity, ends)


def log_variables(fields):
    """Logarithms ``(n, 9)`` of the fields of a `FieldTable`."""
    s1, s2, b, sp, p0, beta = fields.psf[:, :6].T
    values = [s1, s2 / s1, np.maximum(b, 1e-5), sp / s1, np.maximum(p0, 1e-7)]
    values += [beta - 2, fields.background, fields.electrons_per_nmgy]
    return np.log(np.stack([*values, np.maximum(fields.read_noise, 1e-3)], -1))


def _psf_of(value):
    """PSF but for its ellipticity, from exponentials of the variables."""
    s1, ratio, b, ratio_p, p0, beta = value[:6]
    return [s1, s1 * ratio, b, s1 * ratio_p, p0, 2 + beta]


def draw_ellipticity(scatter, n, generator, device):
    """
    Components e1 and e2 ``(2, n)`` of PSFs, normal and truncated at ELLIPTICITY_MAX.
    """
    unit = torch.rand(2, n, generator=generator, device=device)
    if scatter == 0:
        return 0 * unit
    # Inverse of the truncated normal's distribution function.
    share = math.erf(ELLIPTICITY_MAX / scatter / math.sqrt(2))
    return scatter * math.sqrt(2) * torch.erfinv((2 * unit - 1) * share)
