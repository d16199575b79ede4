# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The line that describes an exposure.
"""

import astropy.units as u
import numpy as np

__all__ = ['describe', 'limiting_flux']


def describe(exposure):
    """
    Describe an exposure in a line.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The exposure.

    Returns
    -------
    text : str
        Shape, unit, sky, noise, seeing and depth.
    """
    ny, nx = exposure.shape
    parts = [f'{ny} x {nx} px']
    if exposure.unit is not None:
        parts[0] += f', {exposure.unit}'
    level = _median(exposure.background, exposure.mask)
    if level != 0:
        parts.append(f'background {level:.4g}')
    noise = _median(exposure.bkg_error, exposure.mask)
    parts.append(f'bkg_error {noise:.4g}')
    parts.extend(_describe_psf(exposure, noise))
    bad = exposure.mask.mean()
    if bad > 0:
        parts.append(f'{100 * bad:.2g} % masked')
    return f'<{type(exposure).__name__} {", ".join(parts)}>'


def _describe_psf(exposure, noise):
    """
    Describe seeing and depth, where they are known.
    """
    if exposure.psf is None:
        return []
    try:
        psf = exposure.psf_at((exposure.shape[1] - 1) / 2, (exposure.shape[0] - 1) / 2)
        fwhm, n_eff = float(psf.fwhm), float(psf.n_eff)
    except Exception:  # noqa: BLE001 - a repr must not fail
        return [f'psf {type(exposure.psf).__name__}']
    seeing = f'FWHM {fwhm:.2f} px'
    if exposure.pixel_scale is not None:
        seeing += f' = {fwhm * exposure.pixel_scale:.2f}"'
    depth = limiting_flux(exposure, noise, n_eff, 5)
    text = f'5 sigma at {depth:.3g}'
    magnitude = _magnitude(depth, exposure.unit)
    if magnitude is not None:
        text += f' ({magnitude:.2f} mag)'
    return [seeing, text]


def limiting_flux(exposure, noise, area, snr):
    """
    Flux of a star of a signal-to-noise ratio, the noise's correlation included.
    """
    x, y = exposure.noise_correlation
    return snr * noise * float(np.sqrt(area * max((1 + 2 * x) * (1 + 2 * y), 0.2)))


def _median(value, mask):
    """
    Return the median over the good pixels, from a sample of them if many.
    """
    if np.ndim(value) == 0:
        return float(value)
    step = max(1, int(np.sqrt(mask.size / 1e5)))
    sample = value[::step, ::step][~mask[::step, ::step]]
    return float(np.median(sample if sample.size else value[~mask]))


def _magnitude(flux, unit):
    """
    Turn a flux into an AB magnitude, or `None` if its unit has none.
    """
    if unit is None:
        return None
    if unit.is_equivalent(u.nmgy):
        return 22.5 - 2.5 * np.log10(flux * unit.to(u.nmgy))
    if unit.is_equivalent(u.Jy):
        return (flux * unit).to_value(u.ABmag)
    return None
