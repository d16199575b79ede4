# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posterior predictive check, completeness by injection and reconstruction.

Catalogues against their images::

    _model, _rendering   the image that a catalogue stands for
    _check               posterior predictive check: what the user holds
    _self_check          residual check of every detection
    _completeness        recall, bias and limits by injected sources
    _reconstruction      model, residual and the light of single sources
"""

from ._check import CatalogCheck
from ._completeness import completeness
from ._places import CheckFinding
from ._recall import Completeness
from ._reconstruct import reconstruct
from ._reconstruction import Reconstruction, SourceImage

__all__ = [
    'CatalogCheck',
    'CheckFinding',
    'Completeness',
    'Reconstruction',
    'SourceImage',
    'completeness',
    'reconstruct',
]
