# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
SNR, blendedness and ellipticity of the sources of a blend, and bounds of the latter.
"""

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from scipy.special import expit, logit

from bliss_astro._arguments import check_positive, require
from bliss_astro.priors import GALAXY_SHAPE_NAMES
from bliss_astro.rendering import RenderingAccuracy, adaptive_moments
from bliss_astro.rendering._scene import render_alone
from bliss_astro.units import flux_to_magnitude

# Pixels of isolated images that are held at once: some 40 MB each.
_MAX_PIXELS = 5_000_000

# Steps of the numerical derivatives, in pixels, radians or the coordinates below.
# The renderer's tables are linear between their nodes, 0.8 % apart: a step has to
# reach over several of them.
_STEP = 0.05
# Iterations of the adaptive moments whose derivatives are taken.
_N_ITERATIONS = 40
# Distance of coordinates from the ends of their intervals, where logits are infinite.
_MIN_FRACTION = 1e-4

# Widths of the priors of galaxies' coordinates in the order of their nine numbers,
# those of x and y as shares of the side of the image (Patel et al. 2025): positions are
# uniform on the image, angles on half a circle, fractions and axis ratios between 0 and
# 1; logarithms of fluxes and radii have about these.
_LOGIT = np.pi / np.sqrt(3)  # of a number that is uniform between 0 and 1
_WIDTHS = {
    'x': 1 / np.sqrt(12),
    'y': 1 / np.sqrt(12),
    'log_flux': 1.0,
    'logit_disk_fraction': _LOGIT,
    'angle': np.pi / np.sqrt(12),
    'logit_disk_axis_ratio': _LOGIT,
    'logit_bulge_axis_ratio': _LOGIT,
    'log_disk_radius': 0.75,
    'log_bulge_radius': 0.75,
}
_GALAXY = tuple(_WIDTHS)
_STAR = _GALAXY[:3]


def _as_images(images):
    """Return images; tensors stay tensors, and anything else becomes an array."""
    images = images if torch.is_tensor(images) else np.asarray(images, dtype=float)
    shape = tuple(images.shape)
    require(len(shape) == 3, 'images', 'have the shape (S, ny, nx)', shape)
    return images


def source_snr(images, background):
    """
    Signal-to-noise ratio of sources from their noiseless isolated images (S, ny, nx).

    It is ``sqrt(sum(s^2 / (s + b)))`` over the pixels s in electrons, with the variance
    b of the background: that of an optimal measurement of the flux of a source of known
    position and shape. Negative pixels (of renderers) have no noise of their own.
    """
    images = _as_images(images)
    positive = (np.asarray(background) > 0).all()
    require(positive, 'background', 'be positive', background)
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
    require(index.shape == (n,), 'index', f'have the shape ({n},)', index.shape)
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
    galaxy = scenes.galaxy[scene, place][~star]
    moments = adaptive_moments(scenes.psf[scene[~star]], galaxy)
    ellipticity = np.full((2, len(star)), np.nan)
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
    names = 'x', 'y', 'flux', 'is_galaxy', 'galaxy'
    for rows in torch.arange(len(scene)).split(sizes):
        own = scene[rows]
        sources = [getattr(scenes, name)[own, place[rows]] for name in names]
        images = render_alone(scenes.psf[own], *sources, size=(ny, nx))
        gain = scenes.effective_gain[own].double().numpy()[:, None, None]
        noise = scenes.bkg_error[own].double().numpy()[:, None, None]
        snr.append(source_snr(images * gain, (noise * gain) ** 2))
        _, starts, group = np.unique(own, return_index=True, return_inverse=True)
        total = np.add.reduceat(images, starts, axis=0)
        blended.append(_blendedness(images, total[group]))
    return np.concatenate(snr), np.concatenate(blended)


def ellipticity_bound(
    psf,
    source,
    *,
    x,
    y,
    flux,
    is_galaxy,
    galaxy,
    bkg_error,
    size,
    effective_gain=1.0,
    widths=None,
):
    """
    Cramer-Rao bound of the ellipticity of a galaxy among other sources.

    The pixels are independent and Gaussian with the variance ``bkg_error**2 + signal /
    effective_gain``, and only their means inform, as in `cramer_rao_bound`. All
    parameters of all sources are free: positions and logarithms of fluxes, and of
    galaxies the logits of disk fraction and axis ratios, the angle, and the logarithms
    of the radii. The Fisher matrix F of the image, from numerical derivatives of
    renderings, is added to that of a Gaussian prior of the given width W of each
    coordinate, and the covariance of (e1, e2) is ``J (F + diag(W^-2))^-1 J^T`` with the
    derivatives J of `~bliss_astro.rendering.adaptive_moments`.

    Parameters
    ----------
    psf : (8,) array_like
        PSF, see `bliss_astro.psf.SHAPE_NAMES`.

    source : int
        Row of the galaxy among the sources.

    x, y, flux : (S,) array_like
        Centres in pixels and fluxes in the unit of ``bkg_error``.

    is_galaxy : (S,) bool array_like
        Types.

    galaxy : (S, 6) array_like
        Shapes in the order of ``GALAXY_SHAPE_NAMES``, radii in pixels; those of
        stars play no part.

    bkg_error : float
        1 sigma noise of a pixel without sources.

    size : tuple of two ints
        ``(ny, nx)`` of the image.

    effective_gain : float, optional
        Electrons per unit of flux; infinite for sources without noise of their own.

    widths : dict or `None`, optional
        Standard deviations of the prior of coordinates, in place of those of the
        NPE paper (Patel et al. 2025): ``x``, ``y`` (pixels), ``log_flux``,
        ``logit_disk_fraction``, ``angle`` (radians), ``logit_disk_axis_ratio``,
        ``logit_bulge_axis_ratio``, ``log_disk_radius``, ``log_bulge_radius``. Small
        ones hold a coordinate fixed, infinite ones leave it to the image alone.

    Returns
    -------
    covariance : (2, 2) `~numpy.ndarray`
        Covariance of (e1, e2).

    Raises
    ------
    ValueError
        If lengths differ, ``source`` is not a galaxy of positive flux, an unknown
        coordinate is in ``widths`` or a width, ``bkg_error`` or gain is not positive.

    Notes
    -----
    At high SNR this is the covariance of the posterior. At low SNR it is a linear
    approximation around the truth and no bound: an ellipticity is limited to 1 and
    priors are not Gaussian. It is too small for single galaxies that are nearly round
    for their SNR (below 2 / SNR) or whose axis ratios are close to 0 or 1, as there the
    angle and the logits hardly move the image and their priors hold them; compare
    medians over many galaxies.

    Examples
    --------
    A neighbour costs precision:

    >>> import numpy as np
    >>> from bliss_astro.metrics import ellipticity_bound
    >>> from bliss_astro.psf import DEFAULT_SHAPE
    >>> galaxies = np.tile([0.5, 0.3, 0.5, 0.7, 3.0, 2.0], (2, 1))
    >>> kwargs = {'y': [20.0, 20.0], 'flux': [1e4, 1e4], 'is_galaxy': [True, True],
    ...           'galaxy': galaxies, 'bkg_error': 30.0, 'size': (40, 40)}
    >>> near, far = (
    ...     ellipticity_bound(DEFAULT_SHAPE, 0, x=[20.0, x], **kwargs)[0, 0]
    ...     for x in (24.0, 35.0))
    >>> bool(near > 1.4 * far)
    True
    """
    psf, rows, is_galaxy = _parse(psf, x, y, flux, is_galaxy, galaxy)
    size = tuple(int(v) for v in size)
    sides = dict(zip('yx', size, strict=True))
    known = {name: width * sides.get(name, 1) for name, width in _WIDTHS.items()}
    widths = known | (widths or {})
    sound = len(widths) == len(known) and min(widths.values()) > 0
    require(sound, 'widths', f'be positive numbers of {list(known)}', widths)
    check_positive(bkg_error=bkg_error)
    require(effective_gain > 0, 'effective_gain', 'be positive', effective_gain)
    sound = 0 <= source < len(rows) and is_galaxy[source] and rows[source, 2] > 0
    require(sound, 'source', 'be the number of a galaxy of positive flux', source)
    light, slopes, names, owner = _derivatives(psf, rows, is_galaxy, size)
    variance = bkg_error**2 + light.clip(0) / effective_gain
    scaled = (slopes / np.sqrt(variance)).reshape(len(slopes), -1)
    fisher = scaled @ scaled.T
    fisher[np.diag_indices(len(names))] += [widths[name] ** -2.0 for name in names]
    jacobian = np.zeros((2, len(names)))
    jacobian[:, owner == source] = _moment_slopes(psf, rows[source])
    # Units of each coordinate's own error, against ill-conditioning.
    unit = 1 / np.sqrt(np.maximum(np.diag(fisher), 1e-300))
    scaled = jacobian * unit
    inverse = np.linalg.pinv(fisher * np.outer(unit, unit), hermitian=True)
    return scaled @ inverse @ scaled.T


def _parse(psf, x, y, flux, is_galaxy, galaxy):
    """Return the PSF, the nine numbers (x, y, flux, shape) of sources, and types."""
    columns = {'x': x, 'y': y, 'flux': flux, 'is_galaxy': is_galaxy}
    values = {'psf': psf, 'galaxy': galaxy} | columns
    values = {name: np.atleast_1d(np.asarray(v, float)) for name, v in values.items()}
    n = len(values['x'])
    shapes = {'psf': (8,), 'galaxy': (n, 6)} | dict.fromkeys(columns, (n,))
    for name, shape in shapes.items():
        own = values[name].shape
        require(own == shape, name, f'have the shape {shape}', own)
    rows = np.column_stack([values[name] for name in ('x', 'y', 'flux', 'galaxy')])
    return values['psf'], rows, values['is_galaxy'] > 0


def _moved(values, name, step):
    """Return the nine numbers of a source with one coordinate moved."""
    values, k = values.copy(), _GALAXY.index(name)
    if name.startswith('logit'):
        share = np.clip(values[k], _MIN_FRACTION, 1 - _MIN_FRACTION)
        values[k] = expit(logit(share) + step)
    elif name.startswith('log'):
        values[k] *= np.exp(step)
    else:
        values[k] += step
    return values


def _derivatives(psf, rows, is_galaxy, size):
    """Return the light of all sources, derivatives, their coordinates and sources."""
    there = np.flatnonzero(rows[:, 2] > 0)
    names = [(k, name) for k in there for name in (_GALAXY if is_galaxy[k] else _STAR)]
    moved = [_moved(rows[k], name, s) for k, name in names for s in (_STEP, -_STEP)]
    owner = np.array([k for k, _ in names])
    kinds = torch.as_tensor(is_galaxy[np.append(there, np.repeat(owner, 2))])
    values = torch.as_tensor(np.array([*rows[there], *moved]))
    psf = torch.as_tensor(psf).expand(len(values), 8)
    accuracy = RenderingAccuracy(psf_bits=7)
    drawn = render_alone(
        psf, *values[:, :3].T, kinds, values[:, 3:], size=size, accuracy=accuracy
    )
    light, drawn = drawn[: len(there)].sum(0), drawn[len(there) :]
    slopes = (drawn[::2] - drawn[1::2]) / (2 * _STEP)
    return light, slopes, [name for _, name in names], owner


def _moment_slopes(psf, values):
    """Compute derivatives ``(2, 9)`` of (e1, e2) by the coordinates of a galaxy."""
    moved = [_moved(values, name, s) for name in _GALAXY for s in (_STEP, -_STEP)]
    galaxy = torch.as_tensor(np.array(moved)[:, 3:])
    moments = adaptive_moments(torch.as_tensor(psf), galaxy, n_iterations=_N_ITERATIONS)
    e = torch.stack(moments[:2]).numpy()
    return (e[:, ::2] - e[:, 1::2]) / (2 * _STEP)
