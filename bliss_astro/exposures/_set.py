# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
ExposureSet: exposures of one field in several bands on one pixel grid.
"""

from collections.abc import Mapping

import numpy as np

from bliss_astro._arguments import as_list, require
from bliss_astro._warnings import messages_about

from . import _remote
from ._bands import Band
from ._fits_image import cube_planes
from ._geometry import image_shift, light_spectrum
from ._read import FILES, exposure_of
from ._set_checks import by_band, check_factors, check_grid, choose_reference, in_unit
from ._validate import two_slices


class ExposureSet(Mapping):
    """
    Exposures of one field in several bands on one pixel grid, by name of the band.

    A mapping, in order, of the bands that there are. Each exposure has its own PSF,
    noise, background, mask and gain; fluxes of all are in the unit of the reference
    band, which is the first one. Two slices cut all bands.

    Parameters
    ----------
    exposures : dict of str or `Band` to `Exposure`, or iterable of `Exposure`
        Exposures by name of their band, or with one. A band of the field without an
        exposure is None. A name that is not in ``BANDS`` needs a band in its exposure,
        or the `Band` itself in its place.

    reference : str, optional
        Name of the reference band, by default the first that there is.

    calibration : dict of str to float, optional
        Factors by which numbers of other bands are multiplied to be in the unit of
        the reference band. Units that can be converted need none.

    Attributes
    ----------
    bands : tuple of `Band`
        All bands, missing ones among them, the reference band first. Their names are
        those of the mapping.

    present : bool `~numpy.ndarray`, shape (F,)
        Which of the bands there are.

    reference : str
        Name of the reference band.

    Raises
    ------
    TypeError, ValueError
        If there is no exposure, or no such reference band; if a band is there twice or
        not known; if one differs from the reference band in shape, WCS or zero point,
        or has a unit that cannot be converted. The message names the band.

    See Also
    --------
    bliss_astro.coadds.align_bands : Brings bands onto one pixel grid.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.exposures import Exposure, ExposureSet
    >>> def image(noise):
    ...     return Exposure(np.zeros((32, 48)), bkg_error=noise, effective_gain=4.0)
    >>> exposures = ExposureSet({'g': image(2.0), 'r': image(3.0)}, reference='r')
    >>> exposures
    <ExposureSet 32 x 48 px: r (reference), g>
    >>> exposures['g'].bkg_error, exposures[4:20, 8:40]['r'].shape
    (2.0, (16, 32))
    """

    def __init__(self, exposures, *, reference=None, calibration=None):
        found = by_band(exposures)
        first = choose_reference(found, reference)
        others = [band for band in found if found[band] and band != first]
        factors = check_factors(calibration, [band.name for band in others])
        for band in others:
            names = f'band {band.name!r}', f'band {first.name!r}'
            check_grid(found[band], found[first], names)
            factor = factors.get(band.name)
            found[band] = in_unit(found[band], found[first], names, factor)
        self._set(found, first.name)

    def _set(self, found, reference):
        """Keep exposures, or None, by band, the reference band first."""
        self.bands = tuple(sorted(found, key=lambda band: band.name != reference))
        self.present = np.array([found[band] is not None for band in self.bands])
        self._exposures = {band.name: found[band] for band in self.bands if found[band]}
        self.reference = reference
        return self

    @classmethod
    def _of(cls, found, reference):
        """Make a set of what has been checked."""
        return cls.__new__(cls)._set(found, reference)

    @classmethod
    def from_images(
        cls, images, *, bands=None, reference=None, calibration=None, **given
    ):
        """
        Make a set of images of any kind on one pixel grid; estimate what is missing.

        Parameters
        ----------
        images : dict of str to image, or cube of shape (F, ny, nx)
            Images by name of the band: arrays, quantities, NDData, files, exposures, or
            None for a missing band; or one array of all, or a FITS file with such a
            cube, with ``bands``.

        bands : sequence of str or `Band`, optional
            Bands of a cube, in order.

        reference, calibration : optional
            As for the class.

        **given
            Arguments of `Exposure.read <ExposureRead>` for all bands, or a dict of
            them by name of the band, or an array of shape (F, ny, nx) for a cube.

        Returns
        -------
        exposures : `ExposureSet`
            Exposures, with the sources of what was estimated in their meta.

        Examples
        --------
        >>> import numpy as np
        >>> from bliss_astro.exposures import ExposureSet
        >>> cube = np.random.default_rng(1).normal(0, 2, (3, 64, 64))
        >>> noise = {'g': 2, 'r': 2, 'i': 2}
        >>> ExposureSet.from_images(
        ...     cube, bands='gri', reference='r', bkg_error=noise, effective_gain=4
        ... )
        <ExposureSet 64 x 64 px: r (reference), g, i>
        """
        meta, exposures = {'meta': given.pop('meta', None)}, {}
        for band, (image, own) in split_images(images, bands, given).items():
            found = None if image is None else _read(image, band, meta | own)
            exposures[band] = found
        return cls(exposures, reference=reference, calibration=calibration)

    from_sdss = classmethod(_remote.set_from_sdss)
    from_legacysurvey = classmethod(_remote.set_from_legacysurvey)

    @property
    def shape(self):
        """Shape (ny, nx) of all images."""
        return self[self.reference].shape

    @property
    def unit(self):
        """Unit of all images, or `None`."""
        return self[self.reference].unit

    @property
    def wcs(self):
        """WCS of the reference band, or `None`."""
        return self[self.reference].wcs

    def select(self, bands):
        """
        Return the set of some bands, in the order of their names.

        Parameters
        ----------
        bands : iterable of str
            Names. The reference band stays it if it is among them, else the first of
            them that there is becomes it.

        Returns
        -------
        exposures : `ExposureSet`
            Set of these bands.
        """
        every, found = self._found(), {}
        names = {band.name: band for band in every}
        for name in map(str, as_list('bands', bands)):
            require(name in names, 'bands', f'be among {", ".join(names)}', repr(name))
            found[names[name]] = every[names[name]]
        there = [band.name for band in found if found[band] is not None]
        require(there, 'bands', 'have an exposure', list(map(str, found)))
        kept = self.reference in there
        return self._of(found, self.reference if kept else there[0])

    def with_reference(self, reference):
        """
        Return the set with another reference band; fluxes stay in their unit.

        Parameters
        ----------
        reference : str
            Name of the band.

        Returns
        -------
        exposures : `ExposureSet`
            Set with that band first.
        """
        allowed, name = f'be one of {", ".join(self)}', str(reference)
        require(name in self._exposures, 'reference', allowed, repr(name))
        return self._of(self._found(), name)

    def shifts(self):
        """
        Measure shifts between the bands: of their images, whatever their WCS.

        Returns
        -------
        shifts : dict of str to (dx, dy) tuple of float
            Pixels by which the sources of each band lie off those of the reference
            band, to about a tenth. NaN where they have too few in common, or lie more
            than 16 pixels off.
        """
        first = light_spectrum(self[self.reference])
        names = list(self)[1:]
        return {name: image_shift(light_spectrum(self[name]), first) for name in names}

    def _found(self):
        """Exposures, or None, by band."""
        return {band: self._exposures.get(band.name) for band in self.bands}

    def __getitem__(self, item):
        """Return the exposure of a band, or cut all of them by two slices."""
        if isinstance(item, str | Band):
            name = str(item)
            if name not in self._exposures:
                kind = 'missing' if name in map(str, self.bands) else 'not in the set'
                raise KeyError(f'band {name!r} is {kind}; there are {", ".join(self)}')
            return self._exposures[name]
        cut = tuple(two_slices(item, self.shape))
        found = self._found()
        for band, exposure in found.items():
            if exposure is None:
                continue
            # A band that is bad in the whole cut-out is missing there.
            empty = exposure.mask[cut].all()
            if empty and band.name == self.reference:
                msg = f'the reference band {band.name!r} has no good pixel there'
                raise ValueError(f'{msg}; choose another one by with_reference.')
            found[band] = None if empty else exposure[cut]
        return self._of(found, self.reference)

    def __iter__(self):
        return iter(self._exposures)

    def __len__(self):
        return len(self._exposures)

    def __repr__(self):
        ny, nx = self.shape
        unit = '' if self.unit is None else f', {self.unit}'
        words = {self.reference: ' (reference)'}
        words |= {band.name: ' (missing)' for band in self.bands if band not in self}
        names = ', '.join(f'{b}{words.get(b.name, "")}' for b in self.bands)
        return f'<{type(self).__name__} {ny} x {nx} px{unit}: {names}>'


# -- images of other kinds ---------------------------------------------------------


def images_by_band(images):
    """Images, or what is of them, by name of the band; of one without bands by None."""
    if not isinstance(images, Mapping):
        return {None: images}
    return {b and str(b): one for b, one in images.items() if one is not None}


def split_images(images, bands, given):
    """
    Images, or None, and their arguments by band, as `ExposureSet.from_images` has them.

    Arguments that are dicts have a value for each band by its name.
    """
    if not isinstance(images, Mapping):
        images, given = _split_cube(images, bands, given)
    elif bands is not None:
        msg = 'bands was given although the images have names.'
        raise ValueError(msg)
    images = images._found() if isinstance(images, ExposureSet) else images
    names = [str(band) for band in images]
    by_name = {key: v for key, v in given.items() if isinstance(v, Mapping)}
    for key, value in by_name.items():
        allowed = f'name bands among {", ".join(names)}'
        require({*map(str, value)} <= {*names}, key, allowed, list(value))
    by_name = {
        key: {str(band): v for band, v in value.items()}
        for key, value in by_name.items()
    }
    return {
        band: (image, given | {key: v.get(str(band)) for key, v in by_name.items()})
        for band, image in images.items()
    }


def _split_cube(cube, bands, given):
    """Images by band of a cube, and arguments by band."""
    shape = np.shape(cube)
    if isinstance(cube, FILES):
        cube = cube_planes(cube, 'images')
        shape = len(cube), *cube[0].shape
    allowed = 'be a mapping of names to images, or a cube (F, ny, nx)'
    require(len(shape) == 3, 'images', allowed, f'shape {shape}')
    names = [] if bands is None else as_list('bands', bands)
    allowed, got = f'name the {shape[0]} planes of the cube', f'{bands!r}'
    if shape[2] == len(names):
        got += f', as many as the last axis of {shape} has; move it to the front'
    require(len(names) == shape[0], 'bands', allowed, got)
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    require(not twice, 'bands', 'be different', f'{", ".join(twice)} twice')
    given = {
        key: dict(zip(map(str, names), value, strict=True))
        if np.ndim(value) == 3 and not isinstance(value, Mapping)
        else value
        for key, value in given.items()
    }
    return dict(zip(names, cube, strict=True)), given


def _read(image, band, given):
    """Make the exposure of an image of any kind."""
    estimated = {}
    given = {key: value for key, value in given.items() if value is not None}
    with messages_about(f'band {str(band)!r}'):
        exposure = exposure_of(image, given, estimated)
    if not estimated:
        return exposure
    return exposure.replace(meta=exposure.meta | {'estimated': estimated})
