# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro simulate`` and ``demo``: star fields with their truth.
"""

import time
from pathlib import Path

from ._detect import grey_percentiles
from ._evaluate import Evaluation
from ._options import add_command, add_options, positive_float
from ._output import (
    UsageError,
    check_outputs,
    check_paths,
    print_table,
    status,
    write_picture,
)
from ._simulated import simulate_field

__all__ = ['add_parser', 'run', 'run_demo']

_SIMULATE = """\
Simulate a coadd (or one exposure) of a star field like those of SDSS in r, in
nanomaggies. The FITS file holds the image, in its header the PSF, sky, noise and
gain, and a table TRUTH.
"""

_DEMO = """\
Simulate a deep star field like those of SDSS, detect its stars with the bundled
encoder, score the result against the truth, and write catalogue, image and picture.
Takes less than a minute.
"""

# The field of the demo, and its files.
_N_EXPOSURES, _SHAPE, _DENSITY = 25, (256, 256), 0.003
_FILES = ('bliss-demo-catalog.fits', 'bliss-demo-image.fits', 'bliss-demo.png')


def add_parser(commands):
    """Add both commands to the parser."""
    summary = 'simulate, detect and score a deep field; needs no data'
    parser = add_command(commands, 'demo', run_demo, summary=summary, description=_DEMO)
    text = 'another number, another field (default: %(default)s)'
    folder = {
        'default': '.',
        'metavar': 'FOLDER',
        'help': 'where to write; made if need be (default: the current folder)',
    }
    seed = {'default': 1, 'help': text}
    add_options(parser, 'seed output overwrite quiet', seed=seed, output=folder)

    summary = 'simulate a star field, with its truth'
    parser = add_command(
        commands, 'simulate', run, summary=summary, description=_SIMULATE
    )
    psf = {'metavar': 'PSFIELD', 'help': 'PSF at the centre of an SDSS field'}
    seed = {'default': 1, 'help': 'same number, same field (default: %(default)s)'}
    add_options(
        parser,
        'n_exposures shape density seed psf band',
        n_exposures={'default': 1},
        density={'default': 0.003, 'help': 'stars per pixel (default: %(default)s)'},
        seed=seed,
        psf=psf,
        band={'help': 'band of that PSF; by default r'},
    )
    text = 'sky of an exposure, electrons per pixel (default: %(default)g)'
    sky = {'type': positive_float, 'default': 865.0, 'metavar': 'B', 'help': text}
    parser.add_argument('--background', **sky)
    output = {'metavar': 'IMAGE.fits', 'required': True}
    add_options(parser, 'faintest output device overwrite quiet', output=output)


def run(options):
    """Simulate a field and write it."""
    from bliss_astro.simulation._files import write_simulated

    if options.band is not None and options.psf is None:
        msg = '--band is the band of the PSF and needs --psf'
        raise UsageError(msg)
    check_paths(options, 'image')
    exposure, truth = _simulate(options)
    write_simulated(exposure, truth, options.output, overwrite=options.overwrite)
    status(options, f'wrote {options.output} with {len(truth)} stars')


def _simulate(options):
    """Simulate the field of the options."""
    from bliss_astro._devices import choose_device

    psf = None
    if options.psf is not None:
        from bliss_astro.psf import PSFModel

        psf = PSFModel.from_sdss(options.psf, options.band or 'r')
    ny, nx = options.shape
    d = options.n_exposures
    field = 'one exposure' if d == 1 else f'a coadd of {d} exposures'
    status(options, f'simulating {field} of {nx} x {ny} px')
    return simulate_field(
        d,
        shape=options.shape,
        density=options.density,
        seed=options.seed,
        psf=psf,
        background=options.background,
        faintest=options.faintest,
        device=choose_device(options.device),
    )


def run_demo(options):
    """Simulate, detect, score, write."""
    from bliss_astro.detection import detect_sources
    from bliss_astro.simulation._files import write_simulated

    begun = time.perf_counter()
    folder = Path(options.output)
    paths = [folder / name for name in _FILES]
    if folder.is_dir():
        named = {str(path): path for path in paths}
        check_outputs(named, overwrite=options.overwrite)
    elif folder.exists():
        msg = f'{folder} is a file, not a folder'
        raise NotADirectoryError(msg)
    ny, nx = _SHAPE
    status(
        options,
        f'simulating {_N_EXPOSURES} exposures of {nx} x {ny} px and their coadd',
    )
    field = {'shape': _SHAPE, 'density': _DENSITY, 'seed': options.seed}
    exposure, truth = simulate_field(_N_EXPOSURES, **field)
    status(options, 'detecting with the encoder "stars"')
    catalog = detect_sources(exposure, encoder='stars')
    evaluation = Evaluation(catalog, truth, radius=1.0)
    folder.mkdir(parents=True, exist_ok=True)
    catalog.write(paths[0], overwrite=options.overwrite)
    write_simulated(exposure, truth, paths[1], overwrite=options.overwrite)
    write_picture(
        options,
        lambda figure: _draw(figure, exposure, catalog, truth, evaluation),
        paths[2],
        figsize=(13.6, 7.6),
    )
    print_table(evaluation.short_table())
    print()
    for name, path in zip(('catalogue', 'image', 'picture'), paths, strict=True):
        print(f'{name:<9}  {path}')
    status(options, f'done in {time.perf_counter() - begun:.1f} s')


def _draw(figure, exposure, catalog, truth, evaluation):
    """Draw the field with its catalogue, and beside it the scores."""
    from bliss_astro.plotting import plot_catalog

    grid = figure.add_gridspec(2, 2, width_ratios=(1.6, 1))
    field = figure.add_subplot(grid[:, 0])
    percentile = grey_percentiles(exposure)
    style = {'ax': field, 'radius': 4.0, 'percentile': percentile}
    plot_catalog(exposure, catalog, truth=truth, **style)
    title = f'Coadd of {_N_EXPOSURES} simulated exposures, {len(truth)} stars'
    field.set_title(title, loc='right', fontsize='medium')
    evaluation.draw(figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1]))
