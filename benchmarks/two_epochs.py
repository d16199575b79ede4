# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The same sky twice: SDSS runs 4192 and 6377, and simulations like them.
"""

import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import torch
from _common import Report, make_parser, share_with_error
from astropy.coordinates import SkyCoord

from bliss_astro import detect_sources
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._camera import add_noise
from bliss_astro.metrics import cramer_rao_bound, robust_sigma
from bliss_astro.rendering import render_stars

_RUNS = ((4192, 4, 300), (6377, 4, 399))
_BRIGHT = 20.0  # magnitude down to which stars count
_APART = 10.0  # pixels without a neighbour ...
_NEIGHBOUR = 0.05  # ... of more than this share of the flux
_BORDER = 24  # pixels from the edges of both frames
_RADIUS = 1.0 * u.arcsec
# Two apertures in pixels; a point source has the same magnitude in both
# once each is corrected for the share of the PSF that it holds.
_SMALL, _LARGE = 2.5, 6.0
_CALIBRATOR, _APERTURE = 18.6, 7.0  # magnitude and pixels, for the zero point
_POINT = 0.06  # largest difference in magnitudes, plus three errors


# -- the two frames ----------------------------------------------------------------


def _find(folder, pattern):
    found = sorted(Path(folder).rglob(pattern))
    if not found:
        msg = f'no file {pattern} below the folder given by --data'
        raise FileNotFoundError(msg)
    return found[0]


def read_epochs(folder):
    """The exposures of both runs."""
    exposures = []
    for run, camcol, field in _RUNS:
        frame = _find(folder, f'fpC-{run:06d}-r{camcol}-{field:04d}.fit*')
        exposures.append(
            Exposure.from_sdss(
                frame,
                _find(folder, f'psField-{run:06d}-{camcol}-{field:04d}.fit*'),
                tsfield=_find(folder, f'tsField-{run:06d}-{camcol}-*-{field:04d}.fit*'),
                fpm=_find(folder, f'fpM-{run:06d}-r{camcol}-{field:04d}.fit*'),
            )
        )
    return exposures


def _plain(catalog):
    keys = ('x_centroid', 'y_centroid', 'flux', 'flux_err', 'probability', 'flags')
    out = {
        key: np.asarray(getattr(catalog[key], 'value', catalog[key])) for key in keys
    }
    out['sky'] = SkyCoord(catalog['sky_centroid'])
    return out


def _isolated(catalog):
    from scipy.spatial import cKDTree

    points = np.column_stack([catalog['x_centroid'], catalog['y_centroid']])
    alone = np.ones(len(points), dtype=bool)
    for a, b in cKDTree(points).query_pairs(_APART, output_type='ndarray'):
        flux_a, flux_b = catalog['flux'][a], catalog['flux'][b]
        alone[a] &= flux_b < _NEIGHBOUR * flux_a
        alone[b] &= flux_a < _NEIGHBOUR * flux_b
    return alone


def _aperture_flux(exposure, x, y, radius):
    # Pixels at the rim count by how far they reach in; sky left in is taken off.
    maps = exposure.maps()
    data = np.asarray(exposure.data - exposure.background, float)
    noise = np.asarray(maps['bkg_error'], float)
    half = int(radius) + 2
    step = np.arange(-half, half + 1)
    flux, variance = np.empty(len(x)), np.empty(len(x))
    for k, (x_star, y_star) in enumerate(zip(x, y, strict=True)):
        column, row = round(float(x_star)), round(float(y_star))
        window = (
            slice(row - half, row + half + 1),
            slice(column - half, column + half + 1),
        )
        r = np.hypot(step[None, :] + column - x_star, step[:, None] + row - y_star)
        weight = np.clip(radius + 0.5 - r, 0, 1)
        flux[k] = (weight * data[window]).sum()
        gain = np.asarray(maps['effective_gain'])[window].mean()
        variance[k] = (weight * noise[window]).__pow__(2).sum() + max(flux[k], 0) / gain
    return flux, np.sqrt(variance)


def concentration(exposure, x, y):
    """Magnitude in the small minus in the large aperture, PSF taken out."""
    psf = [exposure.psf_at(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    mags, errors = [], []
    for radius in (_SMALL, _LARGE):
        flux, error = _aperture_flux(exposure, x, y, radius)
        share = np.array([_share(p, radius) for p in psf])
        with np.errstate(invalid='ignore', divide='ignore'):
            mags.append(-2.5 * np.log10(flux / share))
            errors.append(1.0857 * error / flux)
    return mags[0] - mags[1], np.hypot(*errors)


def _share(psf, radius):
    # The same soft aperture on the model of the PSF.
    half = int(radius) + 2
    step = np.arange(-half, half + 1.0)
    dx, dy = np.meshgrid(step, step)
    weight = np.clip(radius + 0.5 - np.hypot(dx, dy), 0, 1)
    unit = psf.from_shape(
        psf.shape_vector, normalization_radius=psf.normalization_radius
    )
    return float((weight * unit(dx, dy)).sum())


def _well_inside(exposure, x, y):
    ny, nx = exposure.shape
    low = -0.5 + _BORDER
    return (x > low) & (x < nx - 0.5 - _BORDER) & (y > low) & (y < ny - 0.5 - _BORDER)


def choose(catalog, own, other, other_flags):
    """Isolated, unflagged point sources that both frames hold."""
    x, y = catalog['x_centroid'], catalog['y_centroid']
    other_x, other_y = other.wcs.world_to_pixel(catalog['sky'])
    use = catalog['flux'] > 10 ** (0.4 * (22.5 - _BRIGHT))
    use &= _isolated(catalog) & (catalog['flags'] == 0)
    use &= _well_inside(own, x, y) & _well_inside(other, other_x, other_y)
    n_before = int(use.sum())
    column = np.clip(np.rint(other_x).astype(int), 0, other.shape[1] - 1)
    row = np.clip(np.rint(other_y).astype(int), 0, other.shape[0] - 1)
    use &= other_flags[row, column] == 0
    n_unflagged = int(use.sum())
    index = np.flatnonzero(use)
    places = ((own, x[index], y[index]), (other, other_x[index], other_y[index]))
    for exposure, own_x, own_y in places:
        difference, error = concentration(exposure, own_x, own_y)
        centre = np.median(difference[np.abs(difference) < 0.15])
        use[index] &= np.abs(difference - centre) < _POINT + 3 * error
    return use, {'candidates': n_before, 'unflagged': n_unflagged}


def compare_epochs(report, folder):
    """Found again, and do the fluxes agree within their errors."""
    exposures = read_epochs(folder)
    catalogs, flags = [], []
    for exposure in exposures:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            table = detect_sources(exposure, threshold=0.5, encoder='stars')
        catalogs.append(_plain(table))
        flags.append(table.posterior.flags)
    details = {}
    for one, two in ((0, 1), (1, 0)):
        own, other = catalogs[one], catalogs[two]
        use, counts = choose(own, exposures[one], exposures[two], flags[two])
        index = np.flatnonzero(use)
        match, distance, _ = own['sky'][index].match_to_catalog_sky(other['sky'])
        again = distance < _RADIUS
        run = _RUNS[one][0]
        report.add(
            f'stars of run {run} found in {_RUNS[two][0]}',
            *share_with_error(int(again.sum()), len(index)),
            n=len(index),
            target='0.95 (+-0.03)',
            low=0.92,
        )
        pairs = index[again], match[again]
        details[f'run {run}'] = counts | {
            'point_sources': len(index),
            'detections': len(own['flux']),
            'lost': [
                {k: float(own[k][j]) for k in ('x_centroid', 'y_centroid', 'flux')}
                for j in index[~again]
            ],
            'median_separation_arcsec': float(np.median(distance[again].arcsec)),
        }
        if one == 0:
            details['fluxes'] = _compare_fluxes(report, exposures, own, other, pairs)
    return exposures, details


def relative_zero_point(exposures, places, magnitude):
    """
    Flux in the first epoch over that in the second, by row of the frame.

    From apertures of 7 pixels around the brighter stars: a drift scan sees
    row after row at another time, through another sky.
    """
    x, y, other_x, other_y = (v[magnitude < _CALIBRATOR] for v in places)
    ratio, variance = 1.0, 0.0
    for exposure, own_x, own_y, power in (
        (exposures[0], x, y, 1),
        (exposures[1], other_x, other_y, -1),
    ):
        flux, error = _aperture_flux(exposure, own_x, own_y, _APERTURE)
        psf = [
            exposure.psf_at(float(a), float(b))
            for a, b in zip(own_x, own_y, strict=True)
        ]
        share = np.array([_share(p, _APERTURE) for p in psf])
        ratio = ratio * (flux / share) ** power
        variance = variance + (error / flux) ** 2
    weight = 1 / np.sqrt(variance + 0.003**2)
    fit = np.polynomial.Polynomial.fit(y, ratio, 4, w=weight, domain=[0, 1488])
    print(f'zero point from {len(y)} stars')
    return fit(places[1])


def _compare_fluxes(report, exposures, first, second, pairs):
    f1, f2 = first['flux'][pairs[0]], second['flux'][pairs[1]]
    e1, e2 = first['flux_err'][pairs[0]], second['flux_err'][pairs[1]]
    magnitude = 22.5 - 2.5 * np.log10(0.5 * (f1 + f2))
    places = [
        v[pairs[k]]
        for k, c in ((0, first), (1, second))
        for v in (c['x_centroid'], c['y_centroid'])
    ]
    zero_point = relative_zero_point(exposures, places, magnitude)
    corrected = (f1 - f2 * zero_point) / np.hypot(e1, e2 * zero_point)
    pull = (f1 - f2) / np.hypot(e1, e2)
    n = len(pull)
    report.add(
        'robust sigma of (f1 - f2) / sqrt(e1^2 + e2^2)',
        robust_sigma(pull),
        _sigma_error(pull),
        n=n,
        target='0.8 to 1.3',
        low=0.8,
        high=1.3,
    )
    ratio = f1 / f2
    scatter = robust_sigma(ratio)
    report.add(
        'the same, relative zero point of the scans taken out',
        robust_sigma(corrected),
        _sigma_error(corrected),
        n=n,
    )
    report.add('median of f1 / f2', np.median(ratio), 1.25 * scatter / np.sqrt(n), n=n)
    report.add('median of (f1 - f2) / sqrt(e1^2 + e2^2)', np.median(pull), n=n)
    relative = np.hypot(e1 / f1, e2 / f2)
    rows = []
    for low, high in ((14, 17), (17, 18.5), (18.5, 19.5), (19.5, 20)):
        use = (magnitude > low) & (magnitude <= high)
        if use.sum() < 5:
            continue
        rows.append(
            {
                'r': [low, high],
                'n': int(use.sum()),
                'robust_sigma': float(robust_sigma(pull[use])),
                'robust_sigma_zero_point_out': float(robust_sigma(corrected[use])),
                'median_ratio': float(np.median(ratio[use])),
                'scatter_of_ratio': float(robust_sigma(ratio[use])),
                'stated_error_of_ratio': float(np.median(relative[use])),
            }
        )
    return {
        'scatter_of_ratio': scatter,
        'zero_point_range': [float(zero_point.min()), float(zero_point.max())],
        'by_magnitude': rows,
    }


def _sigma_error(values, n_resamples=400):
    rng = np.random.default_rng(1)
    picks = rng.integers(len(values), size=(n_resamples, len(values)))
    return float(np.std(robust_sigma(values[picks], axis=1)))


# -- simulations like them ---------------------------------------------------------


def _simulate_like(exposure, spacing, n_rows, rng):
    """Isolated stars of magnitude 16 to 20 on an epoch's PSF, sky and gain."""
    ny, nx = exposure.shape
    psf = exposure.psf_at(nx / 2, ny / 2)
    maps = exposure.maps()
    noise = float(np.median(maps['bkg_error']))
    gain = float(np.median(maps['effective_gain']))
    side = spacing * n_rows
    centre = (np.arange(n_rows) + 0.5) * spacing
    x, y = (g.ravel() + rng.uniform(-2, 2, g.size) for g in np.meshgrid(centre, centre))
    flux = 10 ** (0.4 * (22.5 - rng.uniform(16, 20, len(x))))
    vector = torch.tensor(psf.shape_vector, dtype=torch.float32)[None]
    stars = [torch.tensor(v, dtype=torch.float32)[None] for v in (x, y, flux * gain)]
    signal = render_stars(
        vector, *stars, size=(side, side), radius=psf.normalization_radius
    )
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    data = add_noise(signal[0], (noise * gain) ** 2, generator=generator)
    data = (data.double().numpy() - (noise * gain) ** 2) / gain
    simulated = Exposure(
        data * u.nmgy,
        bkg_error=noise * u.nmgy,
        effective_gain=gain,
        psf=psf,
    )
    return simulated, {'x': x, 'y': y, 'flux': flux}, (psf, noise, gain)


def check_errors(report, exposures, n_rows, n_images):
    """Stated errors against the Cramer-Rao bound and against the residuals."""
    rng = np.random.default_rng(20)
    details = {}
    for (run, _, _), exposure in zip(_RUNS, exposures, strict=True):
        parts = [_check_one(exposure, n_rows, rng) for _ in range(n_images)]
        flux, error, bound, true = np.concatenate(parts, axis=1)
        ratio, pull = error / bound, (flux - true) / error
        report.add(
            f'flux_err / Cramer-Rao bound, like run {run}',
            np.median(ratio),
            1.25 * robust_sigma(ratio) / np.sqrt(len(ratio)),
            n=len(ratio),
            target='0.8 to 1.2',
            low=0.8,
            high=1.2,
        )
        report.add(
            f'robust sigma of (flux - true) / flux_err, like run {run}',
            robust_sigma(pull),
            _sigma_error(pull),
            n=len(pull),
        )
        magnitude = 22.5 - 2.5 * np.log10(true)
        details[f'like run {run}'] = [
            {
                'r': [low, low + 1],
                'error_over_bound': float(np.median(ratio[use])),
                'quartiles': np.quantile(ratio[use], (0.25, 0.75)),
                'robust_sigma': float(robust_sigma(pull[use])),
                'median_pull': float(np.median(pull[use])),
                'median_residual': float(np.median((flux / true - 1)[use])),
                'n': int(use.sum()),
            }
            for low in (16, 17, 18, 19)
            for use in [(magnitude > low) & (magnitude <= low + 1)]
        ]
    return details


def _check_one(exposure, n_rows, rng):
    simulated, truth, (psf, noise, gain) = _simulate_like(exposure, 48, n_rows, rng)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        catalog = detect_sources(simulated, encoder='stars')
    from scipy.spatial import cKDTree

    found = np.column_stack([catalog['x_centroid'], catalog['y_centroid']])
    tree = cKDTree(found)
    distance, index = tree.query(np.column_stack([truth['x'], truth['y']]))
    good = distance < 1
    if not good.all():
        print(f'{(~good).sum()} of {len(good)} simulated stars not found')
    true, index = truth['flux'][good], index[good]
    bound = cramer_rao_bound(
        psf, true, bkg_error=noise, effective_gain=gain, shape=(45, 45)
    )
    flux = catalog['flux'].to_value(u.nmgy)[index]
    error = catalog['flux_err'].to_value(u.nmgy)[index]
    return np.array([flux, error, bound.flux_err, true])


def main():
    parser = make_parser(__doc__.strip())
    parser.add_argument('--data', required=True, help='folder of the fpC files')
    parser.add_argument('--images', type=int, default=6, help='simulations per run')
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = Report('two_epochs', __doc__.strip(), arguments)
    exposures, report.details['frames'] = compare_epochs(report, arguments.data)
    n_rows, n_images = (8, 1) if arguments.quick else (20, arguments.images)
    report.details['simulations'] = check_errors(report, exposures, n_rows, n_images)
    report.details['selection'] = {
        'brighter_than_r': _BRIGHT,
        'no_neighbour_within_px': _APART,
        'neighbour_flux_share': _NEIGHBOUR,
        'border_px': _BORDER,
        'apertures_px': [_SMALL, _LARGE],
        'largest_concentration_mag': _POINT,
    }
    report.finish()


if __name__ == '__main__':
    main()
