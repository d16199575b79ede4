# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the shapes of galaxies in catalogues: columns, intervals, draws, files.
"""

import copy
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy import conf
from astropy.coordinates import SkyCoord
from astropy.table import vstack
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import CoaddSimulator, detect_sources
from bliss_astro.catalog import (
    CatalogPosterior,
    ProbabilisticCatalog,
    _columns,
    _shared_light,
)
from bliss_astro.catalog import _draws as module
from bliss_astro.catalog._candidates import candidates_of, pack_draws
from bliss_astro.catalog._columns import (
    COLUMNS,
    SHAPE_COLUMNS,
    SHAPE_NAMES,
    pixel_scale,
)
from bliss_astro.catalog._posterior import rows_of
from bliss_astro.catalog._shared_light import SharedLight
from bliss_astro.encoders import Encoder, EncoderConfig, available_encoders
from bliss_astro.exposures import Exposure
from bliss_astro.flags import CatalogFlag
from bliss_astro.posteriors._source_parameters import ELLIPTICITY, SHAPE
from bliss_astro.priors import GALAXY_SHAPE_NAMES, CatalogPrior
from bliss_astro.psf import PSFModel
from bliss_astro.simulation import SimulationConfig, SimulationStream

SCALE = 0.396  # arcsec, of the wcs in conftest.py
RADII = ('disk_radius', 'bulge_radius')
# The share of a normal distribution within one standard deviation.
ONE_SIGMA = 0.6826894921


def shape_values(n, *, seed=3):
    """Plausible columns of n rows, radii in pixels."""
    rng = np.random.default_rng(seed)
    ranges = {
        'disk_radius': (0.5, 8),
        'bulge_radius': (0.3, 5),
        'angle': (0, 180),
        'e1': (-0.8, 0.8),
        'e2': (-0.8, 0.8),
    }
    columns = {}
    for name in SHAPE_COLUMNS:
        columns[name] = rng.uniform(*ranges.get(name, (0, 1)), n)
        columns[f'{name}_err'] = rng.uniform(0.01, 0.1, n)
    return columns


@pytest.fixture
def shaped(columns):
    """Arrays of eight rows with shapes, in order of flux."""
    order = np.argsort(-columns['flux'])
    columns = {name: values[order] for name, values in columns.items()}
    return columns | shape_values(8)


# -- columns ---------------------------------------------------------------------


def test_every_shape_has_a_column_and_an_error():
    assert set(SHAPE_COLUMNS) == {*GALAXY_SHAPE_NAMES, 'e1', 'e2'}
    names = list(COLUMNS)
    for name in SHAPE_COLUMNS:
        assert names[names.index(name) + 1] == f'{name}_err'
        assert 'given a galaxy' in COLUMNS[name].description
        assert COLUMNS[f'{name}_err'].unit == COLUMNS[name].unit


def test_units_without_wcs(shaped):
    cat = ProbabilisticCatalog.from_columns(shaped)
    for name in RADII:
        assert cat[name].unit == cat[f'{name}_err'].unit == u.pix
        assert_array_equal(cat[name].value, shaped[name])
    assert cat['angle'].unit == cat['angle_err'].unit == u.deg
    for name in ('disk_fraction', 'bulge_axis_ratio', 'e1', 'e2_err'):
        assert cat[name].unit is None
        assert_array_equal(cat[name], shaped[name])
    assert 'pixel_scale' not in cat.image
    # Between the fluxes and the flags, in one fixed order.
    names = [name for name in cat.colnames if name in SHAPE_NAMES]
    start = cat.colnames.index('disk_fraction')
    assert names == cat.colnames[start : start + 16]
    assert cat.colnames[-1] == 'flags'


def test_units_with_wcs(shaped, celestial_wcs):
    cat = ProbabilisticCatalog.from_columns(shaped, wcs=celestial_wcs)
    for name in RADII:
        assert cat[name].unit == cat[f'{name}_err'].unit == u.arcsec
        assert_allclose(cat[name].value, SCALE * shaped[name], rtol=1e-6)
        error = shaped[f'{name}_err']
        assert_allclose(cat[f'{name}_err'].value, SCALE * error, rtol=1e-6)
    assert cat.image['pixel_scale'] == pytest.approx(SCALE)


@pytest.mark.parametrize('with_wcs', [False, True])
def test_quantities(shaped, celestial_wcs, with_wcs):
    wcs = celestial_wcs if with_wcs else None
    plain = ProbabilisticCatalog.from_columns(shaped, wcs=wcs)
    given = dict(shaped)
    given['disk_radius'] = shaped['disk_radius'] * u.pix
    given['angle'] = np.deg2rad(shaped['angle']) * u.rad
    own = ProbabilisticCatalog.from_columns(given, wcs=wcs)
    assert_allclose(own['disk_radius'], plain['disk_radius'], rtol=1e-12)
    assert_allclose(own['angle'], plain['angle'], rtol=1e-12)
    # Angular radii stay angular, with and without a WCS.
    given['bulge_radius'] = np.full(8, 0.02) * u.arcmin
    own = ProbabilisticCatalog.from_columns(given, wcs=wcs)
    assert_allclose(own['bulge_radius'].to_value(u.arcsec), 1.2, rtol=1e-12)
    assert own['bulge_radius'].unit == u.arcsec


def test_unknown_shapes_are_nan(shaped):
    shaped['disk_radius'][2] = shaped['e1'][2] = shaped['angle'][2] = np.nan
    cat = ProbabilisticCatalog.from_columns(shaped)
    assert np.isnan([cat['disk_radius'][2].value, cat['e1'][2]]).all()


@pytest.mark.parametrize(
    ('name', 'value', 'match'),
    [
        ('disk_fraction', -0.1, r'within \[0, 1\]'),
        ('disk_axis_ratio', 1.1, r'within \[0, 1\]'),
        ('bulge_axis_ratio', 2, r'within \[0, 1\]'),
        ('disk_radius', 0.0, 'positive and finite'),
        ('bulge_radius', -1, 'positive and finite'),
        ('bulge_radius', np.inf, 'positive and finite'),
        ('angle', 180.0, r'in \[0, 180\) degrees'),
        ('angle', -1.0, r'in \[0, 180\) degrees'),
        ('e2', -1.01, r'within \[-1, 1\]'),
        ('e1_err', -0.01, '0 or more'),
    ],
)
def test_ranges(shaped, name, value, match):
    shaped[name][3] = value
    with pytest.raises(ValueError, match=rf"columns\['{name}'\] must be {match}"):
        ProbabilisticCatalog.from_columns(shaped)


@pytest.mark.parametrize(
    ('name', 'unit', 'allowed'),
    [
        ('disk_radius', u.s, 'pixels or an angular unit'),
        ('disk_radius', u.dimensionless_unscaled, 'pixels or an angular unit'),
        ('angle', u.pix, 'an angular unit'),
        ('e1', u.deg, 'plain numbers'),
    ],
)
def test_wrong_units(shaped, name, unit, allowed):
    shaped[name] = shaped[name] * unit
    with pytest.raises(u.UnitsError, match=rf"'{name}'\] must be in {allowed}; got"):
        ProbabilisticCatalog.from_columns(shaped)


def test_some_columns_will_do_and_rows_stack(shaped):
    few = {name: v for name, v in shaped.items() if not name.startswith('bulge')}
    cat = ProbabilisticCatalog.from_columns(few)
    assert 'bulge_radius' not in cat.colnames
    assert vstack([cat[:3], cat[3:]])['disk_radius'].unit == u.pix


class _OtherWCS:
    """What is left of a WCS that FITS headers cannot hold."""

    pixel_n_dim = 2
    array_shape = (60, 80)

    def __init__(self, wcs):
        self.pixel_to_world = wcs.pixel_to_world


def test_pixel_scale(celestial_wcs):
    assert pixel_scale(celestial_wcs) == pytest.approx(SCALE, rel=1e-6)
    # 40 px from the tangent point: the scale is the same to 1e-8.
    other = pixel_scale(_OtherWCS(celestial_wcs))
    assert other == pytest.approx(SCALE, rel=1e-5)
    uneven = WCS(naxis=2)
    uneven.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    uneven.wcs.cdelt = -1 / 3600, 2 / 3600
    assert pixel_scale(uneven) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ('ending', 'with_wcs'),
    [
        ('fits', False),
        ('fits', True),
        ('ecsv', True),
        ('vot', False),
        ('parquet', True),
    ],
)
def test_files_keep_shapes(shaped, celestial_wcs, tmp_path, ending, with_wcs):
    if ending == 'parquet':
        pytest.importorskip('pyarrow')
    shaped['disk_radius'][1] = np.nan
    unit = u.arcsec if with_wcs else u.pix
    shaped['disk_radius_samples'] = np.ones((8, 3)) * unit
    wcs = celestial_wcs if with_wcs else None
    cat = ProbabilisticCatalog.from_columns(shaped, wcs=wcs, unit=u.nmgy)
    cat.write(tmp_path / f'cat.{ending}')
    again = ProbabilisticCatalog.read(tmp_path / f'cat.{ending}')
    assert again.colnames == cat.colnames
    for name in (*SHAPE_NAMES, 'disk_radius_samples'):
        assert again[name].unit == cat[name].unit
        assert again[name].info.description == cat[name].info.description
        assert_array_equal(np.asarray(again[name]), np.asarray(cat[name]))
    # The same units, so that what was read stacks with what was written.
    assert len(vstack([cat, again])) == 16


# -- summaries of draws ------------------------------------------------------------


def test_mean_angle_crosses_the_seam():
    assert module.mean_angle([[170, 10, 0.0]])[0] == pytest.approx(0, abs=1e-9)
    assert module.mean_angle([[175, 3]])[0] == pytest.approx(179)
    assert_allclose(module.mean_angle([[40, 50], [85, 95]]), [45, 90])
    assert module.mean_angle(np.full((1, 4), 180.0))[0] == 0


def test_angle_quantiles_stay_in_order():
    rng = np.random.default_rng(5)
    draws = np.mod([[1.0], [90.0], [178.0]] + 8 * rng.normal(size=(3, 20000)), 180)
    low, high = module.draw_quantiles('angle', draws, [0.158655, 0.841345])
    mean = module.mean_angle(draws)
    # A quantile at one sigma of n draws is uncertain by 1.5 sigma / sqrt(n).
    assert_allclose(mean - low, 8, atol=5 * 1.8 * 8 / np.sqrt(20000))
    assert_allclose(high - mean, 8, atol=5 * 1.8 * 8 / np.sqrt(20000))
    assert low[0] < 0
    assert high[2] > 180


def draws_of(shapes, ellipticity, name):
    """Draws of one column."""
    parameter, k = module.columns_after_flux((ELLIPTICITY, SHAPE))[name]
    draws = {'shape': shapes, 'ellipticity': ellipticity}[parameter]
    return module.in_range(name, np.asarray(draws, float)[..., k])


def summary(shapes, ellipticity, name):
    """Middle and error of one column."""
    draws = {name: draws_of(shapes, ellipticity, name)}
    return module.summarize_draws(draws)[name]


def test_medians_and_errors():
    rng = np.random.default_rng(8)
    n, p = 3, 40000
    middle = np.array([0.5, 1.0, 0.6, 0.7, 3.0, 2.0])
    scale = np.array([0.05, 0.2, 0.04, 0.03, 0.3, 0.1])
    shapes = middle + scale * rng.normal(size=(n, p, 6))
    shapes[..., 1] = np.mod(shapes[..., 1], np.pi)
    ellipticity = [0.2, -0.1] + 0.05 * rng.normal(size=(n, p, 2))
    expected = dict(
        zip(GALAXY_SHAPE_NAMES, zip(middle, scale, strict=True), strict=True)
    )
    expected |= {'e1': (0.2, 0.05), 'e2': (-0.1, 0.05)}
    for name, (centre, error) in expected.items():
        if name == 'angle':
            centre, error = np.rad2deg([centre, error])
        found = summary(shapes, ellipticity, name)
        # Medians and half-widths of normal draws: 1.25 and 1.2 sigma / sqrt(n).
        assert_allclose(found[0], centre, atol=5 * 1.25 * error / np.sqrt(p))
        assert_allclose(found[1], error, rtol=5 * 1.2 / np.sqrt(p))


def test_nothing_known_of_a_direction():
    angle = np.pi * (np.arange(1000) + 0.5) / 1000
    shapes = np.full((1, 1000, 6), 0.5)
    shapes[..., 1] = angle
    _, error = summary(shapes, np.zeros((1, 1000, 2)), 'angle')
    assert error == pytest.approx(90 * ONE_SIGMA, abs=0.2)


def test_rounding_stays_in_range():
    shapes = np.full((1, 4, 6), 1.0 + 1e-7, dtype='f4')
    shapes[..., 1] = np.float32(np.pi)
    middle = {
        name: summary(shapes, np.zeros((1, 4, 2)), name)[0]
        for name in ('disk_fraction', 'bulge_axis_ratio', 'angle')
    }
    assert middle['disk_fraction'] == middle['bulge_axis_ratio'] == 1
    assert 0 <= middle['angle'] < 180


# -- the posterior ------------------------------------------------------------------


@pytest.fixture(scope='module')
def scene():
    """A small exposure of stars and galaxies."""
    config = SimulationConfig(
        population='npe',
        n_exposures=(1, 1),
        shape=(72, 72),
        bad_pixels=False,
        crowding=(4.0, 4.0),
    )
    scenes = SimulationStream(config).sample_batch(
        1, generator=torch.Generator().manual_seed(4)
    )
    return Exposure(
        scenes.data[0].double().numpy() * u.electron,
        background=float(scenes.background[0]) * u.electron,
        bkg_error=float(scenes.bkg_error[0]) * u.electron,
        effective_gain=1.0,
        psf=PSFModel.from_shape(scenes.psf[0].double().numpy()),
    )


def draw_shapes(n, p, *, seed=6):
    """Draws of n sources, a different centre for each."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.tensor([0.2, 0.0, 0.3, 0.3, 1.0, 1.0])
    reach = torch.tensor([0.6, 3.14, 0.5, 0.5, 4.0, 3.0])
    centre = centre + reach * torch.rand(n, 1, 6, generator=g)
    shapes = centre + 0.05 * (torch.rand(n, p, 6, generator=g) - 0.5)
    shapes[..., 1] %= torch.pi
    ellipticity = 0.3 * torch.randn(n, 1, 2, generator=g).clamp(-2, 2)
    return shapes, ellipticity + 0.02 * torch.randn(n, p, 2, generator=g)


def give_shapes(posterior, wcs=None):
    """A posterior that knows shapes, made of one that does not."""
    made = CatalogPosterior(
        posterior.tile_posterior,
        posterior.flux_floor,
        unit=posterior.unit,
        wcs=wcs,
        meta={**posterior.meta, 'encoder': 'stars-galaxies'},
    )
    found = copy.copy(candidates_of(posterior, 0.0))
    shapes, ellipticity = draw_shapes(len(found), 64)
    drawn = {'shape': shapes, 'ellipticity': ellipticity}
    for name, draws in drawn.items():
        found._packed = found._packed | pack_draws(f'draws_{name}', draws)
    made._found = [found]
    return made


@pytest.fixture(scope='module')
def plain(scene):
    """The posterior of the small exposure as the encoder gives it."""
    return detect_sources(scene, population='npe', check=False).posterior


@pytest.fixture(params=[False, True], ids=['pix', 'arcsec'])
def posterior(request, plain, celestial_wcs):
    return give_shapes(plain, celestial_wcs if request.param else None)


def column_draws(posterior, catalog, name):
    """The draws behind the rows of a catalogue, in units of the table."""
    sources = rows_of(posterior, catalog).sources
    values = draws_of(sources.shapes, sources.ellipticity, name)
    if name in RADII and posterior.wcs is not None:
        values = values * SCALE
    return values


def test_tables_have_shapes(posterior):
    cat = posterior.at_threshold(0.5)
    assert len(cat) > 3
    assert set(cat.colnames) >= SHAPE_NAMES
    unit = u.pix if posterior.wcs is None else u.arcsec
    assert cat['disk_radius'].unit == unit
    for name in SHAPE_COLUMNS:
        draws = column_draws(posterior, cat, name)
        middle = np.median(draws, axis=1)
        if name == 'angle':
            middle = module.mean_angle(draws)
        found = np.asarray(getattr(cat[name], 'value', cat[name]))
        assert_allclose(found, middle, rtol=1e-6)


def test_radii_stay_arcsec_where_the_wcs_cannot_be_kept(plain, celestial_wcs):
    posterior = give_shapes(plain, _OtherWCS(celestial_wcs))
    again = CatalogPosterior.from_arrays(*posterior.to_arrays())
    assert again.wcs is None
    again._found = posterior._found
    tables = [made.at_threshold(0.5) for made in (posterior, again)]
    for name in ('disk_radius', 'disk_radius_err'):
        assert tables[1][name].unit == u.arcsec
        assert_allclose(tables[1][name], tables[0][name], rtol=1e-12)
    limits = [table.credible_interval('disk_radius', 0.9)[0] for table in tables]
    assert_allclose(limits[1], limits[0], rtol=1e-12)
    scales = [table.image['pixel_scale'] for table in tables]
    assert_allclose(scales, SCALE, rtol=1e-5)


def test_errors_are_half_the_68_percent_interval(posterior):
    cat = posterior.at_threshold(0.5)
    for name in SHAPE_COLUMNS:
        low, high = cat.credible_interval(name, ONE_SIGMA)
        assert_allclose(0.5 * (high - low), cat[f'{name}_err'], rtol=1e-6)
        assert (low < high).all()
        if name in RADII:
            # The user's own unit is respected.
            cat[name] = cat[name].to(u.pix if cat[name].unit == u.pix else u.arcmin)
            again = cat.credible_interval(name, ONE_SIGMA)[0]
            assert again.unit == cat[name].unit
            assert_allclose(again.to_value(low.unit), low.value, rtol=1e-12)
        wide = cat.credible_interval(name, 0.95, gaussian=True)
        assert (wide[1] > high).all()


def test_columns_of_samples(posterior):
    cat = posterior.at_threshold(0.5, n_samples=50, rng=1)
    for name in SHAPE_COLUMNS:
        drawn = cat[f'{name}_samples']
        assert drawn.shape == (len(cat), 50)
        assert drawn.unit == cat[name].unit
        draws = column_draws(posterior, cat, name)
        # Every one of them is a draw of its own row.
        values = np.asarray(getattr(drawn, 'value', drawn))
        apart = np.abs(values[:, :, None] - draws[:, None, :]).min(-1)
        assert apart.max() < 1e-9
    # And with the draws at hand no posterior is needed.
    cat.posterior = None
    for name in ('e1', 'angle', 'disk_radius'):
        low, high = cat.credible_interval(name, 0.9)
        inside = (cat[name] >= low) & (cat[name] <= high)
        assert inside.all()
        assert low.unit == cat[name].unit if hasattr(low, 'unit') else name == 'e1'


def test_samples_on_demand(posterior):
    cat = posterior.at_threshold(0.5)
    radius = cat.samples('disk_radius', n_samples=300, rng=2).distribution
    assert radius.unit == cat['disk_radius'].unit
    assert_allclose(np.median(radius, 1), cat['disk_radius'], rtol=0.02)
    e1 = cat.samples('e1', n_samples=300, rng=2).distribution
    assert_allclose(e1.std(1), 0.02, rtol=0.5)


def test_drawn_catalogues(posterior, monkeypatch):
    tile_posterior = posterior.tile_posterior
    drawn = tile_posterior.sample(generator=torch.Generator().manual_seed(2))
    # Every other source is a galaxy.
    used = torch.arange(2) < drawn.count[..., None]
    drawn.galaxy = used * (used.flatten().cumsum(0) % 2).reshape(used.shape).float()
    shape = torch.arange(1.0, 7.0) * torch.tensor([0.1, 1.0, 0.1, 0.1, 1.0, 1.0])
    drawn.shape = shape * drawn.galaxy[..., None]
    monkeypatch.setattr(tile_posterior, 'sample', lambda **_: drawn)
    draw = posterior.sample(1, rng=3)[0]
    six = [name for name in SHAPE_COLUMNS if name not in ('e1', 'e2')]
    assert draw.colnames[3:] == ['is_galaxy', *six]
    galaxy = draw['is_galaxy']
    assert galaxy.any()
    assert not galaxy.all()
    for name in six:
        values = np.asarray(getattr(draw[name], 'value', draw[name]))
        assert np.isnan(values[~galaxy]).all()
    scale = 1 if posterior.wcs is None else SCALE
    assert_allclose(draw['disk_radius'][galaxy].value, 5 * scale, rtol=1e-6)
    assert_allclose(draw['bulge_radius'][galaxy].value, 6 * scale, rtol=1e-6)
    assert_allclose(draw['angle'][galaxy].value, np.rad2deg(2.0), rtol=1e-6)
    assert_allclose(draw['disk_fraction'][galaxy], 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ('sequence', 'latent_dim'), [(False, 0), (True, 0), (False, 6)]
)
def test_an_untrained_encoder_of_shapes_from_image_to_file(
    scene, celestial_wcs, tmp_path, sequence, latent_dim
):
    config = EncoderConfig(
        galaxies=True,
        shapes=True,
        sequence=sequence,
        latent_dim=latent_dim,
        width=16,
        n_blocks=1,
        stem_width=16,
        head_width=16,
    )
    encoder = Encoder(config).eval().requires_grad_(False)
    # Untrained, it thinks of most tiles as empty.
    torch.nn.init.zeros_(encoder.head.count.bias)
    found = detect_sources(
        scene[:16, :20].replace(wcs=celestial_wcs),
        0.05,
        encoder=encoder,
        density=0.01,
        n_samples=7,
        rng=1,
        check=False,
        keep='posterior',
    )
    assert len(found) > 0
    draws = found.posterior.sample(2, rng=1)
    if latent_dim:
        # Not to be taken for the six numbers of bulge and disk.
        assert SHAPE_NAMES & set(found.colnames) == {*('e1', 'e1_err', 'e2', 'e2_err')}
        assert draws[0]['latent'].shape == (len(draws[0]), 6)
        with pytest.raises(KeyError, match='learned model, of which only e1 and e2'):
            found['disk_radius']
        with pytest.raises(ValueError, match='learned model, of which only e1'):
            found.posterior.interval(found, 'angle', level=0.9)
    else:
        assert found['disk_radius'].unit == u.arcsec
        assert set(found.colnames) >= SHAPE_NAMES
        six = [name for name in SHAPE_COLUMNS if name not in ('e1', 'e2')]
        assert draws[0].colnames[-6:] == six
    found.write(tmp_path / 'cat.fits')
    again = ProbabilisticCatalog.read(tmp_path / 'cat.fits')
    table = again.posterior.at_threshold(0.05, n_samples=7, rng=1)
    for name in found.colnames:
        if name != 'sky_centroid':
            # Sums over tiles that lie elsewhere in memory round otherwise.
            assert_allclose(np.asarray(table[name]), np.asarray(found[name]), rtol=1e-5)
    for first, second in zip(draws, again.posterior.sample(2, rng=1), strict=True):
        for name in first.colnames:
            assert_allclose(
                np.asarray(first[name]), np.asarray(second[name]), rtol=1e-5
            )


def test_joint_draws_have_the_marginals_of_rows():
    """
    Presence, types, fluxes and sizes of 300 draws are those of the rows.
    """
    simulator = CoaddSimulator(1, CatalogPrior(), shape=(72, 72), margin=-5)
    found = detect_sources(simulator.sample(rng=7)[0], check=False, keep='posterior')
    n = 300
    draws = found.posterior.sample(n, rng=1)
    which, drawn = np.repeat(np.arange(n), [len(draw) for draw in draws]), vstack(draws)
    assert len(found) == 3
    for row in found:
        x, y = (drawn[name] - row[name] for name in ('x_centroid', 'y_centroid'))
        near = np.hypot(x, y) < 2
        own, size = drawn[near], drawn['disk_radius'][near]
        # The circle is larger than that of the row's probability: 0.07 in the mean.
        share = len(np.unique(which[near])) / n
        assert abs(share - 0.07 - row['probability']) < 0.12
        assert abs(own['is_galaxy'].mean() - row['galaxy_probability']) < 0.1
        assert abs(np.median(own['flux']) - row['flux']) < 0.35 * row['flux_err']
        off = np.nanmedian(size) - row['disk_radius']
        assert abs(off) < 0.4 * row['disk_radius_err']
        low, high = np.nanquantile(size, (0.16, 0.84))
        assert_allclose((high - low) / 2, row['disk_radius_err'], rtol=0.5)
        assert np.array_equal(np.isnan(size), ~own['is_galaxy'])


# -- tiles without room ---------------------------------------------------------------

# Tile (7, 7) holds the pixels 28 to 31.
CROWD = [(28.3, 28.4), (31.2, 28.2), (28.2, 31.3), (31.3, 31.2)]


def stars_in_one_tile(places, flux):
    """An exposure of bright stars at given places, of SDSS's seeing."""
    psf = PSFModel()
    y, x = np.mgrid[:64, :64].astype(float)
    data = sum(psf(x - a, y - b) * flux for a, b in places)
    rng = np.random.default_rng(12)
    return Exposure(
        rng.normal(data, np.sqrt(865.0 + data)),
        background=0.0,
        bkg_error=865.0**0.5,
        effective_gain=1.0,
        psf=psf,
    )


@pytest.fixture(scope='module')
def crowded():
    """The catalogue of four stars in one tile, and of one that is alone in its own."""
    exposure = stars_in_one_tile([*CROWD, (10.0, 50.0)], 3e4)
    return detect_sources(
        exposure, encoder='stars', density=0.003, n_samples=1000, rng=1, check=False
    )


# -- encoders without shapes --------------------------------------------------------


@pytest.fixture
def stars(columns):
    """A catalogue of the encoder of stars."""
    meta = {'encoder': 'stars'}
    return ProbabilisticCatalog.from_columns(columns, meta=meta)


@pytest.mark.parametrize('item', ['e1', 'disk_radius_err', ['id', 'angle']])
def test_an_encoder_without_shapes_says_so(stars, item):
    with pytest.raises(KeyError, match="encoder 'stars' infers no shapes") as caught:
        stars[item]
    assert 'of the bundled encoders these do' in str(caught.value)


def test_the_ones_that_do_are_named(stars, monkeypatch):
    monkeypatch.setattr(_columns, '_able_encoders', lambda: ['this', 'that'])
    with pytest.raises(KeyError, match="these do: 'this' and 'that'"):
        stars['e1']
    stars.meta['encoder'] = {'name': 'this'}
    with pytest.raises(KeyError, match=r"'this' infers shapes .* left out or removed"):
        stars['e1']
    del stars.meta['encoder']
    with pytest.raises(KeyError, match='comes from no encoder'):
        stars['e1']
    # Names that are none are as ever.
    with pytest.raises(KeyError, match=r'^.colour.$'):
        stars['colour']


def test_able_encoders_are_bundled_ones():
    assert set(_columns._able_encoders()) <= set(available_encoders())
    assert 'stars' not in _columns._able_encoders()


def test_questions_about_shapes_that_are_not_there(crowded):
    found = crowded
    for ask in (
        lambda: found.credible_interval('e1', 0.9),
        lambda: found.samples('disk_radius'),
        lambda: found.posterior.interval(found, 'angle', level=0.9),
        lambda: found.posterior.sample_rows(found, 'e2', n_samples=3),
    ):
        with pytest.raises(ValueError, match="encoder 'stars' infers no shapes"):
            ask()


# -- full tiles -----------------------------------------------------------------------


def test_four_stars_in_one_tile_are_flagged(crowded):
    found = crowded
    full = (found['flags'] & int(CatalogFlag.FULL_TILE)) > 0
    near = np.hypot(found['x_centroid'] - 29.8, found['y_centroid'] - 29.8) < 5
    assert near.sum() >= 2
    assert full[near].any()
    assert not full[~near].any()
    names = found[full].decode_flags()[0]
    assert 'full_tile' in names


def test_flux_is_the_median_of_samples_and_intervals(crowded):
    """
    Also where a tile has more light than its rows, whose flux is more uncertain then.
    """
    found = crowded
    factor = candidates_of(found.posterior, 0.5).light.ratio
    assert (factor > 1.05).any()
    flux, error = (np.asarray(found[name]) for name in ('flux', 'flux_err'))
    drawn = found.samples('flux', n_samples=4000, rng=2)
    for samples in (found['flux_samples'], drawn):
        values = np.asarray(getattr(samples, 'distribution', samples))
        np.testing.assert_allclose(
            np.median(values, axis=1), flux, atol=0.1 * error.max(), rtol=0.02
        )
        low, high = np.quantile(values, [0.15865525, 0.84134475], axis=1)
        np.testing.assert_allclose(0.5 * (high - low), error, rtol=0.1)
    low, high = found.credible_interval('flux', 0.6826895)
    np.testing.assert_allclose(np.asarray(high - low), 2 * error, rtol=1e-5)
    low, high = found.credible_interval('flux', 1e-6)
    np.testing.assert_allclose(np.asarray(low), flux, rtol=1e-4)
    # The same for some of the rows, at another threshold, and from a file.
    again = found.posterior.at_threshold(0.9)
    for row in again:
        same = np.asarray(found['x_centroid']) == row['x_centroid']
        assert flux[same] == np.asarray(row['flux'])
    part = found[::-1][:2]
    low, _ = part.credible_interval('flux', 1e-6)
    np.testing.assert_allclose(np.asarray(low), np.asarray(part['flux']), rtol=1e-4)


def test_draws_hold_all_the_light(crowded):
    draws = crowded.posterior.sample(10, rng=1)
    total = [np.sum(np.asarray(draw['flux'])) for draw in draws]
    np.testing.assert_allclose(np.mean(total), 15e4, rtol=0.05)


def test_widened_distributions():
    """
    Median, width and order, by hand; outliers stay where they are, but for the factor.
    """
    light = SharedLight(np.array([1.0, 2.0]), np.zeros(2), np.array([0.3, 1e-3]))
    values = np.array([[-1.0, 0.0, 0.3, 5.0], [-1.0, 0.0, 1e-3, 5.0]])
    changed = light(values, np.arange(2))
    np.testing.assert_array_equal(changed[0], values[0])
    more = np.log(2)
    assert changed[1, 1] == more
    np.testing.assert_allclose(changed[1, 2] - more, np.hypot(1e-3, more))
    assert np.all(np.diff(changed[1]) > 0)
    assert changed[1, 3] < 5 + 5 * more


def test_light_of_full_tiles_together_or_one_by_one(monkeypatch):
    """
    Two full tiles beside each other: what is drawn at once does not matter.
    """
    places = (np.array(CROWD) + np.array([[[0, 0]], [[8, 0]], [[0, 16]]])).reshape(
        -1, 2
    )
    exposure = stars_in_one_tile(places, 3e4)
    found = detect_sources(exposure, encoder='stars', density=0.003, check=False)
    factor = candidates_of(found.posterior, 0.5).light.ratio
    assert (factor > 1.05).sum() > 3
    monkeypatch.setattr(_shared_light, '_BATCH_PIXELS', 1)
    again = CatalogPosterior(found.posterior.tile_posterior, found.posterior.flux_floor)
    ratio = candidates_of(again, 0.5).light.ratio
    np.testing.assert_allclose(ratio, factor, rtol=1e-5)


def test_one_star_fills_no_tile():
    exposure = stars_in_one_tile([(30.0, 30.0)], 3e4)
    found = detect_sources(exposure, encoder='stars', density=0.003, check=False)
    assert len(found) == 1
    assert not found['flags'][0] & int(CatalogFlag.FULL_TILE)


def test_of_one_source_a_tile_nothing_is_said(plain, monkeypatch):
    sources, tiles = plain.sources, plain.tile_posterior
    monkeypatch.setattr(tiles.head, 'n_most', 1)
    assert not _shared_light.in_full_tile(tiles, sources.row, sources.column).any()


# -- display ------------------------------------------------------------------------


def test_narrow_terminals_leave_shapes_out_first(shaped):
    cat = ProbabilisticCatalog.from_columns(shaped, unit=u.nmgy)
    with conf.set_temp('max_width', 110), conf.set_temp('max_lines', 20):
        lines = str(cat).splitlines()
    assert max(map(len, lines[1:])) <= 110
    assert 'e1' in lines[1].split()
    assert 'disk_radius' not in lines[1]
    assert lines[-1].endswith('14 columns of shapes')
    with conf.set_temp('max_width', 400), conf.set_temp('max_lines', 20):
        lines = str(cat).splitlines()
    assert 'Not shown' not in lines[-1]
    last = [line for line in lines if not line.startswith('Flags')][-1]
    row = dict(zip(lines[1].split(), last.split(), strict=True))
    assert row['angle'] == f'{cat["angle"][-1].value:.1f}'
    assert row['e1'] == f'{cat["e1"][-1]:.3f}'


def test_the_command_prints_ellipticities_of_galaxies(shaped, capsys):
    from bliss_astro.cli._detect import _print_brightest

    shaped['galaxy_probability'] = np.array([0.9, 0.1] * 4)
    cat = ProbabilisticCatalog.from_columns(shaped, unit=u.nmgy)
    _print_brightest(SimpleNamespace(quiet=False), cat)
    out, err = capsys.readouterr()
    names = out.splitlines()[0].split()
    assert [name for name in names if name in SHAPE_NAMES] == ['e1', 'e2']
    assert out.count('--  ') >= 4
    rows = [line.split() for line in out.splitlines()[3:]]
    rows = [row for row in rows if len(row) == len(names)]
    e1 = [row[names.index('e1')] for row in rows]
    assert e1[1] == '--'
    assert e1[0] == f'{cat["e1"][0]:.3f}'
    assert '14 more columns of shapes' in err
    # The catalogue itself is as it was.
    assert set(cat.colnames) >= SHAPE_NAMES


def test_sky_positions_are_still_there(shaped, celestial_wcs):
    cat = ProbabilisticCatalog.from_columns(shaped, wcs=celestial_wcs)
    assert isinstance(cat['sky_centroid'], SkyCoord)
