# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From whatever a person has to an `Exposure`.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import NDData

from bliss_astro.exposures import Exposure

__all__ = ['as_exposure']

# What is assumed where an image tells nothing: the noise of one SDSS r
# exposure in electrons, and its seeing in pixels.
_USUAL_NOISE = 29.0
_MIN_STARS = 3


def as_exposure(data, **given):
    """
    Make an exposure of an image and what is known of it.

    Parameters
    ----------
    data : `~bliss_astro.exposures.Exposure`, NDData, Quantity or array
        The image.

    **given
        ``psf, background, bkg_error, effective_gain, mask, wcs``; those
        that are `None` are estimated.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        With everything that a measurement needs.

    estimated : dict of str to str
        What was estimated, and how.
    """
    given = {name: value for name, value in given.items() if value is not None}
    estimated = {}
    if isinstance(data, Exposure):
        _refuse(given, 'an Exposure', allowed=('psf',))
        exposure = data.replace(**given) if given else data
    elif isinstance(data, NDData):
        exposure = _from_nddata(data, given, estimated)
    else:
        exposure = _from_array(data, given, estimated)
    if exposure.psf is None:
        exposure = exposure.replace(psf=_psf_of_stars(exposure, estimated))
    return exposure, estimated


def _refuse(given, kind, *, allowed=()):
    twice = sorted(set(given) - set(allowed))
    if twice:
        msg = (
            f'{twice[0]} was given although data is {kind}, which carries its own; '
            'change it there'
        )
        raise ValueError(msg)


def _from_nddata(data, given, estimated):
    # What the NDData itself holds must not be given a second time.
    for name, own in (('mask', data.mask), ('wcs', data.wcs)):
        if own is not None and name in given:
            _refuse({name: given[name]}, f'an {type(data).__name__} with a {name}')
    if data.uncertainty is not None:
        if 'bkg_error' in given:
            _refuse(
                {'bkg_error': 0}, f'an {type(data).__name__} with an uncertainty'
            )
        if 'effective_gain' in given:
            return Exposure.from_nddata(data, **given)
    unit = data.unit
    values = np.asarray(data.data)
    if unit is not None:
        values = u.Quantity(values, unit)
    if data.mask is not None:
        given['mask'] = np.broadcast_to(np.asarray(data.mask, bool), values.shape)
    if data.wcs is not None:
        given['wcs'] = getattr(data.wcs, 'low_level_wcs', data.wcs)
    psf = getattr(data, 'psf', None)
    if psf is not None:
        if 'psf' in given:
            _refuse({'psf': 0}, f'an {type(data).__name__} with a psf')
        given['psf'] = psf
    if data.uncertainty is not None:
        given['bkg_error'] = _sky_noise(data, values)
        estimated['bkg_error'] = 'median of the uncertainty of the fainter half'
    return _from_array(values, given, estimated)


def _sky_noise(data, values):
    # Without a gain the sources' share of a total error cannot be taken
    # out pixel by pixel; the fainter half of the pixels has next to none.
    from astropy.nddata import StdDevUncertainty

    error = np.asarray(data.uncertainty.represent_as(StdDevUncertainty).array, float)
    plain = np.asarray(getattr(values, 'value', values), float)
    good = np.isfinite(plain) & np.isfinite(error) & (error > 0)
    if not good.any():
        msg = 'the uncertainty of data has no positive, finite value'
        raise ValueError(msg)
    faint = good & (plain <= np.median(plain[good]))
    noise = float(np.median(error[faint]))
    return noise if data.unit is None else noise * data.unit


def _from_array(data, given, estimated):
    unit = getattr(data, 'unit', None)

    def with_unit(value):
        return value if unit is None else u.Quantity(value, unit, copy=False)

    # The checks of Exposure come first, with stand-ins for what is missing.
    trial = Exposure(
        data,
        background=given.get('background', with_unit(0.0)),
        bkg_error=given.get('bkg_error', with_unit(1.0)),
        effective_gain=given.get('effective_gain', 1.0),
        mask=given.get('mask'),
        wcs=given.get('wcs'),
        psf=given.get('psf'),
    )
    changes = {}
    if 'background' not in given:
        changes['background'] = _background(trial)
        estimated['background'] = 'photutils Background2D'
        trial = trial.replace(background=with_unit(changes['background']))
    if 'bkg_error' not in given:
        changes['bkg_error'] = _noise(trial)
        estimated['bkg_error'] = 'scatter of the pixels about the background'
        trial = trial.replace(bkg_error=with_unit(changes['bkg_error']))
    if 'effective_gain' not in given:
        gain, how = _gain(trial)
        estimated['effective_gain'] = how
        trial = trial.replace(effective_gain=gain)
    return trial


def _background(exposure):
    from bliss_astro.exposures._sky import measure_background

    data = np.asarray(exposure.data)
    good = data[~exposure.mask]
    whole = bool(np.all(good == np.rint(good)))
    box = 64 if min(exposure.shape) >= 128 else 128
    return measure_background(
        data, exposure.mask, box_size=box, quantum=1.0 if whole else 0.0
    )


def _noise(exposure):
    residual = (exposure.data - exposure.background)[~exposure.mask]
    # Sources only brighten pixels: the scatter of the negative side counts.
    below = residual[residual < 0]
    noise = 1.4826 * np.median(np.abs(below)) if len(below) else 0.0
    if not noise > 0:
        msg = 'bkg_error cannot be estimated: the image has no noise; give bkg_error'
        raise ValueError(msg)
    return float(noise)


def _gain(exposure):
    if exposure.unit == u.electron:
        return 1.0, 'data are in electrons'
    noise = float(np.median(exposure.bkg_error))
    level = float(np.median(exposure.background))
    if level > 10 * noise:
        return level / noise**2, 'background over its variance (photon noise)'
    return _USUAL_NOISE / noise, f'sky noise taken as {_USUAL_NOISE:g} electrons'


def _psf_of_stars(exposure, estimated):
    """PSF fitted to the brighter, unsaturated, isolated stars of the image."""
    import warnings

    from photutils.detection import DAOStarFinder

    from bliss_astro.psf import PSFModel

    signal = np.where(exposure.mask, 0, exposure.data - exposure.background)
    noise = float(np.median(exposure.bkg_error))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = DAOStarFinder(10 * noise, 3.5)(signal, mask=exposure.mask)
    n_found = 0 if found is None else len(found)
    if n_found >= _MIN_STARS:
        positions = _isolated(exposure, found)
        if len(positions) >= _MIN_STARS:
            size = 25 if min(exposure.shape) > 60 else 15
            psf = PSFModel.fit_stars(
                signal,
                positions,
                mask=exposure.mask,
                error=noise,
                size=size,
                effective_gain=float(np.median(exposure.effective_gain)),
            )
            estimated['psf'] = f'fit to {len(positions)} stars of the image'
            return psf
    estimated['psf'] = (
        f'only {n_found} bright stars in the image: an SDSS r PSF was taken'
    )
    warnings.warn(
        'psf was not given and the image has too few bright stars to measure it; '
        'fluxes and errors rest on a PSF of SDSS: give psf',
        _out_of_domain(),
        stacklevel=4,
    )
    return PSFModel()


def _out_of_domain():
    from bliss_astro._warnings import OutOfDomainWarning

    return OutOfDomainWarning


def _isolated(exposure, found, *, n_most=60, reach=12):
    found.sort('flux', reverse=True)
    x, y = np.asarray(found['x_centroid']), np.asarray(found['y_centroid'])
    flux = np.asarray(found['flux'])
    ny, nx = exposure.shape
    keep = []
    for k in range(len(x)):
        if not (reach <= x[k] < nx - reach and reach <= y[k] < ny - reach):
            continue
        near = np.hypot(x - x[k], y - y[k]) < reach
        if (near & (flux > 0.1 * flux[k])).sum() > 1:
            continue
        row, column = round(float(y[k])), round(float(x[k]))
        box = exposure.mask[row - 5 : row + 6, column - 5 : column + 6]
        if box.any():
            continue
        keep.append((x[k], y[k]))
        if len(keep) == n_most:
            break
    return np.array(keep).reshape(-1, 2)
