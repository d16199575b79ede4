# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated star fields.
"""

import math

from bliss_astro.units import flux_to_magnitude, magnitude_to_flux

# Signal-to-noise ratio in the coadd of the faintest stars by default: that of the
# faintest detections.
_FLOOR_SNR = 3.4


def simulate_field(
    n_exposures,
    *,
    shape,
    density,
    seed,
    psf=None,
    background=865.0,
    faintest=None,
    device='cpu',
):
    """
    Simulate a star field in nanomaggies, like those of SDSS in r.

    ``density`` is in stars per pixel, ``background`` the sky of one exposure in
    electrons per pixel, ``faintest`` the magnitude of the faintest stars, by default
    that of a signal-to-noise ratio of 3.4 in the coadd; ``psf`` is by default that of
    run 94, camcol 1, field 12. Returns an exposure and the table of its stars.
    """
    import astropy.units as u

    from bliss_astro.priors import StarPrior
    from bliss_astro.psf import PSFModel
    from bliss_astro.simulation import CoaddSimulator
    from bliss_astro.simulation._simulator import ELECTRONS_PER_NMGY

    if faintest is None:
        n_eff = (psf or PSFModel()).n_eff
        flux_min = _FLOOR_SNR * math.sqrt(n_eff * background / n_exposures)
    else:
        flux_min = ELECTRONS_PER_NMGY * magnitude_to_flux(faintest)
    whole = StarPrior()
    prior = StarPrior(density, flux_min, flux_min * whole.flux_max / whole.flux_min)
    simulator = CoaddSimulator(
        n_exposures,
        prior,
        psf=psf,
        background=background,
        shape=shape,
        margin=0,
        unit='nmgy',
        device=device,
    )
    exposure, truth = simulator.sample(rng=seed)
    exposure.meta |= {
        'seed': seed,
        'density': density,
        'flux_min': flux_min / ELECTRONS_PER_NMGY,
    }
    truth['mag'] = flux_to_magnitude(truth['flux'].value) * u.mag
    return exposure, truth
