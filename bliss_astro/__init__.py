# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Source catalogues with detection probabilities and calibrated uncertainties.

From an image, its point-spread function, background and noise, an encoder infers the
posterior of the catalogue: an astropy table in which every row has a probability, every
measurement an error, and from which whole catalogues can be drawn.

A folder imports only the folders above it in this list::

    units, flags   magnitudes, units as text; bits of the flags column
    psf            point-spread functions: model, variation, estimation from stars
    priors         distributions of sources and of observing conditions
    rendering      noiseless images of stars and galaxies: GalSim, torch
    exposures      images with sky, noise, mask, PSF and WCS
    coadds         aligned, weighted, stacked exposures
    simulation     simulated images with their truth
    posteriors     tiles, factors, chain of parameters, sampling, loss
    encoders       networks from images to posteriors, pretrained weights
    galaxies       learned galaxy model (autoencoder)
    catalog        ProbabilisticCatalog, CatalogPosterior, files
    detection      detect_sources, detect_many, BlissFinder, estimates
    checks         posterior predictive check, completeness, reconstruction
    training       training of encoders, recipes for a camera
    surveys        plug-ins of surveys: SDSS
    runs           many fields in parallel: run_survey, open_survey
    metrics        matching, scores, calibration, bounds
    plotting, cli  figures, command line

The names below are also found in the folder that defines them; they are
imported when first used, so that ``import bliss_astro`` stays cheap.
"""

import importlib

from ._lazy import lazy_exports

try:
    from ._version import version as __version__
except ImportError:  # a source tree that was never installed
    __version__ = '0.1.dev0'

_FOLDERS = (
    *('units', 'flags', 'psf', 'priors', 'rendering', 'exposures', 'coadds'),
    *('simulation', 'posteriors', 'encoders', 'galaxies', 'catalog', 'detection'),
    *('checks', 'training', 'surveys', 'runs', 'metrics', 'plotting'),
)

_export, _names, __all__ = lazy_exports(
    __name__,
    _warnings='CatalogCheckWarning NoDetectionsWarning OutOfDomainWarning '
    'PosteriorDroppedWarning',
    catalog='CatalogPosterior ProbabilisticCatalog',
    checks='completeness reconstruct',
    coadds='Coadd align_bands align_exposures coadd_exposures',
    detection='BlissFinder detect_many detect_sources',
    encoders='Encoder EncoderInputs',
    exposures='Band Exposure ExposureSet',
    flags='CatalogFlag decode_flags',
    posteriors='TileGrid TilePosterior',
    priors='StarPrior',
    psf='PSFModel',
    simulation='CoaddSimulator',
)
__all__ += ['__version__']


def __getattr__(name):
    """Import a public name or a folder when it is first used (PEP 562)."""
    if name in _FOLDERS:
        return importlib.import_module(f'.{name}', __name__)
    return _export(name)


def __dir__():
    """List the public names and folders, imported yet or not."""
    return sorted({*_names(), *__all__, *_FOLDERS})
