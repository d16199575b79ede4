# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Description of an exposure in one line: shape, unit, sky, noise, seeing and depth.
"""

import astropy.units as u
import numpy as np

from bliss_astro.units import flux_to_magnitude

__all__ = []

# Signal-to-noise ratio of the star that is the depth.
_DEPTH_SNR = 5
# Pixels of the sample from which medians of large maps are taken.
_N_MEDIAN = 1e5
# Least factor of the variance of sums by correlated noise.
_MIN_EXCESS = 0.2


def describe(exposure):
    """
    Describe an exposure in a line.
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
    """Describe seeing and depth, where they are known."""
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
    depth = limiting_flux(exposure, noise, n_eff, _DEPTH_SNR)
    text = f'{_DEPTH_SNR} sigma at {depth:.3g}'
    unit = exposure.unit
    if unit is not None and unit.is_equivalent(u.nmgy):
        text += f' ({flux_to_magnitude(depth * unit.to(u.nmgy)):.2f} mag)'
    elif unit is not None and unit.is_equivalent(u.Jy):
        text += f' ({(depth * unit).to_value(u.ABmag):.2f} mag)'
    return [seeing, text]


def limiting_flux(exposure, noise, area, snr):
    """
    Flux of a star of a signal-to-noise ratio, the noise's correlation included.
    """
    x, y = exposure.noise_correlation
    excess = max((1 + 2 * x) * (1 + 2 * y), _MIN_EXCESS)
    return snr * noise * float(np.sqrt(area * excess))


def _median(value, mask):
    """Median over the good pixels, from a sample of them if many."""
    if np.ndim(value) == 0:
        return float(value)
    step = max(1, int(np.sqrt(mask.size / _N_MEDIAN)))
    sample = value[::step, ::step][~mask[::step, ::step]]
    return float(np.median(sample if sample.size else value[~mask]))
