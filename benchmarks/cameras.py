# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of many cameras, the array alone, beside SEP.

Images are those of ``cameras`` and ``sep`` in the folder ``--data``, each in a process
of its own.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from harness import Benchmark, peak_of_process
from scipy.spatial import cKDTree

IMAGES = {
    'sep/image.fits': 'NTT/EMMI R, the test image of SEP',
    'cameras/cfhtls_i_bleed.fits': 'deep stack, CFHT MegaCam i',
    'cameras/kids_r_tinyunits.fits': 'KiDS r',
    'cameras/euclid_vis_group.fits': 'Euclid VIS mosaic, galaxy group',
    'cameras/ztf_stamp.fits': 'ZTF alert stamp',
    'cameras/saao1m_ste3_raw.fits': 'raw CCD frame, SAAO 1.0 m',
    'cameras/kepler_ffi_edge.fits': 'Kepler full frame',
    'cameras/wise_w3_n5584.fits': 'WISE W3',
    'cameras/spire_nan_border.fits': 'Herschel SPIRE',
    'cameras/supercosmos_r_plane.fits': 'plate scan, SuperCOSMOS',
}
# Isolated bright sources: signal-to-noise ratio of SEP, distance of neighbours in
# FWHM, largest share of the maximum; fluxes are compared above the last ratio.
LEAST_SNR, APART, FULL_SHARE, FLUX_SNR = 20.0, 3.0, 0.8, 50.0
# Fewest sources for a ratio of fluxes, and the probability of sure rows.
LEAST_NUMBER, SURE = 5, 0.9


def load(path):
    """First two-dimensional image of a FITS file."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        for hdu in hdus:
            data = (
                np.squeeze(hdu.data) if hdu.is_image and hdu.data is not None else None
            )
            if data is not None and data.ndim == 2:
                return data.astype(float)
    raise OSError(f'{path}: no image')


def reference(image):
    """SEP's sources: positions, isolated, round bright ones, FWHM, image, noise."""
    import sep

    bad = ~np.isfinite(image)
    data = np.ascontiguousarray(np.where(bad, np.nanmedian(image), image))
    background = sep.Background(data, mask=bad, bw=64, bh=64)
    rest, noise = data - background.back(), background.globalrms
    sep.set_extract_pixstack(2_000_000)
    sep.set_sub_object_limit(20_000)
    found = sep.extract(rest, 1.5, err=noise, mask=bad, minarea=5)
    place = np.c_[found['x'], found['y']]
    snr = found['flux'] / (noise * np.sqrt(np.maximum(found['npix'], 1)))
    size = 2 * np.sqrt(np.log(2) * (found['a'] ** 2 + found['b'] ** 2))
    full = found['peak'] + np.median(background.back()) > FULL_SHARE * np.nanmax(image)
    is_round = found['b'] / found['a'] > 0.7
    good = (snr > 30) & is_round & ~full
    fwhm = float(np.median(size[good] if good.sum() > 2 else size))
    apart = cKDTree(place).query(place, k=2)[0][:, 1]
    edge = np.minimum(place, np.array(image.shape[::-1]) - place).min(1)
    isolated = (apart > APART * fwhm) & (edge > APART * fwhm) & ~full
    isolated &= snr > LEAST_SNR
    bright = isolated & (snr > FLUX_SNR) & is_round & (size < 1.6 * fwhm)
    return place, isolated, bright, fwhm, rest, noise


def compare(image, catalog):
    """Numbers of rows and sources, and their fluxes in apertures."""
    import sep

    place, isolated, bright, fwhm, rest, noise = reference(image)
    numbers = {'SEP': len(place), 'isolated': int(isolated.sum())}
    numbers |= {'rows': len(catalog), 'found': 0}
    if len(catalog) == 0:
        return numbers
    rows = np.c_[catalog['x_centroid'].value, catalog['y_centroid'].value].astype(float)
    apart, index = cKDTree(rows).query(place)
    near = apart < max(2.0, 0.5 * fwhm)
    numbers['found'] = int(np.count_nonzero(near & isolated))
    use = near & bright
    flux = np.asarray(getattr(catalog['flux'], 'value', catalog['flux']), dtype=float)
    if use.sum() >= LEAST_NUMBER:
        aperture = sep.sum_circle(rest, *place[use].T, 3 * fwhm)[0]
        numbers['flux over aperture flux'] = float(
            np.median(flux[index[use]] / aperture)
        )
    sure = np.asarray(catalog['probability']) > SURE
    if sure.any():
        light, error, _ = sep.sum_circle(
            rest, *rows[sure].T, 0.7 * fwhm + 0.5, err=noise
        )
        numbers['without light'] = float(np.mean(light / error < 2))
    return numbers


def run_task(task):
    """Detect in one image and print the numbers."""
    from bliss_astro import detect_sources

    image = load(task['path'])
    with warnings.catch_warnings(action='ignore'):
        wall, cpu = time.perf_counter(), time.process_time()
        catalog = detect_sources(image, encoder=task['encoder'], progress_bar=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = {'time': wall, 'CPU time': cpu, 'pixels': image.size}
    print(json.dumps(found | compare(image, catalog)))


def main(arguments=None):
    bench = Benchmark(
        'cameras', __doc__.strip().splitlines()[0], weights='stars-galaxies'
    )
    folder = os.environ.get('BLISS_ASTRO_SHARED_DATA')
    bench.option('--data', default=folder, help='folder; BLISS_ASTRO_SHARED_DATA')
    bench.option('--task', help=argparse.SUPPRESS)
    arguments = bench.start(arguments)
    if arguments.task:
        run_task(json.loads(arguments.task))
        return
    if not arguments.data:
        bench.parser.error('--data or BLISS_ASTRO_SHARED_DATA has to name the folder')
    for name, case in list(IMAGES.items())[: 1 if arguments.quick else None]:
        path = str(Path(arguments.data) / name)
        task = {'path': path, 'encoder': arguments.encoder}
        found = peak_of_process(__file__, task, threads=arguments.threads)
        bench.add(case, 'rows', found['rows'])
        bench.add(case, 'rows', found['SEP'], method='SEP')
        quantity = 'isolated bright sources'
        bench.add(case, quantity, found['isolated'], method='SEP')
        bench.add(case, f'{quantity} with a row', found['found'])
        bench.add(case, 'time', found['time'], unit='s', target='<= 30')
        bench.add(case, 'CPU time', found['CPU time'], unit='s')
        bench.add(case, 'pixels', found['pixels'])
        if 'without light' in found:
            quantity = 'rows above 0.9 without light'
            bench.add(case, quantity, 100 * found['without light'], unit='%')
        if 'flux over aperture flux' in found:
            quantity = 'flux over aperture flux'
            bench.add(case, quantity, found[quantity])
    bench.finish()


if __name__ == '__main__':
    main()
