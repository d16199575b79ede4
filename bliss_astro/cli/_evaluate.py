# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro evaluate``: a catalogue against the truth.
"""

import numpy as np

from ._shared import (
    UsageError,
    add_overwrite,
    check_inputs,
    check_outputs,
    check_picture_path,
    check_table_path,
    positive_float,
    print_table,
    save_picture,
    status,
)

__all__ = ['Evaluation', 'add_parser', 'run']

# Bins below this many are taken at the faint end, where scores change.
_MOST_BINS = 9


def add_parser(commands):
    """
    Add this command to the parser.
    """
    parser = commands.add_parser(
        'evaluate',
        help='score a catalogue against the truth',
        description='Match a catalogue one to one with the truth (or with a better '
        'catalogue) and print recall, precision and flux residuals by magnitude. '
        'TRUTH may be a table or an image of "bliss-astro simulate".',
    )
    parser.add_argument('catalog', metavar='CATALOG', help='a table of detections')
    parser.add_argument('truth', metavar='TRUTH', help='a table of what is there')
    parser.add_argument(
        '--radius',
        type=positive_float,
        default=1.0,
        metavar='R',
        help='largest distance of a pair, in pixels, or in arcsec with --sky '
        '(default: %(default)g)',
    )
    parser.add_argument(
        '--sky', action='store_true', help='match on the sky instead of in pixels'
    )
    parser.add_argument(
        '--bin',
        type=positive_float,
        default=0.5,
        metavar='MAG',
        help='width of a bin (default: %(default)g)',
    )
    parser.add_argument('-o', '--output', metavar='TABLE', help='.ecsv, .csv or .fits')
    parser.add_argument('--plot', metavar='PICTURE', help='draw the scores')
    add_overwrite(parser)
    parser.set_defaults(run=run)


def run(options):
    """
    Match, score, print, write and draw.
    """
    import astropy.units as u

    check_table_path(options.output)
    check_picture_path(options.plot)
    check_inputs(options.catalog, options.truth)
    check_outputs(
        options.output,
        options.plot,
        overwrite=options.overwrite,
        inputs=(options.catalog, options.truth),
    )
    from ._tables import read_sources

    catalog = read_sources(options.catalog, sky=options.sky)
    truth = read_sources(options.truth, sky=options.sky, truth=True)
    radius = options.radius * u.arcsec if options.sky else options.radius
    evaluation = Evaluation(catalog, truth, radius=radius, width=options.bin)
    if options.plot is not None and evaluation.scores is None:
        msg = '--plot needs magnitudes or fluxes in both tables'
        raise UsageError(msg)
    table = evaluation.table()
    if options.output is not None:
        _write(table, options.output, overwrite=options.overwrite)
        status(options, f'wrote {options.output}')
    if options.plot is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.4), layout='constrained')
        evaluation.draw(*figure.subplots(1, 2))
        save_picture(figure, options.plot, overwrite=options.overwrite)
        status(options, f'wrote {options.plot}')
    print_table(evaluation.short_table())


def _write(table, path, *, overwrite):
    """
    Write a table of results, whole or not at all.
    """
    from bliss_astro._atomic import atomic_write

    formats = {'ecsv': 'ascii.ecsv', 'csv': 'ascii.csv', 'fits': 'fits'}
    formats |= {'txt': 'ascii.fixed_width', 'tex': 'ascii.latex', 'html': 'ascii.html'}
    ending = str(path).lower().rpartition('.')[2]
    with atomic_write(path, overwrite=overwrite) as temporary:
        table.write(temporary, format=formats[ending], overwrite=True)


class Evaluation:
    """
    A catalogue, matched with the truth and scored.

    Parameters
    ----------
    catalog, truth : `~astropy.table.QTable`
        With positions, and ``mag`` where known, as `read_sources` returns them.

    radius : float or `~astropy.units.Quantity`
        Largest distance of a pair, in pixels or as an angle.

    width : float, optional
        Width of a bin in magnitudes.

    Attributes
    ----------
    match : `~bliss_astro.metrics.CatalogMatch`
        The pairs.

    scores, residuals : table or None
        Tables (`~bliss_astro.metrics.ScoreTable`) by magnitude; `None` without
        magnitudes.
    """

    def __init__(self, catalog, truth, *, radius=1.0, width=0.5):
        from bliss_astro import metrics

        self.match = metrics.match_catalogs(catalog, truth, radius=radius)
        self.scores = self.residuals = None
        self._mags = (_magnitudes(catalog), _magnitudes(truth))
        if any(mag is None for mag in self._mags):
            return
        edges = _edges(np.concatenate(self._mags), width)
        if edges is None:
            return
        self.scores = metrics.detection_scores(
            self.match, edges, estimated=self._mags[0], truth=self._mags[1]
        )
        pairs = (self.match.estimated_index, self.match.truth_index)
        difference = self._mags[0][pairs[0]] - self._mags[1][pairs[1]]
        self._relative = 10 ** (-0.4 * difference) - 1
        self._by = self._mags[0][pairs[0]]
        self.residuals = metrics.summarize_residuals(self._relative, edges, by=self._by)

    def table(self):
        """
        Return all scores: a row for each bin of magnitude, the last for all.
        """
        from astropy.table import QTable, vstack

        from bliss_astro.metrics import detection_scores, summarize_residuals

        empty = np.full(self.match.n_estimated, np.nan)
        true = np.full(self.match.n_truth, np.nan)
        whole = detection_scores(self.match, estimated=empty, truth=true)
        tables = []
        for scores in (self.scores, whole):
            if scores is None:
                continue
            table = QTable(scores)
            if self.residuals is not None:
                summary = self.residuals
                if scores is whole:
                    summary = summarize_residuals(self._relative)
                table['flux_median'] = summary['median'].data
                table['flux_median_err'] = summary['median_err'].data
                table['flux_sigma'] = summary['robust_sigma'].data
            table.rename_columns(['low', 'high'], ['mag_low', 'mag_high'])
            table.meta.clear()
            tables.append(table)
        table = vstack(tables, metadata_conflicts='silent')
        table.meta['rows'] = 'bins of magnitude; the last row is all sources'
        return table

    def short_table(self):
        """
        Return the scores as a person reads them.
        """
        from astropy.table import Table

        table = self.table()
        rows = []
        for k, row in enumerate(table):
            last = k == len(table) - 1
            low, high = float(row['mag_low']), float(row['mag_high'])
            shown = {
                'magnitude': 'all' if last else f'{low:.4g} to {high:.4g}',
                'true': int(row['n_truth']),
                'recall': _share(row['recall']),
                'detected': int(row['n_estimated']),
                'precision': _share(row['precision']),
            }
            if 'flux_median' in table.colnames:
                shown['flux bias'] = _percent(row['flux_median'], sign='+')
                shown['flux scatter'] = _percent(row['flux_sigma'])
            rows.append(shown)
        return Table(rows)

    def draw(self, first, second):
        """
        Draw the scores and the residuals of fluxes.

        Parameters
        ----------
        first, second : `~matplotlib.axes.Axes`
            Where to.
        """
        from bliss_astro.plotting import plot_precision_recall, plot_residuals

        for axes in (first, second):
            axes.grid(alpha=0.25, lw=0.6)
        first.set_ylim(0, 1.03)
        plot_precision_recall(self.scores, ax=first)
        second.axhline(0, color='0.3', lw=0.9, zorder=1)
        reach = np.nanmax(
            np.abs([self.residuals['q25'], self.residuals['q75']]), initial=0.1
        )
        second.set_ylim(-2.5 * reach, 2.5 * reach)
        plot_residuals(
            self.residuals,
            ax=second,
            by=self._by,
            residuals=self._relative,
            xlabel='Estimated magnitude',
        )
        # The first bin may be wide, and holds nothing to see but perfection.
        low, high = self.scores['low'][0], self.scores['high']
        for axes in (first, second):
            axes.set_xlim(max(low, high[0] - 2), high[-1])


def _share(value):
    return '-' if not np.isfinite(value) else f'{value:.3f}'


def _percent(value, sign=''):
    return '-' if not np.isfinite(value) else f'{100 * value:{sign}.1f} %'


def _magnitudes(table):
    """
    Return the magnitudes of a table, or `None`.
    """
    if 'mag' not in table.colnames:
        return None
    mag = table['mag']
    return np.asarray(getattr(mag, 'value', mag), dtype=float)


def _edges(mags, width):
    """
    Choose edges: a few bins at the faint end, the first with all brighter ones.
    """
    mags = mags[np.isfinite(mags)]
    if not len(mags):
        return None
    low, high = np.floor(mags.min() / width), np.ceil(mags.max() / width)
    high = max(high, low + 1)
    n = int(min(high - low, _MOST_BINS))
    edges = (high - n + np.arange(n + 1)) * width
    edges[0] = min(edges[0], low * width)
    return edges
