# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Areas so full of sources, or of structure, that sources cannot be told apart.
"""

import math

import numpy as np
from scipy.ndimage import uniform_filter

from bliss_astro.encoders import Domain
from bliss_astro.flags import CatalogFlag

__all__ = ['check_fullness']

# Side in tiles of the area over which the share of tiles with a source is taken.
_AREA = 16
# Share beyond which an area is full, for encoders that were trained on less, and the
# slack above what those are expected to see that were trained on more.
_FULL, _SLACK = 0.4, 1.05
# Tiles that an image needs to be called full.
_LEAST_TILES = 64
# Share of the image from which on nothing is refined.
_MOSTLY = 0.5


def check_fullness(encoder, posterior):
    """
    Find where most tiles have a source.

    Stars of any density that an encoder was trained on leave tiles empty; galaxies
    larger than those of the training, nebulae, and noise that is stronger than stated
    do not.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Its card states the largest density.

    posterior : `~bliss_astro.posteriors.TilePosterior`
        Of one image.

    Returns
    -------
    flags : int array ``(rows, columns)``
        ``DENSITY_OUT_OF_DOMAIN`` where it is full.

    message : str or None
        What is to be warned of.

    mostly : bool
        Whether that is most of the image.
    """
    count = posterior.decided()[0].count[0].cpu().numpy()
    # One star fills all of an image of a few tiles.
    if count.size < _LEAST_TILES:
        return np.zeros(count.shape, dtype=int), None, False
    share = uniform_filter((count > 0).astype(float), _AREA, mode='nearest')
    domain = Domain.of(encoder)
    limit = _FULL
    if domain is not None:
        expected = domain.density[1] * posterior.grid.size**2
        limit = max(limit, _SLACK * -math.expm1(-expected))
    full = share > limit
    flags = np.where(full, int(CatalogFlag.DENSITY_OUT_OF_DOMAIN), 0)
    if not full.any():
        return flags, None, False
    part = full.mean()
    where = 'all' if part > 0.99 else f'{100 * part:.0f} %' if part > 0.01 else 'a part'
    message = (
        f'sources were found nearly everywhere in {where} of the image (in '
        f'{100 * share.max():.0f} % of the tiles of {posterior.grid.size} px): stars '
        f'too dense for the encoder {encoder.name!r}, a large galaxy or nebula, or '
        'noise that is stronger than bkg_error; rows concerned are flagged '
        'density_out_of_domain. Give background and bkg_error, or for a field of stars '
        "encoder='stars-crowded'"
    )
    if part > _MOSTLY:
        message += '. Shapes and sources on borders of tiles were not refined'
    return flags, message, part > _MOSTLY
