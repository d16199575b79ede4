# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The table of detected sources.
"""

import numpy as np
from astropy.table import QTable

from ..flags import decode_flags
from ._build import make_columns
from ._checks import own_exposure
from ._columns import REQUIRED_COLUMNS
from ._display import CatalogColumns, CatalogFormatter, headline
from ._intervals import draws, interval
from ._io import read_catalog, write_catalog
from ._meta import default_meta, header_to_wcs, make_record, plain_value
from ._record import FACT_KEYS, FactRecord, ImageRecord
from ._shapes import SHAPE_NAMES, explain_no_shapes, pixel_scale

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
    ``flags``                        sum of `CatalogFlag` bits
    ================================ ==========================================

    and each has a description (``cat['flux'].info.description``) and a UCD
    (``cat['flux'].info.meta['ucd']``). ``meta`` holds ``date``, ``version``,
    whatever made the table wrote there (``threshold``, ``encoder``,
    ``encoder_sha256``), and ``image``: what is known of the image.

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
        Make a catalogue of arrays, one element per source, in any order.

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
            What to store in ``meta``, next to ``date`` and ``version``: plain
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
        catalog.meta.update(plain_value(meta))
        for name in FACT_KEYS:
            if name in meta:
                catalog.meta[name] = FactRecord(catalog.meta[name])
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
        What is known of the image: a read-only mapping.

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

    def credible_interval(self, column, level=0.68, *, gaussian=False):
        """
        Give the central credible interval of a column, row by row.

        Between its limits the posterior holds ``level`` of the probability,
        with equal shares left out below and above, given that the source
        exists.

        Parameters
        ----------
        column : str
            ``'x_centroid'``, ``'y_centroid'``, ``'flux'`` or ``'mag'``, a
            shape (``'disk_radius'``, say), given that the source is a galaxy,
            or another column that the posterior knows or that has samples.

        level : float, optional
            Probability within the interval, between 0 and 1.

        gaussian : bool, optional
            `True` takes the normal distribution with the row's value as its
            mean and the row's error as its standard deviation, whether
            there is a posterior or not. That is the way out for rows whose
            posterior is gone; it is poor for faint sources, whose fluxes
            have skewed posteriors. It is never taken unasked.

        Returns
        -------
        lower, upper : `~numpy.ndarray` or `~astropy.units.Quantity`
            Limits, in the unit of the column. Without ``gaussian`` they come
            from `posterior`, or where that is gone from the samples that the
            table holds in a column ``<column>_samples``. Limits of the angle
            lie around it and may be below 0 or above 180 degrees.

        Raises
        ------
        ValueError
            If there is no such column, if ``level`` is not between 0 and 1,
            or if there is nothing to take the interval from.
        """
        return interval(self, column, level, gaussian=gaussian)

    def samples(self, column, *, n_samples=None, rng=None):
        """
        Give posterior draws of a column as an astropy distribution.

        Parameters
        ----------
        column : str
            Name of the column.

        n_samples : int or `None`, optional
            How many draws to ask of the posterior. `None` takes the draws
            that the table holds in ``<column>_samples``, or else 1000.

        rng : `None`, int or `~numpy.random.Generator`, optional
            Source of randomness (SPEC 7).

        Returns
        -------
        distribution : `~astropy.uncertainty.Distribution`
            Draws of each row given that its source exists, of shape
            (n_rows,), in the unit of the column.

        Raises
        ------
        ValueError
            If there is no such column, or if neither the table holds draws
            nor its posterior gives them.
        """
        return draws(self, column, n_samples=n_samples, rng=rng)

    def check(self, exposure=None, *, n_draws=3, rng=None, regions=None):
        """
        Compare the catalogue with the image that it was made of.

        The posterior predictive test: whole catalogues are drawn from the
        posterior, their images are rendered with the PSF of the exposure and
        taken off the data. What is left over must be noise as the exposure
        states it; where it is not, the finding says in plain words what is
        probably wrong: the PSF, the background, the noise, the gain, or the catalogue.

        Parameters
        ----------
        exposure : `~bliss_astro.exposures.Exposure`, optional
            The image that the catalogue was made of, with its PSF; by default
            `exposure`, which files do not keep.

        n_draws : int, optional
            Number of catalogues to draw. Tests use the first one, maps
            the median of all. 0 takes the rows of the table instead, which needs
            no posterior; p-values are then only about right.

        rng : int, `~numpy.random.Generator` or None, optional
            For the draws.

        regions : int, pair of int or 2D int array, optional
            Where chi-squares are given: the side of square cells in pixels, a
            pair (rows, columns) of numbers of cells, or the label of
            each pixel (negative for none). By default cells of 24 to 64 pixels.

        Returns
        -------
        check : `~bliss_astro.checks.CatalogCheck`
            Residual map, chi-squares and findings.

        Raises
        ------
        TypeError
            If ``exposure`` is none, or if ``regions`` cannot be understood.

        ValueError
            If the exposure has another shape or unit than the catalogue, or
            no PSF, if there is no posterior to draw from, or if there is
            neither ``exposure`` nor one that the catalogue remembers.

        Notes
        -----
        A chi-square of the residuals of one draw from the exact posterior has
        the distribution of the noise's own, although the posterior was made of
        the same data (V. E. Johnson 2007, Bayesian Analysis 2, 719): p-values
        are uniform where model and posterior are right. The distribution is
        thus known without replicated images; correlations of the noise enter
        by their pairs of pixels.

        A network's draws of bright stars with neighbours may be wider than the
        data allow by many sigma. Fluxes and positions of drawn sources with a
        signal-to-noise ratio above 8 are therefore drawn again from the
        likelihood, all together; how far that moves them is a test of its own.

        Shapes of galaxies are nuisances here, whether the posterior knows them or
        not: disk or de Vaucouleurs bulge, radius, axis ratio and angle are fitted by
        weighted least squares, beginning at the position and flux of the draw.

        A fault must be more than noise makes (an image without any gets a
        finding in 1 % of the cases, all tests taken together) and more than
        matters: 2 % of the noise, 8 % of the sources' variance, 0.05 sigma of
        the sky, 1.5 % of the PSF's width. Pixels within 1.5 FWHM of the border
        are not tested, as light of sources beyond it is in no catalogue.

        Examples
        --------
        >>> from bliss_astro import CoaddSimulator, detect_sources
        >>> exposure, truth = CoaddSimulator().simulate(rng=3)
        >>> catalog = detect_sources(exposure)
        >>> catalog.check(rng=1).passed
        True
        """
        from bliss_astro.checks._check import check_catalog

        exposure = own_exposure(self, exposure)
        return check_catalog(self, exposure, n_draws=n_draws, rng=rng, regions=regions)

    def reconstruct(self, exposure=None, *, n_draws=0, rng=None):
        """
        Take the image apart into the rows and what is left over.

        Parameters
        ----------
        exposure : `~bliss_astro.exposures.Exposure`, optional
            The image; by default `exposure`, which files do not keep.

        n_draws, rng
            As for `~bliss_astro.checks.reconstruct`.

        Returns
        -------
        reconstruction : `~bliss_astro.checks.Reconstruction`
            Model, residual and each source's share of the data.

        Raises
        ------
        ValueError
            As for `~bliss_astro.checks.reconstruct`, or if there is neither
            ``exposure`` nor one that the catalogue remembers.

        See Also
        --------
        bliss_astro.checks.reconstruct : The same, with all about it.

        Examples
        --------
        >>> from bliss_astro import CoaddSimulator, detect_sources
        >>> exposure, truth = CoaddSimulator().simulate(rng=3)
        >>> catalog = detect_sources(exposure, encoder='stars')
        >>> catalog.reconstruct().residual.shape == exposure.shape
        True
        """
        from bliss_astro.checks import reconstruct

        exposure = own_exposure(self, exposure)
        return reconstruct(exposure, self, n_draws=n_draws, rng=rng)

    def render(self, *, shape=None, cutout=None, psf=None):
        """
        Draw the rows: the image that the catalogue stands for, without noise.

        Stars have the shape of the PSF where they lie, galaxies are a
        disk and a bulge seen through it. A row is a galaxy if its
        ``galaxy_probability`` exceeds 0.5; its shape is in the columns
        ``disk_fraction``, ``angle``, ``disk_axis_ratio``, ``bulge_axis_ratio``,
        ``disk_radius`` and ``bulge_radius``. A galaxy whose shape is not known is
        drawn as a star.

        Parameters
        ----------
        shape : tuple of int, optional
            ``(ny, nx)`` of the image; by default that of the image that the
            catalogue was made of. Pixels are the same.

        cutout : pair of slice, optional
            Rows and columns to draw of the image, by default all; pixels
            have the same values as in the whole image.

        psf : object, optional
            The PSF, of any kind that `~bliss_astro.exposures.Exposure` takes. By
            default that which the encoder was told, which `posterior` holds.

        Returns
        -------
        image : float32 `~numpy.ndarray` or `~astropy.units.Quantity`, shape (ny, nx)
            The light of the rows without the sky, in the unit of ``flux``.

        Raises
        ------
        TypeError
            If ``psf`` is none, or if ``cutout`` is not made of slices.

        ValueError
            If there is neither a posterior nor ``psf``, if the shape of the image is
            not known, if ``cutout`` holds no pixels, or if radii are
            angles and there is no WCS.

        Warns
        -----
        AstropyUserWarning
            If there are galaxies, but no columns with their shapes.

        See Also
        --------
        bliss_astro.checks.reconstruct : The same, compared with the image.

        Notes
        -----
        The PSF is that in the middle of a cell of 128 pixels (256 pixels where it
        is the same everywhere). A source is drawn on its cell and around
        it out to 24, 72 or 216 pixels, the first at which it is fainter than 0.5 % of
        the noise of the sky, or else to the ends of the image. The wings of
        galaxies end earlier, at a square of 64 to 1024 pixels whose half side is
        at least 5 half-light radii of the disk, 8 of the bulge and 12 ``sigma1`` of the
        PSF (`~bliss_astro.rendering.RenderingAccuracy`).

        Examples
        --------
        >>> from bliss_astro import CoaddSimulator, detect_sources
        >>> exposure, truth = CoaddSimulator().simulate(rng=3)
        >>> catalog = detect_sources(exposure, encoder='stars')
        >>> image = catalog.render()
        >>> image.shape == exposure.shape
        True
        """
        from ._rendering import render_catalog

        return render_catalog(self, shape=shape, cutout=cutout, psf=psf)

    def plot(self, image=None, *, ax=None, **kwargs):
        """
        Draw the rows over the image, coloured by their probability.

        Parameters
        ----------
        image : `~bliss_astro.exposures.Exposure` or 2D array_like, optional
            The image; by default `exposure`, which files do not keep.

        ax : `~matplotlib.axes.Axes`, optional
            Where to; by default the axes of a new figure, on the sky where there
            is a WCS.

        **kwargs
            For `~bliss_astro.plotting.plot_catalog`: ``truth``, ``stretch``,
            ``radius`` and others.

        Returns
        -------
        ax : `~matplotlib.axes.Axes`
            The axes.

        Raises
        ------
        ValueError
            If there is neither ``image`` nor one that the catalogue remembers.
        """
        from ._export import plot

        return plot(self, image, ax=ax, **kwargs)

    def to_regions(self, path=None, *, sky=None, radius=None, overwrite=False):
        """
        Make a circle of each row, for DS9 and other viewers.

        Parameters
        ----------
        path : path_like, optional
            File in the format of DS9 to write, ``.reg`` as a rule.

        sky : bool, optional
            Whether circles lie on the sky or in pixels; by default on the sky where
            there are positions on the sky.

        radius : float or `~astropy.units.Quantity`, optional
            Radius in pixels or as an angle; by default the PSF's full width at half
            maximum, or 5 pixels where it is not known.

        overwrite : bool, optional
            Whether an existing file may be replaced.

        Returns
        -------
        regions : ``regions.Regions``
            The circles, with the row's ``id`` as text and its probability as a tag;
            stars are cyan, galaxies orange.

        Raises
        ------
        ImportError
            If the package ``regions`` is not installed.

        ValueError
            If ``sky`` is `True` and there is no WCS, or ``radius`` not positive or
            in a unit that needs a WCS.
        """
        from ._export import make_regions

        return make_regions(self, path, sky=sky, radius=radius, overwrite=overwrite)

    def segmentation(self, shape=None, *, psf=None, n_sigma=1.0):
        """
        Label the pixels that the light of each row fills.

        Parameters
        ----------
        shape : tuple of int, optional
            ``(ny, nx)`` of the image; by default that of the catalogue's.

        psf : object, optional
            As for `render`.

        n_sigma : float, optional
            A footprint ends where the row's light falls below that many sigma of
            the sky's noise in a pixel.

        Returns
        -------
        segmentation : `~photutils.segmentation.SegmentationImage`
            The labels are the numbers of the column ``id``, 0 is sky. A pixel of
            several footprints belongs to the row that is brightest there; the pixel
            that a row lies on is in its footprint, however faint it is.

        Raises
        ------
        ValueError
            As for `render`, if numbers in ``id`` repeat, or if ``n_sigma`` is not
            positive.
        """
        from ._export import segment

        return segment(self, shape, psf=psf, n_sigma=n_sigma)

    def decode_flags(self):
        """
        Spell out the flags of all rows.

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

    def write(self, path, *, format=None, overwrite=False, posterior=True, **kwargs):  # noqa: A002
        """
        Write the catalogue to a file, as a whole or not at all.

        Parameters
        ----------
        path : str, `~os.PathLike` or file-like
            Where to write. A file-like object gets what
            `~astropy.table.QTable` would write, rows only.

        format : str or `None`, optional
            ``'fits'``, ``'ecsv'``, ``'parquet'`` (needs pyarrow) or
            ``'votable'``. `None` goes by the ending: ``.fits``,
            ``.fits.gz``, ``.ecsv``, ``.parquet``, ``.vot`` or ``.xml``. Any
            other format and ending of `~astropy.table.QTable` (``.csv``,
            ``.hdf5``) writes the rows as far as that format goes; `read` does
            not read it, `~astropy.table.QTable` does.

        overwrite : bool, optional
            Whether an existing file may be replaced. It stays as it is until
            the new one is complete.

        posterior : bool, optional
            Whether to write the posterior too. Only FITS can; the other
            formats warn when there is one. `False` leaves it out.

        **kwargs
            Passed on for formats that are not listed here.

        Raises
        ------
        OSError
            If the file exists and ``overwrite`` is `False`, or if it cannot
            be written.

        ValueError
            If the format is not known.

        TypeError
            If a column (a time, a position, text) or a value of ``meta`` would not
            come back from the file as it is. Nothing is written.

        Warns
        -----
        PosteriorDroppedWarning
            If the format cannot keep the posterior.
        """
        write_catalog(
            self,
            path,
            file_format=format,
            overwrite=overwrite,
            posterior=posterior,
            **kwargs,
        )

    @classmethod
    def read(cls, path, *, format=None, posterior=True, posterior_class=None):  # noqa: A002
        """
        Read a catalogue that `write` wrote.

        Parameters
        ----------
        path : str or `~os.PathLike`
            The file.

        format : str or `None`, optional
            As for `write`.

        posterior : bool, optional
            Whether to read the posterior, if the file has one.

        posterior_class : type or `None`, optional
            Class whose ``from_arrays(arrays, meta)`` makes the posterior.
            `None` is the package's own.

        Returns
        -------
        catalog : `ProbabilisticCatalog`
            The catalogue, with its units, descriptions, sky positions and
            meta.

        Raises
        ------
        OSError
            If the file cannot be read, holds no catalogue, or was damaged after it
            was written (FITS files have checksums).

        ValueError
            If the format is not known.
        """
        return read_catalog(
            cls,
            path,
            file_format=format,
            posterior=posterior,
            posterior_class=posterior_class,
        )

    def __getitem__(self, item):
        try:
            return self._get_item(item)
        except KeyError:
            asked = item if isinstance(item, list | tuple) else [item]
            for name in asked:
                if isinstance(name, str) and name in SHAPE_NAMES:
                    self._explain_shape(name)
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

    def _explain_shape(self, name):
        if name not in self.colnames:
            others = not SHAPE_NAMES.isdisjoint(self.colnames)
            encoder = self.meta.get('encoder')
            text = explain_no_shapes(name, encoder, others=others)
            raise KeyError(text) from None

    def __str__(self):
        return f'{headline(self)}\n{super().__str__()}'

    def _base_repr_(self, html=False, descr_vals=None, show_dtype=True, **kwargs):
        if descr_vals is None:
            descr_vals = [headline(self)]
            show_dtype = False
        return super()._base_repr_(
            html=html, descr_vals=descr_vals, show_dtype=show_dtype, **kwargs
        )
