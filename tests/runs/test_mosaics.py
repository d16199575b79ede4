# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of mosaics: chunks are sections of the whole, and sources count once.
"""

import json
import pickle

import astropy.units as u
import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from pyarrow import parquet
from scipy.spatial import cKDTree

from bliss_astro import Exposure, PSFModel, detect_sources
from bliss_astro.detection._estimates import as_exposure
from bliss_astro.psf import PolynomialPSF
from bliss_astro.rendering._scene import ModelRenderer, Sources
from bliss_astro.runs import catalog_field, fields_of, merge_chunks, prepare_mosaic
from bliss_astro.runs._chunk import _content, psf_of_state, state_of_psf
from bliss_astro.runs._field import Job
from bliss_astro.runs._prepare import prepare_all

SHAPE, CHUNK = (500, 700), 320
_NUMBERS = 'bkg_error', 'effective_gain', 'noise_correlation'
_NUMBERS += 'background_error', 'psf_error'
GIVEN = {'background': 100.0, 'effective_gain': 2.0}


def _wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN-SIP', 'DEC--TAN-SIP'
    wcs.wcs.crval, wcs.wcs.crpix = (10, 20), (300.5, 200.5)
    wcs.wcs.cd = np.array([[-1e-4, 1e-6], [1e-6, 1e-4]])
    header = wcs.to_header(relax=True)
    header.update({'A_ORDER': 2, 'B_ORDER': 2, 'A_2_0': 1e-6, 'B_0_2': 2e-6})
    header.update({'CTYPE1': 'RA---TAN-SIP', 'CTYPE2': 'DEC--TAN-SIP'})
    return WCS(header), header


@pytest.fixture(scope='module')
def mosaic(tmp_path_factory):
    """
    Give paths of a mosaic by kind, its data, variance and mask.
    """
    folder, rng = tmp_path_factory.mktemp('mosaic'), np.random.default_rng(1)
    data = rng.normal(100, 3, SHAPE).astype('float32')
    variance = rng.uniform(8, 10, SHAPE).astype('float32')
    mask = (rng.random(SHAPE) < 0.01).astype('uint8')
    header = _wcs()[1]
    header['BUNIT'] = 'electron'
    extensions = [
        fits.PrimaryHDU(),
        fits.ImageHDU(data, header, name='SCI'),
        fits.ImageHDU(variance, name='VAR'),
        fits.ImageHDU(mask, name='MASK'),
    ]
    path = folder / 'plain.fits'
    fits.HDUList(extensions).writeto(path)
    options = {'compression_type': 'GZIP_2', 'quantize_level': 0}
    packed = [
        fits.CompImageHDU(h.data, h.header, name=h.name, tile_shape=(90, 80), **options)
        for h in extensions[1:]
    ]
    fits.HDUList([extensions[0], *packed]).writeto(folder / 'packed.fits.fz')
    with fsspec.open('memory://mosaic/remote.fits', 'wb') as file:
        file.write(path.read_bytes())
    store = zarr.open_group(folder / 'store.zarr', mode='w')
    for name, value in {'sci': data, 'var': variance, 'mask': mask}.items():
        store.create_array(name, data=value, chunks=(128, 128))
    paths = {
        'plain': path,
        'packed': folder / 'packed.fits.fz',
        'remote': 'memory://mosaic/remote.fits',
        'store': folder / 'store.zarr',
    }
    return paths, data, variance, mask


def _check_chunks(fields, data, variance, mask):
    """Check chunks against the same sections of the whole."""
    counts = np.zeros(SHAPE, int)
    for field in pickle.loads(pickle.dumps(fields)):
        exposure = field.open()
        (x0, x1), (y0, y1) = field.options['box']
        cut = slice(y0, y1), slice(x0, x1)
        np.testing.assert_array_equal(exposure.data, data[cut])
        np.testing.assert_array_equal(exposure.mask, mask[cut] > 0)
        noise = np.where(mask[cut] > 0, 3, np.sqrt(variance[cut]))
        np.testing.assert_allclose(
            np.where(mask[cut] > 0, 3, exposure.bkg_error), noise, rtol=1e-6
        )
        x, y = exposure.wcs.pixel_to_world_values(30.0, 40.0)
        np.testing.assert_allclose(
            (x, y), _wcs()[0].pixel_to_world_values(30.0 + x0, 40.0 + y0), rtol=1e-12
        )
        assert exposure.unit == 'electron'
        assert len(field.footprint) == 4
        (u0, u1), (v0, v1) = field.owned
        counts[y0 + v0 : y0 + v1, x0 + u0 : x0 + u1] += 1
    assert (counts == 1).all()


@pytest.mark.parametrize('kind', ['plain', 'packed', 'remote'])
def test_chunks_of_files(mosaic, kind):
    paths, *whole = mosaic
    fields = fields_of(paths[kind], CHUNK, 64, variance='VAR', **GIVEN)
    assert len(fields) == 6
    assert fields[0].group == {'packed': 'packed'}.get(kind, str(fields[0].group))
    assert [str(paths[kind])] == fields[0].paths()
    _check_chunks(fields, *whole)


@pytest.mark.parametrize('kind', ['path', 'zarr', 'dask', 'numpy'])
def test_chunks_of_arrays(mosaic, kind):
    paths, *whole = mosaic
    if kind == 'path':
        arrays = [f'{paths["store"]}/{name}' for name in ('sci', 'var', 'mask')]
    elif kind == 'zarr':
        store = zarr.open_group(paths['store'], mode='r')
        arrays = [store['sci'], store['var'], store['mask']]
    elif kind == 'dask':
        arrays = [da.from_array(value, chunks=100) for value in whole]
    else:
        arrays = whole
    named = dict(zip(('variance', 'mask'), arrays[1:], strict=True))
    named |= {'wcs': _wcs()[0], 'unit': 'electron'}
    fields = fields_of(arrays[0], CHUNK, 64, name='m', **named, **GIVEN)
    _check_chunks(fields, *whole)
    # Each has its own pixels and no others.
    assert all(len(pickle.dumps(field)) < 2 * 450**2 * 9 for field in fields)
    again = fields_of(arrays[0], CHUNK, 64, name='m', **named, **GIVEN)
    assert fields == again


def test_names_of_parts_are_those_of_their_content():
    psf = PSFModel.from_fwhm(3.0), PSFModel.from_fwhm(3.0), PSFModel.from_fwhm(3.1)
    one, same, other = map(_content, psf)
    assert one == same != other
    assert _content(_wcs()[0]) == _content(_wcs()[0])
    assert _content(np.zeros((2, 3))) != _content(np.zeros((3, 2)))


def test_bands_and_psf_follow_the_chunk(mosaic):
    paths, *_ = mosaic
    bands = {'g': paths['plain'], 'r': paths['packed']}
    options = {'bkg_error': {'g': 3.0, 'r': 4.0}, 'psf': {'g': _Tilted(), 'r': None}}
    fields = fields_of(bands, CHUNK, 64, reference='r', extension='SCI', **options)
    field = fields[-1]
    exposures = field.open()
    assert exposures.reference == 'r'
    assert exposures['g'].bkg_error == 3
    (x0, _), (y0, _) = field.options['box']
    fwhm = float(exposures['g'].psf_at(10, 20).fwhm)
    assert fwhm == pytest.approx(3 + (x0 + 10) / 1000 + (y0 + 20) / 500)
    assert exposures['r'].psf is None


class _Tilted:
    def at(self, x, y):
        return PSFModel.from_fwhm(3 + x / 1000 + y / 500)


def test_trimmed_part_and_numbers_of_the_header(tmp_path):
    data = np.random.default_rng(2).integers(1000, 1100, (400, 600)).astype('int16')
    header = fits.Header({'DATASEC': '[51:600,1:390]', 'BZERO': 32768})
    path = tmp_path / 'trim.fits'
    fits.PrimaryHDU(data.astype('uint16'), header).writeto(path)
    field = fields_of(path, 384, 64, bkg_error=30.0, **GIVEN)[0]
    exposure = field.open()
    np.testing.assert_array_equal(exposure.data[~exposure.mask].min(), 1000)
    assert exposure.mask[:, :50].all()
    assert not exposure.mask[:, 50:].any()


# -- bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'error', 'text'),
    [
        ({'chunk': 128}, ValueError, 'chunk must be an integer of at least 256'),
        ({'chunk': 300}, ValueError, 'chunk must be a multiple of 64'),
        ({'chunk': 256.5}, TypeError, 'chunk must be an integer'),
        ({'overlap': 0}, ValueError, 'overlap must be an integer of at least 64'),
        ({'overlap': '64'}, TypeError, 'overlap must be an integer'),
        ({'mask': np.zeros((3, 4))}, ValueError, 'mask must have the shape'),
        ({'weight': {'q': 1.0}}, ValueError, 'weight must name bands among'),
        ({'extension': 1}, ValueError, 'extension must be left out'),
        ({'wcs': 'tan'}, TypeError, 'wcs must be a two-dimensional astropy WCS'),
    ],
)
def test_arguments_that_cannot_be_used(options, error, text):
    with pytest.raises(error, match=text):
        fields_of(np.ones((300, 300)), **({'chunk': 256} | options))


def test_mosaics_that_cannot_be_used(mosaic, tmp_path):
    paths, data, *_ = mosaic
    with pytest.raises(ValueError, match='mosaic must have two dimensions; got 3'):
        fields_of(da.zeros((2, 300, 300)))
    with pytest.raises(TypeError, match='mosaic must be a path, a URL, or an array'):
        fields_of(5)
    with pytest.raises(FileNotFoundError, match=r"mosaic.*there is no file 'memory://"):
        fields_of('memory://mosaic/absent.fits')
    with pytest.raises(FileNotFoundError, match='mosaic must be an image or a file'):
        fields_of(tmp_path / 'absent.fits')
    with pytest.raises(FileNotFoundError, match='mosaic: there is no file'):
        fields_of(tmp_path / 'absent.zarr/sci')
    path = tmp_path / 'packed.fits.gz'
    fits.PrimaryHDU(data).writeto(path)
    with pytest.raises(ValueError, match='mosaic must be plain FITS or compressed by'):
        fields_of(path)
    (tmp_path / 'text.fits').write_text('no FITS' * 1000)
    with pytest.raises(OSError, match=r'mosaic=.*text.fits. cannot be read as FITS'):
        fields_of(tmp_path / 'text.fits')
    with pytest.raises(ValueError, match='has no extension ERR'):
        fields_of(paths['plain'], extension='ERR')
    bands = {'g': data, 'r': data[1:]}
    with pytest.raises(ValueError, match="band 'r' must have the shape"):
        fields_of(bands)
    with pytest.raises(ValueError, match='fields must be chunks of one mosaic'):
        prepare_mosaic([])


# -- the whole and its chunks ------------------------------------------------------


@pytest.fixture(scope='module')
def sky():
    """
    Give a mosaic of 900 px with stars and galaxies, many on borders and corners.
    """
    side, n, rng = 900, 260, np.random.default_rng(3)
    x, y = rng.uniform(-0.5, side - 0.5, (2, n))
    x[:40], y[20:60] = 511.5 + rng.normal(0, 0.3, (2, 40))
    psf = PSFModel.from_fwhm(3.0)
    flux = 29.0 * np.sqrt(float(psf.n_eff)) * 4 * rng.pareto(1.2, n).clip(0, 50) + 600
    shape = rng.uniform([0.1, 0, 0.4, 0.4, 0.5, 0.5], [0.9, 3, 1, 1, 3, 2], (n, 6))
    empty = Exposure(
        np.zeros((side, side)), bkg_error=29.0, effective_gain=1.0, psf=psf
    )
    light = ModelRenderer.of(empty)(Sources(x, y, flux, rng.random(n) < 0.5, shape))
    noise = rng.standard_normal(light.shape) * np.sqrt(29.0**2 + light.clip(0))
    given = {'psf': psf, 'bkg_error': 29.0, 'effective_gain': 1.0, 'background': 0.0}
    return (light + noise).astype('float32'), given


def _merged(fields, **options):
    """Rows of chunks that count: positions in the mosaic and probabilities."""
    options = {'n_threads': 1, 'check': False} | options
    tables = [detect_sources(f.open(), **f.detection(), **options) for f in fields]
    rows = []
    for field, table, use in zip(
        fields, tables, merge_chunks(fields, tables), strict=True
    ):
        (x0, _), (y0, _) = field.options['box']
        columns = [table['x_centroid'] + x0, table['y_centroid'] + y0]
        rows.append(np.column_stack([*columns, table['probability']])[use])
    return np.concatenate(rows)


def test_chunks_have_the_rows_of_the_whole(sky, tmp_path):
    data, given = sky
    whole = detect_sources(data, n_threads=1, check=False, **given)
    fields = fields_of(data, 512, 128, **given)
    assert [field.options['box'][0] for field in fields[:2]] == [[0, 640], [384, 900]]
    path = tmp_path / 'prepared.npz'
    prepared = prepare_mosaic(fields, path, n_threads=1)
    rows = _merged(prepared)
    places = np.column_stack([whole['x_centroid'], whole['y_centroid']])
    apart, at = cKDTree(rows[:, :2]).query(places)
    assert len(rows) == len(whole) > 150
    assert apart.max() < 0.01
    np.testing.assert_allclose(rows[at, 2], whole['probability'], atol=1e-3)
    # Densities of each chunk are others.
    alone = _merged(fields)
    apart, at = cKDTree(alone[:, :2]).query(places)
    off = np.abs(alone[at, 2] - whole['probability'])[apart < 1]
    assert off.max() > 1e-3
    # What was found is kept, for these options alone.
    before = path.stat().st_mtime_ns
    assert prepare_mosaic(fields, path, n_threads=1) == prepared
    assert path.stat().st_mtime_ns == before
    prepare_mosaic(fields, path, n_threads=1, flux_min=700.0)
    assert path.stat().st_mtime_ns > before


def test_numbers_are_those_of_the_whole(sky, tmp_path, monkeypatch):
    data, _ = sky
    # A gradient, noise that is correlated, and a part without data.
    data = data + np.linspace(800, 900, 900, dtype=np.float32)
    data += np.roll(data, 1, axis=1)
    data[:300, 800:] = np.nan
    path = tmp_path / 'sky.fits'
    fits.PrimaryHDU(data).writeto(path)
    array = da.from_array(data, chunks=300)
    every, given = [], {'zero_point': 25.0}
    for sources, box in (((path,), 320), ((path, array), 256)):
        if every:
            # As one whose numbers are those of a sample.
            monkeypatch.setattr('bliss_astro._sample.LARGE', 400_000)
            monkeypatch.setattr('bliss_astro._sample._MAX_PIXELS', 50_000)
            monkeypatch.setattr('bliss_astro._sample._WINDOW', 60)
            monkeypatch.setattr('bliss_astro.exposures._mesh._SECTION', 192)
        whole, stated = as_exposure(path, **given)
        every.append(whole)
        for source in sources:
            fields = fields_of(source, box, 64, **given)
            options = {'density': 1e-3, 'n_threads': 1, 'client': _Client()}
            prepared = prepare_mosaic(fields, tmp_path / 'kept.npz', **options)
            _check_numbers(prepared, whole, stated)
        assert prepare_mosaic(fields, tmp_path / 'kept.npz', **options) == prepared
    np.testing.assert_allclose(every[0].bkg_error, every[1].bkg_error, rtol=0.01)
    # Windows of so few pixels have some ten stars.
    np.testing.assert_allclose(*(own.psf.fwhm for own in every), rtol=0.25)


class _Client:
    """
    Client whose workers are this process, and have what is sent to them alone.
    """

    def submit(self, function, *args, pure):
        assert not pure
        function, args = pickle.loads(pickle.dumps((function, args)))
        return function(*args)

    def gather(self, futures):
        return futures


def _check_numbers(fields, whole, stated):
    """Check that all numbers of chunks are those of one pass."""
    for field in fields:
        exposure = field.open()
        (x0, x1), (y0, y1) = field.options['box']
        off = np.abs(exposure.background - whole.background[y0:y1, x0:x1]).max()
        assert off < 2e-5 * whole.bkg_error
        for name in _NUMBERS:
            found, wanted = getattr(exposure, name), getattr(whole, name)
            np.testing.assert_allclose(found, wanted, rtol=1e-6, err_msg=name)
        shapes = [own.psf_at(0, 0).shape_vector for own in (exposure, whole)]
        np.testing.assert_allclose(*shapes, rtol=1e-5)
        assert exposure.meta['estimated'].keys() == stated.keys()


def test_psf_that_varies_is_kept_as_text():
    terms = np.random.default_rng(4).normal(0, 0.02, (3, 2, 2))
    psf = PolynomialPSF(PSFModel.from_fwhm(3.0), *terms, (900, 800))
    psf.fit_info = {'n_stars': 80, 'used': np.ones(80), 'findings': ('one',)}
    state = json.loads(json.dumps(state_of_psf(psf, 0.02)))
    same = psf_of_state(state)
    assert same['psf_error'] == 0.02
    assert same['psf'].fit_info == {'n_stars': 80, 'findings': ['one']}
    places = [0, 300, 799], [10, 800]
    np.testing.assert_allclose(same['psf'].shape_grid(*places), psf.shape_grid(*places))


@pytest.mark.filterwarnings('ignore')
def test_flux_floor_is_checked_against_the_mosaic():
    given = {'bkg_error': 1.0, 'effective_gain': 30.0, 'background': 0.0}
    given['psf'], rng = PSFModel.from_fwhm(3.0), np.random.default_rng(5)
    empty = Exposure(np.zeros((512, 512)), **given)
    places, zero = np.array([[100.0, 400.0], [400.0, 100.0]]), np.zeros(2)
    sources = Sources(*places, np.array([2e4, 300.0]), zero > 1, np.ones((2, 6)))
    data = ModelRenderer.of(empty)(sources) + rng.normal(0, 1, empty.shape)
    fields = fields_of(data, 256, 64, **given)
    options = {'n_threads': 1, 'density': 1e-4}
    for field in prepare_mosaic(fields, flux_min=2000.0, **options):
        # Chunks without a source of that flux too.
        table = detect_sources(field.open(), flux_min=2000.0, check=False, **options)
        assert len(table) == (field.id == 'mosaic-x0-y1')
    with pytest.raises(ValueError, match='flux_min must be below the flux of the'):
        prepare_mosaic(fields, flux_min=1e5, **options)


def test_weights_and_bands_have_one_scale(sky):
    data, given = sky
    given = {name: given[name] for name in ('psf', 'effective_gain', 'background')}
    weight = np.full(data.shape, 5.0)
    weight[300:400, 100:200] = 0
    options = {'weight': {'g': weight, 'r': None}, 'bkg_error': {'r': 29.0}}
    fields = fields_of({'g': data, 'r': data}, 512, 64, **options, **given)
    prepared = prepare_mosaic(fields, n_threads=1, density=1e-3)
    (scale,) = {field.options['weight_scale']['g'] for field in prepared}
    assert scale / np.sqrt(5) == pytest.approx(29, rel=0.01)
    exposures = prepared[0].open()
    assert exposures['r'].bkg_error == 29
    good = ~exposures['g'].mask
    # Where it has no weight too, as in one pass: networks see those pixels.
    np.testing.assert_allclose(exposures['g'].bkg_error, scale / np.sqrt(5))
    assert not good[300:400, 100:200].any()
    fields = fields_of(data << u.electron, 512, 64, weight=weight, **given)
    exposure = prepare_mosaic(fields, n_threads=1, density=1e-3)[0].open()
    assert exposure.mask[300:400, 100:200].all()


def test_the_sky_is_that_of_pixels_with_weight(sky):
    data, given = sky
    weight = np.ones(data.shape)
    weight[:, 500:] = 0
    data = np.where(weight == 0, data + 500.0, data)
    given = {name: given[name] for name in ('psf', 'effective_gain')}
    whole, _ = as_exposure(data, weight=weight, **given)
    fields = fields_of(data, 512, 64, weight=weight, **given)
    for field in prepare_mosaic(fields, n_threads=1, density=1e-3):
        (x0, x1), (y0, y1) = field.options['box']
        expected = whole.background[y0:y1, x0:x1]
        np.testing.assert_allclose(field.open().background, expected, rtol=1e-6)


def test_empty_chunks_are_left_out(sky):
    data, given = sky
    data = data[:768, :768].copy()
    weighted = {name: v for name, v in given.items() if name != 'bkg_error'}
    weighted['weight'] = np.ones(data.shape)
    weighted['weight'][:384, :384] = 0
    fields = prepare_mosaic(fields_of(data, 256, 64, **weighted), n_threads=1)
    assert len(fields) == 8
    data[:384, :384] = np.nan
    fields = prepare_mosaic(fields_of(data, 256, 64, **given), n_threads=1)
    assert len(fields) == 8
    data[:] = np.nan
    with pytest.raises(ValueError, match='mosaic must have good pixels'):
        prepare_mosaic(fields_of(data, 256, 64, **given), n_threads=1)


def test_fields_of_a_run(sky, tmp_path):
    data, given = sky
    data = data[:448, :448].copy()
    data[:192, :192] = np.nan
    path = tmp_path / 'sky.fits'
    fits.PrimaryHDU(data, fits.Header({'BUNIT': 'electron'})).writeto(path)
    fields = fields_of(path, 256, 64, **given)
    job = Job(options={'check': False})
    prepared = prepare_all(fields, tmp_path / 'mosaics', lambda: None, job)
    assert [field.id for field in prepared] == [
        'sky-x0-y0',
        *(f.id for f in fields[1:]),
    ]
    assert prepare_all(prepared, tmp_path / 'mosaics', lambda: None, job) == prepared
    field = prepared[3]
    record = catalog_field(field, tmp_path, check=False)
    assert record['status'] == 'done', record['reason']
    rows = parquet.read_table(tmp_path / 'fields' / f'{field.id}.parquet')
    options = {'n_threads': 1, 'check': False}
    catalog = detect_sources(field.open(), **field.detection(), **options)
    np.testing.assert_array_equal(rows['probability'], catalog['probability'])
    (x0, x1), _ = field.owned
    inside = (catalog['x_centroid'] >= x0 - 0.5) & (catalog['x_centroid'] < x1 - 0.5)
    assert not np.any(np.array(rows['owned']) & ~inside)
    # A file that is damaged later: the run says which chunk fails.
    path.write_bytes(path.read_bytes()[:-400_000])
    with pytest.warns(AstropyUserWarning, match="mosaic 'sky' cannot be measured"):
        prepared = prepare_all(fields, tmp_path / 'mosaics', lambda: None, job)
    assert len(prepared) == 4
    record = catalog_field(fields[3], tmp_path, check=False)
    assert record['status'] == 'failed'
    assert 'sky.fits' in record['reason']


# -- rows at borders ---------------------------------------------------------------


def _primary(*rows):
    """Rows that count of two or four chunks: (chunk, x, y, probability)."""
    n = 1 + max(row[0] for row in rows)
    fields = fields_of(np.ones((512, 512) if n > 2 else (256, 512)), 256, 64)
    tables = []
    for k, field in enumerate(fields):
        (x0, _), (y0, _) = field.options['box']
        own = np.array([row[1:] for row in rows if row[0] == k]).reshape(-1, 3)
        names = ('x_centroid', 'y_centroid', 'probability')
        table = dict(zip(names, (own - [x0, y0, 0]).T, strict=True))
        error = np.full(len(own), 0.3)
        tables.append(table | {'x_err': error, 'y_err': error})
    use = merge_chunks(fields, tables)
    return [own.tolist() for own in use]


def test_rows_count_where_they_are_owned():
    # Half-open: the border belongs to the next one.
    rows = (0, 100, 50, 0.9), (0, 255.4, 50, 0.9), (0, 258.5, 9, 0.9)
    others = (1, 255.5, 90, 0.9), (1, 300, 50, 0.9), (1, 250, 99, 0.9)
    assert _primary(*rows, *others) == [[True, True, False], [True, True, False]]


@pytest.mark.parametrize('shift', [-0.1, 0.1])
def test_sources_on_a_border_count_once(shift):
    # Each places it in its own box, and each in the box of the other.
    rows = (0, 255.5 - shift, 50, 0.8), (1, 255.5 + shift, 50, 0.9)
    assert _primary(*rows) == [[False], [True]]
    # One of them has it alone.
    assert _primary(rows[0], (1, 400, 50, 0.9)) == [[True], [True]]
    # Equal ones: that of the owner.
    rows = (0, 255.6, 50, 0.9001), (1, 255.6, 50, 0.9)
    assert _primary(*rows) == [[False], [True]]


def test_blends_on_a_border_stay_two():
    pair = (0, 255.2, 50, 0.9), (0, 255.9, 50.2, 0.8)
    other = (1, 255.21, 50, 0.9), (1, 255.91, 50.2, 0.81)
    assert _primary(*pair, *other) == [[True, False], [False, True]]


def test_a_source_on_a_corner_counts_once():
    rows = [(k, 255.5 + 0.1 * (k - 2), 255.5, 0.6 + 0.1 * k) for k in range(4)]
    assert _primary(*rows) == [[False], [False], [False], [True]]
