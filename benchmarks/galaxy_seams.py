# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Isolated galaxies and stars carried across the borders of tiles.

The PSF and sky of run 94, camcol 1, field 12; galaxies of the prior of the sky at
signal-to-noise ratios of 10 and 30, each seen under one noise at all places within a
tile: whole pixels are gone by moving the grid of tiles.
"""

import time

import numpy as np
import torch
from _blends_asking import ask, labels_of_encoders, load
from _blends_figures import figure_path, plot_seams
from _blends_scenes import SEED, expose, fluxes_at, generator_of, signal_of
from _common import Report, make_parser
from _isolated import crop, run_tasks

from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.psf._mixture import LOG_AREA, describe_shape

__all__ = ['carry', 'main', 'profile_of']

_PIXEL_SCALE = 0.396
_TILE = 4  # px, of which all encoders' tiles are a share
# Seen images, and how far grids move before tiles of the same colour come again.
_SHAPE, _PERIOD = (40, 40), 2 * _TILE
_MATCH = 1.0  # px
# What is told: the prior of the sky above a star of this signal-to-noise ratio.
_FLOOR_SNR = 3.5
_BATCH = 50
# Shapes are those of galaxies of such magnitudes.
_CASES = {
    'galaxy, SNR 10': (10.0, 22.0),
    'galaxy, SNR 30': (30.0, 21.0),
    'star, SNR 10': (10.0, None),
    'star, SNR 30': (30.0, None),
}


def _sources(case, n, generator):
    """Fields, fluxes and shapes of n sources."""
    snr, mag = _CASES[case]
    fields = FieldPrior.single().sample_batch(n)
    galaxy = torch.full((n, 1, 6), 0.5)
    if mag is not None:
        flux = torch.full((n, 1), 10 ** (0.4 * (22.5 - mag)))
        shapes = CatalogPrior.sky().galaxies.shapes
        galaxy = shapes.sample_batch(flux, generator=generator)
        galaxy[..., 4:] /= _PIXEL_SCALE
    is_galaxy = torch.full((n, 1), mag is not None)
    ones = torch.ones(n, 1)
    unit = signal_of(fields.psf, 20 * ones, 20 * ones, ones, is_galaxy, galaxy)
    variance = fields.background + fields.read_noise**2
    flux = fluxes_at(snr, unit, variance)[:, None]
    area = torch.exp(describe_shape(fields.psf)[:, 1] + LOG_AREA)
    floor = _FLOOR_SNR * torch.sqrt(variance * area) / fields.electrons_per_nmgy
    return fields, flux, is_galaxy, galaxy, float(floor[0])


def _told(floor):
    prior = CatalogPrior.sky()
    density = float(prior.star_density(floor) + prior.galaxy_density(floor))
    return {'floor': floor, 'density': density, 'population': 'sky'}


def carry(task):
    """
    Look for sources at all places within a tile.

    Returns an array ``(n, steps, 2)``: whether a source of probability above 0.5 lies
    within a pixel of the true place, and the largest probability there.
    """
    name, case, axis, n_steps, index, n = task
    encoder = load(name)
    generator = generator_of(SEED, 4, list(_CASES).index(case), 'xy'.index(axis), index)
    fields, flux, is_galaxy, galaxy, floor = _sources(case, n, generator)
    # The other coordinate is anywhere in a block of tiles of all colours.
    other = 16 - 0.5 + _PERIOD * torch.rand(n, 1, generator=generator)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    out = np.zeros((n, n_steps, 2))
    per_pixel = n_steps // _TILE
    # Both colours in turn.
    border = 16 + _TILE * (index % 2)
    for phase in range(per_pixel):
        own = border - 0.5 + _TILE - 1 + (phase + 0.5) / per_pixel
        own = torch.full((n, 1), own)
        x, y = (own, other) if axis == 'x' else (other, own)
        more = _TILE - 1
        size = (_SHAPE[0] + more * (axis == 'y'), _SHAPE[1] + more * (axis == 'x'))
        scenes, _ = expose(
            fields,
            (x, y, flux, is_galaxy, galaxy),
            generator=torch.Generator().manual_seed(seed),
            size=size,
            **_told(floor),
        )
        for step in range(_TILE):
            # The grid moves against the source.
            shift = _TILE - 1 - step
            left, bottom = (shift, 0) if axis == 'x' else (0, shift)
            view = crop(scenes, left, bottom, _SHAPE)
            out[:, step * per_pixel + phase] = _look(encoder, view)
    return out


def _look(encoder, scenes):
    found, _, _ = ask(encoder, scenes)
    x, y = (v[:, 0].double().numpy() for v in (scenes.x, scenes.y))
    image = found['image']
    near = np.hypot(found['x'] - x[image], found['y'] - y[image]) <= _MATCH
    chance = np.zeros(len(scenes))
    np.maximum.at(chance, image[near], found['probability'][near])
    return np.stack([chance > 0.5, chance], 1)


def profile_of(values):
    """
    Means by place over the mean of all, under one noise.

    Parameters
    ----------
    values : array ``(n, steps)``
        Of n sources.

    Returns
    -------
    ratio, error : array ``(steps,)``
        Errors are those of differences, as all places share sources and noise.
    """
    mean = values.mean()
    ratio = values.mean(0) / mean
    pull = values - ratio * values.mean(1, keepdims=True)
    return ratio, pull.std(0, ddof=1) / mean / np.sqrt(len(values))


def _border_ratio(values, place):
    """Mean within half a pixel of a border over that beyond one, with its error."""
    border, centre = (place < 0.5), (place > 1.0)
    a, b = values[:, border].mean(1), values[:, centre].mean(1)
    ratio = a.mean() / b.mean()
    error = (a - ratio * b).std(ddof=1) / b.mean() / np.sqrt(len(a))
    return ratio, error


def add_rows(report, label, case, tables, place):
    """
    Rows of one case.

    Parameters
    ----------
    report : Report
        To add to.

    label, case : str
        Encoder (or nothing) and kind of source.

    tables : dict
        By axis what `carry` returns, joined.

    place : array ``(steps,)``
        Distance from the border.

    Returns
    -------
    profile : dict
        For the figure.
    """
    profile = {'place': place, 'share': {}}
    target = {'target': '0.98 to 1.02', 'low': 0.98, 'high': 1.02}
    for axis, table in tables.items():
        found = table[..., 0]
        ratio, error = profile_of(found)
        worst = int(np.argmax(np.abs(ratio - 1)))
        words = f'{label}{case}, across {axis}: '
        report.add(
            f'{words}found', found.mean(), found.mean(1).std() / len(found) ** 0.5
        )
        report.add(
            f'{words}worst place over the mean',
            ratio[worst],
            error[worst],
            n=len(found),
            **target,
        )
        report.add(
            f'{words}borders over middles',
            *_border_ratio(found, np.abs(place)),
            n=len(found),
            **target,
        )
        profile[axis] = np.stack([ratio, error], 1)
        profile['share'][axis] = found.mean(0)
        profile[f'{axis}_probability'] = np.stack(profile_of(table[..., 1]), 1)
    return profile


def main(args=None):
    parser = make_parser(__doc__.strip().splitlines()[0], n_images=1000)
    parser.add_argument(
        '--encoder', nargs='+', default=['stars-galaxies'], help='names or files'
    )
    parser.add_argument(
        '--steps', type=int, default=16, choices=(16, 32), help='places in a tile'
    )
    parser.add_argument(
        '--figure', help='picture to draw (after a full run by default)'
    )
    arguments = parser.parse_args(args)
    n = _BATCH if arguments.quick else arguments.n_images
    report = Report('galaxy_seams', __doc__.strip().splitlines()[0], arguments)
    start, details = time.perf_counter(), {}
    labels = labels_of_encoders(arguments.encoder)
    inside = _TILE * (np.arange(arguments.steps) + 0.5) / arguments.steps
    # The border is in the middle of the figure.
    place = (inside + _TILE / 2) % _TILE - _TILE / 2
    order = np.argsort(place)
    for name in arguments.encoder:
        label = labels[name]
        prefix = f'{label}: ' if len(arguments.encoder) > 1 else ''
        details[label] = {}
        for case in _CASES:
            tables = {}
            for axis in 'xy':
                tasks = [
                    (name, case, axis, arguments.steps, k, min(_BATCH, n - first))
                    for k, first in enumerate(range(0, n, _BATCH))
                ]
                parts = run_tasks(
                    carry,
                    tasks,
                    processes=arguments.threads,
                    description=f'{case}, {axis}',
                )
                tables[axis] = np.concatenate(parts)[:, order]
            details[label][case] = add_rows(report, prefix, case, tables, place[order])
    report.details = {
        'n': n,
        'steps': arguments.steps,
        'floor_snr': _FLOOR_SNR,
        'profiles': details,
        'seconds': time.perf_counter() - start,
    }
    figure = figure_path('blends_seams', arguments)
    if figure:
        plot_seams(next(iter(details.values())), figure)
    report.finish()


if __name__ == '__main__':
    main()
