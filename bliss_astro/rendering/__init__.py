# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Rendering: noiseless images of stars and galaxies.

`GalSimRenderer` is the reference and `TorchRenderer` its fast twin; both have the
same ``render`` method, and tests compare them. Training draws whole
batches with `render_stars` and `render_galaxies`.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _accuracy='RenderingAccuracy',
    _batches='render_galaxies render_stars',
    _moments='adaptive_moments',
    _renderers='GalSimRenderer TorchRenderer',
)
