# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
SNR, blendedness and ellipticity of the sources of a blend.
"""

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from bliss_astro.priors import GALAXY_SHAPE_NAMES
from bliss_astro.rendering import adaptive_moments, render_galaxies, render_stars
from bliss_astro.units import flux_to_magnitude

# Pixels of isolated images that are held at once: some 40 MB each.
_MAX_PIXELS = 5_000_000


def _as_images(images):
    """Return images; tensors stay tensors, and anything else becomes an array."""
    if not (hasattr(images, 'detach') and hasattr(images, 'shape')):
        images = np.asarray(images, dtype=float)
    if images.ndim != 3:
        msg = f'images must have the shape (S, ny, nx), got {tuple(images.shape)}'
        raise ValueError(msg)
    return images


def source_snr(images, background):
    """
    Signal-to-noise ratio of sources from their noiseless isolated images.

    It is ``sqrt(sum(s^2 / (s + b)))`` over the pixels, with images s ``(S, ny, nx)`` in
    electrons and the variance b of the background: that of an optimal measurement of
    the flux of a source of known position and shape (slides of Mendoza on BLISS).
    Negative pixels (of renderers) have no noise of their own.
    """
    images = _as_images(images)
    if not (background > 0 if np.isscalar(background) else (background > 0).all()):
        msg = f'background must be positive, got {background!r}'
        raise ValueError(msg)
    terms = images**2 / (images.clip(0) + background)
    return terms.sum(axis=(1, 2)) ** 0.5


def blendedness(images):
    """
    Blendedness: fraction of the light under each source that its neighbours emit.

    Blendedness of source k is ``1 - sum(s_k^2) / sum(s_k s_all)``, with the sum of
    all sources ``s_all``: 0 of an isolated source, close to 1 of one that drowns in a
    brighter neighbour.

    Parameters
    ----------
    images : (S, ny, nx) array_like or tensor
        Noiseless isolated images of ALL sources of one scene.

    Returns
    -------
    blendedness : (S,) `~numpy.ndarray` or tensor
        Blendedness; NaN for a source without light.

    Raises
    ------
    ValueError
        If ``images`` is not three-dimensional.

    Notes
    -----
    The definition is that of the BLISS slides (Mendoza).

    Examples
    --------
    Two equal sources in one place:

    >>> import numpy as np
    >>> from bliss_astro.metrics import blendedness
    >>> blendedness(np.ones((2, 3, 3)))
    array([0.5, 0.5])
    """
    images = _as_images(images)
    return _blendedness(images, images.sum(axis=0))


def _blendedness(images, total):
    """Compute the blendedness of images, each or all with the sum of its scene."""
    power, shared = (images**2).sum(axis=(1, 2)), (images * total).sum(axis=(1, 2))
    with np.errstate(invalid='ignore', divide='ignore'):
        # Rounding may leave an isolated source below 0, outside of all bins.
        return (1 - power / shared).clip(0)


def measure_ellipticity(images):
    """
    Ellipticities e1, e2 of images ``(S, ny, nx)`` by GalSim's adaptive moments (HSM).

    Distortion ``(1 - q^2) / (1 + q^2)`` times the cosine and sine of twice the angle
    from +x towards +y; NaN where HSM fails (Hirata & Seljak 2003, MNRAS 343, 459).
    """
    import galsim

    images = _as_images(images)
    images = images if isinstance(images, np.ndarray) else images.detach().cpu().numpy()
    images = images.astype(float)
    result = np.full((2, len(images)), np.nan)
    for k, image in enumerate(images):
        if not np.isfinite(image).all() or image.max() <= 0:
            continue
        row, column = np.unravel_index(image.argmax(), image.shape)
        found = galsim.hsm.FindAdaptiveMom(
            galsim.Image(image, xmin=0, ymin=0),
            guess_centroid=galsim.PositionD(column, row),
            strict=False,
        )
        if not found.error_message and found.moments_sigma > 0:
            result[:, k] = found.observed_shape.e1, found.observed_shape.e2
    return result[0], result[1]


def scene_truth(scenes, *, index=None):
    """
    Truth of simulated scenes, with SNR, blendedness and ellipticity of each source.

    Parameters
    ----------
    scenes : `~bliss_astro.simulation.SimulatedImages`
        B scenes, on the CPU.

    index : (B,) int array_like or `None`, optional
        Numbers of the scenes; 0 to B - 1 by default.

    Returns
    -------
    truth : `~astropy.table.QTable`
        A row for each source of positive flux, also outside of the image or below
        the flux floor, with the columns

        * ``scene``: its number;
        * ``x``, ``y`` (pix), ``flux`` (electron), ``magnitude`` (of nmgy),
          ``is_galaxy``;
        * the six of ``GALAXY_SHAPE_NAMES``: ``angle`` (rad), radii (pix), NaN for
          stars;
        * ``snr``: ``source_snr`` of the pixels of the image, with
          ``bkg_error**2`` for the background's variance and the source's
          own variance divided by ``effective_gain``;
        * ``blendedness``: among all sources of the scene, on the image;
          NaN for a source without light there;
        * ``e1``, ``e2``: by `~bliss_astro.rendering.adaptive_moments` of the galaxy
          seen through the PSF; NaN for stars.

    Raises
    ------
    ValueError
        If ``index`` does not have B entries.

    Notes
    -----
    Each source is drawn alone. 10,000 scenes of 48 x 48 pixels with 4 sources take one
    to two minutes on a core.
    """
    n = len(scenes)
    index = np.arange(n) if index is None else np.asarray(index)
    if index.shape != (n,):
        msg = f'index must have the shape ({n},), got {index.shape}'
        raise ValueError(msg)
    scene, place = torch.nonzero(scenes.flux > 0, as_tuple=True)
    snr, blended = _render_alone(scenes, scene, place)

    def column(name):
        return getattr(scenes, name)[scene, place].double().numpy()

    scale = scenes.electrons_per_nmgy[scene].double().numpy()
    truth = QTable({'scene': index[scene.numpy()]})
    truth['x'], truth['y'] = column('x') * u.pix, column('y') * u.pix
    truth['flux'] = column('flux') * u.electron
    truth['magnitude'] = flux_to_magnitude(column('flux') / scale) * u.mag
    truth['is_galaxy'] = column('is_galaxy') > 0
    star = ~truth['is_galaxy']
    units = {'angle': u.rad, 'disk_radius': u.pix, 'bulge_radius': u.pix}
    for name, values in zip(GALAXY_SHAPE_NAMES, column('galaxy').T, strict=True):
        truth[name] = np.where(star, np.nan, values) * units.get(name, 1)
    ellipticity = np.full((2, len(star)), np.nan)
    if not star.all():
        galaxy = scenes.galaxy[scene, place][~star]
        moments = adaptive_moments(scenes.psf[scene[~star]], galaxy)
        ellipticity[:, ~star] = [v.double().numpy() for v in moments[:2]]
    truth['e1'], truth['e2'] = ellipticity
    truth['snr'], truth['blendedness'] = snr, blended
    truth.sort('scene')
    return truth


def _render_alone(scenes, scene, place):
    """Return SNR and blendedness of sources, from images of each of them alone."""
    count = torch.bincount(scene, minlength=len(scenes))
    ny, nx = scenes.data.shape[1:]
    # Whole scenes, as many as fit.
    piece = (count.cumsum(0) - count) // max(1, _MAX_PIXELS // (ny * nx))
    sizes = torch.unique_consecutive(piece[scene], return_counts=True)[1].tolist()
    snr, blended = [np.zeros(0)], [np.zeros(0)]
    for rows in torch.arange(len(scene)).split(sizes):
        own, names = scene[rows], ('x', 'y', 'flux', 'is_galaxy', 'galaxy')
        sources = [getattr(scenes, name)[own, place[rows]] for name in names]
        images = render_alone(scenes.psf[own], *sources, size=(ny, nx))
        gain = scenes.effective_gain[own].double().numpy()[:, None, None]
        noise = scenes.bkg_error[own].double().numpy()[:, None, None]
        snr.append(source_snr(images * gain, (noise * gain) ** 2))
        starts = np.flatnonzero(np.diff(own.numpy(), prepend=-1))
        total = np.add.reduceat(images, starts, axis=0)
        group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(own)]))
        blended.append(_blendedness(images, total[group]))
    return np.concatenate(snr), np.concatenate(blended)


def render_alone(psf, x, y, flux, is_galaxy, galaxy, *, size, accuracy=None):
    """Render images ``(n, ny, nx)`` of single sources in double precision."""
    images = np.zeros((len(x), *size))
    parts = [psf, *(v[:, None] for v in (x, y, flux, galaxy))]
    star = ~is_galaxy
    if star.any():
        drawn = render_stars(*(v[star] for v in parts[:4]), size=size)
        images[star.numpy()] = drawn.double().numpy()
    if is_galaxy.any():
        parts = [v[is_galaxy] for v in parts]
        drawn = render_galaxies(*parts, size=size, accuracy=accuracy)
        # Fourier sums leave tiny negative values far out.
        images[is_galaxy.numpy()] = drawn.clamp(min=0).double().numpy()
    return images
