# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Work of a detection by stage, counted: the same on any machine at any load.

A stage is a list of functions of the package, which are wrapped from outside; what runs
within two of them belongs to the inner one. ``python benchmarks/operations.py`` records
the counts of a small image, which ``tests/test_operations.py`` compares with its own.
"""

import contextlib
import functools
import importlib
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

RECORD = Path(__file__).parents[1] / 'tests' / 'operations.json'
# Modules and functions of each stage, within the package. Where one is renamed,
# split or gone, its successor belongs here.
STAGES = {
    'read': (
        'exposures._read:open_exposure',
        'surveys.sdss._exposure:read_exposure',
    ),
    'estimate': (
        'detection._estimates:prepare_image',
        'detection._inputs:encoder_inputs',
    ),
    'filters': ('encoders._filters:image_planes',),
    'network': (
        'encoders._network:Encoder.inner_features',
        'encoders._network:Encoder.posterior',
    ),
    'candidates': (
        'posteriors._tile_posterior:TilePosterior.decided',
        'posteriors._candidates:find_sources',
        'posteriors._candidates:join_neighbours',
    ),
    'fits': (
        'posteriors._tile_chain:TileChain._fit',
        'posteriors._source_sequence:SourceSequence.fit',
    ),
    'marginals': (
        'posteriors._candidates:_Sweep.describe',
        'posteriors._marginals:SourceMarginals.quantile_flux',
    ),
    'shapes': (
        'posteriors._candidates:_describe_in_sequence',
        'posteriors._candidates:_infer_shapes',
    ),
    'check': ('checks._self_check:self_check',),
    'table': ('catalog._posterior:CatalogPosterior.at_threshold',),
}
OTHER = 'other'
MEASURES = ('operations', 'synchronisations', 'MB', 'MFLOP')

# No kernels on a GPU, beside views.
_FREE = {'empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided'}
_FREE |= {'detach', 'lift_fresh', '_unsafe_view', '_local_scalar_dense'}
# The processor waits for a GPU: numbers and shapes that follow from values.
_SYNCHRONISING = {'_local_scalar_dense', 'nonzero', 'masked_select', 'bincount'}
_SYNCHRONISING |= {'_unique2', 'unique_dim', 'unique_consecutive'}


class Operations(TorchDispatchMode):
    """Totals of `MEASURES`: operations, memory that they touch, products of layers."""

    def __init__(self):
        super().__init__()
        self.totals = np.zeros(len(MEASURES))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.partition('::')[2]
        masks = tree_leaves(args[1]) if name.startswith('index') else ()
        waits = any(getattr(mask, 'dtype', None) == torch.bool for mask in masks)
        self.totals[1] += waits or name in _SYNCHRONISING
        if func.is_view or name in _FREE:
            return out
        values = tree_leaves((args, kwargs, out))
        size = sum(v.nbytes for v in values if isinstance(v, torch.Tensor))
        flops = flop_registry.get(func._overloadpacket, lambda *_, **__: 0)
        self.totals += 1, 0, size / 1e6, flops(*args, **kwargs, out_val=out) / 1e6
        return out


class Calls:
    """Total of the calls of functions, those in C among them."""

    def __init__(self):
        self.totals = np.zeros(1)

    def __enter__(self):
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _count(self, _, event, __):
        self.totals[0] += event in ('call', 'c_call')


class Seconds(contextlib.nullcontext):
    """CPU time of the process."""

    def __enter__(self):
        return self

    @property
    def totals(self):
        """CPU time in seconds, array ``(1,)``."""
        return np.array([time.process_time()])


class _Profile:
    """Increments of a counter's totals within each stage, a dict of arrays."""

    def __init__(self, counter):
        self._counter, self._inside = counter, [OTHER]
        self.stages = dict.fromkeys([*STAGES, OTHER], 0.0)

    def charge(self):
        """Add what was counted since the last time to the stage at work."""
        now = self._counter.totals.copy()
        self.stages[self._inside[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def wrapping(self):
        """Wrap the functions of all stages."""
        with contextlib.ExitStack() as stack:
            for stage, names in STAGES.items():
                for name in names:
                    stack.enter_context(self._wrapped(stage, name))
            self._last = self._counter.totals.copy()
            yield
            self.charge()

    @contextlib.contextmanager
    def _wrapped(self, stage, name):
        module, _, path = name.partition(':')
        *outer, attribute = path.split('.')
        try:
            owner = importlib.import_module(f'bliss_astro.{module}')
            owner = functools.reduce(getattr, outer, owner)
            function = getattr(owner, attribute)
        except (ImportError, AttributeError) as error:
            msg = f'stage {stage!r}: no {name} any more; name its successor in STAGES'
            raise LookupError(msg) from error

        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            self.charge()
            self._inside.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self._inside.pop()

        _replace(owner, attribute, function, wrapped)
        try:
            yield
        finally:
            _replace(owner, attribute, wrapped, function)


def _replace(owner, attribute, old, new):
    """Replace a function in its owner and in all modules that import it."""
    setattr(owner, attribute, new)
    for name, module in list(sys.modules.items()):
        if name.startswith('bliss_astro') and vars(module).get(attribute) is old:
            setattr(module, attribute, new)


def count(kind, function, *args, **kwargs):
    """
    Count what a function does in each stage.

    Parameters
    ----------
    kind : type
        `Operations`, `Calls` or `Seconds`.

    function : callable
        Function to run, with its arguments. It must not start threads.

    Returns
    -------
    totals : dict of array
        Totals of the kind by stage, and what the function returned as ``'result'``.
    """
    # Half precision wherever it is, as on a GPU.
    probe = mock.Mock(return_value=True)
    half = mock.patch.object(torch.cpu, '_is_avx512_bf16_supported', probe, create=True)
    with half, warnings.catch_warnings(), kind() as counter:
        warnings.simplefilter('ignore')
        profile = _Profile(counter)
        with profile.wrapping():
            result = function(*args, **kwargs)
    return profile.stages | {'result': result}


def write_image(path, side, n_sources, *, seed=1):
    """Write an image of round stars and galaxies, the same on any machine."""
    from astropy.io import fits

    rng = np.random.default_rng(seed)
    image = rng.normal(50.0, 1.0, (side, side))
    places, fluxes = rng.uniform(0, side, (n_sources, 2)), rng.pareto(1.5, n_sources)
    pixels = np.arange(side)
    for k, (place, flux) in enumerate(zip(places, 90 * (1 + fluxes), strict=True)):
        width = (1.27, 2.0)[k % 2]
        y, x = np.exp(-0.5 * ((pixels - place[:, None]) / width) ** 2)
        image += flux / (2 * np.pi * width**2) * y[:, None] * x
    fits.writeto(path, image.astype(np.float32))


def detect(path):
    """Detection as it is counted: in one thread."""
    from bliss_astro import detect_sources

    gain = {'effective_gain': 10.0}
    return detect_sources(path, n_threads=1, progress_bar=False, **gain)


def launches(side, n_sources):
    """Operations that a GPU would launch for an image, and synchronisations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'image.fits'
        write_image(path, side, n_sources)
        totals = count(Operations, detect, path)
    del totals['result']
    return sum(totals.values())[:2]


def work_of_small_image():
    """Counts by stage and measure of an image of 128 x 128 pixels with 10 sources."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'image.fits'
        write_image(path, 128, 10)
        # The first run is for what is done once: imports, weights, caches.
        kinds = Seconds, Operations, Calls
        _, work, calls = (count(kind, detect, path) for kind in kinds)
    work = {name: np.append(work[name], calls[name]) for name in [*STAGES, OTHER]}
    names = *MEASURES, 'calls'
    return {
        stage: dict(zip(names, values.round(1).tolist(), strict=True))
        for stage, values in work.items()
    }


def record():
    """Record the counts, and the versions on which they depend."""
    head = {'python': '{}.{}'.format(*sys.version_info), 'torch': torch.__version__}
    values = head | work_of_small_image()
    lines = [f'"{name}": {json.dumps(value)}' for name, value in values.items()]
    RECORD.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
    record()
