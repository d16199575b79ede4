# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Probabilistic catalogues of stars and galaxies from astronomical images.

An image goes in, with what is known of its point-spread function, background
and noise; a posterior over catalogues comes out, as an astropy table in which
every row carries a probability and every measurement an honest error.

Data enter at the top of this list and never turn back; a folder imports only
the folders above it::

    surveys      what the files of a survey say
    psf          the point-spread function
    priors       what may be on the sky, and how it is seen
    rendering    what a perfect camera sees
    exposures    what a real camera records
    coadds       align, weight, stack
    simulation   simulated images with their truth
    posteriors   tiles, factors, sampling, loss
    encoders     from an image to a posterior
    galaxies     the learned galaxy model (autoencoder)
    catalog      what the user holds
    detection    the door: detect_sources, BlissFinder
    checks       posterior predictive check, completeness, reconstruction
    training     training of encoders, recipes for a camera
    -----------------------------------------------------
    metrics, plotting, cli    around the flow

The names below are also found in the folder that defines them; they are
imported when first used, so that ``import bliss_astro`` stays cheap.
"""

import importlib

from ._deprecated import deprecated_names

try:
    from ._version import version as __version__
except ImportError:  # a source tree that was never installed
    __version__ = '0.1.dev0'

# Which folder defines each public name.
_HOME_OF = {
    'BlissFinder': 'detection',
    'CatalogCheckWarning': '_warnings',
    'CatalogFlag': 'flags',
    'CatalogPosterior': 'catalog',
    'Coadd': 'coadds',
    'CoaddSimulator': 'simulation',
    'Encoder': 'encoders',
    'EncoderInputs': 'encoders',
    'Exposure': 'exposures',
    'NoDetectionsWarning': '_warnings',
    'OutOfDomainWarning': '_warnings',
    'PSFModel': 'psf',
    'PosteriorDroppedWarning': '_warnings',
    'ProbabilisticCatalog': 'catalog',
    'StarPrior': 'priors',
    'TileGrid': 'posteriors',
    'TilePosterior': 'posteriors',
    'align_exposures': 'coadds',
    'coadd_exposures': 'coadds',
    'completeness': 'checks',
    'decode_flags': 'flags',
    'detect_sources': 'detection',
    'reconstruct': 'checks',
}

_FOLDERS = (
    'surveys',
    'psf',
    'priors',
    'rendering',
    'exposures',
    'coadds',
    'simulation',
    'posteriors',
    'encoders',
    'galaxies',
    'catalog',
    'detection',
    'checks',
    'training',
    'metrics',
    'plotting',
)

__all__ = [
    'BlissFinder',
    'CatalogCheckWarning',
    'CatalogFlag',
    'CatalogPosterior',
    'Coadd',
    'CoaddSimulator',
    'Encoder',
    'EncoderInputs',
    'Exposure',
    'NoDetectionsWarning',
    'OutOfDomainWarning',
    'PSFModel',
    'PosteriorDroppedWarning',
    'ProbabilisticCatalog',
    'StarPrior',
    'TileGrid',
    'TilePosterior',
    '__version__',
    'align_exposures',
    'coadd_exposures',
    'completeness',
    'decode_flags',
    'detect_sources',
    'reconstruct',
]


def __getattr__(name):
    """
    Import a public name or a folder when it is first asked for (PEP 562).
    """
    if name in _HOME_OF:
        module = importlib.import_module(f'.{_HOME_OF[name]}', __name__)
        value = getattr(module, name)
        globals()[name] = value
        return value
    if name in _FOLDERS:
        return importlib.import_module(f'.{name}', __name__)
    return deprecated_names(__name__)(name)


def __dir__():
    """
    List the public names and folders, imported yet or not.
    """
    return sorted({*globals(), *__all__, *_FOLDERS})
