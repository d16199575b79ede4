# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From the files of an SDSS field to an exposure in nanomaggies.
"""

import astropy.units as u
import numpy as np

from bliss_astro._warnings import warn

from ..surveys import sdss
from ._sky import measure_background, measure_noise_ratio
from ._sky_error import estimate_background_error
from ._validate import check_map

__all__ = ['build']

# The converter of the camera counts to 2**16 - 1, soft bias included.
_ADC_LIMIT = 65535.0
_FRAME_SHAPE = (1489, 2048)


def build(
    cls,
    frame,
    psfield,
    *,
    band,
    fpm,
    tsfield,
    photofield,
    background,
    noise,
    bad_planes,
):
    """
    Make an exposure; see `Exposure.from_sdss` for all arguments.

    Parameters
    ----------
    cls : type
        `Exposure` or a subclass.

    frame, psfield, band, fpm, tsfield, photofield : object
        See `Exposure.from_sdss`.

    background, noise, bad_planes : object
        See `Exposure.from_sdss`.

    Returns
    -------
    exposure : `Exposure`
        The exposure.
    """
    if noise not in ('model', 'measure'):
        msg = f"noise must be 'model' or 'measure'; got {noise!r}."
        raise ValueError(msg)
    image = sdss.read_image(frame)
    _check_band(image, band)
    _check_whole(image)
    files = _Files(image, psfield, tsfield, photofield)
    scale, scale_source = files.calibration()
    gain, gain_source = files.number('gain')
    dark_variance, _ = files.number('dark_variance')
    saturation, saturation_source = files.saturation()
    mask, saturated = _read_mask(image, fpm, bad_planes)
    # A column without calibration holds nothing.
    dead = ~(np.isfinite(scale) & (scale > 0))
    mask[:, dead] = True
    scale = np.where(dead, np.median(scale[~dead]), scale)

    if isinstance(image, sdss.Frame):
        data, subtracted = image.data, image.sky()
    else:
        data = image.data * scale.astype(np.float32)
        subtracted = np.float32(0)
    left, background_source = _background(
        image, files, data, scale, mask | saturated, background
    )
    counts = np.maximum(subtracted + left / scale, 0)
    bkg_error = (scale * np.sqrt(counts / gain + dark_variance)).astype(np.float32)
    meta = {}
    if noise == 'measure':
        meta['noise_ratio'] = measure_noise_ratio(
            data - left, bkg_error, mask | saturated
        )
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
        saturation=np.broadcast_to((scale * saturation).astype(np.float32), data.shape)
        - subtracted * scale.astype(np.float32),
        saturated=saturated,
        meta={
            'survey': 'SDSS',
            'run': image.run,
            'camcol': image.camcol,
            'field': image.field,
            'band': image.band,
            'date_obs': str(image.header.get('DATE-OBS', '')),
            'gain': gain,
            'gain_source': gain_source,
            'dark_variance': dark_variance,
            'calibration_source': scale_source,
            'background_source': background_source,
            'saturation_source': saturation_source,
            **meta,
        },
    )
    if background_source != 'measured':
        return exposure
    return exposure.replace(background_error=estimate_background_error(exposure))


class _Files:
    """
    The companions of an image, read and checked to be of its field.
    """

    def __init__(self, image, psfield, tsfield, photofield):
        self.image = image
        self.index = sdss.band_index(image.band)
        self.psfield = None if psfield is None else sdss.read_psfield(psfield)
        self.tsfield = None if tsfield is None else sdss.read_tsfield(tsfield)
        self.photofield = (
            None if photofield is None else sdss.read_photofield(photofield)
        )
        self.row = None
        for name in ('psfield', 'tsfield'):
            if getattr(self, name) is not None:
                _check_field(image, name, getattr(self, name))
        if self.photofield is not None:
            self.row = self.photofield.row(image.field)
            _check_field(image, 'photofield', self.photofield, row=self.row)

    def psf(self):
        """
        Return the PSF of the image, or `None`.
        """
        if self.psfield is None:
            return None
        from ..psf import SDSSPSF

        # Complains here, by name, if the field has no PSF in this band.
        self.psfield.basis(self.image.band)
        return SDSSPSF(self.psfield, self.image.band)

    def number(self, name):
        """
        Return the gain or the dark variance, and where it comes from.
        """
        for source in ('psfield', 'photofield', 'tsfield'):
            record = getattr(self, source)
            if record is None:
                continue
            values = getattr(record, name)
            value = values[self.row] if source == 'photofield' else values
            if np.isfinite(value[self.index]) and value[self.index] > 0:
                return float(value[self.index]), source
        look_up = {
            'gain': sdss.camera_gain,
            'dark_variance': sdss.camera_dark_variance,
        }[name]
        image = self.image
        return look_up(image.camcol, image.band, run=image.run), 'camera table'

    def calibration(self):
        """
        Return nmgy per count of each column, and where it comes from.
        """
        image = self.image
        if isinstance(image, sdss.Frame):
            return image.calibration, 'frame'
        if self.tsfield is not None:
            value, source = self.tsfield.nmgy_per_count[self.index], 'tsfield'
        elif self.photofield is not None:
            value = self.photofield.nmgy_per_count[self.row, self.index]
            source = 'photofield'
        elif image.flux20 is not None:
            # Magnitude 20 is 10 nmgy.
            value, source = 10.0 / image.flux20, 'FLUX20'
        else:
            msg = (
                f'frame={image.file!r} holds counts and no FLUX20; give its tsfield '
                'or photofield, which have its calibration.'
            )
            raise ValueError(msg)
        if not (np.isfinite(value) and value > 0):
            msg = f'{source} has no calibration in band {image.band!r}; got {value}.'
            raise ValueError(msg)
        return np.full(image.data.shape[1], float(value)), source

    def saturation(self):
        """
        Return the counts of a saturated pixel, and where they come from.
        """
        for source in ('photofield', 'tsfield'):
            record = getattr(self, source)
            if record is None:
                continue
            level = record.saturation_level
            level = level[self.row] if source == 'photofield' else level
            if level[self.index] > 0:
                return float(level[self.index]), source
        bias = getattr(self.image, 'soft_bias', 1000.0)
        return _ADC_LIMIT - bias, 'converter limit'

    def sky_level(self):
        """
        Return the files' sky in counts, and where it comes from.
        """
        for source in ('psfield', 'tsfield', 'photofield'):
            record = getattr(self, source)
            if record is None:
                continue
            sky = record.sky[self.row] if source == 'photofield' else record.sky
            if np.isfinite(sky[self.index]) and sky[self.index] > 0:
                return float(sky[self.index]), source
        if self.image.sky_level is not None:
            return self.image.sky_level, 'SKY'
        msg = (
            f"background='header': neither the header of {self.image.file!r} nor the "
            'other files have a sky; measure it or give it.'
        )
        raise ValueError(msg)


def _background(image, files, data, scale, bad, background):
    """
    Return the sky that is in the data (nmgy), and where it comes from.
    """
    is_frame = isinstance(image, sdss.Frame)
    if background is None:
        background = 'header' if is_frame else 'measure'
    if isinstance(background, str):
        if background == 'measure':
            # Corrected frames hold whole counts.
            quantum = 0.0 if is_frame else float(np.median(scale))
            return measure_background(data, bad, quantum=quantum), 'measured'
        if background != 'header':
            msg = (
                "background must be 'header', 'measure', a number or a map in nmgy; "
                f'got {background!r}.'
            )
            raise ValueError(msg)
        if is_frame:
            return 0.0, 'subtracted by the survey'
        level, source = files.sky_level()
        return np.broadcast_to((level * scale).astype(np.float32), data.shape), source
    if isinstance(background, u.Quantity):
        if not background.unit.is_equivalent(u.nmgy):
            msg = f'background must be in nmgy; got {background.unit}.'
            raise ValueError(msg)
        background = background.to_value(u.nmgy)
    return check_map('background', background, data.shape), 'given'


def _read_mask(image, fpm, bad_planes):
    """
    Return the bad and the saturated pixels of an image.
    """
    shape = image.data.shape
    if fpm is None:
        return np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    planes = sdss.read_fpm(fpm)
    _check_field(image, 'fpm', planes)
    if planes.shape != shape:
        msg = (
            f'fpm={planes.file!r} has shape {planes.shape} and the image {shape}; they '
            'must be of the same, whole field.'
        )
        raise ValueError(msg)
    if bad_planes is None:
        # Files of some reductions do not list every plane.
        bad_planes = [name for name in sdss.BAD_PLANES if name in planes.names]
    saturated = (
        planes.plane('SATUR')
        if 'SATUR' in planes.names
        else np.zeros(shape, dtype=bool)
    )
    return planes.combine(bad_planes), saturated


def _check_band(image, band):
    """
    Check the band that was asked for against the image's own.
    """
    if band is not None and sdss.band_index(band) != sdss.band_index(image.band):
        msg = (
            f'band={band!r} was asked for, but frame={image.file!r} is in band '
            f'{image.band!r}.'
        )
        raise ValueError(msg)


def _check_field(image, name, record, *, row=None):
    """
    Check that a companion file is of the image's own field.
    """
    keys = ('run', 'camcol', 'field')
    wanted = tuple(int(getattr(image, key)) for key in keys)
    values = (getattr(record, key) for key in keys)
    found = tuple(int(value if row is None else value[row]) for value in values)
    if any(a != b and a >= 0 and b >= 0 for a, b in zip(wanted, found, strict=True)):
        msg = (
            f'{name}={record.file!r} is of run-camcol-field '
            f'{"-".join(map(str, found))}, but the image is of '
            f'{"-".join(map(str, wanted))}.'
        )
        raise ValueError(msg)


def _check_whole(image):
    """
    Warn of a cut-out whose coordinates were left as those of the whole frame.
    """
    if image.data.shape == _FRAME_SHAPE or image.wcs is None:
        return
    x, y = image.wcs.wcs.crpix
    if abs(x - 1024.75) < 0.5 and abs(y - 744.75) < 0.5:
        msg = (
            f'{image.file!r} has shape {image.data.shape} with the reference pixel of '
            f'a whole frame of {_FRAME_SHAPE}: unless it was cut from the corner, its '
            'sky positions and its place in the field are wrong.'
        )
        warn(msg)
