# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the least-squares features, and of marginals across borders.
"""

import types

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.metrics import cramer_rao_bound
from bliss_astro.posteriors import TileGrid, find_sources
from bliss_astro.posteriors._star_fit import Pixels, StarPatches, fit_star, flux_at
from bliss_astro.posteriors._tile_chain import TileChain
from bliss_astro.psf import DEFAULT_SHAPE, GaussianPSF, PSFModel

NOISE = 30.0  # electrons
HALF = 6


def patches_of(x, y, flux, *, noise=None, shape=DEFAULT_SHAPE, rho=(0.0, 0.0)):
    """
    Cut-outs centred on pixel (20, 30), in units of the noise.
    """
    n = len(x)
    vector = torch.tensor(shape).expand(n, 1, 8)[:, :, None, None]
    out = StarPatches(
        data=torch.zeros(n, 1, 2 * HALF + 1, 2 * HALF + 1),
        good=torch.ones(n, 1, 2 * HALF + 1, 2 * HALF + 1),
        psf=GaussianPSF.from_shape(vector),
        gain=torch.full((n, 1, 1, 1), NOISE),
        correlation=torch.tensor(rho).expand(n, 1, 2),
        x=torch.full((n,), 20.0),
        y=torch.full((n,), 30.0),
    )
    model = flux[:, None, None, None] * out.psf(*out.offsets(x, y))
    out.data = model
    if noise is not None:
        out.data = model + noise[:, None] * torch.sqrt(1 + model / NOISE)
    return out


def fluxes_of(patches, x, y):
    """
    Fluxes, errors and chi2 in the only band.
    """
    return [value[:, 0] for value in flux_at(patches, x, y)]


@pytest.fixture
def stars(generator):
    x = 20 + 0.9 * torch.rand(200, generator=generator) - 0.45
    y = 30 + 0.9 * torch.rand(200, generator=generator) - 0.45
    flux = 10 ** (1.5 + 2.5 * torch.rand(200, generator=generator))
    return x, y, flux


class TestFlux:
    def test_without_noise(self, stars):
        x, y, flux = stars
        found, error, chi2 = fluxes_of(patches_of(x, y, flux), x, y)
        assert_allclose(found, flux, rtol=1e-5)
        assert_allclose(chi2, 0, atol=1e-6)
        assert (error > 0).all()

    def test_bad_pixels_are_not_used(self, stars):
        x, y, flux = stars
        patches = patches_of(x, y, flux)
        patches.good[..., 5:7, 6:9] = 0
        patches.data[..., 5:7, 6:9] = 1e5
        found, _, chi2 = fluxes_of(patches, x, y)
        assert_allclose(found, flux, rtol=1e-4)
        assert_allclose(chi2, 0, atol=1e-4)

    def test_nothing_but_bad_pixels(self, stars):
        x, y, flux = stars
        patches = patches_of(x, y, flux)
        patches.good[:] = 0
        for value in (*flux_at(patches, x, y), *fit_star(patches, x, y, 0 * x + 20)):
            assert torch.isfinite(value).all()

    def test_error_is_the_scatter(self, generator):
        n = 3000
        x, y = torch.full((n,), 20.2), torch.full((n,), 29.7)
        flux = torch.full((n,), 300.0)
        noise = torch.randn(n, 13, 13, generator=generator)
        patches = patches_of(x, y, flux, noise=noise)
        found, error, chi2 = fluxes_of(patches, x, y)
        pull = (found - flux) / error
        assert_allclose(pull.std(), 1, atol=5 / np.sqrt(2 * n))
        assert_allclose(chi2.mean(), 168 / 169, atol=0.01)

    def test_correlated_noise_is_told(self, stars):
        # The sum over all lags, 2.25, is the limit of a very wide PSF.
        x, y, flux = stars
        _, plain, _ = flux_at(patches_of(x, y, flux), x, y)
        _, told, _ = flux_at(patches_of(x, y, flux, rho=(0.25, 0.25)), x, y)
        assert (told > 1.4 * plain).all()
        assert (told < 1.5 * plain).all()

    @pytest.mark.parametrize('u', [(0.5, 0.5), (0.3, 0.1)])
    def test_scatter_under_interpolated_noise(self, u):
        n = 3000
        torch.manual_seed(8)
        x, y = 19.5 + torch.rand(2, n) + torch.tensor([[0.0], [10.0]])
        flux = torch.full((n,), 300.0)
        noise, rho = interpolated_noise(n, u)
        patches = patches_of(x, y, flux, rho=rho)
        patches.gain = torch.full((n, 1, 1, 1), 1e9)
        patches.data = patches.data + noise[:, None]
        found, error, _ = fluxes_of(patches, x, y)
        # Four standard errors of a standard deviation.
        assert_allclose(((found - flux) / error).std(), 1, atol=4 / np.sqrt(2 * n))


def interpolated_noise(n, u):
    """
    White noise, linearly interpolated at u, of unit variance.
    """
    noise = torch.randn(n, 2 * HALF + 2, 2 * HALF + 2)
    rho = []
    for axis, part in zip((-1, -2), u, strict=True):
        size = noise.shape[axis] - 1
        first, second = noise.narrow(axis, 0, size), noise.narrow(axis, 1, size)
        variance = (1 - part) ** 2 + part**2
        noise = ((1 - part) * first + part * second) / np.sqrt(variance)
        rho.append(part * (1 - part) / variance)
    return noise, tuple(rho)


class TestFit:
    def test_finds_the_place(self, stars):
        x, y, flux = stars
        patches = patches_of(x, y, flux)
        # Begun half a pixel off; the weak prior pulls faint stars back.
        fx, fy, *_ = fit_star(patches, x + 0.3, y - 0.4, 0 * x + 20)
        bright = flux > 1000
        assert_allclose(fx[bright], x[bright], atol=2e-3)
        assert_allclose(fy[bright], y[bright], atol=2e-3)
        assert ((fx - x).abs() < 0.32).all()

    def test_errors_are_those_of_theory(self):
        x, y, flux = (torch.tensor([v]) for v in (20.1, 29.8, 2000.0))
        patches = patches_of(x, y, flux)
        _, _, error_x, error_y, correlation = fit_star(patches, x, y, 0 * x + 20)
        bound = cramer_rao_bound(
            PSFModel(), float(flux) * NOISE, bkg_error=NOISE, effective_gain=1.0
        )
        errors = [bound['x_err'][0], bound['y_err'][0]]
        # The cut-outs end at 6 pixels, and the weak prior adds what it knows.
        assert_allclose((float(error_x), float(error_y)), errors, rtol=0.02)
        assert abs(float(correlation)) < 0.05

    def test_noise_without_correlation_is_not_correlated(self, stars):
        """
        The short way of white noise is the long one with correlations of nil.
        """
        x, y, flux = stars
        white = patches_of(x, y, flux)
        white.correlated = False
        for fit, more in ((flux_at, ()), (fit_star, (0 * x + 20,))):
            pairs = zip(
                fit(white, x, y, *more),
                fit(patches_of(x, y, flux), x, y, *more),
                strict=True,
            )
            for short, long in pairs:
                assert torch.allclose(short, long, rtol=1e-4, atol=1e-4)

    def test_inclined_stars_have_correlated_errors(self):
        x, y, flux = (torch.tensor([v]) for v in (20.0, 30.0, 1000.0))
        shape = (*DEFAULT_SHAPE[:6], 0.0, 0.2)
        *_, correlation = fit_star(patches_of(x, y, flux, shape=shape), x, y, 0 * x + 9)
        assert correlation > 0.1

    def test_nothing_there(self, generator):
        n = 500
        x, y = torch.full((n,), 20.0), torch.full((n,), 30.0)
        noise = torch.randn(n, 13, 13, generator=generator)
        patches = patches_of(x, y, 0 * x, noise=noise)
        fx, fy, error_x, _, _ = fit_star(patches, x, y, 0 * x + 20)
        assert (fx - x).abs().max() < 2.5
        assert (fy - y).abs().max() < 2.5
        assert (error_x < 0.51).all()


@pytest.fixture(scope='module')
def bundled():
    return Encoder.from_pretrained('stars')


def exposure_of(x, y, flux, *, seed=1, size=40):
    """
    One star without company, on a sky of 865 electrons.
    """
    star = PSFModel(flux=flux, x_0=x, y_0=y)
    yy, xx = np.mgrid[:size, :size]
    mean = star(xx, yy) + 865
    rng = np.random.default_rng(seed)
    data = (mean + rng.normal(size=mean.shape) * np.sqrt(mean) - 865) / np.sqrt(865)

    def constant(*values):
        return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)

    image = torch.as_tensor(data, dtype=torch.float32)[None, None]
    return EncoderInputs(
        image=image,
        mask=torch.zeros_like(image, dtype=torch.bool),
        log_noise=constant(np.log(np.sqrt(865)))[:, None],
        correlation=constant(0.0, 0.0)[:, None],
        psf=constant(*DEFAULT_SHAPE)[:, None],
        log_density=constant(np.log(3 / 1600)),
        log_flux_floor=constant(np.log(622 / np.sqrt(865))),
    )


# The centre of a tile, an edge, a corner; tile edges lie at 3.5 + 4 k.
PLACES = [(21.5, 21.5), (19.5, 21.5), (21.5, 19.52), (19.49, 19.51), (19.5, 19.5)]


class TestMarginals:
    @pytest.mark.parametrize(('x', 'y'), PLACES)
    def test_one_star_is_found_once(self, bundled, x, y):
        flux = 2e4
        sources = find_sources(bundled(exposure_of(x, y, flux)))
        sure = sources.select(sources.probability > 0.5)
        assert len(sure) == 1
        assert sure.probability[0] > 0.95
        assert_allclose(sure.x.mean(), x, atol=0.25)
        assert_allclose(sure.y.mean(), y, atol=0.25)
        median = 622 * float(sure.quantile_flux(0.5).exp())
        assert_allclose(median, flux, rtol=0.08)

    def test_probabilities_and_quantiles(self, tiny):
        sources = find_sources(tiny.posterior, n_draws=32)
        assert len(sources) > 3
        assert (sources.probability > 0).all()
        assert (sources.probability <= 1 + 1e-6).all()
        assert torch.isfinite(sources.x).all()
        quantiles = [sources.quantile_flux(q) for q in (0.05, 0.5, 0.95)]
        assert (quantiles[0] <= quantiles[1]).all()
        assert (quantiles[1] <= quantiles[2]).all()
        assert (quantiles[0] >= 0).all()

    def test_deterministic(self, tiny):
        one, same = (find_sources(tiny.posterior, n_draws=32) for _ in range(2))
        assert torch.equal(one.probability, same.probability)
        assert torch.equal(one.x, same.x)
        assert torch.equal(one.flux, same.flux)

    def test_fits_of_the_sweep_are_kept(self, tiny):
        """
        Candidates that the sweep has fitted have the same fits anew.
        """
        kept = find_sources(tiny.posterior, n_draws=32)
        tiles = tuple(getattr(kept, name) for name in ('image', 'row', 'column'))
        _, where = tiny.posterior.known_fits(0, tiles)
        assert (where >= 0).any()
        part = tiny.posterior.select(list(range(len(tiny.posterior))))
        part._fits = {}
        anew = find_sources(part, n_draws=32)
        assert torch.allclose(kept.x, anew.x, rtol=1e-5, atol=1e-4)
        assert torch.allclose(kept.flux, anew.flux, rtol=1e-3, atol=1e-3)

    def test_one_by_one(self, tiny):
        """
        An image's sources do not depend on the rest of its batch.
        """
        together = find_sources(tiny.posterior, n_draws=32)
        values = {}
        for name in ('image', 'mask', 'log_noise', 'correlation', 'psf', 'log_density'):
            values[name] = getattr(tiny.inputs, name)[1:2]
        values['log_flux_floor'] = tiny.inputs.log_flux_floor[1:2]
        alone = find_sources(tiny.encoder(EncoderInputs(**values)), n_draws=32)
        same = together.select(together.image == 1)
        assert len(same) == len(alone)
        assert_allclose(same.probability, alone.probability, atol=1e-4)

    def test_fluxes_of_what_is_of_interest_alone(self, tiny):
        all_of_them = find_sources(tiny.posterior, n_draws=32)
        some = find_sources(tiny.posterior, n_draws=32, least=0.5)
        likely = all_of_them.probability >= 0.5
        assert 0 < likely.sum() < len(likely)
        use = some.probability >= 0.5
        assert torch.equal(some.flux[use], all_of_them.flux[likely])
        assert torch.equal(torch.stack(some.place(), 1), some.centre)
        assert some.flux[~use].isnan().all()
        assert not some.flux[use].isnan().any()

    def test_chains_one_behind_the_other(self, tiny):
        """
        The rows of a chain that follows another are those of each alone.
        """
        tiles = tuple(torch.tensor([[0, 1, 1], [2, 3, 1], [1, 0, 2]]))
        posterior, one = tiny.posterior, torch.ones(3, dtype=torch.long)
        catalog, _ = posterior.decided()
        hidden = posterior.hidden_given(catalog)[tiles[0], :, tiles[1], tiles[2]]
        chain = posterior.source_chain(0, tiles, hidden, one, catalog)
        both = chain.followed_by(chain)
        q, row = torch.rand(3, 3), torch.tensor([3, 1, 5])
        position = both.position.quantile_draw(q, row)
        assert torch.allclose(position, chain.position.quantile_draw(q), atol=1e-6)
        flux = both.packed_flux(row, position)
        assert torch.allclose(flux, chain.flux(position).packed(), atol=1e-4)

    def test_chains_are_fitted_together(self, tiny):
        """
        Fits of several chains at once are those of each.
        """
        tiles = tuple(torch.tensor([[0, 1, 1], [2, 3, 1], [1, 0, 2]]))
        posterior, two = tiny.posterior, torch.full((3,), 2)
        catalog, _ = posterior.decided()
        hidden = posterior.hidden_given(catalog)[tiles[0], :, tiles[1], tiles[2]]

        def chains():
            given = tiles, hidden, two, catalog
            return [posterior.source_chain(place, *given) for place in (0, 1)]

        both = chains()
        TileChain.fit_together(both)
        for chain, alone in zip(both, chains(), strict=True):
            assert chain.fit.keys() == alone.fit.keys()
            for name in chain.fit.keys() - {'patches'}:
                assert torch.allclose(chain.fit[name], alone.fit[name], atol=1e-5)

    def test_an_empty_image(self, bundled):
        inputs = exposure_of(20, 20, 0.0)
        sources = find_sources(bundled(inputs))
        assert not (sources.probability > 0.5).any()
        assert len(sources.quantile_flux(0.5)) == len(sources)


@pytest.mark.parametrize('u', [(0.0, 0.0), (0.5, 0.5), (0.4, 0.1)])
def test_position_errors_under_interpolated_noise(u):
    # 100 sigma, so that the weak prior around the start does not matter.
    n = 3000
    torch.manual_seed(9)
    x, y = 19.6 + 0.8 * torch.rand(2, n) + torch.tensor([[0.0], [10.0]])
    flux = torch.full((n,), 700.0)
    noise, rho = interpolated_noise(n, u)
    patches = patches_of(x, y, flux, rho=rho)
    patches.gain = torch.full((n, 1, 1, 1), 1e9)
    patches.data = patches.data + noise[:, None]
    start = torch.full((n,), 20.0), torch.full((n,), 30.0)
    fx, fy, error_x, error_y, _ = fit_star(patches, *start, 0 * x + 3.0)
    tolerance = 4 / np.sqrt(2 * n)
    assert_allclose(((fx - x) / error_x).std(), 1, atol=tolerance)
    assert_allclose(((fy - y) / error_y).std(), 1, atol=tolerance)
    if sum(u):
        # A position is told by differences, in which smooth noise is weaker
        # than the sum of its correlations says.
        _, _, white, *_ = fit_star(patches_of(x, y, flux), x, y, 0 * x + 3.0)
        assert (error_x < np.sqrt(np.prod(1 + 2 * np.array(rho))) * white).all()


def test_cut_outs_are_squares_of_the_padded_image(generator):
    image = torch.randn(2, 3, 21, 33, generator=generator)
    present = torch.ones(2, 3, dtype=torch.bool)
    inputs = types.SimpleNamespace(image=image, mask=image > 2, present=present)
    pixels = Pixels(inputs, TileGrid((21, 33), 4), 6)
    images = torch.tensor([0, 1, 1, 0])
    # Beyond both ends too.
    x, y = torch.tensor([3.4, 32.6, -50, 80.0]), torch.tensor([0.2, 20.7, 60, -40.0])
    for radius in (6, 4):
        cx, cy = pixels.centres(x, y, radius)
        side, low = torch.arange(-radius, radius + 1), pixels.pad
        rows, columns = ((v[:, None] + low + side) for v in (cy, cx))
        for part in (pixels.image, pixels.good):
            found = pixels.cut(part, images, cx, cy, radius)
            for k, image in enumerate(images):
                expected = part[image][:, rows[k, :, None], columns[k]]
                assert torch.equal(found[k], expected)
