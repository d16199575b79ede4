# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The encoder as a finder of photutils.
"""

import warnings

import numpy as np
from astropy.table import QTable

from bliss_astro._warnings import NoDetectionsWarning

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
        Any keyword of `detect_sources` but ``mask``.

    Examples
    --------
    >>> from bliss_astro import BlissFinder, CoaddSimulator
    >>> coadd, truth = CoaddSimulator(10).simulate(rng=1)
    >>> finder = BlissFinder(psf=coadd.psf, bkg_error=coadd.bkg_error,
    ...                      effective_gain=coadd.effective_gain,
    ...                      background=0.0)
    >>> sources = finder(coadd.data - coadd.background)
    >>> sources.colnames
    ['id', 'x_centroid', 'y_centroid', 'flux', 'probability']
    """

    def __init__(self, threshold=0.5, **kwargs):
        if 'mask' in kwargs:
            msg = 'mask is given when the finder is called'
            raise TypeError(msg)
        self.threshold = threshold
        self.kwargs = kwargs

    def __repr__(self):
        return f'BlissFinder(threshold={self.threshold})'

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
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NoDetectionsWarning)
            catalog = detect_sources(data, self.threshold, mask=mask, **self.kwargs)
        if len(catalog) == 0:
            warnings.warn(
                f'no source has a probability above {self.threshold}',
                NoDetectionsWarning,
                stacklevel=2,
            )
            return None
        names = ('id', 'x_centroid', 'y_centroid', 'flux', 'probability')
        table = QTable({name: catalog[name] for name in names})
        table['id'] = np.arange(1, len(table) + 1)
        return table
