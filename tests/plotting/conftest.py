# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fixtures of the figures: no screen, no traces, axes of their own.
"""

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def _no_traces():
    """
    Draw without a screen, and check that settings survive.
    """
    from matplotlib import pyplot as plt

    plt.switch_backend('Agg')
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    plt.close('all')


@pytest.fixture
def ax():
    """
    Axes that are not registered with pyplot.
    """
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.add_subplot()
