# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Which sources would have been found in an image, and how well measured.
"""

import inspect
import itertools
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.table import QTable

from bliss_astro._random import check_rng
from bliss_astro.catalog._arguments import check_count, check_threshold
from bliss_astro.detection._detect import _as_encoder, detect_sources
from bliss_astro.detection._inputs import as_exposure
from bliss_astro.rendering._scene import Sources

from ._injection import Injector, draw_positions, galaxy_shapes
from ._limits import binomial_interval, recall_limits

__all__ = ['Completeness', 'completeness']

_TYPES = ('star', 'galaxy')
_LEVELS = (0.5, 0.9)
# Without edges: fluxes from one to the other of these signal-to-noise ratios of
# an isolated star.
_SNR_RANGE, _N_BINS = (2.0, 60.0), 8
# Pixels where there is no WCS: those of SDSS, arcsec.
_PIXEL_SCALE = 0.396
# What describes the image, of the keywords of detect_sources.
_OF_IMAGE = ('psf', 'background', 'bkg_error', 'effective_gain', 'mask', 'wcs')
_OWN = (
    'data',
    'threshold',
    'encoder',
    'rng',
    'n_samples',
    'device',
    'progress_bar',
    'check',
)


@dataclass(frozen=True, eq=False)
class Completeness:
    """
    What becomes of sources that were put into an image.

    Made by `completeness`.

    Attributes
    ----------
    table : `~astropy.table.QTable`
        A row for each type and bin of flux (or magnitude): ``n`` sources put in, of
        which ``n_found`` were found; ``recall`` with its 68 % interval
        (``recall_low``, ``recall_high``); ``recall_clear`` of those neither on
        masked pixels (``n_masked``) nor beside a source of the image
        (``n_blended``). Of the clear ones that were found: ``bias`` and
        ``scatter``, median and robust standard deviation of (estimated - true
        flux) / ``flux_err`` (0 and 1 if errors are honest), ``bias_err``,
        ``relative_bias``, the median of (estimated - true) / true. Of all that were
        found: ``accuracy``, the share with the right type, with its interval; NaN for
        an encoder that tells no types.

    limits : `~astropy.table.QTable`
        For each type and share of 50 and 90 %: the flux (and magnitude) at which it
        is found, of all places, from a logistic curve with a plateau, and its
        error. NaN where the share lies outside the range that was put in.

    sources : `~astropy.table.QTable`
        A row for each source that was put in.

    threshold : float
        Smallest probability of a detection.

    encoder : str
        Name of the encoder.
    """

    table: QTable
    limits: QTable
    sources: QTable
    threshold: float
    encoder: str

    def __repr__(self):
        n = len(self.sources)
        what = f'{n} sources put in, encoder {self.encoder!r}, p > {self.threshold:g}'
        lines = [f'<Completeness: {what}>']
        for row in self.limits:
            name = 'mag_limit' if 'mag_limit' in self.limits.colnames else 'flux_limit'
            value, error = row[name], row[f'{name}_err']
            unit = getattr(value, 'unit', None)
            value, error = (getattr(v, 'value', v) for v in (value, error))
            what = f'{100 * row["recall"]:.0f} % of the {_plural(row["type"])}'
            if not np.isfinite(value):
                lines.append(f'- {what}: not within the range that was put in')
                continue
            text = f'{value:.4g} +- {error:.2g}'
            lines.append(f'- {what} at {text}{f" {unit}" if unit else ""}')
        return '\n'.join(lines)

    def plot(self, *, ax=None, **kwargs):
        """
        Draw recall and flux bias; see `bliss_astro.plotting.plot_completeness`.

        Parameters
        ----------
        ax : pair of `~matplotlib.axes.Axes` or None, optional
            Where to.

        **kwargs
            For `~bliss_astro.plotting.plot_completeness`.

        Returns
        -------
        axes : tuple of `~matplotlib.axes.Axes`
            The axes.
        """
        from bliss_astro.plotting import plot_completeness

        return plot_completeness(self, ax=ax, **kwargs)


def _plural(name):
    return 'galaxies' if name == 'galaxy' else f'{name}s'


def completeness(
    data,
    encoder=None,
    *,
    magnitudes=None,
    fluxes=None,
    types=None,
    n_sources=400,
    n_per_image=None,
    spacing=64.0,
    threshold=0.5,
    radius=None,
    galaxies=None,
    zero_point=None,
    rng=None,
    device='auto',
    progress_bar=False,
    **kwargs,
):
    """
    Measure which sources are found in an image, by putting some into it.

    Sources with the exposure's PSF and the noise of their own photons are
    added at random places, few at a time and far from each other, and looked
    for in the same way as all others.  What is found tells recall, bias of
    fluxes, honesty of errors and accuracy of types, with all that the
    image has of neighbours, blemishes and strange noise.

    Parameters
    ----------
    data : `~bliss_astro.exposures.Exposure` or whatever `detect_sources` takes
        The image.

    encoder : `~bliss_astro.encoders.Encoder`, str or path, optional
        As in `detect_sources`.

    magnitudes : sequence of float, optional
        Edges of bins in AB magnitude, increasing.

    fluxes : sequence of float or `~astropy.units.Quantity`, optional
        Edges of bins in flux, increasing, instead; with a unit if the data
        have one.  By default fluxes at which an isolated star has a
        signal-to-noise ratio of 2 to 60.

    types : sequence of {'star', 'galaxy'}, optional
        What to put in.  By default both, and stars only where the encoder does
        not know galaxies or nothing tells the zero point, without which their
        sizes are not known.

    n_sources : int, optional
        Number of sources of each type, spread evenly over the bins and within
        them uniform in the logarithm of flux.

    n_per_image : int, optional
        The most sources at a time.

    spacing : float, optional
        Sources of one time are half of this many pixels apart, or more.

    threshold : float, optional
        Smallest probability of a detection.

    radius : float, optional
        Distance in pixels within which a detection is the source that was put
        in; by default half the FWHM of the PSF.

    galaxies : `~bliss_astro.priors.CatalogPrior` or \
            `~bliss_astro.priors.GalaxyPrior`, optional
        Where shapes of galaxies are drawn from, given their magnitude;
        by default `CatalogPrior.sky() <bliss_astro.priors.CatalogPrior.sky>`.

    zero_point : float, optional
        AB magnitude of a flux of one unit of the data.  Needed for magnitudes
        and galaxies where the unit of the data does not tell.

    rng : int, `numpy.random.Generator` or None, optional
        Source of randomness.

    device : str or `torch.device`, optional
        As in `detect_sources`.

    progress_bar : bool, optional
        Show progress.

    **kwargs
        Further keywords of `detect_sources`.

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
    >>> from bliss_astro import CoaddSimulator, completeness
    >>> exposure, truth = CoaddSimulator(shape=(160, 160)).simulate(rng=3)
    >>> result = completeness(exposure, 'stars', n_sources=48, rng=1)
    >>> result.table.colnames[:5]
    ['type', 'flux_low', 'flux_high', 'n', 'n_found']
    """
    threshold = check_threshold(threshold)
    n_sources = _at_least_one('n_sources', n_sources)
    if n_per_image is not None:
        n_per_image = _at_least_one('n_per_image', n_per_image)
    spacing = _positive('spacing', spacing)
    of_image, keywords = _split(kwargs)
    exposure, _ = as_exposure(data, **of_image)
    encoder = _as_encoder(encoder, device)
    zero_point = _zero_point(zero_point, exposure.unit)
    known = getattr(encoder.config, 'galaxies', False) and (
        zero_point is not None or galaxies is not None
    )
    types = _check_types(types, known)
    edges = _edges(exposure, magnitudes, fluxes, zero_point)
    prior = _galaxy_prior(galaxies, types, zero_point)
    rng = check_rng(rng)
    injector = _injector(exposure, encoder, threshold, radius, keywords)
    planned = [_plan(edges, n_sources, kind, rng) for kind in types]
    planned = [np.concatenate(part) for part in zip(*planned, strict=True)]
    order = rng.permutation(len(planned[0]))
    flux, is_galaxy = (part[order] for part in planned)
    found = _run(
        injector,
        flux,
        is_galaxy,
        shapes=lambda bright: _shapes(prior, bright, zero_point, exposure, rng),
        spacing=spacing,
        n_most=n_per_image,
        rng=rng,
        progress_bar=progress_bar,
    )
    unit = exposure.unit
    return Completeness(
        table=_table(found, edges, types, unit, zero_point, magnitudes is not None),
        limits=_limit_table(found, types, unit, zero_point, rng),
        sources=_source_table(found, unit),
        threshold=threshold,
        encoder=encoder.name,
    )


# -- checks ------------------------------------------------------------------


def _at_least_one(name, value):
    value = check_count(name, value)
    if value < 1:
        msg = f'{name} must be at least 1, got {value}'
        raise ValueError(msg)
    return value


def _positive(name, value):
    value = float(value)
    if not (np.isfinite(value) and value > 0):
        msg = f'{name} must be positive and finite, got {value}'
        raise ValueError(msg)
    return value


def _split(kwargs):
    """Keywords of `detect_sources` that describe the image, and the others."""
    allowed = set(inspect.signature(detect_sources).parameters) - set(_OWN)
    unknown = sorted(set(kwargs) - allowed)
    if unknown:
        msg = (
            f'completeness has no argument {unknown[0]!r}; beside its own it takes '
            f'those of detect_sources: {", ".join(sorted(allowed))}'
        )
        raise TypeError(msg)
    of_image = {name: kwargs[name] for name in _OF_IMAGE if name in kwargs}
    return of_image, {k: v for k, v in kwargs.items() if k not in of_image}


def _check_types(types, galaxies):
    if types is None:
        return _TYPES if galaxies else _TYPES[:1]
    types = (types,) if isinstance(types, str) else tuple(types)
    if not types or len(set(types)) < len(types) or not set(types) <= set(_TYPES):
        msg = f"types must be 'star', 'galaxy' or both, got {types!r}"
        raise ValueError(msg)
    return types


def _zero_point(given, unit):
    """AB magnitude of a flux of one data unit, or `None`."""
    own = None
    if unit is not None and unit.is_equivalent(u.nmgy):
        own = 22.5 - 2.5 * np.log10((1 * unit).to_value(u.nmgy))
    elif unit is not None and unit.is_equivalent(u.Jy):
        own = float((1 * unit).to_value(u.ABmag))
    if given is None:
        return own
    given = float(given)
    if not np.isfinite(given):
        msg = f'zero_point must be finite, got {given}'
        raise ValueError(msg)
    return given


def _increasing(name, values):
    edges = np.asarray(values)
    if edges.ndim != 1 or len(edges) < 2 or edges.dtype.kind not in 'fiu':
        msg = f'{name} must be at least two edges of bins, got {values!r:.80}'
        raise ValueError(msg)
    edges = edges.astype(float)
    if not np.isfinite(edges).all() or not np.all(np.diff(edges) > 0):
        msg = f'{name} must be finite and increasing, got {values!r:.80}'
        raise ValueError(msg)
    return edges


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
        return 10 ** (-0.4 * (mags[::-1] - zero_point))
    if fluxes is None:
        ny, nx = exposure.shape
        psf = exposure.psf_at(nx // 2, ny // 2)
        excess = np.prod(1 + 2 * np.array(exposure.noise_correlation))
        noise = float(np.median(exposure.bkg_error)) * np.sqrt(psf.n_eff * excess)
        return np.geomspace(*(snr * noise for snr in _SNR_RANGE), _N_BINS + 1)
    own = getattr(fluxes, 'unit', None)
    if (own is None) != (exposure.unit is None):
        having, lacking = ('data', 'fluxes')[:: 1 if own is None else -1]
        msg = f'{having} has a unit and {lacking} has none; give units to both or none'
        raise ValueError(msg)
    if own is not None:
        if not own.is_equivalent(exposure.unit):
            msg = f'fluxes must have units of {exposure.unit}, got {own}'
            raise ValueError(msg)
        fluxes = fluxes.to_value(exposure.unit)
    edges = _increasing('fluxes', fluxes)
    if not edges[0] > 0:
        msg = f'fluxes must be positive, got {edges[0]}'
        raise ValueError(msg)
    return edges


def _galaxy_prior(prior, types, zero_point):
    if 'galaxy' not in types:
        return None
    from bliss_astro.priors import CatalogPrior, GalaxyPrior

    if zero_point is None:
        msg = (
            'galaxies need a zero_point, as their sizes go with their magnitudes and '
            'the unit of the data tells none; give zero_point, or stars alone as types'
        )
        raise ValueError(msg)
    if prior is None:
        return CatalogPrior.sky()
    if not isinstance(prior, CatalogPrior | GalaxyPrior):
        msg = (
            'galaxies must be a CatalogPrior or a GalaxyPrior, got '
            f'{type(prior).__name__}'
        )
        raise TypeError(msg)
    return prior


# -- running -------------------------------------------------------------------


def _injector(exposure, encoder, threshold, radius, keywords):
    """Detect in the image as it is, and keep what was found out about it."""
    ny, nx = exposure.shape
    fwhm = float(exposure.psf_at(nx // 2, ny // 2).fwhm)
    radius = 0.5 * fwhm if radius is None else _positive('radius', radius)
    reference = detect_sources(exposure, threshold, encoder=encoder, **keywords)
    # All images have the prior of the first: what is put in is no part of it.
    posterior = reference.posterior.tile_posterior
    density = np.exp(posterior.inputs.log_density[0, 0].double().cpu().numpy())
    if density.size > 1:
        size = posterior.grid.size
        density = density.repeat(size, 0).repeat(size, 1)[:ny, :nx]
    else:
        density = float(density[0, 0])
    keywords = keywords | {'density': density, 'device': encoder.device}
    return Injector(exposure, encoder, threshold, reference, radius, fwhm, keywords)


def _plan(edges, n_sources, kind, rng):
    """Fluxes, and whether they are those of galaxies."""
    n_bins = len(edges) - 1
    low, high = np.log(edges[:-1]), np.log(edges[1:])
    bins = np.arange(n_sources) % n_bins
    flux = np.exp(rng.uniform(low[bins], high[bins]))
    return flux, np.full(n_sources, kind == 'galaxy')


def _shapes(prior, flux, zero_point, exposure, rng):
    scale = exposure.pixel_scale or _PIXEL_SCALE
    return galaxy_shapes(prior, flux * 10 ** (0.4 * (22.5 - zero_point)), scale, rng)


def _run(
    injector, flux, is_galaxy, *, shapes, spacing, n_most, rng, progress_bar=False
):
    """Put all sources in, as many at a time as go apart."""
    from tqdm.auto import tqdm

    done, pieces = 0, []
    with tqdm(total=len(flux), desc='injecting', disable=not progress_bar) as bar:
        while done < len(flux):
            left = len(flux) - done
            most = left if n_most is None else min(left, n_most)
            x, y = draw_positions(injector.exposure.shape, spacing, most, rng)
            if len(x) == 0:  # in an image that is smaller than a cell
                continue
            part = slice(done, done + len(x))
            sources = Sources(x, y, flux[part], is_galaxy[part])
            if is_galaxy[part].any():
                sources.galaxy = np.zeros((len(x), 6))
                which = is_galaxy[part]
                sources.galaxy[which] = shapes(flux[part][which])
            pieces.append(injector.run(sources, rng))
            done += len(x)
            bar.update(len(x))
    return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}


# -- tables ----------------------------------------------------------------------


def _with_unit(value, unit):
    return value if unit is None else value * unit


def _magnitude(flux, zero_point):
    return (zero_point - 2.5 * np.log10(flux)) * u.mag


def _bin_row(found, use):
    """Numbers of one bin."""
    clear = use & ~found['masked'] & ~found['blended']
    seen, seen_clear = use & found['found'], clear & found['found']
    n, n_found = int(use.sum()), int(seen.sum())
    low, high = binomial_interval(n_found, n)
    row = {
        'n': n,
        'n_found': n_found,
        'recall': n_found / n if n else np.nan,
        'recall_low': float(low),
        'recall_high': float(high),
        'n_masked': int((use & found['masked']).sum()),
        'n_blended': int((use & found['blended']).sum()),
        'recall_clear': seen_clear.sum() / clear.sum() if clear.any() else np.nan,
    }
    error = found['estimate'][seen_clear] - found['flux'][seen_clear]
    pull = error / found['error'][seen_clear]
    relative = error / found['flux'][seen_clear]
    row |= dict.fromkeys(('bias', 'bias_err', 'scatter', 'relative_bias'), np.nan)
    if len(pull):
        row['bias'], row['relative_bias'] = np.median(pull), np.median(relative)
        low, high = np.percentile(pull, [15.87, 84.13])
        row['scatter'] = 0.5 * (high - low) if len(pull) > 4 else np.nan
        # The standard error of a median of normal numbers.
        row['bias_err'] = 1.2533 * row['scatter'] / np.sqrt(len(pull))
    share = found['galaxy_probability'][seen]
    told = np.isfinite(share)
    right = (share > 0.5) == found['is_galaxy'][seen]
    n_right, n_told = int((right & told).sum()), int(told.sum())
    row['accuracy'] = n_right / n_told if n_told else np.nan
    low, high = binomial_interval(n_right, n_told)
    return row | {'accuracy_low': float(low), 'accuracy_high': float(high)}


def _table(found, edges, types, unit, zero_point, by_magnitude):
    rows = []
    for kind in types:
        of_type = found['is_galaxy'] == (kind == 'galaxy')
        for low, high in itertools.pairwise(edges):
            use = of_type & (found['flux'] >= low) & (found['flux'] <= high)
            row = {'type': kind, 'flux_low': low, 'flux_high': high}
            rows.append(row | _bin_row(found, use))
    table = QTable(rows=rows)
    if by_magnitude:
        table = table[::-1] if len(types) == 1 else _faint_last(table, types)
    if zero_point is not None:
        low = _magnitude(np.asarray(table['flux_high']), zero_point)
        high = _magnitude(np.asarray(table['flux_low']), zero_point)
        table.add_columns([low, high], [1, 1], ['mag_low', 'mag_high'])
        for name in ('mag_low', 'mag_high'):
            table[name].info.format = '.3f'
    for name in ('flux_low', 'flux_high'):
        table[name] = _with_unit(np.asarray(table[name]), unit)
        table[name].info.format = '.4g'
    for name in table.colnames[table.colnames.index('n') :]:
        if table[name].dtype.kind == 'f':
            table[name].info.format = '.3f'
    return table


def _faint_last(table, types):
    """Bins of each type from bright to faint, as magnitudes go."""
    n = len(table) // len(types)
    order = np.concatenate(
        [np.arange((k + 1) * n - 1, k * n - 1, -1) for k in range(len(types))]
    )
    return table[order]


def _limit_table(found, types, unit, zero_point, rng):
    rows = []
    for kind in types:
        use = found['is_galaxy'] == (kind == 'galaxy')
        limits, errors = recall_limits(
            found['flux'][use], found['found'][use], _LEVELS, rng
        )
        for level, limit, error in zip(_LEVELS, limits, errors, strict=True):
            row = {'type': kind, 'recall': level, 'flux_limit': np.exp(limit)}
            row['flux_limit_err'] = np.exp(limit) * error
            if zero_point is not None:
                row['mag_limit'] = zero_point - 2.5 / np.log(10) * limit
                row['mag_limit_err'] = 2.5 / np.log(10) * error
            rows.append(row)
    table = QTable(rows=rows)
    for name in ('flux_limit', 'flux_limit_err'):
        table[name] = _with_unit(np.asarray(table[name]), unit)
        table[name].info.format = '.4g'
    for name in ('mag_limit', 'mag_limit_err'):
        if name in table.colnames:
            table[name] = np.asarray(table[name]) * u.mag
            table[name].info.format = '.3f'
    return table


def _source_table(found, unit):
    table = QTable()
    table['x_centroid'], table['y_centroid'] = found['x'], found['y']
    table['flux'] = _with_unit(found['flux'], unit)
    for name in ('is_galaxy', 'found', 'masked', 'blended'):
        table[name] = found[name]
    table['flux_estimate'] = _with_unit(found['estimate'], unit)
    table['flux_err'] = _with_unit(found['error'], unit)
    table['galaxy_probability'] = found['galaxy_probability']
    table['offset'] = found['offset']
    return table
