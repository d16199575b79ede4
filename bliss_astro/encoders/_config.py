# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Configuration of an encoder: sizes, design and inputs.
"""

import dataclasses

from bliss_astro._arguments import POSITIVE_INTEGER, check_settings, one_of, within

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

    def __post_init__(self):
        check_settings(self, _RANGES)
        for name, needed in (
            ('shapes', 'galaxies'),
            ('sequence', 'shapes'),
            ('shapes_only', 'sequence'),
            ('latent_dim', 'shapes'),
        ):
            if getattr(self, name) and not getattr(self, needed):
                msg = f'{name} needs {needed} = true'
                raise ValueError(msg)
