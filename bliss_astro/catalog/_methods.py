# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Methods that compare a catalogue with its image, or show it in other programs.

The functions are methods of `~bliss_astro.catalog.ProbabilisticCatalog`; what they rest
on comes after the catalogue and is imported in them.
"""

import numbers

import astropy.units as u
import numpy as np

from bliss_astro._atomic import atomic_write
from bliss_astro.rendering._scene import Sources

from ._rendering import scale_of

# Radius of a region in pixels where the PSF is not known.
_DEFAULT_RADIUS = 5.0
# Colours of regions in DS9: of stars, of galaxies.
_COLORS = ('cyan', 'orange')


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
    exposure : `~bliss_astro.exposures.Exposure`, optional
        The image that the catalogue was made of, with its PSF; by default
        `exposure`, which files do not keep.

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
    check : `~bliss_astro.checks.CatalogCheck`
        Residual map, chi-squares and findings.

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
    exposure : `~bliss_astro.exposures.Exposure`, optional
        The image; by default `exposure`, which files do not keep.

    n_draws, rng
        As for `~bliss_astro.checks.reconstruct`.

    Returns
    -------
    reconstruction : `~bliss_astro.checks.Reconstruction`
        Model, residual and each source's share of the data.

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
    image : `~bliss_astro.exposures.Exposure` or 2D array_like, optional
        The image; by default `exposure`, which files do not keep.

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
    shape = np.shape(getattr(image, 'data', image))
    if posterior is not None and len(shape) == 2 and shape != tuple(posterior.shape):
        msg = (
            f'image has the shape {shape}, but the catalogue is of one of '
            f'{tuple(posterior.shape)}'
        )
        raise ValueError(msg)
    kwargs.setdefault('wcs', getattr(image, 'wcs', None) or self.wcs)
    return plot_catalog(image, self, ax=ax, **kwargs)


def to_regions(self, path=None, *, sky=None, radius=None, overwrite=False):
    """
    Make a circle of each row, for DS9 and other viewers.

    Parameters
    ----------
    path : path_like, optional
        File in the format of DS9 to write, ``.reg`` as a rule.

    sky : bool, optional
        Whether circles lie on the sky or in pixels; by default on the sky where
        there are positions on the sky.

    radius : float or `~astropy.units.Quantity`, optional
        Radius in pixels or as an angle; by default the PSF's full width at half
        maximum, or 5 pixels where it is not known.

    overwrite : bool, optional
        Whether an existing file may be replaced.

    Returns
    -------
    regions : ``regions.Regions``
        The circles, with the row's ``id`` as text and its probability as a tag;
        stars are cyan, galaxies orange.

    Raises
    ------
    ImportError
        If the package ``regions`` is not installed.

    ValueError
        If ``sky`` is `True` and there is no WCS, or ``radius`` not positive or
        in a unit that needs a WCS.
    """
    try:
        from regions import CirclePixelRegion, CircleSkyRegion, PixCoord, Regions
    except ImportError as error:
        msg = 'to_regions needs the package regions: pip install regions'
        raise ImportError(msg) from error
    has_sky = 'sky_centroid' in self.colnames
    sky = has_sky if sky is None else sky
    if sky and not has_sky:
        msg = 'sky=True needs positions on the sky: the image had no WCS'
        raise ValueError(msg)
    radius = _region_radius(self, radius, sky=sky)
    regions = Regions([])
    for row, galaxy in zip(self, Sources.of(self).is_galaxy, strict=True):
        centre, circle = row['sky_centroid'] if sky else None, CircleSkyRegion
        if not sky:
            centre = PixCoord(row['x_centroid'], row['y_centroid'])
            circle = CirclePixelRegion
        meta = {'text': str(row['id']), 'tag': [f'p={row["probability"]:.3f}']}
        visual = {'color': _COLORS[int(galaxy)]}
        regions.append(circle(centre, radius, meta=meta, visual=visual))
    if path is not None:
        with atomic_write(path, overwrite=overwrite) as temporary:
            regions.write(temporary, format='ds9', overwrite=True)
    return regions


def _region_radius(catalog, radius, *, sky):
    """Radius of the circles: pixels, or an angle on the sky."""
    if radius is None:
        exposure, radius = catalog.exposure, _DEFAULT_RADIUS
        if exposure is not None and exposure.psf is not None:
            ny, nx = exposure.shape
            radius = float(exposure.psf_at(nx // 2, ny // 2).fwhm)
    unit = getattr(radius, 'unit', u.pix)
    is_angle = unit.is_equivalent(u.arcsec)
    number = isinstance(radius, numbers.Real | u.Quantity)
    if not number or not (is_angle or unit.is_equivalent(u.pix)):
        msg = f'radius must be a number of pixels or an angle, got {radius!r:.60}'
        raise TypeError(msg)
    radius = u.Quantity(radius, unit)
    if not (np.isfinite(radius) and radius.value > 0):
        msg = f'radius must be positive, got {radius}'
        raise ValueError(msg)
    scale = scale_of(catalog)
    if is_angle != sky and scale is None:
        msg = (
            'the size of a pixel on the sky is not known; give radius as '
            f'{"an angle" if sky else "a number of pixels"}'
        )
        raise ValueError(msg)
    scales = u.pixel_scale((scale or 1) * u.arcsec / u.pix)
    return radius.to(u.arcsec, scales) if sky else radius.to_value(u.pix, scales)


def _own_exposure(catalog, exposure, *, name='exposure'):
    """The exposure that was given, or that of the catalogue."""
    exposure = catalog.exposure if exposure is None else exposure
    if exposure is None:
        msg = (
            f'{name} must be given: the catalogue does not hold the image that it was '
            'made of (files do not keep it, nor do stacked tables)'
        )
        raise ValueError(msg)
    return exposure
