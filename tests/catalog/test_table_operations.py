# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What a table can do, done to every kind of catalogue.
"""

import copy
import pickle
import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, Table, hstack, join, unique, vstack
from numpy.testing import assert_array_equal

from bliss_astro import PosteriorDroppedWarning
from bliss_astro.catalog import CatalogColumns, ProbabilisticCatalog


def assert_still_a_catalog(result, original):
    """
    Check the class, the columns' attributes and what belongs to the image.
    """
    assert type(result) is ProbabilisticCatalog
    assert result.colnames == original.colnames
    for name in original.colnames:
        assert result[name].info.description == original[name].info.description
        assert (result[name].info.meta or {}) == (original[name].info.meta or {})
        assert getattr(result[name], 'unit', None) == getattr(
            original[name], 'unit', None
        )
        assert type(result[name]) is type(original[name])
    assert result.posterior is original.posterior
    assert dict(result.meta) == dict(original.meta)
    # Neither way of showing it may fail.
    assert 'ProbabilisticCatalog' in repr(result)
    assert 'ProbabilisticCatalog' in result._repr_html_()


class TestEveryKind:
    def test_slice(self, catalog):
        assert_still_a_catalog(catalog[1:4], catalog)
        assert_still_a_catalog(catalog[::-1], catalog)
        assert_still_a_catalog(catalog[:0], catalog)

    def test_mask_and_index(self, catalog):
        assert_still_a_catalog(catalog[catalog['probability'] > 0.7], catalog)
        assert_still_a_catalog(catalog[np.array([], dtype=int)], catalog)
        if len(catalog):
            assert_still_a_catalog(catalog[[3, 1]], catalog)
            assert catalog[2]['id'] == 3

    def test_sort(self, catalog):
        result = catalog.copy()
        result.sort('y_centroid')
        assert_still_a_catalog(result, catalog)
        assert_array_equal(result['y_centroid'], np.sort(catalog['y_centroid']))
        result.sort('id')
        assert_array_equal(result['flux'], catalog['flux'])
        result.reverse()
        assert_still_a_catalog(result, catalog)

    def test_copies(self, catalog):
        for result in (
            catalog.copy(),
            catalog.copy(copy_data=False),
            copy.copy(catalog),
            copy.deepcopy(catalog),
            ProbabilisticCatalog(catalog),
        ):
            assert_still_a_catalog(result, catalog)

    def test_pickle(self, catalog):
        result = pickle.loads(pickle.dumps(catalog))
        assert result.posterior.half_width == catalog.posterior.half_width
        result.posterior = catalog.posterior
        assert_still_a_catalog(result, catalog)

    def test_vstack_of_parts(self, catalog):
        assert_still_a_catalog(vstack([catalog[:3], catalog[3:]]), catalog)
        # Parts that went through another process are parts all the same.
        part = pickle.loads(pickle.dumps(catalog[3:]))
        assert_still_a_catalog(vstack([catalog[:3], part]), catalog)

    def test_vstack_of_two_thresholds(self, catalog):
        """
        Two tables of one posterior belong to one image.
        """
        other = catalog.copy()
        other.meta['image'] = type(catalog.image)(
            {**catalog.image, 'uid': 'another'}, posterior=catalog.posterior
        )
        assert vstack([catalog, other]).posterior is catalog.posterior

    def test_vstack_of_images(self, catalog, make_catalog, request):
        kind = request.node.callspec.params['catalog']
        other = make_catalog(kind, seed=8)
        with pytest.warns(PosteriorDroppedWarning, match='one image') as record:
            result = vstack([catalog, other])
        assert [warning.filename for warning in record] == [__file__]
        assert type(result) is ProbabilisticCatalog
        assert len(result) == len(catalog) + len(other)
        assert result.posterior is None
        assert result.wcs is None
        assert result.meta['encoder'] == 'stars'
        assert 'from 2 images' in repr(result)
        assert catalog.posterior is not None
        for name in catalog.colnames:
            assert result[name].info.description == catalog[name].info.description

    def test_vstack_of_images_when_warnings_are_errors(
        self, catalog, make_catalog, request
    ):
        kind = request.node.callspec.params['catalog']
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            warnings.simplefilter('error', PosteriorDroppedWarning)
            with pytest.raises(PosteriorDroppedWarning):
                vstack([catalog, make_catalog(kind, seed=8)])

    def test_group_and_unique(self, catalog):
        if len(catalog) == 0:
            # Astropy does not group tables without rows.
            return
        catalog['flags'] = catalog['id'] % 2
        groups = catalog.group_by('flags')
        assert_still_a_catalog(groups.groups[0], catalog)
        assert_still_a_catalog(unique(catalog, keys='flags'), catalog)

    def test_hstack(self, catalog):
        result = hstack([catalog, QTable({'z': np.zeros(len(catalog))})])
        assert type(result) is ProbabilisticCatalog
        assert result.posterior is catalog.posterior
        assert repr(result)

    def test_join(self, catalog):
        if len(catalog) == 0:
            # Astropy does not join tables without rows.
            return
        seen = Table({'id': [2, 1], 'seen': [True, False]})
        result = join(catalog, seen)
        assert type(result) is ProbabilisticCatalog
        assert len(result) == 2
        assert result.posterior is catalog.posterior

    def test_selecting_columns(self, catalog):
        whole = catalog[catalog.colnames]
        assert_still_a_catalog(whole, catalog)
        for part in (
            catalog['x_centroid', 'y_centroid', 'flux'],
            catalog[['id', 'flux']],
            catalog[('flux',)],
        ):
            assert type(part) is CatalogColumns
            assert len(part) == len(catalog)
            assert isinstance(part.meta['image'], dict)
        with pytest.raises(KeyError):
            catalog['id', 'nothing']

    def test_columns_come_and_go(self, catalog):
        result = catalog.copy()
        result['half'] = result['flux'] / 2
        result.remove_column('flux_err')
        result.rename_column('flux', 'counts')
        assert repr(result)
        assert str(result)

    def test_assignment_of_values(self, catalog):
        result = catalog.copy()
        result['flags'] |= 1
        assert result.decode_flags() == [
            names if 'near_masked' in names else ['near_masked', *names]
            for names in catalog.decode_flags()
        ]

    def test_plain_table(self, catalog, tmp_path):
        table = QTable(catalog)
        assert type(table) is QTable
        path = tmp_path / 'plain.ecsv'
        table.write(path)
        assert len(Table.read(path)) == len(catalog)


def test_three_images(make_catalog):
    tables = [make_catalog('wcs', seed=seed) for seed in range(3)]
    with pytest.warns(PosteriorDroppedWarning):
        result = vstack([*tables, tables[0][:2]])
    assert len(result.image['uids']) == 3
    assert len(result) == 26


def test_images_without_posteriors_stack_silently(make_catalog):
    tables = [make_catalog('wcs', seed=seed, posterior=None) for seed in range(2)]
    result = vstack(tables)
    assert result.wcs is None


def test_the_later_date_stays(make_catalog):
    tables = [make_catalog(seed=seed, posterior=None) for seed in range(2)]
    late = type(tables[0].meta['date'])('2999-01-01 00:00:00 UTC')
    tables[0].meta['date'] = late
    assert vstack(tables).meta['date'] == late


def test_posterior_can_be_dropped(make_catalog):
    cat = make_catalog()
    part = cat[:2]
    cat.drop_posterior()
    assert cat.posterior is None
    assert cat.exposure is None
    assert cat.image['shape'] == [60, 80]
    assert part.posterior is not None


def test_empty_constructor():
    cat = ProbabilisticCatalog()
    assert len(cat) == 0
    assert cat.posterior is None
    assert cat.wcs is None
    assert repr(cat)


class TestIntervals:
    def test_posterior(self, catalog):
        for name in ('x_centroid', 'y_centroid', 'flux'):
            lower, upper = catalog.credible_interval(name, 0.5)
            assert getattr(lower, 'unit', None) == getattr(catalog[name], 'unit', None)
            np.testing.assert_allclose(
                np.asarray(upper - lower), 0.5, rtol=1e-12, atol=1e-12
            )

    def test_magnitudes_run_backwards(self, make_catalog):
        cat = make_catalog('wcs')
        cat = cat[cat['flux'] > 1 * u.nmgy]
        lower, upper = cat.credible_interval('mag', 0.9)
        assert lower.unit == u.mag
        assert np.all((lower < cat['mag']) & (cat['mag'] < upper))

    def test_converted_column(self, make_catalog):
        cat = make_catalog()
        before = cat.credible_interval('flux')
        cat['flux'] = cat['flux'].to(u.mgy)
        # The fake takes the number of the column; its width is in the image's unit.
        lower, upper = cat.credible_interval('flux')
        assert lower.unit == u.mgy
        np.testing.assert_allclose(
            (upper - lower).to_value(u.nmgy), (before[1] - before[0]).value, rtol=1e-6
        )

    def test_gaussian(self, make_catalog):
        cat = make_catalog()
        lower, upper = cat.credible_interval('flux', 0.6826894921, gaussian=True)
        np.testing.assert_allclose(
            (upper - lower).value / 2, cat['flux_err'].value, rtol=1e-8
        )
        lower, _ = cat.credible_interval('x_centroid', gaussian=True)
        assert type(lower) is np.ndarray
        with pytest.raises(ValueError, match=r'the error of .probability'):
            cat.credible_interval('probability', gaussian=True)

    def test_samples(self, make_catalog):
        cat = make_catalog('samples', posterior=None)
        lower, upper = cat.credible_interval('flux', 0.5)
        expected = np.percentile(cat['flux_samples'].value, [25, 75], axis=1)
        np.testing.assert_allclose([lower.value, upper.value], expected)
        assert lower.unit == u.nmgy
        lower, _ = cat.credible_interval('x_centroid', 0.5)
        assert not isinstance(lower, u.Quantity)

    def test_nothing_to_take_it_from(self, make_catalog):
        cat = make_catalog('wcs', posterior=None)
        with pytest.raises(ValueError, match=r'no posterior.*gaussian=True'):
            cat.credible_interval('flux')

    @pytest.mark.parametrize('level', [0, 1, 95, np.nan])
    def test_level(self, make_catalog, level):
        with pytest.raises(ValueError, match='level must be between 0 and 1'):
            make_catalog().credible_interval('flux', level)

    def test_column(self, make_catalog):
        with pytest.raises(ValueError, match="column must be one of 'id', "):
            make_catalog('unitless').credible_interval('mag')


class TestSamples:
    def test_from_the_posterior(self, make_catalog):
        cat = make_catalog('wcs')
        flux = cat.samples('flux', n_samples=2000, rng=1)
        assert flux.shape == (8,)
        assert flux.n_samples == 2000
        assert flux.unit == u.nmgy
        # Uniform of width 1: the mean of 2000 has sigma 0.0065.
        np.testing.assert_allclose(
            flux.pdf_mean().value, cat['flux'].value, atol=5 * 0.0065
        )
        assert cat.samples('x_centroid', rng=1).n_samples == 1000
        assert cat.samples('mag', rng=1, n_samples=5).unit == u.mag
        assert make_catalog('empty').samples('flux', rng=1).shape == (0,)

    def test_from_the_table(self, make_catalog):
        cat = make_catalog('samples', posterior=None)
        assert cat.samples('flux').n_samples == 6
        assert cat.samples('flux').unit == u.nmgy
        assert cat.samples('x_centroid').n_samples == 6
        assert cat.samples('mag').n_samples == 6

    def test_none(self, make_catalog):
        with pytest.raises(ValueError, match=r'no draws of .flux'):
            make_catalog(posterior=None).samples('flux')
