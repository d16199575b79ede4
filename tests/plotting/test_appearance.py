# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Appearance of every figure, compared by a hash of its picture.

The hash is the grey level of 20 x 12 blocks in 256 steps, of the picture without
its text and legends, so that fonts play no part. This file as a script records the
hashes anew and saves the pictures in the folder that it is given: look at them first.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from astropy.table import QTable
from astropy.utils import minversion
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from bliss_astro import metrics, plotting

_HASHES = Path(__file__).with_name('appearance.json')
_COLUMNS, _ROWS = 20, 12

# Largest mean difference of the grey levels, and largest one of a block, over the
# difference of black and white. Other versions of matplotlib may move a line by a
# pixel, which changes a block by less than 0.1; an absent curve changes the mean by
# 0.004.
_MEAN_TOLERANCE, _BLOCK_TOLERANCE = 0.003, 0.12


def picture(figure):
    """
    Grey levels of a figure without its text, 0 for black and 1 for white.
    """
    # A legend is as large as its text.
    for artist in figure.findobj(Text) + figure.findobj(Legend):
        artist.set_visible(False)
    figure.set_dpi(60)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].mean(axis=2) / 255


def blocks(grey):
    """
    Mean grey levels of the blocks.
    """
    rows = np.array_split(grey, _ROWS, axis=0)
    return np.array(
        [[b.mean() for b in np.array_split(row, _COLUMNS, axis=1)] for row in rows]
    )


def to_hash(grey):
    return [bytes(row).hex() for row in np.rint(255 * blocks(grey)).astype(np.uint8)]


def from_hash(rows):
    return np.array([list(bytes.fromhex(row)) for row in rows]) / 255


# -- the figures -------------------------------------------------------------------


def field(rng):
    """
    An image of twelve stars, and their catalogue.
    """
    x, y = rng.uniform(5, 75, (2, 12))
    rows, columns = np.mgrid[:60, :80]
    image = rng.normal(0, 10, (60, 80))
    y *= 0.75
    for k in range(12):
        r2 = (columns - x[k]) ** 2 + (rows - y[k]) ** 2
        image += 4000 * np.exp(-r2 / 4) / (4 * np.pi)
    catalog = QTable({'x_centroid': x, 'y_centroid': y})
    catalog['probability'] = rng.uniform(0.5, 1, 12)
    catalog['x_err'] = catalog['y_err'] = 0.2
    return image, catalog


def draw_catalog(ax, rng):
    image, catalog = field(rng)
    image[20:25, 30:40] = np.nan
    options = {'truth': [(10, 10), (50, 30)], 'error_scale': 10}
    plotting.plot_catalog(image, catalog, ax=ax, colorbar=False, **options)


def draw_probability_map(ax, rng):
    values = rng.uniform(size=(12, 16)) ** 3
    options = {'catalog': [(10, 10), (50, 30)], 'colorbar': False}
    plotting.plot_probability_map(values, tile_size=4, ax=ax, **options)


def matched_survey(rng):
    mag = 18 + 5 * rng.uniform(size=2000) ** 0.6
    truth = rng.uniform(0, 2000, (2000, 2))
    found = rng.uniform(size=2000) < 1 / (1 + np.exp((mag - 22) * 4))
    return metrics.match_catalogs(truth[found], truth), mag[found], mag


def draw_precision_recall(ax, rng):
    match, estimated, true = matched_survey(rng)
    bins = np.arange(18, 23.1, 0.5)
    scores = metrics.detection_scores(match, bins, estimated=estimated, truth=true)
    scores.plot(ax=ax, which=('precision', 'recall', 'f1'))


def draw_residuals(ax, rng):
    mag = rng.uniform(18, 23, 2000)
    residuals = rng.normal(0, 0.01 * 10 ** (0.3 * (mag - 18)))
    summary = metrics.summarize_residuals(residuals, np.arange(18, 23.1, 0.5), by=mag)
    ax.set_ylim(-0.5, 0.5)
    summary.plot(ax=ax, by=mag, residuals=residuals)


def draw_blend_scores(ax, rng):
    low, high = np.repeat([5.0, 20.0, 50.0], 2), np.repeat([20.0, 50.0, 200.0], 2)
    scores = QTable({'snr_low': low, 'snr_high': high})
    scores['blendedness_low'] = np.tile([0.0, 0.2], 3)
    scores['blendedness_high'] = np.tile([0.2, 1.0], 3)
    scores['recall'] = [0.5, 0.3, 0.8, 0.6, 0.95, 0.9]
    scores['recall_err'] = 0.05
    plotting.plot_blend_scores(scores, ax=ax)


def groups_of(ranks):
    return np.repeat(['faint', 'bright'], len(ranks) // 2)


def draw_coverage(ax, rng):
    ranks = rng.uniform(size=2000)
    coverage = metrics.rank_coverage(ranks, groups=groups_of(ranks))
    coverage.plot(ax=ax, difference=True, tolerance=0.02)


def draw_ranks(ax, rng):
    ranks = rng.uniform(size=2000) ** 1.1
    metrics.rank_uniformity(ranks, groups=groups_of(ranks)).plot(ax=ax)


def draw_ecdf(ax, rng):
    ranks = rng.uniform(size=2000) ** 1.1
    uniformity = metrics.rank_uniformity(ranks, groups=groups_of(ranks))
    uniformity.plot(ax=ax, kind='ecdf')


def draw_reliability(ax, rng):
    p = rng.beta(0.5, 0.5, 2000)
    metrics.reliability(p, rng.uniform(size=2000) < p).plot(ax=ax)


def draw_counts(ax, rng):
    rate = rng.gamma(3, 1, 2000)
    metrics.count_calibration(rng.poisson(rate), rate).plot(ax=ax)


def draw_sharpness(ax, rng):
    bound = np.ones(200)
    residuals = rng.normal(size=200)
    groups = groups_of(bound)
    values = {'width': 1.1 * bound, 'bound': bound, 'residuals': residuals}
    metrics.sharpness(**values, groups=groups).plot(ax=ax)


def draw_check(axes, rng, **options):
    labels = np.arange(60)[:, np.newaxis] // 20 * 4 + np.arange(80) // 20
    n = labels.max() + 1
    cells = {'region': np.arange(n), 'chi2': rng.normal(400, 60, n)}
    cells |= {'chi2_expected': np.full(n, 400.0), 'chi2_err': np.full(n, 28.0)}
    findings = QTable({'x': [20.0, np.nan], 'y': [30.0, np.nan]})
    check = SimpleNamespace(
        shape=(60, 80),
        labels=labels,
        cells=QTable(cells),
        residual=rng.normal(size=(60, 80)),
        findings=findings,
    )
    plotting.plot_check(check, ax=axes, colorbar=False, **options)


def draw_completeness(axes, rng):
    edges = np.arange(18.0, 24.0)
    table = QTable({'type': np.repeat(['star', 'galaxy'], 5)})
    table['mag_low'], table['mag_high'] = np.tile(edges[:-1], 2), np.tile(edges[1:], 2)
    for name, value in (
        ('recall', np.tile([1.0, 0.99, 0.95, 0.7, 0.3], 2)),
        ('accuracy', np.linspace(0.99, 0.6, 10)),
    ):
        table[name] = value
        table[f'{name}_low'], table[f'{name}_high'] = value - 0.05, value + 0.03
    table['bias'], table['bias_err'] = np.linspace(0, 0.5, 10), 0.1
    table['scatter'] = 1.0
    plotting.plot_completeness(SimpleNamespace(table=table), ax=axes)


def draw_reconstruction(axes, rng):
    image, catalog = field(rng)
    noise = rng.normal(0, 10, image.shape)
    model = np.where(image - noise > 30, image - noise, 0)
    reconstruction = SimpleNamespace(
        catalog=catalog,
        chi=noise / 10,
        draws=[model * 0.9],
        exposure=SimpleNamespace(bkg_error=np.full(image.shape, 10.0)),
        model=model,
        residual=noise,
        shape=image.shape,
        slices=(slice(0, 60), slice(0, 80)),
    )
    plotting.plot_reconstruction(reconstruction, ax=axes, colorbar=False)


# Number of panels, and what draws on them.
FIGURES = {
    'catalog': (1, draw_catalog),
    'probability_map': (1, draw_probability_map),
    'precision_recall': (1, draw_precision_recall),
    'residuals': (1, draw_residuals),
    'blend_scores': (1, draw_blend_scores),
    'coverage': (1, draw_coverage),
    'ranks': (1, draw_ranks),
    'ecdf': (1, draw_ecdf),
    'reliability': (1, draw_reliability),
    'counts': (1, draw_counts),
    'sharpness': (1, draw_sharpness),
    'check': (2, draw_check),
    'completeness': (2, draw_completeness),
    'reconstruction': (4, draw_reconstruction),
}


def make_figure(name):
    n_panels, draw = FIGURES[name]
    figure = Figure(figsize=(4.0 * n_panels, 3.2))
    axes = figure.subplots(1, n_panels)
    draw(axes, np.random.default_rng(1))
    return figure


@pytest.mark.skipif(
    not minversion(mpl, '3.11'), reason='older versions lay out axes otherwise'
)
@pytest.mark.parametrize('name', FIGURES)
def test_appearance(name):
    expected = from_hash(json.loads(_HASHES.read_text())[name])
    found = blocks(picture(make_figure(name)))
    difference = np.abs(found - expected)
    assert difference.mean() < _MEAN_TOLERANCE
    assert difference.max() < _BLOCK_TOLERANCE


def test_colours_of_a_check():
    axes = Figure().subplots(1, 2)
    draw_check(axes, np.random.default_rng(1), cmap='PuOr')
    assert [ax.images[0].get_cmap().name for ax in axes] == ['PuOr', 'PuOr']


def test_hash_notices_what_is_absent():
    _, draw = FIGURES['precision_recall']
    whole = Figure(figsize=(4.0, 3.2))
    draw(whole.subplots(), np.random.default_rng(1))
    part = make_figure('precision_recall')
    for line in part.axes[0].lines[1:2] + part.axes[0].collections[1:2]:
        line.remove()
    difference = np.abs(blocks(picture(whole)) - blocks(picture(part)))
    assert difference.mean() > 1.2 * _MEAN_TOLERANCE


if __name__ == '__main__':
    for key in FIGURES if len(sys.argv) > 1 else ():
        make_figure(key).savefig(Path(sys.argv[1]) / f'{key}.png', dpi=80)
    hashes = {key: to_hash(picture(make_figure(key))) for key in FIGURES}
    _HASHES.write_text(json.dumps(hashes, indent=1) + '\n')
