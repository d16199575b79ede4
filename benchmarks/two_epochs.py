# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The same sky twice: SDSS runs 4192 and 6377 with stars and galaxies.

``--data`` is a folder with the fpC, psField, tsField and fpM files of both fields.
"""

import warnings
from pathlib import Path

import numpy as np
from astropy.table import Table
from harness import Benchmark, bootstrap, quantile_width, share
from scipy.spatial import cKDTree

from bliss_astro import Exposure, detect_sources
from bliss_astro.metrics import match_catalogs
from bliss_astro.units import flux_to_magnitude

RUNS = ((4192, 4, 300), (6377, 4, 399))
FAINTEST, CALIBRATORS = 20.5, 18.6  # r magnitudes
BORDER, APART, NEIGHBOUR_SHARE = 24, 10.0, 0.05  # pixels, pixels, share of the flux
RECALL_TARGET, CLASS_TARGET, SIGMA_TARGET = '>= 0.96', '>= 0.95', '0.8 to 1.25'


def read_epochs(folder):
    """Exposures of both runs."""

    def find(kind, run, camcol, field):
        pattern = f'{kind}-{run:06d}-{camcol}-{field:04d}.fit*'
        if found := sorted(Path(folder).rglob(pattern)):
            return found[0]
        raise FileNotFoundError(f'--data: no file {pattern}')

    exposures = []
    for run, camcol, field in RUNS:
        image, mask = (find(kind, run, f'r{camcol}', field) for kind in ('fpC', 'fpM'))
        psf = find('psField', run, camcol, field)
        table = find('tsField', run, f'{camcol}-*', field)
        exposures.append(Exposure.from_sdss(image, psf, tsfield=table, fpm=mask))
    return exposures


def detect(exposure, encoder):
    """Plain table of a catalogue with positions on the sky."""
    with warnings.catch_warnings(action='ignore'):
        catalog = detect_sources(exposure, encoder=encoder, progress_bar=False)
    names = ('x_centroid', 'y_centroid', 'flux', 'flux_err', 'flags', 'sky_centroid')
    table = Table({n: getattr(catalog[n], 'value', catalog[n]) for n in names[:-1]})
    table['galaxy'] = np.asarray(catalog['galaxy_probability']) > 0.5
    table['magnitude'] = flux_to_magnitude(np.asarray(table['flux'], dtype=float))
    table['alone'] = isolated(table)
    table.meta['sky'] = catalog['sky_centroid']
    return table


def isolated(table):
    """Rows without a neighbour of more than a share of their flux."""
    points = np.column_stack([table['x_centroid'], table['y_centroid']])
    alone, flux = np.ones(len(points), dtype=bool), np.asarray(table['flux'])
    for a, b in cKDTree(points).query_pairs(APART, output_type='ndarray'):
        alone[a] &= flux[b] < NEIGHBOUR_SHARE * flux[a]
        alone[b] &= flux[a] < NEIGHBOUR_SHARE * flux[b]
    return alone


def inside(exposure, x, y):
    """Positions away from the edges."""
    ny, nx = exposure.shape
    low = BORDER - 0.5
    return (x > low) & (x < nx - 1 - low) & (y > low) & (y < ny - 1 - low)


def partners_of(own, other, exposure):
    """Row of the other epoch of each source or -1, and its position there."""
    x, y = (
        np.asarray(v, dtype=float) for v in exposure.wcs.world_to_pixel(own.meta['sky'])
    )
    match = match_catalogs((x, y), (other['x_centroid'], other['y_centroid']))
    partner = np.full(len(own), -1)
    partner[match.estimated_index] = match.truth_index
    return partner, x, y


def add_recovery(bench, case, own, other, exposures):
    """Sources found again in the other epoch, and their classes."""
    partner, x, y = partners_of(own, other, exposures[1])
    use = np.asarray(own['magnitude'] < FAINTEST)
    use &= inside(exposures[0], own['x_centroid'], own['y_centroid'])
    use &= inside(exposures[1], x, y)
    found = partner >= 0
    quantity = 'found in the other run, r < 20.5'
    n = int(use.sum())
    bench.add(case, quantity, share(found[use]), n=n, target=RECALL_TARGET)
    both = use & found
    same = np.asarray(own['galaxy'])[both] == np.asarray(other['galaxy'])[partner[both]]
    quantity = 'same class, r < 20.5'
    bench.add(case, quantity, share(same), n=len(same), target=CLASS_TARGET)
    for kind, chosen in (('stars', ~own['galaxy']), ('galaxies', own['galaxy'])):
        rows = use & np.asarray(chosen)
        bench.add(case, f'{kind} found in the other run, r < 20.5', share(found[rows]))
    return np.flatnonzero(both), partner[both]


def add_fluxes(bench, first, second, pairs):
    """Flux differences over their errors, zero points from isolated bright stars."""
    a, b = first[pairs[0]], second[pairs[1]]
    star = ~np.asarray(a['galaxy'] | b['galaxy'])
    clean = star & np.asarray((a['flags'] == 0) & (b['flags'] == 0))
    clean &= np.asarray(a['alone'] & b['alone'])
    bright = clean & np.asarray(a['magnitude'] < CALIBRATORS)
    use = bright if bright.sum() >= 5 else clean
    scale = np.median(a['flux'][use] / b['flux'][use]) if use.any() else 1.0
    difference = np.asarray(a['flux'] - scale * b['flux'])
    pull = difference / np.hypot(a['flux_err'], scale * b['flux_err'])
    galaxy = np.asarray(a['galaxy'] & b['galaxy'])
    for kind, rows in (
        ('stars', star),
        ('galaxies', galaxy),
        ('isolated stars', clean),
    ):
        if rows.sum() < 5:
            continue
        quantity = f'{kind}, sigma of normalised flux differences'
        value = bootstrap(quantile_width, pull[rows])
        bench.add('both runs', quantity, value, n=int(rows.sum()), target=SIGMA_TARGET)


def main(arguments=None):
    bench = Benchmark(
        'two_epochs', __doc__.strip().splitlines()[0], weights='stars-galaxies'
    )
    bench.option('--data', required=True, help='folder of the files')
    arguments = bench.start(arguments)
    exposures = read_epochs(arguments.data)
    if arguments.quick:
        exposures = [exposure[300:700, 300:700] for exposure in exposures]
    tables = [detect(exposure, bench.encoder) for exposure in exposures]
    pairs = add_recovery(bench, f'run {RUNS[0][0]}', *tables, exposures)
    add_recovery(bench, f'run {RUNS[1][0]}', *tables[::-1], exposures[::-1])
    add_fluxes(bench, *tables, pairs)
    bench.finish()


if __name__ == '__main__':
    main()
