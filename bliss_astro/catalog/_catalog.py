# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogue of sources: the table with errors and flags, and the posterior of its image.
"""

import functools

import numpy as np
from astropy.table import QTable

from bliss_astro._arguments import check_rng
from bliss_astro.flags import decode_flags
from bliss_astro.psf import PSFModel

from . import _display, _io, _methods, _posterior, _rendering
from ._build import check_count, check_threshold, from_columns
from ._candidates import candidates_of
from ._columns import REQUIRED_COLUMNS, SHAPE_NAMES, explain_no_shapes, pixel_scale
from ._meta import ImageRecord, header_to_wcs
from ._rows import SourceRows


class CatalogPosterior:
    """
    Posterior over whole catalogues of one image.

    It belongs to the image, not to rows: `sample` draws catalogues, `expected_counts`
    integrates over a region, `at_threshold` makes a table.

    Parameters
    ----------
    tile_posterior : `~bliss_astro.posteriors.TilePosterior`
        Posterior over the tiles of the image.

    flux_floor : float or 2D array_like ``(rows, columns)``
        Smallest flux of the prior in data units, by tile.

    unit : unit-like or None, optional
        Unit of the fluxes.

    wcs : WCS object or None, optional
        Celestial WCS of the image.

    flags : 2D int array ``(ny, nx)`` or None, optional
        Sums of `~bliss_astro.flags.CatalogFlag` bits for a source at each pixel.

    meta : dict, optional
        Metadata of the tables.

    exposure : `~bliss_astro.exposures.Exposure` or None, optional
        The image as it was measured; no copy. Files do not keep it.

    binning : int, optional
        Side in pixels of the squares that were joined to one before detection. Tables
        and ``wcs`` are in pixels of the image, tiles and ``flags`` in the larger ones.

    image_shape : tuple of int, optional
        Shape of the image, where that is not the one of the joined pixels.

    Notes
    -----
    A posterior keeps features and inputs of the encoder, some 60 bytes a pixel
    (`nbytes`), and the exposure. `to` copies it to another device,
    `ProbabilisticCatalog.drop_posterior
    <bliss_astro.catalog.ProbabilisticCatalog.drop_posterior>` frees it.
    """

    def __init__(
        self,
        tile_posterior,
        flux_floor,
        *,
        unit=None,
        wcs=None,
        flags=None,
        meta=None,
        exposure=None,
        binning=1,
        image_shape=None,
    ):
        self.exposure = exposure
        self.binning = int(binning)
        self._image_shape = image_shape
        self.tile_posterior = tile_posterior
        shape = tile_posterior.grid.shape
        self.flux_floor = np.broadcast_to(np.asarray(flux_floor, float), shape)
        self.unit, self.wcs, self.flags = unit, wcs, flags
        self.meta = dict(meta or {})
        self._found = None

    def __repr__(self):
        size = ' x '.join(map(str, self.shape))
        return f'<CatalogPosterior of {size} px, {self.n_tiles} tiles>'

    @property
    def shape(self):
        """Shape ``(ny, nx)`` of the image."""
        return self._image_shape or self.tile_posterior.grid.image_shape

    @property
    def n_tiles(self):
        """Number of tiles."""
        return int(np.prod(self.tile_posterior.grid.shape))

    @functools.cached_property
    def fwhm(self):
        """Full width at half maximum of the PSF in the middle, in pixels."""
        inputs = self.tile_posterior.inputs
        _, rows, columns = inputs.psf[0].shape
        vector = inputs.psf[0, :, rows // 2, columns // 2].double().cpu().numpy()
        radius = inputs.normalization_radius
        model = PSFModel.from_shape(vector, normalization_radius=radius)
        return self.binning * model.fwhm

    @functools.cached_property
    def pixel_scale(self):
        """Arcsec per pixel, the mean over both axes; `None` without a WCS."""
        return None if self.wcs is None else pixel_scale(self.wcs)

    def to_image(self, place):
        """Pixel coordinates of the image from those of joined pixels."""
        return (place + 0.5) * self.binning - 0.5 if self.binning > 1 else place

    @property
    def sources(self):
        """Marginals of all candidate sources."""
        return candidates_of(self, 0.0).sources

    _tile_moments = functools.cached_property(_posterior.tile_moments)

    @property
    def probability_map(self):
        """
        Probability that a tile holds a source, 2D array ``(rows, columns)``.

        Given the decisions of the greedy sweep in earlier tiles, so
        that a source on a border counts once.
        """
        return self._tile_moments[0]

    def at_threshold(self, threshold=0.5, *, n_samples=0, rng=None):
        """
        Table of the sources whose probability exceeds a threshold.

        Parameters
        ----------
        threshold : float, optional
            Probability between 0 and 1.

        n_samples : int, optional
            Number of draws in columns of position and flux, and where inferred of the
            type and each number of the shape, the latter as if all were galaxies.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness of the draws.

        Returns
        -------
        catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
            A row a source, brightest first.
        """
        threshold = check_threshold(threshold)
        n_samples = check_count('n_samples', n_samples)
        rng = check_rng(rng)
        candidates = candidates_of(self, threshold)
        chosen = (candidates.sources.probability >= threshold).cpu().numpy()
        rows = SourceRows(self, candidates, np.flatnonzero(chosen))
        columns = rows.columns()
        if n_samples:
            drawn = rows.draw(n_samples, rng)
            columns |= {f'{name}_samples': values for name, values in drawn.items()}
        meta = {**self.meta, 'threshold': threshold}
        if 'disk_radius' in columns and self.pixel_scale is not None:
            meta['image'] = {'pixel_scale': self.pixel_scale}
        return ProbabilisticCatalog.from_columns(
            columns,
            wcs=self.wcs,
            unit=self.unit,
            posterior=self,
            meta=meta,
            image_shape=self.shape,
            expected_count=(self.expected_counts(), self.expected_counts_error()),
        )

    expected_counts = _posterior.expected_counts
    expected_counts_error = _posterior.expected_counts_error
    sample = _posterior.sample
    interval = _posterior.interval
    sample_rows = _posterior.sample_rows
    nbytes = property(_posterior.nbytes)
    to = _posterior.move
    to_arrays = _posterior.to_arrays
    from_arrays = classmethod(_posterior.from_arrays)


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

    TableFormatter = _display.CatalogFormatter

    from_columns = classmethod(from_columns)

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
        self.meta['image'] = ImageRecord(self.image, posterior=value)

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
        return header_to_wcs(self.image.get('wcs'), shape=self.image.get('shape'))

    def drop_posterior(self):
        """
        Free the posterior and the exposure of this table, in place.

        The table then costs its columns only. Copies and slices that were made before
        keep theirs.
        """
        self.posterior = None

    # Methods of the rows, of the rows against their image, and of files.
    credible_interval = _methods.credible_interval
    samples = _methods.samples
    check = _methods.check
    reconstruct = _methods.reconstruct
    render = _rendering.render
    segmentation = _rendering.segmentation
    plot = _methods.plot
    to_regions = _display.to_regions
    write = _io.write
    read = classmethod(_io.read)
    _posterior_type = CatalogPosterior

    def decode_flags(self):
        """
        Name the flags of all rows.

        Returns
        -------
        names : list of list of str
            For each row the names of the bits that are set.
        """
        return [decode_flags(flags) for flags in np.ma.filled(self['flags'], 0)]

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
            table = _display.CatalogColumns(self, copy=False)[list(item)]
            if 'image' in table.meta:
                table.meta['image'] = dict(self.image)
            return table
        return super().__getitem__(item)

    def __str__(self):
        return f'{_display.headline(self)}\n{super().__str__()}'

    def _base_repr_(self, html=False, descr_vals=None, show_dtype=True, **kwargs):
        if descr_vals is None:
            descr_vals = [_display.headline(self)]
            show_dtype = False
        return super()._base_repr_(
            html=html, descr_vals=descr_vals, show_dtype=show_dtype, **kwargs
        )
