# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Batches for training, each drawn while the network learns from the one before.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor, wait

import torch


class Batches:
    """
    Batches of a function that draws them by a generator, in the order of the draws.

    Parameters
    ----------
    draw : callable
        Function without arguments that returns a batch.

    generator : `torch.Generator`
        Source of its randomness, and of nothing else while batches are drawn ahead.

    Attributes
    ----------
    state : tensor
        State of the generator before the next batch, whether that is drawn already or
        not. To set it forgets what was drawn.
    """

    def __init__(self, draw, generator):
        self._draw, self._generator = draw, generator
        # Thread that draws ahead; the state before the batch that it draws, and the
        # future of that.
        self._pool = self._ahead = None

    @contextlib.contextmanager
    def ahead(self):
        """
        Draw the next batch meanwhile, in one of torch's threads.

        Where there is one alone, there is none to spare.
        """
        number = torch.get_num_threads()
        if number == 1:
            yield
            return
        torch.set_num_threads(number - 1)
        own = {'initializer': torch.set_num_threads, 'initargs': (1,)}
        try:
            with ThreadPoolExecutor(1, **own) as self._pool:
                yield
        finally:
            self.state, self._pool = self.state, None
            torch.set_num_threads(number)

    @property
    def state(self):
        if self._ahead is None:
            return self._generator.get_state()
        return self._ahead[0]

    @state.setter
    def state(self, state):
        if self._ahead is not None:
            wait([self._ahead[1]])
            self._ahead = None
        self._generator.set_state(state)

    def take(self, *, last=False):
        """The next batch; unless it is the last one, that after it is begun."""
        if self._pool is None:
            return self._draw()
        if self._ahead is None:
            self._begin()
        batch, self._ahead = self._ahead[1].result(), None
        if not last:
            self._begin()
        return batch

    def _begin(self):
        state = self._generator.get_state()
        self._ahead = state, self._pool.submit(self._draw)
