# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of SDSS: calibrated frames (DR8 on) and corrected frames (to DR7).
"""

import numpy as np

from bliss_astro._fits import card_number, file_name, header_wcs, open_fits, wrong_type
from bliss_astro._warnings import warn

from ._camera import BANDS, Record, field_numbers, name_band

# Seconds for which the sky crosses a CCD.
_EXPOSURE_TIME = 53.907456
# The rows of CCDs cross the sky one after the other, two frames apart, and the
# header counts frames on each CCD: by how many the number is ahead of the field.
_FRAME_LAG = {'r': 0, 'i': 2, 'u': 4, 'z': 6, 'g': 8}


class _Image(Record):
    """Image with its field, band, header and WCS."""

    def __repr__(self):
        ny, nx = self.data.shape
        return f'<{self._title} {self.band}, {ny} x {nx} px>'


class Frame(_Image):
    """
    An SDSS ``frame``: calibrated, with its sky taken off.

    Attributes
    ----------
    data : float32 `~numpy.ndarray`, shape (ny, nx)
        The image in nmgy per pixel.

    run, camcol, field : int
        The field.

    band : str
        The band's letter.

    header : `~astropy.io.fits.Header`
        The header of the image.

    wcs : `~astropy.wcs.WCS` or None
        The WCS.

    file : str
        The name of the file.

    calibration : float `~numpy.ndarray`, shape (nx,)
        nmgy per count of each column.

    sky_grid : float `~numpy.ndarray`, shape (n, m)
        The sky that was subtracted, in counts, on a coarse grid.

    sky_x : float `~numpy.ndarray`, shape (nx,)
        Column of the grid at each column of the image.

    sky_y : float `~numpy.ndarray`, shape (ny,)
        Row of the grid at each row of the image.
    """

    def sky(self, rows=slice(None)):
        """
        Interpolate the sky that was subtracted.

        Parameters
        ----------
        rows : slice, optional
            Rows of the image, by default all.

        Returns
        -------
        sky : float32 `~numpy.ndarray`, shape (ny, nx)
            Counts per pixel, bilinear in the grid of the file and constant
            beyond its last nodes.
        """
        grid = _interpolate(self.sky_grid, self.sky_y[rows], 0)
        return _interpolate(grid, self.sky_x, 1)

    def counts(self):
        """
        Undo calibration and sky subtraction.

        Returns
        -------
        counts : float32 `~numpy.ndarray`, shape (ny, nx)
            Counts of the camera in each pixel, bias taken off. Times the
            gain, this is the mean and the variance of a pixel's electrons.
        """
        return self.data / self.calibration[np.newaxis, :] + self.sky()

    @classmethod
    def read(cls, frame):
        """
        Read an SDSS ``frame`` file.

        Parameters
        ----------
        frame : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
            The file, plain or compressed.

        Returns
        -------
        frame : `Frame`
            Image, calibration and sky.

        Raises
        ------
        OSError
            If the file is absent, truncated, damaged, or not FITS.

        ValueError
            If it is FITS but not an SDSS ``frame``.
        """
        with open_fits(frame, 'frame') as hdus:
            if not looks_like_frame(hdus):
                found = 'it needs an image, a vector of calibration, a table of ALLSKY'
                raise wrong_type(frame, 'frame', 'an SDSS frame file', found)
            data = np.array(hdus[0].data, dtype=np.float32)
            ny, nx = data.shape
            calibration = np.array(hdus[1].data, dtype=np.float64)
            table = hdus[2].data
            sky_grid = np.array(table['ALLSKY'][0], dtype=np.float32)
            sky_x, sky_y = (
                np.array(table[f'{axis}INTERP'][0], dtype=np.float64).ravel()
                for axis in 'XY'
            )
            if calibration.size < nx or sky_x.size < nx or sky_y.size < ny:
                found = (
                    f'the image has shape {data.shape}, the calibration vector '
                    f'{calibration.shape}, the sky coordinates {sky_y.shape} and '
                    f'{sky_x.shape}'
                )
                raise wrong_type(frame, 'frame', 'a whole SDSS frame file', found)
            if not (np.isfinite(calibration) & (calibration > 0)).any():
                found = 'no value of HDU 1 is positive'
                raise wrong_type(frame, 'frame', 'calibrated', found)
            # A cut-out keeps the vectors of the whole frame, from its origin on.
            return cls(
                **_common(hdus, data, frame, 'frame'),
                calibration=calibration[:nx],
                sky_grid=sky_grid,
                sky_x=sky_x[:nx],
                sky_y=sky_y[:ny],
            )


class CorrectedFrame(_Image):
    """
    An SDSS ``fpC`` file: flat-fielded counts, with the sky still in them.

    Attributes
    ----------
    data : float32 `~numpy.ndarray`, shape (ny, nx)
        The image in counts per pixel, soft bias taken off, sky left in.

    run, camcol, field : int
        The field.

    band : str
        The band's letter.

    header : `~astropy.io.fits.Header`
        The header of the image.

    wcs : `~astropy.wcs.WCS` or None
        The WCS.

    file : str
        The name of the file.

    exposure_time : float
        Seconds.

    soft_bias : float
        The counts that the file has added to every pixel.

    sky_level : float or None
        The header's rough sky, counts.

    flux20 : float or None
        Counts of a star of magnitude 20, by the header.
    """

    @classmethod
    def read(cls, fpc):
        """
        Read an SDSS ``fpC`` file (corrected frame, DR7 and before).

        Parameters
        ----------
        fpc : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
            The file, plain or compressed.

        Returns
        -------
        frame : `CorrectedFrame`
            The image in counts, with the soft bias taken off and the sky left in.

        Raises
        ------
        OSError
            If the file is absent, truncated, damaged, or not FITS.

        ValueError
            If it is FITS but not an SDSS ``fpC`` file.

        Notes
        -----
        The calibration of these images stands in the field's ``tsField`` file,
        see `TsField.nmgy_per_count`; the header's ``FLUX20`` is a substitute.
        """
        with open_fits(fpc, 'fpc') as hdus:
            header = hdus[0].header
            soft_bias = card_number(header, 'SOFTBIAS')
            if soft_bias is None or not looks_like_fpc(hdus):
                found = 'it needs an image in counts with a SOFTBIAS in its header'
                raise wrong_type(fpc, 'fpc', 'an SDSS fpC file', found)
            data = np.array(hdus[0].data, dtype=np.float32) - np.float32(soft_bias)
            # Placeholders are -9999.
            numbers = (card_number(header, name, -1.0) for name in ('SKY', 'FLUX20'))
            sky_level, flux20 = (n if n > 0 else None for n in numbers)
            return cls(
                **_common(hdus, data, fpc, 'fpc'),
                exposure_time=card_number(header, 'EXPTIME', _EXPOSURE_TIME),
                soft_bias=soft_bias,
                sky_level=sky_level,
                flux20=flux20,
            )


def read_image(frame):
    """Read a `Frame` or a `CorrectedFrame`, recognised by its content."""
    with open_fits(frame, 'frame') as hdus:
        kinds = {Frame: looks_like_frame, CorrectedFrame: looks_like_fpc}
        for kind, looks_like in kinds.items():
            if looks_like(hdus):
                return kind.read(hdus).replace(file=file_name(frame))
    found = 'it has neither the HDUs of the one nor the SOFTBIAS of the other'
    raise wrong_type(frame, 'frame', 'an SDSS frame or fpC file', found)


def looks_like_frame(hdus):
    """Whether HDUs are those of a ``frame``."""
    if len(hdus) < 3 or not (_is_image(hdus[0]) and _is_image(hdus[1], n_axes=1)):
        return False
    columns = getattr(hdus[2], 'columns', None)
    names = {name.upper() for name in columns.names} if columns is not None else set()
    return {'ALLSKY', 'XINTERP', 'YINTERP'} <= names and len(hdus[2].data) > 0


def looks_like_fpc(hdus):
    """Whether the HDUs are those of an ``fpC`` file."""
    if not _is_image(hdus[0]) or looks_like_frame(hdus):
        return False
    header = hdus[0].header
    in_counts = 'SOFTBIAS' in header and 'NMGY' not in header
    return in_counts and str(header.get('BUNIT')).strip().lower() != 'nanomaggy'


def _is_image(hdu, n_axes=2):
    """Whether an HDU holds an image of some number of axes."""
    return hdu.is_image and np.ndim(hdu.data) == n_axes


def _common(hdus, data, source, parameter):
    """Collect the fields that both kinds of image have."""
    header = hdus[0].header
    band = str(header.get('FILTER', '')).strip().lower()
    band = band if band in BANDS else name_band(source) or band
    if band not in BANDS:
        found = f'FILTER is {band!r}, and its name holds no band'
        raise wrong_type(source, parameter, 'an image of the SDSS camera', found)
    frame = card_number(header, 'FRAME')
    field = None if frame is None else frame - _FRAME_LAG[band]
    return {
        'data': data,
        **field_numbers(header, source, field=field),
        'band': band,
        'header': header.copy(),
        'wcs': _read_wcs(header, data.shape, source),
        'file': file_name(source),
    }


def _read_wcs(header, shape, source):
    """Read the WCS, or leave it out with a warning."""
    try:
        return header_wcs(header, shape)
    except Exception as error:  # noqa: BLE001
        # wcslib fails in many ways, none of which spoils the image.
        reason = ' '.join(str(error).split())
        warn(f'wcs of {file_name(source)!r} cannot be used: {reason}')
        return None


def _interpolate(grid, places, axis):
    """Interpolate linearly along an axis of a grid, constant beyond its ends."""
    last = grid.shape[axis] - 1
    places = np.clip(places, 0, last)
    lower = np.minimum(places.astype(int), max(last - 1, 0))
    weight = (places - lower).astype(grid.dtype)
    weight = weight if axis else weight[:, np.newaxis]
    upper = grid.take(np.minimum(lower + 1, last), axis)
    return grid.take(lower, axis) * (1 - weight) + upper * weight
