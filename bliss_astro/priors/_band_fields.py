# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Observing conditions of several bands of a field, given those of one of them.
"""

import dataclasses

import numpy as np
import torch

from bliss_astro._arguments import must, require
from bliss_astro.psf._mixture import fwhm_of_shape
from bliss_astro.units import BAND_WAVELENGTHS

from ._band_mixtures import interpolate, wavelengths
from ._fields import ELLIPTICITY_MAX, FieldBatch, FieldTable, log_variables
from ._numbers import SavedPrior

# Correlation of the ellipticities of two bands, as in headers of SDSS, and the noise
# that keeps their scatter of 0.025.
_E_CORRELATION, _E_NOISE = 0.5, 0.022
# Full widths at half maximum in pixels, and ellipticities, of other telescopes.
_FWHM_RANGE, _OTHER_ELLIPTICITY = (1.2, 7.0), 0.25
# Of other telescopes, by wavelength, less those in r: natural logarithms of the noise
# of the sky in a pixel in nmgy (the 5-sigma depths of LSST, DES, HSC and SDSS) and in
# electrons (the sky of SDSS, with the efficiency of thicker detectors).
_NODE_NOISE = (0.6, -0.35, 0.0, 0.5, 1.3, 2.1)
_NODE_ELECTRONS = (-1.2, -0.4, 0.0, 0.2, 0.1, 0.0)
# Scatter of these, of the logarithm of the FWHM (which falls with the power of
# wavelength of seeing: between 1/5 and, with an outer scale, 1/3), of the read noise,
# and of ellipticities.
_NOISE_SCATTER, _ELECTRONS_SCATTER = 0.45, 0.4
_SEEING_POWER, _SEEING_SCATTER = -0.25, 0.12
_READ_SCATTER, _READ_FRACTION, _OTHER_E_SCATTER = 0.2, 0.7, 0.02
_FACTOR_RANGE = (0.6, 1.7)
_NOISE_RANGE = (3.0, 3000.0)


@dataclasses.dataclass(frozen=True)
class BandFields(SavedPrior):
    """
    Differences of the observing conditions of bands to those of one band.

    The differences of the nine logarithms of `GaussianFields` are normal, correlated
    between bands, and independent of the conditions themselves: what one band has is
    that of the other, shifted.

    Parameters
    ----------
    bands : dict of str to float
        Names and wavelengths in nm of F bands, ascending.

    mean : tuple of tuple of float
        Means ``(F, 9)`` of the differences to the band whose row is zero.

    factor : tuple of tuple of float
        For each of the nine variables the rows of a factor ``(F, F)`` of the
        covariance between bands.
    """

    bands: dict[str, float]
    mean: tuple[tuple[float, ...], ...]
    factor: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        n, waves = len(self.bands), list(self.bands.values())
        require(waves == sorted(waves), 'bands', 'be ascending', waves)
        for name, shape in (('mean', (n, 9)), ('factor', (9, n * n))):
            value = np.array(getattr(self, name), dtype=float)
            good = value.shape == shape and np.isfinite(value).all()
            require(good, name, f'be finite numbers {shape}', value.shape)
            object.__setattr__(self, name, tuple(map(tuple, value.tolist())))

    @classmethod
    def default(cls):
        """Conditions of u, g, r, i and z of SDSS, of headers of 155 fields."""
        return cls.bundled('fields-sdss-ugriz')

    @classmethod
    def fit(cls, tables, *, bands=None, widen=1.0):
        """
        Fit the differences to tables of the same fields in several bands.

        Parameters
        ----------
        tables : dict of `~astropy.table.Table`
            One of `FieldPrior.fit` for each band, the same fields in the same order,
            such as those of `FieldPrior.from_photofield` of several bands. The first is
            the band to which the differences are.

        bands : list, optional
            Names of u, g, r, i, z and y or objects with a ``wavelength`` in nm, of the
            tables; by default their keys.

        widen : float, optional
            Factor of all standard deviations.

        Returns
        -------
        fields : `BandFields`
            Medians, and covariances by variable.
        """
        names = list(tables)
        waves = wavelengths(BAND_WAVELENGTHS, names if bands is None else bands)
        logs = [log_variables(FieldTable.from_table(t)) for t in tables.values()]
        sizes = {len(part) for part in logs}
        require(len(sizes) == 1, 'tables', 'hold the same fields', sorted(sizes))
        if sizes.pop() < 20:
            raise ValueError(must('tables', 'hold at least 20 fields', len(logs[0])))
        return cls.of_logs(dict(zip(names, waves, strict=True)), logs, widen)

    @classmethod
    def of_logs(cls, bands, logs, widen=1.0):
        """Fit to logarithms ``(F, n, 9)``, NaN where there are none."""
        away = np.stack(logs) - logs[0]
        mean = np.nanmedian(away, 1)
        away = np.where(np.isnan(away), 0, away - mean[:, None])
        count = np.maximum(np.isfinite(logs[0]).sum(0), 1)
        cov = widen**2 * np.einsum('anj,bnj->jab', away, away) / count[:, None, None]
        # Roots of matrices that are singular: the first band's differences are zero.
        value, vector = np.linalg.eigh(cov)
        root = vector * np.sqrt(value.clip(min=0))[:, None] @ vector.transpose(0, 2, 1)
        order = np.argsort(list(bands.values()))
        bands = dict(sorted(bands.items(), key=lambda item: item[1]))
        root = root[:, order][:, :, order].reshape(9, -1)
        return cls(bands, mean[order].round(4), root.round(4))

    def sample_batch(self, fields, bands, *, band='r', generator=None):
        """
        Draw the conditions of bands of the same fields.

        Parameters
        ----------
        fields : ``FieldBatch``
            Conditions of n fields in one band, see `FieldPrior.sample_batch`.

        bands : list
            F bands: names, or objects with a ``wavelength`` in nm. Between the bands
            of the fit differences are interpolated.

        band : str or band, optional
            That of ``fields``; its conditions stay as they are.

        generator : `torch.Generator`, optional
            On the device of ``fields``.

        Returns
        -------
        batch : ``FieldBatch``
            Tensors ``psf`` ``(n, F, 8)``, ``background``, ``electrons_per_nmgy`` and
            ``read_noise`` ``(n, F)``.
        """
        return to_batch(self._draw(to_rows(fields), bands, band, generator))

    def _draw(self, rows, bands, band, generator):
        """Conditions ``(n, F, 11)`` of bands, given those ``(n, 1, 11)`` of one."""
        matrix, own = self._matrix(bands, band, rows.device)
        on = {'generator': generator, 'device': rows.device}
        noise = torch.randn(len(rows), 9, matrix.shape[-1] - 1, **on)
        shift = torch.einsum('fjk,njk->nfj', matrix[..., 1:], noise)
        x = (matrix[..., 0] + shift).exp()
        s1, s2, b, sp, p0, beta = rows[..., :6].unbind(-1)
        first = s1 * x[..., 0]
        # The second Gaussian stays the wider one, and the power law integrable.
        second = first * (s2 / s1 * x[..., 1]).clamp(min=1.05)
        power = 2 + ((beta - 2) * x[..., 5]).clamp(min=0.15)
        wings = first * sp / s1 * x[..., 3]
        psf = [first, second, b * x[..., 2], wings, p0 * x[..., 4], power]
        e = rows[..., 6:8]
        noise = _E_NOISE * (e != 0) * torch.randn(*x.shape[:2], 2, **on)
        e = (_E_CORRELATION * e + noise).clamp(-ELLIPTICITY_MAX, ELLIPTICITY_MAX)
        new = torch.cat([torch.stack(psf, -1), e, rows[..., 8:] * x[..., 6:]], -1)
        return torch.where(own[:, None], rows, new)

    def _matrix(self, bands, band, device):
        """Means and factors ``(F, 9, 1 + F')`` of the differences; which are zero."""
        *waves, own = wavelengths(BAND_WAVELENGTHS | self.bands, [*bands, band])
        factor = np.reshape(self.factor, (9, *2 * [len(self.bands)])).swapaxes(0, 1)
        rows = np.concatenate([np.array(self.mean)[:, :, None], factor], -1)
        weights = [interpolate(self.bands, w, reach=0)[0] for w in (*waves, own)]
        value = np.tensordot(weights, rows, 1)
        value = torch.tensor(value[:-1] - value[-1], dtype=torch.float32, device=device)
        return value, torch.tensor([wave == own for wave in waves], device=device)


def to_rows(fields):
    """Conditions ``(n, 1, 11)`` of a `FieldBatch`."""
    scalars = fields.background, fields.electrons_per_nmgy, fields.read_noise
    return torch.cat([fields.psf, torch.stack(scalars, -1)], -1)[:, None]


def to_batch(rows):
    """Make a `FieldBatch` of conditions ``(..., 11)``."""
    return FieldBatch(rows[..., :8], *rows[..., 8:].unbind(-1))


def band_fields(
    fields, bands, reference=0, *, band='r', other=None, prior=None, generator=None
):
    """
    Draw the conditions of all bands of fields, given those of one.

    Parameters
    ----------
    fields : ``FieldBatch``
        Conditions of n fields: in ``band``, and of the ``other`` fields in the
        reference band.

    bands : list
        F bands: names, or objects with a ``wavelength`` in nm.

    reference : int, optional
        Which of them is the reference.

    band : str or band, optional
        That of the fields of the survey.

    other : bool tensor ``(n,)``, optional
        Fields of other telescopes, whose seeing and depths vary more.

    prior : `BandFields`, optional
        Differences between bands of the survey; those of SDSS by default.

    generator : `torch.Generator`, optional
        On the device of ``fields``.

    Returns
    -------
    batch : ``FieldBatch``
        Tensors ``psf`` ``(n, F, 8)``, ``background``, ``electrons_per_nmgy`` and
        ``read_noise`` ``(n, F)``.
    """
    prior, rows = prior or BandFields.default(), to_rows(fields)
    drawn = prior._draw(rows, bands, band, generator)
    if other is not None:
        new = _other_bands(rows, bands, reference, generator)
        drawn = torch.where(other[:, None, None], new, drawn)
    return to_batch(drawn)


def _other_bands(rows, bands, reference, generator):
    """Conditions ``(n, F, 11)`` of any telescope, given those of the reference."""
    waves = wavelengths(BAND_WAVELENGTHS, bands)
    nodes = np.array([interpolate(BAND_WAVELENGTHS, wave)[0] for wave in waves])
    table = nodes @ np.array([_NODE_NOISE, _NODE_ELECTRONS]).T
    table = np.concatenate([table, _SEEING_POWER * np.log(waves)[:, None]], 1)
    template = torch.tensor(table - table[reference]).to(rows)
    shape = len(rows), len(waves), 6
    z = torch.randn(shape, generator=generator, device=rows.device)
    scatter = z.new_tensor([_NOISE_SCATTER, _ELECTRONS_SCATTER, _SEEING_SCATTER])
    depth, electrons, width = (template + scatter * z[..., :3]).exp().unbind(-1)
    fwhm = fwhm_of_shape(rows[:, 0, :8])[:, None]
    low, high = (fwhm.new_tensor(v) / fwhm for v in _FWHM_RANGE)
    width = width.clamp(*_FACTOR_RANGE).maximum(low.clamp(max=1))
    new = rows.repeat(1, len(waves), 1)
    new[..., [0, 1, 3]] *= width.minimum(high.clamp(min=1))[..., None]
    e = new[..., 6:8]
    e = e + _OTHER_E_SCATTER * (e != 0) * z[..., 4:]
    new[..., 6:8] = e.clamp(-_OTHER_ELLIPTICITY, _OTHER_ELLIPTICITY)
    sky, scale, read = rows[..., 8:].unbind(-1)
    whole = (sky + read**2).sqrt()
    noise = (whole * electrons).minimum(whole.clamp(min=_NOISE_RANGE[1]))
    noise = noise.maximum(whole.clamp(max=_NOISE_RANGE[0]))
    read = (read * (_READ_SCATTER * z[..., 3]).exp()).minimum(_READ_FRACTION * noise)
    scalars = noise**2 - read**2, scale * noise / whole / depth, read
    new[..., 8:] = torch.stack(scalars, -1)
    new[:, reference] = rows[:, 0]
    return new
