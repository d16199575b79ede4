# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the prior of stars and galaxies, and of its fit to a catalogue.
"""

import dataclasses
import json

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import MaskedColumn, Table
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
from bliss_astro.surveys.sdss import stripe82_columns
from bliss_astro.units import SDSS_PIXEL_SCALE

stats = pytest.importorskip('scipy.stats')

PIXELS_PER_DEG2 = (3600 / SDSS_PIXEL_SCALE) ** 2
PRIORS = {'npe': CatalogPrior(), 'sky': CatalogPrior.sky()}


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]


class TestPaperPrior:
    def test_numbers(self, generator):
        prior = CatalogPrior()
        # Patel et al. 2025: 6.25e-4 per pixel, of which 0.514 are galaxies.
        assert_allclose(prior.star_density() + prior.galaxy_density(), 6.25e-4)
        assert_allclose(prior.galaxy_density() / 6.25e-4, 0.514)
        assert_allclose(prior.flux_min, 0.632)
        batch = prior.sample_batch(3000, (80, 80), generator=generator)
        n = batch.count.sum().item()
        assert_allclose(n / 3000, 4, atol=4 * np.sqrt(4 / 3000))
        assert_allclose(batch.is_galaxy.sum() / n, 0.514, atol=4 * np.sqrt(0.25 / n))
        reference = stats.truncpareto(0.469, 1000, loc=-0.553, scale=1.185)
        stars = batch.flux[(batch.flux > 0) & ~batch.is_galaxy].double().numpy()
        assert stats.kstest(stars, reference.cdf).pvalue > 1e-3
        # 80 pixels: radii are in pixels here.
        radius = batch.galaxy[batch.is_galaxy][:, 4].double().numpy() * SDSS_PIXEL_SCALE
        reference = stats.gamma(0.393, loc=0.837, scale=4.432)
        assert stats.kstest(radius, reference.cdf).pvalue > 1e-3


class TestBatch:
    def test_counts_are_poisson(self, prior, generator):
        n = 4000
        batch = prior.sample_batch(n, (60, 60), flux_min=1.0, generator=generator)
        stars = ((batch.flux > 0) & ~batch.is_galaxy).sum(1)
        for count, density in (
            (stars, prior.star_density(1.0)),
            (batch.is_galaxy.sum(1), prior.galaxy_density(1.0)),
        ):
            mean = 3600 * density
            count = count.double()
            assert_allclose(count.mean(), mean, atol=4 * np.sqrt(mean / n))
            spread = np.sqrt((mean + 2 * mean**2) / n)
            assert_allclose(count.var(), mean, atol=4 * spread)

    def test_layout(self, prior, generator):
        batch = prior.sample_batch(20, (50, 70), generator=generator)
        n_most = int(batch.count.max())
        assert batch.x.shape == batch.y.shape == batch.flux.shape == (20, n_most)
        assert batch.galaxy.shape == (20, n_most, len(GALAXY_SHAPE_NAMES))
        used = torch.arange(n_most) < batch.count[:, None]
        assert ((batch.flux > 0) == used).all()
        assert not (batch.is_galaxy & ~used).any()
        assert ((batch.x >= -0.5) & (batch.x <= 69.5)).all()
        assert ((batch.y >= -0.5) & (batch.y <= 49.5)).all()
        # Shapes are valid even where they mean nothing.
        assert batch.galaxy.isfinite().all()
        assert (batch.galaxy[..., 2:] > 0).all()
        assert batch.flux.dtype == batch.galaxy.dtype == torch.float32

    def test_positions_are_uniform(self, prior, generator):
        batch = prior.sample_batch(400, (40, 90), generator=generator)
        used = batch.flux > 0
        for value, n in ((batch.x, 90), (batch.y, 40)):
            value = value[used].double().numpy()
            assert stats.kstest((value + 0.5) / n, 'uniform').pvalue > 1e-3

    def test_image_by_image(self, prior, generator):
        cut = torch.tensor([1.0, 10.0]).repeat(300)
        stars = torch.tensor([0.0, 3.0]).repeat(300)
        galaxies = torch.tensor([2.0, 0.0]).repeat(300)
        batch = prior.sample_batch(
            600, (80, 80), flux_min=cut, star_scale=stars, galaxy_scale=galaxies,
            generator=generator,
        )  # fmt: skip
        used = batch.flux > 0
        assert (batch.flux >= cut[:, None] * (1 - 1e-5))[used].all()
        assert batch.is_galaxy[::2][used[::2]].all()
        assert not batch.is_galaxy[1::2].any()
        for part, mean in (
            (batch.count[::2], 2 * 6400 * prior.galaxy_density(1.0)),
            (batch.count[1::2], 3 * 6400 * prior.star_density(10.0)),
        ):
            error = np.sqrt(mean / 300)
            assert_allclose(part.double().mean(), mean, atol=4 * error)

    def test_other_pixels(self, generator):
        prior = CatalogPrior()
        batch = prior.sample_batch(
            2000, (80, 80), pixel_scale=0.198, generator=generator
        )
        # A quarter of the sky, and radii of twice as many pixels.
        assert_allclose(batch.count.double().mean(), 1, atol=4 / np.sqrt(2000))
        assert_allclose(batch.galaxy[..., 4].min(), 0.837 / 0.198, rtol=1e-3)

    def test_an_empty_sky(self, generator):
        prior = CatalogPrior(ParetoCounts(density=0.0))
        batch = prior.sample_batch(3, (9, 9), galaxy_scale=0, generator=generator)
        assert batch.flux.shape == (3, 1)
        assert not batch.flux.any()
        assert not batch.count.any()

    def test_nothing_is_brighter(self, prior, generator):
        batch = prior.sample_batch(3, (80, 80), flux_min=1e5, generator=generator)
        assert not batch.count.any()

    def test_reproducible(self, prior):
        one, same, other = (
            prior.sample_batch(
                9, (80, 80), generator=torch.Generator().manual_seed(seed)
            )
            for seed in (1, 1, 2)
        )
        for field in dataclasses.fields(one):
            first, second = getattr(one, field.name), getattr(same, field.name)
            assert torch.equal(first, second)
        assert not torch.equal(one.count, other.count)


class TestTable:
    def test_columns(self, prior):
        catalog = prior.sample((300, 400), rng=3)
        assert catalog.colnames == [
            'x_centroid', 'y_centroid', 'flux', 'is_galaxy', *GALAXY_SHAPE_NAMES
        ]  # fmt: skip
        assert catalog['flux'].unit == u.nmgy
        assert (np.diff(catalog['flux'].value) <= 0).all()
        assert catalog['flux'].value.min() > 0
        galaxies = catalog['is_galaxy']
        assert 0 < galaxies.sum() < len(catalog)
        assert np.isnan(catalog['disk_radius'][~galaxies].value).all()
        assert np.isfinite(catalog['disk_radius'][galaxies].value).all()
        assert catalog['disk_radius'].unit == u.arcsec
        assert (catalog['flux'] == prior.sample((300, 400), rng=3)['flux']).all()

    def test_cut(self, prior):
        catalog = prior.sample((900, 900), flux_min=20, rng=1)
        assert len(catalog)
        assert catalog['flux'].value.min() >= 20 * (1 - 1e-5)


class TestNumbers:
    def test_repr(self, prior):
        kinds = (CatalogPrior, GalaxyPrior, GammaShapes, MagnitudeCounts)
        kinds += (MagnitudeShapes, ParetoCounts)
        names = {kind.__name__: kind for kind in kinds}
        assert eval(repr(prior), names) == prior

    def test_dict(self, prior):
        text = json.dumps(prior.to_dict())
        assert CatalogPrior.from_dict(json.loads(text)) == prior

    def test_file(self, prior, tmp_path):
        path = tmp_path / 'prior.json'
        prior.save(path)
        assert CatalogPrior.load(path) == prior
        with pytest.raises(FileExistsError):
            prior.save(path)
        prior.save(path, overwrite=True)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'stars': None}, r"numbers\['stars'\] must be a dict whose kind"),
            ({'stars': {'kind': 'list'}}, 'kind is one of ParetoCounts'),
            ({'stars': {'kind': 'ParetoCounts', 'slant': 1}}, "no keys but.*'slant'"),
            ({'stars': {'kind': 'MagnitudeCounts'}}, 'lacks.*magnitude, log_density'),
        ],
    )
    def test_damaged(self, change, message):
        with pytest.raises(ValueError, match=message):
            CatalogPrior.from_dict(CatalogPrior().to_dict() | change)

    def test_no_json(self, tmp_path):
        path = tmp_path / 'prior.json'
        path.write_text('{')
        with pytest.raises(ValueError, match=r'path=.*is not a JSON file'):
            CatalogPrior.load(path)

    def test_wrong_parts(self):
        with pytest.raises(TypeError, match='stars must be ParetoCounts or'):
            CatalogPrior(stars=GalaxyPrior())
        with pytest.raises(TypeError, match='galaxies must be GalaxyPrior'):
            CatalogPrior(galaxies=ParetoCounts())


def as_catalog(prior, *, area=0.5, rng=1):
    """A catalogue of a prior as a survey would publish it."""
    side = round(np.sqrt(area * PIXELS_PER_DEG2))
    truth = prior.sample((side, side), flux_min=0.5, rng=rng)
    names = ['is_galaxy', *(n for n in GALAXY_SHAPE_NAMES if n != 'angle')]
    table = Table({name: np.array(truth[name]) for name in names})
    table['magnitude'] = 22.5 - 2.5 * np.log10(truth['flux'].value)
    table.meta['area'] = side**2 / PIXELS_PER_DEG2
    return table


@pytest.fixture(scope='module')
def table():
    return as_catalog(CatalogPrior.sky())


@pytest.fixture(scope='module')
def fitted(table):
    return CatalogPrior.fit(table)


@pytest.fixture(scope='module')
def tables(shared_data):
    names = sorted((shared_data / 'catalogs').glob('coadd_for_*.fit'))
    return [Table.read(name) for name in names]


class TestFit:
    def test_counts(self, fitted):
        sky = CatalogPrior.sky()
        for mag in (19, 20, 21, 22):
            flux = 10 ** (0.4 * (22.5 - mag))
            for name in ('star_density', 'galaxy_density'):
                truth = getattr(sky, name)(flux)
                number = truth * 0.5 * PIXELS_PER_DEG2
                ratio = getattr(fitted, name)(flux) / truth
                # Smoothing may add a little to the Poisson noise.
                assert abs(ratio - 1) < 4 / np.sqrt(number) + 0.03

    def test_extrapolation(self, fitted):
        for counts, bright, faint in (
            (fitted.stars, 0.2, 0.1),
            (fitted.galaxies.counts, 0.6, 0.36),
        ):
            assert (counts.magnitude[0], counts.magnitude[-1]) == (14, 25)
            slopes = np.diff(counts.log_density) / np.diff(counts.magnitude)
            assert_allclose(slopes[[0, -1]], [bright, faint], atol=1e-3)

    def test_shapes(self, fitted):
        truth, found = CatalogPrior.sky().galaxies.shapes, fitted.galaxies.shapes
        for mag in (19, 20, 21, 22):
            pair = [np.interp(mag, s.magnitude, s.log_radius) for s in (truth, found)]
            assert_allclose(pair[1], pair[0], atol=0.03)
            for name in ('disk_share', 'bulge_share'):
                pair = [
                    np.interp(mag, s.magnitude, getattr(s, name))
                    for s in (truth, found)
                ]
                assert_allclose(pair[1], pair[0], atol=0.06)
        # About 2,000 galaxies: 2 % errors of standard deviations.
        assert_allclose(found.radius_scatter, truth.radius_scatter[0], rtol=0.1)
        for name in ('disk_axis_ratio', 'bulge_axis_ratio', 'bulge_to_disk'):
            assert_allclose(getattr(found, name), getattr(truth, name), atol=0.12)
        assert_allclose(found.axis_correlation, truth.axis_correlation, atol=0.02)

    def test_units_and_masks(self, table, fitted):
        other = table.copy()
        area = other.meta.pop('area') * 3600 * u.arcmin**2
        mag = np.array(other['magnitude'])
        other.remove_column('magnitude')
        other['flux'] = 10 ** (-0.4 * (mag - 8.9)) * u.Jy
        other['probpsf'] = 1 - np.array(other['is_galaxy'], dtype=float)
        other.remove_column('is_galaxy')
        for name in ('disk_radius', 'bulge_radius'):
            value = np.array(other[name])
            other[name] = MaskedColumn(value / 60, mask=np.isnan(value), unit='arcmin')
        again = CatalogPrior.fit(other, area=area)
        for one, two in zip(
            dataclasses.astuple(fitted.galaxies.shapes)[:-2],
            dataclasses.astuple(again.galaxies.shapes)[:-2],
            strict=True,
        ):
            assert_allclose(two, one, atol=2e-3)
        assert_allclose(again.stars.log_density, fitted.stars.log_density, atol=2e-3)

    def test_one_radius(self, table):
        table = table.copy()
        table['radius'] = np.sqrt(table['disk_radius'] * table['bulge_radius'])
        table['axis_ratio'] = table['disk_axis_ratio']
        for name in ('radius', 'axis_ratio'):
            table.remove_columns([f'disk_{name}', f'bulge_{name}'])
        shapes = CatalogPrior.fit(table).galaxies.shapes
        assert shapes.disk_axis_ratio == shapes.bulge_axis_ratio
        assert shapes.axis_correlation == 1

    def test_failed_fits(self, table, fitted):
        # Galaxies without shape count as galaxies.
        table = table.copy()
        table['disk_radius'][::3] = np.nan
        again = CatalogPrior.fit(table)
        assert again.galaxies.counts == fitted.galaxies.counts
        assert again.stars == fitted.stars


class TestBadTables:
    @pytest.mark.parametrize(
        ('name', 'value', 'message'),
        [
            ('disk_radius', 0.0, r"\['disk_radius'\] of galaxies must be positive"),
            ('bulge_radius', -1.0, r"\['bulge_radius'\] of galaxies must be positive"),
            ('disk_axis_ratio', 0.0, r'disk_axis_ratio.*must be in \(0, 1\].*got 0.0'),
            ('bulge_axis_ratio', 1.2, r'must be in \(0, 1\].*got 1.2'),
            ('disk_fraction', 1.5, r'disk_fraction.*must be in \[0, 1\].*got 1.5'),
            ('disk_fraction', -0.1, r'must be in \[0, 1\]'),
            ('magnitude', -9999.0, 'magnitude.*must be between 5.0 and 35.0'),
        ],
    )
    def test_values(self, table, name, value, message):
        table = table.copy()
        table[name][np.flatnonzero(table['is_galaxy'])[3]] = value
        with pytest.raises(ValueError, match=message):
            CatalogPrior.fit(table)

    @pytest.mark.parametrize(
        'name', ['disk_fraction', 'is_galaxy', 'magnitude', 'bulge_axis_ratio']
    )
    def test_missing_columns(self, table, name):
        table = table.copy()
        table.remove_column(name)
        with pytest.raises(ValueError, match=name.removeprefix('bulge_')):
            CatalogPrior.fit(table)

    def test_mixed_fluxes(self, table):
        both = table.copy()
        both['flux'] = 1.0
        with pytest.raises(ValueError, match="either 'magnitude' or 'flux'"):
            CatalogPrior.fit(both)
        electrons = both.copy()
        electrons.remove_column('magnitude')
        electrons['flux'].unit = 'electron'
        with pytest.raises(ValueError, match=r'must be in a unit like nmgy; got elec'):
            CatalogPrior.fit(electrons)
        wrong = table.copy()
        wrong['magnitude'].unit = 'nmgy'
        with pytest.raises(ValueError, match=r"magnitude'\] must be in mag.*got nmgy"):
            CatalogPrior.fit(wrong)
        negative = both.copy()
        negative.remove_column('magnitude')
        negative['flux'][3] = -2.0
        with pytest.raises(ValueError, match=r"flux'\] must be positive; got -2.0"):
            CatalogPrior.fit(negative)

    @pytest.mark.parametrize(
        ('area', 'message'),
        [
            (0.0, 'area must be positive'),
            (np.nan, 'area must be positive'),
            (3 * u.m, 'area must be a solid angle'),
        ],
    )
    def test_area(self, table, area, message):
        with pytest.raises(ValueError, match=message):
            CatalogPrior.fit(table, area=area)

    def test_no_area(self, table):
        table = table.copy()
        table.meta.clear()
        with pytest.raises(ValueError, match='area must be given'):
            CatalogPrior.fit(table)

    def test_class(self, table):
        table = table.copy()
        table['is_galaxy'] = np.full(len(table), 0.4)
        with pytest.raises(ValueError, match=r'must be 0 or 1; got 0.4'):
            CatalogPrior.fit(table)

    def test_too_few(self, table):
        with pytest.raises(ValueError, match='at least 20 stars of magnitude'):
            CatalogPrior.fit(table[table['is_galaxy']])
        blank = table.copy()
        blank['disk_radius'] = blank['bulge_radius'] = np.nan
        with pytest.raises(ValueError, match='at least 20 galaxies to magnitude'):
            CatalogPrior.fit(blank)

    def test_no_table(self):
        with pytest.raises(TypeError, match='table must be an astropy Table'):
            CatalogPrior.fit({'magnitude': [20.0]})

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'complete_to': 26}, 'complete_to'),
            ({'star_from': 13}, 'star_from'),
            ({'galaxy_from': 21.5}, 'galaxy_from'),
            ({'shapes_to': 23}, 'shapes_to must be between'),
        ],
    )
    def test_options(self, table, options, message):
        with pytest.raises(ValueError, match=message):
            CatalogPrior.fit(table, **options)


class TestStripe82:
    def test_the_shipped_numbers(self, tables):
        assert CatalogPrior.fit(tables) == CatalogPrior.sky()

    def test_conversion(self, tables):
        table = stripe82_columns(tables)
        # Two fields of 13.5 by 9.8 arcmin.
        assert_allclose(table.meta['area'], 2 * 13.5 * 9.8 / 3600, rtol=0.02)
        star = ~np.array(table['is_galaxy'])
        assert np.isnan(table['disk_radius'][star]).all()
        shaped = np.isfinite(table['disk_radius']) | np.isfinite(table['bulge_radius'])
        bright = ~star & (table['magnitude'] > 18) & (table['magnitude'] < 22)
        assert shaped[bright].mean() > 0.95

    def test_conversion_of_one_row(self, tables):
        rows = tables[0][:2].copy()
        rows['probpsf'] = [1, 0]
        rows['is_saturated'] = 0
        rows['psfmag_r'] = [19.0, 20.4]
        rows['devmag_r'], rows['expmag_r'], rows['fracdev_r'] = 19.5, 20.0, 0.3
        rows['devrad_r'], rows['exprad_r'] = 1.5, 0.8
        rows['devab_r'], rows['expab_r'] = 0.5, 0.6
        table = stripe82_columns(rows)
        flux = 0.3 * 10 ** (0.4 * 3.0) + 0.7 * 10 ** (0.4 * 2.5)
        assert_allclose(table['magnitude'], [19, 22.5 - 2.5 * np.log10(flux)])
        assert list(table['is_galaxy']) == [False, True]
        assert_allclose(table['disk_fraction'][1], 0.7)
        assert_allclose(table['disk_radius'][1], 0.8)
        assert_allclose(table['bulge_axis_ratio'][1], 0.5)

    def test_failed_fits(self, tables):
        rows = tables[0][tables[0]['probpsf'] == 0][:8].copy()
        rows['is_saturated'] = 0
        rows['psfmag_r'], rows['devmag_r'], rows['expmag_r'] = 20.5, 20.0, 20.0
        rows['fracdev_r'], rows['devrad_r'], rows['exprad_r'] = 0.5, 1.0, 1.0
        rows['devab_r'] = rows['expab_r'] = 0.7
        rows['psfmag_r'][0] = 24.0  # light of a bright star
        rows['devmag_r'][1] = rows['expmag_r'][1] = -9999.0
        rows['is_saturated'][2] = 1
        rows['objid'][3] = rows['objid'][7]
        rows['exprad_r'][4] = 59.3  # the limit of the fit
        rows['devab_r'][5] = 0.05  # the limit of the fit
        table = stripe82_columns(rows)
        # Gone are the first four (of a pair of duplicates, one).
        assert len(table) == 4
        assert np.isfinite(table['disk_radius']).sum() == 2

    def test_counts_and_sizes(self, tables):
        # The prior, drawn, beside the catalogue, where that is complete.
        table = stripe82_columns(tables)
        sky = CatalogPrior.sky()
        drawn = sky.sample((9000, 9000), flux_min=1.0, rng=2)
        area = 9000**2 / PIXELS_PER_DEG2
        mag = 22.5 - 2.5 * np.log10(drawn['flux'].value)
        for galaxies in (False, True):
            for low, high in ((18, 20), (20, 21), (21, 22)):
                found, expected = (
                    ((m >= low) & (m < high) & (g == galaxies)).sum()
                    for m, g in (
                        (np.array(table['magnitude']), np.array(table['is_galaxy'])),
                        (mag, drawn['is_galaxy']),
                    )
                )
                expected = expected * table.meta['area'] / area
                # Smoothing moves counts by less than their noise.
                assert abs(found - expected) < 3 * np.sqrt(expected)
        for low, high in ((19, 20), (20, 21), (21, 22)):
            medians = []
            for values, m in ((table, table['magnitude']), (drawn, mag)):
                pick = (np.array(m) >= low) & (np.array(m) < high)
                pick &= np.isfinite(np.array(values['disk_fraction']))
                share = np.array(values['disk_fraction'])[pick]
                # A part without light may have no size.
                disk, bulge = (
                    np.nan_to_num(np.log10(np.array(values[f'{part}_radius'])[pick]))
                    for part in ('disk', 'bulge')
                )
                log_r = share * disk + (1 - share) * bulge
                medians.append((np.median(log_r), pick.sum()))
            # 1.25 standard errors of a mean with a scatter of 0.25.
            error = 1.25 * 0.25 / np.sqrt(medians[0][1])
            assert abs(medians[0][0] - medians[1][0]) < 3 * error + 0.02

    def test_columns_missing(self, tables):
        table = tables[0].copy()
        table.remove_column('exprad_r')
        with pytest.raises(ValueError, match=r'lacks the column.*exprad_r'):
            stripe82_columns(table)


def test_sky_is_like_the_sky():
    # Galaxy counts in r of Yasuda et al. (2001): about 70 per square degree and
    # magnitude at r = 18; two fields may differ by half.
    counts = CatalogPrior.sky().galaxies.counts
    assert isinstance(counts, MagnitudeCounts)
    density = 10 ** np.interp(18, counts.magnitude, counts.log_density)
    assert 35 < density < 150
    prior = CatalogPrior.sky()
    assert_allclose(prior.flux_min, 0.1)
    # Stars are the more numerous at r < 19, galaxies at r > 21.
    assert prior.star_density(25.1) > prior.galaxy_density(25.1)
    assert prior.star_density(1.0) < prior.galaxy_density(1.0)
