# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The door: an image in, a probabilistic catalogue out.
"""

import contextlib
import copy
import dataclasses
import itertools
import math
import os

import astropy.units as u
import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter

from bliss_astro._devices import choose_device
from bliss_astro._messages import first_wrong
from bliss_astro._random import check_rng
from bliss_astro._threads import check_n_threads, map_threads, n_workers, use_threads
from bliss_astro._warnings import (
    CatalogCheckWarning,
    NoDetectionsWarning,
    OutOfDomainWarning,
    warn,
)
from bliss_astro.catalog import CatalogPosterior
from bliss_astro.catalog._arguments import check_count, check_threshold
from bliss_astro.catalog._meta import FactRecord
from bliss_astro.encoders import Domain, Encoder, EncoderInputs
from bliss_astro.flags import CatalogFlag
from bliss_astro.posteriors import TileGrid
from bliss_astro.psf._mixture import LOG_AREA, describe_shape

from ._cosmic_rays import find_cosmic_rays
from ._crowding import check_fullness
from ._domain import check_domain
from ._estimates import estimate_record
from ._inputs import as_exposure
from ._pixel_statistics import brightest_flux, pixel_statistics
from ._psf import psf_findings
from ._psf_matching import match_psf

__all__ = ['detect_sources']

# Signal-to-noise ratio of the faintest source that is looked for.
FLOOR_SNR = 3.4
# Density with which the first pass starts, per pixel.
_FIRST_DENSITY = 1e-3
# Largest side in tiles of the blocks that a large image is worked through in, and
# smallest one where a small image is cut for several threads: halos cost more.
_BLOCK, _LEAST_BAND = 160, 64
# Side in tiles of the cells in which the density of sources is estimated.
_DENSITY_CELL = 32
# Large images are sampled for that by windows of half this side in tiles,
# so many at a time.
_SAMPLE_PERIOD, _SAMPLE_BATCH = 48, 16
# Side in tiles of the cells in which the PSF is looked up.
_PSF_CELL = 8
# Rows that are worked on in double precision at once.
_ROWS = 512
# Scale in pixels over which the variance of resampled pixels is averaged.
_RIPPLE_SCALE = 6.0
# Least side in joined pixels of an image that is binned.
_LEAST_BINNED = 16


def detect_sources(
    data,
    threshold=0.5,
    *,
    encoder=None,
    psf=None,
    fwhm=None,
    background=None,
    bkg_error=None,
    weight=None,
    effective_gain=None,
    saturation=None,
    zero_point=None,
    mask=None,
    wcs=None,
    extension=None,
    psf_error=None,
    background_error=None,
    density=None,
    flux_min=None,
    population='sky',
    n_samples=0,
    rng=None,
    device='auto',
    bin=None,  # noqa: A002 (the word for it, in numpy and at telescopes)
    n_threads=None,
    progress_bar='auto',
    check=True,
):
    """
    Detect stars and galaxies in an image, with probabilities and honest errors.

    The encoder returns a posterior over whole catalogues of the image;
    the table holds the sources whose probability exceeds ``threshold``,
    and keeps the posterior as ``catalog.posterior``.  What is not given is
    estimated from the image, and ``catalog.meta['estimated']`` holds values, units
    and sources of all that the image was taken to be.

    Either all of ``data``, ``background`` and ``bkg_error`` have units, or
    none has.  Nothing that is passed in is changed.

    Parameters
    ----------
    data : `~bliss_astro.exposures.Exposure`, `~astropy.nddata.NDData`, \
            `~astropy.units.Quantity`, 2D array_like, path or HDU
        The image.  Integers are cast to floating point; masks of masked
        arrays are kept.  An uncertainty of an NDData is the total error, as in
        photutils; what an Exposure or NDData holds may not be given again by
        keyword.  A `~astropy.nddata.Cutout2D`, an HDU, a list of HDUs, or a file as for
        `Exposure.read <bliss_astro.exposures.ExposureRead>`: ``'file.fits[SCI]'``.

    threshold : float, optional
        Smallest probability of a source, between 0 and 1.  This is not
        a brightness, as in photutils' function of the same name.

    encoder : `~bliss_astro.encoders.Encoder`, str or path, optional
        An encoder or the name of one; the bundled
        ``'stars-galaxies'`` by default; ``'stars'`` where all sources are points.

    psf : `~bliss_astro.psf.PSFModel` or other PSF, optional
        As for `~bliss_astro.exposures.Exposure`; by default measured on the
        stars of the image (`~bliss_astro.psf.estimate_psf`).  A stated one is
        held against them (`~bliss_astro.psf.compare_psf`).

    fwhm : float or Quantity, optional
        Full width at half maximum of the PSF, in pixels or as an angle, in place of
        ``psf``.

    background : float, 2D array_like, path or Quantity, optional
        What of the sky is still in ``data``: 0 if it has been subtracted.
        By default measured on a mesh.

    bkg_error : float, 2D array_like, path or Quantity, optional
        Standard deviation of a pixel of empty sky: a number or an rms map.  By
        default one number, the scatter of pixels without sources.

    weight : 2D array_like, path or Quantity, optional
        Inverse variance of the sky, in place of ``bkg_error``; 0 in bad
        pixels.  It is scaled to the noise of empty sky, unless it states that to 25 %.

    effective_gain : float, 2D array_like, path or Quantity, optional
        Electrons per unit of ``data``.  By default 1 for data in electrons, else by
        the header, from the background and its variance if the sky is still there,
        or such that the noise of the sky is 29 electrons.

    saturation : float, 2D array_like, path or Quantity, optional
        Level from which a pixel is saturated; by default that of the header.

    zero_point : float, optional
        AB magnitude of a flux of 1, for data in counts; the catalogue is then in
        nmgy and has magnitudes.

    mask : 2D bool array_like or path, optional
        `True` for bad pixels; any value but 0 in a file.  Pixels that are not finite
        are added, those more than 20 sigma below the background, those that are
        sharper than the PSF (cosmic rays, hot pixels), and, with a warning, areas of
        one exact value or far below the sky.

    wcs : WCS object, optional
        Celestial coordinates; adds ``sky_centroid``.  One that gives no position
        on the sky is left out, with a warning.

    extension : int, str or tuple, optional
        The HDU of a file.

    psf_error : float, optional
        Relative error of the width of the PSF; by default 0.01 for one that is
        given.

    background_error : float, optional
        Error of the background in units of ``bkg_error``; by default 0.05 for one
        that is given, and 0.1 for one that is measured.

    density : float or 2D array_like, optional
        Prior density of sources per pixel above the flux floor, one number
        or a map over the image; by default from a first pass.

    flux_min : float or Quantity, optional
        Flux floor: the smallest flux of the prior.  By default that at
        which an isolated source has a signal-to-noise ratio of 3.4. One above the
        brightest source of the image is refused.

    population : {'sky', 'npe'}, optional
        Which prior of stars and galaxies holds, for an encoder that knows both:
        that of the sky, or that of Patel et al. (2025), Table 1.

    n_samples : int, optional
        Add columns with that many posterior draws of each source.

    rng : int, `numpy.random.Generator` or None, optional
        For those draws.

    device : str or `torch.device`, optional
        ``'auto'`` takes a GPU if there is one.

    bin : int or 'auto', optional
        Join so many pixels along each side into one before the image is looked at,
        where the PSF is broader than the encoder knows; ``'auto'`` joins as
        many as it takes. Rows are in the pixels of the image; tiles of
        ``catalog.posterior``, and ``flux_min`` where it is not given, are those of
        the larger ones.

    n_threads : int, optional
        Threads on the CPU, by default as many as torch uses. Rows are the same to
        rounding; torch's own setting is left as it is.

    progress_bar : bool or 'auto', optional
        Show progress from two seconds on; by default in a terminal.

    check : bool, optional
        Render the rows and search the residual for what they do not explain, see
        :ref:`self-check`; ``catalog.meta['check']`` holds the result.

    Returns
    -------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        A row a source, brightest first; empty (with all its columns) if
        nothing was found.

    Raises
    ------
    TypeError
        If an argument is of a kind that cannot be used.

    ValueError
        If a value or shape is not allowed; the message names the parameter.

    Warns
    -----
    NoDetectionsWarning
        If nothing was found.

    OutOfDomainWarning
        If the image is unlike those that the encoder was trained on; the
        rows concerned are flagged.

    CatalogCheckWarning
        If the rows do not explain the image.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, detect_sources
    >>> coadd, truth = CoaddSimulator(10).simulate(rng=3)
    >>> catalog = detect_sources(coadd, encoder='stars')
    >>> len(catalog) == len(truth)
    True
    >>> catalog.meta['estimated']['density']['source']
    'estimated: first pass'
    """
    threshold = check_threshold(threshold)
    n_samples = check_count('n_samples', n_samples)
    n_threads = check_n_threads(n_threads)
    rng = check_rng(rng)
    if not isinstance(check, bool | np.bool_):
        msg = f'check must be True or False, got {check!r:.60}'
        raise TypeError(msg)
    with use_threads(n_threads, progress_bar=progress_bar, title='detecting'):
        exposure, estimated = as_exposure(
            data,
            psf=psf,
            fwhm=fwhm,
            background=background,
            bkg_error=bkg_error,
            weight=weight,
            effective_gain=effective_gain,
            saturation=saturation,
            zero_point=zero_point,
            mask=mask,
            wcs=wcs,
            extension=extension,
            psf_error=psf_error,
            background_error=background_error,
        )
        encoder = _as_encoder(encoder, device)
        exposure, *of_psf = psf_findings(
            exposure, measured='psf' in estimated, most=_most_psf_error(encoder)
        )
        exposure, rays = _without_cosmic_rays(exposure, estimated, *of_psf)
        if population not in ('sky', 'npe'):
            msg = f"population must be 'sky' or 'npe', got {population!r}"
            raise ValueError(msg)
        flux_min = _check_flux_min(flux_min, exposure)
        density = _check_density(density, exposure)
        binning = _choose_binning(bin, exposure, encoder)
        posterior = _posterior(
            exposure,
            encoder,
            density=density,
            flux_min=flux_min,
            population=population,
            estimated=estimated,
            cosmic_rays=rays,
            of_psf=of_psf,
            binning=binning,
        )
        catalog = posterior.at_threshold(threshold, n_samples=n_samples, rng=rng)
        if check:
            from bliss_astro.checks._self_check import self_check

            result = self_check(exposure, catalog, cosmic_rays=rays)
            catalog.meta['check'] = FactRecord(result)
    # At the end, where nothing of ours stands between them and the user's filters.
    for message in catalog.meta.get('warnings', ()):
        warn(message, OutOfDomainWarning)
    if len(catalog) == 0:
        warn(
            f'no source has a probability above {threshold}',
            NoDetectionsWarning,
        )
    text = catalog.meta['check']['text'] if check else ''
    if text:
        text = f'the rows do not explain all of the image: {text}'
        warn(text, CatalogCheckWarning)
    return catalog


# -- checks ------------------------------------------------------------------


def _as_encoder(encoder, device):
    if not isinstance(encoder, Encoder):
        if encoder is not None and not isinstance(encoder, str | os.PathLike):
            msg = (
                'encoder must be an Encoder, the name of a bundled one or a path, got '
                f'{type(encoder).__name__}'
            )
            raise TypeError(msg)
        encoder = Encoder.from_pretrained(encoder)
    device = choose_device(device)
    if encoder.device.type == device.type:
        return encoder
    # The caller's own encoder stays where it is.
    return copy.deepcopy(encoder).to(device)


def _most_psf_error(encoder):
    """Largest relative error of the PSF that an encoder knows."""
    domain = Domain.of(encoder)
    return math.inf if domain is None else domain.psf_error


def _check_flux_min(flux_min, exposure):
    if flux_min is None:
        return None
    own = getattr(flux_min, 'unit', None)
    if (own is None) != (exposure.unit is None):
        having, lacking = ('data', 'flux_min')[:: 1 if own is None else -1]
        msg = f'{having} has a unit and {lacking} has none; give units to both or none'
        raise ValueError(msg)
    if own is not None:
        if not own.is_equivalent(exposure.unit):
            msg = f'flux_min must have units of {exposure.unit}, got {own}'
            raise ValueError(msg)
        flux_min = flux_min.to_value(exposure.unit)
    value = np.asarray(flux_min)
    if value.ndim or value.dtype.kind not in 'fiu':
        msg = f'flux_min must be one real number, got {flux_min!r:.60}'
        raise TypeError(msg)
    if not (np.isfinite(value) and value > 0):
        msg = f'flux_min must be positive and finite, got {flux_min}'
        raise ValueError(msg)
    brightest = brightest_flux(exposure)
    if value > brightest:
        unit = '' if exposure.unit is None else f' {exposure.unit}'
        msg = (
            'flux_min must be below the flux of the brightest source of the image, '
            f'about {brightest:.3g}{unit}, got {float(value):g}{unit}'
        )
        raise ValueError(msg)
    return float(value)


def _choose_binning(bin_, exposure, encoder):
    """The number of pixels to join along each side that an argument stands for."""
    if bin_ is None:
        return 1
    if isinstance(bin_, str) and bin_ == 'auto':
        return _proposed_binning(exposure, encoder)
    if isinstance(bin_, bool) or not isinstance(bin_, int | np.integer):
        msg = f"bin must be a positive integer or 'auto', got {bin_!r}"
        raise TypeError(msg)
    least = min(exposure.shape) // _LEAST_BINNED
    if not 1 <= bin_ <= max(least, 1):
        msg = (
            f'bin must be from 1 to {max(least, 1)} for an image of shape '
            f'{exposure.shape}, got {bin_}'
        )
        raise ValueError(msg)
    return int(bin_)


def _proposed_binning(exposure, encoder):
    """How many pixels to join so that the encoder knows the PSF; 1 if it does."""
    domain = Domain.of(encoder)
    if domain is None or domain.fwhm is None:
        return 1
    ny, nx = exposure.shape
    fwhm = exposure.psf_at(nx // 2, ny // 2).fwhm
    number = math.ceil(fwhm / domain.fwhm[1])
    return max(1, min(number, min(ny, nx) // _LEAST_BINNED))


def _check_density(density, exposure):
    if density is None:
        return None
    if getattr(density, 'unit', None) is not None:
        if not density.unit.is_equivalent(u.pix**-2):
            msg = f'density must be per square pixel, got {density.unit}'
            raise ValueError(msg)
        density = density.to_value(u.pix**-2)
    value = np.asarray(density)
    if value.dtype.kind not in 'fiu':
        msg = f'density must be a real number or a map, got {density!r:.60}'
        raise TypeError(msg)
    value = value.astype(float)
    if value.ndim not in (0, 2) or (value.ndim == 2 and value.shape != exposure.shape):
        msg = (
            f'density must be a number or a map of shape {exposure.shape}, got shape '
            f'{value.shape}'
        )
        raise ValueError(msg)
    if not np.all(np.isfinite(value)) or np.any(value < 0) or not value.max() > 0:
        msg = (
            'density must be finite, not negative and somewhere positive, got '
            f'{first_wrong(value, np.isfinite(value) & (value > 0))}'
        )
        raise ValueError(msg)
    return value


# -- inputs --------------------------------------------------------------------


def _tile_mean(value, grid):
    """Means over tiles of a map, or the scalar itself as 1 x 1."""
    value = np.asarray(value, float)
    if value.ndim == 0:
        return value.reshape(1, 1)
    rows, columns = grid.shape
    size = grid.size
    ny, nx = value.shape
    padded = np.pad(value, ((0, rows * size - ny), (0, columns * size - nx)), 'edge')
    return padded.reshape(rows, size, columns, size).mean((1, 3))


def _block_mean(value, n):
    """Means over n x n pixels of a map, or the scalar itself."""
    value = np.asarray(value, float)
    if value.ndim == 0 or n == 1:
        return value
    ny, nx = (length // n for length in value.shape)
    return value[: ny * n, : nx * n].reshape(ny, n, nx, n).mean((1, 3))


def _psf_maps(exposure, grid, radius):
    """
    Shape and description of the PSF, ``(1, 8, rows, columns)`` or 1 x 1.

    A PSF that varies is looked up on a coarse grid and interpolated.
    """
    rows, columns = grid.shape
    n_rows, n_columns = (-(-n // _PSF_CELL) for n in (rows, columns))
    if exposure._psf_access.varies:
        side = _PSF_CELL * grid.size
        xs = (np.arange(n_columns) + 0.5) * side - 0.5
        ys = (np.arange(n_rows) + 0.5) * side - 0.5
        shapes = exposure.psf_shapes(xs, ys)
    else:
        shapes = exposure.psf_shapes([0], [0])
    shape = torch.from_numpy(np.ascontiguousarray(shapes, dtype=np.float32))[None]
    maps = (shape, describe_shape(shape, radius=radius))
    maps = [value.movedim(-1, 1) for value in maps]
    if not exposure._psf_access.varies:
        return maps
    full = (n_rows * _PSF_CELL, n_columns * _PSF_CELL)
    maps = [torch.nn.functional.interpolate(v, full, mode='bilinear') for v in maps]
    return [value[..., :rows, :columns].contiguous() for value in maps]


def _uncertainties(exposure, encoder, grid, asymmetry):
    """Errors of PSF and background and asymmetry of the PSF, as inputs."""
    if not encoder.config.uncertainties:
        return {}
    device = encoder.device
    if asymmetry is None:
        asymmetry = np.zeros((1, 1, 4))
    asymmetry = torch.from_numpy(asymmetry.astype(np.float32))[None].movedim(-1, 1)
    if max(asymmetry.shape[2:]) > 1:
        asymmetry = torch.nn.functional.interpolate(
            asymmetry, grid.shape, mode='bilinear'
        )
    return {
        'psf_error': torch.full((1, 1, 1, 1), exposure.psf_error, device=device),
        'background_error': torch.full(
            (1, 1, 1, 1), exposure.background_error, device=device
        ),
        'asymmetry': asymmetry.to(device),
    }


def _tensor(value, device):
    value = np.array(value, dtype=np.float32, order='C')
    return torch.from_numpy(value)[None].to(device)


def _even_noise(exposure):
    """
    Noise and gain without the ripples of an interpolation.

    The variance of a resampled pixel follows its place between the pixels
    of the exposure, from one to the next by a factor of up to 4; what it lacks
    its covariances have.  A star has no such ripples, and in units of the noise
    of single pixels it would have.  So the variance is averaged over areas, and
    the gain follows, since sources' noise is interpolated likewise.
    """
    noise, gain = exposure.bkg_error, exposure.effective_gain
    if np.ndim(noise) == 0 or not any(exposure.noise_correlation):
        return noise, gain
    good = (~exposure.mask).astype(np.float32)
    # In units of the noise its squares fit into single precision in any unit.
    scale = np.median(noise[~exposure.mask])
    variance = np.square((noise / scale).astype(np.float32))
    share = gaussian_filter(good, _RIPPLE_SCALE, mode='nearest')
    total = gaussian_filter(variance * good, _RIPPLE_SCALE, mode='nearest')
    some = share > 1e-3
    even = np.where(some, total / np.where(some, share, 1.0), variance)
    return np.sqrt(even) * scale, gain * variance / even


def _pulls(exposure, bkg_error):
    """
    The image above its background in units of its noise; 0 in bad pixels.

    Single precision must not be met before: sky and noise may lie beyond its range.
    """
    pulls = np.empty(exposure.shape, dtype=np.float32)
    parts = [exposure.data, exposure.background, bkg_error, exposure.mask]
    parts = [np.broadcast_to(part, exposure.shape) for part in parts]
    for first in range(0, len(pulls), _ROWS):
        rows = slice(first, first + _ROWS)
        data, background, noise, mask = (part[rows] for part in parts)
        with np.errstate(over='ignore', invalid='ignore'):
            value = np.subtract(data, background, dtype=np.float64) / noise
            pulls[rows] = np.where(mask, 0.0, value)
    return pulls


def _inputs(exposure, encoder, *, flux_min, population='sky'):
    """Encoder inputs of an exposure (density left open) and its flux floor."""
    grid = TileGrid(exposure.shape, encoder.config.tile_size)
    device = encoder.device
    bkg_error, effective_gain = _even_noise(exposure)
    noise = _tile_mean(bkg_error, grid)
    gain = _tile_mean(effective_gain, grid)
    middle = exposure.psf_at(exposure.shape[1] // 2, exposure.shape[0] // 2)
    radius = float(middle.normalization_radius)
    psf, description = _psf_maps(exposure, grid, radius)
    correlation = np.array(exposure.noise_correlation, float)
    image = _pulls(exposure, bkg_error)
    image, asymmetry = match_psf(image, exposure)
    area = np.exp(description[0, 1].double().numpy() + LOG_AREA)
    # The flux of signal-to-noise ratio 1, in the limit of faint sources.
    unit_flux = noise * np.sqrt(area * np.prod(1 + 2 * correlation))
    floor = FLOOR_SNR * unit_flux if flux_min is None else np.full((1, 1), flux_min)
    inputs = EncoderInputs(
        image=torch.from_numpy(image)[None].to(device),
        mask=torch.from_numpy(np.array(exposure.mask))[None].to(device),
        log_noise=_tensor(np.log(noise * gain)[None], device),
        correlation=_tensor(correlation[:, None, None], device),
        psf=psf.to(device),
        log_density=torch.full((1, 1, 1, 1), math.log(_FIRST_DENSITY), device=device),
        log_flux_floor=_tensor(np.log(floor / noise)[None], device),
        normalization_radius=radius,
        description=description.to(device),
        population=torch.full((1, 1, 1, 1), float(population == 'npe'), device=device),
        **_uncertainties(exposure, encoder, grid, asymmetry),
    )
    inputs = encoder.mask_inputs(inputs)
    facts = {
        'psf_area': area,
        'psf_features': description[0].double().numpy(),
        'psf_error': exposure.psf_error,
        'background_error': exposure.background_error,
        'noise': noise * gain,
        'correlation': tuple(correlation),
        'floor_snr': None if flux_min is None else floor / unit_flux,
        **pixel_statistics(image, ~exposure.mask, shape=grid.shape),
    }
    return inputs, floor, facts, grid


# -- network -------------------------------------------------------------------


def _autocast(device):
    """Half precision where the processor computes with it, else none."""
    if device.type == 'cpu' and not _has_fast_bfloat16():
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _has_fast_bfloat16():
    names = ('_is_amx_tile_supported', '_is_avx512_bf16_supported')
    probes = (getattr(torch.cpu, name, None) for name in names)
    return any(probe is not None and probe() for probe in probes)


def _crop(value, rows, columns):
    if value.shape[2] > 1:
        value = value[:, :, rows]
    return value[..., columns] if value.shape[3] > 1 else value


def _window(inputs, rows, columns, size):
    """Inputs of some rows and columns of tiles."""
    pixels = (
        slice(None),
        slice(rows.start * size, rows.stop * size),
        slice(columns.start * size, columns.stop * size),
    )
    maps = {}
    for field in dataclasses.fields(inputs):
        value = getattr(inputs, field.name)
        if isinstance(value, torch.Tensor):
            flat = value.dim() == 3
            maps[field.name] = value[pixels] if flat else _crop(value, rows, columns)
    return dataclasses.replace(inputs, **maps)


def _blocks(shape, n_threads):
    """Rows and columns of tiles of the blocks of an image, one a thread at least."""
    n_spans = [-(-n // _BLOCK) for n in shape]
    axis = int(shape[1] > shape[0])
    if n_spans[0] * n_spans[1] < n_threads:
        # Bands, but no narrower than what their halo costs.
        n_spans[axis] = max(n_spans[axis], min(n_threads, shape[axis] // _LEAST_BAND))
    edges = [
        np.linspace(0, n, k + 1).round().astype(int).tolist()
        for n, k in zip(shape, n_spans, strict=True)
    ]
    return list(itertools.product(*map(itertools.pairwise, edges)))


def _features(encoder, inputs, grid):
    """Features of a large image, block by block with a halo."""
    size = grid.size
    n_rows, n_columns = grid.shape
    halo = -(-encoder.receptive_radius // size)
    blocks = _blocks(grid.shape, (n_workers() or 1))
    out = torch.empty(1, encoder.config.width, n_rows, n_columns, device=encoder.device)

    def fill(block):
        (r, stop_r), (c, stop_c) = block
        top, left = max(0, r - halo), max(0, c - halo)
        bottom = min(n_rows, stop_r + halo)
        right = min(n_columns, stop_c + halo)
        part = _window(inputs, slice(top, bottom), slice(left, right), size)
        with torch.no_grad(), _autocast(encoder.device):
            features = encoder.features(part)
        out[..., r:stop_r, c:stop_c] = features[
            ..., r - top : stop_r - top, c - left : stop_c - left
        ]

    map_threads(fill, blocks)
    return out


def _tile_posterior(encoder, inputs, grid):
    features = _features(encoder, inputs, grid)
    with torch.no_grad():
        half = encoder.device.type != 'cpu' or _has_fast_bfloat16()
        return encoder.posterior(features, inputs, half=half)


def _estimate_density(encoder, inputs, grid):
    """Density of sources by tile from a first pass, smooth over cells."""
    if min(grid.shape) >= 2 * _SAMPLE_PERIOD:
        expected, seen = _sample_counts(encoder, inputs, grid)
    else:
        posterior = _tile_posterior(encoder, inputs, grid)
        expected = posterior.expected_counts()[0].cpu().double().numpy()
        seen = np.ones(grid.shape)
    good = (~inputs.mask[0]).cpu().numpy().astype(float)
    area = seen * _tile_mean(good, grid) * grid.size**2
    overall = (expected.sum() + 0.5) / max(area.sum(), 1.0)
    if min(grid.shape) < 2 * _DENSITY_CELL:
        return np.full((1, 1), overall)
    # The cells' own counts, drawn towards the mean by the weight of 3 sources.
    smooth = {'sigma': _DENSITY_CELL / 2, 'mode': 'nearest'}
    weight = 4 * math.pi * (_DENSITY_CELL / 2) ** 2
    count = gaussian_filter(expected, **smooth) * weight
    seen = gaussian_filter(area, **smooth) * weight
    return (count + 3.0) / (seen + 3.0 / overall)


def _sample_counts(encoder, inputs, grid):
    """
    Expected counts in windows spread over a large image.

    A quarter of the image tells the density as well as it needs to be known.
    Windows have no halo: stars just outside are what training images have too.
    """
    expected, seen = np.zeros(grid.shape), np.zeros(grid.shape)
    length = _SAMPLE_PERIOD // 2
    # Whole windows, evenly spread.
    starts = [
        np.rint(
            (np.arange(n // _SAMPLE_PERIOD) + 0.5) * n / (n // _SAMPLE_PERIOD)
            - length / 2
        ).astype(int)
        for n in grid.shape
    ]
    places = [(r, c) for r in starts[0] for c in starts[1]]
    for first in range(0, len(places), _SAMPLE_BATCH):
        windows = [
            (slice(int(r), int(r) + length), slice(int(c), int(c) + length))
            for r, c in places[first : first + _SAMPLE_BATCH]
        ]
        parts = [_window(inputs, *window, grid.size) for window in windows]
        joined = EncoderInputs.concatenate(parts, tile_size=grid.size)
        with torch.no_grad(), _autocast(encoder.device):
            counts = encoder(joined).expected_counts().cpu().double().numpy()
        for window, own in zip(windows, counts, strict=True):
            expected[window], seen[window] = own, 1
    return expected, seen


def _posterior(
    exposure,
    encoder,
    *,
    density,
    flux_min,
    population,
    estimated,
    cosmic_rays,
    of_psf,
    binning=1,
):
    """The posterior of an exposure's catalogue."""
    image = exposure
    if binning > 1:
        image = exposure.binned(binning)
        cosmic_rays = _block_mean(cosmic_rays, binning) > 0
    inputs, floor, facts, grid = _inputs(
        image, encoder, flux_min=flux_min, population=population
    )
    if density is None:
        by_tile = _estimate_density(encoder, inputs, grid)
        estimated['density'] = 'first pass'
    else:
        by_tile = _tile_mean(_block_mean(density, binning) * binning**2, grid)
    facts['density'] = by_tile
    flags, messages = check_domain(encoder, facts)
    psf_messages, psf_numbers = of_psf
    proposed = _proposed_binning(image, encoder)
    # A PSF that is in doubt may be that of a galaxy, which fewer pixels do not mend.
    if proposed > 1 and messages and not psf_messages:
        messages[0] += (
            f". The PSF is broader than the encoder knows: bin='auto' joins "
            f'{proposed * binning} x {proposed * binning} pixels'
        )
    messages = [*messages, *psf_messages]
    domain = Domain.of(encoder)
    most = 0.02 if domain is None else domain.density[1]
    inputs.log_density = _tensor(np.log(by_tile.clip(1e-7, most))[None], encoder.device)
    tile_posterior = _tile_posterior(encoder, inputs, grid)
    full, message, mostly = check_fullness(encoder, tile_posterior)
    if message is not None and not np.any(flags & full):
        messages.append(message)
    flags = flags | full
    if mostly:
        # Nothing there is worth the time of all that is refined.
        tile_posterior.sequence, tile_posterior.coarse = None, True
    meta = {
        'encoder': encoder.name,
        'encoder_sha256': encoder.card.get('sha256', ''),
        'estimated': estimate_record(exposure, estimated, density=by_tile / binning**2),
        'density': float(np.mean(by_tile)) / binning**2,
        'flux_min': float(np.median(floor)),
    }
    if messages:
        meta['warnings'] = messages
    if psf_numbers:
        meta['psf_comparison'] = psf_numbers
    if binning > 1:
        meta['binning'] = binning
    return CatalogPosterior(
        tile_posterior,
        floor,
        unit=exposure.unit,
        wcs=exposure.wcs,
        flags=_pixel_flags(image, grid, flags, cosmic_rays),
        meta=meta,
        exposure=exposure,
        binning=binning,
        image_shape=exposure.shape,
    )


# -- flags -----------------------------------------------------------------------


def _without_cosmic_rays(exposure, estimated, psf_messages, psf_numbers):
    """Mask what is sharper than the PSF; return its pixels too."""
    # Stars that are narrower than their stated PSF are none.
    width = min(psf_numbers['ratio'], 1.0) if psf_messages and psf_numbers else 1.0
    rays = find_cosmic_rays(exposure, width=width)
    n_rays = int(np.count_nonzero(rays))
    if n_rays:
        how = estimated.get('mask')
        text = f'{n_rays} pixels of cosmic rays, sharper than the PSF'
        estimated['mask'] = f'{how}; {text}' if how else text
        exposure = exposure.replace(mask=exposure.mask | rays)
    return exposure, rays


def _pixel_flags(exposure, grid, by_tile, cosmic_rays):
    ny, nx = exposure.shape
    rows, columns = grid.shape
    size = grid.size
    by_tile = np.broadcast_to(by_tile, (rows, columns))
    flags = by_tile.repeat(size, 0).repeat(size, 1)[:ny, :nx].astype(np.int64)
    near = binary_dilation(exposure.mask, iterations=2)
    flags[near] |= int(CatalogFlag.NEAR_MASKED)
    if exposure.saturated.any():
        near = binary_dilation(exposure.saturated, iterations=4)
        flags[near] |= int(CatalogFlag.SATURATED)
    if cosmic_rays.any():
        near = binary_dilation(cosmic_rays, iterations=2)
        flags[near] |= int(CatalogFlag.COSMIC_RAY)
    edge = np.ones((ny, nx), dtype=bool)
    edge[size : ny - size, size : nx - size] = False
    flags[edge] |= int(CatalogFlag.NEAR_EDGE)
    if ny % size:
        flags[ny - ny % size :] |= int(CatalogFlag.PADDED)
    if nx % size:
        flags[:, nx - nx % size :] |= int(CatalogFlag.PADDED)
    return flags
