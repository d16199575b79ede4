# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of surveys: counts, draws, cones and maps; runs that go on, and bad ones.
"""

import json
import shutil

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from bliss_astro import detect_sources
from bliss_astro.rendering._scene import ModelRenderer, Sources
from bliss_astro.runs import catalog_field, find_fields, open_survey
from bliss_astro.runs._field import read_record
from bliss_astro.runs._sky import axes_at, chord, to_vectors
from bliss_astro.runs._table import row_of

OPTIONS = {'fwhm': 3.6, 'effective_gain': 1.0, 'background': 865.0, 'bkg_error': 29.4}
OPTIONS |= {'unit': 'electron'}
SIDE = 256


def run_fields(fields, folder, **options):
    """
    Catalogue fields, as a run does.
    """
    folder.mkdir()
    records = [catalog_field(field, folder, **options) for field in fields]
    run = {'encoder': 'stars', 'encoder_sha256': records[0]['encoder_sha256']}
    (folder / 'run.json').write_text(json.dumps(run | {'options': {}}))
    return open_survey(folder), records


@pytest.fixture(scope='module')
def exposures(make_wcs, tmp_path_factory):
    """
    Give a run over four exposures of one sky, each with its own noise, and the truth.
    """
    path = tmp_path_factory.mktemp('sky')
    rng, scale = np.random.default_rng(3), 0.4
    (path / 'images').mkdir()
    sky = make_wcs(0.0, 60.0, (1, 1), scale=scale, angle=0.0)
    ra, dec = sky.all_pix2world(*rng.uniform(-250, 250, (2, 330)), 0)
    flux = 616.0 / rng.uniform(0.003, 1, 330)
    for k, place in enumerate([(-70, -70), (70, -60), (-60, 70), (70, 70)]):
        shape = SIDE, SIDE
        own = sky.all_pix2world([place], 0)[0]
        wcs = make_wcs(*own, shape, scale=scale, angle=10.0 * k)
        file = path / 'images' / f'e{k}.fits'
        fits.PrimaryHDU(np.zeros(shape, 'f4'), wcs.to_header()).writeto(file)
        [field] = find_fields(file, **OPTIONS)
        x, y = wcs.all_world2pix(ra, dec, 0)
        near = (np.abs(x - SIDE / 2) < 150) & (np.abs(y - SIDE / 2) < 150)
        stars = Sources(x[near], y[near], flux[near], np.zeros(near.sum(), bool))
        image = np.reshape(ModelRenderer.of(field.open())(stars), shape)
        noise = rng.normal(size=shape) * np.sqrt(29.4**2 + image.clip(min=0))
        data = (865 + image + noise).astype('f4')
        fits.PrimaryHDU(data, wcs.to_header()).writeto(file, overwrite=True)
    fields = find_fields(path / 'images', **OPTIONS)
    survey, records = run_fields(fields, path / 'run', encoder='stars')
    return survey, records, fields, to_vectors(ra, dec), flux


def test_probabilities_are_calibrated_where_exposures_overlap(exposures, owners_of):
    survey, records, _, truth, _ = exposures
    rows = survey.rows()
    assert sum(record['n_rows'] for record in records) > 1.5 * len(rows)
    assert set(rows['n_fields']) >= {1, 2, 3, 4}
    sky = rows['sky_centroid']
    vectors = to_vectors(sky.ra.deg, sky.dec.deg)
    apart, which = cKDTree(truth).query(vectors)
    true = apart < chord(0.4 * 2)
    p = np.asarray(rows['probability'])
    for use in (rows['n_fields'] == 1), (rows['n_fields'] > 1), (p < 0.9):
        spread = np.sqrt((p[use] * (1 - p[use])).sum())
        assert abs(true[use].sum() - p[use].sum()) < 3 * spread + 0.02 * use.sum()
    # No source twice, and all bright ones once.
    assert len(set(which[true])) == true.sum()
    fields = survey._on_sky.all
    inside = owners_of(fields, truth) >= 0
    bright = exposures[-1] > 2000
    found = np.isin(np.arange(len(truth)), which[true])
    assert found[inside & bright].mean() > 0.97
    error = np.hypot(rows['x_err'], rows['y_err'])[true]
    z = np.degrees(apart[true]) * 3600 / 0.4 / error
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.2
    # On the sky, in fields that are turned.
    error = np.array([rows['ra_err'], rows['dec_err']])[:, true]
    axes = axes_at(vectors[true])
    off = (vectors[true] - truth[which[true]]) * axes
    z = np.degrees(off.sum(-1)) * 3600 / error
    assert z.std(1) == pytest.approx([1, 1], abs=0.15)
    bright = rows['x_err'] < 0.1
    for name in ('ra_err', 'dec_err'):
        assert np.all(rows[name][bright] < 0.1 * 0.4 * 2**0.5 * u.arcsec)


def test_counts_over_regions(exposures, owners_of):
    survey, _, _, truth, _ = exposures
    fields = survey._on_sky.all
    inside = owners_of(fields, truth) >= 0
    for radius in 20, 40, 300:
        cone = SkyCoord(0, 60, unit='deg'), radius * u.arcsec
        count, error = survey.expected_counts(cone), survey.expected_counts_error(cone)
        middle = to_vectors(0.0, 60.0)
        near = np.linalg.norm(truth - middle, axis=1) < chord(radius)
        assert abs(count - (near & inside).sum()) < 3 * error + 1
        drawn = survey.sample(40, cone, rng=1)
        sizes = np.array([len(table) for table in drawn])
        assert abs(sizes.mean() - count) < 4 * error / 40**0.5 + 0.01 * count
        assert 0.6 * error < sizes.std() < 1.5 * error
        for table in drawn[:2]:
            apart = table['sky_centroid'].separation(cone[0])
            assert apart.max() < (radius + 3) * u.arcsec
    assert count == pytest.approx(survey.expected_counts(), rel=1e-12)
    assert set(drawn[0]['listed']) == {True, False}
    assert drawn[0]['flux'].unit == 'electron'


def test_a_single_field_counts_as_its_catalogue(exposures, tmp_path):
    _, _, fields, _, _ = exposures
    survey, _ = run_fields(fields[:1], tmp_path / 'run', encoder='stars')
    catalog = detect_sources(fields[0].open(), encoder='stars', keep='posterior')
    posterior = catalog.posterior
    # Sums in another order, in single precision.
    expected = posterior.expected_counts()
    assert survey.expected_counts() == pytest.approx(expected, rel=1e-5)
    error = posterior.expected_counts_error()
    assert survey.expected_counts_error() == pytest.approx(error, rel=0.1)
    # A polygon along pixels.
    part = slice(50, 190), slice(30, 200)
    x, y = np.array([[29.5, 199.5, 199.5, 29.5], [49.5, 49.5, 189.5, 189.5]])
    corners = catalog.wcs.pixel_to_world(x, y)
    count = survey.expected_counts(corners)
    assert count == pytest.approx(posterior.expected_counts(part), abs=1.5)
    # Fluxes of draws of all sources, listed or not.
    drawn = np.concatenate([t['flux'].value for t in survey.sample(30, rng=1)])
    exact = np.concatenate([t['flux'].value for t in posterior.sample(10, rng=1)])
    for q in (0.05, 0.2, 0.5, 0.9):
        assert np.quantile(drawn, q) == pytest.approx(np.quantile(exact, q), rel=0.08)
    rows = survey.rows()
    assert sorted(rows['flux'].value) == sorted(catalog['flux'].value)
    assert rows.image['expected_count'][0] == pytest.approx(count, rel=2)


def test_maps_and_their_files(exposures, owners_of):
    survey, records, _, truth, flux = exposures
    table = survey.maps(13)
    assert table.meta['order'] == 13
    # The pixels cover what the fields do.
    area = (table['share'].sum() / (12 * 4**13)) * 41252.96 * 3600
    x = np.mean([owners_of(survey._on_sky.all, truth) >= 0]) * (500 * 0.4 / 60) ** 2
    assert area == pytest.approx(x, rel=0.1)
    assert table['depth'].value == pytest.approx(records[0]['depth'], rel=1e-3)
    expected = survey.expected_counts()
    whole = table['share'] * 41252.96 * 3600 / (12 * 4**13) * u.arcmin**2
    total = (table['expected'] * whole).sum().to_value('')
    assert total == pytest.approx(expected, rel=0.02)
    listed = (table['listed'] * table['expected'] * whole).sum().to_value('')
    assert listed == pytest.approx(survey.rows()['probability'].sum(), rel=0.02)
    # Recall by true flux, from matches.
    rows = survey.rows()['sky_centroid']
    apart, _ = cKDTree(to_vectors(rows.ra.deg, rows.dec.deg)).query(truth)
    inside = owners_of(survey._on_sky.all, truth) >= 0
    limit = table['limit_90'].value[0]
    found = apart[inside & (flux > limit) & (flux < 2 * limit)] < chord(0.8)
    assert found.mean() == pytest.approx(0.97, abs=0.08)
    assert np.all(table['limit_50'] < table['limit_90'])
    share = table.meta['completeness']
    assert np.all(np.diff(share[~np.isnan(share)]) > -0.2)
    for path, name in (
        (survey.depth_map(13), 'DEPTH'),
        (survey.completeness_map(13), 'LIMIT_50'),
    ):
        with fits.open(path, checksum=True) as hdus:
            header, data = hdus[1].header, hdus[1].data
            assert (header['PIXTYPE'], header['INDXSCHM']) == ('HEALPIX', 'EXPLICIT')
            assert header['NSIDE'] == 2**13
            assert np.array_equal(data['PIXEL'], table['pixel'])
            np.testing.assert_allclose(data[name], table[name.lower()].value, rtol=1e-6)


def test_plot_of_a_map(exposures):
    figure = Figure()
    ax = exposures[0].plot('depth', order=13, ax=figure.subplots())
    figure.canvas.draw()
    [drawn] = ax.collections
    assert len(drawn.get_paths()) == len(exposures[0].maps(13))
    assert ax.get_xlim()[0] > ax.get_xlim()[1]
    assert np.ptp(ax.get_ylim()) < 0.1
    assert figure.axes[1].get_ylabel() == 'depth (electron)'
    with pytest.raises(ValueError, match='column must be one of'):
        exposures[0].plot('flux', order=13)


def test_lazy_catalogue_is_made_anew_when_more_is_done(exposures, tmp_path):
    survey = exposures[0]
    folder = shutil.copytree(survey.path, tmp_path / 'run')
    last = (folder / 'fields' / 'e3.json').rename(tmp_path / 'e3.json')
    going = open_survey(folder)
    assert len(going.fields) == 3
    first = going.catalog().count_rows()
    assert first == len(going.rows())
    stamp = (folder / 'catalog' / 'hats.properties').stat().st_mtime_ns
    assert going.catalog().count_rows() == first
    assert (folder / 'catalog' / 'hats.properties').stat().st_mtime_ns == stamp
    last.rename(folder / 'fields' / 'e3.json')
    going.refresh()
    assert going.catalog().count_rows() == len(survey.rows()) > first
    going.write()
    assert (folder / 'depth.fits').is_file()


def test_cone_is_a_catalogue(exposures):
    survey = exposures[0]
    centre = SkyCoord(0, 60, unit='deg')
    cone = survey.cone(centre, 30 * u.arcsec)
    assert cone['sky_centroid'].separation(centre).max() < 30 * u.arcsec
    assert cone['flux'].unit == 'electron'
    assert 'field' in cone.colnames
    assert 'expected count' in str(cone)
    assert cone.meta['encoder'] == 'stars'
    far = survey.cone(SkyCoord(90, 0, unit='deg'), 1 * u.arcmin)
    assert len(far) == 0
    assert survey.expected_counts((SkyCoord(90, 0, unit='deg'), 1 * u.arcmin)) == 0
    text = repr(survey)
    assert '4 fields done' in text
    assert 'encoder "stars"' in text
    assert survey.fields['ra'].unit == u.deg


def test_fields_of_all_states(make_survey, make_field, make_wcs, tmp_path):
    folder = tmp_path / 'run'
    make_survey(folder, [(0, 0), (170, 0)], n=300)
    names = 'x_centroid', 'y_centroid', 'x_err', 'y_err', 'flux', 'flux_err'
    empty = {name: np.zeros(0) for name in (*names, 'probability')}
    make_field(folder, 'empty', make_wcs(0, 1), empty)
    make_field(folder, 'foreign', make_wcs(0, 0), empty, encoder_sha256='xyz')
    make_field(folder, 'plain', None, {k: np.ones(2) for k in empty})
    make_field(folder, 'broken', make_wcs(0, 0), empty, status='failed', reason='a\nb')
    (folder / 'fields' / 'cut.json').write_text('{"field": "cu')
    (folder / 'fields' / 'other.json').write_text('{}')
    with (
        pytest.warns(Warning, match='leaves out 1 field of another encoder: foreign$'),
        pytest.warns(Warning, match='2 fields whose record is damaged: cut, other$'),
    ):
        survey = open_survey(folder)
    assert read_record(folder, 'other') is None
    states = {str(row['field']): row['status'] for row in survey.fields}
    own = dict.fromkeys(['f00', 'f01', 'empty', 'plain'], 'done')
    own |= {'foreign': 'other encoder', 'broken': 'failed'}
    own |= {'cut': 'damaged', 'other': 'damaged'}
    assert states == own
    on_sky = {str(row['field']) for row in survey.fields if row['on_sky']}
    assert on_sky == {'f00', 'f01', 'empty'}
    assert 'a b' in survey.fields['reason']
    for text in ('4 fields done', '1 fields failed', '1 without a place on the sky'):
        assert text in repr(survey)
    rows = survey.rows()
    assert set(rows['field']) == {'f00', 'f01'}
    assert 'empty' not in set(rows['field'])
    assert survey.catalog().count_rows() == len(rows)
    assert survey.maps()['depth'].unit == 'electron'


def test_bad_folders_and_runs_without_sky(make_field, tmp_path):
    for text in (None, 'no JSON'):
        if text:
            (tmp_path / 'run.json').write_text(text)
        with pytest.raises(FileNotFoundError, match='folder must be that of a run'):
            open_survey(tmp_path)
    run = {'encoder': 'stars', 'encoder_sha256': 'abc'}
    (tmp_path / 'run.json').write_text(json.dumps(run))
    (tmp_path / 'fields').mkdir()
    survey = open_survey(tmp_path)
    assert len(survey.fields) == 0
    for call in (survey.rows, survey.expected_counts, survey.maps, survey.catalog):
        with pytest.raises(ValueError, match=r'no field of .* on the sky is done'):
            call()
    with pytest.warns(Warning, match='no catalogue and maps'):
        survey.write()


@pytest.mark.parametrize(('key', 'value'), [('unit', 'nmgy'), ('band', 'g')])
def test_fields_of_other_units_or_bands(make_survey, tmp_path, key, value):
    make_survey(tmp_path / 'run', [(0, 0), (90, 0)], n=50)
    for name, own in (('f00', 'electron' if key == 'unit' else 'r'), ('f01', value)):
        path = tmp_path / 'run' / 'fields' / f'{name}.json'
        record = json.loads(path.read_text())
        record['marginals'][key] = own
        path.write_text(json.dumps(record))
    survey = open_survey(tmp_path / 'run')
    for call in (survey.rows, survey.expected_counts, survey.maps, survey.write):
        with pytest.raises(ValueError, match=rf'different {key}s .*f00.*f01 {value}\)'):
            call()
    path.unlink()
    survey.refresh()
    survey.write()


def test_missing_bands_in_the_table_of_fields():
    row = row_of({'field': 'a', 'status': 'done', 'bands': [None], 'reason': ''})
    assert row['bands'] == ''


def test_damaged_marginals_are_named(make_survey, tmp_path):
    make_survey(tmp_path / 'run', [(0, 0)], n=100)
    path = tmp_path / 'run' / 'fields' / 'f00.npz'
    path.write_bytes(path.read_bytes()[:-40])
    survey = open_survey(tmp_path / 'run')
    with pytest.raises(OSError, match=r'f00.npz.*remove f00.json'):
        survey.expected_counts()
