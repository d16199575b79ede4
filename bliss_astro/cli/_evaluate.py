# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro evaluate``: scores of a catalogue against the truth.
"""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table, vstack
from astropy.utils.exceptions import AstropyWarning

from bliss_astro._fits import open_fits
from bliss_astro._warnings import collect_warnings
from bliss_astro.catalog._columns import plain_numbers
from bliss_astro.exposures._header import parse_unit
from bliss_astro.units import NANOMAGGY_ZERO_POINT, flux_to_magnitude

from ._files import UsageError, check_paths, print_table, write_results

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


def run(options):
    """
    Score a catalogue against the truth.

    Match a catalogue one to one with the truth (or with a better catalogue) and print
    recall, precision and flux residuals by magnitude. TRUTH may be a table or an image
    of "bliss-astro simulate".
    """
    check_paths(options, 'table', options.catalog, options.truth)
    catalog = read_sources(options.catalog, sky=options.sky)
    truth = read_sources(options.truth, sky=options.sky, truth=True)
    radius = options.radius * u.arcsec if options.sky else options.radius
    evaluation = Evaluation(catalog, truth, radius=radius, width=options.bin)
    if options.plot is not None and evaluation.scores is None:
        msg = '--plot needs magnitudes or fluxes in both tables'
        raise UsageError(msg)
    draw = {'draw': lambda axes: evaluation.draw(*axes), 'figsize': (11, 4.4)}
    write_results(options, evaluation.table, **draw, n_panels=2)
    print_table(evaluation.short_table())


COMMANDS = {
    'evaluate': (
        run,
        'catalog truth radius sky bin:scores',
        'output:table plot overwrite quiet',
    ),
}


class Evaluation:
    """
    A catalogue, matched with the truth and scored; tables as of `read_sources`.

    ``table`` has a row for each bin of magnitude, of a ``width``, the last for all;
    without magnitudes ``scores`` and ``residuals`` by bin are `None`.
    """

    def __init__(self, catalog, truth, *, radius=1.0, width=0.5):
        from bliss_astro.metrics import (
            detection_scores,
            match_catalogs,
            summarize_residuals,
        )

        match = match_catalogs(catalog, truth, radius=radius)
        self.scores = self.residuals = edges = None
        tables = [t for t in (catalog, truth) if 'mag' in t.colnames]
        mags = [plain_numbers(t['mag']) for t in tables]
        if len(mags) == 2:
            edges = _edges(np.concatenate(mags), width)
        nothing = {'estimated': np.full(match.n_estimated, np.nan)}
        nothing['truth'] = np.full(match.n_truth, np.nan)
        whole = _row(detection_scores(match, **nothing))
        if edges is not None:
            given = {'estimated': mags[0], 'truth': mags[1]}
            self.scores = detection_scores(match, edges, **given)
            self._by, true = match.pairs(*mags)
            self._relative = 10 ** (-0.4 * (self._by - true)) - 1
            self.residuals = summarize_residuals(self._relative, edges, by=self._by)
            rest = summarize_residuals(self._relative)
            whole = vstack([_row(self.scores, self.residuals), _row(whole, rest)])
        self.table = whole
        self.table.rename_columns(['low', 'high'], ['mag_low', 'mag_high'])
        self.table.meta['rows'] = 'bins of magnitude; the last row is all sources'

    def short_table(self):
        """Return the scores as a person reads them."""
        table = self.table
        names = [f'{row["mag_low"]:.4g} to {row["mag_high"]:.4g}' for row in table]
        shown = Table({'magnitude': [*names[:-1], 'all'], 'true': table['n_truth']})
        shown['recall'] = _write(table['recall'], '.3f')
        shown['detected'] = table['n_estimated']
        shown['precision'] = _write(table['precision'], '.3f')
        if self.residuals is not None:
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
        self.residuals.plot(ax=second, **points).set_xlabel('Estimated magnitude')
        # The first bin may be wide, and its scores are close to 1.
        low, high = self.scores['low'][0], self.scores['high']
        for axes in (first, second):
            axes.set_xlim(max(low, high[0] - 2), high[-1])


def _row(scores, residuals=None):
    """Table of scores with the residuals of fluxes beside them."""
    table = QTable(scores, meta={})
    table.meta.clear()
    if residuals is not None:
        for name in ('median', 'median_err', 'robust_sigma'):
            table[f'flux_{name.removeprefix("robust_")}'] = residuals[name].data
    return table


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
    table = None
    if path.lower().endswith(_FITS_ENDINGS):
        table = _read_truth(path, truth=truth)
    if table is None:
        table = _read_table(path)
    for name, others in _ALIASES.items():
        for other in others:
            if name not in table.colnames and other in table.colnames:
                table.rename_column(other, name)
    _check_positions(table, path, sky=sky)
    if 'mag' not in table.colnames and 'flux' in table.colnames:
        table['mag'] = _magnitude(table['flux'])
    return table


def _read_truth(path, *, truth):
    """Read the stars of a simulated image; `None` of another file."""
    from bliss_astro.simulation._images import is_simulated, read_simulated

    with open_fits(path, 'TRUTH' if truth else 'CATALOG') as hdus:
        if not is_simulated(hdus):
            return None
        if truth:
            return read_simulated(hdus)[1]
    msg = (
        f'CATALOG {path} is a simulated image, which can only be the TRUTH: the '
        'detections come first'
    )
    raise ValueError(msg)


def _read_table(path):
    """Read a catalogue of this package, or any table that astropy reads."""
    from bliss_astro.catalog import ProbabilisticCatalog

    try:
        return QTable(ProbabilisticCatalog.read(path, posterior=False), copy=False)
    except (OSError, ValueError):
        pass
    try:
        # Units beyond the FITS standard are dealt with by name, and the first of
        # several tables is taken.
        with collect_warnings(AstropyWarning):
            return QTable.read(path)
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise ValueError(f'{path} cannot be read as a table: {reason}') from error


def _check_positions(table, path, *, sky):
    """Check the columns that are matched, or make the sky positions."""
    has = f'it has {", ".join(table.colnames)}'
    if not sky:
        missing = {'x_centroid', 'y_centroid'} - set(table.colnames)
        if missing:
            missing = ' and '.join(sorted(missing))
            msg = f'{path} has no columns {missing}; {has} (--sky matches on the sky)'
            raise ValueError(msg)
        return
    if isinstance(table.columns.get('sky_centroid'), SkyCoord):
        return
    names = {name.lower(): name for name in table.colnames}
    if not {'ra', 'dec'} <= set(names):
        raise ValueError(f'{path} has neither sky_centroid nor ra and dec; {has}')
    angles = [table[names[name]] for name in ('ra', 'dec')]
    units = [getattr(angle, 'unit', None) or u.deg for angle in angles]
    table['sky_centroid'] = SkyCoord(*map(plain_numbers, angles), unit=units)


def _magnitude(flux):
    """Convert fluxes to magnitudes; NaN where they are not positive."""
    unit = getattr(flux, 'unit', None)
    values, zero_point = plain_numbers(flux), 0.0
    if isinstance(unit, u.UnrecognizedUnit):
        try:
            unit = parse_unit(unit.to_string())
        except ValueError:
            unit = None
    if unit == u.electron:
        from bliss_astro.simulation._simulator import ELECTRONS_PER_NMGY

        values, zero_point = values / ELECTRONS_PER_NMGY, NANOMAGGY_ZERO_POINT
    elif unit is not None and unit.is_equivalent(u.ABflux):
        values, zero_point = (values * unit).to_value(u.nmgy), NANOMAGGY_ZERO_POINT
    with np.errstate(invalid='ignore', divide='ignore'):
        mag = flux_to_magnitude(values, zero_point)
    return np.where(np.isfinite(mag), mag, np.nan)
