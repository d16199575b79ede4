# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Another survey: sources of known flux in images of Hyper Suprime-Cam, beside SEP.

Stars and galaxies are put into blank and blended places of cut-outs, one at a time, and
measured by an encoder that was trained for them (``configs/hsc.toml``), by SEP and
photutils, whose settings are those with the smallest mean error on other sources.
"""

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import astropy.units as u
import galsim
import numpy as np
from astropy.table import Table
from harness import OURS, Benchmark, bootstrap, share
from samples import detect_rival, rows_of, settings_of

from bliss_astro import Exposure, PSFModel, detect_sources

# Arcsec, index of the i band, magnitude of unit flux, electrons per unit of flux (the
# slope of variance on flux in the one cut-out with the photons of its sources).
PIXEL_SCALE, BAND, ZERO_POINT, GAIN = 0.168, 2, 27.0, 4e4
UNIT = 10 ** (0.4 * (22.5 - ZERO_POINT)) * u.nmgy
MAGNITUDES, EDGE = (22.5, 26.25), 10.0
# Distances in pixels from known sources of blank and of blended places.
PLACES = {'blank': (9.0, np.inf), 'blended': (2.0, 7.0)}
# Mean correlation of the noise of neighbouring pixels in blank sky.
NOISE_CORRELATION = (0.06, 0.06)


def read_cutouts(folder):
    """Exposures, PSF images and known positions of the cut-outs."""
    cutouts = []
    for path in sorted(Path(folder, 'hsc_blends').glob('set*/*.npz')):
        with np.load(path, allow_pickle=True) as file:
            data, variance, psf = (
                file[k][BAND].astype(float) for k in ('images', 'variance', 'psfs')
            )
            known = file['centers'][:, ::-1].astype(float)
        exposure = Exposure(
            data * UNIT,
            bkg_error=np.sqrt(variance) * UNIT,
            effective_gain=GAIN * u.electron / UNIT,
            psf=PSFModel.fit(psf / psf.sum()),
            noise_correlation=NOISE_CORRELATION,
        )
        cutouts.append((exposure, psf / psf.sum(), known))
    if not cutouts:
        raise FileNotFoundError(f'--data: no hsc_blends/set*/*.npz in {folder}')
    return cutouts


def draw_injections(cutouts, n, rng):
    """Table of sources: cutout, x, y, flux (nmgy), is_galaxy, place, shape."""
    rows = []
    area = np.array([cutout[0].data.size for cutout in cutouts], dtype=float)
    while len(rows) < n:
        k = rng.choice(len(cutouts), p=area / area.sum())
        exposure, _, known = cutouts[k]
        ny, nx = exposure.shape
        x, y = rng.uniform(EDGE, [nx - 1 - EDGE, ny - 1 - EDGE])
        apart = np.hypot(x - known[:, 0], y - known[:, 1]).min()
        place = ('blank', 'blended')[len(rows) % 2]
        low, high = PLACES[place]
        if low < apart < high:
            magnitude = rng.uniform(*MAGNITUDES)
            # Half-light radius in arcsec of galaxies of that magnitude, roughly.
            radius = 0.35 * 10 ** (-0.1 * (magnitude - 24)) * rng.lognormal(0, 0.3)
            shape = radius, rng.uniform(0.2, 1), rng.uniform(0, 180), rng.uniform()
            flux = 10 ** (0.4 * (22.5 - magnitude))
            rows.append((k, x, y, flux, rng.uniform() < 0.5, place, *shape))
    names = ['cutout', 'x', 'y', 'flux', 'is_galaxy', 'place']
    return Table(rows=rows, names=[*names, 'radius', 'q', 'angle', 'disk'])


def inject(cutout, row, rng):
    """The cut-out with a source and the noise of its photons."""
    exposure, psf, _ = cutout
    profile = galsim.InterpolatedImage(galsim.Image(psf), scale=PIXEL_SCALE, flux=1.0)
    if row['is_galaxy']:
        radius = row['radius'] * np.sqrt(row['q'])
        galaxy = row['disk'] * galsim.Exponential(half_light_radius=radius)
        galaxy += (1 - row['disk']) * galsim.DeVaucouleurs(half_light_radius=radius)
        galaxy = galaxy.shear(q=row['q'], beta=row['angle'] * galsim.degrees)
        profile = galsim.Convolve(galaxy, profile)
    ny, nx = exposure.shape
    offset = (row['x'] - (nx - 1) / 2, row['y'] - (ny - 1) / 2)
    image = profile.withFlux(row['flux']).drawImage(
        nx=nx, ny=ny, scale=PIXEL_SCALE, offset=offset, method='no_pixel', dtype=float
    )
    signal, gain = image.array, GAIN / UNIT.value
    noise = rng.standard_normal(signal.shape) * np.sqrt(signal.clip(0) / gain)
    return exposure.replace(data=exposure.data + signal + noise)


def find(method, exposure, settings):
    """Table ``x, y, flux`` of one method, fluxes in nmgy."""
    if method == OURS:
        with warnings.catch_warnings(action='ignore'):
            catalog = detect_sources(
                exposure, encoder=settings, check=False, progress_bar=False
            )
        return rows_of(catalog, intervals=False)
    data = np.ascontiguousarray(exposure.data, dtype=float)
    noise = float(np.median(np.asarray(exposure.bkg_error)))
    return detect_rival(method, data, noise, **settings)


def nearest(table, row):
    """Row within a pixel of a source, or None."""
    if len(table) == 0:
        return None
    apart = np.hypot(table['x'] - row['x'], table['y'] - row['y'])
    return table[int(apart.argmin())] if apart.min() < 1 else None


def measure(method, cutouts, injections, settings, before, seed):
    """Flux of each source over the true one; NaN if not found or there before."""
    rng, ratios = np.random.default_rng(seed), np.full(len(injections), np.nan)
    for k, row in enumerate(injections):
        exposure = inject(cutouts[row['cutout']], row, rng)
        found = nearest(find(method, exposure, settings), row)
        if found is not None and nearest(before[row['cutout']], row) is None:
            ratios[k] = found['flux'] / row['flux']
    return ratios


def main(arguments=None):
    bench = Benchmark('hsc', __doc__.strip().splitlines()[0], n_images=1000)
    bench.option(
        '--encoder', required=True, help='weights trained with configs/hsc.toml'
    )
    data = os.environ.get('BLISS_ASTRO_SHARED_DATA')
    bench.option('--data', default=data, help='folder; BLISS_ASTRO_SHARED_DATA')
    arguments = bench.start(arguments)
    cutouts = read_cutouts(arguments.data)
    n, rng = 6 if arguments.quick else arguments.n_images, bench.rng
    injections = draw_injections(cutouts, n, rng)
    tuning = draw_injections(cutouts, max(4, n // 10), rng)
    chosen = {OURS: bench.encoder}
    for method, module in (('SEP', 'sep'), ('photutils', 'skimage')):
        if find_spec(module):
            grid = settings_of(method)[: 2 if arguments.quick else None]
            losses = []
            for settings in grid:
                before = [find(method, c[0], settings) for c in cutouts]
                ratios = measure(method, cutouts, tuning, settings, before, 2)
                # A missed source is wrong by all of its flux.
                losses.append(np.nan_to_num(np.abs(ratios - 1), nan=1.0).mean())
            chosen[method] = grid[int(np.argmin(losses))]
    errors = {}
    for method, settings in chosen.items():
        before = [find(method, c[0], settings) for c in cutouts]
        errors[method] = measure(method, cutouts, injections, settings, before, 1) - 1
    common = np.isfinite(np.sum(list(errors.values()), axis=0))
    place = np.asarray(injections['place'])
    galaxy = np.asarray(injections['is_galaxy'])
    everything = np.ones(len(place), dtype=bool)
    for case, use in (
        ('all', everything),
        ('blank', place == 'blank'),
        ('blended', place == 'blended'),
        ('stars', ~galaxy),
        ('galaxies', galaxy),
    ):
        both = use & common
        for method, values in errors.items():
            value = share(np.isfinite(values[use]))
            bench.add(case, 'recall', value, n=int(use.sum()), method=method)
            if both.sum() < 3:
                continue
            for quantity, own in (
                ('median flux error, absolute', 100 * np.abs(values[both])),
                ('median flux error', 100 * values[both]),
            ):
                value = bootstrap(np.median, own)
                bench.add(case, quantity, value, n=len(own), unit='%', method=method)
    bench.finish()


if __name__ == '__main__':
    main()
