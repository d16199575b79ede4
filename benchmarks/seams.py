# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars at the borders of tiles against those in the middle, and shifted fields.
"""

import itertools
import time
from pathlib import Path

import numpy as np
import torch
from _common import Report, make_parser, share_with_error
from _isolated import (
    DENSITY,
    crop,
    encode,
    find,
    flux_of,
    generator_of,
    place_stars,
    run_tasks,
)

from bliss_astro import CoaddSimulator
from bliss_astro.posteriors import TileGrid

# No training stream begins with this key.
_SEED = 20250917
_MAGNITUDES = (20.0, 22.0, 22.75)
_SIZE = 4  # px, side of a tile
# Images of one star, and the grids that they are seen through: the second
# turns most stars at borders into stars in the middle, so that the two
# are compared under the same noise.
_SHAPE = (32, 32)
_VIEWS = ((0, 0), (2, 2))
_FIELD = (88, 88)
_EDGE = 12  # px of a field that are left out
_SHIFTS = tuple(
    (k * dx, k * dy) for k in (1, 2, 3) for dx, dy in ((1, 0), (0, 1), (1, 1))
)
_SIDES = ('left', 'right', 'first rows', 'last rows')


# -- one star ----------------------------------------------------------------------


def one_star(task):
    """
    Place one star an image at random phases and look for it twice.

    Returns an array ``(n, views, 6)``: place within the tile in px, colour of
    the tile, probability of the source within 1 px of the star (0 if
    there is none), number of sources above 0.5 within 3 px, and the sum of the
    probabilities of all within 3 px.
    """
    name, depth, magnitude, index, n = task
    generator = generator_of(_SEED, 1, depth, int(100 * magnitude), index)
    unit = torch.rand(2, n, 1, generator=generator, dtype=torch.float64)
    # Anywhere in a block of 2 x 2 tiles, one of each colour, in the middle.
    middle = _SHAPE[0] // 2 - 0.5
    x, y = (middle + 2 * _SIZE * (unit - 0.5)).unbind()
    last = _VIEWS[-1]
    shape = (_SHAPE[0] + last[1], _SHAPE[1] + last[0])
    flux = torch.full_like(x, flux_of(magnitude))
    batch = place_stars(depth, x, y, flux, shape=shape, generator=generator)
    out = []
    for left, bottom in _VIEWS:
        found = find(encode(crop(batch, left, bottom, _SHAPE), name))
        out.append(_judge(found, x[:, 0].numpy() - left, y[:, 0].numpy() - bottom))
    return np.stack(out, 1)


def _judge(found, x, y):
    apart = np.hypot(found['x'] - x[found['image']], found['y'] - y[found['image']])
    probability = np.zeros(len(x))
    near = apart < 1
    np.maximum.at(probability, found['image'][near], found['probability'][near])
    near = apart < 3
    image, chance = found['image'][near], found['probability'][near]
    n_sure = np.bincount(image[chance > 0.5], minlength=len(x))
    total = np.bincount(image, chance, minlength=len(x))
    column, row = (np.floor((v + 0.5) / _SIZE).astype(int) for v in (x, y))
    colour = TileGrid(_SHAPE, _SIZE).colour().numpy()[row, column]
    phase = ((v + 0.5) % _SIZE for v in (x, y))
    return np.stack([*phase, colour, probability, n_sure, total], 1)


def _ratio(values, first, second):
    """Ratio of means over two sets of views, with its error over images."""
    n_first, n_second = first.sum(), second.sum()
    a, b = values[first].mean(), values[second].mean()
    pull = first * (values - a) / (n_first * a) - second * (values - b) / (n_second * b)
    return a / b, (a / b) * np.sqrt((pull.sum(1) ** 2).sum())


def _zones(table):
    px, py = table[..., 0], table[..., 1]
    inside = np.minimum(
        np.minimum(px, _SIZE - px), np.minimum(py, _SIZE - py)
    )  # distance to the border
    return inside < 0.5, inside > 1.0


def evaluate_star(report, depth, magnitude, table):
    """Add the rows of one depth and magnitude; returns the details."""
    border, centre = _zones(table)
    chance, n_sure = table[..., 3], table[..., 4]
    label = f'd = {depth}, mag {magnitude:g}: '
    n = int(border.sum())
    report.add(
        f'{label}mean probability at borders over that at centres',
        *_ratio(chance, border, centre),
        n=n,
        target='0.98 to 1.02',
        low=0.98,
        high=1.02,
    )
    report.add(
        f'{label}recall at borders over that at centres',
        *_ratio((chance > 0.5).astype(float), border, centre),
        n=n,
        target='0.98 to 1.02',
        low=0.98,
        high=1.02,
    )
    report.add(
        f'{label}found twice',
        *share_with_error(int((n_sure > 1).sum()), n_sure.size),
        n=n_sure.size,
        target='<= 0.003',
        high=0.003,
    )
    return _star_details(table, border, centre)


def _star_details(table, border, centre):
    chance, n_sure = table[..., 3], table[..., 4]
    px, py, colour = (table[..., k] for k in range(3))
    edges = (px < 0.5, px > _SIZE - 0.5, py < 0.5, py > _SIZE - 0.5)
    profile = []
    inside = np.minimum(np.minimum(px, _SIZE - px), np.minimum(py, _SIZE - py))
    for low in np.arange(0, 2, 0.25):
        use = (inside >= low) & (inside < low + 0.25)
        profile.append([low, low + 0.25, int(use.sum()), chance[use].mean()])
    by_side = {
        side: [
            _ratio(chance, edge & (colour == k), centre & (colour == k))
            for k in range(4)
        ]
        for side, edge in zip(_SIDES, edges, strict=True)
    }
    corner = (edges[0] | edges[1]) & (edges[2] | edges[3])
    return {
        'mean_probability': {
            'border': chance[border].mean(),
            'corner': chance[corner].mean(),
            'centre': chance[centre].mean(),
        },
        'recall': {
            'border': (chance[border] > 0.5).mean(),
            'corner': (chance[corner] > 0.5).mean(),
            'centre': (chance[centre] > 0.5).mean(),
        },
        'found_twice': {
            'border': (n_sure[border] > 1).mean(),
            'corner': (n_sure[corner] > 1).mean(),
            'centre': (n_sure[centre] > 1).mean(),
        },
        'sum_of_probabilities': {
            'border': table[..., 5][border].mean(),
            'centre': table[..., 5][centre].mean(),
        },
        'by_distance_from_border': profile,
        'ratio_by_side_and_colour': by_side,
    }


# -- shifted fields ------------------------------------------------------------------


def shifted(task):
    """
    Detections in fields, and how probable they stay when the grid moves.

    Returns an array ``(n, 2 + shifts)``: magnitude-free flux, probability,
    and the probability of the source within 1 px in each shifted view.
    """
    name, depth, index, n = task
    most = max(max(shift) for shift in _SHIFTS)
    simulator = CoaddSimulator(
        depth,
        shape=tuple(s + most for s in _FIELD),
        margin=0,
        tolerance=1e-5,
    )
    batch = simulator.sample_batch(n, generator=generator_of(_SEED, 2, depth, index))
    views = [
        find(encode(crop(batch, *shift, _FIELD), name)) for shift in ((0, 0), *_SHIFTS)
    ]
    first = views[0]
    ny, nx = _FIELD
    keep = (
        (first['probability'] > 0.9)
        & (first['x'] > _EDGE + most)
        & (first['x'] < nx - 1 - _EDGE)
        & (first['y'] > _EDGE + most)
        & (first['y'] < ny - 1 - _EDGE)
    )
    first = {k: v[keep] for k, v in first.items()}
    columns = [first['flux_median'], first['probability']]
    for (dx, dy), view in zip(_SHIFTS, views[1:], strict=True):
        columns.append(_recur(first, view, dx, dy))
    return np.stack(columns, 1)


def _recur(first, view, dx, dy):
    out = np.zeros(len(first['x']))
    for image in np.unique(first['image']):
        a = np.flatnonzero(first['image'] == image)
        b = np.flatnonzero(view['image'] == image)
        if not len(b):
            continue
        apart = np.hypot(
            first['x'][a, None] - dx - view['x'][b],
            first['y'][a, None] - dy - view['y'][b],
        )
        out[a] = np.where(apart < 1, view['probability'][b], 0).max(1)
    return out


def evaluate_shifts(report, depth, table):
    """Add the rows of one depth."""
    stays = table[:, 2:] > 0.8
    report.add(
        f'd = {depth}: detections above 0.9 that stay above 0.8 in shifted fields',
        *share_with_error(int(stays.sum()), stays.size),
        n=stays.size,
        target='>= 0.99',
        low=0.99,
    )
    worst = stays.mean(0).argmin()
    report.add(
        f'd = {depth}: the same, worst shift {_SHIFTS[worst]} px',
        *share_with_error(int(stays[:, worst].sum()), len(stays)),
        n=len(stays),
    )
    return {
        'shifts': _SHIFTS,
        'n_detections': len(table),
        'share': stays.mean(0),
        'lost': (table[:, 2:] == 0).mean(0),
        'mean_probability': table[:, 1:].mean(0),
    }


# -- all -------------------------------------------------------------------------------


def main():
    parser = make_parser(__doc__.strip(), n_images=20000)
    parser.add_argument('--encoder', default='stars', help='name or file')
    parser.add_argument('--depths', type=int, nargs='+', default=[1, 5, 10])
    parser.add_argument(
        '--n-fields', type=int, default=1000, help='shifted fields (default: 1000)'
    )
    parser.add_argument('--batch', type=int, default=250)
    arguments = parser.parse_args()
    n_images = 1000 if arguments.quick else arguments.n_images
    n_fields = 100 if arguments.quick else arguments.n_fields
    report = Report('seams', __doc__.strip(), arguments)
    start, details = time.perf_counter(), {'star': {}, 'shifts': {}}
    cases = list(itertools.product(arguments.depths, _MAGNITUDES))
    parts = [
        (arguments.encoder, *case, k, min(arguments.batch, n_images - first))
        for case in cases
        for k, first in enumerate(range(0, n_images, arguments.batch))
    ]
    tables = run_tasks(
        one_star, parts, processes=arguments.threads, description='one star'
    )
    for case in cases:
        own = [t for t, part in zip(tables, parts, strict=True) if part[1:3] == case]
        key = f'd = {case[0]}, mag {case[1]:g}'
        details['star'][key] = evaluate_star(report, *case, np.concatenate(own))
    step = min(25, n_fields)
    parts = [
        (arguments.encoder, depth, k, min(step, n_fields - first))
        for depth in arguments.depths
        for k, first in enumerate(range(0, n_fields, step))
    ]
    tables = run_tasks(
        shifted, parts, processes=arguments.threads, description='shifts'
    )
    for depth in arguments.depths:
        own = [t for t, part in zip(tables, parts, strict=True) if part[1] == depth]
        details['shifts'][depth] = evaluate_shifts(report, depth, np.concatenate(own))
    report.details = {
        'encoder': Path(arguments.encoder).stem,
        'n_images': n_images,
        'views_of_each': _VIEWS,
        'n_fields': n_fields,
        'density': DENSITY,
        'seconds': time.perf_counter() - start,
        **details,
    }
    report.finish()


if __name__ == '__main__':
    main()
