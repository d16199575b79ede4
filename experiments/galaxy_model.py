# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Reconstructions of galaxies by the learned galaxy model, by signal-to-noise ratio.
"""

from _networks import STATIC
from harness import Benchmark

from bliss_astro.galaxies import GalaxyAutoencoder
from bliss_astro.training import reconstruction_report

SAMPLES = {
    'NPE prior': (1.0, {}),
    'real sky': (0.35, {'population': 'sky'}),
    'NPE prior, rendered by GalSim': (0.1, {'renderer': 'galsim'}),
}
# Columns of the report, and targets of all galaxies.
QUANTITIES = {
    'chi2': ('chi-square per pixel', '0.97 to 1.03'),
    'correlation': ('residual-model correlation', '-0.01 to 0.01'),
    'flux_bias': ('median flux bias', '-0.01 to 0.01'),
    'e1_bias': ('bias of e1', '-0.01 to 0.01'),
    'e2_bias': ('bias of e2', '-0.01 to 0.01'),
    'e_bias': ('ellipticity bias along the true one', ''),
    'chi2_expected': ('chi-square per pixel expected of an exact model', ''),
}


def main(arguments=None):
    bench = Benchmark('galaxy_model', __doc__.strip(), n_images=4000)
    bench.option('--model', default='galaxies', help='name or file')
    bench.option('--figure', action='store_true', help='draw the figure')
    arguments = bench.start(arguments)
    n = 30 if arguments.quick else arguments.n_images
    model = GalaxyAutoencoder.from_pretrained(arguments.model)
    for case, (part, settings) in list(SAMPLES.items())[
        : 1 if arguments.quick else None
    ]:
        report = reconstruction_report(
            model, max(20, int(part * n)), rng=arguments.seed, **settings
        )
        *bins, everything = report.table
        for row in (everything, *bins):
            whole = row is everything
            low, high = row['snr_min'], row['snr_max']
            name = case if whole else f'{case}, SNR {low:.0f} to {high:.0f}'
            for column, (quantity, target) in QUANTITIES.items():
                value = float(row[column]), float(row[f'{column}_err'])
                target, number = target if whole else '', int(row['n'])
                bench.add(name, quantity, value, n=number, target=target)
        if arguments.figure and not settings:
            report.plot().savefig(STATIC / 'autoencoder_report.png', dpi=110)
    bench.finish()


if __name__ == '__main__':
    main()
