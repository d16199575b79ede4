# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Classes and fluxes with the true PSF, with the median one, and with another field's.
"""

import numpy as np
from astropy.table import vstack
from harness import Benchmark
from samples import Sample, run_encoder
from scenes import draw_fields, generator_of, truth_of

from bliss_astro.priors import FieldPrior

BATCH, FAINTEST = 50, 21.5
CASES = ("the field's PSF", 'the median PSF', "another field's PSF")


def main(arguments=None):
    own = {'n_images': 600, 'weights': 'stars-galaxies'}
    bench = Benchmark('psf_misspecification', __doc__.strip(), **own)
    arguments = bench.start(arguments)
    n_images = 8 if arguments.quick else arguments.n_images
    encoder, fields = bench.encoder, FieldPrior()
    median = fields.sample_batch(2000, generator=generator_of(0)).psf.median(0).values
    found, truth = {case: [] for case in CASES}, []
    for first in range(0, n_images, BATCH):
        n = min(BATCH, n_images - first)
        images = draw_fields(n, generator_of(arguments.seed, first))
        truth.append(truth_of(images, first=first))
        psfs = (images.psf, median.expand_as(images.psf), images.psf.roll(1, 0))
        for case, psf in zip(CASES, psfs, strict=True):
            found[case].append(run_encoder(encoder, images, first=first, psf=psf))
    truth = vstack(truth)
    bright = np.asarray(truth['magnitude']) < FAINTEST
    star = bright & ~np.asarray(truth['is_galaxy'])
    for case, tables in found.items():
        sample = Sample(vstack(tables), truth)
        bench.add(case, 'accuracy, r < 21.5', sample.accuracy(bright))
        value, error = (0.01 * v for v in sample.mean_error(star))
        bench.add(case, 'flux error of stars, mean absolute', value, error)
    bench.finish()


if __name__ == '__main__':
    main()
