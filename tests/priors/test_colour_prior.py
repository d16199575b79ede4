# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the prior of colours: samples, densities, conditionals and the fit.
"""

import dataclasses
import json
import math
import types

import numpy as np
import pytest
import torch
from astropy.table import Table
from numpy.testing import assert_allclose

from bliss_astro.priors import ColourMixture, ColourPrior

MAGNITUDE = 0.4 * math.log(10)
ALL = list('ugrizy')


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope='module')
def prior():
    return ColourPrior.default()


def draw(prior, generator, magnitude, galaxy, bands, reference=0, n=20_000):
    magnitude = torch.full((n,), float(magnitude))
    is_galaxy = torch.full((n,), galaxy)
    drawn = prior.sample(magnitude, is_galaxy, bands, reference, generator=generator)
    return drawn.double().numpy() / -MAGNITUDE


def test_double_precision(prior, generator):
    magnitude = torch.linspace(17, 24, 40, dtype=torch.float64)
    which = torch.arange(40) % 2 > 0
    ratio = prior.sample(magnitude, which, list('gri'), 1, generator=generator)
    given = magnitude, which, list('gri'), 1
    found = prior.log_prob(ratio.double(), *given)
    assert found.dtype == torch.float64
    plain = prior.log_prob(ratio.float(), magnitude.float(), *given[1:])
    assert_allclose(found, plain, atol=1e-3)
    mean, cov = prior.conditional(*given, log_ratio=ratio.double())
    assert mean.isfinite().all()
    assert cov.isfinite().all()


def simple():
    """Stars of one Gaussian, galaxies of two."""
    rng = np.random.default_rng(1)
    rows = np.tril_indices(6)
    factors = np.tril(0.1 * rng.normal(size=(3, 6, 6))) + 0.3 * np.eye(6)
    means = [[1.0, -1.0, -0.5, 0.2, 0.3, 0.4], [2.0, -0.4, 0.1, 0.2, 0.2, 0.2]]
    stars = ColourMixture([0.0], means[:1], factors[:1, *rows])
    galaxies = ColourMixture([-0.5, -1.0], means, factors[1:, *rows])
    return ColourPrior(stars, galaxies, ColourPrior.default().bands)


class TestSample:
    def test_shapes(self, prior, generator):
        magnitude, is_galaxy = torch.full((3, 4), 20.0), torch.eye(3, 4).bool()
        drawn = prior.sample(magnitude, is_galaxy, ['r', 'g'], generator=generator)
        assert drawn.shape == (3, 4, 2)
        assert not drawn[..., 0].any()
        assert drawn[..., 1].all()
        assert prior.sample(magnitude, is_galaxy[0], ['r', 'g']).shape == (3, 4, 2)
        none = prior.sample(magnitude[:0], is_galaxy[:0], ['r', 'g'])
        assert none.shape == (0, 4, 2)

    def test_reproducible(self, prior):
        draws = [
            draw(prior, torch.Generator().manual_seed(3), 20, True, ALL, n=5)
            for _ in range(2)
        ]
        assert_allclose(*draws, rtol=0)

    def test_subset_is_marginal(self, prior, generator):
        whole = draw(prior, generator, 21, True, ALL, 2)
        part = draw(prior, generator, 21, True, ['g', 'r', 'z'], 'r')
        quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
        one, two = (np.quantile(v, quantiles, 0) for v in (whole[:, [1, 2, 4]], part))
        assert_allclose(one, two, atol=0.04)

    def test_reference_outside_of_the_bands(self, prior, generator):
        inside = draw(prior, generator, 20, False, ['i', 'g', 'z'])
        outside = draw(prior, generator, 20, False, ['g', 'z'], 'i')
        assert_allclose(np.median(inside[:, 1:], 0), np.median(outside, 0), atol=0.03)

    def test_band_of_another_survey(self, prior, generator):
        # A band between g and r has colours between theirs.
        band = types.SimpleNamespace(wavelength=540.0)
        colour = draw(prior, generator, 20, False, ['r', band, 'g'])
        middle = np.median(colour, 0)
        assert 0.3 * middle[2] < middle[1] < 0.7 * middle[2]
        # It is not exactly their interpolation, as r itself is.
        same = types.SimpleNamespace(wavelength=prior.bands['g'])
        rest = colour[:, 1] - np.polyval(
            np.polyfit(colour[:, 2], colour[:, 1], 1), colour[:, 2]
        )
        assert 0.02 < rest.std() < 0.1
        colour = draw(prior, generator, 20, False, ['r', same, 'g'])
        assert (colour[:, 1] - colour[:, 2]).std() < 0.01

    def test_faintest_and_brightest(self, prior, generator):
        for beyond, end in zip((5, 40), prior.magnitude_range, strict=True):
            pair = [draw(prior, generator, m, True, ['r', 'g']) for m in (beyond, end)]
            assert_allclose(*(np.median(v, 0) for v in pair), atol=0.03)

    @pytest.mark.parametrize(
        ('bands', 'reference', 'message'),
        [
            ([], 0, 'bands must be at least one'),
            (['q'], 0, r"bands must be names \(u, g, r, .*got 'q'"),
            (['g', 'r'], 2, 'reference must be the index of one of 2 bands'),
            (['g', 'r'], 'w', 'bands must be names'),
        ],
    )
    def test_bad_bands(self, prior, bands, reference, message):
        one = torch.ones(1)
        with pytest.raises(ValueError, match=message):
            prior.sample(one, one > 0, bands, reference)


class TestSky:
    """
    The shipped prior against published colours.
    """

    # Covey et al. 2007, AJ 134, 2398, table 1: g - i, u - g, r - i, i - z.
    LOCUS = (
        (0.4, 1.07, 0.10, 0.01),
        (0.8, 1.56, 0.21, 0.08),
        (1.6, 2.53, 0.45, 0.24),
        (2.0, 2.61, 0.65, 0.35),
        (2.4, 2.59, 0.98, 0.52),
        (2.8, 2.62, 1.36, 0.72),
    )

    @pytest.mark.parametrize('magnitude', [18, 20, 22])
    def test_stellar_locus(self, prior, generator, magnitude):
        u, g, r, i, z = draw(prior, generator, magnitude, False, 'ugriz', 2).T
        for g_i, *expected in self.LOCUS:
            near = np.abs(g - i - g_i) < 0.05
            middle = [np.median(v[near]) for v in (u - g, r - i, i - z)]
            assert np.abs(np.subtract(middle, expected))[1:].max() < 0.04
            # Faint stars are metal-poor, with less absorption in u.
            assert -0.15 < middle[0] - expected[0] < 0.06

    def test_juric_locus(self, prior, generator):
        # Juric et al. 2008, ApJ 673, 864, equation 4.
        g, r, i = draw(prior, generator, 20, False, 'gri', 1).T
        for r_i in (0.2, 0.5, 1.0, 1.4):
            expected = np.polyval([-4.9, -2.45, -1.68, -0.05], r_i)
            near = np.abs(r - i - r_i) < 0.02
            assert_allclose(np.median(g[near]), 1.39 * (1 - np.exp(expected)), atol=0.1)

    def test_quasars(self, prior, generator):
        # Ultraviolet excess: a few percent of faint point sources at high latitudes.
        for magnitude, low, high in ((16, 0, 0.01), (20, 0.02, 0.07), (21, 0.02, 0.09)):
            u, g, r, _ = draw(prior, generator, magnitude, False, 'ugri', 2).T
            share = np.mean((u - g < 0.6) & (g - r < 0.6))
            assert low <= share < high

    def test_bimodal_galaxies(self, prior, generator):
        # Strateva et al. 2001: u - r = 2.22 divides red from blue galaxies.
        u, g, r = draw(prior, generator, 17, True, 'ugr', 2).T
        red = u - r > 2.22
        assert 0.35 < red.mean() < 0.65
        assert_allclose(np.median((g - r)[red]), 0.88, atol=0.12)
        assert_allclose(np.median((g - r)[~red]), 0.52, atol=0.12)
        density, edges = np.histogram(u - r, np.arange(1, 3.4, 0.2))
        valley = density[np.searchsorted(edges, 2.1) - 1]
        assert valley < 0.8 * min(density[edges[:-1] < 2].max(), density[-6:].max())

    def test_faint_galaxies_are_bluer(self, prior, generator):
        colours = [
            np.median(draw(prior, generator, m, True, 'rg')[:, 1]) for m in (20, 22, 24)
        ]
        assert colours[0] > colours[1] > colours[2] + 0.3

    def test_reddest_and_bluest_by_reference(self, prior, generator):
        # At a given faint magnitude in g galaxies are bluer than at that in z.
        by_g, by_z = (
            np.median(-np.diff(draw(prior, generator, 22, True, 'gz', k), axis=1))
            for k in (0, 1)
        )
        assert by_g < by_z - 0.2


class TestDensity:
    @pytest.mark.parametrize('galaxy', [True, False])
    def test_integral(self, prior, galaxy):
        at = torch.linspace(-8, 8, 16_001)
        ratio = torch.stack([0 * at, at], -1)
        same = torch.ones_like(at)
        density = prior.log_prob(ratio, 20 * same, same > (not galaxy), ['r', 'g'])
        assert_allclose(torch.trapezoid(density.exp(), at), 1, atol=1e-3)

    def test_against_scipy(self):
        stats = pytest.importorskip('scipy.stats')
        prior = simple()
        _, mean, cov = (part[0] for part in prior.stars.arrays())
        # Log fluxes of r, g and i, of which i is the reference.
        to_flux = np.array([[1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0]])
        mean, cov = to_flux @ mean, to_flux @ cov @ to_flux.T
        joint = stats.multivariate_normal(mean, cov)
        alone = stats.norm(mean[2], math.sqrt(cov[2, 2]))
        ratio, flux = torch.tensor([[0.3, -0.4, 0.0]]), 1.5
        magnitude = torch.tensor([22.5 - flux / MAGNITUDE])
        expected = joint.logpdf(ratio[0].numpy() + flux) - alone.logpdf(flux)
        found = prior.log_prob(ratio, magnitude, magnitude < 0, list('rgi'), 2)
        assert_allclose(found, expected, atol=2e-3)

    def test_samples_are_most_probable(self, prior, generator):
        magnitude, is_galaxy = 16 + 9 * torch.rand(5000), torch.rand(5000) < 0.5
        draws = prior.sample(magnitude, is_galaxy, ALL, 2, generator=generator)
        own, other, shifted = (
            prior.log_prob(ratio, magnitude, which, ALL, 2)
            for ratio, which in (
                (draws, is_galaxy),
                (draws, ~is_galaxy),
                (draws + 0.3 * torch.randn(6), is_galaxy),
            )
        )
        assert own.mean() > other.mean() + 1
        assert own.mean() > shifted.mean() + 1

    def test_no_plausible_colour_is_outside(self, prior):
        # u-r, g-r, i-r, z-r, y-r of an emission line in one band, of dust, of white and
        # of brown dwarfs; the last ones are no galaxies.
        colours = torch.tensor(
            [
                [0.3, 0.2, -0.8, -0.1, -0.1],
                [4.5, 2.2, -1.2, -1.8, -2.1],
                [-0.5, -0.4, 0.3, 0.6, 0.8],
                [4.0, 2.0, -2.5, -4.2, -5.2],
            ]
        )
        ratio, magnitude = -MAGNITUDE * colours, torch.full((4,), 21.0)
        for which in (magnitude < 0, torch.arange(4) < 2):
            own = prior.log_prob(ratio, magnitude, which, list('ugizy'), 'r')
            assert own.min() > -14


class TestConditional:
    def test_moments_of_samples(self, prior, generator):
        for galaxy in (True, False):
            where = torch.tensor([20.0]), torch.tensor([galaxy]), list('gri'), 1
            mean, cov = prior.conditional(*where)
            draws = draw(prior, generator, 20, galaxy, list('gri'), 1, 100_000)
            assert_allclose(mean[0], -MAGNITUDE * draws.mean(0), atol=0.02)
            expected = MAGNITUDE**2 * np.cov(draws.T)
            assert_allclose(cov[0], expected, atol=0.03)

    def test_against_the_formula(self):
        prior = simple()
        magnitude, star = torch.tensor([20.0]), torch.tensor([False])
        _, cov = prior.conditional(magnitude, star, list('rgi'))
        mean, _ = prior.conditional(magnitude, star, list('rgi'))
        ratio = torch.tensor([[0.0, 0.4, 9.0]])
        error = torch.tensor([[0.0, 0.2, 0.1]])
        measured = torch.tensor([[False, True, False]])
        given = prior.conditional(
            magnitude,
            star,
            list('rgi'),
            log_ratio=ratio,
            error=error,
            measured=measured,
        )
        gain = cov[0, :, 1] / (cov[0, 1, 1] + 0.04)
        assert_allclose(given[0][0], mean[0] + gain * (0.4 - mean[0, 1]), atol=1e-5)
        assert_allclose(given[1][0], cov[0] - torch.outer(gain, cov[0, 1]), atol=1e-5)

    def test_as_measured_without_errors(self, prior, generator):
        magnitude, galaxy = torch.full((50,), 20.0), torch.arange(50) < 25
        ratio = prior.sample(magnitude, galaxy, ALL, 2, generator=generator)
        mean, cov = prior.conditional(magnitude, galaxy, ALL, 2, log_ratio=ratio)
        assert_allclose(mean, ratio, atol=2e-3)
        assert cov.diagonal(dim1=1, dim2=2).max() < 1e-3

    def test_calibrated(self, prior, generator):
        # u of galaxies from g and i is as far off as the covariance says.
        n = 4000
        magnitude, galaxy = torch.full((n,), 20.5), torch.ones(n, dtype=torch.bool)
        bands = list('rgiu')
        ratio = prior.sample(magnitude, galaxy, bands, generator=generator)
        error = torch.full_like(ratio, 0.05)
        noisy = ratio + 0.05 * torch.randn(ratio.shape, generator=generator)
        measured = torch.tensor([False, True, True, False]).expand(n, -1)
        mean, cov = prior.conditional(
            magnitude, galaxy, bands, log_ratio=noisy, error=error, measured=measured
        )
        pull = (ratio - mean)[:, 3] / cov[:, 3, 3].sqrt()
        assert_allclose(pull.pow(2).mean(), 1, atol=0.1)
        before = prior.conditional(magnitude[:1], galaxy[:1], bands)[1][0, 3, 3]
        assert cov[:, 3, 3].mean() < 0.5 * before

    def test_interpolated_reference(self):
        # The scatter of the reference is common to its flux and to all ratios.
        prior, band = simple(), types.SimpleNamespace(wavelength=540.0)
        _, _, cov = (part[0] for part in prior.stars.arrays())
        share = np.log(540 / 468.5) / np.log(616.8 / 468.5)
        scatter = 0.3 * min(np.log(540 / 468.5), np.log(616.8 / 540))
        # Log fluxes of the reference and of g over the coordinates.
        rows = np.zeros((2, 6))
        rows[:, 0], rows[:, 2] = 1, (1 - share, 1)
        cov = rows @ cov @ rows.T + np.diag([scatter**2, 0])
        slope = (cov[0, 1] - cov[0, 0]) / cov[0, 0]
        magnitude = torch.tensor([20.0, 22.0])
        found, _ = prior.conditional(magnitude, magnitude < 0, ['g'], band)
        expected = slope * -2 * MAGNITUDE
        assert_allclose(found[1] - found[0], expected, atol=1e-4)


class TestBulges:
    def test_redder_than_disks(self, prior, generator):
        share = torch.full((10_000,), 0.6)
        drawn = prior.disk_fractions(share, list('rguz'), generator=generator)
        assert_allclose(drawn[:, 0], 0.6, rtol=1e-6)
        assert (drawn > 0).all()
        assert (drawn < 1).all()
        middle = drawn.median(0).values
        assert middle[3] < 0.6 < middle[1] < middle[2]
        # Colour of the bulge less that of the disk in g - r.
        excess = torch.log(drawn[:, 1] / (1 - drawn[:, 1]) * 0.4 / 0.6) / MAGNITUDE
        assert 0.05 < excess.median() < 0.3
        assert 0.02 < (excess < 0).float().mean() < 0.3

    def test_ends(self, prior):
        ends = torch.tensor([0.0, 1.0])
        drawn = prior.disk_fractions(ends, ['r', 'g'])
        assert_allclose(drawn, [[0, 0], [1, 1]])


def catalogue(n=1500, seed=1):
    """Stars and galaxies with errors, in g, r and i, some without i."""
    rng = np.random.default_rng(seed)
    galaxy = rng.random(n) < 0.5
    r = rng.uniform(17, 22, n)
    g_r = np.where(galaxy, 0.9 + 0.1 * (r - 20), 0.4) + 0.15 * rng.normal(size=n)
    r_i = np.where(galaxy, 0.4, 0.1) + 0.5 * (g_r - 0.6) + 0.05 * rng.normal(size=n)
    table = Table({'mag_g': r + g_r, 'mag_r': r, 'mag_i': r - r_i})
    for name in ('mag_g', 'mag_r', 'mag_i'):
        error = rng.uniform(0.05, 0.2, n)
        table[name] += error * rng.normal(size=n)
        table[f'{name}_err'] = error
    table['mag_i'][::7] = np.nan
    table['is_galaxy'] = galaxy
    return table


class TestFit:
    def test_deconvolved(self, generator):
        options = {'n_components': 2, 'outlier_fraction': 1e-3, 'n_iterations': 60}
        prior = ColourPrior.fit(catalogue(), bands=['g', 'r', 'i'], **options)
        for r in (18, 21):
            for galaxy in (True, False):
                colour = draw(prior, generator, r, galaxy, list('rgi'))[:, 1:]
                g_r = 0.9 + 0.1 * (r - 20) if galaxy else 0.4
                r_i = (0.4 if galaxy else 0.1) + 0.5 * (g_r - 0.6)
                middle = np.median(colour, 0)
                assert_allclose(middle, [g_r, -r_i], atol=0.05)
                low, high = np.quantile(colour[:, 0], [0.16, 0.84])
                assert_allclose((high - low) / 2, 0.15, atol=0.05)

    def test_slope_of_the_counts(self, generator):
        # With steep counts galaxies of a given magnitude in g are fainter, bluer ones.
        middle = []
        for slope in (0.0, 1.0):
            options = {'n_components': 2, 'n_iterations': 20, 'slopes': (0.0, slope)}
            prior = ColourPrior.fit(catalogue(), bands=['g', 'r', 'i'], **options)
            colour = draw(prior, generator, 20.5, True, ['g', 'r'])[:, 1]
            middle.append(np.median(colour))
        # By ln(10) times the slope and the variance of the colour at a magnitude.
        assert_allclose(middle[1] - middle[0], math.log(10) * 0.15**2, atol=0.02)

    def test_bands_of_two_surveys(self, generator):
        table = catalogue()
        for name in ('mag_g', 'mag_g_err'):
            table[f'mag_b{name[5:]}'] = np.where(
                np.arange(1500) % 2, table[name], np.nan
            )
            table[name][1::2] = np.nan
        blue = types.SimpleNamespace(wavelength=468.5)
        bands = {'g': 'g', 'r': 'r', 'i': 'i', 'b': blue}
        prior = ColourPrior.fit(table, bands=bands, n_components=2, n_iterations=30)
        middle = np.median(draw(prior, generator, 20, True, ['r', 'g']), 0)[1]
        assert_allclose(middle, 0.9, atol=0.05)

    def test_bad_tables(self):
        table = catalogue(30)
        with pytest.raises(ValueError, match='hold at least 80 stars for a fit; got'):
            ColourPrior.fit(table, bands=['g', 'r', 'i'])
        with pytest.raises(ValueError, match=r'lacks the column\(s\) mag_z'):
            ColourPrior.fit(table, bands=['g', 'z'])
        with pytest.raises(TypeError, match='table must be'):
            ColourPrior.fit({}, bands=['g', 'r'])
        for bands, error, message in (
            (3, TypeError, 'bands must be a list of names; got int'),
            (['g'], ValueError, 'bands must be two or more'),
            ({'g': 'g', 'r': 'g'}, ValueError, 'bands must be two or more'),
        ):
            with pytest.raises(error, match=message):
                ColourPrior.fit(table, bands=bands)


class TestFiles:
    def test_round_trip(self, prior, tmp_path):
        prior.save(tmp_path / 'colours.json')
        for again in (
            ColourPrior.load(tmp_path / 'colours.json'),
            ColourPrior.from_dict(json.loads(json.dumps(prior.to_dict()))),
        ):
            for field in dataclasses.fields(prior):
                assert getattr(again, field.name) == getattr(prior, field.name)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'stars': None}, 'must be a dict'),
            ({'planets': 1}, 'have no keys but'),
            ({'bands': {'g': 1.0}}, 'bands must be'),
        ],
    )
    def test_bad_numbers(self, prior, change, message):
        with pytest.raises((ValueError, TypeError), match=message):
            ColourPrior.from_dict(prior.to_dict() | change)

    def test_bad_mixtures(self):
        with pytest.raises(ValueError, match='factor must have 3 numbers a row; got 2'):
            ColourMixture([0.0], [[1.0, 2.0]], [[1.0, 2.0]])
        with pytest.raises(ValueError, match='log_weight must be finite'):
            ColourMixture([0.0, np.nan], [[1.0]] * 2, [[1.0]] * 2)
