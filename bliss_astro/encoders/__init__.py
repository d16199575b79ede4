# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Encoders: networks from images to posteriors, and their pretrained weights.
"""

from bliss_astro._deprecated import deprecated_names

from ._config import EncoderConfig
from ._domain import Domain
from ._inputs import EncoderInputs
from ._network import Encoder
from ._weights import DEFAULT_ENCODER, available_encoders

__all__ = [
    'DEFAULT_ENCODER',
    'Domain',
    'Encoder',
    'EncoderConfig',
    'EncoderInputs',
    'available_encoders',
]

__getattr__ = deprecated_names(__name__)
