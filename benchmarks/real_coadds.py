# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds of real SDSS exposures: two epochs of a frame, and stamps of many epochs.
"""

import warnings

import numpy as np
import torch
from _common import Report, make_parser, share_with_error
from _stamps import find_stamps, read_stamps
from scipy.spatial import cKDTree
from two_epochs import read_epochs

from bliss_astro import detect_sources
from bliss_astro.coadds import coadd_exposures
from bliss_astro.flags import CatalogFlag
from bliss_astro.metrics import robust_sigma

_RADIUS = 1.0 / 0.396  # pixels in an arcsec, as in two_epochs.py
_BORDER = 12  # pixels from where any exposure ends


def _catalog(exposure, threshold=0.5):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return detect_sources(exposure, threshold=threshold, encoder='stars')


def _columns(catalog, names=('flux', 'flux_err', 'probability', 'flags')):
    return {n: np.asarray(getattr(catalog[n], 'value', catalog[n])) for n in names}


def _places(catalog, wcs):
    """Positions on the coadd's grid."""
    if not len(catalog):
        return np.empty((0, 2))
    return np.column_stack(wcs.world_to_pixel(catalog['sky_centroid']))


def _nearest(points, others):
    """Index of the nearest other point of each, and the distance."""
    if not len(others):
        return np.zeros(len(points), int), np.full(len(points), np.inf)
    distance, index = cKDTree(others).query(points)
    return index, distance


def _deep(count, places, n, border):
    """Places around which all exposures have data."""
    ny, nx = count.shape
    inside = []
    for x, y in np.rint(places).astype(int):
        window = count[
            max(0, y - border) : y + border + 1, max(0, x - border) : x + border + 1
        ]
        fits = border <= x < nx - border and border <= y < ny - border
        inside.append(bool(fits and window.size and np.median(window) >= n))
    return np.array(inside, dtype=bool)


# -- two frames ----------------------------------------------------------------


def two_frames(report, folder):
    """Sources of both epochs in their coadd, and how much its errors shrink."""
    epochs = read_epochs(folder)
    coadd = coadd_exposures(epochs, match_background='constant')
    tables = [_catalog(epoch) for epoch in epochs]
    deep = _catalog(coadd)
    values = [_columns(table) for table in (*tables, deep)]
    places = [_places(table, coadd.wcs) for table in (*tables, deep)]
    index, distance = _nearest(places[0], places[1])
    # The same source from both sides.
    back, _ = _nearest(places[1], places[0])
    both = (distance < _RADIUS) & (back[index] == np.arange(len(places[0])))
    both &= _deep(coadd.n_exposures, places[0], 2, _BORDER)
    one, two = np.flatnonzero(both), index[both]
    middle = 0.5 * (places[0][one] + places[1][two])
    three, apart = _nearest(middle, places[2])
    again = apart < _RADIUS
    report.add(
        'sources of both epochs that are found in the coadd',
        *share_with_error(int(again.sum()), len(again)),
        n=len(again),
        target='>= 0.98',
        low=0.98,
    )
    e1, e2, e3 = (
        values[0]['flux_err'][one][again],
        values[1]['flux_err'][two][again],
        values[2]['flux_err'][three][again],
    )
    flux = values[2]['flux'][three][again]
    clean = (values[0]['flags'][one][again] == 0) & (
        values[2]['flags'][three][again] == 0
    )
    clean &= values[1]['flags'][two][again] == 0
    expected = 1 / np.sqrt(e1**-2.0 + e2**-2.0)
    magnitude = 22.5 - 2.5 * np.log10(flux)
    rows = []
    for low, high in ((15, 19), (19, 20), (20, 21), (21, 22), (22, 23)):
        use = clean & (magnitude > low) & (magnitude <= high)
        if use.sum() < 8:
            continue
        ratio = e3[use] / expected[use]
        rows.append([low, high, int(use.sum()), float(np.median(ratio))])
    use = clean & (magnitude > 17) & (magnitude <= 21.5)
    ratio = e3[use] / expected[use]
    report.add(
        'flux error in the coadd over that from both epochs together, r 17 to 21.5',
        np.median(ratio),
        1.25 * robust_sigma(ratio) / np.sqrt(use.sum()),
        n=int(use.sum()),
        target='0.9 to 1.1',
        low=0.9,
        high=1.1,
    )
    f1, f2 = values[0]['flux'][one][again], values[1]['flux'][two][again]
    mean = (f1 / e1**2 + f2 / e2**2) * expected**2
    residual = flux[use] / mean[use] - 1
    report.add(
        'flux in the coadd over the mean of both epochs, r 17 to 21.5',
        1 + np.median(residual),
        1.25 * robust_sigma(residual) / np.sqrt(use.sum()),
        n=int(use.sum()),
        target='0.98 to 1.02',
        low=0.98,
        high=1.02,
    )
    fainter = (~_near(places[2], places[0])) & (~_near(places[2], places[1]))
    return {
        'detections': {
            '4192': len(tables[0]),
            '6377': len(tables[1]),
            'coadd': len(deep),
        },
        'in_both': len(one),
        'in_the_coadd_alone': int(fainter.sum()),
        'noise_correlation': coadd.noise_correlation,
        'median_noise': float(np.median(np.asarray(coadd.bkg_error)[~coadd.mask])),
        'error_over_expected_by_magnitude': rows,
        'lost': [
            {
                'x': float(x),
                'y': float(y),
                'mag1': float(22.5 - 2.5 * np.log10(a)),
                'p1': float(p),
                'p2': float(q),
            }
            for (x, y), a, p, q in zip(
                middle[~again],
                values[0]['flux'][one][~again],
                values[0]['probability'][one][~again],
                values[1]['probability'][two][~again],
                strict=True,
            )
        ],
    }


def _near(points, others):
    return _nearest(points, others)[1] < _RADIUS


# -- stamps ---------------------------------------------------------------------


def stamps(report, folder, bands, n_splits):
    """Odd exposures against even ones, and random halves against each other."""
    rng = np.random.default_rng(4)
    first, others, details = [], [], []
    for path in find_stamps(folder):
        exposures, facts = read_stamps(path)
        if exposures[0].meta['band'] not in bands:
            continue
        own = _compare_halves(exposures)
        first.append(own)
        details.append({'file': path.stem, 'exposures': facts} | own)
        for _ in range(n_splits):
            order = rng.permutation(len(exposures))
            others.append(_compare_halves([exposures[k] for k in order]))
    found = np.concatenate([own['recurs'] for own in first])
    report.add(
        'detections above 0.9 in one half of the exposures that recur in the other',
        *share_with_error(int(found.sum()), len(found)),
        n=len(found),
        target='>= 0.9',
        low=0.9,
    )
    what = 'robust sigma of (f_odd - f_even) / sqrt(e_odd^2 + e_even^2)'
    goal = {'target': '0.8 to 1.25', 'low': 0.8, 'high': 1.25}
    _add_sigma(report, what, [own['pairs'] for own in first], **goal)
    pairs = [own['pairs'] for own in others]
    if pairs:
        found = np.concatenate([own['recurs'] for own in others])
        share, _ = share_with_error(int(found.sum()), len(found))
        report.add(
            f'the same share over {n_splits} random halvings', share, n=len(found)
        )
        _add_sigma(report, f'the same sigma over {n_splits} random halvings', pairs)
        for name, wanted in (('unblended', False), ('blended', True)):
            chosen = [[p for p in some if p['blended'] == wanted] for some in pairs]
            _add_sigma(report, f'of them, {name}', chosen)
    return details


def _compare_halves(exposures):
    """Which sure detections of either half recur, and flux differences."""
    halves = [coadd_exposures(exposures[k::2]) for k in (0, 1)]
    tables = [_catalog(half) for half in halves]
    places = [_places(table, halves[0].wcs) for table in tables]
    pairs, recurs = set(), []
    for k in (0, 1):
        sure = np.asarray(tables[k]['probability']) > 0.9
        for j in (0, 1):
            n = len(exposures[j::2])
            sure &= _deep(halves[j].n_exposures, places[k], 0.7 * n, 4)
        index, distance = _nearest(places[k][sure], places[1 - k])
        again = distance < _RADIUS
        recurs += again.tolist()
        one, other = np.flatnonzero(sure)[again], index[again]
        ends = (one, other) if k == 0 else (other, one)
        pairs |= set(zip(*(end.tolist() for end in ends), strict=True))
    return {
        'recurs': recurs,
        'pairs': _differences(*tables, sorted(pairs)),
        'detections': [len(table) for table in tables],
        'noise_correlation': [half.noise_correlation for half in halves],
    }


def _add_sigma(report, what, pairs, **goal):
    pull = np.array([pair['pull'] for some in pairs for pair in some])
    if len(pull) < 3:
        return
    report.add(what, robust_sigma(pull), _sigma_error(pull), n=len(pull), **goal)


def _differences(first, second, pairs):
    """Differences of flux of pairs of rows, in units of their errors."""
    a, b = _columns(first), _columns(second)
    out = []
    for i, j in pairs:
        error = np.hypot(a['flux_err'][i], b['flux_err'][j])
        mean = 0.5 * (a['flux'][i] + b['flux'][j])
        pull = (a['flux'][i] - b['flux'][j]) / error
        out.append(
            {
                'flux': float(mean),
                'pull': float(pull),
                'relative_error': float(error / mean),
                'blended': bool((a['flags'][i] | b['flags'][j]) & CatalogFlag.BLENDED),
            }
        )
    return out


def _sigma_error(values, n_resamples=400):
    rng = np.random.default_rng(1)
    picks = rng.integers(len(values), size=(n_resamples, len(values)))
    return float(np.std(robust_sigma(values[picks], axis=1)))


def main():
    parser = make_parser(__doc__.strip())
    parser.add_argument('--data', required=True, help='folder of the SDSS files')
    parser.add_argument('--bands', default='gri', help='bands of the stamps')
    parser.add_argument(
        '--splits', type=int, default=5, help='random halvings of the stamps'
    )
    parser.add_argument('--skip-frames', action='store_true', help='stamps alone')
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = Report('real_coadds', __doc__.strip(), arguments)
    if not arguments.skip_frames:
        report.details['two_frames'] = two_frames(report, arguments.data)
    report.details['stamps'] = stamps(
        report, arguments.data, arguments.bands, arguments.splits
    )
    report.finish()


if __name__ == '__main__':
    main()
