# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Survey: the results of a run over many fields, done or still going.
"""

import json
import shutil
from pathlib import Path

import astropy.units as u
import numpy as np

from bliss_astro._arguments import check_integer, check_rng, counted
from bliss_astro._warnings import warn

from . import _counts, _report
from ._done import Field, Fields, read_records
from ._hats import catalog_of, is_current, write_hats
from ._maps import plot_map, survey_maps, write_map
from ._merge import merged
from ._sky import Region
from ._table import row_of, table_of

# Why fields that were worked on are left out, by their status.
_LEFT_OUT = {
    'other encoder': 'of another encoder',
    'damaged': 'whose record is damaged',
}


def open_survey(folder):
    """
    Open the results of a run over many fields.

    Parameters
    ----------
    folder : str or `~os.PathLike`
        Folder of the run. It may be going on: what is done so far is opened.

    Returns
    -------
    survey : `Survey`
        Fields, rows, counts and maps.

    Raises
    ------
    FileNotFoundError
        If the folder is none of a run.

    Examples
    --------
    >>> from bliss_astro.runs import open_survey
    >>> survey = open_survey('sdss-r')  # doctest: +SKIP
    >>> survey.cone(SkyCoord.from_name('M13'), 5 * u.arcmin)  # doctest: +SKIP
    """
    folder = Path(folder).expanduser()
    try:
        run = json.loads((folder / 'run.json').read_text())
    except (OSError, ValueError) as error:
        msg = f'folder must be that of a run, with its run.json; got {folder} ({error})'
        raise FileNotFoundError(msg) from error
    return Survey(folder, run)


class Survey:
    """
    Results of a run over many fields, made by `open_survey` or `run_survey`.

    Attributes
    ----------
    path : `~pathlib.Path`
        Folder of the run.

    run : dict
        Provenance: encoder with its hash, versions, options, date.

    fields : `~astropy.table.QTable`
        A row a field: ``field`` (its id), ``status`` (``'done'``, ``'failed'``,
        ``'damaged'``, ``'other encoder'``) and the ``reason`` of the last ones;
        ``on_sky``, whether it has a place in the catalogue and maps; ``ra``, ``dec`` of
        its middle; ``seconds``, ``n_rows``, ``expected_count``, ``area``, ``depth``
        (AB magnitude, or flux, at a signal-to-noise ratio of 5), ``fwhm``.

    Notes
    -----
    Where fields overlap, each position belongs to one of them, and a source has one
    row: see :ref:`survey_duplicates`. Fields without a WCS have no place on the sky:
    their rows are in ``fields/ID.parquet`` alone.
    """

    def __init__(self, folder, run):
        self.path, self.run = folder, run
        self.refresh()

    def refresh(self):
        """Read again what is done, of a run that is going on."""
        lines, fields, off = [], [], {}
        for record in read_records(self.path, self.run):
            on_sky = False
            if record['status'] in _LEFT_OUT:
                off.setdefault(record['status'], []).append(record['field'])
            elif record['status'] == 'done':
                field = Field(self.path, record)
                if on_sky := field.sky is not None:
                    fields.append(field)
            lines.append(row_of(record) | {'on_sky': on_sky})
        for status, names in off.items():
            warn(
                f'the survey in {self.path} leaves out {counted(len(names), "field")} '
                f'{_LEFT_OUT[status]}: {", ".join(names[:3])}'
                f'{" ..." * (len(names) > 3)}'
            )
        self._on_sky = Fields(fields)
        self.fields = table_of(lines, on_sky=bool)

    def __repr__(self):
        counts = {}
        for status in self.fields['status']:
            counts[str(status)] = counts.get(str(status), 0) + 1
        parts = [f'{n} fields {status}' for status, n in sorted(counts.items())]
        done = self.fields[self.fields['status'] == 'done']
        if len(done):
            parts.append(f'{np.sum(done["n_rows"])} rows')
            area = np.nansum(done['area'].to_value(u.deg**2))
            parts.append(f'{area:.3g} deg2' if area else 'no WCS')
        if missing := int(np.sum(~done['on_sky'])):
            parts.append(f'{missing} without a place on the sky')
        encoder = self.run.get('encoder')
        return f'<Survey {self.path}: {", ".join(parts)}, encoder "{encoder}">'

    def cone(self, center, radius):
        """
        Sources in a circle.

        Parameters
        ----------
        center : `~astropy.coordinates.SkyCoord`
            Centre.

        radius : `~astropy.units.Quantity`
            Radius, an angle.

        Returns
        -------
        catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
            Primary rows with the ``field`` of each, ``n_fields`` that list the source,
            and ``other_rows``, the others. Positions in pixels are those of the field.
        """
        return self.rows((center, radius))

    def rows(self, region=None):
        """
        Sources in a region, as `cone`.

        Parameters
        ----------
        region : optional
            As for `expected_counts`.

        Returns
        -------
        catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
            Primary rows, read into memory.
        """
        region, fields = Region.of(region), self._fields()
        mean, variance = _counts.moments(fields, region)
        count = [float(mean), float(np.sqrt(variance))]
        return catalog_of(merged(fields, region), self.run, expected_count=count)

    def expected_counts(self, region=None):
        """
        Expected number of sources above the flux floor in a region.

        Parameters
        ----------
        region : optional
            A pair of centre and radius, a `~astropy.coordinates.SkyCoord` of three or
            more corners, a region of the sky of the package ``regions``, a MOC, or
            `None` for all.

        Returns
        -------
        count : float
            Mean of the number: rows with their probability, and sources that are too
            faint for a row by the area of cells of 32 pixels.
        """
        return float(_counts.moments(self._fields(), Region.of(region))[0])

    def expected_counts_error(self, region=None):
        """
        Standard deviation of the number of sources in a region.

        Parameters
        ----------
        region : optional
            As for `expected_counts`.

        Returns
        -------
        error : float
            One sigma.
        """
        return float(np.sqrt(_counts.moments(self._fields(), Region.of(region))[1]))

    def sample(self, n=1, region=None, rng=None):
        """
        Draw catalogues of a region, those too faint for a row included.

        Parameters
        ----------
        n : int, optional
            Number of catalogues.

        region : optional
            As for `expected_counts`.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        catalogs : list of `~astropy.table.QTable`
            Each with ``sky_centroid``, ``flux`` in the reference band, ``is_galaxy``
            where the encoder infers types, and ``listed``, whether the source has a
            row; brightest first. Sources are independent of each other here; joint
            draws of a field need its image (`CatalogPosterior.sample
            <bliss_astro.catalog.CatalogPosterior.sample>`).
        """
        n = check_integer('n', n, error=ValueError)
        region = Region.of(region)
        return _counts.draw(self._fields(), region, n, check_rng(rng))

    def write_catalog(self, *, max_rows=200_000):
        """
        Write the primary rows of all fields in the HATS layout.

        Parameters
        ----------
        max_rows : int, optional
            Number of rows from which on a partition is split.

        Returns
        -------
        path : `~pathlib.Path`
            Folder ``catalog`` of the run, replaced as a whole.
        """
        path = self.path / 'catalog'
        write_hats(self._fields(), path, self.run, max_rows=max_rows)
        return path

    def catalog(self):
        """
        All primary rows, lazily.

        The catalogue in the HATS layout is made first if it is not there, or lacks
        fields that are done.

        Returns
        -------
        dataset : ``pyarrow.dataset.Dataset``
            Rows on disk: ``dataset.to_table(columns=..., filter=...)``. The folder
            ``catalog`` is opened by ``lsdb.open_catalog`` too.
        """
        from pyarrow import dataset

        path = self.path / 'catalog'
        if not is_current(self._fields(), path):
            self.write_catalog()
        return dataset.dataset(path / 'dataset')

    def maps(self, order=None):
        """
        Depth and completeness by HEALPix pixel.

        Parameters
        ----------
        order : int, optional
            Order of the nested grid; by default 12 (51 arcsec), or less for a large
            survey.

        Returns
        -------
        table : `~astropy.table.QTable`
            A row a pixel: ``pixel``; the ``share`` of it that fields cover; ``depth``,
            of several bands ``depth_g`` and so on: AB magnitude, or flux, of a star of
            a signal-to-noise ratio of 5; ``expected`` sources per square arcmin, and
            ``listed``, the share of them that have a row; ``limit_50``, ``limit_90``:
            where the completeness is 50 and 90 %. ``meta`` has the ``order``, and the
            ``completeness`` at fluxes in units of the depth, ``relative_flux``.
        """
        return survey_maps(self._fields(), order)

    def plot(self, column='depth', *, order=None, ax=None):
        """
        Draw a map.

        Parameters
        ----------
        column : str, optional
            Column of `maps`.

        order : int, optional
            As for `maps`.

        ax : `~matplotlib.axes.Axes`, optional
            Axes to draw into; by default the current ones.

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            The axes, of degrees from the middle of the survey.
        """
        return plot_map(self.maps(order), column, ax)

    def depth_map(self, order=None):
        """
        Write the map of the depth, ``depth.fits``.

        Parameters
        ----------
        order : int, optional
            As for `maps`.

        Returns
        -------
        path : `~pathlib.Path`
            HEALPix map in FITS, of the pixels that there are (``INDXSCHM`` explicit),
            nested, in equatorial coordinates.
        """
        return self._write_maps(order)[0]

    def completeness_map(self, order=None):
        """
        Write the map of the completeness, ``completeness.fits``, as `depth_map`.

        Its extension ``CURVE`` has the completeness by flux.
        """
        return self._write_maps(order)[1]

    def _write_maps(self, order):
        table, found = self.maps(order), []
        depths = [name for name in table.colnames if name.startswith('depth')]
        for name, columns in (
            ('depth', ['share', *depths]),
            ('completeness', ['expected', 'listed', 'limit_50', 'limit_90']),
        ):
            found.append(self.path / f'{name}.fits')
            write_map(table, columns, found[-1])
        return found

    def write(self):
        """
        Write all products on the sky: catalogue and maps of what is done so far.

        A run without any field on the sky has none, with a warning.
        """
        if not self._on_sky.all:
            # Those of fields that have failed since.
            shutil.rmtree(self.path / 'catalog', ignore_errors=True)
            for name in ('depth.fits', 'completeness.fits'):
                (self.path / name).unlink(missing_ok=True)
            warn(
                f'no field of {self.path} is done and on the sky: no catalogue and maps'
            )
            return
        # The catalogue last: where it is current, all is.
        self._write_maps(None)
        self.catalog()

    @property
    def is_written(self):
        """Whether the products on the sky are those of what is done."""
        return is_current(self._on_sky, self.path / 'catalog')

    report = _report.report

    def _fields(self):
        if not self._on_sky.all:
            msg = f'no field of {self.path} with a place on the sky is done'
            raise ValueError(msg)
        self._on_sky.check()
        return self._on_sky
