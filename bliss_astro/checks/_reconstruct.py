# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reconstruction of an image from its catalogue.
"""

import numpy as np

from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.catalog._build import check_count
from bliss_astro.catalog._rendering import renderer_of, scale_of, sources_of
from bliss_astro.detection._detect import detect
from bliss_astro.exposures import Exposure
from bliss_astro.rendering._scene import ModelRenderer

from ._check import check_draws, check_exposure
from ._completeness import finder_options
from ._reconstruction import Reconstruction


def reconstruct(exposure, catalog=None, *, finder=None, n_draws=0, rng=None):
    """
    Reconstruct an image from its catalogue: model, residual, and light of each source.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    catalog : `~bliss_astro.catalog.ProbabilisticCatalog` or None, optional
        Its catalogue, some rows of it, or that of another measurement of the
        image in the same pixels; by default ``finder`` makes one.

    finder : `~bliss_astro.detection.BlissFinder` or None, optional
        Configured detection for an image without ``catalog``; by default one with all
        defaults.

    n_draws : int, optional
        Number of catalogues of the whole image to draw from the posterior and to
        draw as images, which take 4 bytes a pixel each.

    rng : int, `~numpy.random.Generator` or None, optional
        For those draws.

    Returns
    -------
    reconstruction : `Reconstruction`
        Model, residual and each source's share of the data.

    Raises
    ------
    TypeError
        If ``exposure``, ``catalog`` or ``finder`` is none, or if both of the latter
        are given.

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
    bliss_astro.catalog.ProbabilisticCatalog.render : The model alone, without an image.
    bliss_astro.catalog.ProbabilisticCatalog.check : Whether what is left over is noise.

    Notes
    -----
    The model is that of `~bliss_astro.catalog.ProbabilisticCatalog.render` with the
    PSF of the exposure. An exposure without a PSF gets that of the posterior. It is the
    image of one catalogue, of medians, and not the mean of the posterior's images:
    medians of near-by sources that the data hardly tell apart need not go
    together, those of one draw do. A network's errors of bright sources can be
    larger than those of the photons, which shows in the residual;
    `~bliss_astro.catalog.ProbabilisticCatalog.check` allows for that.

    Examples
    --------
    >>> from bliss_astro import BlissFinder, CoaddSimulator, reconstruct
    >>> exposure, truth = CoaddSimulator().sample(rng=3)
    >>> result = reconstruct(exposure, finder=BlissFinder(encoder='stars'))
    >>> result.model.shape == exposure.shape
    True
    >>> star = result.deblended(0)
    >>> abs(star.flux / result.source(0).flux - 1) < 0.1
    True
    """
    n_draws = check_count('n_draws', n_draws)
    if catalog is None and isinstance(exposure, Exposure):
        catalog = detect(exposure, finder_options(finder))
    elif finder is not None:
        msg = 'finder is for detecting, and there is a catalog; give one of them'
        raise TypeError(msg)
    if catalog is not None and not isinstance(catalog, ProbabilisticCatalog):
        msg = f'catalog must be a ProbabilisticCatalog, got {type(catalog).__name__}'
        raise TypeError(msg)
    blind = not hasattr(getattr(catalog, 'posterior', None), 'tile_posterior')
    check_exposure(catalog, exposure, with_psf=blind)
    check_draws(catalog, n_draws)
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
