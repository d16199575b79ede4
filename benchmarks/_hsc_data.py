# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Real blends of Hyper Suprime-Cam as exposures, with their injected sources.
"""

import dataclasses
import os
from pathlib import Path

import astropy.units as u
import numpy as np

from bliss_astro import PSFModel
from bliss_astro.coadds import measure_noise
from bliss_astro.exposures import Exposure

__all__ = ['BAND', 'GAIN', 'PIXEL_SCALE', 'UNIT', 'Blend', 'read_blends', 'shared_data']

# Side of a pixel in arcsec, place of the i band, magnitude of unit flux, and
# electrons per unit of flux: the slope of variance on flux in hsc_cosmos_35, the
# only one whose variance plane holds the photons of its sources.
PIXEL_SCALE, BAND, ZERO_POINT, GAIN = 0.168, 2, 27.0, 4e4
UNIT = 10 ** (0.4 * (22.5 - ZERO_POINT)) * u.nmgy


@dataclasses.dataclass(frozen=True, eq=False)
class Blend:
    """
    One cut-out.

    Attributes
    ----------
    name : str
        Set and number.

    exposure : `~bliss_astro.exposures.Exposure`
        In nmgy.

    psf : float array
        Image of the PSF, of unit sum.

    psf_centre : tuple of float
        Place (x, y) of its centroid, pixels.

    truth : list of dict
        The sources that the survey's team put in: ``x``, ``y`` (the nearest pixel),
        ``magnitude``, ``is_galaxy``.

    peaks : float array, shape (n, 2)
        The survey's own peaks, (x, y).
    """

    name: str
    exposure: Exposure
    psf: np.ndarray
    psf_centre: tuple[float, float]
    truth: list[dict]
    peaks: np.ndarray


def shared_data(given=None):
    """
    Folder of the real data.

    Parameters
    ----------
    given : path_like, optional
        What the user says.

    Returns
    -------
    folder : `~pathlib.Path`
        It, ``BLISS_ASTRO_SHARED_DATA``, or ``../shared/data`` beside the repository.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    beside = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    folder = Path(given or os.environ.get('BLISS_ASTRO_SHARED_DATA') or beside)
    if not (folder / 'hsc_blends').is_dir():
        msg = f'{folder.name} has no folder hsc_blends; give --data'
        raise FileNotFoundError(msg)
    return folder


def psf_centroid(image):
    """Centre (x, y) of a PSF's image, by adaptive moments."""
    import galsim

    moments = galsim.hsm.FindAdaptiveMom(galsim.Image(image, xmin=0, ymin=0))
    return moments.moments_centroid.x, moments.moments_centroid.y


def _read(path):
    with np.load(path, allow_pickle=True) as file:
        data, variance, psf = (
            file[name][BAND].astype(float) for name in ('images', 'variance', 'psfs')
        )
        matched = [
            dict(zip(row.dtype.names, row, strict=True)) for row in file['matched']
        ]
        peaks = file['centers'][:, ::-1].astype(float)
    psf /= psf.sum()
    exposure = Exposure(
        data * UNIT,
        bkg_error=np.sqrt(variance) * UNIT,
        effective_gain=GAIN * u.electron / UNIT,
        psf=PSFModel.fit(psf),
    )
    truth = [
        {
            'x': float(row['x']),
            'y': float(row['y']),
            'magnitude': float(row['imagVar']),
            'is_galaxy': row['sourceType'] != b'star',
        }
        for row in matched
    ]
    name = f'{path.parent.name}/{path.stem[-5:]}'
    return Blend(name, exposure, psf, psf_centroid(psf), truth, peaks)


def read_blends(folder):
    """
    Read all blends that have a truth.

    Parameters
    ----------
    folder : path_like
        Of the shared data.

    Returns
    -------
    blends : list of `Blend`
        Their exposures know the correlation of the noise, one for all.
    """
    paths = sorted(Path(folder, 'hsc_blends').glob('set*/*.npz'))
    blends = [_read(path) for path in paths]
    values, weights = [], []
    for blend in blends:
        data = blend.exposure.data / blend.exposure.bkg_error
        try:
            noise = measure_noise(data, background=0.0, max_lag=5)
        except ValueError:  # too little blank sky
            continue
        values.append(np.mean(noise.noise_correlation))
        weights.append(noise.n_pixels)
    pair = (round(float(np.average(values, weights=weights)), 3),) * 2
    return [
        dataclasses.replace(
            blend, exposure=blend.exposure.replace(noise_correlation=pair)
        )
        for blend in blends
    ]
