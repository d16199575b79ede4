# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
James Webb Space Telescope: resampled images (``i2d``) of its imaging pipeline.
"""

from ._exposure import find_fields, open_field, read_exposure

__all__ = ['find_fields', 'open_field', 'read_exposure']
