# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro detect``: an image in, a catalogue out.
"""

import argparse
import sys
import time

import numpy as np

from ._images import files_of
from ._shared import (
    add_device,
    add_overwrite,
    binning,
    check_catalog_path,
    check_inputs,
    check_outputs,
    check_picture_path,
    choose_device,
    density,
    is_terminal,
    magnitude,
    positive_float,
    positive_int,
    print_table,
    probability,
    save_picture,
    status,
    write_catalog,
)

__all__ = ['add_parser', 'draw_overlay', 'grey_percentiles', 'run']

_ROWS_SHOWN = 20

_DESCRIPTION = """\
Detect the stars and galaxies of an image, with probabilities and errors.

IMAGE is a FITS file, plain or compressed. Frames and corrected frames (fpC) of
SDSS and the output of "bliss-astro simulate" are recognised by their content; of
any other file the first two-dimensional image is taken, with its BUNIT, its WCS, an
extension MASK, and the header cards of gain and saturation where they are sound. What
is neither in the file nor given is estimated. An extension and a section may follow, as
CFITSIO writes them: 'image.fits[SCI][101:400,201:500]' are columns 101 to 400 and
rows 201 to 500, counted from 1.
"""


def _background(text):
    if text in ('header', 'measure'):
        return text
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not np.isfinite(value):
        msg = f"{text!r} is neither 'header' nor 'measure' nor a number"
        raise argparse.ArgumentTypeError(msg)
    return value


def add_parser(commands):
    """
    Add this command to the parser.
    """
    parser = commands.add_parser(
        'detect',
        help='detect the stars and galaxies of an image',
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('image', metavar='IMAGE', help='a FITS file')
    parser.add_argument(
        '-t',
        '--threshold',
        type=probability,
        default=0.5,
        metavar='P',
        help='smallest probability of a source (default: %(default)s)',
    )
    parser.add_argument(
        '--encoder',
        default='stars-galaxies',
        metavar='NAME',
        help='a bundled encoder or a .safetensors file (default: %(default)s)',
    )
    parser.add_argument(
        '--density',
        type=density,
        metavar='X',
        help='expected sources per pixel; by default estimated in a first pass',
    )
    add_device(parser)
    parser.add_argument(
        '--threads',
        type=positive_int,
        metavar='N',
        help='threads on the CPU; by default as many as torch uses',
    )
    parser.add_argument(
        '--bin',
        type=binning,
        metavar='N|auto',
        help='join N x N pixels where the PSF is too broad for the encoder',
    )
    _add_image_options(parser)
    out = parser.add_argument_group('what comes out')
    out.add_argument(
        '-o',
        '--output',
        metavar='CATALOG',
        help='.fits, .ecsv, .parquet, .vot, .csv, .hdf5 or .reg (DS9); without it the '
        f'{_ROWS_SHOWN} brightest sources are printed',
    )
    out.add_argument(
        '--posterior',
        action='store_true',
        help='keep the posterior in the FITS file, for intervals and samples later',
    )
    out.add_argument(
        '--plot', metavar='PICTURE', help='draw the catalogue over the image'
    )
    add_overwrite(out)
    parser.set_defaults(run=run)


def _add_image_options(parser, *, many=False):
    """
    Add the options that say what is known of the image, or of ``many``.
    """
    # A file for each image, in their order.
    files = {'metavar': 'FILE'} | ({'nargs': '+'} if many else {})
    image = parser.add_argument_group('what is known of the image')
    image.add_argument(
        '--psf',
        **files,
        help='psField of SDSS, or for other images a FITS image of the PSF; '
        'by default fitted to bright stars',
    )
    image.add_argument(
        '--fwhm',
        type=positive_float,
        metavar='PX',
        help='full width at half maximum of the PSF in pixels, in place of --psf',
    )
    image.add_argument(
        '--background',
        type=_background,
        metavar='header|measure|VALUE',
        help='the sky that is still in the image, in its unit',
    )
    image.add_argument(
        '--extension', metavar='N', help='number or name of the image in the file'
    )
    image.add_argument(
        '--mask',
        **files,
        help='bad pixels (not 0): FILE, FILE[EXT], or an extension of IMAGE',
    )
    noise = image.add_mutually_exclusive_group()
    noise.add_argument(
        '--noise', type=positive_float, metavar='S', help='standard deviation of sky'
    )
    noise.add_argument(
        '--rms', **files, help='map of the standard deviation of sky, FILE[EXT]'
    )
    noise.add_argument(
        '--weight',
        **files,
        help='map of the inverse variance of sky up to a factor, FILE[EXT]',
    )
    image.add_argument(
        '--gain', type=positive_float, metavar='G', help='electrons per data unit'
    )
    image.add_argument(
        '--saturation',
        type=positive_float,
        metavar='LEVEL',
        help='from which a pixel is saturated, in data units',
    )
    image.add_argument(
        '--zero-point',
        type=magnitude,
        metavar='MAG',
        help='AB magnitude of a flux of 1 data unit; fluxes are then in nmgy',
    )
    sdss = parser.add_argument_group('files of SDSS')
    sdss.add_argument('--band', choices='ugriz', help='a check; needed for any psField')
    sdss.add_argument('--fpm', **files, help='fpM: mask planes of the field')
    sdss.add_argument('--tsfield', **files, help='tsField: calibration of fpC')
    sdss.add_argument('--photofield', **files, help='photoField')


def run(options):
    """
    Detect, print or write, and draw.
    """
    begun = time.perf_counter()
    check_catalog_path(options.output, posterior=options.posterior)
    check_picture_path(options.plot)
    check_inputs(options.image, *files_of(options))
    check_outputs(
        options.output,
        options.plot,
        overwrite=options.overwrite,
        inputs=(options.image, *files_of(options, maps=True)),
    )
    status(options, f'reading {options.image}')
    catalog, seconds = _measure(options)
    if options.output is not None:
        write_catalog(
            catalog,
            options.output,
            overwrite=options.overwrite,
            posterior=options.posterior,
        )
        status(options, f'wrote {options.output}')
    if options.plot is not None:
        status(options, f'drawing {options.plot}')
        figure = draw_overlay(catalog.exposure, catalog)
        save_picture(figure, options.plot, overwrite=options.overwrite)
    total = time.perf_counter() - begun
    status(
        options,
        f'{_count(catalog)} above p = {options.threshold:.10g} in {total:.1f} s '
        f'({seconds:.1f} s of them detecting)',
    )
    if options.output is None:
        _print_brightest(options, catalog)


def _measure(options):
    """
    Read the image and detect.
    """
    from bliss_astro.detection import detect_sources
    from bliss_astro.detection._estimates import image_line
    from bliss_astro.encoders import load_encoder

    from ._images import read_image_file

    # A wrong name is told before a large image is read.
    device = choose_device(options.device)
    encoder = load_encoder(options.encoder)
    image, kind = read_image_file(options)
    ny, nx = image.shape
    status(options, f'detecting in {nx} x {ny} px of {_article(kind)}')
    begun = time.perf_counter()
    catalog = detect_sources(
        image,
        options.threshold,
        encoder=encoder,
        density=options.density,
        device=device,
        bin=options.bin,
        n_threads=options.threads,
        progress_bar=is_terminal(sys.stderr) and not options.quiet,
    )
    seconds = time.perf_counter() - begun
    status(options, image_line(catalog.meta['estimated'], image.data.shape))
    return catalog, seconds


def _article(kind):
    return f'{"an" if kind[0] in "iS" else "a"} {kind}'


def _count(catalog):
    n = len(catalog)
    return f'{n} source{"" if n == 1 else "s"}'


def _print_brightest(options, catalog):
    """
    Print the first rows of a catalogue.
    """
    shown, left_out = _without_most_shapes(catalog[:_ROWS_SHOWN])
    print_table(shown)
    if left_out and len(catalog):
        status(
            options,
            f'e1, e2: of galaxies; -o catalog.fits writes {left_out} more columns '
            'of shapes',
        )
    if len(catalog) > _ROWS_SHOWN:
        rest = len(catalog) - _ROWS_SHOWN
        status(options, f'and {rest} more; -o catalog.fits writes all of them')


def _without_most_shapes(catalog):
    """
    Leave only the ellipticity of the shapes, and only of galaxies.

    Of all numbers of a shape it is the one that is known best, and sixteen
    columns more fit on no screen.
    """
    from astropy.table import MaskedColumn

    from bliss_astro.catalog._columns import SHAPE_NAMES

    shapes = [name for name in catalog.colnames if name in SHAPE_NAMES]
    shown = catalog.copy()
    kept = [name for name in ('e1', 'e2') if name in shapes]
    left_out = [name for name in shapes if name not in kept]
    shown.remove_columns(left_out)
    if 'galaxy_probability' in shown.colnames:
        star = np.asarray(shown['galaxy_probability']) < 0.5
        for name in kept:
            shown[name] = MaskedColumn(np.asarray(shown[name]), mask=star)
    return shown, len(left_out)


def draw_overlay(image, catalog):
    """
    Draw a catalogue over its image.

    Parameters
    ----------
    image : `~bliss_astro.exposures.Exposure` or `~astropy.nddata.NDData`
        The image.

    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        The sources.

    Returns
    -------
    figure : `~matplotlib.figure.Figure`
        With about two dots for each pixel of an image of a few thousand
        pixels, when it is saved with 150 dots per inch.
    """
    from matplotlib.figure import Figure

    from bliss_astro.plotting import plot_catalog

    ny, nx = image.data.shape
    width = float(np.clip(nx / 75, 7.0, 30.0))
    height = float(np.clip(width * ny / nx, 3.0, 30.0))
    figure = Figure(figsize=(1.12 * width, height + 0.5), layout='constrained')
    axes = figure.add_subplot(projection=image.wcs)
    radius = _circle_radius(catalog, max(nx, ny))
    plot_catalog(
        image, catalog, ax=axes, radius=radius, percentile=grey_percentiles(image)
    )
    points_per_pixel = 72 * width / nx
    axes.collections[-1].set_linewidth(
        float(np.clip(0.25 * radius * points_per_pixel, 0.4, 1.4))
    )
    axes.set_title(
        f'{_count(catalog)} above p = {catalog.meta.get("threshold", 0.5):.10g}',
        loc='right',
        fontsize='medium',
    )
    return figure


def _circle_radius(catalog, size):
    """
    Choose a radius in pixels at which most neighbours do not overlap.
    """
    largest = max(2.5, min(6.0, size / 60))
    if len(catalog) < 2:
        return largest
    from scipy.spatial import KDTree

    points = np.column_stack([catalog['x_centroid'], catalog['y_centroid']])
    spacing = KDTree(points).query(points, k=2)[0][:, 1]
    return float(np.clip(0.5 * np.median(spacing), 2.0, largest))


def grey_percentiles(image):
    """
    Choose the ends of the grey scale by the noise of the sky.

    Parameters
    ----------
    image : `~bliss_astro.exposures.Exposure` or `~astropy.nddata.NDData`
        The image.

    Returns
    -------
    percentiles : tuple of float
        Such that faint stars show and bright ones are black, whatever the
        share of the pixels that stars cover.
    """
    data = np.asarray(image.data, dtype=float)
    if image.mask is not None:
        data = data[~np.broadcast_to(np.asarray(image.mask, bool), data.shape)]
    data = data[np.isfinite(data)]
    # Stars only brighten pixels, so the faint ones tell the sky and its noise.
    low, sky = np.percentile(data, [5, 25])
    noise = (sky - low) / 0.97
    share = 100 * float(np.mean(data < sky + 40 * noise))
    return 20.0, float(np.clip(share, 80.0, 99.9))
