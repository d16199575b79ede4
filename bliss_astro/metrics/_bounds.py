# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Optimal signal-to-noise ratio and Cramer-Rao bounds of an isolated point source.
"""

import astropy.units as u
import numpy as np

from bliss_astro._arguments import first_wrong, has_sign, require

from ._inputs import check_maps, check_values, make_table, strip_unit, unit_psf

_STEP = 1e-3  # px, of the numerical derivatives; their error is of order step^4


def cramer_rao_bound(
    psf,
    flux,
    *,
    bkg_error,
    effective_gain=None,
    position=(0.0, 0.0),
    shape=(51, 51),
    free_position=True,
    free_background=False,
    variance_information=False,
    noise_correlation=(0.0, 0.0),
    mask=None,
):
    """
    Cramer-Rao bound of the flux and position of an isolated point source.

    The pixels are Gaussian with the variance ``bkg_error**2 + signal /
    effective_gain``. By default only the mean of the pixels is taken to inform about
    the source (for Poisson data this is the exact Fisher information); with
    ``variance_information`` also their variance, which is the exact information of
    the Gaussian approximation that the simulator draws from. The two differ by about
    1 part in twice the number of electrons per pixel.

    Parameters
    ----------
    psf : callable or `~astropy.modeling.Model`
        PSF with the pixel included: a model with the parameters ``flux``,
        ``x_0``, ``y_0`` (such as `~bliss_astro.psf.PSFModel` or those of photutils),
        or a function ``psf(dx, dy)`` of the offsets from the source for unit flux.

    flux : float, array_like or `~astropy.units.Quantity`
        Flux or fluxes.

    bkg_error : float, 2D array_like or `~astropy.units.Quantity`
        1 sigma noise of a pixel without the source, in the unit of ``flux``.

    effective_gain : float, 2D array_like, `~astropy.units.Quantity` or `None`, optional
        Electrons per unit of flux. `None` leaves the source's own noise out.

    position : tuple of two floats, optional
        Position (x, y) of the source relative to the centre of the central pixel.

    shape : tuple of two ints, optional
        Size (ny, nx) of the stamp.

    free_position : bool, optional
        Whether x and y are fitted too.

    free_background : bool, optional
        Whether a constant background is fitted too.

    variance_information : bool, optional
        Whether the variance of the pixels informs too, see above.

    noise_correlation : tuple of two floats, optional
        Correlation of the noise of neighbouring pixels along x and y; that of
        diagonal neighbours is their product, others are 0. Each below 0.5.

    mask : 2D bool array_like or `None`, optional
        `True` for pixels that are left out. Not with ``noise_correlation``.

    Returns
    -------
    bounds : `ScoreTable`
        A row per ``flux`` with the smallest standard errors of an unbiased measurement:
        ``flux_err``, ``x_err`` and ``y_err`` in pixels (NaN at a known position) and
        ``background_err`` per pixel (NaN if it is known); and the inverse of the Fisher
        matrix without units, ``covariance``, of the free ``meta['parameters']``.

    Raises
    ------
    ValueError
        If a number or a shape is not allowed.

    TypeError
        If ``psf`` is neither a model of a source nor a function.

    Examples
    --------
    A Gaussian PSF whose flux alone is fitted, without noise of its own, has the error
    ``bkg_error * sqrt(n_eff)`` with ``n_eff = 4 pi sigma^2``:

    >>> import numpy as np
    >>> from bliss_astro.metrics import cramer_rao_bound
    >>> def psf(dx, dy, sigma=2.0):
    ...     return np.exp(-(dx**2 + dy**2) / 2 / sigma**2) / (2 * np.pi * sigma**2)
    >>> bound = cramer_rao_bound(psf, 1000.0, bkg_error=3.0, free_position=False)
    >>> print(f'{bound["flux_err"][0]:.4f} {3.0 * np.sqrt(4 * np.pi * 4):.4f}')
    21.2694 21.2694
    """
    flux, unit = strip_unit(flux, 'flux')
    check_values(flux, 'flux', (0, np.inf), finite=True)
    scene = _parse_scene(
        psf, unit, bkg_error, effective_gain, position, shape, noise_correlation, mask
    )
    names = ['flux']
    images = [scene['psf'](*scene['offsets'])]
    if free_position:
        names += ['x', 'y']
        # The image moves against the offsets, hence the sign.
        images += [-_derivative(scene, axis) for axis in (0, 1)]
    n_source = len(names)
    if free_background:
        names.append('background')
        images.append(np.ones(images[0].shape))
    images = np.stack(images)
    covariance = np.empty((flux.size, len(names), len(names)))
    for k, value in enumerate(flux.ravel()):
        scale = np.array([value if name in 'xy' else 1.0 for name in names])
        fisher = _fisher(scene, value, images, n_source, variance_information)
        with np.errstate(divide='ignore', invalid='ignore'):
            covariance[k] = np.linalg.inv(fisher) / np.outer(scale, scale)
    errors = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).T
    errors = dict(zip(names, errors, strict=True))
    unit = 1 if unit is None else unit
    columns = {'flux': flux.ravel() * unit}
    for name in ('flux', 'x', 'y', 'background'):
        error = errors.get(name, np.full(flux.size, np.nan))
        columns[f'{name}_err'] = error if name in 'xy' else error * unit
    columns['covariance'] = covariance
    return make_table('bounds', columns, parameters=names)


def optimal_snr(psf, flux, *, bkg_error, effective_gain=None, **options):
    """
    Optimal signal-to-noise ratio of an isolated point source.

    It is sqrt(sum s^2 / (b + s)) over the pixels, with the source s and the variance b
    of the background in electrons: flux over its Cramer-Rao bound at known position
    and background.

    Parameters
    ----------
    psf, flux, bkg_error, effective_gain
        As in `cramer_rao_bound`.

    **options
        ``position``, ``shape``, ``noise_correlation`` and ``mask`` of the same.

    Returns
    -------
    snr : float or `~numpy.ndarray`
        With the shape of ``flux``.

    Notes
    -----
    The coadd paper (Wang et al. 2022) quotes 45 and 3 at magnitudes 20 and 23 in one
    exposure, growing to 100 and 7.5 "for d = 25". By this formula its PSF, with 865
    electrons of sky and 987.31 electrons per nmgy, gives 45.9 and 3.41 if normalised
    over 25 x 25 pixels, and 45.64 and 3.390 within our radius of 18.76 pixels. An ideal
    stack of d exposures gains sqrt(d): the printed 100 and 7.5 belong to d = 5, and
    d = 25 gives 229 and 17.1.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.metrics import optimal_snr
    >>> def psf(dx, dy, sigma=1.5):
    ...     return np.exp(-(dx**2 + dy**2) / 2 / sigma**2) / (2 * np.pi * sigma**2)
    >>> snr = optimal_snr(psf, 1e4, bkg_error=np.sqrt(865), effective_gain=1.0)
    >>> print(f'{snr:.2f}')
    51.89
    """
    options |= {'bkg_error': bkg_error, 'effective_gain': effective_gain}
    bound = cramer_rao_bound(psf, flux, free_position=False, **options)
    snr = u.Quantity(bound['flux'] / bound['flux_err'], u.one).value
    return snr.reshape(np.shape(flux))[()]


def _parse_scene(psf, unit, bkg_error, gain, position, shape, correlation, mask):
    """Return the quantities of the pixels."""
    shape = tuple(int(n) for n in shape)
    sound = len(shape) == 2 and min(shape) >= 3
    require(sound, 'shape', 'be two integers of at least 3', shape)
    bkg_error, _ = strip_unit(bkg_error, 'bkg_error', like=unit)
    sound = has_sign(bkg_error, 'positive')
    wrong = first_wrong(bkg_error, sound)
    require(sound.all(), 'bkg_error', 'be positive and finite', wrong)
    gain = _parse_gain(gain, unit)
    mask = np.asarray(False if mask is None else mask, dtype=bool)
    check_maps(shape, bkg_error=bkg_error, effective_gain=gain, mask=mask)
    correlation = tuple(correlation)
    sound = len(correlation) == 2 and all(abs(c) < 0.5 for c in correlation)
    allowed = 'be two numbers between -0.5 and 0.5 (exclusive)'
    require(sound, 'noise_correlation', allowed, correlation)
    if any(correlation) and mask.any():
        msg = 'mask cannot be combined with noise_correlation'
        raise ValueError(msg)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return {
        'psf': unit_psf(psf),
        'bkg_variance': np.broadcast_to(bkg_error**2, shape),
        'inverse_gain': np.broadcast_to(1 / gain, shape),
        'offsets': (x - shape[1] // 2 - position[0], y - shape[0] // 2 - position[1]),
        'correlation': correlation,
        'good': ~np.broadcast_to(mask, shape),
    }


def _parse_gain(gain, unit):
    """Return electrons per unit of flux as a plain number or map."""
    if isinstance(gain, u.Quantity):
        flux_unit = u.one if unit is None else unit
        counts = (u.electron, u.photon, u.adu, u.ct, u.one)
        known = [n for n in counts if gain.unit.is_equivalent(n / flux_unit)]
        allowed = f'be in electrons per unit of flux ({u.electron / flux_unit})'
        require(known, 'effective_gain', allowed, gain.unit, u.UnitConversionError)
        gain = gain.to_value(known[0] / flux_unit)
    gain = np.asarray(np.inf if gain is None else gain, dtype=float)
    wrong = first_wrong(gain, gain > 0)
    require((gain > 0).all(), 'effective_gain', 'be positive', wrong)
    return gain


def _derivative(scene, axis):
    """Compute the derivative of the unit-flux image by an offset (five points)."""

    def image(step):
        offsets = list(scene['offsets'])
        offsets[axis] = offsets[axis] + step * _STEP
        return scene['psf'](*offsets)

    return (image(-2) - 8 * image(-1) + 8 * image(1) - image(2)) / (12 * _STEP)


def _fisher(scene, flux, images, n_source, variance_information):
    """
    Compute the Fisher matrix of (flux, flux * x, flux * y, background).

    With C = S R S, S the diagonal of standard deviations and R their correlation, the
    mean contributes m_i^T C^-1 m_j and the variance 1/2 Tr(C^-1 C_i C^-1 C_j), which is
    sum(a_i a_j) + a_i^T (R o R^-1) a_j with a_i = S_i / S and o the product by element.
    """
    gain_variance = np.maximum(flux * images[0], 0) * scene['inverse_gain']
    variance = scene['bkg_variance'] + gain_variance
    scaled = np.where(scene['good'], images / np.sqrt(variance), 0.0)
    rx, ry = (
        np.eye(n) + rho * (np.eye(n, k=1) + np.eye(n, k=-1))
        for rho, n in zip(scene['correlation'], variance.shape[::-1], strict=True)
    )
    inv_x, inv_y = np.linalg.inv(rx), np.linalg.inv(ry)
    weighted = inv_y @ scaled @ inv_x if any(scene['correlation']) else scaled
    fisher = np.einsum('iyx,jyx->ij', scaled, weighted)
    if variance_information:
        # A constant background that is fitted does not change the noise.
        slope = images * scene['inverse_gain'] / variance / 2
        slope = np.where(scene['good'], slope, 0.0)
        slope[n_source:] = 0.0
        weighted = (ry * inv_y) @ slope @ (rx * inv_x)
        fisher += np.einsum('iyx,jyx->ij', slope, slope + weighted)
    return fisher
