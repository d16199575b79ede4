# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures in nanomaggies of the files of an SDSS field.
"""

import os

import astropy.units as u
import numpy as np
from astropy.io.fits import HDUList

from bliss_astro._arguments import check_choice, require
from bliss_astro._fits import file_name
from bliss_astro._threads import map_threads, use_threads
from bliss_astro._warnings import warn
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._noise import noise_of_residual
from bliss_astro.exposures._read import change_known, register_fits_format
from bliss_astro.exposures._sky import estimate_background_error, measure_background
from bliss_astro.exposures._validate import check_map, refuse

from ._camera import (
    BAD_PLANES,
    FRAME_SHAPE,
    FieldMask,
    band_index,
    camera_dark_variance,
    camera_gain,
)
from ._fields import PhotoField, PsField, TsField
from ._images import Frame, looks_like_fpc, looks_like_frame, read_image
from ._psf import SDSSPSF

# The converter of the camera counts to 2**16 - 1, soft bias included.
_ADC_LIMIT = 65535.0
# Rows of pixels that are worked on at once: few enough for a processor's cache.
_ROWS = 64
# The soft bias of files that do not state it, counts.
_SOFT_BIAS = 1000.0
# Reference pixel (x, y) of a whole frame, counted from 1.
_REFERENCE_PIXEL = (1024.75, 744.75)
# What `Exposure.read` may state of an SDSS image: arguments of `read_exposure`, and
# changes of its exposure.
_OPTIONS = ('band', 'fpm', 'tsfield', 'photofield', 'background', 'noise', 'bad_planes')
_CHANGES = ('psfield', 'psf', 'fwhm', 'mask')


def read_exposure(
    frame,
    psfield=None,
    *,
    cls=Exposure,
    band=None,
    fpm=None,
    tsfield=None,
    photofield=None,
    background=None,
    noise='model',
    bad_planes=None,
):
    """
    Read an image of SDSS as an exposure.

    Parameters
    ----------
    frame : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
        A calibrated ``frame`` (DR8 on) or a corrected frame ``fpC`` (to DR7), plain
        or compressed, recognised by content.

    psfield : str, `~os.PathLike`, `~astropy.io.fits.HDUList` or `PsField`, optional
        The field's ``psField`` file: PSF at each place, gain and dark variance.
        Without it the exposure has no PSF, and gain and dark variance come from the
        other files or from the published table of the camera.

    cls : type, optional
        `~bliss_astro.exposures.Exposure` or a subclass.

    band : {'u', 'g', 'r', 'i', 'z'}, optional
        The band, as a check: the image itself states it.

    fpm : str, `~os.PathLike` or `~astropy.io.fits.HDUList`, optional
        The mask planes of the field in this band.

    tsfield : str, `~os.PathLike` or `~astropy.io.fits.HDUList`, optional
        The calibration of a corrected frame. Without it the image's own ``FLUX20``
        is used.

    photofield : str, `~os.PathLike` or `~astropy.io.fits.HDUList`, optional
        The ``photoField`` file of the run and camera column: calibration, gain, dark
        variance and saturation level.

    background : {'header', 'measure'}, float, array or Quantity, optional
        The sky that is still in the image. ``'header'``: that of the files, which is
        none for a frame and a constant for a corrected frame. ``'measure'``: estimated
        on a mesh of 128 pixels with photutils. Or a number or map in nmgy per pixel.
        By default a frame takes ``'header'`` and a corrected frame ``'measure'``.
        Inside star clusters the survey's sky is neither the light there nor its noise:
        measure it.

    noise : {'model', 'measure'}, optional
        The noise of the sky: by the formula below, or with that scaled by one factor
        to what the pixels without sources show (kept as ``meta['noise_ratio']``). Dark
        variances in the survey's files are sometimes too large (up to a sixth in
        ``bkg_error``, in u).

    bad_planes : sequence of str, optional
        The mask planes whose pixels are bad, by default those of
        `FieldMask.combine`.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The image in nmgy per pixel. ``bkg_error`` is the noise of the sky (the
        subtracted one included) and of the CCD, ``effective_gain`` follows the
        calibration of each column, and ``meta`` states the field and the origin of the
        numbers.

    Raises
    ------
    OSError
        If a file is absent, truncated, damaged, or not FITS.

    ValueError
        If a file is of another kind, or of another field or band.

    Notes
    -----
    With c nmgy per count, gain g electrons per count, sky s counts and dark variance v
    counts squared, ``effective_gain = g / c`` and ``bkg_error = c * sqrt(s / g + v)``.
    """
    check_choice('noise', noise, ('model', 'measure'))
    image = _read_checked(frame, band)
    files = _Files(image, psfield, tsfield, photofield)
    scale, meta = files.scale, files.meta
    gain, dark_variance = meta['gain'], meta['dark_variance']
    mask, saturated = _read_mask(image, fpm, bad_planes)
    # A column without calibration holds nothing.
    dead = ~(np.isfinite(scale) & (scale > 0))
    mask[:, dead] = True
    scale = np.where(dead, np.median(scale[~dead]), scale)
    is_frame = isinstance(image, Frame)
    data = image.data if is_frame else image.data * scale.astype(np.float32)
    given = image, files, data, scale, mask | saturated
    left, meta['background_source'] = _background(*given, background)
    bkg_error, saturation = _noise_and_saturation(image, scale, left, files)
    if noise == 'measure':
        meta['noise_ratio'] = _noise_ratio(data - left, bkg_error, mask | saturated)
        bkg_error *= np.float32(meta['noise_ratio'])
    exposure = cls(
        data,
        background=left,
        bkg_error=bkg_error,
        effective_gain=np.broadcast_to((gain / scale).astype(np.float32), data.shape),
        read_noise=gain * np.sqrt(dark_variance),
        mask=mask,
        psf=files.psf(),
        wcs=image.wcs,
        unit=u.nmgy,
        band=image.band,
        saturation=saturation,
        saturated=saturated,
        meta=meta,
    )
    if meta['background_source'] != 'measured':
        return exposure
    return exposure.replace(background_error=estimate_background_error(exposure))


def _read_checked(frame, band):
    """Read an image that is in the band, if one is given; warn of odd cut-outs."""
    image = read_image(frame)
    if band is not None and band_index(band) != band_index(image.band):
        msg = f'band={band!r} was given, but {image.file!r} is in band {image.band!r}.'
        raise ValueError(msg)
    if image.data.shape == FRAME_SHAPE or image.wcs is None:
        return image
    # The coordinates of a cut-out may have been left as those of the whole frame.
    if np.abs(image.wcs.wcs.crpix - _REFERENCE_PIXEL).max() < 0.5:
        msg = (
            f'{image.file!r} has shape {image.data.shape} with the reference pixel of '
            f'a whole frame of {FRAME_SHAPE}: unless it was cut from the corner, its '
            'sky positions and its place in the field are wrong.'
        )
        warn(msg)
    return image


class _Files:
    """Companions of an image, read and checked to be of its field."""

    def __init__(self, image, psfield, tsfield, photofield):
        self.image, self.index = image, band_index(image.band)
        self.records = {}
        if psfield is not None:
            is_read = isinstance(psfield, PsField)
            self.records['psfield'] = psfield if is_read else PsField.read(psfield)
        if photofield is not None:
            fields = PhotoField.read(photofield)
            row = fields.row(image.field)
            columns = {
                name: value[row]
                for name, value in vars(fields).items()
                if isinstance(value, np.ndarray)
            }
            self.records['photofield'] = fields.replace(**columns)
        if tsfield is not None:
            self.records['tsfield'] = TsField.read(tsfield)
        for name, record in self.records.items():
            _check_field(image, name, record)
        self.scale, scale_source = self._calibration()
        ccd = {'run': image.run, 'camcol': image.camcol, 'band': image.band}
        gain, gain_source = self._number('gain') or (camera_gain(**ccd), 'camera table')
        dark = self._number('dark_variance') or (camera_dark_variance(**ccd), '')
        # Counts of the soft bias are taken off the image.
        highest = _ADC_LIMIT - getattr(image, 'soft_bias', _SOFT_BIAS)
        level = self._number('saturation_level') or (highest, 'converter limit')
        self.saturation, saturation_source = level
        self.meta = {
            'survey': 'SDSS',
            **ccd,
            'field': image.field,
            'date_obs': str(image.header.get('DATE-OBS', '')),
            'gain': gain,
            'gain_source': gain_source,
            'dark_variance': dark[0],
            'calibration_source': scale_source,
            'background_source': None,
            'saturation_source': saturation_source,
        }

    def psf(self):
        """Return the PSF of the image, or `None`."""
        psfield = self.records.get('psfield')
        if psfield is None:
            return None
        # Raises, with the names of the bands, if the field has no PSF in this one.
        psfield.basis(self.image.band)
        return SDSSPSF(psfield, self.image.band)

    def _number(self, name, order=('psfield', 'photofield', 'tsfield')):
        """Return a number of the first file that has it, and the file; or None."""
        for source in order:
            values = getattr(self.records.get(source), name, None)
            if values is not None and 0 < values[self.index] < np.inf:
                return float(values[self.index]), source
        return None

    def _calibration(self):
        """Return nmgy per count of each column, and where it comes from."""
        image = self.image
        if isinstance(image, Frame):
            return image.calibration, 'frame'
        source = next((n for n in ('tsfield', 'photofield') if n in self.records), None)
        if source is not None:
            value = self.records[source].nmgy_per_count[self.index]
        elif image.flux20 is not None:
            # Magnitude 20 is 10 nmgy.
            value, source = 10.0 / image.flux20, 'FLUX20'
        else:
            raise ValueError(
                f'frame={image.file!r} holds counts and no FLUX20; give its tsfield '
                'or photofield, which have its calibration.'
            )
        if not 0 < value < np.inf:
            msg = f'{source} has no calibration in band {image.band!r}; got {value}.'
            raise ValueError(msg)
        return np.full(image.data.shape[1], float(value)), source

    def sky_level(self):
        """Return the files' sky in counts, and where it comes from."""
        found = self._number('sky', ('psfield', 'tsfield', 'photofield'))
        if found is None and self.image.sky_level is None:
            raise ValueError(
                f"background='header': neither the header of {self.image.file!r} nor "
                'the other files have a sky; measure it or give it.'
            )
        return found or (self.image.sky_level, 'SKY')


def _noise_and_saturation(image, scale, left, files):
    """Noise of the sky and level of saturation of each pixel, float32, in nmgy."""
    gain, dark_variance = files.meta['gain'], files.meta['dark_variance']
    noise, saturation = out = np.empty((2, *image.data.shape), np.float32)
    left = np.broadcast_to(left, noise.shape)

    def fill(rows):
        subtracted = image.sky(rows) if isinstance(image, Frame) else np.float32(0)
        counts = np.maximum(subtracted + left[rows] / scale, 0)
        noise[rows] = scale * np.sqrt(counts / gain + dark_variance)
        saturation[rows] = (scale * files.saturation).astype(np.float32)
        saturation[rows] -= subtracted * scale.astype(np.float32)

    with use_threads():
        map_threads(fill, (slice(k, k + _ROWS) for k in range(0, len(noise), _ROWS)))
    return out


def _background(image, files, data, scale, bad, background):
    """Return the sky that is in the data (nmgy), and where it comes from."""
    is_frame = isinstance(image, Frame)
    if background is None:
        background = 'header' if is_frame else 'measure'
    if isinstance(background, str):
        if background == 'measure':
            # Corrected frames hold whole counts.
            quantum = 0.0 if is_frame else float(np.median(scale))
            sky = measure_background(data, bad, box_size=128, quantum=quantum)
            return sky, 'measured'
        allowed = "be 'header', 'measure', a number or a map in nmgy"
        require(background == 'header', 'background', allowed, repr(background))
        if is_frame:
            return 0.0, 'subtracted by the survey'
        level, source = files.sky_level()
        return np.broadcast_to((level * scale).astype(np.float32), data.shape), source
    if isinstance(background, u.Quantity):
        sound = background.unit.is_equivalent(u.nmgy)
        require(sound, 'background', 'be in nmgy', background.unit)
        background = background.to_value(u.nmgy)
    return check_map('background', background, data.shape), 'given'


def _noise_ratio(residual, bkg_error, bad):
    """Noise of pixels without sources over the expected one; 1 where there are none."""
    with np.errstate(invalid='ignore'):
        pull = np.where(bad, 0.0, residual / bkg_error)
    try:
        return noise_of_residual(pull, bad, needs_blank=True).sigma
    except ValueError:
        warn(
            'the noise of the sky cannot be measured: sources or bad pixels cover '
            'the image. The expected noise is taken as it is.'
        )
        return 1.0


def _read_mask(image, fpm, bad_planes):
    """Return the bad and the saturated pixels of an image."""
    shape = image.data.shape
    if fpm is None:
        return np.zeros((2, *shape), dtype=bool)
    planes = FieldMask.read(fpm)
    _check_field(image, 'fpm', planes)
    if planes.shape != shape:
        raise ValueError(
            f'fpm={planes.file!r} has shape {planes.shape} and the image {shape}; they '
            'must be of the same, whole field.'
        )
    # Files of some reductions do not list every plane.
    known = [name for name in BAD_PLANES if name in planes.names]
    saturated = planes.combine([name for name in known if name == 'SATUR'])
    return planes.combine(known if bad_planes is None else bad_planes), saturated


def _check_field(image, name, record):
    """Check that a companion file is of the image's own field; -1 is unknown."""
    wanted, found = (
        np.array([int(getattr(each, key)) for key in ('run', 'camcol', 'field')])
        for each in (image, record)
    )
    if np.any((wanted != found) & (wanted >= 0) & (found >= 0)):
        wanted, found = ('-'.join(map(str, numbers)) for numbers in (wanted, found))
        raise ValueError(
            f'{name}={record.file!r} is of run-camcol-field {found}, but the image is '
            f'of {wanted}.'
        )


def _read_open(hdus, given):
    """Read an open image with what the user of `Exposure.read` states of it."""
    name = f'{file_name(hdus)!r}, an SDSS image'
    refuse(given, name, allowed=(*_OPTIONS, *_CHANGES))
    changes = {key: value for key, value in given.items() if key in ('fwhm', 'mask')}
    psf, psfield = given.get('psf'), given.get('psfield')
    if isinstance(psf, str | os.PathLike | HDUList):
        # A file is the psField, which has the PSF at each place.
        psfield = psf
    elif psf is not None:
        changes['psf'] = psf
    options = {key: given[key] for key in _OPTIONS if key in given}
    return change_known(read_exposure(hdus, psfield, **options), changes)


register_fits_format(
    'sdss.frame',
    _read_open,
    lambda hdus: looks_like_frame(hdus) or looks_like_fpc(hdus),
)
