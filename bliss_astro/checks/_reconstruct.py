# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reconstruction of an image from its catalogue, and FITS files of it.
"""

import io

import numpy as np
from astropy.io import fits

from bliss_astro._atomic import atomic_write
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.catalog._arguments import check_count
from bliss_astro.catalog._formats import WRITERS
from bliss_astro.catalog._io import FORMATS
from bliss_astro.catalog._rendering import renderer_of, scale_of, sources_of
from bliss_astro.coadds._io import wcs_header
from bliss_astro.detection import detect_sources
from bliss_astro.exposures import Exposure
from bliss_astro.rendering._scene import ModelRenderer
from bliss_astro.units import unit_text

from ._check import check_exposure
from ._reconstruction import Reconstruction

__all__ = ['reconstruct', 'write_reconstruction']

# Images of a file, one extension each.
_IMAGES = ('model', 'residual', 'chi', 'draws')


def reconstruct(exposure, catalog=None, *, n_draws=0, rng=None, **detection):
    """
    Reconstruct an image from its catalogue: model, residual, and light of each source.

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
    >>> from bliss_astro import CoaddSimulator, reconstruct
    >>> exposure, truth = CoaddSimulator().sample(rng=3)
    >>> result = reconstruct(exposure, encoder='stars')
    >>> result.model.shape == exposure.shape
    True
    >>> star = result.deblended(0)
    >>> abs(star.flux / result.source(0).flux - 1) < 0.1
    True
    """
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
    """Refuse what is not a catalogue and its image."""
    if catalog is not None and not isinstance(catalog, ProbabilisticCatalog):
        msg = f'catalog must be a ProbabilisticCatalog, got {type(catalog).__name__}'
        raise TypeError(msg)
    check_exposure(catalog, exposure, with_psf=False)
    if exposure.psf is None and not hasattr(catalog.posterior, 'tile_posterior'):
        msg = 'exposure has no psf; give it one with exposure.replace(psf=...)'
        raise ValueError(msg)


def write_reconstruction(reconstruction, path, *, overwrite, posterior):
    """Write a FITS file; the work behind `Reconstruction.write`."""
    if not str(path).lower().endswith(FORMATS['fits']):
        msg = f'path must end in one of {", ".join(FORMATS["fits"])}, got {path!s:.200}'
        raise ValueError(msg)
    catalog = reconstruction.catalog
    stream = io.BytesIO()
    WRITERS['fits'](catalog, stream, catalog.posterior if posterior else None)
    stream.seek(0)
    with (
        atomic_write(path, overwrite=overwrite) as temporary,
        fits.open(stream) as hdus,
    ):
        primary, *tables = list(hdus)
        whole = fits.HDUList([primary, *_image_hdus(reconstruction), *tables])
        whole.writeto(temporary, overwrite=True, checksum=True)


def _image_hdus(reconstruction):
    """Make an extension of each image."""
    images = {name: getattr(reconstruction, name) for name in _IMAGES}
    header = wcs_header(reconstruction.exposure.wcs) or fits.Header()
    rows, columns = reconstruction.slices
    # Where the first pixel lies in the image that the rows' pixels belong to.
    header['LTV1'] = (-columns.start, 'pixel here less pixel of the catalogue')
    header['LTV2'] = (-rows.start, 'pixel here less pixel of the catalogue')
    for name, data in images.items():
        if len(data) == 0:
            continue
        hdu = fits.ImageHDU(np.asarray(data, dtype=np.float32), header, name=name)
        if reconstruction.unit is not None and name != 'chi':
            hdu.header['BUNIT'] = unit_text(reconstruction.unit)
        yield hdu
