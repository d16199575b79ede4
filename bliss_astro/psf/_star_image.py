# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images in units of their noise, for the search for stars.
"""

import dataclasses
import types

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro._warnings import collect_warnings
from bliss_astro.units import MAD_TO_SIGMA

from ._inputs import take_apart, without_unit

__all__ = ['StarImage', 'image_of_exposure', 'read_image']

# Pixels that share the largest value where it is a plateau of saturation.
_MIN_PLATEAU = 4
# Stars that reach this share of the level of a plateau are no longer linear.
_LINEAR_SHARE = 0.9
# Side of the cells of the mesh of the sky in pixels.
_BOX_SIZE = 64


@dataclasses.dataclass
class StarImage:
    """
    An image over its noise.

    ``pull`` is signal over noise (ny, nx), ``photon`` the variance that a unit of
    it adds, ``noise`` the typical noise in the unit of the image, ``full`` pixels
    that are saturated or nearly, ``unit`` that of the image.
    """

    pull: np.ndarray
    bad: np.ndarray
    noise: float
    photon: float
    full: np.ndarray
    unit: object = None

    @property
    def shape(self):
        """Rows and columns."""
        return self.pull.shape

    def saturated_at(self, sources):
        """Whether a saturated pixel lies in the core of each source."""
        if not self.full.any():
            return np.zeros(len(sources), bool)
        from scipy.spatial import cKDTree

        rows, columns = np.nonzero(self.full)
        places = np.c_[sources.x, sources.y]
        apart, _ = cKDTree(np.c_[columns, rows]).query(places)
        return apart < 1.5 * sources.width + 1.5


def read_image(image, *, mask=None, **given):
    """Make a `StarImage` of an exposure, or of an image and its properties."""
    # Exposures are made below this folder, and so known by their properties alone.
    if hasattr(image, 'bkg_error') and hasattr(image, 'saturated'):
        for name, value in {**given, 'mask': mask}.items():
            if value is not None:
                msg = (
                    f'{name} was given although image is an exposure, which carries '
                    'its own; change it there with replace()'
                )
                raise ValueError(msg)
        return image_of_exposure(image)
    data, bad, _, unit = take_apart(image, None, mask, (2,), name='image')
    values = {name: without_unit(value, name, unit) for name, value in given.items()}
    if values['background'] is None:
        values['background'] = _background(data, bad)
    if values['bkg_error'] is None:
        values['bkg_error'] = _noise((data - values['background'])[~bad])
    for name in ('background', 'bkg_error'):
        shape = np.shape(values[name])
        if shape not in ((), data.shape):
            msg = f'{name} must be a number or have shape {data.shape}, got {shape}'
            raise ValueError(msg)
    error = np.broadcast_to(values['bkg_error'], data.shape)[~bad]
    if not np.all(error > 0):
        msg = f'bkg_error must be > 0 in every good pixel, got {np.min(error)}'
        raise ValueError(msg)
    values |= {'data': data, 'mask': bad, 'saturated': np.zeros(data.shape, bool)}
    return image_of_exposure(types.SimpleNamespace(unit=unit, **values))


def image_of_exposure(exposure):
    """Return the `StarImage` of an exposure: its pixels over their noise."""
    data, sky = exposure.data, exposure.background
    noise = float(np.median(np.asarray(exposure.bkg_error, float)))
    full = exposure.saturated.copy()
    with np.errstate(invalid='ignore', over='ignore', divide='ignore'):
        pull = (np.asarray(data, float) - sky) / exposure.bkg_error
        if exposure.saturation is not None:
            full |= data >= exposure.saturation
        bad = exposure.mask | ~np.isfinite(pull)
        level = _plateau(data, bad)
        if level is not None:
            sky = np.asarray(sky, float)
            full |= ~bad & (data - sky >= _LINEAR_SHARE * (level - sky))
    pull = np.where(bad, 0, pull).astype(np.float32)
    gain = exposure.effective_gain
    photon = 0.0 if gain is None else 1 / (float(np.median(gain)) * noise)
    return StarImage(pull, bad, noise, photon, full, exposure.unit)


def _plateau(data, bad):
    """The largest value, where several neighbouring pixels share it."""
    from scipy.ndimage import label

    good = ~bad
    if not good.any():
        return None
    top = np.max(data, where=good, initial=-np.inf)
    flat = good & (data >= top - 1e-6 * abs(top))
    if np.count_nonzero(flat) < _MIN_PLATEAU:
        return None
    _, n_groups = label(flat)
    return float(top) if np.count_nonzero(flat) >= 2 * n_groups else None


def _background(data, bad):
    """Measure the sky on a mesh."""
    from photutils.background import Background2D, SExtractorBackground

    with collect_warnings(AstropyUserWarning):
        return Background2D(
            data,
            tuple(min(_BOX_SIZE, n) for n in data.shape),
            mask=bad,
            bkg_estimator=SExtractorBackground(),
            exclude_percentile=90.0,
        ).background


def _noise(residual):
    """Scatter of the negative side, as sources only brighten pixels."""
    below = residual[residual < 0]
    noise = MAD_TO_SIGMA * float(np.median(-below)) if len(below) else 0.0
    if not noise > 0:
        msg = 'bkg_error cannot be estimated: the image has no noise; give bkg_error'
        raise ValueError(msg)
    return noise
