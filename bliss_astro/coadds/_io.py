# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds in FITS files and as NDData and CCDData.
"""

import json
import re

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty

from bliss_astro._warnings import warn
from bliss_astro.exposures._nddata import read_nddata

from .._atomic import atomic_write
from .._fits import CREATOR, file_name, header_wcs, open_fits
from ..units import unit_text
from ._psf import Cells, EffectivePSF, draw_psf

__all__ = [
    'plain_value',
    'read_coadd',
    'read_coadd_nddata',
    'write_coadd',
    'write_coadd_ccddata',
]

# What marks a file as one of ours, and the version of its layout.
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


def write_coadd(coadd, path, *, overwrite):
    """Write a coadd; the work behind `Coadd.write`."""
    primary = fits.PrimaryHDU(coadd.data, header=_wcs_header(coadd.wcs))
    header = primary.header
    header['CREATOR'] = CREATOR
    header[_KIND_KEY] = (_KIND, 'written by bliss_astro')
    header[_VERSION_KEY] = (_VERSION, 'version of this layout')
    if coadd.unit is not None:
        header['BUNIT'] = unit_text(coadd.unit)
    hdus = fits.HDUList([primary])
    for name, key in _NAMES.items():
        value = getattr(coadd, name)
        if value is None:
            continue
        if np.ndim(value) == 0:
            header[key] = value
        else:
            hdus.append(fits.ImageHDU(np.asarray(value), name=key))
    flags = _BAD * coadd.mask.astype(np.uint8) + _SATURATED * coadd.saturated
    hdus.append(fits.ImageHDU(flags.astype(np.uint8), name='MASK'))
    if coadd.n_exposures is not None:
        hdus.append(fits.ImageHDU(np.array(coadd.n_exposures), name='NEXP'))
    hdus.append(fits.ImageHDU(coadd.noise_kernel, name='NOISEKER'))
    if coadd.psf is not None:
        hdus.append(fits.ImageHDU(coadd.psf_image, name='PSFIMAGE'))
        hdus.append(_psf_table(coadd))
    hdus.append(_meta_table(coadd.meta))
    with atomic_write(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary, overwrite=True, checksum=True)


def _wcs_header(wcs):
    """Turn coordinates into a header, if FITS has words for them."""
    if wcs is None:
        return None
    if not hasattr(wcs, 'to_header'):
        msg = (
            f'wcs is a {type(wcs).__name__}, which FITS cannot hold; it is not '
            'written. An astropy WCS would be.'
        )
        warn(msg)
        return None
    return wcs.to_header(relax=True)


def _psf_table(coadd):
    """Put the PSF into a table with a row for each place."""
    psf = coadd.psf
    if not coadd._psf_access.varies:
        model = coadd.psf_at(0, 0)
        columns = [fits.Column('shape', '8D', array=model.shape_vector[None])]
        table = fits.BinTableHDU.from_columns(columns, name='PSF')
        table.header['NORMRAD'] = float(model.normalization_radius)
        return table
    if not isinstance(psf, EffectivePSF):
        cells = Cells(coadd.shape)
        images = [[draw_psf(coadd, x, y) for x in cells.xs] for y in cells.ys]
        radius = coadd.psf_at(cells.xs[0], cells.ys[0]).normalization_radius
        psf = EffectivePSF(
            images, xs=cells.xs, ys=cells.ys, normalization_radius=radius
        )
    n_y, n_x, side = psf.images.shape[:3]
    x, y = np.meshgrid(psf.xs - psf.origin[0], psf.ys - psf.origin[1])
    columns = [
        fits.Column('x', 'D', array=x.ravel()),
        fits.Column('y', 'D', array=y.ravel()),
        fits.Column(
            'image',
            f'{side * side}D',
            dim=f'({side},{side})',
            array=psf.images.reshape(-1, side, side),
        ),
    ]
    table = fits.BinTableHDU.from_columns(columns, name='PSF')
    table.header['NORMRAD'] = psf.normalization_radius
    table.header['N_X'], table.header['N_Y'] = n_x, n_y
    return table


def _meta_table(meta):
    """Put the meta, as JSON, into a table of one cell."""
    text = json.dumps(meta, default=plain_value)
    column = fits.Column('json', f'{len(text)}A', array=[text])
    return fits.BinTableHDU.from_columns([column], name='META')


def plain_value(value):
    """Convert a value that JSON has no form for."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def read_coadd(cls, path, *, hdu, known):
    """Read a coadd; the work behind `Coadd.read`."""
    unknown = sorted(set(known) - set(cls._arguments))
    if unknown:
        msg = (
            f'read got an unknown keyword {unknown[0]!r}; {cls.__name__} has '
            f'{", ".join(cls._arguments)}.'
        )
        raise TypeError(msg)
    with open_fits(path, 'path') as hdus:
        if hdu is None and hdus[0].header.get(_KIND_KEY) == _KIND:
            return _read_own(cls, hdus, known, file_name(path))
        from ._foreign import read_foreign

        return read_foreign(cls, hdus, hdu, known, file_name(path))


def _read_own(cls, hdus, known, name):
    """Read a file of `write_coadd`."""
    header = hdus[0].header
    version = header.get(_VERSION_KEY)
    if version != _VERSION:
        msg = (
            f'path={name!r} has version {version} of the layout of coadds; this '
            f'version of bliss_astro reads version {_VERSION}.'
        )
        raise ValueError(msg)
    data = hdus[0].data
    arguments = {
        'unit': u.Unit(header['BUNIT']) if 'BUNIT' in header else None,
        'wcs': header_wcs(header, data.shape) if 'CTYPE1' in header else None,
    }
    for argument, key in _NAMES.items():
        if key in header:
            arguments[argument] = float(header[key])
        elif key in hdus:
            arguments[argument] = hdus[key].data
    for lacking in [key for key in ('BKGERR', 'EFFGAIN') if key not in header]:
        _part(hdus, lacking, name)
    flags = _part(hdus, 'MASK', name).data
    arguments['mask'] = (flags & _BAD) > 0
    arguments['saturated'] = (flags & _SATURATED) > 0
    arguments['noise_kernel'] = _part(hdus, 'NOISEKER', name).data
    arguments['meta'] = json.loads(str(_part(hdus, 'META', name).data['json'][0]))
    if 'NEXP' in hdus:
        arguments['n_exposures'] = hdus['NEXP'].data
    if 'PSF' in hdus:
        arguments['psf'] = _read_psf(hdus['PSF'])
        if not isinstance(arguments['psf'], EffectivePSF):
            arguments['psf_image'] = _part(hdus, 'PSFIMAGE', name).data
    try:
        return cls(data, **(arguments | known))
    except (TypeError, ValueError) as error:
        msg = f'path={name!r} holds parts that do not make a coadd: {error}'
        raise ValueError(msg) from error


def _part(hdus, key, name):
    """Return an extension that has to be there."""
    if key not in hdus:
        msg = f'path={name!r} is not a whole coadd: it has no extension {key}.'
        raise ValueError(msg)
    return hdus[key]


def _read_psf(hdu):
    """Make a PSF of its table."""
    from ..psf import PSFModel

    radius = float(hdu.header['NORMRAD'])
    if 'shape' in hdu.columns.names:
        return PSFModel.from_shape(hdu.data['shape'][0], normalization_radius=radius)
    n_y, n_x = hdu.header['N_Y'], hdu.header['N_X']
    images = np.asarray(hdu.data['image'], dtype=float)
    return EffectivePSF(
        images.reshape(n_y, n_x, *images.shape[1:]),
        xs=hdu.data['x'][:n_x],
        ys=hdu.data['y'][::n_x],
        normalization_radius=radius,
    )


# All meta that FITS has no cards for.
_META_KEY, _LONGEST_KEY = 'BLISSMET', 8
# The signal at which the sources' noise equals the sky's; entries of the kernel.
_SKY_KEY = 'NOISESKY'
_KERNEL_KEY = 'NK{}_{}'
_KERNEL_PATTERN = re.compile(r'NK(\d+)_(\d+)')


def write_coadd_ccddata(coadd, ccddata):
    """Add what is a coadd's own to its CCDData."""
    _make_writable(ccddata)
    if np.ndim(coadd.effective_gain):
        level = np.square(coadd.bkg_error, dtype=float) * coadd.effective_gain
        ccddata.meta[_SKY_KEY] = float(np.median(level[~coadd.mask]))
    for (row, column), value in np.ndenumerate(coadd.noise_kernel):
        ccddata.meta[_KERNEL_KEY.format(row, column)] = float(value)
    if coadd.n_exposures is not None:
        ccddata.flags = np.array(coadd.n_exposures)
    image = coadd.psf_image
    ccddata.psf = None if image is None else image.copy()
    return ccddata


def read_coadd_nddata(nddata, keywords):
    """Collect a coadd's arguments from an NDData and from keywords."""
    if not isinstance(nddata, NDData):
        msg = f'nddata must be an NDData or CCDData; got {type(nddata).__name__}.'
        raise TypeError(msg)
    own = dict(nddata.meta or {})
    own |= json.loads(own.pop(_META_KEY, '{}'))
    kernel = _take_kernel(own)
    sky = own.pop(_SKY_KEY, None)
    plain = NDData(
        nddata.data,
        uncertainty=nddata.uncertainty,
        mask=nddata.mask,
        wcs=nddata.wcs,
        unit=nddata.unit,
        meta=own,
        psf=getattr(nddata, 'psf', None),
    )
    if sky is None or keywords.get('effective_gain') is not None:
        data, arguments = read_nddata(plain, keywords)
    else:
        noise, gain = _split_error(plain, float(sky), keywords)
        plain.uncertainty = None
        keywords = keywords | {'bkg_error': noise, 'effective_gain': gain}
        data, arguments = read_nddata(plain, keywords)
    if kernel is not None:
        arguments.setdefault('noise_kernel', kernel)
    if plain.psf is not None and _is_odd(plain.psf):
        arguments.setdefault('psf_image', plain.psf)
    counts = getattr(nddata, 'flags', None)
    if counts is not None and np.shape(counts) == np.shape(nddata.data):
        arguments.setdefault('n_exposures', counts)
    return data, arguments


def _make_writable(ccddata):
    """Gather the entries of the meta that are no header cards, as JSON in one."""
    others = {
        key: ccddata.meta.pop(key)
        for key, value in list(ccddata.meta.items())
        if len(key) > _LONGEST_KEY or not isinstance(value, str | int | float)
    }
    if others:
        ccddata.meta[_META_KEY] = json.dumps(others, default=plain_value)


def _take_kernel(meta):
    """Take the entries of the kernel out of the meta."""
    found = {}
    for key in list(meta):
        match = _KERNEL_PATTERN.fullmatch(str(key))
        if match:
            found[int(match[1]), int(match[2])] = float(meta.pop(key))
    if not found:
        return None
    kernel = np.full(np.max(list(found), axis=0) + 1, np.nan)
    for place, value in found.items():
        kernel[place] = value
    return kernel


def _split_error(nddata, sky, keywords):
    """Part a total error into the noise of the sky and the gain of the sources."""
    if nddata.uncertainty is None:
        msg = 'bkg_error must be given, as the NDData has no uncertainty.'
        raise ValueError(msg)
    error = nddata.uncertainty.represent_as(StdDevUncertainty).array
    level = keywords.get('background', nddata.meta.get('BKGLEVEL', 0.0))
    level = level.to_value(nddata.unit) if isinstance(level, u.Quantity) else level
    with np.errstate(invalid='ignore'):
        signal = np.maximum(nddata.data - level, 0)
    signal = np.nan_to_num(signal, nan=0.0, posinf=0.0)
    noise = error / np.sqrt(1 + signal / sky)
    unit = nddata.unit
    if unit is None or unit == u.dimensionless_unscaled:
        return noise, sky / noise**2
    return noise * unit, sky / noise**2 * (u.electron / unit)


def _is_odd(image):
    """Tell whether an image has a middle pixel."""
    return np.ndim(image) == 2 and all(n % 2 for n in np.shape(image))
