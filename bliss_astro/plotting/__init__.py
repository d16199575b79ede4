# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of catalogues, probability maps and metrics.

Every function draws on the ``ax`` that it is given, or on a new figure, and returns the
axes; none shows or saves anything or changes a setting of matplotlib. The colours are
those of Okabe and Ito, which people with colour-vision deficiencies can distinguish.
"""

from bliss_astro._deprecated import deprecated_names

from ._calibration import plot_calibration, plot_coverage, plot_ranks, plot_reliability
from ._checks import plot_check, plot_completeness, plot_reconstruction
from ._images import plot_catalog, plot_probability_map
from ._metrics import plot_blend_scores, plot_precision_recall, plot_residuals

__all__ = [
    'plot_blend_scores',
    'plot_calibration',
    'plot_catalog',
    'plot_check',
    'plot_completeness',
    'plot_coverage',
    'plot_precision_recall',
    'plot_probability_map',
    'plot_ranks',
    'plot_reconstruction',
    'plot_reliability',
    'plot_residuals',
]

__getattr__ = deprecated_names(__name__)
