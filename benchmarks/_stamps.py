# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
SDSS stamps of many epochs: reading, and the noise that they have.
"""

import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import binary_dilation, gaussian_filter

from bliss_astro.coadds import AlignedExposure
from bliss_astro.psf import PSFModel

__all__ = ['find_stamps', 'read_stamps']

_SIDE = 41


def find_stamps(folder):
    """Files of stamps with their band, below a folder."""
    paths = sorted(Path(folder).rglob('stamp-*.fits'))
    many = [p for p in paths if 'multi_epoch' in p.parent.name]
    if not many:
        msg = 'no stamp-*.fits in a folder *multi_epoch* below the one given by --data'
        raise FileNotFoundError(msg)
    return many


def _psf(header):
    # Three Gaussians, drawn around their common centre.
    p = [header[f'PSF_P{k}'] for k in range(18)]
    weight = np.array(p[:3]) / sum(p[:3])
    centre = weight @ np.array(p[3:9]).reshape(3, 2)
    y, x = np.mgrid[:_SIDE, :_SIDE] - _SIDE // 2
    image = 0.0
    for k in range(3):
        dx, dy = (
            v - m
            for v, m in zip(
                (x, y), np.array(p[3 + 2 * k : 5 + 2 * k]) - centre, strict=True
            )
        )
        xx, yy, xy = p[9 + 3 * k : 12 + 3 * k]
        det = xx * yy - xy**2
        exponent = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / det
        image = image + weight[k] * np.exp(-0.5 * exponent) / (2 * np.pi * np.sqrt(det))
    return PSFModel.fit(image / image.sum())


def _rows(path):
    """Images, inverse variances and headers, one exposure of each run."""
    runs = {}
    with fits.open(path) as hdus:
        for k in range(0, len(hdus), 2):
            header = hdus[k].header
            weight = np.array(hdus[k + 1].data, float)
            data = np.array(hdus[k].data, float)
            # Fields of one run overlap: the same pixels would count twice.
            kept = runs.get(header['RUN'])
            if kept is None or (weight > 0).sum() > (kept[1] > 0).sum():
                runs[header['RUN']] = (data, weight, header)
    return list(runs.values())


def _blank_sky(data, weight):
    """Pixels without sources, from the mean of all exposures."""
    total = weight.sum(0)
    mean = (weight * data).sum(0) / np.maximum(total, 1e-12)
    snr = mean * np.sqrt(total)
    snr = snr - np.median(snr[total > 0])
    smooth = gaussian_filter(snr, 1.5)
    level = 1.4826 * np.median(np.abs(smooth - np.median(smooth)))
    return ~binary_dilation(smooth > 2.5 * level, iterations=4) & (total > 0)


def _noise(residual, use):
    """Scale and lag-one correlations of noise in units of its stated error."""
    value = residual[use]
    value = value - np.median(value)
    sigma = 1.4826 * np.median(np.abs(value))
    centred = residual - np.median(residual[use])
    use = use & (np.abs(centred) < 4 * sigma)
    variance = np.mean(centred[use] ** 2)
    pairs = []
    for axis in (1, 0):
        n = residual.shape[axis] - 1
        first, second = (
            slice(None, n) if axis == 0 else (slice(None), slice(None, n)),
            slice(1, None) if axis == 0 else (slice(None), slice(1, None)),
        )
        both = use[first] & use[second]
        pairs.append(np.mean((centred[first] * centred[second])[both]) / variance)
    return np.sqrt(variance), pairs


def read_stamps(path):
    """
    The exposures of one file, one for each run.

    The stamps were resampled to one grid by their makers, whose inverse
    variances do not know it: the scale and correlation of the noise are
    measured in blank sky, in the difference of each from the mean of the
    others, which holds no faint source.

    Parameters
    ----------
    path : path_like
        A file ``stamp-BAND-RA-DEC.fits``.

    Returns
    -------
    exposures : list of `~bliss_astro.coadds.AlignedExposure`
        Sky-subtracted, in nmgy.

    facts : list of dict
        Run, share of good pixels, scale of the noise over what was stated, and its
        correlation.
    """
    rows = _rows(path)
    data = np.array([row[0] for row in rows])
    weight = np.array([row[1] for row in rows])
    good = weight > 0
    data = np.where(good, data, 0.0)
    blank = _blank_sky(data, weight)
    sky = [
        np.median(d[g & blank]) if (g & blank).sum() > 50 else 0.0
        for d, g in zip(data, good, strict=True)
    ]
    data = np.where(good, data - np.array(sky)[:, None, None], 0.0)
    exposures, facts = [], []
    for k, (_, own, header) in enumerate(rows):
        others = np.delete(weight, k, 0)
        total = others.sum(0)
        use = blank & good[k] & (total > 0)
        if use.sum() < 300:
            continue
        mean = (others * np.delete(data, k, 0)).sum(0) / np.maximum(total, 1e-12)
        spread = 1 / np.sqrt(
            np.where(good[k], own, 1) ** -1 + 1 / np.maximum(total, 1e-12)
        )
        sigma, correlation = _noise((data[k] - mean) * spread, use)
        correlation = [float(np.clip(c, 0, 0.5)) for c in correlation]
        error = sigma / np.sqrt(np.where(good[k], own, np.median(own[good[k]])))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            psf = _psf(header)
            wcs = WCS(header)
        exposures.append(
            AlignedExposure(
                data[k] * u.nmgy,
                bkg_error=error * u.nmgy,
                effective_gain=header['GAIN'] / header['CALIB'],
                mask=~good[k],
                coverage=good[k],
                psf=psf,
                wcs=wcs,
                noise_correlation=tuple(correlation),
                meta={'run': header['RUN'], 'band': header['BAND']},
            )
        )
        facts.append(
            {
                'run': header['RUN'],
                'good': float(good[k].mean()),
                'noise_over_stated': float(sigma),
                'correlation': correlation,
            }
        )
    return exposures, facts
