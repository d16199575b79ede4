# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Scene fits: all sources of an image fitted together, to separate each from the others.

The light of the neighbours makes a blend hard.  With the positions
given, blurred and stretched PSFs are fitted to all sources in turn, each to the
pixels less the models of all others, and a few rounds suffice.  The network's inputs
are then every source nearly by itself, and the light that was subtracted.
"""

import dataclasses

import torch

from ._extended_fit import Ellipses, fit_ellipses, model_of
from ._grid import Rows
from ._star_fit import flux_at

# Half-size in pixels of the stamps.
STAMP_RADIUS = 12
# Share of each step that is taken: neighbours move at once, and whole steps of
# two that overlap would overshoot.
_DAMPING = 0.8
# How many stamps are worked on at once.
_PIECE = 512


@dataclasses.dataclass
class SceneSources(Rows):
    """
    N sources of B images at given positions.

    Attributes
    ----------
    images, rows, columns : tensor ``(N,)`` of int
        The image, and the tile whose conditions hold.

    x, y : tensor ``(N,)``
        Positions in pixels.

    point : tensor ``(N,)`` of bool or None
        `True` for known stars.

    active : tensor ``(N,)`` of bool or None
        `True` for parts of the scene; the others are measured as if each
        alone were added to it.
    """

    images: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    point: torch.Tensor | None = None
    active: torch.Tensor | None = None

    def __len__(self):
        return len(self.x)

    @property
    def tiles(self):
        """Image, row and column of each source."""
        return self.images, self.rows, self.columns


@dataclasses.dataclass
class SceneFit:
    """
    Result of `fit_scene`.

    Attributes
    ----------
    ellipses : `Ellipses`
        Models of all sources.

    model, extended : tensor ``(B, ...)``
        The scene on the padded grid, and the part of it that is not known to
        be stars.
    """

    ellipses: Ellipses
    model: torch.Tensor
    extended: torch.Tensor


def _own_model(patches, ellipses, sources) -> torch.Tensor:
    """Images of the sources alone in units of the noise, ``(N, P, P)``."""
    unit = model_of(patches, ellipses, sources.x, sources.y, point=sources.point)
    own = ellipses.flux[:, None, None] * unit
    return own if sources.active is None else own * sources.active[:, None, None]


def _cut(pixels, image, patches, sources):
    at = (sources.images, patches.x.long(), patches.y.long(), STAMP_RADIUS)
    return pixels.cut(image, *at)


def cleaned(pixels, fit, sources, index):
    """Stamps of sources without all others, and the light that was subtracted."""
    some = sources.select(index)
    patches = pixels.patches(some.tiles, some.x, some.y, STAMP_RADIUS)
    own = _own_model(patches, fit.ellipses.select(index), some)
    others = _cut(pixels, fit.model, patches, some) - own
    extended = _cut(pixels, fit.extended, patches, some)
    if some.point is not None:
        own = own * ~some.point[:, None, None]
    extended = extended - own
    patches.data = patches.data - others
    return patches, others * patches.good, extended * patches.good


def _summed(pixels, stamps, images):
    """The scene on the padded grid, from images of its sources."""
    model = torch.zeros_like(pixels.image)
    for (_, some, patches), image in zip(stamps, images, strict=True):
        centre = patches.x.long(), patches.y.long()
        index = pixels.index(some.images, *centre, STAMP_RADIUS)
        # One after the other: sums in an order that varies would round differently.
        model.view(-1).index_add_(0, index.reshape(-1), image.reshape(-1))
    return model


def fit_scene(pixels, sources, floor, *, start=None, n_rounds=4):
    """Fit all sources of B images at given positions."""
    stamps = []
    for index in torch.arange(len(sources), device=floor.device).split(_PIECE):
        some = sources.select(index)
        patches = pixels.patches(some.tiles, some.x, some.y, STAMP_RADIUS)
        stamps.append((index, some, patches))
    ellipses = start
    if start is None:
        guesses = [first_guess(p, some, floor[index]) for index, some, p in stamps]
        ellipses = Ellipses.concatenate(guesses)
    for n_left in range(n_rounds, -1, -1):
        own = [_own_model(p, ellipses.select(k), some) for k, some, p in stamps]
        model = _summed(pixels, stamps, own)
        if not n_left:
            break
        parts = []
        for (index, some, patches), image in zip(stamps, own, strict=True):
            others = _cut(pixels, model, patches, some) - image
            alone = dataclasses.replace(patches, data=patches.data - others)
            parts.append(_one_step(alone, ellipses.select(index), some, floor[index]))
        ellipses = Ellipses.concatenate(parts)
    extended = model
    if sources.point is not None:
        pairs = zip(stamps, own, strict=True)
        own = [image * ~some.point[:, None, None] for (_, some, _), image in pairs]
        extended = _summed(pixels, stamps, own)
    return SceneFit(ellipses, model, extended)


def _one_step(patches, old, sources, floor):
    x, y = sources.x, sources.y
    new, _ = fit_ellipses(patches, old, x, y, floor, n_iterations=1)
    if sources.point is not None:
        flux, _, _ = flux_at(patches, x, y, n_iterations=1)
        new.flux = torch.where(sources.point, flux, new.flux)
    # A scene has no light to give back.
    new.flux = torch.lerp(old.flux, new.flux, _DAMPING).clamp(min=0)
    return new


def first_guess(patches, sources, floor):
    """Round ellipses as bright as the pixels of stamps are."""
    ellipses = Ellipses.round(torch.ones_like(sources.x))
    unit = model_of(patches, ellipses, sources.x, sources.y)
    weight = patches.good * unit
    norm = (weight * unit).sum((1, 2)).clamp(min=1e-9)
    flux = (weight * patches.data).sum((1, 2)) / norm
    return Ellipses.round(torch.maximum(flux, floor))
