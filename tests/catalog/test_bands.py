# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of fluxes in several bands: columns, colours, joint samples, flags and files.

The posterior is that of one band with draws of colours put in, whose distribution is
known.
"""

import dataclasses
import importlib.util

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.io.votable.ucd import check_ucd
from astropy.table import QTable, vstack
from astropy.uncertainty import Distribution
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import CoaddSimulator, PSFModel, detect_sources
from bliss_astro.catalog import (
    CatalogPosterior,
    ProbabilisticCatalog,
    _bands,
    _candidates,
    _methods,
)
from bliss_astro.catalog._bands import WAVELENGTHS, BandDraws, ucd_word
from bliss_astro.catalog._columns import COLUMNS
from bliss_astro.encoders import Encoder, EncoderConfig, EncoderInputs
from bliss_astro.exposures import ExposureSet
from bliss_astro.flags import CatalogFlag
from bliss_astro.posteriors._factors import draw_flux, flux_parts
from bliss_astro.posteriors._marginals import quasi_random
from bliss_astro.simulation import SimulationConfig, SimulationStream

BANDS = ['r', 'g', 'i', 'u']
N_DRAWS = 64
# Magnitudes of a natural logarithm, and the width of a normal distribution in them.
MAG = 2.5 / np.log(10)


def add_colours(sources):
    """
    Draws of four bands: g is measured by itself, i only relative to r, u not at all.
    """
    q = quasi_random(N_DRAWS, 6, sources.x.device).expand(len(sources), -1, -1)
    # At the first position, as draws of shapes.
    flux = draw_flux(flux_parts(sources.flux[:, 0]), q)
    unit = torch.special.ndtri(q[..., 2:5])
    own = (flux - flux.mean(1, keepdim=True)).nan_to_num()
    colour = torch.stack(
        [
            torch.zeros_like(flux),
            -0.4 - own + 0.05 * unit[..., 0],
            0.3 + 0.02 * unit[..., 1],
            -2.0 + 0.5 * unit[..., 2],
        ],
        -1,
    )
    galaxy = (q[..., 5] < sources.galaxy[:, None]).float()
    more = {'colour': colour, 'flux': flux[..., None], 'type': galaxy[..., None]}
    return dataclasses.replace(sources, draws=sources.draws | more)


@pytest.fixture(scope='module')
def posterior():
    """
    A posterior of one band to which bands are added.
    """
    exposure, _ = CoaddSimulator().sample(rng=3)
    found = detect_sources(exposure, encoder='stars-galaxies', check=False)
    posterior = found.posterior
    posterior.meta |= {'bands': BANDS, 'bands_missing': ['u'], 'bands_resampled': []}
    original = _candidates.find_sources

    def find_sources(*args, **options):
        return add_colours(original(*args, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_candidates, 'find_sources', find_sources)
        posterior._found.clear()
        posterior.unit = u.nmgy
        posterior.at_threshold(0.3)
    return posterior


@pytest.fixture(scope='module')
def found(posterior):
    """
    A table with draws.
    """
    return posterior.at_threshold(0.5, n_samples=50, rng=1)


def by_hand(meta=None, **more):
    """
    A table of three rows with fluxes in two bands.
    """
    columns = dict.fromkeys(('probability', 'x_err', 'y_err'), np.full(3, 0.9))
    columns |= {'x_centroid': np.arange(3.0), 'y_centroid': np.arange(3.0)}
    columns |= {'flux': [1.0, 4.0, 2.0], 'flux_err': [0.1, 0.2, 0.1]}
    columns |= {'flux_r': [1.0, 4.0, 2.0], 'flux_r_err': [0.1, 0.2, 0.1]}
    columns |= {'flux_g': [0.5, np.nan, -0.1], 'flux_g_err': [0.05, np.nan, 0.2]}
    columns |= more
    return ProbabilisticCatalog.from_columns(columns, unit=u.nmgy, meta=meta)


class TestColumns:
    def test_order_and_values(self, found):
        names = found.colnames
        own = [name for name, _ in COLUMNS.of('g')]
        assert own == ['flux_g', 'flux_g_err', 'mag_g', 'mag_g_err']
        start = names.index('mag_err') + 1
        of_bands = [name for b in 'ugri' for name, _ in COLUMNS.of(b)]
        assert names[start : start + 16] == of_bands
        assert_array_equal(found['flux_r'], found['flux'])
        assert_array_equal(found['flux_r_err'], found['flux_err'])
        assert_array_equal(found['mag_r_err'], found['mag_err'])
        assert_allclose(found['flux_i'] / found['flux'], np.exp(0.3), rtol=0.03)
        # The flux in g has its own error, whatever that in r is.
        assert_allclose(found['flux_g_err'] / found['flux_g'], 0.05, rtol=0.2)
        ratio = found['flux_i_err'] / found['flux_i']
        own = found['flux_err'] / found['flux']
        assert np.all(ratio[own > 0.05] > 0.6 * own[own > 0.05])
        assert np.all(found['flux_u_err'] / found['flux_u'] > 0.3)

    def test_meaning(self, found):
        for name in ('flux_g', 'flux_g_err'):
            assert found[name].unit == u.nmgy
            assert found[name].info.description == COLUMNS[name].description
        assert found['mag_g'].unit == u.mag
        assert found['flux_g'].info.meta['ucd'] == 'phot.flux.density;em.opt.B'
        assert COLUMNS['mag_i_err'].ucd == 'stat.error;phot.mag;em.opt.I'
        assert 'the band i' in COLUMNS['flux_i'].description
        words = [ucd_word(band) for band in 'ugrizy']
        expected = ['U', 'B', 'R', 'I', 'I', 'I']
        assert words == [f'em.opt.{letter}' for letter in expected]
        for word in _bands._WORDS:
            assert check_ucd(f'phot.mag;{word}', check_controlled_vocabulary=True)

    def test_facts_about_the_image(self, found, posterior):
        assert found.image['bands'] == BANDS
        assert found.image['bands_missing'] == ['u']
        # Lists of several images would be joined in the meta itself.
        assert 'bands' not in found.meta
        assert 'bands' in posterior.meta

    def test_flags(self, found, posterior):
        missing, resampled = CatalogFlag.MISSING_BAND, CatalogFlag.RESAMPLED_BAND
        assert np.all(found['flags'] & missing == missing)
        assert not np.any(found['flags'] & resampled)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(posterior.meta, 'bands_resampled', ['g'])
            patch.setitem(posterior.meta, 'bands_missing', [])
            flags = posterior.at_threshold()['flags']
        assert np.all(flags & resampled == resampled)
        assert not np.any(flags & missing)

    def test_calibration(self, found, posterior, monkeypatch):
        monkeypatch.setitem(posterior.meta, 'bands_calibration', [1, 10, 1, 1])
        other = posterior.at_threshold()
        assert_allclose(other['flux_g'], 10 * found['flux_g'], rtol=1e-6)
        assert_allclose(other['flux_r'], found['flux_r'], rtol=1e-6)
        assert 'bands_calibration' not in other.meta

    def test_one_band_has_none(self, posterior, monkeypatch):
        monkeypatch.delitem(posterior.meta, 'bands')
        table = posterior.at_threshold(n_samples=3, rng=1)
        assert not [name for name in table.colnames if name.startswith('flux_r')]
        with pytest.raises(ValueError, match='column must be one of'):
            posterior.interval(table, 'flux_g', level=0.5)

    def test_set_of_exposures(self, posterior, found, monkeypatch):
        """
        Regions are of the reference band, checks and figures of all.
        """
        image = posterior.exposure
        bands = ExposureSet({'r': image, 'g': image, 'i': image})
        monkeypatch.setattr(posterior, 'exposures', bands)
        assert found.exposures is bands
        assert _methods._own_exposure(found, None) is bands
        assert found.plot().images[0].get_array().shape == (88, 88, 3)
        if importlib.util.find_spec('regions'):
            assert found.to_regions()[0].radius == image.psf_at(44, 44).fwhm

    def test_unknown_fluxes(self, posterior):
        candidates = posterior._found[-1]
        kept = candidates._packed['draws_colour_least'][0].clone()
        candidates._packed['draws_colour_least'][0] = torch.nan
        try:
            table = posterior.at_threshold(0.3, n_samples=4, rng=1)
        finally:
            candidates._packed['draws_colour_least'][0] = kept
        unknown = table['source_index'] == candidates.keys[0]
        assert unknown.sum() == 1
        for name in ('flux_g', 'flux_g_err', 'mag_g', 'flux_u_samples'):
            assert np.isnan(table[name][unknown]).all()
            assert np.isfinite(table[name][~unknown]).all()
        assert np.isfinite(table['flux_r'][unknown]).all()
        assert np.isfinite(table['flux_samples']).all()

    def test_by_hand(self):
        table = by_hand()
        assert_allclose(table['mag_r'], table['mag'])
        assert_allclose(table['mag_g'][2].value, 22.5 - 2.5 * np.log10(0.5))
        assert np.isnan(table['mag_g'][:2]).all()
        with pytest.raises(ValueError, match='must not hold mag_g'):
            by_hand(mag_g=[1, 2, 3])
        with pytest.raises(ValueError, match=r'flux_g_err.* must be 0 or more'):
            by_hand(flux_g_err=[0.1, -1, 0.1])
        # Other columns of a user are none of a band.
        table = by_hand(flux_aper=[1, 2, 3], mag_z=[20, 21, 22.0])
        assert not hasattr(table['flux_aper'], 'unit') or not table['flux_aper'].unit
        assert table['mag_z'].unit == u.mag

    def test_bands_of_other_names(self, tmp_path):
        facts = {'bands': ['r', 'F814W'], 'band_wavelengths': [617.0, 804.5]}
        more = {'flux_F814W': [1.0, 2.0, 3.0], 'flux_F814W_err': [0.1, 0.1, 0.1]}
        try:
            table = by_hand(meta={'image': facts}, **more)
            assert COLUMNS['flux_F814W'].ucd == 'phot.flux.density;em.opt.I'
            names = table.colnames
            start = names.index('mag_r_err') + 1
            assert names[start : start + 2] == ['flux_F814W', 'flux_F814W_err']
            table.write(tmp_path / 'cat.ecsv')
            # In another session.
            WAVELENGTHS.pop('F814W')
            assert 'flux_F814W' not in COLUMNS
            again = ProbabilisticCatalog.read(tmp_path / 'cat.ecsv')
            assert WAVELENGTHS['F814W'] == 804.5
            colors = again.colors('r-F814W', gaussian=True)
            assert_allclose(colors['r-F814W'][0].value, 2.5 * np.log10(2 / 4))
        finally:
            WAVELENGTHS.pop('F814W', None)

    def test_render(self, posterior, found):
        psf = PSFModel()
        whole = found.render(psf=psf, band='r')
        assert_allclose(whole, found.render(psf=psf))
        image = found.render(psf=psf, band='i')
        assert image.unit == u.nmgy
        assert image.sum() > 1.2 * whole.sum()
        with pytest.raises(ValueError, match='band must be one of'):
            found.render(band='z')

    def test_display(self, found):
        lines = found.pformat(max_width=80)
        assert all(len(line) <= 80 or ':' in line for line in lines)
        assert 'columns of bands' in lines[-1]
        wide = '\n'.join(found['id', 'flux_g', 'mag_g', 'mag_u'].pformat(max_width=-1))
        assert f'{found["mag_u"][0].value:.3f}' in wide


class TestColors:
    def test_neighbours_in_wavelength(self, found):
        colors = found.colors()
        pairs = ['u-g', 'g-r', 'r-i']
        assert colors.colnames == ['id', *(n for p in pairs for n in (p, f'{p}_err'))]
        assert_array_equal(colors['id'], found['id'])
        # The colour of what is measured relative to r is known better than its flux.
        assert_allclose(colors['r-i'].to_value(u.mag), 0.3 * MAG, atol=0.01)
        assert_allclose(colors['r-i_err'].to_value(u.mag), 0.02 * MAG, rtol=0.15)
        apart = (found['mag_g'] - found['mag_r']).value
        assert_allclose(colors['g-r'].value, apart, atol=0.03)
        own = np.hypot(found['mag_err'].value, 0.05 * MAG)
        assert_allclose(colors['g-r_err'].value, own, rtol=0.25)
        assert np.all(colors['u-g_err'] > 0.4 * u.mag)
        assert colors['g-r'].info.meta['ucd'] == 'phot.color;em.opt.B;em.opt.R'
        assert check_ucd(colors['g-r_err'].info.meta['ucd'], True)

    def test_chosen_pairs(self, found):
        colors = found[1:].colors(['i-g', ('g', 'i')])
        assert len(colors) == len(found) - 1
        assert_allclose(colors['i-g'], -colors['g-i'])
        assert_allclose(colors['i-g_err'], colors['g-i_err'])
        assert found.colors('g-i').colnames == ['id', 'g-i', 'g-i_err']
        for wrong in (['g'], ['g-q'], [('g', 'r', 'i')]):
            with pytest.raises(ValueError, match='pairs must be two of u, g, r, i'):
                found.colors(wrong)

    def test_of_samples_and_of_errors(self, found, tmp_path):
        found.write(tmp_path / 'cat.ecsv', posterior=False)
        again = ProbabilisticCatalog.read(tmp_path / 'cat.ecsv')
        exact, drawn = found.colors(['r-i', 'g-r']), again.colors(['r-i', 'g-r'])
        # Of 50 draws.
        assert_allclose(drawn['r-i'].value, exact['r-i'].value, atol=0.03)
        apart = (drawn['g-r'] - exact['g-r']) / exact['g-r_err']
        assert np.abs(apart).max() < 1
        rough = again.colors(['r-i', 'g-r'], gaussian=True)
        error = np.hypot(found['mag_r_err'], found['mag_i_err'])
        assert_allclose(rough['r-i_err'], error)
        assert np.all(rough['r-i_err'] > exact['r-i_err'])

    def test_by_hand(self):
        table = by_hand()
        colors = table.colors(gaussian=True)
        assert_allclose(colors['g-r'][2].value, 2.5 * np.log10(2))
        assert np.isnan(colors['g-r'][:2]).all()
        with pytest.raises(ValueError, match='no draws of'):
            table.colors()
        with pytest.raises(ValueError, match='have fluxes in two bands'):
            table[[n for n in table.colnames if '_g' not in n]].colors()

    def test_units_without_magnitudes(self):
        table = by_hand()
        table['flux'] = np.asarray(table['flux'])
        with pytest.raises(ValueError, match='unit that has magnitudes'):
            table.colors()

    def test_no_rows(self, found):
        colors = found[:0].colors()
        assert len(colors) == 0
        assert colors['g-r_err'].unit == u.mag


class TestDraws:
    def test_intervals(self, found):
        low, high = found.credible_interval('flux_g', 0.6826894921)
        assert_allclose(0.5 * (high - low), found['flux_g_err'], rtol=1e-6)
        assert low.unit == u.nmgy
        bright, faint = found.credible_interval('mag_g', 0.9)
        own = found.credible_interval('flux_g', 0.9)
        assert_allclose(faint.value, 22.5 - 2.5 * np.log10(own[0].value))
        assert np.all(bright < found['mag_g'])
        for limits in zip(
            found.credible_interval('flux_r', 0.9),
            found.credible_interval('flux', 0.9),
            strict=True,
        ):
            assert_array_equal(*limits)
        wide = found.credible_interval('flux_g', 0.9, gaussian=True)
        assert np.all(wide[1] > found['flux_g'])

    def test_joint_samples(self, found):
        names = ['flux_g', 'flux_r', 'flux_i', 'mag_i', 'flux_u']
        drawn = found.samples(names, n_samples=2000, rng=2)
        assert list(drawn) == names
        assert all(isinstance(values, Distribution) for values in drawn.values())
        assert drawn['flux_g'].unit == u.nmgy
        logs = {n: np.log(drawn[n].distribution.value) for n in names if n != 'mag_i'}
        # Both follow the flux in r, or do not, as they were made.
        apart = logs['flux_i'] - logs['flux_r']
        assert_allclose(np.median(apart, 1), 0.3, atol=0.01)
        assert_allclose(np.std(apart, 1), 0.02, rtol=0.2)
        assert_allclose(np.std(logs['flux_g'], 1), 0.05, rtol=0.2)
        for g, r in zip(logs['flux_g'], logs['flux_r'], strict=True):
            assert abs(np.corrcoef(g, r)[0, 1]) < 0.25
        assert_allclose(np.std(logs['flux_u'] - logs['flux_r'], 1), 0.5, rtol=0.2)
        mag = 22.5 - 2.5 / np.log(10) * logs['flux_i']
        assert_allclose(drawn['mag_i'].distribution.value, mag)
        assert_allclose(
            np.median(drawn['flux_g'].distribution, 1), found['flux_g'], rtol=0.03
        )

    def test_types_in_joint_samples(self, found):
        drawn = found.samples(['galaxy', 'flux_g', 'e1'], n_samples=400, rng=1)
        share = drawn['galaxy'].distribution.mean(1)
        # A binomial share of 400.
        assert_allclose(share, found['galaxy_probability'], atol=0.12)
        kept = found.samples(['galaxy', 'flux_g'])['galaxy'].distribution
        assert_array_equal(kept, found['galaxy_samples'])
        with pytest.raises(ValueError, match='column must be one of'):
            by_hand().samples(['galaxy', 'flux_g'])

    def test_samples_of_one_flux(self, found):
        one = found.samples('flux_g', n_samples=20, rng=4)
        both = found.samples(['flux', 'flux_g'], n_samples=20, rng=4)
        assert_array_equal(one.distribution, both['flux_g'].distribution)
        kept = found.samples(['flux_g', 'flux'])
        assert_array_equal(kept['flux_g'].distribution, found['flux_g_samples'])
        with pytest.raises(ValueError, match='column must be one of'):
            found.samples(['flux_g', 'flux_z'])
        with pytest.raises(TypeError, match='column must be a list of names; got int'):
            found.samples(3)
        with pytest.raises(TypeError, match='pairs must be a list of names; got int'):
            found.colors(3)

    def test_types_belong_to_their_fluxes(self):
        """
        Stars of one flux and galaxies of another, with a colour each.
        """
        rng = np.random.default_rng(1)
        galaxy = rng.uniform(size=(3, 400)) < 0.4
        flux = rng.normal(4, 1, (3, 400))
        ratio = np.where(galaxy, 1.0, -1.0)
        draws = {'flux': flux, 'type': 1.0 * galaxy}
        draws = {k: torch.from_numpy(v)[..., None] for k, v in draws.items()}
        draws['colour'] = torch.from_numpy(np.stack([0 * ratio, ratio], -1))
        bands = BandDraws(draws, {'bands': ['r', 'g']})
        wanted = rng.normal(4, 0.5, (3, 50)), rng.uniform(size=(3, 50)) < 0.5
        ratios = bands.given(*wanted)
        assert_allclose(ratios['g'], np.where(wanted[1], 1.0, -1.0), atol=0.05)

    def test_nearest_draw(self):
        values = np.array([[3.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
        wanted = np.array([[0.0, 1.4, 1.6, 9.0], [1.0, 5.0, 9.0, 5.0]])
        index = _bands._nearest(values, wanted)
        assert_array_equal(index[0], [1, 1, 2, 0])
        assert np.all((index[1] >= 0) & (index[1] < 3))
        assert_array_equal(_bands._nearest(values[:, :1], wanted), 0)

    def test_regression_between_draws(self):
        """
        Fluxes in g do not depend on those in r, few draws or not.
        """
        flux = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
        draws = {'flux': torch.from_numpy(flux)[..., None]}
        colour = np.stack([0 * flux, 5.0 - flux], -1)
        draws['colour'] = torch.from_numpy(colour)
        wanted = np.array([[0.0, 1.2, 2.6, 9.0], [2.0, 1.0, 3.0, 2.0]])
        ratios = BandDraws(draws, {'bands': 'rg'}).given(wanted)
        assert_allclose((wanted + ratios['g'])[0], 5.0)
        assert_allclose(ratios['g'][1], 3.0)


class TestFiles:
    @pytest.mark.parametrize('ending', ['fits', 'ecsv', 'parquet', 'vot'])
    def test_round_trip(self, found, tmp_path, ending):
        if ending == 'parquet':
            pytest.importorskip('pyarrow')
        path = tmp_path / f'cat.{ending}'
        found['flux_g'][1] = np.nan
        found.write(path, posterior=ending == 'fits')
        again = ProbabilisticCatalog.read(path)
        assert again.colnames == found.colnames
        for name in ('flux_g', 'flux_u_err', 'mag_i', 'flux_g_samples', 'flags'):
            assert_array_equal(np.asarray(again[name]), np.asarray(found[name]))
            assert getattr(again[name], 'unit', None) == found[name].unit
            assert again[name].info.description == found[name].info.description
        assert again.image['bands'] == BANDS
        assert_allclose(
            again.colors(gaussian=True)['r-i'], found.colors(gaussian=True)['r-i']
        )
        assert len(vstack([found, again])) == 2 * len(found)
        if ending != 'fits':
            return
        low, _ = again.credible_interval('flux_i', 0.5)
        assert_allclose(low, found.credible_interval('flux_i', 0.5)[0])
        assert_allclose(again.colors()['g-r'], found.colors()['g-r'])
        header = fits.getheader(path, 'CATALOG')
        column = found.colnames.index('flux_i') + 1
        assert header[f'TUCD{column}'] == 'phot.flux.density;em.opt.I'

    def test_hdf5_and_csv(self, found, tmp_path):
        pytest.importorskip('h5py')
        found.write(tmp_path / 'cat.hdf5', posterior=False)
        again = QTable.read(tmp_path / 'cat.hdf5')
        assert_array_equal(again['flux_i'], found['flux_i'])
        assert again['mag_i'].unit == u.mag

    def test_stacked(self, found):
        other = by_hand()
        with pytest.warns(UserWarning, match='posterior belongs to one image'):
            both = vstack([found, other], metadata_conflicts='silent')
        assert len(both.colors('g-r', gaussian=True)) == len(found) + 3


class TestDrawnCatalogues:
    def test_fluxes_of_all_bands(self):
        """
        Colours are drawn with the flux and the rest of a source.
        """
        sizes = dict.fromkeys(('width', 'stem_width', 'head_width'), 16)
        config = EncoderConfig(**sizes, n_blocks=1, bands=True)
        encoder = Encoder(config).eval().requires_grad_(False)
        torch.nn.init.zeros_(encoder.head.count.bias)
        simulation = SimulationConfig(
            bands=('u', 'g', 'r', 'i'),
            band_shares=(0, 0, 0, 1),
            reference_shares=(0, 0, 1, 0),
            shape=(32, 32),
            n_exposures=(1, 1),
        )
        images = SimulationStream(simulation, device='cpu').sample_batch(
            1, generator=torch.Generator().manual_seed(2)
        )
        tiles = encoder(EncoderInputs.from_bands(images))
        posterior = CatalogPosterior(tiles, np.ones((8, 8)), unit=u.nmgy)
        plain = posterior.sample(1, rng=1)[0]
        assert plain['colour'].shape == (len(plain), 4)
        posterior.meta['bands'] = ['r', 'u', 'g', 'i']
        table = posterior.sample(1, rng=1)[0]
        assert 'colour' not in table.colnames
        ratio = np.log(np.asarray(table['flux_g'] / table['flux']))
        assert_allclose(ratio, plain['colour'][:, 2], rtol=1e-6)
