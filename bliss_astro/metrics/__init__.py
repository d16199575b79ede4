# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
How good is a catalogue: matching, detection, residuals, calibration, bounds.

All functions work on plain arrays (or on tables with the usual column names), need
numpy, scipy and astropy only, and never look inside a network::

    match_catalogs -> CatalogMatch -> detection_scores       precision, recall, F1
                                   -> flux_residuals, ...    -> summarize_residuals
                                   -> class_scores, roc_curve  stars and galaxies
    truth + posterior              -> interval_coverage, rank_coverage, mean_log_score
                                   -> rank_uniformity, count_calibration,
                                      reliability, sharpness -> calibration_report
    PSF + noise                    -> optimal_snr, cramer_rao_bound
    image + PSF + prior            -> exact_star_posterior
    simulated scenes               -> scene_truth -> score_blends, ellipticity_bound
    any statistic + image of a row -> bootstrap_bands
"""

from ._blend_scores import *
from ._blends import *
from ._bootstrap import *
from ._bounds import *
from ._calibration import *
from ._classification import *
from ._counts import *
from ._coverage import *
from ._detection import *
from ._ellipticity_bound import *
from ._exact import *
from ._findings import *
from ._matching import *
from ._ranks import *
from ._reliability import *
from ._report import *
from ._residuals import *
from ._roc import *
from ._sharpness import *
