# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From an image and its catalogue to model, residual and shares.
"""

import numpy as np

from bliss_astro.catalog._arguments import check_count
from bliss_astro.catalog._rendering import renderer_of, scale_of, sources_of
from bliss_astro.detection import detect_sources
from bliss_astro.rendering._scene import ModelRenderer

from ._check import check_exposure
from ._reconstruction import Reconstruction

__all__ = ['reconstruct']


def reconstruct(exposure, catalog=None, *, n_draws=0, rng=None, **detection):
    """
    Take an image apart into the sources of its catalogue and what is left over.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    catalog : `~bliss_astro.catalog.ProbabilisticCatalog` or None, optional
        Its catalogue, some rows of it, or that of another measurement of the
        image in the same pixels; by default
        `~bliss_astro.detection.detect_sources` makes one.

    n_draws : int, optional
        Number of catalogues of the whole image to draw from the posterior and to
        draw as images, which take 4 bytes a pixel each.

    rng : int, `~numpy.random.Generator` or None, optional
        For those draws.

    **detection
        For `~bliss_astro.detection.detect_sources`, if there is no ``catalog``.

    Returns
    -------
    reconstruction : `Reconstruction`
        Model, residual and each source's share of the data.

    Raises
    ------
    TypeError
        If ``exposure`` is none, or if arguments for the detection are given together
        with a catalogue.

    ValueError
        If the exposure has another shape or unit than the catalogue, if there
        is no PSF, if ``n_draws`` is not a whole number of 0 or more, or
        if there is no posterior to draw from.

    Warns
    -----
    AstropyUserWarning
        If there are galaxies, but no columns with their shapes: they
        are drawn as stars.

    See Also
    --------
    ProbabilisticCatalog.render : The model alone, of rows without their image.
    ProbabilisticCatalog.check : Whether what is left over is noise.

    Notes
    -----
    The model is that of `ProbabilisticCatalog.render
    <bliss_astro.catalog.ProbabilisticCatalog.render>` with the PSF of the
    exposure. An exposure without a PSF gets that of the posterior. It is the
    image of one catalogue, of medians, and not the mean of the posterior's images:
    medians of near-by sources that the data hardly tell apart need not go
    together, those of one draw do. A network's errors of bright sources can be
    larger than those of the photons, which shows in the residual;
    `ProbabilisticCatalog.check
    <bliss_astro.catalog.ProbabilisticCatalog.check>` allows for that.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, reconstruct
    >>> exposure, truth = CoaddSimulator().simulate(rng=3)
    >>> result = reconstruct(exposure, encoder='stars')
    >>> result.model.shape == exposure.shape
    True
    >>> star = result.deblended(0)
    >>> abs(star.flux / result.source(0).flux - 1) < 0.1
    True
    """
    from bliss_astro.exposures import Exposure

    n_draws = check_count('n_draws', n_draws)
    if catalog is None and isinstance(exposure, Exposure):
        catalog = detect_sources(exposure, **detection)
    elif detection:
        msg = f'{sorted(detection)[0]!r} is for detecting, and there is a catalog'
        raise TypeError(msg)
    _check_pair(catalog, exposure)
    if n_draws and not hasattr(catalog.posterior, 'sample'):
        msg = (
            'n_draws: the catalogue has no posterior to draw from (it was stacked, or '
            'read from a format that keeps rows only); give n_draws=0'
        )
        raise ValueError(msg)
    if exposure.psf is None:
        renderer = renderer_of(catalog, shape=exposure.shape)
    else:
        renderer = ModelRenderer(exposure)
    scale = scale_of(catalog, wcs=exposure.wcs)
    sources = sources_of(catalog, scale=scale)
    draws = np.zeros((n_draws, *exposure.shape), dtype=np.float32)
    tables = catalog.posterior.sample(n_draws, rng=rng) if n_draws else ()
    for image, table in zip(draws, tables, strict=True):
        image[:] = renderer(sources_of(table, scale=scale, quiet=True))
    whole = tuple(slice(0, n) for n in exposure.shape)
    return Reconstruction(
        exposure, catalog, renderer(sources), draws, whole, renderer, sources
    )


def _check_pair(catalog, exposure):
    """
    Refuse what is not a catalogue and its image.
    """
    from bliss_astro.catalog import ProbabilisticCatalog

    if catalog is not None and not isinstance(catalog, ProbabilisticCatalog):
        msg = f'catalog must be a ProbabilisticCatalog, got {type(catalog).__name__}'
        raise TypeError(msg)
    check_exposure(catalog, exposure, with_psf=False)
    if exposure.psf is None and not hasattr(catalog.posterior, 'tile_posterior'):
        msg = 'exposure has no psf; give it one with exposure.replace(psf=...)'
        raise ValueError(msg)
