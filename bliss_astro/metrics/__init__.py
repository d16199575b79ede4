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
                                      reliability, sharpness -> CalibrationReport
    PSF + noise                    -> optimal_snr, cramer_rao_bound
    image + PSF + prior            -> ExactStarPosterior
    simulated scenes               -> scene_truth -> score_blends, ellipticity_bound
    any statistic + image of a row -> bootstrap_bands
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _blend_scores='score_blends',
    _blends='blendedness ellipticity_bound scene_truth',
    _bounds='cramer_rao_bound optimal_snr',
    _coverage='interval_coverage rank_coverage reliability sharpness',
    _exact='ExactStarPosterior',
    _inputs='ScoreTable bootstrap_bands',
    _matching='CatalogMatch match_catalogs',
    _ranks='posterior_ranks rank_uniformity',
    _report='CalibrationReport',
    _residuals='count_calibration flux_residuals pulls summarize_residuals',
    _scores='class_scores detection_scores roc_curve',
)
