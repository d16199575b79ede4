# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Deprecated public names: one table of old and new homes.
"""

import importlib
import warnings

__all__ = ['MOVED', 'deprecated_names']

# Old path of a name -> new path; both below `bliss_astro`. Names stay importable by
# their old path for one release.
MOVED = {
    'catalog.CatalogFlag': 'flags.CatalogFlag',
    'catalog.decode_flags': 'flags.decode_flags',
    'coadds.CoaddBatch': 'simulation.SimulatedImages',
    'coadds.CoaddSimulator': 'simulation.CoaddSimulator',
    'detection.Recipe': 'training.Recipe',
    'detection.make_recipe': 'training.make_recipe',
    'encoders.SceneBatch': 'simulation.SimulatedImages',
    'encoders.SceneStream': 'simulation.SceneStream',
    'encoders.SimulationConfig': 'simulation.SimulationConfig',
    'encoders.SimulationStream': 'simulation.SimulationStream',
    'encoders.TrainingConfig': 'training.TrainingConfig',
    'encoders.load_config': 'training.load_config',
    'encoders.train_encoder': 'training.train_encoder',
    'galaxies.GalaxyBatch': 'simulation.GalaxyBatch',
    'galaxies.GalaxyStream': 'simulation.GalaxyStream',
    'galaxies.GalaxyTrainingConfig': 'training.GalaxyTrainingConfig',
    'galaxies.load_galaxy_config': 'training.load_config',
    'galaxies.train_galaxies': 'training.train_galaxies',
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
        folder = package.partition('.')[2]
        new = MOVED.get(f'{folder}.{name}' if folder else name)
        if new is None:
            msg = f'module {package!r} has no attribute {name!r}'
            raise AttributeError(msg)
        # Imported here, as `import bliss_astro` alone does not import astropy.
        from astropy.utils.exceptions import AstropyDeprecationWarning

        home, _, new_name = new.rpartition('.')
        home = f'bliss_astro.{home}' if home else 'bliss_astro'
        warnings.warn(
            f'{package}.{name} is deprecated and will be removed in the next release; '
            f'use {home}.{new_name}',
            AstropyDeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(home), new_name)

    return __getattr__
