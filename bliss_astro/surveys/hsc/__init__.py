# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
HSC and Rubin Observatory: images and coadds of the LSST Science Pipelines.

Files of the layout of ``calexp``: image, mask with planes by name, and variance.
"""

from ._exposure import find_fields, open_field, read_exposure

__all__ = ['find_fields', 'open_field', 'read_exposure']
