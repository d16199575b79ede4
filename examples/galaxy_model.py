# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Train and inspect the galaxy model
==================================

Galaxies from a latent space: draw some, infer them back from noisy stamps.

It needs no input::

    python galaxy_model.py --plot galaxies.png
"""

import argparse

import torch

from bliss_astro.galaxies import GalaxyAutoencoder
from bliss_astro.priors import FieldPrior

SIZE = 53


def main(args=None):
    """
    Draw latents from the prior, render, add noise, encode, and compare.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0].strip())
    parser.add_argument('--n', type=int, default=6, help='galaxies (default: 6)')
    parser.add_argument('--flux', type=float, default=5e4, help='electrons')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--plot', metavar='FILE', help='a picture of all of them')
    options = parser.parse_args(args)

    model = GalaxyAutoencoder.from_pretrained()
    generator = torch.Generator().manual_seed(options.seed)
    fields = FieldPrior().sample_batch(options.n, generator=generator)
    latent = model.sample(options.n, rng=options.seed)
    middle = torch.full((options.n, 1), SIZE // 2.0)
    flux = torch.full((options.n, 1), options.flux)
    truth = model.render(
        fields.psf, middle, middle, flux, latent[:, None], size=(SIZE, SIZE)
    )
    expected = truth + fields.background[:, None, None]
    data = torch.poisson(expected, generator=generator)

    posterior = model.encode(data, fields.psf, fields.background)
    before = model.decode(latent).convolved(fields.psf).adaptive_moments()
    after = model.decode(posterior.latent).convolved(fields.psf).adaptive_moments()
    print('  flux/true  error   e1 (true)         e2 (true)         size (true), px')
    for k in range(options.n):
        line = f'{float(posterior.flux[k] / options.flux):10.3f}'
        line += f'{float(posterior.flux_err[k] / options.flux):8.3f}'
        for found, true in zip(after, before, strict=True):
            line += f'   {float(found[k]):6.3f} ({float(true[k]):6.3f})'
        print(line)
    if options.plot:
        draw(data, expected, options.plot)


def draw(data, expected, path):
    """
    Show stamps and what they were made from.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * len(data), 3.4), layout='constrained')
    axes = figure.subplots(2, len(data), squeeze=False)
    for row, images in zip(axes, (data, expected), strict=True):
        for ax, image in zip(row, images, strict=True):
            noise = float(image.median()) ** 0.5
            shown = torch.asinh((image - image.median()) / noise)
            ax.imshow(shown, origin='lower', cmap='gray', vmin=-1.5)
            ax.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    main()
