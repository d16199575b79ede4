# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Curves and shares of the coadd experiment, with bootstrap bands.
"""

import itertools

import numpy as np
from _common import share_with_error
from scipy.spatial import KDTree
from stars_accuracy import _SHARES, Match, magnitude

from bliss_astro.metrics import (
    cramer_rao_bound,
    match_catalogs,
    optimal_snr,
    robust_sigma,
)
from bliss_astro.psf import PSFModel

__all__ = ['EDGES', 'SHARES', 'Group', 'describe_group', 'snr_table']

THRESHOLD = 0.5
# The paper's bins of magnitude, and what is brighter; the faintest stars of
# the prior are at 23.0017.
EDGES = np.array([15.0, *np.linspace(20, 23, 16)])
SHARES = _SHARES
# The paper's bands are 25 to 75 % of the resamples.
_BAND = (0.25, 0.75)
_N_RESAMPLES = 400
# A neighbour nearer than this blends, in pixels; without one nearer than that
# a star is isolated.
_BLENDED, _ISOLATED = 4.0, 10.0
_FAINT = (22.75, 23.01)


def _upper(edge):
    return 23.01 if edge > 22.99 else edge


class Resamples:
    """
    Draws of test images and of training seeds, with replacement.

    All networks of a group see the same images, so that a draw of images
    holds for all of them. The statistic is the mean over the seeds drawn.
    """

    def __init__(self, n_images, n_networks, rng):
        equal = np.full(n_images, 1 / n_images)
        # Single precision counts to 16 million.
        drawn = rng.multinomial(n_images, equal, _N_RESAMPLES)
        self.images = drawn.astype(np.float32)
        equal = np.full(n_networks, 1 / n_networks)
        self.networks = rng.multinomial(n_networks, equal, _N_RESAMPLES) / n_networks

    def of_shares(self, counts):
        """
        Shares of all resamples, from hits and totals image by image.

        ``counts`` is a list over the networks of pairs of arrays
        ``(n_images,)``.
        """
        with np.errstate(invalid='ignore', divide='ignore'):
            shares = [(self.images @ hit) / (self.images @ n) for hit, n in counts]
        return self._mean(np.array(shares).T)

    def of_medians(self, samples):
        """
        Medians of all resamples.

        ``samples`` is a list over the networks of pairs ``(values, images)``.
        """
        medians = np.empty((_N_RESAMPLES, len(samples)))
        for k, (values, images) in enumerate(samples):
            order = np.argsort(values)
            weights = np.cumsum(self.images[:, images[order]], axis=1)
            place = (2 * weights < weights[:, -1:]).sum(1)
            medians[:, k] = values[order][place] if len(values) else np.nan
        return self._mean(medians)

    def _mean(self, values):
        use = self.networks > 0
        return np.sum(np.where(use, self.networks * values, 0), axis=1)


def _band(resampled):
    if not np.isfinite(resampled).any():
        return np.nan, np.nan
    return tuple(np.nanquantile(resampled, _BAND))


class Group:
    """
    What several networks found in the same images.

    Parameters
    ----------
    truth : dict of array
        ``image, x, y, flux``.

    found : list of dict of array
        The same and ``probability``, one for each network.

    n_images : int
        Number of images.
    """

    def __init__(self, truth, found, n_images):
        self.truth, self.n_images = truth, n_images
        self.matches = [KeptMatch(truth, own) for own in found]
        self.resamples = Resamples(n_images, len(found), np.random.default_rng(1))
        self.neighbour = _neighbour_distance(truth)

    def share(self, kind, low, high, *, among=None):
        """Share, its error, band and the mean number of stars behind it."""
        counts = []
        for match in self.matches:
            use = (match.mags[kind] > low) & (match.mags[kind] <= high)
            if among is not None:
                use &= among
            image, hit = match.images[kind][use], match.hits[kind][use]
            hits = np.bincount(image, hit, self.n_images)
            stars = np.bincount(image, minlength=self.n_images)
            counts.append((hits.astype(np.float32), stars.astype(np.float32)))
        totals = np.array([[hit.sum(), n.sum()] for hit, n in counts])
        n = totals[:, 1].mean()
        if not totals[:, 1].all():
            return np.nan, np.nan, (np.nan, np.nan), n
        resampled = self.resamples.of_shares(counts)
        share = np.mean(totals[:, 0] / totals[:, 1])
        # All or nothing has no scatter, but an error it has.
        error = np.nanstd(resampled) or share_with_error(round(share * n), n)[1]
        return share, error, _band(resampled), n

    def residual(self, by, low, high):
        """Median, its error, band, quartiles and number of flux residuals."""
        samples = []
        for match in self.matches:
            mag = match.pair_mag if by == 'estimated' else match.pair_true_mag
            use = (mag > low) & (mag <= high)
            samples.append((match.residual[use], match.pair_image[use]))
        n = np.mean([len(values) for values, _ in samples])
        if min(len(values) for values, _ in samples) < 10:
            return np.nan, np.nan, (np.nan, np.nan), (np.nan, np.nan), n
        centre = np.mean([np.median(values) for values, _ in samples])
        quartiles = np.mean([np.quantile(v, _BAND) for v, _ in samples], axis=0)
        resampled = self.resamples.of_medians(samples)
        return centre, np.std(resampled), _band(resampled), tuple(quartiles), n

    def scatter(self, low, high):
        """Robust relative scatter of the fluxes of isolated stars, and error."""
        spreads = []
        for match in self.matches:
            use = (match.pair_true_mag > low) & (match.pair_true_mag <= high)
            use &= self.neighbour[match.pair_truth] > _ISOLATED
            if use.sum() < 10:
                return np.nan, np.nan, use.sum()
            spreads.append((robust_sigma(match.residual[use]), use.sum()))
        spread, n = np.mean(spreads, axis=0)
        # That of a robust sigma is 1.17 times that of a standard deviation.
        return spread, 1.17 * spread / np.sqrt(2 * n), n

    @property
    def isolated(self):
        """True stars without a neighbour nearby."""
        return self.neighbour > _ISOLATED

    @property
    def blended(self):
        """True stars with a neighbour that touches them."""
        return self.neighbour < _BLENDED


class KeptMatch(Match):
    """`Match`, with the rows behind its pairs."""

    def __init__(self, truth, found):
        super().__init__(truth, found, THRESHOLD)
        # The same matching once more, for its indices.
        found = {k: found[k][found['probability'] >= THRESHOLD] for k in truth}
        match = match_catalogs(
            (found['x'], found['y']),
            (truth['x'], truth['y']),
            radius=1.0,
            images=(found['image'], truth['image']),
        )
        self.pair_truth = match.truth_index
        self.pair_image = truth['image'][match.truth_index]
        self.pair_true_mag = self.mags['recall'][match.truth_index]


def _neighbour_distance(truth):
    points = np.stack([truth['x'], truth['y'], truth['image'] * 1e4], axis=1)
    if len(points) < 2:
        return np.full(len(points), np.inf)
    return KDTree(points).query(points, k=2)[0][:, 1]


# -- one group -----------------------------------------------------------------------


def describe_group(score):
    """
    All numbers of one depth and order of the noise.

    Parameters
    ----------
    score : dict
        A value of what `read_scores` returns.

    Returns
    -------
    described : dict
        ``own`` and ``bundled``: the curves, shares and scatter of the networks
        and of the bundled encoder (`None` without it).
    """
    described = {'n_images': score['n_images'], 'seeds': score['seeds']}
    truth = score['truth']
    for label, found in (('own', score['networks']), ('bundled', score['bundled'])):
        if found is None:
            described[label] = None
            continue
        found = found if isinstance(found, list) else [found]
        group = Group(truth, found, score['n_images'])
        described[label] = {
            'curves': _curves(group),
            'shares': {
                what: group.share(kind, low, high)
                for what, (kind, low, high) in SHARES.items()
            },
            'faint_isolated': group.share('recall', *_FAINT, among=group.isolated),
            'faint_blended': group.share('recall', *_FAINT, among=group.blended),
            'scatter': _scatter(group, score['stated']),
        }
    return described


def _curves(group):
    """Rows ``low, high, n, value, band low, band high, quartiles, error``."""
    curves = {}
    none = (np.nan, np.nan)
    for kind in ('recall', 'precision'):
        rows = []
        for low, high in itertools.pairwise(EDGES):
            value, error, band, n = group.share(kind, low, _upper(high))
            rows.append([low, high, n, value, *band, *none, error])
        curves[kind] = np.array(rows)
    for by in ('true', 'estimated'):
        rows = []
        for low, high in itertools.pairwise(EDGES):
            value, error, band, sides, n = group.residual(by, low, _upper(high))
            rows.append([low, high, n, value, *band, *sides, error])
        curves[f'flux residual by {by} magnitude'] = np.array(rows)
    return curves


def _scatter(group, stated):
    """Scatter of isolated stars by magnitude against the Cramer-Rao bound."""
    edges = np.array([19.0, 20.0, 21.0, 21.5, 22.0, 22.5])
    middle = 0.5 * (edges[:-1] + edges[1:])
    bound = flux_bound(stated, flux_of(middle)) / flux_of(middle)
    rows = []
    for low, high, least in zip(edges[:-1], edges[1:], bound, strict=True):
        spread, error, n = group.scatter(low, high)
        rows.append([low, high, n, spread, error, least])
    return np.array(rows)


def flux_of(mag):
    """Flux in electrons of a magnitude."""
    return 10 ** (0.4 * (magnitude(1.0) - np.asarray(mag)))


def flux_bound(stated, flux):
    """Cramer-Rao bound of the fluxes of isolated stars in a coadd."""
    # Mean over a pixel's places would change it by less than a percent.
    return cramer_rao_bound(
        PSFModel.from_shape(stated['psf']),
        flux,
        bkg_error=float(stated['bkg_error']),
        effective_gain=float(stated['effective_gain']),
        noise_correlation=tuple(float(c) for c in stated['correlation']),
    ).flux_err


def snr_table(depths, mags=(20.0, 23.0)):
    """
    Optimal SNR of an isolated star in an ideal stack of d exposures.

    Parameters
    ----------
    depths : sequence of int
        Numbers of exposures.

    mags : tuple of float, optional
        Magnitudes.

    Returns
    -------
    rows : list of tuple
        Depth, and the SNR at each magnitude.
    """
    from bliss_astro import CoaddSimulator

    simulator = CoaddSimulator()
    psf = PSFModel.from_shape(simulator.psf_shape.double().numpy())
    return [
        (
            depth,
            *optimal_snr(
                psf,
                flux_of(np.array(mags)),
                bkg_error=np.sqrt(simulator.background / depth),
                effective_gain=depth,
            ),
        )
        for depth in depths
    ]
