# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From a FITS file of whatever kind to an image that can be measured.
"""

import warnings

import numpy as np

from ._shared import UsageError
from ._simulated import is_simulated, read_simulated

__all__ = ['read_image_file']

# How the world spells units that astropy spells otherwise.
_UNITS = {
    'nanomaggy': 'nmgy',
    'nanomaggies': 'nmgy',
    'counts': 'count',
    'dn': 'adu',
    'electrons': 'electron',
    'e-': 'electron',
    'e': 'electron',
}
_SDSS_FILES = ('fpm', 'tsfield', 'photofield')


def read_image_file(options):
    """
    Read the image that ``bliss-astro detect`` was given.

    SDSS's frame and fpC files, simulated images and the files of
    `~bliss_astro.coadds.Coadd` are recognised by their content; of any other
    FITS file, the first two-dimensional image is taken, with the extensions
    MASK and UNCERT where there are such.

    Parameters
    ----------
    options : `argparse.Namespace`
        Parsed arguments of the command.

    Returns
    -------
    image : `~bliss_astro.exposures.Exposure` or `~astropy.nddata.NDData`
        The image.

    known : dict
        Keywords for `~bliss_astro.detection.detect_sources`.

    kind : str
        What the file is, for messages.
    """
    from bliss_astro.surveys._fits import open_fits

    with open_fits(options.image, 'IMAGE') as hdus:
        if options.extension is None and is_simulated(hdus):
            return _simulated(hdus, options), {}, 'simulated image'
        if options.extension is None and _is_sdss(hdus):
            return _sdss(hdus, options), {}, 'SDSS image'
        if options.extension is None and is_coadd(hdus):
            return _coadd(hdus, options), {}, 'coadd'
        return *_other(hdus, options), 'image'


def is_coadd(hdus):
    """
    Tell whether an HDU list is a file that a `Coadd` wrote.
    """
    return hdus[0].header.get('BLISSTYP') == 'COADD'


def _is_sdss(hdus):
    from bliss_astro.surveys.sdss import _images

    return _images._looks_like_frame(hdus) or _images._looks_like_fpc(hdus)


def _refuse(options, names, kind):
    """
    Refuse options that say what a file says itself.
    """
    for name in names:
        if getattr(options, name) is not None:
            msg = f'--{name} does not go with {options.image}, which is {kind}'
            raise UsageError(msg)


# -- SDSS ------------------------------------------------------------------------


def _sdss(hdus, options):
    from bliss_astro.exposures import Exposure

    _refuse(options, ('gain', 'noise', 'mask'), 'an SDSS image')
    background = options.background
    return Exposure.from_sdss(
        hdus,
        options.psf,
        band=options.band,
        fpm=options.fpm,
        tsfield=options.tsfield,
        photofield=options.photofield,
        background=background,
    )


# -- simulated ---------------------------------------------------------------------


def _simulated(hdus, options):
    names = ('gain', 'noise', 'mask', 'band', *_SDSS_FILES)
    _refuse(options, names, 'a simulated image')
    exposure, _ = read_simulated(hdus)
    return _changed(exposure, options)


def _changed(exposure, options):
    """
    Change what the user knows better than a file that says everything.
    """
    if options.psf is not None:
        exposure = exposure.replace(psf=_read_psf(options))
    if options.background == 'measure':
        from bliss_astro.exposures._sky import measure_background

        level = measure_background(exposure.data, exposure.mask, box_size=64)
        exposure = exposure.replace(background=level)
    elif isinstance(options.background, float):
        exposure = exposure.replace(background=options.background)
    return exposure


# -- coadds ------------------------------------------------------------------------


def _coadd(hdus, options):
    from bliss_astro.coadds import Coadd

    _refuse(options, ('gain', 'noise', 'mask', *_SDSS_FILES), 'a coadd')
    return _changed(Coadd.read(hdus), options)


# -- any other ---------------------------------------------------------------------


def _other(hdus, options):
    from astropy.nddata import NDData, StdDevUncertainty

    _refuse(options, _SDSS_FILES, 'not an SDSS image')
    hdu = _find_hdu(hdus, options)
    unit = _read_unit(hdu)
    data = np.array(hdu.data)
    if data.dtype.kind == 'f':
        data = data.astype(data.dtype.newbyteorder('='))

    def with_unit(value):
        return value if unit is None or value is None else value * unit

    # An uncertainty is set aside where the user knows the noise better.
    error = None if options.noise else _extension(hdus, 'UNCERT', data.shape)
    if error is not None:
        error = StdDevUncertainty(_standard_deviation(hdus['UNCERT'], error))
    image = NDData(
        data,
        mask=_read_mask(hdus, options, data.shape),
        unit=unit,
        wcs=_read_wcs(hdu),
        uncertainty=error,
        meta=_depth(hdu.header),
    )
    background = _other_background(hdu, options)
    known = {
        'psf': None if options.psf is None else _read_psf(options),
        'background': with_unit(background),
        'bkg_error': with_unit(options.noise),
        'effective_gain': options.gain,
    }
    return image, {name: v for name, v in known.items() if v is not None}


def _find_hdu(hdus, options):
    """
    Find the HDU that is meant: by number or name, or the first image.
    """
    wanted = options.extension
    if wanted is not None:
        key = int(wanted) if wanted.lstrip('-').isdigit() else wanted
        try:
            hdu = hdus[key]
        except (KeyError, IndexError) as error:
            msg = f'{options.image} has no extension {wanted}; it has {_list(hdus)}'
            raise ValueError(msg) from error
        if not _is_plane(hdu):
            msg = (
                f'extension {wanted} of {options.image} is no two-dimensional image; '
                f'the file has {_list(hdus)}'
            )
            raise ValueError(msg)
        return hdu
    for hdu in hdus:
        if _is_plane(hdu):
            return hdu
    msg = f'{options.image} has no two-dimensional image; it has {_list(hdus)}'
    raise ValueError(msg)


def _is_plane(hdu):
    return hdu.is_image and hdu.data is not None and hdu.data.ndim == 2


def _list(hdus):
    """
    Name the HDUs of a file.
    """
    words = []
    for k, hdu in enumerate(hdus):
        shape = getattr(hdu.data, 'shape', None)
        name = f' {hdu.name}' if hdu.name else ''
        kind = 'table' if not hdu.is_image else 'image' if shape else 'nothing'
        size = f' {" x ".join(map(str, shape[::-1]))}' if hdu.is_image and shape else ''
        words.append(f'{k}{name}: {kind}{size}')
    return ', '.join(words)


def _read_unit(hdu):
    """
    Read BUNIT; an unknown one is left out with a warning.
    """
    import astropy.units as u
    from astropy.utils.exceptions import AstropyUserWarning

    text = str(hdu.header.get('BUNIT', '')).strip()
    if not text:
        return None
    try:
        unit = u.Unit(_UNITS.get(text.lower(), text))
    except ValueError:
        warnings.warn(
            f'BUNIT {text!r} is no unit that astropy knows; fluxes have none',
            AstropyUserWarning,
            stacklevel=2,
        )
        return None
    return None if unit == u.dimensionless_unscaled else unit


def _read_wcs(hdu):
    """
    Read a celestial WCS, or none.
    """
    from astropy.utils.exceptions import AstropyUserWarning

    from bliss_astro.surveys._fits import header_wcs

    try:
        wcs = header_wcs(hdu.header, hdu.data.shape)
    except Exception as error:  # noqa: BLE001
        # wcslib fails in many ways, none of which spoils the image.
        reason = ' '.join(str(error).split())
        warnings.warn(
            f'the WCS of the image cannot be used: {reason}',
            AstropyUserWarning,
            stacklevel=2,
        )
        return None
    return wcs if wcs.has_celestial else None


def _depth(header):
    """
    Read the number of exposures of a coadd, by the names it goes by.
    """
    for key in ('NCOMBINE', 'NEXP', 'NIMAGES', 'NCOADD'):
        value = header.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return {'n_exposures': value}
    return {}


def _extension(hdus, name, shape):
    """
    Return the data of a named extension of the image's shape, or `None`.
    """
    if name not in hdus:
        return None
    values = hdus[name].data
    return values if np.shape(values) == shape else None


def _standard_deviation(hdu, values):
    """
    Turn an uncertainty extension, as CCDData writes it, into an error.
    """
    kind = str(hdu.header.get('UTYPE', 'StdDevUncertainty'))
    values = np.asarray(values, dtype=float)
    with np.errstate(invalid='ignore', divide='ignore'):
        if kind == 'VarianceUncertainty':
            return np.sqrt(values)
        if kind == 'InverseVariance':
            return 1 / np.sqrt(values)
    return values


def _read_mask(hdus, options, shape):
    """
    Read bad pixels: any value but 0.
    """
    if options.mask is None:
        values = _extension(hdus, 'MASK', shape)
        return None if values is None else np.asarray(values) != 0
    name = int(options.mask) if options.mask.isdigit() else options.mask
    try:
        values = hdus[name].data
    except (KeyError, IndexError) as error:
        msg = f'{options.image} has no extension {options.mask} for --mask'
        raise ValueError(msg) from error
    if np.shape(values) != shape:
        msg = f'--mask {options.mask} has shape {np.shape(values)}, the image {shape}'
        raise ValueError(msg)
    return np.asarray(values) != 0


def _other_background(hdu, options):
    """
    Return the sky in an image: a number, or `None` to have it measured.
    """
    if options.background != 'header':
        return options.background if isinstance(options.background, float) else None
    for key in ('BKGLEVEL', 'SKYLEVEL', 'SKY'):
        value = hdu.header.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    msg = '--background header: the header has none of BKGLEVEL, SKYLEVEL, SKY'
    raise ValueError(msg)


def _read_psf(options):
    """
    Read a PSF that is not that of an SDSS image: psField, or a picture of it.
    """
    from bliss_astro.psf import PSFModel
    from bliss_astro.surveys._fits import open_fits

    with open_fits(options.psf, 'PSF') as hdus:
        if len(hdus) > 6 and not hdus[1].is_image:
            # The eigenimages of a psField belong to places on a frame of
            # SDSS: another image gets the PSF of its centre.
            if options.band is None:
                msg = f'--psf {options.psf} is a psField with five bands: give --band'
                raise UsageError(msg)
            return PSFModel.from_sdss(hdus, options.band)
        for hdu in hdus:
            if _is_plane(hdu):
                return np.array(hdu.data, dtype=float)
    msg = f'--psf {options.psf} is neither a psField nor an image of a PSF'
    raise ValueError(msg)
