# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Numbers of the experiment with stars and galaxies, with bootstrap bands.
"""

import dataclasses

import numpy as np
from _fields_common import magnitude

from bliss_astro.metrics import (
    count_calibration,
    match_catalogs,
    quantile_groups,
    roc_curve,
)

__all__ = [
    'CURVE_LEVELS',
    'DECILES',
    'EDGES',
    'FAINTEST',
    'LEVELS',
    'Estimate',
    'Judged',
    'Resamples',
    'difference',
]

THRESHOLD = 0.5
# Upper edges of the tenths of the prior's sources brighter than r = 22.
DECILES = np.array(
    [17.777, 19.101, 19.781, 20.258, 20.625, 20.940, 21.227, 21.495, 21.746, 22.0]
)
EDGES = np.concatenate([[-np.inf], DECILES])
FAINTEST = 22.0
LEVELS = (0.5, 0.6, 0.68, 0.9, 0.95)
CURVE_LEVELS = tuple(np.round(np.concatenate([np.arange(0.05, 0.96, 0.05), [0.99]]), 2))
SNR_EDGES = (0.0, 5.0, 7.0, 10.0, 15.0, 25.0, 50.0, 100.0, 300.0, np.inf)
_N_RESAMPLES = 200
_BAND = (0.1585, 0.8415)
KINDS = {'all': None, 'stars': False, 'galaxies': True}


@dataclasses.dataclass
class Estimate:
    """A number, its bootstrap error and 1 sigma band, and what is behind it."""

    value: float
    error: float
    low: float
    high: float
    n: int
    samples: np.ndarray = dataclasses.field(repr=False)

    def row(self):
        """Number of sources, value, error and band, for tables and JSON."""
        return [self.n, self.value, self.error, self.low, self.high]


class Resamples:
    """
    Draws of test images with replacement, the same for all encoders.

    Parameters
    ----------
    n_images : int
        Number of images.

    n_resamples : int, optional
        Number of draws.
    """

    def __init__(self, n_images, n_resamples=_N_RESAMPLES):
        rng = np.random.default_rng(1)
        equal = np.full(n_images, 1 / n_images)
        drawn = rng.multinomial(n_images, equal, n_resamples)
        # Single precision counts to 16 million.
        self.weights = drawn.astype(np.float32)
        self.n_images = n_images

    def mean(self, values, images, *, scale=1.0):
        """`Estimate` of a mean over sources that are drawn with their images."""
        values = np.asarray(values, dtype=float)
        n = len(values)
        nothing = np.full(len(self.weights), np.nan)
        if not n:
            return Estimate(np.nan, np.nan, np.nan, np.nan, 0, nothing)
        sums = np.bincount(images, values, self.n_images).astype(np.float32)
        counts = np.bincount(images, minlength=self.n_images).astype(np.float32)
        with np.errstate(invalid='ignore', divide='ignore'):
            samples = scale * (self.weights @ sums) / (self.weights @ counts)
        return _estimate(scale * values.mean(), samples, n)


def _estimate(value, samples, n):
    finite = np.isfinite(samples)
    if finite.sum() < 2:
        return Estimate(float(value), np.nan, np.nan, np.nan, int(n), samples)
    low, high = np.quantile(samples[finite], _BAND)
    error = samples[finite].std()
    return Estimate(
        float(value), float(error), float(low), float(high), int(n), samples
    )


def difference(first, second):
    """`Estimate` of first minus second, image by image paired."""
    return _estimate(
        first.value - second.value,
        first.samples - second.samples,
        min(first.n, second.n),
    )


class Judged:
    """
    What one encoder found in test images, held against the truth.

    Only true sources brighter than r = 22 count, as in the paper; precision
    is by estimated magnitude, everything else by true magnitude. What is found of a
    source just beyond the edges is neither right nor wrong.

    Parameters
    ----------
    truth : dict of array
        See `describe_truth`.

    answer : dict of dict of array
        See `ask`.

    resamples : `Resamples`
        Draws of the images.
    """

    def __init__(self, truth, answer, resamples):
        self.resamples = resamples
        use = magnitude(truth['flux']) < FAINTEST
        self.truth = {k: v[use] for k, v in truth.items()}
        found = answer['found']
        sure = found['probability'] >= THRESHOLD
        self.found = {k: v[sure] for k, v in found.items()}
        self._drop_what_is_beyond(truth)
        self.true_mag = magnitude(self.truth['flux'])
        self.mag = magnitude(self.found['flux'])
        self.match = self._match(self.truth)
        self.hit_any = self._match(truth).is_matched_estimated
        self._pairs()
        self.tiles = self._tiles(answer['tiles'], truth)
        self.images = answer['images']

    def _drop_what_is_beyond(self, truth):
        match, inside = self._match(truth), self.truth['inside']
        beyond = match.estimated_index[~truth['inside'][match.truth_index]]
        self.truth = {k: v[inside] for k, v in self.truth.items()}
        self.found = {k: np.delete(v, beyond) for k, v in self.found.items()}

    def _match(self, truth):
        return match_catalogs(
            (self.found['x'], self.found['y']),
            (truth['x'], truth['y']),
            radius=1.0,
            images=(self.found['image'], truth['image']),
        )

    def _pairs(self):
        own, true = self.match.estimated_index, self.match.truth_index
        self.pairs = {k: v[true] for k, v in self.truth.items()}
        self.pairs['mag'] = self.true_mag[true]
        self.pairs['called_galaxy'] = self.found['galaxy'][own] > 0.5
        flux = self.truth['flux'][true]
        self.pairs['miss'] = np.abs(self.found['flux'][own] - flux) / flux

    @staticmethod
    def _tiles(tiles, truth):
        tiles = dict(tiles)
        row = tiles.pop('source')
        for name in ('flux', 'is_galaxy', 'snr'):
            tiles[name] = truth[name][row]
        tiles['mag'] = magnitude(tiles['flux'])
        return tiles

    # -- shares and means ------------------------------------------------------

    def precision(self, low=-np.inf, high=np.inf, *, faint_too=False):
        """
        Share of detections that are real, by estimated magnitude.

        With ``faint_too`` true sources fainter than r = 22 are real as well.
        """
        use = _within(self.mag, low, high)
        hits = self.hit_any if faint_too else self.match.is_matched_estimated
        return self.resamples.mean(hits[use], self.found['image'][use])

    def recall(self, low=-np.inf, high=np.inf, *, by='mag', kind='all'):
        """Share of true sources that are found."""
        values = self.true_mag if by == 'mag' else self.truth[by]
        use = _within(values, low, high) & _of_kind(self.truth, kind)
        hits = self.match.is_matched_truth[use]
        return self.resamples.mean(hits, self.truth['image'][use])

    def recall_inner(self, low=-np.inf, high=np.inf, *, edge=4.0, size=80):
        """The same of sources that far from the edges of the image."""
        x, y = self.truth['x'] + 0.5, self.truth['y'] + 0.5
        use = _within(self.true_mag, low, high)
        use &= np.minimum(np.minimum(x, size - x), np.minimum(y, size - y)) > edge
        hits = self.match.is_matched_truth[use]
        return self.resamples.mean(hits, self.truth['image'][use])

    def accuracy(self, low=-np.inf, high=np.inf, *, by='mag', kind='all'):
        """Share of matched sources that are called by their name."""
        use = _within(self.pairs[by], low, high) & _of_kind(self.pairs, kind)
        right = self.pairs['called_galaxy'] == self.pairs['is_galaxy']
        return self.resamples.mean(right[use], self.pairs['image'][use])

    def mape(self, low=-np.inf, high=np.inf, *, by='mag', kind='all'):
        """Mean absolute percentage error of matched sources' fluxes."""
        use = _within(self.pairs[by], low, high) & _of_kind(self.pairs, kind)
        miss, image = self.pairs['miss'][use], self.pairs['image'][use]
        return self.resamples.mean(miss, image, scale=100.0)

    def roc(self, low=-np.inf, high=FAINTEST):
        """ROC curve over all tiles with a true source, and its `Estimate`."""
        use = _within(self.tiles['mag'], low, high)
        curve = roc_curve(self.tiles['is_galaxy'][use], self.tiles['galaxy'][use])
        return curve, self._auc_estimate(use, curve)

    def _auc_estimate(self, use, curve):
        # The area with the images' weights, so that curves may be compared.
        from bliss_astro.metrics._roc import weighted_areas

        order = np.argsort(-self.tiles['galaxy'][use], kind='stable')
        chance = self.tiles['galaxy'][use][order]
        galaxy = self.tiles['is_galaxy'][use][order].astype(bool)
        image = self.tiles['image'][use][order]
        first = np.flatnonzero(np.diff(chance, prepend=np.inf))
        samples = [
            weighted_areas(own[image][None].astype(float), galaxy, first)[0]
            for own in self.resamples.weights
        ]
        return _estimate(curve.auc, np.array(samples), use.sum())

    # -- calibration -----------------------------------------------------------

    def coverage(self, way, kind, levels=LEVELS, *, n_groups=10):
        """
        Coverage of equal-tailed flux intervals, by tenths of posterior median.

        Parameters
        ----------
        way : {'protocol', 'given the cut', 'all sources'}
            As in the paper, which cuts by the truth, so that not even the exact
            posterior is calibrated near the cut; that posterior given that the
            source is brighter than the cut; or all true sources.

        kind : {'all', 'stars', 'galaxies'}
            The true type.

        levels : sequence of float, optional
            Of the intervals.

        n_groups : int, optional
            Ten for tenths.

        Returns
        -------
        rows : dict
            ``overall`` and ``tenths``: lists over tenths of lists over levels
            of `Estimate`; ``median_mag`` of the tenths.
        """
        tiles = self.tiles
        use = _of_kind(tiles, kind)
        if way != 'all sources':
            use = use & (tiles['mag'] < FAINTEST)
        rank = tiles['rank_above_cut' if way == 'given the cut' else 'rank'][use]
        image, median = tiles['image'][use], tiles['median'][use]
        groups = quantile_groups(median, n_groups)

        def shares(own):
            off = np.abs(rank[own] - 0.5)
            return [
                self.resamples.mean(off <= level / 2 + 1e-12, image[own])
                for level in levels
            ]

        return {
            'levels': list(levels),
            'overall': shares(np.ones(len(rank), dtype=bool)),
            'tenths': [shares(groups == k) for k in range(n_groups)],
            'median_mag': [
                float(magnitude(np.median(median[groups == k])))
                if (groups == k).any()
                else np.nan
                for k in range(n_groups)
            ],
        }

    def log_score(self, what, kind='all', low=-np.inf, high=FAINTEST):
        """Mean log density of the truth: 'log_flux', 'log_type', 'log_position'."""
        use = _within(self.tiles['mag'], low, high) & _of_kind(self.tiles, kind)
        return self.resamples.mean(self.tiles[what][use], self.tiles['image'][use])

    def counts(self, which='expected'):
        """True against expected counts in fifths of what is said to be expected."""
        # Groups by what the data say without the noise of draws.
        groups = quantile_groups(self.images['expected'], 5)
        rows = []
        for k in (*range(5), None):
            own = np.ones(len(groups), bool) if k is None else groups == k
            if not own.any():
                continue
            one = count_calibration(
                self.images['count'][own], self.images[which][own], bins=[0, np.inf]
            )
            rows.append(
                [
                    float(one.expected[0]),
                    float(one.true[0]),
                    float(one.total_relative),
                    float(one.total_relative_err),
                    int(own.sum()),
                ]
            )
        return rows


def _within(values, low, high):
    return (values > low) & (values <= high)


def _of_kind(table, kind):
    wanted = KINDS[kind]
    if wanted is None:
        return np.ones(len(table['is_galaxy']), dtype=bool)
    return table['is_galaxy'].astype(bool) == wanted
