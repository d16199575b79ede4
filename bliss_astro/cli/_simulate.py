# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro simulate``: a star field with its truth.
"""

from ._shared import (
    UsageError,
    add_device,
    add_overwrite,
    check_inputs,
    check_outputs,
    choose_device,
    density,
    image_shape,
    positive_float,
    positive_int,
    seed,
    status,
)

__all__ = ['add_field_options', 'add_parser', 'make_field', 'run']


def add_parser(commands):
    """
    Add this command to the parser.
    """
    parser = commands.add_parser(
        'simulate',
        help='simulate a star field, with its truth',
        description='Simulate a coadd (or one exposure) of a star field like those '
        'of SDSS in r, in nanomaggies. The FITS file holds the image, in its header '
        'the PSF, sky, noise and gain, and a table TRUTH.',
    )
    add_field_options(parser, n_exposures=1, shape=(256, 256))
    parser.add_argument(
        '--psf', metavar='PSFIELD', help='take the PSF at the centre of an SDSS field'
    )
    parser.add_argument(
        '--band',
        choices='ugriz',
        help='of that PSF; by default r',
    )
    parser.add_argument(
        '--background',
        type=positive_float,
        default=865.0,
        metavar='B',
        help='sky of an exposure, electrons per pixel (default: %(default)g)',
    )
    parser.add_argument(
        '--faintest',
        type=float,
        metavar='MAG',
        help='magnitude of the faintest stars; by default signal-to-noise 3.4',
    )
    parser.add_argument(
        '-o', '--output', required=True, metavar='IMAGE.fits', help='where to write'
    )
    add_device(parser)
    add_overwrite(parser)
    parser.set_defaults(run=run)


def add_field_options(parser, *, n_exposures, shape):
    """
    Add the options that say which field is simulated.
    """
    parser.add_argument(
        '-d',
        '--n-exposures',
        type=positive_int,
        default=n_exposures,
        metavar='D',
        help='exposures in the coadd (default: %(default)s)',
    )
    parser.add_argument(
        '--shape',
        type=image_shape,
        default=shape,
        metavar='NYxNX',
        help=f'in pixels (default: {shape[0]}x{shape[1]})',
    )
    parser.add_argument(
        '--density',
        type=density,
        default=0.003,
        metavar='X',
        help='stars per pixel (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=seed,
        default=1,
        metavar='N',
        help='the same number, the same field (default: %(default)s)',
    )


def run(options):
    """
    Simulate a field and write it.
    """
    from ._simulated import write_simulated

    if not options.output.lower().endswith(('.fits', '.fit', '.fits.gz')):
        msg = f'-o {options.output}: the ending must be .fits, .fit or .fits.gz'
        raise UsageError(msg)
    if options.band is not None and options.psf is None:
        msg = '--band is the band of the PSF and needs --psf'
        raise UsageError(msg)
    check_inputs(options.psf)
    check_outputs(options.output, overwrite=options.overwrite, inputs=[options.psf])
    exposure, truth = make_field(options)
    write_simulated(exposure, truth, options.output, overwrite=options.overwrite)
    status(options, f'wrote {options.output} with {len(truth)} stars')


def make_field(options):
    """
    Simulate what the options ask for.

    Parameters
    ----------
    options : `argparse.Namespace`
        Parsed arguments.

    Returns
    -------
    exposure, truth : object
        See `simulate_field`.
    """
    from ._simulated import simulate_field

    psf = None
    if getattr(options, 'psf', None) is not None:
        from bliss_astro.psf import PSFModel

        psf = PSFModel.from_sdss(options.psf, options.band or 'r')
    ny, nx = options.shape
    d = options.n_exposures
    what = 'one exposure' if d == 1 else f'a coadd of {d} exposures'
    status(options, f'simulating {what} of {nx} x {ny} px')
    return simulate_field(
        d,
        shape=options.shape,
        density=options.density,
        seed=options.seed,
        psf=psf,
        background=getattr(options, 'background', 865.0),
        faintest=getattr(options, 'faintest', None),
        device=choose_device(getattr(options, 'device', 'cpu')),
    )
