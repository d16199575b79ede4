# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the conditions of several bands of a field.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bliss_astro.priors import BandFields, FieldPrior, band_fields
from bliss_astro.psf._mixture import fwhm_of_shape, normalization_of_shape

NAMES = ('psf', 'background', 'electrons_per_nmgy', 'read_noise')


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


@pytest.fixture
def fields(generator):
    return FieldPrior().sample_batch(4000, generator=generator)


def fwhm(batch):
    flat = batch.psf.reshape(-1, 8)
    return fwhm_of_shape(flat).reshape(batch.psf.shape[:2])


def noise(batch):
    """Noise of the sky in a pixel in nmgy."""
    electrons = (batch.background + batch.read_noise**2).sqrt()
    return electrons / batch.electrons_per_nmgy


def parts(n):
    return [None, torch.ones(n, dtype=torch.bool), torch.arange(n) % 2 == 0]


@pytest.mark.parametrize('which', range(3))
class TestEvery:
    def test_the_given_band_is_kept(self, fields, generator, which):
        other = parts(4000)[which]
        drawn = band_fields(fields, list('rgizuy'), other=other, generator=generator)
        for name in NAMES:
            assert torch.equal(getattr(drawn, name)[:, 0], getattr(fields, name))
            assert (getattr(drawn, name)[:, 1] != getattr(fields, name)).any()

    def test_valid(self, fields, generator, which):
        other = parts(4000)[which]
        drawn = band_fields(fields, list('ugrizy'), 2, other=other, generator=generator)
        s1, s2, b, sp, p0, beta, e1, e2 = drawn.psf.unbind(-1)
        for good in (s1 > 0, s2 > s1, b >= 0, sp > 0, p0 >= 0, beta > 2):
            assert good.all()
        assert torch.hypot(e1, e2).max() < 0.36
        assert (normalization_of_shape(drawn.psf) > 0).all()
        assert 1.0 < fwhm(drawn).min() < fwhm(drawn).max() < 14
        for name in NAMES:
            value = getattr(drawn, name)
            assert value.shape[:2] == (4000, 6)
            assert value.isfinite().all()
        assert min(drawn.background.min(), drawn.electrons_per_nmgy.min()) > 0
        assert drawn.read_noise.min() >= 0

    def test_reproducible(self, fields, which):
        other = parts(4000)[which]
        one, two = (
            band_fields(fields, ['r', 'g'], other=other, generator=generator)
            for generator in (torch.Generator().manual_seed(2) for _ in range(2))
        )
        assert all(torch.equal(getattr(one, k), getattr(two, k)) for k in NAMES)

    def test_round_psfs_stay_round(self, generator, which):
        fields = FieldPrior.single().sample_batch(6, generator=generator)
        other = None if which == 0 else parts(6)[which]
        drawn = band_fields(fields, ['r', 'g'], other=other, generator=generator)
        assert not drawn.psf[..., 6:].any()

    def test_none(self, fields, generator, which):
        none = dataclasses.replace(
            fields, **{name: getattr(fields, name)[:0] for name in NAMES}
        )
        other = None if which == 0 else parts(4000)[which][:0]
        drawn = band_fields(none, ['r', 'g'], other=other, generator=generator)
        assert drawn.psf.shape == (0, 2, 8)


class TestSurvey:
    def test_depths_of_sdss(self, fields, generator):
        drawn = band_fields(fields, list('ugriz'), 2, generator=generator)
        # Of point sources at 95 % completeness: 22.0, 22.2, 22.2, 21.3, 20.5 (York et
        # al. 2000); by the noise of a PSF u is shallower and g deeper.
        area = noise(drawn) * fwhm(drawn)
        depth = 2.5 * torch.log10(area[:, 2:3] / area).median(0).values
        assert_allclose(depth, [-0.8, 0.4, 0, -0.45, -1.95], atol=0.25)

    def test_seeing_is_common(self, fields, generator):
        drawn = band_fields(fields, list('ugriz'), 2, generator=generator)
        width = fwhm(drawn).log()
        assert np.corrcoef(width.T.numpy()).min() > 0.7
        middle = width.median(0).values
        assert middle[0] > middle[1] > middle[2] > middle[3]
        scatter = (width - width[:, 2:3]).std(0)
        assert (scatter[[0, 1, 3, 4]] > 0.05).all()
        assert (scatter < 0.2).all()

    def test_given_in_another_band(self, fields, generator):
        # From r to z, and from r to g and on to z, are the same on average.
        drawn = [
            band_fields(fields, ['z', 'g'], 0, generator=generator),
            band_fields(fields, ['g'], 0, generator=generator),
        ]
        step = dataclasses.replace(
            fields, **{name: getattr(drawn[1], name)[:, 0] for name in NAMES}
        )
        drawn[1] = band_fields(step, ['z', 'g'], band='g', generator=generator)
        one, two = (noise(batch).log().median(0).values for batch in drawn)
        assert_allclose(one, two, atol=0.03)
        assert torch.equal(drawn[1].background[:, 1], step.background)

    def test_between_and_beyond_bands(self, fields, generator):
        class Band:
            wavelength = 540.0

        drawn = band_fields(
            fields, ['g', Band(), 'r', 'y', 'z'], 2, generator=generator
        )
        middle = drawn.background.log().median(0).values
        assert middle[0] < middle[1] < middle[2]
        assert_allclose(middle[3], middle[4], atol=1e-6)

    def test_unknown_band(self, fields):
        with pytest.raises(ValueError, match='bands must be names'):
            band_fields(fields, ['r', 'w'])


class TestOthers:
    def test_depths_and_seeing_scatter(self, fields, generator):
        drawn = band_fields(
            fields,
            list('grizy'),
            1,
            other=torch.ones(4000, dtype=torch.bool),
            generator=generator,
        )
        depth = (noise(drawn) / noise(drawn)[:, 1:2]).log()
        assert_allclose(depth.median(0).values, [-0.35, 0, 0.5, 1.3, 2.1], atol=0.06)
        assert_allclose(depth.std(0)[[0, 2, 3, 4]], 0.45, atol=0.03)
        width = (fwhm(drawn) / fwhm(drawn)[:, 1:2]).log()
        assert_allclose(width.std(0)[[0, 2, 3, 4]], 0.12, atol=0.02)
        assert (width.median(0).values.diff() < 0).all()

    def test_read_noise_is_less_than_that_of_the_sky(self, fields, generator):
        fields = dataclasses.replace(fields, background=fields.background * 0 + 40)
        other = torch.ones(4000, dtype=torch.bool)
        drawn = band_fields(fields, ['r', 'u'], other=other, generator=generator)
        assert (drawn.read_noise[:, 1] ** 2 < 2 * drawn.background[:, 1]).all()


class TestFit:
    def tables(self, n=200):
        base = FieldPrior().sample(n, rng=1)
        rng, blue = np.random.default_rng(1), base.copy()
        blue['background'] *= 0.5 * np.exp(0.2 * rng.normal(size=n))
        for name in ('sigma1', 'sigma2', 'sigmap'):
            blue[name] *= 1.1
        return {'r': base, 'g': blue}

    def test_moments(self, fields, generator):
        prior = BandFields.fit(self.tables())
        drawn = band_fields(fields, ['r', 'g'], prior=prior, generator=generator)
        ratio = (drawn.background[:, 1] / fields.background).log()
        assert_allclose(ratio.mean(), np.log(0.5), atol=0.03)
        assert_allclose(ratio.std(), 0.2, atol=0.03)
        ratio = drawn.psf[:, 1, :4] / fields.psf[:, :4]
        assert_allclose(ratio[:, [0, 1, 3]], 1.1, rtol=2e-3)
        assert_allclose(ratio[:, 2], 1, rtol=2e-3)

    def test_photofield(self, shared_data):
        path = shared_data / 'sdss/3900/6/photoField-003900-6.fits'
        priors = FieldPrior.from_photofield(path, ['r', 'g', 'i'])
        assert list(priors) == ['r', 'g', 'i']
        tables = {band: prior.table for band, prior in priors.items()}
        assert len({len(table) for table in tables.values()}) == 1
        assert len(tables['r']) < len(FieldPrior.from_photofield(path, 'r').table)
        fitted, shipped = BandFields.fit(tables), BandFields.default()
        # One night is like others in its sky and calibration.
        rows = [list(shipped.bands).index(band) for band in fitted.bands]
        difference = np.array(fitted.mean) - np.array(shipped.mean)[rows]
        assert np.abs(difference[:, 6:8]).max() < 0.2

    def test_bad(self):
        tables = self.tables()
        with pytest.raises(ValueError, match='tables must hold the same fields'):
            BandFields.fit(tables | {'g': tables['g'][:50]})
        with pytest.raises(ValueError, match='hold at least 20 fields; got 5'):
            BandFields.fit({band: table[:5] for band, table in tables.items()})
        with pytest.raises(ValueError, match='bands must be names'):
            BandFields.fit({'r': tables['r'], 'blue': tables['g']})
        with pytest.raises(ValueError, match='mean must be finite numbers'):
            BandFields({'r': 600.0}, [[1.0]], [[1.0]])

    def test_saved(self, tmp_path):
        prior = BandFields.default()
        prior.save(tmp_path / 'bands.json')
        again = BandFields.from_dict(json.loads(json.dumps(prior.to_dict())))
        assert BandFields.load(tmp_path / 'bands.json') == again == prior
