# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fixtures and guards for all tests.
"""

import dataclasses
import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

# Threads are pinned before any test runs: results of float32 reductions
# depend on them, and so does the time on a machine that others share.
# Of several processes (pytest -n) each has one.
_N_THREADS = 1 if 'PYTEST_XDIST_WORKER' in os.environ else 2
torch.set_num_threads(min(_N_THREADS, int(os.environ.get('OMP_NUM_THREADS', '2') or 2)))


def pytest_make_parametrize_id(config, val, argname):
    """
    Name contents of files by their argument: bytes may hold the time of day
    (gzip writes it), and all processes of pytest-xdist must collect the same names.
    """
    return argname if isinstance(val, bytes) else None


def _shared_data_folder():
    """
    Return the folder with real survey files, or `None` where there is none.
    """
    named = os.environ.get('BLISS_ASTRO_SHARED_DATA')
    if named:
        folder = Path(named)
    else:
        folder = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    return folder if folder.is_dir() else None


@pytest.fixture(scope='session')
def shared_data():
    """
    Give the folder with real survey files; skip the test where it is absent.
    """
    folder = _shared_data_folder()
    if folder is None:
        pytest.skip('no survey files here; set BLISS_ASTRO_SHARED_DATA to a folder')
    return folder


@pytest.fixture
def rng():
    """
    Give a NumPy generator with a fixed seed.
    """
    return np.random.default_rng(20221121)


@pytest.fixture
def generator():
    """
    Give a torch generator with a fixed seed, on the CPU.
    """
    return torch.Generator().manual_seed(20221121)


@pytest.fixture(scope='session')
def encoder_of_bands():
    """
    An encoder of several bands that has shipped weights of one band.

    What bands add to its network begins at nothing; colours are those of the fits and
    of the prior.
    """
    from bliss_astro.encoders import Encoder
    from bliss_astro.training._encoder import start_from

    one = Encoder.from_pretrained('stars-galaxies-sequence')
    own = {'bands': True, 'shapes_only': True}
    encoder = Encoder(dataclasses.replace(one.config, **own))
    start_from(encoder, 'stars-galaxies-sequence')
    encoder.card = one.card | {'encoder': dataclasses.asdict(encoder.config)}
    return encoder.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _global_state_unchanged():
    """
    Fail a test that changes state of NumPy or torch that others share.

    Torch's global generator is the exception, as building a layer draws its
    weights from it: it is seeded before each test and put back after it.
    """
    torch_before = torch.random.get_rng_state()
    torch.default_generator.manual_seed(0)
    before = _global_state()
    yield
    after = _global_state()
    # Undone first, so that one bad test does not fail all that follow it.
    torch.random.set_rng_state(torch_before)
    torch.set_default_dtype(before["torch's default dtype"])
    torch.set_grad_enabled(before["torch's gradient switch"])
    changed = [what for what in before if before[what] != after[what]]
    assert not changed, f'the test changed {", ".join(changed)}'


def _global_state():
    """
    Collect what every test has to leave as it found it.
    """
    _, key, position, *_ = np.random.get_state()  # noqa: NPY002
    return {
        "NumPy's global random state": (key.tobytes(), position),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient switch": torch.is_grad_enabled(),
        'the argument validation of torch distributions': (
            torch.distributions.Distribution._validate_args
        ),
    }


def pytest_collection_finish():
    """
    Leave what was imported out of garbage collection, which would look at it each time.
    """
    gc.collect()
    gc.freeze()
