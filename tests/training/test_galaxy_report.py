# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the reconstruction report.
"""

import numpy as np
import pytest
from astropy.table import QTable

from bliss_astro.galaxies import GalaxyAutoencoder
from bliss_astro.simulation import _stream
from bliss_astro.training import reconstruction_report


@pytest.fixture(scope='module')
def bundled():
    return GalaxyAutoencoder.from_pretrained()


@pytest.fixture(scope='module')
def report(bundled):
    """
    Give the report of the bundled model on 60 galaxies.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_stream, '_PIECE', 100)
        return reconstruction_report(
            bundled, 60, snr_edges=(7, 15, 1000), size=41, rng=2
        )


def test_numbers(report):
    assert isinstance(report.table, QTable)
    assert list(report.table['n'])[:2] == [
        np.sum(report.galaxies['snr'] < 15),
        np.sum(report.galaxies['snr'] >= 15),
    ]
    everything = report.table[-1]
    assert everything['n'] == 60
    # The truth itself: mean square of one, within five standard errors.
    pixels = report.galaxies['exact_n'].sum()
    assert abs(everything['chi2_exact'] - 1) < 5 * (2 / pixels) ** 0.5
    assert abs(everything['correlation_exact']) < 5 / pixels**0.5
    # Fitted numbers take up some of it; a bad model adds much more.
    assert 0.9 < everything['chi2'] < 1 + 5 * (2 / pixels) ** 0.5 + 0.03
    for name, slack in (('flux_bias', 0.01), ('e1_bias', 0.01), ('e2_bias', 0.01)):
        assert abs(everything[name]) < slack + 5 * everything[f'{name}_err']


def test_printed(report):
    lines = str(report).splitlines()
    assert len(lines) == 3 + len(report.table)
    assert 'chi2_expected' in lines[1]


def test_figure(report, tmp_path):
    figure = report.plot()
    figure.savefig(tmp_path / 'report.png', dpi=50)
    assert (tmp_path / 'report.png').stat().st_size > 10_000


def test_galsim(bundled, monkeypatch):
    pytest.importorskip('galsim')
    monkeypatch.setattr(_stream, '_PIECE', 20)
    report = reconstruction_report(
        bundled, 4, snr_edges=(20, 1000), size=41, renderer='galsim', rng=3
    )
    pixels = report.galaxies['exact_n'].sum()
    assert abs(report.table[-1]['chi2_exact'] - 1) < 5 * (2 / pixels) ** 0.5
    assert report.table[-1]['chi2'] < 1.1 + 5 * (2 / pixels) ** 0.5


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'n_galaxies': 0}, 'n_galaxies must be an integer of at least 1'),
        ({'n_galaxies': 2.5}, 'n_galaxies must be an integer of at least 1'),
        ({'snr_edges': (7, 7)}, 'snr_edges must be'),
        ({'population': 'quasars'}, 'population must be one of'),
        ({'renderer': 'ds9'}, 'renderer must be'),
    ],
)
def test_bad_arguments(bundled, options, reason):
    with pytest.raises(ValueError, match=reason):
        reconstruction_report(bundled, **options)
