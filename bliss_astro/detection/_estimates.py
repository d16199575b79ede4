# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Estimates of sky, noise, PSF and cosmic rays of an image, and the record of these.
"""

import dataclasses
import math

import numpy as np
import scipy

from bliss_astro._arguments import counted
from bliss_astro._filters import row_blocks
from bliss_astro._threads import map_threads
from bliss_astro._warnings import OutOfDomainWarning, warn
from bliss_astro.exposures._bands import as_band
from bliss_astro.exposures._psf import central_psf, limiting_flux
from bliss_astro.exposures._read import exposure_of
from bliss_astro.psf import PSFModel, compare_psf
from bliss_astro.psf._estimate import estimate_from
from bliss_astro.psf._profile import profile, squared_radius
from bliss_astro.units import sparse, typical

from ._domain import domain_of

# Light only adds, so no sky is that many sigma below the background; and
# no star is that many above it.
_FAR_BELOW, _FAR_ABOVE = -20.0, 1e7

# Smallest relative error of a measured PSF: estimates are ellipses, without coma.
_PSF_ERROR_MIN = 0.01
# The PSF that is taken where nothing in the image shows one: usual seeing on
# usual pixels, in pixels, with the largest error that a PSF may be stated with.
_USUAL_FWHM, _USUAL_ERROR = 3.0, 0.15

# Cosmic rays. Pixels above so many sigma are looked at; their neighbours must be this
# many sigma too faint for half of what the PSF demands, those next to them so many.
_PEAK, _LACK, _LACK_BESIDE = 8.0, 6.0, 2.5
# Half of what the PSF demands; of narrow ones three quarters of what one a third
# narrower does (a Gaussian's shares go with its width by powers).
_MARGIN, _NARROW_MARGIN, _POWER = 0.5, 0.75, 1.7
# Pairs of neighbours: rows and columns.
_PAIRS = ((0, 1), (1, 0), (1, 1), (1, -1))
# A larger share of the image cannot be cosmic rays: then the PSF is wrong.
_RAY_SHARE = 0.01

# Words that a source begins with; any other was found in the image.
_KINDS = ('given', 'header', 'estimated', 'assumed', 'none')
# Numbers of which a coadd states the source.
_OF_COADD = ('background', 'bkg_error', 'effective_gain', 'noise_correlation', 'psf')
# Signal-to-noise ratio of an isolated star at the stated depth.
_DEPTH_SNR = 5.0
# Numbers of a fitted PSF that the record takes over.
_PSF_DETAILS = ('n_stars', 'fwhm_error', 'effective_area_error', 'width_scatter')


@dataclasses.dataclass
class PreparedImage:
    """
    An exposure with all that a measurement needs, and where it comes from.

    Cosmic rays are pixels that are sharper than the PSF, ``(ny, nx)`` bool, and masked;
    the comparison of a stated PSF with the stars is empty where there were none.
    """

    exposure: object
    sources: dict
    cosmic_rays: np.ndarray
    psf_messages: list
    psf_comparison: dict


def prepare_image(data, given, encoder, *, compare=True):
    """Read an image, estimate what is not given, and mask cosmic rays."""
    exposure, sources = as_exposure(data, **given)
    meta = exposure.meta
    # The PSF of a mosaic was measured on all of its stars.
    own = sources | (meta.get('estimated') or {} if 'part_of' in meta else {})
    messages, comparison = [], {}
    if compare:
        exposure, messages, comparison = psf_findings(
            exposure, measured='psf' in own, most=domain_of(encoder).psf_error
        )
    # Stars that are narrower than their stated PSF are none.
    width = min(comparison['ratio'], 1.0) if messages and comparison else 1.0
    rays = find_cosmic_rays(exposure, width=width)
    if rays.any():
        text = f'{np.count_nonzero(rays)} pixels of cosmic rays, sharper than the PSF'
        sources['mask'] = '; '.join(filter(None, [sources.get('mask'), text]))
        exposure = exposure.replace(mask=exposure.mask | rays)
    return PreparedImage(exposure, sources, rays, messages, comparison)


def read_image(data, given, encoder):
    """Read an image, and estimate what is not given, as it is before detection."""
    exposure, sources = as_exposure(data, **given)
    return PreparedImage(exposure, sources, np.zeros(exposure.shape, bool), [], {})


def as_exposure(data, *, sample=None, **given):
    """
    Make an exposure with a PSF of any image that `detect_sources` takes.

    Or of the `Sample` of one.

    Keywords of that about the image that are `None` are estimated; the sources of these
    are returned too.
    """
    given = {name: value for name, value in given.items() if value is not None}
    estimated = {}
    if 'bandpass' in given:
        given['band'] = as_band(given.pop('bandpass'), 'bandpass')
    exposure = exposure_of(data, given, estimated)
    exposure = _without_impossible(exposure, estimated)
    if exposure.psf is None:
        psf, error = _psf_of_stars(exposure, estimated, sample)
        error = given.get('psf_error', error)
        exposure = exposure.replace(psf=psf, psf_error=error)
    return exposure, estimated


def _without_impossible(exposure, estimated):
    """Mask pixels that no sky and no star can explain, and record it."""
    strange = np.empty(exposure.shape, dtype=bool)

    def search(rows, signal, maps):
        pull = signal / maps['bkg_error']
        strange[rows] = (pull < _FAR_BELOW) | (pull > _FAR_ABOVE)

    _map_rows(search, exposure)
    strange &= ~exposure.mask
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
    pixels = counted(n_strange, 'pixel')
    estimated['mask'] = f'{pixels} added that neither sky nor stars explain'
    return exposure.replace(mask=exposure.mask | strange)


# -- PSF -------------------------------------------------------------------------


def _psf_of_stars(exposure, estimated, sample):
    """Measure the PSF on the stars: PSF and relative error of its width."""
    try:
        estimate = estimate_from(exposure, sample)
    except ValueError:
        estimated['psf'] = (
            f'assumed: a usual PSF of FWHM {_USUAL_FWHM:g} px, as the image has no '
            'compact source to measure it'
        )
        warn(
            'psf was not given and the image has no compact source to measure it; a '
            f'usual PSF of FWHM {_USUAL_FWHM:g} px was taken: give psf or fwhm',
            OutOfDomainWarning,
        )
        return PSFModel.from_fwhm(_USUAL_FWHM), _USUAL_ERROR
    stars = counted(estimate.n_stars, 'star')
    varies = ' (it varies)' if estimate.psf is not estimate.central else ''
    estimated['psf'] = f'fit to {stars} of the image{varies}'
    return estimate.psf, max(estimate.psf_error, _PSF_ERROR_MIN)


def psf_findings(exposure, *, measured, most=math.inf):
    """
    Compare the PSF of an exposure with its stars, unless it was measured on these.

    Returns the exposure, whose ``psf_error`` becomes the difference (up to ``most``)
    where stars contradict a stated PSF; texts of warnings; and the comparison with
    that error as a dict, empty where no star could be compared.
    """
    if measured:
        info = getattr(exposure.psf, 'fit_info', None) or {}
        return exposure, list(info.get('findings', ())), {}
    comparison = compare_psf(exposure)
    if not math.isfinite(comparison.ratio):
        return exposure, [], {}
    numbers = dataclasses.asdict(comparison)
    finding = numbers.pop('finding')
    # Only significant differences, which allow for the comparison's own error.
    error = min(abs(math.log(comparison.ratio)), most) if finding else 0.0
    if error > exposure.psf_error:
        exposure = exposure.replace(psf_error=error)
    numbers['psf_error'] = float(exposure.psf_error)
    return exposure, [finding] if finding else [], numbers


# -- cosmic rays -----------------------------------------------------------------


def find_cosmic_rays(exposure, *, width=1.0):
    """
    Find cosmic rays and hot pixels, ``(ny, nx)`` bool: light sharper than the PSF.

    Whatever lies on the sky, a pixel's neighbours on either side have together at
    least the share of its light that they have for a star in its middle.  Cosmic rays
    do not pass the optics and need not keep to that (van Dokkum 2001, PASP 113, 1420,
    uses the same contrast without a PSF).  Stars have ``width`` times that of the PSF.
    """
    psf = central_psf(exposure).shape_vector
    good, rays = ~exposure.mask, np.zeros(exposure.shape, dtype=bool)

    def search(rows, signal, maps):
        high = (signal > _PEAK * maps['bkg_error']) & good[rows]
        y, x = np.divmod(np.flatnonzero(high), high.shape[1])
        if len(y):
            bright = y + rows.start, x
            rays[bright] = _lack(exposure, good, bright, psf, width) > _LACK

    _map_rows(search, exposure)
    if not rays.any():
        return rays
    # The fainter pixels of a track.
    good &= ~rays
    beside = np.nonzero(scipy.ndimage.binary_dilation(rays, np.ones((3, 3))) & good)
    signal, noise, _ = _at(exposure, *beside)
    beside = tuple(place[signal > 3 * noise] for place in beside)
    rays[beside] = _lack(exposure, good, beside, psf, width) > _LACK_BESIDE
    if np.count_nonzero(rays) > _RAY_SHARE * np.count_nonzero(~exposure.mask):
        return np.zeros_like(rays)
    return rays


def _map_rows(function, exposure):
    """Call a function with rows of an exposure, their signal above the sky and maps."""
    maps = exposure.maps()

    def run(block):
        *_, rows = block
        own = {name: value[rows] for name, value in maps.items()}
        with np.errstate(over='ignore', invalid='ignore'):
            function(rows, exposure.data[rows] - own['background'], own)

    map_threads(run, row_blocks(len(exposure.data), 0))


def _at(exposure, y, x):
    """Signal above the sky, its noise, and gain of pixels in double precision."""
    names = 'background', 'bkg_error', 'effective_gain'
    maps = exposure.maps()
    sky, noise, gain = (maps[name][y, x].astype(float) for name in names)
    return exposure.data[y, x] - sky, noise, gain


def _lack(exposure, good, places, psf, width):
    """By how many sigma the neighbours of pixels (rows, columns) are too faint."""
    rows, columns = places

    def light(dy, dx):
        y, x = rows + dy, columns + dx
        known = (y >= 0) & (y < good.shape[0]) & (x >= 0) & (x < good.shape[1])
        y, x = y * known, x * known
        # There may be anything in bad pixels and beyond the edge.
        return np.where(known & good[y, x], _at(exposure, y, x)[0], np.inf)

    own, noise, gain = _at(exposure, rows, columns)
    variance, photons = noise**2, own.clip(0) / gain
    # All at once, and without the checks of a model of astropy.
    y, x = np.array([(0, 0), *_PAIRS]).T / width
    heights = profile(squared_radius(x, y, *psf[6:]), psf)
    result = np.zeros(len(rows))
    for (dy, dx), height in zip(_PAIRS, heights[1:].tolist(), strict=True):
        share = max(height / heights[0], 0.0)
        share = min(_MARGIN * share, _NARROW_MARGIN * share**_POWER)
        # The neighbours' own photons, if they were as bright as demanded.
        noise = share**2 * (variance + photons) + 0.5 * (variance + share * photons)
        both = light(dy, dx) + light(-dy, -dx)
        result = np.maximum(result, (share * own - 0.5 * both) / np.sqrt(noise))
    return result


# -- record ----------------------------------------------------------------------


def estimate_record(exposure, sources, *, density=None):
    """
    Record values, units and sources of the numbers that describe an image.

    Values are those of the exposure that is measured, so that they hold whatever
    estimated them. Sources, such as ``'header: GAIN'``, are of what was not given. An
    entry a quantity, of plain values with ``'unit'`` and ``'source'``.
    """
    stated = dict(exposure.meta.get('estimated') or {})
    if 'noise_kernel' in stated:
        stated['noise_correlation'] = stated['noise_kernel']
    sources = {
        name: str(stated[name]) for name in _OF_COADD if name in stated
    } | sources
    unit = '' if exposure.unit is None else str(exposure.unit)
    per_unit = f' / ({unit})' if ' ' in unit else f' / {unit}' if unit else ''
    good = ~exposure.mask
    x, y = (float(r) for r in exposure.noise_correlation)
    psf = central_psf(exposure)
    shape = {'fwhm': float(psf.fwhm), 'effective_area': float(psf.n_eff)}
    record = {
        'background': _range(exposure.background, good, unit),
        'bkg_error': _range(exposure.bkg_error, good, unit),
        'effective_gain': _range(exposure.effective_gain, good, f'electron{per_unit}'),
        'noise_correlation': {'x': x, 'y': y},
        'psf': shape | _details_of_fit(exposure.psf) | {'unit': 'pix'},
        'mask': {'n_pixels': int(np.count_nonzero(exposure.mask))},
    }
    if density is not None:
        every = np.ones(np.shape(density), dtype=bool)
        record['density'] = _range(density, every, '1 / pix2')
    if exposure.saturation is not None:
        record['saturation'] = _range(exposure.saturation, good, unit)
    if exposure.saturated.any():
        record['saturated'] = {'n_pixels': int(np.count_nonzero(exposure.saturated))}
    for name, entry in record.items():
        default = 'none' if name == 'mask' and good.all() else 'given'
        how = sources.get(name, default)
        entry['source'] = how if how.startswith(_KINDS) else f'estimated: {how}'
    noise = typical(exposure.bkg_error)
    record['depth'] = {
        'value': limiting_flux(exposure, noise, shape['effective_area'], _DEPTH_SNR),
        'unit': unit,
        'source': f'computed: star of signal-to-noise ratio {_DEPTH_SNR:g}',
    }
    return record


def _range(values, good, unit):
    """Median with its unit, and of a map the range without its outer hundredths."""
    values = np.asarray(values)
    if values.size > 1:
        some = sparse(good)
        values = sparse(values)[some] if some.any() else values[good]
    values = values.astype(float)
    if np.ptp(values) == 0:
        return {'value': float(values.flat[0]), 'unit': unit}
    low, middle, high = (float(v) for v in np.quantile(values, [0.01, 0.5, 0.99]))
    return {'value': middle, 'low': low, 'high': high, 'unit': unit}


def _details_of_fit(psf):
    """Numbers of the fit of a PSF."""
    info = dict(getattr(psf, 'fit_info', None) or {})
    if 'used' in info:
        info.setdefault('n_stars', np.sum(info['used']))
    return {
        name: (int if name == 'n_stars' else float)(info[name])
        for name in _PSF_DETAILS
        if info.get(name) is not None
    }


def image_line(record, shape, band=''):
    """
    Size, FWHM, sky, noise, gain and depth of a record, with sources, in one line.

    Those of a band other than the reference where one is named.
    """
    ny, nx = shape
    parts = [f'{nx} x {ny} px' + (f' in {band}' if band else '')]
    for name, key, words in (
        ('psf', 'fwhm', 'FWHM {} px'),
        ('background', 'value', 'sky {} {}'),
        ('bkg_error', 'value', 'noise {} {}'),
        ('effective_gain', 'value', 'gain {} {}'),
        ('depth', 'value', 'depth {} {}'),
    ):
        entry = record[f'{name}_{band}' if band else name]
        text = words.format(f'{entry[key]:.4g}', entry['unit']).strip()
        kind, _, how = entry['source'].partition(': ')
        if kind == 'header':
            kind = f'header {how}'
        if name == 'depth':
            kind = f'SNR {_DEPTH_SNR:g}'
        parts.append(f'{text} ({kind})')
    return ', '.join(parts)
