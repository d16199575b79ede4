# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Record of an image: values, units and sources of what it was taken to be.
"""

import numpy as np

from bliss_astro.exposures._describe import limiting_flux
from bliss_astro.exposures._psf import central_psf

__all__ = ['estimate_record', 'image_line']

# Words that a source begins with; any other was found in the image.
_KINDS = ('given', 'header', 'estimated', 'assumed', 'none')
_NAMES = ('background', 'bkg_error', 'effective_gain', 'noise_correlation', 'psf')
# Signal-to-noise ratio of an isolated star at the stated depth.
_DEPTH_SNR = 5.0
# Numbers of a fitted PSF that the record takes over.
_PSF_DETAILS = ('n_stars', 'fwhm_error', 'effective_area_error', 'width_scatter')


def estimate_record(exposure, sources, *, density):
    """
    Record values, units and sources of the numbers that describe an image.

    Values are those of the exposure that is measured, so that they hold whatever
    estimated them.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        With all that was estimated.

    sources : dict of str to str
        Where a number comes from: ``'header: GAIN'``, ``'assumed: ...'``, or how
        it was estimated.  Those without an entry were given.

    density : float or `~numpy.ndarray`
        Sources per pixel above the flux floor.

    Returns
    -------
    record : dict of str to dict
        Entries ``background``, ``bkg_error``, ``effective_gain``,
        ``noise_correlation``, ``psf``, ``mask``, ``density`` and ``depth``, and
        ``saturation`` and ``saturated`` where there are such, each of plain values with
        ``'unit'`` and ``'source'``.
    """
    stated = exposure.meta.get('estimated') if exposure.meta else None
    sources = _of_coadd(stated) | sources
    unit = '' if exposure.unit is None else str(exposure.unit)
    good = ~exposure.mask
    per_unit = f'electron / ({unit})' if ' ' in unit else f'electron / {unit}'
    x, y = (float(r) for r in exposure.noise_correlation)
    n_masked = int(np.count_nonzero(exposure.mask))
    shape = _psf_numbers(exposure)
    noise = float(np.median(exposure.bkg_error))
    depth = limiting_flux(exposure, noise, shape['effective_area'], _DEPTH_SNR)
    record = {
        'background': _range(exposure.background, good) | {'unit': unit},
        'bkg_error': _range(exposure.bkg_error, good) | {'unit': unit},
        'effective_gain': _range(exposure.effective_gain, good)
        | {'unit': per_unit if unit else 'electron'},
        'noise_correlation': {'x': x, 'y': y},
        'psf': shape | {'unit': 'pix'},
        'mask': {'n_pixels': n_masked},
        'density': _range(density, None) | {'unit': '1 / pix2'},
    }
    if exposure.saturation is not None:
        record['saturation'] = _range(exposure.saturation, good) | {'unit': unit}
    if exposure.saturated.any():
        record['saturated'] = {'n_pixels': int(np.count_nonzero(exposure.saturated))}
    for name, entry in record.items():
        how = sources.get(name, 'given')
        if name == 'mask' and name not in sources and not n_masked:
            how = 'none'
        entry['source'] = how if how.startswith(_KINDS) else f'estimated: {how}'
    record['depth'] = {
        'value': depth,
        'unit': unit,
        'source': f'computed: star of signal-to-noise ratio {_DEPTH_SNR:g}',
    }
    return record


def _of_coadd(stated):
    """Sources that a coadd brings along."""
    stated = dict(stated or {})
    if 'noise_kernel' in stated:
        stated['noise_correlation'] = stated['noise_kernel']
    return {name: str(stated[name]) for name in _NAMES if name in stated}


def _range(values, good):
    """Median, and of a map the range without its outer hundredths."""
    values = np.asarray(values, dtype=float)
    if values.size == 1:
        return {'value': float(values.ravel()[0])}
    values = values[good] if good is not None else values.ravel()
    # A hundred thousand pixels are enough for quantiles.
    values = values[:: max(1, values.size // 100_000)]
    low, middle, high = np.quantile(values, [0.01, 0.5, 0.99])
    if low == high:
        return {'value': float(middle)}
    return {'value': float(middle), 'low': float(low), 'high': float(high)}


def _psf_numbers(exposure):
    """FWHM and effective area in the middle of the image, and numbers of the fit."""
    psf = central_psf(exposure)
    numbers = {'fwhm': float(psf.fwhm), 'effective_area': float(psf.n_eff)}
    info = getattr(exposure.psf, 'fit_info', None) or {}
    if 'n_stars' not in info and 'used' in info:
        info = info | {'n_stars': int(np.sum(info['used']))}
    return numbers | {
        name: (int if name == 'n_stars' else float)(info[name])
        for name in _PSF_DETAILS
        if info.get(name) is not None
    }


def image_line(record, shape):
    """
    Put a record into one line.

    Parameters
    ----------
    record : mapping
        Record of `estimate_record`.

    shape : tuple of int
        ``(ny, nx)``.

    Returns
    -------
    line : str
        Size, FWHM, sky, noise, gain and depth, each with its source.
    """
    ny, nx = shape
    parts = [f'{nx} x {ny} px']
    for name, key, words in (
        ('psf', 'fwhm', 'FWHM {} px'),
        ('background', 'value', 'sky {} {}'),
        ('bkg_error', 'value', 'noise {} {}'),
        ('effective_gain', 'value', 'gain {} {}'),
        ('depth', 'value', 'depth {} {}'),
    ):
        entry = record[name]
        text = words.format(f'{entry[key]:.4g}', entry['unit']).strip()
        kind, _, how = entry['source'].partition(': ')
        if kind == 'header':
            kind = f'header {how}'
        if name == 'depth':
            kind = f'SNR {_DEPTH_SNR:g}'
        parts.append(f'{text} ({kind})')
    return ', '.join(parts)
