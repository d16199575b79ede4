# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Work of a detection by stage, counted: the same on any machine at any load.

A stage is a list of functions of the package, which are wrapped from outside; what runs
within two of them belongs to the inner one. ``tests/test_operations.py`` compares the
counts of a small image with recorded ones.
"""

import contextlib
import functools
import importlib
import sys
import time
import warnings
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Modules and functions of each stage, within the package. Where one is renamed, split
# or gone, its successor belongs here.
STAGES = {
    'read': 'exposures._read:open_exposure surveys.sdss._exposure:read_exposure',
    'estimate': 'detection._estimates:prepare_image detection._inputs:encoder_inputs',
    'filters': 'encoders._filters:image_planes',
    'network': 'encoders._network:Encoder.stem '
    'encoders._network:Encoder.inner_features encoders._network:Encoder.posterior',
    'candidates': 'posteriors._candidates:find_sources posteriors._candidates:'
    'join_neighbours posteriors._tile_posterior:TilePosterior.decided',
    'fits': 'posteriors._tile_chain:TileChain._cut_out '
    'posteriors._tile_chain:TileChain._fit_tiles '
    'posteriors._source_sequence:SourceSequence.fit',
    'marginals': 'posteriors._candidates:_Sweep.describe '
    'posteriors._marginals:SourceMarginals.quantile_flux',
    'shapes': 'posteriors._candidates:_describe_in_sequence '
    'posteriors._candidates:_infer_shapes',
    'check': 'checks._self_check:self_check checks._self_check:render_rows',
    'table': 'catalog._posterior:CatalogPosterior.at_threshold',
}
OTHER = 'other'
MEASURES = ('operations', 'synchronisations', 'MB touched', 'MFLOP of layers')

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
        self.stages = {k: np.zeros_like(counter.totals) for k in (*STAGES, OTHER)}

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
                for name in names.split():
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
        `Operations`, `Seconds` or another context with running ``totals``.

    function : callable
        Function to run, with its arguments. It must not start threads.

    Returns
    -------
    totals : dict of array
        Totals of the kind by stage.
    """
    # Counts are those of half precision on any machine.
    name = '_is_avx512_bf16_supported'
    probe = getattr(torch.cpu, name, None) if kind is Seconds else (lambda: True)
    half = mock.patch.object(torch.cpu, name, probe, create=True)
    with half, warnings.catch_warnings(action='ignore'), kind() as counter:
        profile = _Profile(counter)
        with profile.wrapping():
            function(*args, **kwargs)
    return profile.stages
