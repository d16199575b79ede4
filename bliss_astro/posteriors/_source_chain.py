# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Chain of the parameters of sources, each distributed given those before it.
"""

import torch

from ._factors import LogFluxFactor, draw_flux, flux_parts
from ._shape_layers import SHAPE_INPUTS
from ._source_parameters import COLOUR, STAR_FLUX, after_flux


class SourceChain:
    """
    Distributions of the parameters of N sources, each given those before it.

    Values of parameters are a dict of tensors by name: ``position`` ``(N, 2)``,
    ``type`` ``(N,)`` (1 for galaxies), ``flux`` ``(N,)`` (the logarithm), others
    ``(N, D)``.

    Parameters
    ----------
    parameters : tuple of `SourceParameter`
        Entries in their order.

    layers : mapping of str to `torch.nn.Module`
        Layers of what is drawn given the flux.

    inputs : dict of tensor
        Their inputs: ``features`` ``(N, width)``, and fits where there are shapes.
    """

    def __init__(self, parameters, layers, inputs):
        self.entries, self.layers, self.inputs = parameters, layers, inputs

    # The last flux, and distributions of shape and ellipticity given it.
    _shapes = None, None
    # Distributions of the colours of all types at any flux, where they are known.
    colours = None

    def factor(self, entry, values):
        """Distribution of a parameter, given values of those before it."""
        if entry.name in ('shape', 'ellipticity'):
            # Both have hidden layers in common.
            flux, factors = self._shapes
            if flux is not values['flux']:
                flux, inputs = values['flux'], self.inputs
                factors = self.layers['shape'](inputs['features'], inputs, flux)
                self._shapes = flux, factors
            return factors[entry.name == 'ellipticity']
        if entry.name == 'colour':
            kind = values.get('type', torch.zeros_like(values['flux'])).long()
            if self.colours is not None:
                return self.colours.given(values['flux'], kind)
            # Of these types alone.
            own = self.layers['colour'](self.inputs['features'], self.inputs, kind)
            return own.given(values['flux'])
        forms = {p.name: p.to_vector for p in (STAR_FLUX, *self.entries)}
        context = [forms[n](values[n]) for n in entry.context]
        features = self.inputs['features']
        context = [v if v.dim() == features.dim() else v[..., None] for v in context]
        context = [v.nan_to_num() for v in context]
        return self.layers[entry.name](features, context)

    def log_prob(self, values) -> dict:
        """Log-densities ``(N,)`` by parameter, 0 where one is unknown."""
        terms = {}
        for entry in self.entries:
            name, own = entry.name, entry.owners(values)
            with torch.no_grad():
                vector = entry.to_vector(values[name])
                # Some colours may be known and others not.
                if entry.dim and name != 'colour':
                    known = vector.isfinite().all(-1)
                    own = known if own is None else own & known
                    vector = torch.where(own[:, None], vector, 0.0)
            term = self.factor(entry, values).log_prob(vector)
            term = term if own is None else torch.where(own, term, 0.0)
            terms[name] = terms[name] + term if name in terms else term
        return terms

    def sample(self, given=(), q=(), *, generator=None) -> dict:
        """Draw the values that are not given, those in ``q`` from uniform numbers."""
        values = dict(given)
        entries = [p for p in self.entries if p.name not in values]
        entries = [p for p in entries if not p.auxiliary]

        def draw(entry, factor):
            if entry.name in q:
                return factor.quantile_draw(q[entry.name])
            return factor.sample(generator=generator)

        return self._draw(entries, values, draw)

    def mode(self) -> dict:
        """Most probable position and type, and the flux at its highest point."""
        rest = after_flux(self.entries)
        entries = [p for p in self.entries if p not in rest]
        return self._draw(entries, {}, lambda _, factor: factor.mode())

    def quantile_draw(self, flux, q) -> dict:
        """
        Draws of what follows the flux, each as if sources were of the type that has it.

        Parameters
        ----------
        flux : tensor ``(N, 1 + 3 M)``
            Distribution of the log-flux, `LogFluxFactor.packed`.

        q : tensor ``(N, P, n_uniform)`` or ``(1, P, n_uniform)``
            Uniform numbers.

        Returns
        -------
        values : dict of tensor ``(N, P, D)``
            Draws by parameter.
        """
        names = 'features', *SHAPE_INPUTS
        inputs = {k: v[:, None] for k, v in self.inputs.items() if k in names}
        chain = SourceChain(self.entries, self.layers, inputs)
        typed = any(entry.of == 'galaxy' for entry in self.entries)
        entries = after_flux(self.entries)
        of_flux, *parts = q.split([2, *(1 + entry.dim for entry in entries)], -1)
        parts = {e.name: part for e, part in zip(entries, parts, strict=True)}

        def draw(entry, factor):
            return factor.quantile_draw(parts[entry.name].expand(len(flux), -1, -1))

        values = {}
        for of in ('galaxy', 'star', 'all'):
            own = [entry for entry in entries if entry.of == of]
            if own:
                drawn = draw_flux(flux_parts(flux, of=of if typed else 'all'), of_flux)
                values |= chain._draw(own, {'flux': drawn}, draw)
        return {entry.name: values[entry.name] for entry in entries}

    def draw_colours(self, flux, q) -> dict:
        """
        Draws of colours, with the types and fluxes that they are given.

        Parameters
        ----------
        flux : tensor ``(N, P, 1 + 3 M)``
            Distribution of the log-flux for each draw, `LogFluxFactor.packed`.

        q : tensor ``(N, P, 3 + F)`` or ``(1, P, 3 + F)``
            Uniform numbers.

        Returns
        -------
        values : dict of tensor ``(N, P, D)``
            ``colour`` and ``flux`` and, where sources have types, ``type``.
        """
        parts, high, kind = flux_parts(flux), flux[..., 0], None
        factor = LogFluxFactor(*parts, torch.zeros_like(high), high)
        log_flux, component = factor.draw_components(q[..., :2])
        values = {'flux': log_flux}
        if any(entry.name == 'type' for entry in self.entries):
            kind = (component >= parts[0].shape[-1] // 2).long()
            values['type'] = kind.to(log_flux)
        colours = self.layers['colour'](self.inputs['features'], self.inputs)
        values = {name: value[..., None] for name, value in values.items()}
        drawn = colours.given(log_flux, kind).quantile_draw(q[..., 2:-1])
        return values | {'colour': COLOUR.from_vector(drawn)}

    def _draw(self, entries, values, pick):
        for entry in entries:
            drawn = entry.from_vector(pick(entry, self.factor(entry, values)))
            if (own := entry.owners(values)) is not None:
                own = own[:, None] if entry.dim else own
                drawn = torch.where(own, drawn, values.get(entry.name, 0.0))
            values[entry.name] = drawn
        return values
