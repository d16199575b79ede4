# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds of several bands: each as that of one band, all on one grid.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.coadds import Coadd, coadd_exposures
from bliss_astro.exposures import Exposure, ExposureSet
from bliss_astro.psf import PSFModel

pytest.importorskip('reproject')


def make(x, y, *, seed, flux=2000.0):
    """
    An exposure of one star at one place of the sky, in pixel (x, y).
    """
    cards = {'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CRVAL1': 150, 'CRVAL2': 2}
    cards |= {'CDELT1': -1.1e-4, 'CDELT2': 1.1e-4, 'CRPIX1': x + 1, 'CRPIX2': y + 1}
    yy, xx = np.indices((96, 112))
    psf = PSFModel(sigma1=1.4)
    noise = np.random.default_rng(seed).normal(0, 0.5, xx.shape)
    known = {'background': 10.0, 'bkg_error': 0.5, 'effective_gain': 4.0, 'psf': psf}
    image = flux * psf(xx - x, yy - y) + 10 + noise
    return Exposure(image, **known, wcs=WCS(cards))


def flux_at(exposure, x, y, radius=8):
    """
    Sum within a square aperture.
    """
    part = exposure.data - exposure.background
    return part[y - radius : y + radius + 1, x - radius : x + radius + 1].sum()


@pytest.fixture(scope='module')
def lists():
    """
    Dithered exposures in r and g, by band.
    """
    r = [make(40 + d, 30 - d, seed=k) for k, d in enumerate((0.0, 0.4, -3.3))]
    g = [make(42.3 + d, 30.2, seed=9 + k, flux=900.0) for k, d in enumerate((0.0, 5.5))]
    return {'r': r, 'g': g}


def test_lists_by_band(lists):
    found = coadd_exposures(lists)
    assert isinstance(found, ExposureSet)
    assert (list(found), found.reference) == (['r', 'g'], 'r')
    assert all(isinstance(coadd, Coadd) for coadd in found.values())
    # The grid covers all of both bands.
    alone = coadd_exposures(lists['r'], wcs_out=found.wcs, shape_out=found.shape)
    assert_array_equal(found['r'].data, alone.data)
    assert_array_equal(found['r'].bkg_error, alone.bkg_error)
    assert found.shape > (96, 112)
    assert found['g'].n_exposures.max() == 2
    assert found['g'].band.name == 'g'
    x, y = (round(float(v)) for v in found.wcs.world_to_pixel_values(150.0, 2.0))
    for name, flux in (('r', 2000), ('g', 900)):
        assert_allclose(flux_at(found[name], x, y), flux, rtol=0.04)
    one = coadd_exposures({'g': lists['g'][0], 'r': lists['r'][:1], 'i': None})
    assert [band.name for band in one.bands] == ['g', 'r', 'i']
    assert one.reference == 'g'


def test_sets(lists):
    r, g = lists['r'], [make(40 + d, 30 - d, seed=5) for d in (0.0, 0.4)]
    pairs = [{'r': r[0], 'g': g[0]}, {'r': r[1], 'g': None}, {'r': r[1], 'g': g[1]}]
    sets = [ExposureSet(pair | {'z': None}, reference='r') for pair in pairs]
    found = coadd_exposures(sets, sigma_clip=5)
    assert list(found) == ['r', 'g']
    assert [band.name for band in found.bands] == ['r', 'g', 'z']
    assert found['r'].meta['n_exposures'] == 3
    assert found['g'].meta['n_exposures'] == 2
    again = coadd_exposures({'r': [r[0], r[1], r[1]], 'g': g}, sigma_clip=5)
    assert_array_equal(found['g'].data, again['g'].data)
    (alone,) = coadd_exposures(sets[1]).values()
    assert_allclose(alone.data, r[1].data - r[1].background)


def test_options_by_band(lists):
    counts = {
        name: [one.replace(unit=u.electron) for one in some]
        for name, some in lists.items()
    }
    points = {'r': [25.0, 25.0, 25.5], 'g': 24.0}
    found = coadd_exposures(counts, zero_points=points)
    # The zero point of the first exposure of the reference band, for all.
    factor = 10 ** (0.4 * (25.0 - 24.0))
    assert [own.meta['zero_point'] for own in found.values()] == [25.0, 25.0]
    plain = coadd_exposures(lists)
    assert_allclose(found['g'].data, factor * plain['g'].data, rtol=1e-5, atol=1e-3)
    nmgy = coadd_exposures(counts, zero_points=points, zero_point_out=22.5)
    assert nmgy.unit == u.nmgy
    weights = {'r': [1.0, 1.0, 0.0], 'g': 'uniform'}
    two = coadd_exposures(lists, weights)
    assert two['r'].n_exposures.max() == 2
    assert two['g'].meta['weights'] == 'uniform'


def test_what_does_not_fit(lists):
    r, g = lists['r'], lists['g']
    both = {'r': r, 'g': g}
    with pytest.raises(ValueError, match=r"have the bands r, g; got \['r'\]"):
        coadd_exposures(both, zero_points={'r': 25.0})
    with pytest.raises(ValueError, match='exposures must have a band; got r'):
        coadd_exposures({'r': None})
    bare = {'r': r, 'g': [g[0].replace(wcs=None)]}
    with pytest.raises(ValueError, match=r"band 'g': exposures\[0\] has no wcs"):
        coadd_exposures(bare)
    with pytest.raises(TypeError, match=r"band 'g': exposures\[0\] must be Exposure"):
        coadd_exposures({'r': r, 'g': [np.zeros((3, 3))]})
    with pytest.raises(ValueError, match='wcs_out must be given for exposures of an'):
        coadd_exposures({'r': iter(r)})
    once = coadd_exposures({'r': iter(r)}, wcs_out=r[0].wcs, shape_out=r[0].shape)
    assert once['r'].meta['n_exposures'] == 3
    with pytest.raises(TypeError, match=r'exposures\[0\] must be Exposure; got dict'):
        coadd_exposures([{'r': r[0]}])
    named = [r[0].replace(band='r'), g[0].replace(band='g')]
    with pytest.raises(ValueError, match="'r'; give lists by band"):
        coadd_exposures(named)
    assert isinstance(named[0], Exposure)
