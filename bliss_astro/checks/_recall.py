# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Injected sources: their detection and matching, and tables of recall, bias and limits.
"""

import collections
import dataclasses
import itertools
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import QTable
from scipy.optimize import minimize
from scipy.special import expit

from bliss_astro._warnings import NoDetectionsWarning, OutOfDomainWarning, mute_warnings
from bliss_astro.catalog._columns import plain_numbers
from bliss_astro.coadds._noise import correlated_noise, input_kernel
from bliss_astro.detection._batches import detect_each
from bliss_astro.detection._detect import IMAGE_OPTIONS, detect
from bliss_astro.exposures._psf import central_psf
from bliss_astro.exposures._set import images_by_band
from bliss_astro.rendering._scene import ModelRenderer, Sources
from bliss_astro.units import MEDIAN_ERROR, flux_to_magnitude

from ._residuals import half_width, nearest_pixel

_PLURALS = {'star': 'stars', 'galaxy': 'galaxies'}
# Recalls whose fluxes are fitted.
_LEVELS = (0.5, 0.9)
# Resamplings that make the errors of limits, and the fewest sources of a curve.
_N_BOOTSTRAP, _CURVE_SOURCES = 100, 20
# Sources of the image within this many FWHM, with this share of the flux, make
# a place a blend.
_BLEND_REACH, _BLEND_FLUX = 1.5, 0.1


@dataclass(frozen=True, eq=False)
class Completeness:
    """
    Completeness of an image by injected sources, made by `completeness`.

    Attributes
    ----------
    table : `~astropy.table.QTable`
        A row for each type and bin of flux (or magnitude; bins are half-open, the
        brightest one closed): ``n`` injected sources, of which ``n_found`` were found;
        ``recall`` with its 68 % interval (``recall_low``, ``recall_high``);
        ``recall_clear`` of those neither on masked pixels (``n_masked``) nor beside a
        source of the image (``n_blended``). Of the clear ones that were found:
        ``bias`` and ``scatter``, median and robust standard deviation of (estimated -
        true flux) / ``flux_err`` (0 and 1 if errors are calibrated), ``bias_err``,
        ``relative_bias``, the median of (estimated - true) / true; of other bands than
        the reference ``bias_g`` and so on. Of all that were found: ``accuracy``, the
        share with the right type, with its interval; NaN for an encoder without types.

    limits : `~astropy.table.QTable`
        For each type and share of 50 and 90 %: the flux (and magnitude) at which it
        is found, of all places, from a logistic curve with a plateau, and its
        error. NaN where the share lies outside the injected range.

    sources : `~astropy.table.QTable`
        A row for each injected source: its position in pixels, ``flux`` (in the unit of
        the image) and type; whether it was ``found``, lies on a ``masked`` pixel or
        beside a source of the image (``blended``); and, NaN where it was not found,
        ``flux_estimate``, ``flux_err``, ``galaxy_probability`` and the ``offset`` of
        the detection in pixels; in other bands ``flux_g``, ``flux_g_estimate``,
        ``flux_g_err``.

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
        what = f'{len(self.sources)} sources injected, encoder {self.encoder!r}'
        lines = [f'<Completeness: {what}, p > {self.threshold:g}>']
        name = 'mag_limit' if 'mag_limit' in self.limits.colnames else 'flux_limit'
        for row in self.limits:
            limit, error = (u.Quantity(row[key]) for key in (name, f'{name}_err'))
            text = f' at {limit.value:.4g} +- {error.value:.2g} {limit.unit}'.rstrip()
            text = text if np.isfinite(limit) else ': not within the injected range'
            share = f'{100 * row["recall"]:.0f} % of the {_PLURALS[row["type"]]}'
            lines.append(f'- {share}{text}')
        return '\n'.join(lines)

    def plot(self, *, ax=None, **kwargs):
        """
        Draw recall and flux bias; see `bliss_astro.plotting.plot_completeness`.

        Parameters
        ----------
        ax : pair of `~matplotlib.axes.Axes` or None, optional
            Axes to draw on; by default a new figure.

        **kwargs
            For `~bliss_astro.plotting.plot_completeness`.

        Returns
        -------
        axes : tuple of `~matplotlib.axes.Axes`
            The axes.
        """
        from bliss_astro.plotting import plot_completeness

        return plot_completeness(self, ax=ax, **kwargs)


# -- tables ----------------------------------------------------------------------


def _fraction(name, k, n):
    """A fraction with its interval of 68 %, NaN of nothing."""
    values = (np.nan,) * 3
    if n:
        values = k / n, *map(float, binom_conf_interval(k, n, interval='wilson'))
    return dict(zip((name, f'{name}_low', f'{name}_high'), values, strict=True))


def _bin_row(found, use, bands):
    """Numbers of one bin, in the reference band and others."""
    clear = use & ~found['masked'] & ~found['blended']
    seen, seen_clear = use & found['found'], clear & found['found']
    n, n_found, n_clear = (int(which.sum()) for which in (use, seen, clear))
    row = {'n': n, 'n_found': n_found, **_fraction('recall', n_found, n)}
    for name in ('masked', 'blended'):
        row[f'n_{name}'] = int((use & found[name]).sum())
    row['recall_clear'] = seen_clear.sum() / n_clear if n_clear else np.nan
    for end in ('', *(f'_{band}' for band in bands)):
        row |= _flux_bias(found, seen_clear, end)
    share = found['galaxy_probability'][seen]
    typed = np.isfinite(share)
    right = ((share > 0.5) == found['is_galaxy'][seen]) & typed
    return row | _fraction('accuracy', int(right.sum()), int(typed.sum()))


def _flux_bias(found, use, end):
    """Bias and scatter of some fluxes; those of a band have its name at their end."""
    flux, estimate, error = (
        found[f'flux{end}{part}'][use] for part in ('', '_estimate', '_err')
    )
    pull, relative = (estimate - flux) / error, (estimate - flux) / flux
    bias = scatter = middle = np.nan
    if len(pull):
        bias, middle = np.median(pull), np.median(relative)
        scatter = half_width(pull) if len(pull) > 4 else np.nan
    error = MEDIAN_ERROR * scatter / np.sqrt(max(len(pull), 1))
    row = {f'bias{end}': bias, f'bias{end}_err': error, f'scatter{end}': scatter}
    return row | {f'relative_bias{end}': middle}


def recall_table(found, edges, types, unit, zero_point, by_magnitude, bands=()):
    """Table of recall, bias and accuracy by type and bin."""
    rows = []
    bins = list(itertools.pairwise(edges))
    for kind in types:
        of_type = found['is_galaxy'] == (kind == 'galaxy')
        # From bright to faint, as magnitudes go.
        for low, high in bins[::-1] if by_magnitude else bins:
            below = found['flux'] <= high if high == edges[-1] else found['flux'] < high
            use = of_type & (found['flux'] >= low) & below
            row = {'type': kind}
            if zero_point is not None:
                row['mag_low'] = flux_to_magnitude(high, zero_point)
                row['mag_high'] = flux_to_magnitude(low, zero_point)
            row |= {'flux_low': low, 'flux_high': high}
            rows.append(row | _bin_row(found, use, bands))
    table = with_units(QTable(rows=rows), unit)
    for name in table.colnames[table.colnames.index('n') :]:
        if table[name].dtype.kind == 'f':
            table[name].info.format = '.3f'
    return table


def with_units(table, unit, *, form='.4g'):
    """Give columns of fluxes and magnitudes their units and formats."""
    for name in table.colnames:
        if name.startswith('mag'):
            table[name].unit, table[name].info.format = u.mag, '.3f'
        elif name.startswith('flux'):
            table[name].unit, table[name].info.format = unit, form
    return QTable(table)


def limit_table(found, types, unit, zero_point, rng):
    """Table of the fluxes at which given shares are found, by type."""
    rows = []
    for kind in types:
        use = found['is_galaxy'] == (kind == 'galaxy')
        limits = recall_limits(found['flux'][use], found['found'][use], _LEVELS, rng)
        for level, limit, error in zip(_LEVELS, *limits, strict=True):
            row = {'type': kind, 'recall': level, 'flux_limit': np.exp(limit)}
            row['flux_limit_err'] = np.exp(limit) * error
            if zero_point is not None:
                row['mag_limit'] = zero_point - 2.5 / np.log(10) * limit
                row['mag_limit_err'] = 2.5 / np.log(10) * error
            rows.append(row)
    return with_units(QTable(rows=rows), unit)


# -- limits ----------------------------------------------------------------------


def _fit(z, found, start):
    """Middle, log width and logit of the plateau of a logistic curve of recall."""

    def loss(parameters):
        middle, log_width, plateau = parameters
        share = expit(plateau) * expit((z - middle) * np.exp(-log_width))
        share = np.clip(share, 1e-9, 1 - 1e-9)
        # A weak prior for widths and plateaus that the data do not constrain.
        ridge = 0.05 * (log_width + 1.5) ** 2 + 0.02 * (plateau - 4) ** 2
        return ridge - np.sum(np.log(np.where(found, share, 1 - share)))

    bounds = [(z.min() - 3, z.max() + 3), (-6.0, 3.0), (-4.0, 12.0)]
    return minimize(loss, start, method='L-BFGS-B', bounds=bounds).x


def recall_limits(flux, found, levels, rng):
    """
    Fit the fluxes at which given shares of the sources are found.

    Returns
    -------
    limits, errors : float `~numpy.ndarray`, shape (len(levels),)
        Natural logarithms of the fluxes, and their standard errors by resampled
        sources; NaN where the share lies outside the injected range.
    """
    limits, errors = np.full((2, len(levels)), np.nan)
    if len(flux) < _CURVE_SOURCES or found.all() or not found.any():
        return limits, errors
    z = np.log(flux)
    best = _fit(z, found, (np.median(z), -1.5, 4.0))
    picks = rng.integers(len(z), size=(_N_BOOTSTRAP, len(z)))
    fits = np.array([best, *(_fit(z[pick], found[pick], best) for pick in picks)])
    middle, log_width, plateau = fits.T
    for k, level in enumerate(levels):
        with np.errstate(invalid='ignore', divide='ignore'):
            # Where the curve crosses the level; NaN if it never does.
            crossing = middle - np.exp(log_width) * np.log(expit(plateau) / level - 1)
        if z.min() <= crossing[0] <= z.max():
            limits[k] = crossing[0]
            errors[k] = half_width(crossing[1:][np.isfinite(crossing[1:])])
    return limits, errors


# -- injection -------------------------------------------------------------------


class Injector:
    """
    Injection of sources into one image, in all of its bands, and their detection.

    To make one detects the sources of the image itself, with which those injected are
    compared.

    Parameters
    ----------
    image : `~bliss_astro.exposures.Exposure` or `~bliss_astro.exposures.ExposureSet`
        The image, with its PSF.

    encoder : `~bliss_astro.encoders.Encoder`
        Encoder of all detections.

    options : `~bliss_astro.detection._detect.DetectionOptions`
        Other options of theirs; the exposure holds what describes the image.

    radius : float or None
        Largest distance in pixels of a detection from the source that it is; by
        default half the FWHM of the PSF.
    """

    def __init__(self, image, encoder, options, radius):
        self.image, own = image, images_by_band(image)
        self.exposure = exposure = next(iter(own.values()))
        self.fwhm = float(central_psf(exposure).fwhm)
        self.radius = 0.5 * self.fwhm if radius is None else radius
        # Of each band: the exposure, its renderer and the kernel of its noise.
        self.bands = {
            band: (one, ModelRenderer.of(one), input_kernel(one))
            for band, one in own.items()
        }
        # The exposures hold all that describes them.
        names = *IMAGE_OPTIONS, 'bands', 'reference', 'calibration'
        own = {'encoder': encoder, 'device': encoder.device}
        options = dataclasses.replace(options, **dict.fromkeys(names), **own)
        reference = detect(image, options)
        self.known = Sources.of(reference)
        # All images have the prior of the first: what is injected is no part of it.
        density = _density_of(reference.posterior, exposure.shape)
        own = {'density': density, 'check': False, 'progress_bar': False}
        self.options = dataclasses.replace(options, **own)

    def run(self, batches, rng):
        """
        Inject batches of `Sources` by band, an image each, detect and match them.

        Returns a list of the columns of `Completeness.sources` (dict), by batch.
        Positions and offsets are in pixels, fluxes in the unit of the image; what was
        detected is NaN where nothing was found.
        """
        waiting = collections.deque()

        def pairs():
            for sources in batches:
                waiting.append(images_by_band(sources))
                yield self._inject(waiting[-1], rng), self.options

        # The image as it is has warned of all that there is to warn of.
        with mute_warnings(NoDetectionsWarning, OutOfDomainWarning):
            return [self._match(waiting.popleft(), c) for c in detect_each(pairs())]

    def _inject(self, by_band, rng):
        """The image with sources and the noise of their photons."""
        found = {}
        for band, sources in by_band.items():
            exposure, renderer, kernel = self.bands[band]
            signal = renderer(sources)
            noise = correlated_noise(exposure.shape, kernel, rng)
            noise *= np.sqrt(np.maximum(signal, 0) / exposure.effective_gain)
            found[band] = exposure.replace(data=exposure.data + signal + noise)
        if None in found:
            return found[None]
        own = {band: found.get(band.name) for band in self.image.bands}
        return self.image._of(own, self.image.reference)

    def _match(self, by_band, catalog):
        """Columns of `Completeness.sources` from what was found."""
        sources, *_ = by_band.values()
        new, flux = Sources.of(catalog), sources.flux[:, None]
        before, now = (
            np.hypot(v.x - sources.x[:, None], v.y - sources.y[:, None])
            for v in (self.known, new)
        )
        inside, n_near = before < self.radius, (now < self.radius).sum(1)
        # A source that was there before is no detection of this one, unless
        # there is one more, or most of the light there is this one's.
        light = np.where(inside, self.known.flux, 0).sum(1)
        old = (n_near <= inside.sum(1)) & (sources.flux <= light)
        found = (n_near > 0) & ~old
        nearest = np.pad(now, ((0, 0), (0, 1)), constant_values=np.inf).argmin(1)
        near = before < _BLEND_REACH * self.fwhm
        pixel = nearest_pixel(sources.x, sources.y, self.exposure.shape)
        share = np.full(len(catalog), np.nan)
        if 'galaxy_probability' in catalog.colnames:
            share = catalog['galaxy_probability']

        def of_nearest(values):
            values = np.append(plain_numbers(values), np.nan)
            return np.where(found, values[nearest], np.nan)

        x, y = of_nearest(new.x), of_nearest(new.y)
        row = {
            'x_centroid': sources.x,
            'y_centroid': sources.y,
            'flux': sources.flux,
            'is_galaxy': sources.is_galaxy,
            'found': found,
            'masked': self.exposure.mask[pixel],
            'blended': (near & (self.known.flux > _BLEND_FLUX * flux)).any(1),
            'flux_estimate': of_nearest(new.flux),
            'flux_err': of_nearest(catalog['flux_err']),
            'galaxy_probability': of_nearest(share),
            'offset': np.hypot(x - sources.x, y - sources.y),
        }
        for band, own in list(by_band.items())[1:]:
            row[f'flux_{band}'] = own.flux
            row[f'flux_{band}_estimate'] = of_nearest(catalog[f'flux_{band}'])
            row[f'flux_{band}_err'] = of_nearest(catalog[f'flux_{band}_err'])
        return row


def _density_of(posterior, shape):
    """Prior density of a posterior by pixel of the image, a number or a map."""
    grid, binning = posterior.grid, posterior.binning
    density = np.exp(posterior.facts.log_density.astype(float)) / binning**2
    if density.size == 1:
        return float(density[0, 0])
    # Rows and columns beyond a whole number of joined pixels belong to no tile.
    row, column = (
        np.minimum(np.arange(n) // (grid.size * binning), most - 1)
        for n, most in zip(shape, density.shape, strict=True)
    )
    return density[np.ix_(row, column)]
