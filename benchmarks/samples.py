# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Samples of detections with their truth, by bliss_astro, SEP and photutils, and scores.
"""

import itertools
import warnings

import numpy as np
from astropy.table import Table, vstack
from harness import median_with_error, share
from scenes import density_of, exposure_of, truth_of

from bliss_astro import detect_sources
from bliss_astro.metrics import match_catalogs

__all__ = ['Sample', 'run_encoder', 'run_rival', 'settings_of', 'tune_rival']

LEVEL = 0.6827
_PARAMETERS = ('flux', 'e1', 'e2')
_SMALL_KERNEL = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
# Grids of settings; thresholds are in units of the noise of the convolved image.
_GRIDS = {
    'SEP': {
        'kernel': (False, True),
        'threshold': (2.0, 3.0, 4.0),
        'n_pixels': (1, 3, 5),
        'contrast': (1e-6, 1e-4, 1e-3),
    },
    'photutils': {
        'kernel': (False, True),
        'threshold': (3.0, 4.0, 5.0),
        'n_pixels': (1, 3),
        'contrast': (1e-6, 1e-4, 1e-3),
    },
}


class Sample:
    """
    Detections and true sources of many images, matched within a pixel.

    Parameters
    ----------
    found, truth : `~astropy.table.Table`
        Rows with ``scene, x, y, flux``.

    radius : float
        Largest distance of a match in pixels.
    """

    def __init__(self, found, truth, *, radius=1.0):
        self.found, self.truth = found, truth
        self.match = match_catalogs(
            (found['x'], found['y']),
            (truth['x'], truth['y']),
            radius=radius,
            images=(found['scene'], truth['scene']),
        )
        self.rows = np.asarray(self.match.estimated_index)
        self.partners = np.asarray(self.match.truth_index)

    def recall(self, select):
        """Recall and its error of true sources, a bool array or all for None."""
        return share(np.asarray(self.match.is_matched_truth)[select])

    def precision(self, select=slice(None)):
        """Precision and its error of detections."""
        return share(np.asarray(self.match.is_matched_estimated)[select])

    def pairs(self, select=None):
        """Indices of detections and truth of matches whose truth is selected."""
        use = slice(None) if select is None else np.asarray(select)[self.partners]
        return self.rows[use], self.partners[use]

    def residuals(self, select=None):
        """Relative flux residuals of matches."""
        rows, partners = self.pairs(select)
        true = np.asarray(self.truth['flux'])[partners]
        return np.asarray(self.found['flux'])[rows] / true - 1

    def accuracy(self, select=None):
        """Share of matches with the right class."""
        rows, partners = self.pairs(select)
        called = np.asarray(self.found['galaxy_probability'])[rows] > 0.5
        return share(called == np.asarray(self.truth['is_galaxy'])[partners])

    def coverage(self, parameter='flux', select=None):
        """Share of true values inside of 68 % intervals."""
        rows, partners = self.pairs(select)
        true = np.asarray(self.truth[parameter])[partners]
        low, high = (
            np.asarray(self.found[f'{parameter}_{end}'])[rows]
            for end in ('low', 'high')
        )
        known = np.isfinite(true) & np.isfinite(low)
        return share(((low < true) & (true < high))[known])

    def bias(self, select=None):
        """Median relative flux residual."""
        return median_with_error(self.residuals(select))

    def mean_error(self, select=None):
        """Mean absolute relative flux error in per cent (MAPE)."""
        values = 100 * np.abs(self.residuals(select))
        if len(values) == 0:
            return np.nan, np.nan
        return values.mean(), values.std() / np.sqrt(len(values))


def run_encoder(encoder, images, *, first=0, psf=None, intervals=True, **given):
    """
    Detections of an encoder in simulated images.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Encoder.

    images : `~bliss_astro.simulation.SimulatedImages`
        Simulated images; the encoder is given their prior.

    first : int
        Number of the first scene.

    psf : tensor ``(B, 8)``, optional
        Other PSFs than the true ones.

    intervals : bool
        Add ``*_low`` and ``*_high`` of 68 % intervals.

    **given
        Further arguments of `~bliss_astro.detect_sources`.

    Returns
    -------
    found : `~astropy.table.Table`
        ``scene, x, y, flux, flux_err, probability`` and, where the encoder infers
        them, ``galaxy_probability, e1, e2``.
    """
    tables, calibrated = [], images.population is not None
    for k in range(len(images)):
        shape = None if psf is None else psf[k]
        exposure = exposure_of(images, k, psf=shape, calibrated=calibrated)
        # A prior of magnitudes needs calibrated fluxes; tables are in electrons.
        scale = float(images.electrons_per_nmgy[k]) if calibrated else 1.0
        prior = {
            'density': density_of(images, k),
            'flux_min': float(images.flux_min[k]) / scale * exposure.unit,
        }
        if calibrated:
            prior['population'] = 'npe' if images.population[k] else 'sky'
        with warnings.catch_warnings(action='ignore'):
            catalog = detect_sources(
                exposure,
                encoder=encoder,
                progress_bar=False,
                check=False,
                **(prior | given),
            )
        rows = rows_of(catalog, first + k, intervals=intervals)
        for name in rows.colnames:
            if name.startswith('flux'):
                rows[name] *= scale
        tables.append(rows)
    return vstack(tables, metadata_conflicts='silent')


def rows_of(catalog, scene=0, *, intervals=True):
    """Plain table of a catalogue's rows with the names of `run_encoder`."""
    table = Table({'x': _plain(catalog['x_centroid'])})
    table['y'] = _plain(catalog['y_centroid'])
    table['scene'] = np.full(len(table), scene)
    for name in ('flux', 'flux_err', 'probability', 'galaxy_probability', 'e1', 'e2'):
        if name in catalog.colnames:
            table[name] = _plain(catalog[name])
    for name in _PARAMETERS if intervals else ():
        if name in catalog.colnames:
            low, high = catalog.credible_interval(name, LEVEL)
            table[f'{name}_low'], table[f'{name}_high'] = _plain(low), _plain(high)
    return table


def _plain(column):
    return np.asarray(getattr(column, 'value', column), dtype=float)


# -- SEP and photutils ----------------------------------------------------------------


def settings_of(method):
    """All settings of a method's grid."""
    grid = _GRIDS[method]
    return [dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())]


def run_rival(method, images, settings, *, first=0):
    """
    Detections of SEP or photutils with deblending, given background and noise.

    Parameters
    ----------
    method : {'SEP', 'photutils'}
        Which one.

    images : `~bliss_astro.simulation.SimulatedImages`
        Simulated images.

    settings : dict
        ``kernel, threshold, n_pixels, contrast``.

    first : int
        Number of the first scene.
    """
    tables = []
    for k in range(len(images)):
        data = np.ascontiguousarray((images.data[k] - images.background[k]).double())
        found = detect_rival(method, data, float(images.bkg_error[k]), **settings)
        found['scene'] = np.full(len(found), first + k)
        tables.append(found)
    return vstack(tables, metadata_conflicts='silent')


def detect_rival(method, data, noise, *, kernel, threshold, n_pixels, contrast):
    """Table ``x, y, flux`` of a sky-subtracted image."""
    weights = _SMALL_KERNEL if kernel else np.pad([[1.0]], 1)
    limit = threshold * noise * np.sqrt((weights**2).sum())
    if method == 'SEP':
        import sep

        sep.set_extract_pixstack(2_000_000)
        objects = sep.extract(
            data,
            limit,
            minarea=n_pixels,
            filter_kernel=weights,
            filter_type='conv',
            deblend_nthresh=64,
            deblend_cont=contrast,
        )
        return Table(
            [_plain(objects[k]) for k in ('x', 'y', 'flux')], names=['x', 'y', 'flux']
        )
    from photutils.segmentation import SourceCatalog, deblend_sources
    from photutils.segmentation import detect_sources as detect_segments
    from scipy.ndimage import convolve

    smooth = convolve(data, weights, mode='constant')
    with warnings.catch_warnings(action='ignore'):
        segments = detect_segments(smooth, limit, n_pixels)
        if segments is None:
            return Table(np.empty((0, 3)), names=['x', 'y', 'flux'])
        segments = deblend_sources(
            smooth, segments, n_pixels, contrast=contrast, progress_bar=False
        )
        catalog = SourceCatalog(data, segments, convolved_data=smooth)
        columns = (catalog.x_centroid, catalog.y_centroid, catalog.segment_flux)
    table = Table([np.atleast_1d(v) for v in columns], names=['x', 'y', 'flux'])
    return table[np.isfinite(table['x']) & np.isfinite(table['y'])]


def tune_rival(method, images, *, keep):
    """
    Settings with the highest F1 on images that are not scored.

    Parameters
    ----------
    method : {'SEP', 'photutils'}
        Which one.

    images : `~bliss_astro.simulation.SimulatedImages`
        Simulated images.

    keep : callable
        Detections that count, as a bool array of their x and y.
    """
    truth = truth_of(images)
    scores = []
    for settings in settings_of(method):
        found = run_rival(method, images, settings)
        sample = Sample(found[keep(found['x'], found['y'])], truth)
        n = len(sample.found) + len(truth)
        scores.append(2 * len(sample.rows) / max(n, 1))
    return settings_of(method)[int(np.argmax(scores))]
