# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The same sky twice, stars and galaxies: SDSS runs 4192 and 6377.
"""

import warnings

import numpy as np
import torch
from _common import Report, make_parser, share_with_error
from two_epochs import (
    _isolated,
    _plain,
    _sigma_error,
    _well_inside,
    read_epochs,
    relative_zero_point,
)

from bliss_astro import detect_sources
from bliss_astro.metrics import match_catalogs, robust_sigma

_BRIGHT = 20.5  # magnitude down to which sources count
_RADIUS = 1.0  # pixels
# Fewest stars that the relative zero point is fitted to.
_N_CALIBRATORS = 15
_RUNS = (4192, 6377)
_KINDS = ('stars', 'galaxies')
_MAG_BINS = ((14, 17), (17, 18.5), (18.5, 19.5), (19.5, 20), (20, 20.5))


def detect_both(exposures, *, encoder=None, threshold=0.5):
    """
    Catalogues of both epochs as dicts of arrays, fluxes in nmgy.

    Parameters
    ----------
    exposures : list of `~bliss_astro.exposures.Exposure`
        Both epochs.

    encoder : str or None, optional
        A name or file; the default one if `None`.

    threshold : float, optional
        Smallest probability of a source.

    Returns
    -------
    catalogs : list of dict
        With ``is_galaxy``.

    flags : list of array
        Flags of the pixels of each epoch.

    Raises
    ------
    ValueError
        If the encoder does not tell galaxies from stars.
    """
    catalogs, flags = [], []
    for exposure in exposures:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            table = detect_sources(exposure, threshold=threshold, encoder=encoder)
        if 'galaxy_probability' not in table.colnames:
            msg = f'encoder={encoder!r} does not tell galaxies from stars'
            raise ValueError(msg)
        own = _plain(table)
        own['galaxy_probability'] = np.asarray(table['galaxy_probability'])
        own['is_galaxy'] = own['galaxy_probability'] > 0.5
        catalogs.append(own)
        flags.append(table.posterior.flags)
    return catalogs, flags


def magnitude(flux):
    """Magnitude of a flux in nmgy."""
    return 22.5 - 2.5 * np.log10(flux)


def match_epochs(own, other, other_wcs):
    """
    For each row of one catalogue its partner in the other, or -1.

    Also the places on the other frame.
    """
    x, y = (np.asarray(v, float) for v in other_wcs.world_to_pixel(own['sky']))
    match = match_catalogs(
        (x, y), (other['x_centroid'], other['y_centroid']), radius=_RADIUS
    )
    partner = np.full(len(x), -1)
    partner[match.estimated_index] = match.truth_index
    return partner, (x, y)


def _flagged(own, place, other_flags):
    # In either frame.
    ny, nx = other_flags.shape
    column = np.clip(np.rint(place[0]).astype(int), 0, nx - 1)
    row = np.clip(np.rint(place[1]).astype(int), 0, ny - 1)
    return (own['flags'] != 0) | (other_flags[row, column] != 0)


def compare(report, exposures, catalogs, flags):
    """
    Add the rows of the report; returns its details.

    Parameters
    ----------
    report : `Report`
        Gets the rows.

    exposures, catalogs, flags : list
        See `detect_both`.

    Returns
    -------
    details : dict
        Numbers of sources, and fluxes by type and magnitude.
    """
    details = {}
    for one, two in ((0, 1), (1, 0)):
        own, other = catalogs[one], catalogs[two]
        partner, place = match_epochs(own, other, exposures[two].wcs)
        use = magnitude(own['flux']) < _BRIGHT
        use &= _well_inside(exposures[one], own['x_centroid'], own['y_centroid'])
        use &= _well_inside(exposures[two], *place)
        flagged = _flagged(own, place, flags[two])
        begin = f'run {_RUNS[one]}'
        for words, rows in (('', use), (', no flag in either', use & ~flagged)):
            _add_shares(report, begin, words, own, other, partner, rows)
        details[begin] = {
            'detections': len(own['flux']),
            'sources': int(use.sum()),
            'galaxies': int(own['is_galaxy'][use].sum()),
            'lost': [
                {
                    key: float(own[key][j])
                    for key in ('x_centroid', 'y_centroid', 'flux', 'probability')
                }
                for j in np.flatnonzero(use & (partner < 0))
            ],
        }
        if one == 0:
            rows = np.flatnonzero(use & (partner >= 0))
            pairs = rows, partner[rows]
            details['fluxes'] = _compare_fluxes(
                report, exposures, own, other, pairs, flagged[rows]
            )
    return details


def _add_shares(report, begin, words, own, other, partner, use):
    goal = {} if words else {'target': '>= 0.96', 'low': 0.96}
    again = use & (partner >= 0)
    report.add(
        f'{begin}: found again within 1 px, r < {_BRIGHT}{words}',
        *share_with_error(int(again.sum()), int(use.sum())),
        n=int(use.sum()),
        **goal,
    )
    same = own['is_galaxy'] == other['is_galaxy'][partner]
    goal = {} if words else {'target': '>= 0.95', 'low': 0.95}
    report.add(
        f'{begin}: same class, r < {_BRIGHT}{words}',
        *share_with_error(int((same & again).sum()), int(again.sum())),
        n=int(again.sum()),
        **goal,
    )
    if not words:
        for kind, is_galaxy in zip(_KINDS, (False, True), strict=True):
            chosen = use & (own['is_galaxy'] == is_galaxy)
            report.add(
                f'{begin}: {kind} found again, r < {_BRIGHT}',
                *share_with_error(int((chosen & again).sum()), int(chosen.sum())),
                n=int(chosen.sum()),
            )


def _zero_point(exposures, first, second, pairs, stars):
    """Flux ratio of the epochs at each pair, from isolated stars in apertures."""
    one, two = pairs
    good = stars & _isolated(first)[one] & _isolated(second)[two]
    mag = magnitude(0.5 * (first['flux'][one] + second['flux'][two]))
    places = [
        catalog[key][index]
        for catalog, index in ((first, one), (second, two))
        for key in ('x_centroid', 'y_centroid')
    ]
    if (mag[good] < 18.6).sum() < _N_CALIBRATORS:
        ratio = first['flux'][one][stars] / second['flux'][two][stars]
        return np.full(len(one), np.median(ratio) if len(ratio) else 1.0), len(ratio)
    # Others are too faint to take part in the fit, but are given its values.
    mag = np.where(good, mag, 99.0)
    return relative_zero_point(exposures, places, mag), int(good.sum())


def _compare_fluxes(report, exposures, first, second, pairs, flagged):
    one, two = pairs
    flux = [first['flux'][one], second['flux'][two]]
    error = [first['flux_err'][one], second['flux_err'][two]]
    galaxy = [first['is_galaxy'][one], second['is_galaxy'][two]]
    stars = ~galaxy[0] & ~galaxy[1] & ~flagged
    scale, n_calibrators = _zero_point(exposures, first, second, pairs, stars)
    pull = (flux[0] - flux[1] * scale) / np.hypot(error[0], error[1] * scale)
    mag = magnitude(0.5 * (flux[0] + flux[1]))
    details = {
        'calibrators': n_calibrators,
        'zero_point_range': [float(scale.min()), float(scale.max())]
        if len(scale)
        else None,
    }
    for kind, chosen in (
        ('stars', ~galaxy[0] & ~galaxy[1]),
        ('galaxies', galaxy[0] & galaxy[1]),
    ):
        for words, rows in (('', chosen), (', no flag in either', chosen & ~flagged)):
            values = pull[rows]
            if len(values) < 5:
                continue
            goal = {} if words else {'target': '0.8 to 1.25', 'low': 0.8, 'high': 1.25}
            report.add(
                f'{kind}: robust sigma of normalised flux differences{words}',
                robust_sigma(values),
                _sigma_error(values),
                n=len(values),
                **goal,
            )
        details[kind] = _by_magnitude(flux, error, scale, pull, mag, chosen)
    return details


def _by_magnitude(flux, error, scale, pull, mag, chosen):
    rows = []
    for low, high in _MAG_BINS:
        use = chosen & (mag > low) & (mag <= high)
        if use.sum() < 5:
            continue
        ratio = flux[0][use] / (flux[1] * scale)[use]
        stated = np.hypot(error[0] / flux[0], error[1] / flux[1])[use]
        rows.append(
            {
                'r': [low, high],
                'n': int(use.sum()),
                'robust_sigma': float(robust_sigma(pull[use])),
                'median_pull': float(np.median(pull[use])),
                'median_ratio': float(np.median(ratio)),
                'scatter_of_ratio': float(robust_sigma(ratio)),
                'stated_error_of_ratio': float(np.median(stated)),
            }
        )
    return rows


def main(args=None):
    parser = make_parser(__doc__.strip())
    parser.add_argument('--data', required=True, help='folder of the fpC files')
    parser.add_argument('--encoder', help='name or file; the default one if not given')
    parser.add_argument('--threshold', type=float, default=0.5)
    arguments = parser.parse_args(args)
    torch.set_num_threads(arguments.threads)
    report = Report('two_epochs_types', __doc__.strip(), arguments)
    exposures = read_epochs(arguments.data)
    catalogs, flags = detect_both(
        exposures, encoder=arguments.encoder, threshold=arguments.threshold
    )
    report.details = compare(report, exposures, catalogs, flags)
    report.finish()


if __name__ == '__main__':
    main()
