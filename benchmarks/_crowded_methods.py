# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What is found in a crowded cut-out: by us, by photutils, by SEP.
"""

import itertools
import time
import warnings

import astropy.units as u
import numpy as np

from bliss_astro import detect_sources

__all__ = ['find_ours', 'find_sep', 'find_stars', 'iterative_grid', 'low_background']

# Side in pixels of the cells in which what is left over is measured.
_BOX = 24


def magnitude(flux):
    """Magnitude of a flux in nmgy; NaN if that is not positive."""
    flux = np.asarray(flux, dtype=float)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(flux > 0, 22.5 - 2.5 * np.log10(flux), np.nan)


def _found(x, y, flux, origin):
    x, y, flux = (np.ma.filled(np.ma.asarray(v, float), np.nan) for v in (x, y, flux))
    good = np.isfinite(x) & np.isfinite(y) & (flux > 0)
    return {
        'x': x[good] + origin[0],
        'y': y[good] + origin[1],
        'mag': magnitude(flux[good]),
    }


def _mesh(data, mask, estimator, *, box=_BOX, clip=None):
    from photutils.background import Background2D

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = Background2D(
            data, box, mask=mask, bkg_estimator=estimator, sigma_clip=clip
        )
    return np.asarray(found.background, np.float32)


def low_background(cutout, *, share=5.0, box=_BOX):
    """
    The lower envelope of a crowded image: a low percentile on a mesh.

    Modes and clipped medians are far too high where no pixel is free of stars.

    Parameters
    ----------
    cutout : `~bliss_astro.exposures.Exposure`
        The image.

    share : float, optional
        The percentile.

    box : int, optional
        Side of a cell of the mesh, pixels.

    Returns
    -------
    background : float32 array
        In the unit of the data, on top of what the cut-out calls its background.
    """
    from photutils.background import BackgroundBase

    class Percentile(BackgroundBase):
        def calc_background(self, data, *, axis=None, masked=False):
            values = np.ma.filled(np.ma.asarray(data, float), np.nan)
            return np.nanpercentile(values, share, axis=axis)

    data = np.asarray(cutout.data - cutout.background, float)
    return _mesh(data, cutout.mask, Percentile(sigma_clip=None), box=box)


def _with_background(cutout, extra):
    """The cut-out with a higher background, which has noise of its own."""
    variance = np.square(np.asarray(cutout.bkg_error, float))
    variance = variance + np.maximum(extra, 0) / cutout.effective_gain
    return cutout.replace(
        background=np.asarray(cutout.background + extra, np.float32),
        bkg_error=np.sqrt(variance).astype(np.float32),
    )


def find_ours(cutout, origin, *, encoder, threshold=0.5, flux_min=None, n_rounds=3):
    """
    What `~bliss_astro.detect_sources` finds, the background being measured.

    The first background is a low percentile. Then sources are found, drawn and
    taken off, the median of what is left on a mesh is added to the background,
    and they are found again.

    Parameters
    ----------
    cutout : `~bliss_astro.exposures.Exposure`
        In nmgy, the survey's sky subtracted.

    origin : (x, y) pair of int
        Where its first pixel is on the frame.

    encoder : str
        Name or file.

    threshold : float, optional
        Smallest probability.

    flux_min : float, optional
        Flux floor in nmgy; by default a signal-to-noise ratio of 3.4.

    n_rounds : int, optional
        How often the background is measured anew; 0 takes the survey's.

    Returns
    -------
    found : dict of array
        ``x``, ``y``, ``mag``.

    info : dict
        ``seconds``, ``catalog``, ``exposure`` and the ``levels`` of the background
        (medians in nmgy, by round).
    """
    from astropy.stats import SigmaClip
    from photutils.background import MedianBackground

    start = time.perf_counter()
    floor = None if flux_min is None else flux_min * u.nmgy
    extra = low_background(cutout) if n_rounds else np.zeros(cutout.shape, np.float32)
    levels = []
    for k in range(n_rounds + 1):
        levels.append(float(np.median(extra)))
        exposure = _with_background(cutout, extra)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            catalog = detect_sources(
                exposure, threshold=threshold, encoder=encoder, flux_min=floor
            )
        if k < n_rounds:
            image = u.Quantity(catalog.render()).value
            left = np.asarray(exposure.data - exposure.background, float) - image
            extra = extra + _mesh(
                left, cutout.mask, MedianBackground(), clip=SigmaClip(3.0)
            )
    found = _found(
        catalog['x_centroid'],
        catalog['y_centroid'],
        u.Quantity(catalog['flux']).to_value(u.nmgy),
        origin,
    )
    seconds = time.perf_counter() - start
    return found, {
        'seconds': seconds,
        'catalog': catalog,
        'exposure': exposure,
        'levels': levels,
    }


# -- the others ------------------------------------------------------------------


def psf_image(cutout, *, oversampling=4, reach=12):
    """
    The PSF in the middle of a cut-out as photutils takes it.

    Parameters
    ----------
    cutout : `~bliss_astro.exposures.Exposure`
        With a PSF.

    oversampling, reach : int, optional
        Samples per pixel, and half the side in pixels.

    Returns
    -------
    model : `~photutils.psf.ImagePSF`
        With unit flux.
    """
    from photutils.psf import ImagePSF

    ny, nx = cutout.shape
    psf = cutout.psf_at(nx // 2, ny // 2)
    psf.x_0, psf.y_0 = 0.0, 0.0
    n = reach * oversampling
    yy, xx = np.mgrid[-n : n + 1, -n : n + 1] / oversampling
    return ImagePSF(psf(xx, yy), oversampling=oversampling), psf.fwhm


def _photometry(data, mask, noise, setting, model, fwhm):
    from photutils.background import LocalBackground, MMMBackground
    from photutils.detection import DAOStarFinder
    from photutils.psf import IterativePSFPhotometry, SourceGrouper

    threshold, factor, background, grouped = setting
    # Its own smallest separation of 2.5 FWHM would lose nearly all of a cluster.
    finder = DAOStarFinder(threshold * noise, factor * fwhm, min_separation=0)
    local = None
    if background == 'local':
        local = LocalBackground(4, 9, bkg_estimator=MMMBackground())

    def photometry(**bounds):
        fit = IterativePSFPhotometry(
            model,
            (5, 5),
            finder,
            grouper=SourceGrouper(fwhm) if grouped else None,
            local_bkg_estimator=local,
            aperture_radius=2,
            maxiters=4,
            sub_shape=(21, 21),
            group_warning_threshold=10_000,
            **bounds,
        )
        return fit(data, mask=mask, error=np.full(data.shape, noise))

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            table = photometry()
        except ValueError:
            # A star whose fit ends just outside of the image ends photutils 3.0.
            table = photometry(xy_bounds=5.0)
    empty = np.empty(0)
    if table is None:
        return empty, empty, empty
    return table['x_fit'], table['y_fit'], table['flux_fit']


def iterative_grid(
    cutout,
    origin,
    *,
    mask=None,
    thresholds=(5.0, 10.0, 20.0),
    factors=(0.8, 1.0),
    backgrounds=('low', 'local'),
    groups=(False, True),
):
    """
    DAOStarFinder + IterativePSFPhotometry of photutils over a grid of settings.

    The PSF is told, as ours is told.

    Parameters
    ----------
    cutout, origin
        As for `find_ours`.

    mask : 2D bool array, optional
        Pixels where nothing need be found, to save time.

    thresholds : tuple of float, optional
        In units of the pixel noise.

    factors : tuple of float, optional
        FWHM of the finder over that of the PSF.

    backgrounds : tuple of str, optional
        ``'survey'``: none; ``'low'``: `low_background` taken off; ``'local'``: the
        mode in an annulus of 4 to 9 px around each source.

    groups : tuple of bool, optional
        Whether stars within a FWHM are fitted together.

    Yields
    ------
    name : str
        The settings in words.

    found : dict of array
        ``x``, ``y``, ``mag``.

    seconds : float
        Time.
    """
    mask = cutout.mask if mask is None else cutout.mask | mask
    model, fwhm = psf_image(cutout)
    noise = float(np.median(cutout.bkg_error))
    data = np.asarray(cutout.data - cutout.background, float)
    low = low_background(cutout)
    for setting in itertools.product(thresholds, factors, backgrounds, groups):
        threshold, factor, background, grouped = setting
        start = time.perf_counter()
        image = data - low if background == 'low' else data
        rows = _photometry(image, mask, noise, setting, model, fwhm)
        words = f'{threshold:g} sigma, {factor:g} FWHM, {background} background'
        words += ', grouped' if grouped else ''
        yield words, _found(*rows, origin), time.perf_counter() - start


def find_stars(cutout, origin, *, threshold=10.0):
    """
    DAOStarFinder alone, with its own fluxes.

    Parameters
    ----------
    cutout, origin
        As for `find_ours`.

    threshold : float, optional
        In units of the pixel noise.

    Returns
    -------
    found : dict of array
        ``x``, ``y``, ``mag``; the flux is the pixels' sum in a stamp of 5 px over
        the share of the PSF that it holds.
    """
    from photutils.aperture import CircularAperture, aperture_photometry
    from photutils.detection import DAOStarFinder

    data = np.asarray(cutout.data - cutout.background, float) - low_background(cutout)
    noise = float(np.median(cutout.bkg_error))
    ny, nx = cutout.shape
    psf = cutout.psf_at(nx // 2, ny // 2)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        table = DAOStarFinder(threshold * noise, psf.fwhm, min_separation=0)(
            data, mask=cutout.mask
        )
    if table is None:
        return _found(*3 * [np.empty(0)], origin)
    x, y = (np.asarray(table[f'{k}_centroid'], float) for k in 'xy')
    radius = 0.7 * psf.fwhm
    apertures = CircularAperture(np.column_stack([x, y]), radius)
    flux = np.asarray(aperture_photometry(data, apertures)['aperture_sum'], float)
    return _found(x, y, flux / float(psf.encircled_flux(radius)), origin)


def find_sep(cutout, origin, *, threshold=1.5, n_pixels=3):
    """
    SEP with its own background on a fine mesh and its strongest deblending.

    Parameters
    ----------
    cutout, origin
        As for `find_ours`.

    threshold : float, optional
        In units of the background's scatter.

    n_pixels : int, optional
        Smallest number of pixels.

    Returns
    -------
    found : dict of array
        ``x``, ``y``, ``mag``; `None` if SEP is not installed.
    """
    try:
        import sep
    except ImportError:
        return None
    data = np.array(cutout.data - cutout.background, np.float64, order='C')
    data -= low_background(cutout)
    noise = float(np.median(cutout.bkg_error))
    sep.set_extract_pixstack(3_000_000)
    sep.set_sub_object_limit(20_000)
    # Half the light of nearly every star is another's: no Kron radius has a meaning.
    objects = sep.extract(
        data,
        threshold,
        err=noise,
        mask=np.array(cutout.mask),
        minarea=n_pixels,
        deblend_nthresh=64,
        deblend_cont=1e-5,
    )
    ny, nx = cutout.shape
    psf = cutout.psf_at(nx // 2, ny // 2)
    radius = 0.7 * psf.fwhm
    flux, *_ = sep.sum_circle(data, objects['x'], objects['y'], radius, subpix=5)
    flux = flux / float(psf.encircled_flux(radius))
    return _found(objects['x'], objects['y'], flux, origin)
