# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The door: an image in, a probabilistic catalogue out.
"""

import contextlib
import math
import warnings

import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter

from bliss_astro._warnings import NoDetectionsWarning
from bliss_astro.catalog import CatalogFlag, CatalogPosterior
from bliss_astro.encoders import Encoder, EncoderInputs
from bliss_astro.posteriors import TileGrid, TilePosterior
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS, describe_shape

from ._domain import check_domain
from ._inputs import as_exposure

__all__ = ['detect_sources']

# Signal-to-noise ratio of the faintest source that is looked for.
FLOOR_SNR = 3.4
# Density with which the first pass starts, per pixel.
_FIRST_DENSITY = 1e-3
# Side in tiles of the blocks that a large image is worked through in.
_BLOCK = 128
# Side in tiles of the cells in which the density of sources is estimated.
_DENSITY_CELL = 32


def detect_sources(
    data,
    threshold=0.5,
    *,
    encoder=None,
    psf=None,
    background=None,
    bkg_error=None,
    effective_gain=None,
    mask=None,
    wcs=None,
    density=None,
    flux_min=None,
    n_samples=0,
    rng=None,
    device='auto',
    progress_bar=False,
):
    """
    Detect stars in an image, with probabilities and honest errors.

    The encoder returns a posterior over whole catalogues of the image;
    the table holds the sources whose probability exceeds ``threshold``,
    and keeps the posterior as ``catalog.posterior``.  What is not given is
    estimated from the image, and ``catalog.meta['estimated']`` says how.

    Parameters
    ----------
    data : `~bliss_astro.exposures.Exposure`, `~astropy.nddata.NDData`, \
            `~astropy.units.Quantity` or 2D array_like
        The image.  Integers are cast to floating point.  An
        uncertainty of an NDData is the total error, as in photutils.

    threshold : float, optional
        Smallest probability of a source, between 0 and 1.  This is not
        a brightness, as in photutils' function of the same name.

    encoder : `~bliss_astro.encoders.Encoder`, str or path, optional
        An encoder or the name of one; the bundled ``'stars'`` by default.

    psf : `~bliss_astro.psf.PSFModel` or other PSF, optional
        As for `~bliss_astro.exposures.Exposure`; by default fitted to the
        brighter stars of the image.

    background : float, 2D array_like or Quantity, optional
        What of the sky is still in ``data``.

    bkg_error : float, 2D array_like or Quantity, optional
        Standard deviation of a pixel of empty sky.

    effective_gain : float, 2D array_like or Quantity, optional
        Electrons per unit of ``data``.

    mask : 2D bool array_like, optional
        `True` for bad pixels.

    wcs : WCS object, optional
        Celestial coordinates; adds ``sky_centroid``.

    density : float or 2D array_like, optional
        Prior density of sources per pixel above the flux floor, one number
        or a map over the image; by default from a first pass.

    flux_min : float or Quantity, optional
        Flux floor: the smallest flux of the prior.  By default that at
        which an isolated source has a signal-to-noise ratio of 3.4.

    n_samples : int, optional
        Add columns with that many posterior draws of each source.

    rng : int, `numpy.random.Generator` or None, optional
        For those draws.

    device : str or `torch.device`, optional
        ``'auto'`` takes a GPU if there is one.

    progress_bar : bool, optional
        Show progress.

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

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, detect_sources
    >>> coadd, truth = CoaddSimulator(10).simulate(rng=1)
    >>> catalog = detect_sources(coadd)
    >>> len(catalog) == len(truth)
    True
    """
    _check_threshold(threshold)
    if isinstance(n_samples, bool) or int(n_samples) != n_samples or n_samples < 0:
        msg = f'n_samples must be a whole number, 0 or more, got {n_samples!r}'
        raise ValueError(msg)
    exposure, estimated = as_exposure(
        data,
        psf=psf,
        background=background,
        bkg_error=bkg_error,
        effective_gain=effective_gain,
        mask=mask,
        wcs=wcs,
    )
    encoder = _as_encoder(encoder, device)
    flux_min = _check_flux_min(flux_min, exposure)
    density = _check_density(density, exposure)
    posterior = _posterior(
        exposure,
        encoder,
        density=density,
        flux_min=flux_min,
        estimated=estimated,
        progress_bar=progress_bar,
    )
    catalog = posterior.at_threshold(threshold, n_samples=int(n_samples), rng=rng)
    _flag_blends(catalog, exposure)
    if len(catalog) == 0:
        warnings.warn(
            f'no source has a probability above {threshold}',
            NoDetectionsWarning,
            stacklevel=2,
        )
    return catalog


# -- checks ------------------------------------------------------------------


def _check_threshold(threshold):
    try:
        allowed = 0 < float(threshold) < 1
    except (TypeError, ValueError):
        allowed = False
    if not allowed or isinstance(threshold, bool):
        msg = (
            f'threshold must be a probability between 0 and 1, got {threshold!r}; '
            "photutils' detect_sources takes a brightness here, bliss_astro's does not"
        )
        raise ValueError(msg)


def _as_encoder(encoder, device):
    if encoder is None or not isinstance(encoder, Encoder):
        encoder = Encoder.from_pretrained('stars' if encoder is None else encoder)
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return encoder.to(device)


def _check_flux_min(flux_min, exposure):
    if flux_min is None:
        return None
    if hasattr(flux_min, 'unit'):
        if exposure.unit is None:
            msg = 'flux_min has a unit but data have none'
            raise ValueError(msg)
        flux_min = flux_min.to_value(exposure.unit)
    flux_min = float(flux_min)
    if not (math.isfinite(flux_min) and flux_min > 0):
        msg = f'flux_min must be positive and finite, got {flux_min}'
        raise ValueError(msg)
    return flux_min


def _check_density(density, exposure):
    if density is None:
        return None
    value = np.asarray(density, float)
    if value.ndim not in (0, 2) or (value.ndim == 2 and value.shape != exposure.shape):
        msg = (
            f'density must be a number or a map of shape {exposure.shape}, got shape '
            f'{value.shape}'
        )
        raise ValueError(msg)
    if not np.all(np.isfinite(value)) or np.any(value < 0) or not value.max() > 0:
        msg = 'density must be finite, not negative and somewhere positive'
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


def _psf_map(exposure, grid):
    """Shape parameters ``(8, rows, columns)`` or ``(8, 1, 1)``."""
    if not exposure._psf_access.varies:
        return exposure.psf_shapes([0], [0])[0, 0][:, None, None]
    rows, columns = grid.shape
    centre = grid.size / 2 - 0.5
    xs = np.arange(columns) * grid.size + centre
    ys = np.arange(rows) * grid.size + centre
    return np.moveaxis(exposure.psf_shapes(xs, ys), -1, 0)


def _tensor(value, device):
    value = np.array(value, dtype=np.float32, order='C')
    return torch.from_numpy(value)[None].to(device)


def _inputs(exposure, encoder, *, flux_min):
    """Encoder inputs of an exposure (density left open) and its flux floor."""
    grid = TileGrid(exposure.shape, encoder.config.tile_size)
    device = encoder.device
    noise = _tile_mean(exposure.bkg_error, grid)
    gain = _tile_mean(exposure.effective_gain, grid)
    psf = _psf_map(exposure, grid)
    correlation = np.array(exposure.noise_correlation, float)
    image = np.array(exposure.data, dtype=np.float32)
    image -= np.asarray(exposure.background, dtype=np.float32)
    image /= np.asarray(exposure.bkg_error, dtype=np.float32)
    image[exposure.mask] = 0.0
    radius = float(
        getattr(exposure.psf, 'normalization_radius', DEFAULT_NORMALIZATION_RADIUS)
    )
    shape = torch.from_numpy(np.moveaxis(psf, 0, -1).astype(np.float32))
    area = np.exp(describe_shape(shape, radius=radius)[..., 1].numpy() + 3.3)
    if flux_min is None:
        excess = np.prod(1 + 2 * correlation)
        floor = FLOOR_SNR * noise * np.sqrt(area * excess)
    else:
        floor = np.full((1, 1), flux_min)
    inputs = EncoderInputs(
        image=torch.from_numpy(image)[None].to(device),
        mask=torch.from_numpy(np.array(exposure.mask))[None].to(device),
        log_noise=_tensor(np.log(noise * gain)[None], device),
        correlation=_tensor(correlation[:, None, None], device),
        psf=_tensor(psf, device),
        log_density=torch.full((1, 1, 1, 1), math.log(_FIRST_DENSITY), device=device),
        log_flux_floor=_tensor(np.log(floor / noise)[None], device),
        normalization_radius=radius,
    )
    facts = {
        'psf_area': area,
        'noise': noise * gain,
        'correlation': tuple(correlation),
    }
    return inputs, floor, facts, grid


# -- network -------------------------------------------------------------------


def _autocast(device):
    """Half precision where the processor computes with it, else none."""
    if device.type == 'cpu' and not _has_fast_bfloat16():
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _has_fast_bfloat16():
    probe = getattr(torch.cpu, '_is_amx_tile_supported', None)
    return bool(probe is not None and probe())


def _crop(value, rows, columns):
    if value.shape[2] > 1:
        value = value[:, :, rows]
    return value[..., columns] if value.shape[3] > 1 else value


def _features(encoder, inputs, grid, *, progress_bar=False):
    """Features of a large image, block by block with a halo."""
    size = grid.size
    n_rows, n_columns = grid.shape
    halo = -(-encoder.receptive_radius // size)
    blocks = [
        (r, c) for r in range(0, n_rows, _BLOCK) for c in range(0, n_columns, _BLOCK)
    ]
    if progress_bar:
        from tqdm.auto import tqdm

        blocks = tqdm(blocks, desc='detecting', unit='block')
    out = torch.empty(1, encoder.config.width, n_rows, n_columns, device=encoder.device)
    for r, c in blocks:
        top, left = max(0, r - halo), max(0, c - halo)
        bottom = min(n_rows, r + _BLOCK + halo)
        right = min(n_columns, c + _BLOCK + halo)
        rows, columns = slice(top, bottom), slice(left, right)
        pixels = (
            slice(None),
            slice(top * size, bottom * size),
            slice(left * size, right * size),
        )
        part = EncoderInputs(
            inputs.image[pixels],
            inputs.mask[pixels],
            *(_crop(value, rows, columns) for value in inputs.constants),
            normalization_radius=inputs.normalization_radius,
        )
        with torch.no_grad(), _autocast(encoder.device):
            features = encoder.features(part)
        stop_r, stop_c = min(r + _BLOCK, n_rows), min(c + _BLOCK, n_columns)
        out[..., r:stop_r, c:stop_c] = features[
            ..., r - top : stop_r - top, c - left : stop_c - left
        ]
    return out


def _tile_posterior(encoder, inputs, grid, *, progress_bar=False):
    features = _features(encoder, inputs, grid, progress_bar=progress_bar)
    return TilePosterior(
        features,
        inputs,
        encoder.head,
        tile_size=grid.size,
        patch_radius=encoder.config.patch_radius,
    )


def _estimate_density(encoder, inputs, grid):
    """Density of sources by tile from a first pass, smooth over cells."""
    posterior = _tile_posterior(encoder, inputs, grid)
    with torch.no_grad():
        hidden = posterior.hidden_given(posterior.mode())
        expected = posterior.head.count_factor(hidden).mean[0].cpu().double().numpy()
    good = (~inputs.mask[0]).cpu().numpy().astype(float)
    area = _tile_mean(good, grid) * grid.size**2
    overall = (expected.sum() + 0.5) / max(area.sum(), 1.0)
    if min(grid.shape) < 2 * _DENSITY_CELL:
        return np.full((1, 1), overall)
    # The cells' own counts, drawn towards the mean by the weight of 3 sources.
    smooth = {'sigma': _DENSITY_CELL / 2, 'mode': 'nearest'}
    weight = 4 * math.pi * (_DENSITY_CELL / 2) ** 2
    count = gaussian_filter(expected, **smooth) * weight
    seen = gaussian_filter(area, **smooth) * weight
    return (count + 3.0) / (seen + 3.0 / overall)


def _posterior(exposure, encoder, *, density, flux_min, estimated, progress_bar):
    """The posterior of an exposure's catalogue."""
    inputs, floor, facts, grid = _inputs(exposure, encoder, flux_min=flux_min)
    if density is None:
        by_tile = _estimate_density(encoder, inputs, grid)
        estimated['density'] = 'first pass'
    else:
        by_tile = _tile_mean(density, grid)
    facts['density'] = by_tile
    flags = check_domain(encoder, facts)
    simulated = encoder.card.get('simulation', {}).get('density', (3e-5, 0.02))
    inputs.log_density = _tensor(
        np.log(by_tile.clip(1e-7, simulated[1]))[None], encoder.device
    )
    tile_posterior = _tile_posterior(encoder, inputs, grid, progress_bar=progress_bar)
    meta = {
        'encoder': encoder.name,
        'encoder_sha256': encoder.card.get('sha256', ''),
        'estimated': dict(estimated),
        'density': float(np.mean(by_tile)),
        'flux_min': float(np.median(floor)),
    }
    return CatalogPosterior(
        tile_posterior,
        floor,
        unit=exposure.unit,
        wcs=exposure.wcs,
        flags=_pixel_flags(exposure, grid, flags),
        meta=meta,
    )


# -- flags -----------------------------------------------------------------------


def _pixel_flags(exposure, grid, by_tile):
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
    edge = np.ones((ny, nx), dtype=bool)
    edge[size : ny - size, size : nx - size] = False
    flags[edge] |= int(CatalogFlag.NEAR_EDGE)
    if ny % size:
        flags[ny - ny % size :] |= int(CatalogFlag.PADDED)
    if nx % size:
        flags[:, nx - nx % size :] |= int(CatalogFlag.PADDED)
    return flags


def _flag_blends(catalog, exposure):
    """Flag sources with another detection within 1.5 FWHM."""
    if len(catalog) < 2:
        return
    from scipy.spatial import cKDTree

    ny, nx = exposure.shape
    reach = 1.5 * exposure.psf_at(nx / 2, ny / 2).fwhm
    points = np.column_stack([catalog['x_centroid'], catalog['y_centroid']])
    pairs = cKDTree(points).query_pairs(reach, output_type='ndarray')
    index = np.unique(pairs)
    catalog['flags'][index] |= int(CatalogFlag.BLENDED)
