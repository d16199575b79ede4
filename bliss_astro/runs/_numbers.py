# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Numbers of a mosaic that are not given: sky on a mesh, noise, gain, correlation, PSF.

They are measured as those of one image are, of its chunks and of a sample.
"""

import json

import numpy as np

from bliss_astro._sample import Sample, indices
from bliss_astro._warnings import collect_warnings
from bliss_astro.detection._estimates import as_exposure
from bliss_astro.exposures._areas import has_steps
from bliss_astro.exposures._mesh import CELL, MeshFrame, Section, SkyMesh
from bliss_astro.exposures._sky import estimate_background_error, measure_sky, step_of

from ._chunk import MosaicField, put_part, state_of_psf
from ._sections import as_pixels, is_array, is_measured

# Numbers for all pixels of an image that are taken over where they are estimated.
_NUMBERS = 'bkg_error', 'effective_gain', 'noise_correlation', 'weight_scale'
# In their place where pixels alone are wanted: nothing is estimated then.
_PIXELS = {'background': 0.0, 'bkg_error': 1.0, 'effective_gain': 1.0}
_PIXELS |= {'noise_correlation': (0.0, 0.0), 'weight_scale': None}
_PIXELS |= {'psf': None, 'fwhm': None, 'zero_point': None}
# Relative scatter of the widths of stars about the PSF of a mosaic, beyond that of
# their errors, from which on each chunk has its own.
_PSF_SCATTER = 0.04


def sample_of(fields):
    """A field of the `Sample` of a mosaic, whose arrays are put together of chunks."""
    one, parts, sample = fields[0], {}, Sample(fields[0].options['shape'])

    def gathered(get):
        value = get(one)
        if isinstance(value, dict):
            return {key: gathered(lambda f, k=key: get(f)[k]) for key in value}
        pixels = one._part(value)
        shape = tuple(part.stop - part.start for part in one.cut)
        if pixels is value or not is_array(pixels) or pixels.shape != shape:
            return value
        found = [(field, field._part(get(field))) for field in fields]
        return put_part(_put_together(found, sample), parts)

    files = gathered(lambda field: field.files)
    options = gathered(lambda field: field.options)
    own = {'files': files, 'options': options, 'group': one.group}
    return MosaicField.of(one.id, parts=one.parts | parts, **own), sample


def _put_together(pairs, sample):
    """The sample of an array of which each field has its own pixels."""
    whole = None
    for field, pixels in pairs:
        at, own = [], []
        for part, cut in zip(field.owned_cut, sample.cut, strict=True):
            index = indices(cut)
            at.append(np.flatnonzero((index >= part.start) & (index < part.stop)))
            own.append(index[at[-1]])
        if not all(map(len, own)):
            continue
        rows, columns = (i - cut.start for i, cut in zip(own, field.cut, strict=True))
        some = pixels[rows][:, columns]
        some = as_pixels(some, [slice(0, n) for n in some.shape])
        if whole is None:
            whole = np.zeros(sample.shape, some.dtype)
            whole = whole if getattr(some, 'unit', None) is None else whole << some.unit
        whole[np.ix_(*at)] = some
    return whole


def measure_numbers(field, sample, band, run):
    """
    Numbers of a mosaic that were not given, in one band, and the mesh of its sky.

    They are of a field of its sample, and of chunks: ``run(function, of)`` calls a
    function with each and what ``of`` returns for it.
    """
    given, mesh, own = field.given(band), None, {}
    if is_measured(given.get('background')):
        with collect_warnings():
            pixels = _read_pixels(field, band, sample.cut)

        def each(function, of):
            found = run(on_section, lambda f: (band, function, *of(section_of(f))))
            return [one for one in found if one is not None]

        mesh, *_ = measure_sky(
            *(each, pixels.data, pixels.mask, sample),
            quantum=step_of(pixels),
            correlation=given.get('noise_correlation'),
            # As the boxes of chunks have it, also where an image is narrow.
            box_size=CELL,
        )
        given['background'] = mesh.at(sample.cut)
    changes = {'background': given['background'], 'zero_point': None}
    with collect_warnings():
        exposure = field.read(band, sample.cut, **changes)
    sources = dict(exposure.meta.get('estimated') or {})
    for name in _NUMBERS:
        value = exposure.meta.get(name, getattr(exposure, name, None))
        if name in sources | exposure.meta and np.size(value) <= 2:
            own[name] = np.ravel(value).tolist()
            own[name] = own[name] if np.ndim(value) else own[name][0]
    if mesh is not None:
        sources['background'] = 'mesh as of photutils Background2D'
        own['mask_dark'] = not has_steps(exposure)
        if 'background_error' not in given:
            own['background_error'] = estimate_background_error(exposure)
            exposure = exposure.replace(background_error=own['background_error'])
    if exposure.psf is None:
        exposure, found = as_exposure(exposure, sample=sample)
        info = exposure.psf.fit_info
        scatter = info.get('width_scatter', 0.0)
        if not _PSF_SCATTER < scatter <= exposure.psf_error:
            sources['psf'] = found['psf'].replace('the image', 'the mosaic')
            own['psf_state'] = json.dumps(
                state_of_psf(exposure.psf, exposure.psf_error)
            )
    names = {'background', 'psf', *own} & set(sources)
    own['sources'] = json.dumps({name: sources[name] for name in sorted(names)})
    return own, mesh


def _read_pixels(field, band, cut):
    """Pixels of a field, and which are bad: without weight too, if there are any."""
    weighted = field.given(band).get('weight') is not None
    own = {'bkg_error': None, 'weight_scale': 1.0} if weighted else {}
    return field.read(band, cut, **_PIXELS | own)


def section_of(field):
    """Section of a chunk."""
    return Section(field.cut, tuple(slice(*own) for own in field.owned[::-1]))


def on_section(field, band, function, *args):
    """Section of a chunk and a function of its pixels, or None."""
    section = section_of(field)
    try:
        with collect_warnings():
            pixels = _read_pixels(field, band, field.cut)
    except Exception:  # noqa: BLE001 (the run says of which chunk and why)
        return None
    return section, function(pixels.data, pixels.mask, section, *args)


# -- as text -----------------------------------------------------------------------


def text_of_mesh(mesh):
    """All of a `SkyMesh` but the values of its cells, as JSON."""
    return json.dumps(vars(mesh) | {'values': None, 'frame': vars(mesh.frame)})


def mesh_of_text(text, values):
    """`SkyMesh` of such a text, and of values."""
    facts = json.loads(text, object_hook=_with_tuples)
    facts |= {'frame': MeshFrame(**facts['frame']), 'values': values}
    return SkyMesh(**facts)


def _with_tuples(facts):
    return {k: _as_tuple(v) for k, v in facts.items()}


def _as_tuple(value):
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
