# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Pixel geometry of exposures: WCS, cut-outs, and binning with its noise and PSF.
"""

from functools import partial

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.nddata import block_reduce
from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS

from bliss_astro._arguments import must
from bliss_astro._warnings import warn
from bliss_astro.psf import PSFModel
from bliss_astro.psf._kinds import FittedPSF
from bliss_astro.units import median_and_scatter, sparse

from ._noise import correlation_at
from ._psf import draw_psf_model

# Places along each axis at which a WCS is tried.
_N_PLACES = 5
# wcslib takes NaN for its mark of what is not defined, 9.9e107, and counts on.
_UNDEFINED = 1e100
# Largest shift between bands that is looked for (pixels), light of a pixel by which it
# is seen (sigma), what is wider than sources (pixels), sigma of the peak of the
# correlation, and the fewest pixels of light in both beyond those by chance, of which
# the most frequent of 1,000 shifts may have as many sigma more.
_LARGEST_SHIFT, _LIGHT, _WIDE, _PEAK_SIGMA = 16, (3.0, 30.0), 9, 10.0
_FEWEST_SHARED = 5
# Points along each axis, and degree of distortions, where a WCS is fitted anew.
_N_FIT_POINTS, _SIP_DEGREE = 16, 3
# Largest lag (pixels) at which the correlation of joined noise is counted.
_MAX_LAG = 24
# Side (binned pixels) of the image from which a PSF is fitted.
_STAMP = 25


# -- WCS -------------------------------------------------------------------------


def check_wcs(wcs):
    """Check that coordinates are a two-dimensional astropy WCS, or None."""
    n_dim = getattr(getattr(wcs, 'low_level_wcs', wcs), 'pixel_n_dim', None)
    if wcs is not None and n_dim != 2:
        kind = type(wcs).__name__ if n_dim is None else f'one of {n_dim} dimensions'
        raise TypeError(must('wcs', 'be a two-dimensional astropy WCS', kind))
    return wcs


def sky_wcs(wcs, shape):
    """Check coordinates of an image; `None`, with a warning, if they give no sky."""
    if check_wcs(wcs) is None:
        return None
    failure, share = _sky_failure(wcs, shape)
    if failure is not None:
        warn(f'wcs is left out, so that rows have no sky position: {failure}')
        return None
    if share > 0:
        warn(
            f'wcs gives no position on the sky in {100 * share:.0f} % of the image; '
            'rows there have none (NaN).'
        )
    return wcs


def _sky_failure(wcs, shape):
    """Reason for which a WCS gives no sky positions, and share of the image."""
    x, y = np.meshgrid(*(np.linspace(0, n - 1, _N_PLACES) for n in reversed(shape)))
    try:
        if not getattr(wcs, 'has_celestial', True):
            names = ', '.join(str(name) or 'none' for name in wcs.wcs.ctype)
            return f'its axes ({names}) are not celestial', 1.0
        high = _high_level(wcs)
        # Angles that are no numbers are counted below, and are no error of numpy's.
        with np.errstate(invalid='ignore'):
            sky = high.pixel_to_world(x.ravel(), y.ravel())
            if not isinstance(sky, SkyCoord):
                return f'it gives {type(sky).__name__} in place of SkyCoord', 1.0
            sky = sky.icrs
        bad = ~(np.isfinite(sky.ra.deg) & np.isfinite(sky.dec.deg))
        low = high.low_level_wcs.pixel_to_world_values(x.ravel(), y.ravel())
        bad |= ~np.all(np.abs(low) < _UNDEFINED, axis=0)
    except Exception as error:  # noqa: BLE001
        # Each library fails in its own ways, none of which spoils the image.
        return ' '.join(str(error).split()) or type(error).__name__, 1.0
    if bad.all():
        return 'it gives no finite position', 1.0
    still = np.ptp(sky.ra.deg[~bad]) == 0 and np.ptp(sky.dec.deg[~bad]) == 0
    if still and max(shape) > 1:
        return 'all pixels have one position', 1.0
    return None, float(bad.mean())


def _high_level(wcs):
    return wcs if hasattr(wcs, 'pixel_to_world') else HighLevelWCSWrapper(wcs)


def grid_offset(one, other, shape):
    """Largest distance (pixels) between pixels of two WCS; infinite if not known."""
    if one is other:
        return 0.0
    y, x = np.indices((3, 3)).reshape(2, -1) / 2 * (np.array([shape]).T - 1)
    low, low_other = (getattr(w, 'low_level_wcs', w) for w in (one, other))
    try:
        back = low.world_to_pixel_values(*low_other.pixel_to_world_values(x, y))
    except Exception:  # noqa: BLE001 - places that one of them does not reach
        return np.inf
    return float(np.nan_to_num(np.abs(np.array(back) - [x, y]), nan=np.inf).max())


def light_spectrum(exposure):
    """Pixels of an exposure with light, and the Fourier transform of its sources."""
    from scipy.fft import rfft2
    from scipy.ndimage import uniform_filter

    pull = (exposure.data - exposure.background) / exposure.bkg_error
    light = np.clip(np.where(exposure.mask, 0, pull), *_LIGHT).astype(np.float32)
    # Without what is wider than stars: unresolved light, remains of the sky.
    spectrum = rfft2(light - uniform_filter(light, _WIDE), _padded(light.shape))
    return light > _LIGHT[0], spectrum


def _padded(shape):
    from scipy.fft import next_fast_len

    return [next_fast_len(n + _LARGEST_SHIFT, real=True) for n in shape]


def image_shift(one, other):
    """
    Shift (dx, dy) in pixels of the sources of an exposure against those of another.

    From the `light_spectrum` of both: the peak of their cross-correlation, NaN if none
    stands out or light is no more than noise.
    """
    from scipy.fft import irfft2

    bright, spectra = zip(one, other, strict=True)
    shape = _padded(bright[0].shape)
    correlation = irfft2(spectra[0] * np.conj(spectra[1]), shape)
    level, scatter = median_and_scatter(sparse(correlation))
    reach = _LARGEST_SHIFT + 1
    near = np.roll(correlation, (reach, reach), (0, 1))[
        : 2 * reach + 1, : 2 * reach + 1
    ]
    y, x = np.unravel_index(np.argmax(near[1:-1, 1:-1]), (2 * reach - 1,) * 2)
    part = near[y : y + 3, x : x + 3]
    if not part[1, 1] > level + _PEAK_SIGMA * scatter:
        return np.nan, np.nan
    back = np.roll(bright[0], (_LARGEST_SHIFT - y, _LARGEST_SHIFT - x), (0, 1))
    by_chance = np.prod([own.mean() for own in bright]) * back.size
    least = by_chance + _FEWEST_SHARED * (1 + np.sqrt(by_chance))
    if np.count_nonzero(back & bright[1]) < least:
        return np.nan, np.nan
    # Parabolas through the peak and its neighbours.
    slopes = (part[1, 2] - part[1, 0]) / 2, (part[2, 1] - part[0, 1]) / 2
    bends = (2 * part[1, 1] - sum(part[1, ::2]), 2 * part[1, 1] - sum(part[::2, 1]))
    shift = np.array([x, y]) - _LARGEST_SHIFT + np.divide(slopes, bends)
    return tuple(map(float, shift))


def cut_wcs(wcs, rows, columns):
    """Shift a WCS to the origin of a cut-out with those slices as bounds."""
    if hasattr(wcs, 'slice'):
        cut = wcs.slice((rows, columns))
        cut.array_shape = (rows.stop - rows.start, columns.stop - columns.start)
        return cut
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    return HighLevelWCSWrapper(SlicedLowLevelWCS(low_level, (rows, columns)))


def whole_wcs(wcs):
    """Return a FITS WCS again, where astropy wrapped one up to cut it."""
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    base = getattr(low_level, '_wcs', None)
    slices = getattr(low_level, '_slices_array', None) or [None]
    is_cut = all(isinstance(part, slice) for part in slices)
    return base.slice(tuple(slices)) if is_cut and hasattr(base, 'slice') else wcs


# -- binning ---------------------------------------------------------------------


def binned_arguments(exposure, n):
    """Arguments of the exposure whose pixels are sums of n x n."""
    ny, nx = (length // n for length in exposure.shape)
    part = exposure[: ny * n, : nx * n]

    def sums(value):
        # One number for all pixels remains one.
        if np.ndim(value) == 0:
            return float(n * n * value)
        return block_reduce(np.asarray(value), n, partial(np.sum, dtype=float))

    factors = [_joined_noise(r, n) for r in part.noise_correlation]
    variance = np.square(part.bkg_error, dtype=float)
    noise = np.sqrt(sums(variance) * factors[0][0] * factors[1][0])
    level = n * n * np.median(part.bkg_error) / np.median(noise)
    psf = None if part.psf is None else _BinnedPSF(part._psf_access, n)
    if psf is not None and not part._psf_access.varies:
        psf = psf.at(0, 0)
    return {
        'data': sums(np.where(part.mask, 0.0, part.data)),
        'background': sums(part.background),
        'bkg_error': noise,
        'effective_gain': n * n / sums(1 / part.effective_gain),
        'read_noise': np.sqrt(sums(np.square(part.read_noise, dtype=float))),
        'mask': sums(part.mask) > 0,
        'saturated': sums(part.saturated) > 0,
        'noise_correlation': (factors[0][1], factors[1][1]),
        'psf_error': part.psf_error,
        # The error of the sky is common to the pixels that are joined.
        'background_error': part.background_error * float(level),
        'psf': psf,
        'wcs': None if part.wcs is None else _binned_wcs(part.wcs, part.shape, n),
        'unit': part.unit,
        'band': part.band,
        'meta': part.meta | {'binned': n * part.meta.get('binned', 1)},
    }


def _joined_noise(r, n):
    """
    Variance of a sum of n pixels over n, and correlation of neighbouring sums.

    The correlation at k pixels is that of noise that a kernel smoothed, r^(k^2).
    """
    lags = np.arange(-n + 1, n)
    pairs = n - np.abs(lags)
    apart = lags + np.array([[0], [n]])
    rho = np.where(np.abs(apart) > _MAX_LAG, 0.0, correlation_at(apart, r))
    variance, covariance = (float(pairs @ row) for row in rho)
    return variance / n, covariance / variance


def _binned_wcs(wcs, shape, n):
    """WCS of an image of that shape of which n x n pixels are joined into one."""
    distortions = ('sip', 'cpdis1', 'cpdis2', 'det2im1', 'det2im2')
    is_fits = hasattr(wcs, 'sip')
    if is_fits and all(getattr(wcs, name, None) is None for name in distortions):
        # Not by slices: of a WCS with a CD matrix astropy scales CDELT.
        joined = wcs.deepcopy()
        joined.wcs.crpix = (wcs.wcs.crpix - 0.5) / n + 0.5
        name = 'cd' if wcs.wcs.has_cd() else 'cdelt'
        setattr(joined.wcs, name, getattr(wcs.wcs, name) * n)
        joined.array_shape = tuple(length // n for length in shape)
        return joined
    # Distortions are polynomials in pixels, which are no longer the same.
    from astropy.wcs.utils import fit_wcs_from_points

    axes = (np.linspace(0, length - 1, _N_FIT_POINTS) for length in reversed(shape))
    x, y = (values.ravel() for values in np.meshgrid(*axes))
    binned = ((x + 0.5) / n - 0.5, (y + 0.5) / n - 0.5)
    sky = _high_level(wcs).pixel_to_world(x, y)
    return fit_wcs_from_points(binned, sky, sip_degree=_SIP_DEGREE)


class _BinnedPSF(FittedPSF):
    """PSF of n x n joined pixels."""

    spacing = 64

    def __init__(self, access, n):
        super().__init__()
        self._access, self._n = access, n

    def image(self, x, y):
        """Return `None`: it is the model that is joined."""
        return

    def _fit(self, x, y):
        n = self._n
        model = self._access.at(*((place + 0.5) * n - 0.5 for place in (x, y)))
        # Pixels whose sums have the star in the middle of a binned one.
        offsets = np.arange(_STAMP * n) - (_STAMP * n - 1) / 2
        image = block_reduce(draw_psf_model(model, offsets), n)
        radius = max(float(model.normalization_radius) / n, _STAMP / 2)
        return PSFModel.fit(image / image.sum(), normalization_radius=radius)
