# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Recipe of an encoder for a camera: does a bundled one fit, and how to train another.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table

import bliss_astro
from bliss_astro._arguments import counted, require
from bliss_astro._atomic import atomic_write
from bliss_astro.detection._domain import domain_findings
from bliss_astro.encoders import Domain, Encoder
from bliss_astro.encoders._weights import ENCODERS
from bliss_astro.exposures._set import images_by_band

from ._configuration import toml_of
from ._domain import domain_of_simulation
from ._encoder import EncoderTrainer
from ._facts import measure_facts, span, stack_facts
from ._plan import choose_settings, show_range

# Encoder that finds the sources for their density, and whose weights are the start.
_START = 'stars'
# Correlation of neighbouring pixels below which noise counts as white.
_WHITE = 0.05
# Least number of steps that are timed, and share of the processors' time below which a
# machine is called busy.
_MIN_STEPS, _BUSY = 4, 0.6
_FACTS = [
    'PSF FWHM (px)',
    'PSF effective area (px2)',
    'noise of the sky (electrons)',
    'noise correlation, x and y',
    'sources per pixel',
    'exposures',
]


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """
    Properties of images, the encoders that cover them, and how to train another.

    `make_recipe` makes one.

    Attributes
    ----------
    facts : list of ``ImageFacts``
        Properties of each image, in each of its bands; of a stack, those expected.

    coverage : dict of str to list of str
        For each bundled encoder, the properties of the images outside of the domain
        that it was trained on; none if it covers them.

    configs : tuple of three configurations
        For `~bliss_astro.training.train_encoder`.

    reasons : dict of str to str
        Origin of the setting of that name.

    limits : tuple of str
        Properties of the images that the simulations lack.

    time : dict or None
        Expected time, if it was measured: ``seconds`` with their standard ``error``,
        ``step_seconds``, ``n_timed`` steps, ``validation_seconds``, and ``text``.
    """

    facts: list
    coverage: dict
    configs: tuple
    reasons: dict
    limits: tuple[str, ...] = ()
    time: dict | None = None

    @property
    def covered_by(self):
        """Names of the bundled encoders that cover the images."""
        return [name for name, reasons in self.coverage.items() if not reasons]

    @property
    def time_text(self):
        """The expected time of training in a sentence, without its full stop."""
        return 'not measured' if self.time is None else self.time['text']

    @property
    def toml(self):
        """The configuration with comments, as `write` writes it."""
        names = [part.name for part in self.facts]
        more = ', ...' if len(names) > 3 else ''
        files = ', '.join(Path(name).name for name in names[:3]) + more
        program = f'bliss-astro recipe (version {bliss_astro.__version__})'
        comments = [
            f'An encoder for {", ".join(names[:3])}{more}, written by {program}.',
            'Every number below may be changed.',
            f'Training time: {self.time_text}.',
            *(f'Note: {limit}.' for limit in self.limits),
        ]
        return toml_of(
            self.configs,
            reasons=self.reasons,
            description=f'Stars; made for {files}',
            comments=comments,
        )

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
        encoder, simulation, training = self.configs
        # Initial weights do not change the time.
        trial = dataclasses.replace(training, start_from=None, stage='all')
        configs = encoder, simulation, trial
        return dataclasses.replace(self, time=_time_training(configs, device, seconds))

    def table(self):
        """
        Return the facts beside the domains of the bundled encoders.

        Returns
        -------
        table : `~astropy.table.Table`
            A row a fact; the columns are ``fact``, ``images`` (their range), and one
            for each bundled encoder and for the ``recipe``.
        """
        facts = self.facts
        depths = [part.n_exposures for part in facts if part.n_exposures is not None]
        own = {name: span(facts, name) for name in ('fwhm', 'psf_area', 'noise')}
        images = Domain(
            **own,
            density=span(facts, 'density'),
            correlation=max(max(part.correlation) for part in facts),
            n_exposures=(np.min(depths), np.max(depths)) if depths else None,
        )
        encoders = {n: Domain.from_card(ENCODERS.read_card(n)) for n in self.coverage}
        recipe = domain_of_simulation(self.configs[1])
        columns = {'fact': _FACTS}
        for name, domain in {'images': images, **encoders, 'recipe': recipe}.items():
            white, depth = domain.correlation < _WHITE, domain.n_exposures
            columns[name] = [
                show_range(*domain.fwhm),
                show_range(*domain.psf_area),
                show_range(*domain.noise),
                'none' if white else f'up to {domain.correlation:.2g}',
                f'up to {domain.density[1]:.2g}',
                'not said' if depth is None else show_range(*depth),
            ]
        return Table(columns)


def make_recipe(images, *, names=None, n_exposures=None, stack=False, n_steps=None):
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
        One image or several; an iterator gives one at a time. An image of several bands
        is an `~bliss_astro.exposures.ExposureSet`, or a dict of images by band.

    names : list of str, optional
        Names of the images; of several bands dicts by band.

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
    sound = n_exposures is None or n_exposures >= 1
    require(sound, 'n_exposures', 'be at least 1', n_exposures)
    if not isinstance(images, list | tuple | Iterator):
        images = [images]
    start, facts = Encoder.from_pretrained(_START), []
    for k, image in enumerate(images):
        name = f'image {k + 1}' if names is None else names[k]
        for band, one in images_by_band(image).items():
            own = {'name': name, 'n_exposures': n_exposures, 'band': band}
            if band is not None:
                is_each = isinstance(name, Mapping)
                own['name'] = name[band] if is_each else f'{name}, {band}'
            facts.append(measure_facts(one, start, **own))
    require(facts, 'images', 'hold at least one image', 'none')
    if stack:
        bands = dict.fromkeys(part.band for part in facts)
        stacks = [[part for part in facts if part.band == band] for band in bands]
        if (least := min(map(len, stacks))) < 2:
            raise ValueError(f'stack needs two images or more, got {least}')
        facts = [stack_facts(parts) for parts in stacks]
    coverage = {name: _not_covered(name, facts) for name in ENCODERS.available()}
    return Recipe(facts, coverage, *choose_settings(facts, start, n_steps=n_steps))


def _not_covered(name, facts):
    """Properties of images outside of the domain of an encoder."""
    card = ENCODERS.read_card(name)
    domain, reasons = Domain.from_card(card), []
    bands = dict.fromkeys(part.band for part in facts if part.band is not None)
    if len(bands) > 1:
        seen = card.get('simulation', {}).get('bands') or ()
        if lacking := [band for band in bands if band not in seen]:
            trained = f'trained in {", ".join(seen)}' if seen else 'it sees one band'
            reasons.append(f'bands {", ".join(lacking)}, {trained}')
    for part in facts:
        which = '' if len(facts) == 1 else f'{part.name}: '
        for finding in domain_findings(domain, part.for_domain()):
            text = f'{finding.title} {finding.value}, trained on {finding.allowed}'
            reasons.append(which + text)
    if domain.flux_min is not None:
        reasons.append(
            f'trained for one flux floor, {domain.flux_min:g} electrons of an '
            'exposure, rather than for that at which detection looks'
        )
    return reasons


# -- expected time ---------------------------------------------------------------


def _time_training(configs, device, seconds):
    """
    Time some steps of a training of an encoder, of which nothing is kept.

    Steps go on for so many seconds; at least five are done, and a validation. Returned
    are (dict) the ``seconds`` of a whole training with their standard ``error``,
    ``step_seconds`` of a step and their number ``n_timed``, ``validation_seconds`` of a
    validation, and all of it as ``text``.
    """
    trainer = EncoderTrainer(configs, device=device)
    training = trainer.training
    # For numbers of steps and validations a GPU has to have finished.
    begun = time.perf_counter()
    float(trainer.advance()['loss'])
    clock, cpu = [time.perf_counter()], time.process_time()
    while len(clock) <= _MIN_STEPS or clock[-1] - begun < seconds:
        float(trainer.advance()['loss'])
        clock.append(time.perf_counter())
    share = (time.process_time() - cpu) / (clock[-1] - clock[0])
    # One batch gives the time of a validation.
    size = min(training.batch_size, training.n_validation)
    trainer.training = dataclasses.replace(training, n_validation=size)
    trainer.validate()
    validation = (time.perf_counter() - clock[-1]) * training.n_validation / size
    steps, n_steps = np.diff(clock), training.n_steps
    step, error = np.mean(steps), np.std(steps, ddof=1) / math.sqrt(len(steps))
    total = n_steps * step + math.ceil(n_steps / training.validate_every) * validation
    where, n_threads, note = str(trainer.device), torch.get_num_threads(), ''
    if trainer.device.type == 'cpu':
        where += f', {counted(n_threads, "thread")}'
        if share < _BUSY * n_threads:
            busy = 100 * share / n_threads
            note = f'; the machine is busy, and they had {busy:.0f} % of their time'
        note += '. On a GPU: not measured'
    return {
        'seconds': total,
        'error': n_steps * error,
        'step_seconds': step,
        'n_timed': len(steps),
        'validation_seconds': validation,
        'text': f'about {_duration(total)} (+- {_duration(n_steps * error)}) on this '
        f'machine ({where}), from {len(steps)} steps of {step:.3g} s{note}',
    }


def _duration(seconds):
    for unit, size in (('h', 3600), ('min', 60)):
        if seconds >= 1.5 * size:
            return f'{seconds / size:.{int(unit == "h")}f} {unit}'
    return f'{seconds:.0f} s'
