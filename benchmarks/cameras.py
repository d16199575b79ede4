# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Defaults on images of many cameras: the array alone, nothing stated, beside SEP.

The images are those of ``data/cameras`` and ``data/sep`` of a shared folder; the page
"An image like yours" takes its table from the result.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from _common import Report, in_subprocess, make_parser

# Files and what they are, in the order of the page.
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
# Plain sources: above this signal-to-noise ratio of SEP, no neighbour within so many
# FWHM, below this share of the maximum; and the ratio for fluxes.
_PLAIN, _APART, _FULL, _BRIGHT = 20.0, 3.0, 0.8, 50.0
# Fewest sources for a ratio of fluxes, and what counts as a sure row.
_FEWEST, _SURE = 5, 0.9


def load(path):
    """The first two-dimensional image of a FITS file, as floats."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.is_image and hdu.data is not None:
                data = np.squeeze(hdu.data)
                if data.ndim == 2:
                    return data.astype(float)
    msg = f'{path}: no image'
    raise OSError(msg)


def reference(image):
    """SEP's sources: places, plain ones, those for fluxes, FWHM, image, noise."""
    import sep
    from scipy.spatial import cKDTree

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
    full = found['peak'] + np.median(background.back()) > _FULL * np.nanmax(image)
    round_ = found['b'] / found['a'] > 0.7
    good = (snr > 30) & round_ & ~full
    fwhm = float(np.median(size[good] if good.sum() > 2 else size))
    apart = cKDTree(place).query(place, k=2)[0][:, 1]
    edge = np.minimum(place, np.array(image.shape[::-1]) - place).min(1)
    isolated = (apart > _APART * fwhm) & (edge > _APART * fwhm)
    plain = isolated & ~full & (snr > _PLAIN)
    bright = plain & (snr > _BRIGHT) & round_ & (size < 1.6 * fwhm)
    return place, plain, bright, fwhm, rest, noise


def score(image, catalog):
    """Rows of a catalogue held against SEP."""
    import sep
    from scipy.spatial import cKDTree

    place, plain, bright, fwhm, rest, noise = reference(image)
    numbers = {'sep': len(place), 'plain': int(plain.sum()), 'rows': len(catalog)}
    if not len(catalog):
        return numbers | {'found': 0}
    rows = np.c_[catalog['x_centroid'].value, catalog['y_centroid'].value].astype(float)
    apart, index = cKDTree(rows).query(place)
    near = apart < max(2.0, 0.5 * fwhm)
    numbers['found'] = int(np.count_nonzero(near & plain))
    use = near & bright
    flux = np.asarray(getattr(catalog['flux'], 'value', catalog['flux']), float)
    if use.sum() >= _FEWEST:
        aperture = sep.sum_circle(rest, *place[use].T, 3 * fwhm)[0]
        numbers['flux_ratio'] = float(np.median(flux[index[use]] / aperture))
    sure = np.asarray(catalog['probability']) > _SURE
    if sure.any():
        size = 0.7 * fwhm + 0.5
        light, error, _ = sep.sum_circle(rest, *rows[sure].T, size, err=noise)
        numbers['without_light'] = float(np.mean(light / error < 2))
    return numbers


def _run_once(task):
    import torch

    from bliss_astro import detect_sources

    torch.set_num_threads(task['threads'])
    image = load(task['path'])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        wall, cpu = time.perf_counter(), time.process_time()
        catalog = detect_sources(image, progress_bar=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    texts = list(dict.fromkeys(str(entry.message) for entry in caught))
    found = {'shape': image.shape, 'wall': wall, 'cpu': cpu, 'warnings': texts}
    print(json.dumps(found | score(image, catalog)))


def main():
    """Measure every image in a process of its own."""
    parser = make_parser(__doc__.strip().splitlines()[0])
    parser.add_argument('--data', help='folder; default: BLISS_ASTRO_SHARED_DATA')
    parser.add_argument('--task', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        _run_once(json.loads(arguments.task))
        return
    folder = arguments.data or os.environ.get('BLISS_ASTRO_SHARED_DATA')
    if not folder:
        parser.error('--data or BLISS_ASTRO_SHARED_DATA has to name the folder')
    names = list(IMAGES)[:1] if arguments.quick else list(IMAGES)
    report = Report('cameras', 'Images of many cameras, nothing stated', arguments)
    images = []
    for name in names:
        task = {'path': str(Path(folder) / name), 'threads': arguments.threads}
        found = in_subprocess(__file__, task)
        label = IMAGES[name]
        print(label, found, flush=True)
        images.append({'image': label, **found})
        report.add(f'{label}: plain sources with a row', found['found'])
        report.add(f'{label}: plain sources', found['plain'])
        report.add(f'{label}: rows', found['rows'])
        report.add(f'{label}: seconds', found['wall'], high=30.0, target='< 30')
        report.add(f'{label}: CPU seconds', found['cpu'])
    report.details['images'] = images
    report.finish()


if __name__ == '__main__':
    main()
