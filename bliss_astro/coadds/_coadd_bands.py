# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds of several bands on one pixel grid, each made as that of one band is.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bliss_astro._arguments import check_rng, require
from bliss_astro._warnings import messages_about
from bliss_astro.exposures import Exposure, ExposureSet

from ._align import check_exposure, check_iterable
from ._grid import output_grid


def group_bands(exposures):
    """Exposures, or None, by band, of a mapping or several sets; None of one band."""
    if isinstance(exposures, Mapping):
        single = isinstance(exposures, ExposureSet)
        pairs = (exposures._found() if single else exposures).items()
        return {b: [e] if isinstance(e, Exposure) else e for b, e in pairs}
    sets = isinstance(exposures, Sequence) and len(exposures) > 0
    if not sets or not isinstance(exposures[0], ExposureSet):
        return None
    bands = dict.fromkeys(band for one in exposures for band in one.bands)
    there = {band for band in bands if any(band in one for one in exposures)}
    return {b: _OfBand(exposures, b) if b in there else None for b in bands}


class _OfBand:
    """Exposures in one band of the sets that have it, gone through set by set."""

    def __init__(self, sets, band):
        self.sets, self.band = sets, band

    def __iter__(self):
        return (one[self.band] for one in self.sets if self.band in one)


def coadd_bands(groups, coadd, options):
    """
    Coadds of grouped exposures, `ExposureSet`; the first band is the reference.

    ``coadd`` is `coadd_exposures`, and options are its own, ``weights`` and
    ``zero_points`` perhaps by band. Without a grid it is that of the first exposure,
    extended to cover all of all bands.
    """
    there = [band for band, own in groups.items() if own is not None]
    require(there, 'exposures', 'have a band', ', '.join(map(str, groups)) or 'none')
    names, options = [str(band) for band in there], dict(options)
    weights, points = (
        _by_band(name, options[name], names) for name in ('weights', 'zero_points')
    )
    if options['zero_point_out'] is None and points[names[0]] is not None:
        # One scale of all.
        options['zero_point_out'] = float(np.ravel(points[names[0]])[0])
    if options['wcs_out'] is None:
        grid = output_grid(_footprints(groups, there), None, options['shape_out'])
        options |= {'wcs_out': grid.wcs, 'shape_out': grid.shape}
    found, rngs = dict.fromkeys(groups), check_rng(options['rng']).spawn(len(there))
    for band, name, rng in zip(there, names, rngs, strict=True):
        given = {'weights': weights[name], 'zero_points': points[name], 'rng': rng}
        with messages_about(f'band {name!r}'):
            found[band] = coadd(groups[band], **options | given)
    return ExposureSet(found, reference=names[0])


def _by_band(name, given, bands):
    """Values of an option by band, which are one for all or given so."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(bands, given)
    given = {str(band): value for band, value in given.items()}
    require({*given} == {*bands}, name, f'have the bands {", ".join(bands)}', [*given])
    return given


def _footprints(groups, bands):
    """WCS and shapes of the exposures of bands."""
    for band in bands:
        with messages_about(f'band {str(band)!r}'):
            check_iterable(groups[band])
            once = isinstance(groups[band], Iterator)
            require(not once, 'wcs_out', 'be given for exposures of an iterator', None)
            for k, exposure in enumerate(groups[band]):
                check_exposure(exposure, f'exposures[{k}]')
                yield exposure.wcs, exposure.shape
