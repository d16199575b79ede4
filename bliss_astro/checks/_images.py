# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images that catalogues are compared with, band by band.
"""

from collections.abc import Mapping

from bliss_astro._arguments import require, require_type
from bliss_astro._warnings import messages_about
from bliss_astro.catalog._bands import bands_of
from bliss_astro.detection import BlissFinder
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._set import images_by_band


def each_band(catalog, exposure, function):
    """
    Call a function with the exposure in each band and that band; results by band.

    One exposure gives one result; its band is None where the catalogue has no fluxes in
    it, but those of its only band.
    """
    if not isinstance(exposure, Mapping):
        band = str(getattr(exposure, 'band', None))
        return function(exposure, band if band in bands_of(catalog) else None)
    images, known = images_by_band(exposure), bands_of(catalog)
    allowed = f'be in bands of the catalogue ({", ".join(known)})'
    if not known:
        allowed = 'be one Exposure, as the catalogue has fluxes in one band alone'
    sound = bool(images) and {*images} <= {*known}
    require(sound, 'exposure', allowed, ', '.join(images) or 'none')
    found = {}
    for band, one in images.items():
        with messages_about(f'band {band!r}'):
            found[band] = function(one, band)
    return found


def check_exposures(catalog, exposure, *, with_psf=True):
    """Refuse what is not the image of a catalogue, in all bands; return its shape."""
    images = list(images_by_band(exposure).values())
    for one in images:
        if not isinstance(one, Exposure):
            msg = (
                f'exposure must be an Exposure, got {type(one).__name__}; '
                'Exposure(data, background=..., bkg_error=..., effective_gain=..., '
                'psf=...) makes one, with what the catalogue was made with'
            )
            raise TypeError(msg)
    shape = catalog.image.get('shape') or getattr(catalog.posterior, 'shape', None)
    unit = getattr(catalog['flux'], 'unit', None)

    def check(exposure, band):
        if shape is not None and tuple(shape) != exposure.shape:
            msg = (
                f'exposure has shape {exposure.shape}, the image of the catalogue '
                f'{tuple(shape)}; give the exposure that the catalogue was made of'
            )
            raise ValueError(msg)
        # Posteriors have the PSF of the reference band.
        if exposure.psf is None and (with_psf or band is not None):
            msg = 'exposure has no psf; give it one with exposure.replace(psf=...)'
            raise ValueError(msg)
        if unit != exposure.unit:
            msg = (
                f'exposure has the unit {exposure.unit}, the fluxes of the catalogue '
                f'{unit}; they must have the same'
            )
            raise ValueError(msg)

    each_band(catalog, exposure, check)
    return images[0].shape


def check_draws(catalog, n_draws):
    """Refuse draws from a catalogue without posterior."""
    if n_draws and not hasattr(catalog.posterior, 'sample'):
        msg = (
            'n_draws: the catalogue has no posterior to draw from (it was stacked, or '
            'read from a format that keeps rows only); give n_draws=0 for its rows'
        )
        raise ValueError(msg)


def finder_options(finder):
    """Options of a finder, by default one with all defaults."""
    finder = BlissFinder() if finder is None else finder
    require_type('finder', finder, BlissFinder)
    return finder.options
