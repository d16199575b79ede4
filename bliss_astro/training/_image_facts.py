# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Facts of an image, in the numbers that a simulation of such images needs.
"""

import dataclasses
import functools
import math

import numpy as np
import torch

from bliss_astro.detection._inputs import FLOOR_SNR
from bliss_astro.encoders._domain import mean_interpolation
from bliss_astro.psf._mixture import (
    LOG_AREA,
    broaden_shape,
    describe_shape,
    fwhm_of_shape,
)
from bliss_astro.simulation import SimulationConfig

__all__ = ['ImageFacts', 'dither_of', 'stack_facts', 'usual_widths']

PARETO_INDEX = 0.47
"""Index of the Pareto distribution of fluxes that encoders are trained on."""

CORRELATION_MIN = 0.02
"""Correlation up to which an encoder for single exposures covers an image."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFacts:
    """
    Properties of an image, or of a coadd that could be made, in numbers.

    Pairs are the range over the image, the outermost hundredth of its tiles on
    either side left out.

    Attributes
    ----------
    name : str
        Name of the image.

    shape : tuple of int
        ``(ny, nx)`` in pixels.

    psf_shapes : float `~numpy.ndarray`, shape (k, 8)
        Shape parameters of the PSF at places of the image.

    fwhm, psf_area : tuple of float
        Full width at half maximum in pixels, and effective area
        ``1 / sum(p^2)`` in square pixels.

    noise : tuple of float
        Noise of empty sky in electrons: ``bkg_error * effective_gain``.

    one_exposure_variance : tuple of float
        Variance in square electrons that the sky of each exposure would
        have, were all its noise that of photons.

    effective_gain : float
        Electrons per unit of the image (median).

    correlation : tuple of float
        Correlation of the noise of neighbouring pixels in x and in y.

    excess : float
        Sum of that correlation over all distances.

    n_exposures : tuple of int or None
        Number of exposures in the image; `None` if it is not stated.

    density : tuple of float
        Sources per pixel above the flux floor: in the emptiest and the fullest
        region.

    limit : str
        Flux of a star with a signal-to-noise ratio of 5.

    sources : dict of str to str
        Where the numbers come from.

    remarks : tuple of str
        Peculiarities.
    """

    name: str
    shape: tuple[int, int]
    psf_shapes: np.ndarray
    fwhm: tuple[float, float]
    psf_area: tuple[float, float]
    noise: tuple[float, float]
    one_exposure_variance: tuple[float, float]
    effective_gain: float
    correlation: tuple[float, float]
    excess: float
    n_exposures: tuple[int, int] | None
    density: tuple[float, float]
    limit: str
    sources: dict
    remarks: tuple[str, ...] = ()

    @property
    def ellipticity(self):
        """Largest ``sqrt(e1^2 + e2^2)`` of the PSF."""
        return float(np.hypot(*self.psf_shapes[:, 6:8].T).max())

    @property
    def resampled(self):
        """Whether the noise is correlated as only resampling makes it."""
        return max(self.correlation) > CORRELATION_MIN

    @property
    def usual_wings(self):
        """Whether the PSF's effective area is one that SDSS's have at its FWHM."""
        least, _, most = usual_widths()
        pairs = zip(self.psf_area, self.fwhm, strict=True)
        return all(least < math.sqrt(area) / fwhm < most for area, fwhm in pairs)

    def for_domain(self):
        """Facts for ``domain_findings``, which compares them with a domain (dict)."""
        return {
            'psf_area': self.psf_area,
            'psf_features': describe_shape(torch.from_numpy(self.psf_shapes))
            .T[:, None]
            .double()
            .numpy(),
            'noise': self.noise,
            'density': self.density,
            'correlation': self.correlation,
            'floor_snr': FLOOR_SNR,
        }


def range_of(values):
    """The range of values, the outermost hundredths left out."""
    values = np.ravel(values)
    if len(values) == 1:
        return float(values[0]), float(values[0])
    low, high = np.quantile(values, [0.01, 0.99])
    return float(low), float(high)


def areas_of(shapes):
    """Effective areas in square pixels of PSF shapes ``(k, 8)``."""
    return torch.exp(describe_shape(torch.from_numpy(shapes))[:, 1] + LOG_AREA).numpy()


def dither_of(correlation):
    """
    Largest dither that makes a correlation of neighbours, in pixels.

    Parameters
    ----------
    correlation : float
        Mean of x and y, of a deep coadd.

    Returns
    -------
    dither : float
        Between 0.02 and 0.75, where the correlation is at its largest, 0.3.
    """
    grid = np.linspace(0.02, 0.75, 147)
    kernel, kept = mean_interpolation(grid)
    return float(np.interp(correlation, kernel / kept, grid))


@functools.lru_cache
def usual_widths():
    """
    Compute how the effective area of SDSS's PSFs goes with their FWHM.

    Returns
    -------
    least, usual, most : float
        Square root of the area over the FWHM: 1, 50 and 99 % quantiles.
    """
    shape = SimulationConfig().sample_psf(
        4000, generator=torch.Generator().manual_seed(0)
    )
    area = torch.exp(describe_shape(shape)[:, 1] + LOG_AREA)
    ratio = area.sqrt() / fwhm_of_shape(shape)
    return tuple(float(ratio.quantile(q)) for q in (0.01, 0.5, 0.99))


def stack_facts(parts):
    """
    Predict the facts of the coadd of some exposures.

    Parameters
    ----------
    parts : list of `ImageFacts`
        The exposures.

    Returns
    -------
    facts : `ImageFacts`
        Facts of their coadd after bilinear alignment, at equal weights.
    """
    n = len(parts)
    kernel, kept = mean_interpolation(0.5)
    shapes = np.concatenate([part.psf_shapes for part in parts])
    broad = broaden_shape(torch.from_numpy(shapes), kernel)
    noise = [
        math.sqrt(sum(part.noise[end] ** 2 for part in parts)) / kept for end in (0, 1)
    ]
    # The floor sinks with the noise, and fainter sources come in.
    factor = math.sqrt(n) ** PARETO_INDEX
    return ImageFacts(
        name=f'coadd of {n} exposures',
        shape=parts[0].shape,
        psf_shapes=broad.numpy(),
        fwhm=range_of(fwhm_of_shape(broad).numpy()),
        psf_area=range_of(areas_of(broad.numpy())),
        noise=tuple(noise),
        one_exposure_variance=_union(part.one_exposure_variance for part in parts),
        effective_gain=float(np.sum([part.effective_gain for part in parts])) / kept**2,
        correlation=(kernel / kept, kernel / kept),
        excess=1 / kept**2,
        n_exposures=(n, n),
        density=tuple(factor * v for v in _union(part.density for part in parts)),
        limit='not predicted',
        sources={
            'psf': 'of the exposures, broadened by bilinear interpolation',
            'bkg_error': 'from the exposures, at equal weights',
            'effective_gain': 'from the exposures',
            'noise_correlation': 'that of bilinear alignment at any dither',
            'n_exposures': 'number of the exposures',
            'density': f'of the exposures times {factor:.2f} for the fainter sources',
        },
    )


def _union(pairs):
    low, high = zip(*pairs, strict=True)
    return min(low), max(high)
