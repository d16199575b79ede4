# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro detect``: the catalogue of an image.
"""

import time

import numpy as np

from ._images import detection_keywords, read_image_file
from ._options import ROWS_SHOWN, add_command, add_image_options, add_options
from ._output import (
    check_paths,
    count,
    print_table,
    shows_progress,
    status,
    write_catalog,
    write_picture,
)

__all__ = ['add_parser', 'run']

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


def add_parser(commands):
    """Add this command to the parser."""
    summary = 'detect the stars and galaxies of an image'
    parser = add_command(
        commands, 'detect', run, summary=summary, description=_DESCRIPTION
    )
    add_options(parser, 'image threshold encoder density device threads bin')
    add_image_options(parser)
    output = {
        'metavar': 'CATALOG',
        'help': '.fits, .ecsv, .parquet, .vot, .csv, .hdf5 or .reg (DS9); without it '
        f'the {ROWS_SHOWN} brightest sources are printed',
    }
    plot = {'help': 'draw the catalogue over the image'}
    names = 'output posterior plot overwrite quiet'
    add_options(parser, names, title='output', output=output, plot=plot)


def run(options):
    """Detect, print or write, and draw."""
    begun = time.perf_counter()
    check_paths(options, 'catalog')
    status(options, f'reading {options.image}')
    catalog, seconds = _measure(options)
    posterior = options.posterior
    write_catalog(options, catalog, options.output, posterior=posterior)
    image = catalog.exposure
    figsize, width = _overlay_size(image)
    write_picture(
        options,
        lambda figure: _draw_overlay(figure, image, catalog, width),
        options.plot,
        figsize=figsize,
    )
    total = time.perf_counter() - begun
    status(
        options,
        f'{count(len(catalog))} above p = {options.threshold:.10g} in {total:.1f} s '
        f'({seconds:.1f} s of them detecting)',
    )
    if options.output is None:
        _print_brightest(options, catalog)


def _measure(options):
    """Read the image and detect; return the catalogue and the seconds of detection."""
    from bliss_astro.detection import detect_sources
    from bliss_astro.detection._estimates import image_line

    keywords = detection_keywords(options)
    image, kind = read_image_file(options)
    ny, nx = image.shape
    article = 'an' if kind[0] in 'iS' else 'a'
    status(options, f'detecting in {nx} x {ny} px of {article} {kind}')
    begun = time.perf_counter()
    catalog = detect_sources(
        image,
        options.threshold,
        bin=options.bin,
        n_threads=options.threads,
        progress_bar=shows_progress(options),
        **keywords,
    )
    seconds = time.perf_counter() - begun
    status(options, image_line(catalog.meta['estimated'], image.data.shape))
    return catalog, seconds


def _print_brightest(options, catalog):
    """Print the first rows of a catalogue."""
    shown, left_out = _without_most_shapes(catalog[:ROWS_SHOWN])
    print_table(shown)
    if left_out and len(catalog):
        status(
            options,
            f'e1, e2: of galaxies; -o catalog.fits writes {left_out} more columns '
            'of shapes',
        )
    if len(catalog) > ROWS_SHOWN:
        rest = len(catalog) - ROWS_SHOWN
        status(options, f'and {rest} more; -o catalog.fits writes all of them')


def _without_most_shapes(catalog):
    """Leave only the ellipticity of the shapes, and only that of galaxies."""
    from astropy.table import MaskedColumn

    from bliss_astro.catalog._columns import SHAPE_NAMES

    # It is the best measured number of a shape; sixteen columns more fit on no screen.
    left_out = [
        n for n in catalog.colnames if n in SHAPE_NAMES and n not in ('e1', 'e2')
    ]
    shown = catalog.copy()
    shown.remove_columns(left_out)
    if 'galaxy_probability' in shown.colnames:
        star = np.asarray(shown['galaxy_probability']) < 0.5
        for name in {'e1', 'e2'} & set(shown.colnames):
            shown[name] = MaskedColumn(np.asarray(shown[name]), mask=star)
    return shown, len(left_out)


def _overlay_size(image):
    """Return the size of the figure and the width of its image, in inches."""
    ny, nx = image.data.shape
    # About two dots for each pixel of an image of a few thousand pixels.
    width = float(np.clip(nx / 75, 7.0, 30.0))
    return (1.12 * width, float(np.clip(width * ny / nx, 3.0, 30.0)) + 0.5), width


def _draw_overlay(figure, image, catalog, width):
    """Draw a catalogue over its image."""
    from bliss_astro.plotting import plot_catalog

    ny, nx = image.data.shape
    axes = figure.add_subplot(projection=image.wcs)
    radius = _circle_radius(catalog, max(nx, ny))
    options = {'ax': axes, 'radius': radius, 'percentile': grey_percentiles(image)}
    plot_catalog(image, catalog, **options)
    line_width = float(np.clip(0.25 * radius * 72 * width / nx, 0.4, 1.4))
    axes.collections[-1].set_linewidth(line_width)
    threshold = catalog.meta.get('threshold', 0.5)
    title = f'{count(len(catalog))} above p = {threshold:.10g}'
    axes.set_title(title, loc='right', fontsize='medium')


def _circle_radius(catalog, size):
    """Choose a radius in pixels at which most neighbours do not overlap."""
    largest = max(2.5, min(6.0, size / 60))
    if len(catalog) < 2:
        return largest
    from scipy.spatial import KDTree

    points = np.column_stack([catalog['x_centroid'], catalog['y_centroid']])
    spacing = KDTree(points).query(points, k=2)[0][:, 1]
    return float(np.clip(0.5 * np.median(spacing), 2.0, largest))


def grey_percentiles(image):
    """Return percentiles at which faint stars show and bright ones are black."""
    data = np.asarray(image.data, dtype=float)
    if image.mask is not None:
        data = data[~np.broadcast_to(np.asarray(image.mask, bool), data.shape)]
    data = data[np.isfinite(data)]
    # Stars only brighten pixels, so the faint ones hold the sky and its noise.
    low, sky = np.percentile(data, [5, 25])
    noise = (sky - low) / 0.97
    share = 100 * float(np.mean(data < sky + 40 * noise))
    return 20.0, float(np.clip(share, 80.0, 99.9))
