# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Normalization of the encoder's inputs: scalings that belong to trained weights.

Every number here is part of the bundled weights: a change of one needs new weights.
Unless stated otherwise, offsets and widths are rounded means and standard deviations
over the training simulations of the encoder 'stars'. (The features of PSFs are scaled
by `bliss_astro.psf.describe_shape`.)
"""

import dataclasses
import math

from bliss_astro.psf._mixture import DEFAULT_SHAPE


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The map ``gain * (value - offset) / width`` to about unit size."""

    offset: float = 0.0
    width: float = 1.0
    gain: float = 1.0

    def __call__(self, value):
        return self.gain * (value - self.offset) / self.width


FEATURES = {
    # Logarithm of the noise in electrons: e^4.2 = 67.
    'log_noise': Scaling(offset=4.2, width=1.2),
    # Correlations of 0 to 0.25, those of deep coadds, become -0.5 to 0.5.
    'correlation': Scaling(offset=0.125, gain=4.0),
    # Logarithm of sources per pixel: e^-7 = 9e-4.
    'log_density': Scaling(offset=-7.0, width=2.5),
    # Logarithm of the flux floor over the noise of a pixel.
    'log_flux_floor': Scaling(offset=3.5),
    # Logarithm of the signal-to-noise ratio at the flux floor: e^1.8 = 6.
    'log_snr': Scaling(offset=1.8),
    # Relative error of the PSF's width over the usual one: above it, and as a
    # logarithm below it, where bright sources show the difference. Gains bring the
    # ranges of the encoder 'stars-galaxies' to about unit size.
    'psf_error': Scaling(gain=15.0),
    'log_psf_error': Scaling(gain=0.4),
    # Error of the background over the noise of a pixel, above the usual one.
    'background_error': Scaling(gain=7.0),
    # Coma and trefoil of the PSF: a standard deviation of 0.03 or so.
    'asymmetry': Scaling(gain=30.0),
}

# Pixels over the noise at which the second, compressed channel bends.
ASINH_KNEE = 30
# Logarithm of the density in sources per pixel where the prior has none.
EMPTY_LOG_DENSITY = math.log(1e-7)
# Relative error of the PSF's width below which it counts as exact.
EXACT_PSF_ERROR = 0.001
# Least sum of the noise's correlations over all lags, of anticorrelated noise.
LEAST_NOISE_EXCESS = 0.2

# Logarithm of the profile at 1, 2, 4 and 8 px over the centre, as `describe_shape`
# scales it: the 1st percentile of `SeeingPrior`. Fainter wings leave no light.
WING_FLOOR = (-1.5, -3.0, -3.0, -3.1)

# Noise in electrons and PSF in place of masked inputs: those of SDSS run 94, camcol
# 1, field 12, which Patel et al. (2025) simulate.
REFERENCE_NOISE = 865.0**0.5
REFERENCE_PSF = DEFAULT_SHAPE

# Widths in pixels of the Gaussians of the matched filter, which together make the
# PSFs of SDSS to a few per cent, and its half-size in pixels.
FILTER_SIGMAS = (0.85, 1.3, 2.0, 3.0)
FILTER_RADIUS = 8
# Widths and half-size in pixels of the filters for what is larger than a PSF.
WIDE_SIGMAS = (2.6, 5.0)
WIDE_RADIUS = 14
