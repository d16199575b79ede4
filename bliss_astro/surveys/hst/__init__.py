# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Hubble Space Telescope: drizzled images (``drz``, ``drc``).
"""

from ._exposure import find_fields, open_field, read_exposure

__all__ = ['find_fields', 'open_field', 'read_exposure']
