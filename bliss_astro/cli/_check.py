# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro check``, ``completeness`` and ``reconstruct``: checks of a catalogue.
"""

import numpy as np

from ._images import detection_keywords, read_exposure
from ._options import add_command, add_image_options, add_options
from ._output import (
    UsageError,
    check_paths,
    count,
    print_table,
    shows_progress,
    status,
    write_catalog,
    write_picture,
    write_table,
)

__all__ = ['add_parser']

_CHECK = """\
Detect the sources of an image, take them off it, and report faults of the residual
in plain words: a wrong PSF, background, noise or gain, sources that are missing or
of the wrong kind. IMAGE is any file that "bliss-astro detect" reads.
"""

_COMPLETENESS = """\
Inject sources into an image, detect them, and print which share is found and how well
their fluxes are measured. IMAGE is any file that "bliss-astro detect" reads.
"""

_RECONSTRUCT = """\
Detect the sources of an image, render the catalogue, and write the model, the residual
and the catalogue, all to one FITS file. IMAGE is any file that "bliss-astro detect"
reads.

OUT.fits has the extensions MODEL (light of all sources, without sky), RESIDUAL (data
less sky and model), CHI (the same in units of the noise), DRAWS (with --draws), and
CATALOG, which "bliss-astro evaluate" and others read.
"""


def add_parser(commands):
    """Add the three commands to the parser."""
    table = {'metavar': 'TABLE', 'help': '.ecsv, .csv or .fits'}
    names = 'output plot overwrite quiet'

    summary = 'test the residual of a catalogue'
    parser = _add_detection(commands, 'check', run_check, summary, _CHECK)
    add_options(parser, 'draws', draws={'default': 3})
    add_options(parser, names, title='output', output=table)

    summary = 'completeness of the catalogue of an image, by injected sources'
    parser = _add_detection(
        commands, 'completeness', run_completeness, summary, _COMPLETENESS
    )
    add_options(parser, 'magnitudes sources types')
    add_options(parser, names, title='output', output=table)

    summary = 'model and residual of an image'
    parser = _add_detection(
        commands, 'reconstruct', run_reconstruct, summary, _RECONSTRUCT
    )
    text = 'write the images of N catalogues drawn from the posterior too'
    add_options(parser, 'draws', draws={'default': 0, 'help': text})
    output = {
        'metavar': 'OUT.fits',
        'required': True,
        'help': 'model, residual and catalogue, .fits or .fits.gz',
    }
    out = add_options(parser, 'output posterior', title='output', output=output)
    text = 'write the catalogue to .fits, .ecsv, .parquet or .vot as well'
    out.add_argument('--catalog', dest='catalog_copy', metavar='CATALOG', help=text)
    plot = {'help': 'draw image, model and residual'}
    add_options(out, 'plot overwrite quiet', plot=plot)


def _add_detection(commands, name, run, summary, description):
    """Add a command with the options of a detection."""
    parser = add_command(commands, name, run, summary=summary, description=description)
    add_options(parser, 'image encoder threshold density seed device')
    add_image_options(parser)
    return parser


def _prepare(options, kind):
    """Check the arguments and read the image."""
    check_paths(options, kind)
    keywords = detection_keywords(options)
    status(options, f'reading {options.image}')
    return read_exposure(options), keywords


def _finish(options, table, plot):
    """Write the table and the picture."""
    write_table(options, table, options.output)
    size = {'figsize': (11.5, 5.0), 'n_panels': 2}
    write_picture(options, lambda axes: plot(ax=axes), options.plot, **size)


def run_check(options):
    """Detect, check, and print the report."""
    from bliss_astro.detection import detect_sources

    exposure, keywords = _prepare(options, 'table')
    status(options, 'detecting')
    catalog = detect_sources(exposure, options.threshold, **keywords)
    status(options, f'checking {len(catalog)} sources')
    check = catalog.check(exposure, n_draws=options.draws, rng=options.seed)
    print(check.summary(n_most=20))
    _finish(options, check.tests, check.plot)


def run_completeness(options):
    """Inject sources, detect them, and print the table."""
    from bliss_astro.checks import completeness
    from bliss_astro.detection import BlissFinder

    exposure, keywords = _prepare(options, 'table')
    status(options, 'injecting sources')
    try:
        result = completeness(
            exposure,
            BlissFinder(options.threshold, **keywords),
            magnitudes=options.magnitudes,
            types=options.types,
            n_sources=options.sources,
            rng=options.seed,
            progress_bar=shows_progress(options),
        )
    except ValueError as error:
        if 'zero_point' not in str(error):
            raise
        raise UsageError(str(error).replace('zero_point', '--zero-point')) from error
    names = ('n', 'recall', 'n_masked', 'n_blended', 'bias', 'scatter', 'accuracy')
    bins = [name for name in ('mag_low', 'mag_high') if name in result.table.colnames]
    print_table(result.table['type', *(bins or ('flux_low', 'flux_high')), *names])
    print('\n'.join(repr(result).splitlines()[1:]))
    _finish(options, result.table, result.plot)


def run_reconstruct(options):
    """Detect, reconstruct, write and draw."""
    from bliss_astro.checks import reconstruct
    from bliss_astro.detection import detect_sources

    exposure, keywords = _prepare(options, 'image')
    status(options, 'detecting')
    catalog = detect_sources(exposure, options.threshold, **keywords)
    status(options, f'reconstructing {count(len(catalog))}')
    result = reconstruct(exposure, catalog, n_draws=options.draws, rng=options.seed)
    files = {'overwrite': options.overwrite, 'posterior': options.posterior}
    result.write(options.output, **files)
    status(options, f'wrote {options.output}')
    write_catalog(options, catalog, options.catalog_copy)
    ny, nx = result.shape
    n = 3 + min(len(result.draws), 2)
    figsize = (5.0 * n, float(np.clip(4.6 * ny / nx, 2.5, 9.0)) + 0.8)
    write_picture(
        options,
        lambda axes: result.plot(ax=axes),
        options.plot,
        figsize=figsize,
        n_panels=n,
    )
    print(f'{count(len(catalog))}, model flux {result.model.sum():.6g}')
    chi = result.chi[np.isfinite(result.chi)].astype(float)
    if chi.size:
        low, middle, high = np.percentile(chi, (15.866, 50, 84.134))
        print(
            f'residual / noise: median {middle:.3f}, half 16-84 % width '
            f'{0.5 * (high - low):.3f}, chi2 / n {np.mean(chi**2):.3f}'
        )
