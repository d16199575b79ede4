# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Measurement of an image's facts: PSF, noise, depth and density of sources.
"""

import dataclasses
import math

import astropy.units as u
import numpy as np
import torch
from scipy.ndimage import gaussian_filter, maximum_filter

from bliss_astro._warnings import OutOfDomainWarning, collect_warnings
from bliss_astro.detection._domain import domain_findings
from bliss_astro.detection._estimates import as_exposure
from bliss_astro.detection._infer import estimate_density
from bliss_astro.detection._inputs import FLOOR_SNR, encoder_inputs, tile_mean
from bliss_astro.encoders import Domain
from bliss_astro.encoders._domain import mean_interpolation
from bliss_astro.exposures import measure_noise
from bliss_astro.exposures._psf import limiting_flux
from bliss_astro.psf._mixture import fwhm_of_shape
from bliss_astro.units import FWHM_PER_SIGMA, flux_to_magnitude

from ._image_facts import (
    CORRELATION_MIN,
    PARETO_INDEX,
    ImageFacts,
    areas_of,
    dither_of,
    range_of,
    usual_widths,
)

__all__ = ['known_exposure', 'measure_facts']

# Signal-to-noise ratio above which peaks are counted, and that of the limit.
_PEAK_SNR = 5.0
# Largest number of PSFs that are looked at, and share of good pixels of such tiles.
_MAX_PLACES, _GOOD_SHARE = 400, 0.5
# Numbers whose sources are recorded, and their source unless they were estimated.
_SOURCED = ('psf', 'background', 'bkg_error', 'effective_gain', 'noise_correlation')
_STATED = 'stated with the image'
# Header cards with the number of exposures.
_DEPTH_KEYS = ('n_exposures', 'NCOMBINE', 'NEXPOSE', 'NEXP', 'NIMAGES', 'NCOADD')


def measure_facts(image, encoder, *, name='image', n_exposures=None):
    """
    Measure the facts of an image.

    Parameters
    ----------
    image : `~bliss_astro.exposures.Exposure`, NDData, Quantity or array
        The image.

    encoder : `~bliss_astro.encoders.Encoder`
        Encoder of the first pass, which estimates the density of sources.

    name : str, optional
        Name of the image.

    n_exposures : int, optional
        Depth of a coadd, where the image does not state it.

    Returns
    -------
    facts : `ImageFacts`
        The facts.

    Raises
    ------
    ValueError
        If the image has no PSF and too few stars to measure one.
    """
    exposure = known_exposure(image, name=name)
    sources = exposure.meta['estimated']
    inputs, _, raw, grid = encoder_inputs(exposure, encoder)
    good = tile_mean(~exposure.mask, grid) >= _GOOD_SHARE
    if not good.any():
        good |= True
    shapes = _psf_shapes(inputs, good)
    noise = np.asarray(raw['noise'], float)
    counts, how = _depth(exposure, n_exposures)
    correlation = tuple(float(v) for v in exposure.noise_correlation)
    measured = _measured_noise(exposure)
    # The density comes last: a first pass needs an image within the domain.
    facts = ImageFacts(
        name=name,
        shape=exposure.shape,
        psf_shapes=shapes,
        fwhm=range_of(fwhm_of_shape(torch.from_numpy(shapes)).numpy()),
        psf_area=range_of(areas_of(shapes)),
        noise=_range(noise, good),
        one_exposure_variance=_range(
            _per_exposure(noise, counts, correlation, grid), good
        ),
        effective_gain=float(np.median(exposure.effective_gain)),
        correlation=correlation,
        excess=_excess(exposure, measured),
        n_exposures=None if counts is None else _counts_range(counts, exposure),
        density=(0.0, 0.0),
        limit=_limit(exposure, shapes),
        sources=sources | {'n_exposures': how},
        remarks=_remarks(exposure, measured),
    )
    density, how = _density(exposure, encoder, inputs, grid, facts)
    return dataclasses.replace(
        facts,
        density=density,
        sources=facts.sources | {'density': how},
        remarks=facts.remarks + _wings_remark(facts),
    )


def known_exposure(image, *, name='image', **known):
    """
    Make an exposure that has a PSF and the sources of its numbers.

    Parameters
    ----------
    image : `~bliss_astro.exposures.Exposure`, NDData, Quantity or array
        The image.

    name : str, optional
        Name of the image.

    **known
        Keywords of `~bliss_astro.detection.detect_sources`.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With ``meta['estimated']``.

    Raises
    ------
    ValueError
        If the image has no PSF and too few stars to measure one.
    """
    with collect_warnings(OutOfDomainWarning) as texts:
        exposure, estimated = as_exposure(image, **known)
    if texts:
        msg = (
            f'{name}: the image has no PSF and too few bright, isolated stars to '
            'measure it; give psf'
        )
        raise ValueError(msg)
    own = dict.fromkeys(_SOURCED, _STATED) | dict(exposure.meta.get('estimated') or {})
    return exposure.replace(meta=exposure.meta | {'estimated': own | estimated})


def _range(values, good):
    values = np.asarray(values, float)
    return range_of(values[good] if values.size > 1 else values)


def _psf_shapes(inputs, good):
    psf = inputs.psf[0].movedim(0, -1).double().cpu().numpy()
    if psf.shape[:2] == (1, 1):
        return psf.reshape(1, 8)
    psf = psf[np.broadcast_to(good, psf.shape[:2])]
    return psf[:: max(1, len(psf) // _MAX_PLACES)]


def _depth(exposure, given):
    """Number of exposures, as a number or map, and where it comes from."""
    if given is not None:
        return given, 'given'
    counts = getattr(exposure, 'n_exposures', None)
    if counts is not None:
        return np.asarray(counts), 'map of the coadd'
    for key in _DEPTH_KEYS:
        value = exposure.meta.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value, f'{key} of the image'
    return None, 'not stated'


def _counts_range(counts, exposure):
    if np.ndim(counts) == 0:
        return int(counts), int(counts)
    used = counts[~exposure.mask & (counts > 0)]
    low, high = np.quantile(used, [0.01, 0.99])
    return max(1, math.floor(low)), math.ceil(high)


def _per_exposure(noise, counts, correlation, grid):
    """
    Variance by tile of the sky of one exposure in square electrons.

    A deep coadd of d exposures of variance b has the noise ``sqrt(b d) / kept``
    in its electrons; one whose noise is not correlated is like a single
    exposure of all its light.
    """
    if max(correlation) <= CORRELATION_MIN:
        return noise**2
    depth = 1.0 if counts is None else np.maximum(tile_mean(counts, grid), 1.0)
    if counts is not None and np.all(depth == 1):
        return noise**2
    _, kept = mean_interpolation(dither_of(np.mean(correlation)))
    return noise**2 * kept**2 / depth


def _measured_noise(exposure):
    """
    The noise in blank sky over the stated one, or `None` with too little of that.
    """
    residual = (exposure.data - exposure.background) / exposure.bkg_error
    try:
        return measure_noise(residual, exposure.mask, background=0.0)
    except ValueError:
        return None


def _excess(exposure, measured):
    """Sum of the noise's correlation over all distances."""
    stated = float(np.prod(1 + 2 * np.array(exposure.noise_correlation)))
    kernel = getattr(exposure, 'noise_kernel', None)
    if kernel is not None:
        return float(np.sum(kernel))
    # Where the noise is white, what correlates is the light of faint sources.
    if max(exposure.noise_correlation) <= CORRELATION_MIN or measured is None:
        return stated
    return float(measured.kernel.sum())


def _limit(exposure, shapes):
    """Flux, and magnitude where the unit has a zero point, of a star of SNR 5."""
    noise, area = float(np.median(exposure.bkg_error)), np.median(areas_of(shapes))
    flux = limiting_flux(exposure, noise, float(area), _PEAK_SNR)
    if exposure.unit is None:
        return f'{flux:.3g} (the image has no unit)'
    text = f'{flux:.3g} {exposure.unit}'
    if exposure.unit.is_equivalent(u.nmgy):
        magnitude = flux_to_magnitude((flux * exposure.unit).to_value(u.nmgy))
        text += f' = mag {magnitude:.2f}'
    return text


def _remarks(exposure, measured):
    """Differences of the noise from the stated one."""
    if measured is None or exposure.meta['estimated']['bkg_error'] != _STATED:
        return ()
    remarks = []
    ratio, error = float(measured.sigma), float(measured.sigma_error)
    if abs(ratio - 1) > max(0.1, 3 * error):
        remarks.append(
            f'the noise in blank sky is {ratio:.2f} +- {error:.2f} times the one stated'
        )
    stated = exposure.noise_correlation
    found = measured.noise_correlation
    if max(abs(a - b) for a, b in zip(found, stated, strict=True)) > 0.1:
        remarks.append(
            'in blank sky, neighbouring pixels correlate by '
            f'{found[0]:.2f} in x and {found[1]:.2f} in y; stated are '
            f'{stated[0]:.2f} and {stated[1]:.2f}'
        )
    return tuple(remarks)


def _wings_remark(facts):
    if facts.usual_wings:
        return ()
    least, _, most = usual_widths()
    width = float(np.mean(facts.fwhm))
    usual = f'{(least * width) ** 2:.3g} to {(most * width) ** 2:.3g}'
    text = (
        'the PSF has wings unlike those of SDSS, on which all is trained: its '
        f'effective area is {np.mean(facts.psf_area):.3g} px2, theirs at this FWHM '
        f'{usual}'
    )
    return (text,)


# -- density -------------------------------------------------------------------


def _density(exposure, encoder, inputs, grid, facts):
    """Range of the density by region, and how it was found."""
    raw = facts.for_domain() | {'density': 0.0, 'floor_snr': None}
    domain = Domain.of(encoder)
    if domain is not None and not domain_findings(domain, raw):
        by_tile = estimate_density(encoder, inputs, grid)
        return range_of(by_tile), f'first pass of {encoder.name!r}'
    number = _count_peaks(exposure, facts)
    area = max(1, int(np.count_nonzero(~exposure.mask)))
    factor = (_PEAK_SNR / FLOOR_SNR) ** PARETO_INDEX
    value = (number + 0.5) * factor / area
    return (value, value), (
        f'{number} peaks above {_PEAK_SNR:g} sigma, times {factor:.2f} for those down '
        f'to {FLOOR_SNR:g}'
    )


def _count_peaks(exposure, facts):
    """
    Count the peaks of an image, as bright as isolated stars of 5 sigma are.

    The difference of two Gaussians, one as wide as the PSF and one twice as
    wide, takes out the wings of bright stars.
    """
    signal = (exposure.data - exposure.background) / exposure.bkg_error
    signal = np.where(exposure.mask, 0.0, signal)
    fwhm = float(np.mean(facts.fwhm))
    sigma = fwhm / FWHM_PER_SIGMA
    sharp = gaussian_filter(signal, sigma) - gaussian_filter(signal, 2 * sigma)
    flux = _PEAK_SNR * math.sqrt(4 * math.pi * sigma**2 * max(facts.excess, 0.2))
    # Height of a Gaussian star of unit flux after either filter.
    height = (1 / 2 - 1 / 5) / (2 * math.pi * sigma**2)
    side = 2 * max(1, round(0.4 * fwhm)) + 1
    peak = (sharp == maximum_filter(sharp, side)) & ~exposure.mask
    return int(np.count_nonzero(peak & (sharp > flux * height)))
