# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated fields: making them, and their FITS files.

A file holds the image in nanomaggies with what was known when it was made in
its header, an extension MASK and a table TRUTH.
"""

import math

import numpy as np

__all__ = [
    'ELECTRONS_PER_NMGY',
    'read_simulated',
    'simulate_field',
    'write_simulated',
]

# That of the coadd paper's field, run 94, camcol 1, field 12, in r.
ELECTRONS_PER_NMGY = 987.31
# The faintest stars of a field, if nobody says otherwise, are those that a
# detection looks for: this signal-to-noise ratio in the whole stack.
_FLOOR_SNR = 3.4
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

    Parameters
    ----------
    n_exposures : int
        Depth of the coadd.

    shape : tuple of int
        ``(ny, nx)`` in pixels.

    density : float
        Stars per pixel.

    seed : int or None
        Of everything.

    psf : `~bliss_astro.psf.PSFModel`, optional
        PSF of an exposure; by default that of run 94, camcol 1, field 12.

    background : float, optional
        Sky of one exposure, electrons per pixel.

    faintest : float, optional
        Magnitude of the faintest stars; by default they have a
        signal-to-noise ratio of 3.4 in the coadd.

    device : str, optional
        Where to simulate.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    truth : `~astropy.table.QTable`
        The stars.
    """
    import astropy.units as u

    from bliss_astro.exposures import Exposure
    from bliss_astro.priors import StarPrior
    from bliss_astro.psf import PSFModel
    from bliss_astro.simulation import CoaddSimulator

    if faintest is None:
        n_eff = (psf or PSFModel()).n_eff
        flux_min = _FLOOR_SNR * math.sqrt(n_eff * background / n_exposures)
    else:
        flux_min = ELECTRONS_PER_NMGY * 10 ** (0.4 * (22.5 - faintest))
    whole = StarPrior()
    prior = StarPrior(density, flux_min, flux_min * whole.flux_max / whole.flux_min)
    simulator = CoaddSimulator(
        n_exposures,
        prior,
        psf=psf,
        background=background,
        shape=shape,
        margin=0,
        device=device,
    )
    coadd, truth = simulator.simulate(rng=seed)

    def nmgy(value):
        return value / ELECTRONS_PER_NMGY * u.nmgy

    exposure = Exposure(
        nmgy(coadd.data),
        background=nmgy(coadd.background),
        bkg_error=nmgy(coadd.bkg_error),
        effective_gain=coadd.effective_gain * ELECTRONS_PER_NMGY,
        mask=coadd.mask,
        psf=coadd.psf,
        noise_correlation=coadd.noise_correlation,
        meta={
            'n_exposures': n_exposures,
            'seed': seed,
            'density': density,
            'flux_min': flux_min / ELECTRONS_PER_NMGY,
        },
    )
    truth['flux'] = nmgy(truth['flux'].value)
    truth['mag'] = (22.5 - 2.5 * np.log10(truth['flux'].value)) * u.mag
    return exposure, truth


def write_simulated(exposure, truth, path, *, overwrite):
    """
    Write a simulated field, whole or not at all.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        From `simulate_field`.

    truth : `~astropy.table.QTable`
        Its stars.

    path : str or `~os.PathLike`
        The FITS file.

    overwrite : bool
        Whether it may exist.
    """
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
    for key, value in zip(
        ('NOISECX', 'NOISECY'), exposure.noise_correlation, strict=True
    ):
        header[key] = (float(value), 'correlation of the noise of neighbours')
    for key, value in zip(PSF_KEYS, exposure.psf.shape_vector, strict=True):
        header[f'PSF{key}'] = float(value)
    header['PSFRAD'] = (exposure.psf.normalization_radius, 'flux is within, pixels')
    for key, name in (
        ('NEXPOSE', 'n_exposures'),
        ('SEED', 'seed'),
        ('DENSITY', 'density'),
        ('FLUXMIN', 'flux_min'),
    ):
        if exposure.meta.get(name) is not None:
            header[key] = exposure.meta[name]
    unit = exposure.unit.to_string()
    columns = [
        fits.Column('x_centroid', 'D', unit='pix', array=truth['x_centroid']),
        fits.Column('y_centroid', 'D', unit='pix', array=truth['y_centroid']),
        fits.Column('flux', 'D', unit=unit, array=truth['flux'].value),
        fits.Column('mag', 'D', unit='mag', array=truth['mag'].value),
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
    """
    Read a file of `write_simulated`.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The image with all that was known of it.

    truth : `~astropy.table.QTable`
        The stars.
    """
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
