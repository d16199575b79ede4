# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fields of SDSS: their files by name, and exposures of their bands on one pixel grid.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from bliss_astro._arguments import as_list, require
from bliss_astro._threads import map_threads, use_threads
from bliss_astro.surveys._bands import keywords_of
from bliss_astro.surveys._files import beside, list_files

from ._camera import BANDS, name_band
from ._exposure import read_exposure
from ._fields import PsField
from ._images import read_image

# Files of a field by the survey's names: kind, band, run, band, camera column, field.
_NAME = re.compile(
    r'(frame|fpC|fpM|psField)-(?:([ugriz])-)?(\d{6})-([ugriz])?(\d)-(\d{4})\.fit.*'
)


def read_field(frames, psfield=None, *, reference=None, fpm=None, **options):
    """
    Read the bands of a field of SDSS onto one pixel grid.

    The frames of a field lie a few pixels off each other. Those of other bands are
    resampled to the pixels of the reference band, noise and PSFs follow; see
    `~bliss_astro.coadds.align_bands`.

    Parameters
    ----------
    frames : str, `~os.PathLike`, sequence or dict
        A folder with the files of one field by their names in the survey, of which
        ``psField`` and ``fpM`` are read too; or frames, or corrected frames; or these
        by name of the band, None for a missing one.

    psfield : str, `~os.PathLike`, `~astropy.io.fits.HDUList` or `PsField`, optional
        The field's ``psField`` file, which has the PSFs of all bands.

    reference : {'u', 'g', 'r', 'i', 'z'}, optional
        The reference band, by default r, or the first if it is missing.

    fpm : dict of str to file, optional
        Mask planes of the field by band.

    **options
        Keywords of `read_exposure` for all bands: ``tsfield``, ``photofield``,
        ``background``, ``noise`` and ``bad_planes``.

    Returns
    -------
    exposures : `~bliss_astro.exposures.ExposureSet`
        Bands in nmgy per pixel.

    Raises
    ------
    OSError
        If a file is absent, truncated, damaged, or not FITS.

    ValueError
        If a folder has no frames or those of several fields, a file is of another kind,
        field or band, a band is there twice, or one does not overlap with the reference
        band.
    """
    # Coadds register their files with a class that loads all surveys first.
    from bliss_astro.coadds import align_bands

    masks = {}
    if isinstance(frames, str | os.PathLike):
        frames, own_psfield, masks = _files_of(Path(frames))
        psfield = own_psfield if psfield is None else psfield
    masks |= fpm or {}
    if not isinstance(frames, Mapping):
        allowed = 'be a folder, frames, or frames by band'
        frames = as_list('frames', frames, allowed)
        bands = [name_band(frame) or read_image(frame).band for frame in frames]
        twice = sorted({band for band in bands if bands.count(band) > 1})
        got = f'{", ".join(twice)} twice'
        require(not twice, 'frames', 'be of different bands', got)
        frames = dict(zip(bands, frames, strict=True))
    require(frames, 'frames', 'have a frame', 'none')
    if psfield is not None and not isinstance(psfield, PsField):
        psfield = PsField.read(psfield)

    def read(band):
        if frames[band] is None:
            return None
        known = {'band': band, 'fpm': masks.get(band)}
        return read_exposure(frames[band], psfield, **known, **options)

    with use_threads():
        exposures = dict(zip(frames, map_threads(read, frames), strict=True))
    if reference is None and exposures.get('r') is not None:
        reference = 'r'
    return align_bands(exposures, reference)


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
    fields = _group(paths, beside(paths))
    if not fields:
        got = f'{len(paths)} files without one'
        raise FileNotFoundError(f'fields must name frames of SDSS; got {got}.')
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


_KEYWORDS = keywords_of(open_field, read_exposure, read_field)
open_field.keywords = _KEYWORDS - {'cls', 'band'}


def parse_name(path):
    """Kind, band or None, run, camera column and field of a file by name, or None."""
    found = _NAME.fullmatch(Path(path).name)
    if found is None:
        return None
    kind, first, run, second, camcol, field = found.groups()
    return kind, first or second, run, camcol, field


def _group(paths, others=()):
    """Keywords of the fields of frames, with files of these fields by their names."""
    frames, companions = {}, {}
    for path in [*paths, *others]:
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


def _files_of(folder):
    """Frames by band, psField or None, and mask planes by band of a folder."""
    if not folder.is_dir():
        error = NotADirectoryError if folder.exists() else FileNotFoundError
        text = 'is no folder' if folder.exists() else 'is not there'
        allowed = 'be a folder, a list of frames, or frames by band'
        raise error(f'frames must {allowed}; {str(folder)!r} {text}.')
    fields = _group(sorted(folder.iterdir()))
    allowed, got = 'hold the frames of one field', [field['id'] for field in fields]
    require(len(fields) == 1, f'frames={folder.name!r}', allowed, got or 'none')
    files, options = (fields[0][key] for key in ('files', 'options'))
    return files, options.get('psfield'), options.get('fpm', {})
