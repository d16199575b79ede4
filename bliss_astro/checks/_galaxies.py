# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxy shapes as nuisances of the check: first guess and refinement.

A galaxy is an exponential disk or a de Vaucouleurs bulge, whichever fits better, of
some half-light radius, axis ratio and angle.  A first guess is the best of
round profiles of a few radii; from there on shapes are drawn with fluxes and
positions, see `bliss_astro.checks._refine`.
"""

import numpy as np
import torch
from scipy.spatial import cKDTree

from bliss_astro.rendering import RenderingAccuracy, render_galaxies

from ._refine import SNR_MIN, Group
from ._residuals import Residuals
from ._source_statistics import stamp_pixels

__all__ = ['first_shapes', 'galaxy_groups']

# Semi-major half-light radii that are tried, in pixels; and that of galaxies too
# faint for a fit.
_RADII = (0.8, 1.6, 3.2, 6.4, 12.8)
_FAINT_RADIUS = 1.5
# From the first of these radii on stamps have the second half-side.
_LARGE, _LARGE_HALF = 4.0, 40
# Steps of the derivatives by logarithm of radius and ellipticities, the standard
# deviations of weak priors of both, and the limits of radius and ellipticity.
_LOG_STEP, _LEAN_STEP = 0.1, 0.05
_LOG_PRIOR, _LEAN_PRIOR = 0.7, 0.3
_RADIUS_LIMITS, _LEAN_LIMIT = (0.2, 60.0), 0.8
# Galaxies of different draws within so many pixels are the same.
_SAME = 3.0
_PIECE = 128


def _as_galaxy(is_disk, radius, lean1, lean2):
    """Six numbers of a galaxy of one component, array ``(N, 6)``."""
    lean = np.minimum(np.hypot(lean1, lean2), _LEAN_LIMIT)
    ratio = (1 - lean) / (1 + lean)
    angle = np.mod(0.5 * np.arctan2(lean2, lean1), np.pi)
    # The radius of a circle of the same area is what the data constrain.
    major = radius / np.sqrt(ratio)
    fraction = np.asarray(is_disk, dtype=float)
    return np.stack([fraction, angle, ratio, ratio, major, major], axis=-1)


def _as_parameters(galaxy):
    """Whether disks, and circular radii and ellipticities, of ``(N, 6)``."""
    is_disk = galaxy[:, 0] > 0.5
    ratio = np.where(is_disk, galaxy[:, 2], galaxy[:, 3])
    major = np.where(is_disk, galaxy[:, 4], galaxy[:, 5])
    lean = (1 - ratio) / (1 + ratio)
    angle = 2 * galaxy[:, 1]
    return (
        is_disk,
        major * np.sqrt(ratio),
        lean * np.cos(angle),
        lean * np.sin(angle),
    )


def _stamps(renderer, x, y, galaxy, rows, columns):
    """Images of galaxies of unit flux, float32 ``(N, P, P)``."""
    side = rows.shape[1]
    psf = renderer.shape_at(x, y)
    place = [x - columns[:, 0, 0], y - rows[:, 0, 0]]
    place = [torch.from_numpy(v.astype(np.float32))[:, None] for v in place]
    shape = torch.from_numpy(galaxy.astype(np.float32))[:, None]
    drawn = render_galaxies(
        psf,
        *place,
        torch.ones_like(place[0]),
        shape,
        size=(side, side),
        radius=renderer.radius,
        accuracy=RenderingAccuracy.training(),
    )
    return drawn.numpy()


class Galaxies(Group):
    """Galaxies: flux, position, logarithm of radius, and two ellipticities."""

    def __init__(self, sources, index, half):
        some = sources.select(index)
        self.is_disk, radius, lean1, lean2 = _as_parameters(some.galaxy)
        values = np.stack([some.flux, some.x, some.y, np.log(radius), lean1, lean2])
        slack = np.ones_like(values)
        slack[0], slack[3], slack[4:] = some.flux, _LOG_PRIOR, _LEAN_PRIOR
        super().__init__(index, values, slack, half)

    def shapes(self, values=None):
        """Six numbers of each galaxy."""
        values = self.values if values is None else values
        return _as_galaxy(self.is_disk, np.exp(values[3]), values[4], values[5])

    def _derivatives(self, renderer, rows, columns):
        flux, out = self.values[0], []
        for first in range(0, len(flux), _PIECE):
            part = slice(first, first + _PIECE)
            out.append(self._piece(renderer, rows[part], columns[part], part))
        out = np.concatenate(out, axis=1)
        out[1:] *= flux.astype(np.float32)[:, None, None]
        return out

    def _piece(self, renderer, rows, columns, part):
        x, y = self.values[1, part], self.values[2, part]
        steps = (_LOG_STEP, _LEAN_STEP, _LEAN_STEP)
        drawn = []
        for which, step in ((0, 0.0), *enumerate(steps, start=3)):
            values = self.values.copy()
            values[which] += step
            galaxy = self.shapes(values)[part]
            drawn.append(_stamps(renderer, x, y, galaxy, rows, columns))
        image = drawn[0]
        # A shift of the galaxy is one of its pixels the other way.
        shift_y, shift_x = (-np.gradient(image, axis=axis) for axis in (1, 2))
        slopes = [(d - image) / s for d, s in zip(drawn[1:], steps, strict=True)]
        return np.stack([image, shift_x, shift_y, *slopes])

    def move(self, step, errors):
        """Move the galaxies and change their shapes, not too much at once."""
        step = step.copy()
        step[3] = np.clip(step[3], -0.5, 0.5)
        step[4:] = np.clip(step[4:], -0.3, 0.3)
        super().move(step, errors)
        self.values[3] = np.clip(self.values[3], *np.log(_RADIUS_LIMITS))
        lean = np.hypot(*self.values[4:])
        self.values[4:] *= np.minimum(1, _LEAN_LIMIT / np.maximum(lean, 1e-6))

    def second_order(self):
        """Sigma of each source beyond the linear order of the last step, roughly."""
        snr = np.abs(self.values[0]) / self.errors[0]
        return super().second_order() + snr * np.square(self.step[3:]).sum(0)

    def put(self, sources):
        """Write the parameters into the sources."""
        super().put(sources)
        sources.galaxy[self.index] = self.shapes()


def galaxy_groups(sources, index, half):
    """
    Group galaxies by the size of their stamps.

    Parameters
    ----------
    sources : `~bliss_astro.rendering._scene.Sources`
        The draw.

    index : int `~numpy.ndarray`, shape (N,)
        Which of them.

    half : int
        Half the side of the stamp of a star, pixels.

    Returns
    -------
    groups : list of `Galaxies`
        Small ones and large ones, where there are any.
    """
    large = np.maximum(sources.galaxy[index, 4], sources.galaxy[index, 5]) > _LARGE
    halves = (half + 6, _LARGE_HALF)
    parts = (index[~large], index[large])
    return [
        Galaxies(sources, part, size)
        for part, size in zip(parts, halves, strict=True)
        if len(part)
    ]


def first_shapes(exposure, renderer, draws, kernel, half):
    """
    Give all galaxies a shape to begin with.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    renderer : `~bliss_astro.rendering._scene.ModelRenderer`
        Draws catalogues.

    draws : list of `~bliss_astro.rendering._scene.Sources`
        Catalogues of the image, changed in place.

    kernel : float `~numpy.ndarray`
        Correlation of the noise.

    half : int
        Half the side of the stamp of a star, pixels.
    """
    places, shapes = np.empty((0, 2)), np.empty((0, 6))
    for sources in draws:
        n = len(sources)
        faint = _as_galaxy(np.ones(n), np.full(n, _FAINT_RADIUS), np.zeros(n), 0.0)
        sources.galaxy = faint
        own = np.column_stack([sources.x, sources.y])
        index = np.nonzero(sources.is_galaxy)[0]
        if len(index) and len(places):
            apart, nearest = cKDTree(places).query(own[index])
            same = apart < _SAME
            sources.galaxy[index[same]] = shapes[nearest[same]]
            index = index[~same]
        if len(index):
            residuals = Residuals.of(exposure, renderer(sources), kernel)
            for first in range(0, len(index), _PIECE):
                part = index[first : first + _PIECE]
                _guess(residuals, renderer, sources, part, half + 6)
        places = np.concatenate([places, own[sources.is_galaxy]])
        shapes = np.concatenate([shapes, sources.galaxy[sources.is_galaxy]])


def _guess(residuals, renderer, sources, index, half):
    """The best of round profiles, for galaxies bright enough to distinguish them."""
    some = sources.select(index)
    rows, columns, at, use = stamp_pixels(residuals, some.x, some.y, half)
    n = len(index)
    weight = use / residuals.error[at]
    flux = some.flux[:, None, None]
    own = _stamps(renderer, some.x, some.y, some.galaxy, rows, columns) * weight
    data = residuals.ratio[at] * use + flux * own
    snr = some.flux * np.sqrt((own**2).sum((1, 2))) / np.sqrt(residuals.excess)
    best, chosen = np.full(n, np.inf), some.galaxy.copy()
    for is_disk in (True, False):
        for radius in _RADII:
            galaxy = _as_galaxy(
                np.full(n, is_disk), np.full(n, radius), np.zeros(n), 0.0
            )
            image = _stamps(renderer, some.x, some.y, galaxy, rows, columns) * weight
            # The flux is free within a factor of two.
            scale = (data * image).sum((1, 2)) / (image**2).sum((1, 2)).clip(1e-20)
            scale = np.clip(scale, 0.5 * some.flux, 2 * some.flux)[:, None, None]
            chi2 = ((data - scale * image) ** 2).sum((1, 2))
            better = (chi2 < best) & (snr > SNR_MIN)
            best = np.where(better, chi2, best)
            chosen[better] = galaxy[better]
    sources.galaxy[index] = chosen
