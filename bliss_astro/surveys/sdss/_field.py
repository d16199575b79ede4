# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bands of an SDSS field: an exposure of each, on the pixel grid of one of them.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from bliss_astro._arguments import as_list, require
from bliss_astro._threads import map_threads, use_threads

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


def parse_name(path):
    """Kind, band or None, run, camera column and field of a file by name, or None."""
    found = _NAME.fullmatch(Path(path).name)
    if found is None:
        return None
    kind, first, run, second, camcol, field = found.groups()
    return kind, first or second, run, camcol, field


def _files_of(folder):
    """Frames by band, psField or None, and mask planes by band of a folder."""
    if not folder.is_dir():
        error = NotADirectoryError if folder.exists() else FileNotFoundError
        text = 'is no folder' if folder.exists() else 'is not there'
        allowed = 'be a folder, a list of frames, or frames by band'
        raise error(f'frames must {allowed}; {str(folder)!r} {text}.')
    files = {}
    for path in sorted(folder.iterdir()):
        found = parse_name(path)
        if found is not None:
            kind, band, *field = found
            kinds = files.setdefault(tuple(field), {})
            kinds.setdefault(kind, {}).setdefault(band, path)
    files = {
        field: kinds for field, kinds in files.items() if {'frame', 'fpC'} & set(kinds)
    }
    allowed, got = 'hold the frames of one field', ['-'.join(key) for key in files]
    require(len(files) == 1, f'frames={folder.name!r}', allowed, got or 'none')
    (kinds,) = files.values()
    frames = kinds.get('frame') or kinds['fpC']
    frames = {band: frames[band] for band in BANDS if band in frames}
    return frames, kinds.get('psField', {}).get(None), kinds.get('fpM', {})
