# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Priors of observing conditions: fields (PSF, sky, gain, calibration), and PSFs alone.
"""

import dataclasses
import math

import numpy as np
import torch
from astropy.table import QTable

from bliss_astro._arguments import require, require_type, torch_generator
from bliss_astro._lazy import survey
from bliss_astro.psf._mixture import DEFAULT_SHAPE, fwhm_of_shape, scale_to_fwhm

from ._fields import (
    ELLIPTICITY_MAX,
    FieldBatch,
    FieldTable,
    GaussianFields,
    draw_ellipticity,
)
from ._numbers import SavedPrior, from_numbers, to_numbers


@dataclasses.dataclass(frozen=True)
class FieldPrior(SavedPrior):
    """
    Joint distribution of PSF, sky background, calibration and read noise.

    Parameters
    ----------
    fields : `GaussianFields`, `FieldTable` or None, optional
        A parametric distribution, or a table of which fields are drawn with
        equal probability. `None` for that of SDSS in the r band.

    ellipticity : float, optional
        Standard deviation of the e1 and e2 (truncated at 0.12) that are drawn in
        place of those of ``fields``; `None` for their own.

    Notes
    -----
    The r band of SDSS: the shape of the PSF follows its width as in the 1,190 good
    fields of the photoField tables of runs 94, 2583 and 3900, with twice their scatter
    about that relation. Two of these runs hold nearly all of them, so the distributions
    of width, sky, calibration and read noise are those of 157 fields of 102 runs
    (headers of public image stamps) instead, widened: see :ref:`field_prior`.

    Examples
    --------
    >>> from bliss_astro.priors import FieldPrior
    >>> FieldPrior()
    <FieldPrior: Gaussian, FWHM 3.0 px, sky 680 e-, 943 e-/nmgy>
    >>> FieldPrior.single().sample(1, rng=1)['background']
    <Quantity [868.11182] electron>
    """

    fields: GaussianFields | FieldTable | None = None
    ellipticity: float | None = None

    def __post_init__(self):
        if self.fields is None:
            fields = FieldPrior.bundled('fields-sdss-r').fields
            object.__setattr__(self, 'fields', fields)
        require_type('fields', self.fields, GaussianFields, FieldTable)
        e = self.ellipticity
        good = e is None or 0 <= e <= ELLIPTICITY_MAX
        require(good, 'ellipticity', f'be in [0, {ELLIPTICITY_MAX}] or None', e)

    def __repr__(self):
        psf, sky, scale = self.fields._typical()
        fwhm = float(fwhm_of_shape(torch.tensor(psf, dtype=torch.float64)))
        many = isinstance(self.fields, FieldTable)
        kind = f'{len(self.fields)} field(s)' if many else 'Gaussian'
        light = f'sky {sky:.0f} e-, {scale:.0f} e-/nmgy'
        return f'<FieldPrior: {kind}, FWHM {fwhm:.1f} px, {light}>'

    @property
    def table(self):
        """The fields as a `~astropy.table.QTable`; `None` if parametric."""
        return self.fields.to_table() if isinstance(self.fields, FieldTable) else None

    @classmethod
    def from_photofield(cls, paths, band, *, ellipticity=None):
        """
        The good fields of SDSS ``photoField`` files, with equal probability.

        Parameters
        ----------
        paths : str, `~os.PathLike`, or list of them
            The files.

        band : {'u', 'g', 'r', 'i', 'z'}, int, or list of them
            The band, or several.

        ellipticity : float or None, optional
            Standard deviation of e1 and e2; the files describe round PSFs.

        Returns
        -------
        prior : `FieldPrior` or dict of them
            Prior of the fields with a measured PSF and positive sky and calibration; of
            several bands one of each, of the fields that are good in all.

        Raises
        ------
        OSError
            If a file is absent or damaged.

        ValueError
            If a file is no photoField, or none has a good field in the band.
        """
        return survey('sdss').field_prior(paths, band, ellipticity=ellipticity)

    @classmethod
    def from_table(cls, table, *, ellipticity=None):
        """
        The fields of a table, with equal probability.

        Parameters
        ----------
        table : `~astropy.table.Table`
            With the columns of `fit`.

        ellipticity : float or None, optional
            In place of the table's e1 and e2.

        Returns
        -------
        prior : `FieldPrior`
            Prior of these fields.
        """
        return cls(FieldTable.from_table(table), ellipticity)

    @classmethod
    def fit(cls, table, *, widen=1.0, ellipticity=0.025):
        """
        Fit the parametric distribution to a table of fields.

        Parameters
        ----------
        table : `~astropy.table.Table`
            One row per field, with the columns ``sigma1, sigma2, b, sigmap, p0,
            beta`` (the PSF, lengths in pixels), ``background`` (electrons per
            pixel), ``electrons_per_nmgy`` and ``read_noise`` (electrons), such as
            ``FieldPrior.from_photofield(...).table``.

        widen : float, optional
            Factor of all standard deviations, for conditions that the table lacks.

        ellipticity : float, optional
            Standard deviation of e1 and of e2.

        Returns
        -------
        prior : `FieldPrior`
            Parametric.

        Raises
        ------
        ValueError
            If columns are missing, fields are fewer than 20, or a value is not allowed.
        """
        shape = {'widen': widen, 'ellipticity': ellipticity}
        return cls(GaussianFields.from_table(FieldTable.from_table(table), **shape))

    @classmethod
    def single(cls):
        """
        One field: run 94, camcol 1, field 12, in the r band.

        That of the coadd, BLISS and NPE papers, with sky, gain, calibration and dark
        variance of its photoField row. (The coadd paper takes 865 electrons of sky, and
        987.31 electrons per nmgy.)

        Returns
        -------
        prior : `FieldPrior`
            Which draws this field always.
        """
        psf = np.array([DEFAULT_SHAPE])
        # Electrons a count, counts, nmgy a count, counts squared.
        gain, sky, scale, dark = 4.71, 184.3124892778592, 0.004760352894663811, 1.8225
        return cls(FieldTable(psf, [sky * gain], [gain / scale], [dark**0.5 * gain]))

    def sample(self, n: int, *, rng=None) -> QTable:
        """
        Draw fields as a table.

        Parameters
        ----------
        n : int
            How many.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        fields : `~astropy.table.QTable`
            With the columns of `fit`, and ``e1`` and ``e2``.
        """
        rows = self._rows(n, torch_generator(rng), 'cpu').double().numpy()
        return FieldTable(rows[:, :8], *rows[:, 8:].T).to_table()

    def sample_batch(
        self, n: int, *, generator: torch.Generator | None = None, device='cpu'
    ) -> FieldBatch:
        """
        Draw fields as tensors.

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
        batch : ``FieldBatch``
            Tensors ``psf`` ``(n, 8)``, ``background``, ``electrons_per_nmgy`` and
            ``read_noise`` ``(n,)``.
        """
        rows = self._rows(n, generator, device)
        return FieldBatch(rows[:, :8], rows[:, 8], rows[:, 9], rows[:, 10])

    def _rows(self, n, generator, device):
        rows = self.fields.sample_batch(n, generator=generator, device=device)
        if self.ellipticity is not None:
            e = draw_ellipticity(self.ellipticity, n, generator, device)
            rows = torch.cat([rows[:, :6], e.T, rows[:, 8:]], -1)
        return rows

    def _to_numbers(self):
        kind = 'gaussian' if isinstance(self.fields, GaussianFields) else 'table'
        numbers = {kind: to_numbers(self.fields)}
        if self.ellipticity is not None:
            numbers['ellipticity'] = self.ellipticity
        return numbers

    @classmethod
    def _from_numbers(cls, numbers):
        kinds = {'gaussian': GaussianFields, 'table': FieldTable}
        has = [name for name in kinds if name in numbers]
        allowed = "be a dict with either 'gaussian' or 'table'"
        require(len(has) == 1, 'numbers', allowed, ', '.join(numbers) or 'none')
        fields = from_numbers(kinds[has[0]], numbers[has[0]], f'numbers[{has[0]!r}]')
        return cls(fields, numbers.get('ellipticity'))


# -- PSFs alone ------------------------------------------------------------------


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

    The seeing is log-normal and truncated; the other parameters follow it as they do in
    the good fields of SDSS (see `FieldPrior`), with their scatter widened to cover the
    102 runs of other headers, whose seeing is 0.74 to 2.35 arcsec, the median 1.18.

    Parameters
    ----------
    median_sigma : float
        Median width ``sigma1`` of the core in pixels (1.24 px are a FWHM of 2.98 px).

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

        # Inverse of the truncated normal's distribution function.
        middle = math.log(self.median_sigma)
        ends = [(math.log(s) - middle) / self.scatter for s in self.sigma_range]
        cdf = [0.5 * (1 + math.erf(v / math.sqrt(2))) for v in ends]
        z = torch.special.ndtri(uniform(cdf[0], cdf[1]).clamp(1e-6, 1 - 1e-6))
        log_s1 = middle + self.scatter * z
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
