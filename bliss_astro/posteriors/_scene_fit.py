# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Least-squares fits of all sources of a scene in all bands, given their positions.

The light of the neighbours makes a blend hard.  Models of `fit_ellipses`
are fitted to all sources of a scene in turn, each to the pixels less the models of all
others, and a few rounds suffice (`fit_scene`).  Groups of sources whose stamps do not
overlap those of others can be fitted one after the other (`split_scenes`).
"""

import dataclasses

import numpy as np
import torch

from bliss_astro._threads import map_threads, split_work

from ._extended_fit import Ellipses, fit_ellipses, model_of
from ._grid import Rows
from ._star_fit import optimal_flux

# Half-size and side in pixels of the stamps.
STAMP_RADIUS = 12
_SIDE = 2 * STAMP_RADIUS + 1
# Share of each step that is taken: neighbours move at once, and whole steps of
# two that overlap would overshoot.
_DAMPING = 0.8
# How many stamps of one band a processor works on at once.
_PIECE = 512
# Sources that are fitted together, unless they overlap: each takes 40 kB meanwhile, in
# one band.
_GROUP = 1024
# Distance in pixels between scenes.
_FAR = 1e6


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
    """

    images: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    point: torch.Tensor | None = None
    active: torch.Tensor | None = None
    scenes: torch.Tensor | None = None

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

    Those of the whole scene and of the part of it that is not known to be stars are
    values of the pixels of a ``_Canvas`` in each band.
    """

    ellipses: Ellipses
    model: torch.Tensor
    extended: torch.Tensor
    canvas: '_Canvas'

    def put(self, index, ellipses):
        """Replace models of some sources."""

        def put(old, new):
            return old.index_copy(0, index, new)

        self.ellipses = self.ellipses._map(put, ellipses)


@dataclasses.dataclass
class _Canvas(Rows):
    """
    Pixels of scenes within squares that stamps of N sources touch, the same in a band.

    Images are large, and mostly empty. ``first`` ``(N, 2)`` are row and column of the
    first pixel of a stamp, ``squares`` ``(N, 2, 2)`` numbers of those it touches.
    """

    first: torch.Tensor
    squares: torch.Tensor
    n_pixels: int

    @classmethod
    def of(cls, pixels, sources):
        """Canvas of sources."""
        centre = pixels.centres(sources.x, sources.y, STAMP_RADIUS)
        first = torch.stack(centre[::-1], -1) + (pixels.pad - STAMP_RADIUS)
        scenes = sources.images if sources.scenes is None else sources.scenes
        rows, columns = (first // _SIDE).unbind(-1)
        # Each image has a row and a column more than its pixels need.
        n_rows, n_columns = (n // _SIDE + 2 for n in pixels.image.shape[2:])
        step = torch.arange(2, device=first.device)
        rows = (scenes * n_rows + rows)[:, None] + step
        number = rows[..., None] * n_columns + (columns[:, None] + step)[:, None]
        used, squares = number.unique(return_inverse=True)
        return cls(first, squares, len(used) * _SIDE**2)

    def index(self, index):
        """Numbers ``(n, P, P)`` of the pixels of stamps."""
        first, squares = self.first[index] % _SIDE, self.squares[index]
        place = first[..., None] + torch.arange(_SIDE, device=first.device)
        down, along = (place // _SIDE).unbind(1)
        rows, columns = (place % _SIDE).unbind(1)
        # Rows first, of both columns of squares, as few operations see all pixels.
        sides = len(squares), _SIDE
        number = (squares * _SIDE**2).gather(1, down[:, :, None].expand(*sides, 2))
        number += (rows * _SIDE)[:, :, None]
        number = number.gather(2, along[:, None].expand(*sides, _SIDE))
        return number.add_(columns[:, None])


def split_scenes(pixels, sources):
    """
    Indices of groups of sources whose stamps do not overlap those of other groups.

    A group has at most some thousand sources, or is one crowd.
    """
    n, device = len(sources), sources.x.device
    most = split_work(n, _GROUP // pixels.n_bands, device)[0].stop
    if n <= most:
        return [torch.arange(n, device=device)]
    from scipy.sparse import coo_array, csgraph
    from scipy.spatial import KDTree

    centre = pixels.centres(sources.x, sources.y, STAMP_RADIUS)
    scenes = sources.images if sources.scenes is None else sources.scenes
    place = torch.stack([*centre, scenes * _FAR], 1).cpu().double()
    pairs = KDTree(place).query_pairs(_SIDE - 0.5, p=np.inf, output_type='ndarray')
    links = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(n, n))
    _, crowd = csgraph.connected_components(links, directed=False)
    sizes = np.bincount(crowd)
    # The large ones first.
    rank = np.argsort(-sizes, kind='stable')
    group = np.empty_like(rank)
    group[rank] = (np.cumsum(sizes[rank]) - 1) // most
    group = group[crowd]
    order = np.argsort(group, kind='stable')
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    return [torch.from_numpy(own).to(device) for own in np.split(order, cuts)]


def _own_model(patches, ellipses, sources) -> torch.Tensor:
    """Images of the sources alone in units of the noise, ``(N, F, P, P)``."""
    unit = model_of(patches, ellipses, sources.x, sources.y)
    if sources.point is not None:
        point = patches.profile(sources.x, sources.y)
        unit = torch.where(sources.point[:, None, None, None], point, unit)
    own = ellipses.flux[..., None, None] * unit
    active = sources.active
    return own if active is None else own * active[:, None, None, None]


def _values(model, at):
    """Stamps ``(n, F, P, P)`` of models ``(F, pixels)``."""
    # In a fifth of the time of an index.
    parts = [band.index_select(0, at.view(-1)).view_as(at) for band in model]
    return torch.stack(parts, 1) if parts[1:] else parts[0][:, None]


def cleaned(pixels, fit, sources, index):
    """Stamps of sources without all others, and the light that was subtracted."""
    some = sources.select(index)
    n, place = pixels.last_of(some.images), (some.x, some.y)
    patches = pixels.patches(some.tiles, *place, STAMP_RADIUS, n)
    at = fit.canvas.index(index)
    own = _own_model(patches, fit.ellipses.select(index).in_bands(n), some)
    others, extended = (_values(v[:n], at) for v in (fit.model, fit.extended))
    others = others - own
    if some.point is not None:
        own = own * ~some.point[:, None, None, None]
    extended = extended - own
    patches.data = patches.data - others
    return patches, others * patches.good, extended * patches.good


class _Piece:
    """Known stars of a scene, or other sources of it, with their stamps and models."""

    def __init__(self, pixels, sources, canvas, index, floor, start, star):
        some, self.floor = sources.select(index), floor
        self.place, n = (some.x, some.y), pixels.last_of(some.images)
        self.patches = pixels.patches(some.tiles, *self.place, STAMP_RADIUS, n)
        self.at, self.index, self._image = canvas.index(index), index, None
        self.unit = self.patches.profile(*self.place) if star else None
        if start is None:
            self.ellipses = first_guess(self.patches, some, floor)
        else:
            self.ellipses = start.select(index).in_bands(n)
        # A crowd has all of its stamps at once: of their good pixels the quality alone.
        self.patches.quality, self.patches.good = self.patches.quality, None

    def draw(self):
        """Images of the sources alone."""
        if self.unit is None:
            unit = model_of(self.patches, self.ellipses, *self.place)
            self._image = self.ellipses.flux[..., None, None] * unit

    @property
    def image(self):
        """Images of the sources, stars from their profiles."""
        if self.unit is None:
            return self._image
        return self.ellipses.flux[..., None, None] * self.unit

    def step(self, model, star_shapes):
        """Fit each source to what all others leave."""
        others = _values(model[: self.patches.n_bands], self.at) - self.image
        old = self.ellipses
        alone, new = self.patches.with_data(self.patches.data - others), old
        if self.unit is None or star_shapes:
            given = alone, old, *self.place, self.floor
            new, _ = fit_ellipses(*given, n_iterations=1)
        flux = new.flux
        if self.unit is not None:
            flux, _, _ = optimal_flux(alone, self.unit, None, 2)
        # A scene has no light to give back.
        flux = torch.lerp(old.flux, flux, _DAMPING).clamp(min=0)
        self.ellipses = dataclasses.replace(new, flux=flux)


def _add(model, pieces):
    # One after the other: sums in an order that varies would round differently.
    for piece in pieces:
        for own, image in zip(model, piece.image.unbind(1), strict=False):
            own.scatter_add_(0, piece.at.view(-1), image.reshape(-1))
    return model


def fit_scene(pixels, sources, floor, *, start=None, n_rounds=4, star_shapes=True):
    """
    Fit the active sources of B images at given positions, of known stars the fluxes.

    Unless ``star_shapes``, ellipses of known stars stay what they are, as do those of
    other sources.
    """
    yes = torch.ones_like(sources.x, dtype=torch.bool)
    active = yes if sources.active is None else sources.active
    point = ~yes if sources.point is None else sources.point
    canvas = _Canvas.of(pixels, sources)

    def pieces(star):
        index = (active & (point == star)).nonzero()[:, 0]
        for n, some in pixels.alike(sources.images[index]):
            for k in split_work(len(some), _PIECE // n, floor.device):
                if len(own := index[some[k]]):
                    yield _Piece(pixels, sources, canvas, own, floor[own], start, star)

    galaxies, stars = ([*pieces(star)] for star in (False, True))
    every = galaxies + stars
    model = pixels.image.new_zeros(pixels.n_bands, canvas.n_pixels)
    for _ in range(n_rounds):
        map_threads(_Piece.draw, every)
        _add(model.zero_(), every)
        map_threads(lambda piece: piece.step(model, star_shapes), every)
    map_threads(_Piece.draw, every)
    extended = _add(model.zero_(), galaxies)
    model = _add(extended.clone(), stars) if stars else extended
    before = start
    if before is None:
        none = sources.x.new_zeros(len(sources), pixels.n_bands)
        before = Ellipses.round(none)
    fit = SceneFit(before, model, extended, canvas)
    if every:
        n, index = pixels.n_bands, torch.cat([piece.index for piece in every])
        fitted = [piece.ellipses.in_bands(n) for piece in every]
        fit.put(index, Ellipses.concatenate(fitted))
    return fit


def first_guess(patches, sources, floor):
    """Round ellipses as bright as the pixels of stamps are."""
    ellipses = Ellipses.round(torch.ones_like(patches.gain[..., 0, 0]))
    unit = model_of(patches, ellipses, sources.x, sources.y)
    weight = patches.good * unit
    norm = (weight * unit).sum((-2, -1)).clamp(min=1e-9)
    flux = (weight * patches.data).sum((-2, -1)) / norm
    return Ellipses.round(torch.maximum(flux, patches.of_bands(floor)))
