# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro encoders``: what comes with the package, and its cards.
"""

import json

from ._shared import print_table

__all__ = ['add_parser', 'run']


def add_parser(commands):
    """
    Add this command to the parser.
    """
    parser = commands.add_parser(
        'encoders',
        help='list the bundled encoders, or show the card of one',
        description='List the bundled encoders with what they were trained on, '
        'or print the whole card of one as JSON.',
    )
    parser.add_argument(
        'name', nargs='?', help='a bundled encoder or a .safetensors file'
    )
    parser.add_argument('--field', help='print one entry of the card only')
    parser.set_defaults(run=run)


def run(options):
    """
    List the encoders, or show one.
    """
    from bliss_astro.encoders import available_encoders, load_encoder

    if options.name is not None:
        _show(load_encoder(options.name).card, options.field)
        return
    from astropy.table import Table

    rows = [_facts(load_encoder(name).card) for name in available_encoders()]
    table = Table(rows)
    for name in table.colnames:
        table[name].info.format = '<' if name == 'name' else None
    print_table(table)


def _show(card, field):
    """
    Print a card or one of its entries.
    """
    if field is None:
        print(json.dumps(card, indent=2))
        return
    if field not in card:
        msg = f'the card has no entry {field!r}; it has {", ".join(card)}'
        raise ValueError(msg)
    value = card[field]
    print(value if isinstance(value, str) else json.dumps(value, indent=2))


def _facts(card):
    """
    Collect the facts of a card that tell whether an encoder fits an image.
    """
    domain, training = card.get('domain', {}), card.get('training', {})

    def pair(name):
        low, high = domain.get(name) or ('?', '?')
        if low == '?':
            return '?'
        low, high = f'{low:.3g}', f'{high:.3g}'
        return low if low == high else f'{low}-{high}'

    images = training.get('images_seen')
    return {
        'name': card['name'],
        'exposures': pair('n_exposures'),
        'FWHM (px)': pair('fwhm'),
        'noise (electrons)': pair('noise'),
        'sources per pixel': pair('density'),
        'images seen': '?' if images is None else f'{images:,}',
        'validation loss': f'{card["validation_loss"]:.3f}'
        if 'validation_loss' in card
        else '?',
        'parameters': f'{card.get("n_parameters", 0):,}',
        'date': card.get('date', '?'),
    }
