# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A whole SDSS-sized frame taken apart: catalogue with shapes, model and residuals.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import Report, in_subprocess, make_parser

_SHAPE = (1489, 2048)


def _simulate(path):
    """Stars and galaxies of the sky as one exposure of SDSS sees them."""
    import torch

    from bliss_astro.simulation import SceneStream, SimulationConfig

    config = SimulationConfig(
        population='sky',
        fields='single',
        n_exposures=(1, 1),
        shape=_SHAPE,
        floor_snr=(3.4, 3.4),
        typical_floor_snr=None,
        star_scale=(1.0, 1.0),
        galaxy_scale=(1.0, 1.0),
    )
    stream = SceneStream(config)
    scene = stream.sample_batch(1, generator=torch.Generator().manual_seed(3))
    np.savez(
        path,
        data=scene.data[0].numpy(),
        psf=scene.psf[0].double().numpy(),
        mask=scene.mask[0].numpy(),
        background=float(scene.background[0]),
        bkg_error=float(scene.bkg_error[0]),
    )


def _exposure(files):
    from bliss_astro.exposures import Exposure
    from bliss_astro.psf import PSFModel

    if files['psfield']:
        return Exposure.from_sdss(files['image'], files['psfield'])
    with np.load(files['image']) as parts:
        return Exposure(
            parts['data'],
            psf=PSFModel.from_shape(parts['psf']),
            background=float(parts['background']),
            bkg_error=float(parts['bkg_error']),
            effective_gain=1.0,
            mask=parts['mask'],
        )


def _run_once(task):
    import warnings

    import torch

    from bliss_astro import detect_sources, reconstruct

    warnings.simplefilter('ignore')
    torch.set_num_threads(task['threads'])
    out = []
    for _ in range(2):
        start = time.perf_counter()
        exposure = _exposure(task['files'])
        catalog = detect_sources(exposure, encoder=task['encoder'])
        found = time.perf_counter()
        result = reconstruct(exposure, catalog)
        chi = np.asarray(result.chi)[~exposure.mask]
        end = time.perf_counter()
        out.append((found - start, end - found))
    center, spread = np.median(chi), 1.4826 * np.median(np.abs(chi - np.median(chi)))
    told = {'n_sources': len(catalog), 'seconds': out}
    told |= {'chi_median': float(center), 'chi_sigma': float(spread)}
    told['shapes'] = 'disk_radius' in catalog.colnames
    print(json.dumps(told))


def main():
    parser = make_parser(__doc__.strip())
    parser.add_argument('--image', help='frame file; simulated if not given')
    parser.add_argument('--psfield')
    parser.add_argument(
        '--encoder', nargs='+', default=['stars-galaxies', 'stars-galaxies-sequence']
    )
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--task', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        _run_once(json.loads(arguments.task))
        return
    report = Report('frame_reconstruction', __doc__.strip(), arguments)
    repeats = 1 if arguments.quick else arguments.repeats
    with tempfile.TemporaryDirectory() as folder:
        files = {'image': arguments.image, 'psfield': arguments.psfield}
        if arguments.image is None:
            files['image'] = str(Path(folder) / 'scene.npz')
            _simulate(files['image'])
        for encoder in arguments.encoder:
            task = {'files': files, 'threads': arguments.threads, 'encoder': encoder}
            runs = [in_subprocess(__file__, task) for _ in range(repeats)]
            _report(report, Path(encoder).stem, runs)
    report.details = {'repeats': repeats, 'image': arguments.image or 'simulated'}
    report.finish()


def _report(report, name, runs):
    seconds = np.array([run['seconds'] for run in runs])
    total = seconds.sum(-1)

    def add(what, values, **goal):
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
        report.add(f'{what}, {name}', values.mean(), error, **goal)

    add('seconds in all, first call', total[:, 0], target='< 10', high=10.0)
    add('seconds in all, second call', total[:, 1], target='< 10', high=10.0)
    add('seconds for the catalogue', seconds[:, 1, 0])
    add('seconds for model and residuals', seconds[:, 1, 1])
    peak = max(run['peak_gb'] for run in runs)
    report.add(f'peak memory in GB, {name}', peak, target='< 2', high=2.0)
    report.add(f'sources, {name}', runs[0]['n_sources'])
    report.add(f'robust sigma of residuals / noise, {name}', runs[0]['chi_sigma'])


if __name__ == '__main__':
    main()
