# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of reconstructions: an image, its model, and what is left over.
"""

import numpy as np

from ._axes import as_positions, label_pixels
from ._images import _show_image

__all__ = ['plot_reconstruction']

# The share of the brightest light at which the scale of an image ends, and how
# far below the sky it begins, in units of its noise.
_BRIGHT, _DARK = 99.9, 1.0
# Side in pixels of the largest image whose sources are marked.
_MARKED = 200


def plot_reconstruction(
    reconstruction,
    *,
    ax=None,
    n_draws=None,
    limit=5.0,
    vmax=None,
    cmap='gray_r',
    residual_cmap='RdBu_r',
    mark=None,
    colorbar=True,
    titles=True,
):
    """
    Draw an image, catalogues drawn from its posterior, its model and the residual.

    Parameters
    ----------
    reconstruction : `~bliss_astro.checks.Reconstruction`
        What `~bliss_astro.checks.reconstruct` returned, or a part of it.

    ax : sequence of `~matplotlib.axes.Axes` or `None`, optional
        The axes to draw on, 3 and one more for each draw. By default those of a
        new figure, side by side.

    n_draws : int or `None`, optional
        How many of the drawn images to show. By default at most 2.

    limit : float, optional
        The ends of the scale of the residual, in units of the noise.

    vmax : float or `None`, optional
        The upper end of the scale of image and models above the sky, in units of
        the noise of the sky. By default the brightest 0.1 % of the pixels
        are black. The scale is linear near the sky and logarithmic far above it.

    cmap, residual_cmap : str or `~matplotlib.colors.Colormap`, optional
        The colours of images and of residuals.

    mark : bool or `None`, optional
        Whether to mark the sources in the model: dots for stars,
        crosses for galaxies. By default in images of up to 200 pixels.

    colorbar : bool, optional
        Whether to draw the scale of the residual.

    titles : bool, optional
        Whether to say what is what.

    Returns
    -------
    axes : tuple of `~matplotlib.axes.Axes`
        Image, draws, model, residual.

    Raises
    ------
    ValueError
        If there are not as many draws or axes as wanted, or if ``limit`` or
        ``vmax`` is not positive.

    Examples
    --------
    .. plot::
        :include-source:

        from bliss_astro import CoaddSimulator, reconstruct
        from bliss_astro.plotting import plot_reconstruction

        exposure, truth = CoaddSimulator().simulate(rng=3)
        result = reconstruct(exposure, encoder='stars', n_draws=1, rng=1)
        plot_reconstruction(result)
    """
    for name, value in (('limit', limit), ('vmax', vmax)):
        if value is not None and not value > 0:
            msg = f'{name} must be positive, got {value!r}'
            raise ValueError(msg)
    n_draws = _check_draws(n_draws, len(reconstruction.draws))
    ny, nx = reconstruction.shape
    axes = _axes(ax, 3 + n_draws, min(max(ny / nx, 0.4), 2.0))
    noise = float(np.median(reconstruction.exposure.bkg_error))
    data = reconstruction.model + reconstruction.residual
    norm = _stretch(data / noise, vmax)
    images = [('Image', data)]
    images += [(f'Draw {k + 1}', reconstruction.draws[k]) for k in range(n_draws)]
    images.append(('Model', reconstruction.model))
    for axis, (title, image) in zip(axes, images, strict=False):
        _show_image(axis, image / noise, norm, cmap)
        _finish(axis, title if titles else None)
    if mark or (mark is None and max(ny, nx) <= _MARKED):
        _mark(axes[-2], reconstruction)
    _show_residual(axes[-1], reconstruction.chi, limit, residual_cmap)
    _finish(axes[-1], '(Image - model) / noise' if titles else None)
    if colorbar:
        bar = axes[-1].figure.colorbar(
            axes[-1].images[0], ax=axes[-1], shrink=0.85, pad=0.02, extend='both'
        )
        bar.set_label('sigma')
    return tuple(axes)


def _check_draws(n_draws, n_there):
    if n_draws is None:
        return min(n_there, 2)
    if not 0 <= n_draws <= n_there:
        msg = f'n_draws must be at most {n_there}, the number of draws, got {n_draws!r}'
        raise ValueError(msg)
    return int(n_draws)


def _axes(ax, n, aspect):
    """
    The axes that were given, or those of a new figure.
    """
    if ax is None:
        from matplotlib import pyplot as plt

        figure = plt.figure(figsize=(4.2 * n, 3.9 * aspect + 0.6), layout='constrained')
        return list(figure.subplots(1, n))
    axes = list(np.ravel(ax))
    if len(axes) != n or not all(hasattr(part, 'imshow') for part in axes):
        msg = f'ax must be {n} axes (image, draws, model, residual), got {ax!r:.80}'
        raise ValueError(msg)
    return axes


def _stretch(image, vmax):
    """
    A scale that is linear near the sky and logarithmic far above it.
    """
    from astropy.visualization import AsinhStretch, ImageNormalize

    good = image[np.isfinite(image)]
    if vmax is None:
        vmax = np.percentile(good, _BRIGHT) if good.size else 10.0
    vmax = max(float(vmax), 5.0)
    stretch = AsinhStretch(a=min(6.0 / (vmax + _DARK), 0.9))
    return ImageNormalize(vmin=-_DARK, vmax=vmax, stretch=stretch, clip=False)


def _show_residual(ax, chi, limit, cmap):
    from matplotlib.colors import Normalize

    _show_image(ax, chi, Normalize(-limit, limit), cmap)


def _mark(ax, reconstruction):
    """
    Dots on stars, crosses on galaxies.
    """
    catalog = reconstruction.catalog
    rows, columns = reconstruction.slices
    x, y = as_positions(catalog, 'catalog').T
    x, y = x - columns.start, y - rows.start
    ny, nx = reconstruction.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    galaxy = np.zeros(len(x), dtype=bool)
    if 'galaxy_probability' in catalog.colnames:
        galaxy = np.asarray(catalog['galaxy_probability'], dtype=float) > 0.5
    for chosen, marker, size in ((~galaxy, '.', 5), (galaxy, 'x', 5)):
        chosen = chosen & inside
        ax.plot(
            x[chosen], y[chosen], marker, ms=size, color='#D55E00', mew=1.0, ls='none'
        )


def _finish(ax, title):
    if title is None:
        ax.set_xticks([])
        ax.set_yticks([])
        return
    ax.set_title(title, fontsize='medium')
    label_pixels(ax, None)
