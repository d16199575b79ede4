# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Mask planes of SDSS (``fpM`` files).
"""

import dataclasses

import numpy as np

from bliss_astro._fits import card_number, file_name, open_fits, wrong_type

from ._camera import field_numbers

__all__ = ['BAD_PLANES', 'FieldMask']

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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FieldMask:
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

    shape: tuple
    spans: dict
    run: int
    camcol: int
    field: int
    file: str

    def __repr__(self):
        ny, nx = self.shape
        planes = ', '.join(name for name, spans in self.spans.items() if len(spans))
        return (
            f'<FieldMask {self.run}-{self.camcol}-{self.field}, {ny} x {nx} px: '
            f'{planes or "empty"}>'
        )

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
            Planes, by default `BAD_PLANES`.

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
        spans = [self.spans[name] for name in names]
        return _rasterise(
            np.concatenate(spans) if spans else np.empty((0, 3), dtype=int), self.shape
        )

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
                raise wrong_type(
                    fpm,
                    'fpm',
                    'an SDSS fpM file',
                    'it needs MASKROWS, MASKCOLS and a last HDU that names the planes',
                )
            spans = {}
            for name, number in names.items():
                try:
                    spans[name] = _read_spans(hdus[number + 1].data)
                except (IndexError, KeyError, ValueError) as error:
                    raise wrong_type(
                        fpm, 'fpm', 'a sound SDSS fpM file', f'plane {name}: {error}'
                    ) from error
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
    names = {
        str(name).strip(): int(value)
        for name, value in zip(table['attributeName'], table['Value'], strict=True)
    }
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
    ny, nx = shape
    row, first, last = spans.T
    inside = (row >= 0) & (row < ny) & (last >= 0) & (first < nx) & (first <= last)
    row = row[inside]
    first = np.maximum(first[inside], 0)
    last = np.minimum(last[inside], nx - 1)
    # +1 where a span begins and -1 after its end; their running sum counts
    # the spans that cover a pixel.
    steps = np.zeros((ny, nx + 1), dtype=np.int32)
    np.add.at(steps, (row, first), 1)
    np.add.at(steps, (row, last + 1), -1)
    return np.cumsum(steps, axis=1)[:, :nx] > 0
