# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Colours of stars and galaxies: Gaussian mixtures over the fluxes of several bands.
"""

import dataclasses

import numpy as np
import torch

from bliss_astro._arguments import as_list, require
from bliss_astro.units import BAND_WAVELENGTHS, NANOMAGGY_ZERO_POINT

from ._band_mixtures import BandMixtures, interpolate, to_log_flux, wavelengths
from ._colour_fit import LOG_PER_MAGNITUDE, fit_colours
from ._numbers import SavedPrior, check_tuples, from_numbers

# Least error of measurements, for single precision.
_LEAST_ERROR = 1e-3
# Lists of bands whose mixtures are kept.
_N_CACHED = 64


@dataclasses.dataclass(frozen=True)
class ColourMixture:
    """
    Gaussian mixture over the log flux in the middle band and the log flux ratios.

    Parameters
    ----------
    log_weight : tuple of float
        Logarithms of the weights of the K components.

    mean : tuple of tuple of float
        Means ``(K, D)``: natural logarithm of the flux in nmgy in the band r, then the
        logarithms of the flux ratios to it of the other bands, by wavelength.

    factor : tuple of tuple of float
        Rows of the lower Cholesky factors of the covariances, ``(K, D (D + 1) / 2)``.
    """

    log_weight: tuple[float, ...]
    mean: tuple[tuple[float, ...], ...]
    factor: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        for name in ('log_weight', 'mean', 'factor'):
            value = np.array(getattr(self, name), dtype=float)
            good = value.ndim == (1 if name == 'log_weight' else 2)
            good &= bool(np.isfinite(value).all()) and len(value) == len(self.mean) > 0
            require(good, name, 'be finite numbers of each component', value.shape)
            rows = value.tolist()
            value = tuple(tuple(v) if isinstance(v, list) else v for v in rows)
            object.__setattr__(self, name, value)
        n = len(self.mean[0])
        size = n * (n + 1) // 2
        good = len(self.factor[0]) == size
        require(good, 'factor', f'have {size} numbers a row', len(self.factor[0]))

    def arrays(self):
        """Log weights ``(K,)``, means ``(K, D)`` and covariances ``(K, D, D)``."""
        weight, mean, rows = map(np.array, (self.log_weight, self.mean, self.factor))
        factor = np.zeros((*mean.shape, mean.shape[1]))
        factor[:, *np.tril_indices(mean.shape[1])] = rows
        return weight, mean, factor @ factor.transpose(0, 2, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class ColourPrior(SavedPrior):
    """
    Distribution of the colours of stars and galaxies, by magnitude.

    A Gaussian mixture over the logarithms of the fluxes in u, g, r, i, z and y for each
    class. Colours are linear in them: any subset of the bands, any reference band and
    any measured bands have exact mixtures too. Other bands are interpolated in the
    logarithm of wavelength, with a scatter that grows with the distance to the next.

    It is the distribution of one source: dust is part of it, over all lines of sight.
    That sources of a field have it in common is no part of it, nor of what infers one
    source at a time.

    Parameters
    ----------
    stars, galaxies : `ColourMixture`
        Mixtures of both classes; quasars and all other point sources are stars.

    bands : dict of str to float
        Names and wavelengths in nm of the bands of the mixtures, ascending; the
        third is the one whose flux they are over.

    magnitude_range : tuple of float
        Magnitudes in the reference band between which colours change with it.

    bulge_excess : tuple of float
        Mean and standard deviation of the colour of bulges less that of their disks,
        in units of the distance between red and blue galaxies.

    Examples
    --------
    >>> import torch
    >>> from bliss_astro.priors import ColourPrior
    >>> prior = ColourPrior.default()
    >>> magnitude, is_galaxy = torch.full((500,), 20.0), torch.arange(500) < 250
    >>> prior.sample(magnitude, is_galaxy, ['r', 'g', 'i']).shape
    torch.Size([500, 3])
    """

    stars: ColourMixture
    galaxies: ColourMixture
    bands: dict[str, float]
    magnitude_range: tuple[float, float] = (13.0, 26.0)
    bulge_excess: tuple[float, float] = (0.4, 0.4)

    def __post_init__(self):
        for name in ('stars', 'galaxies'):
            part = getattr(self, name)
            if not isinstance(part, ColourMixture):
                part = from_numbers(ColourMixture, part, name)
                object.__setattr__(self, name, part)
            n = len(part.mean[0])
            good = len(self.bands) == n > 2
            require(good, 'bands', f'be the {n} of the mixtures', len(self.bands))
        check_tuples(self, ('magnitude_range', 'bulge_excess'), length=2)

    @classmethod
    def default(cls):
        """
        Colours of the sky, fitted to SDSS and to simulated catalogues of LSST.

        Returns
        -------
        prior : `ColourPrior`
            That of ``data/priors/colours-ugrizy.json``, see :ref:`colour_prior`.
        """
        return cls.bundled('colours-ugrizy')

    @classmethod
    def fit(cls, table, *, bands, **options):
        """
        Fit the distribution to a catalogue of several bands.

        Extreme deconvolution (Bovy et al. 2011, AoAS 5, 1657): expectation maximisation
        that takes the errors of each source out of the covariances. Magnitudes have
        equal weights in the fit, and the number counts their slopes after it.

        Parameters
        ----------
        table : `~astropy.table.Table`
            One row per source, with the columns ``mag_u`` (AB; NaN or masked where
            not measured) and so on, ``mag_u_err`` (0.02 where absent), ``is_galaxy``,
            and perhaps ``weight``.

        bands : dict or list
            Bands (names, or objects with a ``wavelength`` in nm) by the keys of their
            columns; ``['g', 'r']`` is ``{'g': 'g', 'r': 'r'}``. Sources of several
            surveys may have different ones.

        **options
            ``n_components`` (8) of each class; ``outlier_fraction`` (0.02) of a
            component wider than all others together; ``reddening`` (0.03),
            standard deviation of E(B-V) that is added; ``slopes`` (0.15, 0.4) of log10
            of the counts of stars and galaxies per magnitude; ``magnitude_range`` (13,
            26) in r; ``n_iterations`` (100); ``rng`` (0).

        Returns
        -------
        prior : `ColourPrior`
            Over u, g, r, i, z and y.

        Raises
        ------
        ValueError
            If columns are missing or too few sources of a class are left.
        """
        if not isinstance(bands, dict):
            bands = {name: name for name in as_list('bands', bands)}
        nodes = BAND_WAVELENGTHS
        waves = wavelengths(nodes, bands.values())
        require(len({*waves}) > 1, 'bands', 'be two or more', bands)
        matrix = {
            key: to_log_flux(interpolate(nodes, wave)[0])
            for key, wave in zip(bands, waves, strict=True)
        }
        limits = tuple(options.get('magnitude_range', (13.0, 26.0)))
        parts = fit_colours(table, matrix, **options)
        stars, galaxies = (ColourMixture(*part) for part in parts)
        return cls(stars, galaxies, dict(BAND_WAVELENGTHS), limits)

    def sample(self, magnitude, is_galaxy, bands, reference=0, *, generator=None):
        """
        Draw the colours of sources.

        Parameters
        ----------
        magnitude : tensor ``(...)``
            AB magnitudes in the reference band.

        is_galaxy : bool tensor ``(...)``
            Class.

        bands : list
            F bands: names (``'u'`` to ``'y'``), or objects with a ``wavelength`` in nm.

        reference : int, str or band, optional
            Which of the bands is the reference, or one that is not among them.

        generator : `torch.Generator`, optional
            On the device of ``magnitude``.

        Returns
        -------
        log_ratio : tensor ``(..., F)``
            Natural logarithms of the fluxes over those in the reference band.
        """
        parts = self._parts(bands, reference, magnitude.device)
        magnitude, is_galaxy = torch.broadcast_tensors(magnitude, is_galaxy)
        shape = magnitude.shape
        on = {'generator': generator, 'device': magnitude.device}
        flux, which = self._flux(magnitude).reshape(-1), is_galaxy.reshape(-1).long()
        below = parts.weight(flux, which).softmax(-1).cumsum(-1)
        place = torch.rand(len(flux), 1, **on)
        n = below.shape[-1]
        chosen = (below < place).sum(-1).clamp(max=n - 1) + n * which
        noise = torch.randn(len(flux), parts.mean.shape[-1], 1, **on)
        mean, slope, factor = (
            getattr(parts, name).flatten(0, 1)[chosen]
            for name in ('mean', 'slope', 'factor')
        )
        away = flux - parts.middle.flatten()[chosen]
        value = mean + slope * away[:, None] + (factor @ noise)[..., 0]
        return value.reshape(*shape, value.shape[-1])

    def log_prob(self, log_ratio, magnitude, is_galaxy, bands, reference=0):
        """
        Log density of colours.

        Parameters
        ----------
        log_ratio : tensor ``(..., F)``
            Natural logarithms of the flux ratios; that of the reference is ignored.

        magnitude, is_galaxy, bands, reference
            As in `sample`.

        Returns
        -------
        log_prob : tensor ``(...)``
            Per unit of the F - 1 ratios (F where the reference is none of the bands).
        """
        parts = self._parts(bands, reference, magnitude.device)
        flux, which = self._flux(magnitude), is_galaxy.long()
        away = log_ratio[..., None, :] - parts.means(flux, which)
        away = away[..., parts.others]
        white = (parts.whitening[which].to(away) @ away[..., None])[..., 0]
        density = parts.log_scale[which] - 0.5 * (white**2).sum(-1)
        return (parts.weight(flux, which).log_softmax(-1) + density).logsumexp(-1)

    def conditional(
        self,
        magnitude,
        is_galaxy,
        bands,
        reference=0,
        *,
        log_ratio=None,
        error=None,
        measured=None,
    ):
        """
        Mean and covariance of colours, given some measured ones.

        Parameters
        ----------
        magnitude, is_galaxy, bands, reference
            As in `sample`.

        log_ratio : tensor ``(..., F)``, optional
            Measured natural logarithms of flux ratios.

        error : tensor ``(..., F)``, optional
            Their standard deviations at the given magnitude, independent of each
            other; 0 by default.

        measured : bool tensor ``(..., F)``, optional
            Which are measured; all by default.

        Returns
        -------
        mean : tensor ``(..., F)``
            Mean of the mixture; 0 for the reference.

        covariance : tensor ``(..., F, F)``
            Likewise.
        """
        parts = self._parts(bands, reference, magnitude.device)
        flux, which = self._flux(magnitude), is_galaxy.long()
        weight = parts.weight(flux, which)
        mean, cov = parts.means(flux, which), parts.factor[which]
        cov = cov @ cov.mT
        for f in range(cov.shape[-1] if log_ratio is not None else 0):
            # One band after the other, as their errors are independent.
            noise = _LEAST_ERROR if error is None else error[..., f, None]
            spread = (
                cov[..., f, f] + torch.as_tensor(noise).clamp(min=_LEAST_ERROR) ** 2
            )
            off = log_ratio[..., f, None] - mean[..., f]
            gain, size = cov[..., f] / spread[..., None], off**2 / spread + spread.log()
            if measured is not None:
                known = measured[..., f, None]
                off, size = (torch.where(known, v, 0.0) for v in (off, size))
                gain = torch.where(known[..., None], gain, 0.0)
            weight = weight - 0.5 * size
            mean = mean + gain * off[..., None]
            cov = cov - gain[..., None] * cov[..., None, f, :]
        share = weight.softmax(-1)[..., None]
        middle = (share * mean).sum(-2)
        away = mean - middle[..., None, :]
        spread = cov + away[..., None] * away[..., None, :]
        return middle, (share[..., None] * spread).sum(-3)

    def disk_fractions(self, disk_fraction, bands, reference=0, *, generator=None):
        """
        Draw the share of the disk in the flux of each band.

        Bulges are redder than their disks, along the line from blue to red galaxies
        (see ``bulge_excess``); log ratios of the whole galaxy stay as they are.

        Parameters
        ----------
        disk_fraction : tensor ``(...)``
            Share in the reference band.

        bands, reference, generator
            As in `sample`.

        Returns
        -------
        disk_fraction : tensor ``(..., F)``
            Share in each band.
        """
        device = disk_fraction.device
        parts = self._parts(bands, reference, device)
        mean, scatter = self.bulge_excess
        noise = torch.randn(disk_fraction.shape, generator=generator, device=device)
        excess = (mean + scatter * noise)[..., None] * parts.redness
        bulge = (1 - disk_fraction)[..., None] * excess.exp()
        return disk_fraction[..., None] / (disk_fraction[..., None] + bulge)

    def _flux(self, magnitude):
        """Natural logarithm of fluxes in nmgy, within the range of magnitudes."""
        magnitude = magnitude.clamp(*self.magnitude_range)
        return LOG_PER_MAGNITUDE * (NANOMAGGY_ZERO_POINT - magnitude)

    def _parts(self, bands, reference, device):
        """Mixtures over the ratios of some bands to a reference, computed once."""
        waves = wavelengths(self.bands, bands)
        if isinstance(reference, int):
            require(
                -len(waves) <= reference < len(waves),
                'reference',
                f'be the index of one of {len(waves)} bands',
                reference,
            )
            place, wave = reference % len(waves), waves[reference]
        else:
            (wave,) = wavelengths(self.bands, [reference])
            place = waves.index(wave) if wave in waves else None
        cache = self.__dict__.setdefault('_on', {})
        key = (*waves, place, wave, torch.device(device))
        if key not in cache:
            if len(cache) > _N_CACHED:
                cache.clear()
            mixtures = [part.arrays() for part in (self.stars, self.galaxies)]
            cache[key] = BandMixtures(self.bands, mixtures, waves, place, wave, device)
        return cache[key]
