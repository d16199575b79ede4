# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro recipe``, ``train`` and ``encoders``: encoders for the images of a camera.
"""

import json
import os
import shlex
import sys
import tomllib
from pathlib import Path

from ._files import (
    PROGRAM,
    UsageError,
    as_key,
    check_by_band,
    check_paths,
    is_terminal,
    print_table,
    split_band,
    status,
)
from ._options import CONFIGS, bundled_configs, read_image_of_many

# -- recipe --------------------------------------------------------------------------


def run_recipe(options):
    """
    Coverage of images by encoders, and how to train one.

    Measure images, report whether a bundled encoder covers them, and if none does,
    write the configuration with which "bliss-astro train" makes one that does.

    IMAGE is a FITS file as for "bliss-astro detect": an exposure, or a coadd. With
    several of them, ranges over all are taken; properties of the image hold for each.
    Several bands of an image are named, r=a.fits g=b.fits, and those of others too.
    """
    options.bands, options.images = zip(*map(split_band, options.images), strict=True)
    check_by_band(options, options.bands)
    images = _by_image(options.bands)
    if options.stack and len(images) < 2:
        msg = '--stack needs two images or more'
        raise UsageError(msg)
    check_paths(options, 'recipe')

    from bliss_astro._arguments import choose_device
    from bliss_astro.training import make_recipe

    device = choose_device(options.device)
    recipe = make_recipe(
        _exposures(options, images),
        names=[_of_each(options.images.__getitem__, own) for own in images],
        n_exposures=options.n_exposures,
        stack=options.stack,
        n_steps=options.n_steps,
    )
    for facts in recipe.facts:
        _print_facts(facts)
    print()
    print_table(recipe.table())
    print()
    for encoder, reasons in recipe.coverage.items():
        verdict = 'does not cover this:' if reasons else 'covers this.'
        print(f'The bundled encoder {encoder!r} {verdict}')
        for reason in reasons:
            print(f'  {reason}')
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


def _by_image(bands):
    """Numbers of files by band, or by None, of each image: the first that lacks it."""
    images = []
    for k, band in enumerate(bands):
        rest = (own for own in images if not {None, band} & {*own} and band)
        if (own := next(rest, None)) is None:
            images.append(own := {})
        own[band] = k
    return images


def _of_each(function, image):
    """Results of a function of numbers of files by band, or that of one alone."""
    found = {as_key(band): function(k) for band, k in image.items()}
    return found.get(None, {str(band): value for band, value in found.items()})


def _exposures(options, images):
    """Read one image after the other, in its bands."""

    def read(k):
        status(options, f'measuring {options.images[k]}')
        return read_image_of_many(options, k, options.bands[k])

    return (_of_each(read, own) for own in images)


def _print_facts(facts):
    """Print the properties of an image with their sources."""
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


# -- encoders ------------------------------------------------------------------------


def run_encoders(options):
    """
    List the bundled encoders, or show the card of one.

    List the bundled encoders with the images they cover, or print the whole card of one
    as JSON.
    """
    from bliss_astro.encoders import Encoder
    from bliss_astro.encoders._weights import ENCODERS

    if options.card is None:
        from astropy.table import Table

        names = ENCODERS.available()
        table = Table([_facts(ENCODERS.read_card(name)) for name in names])
        table['name'].info.format = '<'
        print_table(table)
        return
    card = Encoder.from_pretrained(options.card).card
    if options.field is not None:
        if options.field not in card:
            known = ', '.join(card)
            raise ValueError(f'the card has no entry {options.field!r}; it has {known}')
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


# -- train ---------------------------------------------------------------------------


def run_train(options):
    """
    Train an encoder, or the galaxy model, on simulations.

    Train an encoder on an endless stream of simulated images, or, by a configuration
    with a section [galaxies], the learned galaxy model. Ctrl-C or a crash loses at most
    the last minutes: --resume continues.
    """
    path = find_config(options.config)
    # Configurations are read before anything is written.
    configs, train, device = _prepare(options, path)
    name = options.name or path.stem
    output = Path(options.output or path.stem)
    checkpoint, weights = output / 'checkpoint.pt', output / f'{name}.safetensors'
    if not checkpoint.exists() and options.resume:
        status(options, f'no checkpoint in {output}: starting from scratch')
    status(options, f'training {name!r} on {device} for {configs[2].n_steps} steps')
    if not is_terminal(sys.stderr):
        # In a log file, a line now and then is enough.
        os.environ.setdefault('TQDM_MININTERVAL', '30')
    try:
        trained = train(
            configs,
            output,
            name=name,
            resume=options.resume,
            overwrite=options.overwrite,
            max_minutes=options.max_minutes,
            progress_bar=not options.quiet,
        )
    except KeyboardInterrupt:
        msg = 'interrupted before the first step; nothing to resume'
        if checkpoint.exists():
            msg = f'interrupted; to continue: {_resume_command(options, output)}'
        raise KeyboardInterrupt(msg) from None
    training, loss = trained.card['training'], trained.card['validation_loss']
    done, total = training['steps_done'], training['n_steps']
    print(f'weights          {weights}')
    print(f'log              {output / "log.jsonl"}')
    print(f'steps            {done} of {total}')
    print(f'images seen      {training["images_seen"]:,}')
    if loss is not None and loss < float('inf'):
        print(f'validation loss  {loss:.4f}')
    if done < total:
        command = _resume_command(options, output)
        status(options, f'stopped early; to continue: {command}')


def _prepare(options, path):
    """Read the configurations of an encoder or galaxy model, and choose its trainer."""
    import dataclasses
    import functools

    from bliss_astro import training
    from bliss_astro._arguments import choose_device

    configs = training.load_config(path)
    if 'galaxies' not in tomllib.loads(path.read_text()):
        if options.start_from:
            new = dataclasses.replace(configs[2], start_from=options.start_from)
            configs = (*configs[:2], new)
        device = choose_device(options.device)
        return configs, functools.partial(training.train_encoder, device=device), device
    if options.start_from:
        msg = '--start-from is for encoders; a galaxy model begins from scratch'
        raise UsageError(msg)
    if options.device not in ('auto', 'cpu'):
        msg = f'--device must be cpu for a galaxy model, got {options.device}'
        raise UsageError(msg)
    return configs, training.train_galaxies, 'cpu'


def find_config(text):
    """Find a configuration by path, or else by the name of a bundled one."""
    path = Path(text)
    if path.is_file():
        return path
    stem = text.removesuffix('.toml')
    if stem in bundled_configs():
        return CONFIGS / f'{stem}.toml'
    msg = (
        f'there is no file {text}, and no bundled configuration of that name; '
        f'bundled are {", ".join(bundled_configs())}'
    )
    raise FileNotFoundError(msg)


def _resume_command(options, output):
    """Write the command that continues a run."""
    words = [PROGRAM, 'train', options.config, '-o', str(output)]
    for name, default in (('name', None), ('start_from', None), ('device', 'auto')):
        value = getattr(options, name)
        if value not in (None, default):
            words += ['--' + name.replace('_', '-'), value]
    return shlex.join([*words, '--resume'])


COMMANDS = {
    'recipe': (
        run_recipe,
        'images stack/n_exposures',
        'output:recipe always n_steps device no_timing overwrite quiet',
    ),
    'train': (
        run_train,
        'config output:run name start_from max_minutes resume/overwrite device quiet',
    ),
    'encoders': (run_encoders, 'card field'),
}
