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

Shapes of galaxies are nuisances: an exponential disk or a de Vaucouleurs bulge,
whichever fits better, of some radius, axis ratio and angle; the first guess is the best
of round profiles of a few radii.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree

from bliss_astro.coadds._noise import correlated_noise
from bliss_astro.rendering import RenderingAccuracy, render_galaxies
from bliss_astro.units import FWHM_PER_SIGMA

from ._residuals import Residuals, Stamps, stamp_half

# Signal-to-noise ratio of the sources that are fitted, others stay as drawn; and the
# largest number of those, the brightest.
_SNR_MIN, _MAX_SOURCES = 8.0, 4000
# The most rounds of linearisation: the first for all sources, the others for those
# of which the last one left so many sigma of second order, and those around.
_N_ROUNDS, _SETTLED = 6, 0.5
# Parameters: flux, x and y in pixels, and of galaxies the logarithm of the circular
# half-light radius and two ellipticities. Largest steps, standard deviations of weak
# priors about the draw (of the flux as a share), and steps of numerical derivatives.
_MAX_STEP = np.array([np.inf, 0.7, 0.7, 0.5, 0.3, 0.3])
_PRIOR = np.array([1.0, 1.0, 1.0, 0.7, 0.3, 0.3])
_DERIVATIVE = (0.1, 0.05, 0.05)
# Limits of radius in pixels and ellipticity.
_RADIUS_LIMITS, _ELLIPTICITY_LIMIT = (0.2, 60.0), 0.8
# From the first of these radii on stamps of galaxies have the second half-side; those
# of smaller ones are so much wider than those of stars.
_LARGE, _LARGE_HALF, _WIDER = 4.0, 40, 6
# Radii that are tried, and that of galaxies too faint for a fit.
_RADII, _FAINT_RADIUS = (0.8, 1.6, 3.2, 6.4, 12.8), 1.5
# Galaxies of different draws within so many pixels are the same.
_SAME = 3.0
# Galaxies that are worked on at once.
_PIECE = 128
# Standard deviation in pixels of a narrow PSF.
_NARROW = 1.3
# Tolerance and largest number of steps of the conjugate gradients.
_TOLERANCE, _MAX_STEPS = 1e-5, 300


class Refined(NamedTuple):
    """
    Sources of a draw after it was refined, their light, and how far they moved.

    ``pulls`` ``(3, M)`` are the steps of flux, x and y of stars in units of the
    difference of two draws from the same posterior.
    """

    sources: object
    model: np.ndarray
    pulls: np.ndarray


def refine(exposure, renderer, sources, kernel, *, fwhm, rng):
    """Fit the brighter sources of a draw, whose galaxies are round, to the image."""
    sources = sources.copied()
    model = renderer(sources)
    residuals = Residuals.of(exposure, model, kernel)
    half = stamp_half(fwhm)
    halves = np.array([half, half + _WIDER, _LARGE_HALF])
    index = _bright_sources(residuals, sources, renderer, half)
    if len(index) == 0:
        return Refined(sources, model, np.empty((3, 0)))
    some = sources.select(index)
    kind, shapes, is_disk = some.is_galaxy.astype(int), np.zeros((3, len(some))), None
    if kind.any():
        is_disk, radius = some.galaxy[:, 0] > 0, some.galaxy[:, 4]
        kind += some.is_galaxy & (radius > _LARGE)
        shapes[0] = np.log(radius)
    values = np.stack([some.flux, some.x, some.y, *shapes])
    fit = _Fit(renderer, values, kind, is_disk, halves)
    noise = correlated_noise(exposure.shape, kernel, rng).astype(np.float32)
    active = np.ones(len(index), dtype=bool)
    for k in range(_N_ROUNDS):
        if k:
            active = fit.unsettled()
            if not active.any():
                break
            model -= renderer(sources.select(index[active]))
        fit.step((residuals.ratio + noise) * residuals.good, residuals, active)
        fit.write(sources, index)
        if k:
            model += renderer(sources.select(index[active]))
        else:
            model = renderer(sources)
        residuals = Residuals.of(exposure, model, kernel)
    # Both the network's draw and this one scatter about the truth.
    factor = np.sqrt(2 * residuals.gaussian_excess(fwhm / FWHM_PER_SIGMA))
    pulls = (fit.drawn - fit.values) / (factor * fit.errors)
    return Refined(sources, model, pulls[:3, kind == 0])


def _bright_sources(residuals, sources, renderer, half):
    """Rows of the sources that are fitted."""
    index = sources.brightest(residuals.shape, _MAX_SOURCES)
    some = sources.select(index)
    stamps = Stamps(residuals, some.x, some.y, half)
    profile = _star_profile(renderer, some.x, some.y, stamps)[0].numpy()
    snr = np.sqrt(np.square(profile * stamps.weight).sum((1, 2))) * some.flux
    return index[snr > _SNR_MIN * np.sqrt(residuals.excess)]


def _star_profile(renderer, x, y, stamps):
    """Stars of unit flux and their derivatives by x and y, three ``(N, P, P)``."""
    psf = renderer.psf_at(x, y)[:, None, None]
    return psf(stamps.dx, stamps.dy, gradient=True)


class _Fit:
    """
    Parameters ``(6, N)`` of sources of three kinds: stars, small and large galaxies.

    Stamps of each kind have their own half-side.
    """

    def __init__(self, renderer, values, kind, is_disk, halves):
        self.renderer, self.kind, self.halves = renderer, kind, halves
        self.is_disk = is_disk
        self.drawn, self.values = values.copy(), values
        self.prior = np.repeat(_PRIOR[:, None], values.shape[1], axis=1)
        self.prior[0] *= values[0]
        self.errors, self.change = np.ones_like(values), np.zeros_like(values)

    def unsettled(self):
        """Sources that are still moving, and those around."""
        snr = np.abs(self.values[0]) / self.errors[0]
        # In widths of the narrowest PSF that there is.
        away = np.hypot(*self.change[1:3]) / _NARROW
        brighter = np.abs(self.change[0] / self.values[0])
        shape = np.square(self.change[3:]).sum(0)
        # Sigma beyond the linear order of the last step, roughly.
        moving = snr * (away * (0.5 * away + brighter) + shape) > _SETTLED
        places = self.values[1:3].T
        apart, _ = cKDTree(places[moving]).query(places)
        return apart < self.halves[self.kind]

    def step(self, target, residuals, active):
        """Take one step of least squares for all active sources together."""
        groups = [np.flatnonzero(active & (self.kind == k)) for k in range(3)]
        groups = [group for group in groups if len(group)]
        parts = [self._normal_parts(group, residuals) for group in groups]
        data, indices, lengths, right, errors, norms = zip(*parts, strict=True)
        starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        jacobian = sparse.csc_array(
            (np.concatenate(data), np.concatenate(indices), starts),
            shape=(target.size, len(starts) - 1),
        )
        ridge, pull = np.concatenate(right, axis=1)
        matrix = (jacobian.T @ jacobian + sparse.diags_array(ridge)).tocsr()
        pull = pull + jacobian.T @ target.ravel()
        found, first = cg(matrix, pull, rtol=_TOLERANCE, maxiter=_MAX_STEPS)[0], 0
        self.change[:, active] = 0
        for group, norm, error in zip(groups, norms, errors, strict=True):
            step = found[first : first + norm.size].reshape(norm.shape) / norm
            own = np.s_[: norm.shape[1], group]
            self.change[own], self.errors[own] = step.T, error.T
            first += norm.size
        limits = _MAX_STEP[:, None]
        self.change = np.clip(self.change, -limits, limits)
        self.values[:, active] += self.change[:, active]
        self.values[0] = np.maximum(self.values[0], 0.02 * self.drawn[0])
        self.values[3] = np.clip(self.values[3], *np.log(_RADIUS_LIMITS))
        ellipticity = np.hypot(*self.values[4:]).clip(_ELLIPTICITY_LIMIT)
        self.values[4:] *= _ELLIPTICITY_LIMIT / ellipticity

    def _normal_parts(self, group, residuals):
        """Columns of the Jacobian of a group, of unit length, and its equations."""
        kind = self.kind[group[0]]
        x, y = self.values[1:3, group]
        stamps = Stamps(residuals, x, y, self.halves[kind])
        if kind:
            values = self._galaxies(group, stamps)
        else:
            values = torch.stack(_star_profile(self.renderer, x, y, stamps)).numpy()
        values[1:] *= self.values[0, group].astype(np.float32)[:, None, None]
        n = len(values)
        values = (values * stamps.weight).reshape(n, len(group), -1).swapaxes(0, 1)
        norm = np.sqrt(np.square(values).sum(2, dtype=float)).clip(1e-20)
        values = (values / norm[..., None]).astype(np.float32)
        # Column by column, so that no sorting is needed.
        use = np.broadcast_to(stamps.use.reshape(len(group), 1, -1), values.shape)
        pixels = stamps.at[0] * residuals.shape[1] + stamps.at[1]
        pixels = np.broadcast_to(pixels.reshape(len(group), 1, -1), values.shape)
        ridge = (norm * self.prior[:n, group].T) ** -2.0
        away = norm * (self.values - self.drawn)[:n, group].T
        gram = (values @ values.swapaxes(1, 2)).astype(float)
        gram[:, np.arange(n), np.arange(n)] += ridge
        right = np.stack([ridge.ravel(), (-ridge * away).ravel()])
        # Of sources without neighbours.
        errors = np.sqrt(np.diagonal(np.linalg.inv(gram), axis1=1, axis2=2)) / norm
        return values[use], pixels[use], use.sum(2).ravel(), right, errors, norm

    def _galaxies(self, group, stamps):
        """Galaxies of unit flux and derivatives by parameters, ``(6, N, P, P)``."""
        values, drawn = self.values[:, group], []
        for which, step in ((3, 0.0), *enumerate(_DERIVATIVE, start=3)):
            moved = values.copy()
            moved[which] += step
            galaxy = _as_galaxy(self.is_disk[group], moved[3:])
            drawn.append(_draw(self.renderer, *values[1:3], galaxy, stamps))
        image = drawn[0]
        # A shift of the galaxy is one of its pixels the other way.
        shift_y, shift_x = (-np.gradient(image, axis=axis) for axis in (1, 2))
        slopes = [(d - image) / s for d, s in zip(drawn[1:], _DERIVATIVE, strict=True)]
        return np.stack([image, shift_x, shift_y, *slopes])

    def write(self, sources, index):
        """Write the parameters into the sources."""
        sources.flux[index], sources.x[index], sources.y[index] = self.values[:3]
        own = self.kind > 0
        if own.any():
            galaxy = _as_galaxy(self.is_disk[own], self.values[3:, own])
            sources.galaxy[index[own]] = galaxy


# -- galaxies ----------------------------------------------------------------------


def _as_galaxy(is_disk, shapes):
    """Six numbers of galaxies of one component, array ``(N, 6)``."""
    log_radius, e1, e2 = shapes
    e = np.minimum(np.hypot(e1, e2), _ELLIPTICITY_LIMIT)
    ratio = (1 - e) / (1 + e)
    angle = np.mod(0.5 * np.arctan2(e2, e1), np.pi)
    # The radius of a circle of the same area is what the data constrain.
    major = np.exp(log_radius) / np.sqrt(ratio)
    return np.stack([is_disk * 1.0, angle, ratio, ratio, major, major], axis=-1)


def _draw(renderer, x, y, galaxy, stamps):
    """Images of galaxies of unit flux, float32 ``(N, P, P)``."""
    place = [-offset[:, 0, :1] for offset in (stamps.dx, stamps.dy)]
    parts = renderer.psf_at(x, y), *place, torch.ones_like(place[0])
    parts = *parts, torch.from_numpy(galaxy.astype(np.float32))[:, None]
    options = {'size': stamps.use.shape[1:]}
    options['accuracy'] = RenderingAccuracy.training()
    pieces = [slice(k, k + _PIECE) for k in range(0, len(galaxy), _PIECE)]
    pieces = [[part[piece] for part in parts] for piece in pieces]
    return torch.cat([render_galaxies(*piece, **options) for piece in pieces]).numpy()


def first_shapes(exposure, renderer, draws, kernel, fwhm):
    """Give the galaxies of draws (`Sources`, in place) the best of round shapes."""
    half = stamp_half(fwhm) + _WIDER
    places, shapes = np.empty((0, 2)), np.empty((0, 6))
    for sources in draws:
        sources.galaxy = _round(len(sources), 1.0, _FAINT_RADIUS)
        own = np.column_stack([sources.x, sources.y])
        apart, nearest = cKDTree(places).query(own, distance_upper_bound=_SAME)
        same = sources.is_galaxy & np.isfinite(apart)
        sources.galaxy[same] = shapes[nearest[same]]
        index = np.flatnonzero(sources.is_galaxy & ~same)
        if len(index):
            residuals = Residuals.of(exposure, renderer(sources), kernel)
            for part in np.array_split(index, -(-len(index) // _PIECE)):
                sources.galaxy[part] = _best_round(
                    residuals, renderer, sources.select(part), half
                )
        places = np.concatenate([places, own[sources.is_galaxy]])
        shapes = np.concatenate([shapes, sources.galaxy[sources.is_galaxy]])


def _round(n, is_disk, radius):
    """Round galaxies of one component, array ``(N, 6)``."""
    return np.tile([is_disk, 0.0, 1.0, 1.0, radius, radius], (n, 1))


def _best_round(residuals, renderer, sources, half):
    """The best of round profiles, for galaxies bright enough to distinguish them."""
    x, y, galaxy = sources.x, sources.y, sources.galaxy
    stamps = Stamps(residuals, x, y, half)
    flux = sources.flux[:, None, None]
    own = _draw(renderer, x, y, galaxy, stamps) * stamps.weight
    data = residuals.ratio[stamps.at] * stamps.use + flux * own
    snr = sources.flux * np.sqrt((own**2).sum((1, 2)) / residuals.excess)
    best = np.where(snr > _SNR_MIN, np.inf, -np.inf)
    for is_disk, radius in itertools.product((1.0, 0.0), _RADII):
        tried = _round(len(sources), is_disk, radius)
        image = _draw(renderer, x, y, tried, stamps) * stamps.weight
        # The flux is free within a factor of two.
        scale = (data * image).sum((1, 2)) / (image**2).sum((1, 2)).clip(1e-20)
        scale = np.clip(scale, 0.5 * sources.flux, 2 * sources.flux)
        chi2 = np.square(data - scale[:, None, None] * image).sum((1, 2))
        better = chi2 < best
        best[better], galaxy[better] = chi2[better], tried[better]
    return galaxy
