# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Field prior: joint distribution of PSF, sky, gain and calibration.
"""

import dataclasses

import numpy as np
import torch
from astropy.table import QTable

from bliss_astro._arguments import torch_generator
from bliss_astro._plugins import survey
from bliss_astro.psf._mixture import DEFAULT_SHAPE, fwhm_of_shape

from ._fields import ELLIPTICITY_MAX, FieldTable, GaussianFields, draw_ellipticity
from ._numbers import SavedPrior, from_numbers, require, require_type, to_numbers


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
    The r band of SDSS: the shape of the PSF follows its width as in the 1,190
    good fields of the photoField tables of runs 94, 2583 and 3900, with twice
    their scatter about that relation. Two of these runs hold nearly all
    of them, so the distributions of width, sky, calibration and read
    noise are those of 157 fields of 102 runs (headers of public image
    stamps) instead, with scatter widened: see :ref:`field_prior`.

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
        require(good, 'ellipticity', f'in [0, {ELLIPTICITY_MAX}] or None', e)

    def __repr__(self):
        psf, sky, scale = self.fields._typical()
        fwhm = float(fwhm_of_shape(torch.tensor(psf, dtype=torch.float64)))
        many = isinstance(self.fields, FieldTable)
        kind = f'{len(self.fields)} field(s)' if many else 'Gaussian'
        return (
            f'<FieldPrior: {kind}, FWHM {fwhm:.1f} px, sky {sky:.0f} e-, '
            f'{scale:.0f} e-/nmgy>'
        )

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

        band : {'u', 'g', 'r', 'i', 'z'} or int
            The band.

        ellipticity : float or None, optional
            The files describe round PSFs; a standard deviation of e1 and e2
            makes them elliptical.

        Returns
        -------
        prior : `FieldPrior`
            Prior of the fields whose PSF was measured (the pipeline's placeholders
            are dropped), and whose sky and calibration are positive.

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
            Factor of all standard deviations, for conditions that the table
            does not hold.

        ellipticity : float, optional
            Standard deviation of e1 and of e2.

        Returns
        -------
        prior : `FieldPrior`
            Parametric.

        Raises
        ------
        ValueError
            If columns are missing, there are fewer than 20 fields, or a value
            is outside of what is allowed.
        """
        fields = FieldTable.from_table(table)
        return cls(
            GaussianFields.from_table(fields, widen=widen, ellipticity=ellipticity)
        )

    @classmethod
    def single(cls):
        """
        One field: run 94, camcol 1, field 12, in the r band.

        That of the coadd, BLISS and NPE papers. Sky (184.31 counts), gain
        (4.71), calibration (0.0047604 nmgy per count) and dark variance
        (1.8225 counts squared) are those of its photoField row. (The coadd
        paper takes 865 electrons of sky, and 987.31 electrons per nmgy.)

        Returns
        -------
        prior : `FieldPrior`
            Which draws this field always.
        """
        psf = np.array([DEFAULT_SHAPE])
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
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        device='cpu',
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

    def to_dict(self) -> dict:
        """
        Return the numbers of the prior, for JSON or TOML.

        Returns
        -------
        numbers : dict
            With either ``gaussian`` or ``table``, and perhaps
            ``ellipticity``.
        """
        kind = 'gaussian' if isinstance(self.fields, GaussianFields) else 'table'
        numbers = {kind: to_numbers(self.fields)}
        if self.ellipticity is not None:
            numbers['ellipticity'] = self.ellipticity
        return numbers

    @classmethod
    def from_dict(cls, numbers: dict):
        """
        Make a prior of what `to_dict` returned.

        Parameters
        ----------
        numbers : dict
            With either ``gaussian`` or ``table``.

        Returns
        -------
        prior : `FieldPrior`
            The same prior.
        """
        kinds = {'gaussian': GaussianFields, 'table': FieldTable}
        has = [name for name in kinds if name in numbers]
        allowed = "a dict with either 'gaussian' or 'table'"
        require(len(has) == 1, 'numbers', allowed, ', '.join(numbers) or 'none')
        fields = from_numbers(kinds[has[0]], numbers[has[0]], f'numbers[{has[0]!r}]')
        return cls(fields, numbers.get('ellipticity'))
