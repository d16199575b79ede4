# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Domain of an encoder: the ranges of images that it was trained on.

A training computes it from its simulations and writes it on the card, where
warnings, recipes and documentation read it.
"""

import dataclasses

from bliss_astro.exposures._exposure import USUAL_BACKGROUND_ERROR, USUAL_PSF_ERROR


@dataclasses.dataclass(frozen=True)
class Domain:
    """
    Ranges of images that an encoder was trained on.

    Attributes
    ----------
    psf_area : tuple of float
        Effective area ``1 / sum(p^2)`` of the PSF in square pixels.

    density : tuple of float
        Stars per pixel above the flux floor.

    noise : tuple of float
        Noise of empty sky in electrons.

    correlation : float
        Largest correlation of the noise of neighbouring pixels.

    floor_snr : tuple of float or None
        Signal-to-noise ratio of a source at the flux floor.

    fwhm : tuple of float or None
        Full width at half maximum of the PSF in pixels, for information.

    n_exposures : tuple of int or None
        Depth of the coadds, for information.

    flux_min : float or None
        The one flux floor, in electrons of an exposure, of an encoder that was
        trained for no other.

    psf_features : tuple of two tuples of 8 float, or None
        Lowest and highest features of PSFs (``describe_shape``), to
        which those of an image are clipped before the network sees them.

    psf_error, background_error : float
        Largest stated errors, see `~bliss_astro.exposures.Exposure`.
    """

    psf_area: tuple[float, float]
    density: tuple[float, float]
    noise: tuple[float, float]
    correlation: float
    floor_snr: tuple[float, float] | None = None
    fwhm: tuple[float, float] | None = None
    n_exposures: tuple[int, int] | None = None
    flux_min: float | None = None
    psf_features: tuple | None = None
    psf_error: float = 3 * USUAL_PSF_ERROR
    background_error: float = 3 * USUAL_BACKGROUND_ERROR

    @classmethod
    def from_card(cls, card):
        """
        Return the domain that the card of an encoder states.

        Parameters
        ----------
        card : dict
            The card, ``encoder.card``.

        Returns
        -------
        domain : `Domain` or None
            `None` if the card states none.
        """
        stated = card.get('domain')
        if stated is None:
            return None
        return cls(**{name: _tuples(value) for name, value in stated.items()})

    @classmethod
    def of(cls, encoder):
        """Return the domain of an encoder, by `from_card`."""
        return cls.from_card(encoder.card)

    def to_card(self):
        """Return the domain as plain values of five digits, for JSON."""
        return _rounded(dataclasses.asdict(self))


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return float(f'{value:.5g}') if isinstance(value, float) else value


def mean_interpolation(dither):
    """Mean effect of bilinear alignment on the PSF and the noise of a deep coadd."""
    kernel = dither / 2 - dither**2 / 3
    return kernel, 1 - 2 * kernel
