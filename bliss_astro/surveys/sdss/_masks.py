# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Mask planes of SDSS (``fpM`` files).
"""

import numpy as np

from bliss_astro._fits import card_number, file_name, open_fits, wrong_type

from ._camera import Record, field_numbers

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
        none = np.empty((0, 3), dtype=int)
        spans = np.concatenate([none, *(self.spans[name] for name in names)])
        return _rasterise(spans, self.shape)

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
    table = hdus[-1].data
    names = zip(table['attributeName'], table['Value'], strict=True)
    names = {str(name).strip(): int(value) for name, value in names}
    return {
        name.removeprefix(_PREFIX): value
        for name, value in names.items()
        if name.startswith(_PREFIX)
    }


def _read_spans(table):
    """
    Unpack the spans of all objects of one plane, shape (n, 3).

    Each span is three big-endian 16-bit numbers: row, first and last column,
    counted from the object's (row0, col0).
    """
    if table is None or len(table) == 0:
        return np.empty((0, 3), dtype=int)
    pieces = []
    for packed, n_span, row0, col0 in zip(
        table['s'], table['nspan'], table['row0'], table['col0'], strict=True
    ):
        raw = np.asarray(packed, dtype=np.uint8).tobytes()
        if len(raw) < 6 * int(n_span):
            msg = f'{len(raw)} bytes cannot hold {int(n_span)} spans'
            raise ValueError(msg)
        spans = np.frombuffer(raw[: 6 * int(n_span)], dtype='>i2').reshape(-1, 3)
        origin = np.array([row0, col0, col0], dtype=int)
        pieces.append(spans + origin)
    return np.concatenate(pieces)


def _rasterise(spans, shape):
    """Paint spans on a boolean image; what lies outside it is left out."""
    image = np.zeros(shape, dtype=bool)
    inside = (spans[:, 0] >= 0) & (spans[:, 0] < shape[0])
    for row, first, last in spans[inside].tolist():
        image[row, max(first, 0) : max(last + 1, 0)] = True
    return image
