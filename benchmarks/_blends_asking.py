# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What encoders say of scenes of blended sources.
"""

import contextlib
import functools
import time
from pathlib import Path

import numpy as np
import torch
from _blends_scenes import inputs_of

from bliss_astro.detection._detect import _autocast
from bliss_astro.encoders import Encoder
from bliss_astro.posteriors import find_sources

__all__ = [
    'LEAST',
    'QUANTILES',
    'ask',
    'axial_median',
    'draw_totals',
    'encode',
    'join',
    'labels_of_encoders',
    'load',
    'score_fluxes',
]

# Probability below which sources are not kept.
LEAST = 0.03
# Ends and middle of a 68.27 % interval.
QUANTILES = (0.15865525, 0.5, 0.84134475)
ENDS = ('low', 'median', 'high')


@functools.cache
def load(name):
    """The encoder of a name or path; ``NAME:one-pass`` is what its first stage says."""
    name, _, design = str(name).partition(':')
    encoder = Encoder.from_pretrained(name)
    return encoder.with_design(sequence=False) if design == 'one-pass' else encoder


def labels_of_encoders(names):
    """Short labels of names or paths, which differ where these do."""
    stems = [Path(name).stem for name in names]
    return {
        name: stem
        if stems.count(stem) == 1
        else f'{Path(name).parent.name} {stem}'.strip()
        for name, stem in zip(names, stems, strict=True)
    }


@torch.no_grad()
def encode(encoder, scenes):
    """Posterior of scenes."""
    inputs = inputs_of(encoder, scenes)
    device = encoder.device
    with _autocast(device) if device.type == 'cpu' else contextlib.nullcontext():
        return encoder(inputs)


def _numbers(value):
    return value.double().numpy()


def join(parts):
    """Dicts of arrays, one after the other."""
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


@torch.no_grad()
def ask(encoder, scenes, *, first=0, least=LEAST):
    """
    The sources that an encoder sees.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Which.

    scenes : SimulatedImages
        B images.

    first : int, optional
        Number of the first image.

    least : float, optional
        Smallest probability.

    Returns
    -------
    found : dict of array
        ``image``, ``probability``, ``x``, ``y`` (pixels), ``flux_low``,
        ``flux_median``, ``flux_high`` (nmgy), ``galaxy`` (the probability), and
        ``e1_low`` ... ``e2_high`` given a galaxy (NaN of encoders without shapes).

    kept : tuple
        The posterior and the `~bliss_astro.posteriors.SourceMarginals` of the same
        rows.

    seconds : float
        Of the processor, from pixels to marginals.
    """
    start = time.process_time()
    posterior = encode(encoder, scenes)
    sources = find_sources(posterior)
    sources = sources.select(sources.probability >= least)
    x, y = sources.place()
    quantiles = [_numbers(sources.quantile_flux(q)) for q in QUANTILES]
    seconds = time.process_time() - start
    unit = _numbers(scenes.flux_min / scenes.electrons_per_nmgy)[sources.image]
    found = {
        'image': first + sources.image.numpy(),
        'probability': _numbers(sources.probability),
        'x': _numbers(x),
        'y': _numbers(y),
        'galaxy': _numbers(sources.galaxy),
    }
    for name, value in zip(ENDS, quantiles, strict=True):
        found[f'flux_{name}'] = unit * np.exp(value)
    draws = getattr(sources, 'ellipticity', None)
    for k, name in enumerate(('e1', 'e2')):
        values = np.full((3, len(sources)), np.nan)
        if draws is not None and len(sources):
            values = np.quantile(_numbers(draws[..., k]), QUANTILES, axis=1)
        for end, value in zip(ENDS, values, strict=True):
            found[f'{name}_{end}'] = value
    return found, (posterior, sources), seconds


@torch.no_grad()
def score_fluxes(sources, rows, flux, is_galaxy, unit):
    """
    Where true fluxes lie in the posteriors of their sources.

    Parameters
    ----------
    sources : `~bliss_astro.posteriors.SourceMarginals`
        What was found.

    rows : array of int ``(n,)``
        Rows of ``sources`` that are matched.

    flux : array ``(n,)``
        True fluxes of their partners in nmgy.

    is_galaxy : array of bool ``(n,)``
        Their true types.

    unit : array ``(n,)``
        The flux floor in nmgy.

    Returns
    -------
    scores : dict of array
        ``log_score``: log-density of the true logarithm of flux, over both types;
        ``log_type``: logarithm of the true type's probability.
    """
    own = sources.select(torch.as_tensor(rows))
    value = torch.as_tensor(np.log(flux / unit)).float().clamp(min=1e-4)
    factor = own.flux_factor()
    value = torch.minimum(value, factor.high[:, 0] - 1e-4)
    chance = np.clip(_numbers(own.galaxy), 1e-6, 1 - 1e-6)
    return {
        'log_score': _numbers(factor.log_prob(value)),
        'log_type': np.log(np.where(is_galaxy, chance, 1 - chance)),
    }


@torch.no_grad()
def draw_totals(posterior, scenes, *, generator, n_draws=32):
    """
    Total flux of each image from draws of whole catalogues.

    Parameters
    ----------
    posterior : `~bliss_astro.posteriors.TilePosterior`
        Of B images.

    scenes : SimulatedImages
        The images.

    generator : `torch.Generator`
        For the draws.

    n_draws : int, optional
        How many.

    Returns
    -------
    totals : array ``(n_draws, B)``
        In nmgy.
    """
    unit = scenes.flux_min / scenes.electrons_per_nmgy
    totals = []
    for _ in range(n_draws):
        drawn = posterior.sample(generator=generator)
        places = torch.arange(drawn.log_flux.shape[-1])
        used = places < drawn.count[..., None]
        total = (drawn.log_flux.exp() * used).sum((1, 2, 3))
        totals.append(_numbers(unit * total))
    return np.stack(totals)


def axial_median(angle):
    """
    Mean direction of angles that are the same modulo pi, along the last axis.

    Parameters
    ----------
    angle : tensor ``(..., P)``
        Radians.
    """
    twice = torch.atan2((2 * angle).sin().mean(-1), (2 * angle).cos().mean(-1))
    return (0.5 * twice) % np.pi
