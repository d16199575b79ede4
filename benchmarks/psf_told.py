# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What an encoder gains by being told the PSF: right, wrong and average ones.

Fields of the many-field prior are shown to one encoder, which is told the PSF
of each field, the median PSF of all fields, or that of another field.
Star/galaxy accuracy and fluxes by seeing, on the same images.
"""

import dataclasses
import itertools

import numpy as np
import torch
from _common import Report, make_parser

from bliss_astro.detection._detect import _autocast
from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.posteriors import find_sources
from bliss_astro.psf._width import fwhm_of_shape
from bliss_astro.simulation import SceneStream, SimulationConfig

TELLINGS = ('its own', 'the median', "another field's")
_BATCH = 50
_N_BINS = 5
# Fainter ones are unclear whatever is told.
_FAINTEST = 21.5


def tell(inputs, telling, median):
    """The inputs with the PSF that is told."""
    if telling == TELLINGS[0]:
        return inputs
    other = inputs.psf.roll(1, 0)
    if telling == TELLINGS[1]:
        other = median[None, :, None, None].expand_as(inputs.psf)
    return dataclasses.replace(inputs, psf=other.contiguous(), description=None)


@torch.no_grad()
def ask(encoder, inputs, scenes):
    """
    Galaxy probability and flux of the source nearest to each truth.

    Returns
    -------
    rows : array ``(n, 5)``
        Image, truth's magnitude and type, probability of a galaxy and relative
        error of the flux; only of matched truths.
    """
    with _autocast(torch.device('cpu')):
        posterior = encoder(inputs)
    sources = find_sources(posterior)
    sources = sources.select(sources.probability > 0.5)
    x, y = sources.place()
    flux = scenes.flux_min[sources.image] * torch.exp(sources.quantile_flux(0.5))
    magnitude = 22.5 - 2.5 * torch.log10(
        scenes.flux / scenes.electrons_per_nmgy[:, None]
    )
    rows = []
    for i in range(len(scenes)):
        own = (sources.image == i).nonzero()[:, 0]
        ny, nx = scenes.data.shape[1:]
        inside = (scenes.x[i] > 2) & (scenes.x[i] < nx - 3)
        inside &= (scenes.y[i] > 2) & (scenes.y[i] < ny - 3)
        inside &= (scenes.flux[i] > 0) & (magnitude[i] < _FAINTEST)
        for j in inside.nonzero()[:, 0]:
            if len(own) == 0:
                continue
            apart = torch.hypot(x[own] - scenes.x[i, j], y[own] - scenes.y[i, j])
            k = int(apart.argmin())
            if apart[k] < 1:
                rows.append(
                    (
                        i,
                        float(magnitude[i, j]),
                        float(scenes.is_galaxy[i, j]),
                        float(sources.galaxy[own[k]]),
                        float(flux[own[k]] / scenes.flux[i, j] - 1),
                    )
                )
    return np.array(rows).reshape(-1, 5)


def accuracy(rows):
    """Share of right classes and its binomial error."""
    right = (rows[:, 3] > 0.5) == (rows[:, 2] > 0)
    p = right.mean()
    return p, np.sqrt(max(p * (1 - p), 1e-4) / len(rows))


def draw(bins, scores, path):
    """Accuracy and star fluxes against the seeing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8), layout='constrained')
    left, right = figure.subplots(1, 2)
    for telling, marker in zip(TELLINGS, 'osD', strict=True):
        values, errors, bias = (np.array(v) for v in zip(*scores[telling], strict=True))
        left.errorbar(bins, values, errors, marker=marker, capsize=2, label=telling)
        right.plot(bins, 100 * bias, marker=marker, label=telling)
    left.set(xlabel='seeing, FWHM (arcsec)', ylabel='star/galaxy accuracy, r < 21.5')
    right.set(
        xlabel='seeing, FWHM (arcsec)', ylabel='median flux residual of stars (%)'
    )
    right.axhline(0, color='0.7', lw=1)
    left.legend(title='PSF that is told')
    figure.savefig(path, dpi=110)


def main():
    """Simulate, ask, score."""
    parser = make_parser(__doc__.strip().splitlines()[0], n_images=3000)
    parser.add_argument('--encoder', default='stars-galaxies', help='name or file')
    parser.add_argument('--figure', help='picture to draw')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    encoder = Encoder.from_pretrained(options.encoder)
    n_images = 200 if options.quick else options.n_images
    config = SimulationConfig(
        population='npe', n_exposures=(1, 1), shape=(80, 80), bad_pixels=False
    )
    stream = SceneStream(config)
    generator = torch.Generator().manual_seed(20261121)
    median = stream.draw_fields(2000, population='npe', generator=generator)[0]
    median = median.median(0).values
    found = {telling: [] for telling in TELLINGS}
    for _ in range(-(-n_images // _BATCH)):
        scenes = stream.sample_batch(_BATCH, generator=generator)
        width = 0.396 * fwhm_of_shape(scenes.psf).numpy()
        inputs = EncoderInputs.from_batch(scenes)
        for telling in TELLINGS:
            rows = ask(encoder, tell(inputs, telling, median), scenes)
            seeing = width[rows[:, 0].astype(int)]
            found[telling].append(np.column_stack([rows, seeing]))
    found = {telling: np.concatenate(rows) for telling, rows in found.items()}
    edges = np.quantile(found[TELLINGS[0]][:, 5], np.linspace(0, 1, _N_BINS + 1))
    report = Report('psf_told', 'What being told the PSF is worth.', options)
    scores = {telling: [] for telling in TELLINGS}
    for telling, rows in found.items():
        value, error = accuracy(rows)
        report.add(f'accuracy r < 21.5, told {telling}', value, error, n=len(rows))
        star = rows[rows[:, 2] == 0]
        report.add(
            f'mean absolute flux error of stars, told {telling}',
            np.abs(star[:, 4]).mean(),
            np.abs(star[:, 4]).std() / np.sqrt(len(star)),
            n=len(star),
        )
        for low, high in itertools.pairwise(edges):
            own = rows[(rows[:, 5] >= low) & (rows[:, 5] <= high)]
            bias = np.median(own[own[:, 2] == 0, 4]) if len(own) else np.nan
            scores[telling].append((*accuracy(own), bias))
    middles = 0.5 * (edges[1:] + edges[:-1])
    report.details = {'seeing': middles, 'scores': scores}
    if options.figure:
        draw(middles, scores, options.figure)
    report.finish()


if __name__ == '__main__':
    main()
