# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the report of a run, in a browser too, and of the worst place of a field.
"""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import fits
from matplotlib.image import imread

from bliss_astro import CoaddSimulator, detect_sources
from bliss_astro.runs import catalog_field, find_fields, open_survey, write_report
from bliss_astro.runs._worst import worst_place

BROWSER = next(filter(shutil.which, ('chromium', 'chromium-browser', 'chrome')), None)
REASON = "ValueError: data must have a good pixel; got <none> ('a & b.fits')"
FINDING = '7 peaks above 10 sigma have no row, the brightest at (40, 30)'
PARTS = ['Sky', 'Depth', 'Counts', 'Times', 'Self-checks', 'Failed fields']
PARTS += ['Warnings and flags', 'All fields', 'Provenance']


def make_run(folder, n, n_failed=0, n_found=0, *, start=(150.0, 2.0), step=0.2):
    """
    Write the records of a run: of fields side by side, the first ones failed.
    """
    (folder / 'fields').mkdir(parents=True)
    run = {'date': '2026-11-30', 'version': {'bliss_astro': '1.0'}, 'encoder': 'stars'}
    (folder / 'run.json').write_text(json.dumps(run | {'options': {'threshold': 0.5}}))
    side = max(1, int(np.ceil(np.sqrt(n))))
    for k in range(n):
        x, y = start[0] + step * (k % side), start[1] + step * (k // side)
        corners = [(x, y), (x + step, y), (x + step, y + step), (x, y + step)]
        record = {'field': f'f{k:04d}', 'status': 'done', 'reason': '', 'n_rows': 0}
        record |= {'seconds': {}, 'warnings': [], 'footprint': corners}
        if k < n_failed:
            record |= {'status': 'failed', 'reason': REASON}
        else:
            record |= {'n_rows': 90 + k % 9, 'expected_count': 120.0 + k % 9}
            record |= {'expected_count_error': 4.0, 'area': 3600 * step**2, 'fwhm': 3.1}
            record |= {'depth': 22.0 + k % 5 / 10, 'depth_unit': 'mag(AB)'}
            record |= {'seconds': {'read': 0.5, 'infer': 2.0, 'write': 0.1}}
            record |= {'findings': [], 'flags': {'blended': 3}, 'worst': {}}
            record['warnings'] = ['OutOfDomainWarning: <crowded>']
        if 0 <= k - n_failed < n_found:
            worst = {'n_peaks': 7 + k, 'n_empty_rows': 0, 'n_blocks': 0}
            worst |= {'x': 40.0, 'y': 30.0, 'corner': [8, 0]}
            record |= {'findings': [FINDING], 'worst': worst}
            image = np.random.default_rng(k).normal(size=(2, 64, 64)).astype('f2')
            image[:, :3, :9] = np.nan
            arrays = {'cutout_image': image[0], 'cutout_residual': image[1]}
            np.savez_compressed(folder / f'fields/f{k:04d}.npz', **arrays)
        (folder / f'fields/f{k:04d}.json').write_text(json.dumps(record))
    return folder


class Page(html.parser.HTMLParser):
    """Elements of a page, which are checked to be closed in order, and its text."""

    def __init__(self, path):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(path.read_text(encoding='utf-8'))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != 'style':
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return ' '.join(' '.join(self.texts).split())


class TestPage:
    @pytest.fixture
    def page(self, tmp_path):
        path = write_report(make_run(tmp_path / 'run <1>', 12, 2, 3))
        assert path == tmp_path / 'run <1>' / 'report.html'
        return Page(path)

    def test_text(self, page):
        text = page.text
        for words in (
            'Run run <1>',
            'fields done 10 with findings 3 failed 2 rows 9',
            '2 fields failed: 2 ValueError.',
            f'f0001 {REASON}',
            FINDING,
            'median 22.2, 22 to 22.4 mag(AB)',
            'The residual of 3 of 10 fields',
            'infer 2 s 2 s 20 s 76.9 %',
            'blended 30',
            '10 OutOfDomainWarning: <crowded>',
            'f0005 done 95 125.0 ± 4.0 22 3.1 2.6',
            'threshold 0.5',
        ):
            assert words in text
        # The one with the most faults comes first.
        assert re.findall(r'f\d{4}', text.partition('worst place.')[2])[0] == 'f0004'

    def test_is_one_file_for_everyone(self, page):
        """
        Nothing from elsewhere, no script; headings, descriptions, heads of tables.
        """
        assert not page.all('script')
        assert not page.all('link')
        for attributes in [attributes for _, attributes in page.elements]:
            for name in ('src', 'href'):
                url = attributes.get(name, '#')
                assert url.startswith(('#', 'data:image/png;base64,'))
        assert page.all('html')[0]['lang'] == 'en'
        assert len(page.all('h1')) == 1
        own = {attributes.get('id') for _, attributes in page.elements}
        assert {a['href'][1:] for a in page.all('a')} <= own
        assert len(page.all('h2')) == len(PARTS)
        images = page.all('img')
        assert len(images) == 7
        assert all(len(image['alt']) > 20 for image in images)
        assert 'Map of 12 fields on the sky: 2 failed, 3 done, with' in images[0]['alt']
        drawings = page.all('svg')
        assert len(drawings) == 6
        assert drawings[0]['aria-label'] == 'Image of f0004 around pixel (40, 30)'
        assert all(cell['scope'] in ('col', 'row') for cell in page.all('th'))
        assert len(page.all('caption')) == len(page.all('table'))
        # Row 30 of 64, counted from below.
        circle = page.all('circle')[0]
        assert (circle['cx'], circle['cy']) == ('32.5', '33.5')


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'n': 0}, 'No field has a position on the sky. Depth No field with a depth'),
        ({'n': 3, 'n_failed': 3}, 'Counts No field is done.'),
        ({'n': 1}, 'Nothing was found in 1 field.'),
        ({'n': 1000, 'n_failed': 300, 'n_found': 50}, '100 more are in fields.ecsv.'),
        ({'n': 60, 'step': 20.0, 'start': (350, -60)}, '60 fields'),
    ],
)
def test_of_any_size(tmp_path, options, words):
    path = write_report(make_run(tmp_path / 'run', **options))
    page = Page(path)
    assert words in page.text
    assert path.stat().st_size < 1.5e6
    assert [len(page.all('h2'))] == [len(PARTS)]


def test_right_ascension_of_zero(tmp_path):
    """
    Fields on both sides of it lie next to each other.
    """
    from bliss_astro.runs import _report_figures

    folder = make_run(tmp_path / 'run', 9, start=(359.8, 2.0))
    records = [json.loads(p.read_text()) for p in folder.glob('fields/*.json')]
    for record in records:
        record['footprint'] = [(x % 360, y) for x, y in record['footprint']]
    seen = []
    png = _report_figures._draw_map(records, lambda ax, _: seen.append(ax))
    assert png.startswith(b'\x89PNG')
    left, right = seen[0].get_xlim()
    assert 0.6 < left - right < 0.7
    assert seen[0].xaxis.get_major_formatter()(360.2, 0) == '0.2'


def test_incomplete_runs(tmp_path):
    """
    Fields without numbers, cut-outs or a position, and those in other units.
    """
    folder = make_run(tmp_path / 'run', 8, 1, 3)
    (folder / 'fields/f0001.npz').unlink()
    (folder / 'fields/f0002.npz').write_bytes(b'PK damaged')
    for name, changes in (
        ('f0004', {'footprint': None, 'area': None, 'depth': None}),
        ('f0005', {'depth': 3.0, 'depth_unit': 'electron', 'fwhm': None}),
        ('f0000', {'footprint': None}),
        ('f0006', {'encoder_sha256': 'another'}),
    ):
        path = folder / f'fields/{name}.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / 'fields/f0007.json').write_text('{"field": "f0')
    page = Page(write_report(folder, tmp_path / 'page.html'))
    assert len(page.all('svg')) == 2
    assert 'f0007 Unterminated string' in page.text
    assert 'f0006 its rows are of another encoder than the run' in page.text
    assert 'fields done 5' in page.text
    assert 'Of 3 fields the position is not known.' in page.text
    assert '1 field in other units are left out' not in page.text
    assert '1 field in other units is left out.' in page.text


def test_errors(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r'folder must be that of a run.*run.json'
    ):
        write_report(tmp_path)
    folder = make_run(tmp_path / 'run', 1)
    path = write_report(folder)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_report(folder)
    assert path.read_bytes() == before
    write_report(folder, overwrite=True)
    # Nothing but the date of the files depends on the time.
    assert path.read_bytes() == before


@pytest.mark.skipif(BROWSER is None, reason='no Chromium on the path')
def test_in_a_browser(tmp_path):
    path = write_report(make_run(tmp_path / 'run', 12, 2, 3))
    options = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic']
    options += ['--no-first-run', '--disable-background-networking', '--disable-sync']
    options += ['--disable-component-update', f'--user-data-dir={tmp_path / "profile"}']
    options += ['--hide-scrollbars', '--window-size=1200,2600', '--log-level=3']

    def run(*more):
        command = [BROWSER, *options, *more, path.as_uri()]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    dom = run('--dump-dom')
    assert re.findall(r'<h2 id="part\d">(.*?)</h2>', dom) == PARTS
    assert dom.count('data:image/png') == 13
    assert 'got &lt;none&gt;' in dom
    shot = tmp_path / 'shot.png'
    run(f'--screenshot={shot}')
    pixels = imread(shot)[..., :3]
    assert pixels.shape[:2] == (2600, 1200)
    # Colours of fields that are done, with findings, failed: figures are drawn.
    for color, least in (
        ((86, 180, 233), 2000),
        ((230, 159, 0), 300),
        ((213, 94, 0), 200),
    ):
        light = np.array(color) / 255 * 0.85 + 0.15
        near = np.abs(pixels - light).max(axis=-1) < 0.02
        assert near.sum() > least


@pytest.fixture(scope='module')
def catalog():
    """
    Give the catalogue of a simulated field, which passes its self-check.
    """
    exposure, _ = CoaddSimulator().sample(rng=3)
    found = detect_sources(exposure)
    assert found.meta['check']['passed']
    return found


class TestWorst:
    def test_nothing(self, catalog):
        assert worst_place(catalog) == {}

    def test_cutouts(self, catalog):
        """
        The residual is noise where the rows explain the image, at the border too.
        """
        faulty = catalog.copy()
        brightest = catalog[np.argmax(catalog['flux'])]
        x, y = brightest['x_centroid'], brightest['y_centroid']
        check = {'text': '1 peak', 'peaks': {'n': 6, 'x': x, 'y': y}}
        faulty.meta['check'] = check | {'empty_rows': {'n': 0}, 'blocks': {'n_bad': 2}}
        worst = worst_place(faulty)
        assert (worst['n_peaks'], worst['n_empty_rows'], worst['n_blocks']) == (6, 0, 2)
        image, residual = worst['cutout_image'], worst['cutout_residual']
        assert image.shape == residual.shape == (64, 64)
        assert image.dtype == np.float16
        left, low = worst['corner']
        column, row = round(x) - left, round(y) - low
        assert image[row, column] > 20
        assert (
            image[row, column]
            == image[row - 2 : row + 3, column - 2 : column + 3].max()
        )
        pull = residual[np.abs(image) < 5].astype(float)
        assert 0.9 < pull.std() < 1.15
        assert abs(pull.mean()) < 0.15

    def test_no_place(self, catalog):
        faulty = catalog.copy()
        faulty.meta['check'] = {'text': 'the sky lies', 'peaks': {'n': 0}}
        numbers = {'n_peaks': 0, 'n_empty_rows': 0, 'n_blocks': 0}
        assert worst_place(faulty) == numbers

    def test_of_a_run(self, rng, tmp_path):
        """
        A noise that is stated too low is found, and shown.
        """
        path = tmp_path / 'noisy.fits'
        fits.writeto(path, rng.normal(0, 2, (192, 192)).astype('f4'))
        stated = {'band': 'r', 'fwhm': 3.7, 'effective_gain': 1.0, 'background': 0.0}
        (field,) = find_fields(path, bkg_error=1.0, **stated)
        folder = tmp_path / 'run'
        record = catalog_field(field, folder)
        assert 'the residual scatters by' in record['findings'][0]
        assert record['worst']['n_blocks'] > 1
        run = {'encoder_sha256': record['encoder_sha256']}
        (folder / 'run.json').write_text(json.dumps(run))
        page = Page(open_survey(folder).report())
        assert len(page.all('svg')) == 2
        assert 'Image of noisy around pixel' in page.all('svg')[0]['aria-label']
