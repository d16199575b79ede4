# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Facts of an image: PSF, noise, depth and density, as a simulation needs them.
"""

import dataclasses
import functools
import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, maximum_filter

from bliss_astro._warnings import OutOfDomainWarning, collect_warnings
from bliss_astro.detection._domain import domain_findings
from bliss_astro.detection._estimates import as_exposure
from bliss_astro.detection._infer import estimate_densities
from bliss_astro.detection._inputs import encoder_inputs, tile_mean
from bliss_astro.encoders import Domain
from bliss_astro.encoders._config import mean_interpolation
from bliss_astro.exposures import measure_noise
from bliss_astro.priors import StarPrior
from bliss_astro.priors._counts import FLOOR_SNR
from bliss_astro.psf import GaussianPSF
from bliss_astro.simulation import SimulationConfig
from bliss_astro.units import FWHM_PER_SIGMA

# Correlation up to which an encoder for single exposures covers an image.
_CORRELATION_MIN = 0.02
# Signal-to-noise ratio above which peaks are counted.
_PEAK_SNR = 5.0
# Largest number of PSFs that are looked at, and share of good pixels of such tiles.
_MAX_PLACES, _GOOD_SHARE = 400, 0.5
# Numbers whose sources are recorded, and their source unless they were estimated.
_SOURCED = ('psf', 'background', 'bkg_error', 'effective_gain', 'noise_correlation')
_STATED = 'stated with the image'
# Header cards with the number of exposures.
_DEPTH_KEYS = ('n_exposures', 'NCOMBINE', 'NEXPOSE', 'NEXP', 'NIMAGES', 'NCOADD')
# Differences of noise and of its correlation from those stated that are remarked.
_NOISE_OFF, _CORRELATION_OFF = 0.1, 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFacts:
    """
    Properties of an image, or of a coadd that could be made, in numbers.

    Pairs are the range over the image, the outermost hundredth of its tiles on either
    side left out: the FWHM in pixels and the effective area ``1 / sum(p^2)`` of the
    PSF; the noise of empty sky in electrons; the variance in square electrons that the
    sky of each exposure would have, were all its noise that of photons; the number of
    exposures, if it is stated; the sources per pixel above the flux floor in the
    emptiest and the fullest region. The PSF has shapes ``(k, 8)`` at places of the
    image. The noise of neighbouring pixels has a correlation in x and in y, with the
    sum ``excess`` over all distances; ``sources`` states the origin of the numbers. The
    name of the band is that of one of several, or None.
    """

    name: str
    psf_shapes: np.ndarray
    fwhm: tuple[float, float]
    psf_area: tuple[float, float]
    noise: tuple[float, float]
    one_exposure_variance: tuple[float, float]
    effective_gain: float
    correlation: tuple[float, float]
    excess: float
    n_exposures: tuple[int, int] | None
    density: tuple[float, float]
    description: str
    sources: dict
    remarks: tuple[str, ...] = ()
    band: str | None = None

    @property
    def ellipticity(self):
        """Largest ``sqrt(e1^2 + e2^2)`` of the PSF."""
        return float(np.hypot(*self.psf_shapes[:, 6:8].T).max())

    @property
    def resampled(self):
        """Whether the noise is correlated as only resampling makes it."""
        return max(self.correlation) > _CORRELATION_MIN

    @property
    def usual_wings(self):
        """Whether the PSF's effective area is one that SDSS's have at its FWHM."""
        least, _, most = usual_widths()
        ratio = np.sqrt(self.psf_area) / self.fwhm
        return bool(least < ratio.min() and ratio.max() < most)

    def for_domain(self):
        """Facts for ``domain_findings``, which compares them with a domain (dict)."""
        psf = GaussianPSF.from_shape(torch.from_numpy(self.psf_shapes))
        described = psf.describe().double().numpy()
        names = ('psf_area', 'noise', 'density', 'correlation')
        facts = {name: getattr(self, name) for name in names}
        return facts | {'psf_features': described.T[:, None], 'floor_snr': FLOOR_SNR}


def _of_psf(psf):
    """The facts of PSFs, a `GaussianPSF` of k shapes."""
    facts = {'fwhm': psf.fwhm, 'psf_area': psf.effective_area}
    ranges = {name: _range(value.numpy()) for name, value in facts.items()}
    return {'psf_shapes': psf.shape.numpy()} | ranges


def _range(values):
    """The range of values without the outermost hundredths."""
    low, high = np.quantile(values, [0.01, 0.99])
    return float(low), float(high)


def dither_of(correlation):
    """Largest dither in pixels that makes a mean correlation of a deep coadd."""
    # At 0.75 px the correlation is at its largest, 0.3.
    grid = np.linspace(0.02, 0.75, 147)
    kernel, kept = mean_interpolation(grid)
    return float(np.interp(correlation, kernel / kept, grid))


@functools.lru_cache
def usual_widths():
    """Root of the area over the FWHM of SDSS's PSFs: 1, 50 and 99 % quantiles."""
    generator = torch.Generator().manual_seed(0)
    psf = SimulationConfig().sample_psf(4000, generator=generator)
    psf = GaussianPSF.from_shape(psf)
    ratio = psf.effective_area.sqrt() / psf.fwhm
    return tuple(ratio.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist())


def span(parts, name):
    """Return the range of a pair over images."""
    low, high = zip(*(getattr(part, name) for part in parts), strict=True)
    return min(low), max(high)


def stack_facts(parts):
    """Predict the facts of the coadd of some exposures, aligned at equal weights."""
    n = len(parts)
    kernel, kept = mean_interpolation(0.5)
    shapes = torch.from_numpy(np.concatenate([part.psf_shapes for part in parts]))
    psf = GaussianPSF.from_shape(shapes)
    noise = np.linalg.norm([part.noise for part in parts], axis=0) / kept
    # The floor sinks with the noise, and fainter sources come in.
    factor = math.sqrt(n) ** StarPrior.slope
    band = parts[0].band
    return ImageFacts(
        name=f'coadd of {n} exposures' + (f', {band}' if band else ''),
        band=band,
        **_of_psf(psf.broadened(kernel, approximate=True)),
        noise=tuple(noise.tolist()),
        one_exposure_variance=span(parts, 'one_exposure_variance'),
        effective_gain=sum(part.effective_gain for part in parts) / kept**2,
        correlation=(kernel / kept, kernel / kept),
        excess=1 / kept**2,
        n_exposures=(n, n),
        density=tuple(factor * v for v in span(parts, 'density')),
        description='expected of bilinear alignment at equal weights',
        sources=dict.fromkeys(
            (*_SOURCED, 'n_exposures', 'density'), 'predicted from the exposures'
        ),
    )


# -- measurement -----------------------------------------------------------------


def known_exposure(image, *, name='image'):
    """Make an exposure that has a PSF, and the sources of its numbers in its meta."""
    with collect_warnings(OutOfDomainWarning) as texts:
        exposure, estimated = as_exposure(image)
    if texts:
        msg = (
            f'{name}: the image has no PSF and too few bright, isolated stars to '
            'measure it; give psf'
        )
        raise ValueError(msg)
    own = dict.fromkeys(_SOURCED, _STATED) | dict(exposure.meta.get('estimated') or {})
    return exposure.replace(meta=exposure.meta | {'estimated': own | estimated})


def measure_facts(image, encoder, *, name='image', n_exposures=None, band=None):
    """
    Measure the facts of an image; an encoder estimates the density of its sources.

    The name of its band is that of one of several.

    The depth of a coadd may be given where the image does not state it.
    """
    exposure = known_exposure(image, name=name)
    sources = exposure.meta['estimated']
    inputs, _, raw, grid = encoder_inputs(exposure, encoder)
    good = tile_mean(~exposure.mask, grid) >= _GOOD_SHARE
    if not good.any():
        good |= True

    def range_of(values):
        return _range(np.broadcast_to(values, good.shape)[good])

    shapes = inputs.psf[0, 0].movedim(0, -1).double().cpu()
    if shapes.shape[:2] == good.shape:
        shapes = shapes[torch.from_numpy(good)]
    shapes = shapes.reshape(-1, 8)
    shapes = shapes[:: max(1, len(shapes) // _MAX_PLACES)].contiguous()
    noise = np.asarray(raw['noise'], float)
    counts, sources['n_exposures'] = _depth(exposure, n_exposures)
    correlation = tuple(float(v) for v in exposure.noise_correlation)
    measured = _measured_noise(exposure)
    facts = ImageFacts(
        name=name,
        band=band,
        **_of_psf(GaussianPSF.from_shape(shapes)),
        noise=range_of(noise),
        one_exposure_variance=range_of(
            noise**2 * _share_of_one(counts, correlation, grid)
        ),
        effective_gain=float(np.median(exposure.effective_gain)),
        correlation=correlation,
        excess=_excess(exposure, correlation, measured),
        n_exposures=None if counts is None else _range_of_counts(counts),
        density=(0.0, 0.0),
        description=repr(exposure),
        sources=sources,
    )
    # The density comes last: a first pass needs an image within the domain.
    density, sources['density'] = _density(exposure, encoder, inputs, grid, facts)
    remarks = tuple(_remarks(exposure, measured, facts))
    return dataclasses.replace(facts, density=density, remarks=remarks)


def _depth(exposure, given):
    """Number of exposures, as a number or map, and where it comes from."""
    if given is not None:
        return given, 'given'
    if (counts := getattr(exposure, 'n_exposures', None)) is not None:
        return np.asarray(counts), 'map of the coadd'
    for key in _DEPTH_KEYS:
        value = exposure.meta.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value, f'{key} of the image'
    return None, 'not stated'


def _range_of_counts(counts):
    counts = np.asarray(counts)
    low, high = _range(counts[counts > 0])
    return max(1, math.floor(low)), math.ceil(high)


def _share_of_one(counts, correlation, grid):
    """
    Variance by tile of the sky of one exposure over that of the image in electrons.

    A deep coadd of d exposures of variance b has the noise ``sqrt(b d) / kept``
    in its electrons; one whose noise is not correlated is like a single
    exposure of all its light.
    """
    depth = np.maximum(1.0 if counts is None else tile_mean(counts, grid), 1.0)
    single = counts is not None and np.all(depth == 1)
    if single or max(correlation) <= _CORRELATION_MIN:
        return 1.0
    _, kept = mean_interpolation(dither_of(np.mean(correlation)))
    return kept**2 / depth


def _measured_noise(exposure):
    """The noise in blank sky over the stated one, or `None` with too little of that."""
    residual = (exposure.data - exposure.background) / exposure.bkg_error
    try:
        return measure_noise(residual, exposure.mask, background=0.0)
    except ValueError:
        return None


def _excess(exposure, correlation, measured):
    """Sum of the noise's correlation over all distances."""
    kernel = getattr(exposure, 'noise_kernel', None)
    # Where the noise is white, what correlates is the light of faint sources.
    if kernel is None and measured is not None and max(correlation) > _CORRELATION_MIN:
        kernel = measured.kernel
    if kernel is None:
        return float(np.prod(1 + 2 * np.array(correlation)))
    return float(np.sum(kernel))


def _remarks(exposure, measured, facts):
    """Differences of the noise from the stated one, and of the PSF from SDSS's."""
    if measured is not None and facts.sources['bkg_error'] == _STATED:
        ratio, error = float(measured.sigma), float(measured.sigma_error)
        if abs(ratio - 1) > max(_NOISE_OFF, 3 * error):
            yield (
                f'the noise in blank sky is {ratio:.2f} +- {error:.2f} times the one '
                'stated'
            )
        stated, found = exposure.noise_correlation, measured.noise_correlation
        if np.max(np.abs(np.subtract(found, stated))) > _CORRELATION_OFF:
            yield (
                'in blank sky, neighbouring pixels correlate by '
                f'{found[0]:.2f} in x and {found[1]:.2f} in y; stated are '
                f'{stated[0]:.2f} and {stated[1]:.2f}'
            )
    if not facts.usual_wings:
        least, _, most = (v * np.mean(facts.fwhm) for v in usual_widths())
        yield (
            'the PSF has wings unlike those of SDSS, on which all is trained: its '
            f'effective area is {np.mean(facts.psf_area):.3g} px2, theirs at this FWHM '
            f'{least**2:.3g} to {most**2:.3g}'
        )


def _density(exposure, encoder, inputs, grid, facts):
    """Range of the density by region, and how it was found."""
    raw = facts.for_domain() | {'density': 0.0, 'floor_snr': None}
    domain = Domain.of(encoder)
    if domain is not None and not domain_findings(domain, raw):
        (by_tile,) = estimate_densities(encoder, inputs, grid)
        return _range(by_tile), f'first pass of {encoder.name!r}'
    number = _count_peaks(exposure, facts)
    factor = (_PEAK_SNR / FLOOR_SNR) ** StarPrior.slope
    value = (number + 0.5) * factor / max(1, np.count_nonzero(~exposure.mask))
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
