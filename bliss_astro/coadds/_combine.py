# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds of many exposures: the weighted mean, gathered one exposure at a time.
"""

import datetime as dt
from collections import defaultdict

import numpy as np

from bliss_astro._arguments import check_rng, require
from bliss_astro._warnings import warn
from bliss_astro.exposures import Band
from bliss_astro.units import median_and_scatter

from ._align import (
    Resampler,
    check_exposure,
    check_iterable,
    common_band,
    with_progress,
)
from ._coadd import Coadd
from ._coadd_bands import coadd_bands, group_bands
from ._grid import check_any, output_grid, same_grid
from ._sums import (
    Clipper,
    CoaddSums,
    FluxScale,
    Layer,
    Weights,
    check_length,
    psf_shares,
)

# Fits of the sky: the fewest common pixels, the most that are looked at, the most
# rounds, and the limit of outliers in sigma.
_MIN_PIXELS, _MAX_PIXELS = 200, 200_000
_MAX_ROUNDS, _N_SIGMA = 10, 3.0
# Coefficients by the argument ``match_background``.
_N_COEFFICIENTS = {False: 0, True: 1, 'constant': 1, 'plane': 3}


def coadd_exposures(
    exposures,
    weights='inverse_variance',
    *,
    match_background=False,
    sigma_clip=None,
    zero_points=None,
    zero_point_out=None,
    wcs_out=None,
    shape_out=None,
    method='bilinear',
    parallel=False,
    block_size=None,
    n_noise=8,
    rng=None,
    progress_bar=False,
):
    """
    Align exposures and take their weighted mean.

    Masked and saturated pixels do not count. One exposure at a time is in
    memory, beside the sums.

    Parameters
    ----------
    exposures : iterable of `~bliss_astro.exposures.Exposure`
        The exposures, in any pixels, each with a WCS; or what
        `align_exposures` returned, all on one grid. What is gone through
        more than once (without ``wcs_out``, or with ``sigma_clip``) may be a list
        or a sequence that loads its items one by one, but not a generator.
        A dict of lists by band, or a list of `~bliss_astro.exposures.ExposureSet`,
        makes a coadd in each band, all on one grid.

    weights : {'inverse_variance', 'uniform'} or 1D array_like, optional
        The weight of each pixel: one over the variance of the sky's noise over
        areas (see Notes); or 1; or a number for each exposure. Or a dict by band.

    match_background : bool or {'constant', 'plane'}, optional
        Whether a constant (or a plane) is taken off each exposure, such that
        its sky agrees with that of the mean of those before it. It is
        fitted to the pixels that they share, without those that differ by more
        than three sigma. The sky of the first exposure is the reference.

    sigma_clip : float or `~astropy.stats.SigmaClip`, optional
        Leave out pixels of an exposure that differ from the other exposures by
        more than this many sigma, in a second pass. Of a
        `~astropy.stats.SigmaClip` its ``sigma`` is taken.

    zero_points : float or 1D array_like, optional
        AB magnitude of one unit of data in each exposure (or in all; or a dict of them
        by band). Needed for counts; not for exposures in a physical unit, which are
        converted to that of the first.

    zero_point_out : float, optional
        The zero point of the coadd, by default that of the first exposure. 22.5
        makes it a coadd in nanomaggies.

    wcs_out : `~astropy.wcs.WCS` or `~astropy.io.fits.Header`, optional
        The grid of the coadd. By default that of the first exposure,
        extended to cover all.

    shape_out : tuple of int, optional
        Its shape (ny, nx). By default that of ``wcs_out``.

    method, parallel, block_size, n_noise : object, optional
        See `align_exposures`.

    rng : int, `numpy.random.Generator` or None, optional
        For the methods whose noise is measured by simulation.

    progress_bar : bool, optional
        Show progress.

    Returns
    -------
    coadd : `Coadd`, or `~bliss_astro.exposures.ExposureSet` of several bands
        The coadd, without its sky, in the unit of the first exposure (unless
        ``zero_point_out`` is given). Its pixels hold the flux per pixel of
        the coadd: a source has the flux that it has in the exposures. In units of
        surface brightness (MJy / sr) they hold that. ``meta``
        says for each exposure how many pixels were ``n_masked``,
        ``n_saturated`` and ``n_clipped``, its ``background_offsets`` and its
        ``zero_points``.

    Raises
    ------
    TypeError
        If ``exposures`` are no exposures, or a generator that would be needed twice.

    ValueError
        If an exposure lacks a WCS, none lies on the grid, no pixel is good, the
        bands or units differ, or another argument has an impossible value.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If an exposure lies outside the grid, lacks a PSF (the coadd then
        has none either), has no sky in common with the others, or if counts come
        without zero points.

    See Also
    --------
    align_exposures : Only align.
    bliss_astro.simulation.CoaddSimulator : Simulated coadds of the same make.

    Notes
    -----
    With normalised weights w of the exposures i in a pixel, the coadd is
    :math:`\\sum w_i d_i`, its noise :math:`\\sum w_i^2 \\sigma_i^2`, its gain
    :math:`1 / \\sum (w_i^2 / g_i)`, and the correlation of its noise the mean of
    theirs with weights :math:`w_i^2 \\sigma_i^2`.

    The weights know the noise of the sky, not that of the sources: with
    the latter, bright stars would be weighted otherwise than faint ones, and
    the PSF would depend on the flux. And they know the noise over areas,
    the sum of the covariances of a pixel with all others, which alignment
    conserves, and not the variance of a pixel, which depends on where it
    lies between those of the exposure.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.wcs import WCS
    >>> from bliss_astro import Exposure, coadd_exposures
    >>> wcs = WCS({'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CDELT1': -1e-4,
    ...            'CDELT2': 1e-4, 'CRPIX1': 16, 'CRPIX2': 16})
    >>> rng = np.random.default_rng(1)
    >>> exposures = [
    ...     Exposure(rng.normal(0, 2, (32, 32)), bkg_error=2, effective_gain=5, wcs=wcs)
    ...     for _ in range(4)
    ... ]
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter('ignore')  # they have no PSF
    ...     coadd = coadd_exposures(exposures)
    >>> coadd
    <Coadd 32 x 32 px, bkg_error 1, 4 exposures>
    """
    options = {name: value for name, value in locals().items() if name != 'exposures'}
    groups = group_bands(exposures)
    if groups is not None:
        return coadd_bands(groups, coadd_exposures, options)
    stream = _Stream(
        exposures,
        Weights(weights),
        FluxScale(zero_points, zero_point_out),
        Resampler(method, parallel, block_size, n_noise),
        check_rng(rng),
        progress_bar,
    )
    n_sigma, n_match = _check_sigma_clip(sigma_clip), _check_match(match_background)
    grid = stream.set_grid(wcs_out, shape_out, n_passes=2 if n_sigma else 1)
    offsets, n_clipped = (stream.facts[k] for k in ('background_offsets', 'n_clipped'))
    sums = CoaddSums(grid.shape)
    clipper = Clipper(grid.shape, n_sigma) if n_sigma else None
    for layer in stream.layers('adding'):
        if n_match:
            offsets[layer.index] = _match_sky(layer, sums, n_match)
        sums.add(layer)
        if n_sigma:
            clipper.add(layer)
    if n_sigma:
        first, shares = sums, psf_shares(sums.psf)
        sums = CoaddSums(grid.shape, first.psf.shapes)
        for layer in stream.layers('clipping'):
            _take_off(layer, offsets.get(layer.index))
            outliers = clipper.outliers(layer, first, shares[layer.index])
            n_clipped[layer.index] = int(np.count_nonzero(outliers))
            sums.add(layer, np.where(outliers, 0.0, layer.weight))
    arguments = sums.arguments(stream.dtype)
    meta = stream.meta()
    band = stream.band if isinstance(stream.band, Band) else None
    arguments |= {'wcs': grid.wcs, 'unit': stream.scale.unit, 'meta': meta}
    return Coadd(**arguments, band=band)


def _check_sigma_clip(sigma_clip):
    """Return the number of sigmas, or `None`."""
    if sigma_clip is None or sigma_clip is False:
        return None
    value = np.asarray(getattr(sigma_clip, 'sigma', sigma_clip))
    sound = value.ndim == 0 and value.dtype.kind in 'fiu' and 0 < value < np.inf
    allowed = 'be a positive number of sigmas or an astropy SigmaClip'
    require(sound, 'sigma_clip', allowed, f'{sigma_clip!r}')
    return float(value)


# -- levels of the sky -------------------------------------------------------------


def _check_match(match_background):
    """Return the number of coefficients of a match, 0 for none."""
    sound = isinstance(match_background, bool | str)
    sound = sound and match_background in _N_COEFFICIENTS
    allowed = "be False, True, 'constant' or 'plane'"
    require(sound, 'match_background', allowed, f'{match_background!r}')
    return _N_COEFFICIENTS[match_background]


def _match_sky(layer, sums, n):
    """Bring the sky of a layer to that of the mean so far; return its coefficients."""
    if not sums.count.any():
        return [0.0] * n
    offset = _fit_sky(layer.data - sums.mean, layer.good & ~sums.sources(), n)
    if offset is None:
        warn(
            f'exposure {layer.index} has too few pixels in common with those before '
            'it to match its background.'
        )
    _take_off(layer, offset)
    return offset


def _take_off(layer, offset):
    """Take a surface off the sky of a layer, of coefficients or of None."""
    if offset is not None:
        y, x = np.indices(layer.data.shape)
        surface = _sky_terms(y, x, layer.data.shape, len(offset)) @ offset
        layer.data = np.where(layer.good, layer.data - surface, 0.0)


def _fit_sky(difference, use, n):
    """Fit n coefficients of one sky above another, robustly; None of few pixels."""
    y, x = np.nonzero(use)
    if len(y) < _MIN_PIXELS:
        return None
    step = -(-len(y) // _MAX_PIXELS)
    y, x = y[::step], x[::step]
    values = np.asarray(difference[y, x], dtype=float)
    terms = _sky_terms(y, x, difference.shape, n)
    keep = np.ones(len(values), dtype=bool)
    for _ in range(_MAX_ROUNDS):
        coefficients = np.linalg.lstsq(terms[keep], values[keep], rcond=None)[0]
        residual = values - terms @ coefficients
        # The median takes out what the stars leave in the first rounds.
        middle, scatter = median_and_scatter(residual[keep])
        now = np.abs(residual - middle) <= _N_SIGMA * scatter
        if (now == keep).all() or now.sum() < _MIN_PIXELS // 2:
            break
        keep = now
    return coefficients.tolist()


def _sky_terms(y, x, shape, n):
    """Return the first n of 1, x and y, from the middle of the image."""
    terms = [np.ones(np.shape(x)), x - (shape[1] - 1) / 2, y - (shape[0] - 1) / 2]
    return np.stack(terms[:n], axis=-1)


# -- exposures ---------------------------------------------------------------------


class _Stream:
    """The exposures as layers on the grid of the coadd, again for each pass."""

    def __init__(self, exposures, weights, scale, resample, rng, progress_bar):
        check_iterable(exposures)
        self.exposures, self.weights, self.scale = exposures, weights, scale
        self.resample, self.progress_bar = resample, progress_bar
        # The simulations of both passes have to agree.
        self.seed = int(rng.integers(2**31))
        # Entries of the meta by name and exposure, without exposures elsewhere.
        self.facts = defaultdict(dict)
        self.count, self.band, self.dtype = 0, None, np.dtype(np.float32)

    def set_grid(self, wcs_out, shape_out, *, n_passes):
        """Settle the grid of the coadd, if need be by looking at all exposures."""
        once = iter(self.exposures) is self.exposures
        if once and (n_passes > 1 or wcs_out is None):
            why = 'with sigma_clip' if n_passes > 1 else 'without wcs_out'
            msg = (
                'exposures must be a list, or another iterable that can be gone '
                f'through twice, {why}; got {type(self.exposures).__name__}.'
            )
            raise TypeError(msg)
        footprints = ((one.wcs, one.shape) for _, one in self._checked(''))
        self.grid = output_grid(footprints, wcs_out, shape_out)
        return self.grid

    def _checked(self, title):
        """Go through the exposures, each with its number."""
        self.count, shown = 0, self.progress_bar and title
        for k, exposure in enumerate(with_progress(self.exposures, title, shown)):
            check_exposure(exposure, f'exposures[{k}]')
            self.band = common_band(exposure, k, self.band)
            self.count = k + 1
            yield k, exposure

    def layers(self, title):
        """Give the layers of all exposures that lie on the grid."""
        for k, exposure in self._checked(title):
            aligned = self.scale.apply(exposure, k)
            at_home = exposure.shape == self.grid.shape
            if not (at_home and same_grid(exposure.wcs, *self.grid)):
                rng = np.random.default_rng([self.seed, k])
                name = f'exposures[{k}]'
                aligned = self.resample(aligned, self.grid, rng=rng, name=name)
            if aligned is None:
                if title == 'adding':
                    warn(f'exposure {k} does not lie on the grid and is left out.')
                continue
            layer = Layer(aligned, k, self.weights)
            self.facts['n_masked'][k] = layer.n_masked
            self.facts['n_saturated'][k] = layer.n_saturated
            self.dtype = np.result_type(self.dtype, exposure.data.dtype)
            yield layer
        check_any(self.count)
        check_length('weights', self.weights.numbers, self.count)
        check_length('zero_points', self.scale.zero_points, self.count)

    def meta(self):
        """Return what was done, exposure by exposure."""
        seen, numbers = self.facts['n_masked'], range(self.count)
        meta = {
            'date': dt.datetime.now(dt.UTC).isoformat(timespec='seconds'),
            'weights': self.weights.name,
            'method': self.resample.method,
            'n_exposures': len(seen),
            'outside': [k for k in numbers if k not in seen],
        }
        for name, values in self.facts.items():
            rest = None if name == 'background_offsets' else 0
            if values:
                meta[name] = [values.get(k, rest) for k in numbers]
        if self.scale.zero_points is not None:
            points = np.broadcast_to(self.scale.zero_points, (self.count,))
            meta['zero_points'] = points.tolist()
            meta['zero_point'] = self.scale.zero_point
        return meta if self.band is None else meta | {'band': str(self.band)}
