# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Completeness by injection: sources put into an image, detected and matched.
"""

import dataclasses

import numpy as np
import torch
from astropy.table import QTable

from bliss_astro._arguments import (
    check_integer,
    check_number,
    check_positive,
    check_rng,
    require,
    require_type,
    torch_generator,
)
from bliss_astro.catalog._columns import ab_magnitude, has_magnitude
from bliss_astro.detection._bands import read_bands
from bliss_astro.detection._estimates import read_image
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._psf import central_psf, limiting_flux
from bliss_astro.exposures._validate import strip_unit
from bliss_astro.priors import CatalogPrior, ColourPrior, GalaxyPrior
from bliss_astro.rendering._scene import Sources
from bliss_astro.units import (
    NANOMAGGY_ZERO_POINT,
    SDSS_PIXEL_SCALE,
    flux_to_magnitude,
    magnitude_to_flux,
)

from ._images import finder_options
from ._recall import Completeness, Injector, limit_table, recall_table, with_units

_TYPES = ('star', 'galaxy')
# Without edges: fluxes from one to the other of these signal-to-noise ratios of
# an isolated star.
_SNR_RANGE, _N_BINS = (2.0, 60.0), 8


def completeness(
    data,
    finder=None,
    *,
    magnitudes=None,
    fluxes=None,
    types=None,
    n_sources=400,
    n_per_image=None,
    spacing=64.0,
    radius=None,
    galaxies=None,
    colours=None,
    zero_point=None,
    rng=None,
    progress_bar=False,
):
    """
    Measure the completeness of an image by injecting sources.

    Sources with the exposure's PSF and the noise of their own photons are
    added at random places, few at a time and far from each other, and looked
    for in the same way as all others.  The detections determine recall, bias of
    fluxes, calibration of errors and accuracy of types, with all that the
    image has of neighbours, blemishes and strange noise.

    Parameters
    ----------
    data : `~bliss_astro.exposures.Exposure` or anything ``detect_sources`` takes
        The image, or one of several bands. Sources are put into all of them, and bins,
        recall and limits are by magnitude or flux in the reference band.

    finder : `~bliss_astro.detection.BlissFinder`, optional
        Configured detection: its encoder and threshold, and what describes the image;
        by default one with all defaults.

    magnitudes : sequence of float, optional
        Edges of bins in AB magnitude, increasing.

    fluxes : sequence of float or `~astropy.units.Quantity`, optional
        Edges of bins in flux, increasing, instead; with a unit if the data
        have one.  By default fluxes at which an isolated star has a
        signal-to-noise ratio of 2 to 60.

    types : sequence of {'star', 'galaxy'}, optional
        Types to inject.  By default both, and stars only for an encoder of stars or
        where the zero point is not known, and with it sizes.

    n_sources : int, optional
        Number of sources of each type, spread evenly over the bins and within
        them uniform in the logarithm of flux.

    n_per_image : int, optional
        The most sources at a time.

    spacing : float, optional
        Sources of one time are half of this many pixels apart, or more.

    radius : float, optional
        Distance in pixels within which a detection is the injected source; by
        default half the FWHM of the PSF.

    galaxies : `~bliss_astro.priors.CatalogPrior` or \
            `~bliss_astro.priors.GalaxyPrior`, optional
        Prior of the shapes of galaxies, given their magnitude; the same in all bands
        but for redder bulges; by default `CatalogPrior.sky()
        <bliss_astro.priors.CatalogPrior.sky>`.

    colours : `~bliss_astro.priors.ColourPrior`, optional
        Prior of the fluxes in other bands, given type and magnitude; by default
        `ColourPrior.default() <bliss_astro.priors.ColourPrior.default>`.

    zero_point : float, optional
        AB magnitude of a flux of one unit of the data.  Needed for magnitudes,
        galaxies and colours where the unit of the data has none.

    rng : int, `numpy.random.Generator` or None, optional
        Source of randomness.

    progress_bar : bool, optional
        Show progress.

    Returns
    -------
    result : `Completeness`
        Recall, biases and limits.

    Raises
    ------
    TypeError
        If an argument is of a kind that cannot be used.

    ValueError
        If a value is not allowed; the message names the parameter.

    Examples
    --------
    >>> from bliss_astro import BlissFinder, CoaddSimulator, completeness
    >>> exposure, truth = CoaddSimulator(shape=(160, 160)).sample(rng=3)
    >>> finder = BlissFinder(encoder='stars')
    >>> result = completeness(exposure, finder, n_sources=48, rng=1)
    >>> result.table.colnames[:5]
    ['type', 'flux_low', 'flux_high', 'n', 'n_found']
    """
    n_sources = check_integer('n_sources', n_sources, 1, error=ValueError)
    if n_per_image is not None:
        n_per_image = check_integer('n_per_image', n_per_image, 1, error=ValueError)
    check_positive(spacing=spacing, radius=radius)
    options = finder_options(finder)
    encoder = options.load_encoder()
    bands = read_bands(data, options, encoder, read_image)
    exposure = bands.reference.exposure
    zero_point = _zero_point(zero_point, exposure.unit)
    colours = _colour_prior(colours, bands, zero_point)
    has_galaxies = getattr(encoder.config, 'galaxies', False) and (
        zero_point is not None or galaxies is not None
    )
    types = _check_types(types, has_galaxies)
    edges = _edges(exposure, magnitudes, fluxes, zero_point)
    prior = _galaxy_prior(galaxies, types, zero_point)
    rng = check_rng(rng)
    injector = Injector(bands.image, encoder, options, radius)
    sources = _plan(edges, n_sources, types, rng)
    population = _Population(exposure, bands.known, prior, colours, zero_point, rng)
    places = {'spacing': spacing, 'n_most': n_per_image or len(sources[0])}
    found = _inject(injector, *sources, population, **places, shown=progress_bar)
    names, by_magnitude = list(injector.bands)[1:], magnitudes is not None
    return Completeness(
        table=recall_table(
            found, edges, types, exposure.unit, zero_point, by_magnitude, names
        ),
        limits=limit_table(found, types, exposure.unit, zero_point, rng),
        sources=with_units(QTable(found), exposure.unit, form=None),
        threshold=options.threshold,
        encoder=encoder.name,
    )


# -- arguments -------------------------------------------------------------------


def _check_types(types, galaxies):
    if types is None:
        return _TYPES if galaxies else _TYPES[:1]
    types = (types,) if isinstance(types, str) else tuple(types)
    good = types and len(set(types)) == len(types) and set(types) <= set(_TYPES)
    require(good, 'types', "be 'star', 'galaxy' or both", f'{types!r}')
    return types


def _zero_point(given, unit):
    """AB magnitude of a flux of one data unit, or `None`."""
    if given is not None:
        return check_number('zero_point', getattr(given, 'value', given))
    return float(ab_magnitude(1 * unit).value) if has_magnitude(unit) else None


def _increasing(name, values):
    edges, text = np.asarray(values), f'{values!r:.80}'
    good = edges.ndim == 1 and len(edges) > 1 and edges.dtype.kind in 'fiu'
    require(good, name, 'be at least two edges of bins', text)
    good = np.isfinite(edges).all() and np.all(np.diff(edges) > 0)
    require(good, name, 'be finite and increasing', text)
    return edges.astype(float)


def _edges(exposure, magnitudes, fluxes, zero_point):
    """Edges of bins in data units, increasing."""
    if magnitudes is not None and fluxes is not None:
        msg = 'give magnitudes or fluxes, not both'
        raise ValueError(msg)
    if magnitudes is not None:
        if zero_point is None:
            msg = (
                f'magnitudes need a zero_point: the unit of the data, {exposure.unit}, '
                'has none; give zero_point or fluxes'
            )
            raise ValueError(msg)
        mags = _increasing('magnitudes', getattr(magnitudes, 'value', magnitudes))
        return magnitude_to_flux(mags[::-1], zero_point)
    if fluxes is None:
        noise, area = np.median(exposure.bkg_error), central_psf(exposure).n_eff
        ends = (limiting_flux(exposure, noise, area, snr) for snr in _SNR_RANGE)
        return np.geomspace(*ends, _N_BINS + 1)
    unit = exposure.unit
    fluxes = strip_unit('fluxes', fluxes, unit, unit is not None)
    edges = _increasing('fluxes', fluxes)
    require(edges[0] > 0, 'fluxes', 'be positive', edges[0])
    return edges


def _galaxy_prior(prior, types, zero_point):
    if 'galaxy' not in types:
        return None
    if zero_point is None:
        msg = (
            'galaxies need a zero_point, as their sizes go with their magnitudes and '
            'the unit of the data has none; give zero_point, or stars alone as types'
        )
        raise ValueError(msg)
    prior = CatalogPrior.sky() if prior is None else prior
    require_type('galaxies', prior, CatalogPrior, GalaxyPrior)
    return getattr(prior, 'galaxies', prior)


def _colour_prior(prior, bands, zero_point):
    """The prior of colours, or `None` for one band."""
    if len(bands.images) == 1:
        require(prior is None, 'colours', 'be left out, as data is of one band', prior)
        return None
    if zero_point is None:
        msg = (
            'several bands need a zero_point, as colours go with magnitudes and the '
            'unit of the data has none; give zero_point, or one band as data'
        )
        raise ValueError(msg)
    prior = ColourPrior.default() if prior is None else prior
    require_type('colours', prior, ColourPrior)
    return prior


# -- injection -------------------------------------------------------------------


def _plan(edges, n_sources, types, rng):
    """Fluxes and whether they are those of galaxies, in random order."""
    log_edges = np.log(edges)
    bins = np.arange(n_sources) % (len(edges) - 1)
    flux = [np.exp(rng.uniform(log_edges[bins], log_edges[bins + 1])) for _ in types]
    order = rng.permutation(n_sources * len(types))
    is_galaxy = np.repeat([kind == 'galaxy' for kind in types], n_sources)
    return np.concatenate(flux)[order], is_galaxy[order]


def _inject(injector, flux, is_galaxy, population, *, spacing, n_most, shown):
    """Inject all sources, as many at a time as go apart."""
    from tqdm.auto import tqdm

    rng = population.rng

    def batches():
        done = 0
        while done < len(flux):
            most = min(len(flux) - done, n_most)
            x, y = draw_positions(injector.exposure.shape, spacing, most, rng)
            if len(x) == 0:  # in an image that is smaller than a cell
                continue
            part = slice(done, done + len(x))
            yield population.draw(Sources(x, y, flux[part], is_galaxy[part]))
            done += len(x)
            bar.update(len(x))

    with tqdm(total=len(flux), desc='injecting', disable=not shown) as bar:
        pieces = injector.run(batches(), rng)
    return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}


@dataclasses.dataclass
class _Population:
    """Shapes and colours of sources, given their flux in the reference band."""

    exposure: Exposure
    bands: list
    galaxies: GalaxyPrior | None
    colours: ColourPrior | None
    zero_point: float | None
    rng: np.random.Generator

    def draw(self, sources):
        """Sources with shapes, by band where there are several."""
        if (which := sources.is_galaxy).any():
            sources.galaxy = np.zeros((len(sources), 6))
            sources.galaxy[which] = self._shapes(sources.flux[which])
        if self.colours is None:
            return {str(band): sources for band in self.bands} or sources
        return self._in_bands(sources)

    def _shapes(self, flux):
        """Shapes ``(N, 6)`` of galaxies of those fluxes, radii in pixels."""
        flux = flux * 10 ** (0.4 * (NANOMAGGY_ZERO_POINT - self.zero_point))
        flux = torch.from_numpy(flux.astype(np.float32))
        own = {'generator': torch_generator(self.rng)}
        galaxy = self.galaxies.shapes.sample_batch(flux, **own).double().numpy()
        galaxy[:, 4:] /= self.exposure.pixel_scale or SDSS_PIXEL_SCALE
        return galaxy

    def _in_bands(self, sources):
        """Sources by band; bulges are redder than their disks."""
        on = {'generator': torch_generator(self.rng)}
        magnitude = flux_to_magnitude(sources.flux, self.zero_point)
        magnitude = torch.from_numpy(magnitude).float()
        is_galaxy = torch.from_numpy(sources.is_galaxy)
        log_ratio = self.colours.sample(magnitude, is_galaxy, self.bands, **on)
        disk = torch.from_numpy(sources.galaxy[:, 0]).float()
        disk = self.colours.disk_fractions(disk, self.bands, **on).double().numpy()
        ratio, found = log_ratio.exp().double().numpy(), {}
        for k, band in enumerate(self.bands):
            own = found[str(band)] = sources.copied()
            own.flux, own.galaxy[:, 0] = ratio[:, k] * sources.flux, disk[:, k]
        return found


def draw_positions(shape, spacing, n_most, rng):
    """
    Draw places that are apart, all together uniform over an image.

    Each lies in a cell of its own of a grid of side ``spacing``, half of that apart
    from all others.
    """
    ny, nx = shape
    # The grid lies anywhere, so that no pixel is preferred.
    origin = rng.uniform(-spacing, 0, 2) - 0.5
    n_columns, n_rows = (int(n // spacing) + 2 for n in (nx, ny))
    column, row = (g.ravel() for g in np.meshgrid(range(n_columns), range(n_rows)))
    inner = rng.uniform(0.25, 0.75, (2, len(row)))
    x = origin[0] + (column + inner[0]) * spacing
    y = origin[1] + (row + inner[1]) * spacing
    inside = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    chosen = rng.permutation(np.nonzero(inside)[0])[:n_most]
    return x[chosen], y[chosen]
