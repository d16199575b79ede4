# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Parameters of a source: position, type, flux, colour, shape and further ones.

Each parameter is distributed given those before it. Its entry, a `SourceParameter`,
says how it is named, transformed, conditioned, drawn in simulations and shown in
tables; the order of the entries stands in `parameters_of` alone, and densities, draws,
modes and marginals follow it. A further parameter is one more entry of `PARAMETERS`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from bliss_astro._arguments import require
from bliss_astro.priors import GALAXY_SHAPE_NAMES

from ._shape_layers import (
    N_SHAPE,
    ParameterLayers,
    ellipticity_to_vector,
    shape_to_vector,
    vector_to_ellipticity,
    vector_to_shape,
)


def _same(value):
    return value


def _without_first(value):
    return value[..., 1:]


def _with_zero(value):
    return nn.functional.pad(value, (1, 0))


def _ellipticity_to_vector(value):
    return ellipticity_to_vector(*value.unbind(-1))


class SourceColumn(NamedTuple):
    """
    Column of a table with one number of a parameter; another has its error.

    Parameters
    ----------
    name, ucd, description : str
        As in ``data/catalog/columns.csv``.

    unit, display, limits : str, optional
        As there. The summary of a row is the median of the draws, or, of an ``angle``,
        which is in radians here, the mean direction.
    """

    name: str
    ucd: str
    description: str
    unit: str = ''
    display: str = '.3f'
    limits: str = ''


@dataclasses.dataclass(frozen=True)
class SourceParameter:
    """
    One parameter of a source: its entry in the chain.

    Two entries of one name are the distributions of stars and of galaxies.

    Parameters
    ----------
    name : str
        Name in the values of a chain, in losses and among the layers.

    of : {'all', 'star', 'galaxy'}, optional
        Sources that have the parameter.

    dim : int, optional
        Number D of its values; 0 for one without an axis, of those built in alone.

    context : tuple of str, optional
        Parameters before it on which it depends beside the image: the flux, and others
        of the same ``of``.

    to_vector, from_vector : callable, optional
        From values ``(..., D)`` to D numbers without bounds, over which the
        distribution is, and back.

    layers : callable, optional
        Makes the layers, from the numbers of features, of context and D: a module
        whose output is a distribution, as ``ParameterLayers``.

    columns : tuple of `SourceColumn` or str, optional
        Columns of the D values in tables, or their names in
        ``data/catalog/columns.csv``; without any, the values are in draws alone.

    prior : callable, optional
        Draws values for simulations, as ``priors`` of
        `~bliss_astro.simulation.SimulationStream`; NaN where they are unknown.

    auxiliary : bool, optional
        Whether the parameter is a function of others, learnt for itself: no factor of
        the density, and in no draws of catalogues.

    Notes
    -----
    An encoder whose `~bliss_astro.encoders.EncoderConfig` names an entry of
    ``PARAMETERS`` infers it, see :ref:`source_parameter`.
    """

    name: str
    of: str = 'all'
    dim: int = 1
    context: tuple[str, ...] = ()
    to_vector: Callable = _same
    from_vector: Callable = _same
    layers: Callable = ParameterLayers
    columns: tuple[SourceColumn | str, ...] = ()
    prior: Callable | None = None
    auxiliary: bool = False

    def owners(self, values):
        """Whether each source has the parameter, bool tensor; None where all have."""
        if self.of == 'all' or 'type' not in values:
            return None
        return (values['type'] > 0) == (self.of == 'galaxy')

    @property
    def column_names(self):
        """Names of the columns of the D values."""
        return [getattr(column, 'name', column) for column in self.columns]


PARAMETERS = {}
"""Further parameters of a source by name, see `SourceParameter`."""

POSITION = SourceParameter('position', dim=2)
STAR_FLUX = SourceParameter('flux', of='star', dim=0)
TYPE = SourceParameter('type', dim=0)
GALAXY_FLUX = SourceParameter('flux', of='galaxy', dim=0)
# Its D are the bands of the images, see `of_bands`; 0 for the reference band.
COLOUR = SourceParameter(
    'colour',
    dim=0,
    context=('flux',),
    to_vector=_without_first,
    from_vector=_with_zero,
)
ELLIPTICITY = SourceParameter(
    'ellipticity',
    of='galaxy',
    dim=2,
    context=('flux',),
    to_vector=_ellipticity_to_vector,
    from_vector=vector_to_ellipticity,
    columns=('e1', 'e2'),
    auxiliary=True,
)
SHAPE = SourceParameter(
    'shape',
    of='galaxy',
    dim=N_SHAPE,
    context=('flux',),
    to_vector=shape_to_vector,
    from_vector=vector_to_shape,
    columns=GALAXY_SHAPE_NAMES,
)

# Names of these, of their layers and of other terms of the density.
_TAKEN = {'position', 'type', 'flux', 'ellipticity', 'shape', 'count', 'image', 'start'}
_TAKEN |= {'hidden', 'extended', 'is_galaxy', 'galaxy_flux', 'colour'}
_OF = 'all', 'star', 'galaxy'

STARS = (POSITION, STAR_FLUX)
STARS_AND_GALAXIES = (*STARS, TYPE, GALAXY_FLUX)
# Of encoders in sequence, given positions. Random numbers are drawn in this order.
IN_SEQUENCE = (TYPE, GALAXY_FLUX, STAR_FLUX)


def parameters_of(first, *, shapes=False, latent_dim=0, names=(), bands=False):
    """
    Entries of a chain in their order.

    Parameters
    ----------
    first : tuple of `SourceParameter`
        Entries up to the flux: `STARS`, `STARS_AND_GALAXIES`, `IN_SEQUENCE` or none.

    shapes, latent_dim
        As in `~bliss_astro.encoders.EncoderConfig`.

    names : tuple of str
        Names of further parameters.

    bands : bool
        Whether there are colours.

    Raises
    ------
    ValueError
        If an entry is missing, wrong, or of galaxies where there are none.
    """
    chain = [*first, *[COLOUR] * bands]
    if shapes:
        latent = SourceParameter('shape', of='galaxy', dim=latent_dim)
        chain += [ELLIPTICITY, latent if latent_dim else SHAPE]
    for name in names:
        known = ', '.join(PARAMETERS) or 'none'
        sound = name in PARAMETERS and name not in {*_TAKEN, *(e.name for e in chain)}
        require(sound, 'parameters', f'be known ones ({known}) of other names', name)
        entry = _sound(PARAMETERS[name], name)
        typed = entry.of != 'galaxy' or any(e.of == 'galaxy' for e in chain)
        require(typed, 'parameters', 'be those of stars without galaxies', name)
        before = {'flux', *(e.name for e in after_flux(chain) if e.of == entry.of)}
        sound, allowed = before >= {*entry.context}, f'be of {sorted(before)}'
        require(sound, f'context of {name}', allowed, entry.context)
        chain.append(entry)
    return tuple(chain)


def _sound(entry, name):
    """The entry of a further parameter; raise where its fields do not fit."""
    own, n = f'PARAMETERS[{name!r}]', len(entry.columns)
    require(entry.name == name, f'name of {own}', 'be its key', entry.name)
    require(entry.of in _OF, f'of in {own}', f'be one of {_OF}', entry.of)
    require(entry.dim in range(1, 10**6), f'dim of {own}', 'be 1 or more', entry.dim)
    require(n in (0, entry.dim), f'columns of {own}', f'be none or {entry.dim}', n)
    return entry


def of_bands(parameters, n_bands):
    """Entries for images of F bands, without colours where it is one."""
    dims = [n_bands if entry == COLOUR else entry.dim for entry in parameters]
    pairs = zip(parameters, dims, strict=True)
    pairs = ((p, dim) for p, dim in pairs if p != COLOUR or dim > 1)
    return tuple(dataclasses.replace(p, dim=dim) for p, dim in pairs)


def after_flux(parameters):
    """Entries after the flux, which are drawn given it."""
    return tuple(p for p in parameters if p.name not in ('position', 'type', 'flux'))


def further(parameters):
    """Entries of further parameters, in the order of ``TileCatalog.further``."""
    return [entry for entry in parameters if entry.name not in _TAKEN]


def add_layers(blocks, parameters, n_features):
    """Add the layers of further parameters to a dict of modules."""
    dims = {entry.name: max(1, entry.dim) for entry in parameters}
    for entry in further(parameters):
        n_context = sum(dims.get(name, 1) for name in entry.context)
        blocks[entry.name] = entry.layers(n_features, n_context, entry.dim)


def true_values(parameters, catalog, at, *, high=None):
    """
    Values of the sources of a catalogue at some places, by parameter.

    Fluxes are kept below the upper ends ``high`` of their ranges; ellipticities are
    those of `TileCatalog.with_ellipticity`; colours that a catalogue lacks are NaN.
    """
    values = {
        'position': torch.stack([catalog.x[at], catalog.y[at]], -1),
        'flux': catalog.log_flux[at],
        'shape': catalog.shape[at],
    }
    if high is not None:
        values['flux'] = torch.minimum(values['flux'], high - 1e-4 * high)
    dims = {entry.name: entry.dim for entry in parameters}
    if 'colour' in dims:
        colour = catalog.colour[at]
        n_unknown = dims['colour'] - colour.shape[-1]
        values['colour'] = nn.functional.pad(colour, (0, n_unknown), value=torch.nan)
    if any(entry.of == 'galaxy' for entry in parameters):
        values['type'] = catalog.galaxy[at]
    if 'ellipticity' in dims:
        values['ellipticity'] = catalog.ellipticity[at]
    if entries := further(parameters):
        parts = catalog.further[at].split([entry.dim for entry in entries], -1)
        values |= {e.name: part for e, part in zip(entries, parts, strict=True)}
    return values


def put_values(parameters, catalog, at, values):
    """Put values of sources into a catalogue, those that there are."""
    if 'position' in values:
        catalog.x[at], catalog.y[at] = values['position'].unbind(-1)
    fields = {'type': 'galaxy', 'flux': 'log_flux'}
    for name in ('type', 'flux', 'colour', 'shape'):
        if name in values:
            getattr(catalog, fields.get(name, name))[at] = values[name]
    parts = [values[e.name] for e in further(parameters) if e.name in values]
    if parts:
        catalog.further[at] = torch.cat(parts, -1)


def n_uniform(parameters):
    """How many uniform numbers `SourceChain.quantile_draw` takes for each draw."""
    return 2 + sum(1 + entry.dim for entry in after_flux(parameters))
