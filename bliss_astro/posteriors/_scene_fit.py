# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Least-squares fits of all sources of a scene, given their positions.

The light of the neighbours makes a blend hard.  Models of `fit_ellipses`
are fitted to all sources of a scene in turn, each to the pixels less the models of all
others, and a few rounds suffice (`fit_scene`).
"""

import dataclasses

import torch

from bliss_astro._threads import map_threads, split_work

from ._extended_fit import Ellipses, fit_ellipses, model_of
from ._grid import Rows
from ._star_fit import optimal_flux

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

    scenes : tensor ``(N,)`` of int or None
        The scene of each source, of which there may be several an image; by default
        the image.

    n_scenes : int or None
        Their number.
    """

    images: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    point: torch.Tensor | None = None
    active: torch.Tensor | None = None
    scenes: torch.Tensor | None = None
    n_scenes: int | None = None

    def __len__(self):
        return len(self.x)

    @property
    def tiles(self):
        """Image, row and column of each source."""
        return self.images, self.rows, self.columns


@dataclasses.dataclass
class SceneFit:
    """
    Result of `fit_scene`: models of all sources, and images of them.

    Those of the whole scene and of the part of it that is not known to be stars are on
    the padded grid.
    """

    ellipses: Ellipses
    model: torch.Tensor
    extended: torch.Tensor


def _own_model(patches, ellipses, sources, points=None) -> torch.Tensor:
    """
    Images of the sources alone in units of the noise, ``(N, P, P)``.

    ``points`` are images of unit flux of the sources as stars, where these are known.
    """
    if sources.point is None:
        unit = model_of(patches, ellipses, sources.x, sources.y)
    else:
        unit = patches.profile(sources.x, sources.y) if points is None else points
        at = (~sources.point).nonzero()[:, 0]
        if len(at):
            others = (v.select(at) for v in (patches, ellipses))
            galaxies = model_of(*others, sources.x[at], sources.y[at])
            unit = unit.index_copy(0, at, galaxies)
    own = ellipses.flux[:, None, None] * unit
    return own if sources.active is None else own * sources.active[:, None, None]


def _stamps(pixels, sources, index):
    """Some of the sources, their stamps, and indices of these in flattened images."""
    some = sources.select(index)
    patches = pixels.patches(some.tiles, some.x, some.y, STAMP_RADIUS)
    centre = patches.x.long(), patches.y.long()
    scenes = some.images if some.scenes is None else some.scenes
    return some, patches, pixels.index(scenes, *centre, STAMP_RADIUS)


def cleaned(pixels, fit, sources, index):
    """Stamps of sources without all others, and the light that was subtracted."""
    some, patches, at = _stamps(pixels, sources, index)
    own = _own_model(patches, fit.ellipses.select(index), some)
    others, extended = fit.model.view(-1)[at] - own, fit.extended.view(-1)[at]
    if some.point is not None:
        own = own * ~some.point[:, None, None]
    extended = extended - own
    patches.data = patches.data - others
    return patches, others * patches.good, extended * patches.good


def _summed(pixels, n_scenes, stamps, images):
    """The scenes on the padded grid, from images of their sources."""
    n_images, _, *shape = pixels.image.shape
    model = pixels.image.new_zeros(n_scenes or n_images, *shape)
    for (*_, at), image in zip(stamps, images, strict=True):
        # One after the other: sums in an order that varies would round differently.
        model.view(-1).index_add_(0, at.reshape(-1), image.reshape(-1))
    return model


def fit_scene(pixels, sources, floor, *, start=None, n_rounds=4):
    """Fit all sources of B images at given positions."""
    pieces = split_work(len(sources), _PIECE, floor.device)
    stamps = [(index, *_stamps(pixels, sources, index)) for index in pieces]
    ellipses = start
    if start is None:
        guesses = [first_guess(p, some, floor[k]) for k, some, p, _ in stamps]
        ellipses = Ellipses.concatenate(guesses)
    points = [None] * len(stamps)
    if sources.point is not None:
        points = [p.profile(some.x, some.y) for _, some, p, _ in stamps]
    work = list(zip(stamps, points, strict=True))

    def draw(part):
        (index, some, patches, _), unit = part
        return _own_model(patches, ellipses.select(index), some, unit)

    def step(part):
        ((index, some, patches, at), unit), image = part
        alone = patches.with_data(patches.data - (model.view(-1)[at] - image))
        return _one_step(alone, ellipses.select(index), some, floor[index], unit)

    for n_left in range(n_rounds, -1, -1):
        own = map_threads(draw, work)
        model = _summed(pixels, sources.n_scenes, stamps, own)
        if n_left:
            parts = map_threads(step, zip(work, own, strict=True))
            ellipses = Ellipses.concatenate(parts)
    extended = model
    if sources.point is not None:
        pairs = zip(stamps, own, strict=True)
        own = [image * ~some.point[:, None, None] for (_, some, *_), image in pairs]
        extended = _summed(pixels, sources.n_scenes, stamps, own)
    return SceneFit(ellipses, model, extended)


def _one_step(patches, old, sources, floor, points):
    new, _ = fit_ellipses(patches, old, sources.x, sources.y, floor, n_iterations=1)
    if sources.point is not None and len(at := sources.point.nonzero()[:, 0]):
        flux, _, _ = optimal_flux(patches.select(at), points[at], None, 2)
        new.flux[at] = flux
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
