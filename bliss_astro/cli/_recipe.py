# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro recipe`` and ``encoders``: coverage of images by encoders.
"""

import json

from ._images import read_image_of_many
from ._options import add_command, add_image_options, add_options
from ._output import PROGRAM, UsageError, check_paths, print_table, status

__all__ = ['add_parser', 'run', 'run_encoders']

_RECIPE = """\
Measure images, report whether a bundled encoder covers them, and if none does, write
the configuration with which "bliss-astro train" makes one that does.

IMAGE is a FITS file as for "bliss-astro detect": an exposure, or a coadd. With
several of them, ranges over all are taken; properties of the image hold for each.
"""

_ENCODERS = """\
List the bundled encoders with the images they cover, or print the whole card of one
as JSON.
"""


def add_parser(commands):
    """Add both commands to the parser."""
    summary = 'coverage of images by encoders, and how to train one'
    parser = add_command(commands, 'recipe', run, summary=summary, description=_RECIPE)
    text = 'exposures in each IMAGE, if it is a coadd without that number'
    names = 'images stack n_exposures'
    add_options(parser, names, n_exposures={'help': text})
    add_image_options(parser)
    text = 'where to write the recipe; without it, it is printed'
    output = {'metavar': 'RECIPE.toml', 'help': text}
    names = 'output always n_steps device no_timing overwrite quiet'
    add_options(parser, names, title='output', output=output)

    summary = 'list the bundled encoders, or show the card of one'
    parser = add_command(
        commands, 'encoders', run_encoders, summary=summary, description=_ENCODERS
    )
    text = 'a bundled encoder or a .safetensors file'
    parser.add_argument('name', nargs='?', help=text)
    add_options(parser, 'field')


def run(options):
    """Measure, report, and write."""
    if options.stack and len(options.images) < 2:
        msg = '--stack needs two images or more'
        raise UsageError(msg)
    if options.stack and options.n_exposures is not None:
        msg = '--stack counts the images itself: leave out --n-exposures'
        raise UsageError(msg)
    check_paths(options, 'recipe')

    from bliss_astro._devices import choose_device
    from bliss_astro.training import make_recipe

    device = choose_device(options.device)
    recipe = make_recipe(
        _exposures(options),
        names=options.images,
        n_exposures=options.n_exposures,
        stack=options.stack,
        n_steps=options.n_steps,
    )
    _print_facts(recipe)
    print()
    print_table(recipe.table())
    print()
    for encoder, reasons in recipe.coverage.items():
        if reasons:
            print(f'The bundled encoder {encoder!r} does not cover this:')
            print('\n'.join(f'  {reason}' for reason in reasons))
        else:
            print(f'The bundled encoder {encoder!r} covers this.')
    if recipe.covered_by and not options.always:
        if options.output is not None:
            status(options, f'{options.output} not written; --always writes it anyway')
        return
    if not options.no_timing:
        status(options, 'timing a few steps of the training')
        recipe = recipe.timed(device=device)
    print()
    if options.output is None:
        print(recipe.toml, end='')
        return
    recipe.write(options.output, overwrite=options.overwrite)
    print(f'{options.output} has the recipe of an encoder that does:')
    print(f'  {PROGRAM} train {options.output}')
    print(f'  training time: {recipe.time_text}')
    for limit in recipe.limits:
        print(f'  note: {limit}')


def _exposures(options):
    """Read one image after the other."""
    for k, path in enumerate(options.images):
        status(options, f'measuring {path}')
        yield read_image_of_many(options, k)


def _print_facts(recipe):
    """Print the properties of each image with their sources."""
    for facts in recipe.facts:
        print(f'{facts.name}: {facts.description}')
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


def run_encoders(options):
    """List the encoders, or show the card of one."""
    from bliss_astro.encoders import Encoder
    from bliss_astro.encoders._weights import ENCODERS

    if options.name is None:
        from astropy.table import Table

        table = Table(
            [_facts(ENCODERS.read_card(name)) for name in ENCODERS.available()]
        )
        table['name'].info.format = '<'
        print_table(table)
        return
    card = Encoder.from_pretrained(options.name).card
    if options.field is not None:
        if options.field not in card:
            known = ', '.join(card)
            msg = f'the card has no entry {options.field!r}; it has {known}'
            raise ValueError(msg)
        card = card[options.field]
    print(card if isinstance(card, str) else json.dumps(card, indent=2))


def _facts(card):
    """Return the properties of the images that an encoder covers, and its training."""
    domain, training = card.get('domain', {}), card.get('training', {})

    def limits(name):
        ends = [f'{end:.3g}' for end in domain.get(name) or ()]
        return '-'.join(dict.fromkeys(ends)) or '?'

    def number(value, form):
        return '?' if value is None else format(value, form)

    return {
        'name': card['name'],
        'exposures': limits('n_exposures'),
        'FWHM (px)': limits('fwhm'),
        'noise (electrons)': limits('noise'),
        'sources per pixel': limits('density'),
        'images seen': number(training.get('images_seen'), ','),
        'validation loss': number(card.get('validation_loss'), '.3f'),
        'parameters': number(card.get('n_parameters', 0), ','),
        'date': card.get('date', '?'),
    }
