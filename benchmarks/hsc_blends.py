# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Real blends of another survey: HSC, with an encoder made by recipe and configuration.

Stars and galaxies of known flux are put into 19 real cut-outs of Hyper
Suprime-Cam (i band), one at a time, into blank sky and beside what is there.
Detected and measured are they by the encoder of benchmarks/configs/hsc.toml, by
SEP and by photutils, both with deblending at the best of a grid of settings.
"""

import dataclasses
import warnings

import numpy as np
import torch
from _common import Report, make_parser
from _hsc_data import read_blends, shared_data
from _hsc_figure import draw_blends, draw_injections_figure
from _hsc_injections import draw_injections, galaxy_rows, put_in
from _hsc_ours import find_many
from _hsc_rivals import (
    PHOTUTILS_GRID,
    SEP_GRID,
    find_photutils,
    find_sep,
    known_sources,
)
from _hsc_scores import choose, compare, match_given, match_injection, recall
from _hsc_tables import write_tables

from bliss_astro.encoders import Encoder

OURS = 'ours'
_RIVALS = {
    'SEP': (find_sep, SEP_GRID, ('isophotal', 'kron', 'kron_masked')),
    'photutils': (find_photutils, PHOTUTILS_GRID, ('segment', 'kron')),
}
_PLACES = ('blank', 'blended')
_TARGET = 0.8


def relative_errors(results, before, injections, estimator):
    """
    Relative flux errors of all sources put in; NaN for those not found.
    """
    errors = np.full(len(injections), np.nan)
    rows = np.full(len(injections), -1)
    for k, (found, injection) in enumerate(zip(results, injections, strict=True)):
        row = match_injection(found, before[injection.blend], injection, estimator)
        if row is not None:
            errors[k] = found[estimator][row] / injection.flux - 1
            rows[k] = row
    return errors, rows


def tune(name, blends, injections, images):
    """
    The best setting and flux of a rival, on sources drawn for that alone.

    Returns
    -------
    setting : tuple
        Threshold and contrast.

    estimator : str
        Name of the flux.
    """
    find, grid, estimators = _RIVALS[name]
    errors = {}
    for setting in grid:
        before = [find(blend.exposure, *setting) for blend in blends]
        results = [find(image, *setting) for image in images]
        for estimator in estimators:
            errors[setting, estimator] = relative_errors(
                results, before, injections, estimator
            )[0]
    return choose(errors)


def measure(find, blends, injections, images, estimator):
    """
    Run a method on the blends as they are and with each source.

    Parameters
    ----------
    find : callable
        Takes a list of images of one blend, returns what was found in each.

    blends, injections, images, estimator
        As for `relative_errors`; an image for each source.

    Returns
    -------
    errors : array
        Of the fluxes; NaN for sources not found.

    rows, results, before
        Row of each source, what was found with it, and in each blend without.
    """
    results, before = [None] * len(images), []
    for k, blend in enumerate(blends):
        own = [i for i, each in enumerate(injections) if each.blend == k]
        first, *rest = find([blend.exposure, *(images[i] for i in own)])
        before.append(first)
        for i, found in zip(own, rest, strict=True):
            results[i] = found
    errors, rows = relative_errors(results, before, injections, estimator)
    return errors, rows, results, before


def add_rows(report, errors, injections, rng):
    """Scores of all methods by place."""
    groups = np.array([each.blend for each in injections])
    blended = np.array([each.blended for each in injections])
    everything = np.ones(len(groups), dtype=bool)
    details = {}
    for place, use in (
        ('all', everything),
        ('blank', ~blended),
        ('blended', blended),
    ):
        scores = compare(errors, groups, use, rng)
        for name, score in scores.items():
            report.add(
                f'median absolute flux error, {place}, {name}',
                *score['error'],
                n=score['n'],
            )
            report.add(f'median flux error, {place}, {name}', *score['bias'])
        for name in _RIVALS:
            limits = {'target': f'<= {_TARGET}', 'high': _TARGET}
            report.add(
                f"flux error, {place}, ours over {name}'s",
                *scores[name]['ratio'],
                n=scores[name]['n'],
                **limits,
            )
        shares = recall(errors, groups, use, rng)
        for name, share in shares.items():
            report.add(f'recall, {place}, {name}', *share, n=int(use.sum()))
        details[place] = scores
    return details


def add_kinds(report, errors, injections, rng):
    """Flux errors of stars and of galaxies, in all places."""
    groups = np.array([each.blend for each in injections])
    galaxy = np.array([each.is_galaxy for each in injections])
    for kind, use in (('stars', ~galaxy), ('galaxies', galaxy)):
        for name, score in compare(errors, groups, use, rng).items():
            what = f'median absolute flux error, {kind}, {name}'
            report.add(what, *score['error'], n=score['n'])


def add_honesty(report, errors, rows, results, injections):
    """Coverage of our intervals and classes of what we found."""
    inside, right = [], []
    for error, row, found, injection in zip(
        errors, rows, results, injections, strict=True
    ):
        if row < 0:
            continue
        inside.append(abs(error) * injection.flux < found['error'][row])
        right.append((found['galaxy'][row] > 0.5) == injection.is_galaxy)
    for what, values in (
        ('fluxes within the stated error, ours', inside),
        ('stars and galaxies told apart, ours', right),
    ):
        share = np.mean(values)
        error = np.sqrt(share * (1 - share) / len(values))
        report.add(what, share, error, n=len(values))


def given_sources(blends, before, estimators):
    """
    The sources that came with the data, as each method has them.

    Returns
    -------
    rows : list of dict
        Truth and magnitudes, NaN where a source was not found.
    """
    rows = []
    for k, blend in enumerate(blends):
        for source in blend.truth:
            row = {'blend': blend.name} | source
            for name, estimator in estimators.items():
                found = before[name][k]
                index = match_given(found, source)
                flux = np.nan if index is None else found[estimator][index]
                with np.errstate(invalid='ignore', divide='ignore'):
                    row[name] = float(22.5 - 2.5 * np.log10(flux))
                if name == OURS and index is not None:
                    row['error'] = float(1.0857 * found['error'][index] / flux)
                    row['galaxy_probability'] = float(found['galaxy'][index])
            rows.append(row)
    return rows


def add_given(report, rows):
    """Magnitude errors of the given sources that all methods have."""
    names = [OURS, *_RIVALS]
    offsets = np.array(
        [[row[name] - row['magnitude'] for name in names] for row in rows]
    )
    both = np.isfinite(offsets).all(1)
    for name, values in zip(names, offsets.T, strict=True):
        spread = np.abs(values[both])
        error = 1.25 * spread.std() / np.sqrt(both.sum())
        what = f'given sources, median absolute magnitude error, {name}'
        report.add(what, np.median(spread), error, n=int(both.sum()))


def run(options):
    """
    All of it.

    Returns
    -------
    report : `~_common.Report`
        With rows and details.

    drawn : dict
        What the figures need.
    """
    folder = shared_data(options.data)
    from astropy.table import Table

    blends = read_blends(folder)
    known = [known_sources(blend.exposure, blend.peaks) for blend in blends]
    galaxies = galaxy_rows(Table.read(folder / 'catalogs' / 'small_cat.fits'))
    rng = np.random.default_rng(20221121)
    n_tuning = 40 if options.quick else 100
    n_injections = 60 if options.quick else options.n_injections
    tuning, injections = (
        draw_injections(blends, known, galaxies, n, rng)
        for n in (n_tuning, n_injections)
    )
    images, tried = (
        [put_in(blends[each.blend], each) for each in part]
        for part in (injections, tuning)
    )
    report = Report('hsc_blends', 'Sources put into real blends of HSC.', options)
    encoder = Encoder.from_pretrained(options.encoder)
    estimators, chosen = {OURS: 'flux'}, {}
    finders = {OURS: lambda images: find_many(images, encoder)}
    for name in _RIVALS:
        setting, estimators[name] = tune(name, blends, tuning, tried)
        find = _RIVALS[name][0]
        finders[name] = lambda images, f=find, s=setting: [f(i, *s) for i in images]
        chosen[name] = {
            'threshold': setting[0],
            'contrast': setting[1],
            'flux': estimators[name],
        }
        print(f'{name}: {chosen[name]}')
    out = {
        name: measure(find, blends, injections, images, estimators[name])
        for name, find in finders.items()
    }
    errors = {name: parts[0] for name, parts in out.items()}
    before = {name: parts[3] for name, parts in out.items()}
    add_rows(report, errors, injections, rng)
    add_kinds(report, errors, injections, rng)
    add_honesty(report, errors[OURS], out[OURS][1], out[OURS][2], injections)
    given = given_sources(blends, before, estimators)
    add_given(report, given)
    for name, found in before.items():
        report.add(
            f'sources in the blends as they are, {name}',
            sum(len(each['x']) for each in found),
        )
    report.details = {
        'settings': chosen,
        'encoder': {
            k: encoder.card.get(k) for k in ('name', 'sha256', 'validation_loss')
        },
        'noise_correlation': blends[0].exposure.noise_correlation,
        'given': [{k: None if v != v else v for k, v in row.items()} for row in given],
    }
    drawn = {
        'blends': blends,
        'before': before,
        'errors': errors,
        'injections': injections,
    }
    return report, drawn


def main():
    """Inject, detect, score."""
    parser = make_parser(__doc__.strip().splitlines()[0])
    parser.add_argument('--data', help='folder of the shared data')
    parser.add_argument(
        '--encoder', default='hsc/hsc.safetensors', help='weights: name or file'
    )
    parser.add_argument('--n-injections', type=int, default=1060)
    parser.add_argument('--tables', help='folder for the tables of the tutorial')
    parser.add_argument('--figures', help='folder for hsc_blends.png and others')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    warnings.simplefilter('ignore')
    report, drawn = run(options)
    report.finish()
    if options.tables:
        rows = [dataclasses.asdict(row) for row in report.rows]
        content = {'rows': rows, 'details': report.details}
        write_tables(content, options.tables)
    if options.figures:
        draw_blends(drawn, f'{options.figures}/hsc_blends.png')
        draw_injections_figure(drawn, f'{options.figures}/hsc_injections.png')


if __name__ == '__main__':
    main()
