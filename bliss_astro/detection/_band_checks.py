# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of bands against each other: units, places of their light, and colours.
"""

import functools
import itertools

import numpy as np
import torch

from bliss_astro._filters import box_mean
from bliss_astro._warnings import OutOfDomainWarning, warn
from bliss_astro.exposures._geometry import image_shift, light_spectrum
from bliss_astro.exposures._set_checks import is_calibrated
from bliss_astro.priors import ColourPrior
from bliss_astro.units import typical

from ._domain import outside_of_bands

# Pixels by which sources may lie off those of the reference band, and the side of the
# part in the middle that is looked at.
_LARGEST_SHIFT, _SIDE = 1.0, 1280
# Fewest bright pixels of a shift, the share of them that bands must have in common
# without it, and by how much that must be more than with it.
_FEW, _HALF, _GAINED = 10, 0.5, 0.05
# Mean of 3 x 3 pixels in units of the noise of one from which on there is light, the
# fewest such pixels, and their share beyond chance that bands have in common at least
# (simulated ones, and those of SDSS, 0.6 and more).
_BRIGHT, _BRIGHT_MIN, _SHARED = 4.0, 60, 0.3
# Standard deviations of the prior of colours, and a margin of log flux ratios beyond
# (0.5 mag), that light may lie off.
_COLOUR_SIGMA, _COLOUR_MARGIN = 4.0, 0.5
# Colours that are drawn to tell swapped bands, width of the kernel of their density (of
# zero points, fields and extinction), by what factor they must be more likely if
# swapped, and their least likelihood over that of a typical source then.
_N_COLOURS, _NAME_WIDTH, _SWAPPED, _LIKELY = 4000, 0.15, 100.0, 0.1


def check_different(exposures):
    """Refuse one image in two bands."""
    there = {band: own.data for band, own in exposures.items() if own is not None}
    for first, other in itertools.combinations(there, 2):
        if np.array_equal(there[first], there[other], equal_nan=True):
            names = f"'{first}' and '{other}'"
            raise ValueError(f'the bands {names} have one image, pixel by pixel')


def check_bands(exposures):
    """Warn of what is strange about the bands of an `ExposureSet`."""
    relative = _check_calibration(exposures)
    _check_light(exposures, relative)


def _check_calibration(exposures):
    """Warn of bands that are in one unit by no more than assumption: their names."""
    first, *others = exposures.values()
    relative = [
        str(own.band)
        for own in others
        if None in (own.meta.get('zero_point'), first.meta.get('zero_point'))
        and 'calibration' not in own.meta
    ]
    if is_calibrated(first.unit):
        return []
    if relative:
        unit = 'without a unit' if first.unit is None else f'in {first.unit}'
        warn(
            f'the bands are {unit} and not calibrated: numbers of '
            f'{", ".join(relative)} were taken to be in the unit of {first.band}, so '
            'that colours are relative; give zero_point by band, or calibration',
            OutOfDomainWarning,
        )
    return relative


def _check_light(exposures, relative):
    """Warn of bands whose light is elsewhere than the reference's, or of no colour."""
    cut = tuple(
        slice(max(0, n // 2 - _SIDE // 2), n // 2 + _SIDE // 2) for n in exposures.shape
    )
    first, ratios, spectrum = exposures[exposures.reference], {}, None
    for name, exposure in list(exposures.items())[1:]:
        if (exposure.mask | first.mask)[cut].all():
            continue
        light = _light_of(exposure, first, cut)
        spectrum = spectrum or light_spectrum(first[cut])
        text = _text_of_shift(light_spectrum(exposure[cut]), spectrum, light)
        text = text or _text_of_places(*light)
        if text is None and name not in relative:
            ratio = _flux_ratio(exposure, first, light)
            text = ratio and _text_of_colour(exposure, first, *ratio)
            ratios |= {exposure.band: ratio[0]} if ratio and not text else {}
        if text is not None:
            text = text.format(repr(exposures.reference))
            warn(f'band {name!r}: its {text}', OutOfDomainWarning)
    _check_names(first.band, ratios)


def _light_of(one, other, cut):
    """Light in a part of two exposures over its noise, smoothed; and good pixels."""
    good, light = ~(one.mask | other.mask)[cut], []
    for exposure in (one, other):
        maps = {name: value[cut] for name, value in exposure.maps().items()}
        pull = (exposure.data[cut] - maps['background']) / maps['bkg_error']
        light.append(box_mean(np.where(good, pull, 0).astype(np.float32), 3))
    return *light, good


def _shared(one, other):
    """Share of the bright pixels of one band that are bright in both; and numbers."""
    fewer, more = sorted(map(np.count_nonzero, (one, other)))
    return np.count_nonzero(one & other) / max(fewer, 1), fewer, more


def _text_of_shift(spectrum, of_first, light):
    """Text about light that lies some pixels off, or None."""
    dx, dy = image_shift(spectrum, of_first)
    if not np.hypot(dx, dy) > _LARGEST_SHIFT:
        return None
    one, other = (own > _BRIGHT for own in light[:2])
    back = np.roll(one, (-round(dy), -round(dx)), (0, 1))
    # What noise finds brings no light together.
    shared, fewer, _ = _shared(back, other)
    least = max(_HALF, _shared(one, other)[0] + _GAINED)
    if fewer < _FEW or shared < least:
        return None
    shift = f'(dx = {dx:.1f}, dy = {dy:.1f})'
    return f'sources lie {np.hypot(dx, dy):.1f} px from those of {{}} {shift}'


def _text_of_places(one, other, good):
    """Text about light that coincides hardly more than by chance, or None."""
    shared, fewer, more = _shared(one > _BRIGHT, other > _BRIGHT)
    by_chance = more / max(np.count_nonzero(good), 1)
    enough = fewer >= _BRIGHT_MIN and by_chance < 0.5
    if not enough or shared > by_chance + _SHARED * (1 - by_chance):
        return None
    why = 'another field, flipped, a wrong wcs, or artefacts'
    return f'light lies at other places than that of {{}}: {why}'


def _flux_ratio(exposure, first, light):
    """Ratio of the light of known bands, and its error; or None."""
    bright = light[1] > _BRIGHT
    n = np.count_nonzero(bright)
    bands = first.band, exposure.band
    if n < _BRIGHT_MIN or any(outside_of_bands(band) for band in bands):
        return None
    scale = typical(exposure.bkg_error) / typical(first.bkg_error)
    return scale * np.median(light[0][bright] / light[1][bright]), scale / np.sqrt(n)


def _check_names(reference, ratios):
    """Warn if two bands have each other's light, by flux ratios to the reference."""
    bands = [reference, *(band for band, ratio in ratios.items() if ratio > 0)]
    # One colour may be that of a wrong zero point as well.
    if len(bands) < 3:
        return
    found = np.log([1.0, *(ratios[band] for band in bands[1:])])
    likely = functools.partial(_likelihood, _colours_of(tuple(bands)))
    swaps = {}
    for pair in itertools.combinations(range(len(bands)), 2):
        other = found.copy()
        other[[*pair]] = other[[*pair[::-1]]]
        swaps[pair] = likely(other)
    pair = max(swaps, key=swaps.get)
    if swaps[pair] > max(_SWAPPED * likely(found), _LIKELY * likely(None)):
        names = ' and '.join(repr(str(bands[k])) for k in pair)
        warn(
            f'bands {names}: the light of either is that of the other, by the colours '
            'of all bands; are the images swapped?',
            OutOfDomainWarning,
        )


@functools.lru_cache
def _colours_of(bands):
    """Drawn log flux ratios ``(N, F)`` of stars and galaxies to the first band."""
    magnitude = torch.arange(15.0, 24.0, 9 / _N_COLOURS)
    is_galaxy = torch.arange(len(magnitude)) % 2 > 0
    generator = torch.Generator().manual_seed(1)
    prior = ColourPrior.default()
    drawn = prior.sample(magnitude, is_galaxy, list(bands), generator=generator)
    return drawn.double().numpy()


def _likelihood(colours, found):
    """Density at log fluxes of the bands, up to a factor; the typical one for None."""
    if found is None:
        some = colours[:: len(colours) // 100]
        return np.median([_likelihood(colours, own) for own in some])
    away = (found - found[0] - colours) / _NAME_WIDTH
    return np.exp(-0.5 * (away**2).sum(1)).mean()


def _text_of_colour(exposure, first, ratio, error):
    """Text about light of a colour that neither stars nor galaxies have, or None."""
    bands = first.band, exposure.band
    low, high = _colour_range(*bands)
    if low - error < ratio < high + error:
        return None
    known = f'{low:.2g} to {high:.2g} times in stars and galaxies'
    return (
        f'light is {ratio:.2g} times that of {{}} ({known}): is the unit right? give '
        'zero_point or calibration'
    )


@functools.lru_cache
def _colour_range(reference, band):
    """Flux ratios to a reference band between which stars and galaxies lie."""
    magnitude = torch.arange(15.0, 25.0, 3.0).repeat(2)
    is_galaxy = torch.arange(len(magnitude)) >= len(magnitude) // 2
    mean, covariance = ColourPrior.default().conditional(
        magnitude, is_galaxy, [reference, band]
    )
    middle, reach = mean[:, 1], _COLOUR_SIGMA * covariance[:, 1, 1].sqrt()
    low, high = (middle - reach).min() - _COLOUR_MARGIN, (middle + reach).max()
    return float(low.exp()), float((high + _COLOUR_MARGIN).exp())
