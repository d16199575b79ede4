# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro train``: training of an encoder, or of the galaxy model.
"""

import os
import sys
from pathlib import Path

from ._options import add_command, add_options
from ._output import PROGRAM, UsageError, is_terminal, status

__all__ = ['add_parser', 'bundled_configs', 'find_config', 'run']

_DESCRIPTION = """\
Train an encoder on an endless stream of simulated images, or, by a configuration with
a section [galaxies], the learned galaxy model. Ctrl-C or a crash loses at most the
last minutes: --resume continues.
"""


def add_parser(commands):
    """Add this command to the parser."""
    summary = 'train an encoder, or the galaxy model, on simulations'
    parser = add_command(
        commands, 'train', run, summary=summary, description=_DESCRIPTION
    )
    known = ', '.join(bundled_configs())
    text = f'a configuration, or the name of a bundled one: {known}'
    parser.add_argument('config', metavar='CONFIG.toml', help=text)
    text = (
        'folder of checkpoint, log and weights; by default one with the name of the '
        'configuration'
    )
    folder = {'metavar': 'FOLDER', 'help': text}
    add_options(parser, 'output name start_from max_minutes', output=folder)
    existing = parser.add_mutually_exclusive_group()
    text = 'start anew over the run in FOLDER'
    add_options(existing, 'resume overwrite', overwrite={'help': text})
    add_options(parser, 'device quiet')


def run(options):
    """Train, or continue to."""
    path = find_config(options.config)
    prepare = _prepare_galaxies if _is_of_galaxies(path) else _prepare_encoder
    # Configurations are read before anything is written.
    configs, train, device = prepare(options, path)
    name = options.name or path.stem
    output = Path(options.output or path.stem)
    checkpoint = output / 'checkpoint.pt'
    weights = output / f'{name}.safetensors'
    if output.exists() and not output.is_dir():
        msg = f'{output} is a file, not a folder'
        raise NotADirectoryError(msg)
    _check_existing(options, checkpoint, weights)
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
    _report(options, trained.card, weights, output)


def _is_of_galaxies(path):
    """Test whether a configuration is one of the galaxy model."""
    import tomllib

    try:
        return 'galaxies' in tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # The error is explained where the whole file is read.
        return False


def _prepare_encoder(options, path):
    """Read the configurations of an encoder."""
    import dataclasses
    import functools

    from bliss_astro._devices import choose_device
    from bliss_astro.training import load_config, train_encoder

    encoder, simulation, training = load_config(path)
    if options.start_from:
        training = dataclasses.replace(training, start_from=options.start_from)
    device = choose_device(options.device)
    configs = (encoder, simulation, training)
    train = functools.partial(train_encoder, device=device)
    return configs, train, device


def _prepare_galaxies(options, path):
    """Read the configurations of a galaxy model."""
    from bliss_astro.training import load_config, train_galaxies

    if options.start_from:
        msg = '--start-from is for encoders; a galaxy model begins from scratch'
        raise UsageError(msg)
    if options.device not in ('auto', 'cpu'):
        msg = f'--device must be cpu for a galaxy model, got {options.device}'
        raise UsageError(msg)
    return load_config(path), train_galaxies, 'cpu'


def bundled_configs():
    """Return the names of the bundled configurations."""
    return sorted(path.stem for path in _folder().glob('*.toml'))


def find_config(text):
    """Find a configuration by path, or else by the name of a bundled one."""
    path = Path(text)
    if path.is_file():
        return path
    stem = text.removesuffix('.toml')
    if stem in bundled_configs():
        return _folder() / f'{stem}.toml'
    msg = (
        f'there is no file {text}, and no bundled configuration of that name; '
        f'bundled are {", ".join(bundled_configs())}'
    )
    raise FileNotFoundError(msg)


def _folder():
    return Path(__file__).parent.parent / 'data' / 'configs'


def _check_existing(options, checkpoint, weights):
    """Refuse to touch a run unless it is to be continued or replaced."""
    if not checkpoint.exists() and options.resume:
        status(options, f'no checkpoint in {checkpoint.parent}: starting from scratch')
    if options.resume or options.overwrite:
        return
    for path in (checkpoint, weights):
        if path.exists():
            msg = f'{path} exists; --resume continues that run, --overwrite replaces it'
            raise FileExistsError(msg)


def _resume_command(options, output):
    """Write the command that continues a run."""
    import shlex

    words = [PROGRAM, 'train', options.config, '-o', str(output)]
    for name, default in (('name', None), ('start_from', None), ('device', 'auto')):
        value = getattr(options, name)
        if value not in (None, default):
            words += ['--' + name.replace('_', '-'), value]
    return shlex.join([*words, '--resume'])


def _report(options, card, weights, output):
    """Print the files and the numbers of the run."""
    training = card['training']
    done, total = training['steps_done'], training['n_steps']
    print(f'weights          {weights}')
    print(f'log              {output / "log.jsonl"}')
    print(f'steps            {done} of {total}')
    print(f'images seen      {training["images_seen"]:,}')
    loss = card['validation_loss']
    if loss is not None and loss < float('inf'):
        print(f'validation loss  {loss:.4f}')
    if done < total:
        status(
            options, f'stopped early; to continue: {_resume_command(options, output)}'
        )
