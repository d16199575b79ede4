# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the figures: what is drawn where, and what is left alone.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.table import QTable
from astropy.wcs import WCS
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

from bliss_astro.exposures import Exposure, ExposureSet
from bliss_astro.metrics import (
    detection_scores,
    interval_coverage,
    match_catalogs,
    rank_coverage,
    summarize_residuals,
)
from bliss_astro.plotting import (
    _axes,
    plot_catalog,
    plot_coverage,
    plot_precision_recall,
    plot_probability_map,
    plot_residuals,
)


@pytest.fixture
def image():
    image = np.random.default_rng(1).normal(size=(30, 40))
    image[3, 4] = np.nan
    return image


@pytest.fixture
def catalog():
    return QTable(
        {
            'x_centroid': [5.0, 20.0],
            'y_centroid': [6.0, 10.0],
            'probability': [0.6, 0.9],
            'x_err': [0.2, 0.1],
            'y_err': [0.1, 0.1],
            'x_y_cov': [0.0, 0.005],
        }
    )


@pytest.fixture
def wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval = 323.0, -1.0
    wcs.wcs.cdelt = -1e-4, 1e-4
    return wcs


def ellipses(ax):
    return [c for c in ax.collections if isinstance(c, EllipseCollection)]


class TestCatalog:
    def test_new_figure(self, image, catalog):
        ax = plot_catalog(image, catalog, truth=[(5, 6)], error_scale=10)
        assert ax.get_xlim() == (-0.5, 39.5)
        assert ax.get_ylim() == (-0.5, 29.5)
        assert ax.get_xlabel() == 'x (pixel)'
        circles, errors = ellipses(ax)
        assert_allclose(circles.get_array(), [0.6, 0.9])
        assert circles.get_clim() == (0, 1)
        assert_allclose(circles.get_offsets(), [(5, 6), (20, 10)])
        assert_allclose(circles.get_widths(), 5)
        # Covariance (0.01, 0.005; 0.005, 0.01): axes sqrt(0.015), sqrt(0.005), 45 deg.
        assert_allclose(errors.get_widths(), [4, 20 * np.sqrt(0.015)])
        assert_allclose(errors.get_heights(), [2, 20 * np.sqrt(0.005)])
        assert_allclose(errors.get_angles(), [0, 45], atol=1e-9)
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == ['detected', 'error ellipse x 10', 'true', 'masked']
        assert len(ax.figure.axes) == 2
        ax.figure.canvas.draw()

    @pytest.mark.parametrize(
        ('threshold', 'least'), [(0.5, 0.5), (0.95, 0.6), (0.05, 0.0), ('high', 0.0)]
    )
    def test_colours_begin_at_the_threshold(self, ax, image, catalog, threshold, least):
        catalog.meta['threshold'] = threshold
        plot_catalog(image, catalog, ax=ax)
        assert ellipses(ax)[0].get_clim() == (least, 1)

    def test_legend_where_there_is_something_to_explain(self, ax, image, catalog):
        plot_catalog(image, catalog, ax=ax)
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == ['detected', 'masked']
        assert plot_catalog(np.nan_to_num(image), catalog).get_legend() is None
        options = {'legend': False, 'cmap': 'cividis', 'probability_cmap': 'viridis'}
        ax = plot_catalog(image, catalog, **options)
        assert ax.get_legend() is None
        assert ax.images[0].get_cmap().name == 'cividis'
        assert ellipses(ax)[0].get_cmap().name == 'viridis'

    def test_given_axes(self, ax, image, catalog):
        from matplotlib import pyplot as plt

        assert plot_catalog(image, catalog, ax=ax, colorbar=False) is ax
        assert plt.get_fignums() == []
        assert ax.figure.axes == [ax]

    def test_wcs(self, image, catalog, wcs):
        ax = plot_catalog(CCDData(image, unit='adu', wcs=wcs), catalog)
        assert ax.coords[0].get_axislabel() == 'Right ascension'
        ax.figure.canvas.draw()
        assert hasattr(plot_catalog(image, catalog, wcs=wcs), 'coords')

    def test_bad_pixels(self, ax, image, catalog):
        plot_catalog(CCDData(image, unit='adu', mask=image > 2), catalog, ax=ax)
        mask = ax.images[0].get_array().mask
        assert mask.sum() == 1 + (image > 2).sum()

    @pytest.mark.parametrize('stretch', ['asinh', 'linear', 'log', 'sqrt'])
    def test_stretch(self, ax, image, catalog, stretch):
        plot_catalog(image * u.nJy, catalog, ax=ax, stretch=stretch, percentile=(5, 90))
        norm = ax.images[0].norm
        good = image[np.isfinite(image)]
        assert_allclose([norm.vmin, norm.vmax], np.percentile(good, [5, 90]))
        assert np.all(np.diff(norm(np.linspace(norm.vmin, norm.vmax, 9))) > 0)

    @pytest.mark.parametrize(
        'empty', [[], QTable({'x_centroid': [], 'y_centroid': []})]
    )
    def test_empty_catalog(self, ax, image, empty):
        plot_catalog(image, empty, ax=ax, truth=[])
        ax.figure.canvas.draw()

    def test_flat_and_all_bad_images(self, catalog):
        for value in (0.0, np.nan):
            ax = plot_catalog(np.full((9, 9), value), catalog)
            ax.figure.canvas.draw()

    def test_integers_and_positions(self, ax):
        plot_catalog(np.arange(12).reshape(3, 4), [(1, 1)], ax=ax)
        assert ellipses(ax)[0].get_array() is None

    def test_errors(self, image, catalog):
        with pytest.raises(ValueError, match='data must be a 2D image'):
            plot_catalog(np.zeros(3), catalog)
        with pytest.raises(ValueError, match='catalog lacks the column'):
            plot_catalog(image, QTable({'x': [1.0]}))
        with pytest.raises(ValueError, match='truth must have the shape'):
            plot_catalog(image, catalog, truth=[(1, 2, 3)])
        with pytest.raises(ValueError, match='stretch must be one of'):
            plot_catalog(image, catalog, stretch='cubic')
        with pytest.raises(ValueError, match='percentile must be'):
            plot_catalog(image, catalog, percentile=(99, 1))
        with pytest.raises(ValueError, match='radius must be positive'):
            plot_catalog(image, catalog, radius=-1)
        with pytest.raises(ValueError, match='needs a catalog with the columns'):
            plot_catalog(image, [(1, 1)], error_scale=2)


class TestColours:
    @pytest.fixture
    def bands(self):
        """
        Bands with a source each, of another noise and sky.
        """
        rng = np.random.default_rng(2)
        bands = {}
        for k, name in enumerate('rugi'):
            scale = 10.0**k
            bands[name] = 7 * scale + rng.normal(0, scale, (30, 40))
            bands[name][5, 5 + 8 * k] += 200 * scale
        bands['g'][20, 30] = np.nan
        return bands

    def test_reference_band_and_its_neighbours(self, bands, catalog):
        ax = plot_catalog(bands, catalog)
        shown = np.ma.filled(ax.images[0].get_array(), 0)
        assert shown.shape == (30, 40, 3)
        # Sources of r, g, i; the one of u is in none.
        for column, channel in ((5, 1), (21, 2), (29, 0)):
            assert shown[5, column].argmax() == channel
            assert shown[5, column].max() > 200
        assert shown[5, 13].max() < 120
        # The sky is grey, whatever its level and noise are.
        sky = shown[10:, :25].mean((0, 1))
        assert_allclose(sky, sky.mean(), rtol=0.1)
        assert_allclose(shown[20, 30] / 255, to_rgb(_axes.BAD_PIXELS), atol=0.01)
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == ['detected', 'masked']

    def test_chosen_bands(self, bands, catalog):
        ax = plot_catalog(bands, catalog, bands='uri')
        shown = np.ma.filled(ax.images[0].get_array(), 0)
        assert shown[5, 13].argmax() == 0
        assert shown[5, 29].argmax() == 2
        for wrong in ('ri', 'riz'):
            with pytest.raises(ValueError, match='bands must be three of r, u, g, i'):
                plot_catalog(bands, catalog, bands=wrong)
        with pytest.raises(ValueError, match='bands must be left out'):
            plot_catalog(bands['r'], catalog, bands='gri')

    def test_less_than_three(self, bands, catalog):
        two = {name: bands[name] for name in 'rg'}
        shown = plot_catalog(two, catalog).images[0].get_array()
        assert_allclose(shown, bands['r'])

    def test_set_of_exposures(self, bands, catalog, wcs):
        images = {
            name: Exposure(image, bkg_error=1.0, effective_gain=4.0, wcs=wcs)
            for name, image in bands.items()
        }
        ax = plot_catalog(ExposureSet(images), catalog)
        assert hasattr(ax, 'coords')
        assert ax.images[0].get_array().shape == (30, 40, 3)

    def test_images_that_do_not_fit(self, bands, catalog):
        with pytest.raises(ValueError, match='images of one shape'):
            plot_catalog(bands | {'i': np.zeros((9, 9))}, catalog)
        with pytest.raises(ValueError, match='data must have a band'):
            plot_catalog({}, catalog)


class TestProbabilityMap:
    def test_pixels_of_the_image(self, ax, catalog):
        values = np.random.default_rng(2).uniform(size=(5, 8))
        plot_probability_map(values, tile_size=4, catalog=catalog, ax=ax)
        assert ax.get_xlim() == (-0.5, 31.5)
        assert ax.images[0].get_extent() == [-0.5, 31.5, -0.5, 19.5]
        assert ax.images[0].get_clim() == (0, 1)

    def test_expected_counts(self, wcs):
        ax = plot_probability_map([[0.5, 2.5]], wcs=wcs, label='Expected count')
        assert ax.images[0].get_clim() == (0, 2.5)
        assert ax.figure.axes[1].get_ylabel() == 'Expected count'
        ax.figure.canvas.draw()

    def test_errors(self):
        with pytest.raises(ValueError, match='must be a 2D map'):
            plot_probability_map([0.1])
        with pytest.raises(ValueError, match='must not be negative'):
            plot_probability_map([[-0.1]])
        with pytest.raises(ValueError, match='tile_size must be positive'):
            plot_probability_map([[0.1]], tile_size=0)


class TestMetrics:
    def test_precision_recall(self, ax):
        match = match_catalogs([(0, 0), (5, 5)], [(0, 0), (8, 8)])
        scores = detection_scores(
            match, [18, 20, 22, 24], estimated=[19, 21], truth=[19, 21]
        )
        plot_precision_recall(scores, ax=ax)
        plot_precision_recall(scores, ax=ax, which='f1', label='mine', color='k')
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == [
            'Precision (by estimated magnitude)',
            'Recall (by true magnitude)',
            'mine: F1',
        ]
        assert_allclose(ax.lines[0].get_xydata(), [(19, 1), (21, 0)])
        assert ax.get_xlim() == (18, 24)
        assert ax.get_xlabel() == 'Magnitude'
        plot_precision_recall(scores).figure.canvas.draw()
        with pytest.raises(ValueError, match='which must be among'):
            plot_precision_recall(scores, which='accuracy')
        everything = detection_scores(match, estimated=[19, 21], truth=[19, 21])
        with pytest.raises(ValueError, match='must have finite bins'):
            plot_precision_recall(everything)

    def test_residuals(self, ax):
        by, residuals = np.array([[18.5, 18.6, 19.5], [0.1, 0.2, 0.0]])
        summary = summarize_residuals(residuals, [18, 19, 20, 21], by=by)
        plot_residuals(summary, ax=ax, by=by, residuals=residuals, label='stars')
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == ['stars: 25-75 %', 'stars: median']
        plot_residuals(summary).figure.canvas.draw()
        with pytest.raises(ValueError, match='given together'):
            plot_residuals(summary, by=by)

    def test_residuals_of_nothing(self):
        summary = summarize_residuals([], [18, 19], by=[])
        plot_residuals(summary).figure.canvas.draw()

    def test_coverage(self, ax):
        ranks = np.random.default_rng(0).uniform(size=100)
        coverage = rank_coverage(ranks, groups=ranks > 0.5)
        plot_coverage(coverage, ax=ax, label=['faint', 'bright'])
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == ['faint', 'bright']
        plot_coverage(coverage).figure.canvas.draw()
        plot_coverage(rank_coverage([])).figure.canvas.draw()
        with pytest.raises(ValueError, match='label must name 2 groups'):
            plot_coverage(coverage, label='all')
        with pytest.raises(ValueError, match='no nominal level'):
            plot_coverage(interval_coverage([1], [0], [2]))
