# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds in FITS files, of this package and of other makers, and as NDData and CCDData.
"""

import json
import math
import re

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty

from bliss_astro._arguments import require, require_type
from bliss_astro._atomic import atomic_write
from bliss_astro._fits import CREATOR, file_name, header_wcs, open_fits
from bliss_astro._warnings import warn
from bliss_astro.exposures import Exposure, measure_noise
from bliss_astro.exposures._bands import band_cards, find_band
from bliss_astro.exposures._fits_image import Location
from bliss_astro.exposures._nddata import read_nddata
from bliss_astro.exposures._noise import neighbours
from bliss_astro.exposures._read import exposure_of_hdus
from bliss_astro.psf import PSFModel
from bliss_astro.units import unit_text

from ._psf import Cells, EffectivePSF, draw_psf_at

# Cards that mark a file as one of ours, with the version of its layout.
_KIND_KEY, _KIND = 'BLISSTYP', 'COADD'
_VERSION_KEY, _VERSION = 'BLISSVER', 1
# Names of header cards (single numbers) and of extensions (maps).
_NAMES = {
    'bkg_error': 'BKGERR',
    'effective_gain': 'EFFGAIN',
    'background': 'BACKGRND',
    'read_noise': 'RDNOISE',
    'saturation': 'SATURATE',
    'psf_error': 'PSFERR',
    'background_error': 'BKGRELER',
}
_BAD, _SATURATED = 1, 2
# Cards of the meta of a CCDData: what FITS has no cards for, the signal at which the
# sources' noise equals the sky's, and the entries of the kernel by row and column.
_META_KEY, _SKY_KEY, _KERNEL_KEY = 'BLISSMET', 'NOISESKY', 'NK{}_{}'
_LONGEST_KEY = 8


# -- files of this package ---------------------------------------------------------


def write(self, path, *, overwrite=False):
    """
    Write the coadd to a FITS file with an extension for each map.

    Parameters
    ----------
    path : str or `~os.PathLike`
        The file; ``.gz`` at the end compresses it.

    overwrite : bool, optional
        Whether an existing file may be replaced.

    Raises
    ------
    OSError
        If the file exists, or cannot be written; it is then as it was.

    Notes
    -----
    The image is in the first HDU, where every program finds it. The
    extensions are ``BKGERR``, ``EFFGAIN``, ``BACKGRND``, ``RDNOISE`` and
    ``SATURATE`` (those that are maps; single numbers stand in the header),
    ``MASK`` (1 bad, 2 saturated), ``NEXP``, ``NOISEKER``, ``PSFIMAGE``,
    ``PSF`` (shapes and images on a grid of places) and ``META``.
    """
    hdus = fits.HDUList([fits.PrimaryHDU(self.data, header=wcs_header(self.wcs))])
    header = hdus[0].header
    header['CREATOR'] = CREATOR
    header[_KIND_KEY] = (_KIND, 'written by bliss_astro')
    header[_VERSION_KEY] = (_VERSION, 'version of this layout')
    if self.unit is not None:
        header['BUNIT'] = unit_text(self.unit)
    header.update(band_cards(self.band))
    flags = _BAD * self.mask.astype(np.uint8) + _SATURATED * self.saturated
    values = {key: getattr(self, name) for name, key in _NAMES.items()}
    values |= {'MASK': flags.astype(np.uint8), 'NEXP': self.n_exposures}
    values |= {'NOISEKER': self.noise_kernel, 'PSFIMAGE': self.psf_image}
    for key, value in values.items():
        if np.ndim(value):
            hdus.append(fits.ImageHDU(np.array(value), name=key))
        elif value is not None:
            header[key] = value
    if self.psf is not None:
        hdus.append(_psf_table(self))
    meta = json.dumps(self.meta, default=_plain_value)
    column = fits.Column('json', f'{len(meta)}A', array=[meta])
    hdus.append(fits.BinTableHDU.from_columns([column], name='META'))
    with atomic_write(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary, overwrite=True, checksum=True)


def wcs_header(wcs):
    """Return the header of a WCS, or `None` of one that FITS cannot hold."""
    if hasattr(wcs, 'to_header'):
        return wcs.to_header(relax=True)
    if wcs is not None:
        warn(
            f'wcs is a {type(wcs).__name__}, which FITS cannot hold; it is not '
            'written. An astropy WCS would be.'
        )
    return None


def _psf_table(coadd):
    """Put the PSF into a table with a row for each place."""
    psf = coadd.psf
    if not coadd._psf_access.varies:
        psf = coadd.psf_at(0, 0)
        columns = [fits.Column('shape', '8D', array=psf.shape_vector[None])]
        cards = {}
    else:
        if not isinstance(psf, EffectivePSF):
            xs, ys = (cells := Cells(coadd.shape)).xs, cells.ys
            psf = EffectivePSF(
                [[draw_psf_at(coadd, x, y) for x in xs] for y in ys],
                xs=xs,
                ys=ys,
                normalization_radius=coadd.psf_at(xs[0], ys[0]).normalization_radius,
            )
        n_y, n_x, side = psf.images.shape[:3]
        x, y = np.meshgrid(psf.xs - psf.origin[0], psf.ys - psf.origin[1])
        images = psf.images.reshape(-1, side, side)
        form = {'format': f'{side * side}D', 'dim': f'({side},{side})'}
        columns = [
            fits.Column('x', 'D', array=x.ravel()),
            fits.Column('y', 'D', array=y.ravel()),
            fits.Column('image', array=images, **form),
        ]
        cards = {'N_X': n_x, 'N_Y': n_y}
    table = fits.BinTableHDU.from_columns(columns, name='PSF')
    table.header.update(cards | {'NORMRAD': float(psf.normalization_radius)})
    return table


def _plain_value(value):
    """Convert a value that JSON has no form for."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def read(cls, path, *, hdu=None, **known):
    """
    Read a coadd from a FITS file, one of `write` or of another maker.

    Parameters
    ----------
    path : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        The file, plain or compressed.

    hdu : int or str, optional
        The image, in files of other makers; by default the first HDU
        with a two-dimensional image.

    **known
        Arguments of `Coadd` that such a file does not hold, with or
        without units as its image has them (the unit of ``BUNIT``).

    Returns
    -------
    coadd : `Coadd`
        The coadd. For files of other makers, noise and correlation that
        are not among ``known`` are measured in the blank sky, the sky
        that is left on a mesh, and ``meta['estimated']`` states which and how.

    Raises
    ------
    OSError
        If the file is absent, truncated, damaged, or not FITS.

    TypeError
        If ``known`` has something that `Coadd` does not take.

    ValueError
        If there is no image, or the parts of the file do not fit each
        other.

    Warns
    -----
    `~astropy.utils.exceptions.AstropyUserWarning`
        If the noise had to be estimated.

    See Also
    --------
    bliss_astro.exposures.measure_noise : How that is done.
    """
    unknown = sorted(set(known) - set(cls._arguments))
    if unknown:
        names = f'{cls.__name__} has {", ".join(cls._arguments)}'
        raise TypeError(f'read got an unknown keyword {unknown[0]!r}; {names}.')
    with open_fits(path, 'path') as hdus:
        if hdu is None and hdus[0].header.get(_KIND_KEY) == _KIND:
            return _read_own(cls, hdus, known, file_name(path))
        return _read_foreign(cls, hdus, hdu, known)


def _read_own(cls, hdus, known, name):
    """Read a file of `write_coadd`."""
    header, data = hdus[0].header, hdus[0].data
    if (version := header.get(_VERSION_KEY)) != _VERSION:
        msg = (
            f'path={name!r} has version {version} of the layout of coadds; this '
            f'version of bliss_astro reads version {_VERSION}.'
        )
        raise ValueError(msg)
    needed = {'MASK', 'NOISEKER', 'META'} | {'BKGERR', 'EFFGAIN'} - set(header)
    needed |= {'PSFIMAGE'} if 'PSF' in hdus else set()
    for key in sorted(needed):
        if key not in hdus:
            msg = f'path={name!r} is not a whole coadd: it has no extension {key}.'
            raise ValueError(msg)
    flags = hdus['MASK'].data
    arguments = {
        'unit': u.Unit(header['BUNIT']) if 'BUNIT' in header else None,
        'wcs': header_wcs(header, data.shape) if 'CTYPE1' in header else None,
        'band': find_band(header),
        'mask': (flags & _BAD) > 0,
        'saturated': (flags & _SATURATED) > 0,
        'meta': json.loads(str(hdus['META'].data['json'][0])),
    }
    maps = {'n_exposures': 'NEXP', 'noise_kernel': 'NOISEKER'}
    for argument, key in (_NAMES | maps).items():
        if key in header:
            arguments[argument] = float(header[key])
        elif key in hdus:
            arguments[argument] = hdus[key].data
    if 'PSF' in hdus:
        arguments['psf'] = _read_psf(hdus['PSF'])
        if not isinstance(arguments['psf'], EffectivePSF):
            arguments['psf_image'] = hdus['PSFIMAGE'].data
    try:
        return cls(data, **(arguments | known))
    except (TypeError, ValueError) as error:
        msg = f'path={name!r} holds parts that do not make a coadd: {error}'
        raise ValueError(msg) from error


def _read_psf(hdu):
    """Make a PSF of its table."""
    radius, data = float(hdu.header['NORMRAD']), hdu.data
    if 'shape' in hdu.columns.names:
        return PSFModel.from_shape(data['shape'][0], normalization_radius=radius)
    n_y, n_x = hdu.header['N_Y'], hdu.header['N_X']
    return EffectivePSF(
        data['image'].reshape(n_y, n_x, *data['image'].shape[1:]),
        xs=data['x'][:n_x],
        ys=data['y'][::n_x],
        normalization_radius=radius,
    )


# -- files of other makers ---------------------------------------------------------


def _read_foreign(cls, hdus, hdu, known):
    """Read an image, and measure what its file does not state."""
    given = {key: value for key, value in known.items() if value is not None}
    own = ('noise_kernel', 'n_exposures', 'psf_image')
    parts = {key: given.pop(key) for key in own if key in given}
    if 'noise_kernel' in parts:
        given['noise_correlation'] = neighbours(np.array(parts['noise_kernel']))
    estimated = {}
    exposure = exposure_of_hdus(hdus, Location('', hdu), given, estimated)
    if 'noise_kernel' not in parts:
        sky = {'background': exposure.background}
        noise = measure_noise(exposure.data, exposure.mask, **sky)
        parts['noise_kernel'] = noise.kernel
        estimated.pop('noise_correlation', None)
        estimated['noise_kernel'] = 'correlation of blank sky'
    if 'bkg_error' in estimated:
        warn(
            f'path={file_name(hdus)!r} has no noise map; noise and correlation were '
            'measured in the blank sky, one number for all pixels. Give bkg_error if '
            'you have a map, or if the depth varies.'
        )
    state = exposure._state() | parts
    del state['noise_correlation']
    if estimated:
        state['meta'] = state['meta'] | {'estimated': estimated}
    return cls(exposure.data, **state)


# -- NDData ------------------------------------------------------------------------


def to_ccddata(self):
    """
    Turn the coadd into a CCDData.

    Returns
    -------
    ccddata : `~astropy.nddata.CCDData`
        Image, mask, WCS, unit, meta, image of the PSF, the total error as
        uncertainty, and the numbers of exposures as ``flags``. The kernel
        of the noise stands in its meta (``NKy_x``). A gain that is a
        map is kept as one number, ``NOISESKY``: the signal at which the sources'
        noise equals the sky's, ``bkg_error**2 * effective_gain``.
        ``from_ccddata`` returns to the maps, exactly where that number is the
        same in all pixels. A PSF that varies is reduced to its image at the
        centre.
    """
    ccddata = Exposure.to_ccddata(self)
    meta = ccddata.meta
    others = {
        key: meta.pop(key)
        for key, value in list(meta.items())
        if len(key) > _LONGEST_KEY or not isinstance(value, str | int | float)
    }
    if others:
        meta[_META_KEY] = json.dumps(others, default=_plain_value)
    if np.ndim(self.effective_gain):
        level = np.square(self.bkg_error, dtype=float) * self.effective_gain
        meta[_SKY_KEY] = float(np.median(level[~self.mask]))
    for place, value in np.ndenumerate(self.noise_kernel):
        meta[_KERNEL_KEY.format(*place)] = float(value)
    if self.n_exposures is not None:
        ccddata.flags = np.array(self.n_exposures)
    image = self.psf_image
    ccddata.psf = None if image is None else image.copy()
    return ccddata


def from_nddata(cls, nddata, **keywords):
    """
    Take the coadd from an NDData or CCDData.

    Parameters
    ----------
    nddata : `~astropy.nddata.NDData` or `~astropy.nddata.CCDData`
        The image, of `to_ccddata` or another one. Its uncertainty is the
        TOTAL error of each pixel.

    **keywords
        Arguments of `Coadd` that it does not have. ``effective_gain`` is
        needed, unless the NDData came from `to_ccddata`.

    Returns
    -------
    coadd : `Coadd`
        The coadd.

    Raises
    ------
    TypeError, ValueError
        See `bliss_astro.exposures.Exposure.from_nddata`.
    """
    require_type('nddata', nddata, NDData)
    meta = dict(nddata.meta or {})
    meta |= json.loads(meta.pop(_META_KEY, '{}'))
    kernel = {
        key: meta.pop(key) for key in list(meta) if re.fullmatch(r'NK\d+_\d+', str(key))
    }
    sky = meta.pop(_SKY_KEY, None)
    parts = ('uncertainty', 'mask', 'wcs', 'unit', 'psf')
    parts = {name: getattr(nddata, name, None) for name in parts}
    if sky is not None and keywords.get('effective_gain') is None:
        noise, gain = _split_error(nddata, meta, float(sky), keywords)
        keywords = keywords | {'bkg_error': noise, 'effective_gain': gain}
        del parts['uncertainty']
    plain = NDData(nddata.data, meta=meta, **parts)
    data, arguments = read_nddata(plain, keywords)
    if kernel:
        sides = range(math.isqrt(len(kernel)))
        values = [[kernel[_KERNEL_KEY.format(j, i)] for i in sides] for j in sides]
        arguments.setdefault('noise_kernel', values)
    if plain.psf is not None and np.all(np.array(np.shape(plain.psf)) % 2):
        arguments.setdefault('psf_image', plain.psf)
    counts = getattr(nddata, 'flags', None)
    if counts is not None and np.shape(counts) == np.shape(nddata.data):
        arguments.setdefault('n_exposures', counts)
    return cls(data, **arguments)


def _split_error(nddata, meta, sky, keywords):
    """Part a total error into the noise of the sky and the gain of the sources."""
    uncertainty, allowed = nddata.uncertainty, 'be given, without an uncertainty'
    require(uncertainty is not None, 'bkg_error', allowed, uncertainty)
    error = uncertainty.represent_as(StdDevUncertainty).array
    level = keywords.get('background', meta.get('BKGLEVEL', 0.0))
    level = level.to_value(nddata.unit) if isinstance(level, u.Quantity) else level
    with np.errstate(invalid='ignore'):
        signal = np.maximum(nddata.data - level, 0)
    signal = np.nan_to_num(signal, nan=0.0, posinf=0.0)
    noise = error / np.sqrt(1 + signal / sky)
    unit = nddata.unit
    if unit is None or unit == u.dimensionless_unscaled:
        return noise, sky / noise**2
    return noise * unit, sky / noise**2 * (u.electron / unit)
