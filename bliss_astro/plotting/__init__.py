# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of catalogues, probability maps and metrics.

Every function draws on the ``ax`` that it is given, or on a new figure, and returns the
axes; none shows or saves anything or changes a setting of matplotlib. The colours are
those of Okabe and Ito, which people with colour-vision deficiencies can distinguish.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _calibration='plot_calibration plot_coverage',
    _checks='plot_check plot_completeness plot_reconstruction',
    _images='plot_catalog plot_probability_map',
    _metrics='plot_blend_scores plot_precision_recall plot_residuals',
)
