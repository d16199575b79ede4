# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the coadd as an object: arguments, cut-outs, its PSF, NDData.
"""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from bliss_astro import Coadd, Exposure, PSFModel
from bliss_astro.coadds import EffectivePSF

KERNEL = np.outer([0.0, 0.2, 1, 0.2, 0], [0.0, 0.3, 1, 0.3, 0])


def make_coadd(shape=(40, 50), **changes):
    """
    A coadd with everything, whose depth steps in the middle.
    """
    rng = np.random.default_rng(5)
    counts = np.full(shape, 4)
    counts[:, shape[1] // 2 :] = 2
    counts[3, 4] = 0
    noise = 1 / np.sqrt(np.maximum(counts, 1))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = 'RA---TAN', 'DEC--TAN'
    wcs.wcs.crval, wcs.wcs.cdelt, wcs.wcs.crpix = (150, 2), (-1e-4, 1e-4), (20, 20)
    arguments = {
        'bkg_error': noise,
        'effective_gain': 20 / noise**2,
        'mask': rng.random(shape) < 0.05,
        'psf': PSFModel(sigma1=1.7),
        'wcs': wcs,
        'unit': u.nmgy,
        'noise_kernel': KERNEL,
        'n_exposures': counts,
        'meta': {'band': 'r', 'n_masked': [3, 1], 'weights': 'uniform'},
    }
    return Coadd(rng.normal(0, noise), **(arguments | changes))


def two_psfs():
    """
    A PSF that is sharp on the left and wide on the right.
    """
    yy, xx = np.mgrid[-20:21, -20:21]
    images = [[PSFModel(sigma1=s)(xx, yy) for s in (1.3, 1.9)]]
    return EffectivePSF(images, xs=[0, 49], ys=[20])


def test_what_it_is():
    coadd = make_coadd()
    assert isinstance(coadd, Exposure)
    assert coadd.noise_correlation == (0.3, 0.2)
    assert coadd.mask[3, 4], 'a pixel of no exposure is bad'
    assert coadd.n_exposures.dtype.kind == 'i'
    assert repr(coadd).startswith('<Coadd 40 x 50 px, nmgy, bkg_error')
    assert repr(coadd).endswith('2 to 4 exposures>')
    assert '1 exposure>' in repr(make_coadd(n_exposures=1))
    assert 'exposures' not in repr(make_coadd(n_exposures=None))


def test_independent_noise_by_default():
    coadd = make_coadd(noise_kernel=None)
    assert coadd.noise_correlation == (0, 0)
    assert coadd.noise_kernel.sum() == 1


def test_a_cut_out_follows():
    coadd = make_coadd(psf=two_psfs())
    cut = coadd[5:35, 10:45]
    assert type(cut) is Coadd
    assert_array_equal(cut.n_exposures, coadd.n_exposures[5:35, 10:45])
    assert_array_equal(cut.noise_kernel, KERNEL)
    assert cut.noise_correlation == coadd.noise_correlation
    assert_allclose(cut.psf_at(20, 7).fwhm, coadd.psf_at(30, 12).fwhm, rtol=1e-12)
    sky = coadd.wcs.pixel_to_world(30, 12)
    assert_allclose(cut.wcs.world_to_pixel(sky), (20, 7), atol=1e-6)
    # The image is that of its own centre, which lies where the PSF is wider.
    assert cut.psf_image.max() < coadd.psf_image.max()


@pytest.mark.parametrize('side', [5, 41])
def test_cut_out_of_an_image_of_the_shape_of_its_parts(side):
    """
    Kernel and image of the PSF are no maps, even if they have their shape.
    """
    coadd = make_coadd((side, side), psf_image=make_coadd().psf_image, mask=None)
    cut = coadd[1:4, 0:5]
    assert cut.shape == (3, 5)
    assert_array_equal(cut.noise_kernel, KERNEL)
    assert_array_equal(cut.psf_image, coadd.psf_image)


def test_replace():
    coadd = make_coadd()
    assert_array_equal(coadd.replace(data=coadd.data + 1).n_exposures[0, 0], 4)
    wider = coadd.replace(psf=PSFModel(sigma1=2.5))
    assert wider.psf_image.max() < coadd.psf_image.max()
    assert coadd.replace(noise_kernel=None).noise_correlation == (0, 0)
    with pytest.raises(TypeError, match="no argument 'noise_correlation'"):
        coadd.replace(noise_correlation=(0.1, 0.1))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'noise_kernel': np.ones((2, 3))}, 'noise_kernel must be a square of odd'),
        ({'noise_kernel': [[1.0]]}, 'at least 3 x 3'),
        ({'noise_kernel': 0.5 * KERNEL}, 'must be 1 at its centre'),
        ({'noise_kernel': KERNEL + np.diag([0.1, 0, 0, 0, 0])}, 'the same at opposite'),
        ({'n_exposures': np.ones((3, 3), int)}, 'n_exposures must be a number or have'),
        ({'n_exposures': 0}, 'positive somewhere'),
        ({'n_exposures': -1}, 'must not be negative'),
        ({'psf_image': np.ones((4, 5))}, 'psf_image must have two odd sides'),
        ({'psf_image': np.zeros((5, 5))}, 'positive sum'),
    ],
)
def test_impossible_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        make_coadd(**changes)


def test_counts_are_whole_numbers():
    with pytest.raises(TypeError, match='n_exposures must be an integer'):
        make_coadd(n_exposures=2.5)


# -- the effective PSF -------------------------------------------------------------


def test_psf_image_is_the_psf():
    coadd = make_coadd()
    image = coadd.psf_image
    half = image.shape[0] // 2
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    assert_allclose(image, PSFModel(sigma1=1.7)(xx, yy), rtol=1e-12)
    assert make_coadd(psf=None).psf_image is None


def test_effective_psf_is_what_its_images_are():
    """
    The model at a node draws the image that was given there.
    """
    psf = two_psfs()
    for x, sigma in ((0, 1.3), (49, 1.9)):
        image = psf.image_at(x, 3)
        assert_allclose(image, PSFModel(sigma1=sigma)(*np.mgrid[-20:21, -20:21]))
        yy, xx = np.mgrid[:41, :41] - 20
        model = psf.at(x, 3).copy()
        model.x_0, model.y_0 = 0, 0
        assert_allclose(model(xx, yy), image, atol=2e-3 * image.max())
        # A matched filter: how far off fluxes are that are measured with it.
        drawn = model(xx, yy)
        assert_allclose((drawn * image).sum() / (drawn**2).sum(), 1, atol=2e-3)


def test_effective_psf_between_nodes():
    psf = two_psfs()
    middle = psf.image_at(24.5, 0)
    assert_allclose(middle, psf.images[0].mean(axis=0))
    assert psf.at(0, 0).fwhm < psf.at(24.5, 0).fwhm < psf.at(49, 0).fwhm
    # Beyond the grid nothing changes any more, least of all into nonsense.
    assert psf.at(-300, 0).fwhm == psf.at(0, 0).fwhm
    grid = psf.shape_grid([0, 10, 20], [0, 5])
    assert grid.shape == (2, 3, 8)
    assert_allclose(grid[1, 1], psf.at(10, 5).shape_vector)
    assert_allclose(psf.shapes_at([20, 0], [0, 5]), grid[[0, 1], [2, 0]])
    moved = psf.shifted(10, 3)
    assert_allclose(moved.image_at(4, 1), psf.image_at(14, 4))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'images': np.ones((2, 5, 5))}, 'must have the shape'),
        ({'images': np.ones((1, 2, 4, 4))}, 's odd'),
        ({'xs': [0]}, 'must name the 2 columns'),
        ({'xs': [3, 3]}, 'must ascend'),
    ],
)
def test_effective_psf_checks(arguments, message):
    arguments = {'images': np.ones((1, 2, 5, 5)), 'xs': [0, 1], 'ys': [0]} | arguments
    with pytest.raises(ValueError, match=message):
        EffectivePSF(arguments.pop('images'), **arguments)


# -- NDData ------------------------------------------------------------------------


def test_ccddata_and_back(tmp_path):
    coadd = make_coadd()
    ccddata = coadd.to_ccddata()
    assert isinstance(ccddata, CCDData)
    assert ccddata.unit == u.nmgy
    assert_allclose(ccddata.uncertainty.array, coadd.total_error())
    back = Coadd.from_ccddata(ccddata)
    # Gain times variance is the same in all pixels here, so all comes back.
    for name in ('bkg_error', 'effective_gain'):
        assert_allclose(getattr(back, name), getattr(coadd, name), rtol=1e-6)
    assert_array_equal(back.n_exposures, coadd.n_exposures)
    assert_array_equal(back.mask, coadd.mask)
    assert_allclose(back.noise_kernel, KERNEL)
    assert back.unit == coadd.unit
    assert back.meta == coadd.meta
    assert_allclose(back.psf_at(0, 0).fwhm, coadd.psf_at(0, 0).fwhm, rtol=2e-3)

    # And by way of a file, which keeps all but the numbers of exposures.
    ccddata.write(tmp_path / 'ccd.fits')
    again = Coadd.from_ccddata(CCDData.read(tmp_path / 'ccd.fits'))
    assert_allclose(again.bkg_error, coadd.bkg_error, rtol=1e-6)
    assert_allclose(again.noise_kernel, KERNEL)
    assert again.meta['n_masked'] == [3, 1]
    assert again.n_exposures is None


def test_ccddata_of_another_maker():
    coadd = make_coadd()
    ccddata = coadd.to_ccddata()
    ccddata.meta.clear()
    with pytest.raises(ValueError, match='effective_gain must be given'):
        Coadd.from_ccddata(ccddata)
    back = Coadd.from_ccddata(
        ccddata, effective_gain=coadd.effective_gain * u.electron / u.nmgy
    )
    assert_allclose(np.median(back.bkg_error / coadd.bkg_error), 1, rtol=1e-6)
    with pytest.raises(TypeError, match='must be NDData'):
        Coadd.from_ccddata(coadd.data)
