# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of checks: residuals, completeness, reconstructions.
"""

import numpy as np

from bliss_astro._arguments import check_positive, require
from bliss_astro.exposures._set import images_by_band
from bliss_astro.metrics._matching import as_positions

from . import _axes
from ._color_images import choose_bands, color_image

# Percentile of the light at which the scale of an image ends, and its lower end in
# units of the noise of the sky.
_HIGH_PERCENTILE, _LOW_SIGMA = 99.9, -1.0

# Side in pixels of the largest image whose sources are marked by default.
_MAX_MARKED_SIZE = 200
# Largest number of marked findings.
_MAX_MARKED = 30


def plot_check(check, *, ax=None, limit=5.0, cmap='RdBu_r', colorbar=True):
    """
    Draw the residual of a catalogue, and the chi-square of its regions.

    On the left the residual map with the positions of findings, on the right the
    deviation of each region's chi-square from its expectation in standard deviations.

    Parameters
    ----------
    check : `~bliss_astro.checks.CatalogCheck` or dict of them
        Result of `ProbabilisticCatalog.check
        <bliss_astro.catalog.ProbabilisticCatalog.check>`, by band of several.

    ax : pair of `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure, a pair for each band. By default those of a new one.

    limit : float, optional
        Ends of both scales, in standard deviations.

    cmap : str or `~matplotlib.colors.Colormap`, optional
        Colours, with the middle for zero.

    colorbar : bool, optional
        Whether to draw the scales.

    Returns
    -------
    axes : tuple of `~matplotlib.axes.Axes`
        Axes of the figure.

    Raises
    ------
    ValueError
        If ``limit`` is not positive or ``ax`` is no pair of axes.
    """
    check_positive(limit=limit)
    checks = images_by_band(check)
    shape, n = next(iter(checks.values())).shape, len(checks)
    size = 11.5, n * (4.6 * _axes.aspect_of(shape) + 0.8)
    axes = _axes.get_panels(ax, 2 * n, size, n_rows=n)
    for (band, own), *pair in zip(checks.items(), axes[::2], axes[1::2], strict=True):
        _draw_check(own, *pair, limit, cmap, colorbar)
        if band is not None:
            pair[0].set_title(f'Band {band}', loc='left', fontsize='medium')
    return tuple(axes)


def _draw_check(check, left, right, limit, cmap, colorbar):
    """Draw residual and regions of one band."""
    cells = check.cells
    excess = cells['chi2'] - cells['chi2_expected']
    pull = np.full(int(check.labels.max()) + 1, np.nan)
    pull[np.asarray(cells['region'])] = excess / cells['chi2_err']
    regions = np.where(check.labels >= 0, pull[check.labels], np.nan)
    for axes, values, title in (
        (left, check.residual, 'Image - catalogue (sigma)'),
        (right, regions, 'Chi-square of the region - expected (sigma)'),
    ):
        shown = _axes.show_image(axes, values, cmap, vmin=-limit, vmax=limit)
        if colorbar:
            _axes.add_colorbar(shown, axes, title, extend='both')
        _axes.label_pixels(axes)
    places = check.findings[np.isfinite(check.findings['x'])][:_MAX_MARKED]
    style = {'ms': 11, 'mfc': 'none', 'mec': 'black', 'mew': 1.3}
    left.plot(places['x'], places['y'], 'o', **style)


def plot_completeness(result, *, ax=None, types=None):
    """
    Draw completeness and bias of fluxes by magnitude or flux.

    Parameters
    ----------
    result : `~bliss_astro.checks.Completeness`
        Result of `~bliss_astro.checks.completeness`.

    ax : pair of `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure. By default those of a new one.

    types : sequence of {'star', 'galaxy'} or `None`, optional
        Types to draw. By default all that were injected.

    Returns
    -------
    axes : tuple of `~matplotlib.axes.Axes`
        Recall (open symbols: share of right types, if the encoder classifies), and
        bias with the band of the scatter.

    Raises
    ------
    ValueError
        If a type was not injected or ``ax`` is no pair of axes.
    """
    table = result.table
    known = list(dict.fromkeys(table['type']))
    types = known if types is None else [types] if isinstance(types, str) else types
    unknown = sorted(set(types) - set(known))
    require(not unknown, 'types', f'be among {known}', unknown)
    by_magnitude = 'mag_low' in table.colnames
    left, right = _axes.get_panels(ax, 2, (11.0, 4.2))
    _axes.add_reference(right)
    for k, name in enumerate(types):
        rows = table[table['type'] == name]
        quantity = 'mag' if by_magnitude else 'flux'
        ends = [_axes.values_of(rows, f'{quantity}_{end}') for end in ('low', 'high')]
        x = np.mean(ends, axis=0) if by_magnitude else np.sqrt(np.prod(ends, axis=0))
        style = {'k': k, 'ls': '-', 'label': f'{name}: recall'}
        _axes.draw_points(left, x, rows, 'recall', **style)
        if np.isfinite(_axes.values_of(rows, 'accuracy')).any():
            style = {'ls': ':', 'mfc': 'white', 'label': f'{name}: right type'}
            _axes.draw_points(left, x, rows, 'accuracy', k=k, **style)
        bias, scatter = _axes.values_of(rows, 'bias'), _axes.values_of(rows, 'scatter')
        style = {'color': _axes.COLORS[k], 'alpha': 0.15, 'lw': 0}
        band = bias - scatter, bias + scatter
        right.fill_between(x, *band, where=np.isfinite(bias), **style)
        _axes.draw_points(right, x, rows, 'bias', k=k)
    unit = None if by_magnitude else getattr(table['flux_low'], 'unit', None)
    label = 'Magnitude (AB)' if by_magnitude else 'Flux'
    for axes in (left, right):
        axes.set_xlabel(label if unit is None else f'{label} ({unit})')
        axes.grid(alpha=0.25, lw=0.6)
        axes.set_xscale('linear' if by_magnitude else 'log')
    left.set_ylim(0, 1.03)
    left.set_ylabel('Fraction')
    right.set_ylabel('(estimated - true flux) / flux_err')
    reach = np.nanmax(np.abs([table['bias'], table['scatter']]), initial=1.0)
    right.set_ylim(-2 * reach, 2 * reach)
    _axes.add_legend(left)
    return left, right


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
    bands=None,
):
    """
    Draw an image, catalogues drawn from its posterior, its model and the residual.

    Parameters
    ----------
    reconstruction : `~bliss_astro.checks.Reconstruction`
        Result of `~bliss_astro.checks.reconstruct`, or a part of it; or a mapping of
        them by band, of which three are shown in colours (as by `plot_catalog`), and
        the sum of the residuals of all in units of its noise.

    ax : sequence of `~matplotlib.axes.Axes` or `None`, optional
        Axes of the figure, 3 and one more for each draw. By default those of a new
        one, side by side.

    n_draws : int or `None`, optional
        Number of drawn images to show. By default at most 2.

    limit : float, optional
        Ends of the scale of the residual, in units of the noise.

    vmax : float or `None`, optional
        Upper end of the scale of image and models above the sky, in units of
        the noise of the sky. By default the brightest 0.1 % of the pixels
        are black. The scale is linear near the sky and logarithmic far above it.

    cmap, residual_cmap : str or `~matplotlib.colors.Colormap`, optional
        Colours of the images and of the residual.

    mark : bool or `None`, optional
        Whether to mark the sources in the model: dots for stars,
        crosses for galaxies. By default in images of up to 200 pixels.

    colorbar : bool, optional
        Whether to draw the scale of the residual.

    titles : bool, optional
        Whether to name the panels.

    bands : three str, optional
        Bands to show in red, green and blue, as for `plot_catalog`.

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

        from bliss_astro import BlissFinder, CoaddSimulator, reconstruct
        from bliss_astro.plotting import plot_reconstruction

        exposure, truth = CoaddSimulator().sample(rng=3)
        result = reconstruct(
            exposure, finder=BlissFinder(encoder='stars'), n_draws=1, rng=1
        )
        plot_reconstruction(result)
    """
    check_positive(limit=limit, vmax=vmax)
    chosen = choose_bands(reconstruction, bands)
    own = images_by_band(reconstruction)
    parts, reconstruction = list(own.values()), next(iter(own.values()))
    shown = [own[name] for name in chosen] if chosen else [reconstruction]
    n_there = min(len(part.draws) for part in shown)
    n_draws = min(n_there, 2) if n_draws is None else n_draws
    allowed = f'be at most {n_there}, the number of draws'
    require(0 <= n_draws <= n_there, 'n_draws', allowed, n_draws)
    size = 4.2 * (3 + n_draws), 3.9 * _axes.aspect_of(reconstruction.shape) + 0.6
    axes = _axes.get_panels(ax, 3 + n_draws, size, ' (image, draws, model, residual)')
    noise = [float(np.median(part.exposure.bkg_error)) for part in shown]
    images = {'Image': [part.model + part.residual for part in shown]}
    images |= {f'Draw {k + 1}': [p.draws[k] for p in shown] for k in range(n_draws)}
    images['Model'] = [part.model for part in shown]
    norm = _stretch(images['Image'][0] / noise[0], vmax)
    for axis, image in zip(axes, images.values(), strict=False):
        image = color_image(image, noise) if chosen else image[0] / noise[0]
        _axes.show_image(axis, image, cmap, norm=norm)
    if mark or (mark is None and max(reconstruction.shape) <= _MAX_MARKED_SIZE):
        _mark_sources(axes[-2], reconstruction)
    limits = {'vmin': -limit, 'vmax': limit}
    chi = sum(part.chi for part in parts) / np.sqrt(len(parts))
    shown = _axes.show_image(axes[-1], chi, residual_cmap, **limits)
    names = [*images, '(Image - model) / noise']
    for axis, title in zip(axes, names, strict=True):
        if titles:
            axis.set_title(title, fontsize='medium')
            _axes.label_pixels(axis)
        else:
            axis.set(xticks=[], yticks=[])
    if colorbar:
        _axes.add_colorbar(shown, axes[-1], 'sigma', extend='both')
    return tuple(axes)


def _stretch(image, vmax):
    """Return a scale that is linear near the sky and logarithmic far above it."""
    from astropy.visualization import AsinhStretch, ImageNormalize

    good = image[np.isfinite(image)]
    if vmax is None:
        vmax = np.percentile(good, _HIGH_PERCENTILE) if good.size else 10.0
    vmax = max(float(vmax), 5.0)
    stretch = AsinhStretch(a=min(6.0 / (vmax - _LOW_SIGMA), 0.9))
    return ImageNormalize(vmin=_LOW_SIGMA, vmax=vmax, stretch=stretch, clip=False)


def _mark_sources(ax, reconstruction):
    """Draw dots on stars, crosses on galaxies."""
    catalog = reconstruction.catalog
    rows, columns = reconstruction.slices
    x, y = as_positions(catalog, 'catalog').T
    x, y = x - columns.start, y - rows.start
    ny, nx = reconstruction.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    galaxy = np.zeros(len(x), dtype=bool)
    if 'galaxy_probability' in catalog.colnames:
        galaxy = _axes.values_of(catalog, 'galaxy_probability') > 0.5
    style = {'ms': 5, 'color': _axes.ORANGE, 'mew': 1.0}
    for chosen, marker in ((inside & ~galaxy, '.'), (inside & galaxy, 'x')):
        ax.plot(x[chosen], y[chosen], marker, **style)
