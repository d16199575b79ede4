# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimates of what an image does not state: pixels without sky, sky, noise and gain.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import reshape_as_blocks

from bliss_astro._warnings import warn
from bliss_astro.units import MAD_TO_SIGMA, median_and_scatter

from ._exposure import Exposure
from ._header import gain_failure
from ._nddata import is_total, mask_without_error, sky_noise, weight_noise
from ._noise import NO_NOISE
from ._sky import estimate_background_error, measure_sky, noise_of, step_of
from ._validate import check_saturation

# -- sky, noise, gain --
# Noise of the sky in electrons where the gain is not known: that of one SDSS
# r exposure.
_ASSUMED_NOISE = 29.0
# Level over noise from which on the sky was not subtracted.
_SKY_LEFT_SIGMA = 10.0
# Noise over the rounding error of the numbers below which there is none.
_ROUNDING_ERRORS = 4.0
# Whole numbers are coarse where the noise is below the first number and the sky so
# many times its variance, which is as large as the sky where photons are counted.
_COARSE_NOISE, _PHOTON_RATIO = 1 / 3, 5.0

# -- areas of one exact value --
# Pixels whose eight neighbours have their value too that make an area; and where the
# noise itself is rounded to few values, which many small areas per pixel show.
_AREA_PIXELS, _AREA_PIXELS_ROUNDED, _SMALL_AREAS_PER_PIXEL = 64, 4096, 2e-4
# Share of other values within an area, in spots of at most so many pixels: sky of
# so few photons that most pixels have none is no such area.
_SPOT_SHARE, _SPOT_PIXELS = 1e-3, 9
# Height above the median, in units of the scatter, from which an area is saturated.
_PLATEAU_SIGMA = 50.0
# Share of good pixels that has to remain for areas to be masked.
_MIN_REMAINDER = 0.02

# -- dark areas --
# Light only adds: the mean of square patches (pixels a side), each pixel clipped to so
# many sigma, is not that many sigma below the sky; connected patches that make an area.
_PATCH, _PULL_LIMIT, _DARK_SIGMA, _DARK_PIXELS = 5, 10.0, -4.5, 64

# -- steps of the sky --
# Side of squares (pixels) and how many are looked at; depth of their median below the
# sky, in sigma of a pixel, and share of squares that are as dark, for steps.
_SQUARE, _MAX_SQUARES, _DARK_SQUARE_SIGMA, _DARK_SQUARE_SHARE = 16, 1000, 1.0, 0.1
# Columns or rows that show a step, and pixels of each that are looked at; columns for
# which a step lasts; share of it between two columns; its height over that of usual
# changes.
_MIN_LINES, _LINE_PIXELS, _LASTING, _SUDDEN_SHARE, _UNUSUAL = 64, 256, 8, 0.7, 4.0

_EIGHT_NEIGHBOURS = np.ones((3, 3))


def estimate_missing(data, given, estimated, *, error=None, cards=None, weight=None):
    """
    Make an exposure of an image, without a PSF, and estimate what is not given.

    That are ``background``, ``bkg_error``, ``effective_gain`` and
    ``noise_correlation``, of which the sources are added to ``estimated``. ``error`` is
    the total error of each pixel, ``weight`` an inverse variance of the sky up to a
    factor; `HeaderCards` are used where nothing else is given.
    """
    # The checks of Exposure come first, with stand-ins for what is missing.
    unit = getattr(data, 'unit', None)
    given = {name: value for name, value in given.items() if value is not None}
    if cards is not None:
        cards.complete(given, unit, estimated)
    stand_ins = {'bkg_error': 1.0 * (unit or 1), 'effective_gain': 1.0}
    exposure = Exposure(data, **(stand_ins | given))
    if 'saturation' in given:
        check_saturation(exposure)
    if error is not None:
        exposure = mask_without_error(exposure, error)
    exposure = mask_exact_areas(exposure, estimated)
    image = _Image(exposure, given, estimated, error, cards, weight)
    image.estimate_sky_and_noise()
    if 'background' not in given:
        image.mask_dark()
    if 'bkg_error' not in given and step_of(image.exposure):
        image.warn_of_rounding()
    image.estimate_gain()
    if 'noise_correlation' not in given:
        image.estimate_correlation()
    exposure = image.exposure
    if 'background' in given or 'background_error' in given:
        return exposure
    return exposure.replace(background_error=estimate_background_error(exposure))


class _Image:
    """An image whose exposure is completed by what is given of it."""

    def __init__(self, exposure, given, estimated, error, cards, weight):
        self.exposure, self._noise = exposure, None
        self._given, self._estimated = given, estimated
        self._error, self._cards, self._weight = error, cards, weight

    def _set(self, how=None, **changes):
        """Change the exposure, and note how a number was estimated."""
        self.exposure = self.exposure.replace(**changes)
        if how is not None:
            self._estimated[next(iter(changes))] = how

    def estimate_sky_and_noise(self):
        """Set background and noise, and keep the noise where it was measured."""
        # An exposure's own numbers have no units, and so have those put in here.
        given, exposure, self._noise = self._given, self.exposure, None
        if 'background' not in given:
            stated = 'noise_correlation' in given
            background, self._noise = measure_sky(
                exposure.data,
                exposure.mask,
                quantum=step_of(exposure),
                correlation=exposure.noise_correlation if stated else None,
            )
            self._set('photutils Background2D', background=background)
        exposure, noise = self.exposure, self._noise
        if self._error is None and self._weight is None and 'bkg_error' not in given:
            noise = self._noise = noise or noise_of(exposure)
            # One absurd pixel says nothing about how precisely the others are stated.
            level = float(np.median(np.abs(exposure.data[~exposure.mask])))
            if noise.sigma <= _ROUNDING_ERRORS * np.spacing(level):
                raise ValueError(NO_NOISE)
            self._set('scatter of empty sky', bkg_error=noise.sigma)
            return
        self._noise = None
        if self._error is not None:
            self._set(bkg_error=self._without_sources(self._error))
        elif self._weight is not None:
            bkg_error, how = weight_noise(self._weight, exposure)
            mask = exposure.mask | ~np.isfinite(bkg_error)
            self._set(how, bkg_error=bkg_error, mask=mask)
        elif np.ndim(exposure.bkg_error) and is_total(exposure):
            warn(
                'bkg_error grows with the light of sources, as a total error does: the '
                'noise of the sky in it is used; give that, or a total error as the '
                'uncertainty of an NDData.'
            )
            self._set(bkg_error=self._without_sources(exposure.bkg_error))
            how = 'bkg_error less the photons of sources'
            self._estimated.setdefault('bkg_error', how)

    def mask_dark(self):
        """Mask areas far below the sky, unless it has steps and they are sky."""
        dark, before, noise = find_dark(self.exposure), self.exposure, self._noise
        if dark is not None:
            self._set(mask=before.mask | dark)
            self.estimate_sky_and_noise()
            # Without overscan the rest is even; of two halves of a detector it is not.
            if not has_steps(self.exposure, step_of(self.exposure)):
                n_dark = np.count_nonzero(dark & ~before.mask)
                y, x = np.argwhere(dark)[0]
                warn(
                    f'{n_dark} pixels of data lie in areas far below the sky (at '
                    f'x={x}, y={y}) and are masked. Trim the image, give mask, or '
                    'background if they are sound.'
                )
                others = [self._estimated['mask']] if 'mask' in self._estimated else []
                how = f'{n_dark} pixels added in areas far below the sky'
                self._estimated['mask'] = '; '.join([*others, how])
                return
            self.exposure, self._noise = before, noise
        if has_steps(before, step_of(before)):
            warn(
                'the sky of data changes abruptly, and a background on a mesh does not '
                'follow it: fluxes are off there. Give a map, or detect in each half '
                'by itself.'
            )

    def warn_of_rounding(self):
        """Warn of whole numbers that noise hardly changes, but for few photons."""
        level = np.median(self.exposure.background)
        noise = np.median(self.exposure.bkg_error)
        if noise <= _COARSE_NOISE and level >= _PHOTON_RATIO * noise**2:
            warn(
                f'data are whole numbers, in steps of {1 / noise:.2g} times the noise; '
                'faint sources are lost. Give the image before it was rounded.'
            )

    def estimate_gain(self):
        """Check a header's gain by the noise of the sky; estimate one not known."""
        exposure = self.exposure
        if 'effective_gain' in self._given:
            why = self._gain_is_of_header() and gain_failure(exposure)
            if not why:
                return
            self._refuse_gain(why)
        noise = float(np.median(exposure.bkg_error))
        level = float(np.median(exposure.background))
        gain, how = 1.0, 'data are in electrons'
        if exposure.unit != u.electron:
            gain = level / noise**2
            how = 'background over its variance (photon noise)'
            if level <= _SKY_LEFT_SIGMA * noise:
                gain = _ASSUMED_NOISE / noise
                how = f'assumed: sky noise of {_ASSUMED_NOISE:g} electrons'
        self._set(how, effective_gain=gain)

    def estimate_correlation(self):
        """Set the correlation of neighbours, measured in empty sky."""
        try:
            noise = self._noise or noise_of(self.exposure, self.exposure.bkg_error)
            x, y = noise.significant_correlation
        except ValueError:
            # An image without any noise, whose noise was stated.
            x, y = 0.0, 0.0
        how = f'of empty sky, {x:.2f} in x and {y:.2f} in y'
        self._set(how, noise_correlation=(x, y))

    def _without_sources(self, error):
        """Noise of the sky of a total error."""
        exposure, good = self.exposure, ~self.exposure.mask
        if 'effective_gain' in self._given:
            sky, gain = exposure.background, exposure.effective_gain
            try:
                return sky_noise(exposure.data, error, gain, background=sky, good=good)
            except ValueError:
                if not self._gain_is_of_header():
                    raise
                self._refuse_gain('sources have more noise than uncertainty')
        # Without a gain the sources' share of a total error cannot be taken
        # out pixel by pixel; the fainter half of the pixels has next to none.
        signal = exposure.data - exposure.background
        self._estimated['bkg_error'] = 'median of the uncertainty of the fainter half'
        return float(np.median(error[good & (signal <= np.median(signal[good]))]))

    def _gain_is_of_header(self):
        """Whether the gain was taken from a card of another maker."""
        used = {} if self._cards is None else self._cards.used
        return 'effective_gain' in used and 'effective_gain' in self._estimated

    def _refuse_gain(self, why):
        self._cards.ignore('effective_gain', why)
        del self._estimated['effective_gain'], self._given['effective_gain']


# -- pixels without sky, and steps of the sky ---------------------------------------


def find_exact_areas(data, bad):
    """
    Find large areas in which all pixels have one exact value.

    Each comes with its value, its pixels as a bool array, and whether it is the
    plateau of something bright.
    """
    from scipy.ndimage import binary_dilation, find_objects, label

    bad = bad | ~np.isfinite(data)
    right = (data[:, 1:] == data[:, :-1]) & ~bad[:, 1:]
    if np.count_nonzero(right) < _AREA_PIXELS:
        return []
    # Pixels whose neighbours have their value; beyond the edge there are none.
    values = np.where(bad, np.nan, data)
    right = np.pad(values[:, 1:] == values[:, :-1], ((0, 0), (1, 1)), constant_values=1)
    above = np.pad(values[1:] == values[:-1], ((1, 1), (0, 0)), constant_values=1)
    line = np.pad(right[:, 1:] & right[:, :-1], ((1, 1), (0, 0)), constant_values=1)
    core = ~bad & above[1:] & above[:-1] & line[2:] & line[1:-1] & line[:-2]
    labels, n_areas = label(core, _EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=n_areas + 1)[1:]
    n_small = np.count_nonzero(sizes < _AREA_PIXELS)
    rounded = n_small > _SMALL_AREAS_PER_PIXEL * data.size
    good = data[~bad]
    middle, scatter = median_and_scatter(good)
    areas = []
    for k, box in enumerate(find_objects(labels), 1):
        if sizes[k - 1] < (_AREA_PIXELS_ROUNDED if rounded else _AREA_PIXELS):
            continue
        # With the pixels around the core, which have the value too.
        box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        area = np.zeros(data.shape, dtype=bool)
        area[box] = binary_dilation(labels[box] == k, _EIGHT_NEIGHBOURS) & ~bad[box]
        if not _is_spotted(area[box]):
            value = float(data[area][0])
            areas.append((value, area, value > middle + _PLATEAU_SIGMA * scatter))
    return areas


def _is_spotted(area):
    """Whether an area is riddled with single pixels of another value."""
    from scipy.ndimage import binary_fill_holes, label

    holes, _ = label(binary_fill_holes(area) & ~area)
    n_spots = np.count_nonzero(np.bincount(holes.ravel())[1:] <= _SPOT_PIXELS)
    return n_spots > _SPOT_SHARE * np.count_nonzero(area)


def mask_exact_areas(exposure, estimated):
    """Mask areas of one exact value, with a warning and an entry of ``estimated``."""
    areas = find_exact_areas(exposure.data, exposure.mask)
    covered = sum(np.count_nonzero(area) for _, area, _ in areas)
    n_left = np.count_nonzero(~exposure.mask) - covered
    if not areas or n_left < _MIN_REMAINDER * exposure.data.size:
        return exposure
    mask, saturated = exposure.mask.copy(), exposure.saturated.copy()
    empty, n_full = [], 0
    for value, area, bright in areas:
        (saturated if bright else mask)[area] = True
        n = np.count_nonzero(area)
        n_full += n * bright
        empty += [] if bright else [(n, value, area)]
    if n_full:
        estimated['saturated'] = f'{n_full} pixels in plateaus of one exact value'
    if empty:
        n = covered - n_full
        estimated['mask'] = f'{n} pixels added in areas of one exact value'
        _, value, largest = max(empty, key=lambda one: one[0])
        y, x = np.argwhere(largest)[0]
        more = f' and {len(empty) - 1} more' if len(empty) > 1 else ''
        warn(
            f'{n} pixels of data lie in areas of one exact value (the largest '
            f'with {value:g} at x={x}, y={y}{more}) and are masked, as without data.'
        )
    return exposure.replace(mask=mask, saturated=saturated)


def find_dark(exposure):
    """Find areas too far below the sky to be sky, or `None`."""
    from scipy.ndimage import binary_dilation, label, uniform_filter

    pull = (exposure.data - exposure.background) / exposure.bkg_error
    pull = np.where(exposure.mask, 0.0, np.clip(pull, -_PULL_LIMIT, _PULL_LIMIT))
    labels, _ = label(uniform_filter(pull, _PATCH, mode='nearest') < _DARK_SIGMA)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    dark = (sizes >= _DARK_PIXELS)[labels]
    if not dark.any():
        return None
    # To the edge of an area its mean over a square does not reach.
    near = binary_dilation(dark, iterations=_PATCH // 2 + 1)
    return dark | (near & (pull < _DARK_SIGMA / 2))


def has_steps(exposure, quantum):
    """Whether the sky changes more abruptly than the background follows."""
    residual = np.where(exposure.mask, np.nan, exposure.data - exposure.background)
    squares = _squares(residual)
    if len(squares) == 0:
        return False
    # Between squares the sky may have steps, within most of them it has none.
    low, middle = _quantiles(squares, 0.1587, 0.5)
    # Medians of rounded numbers are off by up to half a step.
    limit = max(_DARK_SQUARE_SIGMA * np.median(middle - low), quantum)
    dark = middle < -limit
    if np.mean(dark) > _DARK_SQUARE_SHARE:
        # Stripes are lines that differ, with no step in particular.
        even = residual - _quantiles(residual, 0.5)[0][:, None]
        even = _squares(even - _quantiles(even.T, 0.5)[0])
        dark &= _quantiles(even, 0.5)[0] < -limit / 2
        if np.mean(dark) > _DARK_SQUARE_SHARE:
            return True
    return any(_jump(lines) > limit for lines in (residual, residual.T))


def _squares(residual):
    """A sample of squares of pixels most of which are good, (n, pixels)."""
    side = min(_SQUARE, *residual.shape)
    ny, nx = (length // side * side for length in residual.shape)
    squares = reshape_as_blocks(residual[:ny, :nx], side).reshape(-1, side**2)
    squares = squares[:: max(1, len(squares) // _MAX_SQUARES)]
    return squares[np.isfinite(squares).sum(axis=1) > side**2 // 2]


def _quantiles(values, *levels):
    """Quantiles along the last axis of finite values, in a tenth of numpy's time."""
    values = np.sort(values, axis=-1)  # NaN are sorted to the end
    last = np.isfinite(values).sum(axis=-1, keepdims=True) - 1
    places = (np.rint(level * last).astype(int) for level in levels)
    return [np.take_along_axis(values, place, -1)[..., 0] for place in places]


def _jump(residual):
    """Largest sharp jump between neighbouring columns that lasts."""
    ny = len(residual)
    residual = residual[:: max(1, ny // _LINE_PIXELS)]
    residual = residual[:, np.isfinite(residual).sum(axis=0) > len(residual) // 2]
    if min(ny, residual.shape[1]) < _MIN_LINES:
        return 0.0
    (level,) = _quantiles(residual.T, 0.5)
    sides = np.median(np.lib.stride_tricks.sliding_window_view(level, _LASTING), axis=1)
    lasting = sides[_LASTING:] - sides[:-_LASTING]
    sudden = np.diff(level)[_LASTING - 1 : len(level) - _LASTING]
    sharp = (lasting * sudden > 0) & (np.abs(sudden) > _SUDDEN_SHARE * np.abs(lasting))
    # Stripes differ from one to the next everywhere.
    sharp &= np.abs(sudden) > _UNUSUAL * MAD_TO_SIGMA * np.median(np.abs(sudden))
    jump = float(np.max(np.abs(lasting) * sharp, initial=0.0))
    # Crowds of stars make columns unlike too, but all of them.
    return jump if jump > _UNUSUAL * np.median(np.abs(lasting)) else 0.0
