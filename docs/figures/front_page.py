# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Front page: an image, its detections coloured by probability, two draws of a blend.

    python docs/figures/front_page.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from bliss_astro import CoaddSimulator, detect_sources
from bliss_astro.priors import CatalogPrior

FOLDER = Path(__file__).parent

# A coadd of stars and galaxies, four times as dense as the sky at high latitude.
numbers = CatalogPrior.sky().to_dict()
for name in ('stars', 'galaxy_counts'):
    counts = numbers[name]
    counts['log_density'] = [value + 0.6 for value in counts['log_density']]
prior = CatalogPrior.from_dict(numbers)
simulator = CoaddSimulator(25, prior, shape=(120, 160), margin=-8)
exposure, truth = simulator.sample(rng=7)
catalog = detect_sources(exposure, threshold=0.1, check=False)
picture = np.arcsinh((exposure.data - exposure.background) / exposure.bkg_error / 2)

# The bright source around which draws differ most in their number of sources.
draws = catalog.posterior.sample(60, rng=1)
bright = np.median(catalog['flux'].value)


def members(table, x, y, half=8):
    inside = np.abs(table['x_centroid'] - x) < half
    inside &= np.abs(table['y_centroid'] - y) < half
    return table[inside & (table['flux'].value > 0.3 * bright)]


def spread(row):
    x, y = row['x_centroid'], row['y_centroid']
    inside = 12 < x < 148 and 12 < y < 108 and row['flux'].value > 2 * bright
    return inside * np.std([len(members(draw, x, y, half=4)) for draw in draws])


centre = max(catalog, key=spread)
x, y = centre['x_centroid'], centre['y_centroid']
counts = [len(members(draw, x, y)) for draw in draws]
typical = max(set(counts), key=counts.count)
other = max(set(counts) - {typical}, key=counts.count)

fig = plt.figure(figsize=(10, 4.4))
grid = fig.add_gridspec(2, 2, width_ratios=(2.75, 1), wspace=0.08, hspace=0.12)
axes = [fig.add_subplot(grid[:, 0]), *(fig.add_subplot(grid[k, 1]) for k in (0, 1))]
for ax in axes:
    ax.imshow(picture, cmap='gray_r', origin='lower', vmin=-1, vmax=4)
    ax.set(xticks=[], yticks=[])
# The most probable on top.
rows = catalog[np.argsort(catalog['probability'])]
axes[0].scatter(
    rows['x_centroid'], rows['y_centroid'], s=70, facecolors='none', linewidths=1.3,
    edgecolors=plt.get_cmap('plasma')(rows['probability'] * 0.9),
)  # fmt: skip
axes[0].set_title(f'{len(catalog)} sources, coloured by probability')
scale = plt.cm.ScalarMappable(cmap='plasma', norm=plt.Normalize(0, 1 / 0.9))
bar = fig.colorbar(scale, ax=axes[0], fraction=0.04, pad=0.02, label='probability')
bar.ax.set_ylim(0.1, 1)
frame = plt.Rectangle((x - 8, y - 8), 16, 16, fill=False, ec='tab:blue', lw=1.5)
axes[0].add_patch(frame)
for ax, number in zip(axes[1:], (typical, other), strict=True):
    draw = members(draws[counts.index(number)], x, y)
    ax.scatter(
        draw['x_centroid'], draw['y_centroid'],
        s=220 * (draw['flux'].value / bright) ** 0.4,
        facecolors='none', edgecolors='tab:blue', linewidths=2,
    )  # fmt: skip
    ax.set(xlim=(x - 8, x + 8), ylim=(y - 8, y + 8))
    share = counts.count(number) / len(counts)
    ax.set_ylabel(f'{number} source{"s" * (number > 1)}: {share:.0%} of draws')
    ax.yaxis.set_label_position('right')
axes[1].set_title('Two draws of one place')
fig.savefig(FOLDER.parent / '_static' / 'front_page.png', dpi=110, bbox_inches='tight')

names = ('probability', 'x_centroid', 'y_centroid', 'flux', 'flux_err')
rows = detect_sources(exposure, check=False)[:5]
for name in names:
    rows[name].info.format = '.4g' if name in ('flux', 'flux_err') else '.3f'
text = '\n'.join('    ' + line for line in rows[names].pformat(max_width=-1))
(FOLDER / 'front_page_table.inc.txt').write_text(f'.. code-block:: text\n\n{text}\n')
