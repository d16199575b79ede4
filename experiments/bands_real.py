# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Several bands on real images: one band against all of the same pixels.

The globular cluster M2 on SDSS frames in g, r and i, against Hubble's stars where it is
crowded and against PSF fits where it is not; 17 epochs of a stamp of stripe 82 in g, r,
i; exposures of DECam, and of 90prime and Mosaic, in g, r, z; sources of known
magnitudes in images of Hyper Suprime-Cam in g, r, i, z, y.
"""

import itertools
import os
import warnings
from pathlib import Path

import _networks  # noqa: F401  (path of the harness)
import astropy.units as u
import numpy as np
from _real_images import (
    FIT_RADIUS,
    fit_stars,
    read_blends,
    read_legacy,
    read_stamps,
    sets_of,
)
from crowded import (
    OURS,
    ROUNDS,
    Cells,
    align,
    counts,
    low_background,
    read_hubble,
    scores,
    table_of,
)
from harness import Benchmark, bootstrap, median_with_error, quantile_width, share
from scipy.ndimage import median_filter, percentile_filter
from scipy.spatial import cKDTree

from bliss_astro import Encoder, detect_sources
from bliss_astro.exposures import ExposureSet
from bliss_astro.surveys import sdss

FIELD, BOX = '2583/2/136', 24
# Rows and columns of M2 far from its centre, one in which stars rarely blend.
SPARSE = slice(100, 1400), slice(1100, 2000)
SIGMA = '0.8 to 1.25'
ALONE = 12.0  # pixels
WINDOW = 41  # stars in the running median of a sequence


def detect(exposures, encoder):
    """Catalogue of exposures, those of one band without a name."""
    with warnings.catch_warnings(action='ignore'):
        return detect_sources(
            exposures, encoder=encoder, check=False, progress_bar=False
        )


def places(catalog):
    """Positions ``(N, 2)`` in pixels."""
    return np.stack([catalog['x_centroid'], catalog['y_centroid']], 1)


# -- M2 ----------------------------------------------------------------------------


def above_sky(exposure):
    """Image without its sky, bad pixels 0."""
    return np.where(exposure.mask, 0.0, exposure.data - exposure.background)


def with_sky(exposure, extra):
    """Exposure with more sky, whose photons are noise."""
    noise = np.square(exposure.bkg_error) + np.maximum(extra, 0) / (
        exposure.effective_gain
    )
    return exposure.replace(
        background=exposure.background + extra, bkg_error=np.sqrt(noise)
    )


def detect_crowded(exposures, encoder):
    """Catalogue, the sky in each band measured from what is left of it."""
    extra = {band: low_background(above_sky(e)) for band, e in exposures.items()}

    def detect_again():
        own = {band: with_sky(e, extra[band]) for band, e in exposures.items()}
        return detect(ExposureSet(own, reference=exposures.reference), encoder)

    for _ in range(ROUNDS):
        catalog = detect_again()
        for band, e in exposures.items():
            given = {'band': band, 'psf': e.psf} if len(exposures) > 1 else {}
            model = u.Quantity(catalog.render(**given)).value
            left = np.where(e.mask, 0, above_sky(e) - extra[band] - model)
            extra[band] += percentile_filter(left, 50, size=BOX)
    return detect_again()


def add_crowded(bench, field, folder, weights, label=''):
    """Precision and recall against Hubble's stars, r < 21, of an encoder."""
    encoder = Encoder.from_pretrained(weights)
    truth = read_hubble(next(folder.glob('HSC*.csv')), field['r'].wcs, 'MagAuto')
    cells = Cells(truth)
    cutout, origin = field[cells.y, cells.x], (cells.x.start, cells.y.start)
    (dx, dy), zero_point = align(cutout['r'], truth, origin)
    for name, value in (('x', dx), ('y', dy), ('mag', zero_point)):
        truth[name] += value
    found = {}
    for bands in ('r', 'gri'):
        catalog = detect_crowded(cutout.select(bands).with_reference('r'), encoder)
        flux = u.Quantity(catalog['flux']).value
        table = table_of(*places(catalog).T, flux, origin)
        found[bands] = counts(table, truth, cells)
    n = len(cells.numbers)
    draws = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), 500)
    samples = {k: np.array([scores(c @ w) for w in draws]) for k, c in found.items()}
    samples['gri minus r'] = samples['gri'] - samples['r']
    values = {k: scores(c.sum(1)) for k, c in found.items()}
    values['gri minus r'] = values['gri'] - values['r']
    for case, own in values.items():
        for k, quantity in enumerate(('precision', 'recall', 'F1')):
            given = {'error': samples[case][:, k].std(), 'n': n, 'weights': weights}
            bench.add(f'M2, {label}{case}', quantity, own[k], **given)


def alone(catalog):
    """Rows whose neighbours have less than a twentieth of their light together."""
    points, flux = places(catalog), u.Quantity(catalog['flux']).value
    near = cKDTree(points).query_ball_point(points, ALONE)
    total = np.array([flux[own].sum() for own in near])
    return total < 1.05 * flux


def add_sparse(bench, field, folder, encoder):
    """Sources of r alone and of gri, and colours against PSF fits, in a sparse part."""
    part = field[SPARSE]
    found = {
        bands: detect(part.select(bands).with_reference('r'), encoder)
        for bands in ('r', 'gri')
    }
    case, magnitude = 'M2, sparse', {k: c['mag'].value for k, c in found.items()}
    distance, _ = cKDTree(places(found['r'])).query(places(found['gri']))
    for bands in found:
        for low, high in ((0, 21.2), (21.2, 22.5)):
            n = int(((magnitude[bands] > low) & (magnitude[bands] < high)).sum())
            quantity = f'detections, r {low} to {high}'
            bench.add(f'{case}, {bands}', quantity, n, np.sqrt(n), n=n)
    # Sources that r alone does not show, in a band that nobody has seen.
    several = found['gri']
    new = (distance > 2) & (np.asarray(several['probability']) > 0.5)
    rng, shape = bench.rng, np.array(part.shape[::-1])
    empty = rng.uniform(FIT_RADIUS, shape - FIT_RADIUS, (4000, 2))
    apart, _ = cKDTree(places(several)).query(empty)
    for words, chosen in (
        ('of sources that g and i add', places(several)[new]),
        ('of empty places', empty[apart > 8]),
    ):
        flux, error = fit_stars(part['z'], *chosen.T)
        good = np.isfinite(flux)
        snr = flux[good] / error[good]
        value = bootstrap(np.mean, snr)
        bench.add(case, f'mean z flux over its error {words}', value, n=len(snr))
    star = np.asarray(several['galaxy_probability']) < 0.1
    star &= alone(several) & (np.asarray(several['flags']) & 7 == 0)
    add_sequence(bench, several[star])
    use = star & (magnitude['gri'] > 15.5) & (magnitude['gri'] < 19.5)
    sky = several['sky_centroid'][use]
    colours, fitted = several.colors(['g-r', 'r-i'])[use], {}
    for band in 'gri':
        frame = next(folder.glob(f'frame-{band}-*'))
        own = sdss.read_exposure(frame, next(folder.glob('psField*')))
        fitted[band] = fit_stars(own, *own.wcs.world_to_pixel(sky))[0]
    for pair in ('g-r', 'r-i'):
        blue, red = (fitted[band] for band in pair.split('-'))
        with np.errstate(invalid='ignore'):
            offset = colours[pair].value + 2.5 * np.log10(blue / red)
        offset = offset[np.isfinite(offset)]
        value, quantity = median_with_error(offset), f'{pair} minus that of PSF fits'
        bench.add(case, quantity, value, n=len(offset), unit='mag')


def add_sequence(bench, catalog):
    """Distances of stars from the cluster's sequence, over their errors."""
    catalog = catalog[np.argsort(catalog['mag'])]
    colours, magnitude = catalog.colors(['g-r', 'r-i']), catalog['mag'].value
    for pair in ('g-r', 'r-i'):
        colour, error = colours[pair].value, colours[f'{pair}_err'].value
        own = np.abs(colour - np.median(colour)) < 0.4
        away = np.full(len(own), np.nan)
        away[own] = colour[own] - median_filter(colour[own], WINDOW)
        for low, high in ((19.0, 20.5), (20.5, 21.5)):
            use = own & (magnitude > low) & (magnitude < high) & (np.abs(away) < 0.2)
            value = bootstrap(quantile_width, (away / error)[use])
            quantity = f'sigma of normalised distances in {pair} from the sequence'
            words = f'M2, sparse, r {low:g} to {high:g}'
            bench.add(words, quantity, value, n=int(use.sum()), target=SIGMA)


# -- epochs ------------------------------------------------------------------------


def add_repeats(bench, case, catalogs, pairs, *, radius=1.0):
    """Colours and fluxes of sources that several epochs show, over their errors."""
    sky = catalogs[int(np.argmax([len(c) for c in catalogs]))]['sky_centroid']
    scale = catalogs[0].image['pixel_scale']
    residuals = {name: [] for name in (*pairs, 'flux in r')}
    number = 0
    for place in sky:
        rows = []
        for catalog in catalogs:
            apart = catalog['sky_centroid'].separation(place).arcsec / scale
            if len(apart) and apart.min() < radius:
                rows.append((catalog, int(apart.argmin())))
        number += len(rows) > 1
        for name in residuals:
            values = [value_of(catalog, row, name) for catalog, row in rows]
            values = np.array([v for v in values if np.isfinite(v).all()])
            residuals[name] += from_others(values.reshape(-1, 2))
    for name, own in residuals.items():
        if len(own) > 2:
            value = bootstrap(quantile_width, own)
            quantity = f'sigma of normalised differences of {name}'
            bench.add(case, quantity, value, n=len(own), target=SIGMA)
    bench.add(case, 'sources seen more than once', number, n=len(catalogs))


def value_of(catalog, row, name):
    """A colour in magnitudes, or the flux in r, and its error."""
    if name == 'flux in r':
        keys = ('flux_r', 'flux_r_err')
        keys = keys if keys[0] in catalog.colnames else ('flux', 'flux_err')
        return [u.Quantity(catalog[key][row]).value for key in keys]
    if any(f'flux_{band}' not in catalog.colnames for band in name.split('-')):
        return np.nan, np.nan
    colours = catalog.colors([name])[row]
    return colours[name].value, colours[f'{name}_err'].value


def from_others(values):
    """Differences ``(N, 2)`` from the mean of the other epochs, over their errors."""
    if len(values) < 2:
        return []
    value, error = values.T
    weight = error**-2.0
    rest = weight.sum() - weight
    mean = ((weight * value).sum() - weight * value) / rest
    return list((value - mean) / np.sqrt(error**2 + 1 / rest))


# -- HSC ---------------------------------------------------------------------------


def sep_magnitudes(exposures):
    """Positions, and magnitudes in all bands in the ellipses of i, of SEP."""
    import sep

    data = [np.ascontiguousarray(e.data, float) for e in exposures.values()]
    noise = float(np.median(exposures['i'].bkg_error))
    # The reference band comes first.
    found = sep.extract(data[0], 2.0, err=noise, minarea=5, deblend_cont=1e-4)
    place, axes = (found['x'], found['y']), (found['a'], found['b'], found['theta'])
    radius, _ = sep.kron_radius(data[0], *place, *axes, 6.0)
    radius = np.clip(2.5 * radius, 3.5 / np.sqrt(axes[0] * axes[1]), None)
    flux = [sep.sum_ellipse(v, *place, *axes, radius, subpix=5)[0] for v in data]
    magnitude = 22.5 - 2.5 * np.log10(np.where(np.array(flux) > 0, flux, np.nan))
    return np.stack(place, 1), magnitude.T, np.full(magnitude.T.shape, np.nan)


def our_magnitudes(exposures, encoder):
    """Positions, magnitudes in all bands and their errors."""
    catalog = detect(exposures, encoder)
    keys = [f'mag_{b}' if len(exposures) > 1 else 'mag' for b in exposures]
    values, errors = (
        np.stack([catalog[f'{key}{end}'].value for key in keys], 1)
        for end in ('', '_err')
    )
    return places(catalog), values, errors


def add_blends(bench, folder, encoder):
    """Magnitudes and colours of injected sources."""
    methods = {
        'grizy': lambda e: our_magnitudes(e, encoder),
        'i': lambda e: our_magnitudes(e.select(['i']), encoder),
        'SEP': sep_magnitudes,
    }
    rows = {name: [] for name in methods}
    for exposures, truth in read_blends(folder):
        for name, measure in methods.items():
            place, values, errors = measure(exposures)
            bands = list(exposures)[: values.shape[1]]
            for true in truth:
                apart = np.hypot(*(place - (true['x'], true['y'])).T)
                row = np.full((2, values.shape[1]), np.nan)
                if len(apart) and apart.min() < 2:
                    k = int(apart.argmin())
                    row = values[k] - [true[f'{b}magVar'] for b in bands], errors[k]
                rows[name].append(row)
    for name, own in rows.items():
        away, error = np.moveaxis(np.array(own), 1, 0)
        bands = 'igrzy'[: away.shape[1]]
        columns = {'method': name if name == 'SEP' else OURS, 'unit': 'mag'}
        case, found = f'HSC, {name}', np.isfinite(away[:, 0])
        value = share(found)
        bench.add(case, 'recall', value, n=len(found), **columns | {'unit': ''})
        chosen = dict(zip(bands, away.T, strict=True))
        pairs = itertools.pairwise(sorted(bands, key='grizy'.index))
        chosen |= {f'{a}-{b}': chosen[a] - chosen[b] for a, b in pairs}
        for quantity, values in chosen.items():
            values = np.abs(values[np.isfinite(values)])
            quantity = f'median error of {quantity}, absolute'
            value = bootstrap(np.median, values)
            bench.add(case, quantity, value, n=len(values), **columns)
        pull = (away / error)[np.isfinite(away / error)]
        if len(pull) > 2:
            value, quantity = (
                bootstrap(quantile_width, pull),
                'sigma of normalised errors',
            )
            bench.add(case, quantity, value, n=len(pull), target=SIGMA)


def main(arguments=None):
    title = __doc__.strip().splitlines()[0]
    bench = Benchmark('bands_real', title, weights='stars-galaxies')
    data = os.environ.get('BLISS_ASTRO_SHARED_DATA')
    bench.option('--data', type=Path, default=data, help='BLISS_ASTRO_SHARED_DATA')
    parts = ('crowded', 'sparse', 'stamps', 'decam', 'bok', 'hsc')
    bench.option('--parts', nargs='*', default=parts, choices=parts)
    arguments = bench.start(arguments)
    data, encoder, parts = Path(arguments.data), bench.encoder, {*arguments.parts}
    folder = data / 'sdss' / FIELD
    if parts & {'crowded', 'sparse'}:
        with warnings.catch_warnings(action='ignore'):
            field = ExposureSet.from_sdss(folder, noise='measure')
        if 'crowded' in parts:
            add_crowded(bench, field, folder, arguments.encoder)
            add_crowded(bench, field, folder, 'stars-crowded', 'stars-crowded, ')
        if 'sparse' in parts:
            add_sparse(bench, field, folder, encoder)
    if 'stamps' in parts:
        epochs = read_stamps(data / 'sdss_multi_epoch_stamps')
        for bands in ('gri', 'r'):
            own = [{b: e[b] for b in bands} for e in epochs]
            catalogs = [detect(ExposureSet(e, reference='r'), encoder) for e in own]
            pairs = ('g-r', 'r-i') if bands == 'gri' else ()
            add_repeats(bench, f'stripe 82, {bands}', catalogs, pairs, radius=2)
    folder = data / 'legacysurvey_multi_exposure'
    for part, given in (
        ('decam', (folder / 'testcase3', '*.N??.fits', 'calib/**/{}-*psfex.fits')),
        ('bok', (folder / 'mzlsbass', '*-ccd?.fits', 'calib/*/psfex/**/*{}*.*')),
    ):
        if part in parts:
            catalogs = [detect(own, encoder) for own in sets_of(read_legacy(*given))]
            add_repeats(bench, part, catalogs, ('g-r', 'r-z'), radius=2)
    if 'hsc' in parts:
        add_blends(bench, data / 'hsc_blends', encoder)
    bench.finish()


if __name__ == '__main__':
    main()
