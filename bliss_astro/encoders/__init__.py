# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Encoders: networks from images to posteriors, and their pretrained weights.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _config='Domain EncoderConfig',
    _inputs='EncoderInputs',
    _network='Encoder',
    _weights='DEFAULT_ENCODER available_encoders',
)
