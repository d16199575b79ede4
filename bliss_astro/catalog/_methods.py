# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Methods of a catalogue: intervals and samples of columns, comparisons with its image.

The functions are methods of `~bliss_astro.catalog.ProbabilisticCatalog`; checks and
figures come after the catalogue and are imported in them.
"""

import statistics

import astropy.units as u
import numpy as np
from astropy.uncertainty import Distribution

from bliss_astro._arguments import as_list, check_choice, check_fraction, check_rng

from ._columns import (
    COLUMNS,
    SHAPE_NAMES,
    ab_magnitude,
    error_name,
    explain_no_shapes,
    flux_of,
    has_magnitude,
    is_direction,
)
from ._draws import draw_quantiles

_DEFAULT_SAMPLES = 1000


def check(self, exposure=None, *, n_draws=3, rng=None, regions=None):
    """
    Compare the catalogue with the image that it was made of.

    The posterior predictive test: whole catalogues are drawn from the
    posterior, their images are rendered with the PSF of the exposure and
    taken off the data. What is left over must be noise as the exposure
    states it; where it is not, the finding says what is
    probably wrong: the PSF, the background, the noise, the gain, or the catalogue.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure` or mapping, optional
        The image that the catalogue was made of, with its PSF, or those of several
        bands by name; by default `exposures`, or `exposure`, which files do not keep.

    n_draws : int, optional
        Number of catalogues to draw. Tests use the first one, maps
        the median of all. 0 takes the rows of the table instead, which needs
        no posterior; p-values are then only about right.

    rng : int, `~numpy.random.Generator` or None, optional
        For the draws.

    regions : int, pair of int or 2D int array, optional
        Where chi-squares are given: the side of square cells in pixels, a
        pair (rows, columns) of numbers of cells, or the label of
        each pixel (negative for none). By default cells of 24 to 64 pixels.

    Returns
    -------
    check : `~bliss_astro.checks.CatalogCheck` or dict of them
        Residual map, chi-squares and findings; by band of several, of the same draws.

    Raises
    ------
    TypeError
        If ``exposure`` is none, or if ``regions`` cannot be understood.

    ValueError
        If the exposure has another shape or unit than the catalogue, or
        no PSF, if there is no posterior to draw from, or if there is
        neither ``exposure`` nor one that the catalogue holds.

    Notes
    -----
    A chi-square of the residuals of one draw from the exact posterior has
    the distribution of the noise's own, although the posterior was made of
    the same data (V. E. Johnson 2007, Bayesian Analysis 2, 719): p-values
    are uniform where model and posterior are right. The distribution is
    thus known without replicated images; correlations of the noise enter
    by their pairs of pixels.

    A network's draws of bright stars with neighbours may be wider than the
    data allow by many sigma. Fluxes and positions of drawn sources with a
    signal-to-noise ratio above 8 are therefore drawn again from the
    likelihood, all together; how far that moves them is a test of its own.

    Shapes of galaxies are nuisances here, whether the posterior infers them or
    not: disk or de Vaucouleurs bulge, radius, axis ratio and angle are fitted by
    weighted least squares, beginning at the position and flux of the draw.

    A fault must be more than noise makes (an image without any gets a
    finding in 1 % of the cases, all tests taken together) and more than
    matters: 2 % of the noise, 8 % of the sources' variance, 0.05 sigma of
    the sky, 1.5 % of the PSF's width. Pixels within 1.5 FWHM of the border
    are not tested, as light of sources beyond it is in no catalogue.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, detect_sources
    >>> exposure, truth = CoaddSimulator().sample(rng=3)
    >>> catalog = detect_sources(exposure)
    >>> catalog.check(rng=1).passed
    True
    """
    from bliss_astro.checks._check import check_catalog

    exposure = _own_exposure(self, exposure)
    return check_catalog(self, exposure, n_draws=n_draws, rng=rng, regions=regions)


def reconstruct(self, exposure=None, *, n_draws=0, rng=None):
    """
    Take the image apart into the rows and what is left over.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure` or mapping, optional
        The image, or those of several bands by name; by default `exposures`, or
        `exposure`, which files do not keep.

    n_draws, rng
        As for `~bliss_astro.checks.reconstruct`.

    Returns
    -------
    reconstruction : `~bliss_astro.checks.Reconstruction` or dict of them
        Model, residual and each source's share of the data; by band of several.

    Raises
    ------
    ValueError
        As for `~bliss_astro.checks.reconstruct`, or if there is neither
        ``exposure`` nor one that the catalogue holds.

    See Also
    --------
    bliss_astro.checks.reconstruct : The same, with all about it.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, detect_sources
    >>> exposure, truth = CoaddSimulator().sample(rng=3)
    >>> catalog = detect_sources(exposure, encoder='stars')
    >>> catalog.reconstruct().residual.shape == exposure.shape
    True
    """
    from bliss_astro.checks import reconstruct

    exposure = _own_exposure(self, exposure)
    return reconstruct(exposure, self, n_draws=n_draws, rng=rng)


def plot(self, image=None, *, ax=None, **kwargs):
    """
    Plot the rows over the image, coloured by their probability.

    Parameters
    ----------
    image : `~bliss_astro.exposures.Exposure`, 2D array_like or mapping, optional
        The image, or those of several bands by name, which make a colour picture; by
        default `exposures`, or `exposure`, which files do not keep.

    ax : `~matplotlib.axes.Axes`, optional
        Where to; by default the axes of a new figure, on the sky where there
        is a WCS.

    **kwargs
        For `~bliss_astro.plotting.plot_catalog`: ``truth``, ``stretch``,
        ``radius`` and others.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.

    Raises
    ------
    ValueError
        If there is neither ``image`` nor one that the catalogue holds, or if it has
        another shape than that of the catalogue's posterior.
    """
    from bliss_astro.plotting import plot_catalog

    image = _own_exposure(self, image, name='image')
    posterior = self.posterior
    shape = getattr(image, 'shape', None) or np.shape(getattr(image, 'data', image))
    if posterior is not None and len(shape) == 2 and shape != tuple(posterior.shape):
        msg = (
            f'image has the shape {shape}, but the catalogue is of one of '
            f'{tuple(posterior.shape)}'
        )
        raise ValueError(msg)
    kwargs.setdefault('wcs', getattr(image, 'wcs', None) or self.wcs)
    return plot_catalog(image, self, ax=ax, **kwargs)


def credible_interval(self, column, level=0.68, *, gaussian=False):
    """
    Central credible interval of a column, row by row.

    The posterior holds ``level`` of the probability between the limits, and equal
    shares below and above, given that the source exists.

    Parameters
    ----------
    column : str
        ``'x_centroid'``, ``'y_centroid'``, ``'flux'``, ``'mag'`` or those of a
        band (``'flux_g'``), a shape (``'disk_radius'``, say), given that the
        source is a galaxy, or another column that has samples.

    level : float, optional
        Probability within the interval, between 0 and 1.

    gaussian : bool, optional
        `True` takes the normal distribution with the row's value as its
        mean and the row's error as its standard deviation, whether
        there is a posterior or not. That is the way out for rows whose
        posterior is gone; it is poor for faint sources, whose fluxes
        have skewed posteriors.

    Returns
    -------
    lower, upper : `~numpy.ndarray` or `~astropy.units.Quantity`
        Limits, in the unit of the column. Without ``gaussian`` they come
        from `posterior`, or where that is gone from the samples that the
        table holds in a column ``<column>_samples``. Limits of the angle
        lie around it and may be below 0 or above 180 degrees.

    Raises
    ------
    ValueError
        If there is no such column, if ``level`` is not between 0 and 1,
        or if there is nothing to take the interval from.
    """
    _check_column(self, column)
    check_fraction('level', level)
    if gaussian:
        return _gaussian_interval(self, column, level)
    if (flux := flux_of(column)) is not None:
        low, high = self.credible_interval(flux, level)
        # A brighter limit has the smaller magnitude.
        return ab_magnitude(high), ab_magnitude(low)
    if self.posterior is not None:
        limits = np.empty((2, 0))
        if len(self):
            limits = self.posterior.interval(self, column, level=level)
    elif f'{column}_samples' in self.colnames:
        draws = _without_column(self[f'{column}_samples'])
        tails = [0.5 * (1 - level), 0.5 * (1 + level)]
        if is_direction(column):
            # Plain numbers are degrees.
            draws = u.Quantity(draws, getattr(draws, 'unit', u.deg)).to_value(u.deg)
        limits = draw_quantiles(column, draws, tails)
    else:
        msg = (
            'this table has no posterior (it was read from a format that keeps '
            'rows only, stacked from several images or made without one) and no '
            f"column '{column}_samples'; gaussian=True gives the interval of a "
            "normal distribution with the row's error"
        )
        raise ValueError(msg)
    lower, upper = (_in_unit_of(self[column], limit) for limit in limits)
    return lower, upper


def samples(self, column, *, n_samples=None, rng=None):
    """
    Posterior samples of a column, or joint ones of several, as astropy distributions.

    Parameters
    ----------
    column : str or list of str
        Name of the column, or several; ``'galaxy'`` is whether a draw is one.

    n_samples : int or `None`, optional
        Number of samples to draw from the posterior. `None` takes the samples
        that the table holds in ``<column>_samples``, or else draws 1000.

    rng : `None`, int or `~numpy.random.Generator`, optional
        Source of randomness (SPEC 7).

    Returns
    -------
    distribution : `~astropy.uncertainty.Distribution` or dict of them by name
        Samples of each row given that its source exists, of shape
        (n_rows,), in the unit of the column. Those of several columns are draws
        of the joint posterior of each source: the k-th ones of a row belong together,
        fluxes in different bands are correlated as the data and the prior of colours
        make them, and functions of them (colours, say) have the right widths. Shapes
        are independent of fluxes here, and draws of different rows of each other;
        ``posterior.sample`` has joint ones.

    Raises
    ------
    ValueError
        If there is no such column, or if neither the table holds samples
        nor its posterior gives them.
    """
    names = [column] if isinstance(column, str) else as_list('column', column)
    for name in names:
        if name != 'galaxy' or 'galaxy_probability' not in self.colnames:
            _check_column(self, name)
    # Magnitudes are computed of the draws of fluxes.
    needed = list(dict.fromkeys(flux_of(name) or name for name in names))
    stored = [f'{name}_samples' for name in needed]
    lacking = [name for name in stored if name not in self.colnames]
    if n_samples is None and not lacking:
        # Out of the Column class, which Distribution cannot extend.
        drawn = [_without_column(self[name]) for name in stored]
    elif self.posterior is None:
        msg = (
            f'there are no draws of {column!r}: the table has no column '
            f'{(lacking or stored)[0]!r}, and no posterior that gives draws row by row'
        )
        raise ValueError(msg)
    else:
        n_samples = _DEFAULT_SAMPLES if n_samples is None else n_samples
        options = {'n_samples': n_samples, 'rng': check_rng(rng)}
        if len(needed) == 1:
            drawn = [self.posterior.sample_rows(self, needed[0], **options)]
        else:
            drawn = self.posterior.sample_rows(self, needed, **options).values()
        pairs = zip(needed, drawn, strict=True)
        drawn = [_in_unit_of(self.columns.get(name), values) for name, values in pairs]
    drawn = dict(zip(needed, drawn, strict=True))
    made = {
        name: Distribution(ab_magnitude(drawn[flux]) if flux else drawn[name])
        for name, flux in zip(names, map(flux_of, names), strict=True)
    }
    return made[column] if isinstance(column, str) else made


def _check_column(catalog, column):
    """Raise unless a column is there, and can have an interval."""
    if column in SHAPE_NAMES and column not in catalog.colnames:
        raise ValueError(explain_no_shapes(column, catalog.meta.get('encoder')))
    check_choice('column', column, catalog.colnames)
    if flux_of(column) and not has_magnitude(unit := catalog['flux'].unit):
        msg = f'column {column!r} needs fluxes with a magnitude, not in {unit}'
        raise ValueError(msg)


def _in_unit_of(column, values):
    """Convert values in the unit of the posterior's tables to that of a column."""
    unit = getattr(column, 'unit', None)
    if unit is None:
        return np.asarray(values)
    return u.Quantity(values, getattr(values, 'unit', unit)).to(unit)


def _without_column(values):
    """Quantities for columns with a unit, arrays for others."""
    unit = getattr(values, 'unit', None)
    return np.asarray(values) if unit is None else u.Quantity(values, unit)


def _gaussian_interval(catalog, column, level):
    """Interval of the normal distribution with the row's error."""
    error = error_name(column)
    if error not in COLUMNS or error not in catalog.colnames:
        known = [name for name in COLUMNS if error_name(name) in catalog.colnames]
        msg = (
            f'gaussian=True needs a column with the error of {column!r}; '
            f'there is one for {", ".join(known)}'
        )
        raise ValueError(msg)
    centre, error = (_without_column(catalog[name]) for name in (column, error))
    half = statistics.NormalDist().inv_cdf(0.5 + level / 2) * error
    return centre - half, centre + half


def _own_exposure(catalog, exposure, *, name='exposure'):
    """The exposure that was given, or that of the catalogue, in all of its bands."""
    if exposure is None:
        exposure = catalog.exposures or catalog.exposure
    if exposure is None:
        msg = (
            f'{name} must be given: the catalogue does not hold the image that it was '
            'made of (files do not keep it, nor do stacked tables)'
        )
        raise ValueError(msg)
    return exposure
