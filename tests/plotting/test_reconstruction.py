# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the figure of a reconstruction.
"""

import functools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from bliss_astro import Exposure, PSFModel, reconstruct
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.plotting import plot_reconstruction

NOISE = 20.0


class DrawsItself:
    """
    A posterior that is sure.
    """

    shape = (40, 50)

    def sample(self, n=1, *, rng=None):
        return [make_catalog() for _ in range(n)]


def make_catalog(n=3):
    columns = {
        'probability': np.ones(3),
        'x_centroid': [10.0, 30.0, 41.0],
        'y_centroid': [12.0, 25.0, 8.0],
        'x_err': np.full(3, 0.1),
        'y_err': np.full(3, 0.1),
        'flux': [9000.0, 6000.0, 3000.0],
        'flux_err': np.full(3, 100.0),
    }
    return ProbabilisticCatalog.from_columns(
        {name: np.asarray(values)[:n] for name, values in columns.items()},
        image_shape=(40, 50),
        posterior=DrawsItself(),
    )


@functools.cache
def make_result(n=3, **kwargs):
    rng = np.random.default_rng(1)
    light = make_catalog().render(psf=PSFModel())
    mask = np.zeros((40, 50), dtype=bool)
    mask[3, 4] = True
    exposure = Exposure(
        100 + light + NOISE * rng.normal(size=light.shape),
        background=100.0,
        bkg_error=NOISE,
        effective_gain=1e6,
        psf=PSFModel(),
        mask=mask,
    )
    return reconstruct(exposure, make_catalog(n), **kwargs)


def draw(ax):
    FigureCanvasAgg(ax.figure).draw()


def test_shows_image_model_and_residual():
    result = make_result()
    axes = plot_reconstruction(result)
    assert len(axes) == 3
    draw(axes[0])
    titles = [ax.get_title() for ax in axes]
    assert titles == ['Image', 'Model', '(Image - model) / noise']
    shown = [ax.images[0].get_array() for ax in axes]
    good = ~np.isnan(result.chi)
    data = result.exposure.data - 100
    assert_allclose(shown[0][good], data[good] / NOISE, atol=1e-4)
    assert shown[0].mask.sum() == 1
    assert_allclose(shown[1], result.model / NOISE, rtol=1e-6)
    assert_allclose(shown[2][good], result.chi[good])
    # Image and model have one scale, the residual its own.
    assert axes[0].images[0].norm is axes[1].images[0].norm
    assert axes[2].images[0].get_clim() == (-5, 5)
    assert_allclose(np.sort(axes[1].lines[0].get_xdata()), [10, 30, 41])
    assert len(axes[2].figure.axes) == 4


def test_shows_draws():
    result = make_result(n_draws=3, rng=1)
    axes = plot_reconstruction(result)
    assert [ax.get_title() for ax in axes[1:3]] == ['Draw 1', 'Draw 2']
    assert len(plot_reconstruction(result, n_draws=3)) == 6
    assert len(plot_reconstruction(result, n_draws=0)) == 3
    assert_allclose(axes[1].images[0].get_array(), result.draws[0] / NOISE)
    assert len(result.plot(n_draws=1)) == 4


def test_bands_in_colours():
    parts = {'r': make_result(), 'g': make_result(n=1), 'i': make_result(n_draws=1)}
    axes = plot_reconstruction(parts, n_draws=0)
    image, model = (np.ma.filled(ax.images[0].get_array(), 0) for ax in axes[:2])
    assert image.shape == model.shape == (40, 50, 3)
    # The model of g has the first star only, which is as bright in all.
    assert np.ptp(model[12, 10].astype(int)) == 0
    red, green, blue = model[25, 30].astype(int)
    assert red == green > blue + 50
    assert np.ptp(image[25, 30].astype(int)) < 30
    chi = sum(part.chi for part in parts.values()) / np.sqrt(3)
    assert_allclose(axes[2].images[0].get_array().filled(np.nan), chi)
    # Drawn catalogues are needed in all three.
    with pytest.raises(ValueError, match='n_draws must be at most 0'):
        plot_reconstruction(parts, n_draws=1)
    two = {name: parts[name] for name in 'rg'}
    shown = plot_reconstruction(two)[1].images[0].get_array()
    assert_allclose(shown, parts['r'].model / NOISE, rtol=1e-6)


def test_draws_on_given_axes_and_on_parts():
    result = make_result()[5:, 20:]
    axes = Figure().subplots(1, 3)
    drawn = plot_reconstruction(
        result,
        ax=axes,
        mark=True,
        colorbar=False,
        titles=False,
        vmax=30,
        limit=3,
        cmap='cividis',
        residual_cmap='PuOr',
    )
    names = [each.images[0].get_cmap().name for each in axes]
    assert names == ['cividis', 'cividis', 'PuOr']
    assert all(a is b for a, b in zip(drawn, axes, strict=True))
    draw(axes[0])
    assert len(axes[0].figure.axes) == 3
    assert axes[0].images[0].norm.vmax == 30
    assert axes[2].images[0].get_clim() == (-3, 3)
    assert axes[0].get_title() == ''
    # Only those inside are marked, in the pixels of the part.
    assert_allclose(np.sort(axes[1].lines[0].get_xdata()), [10, 21])


def test_galaxies_have_other_marks():
    result = make_result.__wrapped__()
    result.catalog['galaxy_probability'] = [0.9, 0.2, 0.1]
    axes = plot_reconstruction(result)
    stars, galaxies = axes[1].lines
    assert len(stars.get_xdata()) == 2
    assert len(galaxies.get_xdata()) == 1
    assert stars.get_marker() != galaxies.get_marker()
    assert not plot_reconstruction(result, mark=False)[1].lines


def test_empty_catalogues_are_drawn():
    axes = plot_reconstruction(make_result(0))
    draw(axes[0])
    assert not axes[1].images[0].get_array().any()


def test_bad_arguments_are_told():
    result = make_result()
    with pytest.raises(ValueError, match='n_draws must be at most 0'):
        plot_reconstruction(result, n_draws=1)
    with pytest.raises(ValueError, match='ax must be 3 axes'):
        plot_reconstruction(result, ax=Figure().subplots(1, 2))
    for name in ('limit', 'vmax'):
        with pytest.raises(ValueError, match=f'{name} must be positive'):
            plot_reconstruction(result, **{name: 0})
