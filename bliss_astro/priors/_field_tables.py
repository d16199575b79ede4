# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Field tables: PSF, background and calibration of each field.
"""

import dataclasses

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from bliss_astro.psf._mixture import SHAPE_NAMES

from ._catalog_columns import float_column, need_columns

__all__ = ['FieldTable']

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
