# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The encoder as a finder of photutils.
"""

import inspect

import numpy as np
from astropy.table import QTable

from bliss_astro._warnings import NoDetectionsWarning, mute_warnings, warn
from bliss_astro.catalog._arguments import check_threshold

from ._detect import detect_sources

__all__ = ['BlissFinder']


class BlissFinder:
    """
    A configured `detect_sources` for photutils' ``PSFPhotometry``.

    photutils hands a finder nothing but the image and its mask, so what
    else is known of the image is stored here once.

    Parameters
    ----------
    threshold : float, optional
        Smallest probability of a source.

    **kwargs
        Any keyword of `detect_sources` but ``mask``.  What is not given is
        estimated anew from each image.

    Raises
    ------
    TypeError
        If there is no such keyword.

    ValueError
        If ``threshold`` is not between 0 and 1.

    Examples
    --------
    >>> from bliss_astro import BlissFinder, CoaddSimulator
    >>> coadd, truth = CoaddSimulator(10).simulate(rng=3)
    >>> finder = BlissFinder(psf=coadd.psf, bkg_error=coadd.bkg_error,
    ...                      effective_gain=coadd.effective_gain,
    ...                      background=0.0)
    >>> sources = finder(coadd.data - coadd.background)
    >>> sources.colnames
    ['id', 'x_centroid', 'y_centroid', 'flux', 'probability']
    """

    def __init__(self, threshold=0.5, **kwargs):
        for name in ('data', 'mask'):
            if name in kwargs:
                msg = f'{name} is given when the finder is called'
                raise TypeError(msg)
        allowed = list(inspect.signature(detect_sources).parameters)[2:]
        unknown = sorted(set(kwargs) - set(allowed))
        if unknown:
            msg = (
                f'BlissFinder has no argument {unknown[0]!r}; it has threshold, '
                f'{", ".join(name for name in allowed if name != "mask")}'
            )
            raise TypeError(msg)
        self.threshold = check_threshold(threshold)
        self.kwargs = kwargs

    def __repr__(self):
        names = ''.join(f', {name}=...' for name in self.kwargs)
        return f'BlissFinder(threshold={self.threshold}{names})'

    def __call__(self, data, mask=None):
        """
        Find sources.

        Parameters
        ----------
        data : 2D array_like or `~astropy.units.Quantity`
            The image.

        mask : 2D bool array, optional
            `True` for bad pixels.

        Returns
        -------
        sources : `~astropy.table.QTable` or None
            ``id, x_centroid, y_centroid, flux, probability``; `None` if
            nothing was found, as photutils' finders return.
        """
        with mute_warnings(NoDetectionsWarning):
            catalog = detect_sources(data, self.threshold, mask=mask, **self.kwargs)
        if len(catalog) == 0:
            warn(
                f'no source has a probability above {self.threshold}',
                NoDetectionsWarning,
            )
            return None
        names = ('id', 'x_centroid', 'y_centroid', 'flux', 'probability')
        table = QTable({name: catalog[name] for name in names})
        table['id'] = np.arange(1, len(table) + 1)
        return table
