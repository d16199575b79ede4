# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Rendering: noiseless images of stars and galaxies.

`GalSimStarRenderer` and `GalSimGalaxyRenderer` are the references,
`TorchStarRenderer` and `TorchGalaxyRenderer` their fast twins; twins have the
same ``render`` method, and tests compare them. Training draws whole
batches with `render_stars` and `render_galaxies`.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _accuracy='RenderingAccuracy check_galaxies',
    _galaxies='TorchGalaxyRenderer render_galaxies',
    _galsim='GalSimGalaxyRenderer GalSimStarRenderer',
    _moments='adaptive_moments',
    _torch='TorchStarRenderer render_stars',
)
