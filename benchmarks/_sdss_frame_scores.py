# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection and classification scores of the BLISS paper for one frame.
"""

import itertools

import numpy as np

from bliss_astro.metrics import match_catalogs, wilson_interval

__all__ = ['EDGES', 'PAPER', 'TOTAL', 'score_frame']

EDGES = (17.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0)
# Fainter, the deeper catalogue is not complete.
TOTAL = (17.0, 22.0)
BORDER = 24
_RADIUS = 1.0

# Printed for run 94, camcol 1, field 12, band r, by magnitude (Hansen et al. 2022):
# sources, true and false detections, shares of galaxies and of stars called so.
PAPER = {
    'field': (94, 1, 12, 'r'),
    'n': (31, 39, 64, 117, 232, 386),
    'BLISS': {
        'true': (31, 38, 59, 111, 187, 126),
        'false': (1, 2, 9, 20, 45, 91),
        'galaxies': (1.00, 1.00, 1.00, 0.91, 0.86, 0.74),
        'stars': (0.96, 1.00, 0.96, 0.98, 0.73, 0.50),
        'both': (0.97, 1.00, 0.98, 0.94, 0.81, 0.63),
    },
    'PHOTO': {
        'true': (28, 37, 55, 104, 185, 117),
        'false': (0, 2, 12, 20, 44, 47),
        'galaxies': (1.00, 1.00, 1.00, 0.86, 0.81, 0.70),
        'stars': (0.95, 1.00, 1.00, 0.98, 0.87, 0.63),
        'both': (0.96, 1.00, 1.00, 0.90, 0.83, 0.66),
    },
}


def _inside(catalog, shape):
    ny, nx = shape
    x, y = catalog['x'], catalog['y']
    low = BORDER - 0.5
    inside = (x > low) & (x < nx - 0.5 - BORDER)
    return inside & (y > low) & (y < ny - 0.5 - BORDER)


def _match(found, truth):
    return match_catalogs(
        (found['x'], found['y']),
        (truth['x'], truth['y']),
        radius=_RADIUS,
        metric='chebyshev',
    )


class FrameMatch:
    """
    One catalogue held against the truth.

    Parameters
    ----------
    found : dict of array
        ``x``, ``y``, ``mag`` and perhaps ``is_galaxy``.

    truth : dict of array
        See `read_truth`.

    shape : tuple of int
        ``(ny, nx)`` of the frame.

    voucher : dict of array or None
        Another catalogue of the same pixels: what it holds too is real, though the
        truth has lost it.
    """

    def __init__(self, found, truth, shape, voucher=None):
        # All are matched, and only then what does not count is dropped: what is
        # found of a saturated star is neither right nor wrong.
        match = _match(found, truth)
        partner = np.full(len(found['x']), -1)
        partner[match.estimated_index] = match.truth_index
        hit = match.is_matched_truth
        # Far from nil, one of the coordinates is off by a convention.
        self.offset = [
            float(
                np.median(found[k][match.estimated_index] - truth[k][match.truth_index])
            )
            if len(match)
            else np.nan
            for k in ('x', 'y')
        ]
        use = _inside(truth, shape) & ~truth['saturated'] & np.isfinite(truth['mag'])
        self.truth = {k: v[use] for k, v in truth.items()}
        self.is_found = hit[use]
        self.called = None
        if 'is_galaxy' in found:
            called = np.zeros(len(hit), dtype=bool)
            called[match.truth_index] = found['is_galaxy'][match.estimated_index]
            self.called = called[use]
        of_saturated = (partner >= 0) & truth['saturated'][np.maximum(partner, 0)]
        counts = _inside(found, shape) & ~of_saturated
        self.mag = found['mag'][counts]
        self.is_real = partner[counts] >= 0
        self.is_vouched = self.is_real.copy()
        if voucher is not None and len(voucher['x']):
            again = _match({k: found[k] for k in ('x', 'y')}, voucher)
            self.is_vouched |= again.is_matched_estimated[counts]

    def bin(self, low, high):
        """
        Counts and scores of one bin of magnitude.

        As in the paper, true detections count by their true and false ones by their
        estimated magnitude.
        """
        own = (self.truth['mag'] > low) & (self.truth['mag'] <= high)
        n, n_true = int(own.sum()), int(self.is_found[own].sum())
        estimated = (self.mag > low) & (self.mag <= high)
        n_false = int((estimated & ~self.is_real).sum())
        n_unvouched = int((estimated & ~self.is_vouched).sum())
        n_found = n_true + n_false
        precision = n_true / n_found if n_found else np.nan
        recall = n_true / n if n else np.nan
        total = n + n_found
        return {
            'low': low,
            'high': high,
            'n': n,
            'true': n_true,
            'false': n_false,
            'not_vouched_for': n_unvouched,
            'precision': precision,
            'precision_err': _error(n_true, n_found),
            'recall': recall,
            'recall_err': _error(n_true, n),
            'f1': 2 * n_true / total if total else np.nan,
            'f1_err': _f1_error(n_true, n_false, n),
            'precision_vouched': 1 - n_unvouched / n_found if n_found else np.nan,
            'precision_vouched_err': _error(n_found - n_unvouched, n_found),
            'precision_by_estimated': _ratio(
                (estimated & self.is_real).sum(), estimated.sum()
            ),
            **self._classes(own),
        }

    def _classes(self, own):
        if self.called is None:
            return {}
        out = {}
        galaxy = self.truth['is_galaxy']
        for name, kind in (
            ('both', np.ones_like(galaxy)),
            ('galaxies', galaxy),
            ('stars', ~galaxy),
        ):
            use = own & self.is_found & kind
            right = int((self.called[use] == galaxy[use]).sum())
            out[f'n_{name}'] = int(use.sum())
            out[f'accuracy_{name}'] = _ratio(right, use.sum())
            out[f'accuracy_{name}_err'] = _error(right, int(use.sum()))
        return out


def _ratio(part, whole):
    return float(part / whole) if whole else np.nan


def _error(part, whole):
    if not whole:
        return np.nan
    low, high = wilson_interval(part, whole)
    return 0.5 * float(high - low)


def _f1_error(n_true, n_false, n):
    # F1 = 2 T / (T + F + N): T binomial, F Poisson.
    total = n_true + n_false + n
    if not n or not total:
        return np.nan
    share = n_true / n
    by_true = 2 * (n_false + n) / total**2 * np.sqrt(n * share * (1 - share))
    by_false = 2 * n_true / total**2 * np.sqrt(max(n_false, 1))
    return float(np.hypot(by_true, by_false))


def score_frame(found, truth, shape, voucher=None):
    """
    Both tables of the paper for one catalogue.

    Parameters
    ----------
    found, truth, shape, voucher
        See `FrameMatch`.

    Returns
    -------
    scores : dict
        ``bins``: a dict for each of the paper's bins; ``total``: of r 17 to 22;
        ``offset``: median of found minus true positions in pixels.
    """
    match = FrameMatch(found, truth, shape, voucher)
    pairs = itertools.pairwise(EDGES)
    return {
        'bins': [match.bin(low, high) for low, high in pairs],
        'total': match.bin(*TOTAL),
        'offset': match.offset,
    }
