# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fields of the Legacy Surveys among files: bricks of coadds, and single detectors.
"""

import re
from pathlib import Path

from astropy.io import fits
from astropy.table import Table

from bliss_astro.surveys._bands import find_by_name, footprint, opener
from bliss_astro.surveys._files import list_files

from ._coadd import MAPS, beside, read_coadd
from ._exposure import read_exposure

_BRICK = re.compile(r'legacysurvey-(?:custom-)?(\w+)-image-([grizY])\.fits.*')
# Image of a detector, or of all of a camera, of the Community Pipeline.
_IMAGE = re.compile(
    r'(.+_(?:ooi|oki)_([a-zA-Z])\w*?[^.]*?)(?:\.(\w+))?\.fits(?:\.\w+)?'
)


def _read(path, _, /, **given):
    is_brick = _BRICK.fullmatch(Path(path).name)
    return (read_coadd if is_brick else read_exposure)(path, **given)


open_field = opener(_read, read_coadd, read_exposure)


def find_fields(where):
    """
    Find bricks of coadds and images of detectors of the Legacy Surveys among files.

    Parameters
    ----------
    where : str, `~os.PathLike` or list
        A folder with any folders in it, a glob or a list of files: coadds of bricks and
        their maps, ``legacysurvey-BRICK-image-BAND.fits.fz``; or images of the
        Community Pipeline (``ooi``, ``oki``), of one detector or several, with the
        tables ``survey-ccds``, the models of PSFEx and the splines of the sky among the
        files.

    Returns
    -------
    fields : list of dict
        Keywords of `~bliss_astro.runs.FieldRef`: the bands of each brick, and each
        detector. Their options name the files that go with them.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no such files, or two of one field and band.
    """
    paths = list_files(where, '.fit*')
    images = [path for path in paths if _IMAGE.fullmatch(Path(path).name)]
    fields = _fields_of_detectors(images, {Path(path).name: path for path in paths})
    if fields and not any(_BRICK.fullmatch(Path(path).name) for path in paths):
        return fields
    wanted = 'coadds of bricks, or images (ooi, oki), of the Legacy Surveys'
    for field in find_by_name(paths, _parse_brick, wanted):
        maps = {
            key: {band: beside(path, kind) for band, path in field['files'].items()}
            for key, kind in MAPS.items()
        }
        first = next(iter(field['files'].values()))
        known = {key: paths for key, paths in maps.items() if any(paths.values())}
        mask = beside(first, 'maskbits')
        known |= {} if mask is None else {'maskbits': mask}
        fields.append(field | {'options': known})
    return fields


def _parse_brick(name):
    found = _BRICK.fullmatch(name)
    return found and found.groups()


def _fields_of_detectors(images, by_name):
    """Fields of the detectors of images, with the other files that go with them."""
    tables = {
        path: {Path(str(name).strip()).name for name in _column(path)}
        for name, path in by_name.items()
        if name.startswith('survey-ccds')
    }
    fields = []
    for path in images:
        stem, band, only = _IMAGE.fullmatch(Path(path).name).groups()
        for detector in [only] if only else _detectors(path):
            name = Path(path).name
            ccds = next((key for key, names in tables.items() if name in names), None)
            options = {'extension': None if only else detector, 'ccds': ccds}
            for key, kind in (('psf', 'psfex'), ('sky', 'splinesky')):
                names = f'{stem}-{detector}-{kind}.fits', f'{stem}-{kind}.fits'
                options[key] = next((by_name[n] for n in names if n in by_name), None)
            options = {key: value for key, value in options.items() if value}
            where = footprint(path, options.get('extension'))
            field = {'id': f'{stem}-{detector}', 'files': {band: path}}
            fields.append(field | {'options': options, 'footprint': where})
    return fields


def _column(path):
    return Table.read(path, hdu=1)['image_filename']


def _detectors(path):
    """Names of the extensions of a file of all detectors of a camera."""
    try:
        with fits.open(path) as hdus:
            return [hdu.name for hdu in hdus[1:] if hdu.is_image]
    except OSError:
        # It is reported when it is read.
        return ['']
