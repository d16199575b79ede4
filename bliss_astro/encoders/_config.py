# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Configuration of an encoder, its domain, and the normalization of its inputs.

The domain is the ranges of images that an encoder was trained on. A training computes
it from its simulations, and warnings, recipes and documentation read it.
"""

import dataclasses
import json

from bliss_astro._arguments import (
    POSITIVE_INTEGER,
    check_settings,
    one_of,
    require,
    within,
)
from bliss_astro.exposures._exposure import USUAL_BACKGROUND_ERROR, USUAL_PSF_ERROR
from bliss_astro.psf._mixture import DEFAULT_SHAPE

# Settings of cards and configuration files of earlier versions, by their new names.
OLD_SETTINGS = {'told': 'conditioning'}
_RANGES = (
    one_of('tile_size', 2, 4)
    | within(
        'n_most width n_blocks stem_width head_width n_components patch_radius',
        *POSITIVE_INTEGER,
    )
    | within('latent_dim', 'not negative', lambda x: x >= 0)
    | one_of('conditioning', 'all', 'image+background', 'image')
)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """
    Size of an encoder.

    Parameters
    ----------
    tile_size : {2, 4}
        Side of a tile in pixels.

    n_most : int
        Largest number K of sources in a tile.

    width, n_blocks : int
        Channels and number of the residual blocks.

    stem_width : int
        Channels at half resolution.

    head_width : int
        Channels of the head's hidden layer.

    n_components : int
        Components of the mixtures.

    patch_radius : int
        Half-size in pixels of the cut-outs that stars are measured on.

    matched_filter : bool
        Whether the network is given the matched-filtered image too.

    galaxies : bool
        Whether sources are stars or galaxies; else all are stars.

    shapes : bool
        Whether shapes of galaxies are inferred.

    sequence : bool
        Whether detection is followed by encoders for the type of each source and
        for its flux and shape (Hansen et al. 2022), rather than one pass for all.

    shapes_only : bool
        Whether the only encoder that follows detection is that of shapes, and types
        and fluxes are those of the one pass.

    latent_dim : int
        If not 0, dimension of the latent space of a learned galaxy model
        (`~bliss_astro.galaxies.GalaxyAutoencoder`) in which shapes are points,
        instead of bulges and disks.

    uncertainties : bool
        Whether errors of PSF and background, and the PSF's asymmetry, are inputs.

    conditioning : {'all', 'image+background', 'image'}
        Inputs of the encoder; the lesser ones are for comparison (the networks
        (ii) and (i) of Patel et al. 2025).

    parameters : tuple of str
        Names of further parameters of a source that are inferred, entries of
        ``bliss_astro.posteriors.PARAMETERS``.

    bands : bool
        Whether bands beside the reference band are inputs; else they are left out.
        Needs the matched filter.

    Raises
    ------
    ValueError
        If a value is of another type or out of its range.
    """

    tile_size: int = 4
    n_most: int = 2
    width: int = 96
    n_blocks: int = 4
    stem_width: int = 48
    head_width: int = 128
    n_components: int = 3
    patch_radius: int = 6
    matched_filter: bool = True
    galaxies: bool = False
    shapes: bool = False
    sequence: bool = False
    shapes_only: bool = False
    latent_dim: int = 0
    uncertainties: bool = False
    conditioning: str = 'all'
    parameters: tuple[str, ...] = ()
    bands: bool = False

    def __post_init__(self):
        check_settings(self, _RANGES)
        for name, needed in (
            ('shapes', 'galaxies'),
            ('sequence', 'shapes'),
            ('shapes_only', 'sequence'),
            ('latent_dim', 'shapes'),
            ('bands', 'matched_filter'),
        ):
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f'{name} needs {needed} = true')
        sound = not self.bands or self.conditioning == 'all'
        allowed = "be 'all' where bands is true"
        require(sound, 'conditioning', allowed, self.conditioning)


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
        Lowest and highest features of PSFs (``GaussianPSF.describe``), to
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

        def as_tuple(value):
            return tuple(map(as_tuple, value)) if isinstance(value, list) else value

        stated = card.get('domain')
        if stated is None:
            return None
        return cls(**{name: as_tuple(value) for name, value in stated.items()})

    @classmethod
    def of(cls, encoder):
        """Return the domain of an encoder, by `from_card`."""
        return cls.from_card(encoder.card)

    def to_card(self):
        """Return the domain as plain values of five digits, for JSON."""
        text = json.dumps(dataclasses.asdict(self))
        return json.loads(text, parse_float=lambda x: float(f'{float(x):.5g}'))


def mean_interpolation(dither):
    """Mean effect of bilinear alignment on the PSF and the noise of a deep coadd."""
    kernel = dither / 2 - dither**2 / 3
    return kernel, 1 - 2 * kernel


# -- normalization of inputs -----------------------------------------------------------

# Every number from here on is part of the bundled weights: a change of one needs new
# weights. Unless stated otherwise, offsets and widths are rounded means and standard
# deviations over the training simulations of the encoder 'stars'. (The features of PSFs
# are scaled by `GaussianPSF.describe`.)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The map ``gain * (value - offset) / width`` to about unit size."""

    offset: float = 0.0
    width: float = 1.0
    gain: float = 1.0

    def __call__(self, value):
        return self.gain * (value - self.offset) / self.width


FEATURES = {
    # Logarithm of the noise in electrons: e^4.2 = 67.
    'log_noise': Scaling(offset=4.2, width=1.2),
    # Correlations of 0 to 0.25, those of deep coadds, become -0.5 to 0.5.
    'correlation': Scaling(offset=0.125, gain=4.0),
    # Logarithm of sources per pixel: e^-7 = 9e-4.
    'log_density': Scaling(offset=-7.0, width=2.5),
    # Logarithm of the flux floor over the noise of a pixel.
    'log_flux_floor': Scaling(offset=3.5),
    # Logarithm of the signal-to-noise ratio at the flux floor: e^1.8 = 6.
    'log_snr': Scaling(offset=1.8),
    # Relative error of the PSF's width over the usual one: above it, and as a
    # logarithm below it, where bright sources show the difference. Gains bring the
    # ranges of the encoder 'stars-galaxies' to about unit size.
    'psf_error': Scaling(gain=15.0),
    'log_psf_error': Scaling(gain=0.4),
    # Error of the background over the noise of a pixel, above the usual one.
    'background_error': Scaling(gain=7.0),
    # Coma and trefoil of the PSF: a standard deviation of 0.03 or so.
    'asymmetry': Scaling(gain=30.0),
    # Logarithms of wavelength and width of a band over those of SDSS r: u is at -0.54
    # and -0.8, y of LSST at 0.46 and -0.3. And of the noise of a faint star's flux over
    # that in
    # the reference band: bands of a survey differ by a factor of e to e^2.
    'log_wavelength': Scaling(gain=2.0),
    'log_width': Scaling(gain=2.0),
    'log_depth': Scaling(),
}

# Pixels over the noise at which the second, compressed channel bends.
ASINH_KNEE = 30
# Relative error of the PSF's width below which it counts as exact.
EXACT_PSF_ERROR = 0.001
# Least sum of the noise's correlations over all lags, of anticorrelated noise.
LEAST_NOISE_EXCESS = 0.2

# Logarithm of the profile at 1, 2, 4 and 8 px over the centre, as
# `GaussianPSF.describe` scales it: the 1st percentile of `SeeingPrior`. Fainter wings
# leave no light.
WING_FLOOR = (-1.5, -3.0, -3.0, -3.1)

# Noise in electrons and PSF in place of masked inputs: those of SDSS run 94, camcol
# 1, field 12, which Patel et al. (2025) simulate.
REFERENCE_NOISE = 865.0**0.5
REFERENCE_PSF = DEFAULT_SHAPE

# Widths in pixels of the Gaussians of the matched filter, which together make the
# PSFs of SDSS to a few per cent, and its half-size in pixels.
FILTER_SIGMAS = (0.85, 1.3, 2.0, 3.0)
FILTER_RADIUS = 8
# Widths and half-size in pixels of the filters for what is larger than a PSF.
WIDE_SIGMAS = (2.6, 5.0)
WIDE_RADIUS = 14

# Magnitudes of spectra in ugrizy, less that in r, for multi-band matched filters.
# Stars and the red galaxy: medians of the bluest and the reddest fifth by g - i of the
# stripe 82 coadd (Annis et al. 2014) at r of 18 to 22; the blue galaxy, nearly flat:
# the bluest third of LSST's CatSim at r of 18 to 23. In y all follow CatSim.
SPECTRA = (
    (1.3, 0.3, 0.0, -0.1, -0.2, -0.2),
    (4.0, 1.5, 0.0, -1.4, -2.1, -2.3),
    (0.1, 0.1, 0.0, -0.15, -0.3, -0.5),
    (3.0, 1.7, 0.0, -0.9, -1.3, -1.5),
)
