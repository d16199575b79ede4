# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The posterior of one star at most, by brute force.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.polynomial import legendre
from scipy.special import logsumexp

from ._bounds import _unit_psf

__all__ = ['ExactStarPosterior', 'exact_star_posterior']

# Cells of position begin with this side in pixels and are halved as often.
_FIRST_CELL, _MOST_HALVINGS = 0.5, 8
# Cells this far (in nats) below the highest one hold nothing.
_FORGET = 16.0
# Halving stops when the evidence (in nats) and the errors (relative) change by less;
# what is left is a third of that at most, as the error falls with the square.
_TOLERANCE = 0.01, 0.02
# Nodes of the integral over flux, and its reach in standard deviations.
_NODES, _WEIGHTS = legendre.leggauss(20)
_REACH = 5.5
# Positions that hold less than this share of the best one's probability are left out of
# the marginal of the flux, which is tabulated at so many places.
_RARE, _GRID = 1e-6, 400
# Numbers that are worked on at a time: half a megabyte, for the processor's cache.
_CHUNK = 60_000


@dataclass(frozen=True, eq=False)
class ExactStarPosterior:
    """
    What an image says about the one star that it may hold.

    Made by `exact_star_posterior`. All but ``probability`` and
    ``log_evidence_ratio`` is given that there is a star.

    Attributes
    ----------
    probability : float
        That there is a star.

    log_evidence_ratio : float
        Natural logarithm of the probability of the image if there is one star, over
        that if there is none.

    x_centroid, y_centroid : float
        Posterior mean of the position, in pixels.

    x_err, y_err : float
        Posterior standard deviations of the position, in pixels.

    flux : float
        Posterior median.

    flux_err : float
        Half of the distance of the 16 and 84 % quantiles.
    """

    probability: float
    log_evidence_ratio: float
    x_centroid: float = field(init=False)
    y_centroid: float = field(init=False)
    x_err: float = field(init=False)
    y_err: float = field(init=False)
    flux: float = field(init=False)
    flux_err: float = field(init=False)
    _x: np.ndarray = field(repr=False)
    _y: np.ndarray = field(repr=False)
    _side: tuple = field(repr=False)
    _place: np.ndarray = field(repr=False)
    _cdf: tuple = field(repr=False)

    def __post_init__(self):
        found = {}
        for name, value in (('x', self._x), ('y', self._y)):
            mean = self._place @ value
            found[f'{name}_centroid'] = float(mean)
            variance = self._place @ (value - mean) ** 2
            found[f'{name}_err'] = float(np.sqrt(variance))
        low, middle, high = self.flux_quantile([0.15865525, 0.5, 0.84134475])
        found |= {'flux': float(middle), 'flux_err': float(0.5 * (high - low))}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def flux_quantile(self, q):
        """
        Quantiles of the flux, marginal over the position.

        Parameters
        ----------
        q : float or array_like
            Probabilities between 0 and 1.

        Returns
        -------
        flux : float or `~numpy.ndarray`
            In the unit of the image.
        """
        q = np.asarray(q, dtype=float)
        if not ((q >= 0) & (q <= 1)).all():
            msg = f'q must be between 0 and 1, got {q}'
            raise ValueError(msg)
        flux, below = self._cdf
        return np.interp(q, below, flux)[()]

    def probability_within(self, x_low, x_high, y_low, y_high):
        """
        Probability that there is a star and that it lies in a rectangle.

        Parameters
        ----------
        x_low, x_high, y_low, y_high : float
            Limits in pixels.

        Returns
        -------
        probability : float
            Cells of the integration count as far as they are inside.
        """
        share = 1.0
        limits = ((x_low, x_high), (y_low, y_high))
        for value, side, (low, high) in zip(
            (self._x, self._y), self._side, limits, strict=True
        ):
            inside = np.minimum(value + side / 2, high) - np.maximum(
                value - side / 2, low
            )
            share = share * np.clip(inside / side, 0, 1)
        return float(self.probability * (self._place @ share))

    def probability_near(self, x, y, radius):
        """
        Probability that there is a star and that it lies near a place.

        Parameters
        ----------
        x, y : float
            The place, in pixels.

        radius : float
            Largest distance from it, in pixels.

        Returns
        -------
        probability : float
            Cells of the integration count if their centres are inside.
        """
        inside = np.hypot(self._x - x, self._y - y) < radius
        return float(self.probability * self._place[inside].sum())


def exact_star_posterior(
    data,
    psf,
    *,
    prior,
    background,
    bkg_error,
    effective_gain=1.0,
    region=None,
    mask=None,
):
    """
    The exact posterior of an image that holds one star at most.

    The star is there or not, its position is uniform in a region and its flux follows
    the prior; pixels are Gaussian and independent, with the variance ``bkg_error**2 +
    signal / effective_gain`` (the model of a single exposure). The posterior is
    integrated numerically, over position on cells that are halved until nothing
    changes, and over flux by Gauss-Legendre quadrature. It is what any
    encoder trained under that prior can at best say.

    Parameters
    ----------
    data : 2D array_like
        The image.

    psf : callable or `~astropy.modeling.Model`
        As in `cramer_rao_bound`.

    prior : `~bliss_astro.priors.StarPrior`
        Or any object with ``density`` (per pixel), ``flux_min``, ``flux_max`` and
        ``log_prob_flux(flux)``. With the expected count m in the region, the
        probability of a star is m / (1 + m): the Poisson distribution up to one star.

    background : float or 2D array_like
        What is in the data beside the star.

    bkg_error : float or 2D array_like
        The 1 sigma noise of a pixel without the star.

    effective_gain : float, optional
        Electrons per unit of data; infinite if the star has no noise of its own.

    region : tuple of four floats, optional
        Limits ``(x_low, x_high, y_low, y_high)`` in pixels between which a star may be;
        by default the edges of the image.

    mask : 2D bool array_like or `None`, optional
        `True` for pixels that are left out.

    Returns
    -------
    posterior : `ExactStarPosterior`
        Probability, position and flux with their errors.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a number is not allowed.

    Notes
    -----
    The integrand is as wide in position as the star's position is certain. Beyond
    a signal-to-noise ratio of some hundreds the cells would have to be smaller
    than the smallest allowed here, 0.002 pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import exact_star_posterior
    >>> from bliss_astro.priors import StarPrior
    >>> from bliss_astro.psf import PSFModel
    >>> star = PSFModel(flux=2000.0, x_0=8.2, y_0=7.6)
    >>> y, x = np.mgrid[:16, :16]
    >>> mean = 865.0 + star(x, y)
    >>> data = mean + np.sqrt(mean) * np.random.default_rng(1).normal(size=mean.shape)
    >>> posterior = exact_star_posterior(
    ...     data, PSFModel(), prior=StarPrior(), background=865.0,
    ...     bkg_error=np.sqrt(865.0),
    ... )
    >>> posterior.probability > 0.99
    True
    >>> abs(posterior.flux - 2000.0) < 3 * posterior.flux_err
    True
    """
    scene = _Scene(data, psf, prior, background, bkg_error, effective_gain, mask)
    region = _parse_region(region, scene.shape)
    expected = prior.density * (region[1] - region[0]) * (region[3] - region[2])
    x, y, side, flux, log_weight = _integrate(scene, region)
    log_evidence = float(logsumexp(log_weight))
    weight = np.exp(log_weight - log_evidence)
    return ExactStarPosterior(
        probability=float(1 / (1 + np.exp(-np.log(expected) - log_evidence))),
        log_evidence_ratio=log_evidence,
        _x=x,
        _y=y,
        _side=side,
        _place=weight.sum(1),
        _cdf=_distribution_function(flux, weight),
    )


class _Scene:
    # The good pixels, without background, and the model of a star on them.
    def __init__(self, data, psf, prior, background, bkg_error, gain, mask):
        data = np.asarray(data, dtype=float)
        if data.ndim != 2:
            msg = f'data must be two-dimensional, got shape {data.shape}'
            raise ValueError(msg)
        self.shape = data.shape
        maps = {'background': background, 'bkg_error': bkg_error}
        maps = {name: np.asarray(v, dtype=float) for name, v in maps.items()}
        maps['mask'] = np.asarray(False if mask is None else mask, dtype=bool)
        for name, values in maps.items():
            if values.shape not in ((), data.shape):
                msg = f'{name} must be a number or of shape {data.shape}, got {values}'
                raise ValueError(msg)
        good = ~np.broadcast_to(maps['mask'], data.shape)
        if not good.any():
            msg = 'mask must leave some pixels'
            raise ValueError(msg)
        self.y, self.x = (v[good].astype(float) for v in np.indices(data.shape))
        self.residual = (data - maps['background'])[good]
        self.variance = np.broadcast_to(maps['bkg_error'] ** 2, data.shape)[good]
        finite = np.isfinite(self.residual).all() and np.isfinite(self.variance).all()
        if not (finite and (self.variance > 0).all()):
            n_wrong = np.count_nonzero(
                ~(np.isfinite(self.residual) & (self.variance > 0))
            )
            msg = (
                'data and background must be finite and bkg_error positive, or masked, '
                f'got {n_wrong} pixels where they are not'
            )
            raise ValueError(msg)
        if not gain > 0:
            msg = f'effective_gain must be positive, got {gain}'
            raise ValueError(msg)
        if not prior.density > 0:
            msg = f'prior must have a positive density, got {prior.density}'
            raise ValueError(msg)
        self.inverse_gain = 1 / float(gain)
        self.prior = prior
        self.psf = _unit_psf(psf)

    def flux_integrals(self, x, y):
        """Nodes of flux ``(n, k)`` at positions, and logarithms of their weights."""
        n = max(1, _CHUNK // (len(self.x) * len(_NODES)))
        starts = range(0, len(x), n)
        parts = [self._flux_integrals(x[k : k + n], y[k : k + n]) for k in starts]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _flux_integrals(self, x, y):
        profile = self.psf(self.x - x[:, None], self.y - y[:, None])
        if (profile < 0).any():
            msg = f'psf must not be negative, got {profile.min():g}'
            raise ValueError(msg)
        low, high = self._range(profile)
        flux = 0.5 * (low + high)[:, None] + 0.5 * (high - low)[:, None] * _NODES
        signal = flux[:, :, None] * profile[:, None, :]
        # (r - s)^2 / (v + s / g) - r^2 / v = s (s - a) / (v + s / g) with this a.
        a = self.residual * (2 + self.residual * self.inverse_gain / self.variance)
        chi2 = signal - a
        chi2 *= signal
        signal *= self.inverse_gain
        signal += self.variance
        chi2 /= signal
        chi2 += np.log(signal, out=signal)
        log_ratio = -0.5 * (chi2.sum(-1) - np.log(self.variance).sum())
        log_prior = self.prior.log_prob_flux(flux)
        step = 0.5 * (high - low)[:, None] * _WEIGHTS
        return flux, log_ratio + log_prior + np.log(step)

    def _range(self, profile):
        """Where the flux may be at each position: the estimate, with its error."""
        variance = self.variance
        for _ in range(3):
            information = (profile**2 / variance).sum(-1)
            best = (profile * self.residual / variance).sum(-1) / information
            signal = np.maximum(best, 0)[:, None] * profile
            variance = self.variance + signal * self.inverse_gain
        error = 1 / np.sqrt(information)
        lowest, highest = self.prior.flux_min, self.prior.flux_max
        low = np.clip(best - _REACH * error, lowest, None)
        high = np.clip(np.maximum(best, lowest) + _REACH * error, None, highest)
        # Far brighter than the prior allows: what is left is at its upper end.
        low = np.minimum(low, np.maximum(highest - _REACH * error, lowest))
        return low, high


def _parse_region(region, shape):
    ny, nx = shape
    if region is None:
        return (-0.5, nx - 0.5, -0.5, ny - 0.5)
    region = tuple(float(v) for v in region)
    if len(region) != 4 or not (region[0] < region[1] and region[2] < region[3]):
        msg = f'region must be (x_low, x_high, y_low, y_high), increasing, got {region}'
        raise ValueError(msg)
    return region


def _integrate(scene, region):
    """Cells that hold the posterior, with nodes of flux and log-weights."""
    x_low, x_high, y_low, y_high = region
    n = [max(2, round((b - a) / _FIRST_CELL)) for a, b in (region[:2], region[2:])]
    cells = np.stack(np.meshgrid(*map(np.arange, n), indexing='ij'), -1).reshape(-1, 2)
    last = None
    for _ in range(_MOST_HALVINGS + 1):
        side = (x_high - x_low) / n[0], (y_high - y_low) / n[1]
        x = x_low + (cells[:, 0] + 0.5) * side[0]
        y = y_low + (cells[:, 1] + 0.5) * side[1]
        flux, log_weight = scene.flux_integrals(x, y)
        # Positions are uniform in the region.
        log_weight -= np.log(n[0] * n[1])
        here = logsumexp(log_weight, axis=1)
        state = _state(x, y, flux, here, log_weight)
        if last is not None and _settled(last, state, side):
            break
        last = state
        cells = _halve(cells[here > here.max() - _FORGET], n)
        n = [2 * v for v in n]
    return x, y, side, flux, log_weight


def _state(x, y, flux, here, log_weight):
    # Evidence, and standard deviations of position and flux.
    total = logsumexp(here)
    place, weight = np.exp(here - total), np.exp(log_weight - total)
    out = [total]
    for value, share in ((x, place), (y, place), (flux, weight)):
        mean = (value * share).sum()
        out.append(np.sqrt((share * (value - mean) ** 2).sum()))
    return np.array(out)


def _distribution_function(flux, weight):
    """
    Marginal distribution function of the flux, as two arrays.

    The nodes and weights of each position make a polynomial, whose integral is
    known at any flux.
    """
    place = weight.sum(1)
    keep = place > _RARE * place.max()
    flux, weight = flux[keep], weight[keep] / place[keep].sum()
    # The ends of the ranges, from their outermost nodes.
    middle = 0.5 * (flux[:, 0] + flux[:, -1])
    half = 0.5 * (flux[:, -1] - flux[:, 0]) / _NODES[-1]
    grid = np.linspace((middle - half).min(), (middle + half).max(), _GRID)
    t = np.clip((grid - middle[:, None]) / half[:, None], -1, 1)
    n = len(_NODES)
    polynomials = legendre.legvander(_NODES, n - 1)
    coefficients = (weight @ polynomials) * (np.arange(n) + 0.5)
    integrals = legendre.legint(coefficients.T, lbnd=-1)
    below = legendre.legval(t, integrals[:, :, np.newaxis], tensor=False).sum(0)
    return grid, np.maximum.accumulate(below)


def _settled(last, state, side):
    if abs(state[0] - last[0]) > _TOLERANCE[0]:
        return False
    # Narrower than a cell: not resolved, whatever the numbers say.
    if state[1] < 0.5 * side[0] or state[2] < 0.5 * side[1]:
        return False
    return bool(np.all(np.abs(state[1:] - last[1:]) <= _TOLERANCE[1] * state[1:]))


def _halve(cells, n):
    """Quarters of cells and of the cells around them."""
    step = np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    around = (cells[:, None] + step).reshape(-1, 2)
    around = np.clip(around, 0, np.array(n) - 1)
    around = np.unique(around, axis=0)
    quarter = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return (2 * around[:, None] + quarter).reshape(-1, 2)
