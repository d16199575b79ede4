# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Accuracy of rendered galaxies, and checks of what can be rendered.
"""

import dataclasses
import math

import numpy as np
import torch

from bliss_astro._arguments import check_ranges, first_wrong, require
from bliss_astro.priors import GALAXY_SHAPE_NAMES
from bliss_astro.units import FWHM_PER_SIGMA

from ._profiles import BULGE_SLOPE, DISK_RADIUS

# Periods of up to 2**8 times that of the finest level.
_MAX_LEVELS = 8

# Ranges in words and as a test: of parameters, and of arrays of a galaxy's numbers.
_POWERS = [2**k for k in range(4, 31)]
_POSITIVE = ('finite and positive', lambda v: (v > 0) & (v < math.inf))
_RATIO = ('in (0, 1]', lambda v: (v > 0) & (v <= 1))
_RANGES = {
    'sizes': (
        'ascending powers of two from 16',
        lambda v: len(v) > 0 and list(v) == [side for side in _POWERS if side in v],
    ),
    'disk_extent': _POSITIVE,
    'bulge_extent': _POSITIVE,
    'psf_extent': _POSITIVE,
    'period': _POSITIVE,
    'sharpness': ('in [1e-12, 1)', lambda v: 1e-12 <= v < 1),
    'aliasing': ('in [1e-12, 1)', lambda v: 1e-12 <= v < 1),
    'max_folds': ('an integer from 1 to 6', range(1, 7).__contains__),
    'psf_bits': ('an integer from 1 to 10', range(1, 11).__contains__),
}
_GALAXY_RANGES = {
    'disk_fraction': ('in [0, 1]', lambda v: (v >= 0) & (v <= 1)),
    'angle': ('finite', np.isfinite),
    'disk_axis_ratio': _RATIO,
    'bulge_axis_ratio': _RATIO,
    'disk_radius': _POSITIVE,
    'bulge_radius': _POSITIVE,
}


@dataclasses.dataclass(frozen=True)
class RenderingAccuracy:
    """
    The accuracy of `render_galaxies`.

    The defaults keep 99 % of the galaxies of the NPE paper's prior within 3e-4
    of their peak, and those of ``RenderingAccuracy.training()`` within 2e-3.

    Parameters
    ----------
    sizes : tuple of int
        Sides in pixels of the stamps on which galaxies are drawn, powers of
        two in ascending order. A galaxy is cut off where its stamp ends.

    disk_extent, bulge_extent : float
        Half the side of a stamp in semi-major half-light radii.

    psf_extent : float
        Addition for the PSF, in units of its ``sigma1``.

    period : float
        Smallest period of the repeated picture that a Fourier sum draws, in
        units of the stamp or of the galaxy's extent: larger values let
        less of far wings come in from the other side.

    sharpness : float
        Brightness, relative to the centre, below which the sharp details of a
        long galaxy (an edge-on disk) may be repeated.

    aliasing : float
        Share of the transform of the PSF's core that may lie beyond the
        wavenumbers that are folded back to those of the pixels.

    max_folds : int
        How many times the range of the pixels' wavenumbers may be needed for
        that, per axis; at most 6. It limits how narrow a PSF may be.

    psf_bits : int
        Nodes of the table of a PSF: ``2**psf_bits`` for each factor of two in
        the squared wavenumber.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from bliss_astro.rendering import RenderingAccuracy
    >>> RenderingAccuracy.training().sizes
    (64, 128, 256)
    >>> round(RenderingAccuracy().min_sigma, 2)
    0.31
    """

    sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    disk_extent: float = 5.0
    bulge_extent: float = 8.0
    psf_extent: float = 12.0
    period: float = 4.0
    sharpness: float = 5e-4
    aliasing: float = 1e-4
    max_folds: int = 4
    psf_bits: int = 5

    def __post_init__(self):
        check_ranges(vars(self), _RANGES)
        object.__setattr__(self, 'sizes', tuple(map(int, self.sizes)))
        for name in ('max_folds', 'psf_bits'):
            object.__setattr__(self, name, int(getattr(self, name)))

    @classmethod
    def training(cls):
        """
        Faster and good enough for noisy images: 2e-3 of the peak.

        Faint wings beyond the stamp are lost or repeated: the flux on an image
        may be off by 2 %.
        """
        return cls(
            sizes=(64, 128, 256),
            disk_extent=4.0,
            bulge_extent=5.0,
            psf_extent=6.0,
            period=1.0,
            sharpness=2e-3,
            aliasing=1e-3,
            psf_bits=4,
        )

    @property
    def min_sigma(self):
        """Narrowest core of a PSF that ``max_folds`` allows, in pixels."""
        return _deviations(self.aliasing) / (math.pi * self.max_folds)


def _deviations(share):
    # Standard deviations beyond which a Gaussian has this share, both sides.
    quantile = torch.special.ndtri(torch.tensor(share / 2, dtype=torch.float64))
    return -float(quantile)


def _core_sigma(psf):
    """Standard deviation of the core of PSFs in pixels."""
    closed = psf.shape is not None
    return psf.shape[..., 0] if closed else psf.fwhm / FWHM_PER_SIGMA


def narrowest_sigma(psf):
    """Standard deviation of the narrowest Gaussian of PSFs along its minor axis."""
    if psf.shape is not None:
        # Not of the power law, whose narrow Gaussians are faint.
        s1, s2, b = psf.shape[..., :3].unbind(-1)
        core = torch.where(b > 0, torch.minimum(s1, s2), s1)[..., None]
    else:
        core = torch.where(psf.height > 0, psf.variance.sqrt(), math.inf)
    e = torch.hypot(*psf.components[4:])
    return (core * ((1 - e) / (1 + e)) ** 0.25).amin(-1)


def folds_of(psf, accuracy):
    """How many times the range of pixels' wavenumbers each PSF fills, per axis."""
    reach = _deviations(accuracy.aliasing) / (math.pi * narrowest_sigma(psf))
    # A rounding error is no reason to fold once more.
    return torch.ceil(reach - 1e-4).clamp(1, accuracy.max_folds).long()


def extent_of(galaxy, psf, accuracy):
    """Half the side of the square that a galaxy ``(..., 6)`` needs, in pixels."""
    fraction, disk, bulge = galaxy[..., 0], galaxy[..., 4], galaxy[..., 5]
    disk = accuracy.disk_extent * disk * (fraction > 0)
    bulge = accuracy.bulge_extent * bulge * (fraction < 1)
    return torch.maximum(disk, bulge) + accuracy.psf_extent * _core_sigma(psf)


def sharp_extent_of(galaxy, psf, accuracy):
    """How far from its centre a galaxy has details that level 0 has to draw."""
    sigma = _core_sigma(psf)
    disk_ratio, bulge_ratio, disk_radius, bulge_radius = galaxy[:, 2:].unbind(1)
    tip = accuracy.sizes[0] / 2

    def details(ratio, length):
        # Share of a smooth profile in high wavenumbers: the fourth derivative
        # across its tip, where exp(-rho / length) is q sqrt(length tip) wide.
        width2 = ratio**2 * length * tip + sigma**2
        share = (45 / width2**2).clamp(max=1)
        return torch.log(share / accuracy.sharpness).clamp(min=0)

    length = disk_radius / DISK_RADIUS
    disk = length * details(disk_ratio, length)
    # The PSF spreads a bulge's cusp to about the brightness at one sigma.
    centre = BULGE_SLOPE * (sigma / bulge_radius) ** 0.25
    # The length over which a bulge falls by e, at the tip.
    length = 4 * tip / (BULGE_SLOPE * (tip / bulge_radius) ** 0.25)
    fall = centre + details(bulge_ratio, length)
    bulge = bulge_radius * (fall / BULGE_SLOPE) ** 4
    disk, bulge = disk * (galaxy[:, 0] > 0), bulge * (galaxy[:, 0] < 1)
    return torch.maximum(disk, bulge)


def plans_of(galaxy, psf, size, accuracy):
    """
    Choose stamps, periods and folds of galaxies ``(G, 6)``, each with its PSF.

    Returns int ``(G, 4)``: stamp and period of level 0 (indices into
    ``accuracy.sizes``), number of levels, folds.
    """
    sizes = accuracy.sizes
    extent = extent_of(galaxy, psf, accuracy)
    # No stamp need be larger than what reaches over the whole image.
    limit = next((s for s in sizes if s >= 2 * max(size)), sizes[-1])
    stamp = _first_at_least(2 * extent, [s for s in sizes if s <= limit])
    base = _first_at_least(2 * sharp_extent_of(galaxy, psf, accuracy), sizes)
    stamp = torch.maximum(stamp, base)
    sides = torch.tensor(sizes, device=extent.device, dtype=extent.dtype)
    period = accuracy.period * torch.maximum(2 * extent, sides[stamp])
    doublings = torch.log2(period / sides[base]).ceil().clamp(0, _MAX_LEVELS)
    return torch.stack([stamp, base, 1 + doublings.long(), folds_of(psf, accuracy)], 1)


def _first_at_least(values, steps):
    """Index of the first of the ascending ``steps`` that is no less."""
    steps = torch.as_tensor(steps, device=values.device, dtype=values.dtype)
    return torch.searchsorted(steps, values.contiguous()).clamp(max=len(steps) - 1)


def check_galaxies(galaxy, *, psf=None, accuracy=None):
    """
    Galaxies ``(..., 6)`` in double precision, or an error where one cannot be rendered.

    Numbers are in their ranges, and with a `GaussianPSF` sizes fit into the stamps of
    the accuracy and cores into its grid.
    """
    galaxy = np.asarray(galaxy, dtype=float)
    allowed = f'have 6 numbers in its last axis ({", ".join(GALAXY_SHAPE_NAMES)})'
    require(galaxy.shape[-1:] == (6,), 'galaxy', allowed, f'shape {galaxy.shape}')
    for k, name in enumerate(GALAXY_SHAPE_NAMES):
        words, is_allowed = _GALAXY_RANGES[name]
        sound = is_allowed(galaxy[..., k])
        wrong = first_wrong(galaxy[..., k], sound)
        require(np.all(sound), name, f'be {words}', wrong)
    if psf is not None:
        _check_fits(galaxy, psf, RenderingAccuracy() if accuracy is None else accuracy)
    return galaxy


def _check_fits(galaxy, psf, accuracy):
    """Compare the PSF with the grid and the galaxies with the largest stamp."""
    narrow = narrowest_sigma(psf)
    # Single precision may have rounded a width that is just allowed.
    sound = bool((narrow >= accuracy.min_sigma * (1 - 1e-4)).all())
    allowed = (
        f'have a core of sigma >= {accuracy.min_sigma:.3g} pixels along its minor '
        'axis, to be resolved by the grid (see max_folds of RenderingAccuracy)'
    )
    require(sound, 'psf', allowed, f'{float(narrow.min()):.3g}')
    extent = extent_of(torch.as_tensor(galaxy), psf, accuracy).numpy()
    largest = accuracy.sizes[-1]
    if np.any(2 * extent > largest):
        worst = galaxy[..., 4:].reshape(-1, 2)[np.argmax(extent)]
        msg = (
            'disk_radius and bulge_radius must fit into the largest stamp of '
            f'{largest} pixels (sizes of RenderingAccuracy), got {worst[0]:g} and '
            f'{worst[1]:g}, which need {2 * extent.max():.0f} pixels'
        )
        raise ValueError(msg)
