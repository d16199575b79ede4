# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
May a catalogue be trusted: its image checked, and sources put into it.

The image is simulated with a known PSF, background and gain; --psf 1.1 tells the
encoder a PSF that is 10 % too broad, --background 0.2 a sky that is 0.2 sigma too
bright, --gain 1.3 a gain that is too high. It runs in less than a minute:

    python trust.py --psf 1.1 --plot trust.png
"""

import argparse

import numpy as np

from bliss_astro import (
    BlissFinder,
    CoaddSimulator,
    PSFModel,
    completeness,
    detect_sources,
)
from bliss_astro.priors import StarPrior


def misled(exposure, arguments):
    """
    The exposure with what it says of itself changed.
    """
    shape = np.array(exposure.psf.shape_vector, dtype=float)
    shape[[0, 1, 3]] *= arguments.psf
    return exposure.replace(
        psf=PSFModel.from_shape(shape),
        background=exposure.background + arguments.background * exposure.bkg_error,
        effective_gain=exposure.effective_gain * arguments.gain,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--psf', type=float, default=1.0, help='factor of its width')
    parser.add_argument('--background', type=float, default=0.0, help='error, sigma')
    parser.add_argument('--gain', type=float, default=1.0, help='factor')
    parser.add_argument('--plot', help='write the residual map to this file')
    parser.add_argument('--seed', type=int, default=5)
    arguments = parser.parse_args()

    sky = StarPrior(density=0.002)
    simulator = CoaddSimulator(1, sky, shape=(240, 300), margin=8)
    exposure, _ = simulator.sample(rng=arguments.seed)
    exposure = misled(exposure, arguments)
    catalog = detect_sources(exposure, encoder='stars')
    check = catalog.check(exposure, rng=arguments.seed)
    print(check, '\n')
    finder = BlissFinder(encoder='stars')
    result = completeness(
        exposure, finder, n_sources=120, spacing=48, rng=arguments.seed
    )
    print(result)
    result.table['flux_low', 'flux_high', 'n', 'recall', 'bias', 'scatter'].pprint_all()
    if arguments.plot:
        import matplotlib as mpl

        mpl.use('agg')
        axes = check.plot()
        axes[0].figure.savefig(arguments.plot, dpi=110)
        print(f'wrote {arguments.plot}')


if __name__ == '__main__':
    main()
