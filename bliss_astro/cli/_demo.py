# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro demo``: the whole way on a simulated field, in a minute.
"""

import time
from pathlib import Path

from ._detect import grey_percentiles
from ._evaluate import Evaluation
from ._shared import (
    add_overwrite,
    check_outputs,
    print_table,
    save_picture,
    seed,
    status,
)

__all__ = ['add_parser', 'run']

_DEPTH = 25
_SHAPE = (256, 256)
_DENSITY = 0.003
_NAMES = ('bliss-demo-catalog.fits', 'bliss-demo-image.fits', 'bliss-demo.png')


def add_parser(commands):
    """
    Add this command to the parser.
    """
    parser = commands.add_parser(
        'demo',
        help='simulate, detect and score a deep field; needs nothing',
        description='Simulate a deep star field like those of SDSS, detect its stars '
        'with the bundled encoder, score the result against the truth, and write '
        'catalogue, image and picture. Takes less than a minute.',
    )
    parser.add_argument(
        '--seed',
        type=seed,
        default=1,
        metavar='N',
        help='another number, another field (default: %(default)s)',
    )
    parser.add_argument(
        '-o',
        '--output',
        default='.',
        metavar='FOLDER',
        help='where to write; made if need be (default: the current folder)',
    )
    add_overwrite(parser)
    parser.set_defaults(run=run)


def run(options):
    """
    Simulate, detect, score, write.
    """
    from bliss_astro.detection import detect_sources

    from ._simulated import simulate_field, write_simulated

    begun = time.perf_counter()
    folder = Path(options.output)
    paths = [folder / name for name in _NAMES]
    if folder.is_dir():
        check_outputs(*paths, overwrite=options.overwrite, names=())
    elif folder.exists():
        msg = f'{folder} is a file, not a folder'
        raise NotADirectoryError(msg)
    ny, nx = _SHAPE
    status(options, f'simulating {_DEPTH} exposures of {nx} x {ny} px and their coadd')
    exposure, truth = simulate_field(
        _DEPTH, shape=_SHAPE, density=_DENSITY, seed=options.seed
    )
    status(options, 'detecting with the encoder "stars"')
    catalog = detect_sources(exposure, encoder='stars')
    evaluation = Evaluation(catalog, truth, radius=1.0)
    status(options, 'drawing')
    figure = _draw(exposure, catalog, truth, evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    catalog.write(paths[0], overwrite=options.overwrite)
    write_simulated(exposure, truth, paths[1], overwrite=options.overwrite)
    save_picture(figure, paths[2], overwrite=options.overwrite)
    print_table(evaluation.short_table())
    print()
    print(f'catalogue  {paths[0]}')
    print(f'image      {paths[1]}')
    print(f'picture    {paths[2]}')
    status(options, f'done in {time.perf_counter() - begun:.1f} s')


def _draw(exposure, catalog, truth, evaluation):
    """
    Draw the field with its catalogue, and beside it the scores.
    """
    from matplotlib.figure import Figure

    from bliss_astro.plotting import plot_catalog

    figure = Figure(figsize=(13.6, 7.6), layout='constrained')
    grid = figure.add_gridspec(2, 2, width_ratios=(1.6, 1))
    field = figure.add_subplot(grid[:, 0])
    plot_catalog(
        exposure,
        catalog,
        truth=truth,
        ax=field,
        radius=4.0,
        percentile=grey_percentiles(exposure),
    )
    field.set_title(
        f'Coadd of {_DEPTH} simulated exposures, {len(truth)} stars',
        loc='right',
        fontsize='medium',
    )
    evaluation.draw(figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1]))
    return figure
