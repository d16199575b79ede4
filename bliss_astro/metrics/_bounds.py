# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What an isolated point source allows: its optimal SNR and Cramer-Rao bounds.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np

from bliss_astro._messages import first_wrong

from ._inputs import strip_unit

__all__ = ['CramerRaoBound', 'cramer_rao_bound', 'optimal_snr']

_STEP = 1e-3  # px, of the numerical derivatives; their error is of order step^4


@dataclass(frozen=True, eq=False)
class CramerRaoBound:
    """
    Smallest standard errors of an unbiased measurement of an isolated source.

    Attributes
    ----------
    flux_err : float, `~numpy.ndarray` or `~astropy.units.Quantity`
        Of the flux, with its shape and unit.

    x_err, y_err : float or `~numpy.ndarray`
        Of the position, in pixels; NaN if the position is known.

    background_err : float, `~numpy.ndarray` or `~astropy.units.Quantity`
        Of the background per pixel; NaN if it is known.

    parameters : tuple of str
        The free parameters, in the order of ``covariance``.

    covariance : (..., k, k) `~numpy.ndarray`
        The inverse of the Fisher matrix, without units.
    """

    flux_err: np.ndarray
    x_err: np.ndarray
    y_err: np.ndarray
    background_err: np.ndarray
    parameters: tuple
    covariance: np.ndarray


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
        The PSF with the pixel included: a model with the parameters ``flux``,
        ``x_0``, ``y_0`` (such as `~bliss_astro.psf.PSFModel` or those of photutils),
        or a function ``psf(dx, dy)`` of the offsets from the source for unit flux.

    flux : float, array_like or `~astropy.units.Quantity`
        The flux or fluxes.

    bkg_error : float, 2D array_like or `~astropy.units.Quantity`
        The 1 sigma noise of a pixel without the source, in the unit of ``flux``.

    effective_gain : float, 2D array_like, `~astropy.units.Quantity` or `None`, optional
        Electrons per unit of flux. `None` leaves the source's own noise out.

    position : tuple of two floats, optional
        The place (x, y) of the source relative to the centre of the central pixel.

    shape : tuple of two ints, optional
        The size (ny, nx) of the stamp that is used.

    free_position : bool, optional
        Whether x and y are fitted too.

    free_background : bool, optional
        Whether a constant background is fitted too.

    variance_information : bool, optional
        See above.

    noise_correlation : tuple of two floats, optional
        The correlation of the noise of neighbouring pixels along x and y; that of
        diagonal neighbours is their product, others are 0. Each below 0.5.

    mask : 2D bool array_like or `None`, optional
        `True` for pixels that are left out. Not with ``noise_correlation``.

    Returns
    -------
    bound : `CramerRaoBound`
        The standard errors.

    Examples
    --------
    A Gaussian PSF whose flux alone is fitted, without noise of its own, has the error
    ``bkg_error * sqrt(n_eff)`` with ``n_eff = 4 pi sigma^2``:

    >>> import numpy as np
    >>> from bliss_astro.metrics import cramer_rao_bound
    >>> def psf(dx, dy, sigma=2.0):
    ...     return np.exp(-(dx**2 + dy**2) / 2 / sigma**2) / (2 * np.pi * sigma**2)
    >>> bound = cramer_rao_bound(psf, 1000.0, bkg_error=3.0, free_position=False)
    >>> print(f'{bound.flux_err:.4f} {3.0 * np.sqrt(4 * np.pi * 4):.4f}')
    21.2694 21.2694
    """
    scene = _parse_scene(
        psf, flux, bkg_error, effective_gain, position, shape, noise_correlation, mask
    )
    names = ['flux']
    images = [scene.psf(*scene.offsets)]
    if free_position:
        names += ['x', 'y']
        # The image moves against the offsets, hence the sign.
        images += [-_derivative(scene, axis) for axis in (0, 1)]
    n_source = len(names)
    if free_background:
        names.append('background')
        images.append(np.ones(scene.shape))
    images = np.stack(images)

    covariance = np.empty((scene.flux.size, len(names), len(names)))
    for k, value in enumerate(scene.flux.ravel()):
        scale = np.array([value if name in 'xy' else 1.0 for name in names])
        fisher = _fisher(scene, value, images, n_source, variance_information)
        covariance[k] = np.linalg.inv(fisher)
        with np.errstate(divide='ignore', invalid='ignore'):
            covariance[k] /= np.outer(scale, scale)
    errors = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    values = {
        name: error.reshape(scene.flux.shape)[()]
        for name, error in zip(names, errors.T, strict=True)
    }
    unknown = np.full(scene.flux.shape, np.nan)[()]
    unit = 1 if scene.unit is None else scene.unit
    return CramerRaoBound(
        flux_err=values['flux'] * unit,
        x_err=values.get('x', unknown),
        y_err=values.get('y', unknown),
        background_err=values.get('background', unknown) * unit,
        parameters=tuple(names),
        covariance=covariance.reshape(*scene.flux.shape, len(names), len(names)),
    )


def optimal_snr(
    psf,
    flux,
    *,
    bkg_error,
    effective_gain=None,
    position=(0.0, 0.0),
    shape=(51, 51),
    noise_correlation=(0.0, 0.0),
    mask=None,
):
    """
    Optimal signal-to-noise ratio of an isolated point source.

    It is sqrt(sum s^2 / (b + s)) over the pixels, with the source s and the variance b
    of the background in electrons: flux over its Cramer-Rao bound at known position
    and background.

    Parameters
    ----------
    psf, flux, bkg_error, effective_gain, position, shape, noise_correlation, mask
        As in `cramer_rao_bound`.

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
    bound = cramer_rao_bound(
        psf,
        flux,
        bkg_error=bkg_error,
        effective_gain=effective_gain,
        position=position,
        shape=shape,
        free_position=False,
        noise_correlation=noise_correlation,
        mask=mask,
    )
    return u.Quantity(flux / bound.flux_err, u.one).value[()]


@dataclass(frozen=True, eq=False)
class _Scene:
    psf: object
    flux: np.ndarray
    unit: object
    bkg_variance: np.ndarray
    inverse_gain: np.ndarray
    offsets: tuple
    shape: tuple
    correlation: tuple
    good: np.ndarray


def _parse_scene(psf, flux, bkg_error, gain, position, shape, correlation, mask):
    flux, unit = strip_unit(flux, 'flux')
    if unit is None and getattr(bkg_error, 'unit', None) is not None:
        msg = 'bkg_error has a unit, but flux has none'
        raise u.UnitConversionError(msg)
    bkg_error, _ = strip_unit(bkg_error, 'bkg_error', like=unit)
    if not (np.isfinite(flux).all() and (flux >= 0).all()):
        msg = f'flux must be finite and not negative, got {flux}'
        raise ValueError(msg)
    shape = tuple(int(n) for n in shape)
    if len(shape) != 2 or min(shape) < 3:
        msg = f'shape must be two integers of at least 3, got {shape}'
        raise ValueError(msg)
    if not (np.isfinite(bkg_error).all() and (bkg_error > 0).all()):
        sound = np.isfinite(bkg_error) & (bkg_error > 0)
        msg = (
            'bkg_error must be positive and finite, got '
            f'{first_wrong(bkg_error, sound)}'
        )
        raise ValueError(msg)
    maps = {'bkg_error': bkg_error, 'effective_gain': _parse_gain(gain, unit)}
    if mask is not None:
        maps['mask'] = np.asarray(mask, dtype=bool)
    for name, values in maps.items():
        if values.shape not in ((), shape):
            msg = f'{name} must be a number or of shape {shape}, got {values.shape}'
            raise ValueError(msg)
    correlation = (0.0, 0.0) if correlation is None else tuple(correlation)
    if len(correlation) != 2 or not all(abs(c) < 0.5 for c in correlation):
        msg = (
            'noise_correlation must be two numbers between -0.5 and 0.5 (exclusive), '
            f'got {correlation}'
        )
        raise ValueError(msg)
    if any(correlation) and 'mask' in maps and maps['mask'].any():
        msg = 'mask cannot be combined with noise_correlation'
        raise ValueError(msg)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    offsets = (x - shape[1] // 2 - position[0], y - shape[0] // 2 - position[1])
    return _Scene(
        psf=_unit_psf(psf),
        flux=flux,
        unit=unit,
        bkg_variance=np.broadcast_to(bkg_error**2, shape),
        inverse_gain=np.broadcast_to(1 / maps['effective_gain'], shape),
        offsets=offsets,
        shape=shape,
        correlation=correlation,
        good=~np.broadcast_to(maps.get('mask', np.array(False)), shape),
    )


def _parse_gain(gain, unit):
    """
    Electrons per unit of flux as a plain number or map.
    """
    if gain is None:
        return np.array(np.inf)
    if isinstance(gain, u.Quantity):
        flux_unit = u.one if unit is None else unit
        for counts in (u.electron, u.photon, u.adu, u.ct, u.one):
            if gain.unit.is_equivalent(counts / flux_unit):
                gain = gain.to_value(counts / flux_unit)
                break
        else:
            msg = (
                'effective_gain must be in electrons per unit of flux '
                f'({u.electron / flux_unit}), got {gain.unit}'
            )
            raise u.UnitConversionError(msg)
    gain = np.asarray(gain, dtype=float)
    if not (gain > 0).all():
        msg = f'effective_gain must be positive, got {first_wrong(gain, gain > 0)}'
        raise ValueError(msg)
    return gain


def _unit_psf(psf):
    """
    The PSF as a function of offsets for unit flux.
    """
    names = getattr(psf, 'param_names', ())
    if {'flux', 'x_0', 'y_0'} <= set(names):
        model = psf.copy()
        model.flux, model.x_0, model.y_0 = 1.0, 0.0, 0.0
        return lambda dx, dy: np.asarray(model(dx, dy), dtype=float)
    if names or not callable(psf):
        msg = (
            'psf must be a model with the parameters flux, x_0 and y_0, or a function '
            f'of the offsets (dx, dy), got {type(psf).__name__}'
        )
        raise TypeError(msg)
    return lambda dx, dy: np.asarray(psf(dx, dy), dtype=float)


def _derivative(scene, axis):
    """
    Derivative of the unit-flux image with respect to an offset (five points).
    """

    def image(step):
        offsets = list(scene.offsets)
        offsets[axis] = offsets[axis] + step * _STEP
        return scene.psf(*offsets)

    return (image(-2) - 8 * image(-1) + 8 * image(1) - image(2)) / (12 * _STEP)


def _fisher(scene, flux, images, n_source, variance_information):
    """
    Fisher matrix of (flux, flux * x, flux * y, background).

    With C = S R S, S the diagonal of standard deviations and R their correlation, the
    mean contributes m_i^T C^-1 m_j and the variance 1/2 Tr(C^-1 C_i C^-1 C_j), which is
    sum(a_i a_j) + a_i^T (R o R^-1) a_j with a_i = S_i / S and o the product by element.
    """
    signal = flux * images[0]
    variance = scene.bkg_variance + np.maximum(signal, 0) * scene.inverse_gain
    scaled = np.where(scene.good, images / np.sqrt(variance), 0.0)
    rx, ry = (
        _correlation_matrix(rho, n)
        for rho, n in zip(scene.correlation, scene.shape[::-1], strict=True)
    )
    inv_x, inv_y = np.linalg.inv(rx), np.linalg.inv(ry)
    weighted = inv_y @ scaled @ inv_x if any(scene.correlation) else scaled
    fisher = np.einsum('iyx,jyx->ij', scaled, weighted)
    if variance_information:
        # A constant background that is fitted does not change the noise.
        slope = np.where(scene.good, images * scene.inverse_gain / variance / 2, 0.0)
        slope[n_source:] = 0.0
        weighted = (ry * inv_y) @ slope @ (rx * inv_x)
        fisher += np.einsum('iyx,jyx->ij', slope, slope + weighted)
    return fisher


def _correlation_matrix(rho, n):
    return np.eye(n) + rho * (np.eye(n, k=1) + np.eye(n, k=-1))
