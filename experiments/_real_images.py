# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Real images in several bands: stamps of stripe 82, Legacy Surveys, HSC; PSF fits.
"""

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from hsc import GAIN, NOISE_CORRELATION, UNIT

from bliss_astro import Exposure, PSFModel, align_bands
from bliss_astro.exposures import BANDS, ExposureSet
from bliss_astro.surveys import legacysurvey

STAMP = '5.0073-0.0739'
# Resampled stamps have 0.88 of the noise that their weights state, by their blank sky.
STAMP_NOISE, STAMP_CORRELATION = 0.88, (0.1, 0.1)
# Numbers of the exposures of Mosaic by the times in their names.
MOSAIC = {'021723': '00062785', '023308': '00062791'}
FIT_RADIUS = 5  # pixels


def fit_stars(exposure, x, y):
    """Fluxes and errors of PSF fits with a constant sky; NaN at bad pixels."""
    rows, box = [], np.arange(-FIT_RADIUS, FIT_RADIUS + 1)
    noise, gain, sky = (
        np.broadcast_to(v, exposure.shape)
        for v in (exposure.bkg_error, exposure.effective_gain, exposure.background)
    )
    for a, b in zip(x, y, strict=True):
        yy, xx = round(b) + box[:, None], round(a) + box
        ny, nx = exposure.shape
        beyond = min(yy.min(), xx.min()) < 0 or yy.max() >= ny or xx.max() >= nx
        if beyond or exposure.mask[yy, xx].any():
            rows.append((np.nan, np.nan))
            continue
        psf = exposure.psf_at(a, b)
        psf.x_0, psf.y_0 = a, b
        shape = psf(*np.broadcast_arrays(xx, yy))
        data = exposure.data[yy, xx] - sky[yy, xx]
        light = shape * data.max() / shape.max()
        # A hundredth of the light stands for errors of the PSF.
        weight = noise[yy, xx] ** 2 + np.maximum(light, 0) / gain[yy, xx]
        weight = 1 / np.sqrt(weight + (0.01 * light) ** 2)
        design = np.stack([shape, np.ones_like(shape)], -1) * weight[..., None]
        design = design.reshape(-1, 2)
        flux = np.linalg.lstsq(design, (data * weight).ravel(), rcond=None)[0][0]
        rows.append((flux, np.sqrt(np.linalg.inv(design.T @ design)[0, 0])))
    return np.array(rows).reshape(-1, 2).T


def stamp_psf(header):
    """Image of the PSF of a stamp: three Gaussians with centres of their own."""
    numbers = [header[f'PSF_P{k}'] for k in range(18)]
    y, x = np.mgrid[-20:21, -20:21]
    image = np.zeros(x.shape)
    for k in range(3):
        dx, dy = x - numbers[3 + 2 * k], y - numbers[4 + 2 * k]
        xx, yy, xy = numbers[9 + 3 * k : 12 + 3 * k]
        det = xx * yy - xy**2
        chi2 = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / det
        image += numbers[k] * np.exp(-0.5 * chi2) / (2 * np.pi * np.sqrt(det))
    return image


def read_stamps(folder, bands='gri'):
    """Exposures of each epoch by band."""
    epochs = {}
    for band in bands:
        with fits.open(folder / f'stamp-{band}-{STAMP}.fits') as hdus:
            for image, weight in zip(hdus[::2], hdus[1::2], strict=True):
                header, bad = image.header, weight.data <= 0
                noise = np.median(weight.data[~bad]) ** -0.5 * STAMP_NOISE
                exposure = Exposure(
                    image.data * u.nmgy,
                    bkg_error=noise * u.nmgy,
                    effective_gain=header['GAIN']
                    / header['NMGY']
                    * u.electron
                    / u.nmgy,
                    psf=PSFModel.fit(stamp_psf(header)),
                    noise_correlation=STAMP_CORRELATION,
                    mask=bad,
                    wcs=WCS(header),
                    band=band,
                )
                key = header['RUN'], header['FIELD']
                # Epochs that end within the stamp are left out.
                if bad.mean() < 0.15:
                    epochs.setdefault(key, {})[band] = exposure
    return [own for own in epochs.values() if len(own) == len(bands)]


def read_legacy(folder, images, models):
    """Sets of one exposure in each band, in the order of their names."""
    (ccds,), exposures = folder.glob('survey-ccds*'), {}
    for image in sorted(folder.glob(f'images/**/{images}')):
        name = image.name.partition('.')[0]
        if '_oow_' in name or '_ood_' in name:
            continue
        number = next((n for key, n in MOSAIC.items() if key in name), name)
        (psf,) = folder.glob(models.format(number))
        own = legacysurvey.read_exposure(image, ccds=ccds, psf=psf)
        exposures.setdefault(own.band.name, []).append(own)
    return exposures


def sets_of(exposures):
    """One exposure of each band that has one left, on the grid of r."""
    for k in range(len(exposures['r'])):
        own = {band: one[k] for band, one in exposures.items() if k < len(one)}
        yield align_bands(own, reference='r')


def read_blends(folder, bands='grizy'):
    """Exposures in all bands, and injected sources, of cut-outs of HSC."""
    for path in sorted(folder.glob('set*/*.npz')):
        with np.load(path, allow_pickle=True) as file:
            names = ('images', 'variance', 'psfs')
            planes = {name: file[name].astype(float) for name in names}
            truth = Table(np.atleast_1d(file['matched']))
        exposures = {
            band: Exposure(
                planes['images'][k] * UNIT,
                bkg_error=np.sqrt(planes['variance'][k]) * UNIT,
                effective_gain=GAIN * u.electron / UNIT,
                psf=PSFModel.fit(planes['psfs'][k] / planes['psfs'][k].sum()),
                noise_correlation=NOISE_CORRELATION,
                band=BANDS[f'HSC.{band}'],
            )
            for k, band in enumerate(bands)
        }
        yield ExposureSet(exposures, reference='i'), truth
