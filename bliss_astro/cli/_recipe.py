# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro recipe``: is there an encoder for my images, and if not, how to train it.
"""

import argparse

from ._detect import _add_image_options
from ._shared import (
    PROGRAM,
    UsageError,
    add_device,
    add_overwrite,
    check_inputs,
    check_outputs,
    choose_device,
    positive_int,
    print_table,
    status,
)

__all__ = ['add_parser', 'run']

_DESCRIPTION = """\
Look at images, say whether a bundled encoder covers them, and if none does, write
the configuration with which "bliss-astro train" makes one that does.

IMAGE is a FITS file as for "bliss-astro detect": an exposure, or a coadd. With
several of them, ranges over all are taken; what is said of the images below holds for
each.
"""


def add_parser(commands):
    """
    Add this command to the parser.
    """
    parser = commands.add_parser(
        'recipe',
        help='find out whether an encoder covers images, or how to train one',
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('images', metavar='IMAGE', nargs='+', help='a FITS file')
    parser.add_argument(
        '--stack',
        action='store_true',
        help='for the coadd that these exposures would make',
    )
    parser.add_argument(
        '-d',
        '--n-exposures',
        type=positive_int,
        metavar='D',
        help='exposures in each IMAGE, if it is a coadd that does not say it',
    )
    _add_image_options(parser)
    out = parser.add_argument_group('what comes out')
    out.add_argument(
        '-o',
        '--output',
        metavar='RECIPE.toml',
        help='where to write the recipe; without it, it is printed',
    )
    out.add_argument(
        '--always',
        action='store_true',
        help='make a recipe even if a bundled encoder covers the images',
    )
    out.add_argument(
        '--n-steps',
        type=positive_int,
        metavar='N',
        help='steps of the training; by default as many as the bundled encoder had, or '
        'a quarter of them where it starts from that',
    )
    add_device(out)
    out.add_argument(
        '--no-timing',
        action='store_true',
        help='do not measure how long the training will take',
    )
    add_overwrite(out)
    parser.set_defaults(run=run)


def run(options):
    """
    Measure, judge, and write.
    """
    files = (options.psf, options.fpm, options.tsfield, options.photofield)
    _check(options)
    check_inputs(*options.images, *files)
    check_outputs(
        options.output, overwrite=options.overwrite, inputs=(*options.images, *files)
    )
    device = choose_device(options.device)

    from bliss_astro.training import make_recipe

    recipe = make_recipe(
        _read(options),
        names=options.images,
        n_exposures=options.n_exposures,
        stack=options.stack,
        n_steps=options.n_steps,
    )
    _print_facts(recipe)
    print()
    print_table(recipe.table())
    print()
    _print_verdict(recipe)
    if recipe.covered_by and not options.always:
        if options.output is not None:
            status(options, f'{options.output} not written; --always writes it anyway')
        return
    if not options.no_timing:
        status(options, 'timing a few steps of the training')
        recipe = recipe.timed(device=device)
    _hand_over(options, recipe)


def _check(options):
    """
    Refuse what cannot be meant.
    """
    if options.stack and len(options.images) < 2:
        msg = '--stack needs two images or more'
        raise UsageError(msg)
    if options.stack and options.n_exposures is not None:
        msg = '--stack counts the images itself: leave out --n-exposures'
        raise UsageError(msg)
    if options.output is not None and not options.output.lower().endswith('.toml'):
        msg = f'-o {options.output}: the ending must be .toml'
        raise UsageError(msg)


def _read(options):
    """
    Read one image after the other.
    """
    from bliss_astro.detection._measure import known_exposure

    from ._images import read_image_file

    for path in options.images:
        status(options, f'measuring {path}')
        one = argparse.Namespace(**{**vars(options), 'image': path})
        yield known_exposure(read_image_file(one)[0], name=path)


def _print_facts(recipe):
    """
    Print what each image is like, and where that is known from.
    """
    for facts in recipe.facts:
        ny, nx = facts.shape
        print(f'{facts.name}: {nx} x {ny} px')
        print(f'  star of 5 sigma    {facts.limit}')
        for title, name in (
            ('PSF', 'psf'),
            ('noise', 'bkg_error'),
            ('correlation', 'noise_correlation'),
            ('gain', 'effective_gain'),
            ('exposures', 'n_exposures'),
            ('density', 'density'),
        ):
            print(f'  {title:<18} {facts.sources[name]}')
        for remark in facts.remarks:
            print(f'  note: {remark}')


def _print_verdict(recipe):
    """
    Say who covers the images, and why others do not.
    """
    for found in recipe.coverage:
        if found.covers:
            print(f'The bundled encoder {found.encoder!r} covers this.')
            continue
        print(f'The bundled encoder {found.encoder!r} does not cover this:')
        for reason in found.reasons:
            print(f'  {reason}')


def _hand_over(options, recipe):
    """
    Write or print the recipe, and say what to do with it.
    """
    print()
    if options.output is None:
        print(recipe.toml, end='')
        return
    recipe.write(options.output, overwrite=options.overwrite)
    print(f'{options.output} has the recipe of an encoder that does:')
    print(f'  {PROGRAM} train {options.output}')
    print(f'  training time: {recipe.time_text}')
    for limit in recipe.settings.limits:
        print(f'  note: {limit}')
