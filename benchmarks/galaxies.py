# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxies drawn by torch in single precision against GalSim, and how fast.
"""

import multiprocessing
import os
import time

import numpy as np
import torch
from _common import Report, make_parser, ratio_with_error, share_with_error

from bliss_astro.exposures._camera import add_noise
from bliss_astro.priors import SeeingPrior
from bliss_astro.psf import PSFModel
from bliss_astro.rendering import (
    GalSimGalaxyRenderer,
    RenderingAccuracy,
    render_galaxies,
    render_stars,
)

_SIDE, _CENTRE, _N_FIELDS = 53, 26, 50
_N_SPEED = 5
_SCENE, _SKY = 80, 865.0

# The transform of the reference is made on this many pixels at least; twice as
# many change the stamps by less than 1e-6 of their peaks.
_PERIOD = 256

_PRESETS = {'default': RenderingAccuracy(), 'training': RenderingAccuracy.training()}
_TARGETS = {'residual / peak': 1e-3, 'flux': 2e-3, 'second moments': 5e-3}


def _draw_galaxies(n, rng):
    # Patel et al. (2025), Table 1; SDSS pixels of 0.396 arcsec.
    fraction, q_disk, q_bulge = rng.uniform(size=(3, n))
    radii = (
        (loc + scale * rng.gamma(0.393, size=n)) / 0.396
        for loc, scale in ((0.837, 4.432), (0.419, 2.216))
    )
    angle = rng.uniform(0, np.pi, n)
    return np.stack([fraction, angle, q_disk, q_bulge, *radii], -1).astype(np.float32)


def _fields(rng):
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    shapes = SeeingPrior().sample_batch(_N_FIELDS, generator=generator)
    return shapes, [PSFModel.from_shape(s.double().numpy()) for s in shapes]


def _sample(n, rng, n_fields=_N_FIELDS):
    place = (_CENTRE + rng.uniform(-0.5, 0.5, (2, n))).astype(np.float32)
    return np.arange(n) % n_fields, place, _draw_galaxies(n, rng)


def _torch_stamps(shapes, field, place, galaxy, accuracy):
    x, y = torch.from_numpy(place)[..., None]
    return render_galaxies(
        shapes[field],
        x,
        y,
        torch.ones_like(x),
        torch.from_numpy(galaxy)[:, None],
        size=(_SIDE, _SIDE),
        accuracy=accuracy,
    )


def _galsim_stamps(renderer, models, field, place, galaxy):
    return [
        renderer.render(models[f], [x], [y], [1.0], g[None], (_SIDE, _SIDE))
        for f, x, y, g in zip(field, *place.astype(float), galaxy, strict=True)
    ]


def _moments(image):
    # Flux, and the second moments about the centroid, all within the stamp.
    y, x = np.indices(image.shape)
    total = image.sum()
    dx, dy = (v - (image * v).sum() / total for v in (x, y))
    second = [(image * v).sum() / total for v in (dx * dx, dy * dy, dx * dy)]
    return total, np.array(second)


def _errors(image, exact):
    flux, second = _moments(image)
    true_flux, true_second = _moments(exact)
    size = 0.5 * (true_second[0] + true_second[1])
    return (
        np.abs(image - exact).max() / exact.max(),
        abs(flux / true_flux - 1),
        np.abs(second - true_second).max() / size,
    )


def _percentile_with_error(values, q):
    # From the order statistics one standard deviation of the rank away.
    values, n = np.sort(values), len(values)
    rank, spread = q * n, np.sqrt(n * q * (1 - q))
    low, mid, high = (
        values[int(np.clip(round(r), 1, n)) - 1]
        for r in (rank - spread, rank, rank + spread)
    )
    return mid, 0.5 * (high - low)


def _galsim_field(task):
    """
    References of one field's galaxies, and one by GalSim's own settings.
    """
    model, place, galaxy = task
    tight = GalSimGalaxyRenderer.reference().gsparams
    reference = GalSimGalaxyRenderer(period=_PERIOD, gsparams=tight)
    field = np.zeros(len(galaxy), int)
    exact = _galsim_stamps(reference, [model], field, place, galaxy)
    few = slice(0, max(1, len(galaxy) // 10))
    usual = _galsim_stamps(
        GalSimGalaxyRenderer(), [model], field[few], place[:, few], galaxy[few]
    )
    return exact, usual


def _accuracy(report, n, threads, rng):
    shapes, models = _fields(rng)
    field, place, galaxy = _sample(n, rng)
    drawn = {
        name: _torch_stamps(shapes, field, place, galaxy, preset).double().numpy()
        for name, preset in _PRESETS.items()
    }
    fields = [np.flatnonzero(field == f) for f in np.unique(field)]
    tasks = [(models[k], place[:, own], galaxy[own]) for k, own in enumerate(fields)]
    errors = {name: [] for name in [*drawn, "GalSim's default"]}
    with multiprocessing.get_context('spawn').Pool(threads) as pool:
        results = pool.imap(_galsim_field, tasks)
        for own, (exact, usual) in zip(fields, results, strict=True):
            for name, images in drawn.items():
                errors[name] += map(_errors, images[own], exact)
            # Shorter than the other list.
            errors["GalSim's default"] += map(_errors, usual, exact)
    for name, rows in errors.items():
        rows = np.array(rows)
        for column, (what, limit) in zip(rows.T, _TARGETS.items(), strict=True):
            good = share_with_error(int((column < limit).sum()), len(column))
            goal = {'target': '>= 0.99', 'low': 0.99} if name == 'default' else {}
            report.add(
                f'{name}: share with {what} within {limit:g}',
                *good,
                n=len(column),
                **goal,
            )
            worst = _percentile_with_error(column, 0.99)
            goal = {'target': f'< {limit:g}', 'high': limit} if goal else {}
            report.add(f'{name}: {what}, 99 %', *worst, n=len(column), **goal)
    report.details['largest_semi_major_radius_px'] = float(galaxy[:, 4:].max())
    reference = GalSimGalaxyRenderer.reference()
    report.details['galsim_reference'] = f'{reference.gsparams!r}, period {_PERIOD}'


def _galsim_as_usual(pixels, field, place, galaxy):
    """
    The same by GalSim with an image of the PSF, as the codes behind the papers do.
    """
    import galsim

    psfs = [galsim.InterpolatedImage(galsim.Image(p, scale=1.0)) for p in pixels]
    out = []
    for f, x, y, g in zip(
        field, *place.astype(float), galaxy.astype(float), strict=True
    ):
        fraction, angle, q_disk, q_bulge, disk, bulge = g
        parts = [
            galsim.Exponential(
                half_light_radius=disk * q_disk**0.5, flux=fraction
            ).shear(q=q_disk, beta=angle * galsim.radians),
            galsim.DeVaucouleurs(
                half_light_radius=bulge * q_bulge**0.5, flux=1 - fraction
            ).shear(q=q_bulge, beta=angle * galsim.radians),
        ]
        profile = galsim.Convolve(galsim.Add(parts), psfs[f])
        image = profile.drawImage(
            nx=_SIDE,
            ny=_SIDE,
            scale=1.0,
            method='no_pixel',
            offset=(x - _CENTRE, y - _CENTRE),
        )
        out.append(image.array)
    return out


def _speed(report, n, rounds, rng):
    shapes, models = _fields(rng)
    torch.set_num_threads(1)
    # GalSim builds tables for each PSF when it meets it first; we, for bulges.
    shapes, models = shapes[:_N_SPEED], models[:_N_SPEED]
    rows, columns = np.mgrid[-25:26, -25:26].astype(float)
    pixels = [np.asarray(model(columns, rows)) for model in models]
    warm = _sample(_N_SPEED, rng, n_fields=_N_SPEED)
    _galsim_as_usual(pixels, *warm)
    _torch_stamps(shapes, *warm, None)
    times = {'GalSim': [], **{name: [] for name in _PRESETS}}
    for _ in range(rounds):
        sample = _sample(n, rng, n_fields=_N_SPEED)
        start = time.process_time()
        _galsim_as_usual(pixels, *sample)
        times['GalSim'].append(time.process_time() - start)
        for name, preset in _PRESETS.items():
            start = time.process_time()
            _torch_stamps(shapes, *sample, preset)
            times[name].append(time.process_time() - start)
    _speed_of_formula(report, models, sample, times)
    for name in _PRESETS:
        ratio, error = ratio_with_error(times['GalSim'], times[name])
        report.add(
            f'{name}: times faster than GalSim with an image of the PSF, one thread',
            ratio,
            error,
            target='>= 15',
            low=15,
            n=n * rounds,
        )
    for name, values in times.items():
        rate = n / np.array(values)
        error = rate.std() / np.sqrt(rounds)
        report.add(
            f'{name}: galaxies per second and core', n * rounds / sum(values), error
        )


def _speed_of_formula(report, models, sample, times):
    """
    GalSim with the PSF's own formula, whose wings need large transforms.
    """
    few = slice(0, 2 * _N_SPEED)
    field, place, galaxy = sample
    renderer = GalSimGalaxyRenderer()
    warm = slice(0, _N_SPEED)
    _galsim_stamps(renderer, models, field[warm], place[:, warm], galaxy[warm])
    start = time.process_time()
    _galsim_stamps(renderer, models, field[few], place[:, few], galaxy[few])
    each = (time.process_time() - start) / len(field[few])
    report.add('GalSim, PSF by its formula: galaxies per second and core', 1 / each)
    for name in _PRESETS:
        own = sum(times[name]) / (len(times[name]) * len(field))
        report.add(
            f'{name}: times faster than GalSim with the formula of the PSF, one thread',
            each / own,
            n=len(field[few]),
        )


def _scene_batch(n, shapes, accuracy, rng, generator):
    psf = shapes[rng.integers(_N_FIELDS, size=n)]

    def sources(mean):
        count = rng.poisson(mean, n)
        width = max(1, count.max())
        x, y = rng.uniform(-0.5, _SCENE - 0.5, (2, n, width)).astype(np.float32)
        flux = 630 * (1 - rng.random((n, width))) ** (-1 / 1.2)
        flux = flux * (np.arange(width) < count[:, None])
        return [torch.from_numpy(v.astype(np.float32)) for v in (x, y, flux)]

    size = (_SCENE, _SCENE)
    signal = render_stars(psf, *sources(2), size=size, tolerance=1e-4)
    x, y, flux = sources(2)
    galaxy = torch.from_numpy(_draw_galaxies(x.numel(), rng)).view(*x.shape, 6)
    signal += render_galaxies(psf, x, y, flux, galaxy, size=size, accuracy=accuracy)
    sky = torch.full((n, 1, 1), _SKY)
    return add_noise(signal, sky, read_noise=0.0, generator=generator)


def _scenes(report, n, rounds, threads, rng):
    shapes, _ = _fields(rng)
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(5)
    for name, preset in _PRESETS.items():
        wall, cpu = [], []
        for turn in range(rounds + 1):
            start = time.perf_counter(), time.process_time()
            _scene_batch(n, shapes, preset, rng, generator)
            if turn:
                wall.append(time.perf_counter() - start[0])
                cpu.append(time.process_time() - start[1])
        goal = {'target': '>= 700', 'low': 700} if name == 'training' else {}
        for what, values, more in (
            ('by the clock', wall, goal),
            (f'by processor time x {threads}', np.array(cpu) / threads, {}),
        ):
            rate = n / np.array(values)
            report.add(
                f'{name}: scenes of 80 x 80 px per second, {what}',
                n * rounds / np.sum(values),
                rate.std() / np.sqrt(rounds),
                n=n * rounds,
                **more,
            )


def main():
    parser = make_parser(__doc__.strip())
    parser.add_argument('--draws', type=int, default=2000, help='default: 2000')
    arguments = parser.parse_args()
    quick = arguments.quick
    report = Report('galaxies', 'torch galaxies against GalSim', arguments)
    rng = np.random.default_rng(12)
    _speed(report, 20 if quick else 50, 2 if quick else 5, rng)
    _scenes(report, 64, 3 if quick else 30, arguments.threads, rng)
    n_draws = 20 if quick else arguments.draws
    _accuracy(report, n_draws, arguments.threads, rng)
    report.details |= {
        'stamp_side_px': _SIDE,
        'n_psfs': _N_FIELDS,
        'presets': {name: repr(preset) for name, preset in _PRESETS.items()},
        'load_average': os.getloadavg() if hasattr(os, 'getloadavg') else None,
    }
    report.finish()


if __name__ == '__main__':
    main()
