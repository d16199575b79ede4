# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
From real exposures to a calibrated catalogue
=============================================

From two real exposures of SDSS to a catalogue, and a check that its errors hold.

Needs the corrected frames of runs 4192 (field 300) and 6377 (field 399), camera column
4, band r, with their psField, tsField and fpM files, anywhere below one folder::

    python real_coadd.py FOLDER
"""

import argparse
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from bliss_astro import Exposure, StarPrior, detect_sources
from bliss_astro.coadds import coadd_exposures
from bliss_astro.exposures import measure_noise
from bliss_astro.metrics import CalibrationReport, match_catalogs, posterior_ranks
from bliss_astro.posteriors import PLACE_RADIUS
from bliss_astro.rendering import render_stars

RUNS = ((4192, 4, 300), (6377, 4, 399))


def read(folder, run, camcol, field):
    """
    One exposure with its PSF, calibration and bad pixels.
    """
    frame = f'{run:06d}-r{camcol}-{field:04d}'
    names = {
        'image': f'fpC-{frame}.fit*',
        'psfield': f'psField-{run:06d}-{camcol}-{field:04d}.fit*',
        'tsfield': f'tsField-{run:06d}-{camcol}-*-{field:04d}.fit*',
        'fpm': f'fpM-{frame}.fit*',
    }
    files = {}
    for kind, name in names.items():
        found = sorted(Path(folder).rglob(name))
        if not found:
            msg = f'there is no {name} below {folder}'
            raise FileNotFoundError(msg)
        files[kind] = found[0]
    return Exposure.from_sdss(files.pop('image'), **files)


def simulated_like(exposures, catalog, *, rng, side=400):
    """
    The same exposures of another sky, in a part of the field, and the truth.

    Stars are drawn from the prior that the catalogue assumed, seen through each
    exposure's own PSF, pixels and noise, and stacked like the real ones.
    """
    first = exposures[0]
    corner = np.array(first.shape) // 2
    gain = float(np.median(first.effective_gain))
    flux_min = catalog.meta['flux_min']
    prior = StarPrior(
        density=catalog.meta['density'],
        flux_min=flux_min * gain,
        # Brighter ones would be saturated, here as in the encoder's training.
        flux_max=1600 * flux_min * gain,
    )
    x, y, electrons, _ = prior.sample_batch(
        1,
        (side, side),
        generator=torch.Generator().manual_seed(int(rng.integers(2**31))),
    )
    x, y, flux = (v[0].double().numpy() for v in (x, y, electrons / gain))
    x, y = x + corner[1], y + corner[0]
    sky = first.wcs.pixel_to_world(x, y)
    parts = [_observe(e, sky, flux, side + 40, rng) for e in exposures]
    wcs = first[corner[0] : corner[0] + side, corner[1] : corner[1] + side].wcs
    coadd = coadd_exposures(parts, wcs_out=wcs, shape_out=(side, side))
    truth = QTable([x - corner[1], y - corner[0], flux * u.nmgy])
    truth.rename_columns(truth.colnames, ['x_centroid', 'y_centroid', 'flux'])
    return coadd, truth


def _observe(exposure, sky, flux, side, rng):
    """
    What an exposure would record of stars, in the square around them.
    """
    x, y = exposure.wcs.world_to_pixel(sky)
    middle = [round(float(0.5 * (v.min() + v.max()))) for v in (y, x)]
    low = [max(0, m - side // 2) for m in middle]
    part = exposure[low[0] : low[0] + side, low[1] : low[1] + side]
    psf = part.psf_at(side / 2, side / 2)
    stars = (
        torch.as_tensor(v[None], dtype=torch.float32)
        for v in (x - low[1], y - low[0], flux)
    )
    vector = torch.as_tensor(psf.shape_vector[None], dtype=torch.float32)
    signal = render_stars(
        vector, *stars, size=part.shape, radius=psf.normalization_radius
    )[0].numpy()
    data = signal + rng.normal(size=part.shape) * part.total_error(signal)
    return Exposure(
        data * u.nmgy,
        bkg_error=part.bkg_error * u.nmgy,
        effective_gain=part.effective_gain,
        psf=psf,
        wcs=part.wcs,
    )


def check(exposures, catalog, n_images, *, rng):
    """
    Detect on simulations, and ask whether probabilities and errors hold.
    """
    ranks, median, probability, is_real = [], [], [], []
    for _ in range(n_images):
        coadd, truth = simulated_like(exposures, catalog, rng=rng)
        found = detect_sources(
            coadd,
            0.1,
            encoder='stars',
            density=catalog.meta['density'],
            flux_min=catalog.meta['flux_min'] * u.nmgy,
            n_samples=200,
            rng=rng,
        )
        match = match_catalogs(found, truth, radius=PLACE_RADIUS)
        probability.append(np.asarray(found['probability']))
        is_real.append(match.is_matched_estimated)
        own, true = match.estimated_index, match.truth_index
        samples = found['flux_samples'].value[own]
        ranks.append(posterior_ranks(samples, truth['flux'].value[true], rng=rng))
        median.append(found['flux'].value[own])
    median = np.concatenate(median)
    thirds = np.digitize(median, np.quantile(median, (1 / 3, 2 / 3)))
    return CalibrationReport(
        {'flux': np.concatenate(ranks)},
        groups={'flux': thirds},
        group_names=['faintest third', 'middle third', 'brightest third'],
        probability=np.concatenate(probability),
        is_real=np.concatenate(is_real),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('folder', help='where the files of SDSS are')
    parser.add_argument('-o', '--output', help='catalogue to write')
    parser.add_argument('-n', type=int, default=8, help='simulated coadds')
    parser.add_argument('--plot', help='picture of the calibration report')
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)

    exposures = [read(arguments.folder, *run) for run in RUNS]
    coadd = coadd_exposures(exposures, match_background='constant')
    print(coadd)

    measured = measure_noise(coadd.data, coadd.mask)
    stated = np.median(coadd.bkg_error[~coadd.mask & (coadd.n_exposures == 2)])
    along_x, along_y = coadd.noise_correlation
    print(f'stated:   sigma {stated:.4g}, correlation ({along_x:.3f}, {along_y:.3f})')
    print(f'measured: {measured}')

    catalog = detect_sources(coadd, encoder='stars')
    print(f'{len(catalog)} sources, expected {catalog.posterior.expected_counts():.0f}')
    if arguments.output:
        catalog.write(arguments.output, overwrite=True)

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        report = check(exposures, catalog, arguments.n, rng=rng)
    print(report)
    if arguments.plot:
        import matplotlib as mpl

        mpl.use('agg')
        from bliss_astro.plotting import plot_calibration

        plot_calibration(report)[0].figure.savefig(arguments.plot, dpi=110)


if __name__ == '__main__':
    main()
