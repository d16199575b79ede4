# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fields of a run: references to their files, found in folders, lists and tables.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from bliss_astro._arguments import require
from bliss_astro._lazy import survey as load_survey
from bliss_astro.exposures import Exposure
from bliss_astro.surveys._bands import open_bands
from bliss_astro.surveys._files import absolute, list_files

# Names that every file system takes, with room for the endings of files of a run.
_ID = re.compile(r'[A-Za-z0-9][A-Za-z0-9._+-]{0,199}')
# Endings of FITS files, plain or compressed.
_ENDING = re.compile(r'\.(fits?|fts)(\.(gz|bz2|xz|fz|Z))?', re.IGNORECASE)
# Extension and section after the name of a file.
_PLACE = re.compile(r'(\[[^\[\]]*\])*$')


@dataclasses.dataclass(frozen=True)
class FieldRef:
    """
    A field of a run: names of its files, which are read when it is opened.

    Parameters
    ----------
    id : str
        Name of the field, unique in a run: letters, digits, ``. _ + -``.

    files : dict of str to str
        Path or URL of the image by band, ``''`` for a band that the file states; a
        tuple of paths where the survey needs several; None for a band that is missing.

    survey : str, optional
        Plug-in that opens the field: ``'fits'`` for images of any camera, a folder of
        `bliss_astro.surveys`, or an entry point of that name.

    options : dict, optional
        Keywords of the plug-in's ``open_field``, which JSON can hold: files of PSFs and
        masks, extensions, zero points.

    footprint : tuple of (float, float), optional
        Corners (right ascension, declination) in degrees, ICRS. By default those of the
        image, known when it has been opened.

    owned : tuple of (int, int), optional
        Box ``((x0, x1), (y0, y1))`` of pixels that the field owns: of sources in it,
        ``x0 - 0.5 <= x < x1 - 0.5``, the rows are those of this field. By default
        fields share the sky between them.

    group : str, optional
        Name of the mosaic whose parts own boxes of pixels.

    Raises
    ------
    TypeError, ValueError
        If the id is no name of a file, there are no files, or JSON cannot hold the
        options.

    Examples
    --------
    >>> from bliss_astro.runs import FieldRef
    >>> field = FieldRef('m13-r', {'r': 'm13.fits'}, options={'zero_point': 25.1})
    >>> field.paths()
    ['m13.fits']
    """

    id: str
    files: Mapping
    survey: str = 'fits'
    options: Mapping = dataclasses.field(default_factory=dict)
    footprint: tuple | None = None
    owned: tuple | None = None
    group: str = ''

    def __post_init__(self):
        name = str(self.id)
        allowed = 'be a name of letters, digits and . _ + -'
        require(_ID.fullmatch(name), 'id', allowed, f'{name!r:.60}')
        require(bool(self.files), f'files of {name!r}', 'name a file', 'none')
        files = {str(band): _as_text(file) for band, file in self.files.items()}
        object.__setattr__(self, 'files', files)
        try:
            # As it comes back from the record of a run.
            options = json.loads(json.dumps(dict(self.options), default=plain_value))
        except TypeError as error:
            raise TypeError(f'options of {name!r}: {error}') from None
        object.__setattr__(self, 'options', options)

    def open(self):
        """
        Read the field.

        Returns
        -------
        exposure : ``Exposure`` or `~bliss_astro.exposures.ExposureSet`
            The image, or those of several bands.

        Raises
        ------
        OSError, ValueError
            If a file is absent or damaged, a band is missing, or there is no such
            survey.
        """
        missing = [band for band, file in self.files.items() if file is None]
        if missing:
            raise FileNotFoundError(f'no image in band {", ".join(missing)}')
        if self.survey == 'fits':
            return open_field(self.files, **self.options)
        return _plug_in(self.survey).open_field(self.files, **self.options)

    def detection(self):
        """
        Options of `~bliss_astro.detection.detect_sources` for this field alone.

        Returns
        -------
        options : dict
            Keywords; none but for parts of a mosaic.
        """
        return {}

    def paths(self):
        """
        Files of the field, those among its options too.

        Returns
        -------
        paths : list of str
            Paths and URLs, without extensions and sections.
        """
        found = [_path(text) for text in _texts(self.files)]
        options = map(_path, _texts(self.options))
        # No pathlib, for which a long text is an error.
        found += [path for path in options if os.path.isfile(path) or '://' in path]  # noqa: PTH113
        return list(dict.fromkeys(found))


def find_fields(where, survey='fits', *, bands=None, **options):
    """
    Find the fields of a run.

    Parameters
    ----------
    where : str, `~os.PathLike`, list or `~astropy.table.Table`
        A folder, with all those in it; a glob, ``'*/*.fits.gz'``; a path, or a list of
        paths. In the notation of CFITSIO, extensions and sections may follow. A table
        has a column ``file``, and if wanted ``id`` and ``band``: rows of one id are
        bands of one field. Its other columns are options of each field. Paths are
        relative to the current folder.

    survey : str, optional
        ``'fits'``: each image is a field, and read by `Exposure.read
        <bliss_astro.exposures.ExposureRead>`. ``'sdss'`` and other plug-ins know the
        names of the files of a survey, and what goes together.

    bands : str or sequence of str, optional
        Bands that are wanted: ``'gri'``. A field that lacks one fails when it is
        opened. By default those that there are.

    **options
        Keywords of ``open_field`` of the survey for all fields: ``zero_point``,
        ``psf``, ``noise``.

    Returns
    -------
    fields : list of `FieldRef`
        Fields in the order of the paths, or of the table.

    Raises
    ------
    FileNotFoundError
        If there are no such files.

    TypeError, ValueError
        If two fields have one id, or there is no such survey.

    Examples
    --------
    >>> from bliss_astro.runs import find_fields
    >>> [field] = find_fields(['frames/m13.fits.gz'], zero_point=25.1)
    >>> field.id
    'm13'
    """
    if isinstance(where, Table):
        found = _fields_of_table(where)
    elif survey == 'fits':
        found = _fields_of_files(_images(where))
    else:
        found = _plug_in(survey).find_fields(where)
    if bands is not None:
        for field in found:
            field['files'] = {band: field['files'].get(band) for band in bands}
    fields = []
    for one in found:
        given = _from_here(options | one.pop('options', {}))
        own = {'survey': survey, 'options': given}
        fields.append(FieldRef(**own | one))
    check_unique(fields)
    return fields


def check_unique(fields):
    """Raise unless all ids differ, on file systems that do not tell a from A too."""
    seen = {}
    for field in fields:
        name = field.id.lower()
        got = f'{field.id!r} twice: {", ".join([*seen.get(name, ()), *field.paths()])}'
        require(name not in seen, 'fields', 'have an id each', got)
        seen[name] = field.paths()


def open_field(files, **options):
    """
    Read images of any camera: the plug-in ``'fits'``.

    A dict among the options has a value for each band.
    """

    def read(path, band, /, **own):
        return _read(path, **{'band': band} | own)

    return open_bands(files, read, options)


def _read(path, **options):
    if '://' not in path:
        return Exposure.read(path, **options)
    with fits.open(path, use_fsspec=True) as hdus:
        return Exposure.read(hdus, **options)


def _plug_in(name):
    """Module of a survey that has fields."""
    module = load_survey(name)
    sound = hasattr(module, 'find_fields') and hasattr(module, 'open_field')
    require(sound, 'survey', 'be one with fields', repr(name))
    return module


def _images(where):
    """Paths of images: those that are named, and FITS files of a folder or glob."""
    paths = list_files(where)
    if len(paths) == 1 or not isinstance(where, str | os.PathLike):
        return paths
    found = [path for path in paths if _ENDING.search(path)]
    # Maps of a run in the same folder are none.
    found = [path for path in found if not Path(path).with_name('run.json').is_file()]
    require(found, 'fields', 'name FITS images', f'{len(paths)} other files')
    return found


def _fields_of_files(paths):
    """Fields of images, one each, with ids by their names, with folders if needed."""
    ids = [_id_of(_path(path).rpartition('/')[2] + _place(path)) for path in paths]
    if len({one.lower() for one in ids}) < len(ids):
        root = os.path.commonpath([str(Path(path).parent) for path in paths])
        ids = [_id_of(os.path.relpath(_path(p), root) + _place(p)) for p in paths]
    return [
        {'id': own, 'files': {'': path}} for own, path in zip(ids, paths, strict=True)
    ]


def _fields_of_table(table):
    """Fields of the rows of a table."""
    has, got = 'file' in table.colnames, ', '.join(table.colnames)
    require(has, 'fields', "have a column 'file'", got)
    ids = table['id'] if 'id' in table.colnames else None
    if ids is None:
        ids = [one['id'] for one in _fields_of_files(list(map(str, table['file'])))]
    fields = {}
    for own, row in zip(map(str, ids), table, strict=True):
        field = fields.setdefault(own, {'id': own, 'files': {}, 'options': {}})
        band = str(row['band']) if 'band' in table.colnames else ''
        allowed = 'have one file for each id and band'
        require(
            band not in field['files'], 'fields', allowed, f'{own!r} {band!r} twice'
        )
        field['files'][band] = (
            None if np.ma.is_masked(row['file']) else absolute(str(row['file']))
        )
        for name in set(table.colnames) - {'id', 'file', 'band'}:
            if not np.ma.is_masked(row[name]):
                value = row[name]
                value = value if isinstance(value, str) else plain_value(value)
                field['options'].setdefault(name, {})[band] = value
    for field in fields.values():
        if len(field['files']) == 1:
            own = field['options']
            field['options'] = {name: next(iter(v.values())) for name, v in own.items()}
    return list(fields.values())


def _id_of(text):
    """Name of a field by that of its file."""
    # Letters of other scripts by their number.
    name = _ENDING.sub('', text).encode('ascii', 'backslashreplace').decode()
    return re.sub(r'[^A-Za-z0-9._+]+', '-', name).strip('-._')[-200:]


def _place(text):
    return _PLACE.search(text).group()


def _path(text):
    return text.removesuffix(_place(text))


def _texts(value):
    """All texts in a value of JSON."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    parts = parts if isinstance(value, Mapping | list | tuple) else ()
    return [text for part in parts for text in _texts(part)]


def _from_here(value):
    """A value in which names of files are absolute, as workers may be elsewhere."""
    if isinstance(value, Mapping):
        return {key: _from_here(one) for key, one in value.items()}
    if isinstance(value, str | os.PathLike):
        path = _path(os.fspath(value))
        if Path(path).suffix and os.path.isfile(path):  # noqa: PTH113
            return absolute(os.fspath(value))
    return value


def _as_text(file):
    """A path, or several, as text."""
    if file is None or isinstance(file, str | os.PathLike):
        return None if file is None else os.fspath(file)
    return tuple(map(os.fspath, file))


def plain_value(value):
    """Value of JSON for a path, or a number or array of numpy."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f'JSON cannot hold {type(value).__name__} {value!r:.60}')
