# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Worst place of a field: cut-outs of its image and residual, for the report of a run.
"""

import numpy as np

from bliss_astro.checks._self_check import render_rows
from bliss_astro.units import typical

# Side of a cut-out and reach of rows outside it, in pixels.
SIDE, _REACH = 64, 32
# Parts of a self-check that count faults, and the place of the worst of each.
_COUNTS = {'peaks': 'n', 'empty_rows': 'n', 'blocks': 'n_bad'}


def worst_place(catalog):
    """
    Faults of the self-check of a field: numbers and cut-outs around the worst one.

    Parameters
    ----------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        Catalogue as `~bliss_astro.detection.detect_sources` returns it.

    Returns
    -------
    worst : dict
        Nothing where the self-check passed. Else ``n_peaks``, ``n_empty_rows`` and
        ``n_blocks``, numbers of faults; where there is one, its pixel ``x``, ``y``,
        the first pixel of the cut-outs (``corner``), and float16 arrays
        ``cutout_image`` and ``cutout_residual`` of at most 64 x 64 pixels, in units of
        the noise of the sky, NaN in bad pixels. Of several bands the reference band.
    """
    check = catalog.meta.get('check') or {}
    if not check.get('text'):
        return {}
    parts = {name: check.get(name) or {} for name in _COUNTS}
    worst = {f'n_{name}': int(parts[name].get(key, 0)) for name, key in _COUNTS.items()}
    places = [
        part for name, part in parts.items() if worst[f'n_{name}'] and 'x' in part
    ]
    if not places:
        return worst
    x, y = (float(places[0][name]) for name in 'xy')
    exposure, box = catalog.exposure, []
    for place, length in zip((y, x), exposure.shape, strict=True):
        low = min(max(round(place) - SIDE // 2, 0), max(length - SIDE, 0))
        box.append(slice(low, min(low + SIDE, length)))
    box = tuple(box)
    worst |= {'x': x, 'y': y, 'corner': [box[1].start, box[0].start]}
    if exposure.mask[box].all():
        return worst
    return worst | _cutouts(catalog, exposure[box], box)


def _cutouts(catalog, exposure, box):
    """Image and residual of a box in units of the noise of the sky."""
    near = np.ones(len(catalog), dtype=bool)
    for name, side in zip(('y_centroid', 'x_centroid'), box, strict=True):
        values = np.asarray(catalog[name])
        near &= (values > side.start - _REACH) & (values < side.stop + _REACH)
    rows = catalog[near]
    for name, side in zip(('y_centroid', 'x_centroid'), box, strict=True):
        rows[name] = rows[name] - side.start
    model = np.zeros(exposure.shape)
    if len(rows):
        model = render_rows([exposure], [rows])[0][0] * typical(exposure.bkg_error)
    images = exposure.data - exposure.background - np.stack([0 * model, model])
    images = np.where(exposure.mask, np.nan, images / exposure.bkg_error)
    limit = np.finfo(np.float16).max
    image, residual = np.clip(images, -limit, limit).astype(np.float16)
    return {'cutout_image': image, 'cutout_residual': residual}
