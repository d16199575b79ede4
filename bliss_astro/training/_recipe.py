# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Recipe of an encoder for a camera: does a bundled one fit, and how to train another.
"""

import dataclasses
import json
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path

from astropy.table import Table

import bliss_astro
from bliss_astro._atomic import atomic_write
from bliss_astro.detection._domain import domain_findings
from bliss_astro.encoders import Domain, Encoder
from bliss_astro.encoders._weights import ENCODERS

from ._configuration import SECTIONS
from ._domain import domain_of_simulation
from ._image_facts import ImageFacts, stack_facts
from ._measure_facts import measure_facts
from ._recipe_settings import RecipeSettings, choose_settings, show_range, span
from ._recipe_time import TrainingTime, time_training

__all__ = ['Coverage', 'Recipe', 'make_recipe']

# Encoder that finds the sources for their density, and whose weights are the start.
_START = 'stars'
_COMMENT_WIDTH = 88
# Settings that a file states even where they are the defaults.
_ALWAYS_STATED = {
    'simulation': {'n_exposures', 'background', 'read_noise', 'density', 'psf', 'fwhm'},
    'training': {'n_steps', 'batch_size', 'learning_rate', 'seed'},
}
# Correlation of neighbouring pixels below which noise counts as white.
_WHITE = 0.05


@dataclasses.dataclass(frozen=True)
class Coverage:
    """
    Whether an encoder was trained on images like given ones.

    Attributes
    ----------
    encoder : str
        Name of the encoder.

    reasons : tuple of str
        Properties of the images outside of its domain; empty if it covers them.

    domain : `~bliss_astro.encoders.Domain`
        Ranges that it was trained on.
    """

    encoder: str
    reasons: tuple[str, ...]
    domain: Domain

    @property
    def covers(self):
        """Whether it covers all of the images."""
        return not self.reasons


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """
    Properties of images, the encoders that cover them, and how to train another.

    `make_recipe` makes one.

    Attributes
    ----------
    facts : list of `ImageFacts`
        Properties of each image; of a stack, those expected.

    coverage : list of ``Coverage``
        One for each bundled encoder.

    settings : ``RecipeSettings``
        Configurations of the training, the origin of their numbers, and limits.

    time : ``TrainingTime`` or None
        Expected time, if it was measured.
    """

    facts: list[ImageFacts]
    coverage: list[Coverage]
    settings: RecipeSettings
    time: TrainingTime | None = None

    @property
    def covered_by(self):
        """Names of the bundled encoders that cover the images."""
        return [found.encoder for found in self.coverage if found.covers]

    @property
    def configs(self):
        """The three configurations, for `~bliss_astro.training.train_encoder`."""
        settings = self.settings
        return settings.encoder, settings.simulation, settings.training

    @property
    def time_text(self):
        """The expected time of training in a sentence, without its full stop."""
        if self.time is None:
            return 'not measured'
        on_gpu = self.time.device.startswith('cuda')
        return str(self.time) + ('' if on_gpu else '. On a GPU: not measured')

    @property
    def toml(self):
        """The configuration with comments, as `write` writes it."""
        files = [Path(part.name).name for part in self.facts]
        description = f'Stars; made for {", ".join(files[:3])}'
        description += ', ...' if len(files) > 3 else ''
        names = [part.name for part in self.facts]
        if len(names) > 4:
            names = [*names[:3], f'{len(names) - 3} more']
        *others, last = names
        names = f'{", ".join(others)} and {last}' if others else last
        program = f'bliss-astro recipe (version {bliss_astro.__version__})'
        comments = [
            f'An encoder for {names}, written by {program}.',
            'Every number below may be changed.',
            f'Training time: {self.time_text}.',
            *(f'Note: {limit}.' for limit in self.settings.limits),
        ]
        lines = [line for text in comments for line in _comment(text)]
        lines.append(f'description = {_toml_value(description)}')
        for section, config in zip(SECTIONS['encoder'], self.configs, strict=True):
            lines += _toml_section(section, config, self.settings.reasons)
        return '\n'.join(lines) + '\n'

    def write(self, path, *, overwrite=False):
        """
        Write the configuration, whole or not at all.

        Parameters
        ----------
        path : path_like
            A TOML file for `~bliss_astro.training.load_config` or
            ``bliss-astro train``.

        overwrite : bool, optional
            Whether it may exist.

        Raises
        ------
        OSError
            If it exists and ``overwrite`` is `False`, or cannot be written.
        """
        with atomic_write(path, overwrite=overwrite) as temporary:
            Path(temporary).write_text(self.toml, encoding='utf-8')

    def timed(self, *, device='auto', seconds=6.0):
        """
        Measure how long the training will take, by doing a few of its steps.

        Parameters
        ----------
        device : str or `torch.device`, optional
            Device of the training; by default a GPU if there is one.

        seconds : float, optional
            Time after which no further step begins; at least five are done.

        Returns
        -------
        recipe : `Recipe`
            The same with its ``time``.
        """
        time = time_training(self.configs, device=device, seconds=seconds)
        return dataclasses.replace(self, time=time)

    def table(self):
        """
        Return the facts beside the domains of the bundled encoders.

        Returns
        -------
        table : `~astropy.table.Table`
            A row a fact; the columns are ``fact``, ``images`` (their range), and one
            for each bundled encoder and for the ``recipe``.
        """
        columns = {'fact': list(_ROWS), 'images': _column_of_images(self.facts)}
        for found in self.coverage:
            columns[found.encoder] = _column_of_domain(found.domain)
        own = domain_of_simulation(self.settings.simulation)
        columns['recipe'] = _column_of_domain(own)
        return Table(columns)


_ROWS = (
    'PSF FWHM (px)',
    'PSF effective area (px2)',
    'noise of the sky (electrons)',
    'noise correlation, x and y',
    'sources per pixel',
    'exposures',
)


def _column_of_images(facts):
    depth = [part.n_exposures for part in facts if part.n_exposures is not None]
    ends = [map('{:.2f}'.format, (min(v), max(v))) for v in _correlations(facts)]
    both = [low if low == high else f'{low} to {high}' for low, high in ends]
    return [
        show_range(*span(facts, 'fwhm')),
        show_range(*span(facts, 'psf_area')),
        show_range(*span(facts, 'noise')),
        ', '.join(both),
        show_range(*span(facts, 'density'), digits=2),
        show_range(min(d[0] for d in depth), max(d[1] for d in depth))
        if depth
        else 'not said',
    ]


def _correlations(facts):
    return zip(*(part.correlation for part in facts), strict=True)


def _column_of_domain(domain):
    white = domain.correlation < _WHITE
    return [
        show_range(*domain.fwhm),
        show_range(*domain.psf_area),
        show_range(*domain.noise),
        'none' if white else f'up to {domain.correlation:g}',
        f'up to {domain.density[1]:.2g}',
        show_range(*domain.n_exposures),
    ]


def _toml_section(section, config, reasons):
    """Lines of a section: settings that are not the defaults, with their reasons."""
    lines = ['', f'[{section}]', *_comment(reasons.get(section, ''))]
    fields = dataclasses.fields(config)
    always = _ALWAYS_STATED.get(section, {field.name for field in fields})
    for field in fields:
        value = getattr(config, field.name)
        if value is None or (value == field.default and field.name not in always):
            continue
        lines += _comment(reasons.get(field.name, ''))
        lines.append(f'{field.name} = {_toml_value(value)}')
    return lines


def _comment(text):
    # A line break in a name must not end the comment.
    text = ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())
    return textwrap.wrap(
        text,
        _COMMENT_WIDTH,
        initial_indent='# ',
        subsequent_indent='# ',
        break_long_words=False,
    )


def _toml_value(value):
    if isinstance(value, str):
        # TOML's basic strings are JSON's, whose pairs of surrogates it lacks.
        return json.dumps(value, ensure_ascii=False).replace('\x7f', '\\u007f')
    if isinstance(value, tuple | list):
        return f'[{", ".join(map(_toml_value, value))}]'
    if isinstance(value, float) and not math.isfinite(value):
        msg = f'a setting must be finite, got {value}'
        raise ValueError(msg)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def make_recipe(
    images,
    *,
    names=None,
    n_exposures=None,
    stack=False,
    n_steps=None,
):
    """
    Compare images with the bundled encoders, and plan the training of another.

    The PSF, the noise and its correlation, the depth and the density of the
    sources are measured, or taken from the images where they state it, as
    `~bliss_astro.detection.detect_sources` does. Ranges over the images,
    widened by stated margins, become the settings of a training. `Recipe.timed`
    measures how long that will take.

    Parameters
    ----------
    images : `~bliss_astro.exposures.Exposure`, NDData, Quantity, array, or list
        One image or several; an iterator gives one at a time.

    names : list of str, optional
        Names of the images.

    n_exposures : int, optional
        Depth of the images, where they are coadds that do not state it.

    stack : bool, optional
        Make the recipe for the coadd of the images instead of the images.

    n_steps : int, optional
        Steps of the training; by default as the bundled encoder's, or a quarter of
        them where it starts from those weights.

    Returns
    -------
    recipe : `Recipe`
        The facts, the encoders that cover them, and the configuration.

    Raises
    ------
    TypeError
        If an image is of a kind that cannot be used.

    ValueError
        If there is no image, or one has no PSF and too few stars to measure
        it, or a single one is to be stacked.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator
    >>> from bliss_astro.training import make_recipe
    >>> coadd, truth = CoaddSimulator(5).sample(rng=1)
    >>> recipe = make_recipe(coadd)
    >>> 'stars' in recipe.covered_by
    True
    >>> recipe.configs[1].n_exposures
    (3, 7)
    """
    if not isinstance(images, list | tuple | Iterator):
        images = [images]
    start = Encoder.from_pretrained(_START)
    facts = []
    for k, image in enumerate(images):
        name = f'image {k + 1}' if names is None else names[k]
        facts.append(measure_facts(image, start, name=name, n_exposures=n_exposures))
    if not facts:
        msg = 'images must hold at least one image, got none'
        raise ValueError(msg)
    if stack:
        if len(facts) < 2:
            msg = f'stack needs two images or more, got {len(facts)}'
            raise ValueError(msg)
        facts = [stack_facts(facts)]
    return Recipe(
        facts=facts,
        coverage=[_coverage(name, facts) for name in ENCODERS.available()],
        settings=choose_settings(facts, start, n_steps=n_steps),
    )


def _coverage(name, facts):
    domain = Domain.from_card(ENCODERS.read_card(name))
    reasons = [
        ('' if len(facts) == 1 else f'{part.name}: ') + _reason(finding, part, domain)
        for part in facts
        for finding in domain_findings(domain, part.for_domain())
    ]
    if domain.flux_min is not None:
        reasons.append(
            f'trained for one flux floor, {domain.flux_min:g} electrons of an '
            'exposure, rather than for that at which detection looks'
        )
    return Coverage(name, tuple(reasons), domain)


def _reason(finding, part, domain):
    title, value, allowed = finding.title, finding.value, finding.allowed
    if finding.name == 'psf_area':
        # In the terms of the table.
        title = 'PSF effective area'
        value = f'{show_range(*part.psf_area)} px2'
        allowed = show_range(*domain.psf_area)
    return f'{title} {value}, trained on {allowed}'
