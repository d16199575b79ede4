# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the prior of fields: PSF, sky, calibration and noise.
"""

import dataclasses
import json

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose

from bliss_astro.priors import FieldPrior, GaussianFields
from bliss_astro.psf import PSFModel
from bliss_astro.psf._mixture import SHAPE_NAMES, fwhm_of_shape, normalization_of_shape
from bliss_astro.units import SDSS_PIXEL_SCALE

stats = pytest.importorskip('scipy.stats')

SCALARS = ('background', 'electrons_per_nmgy', 'read_noise')


def all_valid(psf):
    """Whether PSFs (tensor) may be PSFs at all."""
    s1, s2, b, sp, p0, beta, e1, e2 = psf.double().unbind(-1)
    return bool(
        psf.isfinite().all()
        and (s1 > 0).all()
        and (s2 > s1).all()
        and (b > 0).all()
        and (sp > 0).all()
        and (p0 > 0).all()
        and (beta > 2).all()
        and (torch.hypot(e1, e2) < 0.2).all()
        and (normalization_of_shape(psf) > 0).all()
    )


class TestShipped:
    @pytest.fixture
    def draws(self, generator):
        return FieldPrior().sample_batch(20_000, generator=generator)

    def test_psfs(self, draws):
        assert draws.psf.shape == (20_000, 8)
        assert all_valid(draws.psf)
        fwhm = fwhm_of_shape(draws.psf) * SDSS_PIXEL_SCALE
        assert fwhm.min() >= 0.7 * 0.999
        assert fwhm.max() <= 2.5 * 1.001
        assert abs(fwhm.median() - 1.18) < 0.03
        assert (draws.psf[:, 6:].abs() <= 0.12).all()
        # Standard error of a standard deviation: 0.025 / sqrt(2 n).
        assert_allclose(draws.psf[:, 6:].std(0), 0.025, rtol=0.03)

    def test_widths_agree_with_the_model(self, draws):
        psf = draws.psf[:20].double()
        model = [PSFModel.from_shape(shape).fwhm for shape in psf.numpy()]
        assert_allclose(fwhm_of_shape(psf), model, rtol=1e-3)

    def test_scalars(self, draws):
        for name, low, high in (
            ('background', 250, 5000),
            ('electrons_per_nmgy', 700, 1250),
            ('read_noise', 2.5, 10),
        ):
            value = getattr(draws, name)
            assert value.shape == (20_000,)
            assert value.min() >= low * 0.999
            assert value.max() <= high * 1.001

    def test_holds_the_headers_of_102_runs(self, draws, shared_data):
        table = Table.read(shared_data / 'psf' / 'sdss_psf_sky_sample.csv')
        table = table[table['band'] == 'r']
        gain = np.array(table['gain'])
        header = {
            'fwhm': np.array(table['fwhm_arcsec']),
            'background': table['sky_counts'] * gain,
            'electrons_per_nmgy': gain / table['nmgy_per_count'],
            'read_noise': np.sqrt(table['dark_var']) * gain,
        }
        drawn = {name: getattr(draws, name).numpy() for name in SCALARS}
        drawn['fwhm'] = fwhm_of_shape(draws.psf).numpy() * SDSS_PIXEL_SCALE
        for name, values in header.items():
            values = np.asarray(values, float)
            # All lie within its bounds, near its middle, and it is the wider.
            assert drawn[name].min() < values.min()
            assert values.max() < 1.2 * drawn[name].max()
            assert_allclose(np.median(drawn[name]), np.median(values), rtol=0.06)
            inner, outer = (np.quantile(v, [0.05, 0.95]) for v in (values, drawn[name]))
            assert outer[0] < inner[0]
            assert inner[1] < outer[1]

    def test_holds_the_good_fields(self, shared_data):
        paths = sorted(shared_data.glob('sdss/*/*/photoField-*.fits'))
        table = FieldPrior.from_photofield(paths, 'r').fields
        assert len(table) == 1190
        gaussian = FieldPrior().fields
        s1, s2, b, sp, p0, beta = table.psf[:, :6].T
        logs = np.log([s1, s2 / s1, b, sp / s1, p0, beta - 2])
        distance = logs.T - np.array(gaussian.mean)[:6]
        inverse = np.linalg.inv(np.array(gaussian.covariance)[:6, :6])
        square = np.einsum('ni,ij,nj->n', distance, inverse, distance)
        # Chi square of six variables: none is out of the way.
        assert square.max() < stats.chi2(6).isf(1e-3)
        assert gaussian._valid(
            *(
                torch.as_tensor(v, dtype=torch.float64)
                for v in (
                    np.column_stack([logs.T, np.tile(gaussian.mean[6:], (1190, 1))]),
                    np.array(gaussian.low),
                    np.array(gaussian.high),
                )
            )
        ).all()

    def test_truncation_is_rejection(self, generator):
        # The first valid candidate is distributed as a valid draw is.
        gaussian = FieldPrior().fields
        mean, factor, low, high = gaussian._constants(torch.device('cpu'))
        z = torch.randn(20_000, 9, generator=generator)
        logs = mean + z @ factor.T
        valid = gaussian._valid(logs, low, high)
        assert valid.float().mean() > 0.9
        kept = logs[valid].exp()
        draws = FieldPrior().sample_batch(20_000, generator=generator)
        for one, two in (
            (kept[:, 0], draws.psf[:, 0]),
            (kept[:, 2], draws.psf[:, 2]),
            (kept[:, 6], draws.background),
        ):
            assert stats.ks_2samp(one, two).pvalue > 1e-3

    def test_repr_is_short(self):
        assert len(repr(FieldPrior())) < 88
        assert 'Gaussian' in repr(FieldPrior())


class TestSingle:
    def test_numbers(self, generator):
        draws = FieldPrior.single().sample_batch(3, generator=generator)
        # papers.md: run 94, camcol 1, field 12, r.
        known = [1.48996, 2.99404, 0.049229, 2.89229, 0.010495, 3.2638, 0, 0]
        assert_allclose(draws.psf, [known] * 3, rtol=1e-6)
        # Within a percent of the 865 electrons and 987.31 electrons per
        # nmgy of the coadd paper.
        assert_allclose(draws.background, 865, rtol=0.01)
        assert_allclose(draws.electrons_per_nmgy, 987.31, rtol=0.01)
        assert_allclose(draws.read_noise, 6.3585, rtol=1e-4)

    def test_agrees_with_the_file(self, shared_data):
        path = shared_data / 'sdss/94/1/photoField-000094-1.fits'
        table = FieldPrior.from_photofield(path, 'r').table
        single = FieldPrior.single().table
        row = np.argmin(np.abs(table['sigma1'].value - single['sigma1'][0].value))
        for name in table.colnames:
            assert_allclose(
                getattr(single[name], 'value', single[name])[0],
                getattr(table[name], 'value', table[name])[row],
                rtol=1e-4,
            )


def survey(n=400, seed=1):
    """A table of the fields of a made-up survey with small pixels."""
    rng = np.random.default_rng(seed)
    s1 = 3.0 * np.exp(0.1 * rng.normal(size=n))
    table = Table(
        {
            'sigma1': s1,
            'sigma2': s1 * 2.2,
            'b': 0.1 * np.exp(0.2 * rng.normal(size=n)),
            'sigmap': s1 * 2,
            'p0': 0.01 * np.exp(0.1 * rng.normal(size=n)),
            'beta': 2 + np.exp(0.05 * rng.normal(size=n)),
            'background': 2000 * np.exp(0.3 * rng.normal(size=n)),
            'electrons_per_nmgy': np.full(n, 300.0),
            'read_noise': np.full(n, 7.0),
        }
    )
    table['background'].unit = 'electron'
    return table


class TestFit:
    def test_moments(self, generator):
        table = survey()
        prior = FieldPrior.fit(table)
        draws = prior.sample_batch(20_000, generator=generator)
        assert all_valid(draws.psf)
        for one, two in (
            (draws.psf[:, 0], table['sigma1']),
            (draws.psf[:, 2], table['b']),
            (draws.psf[:, 5] - 2, table['beta'] - 2),
            (draws.background, table['background']),
        ):
            one, two = np.log(one.double().numpy()), np.log(np.array(two))
            sd = two.std()
            # Of 400 fields: medians to 1.25 sd / 20, scatters to 1 / sqrt(800).
            assert abs(np.median(one) - np.median(two)) < 4 * 1.25 * sd / 20
            assert_allclose(one.std(), sd, rtol=0.1)
        assert_allclose(draws.electrons_per_nmgy, 300, rtol=0.03)
        # What goes together in the table goes together in the prior.
        ratio = draws.psf[:, 1] / draws.psf[:, 0]
        assert_allclose(ratio, 2.2, rtol=0.03)

    def test_widened(self, generator):
        table = survey()
        widths = []
        for widen in (1.0, 2.0):
            prior = FieldPrior.fit(table, widen=widen)
            draws = prior.sample_batch(5000, generator=generator)
            assert all_valid(draws.psf)
            widths.append(draws.background.log().std())
        assert_allclose(widths[1] / widths[0], 2, rtol=0.06)

    def test_ellipticity(self, generator):
        round_ = FieldPrior.fit(survey(), ellipticity=0.0)
        assert not round_.sample_batch(9, generator=generator).psf[:, 6:].any()

    def test_good_fields_of_a_file(self, shared_data, generator):
        path = shared_data / 'sdss/3900/6/photoField-003900-6.fits'
        empirical = FieldPrior.from_photofield(path, 'r')
        fitted = FieldPrior.fit(empirical.table, widen=1.5)
        draws = fitted.sample_batch(4000, generator=generator)
        assert all_valid(draws.psf)
        fwhm = [fwhm_of_shape(p.sample_batch(4000, generator=generator).psf).median()
                for p in (empirical, fitted)]  # fmt: skip
        assert_allclose(fwhm[1], fwhm[0], rtol=0.03)


class TestTable:
    def test_drawn_uniformly(self, generator):
        prior = FieldPrior.from_table(survey(20))
        draws = prior.sample_batch(20_000, generator=generator)
        known = np.sort(survey(20)['background'])
        values, counts = np.unique(draws.background.numpy(), return_counts=True)
        assert_allclose(values, known, rtol=1e-6)
        assert stats.chisquare(counts).pvalue > 1e-3
        # PSF and sky are those of one field.
        order = np.argsort(survey(20)['background'])
        place = np.searchsorted(values, draws.background.numpy())
        expected = np.array(survey(20)['sigma1'])[order][place]
        assert_allclose(draws.psf[:, 0], expected, rtol=1e-6)

    def test_ellipticity(self, generator):
        prior = FieldPrior.from_table(survey(20), ellipticity=0.05)
        e = prior.sample_batch(5000, generator=generator).psf[:, 6:]
        reference = stats.truncnorm(-0.12 / 0.05, 0.12 / 0.05, scale=0.05)
        for component in e.double().numpy().T:
            assert stats.kstest(component, reference.cdf).pvalue > 1e-3

    def test_round_trip(self):
        drawn = FieldPrior().sample(50, rng=1)
        assert drawn['background'].unit == u.electron
        assert drawn['sigma1'].unit == u.pix
        assert drawn.colnames == [*SHAPE_NAMES, *SCALARS]
        again = FieldPrior.from_table(drawn).table
        for name in drawn.colnames:
            assert (again[name] == drawn[name]).all()
        assert FieldPrior().table is None

    def test_units_are_converted(self):
        table = survey(20)
        table['electrons_per_nmgy'] *= 1e9
        table['electrons_per_nmgy'].unit = u.electron / u.mgy
        prior = FieldPrior.from_table(table)
        assert_allclose(prior.table['electrons_per_nmgy'].value, 300)


class TestPhotoField:
    def test_bands(self, shared_data, generator):
        paths = sorted(shared_data.glob('sdss/*/*/photoField-*.fits'))
        prior = FieldPrior.from_photofield(paths, 'r')
        draws = prior.sample_batch(3000, generator=generator)
        assert all_valid(draws.psf + 1e-9)
        assert not draws.psf[:, 6:].any()
        fwhm = fwhm_of_shape(draws.psf) * SDSS_PIXEL_SCALE
        assert 0.7 < fwhm.min() < fwhm.max() < 2.5
        assert '1190 field(s)' in repr(prior)
        # The sky is brighter in i than in r.
        other = FieldPrior.from_photofield(paths, 'i')
        assert (
            other.table['background'].value.mean()
            > prior.table['background'].value.mean()
        )

    @pytest.fixture
    def damaged(self, shared_data, tmp_path):
        """Writer of copies of a photoField file with changed columns."""

        def write(change):
            source = shared_data / 'sdss/94/1/photoField-000094-1.fits'
            with fits.open(source) as hdus:
                table = Table(hdus[1].data)
            change(table)
            path = tmp_path / 'photoField.fits'
            table.write(path, overwrite=True)
            return path

        return write

    @pytest.mark.parametrize(
        ('column', 'value'),
        [('PSF_BETA', 10.0), ('SKY', -1.0), ('GAIN', 0.0), ('NMGYPERCOUNT', np.nan)],
    )
    def test_no_good_fields(self, damaged, column, value):
        path = damaged(lambda table: table[column].fill(value))
        with pytest.raises(ValueError, match=r"at least one good field in band 'r'"):
            FieldPrior.from_photofield(path, 'r')

    def test_bad_fields_are_dropped(self, damaged):
        def change(table):
            table['SKY'][:100] = -1.0
            table['PSF_SIGMA2'][100:200] = 0.5

        whole = FieldPrior.from_photofield(damaged(lambda table: None), 'r')
        part = FieldPrior.from_photofield(damaged(change), 'r')
        assert 0 < len(part.table) < len(whole.table) <= len(part.table) + 200

    def test_no_file_at_all(self, tmp_path):
        with pytest.raises(ValueError, match='no file at all'):
            FieldPrior.from_photofield([], 'r')
        with pytest.raises(FileNotFoundError):
            FieldPrior.from_photofield(tmp_path / 'photoField.fits', 'r')

    def test_bands_that_there_are_not(self, damaged):
        path = damaged(lambda table: None)
        with pytest.raises(ValueError, match=r"band must be one of .* got 'y'"):
            FieldPrior.from_photofield(path, 'y')

        def two_bands(table):
            for name in table.colnames:
                if table[name].shape[1:] == (5,):
                    table[name] = np.array(table[name])[:, :2]

        with pytest.raises(ValueError, match=r"band 'r' is not in .* 2 band"):
            FieldPrior.from_photofield(damaged(two_bands), 'r')


PRIORS = [FieldPrior(), FieldPrior.single(), FieldPrior.from_table(survey(30))]


@pytest.mark.parametrize('prior', PRIORS, ids=repr)
class TestEvery:
    def test_reproducible(self, prior):
        one, same = (
            prior.sample_batch(5, generator=torch.Generator().manual_seed(1))
            for _ in range(2)
        )
        for field in dataclasses.fields(one):
            assert torch.equal(getattr(one, field.name), getattr(same, field.name))
        assert one.psf.dtype == torch.float32

    def test_saved(self, prior, tmp_path):
        again = FieldPrior.from_dict(json.loads(json.dumps(prior.to_dict())))
        path = tmp_path / 'fields.json'
        prior.save(path)
        expected = prior.sample_batch(5, generator=torch.Generator().manual_seed(1))
        for copy in (again, FieldPrior.load(path)):
            draws = copy.sample_batch(5, generator=torch.Generator().manual_seed(1))
            assert torch.equal(draws.psf, expected.psf)
            assert torch.equal(draws.background, expected.background)

    def test_numbers_of_the_distribution(self, prior):
        if prior.table is None:
            numbers = json.loads(json.dumps(prior.fields.to_dict()))
            assert prior.to_dict()['gaussian'] == numbers
            assert GaussianFields(**numbers) == prior.fields

    def test_none(self, prior, generator):
        assert prior.sample_batch(0, generator=generator).psf.shape == (0, 8)


class TestBadTables:
    @pytest.mark.parametrize(
        ('name', 'value', 'message'),
        [
            ('background', -3.0, r'background must be positive.*got -3.0'),
            ('background', np.nan, 'background must be positive'),
            ('sigma2', 1.0, 'sigma2 must be larger than sigma1'),
            ('beta', 2.0, 'beta must be more than 2'),
            ('p0', -0.1, 'p0 must be not negative'),
            ('electrons_per_nmgy', 0.0, 'electrons_per_nmgy must be positive'),
            ('read_noise', -1.0, 'read_noise must be not negative'),
        ],
    )
    @pytest.mark.parametrize('make', [FieldPrior.fit, FieldPrior.from_table])
    def test_values(self, make, name, value, message):
        table = survey()
        table[name][7] = value
        with pytest.raises(ValueError, match=message):
            make(table)

    def test_no_fields(self):
        with pytest.raises(ValueError, match='at least one good field; got none'):
            FieldPrior.fit(survey()[:0])
        with pytest.raises(ValueError, match='at least 20 fields for a fit; got 19'):
            FieldPrior.fit(survey(19))

    def test_columns(self):
        table = survey()
        table.remove_columns(['beta', 'background'])
        with pytest.raises(ValueError, match=r'lacks the column\(s\) beta, background'):
            FieldPrior.fit(table)
        with pytest.raises(TypeError, match=r'table must be .*; got dict'):
            FieldPrior.fit({})

    def test_units(self):
        table = survey()
        table['background'].unit = 'nmgy'
        with pytest.raises(
            ValueError, match=r"background'\] must be in a unit like electron; got"
        ):
            FieldPrior.fit(table)

    @pytest.mark.parametrize('widen', [0.0, -1.0, np.nan])
    def test_widen(self, widen):
        with pytest.raises(ValueError, match='widen must be positive'):
            FieldPrior.fit(survey(), widen=widen)

    def test_parts(self):
        with pytest.raises(TypeError, match='fields must be GaussianFields'):
            FieldPrior(survey())
        with pytest.raises(ValueError, match=r'ellipticity must be in \[0, 0.12\]'):
            FieldPrior(ellipticity=0.3)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'mean': (0.0,) * 8}, 'mean must be 9 finite numbers'),
            ({'low': (5.0,) * 9}, r'mean of log\(sigma1\) must be between low and'),
            ({'covariance': np.eye(8)}, r'covariance must be a symmetric 9 x 9'),
            ({'covariance': -np.eye(9)}, 'covariance must be positive definite'),
            ({'ellipticity': 1.0}, 'ellipticity must be in'),
            ({'fwhm_range': (0.1, 0.2)}, 'fwhm_range must be'),
        ],
    )
    def test_gaussian(self, change, message):
        numbers = dataclasses.asdict(FieldPrior().fields) | change
        with pytest.raises(ValueError, match=message):
            GaussianFields(**numbers)

    @pytest.mark.parametrize(
        ('numbers', 'message'),
        [
            ({}, "either 'gaussian' or 'table'"),
            ({'gaussian': {'mean': [1.0]}}, r'lacks the key\(s\) covariance'),
            ({'table': {'psf': [], 'sky': 1}}, "no keys but.*got 'sky'"),
        ],
    )
    def test_dicts(self, numbers, message):
        with pytest.raises(ValueError, match=message):
            FieldPrior.from_dict(numbers)
