# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro reconstruct``: an image in, its catalogue and what is left over out.
"""

import argparse

import numpy as np

from ._detect import _add_image_options
from ._images import files_of
from ._shared import (
    UsageError,
    add_device,
    add_overwrite,
    check_catalog_path,
    check_inputs,
    check_outputs,
    check_picture_path,
    choose_device,
    density,
    positive_int,
    probability,
    save_picture,
    seed,
    status,
    write_catalog,
)

__all__ = ['add_parser', 'run']

_DESCRIPTION = """\
Detect the sources of an image, draw the image that the catalogue stands for, and
write it, what it leaves of the data, and the catalogue, all to one FITS file. IMAGE
is any file that "bliss-astro detect" reads.

OUT.fits has the extensions MODEL (light of all sources, without sky), RESIDUAL (data
less sky and model), CHI (the same in units of the noise), DRAWS (if asked for), and
CATALOG, which "bliss-astro evaluate" and others read.
"""


def add_parser(commands):
    """
    Add this command to the parser.
    """
    parser = commands.add_parser(
        'reconstruct',
        help='the image that a catalogue stands for, and what is left over',
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('image', metavar='IMAGE', help='a FITS file')
    parser.add_argument('--encoder', metavar='NAME', help='as for detect')
    parser.add_argument(
        '-t', '--threshold', type=probability, default=0.5, metavar='P', help='of rows'
    )
    parser.add_argument('--density', type=density, metavar='X', help='as for detect')
    parser.add_argument(
        '--draws',
        type=positive_int,
        default=0,
        metavar='N',
        help='write the images of N catalogues drawn from the posterior too',
    )
    parser.add_argument('--seed', type=seed, metavar='N', help='of the draws')
    add_device(parser)
    _add_image_options(parser)
    out = parser.add_argument_group('what comes out')
    out.add_argument(
        '-o',
        '--output',
        metavar='OUT.fits',
        required=True,
        help='model, residual and catalogue, .fits or .fits.gz',
    )
    out.add_argument(
        '--posterior',
        action='store_true',
        help='keep the posterior in OUT.fits, for intervals and samples later',
    )
    out.add_argument(
        '--catalog',
        metavar='CATALOG',
        help='write the catalogue to .fits, .ecsv, .parquet or .vot as well',
    )
    out.add_argument('--plot', metavar='PICTURE', help='draw image, model and residual')
    add_overwrite(out)
    parser.set_defaults(run=run)


def _check(options):
    """
    Refuse what cannot be done, before anything is read.
    """
    from bliss_astro.catalog._io import FORMATS

    if not options.output.lower().endswith(FORMATS['fits']):
        known = ', '.join(FORMATS['fits'])
        msg = f'-o {options.output}: the ending must be one of {known}'
        raise UsageError(msg)
    if options.catalog is not None:
        check_catalog_path(options.catalog, option='--catalog')
    check_picture_path(options.plot)
    check_inputs(options.image, *files_of(options))
    check_outputs(
        options.output,
        options.catalog,
        options.plot,
        overwrite=options.overwrite,
        inputs=(options.image, *files_of(options, maps=True)),
        names=('-o', '--catalog', '--plot'),
    )


def _read(options):
    """
    Read the image, and detect.
    """
    from bliss_astro.detection import detect_sources
    from bliss_astro.detection._inputs import as_exposure
    from bliss_astro.encoders import load_encoder

    from ._images import read_image_file

    # A wrong name is told before a large image is read.
    keywords = {'device': choose_device(options.device), 'density': options.density}
    if options.encoder is not None:
        keywords['encoder'] = load_encoder(options.encoder)
    status(options, f'reading {options.image}')
    exposure, _ = as_exposure(read_image_file(options)[0])
    status(options, 'detecting')
    return exposure, detect_sources(exposure, options.threshold, **keywords)


def run(options):
    """
    Detect, reconstruct, write and draw.
    """
    from bliss_astro.checks import reconstruct

    _check(options)
    exposure, catalog = _read(options)
    n = len(catalog)
    status(options, f'reconstructing {n} source{"" if n == 1 else "s"}')
    result = reconstruct(exposure, catalog, n_draws=options.draws, rng=options.seed)
    result.write(
        options.output, overwrite=options.overwrite, posterior=options.posterior
    )
    status(options, f'wrote {options.output}')
    if options.catalog is not None:
        write_catalog(catalog, options.catalog, overwrite=options.overwrite)
        status(options, f'wrote {options.catalog}')
    if options.plot is not None:
        _draw(options, result)
    _tell(result)


def _draw(options, result):
    """
    Write the picture.
    """
    from matplotlib.figure import Figure

    from bliss_astro.plotting import plot_reconstruction

    ny, nx = result.shape
    height = float(np.clip(4.6 * ny / nx, 2.5, 9.0))
    n = 3 + min(len(result.draws), 2)
    figure = Figure(figsize=(5.0 * n, height + 0.8), layout='constrained')
    plot_reconstruction(result, ax=figure.subplots(1, n))
    save_picture(figure, options.plot, overwrite=options.overwrite)
    status(options, f'wrote {options.plot}')


def _tell(result):
    """
    Print what the model leaves over, in two lines.
    """
    chi = result.chi[np.isfinite(result.chi)].astype(float)
    n = len(result.catalog)
    print(f'{n} source{"" if n == 1 else "s"}, model flux {result.model.sum():.6g}')
    if chi.size:
        low, middle, high = np.percentile(chi, (15.866, 50, 84.134))
        print(
            f'residual / noise: median {middle:.3f}, half 16-84 % width '
            f'{0.5 * (high - low):.3f}, chi2 / n {np.mean(chi**2):.3f}'
        )
