# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro check`` and ``bliss-astro completeness``: may a catalogue be trusted.
"""

import argparse
import sys

import numpy as np

from ._detect import _add_image_options
from ._evaluate import _write
from ._images import files_of
from ._shared import (
    UsageError,
    add_device,
    add_overwrite,
    check_inputs,
    check_outputs,
    check_picture_path,
    check_table_path,
    choose_device,
    density,
    is_terminal,
    positive_int,
    print_table,
    probability,
    save_picture,
    seed,
    status,
)

__all__ = ['add_parser', 'run_check', 'run_completeness']

_CHECK = """\
Detect the sources of an image, take them off it, and say in plain words what is left
over that should not be: a wrong PSF, background, noise or gain, sources that are
missing or of the wrong kind. IMAGE is any file that "bliss-astro detect" reads.
"""
_COMPLETENESS = """\
Put sources into an image, look for them, and print which share is found and how well
their fluxes are measured. IMAGE is any file that "bliss-astro detect" reads.
"""


def _edges(text):
    """
    Parse ``FIRST:LAST:STEP`` or edges separated by commas.
    """
    try:
        if ':' in text:
            first, last, step = (float(part) for part in text.split(':'))
            edges = np.arange(first, last + 0.5 * step, step)
        else:
            edges = np.array([float(part) for part in text.split(',')])
    except (ValueError, ZeroDivisionError):
        edges = np.empty(0)
    if len(edges) < 2 or not np.all(np.diff(edges) > 0):
        msg = (
            f'{text!r} is neither FIRST:LAST:STEP nor increasing edges such as 18,20,22'
        )
        raise argparse.ArgumentTypeError(msg)
    return edges


def add_parser(commands):
    """
    Add both commands to the parser.
    """
    check = _parser(commands, 'check', _CHECK, 'what a catalogue leaves of its image')
    check.add_argument(
        '--draws',
        type=positive_int,
        default=3,
        metavar='N',
        help='number of catalogues drawn from the posterior (default: %(default)s)',
    )
    check.set_defaults(run=run_check)
    parser = _parser(
        commands, 'completeness', _COMPLETENESS, 'which sources are found in an image'
    )
    parser.add_argument(
        '--magnitudes',
        type=_edges,
        metavar='FIRST:LAST:STEP',
        help='edges of bins; by default signal-to-noise ratios of 2 to 60',
    )
    parser.add_argument(
        '-n',
        '--sources',
        type=positive_int,
        default=400,
        metavar='N',
        help='sources of each type (default: %(default)s)',
    )
    parser.add_argument(
        '--types', nargs='+', choices=('star', 'galaxy'), help='what to put in'
    )
    parser.set_defaults(run=run_completeness)


def _parser(commands, name, description, text):
    """
    Make the parser of one command with what both have.
    """
    parser = commands.add_parser(
        name,
        help=text,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('image', metavar='IMAGE', help='a FITS file')
    parser.add_argument('--encoder', metavar='NAME', help='as for detect')
    parser.add_argument(
        '-t', '--threshold', type=probability, default=0.5, metavar='P', help='of rows'
    )
    parser.add_argument('--density', type=density, metavar='X', help='as for detect')
    parser.add_argument('--seed', type=seed, metavar='N', help='of the random numbers')
    add_device(parser)
    _add_image_options(parser)
    out = parser.add_argument_group('what comes out')
    out.add_argument('-o', '--output', metavar='TABLE', help='.ecsv, .csv or .fits')
    out.add_argument('--plot', metavar='PICTURE', help='draw it')
    add_overwrite(out)
    return parser


def _prepare(options):
    """
    Check the arguments and read the image.
    """
    from bliss_astro.detection._inputs import as_exposure
    from bliss_astro.encoders import load_encoder

    from ._images import read_image_file

    check_table_path(options.output)
    check_picture_path(options.plot)
    check_inputs(options.image, *files_of(options))
    check_outputs(
        options.output,
        options.plot,
        overwrite=options.overwrite,
        inputs=(options.image, *files_of(options, maps=True)),
    )
    keywords = {'device': choose_device(options.device), 'density': options.density}
    if options.encoder is not None:
        keywords['encoder'] = load_encoder(options.encoder)
    status(options, f'reading {options.image}')
    exposure, _ = as_exposure(read_image_file(options)[0])
    return exposure, keywords


def _finish(options, table, plot):
    """
    Write the table and the picture.
    """
    if options.output is not None:
        _write(table, options.output, overwrite=options.overwrite)
        status(options, f'wrote {options.output}')
    if options.plot is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.5, 5.0), layout='constrained')
        plot(ax=figure.subplots(1, 2))
        save_picture(figure, options.plot, overwrite=options.overwrite)
        status(options, f'wrote {options.plot}')


def run_check(options):
    """
    Detect, check, and tell.
    """
    from bliss_astro.detection import detect_sources

    exposure, keywords = _prepare(options)
    status(options, 'detecting')
    catalog = detect_sources(exposure, options.threshold, **keywords)
    status(options, f'checking {len(catalog)} sources')
    check = catalog.check(exposure, n_draws=options.draws, rng=options.seed)
    print(check.summary(n_most=20))
    _finish(options, check.to_table(), check.plot)


def run_completeness(options):
    """
    Put sources in, look for them, and print the table.
    """
    from bliss_astro.checks import completeness

    exposure, keywords = _prepare(options)
    if keywords['density'] is None:
        del keywords['density']
    status(options, 'putting sources in')
    try:
        result = completeness(
            exposure,
            magnitudes=options.magnitudes,
            types=options.types,
            n_sources=options.sources,
            threshold=options.threshold,
            rng=options.seed,
            progress_bar=is_terminal(sys.stderr) and not options.quiet,
            **keywords,
        )
    except ValueError as error:
        if 'zero_point' not in str(error):
            raise
        msg = str(error).replace('zero_point', '--zero-point')
        raise UsageError(msg) from error
    names = ('n', 'recall', 'n_masked', 'n_blended', 'bias', 'scatter', 'accuracy')
    bins = [name for name in ('mag_low', 'mag_high') if name in result.table.colnames]
    print_table(result.table['type', *(bins or ('flux_low', 'flux_high')), *names])
    print('\n'.join(repr(result).splitlines()[1:]))
    _finish(options, result.table, result.plot)
