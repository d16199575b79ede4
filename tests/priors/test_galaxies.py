# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the prior of galaxies, and of number counts.
"""

import astropy.units as u
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.priors import (
    GALAXY_SHAPE_NAMES,
    CatalogPrior,
    GalaxyPrior,
    GammaShapes,
    MagnitudeCounts,
    MagnitudeShapes,
    ParetoCounts,
)
from bliss_astro.units import SDSS_PIXEL_SCALE

stats = pytest.importorskip('scipy.stats')

# Sample size of the KS tests: a distribution function that is off by 1 % fails.
N = 30_000

SHAPES = {
    'magnitude': (16.0, 24.0),
    'log_radius': (0.6, -0.4),
    'radius_scatter': (0.1, 0.3),
    'disk_share': (0.1, 0.5),
    'bulge_share': (0.4, 0.2),
    'bulge_to_disk': (-0.2, 0.1),
    'disk_axis_ratio': (0.5, 1.1),
    'bulge_axis_ratio': (0.8, 0.7),
}


def agrees(values, reference):
    return stats.kstest(np.asarray(values, float), reference).pvalue > 1e-3


class TestPaperPrior:
    # Patel et al. 2025, table 1, and the code published with it.
    flux = stats.truncpareto(1.561, 1000, loc=-3.29, scale=3.9248)
    disk = stats.gamma(0.393, loc=0.837, scale=4.432)
    bulge = stats.gamma(0.393, loc=0.419, scale=2.216)

    @pytest.fixture
    def draws(self, generator):
        return GalaxyPrior().sample_batch((N,), generator=generator)

    def test_flux(self, draws):
        assert agrees(draws[0], self.flux.cdf)
        assert draws[0].min() >= 0.6348 * (1 - 1e-5)

    @pytest.mark.parametrize('name', GALAXY_SHAPE_NAMES)
    def test_shapes(self, draws, name):
        reference = {
            'disk_radius': self.disk.cdf,
            'bulge_radius': self.bulge.cdf,
            'angle': stats.uniform(0, np.pi).cdf,
        }.get(name, stats.uniform(0, 1).cdf)
        assert agrees(draws[1][:, GALAXY_SHAPE_NAMES.index(name)], reference)

    def test_all_independent(self, draws):
        ranks = np.column_stack([draws[0], draws[1]])
        correlation = stats.spearmanr(ranks).statistic - np.eye(7)
        # 21 pairs, each with a standard error of 1 / sqrt(N).
        assert np.abs(correlation).max() < 4 / np.sqrt(N)

    def test_shares_of_large_disks(self, draws):
        radius = draws[1][:, 4].numpy()
        for limit, share in ((6.3, 0.085), (12.7, 0.014)):
            # papers: 8.5 % and 1.4 %, to their last digit.
            assert_allclose((radius > limit).mean(), share, atol=0.006)

    def test_stars(self, generator):
        unit = torch.rand(N, generator=generator)
        reference = stats.truncpareto(0.469, 1000, loc=-0.553, scale=1.185)
        assert agrees(ParetoCounts().flux_quantile(unit), reference.cdf)


COUNTS = [
    ParetoCounts(density=0.01),
    ParetoCounts(density=1.0, slope=1.561, loc=-3.29, scale=3.9248),
    MagnitudeCounts((14, 18, 20, 24), (0.0, 2.4, 2.4, 3.0)),
    MagnitudeCounts((15, 20, 25), (3.0, 2.0, 2.5)),
]


@pytest.mark.parametrize('counts', COUNTS, ids=lambda c: type(c).__name__)
class TestCounts:
    def test_quantile_is_the_inverse(self, counts):
        unit = torch.linspace(1e-4, 1, 501)
        flux = counts.flux_quantile(unit)
        assert (flux.diff() <= 0).all()
        share = counts.density_above(flux) / counts.density
        assert_allclose(share, unit, atol=3e-6)

    def test_ends(self, counts):
        assert_allclose(counts.density_above(counts.flux_min), counts.density)
        assert_allclose(counts.density_above(1e-9), counts.density)
        assert counts.density_above(0.0) == pytest.approx(counts.density)
        assert abs(counts.density_above(1.0001 * counts.flux_max)) < 1e-12
        ends = counts.flux_quantile(torch.tensor([1.0, 0.0]))
        assert_allclose(ends, [counts.flux_min, counts.flux_max], rtol=2e-4)

    def test_cut(self, counts, generator):
        # Above a cut the draws are those of the whole that lie above it.
        cut = 3 * counts.flux_min
        unit = torch.rand(2, N, generator=generator)
        whole = counts.flux_quantile(unit[0])
        above = counts.flux_quantile(unit[1], torch.tensor(cut))
        assert above.min() >= cut * (1 - 1e-5)
        kept = whole[whole > cut]
        assert stats.ks_2samp(kept, above).pvalue > 1e-3
        share = counts.density_above(cut) / counts.density
        error = np.sqrt(share * (1 - share) / N)
        assert_allclose(len(kept) / N, share, atol=4 * error)

    def test_images_with_their_own_cuts(self, counts, generator):
        cut = torch.tensor([1.0, 5.0, 30.0])[:, None] * counts.flux_min
        flux = counts.flux_quantile(torch.rand(3, 50, generator=generator), cut)
        assert (flux >= cut * (1 - 1e-5)).all()
        tensor = counts.density_above(cut)
        numbers = [counts.density_above(float(c)) for c in cut[:, 0]]
        assert_allclose(tensor[:, 0], numbers, rtol=1e-5)


class TestMagnitudeCounts:
    def test_density_is_the_integral(self):
        counts = MagnitudeCounts((14, 18, 20, 24), (0.0, 2.4, 2.4, 3.0))
        mag = np.linspace(14, 24, 200_001)
        log_n = np.interp(mag, counts.magnitude, counts.log_density)
        total = np.trapezoid(10**log_n, mag)
        pixels = (3600 / SDSS_PIXEL_SCALE) ** 2
        assert_allclose(counts.density * pixels, total, rtol=1e-6)
        bright = mag <= 19
        part = np.trapezoid(10 ** log_n[bright], mag[bright])
        cut = 10 ** (0.4 * (22.5 - 19))
        assert_allclose(counts.density_above(cut) * pixels, part, rtol=1e-4)

    def test_slope(self):
        # Euclidean: four times fainter, eight times as many.
        counts = MagnitudeCounts((10, 25), (0.0, 9.0))
        ratio = counts.density_above(1.0) / counts.density_above(4.0)
        assert_allclose(ratio, 8, rtol=1e-3)


class TestMagnitudeShapes:
    def draw(self, mag, generator, **changes):
        shapes = MagnitudeShapes(**SHAPES | changes)
        flux = torch.full((N,), 10 ** (0.4 * (22.5 - mag)))
        return shapes.sample_batch(flux, generator=generator).double().numpy()

    @pytest.mark.parametrize('mag', [13.0, 16.0, 20.0, 24.0, 26.0])
    def test_radius(self, generator, mag):
        galaxy = self.draw(mag, generator, radius_range=(1e-3, 1e3))
        fraction, disk, bulge = galaxy[:, 0], galaxy[:, 4], galaxy[:, 5]
        log_r = fraction * np.log10(disk) + (1 - fraction) * np.log10(bulge)
        mean = np.interp(mag, (16, 24), SHAPES['log_radius'])
        scatter = np.interp(mag, (16, 24), SHAPES['radius_scatter'])
        assert agrees(log_r, stats.norm(mean, scatter).cdf)
        assert agrees(np.log10(bulge / disk), stats.norm(-0.2, 0.1).cdf)

    def test_radius_is_truncated_and_does_not_pile_up(self, generator):
        galaxy = self.draw(20.0, generator, radius_range=(0.9, 1.5), disk_share=(1, 1),
                           bulge_share=(0, 0))  # fmt: skip
        reference = stats.truncnorm(
            (np.log10(0.9) - 0.1) / 0.2, (np.log10(1.5) - 0.1) / 0.2, 0.1, 0.2
        )
        assert agrees(np.log10(galaxy[:, 4]), reference.cdf)

    @pytest.mark.parametrize('mag', [16.0, 20.0, 24.0])
    def test_shares(self, generator, mag):
        fraction = self.draw(mag, generator)[:, 0]
        for pure, name in ((1.0, 'disk_share'), (0.0, 'bulge_share')):
            share = np.interp(mag, (16, 24), SHAPES[name])
            error = np.sqrt(share * (1 - share) / N)
            assert_allclose((fraction == pure).mean(), share, atol=4 * error)
        between = fraction[(fraction > 0) & (fraction < 1)]
        assert agrees(between, stats.uniform(0, 1).cdf)

    def test_axis_ratios(self, generator):
        galaxy = self.draw(20.0, generator, axis_ratio_min=1e-4)
        logits = [np.log(q / (1 - q)) for q in galaxy[:, 2:4].T]
        assert agrees(logits[0], stats.norm(0.5, 1.1).cdf)
        assert agrees(logits[1], stats.norm(0.8, 0.7).cdf)
        # Standard error of a correlation: (1 - rho**2) / sqrt(N).
        rho = np.corrcoef(logits)[0, 1]
        assert_allclose(rho, 0.95, atol=4 * (1 - 0.95**2) / np.sqrt(N))

    def test_all_are_valid(self, generator):
        shapes = MagnitudeShapes(**SHAPES)
        flux = 10 ** torch.empty(N).uniform_(-1, 4, generator=generator)
        galaxy = shapes.sample_batch(flux, generator=generator)
        assert galaxy.isfinite().all()
        assert ((galaxy[:, 0] >= 0) & (galaxy[:, 0] <= 1)).all()
        assert ((galaxy[:, 1] >= 0) & (galaxy[:, 1] < np.pi)).all()
        assert ((galaxy[:, 2:4] >= 0.05) & (galaxy[:, 2:4] <= 1)).all()
        assert ((galaxy[:, 4:] >= 0.1 * (1 - 1e-6)) & (galaxy[:, 4:] <= 15)).all()


class TestTable:
    def test_units(self):
        galaxies = GalaxyPrior().sample(5, rng=1)
        assert galaxies.colnames == ['flux', *GALAXY_SHAPE_NAMES]
        assert galaxies['flux'].unit == u.nmgy
        assert galaxies['angle'].unit == u.rad
        assert galaxies['bulge_radius'].unit == u.arcsec
        assert (galaxies['flux'] == GalaxyPrior().sample(5, rng=1)['flux']).all()

    def test_none(self):
        assert len(GalaxyPrior().sample(0, rng=1)) == 0


def test_reproducible():
    prior = CatalogPrior.sky().galaxies
    one, same, other = (
        prior.sample_batch((4, 3), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[1], other[1])
    assert one[1].shape == (4, 3, 6)


@pytest.mark.parametrize('thing', [*COUNTS, GammaShapes(), MagnitudeShapes(**SHAPES)])
def test_repr_round_trip(thing):
    assert eval(repr(thing)) == thing


@pytest.mark.parametrize(
    ('make', 'arguments', 'message'),
    [
        (ParetoCounts, {'density': -1.0}, 'density must be'),
        (ParetoCounts, {'slope': 0.0}, 'slope must be'),
        (ParetoCounts, {'ratio': 1.0}, 'ratio must be'),
        (ParetoCounts, {'loc': -3.29, 'scale': 3.29}, 'smallest flux, must be'),
        (GammaShapes, {'disk_loc': 0.0}, 'disk_loc must be positive'),
        (GammaShapes, {'concentration': np.nan}, 'concentration must be'),
        (MagnitudeCounts, {'magnitude': (1,), 'log_density': (1,)}, 'magnitude must'),
        (
            MagnitudeCounts,
            {'magnitude': (20, 19), 'log_density': (1, 2)},
            'magnitude must be at least two increasing',
        ),
        (
            MagnitudeCounts,
            {'magnitude': (19, 20), 'log_density': (1, 2, 3)},
            'log_density must be 2 finite numbers',
        ),
        (MagnitudeShapes, SHAPES | {'radius_range': (0, 1)}, 'radius_range must be'),
        (MagnitudeShapes, SHAPES | {'disk_share': (0.9, 0.9)}, 'sum is at most 1'),
        (MagnitudeShapes, SHAPES | {'radius_scatter': (0.1, 0)}, 'radius_scatter must'),
        (MagnitudeShapes, SHAPES | {'axis_ratio_min': 0}, 'axis_ratio_min must'),
        (MagnitudeShapes, SHAPES | {'axis_correlation': 2}, 'axis_correlation must'),
        (MagnitudeShapes, SHAPES | {'bulge_to_disk': (0.0,)}, 'bulge_to_disk must'),
    ],
)
def test_errors(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'counts': 3}, 'counts must be ParetoCounts or MagnitudeCounts; got int'),
        ({'shapes': None}, 'shapes must be GammaShapes or MagnitudeShapes'),
    ],
)
def test_wrong_parts(arguments, message):
    with pytest.raises(TypeError, match=message):
        GalaxyPrior(**arguments)
