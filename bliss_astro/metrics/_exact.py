# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exact posterior of an image with at most one star, by numerical integration.
"""

import numpy as np
from numpy.polynomial import legendre
from scipy.special import logsumexp

from bliss_astro._arguments import require

from ._inputs import check_maps, check_values, unit_psf

# Side in pixels of the first cells of position, and how often they are halved.
_FIRST_CELL, _MAX_HALVINGS = 0.5, 8
# Cells this far (in nats) below the highest one are left out.
_MAX_LOG_RATIO = 16.0
# Halving stops when the evidence (in nats) and the errors (relative) change by less;
# the error left is a third of that, as it falls with the square of the side.
_EVIDENCE_TOLERANCE, _ERROR_TOLERANCE = 0.01, 0.02
# Nodes of the integral over flux, and its half width in standard deviations.
_NODES, _WEIGHTS = legendre.leggauss(20)
_FLUX_RANGE = 5.5
# Fraction of the best position's probability below which positions are left out of
# the marginal of the flux, and the number of fluxes at which that is tabulated.
_MIN_POSITION, _N_FLUXES = 1e-6, 400
# Probability below one standard deviation under the mean.
_LOW = 0.15865525
# Numbers that are worked on at a time: half a megabyte, for the processor's cache.
_CHUNK_SIZE = 60_000


class ExactStarPosterior:
    """
    Exact posterior of an image with at most one star.

    The position is uniform in a region and the flux follows the prior; pixels are
    Gaussian and independent, with the variance ``bkg_error**2 + signal /
    effective_gain`` (the model of a single exposure). The posterior is integrated
    numerically, over position on cells that are halved until nothing
    changes, and over flux by Gauss-Legendre quadrature. It is the limit of any
    encoder trained under that prior.

    Parameters
    ----------
    data : 2D array_like
        Image.

    psf : callable or `~astropy.modeling.Model`
        As in `cramer_rao_bound`.

    prior : `~bliss_astro.priors.StarPrior`
        Or any object with ``density`` (per pixel), ``flux_min``, ``flux_max`` and
        ``log_prob_flux(flux)``. With the expected count m in the region, the
        probability of a star is m / (1 + m).

    background, bkg_error : float or 2D array_like
        Background, and 1 sigma noise of a pixel without the star.

    effective_gain : float, optional
        Electrons per unit of data; infinite if the star has no noise of its own.

    region : tuple of four floats, optional
        Limits ``(x_low, x_high, y_low, y_high)`` in pixels between which a star may be;
        by default the edges of the image.

    mask : 2D bool array_like or `None`, optional
        `True` for pixels that are left out.

    Attributes
    ----------
    probability : float
        Probability of a star; all others but ``log_evidence_ratio`` are conditioned on
        its presence.

    log_evidence_ratio : float
        Natural logarithm of the probability of the image with one star, over that
        without.

    x_centroid, y_centroid, x_err, y_err : float
        Posterior mean and standard deviation of the position, in pixels.

    flux, flux_err : float
        Posterior median, and half of the distance of the 16 and 84 % quantiles.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a number is not allowed.

    Notes
    -----
    Beyond a signal-to-noise ratio of some hundreds the posterior of the position is
    narrower than the smallest cells, 0.002 pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import ExactStarPosterior
    >>> from bliss_astro.priors import StarPrior
    >>> from bliss_astro.psf import PSFModel
    >>> star = PSFModel(flux=2000.0, x_0=8.2, y_0=7.6)
    >>> y, x = np.mgrid[:16, :16]
    >>> mean = 865.0 + star(x, y)
    >>> data = mean + np.sqrt(mean) * np.random.default_rng(1).normal(size=mean.shape)
    >>> posterior = ExactStarPosterior(
    ...     data, PSFModel(), prior=StarPrior(), background=865.0,
    ...     bkg_error=np.sqrt(865.0),
    ... )
    >>> posterior.probability > 0.99
    True
    >>> abs(posterior.flux - 2000.0) < 3 * posterior.flux_err
    True
    """

    def __init__(
        self,
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
        scene = _parse_scene(data, psf, background, bkg_error, effective_gain, mask)
        require(prior.density > 0, 'prior', 'have a positive density', prior.density)
        region = _parse_region(region, np.shape(data))
        expected = prior.density * (region[1] - region[0]) * (region[3] - region[2])
        x, y, sides, flux, log_weight = _integrate(scene, prior, region)
        self.log_evidence_ratio = float(logsumexp(log_weight))
        log_odds = np.log(expected) + self.log_evidence_ratio
        self.probability = float(1 / (1 + np.exp(-log_odds)))
        weight = np.exp(log_weight - self.log_evidence_ratio)
        place = weight.sum(1)
        # Positions of the cells, their probabilities and sides.
        self._cells = x, y, place, sides
        self._cdf = _distribution_function(flux, weight)
        self.x_centroid, self.x_err = _mean_and_error(x, place)
        self.y_centroid, self.y_err = _mean_and_error(y, place)
        low, self.flux, high = map(float, self.flux_quantile([_LOW, 0.5, 1 - _LOW]))
        self.flux_err = (high - low) / 2

    def __repr__(self):
        text = f'flux {self.flux:.4g} +- {self.flux_err:.2g}'
        return f'<ExactStarPosterior: probability {self.probability:.4g}, {text}>'

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
        check_values(q, 'q', (0, 1))
        flux, below = self._cdf
        return np.interp(q, below, flux)[()]

    def probability_within(self, region):
        """
        Probability of a star in a rectangle.

        Parameters
        ----------
        region : tuple of four floats
            Limits ``(x_low, x_high, y_low, y_high)`` in pixels.

        Returns
        -------
        probability : float
            Cells of the integration count as far as they are inside.
        """
        x, y, weight, sides = self._cells
        limits = region[:2], region[2:]
        for value, side, (low, high) in zip((x, y), sides, limits, strict=True):
            right = np.minimum(value + side / 2, high)
            inside = right - np.maximum(value - side / 2, low)
            weight = weight * np.clip(inside / side, 0, 1)
        return float(self.probability * weight.sum())

    def probability_near(self, x, y, *, radius):
        """
        Probability of a star near a position.

        Parameters
        ----------
        x, y, radius : float
            Position and largest distance from it, in pixels.

        Returns
        -------
        probability : float
            Cells of the integration count if their centres are inside.
        """
        inside = np.hypot(self._cells[0] - x, self._cells[1] - y) < radius
        return float(self.probability * self._cells[2][inside].sum())


def _parse_scene(data, psf, background, bkg_error, gain, mask):
    """Return the good pixels without background, and what makes a star on them."""
    data = np.asarray(data, dtype=float)
    require(data.ndim == 2, 'data', 'be two-dimensional', f'shape {data.shape}')
    background, bkg_error = (np.asarray(v, float) for v in (background, bkg_error))
    mask = np.asarray(False if mask is None else mask, dtype=bool)
    check_maps(data.shape, background=background, bkg_error=bkg_error, mask=mask)
    good = ~np.broadcast_to(mask, data.shape)
    require(good.any(), 'mask', 'leave some pixels', 'none that is good')
    residual = (data - background)[good]
    variance = np.broadcast_to(bkg_error**2, data.shape)[good]
    sound = np.isfinite(residual) & np.isfinite(variance) & (variance > 0)
    allowed = 'be finite and bkg_error positive, or masked'
    wrong = f'{(~sound).sum()} pixels where they are not'
    require(sound.all(), 'data and background', allowed, wrong)
    require(gain > 0, 'effective_gain', 'be positive', gain)
    y, x = (v[good].astype(float) for v in np.indices(data.shape))
    return unit_psf(psf), x, y, residual, variance, 1 / float(gain)


def _flux_integrals(scene, prior, x, y):
    """Return nodes of flux ``(n, k)`` at positions and logarithms of their weights."""
    psf, pixel_x, pixel_y, residual, bkg_variance, inverse_gain = scene
    profile = psf(pixel_x - x[:, None], pixel_y - y[:, None])
    require((profile >= 0).all(), 'psf', 'not be negative', profile.min())
    low, high = _flux_range(scene, prior, profile)
    flux = 0.5 * (low + high)[:, None] + 0.5 * (high - low)[:, None] * _NODES
    signal = flux[:, :, None] * profile[:, None, :]
    # (r - s)^2 / (v + s / g) - r^2 / v = s (s - a) / (v + s / g) with this a.
    a = residual * (2 + residual * inverse_gain / bkg_variance)
    variance = bkg_variance + inverse_gain * signal
    chi2 = signal * (signal - a) / variance + np.log(variance)
    log_ratio = -0.5 * (chi2.sum(-1) - np.log(bkg_variance).sum())
    step = 0.5 * (high - low)[:, None] * _WEIGHTS
    return flux, log_ratio + prior.log_prob_flux(flux) + np.log(step)


def _flux_range(scene, prior, profile):
    """Return the limits of the integral over flux at each position."""
    *_, residual, bkg_variance, inverse_gain = scene
    variance = bkg_variance
    for _ in range(3):
        information = (profile**2 / variance).sum(-1)
        best = (profile * residual / variance).sum(-1) / information
        signal = np.maximum(best, 0)[:, None] * profile
        variance = bkg_variance + signal * inverse_gain
    reach = _FLUX_RANGE / np.sqrt(information)
    lowest, highest = prior.flux_min, prior.flux_max
    low = np.clip(best - reach, lowest, None)
    high = np.clip(np.maximum(best, lowest) + reach, None, highest)
    # Far brighter than the prior allows: the probability is at its upper end.
    return np.minimum(low, np.maximum(highest - reach, lowest)), high


def _parse_region(region, shape):
    """Return the limits of the position, by default the edges of the image."""
    ny, nx = shape
    if region is None:
        return (-0.5, nx - 0.5, -0.5, ny - 0.5)
    region = tuple(float(v) for v in region)
    sound = len(region) == 4 and region[0] < region[1] and region[2] < region[3]
    require(sound, 'region', 'be (x_low, x_high, y_low, y_high), increasing', region)
    return region


def _integrate(scene, prior, region):
    """Return cells that hold the posterior, their nodes of flux and log-weights."""
    x_low, x_high, y_low, y_high = region
    n = [max(2, round((b - a) / _FIRST_CELL)) for a, b in (region[:2], region[2:])]
    cells = np.stack(np.meshgrid(*map(np.arange, n), indexing='ij'), -1).reshape(-1, 2)
    size = max(1, _CHUNK_SIZE // (len(scene[1]) * len(_NODES)))
    last = None
    for _ in range(_MAX_HALVINGS + 1):
        sides = (x_high - x_low) / n[0], (y_high - y_low) / n[1]
        x = x_low + (cells[:, 0] + 0.5) * sides[0]
        y = y_low + (cells[:, 1] + 0.5) * sides[1]
        parts = [
            _flux_integrals(scene, prior, x[k : k + size], y[k : k + size])
            for k in range(0, len(x), size)
        ]
        flux, log_weight = (np.concatenate(part) for part in zip(*parts, strict=True))
        # Positions are uniform in the region.
        log_weight -= np.log(n[0] * n[1])
        position = logsumexp(log_weight, axis=1)
        moments = _moments(x, y, flux, position, log_weight)
        if last is not None and _is_settled(last, moments, sides):
            break
        last = moments
        cells = _halve(cells[position > position.max() - _MAX_LOG_RATIO], n)
        n = [2 * v for v in n]
    return x, y, sides, flux, log_weight


def _moments(x, y, flux, position, log_weight):
    """Return the evidence, and standard deviations of position and flux."""
    total = logsumexp(position)
    place, weight = np.exp(position - total), np.exp(log_weight - total)
    parts = (x, place), (y, place), (flux, weight)
    return np.array([total, *(_mean_and_error(*part)[1] for part in parts)])


def _mean_and_error(value, weight):
    mean = (weight * value).sum()
    return float(mean), float(np.sqrt((weight * (value - mean) ** 2).sum()))


def _is_settled(last, moments, sides):
    """Test whether smaller cells change the posterior no more."""
    # Narrower than a cell is not resolved, whatever the numbers.
    if (moments[1:3] < 0.5 * np.array(sides)).any():
        return False
    change = np.abs(moments - last)
    settled = change[1:] <= _ERROR_TOLERANCE * moments[1:]
    return change[0] <= _EVIDENCE_TOLERANCE and bool(settled.all())


def _halve(cells, n):
    """Return quarters of cells and of the cells around them."""
    step = np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    around = (cells[:, None] + step).reshape(-1, 2)
    around = np.unique(np.clip(around, 0, np.array(n) - 1), axis=0)
    quarter = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return (2 * around[:, None] + quarter).reshape(-1, 2)


def _distribution_function(flux, weight):
    """Return the marginal distribution function of the flux, as two arrays."""
    # The nodes and weights of each position make a polynomial with a known integral.
    place = weight.sum(1)
    keep = place > _MIN_POSITION * place.max()
    flux, weight = flux[keep], weight[keep] / place[keep].sum()
    # The ends of the ranges, from their outermost nodes.
    middle = 0.5 * (flux[:, 0] + flux[:, -1])
    half = 0.5 * (flux[:, -1] - flux[:, 0]) / _NODES[-1]
    grid = np.linspace((middle - half).min(), (middle + half).max(), _N_FLUXES)
    t = np.clip((grid - middle[:, None]) / half[:, None], -1, 1)
    n = len(_NODES)
    coefficients = (weight @ legendre.legvander(_NODES, n - 1)) * (np.arange(n) + 0.5)
    integrals = legendre.legint(coefficients.T, lbnd=-1)
    below = legendre.legval(t, integrals[:, :, np.newaxis], tensor=False).sum(0)
    return grid, np.maximum.accumulate(below)
