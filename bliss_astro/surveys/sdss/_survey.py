# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fields of SDSS in the folders of the survey, for runs over many of them.
"""

from pathlib import Path

from bliss_astro._arguments import require
from bliss_astro.surveys._files import beside, list_files

from ._camera import BANDS
from ._exposure import read_exposure
from ._field import parse_name, read_field


def find_fields(where):
    """
    Find the fields of SDSS among files, by the names that these have in the survey.

    Parameters
    ----------
    where : str, `~os.PathLike` or list
        A folder with any folders in it, such as RUN/CAMCOL/FIELD; a glob or a list of
        frames or corrected frames.

    Returns
    -------
    fields : list of dict
        Keywords of `~bliss_astro.runs.FieldRef`: all bands of a field, its ``psField``
        and ``fpM`` in the folder, or beside the frames.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no frames, or two of one field and band.
    """
    paths = list_files(where, '.fit*')
    frames, companions = {}, {}
    for path in [*paths, *beside(paths)]:
        kind, band, *field = parse_name(path) or ('', None)
        own = companions.setdefault(tuple(field), {})
        own.setdefault((kind, band), path)
    for path in paths:
        kind, band, *field = parse_name(path) or ('', None)
        if kind in ('frame', 'fpC'):
            own = frames.setdefault(tuple(field), {}).setdefault(kind, {})
            other = own.setdefault(band, path)
            # One of them may be compressed.
            same = Path(other).parent == Path(path).parent
            allowed, got = 'have one frame of each field and band', f'{other}, {path}'
            require(same, 'fields', allowed, got)
    if not frames:
        got = f'{len(paths)} files without one'
        raise FileNotFoundError(f'fields must name frames of SDSS; got {got}.')
    fields = []
    for field, kinds in frames.items():
        found = kinds.get('frame') or kinds['fpC']
        files = {band: found[band] for band in BANDS if band in found}
        own = companions[field]
        masks = {band: own['fpM', band] for band in files if ('fpM', band) in own}
        options = {'psfield': own.get(('psField', None)), 'fpm': masks}
        options = {name: value for name, value in options.items() if value}
        fields.append({'id': '-'.join(field), 'files': files, 'options': options})
    return fields


def open_field(files, *, psfield=None, fpm=None, **options):
    """
    Read a field that `find_fields` has found.

    Parameters
    ----------
    files : dict of str to str
        Frames or corrected frames by band.

    psfield : str, optional
        The field's ``psField`` file.

    fpm : dict of str to str, optional
        Mask planes by band.

    **options
        Keywords of `read_exposure` or `read_field`.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure` or `~bliss_astro.exposures.ExposureSet`
        The exposure, or those of several bands on one pixel grid.

    Raises
    ------
    OSError, ValueError
        As `read_exposure` and `read_field`.
    """
    if len(files) > 1:
        return read_field(files, psfield, fpm=fpm, **options)
    ((band, frame),) = files.items()
    return read_exposure(
        frame, psfield, band=band or None, fpm=(fpm or {}).get(band), **options
    )
