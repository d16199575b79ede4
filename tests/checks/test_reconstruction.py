# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images taken apart: nothing is lost, and every source gets its own light.
"""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

import bliss_astro
from bliss_astro import (
    BlissFinder,
    CoaddSimulator,
    Exposure,
    PSFModel,
    reconstruct,
)
from bliss_astro.catalog import ProbabilisticCatalog
from bliss_astro.checks import Reconstruction
from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.priors import GALAXY_SHAPE_NAMES
from bliss_astro.rendering import TorchRenderer

SHAPE = (80, 90)
SKY, GAIN = 400.0, 1.0
SCALE = 0.396
# Two galaxies and a star that overlap, and a faint star apart.
X, Y = np.array([38.2, 46.9, 43.1, 14.6]), np.array([40.3, 43.7, 33.8, 66.1])
FLUX = np.array([3e4, 2e4, 1e4, 2e3])
GALAXIES = np.array(
    [
        [0.7, 0.5, 0.5, 0.8, 4.0, 2.0],
        [0.4, 2.0, 0.6, 0.7, 3.0, 2.5],
        [np.nan] * 6,
        [np.nan] * 6,
    ]
)


class DrawsItself:
    """
    A posterior whose draws are brighter and brighter copies of the catalogue.
    """

    shape = SHAPE
    wcs = None

    def sample(self, n=1, *, rng=None):
        rng = np.random.default_rng(rng)
        return [self.table(1 + 0.1 * rng.random()) for _ in range(n)]

    def table(self, factor):
        names = ('x_centroid', 'y_centroid', 'flux', 'is_galaxy')
        table = QTable([X, Y, FLUX * factor, np.isfinite(GALAXIES[:, 0])], names=names)
        for name, values in zip(GALAXY_SHAPE_NAMES, GALAXIES.T, strict=True):
            table[name] = values * u.rad if name == 'angle' else values
        return table


def make_catalog(rows=slice(None), *, unit=None, wcs=None, posterior=None):
    flux = FLUX[rows] if unit is None else FLUX[rows] * unit
    one = np.ones(len(flux))
    columns = {
        'probability': one,
        'galaxy_probability': np.isfinite(GALAXIES[rows, 0]).astype(float),
        'x_centroid': X[rows],
        'y_centroid': Y[rows],
        'x_err': 0.1 * one,
        'y_err': 0.1 * one,
        'flux': flux,
        'flux_err': 0.02 * flux,
    }
    for name, values in zip(GALAXY_SHAPE_NAMES, GALAXIES[rows].T, strict=True):
        columns[name] = np.rad2deg(values) if name == 'angle' else values
        if name.endswith('radius'):
            columns[name] = values * (u.pix if wcs is None else SCALE * u.arcsec)
    return ProbabilisticCatalog.from_columns(
        columns, image_shape=SHAPE, unit=unit, wcs=wcs, posterior=posterior
    )


def make_exposure(*, noise=True, unit=None, wcs=None, psf=True, mask=None, **changes):
    light = make_catalog().render(psf=PSFModel())
    rng = np.random.default_rng(8)
    data = light + SKY
    if noise:
        data = data + rng.normal(size=SHAPE) * np.sqrt(data / GAIN)
    return Exposure(
        data,
        background=SKY,
        bkg_error=np.sqrt(SKY / GAIN),
        effective_gain=GAIN,
        psf=PSFModel() if psf else None,
        unit=unit,
        wcs=wcs,
        mask=mask,
        **changes,
    )


@pytest.fixture(scope='module')
def wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval, wcs.wcs.crpix = (150.0, 2.0), (30, 30)
    wcs.wcs.cdelt = -SCALE / 3600, SCALE / 3600
    return wcs


@pytest.fixture(scope='module')
def result():
    catalog = make_catalog(posterior=DrawsItself())
    return reconstruct(make_exposure(), catalog, n_draws=3, rng=1)


# -- model and residual ------------------------------------------------------------


def test_the_true_catalogue_leaves_noise(result):
    assert isinstance(result, Reconstruction)
    assert result.shape == SHAPE
    assert_array_equal(result.model, result.catalog.render(psf=PSFModel()))
    exposure = result.exposure
    assert_allclose(result.residual, exposure.data - SKY - result.model, atol=2e-3)
    error = np.sqrt(SKY + result.model)
    assert_allclose(result.chi, result.residual / error, rtol=1e-5)
    # 7200 pixels of unit variance: the mean square is 1 +- sqrt(2 / 7200).
    assert abs(np.mean(result.chi.astype(float) ** 2) - 1) < 4 * np.sqrt(2 / 7200)
    assert '4 sources' in repr(result)
    assert '3 draws' in repr(result)


def test_a_missing_row_stays_in_the_residual(result):
    part = reconstruct(result.exposure, result.catalog[:1])
    assert part.residual.sum() > 0.8 * FLUX[1:].sum()
    assert np.nanmax(part.chi) > 10


def test_draws_are_images_of_drawn_catalogues(result):
    assert result.draws.shape == (3, *SHAPE)
    factors = 1 + 0.1 * np.random.default_rng(1).random(3)
    for draw, factor in zip(result.draws, factors, strict=True):
        assert_allclose(draw, factor * result.model, rtol=1e-4, atol=0.1)
    again = reconstruct(result.exposure, result.catalog, n_draws=3, rng=1)
    assert_array_equal(again.draws, result.draws)


def test_bad_pixels_are_nan():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[40, 38:41] = True
    result = reconstruct(make_exposure(mask=mask), make_catalog())
    assert_array_equal(np.isnan(result.residual), mask)
    assert_array_equal(np.isnan(result.chi), mask)
    assert np.isfinite(result.model).all()
    # The model fills in what the data do not say.
    star = result.deblended(0)
    assert_allclose(
        star.data[mask[star.slices]], result.source(0).data[mask[star.slices]]
    )


def test_maps_of_noise_and_sky_are_used():
    base = make_exposure()
    ramp = np.linspace(0, 50, SHAPE[1]) * np.ones((SHAPE[0], 1))
    other = base.replace(data=base.data + ramp, background=SKY + ramp)
    assert_allclose(
        reconstruct(other, make_catalog()).residual,
        reconstruct(base, make_catalog()).residual,
        atol=2e-3,
    )
    noisy = base.replace(bkg_error=np.where(ramp > 25, 80.0, 20.0))
    chi = reconstruct(noisy, make_catalog()).chi
    assert chi[:, 50:].std() < 0.5 * chi[:, :40].std()


# -- single sources -------------------------------------------------------------------


def spread(source, shape=SHAPE):
    out = np.zeros(shape)
    out[source.slices] = source.data
    return out


def test_sources_sum_up_to_the_model(result):
    total = sum(spread(result.source(row)) for row in range(4))
    # What is cut off is below 0.5 % of the noise, for each of four.
    assert_allclose(total, result.model, rtol=1e-4, atol=0.02 * np.sqrt(SKY))
    source = result.source(2)
    assert source.shape == source.data.shape
    peak = np.unravel_index(source.data.argmax(), source.shape)
    assert abs(peak[0] - source.y) <= 0.5
    assert abs(peak[1] - source.x) <= 0.5
    assert source.slices[1].start + source.x == pytest.approx(X[2])
    # Stars have their flux within 18.76 pixels, galaxies altogether.
    assert_allclose(result.source(2).flux, FLUX[2], rtol=0.02)
    assert_allclose(result.source(0, size=90).flux, FLUX[0], rtol=0.02)


@pytest.mark.parametrize('floor', [0.0, 0.5, 2.0])
def test_deblending_conserves_flux(result, floor):
    total = sum(
        spread(result.deblended(row, size=400, floor=floor)) for row in range(4)
    )
    bright = result.model > floor * np.sqrt(SKY)
    assert bright.any()
    data = result.exposure.data - SKY
    # The formula is exact; single precision is good to 1e-6 of the values.
    assert_allclose(total[bright], data[bright], rtol=1e-4, atol=0.05)
    assert_allclose(total[~bright], result.model[~bright], rtol=1e-4, atol=0.05)


def test_deblending_follows_its_formula(result):
    own = result.source(1, size=40)
    data = (result.exposure.data - SKY)[own.slices]
    total = result.model[own.slices]
    shared = total > np.sqrt(SKY)
    assert 0.1 < shared.mean() < 0.9
    expected = np.where(shared, data * own.data / np.where(shared, total, 1), own.data)
    deblended = result.deblended(1, size=40)
    assert deblended.slices == own.slices
    assert_allclose(deblended.data, expected, rtol=1e-4, atol=0.02)


def test_the_right_model_deblends_without_error():
    result = reconstruct(make_exposure(noise=False), make_catalog())
    for row in range(4):
        own, share = result.source(row), result.deblended(row)
        assert_allclose(share.data, own.data, rtol=2e-4, atol=0.01)


def test_shares_are_better_than_apertures(result):
    """
    Neighbours are taken off: the share of the faintest of three has its flux.
    """
    star = result.deblended(2, size=16)
    truth = result.source(2, size=16).flux
    blend = (result.exposure.data - SKY)[star.slices].sum()
    error = np.sqrt((SKY + result.model[star.slices]).sum())
    assert abs(star.flux - truth) < 3 * error
    assert blend - truth > 10 * error


def test_cutouts_follow(result, wcs):
    part = result.cutout(1, 20)
    assert part.shape == (20, 20)
    rows, columns = part.slices
    assert_array_equal(part.model, result.model[rows, columns])
    assert_array_equal(part.residual, result.residual[rows, columns])
    assert_array_equal(part.chi, result.chi[rows, columns])
    assert_array_equal(part.draws, result.draws[:, rows, columns])
    assert_array_equal(part.exposure.data, result.exposure.data[rows, columns])
    assert abs(0.5 * (columns.start + columns.stop - 1) - X[1]) <= 0.5
    assert abs(0.5 * (rows.start + rows.stop - 1) - Y[1]) <= 0.5
    # Rows keep their numbers, and their places.
    own = part.source(0)
    whole = result.source(0, size=400)
    assert_allclose(
        own.data,
        whole.data[rows, columns][own.slices],
        rtol=1e-4,
        atol=3e-4 * whole.data.max(),
    )
    assert own.slices[1].start + columns.start + own.x == pytest.approx(X[0])
    # And of parts.
    again = part[5:, :10]
    assert_array_equal(again.model, part.model[5:, :10])
    assert again.slices == (
        slice(rows.start + 5, rows.stop),
        slice(columns.start, columns.start + 10),
    )
    corner = result.cutout(3, (60, 60))
    assert corner.shape[0] < 60
    with_wcs = reconstruct(make_exposure(wcs=wcs), make_catalog(wcs=wcs)).cutout(0, 9)
    x, y = X[0] - with_wcs.slices[1].start, Y[0] - with_wcs.slices[0].start
    sky = wcs.pixel_to_world(X[0], Y[0])
    assert sky.separation(with_wcs.exposure.wcs.pixel_to_world(x, y)).arcsec < 1e-6


def test_sources_beyond_a_part_are_reported(result):
    part = result[:20, 60:]
    with pytest.raises(ValueError, match='no pixels in this part'):
        part.source(3)


# -- units and coordinates ---------------------------------------------------------


def test_units_and_coordinates_make_no_difference(result, wcs):
    exposure = make_exposure(unit=u.nmgy, wcs=wcs)
    catalog = make_catalog(unit=u.nmgy, wcs=wcs)
    assert catalog['disk_radius'].unit == u.arcsec
    other = reconstruct(exposure, catalog)
    assert other.unit == u.nmgy
    assert_allclose(other.model, result.model, rtol=1e-4, atol=0.02)


# -- with the posterior of a detection ------------------------------------------------


@pytest.fixture(scope='module')
def simulated():
    return CoaddSimulator().sample(rng=3)


def test_detects_by_itself(simulated):
    exposure, _ = simulated
    result = reconstruct(
        exposure, finder=BlissFinder(0.6, encoder='stars'), n_draws=2, rng=5
    )
    assert result.catalog.meta['threshold'] == 0.6
    assert len(result.catalog) > 0
    assert result.draws.shape == (2, *exposure.shape)
    assert_allclose(result.draws.sum((1, 2)), result.model.sum(), rtol=0.3)
    # chi2 / n of 7744 pixels is 1 +- 0.016, and the network's fluxes are not exact.
    assert np.nanmean(result.chi.astype(float) ** 2) < 1.25
    assert result.unit == exposure.unit


def test_the_psf_of_the_posterior_steps_in(simulated):
    exposure, _ = simulated
    full = reconstruct(exposure, finder=BlissFinder(encoder='stars'))
    blind = reconstruct(exposure.replace(psf=None), full.catalog)
    assert_allclose(blind.model, full.model, rtol=1e-3, atol=1e-3 * full.model.max())


def test_shapes_of_an_encoder_are_drawn(simulated, wcs):
    """
    An untrained encoder: its numbers mean nothing, but they are those of the image.
    """
    config = EncoderConfig(
        galaxies=True, shapes=True, width=16, n_blocks=1, stem_width=16, head_width=16
    )
    encoder = Encoder(config).eval().requires_grad_(False)
    torch.nn.init.zeros_(encoder.head.count.bias)
    exposure = simulated[0][:12, :12].replace(wcs=wcs)
    catalog = bliss_astro.detect_sources(
        exposure, 0.05, encoder=encoder, density=0.01, check=False
    )
    assert catalog['disk_radius'].unit == u.arcsec
    catalog['galaxy_probability'] = 1.0
    result = reconstruct(exposure, catalog, n_draws=1, rng=1)
    galaxies = [np.asarray(catalog[name]) for name in GALAXY_SHAPE_NAMES]
    galaxies = np.stack(galaxies, axis=1)
    galaxies[:, 1] = np.deg2rad(galaxies[:, 1])
    galaxies[:, 4:] /= SCALE
    parts = [np.asarray(catalog[n]) for n in ('x_centroid', 'y_centroid', 'flux')]
    drawn = TorchRenderer().render(exposure.psf, *parts, (12, 12), galaxy=galaxies)
    assert_allclose(result.model, drawn, rtol=1e-3, atol=1e-3 * drawn.max())
    (draw,), (table,) = result.draws, catalog.posterior.sample(1, rng=1)
    assert table['is_galaxy'].any()
    light = np.nansum(table['flux'].value)
    assert 0.3 * light < draw.sum() < 1.1 * light


# -- files ------------------------------------------------------------------------


def test_files_hold_everything(tmp_path, wcs):
    path = tmp_path / 'r.fits.gz'
    catalog = make_catalog(unit=u.nmgy, wcs=wcs)
    result = reconstruct(make_exposure(unit=u.nmgy, wcs=wcs), catalog)
    result.write(path)
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus[1:4]] == ['MODEL', 'RESIDUAL', 'CHI']
        assert 'DRAWS' not in hdus
        for name in ('MODEL', 'RESIDUAL', 'CHI'):
            data, header = hdus[name].data, hdus[name].header
            assert_array_equal(data, getattr(result, name.lower()))
            assert ('BUNIT' in header) == (name != 'CHI')
            sky = WCS(header).pixel_to_world(X, Y)
            assert sky.separation(wcs.pixel_to_world(X, Y)).arcsec.max() < 1e-6
        assert u.Unit(hdus['MODEL'].header['BUNIT']) == u.nmgy
    rows = ProbabilisticCatalog.read(path)
    assert len(rows) == 4
    assert_array_equal(rows['flux'], catalog['flux'])


def test_draws_and_parts_in_files(tmp_path, result):
    path = tmp_path / 'part.fits'
    part = result.cutout(1, 20)
    part.write(path)
    with fits.open(path) as hdus:
        assert_array_equal(hdus['DRAWS'].data, part.draws)
        assert hdus['MODEL'].header['LTV1'] == -part.slices[1].start
        assert hdus['MODEL'].header['LTV2'] == -part.slices[0].start


def test_the_posterior_is_kept_on_demand(tmp_path, simulated):
    result = reconstruct(simulated[0], finder=BlissFinder(encoder='stars'))
    result.write(tmp_path / 'a.fits')
    result.write(tmp_path / 'b.fits', posterior=True)
    assert ProbabilisticCatalog.read(tmp_path / 'a.fits').posterior is None
    catalog = ProbabilisticCatalog.read(tmp_path / 'b.fits')
    # With it a catalogue draws itself.
    drawn = catalog.render()
    assert_allclose(drawn.value, result.model, rtol=1e-3, atol=1e-3 * drawn.value.max())


def test_existing_files_are_kept(tmp_path, result, monkeypatch):
    path = tmp_path / 'r.fits'
    path.write_text('mine')
    with pytest.raises(OSError, match='already exists'):
        result.write(path)
    assert path.read_text() == 'mine'

    def fail(*args, **kwargs):
        msg = 'disk full'
        raise OSError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(fits.HDUList, 'writeto', fail)
        with pytest.raises(OSError, match='disk full'):
            result.write(path, overwrite=True)
    assert path.read_text() == 'mine'
    assert [p.name for p in tmp_path.iterdir()] == ['r.fits']
    result.write(path, overwrite=True)
    assert fits.getdata(path, 'MODEL').shape == SHAPE
    with pytest.raises(ValueError, match='path must end in'):
        result.write(tmp_path / 'r.png')


# -- bad input -----------------------------------------------------------------------


def test_empty_catalogues_leave_everything(tmp_path):
    exposure = make_exposure()
    result = reconstruct(exposure, make_catalog(slice(0, 0)))
    assert not result.model.any()
    assert_allclose(result.residual, exposure.data - SKY, atol=1e-3)
    assert '0 sources' in repr(result)
    with pytest.raises(IndexError, match='which has 0'):
        result.source(0)
    result.write(tmp_path / 'empty.fits')
    assert len(ProbabilisticCatalog.read(tmp_path / 'empty.fits')) == 0


def test_the_wrong_catalogue_is_refused(result):
    exposure, catalog = result.exposure, result.catalog
    with pytest.raises(ValueError, match=r'exposure has shape \(40, 90\)'):
        reconstruct(exposure[:40], catalog)
    with pytest.raises(ValueError, match='unit'):
        reconstruct(exposure, make_catalog(unit=u.nmgy))
    with pytest.raises(TypeError, match='exposure must be an Exposure'):
        reconstruct(exposure.data, catalog)
    with pytest.raises(TypeError, match='exposure must be an Exposure'):
        reconstruct(exposure.data)
    with pytest.raises(TypeError, match='catalog must be ProbabilisticCatalog'):
        reconstruct(exposure, QTable(catalog))
    with pytest.raises(TypeError, match='finder is for detecting'):
        reconstruct(exposure, catalog, finder=BlissFinder(0.5))
    with pytest.raises(TypeError, match='finder must be BlissFinder; got str'):
        reconstruct(exposure, finder='stars')
    with pytest.raises(ValueError, match='exposure has no psf'):
        reconstruct(exposure.replace(psf=None), make_catalog())


@pytest.mark.parametrize('n_draws', [-1, 1.5, True, 'two'])
def test_impossible_numbers_of_draws_are_refused(result, n_draws):
    with pytest.raises(ValueError, match='n_draws must be an integer'):
        reconstruct(result.exposure, result.catalog, n_draws=n_draws)


def test_draws_need_a_posterior(result):
    with pytest.raises(ValueError, match='no posterior to draw from'):
        reconstruct(result.exposure, make_catalog(), n_draws=1)


def test_bad_rows_sizes_and_floors_are_refused(result):
    assert_array_equal(result.source(-1).data, result.source(3).data)
    for row, error in ((4, IndexError), (-5, IndexError), (1.5, TypeError)):
        for method in (result.source, result.deblended, result.cutout):
            with pytest.raises(error, match='row must be'):
                method(row)
    for size, error in ((0, ValueError), (2.5, TypeError), ((3, 4, 5), TypeError)):
        with pytest.raises(error, match='size must be'):
            result.source(0, size=size)
    for floor in (-1, np.nan, 'sky'):
        with pytest.raises(ValueError, match='floor must be'):
            result.deblended(0, floor=floor)


def test_galaxies_without_shapes_are_reported(result):
    catalog = make_catalog()
    catalog.remove_column('angle')
    with pytest.warns(AstropyUserWarning, match="'angle'.* drawn as stars"):
        reconstruct(result.exposure, catalog)


def test_is_a_door():
    assert bliss_astro.reconstruct is reconstruct
    assert 'reconstruct' in bliss_astro.__all__
