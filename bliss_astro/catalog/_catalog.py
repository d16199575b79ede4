# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogue of sources: the table with errors and flags, and regions of DS9.
"""

import astropy.units as u
import numpy as np
from astropy.table import QTable

from bliss_astro._arguments import must, require
from bliss_astro._atomic import atomic_write
from bliss_astro.flags import decode_flags
from bliss_astro.rendering._scene import Sources

from . import _colors, _io, _methods, _rendering
from ._build import from_columns
from ._columns import (
    REQUIRED_COLUMNS,
    SHAPE_NAMES,
    explain_no_shapes,
)
from ._display import CatalogColumns, CatalogFormatter
from ._meta import ImageRecord, header_to_wcs

# Radius of a region in pixels where the PSF is not known.
_DEFAULT_RADIUS = 5.0
# Colours of regions in DS9: of stars, of galaxies.
_COLORS = ('cyan', 'orange')


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
    ``flux_g``, ``flux_g_err``, ...  the same in each band of several, the reference
    ``mag_g``, ``mag_g_err``, ...    band, whose flux is ``flux``, included
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
    def exposures(self):
        """
        That image in all bands, where it was measured in several, or `None`.

        An `~bliss_astro.exposures.ExposureSet`; `exposure` is that of its reference
        band.
        """
        return getattr(self.posterior, 'exposures', None)

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
    colors = _colors.colors
    check = _methods.check
    reconstruct = _methods.reconstruct
    render = _rendering.render
    segmentation = _rendering.segmentation
    plot = _methods.plot
    write = _io.write
    read = classmethod(_io.read)
    to_samp = _io.to_samp

    def to_regions(
        self, path=None, *, sky=None, radius=None, text='{id}', overwrite=False
    ):
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

        text : str, optional
            Text beside each circle, with columns in braces, for example
            ``'{probability:.2f}'``.

        overwrite : bool, optional
            Whether an existing file may be replaced.

        Returns
        -------
        regions : ``regions.Regions``
            The circles, with probability and type (``'p=0.981'``, ``'star'``) as tags;
            stars are cyan, galaxies orange.

        Raises
        ------
        ImportError
            If the package ``regions`` is not installed.

        ValueError
            If ``sky`` is `True` and there is no WCS, or ``radius`` not positive or
            in a unit that needs a WCS.
        """
        try:
            from regions import CirclePixelRegion, CircleSkyRegion, PixCoord, Regions
        except ImportError as error:
            msg = 'to_regions needs the package regions: pip install regions'
            raise ImportError(msg) from error
        has_sky = 'sky_centroid' in self.colnames
        sky = has_sky if sky is None else sky
        if sky and not has_sky:
            msg = 'sky=True needs positions on the sky: the image had no WCS'
            raise ValueError(msg)
        radius = _region_radius(self, radius, sky=sky)
        regions = Regions([])
        for row, galaxy in zip(self, Sources.of(self).is_galaxy, strict=True):
            centre, circle = row['sky_centroid'] if sky else None, CircleSkyRegion
            if not sky:
                centre = PixCoord(row['x_centroid'], row['y_centroid'])
                circle = CirclePixelRegion
            kind = ('star', 'galaxy')[int(galaxy)]
            tags = [f'p={row["probability"]:.3f}', kind]
            meta = {'text': text.format_map(row), 'tag': tags}
            visual = {'color': _COLORS[int(galaxy)]}
            regions.append(circle(centre, radius, meta=meta, visual=visual))
        if path is not None:
            with atomic_write(path, overwrite=overwrite) as temporary:
                regions.write(temporary, format='ds9', overwrite=True)
        return regions

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
            table = CatalogColumns(self, copy=False)[list(item)]
            if 'image' in table.meta:
                table.meta['image'] = dict(self.image)
            return table
        return super().__getitem__(item)

    def __str__(self):
        return f'{_headline(self)}\n{super().__str__()}'

    def _base_repr_(self, html=False, descr_vals=None, show_dtype=True, **kwargs):
        if descr_vals is None:
            descr_vals = [_headline(self)]
            show_dtype = False
        return super()._base_repr_(
            html=html, descr_vals=descr_vals, show_dtype=show_dtype, **kwargs
        )


def _region_radius(catalog, radius, *, sky):
    """Radius of the circles: pixels, or an angle on the sky."""
    if radius is None:
        exposure, radius = catalog.exposure, _DEFAULT_RADIUS
        if exposure is not None and exposure.psf is not None:
            ny, nx = exposure.shape
            radius = float(exposure.psf_at(nx // 2, ny // 2).fwhm)
    scale = _rendering.scale_of(catalog)
    scales = u.pixel_scale((scale or 1) * u.arcsec / u.pix)
    try:
        radius = u.Quantity(radius, getattr(radius, 'unit', u.pix))
        size = radius.to(u.arcsec if sky else u.pix, scales)
    except (TypeError, u.UnitsError):
        text = must('radius', 'be a number of pixels or an angle', f'{radius!r:.60}')
        raise TypeError(text) from None
    require(0 < size.value < np.inf, 'radius', 'be positive', radius)
    if scale is None and radius.unit.is_equivalent(u.arcsec) != sky:
        msg = (
            'the size of a pixel on the sky is not known; give radius as '
            f'{"an angle" if sky else "a number of pixels"}'
        )
        raise ValueError(msg)
    return size if sky else size.value


def _headline(catalog):
    """Line with number of sources, threshold, expected count, image and encoder."""
    meta, image = catalog.meta, catalog.image
    # Tables of one image at two thresholds, stacked, can exceed it.
    total = max(image.get('n_sources', 0), len(catalog))
    count = f'{len(catalog)}' if total == len(catalog) else f'{len(catalog)} of {total}'
    parts = [f'{count} {"source" if total == 1 else "sources"}']
    if (threshold := meta.get('threshold')) is not None:
        parts[0] += f' above p = {threshold}'
    if expected := image.get('expected_count'):
        parts.append(f'expected count {" ± ".join(f"{n:.1f}" for n in expected)}')
    if shape := image.get('shape'):
        parts.append(f'image {shape[1]} x {shape[0]} px')
    if uids := image.get('uids'):
        parts.append(f'from {len(uids)} images')
    encoder = meta.get('encoder')
    if isinstance(encoder, dict):
        encoder = encoder.get('name')
    if encoder is not None:
        parts.append(f'encoder "{encoder}"')
    return f'{type(catalog).__name__}: {", ".join(parts)}'
