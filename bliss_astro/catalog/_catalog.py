# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogue of sources: a table with probabilities, errors, flags and a posterior.
"""

import numpy as np
from astropy.table import QTable

from bliss_astro.flags import decode_flags

from ._build import make_columns
from ._columns import REQUIRED_COLUMNS, SHAPE_NAMES
from ._display import CatalogColumns, CatalogFormatter, headline
from ._intervals import credible_interval, samples
from ._io import read, write
from ._meta import (
    ImageRecord,
    default_meta,
    header_to_wcs,
    make_record,
    plain_value,
    restore_meta,
)
from ._methods import check, plot, reconstruct, to_regions
from ._rendering import render, segmentation
from ._shapes import explain_no_shapes, pixel_scale

__all__ = ['ProbabilisticCatalog']


class ProbabilisticCatalog(QTable):
    """
    A table of sources, each with its probability and its errors.

    A row is a source that the posterior of an image holds for more probable
    than the threshold. The columns are marginals of that posterior; the
    joint posterior itself is `posterior`, which belongs to the image and not
    to the rows.

    Make one with `~bliss_astro.detection.detect_sources`, `from_columns` or
    `read`. The constructor is that of `~astropy.table.QTable`, and whatever a
    `~astropy.table.QTable` can do this class can do. Rows that are sliced,
    masked or sorted, and copies, stay a catalogue of the same image.

    Selecting columns gives a `CatalogColumns`, a `~astropy.table.QTable` that
    prints alike, when a column that makes a catalogue is left out. Stacking rows
    of several images with `~astropy.table.vstack` keeps all columns but drops what
    belongs to one image (the posterior, the WCS, the expected count) with a
    `~bliss_astro.PosteriorDroppedWarning`; stacking parts of one catalogue
    keeps it.

    Notes
    -----
    The columns are

    ================================ ==========================================
    ``id``                           running number, from 1, brightest first
    ``probability``                  posterior probability of a source there
    ``x_centroid``, ``y_centroid``   position in pixels (plain numbers)
    ``x_err``, ``y_err``             their standard errors
    ``x_y_cov``                      their covariance
    ``sky_centroid``                 `~astropy.coordinates.SkyCoord`, ICRS;
                                     with a WCS only
    ``flux``, ``flux_err``           median of the posterior, and half the
                                     width between its 16 and 84 % quantiles
    ``mag``, ``mag_err``             AB magnitude; where the unit has one
    ``disk_fraction``, ...           shapes of galaxies, each with its error
                                     (``disk_fraction_err``, ...), where the
                                     encoder infers them, see :ref:`shapes`
    ``flags``                        sum of `~bliss_astro.flags.CatalogFlag`
                                     bits
    ``source_index``                 index of the source in the posterior, which
                                     links rows to it; not displayed
    ================================ ==========================================

    and each has a description (``cat['flux'].info.description``) and a UCD
    (``cat['flux'].info.meta['ucd']``). ``meta`` holds ``date``, ``version``,
    whatever made the table wrote there (``threshold``, ``encoder``,
    ``encoder_sha256``), and ``image``: facts about the image.

    Examples
    --------
    >>> import astropy.units as u
    >>> from bliss_astro.catalog import ProbabilisticCatalog
    >>> cat = ProbabilisticCatalog.from_columns(
    ...     {'probability': [0.98, 0.61], 'x_centroid': [4.2, 30.1],
    ...      'y_centroid': [10.0, 21.7], 'x_err': [0.1, 0.4],
    ...      'y_err': [0.1, 0.4], 'flux': [3.0, 11.0], 'flux_err': [0.4, 0.3]},
    ...     unit=u.nmgy, image_shape=(40, 50), meta={'threshold': 0.5})
    >>> cat['flux']
    <Quantity [11., 3.] nmgy>
    >>> cat['mag']
    <Quantity [19.89651829, 21.30719686] mag>
    >>> cat[cat['probability'] > 0.9]
    <ProbabilisticCatalog: 1 of 2 sources above p = 0.5, image 50 x 40 px>
    ...
    """

    TableFormatter = CatalogFormatter

    @classmethod
    def from_columns(
        cls,
        columns,
        *,
        wcs=None,
        unit=None,
        posterior=None,
        meta=None,
        image_shape=None,
        expected_count=None,
    ):
        """
        Make a catalogue from arrays, one element per source, in any order.

        Parameters
        ----------
        columns : mapping of str to array_like or `~astropy.units.Quantity`
            Must hold ``probability``, ``x_centroid``, ``y_centroid``,
            ``x_err``, ``y_err``, ``flux`` and ``flux_err``, each 1-D of one
            length (which may be 0). May hold ``x_y_cov`` (default 0),
            ``flags`` (default 0) and ``id`` (default: numbered from 1,
            brightest first), and the shapes of galaxies, see
            :ref:`shapes`: radii as quantities in pixels or an angular unit
            (plain numbers are pixels), which become arcsec with a ``wcs``,
            and angles (plain numbers are degrees); NaN where unknown. Further
            columns are appended as they are; one named ``<column>_samples`` of
            shape (n_sources, n_samples) is taken for posterior draws of
            that column. Fluxes are all quantities or all plain numbers,
            the others plain numbers.

        wcs : WCS object or `None`, optional
            Celestial WCS of the image; adds ``sky_centroid``.

        unit : unit-like or `None`, optional
            Unit of the fluxes. Fluxes that are quantities are converted to
            it. `None` takes the unit that ``columns['flux']`` has, if any.

        posterior : object or `None`, optional
            The posterior of the image.

        meta : mapping or `None`, optional
            Values to store in ``meta``, next to ``date`` and ``version``: plain
            values, which every file format can hold. ``meta['image']`` may
            be a mapping of further facts about the image. Prefer that for
            lists, which stacking would concatenate elsewhere.

        image_shape : tuple of int or `None`, optional
            Shape (ny, nx) of the image.

        expected_count : float or tuple of float, optional
            Number of sources in the image that the posterior expects, or its
            mean and standard deviation.

        Returns
        -------
        catalog : `ProbabilisticCatalog`
            The table, sorted by flux, brightest first.

        Raises
        ------
        TypeError
            If ``columns`` is no mapping, a column is not numeric or ``meta``
            holds what no file can store.

        ValueError
            If columns are missing, are of different length or hold values
            out of range, or if ``wcs`` is not celestial.
        """
        meta = dict(meta or {})
        image = meta.pop('image', {})
        made = make_columns(columns, wcs=wcs, unit=unit)
        if wcs is not None and not SHAPE_NAMES.isdisjoint(made):
            # Not every WCS can be kept, and without it arcsec are not pixels.
            image = {'pixel_scale': pixel_scale(wcs), **image}
        catalog = cls(made, copy=False)
        catalog.meta.update(default_meta())
        catalog.meta.update(restore_meta(plain_value(meta)))
        catalog.meta['image'] = make_record(
            len(catalog),
            posterior=posterior,
            wcs=wcs,
            unit=getattr(catalog['flux'], 'unit', None),
            image_shape=image_shape,
            expected_count=expected_count,
            extra=image,
        )
        return catalog

    @property
    def image(self):
        """
        Facts about the image: a read-only mapping.

        Its keys may be ``'uid'``, ``'n_sources'``, ``'unit'``, ``'shape'``
        (ny, nx), ``'expected_count'``, ``'wcs'`` (a header string) and, with
        shapes, ``'pixel_scale'`` (arcsec); after stacking several images
        there is only ``'uids'``.
        """
        record = self.meta.get('image', {})
        return record if isinstance(record, ImageRecord) else ImageRecord(record)

    @property
    def posterior(self):
        """
        The posterior of the image that the rows come from, or `None`.

        It is shared by all slices and copies. It is `None` after stacking
        rows of several images and after reading a format that keeps rows
        only.
        """
        return self.image.posterior

    @posterior.setter
    def posterior(self, value):
        self.meta['image'] = self.image.replaced(posterior=value)

    @property
    def exposure(self):
        """
        The image that the rows were found in, with all that was estimated of it.

        The `~bliss_astro.exposures.Exposure` that was measured, or `None`: after
        reading a file, which does not keep it, after stacking rows of several
        images, and for catalogues that `~bliss_astro.detection.detect_sources` did
        not make.
        """
        return getattr(self.posterior, 'exposure', None)

    @property
    def wcs(self):
        """
        The WCS of the image, rebuilt from its header string, or `None`.
        """
        text = self.image.get('wcs')
        if text is None:
            return None
        return header_to_wcs(text, shape=self.image.get('shape'))

    def drop_posterior(self):
        """
        Free the posterior and the exposure of this table, in place.

        The table then costs its columns only. Copies and slices that were made before
        keep theirs.
        """
        self.posterior = None

    # Methods of the rows, of the rows against their image, and of files.
    credible_interval = credible_interval
    samples = samples
    check = check
    reconstruct = reconstruct
    render = render
    segmentation = segmentation
    plot = plot
    to_regions = to_regions
    write = write
    read = classmethod(read)

    def decode_flags(self):
        """
        Name the flags of all rows.

        Returns
        -------
        names : list of list of str
            For each row the names of the bits that are set.
        """
        return decode_flags(self['flags'])

    @property
    def flag_names(self):
        """
        The flags of each row as text: an array of str.

        Names of the bits that are set, joined by ``|`` (``'near_edge|saturated'``);
        empty where there is none.
        """
        return np.array(['|'.join(names) for names in self.decode_flags()], dtype=str)

    def __getitem__(self, item):
        try:
            return self._get_item(item)
        except KeyError:
            for name in item if isinstance(item, list | tuple) else [item]:
                if name in SHAPE_NAMES - set(self.colnames):
                    others = not SHAPE_NAMES.isdisjoint(self.colnames)
                    encoder = self.meta.get('encoder')
                    text = explain_no_shapes(name, encoder, others=others)
                    raise KeyError(text) from None
            raise

    def _get_item(self, item):
        names = isinstance(item, list | tuple) and all(
            isinstance(name, str) for name in item
        )
        if names and len(item) and not set(REQUIRED_COLUMNS) <= set(item):
            table = CatalogColumns(self, copy=False)[list(item)]
            if 'image' in table.meta:
                table.meta['image'] = dict(self.image)
            return table
        return super().__getitem__(item)

    def __str__(self):
        return f'{headline(self)}\n{super().__str__()}'

    def _base_repr_(self, html=False, descr_vals=None, show_dtype=True, **kwargs):
        if descr_vals is None:
            descr_vals = [headline(self)]
            show_dtype = False
        return super()._base_repr_(
            html=html, descr_vals=descr_vals, show_dtype=show_dtype, **kwargs
        )
