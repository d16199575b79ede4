# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A catalogue against its image: posterior predictive check, and reconstruction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from astropy.table import QTable
from astropy.utils.decorators import deprecated

from bliss_astro._arguments import check_integer, check_rng, require_type
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.catalog._rendering import renderer_of, scale_of, sources_of
from bliss_astro.coadds._noise import input_kernel
from bliss_astro.detection._detect import detect
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._psf import central_psf
from bliss_astro.rendering._scene import ModelRenderer, Sources

from ._findings import find_faults
from ._images import check_draws, check_exposures, each_band, finder_options
from ._reconstruction import Reconstruction
from ._refine import first_shapes, refine
from ._residuals import Residuals, cell_statistics, cells_of

# Sources more probable than this are in every draw; one within so many
# pixels is the same.
_CERTAIN, _SAME = 0.99, 2.0
# Pixels closer to the border than this many FWHM are not tested: light of sources
# beyond it is in no catalogue.
_BORDER = 1.5


@dataclass(frozen=True, eq=False)
class CatalogCheck:
    """
    Posterior predictive check of a catalogue, made by its method ``check``.

    Attributes
    ----------
    residual : float32 `~numpy.ndarray`, shape (ny, nx)
        Image less the catalogue's light, in units of each pixel's noise: the
        median over the draws; NaN in bad pixels.

    model : float32 `~numpy.ndarray`, shape (ny, nx)
        The median of the light of the draws, without sky, in data units.

    cells : `~astropy.table.QTable`
        A row a region: its label, mean position, ``n_pixels``, ``chi2`` of the first
        draw, what replicated noise makes of it (``chi2_expected`` with the standard
        deviation ``chi2_err``), ``p_value`` (the probability that replicated noise has
        a larger one), and ``offset`` with ``offset_err``: how much brighter the
        sky is than stated, in units of its noise.

    labels : int `~numpy.ndarray`, shape (ny, nx)
        The region of each pixel; negative for none.

    grid : tuple of int or None
        Rows and columns, if the regions are a grid of cells.

    p_value : float
        P-value of the chi-square of the whole image.

    tests : `~astropy.table.QTable`
        A row a test, faults or not:

        * ``kind``, the quantity: ``'noise'``, ``'photon noise'``, ``'background'``,
          ``'psf'``, ``'psf shape'``, ``'cells'``, ``'draws'``, or of a place
          ``'missing source'``, ``'extended source'``, ``'surplus light'``, ``'source
          shape'``; and ``text``, its meaning in plain words;
        * ``alarm``: whether it is a fault, more than noise makes and more than matters;
        * ``x``, ``y``: the place in pixels; NaN if it is not about one place;
        * ``value``, ``error``: relative error of the noise or of the sources' variance,
          offset of the sky in units of its noise, relative error of the PSF's width,
          share of regions, flux of a place, relative excess of a source's width;
        * ``sigmas``, ``p_value``: its significance; the p-value allows for the tests of
          its kind, not for the other kinds.

    n_draws : int
        Number of catalogues that were drawn; 0 if the table's rows were taken.
    """

    residual: np.ndarray
    model: np.ndarray
    cells: QTable
    labels: np.ndarray
    grid: tuple[int, int] | None
    p_value: float
    tests: QTable
    n_draws: int

    @property
    def shape(self):
        """Shape ``(ny, nx)`` of the image."""
        return self.residual.shape

    @property
    def findings(self):
        """Faults among ``tests``, gravest first (`~astropy.table.QTable`)."""
        return self.tests[self.tests['alarm']]

    @property
    def passed(self):
        """Whether no fault was found (bool)."""
        return not self.tests['alarm'].any()

    @deprecated('0.1', alternative='CatalogCheck.tests')
    def to_table(self):
        """Return ``tests`` (`~astropy.table.QTable`)."""
        return self.tests

    def summary(self, *, n_most=8):
        """
        Return the findings as one text.

        Parameters
        ----------
        n_most : int, optional
            The number of single places that are named.

        Returns
        -------
        text : str
            A line per finding.
        """
        found = self.findings
        is_place = np.isfinite(found['x'])
        lines = [*found['text'][~is_place], *found['text'][is_place][:n_most]]
        if is_place.sum() > n_most:
            lines.append(f'and {is_place.sum() - n_most} more places, see findings')
        if not lines:
            lines = ['nothing found: what is left over looks like the stated noise']
        return '\n'.join(f'- {line}' for line in lines)

    def plot(self, *, ax=None, **kwargs):
        """
        Draw the residual map; see `bliss_astro.plotting.plot_check`.

        Parameters
        ----------
        ax : pair of `~matplotlib.axes.Axes` or None, optional
            Axes to draw on; by default a new figure.

        **kwargs
            For `~bliss_astro.plotting.plot_check`.

        Returns
        -------
        axes : tuple of `~matplotlib.axes.Axes`
            The axes.
        """
        from bliss_astro.plotting import plot_check

        return plot_check(self, ax=ax, **kwargs)

    def __repr__(self):
        ny, nx = self.shape
        n = len(self.findings)
        what = 'nothing found' if n == 0 else f'{n} finding{"s" if n > 1 else ""}'
        reduced = self.cells['chi2'].sum() / max(self.cells['n_pixels'].sum(), 1)
        return (
            f'<CatalogCheck of {ny} x {nx} px: chi2 / n = {reduced:.3f}, '
            f'{what}>\n{self.summary()}'
        )


def check_catalog(catalog, exposure, *, n_draws=3, rng=None, regions=None):
    """Compare a catalogue with its image, its method ``check``: `CatalogCheck`."""
    n_draws = check_integer('n_draws', n_draws, error=ValueError)
    shape = check_exposures(catalog, exposure)
    check_draws(catalog, n_draws)
    cells, rng = cells_of(regions, shape), check_rng(rng)
    tables = _draw(catalog, n_draws, rng)

    def check(exposure, band):
        draws = [_sources_of(some, band) for some in tables]
        return _check_band(exposure, draws, *cells, n_draws=n_draws, rng=rng)

    return each_band(catalog, exposure, check)


def _check_band(exposure, draws, labels, grid, *, n_draws, rng):
    """Compare drawn `Sources` with the image in one band."""
    kernel = input_kernel(exposure)
    renderer = ModelRenderer.of(exposure)
    fwhm = float(central_psf(exposure).fwhm)
    if any(sources.is_galaxy.any() for sources in draws):
        first_shapes(exposure, renderer, draws, kernel, fwhm)
    refined = [
        refine(exposure, renderer, sources, kernel, fwhm=fwhm, rng=rng)
        for sources in draws
    ]
    # In place of a mean that one draw could spoil.
    middle = np.median([draw.model for draw in refined], axis=0, overwrite_input=True)
    residuals, typical = (
        Residuals.of(exposure, model, kernel) for model in (refined[0].model, middle)
    )
    residual = np.where(typical.good, typical.ratio, np.float32(np.nan))
    border = int(np.ceil(_BORDER * fwhm))
    residuals, typical = (r.without_border(border) for r in (residuals, typical))
    tests = find_faults(
        exposure, refined[0], residuals, typical, renderer, labels, fwhm=fwhm
    )
    chi2 = np.sum(np.square(residuals.ratio), dtype=float)
    return CatalogCheck(
        residual=residual,
        model=middle,
        cells=_cell_table(residuals, labels),
        labels=labels,
        grid=grid,
        p_value=float(residuals.chi2_p_value(chi2, np.count_nonzero(residuals.good))),
        tests=_formatted(QTable(rows=tests), 'x y value error sigmas', '.4g'),
        n_draws=n_draws,
    )


def _draw(catalog, n_draws, rng):
    """Draw catalogues, each with certain sources, or take the rows of one: tables."""
    if n_draws == 0:
        return [(catalog,)]
    posterior = catalog.posterior
    # A network is never quite sure: once in thousands of draws it leaves
    # out a star of hundreds of sigma, which is no fault of the image.
    known = hasattr(posterior, 'at_threshold')
    draws = posterior.sample(n_draws, rng=rng)
    certain = [posterior.at_threshold(_CERTAIN)] if known else []
    return [(draw, *certain) for draw in draws]


def _sources_of(tables, band):
    """`Sources` of a drawn table in a band, and those of another that it lacks."""
    drawn, *certain = (Sources.of(table, band) for table in tables)
    return drawn.joined_by(*certain, distance=_SAME) if certain else drawn


def _cell_table(residuals, labels):
    """The regions that have pixels, as a table."""
    cells = cell_statistics(residuals, labels)
    keep = np.flatnonzero(cells['n_pixels'])
    table = QTable({'region': keep, **{name: v[keep] for name, v in cells.items()}})
    table = _formatted(table, 'x y chi2 chi2_err', '.1f')
    return _formatted(table, 'p_value offset offset_err', '.3g')


def _formatted(table, names, form):
    for name in names.split():
        table[name].info.format = form
    return table


# -- reconstruction ----------------------------------------------------------------


def reconstruct(exposure, catalog=None, *, finder=None, n_draws=0, rng=None):
    """
    Reconstruct an image from its catalogue: model, residual, and light of each source.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`, \
            `~bliss_astro.exposures.ExposureSet` or dict
        The image, or those in several bands by name.

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
    reconstruction : `Reconstruction` or dict of them
        Model, residual and each source's share of the data; by band of several, with
        the fluxes in it. Bands that detection resampled are so here.

    Raises
    ------
    TypeError
        If ``exposure``, ``catalog`` or ``finder`` is none, or if both of the latter
        are given.

    ValueError
        If the exposure has another shape or unit than the catalogue, or is in a band
        that it has not, if there is no PSF, if ``n_draws`` is not an integer of 0 or
        more, or if there is no posterior to draw from.

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
    n_draws = check_integer('n_draws', n_draws, error=ValueError)
    if catalog is None and isinstance(exposure, Exposure | Mapping):
        catalog = detect(exposure, finder_options(finder))
        if isinstance(exposure, Mapping):
            # On one pixel grid.
            exposure = catalog.exposures or catalog.exposure
    elif finder is not None:
        msg = 'finder is for detecting, and there is a catalog; give one of them'
        raise TypeError(msg)
    if catalog is not None:
        require_type('catalog', catalog, ProbabilisticCatalog)
    blind = not hasattr(getattr(catalog, 'posterior', None), 'facts')
    check_exposures(catalog, exposure, with_psf=blind)
    check_draws(catalog, n_draws)
    tables = catalog.posterior.sample(n_draws, rng=rng) if n_draws else ()

    def reconstruct(exposure, band):
        if exposure.psf is None:
            renderer = renderer_of(catalog, shape=exposure.shape)
        else:
            renderer = ModelRenderer.of(exposure)
        scale = scale_of(catalog, wcs=exposure.wcs)
        sources = sources_of(catalog, scale=scale, band=band)
        draws = np.zeros((n_draws, *exposure.shape), dtype=np.float32)
        for image, table in zip(draws, tables, strict=True):
            own = sources_of(table, scale=scale, quiet=True, band=band)
            image[:] = renderer(own)
        whole = tuple(slice(0, n) for n in exposure.shape)
        return Reconstruction(
            exposure, catalog, renderer(sources), draws, whole, renderer, sources
        )

    return each_band(catalog, exposure, reconstruct)
