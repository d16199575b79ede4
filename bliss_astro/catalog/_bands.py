# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bands of a catalogue: their names in columns, words of UCDs, and draws of their fluxes.
"""

import functools

import numpy as np
import torch

from bliss_astro.exposures import BANDS

from ._shared_light import to_array

# Upper ends in nm of the bands that UCD1+ has words for, from near ultraviolet on, with
# i of SDSS (749 nm) in I as everywhere.
_WORDS = {
    'em.UV.200-300nm': 300.0,
    'em.opt.U': 400.0,
    'em.opt.B': 500.0,
    'em.opt.V': 600.0,
    'em.opt.R': 745.0,
    'em.opt.I': 1000.0,
    'em.IR.J': 1500.0,
    'em.IR.H': 2000.0,
    'em.IR.K': 3000.0,
}
# Magnitudes of a natural logarithm of flux.
MAGNITUDES = 2.5 / np.log(10.0)
# Farther apart than any logarithms of fluxes.
_FAR = 1e3
# Keys of the meta of a posterior that tables keep among the facts about their image.
_FACTS = 'bands', 'band_wavelengths', 'bands_missing', 'bands_resampled'

WAVELENGTHS = {band.name: band.wavelength for band in reversed(BANDS.values())}
"""
Effective wavelengths in nm of the bands that columns may have, by name.

Those of images whose bands have names of their own are added as they are met, and none
is changed. It is one for the process, as a column is known by its name alone: that of a
band, ``flux_F814W``, from one of the user, ``flux_aper``. Which image was first decides
no number, but the order and words of columns of bands of one name.
"""


def ucd_word(band):
    """Word of UCD1+ for the wavelength of a band."""
    wavelength = WAVELENGTHS[band]
    return next((word for word, end in _WORDS.items() if wavelength < end), 'em.IR')


def by_wavelength():
    """Names of the bands that columns may have, from blue to red."""
    return sorted(WAVELENGTHS, key=WAVELENGTHS.get)


def bands_of(table):
    """Names of the bands of a table, from blue to red."""
    return [band for band in by_wavelength() if f'flux_{band}' in table.colnames]


def learn_bands(facts):
    """Add the bands of the facts about an image to those that columns may have."""
    names = facts.get('bands', ())
    given = facts.get('band_wavelengths') or [None] * len(names)
    for name, wavelength in zip(names, given, strict=True):
        # Without its wavelength a band is treated as r.
        WAVELENGTHS.setdefault(str(name), wavelength or BANDS['r'].wavelength)


def split_facts(meta):
    """Meta of a posterior for its tables, with its bands among the image's facts."""
    facts = {key: list(meta[key]) for key in _FACTS if key in meta}
    learn_bands(facts)
    kept = *_FACTS, 'bands_calibration'
    return {key: value for key, value in meta.items() if key not in kept}, facts


class BandDraws:
    """
    Draws of fluxes of N sources in F bands, the reference band first.

    Parameters
    ----------
    draws : dict of tensor
        Draws of `~bliss_astro.posteriors.SourceMarginals`: ``colour`` ``(N, P, F)``,
        natural logarithms of the ratios to the flux in the reference band, and, draw
        by draw, what they were drawn given: ``flux`` ``(N, P, 1)``, its logarithm
        over the flux floor, and, where sources have types, ``type`` ``(N, P, 1)``.

    meta : dict
        Meta of the posterior, with the names of the ``bands`` and, where ratios are
        not in one unit, the factors ``bands_calibration`` that bring them to it.

    Attributes
    ----------
    names : list of str
        Names of the bands.

    log_flux : array ``(N, P)``
        Logarithms of the flux in the reference band over the flux floor.

    log_ratio : dict of array ``(N, P)``
        Logarithms of flux ratios by band.
    """

    def __init__(self, draws, meta):
        self.names = [str(name) for name in meta['bands']]
        factors = np.log(meta.get('bands_calibration', np.ones(len(self.names))))
        # In single precision: of many sources they are many numbers.
        ratios = draws['colour'].float().cpu().numpy() + factors.astype(np.float32)
        self.log_ratio = dict(zip(self.names, np.moveaxis(ratios, 2, 0), strict=True))
        self.log_flux = to_array(draws['flux'])[..., 0]
        self._type = to_array(draws['type'])[..., 0] if 'type' in draws else None

    @classmethod
    def of(cls, draws, meta):
        """Draws of fluxes, or None where colours are not inferred."""
        return cls(draws, meta) if 'colour' in draws and meta.get('bands') else None

    def color(self, pair):
        """Draws ``(N, P)`` of the colour of a pair of bands, in magnitudes."""
        first, second = (self.log_ratio[name] for name in pair)
        return MAGNITUDES * (second - first)

    def given(self, log_flux, galaxy=None):
        """
        Draws of the ratios given those of the flux in the reference band.

        The draw of its type that is nearest in flux, for each source; the rest follows
        the linear regression of the ratio on the flux.

        Parameters
        ----------
        log_flux : array ``(N, n)``
            Logarithms of the flux in the reference band over the flux floor.

        galaxy : bool array ``(N, n)``, optional
            Types.

        Returns
        -------
        log_ratio : dict of array ``(N, n)``
            Logarithms of flux ratios by band.
        """
        keys, wanted = self.log_flux, log_flux
        if self._type is not None and galaxy is not None:
            keys, wanted = keys + _FAR * self._type, wanted + _FAR * galaxy
        index = _nearest(keys, wanted)
        pick = functools.partial(np.take_along_axis, indices=index, axis=1)
        apart = log_flux - pick(self.log_flux)
        flux = self.log_flux - self.log_flux.mean(1, keepdims=True)
        variance = (flux**2).mean(1, keepdims=True)
        ratios = {}
        for name, ratio in self.log_ratio.items():
            slope = (flux * ratio).mean(1, keepdims=True)
            slope = np.divide(slope, variance, out=0 * slope, where=variance > 0)
            ratios[name] = pick(ratio) + slope * apart
        return ratios


def _nearest(values, wanted):
    """Indices ``(N, n)`` of the values ``(N, P)`` nearest to those that are wanted."""
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    between = torch.from_numpy(0.5 * (ordered[:, 1:] + ordered[:, :-1]))
    place = torch.searchsorted(between, torch.from_numpy(wanted)).numpy()
    return np.take_along_axis(order, place, axis=1)
