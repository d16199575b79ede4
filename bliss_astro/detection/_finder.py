# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
`detect_sources`, configured once, as a finder of photutils.
"""

import dataclasses
import functools

import numpy as np
from astropy.table import QTable

from bliss_astro.catalog._bands import bands_of

from ._detect import DetectionOptions, detect
from ._many import check_names

_COLUMNS_OF_FINDER = ('x_centroid', 'y_centroid', 'flux', 'probability')


class BlissFinder:
    """
    A configured `detect_sources` for photutils' ``PSFPhotometry``.

    photutils hands a finder nothing but the image and its mask, so what
    else is known of the image is stored here once. Of several bands it hands one: what
    the finder returns of all is ``init_params`` of the photometry in each.

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
    >>> coadd, truth = CoaddSimulator(10).sample(rng=3)
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
                raise TypeError(f'{name} is given when the finder is called')
        check_names('BlissFinder', kwargs, without=('mask',))
        self.options = DetectionOptions(threshold=threshold, **kwargs)
        self._given = tuple(kwargs)

    @functools.cached_property
    def _encoder(self):
        """The encoder, loaded once."""
        return self.options.load_encoder()

    @property
    def threshold(self):
        """Smallest probability of a source (float)."""
        return self.options.threshold

    def __repr__(self):
        names = ''.join(f', {name}=...' for name in self._given)
        return f'BlissFinder(threshold={self.threshold}{names})'

    def __call__(self, data, mask=None):
        """
        Find sources.

        Parameters
        ----------
        data : 2D array_like or `~astropy.units.Quantity`
            The image; or one of several bands, as for `detect_sources`.

        mask : 2D bool array, or dict of them by band, optional
            `True` for bad pixels.

        Returns
        -------
        sources : `~astropy.table.QTable` or None
            ``id, x_centroid, y_centroid, flux, probability``, and ``flux_g`` and so on
            of several bands; `None` if nothing was found, as photutils' finders return.
        """
        own = {'mask': mask, 'encoder': self._encoder}
        catalog = detect(data, dataclasses.replace(self.options, **own))
        if len(catalog) == 0:
            return None
        names = *_COLUMNS_OF_FINDER, *(f'flux_{band}' for band in bands_of(catalog))
        columns = {name: catalog[name] for name in names}
        return QTable({'id': np.arange(1, len(catalog) + 1)} | columns)
