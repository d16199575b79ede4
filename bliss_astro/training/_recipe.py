# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
An encoder for images of one's own: whether one is needed, and how to train it.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from bliss_astro._atomic import atomic_write
from bliss_astro.detection._domain import domain_findings
from bliss_astro.detection._facts import ImageFacts, stack_facts
from bliss_astro.detection._measure import measure_facts
from bliss_astro.encoders import Domain, Encoder, available_encoders

from ._domain import domain_of_simulation
from ._recipe_settings import RecipeSettings, choose_settings
from ._recipe_text import write_toml
from ._recipe_time import TrainingTime, time_training

__all__ = ['Coverage', 'Recipe', 'make_recipe']

# The encoder that is asked for densities, and to start from.
_START = 'stars'


@dataclasses.dataclass(frozen=True)
class Coverage:
    """
    Whether an encoder was trained on images like some given ones.

    Attributes
    ----------
    encoder : str
        Name of the encoder.

    reasons : tuple of str
        What of the images it was not trained on; empty if it covers them.

    domain : object
        The ranges that it was trained on; `None` if its card does not say them.
    """

    encoder: str
    reasons: tuple[str, ...] = ()
    domain: Domain | None = None

    @property
    def covers(self):
        """Whether it covers all of the images."""
        return not self.reasons


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """
    What some images are like, who covers them, and how to train an encoder.

    `make_recipe` makes one.

    Attributes
    ----------
    facts : list of `ImageFacts`
        What each image is like; of a stack, what it will be like.

    coverage : list of `Coverage`
        One for each bundled encoder.

    settings : `RecipeSettings`
        The configurations of the training, where their numbers come from and what
        is not simulated.

    time : `TrainingTime` or None
        The expected time, if it was measured.
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
        """The three configurations, as `~bliss_astro.encoders.train_encoder` takes."""
        settings = self.settings
        return settings.encoder, settings.simulation, settings.training

    @property
    def time_text(self):
        """The expected time of training in a sentence, without its full stop."""
        if self.time is None:
            return 'not measured'
        text = str(self.time)
        if not self.time.device.startswith('cuda'):
            text += '. On a GPU: not measured'
        return text

    @property
    def toml(self):
        """The configuration with comments, as `write` writes it."""
        names = ', '.join(Path(part.name).name for part in self.facts[:3])
        more = ', ...' if len(self.facts) > 3 else ''
        return write_toml(
            self.settings,
            self.facts,
            description=f'Stars; made for {names}{more}',
            time=self.time_text,
        )

    def write(self, path, *, overwrite=False):
        """
        Write the configuration, whole or not at all.

        Parameters
        ----------
        path : path_like
            A TOML file for `~bliss_astro.encoders.load_config` or
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

    def timed(self, *, device='cpu', seconds=6.0):
        """
        Measure how long the training will take, by doing a few of its steps.

        Parameters
        ----------
        device : str or `torch.device`, optional
            Where.

        seconds : float, optional
            Time after which no further step begins; at least five are done.

        Returns
        -------
        recipe : `Recipe`
            The same with its ``time``.
        """
        time = time_training(*self.configs, device=device, seconds=seconds)
        return dataclasses.replace(self, time=time)

    def table(self):
        """
        Tell the facts beside what each bundled encoder was trained on.

        Returns
        -------
        table : `~astropy.table.Table`
            A row a fact; the columns are ``fact``, ``images`` (their range), and one
            for each bundled encoder and for the ``recipe``.
        """
        from astropy.table import Table

        columns = {'fact': list(_ROWS), 'images': _own_column(self.facts)}
        for found in self.coverage:
            columns[found.encoder] = _domain_column(found.domain)
        own = domain_of_simulation(self.settings.simulation)
        columns['recipe'] = _domain_column(own)
        return Table(columns)


_ROWS = (
    'PSF FWHM (px)',
    'PSF effective area (px2)',
    'noise of the sky (electrons)',
    'noise correlation, x and y',
    'sources per pixel',
    'exposures',
)


def _show(pair, digits=3):
    low, high = (f'{value:.{digits}g}' for value in pair)
    return low if low == high else f'{low} to {high}'


def _union(pairs):
    low, high = zip(*pairs, strict=True)
    return min(low), max(high)


def _own_column(facts):
    depth = [part.n_exposures for part in facts if part.n_exposures is not None]
    x, y = zip(*(part.correlation for part in facts), strict=True)
    return [
        _show(_union(part.fwhm for part in facts)),
        _show(_union(part.psf_area for part in facts)),
        _show(_union(part.noise for part in facts)),
        f'{_decimals(x)}, {_decimals(y)}',
        _show(_union(part.density for part in facts), 2),
        _show(_union(depth)) if depth else 'not said',
    ]


def _decimals(values):
    low, high = f'{min(values):.2f}', f'{max(values):.2f}'
    return low if low == high else f'{low} to {high}'


def _domain_column(domain):
    if domain is None:
        return ['not said'] * len(_ROWS)
    return [
        _show(domain.fwhm),
        _show(domain.psf_area),
        _show(domain.noise),
        'none' if domain.correlation < 0.05 else f'up to {domain.correlation:g}',
        f'up to {domain.density[1]:.2g}',
        _show(domain.n_exposures),
    ]


def make_recipe(
    images,
    *,
    names=None,
    n_exposures=None,
    stack=False,
    n_steps=None,
):
    """
    Find out whether a bundled encoder covers some images, or how to train one.

    The PSF, the noise and its correlation, the depth and the density of the
    sources are measured, or taken from the images where they say it, as
    `~bliss_astro.detection.detect_sources` does. Ranges over the images,
    widened by stated margins, become the settings of a training. `Recipe.timed`
    measures how long that will take.

    Parameters
    ----------
    images : `~bliss_astro.exposures.Exposure`, NDData, Quantity, array, or list
        One image or several; an iterator is asked for one at a time.

    names : list of str, optional
        What to call them, one for each.

    n_exposures : int, optional
        Depth of the images, where they are coadds that do not say it.

    stack : bool, optional
        Make the recipe for the coadd of the images instead of the images.

    n_steps : int, optional
        Steps of the training; by default as the bundled encoder's, or a quarter of
        them where it starts from those weights.

    Returns
    -------
    recipe : `Recipe`
        The facts, the judgement and the configuration.

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
    >>> coadd, truth = CoaddSimulator(5).simulate(rng=1)
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
    encoders = [Encoder.from_pretrained(name) for name in available_encoders()]
    return Recipe(
        facts=facts,
        coverage=[_judge(encoder, facts) for encoder in encoders],
        settings=choose_settings(facts, start, n_steps=n_steps),
    )


def _reason(finding, part, domain):
    if finding.name == 'psf_area':
        # In the terms of the table.
        return (
            f'PSF effective area {_show(part.psf_area)} px2, trained on '
            f'{_show(domain.psf_area)}'
        )
    return f'{finding.title} {finding.value}, trained on {finding.allowed}'


def _judge(encoder, facts):
    domain = Domain.of(encoder)
    if domain is None:
        return Coverage(encoder.name, ('its card does not say what it was trained on',))
    reasons = []
    for part in facts:
        where = '' if len(facts) == 1 else f'{part.name}: '
        reasons += [
            where + _reason(finding, part, domain)
            for finding in domain_findings(domain, part.for_domain())
        ]
    if domain.flux_min is not None:
        reasons.append(
            f'trained for one flux floor, {domain.flux_min:g} electrons of an '
            'exposure, rather than for that at which detection looks'
        )
    return Coverage(encoder.name, tuple(reasons), domain)
