# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What belongs to the image of a catalogue, not to its rows.

Table operations copy, slice and merge ``meta`` without asking the table, so
the posterior, the WCS and the like travel in ``meta['image']`` as one
`ImageRecord`, for which astropy's merge strategies decide what stacking does:
parts of one image keep the record, different images lose it.
"""

from collections.abc import Mapping

from astropy.io.misc.yaml import AstropyDumper
from astropy.utils.metadata import MergeStrategy

from .._warnings import PosteriorDroppedWarning, warn

__all__ = ['FACT_KEYS', 'DateText', 'FactRecord', 'ImageRecord', 'merge_records']

FACT_KEYS = ('estimated', 'check')
"""What of a catalogue's meta is held as a `FactRecord`."""

# The numbers of an entry that are printed first.
_FIRST = ('value', 'fwhm')


class ImageRecord(Mapping):
    """
    Facts about the image that a catalogue was made from, and its posterior.

    A read-only mapping of plain values (numbers, strings, lists). It is
    shared by all copies and slices of a catalogue.

    Parameters
    ----------
    values : mapping, optional
        Plain values. The key ``'uid'`` names the image; two records with one
        uid are taken to be the same image.

    posterior : object, optional
        The posterior of the image, or `None`.
    """

    def __init__(self, values=(), *, posterior=None):
        self._values = dict(values)
        self.posterior = posterior

    def __getitem__(self, key):
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __repr__(self):
        posterior = type(self.posterior).__name__
        return f'{type(self).__name__}({self._values!r}, posterior=<{posterior}>)'

    # A record is never altered, and its posterior may be large.
    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def replaced(self, *, posterior):
        """
        Make a record of the same values with another posterior.

        Parameters
        ----------
        posterior : object or `None`
            The new posterior.

        Returns
        -------
        record : `ImageRecord`
            The new record.
        """
        return type(self)(self._values, posterior=posterior)

    @property
    def uids(self):
        """
        Names of the images that the rows come from (a set of str).
        """
        return set(self._values.get('uids', ())) or {self._values.get('uid')}

    def is_same_image(self, other):
        """
        Say whether another record describes the same image.

        Parameters
        ----------
        other : `ImageRecord`
            The other record.

        Returns
        -------
        same : bool
            `True` for one record, one uid or one posterior object.
        """
        if self is other:
            return True
        if self.posterior is not None and self.posterior is other.posterior:
            return True
        uid = self._values.get('uid')
        return uid is not None and uid == other.get('uid')


class FactRecord(Mapping):
    """
    Facts about the image of a catalogue as plain values, printed one a line.

    A read-only mapping of names to numbers, strings, lists or mappings of
    those.  An entry that is a mapping may hold ``'unit'`` (of its numbers, a
    str) and ``'source'`` (where they come from, a str).  When rows of several
    images are stacked, what is equal for all is kept.

    Parameters
    ----------
    values : mapping, optional
        Plain values.
    """

    def __init__(self, values=()):
        self._values = dict(values)

    def __getitem__(self, key):
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    # A record is never altered.
    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        if not self._values:
            return '{}'
        # YAML sorts, so any other order would not survive files.
        return '\n'.join(
            f'{name}: {fact_text(self[name])}'.rstrip() for name in sorted(self)
        )


def fact_text(entry):
    """
    Put an entry of a `FactRecord` into words.

    Parameters
    ----------
    entry : object
        A plain value, or a mapping with ``'unit'`` and ``'source'``.

    Returns
    -------
    text : str
        Numbers with their unit, and the source in brackets.
    """
    if not isinstance(entry, Mapping):
        return _number_text(entry)
    parts, unit = [], entry.get('unit') or ''
    for name in sorted(entry, key=lambda name: (name not in _FIRST, name)):
        if name in ('unit', 'source'):
            continue
        text = _number_text(entry[name])
        parts.append(text if name == 'value' else f'{name} {text}')
        if unit and len(parts) == 1:
            parts[0] += f' {unit}'
    text = ', '.join(parts)
    source = entry.get('source')
    return f'{text} ({source})' if source else text


def _number_text(value):
    """Four digits of a number, or of each number of a list."""
    if isinstance(value, float):
        return f'{value:.4g}'
    if isinstance(value, list | tuple):
        return ', '.join(_number_text(item) for item in value)
    return str(value)


class DateText(str):
    """
    The date of a catalogue; the later one stays when catalogues are stacked.
    """

    __slots__ = ()


def merge_records(left, right):
    """
    Decide what is left of two records when their rows are put together.

    Parameters
    ----------
    left, right : `ImageRecord`
        The records.

    Returns
    -------
    record : `ImageRecord`
        For one image a record of it, with a posterior if either has one. For
        two, a record that only names both; a `PosteriorDroppedWarning` says
        so if there was a posterior to lose.
    """
    if left.is_same_image(right):
        return right if left.posterior is None else left
    if left.posterior is not None or right.posterior is not None:
        warn(
            'The posterior belongs to one image; it is dropped from a table '
            'of rows of several images. Their own catalogues still have it.',
            PosteriorDroppedWarning,
        )
    uids = {uid for uid in left.uids | right.uids if uid is not None}
    return ImageRecord({'uids': sorted(uids)})


class _MergeImageRecords(MergeStrategy):
    types = (ImageRecord, ImageRecord)
    enabled = True

    @classmethod
    def merge(cls, left, right):
        return merge_records(left, right)

    # The base class turns every exception into a conflict that it resolves
    # by keeping the right-hand posterior, which is wrong for half the rows;
    # a warning that a filter made an error has to get through.
    @classmethod
    def _merge(cls, left, right):
        return cls.merge(left, right)


class _MergeFacts(MergeStrategy):
    types = (FactRecord, FactRecord)
    enabled = True

    @classmethod
    def merge(cls, left, right):
        same = {k: left[k] for k in left if k in right and left[k] == right[k]}
        return FactRecord(same)


class _MergeDates(MergeStrategy):
    types = (DateText, DateText)
    enabled = True

    @classmethod
    def merge(cls, left, right):
        return max(left, right)


# A plain table made of a catalogue keeps these in its meta, and can be written.
AstropyDumper.add_representer(
    ImageRecord, lambda dumper, record: dumper.represent_dict(dict(record))
)
AstropyDumper.add_representer(
    FactRecord, lambda dumper, record: dumper.represent_dict(dict(record))
)
AstropyDumper.add_representer(
    DateText, lambda dumper, text: dumper.represent_str(str(text))
)
