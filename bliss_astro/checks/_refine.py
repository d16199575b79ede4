# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Refined draws: fluxes, positions and shapes of bright sources by least squares.

A network's draws of a bright star, above all of one with neighbours, may be wider
than the data demand: a thousandth of its light is many sigma.  The check is whether
*some* catalogue of the drawn sources explains the image, so fluxes and positions of
the brighter ones, and shapes of galaxies, are fitted all together by least squares on
data to which a second noise is added.  That is an exact draw of a linear model with a
flat prior (Papandreou & Yuille 2010, NIPS 23, 1858), so the residuals keep the
distribution of the noise.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg
from scipy.spatial import cKDTree

from bliss_astro.coadds._noise import correlated_noise
from bliss_astro.psf._mixture import profile_with_gradient
from bliss_astro.units import FWHM_PER_SIGMA

from ._residuals import Residuals
from ._source_statistics import stamp_pixels

__all__ = ['SNR_MIN', 'Group', 'Refined', 'refine']

SNR_MIN = 8.0
"""Signal-to-noise ratio of the sources that are fitted; others stay as drawn."""

# Largest number of sources that are fitted, the brightest.
_MAX_SOURCES = 4000
# The most rounds of linearisation: the first for all sources, the others for those
# of which the last one left so many sigma of second order, and those around.
_N_ROUNDS, _SETTLED = 6, 0.5
# Largest step in pixels, and standard deviations of a weak prior about the draw: of
# positions in pixels, and of fluxes as a share of them.
_MAX_STEP = 0.7
_PLACE_PRIOR, _FLUX_PRIOR = 1.0, 1.0
# Standard deviation in pixels of a narrow PSF.
_NARROW = 1.3
# Tolerance and largest number of steps of the conjugate gradients, preconditioned by
# sources without neighbours.
_TOLERANCE, _MAX_STEPS = 1e-5, 300


@dataclass
class Refined:
    """
    A draw after it was refined.

    Attributes
    ----------
    sources : `~bliss_astro.rendering._scene.Sources`
        The sources.

    model : float32 `~numpy.ndarray`, shape (ny, nx)
        Their light.

    pulls : float `~numpy.ndarray`, shape (3, M)
        Steps of flux, x and y of the stars that were refined, in units of the
        difference of two draws from the same posterior.
    """

    sources: object
    model: np.ndarray
    pulls: np.ndarray


class Group:
    """
    Sources of one kind that are refined together with all others.

    Parameters
    ----------
    index : int `~numpy.ndarray`, shape (N,)
        Rows of the draw.

    values : float `~numpy.ndarray`, shape (K, N)
        Their parameters, flux and position first.

    slack : float `~numpy.ndarray`, shape (K, N)
        Standard deviations of a weak prior about them.

    half : int
        Half the side of their stamps, pixels.
    """

    def __init__(self, index, values, slack, half):
        self.index, self.values, self.slack, self.half = index, values, slack, half
        self.drawn = values.copy()
        self.errors, self.step = np.ones_like(values), np.zeros_like(values)

    def part(self, keep):
        """Some of the sources, by a mask of them."""
        group = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(group, name, value[..., keep])
        return group

    def replace(self, keep, group):
        """Take over the fit of a part."""
        for name in ('values', 'errors', 'step'):
            getattr(self, name)[:, keep] = getattr(group, name)

    def columns(self, residuals, renderer):
        """Derivatives of the image ``(K, N, P P)`` over the noise, and flat pixels."""
        x, y = self.values[1:3]
        rows, columns, at, use = stamp_pixels(residuals, x, y, self.half)
        values = self._derivatives(renderer, rows, columns)
        values = values * (use / residuals.error[at])
        pixels = np.where(use, at[0] * residuals.ratio.shape[1] + at[1], -1)
        return values.reshape(*self.values.shape, -1), pixels.reshape(len(x), -1)

    def move(self, step, errors):
        """Move the sources by a step ``(K, N)``, not too far at once."""
        step = step.copy()
        step[1:3] = np.clip(step[1:3], -_MAX_STEP, _MAX_STEP)
        self.values = self.values + step
        self.values[0] = np.maximum(self.values[0], 0.02 * self.drawn[0])
        self.errors, self.step = errors, step

    def second_order(self):
        """Sigma of each source beyond the linear order of the last step, roughly."""
        snr = np.abs(self.values[0]) / self.errors[0]
        # In widths of the narrowest PSF that there is.
        away = np.hypot(*self.step[1:3]) / _NARROW
        brighter = np.abs(self.step[0] / self.values[0])
        return snr * away * (0.5 * away + brighter)

    def put(self, sources):
        """Write the parameters into the sources."""
        sources.flux[self.index] = self.values[0]
        sources.x[self.index], sources.y[self.index] = self.values[1:3]


class Stars(Group):
    """Stars: flux and position."""

    def __init__(self, sources, index, half):
        some = sources.select(index)
        place = np.full(len(index), _PLACE_PRIOR)
        slack = np.stack([_FLUX_PRIOR * some.flux, place, place])
        super().__init__(index, np.stack([some.flux, some.x, some.y]), slack, half)

    def _derivatives(self, renderer, rows, columns):
        flux, x, y = self.values
        dx, dy = torch.broadcast_tensors(
            torch.from_numpy((columns - x[:, None, None]).astype(np.float32)),
            torch.from_numpy((rows - y[:, None, None]).astype(np.float32)),
        )
        shape = renderer.shape_at(x, y)[:, None, None]
        parts = profile_with_gradient(shape, dx, dy, radius=renderer.radius)
        values = torch.stack(parts).numpy()
        values[1:] *= flux.astype(np.float32)[:, None, None]
        return values


def refine(exposure, renderer, sources, kernel, *, fwhm, rng):
    """
    Fit the brighter sources of a draw to the image.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    renderer : `~bliss_astro.rendering._scene.ModelRenderer`
        Renderer of catalogues.

    sources : `~bliss_astro.rendering._scene.Sources`
        The draw; its galaxies have shapes.

    kernel : float `~numpy.ndarray`
        Correlation of the noise.

    fwhm : float
        Full width at half maximum of the PSF in pixels.

    rng : `numpy.random.Generator`
        For the second noise.

    Returns
    -------
    refined : `Refined`
        The draw, refined.
    """
    sources = sources.copied()
    model = renderer(sources)
    residuals = Residuals.of(exposure, model, kernel)
    half = int(np.clip(np.ceil(2.5 * fwhm), 6, 20))
    groups = _groups(residuals, sources, renderer, half)
    if not groups:
        return Refined(sources, model, np.empty((3, 0)))
    noise = correlated_noise(exposure.shape, kernel, rng).astype(np.float32)
    for k in range(_N_ROUNDS):
        active = _active(groups, everything=k == 0)
        parts = [group.part(keep) for group, keep in zip(groups, active, strict=True)]
        parts = [part for part in parts if len(part.index)]
        if not parts:
            break
        moved = np.concatenate([part.index for part in parts])
        if k:
            model -= renderer(sources.select(moved))
        target = (residuals.ratio + noise) * residuals.good
        _step(parts, target, residuals, renderer)
        for part in parts:
            part.put(sources)
        if k:
            model += renderer(sources.select(moved))
        else:
            model = renderer(sources)
        residuals = Residuals.of(exposure, model, kernel)
        left = iter(parts)
        for group, keep in zip(groups, active, strict=True):
            if keep.any():
                group.replace(keep, next(left))
    # Both the network's draw and this one scatter about the truth.
    factor = residuals.gaussian_excess(fwhm / FWHM_PER_SIGMA)
    pulls = [
        ((g.drawn - g.values) / (np.sqrt(2 * factor) * g.errors))[:3]
        for g in groups
        if isinstance(g, Stars)
    ]
    return Refined(sources, model, np.concatenate([np.empty((3, 0)), *pulls], axis=1))


def _groups(residuals, sources, renderer, half):
    """The brighter sources, by kind."""
    index = sources.brightest(residuals.ratio.shape, _MAX_SOURCES)
    if len(index) == 0:
        return []
    values, _ = Stars(sources, index, half).columns(residuals, renderer)
    snr = np.sqrt((values[0] ** 2).sum(1)) * sources.flux[index]
    index = index[snr > SNR_MIN * np.sqrt(residuals.excess)]
    # Neighbours in the image are neighbours in memory.
    cells = sources.y[index] // (2 * half), sources.x[index] // (2 * half)
    index = index[np.lexsort(cells[::-1])]
    stars, galaxies = (
        index[sources.is_galaxy[index] == which] for which in (False, True)
    )
    groups = [Stars(sources, stars, half)] if len(stars) else []
    if len(galaxies):
        from ._galaxies import galaxy_groups

        groups += galaxy_groups(sources, galaxies, half)
    return groups


def _active(groups, *, everything):
    """Which sources of each group move in this round."""
    if everything:
        return [np.ones(len(group.index), dtype=bool) for group in groups]
    moving = [group.second_order() > _SETTLED for group in groups]
    places = [g.values[1:3, m].T for g, m in zip(groups, moving, strict=True)]
    places = np.concatenate(places)
    if len(places) == 0:
        return moving
    tree = cKDTree(places)
    return [
        tree.query(group.values[1:3].T, distance_upper_bound=group.half)[0] < np.inf
        for group in groups
    ]


def _step(groups, target, residuals, renderer):
    """One step of least squares for all sources together."""
    data, indices, lengths, right, blocks = [], [], [], [], []
    norms, ridges = [], []
    for group in groups:
        values, pixels = group.columns(residuals, renderer)
        norm = np.maximum(np.sqrt((values**2).sum(2, dtype=float)), 1e-20)
        values = (values / norm[..., None]).astype(np.float32)
        # Column by column, so that no sorting is needed.
        use = np.broadcast_to(pixels >= 0, values.shape)
        data.append(values[use])
        indices.append(np.broadcast_to(pixels, values.shape)[use])
        lengths.append(use.sum(2).ravel())
        ridge = 1 / (norm * group.slack) ** 2
        right.append((-ridge * norm * (group.values - group.drawn)).ravel())
        blocks.append(_inverse_blocks(values, ridge))
        norms.append(norm)
        ridges.append(ridge.ravel())
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    n = len(starts) - 1
    # Only the pixels that are seen count.
    indices = np.concatenate(indices)
    seen = np.zeros(target.size, dtype=bool)
    seen[indices] = True
    number = np.cumsum(seen, dtype=np.int32) - 1
    jacobian = sparse.csc_matrix(
        (np.concatenate(data), number[indices], starts), shape=(number[-1] + 1, n)
    )
    right = np.concatenate(right) + jacobian.T @ target.ravel()[seen]
    matrix = jacobian.T @ jacobian + sparse.diags(np.concatenate(ridges))
    alone = linalg.LinearOperator((n, n), lambda v: _alone(blocks, v), dtype=float)
    step, _ = linalg.cg(
        matrix.tocsr(), right, rtol=_TOLERANCE, maxiter=_MAX_STEPS, M=alone
    )
    first = 0
    for group, norm, block in zip(groups, norms, blocks, strict=True):
        part = step[first : first + norm.size].reshape(norm.shape)
        errors = np.sqrt(np.diagonal(block, axis1=1, axis2=2)).T
        group.move(part / norm, errors / norm)
        first += norm.size


def _inverse_blocks(values, ridge):
    """Covariance of the parameters of each source by itself, ``(N, K, K)``."""
    values = values.transpose(1, 0, 2)
    gram = (values @ values.transpose(0, 2, 1)).astype(float)
    diagonal = np.arange(gram.shape[1])
    gram[:, diagonal, diagonal] += ridge.T
    return np.linalg.inv(gram)


def _alone(blocks, vector):
    """Solve for each source as if it had no neighbours."""
    out, first = np.empty_like(vector), 0
    for block in blocks:
        n, k, _ = block.shape
        part = vector[first : first + n * k].reshape(k, n)
        solved = np.einsum('nij,jn->in', block, part)
        out[first : first + n * k] = solved.ravel()
        first += n * k
    return out
