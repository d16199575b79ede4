# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A training configuration as a TOML file that says where its numbers come from.
"""

import dataclasses
import json
import math
import textwrap

import bliss_astro
from bliss_astro.encoders import EncoderConfig
from bliss_astro.simulation import SimulationConfig

from ._configuration import TrainingConfig

__all__ = ['write_toml']

_WIDTH = 88
# Written even if they are the defaults, since a reader looks for them.
_ALWAYS = {
    'encoder': [field.name for field in dataclasses.fields(EncoderConfig)],
    'simulation': ['n_exposures', 'background', 'read_noise', 'density', 'psf', 'fwhm'],
    'training': ['n_steps', 'batch_size', 'learning_rate', 'seed'],
}
_DEFAULTS = {
    'encoder': EncoderConfig,
    'simulation': SimulationConfig,
    'training': TrainingConfig,
}


def write_toml(settings, facts, *, description, time):
    """
    Write a recipe.

    Parameters
    ----------
    settings : `~bliss_astro.detection.RecipeSettings`
        What to write.

    facts : list of `~bliss_astro.detection.ImageFacts`
        The images that it was made for.

    description : str
        Of the encoder, in a line.

    time : str
        The time that training will take, in a sentence.

    Returns
    -------
    text : str
        For `~bliss_astro.encoders.load_config`.
    """
    version = bliss_astro.__version__
    lines = _comment(
        f'An encoder for {_names(facts)}, written by bliss-astro recipe (version '
        f'{version}). Every number below may be changed.'
    )
    lines += _comment(f'Training time: {time}.')
    for limit in settings.limits:
        lines += _comment(f'Note: {limit}.')
    lines += [f'description = {_value(description)}']
    for name in ('encoder', 'simulation', 'training'):
        lines += ['', f'[{name}]']
        if name in settings.reasons:
            lines += _comment(settings.reasons[name])
        lines += _section(name, getattr(settings, name), settings.reasons)
    return '\n'.join(lines) + '\n'


def _names(facts):
    names = [part.name for part in facts]
    if len(names) > 4:
        names = [*names[:3], f'{len(names) - 3} more']
    return ' and '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)


def _section(section, config, reasons):
    default = _DEFAULTS[section]()
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        same = value == getattr(default, field.name)
        if value is None or (same and field.name not in _ALWAYS[section]):
            continue
        if field.name in reasons:
            lines += _comment(reasons[field.name])
        lines.append(f'{field.name} = {_value(value)}')
    return lines


def _comment(text):
    # A line break in a name must not end the comment.
    text = ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent='# ',
        subsequent_indent='# ',
        break_long_words=False,
    )


def _value(value):
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, str):
        # TOML's basic strings are JSON's, whose pairs of surrogates it lacks.
        return json.dumps(value, ensure_ascii=False).replace('\x7f', '\\u007f')
    if isinstance(value, tuple | list):
        return f'[{", ".join(_value(part) for part in value)}]'
    if isinstance(value, float):
        if not math.isfinite(value):
            msg = f'a setting must be finite, got {value}'
            raise ValueError(msg)
        return repr(value)
    return str(value)
