# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Lazy exports: public names of a folder, imported when they are first used (PEP 562).
"""

import importlib
import sys

from ._deprecated import deprecated_names


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
        (`~bliss_astro._deprecated.deprecated_names`).
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
