# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A gallery of blends: image, posterior draws, reconstruction and residual.

Simulated blends of stars and galaxies and of stars alone, of increasing blendedness,
are detected and drawn again. Pictures go to docs/_static/gallery_*.png, numbers to
benchmarks/results/gallery.json.
"""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _common import Report, make_parser
from astropy.utils.exceptions import AstropyUserWarning

from bliss_astro import CoaddSimulator, Exposure, PSFModel, detect_sources, reconstruct
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.metrics import blendedness, scene_truth
from bliss_astro.plotting import plot_reconstruction
from bliss_astro.priors import StarPrior
from bliss_astro.rendering import render_stars
from bliss_astro.simulation import SceneStream, SimulationConfig

SHAPE = (48, 48)
SEED = 20260915
# The blendedness that is aimed at in each column.
TARGETS = (0.02, 0.1, 0.2, 0.35, 0.5, 0.7)
# Blends are chosen by the light of sources brighter than this, in the middle.
SNR, MIDDLE = 12.0, 12.0
_STATIC = Path(__file__).parent.parent / 'docs' / '_static'
_DRAWS = 2


@dataclass
class Blend:
    """One blend, what is true of it, and what detection is told."""

    exposure: Exposure
    blendedness: float
    n_sources: int
    told: dict


def _of_scene(scenes, truth, k):
    """One scene of a batch as a `Blend`, or `None` if its middle is empty."""
    own = truth[truth['scene'] == k]
    bright = own[own['snr'] > SNR]
    x, y = (bright[name].value - 0.5 * (SHAPE[0] - 1) for name in ('x', 'y'))
    bright = bright[(np.abs(x) < MIDDLE) & (np.abs(y) < MIDDLE)]
    if len(bright) < 2 or not bright['is_galaxy'].any():
        return None
    exposure = Exposure(
        scenes.data[k].numpy(),
        background=float(scenes.background[k]),
        bkg_error=float(scenes.bkg_error[k]),
        effective_gain=float(scenes.effective_gain[k]),
        psf=PSFModel.from_shape(scenes.psf[k].double().numpy()),
    )
    told = {
        'density': float(scenes.density[k]),
        'flux_min': float(scenes.flux_min[k]),
        'population': 'npe',
    }
    inside = own[own['flux'].value > float(scenes.flux_min[k])]
    return Blend(exposure, float(bright['blendedness'].max()), len(inside), told)


def draw_galaxies(n, generator):
    """Blends with galaxies, out of the NPE paper's prior."""
    config = SimulationConfig(
        population='npe', shape=SHAPE, crowding=(3.0, 10.0), n_exposures=(1, 1)
    )
    scenes = SceneStream(config).sample_batch(n, generator=generator)
    truth = scene_truth(scenes)
    blends = [_of_scene(scenes, truth, k) for k in range(n)]
    return [blend for blend in blends if blend is not None]


def draw_stars(n, generator):
    """Blends of stars in coadds of ten exposures."""
    rng = np.random.default_rng(generator.initial_seed())
    blends = []
    for _ in range(n):
        density = float(np.exp(rng.uniform(np.log(0.003), np.log(0.02))))
        prior = StarPrior(density=density)
        simulator = CoaddSimulator(10, prior, shape=SHAPE, margin=2)
        exposure, truth = simulator.simulate(rng=rng)
        flux = truth['flux'].value
        x, y = (np.asarray(truth[f'{axis}_centroid'], dtype=float) for axis in 'xy')
        middle = (np.abs(x - 23.5) < MIDDLE) & (np.abs(y - 23.5) < MIDDLE)
        bright = middle & (flux > 3 * np.min(flux, initial=np.inf))
        if bright.sum() < 2:
            continue
        parts = [torch.tensor(v, dtype=torch.float32)[:, None] for v in (x, y, flux)]
        psf = exposure.psf_at(24, 24).shape_vector
        psf = torch.tensor(psf, dtype=torch.float32).expand(len(x), 8)
        share = blendedness(render_stars(psf, *parts, size=SHAPE).double().numpy())
        told = {'density': density}
        blends.append(Blend(exposure, share[bright].max(), len(x), told))
    return blends


def choose(blends):
    """The blend nearest to each target, none of them twice."""
    chosen, left = [], list(blends)
    for target in TARGETS:
        distance = [abs(blend.blendedness - target) for blend in left]
        chosen.append(left.pop(int(np.argmin(distance))))
    return sorted(chosen, key=lambda blend: blend.blendedness)


def draw_gallery(blends, results, path):
    """A column a blend: image, draws, reconstruction, residual."""
    from matplotlib.figure import Figure

    n = len(blends)
    names = ['image', *(f'draw {k + 1}' for k in range(_DRAWS))]
    names += ['reconstruction', '(image - model) / noise']
    figure = Figure(figsize=(2.0 * n + 0.3, 2.0 * len(names) + 0.4))
    axes = figure.subplots(
        len(names),
        n,
        gridspec_kw={
            'left': 0.035,
            'right': 0.995,
            'bottom': 0.005,
            'top': 0.955,
            'wspace': 0.03,
            'hspace': 0.03,
        },
    )
    for k, (blend, result) in enumerate(zip(blends, results, strict=True)):
        plot_reconstruction(result, ax=axes[:, k], colorbar=False, titles=False)
        axes[0, k].set_title(
            f'blendedness {blend.blendedness:.2f}\n{blend.n_sources} true sources, '
            f'{len(result.catalog)} rows',
            fontsize='small',
        )
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize='small')
    figure.savefig(path, dpi=90)


def reduced_chi2(exposure, model):
    """Mean square of what a model leaves over, in units of the noise."""
    residual = exposure.data - exposure.background - model
    chi = (residual / exposure.total_error(model))[~exposure.mask]
    return float(np.mean(chi**2))


def run(name, draw, encoder, report, n):
    """One figure and its rows."""
    generator = torch.Generator().manual_seed(SEED)
    blends = choose(draw(n, generator))
    results = []
    for k, blend in enumerate(blends):
        with warnings.catch_warnings():
            # Said once in the text: an encoder may infer no shapes.
            warnings.simplefilter('ignore', AstropyUserWarning)
            catalog = detect_sources(blend.exposure, encoder=encoder, **blend.told)
            result = reconstruct(blend.exposure, catalog, n_draws=_DRAWS, rng=k)
        results.append(result)
        what = f'{name}: chi2 / n at blendedness {blend.blendedness:.2f}'
        error = np.sqrt(2 / result.chi.size)
        report.add(what, reduced_chi2(blend.exposure, result.model), error)
        drawn = [reduced_chi2(blend.exposure, draw) for draw in result.draws]
        report.add(f'{what}, draws', np.mean(drawn), error)
    shapes = 'disk_fraction' in results[0].catalog.colnames
    report.details[name] = {'encoder': encoder, 'shapes': shapes}
    draw_gallery(blends, results, _STATIC / f'gallery_{name}.png')


def time_frame(report):
    """Seconds to reconstruct a frame of 3000 sources, half of them galaxies."""
    rng = np.random.default_rng(SEED)
    n, (ny, nx) = 3000, (1489, 2048)
    unit = rng.random((6, n))
    columns = {
        'probability': np.ones(n),
        'galaxy_probability': unit[0].round(),
        'x_centroid': unit[1] * nx,
        'y_centroid': unit[2] * ny,
        'x_err': np.full(n, 0.1),
        'y_err': np.full(n, 0.1),
        'flux': 300 / (1 - unit[3]),
        'flux_err': np.full(n, 30.0),
        'disk_fraction': unit[4],
        'angle': 180 * unit[5],
        'disk_axis_ratio': rng.uniform(0.2, 1, n),
        'bulge_axis_ratio': rng.uniform(0.4, 1, n),
        'disk_radius': rng.lognormal(0.5, 0.5, n),
        'bulge_radius': rng.lognormal(0.3, 0.5, n),
    }
    catalog = ProbabilisticCatalog.from_columns(columns, image_shape=(ny, nx))
    data = rng.normal(0, 29, (ny, nx))
    exposure = Exposure(data, bkg_error=29.0, effective_gain=1.0, psf=PSFModel())
    seconds = []
    for _ in range(3):
        # Of this process: others do not count.
        begun = time.process_time()
        np.isfinite(reconstruct(exposure, catalog).chi).all()
        seconds.append(time.process_time() - begun)
    what = 'seconds of processor, 1489 x 2048 px, 1500 stars and 1500 galaxies'
    report.add(what, np.median(seconds), n=3)


def main():
    """Draw both figures, and take the time."""
    parser = make_parser('A gallery of blends.', n_images=150)
    parser.add_argument('--encoder', default='stars-galaxies')
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    n = 40 if arguments.quick else arguments.n_images
    report = Report('gallery', 'Reconstructions of simulated blends', arguments)
    run('blends', draw_galaxies, arguments.encoder, report, n)
    run('stars', draw_stars, 'stars', report, n)
    time_frame(report)
    report.finish()


if __name__ == '__main__':
    main()
