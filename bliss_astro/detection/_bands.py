# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bands of an image: each prepared as one image is, on the grid of the reference band.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import astropy.units as u
import numpy as np
import scipy
import torch

from bliss_astro._arguments import require
from bliss_astro._warnings import OutOfDomainWarning, messages_about, warn
from bliss_astro.encoders._inputs import OF_BANDS
from bliss_astro.exposures import BANDS, Band
from bliss_astro.exposures._bands import as_band
from bliss_astro.exposures._read import FILES

from ._estimates import PreparedImage, prepare_image
from ._inputs import encoder_inputs, tile_tensor

# Name of the reference band where none is chosen.
_REFERENCE = 'r'
# Pixels by which sources may lie off those of the reference band, and the side of the
# part in the middle that is looked at.
_LARGEST_SHIFT, _SHIFT_SIDE = 1.0, 640
# Largest difference in pixels between the shifts of its halves.
_SAME_SHIFT = 0.5
# Mean of 3 x 3 pixels in units of the noise of one from which on there is light, the
# fewest such pixels, and their share beyond chance that bands have in common at least
# (simulated ones, and those of SDSS, 0.6 and more).
_BRIGHT, _BRIGHT_MIN, _SHARED = 4.0, 60, 0.3
# Factors beyond the wavelengths and widths of known bands that are near enough.
_TOLERANCES = {'wavelength': 1.05, 'width': 2.0}


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
        _check_calibration(found.image)
        _check_places(found.image)
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
    for key, (image, given) in images.items():
        with messages_about(f'band {str(key)!r}'):
            band, given = _described(key, given)
            own = None if image is None else prepare(image, given, encoder)
            band = band_of(band, own and own.exposure, 'data', 'bandpass')
        prepared[band] = own
    # Whatever the order in which they were given, results are the same.
    prepared = dict(sorted(prepared.items(), key=lambda item: _order(item[0])))
    _check_different(prepared)
    own = {band: one and one.exposure for band, one in prepared.items()}
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


def _check_different(prepared):
    """Refuse one image in two bands."""
    there = {band: own for band, own in prepared.items() if own is not None}
    for first, other in itertools.combinations(there, 2):
        pair = (there[band].exposure.data for band in (first, other))
        if np.array_equal(*pair, equal_nan=True):
            names = f"'{first}' and '{other}'"
            raise ValueError(f'the bands {names} have one image, pixel by pixel')


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


def _check_calibration(exposures):
    """Warn of bands whose numbers are in one unit by no more than assumption."""
    from bliss_astro.exposures._set_checks import is_calibrated

    first, *others = exposures.values()
    relative = [
        str(own.band)
        for own in others
        if None in (own.meta.get('zero_point'), first.meta.get('zero_point'))
        and 'calibration' not in own.meta
    ]
    if relative and not is_calibrated(first.unit):
        unit = 'without a unit' if first.unit is None else f'in {first.unit}'
        warn(
            f'the bands are {unit} and not calibrated: numbers of '
            f'{", ".join(relative)} were taken to be in the unit of {first.band}, so '
            'that colours are relative; give zero_point by band, or calibration',
            OutOfDomainWarning,
        )


def _check_places(exposures):
    """Warn of bands whose sources lie off those of the reference band, or elsewhere."""
    from bliss_astro.exposures._geometry import image_shift

    (ny, nx), side = exposures.shape, _SHIFT_SIDE // 2
    columns = slice(max(0, nx // 2 - side), nx // 2 + side)
    halves = slice(max(0, ny // 2 - side), ny // 2), slice(ny // 2, ny // 2 + side)
    middle = slice(halves[0].start, halves[1].stop)
    first = exposures[exposures.reference]
    for name, exposure in list(exposures.items())[1:]:
        found = np.array(
            [
                image_shift(exposure[cut, columns], first[cut, columns])
                for cut in halves
                if not (exposure.mask | first.mask)[cut, columns].all()
            ]
        )
        (dx, dy), text = found.mean(0) if len(found) else (0, 0), None
        # What noise finds is not the same in both halves.
        same = len(found) == 2 and np.hypot(*np.subtract(*found)) < _SAME_SHIFT
        if same and np.hypot(dx, dy) > _LARGEST_SHIFT:
            shift = f'(dx = {dx:.1f}, dy = {dy:.1f})'
            text = f'sources lie {np.hypot(dx, dy):.1f} px from those of {{}} {shift}'
        elif _is_elsewhere(exposure, first, cut=(middle, columns)):
            why = 'another field, flipped, a wrong wcs, or artefacts'
            text = f'light lies at other places than that of {{}}: {why}'
        if text is not None:
            text = text.format(repr(exposures.reference))
            warn(f'band {name!r}: its {text}', OutOfDomainWarning)


def _is_elsewhere(one, other, cut):
    """Whether light of two exposures coincides in a part hardly more than by chance."""
    good, bright = ~(one.mask | other.mask)[cut], []
    for exposure in (one, other):
        maps = {name: value[cut] for name, value in exposure.maps().items()}
        pull = (exposure.data[cut] - maps['background']) / maps['bkg_error']
        mean = scipy.ndimage.uniform_filter(np.where(good, pull, 0), 3)
        bright.append(mean > _BRIGHT)
    fewer, more = sorted(map(np.count_nonzero, bright))
    shared = np.count_nonzero(bright[0] & bright[1]) / max(fewer, 1)
    by_chance = more / max(np.count_nonzero(good), 1)
    enough = fewer >= _BRIGHT_MIN and by_chance < 0.5
    return enough and shared < by_chance + _SHARED * (1 - by_chance)


def band_messages(band, encoder):
    """Texts where a band is unlike those of surveys, on which encoders are trained."""
    texts = []
    for name, tolerance in _TOLERANCES.items() if encoder.config.bands and band else ():
        known = [getattr(own, name) for own in BANDS.values()]
        value, low, high = getattr(band, name), min(known), max(known)
        if not low / tolerance < value < high * tolerance:
            texts.append(
                f'the {name} of the band ({value:g} nm) is outside what bands were '
                f'trained on ({low:g} to {high:g} nm)'
            )
    return texts


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
