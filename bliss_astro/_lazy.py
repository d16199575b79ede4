# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Imports when they are needed: public names of folders, moved names, plug-ins.

And `Encoder.infer <bliss_astro.encoders.Encoder.infer>`, a method that leads to a
folder above that of its class.
"""

import functools
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path


@functools.cache
def moved_names():
    """New path of each name that moved, by its old path, both below `bliss_astro`."""
    import tomllib

    path = Path(__file__).parent / 'data' / 'moved_names.toml'
    moved = {
        old: new.replace('*', old.rpartition('.')[2])
        for new, paths in tomllib.loads(path.read_text()).items()
        for old in paths
    }
    # Names of the first survey were found in the folder of surveys too.
    return moved | {
        old.replace('.sdss.', '.'): new
        for old, new in moved.items()
        if old.startswith('surveys.sdss.')
    }


def deprecated_names(package):
    """
    Make the ``__getattr__`` (PEP 562) of a folder from which names have moved.

    Parameters
    ----------
    package : str
        The folder's ``__name__``.

    Returns
    -------
    getattr : callable
        Imports a moved name from its new home, with an
        `~astropy.utils.exceptions.AstropyDeprecationWarning` that states it.
    """

    def __getattr__(name):  # noqa: N807
        old = f'{package}.{name}'.partition('.')[2]
        # Python looks for modules of a folder here too before it imports them.
        new = None if name.startswith('_') else moved_names().get(old)
        if new is None:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        # Imported here, as `import bliss_astro` alone does not import astropy.
        from astropy.utils.exceptions import AstropyDeprecationWarning

        from ._warnings import warn

        advice = f'use bliss_astro.{new}'
        if '._' in f'.{new}':
            advice = 'it is not part of the public interface'
        warn(
            f'{package}.{name} is deprecated and will be removed in the next release; '
            f'{advice}',
            AstropyDeprecationWarning,
        )
        return pkgutil.resolve_name(f'bliss_astro.{new}')

    return __getattr__


def lazy_exports(package, **modules):
    """
    Make ``__getattr__``, ``__dir__`` and ``__all__`` of a folder.

    Importing a folder then imports none of its modules, so that `detect_sources`
    loads the modules that it needs and no others.

    Parameters
    ----------
    package : str
        The folder's ``__name__``.

    **modules : str
        Module of the folder = its public names, separated by spaces.

    Returns
    -------
    getattr, dir, all : callable, callable, list of str
        For the folder's ``__init__.py``. Names that have moved warn
        (`deprecated_names`).
    """
    homes = {name: home for home, names in modules.items() for name in names.split()}
    moved = deprecated_names(package)

    def __getattr__(name):  # noqa: N807
        if name not in homes:
            return moved(name)
        module = importlib.import_module(f'{package}.{homes[name]}')
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__():  # noqa: N807
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__, sorted(homes)


# -- plug-ins ------------------------------------------------------------------------

# `bliss_astro.exposures`, `bliss_astro.psf` and `bliss_astro.priors` hold lists of
# readers, to which a plug-in (a survey, the files of coadds and simulations) adds those
# of its files when it is imported.
_SURVEYS = ('sdss', 'legacysurvey', 'hsc', 'jwst', 'hst')


def survey(name):
    """Import the plug-in of a survey: of this package, or an entry point of others."""
    path = f'bliss_astro.surveys.{name}'
    if not name.startswith('_') and importlib.util.find_spec(path):
        return importlib.import_module(path)
    from importlib.metadata import entry_points

    found = entry_points(group='bliss_astro.surveys')
    if name not in found.names:
        folders = pkgutil.iter_modules(
            importlib.import_module('bliss_astro.surveys').__path__
        )
        own = {one.name for one in folders if not one.name.startswith('_')}
        known = ', '.join(map(repr, sorted(own | found.names)))
        raise ValueError(f"survey must be one of 'fits', {known}; got {name!r}.")
    return found[name].load()


def downloads():
    """Import the module that downloads images of surveys and archives."""
    return importlib.import_module('bliss_astro.surveys._fetch')


def load_surveys():
    """Import all plug-ins, so that their formats are known."""
    for name in _SURVEYS:
        survey(name)


def load_readers():
    """Import surveys and simulations, so that their files are read as exposures."""
    load_surveys()
    importlib.import_module('bliss_astro.simulation._images')


def load_coadds():
    """Import coadds, so that their files are read as exposures."""
    importlib.import_module('bliss_astro.coadds._coadd')


def exposure_of(image, given):
    """Make an exposure of an image of any kind; what is not given is estimated."""
    return importlib.import_module('bliss_astro.exposures._read').exposure_of(
        image, {name: value for name, value in given.items() if value is not None}, {}
    )


def infer(
    self, exposures, *, density=None, keep='marginals', n_processes=None, **kwargs
):
    """
    Infer the posterior over catalogues of one or more images.

    The step from images to posteriors of all detection: what is not given is
    estimated, large images pass block by block, small ones several at once.

    Parameters
    ----------
    exposures : `~bliss_astro.exposures.Exposure` or iterable
        One image, of any kind that `~bliss_astro.detection.detect_sources` takes,
        or several: a list of such, a cube ``(n, ny, nx)``, an iterator.

    density : float, 2D array_like or list of these, optional
        Prior density of sources per pixel above the flux floor; by default from a
        first pass.

    keep : {'marginals', 'posterior', None}, optional
        Contents of posteriors beside their exposures: marginals of sources and numbers
        by tile; features and inputs of the encoder too; or numbers by tile alone, for
        counts. The rest is computed anew from the exposure when it is needed.

    n_processes : int, optional
        Processes that work on several images, as for
        `~bliss_astro.detection.detect_many`.

    **kwargs
        Keywords of `~bliss_astro.detection.detect_sources` about the image, its
        prior and the work; ``threshold`` is the probability down to which sources
        are described at once.  For several images a list has a value for each, as
        for `~bliss_astro.detection.detect_many`.

    Returns
    -------
    posterior : `~bliss_astro.catalog.CatalogPosterior` or iterator of them
        A single posterior for one image; for several images an iterator over theirs,
        in order, which takes images as it needs them.

    Raises
    ------
    TypeError, ValueError
        As `~bliss_astro.detection.detect_sources`; for several images after the
        posteriors of those before.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, Encoder
    >>> coadd, truth = CoaddSimulator(10).sample(rng=3)
    >>> posterior = Encoder.from_pretrained('stars').infer(coadd)
    >>> len(posterior.at_threshold(0.5)) == len(truth)
    True
    """
    detection = importlib.import_module('bliss_astro.detection._many')
    kwargs |= {'density': density, 'keep': keep, 'n_processes': n_processes}
    return detection.infer(self, exposures, **kwargs)
