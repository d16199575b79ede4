# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Mixtures of colours for a list of bands: interpolation in wavelength, and projection.
"""

import math

import numpy as np
import torch

from bliss_astro._arguments import as_list, require

# Colours of red galaxies less those of blue ones in u - r to y - r, 0 in r, as log flux
# ratios: 1.0, 0.3, -0.13, -0.23 and -0.29 mag (Strateva et al. 2001, AJ 122, 1861;
# Baldry et al. 2004, ApJ 600, 681), in the order of the coordinates.
RED_LESS_BLUE = (0.0, -0.921, -0.276, 0.12, 0.212, 0.267)
# Standard deviations of a log flux ratio: between a band and the interpolation of its
# neighbours, per unit of the logarithm of wavelength, and of zero points.
INTERPOLATION_ERROR, ZERO_POINT_ERROR = 0.3, 0.004
# Largest logarithm of wavelength beyond the first and last band.
REACH = 0.06


def wavelengths(nodes, bands):
    """Wavelengths in nm of bands: names, or objects with a ``wavelength``."""
    waves = []
    for band in as_list('bands', bands):
        wave = getattr(band, 'wavelength', None)
        if wave is None:
            allowed = f'be names ({", ".join(nodes)}) or have wavelengths in nm'
            good = isinstance(band, str) and band in nodes
            require(good, 'bands', allowed, repr(band))
            wave = nodes[band]
        waves.append(float(wave))
    require(waves, 'bands', 'be at least one', 'none')
    return waves


def interpolate(nodes, wave, reach=REACH):
    """
    Weights of the bands of a mixture in the log flux at a wavelength, and its scatter.

    The weights ``(D,)`` sum to 1, and are those of a straight line in the logarithm of
    wavelength.
    """
    x = np.log(list(nodes.values()))
    at = min(max(math.log(wave), x[0] - reach), x[-1] + reach)
    k = min(max(int(np.searchsorted(x, at)), 1), len(x) - 1)
    share = (at - x[k - 1]) / (x[k] - x[k - 1])
    weights = np.zeros(len(x))
    weights[k - 1 : k + 1] = 1 - share, share
    return weights, INTERPOLATION_ERROR * np.abs(math.log(wave) - x).min()


def to_log_flux(weights):
    """
    Coefficients of the coordinates of a mixture in log fluxes of interpolated bands.

    Coordinates are the log flux in the third band, and the log ratios of the others.
    """
    rows = np.delete(weights, 2, -1)
    return np.concatenate([np.ones_like(rows[..., :1]), rows], -1)


class BandMixtures:
    """
    Mixtures ``(2, K)`` of stars and of galaxies over log ratios to a reference band.

    Attributes
    ----------
    middle, width, log_weight : tensor ``(2, K)``
        Mean and standard deviation of the log flux in the reference band, and the
        logarithm of the weight.

    mean, slope : tensor ``(2, K, F)``
        Mean of the log ratios at the middle, and their change with the log flux.

    factor : tensor ``(2, K, F, F)``
        Root of their covariance at a given flux, with zeros for the reference.

    whitening : tensor ``(2, K, F', F')``
        Inverse of that of the ``others``, the F' bands that are not the reference.

    log_scale : tensor ``(2, K)``
        Logarithm of the density at the mean.

    redness : tensor ``(F,)``
        Log ratios of red galaxies less those of blue ones.
    """

    def __init__(self, nodes, mixtures, waves, place, wave, device):
        rows, scatter = zip(
            *(interpolate(nodes, w) for w in (*waves, wave)), strict=True
        )
        rows = to_log_flux(np.array(rows))
        # Ratios to the reference, which is the last row, and its log flux.
        change = rows - rows[-1]
        change[-1] = rows[-1]
        own = np.square([*scatter])
        extra = np.diag(own)
        extra[:-1, :-1] += own[-1] + ZERO_POINT_ERROR**2 * np.eye(len(waves))
        extra[-1, :-1] = extra[:-1, -1] = -own[-1]
        n = len(waves)
        if place is not None:
            change[place] = 0
            extra[place], extra[:, place] = 0, 0
        others = [k for k in range(n) if k != place]
        parts = [self._project(mixture, change, extra, others) for mixture in mixtures]
        size = max(len(part['log_weight']) for part in parts)
        for name in parts[0]:
            fill = -np.inf if name == 'log_weight' else None
            both = [_pad(part[name], size, fill) for part in parts]
            value = torch.tensor(np.stack(both), dtype=torch.float32, device=device)
            setattr(self, name, value)
        self.others = torch.tensor(others, device=device)
        red = torch.tensor(change[:-1] @ np.array(RED_LESS_BLUE))
        self.redness = red.to(torch.float32).to(device)

    def weight(self, flux, which):
        """Log weights ``(..., K)`` of components, but for a constant, at log fluxes."""
        away = (flux[..., None] - self.middle[which]) / self.width[which]
        return self.log_weight[which] - 0.5 * away**2

    def means(self, flux, which):
        """Means ``(..., K, F)`` of the log ratios at log fluxes."""
        away = (flux[..., None] - self.middle[which])[..., None]
        return self.mean[which] + self.slope[which] * away

    @staticmethod
    def _project(mixture, change, extra, others):
        """Arrays of one class, by name."""
        log_weight, mean, cov = mixture
        mean, cov = mean @ change.T, change @ cov @ change.T + extra
        width = np.sqrt(cov[:, -1, -1])
        slope = cov[:, :-1, -1] / width[:, None] ** 2
        rest = cov[:, :-1, :-1] - cov[:, :-1, -1:] * slope[:, None]
        inner = np.linalg.cholesky(rest[:, others][:, :, others])
        factor = np.zeros_like(rest)
        factor[np.ix_(range(len(rest)), others, others)] = inner
        size = np.log(np.einsum('kii->ki', inner)).sum(-1)
        return {
            'middle': mean[:, -1],
            'width': width,
            'log_weight': log_weight - np.log(width),
            'mean': mean[:, :-1],
            'slope': slope,
            'factor': factor,
            'whitening': np.linalg.inv(inner),
            'log_scale': -size - 0.5 * len(others) * math.log(2 * math.pi),
        }


def _pad(value, size, fill):
    """Components repeated, or filled, up to a number."""
    missing = size - len(value)
    if missing == 0:
        return value
    more = np.repeat(value[:1], missing, 0)
    return np.concatenate([value, more if fill is None else np.full_like(more, fill)])
