# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro coadd``: the coadd of several exposures, with its noise.
"""

import time
from collections.abc import Sequence

from ._images import read_image_of_many
from ._options import (
    IMAGE_FILES,
    IMAGE_MAPS,
    add_command,
    add_image_options,
    add_options,
)
from ._output import UsageError, check_paths, count, shows_progress, status

__all__ = ['add_parser', 'run']

_DESCRIPTION = """\
Align exposures, whatever their pixels, and take their weighted mean. The result
states its noise, the correlation of that noise, its effective PSF and how many
exposures each pixel has, and "bliss-astro detect" reads it as it is.

IMAGE is a FITS file as for "bliss-astro detect", with celestial coordinates.
"""

# Files of which one may serve for all images.
_FOR_ALL = ('psf', 'mask')


def add_parser(commands):
    """Add this command to the parser."""
    summary = 'align exposures and take their mean'
    parser = add_command(
        commands, 'coadd', run, summary=summary, description=_DESCRIPTION
    )
    text = 'FITS files; the first sets the pixels'
    add_options(parser, 'images', images={'help': text})
    names = 'weights match_background sigma_clip method zero_points'
    add_options(parser, names, title='method')
    add_image_options(parser, many=True)
    output = {'metavar': 'COADD.fits', 'required': True}
    names = 'output overwrite quiet'
    add_options(parser, names, title='output', output=output)


def run(options):
    """Read, stack and write."""
    begun = time.perf_counter()
    n = len(options.images)
    for name in IMAGE_FILES + IMAGE_MAPS:
        n_files = len(getattr(options, name) or [])
        if n_files not in (0, n) and not (name in _FOR_ALL and n_files == 1):
            msg = f'--{name} names {n_files} files for {n} images'
            raise UsageError(msg)
    points = options.zero_points
    if points is not None and len(points) not in (1, n):
        msg = f'--zero-points gives {len(points)} numbers for {n} images'
        raise UsageError(msg)
    check_paths(options, 'image')

    from bliss_astro.coadds import coadd_exposures

    status(options, f'adding {count(n, "image")}')
    coadd = coadd_exposures(
        _Exposures(options),
        options.weights,
        match_background=options.match_background or False,
        sigma_clip=options.sigma_clip,
        zero_points=points[0] if points is not None and len(points) == 1 else points,
        method=options.method,
        progress_bar=shows_progress(options),
    )
    coadd.write(options.output, overwrite=options.overwrite)
    print(coadd)
    along_x, along_y = coadd.noise_correlation
    print(f'correlation of the noise: {along_x:.3f} along x, {along_y:.3f} along y')
    seconds = time.perf_counter() - begun
    status(options, f'wrote {options.output} in {seconds:.1f} s')


class _Exposures(Sequence):
    """Exposures that are read when they are used: hundreds need no memory."""

    def __init__(self, options):
        self.options = options

    def __len__(self):
        return len(self.options.images)

    def __getitem__(self, k):
        image = read_image_of_many(self.options, k)
        if image.wcs is None:
            path = self.options.images[k]
            msg = f'{path} has no celestial WCS, which aligning needs'
            raise ValueError(msg)
        return image
