# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Noise of resampled real exposures, stated against measured in blank sky.
"""

import time
import warnings
from pathlib import Path

import numpy as np
from _common import Report, make_parser
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import binary_dilation, gaussian_filter
from two_epochs import read_epochs

from bliss_astro.coadds import AlignedExposure, align_exposures, measure_noise
from bliss_astro.coadds._noise_kernel import kernel_of_sums, lagged_sums
from bliss_astro.coadds._pixel_mapping import PixelMapping, pixel_area
from bliss_astro.exposures import Exposure

_LOW, _HIGH = 0.95, 1.05  # of the ratio of variances
_LAG = 0.03  # largest difference of the correlation of neighbours
_CUT = 768  # side of the part of a frame for the slower methods
_ANGLES = (20.0, 33.0, 45.0)  # degrees by which the small images are turned
_CENTRE = 6.0  # pixels around the target of a small image that are left out
_L = 2  # largest lag


# -- the two SDSS frames -----------------------------------------------------------


def turned_grid(wcs, shape, angle, scale=1.0):
    """A grid with the same centre, turned, and with other pixels; and its shape."""
    ny, nx = shape
    centre = wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).icrs
    side = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    n = int(np.ceil(np.hypot(ny, nx) / scale))
    grid = WCS(naxis=2)
    grid.wcs.ctype = ['RA---TAN', 'DEC--TAN']
    grid.wcs.crval = [centre.ra.deg, centre.dec.deg]
    grid.wcs.crpix = [n / 2 + 0.3, n / 2 + 0.8]
    grid.wcs.cd = scale * side * np.array([[-c, s], [s, c]])
    return grid, (n, n)


def compare_frame(report, name, exposure, grid, shape, method, n_noise):
    """One frame: measure its noise, align it, measure again, compare."""
    before = measure_noise(exposure.data, exposure.mask, background=exposure.background)
    ratio_in = before.sigma / _rms(exposure.bkg_error, before.blank)
    start = time.process_time()
    (aligned,) = align_exposures(
        [exposure], grid, shape, method, n_noise=n_noise, rng=1
    )
    seconds = time.process_time() - start
    after = measure_noise(aligned.data, aligned.mask, background=0.0)
    stated = _rms(aligned.bkg_error, after.blank)
    ratio = (after.sigma / (stated * ratio_in)) ** 2
    error = 2 * ratio * after.sigma_error / after.sigma
    off = np.array(after.noise_correlation) - aligned.noise_correlation
    _add(report, f'{name}, {method}', ratio, error, off, after.n_pixels, after)
    return {
        'sigma_over_stated_in': ratio_in,
        'correlation_in': before.noise_correlation,
        'variance_over_that_of_input': (stated / _rms(exposure.bkg_error)) ** 2,
        'stated_kernel': aligned.noise_kernel,
        'measured_kernel': after.kernel,
        'kernel_error': after.kernel_error,
        'stated_sum_of_correlations': aligned.noise_kernel.sum(),
        'measured_sum_of_correlations': after.kernel.sum(),
        'shape': list(aligned.shape),
        'cpu_seconds': seconds,
    }


def _rms(values, use=None):
    values = np.asarray(values, float)
    return np.sqrt(
        np.mean((values if use is None or not values.ndim else values[use]) ** 2)
    )


def _add(report, name, ratio, error, off, n, after=None, off_error=None):
    if off_error is None:
        off_error = after.kernel_error[_L, _L + 1], after.kernel_error[_L + 1, _L]
    report.add(
        f'{name}: variance, measured / stated',
        ratio,
        error,
        n=n,
        target='1 +- 0.05',
        low=_LOW,
        high=_HIGH,
    )
    for axis, value, uncertain in zip('xy', off, off_error, strict=True):
        report.add(
            f'{name}: correlation in {axis}, measured - stated',
            value,
            uncertain,
            n=n,
            target='0 +- 0.03',
            low=-_LAG,
            high=_LAG,
        )


def check_frames(report, folder, quick):
    """Two runs of SDSS: on each other's grid, turned, and with other pixels."""
    first, second = read_epochs(folder)
    details = {}
    cases = [
        ('run 6377 on the grid of 4192', second, (first.wcs, first.shape), 'bilinear'),
        ('run 4192 on the grid of 6377', first, (second.wcs, second.shape), 'bilinear'),
        ('run 4192, turned by 20 deg', first, (20.0, 1.0), 'bilinear'),
        ('run 4192, turned, pixels x 1.3', first, (20.0, 1.3), 'bilinear'),
        ('part of run 4192, turned', first, (20.0, 1.0), 'adaptive'),
        ('part of run 4192, turned', first, (20.0, 1.0), 'exact'),
    ]
    for name, exposure, grid, method in cases:
        if quick or method != 'bilinear':
            exposure = exposure[300 : 300 + _CUT, 600 : 600 + _CUT]
        if not isinstance(grid[0], WCS):
            grid = turned_grid(exposure.wcs, exposure.shape, *grid)
        details[f'{name}, {method}'] = compare_frame(
            report, name, exposure, *grid, method, n_noise=4
        )
        print(f'done: {name}, {method}', flush=True)
    return details


# -- small images of many exposures ------------------------------------------------


def read_small(folder, patterns):
    """Data and WCS of the images of the given names, in order."""
    images = []
    for pattern in patterns:
        for path in sorted(Path(folder).rglob(pattern)):
            if path.name.endswith('.wht.fits'):
                continue
            with fits.open(path) as hdus, warnings.catch_warnings():
                warnings.simplefilter('ignore')
                hdu = hdus[1]
                if not hdu.is_image:  # the model of a PSF has the same name
                    continue
                wcs = WCS(hdu.header)
                images.append((path.name, np.asarray(hdu.data, float), wcs))
    if not images:
        msg = f'no files {patterns} below the folder given by --data'
        raise FileNotFoundError(msg)
    return images


def sky_exposure(data, wcs, sources):
    """The image without a plane of sky, with sources and outliers masked."""
    yy, xx = np.indices(data.shape)
    bad = ~np.isfinite(data) | sources
    design = np.stack([np.ones(data.size), xx.ravel(), yy.ravel()], axis=-1)
    blank = ~bad
    for _ in range(3):
        use = blank.ravel()
        fit = np.linalg.lstsq(design[use], data.ravel()[use], rcond=None)[0]
        plane = (design @ fit).reshape(data.shape)
        blank = measure_noise(data, bad, background=plane).blank
    residual = np.where(np.isfinite(data), data - plane, 0.0)
    # Three numbers were fitted.
    sigma = np.sqrt(np.sum(residual[blank] ** 2) / (blank.sum() - 3))
    return Exposure(residual, bkg_error=sigma, effective_gain=1.0, mask=~blank, wcs=wcs)


def sky_exposures(images):
    """
    All images as exposures of blank sky.

    What single images do not show is found in the mean of all, which is made and
    looked at twice.
    """
    from reproject import reproject_interp

    sources = [_centre_of(data.shape) for _, data, _ in images]
    for _ in range(2):
        exposures = [
            sky_exposure(data, wcs, bad)
            for (_, data, wcs), bad in zip(images, sources, strict=True)
        ]
        # Masks off, to see the sources.
        seen = [
            Exposure(
                e.data / e.bkg_error,
                bkg_error=1.0,
                effective_gain=1.0,
                mask=~np.isfinite(data),
                wcs=e.wcs,
            )
            for e, (_, data, _) in zip(exposures, images, strict=True)
        ]
        aligned = align_exposures(seen)
        count = sum((~a.mask).astype(float) for a in aligned)
        mean = sum(np.where(a.mask, 0.0, a.data) for a in aligned)
        mean = np.where(count > 0, mean / np.sqrt(np.maximum(count, 1)), np.nan)
        found = _deep_sources(mean).astype(float)
        sources = [
            np.nan_to_num(
                reproject_interp(
                    (found, aligned[0].wcs),
                    e.wcs,
                    shape_out=e.shape,
                    order='nearest-neighbor',
                    return_footprint=False,
                ),
                nan=1.0,
            )
            > 0
            for e in exposures
        ]
    return [
        sky_exposure(data, wcs, bad | _centre_of(data.shape))
        for (_, data, wcs), bad in zip(images, sources, strict=True)
    ]


def _deep_sources(mean):
    """Light in the mean image, in units of its noise; NaN where there is none."""
    smooth = gaussian_filter(np.nan_to_num(mean), 1.0)
    known = np.isfinite(mean)
    use = known.copy()
    for _ in range(5):
        middle = np.median(smooth[use])
        sigma = 1.4826 * np.median(np.abs(smooth[use] - middle))
        use = known & (smooth < middle + 3 * sigma)
    return binary_dilation(known & ~use, iterations=3)


def _centre_of(shape):
    yy, xx = np.indices(shape)
    return np.hypot(xx - (shape[1] - 1) / 2, yy - (shape[0] - 1) / 2) < _CENTRE


def pooled(images, stated, masks):
    """
    Measured over stated variance, and correlations, of many images together.

    ``images`` are in units of the noise of their input, of shape (n, ny, nx);
    ``stated`` are pairs of a variance map in these units and a kernel.
    """
    sums = np.zeros((2, _L + 1, 2 * _L + 1))
    expected, kernel = 0.0, 0.0
    for image, (variance, own_kernel), mask in zip(images, stated, masks, strict=True):
        sums += lagged_sums(np.where(mask, 0.0, image), ~mask, _L)
        total = variance[~mask].sum()
        expected += total
        kernel = kernel + total * own_kernel
    kernel /= expected
    measured = kernel_of_sums(*sums)
    ratio = sums[0][0, _L] / expected
    off = [(measured - kernel)[_L, _L + 1], (measured - kernel)[_L + 1, _L]]
    return np.array([ratio, *off]), kernel, measured, int(sums[1][0, _L])


def check_small(report, name, images, n_trials):
    """Exposures of a field on the grid of the first and on turned ones."""
    exposures = sky_exposures(images)
    correlation = _input_correlation(exposures)
    first = exposures[0]
    grids = [(first.wcs, first.shape)]
    grids += [turned_grid(first.wcs, first.shape, angle) for angle in _ANGLES]
    rng = np.random.default_rng(5)
    real, white, own, masks = [], [], [], []
    trials, plain = ([[] for _ in range(n_trials)] for _ in range(2))
    for exposure in exposures:
        variance = float(exposure.bkg_error) ** 2
        noise = rng.standard_normal((n_trials, *exposure.shape))
        treated = _without_plane(noise, ~exposure.mask)
        for grid, shape in grids:
            (aligned,) = align_exposures([exposure], grid, shape)
            (told,) = align_exposures(
                [_with_kernel(exposure, correlation)], grid, shape
            )
            real.append(np.nan_to_num(aligned.data) / np.sqrt(variance))
            white.append((aligned.bkg_error**2 / variance, aligned.noise_kernel))
            own.append((told.bkg_error**2 / variance, told.noise_kernel))
            masks.append(aligned.mask)
            for target, values in ((trials, treated), (plain, noise)):
                images = _resampled(values, exposure.wcs, grid, shape)
                for trial, image in zip(target, images, strict=True):
                    trial.append(image)
    values, kernel, measured, n = pooled(real, white, masks)
    scatter, untreated = (
        np.array([pooled(trial, white, masks)[0] for trial in each])
        for each in (trials, plain)
    )
    error = scatter.std(axis=0, ddof=1)
    # What fitting a plane to so few pixels does to any noise.
    bias = scatter.mean(axis=0) - untreated.mean(axis=0)
    knowing = pooled(real, own, masks)[0] - bias
    raw, values = values, values - bias
    n_blank = int(sum((~e.mask).sum() for e in exposures))
    for label, found in (
        ('noise taken as white', values),
        ('with its own correlation', knowing),
    ):
        _add(
            report,
            f'{name}, {label}',
            found[0],
            error[0],
            found[1:],
            n_blank,
            off_error=error[1:],
        )
    return {
        'exposures': len(exposures),
        'blank_pixels': n_blank,
        'output_pixels': n,
        'angles_deg': list(_ANGLES),
        'stated_kernel': kernel,
        'measured_kernel': measured,
        'correlation_in': correlation,
        'before_correction': raw,
        'stated_with_the_correlation_of_the_input': knowing,
        'white_noise': {
            'trials': n_trials,
            'mean': untreated.mean(axis=0),
            'bias_of_plane': bias,
            'scatter': error,
        },
    }


def _without_plane(noise, use):
    """White noise treated as the images: a plane taken off, scaled to its sigma."""
    yy, xx = np.indices(use.shape)
    design = np.stack([np.ones(use.size), xx.ravel(), yy.ravel()], axis=-1)
    flat = noise.reshape(len(noise), -1)
    fit = np.linalg.lstsq(design[use.ravel()], flat[:, use.ravel()].T, rcond=None)[0]
    rest = flat - (design @ fit).T
    sigma = np.sqrt(np.sum(rest[:, use.ravel()] ** 2, axis=1) / (use.sum() - 3))
    return (rest / sigma[:, None]).reshape(noise.shape)


def _with_kernel(exposure, kernel):
    return AlignedExposure(
        exposure.data,
        bkg_error=exposure.bkg_error,
        effective_gain=1.0,
        mask=exposure.mask,
        wcs=exposure.wcs,
        noise_kernel=kernel,
    )


def _resampled(noise, wcs, grid, shape):
    # By reproject alone, as far as possible from what is being tested.
    from reproject import reproject_interp

    stack = reproject_interp(
        (noise, wcs), grid, shape_out=(len(noise), *shape), return_footprint=False
    )
    jacobian = PixelMapping(grid, wcs, shape).rows(0, shape[0])[2]
    return np.nan_to_num(stack) * pixel_area(jacobian)


def _input_correlation(exposures):
    sums = sum(
        lagged_sums(e.data / float(e.bkg_error) * ~e.mask, ~e.mask, _L)
        for e in exposures
    )
    return kernel_of_sums(*sums)


def main():
    parser = make_parser(__doc__.strip())
    parser.add_argument('--data', required=True, help='folder of the survey files')
    parser.add_argument(
        '--trials', type=int, default=100, help='realisations of white noise'
    )
    arguments = parser.parse_args()
    report = Report('resampled_noise', __doc__.strip(), arguments)
    n_trials = 20 if arguments.quick else arguments.trials
    small = {
        'Bok, 10 exposures': ('deep2g_ra352_*.fits', 'deep2r_ra352_*.fits'),
        'DECam, 8 exposures': ('c4d_*_ooi_*.fits',),
    }
    for name, patterns in small.items():
        images = read_small(arguments.data, patterns)
        report.details[name] = check_small(report, name, images, n_trials)
    report.details['SDSS'] = check_frames(report, arguments.data, arguments.quick)
    report.finish()


if __name__ == '__main__':
    main()
