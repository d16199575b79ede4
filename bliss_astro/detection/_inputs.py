# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From whatever a person has to an `Exposure`.
"""

import math

import astropy.units as u
import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from bliss_astro.exposures import Exposure
from bliss_astro.exposures._nddata import read_nddata, sky_noise

from ._psf import psf_of_stars

__all__ = ['as_exposure']

# What is assumed where an image tells nothing: the noise of one SDSS r
# exposure in electrons.
_USUAL_NOISE = 29.0
# Correlations of the noise below this are taken for none.
_LEAST_CORRELATION = 0.07
_MIN_PIXELS = 1000
# Error of a background from a mesh, in units of the noise of a pixel.
_MESH_ERROR = 0.1
_NO_NOISE = 'bkg_error cannot be estimated: the image has no noise; give bkg_error'
# Light only adds, so no sky is that many sigma below the background; and
# no star is that many above it.
_FAR_BELOW = -20.0
_FAR_ABOVE = 1e7


def as_exposure(data, **given):
    """
    Make an exposure of an image and what is known of it.

    Parameters
    ----------
    data : `~bliss_astro.exposures.Exposure`, NDData, Quantity or array
        The image.

    **given
        ``psf, background, bkg_error, effective_gain, mask, wcs, psf_error,
        background_error``; those that are `None` are estimated.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything that a measurement needs.

    estimated : dict of str to str
        What was estimated, and how.
    """
    given = {name: value for name, value in given.items() if value is not None}
    estimated = {}
    if isinstance(data, Exposure):
        _refuse(given, 'an Exposure', allowed=() if data.psf is not None else ('psf',))
        exposure = data.replace(**given) if given else data
    elif isinstance(data, NDData):
        exposure = _from_nddata(data, given, estimated)
    else:
        exposure = _from_array(data, given, estimated)
    exposure = _without_impossible(exposure, estimated)
    if exposure.psf is None:
        psf, error = psf_of_stars(exposure, estimated)
        error = given.get('psf_error', error)
        exposure = exposure.replace(psf=psf, psf_error=error)
    return exposure, estimated


def _refuse(given, kind, *, allowed=()):
    twice = sorted(set(given) - set(allowed))
    if twice:
        msg = (
            f'{twice[0]} was given although data is {kind}, which carries its own; '
            'change it there'
        )
        raise ValueError(msg)


def _from_nddata(data, given, estimated):
    name = type(data).__name__
    kind = f'an {name}' if name == 'NDData' else f'a {name}'
    # What the NDData itself holds must not be given a second time.
    for name in ('mask', 'wcs', 'psf'):
        own = getattr(data, name, None)
        empty = own is None or (name == 'mask' and not np.any(own))
        if name in given and not empty:
            _refuse({name: None}, f'{kind} with a {name}')
    if data.uncertainty is not None and 'bkg_error' in given:
        _refuse({'bkg_error': None}, f'{kind} with an uncertainty')
    plain = NDData(
        data.data,
        mask=data.mask,
        wcs=data.wcs,
        unit=data.unit,
        meta=data.meta,
        psf=getattr(data, 'psf', None),
    )
    values, arguments = read_nddata(plain, given)
    arguments['wcs'] = _whole_wcs(arguments.get('wcs'))
    error = None
    if data.uncertainty is not None:
        unit = getattr(values, 'unit', None)
        error = _total_error(data.uncertainty, unit, np.shape(values))
    known = {name: value for name, value in arguments.items() if value is not None}
    return _from_array(values, known, estimated, error=error)


def _whole_wcs(wcs):
    """A FITS WCS again, where astropy wrapped one up to cut it."""
    low_level = getattr(wcs, 'low_level_wcs', wcs)
    base = getattr(low_level, '_wcs', None)
    slices = getattr(low_level, '_slices_array', None)
    if base is None or slices is None or not hasattr(base, 'slice'):
        return wcs
    if any(not isinstance(part, slice) for part in slices):
        return wcs
    return base.slice(tuple(slices))


def _total_error(uncertainty, unit, shape):
    """The total error of an NDData as a plain array."""
    error = uncertainty
    try:
        # Not for standard deviations, which would lose their sign.
        if not isinstance(uncertainty, StdDevUncertainty):
            with np.errstate(divide='ignore', invalid='ignore'):
                error = uncertainty.represent_as(StdDevUncertainty)
    except (TypeError, AttributeError) as failure:
        msg = (
            'the uncertainty of data must be a standard deviation, variance or '
            f'inverse variance, got {type(uncertainty).__name__}'
        )
        raise TypeError(msg) from failure
    values = np.asarray(error.array, dtype=float)
    if unit is not None and error.unit is not None:
        values = error.quantity.to_value(unit)
    if values.shape != shape:
        msg = (
            f'the uncertainty of data must have the shape of data, {shape}; got '
            f'{values.shape}'
        )
        raise ValueError(msg)
    return values


def _faint_noise(exposure, error):
    # Without a gain the sources' share of a total error cannot be taken
    # out pixel by pixel; the fainter half of the pixels has next to none.
    signal = exposure.data - exposure.background
    good = ~exposure.mask
    faint = good & (signal <= np.median(signal[good]))
    return float(np.median(error[faint]))


def _with_error(exposure, error):
    """Mask pixels without a finite error; refuse errors that are not positive."""
    bad = exposure.mask | ~np.isfinite(error)
    unsound = ~bad & ~(error > 0)
    if unsound.any():
        y, x = np.argwhere(unsound)[0]
        msg = (
            'the uncertainty of data must be positive in every good pixel; it is not '
            f'in {np.count_nonzero(unsound)} of them, the first at x={x}, y={y} with '
            f'{error[y, x]}'
        )
        raise ValueError(msg)
    return exposure.replace(mask=bad)


def _from_array(data, given, estimated, *, error=None):
    # The checks of Exposure come first, with stand-ins for what is missing.
    unit = getattr(data, 'unit', None)
    stand_ins = {'bkg_error': 1.0 if unit is None else 1.0 * unit}
    stand_ins['effective_gain'] = 1.0
    exposure = Exposure(data, **(stand_ins | given))
    if error is not None:
        exposure = _with_error(exposure, error)
    # An exposure's own numbers have no units, and so have those put in here.
    if 'background' not in given:
        exposure = exposure.replace(background=_background(exposure))
        estimated['background'] = 'photutils Background2D'
        if 'background_error' not in given:
            exposure = exposure.replace(background_error=_MESH_ERROR)
    if error is not None:
        if 'effective_gain' in given:
            noise = sky_noise(
                exposure.data,
                error,
                exposure.effective_gain,
                background=exposure.background,
                good=~exposure.mask,
            )
        else:
            noise = _faint_noise(exposure, error)
            estimated['bkg_error'] = 'median of the uncertainty of the fainter half'
        exposure = exposure.replace(bkg_error=noise)
    elif 'bkg_error' not in given:
        exposure = exposure.replace(bkg_error=_noise(exposure))
        # Again with what is empty now that the noise is known better.
        for _ in range(2):
            noise = _empty_sky(exposure)[0] * exposure.bkg_error
            exposure = exposure.replace(bkg_error=noise)
        estimated['bkg_error'] = 'scatter of empty sky, from differences of pixels'
    if 'effective_gain' not in given:
        gain, how = _gain(exposure)
        estimated['effective_gain'] = how
        exposure = exposure.replace(effective_gain=gain)
    correlation = _empty_sky(exposure)[1]
    if any(correlation):
        exposure = exposure.replace(noise_correlation=correlation)
    estimated['noise_correlation'] = 'of empty sky, {:.2f} in x and {:.2f} in y'.format(
        *correlation
    )
    return exposure


def _without_impossible(exposure, estimated):
    """Mask pixels that no sky and no star can explain, and say so."""
    with np.errstate(over='ignore', invalid='ignore'):
        pull = (exposure.data - exposure.background) / exposure.bkg_error
        strange = ((pull < _FAR_BELOW) | (pull > _FAR_ABOVE)) & ~exposure.mask
    n_strange = np.count_nonzero(strange)
    if not n_strange:
        return exposure
    if n_strange > 0.5 * np.count_nonzero(~exposure.mask):
        msg = (
            f'background and bkg_error do not fit data: {n_strange} pixels are more '
            f'than {-_FAR_BELOW:g} sigma below the background. The background is '
            'what is still IN the data: 0 if the sky has been subtracted'
        )
        raise ValueError(msg)
    estimated['mask'] = f'{n_strange} pixels added that neither sky nor stars explain'
    return exposure.replace(mask=exposure.mask | strange)


def _background(exposure):
    from bliss_astro.exposures._sky import measure_background

    data = np.asarray(exposure.data)
    good = data[~exposure.mask]
    whole = bool(np.all(good == np.rint(good)))
    box = 64 if min(exposure.shape) >= 128 else 128
    return measure_background(
        data, exposure.mask, box_size=box, quantum=1.0 if whole else 0.0
    )


def _noise(exposure):
    residual = (exposure.data - exposure.background)[~exposure.mask]
    # Sources only brighten pixels: the scatter of the negative side counts.
    below = residual[residual < 0]
    noise = 1.4826 * np.median(np.abs(below)) if len(below) else 0.0
    if not noise > 0:
        raise ValueError(_NO_NOISE)
    return float(noise)


def _empty_sky(exposure):
    """
    Noise of empty sky over what is assumed, and its correlation in x and y.

    With a correlation r at a distance of one pixel and none beyond, first
    differences have the variance ``2 - 2 r`` and second ones ``6 - 8 r``, in
    units of the variance of a pixel; they hardly see the light of faint stars
    or an error of the background.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter

    residual = (exposure.data - exposure.background) / exposure.bkg_error
    residual = np.where(exposure.mask, 0, residual).astype(np.float32)
    smooth = gaussian_filter(residual, 1.5)
    scatter = 1.4826 * np.median(np.abs(smooth[~exposure.mask]))
    # In crowded fields stars make the scatter; noise at most twice that of
    # white noise.
    scatter = min(scatter, 1 / (math.sqrt(math.pi) * 1.5))
    source = (smooth > 4 * scatter) | (np.abs(residual) > 6)
    empty = ~(binary_dilation(source, iterations=4) | exposure.mask)
    variances, correlation = [], []
    for value, good in ((residual.T, empty.T), (residual, empty)):
        use = good[:-2] & good[1:-1] & good[2:]
        if np.count_nonzero(use) < _MIN_PIXELS:
            return 1.0, (0.0, 0.0)
        first = np.mean((value[1:-1] - value[:-2])[use] ** 2)
        if not first > 0:
            raise ValueError(_NO_NOISE)
        second = np.mean((value[:-2] - 2 * value[1:-1] + value[2:])[use] ** 2)
        r = (3 * first - second) / max(4 * first - second, 0.5 * first)
        r = min(float(r), 0.5) if abs(r) > _LEAST_CORRELATION else 0.0
        correlation.append(r)
        variances.append(first / (2 - 2 * r))
    return float(np.sqrt(np.mean(variances))), tuple(correlation)


def _gain(exposure):
    if exposure.unit == u.electron:
        return 1.0, 'data are in electrons'
    noise = float(np.median(exposure.bkg_error))
    level = float(np.median(exposure.background))
    if level > 10 * noise:
        return level / noise**2, 'background over its variance (photon noise)'
    return _USUAL_NOISE / noise, f'sky noise taken as {_USUAL_NOISE:g} electrons'
