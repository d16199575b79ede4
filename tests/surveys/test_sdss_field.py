# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of `read_field`: the bands of a field of SDSS on one pixel grid.
"""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs.utils import pixel_to_pixel
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro.coadds import align_bands
from bliss_astro.exposures import BANDS, ExposureSet, measure_noise
from bliss_astro.surveys import sdss

pytest.importorskip('reproject')


@pytest.fixture
def folder(sdss_files, tmp_path):
    """
    Give a folder with frames in g, r and i of a field, those of g and i shifted.
    """
    for band, shift in (('g', 2.4), ('r', 0.0), ('i', -1.0)):
        field = sdss_files.Field(tmp_path, band=band)
        field.psfield()
        hdus = field.frame_hdus()
        hdus[0].header['CRPIX1'] += shift
        fits.HDUList(hdus).writeto(tmp_path / f'frame-{band}-000094-1-0012.fits')
    field.fpm(SATUR=[(0, 0, [(20, 29, 31)])])
    return tmp_path


def test_folder(folder):
    exposures = ExposureSet.from_sdss(folder)
    assert isinstance(exposures, ExposureSet)
    assert exposures.bands == tuple(BANDS[name] for name in 'rgi')
    assert [e.meta.get('resampled', False) for e in exposures.values()] == [0, 1, 1]
    assert [e.meta['band'] for e in exposures.values()] == ['r', 'g', 'i']
    assert exposures['r'].psf.band == 'r'
    assert exposures['g'].psf is not None
    assert exposures['i'].saturated.sum() == 3
    assert not exposures['r'].saturated.any()
    # Columns that a shifted frame does not cover.
    assert_array_equal(np.flatnonzero(exposures['i'].mask.all(axis=0)), [0])
    other = sdss.read_field(folder, reference='g', noise='measure')
    assert other.reference == 'g'
    assert 'noise_ratio' in other['i'].meta


def test_paths(folder):
    paths = {band: folder / f'frame-{band}-000094-1-0012.fits' for band in 'gri'}
    psfield = folder / 'psField-000094-1-0012.fit'
    exposures = sdss.read_field(paths | {'r': None}, psfield)
    assert exposures.reference == 'g'
    assert_array_equal(exposures.present, [True, False, True])
    exposures = sdss.read_field(list(paths.values()))
    assert list(exposures) == ['r', 'g', 'i']
    assert exposures['g'].psf is None
    with pytest.raises(ValueError, match=r"band='i' was given, but .* is in band 'g'"):
        sdss.read_field({'i': paths['g']})
    with pytest.raises(ValueError, match='of different bands; got g twice'):
        sdss.read_field([paths['g'], paths['g']])


def test_folder_of_several_fields(folder, sdss_files):
    sdss_files.Field(folder, field=13).frame()
    with pytest.raises(ValueError, match=r'one field; got .*000094-1-0012.*0013'):
        sdss.read_field(folder)
    with pytest.raises(ValueError, match='the frames of one field; got none'):
        sdss.read_field(folder.parent)


def bright_stars(exposure, n=100):
    """
    Places of the brightest stars that nothing else is near, ``(2, n)``.
    """
    from photutils.detection import DAOStarFinder
    from scipy.spatial import cKDTree

    noise = float(np.median(exposure.bkg_error))
    stars = DAOStarFinder(10 * noise, 3.0)(exposure.data, mask=exposure.mask)
    places, flux = np.array([stars[f'{x}centroid'] for x in 'xy']), stars['flux']
    to_edge = np.minimum(places, np.array(exposure.shape)[::-1, None] - places)
    inside = to_edge.min(axis=0) > 30
    near = cKDTree(places.T).query_ball_point(places.T, 18)
    alone = [flux[k].sum() < 1.02 * one for k, one in zip(near, flux, strict=True)]
    chosen = np.flatnonzero(inside & alone)
    return places[:, chosen[np.argsort(-flux[chosen])[:n]]]


def centre_and_flux(exposure, places):
    """
    Centres (pixels) and fluxes of stars near some places.
    """
    from photutils.aperture import CircularAperture, aperture_photometry
    from photutils.centroids import centroid_2dg, centroid_sources

    options = {'box_size': 11, 'centroid_func': centroid_2dg}
    centres = np.array(
        [centroid_sources(exposure.data, *xy, **options) for xy in places.T]
    )[:, :, 0].T
    # Few fits run away.
    centres = np.where(np.abs(centres - places) < 1, centres, places)
    apertures = CircularAperture(centres.T, 7)
    flux = aperture_photometry(exposure.data, apertures)['aperture_sum']
    return centres, np.array(flux)


def test_a_real_field(shared_data):
    """
    Positions, fluxes and noise of g and i beside the cluster M2 on the pixels of r.
    """
    folder, cut = shared_data / 'sdss/2583/2/136', np.s_[300:, 1030:]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        names = {band: f'frame-{band}-002583-2-0136.fits.bz2' for band in 'rgi'}
        raw = {
            band: sdss.read_exposure(folder / name)[cut] for band, name in names.items()
        }
        exposures = align_bands(raw, 'r')
        for band in 'gi':
            before, after = pair = raw[band], exposures[band]
            places, flux = centre_and_flux(before, bright_stars(before))
            mapped = np.array(pixel_to_pixel(before.wcs, after.wcs, *places))
            mapped_centres, mapped_flux = centre_and_flux(after, mapped)
            ratio = mapped_flux / flux
            assert_allclose(np.median(ratio), 1, atol=0.002)
            # The brightest ones come first.
            assert np.abs(ratio[:20] - 1).max() < 0.005
            assert np.median(np.hypot(*(mapped_centres - mapped))) < 0.05
            centres, _ = centre_and_flux(raw['r'], mapped)
            # The bands agree as their astrometry does, to 0.1 px for one star.
            assert np.abs(np.median(mapped_centres - centres, axis=1)).max() < 0.05
            # Of empty sky, where the noise is stated pixel by pixel.
            blank = np.all([measure_noise(e.data, e.mask).blank for e in pair], axis=0)
            pulls = [np.std((e.data / e.bkg_error)[blank]) for e in pair]
            assert_allclose(pulls[1] / pulls[0], 1, atol=0.02)
