# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Posterior predictive check, completeness by injection and reconstruction.

Catalogues against their images::

    _check               posterior predictive check, reconstruction
    _findings, _causes   tests, and what faults are due to
    _self_check          residual check of every detection
    _completeness        recall, bias and limits by injected sources
    _reconstruction      model, residual and the light of single sources
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _check='CatalogCheck reconstruct',
    _completeness='completeness',
    _recall='Completeness',
    _reconstruction='Reconstruction SourceImage',
)
