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
from astropy.table import Table

from bliss_astro._arguments import require
from bliss_astro.surveys._files import absolute, list_files

from ._plug_ins import keywords_of, open_field, plug_in

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
        Relative paths, also among the options, are made absolute.

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
    >>> field = FieldRef('m13-r', {'r': '/m/13.fits'}, options={'zero_point': 25.1})
    >>> field.paths()
    ['/m/13.fits']
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
        object.__setattr__(self, 'options', _from_here(options))

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
        return plug_in(self.survey).open_field(self.files, **self.options)

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
        If there are no such files, of images or for all fields.

    TypeError, ValueError
        If two fields have one id, there is no such survey, or it has no such option;
        if no field has a band that is wanted.

    Examples
    --------
    >>> from bliss_astro.runs import find_fields
    >>> [field] = find_fields(['frames/m13.fits.gz'], zero_point=25.1)
    >>> field.id
    'm13'
    """
    for name, text in [(n, t) for n, value in options.items() for t in _texts(value)]:
        if '://' not in text and _ENDING.search(text):
            is_there = os.path.exists(absolute(_path(text)))  # noqa: PTH110
            allowed = 'name a file that is there'
            require(is_there, name, allowed, repr(text), FileNotFoundError)
    if isinstance(where, Table):
        found = _fields_of_table(where)
    elif survey == 'fits':
        found = _fields_of_files(_images(where))
    else:
        found = plug_in(survey).find_fields(where)
    if bands is not None:
        _choose_bands(found, bands)
    fields = []
    for one in found:
        own = {'survey': survey, 'options': options | one.pop('options', {})}
        fields.append(FieldRef(**own | one))
    check_fields(fields)
    return fields


def _choose_bands(found, bands):
    """Leave the files of some bands, None of those that are missing."""
    there = {band for field in found for band in field['files']}
    known = ', '.join(sorted(there - {''}))
    # One band, or several of one letter each.
    bands = [bands] if isinstance(bands, str) and bands in there else list(bands)
    allowed = "be left out, as the files are not by band (in a table, by column 'band')"
    allowed = f'be among those of the files, {known}' if known else allowed
    require(bands and {*bands} <= there - {''}, 'bands', allowed, ', '.join(bands))
    for field in found:
        field['files'] = {band: field['files'].get(band) for band in bands}


def check_fields(fields):
    """Raise unless ids differ, and options are those of the survey."""
    seen, kinds = {}, {}
    for field in fields:
        # On file systems that do not tell a from A too.
        name = field.id.lower()
        got = f'{field.id!r} twice: {", ".join([*seen.get(name, ()), *field.paths()])}'
        require(name not in seen, 'fields', 'have an id each', got)
        seen[name] = field.paths()
        kinds.setdefault(field.survey, {}).update(field.options)
    for survey, options in kinds.items():
        title = f'survey={survey!r} has the options, or columns of a table,'
        check_options(options, keywords_of(survey) or options, title)


def check_options(options, known, title):
    """Raise unless all options have known names."""
    for name in options:
        if name not in known:
            names = ', '.join(map(repr, sorted(known)))
            raise ValueError(f'{name} must be left out: {title} {names}.')


def check_bands(fields):
    """Raise unless some band, as far as they are known, is one of all fields."""
    found = {}
    for field in fields:
        sound = not {'', None} & {*field.files, *field.files.values()}
        if sound and 'band' not in field.options:
            # That of a survey too: DECam.r.
            names = frozenset(band.rpartition('.')[2] for band in field.files)
            found.setdefault(names, field.id)
    if found and not frozenset.intersection(*found):
        texts = [f'{name} {", ".join(sorted(own))}' for own, name in found.items()]
        allowed = 'have a band in common (if not, give each band a run of its own)'
        require(False, 'fields', allowed, '; '.join(texts[:3]))


def _images(where):
    """Paths of images: those that are named, and FITS files of a folder or glob."""
    paths = list_files(where)
    if not isinstance(where, str | os.PathLike) or paths == [absolute(str(where))]:
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
            None if np.ma.is_masked(row['file']) else str(row['file'])
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
    """A value in which names of files are absolute."""
    if isinstance(value, Mapping):
        return {key: _from_here(one) for key, one in value.items()}
    if isinstance(value, str) and '://' not in value and not os.path.isabs(value):  # noqa: PTH117
        path = _path(absolute(value))
        # Words, and names of extensions, are no files.
        plain = os.sep not in value and not Path(path).suffix
        # No pathlib, for which a long text is an error.
        if not plain and os.path.exists(path):  # noqa: PTH110
            return absolute(value)
    return value


def _as_text(file):
    """A path, or several, as text, absolute, as workers may be elsewhere."""
    if file is None or isinstance(file, str | os.PathLike):
        return None if file is None else absolute(os.fspath(file))
    return tuple(absolute(os.fspath(one)) for one in file)


def plain_value(value):
    """Value of JSON for a path, or a number or array of numpy."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f'JSON cannot hold {type(value).__name__} {value!r:.60}')
