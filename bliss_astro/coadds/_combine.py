# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds of many exposures: the weighted mean, gathered one exposure at a time.
"""

import datetime as dt

import numpy as np

from bliss_astro._warnings import warn

from ._align import check_method
from ._coadd import Coadd
from ._layers import CoaddSums, Stream, check_weights
from ._matching import Clipper, Extremes, FluxScale, check_match, fit_sky, sky_surface

__all__ = ['coadd_exposures']


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

    weights : {'inverse_variance', 'uniform'} or 1D array_like, optional
        The weight of each pixel: one over the variance of the sky's noise over
        areas (see Notes); or 1; or a number for each exposure.

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
        AB magnitude of one unit of data in each exposure (or in all). Needed for
        counts; not for exposures in a physical unit, which are converted to
        that of the first.

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
    coadd : `Coadd`
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
    check_method(method, n_noise)
    n_sigma = _check_sigma_clip(sigma_clip)
    stream = Stream(
        exposures,
        weighting=check_weights(weights),
        scale=FluxScale(zero_points, zero_point_out),
        align={
            'method': method,
            'parallel': parallel,
            'block_size': block_size,
            'n_noise': n_noise,
        },
        rng=rng,
        progress_bar=progress_bar,
    )
    stream.set_grid(wcs_out, shape_out, n_passes=1 if n_sigma is None else 2)
    sums, offsets, extremes = _first_pass(
        stream, check_match(match_background), clip=n_sigma is not None
    )
    n_clipped = None
    if n_sigma is not None:
        clipper = Clipper(sums, extremes, n_sigma)
        sums, n_clipped = _second_pass(stream, clipper, offsets)
    meta = _meta(stream, offsets, n_clipped)
    return _build(sums, stream, meta)


def _check_sigma_clip(sigma_clip):
    """Return the number of sigmas, or `None`."""
    if sigma_clip is None or sigma_clip is False:
        return None
    value = getattr(sigma_clip, 'sigma', sigma_clip)
    try:
        value = float(value)
    except (TypeError, ValueError):
        value = np.nan
    if not (np.isfinite(value) and value > 0) or sigma_clip is True:
        msg = (
            'sigma_clip must be a positive number of sigmas or an astropy SigmaClip; '
            f'got {sigma_clip!r}.'
        )
        raise ValueError(msg)
    return value


def _first_pass(stream, match, *, clip):
    """Sum all layers, with their skies matched, and note the extremes."""
    sums = CoaddSums(stream.shape)
    extremes = Extremes(stream.shape) if clip else None
    offsets = {}
    for layer in stream.layers(first=True):
        if match is not None:
            offsets[layer.index] = _match_sky(layer, sums, match)
        sums.add(layer)
        if clip:
            extremes.add(layer)
    return sums, offsets, extremes


def _second_pass(stream, clipper, offsets):
    """Sum all layers again, without their outliers."""
    sums = CoaddSums(stream.shape, clipper.sums.psf.shapes)
    n_clipped = {}
    for layer in stream.layers(first=False):
        _take_off(layer, offsets.get(layer.index))
        outliers = clipper.outliers(layer)
        n_clipped[layer.index] = int(np.count_nonzero(outliers))
        sums.add(layer, np.where(outliers, 0.0, layer.weight))
    return sums, n_clipped


def _match_sky(layer, sums, kind):
    """Bring the sky of a layer to that of the mean so far."""
    if not sums.count.any():
        return [0.0] * (1 if kind == 'constant' else 3)
    use = layer.good & ~sums.sources()
    offset = fit_sky(layer.data - sums.mean, use, kind)
    if offset is None:
        msg = (
            f'exposure {layer.index} has too few pixels in common with those before '
            'it to match its background.'
        )
        warn(msg)
    _take_off(layer, offset)
    return offset


def _take_off(layer, offset):
    """Take a surface off the sky of a layer."""
    if offset is not None:
        surface = sky_surface(offset, layer.data.shape)
        layer.data = np.where(layer.good, layer.data - surface, 0.0)


def _build(sums, stream, meta):
    """Turn the sums into a coadd."""
    good = sums.count > 0
    if not good.any():
        msg = 'exposures must have good pixels on the grid; no pixel of it has any.'
        raise ValueError(msg)
    if sums.psf.lacking:
        msg = (
            f'exposures {sums.psf.lacking} have no psf, so that the coadd has none '
            'either; give them one, or give the coadd one with replace(psf=...).'
        )
        warn(msg)
    psf, psf_image = sums.psf.finish()
    weight = np.where(good, sums.weight, 1.0)
    noise = np.sqrt(np.where(good, sums.variance, 1.0)) / weight
    gain = weight**2 / np.where(good, sums.inverse_gain, 1.0)
    return Coadd(
        np.where(good, sums.mean, np.nan).astype(stream.dtype),
        bkg_error=np.where(good, noise, np.median(noise[good])).astype(stream.dtype),
        effective_gain=np.where(good, gain, np.median(gain[good])).astype(stream.dtype),
        mask=~good,
        saturated=sums.saturated & ~good,
        psf=psf,
        psf_image=psf_image,
        wcs=stream.wcs,
        unit=stream.scale.unit,
        noise_kernel=sums.kernel(),
        psf_error=sums.psf_error,
        background_error=sums.background_error,
        n_exposures=sums.count,
        meta=meta,
    )


def _meta(stream, offsets, n_clipped):
    """Say what was done, exposure by exposure."""
    indices = range(stream.count)
    reports = stream.reports
    scale = stream.scale
    meta = {
        'date': dt.datetime.now(dt.UTC).isoformat(timespec='seconds'),
        'weights': stream.weighting.name,
        'method': stream.align['method'],
        'n_exposures': len(reports),
        'outside': [k for k in indices if k not in reports],
        'n_masked': [reports.get(k, (0, 0))[0] for k in indices],
        'n_saturated': [reports.get(k, (0, 0))[1] for k in indices],
    }
    if n_clipped is not None:
        meta['n_clipped'] = [n_clipped.get(k, 0) for k in indices]
    if offsets:
        meta['background_offsets'] = [offsets.get(k) for k in indices]
    if scale.zero_points is not None:
        points = np.broadcast_to(scale.zero_points, (stream.count,))
        meta['zero_points'] = points.tolist()
        meta['zero_point'] = scale.zero_point
    if scale.band is not None:
        meta['band'] = scale.band
    return meta
