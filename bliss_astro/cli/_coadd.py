# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro coadd``: several exposures in, one image that knows its noise out.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from ._detect import _add_image_options
from ._shared import (
    UsageError,
    add_overwrite,
    check_inputs,
    check_outputs,
    is_terminal,
    positive_float,
    status,
)

__all__ = ['add_parser', 'run']

_DESCRIPTION = """\
Align exposures, whatever their pixels, and take their weighted mean. The result
states its noise, the correlation of that noise, its effective PSF and how many
exposures each pixel has, and "bliss-astro detect" reads it as it is.

IMAGE is a FITS file as for "bliss-astro detect", with celestial coordinates.
"""

# Files that belong to one image each.
_OWN_FILES = ('psf', 'rms', 'weight', 'mask', 'fpm', 'tsfield', 'photofield')
# One may serve for all images.
_FOR_ALL = ('psf', 'mask')


def add_parser(commands):
    """
    Add this command to the parser.
    """
    parser = commands.add_parser(
        'coadd',
        help='align exposures and take their mean',
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'images',
        metavar='IMAGE',
        nargs='+',
        help='a FITS file; the first sets the pixels',
    )
    how = parser.add_argument_group('how')
    how.add_argument(
        '--weights',
        choices=('inverse_variance', 'uniform'),
        default='inverse_variance',
        help='of the exposures (default: %(default)s)',
    )
    how.add_argument(
        '--match-background',
        choices=('constant', 'plane'),
        help='bring the skies of the exposures together first',
    )
    how.add_argument(
        '--sigma-clip',
        type=positive_float,
        metavar='N',
        help='leave out pixels that differ from the other exposures by N sigma',
    )
    how.add_argument(
        '--method',
        choices=('bilinear', 'adaptive', 'exact'),
        default='bilinear',
        help='of resampling (default: %(default)s)',
    )
    how.add_argument(
        '--zero-points',
        type=float,
        nargs='+',
        metavar='MAG',
        help='AB magnitude of one data unit, one for each IMAGE or one for all',
    )
    _add_image_options(parser, many=True)
    out = parser.add_argument_group('what comes out')
    out.add_argument(
        '-o', '--output', required=True, metavar='COADD.fits', help='the file to write'
    )
    add_overwrite(out)
    parser.set_defaults(run=run)


def run(options):
    """
    Read, stack and write.
    """
    begun = time.perf_counter()
    n = len(options.images)
    inputs = list(options.images)
    for name in _OWN_FILES:
        files = getattr(options, name) or []
        if len(files) not in (0, n) and not (name in _FOR_ALL and len(files) == 1):
            msg = f'--{name} names {len(files)} files for {n} images'
            raise UsageError(msg)
        inputs += [] if name == 'mask' else files
    points = options.zero_points
    if points is not None and len(points) not in (1, n):
        msg = f'--zero-points gives {len(points)} numbers for {n} images'
        raise UsageError(msg)
    if not options.output.lower().endswith(('.fits', '.fits.gz', '.fit')):
        msg = f'-o {options.output}: the ending must be .fits'
        raise UsageError(msg)
    check_inputs(*inputs)
    check_outputs(options.output, overwrite=options.overwrite, inputs=inputs)

    from bliss_astro.coadds import coadd_exposures

    status(options, f'adding {n} image{"" if n == 1 else "s"}')
    coadd = coadd_exposures(
        _Files(options),
        options.weights,
        match_background=options.match_background or False,
        sigma_clip=options.sigma_clip,
        zero_points=points[0] if points is not None and len(points) == 1 else points,
        method=options.method,
        progress_bar=is_terminal(sys.stderr) and not options.quiet,
    )
    coadd.write(options.output, overwrite=options.overwrite)
    print(coadd)
    along_x, along_y = coadd.noise_correlation
    print(f'correlation of the noise: {along_x:.3f} along x, {along_y:.3f} along y')
    seconds = time.perf_counter() - begun
    status(options, f'wrote {options.output} in {seconds:.1f} s')


class _Files(Sequence):
    """
    The exposures, each read when it is asked for: hundreds need no memory.
    """

    def __init__(self, options):
        self.options = options

    def __len__(self):
        return len(self.options.images)

    def __getitem__(self, k):
        from bliss_astro.detection._measure import known_exposure

        from ._images import read_image_file

        values = vars(self.options) | {'image': self.options.images[k]}
        for name in _OWN_FILES:
            files = values[name]
            values[name] = files and files[k if len(files) > 1 else 0]
        one = argparse.Namespace(**values)
        image, _ = read_image_file(one)
        if image.wcs is None:
            msg = f'{one.image} has no celestial WCS, which aligning needs'
            raise ValueError(msg)
        return known_exposure(image, name=one.image)
