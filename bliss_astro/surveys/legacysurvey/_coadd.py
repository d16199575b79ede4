# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of the coadds of bricks of the DESI Legacy Imaging Surveys.
"""

import os
from pathlib import Path

import numpy as np

from bliss_astro._fits import check_file, file_name, image_plane, open_fits, wrong_type
from bliss_astro._warnings import warn
from bliss_astro.exposures._fits_image import Location
from bliss_astro.exposures._read import read_hdus, register_fits_format
from bliss_astro.exposures._validate import check_shape
from bliss_astro.psf import PSFModel, VaryingPSF
from bliss_astro.surveys._bands import scale_noise
from bliss_astro.units import FWHM_PER_SIGMA

# Bits of maskbits by band: saturated in one image, bad in all.
_SATURATED = {'g': 2, 'r': 3, 'z': 4, 'i': 14}
_BAD = {'g': 5, 'r': 6, 'z': 7, 'i': 15}
# Maps of a brick by argument, and what they are called.
MAPS = {'weight': 'invvar', 'psfsize': 'psfsize', 'nexp': 'nexp'}


class EffectiveAreaPSF(VaryingPSF):
    """
    A PSF of a map of widths, each that of a Gaussian of the effective area of the PSF.

    Parameters
    ----------
    widths : (ny, nx) array
        Full widths at half maximum in pixels, 0 where there is no image.
    """

    def __init__(self, widths):
        self._widths, self._models = widths, {}
        self._usual = float(np.median(widths[widths > 0]))
        self.middle = tuple(length // 2 for length in widths.shape[::-1])

    def at(self, x, y):
        """Return the model at a place; see `VaryingPSF.at`."""
        places = np.array([y, x]) + self.origin[::-1]
        row, column = np.clip(np.rint(places), 0, np.array(self._widths.shape) - 1)
        width = float(self._widths[int(row), int(column)]) or self._usual
        key = round(width, 2)
        if key not in self._models:
            self._models[key] = _model_of_width(key)
        return self._models[key]


def _model_of_width(width):
    """Model of the effective area of a Gaussian of a full width at half maximum."""
    area, fwhm = 4 * np.pi * (width / FWHM_PER_SIGMA) ** 2, width
    # The area is nearly as the square of the width.
    for _ in range(3):
        fwhm *= float(np.sqrt(area / PSFModel.from_fwhm(fwhm).n_eff))
    return PSFModel.from_fwhm(fwhm)


def read_coadd(image, *, weight=None, maskbits=None, psfsize=None, nexp=None, **given):
    """
    Read a coadd of a brick of the Legacy Surveys.

    Parameters
    ----------
    image : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        A file ``legacysurvey-BRICK-image-BAND.fits.fz``, in nanomaggies.

    weight, maskbits, psfsize, nexp : str, `~os.PathLike` or array, optional
        Maps, or files, of inverse variances, bit masks, effective widths of the PSF
        (arcsec) and numbers of exposures, by default those beside the image by their
        names. Those that are not there are named by a warning; the noise is then that
        of empty sky, and the PSF is measured.

    **given
        Other keywords of `Exposure.read <bliss_astro.exposures.ExposureRead>`:
        ``effective_gain``, which the coadds do not state; ``psf``, in place of
        ``psfsize``; ``background``, by default 0, as the survey has taken the sky off.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        Image in nmgy. Bad are pixels without weight, and those that are bad in all
        images (ALLMASK) or saturated (SATUR) in one. Other bits, of bright stars and
        large galaxies, are no defects.

    Raises
    ------
    OSError
        If a file is absent, truncated, damaged, or not FITS.

    ValueError
        If a file is of another kind, brick or band.

    References
    ----------
    .. [1] https://www.legacysurvey.org/dr10/files, "Image stacks";
       https://www.legacysurvey.org/dr10/bitmasks

    .. [2] ``coadds`` of https://github.com/legacysurvey/legacypipe, for psfsize
    """
    stated = {'weight': weight, 'psfsize': psfsize, 'nexp': nexp, 'maskbits': maskbits}
    with open_fits(image, 'image') as hdus:
        name = file_name(hdus)
        header = _header(hdus)
        if not _is_brick(hdus):
            found = 'it has no BRICK and IMTYPE image in its header'
            raise wrong_type(name, 'image', 'the coadd of a brick', found)
        maps, missing = {}, []
        for key, path in stated.items():
            needless = {'weight': 'bkg_error', 'psfsize': 'psf'}.get(key)
            if path is None and given.get(needless) is None:
                path = beside(name, MAPS.get(key, key))
                missing += [MAPS.get(key, key)] * (path is None)
            if path is not None:
                is_file = isinstance(path, str | os.PathLike)
                maps[key] = _read_map(path, key, header) if is_file else path
        if missing:
            warn(f'files of {name!r} are not there: {", ".join(missing)}')
        location = Location(name, hdus.index(_image(hdus)))
        known = {'background': 0.0} | _arguments(maps, header)
        exposure, _ = read_hdus(hdus, location, 'fits', known | given)
    if 'weight' in maps:
        # Resampling makes pixels alike, of which the weights know nothing.
        exposure = scale_noise(exposure, np.maximum(maps['weight'], 0))
    if 'psfsize' not in maps or exposure.pixel_scale is None:
        return exposure
    return exposure.replace(
        psf=EffectiveAreaPSF(maps['psfsize'] / exposure.pixel_scale)
    )


def _arguments(maps, header):
    """Arguments of the exposure by the maps of a brick."""
    known = {'weight': maps.get('weight')}
    if 'maskbits' in maps:
        band = str(header.get('FILTERX')).strip()
        bits = maps['maskbits'].astype(int)
        known['mask'] = bits >> _BAD.get(band, 63) & 1 > 0
        known['saturated'] = bits >> _SATURATED.get(band, 63) & 1 > 0
    if 'nexp' in maps:
        known['meta'] = {'n_exposures': int(np.median(maps['nexp']))}
    return known


def _read_map(path, key, header):
    """Read a map of the brick and band of an image."""
    check_file(path, key, 'a file')
    with open_fits(path, key) as hdus:
        hdu, kind = _image(hdus), MAPS.get(key, key)
        wanted = {'BRICK': header.get('BRICK'), 'IMTYPE': kind}
        if key != 'maskbits':
            wanted['FILTERX'] = header.get('FILTERX')
        for card, value in wanted.items():
            # Bit masks of some releases lack cards.
            found = hdu.header.get(card, value if key == 'maskbits' else None)
            if found is not None and str(found).strip() != str(value).strip():
                expected = f'{kind} of brick {wanted["BRICK"]}'
                raise wrong_type(path, key, expected, f'{card} is {found!r}')
        data = image_plane(hdu)
    check_shape(key, data, (header['NAXIS2'], header['NAXIS1']))
    return data.astype(data.dtype.newbyteorder('='))


def beside(name, kind):
    """File of a kind beside the image of a brick, plain or compressed, or None."""
    before, found, after = Path(name).name.partition('-image-')
    band = '' if kind == 'maskbits' else f'-{after.partition(".")[0]}'
    paths = sorted(Path(name).parent.glob(f'{before}-{kind}{band}.fits*'))
    return str(paths[0]) if found and paths else None


def _image(hdus):
    """HDU of the image of a file of a brick, compressed or not, or None."""
    return next((hdu for hdu in hdus if image_plane(hdu) is not None), None)


def _header(hdus):
    hdu = _image(hdus)
    return hdus[0].header if hdu is None else hdu.header


def _is_brick(hdus):
    """Whether HDUs are those of the image of a brick."""
    header = _header(hdus)
    is_image = str(header.get('IMTYPE')).strip() == 'image'
    return is_image and 'BRICK' in header and _image(hdus) is not None


register_fits_format(
    'legacysurvey.coadd', lambda hdus, given: read_coadd(hdus, **given), _is_brick
)
