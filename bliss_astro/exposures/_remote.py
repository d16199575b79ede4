# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exposures of surveys and archives: from files, or downloaded.

The functions are methods of `~bliss_astro.exposures.Exposure` and
`~bliss_astro.exposures.ExposureSet`. Downloads stay in astropy's cache.
"""

from numbers import Integral

from bliss_astro._lazy import downloads, survey

# Image layer of the Legacy Surveys' viewer, and its pixels in arcsec.
_LAYER, _LEGACY_PIXEL = 'ls-dr10', 0.262


def from_sdss(
    cls, frame=None, psfield=None, field=None, *, run=None, camcol=None, **options
):
    """
    Read an image of the Sloan Digital Sky Survey, from files or downloaded.

    Short form of `bliss_astro.surveys.sdss.read_exposure`, with its arguments; or
    ``from_sdss(run, camcol, field, band='r')``, for which the frame, the ``psField``
    and the ``fpM`` of data release 17 are downloaded.

    Parameters
    ----------
    frame, psfield : str, `~os.PathLike` or `~astropy.io.fits.HDUList`, or int
        Frame or corrected frame, and the ``psField`` file of its field; or run and
        camera column, which ``run`` and ``camcol`` may name.

    field : int, optional
        Field of the run and camera column.

    run, camcol : int, optional
        Run and camera column, in place of the files.

    **options
        Keywords ``band`` (by default r for a field that is downloaded), ``fpm``,
        ``tsfield``, ``photofield``, ``background``, ``noise`` and ``bad_planes``.

    Returns
    -------
    exposure : `Exposure`
        Image in nmgy per pixel.

    Raises
    ------
    ConnectionError
        If the archive does not answer.

    OSError, TypeError, ValueError
        As `~bliss_astro.surveys.sdss.read_exposure`; if there is no such field.

    Examples
    --------
    >>> from bliss_astro import Exposure
    >>> exposure = Exposure.from_sdss(94, 1, 12, band='r')  # doctest: +REMOTE_DATA
    >>> exposure.shape  # doctest: +REMOTE_DATA
    (1489, 2048)
    """
    place = _sdss_place(frame, psfield, field, run, camcol)
    if place is None:
        return survey('sdss').read_exposure(frame, psfield, cls=cls, **options)
    band = options.setdefault('band', 'r')
    frames, psfield, masks = downloads().sdss_files(*place, [band])
    options.setdefault('fpm', masks[band])
    return survey('sdss').read_exposure(frames[band], psfield, cls=cls, **options)


def set_from_sdss(
    cls,
    frames=None,
    psfield=None,
    field=None,
    *,
    run=None,
    camcol=None,
    bands='ugriz',
    **options,
):
    """
    Read the bands of a field of the Sloan Digital Sky Survey onto one grid.

    Short form of `bliss_astro.surveys.sdss.read_field`, with its arguments; or
    ``from_sdss(run, camcol, field, bands='gri')``, for which the files of data release
    17 are downloaded.

    Parameters
    ----------
    frames, psfield : str, `~os.PathLike`, sequence or dict, or int
        Folder with the files of one field, or frames, or frames by band, and the
        ``psField`` file of the field; or run and camera column, which ``run`` and
        ``camcol`` may name.

    field : int, optional
        Field of the run and camera column.

    run, camcol : int, optional
        Run and camera column, in place of the files.

    bands : iterable of str, optional
        Bands to download.

    **options
        Other keywords, ``reference`` among them.

    Returns
    -------
    exposures : `ExposureSet`
        Bands in nmgy per pixel on the grid of the reference band.

    Raises
    ------
    ConnectionError
        If the archive does not answer.

    OSError, TypeError, ValueError
        As `~bliss_astro.surveys.sdss.read_field`; if there is no such field.
    """
    place = _sdss_place(frames, psfield, field, run, camcol)
    if place is None:
        return survey('sdss').read_field(frames, psfield, **options)
    frames, psfield, masks = downloads().sdss_files(*place, bands)
    return survey('sdss').read_field(frames, psfield, **{'fpm': masks} | options)


def _sdss_place(frame, psfield, field, run, camcol):
    """Run, camera column and field of the arguments, or None where they are files."""
    if (
        run is None
        and camcol is None
        and field is None
        and not isinstance(frame, Integral)
    ):
        return None
    run, camcol = (
        (frame if run is None else run),
        (psfield if camcol is None else camcol),
    )
    return run, camcol, field


def from_legacysurvey(
    cls, ra, dec, size, band='r', *, layer=_LAYER, pixel_scale=_LEGACY_PIXEL, **given
):
    """
    Download a cut-out of the DESI Legacy Imaging Surveys.

    From the viewer's service, which resamples coadds to north up: image, inverse
    variance where the service has it, and the PSF of the coadd there.

    Parameters
    ----------
    ra, dec : float or `~astropy.units.Quantity`
        Position of the centre, ICRS; in degrees without a unit.

    size : int or `~astropy.units.Quantity`
        Side of the square in pixels (at most 3,000) or as an angle.

    band : {'g', 'r', 'i', 'z'}, optional
        Band.

    layer : str, optional
        Image layer of the viewer.

    pixel_scale : float or `~astropy.units.Quantity`, optional
        Side of a pixel, in arcsec without a unit. With another than that of the
        coadds the PSF is not downloaded.

    **given
        Keywords of `Exposure.read <ExposureRead>`, in place of what is downloaded.

    Returns
    -------
    exposure : `Exposure`
        Image in nmgy per pixel, its noise, gain and correlation estimated as
        `Exposure.read <ExposureRead>` does. Pixels without an observation are bad.

    Raises
    ------
    ConnectionError
        If the service does not answer.

    TypeError, ValueError
        If an argument cannot be used, or the survey has no image there.

    Examples
    --------
    >>> from bliss_astro import Exposure
    >>> exposure = Exposure.from_legacysurvey(
    ...     150.1, 2.2, size=256, band='r'
    ... )  # doctest: +SKIP
    """
    options = {'layer': layer, 'pixel_scale': pixel_scale}
    found = downloads().read_legacysurvey(ra, dec, size, [band], given, **options)
    return found[band]


def set_from_legacysurvey(
    cls,
    ra,
    dec,
    size,
    bands='griz',
    *,
    reference=None,
    layer=_LAYER,
    pixel_scale=_LEGACY_PIXEL,
    **given,
):
    """
    Download a cut-out of the DESI Legacy Imaging Surveys in several bands.

    Parameters
    ----------
    ra, dec : float or `~astropy.units.Quantity`
        Position of the centre, ICRS; in degrees without a unit.

    size : int or `~astropy.units.Quantity`
        Side of the square in pixels (at most 3,000) or as an angle.

    bands : iterable of str, optional
        Bands among g, r, i and z; one without an image there is missing in the set.

    reference : str, optional
        Reference band, by default r, or the first if there is none.

    layer : str, optional
        Image layer of the viewer.

    pixel_scale : float or `~astropy.units.Quantity`, optional
        Side of a pixel, in arcsec without a unit.

    **given
        Keywords of `Exposure.read <ExposureRead>` for all bands.

    Returns
    -------
    exposures : `ExposureSet`
        Bands in nmgy per pixel.

    Raises
    ------
    ConnectionError
        If the service does not answer.

    TypeError, ValueError
        If an argument cannot be used, or the survey has no image there.
    """
    options = {'layer': layer, 'pixel_scale': pixel_scale}
    found = downloads().read_legacysurvey(ra, dec, size, bands, given, **options)
    if reference is None and found.get('r') is not None:
        reference = 'r'
    return cls(found, reference=reference)


def from_hips(cls, hips, position, size, *, pixel_scale=None, **given):
    """
    Download an image of a HiPS, made by the service hips2fits of the CDS.

    Tiles of a HiPS are resampled, here once more, in units that few state: good for
    looking and for finding, less so for measuring. Needs astroquery (extra ``fetch``).

    Parameters
    ----------
    hips : str
        Identifier, such as ``'CDS/P/DSS2/red'``.

    position : `~astropy.coordinates.SkyCoord`, (ra, dec) pair of float or str
        Centre; degrees in ICRS without units; or a name that Sesame resolves.

    size : int or `~astropy.units.Quantity`
        Side of the square in pixels or as an angle.

    pixel_scale : float or `~astropy.units.Quantity`, optional
        Side of a pixel, in arcsec without a unit; by default that of the HiPS.

    **given
        Keywords of `Exposure.read <ExposureRead>`.

    Returns
    -------
    exposure : `Exposure`
        Image, its noise and gain estimated as `Exposure.read <ExposureRead>` does.

    Raises
    ------
    ConnectionError
        If the service does not answer.

    ImportError
        If astroquery is not installed.

    TypeError, ValueError
        If an argument cannot be used, there is no such HiPS, or no image there.

    References
    ----------
    `hips2fits <https://alasky.cds.unistra.fr/hips-image-services/hips2fits>`__
    """
    options = {'pixel_scale': pixel_scale}
    return downloads().read_hips(hips, position, size, given, **options)


def from_sia(
    cls, url, position, size, *, choose=None, version=None, search=None, **given
):
    """
    Download an image that a Simple Image Access service of an archive finds.

    The image is read by `Exposure.read <ExposureRead>`, with all that it recognises,
    and cut to the square. Needs pyvo (extra ``fetch``).

    Parameters
    ----------
    url : str
        Address of the service, of version 1 or 2 of the protocol.

    position : `~astropy.coordinates.SkyCoord`, (ra, dec) pair of float or str
        Centre; degrees in ICRS without units; or a name that Sesame resolves.

    size : `~astropy.units.Quantity`
        Side of the square as an angle.

    choose : int or callable, optional
        Which of the FITS images that were found: their number from 0, or a function
        of their `~astropy.table.Table` that returns it. By default the one whose
        centre is nearest to the position.

    version : {1, 2}, optional
        Version of the protocol, by default that which the service has.

    search : dict, optional
        Further constraints of the query, for example ``{'band': 600e-9}`` (m) or
        ``{'collection': 'NAME'}``, as for ``pyvo.dal.SIA2Service.search``.

    **given
        Keywords of `Exposure.read <ExposureRead>`.

    Returns
    -------
    exposure : `Exposure`
        Image. ``meta['sia']`` has the address of the file, the number of images that
        were found and the row of the chosen one.

    Raises
    ------
    ConnectionError
        If the service does not answer, or with an error.

    ImportError
        If pyvo is not installed.

    OSError
        If the file is no FITS file.

    TypeError, ValueError
        If an argument cannot be used, or there is no FITS image.
    """
    options = {'choose': choose, 'version': version, 'search': search or {}}
    return downloads().read_sia(url, position, size, given, **options)
