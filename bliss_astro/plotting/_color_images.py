# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Colour pictures of three bands, by the method of Lupton et al. (2004, PASP 116, 133).
"""

from collections.abc import Mapping

import numpy as np

from bliss_astro._arguments import require
from bliss_astro.catalog._bands import WAVELENGTHS

from . import _axes

# Brightness up to which the scale is linear, in units of the noise, and its softening.
_STRETCH, _SOFTENING = 8.0, 8.0


def choose_bands(images, bands=None):
    """
    Names of the bands that are shown in red, green and blue.

    By default the reference band, which is the first one, and its neighbours in
    wavelength; of bands whose wavelengths are not known, in their order. None for one
    image, or less than three bands.
    """
    if not isinstance(images, Mapping):
        require(bands is None, 'bands', 'be left out for one image', bands)
        return None
    names = [str(name) for name in images]
    require(names, 'data', 'have a band', 'none')
    if bands is not None:
        bands = tuple(map(str, bands))
        sound = len(bands) == 3 and {*bands} <= {*names}
        require(sound, 'bands', f'be three of {", ".join(names)}', bands)
        return bands
    if len(names) < 3:
        return None
    known = {name: _wavelength(name, images[name]) for name in names}
    in_order = sorted(names, key=known.get) if all(known.values()) else names
    middle = np.clip(in_order.index(names[0]), 1, len(names) - 2)
    return tuple(in_order[middle - 1 : middle + 2])[::-1]


def _wavelength(name, image):
    """Effective wavelength of a band, None if it is not known."""
    band = getattr(getattr(image, 'exposure', image), 'band', None)
    return getattr(band, 'wavelength', WAVELENGTHS.get(name))


def color_image(images, noise):
    """
    Colour picture of images above the sky in red, green and blue.

    Each is taken in units of its noise, so that the sky is dark and has no colour.
    Pixels that are bad in any of them have the colour of bad pixels.
    """
    from astropy.visualization import make_lupton_rgb
    from matplotlib.colors import to_rgb

    scaled = [np.asarray(v, float) / n for v, n in zip(images, noise, strict=True)]
    bad = ~np.isfinite(scaled).all(0)
    options = {'minimum': -0.5, 'stretch': _STRETCH, 'Q': _SOFTENING}
    picture = make_lupton_rgb(*(np.where(bad, 0.0, v) for v in scaled), **options)
    picture[bad] = np.round(255 * np.array(to_rgb(_axes.BAD_PIXELS)))
    return picture
