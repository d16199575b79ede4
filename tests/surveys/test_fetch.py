# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of downloads: against answers as the services give them, and live.
"""

import bz2
import email.message
import gzip
import http.server
import io
import json
import sys
import threading
import urllib.error
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.utils import data as remote
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS

from bliss_astro.exposures import Exposure, ExposureSet

SAS = 'https://data.sdss.org/sas/dr17/eboss/'
FRAMES, OBJECTS = SAS + 'photoObj/frames/301/94/1/', SAS + 'photo/redux/301/94/objcs/1/'
CUTOUT = 'https://www.legacysurvey.org/viewer/fits-cutout'
PSF = 'https://www.legacysurvey.org/viewer/coadd-psf/'
RECORDS = 'https://alasky.cds.unistra.fr/MocServer/query'
HIPS = 'https://alasky.cds.unistra.fr/hips-image-services/hips2fits'


class Web:
    """Answers by address without query: bytes, an error, or a function of the query."""

    def __init__(self, folder):
        self.folder, self.answers, self.queries, self.cleared = folder, {}, [], []

    def download_file(self, url, **options):
        assert options == {'cache': True, 'show_progress': False}
        parts = urlsplit(url)
        query = parse_qs(parts.query, keep_blank_values=True)
        query = {key: value for key, (value,) in query.items()}
        self.queries.append(query)
        answer = self.answers.get(url.partition('?')[0], 404)
        answer = answer(query) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            body, words = io.BytesIO(b'<html>'), email.message.Message()
            raise urllib.error.HTTPError(url, answer, 'reason', words, body)
        path = self.folder / f'contents{len(self.queries)}'
        path.write_bytes(answer)
        return str(path)


@pytest.fixture
def web(monkeypatch, tmp_path):
    web = Web(tmp_path)
    monkeypatch.setattr(remote, 'download_file', web.download_file)
    monkeypatch.setattr(remote, 'clear_download_cache', web.cleared.append)
    return web


class TestSDSS:
    @pytest.fixture
    def sdss(self, web, sdss_field, sdss_files, tmp_path):
        for band in 'gr':
            field = sdss_files.Field(tmp_path, band=band)
            frame = bz2.compress(Path(field.frame()).read_bytes())
            mask = field.fpm(SATUR=[(0, 0, [(20, 29, 31)])])
            mask = gzip.compress(Path(mask).read_bytes())
            web.answers[f'{FRAMES}frame-{band}-000094-1-0012.fits.bz2'] = frame
            web.answers[f'{OBJECTS}fpM-000094-{band}1-0012.fit.gz'] = mask
        psfield = Path(sdss_field.psfield()).read_bytes()
        web.answers[f'{OBJECTS}psField-000094-1-0012.fit'] = psfield
        return web

    def test_one_band(self, sdss, sdss_field):
        exposure = Exposure.from_sdss(94, 1, 12, noise='measure')
        assert exposure.band.name == 'r'
        assert exposure.saturated.sum() == 3
        assert exposure.meta['gain_source'] == 'psfield'
        assert 'noise_ratio' in exposure.meta
        local = Exposure.from_sdss(sdss_field.frame(), sdss_field.psfield())
        np.testing.assert_array_equal(exposure.data, local.data)
        assert exposure.psf_at(40, 30).fwhm == local.psf_at(40, 30).fwhm
        named = Exposure.from_sdss(run=np.int64(94), camcol=1, field=12, band='g')
        assert named.band.name == 'g'

    def test_bands(self, sdss):
        exposures = ExposureSet.from_sdss(94, 1, 12, bands='gr')
        assert list(exposures) == ['r', 'g']
        assert all(e.psf is not None and e.saturated.any() for e in exposures.values())
        exposures = ExposureSet.from_sdss(94, 1, 12, bands=['g', 'r'], reference='g')
        assert exposures.reference == 'g'

    def test_errors(self, sdss):
        with pytest.raises(
            ValueError, match=r'has no field 94-1-13.*frame-r-000094-1-0013'
        ):
            Exposure.from_sdss(94, 1, 13)
        with pytest.raises(
            ValueError, match='camcol must be an integer from 1 to 6; got 7'
        ):
            Exposure.from_sdss(94, 7, 12)
        with pytest.raises(TypeError, match=r'camcol must be an integer .* got None'):
            Exposure.from_sdss(94)
        with pytest.raises(TypeError, match='run must be an integer'):
            ExposureSet.from_sdss(field=12)
        with pytest.raises(ValueError, match="bands must be among 'u'"):
            ExposureSet.from_sdss(94, 1, 12, bands='gy')
        with pytest.raises(ValueError, match="bands must be among 'u'"):
            ExposureSet.from_sdss(94, 1, 12, bands=[])

    def test_service_is_down(self, sdss):
        frame = f'{FRAMES}frame-r-000094-1-0012.fits.bz2'
        sdss.answers[frame] = 503
        with pytest.raises(
            ConnectionError, match=r'data.sdss.org answered .*503.*later'
        ):
            Exposure.from_sdss(94, 1, 12)
        sdss.answers[frame] = urllib.error.URLError('Name or service not known')
        with pytest.raises(
            ConnectionError, match=r'does not answer .*not known.*internet'
        ):
            Exposure.from_sdss(94, 1, 12)
        sdss.answers[frame] = TimeoutError('timed out')
        with pytest.raises(ConnectionError, match=r'does not answer .timed out'):
            Exposure.from_sdss(94, 1, 12)
        sdss.answers[frame] = b'<html><p>Maintenance\n until noon'
        with pytest.raises(
            ConnectionError, match=r'is no FITS file.*Maintenance until'
        ):
            Exposure.from_sdss(94, 1, 12)
        assert sdss.cleared == [frame]


def test_wrong_files_of_a_field(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder, .*'/nowhere' is not there"):
        ExposureSet.from_sdss('/nowhere')
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError, match=r'file.* is no folder'):
        ExposureSet.from_sdss(tmp_path / 'file')
    with pytest.raises(ValueError, match='frames must have a frame; got none'):
        ExposureSet.from_sdss([])
    with pytest.raises(TypeError, match='camcol must be an integer'):
        ExposureSet.from_sdss(3)
    with pytest.raises(TypeError, match=r'frames must be a folder, frames.*NoneType'):
        ExposureSet.from_sdss()


def _sky(query, key='pixscale'):
    """Header of a cut-out of the viewer, as it writes it."""
    side = int(query['size'])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval = float(query['ra']), float(query['dec'])
    wcs.wcs.crpix = (side + 1) / 2, (side + 1) / 2
    scale = float(query[key]) / 3600
    wcs.wcs.cdelt = -scale, scale
    return wcs.to_header()


def _legacy(query, *, empty='', invvar=True):
    """Answer of the viewer; its images of one band have two axes."""
    rng, side, bands = np.random.default_rng(3), int(query['size']), query['bands']
    images = rng.normal(0, 0.02, (len(bands), side, side)).astype('f4')
    weights = np.full_like(images, 2500)
    for k, band in enumerate(bands):
        gone = slice(None) if band in empty else slice(8)
        images[k, gone] = weights[k, gone] = 0
    hdus = []
    for kind, data in (('IMAGE', images), ('INVVAR', weights))[: 1 + invvar]:
        header = _sky(query)
        header['BANDS'], header['IMAGETYP'] = bands, kind
        hdu = fits.ImageHDU if hdus else fits.PrimaryHDU
        hdus.append(hdu(data[0] if len(bands) == 1 else data, header))
    return _bytes(hdus)


def _legacy_psf(query):
    y, x = np.mgrid[-31:32, -31:32]
    hdus = [fits.PrimaryHDU()][:0]
    for k, _ in enumerate(query['bands']):
        image = np.exp(-(x**2 + y**2) / (2 * (2 + k) ** 2)).astype('f4')
        hdus.append((fits.ImageHDU if hdus else fits.PrimaryHDU)(image / image.sum()))
    return _bytes(hdus)


def _bytes(hdus):
    stream = io.BytesIO()
    fits.HDUList(hdus).writeto(stream)
    return stream.getvalue()


class TestLegacySurvey:
    @pytest.fixture
    def viewer(self, web):
        web.answers |= {CUTOUT: _legacy, PSF: _legacy_psf}
        return web

    def test_one_band(self, viewer):
        exposure = Exposure.from_legacysurvey(150.1, 2.2, 64)
        query = viewer.queries[0]
        where = {'ra': '150.1', 'dec': '2.2', 'size': '64', 'pixscale': '0.262'}
        assert query == where | {'layer': 'ls-dr10', 'bands': 'r', 'invvar': ''}
        assert (exposure.shape, exposure.unit) == ((64, 64), u.nmgy)
        assert exposure.band.wavelength == 640.3
        assert exposure.mask[:8].all()
        assert not exposure.mask[8:].any()
        np.testing.assert_allclose(exposure.bkg_error[20:], 0.02, rtol=1e-5)
        np.testing.assert_allclose(exposure.pixel_scale, 0.262, rtol=1e-5)
        np.testing.assert_allclose(exposure.psf_at(32, 32).fwhm, 2 * 2.355, rtol=0.02)
        place = exposure.wcs.pixel_to_world(31.5, 31.5)
        assert place.separation(SkyCoord(150.1, 2.2, unit='deg')).arcsec < 1e-3

    def test_bands(self, viewer):
        viewer.answers[CUTOUT] = lambda query: _legacy(query, empty='z')
        exposures = ExposureSet.from_legacysurvey(10 * u.hourangle, 2, 30 * u.arcsec)
        assert (viewer.queries[0]['ra'], viewer.queries[0]['size']) == ('150.0', '115')
        assert list(exposures) == ['r', 'g', 'i']
        assert exposures.reference == 'r'
        widths = [exposures[band].psf_at(50, 50).fwhm for band in 'gri']
        np.testing.assert_allclose(widths, np.array([2, 3, 4]) * 2.355, rtol=0.02)

    def test_what_is_given_and_what_is_missing(self, viewer):
        viewer.answers[CUTOUT] = lambda query: _legacy(query, invvar=False)
        exposure = Exposure.from_legacysurvey(
            150, 2, 64, 'g', fwhm=3.0, pixel_scale=0.3
        )
        # The PSF of other pixels is not that of these.
        assert len(viewer.queries) == 1
        assert exposure.mask[:8].all()
        np.testing.assert_allclose(exposure.bkg_error, 0.02, rtol=0.1)
        viewer.answers[PSF] = 500
        with pytest.warns(AstropyUserWarning, match='the PSF has to be estimated'):
            exposure = Exposure.from_legacysurvey(150, 2, 64)
        assert exposure.psf is None

    def test_errors(self, viewer):
        viewer.answers[CUTOUT] = lambda query: _legacy(query, empty='griz')
        with pytest.raises(
            ValueError, match='ra, dec must be where ls-dr10 has images'
        ):
            Exposure.from_legacysurvey(150, 2, 64)
        viewer.answers[CUTOUT] = lambda _: _bytes([fits.PrimaryHDU()])
        with pytest.raises(
            ValueError, match='ra, dec must be where ls-dr10 has images'
        ):
            Exposure.from_legacysurvey(150, 2, 64)
        viewer.answers[CUTOUT] = 404
        with pytest.raises(
            ValueError, match=r'Legacy Surveys .* no image at ra=150.0, dec'
        ):
            Exposure.from_legacysurvey(150, 2, 64)
        for arguments, match in (
            ((150, 2, 4000), 'size must be at most 3000 pixels; got 4000'),
            ((150, 2, 0), 'size must be an integer of at least 1'),
            ((150, 92, 64), 'dec must be between -90 and 90 deg'),
            ((150, 2, 64, 'y'), "bands must be different ones among 'g'"),
        ):
            with pytest.raises(ValueError, match=match):
                Exposure.from_legacysurvey(*arguments)
        with pytest.raises(TypeError, match='size must be an angle'):
            Exposure.from_legacysurvey(150, 2, 3 * u.m)
        with pytest.raises(ValueError, match='bands must be different'):
            ExposureSet.from_legacysurvey(150, 2, 64, 'gg')


class TestHiPS:
    @pytest.fixture
    def cds(self, web):
        record = {'ID': 'CDS/P/DSS2/red', 'hips_pixel_scale': '2.236E-4'}
        others = {'ID': 'CDS/P/DSS2/redder', 'hips_pixel_scale': '1'}
        web.answers[RECORDS] = json.dumps([others, record]).encode()
        web.answers[HIPS] = self.image
        return web

    @staticmethod
    def image(query, *, value=None):
        rng, side = np.random.default_rng(3), int(query['width'])
        data = rng.normal(5000, 40, (side, side)) if value is None else value
        data = np.broadcast_to(data, (side, side)).astype('f4')
        scale = float(query['fov']) / side * 3600
        query = query | {'size': query['width'], 'pixscale': scale}
        return _bytes([fits.PrimaryHDU(data, _sky(query))])

    def test_native_pixels(self, cds):
        place = SkyCoord(10.5, 41.2, unit='deg').galactic
        exposure = Exposure.from_hips('CDS/P/DSS2/red', place, 1 * u.arcmin, fwhm=3)
        np.testing.assert_allclose(exposure.pixel_scale, 2.236e-4 * 3600, rtol=1e-5)
        assert exposure.shape == (75, 75)
        query = cds.queries[-1]
        assert query['hips'] == 'CDS/P/DSS2/red'
        assert (query['format'], query['projection']) == ('fits', 'TAN')
        np.testing.assert_allclose(float(query['ra']), 10.5)
        assert exposure.meta['survey'] == 'CDS/P/DSS2/red'

    def test_given_pixels(self, cds):
        options = {'pixel_scale': 0.5 * u.arcsec}
        exposure = Exposure.from_hips('CDS/P/DSS2/red', (10, 41), 64, **options)
        assert exposure.shape == (64, 64)
        assert len(cds.queries) == 1

    def test_errors(self, cds):
        with pytest.raises(
            ValueError, match=r"hips must name a HiPS .* got 'CDS/P/none'"
        ):
            Exposure.from_hips('CDS/P/none', (10, 41), 64)
        cds.answers[HIPS] = lambda query: self.image(query, value=np.nan)
        with pytest.raises(ValueError, match="position must be where 'CDS/P/DSS2/red'"):
            Exposure.from_hips('CDS/P/DSS2/red', (10, 41), 64)
        with pytest.raises(ValueError, match='position must be a SkyCoord, a pair'):
            Exposure.from_hips('CDS/P/DSS2/red', (10, 41, 3), 64)
        with pytest.raises(ValueError, match='position must be one position'):
            Exposure.from_hips(
                'CDS/P/DSS2/red', SkyCoord([1, 2], [1, 2], unit='deg'), 64
            )
        text = json.dumps({'title': 'Bad Request', 'description': 'no such projection'})
        error = urllib.error.HTTPError(HIPS, 400, 'Bad', {}, io.BytesIO(text.encode()))
        cds.answers[HIPS] = error
        with pytest.raises(ValueError, match=r'has no image of .*: no such projection'):
            Exposure.from_hips('CDS/P/DSS2/red', (10, 41), 64)

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'astroquery.hips2fits', None)
        with pytest.raises(
            ImportError, match=r'needs the package astroquery.*\[fetch\]'
        ):
            Exposure.from_hips('CDS/P/DSS2/red', (10, 41), 64)


CAPABILITIES = """<?xml version="1.0"?>
<vosi:capabilities xmlns:vosi="http://www.ivoa.net/xml/VOSICapabilities/v1.0"
  xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<capability standardID="ivo://ivoa.net/std/SIA#query-2.0">
<interface xsi:type="vs:ParamHTTP" role="std" version="2.0">
<accessURL use="base">{url}/sia2/query</accessURL></interface></capability>
</vosi:capabilities>"""
VOTABLE = """<?xml version="1.0"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">
<RESOURCE type="results"><INFO name="QUERY_STATUS" value="{status}"/><TABLE>
{fields}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"""
# Name and UCD of the columns of version 1 and 2.
COLUMNS = (
    [
        ('title', 'VOX:Image_Title'),
        ('ra', 'POS_EQ_RA_MAIN'),
        ('dec', 'POS_EQ_DEC_MAIN'),
        ('format', 'VOX:Image_Format'),
        ('url', 'VOX:Image_AccessReference'),
    ],
    [
        ('obs_title', 'meta.title'),
        ('s_ra', 'pos.eq.ra'),
        ('s_dec', 'pos.eq.dec'),
        ('access_format', 'meta.code.mime'),
        ('access_url', 'meta.ref.url'),
    ],
)


class TestSIA:
    @pytest.fixture
    def archive(self, web):
        """Give the address of an archive with both versions, and its images."""
        images = {
            'far': (10.02, 41.0, 'image/fits'),
            'near': (10.0, 41.002, 'application/fits'),
            'picture': (10.0, 41.0, 'image/png'),
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                parts = urlsplit(self.path)
                web.queries.append(parse_qs(parts.query))
                text = answers.get(parts.path)
                self.send_response(404 if text is None else 200)
                self.end_headers()
                self.wfile.write((text or '').encode())

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
        url = f'http://127.0.0.1:{server.server_port}'
        answers = {'/sia2/capabilities': CAPABILITIES.format(url=url)}
        for path, columns in zip(('/sia1', '/sia2/query'), COLUMNS, strict=True):
            kinds = ['char', 'double', 'double', 'char', 'char']
            fields = ''.join(
                f'<FIELD name="{name}" ucd="{ucd}" datatype="{kind}"'
                + ' arraysize="*"' * (kind == 'char')
                + '/>'
                for (name, ucd), kind in zip(columns, kinds, strict=True)
            )
            rows = ''.join(
                f'<TR><TD>{name}</TD><TD>{ra}</TD><TD>{dec}</TD><TD>{kind}</TD>'
                f'<TD>{url}/{name}.fits</TD></TR>'
                for name, (ra, dec, kind) in images.items()
            )
            answers[path] = VOTABLE.format(status='OK', fields=fields, rows=rows)
            empty = VOTABLE.format(status='OK', fields=fields, rows='')
            answers[path.replace('sia', 'none')] = empty
        answers['/sia1/capabilities'] = '<html><p>No such page</html>'
        answers['/broken'] = VOTABLE.format(status='ERROR', fields='', rows='')
        for name, (ra, dec, _) in images.items():
            query = {'ra': ra, 'dec': dec, 'width': 100, 'fov': 100 * 0.5 / 3600}
            web.answers[f'{url}/{name}.fits'] = TestHiPS.image(query)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield url
        server.shutdown()
        thread.join()
        server.server_close()

    @pytest.mark.parametrize('service', ['sia1', 'sia2'])
    def test_nearest_image(self, archive, web, service):
        size = 20 * u.arcsec
        exposure = Exposure.from_sia(
            f'{archive}/{service}', (10, 41), size, fwhm=3, search={'MAXREC': 5}
        )
        sia = exposure.meta['sia']
        assert sia['url'] == f'{archive}/near.fits'
        assert sia['n_images'] == 2
        assert sia['row'][COLUMNS[service == 'sia2'][0][0]] == 'near'
        # 40 px about a place 14.4 px below the centre.
        assert exposure.shape == (40, 40)
        x, y = exposure.wcs.world_to_pixel(SkyCoord(10, 41, unit='deg'))
        assert abs(x - 19.5) < 0.6
        assert abs(y - 19.5) < 0.6
        if service == 'sia2':
            query = next(q for q in web.queries if 'POS' in q)
            shape, *numbers = query['POS'][0].split()
            assert shape == 'CIRCLE'
            np.testing.assert_allclose([*map(float, numbers)], [10, 41, 10 / 3600])
            assert query['MAXREC'] == ['5']

    def test_chosen_image(self, archive):
        where = f'{archive}/sia1', (10.02, 41), 20 * u.arcsec
        exposure = Exposure.from_sia(*where, choose=0, version=1)
        assert exposure.meta['sia']['url'] == f'{archive}/far.fits'
        seen = []
        exposure = Exposure.from_sia(*where, choose=lambda t: seen.append(t) or 0)
        assert list(seen[0]['title']) == ['far', 'near']
        with pytest.raises(ValueError, match='choose must be an integer from 0 to 1'):
            Exposure.from_sia(*where, choose=2)
        with pytest.raises(ValueError, match='position must be in the chosen image'):
            Exposure.from_sia(*where, choose=1)

    def test_errors(self, archive, monkeypatch):
        where = (10, 41), 20 * u.arcsec
        with pytest.raises(ValueError, match=r'position must be where .*; got none'):
            Exposure.from_sia(f'{archive}/none1', *where)
        with pytest.raises(ConnectionError, match='fails as a service of images'):
            Exposure.from_sia(f'{archive}/broken', *where)
        with pytest.raises(ConnectionError, match='fails as a service of images'):
            Exposure.from_sia(f'{archive}/sia1', *where, version=2)
        with pytest.raises(ValueError, match='version must be 1, 2 or None'):
            Exposure.from_sia(f'{archive}/sia1', *where, version=3)
        with pytest.raises(TypeError, match='size must be an angle'):
            Exposure.from_sia(f'{archive}/sia1', (10, 41), 20)
        monkeypatch.setitem(sys.modules, 'pyvo.dal', None)
        with pytest.raises(ImportError, match=r'needs the package pyvo.*\[fetch\]'):
            Exposure.from_sia(f'{archive}/sia1', *where)


# Live; run by --remote-data.


@pytest.mark.remote_data
class TestLive:
    def test_sdss(self):
        exposures = ExposureSet.from_sdss(94, 1, 12, bands='gr')
        assert exposures.shape == (1489, 2048)
        assert exposures['r'].mask.any()
        with pytest.raises(ValueError, match='has no field 94-1-9999'):
            Exposure.from_sdss(94, 1, 9999)

    def test_legacysurvey(self):
        exposures = ExposureSet.from_legacysurvey(150.1, 2.2, 256, 'grz')
        assert list(exposures) == ['r', 'g', 'z']
        assert all(exposure.psf is not None for exposure in exposures.values())

    def test_hips(self):
        exposure = Exposure.from_hips('CDS/P/DSS2/red', (10.68, 41.27), 3 * u.arcmin)
        np.testing.assert_allclose(exposure.pixel_scale, 0.8, rtol=0.1)

    def test_sia(self):
        url = (
            'https://irsa.ipac.caltech.edu/cgi-bin/2MASS/IM/nph-im_sia?type=at&ds=asky&'
        )
        exposure = Exposure.from_sia(url, (150.1, 2.2), 2 * u.arcmin, version=1)
        assert exposure.wcs is not None
