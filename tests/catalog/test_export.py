# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of catalogues as figures, regions and segmentation images.
"""

import runpy
import sys
import time

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, vstack
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import CoaddSimulator, PSFModel, detect_sources
from bliss_astro.catalog import ProbabilisticCatalog


def rows(flux, x, y, **more):
    """
    A catalogue of rows whose faint ones have an error of 10.
    """
    n = len(flux)
    columns = {'flux': flux, 'x_centroid': x, 'y_centroid': y, **more}
    columns |= dict.fromkeys(('probability', 'x_err', 'y_err'), np.full(n, 0.9))
    columns['flux_err'] = np.full(n, 10.0)
    return ProbabilisticCatalog.from_columns(columns, image_shape=(50, 60))


@pytest.fixture
def three():
    return rows([5000.0, 900.0, 30.0], [20.0, 26.0, 45.0], [30.0, 30.0, 10.0])


@pytest.fixture(scope='module')
def detected():
    """
    A simulated field, its true stars and the catalogue of its own.
    """
    exposure, truth = CoaddSimulator().sample(rng=3)
    return exposure, truth, detect_sources(exposure, encoder='stars', check=False)


class TestPlot:
    @pytest.fixture(autouse=True)
    def _no_window(self):
        plt = pytest.importorskip('matplotlib.pyplot')
        plt.switch_backend('agg')
        yield
        plt.close('all')

    def test_of_the_own_image(self, detected):
        exposure, truth, catalog = detected
        ax = catalog.plot(truth=truth)
        ny, nx = exposure.shape
        assert ax.get_images()[0].get_array().shape == (ny, nx)
        circles = ax.collections[0]
        assert_allclose(circles.get_array(), catalog['probability'])
        offsets = np.stack([catalog['x_centroid'], catalog['y_centroid']], axis=1)
        assert_allclose(circles.get_offsets(), offsets)
        # Rows that were selected are drawn alone.
        ax = catalog[:1].plot()
        assert len(ax.collections[0].get_offsets()) == 1

    def test_of_a_given_image_on_the_sky(self, make_catalog):
        cat = make_catalog('wcs', posterior=None)
        ax = cat.plot(np.zeros((60, 80)))
        assert hasattr(ax, 'coords')
        other = cat.plot(np.zeros((60, 80)), ax=ax, colorbar=False)
        assert other is ax

    def test_without_an_image(self, make_catalog):
        with pytest.raises(ValueError, match='image must be given'):
            make_catalog(posterior=None).plot()


class TestRegions:
    @pytest.fixture
    def regions(self):
        return pytest.importorskip('regions')

    def test_pixels(self, regions, three, tmp_path):
        path = tmp_path / 'three.reg'
        made = three.to_regions(path)
        assert [type(region) for region in made] == [regions.CirclePixelRegion] * 3
        read = regions.Regions.read(path, format='ds9')
        for region, again, row in zip(made, read, three, strict=True):
            position = row['x_centroid'], row['y_centroid']
            assert_allclose(region.center.xy, position)
            assert_allclose(again.center.xy, position)
            assert region.radius == 5
            assert str(again.meta['text']) == str(row['id'])
        # DS9 counts pixels from 1.
        assert 'circle(21.0' in path.read_text()

    def test_sky(self, regions, make_catalog, tmp_path):
        cat = make_catalog('wcs', posterior=None)
        path = tmp_path / 'sky.reg'
        made = cat.to_regions(path, radius=2)
        read = regions.Regions.read(path, format='ds9')
        scale = u.Quantity(cat.wcs.proj_plane_pixel_scales()).mean()
        for region, again, row in zip(made, read, cat, strict=True):
            assert isinstance(region, regions.CircleSkyRegion)
            assert region.center.separation(row['sky_centroid']) < 1 * u.mas
            assert again.center.separation(row['sky_centroid']) < 1 * u.mas
            assert_allclose(region.radius.to_value(u.deg), 2 * scale.to_value(u.deg))
        pixel = cat.to_regions(sky=False, radius=1 * u.arcmin)[0]
        expected = (1 * u.arcmin / scale).to_value(u.dimensionless_unscaled)
        assert_allclose(pixel.radius, expected)

    def test_kinds_have_colours(self, regions):
        cat = rows([3.0, 2.0], [1, 2], [1, 2], galaxy_probability=[0.9, 0.1])
        assert [r.visual['color'] for r in cat.to_regions()] == ['orange', 'cyan']

    def test_text_and_tags(self, regions):
        cat = rows([3.0, 2.0], [1, 2], [1, 2], galaxy_probability=[0.9, 0.1])
        text = '{id}: {probability:.2f}'
        first, second = cat.to_regions(text=text)
        assert first.meta['text'] == f'1: {cat["probability"][0]:.2f}'
        assert (first.meta['tag'][1], second.meta['tag'][1]) == ('galaxy', 'star')
        lines = cat.to_regions(text=text).serialize(format='ds9').splitlines()
        assert 'color=orange' in lines[2]
        assert 'text={1: ' in lines[2]
        with pytest.raises(KeyError, match='size'):
            cat.to_regions(text='{size}')

    def test_radius_is_that_of_the_psf(self, regions, detected):
        exposure, _, cat = detected
        assert_allclose(cat.to_regions()[0].radius, exposure.psf_at(44, 44).fwhm)

    def test_none(self, regions, three, tmp_path):
        path = tmp_path / 'none.reg'
        assert len(three[:0].to_regions(path)) == 0
        assert len(regions.Regions.read(path, format='ds9')) == 0

    @pytest.mark.parametrize(
        ('options', 'error', 'message'),
        [
            ({'sky': True}, ValueError, 'the image had no WCS'),
            ({'radius': -1}, ValueError, 'radius must be positive'),
            ({'radius': np.nan}, ValueError, 'radius must be positive'),
            ({'radius': 'big'}, TypeError, 'radius must be a number'),
            ({'radius': 1 * u.s}, TypeError, 'radius must be a number'),
            ({'radius': 1 * u.arcsec}, ValueError, 'give radius as a number of pix'),
        ],
    )
    def test_errors(self, regions, three, tmp_path, options, error, message):
        with pytest.raises(error, match=message):
            three.to_regions(tmp_path / 'x.reg', **options)
        assert not list(tmp_path.iterdir())

    def test_existing_file(self, regions, three, tmp_path):
        path = tmp_path / 'x.reg'
        path.write_text('precious')
        with pytest.raises(FileExistsError):
            three.to_regions(path)
        assert path.read_text() == 'precious'
        three.to_regions(path, overwrite=True)
        assert 'circle' in path.read_text()

    def test_without_the_package(self, three, monkeypatch):
        monkeypatch.setitem(sys.modules, 'regions', None)
        with pytest.raises(ImportError, match='pip install regions'):
            three.to_regions()


class TestSegmentation:
    def test_footprints(self, three):
        psf = PSFModel()
        segmentation = three.segmentation(psf=psf)
        assert segmentation.shape == (50, 60)
        assert_array_equal(segmentation.labels, three['id'])
        for row in three:
            place = round(float(row['y_centroid'])), round(float(row['x_centroid']))
            assert segmentation.data[place] == row['id']
        # Brighter rows fill more pixels; between two, the brighter light wins.
        areas = segmentation.areas
        assert areas[0] > areas[1] > areas[2] >= 1
        models = [row.render(psf=psf) for row in (three[:1], three[1:2])]
        both = np.isin(segmentation.data, (1, 2))
        assert_array_equal(segmentation.data[both] == 1, (models[0] > models[1])[both])

    def test_level(self, three):
        psf = PSFModel()
        low = three.segmentation(psf=psf).data > 0
        high = three.segmentation(psf=psf, n_sigma=5.0).data > 0
        assert 3 <= high.sum() < low.sum()
        assert np.all(low[high])

    def test_of_a_detection(self, detected):
        exposure, _, cat = detected
        segmentation = cat.segmentation()
        assert segmentation.shape == exposure.shape
        model = np.asarray(cat.render())
        sigma = np.median(exposure.bkg_error)
        # Where the rows together are brighter than the sky's noise, or nearly.
        assert np.all(model[segmentation.data == 0] < 2 * sigma)
        assert np.all(model[segmentation.data > 0] > sigma)

    def test_rows_elsewhere(self):
        cat = rows([900.0, 900.0], [20.0, 500.0], [30.0, 30.0])
        assert_array_equal(cat.segmentation(psf=PSFModel()).labels, [1])
        assert cat[:0].segmentation(psf=PSFModel()).n_labels == 0

    def test_errors(self, three):
        with pytest.raises(ValueError, match='n_sigma must be positive'):
            three.segmentation(psf=PSFModel(), n_sigma=0)
        with pytest.raises(ValueError, match='no posterior with its PSF'):
            three.segmentation()
        with pytest.raises(ValueError, match="column 'id' must hold different"):
            vstack([three, three]).segmentation(psf=PSFModel())


def test_the_package_as_a_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['bliss-astro', '--version'])
    # Another test may have imported it.
    monkeypatch.delitem(sys.modules, 'bliss_astro.__main__', raising=False)
    with pytest.raises(SystemExit) as left:
        runpy.run_module('bliss_astro', run_name='__main__')
    assert not left.value.code
    assert capsys.readouterr().out.startswith('bliss-astro ')


class TestSAMP:
    """Against astropy's own hub on this computer."""

    @pytest.fixture
    def hub(self, monkeypatch, tmp_path):
        lockfile = tmp_path / 'samp'
        monkeypatch.setenv('SAMP_HUB', f'std-lockurl:{lockfile.as_uri()}')
        samp = pytest.importorskip('astropy.samp')
        with samp.conf.set_temp('use_internet', False):
            hub = samp.SAMPHubServer(lockfile=str(lockfile), web_profile=False)
            hub.start()
            yield hub
            hub.stop()

    @pytest.fixture
    def topcat(self, hub):
        """Give a program that takes tables, and the messages that it got."""
        from astropy.samp import SAMPIntegratedClient

        client, messages = SAMPIntegratedClient('TOPCAT', addr='127.0.0.1'), []
        client.connect(hub)
        client.bind_receive_notification(
            'table.load.votable',
            lambda key, sender, kind, values, _: messages.append(values),
        )
        yield messages
        client.disconnect()

    def test_table_is_sent(self, topcat, make_catalog):
        cat = make_catalog('wcs', posterior=None)
        assert cat.to_samp('my field') == ['TOPCAT']
        assert cat[:2].to_samp(client='topcat') == ['TOPCAT']
        for _ in range(100):
            if len(topcat) == 2:
                break
            time.sleep(0.05)
        first, second = topcat
        assert (first['name'], second['name']) == ('my field', 'bliss_astro')
        assert first['table-id'] != second['table-id']
        path = first['url'].removeprefix('file://')
        table = QTable.read(path, format='votable')
        assert_allclose(table['ra'], cat['sky_centroid'].ra)
        assert_allclose(table['flux'].value, cat['flux'].value)
        assert len(QTable.read(second['url'].removeprefix('file://'))) == 2
        with pytest.raises(
            ValueError, match="client must run and take tables; got 'aladin'"
        ):
            cat.to_samp(client='aladin')

    def test_nobody_is_there(self, hub, three):
        with pytest.raises(ValueError, match='client must run and take tables'):
            three.to_samp()

    def test_no_hub(self, three, monkeypatch, tmp_path):
        url = (tmp_path / 'none').as_uri()
        monkeypatch.setenv('SAMP_HUB', f'std-lockurl:{url}')
        with pytest.raises(ConnectionError, match='start TOPCAT or Aladin first'):
            three.to_samp()
