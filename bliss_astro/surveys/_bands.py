# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bands of a field from files of a survey, and the noise that such files state.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.ndimage import distance_transform_edt

from bliss_astro._arguments import require
from bliss_astro._fits import header_wcs
from bliss_astro._warnings import warn
from bliss_astro.exposures import Exposure, ExposureSet
from bliss_astro.exposures._sky import noise_of
from bliss_astro.units import median_and_scatter

from ._files import list_files

# Heights (sigma) of blank pixels and of those that show a gain, the number of these,
# and how many times as large as its scatter in the sky the variance has to be there.
_BLANK_SIGMA, _BRIGHT_SIGMA, _MIN_BRIGHT, _CLEAR = 3.0, 20.0, 20, 3.0


def find_by_name(where, parse, wanted):
    """
    Keywords of the fields of a survey whose files have its names.

    ``parse`` returns id and band of the name of a file, or None; ``wanted`` says what
    there should be.
    """
    fields = {}
    paths = list_files(where, '.fit*')
    for path in paths:
        found = parse(Path(path).name)
        if found is not None:
            name, band = found
            other = fields.setdefault(name, {}).setdefault(band, path)
            allowed = 'have one file of each field and band'
            require(other == path, 'fields', allowed, f'{other}, {path}')
    if not fields:
        got = f'{len(paths)} files without one'
        raise FileNotFoundError(f'fields must name {wanted}; got {got}.')
    return [
        {'id': name, 'files': files, 'footprint': footprint(next(iter(files.values())))}
        for name, files in fields.items()
    ]


def footprint(path, extension=None):
    """Corners ((ra, dec), ...) of the first image with a WCS by its header, or None."""
    try:
        with fits.open(path) as hdus:
            for hdu in hdus if extension is None else [hdus[extension]]:
                if hdu.is_image and hdu.header.get('NAXIS') == 2:
                    wcs = header_wcs(hdu.header, hdus=hdus)
                    if wcs.has_celestial:
                        shape = [hdu.header[f'NAXIS{k}'] for k in (1, 2)]
                        corners = wcs.calc_footprint(axes=shape).tolist()
                        return tuple(map(tuple, corners))
    except Exception:  # noqa: BLE001
        # Of a damaged file the reason is stated when it is read.
        return None
    return None


def opener(read, *readers):
    """
    Make ``open_field`` of a survey.

    ``read`` makes an exposure of a path, the band that the names of files state, or
    None, and keywords: those of ``readers`` and of `Exposure`. Bands on other pixels
    than the first are resampled to these, by their WCS.
    """

    def open_field(files, **options):
        """
        Read the images of a field that `find_fields` has found.

        Parameters
        ----------
        files : dict of str to str
            Image by band.

        **options
            Keywords of the functions of this survey that read an image; a dict has a
            value for each band.

        Returns
        -------
        exposure : `~bliss_astro.exposures.Exposure` or \
                `~bliss_astro.exposures.ExposureSet`
            The exposure, or those of several bands on the pixels of the first.

        Raises
        ------
        OSError, ValueError
            As these functions.
        """
        exposures = {}
        for band, path in files.items():
            is_one, got = isinstance(path, str), f'{path!r:.60}'
            require(is_one, 'files', 'be one path for each band', got)
            own = {
                name: value.get(band) if isinstance(value, Mapping) else value
                for name, value in options.items()
            }
            own = {name: value for name, value in own.items() if value is not None}
            exposures[band] = read(path, band or None, **own)
        if len(exposures) == 1:
            return next(iter(exposures.values()))
        if all(exposure.wcs is None for exposure in exposures.values()):
            return ExposureSet(exposures)
        from bliss_astro.coadds import align_bands

        return align_bands(exposures)

    open_field.__module__ = read.__module__
    open_field.keywords = keywords_of(*readers) | _OF_IMAGES
    return open_field


def keywords_of(*functions):
    """Names of the keywords of functions that read images."""
    every = (inspect.signature(one).parameters.values() for one in functions)
    return {p.name for one in every for p in one if p.kind is p.KEYWORD_ONLY}


# Keywords of all images but those of SDSS.
_OF_IMAGES = keywords_of(Exposure) | {'weight', 'fwhm', 'zero_point'}


def split_variance(signal, variance, good, photons=None):
    """
    Noise of the sky (a map), and the gain, of a variance that has the light of sources.

    The noise is that of the nearest pixel without sources. The gain is how the variance
    grows with sources, or that of ``photons`` alone; None where it does not, or too
    little to be seen.
    """
    noise = np.sqrt(np.median(variance[good]))
    blank = good & (np.abs(signal) < _BLANK_SIGMA * noise)
    gain = None
    error = np.sqrt(np.where(variance > 0, variance, 0))
    if blank.any():
        bright = good & (signal > _BRIGHT_SIGMA * noise)
        photons = variance if photons is None else photons
        gain = _gain_of(signal, photons, blank, bright)
        options = {'return_distances': False, 'return_indices': True}
        rows, columns = distance_transform_edt(~blank, **options)
        error = np.where(good, error[rows, columns], error)
    return error, gain


def _gain_of(signal, variance, blank, bright):
    """Light of bright pixels over what their variance has above that of blank ones."""
    if np.count_nonzero(bright) < _MIN_BRIGHT:
        return None
    level, scatter = median_and_scatter(variance[blank])
    excess = np.median(variance[bright]) - level
    clear = excess > _CLEAR * scatter
    return float(np.median(signal[bright]) / excess) if clear else None


def scale_noise(exposure, weight=None):
    """
    Scale the map of the noise to what empty sky shows.

    Resampling makes pixels alike and lowers their scatter, of which maps of errors know
    nothing. The noise over that of an inverse variance is ``meta['noise_ratio']``.
    """
    try:
        noise = noise_of(exposure, exposure.bkg_error)
    except ValueError:
        warn(
            'the noise of the sky cannot be measured: sources or bad pixels cover the '
            'image. The stated noise is taken as it is.'
        )
        return exposure
    meta, error = exposure.meta, exposure.bkg_error * noise.sigma
    if weight is not None:
        ratio = np.median((error * np.sqrt(weight))[~exposure.mask])
        meta = meta | {'noise_ratio': float(ratio)}
    return exposure.replace(
        bkg_error=error, noise_correlation=noise.significant_correlation, meta=meta
    )
