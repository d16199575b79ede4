# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Report of a run: one static HTML page of its fields, for any browser.
"""

import collections
import json
import zipfile
from html import escape
from pathlib import Path

import numpy as np

from bliss_astro._arguments import counted
from bliss_astro._atomic import atomic_write, check_target

from . import _report_figures as figures
from ._done import read_records
from ._report_html import STYLE, html_figure, html_pixels, html_table, plain_text

# Numbers of fields in the page: with cut-outs, that failed, of all.
_N_WORST, _N_FAILED, _N_LISTED = 12, 200, 2000
# Ends of the scales of cut-outs, in units of the noise of the sky.
_IMAGE_RANGE, _RESIDUAL = (-3.0, 20.0), 5.0


def write_report(folder, path=None, *, overwrite=False):
    """
    Write a report of a run as one HTML page, without scripts or files beside it.

    Fields on the sky, their depth, rows against expected numbers of sources, times,
    the worst self-checks with cut-outs of image and residual, fields that failed with
    their reasons, and the provenance.

    Parameters
    ----------
    folder : str or `~os.PathLike`
        Folder of the run, finished or not.

    path : str or `~os.PathLike`, optional
        Where to write, by default ``report.html`` in the folder.

    overwrite : bool, optional
        Whether an existing file may be replaced.

    Returns
    -------
    path : `~pathlib.Path`
        The page.

    Raises
    ------
    OSError
        If the folder is none of a run, or the page exists or cannot be written.
    """
    folder = Path(folder)
    path = Path(folder, 'report.html') if path is None else Path(path)
    if not (folder / 'run.json').is_file():
        msg = f'folder must be that of a run; {str(folder)!r} has no run.json.'
        raise FileNotFoundError(msg)
    check_target(path, overwrite=overwrite)
    run = json.loads((folder / 'run.json').read_text())
    least = {'reason': '', 'seconds': {}, 'n_rows': 0}
    # All but the largest parts of each.
    large = {'marginals', 'checksums'}
    records = [
        least | {k: v for k, v in record.items() if k not in large}
        for record in read_records(folder, run)
    ]
    text = _page(folder, run, records)
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding='utf-8')
    return path


def report(self, path=None, *, overwrite=False):
    """
    Write a report of the run as one HTML page, see `write_report`.

    Parameters
    ----------
    path : str or `~os.PathLike`, optional
        Where to write, by default ``report.html`` in the folder of the run.

    overwrite : bool, optional
        Whether an existing file may be replaced.

    Returns
    -------
    path : `~pathlib.Path`
        The page.
    """
    return write_report(self.path, path, overwrite=overwrite)


def _page(folder, run, records):
    """HTML of a page."""
    done = [record for record in records if record['status'] == 'done']
    failed = [record for record in records if record['status'] != 'done']
    name = escape(folder.absolute().name)
    sections = {
        'Sky': _sky(records),
        'Depth': _depth(done),
        'Counts': _counts(done),
        'Times': _times(done),
        'Self-checks': _worst(folder, done),
        'Failed fields': _failed(failed),
        'Warnings and flags': _warnings(records),
        'All fields': _all_fields(records),
        'Provenance': _provenance(run),
    }
    links = ''.join(
        f'<a href="#part{k}">{title}</a>\n' for k, title in enumerate(sections)
    )
    parts = '\n'.join(
        f'<section aria-labelledby="part{k}"><h2 id="part{k}">{title}</h2>\n{text}\n'
        '</section>'
        for k, (title, text) in enumerate(sections.items())
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>Run {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<header><h1>Run {name}</h1>\n<p class="quiet">{_subtitle(run)}</p>\n'
        f'{_numbers(done, failed)}<nav aria-label="Sections">{links}</nav></header>\n'
        f'<main>\n{parts}\n</main>\n</body>\n</html>\n'
    )


def _subtitle(run):
    date = str(run.get('date', ''))
    version = plain_text(run.get('version', ''))
    return escape(f'Encoder {run.get("encoder", "unknown")}; {date}; {version}')


def _numbers(done, failed):
    """Headline numbers of a run."""
    area = sum(record.get('area') or 0 for record in done) / 3600
    seconds = sum(sum(record['seconds'].values()) for record in done)
    rows = sum(record['n_rows'] for record in done)
    with_findings = sum(bool(record.get('findings')) for record in done)
    values = {
        'fields done': f'{len(done):,}',
        'with findings': f'{with_findings:,}',
        'failed': f'{len(failed):,}',
        'rows': f'{rows:,}',
        'expected sources': f'{_total(done, "expected_count"):,.0f}',
        'area of the images': f'{area:.4g} deg²',
        'time of all workers': _duration(seconds),
    }
    parts = (f'<div><dt>{k}</dt><dd>{v}</dd></div>' for k, v in values.items())
    return f'<dl class="numbers">{"".join(parts)}</dl>\n'


def _total(records, name):
    return sum(record.get(name) or 0 for record in records)


def _duration(seconds):
    """Seconds, minutes or hours."""
    for unit, length in (('h', 3600), ('min', 60)):
        if seconds >= 2 * length:
            return f'{seconds / length:.3g} {unit}'
    return f'{seconds:.3g} s'


# -- sections ------------------------------------------------------------------------


def _sky(records):
    image = figures.draw_sky(records)
    if image is None:
        return '<p>No field has a position on the sky.</p>'
    known = [record for record in records if record.get('footprint')]
    kinds = collections.Counter(figures.kind_of(record) for record in known)
    words = ', '.join(f'{n} {figures.KINDS[k][0]}' for k, n in kinds.items())
    alt = f'Map of {counted(len(known), "field")} on the sky: {words}.'
    lost = len(records) - len(known)
    note = f' Of {counted(lost, "field")} the position is not known.' if lost else ''
    parts = [html_figure(image, alt, f'Fields by status; east is to the left.{note}')]
    own, unit = _with_depth(known)
    if own:
        alt = f'Map of the depth of {counted(len(own), "field")} on the sky.'
        image = figures.draw_depth(own, unit)
        parts.append(html_figure(image, alt, 'Fields by depth.'))
    return f'<div class="grid">{"".join(parts)}</div>'


def _with_depth(records):
    """Fields with a depth in the most frequent unit, and the unit."""
    own = [record for record in records if _known(record, 'depth')]
    units = collections.Counter(record['depth_unit'] for record in own)
    unit = units.most_common(1)[0][0] if units else ''
    return [record for record in own if record['depth_unit'] == unit], unit


def _depth(done):
    own, unit = _with_depth(done)
    if not own:
        return '<p>No field with a depth is done.</p>'
    parts = [_histogram(own, 'depth', 'Depth', unit)]
    wide = [record for record in done if _known(record, 'fwhm')]
    if wide:
        parts.append(_histogram(wide, 'fwhm', 'FWHM of the PSF', 'pixels'))
    others = sum(_known(record, 'depth') for record in done) - len(own)
    verb = 'is' if others == 1 else 'are'
    note = (
        f' {counted(others, "field")} in other units {verb} left out.' if others else ''
    )
    intro = (
        'The depth is the brightness of a star with a signal-to-noise ratio of 5 in '
        'the middle of a field.'
    )
    return f'<p>{intro}{note}</p><div class="grid">{"".join(parts)}</div>'


def _histogram(records, name, title, unit):
    """Figure of the histogram of a number of the fields."""
    values = np.array([record[name] for record in records])
    low, middle, high = np.percentile(values, (0, 50, 100))
    text = f'{title}: median {middle:.4g}, {low:.4g} to {high:.4g} {unit}'
    image = figures.draw_histogram(values, f'{title} ({unit})')
    alt = f'Histogram of {counted(len(values), "field")}. {text}.'
    return html_figure(image, alt, escape(text))


def _counts(done):
    own = [record for record in done if _known(record, 'expected_count')]
    if not own:
        return '<p>No field is done.</p>'
    rows, expected = _total(own, 'n_rows'), _total(own, 'expected_count')
    error = np.sqrt(sum((r.get('expected_count_error') or 0) ** 2 for r in own))
    own = [{'expected_count_error': 0} | record for record in own]
    text = (
        f'{rows:,} rows above the threshold; {expected:,.1f} ± {error:,.1f} sources '
        'expected by the posteriors of the whole images'
    )
    alt = f'Rows against expected number of sources, a point for each field. {text}.'
    image = html_figure(figures.draw_counts(own), alt, escape(text))
    parts = [image]
    dense = [r | {'density': r['n_rows'] / r['area']} for r in own if r.get('area')]
    if dense:
        parts.append(_histogram(dense, 'density', 'Density', 'rows per arcmin²'))
    intro = (
        'The expected number counts sources below the threshold too, with the '
        'probability of each: rows lie below it by those. Fields apart from the others '
        'are worth a look.'
    )
    return f'<p>{intro}</p><div class="grid">{"".join(parts)}</div>'


def _times(done):
    parts = [record['seconds'] for record in done if record.get('seconds')]
    if not parts:
        return '<p>No field is done.</p>'
    total = np.array([sum(part.values()) for part in parts])
    rows = []
    for name in parts[0]:
        values = np.array([part.get(name, 0.0) for part in parts])
        shares = f'{100 * values.sum() / max(total.sum(), 1e-9):.1f} %'
        mean = f'{np.median(values):.3g} s'
        rows.append(
            [name, mean, f'{values.max():.3g} s', _duration(values.sum()), shares]
        )
    header = ['step', 'median', 'longest', 'all fields', 'share']
    steps = html_table(
        header, rows, 'Wall time of a worker by step', numbers=(1, 2, 3, 4)
    )
    own = [{'total': value} for value in total]
    image = _histogram(own, 'total', 'Time of a field', 's')
    return f'<div class="grid">{image}{steps}</div>'


def _worst(folder, done):
    own = [record for record in done if record.get('findings')]
    if not own:
        return f'<p>Nothing was found in {counted(len(done), "field")}.</p>'

    def faults(record):
        numbers = record.get('worst') or {}
        return -sum(v for k, v in numbers.items() if k.startswith('n_'))

    own.sort(key=lambda record: (faults(record), record['field']))
    cards = ''.join(_card(folder, record) for record in own[:_N_WORST])
    share = f'{len(own)} of {counted(len(done), "field")}'
    intro = (
        f'The residual of {share} has what the rows do not explain. Those with the '
        'most unexplained peaks, rows without light and areas of wrong noise come '
        'first. Cut-outs are in units of the noise of the sky; a circle is at the '
        'worst place.'
    )
    return f'<p>{intro}</p><div class="grid cards">{cards}</div>'


def _card(folder, record):
    """A field with its findings and cut-outs."""
    worst, pair = record.get('worst') or {}, ''
    cutouts = _cutouts(folder, record['field']) if 'corner' in worst else None
    if cutouts is not None:
        place = worst['x'] - worst['corner'][0], worst['y'] - worst['corner'][1]
        at = f'{record["field"]} around pixel ({worst["x"]:.0f}, {worst["y"]:.0f})'
        scales = (*_IMAGE_RANGE, 'gray'), (-_RESIDUAL, _RESIDUAL, 'RdBu_r')
        pair = ''.join(
            f'<figure>{html_pixels(image, scale, place, f"{kind} of {at}")}'
            f'<figcaption>{kind}, {scale[0]:g} to {scale[1]:g}</figcaption></figure>'
            for image, scale, kind in zip(
                cutouts, scales, ('Image', 'Residual'), strict=True
            )
        )
        pair = f'<div class="pair">{pair}</div>'
    findings = ''.join(f'<p>{escape(text)}</p>' for text in record['findings'])
    name = escape(record['field'])
    return f'<article class="card"><h3>{name}</h3>{pair}{findings}</article>'


def _cutouts(folder, name):
    """Image and residual of a field, or None where the file has none."""
    try:
        with np.load(folder / 'fields' / f'{name}.npz') as arrays:
            return arrays['cutout_image'], arrays['cutout_residual']
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _failed(failed):
    if not failed:
        return '<p>No field failed.</p>'
    kinds = collections.Counter(r['reason'].partition(':')[0] for r in failed)
    words = ', '.join(f'{n} {escape(kind)}' for kind, n in kinds.most_common())
    rows = [[record['field'], record['reason']] for record in failed[:_N_FAILED]]
    more = len(failed) - len(rows)
    note = f' {more:,} more are in fields.ecsv.' if more else ''
    table = html_table(['field', 'reason'], rows, 'Fields that failed, with the reason')
    return f'<p>{counted(len(failed), "field")} failed: {words}.{note}</p>{table}'


def _warnings(records):
    texts = collections.Counter(
        _first_sentence(text) for r in records for text in {*r.get('warnings', ())}
    )
    flags = collections.Counter()
    for record in records:
        flags.update(record.get('flags') or {})
    if not texts and not flags:
        return '<p>There are none.</p>'
    parts = []
    if flags:
        rows = [[name, f'{n:,}'] for name, n in flags.most_common()]
        caption = 'Flags of rows'
        parts.append(html_table(['flag', 'rows'], rows, caption, numbers=(1,)))
    if texts:
        rows = [[f'{n:,}', text] for text, n in texts.most_common(20)]
        caption = 'Warnings by the number of fields; the 20 most frequent'
        parts.append(html_table(['fields', 'warning'], rows, caption, numbers=(0,)))
    return f'<div class="grid">{"".join(parts)}</div>'


def _first_sentence(text):
    """Beginning of a warning, by which those of many fields are counted."""
    text = ' '.join(str(text).split())
    return text if len(text) <= 140 else f'{text[:139]}…'


def _all_fields(records):
    rows = []
    for record in records[:_N_LISTED]:
        expected, error = (
            record.get('expected_count'),
            record.get('expected_count_error'),
        )
        sum_of = f'{expected:.1f} ± {error or 0:.1f}' if expected is not None else ''
        seconds = sum(record['seconds'].values())
        numbers = [record.get('depth'), record.get('fwhm'), seconds or None]
        numbers = ['' if value is None else f'{value:.4g}' for value in numbers]
        label = figures.KINDS[figures.kind_of(record)][0]
        name = record['field']
        rows.append([name, label, f'{record["n_rows"]:,}', sum_of, *numbers])
    more = len(records) - len(rows)
    note = f'<p>{more:,} more are in fields.ecsv.</p>' if more else ''
    header = ['field', 'status', 'rows', 'expected', 'depth', 'FWHM (px)', 'seconds']
    table = html_table(header, rows, 'Fields', numbers=range(2, 7))
    title = f'<summary>{counted(len(records), "field")}</summary>'
    return f'<details>{title}{table}{note}</details>' if records else '<p>None.</p>'


def _provenance(run):
    rows = [[key, plain_text(value)] for key, value in run.items()]
    return html_table(['', ''], rows, 'Provenance', row_headers=True)


def _known(record, name):
    value = record.get(name)
    return value is not None and np.isfinite(value)
