# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Maps of a survey: depth and completeness by HEALPix pixel, as FITS files.

Each cell of a field adds its depth to the pixels of the places that the field owns. The
completeness follows from the encoder's own numbers: of the sources that it expects, the
share that are rows. As a function of flux it is that of all fields together, in units
of the depth, and moves with the depth of each pixel.
"""

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable

from bliss_astro._arguments import check_choice, check_integer
from bliss_astro._atomic import atomic_write
from bliss_astro._fits import CREATOR
from bliss_astro.catalog._columns import ab_magnitude, has_magnitude

from ._counts import COUNTED, faint_fluxes, parts_of, unlisted
from ._sky import Region, axes_at, pixels_of, to_degrees, to_vectors

# Finest order, and number of pixels that maps have by default at most.
_MAX_ORDER, _N_PIXELS = 12, 4_000_000
# Square degrees of the sky.
_SKY_AREA = 41252.96124941927
# Edges of bins of flux in units of the depth.
_EDGES = np.geomspace(0.2, 20, 61)
_LEVELS = (0.5, 0.9)
# Cosine of the largest distance from the middle of a map in a touching plane.
_PLANE = np.cos(np.radians(40))
# Points that are summed together.
_BATCH = 500_000


def survey_maps(fields, order=None):
    """
    Depth and completeness by HEALPix pixel.

    Parameters
    ----------
    fields : `~bliss_astro.runs._done.Fields`
        The fields.

    order : int, optional
        Order of the nested grid; by default 12 (51 arcsec), or less for a large survey.

    Returns
    -------
    table : `~astropy.table.QTable`
        A row a pixel: ``pixel``; the ``share`` of it that fields cover; ``depth``, of
        several bands ``depth_g`` and so on: AB magnitude, or flux, of a star of a
        signal-to-noise ratio of 5; ``expected`` sources per square arcmin, and
        ``listed``, the share of them that are rows; ``limit_50``, ``limit_90``: where
        the completeness is 50 and 90 %. ``meta`` has the ``order``, and the
        ``completeness`` at ``relative_flux``, in units of the depth.
    """
    if order is None:
        area = sum(np.prod(f.sky.shape) * (f.sky.scale / 3600) ** 2 for f in fields.all)
        order = np.log2(_N_PIXELS * _SKY_AREA / area / 12) / 2
        order = int(np.clip(order, 0, _MAX_ORDER))
    order = check_integer('order', order, 0, 29, error=ValueError)
    bands = list(dict.fromkeys(b for f in fields.all for b in f.numbers['limits']))
    curve, parts = np.zeros((2, len(_EDGES) - 1)), []
    for part in parts_of(fields, Region.of(None), [*COUNTED, 'flux']):
        parts += _sums(part, bands, curve)
        if sum(len(pixels) for pixels, _ in parts) > _BATCH:
            parts = [_summed(parts, order)]
    pixels, sums = _summed(parts, order)
    covered = sums[0] > 0
    area, faint, listed, *sums = sums[:, covered]
    unit = u.Unit(fields.all[0].numbers['unit'] or '')
    side = _SKY_AREA * 3600 / (12 * 4**order)
    table = QTable({'pixel': pixels[covered], 'share': (area / side).clip(max=1)})
    with np.errstate(invalid='ignore', divide='ignore'):
        pairs = zip(sums[::2], sums[1::2], strict=True)
        depths = [flux / seen * unit for flux, seen in pairs]
        for band, depth in zip(bands, depths, strict=True):
            name = f'depth_{band}' if len(bands) > 1 else 'depth'
            table[name] = _magnitude(depth)
        table['expected'] = (faint + listed) / area / u.arcmin**2
        table['listed'] = listed / (faint + listed)
        share = curve[0] / curve[1]
    middles = np.sqrt(_EDGES[1:] * _EDGES[:-1])
    for level in _LEVELS:
        # From the bright end, where bins without sources say nothing.
        above = np.flatnonzero(np.nan_to_num(share, nan=1.0) < level)
        factor = _EDGES[above[-1] + 1] if len(above) else np.nan
        table[f'limit_{100 * level:.0f}'] = _magnitude(factor * depths[0])
    table.meta = {'order': order, 'relative_flux': middles, 'completeness': share}
    return table


def _magnitude(flux):
    return ab_magnitude(flux) if has_magnitude(flux.unit) else flux


def _sums(part, bands, curve):
    """
    Unit vectors and sums of a field, of the cells that it owns and of its rows.

    Sums are the area in square arcmin, sources that are not listed, and those that are,
    and for each band flux at the depth and area. Adds to the listed and expected
    numbers by flux.
    """
    field, (_, n, *_) = part.field, part.shape
    left = part.at_points(unlisted(part) / n**2)
    # Cells at the far edges are smaller.
    ny, nx = field.sky.shape
    cell = field.numbers['cell']
    sides = [
        np.diff([*range(0, k, cell), k]) / n * field.sky.scale / 60 for k in (ny, nx)
    ]
    area = part.at_points(sides[0][:, None] * sides[1])
    sums = [area, left, np.zeros(len(area))]
    for band in bands:
        middle = field.numbers['limits'].get(band)
        if middle is None:
            sums += [np.zeros((2, len(area)))]
            continue
        limit = middle * 10 ** (-0.4 * field.arrays[f'depth_{band}'].astype(float))
        limit = part.at_points(limit)
        known = np.isfinite(limit)
        sums += [np.where(known, limit * area, 0), np.where(known, area, 0)]
    yield part.points, np.vstack(sums)
    p, flux = (
        part.rows[name].to_numpy()[part.own_rows] for name in ('probability', 'flux')
    )
    sums = np.zeros((3 + 2 * len(bands), len(p)))
    sums[2] = p
    yield part.places, sums
    middle = field.numbers['limits'].get(bands[0])
    if middle is not None:
        fluxes, share = faint_fluxes(field.numbers)
        bright = np.histogram(flux / middle, _EDGES, weights=p)[0]
        faint = np.histogram(fluxes / middle, _EDGES, weights=share * left.sum())[0]
        curve += bright, bright + faint


def _summed(parts, order):
    """Sums by pixel of those before, and of parts at unit vectors."""
    before, vectors = ([p for p, _ in parts if p.ndim == k] for k in (1, 2))
    pixels = pixels_of(order, *to_degrees(np.concatenate(vectors)))
    pixels, inverse = np.unique(np.concatenate([*before, pixels]), return_inverse=True)
    sums = np.concatenate([sums for _, sums in parts], axis=1)
    return pixels, np.stack([np.bincount(inverse, v, len(pixels)) for v in sums])


def write_map(table, names, path):
    """Write columns of a map as FITS, in the form of partial HEALPix maps."""
    columns = [fits.Column('PIXEL', 'K', array=table['pixel'])]
    for name in names:
        values = u.Quantity(table[name])
        unit = values.unit.to_string() or None
        array = values.value.astype('f4')
        columns.append(fits.Column(name.upper(), 'E', unit=unit, array=array))
    hdu = fits.BinTableHDU.from_columns(columns, name='MAP')
    order = table.meta['order']
    hdu.header.update(PIXTYPE='HEALPIX', ORDERING='NESTED', NSIDE=2**order, ORDER=order)
    hdu.header.update(INDXSCHM='EXPLICIT', OBJECT='PARTIAL', COORDSYS='C')
    hdus = [fits.PrimaryHDU(), hdu]
    hdus[0].header['CREATOR'] = CREATOR
    if 'listed' in names:
        curve = [
            fits.Column(name.upper(), 'D', array=table.meta[name])
            for name in ('relative_flux', 'completeness')
        ]
        hdus.append(fits.BinTableHDU.from_columns(curve, name='CURVE'))
    with atomic_write(path, overwrite=True) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True, checksum=True)


def plot_map(table, name, ax=None):
    """Draw a column of maps around the middle of the survey; return the axes."""
    import matplotlib.pyplot as plt
    from astropy_healpix import boundaries_lonlat
    from matplotlib.collections import PolyCollection

    check_choice('column', name, table.colnames[1:])
    nside = 2 ** table.meta['order']
    corners = boundaries_lonlat(table['pixel'], 1, nside, order='nested')
    vectors = to_vectors(*(angle.deg for angle in corners))
    middle = vectors.mean((0, 1))
    middle /= np.linalg.norm(middle)
    ra, dec = to_degrees(middle)
    if (vectors @ middle).min() > _PLANE:
        places = np.degrees(vectors @ axes_at(middle).T / (vectors @ middle)[..., None])
        labels = [f'{way} of {at:.4f}' for way, at in (('east', ra), ('north', dec))]
    else:
        # From the opposite side of the sky on, where few surveys are.
        own = to_degrees(vectors)
        places = np.stack([(own[0] - ra + 180) % 360 - 180 + ra, own[1]], -1)
        labels = ['right ascension', 'declination']
    ax = plt.gca() if ax is None else ax
    values = u.Quantity(table[name])
    drawn = PolyCollection(places, array=values.value, edgecolors='face')
    ax.add_collection(drawn)
    ax.autoscale_view()
    ax.xaxis.set_inverted(True)
    ax.set(xlabel=f'{labels[0]} (deg)', ylabel=f'{labels[1]} (deg)')
    unit = f' ({values.unit})' if values.unit != u.one else ''
    ax.figure.colorbar(drawn, ax=ax, label=f'{name}{unit}')
    return ax
