# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bands of an image: each prepared as one image is, on the grid of the reference band.
"""

import dataclasses
from collections.abc import Mapping

import astropy.units as u
import numpy as np
import torch
from astropy.io import fits

from bliss_astro._arguments import require
from bliss_astro._warnings import OutOfDomainWarning, messages_about, warn
from bliss_astro.encoders._inputs import OF_BANDS
from bliss_astro.exposures import Band
from bliss_astro.exposures._geometry import image_shift
from bliss_astro.exposures._header import COUNTS

from ._estimates import PreparedImage, prepare_image
from ._inputs import encoder_inputs, tile_tensor

# Name of the reference band where none is chosen.
_REFERENCE = 'r'
# Pixels by which sources may lie off those of the reference band, and the side of the
# part in the middle that is looked at.
_LARGEST_SHIFT, _SHIFT_SIDE = 1.0, 640
# Largest difference in pixels between the shifts of its halves.
_SAME_SHIFT = 0.5


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
    def bands(self):
        """Bands, `Band`; none where there is one alone."""
        known = [exposure.band for exposure in self.exposures]
        return [*known, *self.missing] if known[1:] or self.missing else []

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
    named = {name: getattr(options, name) for name in ('reference', 'calibration')}
    if not _has_bands(data, options.bands):
        for name, value in (named | {'bands': options.bands}).items():
            text = f'{name} was given although data has no bands; leave it out'
            require_none(value, text)
        return PreparedBands([prepare_image(data, options.image, encoder)])
    from bliss_astro.exposures._set import ExposureSet, split_images

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
    prepared = {}
    for band, (image, given) in images.items():
        with messages_about(f'band {str(band)!r}'):
            own = None if image is None else prepare_image(image, given, encoder)
        prepared[band] = own
    if isinstance(data, ExposureSet):
        text = 'calibration was given although data has one unit; leave it out'
        require_none(named['calibration'], text)
        own = {band: one and one.exposure for band, one in prepared.items()}
        found = ExposureSet._of(own, str(reference))
    else:
        found = _on_one_grid(prepared, str(reference), named['calibration'])
    _check_shifts(found)
    by_name = {str(band): own for band, own in prepared.items()}
    images = [
        dataclasses.replace(by_name[name], exposure=found[name]) for name in found
    ]
    return PreparedBands(images, [b for b in found.bands if b.name not in found])


def require_none(value, text):
    """Raise a ValueError with a text unless a value is None."""
    if value is not None:
        raise ValueError(text)


def _has_bands(data, bands):
    """Whether an image is one of bands: by name, or a cube with their names."""
    if isinstance(data, Mapping):
        return True
    is_file = isinstance(data, fits.HDUList)
    return bands is not None and not is_file and len(np.shape(data)) == 3


def _choose_reference(data, images, name):
    """Band that is the reference: the one named, that of a set, r, or the first."""
    there = [band for band, (image, _) in images.items() if image is not None]
    names = list(map(str, there))
    require(names, 'data', 'have an image in some band', list(map(str, images)))
    if name is None:
        usual = getattr(data, 'reference', _REFERENCE)
        name = usual if usual in names else names[0]
    allowed = f'be one of the bands that there are ({", ".join(names)})'
    require(str(name) in names, 'reference', allowed, repr(name))
    return there[names.index(str(name))]


def _on_one_grid(prepared, reference, calibration):
    """Bring prepared images by band to one grid and unit: an `ExposureSet`."""
    from bliss_astro.exposures import ExposureSet

    exposures = {band: own and own.exposure for band, own in prepared.items()}
    there = [exposure for exposure in exposures.values() if exposure is not None]
    own = {'reference': reference, 'calibration': calibration}
    if all(exposure.wcs is not None for exposure in there) and there[1:]:
        from bliss_astro.coadds import align_bands

        # A fixed seed, so that the noise of resampled bands is always the same.
        found = align_bands(exposures, rng=1, **own)
    else:
        found = ExposureSet(exposures, **own)
    points = [exposure.meta.get('zero_point') for exposure in there]
    relative = found.unit in (None, u.electron, *COUNTS) and None in points
    if there[1:] and relative and calibration is None:
        unit = 'without a unit' if found.unit is None else f'in {found.unit}'
        warn(
            f'the bands are {unit} and not calibrated: their numbers were taken to be '
            'in one unit, so that colours are relative; give zero_point by band, or '
            'calibration',
            OutOfDomainWarning,
        )
    return found


def _check_shifts(exposures):
    """Warn of bands whose sources lie off those of the reference band."""
    (ny, nx), side = exposures.shape, _SHIFT_SIDE // 2
    columns = slice(max(0, nx // 2 - side), nx // 2 + side)
    halves = slice(max(0, ny // 2 - side), ny // 2), slice(ny // 2, ny // 2 + side)
    first = exposures[exposures.reference]
    for name, exposure in list(exposures.items())[1:]:
        masked = [(exposure.mask | first.mask)[cut, columns].all() for cut in halves]
        if any(masked):
            continue
        found = [
            image_shift(exposure[cut, columns], first[cut, columns]) for cut in halves
        ]
        (dx, dy), size = np.mean(found, 0), np.hypot(*np.mean(found, 0))
        apart = np.hypot(*np.subtract(*found))
        # What noise finds is not the same in both halves.
        if size > _LARGEST_SHIFT and apart < _SAME_SHIFT:
            warn(
                f'band {name!r}: its sources lie {size:.1f} px from those of '
                f'{exposures.reference!r} (dx = {dx:.1f}, dy = {dy:.1f})',
                OutOfDomainWarning,
            )


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
    return dataclasses.replace(parts[0], present=present, **values)
