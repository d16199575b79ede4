# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars drawn by torch in single precision against GalSim drawing the same PSF.
"""

import numpy as np
import torch
from _common import Report, make_parser

from bliss_astro.priors import SeeingPrior
from bliss_astro.psf import PSFModel
from bliss_astro.rendering import render_stars

_SIDE = 81


def _shapes(n_random):
    # The default PSF, elongated ones, and what the seeing prior draws.
    default = PSFModel().shape_vector
    shapes = [default]
    for e1, e2 in ((0.1, 0.0), (-0.1, 0.05), (0.0, 0.15), (0.1, -0.1)):
        shapes.append(np.r_[default[:6], e1, e2])
    generator = torch.Generator().manual_seed(1)
    drawn = SeeingPrior().sample_batch(n_random, inclined=True, generator=generator)
    return np.vstack([shapes, drawn.double().numpy()])


def _galsim_image(model, x, y):
    # GalSim's own defaults cut a Gaussian at 1e-3 of its flux in Fourier
    # space; in real space ('no_pixel' of analytic profiles) it is exact.
    import galsim

    image = galsim.ImageD(galsim.BoundsI(0, _SIDE - 1, 0, _SIDE - 1))
    model.to_galsim().drawImage(
        image=image, method='no_pixel', center=galsim.PositionD(x, y), scale=1.0
    )
    return image.array


def _torch_image(vector, x, y, tolerance):
    shape = torch.tensor(vector, dtype=torch.float32)[None]
    place = [torch.tensor([[v]], dtype=torch.float32) for v in (x, y, 1.0)]
    image = render_stars(shape, *place, size=(_SIDE, _SIDE), tolerance=tolerance)
    return image[0].double().numpy()


def main():
    parser = make_parser(__doc__.strip())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = Report('rendering', 'torch stars against GalSim', arguments)
    shapes = _shapes(5 if arguments.quick else 60)
    steps = (0.0, 0.5) if arguments.quick else (-0.5, -0.3, 0.0, 0.21, 0.5)
    centre = _SIDE // 2
    tolerances = {'default (1e-6)': 1e-6, 'as in training (1e-4)': 1e-4}
    worst = {name: [0.0, 0.0] for name in tolerances}
    fwhm = []
    for vector in shapes:
        model = PSFModel.from_shape(vector)
        fwhm.append(model.fwhm)
        for dx in steps:
            for dy in steps:
                # Single precision holds the position to 4e-6 px here.
                x, y = (float(np.float32(centre + d)) for d in (dx, dy))
                exact = _galsim_image(model, x, y)
                peak, flux = model(0.0, 0.0), exact.sum()
                for name, tolerance in tolerances.items():
                    drawn = _torch_image(vector, x, y, tolerance)
                    largest = np.abs(drawn - exact).max() / peak
                    relative = abs(drawn.sum() / flux - 1)
                    worst[name] = np.maximum(worst[name], [largest, relative])
    for name, (largest, relative) in worst.items():
        goal = {'target': '< 1e-4', 'high': 1e-4} if '1e-6' in name else {}
        report.add(f'max difference / peak, {name}', largest, **goal)
        report.add(f'relative difference of flux, {name}', relative, **goal)
    report.details = {
        'n_psfs': len(shapes),
        'n_phases': len(steps) ** 2,
        'fwhm_range_px': [min(fwhm), max(fwhm)],
        'largest_ellipticity': float(np.hypot(*shapes[:, 6:].T).max()),
        'image_side_px': _SIDE,
    }
    report.finish()


if __name__ == '__main__':
    main()
