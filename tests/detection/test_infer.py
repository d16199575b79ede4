# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``Encoder.infer``: one image or several, order, laziness, arguments, warnings.
"""

import types

import numpy as np
import pytest
from astropy.io import fits

from bliss_astro import CatalogPosterior, Encoder, OutOfDomainWarning, PSFModel
from bliss_astro.detection import _batches, _infer, detect_sources
from bliss_astro.detection._bands import prepare_bands
from bliss_astro.detection._detect import DetectionOptions
from bliss_astro.detection._images import ImageInputs
from bliss_astro.encoders import EncoderConfig
from bliss_astro.psf import VaryingPSF

_KNOWN = {
    'background': 0.0,
    'bkg_error': 1.0,
    'effective_gain': 29.0,
    'psf': PSFModel(),
    'density': 1e-3,
}


def _cube(n=3):
    return np.random.default_rng(2).normal(size=(n, 24, 32))


def test_as_detection(field, encoder, catalog, same_rows):
    posterior = encoder.infer(field[0])
    assert isinstance(posterior, CatalogPosterior)
    same_rows(posterior.at_threshold(0.5), catalog)
    assert posterior.exposure.shape == field[0].shape
    assert posterior.expected_counts() == catalog.posterior.expected_counts()
    assert posterior.meta == catalog.posterior.meta


@pytest.mark.filterwarnings('ignore')
def test_several(encoder):
    cube = _cube()
    kinds = cube, list(cube), tuple(cube), iter(cube)
    for images in kinds:
        found = encoder.infer(images, **_KNOWN)
        assert isinstance(found, types.GeneratorType)
        counts = [posterior.expected_counts() for posterior in found]
        expected = [encoder.infer(image, **_KNOWN).expected_counts() for image in cube]
        np.testing.assert_allclose(counts, expected, rtol=1e-5)
    own = {**_KNOWN, 'density': [1e-4, 1e-3, 1e-2]}
    found = encoder.infer([cube[0]] * 3, **own)
    counts = [posterior.expected_counts() for posterior in found]
    assert counts[0] < counts[1] < counts[2]
    assert list(encoder.infer([])) == []


def test_images_are_taken_as_needed(field, encoder, monkeypatch):
    monkeypatch.setattr(_batches, '_PIXELS', 2 * field[0].data.size)
    taken = []

    def images():
        for k in range(4):
            taken.append(k)
            yield field[0]

    found = encoder.infer(images())
    assert taken == []
    next(found)
    assert taken == [0, 1]
    assert len(list(found)) == 3


@pytest.mark.filterwarnings('ignore')
def test_one_image_of_any_kind(encoder, tmp_path):
    image = _cube(1)[0]
    expected = encoder.infer(image, **_KNOWN).expected_counts()
    fits.PrimaryHDU(image).writeto(tmp_path / 'image.fits')
    with fits.open(tmp_path / 'image.fits') as hdus:
        for one in (tmp_path / 'image.fits', str(tmp_path / 'image.fits'), hdus):
            assert encoder.infer(one, **_KNOWN).expected_counts() == expected


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('densities', [[None, None], [None, 1e-3], [1e-3, 1e-3]])
def test_stem_of_the_first_pass(encoder, monkeypatch, densities):
    """
    It serves the second pass too, where that is over the same images.
    """
    known, calls, stem = {**_KNOWN, 'density': densities}, [], encoder.stem
    expected = [
        encoder.infer(image, **(_KNOWN | {'density': density})).expected_counts()
        for image, density in zip(_cube(2), densities, strict=True)
    ]
    monkeypatch.setattr(encoder, 'stem', lambda *own: calls.append(1) or stem(*own))
    found = [p.expected_counts() for p in encoder.infer(_cube(2), **known)]
    assert len(calls) == (2 if None in densities and 1e-3 in densities else 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.filterwarnings('ignore')
def test_least_probability(field, encoder):
    posteriors = [encoder.infer(field[0], threshold=p) for p in (0.5, 0.05)]
    tables = [posterior.at_threshold(0.05) for posterior in posteriors]
    assert len(tables[0]) == len(tables[1]) > len(posteriors[0].at_threshold(0.5))
    assert posteriors[1].meta == posteriors[0].meta


def test_wrong_arguments(encoder):
    with pytest.raises(TypeError, match=r"Encoder\.infer has no argument 'rng'"):
        encoder.infer(_cube(), rng=1)
    with pytest.raises(TypeError, match="no argument 'encoder'"):
        encoder.infer(_cube(), encoder=encoder)
    with pytest.raises(ValueError, match='data must be'):
        encoder.infer(3)
    with pytest.raises(ValueError, match='density has 2 values for 3 images'):
        encoder.infer(_cube(), density=[1e-3, 1e-3])
    found = encoder.infer([_cube()[0], 'nowhere.fits'], **_KNOWN)
    next(found)
    with pytest.raises(FileNotFoundError, match='image 1: '):
        next(found)


def test_warnings_name_the_image(encoder):
    own = {**_KNOWN, 'density': [1e-3, 0.9, 1e-3]}
    with pytest.warns(OutOfDomainWarning, match='^image 1: the density') as record:
        list(encoder.infer(_cube(), **own))
    assert record[0].filename == __file__
    with pytest.warns(OutOfDomainWarning, match='^the density'):
        encoder.infer(_cube()[0], **{**_KNOWN, 'density': 0.9})


@pytest.mark.filterwarnings('ignore')
def test_an_encoder_that_was_not_trained():
    encoder = Encoder(EncoderConfig(width=8, n_blocks=1, head_width=16))
    posterior = encoder.infer(_cube()[0], **_KNOWN)
    assert posterior.expected_counts() > 0
    assert all(weight.requires_grad for weight in encoder.parameters())
    assert encoder.training
    catalog = detect_sources(_cube()[0], encoder=encoder, check=False, **_KNOWN)
    assert catalog.posterior.expected_counts() == posterior.expected_counts()


class _Tilted(VaryingPSF):
    def at(self, x, y):
        return PSFModel.from_fwhm(2.5 + x / 200 + y / 400)


@pytest.mark.filterwarnings('ignore')
def test_blocks_change_nothing_where_the_psf_varies(encoder, monkeypatch):
    image = np.random.default_rng(3).normal(size=(160, 400))
    options = DetectionOptions(n_threads=1, **(_KNOWN | {'psf': _Tilted()}))
    bands = prepare_bands(image, options, encoder)
    image = ImageInputs.of(bands, encoder, options)
    whole = _infer.infer(encoder, image.inputs, image.grid).features.float()
    # Blocks that begin within the cells of the filter.
    monkeypatch.setattr(_infer, '_BLOCK', 1100)
    parts = _infer.infer(encoder, image.inputs, image.grid).features.float()
    np.testing.assert_allclose(parts, whole, rtol=1e-2, atol=1e-4)
