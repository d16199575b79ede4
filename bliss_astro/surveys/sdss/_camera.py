# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The SDSS imaging camera: bands and noise of its CCDs, names of its files, mask planes.
"""

import re
from pathlib import Path

import numpy as np

from bliss_astro._arguments import check_integer, must
from bliss_astro._fits import card_number, file_name, open_fits, wrong_type

BANDS = ('u', 'g', 'r', 'i', 'z')
"""The bands, in the order of every array of five in an SDSS file."""

FRAME_SHAPE = (1489, 2048)
"""Rows and columns of a frame."""

BAD_PLANES = ('INTERP', 'SATUR', 'CR', 'GHOST')
"""
The planes whose pixels do not hold what the sky sent.

``INTERP`` (dead columns, bleed trails and cosmic rays that the pipeline filled
in from their neighbours), ``SATUR``, ``CR`` (cosmic rays) and ``GHOST``. Not
among them are ``NOTCHECKED``, good pixels along the border and around the
brightest stars in which the survey did not search, and the planes that show where
it found something (``OBJECT``, ``BRIGHTOBJECT``, ``BINOBJECT``, ``CATOBJECT``,
``SUBTRACTED``).
"""

_PREFIX = 'S_MASK_'

# frame-r-001000-1-0100, fpC-001000-r1-0100, tsField-001000-1-40-0100 and others.
_FILE_NAME = re.compile(
    r'-(?:(?P<band>[ugriz])-)?(?P<run>\d{6})-(?P<band_too>[ugriz]?)(?P<camcol>[1-6])'
    r'(?:-\d{1,3})?-(?P<field>\d{4})\b'
)

# Electrons per count, by camera column 1 to 6 and band u g r i z. Two CCDs
# changed their amplifiers during the survey; these are the values after that.
_GAIN = (
    (1.62, 3.32, 4.71, 5.165, 4.745),
    (1.825, 3.855, 4.6, 5.195, 5.155),
    (1.59, 3.845, 4.72, 4.86, 4.885),
    (1.6, 3.995, 4.76, 4.885, 4.775),
    (1.47, 4.05, 4.725, 4.64, 3.48),
    (2.17, 4.035, 4.895, 4.76, 4.69),
)
# (camcol, band): (last run of the old value, old value)
_OLD_GAIN = {(2, 'u'): (1100, 1.595), (2, 'i'): (1500, 6.565)}

# Variance of a pixel without light, counts squared (dark current, read noise).
_DARK_VARIANCE = (
    (9.61, 15.6025, 1.8225, 7.84, 0.81),
    (12.6025, 1.44, 1.0, 6.25, 1.0),
    (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    (12.6025, 1.96, 1.3225, 7.5625, 12.6025),
    (9.3025, 1.1025, 0.81, 7.84, 2.1025),
    (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
)
_OLD_DARK_VARIANCE = {
    (2, 'i'): (1500, 5.76),
    (4, 'i'): (1500, 6.25),
    (4, 'z'): (1500, 9.61),
    (5, 'z'): (1500, 1.8225),
}


class Record:
    """Immutable record of the contents of a file of one field."""

    def __init__(self, **values):
        vars(self).update(values)

    def __setattr__(self, name, value):
        msg = f'{type(self).__name__}.{name} cannot be set; use replace().'
        raise AttributeError(msg)

    def __repr__(self):
        return f'<{self._title}>'

    @property
    def _title(self):
        return f'{type(self).__name__} {self.run}-{self.camcol}-{self.field}'

    def replace(self, **changes):
        """Return a copy with some attributes changed."""
        return type(self)(**(vars(self) | changes))


def camera_gain(camcol, band, *, run=None):
    """Return the mean gain of a CCD, electrons per count (SDSS data model, frame)."""
    return _look_up(_GAIN, _OLD_GAIN, camcol, band, run)


def camera_dark_variance(camcol, band, *, run=None):
    """
    Return the variance of a pixel without light, counts squared (frame, as above).

    The ``psField`` files of some DR7 reductions keep the early values for camera column
    4 also in later runs. Where there is a file of the field, its numbers come first.
    """
    return _look_up(_DARK_VARIANCE, _OLD_DARK_VARIANCE, camcol, band, run)


def _look_up(table, old, camcol, band, run):
    """Take the number of a CCD from a table with exceptions of early runs."""
    camcol = check_integer('camcol', camcol, 1, 6, error=ValueError)
    index = band_index(band)
    last_run, value = old.get((camcol, BANDS[index]), (-1, None))
    if run is not None and run <= last_run:
        return value
    return table[camcol - 1][index]


def band_index(band):
    """Return the place of a band (letter or index) in SDSS's arrays of five."""
    if isinstance(band, str) and band.strip().lower() in BANDS:
        return BANDS.index(band.strip().lower())
    whole = isinstance(band, (int, np.integer)) and not isinstance(band, bool)
    if whole and 0 <= band < len(BANDS):
        return int(band)
    allowed = f'be one of {", ".join(BANDS)} (or 0 to 4)'
    raise ValueError(must('band', allowed, repr(band)))


def default_psf_parameters(record):
    """
    Where PSF parameters of SDSS are placeholders instead of a fit.

    Where a field has too few stars for the wings of its PSF, the survey's files carry
    limits or starting values of the fit instead: an exponent of exactly 3 with a
    ``sigmap`` of exactly 5 pixels, an exponent at its limit of 10, or a second Gaussian
    brighter than the first. ``record`` has the columns ``psf_width`` and so on.
    """
    names = ('width', 'sigma1', 'sigma2', 'beta', 'sigmap')
    positive = np.stack([record[f'psf_{name}'] for name in names])
    heights = np.stack([record['psf_b'], record['psf_p0']])
    beta = record['psf_beta']
    with np.errstate(invalid='ignore'):
        sound = (positive > 0) & np.isfinite(positive)
        sound = sound.all(axis=0) & ((heights >= 0) & np.isfinite(heights)).all(axis=0)
        placeholder = (beta == 3) & (record['psf_sigmap'] == 5)
        return ~sound | placeholder | (beta >= 10) | (record['psf_b'] > 1)


def field_numbers(header, source, *, field=None):
    """
    Return run, camcol and field of a file, of which no pixel depends on any.

    They come from the header, else from the name of the file; -1 where neither has
    them. ``field`` is the number of the field where it stands elsewhere in the file.
    """
    named = _FILE_NAME.search(Path(file_name(source)).name)
    numbers = {}
    for name in ('run', 'camcol', 'field'):
        value = card_number(header, name.upper())
        if name == 'field' and value is None:
            value = field
        if value is None:
            value = -1 if named is None else named[name]
        numbers[name] = int(value)
    return numbers


def name_band(source):
    """Return the band's letter in the name of a file, or an empty string."""
    named = _FILE_NAME.search(Path(file_name(source)).name)
    return '' if named is None else named['band'] or named['band_too'] or ''


def read_columns(hdus, number, names, source, kind):
    """Return columns of the table of an HDU as floats, after checking them and rows."""
    columns = getattr(hdus[number], 'columns', None) if len(hdus) > number else None
    missing = sorted({*names} - {*map(str.lower, columns.names)}) if columns else []
    expected, found = f'an SDSS {kind} file', None
    if columns is None:
        found = f'HDU {number} is not a table'
    elif missing:
        found = f'its table lacks {", ".join(missing[:3])}'
    elif len(hdus[number].data) == 0:
        expected, found = f'{expected} with rows', 'it has none'
    if found:
        raise wrong_type(source, kind.lower(), expected, found)
    table = hdus[number].data
    return {name: np.array(table[name], dtype=float) for name in names}


class FieldMask(Record):
    """
    The mask planes of one field and band.

    Attributes
    ----------
    shape : tuple of int
        Shape (ny, nx) of the image.

    spans : dict of str to int `~numpy.ndarray`, shape (n, 3)
        For each plane the runs of pixels in it: row, first column, last
        column (inclusive), in 0-based pixels of the frame.

    run, camcol, field : int
        The field, -1 where the file does not state it.

    file : str
        The name of the file.
    """

    def __repr__(self):
        ny, nx = self.shape
        planes = ', '.join(name for name, spans in self.spans.items() if len(spans))
        return f'<{self._title}, {ny} x {nx} px: {planes or "empty"}>'

    @property
    def names(self):
        """The names of the planes, without SDSS's prefix ``S_MASK_``."""
        return tuple(self.spans)

    def plane(self, name):
        """
        Rasterise one plane.

        Parameters
        ----------
        name : str
            One of `names`, such as ``'SATUR'``.

        Returns
        -------
        mask : bool `~numpy.ndarray`, shape (ny, nx)
            `True` in the pixels of the plane.

        Raises
        ------
        ValueError
            If there is no such plane.
        """
        return self.combine([name])

    def combine(self, names=BAD_PLANES):
        """
        Rasterise the union of some planes.

        Parameters
        ----------
        names : sequence of str, optional
            Planes, by default ``('INTERP', 'SATUR', 'CR', 'GHOST')``.

        Returns
        -------
        mask : bool `~numpy.ndarray`, shape (ny, nx)
            `True` in the pixels of any of them.

        Raises
        ------
        ValueError
            If there is no such plane.
        """
        unknown = [name for name in names if name not in self.spans]
        if unknown:
            msg = (
                f'there is no mask plane {unknown[0]!r} in {self.file!r}; it has '
                f'{", ".join(self.names)}.'
            )
            raise ValueError(msg)
        image = np.zeros(self.shape, dtype=bool)
        for name in names:
            for row, first, last in self.spans[name].tolist():
                # What lies outside of the image is left out.
                if 0 <= row < len(image):
                    image[row, max(first, 0) : max(last + 1, 0)] = True
        return image

    @classmethod
    def read(cls, fpm):
        """
        Read an SDSS ``fpM`` file.

        Parameters
        ----------
        fpm : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
            The file, plain or compressed.

        Returns
        -------
        mask : `FieldMask`
            Its planes, in the pixels of the ``frame`` or ``fpC`` image.

        Raises
        ------
        OSError
            If the file is absent, truncated, damaged, or not FITS.

        ValueError
            If it is FITS but not an SDSS ``fpM`` file.
        """
        with open_fits(fpm, 'fpm') as hdus:
            header = hdus[0].header
            names = _plane_names(hdus)
            shape = [card_number(header, key) for key in ('MASKROWS', 'MASKCOLS')]
            if not names or None in shape:
                found = 'it needs MASKROWS, MASKCOLS and a last HDU that names planes'
                raise wrong_type(fpm, 'fpm', 'an SDSS fpM file', found)
            spans = {}
            for name, number in names.items():
                try:
                    spans[name] = _read_spans(hdus[number + 1].data)
                except (IndexError, KeyError, ValueError) as error:
                    found = f'plane {name}: {error}'
                    sound = 'a sound SDSS fpM file'
                    raise wrong_type(fpm, 'fpm', sound, found) from error
            return cls(
                shape=tuple(int(length) for length in shape),
                spans=spans,
                **field_numbers(header, fpm),
                file=file_name(fpm),
            )


def _plane_names(hdus):
    """Return the planes' names and numbers from the HDU that lists them."""
    columns = getattr(hdus[-1], 'columns', None)
    if columns is None or not {'attributeName', 'Value'} <= set(columns.names):
        return {}
    names, numbers = (hdus[-1].data[name] for name in ('attributeName', 'Value'))
    return {
        name.removeprefix(_PREFIX): int(number)
        for name, number in zip(map(str.strip, names), numbers, strict=True)
        if name.startswith(_PREFIX)
    }


def _read_spans(table):
    """
    Unpack the spans of all objects of one plane, shape (n, 3).

    Each span is three big-endian 16-bit numbers: row, first and last column,
    counted from the object's (row0, col0).
    """
    pieces = [np.empty((0, 3), dtype=int)]
    if table is None or len(table) == 0:
        return pieces[0]
    columns = (table[name] for name in ('s', 'nspan', 'row0', 'col0'))
    for packed, n_span, row0, col0 in zip(*columns, strict=True):
        raw = np.asarray(packed, dtype=np.uint8).tobytes()
        if len(raw) < 6 * int(n_span):
            raise ValueError(f'{len(raw)} bytes cannot hold {int(n_span)} spans')
        spans = np.frombuffer(raw, dtype='>i2', count=3 * int(n_span)).reshape(-1, 3)
        pieces.append(spans + np.array([row0, col0, col0], dtype=int))
    return np.concatenate(pieces)
