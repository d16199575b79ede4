# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogue prior: stars and galaxies of an image, with fluxes in nanomaggies.
"""

import dataclasses
from dataclasses import field

import astropy.units as u
import torch
from astropy.table import QTable

from bliss_astro._arguments import (
    check_positive,
    require,
    require_type,
    torch_generator,
)
from bliss_astro.units import SDSS_PIXEL_SCALE

from ._catalog_fit import fit_populations
from ._counts import MagnitudeCounts, ParetoCounts, draw_places
from ._galaxies import GalaxyPrior, GammaShapes, MagnitudeShapes
from ._numbers import SavedPrior, from_numbers, source_table, to_numbers

_KINDS = {
    kind.__name__: kind
    for kind in (ParetoCounts, MagnitudeCounts, GammaShapes, MagnitudeShapes)
}


@dataclasses.dataclass(frozen=True, eq=False)
class CatalogBatch:
    """
    Catalogues of B images, padded to S sources each.

    Attributes
    ----------
    x, y : tensor ``(B, S)``
        Positions, 0-based pixels.

    flux : tensor ``(B, S)``
        In nmgy; zero in unused places.

    is_galaxy : bool tensor ``(B, S)``
        `False` in unused places.

    galaxy : tensor ``(B, S, 6)``
        In the order of ``GALAXY_SHAPE_NAMES``, radii in pixels. Valid shapes
        everywhere; without meaning for stars and in unused places.

    count : int tensor ``(B,)``
        Number of sources of each image.
    """

    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    is_galaxy: torch.Tensor
    galaxy: torch.Tensor
    count: torch.Tensor


@dataclasses.dataclass(frozen=True)
class CatalogPrior(SavedPrior):
    """
    A Poisson number of stars and one of galaxies, uniform in position.

    Parameters
    ----------
    stars : `ParetoCounts` or `MagnitudeCounts`
        Number of stars of each flux.

    galaxies : `GalaxyPrior`
        Number, fluxes and shapes of galaxies.

    Notes
    -----
    The defaults are the prior of the NPE paper (Patel et al. 2025,
    table 1): 6.25e-4 sources per pixel, 51.4 % of them galaxies.

    Examples
    --------
    >>> from bliss_astro.priors import CatalogPrior
    >>> prior = CatalogPrior()
    >>> catalog = prior.sample((500, 500), rng=1)
    >>> catalog.colnames[:4]
    ['x_centroid', 'y_centroid', 'flux', 'is_galaxy']
    >>> round(1600 * (prior.star_density() + prior.galaxy_density()), 3)
    1.0
    """

    stars: ParetoCounts | MagnitudeCounts = field(default_factory=ParetoCounts)
    galaxies: GalaxyPrior = field(default_factory=GalaxyPrior)

    def __post_init__(self):
        require_type('stars', self.stars, ParetoCounts, MagnitudeCounts)
        require_type('galaxies', self.galaxies, GalaxyPrior)

    @classmethod
    def sky(cls):
        """
        The populations of the real sky in r, fitted to the stripe 82 coadd.

        Counts, sizes, axis ratios and disk fractions of two fields of
        catalogues of the SDSS stripe 82 coadd (1,496 rows, 0.074 square
        degrees), by `fit`, from r = 14 to 25. The bright end (galaxies
        brighter than r = 17.5) and the faint end (beyond r = 22) are
        extrapolated.

        Returns
        -------
        prior : `CatalogPrior`
            Per pixel, with a floor of 0.1 nmgy (r = 25).

        Notes
        -----
        Two neighbouring fields at a galactic latitude of -60 degrees: the
        density of stars over the sky is from half of theirs to more than a
        hundred times. Multiply it with ``star_scale``, or fit a prior to
        the fields at hand.
        """
        return cls.bundled('sources-sky')

    @classmethod
    def fit(cls, table, *, area=None, **options):
        """
        Fit the distribution to a catalogue.

        Counts of each class are fitted where they are complete, with a
        logarithm that is smooth and piecewise linear in magnitude (penalised
        likelihood of Poisson counts), and extrapolated with given slopes. Shapes
        are fitted where they are measured well.

        Parameters
        ----------
        table : `~astropy.table.Table` or list of them
            One row per source, with the columns

            - ``magnitude`` (AB), or ``flux`` (a unit of flux density or
              ``nmgy``, which it is taken to be in if it has none), of any one
              band;
            - ``is_galaxy`` (bool), or ``probpsf`` (1 for stars, 0 for galaxies);
            - ``disk_fraction`` (share of the flux, 0 to 1);
            - ``radius`` (of half the light, along the major axis; arcsec), or
              ``disk_radius`` and ``bulge_radius``;
            - ``axis_ratio`` (0 to 1), or ``disk_axis_ratio`` and
              ``bulge_axis_ratio``.

            Shapes of stars are not looked at. Failed fits of galaxies are masked
            or NaN; such galaxies count, but have no shape. A table with the
            columns of the SDSS stripe 82 coadd catalogue (``psfmag_r``,
            ``fracdev_r``, ``devrad_r``, ...) is recognised and converted by
            `~bliss_astro.surveys.sdss.stripe82_columns`.

        area : float, `~astropy.units.Quantity` or None, optional
            Area in square degrees. `None` is for tables with ``area`` in their
            ``meta``, and for those of stripe 82, whose own footprint it is.

        **options
            ``complete_to`` (22), the faintest magnitude at which the catalogue has
            everything; ``shapes_to`` (21.5), the faintest at which axis ratios, disk
            fractions and the scatter of the sizes are more signal than noise (mean
            sizes are followed to ``complete_to``); ``magnitude_range`` (14, 25) of the
            prior; ``star_from`` (15) and ``galaxy_from`` (17.5), the brightest
            magnitudes at which the area holds enough of each class; ``star_slopes``
            (0.2, 0.1) and ``galaxy_slopes`` (0.6, 0.36) of log10 of the counts per
            magnitude, with which they are extrapolated at the bright and at the faint
            end; ``radius_range`` (0.1, 15), truncation of the half-light radii in
            arcsec.

        Returns
        -------
        prior : `CatalogPrior`
            With `MagnitudeCounts` and `MagnitudeShapes`.

        Raises
        ------
        ValueError
            If columns are missing, values are outside of what is allowed, or too few
            sources are left.
        """
        return cls(*fit_populations(table, area=area, **options))

    @property
    def flux_min(self) -> float:
        """Smallest flux of any source in nmgy."""
        return min(self.stars.flux_min, self.galaxies.counts.flux_min)

    def star_density(self, flux_min=None):
        """
        Expected number of stars per pixel brighter than a flux.

        Parameters
        ----------
        flux_min : float, tensor or None, optional
            In nmgy; `None` for all.

        Returns
        -------
        density : float or tensor
            Per pixel of 0.396 arcsec.
        """
        return self.stars.density_above(flux_min)

    def galaxy_density(self, flux_min=None):
        """
        Expected number of galaxies per pixel brighter than a flux, see `star_density`.
        """
        return self.galaxies.counts.density_above(flux_min)

    def sample(self, shape, *, flux_min=None, rng=None) -> QTable:
        """
        Draw one catalogue.

        Parameters
        ----------
        shape : tuple of int
            ``(ny, nx)`` of the field in pixels of 0.396 arcsec.

        flux_min : float or None, optional
            Only sources brighter than this, in nmgy.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        catalog : `~astropy.table.QTable`
            ``x_centroid, y_centroid`` (0-based pixels), ``flux`` (nmgy),
            ``is_galaxy``, and the columns of ``GALAXY_SHAPE_NAMES`` (radii in
            arcsec, NaN for stars), brightest first.
        """
        batch = self.sample_batch(
            1, shape, flux_min=flux_min, generator=torch_generator(rng)
        )
        columns = (batch.x, batch.y, batch.flux, batch.is_galaxy, batch.galaxy)
        return source_table(u.nmgy, *columns, pixel_scale=SDSS_PIXEL_SCALE)

    def sample_batch(
        self,
        n_images: int,
        shape: tuple[int, int],
        *,
        flux_min: float | torch.Tensor | None = None,
        star_scale: float | torch.Tensor | None = None,
        galaxy_scale: float | torch.Tensor | None = None,
        pixel_scale: float = SDSS_PIXEL_SCALE,
        generator: torch.Generator | None = None,
        device='cpu',
    ) -> CatalogBatch:
        """
        Draw padded catalogues for training.

        Parameters
        ----------
        n_images : int
            Number of images B.

        shape : tuple of int
            ``(ny, nx)``; positions are uniform in
            ``[-0.5, nx - 0.5) x [-0.5, ny - 0.5)``.

        flux_min : float, tensor ``(B,)`` or None, optional
            Only sources brighter than this, in nmgy, image by image.

        star_scale, galaxy_scale : float, tensor ``(B,)`` or None, optional
            Factors of the densities of stars and of galaxies.

        pixel_scale : float, optional
            Side of a pixel in arcsec.

        generator : `torch.Generator`, optional
            On ``device``.

        device : str or `torch.device`, optional
            Where to draw.

        Returns
        -------
        batch : ``CatalogBatch``
            Padded tensors ``x, y, flux, is_galaxy`` of shape ``(B, S)``, ``galaxy``
            ``(B, S, 6)`` and ``count`` ``(B,)``.
        """
        check_positive(pixel_scale=pixel_scale)
        ones = torch.ones(n_images, device=device)
        pixels = shape[0] * shape[1] * (pixel_scale / SDSS_PIXEL_SCALE) ** 2 * ones
        cut = None if flux_min is None else flux_min * ones

        def number(density, scale):
            mean = pixels * density(cut) * (1.0 if scale is None else scale)
            return torch.poisson(mean, generator=generator).long()

        n_stars = number(self.star_density, star_scale)
        count = n_stars + number(self.galaxy_density, galaxy_scale)
        x, y, unit, used = draw_places(count, shape, generator)
        # Stars come first, then galaxies, then unused places.
        place = torch.arange(x.shape[1], device=device)
        is_galaxy = used & (place >= n_stars[:, None])
        floor = None if cut is None else cut[:, None]
        flux_galaxy, galaxy = self.galaxies.sample_batch(
            x.shape, flux_min=floor, generator=generator, device=device
        )
        flux_star = self.stars.flux_quantile(unit, floor)
        flux = torch.where(is_galaxy, flux_galaxy, flux_star) * used
        scale = torch.tensor([1, 1, 1, 1, 1 / pixel_scale, 1 / pixel_scale]).to(ones)
        return CatalogBatch(x, y, flux, is_galaxy, galaxy * scale, count)

    def _to_numbers(self):
        parts = {
            'stars': self.stars,
            'galaxy_counts': self.galaxies.counts,
            'galaxy_shapes': self.galaxies.shapes,
        }
        return {
            name: {'kind': type(part).__name__} | to_numbers(part)
            for name, part in parts.items()
        }

    @classmethod
    def _from_numbers(cls, numbers):
        parts = {}
        for name in ('stars', 'galaxy_counts', 'galaxy_shapes'):
            part = numbers.get(name) if isinstance(numbers, dict) else None
            kind = part.get('kind') if isinstance(part, dict) else None
            allowed = f'be a dict whose kind is one of {", ".join(_KINDS)}'
            require(kind in _KINDS, f'numbers[{name!r}]', allowed, f'{part!r}')
            part = {key: value for key, value in part.items() if key != 'kind'}
            parts[name] = from_numbers(_KINDS[kind], part, f'numbers[{name!r}]')
        galaxies = GalaxyPrior(parts['galaxy_counts'], parts['galaxy_shapes'])
        return cls(parts['stars'], galaxies)
