# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The learned galaxy model: reconstructions of galaxies with SNR > 7.

Galaxies of the NPE paper's prior and of the real sky's on stamps of 53 pixels, drawn
by torch and, some of them, by GalSim; the report of ``reconstruction_report``.
"""

import multiprocessing
import time

import torch
from _common import Report, make_parser

from bliss_astro.galaxies import (
    GalaxyAutoencoder,
    GalaxySimulationConfig,
    reconstruction_report,
)
from bliss_astro.simulation import GalaxyStream

# What has a target: column, words, target, allowed range.
_GOALS = (
    ('chi2', 'chi-square per pixel', '0.97 to 1.03', 0.97, 1.03),
    ('correlation', 'residual-model correlation', 'size < 0.01', -0.01, 0.01),
    ('flux_bias', 'median flux bias', 'size < 0.01', -0.01, 0.01),
    ('e1_bias', 'bias of e1', 'size < 0.01', -0.01, 0.01),
    ('e2_bias', 'bias of e2', 'size < 0.01', -0.01, 0.01),
)
_REST = (
    ('e_bias', 'ellipticity bias along the true one'),
    ('chi2_expected', 'chi-square per pixel expected of a right model'),
    ('chi2_exact', 'chi-square per pixel of the truth'),
    ('correlation_exact', 'correlation of the truth'),
)


# Words, share of the galaxies, arguments of the report; the longest comes first.
_PARTS = (
    ('NPE prior', 1.0, {}),
    ('real sky', 0.35, {'population': 'sky'}),
    ('NPE prior, drawn by GalSim', 0.1, {'renderer': 'galsim'}),
    ('NPE prior, network alone', 0.2, {'n_refine': 0}),
)


def _report(task):
    """
    One report, in a process of its own.
    """
    name, n, seed, settings = task
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = GalaxyAutoencoder.from_pretrained(name)
    return reconstruction_report(model, n, rng=seed, **settings)


def add_rows(report, found, label, *, goals=True):
    """
    Numbers of all galaxies, then those by signal-to-noise ratio.
    """
    everything = found.table[-1]
    n = int(everything['n'])
    for column, words, target, low, high in _GOALS:
        goal = {'target': target, 'low': low, 'high': high} if goals else {}
        value, error = everything[column], everything[f'{column}_err']
        report.add(f'{label}: {words}', value, error, n=n, **goal)
    for column, words in _REST:
        value, error = everything[column], everything[f'{column}_err']
        report.add(f'{label}: {words}', value, error, n=n)
    for row in found.table[:-1]:
        where = f'SNR {row["snr_min"]:.0f} to {row["snr_max"]:.0f}'
        for column, words in [goal[:2] for goal in _GOALS[:3]] + [_REST[0]]:
            value, error = row[column], row[f'{column}_err']
            report.add(f'{label}, {where}: {words}', value, error, n=int(row['n']))


def add_speed(report, model, *, n=128):
    """
    Stamps encoded and galaxies drawn per second.
    """
    torch.set_num_threads(1)
    stream = GalaxyStream(GalaxySimulationConfig(size=53))
    batch = stream.draw(n, generator=torch.Generator().manual_seed(3))
    noise = {'read_noise': batch.read_noise}
    for n_refine in (0, 4):
        begun = time.perf_counter()
        posterior = model.encode(
            batch.data, batch.psf, batch.background, n_refine=n_refine, **noise
        )
        rate = n / (time.perf_counter() - begun)
        report.add(
            f'stamps of 53 px encoded per second and core, {n_refine} steps', rate, n=n
        )
    middle = torch.full((n, 1), 26.0)
    begun = time.perf_counter()
    model.render(
        batch.psf,
        middle,
        middle,
        posterior.flux[:, None],
        posterior.latent[:, None],
        size=(53, 53),
    )
    rate = n / (time.perf_counter() - begun)
    report.add('galaxies drawn exactly per second and core, 53 px', rate, n=n)


def main():
    """Simulate, infer, compare."""
    parser = make_parser(__doc__.strip().splitlines()[0], n_images=4000)
    parser.add_argument('--model', default='galaxies', help='name or file')
    parser.add_argument('--figure', help='picture to draw')
    options = parser.parse_args()
    n = 100 if options.quick else options.n_images
    tasks = [
        (options.model, max(20, int(share * n)), 20262201 + k, settings)
        for k, (_, share, settings) in enumerate(_PARTS)
    ]
    report = Report('autoencoder', 'The learned galaxy model.', options)
    with multiprocessing.get_context('spawn').Pool(options.threads) as pool:
        results = pool.imap(_report, tasks)
        for (words, _, settings), found in zip(_PARTS, results, strict=True):
            print(f'\n{found}', flush=True)
            # The network's own answer and GalSim's few galaxies are beside.
            add_rows(report, found, words, goals=set(settings) <= {'population'})
            report.details[words] = {
                name: found.table[name].tolist() for name in found.table.colnames
            }
            if words == 'NPE prior' and options.figure:
                found.plot().savefig(options.figure, dpi=110)
    add_speed(report, GalaxyAutoencoder.from_pretrained(options.model))
    report.finish()


if __name__ == '__main__':
    main()
