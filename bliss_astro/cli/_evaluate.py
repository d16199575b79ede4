# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro evaluate``: scores of a catalogue against the truth.
"""

import numpy as np

from ._options import add_command, add_options, positive_float
from ._output import UsageError, check_paths, print_table, write_picture, write_table
from ._tables import read_sources

__all__ = ['Evaluation', 'add_parser', 'run']

_DESCRIPTION = """\
Match a catalogue one to one with the truth (or with a better catalogue) and print
recall, precision and flux residuals by magnitude. TRUTH may be a table or an image of
"bliss-astro simulate".
"""

# Largest number of bins of magnitude; those at the faint end are kept, where scores
# change.
_MAX_BINS = 9


def add_parser(commands):
    """Add this command to the parser."""
    summary = 'score a catalogue against the truth'
    parser = add_command(
        commands, 'evaluate', run, summary=summary, description=_DESCRIPTION
    )
    parser.add_argument('catalog', metavar='CATALOG', help='a table of detections')
    parser.add_argument('truth', metavar='TRUTH', help='a table of true sources')
    width = {
        'type': positive_float,
        'default': 0.5,
        'metavar': 'MAG',
        'help': 'width of a bin (default: %(default)g)',
    }
    output = {'metavar': 'TABLE', 'help': '.ecsv, .csv or .fits'}
    plot = {'help': 'draw the scores'}
    names = 'radius sky bin output plot overwrite quiet'
    add_options(parser, names, bin=width, output=output, plot=plot)


def run(options):
    """Match, score, print, write and draw."""
    import astropy.units as u

    check_paths(options, 'table', options.catalog, options.truth)
    catalog = read_sources(options.catalog, sky=options.sky)
    truth = read_sources(options.truth, sky=options.sky, truth=True)
    radius = options.radius * u.arcsec if options.sky else options.radius
    evaluation = Evaluation(catalog, truth, radius=radius, width=options.bin)
    if options.plot is not None and evaluation.scores is None:
        msg = '--plot needs magnitudes or fluxes in both tables'
        raise UsageError(msg)
    write_table(options, evaluation.table(), options.output)
    size = {'figsize': (11, 4.4), 'n_panels': 2}
    write_picture(options, lambda axes: evaluation.draw(*axes), options.plot, **size)
    print_table(evaluation.short_table())


class Evaluation:
    """
    A catalogue, matched with the truth and scored.

    Parameters
    ----------
    catalog, truth : `~astropy.table.QTable`
        Tables of `read_sources`, with positions, and ``mag`` where known.

    radius : float or `~astropy.units.Quantity`
        Largest distance of a pair, in pixels or as an angle.

    width : float, optional
        Width of a bin in magnitudes.

    Attributes
    ----------
    match : `~bliss_astro.metrics.CatalogMatch`
        Pairs.

    scores, residuals : `~bliss_astro.metrics.ScoreTable` or None
        Scores by magnitude; `None` without magnitudes.
    """

    def __init__(self, catalog, truth, *, radius=1.0, width=0.5):
        from bliss_astro import metrics

        self.match = metrics.match_catalogs(catalog, truth, radius=radius)
        self.scores = self.residuals = None
        if not all('mag' in table.colnames for table in (catalog, truth)):
            return
        mags = [
            np.asarray(getattr(t['mag'], 'value', t['mag']), float)
            for t in (catalog, truth)
        ]
        edges = _edges(np.concatenate(mags), width)
        if edges is None:
            return
        self.scores = metrics.detection_scores(
            self.match, edges, estimated=mags[0], truth=mags[1]
        )
        self._by, true = self.match.pairs(*mags)
        self._relative = 10 ** (-0.4 * (self._by - true)) - 1
        self.residuals = metrics.summarize_residuals(self._relative, edges, by=self._by)

    def table(self):
        """Return all scores: a row for each bin of magnitude, the last for all."""
        from astropy.table import QTable, vstack

        from bliss_astro.metrics import detection_scores, summarize_residuals

        empty = np.full(self.match.n_estimated, np.nan)
        true = np.full(self.match.n_truth, np.nan)
        parts = [(detection_scores(self.match, estimated=empty, truth=true), None)]
        if self.scores is not None:
            parts[0] = parts[0][0], summarize_residuals(self._relative)
            parts.insert(0, (self.scores, self.residuals))
        tables = []
        for scores, summary in parts:
            table = QTable(scores, meta={})
            if summary is not None:
                for name in ('median', 'median_err'):
                    table[f'flux_{name}'] = summary[name].data
                table['flux_sigma'] = summary['robust_sigma'].data
            table.rename_columns(['low', 'high'], ['mag_low', 'mag_high'])
            table.meta.clear()
            tables.append(table)
        table = vstack(tables)
        table.meta['rows'] = 'bins of magnitude; the last row is all sources'
        return table

    def short_table(self):
        """Return the scores as a person reads them."""
        from astropy.table import Table

        table = self.table()
        names = [f'{row["mag_low"]:.4g} to {row["mag_high"]:.4g}' for row in table]
        shown = Table({'magnitude': [*names[:-1], 'all'], 'true': table['n_truth']})
        shown['recall'] = _write(table['recall'], '.3f')
        shown['detected'] = table['n_estimated']
        shown['precision'] = _write(table['precision'], '.3f')
        if 'flux_median' in table.colnames:
            shown['flux bias'] = _write(100 * table['flux_median'], '+.1f', ' %')
            shown['flux scatter'] = _write(100 * table['flux_sigma'], '.1f', ' %')
        return shown

    def draw(self, first, second):
        """Draw the scores and the residuals of fluxes on two axes."""
        self.scores.plot(ax=first)
        second.axhline(0, color='0.3', lw=0.9, zorder=1)
        quartiles = [self.residuals['q25'], self.residuals['q75']]
        reach = np.nanmax(np.abs(quartiles), initial=0.1)
        second.set_ylim(-2.5 * reach, 2.5 * reach)
        points = {'by': self._by, 'residuals': self._relative}
        self.residuals.plot(ax=second, xlabel='Estimated magnitude', **points)
        # The first bin may be wide, and its scores are close to 1.
        low, high = self.scores['low'][0], self.scores['high']
        for axes in (first, second):
            axes.set_xlim(max(low, high[0] - 2), high[-1])


def _write(values, form, unit=''):
    """Write numbers, with a dash for those that are not known."""
    return [f'{v:{form}}{unit}' if np.isfinite(v) else '-' for v in np.asarray(values)]


def _edges(mags, width):
    """Choose edges: a few bins at the faint end, the first with all brighter ones."""
    mags = mags[np.isfinite(mags)]
    if not len(mags):
        return None
    low, high = np.floor(mags.min() / width), np.ceil(mags.max() / width)
    high = max(high, low + 1)
    n = int(min(high - low, _MAX_BINS))
    edges = (high - n + np.arange(n + 1)) * width
    edges[0] = min(edges[0], low * width)
    return edges
