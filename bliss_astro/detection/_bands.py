# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bands of an image: each prepared as one image is, on the grid of the reference band.
"""

import dataclasses
import os
from collections.abc import Mapping

import astropy.units as u
import numpy as np
import torch

from bliss_astro._arguments import require
from bliss_astro._threads import check_n_threads, map_threads, use_threads
from bliss_astro._warnings import keep_warnings, messages_about, show_warnings, warn
from bliss_astro.encoders._inputs import OF_BANDS
from bliss_astro.exposures import Band
from bliss_astro.exposures._bands import as_band
from bliss_astro.exposures._read import FILES

from ._estimates import PreparedImage, prepare_image
from ._inputs import encoder_inputs, tile_tensor

# Name of the reference band where none is chosen.
_REFERENCE = 'r'


@dataclasses.dataclass
class PreparedBands:
    """
    An image in one or several bands, the reference band first.

    The images of bands that there are, then the `Band` of each that is missing.
    """

    images: list[PreparedImage]
    missing: list[Band] = dataclasses.field(default_factory=list)

    @property
    def reference(self):
        """The image in the reference band."""
        return self.images[0]

    @property
    def exposures(self):
        """Exposures of the bands that there are."""
        return [image.exposure for image in self.images]

    @property
    def image(self):
        """The exposure, or an `ExposureSet` of several or missing bands."""
        from bliss_astro.exposures import ExposureSet

        if not self.bands:
            return self.reference.exposure
        found = {exposure.band: exposure for exposure in self.exposures}
        found |= dict.fromkeys(self.missing)
        return ExposureSet._of(found, self.reference.exposure.band.name)

    @property
    def cosmic_rays(self):
        """Pixels of cosmic rays, of several bands by name."""
        if not self.bands:
            return self.reference.cosmic_rays
        return {str(own.exposure.band): own.cosmic_rays for own in self.images}

    @property
    def known(self):
        """Bands, `Band`, that there are; none where there is one alone."""
        several = self.images[1:] or self.missing
        return [own.band for own in self.exposures] if several else []

    @property
    def bands(self):
        """Bands, `Band`; none where there is one alone."""
        return [*self.known, *self.missing]

    @property
    def n_pixels(self):
        """Number of pixels of all bands that there are."""
        return sum(exposure.data.size for exposure in self.exposures)

    def messages(self, texts):
        """Texts by band in one list, which name their bands where there are several."""
        names = [f'band {str(band)!r}: ' for band in self.bands] or ['']
        pairs = zip(names, texts, strict=False)
        return [f'{name}{text}' for name, own in pairs for text in own]

    def meta(self):
        """Bands as the meta of a posterior names them."""
        resampled = [e.band.name for e in self.exposures if e.meta.get('resampled')]
        found = {
            'bands': [band.name for band in self.bands],
            'band_wavelengths': [band.wavelength for band in self.bands],
            'bands_missing': [band.name for band in self.missing],
            'bands_resampled': resampled if self.bands else [],
        }
        return {name: value for name, value in found.items() if value}


def prepare_bands(data, options, encoder):
    """
    Prepare an image, or one of several bands, for an encoder: `PreparedBands`.

    One of an encoder without bands is that in the reference band.
    """
    found = read_bands(data, options, encoder, prepare_image)
    if len(found.images) > 1:
        from ._band_checks import check_bands

        check_bands(found.image)
    return found


def read_bands(data, options, encoder, prepare):
    """As `prepare_bands`, each by a function, without checks of one against another."""
    named = {name: getattr(options, name) for name in ('reference', 'calibration')}
    if not _has_bands(data, options.bands):
        for name, value in (named | {'bands': options.bands}).items():
            text = f'{name} was given although data has no bands; leave it out'
            require_none(value, text)
        return PreparedBands([prepare(data, options.image, encoder)])
    from bliss_astro.exposures._set import ExposureSet, split_images
    from bliss_astro.exposures._set_checks import band_of

    from ._band_checks import check_different

    images = split_images(data, options.bands, options.image)
    reference = _choose_reference(data, images, named['reference'])
    if not encoder.config.bands:
        left_out = [str(b) for b, (own, _) in images.items() if own is not None]
        left_out = [name for name in left_out if name != str(reference)]
        if left_out:
            bands = 'band' if len(left_out) == 1 else 'bands'
            warn(
                f'the encoder {encoder.name!r} sees one band: {str(reference)!r} was '
                f'taken, and the {bands} {", ".join(left_out)} left out'
            )
        images = {reference: images[reference]}

    def read(key):
        (image, given), own = images[key], None
        with messages_about(f'band {str(key)!r}'):
            band, given = _described(key, given)
            if image is not None:
                own = prepare(image, given, encoder)
            return band_of(band, own and own.exposure, 'data', 'bandpass'), own

    if check_n_threads(options.n_threads) > 1 and all(map(_is_apart, images.values())):
        with use_threads(options.n_threads):
            prepared = dict(_in_threads(read, images))
    else:
        prepared = dict(map(read, images))
    # Whatever the order in which they were given, results are the same.
    prepared = dict(sorted(prepared.items(), key=lambda item: _order(item[0])))
    own = {band: one and one.exposure for band, one in prepared.items()}
    check_different(own)
    if isinstance(data, ExposureSet):
        text = 'calibration was given although data has one unit; leave it out'
        require_none(named['calibration'], text)
        found = ExposureSet._of(own, str(reference))
    else:
        found = _on_one_grid(own, str(reference), named['calibration'])
    by_name = {str(band): own for band, own in prepared.items()}
    images = [
        dataclasses.replace(by_name[name], exposure=found[name]) for name in found
    ]
    return PreparedBands(images, [b for b in found.bands if b.name not in found])


def _is_apart(image_and_given):
    """Whether nothing of an image, such as its file, is shared with other bands."""
    image, given = image_and_given
    kinds = str, os.PathLike, np.ndarray, type(None)
    return isinstance(image, kinds) and given.get('psf') is None


def _in_threads(function, items):
    """Yield results of items, with warnings about them shown and errors raised here."""

    def work(item):
        # A thread has no user's line that a warning could be about.
        with keep_warnings() as kept:
            try:
                return function(item), kept, None
            except Exception as error:  # noqa: BLE001 (raised below)
                return None, kept, error

    for result, kept, error in map_threads(work, items):
        show_warnings(kept)
        if error is not None:
            raise error
        yield result


def require_none(value, text):
    """Raise a ValueError with a text unless a value is None."""
    if value is not None:
        raise ValueError(text)


def _has_bands(data, bands):
    """Whether an image is one of bands: by name, or a cube with their names."""
    if isinstance(data, Mapping):
        return True
    return bands is not None and (isinstance(data, FILES) or np.ndim(data) == 3)


def _choose_reference(data, images, name):
    """Band that is the reference: the one named, that of a set, r, or the first."""
    there = [band for band, (image, _) in images.items() if image is not None]
    names = list(map(str, there))
    require(names, 'data', 'have an image in some band', list(map(str, images)))
    if name is None:
        usual = getattr(data, 'reference', _REFERENCE)
        # That of a survey too: DECam.r.
        found = (own for own in names if usual in (own, own.rpartition('.')[2]))
        name = next(found, names[0])
    allowed = f'be one of the bands that there are ({", ".join(names)})'
    require(str(name) in names, 'reference', allowed, repr(name))
    return there[names.index(str(name))]


def _described(key, given):
    """Name of a band, with its bandpass where that is given; the other arguments."""
    band, given = as_band(given['bandpass'], 'bandpass'), given | {'bandpass': None}
    return key if band is None else dataclasses.replace(band, name=str(key)), given


def _order(band):
    """Place of a band among others: by wavelength."""
    return band.wavelength, band.width, band.name


def _on_one_grid(exposures, reference, calibration):
    """Bring exposures, or None, by band to one grid and unit: an `ExposureSet`."""
    from bliss_astro.exposures import ExposureSet

    there = [exposure for exposure in exposures.values() if exposure is not None]
    own = {'reference': reference, 'calibration': calibration}
    if all(exposure.wcs is not None for exposure in there) and there[1:]:
        from bliss_astro.coadds import align_bands

        # A fixed seed, so that the noise of resampled bands is always the same.
        return align_bands(exposures, rng=1, **own)
    return ExposureSet(exposures, **own)


# -- inputs of an encoder ------------------------------------------------------------


def encoder_inputs_of_bands(exposures, encoder, **prior):
    """
    Encoder inputs of exposures on one grid, the reference band first.

    A missing band is a `Band`. As `encoder_inputs`, with facts by band that there is.
    """
    first, floor, facts, grid = encoder_inputs(exposures[0], encoder, **prior)
    parts, found = [first], [facts]
    for one in exposures[1:]:
        if isinstance(one, Band):
            # Whatever is not seen is that of the reference band.
            band = first.band.new_tensor(one.description)[:, None, None]
            absent = {
                'image': torch.zeros_like(first.image),
                'mask': torch.ones_like(first.mask),
                'present': torch.zeros_like(first.present),
                'band': band.expand_as(first.band),
            }
            parts.append(dataclasses.replace(first, **absent))
            continue
        radius = first.normalization_radius
        part, _, own, _ = encoder_inputs(one, encoder, radius=radius)
        log_ratio = np.log(own['bkg_error'] / facts['bkg_error'])
        part.log_scale = tile_tensor(log_ratio, encoder.device)[:, None]
        parts.append(part)
        found.append(own)
    inputs = _join_bands(parts)
    if parts[1:]:
        log_nmgy = np.log(facts['bkg_error'] * _nmgy_of(exposures[0].unit))
        inputs.log_nmgy = tile_tensor(log_nmgy, encoder.device)
    return inputs, floor, found, grid


def _nmgy_of(unit):
    """Nanomaggies of a unit; NaN of none, or of one that is no flux density."""
    maggies = u.zero_point_flux(1 * u.AB)
    known = unit is not None and unit.is_equivalent(u.nmgy, maggies)
    return (1 * unit).to_value(u.nmgy, maggies) if known else np.nan


def _join_bands(parts):
    """Inputs of one band each as those of several; maps where one has a map."""
    if len(parts) == 1:
        return parts[0]

    def join(name):
        own = [getattr(part, name) for part in parts]
        height, width = (max(value.shape[k] for value in own) for k in (-2, -1))
        return torch.cat([v.expand(*v.shape[:-2], height, width) for v in own], 1)

    names = (name for name in OF_BANDS if getattr(parts[0], name) is not None)
    present = torch.cat([part.present for part in parts], 1)
    values = {name: join(name) for name in names}
    return dataclasses.replace(parts[0], present=present, sound=False, **values)
