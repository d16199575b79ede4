# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Metadata of a catalogue: dates, versions, facts about the image, and their merging.

Table operations copy, slice and merge ``meta`` without asking the table, so the
posterior, the WCS and the like travel in ``meta['image']`` as one `ImageRecord`, for
which astropy's merge strategies decide the result of stacking: parts of one image keep
the record, different images lose it.
"""

import datetime as dt
import functools
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import PurePath

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.io.misc.yaml import AstropyDumper
from astropy.utils.metadata import MergeStrategy
from astropy.wcs import WCS

from bliss_astro._fits import header_wcs
from bliss_astro._warnings import PosteriorDroppedWarning, warn
from bliss_astro.units import unit_text

# Keys of a catalogue's meta that are held as a `FactRecord`.
_FACT_KEYS = ('estimated', 'check')
# Numbers of an entry that are printed first.
_FIRST_PRINTED = ('value', 'fwhm')
# Largest error in pixels of a WCS that is rebuilt from its header.
_WCS_TOLERANCE = 1e-3


# -- records -------------------------------------------------------------------------


class _Record(Mapping):
    """Read-only mapping of plain values, shared by all copies of a table."""

    def __init__(self, values=()):
        self._values = dict(values)

    def __getitem__(self, key):
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


class ImageRecord(_Record):
    """
    Facts about the image that a catalogue was made from, and its posterior or `None`.

    The key ``'uid'`` names the image: two records with one are of the same image.
    """

    def __init__(self, values=(), *, posterior=None):
        super().__init__(values)
        self.posterior = posterior

    def __repr__(self):
        posterior = type(self.posterior).__name__
        return f'{type(self).__name__}({self._values!r}, posterior=<{posterior}>)'

    def merged(self, other):
        """Record of rows of two images, or of one if both are the same."""
        own, uid = self.posterior, self.get('uid')
        same = self is other or (own is not None and own is other.posterior)
        if same or (uid is not None and uid == other.get('uid')):
            return other if own is None else self
        if own is not None or other.posterior is not None:
            warn(
                'The posterior belongs to one image; it is dropped from a table '
                'of rows of several images. Their own catalogues still have it.',
                PosteriorDroppedWarning,
            )
        both = self, other
        uids = {i for record in both for i in record.get('uids', [record.get('uid')])}
        return ImageRecord({'uids': sorted(uids - {None})})


class FactRecord(_Record):
    """
    Facts about the image of a catalogue as plain values, printed one a line.

    An entry that is a mapping may hold ``'unit'`` (of its numbers, a str) and
    ``'source'`` (their origin, a str).  When rows of several images are stacked,
    entries that are equal for all are kept.
    """

    def __repr__(self):
        # YAML sorts, so any other order would not survive files.
        lines = (f'{name}: {_fact_text(self[name])}'.rstrip() for name in sorted(self))
        return '\n'.join(lines) or '{}'

    def merged(self, other):
        """Facts that are the same in both."""
        return FactRecord(
            {k: v for k, v in self.items() if k in other and other[k] == v}
        )


def _fact_text(entry):
    """Numbers of an entry, four digits each, with their unit and source."""
    if isinstance(entry, float):
        return f'{entry:.4g}'
    if isinstance(entry, list | tuple):
        return ', '.join(_fact_text(item) for item in entry)
    if not isinstance(entry, Mapping):
        return str(entry)
    numbers = dict(entry)
    unit, source = numbers.pop('unit', None), numbers.pop('source', None)
    names = sorted(numbers, key=lambda name: (name not in _FIRST_PRINTED, name))
    parts = [
        f'{"" if name == "value" else f"{name} "}{_fact_text(numbers[name])}'
        for name in names
    ]
    if unit and parts:
        parts[0] += f' {unit}'
    return ', '.join(parts) + (f' ({source})' if source else '')


class DateText(str):
    """Date of a catalogue; the later one stays when catalogues are stacked."""

    __slots__ = ()

    def merged(self, other):
        """The later date."""
        return max(self, other)


# -- stacking ------------------------------------------------------------------------


class _MergeRecords(MergeStrategy):
    types = ((ImageRecord, FactRecord, DateText),) * 2
    enabled = True

    # The base class turns every exception into a conflict that astropy resolves by
    # keeping the right-hand posterior, which is wrong for half the rows; a warning
    # that a filter made an error has to get through.
    @classmethod
    def _merge(cls, left, right):
        return left.merged(right)


# A plain table made of a catalogue keeps these in its meta, and can be written.
AstropyDumper.add_multi_representer(
    _Record, lambda dumper, record: dumper.represent_dict(dict(record))
)
AstropyDumper.add_representer(
    DateText, lambda dumper, text: dumper.represent_str(str(text))
)


# -- contents ------------------------------------------------------------------------


# A file for each package is read for it.
_version = functools.cache(importlib.metadata.version)


def default_meta():
    """Date (UTC) and versions of Python and packages, as photutils gives its tables."""
    from bliss_astro import __version__

    version = {'Python': platform.python_version(), 'bliss_astro': __version__}
    for package in ('astropy', 'numpy', 'torch'):
        version[package] = _version(package)
    now = dt.datetime.now(tz=dt.UTC)
    return {'date': DateText(now.strftime('%Y-%m-%d %H:%M:%S UTC')), 'version': version}


def restore_meta(meta):
    """Meta of a file, or of plain values, with its dates and records."""
    meta = dict(meta)
    if 'date' in meta:
        meta['date'] = DateText(meta['date'])
    for name in _FACT_KEYS:
        if isinstance(meta.get(name), Mapping):
            meta[name] = FactRecord(meta[name])
    meta['image'] = ImageRecord(meta.get('image', {}))
    return meta


def wcs_to_header(wcs, *, shape=None):
    """
    Header string of a WCS, 80 characters a card, checked in an image of some shape.

    `None` for a WCS that is not FITS or that depends on lookup tables, which no header
    string can hold.
    """
    if not isinstance(wcs, WCS):
        return None
    text = wcs.to_header_string(relax=True).strip()
    ny, nx = (1000, 1000) if shape is None else shape
    x, y = (corner.ravel() for corner in np.meshgrid([0, nx / 3, nx], [0, ny / 2, ny]))
    rebuilt = header_to_wcs(text).pixel_to_world(x, y)
    off = wcs.pixel_to_world(x, y).separation(rebuilt)
    scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * u.deg
    # Where both have no answer (NaN), they agree.
    return text if not np.any(off > _WCS_TOLERANCE * scale) else None


def header_to_wcs(text, *, shape=None):
    """WCS of a header string (`None` for none), for an image of some shape."""
    if text is None:
        return None
    return header_wcs(fits.Header.fromstring(text), shape and tuple(shape))


def plain_value(value, *, name='meta'):
    """Reduce a value to plain Python types, which every file format can store."""
    if value is None:
        return None
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            # Without subclasses: enumerations, NumPy's float64.
            return kind(value)
    if isinstance(value, PurePath | u.UnitBase):
        return str(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, u.Quantity):
        return {'value': plain_value(value.value), 'unit': unit_text(value.unit)}
    if isinstance(value, np.generic | np.ndarray):
        return plain_value(value.tolist(), name=name)
    if isinstance(value, Mapping):
        items = value.items()
        return {str(k): plain_value(v, name=f'{name}[{k!r}]') for k, v in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_value(item, name=f'{name}[{i}]') for i, item in enumerate(value)]
    msg = (
        f'{name} is of {type(value)!r}, which files cannot store; allowed are '
        'numbers, strings, units, dates, arrays, and mappings or lists of these'
    )
    raise TypeError(msg)
