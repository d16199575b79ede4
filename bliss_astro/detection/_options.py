# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Options of a detection: one set for `detect_sources`, `BlissFinder` and completeness.
"""

import copy
import dataclasses
import os

import astropy.units as u
import numpy as np

from bliss_astro._devices import choose_device
from bliss_astro._messages import first_wrong
from bliss_astro._threads import check_n_threads
from bliss_astro.catalog._arguments import check_count, check_threshold
from bliss_astro.encoders import Encoder

from ._domain import brightest_flux

__all__ = [
    'IMAGE_OPTIONS',
    'DetectionOptions',
    'check_density',
    'check_flux_min',
    'strip_flux_unit',
]

IMAGE_OPTIONS = (
    'psf',
    'fwhm',
    'background',
    'bkg_error',
    'weight',
    'effective_gain',
    'saturation',
    'zero_point',
    'mask',
    'wcs',
    'extension',
    'psf_error',
    'background_error',
)
"""Options that describe the image; those that are `None` are estimated."""


@dataclasses.dataclass(kw_only=True, eq=False)
class DetectionOptions:
    """
    Options of `detect_sources`, where each is described.
    """

    threshold: float = 0.5
    encoder: object = None
    psf: object = None
    fwhm: object = None
    background: object = None
    bkg_error: object = None
    weight: object = None
    effective_gain: object = None
    saturation: object = None
    zero_point: float | None = None
    mask: object = None
    wcs: object = None
    extension: object = None
    psf_error: float | None = None
    background_error: float | None = None
    density: object = None
    flux_min: object = None
    population: str = 'sky'
    n_samples: int = 0
    rng: object = None
    device: object = 'auto'
    bin: int | str | None = None
    n_threads: int | None = None
    progress_bar: bool | str = 'auto'
    check: bool = True

    def __post_init__(self):
        self.threshold = check_threshold(self.threshold)
        self.n_samples = check_count('n_samples', self.n_samples)
        check_n_threads(self.n_threads)
        if not isinstance(self.check, bool | np.bool_):
            msg = f'check must be True or False, got {self.check!r:.60}'
            raise TypeError(msg)
        if self.population not in ('sky', 'npe'):
            msg = f"population must be 'sky' or 'npe', got {self.population!r}"
            raise ValueError(msg)
        known = self.encoder is None or isinstance(self.encoder, str | os.PathLike)
        if not known and not isinstance(self.encoder, Encoder):
            msg = (
                'encoder must be an Encoder, the name of a bundled one or a path, got '
                f'{type(self.encoder).__name__}'
            )
            raise TypeError(msg)

    @property
    def image(self):
        """Those that describe the image, without those to be estimated (dict)."""
        values = {name: getattr(self, name) for name in IMAGE_OPTIONS}
        return {name: value for name, value in values.items() if value is not None}

    def load_encoder(self):
        """The encoder, on the device."""
        encoder = self.encoder
        if not isinstance(encoder, Encoder):
            encoder = Encoder.from_pretrained(encoder)
        device = choose_device(self.device)
        if encoder.device.type == device.type:
            return encoder
        # The caller's own encoder stays where it is.
        return copy.deepcopy(encoder).to(device)


def strip_flux_unit(name, value, unit):
    """Values of an argument in the unit of the data, which both have or neither."""
    own = getattr(value, 'unit', None)
    if (own is None) != (unit is None):
        having, lacking = ('data', name)[:: 1 if own is None else -1]
        msg = f'{having} has a unit and {lacking} has none; give units to both or none'
        raise ValueError(msg)
    if own is None:
        return value
    if not own.is_equivalent(unit):
        msg = f'{name} must have units of {unit}, got {own}'
        raise ValueError(msg)
    return value.to_value(unit)


def check_flux_min(flux_min, exposure):
    """Flux floor in the unit of an exposure (float), or `None`."""
    if flux_min is None:
        return None
    flux_min = strip_flux_unit('flux_min', flux_min, exposure.unit)
    value = np.asarray(flux_min)
    if value.ndim or value.dtype.kind not in 'fiu':
        msg = f'flux_min must be one real number, got {flux_min!r:.60}'
        raise TypeError(msg)
    if not (np.isfinite(value) and value > 0):
        msg = f'flux_min must be positive and finite, got {flux_min}'
        raise ValueError(msg)
    brightest = brightest_flux(exposure)
    if value > brightest:
        unit = '' if exposure.unit is None else f' {exposure.unit}'
        msg = (
            'flux_min must be below the flux of the brightest source of the image, '
            f'about {brightest:.3g}{unit}, got {float(value):g}{unit}'
        )
        raise ValueError(msg)
    return float(value)


def check_density(density, exposure):
    """Prior density per pixel as a float array, 0D or of the exposure's shape."""
    if density is None:
        return None
    if getattr(density, 'unit', None) is not None:
        if not density.unit.is_equivalent(u.pix**-2):
            msg = f'density must be per square pixel, got {density.unit}'
            raise ValueError(msg)
        density = density.to_value(u.pix**-2)
    value = np.asarray(density)
    if value.dtype.kind not in 'fiu':
        msg = f'density must be a real number or a map, got {density!r:.60}'
        raise TypeError(msg)
    value = value.astype(float)
    if value.ndim not in (0, 2) or (value.ndim == 2 and value.shape != exposure.shape):
        msg = (
            f'density must be a number or a map of shape {exposure.shape}, got shape '
            f'{value.shape}'
        )
        raise ValueError(msg)
    if not np.all(np.isfinite(value)) or np.any(value < 0) or not value.max() > 0:
        msg = (
            'density must be finite, not negative and somewhere positive, got '
            f'{first_wrong(value, np.isfinite(value) & (value > 0))}'
        )
        raise ValueError(msg)
    return value
