# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A crowded field: the globular cluster M2 on an SDSS frame against Hubble's stars.

``docs/user_guide/crowded.rst`` has the rules: matches within 0.5 px and 0.5 mag, cells
of 10 px that hold Hubble rows, truth brighter than r = 21, the best of a grid of
settings of photutils' iterative PSF photometry.
"""

import itertools
import warnings

import astropy.units as u
import numpy as np
from astropy.table import Table
from harness import OURS, Benchmark
from matplotlib.figure import Figure
from scipy.ndimage import percentile_filter
from scipy.optimize import minimize

from bliss_astro import Exposure, detect_sources
from bliss_astro.metrics import match_catalogs
from bliss_astro.rendering import TorchRenderer
from bliss_astro.units import flux_to_magnitude, magnitude_to_flux

FAINTEST, RADIUS, TOLERANCE = 21.0, 0.5, 0.5  # r, pixels, magnitudes
SHOWN = slice(280, 350), slice(690, 760)  # columns and rows of the figure
CELL, MARGIN, BOX = 10, 24, 24  # pixels
# Columns and rows that published work is about, left out.
WITHHELD = ((307.0, 413.0), (627.0, 733.0))
ROUNDS = 3  # times that the background is measured from what is left over
BACKGROUND_PERCENTILE = 5
THRESHOLDS, FWHM_FACTORS, GROUPED = (5.0, 10.0, 20.0), (0.8, 1.0), (False, True)


def read_hubble(path, wcs, magnitude):
    """Rows of F606W, one for each MatchID: x, y, mag."""
    table = Table.read(path, format='ascii.csv')
    table = table[np.asarray(table['Filter']) == 'F606W']
    place = np.stack([table['MatchRA'], table['MatchDec']], 1).astype(float)
    x, y = wcs.all_world2pix(place, 0).T
    rows = Table([x, y, np.asarray(table[magnitude], float)], names=['x', 'y', 'mag'])
    rows['id'] = np.asarray(table['MatchID'])
    rows = rows.group_by('id').groups.aggregate(np.median)
    return rows[np.abs(rows['mag']) < 50]


class Cells:
    """Cells that hold rows, without the withheld box."""

    def __init__(self, rows):
        cells = np.unique(np.stack([rows['x'], rows['y']], 1) // CELL, axis=0)
        self.numbers = {tuple(cell): k for k, cell in enumerate(cells.astype(int))}
        low, high = cells.min(0) * CELL - MARGIN, (cells.max(0) + 1) * CELL + MARGIN
        self.x, self.y = (
            slice(max(0, int(a)), int(b)) for a, b in zip(low, high, strict=True)
        )

    def of(self, table):
        """Number of the cell of each row; -1 outside."""
        x, y = np.asarray(table['x']), np.asarray(table['y'])
        keys = np.stack([x, y], 1) // CELL
        number = np.array(
            [self.numbers.get((int(a), int(b)), -1) for a, b in keys], int
        )
        (x0, x1), (y0, y1) = WITHHELD
        number[(x > x0) & (x < x1) & (y > y0) & (y < y1)] = -1
        return number


def align(cutout, rows, origin):
    """Shift and zero point that fit the rows, rendered with the PSF, to the pixels."""
    data = np.asarray(cutout.data - cutout.background, float)
    x, y = rows['x'] - origin[0], rows['y'] - origin[1]
    flux = magnitude_to_flux(np.asarray(rows['mag']))
    renderer, psf = TorchRenderer(), cutout.psf_at(np.median(x), np.median(y))
    yy, xx = np.mgrid[: data.shape[0], : data.shape[1]]
    use = np.zeros(data.shape, dtype=bool)
    for a, b in zip(x, y, strict=True):
        use |= np.hypot(xx - a, yy - b) < 4
    use &= ~cutout.mask

    def fit(shift):
        image = renderer.render(psf, x + shift[0], y + shift[1], flux, data.shape)
        planes = np.ones_like(data), xx / 50 - 2, yy / 50 - 2
        design = np.stack([np.asarray(image, float), *planes], -1)[use]
        found = np.array([1.3, 0.2, 0.0, 0.0])
        for _ in range(20):  # reweighted least squares
            residual = data[use] - design @ found
            sigma = np.hypot(np.median(np.abs(residual)) + 0.02, 0.03 * design[:, 0])
            weight = (1 / (1 + (residual / sigma / 2) ** 2) ** 2 / sigma)[:, None]
            found = np.linalg.lstsq(
                design * weight, data[use] * weight[:, 0], rcond=None
            )[0]
        return found[0], np.median(np.abs(data[use] - design @ found))

    options = {'initial_simplex': [(0, 0), (0.25, 0), (0.1, 0.2)], 'maxiter': 25}
    best = minimize(lambda s: fit(s)[1], (0, 0), method='Nelder-Mead', options=options)
    return best.x, float(flux_to_magnitude(fit(best.x)[0], 0.0))


def low_background(data):
    """Lower envelope: a low percentile over a box."""
    return percentile_filter(data, BACKGROUND_PERCENTILE, size=BOX)


def table_of(x, y, flux, origin):
    """Rows on the frame with positive flux."""
    x, y, flux = (np.ma.filled(np.ma.asarray(v, float), np.nan) for v in (x, y, flux))
    good = np.isfinite(x + y) & (flux > 0)
    columns = x[good] + origin[0], y[good] + origin[1], flux_to_magnitude(flux[good])
    return Table(columns, names=['x', 'y', 'mag'])


def find_ours(cutout, origin, encoder):
    """Detections, the background measured from what the catalogue leaves over."""
    data = np.asarray(cutout.data - cutout.background, float)
    extra = low_background(data)
    for k in range(ROUNDS + 1):
        variance = np.square(np.asarray(cutout.bkg_error, float))
        variance = variance + np.maximum(extra, 0) / cutout.effective_gain
        exposure = cutout.replace(
            background=(cutout.background + extra).astype(np.float32),
            bkg_error=np.sqrt(variance).astype(np.float32),
        )
        with warnings.catch_warnings(action='ignore'):
            catalog = detect_sources(exposure, encoder=encoder, progress_bar=False)
            if k < ROUNDS:
                left = data - extra - u.Quantity(catalog.render()).value
                extra = extra + percentile_filter(left, 50, size=BOX)
    flux = u.Quantity(catalog['flux']).value
    return table_of(catalog['x_centroid'], catalog['y_centroid'], flux, origin)


def photutils_grid(cutout, origin, quick):
    """DAOStarFinder alone and with iterative PSF photometry, over settings."""
    from photutils.detection import DAOStarFinder
    from photutils.psf import ImagePSF, IterativePSFPhotometry, SourceGrouper

    data = np.asarray(cutout.data - cutout.background, float)
    data, noise = data - low_background(data), float(np.median(cutout.bkg_error))
    ny, nx = cutout.shape
    psf = cutout.psf_at(nx // 2, ny // 2)
    psf.x_0, psf.y_0 = 0.0, 0.0
    y, x = np.mgrid[-48:49, -48:49] / 4
    model = ImagePSF(psf(x, y), oversampling=4)
    settings = list(itertools.product(THRESHOLDS, FWHM_FACTORS, GROUPED))
    for threshold, factor, grouped in settings[: 1 if quick else None]:
        # The default separation of 2.5 FWHM loses nearly all of a cluster.
        finder = DAOStarFinder(threshold * noise, factor * psf.fwhm, min_separation=0)
        photometry = IterativePSFPhotometry(
            model,
            (5, 5),
            finder,
            grouper=SourceGrouper(psf.fwhm) if grouped else None,
            aperture_radius=2,
            maxiters=4,
            sub_shape=(21, 21),
            xy_bounds=5.0,
        )
        with warnings.catch_warnings(action='ignore'):
            error = np.full(data.shape, noise)
            found = photometry(data, mask=cutout.mask, error=error)
        if found is not None:
            yield table_of(found['x_fit'], found['y_fit'], found['flux_fit'], origin)


def find_sep(cutout, origin):
    """SEP with strong deblending, fluxes in apertures of 0.7 FWHM."""
    import sep

    data = np.asarray(cutout.data - cutout.background, float)
    data, noise = data - low_background(data), float(np.median(cutout.bkg_error))
    sep.set_extract_pixstack(3_000_000)
    sep.set_sub_object_limit(20_000)
    objects = sep.extract(
        data, 1.5, err=noise, minarea=3, deblend_nthresh=64, deblend_cont=1e-5
    )
    psf = cutout.psf_at(*(n // 2 for n in cutout.shape[::-1]))
    radius = 0.7 * psf.fwhm
    flux, *_ = sep.sum_circle(data, objects['x'], objects['y'], radius, subpix=5)
    flux = flux / float(psf.encircled_flux(radius))
    return table_of(objects['x'], objects['y'], flux, origin)


def counts(found, truth, cells):
    """By cell: detections, true ones among them, stars, found ones; ``(4, cells)``."""
    match = match_catalogs(
        (found['x'], found['y']),
        (truth['x'], truth['y']),
        radius=RADIUS,
        magnitudes=(found['mag'], truth['mag']),
        magnitude_tolerance=TOLERANCE,
    )
    out = np.zeros((4, len(cells.numbers)))
    for k, table, matched in (
        (0, found, match.is_matched_estimated),
        (2, truth, match.is_matched_truth),
    ):
        cell = cells.of(table)
        use = (cell >= 0) & np.asarray(table['mag'] < FAINTEST)
        np.add.at(out[k], cell[use], 1)
        np.add.at(out[k + 1], cell[use & np.asarray(matched)], 1)
    return out


def scores(total):
    """Precision, recall and F1 of summed counts."""
    precision, recall = total[1] / max(total[0], 1), total[3] / max(total[2], 1)
    return np.array(
        [precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)]
    )


def plot(exposure, truth, tables, cells):
    """Part of the frame with the true stars and those that were found."""
    (x, y), figure = SHOWN, Figure(figsize=(12.6, 4.6), layout='constrained')
    image, places = exposure.data[y, x], np.mgrid[x, y]
    inside = cells.of(dict(zip('xy', places.reshape(2, -1), strict=True))) >= 0
    inside = inside.reshape(places.shape[1:]).T
    extent = x.start - 0.5, x.stop - 0.5, y.start - 0.5, y.stop - 0.5
    options = {'origin': 'lower', 'extent': extent}
    low, high = np.percentile(image, [5, 92])
    axes = figure.subplots(1, len(tables), sharex=True, sharey=True)
    for axis, (name, own) in zip(axes, tables.items(), strict=True):
        axis.imshow(image, cmap='gray', vmin=low, vmax=high, **options)
        axis.contour(inside, [0.5], colors='tab:green', linewidths=0.8, **options)
        true, own = (rows[rows['mag'] < FAINTEST] for rows in (truth, own))
        size = 8 + 25 * (FAINTEST - true['mag'])
        axis.scatter(true['x'], true['y'], size, ec='tab:orange', fc='none')
        axis.scatter(own['x'], own['y'], marker='+', color='c', linewidths=1)
        axis.set(title=name, xlim=extent[:2], ylim=extent[2:], xlabel='x (px)')
    return figure


def main(arguments=None):
    title = __doc__.strip().splitlines()[0]
    bench = Benchmark('crowded', title, weights='stars-crowded')
    bench.option('frame', help='frame-r-*.fits of the field')
    bench.option('psfield', help='psField file of the field')
    bench.option('truth', help='CSV file of the Hubble Source Catalog')
    bench.option('--fpm', help='mask planes of the field in this band')
    bench.option('--photofield', help='photoField file of the run')
    bench.option('--magnitude', default='MagAuto', help='column of the truth')
    bench.option('--plot', help='figure of a part of the field')
    arguments = bench.start(arguments)
    known = {name: getattr(arguments, name) for name in ('fpm', 'photofield')}
    exposure = Exposure.from_sdss(arguments.frame, arguments.psfield, **known)
    truth = read_hubble(arguments.truth, exposure.wcs, arguments.magnitude)
    cells = Cells(truth)
    cutout, origin = exposure[cells.y, cells.x], (cells.x.start, cells.y.start)
    (dx, dy), zero_point = align(cutout, truth, origin)
    for name, value in (('x', dx), ('y', dy), ('mag', zero_point)):
        truth[name] += value

    rival, n = 'photutils, PSF photometry', len(cells.numbers)
    rivals = photutils_grid(cutout, origin, arguments.quick)
    tables = {
        OURS: find_ours(cutout, origin, bench.encoder),
        rival: max(rivals, key=lambda t: scores(counts(t, truth, cells).sum(1))[2]),
        'SEP': find_sep(cutout, origin),
    }
    found = {method: counts(own, truth, cells) for method, own in tables.items()}
    draws = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), 500)
    samples = {m: np.array([scores(c @ w) for w in draws]) for m, c in found.items()}
    for method, own in found.items():
        for k, quantity in enumerate(('precision', 'recall', 'F1')):
            value = scores(own.sum(1))[k], samples[method][:, k].std()
            bench.add('M2', quantity, value, method=method)
    ratio = samples[OURS][:, 2] / samples[rival][:, 2]
    value = scores(found[OURS].sum(1))[2] / scores(found[rival].sum(1))[2]
    quantity = 'F1 over that of photutils'
    bench.add('M2', quantity, value, ratio.std(), target='>= 2')
    if arguments.plot:
        plot(exposure, truth, tables, cells).savefig(arguments.plot, dpi=110)
    bench.finish()


if __name__ == '__main__':
    main()
