# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
How well the ellipticity of a galaxy in a blend can be measured.
"""

import numpy as np

__all__ = ['ellipticity_bound']

# Steps of the numerical derivatives, in pixels, radians or the coordinates below.
# The renderer's tables are linear between their nodes, 0.8 % apart: a step has to
# reach over several of them.
_STEP = 0.05

# Iterations of the adaptive moments whose derivatives are taken.
_ITERATIONS = 40

# Coordinates are kept off the ends of their intervals, where logits are infinite.
_EDGE = 1e-4

_STAR = ('x', 'y', 'log_flux')
_GALAXY = (
    *_STAR,
    'logit_disk_fraction',
    'angle',
    'logit_disk_axis_ratio',
    'logit_bulge_axis_ratio',
    'log_disk_radius',
    'log_bulge_radius',
)


def _default_widths(size):
    """
    Standard deviations of the priors of the NPE paper.

    Positions are uniform on the image, angles on half a circle, fractions and
    axis ratios between 0 and 1; logarithms of the fluxes and of the radii have about
    these.
    """
    logit = np.pi / np.sqrt(3)  # of a uniform number
    return {
        'x': size[1] / np.sqrt(12),
        'y': size[0] / np.sqrt(12),
        'log_flux': 1.0,
        'logit_disk_fraction': logit,
        'angle': np.pi / np.sqrt(12),
        'logit_disk_axis_ratio': logit,
        'logit_bulge_axis_ratio': logit,
        'log_disk_radius': 0.75,
        'log_bulge_radius': 0.75,
    }


def ellipticity_bound(
    psf,
    x,
    y,
    flux,
    is_galaxy,
    galaxy,
    *,
    source,
    bkg_error,
    size,
    effective_gain=1.0,
    widths=None,
):
    """
    Cramer-Rao bound of the ellipticity of a galaxy among other sources.

    The pixels are independent and Gaussian with the variance ``bkg_error**2 +
    signal / effective_gain``, and only their means inform, as in `cramer_rao_bound`.
    All parameters of all sources are free: positions and logarithms of fluxes, and
    of galaxies the logits of disk fraction and axis ratios, the angle, and the
    logarithms of the radii. The Fisher matrix F of the image, from numerical
    derivatives of renderings, is added to that of a Gaussian prior of the given
    width W of each coordinate, and the covariance of (e1, e2) is
    ``J (F + diag(W^-2))^-1 J^T`` with the derivatives J of
    `~bliss_astro.rendering.adaptive_moments`.

    Parameters
    ----------
    psf : (8,) array_like
        The PSF, see `bliss_astro.psf.SHAPE_NAMES`.

    x, y, flux : (S,) array_like
        Centres in pixels and fluxes in the unit of ``bkg_error``.

    is_galaxy : (S,) bool array_like
        Types.

    galaxy : (S, 6) array_like
        Shapes in the order of ``GALAXY_SHAPE_NAMES``, radii in pixels; those of
        stars play no part.

    source : int
        Which one, a galaxy.

    bkg_error : float
        The 1 sigma noise of a pixel without sources.

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
        Of (e1, e2).

    Raises
    ------
    ValueError
        If lengths differ, ``source`` is not a galaxy of positive flux, an unknown
        coordinate is in ``widths`` or a width, ``bkg_error`` or gain is not positive.

    Notes
    -----
    Where the image says much, this is the covariance of the posterior. Where it says
    little, it is a linear approximation around the truth and no bound: an ellipticity
    is limited to 1 and priors are not Gaussian. It is too small for single
    galaxies that are nearly round for their SNR (below 2 / SNR) or whose axis ratios
    are close to 0 or 1, as there the angle and the logits hardly move the image and
    their priors hold them; compare medians over many galaxies.

    Examples
    --------
    A neighbour costs precision:

    >>> import numpy as np
    >>> from bliss_astro.metrics import ellipticity_bound
    >>> from bliss_astro.psf import DEFAULT_SHAPE
    >>> galaxies = np.tile([0.5, 0.3, 0.5, 0.7, 3.0, 2.0], (2, 1))
    >>> kwargs = {'source': 0, 'bkg_error': 30.0, 'size': (40, 40)}
    >>> errors = []
    >>> for n in (1, 2):
    ...     scene = [20.0, 24.0][:n], [20.0, 20.0][:n], [1e4, 1e4][:n], [True] * n
    ...     bound = ellipticity_bound(DEFAULT_SHAPE, *scene, galaxies[:n], **kwargs)
    ...     errors.append(np.sqrt(bound[0, 0]))
    >>> bool(errors[1] > 1.2 * errors[0])
    True
    """
    scene = _parse(psf, x, y, flux, is_galaxy, galaxy)
    n = len(scene['x'])
    size = tuple(int(v) for v in size)
    widths = _parse_widths(widths, size)
    if not (np.isfinite(bkg_error) and bkg_error > 0 and effective_gain > 0):
        msg = (
            'bkg_error and effective_gain must be positive, got '
            f'{bkg_error} and {effective_gain}'
        )
        raise ValueError(msg)
    good = 0 <= source < n and scene['is_galaxy'][source]
    if not (good and scene['flux'][source] > 0):
        msg = f'source must be the number of a galaxy of positive flux, got {source}'
        raise ValueError(msg)
    used = scene['flux'] > 0
    images, slopes, names, owner = _derivatives(scene, used, size)
    variance = bkg_error**2 + images.sum(0).clip(0) / effective_gain
    scaled = (slopes / np.sqrt(variance)).reshape(len(slopes), -1)
    fisher = scaled @ scaled.T
    fisher[np.diag_indices(len(names))] += [widths[name] ** -2.0 for name in names]
    jacobian = np.zeros((2, len(names)))
    jacobian[:, owner == source] = _moment_slopes(scene, source)
    # Units of each coordinate's own error, against ill-conditioning.
    unit = 1 / np.sqrt(np.maximum(np.diag(fisher), 1e-300))
    scaled = jacobian * unit
    inverse = np.linalg.pinv(fisher * np.outer(unit, unit), hermitian=True)
    return scaled @ inverse @ scaled.T


def _parse(psf, x, y, flux, is_galaxy, galaxy):
    x, y, flux = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (x, y, flux))
    scene = {
        'psf': np.asarray(psf, dtype=float),
        'x': x,
        'y': y,
        'flux': flux,
        'is_galaxy': np.atleast_1d(np.asarray(is_galaxy, dtype=bool)),
        'galaxy': np.asarray(galaxy, dtype=float),
    }
    n = len(x)
    shapes = {'psf': (8,), 'galaxy': (n, 6)}
    for name, value in scene.items():
        wanted = shapes.get(name, (n,))
        if value.shape != wanted:
            msg = f'{name} must have the shape {wanted}, got {value.shape}'
            raise ValueError(msg)
    return scene


def _parse_widths(widths, size):
    result = _default_widths(size)
    unknown = set(widths or ()) - set(result)
    if unknown:
        msg = f'widths may hold {list(result)}, got {sorted(unknown)}'
        raise ValueError(msg)
    result |= widths or {}
    bad = {name: value for name, value in result.items() if not value > 0}
    if bad:
        msg = f'widths must be positive, got {bad}'
        raise ValueError(msg)
    return result


def _moved(values, name, step):
    """
    The nine numbers (x, y, flux, shape) of a source, one coordinate moved.
    """
    values = values.copy()
    k = _GALAXY.index(name)
    if name.startswith('logit'):
        p = np.clip(values[k], _EDGE, 1 - _EDGE)
        odds = p / (1 - p) * np.exp(step)
        values[k] = odds / (1 + odds)
    elif name.startswith('log'):
        values[k] *= np.exp(step)
    else:
        values[k] += step
    return values


def _numbers(scene, k):
    return np.array(
        [scene['x'][k], scene['y'][k], scene['flux'][k], *scene['galaxy'][k]]
    )


def _derivatives(scene, used, size):
    """
    Images of the sources alone, their derivatives, and whose and what these are.
    """
    images, slopes, names, owner = [], [], [], []
    for kind, own_names in ((False, _STAR), (True, _GALAXY)):
        rows = []
        sources = np.flatnonzero(used & (scene['is_galaxy'] == kind))
        for k in sources:
            values = _numbers(scene, k)
            rows.append(values)
            for name in own_names:
                rows += [_moved(values, name, s) for s in (_STEP, -_STEP)]
                names.append(name)
                owner.append(k)
        if not rows:
            continue
        drawn = _draw(scene['psf'], np.array(rows), kind, size)
        drawn = drawn.reshape(len(sources), -1, *size)
        images.append(drawn[:, 0])
        difference = (drawn[:, 1::2] - drawn[:, 2::2]) / (2 * _STEP)
        slopes.append(difference.reshape(-1, *size))
    return np.concatenate(images), np.concatenate(slopes), names, np.array(owner)


def _draw(psf, rows, is_galaxy, size):
    """
    Images ``(n, ny, nx)`` of single sources in double precision.
    """
    import torch

    from bliss_astro.rendering import RenderingAccuracy, render_galaxies, render_stars

    rows = torch.as_tensor(rows)
    psf = torch.as_tensor(psf).expand(len(rows), 8)
    x, y, flux = rows[:, :3, None].unbind(1)
    if not is_galaxy:
        return render_stars(psf, x, y, flux, size=size).numpy()
    accuracy = RenderingAccuracy(psf_bits=7)
    shapes = rows[:, None, 3:]
    drawn = render_galaxies(psf, x, y, flux, shapes, size=size, accuracy=accuracy)
    return drawn.numpy()


def _moment_slopes(scene, source):
    """
    Derivatives ``(2, 9)`` of (e1, e2) by the coordinates of a galaxy.
    """
    import torch

    from bliss_astro.rendering import adaptive_moments

    values = _numbers(scene, source)
    rows = [_moved(values, name, s) for name in _GALAXY for s in (_STEP, -_STEP)]
    galaxy = torch.as_tensor(np.array(rows)[:, 3:])
    psf = torch.as_tensor(scene['psf'])
    moments = adaptive_moments(psf, galaxy, n_iterations=_ITERATIONS)
    e = torch.stack(moments[:2]).numpy()
    return (e[:, ::2] - e[:, 1::2]) / (2 * _STEP)
