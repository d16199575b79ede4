# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Golden outputs: numbers of the bundled encoders, streams, coadds and PSF fits.

They hold through every rebuilding of the code: bitwise, or to 1e-6 where only the
order of sums changed. After an intended change (other weights, another definition)
the part concerned is recorded anew::

    python tests/golden/golden.py encoders   # or simulations, coadd, psf, files, real
"""

import argparse
import contextlib
import os
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from astropy.io import fits
from astropy.wcs import WCS

from bliss_astro import Exposure, PSFModel, coadd_exposures, detect_sources

FOLDER = Path(__file__).resolve().parent
SIZE = 48
ENCODERS = (
    'stars',
    'stars-crowded',
    'stars-galaxies',
    'stars-galaxies-sequence',
)
CONFIGS = (*ENCODERS, 'latent-galaxies')
PSF = PSFModel(sigma1=1.3, sigma2=3.0, b=0.06, sigmap=2.9, p0=0.01, beta=3.3)
BACKGROUND = 400.0


def simulated_data(seed=3, n_sources=9):
    """An image of stars and round galaxies, by NumPy alone."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    model = np.full((SIZE, SIZE), BACKGROUND)
    for k in range(n_sources):
        x_0, y_0 = rng.uniform(3, SIZE - 4, 2)
        flux = 10 ** rng.uniform(2.7, 4.6)
        sigma = 1.4 if k % 3 else 2.6
        r2 = (x - x_0) ** 2 + (y - y_0) ** 2
        model += flux * np.exp(-0.5 * r2 / sigma**2) / (2 * np.pi * sigma**2)
    return model + np.sqrt(model) * rng.standard_normal(model.shape)


def simulated_exposure(seed=3, dx=0.0, dy=0.0):
    """The image with its background, noise, PSF and a WCS."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [SIZE / 2 + dx, SIZE / 2 + dy]
    wcs.wcs.cdelt = [-1.1e-4, 1.1e-4]
    return Exposure(
        simulated_data(seed),
        background=BACKGROUND,
        bkg_error=np.sqrt(BACKGROUND),
        effective_gain=1.0,
        psf=PSF,
        wcs=wcs,
        unit='electron',
    )


def real_data(shared_data):
    """A part of the test image of SEP."""
    return fits.getdata(shared_data / 'sep' / 'image.fits').astype(float)[:96, 60:156]


def real_exposure(shared_data):
    """The part with rounded values of its sky and noise."""
    return Exposure(
        real_data(shared_data),
        background=6830.0,
        bkg_error=65.0,
        effective_gain=1.5,
        psf=PSF,
    )


@contextlib.contextmanager
def _reproducible():
    """Single precision whatever the processor offers, and no warnings."""
    probes = ('_is_amx_tile_supported', '_is_avx512_bf16_supported')
    with contextlib.ExitStack() as stack:
        for probe in probes:
            no = mock.patch.object(torch.cpu, probe, create=True, return_value=False)
            stack.enter_context(no)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        yield


def numbers_of_catalog(catalog):
    """Columns of a catalogue, and what its posterior holds."""
    out = {
        f'column_{name}': np.asarray(getattr(column, 'value', column), dtype=float)
        for name, column in catalog.columns.items()
        if getattr(column, 'dtype', None) is not None and column.dtype.kind in 'biuf'
    }
    tiles = catalog.posterior.tile_posterior
    with torch.no_grad():
        mode = tiles.mode()
        out['log_prob'] = tiles.log_prob(mode).double().numpy().ravel()
        out['expected_counts'] = tiles.expected_counts()[0, ::2, ::2].numpy()
        out['features'] = tiles.features[0, ::8, ::3, ::3].double().numpy()
    drawn = catalog.posterior.sample(2, rng=5)
    out['drawn_flux'] = np.concatenate([np.asarray(t['flux'].value) for t in drawn])
    out['drawn_x'] = np.concatenate([np.asarray(t['x_centroid']) for t in drawn])
    return out


def _flat(parts):
    return {
        f'{name}/{key}': value
        for name, values in parts.items()
        for key, value in values.items()
    }


def encoders():
    """Catalogues of the simulated image by each bundled encoder."""
    with _reproducible():
        return _flat({name: numbers_of_catalog(catalog_of(name)) for name in ENCODERS})


def catalog_of(encoder):
    """The catalogue of the simulated image."""
    with _reproducible():
        return detect_sources(simulated_exposure(), encoder=encoder, rng=1)


def real(shared_data):
    """Catalogues of the real image; the first one with all of it estimated."""
    out = {}
    with _reproducible():
        whole = fits.getdata(shared_data / 'sep' / 'image.fits').astype(float)
        out['estimated'] = numbers_of_catalog(detect_sources(whole, rng=1))
        for name in ENCODERS:
            catalog = detect_sources(real_exposure(shared_data), encoder=name, rng=1)
            out[name] = numbers_of_catalog(catalog)
    return _flat(out)


def simulations():
    """First batches of the training streams of the bundled configurations."""
    from bliss_astro.encoders._inputs import training_pair
    from bliss_astro.simulation import SimulationStream
    from bliss_astro.training import load_config

    out = {}
    folder = Path(detect_sources.__code__.co_filename).parent.parent / 'data/configs'
    for name in CONFIGS[:-1]:
        _, simulation, _ = load_config(folder / f'{name}.toml')
        images = SimulationStream(simulation).sample_batch(
            2, generator=torch.manual_seed(7)
        )
        inputs, truth = training_pair(images)
        out[name] = {
            'image': inputs.image[:, 0, ::16, ::16].double().numpy(),
            'n_sources': truth.count.sum((1, 2)).numpy(),
        }
    return _flat(out)


def coadd():
    """A coadd of three dithered exposures."""
    shifts = ((0.0, 0.0), (0.3, -0.2), (-0.4, 0.1))
    exposures = [simulated_exposure(3 + k, *shift) for k, shift in enumerate(shifts)]
    result = coadd_exposures(exposures, zero_points=[25.0] * 3)
    return {
        'data': result.data[::3, ::3].astype(float),
        'bkg_error': np.asarray(result.bkg_error, dtype=float).ravel()[::5],
        'effective_gain': np.asarray(result.effective_gain, dtype=float).ravel()[::5],
    }


def psf():
    """A PSF fitted to an image of it, and one estimated on stars."""
    from bliss_astro.psf import estimate_psf

    y, x = np.mgrid[-20:21, -20:21].astype(float)
    profile = (1 + (x**2 + 1.1 * y**2 + 0.1 * x * y) / 3.2**2) ** -2.4
    fitted = PSFModel.fit(profile / profile.sum())
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:160, :160].astype(float)
    image = np.full(x.shape, 100.0)
    for _ in range(30):
        x_0, y_0 = rng.uniform(8, 151, 2)
        r2 = (x - x_0) ** 2 + (y - y_0) ** 2
        image += rng.uniform(2e3, 4e4) * (1 + r2 / 9.0) ** -3 * 2 / (9 * np.pi)
    image += np.sqrt(image) * rng.standard_normal(image.shape)
    with _reproducible():
        estimate = estimate_psf(image)
    return {
        'fitted': np.asarray(fitted.parameters, dtype=float),
        'estimated': np.asarray(estimate.psf.parameters, dtype=float),
    }


def files():
    """A catalogue that was written by an earlier version, read back."""
    from bliss_astro import ProbabilisticCatalog

    catalog = ProbabilisticCatalog.read(FOLDER / 'catalog.fits.gz')
    rows = ProbabilisticCatalog.read(FOLDER / 'catalog.ecsv')
    out = numbers_of_catalog(catalog)
    return out | {f'ecsv_{name}': np.asarray(rows[name], float) for name in COLUMNS}


COLUMNS = ('x_centroid', 'y_centroid', 'probability', 'flags')


def write_files():
    """Write the catalogue of the simulated image; never again for old versions."""
    catalog = catalog_of('stars')
    catalog.write(FOLDER / 'catalog.fits.gz', overwrite=True)
    catalog.write(FOLDER / 'catalog.ecsv', overwrite=True)


PARTS = {
    'encoders': encoders,
    'simulations': simulations,
    'coadd': coadd,
    'psf': psf,
    'files': files,
    'real': real,
}


def processor():
    """The instruction set on which the order of float32 sums depends."""
    return torch.backends.cpu.get_cpu_capability()


def shared_folder():
    """The folder with real survey files."""
    default = FOLDER.parents[2] / 'shared' / 'data'
    return Path(os.environ.get('BLISS_ASTRO_SHARED_DATA', default))


def main():
    """Record parts anew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('parts', nargs='+', choices=[*PARTS, 'write_files'])
    for part in parser.parse_args().parts:
        if part == 'write_files':
            write_files()
            continue
        values = PARTS[part](shared_folder()) if part == 'real' else PARTS[part]()
        values['processor'] = np.array(processor())
        np.savez_compressed(FOLDER / f'{part}.npz', **values)


if __name__ == '__main__':
    main()
