# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Colours of the rows of a catalogue: differences of magnitudes in two bands.

`colors` is a method of `~bliss_astro.catalog.ProbabilisticCatalog`.
"""

import itertools

import astropy.units as u
import numpy as np
from astropy.table import QTable

from bliss_astro._arguments import as_list, require

from ._bands import MAGNITUDES, bands_of, ucd_word
from ._columns import has_magnitude, plain_numbers
from ._rows import rows_of
from ._shared_light import SIGMA_QUANTILES


def colors(self, pairs=None, *, gaussian=False):
    """
    Tabulate colours of the rows, with errors of the joint posterior of the fluxes.

    Parameters
    ----------
    pairs : list of str or of pair of str, optional
        Colours, such as ``'g-r'`` or ``('g', 'r')``; by default of bands that are
        neighbours in wavelength.

    gaussian : bool, optional
        `True` takes fluxes and their errors as independent normal distributions, to
        first order, whether there is a posterior or not: the way out for rows whose
        posterior is gone.

    Returns
    -------
    colors : `~astropy.table.QTable`
        Rows as in the catalogue: ``id``, and for each pair its colour (``g-r``) in AB
        magnitudes, the median of its posterior, and its error (``g-r_err``), half the
        width of the 68 % interval; NaN where it is unknown.

    Raises
    ------
    ValueError
        If there are no such bands, if fluxes have no magnitude, or if the table has
        neither a posterior nor draws of both fluxes (``flux_g_samples``).

    Notes
    -----
    Fluxes of a source share errors of its position and shape, so that a colour is often
    known better than either magnitude; where one band is missing, its colour has the
    width that the prior of colours gives it.

    Examples
    --------
    >>> import astropy.units as u
    >>> from bliss_astro.catalog import ProbabilisticCatalog
    >>> columns = dict.fromkeys(('probability', 'x_centroid', 'y_centroid'), [0.9])
    >>> columns |= dict.fromkeys(('x_err', 'y_err', 'flux_err', 'flux_g_err'), [0.1])
    >>> columns |= {'flux': [10.0], 'flux_r': [10.0], 'flux_g': [5.0]}
    >>> columns |= {'flux_r_err': [0.1]}
    >>> cat = ProbabilisticCatalog.from_columns(columns, unit=u.nmgy)
    >>> cat.colors(gaussian=True)['g-r']
    <Quantity [0.75257499] mag>
    """
    unit = getattr(self['flux'], 'unit', None)
    allowed = 'be in a unit that has magnitudes'
    require(has_magnitude(unit), 'fluxes', allowed, unit)
    table = QTable({'id': self['id']})
    for pair in _pairs_of(self, pairs):
        low, middle, high = _quantiles(self, pair, gaussian=gaussian)
        name, ucd = '-'.join(pair), ';'.join(map(ucd_word, pair))
        text = f'Colour {name} (AB), the median of its posterior'
        error = f'Half the width of the 68 percent interval of {name}'
        for key, values, about, first in (
            (name, middle, text, ''),
            (f'{name}_err', 0.5 * (high - low), error, 'stat.error;'),
        ):
            table[key] = u.Quantity(values, u.mag)
            info = table[key].info
            info.format, info.description = '.3f', about
            info.meta = {'ucd': f'{first}phot.color;{ucd}'}
    return table


def _pairs_of(catalog, pairs):
    """Pairs of bands of the colours that are wanted."""
    bands = bands_of(catalog)
    if pairs is None:
        require(len(bands) > 1, 'catalog', 'have fluxes in two bands', bands or 'none')
        return list(itertools.pairwise(bands))
    found = []
    for pair in [pairs] if isinstance(pairs, str) else as_list('pairs', pairs):
        two = tuple(pair.split('-')) if isinstance(pair, str) else tuple(pair)
        sound = len(two) == 2 and set(two) <= set(bands)
        allowed = f'be two of {", ".join(bands) or "no bands"} each, such as "g-r"'
        require(sound, 'pairs', allowed, repr(pair))
        found.append(two)
    return found


def _quantiles(catalog, pair, *, gaussian):
    """Quantiles of a colour in magnitudes, row by row, at -1, 0 and 1 sigma."""
    names = [f'flux_{band}' for band in pair]
    if gaussian:
        first, second = (_relative(catalog, name) for name in names)
        middle = MAGNITUDES * (second[0] - first[0])
        error = MAGNITUDES * np.hypot(first[1], second[1])
        return middle - error, middle, middle + error
    if catalog.posterior is not None:
        return rows_of(catalog.posterior, catalog).color_quantiles(
            pair, SIGMA_QUANTILES
        )
    drawn = catalog.samples(names)
    logs = [np.log(_positive(drawn[name].distribution.value)) for name in names]
    return np.quantile(MAGNITUDES * (logs[1] - logs[0]), SIGMA_QUANTILES, axis=1)


def _relative(catalog, name):
    """Logarithm of a flux, and its error to first order."""
    flux = _positive(plain_numbers(catalog[name]))
    return np.log(flux), plain_numbers(catalog[f'{name}_err']) / flux


def _positive(flux):
    return np.where(flux > 0, flux, np.nan)
