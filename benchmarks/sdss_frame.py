# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
An SDSS frame against a deeper catalogue: detection and classes, beside SEP.

The protocol of Hansen et al. (2022): matches within 1 px in x and in y, 24 px border,
saturated true objects left out with what is found of them. True detections count by
true, false ones by estimated magnitude.
"""

import warnings

import astropy.units as u
import numpy as np
from astropy.table import Table
from harness import OURS, Benchmark, share
from samples import detect_rival

from bliss_astro import Exposure, detect_sources
from bliss_astro.metrics import match_catalogs
from bliss_astro.units import flux_to_magnitude

BINS, TOTAL, BORDER = ((17, 18), (18, 19), (19, 20), (20, 21), (21, 22)), (17, 22), 24
TARGETS = {'F1': '>= 0.9', 'recall': '>= 0.92', 'accuracy': '>= 0.93'}
SATURATED = 1 << 18  # bit of the survey's flags
SEP_SETTINGS = {'kernel': True, 'threshold': 1.5, 'n_pixels': 5, 'contrast': 0.005}
# Printed detections of run 94, camcol 1, field 12, r 17 to 22: F1.
PAPER = {'Hansen et al. (2022)': 0.864, 'PHOTO, in Hansen et al. (2022)': 0.844}


def read_truth(path, wcs, band='r'):
    """Table of the deeper catalogue: x, y, mag, is_galaxy, saturated."""
    table = Table.read(path)
    table.rename_columns(table.colnames, [name.lower() for name in table.colnames])
    star = np.asarray(table['probpsf']) > 0.5
    fraction = np.asarray(table.columns.get(f'fracdev_{band}', table['fracdev_r']))
    dev, exp = (
        10 ** (-0.4 * np.asarray(table[f'{k}mag_{band}'])) for k in ('dev', 'exp')
    )
    with np.errstate(divide='ignore', invalid='ignore'):
        galaxy = -2.5 * np.log10(fraction * dev + (1 - fraction) * exp)
    x, y = wcs.all_world2pix(table['ra'], table['dec'], 0, quiet=True)
    out = Table([x, y], names=['x', 'y'])
    out['mag'] = np.where(star, np.asarray(table[f'psfmag_{band}']), galaxy)
    out['is_galaxy'] = ~star
    if 'is_saturated' in table.colnames:
        out['saturated'] = np.asarray(table['is_saturated']) != 0
    else:
        out['saturated'] = (
            np.asarray(table['flags']).astype(np.int64) & SATURATED
        ) != 0
    return out[np.isfinite(x) & np.isfinite(y)]


def score(found, truth, shape):
    """Match of a catalogue, and rows that count in either."""
    match = match_catalogs(
        (found['x'], found['y']), (truth['x'], truth['y']), metric='chebyshev'
    )
    ny, nx = shape
    use = []
    for table in (found, truth):
        x, y = np.asarray(table['x']), np.asarray(table['y'])
        inside = (x > BORDER) & (x < nx - BORDER) & (y > BORDER) & (y < ny - BORDER)
        use.append(inside & np.isfinite(np.asarray(table['mag'], dtype=float)))
    saturated = np.asarray(truth['saturated'])
    use[1] &= ~saturated
    lost = saturated[match.truth_index]
    use[0][np.asarray(match.estimated_index)[lost]] = False
    return match, *use


def add_scores(bench, found, truth, shape, method):
    """Rows of one catalogue by magnitude and in all."""
    match, use, use_truth = score(found, truth, shape)
    real = np.asarray(match.is_matched_estimated)
    hit = np.asarray(match.is_matched_truth)
    true_mag, mag = np.asarray(truth['mag']), np.asarray(found['mag'], dtype=float)
    for low, high in (*BINS, TOTAL):
        case = f'r {low} to {high}'
        own = use_truth & (true_mag > low) & (true_mag < high)
        false = use & ~real & (mag > low) & (mag < high)
        n_true, n_false, n = (hit & own).sum(), false.sum(), own.sum()
        target = TARGETS if method == OURS and (low, high) == TOTAL else {}
        for quantity, value in (
            ('precision', share(int(n_true), int(n_true + n_false))),
            ('recall', share(int(n_true), int(n))),
            ('F1', (2 * n_true / max(n + n_true + n_false, 1), np.nan)),
        ):
            bench.add(
                case,
                quantity,
                value,
                n=int(n),
                method=method,
                target=target.get(quantity, ''),
            )
        if 'galaxy' not in found.colnames:
            continue
        partner = np.asarray(match.truth_index)
        chosen = own[partner]
        called = np.asarray(found['galaxy'])[np.asarray(match.estimated_index)[chosen]]
        right = called == np.asarray(truth['is_galaxy'])[partner[chosen]]
        value, target = share(right), target.get('accuracy', '')
        bench.add(case, 'accuracy', value, method=method, target=target)


def main(arguments=None):
    bench = Benchmark(
        'sdss_frame', __doc__.strip().splitlines()[0], weights='stars-galaxies'
    )
    bench.option('frame', help='frame-*.fits of DR8 or later')
    bench.option('psfield', help='psField file of the field')
    bench.option('truth', help='table of the deeper catalogue')
    bench.option('--paper', action='store_true', help="add the paper's printed F1")
    arguments = bench.start(arguments)
    exposure = Exposure.from_sdss(arguments.frame, arguments.psfield)
    truth = read_truth(arguments.truth, exposure.wcs)
    if arguments.quick:
        exposure = exposure[:400, :400]
    with warnings.catch_warnings(action='ignore'):
        catalog = detect_sources(exposure, encoder=bench.encoder, progress_bar=False)
    found = Table([catalog['x_centroid'], catalog['y_centroid']], names=['x', 'y'])
    found['mag'] = flux_to_magnitude(u.Quantity(catalog['flux']).value)
    found['galaxy'] = np.asarray(catalog['galaxy_probability']) > 0.5
    add_scores(bench, found, truth, exposure.shape, OURS)
    data = np.ascontiguousarray(exposure.data - exposure.background, dtype=float)
    data[exposure.mask] = 0.0
    rival = detect_rival(
        'SEP', data, float(np.median(exposure.bkg_error)), **SEP_SETTINGS
    )
    rival = rival[rival['flux'] > 0]
    rival['mag'] = flux_to_magnitude(np.asarray(rival['flux']))
    add_scores(bench, rival, truth, exposure.shape, 'SEP')
    for method, value in PAPER.items() if arguments.paper else ():
        bench.add('r 17 to 22', 'F1', value, method=method, date='2022', machine='')
    bench.finish()


if __name__ == '__main__':
    main()
