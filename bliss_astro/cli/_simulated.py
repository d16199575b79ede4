# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated star fields and their FITS files.

A file holds the image in nanomaggies with its PSF, sky, noise and gain in the header,
an extension MASK and a table TRUTH.
"""

import math

import numpy as np

from bliss_astro.units import flux_to_magnitude, magnitude_to_flux

__all__ = [
    'read_simulated',
    'simulate_field',
    'write_simulated',
]

# Signal-to-noise ratio in the coadd of the faintest stars by default: that of the
# faintest detections.
_FLOOR_SNR = 3.4

# Version of the file format.
_VERSION = 1


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


def write_simulated(exposure, truth, path, *, overwrite):
    """Write a field of `simulate_field`, whole or not at all."""
    from astropy.io import fits

    import bliss_astro
    from bliss_astro._atomic import atomic_write
    from bliss_astro.exposures._simulated import ERRORS, FORMAT, PSF_KEYS, SCALARS

    header = fits.Header()
    header[FORMAT] = (_VERSION, 'image simulated by bliss-astro simulate')
    header['CREATOR'] = f'bliss_astro {bliss_astro.__version__}'
    header['BUNIT'] = exposure.unit.to_string()
    for key, (name, comment) in SCALARS.items():
        header[key] = (float(getattr(exposure, name)), comment)
    for key, name in ERRORS.items():
        header[key] = (float(getattr(exposure, name)), f'relative {name}')
    for axis, value in zip('XY', exposure.noise_correlation, strict=True):
        header[f'NOISEC{axis}'] = (float(value), 'noise correlation of neighbours')
    for key, value in zip(PSF_KEYS, exposure.psf.shape_vector, strict=True):
        header[f'PSF{key}'] = float(value)
    header['PSFRAD'] = (exposure.psf.normalization_radius, 'flux is within, pixels')
    for name in ('n_exposures', 'seed', 'density', 'flux_min'):
        if exposure.meta.get(name) is not None:
            key = {'n_exposures': 'NEXPOSE', 'flux_min': 'FLUXMIN'}.get(name, name)
            header[key] = exposure.meta[name]
    units = {'x_centroid': 'pix', 'y_centroid': 'pix', 'mag': 'mag'}
    units['flux'] = header['BUNIT']
    columns = [
        fits.Column(name, 'D', unit=units[name], array=np.asarray(truth[name]))
        for name in ('x_centroid', 'y_centroid', 'flux', 'mag')
    ]
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(exposure.data.astype(np.float32), header),
            fits.ImageHDU(exposure.mask.astype(np.uint8), name='MASK'),
            fits.BinTableHDU.from_columns(columns, name='TRUTH'),
        ]
    )
    with atomic_write(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary, overwrite=True, checksum=True)


def read_simulated(hdus):
    """Read an open file of `write_simulated`: the exposure and its stars."""
    import astropy.units as u
    from astropy.table import QTable

    from bliss_astro.exposures._simulated import read_simulated as read_image

    exposure = read_image(hdus)
    try:
        rows = hdus['TRUTH'].data
        truth = QTable(
            {name: np.asarray(rows[name], float) for name in rows.columns.names}
        )
        truth['flux'] = truth['flux'] * exposure.unit
        truth['mag'] = truth['mag'] * u.mag
    except KeyError as error:
        msg = f'{hdus.filename()} is a simulated image, but incomplete: {error}'
        raise ValueError(msg) from error
    return exposure, truth
