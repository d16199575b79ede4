# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Metrics of catalogues: matching, detection scores, residuals, calibration and bounds.

All functions take plain arrays (or tables with the usual column names) and serve any
catalogue; results are tables (`ScoreTable`) that draw themselves with ``.plot()``::

    match_catalogs -> CatalogMatch -> detection_scores       precision, recall, F1
                                   -> flux_residuals, ...    -> summarize_residuals
                                   -> class_scores, roc_curve  stars and galaxies
    truth + posterior              -> posterior_ranks -> rank_uniformity, rank_coverage
                                   -> interval_coverage, count_calibration,
                                      reliability, sharpness -> calibration_report
    PSF + noise                    -> optimal_snr, cramer_rao_bound
    image + PSF + prior            -> exact_star_posterior
    simulated scenes               -> scene_truth -> score_blends, ellipticity_bound
    any statistic + image of a row -> bootstrap_bands
"""

from bliss_astro._deprecated import deprecated_names

from ._blend_scores import score_blends
from ._blends import blendedness, measure_ellipticity, scene_truth, source_snr
from ._bounds import cramer_rao_bound, optimal_snr
from ._coverage import interval_coverage, posterior_ranks, rank_coverage, sharpness
from ._ellipticity_bound import ellipticity_bound
from ._exact import ExactStarPosterior, exact_star_posterior
from ._matching import CatalogMatch, match_catalogs
from ._ranks import rank_uniformity
from ._reliability import count_calibration, reliability
from ._report import CalibrationReport, calibration_report
from ._residuals import flux_residuals, position_residuals, pulls, summarize_residuals
from ._scores import class_scores, detection_scores, roc_curve
from ._statistics import ScoreTable, bootstrap_bands

__all__ = [
    'CalibrationReport',
    'CatalogMatch',
    'ExactStarPosterior',
    'ScoreTable',
    'blendedness',
    'bootstrap_bands',
    'calibration_report',
    'class_scores',
    'count_calibration',
    'cramer_rao_bound',
    'detection_scores',
    'ellipticity_bound',
    'exact_star_posterior',
    'flux_residuals',
    'interval_coverage',
    'match_catalogs',
    'measure_ellipticity',
    'optimal_snr',
    'position_residuals',
    'posterior_ranks',
    'pulls',
    'rank_coverage',
    'rank_uniformity',
    'reliability',
    'roc_curve',
    'scene_truth',
    'score_blends',
    'sharpness',
    'source_snr',
    'summarize_residuals',
]

__getattr__ = deprecated_names(__name__)
