# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A further parameter of galaxies: the index of their Sersic profile.
"""

import torch

from bliss_astro.posteriors import PARAMETERS, SourceColumn, SourceParameter


def draw_indices(sources, generator):
    """Indices of 1 (disks) to 4 (bulges), which are the larger galaxies here."""
    like = sources.flux
    index = 4 ** torch.rand(like.shape, generator=generator, device=like.device)
    sources.galaxy[..., 0] = (4 - index) / 3  # disk fraction
    sources.galaxy[..., 4:] = 1.5 * index[..., None]  # radii in pixels
    return index[..., None]


text = 'Index of the Sersic profile, given a galaxy'
PARAMETERS['sersic_index'] = SourceParameter(
    'sersic_index',
    of='galaxy',
    context=('flux',),
    to_vector=lambda index: 3 * torch.log(index / 2),
    from_vector=lambda vector: 2 * torch.exp(vector / 3),
    columns=(SourceColumn('sersic_index', 'src.morph.param', text, limits='positive'),),
    prior=draw_indices,
)
