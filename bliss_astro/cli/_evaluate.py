# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro evaluate``: scores of a catalogue against the truth.
"""

import numpy as np

from bliss_astro.units import NANOMAGGY_ZERO_POINT, flux_to_magnitude

from ._options import add_command, add_options, positive_float
from ._output import UsageError, check_paths, print_table, write_picture, write_table

__all__ = ['Evaluation', 'add_parser', 'run']

_DESCRIPTION = """\
Match a catalogue one to one with the truth (or with a better catalogue) and print
recall, precision and flux residuals by magnitude. TRUTH may be a table or an image of
"bliss-astro simulate".
"""

# Names of the columns in other programs.
_ALIASES = {
    'x_centroid': ('xcentroid', 'x', 'x_fit', 'X_IMAGE'),
    'y_centroid': ('ycentroid', 'y', 'y_fit', 'Y_IMAGE'),
    'flux': ('flux_fit', 'FLUX_AUTO'),
    'mag': ('magnitude', 'MAG_AUTO'),
}
_FITS_ENDINGS = ('.fits', '.fit', '.fits.gz', '.fit.gz', '.fits.bz2', '.fit.bz2')

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


# -- tables of sources ---------------------------------------------------------------


def read_sources(path, *, sky=False, truth=False):
    """
    Read a table of sources: a catalogue, any table, or for the truth a simulated image.

    It has ``x_centroid`` and ``y_centroid`` or ``sky_centroid``, and ``mag`` if the
    file has magnitudes or fluxes: AB for calibrated fluxes and for electrons
    (987.31 electrons per nanomaggy), else ``-2.5 log10(flux)``.
    """
    table = _read(path, truth=truth)
    for name, others in _ALIASES.items():
        for other in others:
            if name not in table.colnames and other in table.colnames:
                table.rename_column(other, name)
    _check_positions(table, path, sky=sky)
    if 'mag' not in table.colnames and 'flux' in table.colnames:
        table['mag'] = _magnitude(table['flux'])
    return table


def _read(path, *, truth):
    """Read a table of any kind."""
    from astropy.table import QTable

    from bliss_astro.catalog import ProbabilisticCatalog

    is_fits = str(path).lower().endswith(_FITS_ENDINGS)
    if is_fits and (simulated := _read_truth(path, truth=truth)) is not None:
        return simulated
    try:
        return QTable(ProbabilisticCatalog.read(path, posterior=False), copy=False)
    except (OSError, ValueError):
        # Not of this package; astropy reads many more.
        pass
    try:
        return _read_fits(path) if is_fits else QTable.read(path)
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        msg = f'{path} cannot be read as a table: {reason}'
        raise ValueError(msg) from error


def _read_truth(path, *, truth):
    """Read the stars of a simulated image; `None` of another file."""
    from bliss_astro._fits import open_fits
    from bliss_astro.simulation._files import is_simulated, read_simulated

    with open_fits(path, 'TRUTH' if truth else 'CATALOG') as hdus:
        if not is_simulated(hdus):
            return None
        if truth:
            return read_simulated(hdus)[1]
        msg = (
            f'CATALOG {path} is a simulated image, which can only be the TRUTH: '
            'the detections come first'
        )
        raise ValueError(msg)


def _read_fits(path):
    """Read the first table of a FITS file."""
    from astropy.io import fits
    from astropy.table import QTable
    from astropy.units import UnitsWarning

    from bliss_astro._warnings import collect_warnings

    with fits.open(path) as hdus, collect_warnings(UnitsWarning):
        # Units beyond the FITS standard are dealt with by name.
        for hdu in hdus:
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                return QTable.read(hdu)
    msg = 'it holds no table'
    raise ValueError(msg)


def _check_positions(table, path, *, sky):
    """Check the columns that are matched, or make the sky positions."""
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    if not sky:
        missing = {'x_centroid', 'y_centroid'} - set(table.colnames)
        if missing:
            msg = (
                f'{path} has no columns {" and ".join(sorted(missing))}; it has '
                f'{", ".join(table.colnames)} (--sky matches on the sky)'
            )
            raise ValueError(msg)
        return
    if isinstance(table.columns.get('sky_centroid'), SkyCoord):
        return
    names = {name.lower(): name for name in table.colnames}
    if not {'ra', 'dec'} <= set(names):
        msg = (
            f'{path} has neither sky_centroid nor ra and dec; it has '
            f'{", ".join(table.colnames)}'
        )
        raise ValueError(msg)
    angles = (
        u.Quantity(np.asarray(getattr(c, 'value', c), float), getattr(c, 'unit', u.deg))
        for c in (table[names['ra']], table[names['dec']])
    )
    table['sky_centroid'] = SkyCoord(*(u.Quantity(a, u.deg) for a in angles))


def _magnitude(flux):
    """Convert fluxes to magnitudes; NaN where they are not positive."""
    import astropy.units as u

    unit = getattr(flux, 'unit', None)
    values = np.asarray(getattr(flux, 'value', flux), dtype=float)
    if isinstance(unit, u.UnrecognizedUnit):
        # Nanomaggies are no unit of FITS, but one of astropy.
        name = unit.to_string().replace('nanomaggy', 'nmgy')
        unit = u.Unit(name, parse_strict='silent')
    zero_point = 0.0
    if unit == u.electron:
        from bliss_astro.simulation._simulator import ELECTRONS_PER_NMGY

        values, zero_point = values / ELECTRONS_PER_NMGY, NANOMAGGY_ZERO_POINT
    elif unit is not None and unit.is_equivalent(u.ABflux):
        values, zero_point = (values * unit).to_value(u.nmgy), NANOMAGGY_ZERO_POINT
    with np.errstate(invalid='ignore', divide='ignore'):
        mag = flux_to_magnitude(values, zero_point)
    return np.where(np.isfinite(mag), mag, np.nan)
